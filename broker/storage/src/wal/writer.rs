//! The writer: one thread that writes what was handed in and syncs it. One sync serves everything that waits.

use std::{
    mem,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::DirLock;

use super::{
    Callback, WalError,
    appender::{Appender, Placed, failed},
    format::segment_name,
    index::Place,
    mark::MarkFile,
    pace::Pace,
    record::{Body, Item},
    recovery::damaged,
    shared::{Batch, Shared, State},
};

/// What is copied forward in one batch at most: appends must not wait long behind it.
const COPY_BYTES: usize = 4 << 20;
/// How long the log is idle before the mark is synced.
const MARK_AFTER: Duration = Duration::from_millis(100);
/// How often free space is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// With room left for fewer segments than this, until entries are refused, the log gives up what it can.
const SHORT_SEGMENTS: u64 = 2;

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lock: Option<DirLock>,
    pub(crate) end: Appender,
    pub(crate) mark: MarkFile,
    pub(crate) pace: Pace,
    pub(crate) space_seen: Instant,
    /// There is upkeep to do without waiting for a record.
    pub(crate) again: bool,
}

/// What one sync is for.
struct Work {
    batch: Batch,
    /// Entries to be copied forward; their data is still to be read.
    copies: Vec<(Item, Place)>,
    /// Segments below this one are not needed when the batch is on the disk.
    first_needed: u32,
}

impl Writer {
    /// Notes on the disk that the log is open, before anything is handed in.
    pub(crate) fn begin(&mut self) -> Result<(), WalError> {
        self.look_at_space();
        self.mark.note(self.end.synced, u64::from(self.end.tail.segment), false).map_err(failed("writing the mark"))?;
        self.sync_mark()
    }

    /// The thread.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut guard = PanicGuard { shared: &shared, armed: true };
        let mut waiting = Vec::new();
        if let Err(error) = self.work(&mut waiting) {
            tracing::error!(%error, "the write-ahead log failed");
            shared.fail(&error, waiting);
        }
        shared.room.close();
        // The lock goes last: whoever opens the directory next finds all of it written.
        drop(self.lock.take());
        guard.armed = false;
    }

    /// Works until the log is closed. On an error, `waiting` are those whose records are in doubt.
    fn work(&mut self, waiting: &mut Vec<Callback>) -> Result<(), WalError> {
        while let Some(mut work) = self.next_work()? {
            *waiting = mem::take(&mut work.batch.callbacks);
            self.write(work, waiting.len())?;
            waiting.drain(..).for_each(|callback| callback(Ok(())));
        }
        self.note(true)?;
        self.sync_mark()
    }

    /// Waits for something to write; `None` when the log is closed and all is written.
    fn next_work(&mut self) -> Result<Option<Work>, WalError> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let since = Instant::now();
        while !state.queue.urgent && !state.closing && !self.again {
            let limit = if self.mark.is_synced() { SPACE_EVERY } else { MARK_AFTER };
            let timed_out;
            (state, timed_out) = wait(&shared, state, limit);
            if timed_out && !state.queue.urgent && !state.closing {
                drop(state);
                self.idle()?;
                state = shared.lock();
            }
        }
        self.pace.idled(since.elapsed());
        if let Some((limit, waiters)) = self.pace.linger(shared.options.max_linger) {
            let until = Instant::now() + limit;
            while !state.closing && state.queue.callbacks.len() < waiters {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = wait(&shared, state, left).0;
            }
        }
        let waits = |state: &State| state.groups.values().any(|group| group.committed_waits);
        if state.closing && !state.queue.urgent && !waits(&state) {
            return Ok(None);
        }
        self.again = false;
        Ok(Some(self.take(&mut state)))
    }

    /// Takes what waits, and what has to be copied forward. Copies stand behind all that was handed in before, so that
    /// the log on the disk never tells of something before it happened; and what is not needed any more is asked at the same
    /// moment, so that every record that made it needless is in this batch or before.
    fn take(&mut self, state: &mut State) -> Work {
        let mut batch = mem::take(&mut state.queue);
        for (id, group) in &mut state.groups {
            if mem::take(&mut group.committed_waits)
                && let Some(committed) = &group.committed
                && let Some(ticket) = committed.ticket()
            {
                let body = Body::Committed { ticket, data: committed.data.clone() };
                batch.items.push(Item { group: *id, body });
            }
        }
        let current = self.end.tail.segment;
        let mut copies = Vec::new();
        if let Some(oldest) = state.to_copy(current, &self.shared.options) {
            copies = take_copies(state, oldest, &mut batch);
            self.again = !copies.is_empty();
        }
        Work { batch, copies, first_needed: state.usages.first_needed(current) }
    }

    fn write(&mut self, work: Work, waiters: usize) -> Result<(), WalError> {
        let Work { mut batch, copies, first_needed } = work;
        self.shared.counters.copied.fetch_add(copies.len() as u64, Relaxed);
        for (mut item, place) in copies {
            if let Body::Copied { data, .. } = &mut item.body {
                *data = self.read_back(place)?;
            }
            batch.items.push(item);
        }
        let before = self.end.tail.segment;
        let placed = self.end.write(&batch.items, first_needed)?;
        let started = Instant::now();
        self.end.sync()?;
        self.pace.synced(waiters, started.elapsed());
        if self.mark.segment() != u64::from(self.end.tail.segment) {
            // From now on a missing newest segment is noticed.
            self.note(false)?;
            self.sync_mark()?;
        }
        self.settle(&batch.items, &placed);
        // Room for the next callers before they are told.
        drop(batch);
        let removed = self.remove_below(first_needed)?;
        if self.space_seen.elapsed() > SPACE_EVERY || before != self.end.tail.segment || removed {
            self.look_at_space();
        }
        let state = self.shared.lock();
        self.again |= state.usages.first_needed(self.end.tail.segment) > self.end.first_segment;
        let idle = !state.queue.urgent && !self.again;
        drop(state);
        if idle { self.note(false) } else { Ok(()) }
    }

    /// Tells the index where everything is.
    fn settle(&self, items: &[Item], placed: &[Placed]) {
        let mut entries = 0;
        let mut state = self.shared.lock();
        let state = &mut *state;
        for (item, placed) in items.iter().zip(placed) {
            let Some(group) = state.groups.get_mut(&item.group) else {
                continue;
            };
            let usages = &mut state.usages;
            match &item.body {
                Body::Entry { index, ticket, data } => {
                    entries += 1;
                    let place = Place::written(placed.segment, placed.offset, data);
                    group.place_entry(*index, *ticket, place, usages);
                }
                Body::Copied { index, from, data } => {
                    let place = Place::written(placed.segment, placed.offset, data);
                    group.move_entry(*index, *from, place, usages);
                }
                Body::Vote { ticket, .. } => {
                    if let Some(vote) = &mut group.vote {
                        vote.place(*ticket, placed.segment, usages);
                    }
                }
                Body::Committed { ticket, .. } => {
                    if let Some(committed) = &mut group.committed {
                        committed.place(*ticket, placed.segment, usages);
                    }
                }
                Body::Purge { ticket, .. } => {
                    if let Some((_, purged)) = &mut group.purged {
                        purged.place(*ticket, placed.segment, usages);
                    }
                }
                Body::Truncate(_) | Body::Dropped => {}
            }
        }
        let share = self.shared.options.cache_bytes / state.groups.len().max(1);
        for group in state.groups.values_mut() {
            group.trim(share);
        }
        self.shared.counters.entries.fetch_add(entries, Relaxed);
    }

    /// Removes the segments that the blocks on the disk call needless, the oldest first. Whether there were some.
    fn remove_below(&mut self, first_needed: u32) -> Result<bool, WalError> {
        let mut removed = false;
        loop {
            let mut state = self.shared.lock();
            let Some((oldest, _)) = state.usages.oldest().filter(|(oldest, _)| *oldest < first_needed) else {
                return Ok(removed);
            };
            state.usages.remove_segment(oldest);
            state.files.remove(&oldest);
            drop(state);
            self.end.disk.remove(&segment_name(oldest)).map_err(failed("removing a segment"))?;
            removed = true;
        }
    }

    fn read_back(&self, place: Place) -> Result<Bytes, WalError> {
        let segment = place.segment().unwrap_or_default();
        let file = self.shared.lock().files.get(&segment).cloned();
        let Some(file) = file else {
            return Err(damaged(u64::from(segment), place.offset(), "the segment of an entry is gone"));
        };
        let mut data = vec![0; place.len()];
        let len = file.read_at(&mut data, place.offset()).map_err(failed("reading an entry to copy it"))?;
        if !place.fits(&data[..len]) {
            return Err(damaged(
                u64::from(segment),
                place.offset(),
                "the checksum of an entry to be copied does not fit",
            ));
        }
        Ok(data.into())
    }

    /// Nothing to do for a moment.
    fn idle(&mut self) -> Result<(), WalError> {
        self.sync_mark()?;
        if self.space_seen.elapsed() >= SPACE_EVERY {
            self.look_at_space();
            // Nobody writes to a log that takes nothing.
            let state = self.shared.lock();
            self.again |= state.to_copy(self.end.tail.segment, &self.shared.options).is_some();
        }
        Ok(())
    }

    /// Looks at the free space, and decides whether entries are taken.
    pub(crate) fn look_at_space(&mut self) {
        self.space_seen = Instant::now();
        let needed = self.shared.options.min_free_bytes;
        let short = needed.saturating_add(self.shared.options.segment_bytes.saturating_mul(SHORT_SEGMENTS));
        let free = match self.end.disk.free_bytes() {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "the free space of the log's disk is not known");
                return;
            }
        };
        let mut state = self.shared.lock();
        let was = state.disk_full.is_some();
        // Some more must be free to go on than to stop, so that it does not flap.
        let limit = if was { needed.saturating_add(needed / 8) } else { needed };
        state.disk_full = (free < limit).then_some(free);
        state.short = (free < short).then_some(free);
        let is = state.disk_full.is_some();
        drop(state);
        if is != was {
            tracing::warn!(free, needed, refused = is, "free space of the log's disk");
        }
        if !is {
            self.end.ballast.restore(&*self.end.disk, free, needed);
        }
    }

    fn note(&mut self, clean: bool) -> Result<(), WalError> {
        if clean || self.mark.noted() != self.end.synced || self.mark.segment() != u64::from(self.end.tail.segment) {
            self.mark
                .note(self.end.synced, u64::from(self.end.tail.segment), clean)
                .map_err(failed("writing the mark"))?;
        }
        Ok(())
    }

    fn sync_mark(&mut self) -> Result<(), WalError> {
        self.mark.sync().map_err(failed("syncing the mark"))
    }
}

fn take_copies(state: &mut State, oldest: u32, batch: &mut Batch) -> Vec<(Item, Place)> {
    let mut copies = Vec::new();
    let mut bytes = 0;
    let ids: Vec<_> = state.groups.keys().copied().collect();
    for id in ids {
        let tickets = [state.ticket(), state.ticket(), state.ticket()];
        let Some(group) = state.groups.get_mut(&id) else {
            continue;
        };
        let usages = &mut state.usages;
        let mut push = |body| batch.items.push(Item { group: id, body });
        if let Some(vote) = &mut group.vote
            && vote.renew(oldest, tickets[0], usages)
        {
            push(Body::Vote { ticket: tickets[0], data: vote.data.clone() });
        }
        if let Some(committed) = &mut group.committed
            && committed.renew(oldest, tickets[1], usages)
        {
            push(Body::Committed { ticket: tickets[1], data: committed.data.clone() });
        }
        if let Some((index, marker)) = &mut group.purged
            && marker.renew(oldest, tickets[2], usages)
        {
            push(Body::Purge { index: *index, ticket: tickets[2], marker: marker.data.clone() });
        }
        for (index, place) in group.places().filter(|(_, place)| place.segment() == Some(oldest)) {
            if bytes >= COPY_BYTES {
                return copies;
            }
            bytes += place.len();
            let body = Body::Copied { index, from: place, data: Bytes::new() };
            copies.push((Item { group: id, body }, place));
        }
    }
    copies
}

fn wait<'a>(shared: &Shared, state: MutexGuard<'a, State>, limit: Duration) -> (MutexGuard<'a, State>, bool) {
    let (state, result) = shared.wake.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner);
    (state, result.timed_out())
}

/// A callback that panics takes the thread with it: then everybody else must hear that the log is gone.
struct PanicGuard<'a> {
    shared: &'a Shared,
    armed: bool,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if self.armed {
            let error = failed("writing the log")(std::io::Error::other("the writer's thread panicked"));
            self.shared.fail(&error, Vec::<Callback>::new());
        }
    }
}
