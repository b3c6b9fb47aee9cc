//! Segments and blocks on the disk.
//!
//! A segment is a file of fixed size. Its first page holds a [`SegmentHeader`], the blocks follow, each at the start of a
//! page. Two blocks never share a page: a write that is torn cannot hurt what was synced before it.
//!
//! A block says where it belongs (log, segment, offset, number), what came before it (checksum of the block before),
//! and up to which block everything had been synced when it was written. The header's first [`BLOCK_HEADER`] bytes
//! and their checksum keep this layout in every version, so that an older program can tell "newer" from "damaged".
//! All numbers are little-endian.

/// Blocks start at multiples of this: the unit that disks and page caches write at once.
pub(crate) const PAGE: u64 = 4096;
pub(crate) const SEGMENT_HEADER: usize = 68;
pub(crate) const BLOCK_HEADER: usize = 92;
pub(crate) const SEGMENT_FORMAT: u32 = 1;
pub(crate) const BLOCK_FORMAT: u16 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"RAFTMQWS";
const BLOCK_MAGIC: [u8; 4] = *b"RQWB";

/// The first page of a segment. It is synced before the file gets its name, and all of the segment before was
/// synced before that: a valid one proves that every block below `first_block` was synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Random, made with the log: content of another log is never taken for this one's.
    pub(crate) log_id: u128,
    /// The segment's number, also its file's name.
    pub(crate) segment: u64,
    /// The file's size.
    pub(crate) capacity: u64,
    /// Number of the first block.
    pub(crate) first_block: u64,
    /// How often the log had been opened.
    pub(crate) life: u64,
    /// Checksum of the header of the block before the first one.
    pub(crate) previous: u32,
}

/// Why a header was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Nothing was ever written here.
    Empty,
    /// Not what was written.
    Invalid(&'static str),
    /// Written by a newer version.
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = Put::<SEGMENT_HEADER>::new();
        out.bytes(&SEGMENT_MAGIC);
        out.bytes(&SEGMENT_FORMAT.to_le_bytes());
        out.bytes(&self.log_id.to_le_bytes());
        out.bytes(&self.segment.to_le_bytes());
        out.bytes(&self.capacity.to_le_bytes());
        out.bytes(&self.first_block.to_le_bytes());
        out.bytes(&self.life.to_le_bytes());
        out.bytes(&self.previous.to_le_bytes());
        out.checksum()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut get = Get::checked::<SEGMENT_HEADER>(bytes, &SEGMENT_MAGIC)?;
        let format = get.u32();
        if format != SEGMENT_FORMAT {
            return Err(HeaderError::Version(format));
        }
        Ok(Self {
            log_id: get.u128(),
            segment: get.u64(),
            capacity: get.u64(),
            first_block: get.u64(),
            life: get.u64(),
            previous: get.u32(),
        })
    }
}

/// What stands before the records of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// As in [`SegmentHeader`].
    pub(crate) log_id: u128,
    /// The segment that it was written to.
    pub(crate) segment: u64,
    /// Where in the segment.
    pub(crate) offset: u64,
    /// How often the log had been opened.
    pub(crate) life: u64,
    /// Its number in the log, from 1, without gaps.
    pub(crate) block: u64,
    /// All blocks up to this one had been synced when this one was written.
    pub(crate) synced: u64,
    /// Segments below this one were not needed any more.
    pub(crate) first_segment: u64,
    /// Checksum of the header of the block before.
    pub(crate) previous: u32,
    /// Length of the records in bytes.
    pub(crate) body_len: u32,
    /// How many records.
    pub(crate) records: u32,
    /// Checksum of the records.
    pub(crate) body_crc: u32,
}

impl BlockHeader {
    pub(crate) fn encode(&self) -> [u8; BLOCK_HEADER] {
        let mut out = Put::<BLOCK_HEADER>::new();
        out.bytes(&BLOCK_MAGIC);
        out.bytes(&BLOCK_FORMAT.to_le_bytes());
        out.bytes(&[0, 0]);
        out.bytes(&self.log_id.to_le_bytes());
        out.bytes(&self.segment.to_le_bytes());
        out.bytes(&self.offset.to_le_bytes());
        out.bytes(&self.life.to_le_bytes());
        out.bytes(&self.block.to_le_bytes());
        out.bytes(&self.synced.to_le_bytes());
        out.bytes(&self.first_segment.to_le_bytes());
        out.bytes(&self.previous.to_le_bytes());
        out.bytes(&self.body_len.to_le_bytes());
        out.bytes(&self.records.to_le_bytes());
        out.bytes(&self.body_crc.to_le_bytes());
        out.checksum()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut get = Get::checked::<BLOCK_HEADER>(bytes, &BLOCK_MAGIC)?;
        let format = get.u16();
        if format != BLOCK_FORMAT {
            return Err(HeaderError::Version(u32::from(format)));
        }
        get.u16();
        Ok(Self {
            log_id: get.u128(),
            segment: get.u64(),
            offset: get.u64(),
            life: get.u64(),
            block: get.u64(),
            synced: get.u64(),
            first_segment: get.u64(),
            previous: get.u32(),
            body_len: get.u32(),
            records: get.u32(),
            body_crc: get.u32(),
        })
    }

    /// Where the next block starts.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(block_bytes(self.body_len as usize))
    }
}

/// What a block takes on the disk.
pub(crate) fn block_bytes(body: usize) -> u64 {
    (BLOCK_HEADER as u64 + body as u64).next_multiple_of(PAGE)
}

/// The checksum at the end of an encoded header.
pub(crate) fn header_checksum(header: &[u8]) -> u32 {
    header.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The name of a segment's file.
pub(crate) fn segment_name(segment: u32) -> String {
    format!("{segment:08x}.wal")
}

/// The segment that a file name stands for.
pub(crate) fn parse_segment_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".wal")?;
    let segment = u32::from_str_radix(digits, 16).ok()?;
    (segment_name(segment) == name).then_some(segment)
}

/// Fills a header of `N` bytes; its last four are the checksum of the others.
pub(crate) struct Put<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Put<N> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(crate) fn checksum(mut self) -> [u8; N] {
        debug_assert_eq!(self.at, N - 4, "a header is filled to its checksum");
        let crc = crc32c::crc32c(&self.bytes[..N - 4]);
        self.bytes[N - 4..].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

/// Reads a header whose length and checksum have been looked at.
pub(crate) struct Get<'a> {
    rest: &'a [u8],
}

impl<'a> Get<'a> {
    pub(crate) fn checked<const N: usize>(bytes: &'a [u8], magic: &[u8]) -> Result<Self, HeaderError> {
        let Some(header) = bytes.first_chunk::<N>() else {
            return Err(HeaderError::Invalid("the file ends"));
        };
        if header.iter().all(|byte| *byte == 0) {
            return Err(HeaderError::Empty);
        }
        let Some(rest) = header.strip_prefix(magic) else {
            return Err(HeaderError::Invalid("no header"));
        };
        if crc32c::crc32c(&header[..N - 4]) != header_checksum(header) {
            return Err(HeaderError::Invalid("the header's checksum does not fit"));
        }
        Ok(Self { rest })
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.rest.split_first_chunk().expect("fields fit the length that was checked");
        self.rest = rest;
        *head
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(crate) fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers_come_back() {
        let segment = SegmentHeader {
            log_id: 7 << 100,
            segment: 3,
            capacity: 1 << 26,
            first_block: 99,
            life: 4,
            previous: 0xdead,
        };
        assert_eq!(SegmentHeader::decode(&segment.encode()).unwrap(), segment);
        let block = BlockHeader {
            log_id: 7 << 100,
            segment: 3,
            offset: 8192,
            life: 4,
            block: 100,
            synced: 98,
            first_segment: 2,
            previous: 0xbeef,
            body_len: 5000,
            records: 12,
            body_crc: 1,
        };
        assert_eq!(BlockHeader::decode(&block.encode()).unwrap(), block);
        assert_eq!(block.end(), 8192 + 8192);
    }

    #[test]
    fn an_empty_page_a_short_one_and_a_newer_format_are_told_apart() {
        assert_eq!(BlockHeader::decode(&[0; 4096]), Err(HeaderError::Empty));
        assert!(matches!(BlockHeader::decode(&[1; 10]), Err(HeaderError::Invalid(_))));
        let mut newer = Put::<BLOCK_HEADER>::new();
        newer.bytes(&BLOCK_MAGIC);
        newer.bytes(&9u16.to_le_bytes());
        newer.bytes(&[0; BLOCK_HEADER - 4 - 2 - 4]);
        assert_eq!(BlockHeader::decode(&newer.checksum()), Err(HeaderError::Version(9)));
    }

    #[test]
    fn only_names_that_were_made_here_are_segments() {
        for (name, segment) in [
            ("00000001.wal", Some(1)),
            ("000000ff.wal", Some(255)),
            ("000000FF.wal", None),
            ("1.wal", None),
            ("00000001.new", None),
            ("+0000001.wal", None),
            ("lock", None),
        ] {
            assert_eq!(parse_segment_name(name), segment, "{name}");
        }
    }
}
