//! What is sent in one frame, and how it is answered.
#![allow(clippy::unwrap_used)]

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::vote::{RaftLeaderId, RaftVote};
use raftmq_storage::{StateStore, StoreOptions, Wal, WalOptions};
use tempfile::TempDir;

use super::*;
use crate::frame::Refusal;
use crate::network::Network;
use crate::snapshot::SnapshotDir;
use crate::types::{LeaderId, LogId, Vote};
use crate::{Groups, MachineError, Persistence, StateBatch, StateMachine, Transport, TransportError};

const CLUSTER: u128 = 77;
/// More than any test takes for two calls in a row.
const WINDOW: Duration = Duration::from_millis(25);

type Answers = Box<dyn FnMut(&[(GroupId, AppendEntriesRequest<Types>)]) -> Vec<BundleAnswer> + Send>;

/// Writes down what is sent, and answers as it is told.
#[derive(Clone)]
struct Fake {
    /// The kinds of frames, and how many heartbeats were in each.
    sent: Arc<Mutex<Vec<(Kind, usize)>>>,
    answers: Arc<Mutex<Answers>>,
    takes: bool,
}

impl Fake {
    fn new(
        answers: impl FnMut(&[(GroupId, AppendEntriesRequest<Types>)]) -> Vec<BundleAnswer> + Send + 'static,
    ) -> Self {
        Self { sent: Arc::default(), answers: Arc::new(Mutex::new(Box::new(answers))), takes: true }
    }

    fn sent(&self) -> Vec<(Kind, usize)> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

impl Transport for Fake {
    fn call(
        &self,
        to: NodeId,
        frame: Bytes,
        class: Class,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (header, body) = frame::parse_call(frame).unwrap();
        let answer = match header.kind {
            Kind::Bundle => {
                assert_eq!((class, header.cluster, header.to), (Class::Heartbeat, CLUSTER, to));
                let heartbeats = frame::get_bundle(body).unwrap();
                self.sent.lock().unwrap().push((Kind::Bundle, heartbeats.len()));
                let answers = (self.answers.lock().unwrap())(&heartbeats);
                frame::answer(|out| frame::put_bundle_answers(out, &answers))
            }
            kind => {
                self.sent.lock().unwrap().push((kind, 1));
                frame::answer(|out| frame::put_append_response(out, &AppendEntriesResponse::Success))
            }
        };
        let unreachable = to == 9;
        async move {
            if unreachable { Err(TransportError::Unreachable { to, reason: "cut off".into() }) } else { Ok(answer) }
        }
        .boxed()
    }

    fn takes_bundles(&self, to: NodeId) -> bool {
        self.takes && to != 4
    }
}

/// Node 1.
fn groups(transport: Fake, window: Duration) -> (TempDir, Groups) {
    let dir = tempfile::tempdir().unwrap();
    let wal = WalOptions { segment_bytes: 1 << 20, ballast_bytes: 0, min_free_bytes: 0, ..WalOptions::default() };
    let (wal, _) = Wal::open(dir.path().join("wal"), wal).unwrap();
    let store = StateStore::open(dir.path().join("state"), StoreOptions::default()).unwrap();
    let options = RaftOptions { bundle_window: window, ..RaftOptions::default() };
    let snapshots = dir.path().join("snapshots");
    let groups = Groups::new(1, CLUSTER, snapshots, wal, store, Arc::new(transport), options).unwrap();
    (dir, groups)
}

fn vote(term: u64) -> Vote {
    Vote::from_leader_id(LeaderId::new(term, 1), true)
}

fn request(term: u64) -> AppendEntriesRequest<Types> {
    let id = |index| Some(LogId::new(LeaderId::new(term, 1), index));
    AppendEntriesRequest { vote: vote(term), prev_log_id: id(5), leader_commit: id(4), entries: Vec::new() }
}

fn group(number: u32) -> GroupId {
    GroupId::new(number, 0)
}

/// Each group is answered with a vote that names it.
fn by_name(heartbeats: &[(GroupId, AppendEntriesRequest<Types>)]) -> Vec<BundleAnswer> {
    let answer = |(group, request): &(GroupId, AppendEntriesRequest<Types>)| {
        assert_eq!(frame::heartbeat(request), frame::heartbeat(&self::request(group.number.into())));
        BundleAnswer::Done(AppendEntriesResponse::HigherVote(vote(1000 + u64::from(group.number))))
    };
    heartbeats.iter().map(answer).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_within_the_window_goes_in_one_frame() {
    let fake = Fake::new(by_name);
    let (_dir, groups) = groups(fake.clone(), WINDOW);
    let sender = &groups.inner.sender;
    let send = |number: u32| async move { heartbeat(sender, group(number), 2, &request(number.into())).await };
    let answers = join_all((1..=40).map(send)).await;
    for (number, answer) in (1..=40).zip(answers) {
        assert_eq!(answer.unwrap(), AppendEntriesResponse::HigherVote(vote(1000 + number)));
    }
    assert_eq!(fake.sent(), [(Kind::Bundle, 40)]);
    // Nothing is left, and each node has its own.
    let request = request(3);
    let (second, third) = futures::join!(send(2), heartbeat(sender, group(3), 3, &request));
    assert!(second.is_ok() && third.is_ok());
    assert_eq!(fake.sent(), [(Kind::Bundle, 1), (Kind::Bundle, 1)]);
    // Not more than a frame's full.
    let answers = join_all((1..=MAX as u32 + 20).map(send)).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(fake.sent().iter().map(|(_, count)| *count).max(), Some(MAX));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gets_its_own_answer_or_the_error_of_all() {
    let fake = Fake::new(|_| {
        vec![
            BundleAnswer::Done(AppendEntriesResponse::Success),
            BundleAnswer::Refused(Refusal::Group, "gone".into()),
            BundleAnswer::Late,
        ]
    });
    let (_dir, groups) = groups(fake, WINDOW);
    let sender = &groups.inner.sender;
    let send = |number: u32, to| async move { heartbeat(sender, group(number), to, &request(1)).await };
    let answers = join_all((1..=4).map(|number| send(number, 2))).await;
    assert!(matches!(answers[0], Ok(AppendEntriesResponse::Success)));
    assert!(matches!(&answers[1], Err(CallError::Refused { refusal: Refusal::Group, reason, .. }) if reason == "gone"));
    assert!(matches!(answers[2], Err(CallError::Late { to: 2 })));
    assert!(matches!(answers[3], Err(CallError::Late { to: 2 })), "there is no answer for it");
    let answers = join_all((1..=3).map(|number| send(number, 9))).await;
    for answer in answers {
        assert!(matches!(answer, Err(CallError::Transport(TransportError::Unreachable { .. }))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hurry_takes_along_what_waits() {
    let fake = Fake::new(by_name);
    let (_dir, groups) = groups(fake.clone(), WINDOW);
    let reader = groups.start(group(5), Persistence::Memory, Nothing).await.unwrap();
    let sender = groups.inner.sender.clone();
    for by_read in [false, true] {
        // A machine that stands still may make it late, but hardly each time.
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let (asking, start) = (sender.clone(), Instant::now());
            let first = tokio::spawn(async move { heartbeat(&asking, group(1), 2, &request(1)).await });
            while sender.bundles.lock().is_empty() {
                tokio::task::yield_now().await;
            }
            if by_read {
                // It does not lead, which it finds out after the hurry.
                assert!(reader.read_index().await.is_err());
            } else {
                sender.bundles.hurry();
            }
            first.await.unwrap().unwrap();
            best = best.min(start.elapsed());
            assert_eq!(fake.sent(), [(Kind::Bundle, 1)]);
        }
        assert!(best < WINDOW / 2, "{best:?}");
    }
    groups.shutdown().await;
}

/// The client of a group, as openraft uses it.
async fn client(
    groups: &Groups,
    dir: &TempDir,
    urgent: &Urgent,
    to: NodeId,
    heartbeat: bool,
) -> crate::network::Client {
    let snapshots = SnapshotDir::open(dir.path(), group(1)).unwrap();
    let sender = groups.inner.sender.clone();
    let mut network = Network { sender, group: group(1), snapshots, urgent: urgent.clone() };
    if heartbeat { network.new_heartbeat_client(to, &()).await } else { network.new_client(to, &()).await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_heartbeats_that_nobody_waits_for_wait() {
    let late = Arc::new(Mutex::new(false));
    let is_late = late.clone();
    let answers = move |heartbeats: &[(GroupId, AppendEntriesRequest<Types>)]| {
        let answer = if *is_late.lock().unwrap() {
            BundleAnswer::Late
        } else {
            BundleAnswer::Done(AppendEntriesResponse::Success)
        };
        vec![answer; heartbeats.len()]
    };
    let fake = Fake::new(answers);
    let (dir, groups) = groups(fake.clone(), WINDOW);
    let urgent = Urgent::default();
    let option = || RPCOption::new(Duration::from_millis(100));
    let mut heartbeats = client(&groups, &dir, &urgent, 2, true).await;
    heartbeats.append_entries(request(1), option()).await.unwrap();
    assert_eq!(fake.sent(), [(Kind::Bundle, 1)]);

    // What tells of a commit goes with the entries.
    client(&groups, &dir, &urgent, 2, false).await.append_entries(request(1), option()).await.unwrap();
    assert_eq!(fake.sent(), [(Kind::Append, 1)]);
    // This node knows no such frames.
    client(&groups, &dir, &urgent, 4, true).await.append_entries(request(1), option()).await.unwrap();
    assert_eq!(fake.sent(), [(Kind::Append, 1)]);
    // Somebody waits.
    let waits = (urgent.begin(), urgent.begin());
    drop(waits.0);
    heartbeats.append_entries(request(1), option()).await.unwrap();
    assert_eq!(fake.sent(), [(Kind::Append, 1)]);
    drop(waits.1);
    heartbeats.append_entries(request(1), option()).await.unwrap();
    assert_eq!(fake.sent(), [(Kind::Bundle, 1)]);
    // It was late, and goes alone.
    *late.lock().unwrap() = true;
    assert!(heartbeats.append_entries(request(1), option()).await.is_err());
    heartbeats.append_entries(request(1), option()).await.unwrap();
    assert_eq!(fake.sent(), [(Kind::Bundle, 1), (Kind::Append, 1)]);

    let (dir, groups) = self::groups(fake.clone(), Duration::ZERO);
    client(&groups, &dir, &urgent, 2, true).await.append_entries(request(1), option()).await.unwrap();
    assert_eq!(fake.sent(), [(Kind::Append, 1)]);
}

#[test]
fn the_window_keeps_to_the_interval_of_heartbeats() {
    let window = |bundle, heartbeat| {
        let (bundle_window, heartbeat) = (Duration::from_millis(bundle), Duration::from_millis(heartbeat));
        super::window(&RaftOptions { bundle_window, heartbeat, ..RaftOptions::default() }).as_millis()
    };
    assert_eq!((window(20, 100), window(0, 100), window(20, 40), window(500, 1000)), (20, 0, 10, 25));
}

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _index: u64, _command: &[u8], _out: &mut StateBatch) -> Vec<u8> {
        Vec::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), MachineError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_slow_does_not_hold_up_the_others() {
    // What it sends goes alone; what it gets is answered all the same.
    let (_dir, groups) = groups(Fake::new(by_name), Duration::ZERO);
    for number in 1..=3 {
        groups.start(group(number), Persistence::Memory, Nothing).await.unwrap();
    }
    // Node 2 leads in term 9.
    let vote = Vote::from_leader_id(LeaderId::new(9, 2), true);
    let heartbeat = AppendEntriesRequest::<Types> { vote, prev_log_id: None, leader_commit: None, entries: Vec::new() };
    let call = |from: NodeId, numbers: &[u32]| {
        let header = frame::Header { kind: Kind::Bundle, cluster: CLUSTER, group: group(0), from, to: 1 };
        let request = frame::heartbeat(&heartbeat);
        let items: Vec<_> = numbers.iter().map(|number| (group(*number), &request[..])).collect();
        frame::call(&header, 0, |out| frame::put_bundle(out, items.into_iter()))
    };
    let answers = |frame: Bytes| match frame::parse_answer(frame).unwrap() {
        frame::Answer::Done(body) => frame::get_bundle_answers(body).unwrap(),
        frame::Answer::Refused(refusal, reason) => panic!("{refusal:?} {reason}"),
    };
    let done = BundleAnswer::Done(AppendEntriesResponse::Success);
    // The votes are on the disk after this.
    eventually(&groups, call(2, &[1, 2, 3]), |frame| answers(frame) == vec![done.clone(); 3]).await;

    let slow = groups.group(1).unwrap();
    // One that takes a moment is waited for; once must do, on a machine that has other things to do.
    let mut waited_for = false;
    for _ in 0..300 {
        let (entered, inside) = oneshot::channel();
        let busy = slow.clone();
        let moment = move |_: &openraft::RaftState<Types>| {
            let _ = entered.send(());
            std::thread::sleep(Duration::from_millis(5));
        };
        let blocked = tokio::spawn(async move { busy.inner.raft.with_raft_state(moment).await });
        inside.await.unwrap();
        waited_for |= answers(groups.handle(call(2, &[1, 2])).await) == vec![done.clone(); 2];
        blocked.await.unwrap().unwrap();
        if waited_for {
            break;
        }
    }
    assert!(waited_for);

    let (entered, inside) = oneshot::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let blocked = tokio::spawn(async move {
        let block = move |_: &openraft::RaftState<Types>| {
            let _ = entered.send(());
            let _ = left.recv();
        };
        slow.inner.raft.with_raft_state(block).await
    });
    inside.await.unwrap();
    let start = Instant::now();
    let mixed = answers(groups.handle(call(2, &[1, 3, 7, 2])).await);
    assert!(start.elapsed() < Duration::from_secs(2), "far more than it may take");
    assert_eq!(mixed[0], BundleAnswer::Late);
    assert!(matches!(&mixed[2], BundleAnswer::Refused(Refusal::Group, _)));
    assert_eq!((&mixed[1], &mixed[3]), (&done, &done));
    leave.send(()).unwrap();
    blocked.await.unwrap().unwrap();
    assert_eq!(groups.counters().refused_group, 1);
    // Of those that it does not lead it says nothing.
    let forged = answers(groups.handle(call(3, &[1, 2])).await);
    assert!(forged.iter().all(|answer| matches!(answer, BundleAnswer::Refused(Refusal::Malformed, _))));
    groups.shutdown().await;
}

async fn eventually(groups: &Groups, frame: Bytes, mut wanted: impl FnMut(Bytes) -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !wanted(groups.handle(frame.clone()).await) {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
