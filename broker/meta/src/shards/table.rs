//! The table as the meta group keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::slots::SlotRuns;

/// Where the replicas of a shard are, as its leader said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Index of the membership in the group's log; it was committed.
    pub index: u64,
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Who follows without a vote.
    pub learners: BTreeSet<u64>,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub(super) generation: u32,
    pub(super) wanted: BTreeSet<u64>,
    pub(super) initial: BTreeSet<u64>,
    pub(super) formed: bool,
    pub(super) reported: Option<Reported>,
    pub(super) renewed: u32,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            generation: 1,
            wanted: BTreeSet::new(),
            initial: BTreeSet::new(),
            formed: false,
            reported: None,
            renewed: 0,
        }
    }

    /// The group of the same number before, whose replicas are not the ones of this: from 1.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Where its replicas shall be; empty before it was placed.
    #[must_use]
    pub fn wanted(&self) -> &BTreeSet<u64> {
        &self.wanted
    }

    /// The voters that the group of this generation begins with, fixed before anybody initialises it; empty before somebody was named.
    #[must_use]
    pub fn initial(&self) -> &BTreeSet<u64> {
        &self.initial
    }

    /// Whether the group of this generation exists: from then on it is never initialised.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        self.formed
    }

    /// What the leader said of its membership last; `None` before it has.
    #[must_use]
    pub fn reported(&self) -> Option<&Reported> {
        self.reported.as_ref()
    }

    /// How often the group was made anew because the one before had lost its quorum for good.
    #[must_use]
    pub fn renewed(&self) -> u32 {
        self.renewed
    }

    /// Who has a replica as far as the table knows: as reported, or else who forms the group.
    pub fn holders(&self) -> impl Iterator<Item = u64> {
        let (first, second) = match &self.reported {
            Some(reported) => (&reported.voters, Some(&reported.learners)),
            None => (&self.initial, None),
        };
        first.iter().chain(second.into_iter().flatten()).copied()
    }
}

/// The shards, where they shall be and are, the slots that they have; and the zones of the members.
///
/// The meta group's state is copied after each entry: a copy shares what did not change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardTable {
    pub(super) replication: u8,
    pub(super) slots: SlotRuns,
    pub(super) placed: u64,
    pub(super) shards: Vec<Arc<Shard>>,
    pub(super) zones: Arc<BTreeMap<u64, String>>,
}

impl ShardTable {
    /// Whether there is nothing in it, not even a zone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.zones.is_empty()
    }

    /// How many shards there are: 0 before they are created, and the same number ever after.
    #[must_use]
    pub fn count(&self) -> u16 {
        // At most MAX_SHARDS.
        self.shards.len() as u16
    }

    /// How many replicas a shard has where there are so many members; 0 before the shards are created.
    #[must_use]
    pub fn replication(&self) -> u8 {
        self.replication
    }

    /// Which shard has which slot.
    #[must_use]
    pub fn slots(&self) -> &SlotRuns {
        &self.slots
    }

    /// Counts the changes of what is wanted: a plan is made for one of these epochs.
    #[must_use]
    pub fn placed(&self) -> u64 {
        self.placed
    }

    /// The shard of that number.
    #[must_use]
    pub fn get(&self, shard: u16) -> Option<&Shard> {
        self.shards.get(usize::from(shard)).map(|shard| &**shard)
    }

    /// The shards with their numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Shard)> {
        (0..).zip(self.shards.iter().map(|shard| &**shard))
    }

    /// The zone of a member; empty where it has said none.
    #[must_use]
    pub fn zone(&self, id: u64) -> &str {
        self.zones.get(&id).map_or("", String::as_str)
    }

    /// Whether a member has a replica of some shard or is to have one: until then it cannot be taken out of the cluster without a loss.
    #[must_use]
    pub fn holds(&self, id: u64) -> bool {
        self.iter().any(|(_, shard)| shard.wanted.contains(&id) || shard.holders().any(|holder| holder == id))
    }
}
