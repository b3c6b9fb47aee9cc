//! The queues of clients that are connected here while their shard has its replicas elsewhere.
//!
//! For each such shard this node *follows* one node with a replica ([`super::followers`]): it is told which clients have something new, and reads parts of their queues
//! there. What is kept of a queue is one part at most, which is read when the client's worker has asked for it, and what says whether there may be more.
//!
//! Nothing is lost because all of this is about what may be new, never about what is: a part that was read says how far the client's queue is known, and
//! who begins to follow a node anew, since the one before is gone, is behind or has told something that did not come, holds all queues for changed. And no read goes back
//! in time: of each shard the last entry is known that any answer came from, and whoever has not applied that does not answer.
//!
//! A node that gets a replica goes on like this until the replica has a vote and has applied that entry; then all clients of the node are looked at, as after a
//! snapshot. So they are when meta counts its replica no more.
//!
//! * [`known`] is what is known of one queue, [`place`] a shard with the queues of its clients here;
//! * [`follow`] follows a shard and reads what is due of it, [`news`] asks for what came up in all shards that are followed at one node.

mod follow;
mod known;
mod news;
mod place;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use raftmq_meta::{FOLLOW_LEVEL, MetaState};
use raftmq_shard::{Deliveries, Name};

use crate::node::{Node, Running};

use super::ShardId;
use known::Wanted;
use place::{Place, Queue};

/// A connection's way to a queue whose shard has no replica here; nothing while there is one. It goes with the connection.
#[derive(Default)]
pub struct RemoteQueue(Option<Arc<Queue>>);

impl RemoteQueue {
    /// The shard has a replica here.
    pub(super) fn leave(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.place.forget(&queue);
        }
    }
}

impl Drop for RemoteQueue {
    fn drop(&mut self) {
        self.leave();
    }
}

/// All shards that are followed.
#[derive(Default)]
pub(crate) struct Remote {
    places: Mutex<HashMap<u16, Arc<Place>>>,
    /// The session at each node that something is followed at.
    sessions: Mutex<HashMap<u64, u64>>,
    /// The sessions of which the news are asked for.
    listening: Mutex<HashSet<u64>>,
    held: Arc<AtomicUsize>,
}

impl Remote {
    fn place(&self, id: ShardId) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(id.number).or_insert_with(|| Place::new(id, Arc::clone(&self.held)));
        if place.id != id {
            *place = Place::new(id, Arc::clone(&self.held));
        }
        Arc::clone(place)
    }

    fn known(&self, number: u16) -> Option<Arc<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    fn all(&self) -> Vec<Arc<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What was read of a shard had applied this: nothing older is read from now on.
    pub(super) fn raise(&self, id: ShardId, index: u64) {
        self.place(id).raise(index);
    }

    /// The entry that whatever is read of a shard has to have applied.
    pub(super) fn floor(&self, id: ShardId) -> u64 {
        self.known(id.number).filter(|place| place.id == id).map_or(0, |place| place.floor.load(Ordering::Acquire))
    }

    /// A part of a queue, if it is there; else the client's worker is told when it is.
    pub(super) fn deliveries(
        &self,
        node: &Arc<Node>,
        id: ShardId,
        client: &Name,
        queue: &mut RemoteQueue,
        (after, max, max_bytes): (u64, usize, usize),
    ) -> Deliveries {
        if queue.0.as_ref().is_some_and(|queue| queue.place.id != id) {
            queue.leave();
        }
        let queue = queue.0.get_or_insert_with(|| self.place(id).register(client));
        let (read, due) = queue.ask(Wanted { after, max, max_bytes });
        if due {
            queue.place.add_due([Arc::clone(queue)]);
        }
        if !queue.place.runs.swap(true, Ordering::AcqRel) {
            node.spawn(follow::keep(Arc::clone(node), Arc::clone(&queue.place)));
        }
        read
    }

    fn session(&self, node: u64) -> u64 {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        *sessions.entry(node).or_insert_with(rand::random)
    }
}

/// The nodes that can be asked for a shard, best first: who leads it, then the others, another one first each time.
pub(super) fn candidates(
    state: &MetaState,
    own: u64,
    id: ShardId,
    leader: Option<u64>,
    turn: usize,
) -> impl Iterator<Item = u64> + use<> {
    let able = |node: &u64| {
        let member = state.members.get(node);
        *node != own && member.is_some_and(|member| member.up && member.feature_level >= FOLLOW_LEVEL)
    };
    let mut nodes: Vec<u64> = super::replicas_of(state, id).into_iter().filter(able).collect();
    if !nodes.is_empty() {
        let count = nodes.len();
        nodes.rotate_left(turn % count);
    }
    // In its place, and the others keep theirs.
    nodes.sort_by_key(|node| Some(*node) != leader);
    nodes.into_iter()
}

/// Who leads a shard that is followed, as was said last.
pub(super) fn leader_of(running: &Running, id: ShardId) -> Option<u64> {
    let place = running.remote.known(id.number).filter(|place| place.id == id)?;
    Some(place.leader.load(Ordering::Acquire)).filter(|leader| *leader != 0)
}
