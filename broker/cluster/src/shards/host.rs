//! The replicas of this node: started where the meta group says so. One that is not needed any more stays on the disk, and runs until the next start.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use raftmq_raft::StartError;
use tokio::task::AbortHandle;
use tracing::{debug, info};

use crate::error::Fatal;
use crate::node::{Node, RETRY, Running};

use super::{Replica, ShardId, SharedShard, is_here, lead};

/// Keeps the replicas as the meta group has them, for as long as the node lives.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut state = node.meta.subscribe();
    let mut tasks: HashMap<u16, Vec<AbortHandle>> = HashMap::new();
    loop {
        let now = Arc::clone(&state.borrow_and_update());
        for (number, shard) in now.shards.iter() {
            let id = ShardId { number, generation: shard.generation() };
            if !is_here(shard, running.id) {
                continue;
            }
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
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY * 5) => {}
        }
    }
}

async fn start(_node: &Arc<Node>, running: &Running, id: ShardId) -> Result<Replica, StartError> {
    let machine = SharedShard::new();
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
        node.spawn_task(watch(Arc::clone(node), replica)),
    ];
    tasks.into_iter().flatten().collect()
}

/// Begins the group with these voters, unless it was begun: by another one of them it was with the same ones.
pub(crate) async fn initialise(running: &Running, id: ShardId, voters: BTreeSet<u64>) {
    let Some(replica) = running.shards.replica(id) else {
        return debug!(shard = id.number, "the replica that is to form the shard does not run yet");
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
