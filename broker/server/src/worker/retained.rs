//! Retained messages of a cluster with shards: each topic's is in the shard of the topic.
//!
//! A message with RETAIN goes to that shard first, and to its subscribers, and to the shards of durable sessions, when it is committed there: nobody gets a message that
//! a later lookup might not find. What its publisher sends to the same topic without RETAIN goes behind it.
//!
//! A new subscription reads what was committed when its SUBACK was sent, from all shards if its filter has wildcards, page by page, no faster than the client takes
//! it. Before SUBACK each of these shards says the number of its last change, the *floor*: what was changed up to there comes by the pages, and not live, however late it
//! arrives; what is changed later was published when every node knew the subscription, and comes live. So nobody gets an older one after a newer one, and of what is
//! published after SUBACK nothing is left out. A durable session gets both by its queue, whose shard compares the numbers of changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::join_all;
use raftmq_cluster::{ShardReadError, Shards};
use raftmq_mqtt::topic::filter_matches;
use raftmq_mqtt::{Message, QoS, ReasonCode};
use raftmq_routing::FilterKind;
use raftmq_session::{CloseReason, Forms, Matched, PublishToken, SubscribeItem, SubscriptionInfo};
use raftmq_shard::{Bounds, Op, OpAnswer, PageLimits, QueueMessage, RetainedMessage, RetainedPage};
use tokio::time::{sleep, timeout};

use super::Worker;
use super::durable::Publishing;
use super::publish::{Reach, Routed, is_reserved};
use super::replay::Room;
use super::shards::{NAMESPACE, Outcome, Waiting, name};
use super::wheel::Key;
use crate::metrics::PublishRefusal;

/// The most messages and records of a page.
const PAGE: usize = 256;
const STEPS: usize = 4_096;
/// Bytes of a page at most, whatever the client takes.
const PAGE_BYTES: usize = 256 << 10;
/// Topics noted of what comes live while a page is read; with more the page is read again. And of what is expected live.
const NOTED: usize = 4_096;
/// Messages to be retained that a connection has under way; with so many it is not read.
const UNDER_WAY: usize = 64;
/// Messages that are kept back for a subscription before its SUBACK; with more the others come at once.
const HELD: usize = 64;
/// Topics of a SUBSCRIBE whose retained messages are read before its SUBACK: those of the others come behind it.
const TOPICS: usize = 16;
/// How long the last shard without an answer holds a SUBACK up.
const FLOOR_TIME: Duration = Duration::from_secs(2);
/// How long a message may take from its shard, by way of its publisher's node, to a subscriber, and be known to be older than what that got.
const OLDER_MS: u64 = 60_000;
/// How often it is looked at what is older than that.
const FORGET_MS: u64 = 10_000;
/// How long something that changed during the lookup is expected live, before it is read again: the link that should have brought it may have broken.
const EXPECTED: Duration = Duration::from_secs(2);
/// Before a client that takes nothing, or a shard that cannot be read, is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// A message on its way into the shard that retains it.
pub(super) struct Retaining {
    message: Message,
    shard: u16,
    /// Its publisher can be told that it is refused.
    tell: bool,
    /// Its publisher, and by when it must be answered.
    publisher: RefCell<Option<Publisher>>,
}

struct Publisher {
    key: Key,
    token: Option<PublishToken>,
    watched: Option<Rc<Publishing>>,
    topic: u64,
}

/// What a connection has under way to shards that retain it.
#[derive(Default)]
pub(super) struct OfPublisher {
    /// The topics, as hashes, each as often as it is under way.
    topics: Vec<u64>,
    /// A message that goes behind one of them.
    behind: Option<(Message, Option<PublishToken>)>,
}

impl OfPublisher {
    /// It can take no more.
    pub(super) fn is_full(&self) -> bool {
        self.behind.is_some() || self.topics.len() >= UNDER_WAY
    }
}

/// By what it is told whether two messages are of one topic. Two topics with the same one wait for each other for nothing.
pub(super) fn topic_hash(message: &Message) -> u64 {
    static STATE: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);
    STATE.hash_one(message.topic_bytes())
}

/// What was read before subscriptions are acknowledged.
#[derive(Default)]
pub(super) struct Floors {
    /// The numbers of the last changes of shards, by shard; where there is none it is not known.
    of: Vec<Option<u64>>,
    /// What is retained for subscriptions to one topic, by their own filters.
    found: Vec<(Arc<str>, RetainedPage)>,
}

impl Floors {
    fn found(&self, own: &str) -> Option<&RetainedPage> {
        self.found.iter().find(|(of, _)| **of == *own).map(|(_, page)| page)
    }
}

/// What a new subscription gets as retained.
#[derive(Debug)]
struct Progress {
    /// Before SUBACK: what came live meanwhile. Of it that which is not newer than the floors comes as what is retained.
    held: Option<Vec<Message>>,
    first: u16,
    /// Of the shards that may retain something for it, from that one on: what was changed up to here does not come live.
    floors: Vec<Option<u64>>,
}

impl Progress {
    fn new(shards: Range<u16>) -> Self {
        Self { held: Some(Vec::new()), first: shards.start, floors: vec![None; shards.len()] }
    }

    fn floor(&mut self, shard: u16) -> Option<&mut Option<u64>> {
        self.floors.get_mut(usize::from(shard.checked_sub(self.first)?))
    }

    /// Keeps a message back until SUBACK, if that is still to come and there is room.
    fn hold(&mut self, message: &Message) -> bool {
        match &mut self.held {
            Some(held) if held.len() < HELD => {
                held.push(message.clone());
                true
            }
            _ => false,
        }
    }

    /// Whether a change comes as what is retained, or a later one of its topic does.
    fn covers(&self, shard: u16, number: u64) -> bool {
        let place = shard.checked_sub(self.first).map(usize::from);
        place.and_then(|place| *self.floors.get(place)?).is_some_and(|floor| number <= floor)
    }
}

/// What a subscription of a clean session got as retained.
pub(super) struct Given {
    client: Key,
    own: Arc<str>,
    filter: Arc<str>,
    progress: Rc<RefCell<Progress>>,
    until: u64,
}

/// All of them, by the slots of their clients.
#[derive(Default)]
pub(super) struct GivenAll {
    of: HashMap<u32, Vec<Given>, ahash::RandomState>,
    forget_at: u64,
}

impl GivenAll {
    fn add(&mut self, given: Given) {
        let of_slot = self.of.entry(given.client.slot).or_default();
        of_slot.retain(|known| known.client == given.client && known.own != given.own);
        of_slot.push(given);
    }

    /// Takes out the clients who got this change of a topic, or a later one, as retained by every subscription that it matches, or who may get it so. One that had another
    /// subscription before gets it: for that it is new. Who was taken out.
    pub(super) fn leave_out(
        &self,
        message: &Message,
        shard: u16,
        number: u64,
        matched: &mut Vec<(u32, SubscriptionInfo)>,
    ) -> Vec<u32> {
        let mut over = Vec::new();
        if !matched.iter().any(|(slot, _)| self.of.contains_key(slot)) {
            return over;
        }
        let topic = message.topic();
        matched.sort_unstable_by_key(|(slot, _)| *slot);
        for of_client in matched.chunk_by(|one, other| one.0 == other.0) {
            let Some((slot, given)) = of_client.first().and_then(|(slot, _)| Some((*slot, self.of.get(slot)?))) else {
                continue;
            };
            let (mut count, mut waits) = (0, None);
            for given in given.iter().filter(|given| filter_matches(&given.filter, topic)) {
                let progress = given.progress.borrow();
                if progress.held.is_some() {
                    waits = Some(given);
                    count += 1;
                } else {
                    count += usize::from(progress.covers(shard, number));
                }
            }
            let out = count >= of_client.len() && waits.is_none_or(|given| given.progress.borrow_mut().hold(message));
            if out {
                over.push(slot);
            }
        }
        if !over.is_empty() {
            matched.retain(|(slot, _)| over.binary_search(slot).is_err());
        }
        over
    }

    /// SUBACK was sent, or is not: what has not begun by now does not.
    fn answered(&mut self, client: Key, filters: &[SubscribeItem]) {
        if let Some(given) = self.of.get_mut(&client.slot) {
            given.retain(|given| {
                given.progress.borrow().held.is_none() || !filters.iter().any(|item| *item.filter == *given.own)
            });
        }
    }

    /// A client has ended: another one may get its slot.
    pub(super) fn end(&mut self, client: Key) {
        self.of.remove(&client.slot);
    }

    /// Forgets what is long ago.
    pub(super) fn forget(&mut self, now: u64) {
        if now < self.forget_at {
            return;
        }
        self.forget_at = now + FORGET_MS;
        self.of.retain(|_, given| {
            given.retain(|given| given.until > now);
            !given.is_empty()
        });
    }
}

/// A subscription on its way through the shards.
pub(super) struct ShardReplay {
    client: Key,
    /// The filter in the session.
    own: Arc<str>,
    /// What topics are matched against.
    filter: Arc<str>,
    /// How it matches; `None` before SUBACK.
    matched: Option<Matched>,
    progress: Rc<RefCell<Progress>>,
    /// Topics of what came live, with the numbers of the changes.
    live: HashMap<Box<str>, u64, ahash::RandomState>,
    /// Topics that changed since SUBACK and have not come live, with their shards.
    expected: HashMap<Box<str>, u16, ahash::RandomState>,
    /// Of a durable session: the number in its queue up to which it was given to the client when the page was asked for.
    after: u64,
    /// Topics of the page that are in its queue already.
    queued: Vec<Box<str>>,
}

/// All of them, by numbers.
#[derive(Default)]
pub(super) struct ShardReplays {
    of: HashMap<u64, ShardReplay, ahash::RandomState>,
    last: u64,
}

impl ShardReplays {
    /// Notes what comes live from now on. Who subscribes again begins again.
    fn add(&mut self, replay: ShardReplay) -> u64 {
        self.of.retain(|_, known| known.client != replay.client || known.own != replay.own);
        self.last += 1;
        self.of.insert(self.last, replay);
        self.last
    }

    /// A message with RETAIN goes to clients, if it matches their filters.
    pub(super) fn note(&mut self, message: &Message, to: impl Fn(Key) -> bool) {
        let number = message.change().unwrap_or(u64::MAX);
        for replay in self.of.values_mut().filter(|replay| to(replay.client)) {
            if !filter_matches(&replay.filter, message.topic()) {
                continue;
            }
            replay.expected.remove(message.topic());
            if replay.live.len() <= NOTED {
                let known = replay.live.entry(message.topic().into()).or_insert(number);
                *known = number.max(*known);
            }
        }
    }

    /// SUBACK was sent, or is not: what has not begun by now does not.
    fn answered(&mut self, client: Key, filters: &[SubscribeItem]) {
        self.of.retain(|_, replay| {
            replay.client != client
                || replay.matched.is_some()
                || !filters.iter().any(|item| *item.filter == *replay.own)
        });
    }

    /// A client has ended.
    pub(super) fn end(&mut self, client: Key) {
        self.of.retain(|_, replay| replay.client != client);
    }

    /// There is none.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

impl Worker {
    /// Hands a message to the shard that retains it. `None`: there are no shards, it is this node's to retain.
    pub(super) fn retain_in_shard(&mut self, message: &Message, tell: bool) -> Option<Rc<Retaining>> {
        if !self.in_shards() {
            return None;
        }
        let desk = self.desk.as_ref()?;
        let (shard, count) = (desk.shards.shard_of(NAMESPACE, message.topic())?, u64::from(desk.shards.count()).max(1));
        let limits = self.node.features.retained().limits();
        // Each shard has its part of what the cluster may retain.
        let bounds =
            Bounds { messages: (limits.messages as u64).div_ceil(count), bytes: (limits.bytes as u64).div_ceil(count) };
        let retaining = Rc::new(Retaining { message: message.clone(), shard, tell, publisher: RefCell::default() });
        // One that is too long is refused as one for which there is no room.
        let known = if message.payload().len() > limits.payload {
            Some(Ok(OpAnswer::NoRoom))
        } else {
            let op = Op::Retain { namespace: NAMESPACE, message: message.clone(), bounds };
            let waiting = Waiting::Retained(Rc::clone(&retaining));
            self.desk.as_mut().and_then(|desk| desk.push(shard, op, waiting)).map(|(_, outcome)| outcome)
        };
        if let Some(outcome) = known {
            // In a turn of its own: its publisher is about to wait for it.
            let retaining = Rc::clone(&retaining);
            self.do_later(Box::new(move |worker| {
                Box::pin(async move { worker.borrow_mut().retained_by_shard(&retaining, &outcome) })
            }));
        }
        Some(retaining)
    }

    /// The publisher of a message that is to be retained waits for its shard. It is read on: what it publishes to other topics, or to be retained, need not wait.
    pub(super) fn wait_for_retained(
        &mut self,
        key: Key,
        retaining: &Retaining,
        token: Option<PublishToken>,
        topic: u64,
    ) {
        let watched = token.map(|token| self.watch_commit(key, token));
        *retaining.publisher.borrow_mut() = Some(Publisher { key, token, watched, topic });
        if let Some(conn) = self.conns.get_mut(key) {
            conn.retaining.get_or_insert_default().topics.push(topic);
        }
    }

    /// A message that must not overtake one of its topic: it is routed behind that. False: there is no such one.
    pub(super) fn behind_retained(&mut self, key: Key, message: &Message, token: Option<PublishToken>) -> bool {
        let Some(retaining) = self.conns.get_mut(key).and_then(|conn| conn.retaining.as_mut()) else {
            return false;
        };
        let behind = !message.retain() && retaining.topics.contains(&topic_hash(message));
        if behind {
            retaining.behind = Some((message.clone(), token));
        }
        behind
    }

    /// The shard has answered.
    pub(super) fn retained_by_shard(&mut self, retaining: &Retaining, outcome: &Outcome) {
        let (now, sent) = (self.node.clock.now(), self.sent);
        let message = &retaining.message;
        let result = match outcome {
            Ok(OpAnswer::Retained { number, .. }) => {
                self.counters.retained();
                Some(Ok(self.route(&message.with_change(*number), Reach::Beside(retaining.shard), now)))
            }
            Ok(OpAnswer::NoRoom) => {
                self.counters.publish_refused(PublishRefusal::Quota);
                Some(if retaining.tell && message.qos() > QoS::AtMostOnce {
                    Err(ReasonCode::QuotaExceeded)
                } else {
                    Ok(self.route(message, Reach::Cluster, now))
                })
            }
            _ => None,
        };
        let publisher = retaining.publisher.borrow_mut().take();
        if let Some(publisher) = publisher {
            let waits = publisher.watched.as_ref().is_none_or(|watched| watched.end());
            if self.sent != sent
                && let Some(conn) = self.conns.get_mut(publisher.key)
            {
                conn.sent = self.sent;
            }
            self.end_retaining(&publisher, publisher.token.filter(|_| waits), result);
        }
    }

    fn end_retaining(
        &mut self,
        publisher: &Publisher,
        token: Option<PublishToken>,
        result: Option<Result<Routed, ReasonCode>>,
    ) {
        let Publisher { key, topic, .. } = *publisher;
        let mut behind = None;
        if let Some(retaining) = self.conns.get_mut(key).and_then(|conn| conn.retaining.as_mut()) {
            if let Some(at) = retaining.topics.iter().position(|known| *known == topic) {
                retaining.topics.remove(at);
            }
            let free = |message: &Message| !retaining.topics.contains(&topic_hash(message));
            behind = retaining.behind.take_if(|(message, _)| free(message));
        }
        match result {
            None => self.close(key, CloseReason::Server(ReasonCode::ServerUnavailable)),
            Some(result) => {
                let mut actions = std::mem::take(&mut self.actions);
                self.end_publish(key, token, result, topic, &mut actions);
                if let Some((message, token)) = behind {
                    self.publish(key, message, token, &mut actions);
                }
                self.act(key, &[], &mut actions);
                self.actions = actions;
                self.mark_dirty(key);
            }
        }
        self.wake(key);
    }

    /// The floors of the shards that may retain something for new subscriptions, given by their own filters, what topics are matched against and whether they are new; `None` if that is
    /// none of theirs. What comes live is noted from now on.
    pub(super) fn read_floors(
        &mut self,
        client: Key,
        filters: &[(&Arc<str>, &Arc<str>, bool)],
    ) -> Option<impl Future<Output = Floors> + use<>> {
        let shards = self.desk.as_ref()?.shards.clone();
        let count = shards.count();
        let (durable, until) = (self.has_durable(client), self.node.clock.ms() + OLDER_MS);
        let mut wanted = vec![false; usize::from(count)];
        let mut topics = Vec::new();
        for (own, filter, new) in filters {
            let FilterKind::Plain(filter) = FilterKind::of(filter) else { continue };
            if is_reserved(filter) {
                continue;
            }
            let of_filter = shards_of(&shards, filter);
            if !durable && of_filter.len() == 1 && !filter.contains(['+', '#']) && topics.len() < TOPICS {
                topics.push((Arc::clone(own), of_filter.start, Box::<str>::from(filter)));
            }
            for shard in of_filter.clone() {
                wanted.get_mut(usize::from(shard)).into_iter().for_each(|wanted| *wanted = true);
            }
            let progress = Rc::new(RefCell::new(Progress::new(of_filter)));
            if !durable && *new {
                let (own, filter, progress) = (Arc::clone(own), filter.into(), Rc::clone(&progress));
                self.given.add(Given { client, own, filter, progress, until });
            }
            self.shard_replays.add(ShardReplay {
                client,
                own: Arc::clone(own),
                filter: filter.into(),
                matched: None,
                progress,
                live: HashMap::default(),
                expected: HashMap::default(),
                after: 0,
                queued: Vec::new(),
            });
        }
        wanted.contains(&true).then_some(async move {
            let read = (0..count).zip(wanted).map(|(shard, wanted)| {
                let shards = &shards;
                async move {
                    let read = async { if wanted { shards.last_retained(shard).await.ok() } else { None } };
                    timeout(FLOOR_TIME, read).await.unwrap_or_default()
                }
            });
            let found = topics.into_iter().map(|(own, shard, topic)| {
                let shards = &shards;
                async move {
                    // One that is found, and that it is the last one.
                    let limits = PageLimits { messages: 2, bytes: usize::MAX, steps: 2 };
                    let read = shards.retained(shard, NAMESPACE, &topic, None, limits);
                    let page = timeout(FLOOR_TIME, read).await.ok()?.ok()?;
                    page.next.is_none().then_some((own, page))
                }
            });
            let (of, found) = tokio::join!(join_all(read), join_all(found));
            Floors { of, found: found.into_iter().flatten().collect() }
        })
    }

    /// SUBACK was sent for subscriptions, or nobody waits for it: what waited for it and has not begun is over.
    pub(super) fn suback_sent(&mut self, client: Key, filters: &[SubscribeItem]) {
        self.shard_replays.answered(client, filters);
        self.given.answered(client, filters);
    }

    /// Sends what the shards retain for a new subscription.
    pub(super) fn replay_from_shards(&mut self, client: Key, own: &Arc<str>, info: &SubscriptionInfo, floors: &Floors) {
        let Some(shards) = self.desk.as_ref().map(|desk| desk.shards.clone()) else {
            return;
        };
        let mut all = self.shard_replays.of.iter_mut();
        let Some((&number, replay)) = all.find(|(_, replay)| replay.client == client && replay.own == *own) else {
            return;
        };
        replay.matched = Some(Matched { retained: true, ..Matched::by(info) });
        let filter = Arc::clone(&replay.filter);
        let mut newer = Vec::new();
        {
            let mut progress = replay.progress.borrow_mut();
            let first = usize::from(progress.first);
            for (of, floor) in progress.floors.iter_mut().zip(floors.of.iter().skip(first)) {
                *of = floors.found(own).map(|page| page.last).or(*floor);
            }
            for message in progress.held.take().unwrap_or_default() {
                let shard = shards.shard_of(NAMESPACE, message.topic());
                let covered = shard.zip(message.change()).is_some_and(|(shard, change)| progress.covers(shard, change));
                if !covered {
                    newer.push(message);
                }
            }
        }
        let of_topic = floors.found(own).filter(|_| !self.has_durable(client)).cloned();
        let known = of_topic.is_some();
        if let Some(page) = of_topic
            && let Some(shard) = shards.shard_of(NAMESPACE, &filter)
        {
            self.deliver_page(number, shard, page, true);
        }
        let now = self.node.clock.now();
        for message in newer {
            self.shard_replays.note(&message, |to| to == client);
            if let Some(reason) = self.deliver_to(client.slot, &Matched::by(info), &mut Forms::new(message, now), now) {
                self.counters.dropped(reason, 1);
            }
        }
        if known {
            self.shard_replays.of.remove(&number);
            return;
        }
        self.do_later(Box::new(move |worker| {
            Box::pin(async move {
                replay_all(&worker, &shards, number, &filter).await;
                worker.borrow_mut().shard_replays.of.remove(&number);
            })
        }));
    }

    pub(super) fn has_durable(&mut self, client: Key) -> bool {
        let owner = self.clients.get_mut(client).and_then(|entry| entry.owner.as_ref());
        owner.is_some_and(|owner| owner.durable.is_some())
    }

    /// What changes from SUBACK on comes to the client live, and not as what is retained. The queue of a durable session takes it from both in whatever order.
    fn expects_changes(&mut self, number: u64) -> bool {
        let client = self.shard_replays.of.get(&number).map(|replay| replay.client);
        client.is_some_and(|client| !self.has_durable(client))
    }

    /// What the client takes now; `None` if the replay is over.
    fn shard_replay_room(&mut self, number: u64) -> Option<Room> {
        let replay = self.shard_replays.of.get(&number)?;
        let (client, own) = (replay.client, Arc::clone(&replay.own));
        let room = self.room_for(client, &own)?;
        Some(if self.is_serving() { room } else { Room { messages: 0, ..room } })
    }

    /// A page is about to be asked for.
    fn begin_page(&mut self, number: u64) {
        let Some(replay) = self.shard_replays.of.get_mut(&number) else { return };
        if replay.live.len() > NOTED {
            replay.live.clear();
        }
        let owner = self.clients.get_mut(replay.client).and_then(|entry| entry.owner.as_ref());
        replay.after = owner.and_then(|owner| owner.durable.as_ref()).map_or(0, |durable| durable.given());
    }

    /// Gives a page to the client; what is for the queue of its session, if anything is. `None`: the page is to be read again. What changed since SUBACK is not given,
    /// unless it is not expected any more.
    fn deliver_page(
        &mut self,
        number: u64,
        shard: u16,
        page: RetainedPage,
        expecting: bool,
    ) -> Option<Vec<QueueMessage>> {
        let replay = self.shard_replays.of.get_mut(&number)?;
        if replay.live.len() > NOTED {
            return None;
        }
        let matched = replay.matched.clone()?;
        let mut progress = replay.progress.borrow_mut();
        let floor = progress.floor(shard).map_or(u64::MAX, |floor| *floor.get_or_insert(page.last));
        let mut give = Vec::with_capacity(page.messages.len());
        for found in page.messages {
            let topic = found.message.topic();
            let queued = replay.queued.iter().any(|queued| **queued == *topic);
            if queued || replay.live.get(topic).is_some_and(|live| *live >= found.number) {
                continue;
            }
            if !expecting || found.number <= floor {
                give.push(found);
            } else if replay.expected.len() < NOTED {
                replay.expected.insert(topic.into(), shard);
            }
        }
        drop(progress);
        let client = replay.client;
        let durable = self.has_durable(client);
        let now = self.node.clock.now();
        let mut queue = Vec::new();
        for RetainedMessage { message, lifetime_ms, number } in give {
            let qos = matched.qos.min(message.qos());
            if durable && qos > QoS::AtMostOnce {
                let identifier = matched.sub_ids.first().copied().unwrap_or_default();
                let message = if message.change().is_some() { message } else { message.with_change(number) };
                queue.push(QueueMessage { message, qos, identifier, lifetime_ms });
                continue;
            }
            let mut forms = Forms::new(message, now);
            if let Some(reason) = self.deliver_to(client.slot, &matched, &mut forms, now) {
                self.counters.dropped(reason, 1);
            }
        }
        Some(queue)
    }

    /// Topics that changed since SUBACK and did not come live, with their shards.
    fn take_expected(&mut self, number: u64) -> Vec<(Box<str>, u16)> {
        let replay = self.shard_replays.of.get_mut(&number);
        replay.map(|replay| replay.expected.drain().collect()).unwrap_or_default()
    }
}

/// The shards that retain something for a filter.
fn shards_of(shards: &Shards, filter: &str) -> Range<u16> {
    let of_topic = (!filter.contains(['+', '#'])).then(|| shards.shard_of(NAMESPACE, filter)).flatten();
    of_topic.map_or(0..shards.count(), |shard| shard..shard + 1)
}

/// Reads all shards that may have something, and gives it to the client as that takes it.
async fn replay_all(worker: &Rc<RefCell<Worker>>, shards: &Shards, number: u64, filter: &str) {
    let expecting = worker.borrow_mut().expects_changes(number);
    for shard in shards_of(shards, filter) {
        if !replay(worker, shards, number, shard, filter, expecting).await {
            return;
        }
    }
    // What its subscription should have brought live may have been lost on its way, with the connection between two nodes.
    let late = worker.borrow().shard_replays.of.get(&number).is_some_and(|replay| !replay.expected.is_empty());
    if !late {
        return;
    }
    sleep(EXPECTED).await;
    let late = worker.borrow_mut().take_expected(number);
    for (topic, shard) in late {
        if !replay(worker, shards, number, shard, &topic, false).await {
            return;
        }
    }
}

/// Reads one shard. False: there is no such subscription any more.
async fn replay(
    worker: &Rc<RefCell<Worker>>,
    shards: &Shards,
    number: u64,
    shard: u16,
    filter: &str,
    expecting: bool,
) -> bool {
    let mut cursor = None;
    loop {
        let Some(room) = worker.borrow_mut().shard_replay_room(number) else { return false };
        if room.messages == 0 {
            sleep(AGAIN).await;
            continue;
        }
        let limits = PageLimits { messages: room.messages.min(PAGE), bytes: room.bytes.min(PAGE_BYTES), steps: STEPS };
        worker.borrow_mut().begin_page(number);
        let page = match shards.retained(shard, NAMESPACE, filter, cursor.clone(), limits).await {
            Ok(page) => page,
            Err(ShardReadError::Unknown) => return true,
            Err(error) => {
                tracing::debug!(shard, %error, "retained messages are read again");
                sleep(AGAIN * 4).await;
                continue;
            }
        };
        let next = page.next.clone();
        let Some(queue) = worker.borrow_mut().deliver_page(number, shard, page, expecting) else { continue };
        match queue_up(worker, number, queue).await {
            None => return false,
            // What is left may be older than what came meanwhile.
            Some(false) => {
                sleep(AGAIN).await;
                continue;
            }
            Some(true) => {}
        }
        cursor = next;
        if cursor.is_none() {
            return true;
        }
    }
}

/// Puts messages into the queue of the client's session. False: there was no room for all of them. `None`: there is no such connection any more.
async fn queue_up(worker: &Rc<RefCell<Worker>>, number: u64, messages: Vec<QueueMessage>) -> Option<bool> {
    if messages.is_empty() {
        return Some(true);
    }
    let mut topics: Vec<Box<str>> = messages.iter().map(|queued| queued.message.topic().into()).collect();
    let asked = {
        let mut worker = worker.borrow_mut();
        let replay = worker.shard_replays.of.get(&number)?;
        let (client, after) = (replay.client, replay.after);
        let entry = worker.clients.get_mut(client)?;
        let owner = entry.owner.as_ref()?;
        let (shard, epoch) = (owner.shard, owner.epoch);
        let op = Op::Queue { client: name(&entry.id), epoch, after, messages };
        worker.desk.as_mut()?.ask(shard, op)
    };
    let Ok(Ok(OpAnswer::Queued { taken })) = asked.await else { return None };
    let all = taken as usize >= topics.len();
    let mut worker = worker.borrow_mut();
    let replay = worker.shard_replays.of.get_mut(&number)?;
    if all {
        replay.queued.clear();
    } else {
        topics.truncate(taken as usize);
        replay.queued.append(&mut topics);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32, of: &mut super::super::slab::Slab<()>) -> Key {
        loop {
            let key = of.insert(());
            if key.slot == slot {
                return key;
            }
        }
    }

    fn matched(slots: &[u32]) -> Vec<(u32, SubscriptionInfo)> {
        slots.iter().map(|slot| (*slot, SubscriptionInfo::default())).collect()
    }

    fn through<const N: usize>(floors: [Option<u64>; N]) -> Progress {
        Progress { held: None, first: 0, floors: floors.to_vec() }
    }

    fn message(topic: &str) -> Message {
        let publish = raftmq_mqtt::Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic,
            packet_id: None,
            properties: raftmq_mqtt::Properties::default(),
            payload: b"x",
        };
        Message::new(&publish, raftmq_mqtt::Origin { node: 1, sequence: 1 }, "p", 0, None).expect("valid")
    }

    /// Before SUBACK it is not known what comes as retained: that is kept back, as far as there is room, unless another subscription brings it.
    #[test]
    fn what_comes_before_suback_is_held() {
        let mut keys = super::super::slab::Slab::new();
        let one = keys.insert(());
        let mut all = GivenAll::default();
        let progress = Rc::new(RefCell::new(Progress::new(0..1)));
        all.add(Given { client: one, own: "a".into(), filter: "a".into(), progress: Rc::clone(&progress), until: 9 });
        let count = |slots: &[u32]| {
            let mut matched = matched(slots);
            all.leave_out(&message("a"), 0, 5, &mut matched);
            matched.len()
        };
        assert_eq!((count(&[one.slot, 7]), count(&[one.slot, one.slot])), (1, 2));
        (1..HELD).for_each(|_| assert_eq!(count(&[one.slot]), 0));
        assert_eq!(count(&[one.slot]), 1);
        assert_eq!(progress.borrow().held.as_ref().map(Vec::len), Some(HELD));
    }

    #[test]
    fn what_is_older_than_what_was_given_is_left_out() {
        let mut keys = super::super::slab::Slab::new();
        let (one, two) = (key(0, &mut keys), key(1, &mut keys));
        let mut all = GivenAll::default();
        let mut given = |client, filter: &str, progress: Progress, until| {
            let progress = Rc::new(RefCell::new(progress));
            all.add(Given { client, own: filter.into(), filter: filter.into(), progress, until });
        };
        given(one, "a/+", through([Some(7), None]), 50);
        given(one, "b", through([Some(9), None]), 50);
        given(two, "a/#", through([Some(5), Some(5)]), 99);
        let left = |topic, shard, number, slots: &[u32]| {
            let mut matched = matched(slots);
            all.leave_out(&message(topic), shard, number, &mut matched);
            matched.into_iter().map(|(slot, _)| slot).collect::<Vec<_>>()
        };
        assert_eq!(left("a/x", 0, 7, &[3, 1, 0]), [1, 3]);
        assert_eq!(left("a/x", 0, 8, &[3, 1, 0]), [0, 1, 3]);
        assert_eq!(left("a/x", 0, 5, &[3, 1, 0]), [3]);
        // By another subscription of the client it is new, and of the other shard nothing is known.
        assert_eq!(left("a/x", 0, 5, &[0, 0, 1]), [0, 0]);
        assert_eq!(left("a/x", 1, 5, &[0, 1]), [0]);
        // By another filter something else was given.
        assert_eq!(left("c", 0, 1, &[0, 1]), [0, 1]);
        all.forget(60);
        let mut of_one = matched(&[0, 1]);
        all.leave_out(&message("a/x"), 0, 5, &mut of_one);
        assert_eq!(of_one.len(), 1);
    }

    /// Who subscribes again by the same filter has the later floor; who came after it into its slot has none of it.
    #[test]
    fn subscribed_again() {
        let mut keys = super::super::slab::Slab::new();
        let first = keys.insert(());
        let mut all = GivenAll::default();
        let given = |client, floor| Given {
            client,
            own: "a".into(),
            filter: "a".into(),
            progress: Rc::new(RefCell::new(through([Some(floor)]))),
            until: 50,
        };
        all.add(given(first, 3));
        all.add(given(first, 8));
        let mut one = matched(&[first.slot]);
        all.leave_out(&message("a"), 0, 8, &mut one);
        assert!(one.is_empty() && all.of[&first.slot].len() == 1);
        keys.remove(first);
        all.end(first);
        let second = keys.insert(());
        assert_eq!(second.slot, first.slot);
        all.add(given(second, 1));
        let mut one = matched(&[first.slot]);
        all.leave_out(&message("a"), 0, 8, &mut one);
        assert_eq!(one.len(), 1);
    }
}
