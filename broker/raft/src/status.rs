//! What a group's replica knows about its group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use raftmq_storage::GroupId;

use crate::NodeId;

/// The part that this node plays in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Gets the log without a vote; also a node that is no member yet, or any more.
    Learner,
    /// Votes, and follows a leader or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads: the only one that takes proposals.
    Leader,
    /// Shut down, or stopped by an error ([`GroupStatus::failure`]).
    Stopped,
}

/// A snapshot of what a replica knows. Indexes are `None` before the first entry: the log begins at index 0.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// Which group.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// This node's part.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// The leader of the term, if this node knows it.
    pub leader: Option<NodeId>,
    /// Index of the last entry in this node's log.
    pub last_log: Option<u64>,
    /// Index up to which this node knows its log to be committed.
    pub committed: Option<u64>,
    /// Index up to which this node has applied.
    pub applied: Option<u64>,
    /// Index that the last snapshot covers.
    pub snapshot: Option<u64>,
    /// Index up to which the log was purged.
    pub purged: Option<u64>,
    /// Who votes. While the group goes from one set of voters to another: both sets together.
    pub voters: BTreeSet<NodeId>,
    /// Who gets the log without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether the membership above is committed and not on the way from one set of voters to another: the moment for
    /// the next change.
    pub membership_settled: bool,
    /// On the leader: the other members.
    pub followers: BTreeMap<NodeId, FollowerStatus>,
    /// On the leader: when it last sent what a quorum has answered since.
    pub quorum_acked: Option<Instant>,
    /// Why the replica stopped, if an error stopped it.
    pub failure: Option<String>,
}

/// What the leader knows about another member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FollowerStatus {
    /// The log is known to be the same up to here.
    pub matched: Option<u64>,
    /// When the leader last sent what the member has answered since. Changes of this alone do not wake watchers.
    pub acked: Option<Instant>,
}

impl GroupStatus {
    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// Whether the node is a voter or a learner.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}
