//! What the tests of a shard share: a store in memory, random numbers, messages, a replica that is flushed and started again.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::rc::Rc;

use bytes::Bytes;
use raftmq_mqtt::{Message, Origin, Properties, Publish, QoS};
use raftmq_shard::{
    Answer, Batch, Bounds, Claim, Command, DropPolicy, Effect, Name, NodeBoot, Op, OpAnswer, QueueLimits, SeqRange,
    ShardMachine, SlotSet, Store, StoreError, Subscription, stamped,
};

/// A store that is a map, and fails when it is told to.
#[derive(Clone, Default)]
pub struct MemoryStore {
    map: Rc<RefCell<BTreeMap<Vec<u8>, Bytes>>>,
    /// Reads that work before one that does not.
    pub fails_after: Rc<Cell<Option<u32>>>,
}

impl MemoryStore {
    /// A copy of its own.
    pub fn snapshot(&self) -> Self {
        Self { map: Rc::new(RefCell::new(self.map.borrow().clone())), ..Self::default() }
    }

    pub fn write(&self, changes: Vec<(Vec<u8>, Option<Bytes>)>) {
        let mut map = self.map.borrow_mut();
        for (key, value) in changes {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
    }

    pub fn len(&self) -> usize {
        self.map.borrow().len()
    }

    pub fn bytes(&self) -> usize {
        self.map.borrow().iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    pub fn entries(&self) -> BTreeMap<Vec<u8>, Bytes> {
        self.map.borrow().clone()
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.fails_after.get() {
            Some(0) => Err(StoreError::Read("told to fail".into())),
            Some(left) => {
                self.fails_after.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.check()?;
        Ok(self.map.borrow().get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.check()?;
        if from >= to {
            return Ok(Vec::new());
        }
        let map = self.map.borrow();
        let range = map.range(from.to_vec()..to.to_vec()).take(limit);
        Ok(range.map(|(key, value)| (Bytes::copy_from_slice(key), value.clone())).collect())
    }
}

/// A replica, its log and its store.
pub struct Replica {
    pub machine: ShardMachine<MemoryStore>,
    pub store: MemoryStore,
    cache_bytes: usize,
}

impl Replica {
    pub fn new(store: MemoryStore, cache_bytes: usize) -> Self {
        Self { machine: ShardMachine::load(store.clone(), cache_bytes).unwrap(), store, cache_bytes }
    }

    pub fn apply(&mut self, index: u64, bytes: &[u8]) -> (Vec<u8>, Vec<Effect>) {
        let mut effects = Vec::new();
        let answer = self.machine.apply(index, bytes, &mut effects).unwrap();
        (answer, effects)
    }

    pub fn flush(&mut self) {
        let mut changes = Vec::new();
        let mut change = |key: &[u8], value: Option<&[u8]>| {
            changes.push((key.to_vec(), value.map(Bytes::copy_from_slice)));
        };
        self.machine.flush(&mut change).unwrap();
        self.store.write(changes);
        assert_eq!(self.machine.dirty_bytes(), 0);
        assert!(self.machine.clean_bytes() <= self.cache_bytes, "{}", self.machine.clean_bytes());
    }

    /// Loses what is in memory, and applies what is in the log since the last flush.
    pub fn restart(&mut self, log: &[Vec<u8>], answers: &[Vec<u8>]) {
        self.machine = ShardMachine::load(self.store.clone(), self.cache_bytes).unwrap();
        let applied = self.machine.applied() as usize;
        for (at, (entry, answer)) in log.iter().zip(answers).enumerate().skip(applied) {
            assert_eq!(&self.apply(at as u64 + 1, entry).0, answer, "entry {} again after a restart", at + 1);
        }
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len() as u64) as usize)
    }
}

pub fn message_of(
    topic: &str,
    publisher: &str,
    qos: QoS,
    retain: bool,
    payload: &[u8],
    expiry_ms: Option<u64>,
) -> Message {
    let packet_id = NonZeroU16::new(1).filter(|_| qos > QoS::AtMostOnce);
    let publish = Publish { dup: false, qos, retain, topic, packet_id, properties: Properties::EMPTY, payload };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, publisher, 1_000, expiry_ms.map(|ms| 1_000 + ms)).unwrap()
}

/// A QoS 1 message of a publisher that is nobody's session.
pub fn message(topic: &str, payload: &str) -> Message {
    message_of(topic, "publisher", QoS::AtLeastOnce, false, payload.as_bytes(), None)
}

pub const LIMITS: QueueLimits =
    QueueLimits { max_messages: 1_000_000, max_bytes: 1 << 40, drop: DropPolicy::Newest, max_subscriptions: 100_000 };

pub fn name(id: &str) -> Name {
    Name::new(0, id)
}

pub fn claim(id: &str) -> Claim {
    Claim {
        client: name(id),
        clean_start: false,
        expiry_s: 3_600,
        will: None,
        limits: LIMITS,
        durable: true,
        yields: false,
    }
}

pub fn subscription(filter: &str, qos: QoS) -> Subscription {
    Subscription { filter: filter.into(), qos, no_local: false, retain_as_published: false, identifier: 0 }
}

pub fn seqs(first: u64, last: u64) -> Vec<SeqRange> {
    vec![SeqRange { first, last }]
}

/// A machine to which tables of rules are put: one replica, in whose log they write without caring for streams.
pub struct Table {
    pub replica: Replica,
    pub effects: Vec<Effect>,
    pub index: u64,
    next: BTreeMap<NodeBoot, u64>,
    clock: u64,
}

pub const NODE: NodeBoot = NodeBoot { node: 1, boot: 1 };
pub const OTHER: NodeBoot = NodeBoot { node: 2, boot: 1 };

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    pub fn new() -> Self {
        let replica = Replica::new(MemoryStore::default(), 1 << 20);
        let mut table = Self { replica, effects: Vec::new(), index: 0, next: BTreeMap::new(), clock: 0 };
        table.apply(&Command::Place { epoch: 1, slots: SlotSet::ALL });
        table
    }

    pub fn apply(&mut self, command: &Command) -> Answer {
        self.apply_entry(&command.encode())
    }

    pub fn apply_entry(&mut self, entry: &[u8]) -> Answer {
        self.index += 1;
        let (answer, effects) = self.replica.apply(self.index, entry);
        self.effects = effects;
        Answer::decode(&answer).unwrap()
    }

    pub fn op(&mut self, node: NodeBoot, op: Op) -> OpAnswer {
        if !self.next.contains_key(&node) {
            assert_eq!(self.apply(&Command::Open { node, lane: 0 }), Answer::Opened { next: 0 });
            self.next.insert(node, 0);
        }
        let first = self.next[&node];
        *self.next.get_mut(&node).unwrap() += 1;
        match self.apply(&Command::Batch(Batch { node, lane: 0, first, map_epoch: 1, ops: vec![op] })) {
            Answer::Batch(answers) => answers.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Claims on behalf of a node; the epoch, whether there was a session, and how many older connections there are.
    pub fn claim(&mut self, node: NodeBoot, claim: Claim) -> (u64, bool, usize) {
        match self.op(node, Op::Claim(Box::new(claim))) {
            OpAnswer::Claimed { epoch, session_present, older } => (epoch, session_present, older.len()),
            other => panic!("{other:?}"),
        }
    }

    pub fn subscribe(&mut self, node: NodeBoot, id: &str, epoch: u64, filter: &str, qos: QoS) -> OpAnswer {
        self.op(node, Op::Subscribe { client: name(id), epoch, filters: vec![subscription(filter, qos)] })
    }

    /// Publishes a message, which is retained if it says so.
    pub fn publish(&mut self, message: Message) -> OpAnswer {
        if !message.retain() {
            return self.op(NODE, Op::Publish { namespace: 0, message });
        }
        let bounds = Bounds { messages: u64::MAX, bytes: u64::MAX };
        match self.op(NODE, Op::Retain { namespace: 0, message, bounds }) {
            OpAnswer::Retained { matched, dropped, .. } => OpAnswer::Published { matched, dropped },
            other => panic!("{other:?}"),
        }
    }

    pub fn grant(&mut self, id: &str, epoch: u64, up_to: u64) -> OpAnswer {
        self.op(NODE, Op::Grant { client: name(id), epoch, up_to })
    }

    pub fn tick(&mut self, mut ms: u64) {
        loop {
            let step = ms.min(1_000);
            self.clock += step;
            self.apply_entry(&stamped(1, self.clock, &Command::Tick { wall_ms: 0 }.encode()));
            ms -= step;
            if ms == 0 {
                return;
            }
        }
    }

    /// Topics of the wills and delayed messages that have been decided.
    pub fn decided(&mut self) -> Vec<String> {
        let decided = self.replica.machine.unrouted(0, 1_000).unwrap();
        decided.into_iter().map(|entry| entry.message.topic().to_owned()).collect()
    }

    /// Sequence numbers that a client is to be sent.
    pub fn sent(&mut self, id: &str) -> Vec<u64> {
        let sent = self.replica.machine.deliveries(&name(id), 0, usize::MAX, usize::MAX).unwrap();
        sent.unwrap().sent.into_iter().map(|delivery| delivery.seq).collect()
    }
}
