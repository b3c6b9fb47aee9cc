//! Durable shared groups over some shards: each message goes to one member, whoever leaves, disconnects or does not acknowledge, however late
//! notes come and however often; and replicas that are flushed and started again have the same state.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use raftmq_mqtt::QoS;
use raftmq_shard::{
    Answer, Batch, Claim, Command, DropPolicy, GroupInfo, Name, Note, Op, OpAnswer, QueueLimits, Sent, SeqRange,
    SlotSet, Subscribed, Unsubscribed, WillEnd, stamped,
};

use common::{LIMITS, MemoryStore, NODE, Random, Replica, claim, message, message_of, name, seqs, subscription};

const FILTER: &str = "$share/g/t/#";

/// A shard: a replica with everything in memory, and one that is flushed and started again.
struct Shard {
    plain: Replica,
    flushed: Replica,
    log: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    next: u64,
}

impl Shard {
    fn new(cache: usize) -> Self {
        let mut shard = Self {
            plain: Replica::new(MemoryStore::default(), 1 << 20),
            flushed: Replica::new(MemoryStore::default(), cache),
            log: Vec::new(),
            answers: Vec::new(),
            next: 0,
        };
        shard.apply(&Command::Place { epoch: 1, slots: SlotSet::ALL }.encode());
        shard.apply(&Command::Open { node: NODE, lane: 0 }.encode());
        shard
    }

    fn apply(&mut self, entry: &[u8]) -> Answer {
        self.log.push(entry.to_vec());
        let index = self.log.len() as u64;
        let (answer, effects) = self.plain.apply(index, entry);
        assert_eq!((answer.clone(), effects), self.flushed.apply(index, entry));
        self.answers.push(answer.clone());
        Answer::decode(&answer).unwrap()
    }

    fn op(&mut self, op: Op) -> OpAnswer {
        let first = self.next;
        self.next += 1;
        one(self.apply(&Command::Batch(Batch { node: NODE, lane: 0, first, map_epoch: 1, ops: vec![op] }).encode()))
    }

    fn lead(&mut self, op: Op) -> OpAnswer {
        one(self.apply(&Command::Lead { ops: vec![op] }.encode()))
    }

    fn restart(&mut self) {
        self.flushed.restart(&self.log, &self.answers);
    }

    /// Both replicas have the same records, byte for byte.
    fn compare(&mut self) {
        self.plain.flush();
        self.flushed.flush();
        assert_eq!(self.plain.store.entries(), self.flushed.store.entries());
    }
}

fn one(answer: Answer) -> OpAnswer {
    match answer {
        Answer::Batch(answers) => answers.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Shards and clients: the client of number n is in shard n % shards, the group in shard 0.
struct World {
    shards: Vec<Shard>,
    clients: Vec<Client>,
    clock: u64,
}

#[derive(Clone, Default)]
struct Client {
    epoch: Option<u64>,
    /// Messages that this client acknowledged.
    acked: Vec<String>,
}

fn id(client: usize) -> String {
    format!("c{client}")
}

impl World {
    fn new(shards: usize, clients: usize) -> Self {
        let shards = (0..shards).map(|shard| Shard::new(shard * 1_500)).collect();
        Self { shards, clients: vec![Client::default(); clients], clock: 0 }
    }

    fn shard(&mut self, client: usize) -> &mut Shard {
        let at = client % self.shards.len();
        &mut self.shards[at]
    }

    fn connect(&mut self, client: usize) -> bool {
        self.connect_as(client, claim(&id(client)))
    }

    fn connect_as(&mut self, client: usize, claim: Claim) -> bool {
        match self.shard(client).op(Op::Claim(Box::new(claim))) {
            OpAnswer::Claimed { epoch, session_present, older } => {
                for old in older {
                    self.shard(client).op(Op::Closed { client: name(&id(client)), epoch: old.epoch });
                }
                self.clients[client].epoch = Some(epoch);
                session_present
            }
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, client: usize, qos: QoS) -> OpAnswer {
        let epoch = self.clients[client].epoch.unwrap();
        self.shard(client).op(Op::Join {
            client: name(&id(client)),
            epoch,
            subscription: subscription(FILTER, qos),
            shard: 0,
        })
    }

    fn connect_clean(&mut self, client: usize) {
        assert!(!self.connect_as(client, Claim { durable: false, expiry_s: 0, ..claim(&id(client)) }));
    }

    fn join_clean(&mut self, client: usize, qos: QoS) -> OpAnswer {
        let epoch = self.clients[client].epoch.unwrap();
        self.shard(client).op(Op::JoinClean {
            client: name(&id(client)),
            epoch,
            subscription: subscription(FILTER, qos),
            shard: 0,
            limits: LIMITS,
        })
    }

    fn unsubscribe(&mut self, client: usize) -> OpAnswer {
        let epoch = self.clients[client].epoch.unwrap();
        self.shard(client).op(Op::Unsubscribe { client: name(&id(client)), epoch, filters: vec![FILTER.into()] })
    }

    fn disconnect(&mut self, client: usize, expiry_s: Option<u32>) {
        let epoch = self.clients[client].epoch.take().unwrap();
        let client_name = name(&id(client));
        self.shard(client).op(Op::Disconnect { client: client_name, epoch, expiry_s, will: WillEnd::Keep });
    }

    /// Publishes in the group's shard; whether there was a group.
    fn publish(&mut self, payload: &str, qos: QoS) -> bool {
        let message = message_of("t/x", "publisher", qos, false, payload.as_bytes(), None);
        match self.shards[0].op(Op::Publish { namespace: 0, message }) {
            OpAnswer::Published { matched, dropped: 0 } => matched > 0,
            other => panic!("{other:?}"),
        }
    }

    /// The leader of one shard tells another at most `limit` notes, and perhaps does not hear that they came.
    fn carry(&mut self, from: usize, to: usize, limit: usize, heard: bool) -> bool {
        let destinations = self.shards[from].plain.machine.note_destinations().unwrap();
        assert_eq!(destinations, self.shards[from].flushed.machine.note_destinations().unwrap());
        let Some((_, after)) = destinations.into_iter().find(|(shard, _)| *shard == to as u32) else { return false };
        let notes = self.shards[from].plain.machine.notes(to as u32, after, limit).unwrap();
        let mut last = after;
        for sent in notes {
            last = sent.number;
            let op = Op::Note { source: from as u32, number: last, note: Box::new(sent.note), message: sent.message };
            let answer = self.shards[to].lead(op);
            assert!(matches!(answer, OpAnswer::Done | OpAnswer::Duplicate), "{answer:?}");
        }
        if heard {
            assert_eq!(self.shards[from].lead(Op::Noted { destination: to as u32, up_to: last }), OpAnswer::Done);
        }
        true
    }

    fn settle(&mut self) {
        let shards = self.shards.len();
        for round in 0.. {
            assert!(round < 10_000, "notes without end");
            let mut moved = false;
            for from in 0..shards {
                for to in 0..shards {
                    moved |= self.carry(from, to, 50, true);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn tick(&mut self, ms: u64) {
        self.clock += ms;
        let entry = stamped(1, self.clock, &Command::Tick { wall_ms: 0 }.encode());
        self.shards.iter_mut().for_each(|shard| drop(shard.apply(&entry)));
    }

    /// Grants all that a client has; what it is sent: number, payload, DUP; without a payload it is a release.
    fn sent(&mut self, client: usize) -> Vec<(u64, Option<String>, bool)> {
        let Some(epoch) = self.clients[client].epoch else { return Vec::new() };
        let client = (name(&id(client)), client);
        let last = match self.shard(client.1).plain.machine.deliveries(&client.0, 0, 10_000, usize::MAX).unwrap() {
            Some(deliveries) => deliveries.last,
            None => return Vec::new(),
        };
        self.shard(client.1).op(Op::Grant { client: client.0.clone(), epoch, up_to: last });
        let deliveries = self.shard(client.1).plain.machine.deliveries(&client.0, 0, 10_000, usize::MAX).unwrap();
        let read = |sent| match sent {
            Sent::Publish { message, dup, .. } => (Some(String::from_utf8(message.payload().to_vec()).unwrap()), dup),
            Sent::Release => (None, true),
        };
        let sent = deliveries.unwrap().sent.into_iter().map(|delivery| (delivery.seq, read(delivery.sent)));
        sent.map(|(seq, (payload, dup))| (seq, payload, dup)).collect()
    }

    fn ack(&mut self, client: usize, seq: u64, payload: String) {
        let Some(epoch) = self.clients[client].epoch else { return };
        let op = Op::Ack { client: name(&id(client)), epoch, seqs: seqs(seq, seq) };
        assert_eq!(self.shard(client).op(op), OpAnswer::Acked { count: 1 });
        self.clients[client].acked.push(payload);
    }

    fn rec(&mut self, client: usize, seq: u64) {
        let epoch = self.clients[client].epoch.unwrap();
        let op = Op::Rec { client: name(&id(client)), epoch, seqs: seqs(seq, seq) };
        assert_eq!(self.shard(client).op(op), OpAnswer::Acked { count: 1 });
    }

    /// A client has not acknowledged these numbers in time: how many others shall have.
    fn late(&mut self, client: usize, first: u64, last: u64) -> u32 {
        let epoch = self.clients[client].epoch.unwrap();
        let op = Op::Return { client: name(&id(client)), epoch, seqs: seqs(first, last) };
        match self.shard(client).op(op) {
            OpAnswer::Acked { count } => count,
            OpAnswer::NoSession => 0,
            other => panic!("{other:?}"),
        }
    }

    /// What a client is sent is acknowledged.
    fn consume(&mut self, client: usize) -> Vec<String> {
        let sent = self.sent(client);
        let payloads = sent.iter().filter_map(|(_, payload, _)| payload.clone()).collect();
        for (seq, payload, _) in sent {
            self.ack(client, seq, payload.unwrap_or_default());
        }
        payloads
    }

    fn group(&mut self) -> Option<GroupInfo> {
        self.shards[0].plain.machine.group(&name(FILTER)).unwrap()
    }

    /// Payloads that a client is sent.
    fn payloads(&mut self, client: usize) -> Vec<String> {
        self.sent(client).into_iter().filter_map(|(_, payload, _)| payload).collect()
    }
}

fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn members_take_turns() {
    let mut world = World::new(2, 3);
    for client in 0..3 {
        world.connect(client);
        let joined = world.join(client, QoS::AtLeastOnce);
        assert!(
            matches!(&joined, OpAnswer::Subscribed(of) if matches!(of[..], [Subscribed::Joined { .. }])),
            "{joined:?}"
        );
    }
    assert!(!world.publish("nobody", QoS::AtLeastOnce), "the group's shard does not know it yet");
    world.settle();
    assert_eq!(world.group().unwrap().route, 2);
    numbered(0..6).iter().for_each(|payload| assert!(world.publish(payload, QoS::AtLeastOnce)));
    assert!(!world.publish("0 has QoS 0", QoS::AtMostOnce));
    world.settle();
    let mut all: Vec<String> = Vec::new();
    for client in 0..3 {
        let got = world.consume(client);
        assert_eq!(got.len(), 2, "{got:?}");
        all.extend(got);
    }
    all.sort();
    assert_eq!(all, numbered(0..6));
    world.settle();
    assert_eq!(world.group().unwrap().messages, 0);
    let again = world.join(0, QoS::ExactlyOnce);
    assert!(
        matches!(&again, OpAnswer::Subscribed(of) if matches!(of[..], [Subscribed::Joined { note: 1.. }])),
        "{again:?}"
    );
    assert_eq!(world.join(0, QoS::AtMostOnce), OpAnswer::Subscribed(vec![Subscribed::Invalid]));
}

/// The queue of a group whose members are all away is kept, in its order.
#[test]
fn a_group_waits_for_its_members() {
    let mut world = World::new(2, 2);
    world.connect(1);
    world.join(1, QoS::AtLeastOnce);
    world.settle();
    world.disconnect(1, None);
    world.settle();
    let published = numbered(0..200);
    published.iter().for_each(|payload| assert!(world.publish(payload, QoS::AtLeastOnce)));
    world.settle();
    assert!(world.connect(1));
    world.settle();
    let mut got = Vec::new();
    while got.len() < 200 {
        let some = world.consume(1);
        assert!(!some.is_empty() && some.len() <= 32, "{}", some.len());
        got.extend(some);
        world.settle();
    }
    assert_eq!(got, published);
}

/// `[MQTT-4.8.2-6]`: what a member did not acknowledge when its connection ended goes to others; `[MQTT-4.8.2-4]`: with QoS 2 it completes it.
#[test]
fn what_is_not_acknowledged_goes_to_another_member() {
    for (qos, stays) in [(QoS::AtLeastOnce, false), (QoS::ExactlyOnce, true)] {
        let mut world = World::new(2, 2);
        world.connect(1);
        world.join(1, qos);
        world.settle();
        numbered(0..3).iter().for_each(|payload| assert!(world.publish(payload, qos)));
        world.settle();
        let sent = world.sent(1);
        assert_eq!(sent.len(), 3);
        // One more that was not sent, and goes to the other in any case.
        assert!(world.publish("3", qos));
        world.settle();
        if stays {
            world.rec(1, sent[0].0);
        } else {
            world.ack(1, sent[0].0, "0".into());
        }
        world.connect(0);
        world.join(0, qos);
        world.disconnect(1, None);
        world.settle();
        let expected = if stays { vec!["3".to_owned()] } else { numbered(1..4) };
        assert_eq!(world.payloads(0), expected, "{qos:?}");
        world.connect(1);
        world.settle();
        let again: Vec<_> = world.sent(1).into_iter().map(|(_, payload, dup)| (payload, dup)).collect();
        let completed = vec![(None, true), (Some("1".to_owned()), true), (Some("2".to_owned()), true)];
        assert_eq!(again, if stays { completed } else { Vec::new() });
    }
}

/// A member that is connected and acknowledges nothing: others get what it has, and it gets one message at a time until it acknowledges one.
#[test]
fn what_is_not_acknowledged_in_time_goes_to_others() {
    let mut world = World::new(2, 3);
    let q1 = QoS::AtLeastOnce;
    let slow = |world: &mut World| world.group().unwrap().members.iter().map(|member| member.slow).collect::<Vec<_>>();
    world.connect(1);
    world.join(1, q1);
    world.settle();
    assert!(world.publish("alone", q1));
    world.settle();
    let alone = world.sent(1);
    // There is nobody else: it has as long as it takes.
    assert_eq!(world.late(1, alone[0].0, alone[0].0), 1);
    world.settle();
    assert_eq!((slow(&mut world), world.group().unwrap().back), (vec![false], 0));
    world.ack(1, alone[0].0, "alone".into());
    world.connect(0);
    world.join(0, q1);
    world.settle();
    let all = numbered(0..40);
    all.iter().for_each(|payload| assert!(world.publish(payload, q1)));
    world.settle();
    let mut got = world.consume(0);
    let hangs = world.sent(1);
    assert_eq!((got.len(), hangs.len()), (20, 20));
    // The first one alone, and once however often it is said; then all.
    let first = hangs[0].0;
    for _ in 0..2 {
        assert_eq!(world.late(1, first, first), 1);
        world.settle();
        assert_eq!(world.payloads(0), [hangs[0].1.clone().unwrap()]);
    }
    assert_eq!(world.late(1, 1, u64::MAX), 20);
    world.settle();
    got.extend(world.consume(0));
    got.sort();
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(got, sorted);
    world.settle();
    assert_eq!((slow(&mut world), world.group().unwrap().messages), (vec![false, true], 0));
    // It has them still. The others get what comes, but for one at a time.
    assert_eq!(world.sent(1).len(), 20);
    numbered(40..50).iter().for_each(|payload| assert!(world.publish(payload, q1)));
    world.settle();
    assert_eq!((world.consume(0).len(), world.payloads(1).len()), (9, 21));
    // That goes to another one, who has no room at first; it is not given to whom it came from.
    let probe = world.sent(1).pop().unwrap();
    world.settle();
    numbered(50..82).iter().for_each(|payload| assert!(world.publish(payload, q1)));
    world.settle();
    assert_eq!(world.payloads(0).len(), 32);
    assert_eq!(world.late(1, probe.0, probe.0), 1);
    world.settle();
    assert_eq!((world.group().unwrap().back, world.sent(1).len()), (1, 21));
    // What is new does not wait for that.
    assert!(world.publish("82", q1));
    world.settle();
    assert_eq!(world.payloads(1).len(), 22);
    // It is acknowledged late, but before another one has it. What others have done is acknowledged for nothing.
    world.ack(1, probe.0, probe.1.clone().unwrap());
    world.settle();
    assert_eq!((world.group().unwrap().back, slow(&mut world)), (0, vec![false, false]));
    assert_eq!((world.consume(0).len(), world.consume(1).len()), (32, 21));
    world.settle();
    assert_eq!(world.group().unwrap().messages, 0);
    // Where both hang one has what the other one had, and each waits for the other.
    numbered(84..88).iter().for_each(|payload| assert!(world.publish(payload, q1)));
    world.settle();
    for client in [1, 0, 1, 0] {
        world.sent(client);
        world.late(client, 1, u64::MAX);
        world.settle();
    }
    assert_eq!(slow(&mut world), [false, true]);
    assert_eq!((world.payloads(0).len(), world.payloads(1).len()), (4, 2));
    // A new connection begins anew, and may have what it had before.
    world.disconnect(0, None);
    world.settle();
    world.disconnect(1, None);
    world.connect(1);
    world.settle();
    assert_eq!((slow(&mut world), world.consume(1).len()), (vec![false, false], 4));
    world.settle();
    assert_eq!(world.group().unwrap().messages, 0);
    world.shards.iter_mut().for_each(Shard::restart);
    world.shards.iter_mut().for_each(Shard::compare);
}

/// What one had is to go to another one, who goes before he has it: the first one gets it again when it has lost it.
#[test]
fn what_is_late_is_not_forgotten() {
    let mut world = World::new(2, 3);
    let q1 = QoS::AtLeastOnce;
    for client in [0, 1] {
        world.connect(client);
        world.join(client, q1);
    }
    world.settle();
    numbered(0..64).iter().for_each(|payload| assert!(world.publish(payload, q1)));
    world.settle();
    let (one, _) = (world.sent(1), world.sent(0));
    assert_eq!(world.late(1, one[0].0, one[3].0), 4);
    world.settle();
    assert_eq!(world.group().unwrap().back, 4);
    world.unsubscribe(0);
    world.disconnect(0, Some(0));
    world.settle();
    // Two of them it acknowledges, the others it loses with its connection.
    for (seq, payload, _) in &one[..2] {
        world.ack(1, *seq, payload.clone().unwrap());
    }
    world.settle();
    // What it has it is not given once more.
    let has = world.payloads(1);
    assert_eq!(has.iter().collect::<BTreeSet<_>>().len(), has.len(), "{has:?}");
    world.disconnect(1, None);
    world.settle();
    world.connect(1);
    world.settle();
    let mut got = BTreeSet::new();
    loop {
        let some = world.consume(1);
        if some.is_empty() {
            break;
        }
        got.extend(some);
        world.settle();
    }
    assert_eq!((got.len(), world.group().unwrap().messages), (62, 0));
}

/// A member that hangs is given one message after the other, until it has so many of them.
#[test]
fn who_hangs_gets_no_more_than_it_may_keep() {
    let mut world = World::new(2, 3);
    let q1 = QoS::AtLeastOnce;
    for client in [0, 1] {
        world.connect(client);
        world.join(client, q1);
    }
    world.settle();
    for turn in 0..60 {
        numbered(2 * turn..2 * turn + 2).iter().for_each(|payload| assert!(world.publish(payload, q1)));
        world.settle();
        world.consume(0);
        world.sent(1);
        world.late(1, 1, u64::MAX);
        world.settle();
        world.consume(0);
        world.settle();
    }
    assert_eq!((world.sent(1).len(), world.group().unwrap().messages), (32, 0));
    // With the first that it acknowledges it takes its turn again.
    assert_eq!(world.consume(1).len(), 32);
    world.settle();
    numbered(120..122).iter().for_each(|payload| assert!(world.publish(payload, q1)));
    world.settle();
    assert_eq!((world.payloads(0).len(), world.payloads(1).len()), (1, 1));
}

/// What one that hangs had waits for one that does not, if there is any, and not for another one that hangs.
#[test]
fn what_came_back_goes_to_who_works() {
    let mut world = World::new(2, 3);
    let q1 = QoS::AtLeastOnce;
    for client in 0..3 {
        world.connect(client);
        world.join(client, q1);
    }
    world.settle();
    numbered(0..3).iter().for_each(|payload| assert!(world.publish(payload, q1)));
    world.settle();
    for client in [1, 2] {
        assert_eq!(world.sent(client).len(), 1);
        world.late(client, 1, u64::MAX);
    }
    world.settle();
    assert_eq!(world.consume(0).len(), 3);
    world.settle();
    // The one that works has as much as it may have at once.
    numbered(3..50).iter().for_each(|payload| assert!(world.publish(payload, q1)));
    world.settle();
    assert_eq!(world.sent(0).len(), 32);
    for client in [1, 2] {
        let probe = world.sent(client).pop().unwrap();
        assert_eq!(world.late(client, probe.0, probe.0), 1);
    }
    world.settle();
    assert_eq!(world.group().unwrap().back, 2);
    assert_eq!(world.consume(0).len(), 32);
    world.settle();
    assert_eq!(world.group().unwrap().back, 0);
}

/// Who was sent nothing for however long gets all when it takes something again.
#[test]
fn who_took_nothing_begins_again() {
    let mut world = World::new(2, 3);
    world.connect_clean(2);
    world.join_clean(2, QoS::AtLeastOnce);
    world.settle();
    numbered(0..5).iter().for_each(|payload| assert!(world.publish(payload, QoS::AtLeastOnce)));
    world.settle();
    for turn in 0..40 {
        assert_eq!(world.late(2, 1, u64::MAX), if turn == 0 { 5 } else { 1 });
        world.settle();
    }
    let mut got = Vec::new();
    for _ in 0..5 {
        got.extend(world.consume(2));
        world.settle();
    }
    got.sort();
    assert_eq!((got, world.group().unwrap().messages), (numbered(0..5), 0));
}

/// What may have been sent with QoS 2 stays with its member; what was not goes.
#[test]
fn what_was_begun_with_qos_2_is_waited_for() {
    let mut world = World::new(2, 2);
    world.connect(1);
    world.join(1, QoS::ExactlyOnce);
    world.settle();
    world.publish("0", QoS::ExactlyOnce);
    world.settle();
    let sent = world.sent(1);
    world.publish("1", QoS::ExactlyOnce);
    world.settle();
    world.connect(0);
    world.join(0, QoS::ExactlyOnce);
    world.settle();
    assert_eq!(world.late(1, 1, u64::MAX), 1);
    world.settle();
    assert_eq!((world.consume(0), world.payloads(1)), (vec!["1".to_owned()], vec!["0".to_owned()]));
    world.rec(1, sent[0].0);
    world.settle();
    assert_eq!(world.group().unwrap().messages, 0);
}

/// Members whose sessions end with their connection: what they have not acknowledged then goes to others, and they have nothing when they come back.
#[test]
fn members_of_clean_sessions() {
    let mut world = World::new(2, 3);
    world.connect(0);
    world.join(0, QoS::AtLeastOnce);
    world.connect_clean(1);
    assert!(matches!(world.join(1, QoS::AtLeastOnce), OpAnswer::NoSession));
    let joined = world.join_clean(1, QoS::AtLeastOnce);
    assert!(matches!(&joined, OpAnswer::Subscribed(of) if matches!(of[..], [Subscribed::Joined { .. }])), "{joined:?}");
    world.settle();
    numbered(0..10).iter().for_each(|payload| assert!(world.publish(payload, QoS::AtLeastOnce)));
    world.settle();
    let (durable, clean) = (world.consume(0), world.sent(1));
    assert_eq!((durable.len(), clean.len()), (5, 5));
    world.ack(1, clean[0].0, clean[0].1.clone().unwrap());
    // Its connection ends.
    world.disconnect(1, None);
    world.settle();
    assert_eq!(world.consume(0).len(), 4);
    world.settle();
    let group = world.group().unwrap();
    assert_eq!((group.messages, group.members.len()), (0, 1));
    world.connect_clean(1);
    assert!(world.sent(1).is_empty());
    // It is taken over, by a durable session even.
    world.join_clean(1, QoS::AtLeastOnce);
    world.settle();
    numbered(10..14).iter().for_each(|payload| assert!(world.publish(payload, QoS::AtLeastOnce)));
    world.settle();
    assert_eq!((world.consume(0).len(), world.sent(1).len()), (2, 2));
    world.settle();
    assert!(!world.connect_as(1, Claim { clean_start: false, ..claim("c1") }));
    world.settle();
    assert_eq!((world.consume(0).len(), world.sent(1).len()), (2, 0));
    world.settle();
    // The group ends with the last of them, whose session is clean.
    world.connect_clean(2);
    world.join_clean(2, QoS::ExactlyOnce);
    world.settle();
    world.unsubscribe(0);
    world.settle();
    assert!(world.publish("14", QoS::AtLeastOnce));
    world.settle();
    assert_eq!(world.payloads(2), ["14"]);
    world.disconnect(2, None);
    world.settle();
    assert_eq!(world.group(), None);
    world.disconnect(0, Some(0));
    world.disconnect(1, Some(0));
    for shard in &mut world.shards {
        let numbers = shard.plain.machine.numbers();
        assert_eq!((numbers.sessions, numbers.clients, numbers.messages), (0, 0, 0));
        shard.restart();
        shard.compare();
    }
}

/// `[MQTT-4.8.2-5]`: what was begun with QoS 2 ends with the session; what was not sent does not.
#[test]
fn the_end_of_a_session() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut world = World::new(2, 2);
        world.connect(0);
        world.connect(1);
        world.join(1, qos);
        world.settle();
        world.publish("0", qos);
        world.settle();
        assert_eq!(world.payloads(1), ["0"]);
        world.publish("1", qos);
        world.settle();
        world.join(0, qos);
        world.disconnect(1, Some(0));
        world.settle();
        let expected: &[&str] = if qos == QoS::ExactlyOnce { &["1"] } else { &["0", "1"] };
        assert_eq!(world.consume(0), expected);
        world.settle();
        let group = world.group().unwrap();
        assert_eq!((group.messages, group.members.len()), (0, 1));
        assert!(!world.connect(1), "no session");
        assert!(world.sent(1).is_empty());
    }
}

#[test]
fn unsubscribe_gives_back_what_was_not_sent_and_the_last_one_ends_the_group() {
    let mut world = World::new(2, 2);
    world.connect(0);
    world.connect(1);
    world.join(1, QoS::AtLeastOnce);
    world.settle();
    world.publish("0", QoS::AtLeastOnce);
    world.settle();
    assert_eq!(world.payloads(1), ["0"]);
    world.publish("1", QoS::AtLeastOnce);
    world.settle();
    world.join(0, QoS::AtLeastOnce);
    let left = world.unsubscribe(1);
    assert!(
        matches!(&left, OpAnswer::Unsubscribed(of) if matches!(of[..], [Unsubscribed::Left { note: 2.. }])),
        "{left:?}"
    );
    assert_eq!(world.unsubscribe(1), OpAnswer::Unsubscribed(vec![Unsubscribed::Missing]));
    world.settle();
    assert_eq!(world.consume(0), ["1"]);
    assert_eq!(world.group().unwrap().members.len(), 2, "it may still acknowledge");
    assert_eq!(world.consume(1), ["0"]);
    world.settle();
    assert_eq!(world.group().unwrap().members.len(), 1);
    world.unsubscribe(0);
    world.settle();
    assert_eq!(world.group(), None);
    assert!(!world.publish("2", QoS::AtLeastOnce));
    world.tick(1);
    let numbers = world.shards[0].plain.machine.numbers();
    assert_eq!((numbers.messages, numbers.queued, numbers.subscriptions), (0, 0, 0));
}

/// Many that expired do not make one step long, and do not stop what comes after them.
#[test]
fn what_expired_goes_step_by_step() {
    let mut world = World::new(1, 1);
    world.connect(0);
    world.join(0, QoS::AtLeastOnce);
    world.settle();
    world.disconnect(0, None);
    world.settle();
    for number in 0..300 {
        let payload = format!("old {number}");
        let message = message_of("t", "publisher", QoS::AtLeastOnce, false, payload.as_bytes(), Some(500));
        world.shards[0].op(Op::Publish { namespace: 0, message });
    }
    world.publish("new", QoS::AtLeastOnce);
    world.tick(1_000);
    world.connect(0);
    world.settle();
    assert!(world.group().unwrap().messages > 100, "bounded steps");
    for _ in 0..3 {
        world.tick(1);
    }
    world.settle();
    assert_eq!(world.consume(0), ["new"]);
    assert_eq!(world.group().unwrap().dropped[0], 300);
}

#[test]
fn a_full_queue_drops_by_its_policy() {
    for (drop, kept) in [(DropPolicy::Newest, ["0", "1"]), (DropPolicy::Oldest, ["2", "3"])] {
        let limits = QueueLimits { max_messages: 2, drop, ..LIMITS };
        let mut world = World::new(1, 1);
        world.connect_as(0, Claim { limits, ..claim("c0") });
        world.join(0, QoS::AtLeastOnce);
        world.settle();
        world.disconnect(0, None);
        world.settle();
        for payload in numbered(0..4) {
            world.shards[0].op(Op::Publish { namespace: 0, message: message("t", &payload) });
        }
        world.connect(0);
        world.settle();
        assert_eq!(world.consume(0), kept);
    }
}

/// Notes that come too early, and from a shard that has no say.
#[test]
fn notes_are_taken_in_order_and_from_whom_they_concern() {
    let mut world = World::new(2, 2);
    world.connect(1);
    world.join(1, QoS::AtLeastOnce);
    world.settle();
    world.publish("0", QoS::AtLeastOnce);
    let info = world.group().unwrap();
    let (group, session) = (info.number, info.members[0].session);
    let done = |source, number| Op::Note {
        source,
        number,
        note: Box::new(Note::Done { number: group, session, seq: 1 }),
        message: None,
    };
    assert_eq!(world.shards[0].lead(done(1, 7)), OpAnswer::Gap { expected: 2 });
    assert_eq!(world.shards[0].lead(done(1, 1)), OpAnswer::Duplicate);
    assert_eq!(world.shards[0].lead(done(9, 1)), OpAnswer::Done);
    assert_eq!(world.group().unwrap().messages, 1);
    world.settle();
    assert_eq!(world.consume(1), ["0"]);
    let range = SeqRange { first: 1, last: 1 };
    let op = Op::Ack { client: Name::new(0, "c1"), epoch: world.clients[1].epoch.unwrap(), seqs: vec![range] };
    assert_eq!(world.shards[1].op(op), OpAnswer::Acked { count: 0 });
}

/// Members that come and go at random: each message is acknowledged once.
#[test]
fn nothing_is_lost_or_doubled() {
    for seed in 0..40 {
        let guard = Seed(seed);
        random(seed);
        std::mem::forget(guard);
    }
}

/// Says which seed it was.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("failed with seed {}", self.0);
    }
}

/// The session of every third client ends with its connection.
fn is_clean(client: usize) -> bool {
    client % 3 == 2
}

fn random(seed: u64) {
    let mut random = Random(seed);
    let shards = 1 + random.below(3) as usize;
    let clients = 1 + random.below(6) as usize;
    let mut world = World::new(shards, clients);
    // One is always a member, so that the group does not end.
    world.connect(0);
    world.join(0, QoS::AtLeastOnce);
    world.settle();
    let mut published = BTreeSet::new();
    let mut late = 0;
    for step in 0..600 {
        let client = random.below(clients as u64) as usize;
        let connected = world.clients[client].epoch.is_some();
        match random.below(100) {
            0..30 => {
                let payload = step.to_string();
                assert!(world.publish(&payload, QoS::AtLeastOnce));
                published.insert(payload);
            }
            30..50 => {
                let (from, to) = (random.below(shards as u64) as usize, random.below(shards as u64) as usize);
                let (limit, heard) = (1 + random.below(20) as usize, random.chance(70));
                world.carry(from, to, limit, heard);
            }
            50..70 if connected => {
                let sent = world.sent(client);
                for (seq, payload, _) in sent {
                    if random.chance(70) {
                        world.ack(client, seq, payload.unwrap());
                    }
                }
            }
            70..78 if connected => {
                let ends = client > 0 && random.chance(30);
                world.disconnect(client, ends.then_some(0));
            }
            78..88 if is_clean(client) => world.connect_clean(client),
            78..88 => {
                // A takeover if it is connected; the session ends with a clean start.
                let clean_start = client > 0 && random.chance(20);
                world.connect_as(client, Claim { clean_start, ..claim(&id(client)) });
            }
            88..92 if connected && is_clean(client) => drop(world.join_clean(client, QoS::AtLeastOnce)),
            88..92 if connected => drop(world.join(client, QoS::AtLeastOnce)),
            92..93 if connected && client > 0 => drop(world.unsubscribe(client)),
            93..94 if connected => {
                let first = random.below(40);
                late += world.late(client, first, if random.chance(50) { u64::MAX } else { first + 3 });
            }
            94..96 => world.tick(random.below(1_000)),
            96..98 => world.shard(client).flushed.flush(),
            98.. => world.shard(client).restart(),
            _ => {}
        }
        let group = world.group().unwrap();
        assert!(group.members.iter().all(|member| member.in_flight <= 32), "{group:?}");
    }
    // At the end the one that stayed takes all that the others leave.
    for client in 0..clients {
        if client == 0 && world.clients[0].epoch.is_none() {
            world.connect(0);
        } else if client > 0 && world.clients[client].epoch.is_some() {
            world.disconnect(client, None);
        }
    }
    world.settle();
    while !world.consume(0).is_empty() {
        world.settle();
    }
    world.settle();
    let group = world.group().unwrap();
    assert_eq!((group.messages, group.back, group.waiting), (0, 0, 0), "{group:?}");
    let mut times = BTreeMap::<String, u32>::new();
    for payload in world.clients.iter().flat_map(|client| &client.acked) {
        *times.entry(payload.clone()).or_default() += 1;
    }
    assert_eq!(times.keys().cloned().collect::<BTreeSet<_>>(), published);
    // Twice only where somebody was late.
    let twice = times.values().filter(|count| **count > 1).count() as u32;
    assert!(twice <= late, "{twice} {late}");
    for shard in &mut world.shards {
        let numbers = shard.plain.machine.numbers();
        assert_eq!((numbers.queued, numbers.queued_bytes, numbers.messages), (0, 0, 0));
        shard.compare();
    }
}
