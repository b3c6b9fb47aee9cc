//! The entries of a shard's log.

mod codec;

pub use codec::stamped;
pub(crate) use codec::{limits, name, node, put_limits, put_name, put_node, put_will, stamp, will};

use std::sync::Arc;

use raftmq_mqtt::{Message, QoS};

use crate::{Keep, Keeper, Kept, Name, NodeBoot, Note, slot::SlotSet};

/// The destination of messages for the live subscribers of all nodes (clean sessions, at most once). The leader says
/// [`Op::HandedOff`] before it sends them.
pub const LIVE: u32 = u32::MAX;

/// An entry of the log.
#[expect(clippy::large_enum_variant, reason = "a command is decoded, applied and gone; there are never many")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Opens a node's stream of batches, and closes those of its older boots.
    Open {
        /// The node.
        node: NodeBoot,
        /// Which of the node's streams: one a worker.
        lane: u16,
    },
    /// Operations of a node.
    Batch(Batch),
    /// The node was declared down: its streams are closed, its clients are disconnected, whatever waits for it is over.
    NodeDown {
        /// The node, with the last boot that this is about.
        node: NodeBoot,
    },
    /// What is due at the time of the entry's stamp happens, and work that is done in steps goes on.
    Tick {
        /// The leader's wall clock, in milliseconds since the Unix epoch; for judging a [`Command::Jump`].
        wall_ms: u64,
    },
    /// The time after the whole cluster was down, as a majority's clocks agree. Never back.
    Jump {
        /// The new time of the shard, in milliseconds.
        to_ms: u64,
    },
    /// Switches on what all members know. Never back.
    Level {
        /// The level.
        level: u32,
    },
    /// The slots of this shard.
    Place {
        /// The epoch of the map; an older one than the last changes nothing.
        epoch: u64,
        /// The slots.
        slots: SlotSet,
    },
    /// Asks for a hash of the records from a key on, for comparing replicas.
    Digest {
        /// Where to begin: nothing, or where the last answer ended.
        from: Vec<u8>,
        /// The most records.
        limit: u32,
    },
    /// Operations of a shard's leader, this one's or another's: [`Op::Route`], [`Op::HandOff`], [`Op::HandedOff`], [`Op::Announced`]. They may come
    /// twice, and say by themselves whether they did; others are [`crate::OpAnswer::NoStream`].
    Lead {
        /// The operations.
        ops: Vec<Op>,
    },
}

/// Operations of a stream, numbered from [`Batch::first`] on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The node.
    pub node: NodeBoot,
    /// Its stream.
    pub lane: u16,
    /// The number of the first operation; a stream's first is 0.
    pub first: u64,
    /// The epoch of the map of slots that it was made with.
    pub map_epoch: u64,
    /// The operations.
    pub ops: Vec<Op>,
}

/// An operation. Those on a client carry the epoch of its connection: under another one they are [`crate::OpAnswer::Stale`] and
/// change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Nothing: a proposal that was given up, so that numbers have no gap.
    Skip,
    /// A client connects to the node of the stream [MQTT5 3.1].
    Claim(Box<Claim>),
    /// The node of the stream closed an older connection, for which a claim waits.
    Closed {
        /// The client.
        client: Name,
        /// The older connection's epoch.
        epoch: u64,
    },
    /// For which older connections a claim still waits: answered as the claim was, and nothing is changed but what nodes that are down leave to be
    /// done.
    Older {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
    },
    /// A connection ended [MQTT5 3.14, 4.13].
    Disconnect {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// The session expiry interval that DISCONNECT set, in seconds.
        expiry_s: Option<u32>,
        /// What becomes of the will.
        will: WillEnd,
    },
    /// SUBSCRIBE [MQTT5 3.8].
    Subscribe {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// What to subscribe to.
        filters: Vec<Subscription>,
    },
    /// UNSUBSCRIBE [MQTT5 3.10].
    Unsubscribe {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// The filters.
        filters: Vec<Arc<str>>,
    },
    /// The client acknowledged with PUBACK or PUBCOMP, or refused with PUBREC.
    Ack {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// Which messages of its queue.
        seqs: Vec<SeqRange>,
    },
    /// The client acknowledged with PUBREC.
    Rec {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// Which messages of its queue.
        seqs: Vec<SeqRange>,
    },
    /// Messages of the queue up to this one may be sent from now on.
    Grant {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// The last of them; it may be one that is not there yet.
        up_to: u64,
    },
    /// A QoS 2 message from a client with a durable session [MQTT5 4.3.3].
    Receive2 {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// The packet identifier.
        packet_id: u16,
        /// The message.
        message: Message,
        /// The shards that it goes to, and [`LIVE`]; none where a shard has to keep it first.
        destinations: Vec<u32>,
        /// That shard.
        keeper: Option<Box<Keeper>>,
    },
    /// What became, in the shards that have to keep them, of messages with QoS 2 of the client. It is told once.
    Outcomes {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// Their packet identifiers.
        packet_ids: Vec<u16>,
    },
    /// PUBREL of such a message.
    Release {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// The packet identifier.
        packet_id: u16,
    },
    /// A message for the durable sessions of this shard.
    Publish {
        /// The tenant.
        namespace: u32,
        /// The message.
        message: Message,
    },
    /// A message with RETAIN whose topic is of this shard: it becomes what later subscribers get of its topic, or removes that if it is empty [MQTT5 3.3.1.3].
    /// And as [`Op::Publish`]. One for which there is no room is not published either.
    Retain {
        /// The tenant.
        namespace: u32,
        /// The message.
        message: Message,
        /// How much the shard may retain.
        bounds: Bounds,
    },
    /// Messages for the queue of one client: what is retained, for its new subscription [MQTT5 3.3.1.3]. As many as there is room for, up to half of the queue's
    /// limits so that what is published meanwhile finds room, and none of whose topic it has got a newer one
    /// ([`Message::change`]). One that is too large for the queue's limits is dropped.
    Queue {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// What the queue had up to this number was there before the messages were read. What came behind it may be newer than they are.
        after: u64,
        /// The messages.
        messages: Vec<QueueMessage>,
    },
    /// A message that is published later.
    Delay {
        /// The tenant.
        namespace: u32,
        /// The message.
        message: Message,
        /// When, in milliseconds from now on.
        delay_ms: u64,
        /// How much may wait in the shard.
        bounds: Bounds,
    },
    /// SUBSCRIBE of a durable session to one shared filter [MQTT5 4.8.2], with QoS 1 or 2: the shard of the group is told.
    Join {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// What to subscribe to: `$share/group/filter`.
        subscription: Subscription,
        /// The shard of the group, by [`crate::group_slot`].
        shard: u32,
    },
    /// [`Op::Join`] of a client whose session ends with its connection: until then the shard has a queue for what groups give it, and nothing else of its session.
    JoinClean {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// What to subscribe to: `$share/group/filter`.
        subscription: Subscription,
        /// The shard of the group, by [`crate::group_slot`].
        shard: u32,
        /// Bounds of the session.
        limits: QueueLimits,
    },
    /// The client does not acknowledge in time what shared groups have given it: if there are others in a group they get that, too. What may have been sent with QoS 2 stays
    /// with the client alone.
    Return {
        /// The client.
        client: Name,
        /// The connection's epoch.
        epoch: u64,
        /// Which messages of its queue; those that are of no group stay.
        seqs: Vec<SeqRange>,
    },
    /// What another shard, or this one, has to say of a shared group: each number once.
    Note {
        /// The shard that it comes from.
        source: u32,
        /// Its number among those for this shard.
        number: u64,
        /// What it is.
        note: Box<Note>,
        /// The message that is given, and what is left of its expiry interval in milliseconds.
        message: Option<(Message, Option<u64>)>,
    },
    /// A shard has committed the notes up to this one.
    Noted {
        /// The shard.
        destination: u32,
        /// The number.
        up_to: u64,
    },
    /// Says where a will or a delayed message goes.
    Route {
        /// Its number among those that wait for this.
        entry: u64,
        /// The shards, and [`LIVE`]; none where a shard has to keep it first.
        destinations: Vec<u32>,
        /// That shard.
        keeper: Option<Box<Keeper>>,
    },
    /// A message from another shard's outbox: as [`Op::Publish`], but each number once, and retained if its topic is of this shard and it says so.
    HandOff {
        /// The shard that hands it off.
        source: u32,
        /// Its number among the source's for this shard, from 1 on.
        number: u64,
        /// The tenant.
        namespace: u32,
        /// The message.
        message: Message,
        /// What is left of its expiry interval, in milliseconds.
        lifetime_ms: Option<u64>,
        /// What this shard does with it. The answer is [`crate::OpAnswer::Kept`], also when it comes again: for the last [`crate::MOST_HANDED_OFF`] of a source.
        keep: Option<Keep>,
    },
    /// The destination has committed (or, if [`LIVE`], will be sent) what is in the outbox up to this number. The answer is [`crate::OpAnswer::HandedOff`].
    HandedOff {
        /// The shard, or [`LIVE`].
        destination: u32,
        /// The number.
        up_to: u64,
        /// What became of those that the destination keeps.
        kept: Vec<HandedOn>,
    },
    /// The routes group has the shard's changes up to this number.
    Announced {
        /// The number.
        up_to: u64,
    },
}

impl Op {
    /// About how many bytes it has in memory and in the log.
    #[must_use]
    pub fn size(&self) -> usize {
        let base = 48;
        base + match self {
            Self::Claim(claim) => claim.client.id.len() + claim.will.as_ref().map_or(0, |will| will.message.wire_len()),
            Self::Subscribe { filters, .. } => filters.iter().map(|filter| filter.filter.len() + 16).sum(),
            Self::Unsubscribe { filters, .. } => filters.iter().map(|filter| filter.len() + 16).sum(),
            Self::Queue { messages, .. } => messages.iter().map(|queued| queued.message.wire_len() + 24).sum(),
            Self::Ack { seqs, .. } | Self::Rec { seqs, .. } | Self::Return { seqs, .. } => seqs.len() * 16,
            Self::Join { client, subscription, .. } | Self::JoinClean { client, subscription, .. } => {
                client.id.len() + subscription.filter.len() + 16
            }
            Self::Note { note, message, .. } => {
                note.size() + message.as_ref().map_or(0, |(message, _)| message.wire_len())
            }
            Self::Receive2 { message, destinations, .. } => message.wire_len() + destinations.len() * 4,
            Self::Route { destinations, .. } => destinations.len() * 4,
            Self::Outcomes { packet_ids, .. } => packet_ids.len() * 2,
            Self::HandedOff { kept, .. } => kept.iter().map(|handed| 24 + handed.destinations.len() * 4).sum(),
            Self::Publish { message, .. }
            | Self::Retain { message, .. }
            | Self::Delay { message, .. }
            | Self::HandOff { message, .. } => message.wire_len(),
            Self::Skip
            | Self::Closed { .. }
            | Self::Older { .. }
            | Self::Disconnect { .. }
            | Self::Grant { .. }
            | Self::Release { .. }
            | Self::Noted { .. }
            | Self::Announced { .. } => 0,
        }
    }
}

/// What became of a message that a shard has to keep, and where it goes then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedOn {
    /// Its number among those for that shard.
    pub number: u64,
    /// What became of it.
    pub kept: Kept,
    /// The shards that have subscribers of it, without the one that keeps it, and maybe [`LIVE`]; as a node knows them that has looked after this one had it.
    pub destinations: Vec<u32>,
}

/// A client's CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub client: Name,
    /// Clean Start (Clean Session before MQTT 5) [MQTT5 3.1.2.4].
    pub clean_start: bool,
    /// The session expiry interval in seconds; `u32::MAX`: never [MQTT5 3.1.2.11.2].
    pub expiry_s: u32,
    /// The will [MQTT5 3.1.2.5].
    pub will: Option<Will>,
    /// Bounds of the session, new or not.
    pub limits: QueueLimits,
    /// Whether a new session is kept in the shard. One that ends with its connection is not: there is only a record of its owner.
    pub durable: bool,
    /// Only where the client has no session in the shard, and no other node has its connection: else [`crate::OpAnswer::Stale`], and nothing is changed.
    pub yields: bool,
}

/// A will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// The message.
    pub message: Message,
    /// The will delay interval in seconds [MQTT5 3.1.3.2.2].
    pub delay_s: u32,
}

/// What becomes of the will when a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillEnd {
    /// It is published after its delay, or with the end of the session.
    Keep,
    /// It is removed: a normal DISCONNECT (`[MQTT-3.14.4-3]`).
    Drop,
    /// It is published without delay.
    Publish,
}

/// Bounds of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// The most messages that wait or are not acknowledged.
    pub max_messages: u32,
    /// The most bytes of these.
    pub max_bytes: u64,
    /// What goes when they are reached.
    pub drop: DropPolicy,
    /// The most subscriptions.
    pub max_subscriptions: u32,
}

/// What goes when a queue is full. Messages that have expired go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropPolicy {
    /// The message that comes.
    Newest,
    /// The message that waits longest. One that may be in use (granted) never goes.
    Oldest,
}

/// A message for a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMessage {
    /// The message.
    pub message: Message,
    /// With which QoS it is sent, above 0.
    pub qos: QoS,
    /// The identifier of the subscription, 0 if there is none [MQTT5 3.8.2.1.2].
    pub identifier: u32,
    /// What is left of its expiry interval, in milliseconds.
    pub lifetime_ms: Option<u64>,
}

/// How much a shard may retain, or keep for later. What replaces another retained message may exceed the bytes, and so may what other shards hand off (wills).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The most messages.
    pub messages: u64,
    /// The most bytes of them ([`Message::wire_len`]).
    pub bytes: u64,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topic filter.
    pub filter: Arc<str>,
    /// The maximum QoS.
    pub qos: QoS,
    /// No Local [MQTT5 3.8.3.1].
    pub no_local: bool,
    /// Retain As Published [MQTT5 3.8.3.1].
    pub retain_as_published: bool,
    /// The subscription identifier, 0 if there is none [MQTT5 3.8.2.1.2].
    pub identifier: u32,
}

/// Sequence numbers from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}
