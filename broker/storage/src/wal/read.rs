//! Reading entries back.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    WalError,
    disk::DiskFile,
    index::Place,
    recovery::{damaged, io_error},
    shared::State,
};

/// Where an entry's data comes from.
pub(crate) enum Source {
    Memory(Bytes),
    Disk(Arc<dyn DiskFile>, Place),
}

impl State {
    pub(crate) fn source(&self, recent: Option<&Bytes>, place: Place) -> Result<Source, WalError> {
        if let Some(data) = recent {
            return Ok(Source::Memory(data.clone()));
        }
        let segment = place.segment().unwrap_or_default();
        match self.files.get(&segment) {
            Some(file) => Ok(Source::Disk(Arc::clone(file), place)),
            None => Err(damaged(u64::from(segment), place.offset(), "the segment of an entry is gone")),
        }
    }
}

impl Source {
    pub(crate) fn read(self) -> Result<Bytes, WalError> {
        match self {
            Self::Memory(data) => Ok(data),
            Self::Disk(file, place) => {
                let mut data = vec![0; place.len()];
                let len = file.read_at(&mut data, place.offset()).map_err(io_error("reading an entry"))?;
                if !place.fits(&data[..len]) {
                    let segment = u64::from(place.segment().unwrap_or_default());
                    return Err(damaged(segment, place.offset(), "the checksum of an entry does not fit"));
                }
                Ok(data.into())
            }
        }
    }
}
