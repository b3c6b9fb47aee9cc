//! What the callers and the writer share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::GroupId;

use super::{
    Callback, LogEntry, WalError, WalOptions,
    disk::DiskFile,
    format::{BLOCK_HEADER, PAGE},
    index::{Control, GroupIndex, Usages, replace},
    metrics::Counters,
    record::{Body, INDEX, Item, RECORD_HEADER},
};

/// The unit in which room in the queue is counted.
pub(crate) const ROOM_UNIT: usize = 1024;

pub(crate) struct Shared {
    pub(crate) options: WalOptions,
    state: Mutex<State>,
    /// Tells the writer that there is something to do.
    pub(crate) wake: Condvar,
    /// Room in the queue, in [`ROOM_UNIT`]s.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) counters: Counters,
    pub(crate) failed: watch::Sender<Option<WalError>>,
}

pub(crate) struct State {
    pub(crate) groups: HashMap<GroupId, GroupIndex>,
    pub(crate) usages: Usages,
    pub(crate) files: BTreeMap<u32, Arc<dyn DiskFile>>,
    pub(crate) queue: Batch,
    next_ticket: u64,
    pub(crate) closing: bool,
    pub(crate) failure: Option<WalError>,
    /// Free bytes while entries are refused.
    pub(crate) disk_full: Option<u64>,
    /// Little is left until they are: how much is free.
    pub(crate) short: Option<u64>,
}

/// The segments that a log has at least where the disk is short of room: the one that is written, and one to go to.
const FEWEST: u64 = 2;

impl State {
    /// The oldest segment, if it is to go, and what lives in it to be copied forward: there are more than allowed, or more than are needed on a disk that is short of room,
    /// and has enough for the segment to which the copies may have to go.
    pub(crate) fn to_copy(&self, current: u32, options: &WalOptions) -> Option<u32> {
        let (oldest, usage) = self.usages.oldest()?;
        let most = match self.short {
            Some(free) if free < options.segment_bytes.saturating_add(options.segment_bytes / 8) => return None,
            Some(_) => FEWEST.min(options.max_segments),
            None => options.max_segments,
        };
        let goes = oldest < current
            && usage.records > 0
            && self.usages.segments() > most
            // Copying from a log that is mostly alive would only move it: that is for snapshots to solve.
            && self.usages.live_bytes().saturating_mul(2) <= self.usages.capacity();
        goes.then_some(oldest)
    }
}

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Item>,
    pub(crate) callbacks: Vec<Callback>,
    pub(crate) permits: Option<OwnedSemaphorePermit>,
    pub(crate) bytes: usize,
    /// Something must be written now; otherwise what is there waits for company.
    pub(crate) urgent: bool,
}

impl Shared {
    pub(crate) fn new(
        options: WalOptions,
        groups: HashMap<GroupId, GroupIndex>,
        usages: Usages,
        files: BTreeMap<u32, Arc<dyn DiskFile>>,
    ) -> Self {
        let units = (options.queue_bytes / ROOM_UNIT).clamp(1, u32::MAX as usize);
        Self {
            options,
            state: Mutex::new(State {
                groups,
                usages,
                files,
                queue: Batch::default(),
                next_ticket: 0,
                closing: false,
                failure: None,
                disk_full: None,
                short: None,
            }),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(units)),
            counters: Counters::default(),
            failed: watch::Sender::new(None),
        }
    }

    /// A poisoned lock is taken as it is: the state is changed by steps that do not panic, and the writer ends the log's
    /// use by itself when it dies.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room units for so many bytes, never more than there are.
    pub(crate) fn units(&self, bytes: usize) -> u32 {
        let all = (self.options.queue_bytes / ROOM_UNIT).max(1);
        u32::try_from(bytes.div_ceil(ROOM_UNIT).clamp(1, all)).unwrap_or(u32::MAX)
    }

    /// The longest data of one record.
    pub(crate) fn record_limit(&self) -> usize {
        let overhead = PAGE + (BLOCK_HEADER + RECORD_HEADER + INDEX) as u64;
        usize::try_from(self.options.segment_bytes.saturating_sub(overhead)).unwrap_or(usize::MAX)
    }

    pub(crate) fn check_len(&self, bytes: usize) -> Result<(), WalError> {
        let limit = self.record_limit();
        if bytes > limit { Err(WalError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// Ends the use of the log: everyone who waits gets the error, later callers too.
    pub(crate) fn fail(&self, error: &WalError, also: Vec<Callback>) {
        let mut state = self.lock();
        state.failure.get_or_insert_with(|| error.clone());
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        self.room.close();
        for callback in also.into_iter().chain(queue.callbacks) {
            callback(Err(error.clone()));
        }
        self.failed.send_replace(Some(error.clone()));
    }
}

impl State {
    /// Whether the log takes anything.
    pub(crate) fn usable(&self) -> Result<(), WalError> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None if self.closing => Err(WalError::Closed),
            None => Ok(()),
        }
    }

    pub(crate) fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(crate) fn push(&mut self, group: GroupId, body: Body) {
        let item = Item { group, body };
        self.queue.bytes += super::record::encoded_len(&item.record());
        self.queue.items.push(item);
        self.queue.urgent = true;
    }

    /// Adds entries, all or none.
    pub(crate) fn append(&mut self, group: GroupId, entries: Vec<LogEntry>) -> Result<(), WalError> {
        let gap = |expected, got| WalError::NotContiguous { group, expected, got };
        let Some(start) = entries.first().map(|entry| entry.index) else {
            return Ok(());
        };
        if let Some(known) = self.groups.get(&group) {
            known.may_append(start).map_err(|expected| gap(expected, start))?;
        }
        for (expected, entry) in (start..u64::MAX).zip(&entries) {
            if entry.index != expected {
                return Err(gap(expected, entry.index));
            }
        }
        for LogEntry { index, data } in entries {
            let ticket = self.ticket();
            self.groups.entry(group).or_default().append(index, ticket, data.clone());
            self.push(group, Body::Entry { index, ticket, data });
        }
        Ok(())
    }

    /// Replaces the vote and queues it.
    pub(crate) fn set_vote(&mut self, group: GroupId, vote: Bytes) {
        let ticket = self.ticket();
        let index = self.groups.entry(group).or_default();
        replace(&mut index.vote, Control::pending(vote.clone(), ticket), &mut self.usages);
        self.push(group, Body::Vote { ticket, data: vote });
    }

    /// Replaces the committed index; it is queued when a batch is made.
    pub(crate) fn set_committed(&mut self, group: GroupId, committed: Bytes) {
        let ticket = self.ticket();
        let index = self.groups.entry(group).or_default();
        replace(&mut index.committed, Control::pending(committed, ticket), &mut self.usages);
        index.committed_waits = true;
    }

    pub(crate) fn truncate(&mut self, group: GroupId, from: u64) {
        if let Some(index) = self.groups.get_mut(&group) {
            index.truncate(from, &mut self.usages);
            self.push(group, Body::Truncate(from));
        }
    }

    pub(crate) fn purge(&mut self, group: GroupId, to: u64, marker: Bytes) {
        let ticket = self.ticket();
        let index = self.groups.entry(group).or_default();
        if index.purged.as_ref().is_some_and(|(purged, _)| *purged > to) {
            return;
        }
        index.purge(to, &mut self.usages);
        let mut control = index.purged.take().map(|(_, control)| control);
        replace(&mut control, Control::pending(marker.clone(), ticket), &mut self.usages);
        index.purged = control.map(|control| (to, control));
        self.push(group, Body::Purge { index: to, ticket, marker });
    }

    pub(crate) fn drop_group(&mut self, group: GroupId) {
        if let Some(mut index) = self.groups.remove(&group) {
            index.release(&mut self.usages);
            self.push(group, Body::Dropped);
        }
    }
}
