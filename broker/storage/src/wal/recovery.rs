//! Reading the log when it is opened: what counts, what is a torn tail, what is damage.
//!
//! Blocks are read in order. The first place without the block that should follow is the end of the log, *or* damage. It is damage
//! when anything proves that the missing block had been synced:
//! - a later segment: its header is written only when all of the segment before is synced;
//! - the header of any later block of this segment (found on page boundaries, its own checksum fitting) that says so
//!   in `synced`; that block's records need not be whole;
//! - the mark (see [`super::mark`]).
//!
//! Otherwise nothing from there on was acknowledged: it is zeroed and reported.
//!
//! What this cannot see: damage of the very last synced blocks, after a crash within the moment (some 100 ms) in which
//! neither a further block nor the synced mark followed. And a whole directory copied back from earlier, which is what boot
//! counters are for.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use crate::GroupId;

use super::{
    RecoveryReport, WalError,
    disk::{Disk, DiskFile},
    format::{
        BLOCK_FORMAT, BLOCK_HEADER, BlockHeader, HeaderError, PAGE, SEGMENT_FORMAT, SEGMENT_HEADER, SegmentHeader,
        header_checksum, parse_segment_name, segment_name,
    },
    index::GroupIndex,
    mark::Mark,
    record::{self, Record},
    replay::Replay,
};

/// Bytes read at once when looking for what stands after the end.
const SCAN: usize = 1 << 20;

/// What the log was when it was opened.
pub(crate) struct Recovered {
    pub(crate) log_id: u128,
    /// How often it has been opened, this time included.
    pub(crate) life: u64,
    pub(crate) groups: HashMap<GroupId, GroupIndex>,
    pub(crate) files: BTreeMap<u32, Arc<dyn DiskFile>>,
    /// Where writing goes on.
    pub(crate) tail: Tail,
    pub(crate) first_segment: u64,
    pub(crate) mark: Mark,
    pub(crate) report: RecoveryReport,
}

/// The end of the log.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) capacity: u64,
    pub(crate) next_block: u64,
    pub(crate) previous: u32,
}

/// Reads the log; `None` when there is none yet.
pub(crate) fn recover(disk: &dyn Disk) -> Result<Option<Recovered>, WalError> {
    let names = disk.list().map_err(io_error("listing the log's directory"))?;
    for name in names.iter().filter(|name| name.ends_with(".new")) {
        // A segment that never got its name holds nothing.
        disk.remove(name).map_err(io_error("removing an unfinished segment"))?;
    }
    // What is seen now may be known to the page cache only; from here on it is relied on.
    disk.sync_dir().map_err(io_error("syncing the log's directory"))?;
    let mark = Mark::read(disk).map_err(io_error("reading the mark"))?;
    let mut segments: Vec<u32> = names.iter().filter_map(|name| parse_segment_name(name)).collect();
    segments.sort_unstable();
    let Some(newest) = segments.last().copied() else {
        return match mark {
            Some(mark) => Err(damaged(mark.segment, 0, "no segment is there, but the mark knows of one")),
            None => Ok(None),
        };
    };
    if let Some(mark) = &mark
        && mark.segment > u64::from(newest)
    {
        return Err(damaged(mark.segment, 0, "the segment is missing: the mark knows of it"));
    }
    // Removal goes from the oldest on but need not reach the disk in that order: what stands before a gap may be a
    // leftover. Whether all that is needed is here is checked below.
    let run = segments.windows(2).rposition(|pair| pair[0] + 1 != pair[1]).map_or(0, |at| at + 1);
    let mut scan = Scan::default();
    for segment in &segments[run..] {
        scan.open_segment(disk, *segment)?;
    }
    for segment in &segments[run..] {
        scan.read_segment(*segment, mark.as_ref())?;
    }
    if u64::from(segments[run]) > scan.first_segment {
        return Err(damaged(
            scan.first_segment,
            0,
            "the segment is missing, and the last block says that it is needed",
        ));
    }
    for leftover in &segments[..run] {
        disk.remove(&segment_name(*leftover)).map_err(io_error("removing a segment that is not needed"))?;
    }
    scan.finish(newest, mark).map(Some)
}

#[derive(Default)]
struct Scan {
    headers: BTreeMap<u32, SegmentHeader>,
    files: BTreeMap<u32, Arc<dyn DiskFile>>,
    groups: HashMap<GroupId, Replay>,
    life: u64,
    /// What the last block said.
    first_segment: u64,
    tail: Option<Tail>,
    report: RecoveryReport,
}

impl Scan {
    fn open_segment(&mut self, disk: &dyn Disk, segment: u32) -> Result<(), WalError> {
        let number = u64::from(segment);
        let file = disk.open(&segment_name(segment)).map_err(io_error("opening a segment"))?;
        let mut page = [0; SEGMENT_HEADER];
        let len = file.read_at(&mut page, 0).map_err(io_error("reading a segment's header"))?;
        let header = SegmentHeader::decode(&page[..len]).map_err(|error| match error {
            // A segment gets its name when its header is on the disk: there is no such thing as a torn one.
            HeaderError::Empty => damaged(number, 0, "the segment's header is gone"),
            HeaderError::Invalid(reason) => damaged(number, 0, &format!("the segment's header: {reason}")),
            HeaderError::Version(found) => {
                WalError::Unsupported { segment: number, offset: 0, what: "a segment", found, known: SEGMENT_FORMAT }
            }
        })?;
        if header.segment != number {
            return Err(damaged(number, 0, &format!("the file holds segment {}", header.segment)));
        }
        if self.headers.values().next().is_some_and(|first| first.log_id != header.log_id) {
            return Err(damaged(number, 0, "the file is of another log"));
        }
        self.headers.insert(segment, header);
        self.files.insert(segment, file);
        Ok(())
    }

    fn read_segment(&mut self, segment: u32, mark: Option<&Mark>) -> Result<(), WalError> {
        let number = u64::from(segment);
        let (Some(header), Some(file)) = (self.headers.get(&segment).cloned(), self.files.get(&segment).cloned())
        else {
            return Err(damaged(number, 0, "the segment was not opened"));
        };
        match &self.tail {
            None => self.first_segment = self.first_segment.max(1),
            Some(tail) if tail.next_block == header.first_block && tail.previous == header.previous => {}
            Some(tail) => {
                return Err(damaged(
                    u64::from(tail.segment),
                    tail.offset,
                    &format!(
                        "block {} is missing: segment {number} begins with block {} and was made when all before it was synced",
                        tail.next_block, header.first_block
                    ),
                ));
            }
        }
        self.report.segments += 1;
        self.life = self.life.max(header.life);
        let mut tail = Tail {
            segment,
            offset: PAGE,
            capacity: header.capacity,
            next_block: header.first_block,
            previous: header.previous,
        };
        let mut block = Vec::new();
        let reason = loop {
            match read_block(&*file, &header, &tail, &mut block)? {
                Ok(found) => {
                    self.apply(segment, &found, &block[BLOCK_HEADER..])?;
                    self.life = self.life.max(found.life);
                    self.first_segment = found.first_segment;
                    self.report.blocks += 1;
                    tail.offset = found.end();
                    tail.next_block += 1;
                    tail.previous = header_checksum(&block[..BLOCK_HEADER]);
                }
                Err(reason) => break reason,
            }
        };
        if self.headers.keys().next_back() == Some(&segment) {
            self.end(&*file, &header, &tail, reason, mark)?;
        }
        self.tail = Some(tail);
        Ok(())
    }

    /// Decides whether the log ends here, and clears what stands behind the end.
    fn end(
        &mut self,
        file: &dyn DiskFile,
        header: &SegmentHeader,
        tail: &Tail,
        reason: String,
        mark: Option<&Mark>,
    ) -> Result<(), WalError> {
        let missing = |proof: &str| {
            damaged(header.segment, tail.offset, &format!("block {}: {reason}; {proof}", tail.next_block))
        };
        if let Some(mark) = mark {
            if mark.log_id != header.log_id {
                return Err(damaged(header.segment, 0, "the mark is of another log"));
            }
            if mark.synced >= tail.next_block {
                return Err(missing(&format!("the mark says that all up to block {} was synced", mark.synced)));
            }
        }
        let len = file.len().map_err(io_error("looking at a segment"))?;
        let mut written_to = tail.offset;
        let mut buffer = vec![0; SCAN];
        let mut at = tail.offset;
        while at < len {
            let count = file.read_at(&mut buffer, at).map_err(io_error("reading behind the log's end"))?;
            if count == 0 {
                break;
            }
            for (page_at, page) in (at..).step_by(PAGE as usize).zip(buffer[..count].chunks(PAGE as usize)) {
                if page.iter().any(|byte| *byte != 0) {
                    written_to = page_at + page.len() as u64;
                }
                if let Ok(found) = BlockHeader::decode(page)
                    && (found.log_id, found.segment, found.offset) == (header.log_id, header.segment, page_at)
                    && found.synced >= tail.next_block
                {
                    return Err(missing(&format!(
                        "the block at {page_at} says that all up to block {} was synced",
                        found.synced
                    )));
                }
            }
            at += count as u64;
        }
        self.report.torn_bytes = written_to - tail.offset;
        self.report.torn_reason = (written_to > tail.offset).then_some(reason);
        // Zeroed, so that nothing of it can be met again behind what is written next.
        buffer.fill(0);
        let mut at = tail.offset;
        while at < written_to {
            let count = (written_to - at).min(SCAN as u64);
            file.write_at(&buffer[..count as usize], at).map_err(io_error("zeroing the torn end"))?;
            at += count;
        }
        if len < header.capacity {
            file.allocate(header.capacity).map_err(io_error("reserving a segment again"))?;
        }
        // What is read now may stand in the page cache only.
        file.sync_all().map_err(io_error("syncing the log's end"))
    }

    fn apply(&mut self, segment: u32, block: &BlockHeader, body: &[u8]) -> Result<(), WalError> {
        let mut rest = body;
        for _ in 0..block.records {
            let at = (body.len() - rest.len()) as u64;
            let (group, record, len) = record::decode(rest).map_err(|error| match error {
                HeaderError::Version(found) => WalError::Unsupported {
                    segment: block.segment,
                    offset: block.offset + at,
                    what: "a record",
                    found,
                    known: 1,
                },
                HeaderError::Invalid(reason) => damaged(block.segment, block.offset + at, reason),
                HeaderError::Empty => damaged(block.segment, block.offset + at, "an empty record"),
            })?;
            // Data always stands at the end of its record.
            let end = block.offset + BLOCK_HEADER as u64 + at + len as u64;
            self.report.records += 1;
            match record {
                Record::Dropped => drop(self.groups.remove(&group)),
                record => self.groups.entry(group).or_default().apply(segment, end, record),
            }
            rest = &rest[len..];
        }
        if rest.is_empty() { Ok(()) } else { Err(damaged(block.segment, block.offset, "bytes behind the last record")) }
    }

    fn finish(mut self, newest: u32, mark: Option<Mark>) -> Result<Recovered, WalError> {
        let (Some(tail), Some(header)) = (self.tail, self.headers.get(&newest)) else {
            return Err(damaged(u64::from(newest), 0, "no segment was read"));
        };
        let mut groups = HashMap::new();
        for (id, replay) in self.groups {
            groups.insert(id, replay.finish(id, u64::from(newest))?);
        }
        self.report.groups = groups.keys().copied().collect();
        self.report.groups.sort_unstable();
        self.report.clean = mark.as_ref().is_some_and(|mark| mark.clean && mark.synced + 1 == tail.next_block);
        let life = self.life.max(mark.as_ref().map_or(0, |mark| mark.life)) + 1;
        let mark = Mark { log_id: header.log_id, life, clean: false, ..mark.unwrap_or_default() };
        Ok(Recovered {
            log_id: header.log_id,
            life,
            groups,
            files: self.files,
            tail,
            first_segment: self.first_segment,
            mark,
            report: self.report,
        })
    }
}

/// Reads the block that should stand at the tail; `Ok(Err(..))` says why there is none.
fn read_block(
    file: &dyn DiskFile,
    segment: &SegmentHeader,
    tail: &Tail,
    block: &mut Vec<u8>,
) -> Result<Result<BlockHeader, String>, WalError> {
    let no = |reason: &str| Ok(Err(reason.to_owned()));
    block.clear();
    block.resize(BLOCK_HEADER, 0);
    let len = file.read_at(block, tail.offset).map_err(io_error("reading a block"))?;
    let header = match BlockHeader::decode(&block[..len]) {
        Ok(header) => header,
        Err(HeaderError::Empty) => return no("nothing is there"),
        Err(HeaderError::Invalid(reason)) => return no(reason),
        Err(HeaderError::Version(found)) => {
            return Err(WalError::Unsupported {
                segment: segment.segment,
                offset: tail.offset,
                what: "a block",
                found,
                known: u32::from(BLOCK_FORMAT),
            });
        }
    };
    if header.log_id != segment.log_id || header.segment != segment.segment || header.offset != tail.offset {
        return no("a block that was written for another place");
    }
    if header.block != tail.next_block || header.previous != tail.previous {
        return no("a block that does not follow the one before");
    }
    if header.end() > segment.capacity {
        return no("a block that is longer than its segment");
    }
    block.resize(BLOCK_HEADER + header.body_len as usize, 0);
    let len = file
        .read_at(&mut block[BLOCK_HEADER..], tail.offset + BLOCK_HEADER as u64)
        .map_err(io_error("reading a block"))?;
    if len < header.body_len as usize {
        return no("the file ends within the block");
    }
    if crc32c::crc32c(&block[BLOCK_HEADER..]) != header.body_crc {
        return no("the checksum of the records does not fit");
    }
    Ok(Ok(header))
}

pub(crate) fn damaged(segment: u64, offset: u64, reason: &str) -> WalError {
    WalError::Damaged { segment, offset, reason: reason.to_owned() }
}

pub(crate) fn io_error(context: &str) -> impl FnOnce(io::Error) -> WalError + use<'_> {
    move |error| WalError::Io { context: context.to_owned(), error: Arc::new(error) }
}
