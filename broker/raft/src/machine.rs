//! The state machine of a group, as its author sees it.

use bytes::Bytes;

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

/// Why a machine cannot take a snapshot.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the state machine cannot be restored: {reason}")]
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
