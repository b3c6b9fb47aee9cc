//! Machines that keep changes in memory: what a crash at any moment leaves, snapshots, errors.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::toy::{ToyNode, Toys, Watch, image};
use common::{Net, SOON, eventually, small};
use raftmq_raft::{GroupStatus, ProposeError, RaftOptions, Role, StartError};

/// Nothing is flushed or snapshot but when it is asked for.
fn lazy() -> RaftOptions {
    RaftOptions { keep_entries: 0, ..RaftOptions::default() }
}

/// Starts what a crash left of a node that was the only member, and waits until it has its whole log.
async fn survivor(path: PathBuf, least: u64) -> ToyNode {
    let node = ToyNode::try_start(&Net::default(), &path, 1, lazy(), Watch::default()).await.unwrap();
    leads(&node).await;
    assert!(node.watch.seen().sum.0 >= least, "{} of {least} commands", node.watch.seen().sum.0);
    node
}

async fn leads(node: &ToyNode) -> GroupStatus {
    let leads = |s: &GroupStatus| s.is_leader() && s.membership_settled && s.applied == s.last_log;
    node.group.wait(SOON, leads).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_flushed_is_applied_again() {
    let mut toys = Toys::of(3, lazy()).await;
    toys.write(1, 60, 7, 10).await;
    let sum = toys.same(60).await;
    for id in 1..=3 {
        assert_eq!(toys.nodes[&id].watch.seen().flushes, 0);
        image(&toys.path(id), &toys.path(10 + id));
    }
    for id in 1..=3 {
        toys.stop(id).await;
    }
    // All are killed, and come back.
    for id in 1..=3 {
        std::fs::rename(toys.path(id), toys.path(20 + id)).unwrap();
        std::fs::rename(toys.path(10 + id), toys.path(id)).unwrap();
        toys.start(id).await;
    }
    toys.leader().await;
    assert_eq!(toys.same(60).await, sum);
    assert!(toys.nodes.values().all(|node| node.watch.seen().applied == 60));
    toys.write(2, 10, 7, 10).await;
    let sum = toys.same(70).await;
    // A stop in order leaves nothing to apply again.
    for id in 1..=3 {
        toys.stop(id).await;
        toys.start(id).await;
    }
    assert_eq!(toys.same(70).await, sum);
    assert!(toys.nodes.values().all(|node| node.watch.seen().applied == 0));
}

/// What is there after a crash while `write` writes, at each moment that the hooks of the machine see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_of_a_flush_it_comes_back_whole() {
    let toys = Toys::of(1, lazy()).await;
    let node = &toys.nodes[&1];
    let images: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
    let take = |name: &'static str| {
        let (images, from, to, watch) = (images.clone(), toys.path(1), toys.dir.path().to_owned(), node.watch.clone());
        move || {
            let mut images = images.lock().unwrap();
            let count = watch.seen().sum.0;
            let name = format!("{name}-{}", images.len());
            image(&from, &to.join(&name));
            images.push((name, count));
        }
    };
    node.watch.on_flush(take("handed out"));
    node.watch.on_flushed(take("written"));
    let synced = take("synced and purged");
    synced();
    for _ in 0..4 {
        toys.write(1, 25, 9, 20).await;
        node.group.snapshot_now(SOON).await.unwrap();
        eventually("the log is purged", || node.status().purged == node.status().snapshot).await;
        synced();
        toys.write(1, 5, 9, 20).await;
        take("before the next")();
    }
    let sum = toys.same(120).await;
    let images = images.lock().unwrap().clone();
    assert_eq!(images.len(), 1 + 4 * 4);
    for (name, count) in &images {
        let node = survivor(toys.dir.path().join(name), *count).await;
        let seen = node.watch.seen();
        let flushed = count - count % 30;
        let again = if name.starts_with("synced") || name.starts_with("written") { 0 } else { count - flushed };
        assert!(seen.applied as u64 >= again.saturating_sub(25), "{name}: {count}");
        assert!(node.status().purged <= node.status().snapshot, "{name}");
        // What comes after it is answered as it would have been.
        for number in *count..120 {
            let number = if number % 30 < 25 { number % 30 } else { number % 30 - 25 };
            let command = format!("k{}={number}{}", number % 9, "v".repeat(20));
            node.group.propose(command.into()).await.unwrap();
        }
        assert_eq!(node.watch.seen().sum, (120, sum), "{name}");
        node.stop().await;
    }
    // The machine loses power: of the store only what was synced is left, of the log what was acknowledged.
    for pair in images.windows(2).filter(|pair| !pair[1].0.starts_with("synced")) {
        let last_synced = images.iter().take_while(|i| *i != &pair[1]).filter(|i| i.0.starts_with("synced")).last();
        let ((old, _), (new, count)) = (last_synced.unwrap(), &pair[1]);
        let to = toys.dir.path().join(format!("power {new}"));
        image(&toys.dir.path().join(new), &to);
        std::fs::remove_dir_all(to.join("state")).unwrap();
        image(&toys.dir.path().join(old).join("state"), &to.join("state"));
        survivor(to, *count).await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_ends_before_the_log_begins_is_no_replica() {
    let toys = Toys::of(1, lazy()).await;
    let node = &toys.nodes[&1];
    toys.write(1, 20, 5, 10).await;
    node.group.snapshot_now(SOON).await.unwrap();
    image(&toys.path(1).join("state"), &toys.path(2).join("state"));
    for _ in 0..2 {
        toys.write(1, 20, 5, 10).await;
        node.group.snapshot_now(SOON).await.unwrap();
        eventually("the log is purged", || node.status().purged == node.status().snapshot).await;
    }
    // The log has what comes behind the purge, and so that, too.
    toys.write(1, 1, 5, 10).await;
    let purged = node.status().purged.unwrap();
    image(&toys.path(1).join("wal"), &toys.path(2).join("wal"));
    // An empty store is no better.
    image(&toys.path(1).join("wal"), &toys.path(3).join("wal"));
    let started = ToyNode::try_start(&Net::default(), &toys.path(2), 1, lazy(), Watch::default()).await;
    match started.err() {
        Some(StartError::Gap { applied: Some(applied), purged: found, .. }) => {
            assert!(applied < purged && found == purged, "{applied} {found} {purged}");
        }
        other => panic!("{other:?}"),
    }
    let started = ToyNode::try_start(&Net::default(), &toys.path(3), 1, lazy(), Watch::default()).await;
    assert!(matches!(started.err(), Some(StartError::Gap { applied: None, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_memory_is_bounded_and_little_is_applied_again() {
    const LIMIT: usize = 4096;
    for options in [
        RaftOptions { dirty_bytes: LIMIT, ..lazy() },
        // The part of the only group.
        RaftOptions { dirty_bytes_node: LIMIT, ..lazy() },
    ] {
        let toys = Toys::of(1, options).await;
        let node = &toys.nodes[&1];
        let writes = (0..4).map(|_| toys.write(1, 200, 1000, 100));
        futures::future::join_all(writes).await;
        let seen = node.watch.seen();
        assert!(seen.flushes > 3, "{} flushes", seen.flushes);
        assert!((LIMIT..LIMIT + 200).contains(&seen.max_dirty), "{}", seen.max_dirty);
        assert_eq!(node.status().snapshot, None, "no sync for it");
        image(&toys.path(1), &toys.path(2));
        let survivor = survivor(toys.path(2), 800).await;
        let again = survivor.watch.seen();
        assert_eq!(again.sum, seen.sum);
        assert!(again.applied < 200, "{} commands again", again.applied);
        // Nothing of the log is gone: no snapshot was asked for.
        assert_eq!(survivor.status().purged, None);
        survivor.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_by_snapshots_that_come_by_themselves() {
    let mut toys = Toys::of(3, RaftOptions { dirty_bytes: 2000, ..small() }).await;
    for round in 1..=4 {
        toys.write(1, 100, 50, 20).await;
        toys.same(100 * round).await;
        for node in toys.nodes.values() {
            eventually("it is purged", || node.status().purged >= Some(100 * round - 60)).await;
            let status = node.status();
            assert!(status.purged <= status.snapshot && status.snapshot <= status.applied, "{status:?}");
            assert!(node.watch.seen().flushes > 0);
        }
        for id in 1..=3 {
            image(&toys.path(id), &toys.path(id + 10 * round));
        }
    }
    let ids: Vec<_> = toys.nodes.keys().copied().collect();
    for id in ids {
        toys.stop(id).await;
    }
    // All are killed at once after the second round, and go on from there.
    for id in 1..=3 {
        std::fs::remove_dir_all(toys.path(id)).unwrap();
        std::fs::rename(toys.path(id + 20), toys.path(id)).unwrap();
        toys.start(id).await;
    }
    toys.leader().await;
    toys.same(200).await;
    toys.write(3, 20, 50, 20).await;
    toys.same(220).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_reaches_a_member_that_lags_and_it_goes_on() {
    let mut toys = Toys::of(3, small()).await;
    let leader = toys.leader().await;
    toys.write(1, 20, 30, 10).await;
    toys.same(20).await;
    let lags = (1..=3).find(|id| *id != leader).unwrap();
    toys.net.isolate(lags, 1..=3);
    toys.write(leader, 150, 30, 10).await;
    toys.nodes[&leader].group.snapshot_now(SOON).await.unwrap();
    eventually("the log is purged", || toys.nodes[&leader].status().purged >= Some(100)).await;
    // These are not in the snapshot.
    toys.write(leader, 5, 9, 10).await;
    assert_eq!(toys.net.chunks(), 0);
    toys.net.heal();
    toys.same(175).await;
    assert!(toys.net.chunks() > 5, "the snapshot went in chunks");
    let seen = toys.nodes[&lags].watch.seen();
    assert_eq!((seen.made, seen.max_alive), (2, 1), "the old machine is dropped before there is a new one");
    assert!(seen.applied < 100);
    assert_eq!(seen.index, toys.nodes[&lags].status().applied);
    toys.write(lags, 20, 9, 10).await;
    let sum = toys.same(195).await;

    // Killed after that, it has what was installed and what came after it.
    image(&toys.path(lags), &toys.path(9));
    toys.stop(lags).await;
    std::fs::remove_dir_all(toys.path(lags)).unwrap();
    std::fs::rename(toys.path(9), toys.path(lags)).unwrap();
    toys.start(lags).await;
    assert_eq!(toys.same(195).await, sum);
    // A new member has nothing but snapshots.
    toys.start(4).await;
    let leader = toys.leader().await;
    toys.nodes[&leader].group.add_learner(4).await.unwrap();
    assert_eq!(toys.same(195).await, sum);
    toys.write(4, 10, 9, 10).await;
    toys.same(205).await;
    for id in 1..=4 {
        let dir = std::fs::read_dir(toys.path(id).join("snapshots")).unwrap();
        assert_eq!(dir.count(), 0, "nothing half is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_are_those_of_the_log_after_a_crash_too() {
    let mut toys = Toys::of(1, lazy()).await;
    toys.write(1, 5, 9, 10).await;
    toys.start(2).await;
    toys.nodes[&1].group.add_learner(2).await.unwrap();
    // The flush knows one voter and a learner, the log two voters.
    toys.nodes[&1].group.snapshot_now(SOON).await.unwrap();
    toys.nodes[&1].group.change_voters(BTreeSet::from([1, 2]), true).await.unwrap();
    toys.write(1, 5, 9, 10).await;
    toys.same(10).await;
    let before = toys.nodes[&1].status();
    assert!(before.membership_index > before.snapshot && before.membership_index <= before.applied, "{before:?}");
    image(&toys.path(1), &toys.path(8));
    for id in 1..=2 {
        toys.stop(id).await;
    }
    std::fs::rename(toys.path(1), toys.path(9)).unwrap();
    std::fs::rename(toys.path(8), toys.path(1)).unwrap();
    toys.start(1).await;
    let members = |s: &GroupStatus| s.membership_index == before.membership_index && s.voters == before.voters;
    toys.nodes[&1].group.wait(SOON, members).await.unwrap();
    assert_eq!(before.voters, BTreeSet::from([1, 2]));
    toys.start(2).await;
    toys.leader().await;
    assert!(toys.nodes.values().all(|node| members(&node.status())));
    toys.write(2, 5, 9, 10).await;
    toys.same(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_fails_stops_its_replica_and_is_not_asked_again() {
    let mut toys = Toys::of(3, lazy()).await;
    toys.write(1, 10, 5, 10).await;
    toys.same(10).await;
    let leader = toys.leader().await;
    let fails = (1..=3).find(|id| *id != leader).unwrap();
    toys.nodes[&fails].watch.fail_apply(true);
    toys.write(leader, 10, 5, 10).await;
    let node = &toys.nodes[&fails];
    eventually("it stops", || node.status().role == Role::Stopped).await;
    let failure = node.status().failure.unwrap();
    assert!(failure.contains("the state machine failed: told to fail"), "{failure}");
    let refused = node.group.propose(Bytes::from_static(b"a=b")).await;
    assert!(matches!(&refused, Err(ProposeError::Failed(reason)) if reason.contains("told to fail")), "{refused:?}");
    node.watch.fail_apply(false);
    toys.write(leader, 10, 5, 10).await;
    let seen = node.watch.seen();
    assert_eq!((seen.sum.0, seen.after_error, seen.flushes), (10, 0, 0));
    // After a start it has everything.
    toys.stop(fails).await;
    toys.start(fails).await;
    toys.same(30).await;

    // The same on the leader: another one leads.
    let leader = toys.leader().await;
    toys.nodes[&leader].watch.fail_apply(true);
    let other = (1..=3).find(|id| *id != leader).unwrap();
    toys.write(other, 5, 5, 10).await;
    eventually("it stops", || toys.nodes[&leader].status().role == Role::Stopped).await;
    assert_eq!(toys.nodes[&leader].watch.seen().after_error, 0);
    toys.stop(leader).await;
    toys.start(leader).await;
    let count = toys.nodes[&other].watch.seen().sum.0;
    assert!(count >= 35, "{count}");
    toys.same(count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_fails_stops_the_replica() {
    for (options, by_snapshot) in [(lazy(), true), (RaftOptions { dirty_bytes: 2000, ..lazy() }, false)] {
        let toys = Toys::of(1, options).await;
        let node = &toys.nodes[&1];
        toys.write(1, 5, 5, 10).await;
        node.watch.fail_flush(true);
        if by_snapshot {
            assert!(node.group.snapshot_now(SOON).await.is_err());
        } else {
            for number in 0.. {
                let command = format!("k{number}={}", "v".repeat(100));
                if node.group.propose(command.into()).await.is_err() {
                    break;
                }
                assert!(number < 100);
            }
        }
        eventually("it stops", || node.status().role == Role::Stopped).await;
        let failure = node.status().failure.unwrap();
        assert!(failure.contains("told not to flush"), "{failure}");
        assert_eq!(node.watch.seen().after_error, 0);
        let count = node.watch.seen().sum.0;
        image(&toys.path(1), &toys.path(2));
        survivor(toys.path(2), count).await.stop().await;
    }
}
