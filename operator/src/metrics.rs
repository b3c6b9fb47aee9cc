//! The operator's own metrics, in the Prometheus text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Counts and times since the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    succeeded: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
    watch_failures: AtomicU64,
    waiting: AtomicUsize,
    leader: AtomicBool,
}

impl Metrics {
    /// A reconciliation ended.
    pub fn reconciled(&self, took: Duration, success: bool) {
        let counter = if success { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// A watch broke off with an error.
    pub fn watch_failed(&self) {
        self.watch_failures.fetch_add(1, Relaxed);
    }

    /// So many more watches have not delivered everything yet.
    pub fn add_waiting(&self, count: usize) {
        self.waiting.fetch_add(count, Relaxed);
    }

    /// So many of them have.
    pub fn sub_waiting(&self, count: usize) {
        self.waiting.fetch_sub(count, Relaxed);
    }

    /// Watches that have not delivered everything since they were begun; nothing is done in their namespaces.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Whether this process is the one that acts.
    pub fn set_leader(&self, leader: bool) {
        self.leader.store(leader, Relaxed);
    }

    /// All of them as text, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, String)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (suffix, value) in samples {
                let _ = writeln!(text, "{name}{suffix} {value}");
            }
        };
        let (succeeded, failed) = (self.succeeded.load(Relaxed), self.failed.load(Relaxed));
        family(
            "raftmq_operator_reconciliations_total",
            "counter",
            "Reconciliations that ended.",
            &[(r#"{result="success"}"#, succeeded.to_string()), (r#"{result="error"}"#, failed.to_string())],
        );
        let seconds = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        family(
            "raftmq_operator_reconciliation_seconds",
            "summary",
            "How long reconciliations took.",
            &[("_sum", seconds.to_string()), ("_count", (succeeded + failed).to_string())],
        );
        let failures = self.watch_failures.load(Relaxed).to_string();
        family("raftmq_operator_watch_failures_total", "counter", "Watches that broke off.", &[("", failures)]);
        let waiting = self.waiting().to_string();
        let help = "Watches that have not delivered everything yet; nothing is done in their namespaces.";
        family("raftmq_operator_watches_waiting", "gauge", help, &[("", waiting)]);
        let leader = u8::from(self.leader.load(Relaxed)).to_string();
        family("raftmq_operator_leader", "gauge", "1 where this process is the one that acts.", &[("", leader)]);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.reconciled(Duration::from_millis(250), true);
        metrics.reconciled(Duration::from_millis(250), false);
        metrics.add_waiting(3);
        metrics.sub_waiting(1);
        metrics.set_leader(true);
        let text = metrics.render();
        for line in [
            r#"raftmq_operator_reconciliations_total{result="success"} 1"#,
            r#"raftmq_operator_reconciliations_total{result="error"} 1"#,
            "raftmq_operator_reconciliation_seconds_sum 0.5",
            "raftmq_operator_reconciliation_seconds_count 2",
            "raftmq_operator_watch_failures_total 0",
            "raftmq_operator_watches_waiting 2",
            "raftmq_operator_leader 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
