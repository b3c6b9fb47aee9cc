//! When a node is overloaded, as a pure function of what is measured and of time.
//!
//! A mark that is passed counts at once. It counts no more when what is measured was below a lower mark for some time, so that
//! a value about the mark does not let clients in and throw them out again in turn; then the next level down is looked at, again for
//! that time.

/// How far a node goes to be rid of load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Everything is taken.
    #[default]
    Normal,
    /// No new connection is.
    Refuse,
    /// Nor messages with QoS 0.
    Shed,
}

impl Level {
    /// Its name for people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Refuse => "refuses connections",
            Self::Shed => "refuses connections and sheds QoS 0",
        }
    }

    const fn below(self) -> Self {
        match self {
            Self::Normal | Self::Refuse => Self::Normal,
            Self::Shed => Self::Refuse,
        }
    }
}

/// Marks of one measure, in its unit; `None`: there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// From here on connections are refused.
    pub(crate) refuse: Option<u64>,
    /// From here on QoS 0 is shed.
    pub(crate) shed: Option<u64>,
    /// What is below so many per cent of a mark is over.
    pub(crate) calm_percent: u64,
    /// Milliseconds for which it must be.
    pub(crate) recovery_ms: u64,
}

impl Marks {
    /// The level of a value that comes from below.
    fn entered(&self, value: u64) -> Level {
        self.level(|mark| value >= mark)
    }

    /// The level that a value does not end.
    fn held(&self, value: u64) -> Level {
        let percent = u128::from(self.calm_percent);
        self.level(|mark| u128::from(value) * 100 >= u128::from(mark) * percent)
    }

    fn level(&self, passed: impl Fn(u64) -> bool) -> Level {
        if self.shed.is_some_and(&passed) {
            Level::Shed
        } else if self.refuse.is_some_and(&passed) {
            Level::Refuse
        } else {
            Level::Normal
        }
    }
}

/// The level of one measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gauge {
    level: Level,
    /// Since when nothing holds it.
    calm_since_ms: Option<u64>,
}

impl Gauge {
    /// A value was measured; `now_ms` only grows.
    pub(crate) fn measured(&mut self, now_ms: u64, value: u64, marks: &Marks) -> Level {
        let entered = marks.entered(value);
        if entered > self.level {
            *self = Self { level: entered, calm_since_ms: None };
        } else if self.level == Level::Normal || marks.held(value) >= self.level {
            self.calm_since_ms = None;
        } else {
            let since_ms = *self.calm_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since_ms) >= marks.recovery_ms {
                *self = Self { level: self.level.below(), calm_since_ms: Some(now_ms) };
            }
        }
        self.level
    }
}

/// One late turn may be the machine's: a process that was stopped, or had no processor. Two measurements in a row, a moment apart, are
/// load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lasting {
    last: u64,
}

impl Lasting {
    /// What of a value has lasted since the one before.
    pub(crate) fn of(&mut self, value: u64) -> u64 {
        value.min(std::mem::replace(&mut self.last, value))
    }
}

#[cfg(test)]
mod tests {
    use super::Level::{Normal, Refuse, Shed};
    use super::*;

    const MARKS: Marks = Marks { refuse: Some(80), shed: Some(90), calm_percent: 90, recovery_ms: 1_000 };

    /// Time, value, level.
    fn check(marks: &Marks, steps: &[(u64, u64, Level)]) {
        let mut gauge = Gauge::default();
        for (step, (now_ms, value, expected)) in steps.iter().enumerate() {
            assert_eq!(gauge.measured(*now_ms, *value, marks), *expected, "step {step} of {steps:?}");
        }
    }

    #[test]
    fn a_mark_counts_as_soon_as_it_is_reached() {
        check(&MARKS, &[(0, 79, Normal), (1, 80, Refuse), (2, 89, Refuse), (3, 90, Shed), (4, 500, Shed)]);
        check(&MARKS, &[(0, 0, Normal), (1, 90, Shed)]);
    }

    #[test]
    fn it_counts_until_the_value_was_below_the_lower_mark_for_the_time() {
        // 72 is 90 % of 80.
        check(
            &MARKS,
            &[
                (0, 80, Refuse),
                (10, 72, Refuse),
                (5_000, 72, Refuse),
                (5_001, 71, Refuse),
                (6_000, 71, Refuse),
                (6_001, 71, Normal),
            ],
        );
        // What comes back in between begins the time anew.
        check(
            &MARKS,
            &[
                (0, 80, Refuse),
                (1, 0, Refuse),
                (900, 72, Refuse),
                (1_001, 0, Refuse),
                (2_000, 0, Refuse),
                (2_001, 0, Normal),
            ],
        );
        // Without a time: at once.
        check(&Marks { recovery_ms: 0, ..MARKS }, &[(0, 80, Refuse), (1, 71, Normal)]);
    }

    #[test]
    fn one_level_ends_after_the_other() {
        // 81 is 90 % of 90.
        check(
            &MARKS,
            &[
                (0, 90, Shed),
                (1, 81, Shed),
                (5_000, 80, Shed),
                (6_000, 80, Refuse),
                (9_000, 80, Refuse),
                (9_001, 0, Refuse),
                (10_001, 0, Normal),
            ],
        );
        check(&MARKS, &[(0, 95, Shed), (1, 0, Shed), (1_001, 0, Refuse), (2_000, 0, Refuse), (2_001, 0, Normal)]);
        check(
            &MARKS,
            &[
                (0, 95, Shed),
                (1, 0, Shed),
                (1_001, 0, Refuse),
                (1_002, 90, Shed),
                (1_003, 0, Shed),
                (2_002, 0, Shed),
                (2_003, 0, Refuse),
            ],
        );
    }

    #[test]
    fn marks_may_be_missing_or_the_other_way_round() {
        check(&Marks { refuse: None, shed: None, ..MARKS }, &[(0, u64::MAX, Normal)]);
        check(
            &Marks { refuse: None, ..MARKS },
            &[(0, 89, Normal), (1, 90, Shed), (2, 0, Shed), (1_002, 0, Refuse), (2_002, 0, Normal)],
        );
        check(&Marks { shed: None, ..MARKS }, &[(0, u64::MAX, Refuse)]);
        check(&Marks { refuse: Some(95), ..MARKS }, &[(0, 90, Shed), (1, 95, Shed)]);
        check(&Marks { refuse: Some(0), ..MARKS }, &[(0, 0, Refuse), (9_000, 0, Refuse)]);
    }

    /// New settings, under which nothing is too much, end it like everything else does.
    #[test]
    fn marks_may_change() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.measured(0, 95, &MARKS), Shed);
        let wider = Marks { refuse: Some(800), shed: Some(900), ..MARKS };
        assert_eq!(gauge.measured(1, 95, &wider), Shed);
        assert_eq!(gauge.measured(1_001, 95, &wider), Refuse);
        assert_eq!(gauge.measured(2_001, 95, &wider), Normal);
        let narrower = Marks { refuse: Some(8), shed: Some(9), ..MARKS };
        assert_eq!(gauge.measured(2_002, 95, &narrower), Shed);
    }

    #[test]
    fn what_happens_once_does_not_last() {
        let mut lasting = Lasting::default();
        let found: Vec<u64> = [0, 900, 0, 5, 700, 800, 600, 0].map(|value| lasting.of(value)).to_vec();
        assert_eq!(found, [0, 0, 0, 0, 5, 700, 600, 0]);
    }
}
