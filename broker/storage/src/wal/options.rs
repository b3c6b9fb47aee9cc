//! Settings of the log.

use std::time::Duration;

use super::{WalError, format::PAGE};

/// Settings of the log.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Size of a segment's file in bytes. Also bounds one record.
    pub segment_bytes: u64,
    /// How much may wait to be written, in bytes.
    pub queue_bytes: usize,
    /// How much of the recent entries is kept in memory, for all groups together, in bytes. What is not yet written is kept besides.
    pub cache_bytes: usize,
    /// How long a sync may wait for more company under load. Never waited when the log is idle.
    pub max_linger: Duration,
    /// Above this many segments, what still lives in the oldest is copied forward so that its file can go; above two, while the disk is short of room.
    pub max_segments: u64,
    /// Size of the file that is given up when the disk is full, in bytes. 0 for none.
    pub ballast_bytes: u64,
    /// Free bytes of the file system below which entries are refused.
    pub min_free_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            queue_bytes: 32 << 20,
            cache_bytes: 16 << 20,
            max_linger: Duration::from_millis(2),
            max_segments: 8,
            ballast_bytes: 16 << 20,
            min_free_bytes: 192 << 20,
        }
    }
}

impl WalOptions {
    /// Checks that the log can work with this.
    pub(crate) fn check(&self) -> Result<(), WalError> {
        let wrong = |what: &str| Err(WalError::Options(what.to_owned()));
        if !self.segment_bytes.is_multiple_of(PAGE) || !(2 * PAGE..=1 << 30).contains(&self.segment_bytes) {
            return wrong("a segment is a multiple of 4,096 bytes, from 8 KiB to 1 GiB");
        }
        if self.queue_bytes == 0 {
            return wrong("the queue needs room");
        }
        if self.max_segments < 2 {
            return wrong("there must be room for two segments");
        }
        Ok(())
    }
}
