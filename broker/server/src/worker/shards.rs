//! This worker's part in the shards: operations to them, and what comes back.
//!
//! A worker hands its operations over with a token and goes on; the answers come through a queue of its own, with what else the shards' replicas of this node have for
//! it. What has to wait for several answers is a task on the worker's thread ([`Worker::later`]).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::LocalBoxFuture;
use raftmq_cluster::{AnswerSink, Kick, LaneError, Port, PushError, ShardListener, Shards};
use raftmq_mqtt::Message;
use raftmq_shard::{Effect, Name, Op, OpAnswer};
use tokio::sync::oneshot;

use super::guests::Unqueued;
use super::late::Late;
use super::wheel::Key;
use super::{NodeShared, Worker};

/// The tenant of all clients, while there is one only.
pub(super) const NAMESPACE: u32 = 0;
/// Operations that found their lane full: from here on publishers are not read.
const LONG: usize = 1_024;
/// With so many of them, or so many bytes, messages are refused: their publishers may come and go while a shard takes nothing.
const MOST: usize = 16 * LONG;
const MOST_BYTES: usize = 64 << 20;

/// What an operation comes to.
pub(super) type Outcome = Result<OpAnswer, LaneError>;

/// Something that a task on the worker's thread does.
pub(super) type Later = Box<dyn FnOnce(Rc<RefCell<Worker>>) -> LocalBoxFuture<'static, ()>>;

/// What the shards have for one worker; filled by other threads.
#[derive(Default)]
pub(crate) struct FromShards {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Bounded by the lanes, which take no further operations while so many are not answered.
    answers: Vec<(u64, Outcome)>,
    /// Clients whose queue may have something new; each once.
    deliver: HashSet<Arc<str>, ahash::RandomState>,
    /// Clients whose shard knows what became of messages that they have published; each once.
    outcomes: HashSet<Arc<str>, ahash::RandomState>,
    /// All clients are to be looked at.
    all: bool,
    kicks: Vec<Kick>,
    live: Vec<Message>,
}

impl FromShards {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects the shards with the workers of a node.
pub(crate) fn listen(node: &Arc<NodeShared>, shards: &Shards) {
    let of = |node: &Arc<NodeShared>| Arc::downgrade(node);
    let applied: ShardListener = {
        let node = of(node);
        Arc::new(move |shard, effects: Option<&[Effect]>| {
            let Some(node) = node.upgrade() else { return };
            let Some(effects) = effects else {
                for worker in 0..node.inboxes.len() {
                    node.hand_to(worker, |queue| queue.all = true);
                }
                return;
            };
            let mut leads: Option<bool> = None;
            for effect in effects {
                match effect {
                    Effect::Deliver { client } => {
                        if let Some(worker) = node.registry.holder(&client.id) {
                            node.hand_to(usize::from(worker), |queue| {
                                queue.deliver.insert(Arc::clone(&client.id));
                            });
                        }
                    }
                    Effect::Outcome { client } => {
                        if let Some(worker) = node.registry.holder(&client.id) {
                            node.hand_to(usize::from(worker), |queue| {
                                queue.outcomes.insert(Arc::clone(&client.id));
                            });
                        }
                    }
                    Effect::Dropped { reason, count } => {
                        // Asked once, where anything was dropped.
                        let ask = || node.shards.as_ref().is_some_and(|shards| shards.leads(shard));
                        if *leads.get_or_insert_with(ask) {
                            node.shard_drops.note(*reason, *count);
                        }
                    }
                    _ => {}
                }
            }
        })
    };
    let kick = {
        let node = of(node);
        Arc::new(move |kick: Kick| {
            let Some(node) = node.upgrade() else { return };
            // A client that is not known here has no connection: any worker can say so.
            let worker = node.registry.holder(&kick.client.id).unwrap_or(0);
            node.hand_to(usize::from(worker), |queue| queue.kicks.push(kick));
        })
    };
    let live = {
        let node = of(node);
        Arc::new(move |_namespace, message: Message, _lifetime_ms| {
            if let Some(node) = node.upgrade() {
                node.hand_to(0, |queue| queue.live.push(message));
            }
        })
    };
    shards.listen(applied, kick, live);
}

impl NodeShared {
    fn hand_to(&self, worker: usize, fill: impl FnOnce(&mut Queue)) {
        if let (Some(from), Some(inbox)) = (self.from_shards.get(worker), self.inboxes.get(worker)) {
            fill(&mut from.lock());
            inbox.wake();
        }
    }
}

/// Who waits for an answer.
pub(super) enum Waiting {
    /// Nobody.
    Nobody,
    /// A task.
    Asked(oneshot::Sender<Outcome>),
    /// The publisher of a message.
    Published(Rc<super::commits::Publishing>),
    /// The publisher of a message that is to be retained.
    Retained(Rc<super::retained::Retaining>),
    /// The publisher of a message with QoS 2 whose session is durable.
    Received(Box<super::durable::Receiving>),
    /// The publisher of one that a shard has to keep first.
    Staged(Key, std::num::NonZeroU16, u16),
    /// The publisher of such ones, for what became of them; and its shard.
    Outcomes(Box<(Key, u16, Vec<super::keeping::Keeping>)>),
    /// A connection whose client has sent PUBREC.
    Recorded(Key, std::num::NonZeroU16),
    /// A client that may be sent more now.
    Granted(Key),
    /// A connection whose client has sent PUBREL.
    Released(Key, std::num::NonZeroU16),
}

/// What a worker knows of its operations.
pub(super) struct ShardDesk {
    pub(super) shards: Shards,
    /// Clients are in shards: from when all members know these.
    in_use: bool,
    port: Port,
    tokens: u64,
    waiting: HashMap<u64, Waiting, ahash::RandomState>,
    /// Operations whose lane was full, by shard, in their order.
    full: HashMap<u16, VecDeque<(Op, u64)>, ahash::RandomState>,
    full_count: usize,
    full_bytes: usize,
    /// Claims that are on their way, by client: how many.
    pub(super) claiming: HashMap<Arc<str>, u32, ahash::RandomState>,
    /// How often this node has parted from a quorum: who is claimed meanwhile may have been taken elsewhere since.
    pub(super) partings: u64,
    /// Clients without a place in the registry since the last of those, each with the epoch of the place that it had.
    pub(super) parted: HashMap<Arc<str>, u64, ahash::RandomState>,
    /// Claims that were taken over before they were answered.
    pub(super) superseded: HashSet<(Arc<str>, u64), ahash::RandomState>,
    /// Clients with acknowledgements that were not handed over.
    pub(super) unsaid: Vec<Key>,
    /// Members of groups that have no queue.
    pub(super) unqueued: Unqueued,
    /// Clients that may be late with acknowledgements.
    pub(super) late: Late,
}

impl ShardDesk {
    pub(super) fn new(node: &Arc<NodeShared>, shards: Shards, worker: u8) -> Self {
        let weak = Arc::downgrade(node);
        let sink: AnswerSink = Arc::new(move |answers: &mut dyn Iterator<Item = (u64, Outcome)>| {
            if let Some(node) = weak.upgrade() {
                node.hand_to(usize::from(worker), |queue| queue.answers.extend(answers));
            }
        });
        Self {
            port: shards.port(worker.into(), sink),
            shards,
            in_use: false,
            tokens: 0,
            waiting: HashMap::default(),
            full: HashMap::default(),
            full_count: 0,
            full_bytes: 0,
            claiming: HashMap::default(),
            partings: 0,
            parted: HashMap::default(),
            superseded: HashSet::default(),
            unsaid: Vec::new(),
            unqueued: Unqueued::default(),
            late: Late::default(),
        }
    }

    /// Hands an operation over. What has no room waits, in order. An outcome that is known at once is given back.
    pub(super) fn push(&mut self, shard: u16, op: Op, waiting: Waiting) -> Option<(Waiting, Outcome)> {
        // Its token is the last one.
        self.tokens += 1;
        let token = self.tokens;
        let op = if self.full.contains_key(&shard) {
            Some(op)
        } else {
            match self.port.push(shard, op, token) {
                Ok(()) => None,
                Err((op, PushError::Full)) => Some(op),
                Err((_, PushError::NotServing)) => return Some((waiting, Err(LaneError::Over))),
            }
        };
        if let Some(op) = op {
            if self.is_too_long() && is_message(&op) {
                return Some((waiting, Err(LaneError::Over)));
            }
            self.full_count += 1;
            self.full_bytes += op.size();
            self.full.entry(shard).or_default().push_back((op, token));
        }
        self.waiting.insert(token, waiting);
        None
    }

    /// As [`ShardDesk::push`], for a task that waits.
    pub(super) fn ask(&mut self, shard: u16, op: Op) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        if let Some((Waiting::Asked(sender), outcome)) = self.push(shard, op, Waiting::Asked(sender)) {
            let _ = sender.send(outcome);
        }
        receiver
    }

    /// As [`ShardDesk::ask`], with the token by which the operation may be withdrawn.
    pub(super) fn ask_revocably(&mut self, shard: u16, op: Op) -> (u64, oneshot::Receiver<Outcome>) {
        let receiver = self.ask(shard, op);
        (self.tokens, receiver)
    }

    /// An operation is not wanted any more; its answer says whether it was done.
    pub(super) fn withdraw(&mut self, shard: u16, token: u64) {
        let waits = self.full.get_mut(&shard).into_iter().flatten().find(|(_, known)| *known == token);
        match waits {
            Some((op, _)) => {
                self.full_bytes -= op.size();
                *op = Op::Skip;
                self.full_bytes += op.size();
            }
            None => self.port.withdraw(shard, token),
        }
    }

    /// Publishers wait: too much found no room.
    pub(super) fn is_long(&self) -> bool {
        self.full_count > LONG
    }

    fn is_too_long(&self) -> bool {
        self.full_count >= MOST || self.full_bytes >= MOST_BYTES
    }

    /// What had no room is tried again. The tokens of what can never be.
    fn retry(&mut self) -> Vec<u64> {
        let mut over = Vec::new();
        if self.full_count == 0 {
            return over;
        }
        let (port, count, bytes) = (&self.port, &mut self.full_count, &mut self.full_bytes);
        self.full.retain(|shard, queue| {
            while let Some((op, token)) = queue.pop_front() {
                let size = op.size();
                match port.push(*shard, op, token) {
                    Ok(()) => {}
                    Err((op, PushError::Full)) => {
                        queue.push_front((op, token));
                        break;
                    }
                    Err((_, PushError::NotServing)) => over.push(token),
                }
                *count -= 1;
                *bytes -= size;
            }
            !queue.is_empty()
        });
        over
    }
}

/// Whether an operation is a message of a publisher, who is told when it cannot be.
const fn is_message(op: &Op) -> bool {
    matches!(op, Op::Publish { .. } | Op::Retain { .. } | Op::Delay { .. } | Op::Receive2 { .. })
}

/// The name of a client.
pub(super) fn name(id: &Arc<str>) -> Name {
    Name { namespace: NAMESPACE, id: Arc::clone(id) }
}

impl Worker {
    /// Whether clients are in shards: in a cluster, once all its members know these. Sessions that began before are of this node only: they end, and
    /// their clients connect again.
    pub(super) fn in_shards(&mut self) -> bool {
        let Some(desk) = &mut self.desk else {
            return false;
        };
        if !desk.in_use && desk.shards.in_use() {
            desk.in_use = true;
            self.end_unclaimed();
        }
        self.knows_shards()
    }

    /// Whether clients are in shards, as was found when [`Self::in_shards`] was asked last: every tick does. For each message.
    pub(super) fn knows_shards(&self) -> bool {
        self.desk.as_ref().is_some_and(|desk| desk.in_use)
    }

    /// Has a task do something, on this thread, in a turn of its own.
    pub(super) fn do_later(&mut self, later: Later) {
        self.later.push_back(later);
        self.later_ready.notify_one();
    }

    /// Looks at what the shards have for this worker.
    pub(super) fn take_from_shards(&mut self) {
        if self.desk.is_none() {
            return;
        }
        let node = Arc::clone(&self.node);
        let Some(from) = node.from_shards.get(usize::from(self.id)) else {
            return;
        };
        let Queue { answers, deliver, outcomes, all, kicks, live } = std::mem::take(&mut *from.lock());
        for (token, outcome) in answers {
            let waiting = self.desk.as_mut().and_then(|desk| desk.waiting.remove(&token));
            if let Some(waiting) = waiting {
                self.answered(waiting, outcome);
            }
        }
        self.retry_operations();
        for kick in kicks {
            self.kicked(kick);
        }
        if all {
            self.deliver_to_all();
        } else {
            for id in deliver {
                if let Some(client) = self.by_id.get(&id).copied() {
                    self.deliver_granted(client);
                }
            }
        }
        for id in outcomes {
            if let Some(client) = self.by_id.get(&id).copied() {
                self.ask_outcomes(client);
            }
        }
        for message in live {
            self.publish_live(&message);
        }
    }

    /// Operations that had no room, and publishers that waited for that.
    pub(super) fn retry_operations(&mut self) {
        let Some(desk) = &mut self.desk else {
            return;
        };
        let over = desk.retry();
        let long = desk.is_long();
        let over: Vec<Waiting> = over.into_iter().filter_map(|token| desk.waiting.remove(&token)).collect();
        for waiting in over {
            self.answered(waiting, Err(LaneError::Over));
        }
        if !long {
            for key in std::mem::take(&mut self.shard_stalled) {
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.stalled = false;
                }
                self.wake(key);
            }
        }
    }

    /// An operation for a shard.
    pub(super) fn push_to_shard(&mut self, shard: u16, op: Op, waiting: Waiting) {
        let Some(desk) = &mut self.desk else {
            return;
        };
        if let Some((waiting, outcome)) = desk.push(shard, op, waiting) {
            self.answered(waiting, outcome);
        }
    }

    fn answered(&mut self, waiting: Waiting, outcome: Outcome) {
        match waiting {
            Waiting::Nobody => {}
            // Who waited is gone.
            Waiting::Asked(sender) => drop(sender.send(outcome)),
            Waiting::Published(publishing) => self.published_to_shard(&publishing, &outcome),
            Waiting::Retained(retaining) => self.retained_by_shard(&retaining, &outcome),
            Waiting::Received(received) => {
                self.received_durable(&received, &outcome);
            }
            Waiting::Staged(key, packet_id, shard) => self.staged(key, packet_id, shard, &outcome),
            Waiting::Outcomes(waiting) => {
                let (key, shard, asked) = *waiting;
                self.outcomes(key, shard, asked, &outcome);
            }
            Waiting::Recorded(key, packet_id) => self.recorded(key, packet_id, &outcome),
            Waiting::Granted(client) => self.granted(client, &outcome),
            Waiting::Released(key, packet_id) => self.released(key, packet_id, &outcome),
        }
    }
}
