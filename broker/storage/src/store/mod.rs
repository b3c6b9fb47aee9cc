//! The state store: what stored state machines know, in fjall.
//!
//! Each group has a keyspace of its own. Changes are written with the applied marker in one batch, not synced: after a
//! crash the state is an older one, whole, with the marker that belongs to it, and the log has the rest. [`GroupStore::sync`] says
//! up to where the log may be purged.
//!
//! A state that comes as a snapshot is put together in a new keyspace beside the current one. Which keyspace counts is
//! noted in the *catalog*; one synced write there swaps them. Keyspaces that the catalog does not name are leftovers and are removed.
//!
//! A power failure may tear what was not synced; the torn end is cut when the store is opened (see `journal`). Where the disk damaged what was
//! synced, the applied marker goes back further than the last sync, or the store does not open. Who opens a group compares it with
//! what the log still has, and treats a gap as it treats a damaged log.

mod group;
mod journal;
mod staged;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::{DirLock, GroupId, make_dir};

use group::Inner;

pub use group::{GroupReader, GroupStore, Pairs, View};
pub use staged::Staged;

/// The keyspace that says which keyspace holds a group's state.
const CATALOG: &str = "catalog";
/// The longest key: fjall's limit less the byte that tells keys from bookkeeping.
const MAX_KEY: usize = 65_534;

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// An error of the state store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What fjall says. After a failed write or sync the store must not be used any more.
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
    /// The group was dropped; get it anew.
    #[error("the state of group {0} was dropped")]
    Dropped(GroupId),
    /// Keys have at most 65,534 bytes.
    #[error("a key of {0} bytes cannot be stored")]
    Key(usize),
}

pub(crate) fn failed(context: &'static str) -> impl FnOnce(fjall::Error) -> StoreError {
    move |error| StoreError::Store { context, error }
}

/// Settings of the state store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Cache of blocks read, for all groups, in bytes.
    pub cache_bytes: u64,
    /// Write buffer of one group, in bytes.
    pub memtable_bytes: u64,
    /// fjall's journals together, in bytes; not below 64 MiB.
    pub journal_bytes: u64,
    /// Threads that flush and compact; not below 1.
    pub threads: usize,
    /// Files that are kept open; not below 10.
    pub open_files: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, memtable_bytes: 4 << 20, journal_bytes: 64 << 20, threads: 1, open_files: 128 }
    }
}

/// The state store of a node. Clones are the same store.
#[derive(Clone)]
pub struct StateStore {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) db: Database,
    pub(crate) catalog: Keyspace,
    memtable_bytes: u64,
    open: Mutex<Open>,
    /// The last field: let go when fjall is closed.
    _lock: DirLock,
}

/// The groups in use.
#[derive(Default)]
pub(crate) struct Open {
    /// Weak, because a group keeps the store.
    groups: HashMap<GroupId, Weak<Inner>>,
    /// Number of the next keyspace; never used twice while the process lives, so that leftovers are not met again.
    next: u64,
}

impl StateStore {
    /// Opens or makes the store in `dir`. What an interrupted install left behind is removed.
    ///
    /// # Errors
    /// What fjall says (a store that is open already is locked); [`StoreError::Damaged`].
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        let dir = dir.as_ref();
        make_dir(dir).map_err(|error| failed("making the directory")(error.into()))?;
        // fjall's own lock is taken too late: the journal is looked at before.
        let lock = DirLock::acquire(dir).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => failed("locking the directory")(fjall::Error::Locked),
            _ => failed("locking the directory")(error.into()),
        })?;
        let cut = journal::cut_torn_end(&dir.join("state"))
            .map_err(|error| failed("looking at the journal")(error.into()))?;
        if cut > 0 {
            tracing::warn!(bytes = cut, "an unfinished end of the state store's journal was cut");
        }
        let db = Database::builder(dir.join("state"))
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes.max(64 << 20))
            .worker_threads(options.threads.max(1))
            .max_cached_files(Some(options.open_files.max(10)))
            .open()
            .map_err(failed("opening"))?;
        let memtable = options.memtable_bytes;
        let catalog = db
            .keyspace(CATALOG, || KeyspaceCreateOptions::default().max_memtable_size(memtable))
            .map_err(failed("opening the catalog"))?;
        let mut named = HashMap::new();
        for pair in catalog.iter() {
            let (key, value) = pair.into_inner().map_err(failed("reading the catalog"))?;
            let (group, number) = decode_catalog(&key, &value)?;
            named.insert(keyspace_name(group, number), number);
        }
        for name in db.list_keyspace_names() {
            if &*name != CATALOG && !named.contains_key(&*name) {
                let leftover =
                    db.keyspace(&name, KeyspaceCreateOptions::default).map_err(failed("opening a leftover"))?;
                db.delete_keyspace(leftover).map_err(failed("removing a leftover"))?;
            }
        }
        let next = named.values().max().map_or(1, |highest| highest + 1);
        let open = Mutex::new(Open { groups: HashMap::new(), next });
        Ok(Self { shared: Arc::new(Shared { db, catalog, memtable_bytes: memtable, open, _lock: lock }) })
    }

    /// The state of a group, made empty when it is new.
    ///
    /// # Errors
    /// What fjall says.
    pub fn group(&self, group: GroupId) -> Result<GroupStore, StoreError> {
        let mut open = self.shared.open();
        if let Some(inner) = open.groups.get(&group).and_then(Weak::upgrade) {
            return Ok(GroupStore::new(inner));
        }
        let known = self.shared.catalog.get(catalog_key(group)).map_err(failed("reading the catalog"))?;
        let keyspace = match known {
            Some(value) => {
                let (_, number) = decode_catalog(&catalog_key(group), &value)?;
                self.shared.keyspace(group, number)?
            }
            None => {
                let (keyspace, number) = self.shared.new_keyspace(group, &mut open)?;
                self.shared
                    .catalog
                    .insert(catalog_key(group), number.to_le_bytes())
                    .map_err(failed("writing the catalog"))?;
                self.shared.db.persist(PersistMode::SyncAll).map_err(failed("syncing the catalog"))?;
                keyspace
            }
        };
        let inner = Arc::new(Inner { shared: Arc::clone(&self.shared), group, current: RwLock::new(Some(keyspace)) });
        open.groups.insert(group, Arc::downgrade(&inner));
        Ok(GroupStore::new(inner))
    }

    /// Forgets a group, durably. Its [`GroupStore`]s return [`StoreError::Dropped`] from now on.
    ///
    /// # Errors
    /// What fjall says.
    pub fn drop_group(&self, group: GroupId) -> Result<(), StoreError> {
        // Also when it is not in use: then it is opened to be dropped.
        let inner = Arc::clone(self.group(group)?.inner());
        let mut open = self.shared.open();
        let mut current = inner.write();
        let Some(keyspace) = current.take() else {
            return Ok(());
        };
        open.groups.remove(&group);
        self.shared.catalog.remove(catalog_key(group)).map_err(failed("writing the catalog"))?;
        self.shared.db.persist(PersistMode::SyncAll).map_err(failed("syncing the catalog"))?;
        self.shared.db.delete_keyspace(keyspace).map_err(failed("removing a group"))
    }

    /// The groups that have a state.
    ///
    /// # Errors
    /// What fjall says; [`StoreError::Damaged`].
    pub fn groups(&self) -> Result<Vec<GroupId>, StoreError> {
        self.shared
            .catalog
            .iter()
            .map(|pair| {
                let (key, value) = pair.into_inner().map_err(failed("reading the catalog"))?;
                Ok(decode_catalog(&key, &value)?.0)
            })
            .collect()
    }

    /// Bytes on the disk; 0 when they cannot be counted at the moment.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.shared.db.disk_space().unwrap_or(0)
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keyspace(&self, group: GroupId, number: u64) -> Result<Keyspace, StoreError> {
        self.db
            .keyspace(&keyspace_name(group, number), || {
                KeyspaceCreateOptions::default().max_memtable_size(self.memtable_bytes)
            })
            .map_err(failed("opening a group"))
    }

    fn new_keyspace(&self, group: GroupId, open: &mut Open) -> Result<(Keyspace, u64), StoreError> {
        let number = open.next;
        open.next += 1;
        Ok((self.keyspace(group, number)?, number))
    }

    /// An empty keyspace that the catalog does not name yet.
    pub(crate) fn stage(&self, group: GroupId) -> Result<(Keyspace, u64), StoreError> {
        self.new_keyspace(group, &mut self.open())
    }
}

fn keyspace_name(group: GroupId, number: u64) -> String {
    format!("g{}.{}.{number}", group.number, group.generation)
}

pub(crate) fn catalog_key(group: GroupId) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&group.number.to_be_bytes());
    key[4..].copy_from_slice(&group.generation.to_be_bytes());
    key
}

fn decode_catalog(key: &[u8], value: &[u8]) -> Result<(GroupId, u64), StoreError> {
    let wrong = || StoreError::Damaged("the catalog has an entry that is none".to_owned());
    let key: [u8; 8] = key.try_into().map_err(|_| wrong())?;
    let number = u64::from_le_bytes(value.try_into().map_err(|_| wrong())?);
    let key = u64::from_be_bytes(key);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the key")]
    Ok((GroupId::new((key >> 32) as u32, key as u32), number))
}

/// Changes that are made together.
#[derive(Debug, Clone, Default)]
pub struct StoreBatch {
    pub(crate) changes: Vec<(Bytes, Option<Bytes>)>,
}

impl StoreBatch {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.push((key.into(), None));
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }
}
