//! Replicas that are removed, and nodes that come back to a group.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::toy::Toys;
use common::{GROUP, SOON, eventually, small};
use raftmq_raft::{Group, GroupId, Persistence, RaftOptions, RemoveError, Role, StateKeys};

fn set<const N: usize>(ids: [u64; N]) -> BTreeSet<u64> {
    ids.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_removed_and_the_node_comes_back() {
    let mut toys = Toys::of(4, small()).await;
    toys.write(1, 70, 20, 10).await;
    toys.same(70).await;
    let leader = toys.leader().await;
    let goes = (1..=4).find(|id| *id != leader).unwrap();
    assert_eq!(toys.nodes[&goes].groups.known().await.unwrap(), [GROUP]);
    toys.nodes[&leader].group.remove(goes).await.unwrap();

    let node = toys.nodes.get_mut(&goes).unwrap();
    node.groups.remove(GROUP).await.unwrap();
    assert_eq!(node.status().role, Role::Stopped);
    assert!(node.groups.group(GROUP.number).is_none());
    assert_eq!(node.groups.known().await.unwrap(), []);
    assert!(node.wal.groups().is_empty() && node.store.groups().unwrap().is_empty());
    node.groups.remove(GROUP).await.unwrap();
    // Nothing comes back with the next start of the node.
    toys.stop(goes).await;
    let (groups, wal, store) = common::open(&toys.net, &toys.path(goes), goes, small(), false).await;
    assert_eq!(groups.known().await.unwrap(), []);
    toys.net.leave(goes);
    wal.close().unwrap();
    drop((groups, wal, store));

    toys.write(leader, 30, 20, 10).await;
    toys.start(goes).await;
    assert_eq!(toys.nodes[&goes].watch.seen().sum.0, 0, "it begins empty");
    toys.nodes[&leader].group.add_learner(goes).await.unwrap();
    toys.nodes[&leader].group.change_voters(set([1, 2, 3, 4]), true).await.unwrap();
    toys.same(100).await;
    // It can vote, and lead.
    let leader = toys.leader().await;
    if leader != goes {
        toys.nodes[&leader].group.transfer_leader(goes).await.unwrap();
    }
    toys.write(goes, 10, 20, 10).await;
    toys.same(110).await;
}

/// A member that was away when the others changed the members takes itself and two others for the group. If one of those could forget what it
/// had acknowledged, the two would elect a leader beside the real one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_and_is_back_votes_for_nobody_who_has_less() {
    let mut toys = Toys::of(3, RaftOptions::default()).await;
    let leader = toys.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (back, behind) = (others[0], others[1]);
    toys.start(4).await;
    toys.nodes[&leader].group.add_learner(4).await.unwrap();
    toys.write(leader, 5, 5, 10).await;
    toys.same(5).await;
    toys.net.isolate(behind, 1..=4);
    toys.nodes[&leader].group.change_voters(set([leader, 4]), false).await.unwrap();
    toys.write(leader, 20, 5, 10).await;
    let term = toys.nodes[&leader].status().term;

    toys.nodes[&back].groups.remove(GROUP).await.unwrap();
    let node = toys.nodes.get_mut(&back).unwrap();
    let watch = node.watch.clone();
    node.group = node.groups.start_cached(GROUP, move |keys| watch.make(keys)).await.unwrap();
    // Its vote is kept, and nothing else.
    let status = node.group.wait(SOON, |status| status.term == term).await.unwrap();
    assert_eq!((status.last_log, status.voters), (None, set([])));
    // The one that is behind and the one that has nothing hear each other.
    toys.net.heal();
    for id in [leader, 4] {
        toys.net.isolate(id, [back, behind]);
    }
    let before = toys.net.asked(behind);
    eventually("it asks for votes", || toys.net.asked(behind) > before + 6).await;
    let status = toys.nodes[&behind].status();
    assert!(!status.is_leader() && status.voters == set([1, 2, 3]), "{status:?}");

    toys.stop(behind).await;
    toys.net.heal();
    toys.write(leader, 5, 5, 10).await;
    let leader = toys.leader().await;
    toys.nodes[&leader].group.add_learner(back).await.unwrap();
    toys.nodes[&leader]
        .group
        .change_voters(BTreeSet::from([1, 2, 3, 4].map(|id| if id == behind { 4 } else { id })), true)
        .await
        .unwrap();
    toys.same(30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_generation_and_other_groups_stay() {
    let toys = Toys::of(1, RaftOptions::default()).await;
    let node = &toys.nodes[&1];
    let (other, older) = (GroupId::new(10, 3), GroupId::new(1, 2));
    assert!(older.number == GROUP.number && older.generation < GROUP.generation);
    let journal = common::Journal::default();
    let second = node.groups.start(other, Persistence::Memory, journal.clone()).await.unwrap();
    second.initialize(set([1])).await.unwrap();
    second.propose_anywhere("x".into(), SOON).await.unwrap();
    second.snapshot_now(SOON).await.unwrap();
    // As an older generation would have left it.
    node.store.group(older).unwrap();
    assert_eq!(node.groups.known().await.unwrap(), [older, GROUP, other]);
    node.groups.remove(older).await.unwrap();
    assert_eq!(node.groups.known().await.unwrap(), [GROUP, other]);
    toys.write(1, 5, 5, 5).await;
    node.groups.remove(GROUP).await.unwrap();
    assert_eq!(node.groups.known().await.unwrap(), [other]);
    second.propose_anywhere("y".into(), SOON).await.unwrap();
    assert_eq!(journal.get().len(), 2);
    node.groups.remove(other).await.unwrap();
    assert_eq!(node.groups.known().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_under_a_reader() {
    let toys = Toys::of(1, RaftOptions::default()).await;
    let node = &toys.nodes[&1];
    node.groups.remove(GROUP).await.unwrap();
    let kept: Arc<Mutex<Option<StateKeys>>> = Arc::default();
    let (keeping, watch) = (kept.clone(), node.watch.clone());
    let make = move |keys: StateKeys| {
        *keeping.lock().unwrap() = Some(keys.clone());
        watch.make(keys)
    };
    let group: Group = node.groups.start_cached(GroupId::new(5, 0), make).await.unwrap();
    group.initialize(set([1])).await.unwrap();
    group.propose_anywhere("a=b".into(), SOON).await.unwrap();
    let refused = node.groups.remove(group.id()).await;
    assert!(matches!(refused, Err(RemoveError::InUse(id)) if id == group.id()), "{refused:?}");
    assert_eq!(node.groups.known().await.unwrap(), [group.id()]);
    assert_eq!(group.status().borrow().role, Role::Stopped);
    kept.lock().unwrap().take();
    // A caller who gives up does not stop it.
    let removal = tokio::time::timeout(Duration::from_micros(1), node.groups.remove(group.id()));
    drop(removal.await);
    eventually("it can be started anew", || node.groups.group(5).is_none()).await;
    let mut known = vec![group.id()];
    while !known.is_empty() {
        known = node.groups.known().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
