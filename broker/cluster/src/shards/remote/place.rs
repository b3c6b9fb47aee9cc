//! A shard whose clients are served here without a replica: their queues, those of them that are to be read, and whom the shard is followed at.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raftmq_shard::{Deliveries, Name, Sent};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::known::{Known, Wanted};
use crate::shards::ShardId;
use crate::shards::followers::News;
use crate::shards::parts::AT_ONCE;

/// Bytes of parts that workers have not taken, from which on nothing more is read.
const HELD: usize = 16 << 20;

/// A queue of a client that is connected here.
pub(super) struct Queue {
    pub(super) client: Name,
    pub(super) place: Arc<Place>,
    known: Mutex<Known>,
    /// Bytes of the part that the worker has not taken.
    held: AtomicUsize,
}

impl Queue {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker asks: what is there, and whether something is to be read. Nothing is kept for it after that.
    pub(super) fn ask(&self, wanted: Wanted) -> (Deliveries, bool) {
        let mut known = self.known();
        let asked = known.ask(wanted);
        // Under the lock, so that a part that comes now counts.
        if self.held.load(Ordering::Acquire) > 0 {
            self.hold(0);
        }
        asked
    }

    /// A part was read. Whether the worker is to look, and whether it is to be read again.
    pub(super) fn read(&self, after: u64, read: Deliveries, more: bool) -> (bool, bool) {
        let bytes = read.sent.iter().map(|delivery| size(&delivery.sent)).sum();
        let mut known = self.known();
        self.hold(bytes);
        known.read(after, read, more)
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

fn size(sent: &Sent) -> usize {
    match sent {
        Sent::Publish { message, .. } => message.wire_len(),
        Sent::Release => 0,
    }
}

/// Whom a shard is followed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) node: u64,
    pub(super) session: u64,
    pub(super) turn: u64,
}

/// A shard whose clients are served here without a replica.
pub(super) struct Place {
    pub(super) id: ShardId,
    /// The last entry that anything told or read here had applied.
    pub(super) floor: AtomicU64,
    /// Who leads it, as was said last; 0: nobody has said.
    pub(super) leader: AtomicU64,
    inner: Mutex<Inner>,
    /// Something is to be read, or there is room, or the source is lost.
    pub(super) wake: Notify,
    held: Arc<AtomicUsize>,
    /// Somebody keeps it up.
    pub(super) runs: AtomicBool,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) queues: HashMap<Name, Arc<Queue>>,
    /// Those that are to be read.
    due: VecDeque<Arc<Queue>>,
    pub(super) source: Option<Source>,
    /// When anything was heard of the source.
    pub(super) heard: Option<Instant>,
}

impl Place {
    pub(super) fn new(id: ShardId, held: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            id,
            floor: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            inner: Mutex::default(),
            wake: Notify::new(),
            held,
            runs: AtomicBool::new(false),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection before under that name is over.
    pub(super) fn register(self: &Arc<Self>, client: &Name) -> Arc<Queue> {
        let (known, held) = (Mutex::new(Known::new()), AtomicUsize::new(0));
        let queue = Arc::new(Queue { client: client.clone(), place: Arc::clone(self), known, held });
        self.lock().queues.insert(client.clone(), Arc::clone(&queue));
        queue
    }

    pub(super) fn forget(&self, queue: &Arc<Queue>) {
        let mut inner = self.lock();
        if inner.queues.get(&queue.client).is_some_and(|known| Arc::ptr_eq(known, queue)) {
            inner.queues.remove(&queue.client);
        }
    }

    pub(super) fn add_due(&self, queues: impl IntoIterator<Item = Arc<Queue>>) {
        self.lock().due.extend(queues);
        self.wake.notify_one();
    }

    pub(super) fn raise(&self, index: u64) {
        self.floor.fetch_max(index, Ordering::AcqRel);
    }

    pub(super) fn heard_of(&self, turn: u64) -> bool {
        let mut inner = self.lock();
        let known = inner.source.is_some_and(|source| source.turn == turn);
        if known {
            inner.heard = Some(Instant::now());
        }
        known
    }

    pub(super) fn is_source(&self, source: Source) -> bool {
        self.lock().source == Some(source)
    }

    /// It is followed there no more.
    pub(super) fn end_source(&self, which: impl Fn(&Source) -> bool) {
        let mut inner = self.lock();
        if inner.source.as_ref().is_some_and(which) {
            inner.source = None;
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// All queues may have something new.
    pub(super) fn change_all(&self) {
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
    pub(super) fn hear(&self, news: News) -> bool {
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
    pub(super) fn take_due(&self) -> Vec<(Arc<Queue>, Wanted)> {
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

    pub(super) fn failed(&self, queues: impl Iterator<Item = Arc<Queue>>) {
        self.add_due(queues.filter(|queue| queue.known().fail()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Remote, RemoteQueue};
    use super::*;
    use crate::shards::followers::Turn;
    use raftmq_mqtt::{Message, Origin, Properties, Publish, QoS};
    use raftmq_shard::Delivery;

    const WANTED: Wanted = Wanted { after: 0, max: 10, max_bytes: 1_000 };

    /// What was read of a queue without anything in it.
    fn nothing() -> Deliveries {
        Deliveries { sent: Vec::new(), granted: 100, last: 20, waits: false }
    }

    #[test]
    fn what_is_told_of_another_following_counts_nothing() {
        let remote = Remote::default();
        let id = ShardId { number: 2, generation: 1 };
        let place = remote.place(id);
        let queue = place.register(&Name::new(0, "a"));
        assert!(queue.known().ask(WANTED).1);
        place.add_due([Arc::clone(&queue)]);
        assert_eq!(place.take_due().len(), 1);
        queue.known().read(0, nothing(), false);
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
        queue.known().read(0, nothing(), false);
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
        other.known().ask(WANTED);
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

    /// A part of one message.
    fn part() -> Deliveries {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "a",
            packet_id: std::num::NonZeroU16::new(1),
            properties: Properties::EMPTY,
            payload: b"x",
        };
        let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "publisher", 1_000, None).unwrap();
        let (qos, identifiers) = (QoS::AtLeastOnce, Vec::new());
        let sent =
            Sent::Publish { message, qos, retain: false, apart: false, dup: false, identifiers, lifetime_ms: None };
        Deliveries { sent: vec![Delivery { seq: 1, sent }], ..nothing() }
    }

    /// Whenever the worker asks, and parts come: what is counted is what is there.
    #[test]
    fn what_is_counted_is_what_is_there() {
        let remote = Remote::default();
        let queue = remote.place(ShardId { number: 2, generation: 1 }).register(&Name::new(0, "a"));
        let part = part();
        std::thread::scope(|scope| {
            let reads =
                scope.spawn(|| (0..300_000).map(|_| queue.read(0, part.clone(), false)).filter(|read| read.0).count());
            scope.spawn(|| (0..300_000).for_each(|_| drop(queue.ask(WANTED))));
            while !reads.is_finished() {
                let known = queue.known();
                assert_eq!(known.ready.is_some(), remote.held.load(Ordering::Relaxed) > 0);
            }
        });
    }
}
