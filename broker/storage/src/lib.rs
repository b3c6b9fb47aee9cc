//! The write-ahead log and the state store of a node.
//!
//! - [`wal`]: one preallocated, segmented log a node for the votes and entries of all Raft groups. One fsync serves
//!   every group that waits.
//! - [`store`]: what the stored state machines know, in fjall: written without a sync, with the applied index in the
//!   same batch. The log is purged up to what the last sync of the store covers.
//! - [`AtomicFile`]: small files that are either the old or the new one after a crash (identity, boot counters).
//! - [`make_dir`], [`DirLock`]: a directory that is there after a crash, and one process in it.

mod atomic_file;
mod dir_lock;
pub mod store;
pub mod wal;

use std::fmt;

pub use atomic_file::{AtomicFile, make_dir};
pub use dir_lock::DirLock;
pub use store::{GroupReader, GroupStore, Staged, StateStore, StoreBatch, StoreError, StoreOptions, View};
pub use wal::{GroupState, LogEntry, RecoveryReport, Wal, WalError, WalMetrics, WalOptions};

/// The name of a Raft group on disk and on the wire.
///
/// A group that is rebuilt after a lost quorum keeps its number and gets a higher generation, so that nothing of the
/// old one is ever taken for the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId {
    /// Which group: 1 is meta, 2 is routes.
    pub number: u32,
    /// Counts the times that the group was rebuilt by force.
    pub generation: u32,
}

impl GroupId {
    /// Names a group.
    #[must_use]
    pub const fn new(number: u32, generation: u32) -> Self {
        Self { number, generation }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.generation)
    }
}
