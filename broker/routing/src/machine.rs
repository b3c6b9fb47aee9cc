//! The state machine of the `routes` Raft group.

mod shards;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    hash::{mix, route_hash},
    key::RouteKey,
    shared::SharedRoutes,
    snapshot,
    table::Receiver,
};

pub(crate) use shards::ShardStream;
pub use shards::{ShardChange, ShardRoutes};

/// The latest format. A command of a later one is answered with [`RoutesResponse::UnknownFormat`].
///
/// Format 2 has routes of groups ([`RouteKey::Shared`]). What has none is written in format 1, and what is said to be of format 1 and
/// has some is refused, as it was before there was a format 2: all replicas answer the same or stop. Likewise format 3 has routes of shards.
const FORMAT: u8 = 3;
/// The format of what has routes of groups and none of shards.
const FORMAT_GROUPS: u8 = 2;
/// The format of what has neither.
const FORMAT_PLAIN: u8 = 1;

/// An entry of the routes group's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoutesCommand {
    /// Begins a node's stream of batches: closes the older ones and removes the routes that came by them.
    Open {
        /// Raft id of the node.
        node: u64,
        /// Incarnation of the node's data directory.
        incarnation: u128,
        /// Boot of the node.
        boot: u64,
        /// Number of the stream within the boot. (boot, stream) only grows.
        stream: u64,
    },
    /// Changes of a node's routes: what is in `remove` goes, then what is in `add` comes.
    Batch {
        /// Raft id of the node.
        node: u64,
        /// Boot of the node.
        boot: u64,
        /// The stream that the batch is part of.
        stream: u64,
        /// Number of the batch in its stream, from 1 on.
        seq: u64,
        /// Filters that the node has its first subscriber of.
        add: Vec<RouteKey>,
        /// Filters that the node has no subscriber of any more.
        remove: Vec<RouteKey>,
    },
    /// The node was declared down: its stream is closed and its routes are removed.
    NodeDown {
        /// Raft id of the node.
        node: u64,
        /// The last stream (boot, stream) that this is about: a stream opened since then stays. `None`: whichever is open.
        through: Option<(u64, u64)>,
    },
    /// Changes of a shard's routes, in their order, from whoever leads the shard.
    Shard {
        /// The shard.
        shard: u16,
        /// The generation of its changes. That of a shard of which nothing is known is the first that comes.
        generation: u64,
        /// The number of the first of these changes; the others follow. The first of all is 1, if [`RoutesCommand::ShardReset`] said no other. What was
        /// applied before is passed over.
        first: u64,
        /// What changes. None: asks what is expected next.
        changes: Vec<ShardChange>,
    },
    /// A shard begins anew: its routes are removed, and what is late of its older generations is refused.
    ShardReset {
        /// The shard.
        shard: u16,
        /// The new generation. One that is known already changes nothing.
        generation: u64,
        /// The number of its first change: who announces the filters that there are names them as the last changes that there were.
        next: u64,
    },
}

/// The answer to a [`RoutesCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoutesResponse {
    /// Done, now or by an earlier copy of the same command.
    Ok {
        /// The number of the batch expected next.
        next: u64,
    },
    /// A batch before this one is missing; nothing was changed.
    Gap {
        /// The number of the batch expected next.
        expected: u64,
    },
    /// The stream is not open: never opened, closed by a later one or by [`RoutesCommand::NodeDown`]. A later stream must be opened.
    Closed {
        /// The last stream (boot, stream) known of the node.
        last: Option<(u64, u64)>,
    },
    /// The id belongs to another incarnation.
    WrongIncarnation,
    /// The command cannot be decoded; nothing was changed.
    Malformed,
    /// The command's format is newer than this program. A replica that goes on has another state than the others: it must stop.
    UnknownFormat {
        /// The format of the command.
        format: u8,
    },
    /// The shard's changes are of another generation; nothing was changed. After a later one this proposer is of the past, after an earlier
    /// one [`RoutesCommand::ShardReset`] is missing.
    OtherGeneration {
        /// The generation of the shard's changes.
        known: u64,
    },
}

impl RoutesCommand {
    /// The bytes of a log entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self.format(), self)
    }

    /// The first format that can say it.
    fn format(&self) -> u8 {
        match self {
            Self::Batch { add, remove, .. } if add.iter().chain(remove).any(RouteKey::is_shared) => FORMAT_GROUPS,
            Self::Shard { .. } | Self::ShardReset { .. } => FORMAT,
            Self::Open { .. } | Self::Batch { .. } | Self::NodeDown { .. } => FORMAT_PLAIN,
        }
    }

    /// Decodes a log entry, for tools and logs.
    ///
    /// # Errors
    /// What [`RoutesMachine::apply`] would answer: [`RoutesResponse::Malformed`] or [`RoutesResponse::UnknownFormat`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RoutesResponse> {
        let (format, command): (u8, Self) = decode(bytes)?;
        if command.format() > format { Err(RoutesResponse::Malformed) } else { Ok(command) }
    }
}

impl RoutesResponse {
    /// The bytes of a response.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(FORMAT_PLAIN, self)
    }

    /// Decodes a response; [`RoutesResponse::Malformed`] or [`RoutesResponse::UnknownFormat`] if it cannot be.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        decode(bytes).map_or_else(|refused| refused, |(_, response)| response)
    }
}

fn encode<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![format]).expect("these types always serialize, a Vec always has room")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(u8, T), RoutesResponse> {
    match bytes.split_first() {
        Some((&format @ FORMAT_PLAIN..=FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok((format, value)),
            _ => Err(RoutesResponse::Malformed),
        },
        Some((&format, _)) if format > FORMAT => Err(RoutesResponse::UnknownFormat { format }),
        _ => Err(RoutesResponse::Malformed),
    }
}

/// Why a snapshot was not taken; the state is as before.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RestoreError {
    /// The snapshot's format is newer than this program.
    #[error("the snapshot of the routes has format {found}, this program knows {FORMAT}: install a newer one")]
    UnknownFormat {
        /// The format of the snapshot.
        found: u8,
    },
    /// The bytes are no snapshot.
    #[error("the snapshot of the routes is damaged: {reason}")]
    Damaged {
        /// What is wrong.
        reason: &'static str,
    },
}

/// Where [`RoutesMachine::state_hash`] begins.
const STATE_SEED: u64 = 1;

/// What is known of one node. Kept after the node is gone, so that a late `Open` of its past cannot bring its routes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeStream {
    pub(crate) incarnation: u128,
    pub(crate) boot: u64,
    pub(crate) stream: u64,
    pub(crate) next: u64,
    pub(crate) open: bool,
    /// The number of the node's routes.
    pub(crate) routes: u64,
    /// Sum of the hashes of the node's routes: part of the state hash, in no order.
    pub(crate) sum: u64,
}

/// The state machine of the `routes` group: filter → nodes with live subscribers and shards with durable sessions, group → nodes with members and
/// about how many.
///
/// Its routes are in the [`SharedRoutes`] it is made with, beside the node's own workers: what is applied is seen by
/// lookups that begin afterwards. Only one machine may write the nodes and shards of a table.
pub struct RoutesMachine {
    pub(crate) routes: SharedRoutes,
    pub(crate) nodes: BTreeMap<u64, NodeStream>,
    pub(crate) shards: BTreeMap<u16, ShardStream>,
    /// How often more than once a route of a shard was added: of few, if any.
    pub(crate) repeated: BTreeMap<(u16, RouteKey), u64>,
}

impl RoutesMachine {
    /// A machine without state, over a table without routes of nodes and shards.
    #[must_use]
    pub fn new(routes: SharedRoutes) -> Self {
        Self { routes, nodes: BTreeMap::new(), shards: BTreeMap::new(), repeated: BTreeMap::new() }
    }

    /// Applies a log entry and gives the encoded [`RoutesResponse`]. The index is not part of the state.
    pub fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        match RoutesCommand::decode(command) {
            Ok(command) => self.apply_command(command),
            Err(refused) => refused,
        }
        .encode()
    }

    /// As [`RoutesMachine::apply`], without the encoding.
    pub fn apply_command(&mut self, command: RoutesCommand) -> RoutesResponse {
        match command {
            RoutesCommand::Open { node, incarnation, boot, stream } => self.open(node, incarnation, (boot, stream)),
            RoutesCommand::Batch { node, boot, stream, seq, add, remove } => {
                self.batch(node, (boot, stream), seq, &add, &remove)
            }
            RoutesCommand::NodeDown { node, through } => self.node_down(node, through),
            RoutesCommand::Shard { shard, generation, first, changes } => {
                self.change_shard(shard, generation, first, &changes)
            }
            RoutesCommand::ShardReset { shard, generation, next } => self.reset_shard(shard, generation, next),
        }
    }

    /// The stream (boot, stream) that is open for a node.
    #[must_use]
    pub fn open_stream(&self, node: u64) -> Option<(u64, u64)> {
        self.nodes.get(&node).filter(|known| known.open).map(NodeStream::id)
    }

    /// The last stream (boot, stream) that is known of each node, open or not, by Raft id.
    pub fn last_streams(&self) -> impl Iterator<Item = (u64, (u64, u64))> + Clone {
        self.nodes.iter().map(|(&node, known)| (node, known.id()))
    }

    /// The number of routes of a node.
    #[must_use]
    pub fn routes_of(&self, node: u64) -> u64 {
        self.nodes.get(&node).map_or(0, |known| known.routes)
    }

    /// The table that the machine writes.
    #[must_use]
    pub fn routes(&self) -> &SharedRoutes {
        &self.routes
    }

    /// A hash of the whole state, the same on all replicas that applied the same entries. It is kept up to date by each entry: asking is cheap.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let of_nodes = self.nodes.iter().fold(STATE_SEED, |hash, (&id, known)| {
            let words = [
                id,
                known.incarnation as u64,
                (known.incarnation >> 64) as u64,
                known.boot,
                known.stream,
                known.next,
                u64::from(known.open),
                known.routes,
                known.sum,
            ];
            words.into_iter().fold(hash, mix)
        });
        self.shards.iter().fold(of_nodes, |hash, (&shard, known)| {
            [shard.into(), known.generation, known.next, known.routes, known.sum].into_iter().fold(hash, mix)
        })
    }

    /// The whole state as bytes: the same state gives the same bytes, on each replica.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        snapshot::write(self)
    }

    /// Replaces the state by that of a snapshot. A lookup meanwhile finds the routes of before or of after.
    ///
    /// # Errors
    /// If the bytes are no snapshot that this program knows. Nothing is changed then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        snapshot::read(self, bytes)
    }

    fn open(&mut self, node: u64, incarnation: u128, id: (u64, u64)) -> RoutesResponse {
        if let Some(known) = self.nodes.get(&node) {
            if known.incarnation != incarnation {
                return RoutesResponse::WrongIncarnation;
            }
            if known.open && known.id() == id {
                return RoutesResponse::Ok { next: known.next };
            }
            if known.id() >= id {
                return RoutesResponse::Closed { last: Some(known.id()) };
            }
            self.remove_routes(node);
        }
        let opened = NodeStream { incarnation, boot: id.0, stream: id.1, next: 1, open: true, routes: 0, sum: 0 };
        self.nodes.insert(node, opened);
        RoutesResponse::Ok { next: 1 }
    }

    fn batch(&mut self, node: u64, id: (u64, u64), seq: u64, add: &[RouteKey], remove: &[RouteKey]) -> RoutesResponse {
        let Some(known) = self.nodes.get_mut(&node) else {
            return RoutesResponse::Closed { last: None };
        };
        if !known.open || known.id() != id {
            return RoutesResponse::Closed { last: Some(known.id()) };
        }
        if seq > known.next {
            return RoutesResponse::Gap { expected: known.next };
        }
        if seq < known.next {
            return RoutesResponse::Ok { next: known.next };
        }
        known.next += 1;
        for key in remove {
            if self.routes.remove(key, Receiver::Node(node)) {
                known.routes -= 1;
                known.sum = known.sum.wrapping_sub(key_hash(key));
            }
        }
        for key in add {
            if self.routes.add(key, Receiver::Node(node)) {
                known.routes += 1;
                known.sum = known.sum.wrapping_add(key_hash(key));
            }
        }
        self.routes.changed();
        RoutesResponse::Ok { next: known.next }
    }

    fn node_down(&mut self, node: u64, through: Option<(u64, u64)>) -> RoutesResponse {
        if let Some(known) = self.nodes.get_mut(&node)
            && known.open
            && through.is_none_or(|through| known.id() <= through)
        {
            known.open = false;
            self.remove_routes(node);
        }
        RoutesResponse::Ok { next: 0 }
    }

    fn remove_routes(&mut self, node: u64) {
        if let Some(known) = self.nodes.get_mut(&node)
            && known.routes > 0
        {
            known.routes = 0;
            known.sum = 0;
            self.routes.remove_node(node);
            self.routes.changed();
        }
    }
}

impl NodeStream {
    pub(crate) fn id(&self) -> (u64, u64) {
        (self.boot, self.stream)
    }
}

pub(crate) fn key_hash(key: &RouteKey) -> u64 {
    match key {
        RouteKey::Exact(hash) => mix(*hash, 1),
        RouteKey::Wild(filter) => mix(route_hash(filter), 2),
        RouteKey::Shared { group, rank } => mix(route_hash(group), 3 + u64::from(*rank)),
    }
}

#[cfg(test)]
mod tests;
