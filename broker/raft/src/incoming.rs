//! Snapshots that are being received.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::SnapshotResponse;
use openraft::vote::RaftLeaderId;
use raftmq_storage::GroupId;

use crate::NodeId;
use crate::frame::{Chunk, Refusal};
use crate::log::blocking;
use crate::snapshot::{SnapshotData, SnapshotDir, SnapshotFile, Temporary};
use crate::types::{Raft, Snapshot, SnapshotMeta, Types, Vote};

/// The snapshots that a node is receiving, one a group at most.
pub(crate) struct Incoming {
    transfers: Mutex<HashMap<GroupId, Transfer>>,
    /// How many at a time.
    limit: usize,
    max_bytes: u64,
    /// A transfer without a chunk for so long makes room for another one.
    idle: Duration,
}

struct Transfer {
    id: u64,
    from: NodeId,
    vote: Vote,
    meta: SnapshotMeta,
    total: u64,
    written: u64,
    touched: Instant,
    /// Out while a chunk is being written.
    part: Option<(File, Temporary)>,
}

/// What to tell the sender instead of carrying on.
pub(crate) type Refused = (Refusal, String);

impl Incoming {
    pub(crate) fn new(limit: usize, max_bytes: u64, idle: Duration) -> Self {
        Self { transfers: Mutex::default(), limit, max_bytes, idle }
    }

    /// Forgets what a group was receiving.
    pub(crate) fn forget(&self, group: GroupId) {
        self.lock().remove(&group);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<GroupId, Transfer>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a chunk; with the last one the snapshot is installed.
    pub(crate) async fn chunk(
        &self,
        group: GroupId,
        raft: &Raft,
        dir: &Arc<SnapshotDir>,
        from: NodeId,
        chunk: Chunk,
    ) -> Result<Option<SnapshotResponse<Types>>, Refused> {
        self.check(from, &chunk)?;
        let ours = raft.metrics().borrow_watched().vote;
        if ours > chunk.vote {
            // The sender's time is over: it learns that from the vote.
            return Ok(Some(SnapshotResponse::new(ours)));
        }
        let end = chunk.offset + chunk.data.len() as u64;
        let Some((file, path)) = self.take(group, dir, from, &chunk)? else {
            return Ok(None);
        };
        let written = blocking(move || {
            file.write_all_at(&chunk.data, chunk.offset)?;
            Ok((file, chunk))
        })
        .await;
        let (file, chunk) = match written {
            Ok(written) => written,
            Err(e) => {
                self.forget(group);
                return Err((Refusal::Snapshot, format!("the chunk cannot be written: {e}")));
            }
        };
        if end < chunk.total {
            self.put_back(group, chunk.transfer, end, (file, path));
            return Ok(None);
        }
        self.forget(group);
        tracing::info!(%group, from, bytes = chunk.total, "installs a snapshot");
        let file = SnapshotFile::temporary(file, chunk.total, path);
        let snapshot = Snapshot { meta: chunk.meta, snapshot: SnapshotData::File(file) };
        raft.install_full_snapshot(chunk.vote, snapshot).await.map(Some).map_err(|e| (Refusal::Stopped, e.to_string()))
    }

    /// What openraft takes for granted about a snapshot is checked before it sees it.
    fn check(&self, from: NodeId, chunk: &Chunk) -> Result<(), Refused> {
        let malformed = |reason: &str| Err((Refusal::Malformed, reason.to_owned()));
        if !chunk.vote.is_committed() || *chunk.vote.leader_id().node_id() != from {
            return malformed("a snapshot comes from the leader of its vote");
        }
        match &chunk.meta.last_log_id {
            None => return malformed("a snapshot of nothing"),
            Some(id) if id.leader_id > *chunk.vote.leader_id() => {
                return malformed("a snapshot of a later term than its vote");
            }
            Some(_) => {}
        }
        if chunk.total > self.max_bytes {
            return Err((Refusal::Snapshot, format!("{} bytes are over the limit", chunk.total)));
        }
        match chunk.offset.checked_add(chunk.data.len() as u64) {
            Some(end) if end <= chunk.total && (!chunk.data.is_empty() || chunk.total == 0) => Ok(()),
            _ => malformed("a chunk outside of its snapshot"),
        }
    }

    /// The file that the chunk goes into; `None` if the chunk is there already.
    fn take(
        &self,
        group: GroupId,
        dir: &Arc<SnapshotDir>,
        from: NodeId,
        chunk: &Chunk,
    ) -> Result<Option<(File, Temporary)>, Refused> {
        let now = Instant::now();
        let mut transfers = self.lock();
        if let Some(transfer) = transfers.get_mut(&group)
            && (transfer.id, transfer.from) == (chunk.transfer, from)
        {
            transfer.touched = now;
            if transfer.meta != chunk.meta || transfer.total != chunk.total {
                return Err((Refusal::Malformed, "the snapshot changed on its way".into()));
            }
            if chunk.offset + chunk.data.len() as u64 <= transfer.written && chunk.total > 0 {
                return Ok(None);
            }
            if chunk.offset != transfer.written {
                return Err((Refusal::Snapshot, format!("{} bytes are here", transfer.written)));
            }
            let busy = || (Refusal::Busy, "a chunk is being written".to_owned());
            return transfer.part.take().map(Some).ok_or_else(busy);
        }
        if chunk.offset != 0 {
            return Err((Refusal::Snapshot, "this transfer is not known".into()));
        }
        transfers.retain(|_, t| now.duration_since(t.touched) < self.idle);
        match transfers.get(&group) {
            Some(other) if other.vote > chunk.vote => {
                return Err((Refusal::Busy, "a later leader sends a snapshot".into()));
            }
            Some(_) => {}
            None if transfers.len() >= self.limit => {
                return Err((Refusal::Busy, "enough snapshots are being received".into()));
            }
            None => {}
        }
        let part = dir.create().map_err(|e: io::Error| (Refusal::Snapshot, e.to_string()))?;
        let transfer = Transfer {
            id: chunk.transfer,
            from,
            vote: chunk.vote,
            meta: chunk.meta.clone(),
            total: chunk.total,
            written: 0,
            touched: now,
            part: None,
        };
        transfers.insert(group, transfer);
        Ok(Some(part))
    }

    fn put_back(&self, group: GroupId, id: u64, written: u64, part: (File, Temporary)) {
        if let Some(transfer) = self.lock().get_mut(&group)
            && transfer.id == id
        {
            transfer.written = written;
            transfer.touched = Instant::now();
            transfer.part = Some(part);
        }
    }
}
