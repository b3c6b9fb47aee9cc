//! What is outstanding on a connection that this node dialled, and since when nothing came. No I/O.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Times are milliseconds since `base`, and one more; 0: none.
pub(crate) struct Vigil {
    base: Instant,
    /// Since when nothing was heard though something is outstanding.
    since: AtomicU64,
    /// A ping is to be written.
    due: AtomicU64,
    /// One is to be answered: microseconds since `base`.
    pinged: AtomicU64,
    anything: AtomicBool,
}

impl Vigil {
    pub(crate) fn new() -> Self {
        Vigil { base: Instant::now(), since: 0.into(), due: 0.into(), pinged: 0.into(), anything: false.into() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Asks for a ping, unless one is on its way. Says whether the writer has something to write.
    pub(crate) fn ping(&self) -> bool {
        if self.pinged.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let now = self.micros();
        self.due.store(now, Ordering::Relaxed);
        self.pinged.store(now, Ordering::Relaxed);
        true
    }

    /// The ping that is to be written now.
    pub(crate) fn take_ping(&self) -> Option<u64> {
        Some(self.due.swap(0, Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// A pong came; how long it took.
    pub(crate) fn pong(&self, id: u64) -> Option<Duration> {
        let answered = self.pinged.swap(0, Ordering::Relaxed) == id;
        answered.then(|| Duration::from_micros(self.micros().saturating_sub(id)))
    }

    pub(crate) fn written(&self) {
        if self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The socket took a part of a large frame, on which the peer is silent until it has all of it. (What a dead peer's
    /// socket takes ends with the kernel's buffer.)
    pub(crate) fn progressed(&self) {
        if self.since.load(Ordering::Relaxed) != 0 {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(crate) fn heard(&self, still_waiting: bool) {
        let waiting = still_waiting || self.pinged.load(Ordering::Relaxed) != 0;
        let since = if waiting { self.now() } else { 0 };
        self.since.store(since, Ordering::Relaxed);
    }

    /// A whole frame came.
    pub(crate) fn frame(&self) {
        self.anything.store(true, Ordering::Relaxed);
    }

    /// Whether any frame ever came.
    pub(crate) fn has_heard(&self) -> bool {
        self.anything.load(Ordering::Relaxed)
    }

    /// Whether something is outstanding and nothing came for as long.
    pub(crate) fn is_silent(&self, within: Duration) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        since != 0 && u128::from(self.now() - since) > within.as_millis()
    }

    /// As [`Vigil::is_silent`], and a ping is unanswered for half of it: that a request takes its time is no sign.
    pub(crate) fn is_suspect(&self, within: Duration) -> bool {
        let pinged = self.pinged.load(Ordering::Relaxed);
        let unanswered = pinged != 0 && u128::from(self.micros().saturating_sub(pinged)) > within.as_micros() / 2;
        unanswered && self.is_silent(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(by: Duration) -> Vigil {
        Vigil { base: Instant::now() - by, ..Vigil::new() }
    }

    #[test]
    fn a_request_that_takes_long_is_not_suspect_and_a_ping_without_answer_is() {
        let second = Duration::from_secs(1);
        let vigil = ago(Duration::from_secs(10));
        assert!(!vigil.is_silent(second) && !vigil.is_suspect(second));
        vigil.since.store(1_000, Ordering::Relaxed);
        assert!(vigil.is_silent(second) && !vigil.is_suspect(second));
        assert!(vigil.ping() && !vigil.ping());
        assert!(!vigil.is_suspect(second), "it was asked just now");
        vigil.pinged.store(9_000_000, Ordering::Relaxed);
        assert!(vigil.is_suspect(second));
        assert_eq!(vigil.pong(9_000_000).map(|took| took.as_secs()), Some(1));
        vigil.heard(true);
        assert!(!vigil.is_silent(second) && !vigil.is_suspect(second));
    }

    #[test]
    fn nothing_outstanding_is_no_silence() {
        let vigil = ago(Duration::from_secs(10));
        vigil.progressed();
        assert!(!vigil.is_silent(Duration::ZERO));
        vigil.written();
        vigil.since.store(1, Ordering::Relaxed);
        assert!(vigil.is_silent(Duration::from_secs(5)));
        vigil.progressed();
        assert!(!vigil.is_silent(Duration::from_secs(5)));
        vigil.heard(false);
        assert_eq!(vigil.since.load(Ordering::Relaxed), 0);
        assert_eq!((vigil.take_ping(), vigil.ping(), vigil.take_ping().is_some()), (None, true, true));
    }
}
