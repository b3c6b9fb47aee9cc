//! Which of an outbox's destinations are handed off to next.
//!
//! Some at once, each with one batch at a time and in turn: what waits meanwhile makes the next batch larger. Those that did not take theirs are tried one after the other, and those
//! that take long are not counted, so that shards without a quorum hold up nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How many are handed off to at once.
const AT_ONCE: usize = 4;
/// What takes longer holds up no other.
pub(super) const LONG: Duration = Duration::from_millis(300);

/// Whose turn it is.
pub(super) struct Turns<D> {
    /// Since when.
    running: BTreeMap<D, Instant>,
    /// Those whose last batch was not taken.
    failing: BTreeSet<D>,
    /// The one that was begun last.
    last: Option<D>,
}

impl<D: Ord + Copy> Turns<D> {
    pub(super) fn new() -> Self {
        Self { running: BTreeMap::new(), failing: BTreeSet::new(), last: None }
    }

    /// Those that are to be begun, of all for which something waits.
    pub(super) fn begin(&mut self, now: Instant, waiting: impl Iterator<Item = D>) -> Vec<D> {
        let waiting: BTreeSet<D> = waiting.filter(|to| !self.running.contains_key(to)).collect();
        let counts = |(to, since): &(&D, &Instant)| !self.failing.contains(to) && now.duration_since(**since) < LONG;
        let mut room = AT_ONCE.saturating_sub(self.running.iter().filter(counts).count());
        let mut failing_room = usize::from(!self.running.keys().any(|to| self.failing.contains(to)));
        let (behind, before): (Vec<D>, Vec<D>) =
            waiting.into_iter().partition(|to| self.last.is_none_or(|last| *to > last));
        let mut begun = Vec::new();
        for to in behind.into_iter().chain(before) {
            let room = if self.failing.contains(&to) { &mut failing_room } else { &mut room };
            if *room > 0 {
                *room -= 1;
                begun.push(to);
            }
        }
        self.running.extend(begun.iter().map(|to| (*to, now)));
        self.last = begun.last().copied().or(self.last);
        begun
    }

    /// Whether one runs that may take long.
    pub(super) fn any(&self) -> bool {
        !self.running.is_empty()
    }

    /// One has ended. `taken`: it took its batch.
    pub(super) fn end(&mut self, to: D, taken: bool) {
        self.running.remove(&to);
        if taken {
            self.failing.remove(&to);
        } else {
            self.failing.insert(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_and_each_in_turn() {
        let (mut turns, now) = (Turns::new(), Instant::now());
        assert_eq!(turns.begin(now, 0..10), [0, 1, 2, 3]);
        assert!(turns.begin(now, 0..10).is_empty());
        turns.end(1, true);
        // Not the first one again.
        assert_eq!(turns.begin(now, 0..10), [4]);
        [0, 2, 3, 4].into_iter().for_each(|to| turns.end(to, true));
        assert_eq!(turns.begin(now, 0..10), [5, 6, 7, 8]);
        (5..9).for_each(|to| turns.end(to, true));
        assert_eq!(turns.begin(now, 0..10), [9, 0, 1, 2]);
    }

    #[test]
    fn those_that_take_nothing_hold_up_no_other() {
        let (mut turns, now) = (Turns::new(), Instant::now());
        turns.begin(now, 0..4);
        (0..4).for_each(|to| turns.end(to, false));
        let begun = turns.begin(now, 0..20);
        assert_eq!(begun, [4, 5, 6, 7, 0]);
        // The one after the other.
        turns.end(0, false);
        assert_eq!(turns.begin(now, 0..20), [1]);
        // What takes its batch is one of the others again.
        begun.into_iter().chain([1]).for_each(|to| turns.end(to, true));
        assert_eq!(turns.begin(now, 0..2), [0, 1]);
    }

    #[test]
    fn those_that_take_long_hold_up_no_other() {
        let (mut turns, now) = (Turns::new(), Instant::now());
        assert_eq!(turns.begin(now, 0..9), [0, 1, 2, 3]);
        assert!(turns.begin(now + LONG / 2, 0..9).is_empty());
        assert_eq!(turns.begin(now + LONG, 0..9), [4, 5, 6, 7]);
        assert!(turns.any());
    }
}
