//! What a new subscription gets of what the shards retain.
//!
//! It reads what was committed when its SUBACK was sent, from all shards if its filter has wildcards, page by page, no faster than the client takes it; what comes as retained and what
//! comes live is told apart by floors ([`super::given`]). Of what is published after SUBACK nothing is left out. A durable session gets both by its queue, whose shard compares
//! the numbers of changes.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use raftmq_cluster::{ShardReadError, Shards};
use raftmq_mqtt::topic::filter_matches;
use raftmq_mqtt::{Message, QoS};
use raftmq_routing::FilterKind;
use raftmq_session::{Forms, Matched, SubscriptionInfo};
use raftmq_shard::{Op, OpAnswer, PageLimits, QueueMessage, RetainedCursor, RetainedMessage, RetainedPage};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Worker;
use super::given::{Given, NOTED, Progress, Topics};
use super::publish::is_reserved;
use super::replay::Room;
use super::shards::{NAMESPACE, name};
use super::wheel::Key;

/// The most messages and records of a page.
const PAGE: usize = 256;
const STEPS: usize = 4_096;
/// Bytes of a page at most, whatever the client takes.
const PAGE_BYTES: usize = 256 << 10;
/// Topics of a SUBSCRIBE whose retained messages are read before its SUBACK: those of the others come behind it.
const TOPICS: usize = 16;
/// How long the last shard without an answer holds a SUBACK up.
const FLOOR_TIME: Duration = Duration::from_secs(2);
/// How long a message may take from its shard, by way of its publisher's node, to a subscriber, and be known to be older than what that got.
const OLDER_MS: u64 = 60_000;
/// How long something that changed during the lookup is expected live, before it is read again: the node that should have sent it may have died. A living one has sent it by then, or has
/// closed its publisher: that is how long it waits for a commit.
const EXPECTED: Duration = Duration::from_secs(10);
/// How long it is expected at most, where a node sends nothing or the topic changes again and again.
const LATEST: Duration = Duration::from_secs(30);
/// Before it is looked again whether nodes are silent.
const LISTEN: Duration = Duration::from_millis(500);
/// Before a client that takes nothing, or a shard that cannot be read, is looked at again.
const AGAIN: Duration = Duration::from_millis(50);
/// The same of a queue that has no room, at most.
const LONGEST: Duration = Duration::from_secs(1);

/// The lookups of a SUBSCRIBE, by the filters in the session.
pub(super) type Lookups = Vec<(Arc<str>, u64)>;

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

/// A change that is not given as retained, since it comes live, or came when there was no room for it.
#[derive(Debug, Clone, Copy)]
struct Expected {
    shard: u16,
    number: u64,
    /// Until then it may still come. `None`: it came, and found no room.
    until: Option<Instant>,
}

impl Expected {
    fn is_due(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }
}

/// A subscription on its way through the shards.
pub(super) struct ShardReplay {
    client: Key,
    /// The filter in the session.
    own: Arc<str>,
    /// What topics are matched against.
    filter: Arc<str>,
    /// The session gets what has a QoS by its queue.
    durable: bool,
    /// How it matches; `None` before SUBACK.
    matched: Option<Matched>,
    progress: Rc<RefCell<Progress>>,
    /// Topics of what came live, with the numbers of the changes.
    live: Topics,
    /// Topics that changed since SUBACK and have not come live.
    expected: HashMap<Box<str>, Expected, ahash::RandomState>,
    /// Of a durable session: the number in its queue up to which it was given to the client when the page was asked for.
    after: u64,
    /// Topics of the page that are in its queue already.
    queued: Vec<Box<str>>,
    /// Whose turn it is to read: a page is given before another one is asked for.
    turn: Rc<Mutex<()>>,
}

impl ShardReplay {
    /// Whether the client gets a message by its queue, and not from its worker.
    fn by_queue(&self, message: &Message) -> bool {
        let granted = self.matched.as_ref().is_none_or(|matched| matched.qos > QoS::AtMostOnce);
        self.durable && granted && message.qos() > QoS::AtMostOnce
    }

    fn note(&mut self, message: &Message) {
        if !filter_matches(&self.filter, message.topic()) {
            return;
        }
        let number = message.change().unwrap_or(u64::MAX);
        if self.expected.get(message.topic()).is_some_and(|expected| expected.number <= number) {
            self.expected.remove(message.topic());
        }
        if self.live.len() > NOTED {
            return;
        }
        match self.live.get_mut(message.topic()) {
            Some(known) => *known = number.max(*known),
            None => drop(self.live.insert(message.topic().into(), number)),
        }
    }
}

/// All of them, by numbers.
#[derive(Default)]
pub(super) struct ShardReplays {
    of: HashMap<u64, ShardReplay, ahash::RandomState>,
    last: u64,
}

impl ShardReplays {
    /// Notes what comes live from now on.
    fn add(&mut self, replay: ShardReplay) -> u64 {
        self.last += 1;
        self.of.insert(self.last, replay);
        self.last
    }

    /// SUBACK is about to be sent: the lookup begins, and ends an earlier one of the same subscription. `None`: it is not there, or has begun.
    fn begin(&mut self, number: u64, matched: Matched) -> Option<&mut ShardReplay> {
        let begins = self.of.get(&number).filter(|replay| replay.matched.is_none())?;
        let (client, own) = (begins.client, Arc::clone(&begins.own));
        self.of.retain(|_, known| known.client != client || known.own != own || known.matched.is_none());
        let replay = self.of.get_mut(&number)?;
        replay.matched = Some(matched);
        Some(replay)
    }

    /// A message with RETAIN goes to clients, if it matches their filters, but not by their queues.
    pub(super) fn note_live(&mut self, message: &Message, to: impl Fn(Key) -> bool) {
        for replay in self.of.values_mut().filter(|replay| to(replay.client) && !replay.by_queue(message)) {
            replay.note(message);
        }
    }

    /// A message with RETAIN goes to a client by its queue.
    pub(super) fn note_queued(&mut self, message: &Message, client: Key) {
        for replay in self.of.values_mut().filter(|replay| replay.client == client) {
            replay.note(message);
        }
    }

    /// SUBACK was sent, or is not: of these what has not begun by now does not.
    fn answered(&mut self, lookups: &[u64]) {
        for number in lookups {
            if self.of.get(number).is_some_and(|replay| replay.matched.is_none()) {
                self.of.remove(number);
            }
        }
    }

    /// A client has ended.
    pub(super) fn end(&mut self, client: Key) {
        self.of.retain(|_, replay| replay.client != client);
    }

    /// Whether there is one of this number.
    pub(super) fn has(&self, number: u64) -> bool {
        self.of.contains_key(&number)
    }

    /// There is none.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

/// The number of the last change of what a shard retains. Asked again as long as the shard has no leader, or not the one that was asked.
async fn floor(shards: &Shards, shard: u16) -> Option<u64> {
    loop {
        match shards.last_retained(shard).await {
            Ok(last) => return Some(last),
            Err(ShardReadError::Unavailable) => sleep(AGAIN).await,
            Err(_) => return None,
        }
    }
}

impl Worker {
    /// Lookups for new subscriptions, given by their own filters, what topics are matched against and whether they are new: their numbers, and what is to be read before SUBACK;
    /// `None` if there is nothing. What comes live is noted from now on.
    pub(super) fn read_floors(
        &mut self,
        client: Key,
        filters: &[(&Arc<str>, &Arc<str>, bool)],
    ) -> (Lookups, Option<impl Future<Output = Floors> + use<>>) {
        let mut lookups = Lookups::new();
        let Some(shards) = self.desk.as_ref().map(|desk| desk.shards.clone()) else { return (lookups, None) };
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
            let number = self.shard_replays.add(ShardReplay {
                client,
                own: Arc::clone(own),
                filter: filter.into(),
                durable,
                matched: None,
                progress: Rc::clone(&progress),
                live: Topics::default(),
                expected: HashMap::default(),
                after: 0,
                queued: Vec::new(),
                turn: Rc::default(),
            });
            if *new {
                let (own, filter) = (Arc::clone(own), filter.into());
                self.given.add(Given { number, client, own, filter, progress, until });
            }
            lookups.push((Arc::clone(own), number));
        }
        let read = wanted.contains(&true).then_some(async move {
            let read = (0..count).zip(wanted).map(|(shard, wanted)| {
                let shards = &shards;
                async move {
                    let read = async { if wanted { floor(shards, shard).await } else { None } };
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
        });
        (lookups, read)
    }

    /// SUBACK was sent for subscriptions, or nobody waits for it: of their lookups what waited for it and has not begun is over.
    pub(super) fn suback_sent(&mut self, client: Key, lookups: &Lookups) {
        if lookups.is_empty() {
            return;
        }
        let numbers: Vec<u64> = lookups.iter().map(|(_, number)| *number).collect();
        self.shard_replays.answered(&numbers);
        self.given.answered(client, &numbers);
    }

    /// Sends what the shards retain for a new subscription, by the lookup of this number.
    pub(super) fn replay_from_shards(
        &mut self,
        client: Key,
        own: &Arc<str>,
        info: &SubscriptionInfo,
        number: u64,
        floors: &Floors,
    ) {
        let Some(shards) = self.desk.as_ref().map(|desk| desk.shards.clone()) else {
            return;
        };
        let matched = Matched { retained: true, ..Matched::by(info) };
        let Some(replay) = self.shard_replays.begin(number, matched) else {
            return;
        };
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
            // For which there was no room, as if they had not come.
            for (topic, number) in std::mem::take(&mut progress.missed) {
                if let Some(shard) = shards.shard_of(NAMESPACE, &topic) {
                    replay.expected.insert(topic, Expected { shard, number, until: None });
                }
            }
        }
        let of_topic = floors.found(own).filter(|_| !replay.durable).cloned();
        let known = of_topic.is_some();
        if let Some(page) = of_topic
            && let Some(shard) = shards.shard_of(NAMESPACE, &filter)
        {
            self.deliver_page(number, shard, page, None);
        }
        let now = self.node.clock.now();
        for message in newer {
            if message.retain() {
                self.shard_replays.note_live(&message, |to| to == client);
            }
            if let Some(reason) = self.deliver_to(client.slot, &Matched::by(info), &mut Forms::new(message, now), now) {
                self.counters.dropped(reason, 1);
            }
        }
        if known && self.next_due(number).is_none() {
            self.shard_replays.of.remove(&number);
            return;
        }
        self.do_later(Box::new(move |worker| {
            Box::pin(async move {
                if known {
                    replay_late(&worker, &shards, number).await;
                } else {
                    replay_all(&worker, &shards, number, &filter).await;
                }
                worker.borrow_mut().shard_replays.of.remove(&number);
            })
        }));
    }

    pub(super) fn has_durable(&mut self, client: Key) -> bool {
        let owner = self.clients.get_mut(client).and_then(|entry| entry.owner.as_ref());
        owner.is_some_and(|owner| owner.durable.is_some())
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

    /// Gives a page to the client; what is for the queue of its session, if anything is. `None`: the page is to be read again. What changed later than `up_to` is not given, but
    /// expected live; without that, what changed since SUBACK.
    fn deliver_page(
        &mut self,
        number: u64,
        shard: u16,
        page: RetainedPage,
        up_to: Option<u64>,
    ) -> Option<Vec<QueueMessage>> {
        let replay = self.shard_replays.of.get_mut(&number)?;
        if replay.live.len() > NOTED {
            return None;
        }
        let matched = replay.matched.clone()?;
        let floor = replay.progress.borrow().floor(shard).unwrap_or_default();
        let until = self.node.clock.ms() + OLDER_MS;
        let mut give = Vec::with_capacity(page.messages.len());
        for found in page.messages {
            let topic = found.message.topic();
            let queued = replay.queued.iter().any(|queued| **queued == *topic);
            if queued || replay.live.get(topic).is_some_and(|live| *live >= found.number) {
                continue;
            }
            if found.number <= up_to.unwrap_or(floor) {
                if found.number > floor {
                    replay.progress.borrow_mut().gave_late(topic, found.number);
                    self.given.keep(replay.client, number, until);
                }
                give.push(found);
            } else if replay.expected.len() < NOTED {
                let until = Some(Instant::now() + EXPECTED);
                replay.expected.insert(topic.into(), Expected { shard, number: found.number, until });
            }
        }
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

    /// When the first of what is expected is waited for no more; `None`: nothing is expected.
    fn next_due(&self, number: u64) -> Option<Instant> {
        let expected = &self.shard_replays.of.get(&number)?.expected;
        let now = Instant::now();
        expected.values().map(|expected| expected.until.unwrap_or(now)).min()
    }

    /// What is waited for no more, or everything; where `came`, only what came and found no room.
    fn take_due(&mut self, number: u64, all: bool, came: bool) -> Vec<(Box<str>, Expected)> {
        let now = Instant::now();
        let due = |expected: &Expected| all || (expected.is_due(now) && (!came || expected.until.is_none()));
        let replay = self.shard_replays.of.get_mut(&number);
        replay.map(|replay| replay.expected.extract_if(|_, expected| due(expected)).collect()).unwrap_or_default()
    }
}

/// The shards that retain something for a filter.
fn shards_of(shards: &Shards, filter: &str) -> Range<u16> {
    let of_topic = (!filter.contains(['+', '#'])).then(|| shards.shard_of(NAMESPACE, filter)).flatten();
    of_topic.map_or(0..shards.count(), |shard| shard..shard + 1)
}

/// Reads all shards that may have something, and gives it to the client as that takes it. One that cannot be read holds up no other.
async fn replay_all(worker: &Rc<RefCell<Worker>>, shards: &Shards, number: u64, filter: &str) {
    let of_filter = shards_of(shards, filter);
    let Some(progress) = worker.borrow().shard_replays.of.get(&number).map(|replay| Rc::clone(&replay.progress)) else {
        return;
    };
    let (told, untold): (Vec<u16>, _) = of_filter.partition(|shard| progress.borrow().floor(*shard).is_some());
    let told = async {
        let told = told.into_iter().map(|shard| (shard, None)).collect();
        if replay_each(worker, shards, number, filter, told).await {
            replay_late(worker, shards, number).await;
        }
    };
    let untold = async {
        if !untold.is_empty() && replay_untold(worker, shards, number, filter, untold).await {
            replay_late(worker, shards, number).await;
        }
    };
    tokio::join!(told, untold);
}

/// Reads shards, each up to a change or, without one, to what it said before SUBACK.
async fn replay_each(
    worker: &Rc<RefCell<Worker>>,
    shards: &Shards,
    number: u64,
    filter: &str,
    of: Vec<(u16, Option<u64>)>,
) -> bool {
    let mut left: VecDeque<_> = of.into_iter().map(|(shard, up_to)| (shard, up_to, None)).collect();
    let mut unread = 0;
    while let Some((shard, up_to, cursor)) = left.pop_front() {
        match replay(worker, shards, number, shard, filter, cursor, up_to).await {
            Replayed::Over => return false,
            Replayed::All => unread = 0,
            Replayed::Unavailable(cursor) => {
                left.push_back((shard, up_to, cursor));
                unread += 1;
                if unread >= left.len() {
                    sleep(AGAIN * 4).await;
                    unread = 0;
                }
            }
        }
    }
    true
}

/// Reads shards that said nothing before SUBACK. Of what they have when they can be read it is not known what was published since, and comes live: that is waited for, and
/// what did not come is given.
async fn replay_untold(
    worker: &Rc<RefCell<Worker>>,
    shards: &Shards,
    number: u64,
    filter: &str,
    mut untold: Vec<u16>,
) -> bool {
    while !untold.is_empty() {
        if !worker.borrow().shard_replays.of.contains_key(&number) {
            return false;
        }
        let mut told = Vec::new();
        for shard in std::mem::take(&mut untold) {
            match shards.last_retained(shard).await {
                Ok(last) => told.push((shard, Some(last))),
                Err(ShardReadError::Unknown) => {}
                Err(_) => untold.push(shard),
            }
        }
        if told.is_empty() {
            sleep(AGAIN * 4).await;
            continue;
        }
        sleep(EXPECTED).await;
        if !replay_each(worker, shards, number, filter, told).await {
            return false;
        }
    }
    true
}

/// What its subscription should have brought live may have been lost on its way, with the node that was to send it: it is read after a while. What came, and found no room, is
/// read at once.
async fn replay_late(worker: &Rc<RefCell<Worker>>, shards: &Shards, number: u64) {
    let latest = Instant::now() + LATEST;
    loop {
        let Some(due) = worker.borrow().next_due(number) else { return };
        sleep_until(due.min(latest)).await;
        let over = Instant::now() >= latest;
        let silent = !over && worker.borrow().node.router.any_silent();
        let mut late: VecDeque<_> = worker.borrow_mut().take_due(number, over, silent).into();
        if late.is_empty() {
            sleep(LISTEN).await;
        }
        while let Some((topic, expected)) = late.pop_front() {
            // What is later still is expected live.
            let up_to = if over { u64::MAX } else { expected.number };
            match replay(worker, shards, number, expected.shard, &topic, None, Some(up_to)).await {
                Replayed::Over => return,
                Replayed::All => {}
                Replayed::Unavailable(_) => {
                    late.push_back((topic, expected));
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

/// What became of reading a shard.
enum Replayed {
    /// All of it is given.
    All,
    /// There is no such subscription any more.
    Over,
    /// It cannot be read now; from here on it is to be read again.
    Unavailable(Option<RetainedCursor>),
}

/// Reads one shard.
async fn replay(
    worker: &Rc<RefCell<Worker>>,
    shards: &Shards,
    number: u64,
    shard: u16,
    filter: &str,
    mut cursor: Option<RetainedCursor>,
    up_to: Option<u64>,
) -> Replayed {
    let Some(turn) = worker.borrow().shard_replays.of.get(&number).map(|replay| Rc::clone(&replay.turn)) else {
        return Replayed::Over;
    };
    let _turn = turn.lock().await;
    let mut pause = AGAIN;
    loop {
        let Some(room) = worker.borrow_mut().shard_replay_room(number) else { return Replayed::Over };
        if room.messages == 0 {
            sleep(AGAIN).await;
            continue;
        }
        let limits = PageLimits { messages: room.messages.min(PAGE), bytes: room.bytes.min(PAGE_BYTES), steps: STEPS };
        worker.borrow_mut().begin_page(number);
        let page = match shards.retained(shard, NAMESPACE, filter, cursor.clone(), limits).await {
            Ok(page) => page,
            Err(ShardReadError::Unknown) => return Replayed::All,
            Err(error) => {
                tracing::debug!(shard, %error, "retained messages are read again");
                return Replayed::Unavailable(cursor);
            }
        };
        let next = page.next.clone();
        let Some(queue) = worker.borrow_mut().deliver_page(number, shard, page, up_to) else { continue };
        match queue_up(worker, number, queue).await {
            None => return Replayed::Over,
            // What is left may be older than what came meanwhile.
            Some(false) => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
                continue;
            }
            Some(true) => pause = AGAIN,
        }
        cursor = next;
        if cursor.is_none() {
            return Replayed::All;
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
