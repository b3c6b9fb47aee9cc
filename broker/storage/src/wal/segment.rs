//! Making segments, and the room that is kept for them.

use std::{io, sync::Arc};

use super::{
    disk::{Disk, DiskFile},
    format::{PAGE, SegmentHeader, segment_name},
};

const BALLAST_NAME: &str = "ballast";

/// Makes a segment: it gets its name when its room is reserved and its header is on the disk.
pub(crate) fn create(disk: &dyn Disk, number: u32, header: &SegmentHeader) -> io::Result<Arc<dyn DiskFile>> {
    let name = segment_name(number);
    let unfinished = format!("{number:08x}.new");
    let made = write(disk, &unfinished, header);
    match made {
        Ok(file) => {
            disk.rename(&unfinished, &name)?;
            disk.sync_dir()?;
            Ok(file)
        }
        Err(error) => {
            // What was reserved must not stand in the way of a smaller one; recovery removes it as well.
            let _ = disk.remove(&unfinished);
            Err(error)
        }
    }
}

fn write(disk: &dyn Disk, name: &str, header: &SegmentHeader) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(name)?;
    file.allocate(header.capacity)?;
    file.write_at(&header.encode(), 0)?;
    file.sync_all()?;
    Ok(file)
}

/// A file that takes up room so that it can be given up when the disk is full: votes and purges go on, and purges are what
/// frees the disk again.
pub(crate) struct Ballast {
    bytes: u64,
    there: bool,
}

impl Ballast {
    /// Looks whether the file is there.
    pub(crate) fn open(disk: &dyn Disk, bytes: u64) -> io::Result<Self> {
        let there = match disk.open(BALLAST_NAME) {
            Ok(file) => file.len()? >= bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        Ok(Self { bytes, there })
    }

    /// Makes the file again when it is not there and `free` bytes are plenty.
    pub(crate) fn restore(&mut self, disk: &dyn Disk, free: u64, needed: u64) {
        if self.there || self.bytes == 0 || free < needed.saturating_add(self.bytes) {
            return;
        }
        let made = disk.create(BALLAST_NAME).and_then(|file| {
            file.allocate(self.bytes)?;
            file.sync_all()
        });
        match made.and_then(|()| disk.sync_dir()) {
            Ok(()) => self.there = true,
            Err(error) => {
                tracing::warn!(%error, "the log's ballast cannot be made");
                let _ = disk.remove(BALLAST_NAME);
            }
        }
    }

    /// Gives the room up. Returns the size of a segment that fits into a part of it, or `None` when there is none.
    pub(crate) fn release(&mut self, disk: &dyn Disk) -> Option<u64> {
        if self.there && disk.remove(BALLAST_NAME).is_ok() {
            tracing::warn!("the disk is full: the log's ballast is given up");
            self.there = false;
        }
        let part = self.bytes / 4 / PAGE * PAGE;
        (part > 0).then_some(part)
    }
}
