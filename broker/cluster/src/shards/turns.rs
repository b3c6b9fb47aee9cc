//! Which of an outbox's destinations are handed off to next.
//!
//! Some at once, each with one batch at a time and in turn: what waits meanwhile makes the next batch larger. Those that did not take theirs are tried one after the other, beside
//! the others, so that shards without a quorum hold up nobody else.

use std::collections::BTreeSet;

/// How many are handed off to at once.
const AT_ONCE: usize = 4;

/// Whose turn it is.
pub(super) struct Turns<D> {
    running: BTreeSet<D>,
    /// Those whose last batch was not taken.
    failing: BTreeSet<D>,
    /// The one that was begun last.
    last: Option<D>,
}

impl<D: Ord + Copy> Turns<D> {
    pub(super) fn new() -> Self {
        Self { running: BTreeSet::new(), failing: BTreeSet::new(), last: None }
    }

    /// Those that are to be begun, of all for which something waits.
    pub(super) fn begin(&mut self, waiting: impl Iterator<Item = D>) -> Vec<D> {
        let waiting: BTreeSet<D> = waiting.filter(|to| !self.running.contains(to)).collect();
        let failing_runs = self.running.iter().any(|to| self.failing.contains(to));
        let mut room = AT_ONCE.saturating_sub(self.running.len() - usize::from(failing_runs));
        let mut failing_room = usize::from(!failing_runs);
        let (mut behind, mut before) = (Vec::new(), Vec::new());
        for to in waiting {
            if self.last.is_none_or(|last| to > last) { behind.push(to) } else { before.push(to) }
        }
        let mut begun = Vec::new();
        for to in behind.into_iter().chain(before) {
            let room = if self.failing.contains(&to) { &mut failing_room } else { &mut room };
            if *room > 0 {
                *room -= 1;
                begun.push(to);
            }
        }
        self.running.extend(&begun);
        self.last = begun.last().copied().or(self.last);
        begun
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
        let mut turns = Turns::new();
        assert_eq!(turns.begin(0..10), [0, 1, 2, 3]);
        assert!(turns.begin(0..10).is_empty());
        turns.end(1, true);
        // Not the first one again.
        assert_eq!(turns.begin(0..10), [4]);
        (0..=4).filter(|to| *to != 1).for_each(|to| turns.end(to, true));
        assert_eq!(turns.begin(0..10), [5, 6, 7, 8]);
        (5..9).for_each(|to| turns.end(to, true));
        assert_eq!(turns.begin(0..10), [9, 0, 1, 2]);
    }

    #[test]
    fn those_that_take_nothing_hold_up_no_other() {
        let mut turns = Turns::new();
        turns.begin(0..4);
        (0..4).for_each(|to| turns.end(to, false));
        let begun = turns.begin(0..20);
        assert_eq!(begun.iter().filter(|to| **to < 4).count(), 1, "{begun:?}");
        assert_eq!(begun.len(), 5);
        // The one after the other.
        let failing = *begun.iter().find(|to| **to < 4).unwrap_or(&9);
        turns.end(failing, false);
        let next = turns.begin(0..20);
        assert_eq!(next.len(), 1);
        assert!(next[0] < 4 && next[0] != failing, "{next:?}");
        // What takes its batch is one of the others again.
        turns.end(next[0], true);
        begun.into_iter().filter(|to| *to >= 4).for_each(|to| turns.end(to, true));
        assert!(turns.begin([next[0]].into_iter()).contains(&next[0]));
    }
}
