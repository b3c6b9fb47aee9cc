//! The queues of clients that are connected here while their shard has its replicas elsewhere.
//!
//! For each such shard this node *follows* one node with a replica ([`super::followers`]): it is told which clients have something new, and reads parts of their queues
//! there. What is kept of a queue is one part at most, which is read when the client's worker has asked for it, and what says whether there may be more.
//!
//! Nothing is lost because all of this is about what may be new, never about what is: a part that was read says how far the client's queue is known, and
//! who begins to follow a node anew, since the one before is gone, is behind or has told something that did not come, holds all queues for changed. And no read goes back
//! in time: of each shard the last entry is known that any answer came from, and whoever has not applied that does not answer.
//!
//! A node that gets a replica goes on like this until the replica has a vote and has applied that entry; then all clients of the node are looked at, as after a
//! snapshot. So they are when meta counts its replica no more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use raftmq_links::Class;
use raftmq_meta::{FOLLOW_LEVEL, MetaState};
use raftmq_shard::{Deliveries, Effect, Name, Sent};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use crate::node::{CALL, Node, RETRY, Running};
use crate::wire::{Request, Response};

use super::ShardId;
use super::followers::{Follow, Followed, News, NewsRequest, PARK, Turn};
use super::parts::{AT_ONCE, Asked, Part, PartsRequest};

/// Bytes of parts that workers have not taken, from which on nothing more is read.
const HELD: usize = 16 << 20;
/// Between two questions whether what is followed is not behind, while nothing is heard of it.
const CHECK: Duration = Duration::from_secs(4);
/// Shards that are left at once.
const LEFT: usize = 1_024;

/// A connection's way to a queue whose shard has no replica here; nothing while there is one. It goes with the connection.
#[derive(Default)]
pub struct RemoteQueue(Option<Arc<Queue>>);

impl RemoteQueue {
    /// The shard has a replica here.
    pub(super) fn leave(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.place.forget(&queue);
        }
    }
}

impl Drop for RemoteQueue {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a worker wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    after: u64,
    max: usize,
    max_bytes: usize,
}

/// A part that its worker has not taken.
#[derive(Debug)]
struct Ready {
    after: u64,
    read: Deliveries,
    more: bool,
}

/// What is known of a queue.
#[derive(Debug)]
struct Known {
    /// It may have something behind what was read.
    changed: bool,
    /// It waits for being read, or is.
    under_way: bool,
    /// The worker has asked and got nothing.
    wanted: Option<Wanted>,
    ready: Option<Ready>,
    /// The last number that was given to the worker.
    read_to: u64,
    granted: u64,
    last: u64,
}

impl Known {
    fn new() -> Self {
        Self { changed: true, under_way: false, wanted: None, ready: None, read_to: 0, granted: 0, last: 0 }
    }

    /// The worker asks: what is there, and whether something is to be read.
    fn ask(&mut self, wanted: Wanted) -> (Deliveries, bool) {
        let Wanted { after, .. } = wanted;
        if let Some(Ready { after: from, read, more }) = self.ready.take() {
            self.changed |= more || from != after;
            if from == after && !read.sent.is_empty() {
                self.read_to = read.sent.last().map_or(after, |last| last.seq);
                self.wanted = None;
                return (read, false);
            }
        }
        // What was given could not all be used.
        self.changed |= after < self.read_to;
        self.read_to = after;
        self.wanted = Some(wanted);
        let nothing = Deliveries { sent: Vec::new(), granted: self.granted, last: self.last, waits: false };
        (nothing, self.is_due())
    }

    /// It may have something new. Whether it is to be read.
    fn change(&mut self) -> bool {
        self.changed = true;
        self.is_due()
    }

    fn is_due(&mut self) -> bool {
        let due = self.changed && self.wanted.is_some() && !self.under_way;
        self.under_way |= due;
        due
    }

    /// It is read now; what comes up from here on may not be in what is read.
    fn begin(&mut self) -> Option<Wanted> {
        self.changed = false;
        self.under_way = self.wanted.is_some();
        self.wanted
    }

    /// It was not read. Whether it is to be read again.
    fn fail(&mut self) -> bool {
        self.under_way = false;
        self.change()
    }

    /// It was read. Whether the worker is to look, and whether it is to be read again.
    fn read(&mut self, after: u64, read: Deliveries, more: bool) -> (bool, bool) {
        self.under_way = false;
        let news = (read.granted, read.last) != (self.granted, self.last);
        (self.granted, self.last) = (read.granted, read.last);
        if read.sent.is_empty() {
            self.changed |= more;
            return (news, self.is_due());
        }
        self.ready = Some(Ready { after, read, more });
        self.wanted = None;
        (true, false)
    }
}

/// A queue of a client that is connected here.
struct Queue {
    client: Name,
    place: Arc<Place>,
    known: Mutex<Known>,
    /// Bytes of the part that the worker has not taken.
    held: AtomicUsize,
}

impl Queue {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, bytes: usize) {
        let before = self.held.swap(bytes, Ordering::AcqRel);
        self.place.held.fetch_add(bytes, Ordering::AcqRel);
        let left = self.place.held.fetch_sub(before, Ordering::AcqRel).saturating_sub(before);
        if before > bytes && left < HELD {
            self.place.wake.notify_one();
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.hold(0);
    }
}

/// Whom a shard is followed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    node: u64,
    session: u64,
    turn: u64,
}

/// A shard whose clients are served here without a replica.
struct Place {
    id: ShardId,
    /// The last entry that anything told or read here had applied.
    floor: AtomicU64,
    /// Who leads it, as was said last; 0: nobody has said.
    leader: AtomicU64,
    inner: Mutex<Inner>,
    /// Something is to be read, or there is room, or the source is lost.
    wake: Notify,
    held: Arc<AtomicUsize>,
    /// Somebody keeps it up.
    runs: AtomicBool,
}

#[derive(Default)]
struct Inner {
    queues: HashMap<Name, Arc<Queue>>,
    /// Those that are to be read.
    due: VecDeque<Arc<Queue>>,
    source: Option<Source>,
    /// When anything was heard of the source.
    heard: Option<Instant>,
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection before under that name is over.
    fn register(self: &Arc<Self>, client: &Name) -> Arc<Queue> {
        let (known, held) = (Mutex::new(Known::new()), AtomicUsize::new(0));
        let queue = Arc::new(Queue { client: client.clone(), place: Arc::clone(self), known, held });
        self.lock().queues.insert(client.clone(), Arc::clone(&queue));
        queue
    }

    fn forget(&self, queue: &Arc<Queue>) {
        let mut inner = self.lock();
        if inner.queues.get(&queue.client).is_some_and(|known| Arc::ptr_eq(known, queue)) {
            inner.queues.remove(&queue.client);
        }
    }

    fn add_due(&self, queues: impl IntoIterator<Item = Arc<Queue>>) {
        self.lock().due.extend(queues);
        self.wake.notify_one();
    }

    fn raise(&self, index: u64) {
        self.floor.fetch_max(index, Ordering::AcqRel);
    }

    fn heard_of(&self, turn: u64) -> bool {
        let mut inner = self.lock();
        let known = inner.source.is_some_and(|source| source.turn == turn);
        if known {
            inner.heard = Some(Instant::now());
        }
        known
    }

    fn is_source(&self, source: Source) -> bool {
        self.lock().source == Some(source)
    }

    /// It is followed there no more.
    fn end_source(&self, which: impl Fn(&Source) -> bool) {
        let mut inner = self.lock();
        if inner.source.as_ref().is_some_and(which) {
            inner.source = None;
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// All queues may have something new.
    fn change_all(&self) {
        let queues: Vec<_> = self.lock().queues.values().cloned().collect();
        self.add_due(queues.into_iter().filter(|queue| queue.known().change()));
    }

    fn change(&self, clients: Vec<(u32, String)>) {
        let queues: Vec<_> = {
            let inner = self.lock();
            let known = |(namespace, id): (u32, String)| inner.queues.get(&Name::new(namespace, &id)).cloned();
            clients.into_iter().filter_map(known).collect()
        };
        self.add_due(queues.into_iter().filter(|queue| queue.known().change()));
    }

    /// Takes what the source tells; false: it is followed there no more.
    fn hear(&self, news: News) -> bool {
        let News { turn, index, all, clients } = news;
        if !self.heard_of(turn.number) {
            return false;
        }
        let Some(index) = index else {
            self.end_source(|source| source.turn == turn.number);
            return true;
        };
        // Before anything is read because of it.
        self.raise(index);
        if all {
            self.change_all()
        } else {
            self.change(clients)
        }
        true
    }

    /// Queues to be read, within bounds.
    fn take_due(&self) -> Vec<(Arc<Queue>, Wanted)> {
        if self.held.load(Ordering::Acquire) >= HELD {
            return Vec::new();
        }
        let due: Vec<_> = {
            let mut inner = self.lock();
            let count = inner.due.len().min(AT_ONCE);
            inner.due.drain(..count).collect()
        };
        let begun = |queue: Arc<Queue>| {
            let wanted = queue.known().begin()?;
            Some((queue, wanted))
        };
        due.into_iter().filter_map(begun).collect()
    }

    fn failed(&self, queues: impl Iterator<Item = Arc<Queue>>) {
        self.add_due(queues.filter(|queue| queue.known().fail()));
    }
}

/// All shards that are followed.
#[derive(Default)]
pub(crate) struct Remote {
    places: Mutex<HashMap<u16, Arc<Place>>>,
    /// The session at each node that something is followed at.
    sessions: Mutex<HashMap<u64, u64>>,
    /// The sessions of which the news are asked for.
    listening: Mutex<HashSet<u64>>,
    held: Arc<AtomicUsize>,
}

impl Remote {
    fn place(&self, id: ShardId) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(id.number).or_insert_with(|| self.new_place(id));
        if place.id != id {
            *place = self.new_place(id);
        }
        Arc::clone(place)
    }

    fn new_place(&self, id: ShardId) -> Arc<Place> {
        Arc::new(Place {
            id,
            floor: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            inner: Mutex::default(),
            wake: Notify::new(),
            held: Arc::clone(&self.held),
            runs: AtomicBool::new(false),
        })
    }

    fn known(&self, number: u16) -> Option<Arc<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    fn all(&self) -> Vec<Arc<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What was read of a shard had applied this: nothing older is read from now on.
    pub(super) fn raise(&self, id: ShardId, index: u64) {
        self.place(id).raise(index);
    }

    /// The entry that whatever is read of a shard has to have applied.
    pub(super) fn floor(&self, id: ShardId) -> u64 {
        self.known(id.number).filter(|place| place.id == id).map_or(0, |place| place.floor.load(Ordering::Acquire))
    }

    /// A part of a queue, if it is there; else the client's worker is told when it is.
    pub(super) fn deliveries(
        &self,
        node: &Arc<Node>,
        id: ShardId,
        client: &Name,
        queue: &mut RemoteQueue,
        (after, max, max_bytes): (u64, usize, usize),
    ) -> Deliveries {
        if queue.0.as_ref().is_some_and(|queue| queue.place.id != id) {
            queue.leave();
        }
        let queue = queue.0.get_or_insert_with(|| self.place(id).register(client));
        let (read, due) = queue.known().ask(Wanted { after, max, max_bytes });
        if queue.held.load(Ordering::Acquire) > 0 {
            queue.hold(0);
        }
        if due {
            queue.place.add_due([Arc::clone(queue)]);
        }
        if !queue.place.runs.swap(true, Ordering::AcqRel) {
            node.spawn(keep(Arc::clone(node), Arc::clone(&queue.place)));
        }
        read
    }

    fn session(&self, node: u64) -> u64 {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        *sessions.entry(node).or_insert_with(rand::random)
    }
}

/// The nodes that can be asked for a shard, best first: who leads it, then the others, another one first each time.
pub(super) fn candidates(
    state: &MetaState,
    own: u64,
    id: ShardId,
    leader: Option<u64>,
    turn: usize,
) -> impl Iterator<Item = u64> + use<> {
    let able = |node: &u64| {
        let member = state.members.get(node);
        *node != own && member.is_some_and(|member| member.up && member.feature_level >= FOLLOW_LEVEL)
    };
    let mut nodes: Vec<u64> = super::replicas_of(state, id).into_iter().filter(able).collect();
    if !nodes.is_empty() {
        let count = nodes.len();
        nodes.rotate_left(turn % count);
    }
    // In its place, and the others keep theirs.
    nodes.sort_by_key(|node| Some(*node) != leader);
    nodes.into_iter()
}

/// Who leads a shard that is followed, as was said last.
pub(super) fn leader_of(running: &Running, id: ShardId) -> Option<u64> {
    let place = running.remote.known(id.number).filter(|place| place.id == id)?;
    Some(place.leader.load(Ordering::Acquire)).filter(|leader| *leader != 0)
}

/// Follows a shard for as long as it has clients here and no replica.
async fn keep(node: Arc<Node>, place: Arc<Place>) {
    let Some(running) = node.running() else { return };
    let mut turn = 0;
    // A leader that did not answer is not asked first again.
    let mut leader = leader_of(running, place.id);
    loop {
        if running.shards.own(place.id).is_some() || place.lock().queues.is_empty() {
            place.end_source(|_| true);
            place.runs.store(false, Ordering::Release);
            // Somebody may have come in between, and has seen that it runs.
            let again = running.shards.own(place.id).is_none() && !place.lock().queues.is_empty();
            if !again || place.runs.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        let source = candidates(&node.meta_state(), running.id, place.id, leader, turn).next();
        let told = match source {
            Some(source) => follow(&node, running, &place, source).await,
            None => None,
        };
        turn += 1;
        leader = told.filter(|told| Some(*told) != source);
        if leader.is_none() {
            tokio::time::sleep(RETRY / 4).await;
        }
    }
}

/// Follows a shard at a node until that cannot go on, or nobody needs it. Gives who leads the shard, if that is another node to begin with.
async fn follow(node: &Arc<Node>, running: &Running, place: &Arc<Place>, at: u64) -> Option<u64> {
    let source = Source { node: at, session: running.remote.session(at), turn: rand::random() };
    {
        // Before it can be told anything.
        let mut inner = place.lock();
        inner.source = Some(source);
        inner.heard = Some(Instant::now());
    }
    let Some(begun) = ask(node, place, source, true).await else {
        place.end_source(|known| *known == source);
        return None;
    };
    place.raise(begun.index);
    let before = place.leader.swap(begun.leader.unwrap_or(0), Ordering::AcqRel);
    if let Some(leader) = begun.leader.filter(|leader| *leader != at && *leader != before) {
        place.end_source(|known| *known == source);
        return Some(leader);
    }
    // All that came up before it was followed.
    place.change_all();
    listen(node, running, source);
    debug!(shard = place.id.number, node = at, "following the shard");
    follow_on(node, running, place, source).await;
    place.end_source(|known| *known == source);
    None
}

/// Queues that are read, and the parts of them that come.
type Reading = (Vec<(Arc<Queue>, Wanted)>, BoxFuture<'static, Option<Vec<Part>>>);

/// Reads what is due, and looks whether the source is not behind.
async fn follow_on(node: &Arc<Node>, running: &Running, place: &Arc<Place>, source: Source) {
    let mut reading: Option<Reading> = None;
    let mut check: Option<BoxFuture<'_, Option<Followed>>> = None;
    while place.is_source(source) && running.shards.own(place.id).is_none() {
        if reading.is_none() {
            let due = place.take_due();
            if !due.is_empty() {
                let read = read(Arc::clone(node), Arc::clone(place), source.node, &due);
                reading = Some((due, read.boxed()));
            }
        }
        let (idle, heard) = {
            let inner = place.lock();
            (inner.queues.is_empty(), inner.heard)
        };
        if idle && heard.is_none_or(|heard| heard.elapsed() >= CHECK) {
            break;
        }
        if check.is_none() && heard.is_none_or(|heard| heard.elapsed() >= CHECK) {
            check = Some(ask(node, place, source, false).boxed());
        }
        tokio::select! {
            parts = async { match &mut reading { Some((_, read)) => read.await, None => std::future::pending().await } } => {
                let Some((asked, _)) = reading.take() else { continue };
                let Some(parts) = parts else {
                    place.failed(asked.into_iter().map(|(queue, _)| queue));
                    break;
                };
                arrived(node, place, asked, parts);
            }
            checked = async { match &mut check { Some(check) => check.await, None => std::future::pending().await } } => {
                check = None;
                let Some(checked) = checked else { break };
                place.raise(checked.index);
                place.leader.store(checked.leader.unwrap_or(0), Ordering::Release);
                place.heard_of(source.turn);
            }
            () = place.wake.notified() => {}
            () = tokio::time::sleep(PARK) => {}
        }
    }
    if let Some((asked, _)) = reading {
        place.failed(asked.into_iter().map(|(queue, _)| queue));
    }
}

/// Parts of queues have come: workers are told.
fn arrived(node: &Node, place: &Place, asked: Vec<(Arc<Queue>, Wanted)>, parts: Vec<Part>) {
    let mut told = Vec::new();
    let mut again = Vec::new();
    let mut parts = parts.into_iter();
    for (queue, wanted) in asked {
        let Some(part) = parts.next() else {
            // There was no room for it.
            if queue.known().fail() {
                again.push(queue);
            }
            continue;
        };
        match part.read() {
            Ok((read, more)) => {
                let bytes = read.sent.iter().map(|delivery| size(&delivery.sent)).sum();
                // Before the worker can take it.
                queue.hold(bytes);
                let (news, due) = queue.known().read(wanted.after, read, more);
                if news {
                    told.push(Effect::Deliver { client: queue.client.clone() });
                }
                if due {
                    again.push(queue);
                }
            }
            Err(error) => {
                tracing::warn!(client = %queue.client.id, %error, "what another node has read of a queue");
                if queue.known().fail() {
                    again.push(queue);
                }
            }
        }
    }
    if let Some(listener) = node.shard_listener.get().filter(|_| !told.is_empty()) {
        listener(place.id.number, Some(&told));
    }
    place.add_due(again);
}

fn size(sent: &Sent) -> usize {
    match sent {
        Sent::Publish { message, .. } => message.wire_len(),
        Sent::Release => 0,
    }
}

/// Asks a node to be followed, or whether it is.
async fn ask(node: &Node, place: &Place, source: Source, begins: bool) -> Option<Followed> {
    let turn = Turn { shard: place.id.number, generation: place.id.generation, number: source.turn };
    let request = Request::Follow(Follow { session: source.session, turn, begins });
    match node.net.call_node(source.node, &request, CALL * 2).await {
        Ok(Response::Follow(followed)) => followed,
        Ok(_) => None,
        Err(error) => {
            debug!(shard = place.id.number, node = source.node, %error, "asking to follow a shard");
            None
        }
    }
}

/// Reads parts of queues at a node. `None`: it cannot now.
fn read(
    node: Arc<Node>,
    place: Arc<Place>,
    at: u64,
    due: &[(Arc<Queue>, Wanted)],
) -> impl Future<Output = Option<Vec<Part>>> + use<> {
    let asked = due.iter().map(|(queue, wanted)| Asked {
        namespace: queue.client.namespace,
        id: queue.client.id.to_string(),
        after: wanted.after,
        max: wanted.max as u64,
        bytes: wanted.max_bytes as u64,
    });
    let (shard, generation) = (place.id.number, place.id.generation);
    let at_least = place.floor.load(Ordering::Acquire);
    let request = Request::Parts(PartsRequest { shard, generation, at_least, asked: asked.collect() });
    async move {
        match node.net.call_node_by(at, &request, Class::Log, CALL).await {
            Ok(Response::Parts(Ok(parts))) if parts.index >= at_least => {
                place.raise(parts.index);
                Some(parts.parts)
            }
            Ok(Response::Parts(Err(error))) => {
                debug!(shard, node = at, %error, "queues were not read");
                None
            }
            Ok(_) => None,
            Err(error) => {
                debug!(shard, node = at, %error, "reading queues");
                None
            }
        }
    }
}

/// Sees to it that the news of a session are asked for.
fn listen(node: &Arc<Node>, running: &Running, source: Source) {
    if running.remote.listening.lock().unwrap_or_else(PoisonError::into_inner).insert(source.session) {
        node.spawn(hear(Arc::clone(node), source.node, source.session));
    }
}

/// Asks for the news of a session until it is over.
async fn hear(node: Arc<Node>, at: u64, session: u64) {
    let Some(running) = node.running() else { return };
    let remote = &running.remote;
    let mut left = Vec::new();
    let of_session = |place: &Arc<Place>| place.lock().source.is_some_and(|source| source.session == session);
    while remote.all().iter().any(of_session) {
        let request = Request::News(NewsRequest { session, left: std::mem::take(&mut left) });
        match node.net.call_node(at, &request, PARK + CALL * 2).await {
            Ok(Response::News(Some(news))) => {
                for news in news {
                    let turn = news.turn;
                    let place = remote.known(turn.shard).filter(|place| place.id.generation == turn.generation);
                    if !place.is_some_and(|place| place.hear(news)) && left.len() < LEFT {
                        left.push(turn);
                    }
                }
            }
            Ok(Response::News(None)) => {
                debug!(node = at, "the session is over there");
                break;
            }
            Ok(_) => break,
            Err(error) => {
                debug!(node = at, %error, "asking for the news of shards");
                break;
            }
        }
    }
    {
        // Whoever follows from now on does so in another session.
        let mut sessions = remote.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&at) == Some(&session) {
            sessions.remove(&at);
        }
    }
    remote.listening.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    // And whoever does in this one has missed something, or will.
    for place in remote.all() {
        place.end_source(|source| source.session == session);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_shard::Delivery;

    fn wanted(after: u64) -> Wanted {
        Wanted { after, max: 10, max_bytes: 1_000 }
    }

    /// Releases of these numbers.
    fn part(seqs: std::ops::Range<u64>) -> Deliveries {
        let sent = seqs.map(|seq| Delivery { seq, sent: Sent::Release }).collect();
        Deliveries { sent, granted: 100, last: 20, waits: false }
    }

    fn asked(known: &mut Known, after: u64) -> (usize, bool) {
        let (read, due) = known.ask(wanted(after));
        (read.sent.len(), due)
    }

    #[test]
    fn a_queue_is_read_when_its_worker_asks_and_it_may_have_something() {
        let mut known = Known::new();
        assert_eq!(asked(&mut known, 0), (0, true), "nobody has looked yet");
        assert_eq!(asked(&mut known, 0), (0, false), "it is under way");
        assert_eq!(known.begin(), Some(wanted(0)));
        assert_eq!(known.read(0, part(1..4), false), (true, false));
        assert_eq!(asked(&mut known, 0), (3, false));
        assert_eq!(asked(&mut known, 3), (0, false), "that was all");
        // What is new is read at once, since the worker waits for it.
        assert!(known.change());
        assert!(!known.change());
        assert_eq!(known.begin(), Some(wanted(3)));
        assert_eq!(known.read(3, part(4..5), true), (true, false));
        assert!(!known.change(), "the worker has to take what is there");
        assert_eq!(asked(&mut known, 3), (1, false));
        assert_eq!(asked(&mut known, 4), (0, true), "there was more");
    }

    #[test]
    fn what_comes_up_while_it_is_read_is_read_again() {
        let mut known = Known::new();
        assert!(asked(&mut known, 0).1);
        known.begin();
        assert!(!known.change());
        // It was read before.
        assert_eq!(known.read(0, part(0..0), false), (true, true));
        known.begin();
        assert_eq!(known.read(0, part(0..0), false), (false, false), "nothing new");
        // The same with something in it.
        assert!(known.change());
        known.begin();
        assert!(!known.change());
        assert_eq!(known.read(0, part(1..2), false), (true, false));
        assert_eq!(asked(&mut known, 0), (1, false));
        assert_eq!(asked(&mut known, 1), (0, true));
    }

    #[test]
    fn what_the_client_could_not_take_is_read_again() {
        let mut known = Known::new();
        asked(&mut known, 0);
        known.begin();
        known.read(0, part(1..6), false);
        assert_eq!(asked(&mut known, 0), (5, false));
        // It had credit for two.
        assert_eq!(asked(&mut known, 2), (0, true));
        known.begin();
        // What was read for another place is of no use.
        known.read(2, part(3..6), false);
        assert_eq!(asked(&mut known, 3), (0, true));
        // And a read that failed is made again.
        known.begin();
        assert!(known.fail());
        assert_eq!(known.begin(), Some(wanted(3)));
    }

    #[test]
    fn what_is_told_of_another_following_counts_nothing() {
        let remote = Remote::default();
        let id = ShardId { number: 2, generation: 1 };
        let place = remote.place(id);
        let queue = place.register(&Name::new(0, "a"));
        assert!(queue.known().ask(wanted(0)).1);
        place.add_due([Arc::clone(&queue)]);
        assert_eq!(place.take_due().len(), 1);
        queue.known().read(0, part(0..0), false);
        let news = |number, index, all: bool| {
            let turn = Turn { shard: 2, generation: 1, number };
            place.hear(News { turn, index, all, clients: vec![(0, "a".to_owned()), (0, "b".to_owned())] })
        };
        assert!(!news(1, Some(9), false));
        place.lock().source = Some(Source { node: 7, session: 1, turn: 2 });
        assert!(!news(1, Some(9), false));
        assert_eq!((remote.floor(id), place.take_due().len()), (0, 0));
        assert!(news(2, Some(9), false));
        assert_eq!((remote.floor(id), place.take_due().len()), (9, 1));
        queue.known().read(0, part(0..0), false);
        assert!(news(2, Some(8), true));
        assert_eq!((remote.floor(id), place.take_due().len()), (9, 1));
        // It has no replica any more.
        assert!(news(2, None, false));
        assert_eq!(place.lock().source, None);
    }

    #[test]
    fn what_workers_have_not_taken_is_bounded() {
        let remote = Remote::default();
        let place = remote.place(ShardId { number: 2, generation: 1 });
        let (one, other) = (place.register(&Name::new(0, "a")), place.register(&Name::new(0, "b")));
        other.known().ask(wanted(0));
        place.add_due([Arc::clone(&other)]);
        one.hold(HELD);
        assert!(place.take_due().is_empty());
        place.forget(&one);
        drop(one);
        assert_eq!(remote.held.load(Ordering::Relaxed), 0);
        assert_eq!(place.take_due().len(), 1);
        // The connection before, which ends late, does not take the place of the one that follows.
        let before = RemoteQueue(Some(place.register(&Name::new(0, "c"))));
        let after = place.register(&Name::new(0, "c"));
        drop(before);
        assert!(Arc::ptr_eq(&place.lock().queues[&after.client], &after));
    }
}
