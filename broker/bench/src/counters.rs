//! What a thread counts.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use crate::failure::Errors;

/// The longest latency that is told apart, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// Numbers of messages and connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Sent by publishers.
    pub(crate) sent: u64,
    /// Acknowledged for good: PUBACK, PUBCOMP.
    pub(crate) acknowledged: u64,
    /// Refused by PUBACK or PUBREC.
    pub(crate) refused: u64,
    /// That came to subscribers, each message once a subscriber.
    pub(crate) delivered: u64,
    /// That came again as new ones.
    pub(crate) duplicates: u64,
    /// That came after a later one of the same publisher.
    pub(crate) out_of_order: u64,
    /// Sent again by the server with the same identifier, QoS 2.
    pub(crate) repeated: u64,
    /// Of others than this run.
    pub(crate) foreign: u64,
    /// Bytes of MQTT that were sent.
    pub(crate) bytes_sent: u64,
    /// Bytes of MQTT that came.
    pub(crate) bytes_received: u64,
    /// Connections that came up, with their subscriptions.
    pub(crate) connected: u64,
    /// Connections that did not.
    pub(crate) failed: u64,
    /// Connections that were lost after they had come up.
    pub(crate) lost: u64,
}

macro_rules! each {
    ($do:ident) => {
        $do!(
            sent,
            acknowledged,
            refused,
            delivered,
            duplicates,
            out_of_order,
            repeated,
            foreign,
            bytes_sent,
            bytes_received,
            connected,
            failed,
            lost
        )
    };
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        macro_rules! add { ($($name:ident),*) => { $(self.$name += other.$name;)* } }
        each!(add);
    }

    /// What came since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut counts = *self;
        macro_rules! subtract { ($($name:ident),*) => { $(counts.$name -= earlier.$name;)* } }
        each!(subtract);
        counts
    }
}

/// The numbers of a thread as others see them: it writes them once a turn.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) sent: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) connected: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Of those that are connected now.
    pub(crate) publishers: AtomicU64,
    pub(crate) subscribers: AtomicU64,
    pub(crate) errors: AtomicU64,
    /// Connections that have more to send than their socket takes.
    pub(crate) blocked: AtomicU64,
    /// 1: nothing more is published, and the numbers above say so.
    pub(crate) stopped: AtomicU64,
}

impl Live {
    pub(crate) fn show(&self, counts: &Counts) {
        self.sent.store(counts.sent, Ordering::Relaxed);
        self.acknowledged.store(counts.acknowledged, Ordering::Relaxed);
        self.refused.store(counts.refused, Ordering::Relaxed);
        self.delivered.store(counts.delivered, Ordering::Relaxed);
        self.connected.store(counts.connected, Ordering::Relaxed);
        self.failed.store(counts.failed, Ordering::Relaxed);
    }
}

/// Latencies, in microseconds with three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are constants that it takes"))
    }

    /// From `due` until `now`, both in nanoseconds.
    pub(crate) fn record(&mut self, due: u64, now: u64) {
        self.0.saturating_record(now.saturating_sub(due) / 1_000);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn summary(&self) -> Summary {
        let at = |quantile| self.0.value_at_quantile(quantile);
        Summary {
            count: self.0.len(),
            min: self.0.min(),
            mean: (self.0.mean() * 10.0).round() / 10.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max(),
        }
    }
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// What a thread hands over at its end.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Of the whole run.
    pub(crate) total: Counts,
    /// Of the time that is measured.
    pub(crate) measured: Counts,
    /// Of messages that were due in the time that is measured.
    pub(crate) end_to_end: Latency,
    pub(crate) acknowledge: Latency,
    /// From the begin of a connection until it could be used.
    pub(crate) connect: Latency,
    /// Gaps at subscribers, where it is not known what was sent.
    pub(crate) gaps: u64,
    pub(crate) errors: Errors,
    /// When the last connection came up.
    pub(crate) connected_at: u64,
}

impl Outcome {
    pub(crate) fn new() -> Self {
        Self {
            total: Counts::default(),
            measured: Counts::default(),
            end_to_end: Latency::new(),
            acknowledge: Latency::new(),
            connect: Latency::new(),
            gaps: 0,
            errors: Errors::default(),
            connected_at: 0,
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.total.add(&other.total);
        self.measured.add(&other.measured);
        self.end_to_end.merge(&other.end_to_end);
        self.acknowledge.merge(&other.acknowledge);
        self.connect.merge(&other.connect);
        self.gaps += other.gaps;
        self.errors.merge(&other.errors);
        self.connected_at = self.connected_at.max(other.connected_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latency = Latency::new();
        // 1 to 1000 microseconds, in two halves.
        let mut other = Latency::new();
        for us in 1..=1_000 {
            let to = if us % 2 == 0 { &mut latency } else { &mut other };
            to.record(5, 5 + us * 1_000);
        }
        latency.merge(&other);
        let summary = latency.summary();
        assert_eq!((summary.count, summary.min, summary.max), (1_000, 1, 1_000));
        assert_eq!((summary.p50, summary.p90, summary.p99, summary.p999), (500, 900, 990, 999));
        assert!((summary.mean - 500.5).abs() < 0.2);
    }

    #[test]
    fn what_is_out_of_bounds_is_recorded_too() {
        let mut latency = Latency::new();
        latency.record(10, 5);
        latency.record(0, u64::MAX);
        assert_eq!(latency.summary().count, 2);
        assert!(latency.summary().max >= LONGEST);
        assert_eq!(Latency::new().summary(), Summary::default());
    }

    #[test]
    fn counts_since() {
        let mut now = Counts { sent: 10, delivered: 7, lost: 1, ..Counts::default() };
        let earlier = Counts { sent: 4, delivered: 2, ..Counts::default() };
        let since = now.since(&earlier);
        assert_eq!((since.sent, since.delivered, since.lost), (6, 5, 1));
        now.add(&since);
        assert_eq!((now.sent, now.delivered), (16, 12));
    }
}
