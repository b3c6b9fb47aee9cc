//! The records of a few fields.

use std::collections::VecDeque;

use raftmq_mqtt::Message;

use crate::codec::{CodecError, Put, Reader};
use crate::keep::{Keeper, Kept, MOST_HANDED_OFF};

/// How many answers are kept in one record.
pub(crate) const ANSWERS: u64 = 64;

/// How many outcomes of hand-offs are kept for each source: so many a leader hands off before it notes them, so that its successor asks for no earlier one.
const OUTCOMES: usize = MOST_HANDED_OFF;

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// The latest boot that opened a stream.
    pub(crate) boot: u64,
    /// The streams that it has open, in order.
    pub(crate) lanes: Vec<u16>,
    /// The last boot that was declared down. Its streams are closed for good.
    pub(crate) down: Option<u64>,
}

impl Node {
    pub(crate) fn heap(&self) -> usize {
        self.lanes.capacity() * 2
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.boot);
        out.count(self.lanes.len());
        self.lanes.iter().for_each(|lane| out.number((*lane).into()));
        out.option(self.down);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            boot: reader.number("boot")?,
            lanes: reader.list("streams", 1 << 16, |reader| reader.small("stream"))?,
            down: reader.option("boot")?,
        })
    }
}

/// A stream of batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The number of the operation expected next.
    pub(crate) next: u64,
}

impl Stream {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.next);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { next: reader.number("next")? })
    }
}

/// Answers to operations of a stream, for a repeat: [`ANSWERS`] numbers from a multiple of it on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Each with its length before it.
    bytes: Vec<u8>,
}

impl Answers {
    pub(crate) fn push(&mut self, answer: &[u8]) {
        self.bytes.slice(answer);
    }

    /// Encoded answers from the first on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut reader = Reader::new(&self.bytes);
        std::iter::from_fn(move || reader.slice("answer", usize::MAX).ok())
    }

    pub(crate) fn heap(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.slice(&self.bytes);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { bytes: reader.slice("answers", usize::MAX)?.to_vec() })
    }
}

/// Nothing: what there is to know is in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned;

impl Owned {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, _: &mut Vec<u8>) {}

    pub(crate) fn decode(_: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self)
    }
}

/// Of a subscription's [`Options`]: No Local.
pub(crate) const OPTIONS_NO_LOCAL: u8 = 1 << 2;
/// Of a subscription's [`Options`]: Retain As Published.
pub(crate) const OPTIONS_RETAIN: u8 = 1 << 3;

/// The options of a subscription, as they are in the index too: 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    /// The maximum QoS in the two lowest bits, and the flags above.
    pub(crate) flags: u8,
    /// The subscription identifier, 0 if there is none.
    pub(crate) identifier: u32,
}

impl Options {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.flags);
        out.number(self.identifier.into());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { flags: reader.byte("options")?, identifier: reader.small("subscription identifier")? })
    }
}

/// A message, once for all that refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) namespace: u32,
    pub(crate) message: Message,
    /// How many records refer to it.
    pub(crate) references: u32,
}

impl Stored {
    pub(crate) fn heap(&self) -> usize {
        self.message.wire_len() + 16
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.namespace.into());
        out.number(self.references.into());
        out.message(&self.message);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (namespace, references) = (reader.small("namespace")?, reader.small("references")?);
        Ok(Self { namespace, references, message: reader.message()? })
    }
}

/// The retained message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retained {
    /// The number of the message.
    pub(crate) message: u64,
    /// The number of the change that made it the retained one.
    pub(crate) number: u64,
    /// The bytes of the message.
    pub(crate) bytes: u64,
    /// When it expires, in the shard's time.
    pub(crate) expires_at: Option<u64>,
}

impl Retained {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.message);
        out.number(self.number);
        out.number(self.bytes);
        out.option(self.expires_at);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            message: reader.number("message")?,
            number: reader.number("change")?,
            bytes: reader.number("bytes")?,
            expires_at: reader.option("expiry")?,
        })
    }
}

/// A message in the outbox, or one that waits to be routed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// The number of the message.
    pub(crate) message: u64,
    /// In the shard's time.
    pub(crate) expires_at: Option<u64>,
    /// The destination keeps it before it goes further.
    pub(crate) staged: Option<Box<Staged>>,
}

/// A message on its way to the shard that has to keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) keeper: Keeper,
    /// The shard's time when it came.
    pub(crate) since: u64,
    /// The session of its publisher; 0: what nobody waits for, a will or a delayed message.
    pub(crate) session: u64,
}

impl Outgoing {
    pub(crate) fn heap(&self) -> usize {
        self.staged.as_ref().map_or(0, |_| size_of::<Staged>())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.message);
        out.option(self.expires_at);
        out.flag(self.staged.is_some());
        if let Some(staged) = &self.staged {
            staged.keeper.encode(out);
            out.number(staged.since);
            out.number(staged.session);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (message, expires_at) = (reader.number("message")?, reader.option("expiry")?);
        let staged = if reader.flag("keeper")? {
            Some(Box::new(Staged {
                keeper: Keeper::decode(reader)?,
                since: reader.number("time")?,
                session: reader.number("session")?,
            }))
        } else {
            None
        };
        Ok(Self { message, expires_at, staged })
    }
}

/// A timer; what it is about is in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timer {
    /// The delayed message; 0 for other timers.
    pub(crate) message: u64,
}

impl Timer {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.message);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { message: reader.number("message")? })
    }
}

/// Hand-offs to and from another shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The number of the last message for it.
    pub(crate) sent: u64,
    /// The messages up to here were handed off.
    pub(crate) handed_off: u64,
    /// The number of the last message from it.
    pub(crate) received: u64,
    /// What became of the last ones from it that were to be kept, by number: [`OUTCOMES`] at most.
    pub(crate) kept: VecDeque<(u64, Kept)>,
}

impl Peer {
    /// Notes what became of a message; of one that was to be kept.
    pub(crate) fn note(&mut self, number: u64, kept: Kept) {
        if self.kept.len() >= OUTCOMES {
            self.kept.pop_front();
        }
        self.kept.push_back((number, kept));
    }

    /// What became of a message, if that is known still.
    pub(crate) fn outcome(&self, number: u64) -> Option<Kept> {
        self.kept.iter().find(|(known, _)| *known == number).map(|(_, kept)| *kept)
    }

    pub(crate) fn heap(&self) -> usize {
        self.kept.capacity() * size_of::<(u64, Kept)>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        [self.sent, self.handed_off, self.received].into_iter().for_each(|number| out.number(number));
        out.count(self.kept.len());
        for (number, kept) in &self.kept {
            out.number(*number);
            kept.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut number = || reader.number("number of a hand-off");
        let (sent, handed_off, received) = (number()?, number()?, number()?);
        let kept = reader
            .list("outcomes", OUTCOMES, |reader| Ok((reader.number("number of a hand-off")?, Kept::decode(reader)?)))?;
        Ok(Self { sent, handed_off, received, kept: kept.into() })
    }
}

/// How many subscriptions have a filter, those of ended sessions that have not been removed included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteKey {
    pub(crate) subscriptions: u32,
    /// The number of the change that added the route.
    pub(crate) added: u64,
}

impl RouteKey {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.subscriptions.into());
        out.number(self.added);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { subscriptions: reader.small("subscriptions")?, added: reader.number("number of a route")? })
    }
}

/// A change of the shard's routes that has not been announced for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) namespace: u32,
    pub(crate) filter: Box<str>,
    /// The first subscription came, not the last one went.
    pub(crate) added: bool,
}

impl Route {
    pub(crate) fn heap(&self) -> usize {
        self.filter.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.namespace.into());
        out.flag(self.added);
        out.slice(self.filter.as_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (namespace, added) = (reader.small("namespace")?, reader.flag("added")?);
        let filter = std::str::from_utf8(reader.slice("filter", usize::MAX)?);
        Ok(Self { namespace, added, filter: filter.map_err(|_| CodecError::Invalid("filter"))?.into() })
    }
}

/// An ended session whose subscriptions have not all been removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndedSubscriptions {
    pub(crate) namespace: u32,
}

impl EndedSubscriptions {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.namespace.into());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { namespace: reader.small("namespace")? })
    }
}

/// An ended session whose queue has not been removed: the first and last blocks of what was in use and of what waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndedQueue {
    pub(crate) ranges: [(u64, u64); 2],
}

impl EndedQueue {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for (first, last) in self.ranges {
            out.number(first);
            out.number(last);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut number = || reader.number("block");
        Ok(Self { ranges: [(number()?, number()?), (number()?, number()?)] })
    }
}
