//! The news of the shards that are followed at one node: one call waits for those of all of them.

use std::sync::{Arc, PoisonError};

use tracing::debug;

use super::place::{Place, Source};
use crate::node::{CALL, Node, Running};
use crate::shards::followers::{NewsRequest, PARK};
use crate::wire::{Request, Response};

/// Shards that are left at once.
const LEFT: usize = 1_024;

/// Sees to it that the news of a session are asked for.
pub(super) fn listen(node: &Arc<Node>, running: &Running, source: Source) {
    if running.remote.listening.lock().unwrap_or_else(PoisonError::into_inner).insert(source.session) {
        node.spawn(hear(Arc::clone(node), source.node, source.session));
    }
}

/// Asks for the news of a session until it is over.
async fn hear(node: Arc<Node>, at: u64, session: u64) {
    let Some(running) = node.running() else { return };
    let remote = &running.remote;
    let mut left = Vec::new();
    let of_session = |place: &Arc<Place>| place.lock().source.is_some_and(|source| source.session == session);
    while remote.all().iter().any(of_session) {
        let request = Request::News(NewsRequest { session, left: std::mem::take(&mut left) });
        match node.net.call_node(at, &request, PARK + CALL * 2).await {
            Ok(Response::News(Some(news))) => {
                for news in news {
                    let turn = news.turn;
                    let place = remote.known(turn.shard).filter(|place| place.id.generation == turn.generation);
                    if !place.is_some_and(|place| place.hear(news)) && left.len() < LEFT {
                        left.push(turn);
                    }
                }
            }
            Ok(Response::News(None)) => {
                debug!(node = at, "the session is over there");
                break;
            }
            Ok(_) => break,
            Err(error) => {
                debug!(node = at, %error, "asking for the news of shards");
                break;
            }
        }
    }
    {
        // Whoever follows from now on does so in another session.
        let mut sessions = remote.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&at) == Some(&session) {
            sessions.remove(&at);
        }
    }
    remote.listening.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    // And whoever does in this one has missed something, or will.
    for place in remote.all() {
        place.end_source(|source| source.session == session);
    }
}
