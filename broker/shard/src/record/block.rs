//! A run of a session's queue.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::codec::{CodecError, Put, Reader};

/// How many sequence numbers a block has room for. A queue of a million messages has its ends in memory only.
pub(crate) const BLOCK: u64 = 128;

/// A message in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The number of the message's record.
    pub(crate) message: u64,
    /// When it expires, in the shard's time.
    pub(crate) expires_at: Option<u64>,
    /// What it counts against the bytes of the queue.
    pub(crate) bytes: u32,
    /// 1 or 2.
    pub(crate) qos: u8,
    /// The RETAIN flag that it is sent with.
    pub(crate) retain: bool,
    /// It comes as what is retained, for a new subscription, and not as it was published.
    pub(crate) replayed: bool,
    /// A shared group has given it.
    pub(crate) given: bool,
    /// Identifiers of the subscriptions that it is for.
    pub(crate) identifiers: SmallVec<[u32; 2]>,
}

/// The messages of a block with their places in it, in order. A block without messages is no record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    entries: VecDeque<(u8, Entry)>,
}

impl Block {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends a message, behind all others.
    pub(crate) fn push(&mut self, seq: u64, entry: Entry) {
        self.entries.push_back((place(seq), entry));
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&Entry> {
        let at = self.at(seq).ok()?;
        Some(&self.entries[at].1)
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<Entry> {
        let at = self.at(seq).ok()?;
        self.entries.remove(at).map(|(_, entry)| entry)
    }

    /// The sequence number of the first message that is not before `seq`, which is in this block.
    pub(crate) fn first_from(&self, seq: u64) -> Option<u64> {
        let at = self.at(seq).unwrap_or_else(|at| at);
        self.entries.get(at).map(|(place, _)| seq / BLOCK * BLOCK + u64::from(*place))
    }

    /// The messages from `seq` on, which is in this block, with their sequence numbers.
    pub(crate) fn from(&self, seq: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let at = self.at(seq).unwrap_or_else(|at| at);
        self.entries.range(at..).map(move |(place, entry)| (seq / BLOCK * BLOCK + u64::from(*place), entry))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    fn at(&self, seq: u64) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&place(seq), |(place, _)| *place)
    }

    pub(crate) fn heap(&self) -> usize {
        // Identifiers that have an allocation of their own are rare, and looking for them would cost more than all else.
        self.entries.capacity() * size_of::<(u8, Entry)>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.count(self.entries.len());
        for (place, entry) in &self.entries {
            out.push(*place);
            out.number(entry.message);
            out.option(entry.expires_at);
            out.number(entry.bytes.into());
            out.push(
                entry.qos | u8::from(entry.retain) << 2 | u8::from(entry.replayed) << 3 | u8::from(entry.given) << 4,
            );
            out.count(entry.identifiers.len());
            entry.identifiers.iter().for_each(|identifier| out.number((*identifier).into()));
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let entries = reader.list("messages of a block", BLOCK as usize, |reader| {
            let place = reader.byte("place in a block")?;
            let message = reader.number("message")?;
            let expires_at = reader.option("expiry")?;
            let bytes = reader.small("bytes")?;
            let flags = reader.byte("flags")?;
            if flags > 31 {
                return Err(CodecError::Invalid("flags"));
            }
            let identifiers =
                reader.list("subscription identifiers", 1 << 20, |reader| reader.small("subscription identifier"))?;
            let (qos, retain, replayed, given) = (flags & 3, flags & 4 != 0, flags & 8 != 0, flags & 16 != 0);
            let identifiers = identifiers.into();
            Ok((place, Entry { message, expires_at, bytes, qos, retain, replayed, given, identifiers }))
        })?;
        Ok(Self { entries: entries.into() })
    }
}

fn place(seq: u64) -> u8 {
    (seq % BLOCK) as u8
}
