//! What the broker tells Prometheus.
//!
//! - [`catalog`] declares every metric: name, help, type, labels. `docs/metrics.md` is made from it.
//! - [`WorkerCounters`] are what a worker counts while it handles messages: plain atomics with one writer each,
//!   summed when somebody asks.
//! - A [`MetricsSource`] reads everything else at that moment from whoever knows it ([`sources`], [`process`]).
//! - [`Encoder`] writes the text format.

pub mod catalog;
mod encoder;
pub mod process;
pub mod sources;
mod tasks;
mod worker;

pub use catalog::{Kind, Metric, reference_markdown};
pub use encoder::Encoder;
pub use worker::{DropReason, EndReason, PublishQos, PublishRefusal, RefuseReason, Throttle, WorkerCounters};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use raftmq_features::sys::SysSnapshot;
use tokio::runtime::RuntimeMetrics;
use worker::Shared;

/// Something that can be asked for its numbers. Called at every scrape: it must not block for long.
pub trait MetricsSource: Send + Sync {
    /// Writes the current numbers.
    fn collect(&self, out: &mut Encoder);
}

impl<F: Fn(&mut Encoder) + Send + Sync> MetricsSource for F {
    fn collect(&self, out: &mut Encoder) {
        self(out);
    }
}

/// The numbers of one process.
pub struct Metrics {
    started: Instant,
    workers: Mutex<Vec<Arc<Shared>>>,
    tasks: tasks::Tasks,
    /// Messages of other nodes that were shed before a worker got them.
    forwarded_shed: AtomicU64,
    sources: RwLock<Vec<Box<dyn MetricsSource>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// With the process's own numbers as the first source.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            workers: Mutex::default(),
            tasks: tasks::Tasks::default(),
            forwarded_shed: AtomicU64::new(0),
            sources: RwLock::new(vec![Box::new(process::ProcessSource)]),
        })
    }

    /// Counters for one more worker.
    #[must_use]
    pub fn worker(&self) -> WorkerCounters {
        let shared = Arc::new(Shared::new(self.started));
        self.lock_workers().push(Arc::clone(&shared));
        WorkerCounters::new(shared)
    }

    /// Counts the tasks of one more runtime from now on, with those of others of that name.
    pub fn add_runtime(&self, name: &'static str, runtime: RuntimeMetrics) {
        self.tasks.add(name, runtime);
    }

    /// Asks this source at every scrape from now on.
    pub fn add_source(&self, source: impl MetricsSource + 'static) {
        self.sources.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// All numbers in the Prometheus text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = Encoder::default();
        worker::collect(&self.lock_workers(), self.forwarded_shed.load(Ordering::Relaxed), &mut out);
        self.tasks.collect(&mut out);
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        for source in sources.iter() {
            source.collect(&mut out);
        }
        out.finish()
    }

    /// What the workers' numbers say for the `$SYS` tree; the rest of it is somebody else's to know.
    #[must_use]
    pub fn sys(&self) -> SysSnapshot {
        worker::sys(&self.lock_workers())
    }

    /// Wills that wait for their delay.
    #[must_use]
    pub fn wills_waiting(&self) -> u64 {
        worker::wills_waiting(&self.lock_workers())
    }

    /// How long ago each worker last said that its loop turns ([`WorkerCounters::beat`]).
    #[must_use]
    pub fn worker_beats(&self) -> Vec<Duration> {
        let now = self.started.elapsed();
        let workers = self.lock_workers();
        workers.iter().map(|worker| worker.silent_for(now)).collect()
    }

    /// How late the latest of the workers' loops is now: that of its last tick, or of the next, which is due
    /// after `period`.
    #[must_use]
    pub fn loop_delay(&self, period: Duration) -> Duration {
        let now = self.started.elapsed();
        self.lock_workers().iter().map(|worker| worker.late(now, period)).max().unwrap_or_default()
    }

    /// A message of another node was shed.
    pub(crate) fn forwarded_shed(&self) {
        self.forwarded_shed.fetch_add(1, Ordering::Relaxed);
    }

    fn lock_workers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Shared>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
