//! Writing blocks and segments.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::{
    WalError,
    disk::{Disk, DiskFile},
    format::{BLOCK_HEADER, BlockHeader, PAGE, SegmentHeader, block_bytes, header_checksum},
    record::{self, Item, Record},
    recovery::Tail,
    segment::{self, Ballast},
    shared::Shared,
};

/// A block is ended when its records are more than this.
const BLOCK_BYTES: usize = 1 << 20;

/// Where an item was put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) segment: u32,
    /// Where the record's data begins in the segment.
    pub(crate) offset: u32,
}

/// The end of the log.
pub(crate) struct Appender {
    pub(crate) shared: Arc<Shared>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log_id: u128,
    pub(crate) life: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) tail: Tail,
    /// The last synced block.
    pub(crate) synced: u64,
    /// What the last block says about the segments that are needed.
    pub(crate) first_segment: u32,
    pub(crate) ballast: Ballast,
    /// The block that is being put together: header, then records.
    block: Vec<u8>,
    records: u32,
}

impl Appender {
    #[expect(clippy::too_many_arguments, reason = "the parts of the log's end, made in one place")]
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        log_id: u128,
        life: u64,
        file: Arc<dyn DiskFile>,
        tail: Tail,
        first_segment: u32,
        ballast: Ballast,
    ) -> Self {
        let synced = tail.next_block - 1;
        Self { shared, disk, log_id, life, file, tail, synced, first_segment, ballast, block: Vec::new(), records: 0 }
    }

    /// Writes the items in blocks, not yet synced. The last block carries `first_needed`: only when it is there is
    /// everything there that makes older segments needless. Returns where each item is.
    pub(crate) fn write(&mut self, items: &[Item], first_needed: u32) -> Result<Vec<Placed>, WalError> {
        let mut placed = Vec::with_capacity(items.len());
        self.begin_block();
        for item in items {
            let record = item.record();
            let len = record::encoded_len(&record);
            if self.records > 0 && (self.block.len() + len > BLOCK_BYTES + BLOCK_HEADER || !self.fits(len)) {
                self.end_block()?;
            }
            if !self.fits(len) {
                self.rotate(len)?;
            }
            record::encode(item.group, &record, &mut self.block);
            self.records += 1;
            placed.push(Placed { segment: self.tail.segment, offset: self.data_offset(&record) });
        }
        if self.records == 0 && !self.fits(0) {
            self.rotate(0)?;
        }
        self.first_segment = self.first_segment.max(first_needed);
        self.end_block()?;
        // One large batch must not keep its buffer for good.
        if self.block.capacity() > 2 * BLOCK_BYTES {
            self.block = Vec::new();
        }
        Ok(placed)
    }

    /// Makes all that was written durable.
    pub(crate) fn sync(&mut self) -> Result<(), WalError> {
        let started = Instant::now();
        self.file.sync_data().map_err(failed("syncing the log"))?;
        self.shared.counters.fsync(started.elapsed());
        self.synced = self.tail.next_block - 1;
        Ok(())
    }

    fn begin_block(&mut self) {
        self.block.clear();
        self.block.resize(BLOCK_HEADER, 0);
        self.records = 0;
    }

    fn fits(&self, more: usize) -> bool {
        let body = self.block.len() - BLOCK_HEADER + more;
        self.tail.offset + block_bytes(body) <= self.tail.capacity
    }

    /// Where the data of the record encoded last will stand: data ends its record.
    #[expect(clippy::cast_possible_truncation, reason = "segments are below 4 GiB")]
    fn data_offset(&self, record: &Record<'_>) -> u32 {
        let data = match record {
            Record::Entry { data, .. } | Record::Copied { data, .. } => data.len(),
            _ => 0,
        };
        (self.tail.offset + (self.block.len() - data) as u64) as u32
    }

    #[expect(clippy::cast_possible_truncation, reason = "a block fits its segment, which is below 4 GiB")]
    fn end_block(&mut self) -> Result<(), WalError> {
        let body = &self.block[BLOCK_HEADER..];
        let header = BlockHeader {
            log_id: self.log_id,
            segment: u64::from(self.tail.segment),
            offset: self.tail.offset,
            life: self.life,
            block: self.tail.next_block,
            synced: self.synced,
            first_segment: u64::from(self.first_segment),
            previous: self.tail.previous,
            body_len: body.len() as u32,
            records: self.records,
            body_crc: crc32c::crc32c(body),
        }
        .encode();
        self.block[..BLOCK_HEADER].copy_from_slice(&header);
        // Whole pages, so that the system need not read what it overwrites.
        let len = self.block.len().next_multiple_of(PAGE as usize);
        self.block.resize(len, 0);
        self.file.write_at(&self.block, self.tail.offset).map_err(failed("writing the log"))?;
        self.tail.offset += len as u64;
        self.tail.next_block += 1;
        self.tail.previous = header_checksum(&header);
        self.shared.counters.bytes_written.fetch_add(len as u64, Relaxed);
        self.shared.counters.records.fetch_add(u64::from(self.records), Relaxed);
        self.begin_block();
        Ok(())
    }

    /// Goes on in a new segment. All of this one is synced before, so that the new one's header proves it.
    fn rotate(&mut self, record: usize) -> Result<(), WalError> {
        if self.synced + 1 < self.tail.next_block {
            self.sync()?;
        }
        let number = self
            .tail
            .segment
            .checked_add(1)
            .filter(|number| *number < u32::MAX)
            .ok_or_else(|| failed("making a segment")(io::Error::other("the numbers of segments are used up")))?;
        let needed = PAGE + block_bytes(record);
        let mut header = SegmentHeader {
            log_id: self.log_id,
            segment: u64::from(number),
            capacity: self.shared.options.segment_bytes.max(needed),
            first_block: self.tail.next_block,
            life: self.life,
            previous: self.tail.previous,
        };
        let mut made = segment::create(&*self.disk, number, &header);
        if made.as_ref().is_err_and(is_full)
            && let Some(part) = self.ballast.release(&*self.disk)
        {
            header.capacity = header.capacity.min(part.max(needed));
            made = segment::create(&*self.disk, number, &header);
        }
        self.file = made.map_err(failed("making a segment"))?;
        self.tail.segment = number;
        self.tail.offset = PAGE;
        self.tail.capacity = header.capacity;
        let mut state = self.shared.lock();
        state.usages.add_segment(number, header.capacity);
        state.files.insert(number, Arc::clone(&self.file));
        Ok(())
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An error after which nothing is known about the disk's content.
pub(crate) fn failed(context: &'static str) -> impl FnOnce(io::Error) -> WalError {
    move |error| WalError::Failed { context, error: Arc::new(error) }
}
