//! When a sync waits for company.

use std::time::Duration;

/// After so long without work nobody is waited for.
const IDLE: Duration = Duration::from_millis(5);

/// How the log was used lately.
///
/// What is handed in during a sync goes with the next one anyway. Waiting pays only when callers that were just answered are about to come
/// back: with several waiters a sync lately, the next one waits for as many, but at most half of a sync's time.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// How many waited for a sync, a moving average.
    waiters: f64,
    /// How long a sync took, a moving average, in seconds.
    fsync: f64,
}

impl Pace {
    /// A sync with so many waiters took so long.
    pub(crate) fn synced(&mut self, waiters: usize, took: Duration) {
        self.waiters += (waiters as f64 - self.waiters) / 4.0;
        self.fsync += (took.as_secs_f64() - self.fsync) / 8.0;
    }

    /// There was nothing to do for so long.
    pub(crate) fn idled(&mut self, time: Duration) {
        if time > IDLE {
            self.waiters = 0.0;
        }
    }

    /// How long to wait, and for how many; `None` to go at once.
    pub(crate) fn linger(&self, limit: Duration) -> Option<(Duration, usize)> {
        (self.waiters >= 1.5).then(|| {
            let time = limit.min(Duration::from_secs_f64(self.fsync / 2.0));
            (time, self.waiters as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMIT: Duration = Duration::from_millis(2);

    #[test]
    fn one_caller_alone_and_an_idle_log_never_wait() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.synced(1, Duration::from_millis(10));
            assert_eq!(pace.linger(LIMIT), None);
        }
        for _ in 0..100 {
            pace.synced(50, Duration::from_millis(10));
        }
        assert_eq!(pace.linger(LIMIT).unwrap().0, LIMIT, "bounded by the limit");
        pace.idled(Duration::from_millis(6));
        assert_eq!(pace.linger(LIMIT), None);
    }

    #[test]
    fn a_fast_disk_is_waited_for_half_a_sync_at_most() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.synced(50, Duration::from_micros(100));
        }
        let (time, waiters) = pace.linger(LIMIT).unwrap();
        assert!(time <= Duration::from_micros(50), "{time:?}");
        assert!((45..=50).contains(&waiters), "{waiters}");
    }
}
