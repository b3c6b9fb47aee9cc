//! Members that come, go and are replaced; snapshots for those who lag.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{Cluster, SOON, eventually, small};
use raftmq_raft::{MembershipError, Persistence, RaftOptions};

fn set<const N: usize>(ids: [u64; N]) -> BTreeSet<u64> {
    ids.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_become_five_become_three() {
    let mut cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    cluster.write(1, "three", 5).await;
    let leader = cluster.leader().await;
    let refused = cluster.group(leader).change_voters(set([1, 2, 3, 4]), true).await;
    assert!(matches!(refused, Err(MembershipError::Impossible(_))), "learners first: {refused:?}");
    for id in [4, 5] {
        cluster.start(id).await;
        cluster.group(leader).add_learner(id).await.unwrap();
        cluster.group(leader).add_learner(id).await.unwrap();
    }
    cluster.group(leader).change_voters(set([1, 2, 3, 4, 5]), true).await.unwrap();
    cluster.write(4, "five", 5).await;
    cluster.same(1..=5, 10).await;

    let leader = cluster.leader().await;
    cluster.group(leader).change_voters(set([3, 4, 5]), true).await.unwrap();
    let leader = cluster.leader_of([3, 4, 5]).await;
    eventually("the others are learners", || {
        let status = cluster.status(leader);
        status.voters == set([3, 4, 5]) && status.learners == set([1, 2]) && status.membership_settled
    })
    .await;
    cluster.write(1, "learners", 5).await;
    cluster.same(1..=5, 15).await;
    for id in [1, 2] {
        cluster.group(leader).remove(id).await.unwrap();
        cluster.group(leader).remove(id).await.unwrap();
    }
    assert_eq!(cluster.status(leader).learners, set([]));
    for id in [1, 2] {
        cluster.stop(id).await;
    }
    cluster.write(3, "three", 5).await;
    cluster.same(3..=5, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_its_leader_left_in_the_middle_is_completed_by_the_next() {
    let mut cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    cluster.start(4).await;
    cluster.group(leader).add_learner(4).await.unwrap();
    let stays = (1..=3).find(|id| *id != leader).unwrap();
    let target: BTreeSet<u64> = (1..=4).filter(|id| *id != stays).collect();
    {
        // Dropped after its first entry was proposed, as if the leader had died then.
        let group = cluster.group(leader);
        let mut change = Box::pin(group.change_voters(target.clone(), true));
        assert!(futures::poll!(&mut change).is_pending());
    }
    eventually("half of the change is made", || cluster.status(leader).change_unfinished).await;
    assert!(!cluster.status(leader).membership_settled);
    cluster.stop(leader).await;
    let mut next = 0;
    eventually("the next leader sees it", || {
        let seen = (1..=4).find(|id| *id != leader && cluster.status(*id).change_unfinished);
        next = seen.unwrap_or_default();
        seen.is_some()
    })
    .await;
    cluster.group(next).finish_change().await.unwrap();
    let next = cluster.leader_of((1..=4).filter(|id| *id != leader && *id != stays)).await;
    eventually("it is completed", || {
        let status = cluster.status(next);
        status.membership_settled && status.voters == target && !status.change_unfinished
    })
    .await;
    cluster.write(next, "after", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_removes_itself_hands_the_leadership_on() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    cluster.group(leader).remove(leader).await.unwrap();
    let rest: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let next = cluster.leader_of(rest.clone()).await;
    assert_eq!(cluster.status(next).voters, rest.iter().copied().collect());
    cluster.write(rest[0], "x", 3).await;
    cluster.same(rest, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_an_empty_disk_comes_back_under_a_new_id() {
    for persistence in [Persistence::Memory, Persistence::Stored] {
        let mut cluster = Cluster::of(3, persistence, small()).await;
        cluster.write(1, "before", 70).await;
        let leader = cluster.leader().await;
        let lost = (1..=3).find(|id| *id != leader).unwrap();
        cluster.stop(lost).await;
        cluster.start(9).await;
        cluster.group(leader).add_learner(9).await.unwrap();
        cluster.same([leader, 9], 70).await;
        let voters: BTreeSet<u64> = (1..=3).filter(|id| *id != lost).chain([9]).collect();
        cluster.group(leader).change_voters(voters.clone(), false).await.unwrap();
        assert_eq!(cluster.status(leader).voters, voters);
        assert!(!cluster.status(leader).is_member(lost));
        // The old id is not needed any more: one of the others may go.
        let other = (1..=3).find(|id| *id != lost && *id != leader).unwrap();
        cluster.stop(other).await;
        cluster.write(9, "after", 10).await;
        cluster.same([leader, 9], 80).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_reach_members_that_lag_and_new_ones() {
    for persistence in [Persistence::Memory, Persistence::Stored] {
        let mut cluster = Cluster::of(3, persistence, small()).await;
        let leader = cluster.leader().await;
        cluster.start(4).await;
        cluster.group(leader).add_learner(4).await.unwrap();
        cluster.write(1, "all", 10).await;
        cluster.same(1..=4, 10).await;
        cluster.net.isolate(4, 1..=4);
        cluster.write(1, "more", 150).await;
        cluster.group(leader).snapshot_now(SOON).await.unwrap();
        eventually("the log is purged", || {
            let status = cluster.status(leader);
            status.purged >= Some(100) && status.purged < status.snapshot
        })
        .await;
        assert_eq!(cluster.net.chunks(), 0);
        cluster.net.heal();
        cluster.same(1..=4, 160).await;
        let chunks = cluster.net.chunks();
        assert!(chunks > 5, "the snapshot went in chunks");
        eventually("it came as a snapshot", || cluster.status(4).snapshot >= Some(100)).await;

        cluster.start(5).await;
        cluster.group(leader).add_learner(5).await.unwrap();
        cluster.same(1..=5, 160).await;
        assert!(cluster.net.chunks() > chunks);
        // What was installed survives a restart.
        for id in [4, 5] {
            cluster.stop(id).await;
            cluster.start(id).await;
        }
        cluster.same(1..=5, 160).await;
        cluster.write(5, "end", 5).await;
        cluster.same(1..=5, 165).await;
        for id in 1..=5 {
            let dir = std::fs::read_dir(cluster.snapshots(id)).unwrap();
            let parts = dir.filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().contains("part"));
            assert_eq!(parts.count(), 0, "nothing half is left");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_initialised_once() {
    let cluster = Cluster::empty(1..=3, Persistence::Memory, RaftOptions::default()).await;
    assert!(!cluster.group(1).is_initialized().await);
    let refused = cluster.group(1).initialize(set([2, 3])).await;
    assert!(matches!(refused, Err(MembershipError::Impossible(_))), "{refused:?}");
    cluster.group(1).initialize(set([1, 2, 3])).await.unwrap();
    cluster.leader().await;
    for id in 1..=3 {
        let refused = cluster.group(id).initialize(set([1, 2, 3])).await;
        assert!(matches!(refused, Err(MembershipError::Initialized)), "{refused:?}");
        assert!(cluster.group(id).is_initialized().await);
    }
}
