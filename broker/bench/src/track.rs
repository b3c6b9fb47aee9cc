//! What one subscriber got of one publisher: each message once, in order?

/// Of how many of the newest messages it is known which ones came.
const KNOWN: u64 = 64;

/// The messages of one publisher at one subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Track {
    /// The number that comes next.
    next: u64,
    /// Which of the last 64 came: bit 0 is `next - 1`.
    seen: u64,
    /// Older numbers that have not come.
    missing: u64,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// New, and so many before it did not come.
    New {
        /// How many.
        skipped: u64,
    },
    /// One that was missing.
    Late,
    /// One that came before.
    Duplicate,
}

impl Track {
    /// The number whose lower 32 bits these are: the nearest to the next one.
    pub(crate) fn expand(&self, sequence: u32) -> u64 {
        let distance = sequence.wrapping_sub(self.next as u32).cast_signed();
        self.next.saturating_add_signed(i64::from(distance))
    }

    /// Notes a message. Of one that is far behind it is not known whether it came before: it is taken for late as long as
    /// some are missing.
    pub(crate) fn arrive(&mut self, number: u64) -> Arrival {
        if number >= self.next {
            let skipped = number - self.next;
            self.seen = if skipped + 1 < KNOWN { self.seen << (skipped + 1) } else { 0 } | 1;
            self.next = number + 1;
            self.missing += skipped;
            return Arrival::New { skipped };
        }
        let behind = self.next - 1 - number;
        let known = behind < KNOWN;
        if self.missing == 0 || (known && self.seen >> behind & 1 == 1) {
            return Arrival::Duplicate;
        }
        if known {
            self.seen |= 1 << behind;
        }
        self.missing -= 1;
        Arrival::Late
    }

    /// How many before the newest one did not come.
    pub(crate) const fn missing(&self) -> u64 {
        self.missing
    }

    /// From here on: what came before was not for this subscriber.
    pub(crate) const fn begin_at(&mut self, number: u64) {
        self.next = number;
    }

    /// The number that comes next.
    pub(crate) const fn expected(&self) -> u64 {
        self.next
    }

    /// Whether nothing was noted.
    pub(crate) const fn is_new(&self) -> bool {
        self.next == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(numbers: &[u64]) -> (Vec<Arrival>, u64) {
        let mut track = Track::default();
        let list = numbers.iter().map(|number| track.arrive(*number)).collect();
        (list, track.missing())
    }

    #[test]
    fn each_once_in_order() {
        let (list, missing) = arrivals(&[0, 1, 2, 3]);
        assert_eq!((list, missing), (vec![Arrival::New { skipped: 0 }; 4], 0));
    }

    #[test]
    fn a_gap_a_late_one_and_a_duplicate() {
        let (list, missing) = arrivals(&[0, 3, 1, 1, 3, 0]);
        use Arrival::{Duplicate, Late, New};
        assert_eq!(list, [New { skipped: 0 }, New { skipped: 2 }, Late, Duplicate, Duplicate, Duplicate]);
        assert_eq!(missing, 1);
    }

    #[test]
    fn far_behind() {
        let mut track = Track::default();
        assert_eq!(track.arrive(1_000), Arrival::New { skipped: 1_000 });
        assert_eq!(track.arrive(5), Arrival::Late);
        assert_eq!(track.missing(), 999);
        assert_eq!(track.arrive(1_000), Arrival::Duplicate);
        assert_eq!(track.arrive(937), Arrival::Late);
        assert_eq!(track.arrive(937), Arrival::Duplicate);
        assert_eq!(track.arrive(1_064), Arrival::New { skipped: 63 });
        assert_eq!(track.arrive(1_001), Arrival::Late);
        // What the newest 64 do not reach any more is not remembered.
        assert_eq!(track.arrive(1_128), Arrival::New { skipped: 63 });
        assert_eq!(track.arrive(1_065), Arrival::Late);
    }

    #[test]
    fn numbers_go_on_past_32_bits() {
        let mut track = Track::default();
        track.begin_at(u64::from(u32::MAX) - 1);
        for number in u64::from(u32::MAX) - 1..u64::from(u32::MAX) + 5 {
            assert_eq!(track.expand(number as u32), number);
            assert_eq!(track.arrive(number), Arrival::New { skipped: 0 });
        }
        assert_eq!(track.expand(u32::MAX), u64::from(u32::MAX));
        assert_eq!(Track::default().expand(3), 3);
    }
}
