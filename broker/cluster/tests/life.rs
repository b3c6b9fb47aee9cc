//! What happens to a running cluster: restarts, lost and copied disks, dead leaders, partitions.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{LEASE, Lab, Process, eventually, has_left, members, serving};
use raftmq_cluster::{BarrierError, Fatal, LeaseParams, Phase, Stage};
use raftmq_mqtt::{Message, Origin, Properties, Publish, QoS};
use raftmq_routing::{ForwardFrame, SharedForward, Tried};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

/// Subscribes. A node whose lease ended for a moment, as it may where the machine is busy while a leader is missing, is asked again.
async fn subscribed(process: &Process, worker: u8, filters: &[&str]) {
    let begun = Instant::now();
    loop {
        match process.cluster.subscribe(worker, filters).await {
            Ok(()) => return,
            Err(BarrierError::NotServing) if begun.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{filters:?}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_restarts_then_all() {
    let lab = Lab::new();
    let mut all = lab.form(&NAMES).await;
    let id = all[0].cluster.status().cluster_id;
    let before = members(&all[0]);
    // Cleanly, then as if killed.
    let one = all.remove(1);
    one.cluster.shutdown().await;
    // It gave its lease back: nobody waits for it, and it is known to be down.
    let begun = Instant::now();
    all[0].cluster.subscribe(0, &["while/one/is/gone"]).await.unwrap();
    println!("barrier after a clean stop: {:?}", begun.elapsed());
    eventually("it is known to be down", || all[0].cluster.control().members().iter().any(|m| m.id == 2 && !m.up))
        .await;
    drop(one);
    all.insert(1, lab.start("n2", &NAMES).await);
    serving(&all).await;
    let one = all.remove(0);
    one.kill().await;
    all.insert(0, lab.start("n1", &NAMES).await);
    serving(&all).await;
    for p in all {
        p.kill().await;
    }
    let all = lab.start_all(&NAMES).await;
    serving(&all).await;
    for p in &all {
        assert_eq!(p.cluster.status().cluster_id, id);
        assert_eq!(members(p), before);
    }
    assert_eq!(all[1].cluster.status().boot, 3);
}

/// The wills of its clients, and what they had for groups.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_node_forwards_before_it_ends_arrives() {
    let lab = Lab::new();
    let all = lab.form(&NAMES).await;
    let [from, to] = [all[0].cluster.status().raft_id.unwrap(), all[1].cluster.status().raft_id.unwrap()];
    let frame = Bytes::from(vec![7; 64 * 1024]);
    let sent: usize = (0..200).map(|_| all[0].cluster.forward(&[to], &frame)).sum();
    assert!(sent > 10, "{sent}");
    // The other one takes its time, longer than all else that a node does at its end.
    let slow = Arc::clone(&all[1].received);
    let slow = std::thread::spawn(move || {
        let taken = slow.lock().unwrap();
        std::thread::sleep(Duration::from_millis(600));
        drop(taken);
    });
    all[0].cluster.shutdown().await;
    slow.join().unwrap();
    eventually("all is there", || all[1].received.lock().unwrap().iter().filter(|(id, _)| *id == from).count() == sent)
        .await;
    for p in all {
        p.kill().await;
    }
}

/// The wait for the others is bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_does_not_take_the_last_frames_does_not_hold_up_the_end() {
    let lab = Lab::new();
    let mut all = lab.form(&NAMES).await;
    let gone = all.remove(2);
    let to = gone.id();
    gone.kill().await;
    assert_eq!(all[0].cluster.forward(&[to], &Bytes::from_static(b"frame")), 1);
    let begun = Instant::now();
    all[0].cluster.shutdown().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wiped_node_returns_as_a_new_member_and_the_old_id_is_gone() {
    let lab = Lab::new();
    let mut all = lab.form(&NAMES).await;
    let one = all.remove(2);
    assert_eq!(one.id(), 3);
    one.kill().await;
    std::fs::remove_dir_all(lab.dir("n3")).unwrap();
    all.push(lab.start("n3", &NAMES).await);
    serving(&all).await;
    for p in &all {
        eventually("the new member votes and the old one is gone", || {
            let expected = [1, 2, 4].into_iter().collect();
            p.voters(0) == expected && p.voters(1) == expected
        })
        .await;
        eventually("the old one is no member", || members(p).iter().all(|(_, id)| *id != 3)).await;
    }
    assert_eq!(all[2].id(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_copied_back_is_refused() {
    let lab = Lab::new();
    let mut all = lab.form(&NAMES).await;
    all.remove(1).kill().await;
    let copy = lab.dir("copy");
    copy_dir(&lab.dir("n2"), &copy);
    // It runs once more, then the old copy comes back.
    let again = lab.start("n2", &NAMES).await;
    eventually("it serves", || again.is_serving()).await;
    again.kill().await;
    std::fs::remove_dir_all(lab.dir("n2")).unwrap();
    copy_dir(&copy, &lab.dir("n2"));
    let stale = lab.start("n2", &NAMES).await;
    let fatal = tokio::time::timeout(Duration::from_secs(20), stale.cluster.failed()).await.unwrap();
    assert!(matches!(fatal, Fatal::StaleDisk { boot: 2, recorded: 2, .. }), "{fatal}");
    assert_eq!(*stale.cluster.stage().borrow(), Stage::Failed);
    assert!(stale.cluster.status().groups.is_empty(), "no group was started");
    // The others go on.
    assert!(all.iter().all(Process::is_serving));
}

/// The copy is of a time when the node was the only voter: it needs nobody's word to begin, and has to hear it afterwards. Its next start has
/// the number of one that the others know, or one that is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_of_the_only_voter_ends_when_another_node_answers() {
    for (starts, late) in [(1, true), (3, false)] {
        let lab = Lab::new();
        let mut all = lab.form(&NAMES[..2]).await;
        assert_eq!(all[0].voters(0), [1].into_iter().collect());
        let copy = lab.dir("copy");
        all.remove(0).kill().await;
        copy_dir(&lab.dir("n1"), &copy);
        all.push(lab.start("n3", &NAMES).await);
        for _ in 0..starts {
            all.push(lab.start("n1", &NAMES).await);
            serving(&all).await;
            eventually("three vote, and two of them are enough", || {
                let settled = |p: &Process| {
                    p.cluster.status().groups.iter().all(|(_, g)| g.membership_settled && g.voters.len() == 3)
                };
                all.iter().all(settled)
            })
            .await;
            if let Some(again) = all.pop() {
                again.kill().await;
            }
        }
        let before = members(&all[0]);
        for p in all {
            p.kill().await;
        }
        std::fs::remove_dir_all(lab.dir("n1")).unwrap();
        copy_dir(&copy, &lab.dir("n1"));
        let stale = lab.start("n1", &NAMES).await;
        eventually("it is the cluster by itself", || stale.is_serving() && stale.voters(0).len() == 1).await;
        // It hears of the others while they start, or when they are a cluster again that has much to tell it.
        let term = |of: &Process| of.cluster.status().groups[0].1.term;
        let before_that = term(&stale);
        stale.cluster.isolate(late);
        let rest = [lab.start("n2", &NAMES).await, lab.start("n3", &NAMES).await];
        if late {
            serving(&rest).await;
            stale.cluster.isolate(false);
        }
        let fatal = tokio::time::timeout(Duration::from_secs(20), stale.cluster.failed()).await.unwrap();
        let recorded = 1 + starts;
        assert!(matches!(fatal, Fatal::StaleDisk { boot: 2, recorded: r, .. } if r == recorded), "{fatal}");
        assert!(!stale.is_serving());
        // Nothing got from group to group.
        assert_eq!((stale.voters(0), term(&stale)), ([1].into_iter().collect(), before_that));
        stale.kill().await;
        serving(&rest).await;
        for p in &rest {
            assert_eq!(members(p), before);
            assert_eq!(p.voters(0).len(), 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_subscription_is_seen_everywhere_when_its_barrier_is_reached() {
    let lab = Lab::new();
    let all = lab.form(&NAMES).await;
    let mut slowest = Duration::ZERO;
    for round in 0..200 {
        let from = &all[round % 3];
        let filters = [format!("a/{round}"), format!("b/{round}/+")];
        let begun = Instant::now();
        from.cluster.subscribe(0, &filters).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        for p in all.iter().filter(|p| p.id() != from.id()) {
            assert_eq!(p.targets(&format!("a/{round}")), [from.id()], "round {round}");
            assert_eq!(p.targets(&format!("b/{round}/x")), [from.id()], "round {round}");
        }
    }
    println!("slowest barrier: {slowest:?}");
    // The second subscriber of a filter waits for nothing new.
    all[0].cluster.subscribe(1, &["a/0"]).await.unwrap();
    all[0].cluster.unsubscribe(0, &["a/0"]);
    all[0].cluster.unsubscribe(1, &["a/0"]);
    eventually("the route goes when its last subscriber left", || all[1].targets("a/0").is_empty()).await;
    let sent = all[1].cluster.forward(&[1, 3, 99], &Bytes::from_static(b"hello"));
    assert_eq!(sent, 2);
    for to in [0, 2] {
        eventually("the frame arrives", || *all[to].received.lock().unwrap() == [(2, Bytes::from_static(b"hello"))])
            .await;
    }
}

/// The meta leader is killed. Says whether no lease of the others ended, which a machine that is too busy for an election within L cannot promise.
async fn leader_dies(lease: LeaseParams) -> bool {
    let lab = Lab::with_lease(lease);
    let mut all = lab.form(&NAMES).await;
    let leader = all[0].meta_leader().unwrap();
    let at = all.iter().position(|p| p.id() == leader).unwrap();
    let fenced =
        |all: &[Process]| -> u64 { all.iter().map(|p| p.cluster.counters().fenced.load(Ordering::Relaxed)).sum() };
    all.remove(at).kill().await;
    let (begun, before) = (Instant::now(), fenced(&all));
    // A SUBACK waits until the dead one is fenced, and no longer; that of a node whose own lease ends meanwhile fails.
    let suback = all[0].cluster.subscribe(0, &["after/#"]).await;
    println!("barrier after the leader's death: {:?}", begun.elapsed());
    if suback.is_ok() {
        assert_eq!(all[1].targets("after/x"), [all[0].id()]);
    }
    eventually("the dead one is declared down", || {
        let down = all[0].cluster.control().members().iter().any(|m| m.id == leader && !m.up);
        down && all[0].meta_leader().is_some_and(|l| l != leader)
    })
    .await;
    let lasted = fenced(&all) == before;
    assert!(suback.is_ok() || !lasted, "{suback:?}");
    serving(&all).await;
    let loss = all[0].cluster.control().loss(&all[1].name).await.unwrap();
    assert!(!loss.nothing, "with two of three alive neither may stop: {loss:?}");
    lasted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_meta_leader_dies() {
    // A new leader that let the others wait until it is settled, 1.1 L, would end their leases whatever L is. What a busy machine needs for an
    // election has no such relation to L.
    for length in [1_000_000_000, 2_000_000_000, 4_000_000_000, 8_000_000_000] {
        if leader_dies(LeaseParams { length, close: 2 * length }).await {
            return;
        }
        println!("leases of {length} ns ended: trying longer ones");
    }
    panic!("a change of leader ends the leases of the others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_cut_off_is_fenced_and_heals() {
    let lab = Lab::new();
    let all = lab.form(&NAMES).await;
    // The leader of the meta group: what it believes must not matter.
    let leader = all[0].meta_leader().unwrap();
    let (cut, rest): (Vec<_>, Vec<_>) = all.iter().partition(|p| p.id() == leader);
    let cut = cut[0];
    cut.cluster.subscribe(3, &["lonely/+"]).await.unwrap();
    let filter = ["while/cut/off"];
    let begun = Instant::now();
    cut.cluster.isolate(true);
    subscribed(rest[0], 0, &filter).await;
    // The barrier was reached: whoever still serves has the route; the one cut off does not serve any more.
    assert!(!cut.is_serving() || cut.targets(filter[0]) == [rest[0].id()]);
    println!("barrier while one is cut off: {:?}", begun.elapsed());
    eventually("clients of the fenced node are closed", || *cut.cluster.phase().borrow() == Phase::Closed).await;
    assert!(begun.elapsed() >= Duration::from_nanos(LEASE.length / 2));
    assert_eq!(cut.cluster.subscribe(0, &["x"]).now_or_fail().await, Err(BarrierError::Timeout));
    eventually("its routes are removed", || rest[1].targets("lonely/x").is_empty()).await;
    cut.cluster.isolate(false);
    let healed = Instant::now();
    serving(&all).await;
    println!("serving again after {:?}", healed.elapsed());
    assert_eq!(cut.targets(filter[0]), [rest[0].id()], "who serves has caught up");
    eventually("its routes are back", || rest[1].targets("lonely/x") == [cut.id()]).await;
    subscribed(cut, 1, &["healed"]).await;
    assert_eq!(rest[1].targets("healed"), [cut.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dead_member_is_taken_out_and_its_directory_is_refused() {
    let lab = Lab::new();
    let mut all = lab.form(&["n1", "n2", "n3", "n4"]).await;
    eventually("three vote", || all[0].voters(0).len() == 3 && all[0].voters(1).len() == 3).await;
    let voter = *all[0].voters(0).iter().next_back().unwrap();
    let at = all.iter().position(|p| p.id() == voter).unwrap();
    let dead = all.remove(at);
    let name = dead.name.clone();
    dead.kill().await;
    all[0].cluster.control().leave(&name).await.unwrap();
    for p in &all {
        eventually("it is out, another votes", || {
            let replaced = |group| p.voters(group).len() == 3 && !p.voters(group).contains(&voter);
            members(p).len() == 3 && replaced(0) && replaced(1)
        })
        .await;
    }
    let again = lab.start(&name, &["n1", "n2", "n3", "n4"]).await;
    let fatal = tokio::time::timeout(Duration::from_secs(20), again.cluster.failed()).await.unwrap();
    assert_eq!(fatal, Fatal::Left { id: voter });
}

/// The one that leads may be unknown to it, and nobody but that one tells it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_returns_to_a_leader_that_joined_while_it_was_away() {
    for peers in [&["n1", "n2"][..], &["n1", "n2", "n4"]] {
        let lab = Lab::new();
        let mut all = lab.form(&NAMES).await;
        let away = all.remove(2);
        let name = away.name.clone();
        away.kill().await;
        all.push(lab.start("n4", &["n1", "n2"]).await);
        serving(&all).await;
        // It votes once the one that is away does not any more.
        eventually("it votes", || all[0].voters(0).contains(&all[2].id())).await;
        let new = all[2].id();
        let begun = Instant::now();
        while all[0].meta_leader() != Some(new) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not lead");
            let _ = all[0].cluster.control().transfer("meta", Some("n4")).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let back = lab.start(&name, peers).await;
        eventually("it serves", || back.is_serving()).await;
        assert_eq!(all[0].meta_leader(), Some(new), "it was told by the new one");
    }
}

/// The groups do not tell it: it is no member of them any more when it hears of the others again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_was_cut_off_while_it_was_asked_to_leave_leaves() {
    let lab = Lab::new();
    let all = lab.form(&["n1", "n2", "n3", "n4"]).await;
    let leader = all[0].meta_leader().unwrap();
    let cut = all.iter().position(|p| p.id() != leader).unwrap();
    all[cut].cluster.isolate(true);
    let stay: Vec<_> = all.iter().enumerate().filter(|(at, _)| *at != cut).map(|(_, p)| p).collect();
    stay[0].cluster.control().leave(&all[cut].name).await.unwrap();
    for p in stay {
        eventually("three members", || members(p).len() == 3).await;
    }
    assert_eq!(*all[cut].cluster.stage().borrow(), Stage::Member);
    all[cut].cluster.isolate(false);
    has_left(&all[cut]).await;
}

/// It takes part again and is cut off before that is recorded. When it hears of the others again, either they or the answer to its record tell it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_taken_out_before_its_start_is_recorded_leaves() {
    let names = ["n1", "n2", "n3", "n4"];
    let lab = Lab::new();
    let mut all = lab.form(&names).await;
    eventually("three vote", || all[0].voters(0).len() == 3).await;
    let voters = all[0].voters(0);
    let at = all.iter().position(|p| !voters.contains(&p.id())).unwrap();
    let mut cut = all.remove(at);
    let name = cut.name.clone();
    let waits = |p: &Process| p.cluster.status().detail.starts_with("waiting for the meta group");
    for attempt in 0.. {
        assert!(attempt < 20, "each start was recorded before the node was cut off");
        cut.kill().await;
        cut = lab.start(&name, &names).await;
        let mut stage = cut.cluster.stage();
        stage.wait_for(|stage| *stage == Stage::Member).await.unwrap();
        cut.cluster.isolate(true);
        let begun = Instant::now();
        while !waits(&cut) && begun.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if waits(&cut) {
            break;
        }
    }
    all[0].cluster.control().leave(&name).await.unwrap();
    for p in &all {
        eventually("three members", || members(p).len() == 3).await;
    }
    cut.cluster.isolate(false);
    has_left(&cut).await;
    eventually("it waits for nothing", || cut.cluster.status().detail.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(cut.cluster.status().detail, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_nodes_return_under_other_addresses() {
    let lab = Lab::new();
    let all = lab.form(&NAMES).await;
    let id = all[0].cluster.status().cluster_id;
    for p in all {
        p.kill().await;
    }
    lab.move_all();
    let all = lab.start_all(&NAMES).await;
    serving(&all).await;
    assert!(all.iter().all(|p| p.cluster.status().cluster_id == id));
    let address = lab.address("n2").to_string();
    eventually("the new addresses are recorded", || {
        all[0].cluster.control().members().iter().any(|m| m.name == "n2" && m.link_address == address)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leadership_is_handed_on() {
    let lab = Lab::new();
    let all = lab.form(&NAMES).await;
    for group in ["meta", "routes"] {
        for to in ["n1", "n3", "n2"] {
            all[0].cluster.control().transfer(group, Some(to)).await.unwrap();
            eventually("it leads", || {
                let groups = all[2].cluster.control().groups();
                groups.iter().any(|g| g.name == group && g.leader_name.as_deref() == Some(to))
            })
            .await;
        }
    }
    assert!(all.iter().all(Process::is_serving));
    assert!(all[0].cluster.control().transfer("meta", Some("nobody")).await.is_err());
    assert!(all[0].cluster.control().transfer("nothing", None).await.is_err());
    let leader = all[1].cluster.control().leader().unwrap();
    assert_eq!(leader.name, "n2");
    all[1].cluster.subscribe(0, &["after/transfer"]).await.unwrap();
}

/// Gives a barrier that cannot be reached a second.
trait NowOrFail: Future<Output = Result<(), BarrierError>> + Sized {
    async fn now_or_fail(self) -> Result<(), BarrierError> {
        tokio::time::timeout(Duration::from_secs(1), self).await.unwrap_or(Err(BarrierError::Timeout))
    }
}

impl<F: Future<Output = Result<(), BarrierError>>> NowOrFail for F {}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Messages of groups that a node was chosen for, and not those for its plain subscribers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_of_groups_come_back_from_a_node_that_dies() {
    let lab = Lab::new();
    let mut all = lab.form(&NAMES).await;
    let to = all[2].cluster.status().raft_id.unwrap();
    all[0].cluster.forward(&[to], &Bytes::from_static(b"first"));
    eventually("a connection for messages is there", || !all[2].received.lock().unwrap().is_empty()).await;
    all.remove(2).kill().await;
    eventually("it cannot be reached", || all[0].cluster.is_unreachable(to)).await;
    let message = message("t", b"x");
    let group = SharedForward { key: "$share/g/t".into(), tried: Tried::new() };
    let mut frame = Vec::new();
    ForwardFrame { message: message.clone(), plain: true, shared: vec![group.clone()] }.encode(&mut frame).unwrap();
    let mut plain = Vec::new();
    message.to_wire(&mut plain);
    for frame in [&frame, &plain] {
        assert_eq!(all[0].cluster.forward(&[to], &Bytes::from(frame.clone())), 1);
    }
    eventually("it came back", || !all[0].returned.lock().unwrap().is_empty()).await;
    assert_eq!(*all[0].returned.lock().unwrap(), [(Bytes::from(frame), false)]);
    // The plain subscribers of its next boot get theirs.
    let back = lab.start("n3", &NAMES).await;
    eventually("the rest arrives", || back.received.lock().unwrap().len() == 2).await;
    for (_, frame) in back.received.lock().unwrap().iter() {
        let frame = ForwardFrame::decode(frame).unwrap();
        assert!(frame.plain && frame.shared.is_empty());
    }
    all.push(back);
    for p in all {
        p.kill().await;
    }
}

/// Its connections stand, and its routes are there for a while yet: nobody of its groups is to be chosen by them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_held_to_be_down_is_one_that_cannot_be_reached() {
    let lab = Lab::new();
    let all = lab.form(&NAMES).await;
    let (cut, others) = (&all[2], &all[..2]);
    let to = cut.id();
    others[0].cluster.forward(&[to], &Bytes::from_static(b"first"));
    eventually("a connection for messages is there", || !cut.received.lock().unwrap().is_empty()).await;
    cut.cluster.isolate(true);
    let is_up = |of: &Process| of.cluster.control().members().iter().any(|member| member.id == to && member.up);
    eventually("it is declared down", || others.iter().all(|other| !is_up(other))).await;
    eventually("it is not chosen", || others.iter().all(|other| other.cluster.is_unreachable(to))).await;
    cut.cluster.isolate(false);
    eventually("it is back", || others.iter().all(|other| is_up(other) && !other.cluster.any_unreachable())).await;
    for p in all {
        p.kill().await;
    }
}

fn message(topic: &str, payload: &[u8]) -> Message {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic,
        packet_id: None,
        properties: Properties::default(),
        payload,
    };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, "c", 0, None).unwrap()
}
