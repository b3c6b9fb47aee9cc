//! The course of a run: everybody connects, the load runs, the last messages arrive, everybody leaves.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::counters::Outcome;
use crate::engine;
use crate::plan::Kind;
use crate::process::{self, SECOND, Usage, now};
use crate::shared::{Phase, Schedule, Shared};

/// How often it is looked at how far the run is.
const LOOK: Duration = Duration::from_millis(10);
/// From the last connection to the first message: the time in which all threads learn of it.
const BEFORE_START: u64 = SECOND / 50;
/// `conn` gives up after so many failures without a success.
const HOPELESS: u64 = 1_000;

/// Why the load ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// The time was over.
    Duration,
    /// All messages were sent.
    Messages,
    /// Ctrl-C, or SIGTERM.
    Interrupted,
    /// All publishers, or all subscribers, were gone.
    ConnectionsLost,
    /// Not all connections came up: there was no load.
    NotConnected,
}

/// What the machine says at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Nanoseconds of the monotonic clock.
    pub(crate) at: u64,
    /// Processor time of this process in nanoseconds.
    pub(crate) own_cpu: u64,
    /// Of each process that is watched; `None`: it is gone.
    pub(crate) watched: Vec<Option<Usage>>,
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Course {
    pub(crate) ended: Ended,
    /// Before the first connection.
    pub(crate) begin: Sample,
    /// When all were connected.
    pub(crate) connected: Sample,
    /// Measuring began; ended.
    pub(crate) measure: (Sample, Sample),
    /// When the last message had come, or was not waited for any more.
    pub(crate) drained: u64,
    pub(crate) outcome: Outcome,
}

/// Runs it.
///
/// # Errors
/// It could not begin, or a thread could not go on.
pub(crate) async fn conduct(shared: &Arc<Shared>) -> Result<Course, String> {
    let begin = sample(shared);
    let mut threads = Vec::new();
    for me in 0..shared.plan.threads {
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name(format!("bench-{me}"));
        let thread = thread.spawn(move || {
            let result = engine::run(&shared, me);
            if result.is_err() {
                // The others end too.
                shared.set_phase(Phase::End);
            }
            result
        });
        threads.push(thread.map_err(|error| format!("cannot start a thread: {error}"))?);
    }
    let mut conductor = Conductor::new(shared, begin.at);
    let course = conductor.course(begin).await;
    shared.set_phase(Phase::End);
    let mut outcome = Outcome::new();
    for thread in threads {
        outcome.merge(&thread.join().map_err(|_| "a thread of the load generator panicked")??);
    }
    Ok(Course { outcome, ..course })
}

fn sample(shared: &Shared) -> Sample {
    let watched = shared.plan.options.watch_pid.iter().map(|pid| process::usage(*pid)).collect();
    Sample { at: now(), own_cpu: process::own_cpu(), watched }
}

struct Conductor<'a> {
    shared: &'a Shared,
    progress: bool,
    began: u64,
    shown: u64,
    /// Sent, delivered and connected when progress was shown last.
    last: [u64; 3],
    interrupts: tokio::sync::mpsc::Receiver<()>,
}

impl<'a> Conductor<'a> {
    fn new(shared: &'a Shared, began: u64) -> Self {
        let (sender, interrupts) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                let seen = tokio::select! {
                    seen = interrupt.recv() => seen,
                    seen = terminate.recv() => seen,
                };
                if seen.is_none() || sender.send(()).await.is_err() {
                    return;
                }
            }
        });
        let progress = shared.plan.options.progress.unwrap_or_else(|| std::io::stderr().is_terminal());
        Self { shared, progress, began, shown: began, last: [0; 3], interrupts }
    }

    /// True: Ctrl-C, or SIGTERM.
    async fn look(&mut self, until: u64) -> bool {
        let wait = LOOK.min(Duration::from_nanos(until.saturating_sub(now())));
        let interrupted = tokio::select! {
            interrupt = self.interrupts.recv() => interrupt.is_some(),
            () = tokio::time::sleep(wait) => false,
        };
        self.show();
        interrupted
    }

    async fn course(&mut self, begin: Sample) -> Course {
        let early = self.connect().await;
        let connected = sample(self.shared);
        let mut course = Course {
            ended: early.unwrap_or(Ended::Duration),
            begin,
            measure: (connected.clone(), connected.clone()),
            drained: connected.at,
            connected,
            outcome: Outcome::new(),
        };
        if early.is_none() {
            self.load(&mut course).await;
            self.shared.set_phase(Phase::Drain);
            self.drain().await;
            course.drained = now();
        }
        course
    }

    /// Until all are connected; or why there will be no load.
    async fn connect(&mut self) -> Option<Ended> {
        let plan = &self.shared.plan;
        let all = u64::from(plan.publishers) + u64::from(plan.subscribers);
        loop {
            let (connected, failed) = (self.shared.sum(|live| &live.connected), self.shared.sum(|live| &live.failed));
            let hopeless = match plan.kind {
                Kind::Conn => failed >= HOPELESS.min(all) && connected == 0,
                _ => failed > 0,
            };
            if hopeless {
                return Some(Ended::NotConnected);
            }
            if connected + failed >= all {
                return None;
            }
            if self.shared.phase() == Phase::End {
                return Some(Ended::NotConnected);
            }
            if self.look(u64::MAX).await {
                return Some(Ended::Interrupted);
            }
        }
    }

    async fn load(&mut self, course: &mut Course) {
        let plan = &self.shared.plan;
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let start = now() + BEFORE_START;
        let measure = start.saturating_add(nanoseconds(plan.warmup));
        let end = plan.duration.map_or(u64::MAX, |time| measure.saturating_add(nanoseconds(time)));
        // Set once, here.
        let _ = self.shared.schedule.set(Schedule { start, measure, end });
        self.shared.set_phase(Phase::Load);
        let mut measuring = false;
        course.ended = loop {
            let at = now();
            if !measuring && at >= measure {
                measuring = true;
                course.measure.0 = sample(self.shared);
                // What the machine says is of some microseconds later; what is counted is from then on.
                course.measure.0.at = measure;
            }
            if at >= end {
                break Ended::Duration;
            }
            if let Some(ended) = self.is_over() {
                break ended;
            }
            if self.look(if measuring { end } else { measure }).await {
                break Ended::Interrupted;
            }
        };
        course.measure.1 = sample(self.shared);
        course.measure.1.at = course.measure.1.at.min(end);
        if !measuring {
            course.measure.0 = course.measure.1.clone();
        }
    }

    fn is_over(&self) -> Option<Ended> {
        let plan = &self.shared.plan;
        let done = if plan.kind == Kind::Sub {
            self.shared.sum(|live| &live.delivered)
        } else {
            self.shared.sum(|live| &live.sent)
        };
        if plan.messages.is_some_and(|messages| done >= messages) {
            return Some(Ended::Messages);
        }
        let none = |wanted: u32, there: u64| wanted > 0 && there == 0;
        let (publishers, subscribers) = self.present();
        (none(plan.publishers, publishers) || none(plan.subscribers, subscribers)).then_some(Ended::ConnectionsLost)
    }

    fn present(&self) -> (u64, u64) {
        (self.shared.sum(|live| &live.publishers), self.shared.sum(|live| &live.subscribers))
    }

    /// Until everything has come that can come, or nothing has come for too long.
    async fn drain(&mut self) {
        let plan = &self.shared.plan;
        let timeout = plan.options.timeout.get().as_nanos() as u64;
        let (mut before, mut since) = (None, now());
        loop {
            let stopped = self.shared.threads.iter().all(|thread| thread.live.stopped.load(Ordering::Acquire) == 1);
            let sent = self.shared.sum(|live| &live.sent);
            let answered = self.shared.sum(|live| &live.acknowledged) + self.shared.sum(|live| &live.refused);
            let delivered = self.shared.sum(|live| &live.delivered);
            let (publishers, subscribers) = self.present();
            let blocked = self.shared.sum(|live| &live.blocked);
            let all_answered = plan.qos == raftmq_mqtt::QoS::AtMostOnce || plan.publishers == 0 || answered >= sent;
            let all_delivered = !plan.kind.is_end_to_end() || delivered >= sent * u64::from(plan.copies());
            if stopped
                && (all_answered || publishers == 0)
                && (all_delivered || subscribers == 0)
                && (blocked == 0 || publishers == 0)
            {
                return;
            }
            let state = Some((answered, delivered, blocked, sent));
            if state != before {
                (before, since) = (state, now());
            }
            if now().saturating_sub(since) > timeout || self.shared.phase() == Phase::End || self.look(u64::MAX).await {
                return;
            }
        }
    }

    /// A line a second.
    fn show(&mut self) {
        let at = now();
        if !self.progress || at - self.shown < SECOND {
            return;
        }
        let seconds = (at - self.shown) as f64 / SECOND as f64;
        let numbers = [
            self.shared.sum(|live| &live.sent),
            self.shared.sum(|live| &live.delivered),
            self.shared.sum(|live| &live.connected),
        ];
        let rates = [0, 1, 2].map(|n| (numbers[n] - self.last[n]) as f64 / seconds);
        let errors = self.shared.sum(|live| &live.errors);
        let plan = &self.shared.plan;
        let elapsed = (at - self.began) / SECOND;
        let text = match self.shared.phase() {
            Phase::Connect => {
                let all = u64::from(plan.publishers) + u64::from(plan.subscribers);
                format!("connected {} of {all} ({:.0}/s)", numbers[2], rates[2])
            }
            _ if plan.kind == Kind::Conn => format!("{} connections stay", self.shared.sum(|live| &live.subscribers)),
            _ => {
                let mut text = Vec::new();
                if plan.publishers > 0 {
                    text.push(format!("sent {:.0}/s", rates[0]));
                }
                if plan.subscribers > 0 {
                    text.push(format!("delivered {:.0}/s", rates[1]));
                }
                text.join(", ")
            }
        };
        eprintln!("{elapsed:4} s: {text}, {errors} errors");
        (self.shown, self.last) = (at, numbers);
    }
}
