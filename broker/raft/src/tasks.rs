//! What runs beside a replica.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use raftmq_storage::{GroupId, Wal};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

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

/// Sends the group's heartbeats while this node leads: at the same moments as those of all other groups of the node, counted from `origin`,
/// so that they find each other. openraft's own clock has another phase for each group.
pub(crate) async fn beat(raft: Raft, mut status: watch::Receiver<GroupStatus>, origin: Instant, interval: Duration) {
    let decided = |status: &GroupStatus| matches!(status.role, Role::Leader | Role::Stopped);
    loop {
        match status.wait_for(decided).await {
            Ok(status) if status.role == Role::Leader => {}
            // It has stopped.
            Ok(_) | Err(_) => return,
        }
        sleep_until(next_beat(origin, interval, Instant::now())).await;
        if raft.trigger().heartbeat().await.is_err() {
            return;
        }
    }
}

/// The first moment after `now` that is a whole number of intervals after `origin`.
fn next_beat(origin: Instant, interval: Duration, now: Instant) -> Instant {
    let since = now.saturating_duration_since(origin).as_nanos();
    let over = u64::try_from(since % interval.as_nanos().max(1)).unwrap_or_default();
    now + interval.saturating_sub(Duration::from_nanos(over))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_at_whole_intervals() {
        let (origin, interval) = (Instant::now(), Duration::from_millis(100));
        let at = |millis| origin + Duration::from_millis(millis);
        for (now, next) in [(0, 100), (1, 100), (99, 100), (100, 200), (1234, 1300)] {
            assert_eq!(next_beat(origin, interval, at(now)), at(next), "{now}");
        }
    }
}
