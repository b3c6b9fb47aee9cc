//! A machine that keeps what changed in memory, and the store that it is flushed to.
//!
//! Flushes are written beside the runtime's threads, since they may be many megabytes: the machine goes there and comes back. It stays
//! away when anything failed, so that nothing more can be asked of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use raftmq_planted::{Bug, planted};
use raftmq_storage::{GroupStore, StoreBatch};
use tokio::sync::mpsc;

use crate::codec::{put_snapshot_meta, stored};
use crate::log::{LogStore, blocking};
use crate::machine::{CachedMachine, MachineError, StateKeys, own};
use crate::snapshot::SnapshotFile;
use crate::state::{Machine, OpenError, from_store, install_pairs, synced};
use crate::types::SnapshotMeta;

/// Makes the machine of what is in the store.
pub(crate) type Make = Box<dyn FnMut(StateKeys) -> Result<Box<dyn CachedMachine>, MachineError> + Send>;

/// How much may wait for a flush.
pub(crate) struct DirtyLimit {
    group: usize,
    node: usize,
    /// The groups of the node that have such a machine.
    groups: Arc<AtomicUsize>,
}

impl DirtyLimit {
    /// `group` bytes for each group, but no more than `node` for all of them together.
    pub(crate) fn new(group: usize, node: usize, groups: Arc<AtomicUsize>) -> Self {
        groups.fetch_add(1, Ordering::Relaxed);
        Self { group, node, groups }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.group.min(self.node / self.groups.load(Ordering::Relaxed).max(1))
    }
}

impl Drop for DirtyLimit {
    fn drop(&mut self) {
        self.groups.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One group's machine.
pub(crate) struct Cached {
    /// Away while it is flushed, and for good when that failed.
    machine: Option<Box<dyn CachedMachine>>,
    make: Option<Make>,
    pub(crate) store: GroupStore,
    /// What the state in the store covers.
    flushed: SnapshotMeta,
    limit: DirtyLimit,
    alive: mpsc::Sender<()>,
}

impl Cached {
    /// Makes the machine of what was flushed last, and says what that covers. Blocks.
    pub(crate) fn open(
        store: GroupStore,
        mut make: Make,
        limit: DirtyLimit,
        alive: mpsc::Sender<()>,
    ) -> Result<(Machine, SnapshotMeta), OpenError> {
        let applied = synced(&store)?;
        let machine = make(keys(&store, &alive)?)?;
        let cached = Self { machine: Some(machine), make: Some(make), store, flushed: applied.clone(), limit, alive };
        Ok((Machine::Cached(cached), applied))
    }

    /// Applies a command. After an error there is no machine any more.
    pub(crate) fn apply(&mut self, index: u64, command: &Bytes) -> io::Result<Bytes> {
        let applied = self.machine.as_mut().ok_or_else(lost)?.apply(index, command);
        applied.map_err(|error| {
            self.machine = None;
            io::Error::other(error)
        })
    }

    pub(crate) fn applied(&mut self, index: u64) {
        if let Some(machine) = &mut self.machine {
            machine.applied(index);
        }
    }

    /// Whether enough waits for a flush.
    pub(crate) fn is_full(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.dirty_bytes() >= self.limit.bytes())
    }

    /// Writes what waits, with what it covers, unless that is in the store already.
    pub(crate) async fn flush(&mut self, applied: &SnapshotMeta, log: &LogStore) -> io::Result<()> {
        if applied.last_log_id == self.flushed.last_log_id {
            return if self.machine.is_some() { Ok(()) } else { Err(lost()) };
        }
        // Entries are applied when a quorum has them, which this node's disk may not. A state ahead of the log is made up for at a start, but
        // not one ahead of a log with other entries in the same place.
        log.barrier().await?;
        let mut machine = self.machine.take().ok_or_else(lost)?;
        let less = planted(Bug::ApplyTwice) && self.flushed.last_log_id.is_some();
        let covered = if less { &self.flushed } else { applied };
        let (store, marker) = (self.store.clone(), stored(covered, put_snapshot_meta));
        let machine = blocking(move || {
            let mut changes = StoreBatch::default();
            let mut put = |key: &[u8], value: Option<&[u8]>| match value {
                Some(value) => changes.put(own(key), Bytes::copy_from_slice(value)),
                None => changes.delete(own(key)),
            };
            machine.flush(&mut put).map_err(io::Error::other)?;
            store.apply(changes, marker).map_err(from_store)?;
            machine.flushed();
            Ok(machine)
        })
        .await?;
        self.machine = Some(machine);
        self.flushed.clone_from(applied);
        Ok(())
    }

    /// Puts a received state in the place of the old one, and makes the machine anew.
    pub(crate) async fn install(&mut self, file: SnapshotFile, meta: &SnapshotMeta, log: &LogStore) -> io::Result<()> {
        // What the log was told before, such as to remove entries that are not in the snapshot's past, must be on the disk before it.
        log.barrier().await?;
        let (old, make) = (self.machine.take(), self.make.take());
        let (Some(old), Some(mut make)) = (old, make) else {
            return Err(lost());
        };
        let (store, alive, marker) = (self.store.clone(), self.alive.clone(), stored(meta, put_snapshot_meta));
        let (machine, make) = blocking(move || {
            drop(old);
            install_pairs(&store, &file, marker)?;
            let machine = keys(&store, &alive).and_then(&mut make).map_err(io::Error::other)?;
            Ok((machine, make))
        })
        .await?;
        (self.machine, self.make) = (Some(machine), Some(make));
        self.flushed.clone_from(meta);
        Ok(())
    }
}

fn keys(store: &GroupStore, alive: &mpsc::Sender<()>) -> Result<StateKeys, MachineError> {
    let reader = store.reader().map_err(|e| MachineError::new(e.to_string()))?;
    Ok(StateKeys::new(reader, alive.clone()))
}

fn lost() -> io::Error {
    io::Error::other("the state machine was given up after an error")
}
