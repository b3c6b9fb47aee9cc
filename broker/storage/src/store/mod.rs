//! The state store: what stored state machines know, in fjall.

use std::path::Path;

use bytes::Bytes;

use crate::GroupId;

/// An error of the state store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What fjall says.
    #[error("state store: {context}: {error}")]
    Store {
        /// What was being done.
        context: &'static str,
        /// fjall's error.
        error: fjall::Error,
    },
    /// The stored bookkeeping is not what this crate wrote.
    #[error("state store: {0}")]
    Damaged(String),
    /// The group's state was replaced or dropped; get the group anew.
    #[error("the state of group {0} was replaced")]
    Replaced(GroupId),
    /// Keys of at most 65,535 bytes less the prefix, not empty.
    #[error("a key of {0} bytes cannot be stored")]
    Key(usize),
    /// Staged pairs must come in ascending order of their keys.
    #[error("the keys of a staged state must ascend")]
    Order,
}

/// Settings of the state store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Cache of blocks read, for all groups, in bytes.
    pub cache_bytes: u64,
    /// Write buffer of one group, in bytes.
    pub memtable_bytes: u64,
    /// Write buffers of all groups, in bytes.
    pub write_buffer_bytes: u64,
    /// fjall's journals, in bytes.
    pub journal_bytes: u64,
    /// Threads that flush and compact.
    pub threads: usize,
    /// Files that are kept open.
    pub open_files: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            memtable_bytes: 4 << 20,
            write_buffer_bytes: 32 << 20,
            journal_bytes: 64 << 20,
            threads: 1,
            open_files: 128,
        }
    }
}

/// The state store of a node. Clones are the same store.
#[derive(Clone)]
pub struct StateStore {}

impl StateStore {
    /// Opens or makes the store in `dir`. What an interrupted install left behind is removed.
    ///
    /// # Errors
    /// What fjall says; [`StoreError::Damaged`].
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        unimplemented!()
    }

    /// The state of a group, made empty when it is new.
    ///
    /// # Errors
    /// What fjall says.
    pub fn group(&self, group: GroupId) -> Result<GroupStore, StoreError> {
        unimplemented!()
    }

    /// Forgets a group.
    ///
    /// # Errors
    /// What fjall says.
    pub fn drop_group(&self, group: GroupId) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Bytes on the disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        unimplemented!()
    }
}

/// Changes that are made together.
#[derive(Debug, Clone, Default)]
pub struct StoreBatch {}

impl StoreBatch {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        unimplemented!()
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        unimplemented!()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
}

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// The state of one group. Clones are the same state, and see an installed one at once.
#[derive(Clone)]
pub struct GroupStore {}

impl GroupStore {
    /// Makes the changes and sets the applied marker with them, atomically; not synced.
    ///
    /// # Errors
    /// What fjall says.
    pub fn apply(&self, batch: StoreBatch, applied: Bytes) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// A value.
    ///
    /// # Errors
    /// What fjall says.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }

    /// The pairs whose key starts with `prefix`, in order of their keys, of one moment.
    pub fn scan(&self, prefix: &[u8]) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send> {
        unimplemented!()
    }

    /// The applied marker; `None` for a new group.
    ///
    /// # Errors
    /// What fjall says.
    pub fn applied(&self) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }

    /// Syncs everything applied and returns the applied marker that is safe now. Blocks.
    ///
    /// # Errors
    /// What fjall says: the store must not be used after that.
    pub fn sync(&self) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }

    /// The state at this moment, for reading while it goes on changing.
    ///
    /// # Errors
    /// What fjall says.
    pub fn view(&self) -> Result<View, StoreError> {
        unimplemented!()
    }

    /// Begins a new state beside the current one.
    ///
    /// # Errors
    /// What fjall says.
    pub fn stage(&self) -> Result<Staged, StoreError> {
        unimplemented!()
    }
}

/// The state of a group at one moment.
pub struct View {}

impl View {
    /// The applied marker of that moment.
    #[must_use]
    pub fn applied(&self) -> Option<Bytes> {
        unimplemented!()
    }

    /// A value.
    ///
    /// # Errors
    /// What fjall says.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }

    /// The pairs after `after` (from the first one when `None`), in order of their keys: what a transfer in chunks reads.
    pub fn pairs(&self, after: Option<&[u8]>) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send> {
        unimplemented!()
    }
}

/// A state that is being put together. Dropped without [`Staged::install`], it is removed.
pub struct Staged {}

impl Staged {
    /// Adds a pair; keys must ascend.
    ///
    /// # Errors
    /// [`StoreError::Order`], [`StoreError::Key`], what fjall says.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Puts the new state, with its applied marker, in the place of the old one, at once and durably, and drops the old one.
    ///
    /// # Errors
    /// What fjall says; then the old state is still there.
    pub fn install(self, applied: Bytes) -> Result<(), StoreError> {
        unimplemented!()
    }
}
