//! How clusters come to be and grow: bootstrap, join, leave.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Lab, bootstrap, eventually, has_left, members, serving};
use raftmq_cluster::{ControlError, Stage};

const MANY: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_empty_nodes_form_a_cluster_when_told_and_not_before() {
    let lab = Lab::new();
    let names = ["n1", "n2", "n3"];
    let all = lab.start_all(&names).await;
    for p in &all {
        assert_eq!(*p.cluster.stage().borrow(), Stage::WaitingForCluster);
        assert!(!p.is_serving());
    }
    // Told by any of them, not only the one that initialises.
    let id = bootstrap(&all[2], &names).await;
    serving(&all).await;
    for (i, p) in all.iter().enumerate() {
        let status = p.cluster.status();
        assert_eq!(status.cluster_id, Some(id));
        assert_eq!(status.raft_id, Some(i as u64 + 1));
        assert!(status.is_ready());
        eventually("all are members", || members(p).len() == 3).await;
        eventually("all vote", || p.voters(0).len() == 3 && p.voters(1).len() == 3).await;
    }
    // Again, it is the same cluster; with others, it is refused.
    assert_eq!(bootstrap(&all[0], &names).await, id);
    let stranger = lab.start("n4", &["n1"]).await;
    let other = all[0].cluster.control().bootstrap(vec!["n1".into(), "n4".into()]).await;
    assert!(matches!(other, Err(ControlError::Conflict(_))), "{other:?}");
    let empty = all[0].cluster.control().bootstrap(vec![]).await;
    assert!(matches!(empty, Err(ControlError::Invalid(_))), "{empty:?}");
    // The stranger is not needed for that: it joins.
    eventually("the fourth joins", || stranger.id() == 4 && stranger.is_serving()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_cluster_is_not_formed_beside_a_member_of_another() {
    let lab = Lab::new();
    let one = lab.form(&["n1"]).await;
    let id = one[0].cluster.status().cluster_id;
    // n0 is empty and knows n1 only: it must join, whatever it is told.
    let zero = lab.start("n0", &["n1"]).await;
    let told = zero.cluster.control().bootstrap(vec!["n0".into()]).await;
    assert!(told.is_err() || told.ok() == id);
    eventually("it joins", || zero.cluster.status().cluster_id == id && zero.is_serving()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_become_five_and_three_again() {
    let lab = Lab::new();
    let mut all = lab.form(&["n1", "n2", "n3"]).await;
    for name in ["n4", "n5"] {
        // One peer is enough to find the rest.
        all.push(lab.start(name, &["n2"]).await);
    }
    serving(&all).await;
    for p in &all {
        eventually("five vote in both groups", || p.voters(0).len() == 5 && p.voters(1).len() == 5).await;
    }
    // The leader of the meta group is among those who leave.
    let leader = all[0].meta_leader().unwrap();
    let first = all.iter().position(|p| p.id() == leader).unwrap();
    let second = if first == MANY { 0 } else { MANY };
    let mut leaving: Vec<_> = [first, second].iter().map(|i| all[*i].name.clone()).collect();
    for name in &leaving {
        let stays = all.iter().find(|p| !leaving.contains(&p.name)).unwrap();
        stays.cluster.control().leave(name).await.unwrap();
    }
    leaving.sort();
    let (left, stay): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| leaving.contains(&p.name));
    for p in &left {
        has_left(p).await;
    }
    for p in &stay {
        eventually("three members", || members(p).len() == 3).await;
        eventually("three vote", || p.voters(0).len() == 3 && p.voters(1).len() == 3).await;
    }
    serving(&stay).await;
    let last = stay[0].cluster.control().loss(&stay[1].name).await.unwrap();
    assert!(last.nothing, "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_is_formed_though_the_one_that_initialises_dies_in_between() {
    for pause_ms in [0, 5, 30, 120] {
        let lab = Lab::new();
        let names = ["n1", "n2", "n3"];
        let mut all = lab.start_all(&names).await;
        let id = bootstrap(&all[1], &names).await;
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
        all.remove(0).kill().await;
        all.insert(0, lab.start("n1", &names).await);
        serving(&all).await;
        assert!(all.iter().all(|p| p.cluster.status().cluster_id == Some(id)), "after {pause_ms} ms");
        assert_eq!(members(&all[2]).len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_dies_while_it_joins_becomes_one_member() {
    let lab = Lab::new();
    let all = lab.form(&["n1"]).await;
    // Wherever in the join it dies: it asks again and gets the same id.
    for pause_ms in [0, 3, 10, 20, 40, 80, 160] {
        let joining = lab.start("n2", &["n1"]).await;
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
        joining.kill().await;
    }
    let joined = lab.start("n2", &["n1"]).await;
    eventually("it serves", || joined.is_serving()).await;
    assert_eq!(members(&all[0]), [("n1".to_owned(), 1), ("n2".to_owned(), 2)]);
    // A start that finds the store still held by the one before counts as well.
    assert!(joined.cluster.status().boot >= 8);
}
