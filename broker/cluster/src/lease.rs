//! The node's own lease: asked for, published to the workers, and the phase that follows from it.

use std::sync::atomic::{AtomicU64, Ordering};

use raftmq_meta::Nanos;

use crate::clock::boottime;

/// Until when this node may serve, for workers: one clock read and one atomic load.
///
/// To be asked after reading a socket and before matching, acknowledging and delivering.
#[derive(Debug, Default)]
pub struct LeaseState {
    deadline: AtomicU64,
}

impl LeaseState {
    /// The lease of a standalone node, which needs none.
    pub fn always() -> Self {
        Self { deadline: AtomicU64::new(u64::MAX) }
    }

    /// Whether the node may serve now.
    #[inline]
    pub fn is_serving(&self) -> bool {
        boottime() < self.deadline.load(Ordering::Acquire)
    }

    /// Until when, in nanoseconds of CLOCK_BOOTTIME; 0 when it may not.
    pub fn deadline(&self) -> Nanos {
        self.deadline.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, deadline: Nanos) {
        self.deadline.store(deadline, Ordering::Release);
    }
}
