//! Frames between nodes: who asks whom for what, and the answer.
//!
//! A call is `format, kind, cluster u128, group u32, generation u32, from u64, to u64, body`; an answer is `format,
//! status, body`.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use raftmq_storage::GroupId;

use crate::NodeId;
use crate::codec::{
    CodecError, FORMAT, Reader, decode_entry, encode, encode_entry, put_bytes, put_log_id, put_option,
    put_snapshot_meta, put_vote,
};
use crate::types::{Entry, LogId, SnapshotMeta, Types, Vote};

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Vote = 1,
    PreVote = 2,
    Append = 3,
    Snapshot = 4,
    Transfer = 5,
    Propose = 6,
    /// Heartbeats of several groups; the header's group says nothing.
    Bundle = 7,
}

impl Kind {
    fn from_byte(found: u8) -> Result<Self, CodecError> {
        Ok(match found {
            1 => Kind::Vote,
            2 => Kind::PreVote,
            3 => Kind::Append,
            4 => Kind::Snapshot,
            5 => Kind::Transfer,
            6 => Kind::Propose,
            7 => Kind::Bundle,
            found => {
                return Err(CodecError::Unknown { what: "frame", found });
            }
        })
    }
}

/// Who asks whom, in which group of which cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) cluster: u128,
    pub(crate) group: GroupId,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
}

const HEADER: usize = 2 + 16 + 8 + 16;

/// A whole call.
pub(crate) fn call(header: &Header, capacity: usize, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + capacity);
    out.put_u8(FORMAT);
    out.put_u8(header.kind as u8);
    out.put_u128_le(header.cluster);
    out.put_u32_le(header.group.number);
    out.put_u32_le(header.group.generation);
    out.put_u64_le(header.from);
    out.put_u64_le(header.to);
    body(&mut out);
    out.freeze()
}

/// A call's header, and its body to read on.
pub(crate) fn parse_call(frame: Bytes) -> Result<(Header, Reader), CodecError> {
    let mut reader = Reader::new(frame);
    reader.format("frame")?;
    let kind = Kind::from_byte(reader.u8("frame")?)?;
    let cluster = reader.u128("cluster")?;
    let group = GroupId { number: reader.u32("group")?, generation: reader.u32("generation")? };
    let header = Header { kind, cluster, group, from: reader.u64("from")?, to: reader.u64("to")? };
    Ok((header, reader))
}

/// Why a call was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Refusal {
    Malformed = 1,
    Cluster = 2,
    Addressee = 3,
    Group = 4,
    Generation = 5,
    /// Enough snapshots are being received; later again.
    Busy = 6,
    /// The group has stopped, or its disk has failed.
    Stopped = 7,
    /// A snapshot's chunk does not continue what is there.
    Snapshot = 8,
}

impl Refusal {
    fn from_byte(found: u8) -> Result<Self, CodecError> {
        Ok(match found {
            1 => Refusal::Malformed,
            2 => Refusal::Cluster,
            3 => Refusal::Addressee,
            4 => Refusal::Group,
            5 => Refusal::Generation,
            6 => Refusal::Busy,
            7 => Refusal::Stopped,
            8 => Refusal::Snapshot,
            found => {
                return Err(CodecError::Unknown { what: "refusal", found });
            }
        })
    }
}

/// The answer to a call that was carried out.
pub(crate) fn answer(body: impl FnOnce(&mut BytesMut)) -> Bytes {
    encode(|out| {
        out.put_u8(FORMAT);
        out.put_u8(0);
        body(out);
    })
}

/// The answer to a call that was not carried out.
pub(crate) fn refuse(refusal: Refusal, reason: &str) -> Bytes {
    encode(|out| {
        out.put_u8(FORMAT);
        out.put_u8(refusal as u8);
        put_bytes(out, reason.as_bytes());
    })
}

/// What an answer may say.
pub(crate) enum Answer {
    Done(Reader),
    Refused(Refusal, String),
}

pub(crate) fn parse_answer(frame: Bytes) -> Result<Answer, CodecError> {
    let mut reader = Reader::new(frame);
    reader.format("answer")?;
    match reader.u8("answer")? {
        0 => Ok(Answer::Done(reader)),
        found => {
            let refusal = Refusal::from_byte(found)?;
            let reason = String::from_utf8_lossy(&reader.bytes("reason")?).into_owned();
            Ok(Answer::Refused(refusal, reason))
        }
    }
}

// Votes and pre-votes.

pub(crate) fn put_vote_request(out: &mut BytesMut, request: &VoteRequest<Types>) {
    put_vote(out, &request.vote);
    put_option(out, request.last_log_id.as_ref(), put_log_id);
    out.put_u8(request.leadership_transfer.into());
}

pub(crate) fn get_vote_request(mut reader: Reader) -> Result<VoteRequest<Types>, CodecError> {
    let mut request = VoteRequest::new(reader.vote()?, reader.option("last log id", Reader::log_id)?);
    request.leadership_transfer = reader.bool("leadership transfer")?;
    reader.end()?;
    Ok(request)
}

pub(crate) fn put_vote_response(out: &mut BytesMut, response: &VoteResponse<Types>) {
    put_vote(out, &response.vote);
    put_option(out, response.last_log_id.as_ref(), put_log_id);
    out.put_u8(response.vote_granted.into());
}

pub(crate) fn get_vote_response(mut reader: Reader) -> Result<VoteResponse<Types>, CodecError> {
    let vote = reader.vote()?;
    let last = reader.option("last log id", Reader::log_id)?;
    let response = VoteResponse::new(vote, last, reader.bool("granted")?);
    reader.end()?;
    Ok(response)
}

// Log entries and heartbeats.

/// Writes as many of the request's entries as fit into `limit` bytes, at least one if there is any; says how many.
pub(crate) fn append_call(header: &Header, request: &AppendEntriesRequest<Types>, limit: usize) -> (Bytes, usize) {
    let mut bodies = Vec::with_capacity(request.entries.len());
    let mut total = 0;
    for entry in &request.entries {
        let body = encode_entry(entry);
        total += body.len() + 12;
        if !bodies.is_empty() && total > limit {
            break;
        }
        bodies.push((entry.log_id.index, body));
    }
    let sent = bodies.len();
    let frame = call(header, total + 96, |out| {
        put_vote(out, &request.vote);
        put_option(out, request.prev_log_id.as_ref(), put_log_id);
        put_option(out, request.leader_commit.as_ref(), put_log_id);
        out.put_u32_le(u32::try_from(sent).expect("an append call has some hundred entries"));
        for (index, body) in &bodies {
            out.put_u64_le(*index);
            put_bytes(out, body);
        }
    });
    (frame, sent)
}

pub(crate) fn get_append_request(mut reader: Reader) -> Result<AppendEntriesRequest<Types>, CodecError> {
    let vote = reader.vote()?;
    let prev_log_id = reader.option("previous log id", Reader::log_id)?;
    let leader_commit = reader.option("committed log id", Reader::log_id)?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = prev_log_id.as_ref().map_or(0, |id| id.index.saturating_add(1));
    let mut previous = prev_log_id.as_ref().map(|id| id.leader_id);
    for _ in 0..reader.count("entries")? {
        let index = reader.u64("index")?;
        if index != next {
            let reason = format!("index {index} where {next} was due");
            return Err(CodecError::Invalid { what: "entries", reason });
        }
        let entry = decode_entry(index, reader.bytes("entry")?)?;
        let leader = Some(entry.log_id.leader_id);
        if leader < previous || leader > Some(*vote.leader_id()) {
            let reason = format!("term {} at index {index}", entry.log_id.leader_id);
            return Err(CodecError::Invalid { what: "entries", reason });
        }
        entries.push(entry);
        next = index.saturating_add(1);
        previous = leader;
    }
    reader.end()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn put_append_response(out: &mut BytesMut, response: &AppendEntriesResponse<Types>) {
    match response {
        AppendEntriesResponse::Success => out.put_u8(0),
        AppendEntriesResponse::PartialSuccess(id) => {
            out.put_u8(1);
            put_option(out, id.as_ref(), put_log_id);
        }
        AppendEntriesResponse::Conflict => out.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(3);
            put_vote(out, vote);
        }
    }
}

pub(crate) fn get_append_response(mut reader: Reader) -> Result<AppendEntriesResponse<Types>, CodecError> {
    let response = append_response(&mut reader)?;
    reader.end()?;
    Ok(response)
}

fn append_response(reader: &mut Reader) -> Result<AppendEntriesResponse<Types>, CodecError> {
    Ok(match reader.u8("append's answer")? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(reader.option("log id", Reader::log_id)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(reader.vote()?),
        found => {
            return Err(CodecError::Unknown { what: "append's answer", found });
        }
    })
}

// Heartbeats of several groups: from the same leader's node, each a group and an append call without entries. The answers are in the same order.

/// An append call without entries, as it is in a bundle.
pub(crate) fn heartbeat(request: &AppendEntriesRequest<Types>) -> Bytes {
    encode(|out| {
        put_vote(out, &request.vote);
        put_option(out, request.prev_log_id.as_ref(), put_log_id);
        put_option(out, request.leader_commit.as_ref(), put_log_id);
    })
}

pub(crate) fn put_bundle<'a>(out: &mut BytesMut, heartbeats: impl ExactSizeIterator<Item = (GroupId, &'a [u8])>) {
    out.put_u32_le(u32::try_from(heartbeats.len()).expect("a bundle has some hundred heartbeats"));
    for (group, heartbeat) in heartbeats {
        out.put_u32_le(group.number);
        out.put_u32_le(group.generation);
        out.put_slice(heartbeat);
    }
}

pub(crate) fn get_bundle(mut reader: Reader) -> Result<Vec<(GroupId, AppendEntriesRequest<Types>)>, CodecError> {
    let mut heartbeats = Vec::new();
    for _ in 0..reader.count("heartbeats")? {
        let group = GroupId { number: reader.u32("group")?, generation: reader.u32("generation")? };
        let vote = reader.vote()?;
        let prev_log_id = reader.option("previous log id", Reader::log_id)?;
        let leader_commit = reader.option("committed log id", Reader::log_id)?;
        heartbeats.push((group, AppendEntriesRequest { vote, prev_log_id, entries: Vec::new(), leader_commit }));
    }
    reader.end()?;
    Ok(heartbeats)
}

/// What became of one heartbeat of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BundleAnswer {
    Done(AppendEntriesResponse<Types>),
    Refused(Refusal, String),
    /// The others did not wait for it.
    Late,
}

pub(crate) fn put_bundle_answers(out: &mut BytesMut, answers: &[BundleAnswer]) {
    out.put_u32_le(u32::try_from(answers.len()).expect("a bundle has some hundred heartbeats"));
    for answer in answers {
        match answer {
            BundleAnswer::Done(response) => {
                out.put_u8(0);
                put_append_response(out, response);
            }
            BundleAnswer::Refused(refusal, reason) => {
                out.put_u8(*refusal as u8);
                put_bytes(out, reason.as_bytes());
            }
            BundleAnswer::Late => out.put_u8(LATE),
        }
    }
}

/// In the place of a refusal.
const LATE: u8 = u8::MAX;

pub(crate) fn get_bundle_answers(mut reader: Reader) -> Result<Vec<BundleAnswer>, CodecError> {
    let mut answers = Vec::new();
    for _ in 0..reader.count("answers")? {
        answers.push(match reader.u8("answer")? {
            0 => BundleAnswer::Done(append_response(&mut reader)?),
            LATE => BundleAnswer::Late,
            found => {
                let refusal = Refusal::from_byte(found)?;
                BundleAnswer::Refused(refusal, String::from_utf8_lossy(&reader.bytes("reason")?).into_owned())
            }
        });
    }
    reader.end()?;
    Ok(answers)
}

// Snapshots.

/// One piece of a snapshot on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    /// Random: two transfers of one snapshot are not mixed.
    pub(crate) transfer: u64,
    /// Where in the snapshot the data belongs.
    pub(crate) offset: u64,
    /// The snapshot's whole length.
    pub(crate) total: u64,
    pub(crate) data: Bytes,
}

pub(crate) fn put_chunk(out: &mut BytesMut, chunk: &Chunk) {
    put_vote(out, &chunk.vote);
    put_snapshot_meta(out, &chunk.meta);
    out.put_u64_le(chunk.transfer);
    out.put_u64_le(chunk.offset);
    out.put_u64_le(chunk.total);
    put_bytes(out, &chunk.data);
}

pub(crate) fn get_chunk(mut reader: Reader) -> Result<Chunk, CodecError> {
    let chunk = Chunk {
        vote: reader.vote()?,
        meta: reader.snapshot_meta()?,
        transfer: reader.u64("transfer")?,
        offset: reader.u64("offset")?,
        total: reader.u64("length")?,
        data: reader.bytes("chunk")?,
    };
    reader.end()?;
    Ok(chunk)
}

/// The answer to a chunk: the receiver's vote once the snapshot is installed or refused for a higher one.
pub(crate) fn put_chunk_response(out: &mut BytesMut, response: Option<&SnapshotResponse<Types>>) {
    put_option(out, response.map(|r| &r.vote), put_vote);
}

pub(crate) fn get_chunk_response(mut reader: Reader) -> Result<Option<SnapshotResponse<Types>>, CodecError> {
    let vote = reader.option("vote", Reader::vote)?;
    reader.end()?;
    Ok(vote.map(SnapshotResponse::new))
}

// Leadership.

pub(crate) fn put_transfer_request(out: &mut BytesMut, request: &TransferLeaderRequest<Types>) {
    put_vote(out, request.from_leader());
    out.put_u64_le(*request.to_node_id());
    put_option(out, request.last_log_id(), put_log_id);
}

pub(crate) fn get_transfer_request(mut reader: Reader) -> Result<TransferLeaderRequest<Types>, CodecError> {
    let from = reader.vote()?;
    let to = reader.u64("new leader")?;
    let last = reader.option("last log id", Reader::log_id)?;
    reader.end()?;
    Ok(TransferLeaderRequest::new(from, to, last))
}

pub(crate) fn put_transfer_response(out: &mut BytesMut, response: &TransferLeaderResponse<Types>) {
    match response {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            put_vote(out, expected);
            put_vote(out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            put_option(out, expected.as_ref(), put_log_id);
            put_option(out, actual.as_ref(), put_log_id);
        }
    }
}

pub(crate) fn get_transfer_response(mut reader: Reader) -> Result<TransferLeaderResponse<Types>, CodecError> {
    let log_id = |reader: &mut Reader| -> Result<Option<LogId>, CodecError> { reader.option("log id", Reader::log_id) };
    let response = match reader.u8("transfer's answer")? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged { expected: reader.vote()?, actual: reader.vote()? }),
        2 => {
            let expected = log_id(&mut reader)?;
            Err(TransferLeaderError::LogNotFlushed { expected, actual: log_id(&mut reader)? })
        }
        found => {
            return Err(CodecError::Unknown { what: "transfer's answer", found });
        }
    };
    reader.end()?;
    Ok(response)
}

// Proposals.

/// How the leader answers a forwarded proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proposed {
    Applied { index: u64, response: Bytes },
    NotLeader(Option<NodeId>),
    TooLarge { limit: u64 },
    DiskFull,
    Timeout,
    Failed(String),
}

pub(crate) fn put_proposed(out: &mut BytesMut, proposed: &Proposed) {
    match proposed {
        Proposed::Applied { index, response } => {
            out.put_u8(0);
            out.put_u64_le(*index);
            put_bytes(out, response);
        }
        Proposed::NotLeader(leader) => {
            out.put_u8(1);
            put_option(out, leader.as_ref(), |out, id| out.put_u64_le(*id));
        }
        Proposed::TooLarge { limit } => {
            out.put_u8(2);
            out.put_u64_le(*limit);
        }
        Proposed::Failed(reason) => {
            out.put_u8(3);
            put_bytes(out, reason.as_bytes());
        }
        Proposed::DiskFull => out.put_u8(4),
        Proposed::Timeout => out.put_u8(5),
    }
}

pub(crate) fn get_proposed(mut reader: Reader) -> Result<Proposed, CodecError> {
    let proposed = match reader.u8("proposal's answer")? {
        0 => Proposed::Applied { index: reader.u64("index")?, response: reader.bytes("response")? },
        1 => Proposed::NotLeader(reader.option("leader", |r| r.u64("leader"))?),
        2 => Proposed::TooLarge { limit: reader.u64("limit")? },
        3 => Proposed::Failed(String::from_utf8_lossy(&reader.bytes("reason")?).into_owned()),
        4 => Proposed::DiskFull,
        5 => Proposed::Timeout,
        found => {
            return Err(CodecError::Unknown { what: "proposal's answer", found });
        }
    };
    reader.end()?;
    Ok(proposed)
}

/// A command for the leader, and how long the proposer waits for the answer.
pub(crate) fn put_propose(out: &mut BytesMut, deadline: Duration, command: &[u8]) {
    out.put_u32_le(u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX));
    out.put_slice(command);
}

pub(crate) fn get_propose(mut reader: Reader) -> Result<(Duration, Bytes), CodecError> {
    let deadline = Duration::from_millis(reader.u32("deadline")?.into());
    Ok((deadline, reader.rest()))
}

#[cfg(test)]
mod tests;
