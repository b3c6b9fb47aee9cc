//! Records: what is kept under the keys.
//!
//! A record's bytes begin with a format. What is decoded is encoded to the same bytes again, so that replicas can be compared by
//! the bytes whether they had a record in memory or in the store.

mod block;
mod client;
mod group;
mod meta;
mod session;
mod small;

use bytes::Bytes;
use raftmq_mqtt::Message;

use crate::codec::{CodecError, Reader};
use crate::store::StoreError;

pub(crate) use block::{BLOCK, Block, Entry};
pub(crate) use client::{Client, Former, MAX_OLDER};
pub(crate) use group::{Group, Held, Letter, Member, Membership, Named};
pub(crate) use meta::{FORMAT as META_FORMAT, Meta, Sweep};
pub(crate) use session::{GROUP, Session, WINDOW};
pub(crate) use small::{
    ANSWERS, Answers, EndedQueue, EndedSubscriptions, Node, OPTIONS_NO_LOCAL, OPTIONS_RETAIN, Options, Outgoing, Owned,
    Peer, Retained, Route, RouteKey, Staged, Stored, Stream, Timer,
};

/// The format of the records (but of [`Meta`], which has its own): a newer program reads all older ones.
const FORMAT: u8 = 1;

/// What can be kept in the cache.
pub(crate) trait Kind: Sized {
    fn wrap(self) -> Record;
    /// `None`: the record is of another kind.
    fn unwrap(record: Record) -> Option<Self>;
    fn of(record: &Record) -> Option<&Self>;
    fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError>;
}

macro_rules! kinds {
    ($($kind:ident $(in $boxed:ident)?),+ $(,)?) => {
        /// A record of any kind. The large ones are boxed: most records are messages, of which there are many.
        #[derive(Debug, Clone)]
        pub(crate) enum Record {
            $($kind(kinds!(@type $kind $($boxed)?))),+
        }

        impl Record {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$kind(record) => record.encode(out)),+
                }
            }

            /// Bytes outside of the value itself, about.
            pub(crate) fn heap(&self) -> usize {
                match self {
                    $(Self::$kind(record) => kinds!(@size $kind $($boxed)?) + record.heap()),+
                }
            }
        }

        $(
            impl Kind for $kind {
                fn wrap(self) -> Record {
                    Record::$kind(kinds!(@wrap self $($boxed)?))
                }

                fn unwrap(record: Record) -> Option<Self> {
                    match record {
                        Record::$kind(record) => Some(kinds!(@unwrap record $($boxed)?)),
                        _ => None,
                    }
                }

                fn of(record: &Record) -> Option<&Self> {
                    match record {
                        Record::$kind(record) => Some(record),
                        _ => None,
                    }
                }

                fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
                    $kind::decode(reader)
                }
            }
        )+
    };
    (@type $kind:ident Box) => { Box<$kind> };
    (@type $kind:ident) => { $kind };
    (@size $kind:ident Box) => { size_of::<$kind>() };
    (@size $kind:ident) => { 0 };
    (@wrap $value:ident Box) => { Box::new($value) };
    (@wrap $value:ident) => { $value };
    (@unwrap $value:ident Box) => { *$value };
    (@unwrap $value:ident) => { $value };
}

kinds!(
    Node in Box,
    Stream,
    Answers,
    Client in Box,
    Owned,
    Session in Box,
    Options,
    Block,
    Stored,
    Retained,
    Timer,
    Outgoing,
    Peer,
    EndedSubscriptions,
    EndedQueue in Box,
    RouteKey,
    Route,
    Membership,
    Held in Box,
    Named,
    Group in Box,
    Letter in Box,
);

impl Record {
    /// The bytes for the store.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        self.put(&mut out);
        out
    }
}

/// Reads a record from the store.
pub(crate) fn decode<R: Kind>(key: &[u8], bytes: &Bytes) -> Result<R, StoreError> {
    let damaged = |reason| StoreError::Damaged { key: key.to_vec(), reason };
    let mut reader = Reader::new(bytes);
    match reader.byte("format").map_err(damaged)? {
        FORMAT => {}
        format => return Err(damaged(CodecError::Format(format))),
    }
    let record = R::decode(&mut reader).map_err(damaged)?;
    reader.end().map_err(damaged)?;
    Ok(record)
}

/// How long a message lives from now on, in milliseconds, if it has an expiry interval [MQTT5 3.3.2.3.3].
///
/// The envelope has times of the accepting node's clock; only the difference counts here. The way to the shard
/// is not deducted: late, never early.
pub(crate) fn lifetime(message: &Message) -> Option<u64> {
    message.expires_at_ms().map(|at| at.saturating_sub(message.received_at_ms()))
}
