//! What a shard reads its records from.

use bytes::Bytes;
use thiserror::Error;

use crate::codec::CodecError;

/// Records of a shard in the order of their keys, as they were at the last flush. It does not change but by the caller's writing
/// what [`crate::ShardMachine::flush`] gave it.
pub trait Store {
    /// The value of a key.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The first `limit` keys that are not below `from` and below `to`, with their values, in the order of their bytes.
    ///
    /// # Errors
    /// The store cannot be read.
    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError>;
}

impl<S: Store + ?Sized> Store for &S {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        (**self).get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        (**self).range(from, to, limit)
    }
}

/// Why a record cannot be had. What was being applied is half done then: the process must end and start again from the store.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The store failed.
    #[error("the state store cannot be read: {0}")]
    Read(String),
    /// A record is not what was written.
    #[error("the record with key {key:02x?} in the state store is damaged: {reason}")]
    Damaged {
        /// The record's key.
        key: Vec<u8>,
        /// What is wrong with it.
        reason: CodecError,
    },
    /// Records of a newer program.
    #[error("the state store has records of format {found}, this program knows {known}: install a newer one")]
    Format {
        /// What is there.
        found: u8,
        /// What is known.
        known: u8,
    },
    /// An error came before this call, and the state in memory is not to be used any more.
    #[error("the state store could not be read before, the state in memory is not whole: start again from the store")]
    Poisoned,
}
