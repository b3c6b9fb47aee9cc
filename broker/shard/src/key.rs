//! Keys of records.
//!
//! A key is the byte of its table and numbers of fixed length, the highest byte first, so that the order of the bytes is that of the
//! numbers; a text is last. Names of clients come behind their slot, so that a shard can be split by ranges of keys.

use smallvec::SmallVec;

use crate::{NodeBoot, slot::slot};

/// A key; those of the hot tables need no allocation.
pub(crate) type Key = SmallVec<[u8; 24]>;

/// The first byte of a key. Part of the format: numbers are not used again.
pub(crate) mod table {
    pub(crate) const META: u8 = 1;
    pub(crate) const NODE: u8 = 2;
    pub(crate) const STREAM: u8 = 3;
    pub(crate) const ANSWERS: u8 = 4;
    pub(crate) const CLIENT: u8 = 5;
    pub(crate) const OWNED: u8 = 6;
    pub(crate) const SESSION: u8 = 7;
    pub(crate) const SUBSCRIPTION: u8 = 8;
    pub(crate) const BLOCK: u8 = 9;
    pub(crate) const MESSAGE: u8 = 10;
    pub(crate) const RETAINED: u8 = 11;
    pub(crate) const TIMER: u8 = 12;
    pub(crate) const UNROUTED: u8 = 13;
    pub(crate) const OUTBOX: u8 = 14;
    pub(crate) const PEER: u8 = 15;
    pub(crate) const ENDED_SUBSCRIPTIONS: u8 = 16;
    pub(crate) const ENDED_QUEUE: u8 = 17;
    pub(crate) const ROUTE_KEY: u8 = 18;
    pub(crate) const ROUTE: u8 = 19;
    pub(crate) const MEMBERSHIP: u8 = 32;
    pub(crate) const HELD: u8 = 33;
    pub(crate) const GROUP_NAME: u8 = 34;
    pub(crate) const GROUP: u8 = 35;
    pub(crate) const NOTE: u8 = 36;
    pub(crate) const NOTE_PEER: u8 = 37;

    /// Whether ranges of the table are read while commands are applied.
    pub(crate) const fn is_ordered(table: u8) -> bool {
        matches!(
            table,
            NODE | OWNED
                | SUBSCRIPTION
                | RETAINED
                | TIMER
                | UNROUTED
                | OUTBOX
                | PEER
                | ENDED_SUBSCRIPTIONS
                | ENDED_QUEUE
                | ROUTE
                | MEMBERSHIP
                | HELD
                | NOTE
                | NOTE_PEER
        )
    }
}

/// What a timer is about. At the same time a will goes before the end of its session.
pub(crate) mod timer {
    pub(crate) const WILL: u8 = 1;
    pub(crate) const SESSION_END: u8 = 2;
    pub(crate) const DELAYED: u8 = 3;
    pub(crate) const RETAINED: u8 = 4;
    pub(crate) const GROUP: u8 = 9;
}

fn of(table: u8) -> Key {
    let mut key = Key::new();
    key.push(table);
    key
}

fn of_number(table: u8, number: u64) -> Key {
    let mut key = of(table);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn meta() -> Key {
    of(table::META)
}

pub(crate) fn node(node: u64) -> Key {
    of_number(table::NODE, node)
}

pub(crate) fn stream(node: u64, lane: u16) -> Key {
    let mut key = of_number(table::STREAM, node);
    key.extend_from_slice(&lane.to_be_bytes());
    key
}

pub(crate) fn answers(node: u64, lane: u16, chunk: u64) -> Key {
    let mut key = of_number(table::ANSWERS, node);
    key.extend_from_slice(&lane.to_be_bytes());
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

/// How a client is named within keys: slot, namespace, identifier.
pub(crate) fn client_name(namespace: u32, id: &str) -> Key {
    let mut name = Key::new();
    name.extend_from_slice(&slot(namespace, id).to_be_bytes());
    name.extend_from_slice(&namespace.to_be_bytes());
    name.extend_from_slice(id.as_bytes());
    name
}

/// The namespace and the identifier of a client in [`client_name`]'s form.
pub(crate) fn read_client_name(name: &[u8]) -> Option<(u32, &str)> {
    let (namespace, id) = name.get(2..)?.split_first_chunk()?;
    Some((u32::from_be_bytes(*namespace), std::str::from_utf8(id).ok()?))
}

/// The record of the client of that [`client_name`].
pub(crate) fn client(name: &[u8]) -> Key {
    let mut key = of(table::CLIENT);
    key.extend_from_slice(name);
    key
}

/// A client's being owned by a node, or waiting for one.
pub(crate) fn owned(node: NodeBoot, name: &[u8]) -> Key {
    let mut key = owned_from(node.node, node.boot);
    key.extend_from_slice(name);
    key
}

/// Below all clients of this boot and later ones of a node.
pub(crate) fn owned_from(node: u64, boot: u64) -> Key {
    let mut key = of_number(table::OWNED, node);
    key.extend_from_slice(&boot.to_be_bytes());
    key
}

/// Above all clients of this boot and earlier ones of a node.
pub(crate) fn after_boot(node: u64, boot: u64) -> Key {
    match boot.checked_add(1) {
        Some(next) => owned_from(node, next),
        None => node.checked_add(1).map_or_else(|| table_end(table::OWNED), |next| owned_from(next, 0)),
    }
}

/// Where the client's name begins in a key of [`owned`].
pub(crate) const OWNED_NAME: usize = 17;

pub(crate) fn session(session: u64) -> Key {
    of_number(table::SESSION, session)
}

pub(crate) fn subscription(session: u64, filter: &str) -> Key {
    let mut key = of_number(table::SUBSCRIPTION, session);
    key.extend_from_slice(filter.as_bytes());
    key
}

/// The session and the filter of a subscription's key.
pub(crate) fn read_subscription(key: &[u8]) -> Option<(u64, &str)> {
    let (session, filter) = key.get(1..)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*session), std::str::from_utf8(filter).ok()?))
}

pub(crate) fn block(session: u64, block: u64) -> Key {
    let mut key = of_number(table::BLOCK, session);
    key.extend_from_slice(&block.to_be_bytes());
    key
}

pub(crate) fn message(message: u64) -> Key {
    of_number(table::MESSAGE, message)
}

/// How a topic is named within keys: with U+0000, which no topic has, between levels. So topics are in the order of
/// their levels, and what is below a level is one range.
pub(crate) fn topic_name(namespace: u32, topic: &str) -> Key {
    let mut name = Key::from_slice(&namespace.to_be_bytes());
    name.extend(topic.bytes().map(|byte| if byte == b'/' { 0 } else { byte }));
    name
}

/// The namespace and the topic in [`topic_name`]'s form.
pub(crate) fn read_topic_name(name: &[u8]) -> Option<(u32, String)> {
    let (namespace, levels) = name.split_first_chunk()?;
    let topic = levels.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect();
    Some((u32::from_be_bytes(*namespace), String::from_utf8(topic).ok()?))
}

/// What is retained of the topic with that [`topic_name`].
pub(crate) fn retained(name: &[u8]) -> Key {
    let mut key = of(table::RETAINED);
    key.extend_from_slice(name);
    key
}

/// Something that happens at `due`.
pub(crate) fn timer(due: u64, kind: u8, about: &[u8]) -> Key {
    let mut key = of_number(table::TIMER, due);
    key.push(kind);
    key.extend_from_slice(about);
    key
}

/// Below all timers of this time and later ones.
pub(crate) fn timers_from(due: u64) -> Key {
    of_number(table::TIMER, due)
}

/// Time, kind and what it is about, of a timer's key.
pub(crate) fn read_timer(key: &[u8]) -> Option<(u64, u8, &[u8])> {
    let (due, rest) = key.get(1..)?.split_first_chunk()?;
    let (kind, about) = rest.split_first()?;
    Some((u64::from_be_bytes(*due), *kind, about))
}

pub(crate) fn unrouted(entry: u64) -> Key {
    of_number(table::UNROUTED, entry)
}

pub(crate) fn outbox(destination: u32, number: u64) -> Key {
    let mut key = of(table::OUTBOX);
    key.extend_from_slice(&destination.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn peer(shard: u32) -> Key {
    let mut key = of(table::PEER);
    key.extend_from_slice(&shard.to_be_bytes());
    key
}

pub(crate) fn ended_subscriptions(session: u64) -> Key {
    of_number(table::ENDED_SUBSCRIPTIONS, session)
}

pub(crate) fn ended_queue(session: u64) -> Key {
    of_number(table::ENDED_QUEUE, session)
}

/// The subscriptions with a filter, whosever they are.
pub(crate) fn route_key(namespace: u32, filter: &str) -> Key {
    let mut key = of(table::ROUTE_KEY);
    key.extend_from_slice(&namespace.to_be_bytes());
    key.extend_from_slice(filter.as_bytes());
    key
}

/// A change of the shard's routes.
pub(crate) fn route(number: u64) -> Key {
    of_number(table::ROUTE, number)
}

/// A session's membership of a shared group, by the whole shared filter.
pub(crate) fn membership(session: u64, filter: &str) -> Key {
    let mut key = of_number(table::MEMBERSHIP, session);
    key.extend_from_slice(filter.as_bytes());
    key
}

/// The filter of a membership's key.
pub(crate) fn read_membership(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(9..)?).ok()
}

/// A message in a session's queue that is a group's.
pub(crate) fn held(session: u64, seq: u64) -> Key {
    let mut key = of_number(table::HELD, session);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

/// The number of the group with that name.
pub(crate) fn group_name(namespace: u32, filter: &str) -> Key {
    let mut key = of(table::GROUP_NAME);
    key.extend_from_slice(&namespace.to_be_bytes());
    key.extend_from_slice(filter.as_bytes());
    key
}

pub(crate) fn group(group: u64) -> Key {
    of_number(table::GROUP, group)
}

/// A note on its way to another shard.
pub(crate) fn note(destination: u32, number: u64) -> Key {
    let mut key = of(table::NOTE);
    key.extend_from_slice(&destination.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The numbers of notes to and from a shard.
pub(crate) fn note_peer(shard: u32) -> Key {
    let mut key = of(table::NOTE_PEER);
    key.extend_from_slice(&shard.to_be_bytes());
    key
}

/// The number of four bytes at the end of a key.
pub(crate) fn last_small(key: &[u8]) -> Option<u32> {
    key.last_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The number at the end of a key.
pub(crate) fn last_number(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Above all keys of a table.
pub(crate) fn table_end(table: u8) -> Key {
    of(table + 1)
}

/// The next key after this one.
pub(crate) fn after(key: &[u8]) -> Key {
    let mut next = Key::from_slice(key);
    next.push(0);
    next
}
