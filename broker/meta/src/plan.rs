//! Which members vote, and the next step towards it: a pure function of the meta state and a group's membership.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::state::{MemberStatus, MetaState};

/// What the leader of a group knows of the group's membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupMembership {
    /// The leader itself.
    pub leader: u64,
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Who follows without a vote.
    pub learners: BTreeSet<u64>,
    /// Who answered the leader within the last seconds, the leader included.
    pub reachable: BTreeSet<u64>,
    /// Who has nearly all of the log, the leader included.
    pub caught_up: BTreeSet<u64>,
    /// Who should vote where there is a choice: for every other group the voters of the meta group, so that all groups
    /// stand the same failures. Empty: nobody in particular.
    pub preferred: BTreeSet<u64>,
}

/// The next change of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The node follows the log without a vote.
    AddLearner(u64),
    /// The leader hands on to this voter, because it is to stop voting itself.
    TransferLeader(u64),
    /// These vote from now on; who no longer does stays as a learner.
    ChangeVoters(BTreeSet<u64>),
    /// The node leaves the group.
    RemoveNode(u64),
}

/// How many of so many members vote: the largest of 1, 3 and 5 that fits.
pub fn voters_for(members: usize) -> usize {
    match members {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// The next step of the group, or `None` when it is as it should be or nothing can be done safely now.
///
/// Learners are added first. Voters are kept where they can be; one that is replaced loses its vote at once, one that is leaving or
/// down when another can take its place. No step leaves the group with fewer reachable voters than its quorum.
pub fn plan(state: &MetaState, group: &GroupMembership) -> Option<Step> {
    let in_group = |id: &u64| group.voters.contains(id) || group.learners.contains(id);
    if let Some(member) = state.active().find(|m| !in_group(&m.id)) {
        return Some(Step::AddLearner(member.id));
    }
    let wanted = wanted_voters(state, group);
    if let Some(new) = wanted
        && new != group.voters
    {
        if !new.contains(&group.leader)
            && let Some(next) = successor(group, &new)
        {
            return Some(Step::TransferLeader(next));
        }
        return Some(Step::ChangeVoters(new));
    }
    // A change that took the leader's vote hands on by itself; where that failed, again.
    if !group.voters.contains(&group.leader)
        && let Some(next) = successor(group, &group.voters)
    {
        return Some(Step::TransferLeader(next));
    }
    let gone = |id: &&u64| state.members.get(id).is_none_or(|m| !m.is_active());
    group.learners.iter().find(gone).map(|id| Step::RemoveNode(*id))
}

/// A voter now and afterwards that could lead.
fn successor(group: &GroupMembership, new: &BTreeSet<u64>) -> Option<u64> {
    group.voters.intersection(new).find(|id| group.reachable.contains(id) && group.caught_up.contains(id)).copied()
}

/// Who should vote after the next change; `None` when any change would endanger the quorum.
fn wanted_voters(state: &MetaState, group: &GroupMembership) -> Option<BTreeSet<u64>> {
    let active: BTreeSet<u64> = state.active().map(|m| m.id).collect();
    let count = voters_for(active.len());
    let up = |id: &u64| group.reachable.contains(id) || state.members.get(id).is_some_and(|m| m.up);
    let promotable =
        |id: &u64| group.learners.contains(id) && group.reachable.contains(id) && group.caught_up.contains(id);

    // In the order in which they are wanted. The leader first: a change that keeps it needs no election.
    let mut order: Vec<u64> = Vec::new();
    let kept = || active.intersection(&group.voters).copied();
    order.extend(kept().filter(|id| *id == group.leader));
    order.extend(kept().filter(|id| *id != group.leader && up(id)));
    order.extend(active.iter().copied().filter(|id| promotable(id)));
    order.extend(kept().filter(|id| *id != group.leader && !up(id)));
    // Stable: among the preferred the order stays. One that is down is no reason to wait.
    order.sort_by_key(|id| !(group.preferred.contains(id) && up(id)));
    order.truncate(count);

    let gone: BTreeSet<u64> = group.voters.difference(&active).copied().collect();
    let mut new: BTreeSet<u64> = order.iter().copied().collect();
    // A member on its way out keeps its vote while its successor catches up; a replaced one must lose it at once.
    if new.len() < count {
        let could_still = active.iter().any(|id| !new.contains(id) && up(id));
        if could_still {
            let leaving = gone
                .iter()
                .filter(|id| state.members.get(id).is_some_and(|m| m.status == MemberStatus::Leaving) && up(id));
            let room = count - new.len();
            new.extend(leaving.take(room));
        }
    }
    // An even number of voters stands no more failures than one fewer: growth waits for the next odd number.
    if gone.is_empty() && new.len() > group.voters.len() && new.len().is_multiple_of(2) {
        let last = order.iter().rev().find(|id| !group.voters.contains(id)).copied()?;
        new.remove(&last);
    }
    let alive = new.iter().filter(|id| group.reachable.contains(id)).count();
    if new.is_empty() || alive <= new.len() / 2 {
        return None;
    }
    Some(new)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
