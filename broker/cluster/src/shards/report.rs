//! What a node says to the meta leader of the shards that it leads, and how it changes their memberships.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftmq_meta::Step;
use raftmq_meta::shards::ShardReport;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::driver::membership;
use crate::node::{Node, RETRY, Running};
use crate::wire::Request;

use super::{Replica, ShardId};

/// Between two looks at whether there is something new to say.
const LOOK: Duration = Duration::from_millis(100);
/// What has not changed is said again so often.
const AGAIN: Duration = Duration::from_secs(1);

/// A change of a shard's membership that the meta leader wants. It is void when the shard's leader, its term or its membership is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) shard: u16,
    pub(crate) generation: u32,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) step: Step,
}

/// A node's report.
pub(crate) type Report = Vec<ShardReport>;

/// Where reports arrive, for the meta leader: the latest of each shard, so that it is bounded.
#[derive(Default)]
pub(crate) struct Desk {
    reports: Mutex<BTreeMap<u16, ShardReport>>,
    filled: Notify,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, ShardReport>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node reports.
    pub(crate) fn report(&self, from: u64, reports: Report) {
        let mut desk = self.lock();
        for report in reports.into_iter().filter(|report| report.leader == from) {
            let age = |report: &ShardReport| (report.generation, report.term, report.index);
            if desk.get(&report.shard).is_none_or(|known| age(known) <= age(&report)) {
                desk.insert(report.shard, report);
            }
        }
        drop(desk);
        self.filled.notify_one();
    }

    /// What has come since this was asked last.
    pub(super) fn take(&self) -> Report {
        std::mem::take(&mut *self.lock()).into_values().collect()
    }

    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }
}

/// Reports for as long as the node lives.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut said: Option<(Option<u64>, Report)> = None;
    let mut at = Instant::now();
    loop {
        for replica in running.shards.all() {
            // A leader before died in the middle of a change.
            if replica.group.status().borrow().change_unfinished
                && let Err(error) = replica.group.finish_change().await
            {
                debug!(shard = replica.id.number, %error, "finishing a change of the voters");
            }
        }
        let reports = reports(&node, running);
        let leader = running.meta.status().borrow().leader;
        let now = (leader, reports);
        if !now.1.is_empty() && (at.elapsed() >= AGAIN || said.as_ref() != Some(&now)) {
            tell(&node, running, &now).await;
            at = Instant::now();
            said = Some(now);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What this node leads.
fn reports(node: &Node, running: &Running) -> Report {
    let report = |replica: Replica| {
        let status = replica.group.status().borrow().clone();
        let index = status.membership_index.filter(|_| status.is_leader())?;
        let group = membership(&status, &node.config.raft);
        Some(ShardReport {
            shard: replica.id.number,
            generation: replica.id.generation,
            leader: running.id,
            term: status.term,
            index,
            settled: status.membership_settled,
            voters: group.voters,
            learners: group.learners,
            reachable: group.reachable,
            caught_up: group.caught_up,
        })
    };
    running.shards.all().into_iter().filter_map(report).collect()
}

async fn tell(node: &Node, running: &Running, (leader, reports): &(Option<u64>, Report)) {
    match leader {
        None => {}
        Some(leader) if *leader == running.id => running.shard_desk.report(running.id, reports.clone()),
        Some(leader) => {
            if let Err(error) = node.net.call_node(*leader, &Request::Shards(reports.clone()), RETRY * 5).await {
                debug!(%error, "reporting shards");
            }
        }
    }
}

/// Changes a shard's membership, unless that is void. Says whether it was begun.
pub(crate) async fn carry_out(running: &Running, change: Change) -> bool {
    let Change { shard, generation, term, index, step } = change;
    let Some(replica) = running.shards.replica(ShardId { number: shard, generation }) else { return false };
    let group = &replica.group;
    {
        let status = group.status();
        let status = status.borrow();
        let same = status.is_leader()
            && status.term == term
            && status.membership_index == Some(index)
            && status.membership_settled;
        if !same {
            return false;
        }
    }
    info!(shard, ?step, "membership");
    let done = match step {
        Step::AddLearner(id) => group.add_learner(id).await,
        Step::TransferLeader(to) => group.transfer_leader(to).await,
        Step::ChangeVoters(voters) => group.change_voters(voters, true).await,
        Step::RemoveNode(id) => group.remove(id).await,
    };
    if let Err(error) = done {
        warn!(shard, %error, "membership");
    }
    true
}
