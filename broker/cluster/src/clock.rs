//! The clock of leases.

use std::time::Duration;

use raftmq_meta::Nanos;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_BOOTTIME: monotonic, and goes on while the machine is suspended.
pub fn boottime() -> Nanos {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// How long until `at`.
pub(crate) fn until(at: Nanos) -> Duration {
    Duration::from_nanos(at.saturating_sub(boottime()))
}
