//! Averages over 1, 5 and 15 minutes as Mosquitto computes them.

/// The minutes that averages go over, with the names of their topics.
pub(super) const WINDOWS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// A counter's exponentially weighted averages, in events a minute.
///
/// At each update the rate since the last one, in events a minute, and the average are weighted by how long ago that was:
/// `average = rate + e^(-elapsed / window) * (average - rate)`. All start at 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Load {
    last: u64,
    averages: [f64; 3],
}

impl Load {
    /// Takes the counter's value, `elapsed_ms` after the last update. Without time between them nothing can be said
    /// about a rate: the counts are left for the next update.
    pub(super) fn update(&mut self, value: u64, elapsed_ms: u64) {
        if elapsed_ms == 0 {
            return;
        }
        // Not a counter's business to run backwards; if it does, that is no rate.
        let events = value.saturating_sub(self.last) as f64;
        let elapsed = elapsed_ms as f64 / 1000.0;
        let rate = events * 60.0 / elapsed;
        for (average, (_, window)) in self.averages.iter_mut().zip(WINDOWS) {
            *average = rate + (-elapsed / window).exp() * (*average - rate);
        }
        self.last = value;
    }

    /// For 1, 5 and 15 minutes.
    pub(super) const fn averages(&self) -> [f64; 3] {
        self.averages
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(load: &Load) -> [String; 3] {
        load.averages().map(|average| format!("{average:.2}"))
    }

    /// 100 messages in 10 s are 600 a minute; after 10 s the averages have gone a part of 1 - e^(-10/60), 1 - e^(-10/300)
    /// and 1 - e^(-10/900) of the way.
    #[test]
    fn as_mosquitto_computes_them() {
        let mut load = Load::default();
        load.update(100, 10_000);
        assert_eq!(texts(&load), ["92.11", "19.67", "6.63"]);
        load.update(200, 10_000);
        assert_eq!(texts(&load), ["170.08", "38.70", "13.19"]);
        // Silence: they fade.
        load.update(200, 60_000);
        assert_eq!(texts(&load), ["62.57", "31.68", "12.34"]);
    }

    #[test]
    fn no_time_no_rate() {
        let mut load = Load::default();
        load.update(100, 0);
        assert_eq!(load, Load::default());
        load.update(100, 10_000);
        assert_eq!(texts(&load)[0], "92.11");
        load.update(0, 10_000);
        assert!(load.averages().iter().all(|average| *average >= 0.0));
    }

    proptest! {
        /// A steady rate is what the averages come to, whatever the interval, and never more.
        #[test]
        fn a_steady_rate(interval_s in 1_u64..60, per_second in 0_u64..1000) {
            let mut load = Load::default();
            for update in 1..=(9000 / interval_s) {
                load.update(update * interval_s * per_second, interval_s * 1000);
                let rate = (per_second * 60) as f64;
                prop_assert!(load.averages().iter().all(|average| *average <= rate + 1e-6));
            }
            for average in load.averages() {
                prop_assert!((average - (per_second * 60) as f64).abs() <= 0.001 * (per_second * 60) as f64 + 1e-6);
            }
        }
    }
}
