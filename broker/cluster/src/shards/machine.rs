//! The state machine of a shard as the Raft crate drives it, and as the rest of the node reads it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use raftmq_raft::{CachedMachine, MachineError, StateKeys};
use raftmq_shard::{Answer, Effect, Name, ShardMachine, Store, StoreError};
use tokio::sync::Notify;

use super::ShardId;
use super::compare::{Mark, Marks};
use super::followers::Followers;

/// About the bytes of records that a replica keeps in memory as they are in the store.
const CACHE_BYTES: usize = 8 << 20;

/// A group's own keys in the state store.
pub(crate) struct KeysStore(StateKeys);

impl Store for KeysStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(key).map_err(read)
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.0.range(from, to, limit).map_err(read)
    }
}

fn read(error: MachineError) -> StoreError {
    StoreError::Read(error.reason)
}

/// What a leader has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Changes of the shard's routes wait for being announced.
    Routes = 1,
    /// Wills and delayed messages wait for being told where they go.
    Unrouted = 4,
    /// A node has a later boot.
    Nodes = 8,
}

impl Work {
    /// All bits.
    pub(crate) const ALL: u8 = Self::Routes as u8 | Self::Unrouted as u8 | Self::Nodes as u8;
}

/// Gets what each replica of this node has applied: the shard and its effects, after they can be read and before anybody is answered. Without effects: all may have
/// changed, as when a snapshot came. Called on a task of the group; must not block.
pub type ShardListener = Arc<dyn Fn(u16, Option<&[Effect]>) + Send + Sync>;

/// Where the listener is put, once there is one.
pub(crate) type ListenerPlace = Arc<OnceLock<ShardListener>>;

/// The machine of one replica. There is none while a snapshot is installed, and while what changed is written to the store.
#[derive(Clone)]
pub(crate) struct SharedShard(Arc<Inner>);

struct Inner {
    machine: Mutex<Option<ShardMachine<KeysStore>>>,
    /// Bits of [`Work`] that came up since the leader looked.
    work: AtomicU8,
    /// Something was applied since the leader looked.
    moved: AtomicBool,
    wake: Notify,
    /// Messages wait for being handed off.
    outbox: Notify,
    shard: ShardId,
    listener: ListenerPlace,
    /// The nodes without a replica that follow it.
    followers: Arc<Followers>,
    /// Readers of this node read it; else they ask another node's replica.
    ready: AtomicBool,
    marks: Marks,
}

impl SharedShard {
    pub(crate) fn new(shard: ShardId, listener: ListenerPlace, followers: Arc<Followers>) -> Self {
        Self(Arc::new(Inner {
            shard,
            listener,
            followers,
            ready: AtomicBool::new(false),
            machine: Mutex::new(None),
            work: AtomicU8::new(0),
            moved: AtomicBool::new(false),
            wake: Notify::new(),
            outbox: Notify::new(),
            marks: Marks::default(),
        }))
    }

    /// Reads the state in the store and gives what the Raft crate drives. The machine before is gone.
    pub(crate) fn load(&self, keys: StateKeys) -> Result<ShardAdapter, MachineError> {
        // First without the one before, whose memory is its own.
        *self.lock() = None;
        let machine = ShardMachine::load(KeysStore(keys), CACHE_BYTES).map_err(|e| MachineError::new(e.to_string()))?;
        *self.lock() = Some(machine);
        self.0.work.store(u8::MAX, Ordering::Release);
        self.0.wake.notify_one();
        self.0.outbox.notify_one();
        self.tell_all();
        self.0.followers.note_all(self.0.shard);
        Ok(ShardAdapter { shared: self.clone(), effects: Vec::new(), away: None })
    }

    fn lock(&self) -> MutexGuard<'_, Option<ShardMachine<KeysStore>>> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads; `None` while there is no machine.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&mut ShardMachine<KeysStore>) -> T) -> Option<T> {
        self.lock().as_mut().map(read)
    }

    /// Whether it is good enough for this node's readers; see [`super::ready`].
    pub(crate) fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Readers of this node read it from now on, or another node's. All clients are looked at.
    pub(super) fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Release);
        self.tell_all();
    }

    fn tell_all(&self) {
        if let Some(listener) = self.0.listener.get() {
            listener(self.0.shard.number, None);
        }
    }

    /// Tells those who follow it whose queues have something new.
    fn tell_followers(&self, effects: &[Effect]) {
        let followers = &self.0.followers;
        let mut clients = effects
            .iter()
            .filter_map(|effect| if let Effect::Deliver { client } = effect { Some(client) } else { None })
            .peekable();
        if clients.peek().is_none() {
            return;
        }
        let told = self.with(|machine| {
            let owner = |client: &Name| machine.owner(client).map(|owner| owner.map(|at| at.node)).map_err(drop);
            followers.note(self.0.shard, clients, owner);
        });
        if told.is_none() {
            followers.note_all(self.0.shard);
        }
    }

    /// The hashes of its state.
    pub(crate) fn marks(&self) -> &Marks {
        &self.0.marks
    }

    /// What came up since this was asked last: bits of [`Work`].
    pub(crate) fn take_work(&self) -> u8 {
        self.0.work.swap(0, Ordering::AcqRel)
    }

    /// Whether something was applied since this was asked last.
    pub(crate) fn take_moved(&self) -> bool {
        self.0.moved.swap(false, Ordering::AcqRel)
    }

    /// The outbox has something new.
    pub(crate) async fn outbox_filled(&self) {
        self.0.outbox.notified().await;
    }

    /// Something is to be looked at.
    pub(crate) async fn woken(&self) {
        self.0.wake.notified().await;
    }
}

/// What the Raft crate drives.
pub(crate) struct ShardAdapter {
    shared: SharedShard,
    effects: Vec<Effect>,
    /// The machine while what it handed out is not in the store yet: a reader would look there for what it let go of.
    away: Option<ShardMachine<KeysStore>>,
}

impl CachedMachine for ShardAdapter {
    fn apply(&mut self, index: u64, command: &Bytes) -> Result<Bytes, MachineError> {
        let mut machine = self.shared.lock();
        let machine = machine.as_mut().ok_or_else(gone)?;
        let answer = machine.apply(index, command, &mut self.effects).map_err(failed)?;
        if Answer::is_digest(&answer) {
            self.shared.0.marks.add(Mark { index, hash: machine.rolling_hash() });
        }
        Ok(answer.into())
    }

    fn dirty_bytes(&self) -> usize {
        self.shared.lock().as_ref().map_or(0, ShardMachine::dirty_bytes)
    }

    fn flush(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) -> Result<(), MachineError> {
        let mut machine = self.shared.lock().take().ok_or_else(gone)?;
        machine.flush(&mut |key: &[u8], value: Option<&[u8]>| put(key, value)).map_err(failed)?;
        self.away = Some(machine);
        Ok(())
    }

    fn flushed(&mut self) {
        *self.shared.lock() = self.away.take();
    }

    fn applied(&mut self, _index: u64) {
        let inner = &self.shared.0;
        let (mut work, mut outbox) = (0, false);
        for effect in &self.effects {
            match effect {
                Effect::Route { .. } => work |= Work::Routes as u8,
                Effect::Unrouted { .. } => work |= Work::Unrouted as u8,
                Effect::Boot { .. } => work |= Work::Nodes as u8,
                Effect::Outbox { .. } | Effect::Note { .. } => outbox = true,
                _ => {}
            }
        }
        if outbox {
            inner.outbox.notify_one();
        }
        if !self.effects.is_empty() {
            if let Some(listener) = inner.listener.get() {
                listener(inner.shard.number, Some(&self.effects));
            }
            if !inner.followers.is_empty() {
                self.shared.tell_followers(&self.effects);
            }
            self.effects.clear();
        }
        inner.moved.store(true, Ordering::Release);
        if work != 0 {
            inner.work.fetch_or(work, Ordering::AcqRel);
            inner.wake.notify_one();
        }
    }
}

impl Drop for ShardAdapter {
    /// Whoever still has the replica does not keep the store open.
    fn drop(&mut self) {
        *self.shared.lock() = None;
        self.shared.0.followers.end(self.shared.0.shard);
    }
}

fn gone() -> MachineError {
    MachineError::new("the state is not there")
}

fn failed(error: StoreError) -> MachineError {
    MachineError::new(error.to_string())
}
