//! Shards on real nodes: formed, led, written to through leaders that die, and the same on all replicas.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Lab, Process, eventually, serving};
use raftmq_cluster::{AnswerSink, LaneError, Port, PushError, RemoteQueue, ShardOptions};
use raftmq_mqtt::{Message, Origin, Properties, Publish, QoS};
use raftmq_raft::Role;
use raftmq_shard::{
    Bounds, Claim, DropPolicy, Effect, Name, Op, OpAnswer, PageLimits, QueueLimits, Sent, Subscribed, Subscription,
    WillEnd,
};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
const SHARDS: u16 = 4;

fn lab() -> Lab {
    Lab::with_shards(ShardOptions { count: SHARDS, replication: 3 })
}

type Answers = Arc<Mutex<BTreeMap<u64, Result<OpAnswer, LaneError>>>>;

/// A worker of a node: its operations, and what became of them.
struct Worker {
    port: Port,
    answers: Answers,
    next: u64,
}

impl Worker {
    fn new(process: &Process, number: u16) -> Self {
        let answers = Answers::default();
        let kept = Arc::clone(&answers);
        let sink: AnswerSink = Arc::new(move |some: &mut dyn Iterator<Item = (u64, Result<OpAnswer, LaneError>)>| {
            let mut kept = kept.lock().unwrap();
            some.for_each(|(token, answer)| {
                assert!(kept.insert(token, answer).is_none(), "{token} was answered twice")
            });
        });
        Self { port: process.cluster.shards().port(number, sink), answers, next: 0 }
    }

    /// Hands an operation over as soon as it is taken.
    async fn push(&mut self, shard: u16, op: Op) -> u64 {
        let begun = Instant::now();
        self.next += 1;
        loop {
            match self.port.push(shard, op.clone(), self.next) {
                Ok(()) => return self.next,
                Err((_, error)) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn answer(&self, token: u64) -> Result<OpAnswer, LaneError> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.answers.lock().unwrap().get(&token) {
                return answer.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no answer to {token}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn op(&mut self, shard: u16, op: Op) -> OpAnswer {
        let token = self.push(shard, op).await;
        self.answer(token).await.unwrap()
    }

    /// A client connects to this node: its epoch, whether it had a session, and how many older connections there are.
    async fn claim(&mut self, shard: u16, id: &str) -> (u64, bool, usize) {
        match self.op(shard, Op::Claim(Box::new(claim(id)))).await {
            OpAnswer::Claimed { epoch, session_present, older } => (epoch, session_present, older.len()),
            other => panic!("{other:?}"),
        }
    }
}

fn claim(id: &str) -> Claim {
    let limits =
        QueueLimits { max_messages: 1 << 20, max_bytes: 1 << 30, drop: DropPolicy::Newest, max_subscriptions: 100 };
    Claim { client: name(id), clean_start: false, expiry_s: 3_600, will: None, limits, durable: true, yields: false }
}

fn name(id: &str) -> Name {
    Name::new(0, id)
}

fn subscribe(id: &str, epoch: u64, filter: &str) -> Op {
    let qos = QoS::AtLeastOnce;
    let subscription =
        Subscription { filter: filter.into(), qos, no_local: false, retain_as_published: false, identifier: 0 };
    Op::Subscribe { client: name(id), epoch, filters: vec![subscription] }
}

fn publish(topic: &str, payload: &str) -> Op {
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
        packet_id: NonZeroU16::new(1),
        properties: Properties::EMPTY,
        payload: payload.as_bytes(),
    };
    let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "publisher", 1_000, None).unwrap();
    Op::Publish { namespace: 0, message }
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

/// What waits for a client in this node's replica: everything is granted first.
async fn queue(worker: &mut Worker, process: &Process, shard: u16, id: &str, epoch: u64) -> Vec<String> {
    let mut payloads = Vec::new();
    let (mut remote, mut last) = (RemoteQueue::default(), 0);
    loop {
        let up_to = last + 4_000;
        let granted = worker.op(shard, Op::Grant { client: name(id), epoch, up_to }).await;
        assert!(matches!(granted, OpAnswer::Granted { .. }), "{granted:?}");
        let mut part = None;
        eventually("the grant is here", || {
            let read = process.cluster.shards().deliveries(&name(id), &mut remote, last, 4_000, usize::MAX);
            part = read.and_then(|read| read.unwrap());
            part.as_ref().is_some_and(|part| part.granted >= up_to)
        })
        .await;
        let part = part.unwrap();
        if part.sent.is_empty() {
            return payloads;
        }
        let seqs = vec![raftmq_shard::SeqRange { first: last + 1, last: part.sent.last().unwrap().seq }];
        last = part.sent.last().unwrap().seq;
        payloads.extend(part.sent.into_iter().map(|delivery| match delivery.sent {
            Sent::Publish { message, .. } => String::from_utf8(message.payload().to_vec()).unwrap(),
            Sent::Release => panic!("no QoS 2 here"),
        }));
        worker.op(shard, Op::Ack { client: name(id), epoch, seqs }).await;
    }
}

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

/// What is in a client's queue above a number now, which is acknowledged.
async fn take(worker: &mut Worker, process: &Process, shard: u16, id: &str, epoch: u64, last: &mut u64) -> Vec<String> {
    let after = *last;
    let mut remote = RemoteQueue::default();
    let mut read = || {
        let read = process.cluster.shards().deliveries(&name(id), &mut remote, after, 4_000, usize::MAX);
        read.and_then(Result::ok).flatten()
    };
    let Some(known) = read().filter(|part| part.last > after) else {
        tokio::time::sleep(Duration::from_millis(5)).await;
        return Vec::new();
    };
    let granted = worker.op(shard, Op::Grant { client: name(id), epoch, up_to: known.last }).await;
    assert!(matches!(granted, OpAnswer::Granted { .. }), "{granted:?}");
    eventually("the grant is here", || read().is_some_and(|part| part.granted >= known.last)).await;
    *last = known.last;
    let sent = read().map(|part| part.sent).unwrap_or_default();
    let payloads = sent.into_iter().filter(|delivery| delivery.seq <= known.last).map(|delivery| match delivery.sent {
        Sent::Publish { message, .. } => String::from_utf8(message.payload().to_vec()).unwrap(),
        Sent::Release => panic!("no QoS 2 here"),
    });
    let payloads: Vec<String> = payloads.collect();
    let seqs = vec![raftmq_shard::SeqRange { first: after + 1, last: known.last }];
    let acked = worker.op(shard, Op::Ack { client: name(id), epoch, seqs }).await;
    assert_eq!(acked, OpAnswer::Acked { count: payloads.len() as u32 });
    payloads
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

/// What is retained by one node is read by every other one as soon as it is acknowledged, in whichever shard it is, and where there is no replica of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn retained_messages_are_read_on_every_node_at_once() {
    let names = ["n1", "n2", "n3", "n4"];
    let lab = lab();
    let all = lab.form(&names).await;
    eventually("all shards have three replicas and are led", || {
        let replicas: Vec<_> = all.iter().flat_map(|process| process.cluster.shards().replicas()).collect();
        replicas.len() == usize::from(SHARDS) * 3
            && replicas.iter().all(|r| r.group.leader.is_some() && r.group.voters.len() == 3)
    })
    .await;
    let without = all.iter().filter(|process| process.cluster.shards().replicas().len() < usize::from(SHARDS)).count();
    assert!(without > 0, "four nodes, three replicas");
    let mut worker = Worker::new(&all[0], 0);
    let limits = PageLimits { messages: 7, bytes: 1 << 20, steps: 1_000 };
    let mut last = BTreeMap::new();
    for round in 0..10 {
        for topic in 0..40 {
            let topic = format!("t/{topic}");
            let shard = all[0].cluster.shards().shard_of(0, &topic).unwrap();
            let message = retained(&topic, &round.to_string());
            let bounds = Bounds { messages: 100, bytes: 1 << 20 };
            let answer = worker.op(shard, Op::Retain { namespace: 0, message, bounds }).await;
            let OpAnswer::Retained { number, .. } = answer else { panic!("{answer:?}") };
            last.insert(shard, number);
        }
        for process in &all {
            let mut found = BTreeMap::new();
            for shard in 0..SHARDS {
                let changed = process.cluster.shards().last_retained(shard).await.unwrap();
                assert_eq!(changed, last.get(&shard).copied().unwrap_or(0));
                let mut cursor = None;
                loop {
                    let page = process.cluster.shards().retained(shard, 0, "t/+", cursor, limits).await.unwrap();
                    for one in page.messages {
                        let payload = String::from_utf8(one.message.payload().to_vec()).unwrap();
                        assert!(found.insert(one.message.topic().to_owned(), payload).is_none());
                    }
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
            }
            assert_eq!(found.len(), 40);
            assert!(found.values().all(|payload| *payload == round.to_string()), "{round}: {found:?}");
        }
    }
}

fn retained(topic: &str, payload: &str) -> Message {
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic,
        packet_id: NonZeroU16::new(1),
        properties: Properties::EMPTY,
        payload: payload.as_bytes(),
    };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, "publisher", 0, None).unwrap()
}

/// A client that is connected to a node, whether there is a replica of its shard or not: it looks into its queue when it is told to, and only then.
struct Subscriber {
    worker: Worker,
    shard: u16,
    id: String,
    epoch: u64,
    remote: RemoteQueue,
    after: u64,
    granted: u64,
    found: Vec<String>,
}

/// Woken when the listener says that clients may have something new.
type Wakes = Arc<tokio::sync::Notify>;

/// Listens to what is told at a node.
fn listen(process: &Process) -> Wakes {
    let wakes = Wakes::default();
    let waker = Arc::clone(&wakes);
    let applied: raftmq_cluster::ShardListener = Arc::new(move |_shard, effects: Option<&[Effect]>| {
        if effects.is_none_or(|effects| effects.iter().any(|effect| matches!(effect, Effect::Deliver { .. }))) {
            waker.notify_one();
        }
    });
    process.cluster.shards().listen(applied, Arc::new(|_| {}), Arc::new(|_, _, _| {}));
    wakes
}

impl Subscriber {
    async fn new(process: &Process, number: u16, shard: u16, id: &str) -> Self {
        let mut worker = Worker::new(process, number);
        let (epoch, present, _) = worker.claim(shard, id).await;
        let session = process.cluster.shards().session(&name(id), epoch, !present).await;
        if session.subscriptions.is_empty() {
            worker.op(shard, subscribe(id, epoch, "x")).await;
        }
        let (id, remote) = (id.to_owned(), RemoteQueue::default());
        Self { worker, shard, id, epoch, remote, after: 0, granted: 0, found: Vec::new() }
    }

    /// Takes what is there.
    async fn look(&mut self, process: &Process) {
        loop {
            if self.granted < self.after + 2_000 {
                let up_to = self.after + 4_000;
                let op = Op::Grant { client: name(&self.id), epoch: self.epoch, up_to };
                if let OpAnswer::Granted { up_to } = self.worker.op(self.shard, op).await {
                    self.granted = up_to;
                }
            }
            let shards = process.cluster.shards();
            let Some(read) = shards.deliveries(&name(&self.id), &mut self.remote, self.after, 64, 1 << 16) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let sent = read.unwrap().map(|read| read.sent).unwrap_or_default();
            let Some(last) = sent.last().map(|delivery| delivery.seq) else { return };
            for delivery in sent {
                assert!(delivery.seq > self.after);
                self.after = delivery.seq;
                let Sent::Publish { message, .. } = delivery.sent else { panic!("no QoS 2 here") };
                self.found.push(String::from_utf8(message.payload().to_vec()).unwrap());
            }
            let seqs = vec![raftmq_shard::SeqRange { first: 1, last }];
            self.worker.push(self.shard, Op::Ack { client: name(&self.id), epoch: self.epoch, seqs }).await;
        }
    }
}

/// Takes all that subscribers of a node are to get, each of which is looked at when the node's listener is told something.
async fn take_all(process: &Process, wakes: &Wakes, subscribers: &mut [Subscriber], count: usize) {
    loop {
        for subscriber in subscribers.iter_mut() {
            subscriber.look(process).await;
        }
        let missing = subscribers.iter().filter(|subscriber| subscriber.found.len() < count);
        let missing: Vec<_> = missing.map(|s| (s.shard, s.found.len(), s.after)).collect();
        if missing.is_empty() {
            return;
        }
        let woken = tokio::time::timeout(Duration::from_secs(20), wakes.notified()).await;
        assert!(woken.is_ok(), "{missing:?} of {count}, and nobody is told");
    }
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

/// A client whose shard has no replica on its node gets its queue as it fills, whoever dies among those that have one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_queue_is_read_where_its_shard_has_no_replica() {
    let names = ["n1", "n2", "n3", "n4", "n5"];
    let lab = lab();
    let mut all = lab.form(&names).await;
    formed_of_three(&all).await;
    let here = all.iter().position(|process| !has_replica(process, 1)).unwrap();
    let wakes = listen(&all[here]);
    let id = name_in(&all[0], 1, "client");
    let mut subscribers = vec![Subscriber::new(&all[here], 0, 1, &id).await];
    // Of one shard many, so that some are asked for together.
    for n in 1..40 {
        subscribers.push(Subscriber::new(&all[here], n, 1, &name_in(&all[0], 1, &format!("client-{n}"))).await);
    }
    let mut publisher = Worker::new(&all[here], 90);
    let mut expected = Vec::new();
    for round in 0..3 {
        let at = leader(&all, 1).await;
        let victim = if round == 1 { (0..5).find(|n| *n != at && has_replica(&all[*n], 1)).unwrap() } else { at };
        let mut gone = None;
        for count in 0..150 {
            let payload = format!("{round}/{count}");
            let token = publisher.push(1, publish("x", &payload)).await;
            expected.push(payload);
            if count == 75 {
                let dies = all.remove(victim);
                gone = Some(dies.name.clone());
                dies.kill().await;
            }
            if count % 10 == 0 {
                let answer = publisher.answer(token).await.unwrap();
                assert!(matches!(answer, OpAnswer::Published { dropped: 0, .. }), "{answer:?}");
            }
            if count == 74 || count == 149 {
                publisher.answer(token).await.unwrap();
                let at = here - usize::from(count == 149 && victim < here);
                take_all(&all[at], &wakes, &mut subscribers, expected.len()).await;
            }
        }
        all.insert(victim, lab.start(&gone.unwrap(), &names).await);
        serving(&all).await;
        formed_of_three(&all).await;
    }
    for subscriber in &subscribers {
        assert_eq!(subscriber.found, expected, "{}", subscriber.id);
    }
    assert!(!has_replica(&all[here], 1));
}

/// A session is resumed with all that it is on a node without a replica of its shard.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_is_resumed_where_its_shard_has_no_replica() {
    let lab = lab();
    let all = lab.form(&["n1", "n2", "n3", "n4"]).await;
    formed_of_three(&all).await;
    let shards = all[0].cluster.shards();
    let id = name_in(&all[0], 2, "client");
    let (here, there): (Vec<_>, Vec<_>) = all.iter().partition(|process| !has_replica(process, 2));
    let (here, there) = (here[0], there[0]);
    let mut worker = Worker::new(there, 0);
    let mut limits = claim(&id);
    limits.limits.max_subscriptions = 5_000;
    let claimed = worker.op(2, Op::Claim(Box::new(limits.clone()))).await;
    let OpAnswer::Claimed { epoch, .. } = claimed else { panic!("{claimed:?}") };
    // More than are read at once, by their number and by their bytes.
    let long = "x".repeat(20_000);
    let filters: Vec<String> =
        (0..700).map(|n| if n % 10 == 0 { format!("{n}/{long}") } else { format!("{n}/+") }).collect();
    for filter in &filters {
        worker.push(2, subscribe(&id, epoch, filter)).await;
    }
    for packet_id in [7, 9] {
        let message = publish("y", "twice");
        let Op::Publish { message, .. } = message else { panic!() };
        let op = Op::Receive2 { client: name(&id), epoch, packet_id, message, destinations: Vec::new() };
        assert_eq!(worker.op(2, op).await, OpAnswer::Received);
    }
    let group = "$share/g/jobs";
    let of_group = shards.shard_of(0, &format!("\0{group}")).unwrap();
    let subscription = Subscription {
        filter: group.into(),
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: true,
        identifier: 5,
    };
    let op = Op::Join { client: name(&id), epoch, subscription: subscription.clone(), shard: of_group.into() };
    assert!(matches!(worker.op(2, op).await, OpAnswer::Subscribed(_)));
    worker.op(2, publish("1/a", "one")).await;
    let wakes = listen(here);
    let mut worker = Worker::new(here, 0);
    let (epoch, present, older) = worker.claim(2, &id).await;
    assert_eq!((present, older), (true, 1));
    let found = here.cluster.shards().session(&name(&id), epoch, false).await;
    assert_eq!(found, there.cluster.shards().session(&name(&id), epoch, false).await);
    assert_eq!(found.received, [7, 9]);
    let mut expected: Vec<&str> = filters.iter().map(String::as_str).collect();
    expected.sort_unstable();
    expected.push(group);
    let known: Vec<&str> = found.subscriptions.iter().map(|subscription| &*subscription.filter).collect();
    assert_eq!(known, expected);
    assert_eq!(found.subscriptions.last(), Some(&subscription));
    let (remote, found) = (RemoteQueue::default(), Vec::new());
    let mut subscriber = [Subscriber { worker, shard: 2, id, epoch, remote, after: 0, granted: 0, found }];
    take_all(here, &wakes, &mut subscriber, 1).await;
    assert_eq!(subscriber[0].found, ["one"]);
}

/// A node gets replicas of the shards whose clients it serves, and loses them again; its clients notice nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn queues_are_read_while_replicas_come_and_go() {
    let lab = lab();
    let mut all = lab.form(&["n1", "n2", "n3", "n4"]).await;
    formed_of_three(&all).await;
    let wakes = listen(&all[0]);
    let mut subscribers = Vec::new();
    for shard in 0..SHARDS {
        let id = name_in(&all[0], shard, "client");
        subscribers.push(Subscriber::new(&all[0], shard, shard, &id).await);
    }
    let mut publisher = Worker::new(&all[0], 90);
    let mut expected = Vec::new();
    let mut replicas = Vec::new();
    for step in 0..4 {
        match step {
            1 => all[0].cluster.control().leave("n2").await.unwrap(),
            2 => {
                all.remove(1).kill().await;
                for name in ["n5", "n6", "n7"] {
                    all.push(lab.start(name, &["n1", "n3", "n4", name]).await);
                }
            }
            _ => {}
        }
        let begun = Instant::now();
        let count = |all: &[Process]| all[0].cluster.shards().replicas().len();
        // Until it is as it shall be, and a little longer.
        let mut settled: Option<Instant> = None;
        while settled.is_none_or(|since| since.elapsed() < Duration::from_millis(500)) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} replicas", count(&all));
            for shard in 0..SHARDS {
                let payload = format!("{step}/{}", expected.len());
                let token = publisher.push(shard, publish("x", &payload)).await;
                assert!(matches!(publisher.answer(token).await.unwrap(), OpAnswer::Published { dropped: 0, .. }));
                if shard == SHARDS - 1 {
                    expected.push((shard, payload));
                }
            }
            take_all(&all[0], &wakes, &mut subscribers, expected.len()).await;
            let done = match step {
                1 => count(&all) == usize::from(SHARDS),
                2 => count(&all) <= 2,
                _ => true,
            };
            settled = if done { settled.or(Some(Instant::now())) } else { None };
        }
        replicas.push(count(&all));
    }
    println!("replicas: {replicas:?}");
    assert!(replicas[0] < replicas[1] && replicas[2] < replicas[1]);
    for subscriber in &subscribers {
        let numbers: Vec<_> = subscriber.found.iter().filter_map(|payload| payload.split('/').next_back()).collect();
        let wanted: Vec<_> = (0..expected.len()).map(|n| n.to_string()).collect();
        assert_eq!(numbers, wanted, "{}", subscriber.id);
    }
}
