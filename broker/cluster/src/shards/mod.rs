//! The shards on this node: its replicas, who leads them, and the way of its workers' operations to all of them.
//!
//! The meta group says which shards there are and where their replicas shall be ([`raftmq_meta::shards`]). From that follows what a node does:
//!
//! * [`host`] runs the replicas that this node has, and removes those that it has no more;
//! * [`lead`] is what the leader of a shard does for it: time, the map of slots, routes, nodes that are down;
//! * [`report`] tells the meta leader of the shards that are led here, and carries out the steps that it answers;
//! * [`remote`] reads the queues of clients that are connected here while their shard has its replicas elsewhere, which tell what is new there
//!   ([`followers`]); [`ready`] says when a replica of this node is read instead;
//! * [`driver`] is the meta leader's part: it places shards and says the steps;
//! * [`lanes`] has the operations of this node's workers, [`propose`] brings them to the shards' leaders.
//!
//! # The life of a node
//! For a shard a node is what serves under one stream of routes: when the routes group closes that stream, each shard's leader closes the node's
//! streams of operations and disconnects its clients. A node that begins another stream of routes begins with new lanes.

mod compare;
mod driver;
mod followers;
mod handle;
mod host;
mod kick;
mod lanes;
mod lead;
mod machine;
mod outbox;
mod parts;
mod propose;
mod read;
mod ready;
mod remote;
mod report;
mod rounds;
mod session;
mod turns;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raftmq_meta::MetaState;
use raftmq_meta::shards::{Shard, group_of};
use raftmq_raft::{Group, GroupId};
use raftmq_shard::SlotSet;

use crate::node::{Node, Running};

pub(crate) use compare::{Mark, marks};
pub(crate) use followers::{Follow, Followed, Followers, News, NewsRequest, follow, news};
pub use handle::{ShardStatus, Shards};
pub(crate) use host::initialise;
pub(crate) use kick::close;
pub use kick::{Kick, KickHandler};
pub use lanes::{AnswerSink, LaneError, Port, PushError};
pub(crate) use lanes::{Lanes, boot_of, life};
pub use machine::ShardListener;
pub(crate) use machine::{ListenerPlace, SharedShard};
pub use outbox::LiveHandler;
pub(crate) use parts::{Parts, PartsRequest, parts_for};
pub(crate) use propose::propose_for;
pub use read::ShardReadError;
pub(crate) use read::{InGroup, RetainedAnswer, RetainedRequest, in_group_here, read_index, retained_for};
pub(crate) use remote::Remote;
pub use remote::RemoteQueue;
pub(crate) use report::{Change, Desk, Report, carry_out};
pub(crate) use rounds::Rounds;

pub use session::Session;
pub(crate) use session::{SessionPart, SessionRequest, session_for};

/// A shard of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ShardId {
    pub(crate) number: u16,
    pub(crate) generation: u32,
}

impl ShardId {
    fn group(self) -> GroupId {
        GroupId::new(group_of(self.number), self.generation)
    }
}

/// A replica that runs here.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) id: ShardId,
    pub(crate) group: Group,
    pub(crate) machine: SharedShard,
}

/// The replicas that run here.
#[derive(Default)]
pub(crate) struct Replicas(Mutex<HashMap<u16, Replica>>);

impl Replicas {
    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Replica>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replica(&self, id: ShardId) -> Option<Replica> {
        self.lock().get(&id.number).filter(|replica| replica.id == id).cloned()
    }

    /// The replica that readers of this node read. Others run here, too: those that are not caught up yet, or are about to be removed.
    pub(crate) fn own(&self, id: ShardId) -> Option<Replica> {
        self.replica(id).filter(|replica| replica.machine.is_ready())
    }

    /// The replica of a shard's group.
    pub(crate) fn of_group(&self, number: u32) -> Option<Replica> {
        self.lock().values().find(|replica| replica.id.group().number == number).cloned()
    }

    /// All of them, in the order of their numbers.
    pub(crate) fn all(&self) -> Vec<Replica> {
        let mut all: Vec<Replica> = self.lock().values().cloned().collect();
        all.sort_by_key(|replica| replica.id.number);
        all
    }

    fn insert(&self, replica: Replica) {
        self.lock().insert(replica.id.number, replica);
    }

    fn remove(&self, number: u16) -> Option<Replica> {
        self.lock().remove(&number)
    }
}

/// Starts everything that a member does for shards.
pub(crate) fn start(node: &Arc<Node>) {
    if node.config.shards.is_none() {
        return;
    }
    node.lanes().set_node(node);
    node.spawn(host::run(Arc::clone(node)));
    node.spawn(report::run(Arc::clone(node)));
    node.spawn(driver::run(Arc::clone(node)));
}

/// The shard of a number, as the meta group has it.
pub(crate) fn shard_id(state: &MetaState, number: u16) -> Option<ShardId> {
    let shard = state.shards.get(number)?;
    Some(ShardId { number, generation: shard.generation() })
}

/// The name of a shard's group, for people.
pub(crate) fn group_name(shard: u16) -> String {
    format!("shard {shard}")
}

/// The number of the group of that name.
pub(crate) fn group_called(state: &MetaState, name: &str) -> Option<u32> {
    let number: u16 = name.strip_prefix("shard ")?.parse().ok()?;
    shard_id(state, number).map(|id| id.group().number)
}

/// Which nodes have a replica, or are to have one; those that vote first.
fn replicas_of(state: &MetaState, id: ShardId) -> Vec<u64> {
    let Some(shard) = state.shards.get(id.number) else { return Vec::new() };
    let mut replicas: Vec<u64> = Vec::new();
    for node in shard.holders().chain(shard.wanted().iter().copied()) {
        if !replicas.contains(&node) {
            replicas.push(node);
        }
    }
    replicas
}

/// The other nodes that can be asked for a shard: those that no connection leads to come last.
fn askable(node: &Node, running: &Running, id: ShardId) -> Vec<u64> {
    let state = node.meta_state();
    let up = |id: &u64| *id != running.id && state.members.get(id).is_some_and(|member| member.up);
    let mut nodes: Vec<u64> = replicas_of(&state, id).into_iter().filter(up).collect();
    nodes.sort_by_cached_key(|id| node.net.is_unreachable(*id));
    nodes
}

/// Whether a node has a replica of a shard, or is to have one.
fn is_here(shard: &Shard, node: u64) -> bool {
    shard.wanted().contains(&node) || shard.holders().any(|holder| holder == node)
}

/// The epoch of the map of slots.
fn map_epoch(state: &MetaState) -> u64 {
    state.shards.slots().epoch()
}

/// The slots of a shard.
fn slots_of(state: &MetaState, number: u16) -> SlotSet {
    let slots = state.shards.slots();
    let mut set = SlotSet::EMPTY;
    (0..raftmq_shard::SLOTS).filter(|slot| slots.shard(*slot) == Some(number)).for_each(|slot| set.insert(slot));
    set
}
