//! What a leader may want to do about what was applied.

use crate::Name;

/// A hint for the leader. Whoever becomes leader later finds all of it by reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A connected client's queue has something that is new.
    Deliver {
        /// The client.
        client: Name,
    },
    /// It is known what became of a message of a connected client that another shard has to keep: [`crate::Op::Outcomes`].
    Outcome {
        /// The client.
        client: Name,
    },
    /// A durable session ended.
    Ended {
        /// The client.
        client: Name,
    },
    /// All older connections of a client are closed: CONNACK can be sent.
    WaitOver {
        /// The client.
        client: Name,
        /// The epoch of the connection that waited.
        epoch: u64,
    },
    /// The shard has its first subscription with a filter, or no one any more: a change of its routes waits for being announced.
    Route {
        /// The number of the change.
        number: u64,
    },
    /// The outbox has a message for a destination.
    Outbox {
        /// The shard, or [`crate::LIVE`].
        destination: u32,
    },
    /// A shard is to be told something of a shared group.
    Note {
        /// The shard.
        destination: u32,
    },
    /// A message waits for being routed.
    Unrouted {
        /// Its number.
        entry: u64,
    },
    /// A node has a later boot: what it left of the ones before is over.
    Boot {
        /// The node.
        node: u64,
    },
    /// Messages were dropped from queues.
    Dropped {
        /// Why.
        reason: Dropped,
        /// How many.
        count: u32,
    },
}

/// Why a message was dropped from a queue, or not taken into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// It expired.
    Expired = 0,
    /// The queue was full, and the new message was not taken.
    Full = 1,
    /// The queue was full, and it was the oldest that waited.
    Oldest = 2,
}
