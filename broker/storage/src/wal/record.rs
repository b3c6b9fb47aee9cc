//! What stands in a block: records of the groups.
//!
//! A record is kind (1 byte), format of the kind (1), group number and generation (4 + 4), length (4) and payload.

use bytes::Bytes;

use crate::GroupId;

use super::format::HeaderError;

/// What stands before a record's payload.
pub(crate) const RECORD_HEADER: usize = 14;
/// The index before an entry's data.
pub(crate) const INDEX: usize = 8;
const FORMAT: u8 = 1;

/// A record, its bytes borrowed from the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// An entry; entries from its index on are replaced.
    Entry {
        index: u64,
        data: &'a [u8],
    },
    /// An entry that was copied forward from an old segment; others stay.
    Copied {
        index: u64,
        data: &'a [u8],
    },
    Vote(&'a [u8]),
    Committed(&'a [u8]),
    /// Entries from this index on are gone.
    Truncate(u64),
    /// Entries up to this index are gone.
    Purge {
        index: u64,
        marker: &'a [u8],
    },
    /// All of the group is gone.
    Dropped,
}

/// Length of a record in a block.
pub(crate) fn encoded_len(record: &Record<'_>) -> usize {
    RECORD_HEADER
        + match record {
            Record::Entry { data, .. } | Record::Copied { data, .. } => INDEX + data.len(),
            Record::Vote(data) | Record::Committed(data) => data.len(),
            Record::Truncate(_) => INDEX,
            Record::Purge { marker, .. } => INDEX + marker.len(),
            Record::Dropped => 0,
        }
}

/// Adds a record to a block's body.
pub(crate) fn encode(group: GroupId, record: &Record<'_>, out: &mut Vec<u8>) {
    let (kind, index, data): (u8, Option<u64>, &[u8]) = match *record {
        Record::Entry { index, data } => (1, Some(index), data),
        Record::Copied { index, data } => (2, Some(index), data),
        Record::Vote(data) => (3, None, data),
        Record::Committed(data) => (4, None, data),
        Record::Truncate(index) => (5, Some(index), &[]),
        Record::Purge { index, marker } => (6, Some(index), marker),
        Record::Dropped => (7, None, &[]),
    };
    let len =
        u32::try_from(encoded_len(record) - RECORD_HEADER).expect("a record fits a segment, which is under 4 GiB");
    out.extend_from_slice(&[kind, FORMAT]);
    out.extend_from_slice(&group.number.to_le_bytes());
    out.extend_from_slice(&group.generation.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    if let Some(index) = index {
        out.extend_from_slice(&index.to_le_bytes());
    }
    out.extend_from_slice(data);
}

/// Reads the record at the start of `body`; returns it, its group, and its length.
pub(crate) fn decode(body: &[u8]) -> Result<(GroupId, Record<'_>, usize), HeaderError> {
    let short = HeaderError::Invalid("a record is longer than its block");
    let Some((head, rest)) = body.split_first_chunk::<RECORD_HEADER>() else {
        return Err(short);
    };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if head[1] != FORMAT {
        return Err(HeaderError::Version(u32::from(head[1])));
    }
    let group = GroupId::new(word(2), word(6));
    let len = word(10) as usize;
    let payload = rest.get(..len).ok_or(short)?;
    let indexed = || {
        payload
            .split_first_chunk::<INDEX>()
            .map(|(index, data)| (u64::from_le_bytes(*index), data))
            .ok_or(HeaderError::Invalid("a record is too short"))
    };
    let record = match head[0] {
        1 => indexed().map(|(index, data)| Record::Entry { index, data })?,
        2 => indexed().map(|(index, data)| Record::Copied { index, data })?,
        3 => Record::Vote(payload),
        4 => Record::Committed(payload),
        5 => Record::Truncate(indexed()?.0),
        6 => indexed().map(|(index, marker)| Record::Purge { index, marker })?,
        7 => Record::Dropped,
        // A kind that this version does not know was written by a newer one: the checksum did fit.
        kind => return Err(HeaderError::Version(u32::from(kind))),
    };
    Ok((group, record, RECORD_HEADER + len))
}

/// What waits to be written. Owns its bytes; tickets tell the index which write placed what.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) group: GroupId,
    pub(crate) body: Body,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Entry { index: u64, ticket: u64, data: Bytes },
    Copied { index: u64, from: super::index::Place, data: Bytes },
    Vote { ticket: u64, data: Bytes },
    Committed { ticket: u64, data: Bytes },
    Truncate(u64),
    Purge { index: u64, ticket: u64, marker: Bytes },
    Dropped,
}

impl Item {
    pub(crate) fn record(&self) -> Record<'_> {
        match &self.body {
            Body::Entry { index, data, .. } => Record::Entry { index: *index, data },
            Body::Copied { index, data, .. } => Record::Copied { index: *index, data },
            Body::Vote { data, .. } => Record::Vote(data),
            Body::Committed { data, .. } => Record::Committed(data),
            Body::Truncate(index) => Record::Truncate(*index),
            Body::Purge { index, marker, .. } => Record::Purge { index: *index, marker },
            Body::Dropped => Record::Dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_come_back() {
        let group = GroupId::new(7, 2);
        let records = [
            Record::Entry { index: 5, data: b"five" },
            Record::Copied { index: u64::MAX, data: b"" },
            Record::Vote(b"vote"),
            Record::Committed(b""),
            Record::Truncate(9),
            Record::Purge { index: 3, marker: b"marker" },
            Record::Dropped,
        ];
        let mut body = Vec::new();
        for record in &records {
            let before = body.len();
            encode(group, record, &mut body);
            assert_eq!(body.len() - before, encoded_len(record));
        }
        let mut rest = &body[..];
        for record in &records {
            let (found, decoded, len) = decode(rest).unwrap();
            assert_eq!((found, &decoded), (group, record));
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }
}
