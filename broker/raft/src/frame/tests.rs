//! Frames come back as they were, and no bytes do harm.
#![allow(clippy::unwrap_used)]

use openraft::EntryPayload;
use openraft::vote::{RaftLeaderId, RaftVote};
use proptest::prelude::*;

use super::*;
use crate::types::{Command, LeaderId};

fn id(index: u64) -> LogId {
    LogId::new(LeaderId::new(3, 2), index)
}

fn vote() -> Vote {
    Vote::from_leader_id(LeaderId::new(3, 2), true)
}

fn header(kind: Kind) -> Header {
    Header { kind, cluster: u128::MAX - 1, group: GroupId::new(2, 7), from: 11, to: 12 }
}

fn append(count: u64) -> AppendEntriesRequest<Types> {
    let entries = (6..6 + count)
        .map(|index| Entry { log_id: id(index), payload: EntryPayload::Normal(Command(vec![7; 100].into())) });
    AppendEntriesRequest {
        vote: vote(),
        prev_log_id: Some(id(5)),
        entries: entries.collect(),
        leader_commit: Some(id(4)),
    }
}

#[test]
fn append_calls_come_back_and_keep_to_their_limit() {
    for (count, limit, want) in [(0, 10, 0), (1, 10, 1), (5, 10, 1), (5, 300, 2), (5, 1 << 20, 5)] {
        let (frame, sent) = append_call(&header(Kind::Append), &append(count), limit);
        assert_eq!(sent, want);
        let (got, body) = parse_call(frame).unwrap();
        assert_eq!(got, header(Kind::Append));
        let request = get_append_request(body).unwrap();
        assert_eq!(request.entries, append(count).entries[..want]);
        assert_eq!((request.prev_log_id, request.leader_commit), (Some(id(5)), Some(id(4))));
    }
}

#[test]
fn entries_with_a_gap_are_refused() {
    let mut request = append(3);
    request.entries.remove(1);
    let (frame, _) = append_call(&header(Kind::Append), &request, 1 << 20);
    assert!(get_append_request(parse_call(frame).unwrap().1).is_err());
}

#[test]
fn entries_of_a_later_or_falling_term_are_refused() {
    for (at, term) in [(2, 4), (0, 1), (2, 2)] {
        let mut request = append(3);
        request.entries[at].log_id.leader_id = LeaderId::new(term, 2);
        let (frame, _) = append_call(&header(Kind::Append), &request, 1 << 20);
        assert!(get_append_request(parse_call(frame).unwrap().1).is_err(), "term {term} at {at}");
    }
}

#[test]
fn answers_come_back() {
    let reader = |frame| match parse_answer(frame).unwrap() {
        Answer::Done(reader) => reader,
        Answer::Refused(refusal, _) => panic!("{refusal:?}"),
    };
    for response in [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::PartialSuccess(Some(id(9))),
        AppendEntriesResponse::PartialSuccess(None),
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(vote()),
    ] {
        let frame = answer(|out| put_append_response(out, &response));
        assert_eq!(get_append_response(reader(frame)).unwrap(), response);
    }
    for response in [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: vote(), actual: vote() }),
        Err(TransferLeaderError::LogNotFlushed { expected: Some(id(4)), actual: None }),
    ] {
        let frame = answer(|out| put_transfer_response(out, &response));
        assert_eq!(get_transfer_response(reader(frame)).unwrap(), response);
    }
    for proposed in [
        Proposed::Applied { index: 3, response: Bytes::from_static(b"done") },
        Proposed::NotLeader(Some(4)),
        Proposed::NotLeader(None),
        Proposed::TooLarge { limit: 9 },
        Proposed::Failed("why".into()),
        Proposed::DiskFull,
        Proposed::Timeout,
    ] {
        let frame = answer(|out| put_proposed(out, &proposed));
        assert_eq!(get_proposed(reader(frame)).unwrap(), proposed);
    }
    let answers = vec![
        BundleAnswer::Done(AppendEntriesResponse::Success),
        BundleAnswer::Refused(Refusal::Snapshot, "why".into()),
        BundleAnswer::Late,
        BundleAnswer::Done(AppendEntriesResponse::HigherVote(vote())),
    ];
    let frame = answer(|out| put_bundle_answers(out, &answers));
    assert_eq!(get_bundle_answers(reader(frame)).unwrap(), answers);
    let vote_response = VoteResponse::new(vote(), Some(id(3)), true);
    let frame = answer(|out| put_vote_response(out, &vote_response));
    assert_eq!(get_vote_response(reader(frame)).unwrap(), vote_response);
    assert!(matches!(
        parse_answer(refuse(Refusal::Generation, "why")).unwrap(),
        Answer::Refused(Refusal::Generation, reason) if reason == "why"
    ));
}

#[test]
fn bundles_come_back() {
    let others = AppendEntriesRequest { prev_log_id: None, leader_commit: None, ..append(0) };
    let heartbeats = [(GroupId::new(1, 0), append(0)), (GroupId::new(u32::MAX, 7), others)];
    let encoded: Vec<_> = heartbeats.iter().map(|(group, request)| (*group, heartbeat(request))).collect();
    let put = |out: &mut BytesMut| put_bundle(out, encoded.iter().map(|(group, bytes)| (*group, &bytes[..])));
    let frame = call(&header(Kind::Bundle), 0, put);
    let (found, body) = parse_call(frame.clone()).unwrap();
    assert_eq!(found, header(Kind::Bundle));
    for ((group, found), (expected_group, expected)) in get_bundle(body).unwrap().iter().zip(&heartbeats) {
        assert_eq!(group, expected_group);
        assert_eq!((found.vote, found.prev_log_id), (expected.vote, expected.prev_log_id));
        assert_eq!((found.leader_commit, found.entries.len()), (expected.leader_commit, 0));
    }
    for end in 0..frame.len() {
        assert!(parse_call(frame.slice(..end)).and_then(|(_, body)| get_bundle(body)).is_err(), "cut at {end}");
    }
}

#[test]
fn chunks_and_votes_come_back() {
    let chunk = Chunk {
        vote: vote(),
        meta: SnapshotMeta { last_log_id: Some(id(3)), ..SnapshotMeta::default() },
        transfer: 5,
        offset: 6,
        total: 17,
        data: Bytes::from_static(b"data"),
    };
    let (_, body) = parse_call(call(&header(Kind::Snapshot), 0, |out| put_chunk(out, &chunk))).unwrap();
    assert_eq!(get_chunk(body).unwrap(), chunk);
    let mut request = VoteRequest::new(vote(), None);
    request.leadership_transfer = true;
    let (_, body) = parse_call(call(&header(Kind::Vote), 0, |out| put_vote_request(out, &request))).unwrap();
    assert_eq!(get_vote_request(body).unwrap(), request);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let _ = parse_call(bytes.clone());
        let _ = parse_answer(bytes.clone());
        let read = || Reader::new(bytes.clone());
        let _ = get_append_request(read());
        let _ = get_chunk(read());
        let _ = get_bundle(read());
        let _ = get_bundle_answers(read());
        let _ = get_vote_request(read());
        let _ = get_transfer_request(read());
        let _ = get_proposed(read());
        let _ = get_propose(read());
    }
}
