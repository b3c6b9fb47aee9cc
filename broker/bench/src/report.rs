//! What is said at the end: a table for people, JSON for programs. docs/bench.md explains the fields.

use std::fmt::{self, Write as _};

use raftmq_mqtt::QoS;
use serde::Serialize;

use crate::conduct::{Course, Ended};
use crate::counters::{Latency, Summary};
use crate::plan::{Kind, Plan};
use crate::process::SECOND;

/// A run, as JSON has it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether all was delivered and nothing failed.
    pub(crate) ok: bool,
    ended: Ended,
    settings: Settings,
    seconds: Seconds,
    connections: Connections,
    messages: Messages,
    measured: Measured,
    latency_us: Latencies,
    errors: Vec<ErrorCount>,
    generator: Generator,
    watched: Vec<Watched>,
}

#[derive(Debug, Serialize)]
struct Settings {
    command: &'static str,
    version: &'static str,
    urls: Vec<String>,
    subscribe_urls: Option<Vec<String>>,
    mqtt_version: u8,
    publishers: u32,
    subscribers: u32,
    subscriptions_per_connection: u16,
    topic: Option<String>,
    qos: u8,
    payload_bytes: usize,
    rate_per_second: Option<f64>,
    window: Option<u16>,
    threads: usize,
}

#[derive(Debug, Serialize)]
struct Seconds {
    connect: f64,
    warmup: f64,
    measured: f64,
    drain: f64,
}

#[derive(Debug, Serialize)]
struct Connections {
    wanted: u64,
    connected: u64,
    failed: u64,
    lost: u64,
    per_second: f64,
}

/// Of the whole run, the warm-up too.
#[derive(Debug, Serialize)]
struct Messages {
    sent: u64,
    acknowledged: Option<u64>,
    refused: Option<u64>,
    unacknowledged: Option<u64>,
    expected: Option<u64>,
    delivered: Option<u64>,
    lost: Option<u64>,
    duplicates: u64,
    out_of_order: u64,
    repeated: u64,
    foreign: u64,
}

#[derive(Debug, Serialize)]
struct Measured {
    sent: u64,
    acknowledged: u64,
    delivered: u64,
    sent_per_second: f64,
    acknowledged_per_second: f64,
    delivered_per_second: f64,
    bytes_sent_per_second: f64,
    bytes_received_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Latencies {
    end_to_end: Option<Summary>,
    acknowledge: Option<Summary>,
    connect: Option<Summary>,
}

#[derive(Debug, Serialize)]
struct ErrorCount {
    reason: String,
    count: u64,
}

/// This process, while it was measured.
#[derive(Debug, Serialize)]
struct Generator {
    cpu_seconds: f64,
    cpu_seconds_per_million: Option<f64>,
}

/// A process of `--watch-pid`.
#[derive(Debug, Serialize)]
struct Watched {
    pid: u32,
    cpu_seconds_connecting: Option<f64>,
    cpu_seconds: Option<f64>,
    cpu_seconds_per_million: Option<f64>,
    resident_bytes_before: Option<u64>,
    resident_bytes_connected: Option<u64>,
    resident_bytes_end: Option<u64>,
}

impl Report {
    pub(crate) fn new(plan: &Plan, course: &Course) -> Self {
        let total = &course.outcome.total;
        let measured = &course.outcome.measured;
        let (from, to) = (&course.measure.0, &course.measure.1);
        let seconds = seconds(from.at, to.at);
        let per_second = |count: u64| if seconds > 0.0 { round(count as f64 / seconds, 1) } else { 0.0 };
        let million = if plan.subscribers > 0 { measured.delivered } else { measured.sent };
        let per_million = |cpu: f64| (million > 0).then(|| round(cpu * 1e6 / million as f64, 3));
        let with_acks = plan.publishers > 0 && plan.qos != QoS::AtMostOnce;
        let subscribes = plan.subscribers > 0 && plan.kind != Kind::Conn;
        let expected = match plan.kind {
            Kind::Sub => Some(total.delivered + course.outcome.gaps).filter(|_| plan.stamps),
            kind => kind.is_end_to_end().then(|| total.sent * u64::from(plan.copies())),
        };
        let lost = expected.map(|expected| expected.saturating_sub(total.delivered));
        let unacknowledged = total.sent - (total.acknowledged + total.refused).min(total.sent);
        let wanted = u64::from(plan.publishers) + u64::from(plan.subscribers);
        let connect_end =
            if course.outcome.connected_at > 0 { course.outcome.connected_at } else { course.connected.at };
        let connect_seconds = self::seconds(course.begin.at, connect_end);
        let own_cpu = to.own_cpu.saturating_sub(from.own_cpu) as f64 / SECOND as f64;
        let errors = course.outcome.errors.list();
        let ok = errors.is_empty()
            && total.connected == wanted
            && !matches!(course.ended, Ended::ConnectionsLost | Ended::NotConnected)
            && lost.unwrap_or(0) == 0
            && total.out_of_order == 0
            // At least once is just that.
            && (total.duplicates == 0 || plan.qos == QoS::AtLeastOnce)
            && (!with_acks || unacknowledged == 0);
        Self {
            ok,
            ended: course.ended,
            settings: Settings::new(plan),
            seconds: Seconds {
                connect: round(connect_seconds, 6),
                warmup: plan.warmup.as_secs_f64(),
                measured: round(seconds, 6),
                drain: round(self::seconds(to.at, course.drained), 6),
            },
            connections: Connections {
                wanted,
                connected: total.connected,
                failed: total.failed,
                lost: total.lost,
                per_second: if connect_seconds > 0.0 {
                    round(total.connected as f64 / connect_seconds, 1)
                } else {
                    0.0
                },
            },
            messages: Messages {
                sent: total.sent,
                acknowledged: with_acks.then_some(total.acknowledged),
                refused: with_acks.then_some(total.refused),
                unacknowledged: with_acks.then_some(unacknowledged),
                expected,
                delivered: subscribes.then_some(total.delivered),
                lost,
                duplicates: total.duplicates,
                out_of_order: total.out_of_order,
                repeated: total.repeated,
                foreign: total.foreign,
            },
            measured: Measured {
                sent: measured.sent,
                acknowledged: measured.acknowledged,
                delivered: measured.delivered,
                sent_per_second: per_second(measured.sent),
                acknowledged_per_second: per_second(measured.acknowledged),
                delivered_per_second: per_second(measured.delivered),
                bytes_sent_per_second: per_second(measured.bytes_sent),
                bytes_received_per_second: per_second(measured.bytes_received),
            },
            latency_us: Latencies {
                end_to_end: summary(&course.outcome.end_to_end),
                acknowledge: summary(&course.outcome.acknowledge),
                connect: summary(&course.outcome.connect),
            },
            errors: errors.into_iter().map(|(reason, count)| ErrorCount { reason: reason.to_owned(), count }).collect(),
            generator: Generator { cpu_seconds: round(own_cpu, 3), cpu_seconds_per_million: per_million(own_cpu) },
            watched: watched(plan, course, per_million),
        }
    }
}

impl Settings {
    fn new(plan: &Plan) -> Self {
        let loaded = plan.publishers > 0;
        Self {
            command: plan.kind.name(),
            version: env!("CARGO_PKG_VERSION"),
            urls: plan.urls.clone(),
            subscribe_urls: plan.subscribe_urls.clone(),
            mqtt_version: plan.version.level(),
            publishers: plan.publishers,
            subscribers: plan.subscribers,
            subscriptions_per_connection: if plan.subscribers > 0 { plan.subscriptions } else { 0 },
            topic: (loaded || plan.subscriptions > 0).then(|| {
                let side = if loaded { crate::plan::Side::Publisher } else { crate::plan::Side::Subscriber };
                plan.topic.fill(0, &plan.client_id(side, 0), plan.run)
            }),
            qos: plan.qos as u8,
            payload_bytes: plan.payload,
            rate_per_second: (plan.rate > 0.0).then_some(plan.rate),
            window: loaded.then_some(plan.window),
            threads: plan.threads,
        }
    }
}

fn watched(plan: &Plan, course: &Course, per_million: impl Fn(f64) -> Option<f64>) -> Vec<Watched> {
    let (from, to) = (&course.measure.0, &course.measure.1);
    let of = |(n, pid): (usize, &u32)| {
        let at = |sample: &crate::conduct::Sample| sample.watched.get(n).copied().flatten();
        let cpu = |from, to| Some(round(at(to)?.cpu - at(from)?.cpu, 3));
        let resident = |sample| at(sample).map(|usage| usage.resident);
        Watched {
            pid: *pid,
            cpu_seconds_connecting: cpu(&course.begin, &course.connected),
            cpu_seconds: cpu(from, to),
            cpu_seconds_per_million: cpu(from, to).and_then(&per_million),
            resident_bytes_before: resident(&course.begin),
            resident_bytes_connected: resident(&course.connected),
            resident_bytes_end: resident(to),
        }
    };
    plan.options.watch_pid.iter().enumerate().map(of).collect()
}

fn summary(latency: &Latency) -> Option<Summary> {
    (!latency.is_empty()).then(|| latency.summary())
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / SECOND as f64
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// The table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        writeln!(f, "{}", settings.headline())?;
        let mut row = |name: &str, text: String| writeln!(f, "{name:<14}{text}");
        let c = &self.connections;
        let mut text =
            format!("{} of {} in {:.2} s ({:.0}/s)", c.connected, c.wanted, self.seconds.connect, c.per_second);
        for (count, word) in [(c.failed, "failed"), (c.lost, "lost later")] {
            if count > 0 {
                // Writing to a string does not fail.
                let _ = write!(text, ", {count} {word}");
            }
        }
        row("connections", text)?;
        if settings.command != "conn" && self.ended != Ended::NotConnected {
            row("messages", self.messages.line(settings.publishers > 0))?;
            row(&format!("in {:.3} s", self.seconds.measured), self.measured.line(settings))?;
        }
        self.latency_us.write(f)?;
        let per_million =
            |cpu: Option<f64>| cpu.map_or_else(String::new, |cpu| format!(", {cpu:.2} s a million messages"));
        let generator = &self.generator;
        writeln!(
            f,
            "{:<14}{:.2} s of processor time{}",
            "this process",
            generator.cpu_seconds,
            per_million(generator.cpu_seconds_per_million)
        )?;
        for watched in &self.watched {
            watched.write(f, &per_million(watched.cpu_seconds_per_million))?;
        }
        for error in &self.errors {
            writeln!(f, "{:<14}{} × {}", "error", error.count, error.reason)?;
        }
        writeln!(f, "{:<14}{}", "result", self.verdict())
    }
}

impl Report {
    fn verdict(&self) -> String {
        let ended = match self.ended {
            Ended::Duration | Ended::Messages => "",
            Ended::Interrupted => ", ended by Ctrl-C",
            Ended::ConnectionsLost => ", ended because all publishers or all subscribers were gone",
            Ended::NotConnected => ", no load: not all connections came up",
        };
        format!("{}{ended}", if self.ok { "ok" } else { "NOT OK" })
    }
}

impl Settings {
    fn headline(&self) -> String {
        let clients = match self.command {
            "conn" => {
                format!("{} connections, {} subscriptions each", self.subscribers, self.subscriptions_per_connection)
            }
            "sub" => format!("{} subscribers, QoS {}", self.subscribers, self.qos),
            "pub" => format!("{} publishers", self.publishers),
            "pair" => format!("{} pairs", self.publishers),
            _ => format!("{} publishers, {} subscribers", self.publishers, self.subscribers),
        };
        let load = match (self.window, self.rate_per_second) {
            (None, _) => String::new(),
            (Some(window), rate) => {
                let rate = rate.map_or_else(|| "as fast as possible".to_owned(), |rate| format!("{rate} messages/s"));
                format!(", QoS {}, {} bytes, {rate}, window {window}", self.qos, self.payload_bytes)
            }
        };
        let version = if self.mqtt_version == 5 { "5.0" } else { "3.1.1" };
        let subscribe = self.subscribe_urls.as_ref().map_or_else(String::new, |urls| format!(" → {}", urls.join(" ")));
        format!("{}: {clients}{load}, MQTT {version}, {}{subscribe}", self.command, self.urls.join(" "))
    }
}

impl Messages {
    fn line(&self, publishes: bool) -> String {
        let mut parts = Vec::new();
        if publishes {
            parts.push(format!("sent {}", self.sent));
        }
        if let Some(acknowledged) = self.acknowledged {
            parts.push(format!("acknowledged {acknowledged}"));
        }
        match (self.delivered, self.expected) {
            (Some(delivered), Some(expected)) => parts.push(format!("delivered {delivered} of {expected}")),
            (Some(delivered), None) => parts.push(format!("delivered {delivered}")),
            (None, _) => {}
        }
        for (count, word) in [
            (self.lost.unwrap_or(0), "lost"),
            (self.refused.unwrap_or(0), "refused"),
            (self.unacknowledged.unwrap_or(0), "not acknowledged"),
            (self.duplicates, "duplicates"),
            (self.out_of_order, "out of order"),
            (self.repeated, "repeated"),
            (self.foreign, "of others"),
        ] {
            if count > 0 || (word == "lost" && self.lost.is_some()) {
                parts.push(format!("{word} {count}"));
            }
        }
        parts.join(", ")
    }
}

impl Measured {
    fn line(&self, settings: &Settings) -> String {
        let mut parts = Vec::new();
        if settings.publishers > 0 {
            parts.push(format!("sent {:.0}/s", self.sent_per_second));
            if settings.qos > 0 {
                parts.push(format!("acknowledged {:.0}/s", self.acknowledged_per_second));
            }
        }
        if settings.subscribers > 0 {
            parts.push(format!("delivered {:.0}/s", self.delivered_per_second));
        }
        let bytes = self.bytes_sent_per_second + self.bytes_received_per_second;
        parts.push(format!("{:.2} MB/s", bytes / 1e6));
        parts.join(", ")
    }
}

impl Latencies {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("end to end", &self.end_to_end), ("acknowledge", &self.acknowledge), ("connect", &self.connect)];
        let mut titled = false;
        for (name, summary) in all {
            let Some(s) = summary else { continue };
            if !titled {
                titled = true;
                write!(f, "{:<14}", "latency in ms")?;
                for title in ["p50", "p90", "p99", "p99.9", "max", "mean", "count"] {
                    write!(f, "{title:>10}")?;
                }
                writeln!(f)?;
            }
            write!(f, "  {name:<12}")?;
            for us in [s.p50, s.p90, s.p99, s.p999, s.max] {
                write!(f, "{:>10.3}", us as f64 / 1e3)?;
            }
            writeln!(f, "{:>10.3}{:>10}", s.mean / 1e3, s.count)?;
        }
        Ok(())
    }
}

impl Watched {
    fn write(&self, f: &mut fmt::Formatter<'_>, per_million: &str) -> fmt::Result {
        let name = format!("process {}", self.pid);
        match (self.cpu_seconds, self.resident_bytes_before, self.resident_bytes_connected, self.resident_bytes_end) {
            (Some(cpu), Some(before), Some(connected), Some(end)) => {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                let connecting = self.cpu_seconds_connecting.unwrap_or_default();
                writeln!(
                    f,
                    "{name:<14}{cpu:.2} s of processor time{per_million}; {connecting:.2} s while connecting; memory {:.1}, connected {:.1}, end {:.1} MiB",
                    mib(before),
                    mib(connected),
                    mib(end)
                )
            }
            _ => writeln!(f, "{name:<14}was not there all the time"),
        }
    }
}
