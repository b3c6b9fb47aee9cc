//! What a shard does, said as simply as possible: plain maps, everything looked up by walking through all there is. It shares the types
//! of commands and answers with the machine, and `slot`, and no other code.

#![allow(unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use raftmq_mqtt::topic::{TopicFilter, filter_matches};
use raftmq_mqtt::{Message, QoS};
use raftmq_shard::{
    Answer, Batch, Bounds, Claim, Command, DropPolicy, HandedOn, How, Keep, Keeper, Kept as Outcome, Name, NodeBoot,
    Older, Op, OpAnswer, QueueLimits, Sent, SeqRange, SlotSet, Subscribed, Subscription, Unsubscribed, Will, WillEnd,
    slot,
};

/// In a step of what follows a command.
const SWEEP_STEP: usize = 64;
const SUBSCRIPTION_STEP: usize = 64;
const TIMER_STEP: usize = 64;
const BLOCK: u64 = 128;
const WINDOW: u64 = 4_096;
const KEPT_ANSWERS: u64 = 4_096;
const ANSWERS: u64 = 64;
const MAX_OLDER: usize = 8;

/// A client in the order in which clients are walked through.
type ClientKey = (u16, u32, String);

#[derive(Debug, Default)]
pub struct Node {
    pub boot: u64,
    pub lanes: BTreeMap<u16, Vec<OpAnswer>>,
    pub down: Option<u64>,
}

#[derive(Debug, Default, Clone)]
pub struct Client {
    pub owner: Option<NodeBoot>,
    pub epoch: u64,
    pub expiry_s: u32,
    pub will: Option<Will>,
    pub session: Option<u64>,
    /// Each with its will, if that is to be sent.
    pub older: Vec<(Older, Option<Will>)>,
    pub will_at: Option<u64>,
    pub ends_at: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Queued {
    pub message: Kept,
    pub qos: u8,
    pub retain: bool,
    pub identifiers: Vec<u32>,
    pub received: bool,
}

/// A message with a number of its own, and its expiry.
#[derive(Debug, Clone)]
pub struct Kept {
    pub number: u64,
    pub namespace: u32,
    pub message: Message,
    pub expires_at: Option<u64>,
}

#[derive(Debug)]
pub struct Session {
    pub client: Name,
    pub connected: bool,
    pub limits: QueueLimits,
    pub subscriptions: BTreeMap<String, Subscription>,
    /// What is not done.
    pub queue: BTreeMap<u64, Queued>,
    pub next: u64,
    pub granted: u64,
    pub dup_to: u64,
    pub dropped: [u64; 3],
    pub inbound: BTreeSet<u16>,
    /// Of those, what waits for what becomes of it: the number of the message, and that.
    pub staged: Vec<(u16, u64, Option<Outcome>)>,
}

/// On its way to the shard that keeps it.
#[derive(Debug, Clone)]
struct Stage {
    keeper: Keeper,
    since: u64,
    session: u64,
}

/// The state of a shard.
#[derive(Debug)]
pub struct Reference {
    pub now: u64,
    pub map_epoch: u64,
    pub slots: SlotSet,
    pub nodes: BTreeMap<u64, Node>,
    pub clients: BTreeMap<ClientKey, Client>,
    pub sessions: BTreeMap<u64, Session>,
    /// Subscriptions of ended sessions that still count.
    pub ended: BTreeMap<u64, (u32, BTreeSet<String>)>,
    /// Namespace and levels of a topic.
    pub retained: BTreeMap<(u32, Vec<String>), Kept>,
    last_retained: u64,
    pub unrouted: BTreeMap<u64, Kept>,
    pub outbox: BTreeMap<(u32, u64), Kept>,
    stages: BTreeMap<(u32, u64), Stage>,
    /// What became of what sources handed off to be kept.
    outcomes: BTreeMap<u32, Vec<(u64, Outcome)>>,
    /// Time, number.
    pub delayed: BTreeMap<(u64, u64), Kept>,
    sent: BTreeMap<u32, u64>,
    handed_off: BTreeMap<u32, u64>,
    received: BTreeMap<u32, u64>,
    sweeps: Vec<(NodeBoot, u64)>,
    last_epoch: u64,
    last_entry: u64,
    last_message: u64,
    pub dropped: [u64; 3],
    /// Term and time of the leader's clock.
    pub clock: (u64, u64),
    /// By which change a filter was added.
    added: BTreeMap<(u32, String), u64>,
    /// Changes that have not been announced.
    pub routes: BTreeMap<u64, (u32, String, bool)>,
    pub last_route: u64,
    pub announced: u64,
}

impl Reference {
    pub fn new() -> Self {
        Self {
            now: 0,
            map_epoch: 0,
            slots: SlotSet::EMPTY,
            clock: (0, 0),
            added: BTreeMap::new(),
            routes: BTreeMap::new(),
            last_route: 0,
            announced: 0,
            nodes: BTreeMap::new(),
            clients: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ended: BTreeMap::new(),
            retained: BTreeMap::new(),
            last_retained: 0,
            unrouted: BTreeMap::new(),
            outbox: BTreeMap::new(),
            stages: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            delayed: BTreeMap::new(),
            sent: BTreeMap::new(),
            handed_off: BTreeMap::new(),
            received: BTreeMap::new(),
            sweeps: Vec::new(),
            last_epoch: 0,
            last_entry: 0,
            last_message: 0,
            dropped: [0; 3],
        }
    }

    pub fn apply(&mut self, command: Command) -> Answer {
        match command {
            Command::Open { node, lane } => self.open(node, lane),
            Command::Batch(batch) => {
                let answer = self.batch(batch);
                self.step();
                answer
            }
            Command::NodeDown { node } => {
                let known = self.nodes.entry(node.node).or_default();
                if known.down.is_none_or(|down| down < node.boot) {
                    known.down = Some(node.boot);
                    if known.boot <= node.boot {
                        known.lanes.clear();
                    }
                    self.sweeps.push((node, self.now));
                }
                Answer::Done
            }
            Command::Tick { .. } => {
                self.step();
                self.timers();
                Answer::Done
            }
            Command::Jump { to_ms } => {
                self.now = self.now.max(to_ms);
                Answer::Done
            }
            Command::Level { .. } => Answer::Done,
            Command::Place { epoch, slots } => {
                if epoch > self.map_epoch {
                    self.map_epoch = epoch;
                    self.slots = slots;
                }
                Answer::Done
            }
            Command::Lead { ops } => {
                let answers = ops.into_iter().map(|op| match op {
                    Op::Skip | Op::Route { .. } | Op::HandOff { .. } | Op::HandedOff { .. } | Op::Announced { .. } => {
                        self.op(NodeBoot { node: 0, boot: 0 }, op)
                    }
                    _ => OpAnswer::NoStream,
                });
                let answers = answers.collect();
                self.step();
                Answer::Batch(answers)
            }
            Command::Digest { .. } => panic!("replicas are compared with each other, not with this"),
        }
    }

    fn open(&mut self, from: NodeBoot, lane: u16) -> Answer {
        let node = self.nodes.entry(from.node).or_insert_with(|| Node { boot: from.boot, ..Node::default() });
        if from.boot < node.boot || node.down.is_some_and(|down| from.boot <= down) {
            return Answer::Closed { boot: Some(node.boot) };
        }
        if from.boot > node.boot {
            node.lanes.clear();
            node.boot = from.boot;
        }
        Answer::Opened { next: node.lanes.entry(lane).or_default().len() as u64 }
    }

    fn batch(&mut self, batch: Batch) -> Answer {
        let boot = self.nodes.get(&batch.node.node).map(|node| node.boot);
        let answers = match self.nodes.get(&batch.node.node) {
            Some(node) if node.boot == batch.node.boot => node.lanes.get(&batch.lane).cloned(),
            _ => None,
        };
        let Some(mut answers) = answers else { return Answer::Closed { boot } };
        let next = answers.len() as u64;
        if batch.first > next {
            return Answer::Gap { expected: next };
        }
        if batch.first + batch.ops.len() as u64 > next && batch.map_epoch != self.map_epoch {
            return Answer::WrongShard { epoch: self.map_epoch, next };
        }
        let oldest = (next / ANSWERS).saturating_sub(KEPT_ANSWERS / ANSWERS) * ANSWERS;
        let mut result = Vec::new();
        for (number, op) in (batch.first..).zip(batch.ops) {
            if number >= next {
                answers.push(self.op(batch.node, op));
            }
            result.push(if number < oldest { OpAnswer::Forgotten } else { answers[number as usize].clone() });
        }
        self.nodes.get_mut(&batch.node.node).unwrap().lanes.insert(batch.lane, answers);
        Answer::Batch(result)
    }

    fn op(&mut self, from: NodeBoot, op: Op) -> OpAnswer {
        let named = match &op {
            Op::Claim(claim) => Some((&claim.client, None)),
            Op::Closed { client, .. } => Some((client, None)),
            Op::Disconnect { client, epoch, .. }
            | Op::Subscribe { client, epoch, .. }
            | Op::Unsubscribe { client, epoch, .. }
            | Op::Ack { client, epoch, .. }
            | Op::Rec { client, epoch, .. }
            | Op::Grant { client, epoch, .. }
            | Op::Receive2 { client, epoch, .. }
            | Op::Older { client, epoch }
            | Op::Outcomes { client, epoch, .. }
            | Op::Release { client, epoch, .. } => Some((client, Some(*epoch))),
            _ => None,
        };
        let mut session = None;
        if let Some((client, epoch)) = named {
            let key = key(client);
            if !self.slots.contains(key.0) {
                return OpAnswer::WrongShard { epoch: self.map_epoch };
            }
            if let Some(epoch) = epoch {
                match self.clients.get(&key) {
                    Some(known) if known.owner == Some(from) && known.epoch == epoch => session = known.session,
                    _ => {
                        if let Op::Disconnect { will, .. } = op {
                            self.former_ended(&key, |older| older.node == from && older.epoch == epoch, will);
                        }
                        return OpAnswer::Stale;
                    }
                }
                if session.is_none() && !matches!(op, Op::Disconnect { .. } | Op::Older { .. }) {
                    return OpAnswer::NoSession;
                }
            }
        }
        let session = session.unwrap_or_default();
        match op {
            Op::Skip => OpAnswer::Done,
            Op::Claim(claim) => self.claim(from, *claim),
            Op::Older { client, epoch } => {
                self.settle(&key(&client));
                let known = &self.clients[&key(&client)];
                let (session_present, older) =
                    (known.session.is_some(), known.older.iter().map(|(older, _)| *older).collect());
                OpAnswer::Claimed { epoch, session_present, older }
            }
            Op::Closed { client, epoch } => {
                let closed = |older: &Older| older.node == from && older.epoch == epoch;
                self.former_ended(&key(&client), closed, WillEnd::Keep);
                OpAnswer::Done
            }
            Op::Disconnect { client, expiry_s, will, .. } => {
                let key = key(&client);
                if let Some(expiry_s) = expiry_s {
                    self.clients.get_mut(&key).unwrap().expiry_s = expiry_s;
                }
                self.connection_ended(&key, self.now, will);
                self.forget_if_over(&key);
                OpAnswer::Done
            }
            Op::Subscribe { client, filters, .. } => OpAnswer::Subscribed(
                filters.into_iter().map(|filter| self.subscribe(client.namespace, session, filter)).collect(),
            ),
            Op::Unsubscribe { client, filters, .. } => OpAnswer::Unsubscribed(
                filters
                    .iter()
                    .map(|filter| {
                        let mine = &mut self.sessions.get_mut(&session).unwrap().subscriptions;
                        if mine.remove(&**filter).is_none() {
                            return Unsubscribed::Missing;
                        }
                        self.route_may_go(client.namespace, filter);
                        Unsubscribed::Removed
                    })
                    .collect(),
            ),
            Op::Ack { seqs, .. } => self.acknowledge(session, &seqs),
            Op::Rec { seqs, .. } => self.receive(session, &seqs),
            Op::Grant { up_to, .. } => self.grant(session, up_to),
            Op::Receive2 { client, packet_id, message, destinations, keeper, .. } => {
                let known = self.sessions.get_mut(&session).unwrap();
                if !known.inbound.insert(packet_id) {
                    let staged = known.staged.iter().any(|(id, ..)| *id == packet_id);
                    return if staged { OpAnswer::Staged { fresh: false } } else { OpAnswer::Duplicate };
                }
                let Some(keeper) = keeper.map(|keeper| *keeper) else {
                    let kept = self.keep(client.namespace, message.clone(), lifetime(&message));
                    self.send(&kept, destinations);
                    return OpAnswer::Received;
                };
                let lives = if matches!(keeper.keep.how, How::Delay { .. }) { None } else { lifetime(&message) };
                let kept = self.keep(client.namespace, message, lives);
                self.sessions.get_mut(&session).unwrap().staged.push((packet_id, kept.number, None));
                self.send(&kept, vec![keeper.shard]);
                let stage = Stage { keeper, since: self.now, session };
                self.stages.insert((keeper.shard, self.sent[&keeper.shard]), stage);
                OpAnswer::Staged { fresh: true }
            }
            Op::Outcomes { packet_ids, .. } => {
                let known = self.sessions.get_mut(&session).unwrap();
                let (over, left): (Vec<_>, Vec<_>) =
                    known.staged.drain(..).partition(|(id, _, outcome)| outcome.is_some() && packet_ids.contains(id));
                known.staged = left;
                let over: Vec<(u16, Outcome)> =
                    over.into_iter().map(|(id, _, outcome)| (id, outcome.unwrap())).collect();
                for (id, _) in over.iter().filter(|(_, outcome)| *outcome == Outcome::NoRoom) {
                    known.inbound.remove(id);
                }
                OpAnswer::Outcomes(over)
            }
            Op::Release { packet_id, .. } => {
                let known = self.sessions.get_mut(&session).unwrap();
                known.staged.retain(|(id, ..)| *id != packet_id);
                OpAnswer::Released { known: known.inbound.remove(&packet_id) }
            }
            Op::Publish { namespace, message } => {
                let lifetime = lifetime(&message);
                self.publish(namespace, message, lifetime, false)
            }
            Op::Retain { namespace, message, bounds } => {
                let lifetime = lifetime(&message);
                self.retain(namespace, message, lifetime, bounds)
            }
            Op::Delay { namespace, message, delay_ms, bounds } => self.delay(namespace, message, delay_ms, bounds),
            Op::Route { entry, destinations, keeper } => match self.unrouted.remove(&entry) {
                None => OpAnswer::UnknownEntry,
                Some(kept) if keeper.is_some() => {
                    let keeper = *keeper.unwrap();
                    self.send(&kept, vec![keeper.shard]);
                    let stage = Stage { keeper, since: self.now, session: 0 };
                    self.stages.insert((keeper.shard, self.sent[&keeper.shard]), stage);
                    OpAnswer::Done
                }
                Some(kept) => {
                    self.send(&kept, destinations);
                    OpAnswer::Done
                }
            },
            Op::HandOff { source, number, namespace, message, lifetime_ms, keep } => {
                let last = self.received_from(source);
                if number <= last {
                    let known = self.outcomes.get(&source).into_iter().flatten().find(|(known, _)| *known == number);
                    return known.map_or(OpAnswer::Duplicate, |(_, kept)| OpAnswer::Kept(*kept));
                }
                if number > last + 1 {
                    return OpAnswer::Gap { expected: last + 1 };
                }
                let Some(Keep { how, tell }) = keep else {
                    self.received.insert(source, number);
                    return self.publish(namespace, message, lifetime_ms, true);
                };
                let answer = match how {
                    How::Retain { bounds } => self.retain(namespace, message.clone(), lifetime_ms, bounds),
                    How::Delay { delay_ms, bounds } => self.delay(namespace, message.clone(), delay_ms, bounds),
                    How::TooLong => OpAnswer::NoRoom,
                };
                let kept = match answer {
                    OpAnswer::WrongShard { .. } => return answer,
                    OpAnswer::Retained { number, .. } => Outcome::Done { change: number },
                    OpAnswer::Done => Outcome::Done { change: 0 },
                    _ if tell => Outcome::NoRoom,
                    _ => Outcome::Unkept,
                };
                if kept == Outcome::Unkept && !matches!(how, How::Delay { .. }) {
                    self.publish(namespace, message, lifetime_ms, false);
                }
                self.received.insert(source, number);
                let outcomes = self.outcomes.entry(source).or_default();
                outcomes.push((number, kept));
                if outcomes.len() > 64 {
                    outcomes.remove(0);
                }
                OpAnswer::Kept(kept)
            }
            Op::HandedOff { destination, up_to, kept } => {
                let before = self.handed_off.get(&destination).copied().unwrap_or_default();
                let over: Vec<u64> = self
                    .outbox
                    .range((destination, 0)..=(destination, up_to))
                    .map(|((_, number), _)| *number)
                    .collect();
                for number in over {
                    let message = self.outbox.remove(&(destination, number)).unwrap();
                    if let Some(stage) = self.stages.remove(&(destination, number))
                        && let Some(handed) = kept.iter().find(|handed| handed.number == number)
                    {
                        self.send_kept(&message, &stage, handed.clone());
                    }
                }
                let up_to = up_to.min(self.sent.get(&destination).copied().unwrap_or_default());
                self.handed_off.insert(destination, before.max(up_to));
                OpAnswer::HandedOff { before }
            }
            Op::Announced { up_to } => {
                self.announced = self.announced.max(up_to.min(self.last_route).min(self.announced + 256));
                self.routes = self.routes.split_off(&(self.announced + 1));
                OpAnswer::Announced { up_to: self.announced }
            }
            Op::Queue { .. }
            | Op::Join { .. }
            | Op::JoinClean { .. }
            | Op::Return { .. }
            | Op::Note { .. }
            | Op::Noted { .. } => {
                unreachable!("tests of their own")
            }
        }
    }

    // --- clients -----------------------------------------------------------------------------------------------------

    fn claim(&mut self, from: NodeBoot, claim: Claim) -> OpAnswer {
        let key = key(&claim.client);
        self.settle(&key);
        let known = self.clients.get(&key).cloned().unwrap_or_default();
        if known.owner.is_some() && known.older.len() >= MAX_OLDER {
            return OpAnswer::Busy;
        }
        let goes_on = known.session.is_some() && !claim.clean_start && (known.owner.is_none() || known.expiry_s != 0);
        let mut older = known.older;
        let will = known.will.filter(|will| !goes_on || (known.owner.is_some() && will.delay_s == 0));
        if let Some(node) = known.owner {
            older.push((Older { node, epoch: known.epoch }, will));
        } else if let Some(will) = will {
            self.publish_will(key.1, will);
        }
        if !goes_on && let Some(session) = known.session {
            self.end(session);
        }
        self.last_epoch += 1;
        let epoch = self.last_epoch;
        let session = if goes_on {
            let session = self.sessions.get_mut(&known.session.unwrap()).unwrap();
            session.connected = true;
            session.granted = session.granted.min(session.next - 1);
            session.dup_to = session.granted;
            session.limits = claim.limits;
            known.session
        } else if claim.durable {
            let session = Session {
                client: claim.client.clone(),
                connected: true,
                limits: claim.limits,
                subscriptions: BTreeMap::new(),
                queue: BTreeMap::new(),
                next: 1,
                granted: 0,
                dup_to: 0,
                dropped: [0; 3],
                inbound: BTreeSet::new(),
                staged: Vec::new(),
            };
            self.sessions.insert(epoch, session);
            Some(epoch)
        } else {
            None
        };
        let client = Client {
            owner: Some(from),
            epoch,
            expiry_s: claim.expiry_s,
            will: claim.will,
            session,
            older: older.clone(),
            will_at: None,
            ends_at: None,
        };
        self.clients.insert(key, client);
        let older = older.into_iter().map(|(older, _)| older).collect();
        OpAnswer::Claimed { epoch, session_present: goes_on, older }
    }

    fn former_ended(&mut self, key: &ClientKey, ended: impl Fn(&Older) -> bool, end: WillEnd) {
        let Some(known) = self.clients.get_mut(key) else { return };
        let (over, left) = std::mem::take(&mut known.older).into_iter().partition(|(older, _)| ended(older));
        known.older = left;
        let over: Vec<(Older, Option<Will>)> = over;
        for will in over.into_iter().filter_map(|(_, will)| will.filter(|_| end != WillEnd::Drop)) {
            self.publish_will(key.1, will);
        }
        self.forget_if_over(key);
    }

    fn connection_ended(&mut self, key: &ClientKey, at: u64, end: WillEnd) {
        let client = self.clients.get_mut(key).unwrap();
        client.owner = None;
        let will = client.will.take().filter(|_| end != WillEnd::Drop);
        if client.session.is_none() || client.expiry_s == 0 {
            let session = client.session.take();
            if let Some(will) = will {
                self.publish_will(key.1, will);
            }
            if let Some(session) = session {
                self.end(session);
            }
            return;
        }
        let session = self.sessions.get_mut(&client.session.unwrap()).unwrap();
        session.connected = false;
        session.granted = session.granted.min(session.next - 1);
        client.ends_at = (client.expiry_s != u32::MAX).then(|| at + 1_000 * u64::from(client.expiry_s));
        if let Some(will) = will {
            if end == WillEnd::Publish || will.delay_s == 0 {
                self.publish_will(key.1, will);
            } else {
                let due = at + 1_000 * u64::from(will.delay_s);
                client.will_at = Some(due.min(client.ends_at.unwrap_or(u64::MAX)));
                client.will = Some(will);
            }
        }
    }

    fn end(&mut self, session: u64) {
        let ended = self.sessions.remove(&session).unwrap();
        if !ended.subscriptions.is_empty() {
            let filters = ended.subscriptions.into_keys().collect();
            self.ended.insert(session, (ended.client.namespace, filters));
        }
    }

    fn is_down(&self, node: NodeBoot) -> bool {
        self.nodes.get(&node.node).and_then(|known| known.down).is_some_and(|down| node.boot <= down)
    }

    /// What nodes that are down leave to be done.
    fn settle(&mut self, key: &ClientKey) {
        let Some(client) = self.clients.get(key) else { return };
        if let Some(owner) = client.owner
            && self.is_down(owner)
        {
            let sweep = self.sweeps.iter().find(|(down, _)| down.node == owner.node && owner.boot <= down.boot);
            let at = sweep.unwrap().1;
            self.connection_ended(key, at, WillEnd::Keep);
        }
        let is_down = |(older, _): &&(Older, Option<Will>)| self.is_down(older.node);
        let down: Vec<_> = self.clients[key].older.iter().filter(is_down).cloned().collect();
        self.clients.get_mut(key).unwrap().older.retain(|older| !down.contains(older));
        for will in down.into_iter().filter_map(|(_, will)| will) {
            self.publish_will(key.1, will);
        }
    }

    fn forget_if_over(&mut self, key: &ClientKey) {
        if let Some(client) = self.clients.get(key)
            && client.owner.is_none()
            && client.session.is_none()
            && client.older.is_empty()
        {
            self.clients.remove(key);
        }
    }

    // --- what goes in steps ------------------------------------------------------------------------------------------

    fn step(&mut self) {
        if let Some((down, _)) = self.sweeps.first().copied() {
            let concerns = |node: NodeBoot| node.node == down.node && node.boot <= down.boot;
            // By boot, then by client.
            let mut concerned = BTreeSet::new();
            for (key, client) in &self.clients {
                let nodes = client.owner.into_iter().chain(client.older.iter().map(|(older, _)| older.node));
                concerned.extend(nodes.filter(|node| concerns(*node)).map(|node| (node.boot, key.clone())));
            }
            let count = concerned.len();
            for (_, key) in concerned.into_iter().take(SWEEP_STEP) {
                self.settle(&key);
                self.forget_if_over(&key);
            }
            if count < SWEEP_STEP {
                self.sweeps.remove(0);
            }
        }
        let mut left = SUBSCRIPTION_STEP;
        while left > 0
            && let Some(mut ended) = self.ended.first_entry()
        {
            let (namespace, filters) = ended.get_mut();
            let (namespace, whole) = (*namespace, filters.len() < left);
            let count = filters.len().min(left);
            let gone: Vec<String> = (0..count).filter_map(|_| filters.pop_first()).collect();
            left -= count;
            if whole {
                ended.remove();
                left -= 1;
            }
            gone.iter().for_each(|filter| self.route_may_go(namespace, filter));
        }
    }

    fn timers(&mut self) {
        enum Due {
            Will(ClientKey),
            End(ClientKey),
            Delayed(u64, u64),
            Retained((u32, Vec<String>)),
        }
        let mut due = Vec::new();
        for (key, client) in &self.clients {
            let name = [&key.0.to_be_bytes()[..], &key.1.to_be_bytes(), key.2.as_bytes()].concat();
            due.extend(client.will_at.map(|at| (at, 1, name.clone(), Due::Will(key.clone()))));
            due.extend(client.ends_at.map(|at| (at, 2, name, Due::End(key.clone()))));
        }
        for (at, number) in self.delayed.keys() {
            due.push((*at, 3, number.to_be_bytes().to_vec(), Due::Delayed(*at, *number)));
        }
        for (key, kept) in &self.retained {
            let name = [&key.0.to_be_bytes()[..], key.1.join("\0").as_bytes()].concat();
            due.extend(kept.expires_at.map(|at| (at, 4, name, Due::Retained(key.clone()))));
        }
        due.retain(|(at, ..)| *at <= self.now);
        due.sort_by(|(at, kind, name, _), (at2, kind2, name2, _)| (at, kind, name).cmp(&(at2, kind2, name2)));
        for (_, _, _, due) in due.into_iter().take(TIMER_STEP) {
            match due {
                Due::Will(key) => {
                    if let Some(client) = self.clients.get_mut(&key)
                        && client.will_at.take().is_some()
                    {
                        let will = client.will.take().unwrap();
                        self.publish_will(key.1, will);
                    }
                }
                Due::End(key) => {
                    let client = self.clients.get_mut(&key).unwrap();
                    client.ends_at = None;
                    client.will_at = None;
                    let (will, session) = (client.will.take(), client.session.take().unwrap());
                    if let Some(will) = will {
                        self.publish_will(key.1, will);
                    }
                    self.end(session);
                    self.forget_if_over(&key);
                }
                Due::Delayed(at, number) => {
                    let mut kept = self.delayed.remove(&(at, number)).unwrap();
                    kept.expires_at = lifetime(&kept.message).map(|lifetime| self.now + lifetime);
                    self.last_entry += 1;
                    self.unrouted.insert(self.last_entry, kept);
                }
                Due::Retained(key) => {
                    self.retained.remove(&key);
                }
            }
        }
    }

    // --- messages ----------------------------------------------------------------------------------------------------

    fn keep(&mut self, namespace: u32, message: Message, lifetime: Option<u64>) -> Kept {
        self.last_message += 1;
        let expires_at = lifetime.map(|lifetime| self.now.saturating_add(lifetime));
        Kept { number: self.last_message, namespace, message, expires_at }
    }

    fn publish_will(&mut self, namespace: u32, will: Will) {
        let lifetime = lifetime(&will.message);
        let kept = self.keep(namespace, will.message, lifetime);
        self.last_entry += 1;
        self.unrouted.insert(self.last_entry, kept);
    }

    fn send(&mut self, kept: &Kept, destinations: Vec<u32>) {
        for destination in destinations.into_iter().collect::<BTreeSet<u32>>() {
            let number = self.sent.entry(destination).or_default();
            *number += 1;
            self.outbox.insert((destination, *number), kept.clone());
        }
    }

    fn send_kept(&mut self, message: &Kept, stage: &Stage, handed: HandedOn) {
        if handed.kept != Outcome::NoRoom && !handed.destinations.is_empty() {
            let mut further = self.keep(message.namespace, message.message.clone(), None);
            further.expires_at = message.expires_at;
            if let Outcome::Done { change: 1.. } = handed.kept {
                further.message = further.message.with_change(handed.kept.change());
            }
            self.send(&further, handed.destinations);
        }
        if let Some(session) = self.sessions.get_mut(&stage.session)
            && let Some((.., waits)) = session.staged.iter_mut().find(|(_, number, _)| *number == message.number)
        {
            *waits = Some(handed.kept);
        }
    }

    fn retain(&mut self, namespace: u32, message: Message, lifetime: Option<u64>, bounds: Bounds) -> OpAnswer {
        if !self.slots.contains(slot(namespace, message.topic())) {
            return OpAnswer::WrongShard { epoch: self.map_epoch };
        }
        let key = (namespace, message.topic().split('/').map(str::to_owned).collect());
        let bytes: usize = self.retained.values().map(|kept| kept.message.wire_len()).sum();
        let more = self.retained.len() as u64 >= bounds.messages || (bytes + message.wire_len()) as u64 > bounds.bytes;
        if more && !message.payload().is_empty() && !self.retained.contains_key(&key) {
            return OpAnswer::NoRoom;
        }
        let message = message.with_change(self.last_retained + 1);
        let OpAnswer::Published { matched, dropped } = self.publish(namespace, message, lifetime, true) else {
            unreachable!()
        };
        OpAnswer::Retained { number: self.last_retained, matched, dropped }
    }

    fn delay(&mut self, namespace: u32, message: Message, delay_ms: u64, bounds: Bounds) -> OpAnswer {
        let bytes: usize = self.delayed.values().map(|kept| kept.message.wire_len()).sum();
        if self.delayed.len() as u64 >= bounds.messages || (bytes + message.wire_len()) as u64 > bounds.bytes {
            return OpAnswer::NoRoom;
        }
        let kept = self.keep(namespace, message, None);
        self.delayed.insert((self.now.saturating_add(delay_ms), kept.number), kept);
        OpAnswer::Done
    }

    /// Whether live subscribers get it after that.
    pub fn is_live(&self, destination: u32, number: u64) -> bool {
        self.stages.get(&(destination, number)).is_some_and(|stage| stage.session == 0)
    }

    /// What a shard that keeps the message does with it, as its publisher's shard says now.
    pub fn keep_of(&self, destination: u32, number: u64) -> Option<Keep> {
        let stage = self.stages.get(&(destination, number))?;
        let mut keep = stage.keeper.keep;
        if let How::Delay { delay_ms, .. } = &mut keep.how {
            *delay_ms = delay_ms.saturating_sub(self.now - stage.since);
        }
        Some(keep)
    }

    fn publish(&mut self, namespace: u32, message: Message, lifetime: Option<u64>, retain: bool) -> OpAnswer {
        let kept = self.keep(namespace, message.clone(), lifetime);
        let (mut matched, mut dropped) = (0, 0);
        let numbers: Vec<u64> = self.sessions.keys().copied().collect();
        for number in numbers {
            let session = &self.sessions[&number];
            if session.client.namespace != namespace {
                continue;
            }
            let own = *session.client.id == *message.publisher();
            let mut wanted: Vec<&Subscription> = session
                .subscriptions
                .values()
                .filter(|wanted| filter_matches(&wanted.filter, message.topic()) && !(own && wanted.no_local))
                .collect();
            wanted.sort_by_key(|wanted| wanted.identifier);
            let qos = wanted.iter().map(|wanted| wanted.qos.min(message.qos())).max().unwrap_or(QoS::AtMostOnce);
            if qos == QoS::AtMostOnce {
                continue;
            }
            let queued = Queued {
                message: kept.clone(),
                qos: qos as u8,
                retain: message.retain() && wanted.iter().any(|wanted| wanted.retain_as_published),
                identifiers: wanted.iter().map(|wanted| wanted.identifier).filter(|id| *id > 0).collect(),
                received: false,
            };
            matched += 1;
            if !self.enqueue(number, queued) {
                dropped += 1;
            }
        }
        if retain && message.retain() && self.slots.contains(slot(namespace, message.topic())) {
            let key = (namespace, message.topic().split('/').map(str::to_owned).collect());
            self.last_retained += 1;
            self.retained.remove(&key);
            if !message.payload().is_empty() {
                self.retained.insert(key, kept);
            }
        }
        OpAnswer::Published { matched, dropped }
    }

    fn subscribers(&self, namespace: u32, filter: &str) -> usize {
        let living = self.sessions.values().filter(|session| session.client.namespace == namespace);
        let ended = self.ended.values().filter(|(space, _)| *space == namespace);
        living.filter(|session| session.subscriptions.contains_key(filter)).count()
            + ended.filter(|(_, filters)| filters.contains(filter)).count()
    }

    fn subscribe(&mut self, namespace: u32, number: u64, subscription: Subscription) -> Subscribed {
        let filter = subscription.filter.to_string();
        if TopicFilter::parse(&filter).map_or(true, |filter| filter.group().is_some()) {
            return Subscribed::Invalid;
        }
        let first = self.subscribers(namespace, &filter) == 0;
        let route = match self.added.get(&(namespace, filter.clone())) {
            Some(route) => *route,
            None => self.last_route + 1,
        };
        let session = self.sessions.get_mut(&number).unwrap();
        if let Some(known) = session.subscriptions.get_mut(&filter) {
            *known = subscription;
            return Subscribed::Replaced { route };
        }
        if session.subscriptions.len() >= session.limits.max_subscriptions as usize {
            return Subscribed::TooMany;
        }
        session.subscriptions.insert(filter.clone(), subscription);
        if first {
            self.last_route = route;
            self.added.insert((namespace, filter.clone()), route);
            self.routes.insert(route, (namespace, filter, true));
        }
        Subscribed::New { route }
    }

    fn route_may_go(&mut self, namespace: u32, filter: &str) {
        if self.subscribers(namespace, filter) == 0 {
            self.last_route += 1;
            self.added.remove(&(namespace, filter.to_owned()));
            self.routes.insert(self.last_route, (namespace, filter.to_owned(), false));
        }
    }

    /// The leader says what its clock says.
    pub fn time(&mut self, term: u64, ms: u64) {
        if term > self.clock.0 {
            self.clock = (term, 0);
        }
        if term == self.clock.0 && ms > self.clock.1 {
            let step = (ms - self.clock.1).min(60_000);
            self.clock.1 += step;
            self.now += step;
        }
    }

    // --- queues ------------------------------------------------------------------------------------------------------

    fn enqueue(&mut self, number: u64, queued: Queued) -> bool {
        let now = self.now;
        let session = self.sessions.get_mut(&number).unwrap();
        let over = |kept: &Kept| kept.expires_at.is_some_and(|at| at <= now);
        let mut drop = |session: &mut Session, reason: usize| {
            session.dropped[reason] += 1;
            self.dropped[reason] += 1;
        };
        if over(&queued.message) {
            drop(session, 0);
            return false;
        }
        let size = queued.message.message.wire_len() as u64;
        let limits = session.limits;
        let fits = |session: &Session, waiting_too: bool| {
            let held = session.queue.iter().filter(|(_, queued)| !queued.received);
            let held: Vec<u64> = held
                .filter(|(seq, _)| waiting_too || **seq <= session.granted)
                .map(|(_, queued)| queued.message.message.wire_len() as u64)
                .collect();
            held.len() < limits.max_messages as usize && held.iter().sum::<u64>() + size <= limits.max_bytes
        };
        if !fits(session, true)
            && let Some(first) = session.first_waiting()
        {
            let block = first / BLOCK;
            let expired: Vec<u64> = session
                .queue
                .range(first..(block + 1) * BLOCK)
                .filter(|(_, queued)| over(&queued.message))
                .map(|(seq, _)| *seq)
                .collect();
            for seq in expired {
                session.queue.remove(&seq);
                drop(session, 0);
            }
        }
        if limits.drop == DropPolicy::Oldest && fits(session, false) {
            while !fits(session, true) {
                let first = session.first_waiting().unwrap();
                session.queue.remove(&first);
                drop(session, 2);
            }
        }
        if !fits(session, true) {
            drop(session, 1);
            return false;
        }
        session.queue.insert(session.next, queued);
        session.next += 1;
        true
    }

    fn acknowledge(&mut self, number: u64, seqs: &[SeqRange]) -> OpAnswer {
        let session = self.sessions.get_mut(&number).unwrap();
        let before = session.queue.len();
        let granted = session.granted;
        let acked = |seq: u64| seqs.iter().any(|range| range.first <= seq && seq <= range.last);
        session.queue.retain(|seq, _| *seq > granted || !acked(*seq));
        OpAnswer::Acked { count: (before - session.queue.len()) as u32 }
    }

    fn receive(&mut self, number: u64, seqs: &[SeqRange]) -> OpAnswer {
        let session = self.sessions.get_mut(&number).unwrap();
        let mut count = 0;
        for (seq, queued) in &mut session.queue {
            let named = seqs.iter().any(|range| range.first <= *seq && *seq <= range.last);
            if *seq <= session.granted && named && queued.qos == 2 && !queued.received {
                queued.received = true;
                count += 1;
            }
        }
        OpAnswer::Acked { count }
    }

    fn grant(&mut self, number: u64, up_to: u64) -> OpAnswer {
        let now = self.now;
        let session = self.sessions.get_mut(&number).unwrap();
        if up_to <= session.granted {
            return OpAnswer::Granted { up_to: session.granted };
        }
        let oldest = session.queue.keys().next().copied().unwrap_or(session.next);
        let limit = oldest + WINDOW - 1;
        if up_to > limit {
            return OpAnswer::TooFar { limit };
        }
        let passed = session.queue.range(session.granted + 1..=up_to);
        let expired: Vec<u64> = passed
            .filter(|(_, queued)| queued.message.expires_at.is_some_and(|at| at <= now))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in expired {
            session.queue.remove(&seq);
            session.dropped[0] += 1;
            self.dropped[0] += 1;
        }
        session.granted = up_to;
        OpAnswer::Granted { up_to }
    }

    // --- reads -------------------------------------------------------------------------------------------------------

    pub fn client(&self, name: &Name) -> Option<&Client> {
        self.clients.get(&key(name))
    }

    /// A client's owner and older connections as if what nodes that are down leave were done.
    pub fn seen(&self, client: &Client) -> (Option<NodeBoot>, Vec<Older>) {
        let owner = client.owner.filter(|node| !self.is_down(*node));
        let older = client.older.iter().map(|(older, _)| *older);
        (owner, older.filter(|older| !self.is_down(older.node)).collect())
    }

    pub fn sent(&self, name: &Name) -> Option<Vec<(u64, Sent)>> {
        let session = self.sessions.get(&self.client(name)?.session?)?;
        let in_use = session.queue.range(..=session.granted);
        Some(
            in_use
                .map(|(seq, queued)| {
                    let publish = || Sent::Publish {
                        message: queued.message.message.clone(),
                        qos: QoS::from_u8(queued.qos).unwrap(),
                        retain: queued.retain,
                        apart: false,
                        dup: *seq <= session.dup_to,
                        identifiers: queued.identifiers.clone(),
                        lifetime_ms: self.left(&queued.message),
                    };
                    (*seq, if queued.received { Sent::Release } else { publish() })
                })
                .collect(),
        )
    }

    pub fn left(&self, kept: &Kept) -> Option<u64> {
        kept.expires_at.map(|at| at.saturating_sub(self.now))
    }

    pub fn retained_matching(&self, namespace: u32, filter: &str) -> Vec<&Kept> {
        let of_space = self.retained.iter().filter(|((space, _), _)| *space == namespace);
        of_space
            .map(|(_, kept)| kept)
            .filter(|kept| filter_matches(filter, kept.message.topic()))
            .filter(|kept| kept.expires_at.is_none_or(|at| at > self.now))
            .collect()
    }

    /// Messages that something refers to.
    pub fn messages(&self) -> usize {
        let queued = self.sessions.values().flat_map(|session| session.queue.values());
        let queued = queued.filter(|queued| !queued.received).map(|queued| queued.message.number);
        let others = [&self.unrouted as &dyn Numbers, &self.outbox, &self.retained, &self.delayed];
        queued.chain(others.into_iter().flat_map(|kept| kept.numbers())).collect::<BTreeSet<u64>>().len()
    }

    pub fn received_from(&self, source: u32) -> u64 {
        self.received.get(&source).copied().unwrap_or_default()
    }

    /// Whether nothing is left to be done in steps.
    pub fn is_settled(&self) -> bool {
        self.sweeps.is_empty() && self.ended.is_empty()
    }
}

trait Numbers {
    fn numbers(&self) -> Vec<u64>;
}

impl<K> Numbers for BTreeMap<K, Kept> {
    fn numbers(&self) -> Vec<u64> {
        self.values().map(|kept| kept.number).collect()
    }
}

impl Session {
    /// The first that is not granted.
    pub fn first_waiting(&self) -> Option<u64> {
        self.queue.range(self.granted + 1..).next().map(|(seq, _)| *seq)
    }
}

fn key(name: &Name) -> ClientKey {
    (slot(name.namespace, &name.id), name.namespace, name.id.to_string())
}

fn lifetime(message: &Message) -> Option<u64> {
    message.expires_at_ms().map(|at| at - message.received_at_ms())
}
