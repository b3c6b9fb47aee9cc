//! The state of one group.

use std::{
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use fjall::{Keyspace, PersistMode, Readable, Snapshot};

use crate::GroupId;

use super::{MAX_KEY, Pair, Shared, Staged, StoreBatch, StoreError, failed};

/// Before every key of the state machine.
const KEY: u8 = b'k';
/// The applied marker's key: no key of a state machine.
pub(crate) const APPLIED: &[u8] = b"a";

/// The state of one group. Clones are the same state, and see an installed one at once.
#[derive(Clone)]
pub struct GroupStore {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: GroupId,
    /// The keyspace that counts; `None` when the group was dropped. Held for reading while something is done with it, so that a swap
    /// has a before and an after.
    pub(crate) current: RwLock<Option<Keyspace>>,
}

impl Inner {
    fn read(&self) -> RwLockReadGuard<'_, Option<Keyspace>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Option<Keyspace>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&Keyspace) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.read() {
            Some(keyspace) => work(keyspace),
            None => Err(StoreError::Dropped(self.group)),
        }
    }
}

impl GroupStore {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Whose state it is.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.inner.group
    }

    /// Makes the changes and sets the applied marker with them, atomically; not synced. It survives the death of the
    /// process, not of the machine.
    ///
    /// # Errors
    /// [`StoreError::Key`] (nothing was changed), [`StoreError::Dropped`], what fjall says.
    pub fn apply(&self, batch: StoreBatch, applied: Bytes) -> Result<(), StoreError> {
        for (key, _) in &batch.changes {
            check(key)?;
        }
        self.inner.with(|keyspace| {
            let mut write = self.inner.shared.db.batch();
            for (key, value) in batch.changes {
                match value {
                    Some(value) => write.insert(keyspace, own(&key), &*value),
                    None => write.remove(keyspace, own(&key)),
                }
            }
            write.insert(keyspace, APPLIED, &*applied);
            write.commit().map_err(failed("applying"))
        })
    }

    /// A value.
    ///
    /// # Errors
    /// [`StoreError::Dropped`], what fjall says.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.with(|keyspace| value(keyspace.get(own(key))))
    }

    /// The pairs whose key starts with `prefix`, in order of their keys, as they are at this moment.
    pub fn scan(&self, prefix: &[u8]) -> Pairs {
        match self.view() {
            Ok(view) => view.scan(prefix),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    /// The applied marker; `None` for a new group.
    ///
    /// # Errors
    /// [`StoreError::Dropped`], what fjall says.
    pub fn applied(&self) -> Result<Option<Bytes>, StoreError> {
        self.inner.with(|keyspace| value(keyspace.get(APPLIED)))
    }

    /// Syncs everything applied and returns the applied marker that is safe now. Blocks. One call syncs all groups.
    ///
    /// # Errors
    /// [`StoreError::Dropped`], what fjall says: then the store must not be used any more.
    pub fn sync(&self) -> Result<Option<Bytes>, StoreError> {
        // Read before the sync: what is applied meanwhile is not promised.
        let applied = self.applied()?;
        self.inner.shared.db.persist(PersistMode::SyncAll).map_err(failed("syncing"))?;
        Ok(applied)
    }

    /// The state at this moment, for reading while it goes on changing.
    ///
    /// # Errors
    /// [`StoreError::Dropped`], what fjall says.
    pub fn view(&self) -> Result<View, StoreError> {
        self.inner.with(|keyspace| {
            let snapshot = self.inner.shared.db.snapshot();
            let applied = value(snapshot.get(keyspace, APPLIED))?;
            Ok(View { snapshot, keyspace: keyspace.clone(), applied })
        })
    }

    /// Reads the state as it is at each call, of this state only: one that is installed later is not seen.
    ///
    /// # Errors
    /// [`StoreError::Dropped`].
    pub fn reader(&self) -> Result<GroupReader, StoreError> {
        self.inner.with(|keyspace| Ok(GroupReader { keyspace: keyspace.clone() }))
    }

    /// Begins a new state beside the current one.
    ///
    /// # Errors
    /// [`StoreError::Dropped`], what fjall says.
    pub fn stage(&self) -> Result<Staged, StoreError> {
        self.inner.with(|_| Ok(()))?;
        let (keyspace, number) = self.inner.shared.stage(self.inner.group)?;
        Ok(Staged::new(Arc::clone(&self.inner), keyspace, number))
    }
}

/// Reads one state of a group, without a lock. Clones read the same state. It stays readable, and takes room on the disk, when the state
/// is replaced or dropped.
#[derive(Clone)]
pub struct GroupReader {
    keyspace: Keyspace,
}

impl GroupReader {
    /// A value.
    ///
    /// # Errors
    /// What fjall says.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        value(self.keyspace.get(own(key)))
    }

    /// The first `limit` pairs whose keys are not below `from` and below `to`, in the order of their keys.
    ///
    /// # Errors
    /// What fjall says.
    pub fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        pairs(self.keyspace.range(own(from)..own(to))).take(limit).collect()
    }
}

/// Pairs in order of their keys.
pub type Pairs = Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send>;

/// The state of a group at one moment. It stays readable when the state changes, is replaced or dropped.
pub struct View {
    snapshot: Snapshot,
    keyspace: Keyspace,
    applied: Option<Bytes>,
}

impl View {
    /// The applied marker of that moment.
    #[must_use]
    pub fn applied(&self) -> Option<Bytes> {
        self.applied.clone()
    }

    /// A value.
    ///
    /// # Errors
    /// What fjall says.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        value(self.snapshot.get(&self.keyspace, own(key)))
    }

    /// The pairs whose key starts with `prefix`.
    pub fn scan(&self, prefix: &[u8]) -> Pairs {
        pairs(self.snapshot.prefix(&self.keyspace, own(prefix)))
    }

    /// The pairs after `after` (from the first one when `None`): what a transfer in chunks reads.
    pub fn pairs(&self, after: Option<&[u8]>) -> Pairs {
        let from = after.map_or(Bound::Included(vec![KEY]), |after| Bound::Excluded(own(after)));
        pairs(self.snapshot.range(&self.keyspace, (from, Bound::Excluded(vec![KEY + 1]))))
    }
}

pub(crate) fn check(key: &[u8]) -> Result<(), StoreError> {
    if key.len() > MAX_KEY { Err(StoreError::Key(key.len())) } else { Ok(()) }
}

pub(crate) fn own(key: &[u8]) -> Vec<u8> {
    let mut own = Vec::with_capacity(1 + key.len());
    own.push(KEY);
    own.extend_from_slice(key);
    own
}

fn value(found: fjall::Result<Option<fjall::UserValue>>) -> Result<Option<Bytes>, StoreError> {
    Ok(found.map_err(failed("reading"))?.map(|value| Bytes::copy_from_slice(&value)))
}

fn pairs(iter: fjall::Iter) -> Pairs {
    Box::new(iter.map(|pair| {
        let (key, value) = pair.into_inner().map_err(failed("reading"))?;
        Ok((Bytes::copy_from_slice(key.get(1..).unwrap_or_default()), Bytes::copy_from_slice(&value)))
    }))
}
