//! A worker of a node, as the tests need it: operations to shards, and what is in the queues of its clients.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use raftmq_cluster::{AnswerSink, LaneError, Port, RemoteQueue};
use raftmq_mqtt::{Message, Origin, Properties, Publish, QoS};
use raftmq_shard::{Claim, DropPolicy, Name, Op, OpAnswer, QueueLimits, Sent, Subscription};

use crate::common::{Process, eventually};

type Answers = Arc<Mutex<BTreeMap<u64, Result<OpAnswer, LaneError>>>>;

/// A worker of a node: its operations, and what became of them.
pub(crate) struct Worker {
    pub(crate) port: Port,
    answers: Answers,
    next: u64,
}

impl Worker {
    pub(crate) fn new(process: &Process, number: u16) -> Self {
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
    pub(crate) async fn push(&mut self, shard: u16, op: Op) -> u64 {
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

    pub(crate) async fn answer(&self, token: u64) -> Result<OpAnswer, LaneError> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.answers.lock().unwrap().get(&token) {
                return answer.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no answer to {token}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn op(&mut self, shard: u16, op: Op) -> OpAnswer {
        let token = self.push(shard, op).await;
        self.answer(token).await.unwrap()
    }

    /// A client connects to this node: its epoch, whether it had a session, and how many older connections there are.
    pub(crate) async fn claim(&mut self, shard: u16, id: &str) -> (u64, bool, usize) {
        match self.op(shard, Op::Claim(Box::new(claim(id)))).await {
            OpAnswer::Claimed { epoch, session_present, older } => (epoch, session_present, older.len()),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn claim(id: &str) -> Claim {
    let limits =
        QueueLimits { max_messages: 1 << 20, max_bytes: 1 << 30, drop: DropPolicy::Newest, max_subscriptions: 100 };
    Claim { client: name(id), clean_start: false, expiry_s: 3_600, will: None, limits, durable: true, yields: false }
}

pub(crate) fn name(id: &str) -> Name {
    Name::new(0, id)
}

pub(crate) fn subscribe(id: &str, epoch: u64, filter: &str) -> Op {
    let qos = QoS::AtLeastOnce;
    let subscription =
        Subscription { filter: filter.into(), qos, no_local: false, retain_as_published: false, identifier: 0 };
    Op::Subscribe { client: name(id), epoch, filters: vec![subscription] }
}

pub(crate) fn publish(topic: &str, payload: &str) -> Op {
    Op::Publish { namespace: 0, message: message(topic, payload, false) }
}

pub(crate) fn retained(topic: &str, payload: &str) -> Message {
    message(topic, payload, true)
}

fn message(topic: &str, payload: &str, retain: bool) -> Message {
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain,
        topic,
        packet_id: NonZeroU16::new(1),
        properties: Properties::EMPTY,
        payload: payload.as_bytes(),
    };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, "publisher", 1_000, None).unwrap()
}

/// What waits for a client in this node's replica: everything is granted first.
pub(crate) async fn queue(worker: &mut Worker, process: &Process, shard: u16, id: &str, epoch: u64) -> Vec<String> {
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

/// What is in a client's queue above a number now, which is acknowledged.
pub(crate) async fn take(
    worker: &mut Worker,
    process: &Process,
    shard: u16,
    id: &str,
    epoch: u64,
    last: &mut u64,
) -> Vec<String> {
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
