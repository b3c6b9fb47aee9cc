//! What can go wrong with the log.

use std::{io, path::PathBuf, sync::Arc};

use crate::GroupId;

/// An error of the log. Cheap to clone: one failure is told to every waiting caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// Something that had been synced is not there any more, or is not what was written. The node must become a new member: what it
    /// acknowledged may be lost.
    #[error("the log is damaged below its synced end: segment {segment} at {offset}: {reason}")]
    Damaged {
        /// The segment's number.
        segment: u64,
        /// Where in the segment's file, in bytes.
        offset: u64,
        /// What was found and what proves that it had been synced.
        reason: String,
    },
    /// A newer version wrote this.
    #[error("segment {segment} at {offset}: {what} has format {found}, this version knows up to {known}")]
    Unsupported {
        /// The segment's number.
        segment: u64,
        /// Where in the segment's file, in bytes.
        offset: u64,
        /// Which part.
        what: &'static str,
        /// The format found.
        found: u32,
        /// The highest format known.
        known: u32,
    },
    /// Another process has the log.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// The disk is nearly full: entries are refused until there is room again, votes and purges are still taken.
    #[error("the disk is nearly full: {free} bytes free, {needed} needed")]
    DiskFull {
        /// Free bytes when it was last looked at.
        free: u64,
        /// Free bytes below which entries are refused.
        needed: u64,
    },
    /// Too much waits to be written.
    #[error("the log's queue is full")]
    QueueFull,
    /// One record is more than a segment holds.
    #[error("a record of {bytes} bytes is more than the {limit} that a segment holds")]
    TooLarge {
        /// The record's size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An index that does not follow the last one.
    #[error("group {group}: index {got} does not follow: {expected} was expected")]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The index that would follow (or the lowest possible one of a group without entries).
        expected: u64,
        /// The index given.
        got: u64,
    },
    /// A write or a sync failed. Nothing is retried: what is on the disk is unknown, the process must end.
    #[error("the log failed: {context}: {error}")]
    Failed {
        /// What was being done.
        context: &'static str,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// Opening or reading failed.
    #[error("{context}: {error}")]
    Io {
        /// What was being done.
        context: String,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// Settings that cannot work.
    #[error("log settings: {0}")]
    Options(String),
}
