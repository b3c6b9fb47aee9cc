//! Giving back the room of what has gone.
//!
//! A table keeps the room of the most it ever had: that of a million filters is 240 MiB. After each removal it is asked
//! whether an eighth is left at most; then it keeps room for twice what is left, so that the cost of moving is spread over
//! the removals, and what comes and goes does not make it move at each turn.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};

/// Smaller ones keep what they have.
const SMALL: usize = 1024;

/// The room that is enough from now on, if it is much less than there is.
fn enough(len: usize, capacity: usize) -> Option<usize> {
    (capacity > SMALL && len < capacity / 8).then_some(len * 2)
}

/// To be called when something was taken out of the table.
pub fn shrink<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    if let Some(enough) = enough(table.len(), table.capacity()) {
        table.shrink_to(enough);
    }
}

/// As [`shrink`], for a queue.
pub(crate) fn shrink_queue<T>(queue: &mut VecDeque<T>) {
    if let Some(enough) = enough(queue.len(), queue.capacity()) {
        queue.shrink_to(enough);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_empties_gives_its_room_back_however_full_it_was() {
        // Half full, between, and full to the last place: then most of what is taken out leaves a mark that takes room.
        for entries in [57_400, 90_000, 114_688] {
            let mut table: HashMap<usize, u64> = (0..entries).map(|at| (at, 0)).collect();
            let most = table.capacity();
            for at in 0..entries {
                table.remove(&at);
                shrink(&mut table);
                assert_eq!(table.len(), entries - at - 1);
            }
            assert!(table.capacity() <= 2 * SMALL, "{entries}: {most} → {}", table.capacity());
        }
    }

    #[test]
    fn moves_are_few() {
        let mut table: HashMap<usize, u64> = (0..100_000).map(|at| (at, 0)).collect();
        let mut moves = 0;
        for at in 0..100_000 {
            table.remove(&at);
            let before = table.capacity();
            shrink(&mut table);
            moves += usize::from(table.capacity() * 2 < before);
            // What comes back finds room.
            let kept = table.capacity();
            table.insert(at, 0);
            // One more at most: a mark that took room is a place again.
            assert!(table.capacity() <= kept + 1);
            table.remove(&at);
        }
        assert!((1..=5).contains(&moves), "{moves}");
    }

    #[test]
    fn a_queue_gives_its_room_back() {
        let mut queue: VecDeque<usize> = (0..100_000).collect();
        while queue.pop_front().is_some() {
            shrink_queue(&mut queue);
        }
        assert!(queue.capacity() <= 2 * SMALL);
    }
}
