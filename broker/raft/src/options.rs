//! Limits and times of the groups of a node.

use std::time::Duration;

/// Limits and times of the groups of a node. The same on all nodes of a cluster, as far as times go.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// How often a leader sends heartbeats. Default 100 ms.
    pub heartbeat: Duration,
    /// The shortest time without a leader before an election. Default 400 ms.
    pub election_min: Duration,
    /// The longest time without a leader before an election. Default 600 ms.
    pub election_max: Duration,
    /// The largest command that may be proposed, in bytes. Default 4 MiB.
    pub max_command: usize,
    /// The entries of one append call reach at most this many bytes (one entry always fits). Default 1 MiB.
    pub max_append_bytes: usize,
    /// The most entries of one append call. Default 512.
    pub max_append_entries: u64,
    /// A snapshot is made when this many bytes of commands were applied since the last one. Default 64 MiB.
    pub snapshot_bytes: u64,
    /// A snapshot is made when this many entries were applied since the last one. Default 100,000.
    pub snapshot_entries: u64,
    /// How many entries that a snapshot covers stay in the log, for followers that are a little behind. Default 5,000.
    pub keep_entries: u64,
    /// The size of one chunk of a snapshot, in bytes. Default 512 KiB.
    pub snapshot_chunk: usize,
    /// A snapshot larger than this is neither sent nor received, in bytes. Default 16 GiB.
    pub max_snapshot: u64,
    /// How long one chunk of a snapshot may take. Default 5 s.
    pub chunk_deadline: Duration,
    /// How long installing a received snapshot may take. Default 60 s.
    pub install_deadline: Duration,
    /// How many snapshots a node sends, and how many it receives, at a time. Default 2.
    pub snapshot_transfers: usize,
    /// How long one ReadIndex round may take. Default 1 s.
    pub read_deadline: Duration,
    /// How long [`crate::Group::transfer_leader`] waits for the new leader. Default 3 s.
    pub transfer_deadline: Duration,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(600),
            max_command: 4 << 20,
            max_append_bytes: 1 << 20,
            max_append_entries: 512,
            snapshot_bytes: 64 << 20,
            snapshot_entries: 100_000,
            keep_entries: 5_000,
            snapshot_chunk: 512 << 10,
            max_snapshot: 16 << 30,
            chunk_deadline: Duration::from_secs(5),
            install_deadline: Duration::from_secs(60),
            snapshot_transfers: 2,
            read_deadline: Duration::from_secs(1),
            transfer_deadline: Duration::from_secs(3),
        }
    }
}

/// Options that contradict each other.
#[derive(Debug, Clone, thiserror::Error)]
#[error("wrong Raft options: {reason}")]
pub struct OptionsError {
    /// Which one and why.
    pub reason: String,
}
