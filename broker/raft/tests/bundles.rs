//! Many groups that do nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, Journal, SOON, eventually};
use raftmq_raft::{Group, GroupId, Persistence, RaftOptions};

const GROUPS: u32 = 12;

/// Groups on all nodes of the cluster, each with a leader.
async fn more_groups(cluster: &Cluster) -> Vec<Vec<Group>> {
    let mut groups = Vec::new();
    for number in 10..10 + GROUPS {
        let mut replicas = Vec::new();
        for node in cluster.nodes.values() {
            let id = GroupId::new(number, 0);
            replicas.push(node.groups.start(id, Persistence::Memory, Journal::default()).await.unwrap());
        }
        replicas[number as usize % 3].initialize((1..=3).collect()).await.unwrap();
        groups.push(replicas);
    }
    let leads = |group: &Group| group.status().borrow().is_leader() && group.status().borrow().membership_settled;
    eventually("all have leaders", || groups.iter().all(|replicas| replicas.iter().any(leads))).await;
    groups
}

fn terms(groups: &[Vec<Group>]) -> Vec<u64> {
    groups.iter().flatten().map(|group| group.status().borrow().term).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_send_few_frames_and_keep_their_leaders() {
    let options = RaftOptions { bundle_window: Duration::from_millis(25), ..RaftOptions::default() };
    let cluster = Cluster::of(3, Persistence::Memory, options).await;
    // Node 3 is an older one.
    cluster.net.take_bundles([1, 2]);
    let groups = more_groups(&cluster).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let counts = || {
        let bundles: u64 = [1, 2].iter().map(|id| cluster.net.bundles(*id)).sum();
        (cluster.net.heartbeats(), bundles)
    };
    let (before, start, terms_before) = (counts(), Instant::now(), terms(&groups));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (after, took) = (counts(), start.elapsed());
    assert_eq!(cluster.net.bundles(3), 0);
    let (frames, bundles) = (after.0 - before.0, after.1 - before.1);
    assert!(bundles > 10, "{bundles}");
    let alone = u64::from(GROUPS + 1) * 2 * (took.as_millis() as u64 / 100 + 1);
    // Of three nodes' heartbeats those of a third go alone: with 12 groups this is three of ten.
    assert!(frames < alone * 8 / 10, "{frames} of {alone}");
    assert_eq!(terms(&groups), terms_before, "nobody missed a leader");
    let acked = |replicas: &Vec<Group>| {
        let status = replicas.iter().map(|group| group.status().borrow().clone()).find(|s| s.is_leader()).unwrap();
        status.quorum_acked.unwrap().elapsed()
    };
    eventually("all leaders hear of a quorum", || {
        groups.iter().all(|replicas| acked(replicas) < Duration::from_millis(400))
    })
    .await;

    // Reads and writes do not wait for the window, and those who lose their leader elect another one.
    for replicas in &groups {
        let leader = replicas.iter().find(|group| group.status().borrow().is_leader()).unwrap();
        leader.propose_anywhere("x".into(), SOON).await.unwrap();
        leader.read_index().await.unwrap();
    }
    cluster.net.isolate(1, 1..=3);
    eventually("each has a leader without the first node", || {
        groups.iter().all(|replicas| replicas[1..].iter().any(|group| group.status().borrow().is_leader()))
    })
    .await;
    cluster.net.heal();
}
