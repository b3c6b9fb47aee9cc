//! `$SYS/broker/…`, as Mosquitto 2 users know it.

use raftmq_mqtt::PacketType;

use super::load::WINDOWS;
use super::{SysMessage, SysSnapshot, SysTime, SysTree};

/// How many counters have averages.
pub(super) const LOADS: usize = 9;

fn loads(snapshot: &SysSnapshot) -> [(&'static str, u64); LOADS] {
    [
        ("messages/received", snapshot.packets_received.total()),
        ("messages/sent", snapshot.packets_sent.total()),
        ("publish/dropped", publish_dropped(snapshot)),
        ("publish/received", snapshot.messages_received()),
        ("publish/sent", snapshot.messages_sent()),
        ("bytes/received", snapshot.counters.bytes_received),
        ("bytes/sent", snapshot.counters.bytes_sent),
        ("sockets", snapshot.mosquitto.sockets_opened),
        ("connections", snapshot.packets_received.of(PacketType::Connect)),
    ]
}

fn publish_dropped(snapshot: &SysSnapshot) -> u64 {
    snapshot.counters.delivery_qos0.saturating_add(snapshot.counters.delivery_queue_full)
}

impl SysTree {
    pub(super) fn mosquitto(&mut self, time: SysTime, snapshot: &SysSnapshot, out: &mut Vec<SysMessage>) {
        let elapsed_ms = time.uptime_ms - self.mosquitto_at_ms;
        self.mosquitto_at_ms = time.uptime_ms;
        for (load, (_, value)) in self.loads.iter_mut().zip(loads(snapshot)) {
            load.update(value, elapsed_ms);
        }
        let values = self.mosquitto_values(time, snapshot);
        for (at, (name, value)) in values.iter().enumerate() {
            // The names are the same each time.
            if self.mosquitto_last.get(at).is_none_or(|(_, last)| last != value) {
                let topic = ["$SYS/broker/", name].concat();
                out.push(self.message(topic, value.as_str(), false, true));
            }
        }
        self.mosquitto_last = values;
    }

    fn mosquitto_values(&self, time: SysTime, snapshot: &SysSnapshot) -> Vec<(String, String)> {
        let gauges = &snapshot.gauges;
        let disconnected = gauges.sessions.saturating_sub(gauges.clients_connected);
        let mut values = vec![
            ("version".to_owned(), format!("raftmq version {}", self.version)),
            ("uptime".to_owned(), format!("{} seconds", time.uptime_ms / 1000)),
        ];
        for (name, value) in [
            ("clients/total", gauges.sessions),
            ("clients/maximum", self.maxima.sessions),
            ("clients/disconnected", disconnected),
            ("clients/inactive", disconnected),
            ("clients/connected", gauges.clients_connected),
            ("clients/active", gauges.clients_connected),
            ("clients/expired", snapshot.mosquitto.clients_expired),
            ("messages/stored", gauges.stored_messages),
            ("store/messages/count", gauges.stored_messages),
            ("store/messages/bytes", gauges.stored_bytes),
            ("subscriptions/count", gauges.subscriptions.saturating_sub(gauges.shared_subscriptions)),
            ("shared_subscriptions/count", gauges.shared_subscriptions),
            ("retained messages/count", gauges.retained),
            ("messages/received", snapshot.packets_received.total()),
            ("messages/sent", snapshot.packets_sent.total()),
            ("bytes/received", snapshot.counters.bytes_received),
            ("bytes/sent", snapshot.counters.bytes_sent),
            ("publish/bytes/received", snapshot.mosquitto.publish_bytes_received),
            ("publish/bytes/sent", snapshot.mosquitto.publish_bytes_sent),
            ("publish/messages/dropped", publish_dropped(snapshot)),
            ("publish/messages/received", snapshot.messages_received()),
            ("publish/messages/sent", snapshot.messages_sent()),
            ("connections/socket/count", snapshot.mosquitto.sockets_opened),
        ] {
            values.push((name.to_owned(), value.to_string()));
        }
        for (load, (name, _)) in self.loads.iter().zip(loads(snapshot)) {
            for (average, (window, _)) in load.averages().into_iter().zip(WINDOWS) {
                values.push((format!("load/{name}/{window}"), format!("{average:.2}")));
            }
        }
        values
    }
}
