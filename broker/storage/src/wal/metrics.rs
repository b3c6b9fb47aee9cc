//! The log's numbers.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the histogram of sync times, in seconds. The last bucket of [`WalMetrics::fsync_buckets`] has no bound.
pub const FSYNC_BUCKETS_SECONDS: [f64; 12] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

/// The log's numbers at one moment. Counters count from the opening of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalMetrics {
    /// Syncs of the log.
    pub fsyncs: u64,
    /// Time spent in them.
    pub fsync_time: Duration,
    /// How many took how long: not cumulative, by [`FSYNC_BUCKETS_SECONDS`], the last without a bound.
    pub fsync_buckets: [u64; 13],
    /// Bytes written, padding included.
    pub bytes_written: u64,
    /// Records written.
    pub records: u64,
    /// Entries written, copies of old ones not counted.
    pub entries: u64,
    /// Entries copied forward so that an old segment could go.
    pub copied: u64,
    /// Segments that exist now.
    pub segments: u64,
    /// Records that wait to be written now.
    pub queued_records: u64,
    /// Bytes that wait to be written now.
    pub queued_bytes: u64,
    /// Appends that were refused because the disk is nearly full.
    pub refused_disk_full: u64,
    /// Whether entries are refused at the moment.
    pub disk_full: bool,
}

/// The numbers while they change.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    fsyncs: AtomicU64,
    fsync_nanos: AtomicU64,
    fsync_buckets: [AtomicU64; 13],
    pub(crate) bytes_written: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) copied: AtomicU64,
    pub(crate) refused_disk_full: AtomicU64,
}

impl Counters {
    pub(crate) fn fsync(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = FSYNC_BUCKETS_SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(12);
        self.fsync_buckets[bucket].fetch_add(1, Relaxed);
        self.fsync_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.fsyncs.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> WalMetrics {
        WalMetrics {
            fsyncs: self.fsyncs.load(Relaxed),
            fsync_time: Duration::from_nanos(self.fsync_nanos.load(Relaxed)),
            fsync_buckets: std::array::from_fn(|at| self.fsync_buckets[at].load(Relaxed)),
            bytes_written: self.bytes_written.load(Relaxed),
            records: self.records.load(Relaxed),
            entries: self.entries.load(Relaxed),
            copied: self.copied.load(Relaxed),
            refused_disk_full: self.refused_disk_full.load(Relaxed),
            ..WalMetrics::default()
        }
    }
}
