//! What would be lost if a node stopped.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::plan::GroupMembership;
use crate::state::MetaState;

/// One group after the stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLoss {
    /// Name of the group.
    pub group: String,
    /// Whether the node votes in it.
    pub votes: bool,
    /// Voters that are alive after the stop.
    pub live_after: usize,
    /// Voters that a decision needs.
    pub quorum: usize,
    /// Whether the group has its quorum now.
    pub has_quorum: bool,
    /// Whether the stop takes it away.
    pub loses_quorum: bool,
}

/// The answer to "may this node stop?".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossReport {
    /// The node asked for.
    pub node: u64,
    /// Whether it is a member at all.
    pub member: bool,
    /// Each group.
    pub groups: Vec<GroupLoss>,
    /// Nothing is lost: every group has its quorum and keeps it, and another member is alive.
    pub nothing: bool,
    /// What is lost, as sentences.
    pub reasons: Vec<String>,
}

impl LossReport {
    /// The node passes on so many connections between others that do not reach each other: without it they are cut off from each other.
    pub fn relays(&mut self, connections: u64) {
        if connections > 0 {
            self.nothing = false;
            self.reasons.push(format!(
                "nodes that do not reach each other are connected by it ({connections} connections): they would be cut off from each other"
            ));
        }
    }
}

/// What is lost if `node` stops while the nodes in `live` are alive; `groups` are the groups by name.
pub fn would_lose(
    state: &MetaState,
    groups: &[(String, GroupMembership)],
    live: &BTreeSet<u64>,
    node: u64,
) -> LossReport {
    let mut reasons = Vec::new();
    let member = state.members.contains_key(&node);
    let others = state.active().filter(|m| m.id != node && live.contains(&m.id)).count();
    if member && others == 0 {
        reasons.push("no other member is alive: every client loses its broker".to_owned());
    }
    let mut losses = Vec::new();
    for (name, group) in groups {
        let quorum = group.voters.len() / 2 + 1;
        let live_now = group.voters.intersection(live).count();
        let live_after = group.voters.iter().filter(|id| **id != node && live.contains(id)).count();
        let has_quorum = live_now >= quorum;
        let loses_quorum = has_quorum && live_after < quorum;
        if loses_quorum {
            reasons.push(format!(
                "group {name} loses its quorum: {live_after} of {} voters alive, {quorum} needed",
                group.voters.len()
            ));
        } else if !has_quorum {
            reasons.push(format!(
                "group {name} has no quorum: {live_now} of {} voters alive, {quorum} needed",
                group.voters.len()
            ));
        }
        losses.push(GroupLoss {
            group: name.clone(),
            votes: group.voters.contains(&node),
            live_after,
            quorum,
            has_quorum,
            loses_quorum,
        });
    }
    LossReport { node, member, groups: losses, nothing: reasons.is_empty(), reasons }
}
