//! The write-ahead log: one a node, for all Raft groups.

mod error;
mod metrics;
mod options;

use std::{ops::RangeInclusive, path::Path, sync::Arc};

use bytes::Bytes;

use crate::GroupId;

pub use error::WalError;
pub use metrics::{FSYNC_BUCKETS_SECONDS, WalMetrics};
pub use options::WalOptions;

/// Called once when what was handed in is on the disk, or never will be. It runs on the writer's thread: it must be quick
/// and must not wait.
pub type Callback = Box<dyn FnOnce(Result<(), WalError>) + Send + 'static>;

/// One entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the group's log.
    pub index: u64,
    /// What the Raft crate wrote: term, membership or command, in its own encoding.
    pub data: Bytes,
}

/// What the log knows of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Index of the first entry that is there; `None` without entries.
    pub first: Option<u64>,
    /// Index of the last entry; `None` without entries.
    pub last: Option<u64>,
    /// The last entry's data.
    pub last_data: Option<Bytes>,
    /// The last vote that was handed in.
    pub vote: Option<Bytes>,
    /// The last committed index that was handed in; after a restart possibly an older one.
    pub committed: Option<Bytes>,
    /// Up to which index the log was purged, with the marker given then (the Raft crate's log id).
    pub purged: Option<(u64, Bytes)>,
}

/// What was found when the log was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments that were read.
    pub segments: u64,
    /// Blocks that were read.
    pub blocks: u64,
    /// Records that were read.
    pub records: u64,
    /// Groups that have something in the log.
    pub groups: Vec<GroupId>,
    /// Whether the last process closed the log.
    pub clean: bool,
    /// Bytes of an unfinished write at the end that were cut. Nothing in them had been acknowledged.
    pub torn_bytes: u64,
    /// Why the rest was taken for an unfinished write, in words.
    pub torn_reason: Option<String>,
}

/// The log. Clones are the same log; when the last one is dropped, it is closed.
#[derive(Clone)]
pub struct Wal {
    shared: Arc<()>,
}

impl Wal {
    /// Opens or makes the log in `dir` and reads all of it.
    ///
    /// # Errors
    /// [`WalError::Damaged`] when something that had been synced is not there any more: this node must become a new
    /// member. [`WalError::Locked`] when another process has it. [`WalError::Unsupported`] when a newer version wrote it.
    pub fn open(dir: impl AsRef<Path>, options: WalOptions) -> Result<(Self, RecoveryReport), WalError> {
        unimplemented!()
    }

    /// Appends entries and calls `done` when they are on the disk. They can be read when this returns. Waits for room in the queue.
    ///
    /// The first index must follow the last one of the group; a group without entries takes any index above its purged
    /// one. `done` is called exactly once when this returns `Ok`, never otherwise.
    ///
    /// # Errors
    /// [`WalError::NotContiguous`], [`WalError::TooLarge`], [`WalError::DiskFull`] (nothing was recorded, the log can
    /// be used on), [`WalError::Failed`].
    pub async fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Callback) -> Result<(), WalError> {
        unimplemented!()
    }

    /// As [`Wal::append`], but does not wait for room.
    ///
    /// # Errors
    /// As [`Wal::append`], and [`WalError::QueueFull`].
    pub fn try_append(&self, group: GroupId, entries: Vec<LogEntry>, done: Callback) -> Result<(), WalError> {
        unimplemented!()
    }

    /// Replaces the group's vote and calls `done` when it is on the disk.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], [`WalError::Failed`].
    pub fn save_vote(&self, group: GroupId, vote: Bytes, done: Callback) -> Result<(), WalError> {
        unimplemented!()
    }

    /// Replaces the group's committed index. It goes to the disk with the next write that something waits for.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], [`WalError::Failed`].
    pub fn save_committed(&self, group: GroupId, committed: Bytes) -> Result<(), WalError> {
        unimplemented!()
    }

    /// Removes the entries from `index` on. What is handed in later is never on the disk without this.
    ///
    /// # Errors
    /// [`WalError::Failed`].
    pub fn truncate_from(&self, group: GroupId, index: u64) -> Result<(), WalError> {
        unimplemented!()
    }

    /// Removes the entries up to and including `index`, which may be above the last one, and keeps `marker`. An index
    /// below an earlier one changes nothing. What is handed in later is never on the disk without this.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], [`WalError::Failed`].
    pub fn purge_to(&self, group: GroupId, index: u64, marker: Bytes) -> Result<(), WalError> {
        unimplemented!()
    }

    /// Forgets all of a group.
    ///
    /// # Errors
    /// [`WalError::Failed`].
    pub fn drop_group(&self, group: GroupId) -> Result<(), WalError> {
        unimplemented!()
    }

    /// Calls `done` when everything handed in before is on the disk.
    ///
    /// # Errors
    /// [`WalError::Failed`].
    pub fn barrier(&self, done: Callback) -> Result<(), WalError> {
        unimplemented!()
    }

    /// The entries of the range that are there, in order, without a gap. Recent ones come from memory, others from the disk: this may block.
    ///
    /// # Errors
    /// [`WalError::Damaged`] when an entry's checksum does not fit, [`WalError::Io`], [`WalError::Failed`].
    pub fn read(&self, group: GroupId, range: RangeInclusive<u64>) -> Result<Vec<LogEntry>, WalError> {
        self.read_limited(group, range, usize::MAX)
    }

    /// As [`Wal::read`], but stops when the data of the entries reaches `max_bytes`; at least one entry is returned if
    /// there is one.
    ///
    /// # Errors
    /// As [`Wal::read`].
    pub fn read_limited(&self, group: GroupId, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<LogEntry>, WalError> {
        unimplemented!()
    }

    /// Whether all of the range that is there is in memory, so that reading it does not block.
    #[must_use]
    pub fn is_cached(&self, group: GroupId, range: RangeInclusive<u64>) -> bool {
        unimplemented!()
    }

    /// What the log knows of a group; all empty for an unknown one. May read the last entry from the disk.
    ///
    /// # Errors
    /// As [`Wal::read`].
    pub fn group_state(&self, group: GroupId) -> Result<GroupState, WalError> {
        unimplemented!()
    }

    /// The groups that have something in the log.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        unimplemented!()
    }

    /// Bytes of a group's entries that are in the log: what a trigger of snapshots looks at.
    #[must_use]
    pub fn live_bytes(&self, group: GroupId) -> u64 {
        unimplemented!()
    }

    /// Whether appends are taken: `false` when the disk is nearly full or the log failed. Ask before proposing, and hand
    /// leadership on when it says no.
    #[must_use]
    pub fn accepting(&self) -> bool {
        unimplemented!()
    }

    /// The error that ended the use of the log, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<WalError> {
        unimplemented!()
    }

    /// Waits until the log fails, or forever.
    pub async fn failed(&self) -> WalError {
        unimplemented!()
    }

    /// The numbers, read at this moment.
    #[must_use]
    pub fn metrics(&self) -> WalMetrics {
        unimplemented!()
    }

    /// Writes what is handed in, syncs it, notes a clean end and stops the writer. Later calls return [`WalError::Closed`].
    /// Blocks.
    ///
    /// # Errors
    /// [`WalError::Failed`] when the log had failed or failed now.
    pub fn close(&self) -> Result<(), WalError> {
        unimplemented!()
    }
}
