//! The replicas of this node: started where the meta group says so, removed when nobody counts on them any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use raftmq_meta::MetaState;
use raftmq_meta::shards::shard_of;
use raftmq_raft::{GroupId, StartError};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::error::Fatal;
use crate::node::{Node, RETRY, Running};

use super::{Replica, ShardId, SharedShard, is_here, lead, ready};

/// How long a replica stays after the meta group last counted it: a leader that is about to add or to remove it may still talk to it.
const REMOVE_AFTER: Duration = Duration::from_secs(10);

/// How long a replica that is to form its shard is waited for.
const START: Duration = Duration::from_millis(800);

/// Keeps the replicas as the meta group has them, for as long as the node lives.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut state = node.meta.subscribe();
    // Since when nobody counts on a group that is here.
    let mut superfluous: HashMap<u16, Instant> = HashMap::new();
    let mut tasks: HashMap<u16, Vec<AbortHandle>> = HashMap::new();
    // What an earlier run left.
    let mut found = match running.groups.known().await {
        Ok(known) => known.into_iter().filter(|group| shard_of(group.number).is_some()).collect(),
        Err(error) => return node.fail(Fatal::Group { group: "shard", reason: error.to_string() }),
    };
    loop {
        let now = Arc::clone(&state.borrow_and_update());
        // A replica of the meta group that is far behind knows an old table: nothing is removed by it, since a removal takes its time and a leader by
        // then has brought it up to date, or nobody has.
        for (number, shard) in now.shards.iter() {
            let id = ShardId { number, generation: shard.generation() };
            if !is_here(shard, running.id) {
                continue;
            }
            superfluous.remove(&number);
            let other = running.shards.lock().get(&number).is_some_and(|replica| replica.id != id);
            if other {
                stop(running, number, &mut tasks).await;
            }
            if running.shards.replica(id).is_none() {
                match start(&node, running, id).await {
                    Ok(replica) => {
                        tasks.insert(number, begin(&node, running, replica));
                    }
                    Err(StartError::Running(_)) => {}
                    Err(error) => return node.fail(Fatal::Group { group: "shard", reason: error.to_string() }),
                }
            }
        }
        remove_superfluous(&node, running, &now, &mut found, &mut superfluous, &mut tasks).await;
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY * 5) => {}
        }
    }
}

async fn start(node: &Arc<Node>, running: &Running, id: ShardId) -> Result<Replica, StartError> {
    let machine = SharedShard::new(id, Arc::clone(&node.shard_listener), Arc::clone(&node.followers));
    let making = machine.clone();
    let group = running.groups.start_cached(id.group(), move |keys| making.load(keys)).await?;
    debug!(shard = id.number, generation = id.generation, "a replica of a shard runs");
    Ok(Replica { id, group, machine })
}

/// What belongs to a replica that runs.
fn begin(node: &Arc<Node>, running: &Running, replica: Replica) -> Vec<AbortHandle> {
    running.shards.insert(replica.clone());
    let tasks = [
        node.spawn_task(lead::run(Arc::clone(node), replica.clone())),
        node.spawn_task(ready::run(Arc::clone(node), replica.clone())),
        node.spawn_task(watch(Arc::clone(node), replica)),
    ];
    tasks.into_iter().flatten().collect()
}

/// Begins the group with these voters, unless it was begun: by another one of them it was with the same ones.
pub(crate) async fn initialise(running: &Running, id: ShardId, voters: BTreeSet<u64>) {
    // It may be about to start: the table says so to this node as it did to who asks.
    let begun = Instant::now();
    let replica = loop {
        match running.shards.replica(id) {
            Some(replica) => break replica,
            None if begun.elapsed() < START => tokio::time::sleep(START / 50).await,
            None => return debug!(shard = id.number, "the replica that is to form the shard does not run yet"),
        }
    };
    if replica.group.is_initialized().await {
        return;
    }
    match replica.group.initialize(voters).await {
        Ok(()) => info!(shard = id.number, "the shard was formed"),
        Err(error) => debug!(shard = id.number, %error, "forming the shard"),
    }
}

/// A replica that fails takes the node with it: what it had acknowledged may be needed for a quorum, and somebody has to look.
async fn watch(node: Arc<Node>, replica: Replica) {
    let mut status = replica.group.status();
    let failed = status.wait_for(|s| s.failure.is_some()).await.ok().and_then(|s| s.failure.clone());
    if let Some(reason) = failed {
        let reason = format!("{}: {reason}", replica.id.number);
        node.fail(Fatal::Group { group: "shard", reason });
    }
}

async fn stop(running: &Running, number: u16, tasks: &mut HashMap<u16, Vec<AbortHandle>>) {
    for task in tasks.remove(&number).into_iter().flatten() {
        task.abort();
    }
    if let Some(replica) = running.shards.remove(number) {
        running.groups.stop(replica.id.group().number).await;
    }
}

/// Removes groups, running or left on the disk, on which nobody counts any more.
async fn remove_superfluous(
    node: &Node,
    running: &Running,
    state: &MetaState,
    found: &mut BTreeSet<GroupId>,
    superfluous: &mut HashMap<u16, Instant>,
    tasks: &mut HashMap<u16, Vec<AbortHandle>>,
) {
    if state.shards.count() == 0 || !node.lease.is_serving() {
        // It may be cut off, with an old table.
        return;
    }
    found.extend(running.shards.all().iter().map(|replica| replica.id.group()));
    for group in found.clone() {
        let Some(number) = shard_of(group.number) else { continue };
        let counted = state.shards.get(number).is_some_and(|shard| {
            shard.generation() < group.generation
                || (shard.generation() == group.generation && is_here(shard, running.id))
        });
        if counted {
            continue;
        }
        let since = *superfluous.entry(number).or_insert_with(Instant::now);
        if since.elapsed() < REMOVE_AFTER {
            continue;
        }
        stop(running, number, tasks).await;
        match running.groups.remove(group).await {
            Ok(()) => {
                found.remove(&group);
                info!(shard = number, generation = group.generation, "a replica that is not needed was removed");
            }
            Err(error) => warn!(shard = number, %error, "removing a replica"),
        }
        superfluous.remove(&number);
    }
}
