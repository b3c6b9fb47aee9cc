//! `$SYS/brokers/…`, as EMQX 5 users know it.

use raftmq_mqtt::PacketType;

use super::datetime::rfc3339;
use super::{SysGauges, SysMessage, SysSnapshot, SysTime, SysTree};

type Gauge = fn(&SysGauges) -> u64;

const STATS: [(&str, Gauge); 12] = [
    ("connections", |gauges| gauges.sessions),
    ("live_connections", |gauges| gauges.clients_connected),
    ("channels", |gauges| gauges.sessions),
    ("sessions", |gauges| gauges.sessions),
    ("topics", |gauges| gauges.topics),
    ("routes", |gauges| gauges.topics),
    ("suboptions", |gauges| gauges.subscriptions),
    ("subscribers", |gauges| gauges.subscribers),
    ("subscriptions", |gauges| gauges.subscriptions),
    ("subscriptions/shared", |gauges| gauges.shared_subscriptions),
    ("retained", |gauges| gauges.retained),
    ("delayed", |gauges| gauges.delayed),
];

const RECEIVED: [PacketType; 11] = [
    PacketType::Connect,
    PacketType::Publish,
    PacketType::PubAck,
    PacketType::PubRec,
    PacketType::PubRel,
    PacketType::PubComp,
    PacketType::Subscribe,
    PacketType::Unsubscribe,
    PacketType::PingReq,
    PacketType::Disconnect,
    PacketType::Auth,
];

const SENT: [PacketType; 11] = [
    PacketType::ConnAck,
    PacketType::Publish,
    PacketType::PubAck,
    PacketType::PubRec,
    PacketType::PubRel,
    PacketType::PubComp,
    PacketType::SubAck,
    PacketType::UnsubAck,
    PacketType::PingResp,
    PacketType::Disconnect,
    PacketType::Auth,
];

/// What EMQX counts and what cannot happen here.
const NEVER: [&str; 4] =
    ["messages/dropped/await_pubrel_timeout", "packets/puback/inuse", "packets/pubrec/inuse", "packets/pubcomp/inuse"];

impl SysTree {
    pub(super) fn heartbeat(&self, time: SysTime, out: &mut Vec<SysMessage>) {
        out.push(self.of_node("uptime", time.uptime_ms.to_string(), false));
        out.push(self.of_node("datetime", rfc3339(time.unix_ms), false));
    }

    pub(super) fn tick(&self, snapshot: &SysSnapshot, out: &mut Vec<SysMessage>) {
        out.push(self.message("$SYS/brokers".to_owned(), snapshot.nodes.join(","), true, true));
        out.push(self.of_node("version", self.version.as_str(), true));
        out.push(self.of_node("sysdescr", self.description.as_str(), true));
        for (name, value) in STATS {
            out.push(self.of_node(&format!("stats/{name}/count"), value(&snapshot.gauges).to_string(), false));
            out.push(self.of_node(&format!("stats/{name}/max"), value(&self.maxima).to_string(), false));
        }
        let mut metric = |name: &str, value: u64| {
            out.push(self.of_node(&format!("metrics/{name}"), value.to_string(), false));
        };
        snapshot.counters.topics().for_each(|(name, value)| metric(name, value));
        for (name, value) in [
            ("packets/received", snapshot.packets_received.total()),
            ("packets/sent", snapshot.packets_sent.total()),
            ("messages/received", snapshot.messages_received()),
            ("messages/sent", snapshot.messages_sent()),
            ("messages/dropped", snapshot.messages_dropped()),
            ("delivery/dropped", snapshot.deliveries_dropped()),
        ] {
            metric(name, value);
        }
        for packet in RECEIVED {
            metric(&packet_topic(packet, "received"), snapshot.packets_received.of(packet));
        }
        for packet in SENT {
            metric(&packet_topic(packet, "sent"), snapshot.packets_sent.of(packet));
        }
        NEVER.iter().for_each(|name| metric(name, 0));
    }

    fn of_node(&self, name: &str, value: impl Into<Vec<u8>>, retain: bool) -> SysMessage {
        self.message([&self.prefix, name].concat(), value, retain, false)
    }
}

fn packet_topic(packet: PacketType, direction: &str) -> String {
    format!("packets/{}/{direction}", packet.name().to_ascii_lowercase())
}
