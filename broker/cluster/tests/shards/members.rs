//! Replicas follow the members, and the zones in which these are.

use std::collections::BTreeSet;

use raftmq_cluster::PushError;
use raftmq_shard::{Op, OpAnswer};

use crate::common::{Process, eventually, serving};
use crate::worker::{Worker, name, publish, subscribe};
use crate::{NAMES, SHARDS, formed, lab, name_in};

/// A node that has no replica proposes to those that have one, and replicas follow the members.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_joins_and_one_leaves() {
    let lab = lab();
    let mut all = lab.form(&NAMES).await;
    formed(&all).await;
    let mut names: Vec<&str> = NAMES.to_vec();
    names.push("n4");
    all.push(lab.start("n4", &names).await);
    serving(&all).await;
    // Some of the replicas move to it, three of each stay.
    eventually("the new node has its share", || {
        let count = |process: &Process| {
            let replicas = process.cluster.shards().replicas();
            replicas.iter().filter(|r| r.group.voters.contains(&process.id())).count()
        };
        let counts: Vec<usize> = all.iter().map(count).collect();
        counts.iter().sum::<usize>() == 3 * usize::from(SHARDS) && counts.iter().all(|count| *count == 3)
    })
    .await;
    eventually("replicas that are not needed any more are removed", || {
        let here = |process: &Process| process.cluster.shards().replicas().len();
        all.iter().map(here).sum::<usize>() == 3 * usize::from(SHARDS)
    })
    .await;
    let mut worker = Worker::new(&all[3], 0);
    let mut epochs = Vec::new();
    for shard in 0..SHARDS {
        let id = name_in(&all[3], shard, "client");
        let (epoch, ..) = worker.claim(shard, &id).await;
        worker.op(shard, subscribe(&id, epoch, "#")).await;
        assert!(matches!(worker.op(shard, publish("x", "one")).await, OpAnswer::Published { matched: 1, .. }));
        epochs.push(epoch);
    }
    all[3].cluster.control().leave("n2").await.unwrap();
    eventually("the node is out of all shards", || {
        let others = all.iter().filter(|process| process.name != "n2");
        others.flat_map(|process| process.cluster.shards().replicas()).all(|r| !r.group.is_member(2))
            && all[0].cluster.control().members().len() == 3
    })
    .await;
    for shard in 0..SHARDS {
        let id = name_in(&all[3], shard, "client");
        assert!(matches!(worker.op(shard, publish("x", "two")).await, OpAnswer::Published { matched: 1, .. }));
        let info = worker.op(shard, Op::Grant { client: name(&id), epoch: epochs[usize::from(shard)], up_to: 9 }).await;
        assert_eq!(info, OpAnswer::Granted { up_to: 9 });
    }
    assert_eq!(worker.port.push(99, Op::Skip, 1_000_000), Err((Op::Skip, PushError::NotServing)));
}

/// The replicas of a shard are in as many zones as there are, from its birth on; a node that starts again elsewhere has it counted there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_are_spread_over_zones() {
    let lab = lab();
    let names = ["n1", "n2", "n3", "n4"];
    ["a", "a", "b", "c"].iter().zip(names).for_each(|(zone, name)| lab.set_zone(name, zone));
    let mut all = lab.form(&names).await;
    let zones = |process: &Process| process.cluster.control().members().into_iter().map(|m| m.zone).collect::<Vec<_>>();
    let apart = |process: &Process, which: &[u64]| {
        let state = process.cluster.status().meta;
        let both = |set: &BTreeSet<u64>| which.iter().all(|id| set.contains(id));
        state.shards.count() == SHARDS
            && state.shards.iter().all(|(_, shard)| shard.wanted().len() == 3 && !both(shard.wanted()))
    };
    eventually("all are placed", || {
        let state = all[0].cluster.status().meta;
        state.shards.count() == SHARDS && state.shards.iter().all(|(_, shard)| shard.is_formed())
    })
    .await;
    assert_eq!(zones(&all[0]), ["a", "a", "b", "c"]);
    assert!(apart(&all[0], &[1, 2]), "{:?}", all[0].cluster.status().meta.shards);
    // Known before the shards were made: nothing has moved since.
    assert_eq!(all[0].cluster.status().meta.shards.placed(), 1);
    // The second one is moved to the third one's zone.
    serving(&all).await;
    lab.set_zone("n2", "b");
    all.remove(1).kill().await;
    all.insert(1, lab.start("n2", &names).await);
    eventually("it is counted where it is now", || zones(&all[0]) == ["a", "b", "b", "c"] && apart(&all[0], &[2, 3]))
        .await;
    eventually("the replicas are there", || {
        let held = |process: &Process| process.cluster.shards().replicas().len();
        let both = |r: &raftmq_cluster::ShardStatus| r.group.voters.contains(&2) && r.group.voters.contains(&3);
        all.iter().map(held).sum::<usize>() == 3 * usize::from(SHARDS)
            && all.iter().flat_map(|process| process.cluster.shards().replicas()).all(|r| !both(&r))
    })
    .await;
    // And one that does not know its zone any more works as before.
    lab.set_zone("n2", "");
    all.remove(1).kill().await;
    all.insert(1, lab.start("n2", &names).await);
    serving(&all).await;
    eventually("its zone is not known", || zones(&all[0]) == ["a", "", "b", "c"]).await;
}
