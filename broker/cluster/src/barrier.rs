//! The barrier of a SUBACK: every filter committed, and applied by every node that may be serving.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raftmq_planted::{Bug, planted};
use raftmq_routing::{Need, Progress, Ticket};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

/// Why a subscription is not yet seen by every publish. The caller answers with an error or closes; the filter stays
/// with the worker until [`crate::Cluster::unsubscribe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BarrierError {
    /// Not in time: the routes group has no quorum, or a node that may be serving does not answer.
    #[error("the subscription did not reach every serving node in time")]
    Timeout,
    /// This node lost its lease meanwhile, or its routes and announces them anew.
    #[error("this node does not serve")]
    NotServing,
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Shutdown,
}

/// More than the workers that can wait for one ticket.
const MANY: usize = 128;

/// Who waits for the commit of which route, and how far the watermark is.
pub(crate) struct Barriers {
    waiting: Mutex<HashMap<Ticket, Vec<oneshot::Sender<u64>>>>,
    watermark: watch::Sender<Option<u64>>,
    /// Counts the streams of routes. What was committed by an earlier one may be gone.
    stream: AtomicU64,
}

impl Barriers {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::default(), watermark: watch::Sender::new(None), stream: AtomicU64::new(0) }
    }

    pub(crate) fn watermark(&self) -> Option<u64> {
        *self.watermark.borrow()
    }

    /// Waits until every node that may be serving has applied routes up to an index.
    pub(crate) async fn covered(&self, index: u64) {
        // The sender is here as long as this is.
        let _ = self.watermark.subscribe().wait_for(|w| w.is_some_and(|w| w >= index)).await;
    }

    /// A watermark that may be relied on.
    pub(crate) fn raise(&self, index: u64) {
        self.watermark.send_if_modified(|known| {
            let rises = known.is_none_or(|k| index > k);
            if rises {
                *known = Some(index);
            }
            rises
        });
    }

    /// The routes are announced anew: a barrier reached for what was committed before says nothing. To be called under the lock
    /// of the local routes.
    pub(crate) fn start_over(&self) {
        self.stream.fetch_add(1, Ordering::SeqCst);
    }

    /// What a subscription has to wait for. To be called under the lock of the local routes, so that no commit is missed.
    pub(crate) fn enlist(&self, needs: impl Iterator<Item = Need>) -> Pending {
        let stream = self.stream.load(Ordering::SeqCst);
        let mut pending = Pending { index: None, tickets: Vec::new(), stream };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for need in needs {
            match need {
                Need::Nothing => {}
                Need::Barrier(index) => pending.index = pending.index.max(Some(index)),
                Need::Pending(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    let senders = waiting.entry(ticket).or_default();
                    // Who gave up: while nothing commits, clients come again and again.
                    if senders.len() >= MANY {
                        senders.retain(|sender| !sender.is_closed());
                    }
                    senders.push(sender);
                    pending.tickets.push(receiver);
                }
            }
        }
        pending
    }

    /// What became of proposals.
    pub(crate) fn progress(&self, progress: Progress) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (ticket, index) in progress.committed {
            for sender in waiting.remove(&ticket).into_iter().flatten() {
                // Who gave up waiting is gone.
                let _ = sender.send(index);
            }
        }
        for ticket in progress.cancelled {
            waiting.remove(&ticket);
        }
    }

    pub(crate) fn cancel(&self, ticket: Ticket) {
        self.progress(Progress { cancelled: vec![ticket], ..Progress::default() });
    }

    /// Waits until the barrier is reached.
    pub(crate) async fn wait(
        self: Arc<Self>,
        pending: Pending,
        deadline: Duration,
        serving: impl Fn() -> bool + Send + 'static,
    ) -> Result<(), BarrierError> {
        tokio::time::timeout(deadline, self.reached(pending)).await.map_err(|_| BarrierError::Timeout)??;
        if serving() { Ok(()) } else { Err(BarrierError::NotServing) }
    }

    async fn reached(&self, pending: Pending) -> Result<(), BarrierError> {
        if planted(Bug::SkipBarrier) {
            return Ok(());
        }
        let mut index = pending.index;
        for ticket in pending.tickets {
            // A ticket is dropped when its last subscriber left before the proposal: nothing to wait for.
            if let Ok(committed) = ticket.await {
                index = index.max(Some(committed));
            }
        }
        let Some(index) = index else { return Ok(()) };
        let mut watermark = self.watermark.subscribe();
        watermark.wait_for(|w| w.is_some_and(|w| w >= index)).await.map_err(|_| BarrierError::Shutdown)?;
        if self.stream.load(Ordering::SeqCst) == pending.stream { Ok(()) } else { Err(BarrierError::NotServing) }
    }
}

/// What one subscription waits for.
pub(crate) struct Pending {
    index: Option<u64>,
    tickets: Vec<oneshot::Receiver<u64>>,
    stream: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const NEVER: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn committed_and_covered() {
        let barriers = Arc::new(Barriers::new());
        let needs = [Need::Nothing, Need::Barrier(4), Need::Pending(Ticket(1)), Need::Pending(Ticket(2))];
        let wait = tokio::spawn(Arc::clone(&barriers).wait(barriers.enlist(needs.into_iter()), SOON, || true));
        let mut progress = Progress { committed: vec![(Ticket(1), 9)], cancelled: vec![Ticket(2)] };
        barriers.progress(std::mem::take(&mut progress));
        barriers.raise(8);
        tokio::task::yield_now().await;
        assert!(!wait.is_finished());
        barriers.raise(9);
        assert_eq!(wait.await.unwrap(), Ok(()));
        assert_eq!(barriers.waiting.lock().unwrap().len(), 0);
    }

    #[tokio::test]
    async fn not_covered_in_time_or_not_serving() {
        let barriers = Arc::new(Barriers::new());
        barriers.raise(9);
        barriers.raise(3);
        let need = |n| barriers.enlist(std::iter::once(n));
        assert_eq!(
            Arc::clone(&barriers).wait(need(Need::Barrier(10)), NEVER, || true).await,
            Err(BarrierError::Timeout)
        );
        assert_eq!(
            Arc::clone(&barriers).wait(need(Need::Pending(Ticket(5))), NEVER, || true).await,
            Err(BarrierError::Timeout)
        );
        assert_eq!(
            Arc::clone(&barriers).wait(need(Need::Barrier(9)), SOON, || false).await,
            Err(BarrierError::NotServing)
        );
        assert_eq!(Arc::clone(&barriers).wait(need(Need::Barrier(9)), SOON, || true).await, Ok(()));
        // The routes were announced anew meanwhile.
        let before = need(Need::Barrier(9));
        barriers.start_over();
        assert_eq!(Arc::clone(&barriers).wait(before, SOON, || true).await, Err(BarrierError::NotServing));
    }
}
