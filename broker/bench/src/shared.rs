//! What the threads of a run have in common.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::counters::Live;
use crate::plan::Plan;
use crate::window::Window;

/// How far the run is. Only ever forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Clients connect.
    Connect = 0,
    /// The load runs, by the schedule.
    Load = 1,
    /// Nothing is published any more.
    Drain = 2,
    /// Clients disconnect, threads end.
    End = 3,
}

/// When what happens, on the monotonic clock in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) start: u64,
    /// The end of the warm-up.
    pub(crate) measure: u64,
    /// `u64::MAX`: no end by time.
    pub(crate) end: u64,
}

/// One run.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    phase: AtomicU8,
    pub(crate) schedule: OnceLock<Schedule>,
    /// One a publisher, where deliveries open the window.
    pub(crate) windows: Vec<Window>,
    pub(crate) threads: Vec<Mailbox>,
}

/// How a thread is reached.
pub(crate) struct Mailbox {
    pub(crate) live: Live,
    /// Its publishers whose window was opened by other threads: each at most once, until it looks.
    opened: Mutex<Vec<u32>>,
    wake: OwnedFd,
}

impl Mailbox {
    fn new() -> Result<Self, String> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|error| format!("cannot make an eventfd: {error}"))?;
        Ok(Self { live: Live::default(), opened: Mutex::default(), wake })
    }

    pub(crate) const fn wake_fd(&self) -> &OwnedFd {
        &self.wake
    }

    pub(crate) fn wake(&self) {
        // Full: the thread has been woken often enough.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(crate) fn woken(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Windows of these publishers are open again; the list is empty afterwards.
    pub(crate) fn open(&self, slots: &mut Vec<u32>) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).append(slots);
        self.wake();
    }

    pub(crate) fn take_opened(&self, to: &mut Vec<u32>) {
        to.append(&mut self.opened.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    pub(crate) fn new(plan: Plan) -> Result<Self, String> {
        let copies = plan.copies();
        let windows = if plan.kind.is_end_to_end() {
            let of = |index| {
                let (thread, slot) = plan.place_of(index);
                Window::new(plan.window, copies, thread, slot)
            };
            (0..plan.publishers).map(of).collect()
        } else {
            Vec::new()
        };
        let threads = (0..plan.threads).map(|_| Mailbox::new()).collect::<Result<_, _>>()?;
        Ok(Self { plan, phase: AtomicU8::new(0), schedule: OnceLock::new(), windows, threads })
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Connect,
            1 => Phase::Load,
            2 => Phase::Drain,
            _ => Phase::End,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Release);
        self.threads.iter().for_each(Mailbox::wake);
    }

    /// The sum of a number over all threads.
    pub(crate) fn sum(&self, number: impl Fn(&Live) -> &std::sync::atomic::AtomicU64) -> u64 {
        self.threads.iter().map(|thread| number(&thread.live).load(Ordering::Relaxed)).sum()
    }
}
