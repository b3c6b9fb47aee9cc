//! openraft's log on the node's write-ahead log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use raftmq_storage::{GroupId, GroupState, LogEntry, Wal, WalError};
use tokio::sync::{mpsc, oneshot};

use crate::codec::{Reader, decode_entry, decode_entry_id, encode_entry, load, put_log_id, put_vote, stored};
use crate::types::{Entry, LogId, Types, Vote};

/// How long to wait for room on the disk before an entry of Raft itself is tried again. It happens on the
/// consensus task on purpose: a leader that cannot write sends no heartbeats, and another one takes over.
const DISK_FULL_RETRY: Duration = Duration::from_millis(200);

/// How many bytes of entries are read at once where the caller does not say: bounds the memory of applying.
const READ_BYTES: usize = 4 << 20;

/// One group's log. Clones read and write the same one.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    group: GroupId,
    /// The vote that is on the disk; readers ask for it before and after each read.
    vote: Arc<Mutex<Option<Vote>>>,
    /// The most bytes of one append call to a follower.
    append_bytes: usize,
    /// Dropped with the last user of the log, so that a shutdown knows when the files are free.
    _alive: mpsc::Sender<()>,
}

impl LogStore {
    pub(crate) fn open(wal: Wal, group: GroupId, append_bytes: usize, alive: mpsc::Sender<()>) -> io::Result<Self> {
        let state = wal.group_state(group).map_err(to_io)?;
        let vote = state.vote.map(|bytes| load("vote", bytes, Reader::vote)).transpose()?;
        Ok(Self { wal, group, vote: Arc::new(Mutex::new(vote)), append_bytes, _alive: alive })
    }

    fn saved_vote(&self) -> Option<Vote> {
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything handed in before is on the disk.
    pub(crate) async fn barrier(&self) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        self.wal.barrier(Box::new(move |result| drop(done.send(result)))).map_err(to_io)?;
        synced.await.map_err(io::Error::other)?.map_err(to_io)
    }

    /// Keeps the log's thread until the other end of the channel is dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self, held: std::sync::mpsc::Receiver<()>) {
        let wait = move |_| {
            let _ = held.recv();
        };
        self.wal.barrier(Box::new(wait)).expect("the log works");
    }

    async fn read(&self, range: RangeInclusive<u64>, limit: usize) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let entries = if self.wal.is_cached(self.group, range.clone()) {
            self.wal.read_limited(self.group, range, limit).map_err(to_io)?
        } else {
            let (wal, group) = (self.wal.clone(), self.group);
            blocking(move || wal.read_limited(group, range, limit).map_err(to_io)).await?
        };
        entries.into_iter().map(|e| decode_entry(e.index, e.data).map_err(io::Error::from)).collect()
    }

    pub(crate) fn ids(&self) -> io::Result<LogIds> {
        log_ids(self.wal.group_state(self.group).map_err(to_io)?)
    }
}

/// What the log says of its entries.
pub(crate) struct LogIds {
    /// The last one that was purged.
    pub(crate) purged: Option<LogId>,
    /// The last one that there ever was.
    pub(crate) last: Option<LogId>,
    committed: Option<Bytes>,
}

pub(crate) fn log_ids(state: GroupState) -> io::Result<LogIds> {
    let purged = state.purged.map(|(_, marker)| load("purge marker", marker, Reader::log_id)).transpose()?;
    let last = match (state.last, state.last_data) {
        (Some(index), Some(data)) => Some(decode_entry_id(index, data)?),
        _ => purged,
    };
    Ok(LogIds { purged, last, committed: state.committed })
}

/// The inclusive range of indexes, or an empty one.
fn inclusive(range: &impl RangeBounds<u64>) -> RangeInclusive<u64> {
    let empty = RangeInclusive::new(1, 0);
    let start = match range.start_bound() {
        Bound::Included(start) => Some(*start),
        Bound::Excluded(start) => start.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end = match range.end_bound() {
        Bound::Included(end) => Some(*end),
        Bound::Excluded(end) => end.checked_sub(1),
        Bound::Unbounded => Some(u64::MAX),
    };
    match (start, end) {
        (Some(start), Some(end)) => start..=end,
        _ => empty,
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(inclusive(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.saved_vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(inclusive(&(start..end)), self.append_bytes).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = inclusive(&range);
        let state = (self.clone(), *range.start(), *range.end(), Vec::new().into_iter());
        // Boxed: the state machine wants the stream pinned anyhow.
        Box::pin(stream::try_unfold(state, |(log, mut next, last, mut read)| async move {
            loop {
                if let Some(entry) = read.next() {
                    return Ok(Some((entry, (log, next, last, read))));
                }
                if next > last {
                    return Ok(None);
                }
                let entries = log.read(next..=last, READ_BYTES).await?;
                let (Some(first), Some(end)) = (entries.first(), entries.last().map(|e: &Entry| e.log_id.index)) else {
                    return Ok(None);
                };
                // What is applied comes from here: an entry that is not there must never be passed over.
                if first.log_id.index != next {
                    let reason = format!("entry {next} is not in the log, which goes on with {}", first.log_id.index);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                }
                next = end.saturating_add(1);
                read = entries.into_iter();
            }
        }))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let ids = self.ids()?;
        Ok(LogState { last_purged_log_id: ids.purged, last_log_id: ids.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, saved) = oneshot::channel();
        let bytes = stored(vote, put_vote);
        self.wal.save_vote(self.group, bytes, Box::new(move |result| drop(done.send(result)))).map_err(to_io)?;
        saved.await.map_err(io::Error::other)?.map_err(to_io)?;
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.wal.save_committed(self.group, stored(&committed, put_log_id)).map_err(to_io)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let LogIds { last, committed, .. } = self.ids()?;
        let committed = committed.map(|bytes| load("committed", bytes, Reader::log_id)).transpose()?;
        // A crash between noting that a snapshot commits this much and installing it: what is in the log below is
        // then not known to be committed, so nothing is.
        Ok(committed.filter(|id| last.is_some_and(|last| id.index <= last.index)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries
            .into_iter()
            .map(|entry| LogEntry { index: entry.log_id.index, data: encode_entry(&entry) })
            .collect();
        if entries.is_empty() {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        // The callback is needed again if there is no room; a `done` that was not taken is dropped unused.
        let callback = Arc::new(Mutex::new(Some(callback)));
        let mut said = false;
        loop {
            let done = callback.clone();
            let appended = self
                .wal
                .append(
                    self.group,
                    entries.clone(),
                    Box::new(move |result| {
                        if let Some(callback) = done.lock().unwrap_or_else(PoisonError::into_inner).take() {
                            callback.io_completed(result.map_err(to_io));
                        }
                    }),
                )
                .await;
            match appended {
                Err(WalError::DiskFull { free, needed }) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::error!(group = %self.group, free, needed, "no room on the disk for the log, waiting");
                    }
                    tokio::time::sleep(DISK_FULL_RETRY).await;
                }
                other => return other.map_err(to_io),
            }
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index.saturating_add(1));
        self.wal.truncate_from(self.group, from).map_err(to_io)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.wal.purge_to(self.group, log_id.index, stored(&log_id, put_log_id)).map_err(to_io)
    }
}

pub(crate) fn to_io(error: WalError) -> io::Error {
    io::Error::other(error)
}

/// Runs what waits for a disk beside the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
