//! Whether this node's replica of a shard is the one that its readers read.
//!
//! It is from when it has a vote: one that is being brought up to date may be far behind. And it is not before it has applied what was read at other nodes: reads never
//! go back in time. When meta counts it no more it hears nothing more, and does not know that.
//!
//! What came up before either change may have been told to nobody: all clients of the node are looked at after it.

use std::sync::Arc;

use raftmq_raft::GroupStatus;

use crate::node::{Node, RETRY};

use super::{Replica, is_here};

/// Sees to it for as long as the replica runs.
pub(super) async fn run(node: Arc<Node>, replica: Replica) {
    let Some(running) = node.running() else { return };
    let Replica { id, group, machine } = replica;
    let (mut meta, mut status) = (node.meta.subscribe(), group.status());
    // One that is being written has applied no less than its log says.
    let applied = || machine.with(|machine| machine.applied()).max(group.status().borrow().applied);
    loop {
        let counted = {
            let state = meta.borrow_and_update();
            super::shard_id(&state, id.number) == Some(id)
                && state.shards.get(id.number).is_some_and(|shard| is_here(shard, running.id))
        };
        if machine.is_ready() {
            if !counted {
                // Before anybody asks elsewhere.
                running.remote.raise(id, applied().unwrap_or(0));
                machine.set_ready(false);
                // Nor do those who follow it here.
                node.followers.end(id);
                continue;
            }
            // What is applied meanwhile changes nothing.
            if meta.changed().await.is_err() {
                return;
            }
            continue;
        }
        let votes = |status: &GroupStatus| status.voters.contains(&running.id);
        let applied = applied();
        if counted && votes(&status.borrow_and_update()) && applied >= Some(running.remote.floor(id)) {
            machine.set_ready(true);
            continue;
        }
        tokio::select! {
            changed = meta.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
            // It was being written.
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}
