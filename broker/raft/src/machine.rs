//! The state machine of a group, as its author sees it.

use std::fmt;

use bytes::Bytes;
use raftmq_storage::GroupReader;
use tokio::sync::mpsc;

/// Where a machine's state lives between two runs of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// In memory: rebuilt at a start from the last snapshot's file and the log.
    Memory,
    /// In the state store. After each batch of applied entries [`StateMachine::snapshot`] and what the entries put into their
    /// [`StateBatch`] are written together with the applied index; at a start [`StateMachine::restore`] gets
    /// what was written last. For machines whose snapshot is small (the meta group) or which
    /// keep everything in the batch and return an empty snapshot.
    Stored,
}

/// A deterministic state machine: the same commands in the same order give the same state and responses on every node.
pub trait StateMachine: Send + 'static {
    /// Applies one committed command and returns the response that the proposer gets.
    ///
    /// A command that makes no sense is answered, not refused: every replica must do the same. `out` is
    /// written to the state store for [`Persistence::Stored`] and ignored otherwise.
    fn apply(&mut self, index: u64, command: &[u8], out: &mut StateBatch) -> Vec<u8>;

    /// The whole state (without what is in the state store's keys of this machine).
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by that of a snapshot. Called at a start and when the leader sends a snapshot.
    ///
    /// # Errors
    /// The snapshot is not one of this machine. The group stops then.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError>;

    /// Called after [`StateMachine::restore`] of a stored machine with access to the keys it had put.
    ///
    /// # Errors
    /// The keys make no sense. The group stops then.
    fn load(&mut self, _keys: &dyn StateRead) -> Result<(), MachineError> {
        Ok(())
    }

    /// Everything up to `index` has been applied (a batch of entries, or a snapshot): the moment to publish changes.
    fn applied(&mut self, _index: u64) {}
}

/// Keys and values that an entry changes in the state store; written atomically with the applied index.
#[derive(Debug, Default)]
pub struct StateBatch {
    pub(crate) changes: Vec<(Vec<u8>, Option<Bytes>)>,
}

impl StateBatch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes `key`; nothing if it is not there.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.changes.push((key.into(), None));
    }
}

/// The keys of a stored machine.
pub trait StateRead {
    /// The value of `key`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MachineError>;

    /// All keys that begin with `prefix`, with their values, in order.
    ///
    /// # Errors
    /// The store cannot be read.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, MachineError>;
}

/// A deterministic state machine that keeps what changed in memory and hands it out now and then: for states that are larger than the
/// memory and change faster than a disk could follow. Started by [`crate::Groups::start_cached`].
///
/// The state in the store is that of the last flush, with the index of the last entry that it covers; what the log has after it is applied
/// again at a start. So how often it is flushed must not be seen in its answers.
///
/// An error of any call stops the group ([`crate::GroupStatus::failure`]), and nothing more is asked of the machine.
pub trait CachedMachine: Send + 'static {
    /// Applies one committed command and returns the response that the proposer gets.
    ///
    /// A command that makes no sense is answered, not refused: every replica must do the same.
    ///
    /// # Errors
    /// The state cannot be read.
    fn apply(&mut self, index: u64, command: &Bytes) -> Result<Bytes, MachineError>;

    /// About the bytes of memory that wait for being flushed. Asked after each command: a flush follows the one that passes the limit.
    fn dirty_bytes(&self) -> usize;

    /// Hands out what changed since the last flush: each key with its value, or without if it is to be removed. All of it is written to the
    /// store at once, with the index of the last command applied. May be called on another thread than the rest, where it may take long.
    ///
    /// **It is in the store only when [`CachedMachine::flushed`] is called**: whoever shares the machine with readers keeps them away until then.
    ///
    /// # Errors
    /// The machine is not whole.
    #[allow(clippy::type_complexity, reason = "a name for it would say less than what it is")]
    fn flush(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) -> Result<(), MachineError>;

    /// What [`CachedMachine::flush`] handed out is in the store: called after it on the same thread, unless the store failed.
    fn flushed(&mut self) {}

    /// Everything up to `index` has been applied (a batch of entries, or a snapshot): the moment to publish changes. Responses are sent after it.
    fn applied(&mut self, _index: u64) {}
}

/// Reads the keys of a [`CachedMachine`] as they were at its last flush. Clones read the same.
///
/// It belongs to one state: when a snapshot is installed, the new machine gets a new one, and this one still reads the old state. A
/// shutdown of the group waits until all are dropped.
#[derive(Clone)]
pub struct StateKeys {
    reader: GroupReader,
    _alive: mpsc::Sender<()>,
}

impl StateKeys {
    pub(crate) fn new(reader: GroupReader, alive: mpsc::Sender<()>) -> Self {
        Self { reader, _alive: alive }
    }

    /// The value of `key`. May read from the disk.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MachineError> {
        self.reader.get(&own(key)).map_err(|e| MachineError::new(e.to_string()))
    }

    /// The first `limit` keys that are not below `from` and below `to`, with their values, in the order of their bytes. May read from the disk.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        let pairs = self.reader.range(&own(from), &own(to), limit).map_err(|e| MachineError::new(e.to_string()))?;
        Ok(pairs.into_iter().map(|(key, value)| (key.slice(1..), value)).collect())
    }
}

impl fmt::Debug for StateKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKeys")
    }
}

/// Before the keys of a machine that stand beside its snapshot.
const OWN: u8 = 1;

/// A machine's own key, as it is in the store.
pub(crate) fn own(key: &[u8]) -> Vec<u8> {
    let mut own = Vec::with_capacity(1 + key.len());
    own.push(OWN);
    own.extend_from_slice(key);
    own
}

/// Why a machine cannot take a snapshot, or cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the state machine failed: {reason}")]
pub struct MachineError {
    /// What was found.
    pub reason: String,
}

impl MachineError {
    /// An error with a reason for the log.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}
