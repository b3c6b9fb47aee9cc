//! A state that is put together beside the current one.

use std::sync::Arc;

use bytes::Bytes;
use fjall::{Keyspace, OwnedWriteBatch, PersistMode};

use super::{
    StoreError, catalog_key, failed,
    group::{APPLIED, Inner, check, own},
};

/// How much is collected before it is written.
const CHUNK: usize = 256 << 10;

/// A state that is being put together. Dropped without [`Staged::install`], it is removed.
pub struct Staged {
    inner: Arc<Inner>,
    /// `None` once it is installed.
    keyspace: Option<Keyspace>,
    number: u64,
    batch: Option<OwnedWriteBatch>,
    bytes: usize,
}

impl Staged {
    pub(crate) fn new(inner: Arc<Inner>, keyspace: Keyspace, number: u64) -> Self {
        Self { inner, keyspace: Some(keyspace), number, batch: None, bytes: 0 }
    }

    /// Adds a pair. Best in order of the keys.
    ///
    /// # Errors
    /// [`StoreError::Key`], what fjall says.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        check(key)?;
        let Some(keyspace) = &self.keyspace else {
            return Ok(());
        };
        let batch = self.batch.get_or_insert_with(|| self.inner.shared.db.batch());
        batch.insert(keyspace, own(key), value);
        self.bytes += key.len() + value.len();
        if self.bytes >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        match self.batch.take() {
            Some(batch) => batch.commit().map_err(failed("staging")),
            None => Ok(()),
        }
    }

    /// Puts the new state, with its applied marker, in the place of the old one, at once and durably, and drops the old one.
    /// Nothing else is applied to the group meanwhile. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Dropped`], what fjall says; then the old state is still there.
    pub fn install(mut self, applied: Bytes) -> Result<(), StoreError> {
        self.flush()?;
        let inner = Arc::clone(&self.inner);
        let mut current = inner.write();
        let Some(new) = self.keyspace.clone().filter(|_| current.is_some()) else {
            return Err(StoreError::Dropped(inner.group));
        };
        let db = &inner.shared.db;
        let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&new, APPLIED, &*applied);
        // In fjall's journal this comes behind all of the pairs: it is there only if they are.
        batch.insert(&inner.shared.catalog, catalog_key(inner.group), self.number.to_le_bytes());
        batch.commit().map_err(failed("installing"))?;
        self.keyspace = None;
        if let Some(old) = current.replace(new) {
            drop(current);
            db.delete_keyspace(old).map_err(failed("removing the old state"))?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.batch = None;
        if let Some(keyspace) = self.keyspace.take()
            && let Err(error) = self.inner.shared.db.delete_keyspace(keyspace)
        {
            // It is removed at the next start.
            tracing::warn!(%error, group = %self.inner.group, "a staged state could not be removed");
        }
    }
}
