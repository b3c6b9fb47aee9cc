//! When messages are due at a fixed rate.
//!
//! Message `k` of a thread is due `k / rate` after the start, rounded up to a tick. What is due is sent when the thread gets to it, but
//! carries the time at which it was due: a generator or a broker that stalls makes the latency of everything longer that should have
//! been sent meanwhile, instead of sending less and measuring less (coordinated omission).

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;
/// What the rounding of floating point may move a message by, in ticks.
const SLACK: f64 = 1e-6;

/// The schedule of one thread. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    start: u64,
    /// Messages a second, of all publishers of the thread together.
    rate: f64,
    tick: u64,
}

impl Pace {
    /// From `start` on, with `rate` messages a second, sent together in ticks of so many nanoseconds.
    pub(crate) fn new(start: u64, rate: f64, tick: u64) -> Self {
        Self { start, rate, tick: tick.max(1) }
    }

    /// How many messages are due at this time.
    pub(crate) fn due(&self, now: u64) -> u64 {
        let Some(elapsed) = now.checked_sub(self.start) else { return 0 };
        let ticks = elapsed / self.tick;
        // Message k is due in tick ceil(k / per_tick).
        ((ticks as f64 + SLACK) * self.per_tick()).floor() as u64 + 1
    }

    /// When message `k`, counted from 0, is due.
    pub(crate) fn time(&self, k: u64) -> u64 {
        let ticks = (k as f64 / self.per_tick() - SLACK).ceil().max(0.0) as u64;
        self.start.saturating_add(ticks.saturating_mul(self.tick))
    }

    fn per_tick(&self) -> f64 {
        self.rate * self.tick as f64 / SECOND
    }
}

/// Which of the thread's messages a publisher sends: the publishers take turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Of this publisher among those of its thread.
    pub(crate) ordinal: u64,
    /// How many publishers the thread has.
    pub(crate) of: u64,
}

impl Turn {
    /// How many messages of this publisher are among the thread's first `due` ones.
    pub(crate) const fn share(self, due: u64) -> u64 {
        (due + self.of - 1 - self.ordinal) / self.of
    }

    /// The number among the thread's messages of this publisher's message `n`.
    pub(crate) const fn number(self, n: u64) -> u64 {
        n * self.of + self.ordinal
    }
}

/// How much of `total` is for number `index` of `of`: all shares together are the total.
pub(crate) const fn share_of(total: u64, index: u64, of: u64) -> u64 {
    total / of + if index < total % of { 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_as_many_as_its_rate() {
        for rate in [0.5, 1.0, 3.0, 333.3, 1_000.0, 20_000.0, 1_234_567.0] {
            for tick in [1, 1_000, 1_000_000, 10_000_000] {
                let pace = Pace::new(5_000, rate, tick);
                assert_eq!(pace.due(4_999), 0);
                let ten = pace.due(5_000 + 10_000_000_000) as f64;
                let slack = rate * tick as f64 / SECOND + 1.0;
                assert!((ten - rate * 10.0).abs() <= slack, "{rate}/s, tick {tick}: {ten}");
            }
        }
    }

    #[test]
    fn a_message_is_due_at_its_time_and_not_before() {
        for rate in [0.7, 10.0, 997.0, 50_000.0, 1_000_000.0] {
            for tick in [1_000, 1_000_000] {
                let pace = Pace::new(1_000_000_007, rate, tick);
                for k in (0..2_000).chain(1_000_000..1_000_100) {
                    let time = pace.time(k);
                    assert!(pace.due(time) > k, "{rate}/s, tick {tick}: {k} is due");
                    assert!(k == 0 || pace.due(time - 1) <= k, "{rate}/s, tick {tick}: {k} is not due before");
                }
            }
        }
    }

    #[test]
    fn publishers_take_turns() {
        for of in 1..5 {
            for due in 0..40 {
                let shares: Vec<u64> = (0..of).map(|ordinal| Turn { ordinal, of }.share(due)).collect();
                assert_eq!(shares.iter().sum::<u64>(), due);
                for (ordinal, share) in shares.iter().enumerate() {
                    let turn = Turn { ordinal: ordinal as u64, of };
                    // Its next one is not among them, its last one is.
                    assert!(turn.number(*share) >= due);
                    assert!(*share == 0 || turn.number(share - 1) < due);
                }
            }
        }
    }

    #[test]
    fn shares_are_the_total() {
        for (total, of) in [(10, 3), (0, 4), (7, 7), (2, 5)] {
            assert_eq!((0..of).map(|index| share_of(total, index, of)).sum::<u64>(), total);
        }
    }
}
