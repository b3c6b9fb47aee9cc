//! The binary form of votes, log ids, memberships and entries, on disk and on the wire.
//!
//! Little-endian integers of fixed width, lists with a `u32` count, options with one byte. What is stored begins
//! with [`FORMAT`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::vote::{RaftLeaderId, RaftVote};

use crate::types::{Command, Entry, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};

/// The first byte of everything stored.
pub(crate) const FORMAT: u8 = 1;

/// The most members or configurations that a membership may name: far above any cluster, far below harm.
const MAX_MEMBERS: usize = 1 << 16;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("ends {missing} bytes too early in {what}")]
    Short { what: &'static str, missing: usize },
    #[error("{what} has format or kind {found}, which this version does not know")]
    Unknown { what: &'static str, found: u8 },
    #[error("{what}: {reason}")]
    Invalid { what: &'static str, reason: String },
    #[error("{0} bytes too many at the end")]
    Trailing(usize),
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Takes values off the front of some bytes.
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    fn need(&self, what: &'static str, len: usize) -> Result<(), CodecError> {
        match len.checked_sub(self.rest.len()) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(CodecError::Short { what, missing }),
        }
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        self.need(what, 1)?;
        Ok(self.rest.get_u8())
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        self.need(what, 4)?;
        Ok(self.rest.get_u32_le())
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.need(what, 8)?;
        Ok(self.rest.get_u64_le())
    }

    pub(crate) fn u128(&mut self, what: &'static str) -> Result<u128, CodecError> {
        self.need(what, 16)?;
        Ok(self.rest.get_u128_le())
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, CodecError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(CodecError::Unknown { what, found }),
        }
    }

    /// Bytes with their length before them; shares the memory.
    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<Bytes, CodecError> {
        let len = self.u32(what)? as usize;
        self.need(what, len)?;
        Ok(self.rest.split_to(len))
    }

    pub(crate) fn format(&mut self, what: &'static str) -> Result<(), CodecError> {
        match self.u8(what)? {
            FORMAT => Ok(()),
            found => Err(CodecError::Unknown { what, found }),
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) -> Result<usize, CodecError> {
        let count = self.u32(what)? as usize;
        if count > MAX_MEMBERS {
            return Err(CodecError::Invalid { what, reason: format!("{count} elements") });
        }
        Ok(count)
    }

    pub(crate) fn option<T>(
        &mut self,
        what: &'static str,
        value: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        if self.bool(what)? { value(self).map(Some) } else { Ok(None) }
    }

    /// All that is left.
    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.rest.len())) }
    }

    pub(crate) fn leader_id(&mut self) -> Result<LeaderId, CodecError> {
        Ok(LeaderId::new(self.u64("term")?, self.u64("leader")?))
    }

    pub(crate) fn vote(&mut self) -> Result<Vote, CodecError> {
        let leader = self.leader_id()?;
        Ok(Vote::from_leader_id(leader, self.bool("vote")?))
    }

    pub(crate) fn log_id(&mut self) -> Result<LogId, CodecError> {
        let leader = self.leader_id()?;
        Ok(LogId::new(leader, self.u64("index")?))
    }

    pub(crate) fn membership(&mut self) -> Result<Membership, CodecError> {
        let mut configs = Vec::new();
        for _ in 0..self.count("configurations")? {
            let mut voters = BTreeSet::new();
            for _ in 0..self.count("voters")? {
                voters.insert(self.u64("voter")?);
            }
            configs.push(voters);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.count("members")? {
            nodes.insert(self.u64("member")?, ());
        }
        if configs.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|e| CodecError::Invalid { what: "membership", reason: e.to_string() })
    }

    pub(crate) fn stored_membership(&mut self) -> Result<StoredMembership, CodecError> {
        let at = self.option("membership's log id", Self::log_id)?;
        Ok(StoredMembership::new(at, self.membership()?))
    }

    pub(crate) fn snapshot_meta(&mut self) -> Result<SnapshotMeta, CodecError> {
        let last_log_id = self.option("snapshot's log id", Self::log_id)?;
        Ok(SnapshotMeta { last_log_id, last_membership: self.stored_membership()? })
    }
}

pub(crate) fn put_option<T>(out: &mut BytesMut, value: Option<&T>, put: impl FnOnce(&mut BytesMut, &T)) {
    out.put_u8(value.is_some().into());
    if let Some(value) = value {
        put(out, value);
    }
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("commands and chunks are limited far below 4 GiB");
    out.put_u32_le(len);
    out.put_slice(bytes);
}

fn put_leader_id(out: &mut BytesMut, leader: &LeaderId) {
    out.put_u64_le(leader.term());
    out.put_u64_le(*leader.node_id());
}

pub(crate) fn put_vote(out: &mut BytesMut, vote: &Vote) {
    put_leader_id(out, vote.leader_id());
    out.put_u8(vote.is_committed().into());
}

pub(crate) fn put_log_id(out: &mut BytesMut, id: &LogId) {
    put_leader_id(out, &id.leader_id);
    out.put_u64_le(id.index);
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("members are counted in tens"));
}

pub(crate) fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_count(out, configs.len());
    for voters in configs {
        put_count(out, voters.len());
        for voter in voters {
            out.put_u64_le(*voter);
        }
    }
    let nodes: Vec<_> = membership.nodes().map(|(id, ())| *id).collect();
    put_count(out, nodes.len());
    for node in nodes {
        out.put_u64_le(node);
    }
}

pub(crate) fn put_stored_membership(out: &mut BytesMut, membership: &StoredMembership) {
    put_option(out, membership.log_id().as_ref(), put_log_id);
    put_membership(out, membership.membership());
}

pub(crate) fn put_snapshot_meta(out: &mut BytesMut, meta: &SnapshotMeta) {
    put_option(out, meta.last_log_id.as_ref(), put_log_id);
    put_stored_membership(out, &meta.last_membership);
}

/// Runs `put` on an empty buffer.
pub(crate) fn encode(put: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    put(&mut out);
    out.freeze()
}

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// An entry without its index, which is beside it wherever entries are kept.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let body = match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 64,
    };
    let mut out = BytesMut::with_capacity(18 + body);
    out.put_u8(FORMAT);
    let kind = match &entry.payload {
        EntryPayload::Blank => BLANK,
        EntryPayload::Normal(_) => COMMAND,
        EntryPayload::Membership(_) => MEMBERSHIP,
    };
    out.put_u8(kind);
    put_leader_id(&mut out, &entry.log_id.leader_id);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(command) => out.put_slice(&command.0),
        EntryPayload::Membership(membership) => put_membership(&mut out, membership),
    }
    out.freeze()
}

/// The entry at `index`; a command shares the memory of `bytes`.
pub(crate) fn decode_entry(index: u64, bytes: Bytes) -> Result<Entry, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.format("entry")?;
    let kind = reader.u8("entry")?;
    let log_id = LogId::new(reader.leader_id()?, index);
    let payload = match kind {
        BLANK => {
            reader.end()?;
            EntryPayload::Blank
        }
        COMMAND => EntryPayload::Normal(Command(reader.rest())),
        MEMBERSHIP => {
            let membership = reader.membership()?;
            reader.end()?;
            EntryPayload::Membership(membership)
        }
        found => {
            return Err(CodecError::Unknown { what: "entry", found });
        }
    };
    Ok(Entry { log_id, payload })
}

/// The log id in the stored form of the entry at `index`.
pub(crate) fn decode_entry_id(index: u64, bytes: Bytes) -> Result<LogId, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.format("entry")?;
    reader.u8("entry")?;
    Ok(LogId::new(reader.leader_id()?, index))
}

/// A value alone, with the format before it: as it is kept on disk.
pub(crate) fn stored<T>(value: &T, put: impl FnOnce(&mut BytesMut, &T)) -> Bytes {
    encode(|out| {
        out.put_u8(FORMAT);
        put(out, value);
    })
}

/// The value that [`stored`] wrote.
pub(crate) fn load<T>(
    what: &'static str,
    bytes: Bytes,
    get: impl FnOnce(&mut Reader) -> Result<T, CodecError>,
) -> Result<T, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.format(what)?;
    let value = get(&mut reader)?;
    reader.end()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn id(term: u64, node: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, node), index)
    }

    fn membership() -> Membership {
        Membership::new(
            vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 4])],
            BTreeMap::from([(1, ()), (2, ()), (3, ()), (4, ()), (9, ())]),
        )
        .unwrap()
    }

    #[test]
    fn entries_come_back() {
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Command(Bytes::new())),
            EntryPayload::Normal(Command(Bytes::from_static(b"command"))),
            EntryPayload::Membership(membership()),
        ] {
            let entry = Entry { log_id: id(3, 2, 7), payload };
            let bytes = encode_entry(&entry);
            assert_eq!(decode_entry(7, bytes.clone()).unwrap(), entry);
            assert_eq!(decode_entry_id(7, bytes).unwrap(), entry.log_id);
        }
    }

    #[test]
    fn votes_and_snapshots_come_back() {
        for committed in [false, true] {
            let vote = Vote::from_leader_id(LeaderId::new(u64::MAX, 5), committed);
            assert_eq!(load("vote", stored(&vote, put_vote), Reader::vote).unwrap(), vote);
        }
        let meta = SnapshotMeta {
            last_log_id: Some(id(1, 2, 3)),
            last_membership: StoredMembership::new(Some(id(1, 2, 2)), membership()),
        };
        assert_eq!(load("meta", stored(&meta, put_snapshot_meta), Reader::snapshot_meta).unwrap(), meta);
        let empty = SnapshotMeta::default();
        assert_eq!(load("meta", stored(&empty, put_snapshot_meta), Reader::snapshot_meta).unwrap(), empty);
    }

    #[test]
    fn every_cut_is_an_error() {
        let meta = SnapshotMeta {
            last_log_id: Some(id(1, 2, 3)),
            last_membership: StoredMembership::new(Some(id(1, 2, 2)), membership()),
        };
        let bytes = stored(&meta, put_snapshot_meta);
        for end in 0..bytes.len() {
            assert!(load("meta", bytes.slice(..end), Reader::snapshot_meta).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_entry(1, bytes.clone());
            let _ = load("meta", bytes.clone(), Reader::snapshot_meta);
            let _ = load("vote", bytes, Reader::vote);
        }
    }
}
