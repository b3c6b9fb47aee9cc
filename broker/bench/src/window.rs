//! The window of publishers whose messages count as in flight until all their subscribers have them.
//!
//! It closes the loop at QoS 0, where nothing is acknowledged: no more than the window is on its way, so that a broker at saturation has no
//! reason to drop anything. Publishers and subscribers may be on different threads; the numbers are atomic, and whoever delivers the message
//! that a publisher waits for wakes its thread.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The window of one publisher. Only its own thread sends, every thread delivers.
#[derive(Debug)]
pub(crate) struct Window {
    size: u64,
    /// How many have to get each message.
    copies: AtomicU32,
    /// Of each message in flight, by its number modulo the length: how many do not have it yet. Empty where there is one copy.
    remaining: Box<[AtomicU32]>,
    /// Messages that all have.
    completed: AtomicU64,
    /// Messages that are not waited for any more.
    given_up: AtomicU64,
    /// The publisher waits for room.
    waiting: AtomicBool,
    /// Where the publisher is.
    pub(crate) thread: usize,
    /// Which of its thread's clients it is.
    pub(crate) slot: u32,
}

impl Window {
    /// For `size` messages with so many copies each; the publisher is client `slot` of a thread.
    pub(crate) fn new(size: u16, copies: u32, thread: usize, slot: u32) -> Self {
        let length = if copies > 1 { usize::from(size).next_power_of_two() } else { 0 };
        Self {
            size: u64::from(size),
            copies: AtomicU32::new(copies),
            remaining: (0..length).map(|_| AtomicU32::new(0)).collect(),
            completed: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            thread,
            slot,
        }
    }

    /// Whether another message may be sent after `sent` ones. If not, the publisher waits: the next delivery that makes
    /// room says so.
    pub(crate) fn has_room(&self, sent: u64) -> bool {
        if self.in_flight(sent) < self.size {
            return true;
        }
        self.waiting.store(true, Ordering::SeqCst);
        // What was delivered before the flag was up woke nobody.
        if self.in_flight(sent) < self.size {
            self.waiting.store(false, Ordering::SeqCst);
            return true;
        }
        false
    }

    fn in_flight(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.completed.load(Ordering::SeqCst) + self.given_up.load(Ordering::Relaxed))
    }

    /// Message `number` is being sent.
    pub(crate) fn send(&self, number: u64) {
        if let Some(remaining) = self.slot_of(number) {
            remaining.store(self.copies.load(Ordering::Relaxed), Ordering::Release);
        }
    }

    /// A subscriber has message `number`, or will never have it. True: the publisher waited and has room now.
    pub(crate) fn deliver(&self, number: u64) -> bool {
        if let Some(remaining) = self.slot_of(number) {
            let before = remaining.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
            if before != Ok(1) {
                return false;
            }
        }
        self.completed.fetch_add(1, Ordering::SeqCst);
        self.waiting.load(Ordering::SeqCst) && self.waiting.swap(false, Ordering::SeqCst)
    }

    /// A subscriber is gone: from now on messages have a copy less.
    pub(crate) fn one_less(&self) {
        // No copies at all: nothing is waited for but the time after which it is given up.
        let _ = self.copies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |copies| copies.checked_sub(1));
    }

    /// After `sent` messages: what is in flight is not waited for any more.
    pub(crate) fn give_up(&self, sent: u64) {
        self.given_up.fetch_add(self.in_flight(sent), Ordering::Relaxed);
    }

    fn slot_of(&self, number: u64) -> Option<&AtomicU32> {
        // The length is a power of two, or 0.
        self.remaining.get(number as usize & self.remaining.len().wrapping_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_when_all_copies_are_there() {
        let window = Window::new(3, 2, 0, 0);
        for number in 0..3 {
            assert!(window.has_room(number));
            window.send(number);
        }
        assert!(!window.deliver(0) && !window.has_room(3));
        assert!(!window.deliver(1) && !window.has_room(3));
        // The second copy of the first message, and the publisher waits.
        assert!(window.deliver(0));
        assert!(window.has_room(3));
        window.send(3);
        assert!(!window.has_room(4));
        assert!(window.deliver(1), "the second copy of another one");
        // A copy too many changes nothing.
        assert!(!window.deliver(1));
    }

    #[test]
    fn one_copy_needs_no_ring() {
        let window = Window::new(1, 1, 0, 0);
        assert!(window.has_room(0));
        window.send(0);
        assert!(!window.has_room(1));
        assert!(window.deliver(0));
        assert!(!window.deliver(1), "nobody waits");
    }

    #[test]
    fn what_is_given_up_makes_room() {
        let window = Window::new(2, 2, 0, 0);
        window.send(0);
        window.send(1);
        assert!(!window.has_room(2));
        window.give_up(2);
        window.one_less();
        assert!(window.has_room(2));
        window.send(2);
        window.send(3);
        assert!(!window.has_room(4));
        assert!(window.deliver(2));
    }

    /// No wake-up is lost between a publisher that begins to wait and a subscriber that delivers.
    #[test]
    fn threads() {
        let window = Window::new(1, 1, 0, 0);
        let sent = AtomicU64::new(0);
        let woken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..20_000 {
                    while sent.load(Ordering::SeqCst) <= number {
                        std::thread::yield_now();
                    }
                    woken.fetch_add(u64::from(window.deliver(number)), Ordering::SeqCst);
                }
            });
            for number in 0..20_000 {
                let mut known = woken.load(Ordering::SeqCst);
                while !window.has_room(number) {
                    let begin = std::time::Instant::now();
                    while woken.load(Ordering::SeqCst) == known {
                        assert!(begin.elapsed().as_secs() < 10, "nobody woke the publisher");
                        std::thread::yield_now();
                    }
                    known = woken.load(Ordering::SeqCst);
                }
                window.send(number);
                sent.store(number + 1, Ordering::SeqCst);
            }
        });
    }
}
