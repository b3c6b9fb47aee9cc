//! The shards of the cluster: who has them, who shall have them, and how the one becomes the other.
//!
//! * [`ShardTable`] is part of the meta group's state: which slot belongs to which shard, where each shard's replicas shall be, and where
//!   they are as its leader said last. A shard is a group of its own, named by ([`group_of`] the shard, its generation).
//! * [`place()`] says where the replicas shall be, [`leaders()`] who shall lead.
//! * [`ShardDriver`] is what the meta leader does about it: members and reports of the shards' leaders in, [`ShardStep`]s out.
//!
//! A shard comes to be in four entries of meta's log: it is created, placed, somebody is named who forms it, and then it is formed. Who forms it
//! is in the log before anybody initialises the group and stays the same for the generation: so a group is never begun by two sets of voters,
//! whatever becomes of the leader that drives this.

use std::collections::BTreeSet;

use crate::command::MetaCommand;
use crate::plan::Step;

mod apply;
mod chain;
mod drive;
mod leaders;
mod place;
mod report;
#[cfg(test)]
mod sim;
mod slots;
mod step;
mod table;
#[cfg(test)]
mod tests;

pub use drive::{MAX_CHANGES, REPORT_FRESH_MS, STEP_VALID_MS, ShardDriver};
pub use leaders::{Led, leaders};
pub use place::{Candidate, DOWN_GRACE_MS, place};
pub use report::ShardReport;
pub use slots::{SLOTS, SlotRun, SlotRuns};
pub use table::{Reported, Shard, ShardTable};

/// What the driver wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardStep {
    /// To be proposed to the meta group.
    Propose(MetaCommand),
    /// A node is to initialise the group with these voters, unless it has that group already.
    Initialise {
        /// Who; one of the voters.
        node: u64,
        /// The shard.
        shard: u16,
        /// The generation of its group.
        generation: u32,
        /// Those that the table names ([`Shard::initial`]).
        voters: BTreeSet<u64>,
    },
    /// A shard's leader is to change the membership of its group. It does so only while it leads in that term and the membership in its
    /// log is the one at that index and settled, and only for [`STEP_VALID_MS`]: a step that comes twice or late changes nothing.
    Change {
        /// The leader.
        node: u64,
        /// The shard.
        shard: u16,
        /// The generation of its group.
        generation: u32,
        /// The leader's term.
        term: u64,
        /// Index of the membership that is to be changed.
        index: u64,
        /// The change.
        step: Step,
    },
}

/// Most shards.
pub const MAX_SHARDS: u16 = 1024;
/// Most replicas of a shard: no more than may vote.
pub const MAX_REPLICATION: u8 = 5;
/// Longest zone, in bytes: it comes from a label of Kubernetes, which is no longer.
pub const MAX_ZONE: usize = 63;

/// The number of the first shard's group. Those below are for the groups that a cluster has one of.
const FIRST_GROUP: u32 = 16;

/// The number of a shard's group.
#[must_use]
pub const fn group_of(shard: u16) -> u32 {
    FIRST_GROUP + shard as u32
}

/// The shard of a group of that number, if it is a shard's.
#[must_use]
pub fn shard_of(group: u32) -> Option<u16> {
    let shard = u16::try_from(group.checked_sub(FIRST_GROUP)?).ok()?;
    (shard < MAX_SHARDS).then_some(shard)
}
