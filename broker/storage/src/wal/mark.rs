//! The mark: how far the log is known to be synced when no later block says so.
//!
//! A block proves that the blocks before it were synced. Nothing follows the last one, so the mark notes it: written
//! whenever the log has nothing more to do, synced once it has been idle for a moment, at a new segment and at a clean end.
//! Two pages are written in turn, so that a torn write leaves the one before. A mark may lag, it never runs ahead.

use std::{io, sync::Arc};

use super::{
    disk::{Disk, DiskFile},
    format::{Get, HeaderError, PAGE, Put},
};

pub(crate) const MARK_NAME: &str = "mark";
const MAGIC: [u8; 8] = *b"RAFTMQWM";
const FORMAT: u32 = 1;
const LEN: usize = 68;

/// What is noted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) log_id: u128,
    /// How often the log had been opened.
    pub(crate) life: u64,
    /// Counts the writes of the mark: the higher one is the newer.
    pub(crate) count: u64,
    /// All blocks up to this one are synced.
    pub(crate) synced: u64,
    /// The newest segment that was made.
    pub(crate) segment: u64,
    /// The log was closed after that.
    pub(crate) clean: bool,
}

impl Mark {
    fn encode(&self) -> [u8; LEN] {
        let mut out = Put::<LEN>::new();
        out.bytes(&MAGIC);
        out.bytes(&FORMAT.to_le_bytes());
        out.bytes(&self.log_id.to_le_bytes());
        out.bytes(&self.life.to_le_bytes());
        out.bytes(&self.count.to_le_bytes());
        out.bytes(&self.synced.to_le_bytes());
        out.bytes(&self.segment.to_le_bytes());
        out.bytes(&u32::from(self.clean).to_le_bytes());
        out.checksum()
    }

    fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut get = Get::checked::<LEN>(bytes, &MAGIC)?;
        let format = get.u32();
        if format != FORMAT {
            return Err(HeaderError::Version(format));
        }
        Ok(Self {
            log_id: get.u128(),
            life: get.u64(),
            count: get.u64(),
            synced: get.u64(),
            segment: get.u64(),
            clean: get.u32() == 1,
        })
    }

    /// The newest valid mark. None is no error: the mark only adds to what the blocks prove.
    pub(crate) fn read(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let file = match disk.open(MARK_NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut best: Option<Self> = None;
        for slot in 0..2 {
            let mut bytes = [0; LEN];
            let len = file.read_at(&mut bytes, slot * PAGE)?;
            if let Ok(mark) = Self::decode(&bytes[..len])
                && best.as_ref().is_none_or(|best| mark.count > best.count)
            {
                best = Some(mark);
            }
        }
        Ok(best)
    }
}

/// Writes the mark.
pub(crate) struct MarkFile {
    file: Arc<dyn DiskFile>,
    mark: Mark,
    synced: bool,
}

impl MarkFile {
    /// Opens or makes the file; the next write goes over the older slot.
    pub(crate) fn open(disk: &dyn Disk, mark: Mark) -> io::Result<Self> {
        let file = match disk.open(MARK_NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = disk.create(MARK_NAME)?;
                file.allocate(2 * PAGE)?;
                file.sync_all()?;
                disk.sync_dir()?;
                file
            }
            Err(error) => return Err(error),
        };
        Ok(Self { file, mark, synced: false })
    }

    /// Notes how far the log is synced. Durable after [`MarkFile::sync`], or when the system gets to it.
    pub(crate) fn note(&mut self, synced: u64, segment: u64, clean: bool) -> io::Result<()> {
        self.mark.count += 1;
        self.mark.synced = synced;
        self.mark.segment = segment;
        self.mark.clean = clean;
        self.synced = false;
        self.file.write_at(&self.mark.encode(), self.mark.count % 2 * PAGE)
    }

    /// Makes the last note durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if !self.synced {
            self.file.sync_data()?;
            self.synced = true;
        }
        Ok(())
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// The segment that was noted last.
    pub(crate) fn segment(&self) -> u64 {
        self.mark.segment
    }

    /// The block that was noted last.
    pub(crate) fn noted(&self) -> u64 {
        self.mark.synced
    }
}
