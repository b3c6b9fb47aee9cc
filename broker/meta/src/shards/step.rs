//! The next change of one shard's membership towards where its replicas shall be.

use std::collections::{BTreeMap, BTreeSet};

use super::report::ShardReport;
use crate::plan::{Step, voters_for};
use crate::state::{Member, MemberStatus};

/// What is known besides the report.
pub(super) struct Around<'a> {
    /// Where the shard's replicas shall be.
    pub(super) wanted: &'a BTreeSet<u64>,
    pub(super) members: &'a BTreeMap<u64, Member>,
    /// Who should vote where not all replicas do: the voters of the meta group, so that both stand the same failures.
    pub(super) preferred: &'a BTreeSet<u64>,
    /// How many shards each leads.
    pub(super) led: &'a BTreeMap<u64, u32>,
}

impl Around<'_> {
    fn is_up(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(|m| m.up)
    }

    fn is_active(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(Member::is_active)
    }

    /// Its data directory will never be seen again, or is somebody else's.
    fn is_gone(&self, id: u64) -> bool {
        self.members.get(&id).is_none_or(|m| m.status == MemberStatus::Replaced)
    }
}

/// How far a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// No change was begun.
    Still,
    /// Replicas were added or taken out, and it is not finished.
    Begun,
    /// The same, and it goes on only when a node answers that does not.
    Stalled,
}

/// The next step, or `None` when the shard is as it should be or nothing can be done safely now.
///
/// The rules are those of [`crate::plan()`], but for where the replicas shall be: replicas are added first, as learners. They vote when
/// they have caught up, in the place of those that are to go; these keep their votes until then, but for a replaced node, whose vote goes at
/// once. What is no longer wanted leaves the group last. No step leaves it with fewer reachable voters than a quorum needs.
pub(super) fn next(report: &ShardReport, around: &Around<'_>) -> Option<Step> {
    if !report.settled || !report.has_quorum() {
        return None;
    }
    let addable = |id: &&u64| !report.has(**id) && around.is_up(**id) && around.is_active(**id);
    if let Some(id) = around.wanted.iter().find(addable) {
        return Some(Step::AddLearner(*id));
    }
    if let Some(voters) = next_voters(report, around)
        && voters != report.voters
    {
        if !voters.contains(&report.leader)
            && let Some(next) = successor(report, &voters, around)
        {
            return Some(Step::TransferLeader(next));
        }
        return Some(Step::ChangeVoters(voters));
    }
    if !report.voters.contains(&report.leader)
        && let Some(next) = successor(report, &report.voters, around)
    {
        return Some(Step::TransferLeader(next));
    }
    report.learners.difference(around.wanted).next().map(|id| Step::RemoveNode(*id))
}

/// How far the shard is, by the report alone: so that whoever becomes meta leader knows what the one before has begun.
pub(super) fn progress(report: &ShardReport, around: &Around<'_>) -> Progress {
    let wanted = around.wanted;
    let voting = report.voters.intersection(wanted).count();
    // Replicas on their way in, and those on their way out.
    let comes = |id: &&u64| voting < voters_for(wanted.len()) || !report.caught_up.contains(id);
    let coming = || report.learners.intersection(wanted).filter(comes);
    let going = report.learners.difference(wanted).count();
    if going == 0 && coming().count() == 0 {
        Progress::Still
    } else if going == 0 && coming().all(|id| !report.reachable.contains(id)) {
        Progress::Stalled
    } else {
        Progress::Begun
    }
}

/// How many voters the shard lacks that answer and stay.
pub(super) fn lacking(report: &ShardReport, around: &Around<'_>) -> usize {
    let good = report.voters.iter().filter(|id| report.reachable.contains(id) && around.is_active(**id)).count();
    voters_for(around.wanted.len()).saturating_sub(good)
}

/// A voter now and afterwards that could lead; of several the one that leads least.
fn successor(report: &ShardReport, voters: &BTreeSet<u64>, around: &Around<'_>) -> Option<u64> {
    let could = |id: &&u64| report.reachable.contains(id) && report.caught_up.contains(id);
    let both = report.voters.intersection(voters).filter(could);
    both.min_by_key(|id| (around.led.get(id).copied().unwrap_or(0), **id)).copied()
}

/// Who should vote after the next change; `None` when any change would endanger the quorum.
fn next_voters(report: &ShardReport, around: &Around<'_>) -> Option<BTreeSet<u64>> {
    let wanted = around.wanted;
    let count = voters_for(wanted.len());
    let alive = |id: &u64| report.reachable.contains(id) || around.is_up(*id);
    let gone = |id: &u64| around.is_gone(*id);
    let ready = |id: &u64| report.reachable.contains(id) && report.caught_up.contains(id);
    let promotable = |id: &u64| report.learners.contains(id) && ready(id) && around.is_active(*id);

    // In the order in which they are wanted. The leader first: a change that keeps it needs no election.
    let mut order: Vec<u64> = report.voters.intersection(wanted).filter(|id| !gone(id)).copied().collect();
    order.extend(wanted.iter().filter(|id| promotable(id)));
    order.sort_by_key(|id| {
        let rank = match id {
            id if *id == report.leader => 0,
            id if !alive(id) => 3,
            id if report.voters.contains(id) => 1,
            _ => 2,
        };
        (!(around.preferred.contains(id) && alive(id)), rank, *id)
    });
    order.truncate(count);
    let mut voters: BTreeSet<u64> = order.iter().copied().collect();

    // Those on their way out keep their votes until others can have them.
    let mut leaving: Vec<u64> = report.voters.difference(wanted).filter(|id| !gone(id)).copied().collect();
    leaving.sort_by_key(|id| (*id != report.leader, !alive(id), *id));
    voters.extend(leaving.iter().take(count.saturating_sub(voters.len())));

    // An even number of voters stands no more failures than one fewer: growth waits for the next odd number.
    let forced = report.voters.iter().any(gone);
    if !forced && voters.len() > report.voters.len() && voters.len().is_multiple_of(2) {
        let last = order.iter().rev().find(|id| !report.voters.contains(id))?;
        voters.remove(last);
    }
    let reachable = voters.intersection(&report.reachable).count();
    (reachable > voters.len() / 2).then_some(voters)
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
