//! What the leader of a shard's group says of it to the meta leader.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::MAX_MEMBERS;

/// A report. Sent every second or so, and when something in it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// The shard.
    pub shard: u16,
    /// The generation of its group.
    pub generation: u32,
    /// Who says so.
    pub leader: u64,
    /// The term in which it leads.
    pub term: u64,
    /// Index of the membership in the group's log.
    pub index: u64,
    /// Whether that membership is committed and no change of it is under way.
    pub settled: bool,
    /// Who votes; after a change that is under way.
    pub voters: BTreeSet<u64>,
    /// Who follows without a vote.
    pub learners: BTreeSet<u64>,
    /// Who answered within the last seconds, the leader included.
    pub reachable: BTreeSet<u64>,
    /// Who has nearly all of the log, the leader included.
    pub caught_up: BTreeSet<u64>,
}

impl ShardReport {
    /// Whether a node has a replica.
    pub(super) fn has(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether its sets are of a size that can be.
    pub(super) fn is_sound(&self) -> bool {
        let sets = [&self.voters, &self.learners, &self.reachable, &self.caught_up];
        !self.voters.is_empty() && sets.iter().all(|set| set.len() <= MAX_MEMBERS)
    }

    /// Reports of one shard in the order in which their content came to be.
    pub(super) fn age(&self) -> (u32, u64, u64, bool) {
        (self.generation, self.term, self.index, self.settled)
    }

    /// Whether so many of the voters answer as a quorum needs.
    pub(super) fn has_quorum(&self) -> bool {
        self.voters.intersection(&self.reachable).count() > self.voters.len() / 2
    }
}
