//! Counts how often clients connect, to find those that do it too often. Without I/O; time is an argument.

use std::collections::{HashMap, VecDeque};

/// Most clients that are counted at a time; beyond, the count that began first is given up.
pub const MAX_COUNTED: usize = 65_536;

/// A count for each client that connected lately, of bounded size.
pub struct FlapCounter {
    max_count: u32,
    window_ms: u64,
    hasher: ahash::RandomState,
    counts: HashMap<u64, Count, ahash::RandomState>,
    /// In the order in which they began.
    begun: VecDeque<(u64, u64)>,
}

struct Count {
    since_ms: u64,
    count: u32,
}

impl FlapCounter {
    /// A client is over with its `max_count`th connect in a window, which begins with its first.
    #[must_use]
    pub fn new(max_count: u32, window_ms: u64) -> Self {
        Self {
            max_count: max_count.max(1),
            window_ms,
            hasher: ahash::RandomState::new(),
            counts: HashMap::default(),
            begun: VecDeque::new(),
        }
    }

    /// The client connects. True: it is over, and is counted anew from here on.
    pub fn count(&mut self, client: &str, now_ms: u64) -> bool {
        // What is kept is the same for short and for long identifiers.
        let key = self.hasher.hash_one(client);
        self.forget(now_ms);
        let begun = &mut self.begun;
        let count = self.counts.entry(key).or_insert_with(|| {
            begun.push_back((key, now_ms));
            Count { since_ms: now_ms, count: 0 }
        });
        count.count += 1;
        let over = count.count >= self.max_count;
        if over {
            self.counts.remove(&key);
        }
        over
    }

    /// Those whose window is over, and the oldest where there are too many.
    fn forget(&mut self, now_ms: u64) {
        while let Some(&(key, since_ms)) = self.begun.front()
            && (self.begun.len() >= MAX_COUNTED || now_ms.saturating_sub(since_ms) >= self.window_ms)
        {
            self.begun.pop_front();
            // Another count of the same client may have begun since.
            if self.counts.get(&key).is_some_and(|count| count.since_ms == since_ms) {
                self.counts.remove(&key);
            }
        }
    }

    /// How many clients are counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_connects_too_often_within_the_window_is_found() {
        let mut counter = FlapCounter::new(3, 1000);
        assert!(!counter.count("a", 0));
        assert!(!counter.count("b", 10));
        assert!(!counter.count("a", 500));
        assert!(counter.count("a", 999));
        // Counted anew.
        assert!(!counter.count("a", 999));
        assert!(!counter.count("a", 1000));
        assert!(counter.count("a", 1500));
        // The window of b is over before its third.
        assert!(!counter.count("b", 1000));
        assert!(!counter.count("b", 1010));
    }

    #[test]
    fn a_slow_client_is_never_over() {
        let mut counter = FlapCounter::new(3, 1000);
        assert!((0..1000).all(|n| !counter.count("a", n * 500)));
        assert_eq!(counter.len(), 1);
        assert!(counter.begun.len() <= 2);
    }

    #[test]
    fn many_identifiers_take_bounded_memory() {
        let mut counter = FlapCounter::new(3, 1000);
        for n in 0..(2 * MAX_COUNTED as u64) {
            assert!(!counter.count(&n.to_string(), 1));
        }
        assert!(counter.len() <= MAX_COUNTED && counter.begun.len() <= MAX_COUNTED);
        assert!(!counter.count("z", 5000));
        assert_eq!(counter.len(), 1);
        let mut once = FlapCounter::new(1, 1000);
        assert!((0..(2 * MAX_COUNTED)).all(|_| once.count("a", 1)));
        assert!(once.begun.len() <= MAX_COUNTED);
    }
}
