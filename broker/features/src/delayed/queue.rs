//! Messages that wait for their time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use raftmq_mqtt::Message;

use super::DelayedSettings;

/// What a message costs besides its own bytes: the entry and the two counts of the shared allocation.
const OVERHEAD: usize = size_of::<Waiting>() + 16;

/// What became of a message that was to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// It waits.
    Waits,
    /// It expires before it is due, or right then: it is gone (`[MQTT-3.3.2-5]`). To its publisher that is no error.
    Expires,
    /// Too many messages or bytes wait: it is gone. Answer Quota exceeded, 0x97, where an answer can be given.
    Full,
}

/// What happened since the queue was made; for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DelayCounts {
    /// Messages that began to wait.
    pub accepted: u64,
    /// Messages whose time came.
    pub published: u64,
    /// Messages dropped because they expire before they are due, or because they were taken out too late.
    pub expired: u64,
    /// Messages dropped because the queue was full.
    pub refused: u64,
}

/// Messages that wait for their time: bounded by number and bytes, the earliest first, those of one moment in the
/// order in which they came.
///
/// A heap of 32 bytes a message, beside the message itself. All times are Unix time in milliseconds, because
/// expiry is.
#[derive(Debug)]
pub struct DelayQueue {
    heap: BinaryHeap<Waiting>,
    next: u64,
    bytes: usize,
    max_messages: usize,
    max_bytes: usize,
    counts: DelayCounts,
}

impl DelayQueue {
    /// An empty queue with the bounds of the settings.
    #[must_use]
    pub fn new(settings: &DelayedSettings) -> Self {
        Self {
            heap: BinaryHeap::new(),
            next: 0,
            bytes: 0,
            max_messages: settings.max_messages,
            max_bytes: settings.max_bytes,
            counts: DelayCounts::default(),
        }
    }

    /// Keeps a message until `due_ms`. It must have the real topic already ([`with_topic`](crate::with_topic)).
    ///
    /// When the queue is full the message is refused: those that wait were promised.
    pub fn push(&mut self, now_ms: u64, due_ms: u64, message: Message) -> Pushed {
        if message.is_expired(due_ms.max(now_ms)) {
            self.counts.expired += 1;
            return Pushed::Expires;
        }
        let cost = cost(&message);
        if self.heap.len() >= self.max_messages || self.bytes.saturating_add(cost) > self.max_bytes {
            self.counts.refused += 1;
            return Pushed::Full;
        }
        self.bytes += cost;
        self.heap.push(Waiting { due_ms, number: self.next, message });
        self.next += 1;
        self.counts.accepted += 1;
        Pushed::Waits
    }

    /// The next message whose time has come, if it has not expired meanwhile. Call it until it returns `None`.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<Message> {
        while self.next_due_ms()? <= now_ms {
            let message = self.heap.pop()?.message;
            self.bytes -= cost(&message);
            self.give_memory_back();
            if message.is_expired(now_ms) {
                self.counts.expired += 1;
            } else {
                self.counts.published += 1;
                return Some(message);
            }
        }
        None
    }

    /// When the next message is due.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.heap.peek().map(|waiting| waiting.due_ms)
    }

    /// How many messages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// How many bytes the waiting messages take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What happened so far.
    #[must_use]
    pub const fn counts(&self) -> DelayCounts {
        self.counts
    }

    fn give_memory_back(&mut self) {
        if self.heap.capacity() > 1024 && self.heap.len() < self.heap.capacity() / 4 {
            self.heap.shrink_to(self.heap.capacity() / 2);
        }
    }
}

fn cost(message: &Message) -> usize {
    message.wire_len() + OVERHEAD
}

#[derive(Debug)]
struct Waiting {
    due_ms: u64,
    number: u64,
    message: Message,
}

impl Ord for Waiting {
    /// The greatest is the one that is due first: the heap has its greatest at the top.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due_ms, other.number).cmp(&(self.due_ms, self.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Waiting {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::message::tests::sample;

    fn queue() -> DelayQueue {
        DelayQueue::new(&DelayedSettings::default())
    }

    fn message(payload: &str) -> Message {
        sample("t", payload.as_bytes(), 0, None)
    }

    fn pop_all(queue: &mut DelayQueue, now_ms: u64) -> Vec<String> {
        std::iter::from_fn(|| queue.pop_due(now_ms))
            .map(|message| String::from_utf8(message.payload().to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn earliest_first_and_in_order_within_a_moment() {
        let mut queue = queue();
        for (due_ms, payload) in [(30, "d"), (10, "a"), (20, "b"), (20, "c"), (30, "e")] {
            assert_eq!(queue.push(0, due_ms, message(payload)), Pushed::Waits);
        }
        assert_eq!(queue.next_due_ms(), Some(10));
        assert_eq!(pop_all(&mut queue, 9), Vec::<String>::new());
        assert_eq!(pop_all(&mut queue, 20), ["a", "b", "c"]);
        assert_eq!(queue.next_due_ms(), Some(30));
        assert_eq!(pop_all(&mut queue, 1000), ["d", "e"]);
        assert!(queue.is_empty());
        assert_eq!((queue.bytes(), queue.next_due_ms()), (0, None));
        assert_eq!(queue.counts(), DelayCounts { accepted: 5, published: 5, ..DelayCounts::default() });
    }

    /// Nothing of the message changes while it waits, the retain flag included.
    #[test]
    fn comes_out_as_it_went_in() {
        let mut queue = queue();
        let before = sample("t", b"x", 5, Some(100));
        assert_eq!(queue.push(5, 50, before.clone()), Pushed::Waits);
        assert_eq!(queue.pop_due(50), Some(before));
    }

    /// `[MQTT-3.3.2-5]`, `[MQTT-3.3.2-6]`: the interval counts from the receipt, not from the end of the delay.
    #[test]
    fn expiry_goes_on_while_it_waits() {
        let mut queue = queue();
        let expiring = |at| sample("t", b"x", 0, Some(at));
        assert_eq!(queue.push(0, 5000, expiring(4999)), Pushed::Expires);
        assert_eq!(queue.push(0, 5000, expiring(5000)), Pushed::Expires);
        assert_eq!(queue.push(0, 5000, expiring(8000)), Pushed::Waits);
        assert_eq!(queue.push(0, 5000, expiring(5001)), Pushed::Waits);
        // Late by a second: the second one has expired meanwhile.
        let published = queue.pop_due(6000).unwrap();
        assert_eq!(published.remaining_seconds(6000), Some(2));
        assert_eq!(queue.pop_due(6000), None);
        assert_eq!(queue.counts(), DelayCounts { accepted: 2, published: 1, expired: 3, refused: 0 });
    }

    #[test]
    fn bounded_by_number() {
        let mut queue = DelayQueue::new(&DelayedSettings { max_messages: 2, ..DelayedSettings::default() });
        assert_eq!(queue.push(0, 10, message("a")), Pushed::Waits);
        assert_eq!(queue.push(0, 20, message("b")), Pushed::Waits);
        assert_eq!(queue.push(0, 5, message("c")), Pushed::Full);
        assert_eq!(pop_all(&mut queue, 10), ["a"]);
        assert_eq!(queue.push(10, 15, message("d")), Pushed::Waits);
        assert_eq!(pop_all(&mut queue, 20), ["d", "b"]);
        assert_eq!(queue.counts().refused, 1);
    }

    #[test]
    fn bounded_by_bytes() {
        let max_bytes = 3 * cost(&message("a"));
        let mut queue = DelayQueue::new(&DelayedSettings { max_bytes, ..DelayedSettings::default() });
        for payload in ["a", "b", "c"] {
            assert_eq!(queue.push(0, 10, message(payload)), Pushed::Waits);
        }
        assert_eq!(queue.bytes(), max_bytes);
        assert_eq!(queue.push(0, 10, message("d")), Pushed::Full);
        let mut queue = DelayQueue::new(&DelayedSettings { max_bytes: max_bytes - 1, ..DelayedSettings::default() });
        assert_eq!(queue.push(0, 10, message(&"x".repeat(max_bytes))), Pushed::Full);
    }

    #[test]
    fn many_messages() {
        assert_eq!(size_of::<Waiting>(), 32);
        let max_messages = 100_000;
        let mut queue = DelayQueue::new(&DelayedSettings { max_messages, ..DelayedSettings::default() });
        let message = message("x");
        for number in 0..max_messages as u64 {
            // Scattered, some of them equal.
            assert_eq!(queue.push(0, number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 45, message.clone()), Pushed::Waits);
        }
        assert_eq!(queue.push(0, 0, message), Pushed::Full);
        let mut popped = 0;
        let mut last = 0;
        while let Some(due_ms) = queue.next_due_ms() {
            assert!(due_ms >= last);
            last = due_ms;
            assert!(queue.pop_due(due_ms).is_some());
            popped += 1;
        }
        assert_eq!(popped, max_messages);
        assert!(queue.heap.capacity() <= 1024, "memory is given back");
    }

    proptest! {
        /// Against a sorted list.
        #[test]
        fn like_a_sorted_list(steps in prop::collection::vec((0_u64..20, any::<bool>()), 0..60)) {
            let mut queue = DelayQueue::new(&DelayedSettings { max_messages: 8, ..DelayedSettings::default() });
            let mut model: Vec<(u64, usize)> = Vec::new();
            for (number, (time, push)) in steps.into_iter().enumerate() {
                if push {
                    let expected = if model.len() < 8 { Pushed::Waits } else { Pushed::Full };
                    prop_assert_eq!(queue.push(0, time, message(&number.to_string())), expected);
                    if expected == Pushed::Waits {
                        model.push((time, number));
                        model.sort_unstable();
                    }
                } else {
                    let due = model.iter().take_while(|(due, _)| *due <= time).count();
                    let expected: Vec<String> = model.drain(..due).map(|(_, number)| number.to_string()).collect();
                    prop_assert_eq!(pop_all(&mut queue, time), expected);
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.next_due_ms(), model.first().map(|(due, _)| *due));
            }
        }
    }
}
