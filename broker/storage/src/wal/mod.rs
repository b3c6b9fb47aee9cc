//! The write-ahead log: one a node, for all Raft groups.
//!
//! Callers hand in records and change the index in memory at once; one thread, the `writer`, puts what waits into blocks,
//! syncs once and calls everybody back. `format` says how it looks on the disk, `recovery` how it is read
//! and what is a torn tail and what is damage, `index` how entries are found again.
//!
//! A segment goes when nothing in it counts any more. When a few old records hold up many segments, they are copied forward.
//! A block tells which segments are needed; a segment is removed only when a block on the disk says that it is not.
//!
//! A failed write or sync ends the use of the log: what is on the disk is unknown then, and a second sync that succeeds
//! would prove nothing. The process must end and read the log again.

mod appender;
mod disk;
mod error;
mod format;
mod index;
mod mark;
mod metrics;
mod open;
mod options;
mod pace;
mod read;
mod record;
mod recovery;
mod replay;
mod segment;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    ops::RangeInclusive,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

use crate::{DirLock, GroupId, make_dir};

use disk::RealDisk;
use index::GroupIndex;
use open::Handle;
use read::Source;
use recovery::io_error;
use shared::{Shared, State};

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
    handle: Arc<Handle>,
}

impl Wal {
    /// Opens or makes the log in `dir` and reads all of it.
    ///
    /// # Errors
    /// [`WalError::Damaged`] when something that had been synced is not there any more: this node must become a new
    /// member. [`WalError::Locked`] when another process has it. [`WalError::Unsupported`] when a newer version wrote it.
    pub fn open(dir: impl AsRef<Path>, options: WalOptions) -> Result<(Self, RecoveryReport), WalError> {
        let dir = dir.as_ref();
        options.check()?;
        make_dir(dir).map_err(io_error("making the log's directory"))?;
        let lock = DirLock::acquire(dir).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => WalError::Locked(dir.to_owned()),
            _ => io_error("locking the log's directory")(error),
        })?;
        Self::open_on(Arc::new(RealDisk::new(dir)), Some(lock), options)
    }

    /// Appends entries and calls `done` when they are on the disk. They can be read when this returns. Waits for room in
    /// the queue; what the other calls hand in is small and rare, and takes no room.
    ///
    /// The first index must follow the last one of the group; a group without entries takes any index above its purged
    /// one. `done` is called exactly once when this returns `Ok`, never otherwise.
    ///
    /// # Errors
    /// [`WalError::NotContiguous`], [`WalError::TooLarge`], [`WalError::DiskFull`] (nothing was recorded, the log can
    /// be used on), [`WalError::Failed`].
    pub async fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Callback) -> Result<(), WalError> {
        let bytes = self.check(&entries)?;
        let room = Arc::clone(&self.shared().room).acquire_many_owned(self.shared().units(bytes));
        let Ok(room) = room.await else {
            return Err(self.failure().unwrap_or(WalError::Closed));
        };
        self.enqueue(group, entries, done, room)
    }

    /// As [`Wal::append`], but does not wait for room.
    ///
    /// # Errors
    /// As [`Wal::append`], and [`WalError::QueueFull`].
    pub fn try_append(&self, group: GroupId, entries: Vec<LogEntry>, done: Callback) -> Result<(), WalError> {
        let bytes = self.check(&entries)?;
        let room = Arc::clone(&self.shared().room).try_acquire_many_owned(self.shared().units(bytes));
        match room {
            Ok(room) => self.enqueue(group, entries, done, room),
            Err(TryAcquireError::NoPermits) => Err(WalError::QueueFull),
            Err(TryAcquireError::Closed) => Err(self.failure().unwrap_or(WalError::Closed)),
        }
    }

    /// Replaces the group's vote and calls `done` when it is on the disk.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], [`WalError::Failed`].
    pub fn save_vote(&self, group: GroupId, vote: Bytes, done: Callback) -> Result<(), WalError> {
        self.shared().check_len(vote.len())?;
        self.change(|state| {
            state.set_vote(group, vote);
            state.queue.callbacks.push(done);
        })
    }

    /// Replaces the group's committed index. It goes to the disk with the next write that something waits for.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], [`WalError::Failed`].
    pub fn save_committed(&self, group: GroupId, committed: Bytes) -> Result<(), WalError> {
        self.shared().check_len(committed.len())?;
        let mut state = self.shared().lock();
        state.usable()?;
        state.set_committed(group, committed);
        Ok(())
    }

    /// Removes the entries from `index` on. What is handed in later is never on the disk without this.
    ///
    /// # Errors
    /// [`WalError::Failed`].
    pub fn truncate_from(&self, group: GroupId, index: u64) -> Result<(), WalError> {
        self.change(|state| state.truncate(group, index))
    }

    /// Removes the entries up to and including `index`, which may be above the last one, and keeps `marker`. An index
    /// below an earlier one changes nothing. What is handed in later is never on the disk without this.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], [`WalError::Failed`].
    pub fn purge_to(&self, group: GroupId, index: u64, marker: Bytes) -> Result<(), WalError> {
        self.shared().check_len(marker.len())?;
        self.change(|state| state.purge(group, index, marker))
    }

    /// Forgets all of a group.
    ///
    /// # Errors
    /// [`WalError::Failed`].
    pub fn drop_group(&self, group: GroupId) -> Result<(), WalError> {
        self.change(|state| state.drop_group(group))
    }

    /// Calls `done` when everything handed in before is on the disk.
    ///
    /// # Errors
    /// [`WalError::Failed`].
    pub fn barrier(&self, done: Callback) -> Result<(), WalError> {
        self.change(|state| {
            state.queue.callbacks.push(done);
            state.queue.urgent = true;
        })
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
    pub fn read_limited(
        &self,
        group: GroupId,
        range: RangeInclusive<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, WalError> {
        let mut found = Vec::new();
        let mut bytes = 0usize;
        {
            let state = self.shared().lock();
            if let Some(error) = &state.failure {
                return Err(error.clone());
            }
            let Some(known) = state.groups.get(&group) else {
                return Ok(Vec::new());
            };
            let Some((first, last)) = known.bounds() else {
                return Ok(Vec::new());
            };
            for index in first.max(*range.start())..=last.min(*range.end()) {
                let Some((recent, place)) = known.entry(index) else {
                    break;
                };
                bytes = bytes.saturating_add(place.len());
                if bytes > max_bytes && !found.is_empty() {
                    break;
                }
                found.push((index, state.source(recent, place)?));
            }
        }
        // Files are read without the lock; a segment that is removed meanwhile stays readable through its handle.
        found.into_iter().map(|(index, source)| Ok(LogEntry { index, data: source.read()? })).collect()
    }

    /// Whether all of the range that is there is in memory, so that reading it does not block.
    #[must_use]
    pub fn is_cached(&self, group: GroupId, range: RangeInclusive<u64>) -> bool {
        let state = self.shared().lock();
        let Some(known) = state.groups.get(&group) else {
            return true;
        };
        let Some((first, last)) = known.bounds() else {
            return true;
        };
        let (start, end) = (first.max(*range.start()), last.min(*range.end()));
        // What is in memory is always the end of the log: the first one of the range decides.
        start > end || known.entry(start).is_some_and(|(recent, _)| recent.is_some())
    }

    /// What the log knows of a group; all empty for an unknown one. May read the last entry from the disk.
    ///
    /// # Errors
    /// As [`Wal::read`].
    pub fn group_state(&self, group: GroupId) -> Result<GroupState, WalError> {
        let (mut known, last) = {
            let state = self.shared().lock();
            if let Some(error) = &state.failure {
                return Err(error.clone());
            }
            let Some(known) = state.groups.get(&group) else {
                return Ok(GroupState::default());
            };
            let bounds = known.bounds();
            let last = match bounds.and_then(|(_, last)| known.entry(last)) {
                Some((recent, place)) => Some(state.source(recent, place)?),
                None => None,
            };
            let found = GroupState {
                first: bounds.map(|(first, _)| first),
                last: bounds.map(|(_, last)| last),
                last_data: None,
                vote: known.vote.as_ref().map(|vote| vote.data.clone()),
                committed: known.committed.as_ref().map(|committed| committed.data.clone()),
                purged: known.purged.as_ref().map(|(index, marker)| (*index, marker.data.clone())),
            };
            (found, last)
        };
        known.last_data = last.map(Source::read).transpose()?;
        Ok(known)
    }

    /// The groups that have something in the log.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<_> = self.shared().lock().groups.keys().copied().collect();
        groups.sort_unstable();
        groups
    }

    /// Bytes of a group's entries that are in the log: what a trigger of snapshots looks at.
    #[must_use]
    pub fn live_bytes(&self, group: GroupId) -> u64 {
        self.shared().lock().groups.get(&group).map_or(0, GroupIndex::live_bytes)
    }

    /// Whether appends are taken: `false` when the disk is nearly full or the log failed. Ask before proposing, and hand
    /// leadership on when it says no.
    #[must_use]
    pub fn accepting(&self) -> bool {
        let state = self.shared().lock();
        state.usable().is_ok() && state.disk_full.is_none()
    }

    /// The error that ended the use of the log, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<WalError> {
        self.shared().lock().failure.clone()
    }

    /// Waits until the log fails, or forever.
    pub async fn failed(&self) -> WalError {
        let mut watch = self.shared().failed.subscribe();
        match watch.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(WalError::Closed),
            // The sender lives in the log that is borrowed here.
            Err(_) => std::future::pending().await,
        }
    }

    /// The numbers, read at this moment.
    #[must_use]
    pub fn metrics(&self) -> WalMetrics {
        let state = self.shared().lock();
        WalMetrics {
            segments: state.usages.segments(),
            queued_records: state.queue.items.len() as u64,
            queued_bytes: state.queue.bytes as u64,
            disk_full: state.disk_full.is_some(),
            ..self.shared().counters.read()
        }
    }

    /// Writes what is handed in, syncs it, notes a clean end and stops the writer. Later calls return [`WalError::Closed`].
    /// Blocks.
    ///
    /// # Errors
    /// [`WalError::Failed`] when the log had failed or failed now.
    pub fn close(&self) -> Result<(), WalError> {
        self.handle.close();
        match self.failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Wal {
    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Checks what can be said before there is room; returns the bytes that it takes.
    fn check(&self, entries: &[LogEntry]) -> Result<usize, WalError> {
        let mut bytes = 0;
        for entry in entries {
            self.shared().check_len(entry.data.len())?;
            bytes += record::RECORD_HEADER + record::INDEX + entry.data.len();
        }
        Ok(bytes)
    }

    fn enqueue(
        &self,
        group: GroupId,
        entries: Vec<LogEntry>,
        done: Callback,
        room: OwnedSemaphorePermit,
    ) -> Result<(), WalError> {
        let mut state = self.shared().lock();
        state.usable()?;
        if let Some(free) = state.disk_full {
            self.shared().counters.refused_disk_full.fetch_add(1, Relaxed);
            return Err(WalError::DiskFull { free, needed: self.shared().options.min_free_bytes });
        }
        state.append(group, entries)?;
        state.queue.callbacks.push(done);
        state.queue.urgent = true;
        match &mut state.queue.permits {
            Some(permits) => permits.merge(room),
            none => *none = Some(room),
        }
        drop(state);
        self.shared().wake.notify_one();
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), WalError> {
        let mut state = self.shared().lock();
        state.usable()?;
        change(&mut state);
        drop(state);
        self.shared().wake.notify_one();
        Ok(())
    }
}
