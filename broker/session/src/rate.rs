//! Rates: how much of something there may be a second, and how much at once.

/// A limit of so many units a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Units that come back each second. At least 1.
    pub per_second: u64,
    /// Units that there are after a pause. At least 1.
    pub burst: u64,
}

/// Parts of a second: a burst is at least what comes back in one. Who looks at a bucket looks now and then, and what came back in between
/// is not to be lost.
const LEAST_BURST: u64 = 20;

impl Rate {
    /// From settings: `None` for a rate of 0, which is no limit; a burst of 0 is that of one second, and the least that of 50 ms.
    #[must_use]
    pub fn new(per_second: u64, burst: u64) -> Option<Self> {
        let burst = if burst == 0 { per_second } else { burst.max(per_second / LEAST_BURST) };
        (per_second > 0).then_some(Self { per_second, burst })
    }
}

/// Parts of a unit: so many come back each millisecond as whole units each second, so that nothing is ever rounded.
const PARTS: i64 = 1_000;

/// A bucket of units, filled evenly, from which whatever was used is taken.
///
/// More may be taken than there is, because only what has come says how much it is; then there is nothing until that is paid back. Over
/// any time `t` no more is used than the burst, `rate × t` and what was taken the last time that there was anything.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    /// Parts that there are, fewer than none after too much was taken.
    parts: i64,
    /// When they were counted, in milliseconds since any fixed moment.
    counted_ms: u64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(rate: Rate, now_ms: u64) -> Self {
        Self { rate, parts: capacity(rate), counted_ms: now_ms }
    }

    /// The rate that it has.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Goes on with another rate. What was used stays used: a rate that is set again and again gives no burst each time.
    pub fn set_rate(&mut self, rate: Rate, now_ms: u64) {
        self.fill(now_ms);
        self.rate = rate;
        self.parts = self.parts.min(capacity(rate));
    }

    /// Whole units that there are.
    pub fn available(&mut self, now_ms: u64) -> u64 {
        self.fill(now_ms);
        u64::try_from(self.parts / PARTS).unwrap_or(0)
    }

    /// Takes what was used, at a time at which [`Bucket::available`] was asked.
    pub fn take(&mut self, units: u64) {
        self.parts = self.parts.saturating_sub(parts(units));
    }

    /// Milliseconds from when [`Bucket::available`] was asked until there is a whole unit; 0 if there is one.
    #[must_use]
    pub fn wait_ms(&self) -> u64 {
        let missing = u64::try_from(PARTS.saturating_sub(self.parts)).unwrap_or(0);
        missing.div_ceil(self.rate.per_second.max(1))
    }

    fn fill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.counted_ms);
        self.counted_ms = self.counted_ms.max(now_ms);
        let back = i64::try_from(passed.saturating_mul(self.rate.per_second)).unwrap_or(i64::MAX);
        self.parts = self.parts.saturating_add(back).min(capacity(self.rate));
    }
}

fn capacity(rate: Rate) -> i64 {
    parts(rate.burst.max(1))
}

fn parts(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX).saturating_mul(PARTS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn bucket(per_second: u64, burst: u64) -> Bucket {
        Bucket::new(Rate { per_second, burst }, 0)
    }

    #[test]
    fn none_is_no_limit_and_a_burst_is_a_second_unless_it_is_said() {
        assert_eq!(Rate::new(0, 0), None);
        assert_eq!(Rate::new(0, 9), None);
        assert_eq!(Rate::new(7, 0), Some(Rate { per_second: 7, burst: 7 }));
        assert_eq!(Rate::new(7, 2), Some(Rate { per_second: 7, burst: 2 }));
        assert_eq!(Rate::new(1_000, 2), Some(Rate { per_second: 1_000, burst: 50 }));
    }

    #[test]
    fn a_burst_then_one_at_a_time() {
        let mut bucket = bucket(4, 10);
        assert_eq!(bucket.available(0), 10);
        bucket.take(10);
        assert_eq!((bucket.available(0), bucket.wait_ms()), (0, 250));
        assert_eq!((bucket.available(249), bucket.wait_ms()), (0, 1));
        assert_eq!((bucket.available(250), bucket.wait_ms()), (1, 0));
        bucket.take(1);
        assert_eq!((bucket.available(499), bucket.available(500)), (0, 1));
        // No more than the burst comes together, however long the pause.
        assert_eq!(bucket.available(u64::MAX), 10);
    }

    #[test]
    fn what_was_taken_too_much_is_paid_back() {
        let mut bucket = bucket(1_000, 100);
        bucket.take(5_100);
        assert_eq!((bucket.available(5_000), bucket.wait_ms()), (0, 1));
        assert_eq!(bucket.available(5_001), 1);
    }

    #[test]
    fn time_that_goes_back_gives_nothing() {
        let mut bucket = bucket(10, 10);
        assert_eq!(bucket.available(1_000), 10);
        bucket.take(10);
        assert_eq!(bucket.available(500), 0);
        assert_eq!(bucket.available(1_099), 0);
        assert_eq!(bucket.available(1_100), 1);
    }

    #[test]
    fn another_rate_gives_no_burst_and_forgives_nothing() {
        let mut bucket = bucket(10, 10);
        bucket.take(10);
        bucket.set_rate(Rate::new(1_000, 0).unwrap(), 0);
        assert_eq!((bucket.available(0), bucket.available(1), bucket.available(10)), (0, 1, 10));
        bucket.set_rate(Rate::new(1, 5).unwrap(), 10);
        assert_eq!(bucket.available(10), 5);
        bucket.take(7);
        bucket.set_rate(Rate::new(1, 5).unwrap(), 10);
        assert_eq!((bucket.available(10), bucket.wait_ms()), (0, 3_000));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut bucket = Bucket::new(Rate::new(u64::MAX, u64::MAX).unwrap(), 0);
        bucket.take(u64::MAX);
        assert_eq!((bucket.available(0), bucket.wait_ms()), (0, 1));
        assert!(bucket.available(u64::MAX) > 0);
        for _ in 0..3 {
            bucket.take(u64::MAX);
        }
        assert_eq!((bucket.available(u64::MAX), bucket.wait_ms()), (0, 1));
    }

    proptest! {
        /// Whatever is asked for and whenever: never more than the burst and the rate give, and all that they give is had in the end.
        #[test]
        fn neither_more_nor_less(
            per_second in 1..5_000_u64,
            burst in 1..5_000_u64,
            steps in prop::collection::vec((0..400_u64, 1..3_000_u64), 1..200),
        ) {
            let mut bucket = bucket(per_second, burst);
            let (mut now, mut used, mut overdraft) = (0, 0, 0);
            for (pause, wanted) in steps {
                now += pause;
                let available = bucket.available(now);
                prop_assert_eq!(available == 0, bucket.wait_ms() > 0);
                prop_assert!(available <= burst);
                if available > 0 {
                    bucket.take(wanted);
                    used += wanted;
                    overdraft = wanted;
                }
                // In thousandths, exactly.
                prop_assert!(used * 1_000 <= (burst + overdraft) * 1_000 + per_second * now);
            }
            // It says when the next one is there, and it is there then and not before.
            let wait = bucket.wait_ms();
            if wait > 0 {
                prop_assert_eq!(bucket.available(now + wait - 1), 0);
                prop_assert!(bucket.available(now + wait) > 0);
            }
            // One that takes each unit when it is there gets the rate, to the unit.
            let mut greedy = Bucket::new(Rate { per_second, burst: burst.max(per_second) }, 0);
            greedy.take(burst.max(per_second));
            let mut got = 0;
            for ms in 0..=2_000 {
                let units = greedy.available(ms);
                greedy.take(units);
                got += units;
            }
            prop_assert_eq!(got, 2 * per_second);
        }
    }
}
