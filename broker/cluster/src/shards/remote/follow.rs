//! Follows a shard at a node with a replica, and reads there what its clients are to be sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use raftmq_links::Class;
use raftmq_shard::Effect;
use tokio::time::Instant;
use tracing::debug;

use super::known::Wanted;
use super::news::listen;
use super::place::{Place, Queue, Source};
use super::{candidates, leader_of};
use crate::node::{CALL, Node, RETRY, Running};
use crate::shards::followers::{Follow, Followed, PARK, Turn};
use crate::shards::parts::{Asked, Part, PartsRequest};
use crate::wire::{Request, Response};

/// Between two questions whether what is followed is not behind, while nothing is heard of it.
const CHECK: Duration = Duration::from_secs(4);

/// Follows a shard for as long as it has clients here and no replica.
pub(super) async fn keep(node: Arc<Node>, place: Arc<Place>) {
    let Some(running) = node.running() else { return };
    let mut turn = 0;
    // A leader that did not answer is not asked first again.
    let mut leader = leader_of(running, place.id);
    loop {
        if running.shards.own(place.id).is_some() || place.lock().queues.is_empty() {
            place.end_source(|_| true);
            place.runs.store(false, Ordering::Release);
            // Somebody may have come in between, and has seen that it runs.
            let again = running.shards.own(place.id).is_none() && !place.lock().queues.is_empty();
            if !again || place.runs.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        let source = candidates(&node.meta_state(), running.id, place.id, leader, turn).next();
        let told = match source {
            Some(source) => follow(&node, running, &place, source).await,
            None => None,
        };
        turn += 1;
        leader = told.filter(|told| Some(*told) != source);
        if leader.is_none() {
            tokio::time::sleep(RETRY / 4).await;
        }
    }
}

/// Follows a shard at a node until that cannot go on, or nobody needs it. Gives who leads the shard, if that is another node to begin with.
async fn follow(node: &Arc<Node>, running: &Running, place: &Arc<Place>, at: u64) -> Option<u64> {
    let source = Source { node: at, session: running.remote.session(at), turn: rand::random() };
    {
        // Before it can be told anything.
        let mut inner = place.lock();
        inner.source = Some(source);
        inner.heard = Some(Instant::now());
    }
    let Some(begun) = ask(node, place, source, true).await else {
        place.end_source(|known| *known == source);
        return None;
    };
    place.raise(begun.index);
    let before = place.leader.swap(begun.leader.unwrap_or(0), Ordering::AcqRel);
    if let Some(leader) = begun.leader.filter(|leader| *leader != at && *leader != before) {
        place.end_source(|known| *known == source);
        return Some(leader);
    }
    // All that came up before it was followed.
    place.change_all();
    listen(node, running, source);
    debug!(shard = place.id.number, node = at, "following the shard");
    follow_on(node, running, place, source).await;
    place.end_source(|known| *known == source);
    None
}

/// Queues that are read, and the parts of them that come.
type Reading = (Vec<(Arc<Queue>, Wanted)>, BoxFuture<'static, Option<Vec<Part>>>);

/// Reads what is due, and looks whether the source is not behind.
async fn follow_on(node: &Arc<Node>, running: &Running, place: &Arc<Place>, source: Source) {
    let mut reading: Option<Reading> = None;
    let mut check: Option<BoxFuture<'_, Option<Followed>>> = None;
    while place.is_source(source) && running.shards.own(place.id).is_none() {
        if reading.is_none() {
            let due = place.take_due();
            if !due.is_empty() {
                let read = read(Arc::clone(node), Arc::clone(place), source.node, &due);
                reading = Some((due, read.boxed()));
            }
        }
        let (idle, heard) = {
            let inner = place.lock();
            (inner.queues.is_empty(), inner.heard)
        };
        if idle && heard.is_none_or(|heard| heard.elapsed() >= CHECK) {
            break;
        }
        if check.is_none() && heard.is_none_or(|heard| heard.elapsed() >= CHECK) {
            check = Some(ask(node, place, source, false).boxed());
        }
        tokio::select! {
            parts = async { match &mut reading { Some((_, read)) => read.await, None => std::future::pending().await } } => {
                let Some((asked, _)) = reading.take() else { continue };
                let Some(parts) = parts else {
                    place.failed(asked.into_iter().map(|(queue, _)| queue));
                    break;
                };
                arrived(node, place, asked, parts);
            }
            checked = async { match &mut check { Some(check) => check.await, None => std::future::pending().await } } => {
                check = None;
                let Some(checked) = checked else { break };
                place.raise(checked.index);
                place.leader.store(checked.leader.unwrap_or(0), Ordering::Release);
                place.heard_of(source.turn);
            }
            () = place.wake.notified() => {}
            () = tokio::time::sleep(PARK) => {}
        }
    }
    if let Some((asked, _)) = reading {
        place.failed(asked.into_iter().map(|(queue, _)| queue));
    }
}

/// Parts of queues have come: workers are told.
fn arrived(node: &Node, place: &Place, asked: Vec<(Arc<Queue>, Wanted)>, parts: Vec<Part>) {
    let mut told = Vec::new();
    let mut again = Vec::new();
    let mut parts = parts.into_iter();
    for (queue, wanted) in asked {
        let Some(part) = parts.next() else {
            // There was no room for it.
            if queue.known().fail() {
                again.push(queue);
            }
            continue;
        };
        match part.read() {
            Ok((read, more)) => {
                let (news, due) = queue.read(wanted.after, read, more);
                if news {
                    told.push(Effect::Deliver { client: queue.client.clone() });
                }
                if due {
                    again.push(queue);
                }
            }
            Err(error) => {
                tracing::warn!(client = %queue.client.id, %error, "what another node has read of a queue");
                if queue.known().fail() {
                    again.push(queue);
                }
            }
        }
    }
    if let Some(listener) = node.shard_listener.get().filter(|_| !told.is_empty()) {
        listener(place.id.number, Some(&told));
    }
    place.add_due(again);
}

/// Asks a node to be followed, or whether it is.
async fn ask(node: &Node, place: &Place, source: Source, begins: bool) -> Option<Followed> {
    let turn = Turn { shard: place.id.number, generation: place.id.generation, number: source.turn };
    let request = Request::Follow(Follow { session: source.session, turn, begins });
    match node.net.call_node(source.node, &request, CALL * 2).await {
        Ok(Response::Follow(followed)) => followed,
        Ok(_) => None,
        Err(error) => {
            debug!(shard = place.id.number, node = source.node, %error, "asking to follow a shard");
            None
        }
    }
}

/// Reads parts of queues at a node. `None`: it cannot now.
fn read(
    node: Arc<Node>,
    place: Arc<Place>,
    at: u64,
    due: &[(Arc<Queue>, Wanted)],
) -> impl Future<Output = Option<Vec<Part>>> + use<> {
    let asked = due.iter().map(|(queue, wanted)| Asked {
        namespace: queue.client.namespace,
        id: queue.client.id.to_string(),
        after: wanted.after,
        max: wanted.max as u64,
        bytes: wanted.max_bytes as u64,
    });
    let (shard, generation) = (place.id.number, place.id.generation);
    let at_least = place.floor.load(Ordering::Acquire);
    let request = Request::Parts(PartsRequest { shard, generation, at_least, asked: asked.collect() });
    async move {
        match node.net.call_node_by(at, &request, Class::Log, CALL).await {
            Ok(Response::Parts(Ok(parts))) if parts.index >= at_least => {
                place.raise(parts.index);
                Some(parts.parts)
            }
            Ok(Response::Parts(Err(error))) => {
                debug!(shard, node = at, %error, "queues were not read");
                None
            }
            Ok(_) => None,
            Err(error) => {
                debug!(shard, node = at, %error, "reading queues");
                None
            }
        }
    }
}
