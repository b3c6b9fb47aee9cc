//! What a shard has of a session that a connection resumes: read at this node's replica once it has come to the connection's claim, or at another node's.

use std::sync::Arc;
use std::time::Duration;

use raftmq_mqtt::QoS;
use raftmq_shard::{Name, ShardMachine, Store, StoreError, Subscription};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::node::{CALL, Node, RETRY, Running};
use crate::wire::{Request, Response};

use super::{ShardId, remote};

/// Between two looks at whether a replica has come to the claim.
const AGAIN: Duration = Duration::from_millis(5);
/// Subscriptions read at once, and the bytes of their filters.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 512 << 10;

/// A durable session, as its new connection has to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Packet identifiers of QoS 2 messages from the client that it has not released.
    pub received: Vec<u16>,
    /// Its subscriptions, those to groups with queues in shards among them.
    pub subscriptions: Vec<Subscription>,
}

/// Where to go on: behind this filter of its own subscriptions, or of those to groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    shared: bool,
    after: Option<String>,
}

/// A node wants to know a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SessionRequest {
    shard: u16,
    generation: u32,
    namespace: u32,
    id: String,
    /// That of the connection, to whose claim the replica has to have come.
    epoch: u64,
    cursor: Cursor,
}

/// A part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionPart {
    /// The last entry applied.
    index: u64,
    received: Vec<u16>,
    subscriptions: Vec<Known>,
    next: Option<Cursor>,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    filter: String,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    identifier: u32,
}

impl Known {
    fn of(subscription: Subscription) -> Self {
        let Subscription { filter, qos, no_local, retain_as_published, identifier } = subscription;
        Self { filter: filter.as_ref().to_owned(), qos: qos as u8, no_local, retain_as_published, identifier }
    }

    fn read(self) -> Option<Subscription> {
        let Self { filter, qos, no_local, retain_as_published, identifier } = self;
        Some(Subscription { filter: filter.into(), qos: QoS::from_u8(qos)?, no_local, retain_as_published, identifier })
    }
}

/// A part of a session in a state. `None`: the state has not come to the claim.
fn part<S: Store>(
    machine: &mut ShardMachine<S>,
    client: &Name,
    epoch: u64,
    cursor: &Cursor,
) -> Result<Option<SessionPart>, StoreError> {
    let Some(info) = machine.client(client)?.filter(|info| info.epoch >= epoch) else { return Ok(None) };
    let after = cursor.after.as_deref();
    let mut page = if cursor.shared {
        // There are few, and in no order that is promised.
        let mut shared = machine.shared_subscriptions(client)?;
        shared.retain(|subscription| after.is_none_or(|after| *subscription.filter > *after));
        shared.sort_by(|one, other| one.filter.cmp(&other.filter));
        shared
    } else {
        machine.subscriptions(client, after, PAGE)?
    };
    let (whole, mut bytes) = (page.len(), 0);
    let fits = page.iter().take(PAGE).take_while(|subscription| {
        let first = bytes == 0;
        bytes += subscription.filter.len();
        first || bytes <= PAGE_BYTES
    });
    let fits = fits.count();
    page.truncate(fits);
    // Its own are read by pages: a whole one says nothing of what follows.
    let cut = fits < whole || (!cursor.shared && whole >= PAGE);
    let next = match page.last() {
        Some(last) if cut => Some(Cursor { shared: cursor.shared, after: Some(last.filter.as_ref().to_owned()) }),
        _ => (!cursor.shared).then_some(Cursor { shared: true, after: None }),
    };
    Ok(Some(SessionPart {
        index: machine.applied(),
        received: info.session.map(|session| session.inbound).unwrap_or_default(),
        subscriptions: page.into_iter().map(Known::of).collect(),
        next,
    }))
}

/// Reads it, again until it can be read.
pub(super) async fn session(node: &Arc<Node>, id: ShardId, client: &Name, epoch: u64, is_new: bool) -> Session {
    let mut session = Session::default();
    let mut cursor = Cursor::default();
    let mut turn = 0;
    loop {
        let Some(part) = one(node, id, client, epoch, &cursor, turn).await else {
            turn += 1;
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        session.received = part.received;
        session.subscriptions.extend(part.subscriptions.into_iter().filter_map(Known::read));
        match part.next {
            // One that has just begun has none. The replica may still have had those of the session before, but for the claim.
            Some(next) if !is_new => cursor = next,
            _ => return session,
        }
    }
}

async fn one(
    node: &Arc<Node>,
    id: ShardId,
    client: &Name,
    epoch: u64,
    cursor: &Cursor,
    turn: usize,
) -> Option<SessionPart> {
    let running = node.running()?;
    if let Some(replica) = running.shards.own(id) {
        let read = replica.machine.with(|machine| part(machine, client, epoch, cursor))?;
        return read.inspect_err(|error| warn!(client = %client.id, %error, "a session cannot be read")).ok()?;
    }
    let request = Request::Session(SessionRequest {
        shard: id.number,
        generation: id.generation,
        namespace: client.namespace,
        id: client.id.as_ref().to_owned(),
        epoch,
        cursor: cursor.clone(),
    });
    let leader = remote::leader_of(running, id);
    for at in remote::candidates(&node.meta_state(), running.id, id, leader, turn) {
        match node.net.call_node(at, &request, CALL).await {
            Ok(Response::Session(Some(part))) => {
                // What is read of its queue is not from before the claim.
                running.remote.raise(id, part.index);
                return Some(part);
            }
            Ok(_) => debug!(shard = id.number, node = at, "a session is not known there"),
            Err(error) => debug!(shard = id.number, node = at, %error, "asking for a session"),
        }
        if running.shards.own(id).is_some() {
            break;
        }
    }
    None
}

/// Reads for another node, waiting for the claim for a while.
pub(crate) async fn session_for(running: &Running, request: SessionRequest) -> Option<SessionPart> {
    let SessionRequest { shard, generation, namespace, id, epoch, cursor } = request;
    let replica = running.shards.replica(ShardId { number: shard, generation })?;
    let client = Name::new(namespace, &id);
    let end = Instant::now() + CALL - RETRY;
    loop {
        let (client, cursor) = (client.clone(), cursor.clone());
        let read = move |machine: &mut ShardMachine<_>| part(machine, &client, epoch, &cursor);
        match super::read::when_there_blocking(&replica.machine, read).await? {
            Ok(Some(part)) => return Some(part),
            Ok(None) if Instant::now() < end => tokio::time::sleep(AGAIN).await,
            Ok(None) => return None,
            Err(error) => {
                warn!(client = %id, %error, "a session cannot be read");
                return None;
            }
        }
    }
}
