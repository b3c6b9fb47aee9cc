//! The `$SYS` tree: what a node says about itself.
//!
//! Two trees from the same counts, each name of which is in docs/sys-topics.md:
//! - `$SYS/brokers/…` with the names and values that EMQX 5 users know; on by default;
//! - `$SYS/broker/…` with those of Mosquitto; off by default.
//!
//! Decided here: the values are retained unless that is turned off (EMQX retains only version, description and the list of
//! nodes), so that a subscriber sees them at once and not at the next interval; of the Mosquitto tree only what has changed is
//! published, as Mosquitto does; `…/max` is the highest value that was seen when somebody looked
//! ([`SysTree::observe`]).
//!
//! `$SYS/brokers` and the Mosquitto tree have no node in their names: they are [local](SysMessage::local) to the
//! node, or the values of all nodes would be mixed up.

mod datetime;
mod emqx;
mod load;
mod mosquitto;
mod snapshot;

use raftmq_mqtt::QoS;

use crate::ServerMessage;
use crate::level::topic_level;
use load::Load;

pub use snapshot::{MosquittoCounters, PacketCounts, SysCounters, SysGauges, SysSnapshot};

/// Settings of the `$SYS` tree. Intervals in milliseconds; what is below 1000 counts as 1000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysSettings {
    /// Whether there is the EMQX tree.
    pub enabled: bool,
    /// How often version, description, nodes, statistics and metrics are published.
    pub interval_ms: u64,
    /// How often uptime and time are published.
    pub heartbeat_ms: u64,
    /// Whether there is the Mosquitto tree.
    pub mosquitto: bool,
    /// How often it is published.
    pub mosquitto_interval_ms: u64,
    /// Whether all values are retained.
    pub retain: bool,
    /// The quality of service of all of them.
    pub qos: QoS,
}

impl Default for SysSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval_ms: 60_000,
            heartbeat_ms: 30_000,
            mosquitto: false,
            mosquitto_interval_ms: 10_000,
            retain: true,
            qos: QoS::AtMostOnce,
        }
    }
}

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SysTime {
    /// Milliseconds since the start of the node, on a clock that never jumps.
    pub uptime_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// A message of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysMessage {
    /// The message.
    pub message: ServerMessage,
    /// It is for subscribers of this node only, and is retained on this node only.
    pub local: bool,
}

/// The `$SYS` tree of a node: when what is published.
#[derive(Debug)]
pub struct SysTree {
    settings: SysSettings,
    /// `$SYS/brokers/{node}/`
    prefix: String,
    version: String,
    description: String,
    /// The highest values that were seen.
    maxima: SysGauges,
    loads: [Load; mosquitto::LOADS],
    mosquitto_at_ms: u64,
    mosquitto_last: Vec<(String, String)>,
    due: Due,
}

/// When the parts are published next, in milliseconds of uptime.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    tick_ms: u64,
    heartbeat_ms: u64,
    mosquitto_ms: u64,
}

impl SysTree {
    /// The tree of a node. `version` and `description` are what the topics of these names say.
    #[must_use]
    pub fn new(settings: SysSettings, node: &str, version: &str, description: &str) -> Self {
        Self {
            settings,
            prefix: node_prefix(node),
            version: version.to_owned(),
            description: description.to_owned(),
            maxima: SysGauges::default(),
            loads: [Load::default(); mosquitto::LOADS],
            mosquitto_at_ms: 0,
            mosquitto_last: Vec::new(),
            due: Due::default(),
        }
    }

    /// When [`poll`](Self::poll) has something to publish, in milliseconds of uptime; `None` if the tree is off. The first
    /// time is at once.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        let emqx = self.settings.enabled.then_some(self.due.tick_ms.min(self.due.heartbeat_ms));
        let mosquitto = self.settings.mosquitto.then_some(self.due.mosquitto_ms);
        emqx.into_iter().chain(mosquitto).min()
    }

    /// Looks at the present values, for the highest ones. Also done by [`poll`](Self::poll); once a second shows what
    /// comes and goes between two of them.
    pub fn observe(&mut self, gauges: &SysGauges) {
        let max = &mut self.maxima;
        for (max, now) in [
            (&mut max.sessions, gauges.sessions),
            (&mut max.clients_connected, gauges.clients_connected),
            (&mut max.topics, gauges.topics),
            (&mut max.subscriptions, gauges.subscriptions),
            (&mut max.shared_subscriptions, gauges.shared_subscriptions),
            (&mut max.subscribers, gauges.subscribers),
            (&mut max.retained, gauges.retained),
            (&mut max.delayed, gauges.delayed),
            (&mut max.stored_messages, gauges.stored_messages),
            (&mut max.stored_bytes, gauges.stored_bytes),
        ] {
            *max = now.max(*max);
        }
    }

    /// Appends what is due.
    pub fn poll(&mut self, time: SysTime, snapshot: &SysSnapshot, out: &mut Vec<SysMessage>) {
        self.observe(&snapshot.gauges);
        if self.settings.enabled {
            if is_due(&mut self.due.heartbeat_ms, time, self.settings.heartbeat_ms) {
                self.heartbeat(time, out);
            }
            if is_due(&mut self.due.tick_ms, time, self.settings.interval_ms) {
                self.tick(snapshot, out);
            }
        }
        if self.settings.mosquitto && is_due(&mut self.due.mosquitto_ms, time, self.settings.mosquitto_interval_ms) {
            self.mosquitto(time, snapshot, out);
        }
    }

    fn message(&self, topic: String, payload: impl Into<Vec<u8>>, retain: bool, local: bool) -> SysMessage {
        let retain = retain || self.settings.retain;
        SysMessage { message: ServerMessage { topic, payload: payload.into(), qos: self.settings.qos, retain }, local }
    }
}

/// `$SYS/brokers/{node}/`
pub(crate) fn node_prefix(node: &str) -> String {
    ["$SYS/brokers/", &topic_level(node), "/"].concat()
}

/// Whether it is time, and if so, when it is next: on the grid of the interval, without catching up on what was missed.
fn is_due(due_ms: &mut u64, time: SysTime, interval_ms: u64) -> bool {
    let interval_ms = interval_ms.max(1000);
    if time.uptime_ms < *due_ms {
        return false;
    }
    let missed = (time.uptime_ms - *due_ms) / interval_ms;
    *due_ms = due_ms.saturating_add((missed + 1).saturating_mul(interval_ms));
    true
}

#[cfg(test)]
mod tests;
