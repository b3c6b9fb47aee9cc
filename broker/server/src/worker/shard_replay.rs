//! What a new subscription gets of what the shards retain.
//!
//! It reads what was committed when its SUBACK was sent, from all shards if its filter has wildcards, page by page, no faster than the client takes it; what comes as retained and what
//! comes live is told apart by floors ([`super::given`]). Of what is published after SUBACK nothing is left out. A durable session gets both by its queue, whose shard compares
//! the numbers of changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use raftmq_cluster::{ShardReadError, Shards};
use raftmq_mqtt::topic::filter_matches;
use raftmq_mqtt::{Message, QoS};
use raftmq_routing::FilterKind;
use raftmq_session::{Forms, Matched, SubscribeItem, SubscriptionInfo};
use raftmq_shard::{Op, OpAnswer, PageLimits, QueueMessage, RetainedMessage, RetainedPage};
use tokio::time::{sleep, timeout};

use super::Worker;
use super::given::{Given, Progress};
use super::publish::is_reserved;
use super::replay::Room;
use super::shards::{NAMESPACE, name};
use super::wheel::Key;

/// The most messages and records of a page.
const PAGE: usize = 256;
const STEPS: usize = 4_096;
/// Bytes of a page at most, whatever the client takes.
const PAGE_BYTES: usize = 256 << 10;
/// Topics noted of what comes live while a page is read; with more the page is read again. And of what is expected live.
const NOTED: usize = 4_096;
/// Topics of a SUBSCRIBE whose retained messages are read before its SUBACK: those of the others come behind it.
const TOPICS: usize = 16;
/// How long the last shard without an answer holds a SUBACK up.
const FLOOR_TIME: Duration = Duration::from_secs(2);
/// How long a message may take from its shard, by way of its publisher's node, to a subscriber, and be known to be older than what that got.
const OLDER_MS: u64 = 60_000;
/// How long something that changed during the lookup is expected live, before it is read again: the link that should have brought it may have broken.
const EXPECTED: Duration = Duration::from_secs(2);
/// Before a client that takes nothing, or a shard that cannot be read, is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

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

    fn has_durable(&mut self, client: Key) -> bool {
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
