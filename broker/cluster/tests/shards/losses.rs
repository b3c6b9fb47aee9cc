//! Nodes that end, and nodes that are cut off: what was acknowledged stays, once and in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raftmq_cluster::LaneError;
use raftmq_mqtt::QoS;
use raftmq_shard::{Op, OpAnswer, Subscribed, Subscription, WillEnd};

use crate::common::{eventually, serving};
use crate::worker::{Worker, name, publish, queue, subscribe, take};
use crate::{NAMES, SHARDS, formed, lab, leader, name_in, same_state};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn are_formed_written_to_and_the_same_after_a_restart_of_all() {
    let lab = lab();
    let begun = Instant::now();
    let all = lab.form(&NAMES).await;
    formed(&all).await;
    println!("{SHARDS} shards after {:?}", begun.elapsed());
    let mut epochs = BTreeMap::new();
    let mut workers: Vec<Worker> = all.iter().map(|process| Worker::new(process, 0)).collect();
    for shard in 0..SHARDS {
        let id = name_in(&all[0], shard, "client");
        let worker = &mut workers[usize::from(shard) % 3];
        let (epoch, present, older) = worker.claim(shard, &id).await;
        assert_eq!((present, older), (false, 0));
        let answer = worker.op(shard, subscribe(&id, epoch, &format!("to/{shard}/#"))).await;
        assert!(matches!(&answer, OpAnswer::Subscribed(of) if matches!(of[..], [Subscribed::New { route: 1 }])));
        epochs.insert(shard, epoch);
    }
    // Each node comes to know which shards want a topic.
    eventually("the routes of shards are on all nodes", || {
        all.iter().all(|process| (0..SHARDS).all(|shard| process.shards(&format!("to/{shard}/x")) == [shard]))
    })
    .await;
    // From each node to each shard, also from where another one leads.
    for (at, worker) in workers.iter_mut().enumerate() {
        for shard in 0..SHARDS {
            let answer = worker.op(shard, publish(&format!("to/{shard}/x"), &format!("from {at}"))).await;
            assert_eq!(answer, OpAnswer::Published { matched: 1, dropped: 0 });
        }
    }
    same_state(&all).await;
    for process in all {
        process.kill().await;
    }
    let all = lab.start_all(&NAMES).await;
    serving(&all).await;
    formed(&all).await;
    let mut worker = Worker::new(&all[1], 0);
    for shard in 0..SHARDS {
        let id = name_in(&all[0], shard, "client");
        // The connection before was to a life that is over; whoever asks meanwhile is told to wait for it.
        let (epoch, present, _) = worker.claim(shard, &id).await;
        assert!(present && epoch > epochs[&shard]);
        assert_eq!(queue(&mut worker, &all[1], shard, &id, epoch).await, ["from 0", "from 1", "from 2"]);
    }
    same_state(&all).await;
}

/// What was acknowledged is there, once and in order, whoever led when it was published.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_while_leaders_die() {
    let lab = lab();
    let mut all = lab.form(&NAMES).await;
    formed(&all).await;
    let shard = 2;
    let id = name_in(&all[0], shard, "client");
    let mut worker = Worker::new(&all[0], 0);
    let (epoch, ..) = worker.claim(shard, &id).await;
    worker.op(shard, subscribe(&id, epoch, "#")).await;
    let mut published = Vec::new();
    let mut longest = Duration::ZERO;
    for round in 0..4 {
        // Never the node whose worker publishes.
        let at = leader(&all, shard).await;
        let victim = if at == 0 { 1 + round % 2 } else { at };
        let name = all[victim].name.clone();
        let mut last = Instant::now();
        for count in 0..600 {
            let payload = format!("{round}/{count}");
            let token = worker.push(shard, publish("x", &payload)).await;
            published.push((token, payload));
            if count == 200 {
                all.remove(victim).kill().await;
                last = Instant::now();
            }
            if count % 50 == 0 {
                let answer = worker.answer(token).await;
                assert!(matches!(answer, Ok(OpAnswer::Published { matched: 1, .. })), "{answer:?}");
                if count == 250 {
                    longest = longest.max(last.elapsed());
                }
            }
        }
        all.insert(victim, lab.start(&name, &NAMES).await);
        serving(&all).await;
        formed(&all).await;
    }
    println!("longest time without an answer after a kill: {longest:?}");
    for (token, payload) in &published {
        let answer = worker.answer(*token).await;
        assert!(matches!(answer, Ok(OpAnswer::Published { matched: 1, dropped: 0 })), "{payload}: {answer:?}");
    }
    let found = queue(&mut worker, &all[0], shard, &id, epoch).await;
    let expected: Vec<String> = published.into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(found, expected);
    same_state(&all).await;
    // They were compared by themselves, too.
    let counted = |of: fn(&raftmq_cluster::ClusterCounters) -> &AtomicU64| -> u64 {
        all.iter().map(|process| of(process.cluster.counters()).load(Ordering::Relaxed)).sum()
    };
    eventually("replicas were compared", || counted(|c| &c.replicas_same) > 0).await;
    assert_eq!(counted(|c| &c.replicas_differ), 0);
}

/// A durable shared group in a shard of its own, its members in two others: each message that was acknowledged goes to one of them, once, while
/// leaders die.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_of_a_group_get_each_message_once_while_leaders_die() {
    let lab = lab();
    let mut all = lab.form(&NAMES).await;
    formed(&all).await;
    let group = 2_u16;
    let in_shard = |filter: &String| all[0].cluster.shards().shard_of(0, &format!("\0{filter}")) == Some(group);
    let filter = (0..).map(|n| format!("$share/g{n}/jobs/#")).find(in_shard).unwrap();
    let mut worker = Worker::new(&all[0], 0);
    let mut members = Vec::new();
    for shard in [0, 1] {
        let id = name_in(&all[0], shard, "member");
        let (epoch, ..) = worker.claim(shard, &id).await;
        let (qos, client) = (QoS::AtLeastOnce, name(&id));
        let subscription =
            Subscription { filter: (*filter).into(), qos, no_local: false, retain_as_published: false, identifier: 0 };
        let joined = worker.op(shard, Op::Join { client, epoch, subscription, shard: group.into() }).await;
        assert_eq!(joined, OpAnswer::Subscribed(vec![Subscribed::Joined { note: 1 }]));
        members.push((shard, id, epoch, 0));
    }
    eventually("the group's route is on all nodes", || all.iter().all(|process| process.shards("jobs/x") == [group]))
        .await;
    let mut published = Vec::new();
    let mut found = Vec::new();
    for round in 0..2 {
        let at = leader(&all, if round == 0 { group } else { 0 }).await;
        // Never the node whose worker publishes.
        let victim = if at == 0 { 1 } else { at };
        let gone = all[victim].name.clone();
        for count in 0..200 {
            let payload = format!("{round}/{count}");
            let token = worker.push(group, publish("jobs/x", &payload)).await;
            published.push((token, payload));
            if count == 100 {
                all.remove(victim).kill().await;
            }
        }
        all.insert(victim, lab.start(&gone, &NAMES).await);
        serving(&all).await;
        formed(&all).await;
    }
    for (token, payload) in &published {
        let answer = worker.answer(*token).await;
        assert!(matches!(answer, Ok(OpAnswer::Published { matched: 1, dropped: 0 })), "{payload}: {answer:?}");
    }
    let begun = Instant::now();
    let mut shares = [0; 2];
    while found.len() < published.len() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} of {}", found.len(), published.len());
        for (at, (shard, id, epoch, last)) in members.iter_mut().enumerate() {
            let some = take(&mut worker, &all[0], *shard, id, *epoch, last).await;
            shares[at] += some.len();
            found.extend(some);
        }
    }
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    found.sort();
    let mut expected: Vec<String> = published.into_iter().map(|(_, payload)| payload).collect();
    expected.sort();
    assert_eq!(found, expected);
    same_state(&all).await;
}

/// A node that is cut off is declared down: its clients can be claimed elsewhere, and what it proposes afterwards changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_cut_off_loses_its_clients() {
    let lab = lab();
    let all = lab.form(&NAMES).await;
    formed(&all).await;
    let shard = 1;
    let id = name_in(&all[0], shard, "client");
    let mut there = Worker::new(&all[2], 3);
    let (epoch, ..) = there.claim(shard, &id).await;
    let life = *all[2].cluster.shards().life().borrow();
    all[2].cluster.isolate(true);
    let mut here = Worker::new(&all[0], 0);
    // At once it has to wait for the older connection.
    let (second, present, older) = here.claim(shard, &id).await;
    assert_eq!((present, older), (true, 1));
    let late = there.push(shard, subscribe(&id, epoch, "late")).await;
    let begun = Instant::now();
    eventually("the older connection is over", || {
        let info = all[0].cluster.shards().client(&name(&id)).unwrap().unwrap().unwrap();
        // The replica here may lag behind.
        assert!(info.epoch <= second);
        info.epoch == second && info.older.is_empty()
    })
    .await;
    println!("over after {:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(1), "before the node had closed its clients");
    all[2].cluster.isolate(false);
    assert_eq!(there.answer(late).await, Err(LaneError::Over));
    serving(&all).await;
    eventually("another life", || *all[2].cluster.shards().life().borrow() > life).await;
    let (third, present, older) = there.claim(shard, &id).await;
    assert!(third > second && present && older == 1);
    // That one is alive: it closes its connection when it is told.
    let end = Op::Closed { client: name(&id), epoch: second };
    assert_eq!(here.op(shard, end).await, OpAnswer::Done);
    let stale = Op::Disconnect { client: name(&id), epoch: second, expiry_s: None, will: WillEnd::Keep };
    assert_eq!(here.op(shard, stale).await, OpAnswer::Stale);
    same_state(&all).await;
}
