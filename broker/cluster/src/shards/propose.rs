//! Proposals to a shard, from a node that has a replica of it or not.

use std::time::Duration;

use bytes::Bytes;
use raftmq_raft::ProposeError;
use raftmq_shard::Answer;
use tokio::time::Instant;
use tracing::debug;

use crate::node::{Node, RETRY, Running};
use crate::wire::{Request, Response, ShardError};

use super::ShardId;

/// Proposes through the shard's leader, wherever it is, and waits for one within the deadline. **The command may be applied twice.**
///
/// `None`: nobody answered in time, or the shard is not known here.
pub(crate) async fn propose(
    node: &Node,
    running: &Running,
    shard: ShardId,
    command: Bytes,
    deadline: Duration,
) -> Option<Answer> {
    let end = Instant::now() + deadline;
    let bytes = loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let answer = match running.shards.own(shard) {
            Some(replica) => match replica.group.propose_anywhere(command.clone(), left).await {
                Ok(applied) => Some(applied.response),
                Err(error @ (ProposeError::TooLarge { .. } | ProposeError::Failed(_))) => {
                    debug!(shard = shard.number, %error, "a proposal to a shard failed");
                    return None;
                }
                Err(error) => {
                    debug!(shard = shard.number, %error, "a proposal to a shard was not taken");
                    None
                }
            },
            None => ask_replicas(node, running, shard, &command, end).await,
        };
        match answer {
            Some(answer) => break answer,
            None => tokio::time::sleep(RETRY / 4).await,
        }
    };
    Answer::decode(&bytes).inspect_err(|error| debug!(shard = shard.number, %error, "a shard's answer")).ok()
}

/// Through each replica in turn until one has an answer. None of them, which may hang, takes all of the time from the others.
async fn ask_replicas(node: &Node, running: &Running, shard: ShardId, command: &Bytes, end: Instant) -> Option<Bytes> {
    let nodes = super::askable(node, running, shard);
    let mut others = nodes.len();
    for id in nodes {
        others -= 1;
        let left = end.saturating_duration_since(Instant::now());
        let time = if others > 0 { left / 2 } else { left };
        let request = Request::Shard { shard: shard.number, generation: shard.generation, command: command.to_vec() };
        match node.net.call_node(id, &request, time).await {
            Ok(Response::Shard(Ok(answer))) => return Some(answer.into()),
            Ok(Response::Shard(Err(error))) => debug!(shard = shard.number, node = id, %error, "not taken there"),
            Ok(_) => debug!(shard = shard.number, node = id, "an answer to something else"),
            Err(error) => debug!(shard = shard.number, node = id, %error, "not answered"),
        }
    }
    None
}

/// A node without a replica asks this one.
pub(crate) async fn propose_for(
    running: &Running,
    shard: ShardId,
    command: Vec<u8>,
    deadline: Duration,
) -> Result<Vec<u8>, ShardError> {
    let replica = running.shards.replica(shard).ok_or(ShardError::NoReplica)?;
    match replica.group.propose_anywhere(command.into(), deadline).await {
        Ok(applied) => Ok(applied.response.to_vec()),
        Err(error) => Err(ShardError::NotTaken(error.to_string())),
    }
}
