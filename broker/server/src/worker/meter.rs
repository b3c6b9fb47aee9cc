//! What the clients of one listener use together: over all workers, so each bucket has a lock. It is taken once a read, and by
//! connections that have such a limit alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use raftmq_config::ListenerRates;
use raftmq_session::{Bucket, Rate};

use super::Clock;

/// A longer wait is made of several, so that a rate that has changed in the meantime counts.
const LONGEST_WAIT_MS: u64 = 500;
/// How often it is said in the log that connections wait.
const SAID_EVERY_MS: u64 = 10_000;

/// The rates of a listener.
#[derive(Default)]
pub(crate) struct Meters {
    pub(super) messages: Meter,
    pub(super) bytes: Meter,
    connections: Meter,
    /// Connections that had to wait to be accepted, and how long in all.
    pub(crate) waits: AtomicU64,
    pub(crate) waited_ms: AtomicU64,
    /// When that was last said in the log, plus one.
    said_ms: AtomicU64,
}

impl Meters {
    /// As the listener's settings say.
    pub(crate) fn new(settings: Option<&ListenerRates>) -> Self {
        let meters = Self::default();
        // Full at any time.
        meters.set(settings, 0);
        meters
    }

    /// Takes new settings. Connections have to be told, too ([`super::Worker::renew`]).
    pub(crate) fn set(&self, settings: Option<&ListenerRates>, now_ms: u64) {
        let rates = settings.cloned().unwrap_or_default();
        self.connections.set(Rate::new(rates.connections.into(), rates.connection_burst.into()), now_ms);
        self.messages.set(Rate::new(rates.messages.into(), rates.message_burst.into()), now_ms);
        self.bytes.set(Rate::new(rates.bytes.bytes(), rates.byte_burst.bytes()), now_ms);
    }

    /// Whether clients are to be measured.
    pub(super) fn measures_clients(&self) -> bool {
        self.messages.is_set() || self.bytes.is_set()
    }

    /// Waits until one more connection may be accepted. The others wait in the kernel meanwhile, or in QUIC's endpoint.
    pub(super) async fn connection(&self, listener: &str, clock: &Clock) {
        let begun = clock.ms();
        let Err(mut wait_ms) = self.connections.try_take(begun) else {
            return;
        };
        self.waits.fetch_add(1, Ordering::Relaxed);
        let said = self.said_ms.load(Ordering::Relaxed);
        if said == 0 || begun >= said + SAID_EVERY_MS {
            self.said_ms.store(begun + 1, Ordering::Relaxed);
            tracing::debug!(listener, "connections wait to be accepted: more come than rates.connections lets in");
        }
        let mut waited_to = begun;
        loop {
            tokio::time::sleep(Duration::from_millis(wait_ms.clamp(1, LONGEST_WAIT_MS))).await;
            let now = clock.ms();
            self.waited_ms.fetch_add(now.saturating_sub(waited_to), Ordering::Relaxed);
            waited_to = now;
            match self.connections.try_take(now) {
                Ok(()) => return,
                Err(longer) => wait_ms = longer,
            }
        }
    }
}

/// A bucket that several threads take from, if there is a limit.
#[derive(Default)]
pub(super) struct Meter(Mutex<Option<Bucket>>);

impl Meter {
    fn set(&self, rate: Option<Rate>, now_ms: u64) {
        set(&mut self.lock(), rate, now_ms);
    }

    pub(super) fn is_set(&self) -> bool {
        self.lock().is_some()
    }

    /// Units that there are.
    pub(super) fn available(&self, now_ms: u64) -> u64 {
        self.lock().as_mut().map_or(u64::MAX, |bucket| bucket.available(now_ms))
    }

    /// Takes what was used.
    pub(super) fn take(&self, units: u64) {
        if let Some(bucket) = &mut *self.lock() {
            bucket.take(units);
        }
    }

    /// Takes one, or says in how many milliseconds there may be one.
    fn try_take(&self, now_ms: u64) -> Result<(), u64> {
        let mut bucket = self.lock();
        let Some(bucket) = &mut *bucket else {
            return Ok(());
        };
        if bucket.available(now_ms) == 0 {
            return Err(bucket.wait_ms());
        }
        bucket.take(1);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a bucket another rate, or takes it away, or makes one.
pub(super) fn set(bucket: &mut Option<Bucket>, rate: Option<Rate>, now_ms: u64) {
    match (rate, bucket.as_mut()) {
        (Some(rate), Some(bucket)) if bucket.rate() == rate => {}
        (Some(rate), Some(bucket)) => bucket.set_rate(rate, now_ms),
        (Some(rate), None) => *bucket = Some(Bucket::new(rate, now_ms)),
        (None, _) => *bucket = None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_what_there_is() {
        let meters = Meters::new(Some(&ListenerRates { connections: 10, connection_burst: 3, ..Default::default() }));
        assert!(!meters.measures_clients());
        let taken: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter(|_| meters.connections.try_take(1_000).is_ok()).count()))
                .collect();
            all.into_iter().map(|one| one.join().unwrap_or(0)).sum()
        });
        assert_eq!(taken, 3);
        assert_eq!(meters.connections.try_take(1_000), Err(100));
        assert_eq!(meters.connections.try_take(1_100), Ok(()));
    }

    #[test]
    fn settings_come_and_go() {
        let meters = Meters::new(None);
        assert_eq!(meters.messages.available(5), u64::MAX);
        let some = ListenerRates { messages: 10, bytes: raftmq_config::ByteSize::kib(1), ..Default::default() };
        meters.set(Some(&some), 5);
        assert!(meters.measures_clients());
        assert_eq!((meters.messages.available(5), meters.bytes.available(5)), (10, 1_024));
        meters.messages.take(10);
        // The same again changes nothing, nor does a higher one give what was used.
        meters.set(Some(&some), 5);
        meters.set(Some(&ListenerRates { messages: 20, ..some }), 5);
        assert_eq!(meters.messages.available(5), 0);
        meters.set(None, 5);
        assert_eq!(meters.messages.available(5), u64::MAX);
        assert!(!meters.measures_clients());
    }
}
