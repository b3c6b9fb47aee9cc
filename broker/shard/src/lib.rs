//! The replicated state of a shard: the registry of clients, durable sessions with their queues, retained and delayed messages, wills,
//! without I/O.
//!
//! [`ShardMachine`] is a deterministic state machine: entries of a log in, [`Answer`]s and [`Effect`]s (hints for whoever leads) out.
//! It knows no socket, clock, task or randomness: time is what the leader says with its entries ([`stamped`]). Replicas that applied the same entries have the same
//! state, byte for byte, whatever each of them had in memory, and whenever it was flushed or started again.
//!
//! # How the state is kept
//!
//! Everything is a record of its own under a key: a client, a session, 128 places of its queue, a message. Records are read from a
//! [`Store`], which has the state of the last flush, and are kept decoded in memory while they are changed and, within a bound, while they are
//! used. So a queue of a million messages has its ends in memory only, and a message that is published and acknowledged between two
//! flushes is never written. [`ShardMachine::flush`] hands out what changed, with the index of the last entry applied; the
//! log after that is applied again at a start. The store after a flush is the snapshot. In memory only is the index
//! of subscriptions, which is built at a start.
//!
//! A command never does an amount of work that grows with what is there: clients of a node that is down, and what an ended session had, go in
//! steps that the following commands make, while every answer is as if they were done. The exception is a message's fan-out.
//!
//! # Choices
//!
//! - Who claims a client is the node of the stream that says so, and an operation on a connection is valid only from its node: a node that was
//!   declared down has no stream, and can do nothing.
//! - What replicas compare ([`Command::Digest`]) is a walk through the records in the order of their keys, a bounded number for each command,
//!   rather than a part of the space of keys: no table needs another order of keys for it, and no step reads everything.
//! - A session whose expiry interval is 0 ends also when its connection is taken over: by the text of [MQTT5 3.1.2.11.2] it ends with its network
//!   connection, which the takeover closes.
//! - A batch made with another map of slots is refused as a whole, and its numbers are not used up: a message published by an old map would
//!   miss the shards that the new one added.

mod answer;
mod bits;
mod cache;
mod codec;
mod command;
mod effect;
mod index;
mod keep;
mod key;
mod lane;
mod machine;
mod name;
mod note;
mod reads;
mod record;
mod slot;
mod store;

pub use answer::{Answer, Older, OpAnswer, Subscribed, Unsubscribed};
pub use codec::CodecError;
pub use command::{
    Batch, Bounds, Claim, Command, DropPolicy, HandedOn, LIVE, Op, QueueLimits, QueueMessage, SeqRange, Subscription,
    Will, WillEnd, stamped,
};
pub use effect::{Dropped, Effect};
pub use keep::{How, Keep, Keeper, Kept, MOST_HANDED_OFF};
pub use lane::{Lane, LaneOptions, Proposal, Ticket, Verdict};
pub use machine::{KNOWN_LEVEL, MAX_STEP_MS, ShardMachine};
pub use name::{Name, NodeBoot};
pub use note::{Note, group_mark, group_name, group_slot};
pub use reads::{
    ClientInfo, Deliveries, Delivery, FilterCursor, GroupInfo, GroupMember, KnownFilter, KnownNode, NoteToSend,
    Numbers, OutboxMessage, PageLimits, RetainedCursor, RetainedMessage, RetainedPage, RouteChange, Sent, SessionInfo,
    packet_id,
};
pub use slot::{SLOTS, SlotMap, SlotSet, slot};
pub use store::{Store, StoreError};
