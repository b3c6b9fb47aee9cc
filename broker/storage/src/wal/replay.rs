//! A group while the log is read.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::GroupId;

use super::{
    WalError,
    index::{Control, GroupIndex, Place},
    record::Record,
    recovery::damaged,
};

/// A group while the log is read. The oldest entries may come last, as copies.
#[derive(Default)]
pub(crate) struct Replay {
    entries: BTreeMap<u64, Place>,
    vote: Option<Control>,
    committed: Option<Control>,
    purged: Option<(u64, Control)>,
}

impl Replay {
    #[expect(clippy::cast_possible_truncation, reason = "segments are below 4 GiB")]
    pub(crate) fn apply(&mut self, segment: u32, end: u64, record: Record<'_>) {
        let place = |data: &[u8]| Place::written(segment, (end - data.len() as u64) as u32, data);
        let control = |data: &[u8]| Control::written(Bytes::copy_from_slice(data), segment);
        let purged = self.purged.as_ref().map(|(index, _)| *index);
        match record {
            Record::Entry { index, data } => {
                self.entries.split_off(&index);
                if purged.is_none_or(|purged| index > purged) {
                    self.entries.insert(index, place(data));
                }
            }
            Record::Copied { index, data } => {
                if purged.is_none_or(|purged| index > purged) {
                    self.entries.insert(index, place(data));
                }
            }
            Record::Vote(data) => self.vote = Some(control(data)),
            Record::Committed(data) => self.committed = Some(control(data)),
            Record::Truncate(index) => drop(self.entries.split_off(&index)),
            Record::Purge { index, marker } => {
                if purged.is_none_or(|purged| index >= purged) {
                    self.purged = Some((index, control(marker)));
                    while self.entries.first_key_value().is_some_and(|(first, _)| *first <= index) {
                        self.entries.pop_first();
                    }
                }
            }
            // Handled where the groups are known.
            Record::Dropped => {}
        }
    }

    pub(crate) fn finish(self, group: GroupId, segment: u64) -> Result<GroupIndex, WalError> {
        let mut index = GroupIndex::recovered(self.entries)
            .map_err(|missing| damaged(segment, 0, &format!("entry {missing} of group {group} is missing")))?;
        index.vote = self.vote;
        index.committed = self.committed;
        index.purged = self.purged;
        Ok(index)
    }
}
