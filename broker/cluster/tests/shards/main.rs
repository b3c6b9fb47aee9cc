//! Shards on real nodes: formed, led, written to through leaders that die, and the same on all replicas.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod elsewhere;
mod losses;
mod members;
mod worker;

use std::collections::{BTreeMap, BTreeSet};

use raftmq_cluster::ShardOptions;
use raftmq_raft::Role;

use common::{Lab, Process, eventually};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

const SHARDS: u16 = 4;

fn lab() -> Lab {
    Lab::with_shards(ShardOptions { count: SHARDS, replication: 3 })
}

/// All shards have their replicas, all caught up, and a leader.
async fn formed(all: &[Process]) {
    eventually("all shards run on all nodes and are led", || {
        all.iter().all(|process| {
            let replicas = process.cluster.shards().replicas();
            replicas.len() == usize::from(SHARDS)
                && replicas.iter().all(|r| r.group.leader.is_some() && r.group.voters.len() == all.len().min(3))
        })
    })
    .await;
}

async fn formed_of_three(all: &[Process]) {
    eventually("all shards have three replicas and are led", || {
        let replicas: Vec<_> = all.iter().flat_map(|process| process.cluster.shards().replicas()).collect();
        replicas.len() == usize::from(SHARDS) * 3
            && replicas.iter().all(|r| r.group.leader.is_some() && r.group.voters.len() == 3)
    })
    .await;
}

fn has_replica(process: &Process, shard: u16) -> bool {
    process.cluster.shards().replicas().iter().any(|replica| replica.shard == shard)
}

/// A name of that kind whose shard is this one.
fn name_in(process: &Process, shard: u16, kind: &str) -> String {
    (0..).map(|n| format!("{kind}-{n}")).find(|name| process.cluster.shards().shard_of(0, name) == Some(shard)).unwrap()
}

/// The node that leads a shard, as all agree.
async fn leader(all: &[Process], shard: u16) -> usize {
    let mut found = None;
    eventually("the shard is led", || {
        let leads = |process: &Process| {
            let replicas = process.cluster.shards().replicas();
            replicas.iter().any(|r| r.shard == shard && r.group.role == Role::Leader)
        };
        found = all.iter().position(leads);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// All replicas of each shard have applied the same and are the same.
async fn same_state(all: &[Process]) {
    eventually("the replicas are the same", || {
        let mut states: BTreeMap<u16, BTreeSet<Option<(u64, u64)>>> = BTreeMap::new();
        for replica in all.iter().flat_map(|process| process.cluster.shards().replicas()) {
            states.entry(replica.shard).or_default().insert(replica.state);
        }
        states.values().all(|found| found.len() == 1 && !found.contains(&None))
    })
    .await;
}
