//! What the proposer of a command gets.

use crate::{
    Kept, NodeBoot,
    codec::{CodecError, Put, Reader},
};

const FORMAT: u8 = 1;
/// The longest list in an answer; operations are limited below.
const MAX: usize = 1 << 17;

/// The answer to a [`crate::Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done, or already so.
    Done,
    /// The stream is open.
    Opened {
        /// The number of the operation expected next.
        next: u64,
    },
    /// The stream is not open: a later boot has opened one, or the node was declared down. Nothing was changed.
    Closed {
        /// The latest boot known of the node.
        boot: Option<u64>,
    },
    /// Operations before these are missing; nothing was changed.
    Gap {
        /// The number of the operation expected next.
        expected: u64,
    },
    /// The batch was made with another map of slots; nothing was changed.
    WrongShard {
        /// The epoch of the shard's map.
        epoch: u64,
        /// The number of the operation expected next: those before it were applied earlier.
        next: u64,
    },
    /// An answer for each operation.
    Batch(Vec<OpAnswer>),
    /// A hash of records.
    Digest {
        /// The hash.
        hash: u64,
        /// Where to go on; `None`: these were the last.
        next: Option<Vec<u8>>,
    },
    /// The bytes are no command; nothing was changed.
    Malformed,
    /// The command, or the level that it switches on, is of a newer program. A replica that goes on has another state than the others: it must stop.
    Unknown {
        /// The format or level.
        what: u32,
    },
}

/// The answer to an [`crate::Op`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpAnswer {
    /// Done.
    Done,
    /// The client is connected under another epoch, by another node, or not at all.
    Stale,
    /// The client has no session that the shard keeps.
    NoSession,
    /// The slot of the name is another shard's.
    WrongShard {
        /// The epoch of this shard's map.
        epoch: u64,
    },
    /// The client is connected.
    Claimed {
        /// The epoch of its connection.
        epoch: u64,
        /// Session Present [MQTT5 3.2.2.1.1].
        session_present: bool,
        /// Older connections that may still be open: CONNACK waits until each is closed or its node is down.
        older: Vec<Older>,
    },
    /// Too many older connections of the client are not closed yet; nothing was changed.
    Busy,
    /// What became of each filter.
    Subscribed(Vec<Subscribed>),
    /// What became of each filter.
    Unsubscribed(Vec<Unsubscribed>),
    /// Acknowledged.
    Acked {
        /// How many messages that were not before.
        count: u32,
    },
    /// Granted.
    Granted {
        /// Up to here.
        up_to: u64,
    },
    /// Not granted: too far above the oldest message that is not acknowledged.
    TooFar {
        /// The highest that would be granted.
        limit: u64,
    },
    /// The message is in the outbox: PUBREC.
    Received,
    /// The message is in the outbox for the shard that has to keep it: PUBREC when [`crate::Op::Outcomes`] says so.
    Staged {
        /// The packet identifier was not there before.
        fresh: bool,
    },
    /// Noted.
    HandedOff {
        /// Up to here was noted before.
        before: u64,
    },
    /// What became of a message that this shard was to keep.
    Kept(Kept),
    /// What became of messages in the shards that have to keep them, by packet identifier, in the order in which they came.
    Outcomes(Vec<(u16, Kept)>),
    /// The packet identifier, or the number of a hand-off, was there before; nothing was changed.
    Duplicate,
    /// PUBCOMP.
    Released {
        /// Whether the packet identifier was known.
        known: bool,
    },
    /// Published here.
    Published {
        /// Durable sessions that it was for.
        matched: u32,
        /// Those of them whose queue did not take it.
        dropped: u32,
    },
    /// Retained, or what was retained is removed; and published here.
    Retained {
        /// The number of this change among those of the shard's retained messages: later ones have higher numbers.
        number: u64,
        /// Durable sessions that it was for.
        matched: u32,
        /// Those of them whose queue did not take it.
        dropped: u32,
    },
    /// In the queue, or expired, or there was a newer one.
    Queued {
        /// How many, of the first ones: there was no room for the rest.
        taken: u32,
    },
    /// There is no room for another retained message; nothing was changed.
    NoRoom,
    /// Hand-offs of the source before this one are missing; nothing was changed.
    Gap {
        /// The number expected.
        expected: u64,
    },
    /// There is no such entry that waits for its destinations.
    UnknownEntry,
    /// The answer was given, and is not kept any more.
    Forgotten,
    /// Changes of the shard's routes up to this one are not kept any more.
    Announced {
        /// Its number; less than what was said where that are many: it has to be said again.
        up_to: u64,
    },
    /// An operation that needs a stream came without one; nothing was changed.
    NoStream,
}

/// An older connection of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Older {
    /// Its node.
    pub node: NodeBoot,
    /// Its epoch.
    pub epoch: u64,
}

/// What became of a filter of SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// Subscribed.
    New {
        /// The change of the shard's routes that a publish must have seen to be matched with it.
        route: u64,
    },
    /// There was a subscription to it, which has new options (`[MQTT-3.8.4-3]`).
    Replaced {
        /// The same of that subscription.
        route: u64,
    },
    /// It is a member of a shared group, or will be with a note for the group's shard.
    Joined {
        /// The note's number among those for that shard.
        note: u64,
    },
    /// The session has too many subscriptions.
    TooMany,
    /// It is no valid filter, or a shared one, which the shard does not keep.
    Invalid,
}

/// What became of a filter of UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsubscribed {
    /// Unsubscribed.
    Removed,
    /// From a shared group: it is no member any more with a note for the group's shard.
    Left {
        /// The note's number among those for that shard.
        note: u64,
    },
    /// There was none.
    Missing,
}

impl Answer {
    /// The bytes of an answer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        match self {
            Self::Done => out.push(0),
            Self::Opened { next } => put_number(&mut out, 1, *next),
            Self::Closed { boot } => {
                out.push(2);
                out.option(*boot);
            }
            Self::Gap { expected } => put_number(&mut out, 3, *expected),
            Self::WrongShard { epoch, next } => {
                put_number(&mut out, 4, *epoch);
                out.number(*next);
            }
            Self::Batch(answers) => {
                out.push(5);
                out.count(answers.len());
                answers.iter().for_each(|answer| answer.encode(&mut out));
            }
            Self::Digest { hash, next } => {
                put_number(&mut out, 6, *hash);
                out.flag(next.is_some());
                if let Some(next) = next {
                    out.slice(next);
                }
            }
            Self::Malformed => out.push(7),
            Self::Unknown { what } => put_number(&mut out, 8, (*what).into()),
        }
        out
    }

    /// Whether the bytes of an answer are those of [`Answer::Digest`].
    #[must_use]
    pub fn is_digest(bytes: &[u8]) -> bool {
        matches!(bytes, [FORMAT, 6, ..])
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// The bytes are no answer that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        match reader.byte("format")? {
            FORMAT => {}
            format => return Err(CodecError::Format(format)),
        }
        let answer = match reader.byte("answer")? {
            0 => Self::Done,
            1 => Self::Opened { next: reader.number("next")? },
            2 => Self::Closed { boot: reader.option("boot")? },
            3 => Self::Gap { expected: reader.number("expected")? },
            4 => Self::WrongShard { epoch: reader.number("epoch")?, next: reader.number("next")? },
            5 => Self::Batch(reader.list("answers", MAX, OpAnswer::decode)?),
            6 => Self::Digest {
                hash: reader.number("hash")?,
                next: if reader.flag("next")? { Some(reader.slice("key", MAX)?.to_vec()) } else { None },
            },
            7 => Self::Malformed,
            8 => Self::Unknown { what: reader.small("format")? },
            _ => return Err(CodecError::Invalid("answer")),
        };
        reader.end()?;
        Ok(answer)
    }
}

impl OpAnswer {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done => out.push(0),
            Self::Stale => out.push(1),
            Self::NoSession => out.push(2),
            Self::WrongShard { epoch } => put_number(out, 3, *epoch),
            Self::Claimed { epoch, session_present, older } => {
                put_number(out, 4, *epoch);
                out.flag(*session_present);
                out.count(older.len());
                for older in older {
                    out.number(older.node.node);
                    out.number(older.node.boot);
                    out.number(older.epoch);
                }
            }
            Self::Busy => out.push(5),
            Self::Subscribed(filters) => {
                out.push(6);
                out.count(filters.len());
                for filter in filters {
                    match filter {
                        Subscribed::New { route } => put_number(out, 0, *route),
                        Subscribed::Replaced { route } => put_number(out, 1, *route),
                        Subscribed::TooMany => out.push(2),
                        Subscribed::Invalid => out.push(3),
                        Subscribed::Joined { note } => put_number(out, 4, *note),
                    }
                }
            }
            Self::Unsubscribed(filters) => {
                out.push(7);
                out.count(filters.len());
                for filter in filters {
                    match filter {
                        Unsubscribed::Removed => out.push(0),
                        Unsubscribed::Missing => out.push(1),
                        Unsubscribed::Left { note } => put_number(out, 2, *note),
                    }
                }
            }
            Self::Acked { count } => put_number(out, 8, (*count).into()),
            Self::Granted { up_to } => put_number(out, 9, *up_to),
            Self::TooFar { limit } => put_number(out, 10, *limit),
            Self::Received => out.push(11),
            Self::Duplicate => out.push(12),
            Self::Released { known } => put_number(out, 13, (*known).into()),
            Self::Published { matched, dropped } => {
                put_number(out, 14, (*matched).into());
                out.number((*dropped).into());
            }
            Self::Retained { number, matched, dropped } => {
                put_number(out, 20, *number);
                out.number((*matched).into());
                out.number((*dropped).into());
            }
            Self::NoRoom => out.push(21),
            Self::Queued { taken } => put_number(out, 22, (*taken).into()),
            Self::HandedOff { before } => put_number(out, 26, *before),
            Self::Kept(kept) => {
                out.push(25);
                kept.encode(out);
            }
            Self::Staged { fresh } => put_number(out, 23, (*fresh).into()),
            Self::Outcomes(outcomes) => {
                out.push(24);
                out.count(outcomes.len());
                for (packet_id, kept) in outcomes {
                    out.number((*packet_id).into());
                    kept.encode(out);
                }
            }
            Self::Gap { expected } => put_number(out, 15, *expected),
            Self::UnknownEntry => out.push(16),
            Self::Forgotten => out.push(17),
            Self::Announced { up_to } => put_number(out, 18, *up_to),
            Self::NoStream => out.push(19),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match reader.byte("answer")? {
            0 => Self::Done,
            1 => Self::Stale,
            2 => Self::NoSession,
            3 => Self::WrongShard { epoch: reader.number("epoch")? },
            4 => Self::Claimed {
                epoch: reader.number("epoch")?,
                session_present: reader.flag("session present")?,
                older: reader.list("older connections", MAX, |reader| {
                    let node = NodeBoot { node: reader.number("node")?, boot: reader.number("boot")? };
                    Ok(Older { node, epoch: reader.number("epoch")? })
                })?,
            },
            5 => Self::Busy,
            6 => Self::Subscribed(reader.list("filters", MAX, |reader| {
                Ok(match reader.byte("filter")? {
                    0 => Subscribed::New { route: reader.number("route")? },
                    1 => Subscribed::Replaced { route: reader.number("route")? },
                    2 => Subscribed::TooMany,
                    3 => Subscribed::Invalid,
                    4 => Subscribed::Joined { note: reader.number("note")? },
                    _ => return Err(CodecError::Invalid("filter")),
                })
            })?),
            7 => Self::Unsubscribed(reader.list("filters", MAX, |reader| {
                Ok(match reader.byte("filter")? {
                    0 => Unsubscribed::Removed,
                    1 => Unsubscribed::Missing,
                    2 => Unsubscribed::Left { note: reader.number("note")? },
                    _ => return Err(CodecError::Invalid("filter")),
                })
            })?),
            8 => Self::Acked { count: reader.small("count")? },
            9 => Self::Granted { up_to: reader.number("grant")? },
            10 => Self::TooFar { limit: reader.number("limit")? },
            11 => Self::Received,
            12 => Self::Duplicate,
            13 => Self::Released { known: reader.flag("known")? },
            14 => Self::Published { matched: reader.small("matched")?, dropped: reader.small("dropped")? },
            15 => Self::Gap { expected: reader.number("expected")? },
            16 => Self::UnknownEntry,
            17 => Self::Forgotten,
            18 => Self::Announced { up_to: reader.number("route")? },
            19 => Self::NoStream,
            20 => Self::Retained {
                number: reader.number("number")?,
                matched: reader.small("matched")?,
                dropped: reader.small("dropped")?,
            },
            21 => Self::NoRoom,
            26 => Self::HandedOff { before: reader.number("number")? },
            25 => Self::Kept(Kept::decode(reader)?),
            23 => Self::Staged { fresh: reader.flag("fresh")? },
            24 => Self::Outcomes(
                reader
                    .list("outcomes", MAX, |reader| Ok((reader.small("packet identifier")?, Kept::decode(reader)?)))?,
            ),
            22 => Self::Queued { taken: reader.small("taken")? },
            _ => return Err(CodecError::Invalid("answer")),
        })
    }
}

fn put_number(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.push(kind);
    out.number(number);
}
