//! The meta leader's part: it creates the shards, and carries out what [`ShardDriver`] says.

use std::sync::Arc;
use std::time::Duration;

use raftmq_meta::shards::{STEP_VALID_MS, ShardDriver, ShardStep};
use raftmq_meta::{MetaCommand, MetaResponse, SHARDS_LEVEL};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::META;
use crate::driver::read_index;
use crate::member::propose;
use crate::node::{CALL, Node, RETRY, Running};
use crate::wire::{Request, Response};

use super::report::{Change, carry_out};
use super::{ShardId, host};

/// Between two looks when nothing happens.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks when something does.
const SOON: Duration = Duration::from_millis(50);
/// The members of a new cluster have so long to tell their zones before it gets shards, which would move right after else.
const ZONES: Duration = Duration::from_secs(2);

/// Drives the shards whenever this node leads the meta group.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut status = running.meta.status();
    loop {
        let term = match status.wait_for(|s| s.is_leader()).await {
            Ok(status) => status.term,
            Err(_) => return,
        };
        let mut ended = running.meta.status();
        tokio::select! {
            () = lead(&node, running) => {}
            _ = ended.wait_for(|s| !s.is_leader() || s.term != term) => {}
        }
        // What it did not take in is of no use to the next one.
        running.shard_desk.take();
        tokio::time::sleep(RETRY).await;
    }
}

async fn lead(node: &Arc<Node>, running: &Running) {
    let begun = Instant::now();
    let now = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut driver = ShardDriver::new(now());
    let mut state = node.meta.subscribe();
    let mut level_since: Option<Instant> = None;
    loop {
        for report in running.shard_desk.take() {
            driver.report(now(), report);
        }
        // The members may be known better elsewhere, and another one may lead by now.
        let known = match read_index(node, running, META.number).await {
            Some(index) => running.meta.wait_applied(index, CALL).await.is_ok(),
            None => false,
        };
        let mut did = false;
        if known {
            let meta = Arc::clone(&state.borrow_and_update());
            if meta.feature_level >= SHARDS_LEVEL {
                level_since.get_or_insert_with(Instant::now);
            }
            let waited = level_since.map_or(Duration::ZERO, |since| since.elapsed());
            if let Some(command) = create(node, &meta, waited) {
                did = put(running, &command).await;
            } else {
                let voters = running.meta.status().borrow().voters.clone();
                let steps = driver.steps(now(), &meta, &voters);
                did = !steps.is_empty();
                take(node, running, steps, &mut driver).await;
            }
        }
        let pause = if did { SOON } else { LOOK };
        tokio::select! {
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(SOON).await;
            }
            () = running.shard_desk.filled() => tokio::time::sleep(SOON).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What makes a cluster one with shards, once all members know them. Where this node has a zone the others may have, and have `waited` to tell.
fn create(node: &Node, state: &raftmq_meta::MetaState, waited: Duration) -> Option<MetaCommand> {
    let options = node.config.shards?;
    state.cluster.as_ref()?;
    if state.feature_level < SHARDS_LEVEL {
        let known = state.members.values().all(|member| member.feature_level >= SHARDS_LEVEL);
        return known.then_some(MetaCommand::FeatureLevel { level: SHARDS_LEVEL });
    }
    let silent = state.active().any(|member| state.shards.zone(member.id).is_empty());
    if silent && waited < ZONES && !node.config.zone.is_empty() {
        return None;
    }
    let count = options.count;
    (state.shards.count() == 0).then_some(MetaCommand::CreateShards { count, replication: options.replication })
}

async fn put(running: &Running, command: &MetaCommand) -> bool {
    match propose(&running.meta, command).await {
        Ok(MetaResponse::Refused(refusal)) => debug!(%refusal, ?command, "shards"),
        Ok(_) => {
            debug!(?command, "shards");
            return true;
        }
        Err(error) => debug!(error, "shards"),
    }
    false
}

async fn take(node: &Arc<Node>, running: &Running, steps: Vec<ShardStep>, driver: &mut ShardDriver) {
    let calls = steps.into_iter().map(|step| async move {
        match step {
            ShardStep::Propose(command) => {
                if matches!(command, MetaCommand::PlaceShards { .. }) {
                    info!("the shards' replicas get other places");
                }
                put(running, &command).await;
                None
            }
            ShardStep::Initialise { node: at, shard, generation, voters } => {
                let id = ShardId { number: shard, generation };
                if at == running.id {
                    host::initialise(running, id, voters).await;
                } else {
                    let request = Request::InitialiseShard { shard, generation, voters };
                    if let Err(error) = node.net.call_node(at, &request, CALL).await {
                        debug!(shard, node = at, %error, "asking to form a shard");
                    }
                }
                None
            }
            ShardStep::Change { node: at, shard, generation, term, index, step } => {
                let change = Change { shard, generation, term, index, step };
                let deadline = Duration::from_millis(STEP_VALID_MS);
                let taken = if at == running.id {
                    Ok(carry_out(running, change).await)
                } else {
                    match node.net.call_node(at, &Request::ChangeShard(change), deadline).await {
                        Ok(Response::ChangeShard(taken)) => Ok(taken),
                        Ok(_) => Err("an answer to something else".to_owned()),
                        Err(error) => Err(error.to_string()),
                    }
                };
                match taken {
                    Ok(true) => None,
                    Ok(false) => Some((shard, index)),
                    // It may be carried out or not: the reports say so.
                    Err(error) => {
                        warn!(shard, node = at, error, "a change of a shard's membership");
                        None
                    }
                }
            }
        }
    });
    for refused in futures::future::join_all(calls).await.into_iter().flatten() {
        driver.refused(refused.0, refused.1);
    }
}
