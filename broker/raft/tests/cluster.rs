//! Elections, replication, restarts, partitions.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Cluster, Journal, SOON, eventually, small};
use raftmq_raft::{
    Class, GroupId, MembershipError, Persistence, ProposeError, RaftOptions, ReadError, Role, StartError,
};

/// The second byte of a call that asks whether a node would get a vote.
const PRE_VOTE: u8 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_and_five_nodes_elect_and_replicate() {
    for count in [3, 5] {
        let cluster = Cluster::of(count, Persistence::Memory, RaftOptions::default()).await;
        let leader = cluster.leader().await;
        let done = cluster.group(leader).propose(Bytes::from_static(b"first")).await.unwrap();
        assert_eq!(done.response, Bytes::copy_from_slice(&1u64.to_be_bytes()));
        for id in 1..=count {
            cluster.write(id, &format!("from-{id}"), 5).await;
        }
        let commands = cluster.same(1..=count, 1 + 5 * count as usize).await;
        assert_eq!(commands[0], b"first");

        let follower = (1..=count).find(|id| *id != leader).unwrap();
        let refused = cluster.group(follower).propose(Bytes::from_static(b"no")).await;
        assert!(matches!(refused, Err(ProposeError::NotLeader { leader: Some(l) }) if l == leader), "{refused:?}");
        let refused = cluster.group(follower).read_index().await;
        assert!(matches!(refused, Err(ReadError::NotLeader { .. })), "{refused:?}");

        let index = cluster.group(leader).read_index().await.unwrap();
        assert!(index > done.index);
        cluster.group(follower).wait_applied(index, SOON).await.unwrap();
        assert_eq!(cluster.nodes[&follower].journal.get().len(), commands.len());

        let status = cluster.status(leader);
        assert_eq!(status.voters, (1..=count).collect::<BTreeSet<_>>());
        assert!(status.membership_settled && status.learners.is_empty());
        assert_eq!(status.followers.len() as u64, count - 1);
        eventually("the leader knows what the followers have", || {
            let status = cluster.status(leader);
            status.followers.values().all(|f| f.matched == status.last_log && f.acked.is_some())
        })
        .await;
    }
}

/// Who asks for something that can be done once only must know that a refusal may be the second answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_answer_was_lost_is_applied_again_and_says_so() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    let (from, other) = ((leader % 3) + 1, ((leader + 1) % 3) + 1);
    for id in [leader, from] {
        let once = cluster.group(id).propose_anywhere(Bytes::from_static(b"once"), SOON).await.unwrap();
        assert!(!once.repeated, "{id} of leader {leader}");
    }
    cluster.same(1..=3, 2).await;
    // It is said to the leader, which commits it with the third node, and the answer does not come.
    cluster.net.cut_way(leader, from);
    let group = cluster.group(from).clone();
    let asked = tokio::spawn(async move { group.propose_anywhere(Bytes::from_static(b"twice"), SOON).await });
    eventually("it is applied", || cluster.nodes[&other].journal.get().len() >= 3).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.net.heal();
    let done = asked.await.unwrap().unwrap();
    assert!(done.repeated);
    let commands = cluster.nodes[&leader].journal.get();
    assert!(commands.iter().filter(|command| *command == b"twice").count() >= 2, "{commands:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_too_large_is_refused() {
    let options = RaftOptions { max_command: 100, ..RaftOptions::default() };
    let cluster = Cluster::of(3, Persistence::Memory, options).await;
    for id in 1..=3 {
        let refused = cluster.group(id).propose_anywhere(vec![0; 101].into(), SOON).await;
        assert!(matches!(refused, Err(ProposeError::TooLarge { len: 101, limit: 100 })), "{refused:?}");
    }
    cluster.write(1, "small", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_one_and_of_all_keep_the_data() {
    for persistence in [Persistence::Memory, Persistence::Stored] {
        let mut cluster = Cluster::of(3, persistence, small()).await;
        cluster.write(1, "before", 30).await;
        for id in [cluster.leader().await, 1, 2] {
            cluster.stop(id).await;
            let other = *cluster.nodes.keys().next().unwrap();
            cluster.write(other, "meanwhile", 30).await;
            cluster.start(id).await;
        }
        let commands = cluster.same(1..=3, 120).await;
        let terms: Vec<u64> = (1..=3).map(|id| cluster.status(id).term).collect();
        for id in 1..=3 {
            cluster.stop(id).await;
        }
        for id in 1..=3 {
            cluster.start(id).await;
            assert!(cluster.group(id).is_initialized().await);
        }
        cluster.leader().await;
        for id in 1..=3 {
            assert!(cluster.status(id).term >= terms[id as usize - 1], "a vote is never forgotten");
        }
        assert_eq!(cluster.same(1..=3, 120).await, commands);
        cluster.write(2, "after", 5).await;
        cluster.same(1..=3, 125).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_follows_after_the_partition_heals() {
    let cluster = Cluster::of(5, Persistence::Memory, RaftOptions::default()).await;
    cluster.write(1, "before", 5).await;
    let old = cluster.leader().await;
    cluster.net.isolate(old, 1..=5);
    let rest: Vec<u64> = (1..=5).filter(|id| *id != old).collect();

    // What the old leader takes now, it cannot commit; nobody is told that it did.
    let lost = cluster.group(old).propose_anywhere(Bytes::from_static(b"lost"), Duration::from_millis(500)).await;
    assert!(matches!(lost, Err(ProposeError::Timeout)), "{lost:?}");
    let read = cluster.group(old).read_index().await;
    assert!(matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })), "{read:?}");

    let new = cluster.leader_of(rest.iter().copied()).await;
    assert_ne!(new, old);
    cluster.write(rest[0], "meanwhile", 20).await;
    cluster.net.heal();
    let leader = cluster.leader().await;
    cluster.write(old, "after", 5).await;
    let commands = cluster.same(1..=5, 30).await;
    assert!(!commands.contains(&b"lost".to_vec()));
    assert!(cluster.status(leader).is_leader());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_comes_back_does_not_disturb_the_leader() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.net.isolate(follower, 1..=3);
    let asks = |id| cluster.net.last(follower, id, Class::Heartbeat).is_some_and(|frame| frame[1] == PRE_VOTE);
    eventually("the follower misses its leader", || asks(leader)).await;
    cluster.write(leader, "meanwhile", 10).await;
    cluster.net.heal();
    cluster.same(1..=3, 10).await;
    assert_eq!(cluster.leader().await, leader);
    for id in 1..=3 {
        assert_eq!(cluster.status(id).term, term, "a pre-vote raises no term");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_waits_for_a_leader() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.net.isolate(leader, 1..=3);
    // Nobody leads the others at this moment.
    cluster.group(follower).propose_anywhere(Bytes::from_static(b"patient"), SOON).await.unwrap();
    cluster.net.heal();
    cluster.same(1..=3, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_does_not_wait_for_a_leader_that_hangs() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.net.silence(leader, 1..=3);
    // It goes to the one that hangs, which could answer until the deadline; there is another leader long before that.
    cluster.group(follower).propose_anywhere(Bytes::from_static(b"elsewhere"), SOON).await.unwrap();
    cluster.same((1..=3).filter(|id| *id != leader), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_on() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let next = (1..=3).find(|id| *id != leader).unwrap();
        cluster.write(1, "x", 2).await;
        cluster.group(leader).transfer_leader(next).await.unwrap();
        assert_eq!(cluster.leader().await, next);
        assert!(cluster.group(leader).transfer_leader(next).await.is_err(), "only the leader can");
    }
    cluster.same(1..=3, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_synced_when_nothing_happens() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    cluster.write(1, "x", 3).await;
    cluster.same(1..=3, 3).await;
    let fsyncs = || cluster.nodes.values().map(|n| n.wal.metrics().fsyncs).collect::<Vec<_>>();
    let acked = |id| cluster.status(id).quorum_acked;
    let leader = cluster.leader().await;
    let (before, start) = (fsyncs(), acked(leader).unwrap());
    assert!(before.iter().all(|n| *n > 0), "the log counts its syncs");
    eventually("ten heartbeats", || acked(leader).unwrap() > start + Duration::from_secs(1)).await;
    assert_eq!(fsyncs(), before);
    assert_eq!(cluster.status(leader).role, Role::Leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_share_a_log_and_a_transport() {
    let mut cluster = Cluster::of(3, Persistence::Stored, small()).await;
    let second = GroupId::new(2, 0);
    let mut others = Vec::new();
    for node in cluster.nodes.values() {
        let journal = Journal::default();
        let group = node.groups.start(second, Persistence::Memory, journal.clone()).await.unwrap();
        let again = node.groups.start(GroupId::new(2, 1), Persistence::Memory, Journal::default()).await;
        assert!(matches!(again, Err(StartError::Running(_))));
        others.push((group, journal));
    }
    others[2].0.initialize((1..=3).collect()).await.unwrap();
    for number in 0..120u32 {
        let command = Bytes::copy_from_slice(&number.to_be_bytes());
        others[0].0.propose_anywhere(command, SOON).await.unwrap();
        if number % 10 == 0 {
            cluster.write(2, "first", 1).await;
        }
    }
    cluster.same(1..=3, 12).await;
    eventually("the second group is the same everywhere", || others.iter().all(|(_, j)| j.get().len() == 120)).await;
    others.clear();
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await;
        let journal = Journal::default();
        let group = cluster.nodes[&id].groups.start(second, Persistence::Memory, journal.clone()).await.unwrap();
        others.push((group, journal));
    }
    cluster.same(1..=3, 12).await;
    eventually("the second group is the same everywhere", || others.iter().all(|(_, j)| j.get().len() == 120)).await;
    // One group is stopped, the other one goes on.
    cluster.nodes[&1].groups.stop(2).await;
    assert!(cluster.nodes[&1].groups.group(2).is_none());
    cluster.write(1, "last", 3).await;
    cluster.same(1..=3, 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_room_on_its_disk_does_not_lead_and_catches_up_later() {
    let mut cluster = Cluster::of(3, Persistence::Memory, small()).await;
    cluster.write(1, "w", 5).await;
    cluster.same(1..=3, 5).await;
    cluster.stop(3).await;
    cluster.full.insert(3);
    cluster.start(3).await;
    let leader = cluster.leader_of([1, 2]).await;
    cluster.write(leader, "x", 20).await;
    cluster.same([1, 2], 25).await;
    let refused = cluster.group(3).propose(Bytes::from_static(b"no")).await;
    assert!(matches!(refused, Err(ProposeError::DiskFull)), "{refused:?}");

    // Its vote is good all the same; a commit without its disk is not possible then.
    cluster.stop(leader).await;
    let other = 3 - leader;
    eventually("the other one leads", || cluster.status(other).is_leader()).await;
    cluster.start(leader).await;
    cluster.leader_of([1, 2]).await;

    // Nobody hears of a leader: one asks for votes, the one without room does not.
    let follower = 3 - cluster.leader_of([1, 2]).await;
    let before = (cluster.net.asked(follower), cluster.net.asked(3));
    cluster.net.isolate(3, 1..=3);
    cluster.net.cut(1, 2);
    eventually("some elections", || cluster.net.asked(follower) > before.0 + 8).await;
    assert_eq!(cluster.net.asked(3), before.1);
    cluster.net.heal();

    cluster.full.clear();
    cluster.stop(3).await;
    cluster.start(3).await;
    cluster.write(3, "y", 5).await;
    cluster.same(1..=3, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_share_their_rounds() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    let before = cluster.net.heartbeats();
    let start = Instant::now();
    let reads = (0..1000).map(|_| {
        let group = cluster.group(leader).clone();
        tokio::spawn(async move { group.read_index().await.unwrap() })
    });
    let indexes = futures::future::join_all(reads).await;
    assert!(indexes.into_iter().all(|index| index.is_ok()));
    let regular = 2 * (1 + start.elapsed().as_millis() as u64 / 50);
    assert!(cluster.net.heartbeats() - before < regular + 200, "a round for a read would be 2000 calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_to_a_node_that_is_cut_off_does_no_harm() {
    let options = RaftOptions { transfer_deadline: Duration::from_millis(300), ..RaftOptions::default() };
    let cluster = Cluster::of(3, Persistence::Memory, options).await;
    let leader = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    let rest: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
    cluster.net.isolate(away, 1..=3);
    let refused = cluster.group(leader).transfer_leader(away).await;
    assert!(matches!(refused, Err(MembershipError::Timeout)), "{refused:?}");
    cluster.write(rest[0], "x", 3).await;
    cluster.same(rest, 3).await;
}
