//! A worker: one thread with listeners, connections and sessions of its own.
//!
//! A connection lives and dies on its worker and its state is never locked. The worker is one structure, used by
//! the tasks of its thread in turn: one for each connection ([`task`]), one that accepts, one that empties the
//! [`inbox`], one for time, one that writes. A task that has something for a client appends it to the client's
//! [`outlet`] and names the client in `dirty`; the writing task runs when the others have had their turn, so that a client
//! that got several messages in one turn is written to once.

mod announce;
mod banned;
mod claims;
/// The client of the tests with whole nodes.
#[cfg(test)]
#[path = "../../tests/node/client.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod client;
mod clients;
mod commits;
mod connection;
mod durable;
mod given;
mod guests;
mod inbox;
mod keeping;
mod late;
mod linger;
mod listener;
mod local;
mod messages;
mod meter;
mod mount;
mod outlet;
mod publish;
mod quic;
mod rates;
mod receive;
mod registry;
mod renew;
mod replay;
mod retained;
mod run;
mod shard_replay;
mod shard_subscribe;
mod shards;
mod shared;
mod sharing;
mod slab;
mod socket;
mod subscribe;
mod system;
mod task;
#[cfg(test)]
mod tests;
mod wheel;
mod wills;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::Waker;

use raftmq_features::ClientVars;
use raftmq_features::wills::PendingWills;
use raftmq_mqtt::Message;
use raftmq_routing::{SubscriptionIndex, Targets, TopicCache};
use raftmq_session::{
    Action, CloseReason, Connection, Now, Origins, OwnedWill, SessionLimits, SessionState, SubscriptionInfo,
};
use raftmq_transport::PeerInfo;
use tokio::sync::Notify;

use crate::authn::Exchange;
use crate::bans::InForce;
use crate::features::Rules;
use crate::metrics::WorkerCounters;
use inbox::Outgoing;
pub(crate) use inbox::{Inbox, Item};
pub(crate) use listener::{ListenError, ListenerState, Opened, limits_of as listener_limits, open as open_listener};
pub(crate) use publish::is_reserved;
pub(crate) use quic::{QuicServer, Starting};
pub(crate) use registry::ClientRegistry;
pub(crate) use renew::Live;
pub(crate) use run::{WorkerHandle, start};
pub(crate) use shards::{FromShards, listen as listen_to_shards};
pub(crate) use shared::{Clock, NodeShared, Router};
pub(crate) use sharing::{Attempt, Shared};

use outlet::{Outlet, Spares};
use rates::{Rates, Throttled};
use slab::Slab;
use socket::Socket;
use wheel::Key;
pub(crate) use wheel::Wheel;

/// Bytes that one read of a socket may bring.
const READ_BUFFER: usize = 64 * 1024;
/// Topics whose targets a worker remembers.
const CACHED_TOPICS: usize = 65_536;
/// Bytes of answers that may wait for a client besides its messages before it is not read any more.
const MAX_ANSWERS: usize = 256 * 1024;
/// How long a connection that is to be closed may take to read what is left for it.
const CLOSING_MS: u64 = 5_000;

/// One socket and what belongs to it.
struct Conn {
    session: Connection,
    /// The connection's task has the other reference.
    socket: Rc<Socket>,
    /// Who is at the other end.
    peer: Box<PeerInfo>,
    outlet: Outlet,
    /// Bytes of a packet that is not there completely, or that must wait.
    partial: Vec<u8>,
    /// `partial` may hold a complete packet: it stopped because the session could not take it.
    held: bool,
    /// The client has ended its stream: the connection ends when what it sent before is dealt with.
    ended: bool,
    /// The connection's task, while it waits.
    waker: Option<Waker>,
    /// The client, once connected.
    client: Option<Key>,
    listener: u16,
    /// In `dirty`.
    dirty: bool,
    /// Its messages wait for another worker: it is not read.
    stalled: bool,
    /// What it has under way to shards that retain it: it may be too much for it to be read.
    retaining: Option<Box<retained::OfPublisher>>,
    /// It has sent more than it may: it is not read.
    throttled: bool,
    /// Nothing can be written to it any more, and what it sent before that is still to be read.
    deaf: bool,
    /// Its limits by time, where there are any.
    rates: Option<Box<Rates>>,
    /// What `sent` of the worker was when it published something for another worker: nothing is written to it before that is handed over.
    sent: u64,
    /// Write what is left, then end; at this time in any case.
    closing: Option<u64>,
    /// When its entry in the wheel fires.
    watched: Option<u64>,
    /// To be moved to the worker that has its client's session, with these bytes.
    moving: Option<(u16, Vec<u8>)>,
    /// Why it ends, once it does.
    reason: Option<CloseReason>,
    /// The user name of its CONNECT.
    username: Option<Box<str>>,
    /// When its CONNECT was accepted, in milliseconds since the Unix epoch.
    connected_at_ms: u64,
    /// While the client authenticates itself.
    exchange: Option<Box<dyn Exchange>>,
    /// It is counted in `authenticating`.
    reserves: bool,
    /// It is refused because the node has too much to do.
    overload: bool,
    /// A shard has its client connected elsewhere.
    stale: bool,
    /// It is closed, and nothing waits but the packet that says why.
    last_word: bool,
}

impl Conn {
    /// What placeholders of rules stand for.
    fn vars(&self) -> ClientVars<'_> {
        ClientVars { client_id: self.session.client_id(), username: self.username.as_deref(), peer: self.peer.address }
    }

    /// It is not read: what it sent has to go on first.
    fn waits(&self) -> bool {
        self.stalled || self.retaining.as_ref().is_some_and(|retaining| retaining.is_full())
    }

    /// More waits for it than it may leave unread: it asks and does not read the answers, and is not read itself.
    fn owes_reading(&self) -> bool {
        let limits = self.session.limits();
        self.outlet.len() > limits.max_outbound_bytes + limits.max_packet_size as usize + MAX_ANSWERS
    }
}

/// One client identifier that has a session on this worker.
struct Client {
    id: Arc<str>,
    state: ClientState,
    /// When its entry in the wheel of expiries fires; it stays there while the client is connected.
    watched: Option<u64>,
    /// The listener of its last connection, whose limits are the session's.
    listener: u16,
    /// How many of its subscriptions are in the index and in groups.
    subscriptions: u32,
    /// Of the connection that it has.
    will: Option<Box<OwnedWill>>,
    /// Filters of its session that rules have made others of.
    renamed: Option<Renamed>,
    /// Once it is a member of a group: what it has to do, for whoever chooses.
    load: Option<Arc<AtomicU32>>,
    /// Its place in the cluster's registry, while it is connected.
    owner: Option<Box<claims::Owner>>,
}

/// Filter of a session → what messages are matched against.
type Renamed = Box<HashMap<Arc<str>, Arc<str>, ahash::RandomState>>;

impl Client {
    /// One that connects.
    const fn new(id: Arc<str>, conn: Key, listener: u16) -> Self {
        Self {
            id,
            state: ClientState::Online(conn),
            watched: None,
            listener,
            subscriptions: 0,
            will: None,
            renamed: None,
            load: None,
            owner: None,
        }
    }
}

enum ClientState {
    /// Connected: the session is inside the connection.
    Online(Key),
    /// Not connected.
    Offline {
        state: Box<SessionState>,
        /// `None`: never.
        expires_ms: Option<u64>,
    },
}

/// Everything of one worker. Used by the tasks of one thread; no borrow of it lasts over an await.
pub(crate) struct Worker {
    id: u8,
    node: Arc<NodeShared>,
    counters: WorkerCounters,
    origins: Origins,
    conns: Slab<Conn>,
    clients: Slab<Client>,
    by_id: HashMap<Arc<str>, Key, ahash::RandomState>,
    /// Client identifiers of connections that began to authenticate themselves here, and how many.
    authenticating: HashMap<Arc<str>, u32, ahash::RandomState>,
    /// Filters → clients, by slot.
    index: SubscriptionIndex<SubscriptionInfo>,
    cache: TopicCache,
    /// Deadlines of connections.
    wheel: Wheel,
    /// Ends of sessions that are not connected.
    expiries: Wheel,
    due: Vec<Key>,
    /// When the bytes were taken that are parsed now.
    read_at: Now,
    read_buffer: Vec<u8>,
    /// Sockets whose connection has ended, and whose client still sends.
    lingering: usize,
    /// What a read carried of MQTT, where layers are in between.
    plain: Vec<u8>,
    spares: Spares,
    actions: Vec<Action>,
    matched: Vec<(u32, SubscriptionInfo)>,
    targets: Targets,
    /// Connections with something to be written.
    dirty: Vec<Key>,
    /// For the other workers, by number.
    outgoing: Vec<Outgoing>,
    /// How many messages that were until now, and so many of them at least are handed over.
    sent: u64,
    handed_over: u64,
    /// Publishers that wait until `outgoing` is handed over.
    stalled: Vec<Key>,
    /// Connections that wait because of a rate.
    throttled: Throttled,
    /// A connection was not served for want of a lease: all look again when there is one.
    unserved: bool,
    /// Clients have no place in the registry: they came, or lost theirs, while the node served without a quorum.
    unclaimed: bool,
    /// They are being claimed.
    claiming_again: bool,
    /// Wakes the writing task.
    flush: Rc<Notify>,
    /// Who may not connect, as far as this worker knows.
    bans: Arc<InForce>,
    /// Connections by listener, for their limits.
    listeners: Rc<Vec<ListenerState>>,
    /// Rules for topics that count now.
    rules: Arc<Rules>,
    /// What a task of the worker spawns: subscriptions that wait for their barrier.
    barriers: VecDeque<subscribe::Barrier>,
    /// Wakes the task that spawns them.
    barrier_ready: Rc<Notify>,
    /// Subscriptions that are not through the retained messages.
    replays: replay::Replays,
    /// Wakes the task that gives them their turns.
    replay_ready: Rc<Notify>,
    /// Wills that wait for their delay.
    wills: PendingWills<wills::WaitingWill>,
    /// Messages taken out of a store on their way to clients; kept for its memory.
    due_messages: Vec<Message>,
    /// Taken out of the inbox and not looked at yet.
    arrived: VecDeque<Item>,
    /// The `$SYS` tree: the first worker's.
    system: Option<Box<system::System>>,
    /// When the messages in sessions are counted again.
    next_stored_ms: u64,
    /// The way to the shards, in a cluster that has some.
    desk: Option<Box<shards::ShardDesk>>,
    /// What a task of the worker spawns.
    later: VecDeque<shards::Later>,
    /// Wakes the task that spawns it.
    later_ready: Rc<Notify>,
    /// Publishers that wait until there is room for operations.
    shard_stalled: Vec<Key>,
    /// New subscriptions that are not through what the shards retain.
    shard_replays: shard_replay::ShardReplays,
    /// What was given of that a short time ago.
    given: given::GivenAll,
    /// Messages that are not committed in all shards, with their deadlines.
    committing: VecDeque<(u64, Rc<commits::Publishing>)>,
}

/// What the clients of a listener may use.
fn limits_of<'a>(node: &'a NodeShared, listeners: &'a [ListenerState], listener: u16) -> &'a Arc<SessionLimits> {
    listeners.get(usize::from(listener)).map_or(&node.limits, |listener| &listener.limits)
}

impl Worker {
    /// Names a connection to the writing task.
    fn mark_dirty(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.dirty
        {
            conn.dirty = true;
            if self.dirty.is_empty() {
                self.flush.notify_one();
            }
            self.dirty.push(key);
        }
    }

    /// The connection's task has to look again.
    fn wake(&mut self, key: Key) {
        if let Some(waker) = self.conns.get_mut(key).and_then(|conn| conn.waker.take()) {
            waker.wake();
        }
    }

    /// Whether the node serves now. Who got a no is woken when that changes.
    fn is_serving(&mut self) -> bool {
        let serving = self.node.is_serving();
        self.unserved |= !serving;
        serving
    }

    /// Whether a connection is read and written now: without a lease those of sessions that need no quorum, on a node that goes on. Who got a
    /// no is woken when that changes.
    fn serves(&mut self, key: Key) -> bool {
        self.is_serving() || (self.node.is_local() && !self.needs_quorum(key))
    }

    /// Whether what waits for a connection is written when the server ends it: as [`Worker::serves`], also while the node ends.
    fn may_finish(&mut self, key: Key) -> bool {
        self.node.lease.is_serving() || (self.node.lease.is_local() && !self.needs_quorum(key))
    }

    /// At each tick: a lease that ran out and came back within a moment may have changed no phase.
    fn serve_again(&mut self) {
        if self.unserved && self.node.is_serving() {
            self.unserved = false;
            self.wake_all();
            self.deliver_to_all();
        }
    }

    /// All look again whether they may read and write.
    fn wake_all(&mut self) {
        self.resume_all_replays();
        for key in self.conns.keys() {
            if self.conns.get_mut(key).is_some_and(|conn| !conn.outlet.is_empty()) {
                self.mark_dirty(key);
            }
            self.wake(key);
        }
    }
}
