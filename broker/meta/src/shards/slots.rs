//! Which shard has which slot.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The number of slots that names fall into. The same number as in the crate of the shards' state.
pub const SLOTS: u16 = 4_096;

/// Slots that follow each other and belong to one shard: from `first` up to the next run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlotRun {
    /// The first of them.
    pub first: u16,
    /// Their shard.
    pub shard: u16,
}

/// The map of slots. Its copies share the runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRuns {
    epoch: u64,
    runs: Arc<[SlotRun]>,
}

impl SlotRuns {
    /// As many runs of the same length (within one) as there are shards, in the order of their numbers.
    pub(super) fn even(epoch: u64, shards: u16) -> Self {
        let shards = u32::from(shards.clamp(1, SLOTS));
        // The first slot with `slot * shards / SLOTS == shard`.
        let first = |shard: u32| (shard * u32::from(SLOTS)).div_ceil(shards) as u16;
        Self { epoch, runs: (0..shards).map(|shard| SlotRun { first: first(shard), shard: shard as u16 }).collect() }
    }

    /// These runs, or what is wrong with them.
    pub(super) fn of(epoch: u64, runs: Vec<SlotRun>, shards: usize) -> Result<Self, String> {
        if runs.first().is_none_or(|run| run.first != 0) {
            return Err("the first run of slots begins at slot 0".into());
        }
        for pair in runs.windows(2) {
            if pair[0].first >= pair[1].first {
                return Err(format!("the run at slot {} follows the one at {}", pair[1].first, pair[0].first));
            }
            if pair[0].shard == pair[1].shard {
                return Err(format!("two runs of shard {} follow each other at slot {}", pair[1].shard, pair[1].first));
            }
        }
        if let Some(run) = runs.iter().find(|run| run.first >= SLOTS || usize::from(run.shard) >= shards) {
            return Err(format!("a run at slot {} of shard {}", run.first, run.shard));
        }
        Ok(Self { epoch, runs: runs.into() })
    }

    /// Grows by one with each change; 0 before there are shards.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The runs, in the order of slots; the first begins at slot 0, the last ends with the last slot.
    #[must_use]
    pub fn runs(&self) -> &[SlotRun] {
        &self.runs
    }

    /// The shard of a slot; `None` before there are shards, and of a slot that there is not.
    #[must_use]
    pub fn shard(&self, slot: u16) -> Option<u16> {
        if slot >= SLOTS {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= slot);
        self.runs.get(after.checked_sub(1)?).map(|run| run.shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_runs_are_those_of_the_shards_crate() {
        for shards in [1, 2, 3, 7, 16, 100, 128, 1000, 1024] {
            let map = SlotRuns::even(1, shards);
            assert_eq!(map.runs().len(), usize::from(shards));
            for slot in 0..SLOTS {
                let there = u32::from(slot) * u32::from(shards) / u32::from(SLOTS);
                assert_eq!(map.shard(slot).map(u32::from), Some(there), "slot {slot} of {shards} shards");
            }
            assert_eq!(map.shard(SLOTS), None);
            assert_eq!(SlotRuns::of(1, map.runs().to_vec(), usize::from(shards)), Ok(map));
        }
        assert_eq!(SlotRuns::default().shard(0), None);
    }

    #[test]
    fn runs_that_are_no_map_are_refused() {
        let run = |first, shard| SlotRun { first, shard };
        for (runs, error) in [
            (vec![], "begins at slot 0"),
            (vec![run(1, 0)], "begins at slot 0"),
            (vec![run(0, 0), run(0, 1)], "at slot 0 follows the one at 0"),
            (vec![run(0, 0), run(9, 1), run(8, 0)], "at slot 8 follows the one at 9"),
            (vec![run(0, 0), run(9, 1), run(12, 1)], "two runs of shard 1"),
            (vec![run(0, 0), run(SLOTS, 1)], "a run at slot 4096"),
            (vec![run(0, 0), run(9, 2)], "a run at slot 9 of shard 2"),
        ] {
            let found = SlotRuns::of(2, runs.clone(), 2);
            assert!(found.as_ref().is_err_and(|e| e.contains(error)), "{runs:?}: {found:?}");
        }
    }
}
