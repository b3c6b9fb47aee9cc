//! What a group's replica knows about its group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use openraft::{Instant as _, ServerState, TokioInstant};
use raftmq_storage::GroupId;

use crate::NodeId;
use crate::types::{LogId, Types};

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
#[derive(Debug, Clone, PartialEq)]
pub struct GroupStatus {
    /// Which group.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// This node's part.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// The leader of the term, if this node knows it. A follower that lost its leader names it until there is another one.
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
    /// Index of the entry that the membership above is from, committed or not; `None` while there is none.
    pub membership_index: Option<u64>,
    /// Whether the membership above is committed and not on the way from one set of voters to another: the moment for
    /// the next change.
    pub membership_settled: bool,
    /// On the leader: the group is on the way from one set of voters to another, and nothing is on its way to complete that but
    /// what this leader itself may have begun. A leader before left it so: [`crate::Group::finish_change`].
    pub change_unfinished: bool,
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

    /// Before anything is known.
    pub(crate) fn new(group: GroupId, node: NodeId) -> Self {
        Self {
            group,
            node,
            role: Role::Learner,
            term: 0,
            leader: None,
            last_log: None,
            committed: None,
            applied: None,
            snapshot: None,
            purged: None,
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            membership_index: None,
            membership_settled: false,
            change_unfinished: false,
            followers: BTreeMap::new(),
            quorum_acked: None,
            failure: None,
        }
    }

    pub(crate) fn from_metrics(group: GroupId, metrics: &openraft::RaftMetrics<Types>) -> Self {
        let index = |id: &Option<LogId>| id.as_ref().map(|id| id.index);
        let failure = match &metrics.running_state {
            Ok(()) | Err(openraft::error::Fatal::Stopped) => None,
            Err(fatal) => Some(fatal.to_string()),
        };
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        };
        let membership = metrics.membership_config.membership();
        // Before that, a leader does not know what else is committed, and openraft refuses changes.
        let committed_in_term =
            metrics.local_committed.as_ref().is_some_and(|id| id.leader_id.term == metrics.current_term);
        let committed = metrics.membership_config == metrics.committed_membership_config;
        let joint = membership.get_joint_config().len() > 1;
        let mut followers = BTreeMap::<NodeId, FollowerStatus>::new();
        for (node, matched) in metrics.replication.iter().flatten().filter(|(node, _)| **node != metrics.id) {
            followers.entry(*node).or_default().matched = index(matched);
        }
        for (node, acked) in metrics.heartbeat.iter().flatten() {
            if let Some(follower) = followers.get_mut(node) {
                follower.acked = acked.and_then(|instant| std_instant(instant.into_inner()));
            }
        }
        Self {
            group,
            node: metrics.id,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index,
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            membership_index: index(metrics.membership_config.log_id()),
            membership_settled: committed && !joint && (role != Role::Leader || committed_in_term),
            change_unfinished: committed && joint && role == Role::Leader && committed_in_term,
            followers,
            quorum_acked: metrics.last_quorum_acked.and_then(|instant| std_instant(instant.into_inner())),
            failure,
        }
    }

    /// Whether more than the times of acknowledgements differ.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let indexes = |s: &Self| (s.last_log, s.committed, s.applied, s.snapshot, s.purged);
        let election = |s: &Self| (s.role, s.term, s.leader, s.membership_settled, s.change_unfinished);
        let matched = |s: &Self, o: &Self| {
            let of_other = o.followers.iter().map(|(id, f)| (*id, f.matched));
            s.followers.iter().map(|(id, f)| (*id, f.matched)).eq(of_other)
        };
        indexes(self) != indexes(other)
            || election(self) != election(other)
            || !matched(self, other)
            || self.membership_index != other.membership_index
            || self.voters != other.voters
            || self.learners != other.learners
            || self.failure != other.failure
    }
}

/// openraft keeps its clock's reading to itself, so the way there is how long ago it was.
fn std_instant(instant: TokioInstant) -> Option<Instant> {
    Instant::now().checked_sub(TokioInstant::now() - instant)
}
