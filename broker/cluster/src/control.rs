//! What the control API offers.

use std::sync::Arc;
use std::time::Duration;

use raftmq_meta::{Ban, BanTarget, LossReport, MemberStatus};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::node::Node;

/// The part of a member in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MemberRole {
    /// Leads the meta group.
    Leader,
    /// Votes in the meta group.
    Voter,
    /// Follows without a vote.
    Learner,
    /// Not in the group, yet or any more.
    None,
}

/// A member, for people and tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberInfo {
    /// Name.
    pub name: String,
    /// Raft id.
    pub id: u64,
    /// Incarnation, 32 hexadecimal digits.
    pub incarnation: String,
    /// Count of its starts.
    pub boot: u64,
    /// Address of its links.
    pub link_address: String,
    /// Address of its control API.
    pub control_address: String,
    /// What fails together with it; empty where it has told none.
    pub zone: String,
    /// Version of its binary.
    pub version: String,
    /// `active`, `leaving` or `replaced`.
    pub status: String,
    /// Its part in the meta group.
    pub role: MemberRole,
    /// Whether it is held to be alive.
    pub up: bool,
    /// Whether it is the node that answers.
    pub this_node: bool,
}

/// A group, as the node that answers knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupInfo {
    /// `meta`, `routes`, or `shard` and its number.
    pub name: String,
    /// Number of the group.
    pub number: u32,
    /// Its generation.
    pub generation: u32,
    /// Current term.
    pub term: u64,
    /// The part of the node that answers: `leader`, `follower`, `candidate`, `learner`, `stopped`.
    pub role: String,
    /// Raft id of the leader, if known.
    pub leader: Option<u64>,
    /// Its name, if known.
    pub leader_name: Option<String>,
    /// Who votes.
    pub voters: Vec<u64>,
    /// Who follows without a vote.
    pub learners: Vec<u64>,
    /// Index of the last entry in the log of the node that answers.
    pub last_log: Option<u64>,
    /// Index up to which it knows the log to be committed.
    pub committed: Option<u64>,
    /// Index up to which it has applied.
    pub applied: Option<u64>,
    /// Index that its last snapshot covers.
    pub snapshot: Option<u64>,
    /// Index up to which its log was purged.
    pub purged: Option<u64>,
}

/// Why an operation was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum ControlError {
    /// The request cannot be right, whenever it is made.
    #[error("{0}")]
    Invalid(String),
    /// What is asked for contradicts what is: another cluster exists, another change is on its way.
    #[error("{0}")]
    Conflict(String),
    /// Not found.
    #[error("{0}")]
    NotFound(String),
    /// Not possible now; the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
}

/// The operations of the control API. Each has a deadline of its own of some seconds, works on any node and asks the node that can do it.
#[derive(Clone)]
pub struct Control {
    pub(crate) node: Arc<Node>,
}

/// How long an operation may take, forwarding included.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

impl Control {
    /// Lets the nodes of these names, all empty, form the cluster: given once, after its intent was recorded. Repeating it with the
    /// same names is harmless. Returns the cluster's identity.
    ///
    /// # Errors
    /// `Invalid`: names missing, twice or impossible. `Conflict`: a node is or was a member of a cluster. `Unavailable`: a
    /// node is not found yet or does not answer.
    pub async fn bootstrap(&self, members: Vec<String>) -> Result<u128, ControlError> {
        crate::bootstrap::bootstrap(&self.node, members).await
    }

    /// All members.
    pub fn members(&self) -> Vec<MemberInfo> {
        let meta = self.node.meta_state();
        let status = self.node.running().map(|r| r.meta.status().borrow().clone());
        let role = |id: u64| match &status {
            Some(s) if s.leader == Some(id) => MemberRole::Leader,
            Some(s) if s.voters.contains(&id) => MemberRole::Voter,
            Some(s) if s.learners.contains(&id) => MemberRole::Learner,
            _ => MemberRole::None,
        };
        let own = self.node.raft_id();
        meta.members
            .values()
            .map(|m| MemberInfo {
                name: m.name.clone(),
                id: m.id,
                incarnation: format!("{:032x}", m.incarnation),
                boot: m.boot,
                link_address: m.addresses.link.clone(),
                control_address: m.addresses.control.clone(),
                zone: meta.shards.zone(m.id).to_owned(),
                version: m.version.clone(),
                status: match m.status {
                    MemberStatus::Active => "active",
                    MemberStatus::Leaving => "leaving",
                    MemberStatus::Replaced => "replaced",
                }
                .to_owned(),
                role: role(m.id),
                up: m.up,
                this_node: own == Some(m.id),
            })
            .collect()
    }

    /// The leader of the meta group, if this node knows one.
    pub fn leader(&self) -> Option<MemberInfo> {
        self.members().into_iter().find(|m| m.role == MemberRole::Leader)
    }

    /// The groups of which this node has a replica, as it sees them.
    pub fn groups(&self) -> Vec<GroupInfo> {
        crate::member::group_infos(&self.node)
    }

    /// Takes a member out of the cluster. Returns when it is recorded; [`Self::members`] tells when it is done.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for the last member, `Unavailable`.
    pub async fn leave(&self, node: &str) -> Result<(), ControlError> {
        crate::driver::leave(&self.node, node).await
    }

    /// Hands the leadership of a group (`meta`, `routes` or `shard 3`) to a voter, or to any other one when `to` is none.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the target does not vote, `Unavailable`.
    pub async fn transfer(&self, group: &str, to: Option<&str>) -> Result<(), ControlError> {
        crate::driver::transfer(&self.node, group, to).await
    }

    /// Bans clients, at most [`raftmq_meta::MAX_BATCH`] at once. Returns when it is committed.
    ///
    /// # Errors
    /// `Invalid`, `Conflict` when the list is full or a member does not know bans, `Unavailable`.
    pub async fn ban(&self, bans: Vec<Ban>) -> Result<usize, ControlError> {
        crate::bans::add(&self.node, bans).await
    }

    /// Ends a ban. Returns when it is committed.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn unban(&self, target: BanTarget) -> Result<(), ControlError> {
        crate::bans::remove(&self.node, target).await
    }

    /// What would be lost if this member stopped now, in the eyes of the meta leader.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn loss(&self, node: &str) -> Result<LossReport, ControlError> {
        crate::driver::loss(&self.node, node).await
    }
}
