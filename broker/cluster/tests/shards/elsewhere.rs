//! Retained messages, sessions and queues on nodes that have no replica of the shard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raftmq_cluster::RemoteQueue;
use raftmq_mqtt::QoS;
use raftmq_shard::{Bounds, Effect, Op, OpAnswer, PageLimits, Sent, Subscription};

use crate::common::{Process, eventually, serving};
use crate::worker::{Worker, claim, name, publish, retained, subscribe};
use crate::{SHARDS, formed_of_three, has_replica, lab, leader, name_in};

/// What is retained by one node is read by every other one as soon as it is acknowledged, in whichever shard it is, and where there is no replica of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn retained_messages_are_read_on_every_node_at_once() {
    let names = ["n1", "n2", "n3", "n4"];
    let lab = lab();
    let all = lab.form(&names).await;
    formed_of_three(&all).await;
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
            let mut read = None;
            eventually("its queue can be read", || {
                read = shards.deliveries(&name(&self.id), &mut self.remote, self.after, 64, 1 << 16);
                read.is_some()
            })
            .await;
            let sent = read.unwrap().unwrap().map(|read| read.sent).unwrap_or_default();
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
        let op = Op::Receive2 { client: name(&id), epoch, packet_id, message, destinations: Vec::new(), keeper: None };
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
