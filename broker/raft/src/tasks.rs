//! What runs beside a replica.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use raftmq_storage::{GroupId, Wal};
use tokio::sync::{Notify, watch};

use crate::status::{GroupStatus, Role};
use crate::types::Raft;

/// Turns openraft's metrics into the status, as they come.
pub(crate) async fn follow_metrics(id: GroupId, raft: Raft, status: watch::Sender<GroupStatus>) {
    let mut metrics = raft.metrics();
    loop {
        let new = GroupStatus::from_metrics(id, &metrics.borrow_watched());
        let end = new.role == Role::Stopped;
        if let Some(failure) = &new.failure {
            tracing::error!(group = %id, failure, "the group has failed");
        }
        status.send_if_modified(|old| {
            let differs = new.differs(old);
            *old = new;
            differs
        });
        if end {
            return;
        }
        if metrics.changed().await.is_err() {
            status.send_modify(|status| status.role = Role::Stopped);
            return;
        }
    }
}

/// Makes a snapshot when enough was applied, and lets the log be purged.
pub(crate) async fn make_snapshots(id: GroupId, raft: Raft, wal: Wal, due: Arc<Notify>, limit: u64) {
    let mut metrics = raft.metrics();
    let mut last = metrics.borrow_watched().snapshot;
    loop {
        tokio::select! {
            () = due.notified() => {
                tracing::info!(group = %id, "a snapshot is due");
                if raft.trigger().snapshot().await.is_err() {
                    return;
                }
            }
            changed = metrics.changed() => {
                let (snapshot, running) = {
                    let metrics = metrics.borrow_and_update();
                    (metrics.snapshot, metrics.running_state.is_ok())
                };
                if changed.is_err() || !running {
                    return;
                }
                // Entries are kept for slow followers by their number; few large ones may be too much.
                if snapshot != last
                    && let Some(covered) = snapshot
                    && wal.live_bytes(id) > limit.saturating_mul(2)
                    && raft.trigger().purge_log(covered.index).await.is_err()
                {
                    return;
                }
                last = snapshot;
            }
        }
    }
}
