//! Reads of what a shard has committed: from this node's replica once it has applied that, or from another node's.
//!
//! A read asks the shard's leader first how far its log is committed (ReadIndex), in a round for all who ask this node meanwhile.

use std::sync::Arc;
use std::time::Duration;

use raftmq_mqtt::Message;
use raftmq_shard::{GroupMember, Name, PageLimits, RetainedCursor, RetainedMessage, RetainedPage, ShardMachine};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::debug;

use crate::node::{CALL, Node, RETRY, Running};
use crate::wire::{Request, Response};

use super::machine::KeysStore;
use super::{Replica, ShardId, SharedShard};

/// What is read at once for another node at most.
const MOST: PageLimits = PageLimits { messages: 1_024, bytes: 1 << 20, steps: 1 << 16 };

/// How often a state that is being written is tried to be read.
const TRIES: u32 = 50;

/// Why a shard could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum ShardReadError {
    /// There are no shards, or none of this number.
    #[error("the shard is not known")]
    Unknown,
    /// No quorum of the shard says what is committed, or no replica has it in time.
    #[error("the shard has no quorum, or this node's replica is behind")]
    Unavailable,
    /// The store cannot be read.
    #[error("the state cannot be read: {0}")]
    Store(String),
}

/// How far the shard's log was committed at some moment after this call.
async fn committed(node: &Arc<Node>, running: &Running, shard: ShardId) -> Option<u64> {
    let asking = Arc::clone(node);
    running.shard_rounds.join(shard, async move { ask_leader(&asking, shard).await }).await
}

/// Waits until a replica of this node has applied all that was committed when this was called: up to the entry that it gives.
pub(super) async fn caught_up(node: &Arc<Node>, running: &Running, replica: &Replica) -> Result<u64, ShardReadError> {
    let index = committed(node, running, replica.id).await.ok_or(ShardReadError::Unavailable)?;
    replica.group.wait_applied(index, CALL).await.map_err(|_| ShardReadError::Unavailable)?;
    Ok(index)
}

async fn ask_leader(node: &Node, shard: ShardId) -> Option<u64> {
    let running = node.running()?;
    let group = running.shards.replica(shard)?.group;
    let (term, leader) = {
        let status = group.status();
        let status = status.borrow();
        (status.term, status.leader?)
    };
    if leader == running.id {
        return group.read_index().await.ok();
    }
    let request = Request::ReadShardIndex { shard: shard.number, generation: shard.generation };
    let answer = tokio::select! {
        answer = node.net.call_node(leader, &request, CALL) => answer,
        () = group.succeeded(leader, term) => return None,
    };
    match answer {
        Ok(Response::ReadIndex(index)) => index,
        Ok(_) => None,
        Err(error) => {
            debug!(shard = shard.number, node = leader, %error, "asking how far the shard's log is committed");
            None
        }
    }
}

/// A node asks the leader of a shard.
pub(crate) async fn read_index(running: &Running, shard: ShardId) -> Option<u64> {
    running.shards.replica(shard)?.group.read_index().await.ok()
}

/// Reads retained messages at this node's replica, or at another's.
pub(super) async fn retained(
    node: &Arc<Node>,
    shard: ShardId,
    namespace: u32,
    filter: &str,
    cursor: Option<RetainedCursor>,
    limits: PageLimits,
) -> Result<RetainedPage, ShardReadError> {
    let running = node.running().ok_or(ShardReadError::Unavailable)?;
    if running.shards.own(shard).is_some() {
        return retained_here(node, shard, namespace, filter, cursor, limits).await;
    }
    let request = Request::Retained(RetainedRequest {
        shard: shard.number,
        generation: shard.generation,
        namespace,
        filter: filter.to_owned(),
        cursor: cursor.map(|cursor| cursor.to_bytes().to_vec()),
        limits: (limits.messages as u64, limits.bytes as u64, limits.steps as u64),
    });
    let read = |response| match response {
        Response::Retained(Ok(page)) => Some(page.read()),
        Response::Retained(Err(error)) => {
            debug!(shard = shard.number, %error, "not read there");
            None
        }
        _ => None,
    };
    ask_replicas(node, running, shard, &request, CALL * 2, read).await.unwrap_or(Err(ShardReadError::Unavailable))
}

/// Asks the nodes with a replica of a shard, one after the other, until one has an answer.
async fn ask_replicas<T>(
    node: &Node,
    running: &Running,
    shard: ShardId,
    request: &Request,
    time: Duration,
    read: impl Fn(Response) -> Option<T>,
) -> Option<T> {
    for id in super::askable(node, running, shard) {
        match node.net.call_node(id, request, time).await {
            Ok(response) => {
                if let Some(found) = read(response) {
                    return Some(found);
                }
            }
            Err(error) => debug!(shard = shard.number, node = id, %error, "asking a replica"),
        }
    }
    None
}

/// The same at this node's replica.
async fn retained_here(
    node: &Arc<Node>,
    shard: ShardId,
    namespace: u32,
    filter: &str,
    cursor: Option<RetainedCursor>,
    limits: PageLimits,
) -> Result<RetainedPage, ShardReadError> {
    let running = node.running().ok_or(ShardReadError::Unavailable)?;
    let replica = running.shards.replica(shard).ok_or(ShardReadError::Unavailable)?;
    caught_up(node, running, &replica).await?;
    let Replica { machine, .. } = replica;
    let filter = filter.to_owned();
    let read = move |machine: &mut ShardMachine<KeysStore>| {
        machine.retained_matching(namespace, &filter, cursor.as_ref(), limits)
    };
    let read = when_there_blocking(&machine, read).await.ok_or(ShardReadError::Unavailable)?;
    read.map_err(|error| ShardReadError::Store(error.to_string()))
}

/// Reads a state, in memory only, as soon as it is not being written. `None`: that takes too long, or it is gone.
pub(super) async fn when_there<T>(
    machine: &SharedShard,
    read: impl Fn(&mut ShardMachine<KeysStore>) -> T,
) -> Option<T> {
    for _ in 0..TRIES {
        if let Some(found) = machine.with(&read) {
            return Some(found);
        }
        tokio::time::sleep(RETRY / 10).await;
    }
    None
}

/// The same where it may have to be read from the disk.
pub(super) async fn when_there_blocking<T: Send + 'static>(
    machine: &SharedShard,
    read: impl Fn(&mut ShardMachine<KeysStore>) -> T + Send + Sync + 'static,
) -> Option<T> {
    let read = Arc::new(read);
    for _ in 0..TRIES {
        let (machine, read) = (machine.clone(), Arc::clone(&read));
        match tokio::task::spawn_blocking(move || machine.with(|machine| read(machine))).await {
            Ok(Some(found)) => return Some(found),
            Ok(None) => tokio::time::sleep(RETRY / 10).await,
            Err(_) => return None,
        }
    }
    None
}

/// The number of the last change of what a shard retains, at some moment after this call.
pub(super) async fn last_retained(node: &Arc<Node>, shard: ShardId) -> Result<u64, ShardReadError> {
    let running = node.running().ok_or(ShardReadError::Unavailable)?;
    let Some(replica) = running.shards.own(shard) else {
        let nothing = PageLimits { messages: 0, bytes: 0, steps: 0 };
        return retained(node, shard, 0, "", None, nothing).await.map(|page| page.last);
    };
    caught_up(node, running, &replica).await?;
    when_there(&replica.machine, |machine| machine.last_retained()).await.ok_or(ShardReadError::Unavailable)
}

/// What a replica knows of a client in a group whose queue its shard has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InGroup {
    /// The number of the route by which the queue gets messages, if the client is a member.
    pub(crate) route: Option<u64>,
    /// The number of the last change of the shard's routes.
    pub(crate) last: u64,
    /// The number of the last note that came from the shard of the client's session.
    pub(crate) noted: u64,
}

/// Asks this node's replica, or another's; `None`: nobody who knows answered.
pub(super) async fn in_group(
    node: &Arc<Node>,
    shard: ShardId,
    group: &Name,
    member: &str,
    source: u16,
) -> Option<InGroup> {
    let running = node.running()?;
    if running.shards.own(shard).is_some() {
        return in_group_here(running, shard, group, member, source);
    }
    let request = Request::InGroup {
        shard: shard.number,
        generation: shard.generation,
        namespace: group.namespace,
        group: group.id.to_string(),
        member: member.to_owned(),
        source,
    };
    let read = |response| if let Response::InGroup(found) = response { found } else { None };
    ask_replicas(node, running, shard, &request, CALL, read).await
}

/// The same at this node's replica, which may be behind.
pub(crate) fn in_group_here(
    running: &Running,
    shard: ShardId,
    group: &Name,
    member: &str,
    source: u16,
) -> Option<InGroup> {
    let replica = running.shards.replica(shard)?;
    let found = replica.machine.with(|machine| {
        Some((machine.group(group).ok()?, machine.route_numbers().0, machine.last_note(source.into()).ok()?))
    })??;
    let (info, last, noted) = found;
    let is = |known: &GroupMember| !known.left && *known.client.id == *member;
    let route = info.filter(|info| info.route > 0 && info.members.iter().any(is)).map(|info| info.route);
    Some(InGroup { route, last, noted })
}

/// A read for a node without a replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RetainedRequest {
    shard: u16,
    generation: u32,
    namespace: u32,
    filter: String,
    cursor: Option<Vec<u8>>,
    /// Messages, bytes, records looked at.
    limits: (u64, u64, u64),
}

/// Its answer: messages with their numbers and what is left of their expiry intervals, where to go on, and the number of the last change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RetainedAnswer {
    messages: Vec<(Vec<u8>, u64, Option<u64>)>,
    next: Option<Vec<u8>>,
    last: u64,
}

impl RetainedAnswer {
    fn of(page: RetainedPage) -> Self {
        let message = |found: RetainedMessage| {
            let mut bytes = Vec::with_capacity(found.message.wire_len());
            found.message.to_wire(&mut bytes);
            (bytes, found.number, found.lifetime_ms)
        };
        Self {
            messages: page.messages.into_iter().map(message).collect(),
            next: page.next.map(|cursor| cursor.to_bytes().to_vec()),
            last: page.last,
        }
    }

    fn read(self) -> Result<RetainedPage, ShardReadError> {
        let message = |(bytes, number, lifetime_ms): (Vec<u8>, u64, Option<u64>)| {
            let message = Message::from_wire(&bytes).map_err(|error| ShardReadError::Store(error.to_string()))?;
            Ok(RetainedMessage { message, number, lifetime_ms })
        };
        let messages = self.messages.into_iter().map(message).collect::<Result<_, _>>()?;
        let next = self.next.map(|bytes| RetainedCursor::from_bytes(&bytes));
        Ok(RetainedPage { messages, next, last: self.last })
    }
}

/// What another node wants, of which there is no more than this.
pub(super) fn bounded(wanted: u64, most: usize) -> usize {
    usize::try_from(wanted).unwrap_or(most).min(most)
}

/// Answers another node.
pub(crate) async fn retained_for(node: &Arc<Node>, request: RetainedRequest) -> Result<RetainedAnswer, ShardReadError> {
    let RetainedRequest { shard, generation, namespace, filter, cursor, limits: (messages, bytes, steps) } = request;
    let limits = PageLimits {
        messages: bounded(messages, MOST.messages),
        bytes: bounded(bytes, MOST.bytes),
        steps: bounded(steps, MOST.steps),
    };
    let cursor = cursor.map(|bytes| RetainedCursor::from_bytes(&bytes));
    let shard = ShardId { number: shard, generation };
    retained_here(node, shard, namespace, &filter, cursor, limits).await.map(RetainedAnswer::of)
}
