//! Limits and times of the groups of a node.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::bundle;

/// Limits and times of the groups of a node. The same on all nodes of a cluster, as far as times go.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// How often a leader sends heartbeats. Default 100 ms.
    pub heartbeat: Duration,
    /// How long a heartbeat may wait for those of other groups, to go to a node in one frame with them; not more than 25 ms or a quarter of
    /// the interval. Only to nodes that know such frames ([`crate::Transport::takes_bundles`]). Zero: each goes alone. Default 20 ms.
    pub bundle_window: Duration,
    /// The shortest time without a leader before an election. Default 400 ms.
    pub election_min: Duration,
    /// The longest time without a leader before an election. Default 600 ms.
    pub election_max: Duration,
    /// The largest command that may be proposed, in bytes. Default 4 MiB.
    pub max_command: usize,
    /// How many bytes of commands may wait for their commit on a leader; more proposals wait. Default 64 MiB.
    pub max_in_flight: usize,
    /// The entries of one append call reach at most this many bytes (one entry always fits). Default 1 MiB.
    pub max_append_bytes: usize,
    /// The most entries of one append call. Default 512.
    pub max_append_entries: u64,
    /// How long a follower may take to write the entries of one append call. Default 2 s.
    pub append_deadline: Duration,
    /// A snapshot is made when this many bytes of commands were applied since the last one. Default 64 MiB.
    pub snapshot_bytes: u64,
    /// A snapshot is made when this many entries were applied since the last one. Default 100,000.
    pub snapshot_entries: u64,
    /// A [`crate::CachedMachine`] is flushed when so much waits in its memory, in bytes. Default 16 MiB.
    pub dirty_bytes: usize,
    /// The same for all groups of a node together, each of which has an equal part, in bytes. Default 256 MiB.
    pub dirty_bytes_node: usize,
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
            bundle_window: Duration::from_millis(20),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(600),
            max_command: 4 << 20,
            max_in_flight: 64 << 20,
            max_append_bytes: 1 << 20,
            max_append_entries: 512,
            append_deadline: Duration::from_secs(2),
            snapshot_bytes: 64 << 20,
            snapshot_entries: 100_000,
            dirty_bytes: 16 << 20,
            dirty_bytes_node: 256 << 20,
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

impl RaftOptions {
    /// What openraft gets of this.
    pub(crate) fn config(&self, name: String) -> Result<Arc<Config>, OptionsError> {
        let millis = |what: &str, time: Duration| {
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            if millis == 0 { Err(wrong(format!("{what} is less than a millisecond"))) } else { Ok(millis) }
        };
        for (what, value) in [
            ("max_command", self.max_command),
            ("snapshot_chunk", self.snapshot_chunk),
            ("snapshot_transfers", self.snapshot_transfers),
        ] {
            if value == 0 {
                return Err(wrong(format!("{what} is 0")));
            }
        }
        if self.max_in_flight < self.max_command {
            return Err(wrong("max_in_flight is less than max_command".into()));
        }
        if self.max_command > MAX_FRAME || self.snapshot_chunk > MAX_FRAME {
            return Err(wrong(format!("max_command and snapshot_chunk may be {MAX_FRAME} bytes at most")));
        }
        // Where heartbeats have a clock of their own, openraft's only looks for leaders that are gone. It ticks five times in this, in each group.
        let own_clock = !bundle::window(self).is_zero();
        let slower = (self.heartbeat * 2).min(self.election_min / 2).max(self.heartbeat);
        Config {
            cluster_name: name,
            heartbeat_interval: millis("heartbeat", if own_clock { slower } else { self.heartbeat })?,
            election_timeout_min: millis("election_min", self.election_min)?,
            election_timeout_max: millis("election_max", self.election_max)?,
            max_payload_entries: self.max_append_entries,
            install_snapshot_timeout: millis("install_deadline", self.install_deadline)?,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.keep_entries,
            // One unreachable member must be back soon after it can be reached again.
            backoff: "50ms 100ms 200ms ...400ms".into(),
            enable_heartbeat: !own_clock,
            enable_pre_vote: Some(true),
            // A leader that was restarted asks for votes as everybody else: it may have forgotten what it promised in memory.
            enable_leader_restore: Some(false),
            ..Config::default()
        }
        .validate()
        .map(Arc::new)
        .map_err(|e| wrong(e.to_string()))
    }
}

/// Frames have 32-bit lengths, and a transport has to hold one in memory.
const MAX_FRAME: usize = 256 << 20;

fn wrong(reason: String) -> OptionsError {
    OptionsError { reason }
}

/// Options that contradict each other.
#[derive(Debug, Clone, thiserror::Error)]
#[error("wrong Raft options: {reason}")]
pub struct OptionsError {
    /// Which one and why.
    pub reason: String,
}
