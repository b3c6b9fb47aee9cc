//! What is in the log, by group: where each entry stands, and the recent ones themselves.
//!
//! The index is ahead of the disk: it changes when something is handed in. An entry that is not written yet carries a
//! *ticket* in place of its position; the writer turns the ticket into a position, unless the entry was
//! truncated or replaced meanwhile.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use crate::GroupId;

/// Where an entry's data stands. 16 bytes: there is one for every entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The segment, or [`PENDING`].
    segment: u32,
    /// The offset in the segment; low half of the ticket while pending.
    offset: u32,
    len: u32,
    /// CRC32C of the data; high half of the ticket while pending.
    check: u32,
}

const PENDING: u32 = u32::MAX;

impl Place {
    pub(crate) fn written(segment: u32, offset: u32, data: &[u8]) -> Self {
        Self { segment, offset, len: data.len() as u32, check: crc32c::crc32c(data) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the ticket")]
    pub(crate) fn pending(ticket: u64, len: usize) -> Self {
        Self { segment: PENDING, offset: ticket as u32, len: len as u32, check: (ticket >> 32) as u32 }
    }

    fn ticket(self) -> Option<u64> {
        (self.segment == PENDING).then_some(u64::from(self.offset) | u64::from(self.check) << 32)
    }

    pub(crate) fn segment(self) -> Option<u32> {
        (self.segment != PENDING).then_some(self.segment)
    }

    pub(crate) fn offset(self) -> u64 {
        u64::from(self.offset)
    }

    pub(crate) fn len(self) -> usize {
        self.len as usize
    }

    /// Whether these are the bytes that were written.
    pub(crate) fn fits(self, data: &[u8]) -> bool {
        data.len() == self.len() && crc32c::crc32c(data) == self.check
    }
}

/// A vote, a committed index or a purge: the last one counts.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) data: Bytes,
    /// The segment of its record; `Err` with the ticket while it waits to be written.
    at: Result<u32, u64>,
}

/// What still counts in a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Size of the segment's file.
    capacity: u64,
}

/// Counts what still counts, by segment.
#[derive(Debug, Default)]
pub(crate) struct Usages(BTreeMap<u32, Usage>);

impl Usages {
    pub(crate) fn add_segment(&mut self, segment: u32, capacity: u64) {
        self.0.entry(segment).or_default().capacity = capacity;
    }

    pub(crate) fn remove_segment(&mut self, segment: u32) {
        self.0.remove(&segment);
    }

    pub(crate) fn segments(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn oldest(&self) -> Option<(u32, Usage)> {
        self.0.first_key_value().map(|(segment, usage)| (*segment, *usage))
    }

    /// The oldest segment that is needed: `current`, or an older one where something counts.
    pub(crate) fn first_needed(&self, current: u32) -> u32 {
        self.0
            .iter()
            .find(|(segment, usage)| usage.records > 0 || **segment >= current)
            .map_or(current, |(segment, _)| *segment)
    }

    /// Bytes that count in all segments.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.0.values().map(|usage| usage.bytes).sum()
    }

    /// Size of all segments.
    pub(crate) fn capacity(&self) -> u64 {
        self.0.values().map(|usage| usage.capacity).sum()
    }

    /// The segments where something counts: how many records and bytes.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> Vec<(u32, u64, u64)> {
        let used = self.0.iter().filter(|(_, usage)| usage.records > 0);
        used.map(|(segment, usage)| (*segment, usage.records, usage.bytes)).collect()
    }

    fn gain(&mut self, segment: Option<u32>, bytes: usize) {
        if let Some(segment) = segment {
            let usage = self.0.entry(segment).or_default();
            usage.records += 1;
            usage.bytes += bytes as u64;
        }
    }

    fn lose(&mut self, segment: Option<u32>, bytes: usize) {
        if let Some(usage) = segment.and_then(|segment| self.0.get_mut(&segment)) {
            usage.records = usage.records.saturating_sub(1);
            usage.bytes = usage.bytes.saturating_sub(bytes as u64);
        }
    }
}

/// One group's part of the index.
#[derive(Debug, Default)]
pub(crate) struct GroupIndex {
    /// Index of the first place.
    first: u64,
    places: VecDeque<Place>,
    /// The data of the last entries. Those that are not written yet are always here.
    recent: VecDeque<Bytes>,
    recent_bytes: usize,
    live_bytes: u64,
    pub(crate) vote: Option<Control>,
    pub(crate) committed: Option<Control>,
    pub(crate) purged: Option<(u64, Control)>,
    /// The committed index has to go with the next write.
    pub(crate) committed_waits: bool,
}

impl GroupIndex {
    /// Makes one from what recovery found; `Err` with the index that is missing.
    pub(crate) fn recovered(entries: BTreeMap<u64, Place>) -> Result<Self, u64> {
        let first = entries.first_key_value().map_or(0, |(index, _)| *index);
        let mut group = Self { first, ..Self::default() };
        for (index, place) in entries {
            if Some(index) != first.checked_add(group.places.len() as u64) {
                return Err(first.wrapping_add(group.places.len() as u64));
            }
            group.live_bytes += place.len() as u64;
            group.places.push_back(place);
        }
        Ok(group)
    }

    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        let count = self.places.len() as u64;
        (count > 0).then(|| (self.first, self.first + (count - 1)))
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, Place)> + '_ {
        self.places.iter().enumerate().map(|(at, place)| (self.first + at as u64, *place))
    }

    /// Whether entries may begin at `index`; `Err` with the one expected.
    pub(crate) fn may_append(&self, index: u64) -> Result<(), u64> {
        if let Some((_, last)) = self.bounds() {
            let expected = last.saturating_add(1);
            return if index == expected && index != u64::MAX { Ok(()) } else { Err(expected) };
        }
        let lowest = self.purged.as_ref().map_or(0, |(purged, _)| purged.saturating_add(1));
        if index >= lowest && index != u64::MAX { Ok(()) } else { Err(lowest) }
    }

    /// Adds an entry that [`GroupIndex::may_append`] allowed.
    pub(crate) fn append(&mut self, index: u64, ticket: u64, data: Bytes) {
        if self.places.is_empty() {
            self.first = index;
        }
        self.places.push_back(Place::pending(ticket, data.len()));
        self.live_bytes += data.len() as u64;
        self.recent_bytes += data.len();
        self.recent.push_back(data);
    }

    /// Lets go of the oldest recent entries above `limit` bytes; what is not written stays.
    pub(crate) fn trim(&mut self, limit: usize) {
        while self.recent_bytes > limit && self.recent.len() > 1 {
            let at = self.places.len() - self.recent.len();
            if self.places[at].segment().is_none() {
                break;
            }
            self.forget_oldest_recent();
        }
    }

    fn forget_oldest_recent(&mut self) {
        if let Some(data) = self.recent.pop_front() {
            self.recent_bytes -= data.len();
        }
    }

    /// An entry: its data when it is recent, and its place.
    pub(crate) fn entry(&self, index: u64) -> Option<(Option<&Bytes>, Place)> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let place = *self.places.get(at)?;
        let recent = (at + self.recent.len()).checked_sub(self.places.len());
        Some((recent.and_then(|at| self.recent.get(at)), place))
    }

    pub(crate) fn truncate(&mut self, index: u64, usages: &mut Usages) {
        while self.bounds().is_some_and(|(_, last)| last >= index) {
            if let Some(place) = self.places.pop_back() {
                self.live_bytes -= place.len() as u64;
                usages.lose(place.segment(), place.len());
            }
            if let Some(data) = self.recent.pop_back() {
                self.recent_bytes -= data.len();
            }
        }
    }

    pub(crate) fn purge(&mut self, index: u64, usages: &mut Usages) {
        while self.bounds().is_some_and(|(first, _)| first <= index) {
            if let Some(place) = self.places.pop_front() {
                self.live_bytes -= place.len() as u64;
                usages.lose(place.segment(), place.len());
            }
            self.first += 1;
            if self.recent.len() > self.places.len() {
                self.forget_oldest_recent();
            }
        }
    }

    /// The writer put the entry there. Returns whether it was still wanted.
    pub(crate) fn place_entry(&mut self, index: u64, ticket: u64, place: Place, usages: &mut Usages) {
        if let Some(slot) = self.slot(index)
            && slot.ticket() == Some(ticket)
        {
            *slot = place;
            usages.gain(place.segment(), place.len());
        }
    }

    /// The writer copied the entry forward.
    pub(crate) fn move_entry(&mut self, index: u64, from: Place, to: Place, usages: &mut Usages) {
        if let Some(slot) = self.slot(index)
            && *slot == from
        {
            *slot = to;
            usages.lose(from.segment(), from.len());
            usages.gain(to.segment(), to.len());
        }
    }

    fn slot(&mut self, index: u64) -> Option<&mut Place> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get_mut(at)
    }

    /// Lets go of everything.
    pub(crate) fn release(&mut self, usages: &mut Usages) {
        self.truncate(0, usages);
        let controls = [self.vote.take(), self.committed.take(), self.purged.take().map(|(_, control)| control)];
        for control in controls.into_iter().flatten() {
            usages.lose(control.segment(), control.data.len());
        }
    }
}

impl Control {
    pub(crate) fn written(data: Bytes, segment: u32) -> Self {
        Self { data, at: Ok(segment) }
    }

    pub(crate) fn pending(data: Bytes, ticket: u64) -> Self {
        Self { data, at: Err(ticket) }
    }

    pub(crate) fn segment(&self) -> Option<u32> {
        self.at.ok()
    }

    /// The ticket while it waits to be written.
    pub(crate) fn ticket(&self) -> Option<u64> {
        self.at.err()
    }

    /// The writer put the record there.
    pub(crate) fn place(&mut self, ticket: u64, segment: u32, usages: &mut Usages) {
        if self.at == Err(ticket) {
            self.at = Ok(segment);
            usages.gain(Some(segment), self.data.len());
        }
    }

    /// If its record stands in `from`: it is about to be written again.
    pub(crate) fn renew(&mut self, from: u32, ticket: u64, usages: &mut Usages) -> bool {
        if self.at != Ok(from) {
            return false;
        }
        usages.lose(Some(from), self.data.len());
        self.at = Err(ticket);
        true
    }
}

/// Replaces a control record by a newer one.
pub(crate) fn replace(slot: &mut Option<Control>, new: Control, usages: &mut Usages) {
    if let Some(old) = slot.replace(new) {
        usages.lose(old.segment(), old.data.len());
    }
}

/// Counts what recovery found.
pub(crate) fn count(groups: &HashMap<GroupId, GroupIndex>, usages: &mut Usages) {
    for group in groups.values() {
        for (_, place) in group.places() {
            usages.gain(place.segment(), place.len());
        }
        let purged = group.purged.as_ref().map(|(_, control)| control);
        for control in [group.vote.as_ref(), group.committed.as_ref(), purged].into_iter().flatten() {
            usages.gain(control.segment(), control.data.len());
        }
    }
}
