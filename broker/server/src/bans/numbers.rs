//! What the bans did, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use raftmq_meta::BanKind;

use super::Bans;
use crate::metrics::{Encoder, catalog};

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct BanCounters {
    refused: [AtomicU64; 3],
    closed: [AtomicU64; 3],
    /// Bans of flapping clients that this node proposed and that are in force.
    pub(crate) flapping_banned: AtomicU64,
    /// … and those that could not be made.
    pub(crate) flapping_failed: AtomicU64,
}

impl BanCounters {
    /// A connection was refused by a ban of this kind.
    pub(crate) fn refused(&self, kind: BanKind) {
        self.refused[kind as usize].fetch_add(1, Relaxed);
    }

    /// An open connection was closed by a ban of this kind.
    pub(crate) fn closed(&self, kind: BanKind) {
        self.closed[kind as usize].fetch_add(1, Relaxed);
    }
}

/// Samples of the bans and of what they did.
pub(crate) fn report(bans: &Bans, out: &mut Encoder) {
    let in_force = bans.subscribe().borrow().clone();
    for kind in BanKind::ALL {
        let name = [kind.name()];
        out.gauge(&catalog::BANS, &name, in_force.all.count(kind) as u64);
        out.counter(&catalog::BANS_REFUSED, &name, bans.counters.refused[kind as usize].load(Relaxed));
        out.counter(&catalog::BANS_CLOSED, &name, bans.counters.closed[kind as usize].load(Relaxed));
    }
    out.counter(&catalog::FLAPPING, &["banned"], bans.counters.flapping_banned.load(Relaxed));
    out.counter(&catalog::FLAPPING, &["failed"], bans.counters.flapping_failed.load(Relaxed));
}
