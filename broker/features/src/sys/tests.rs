#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use raftmq_mqtt::topic::validate_topic;
use raftmq_mqtt::{Origin, PacketType};

use super::*;

const DOCUMENT: &str = include_str!("../../../../docs/sys-topics.md");

fn settings() -> SysSettings {
    SysSettings { mosquitto: true, ..SysSettings::default() }
}

fn tree(settings: SysSettings) -> SysTree {
    SysTree::new(settings, "raftmq-0", "1.2.3", "RaftMQ")
}

fn at(uptime_ms: u64) -> SysTime {
    SysTime { uptime_ms, unix_ms: 1_743_490_800_000 + uptime_ms }
}

fn poll(tree: &mut SysTree, uptime_ms: u64, snapshot: &SysSnapshot) -> Vec<SysMessage> {
    let mut out = Vec::new();
    tree.poll(at(uptime_ms), snapshot, &mut out);
    out
}

fn values(messages: &[SysMessage]) -> BTreeMap<String, String> {
    let value = |message: &SysMessage| String::from_utf8(message.message.payload.clone()).unwrap();
    messages.iter().map(|message| (message.message.topic.clone(), value(message))).collect()
}

fn snapshot() -> SysSnapshot {
    let mut snapshot = SysSnapshot {
        nodes: vec!["raftmq-0".to_owned(), "raftmq-1".to_owned()],
        gauges: SysGauges {
            sessions: 10,
            clients_connected: 7,
            topics: 20,
            subscriptions: 30,
            shared_subscriptions: 4,
            subscribers: 6,
            retained: 8,
            delayed: 2,
            stored_messages: 50,
            stored_bytes: 5000,
        },
        counters: SysCounters {
            bytes_received: 1000,
            bytes_sent: 2000,
            qos1_received: 60,
            dropped_no_subscribers: 3,
            dropped_expired: 2,
            delivery_no_local: 1,
            delivery_too_large: 2,
            delivery_qos0: 4,
            delivery_queue_full: 8,
            delivery_expired: 16,
            sessions_taken_over: 5,
            ..SysCounters::default()
        },
        mosquitto: MosquittoCounters {
            sockets_opened: 70,
            clients_expired: 1,
            publish_bytes_received: 600,
            publish_bytes_sent: 700,
        },
        ..SysSnapshot::default()
    };
    snapshot.packets_received.add(PacketType::Connect, 9);
    snapshot.packets_received.add(PacketType::Publish, 60);
    snapshot.packets_sent.add(PacketType::Publish, 80);
    snapshot.packets_sent.add(PacketType::PubAck, 61);
    snapshot
}

#[test]
fn the_emqx_tree() {
    let mut tree = tree(SysSettings::default());
    let values = values(&poll(&mut tree, 61_234, &snapshot()));
    assert_eq!(values["$SYS/brokers"], "raftmq-0,raftmq-1");
    for (name, value) in [
        ("version", "1.2.3"),
        ("sysdescr", "RaftMQ"),
        ("uptime", "61234"),
        ("datetime", "2025-04-01T07:01:01.234+00:00"),
        ("stats/connections/count", "10"),
        ("stats/live_connections/count", "7"),
        ("stats/subscriptions/shared/count", "4"),
        ("stats/subscriptions/shared/max", "4"),
        ("stats/retained/count", "8"),
        ("stats/topics/count", "20"),
        ("stats/routes/count", "20"),
        ("metrics/bytes/received", "1000"),
        ("metrics/packets/received", "69"),
        ("metrics/packets/sent", "141"),
        ("metrics/packets/connect/received", "9"),
        ("metrics/packets/puback/sent", "61"),
        ("metrics/packets/auth/sent", "0"),
        ("metrics/messages/received", "60"),
        ("metrics/messages/sent", "80"),
        ("metrics/messages/qos1/received", "60"),
        ("metrics/messages/dropped", "5"),
        ("metrics/messages/dropped/await_pubrel_timeout", "0"),
        ("metrics/delivery/dropped", "31"),
        ("metrics/session/takenover", "5"),
    ] {
        assert_eq!(values[&format!("$SYS/brokers/raftmq-0/{name}")], value, "{name}");
    }
    assert!(values.keys().all(|topic| !topic.starts_with("$SYS/broker/")));
}

#[test]
fn the_mosquitto_tree() {
    let mut tree = tree(SysSettings { enabled: false, ..settings() });
    let values = values(&poll(&mut tree, 10_000, &snapshot()));
    for (name, value) in [
        ("version", "raftmq version 1.2.3"),
        ("uptime", "10 seconds"),
        ("clients/connected", "7"),
        ("clients/active", "7"),
        ("clients/disconnected", "3"),
        ("clients/inactive", "3"),
        ("clients/total", "10"),
        ("clients/maximum", "10"),
        ("clients/expired", "1"),
        ("messages/received", "69"),
        ("messages/sent", "141"),
        ("messages/stored", "50"),
        ("store/messages/bytes", "5000"),
        ("subscriptions/count", "26"),
        ("shared_subscriptions/count", "4"),
        ("retained messages/count", "8"),
        ("bytes/received", "1000"),
        ("publish/messages/received", "60"),
        ("publish/messages/dropped", "12"),
        ("publish/bytes/sent", "700"),
        ("connections/socket/count", "70"),
        // 60 in 10 s are 360 a minute.
        ("load/publish/received/1min", "55.27"),
        ("load/publish/received/5min", "11.80"),
        ("load/publish/received/15min", "3.98"),
        ("load/connections/1min", "8.29"),
    ] {
        assert_eq!(values[&format!("$SYS/broker/{name}")], value, "{name}");
    }
    assert!(values.keys().all(|topic| topic.starts_with("$SYS/broker/")));
}

/// Every name of the trees is in the document and the other way round.
#[test]
fn the_document_has_every_name() {
    let mut tree = tree(settings());
    let mut published: Vec<String> = values(&poll(&mut tree, 0, &snapshot()))
        .into_keys()
        .map(|topic| topic.replace("/raftmq-0/", "/{node}/"))
        .collect();
    let mut documented: Vec<String> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| `$SYS/")?.split_once("` |"))
        .map(|(topic, _)| format!("$SYS/{topic}"))
        .collect();
    published.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, published);
}

#[test]
fn when() {
    let mut tree = tree(settings());
    assert_eq!(tree.next_due_ms(), Some(0));
    let snapshot = snapshot();
    let parts = |messages: &[SysMessage]| {
        let has = |topic: &str| messages.iter().any(|message| message.message.topic == topic);
        (has("$SYS/brokers/raftmq-0/version"), has("$SYS/brokers/raftmq-0/uptime"), has("$SYS/broker/uptime"))
    };
    assert_eq!(parts(&poll(&mut tree, 5, &snapshot)), (true, true, true));
    assert_eq!(tree.next_due_ms(), Some(10_000));
    assert!(poll(&mut tree, 9999, &snapshot).is_empty());
    assert_eq!(parts(&poll(&mut tree, 10_000, &snapshot)), (false, false, true));
    assert_eq!(parts(&poll(&mut tree, 30_500, &snapshot)), (false, true, true));
    // Late: what was missed is not made up for.
    assert_eq!(parts(&poll(&mut tree, 601_000, &snapshot)), (true, true, true));
    assert_eq!(tree.next_due_ms(), Some(610_000));

    let mut off = self::tree(SysSettings { enabled: false, ..SysSettings::default() });
    assert_eq!(off.next_due_ms(), None);
    assert!(poll(&mut off, 1_000_000, &snapshot).is_empty());

    // An interval of 0 would never end.
    let mut quick = self::tree(SysSettings { interval_ms: 0, heartbeat_ms: 0, ..SysSettings::default() });
    assert!(!poll(&mut quick, 0, &snapshot).is_empty());
    assert_eq!(quick.next_due_ms(), Some(1000));
}

#[test]
fn maxima_stay() {
    let mut tree = tree(settings());
    let mut snapshot = snapshot();
    tree.observe(&SysGauges { sessions: 99, ..snapshot.gauges });
    snapshot.gauges.retained = 1;
    let first = values(&poll(&mut tree, 0, &snapshot));
    assert_eq!(first["$SYS/brokers/raftmq-0/stats/connections/count"], "10");
    assert_eq!(first["$SYS/brokers/raftmq-0/stats/connections/max"], "99");
    assert_eq!(first["$SYS/broker/clients/maximum"], "99");
    assert_eq!(first["$SYS/brokers/raftmq-0/stats/retained/max"], "8");
}

#[test]
fn mosquitto_values_come_when_they_change() {
    let mut tree = tree(SysSettings { enabled: false, ..settings() });
    let mut snapshot = SysSnapshot::default();
    assert_eq!(poll(&mut tree, 0, &snapshot).len(), 25 + 27);
    snapshot.gauges.retained = 5;
    let changed = values(&poll(&mut tree, 10_000, &snapshot));
    let expected = [("$SYS/broker/retained messages/count", "5"), ("$SYS/broker/uptime", "10 seconds")];
    assert_eq!(changed, expected.map(|(topic, value)| (topic.to_owned(), value.to_owned())).into());
    snapshot.counters.bytes_sent = 100;
    let changed = values(&poll(&mut tree, 20_000, &snapshot));
    assert_eq!(changed["$SYS/broker/bytes/sent"], "100");
    assert_eq!(changed["$SYS/broker/load/bytes/sent/1min"], "92.11");
    assert_eq!(changed.len(), 5);
    // The average fades while the counter stands still.
    assert_eq!(values(&poll(&mut tree, 30_000, &snapshot)).len(), 4);
}

#[test]
fn retained_and_local() {
    let names = |settings: SysSettings, select: fn(&SysMessage) -> bool| -> Vec<String> {
        let mut tree = tree(settings);
        let messages = poll(&mut tree, 0, &snapshot());
        messages.into_iter().filter(select).map(|message| message.message.topic).collect()
    };
    assert_eq!(names(settings(), |message| !message.message.retain), Vec::<String>::new());
    let as_emqx = SysSettings { retain: false, ..SysSettings::default() };
    assert_eq!(
        names(as_emqx, |message| message.message.retain),
        ["$SYS/brokers", "$SYS/brokers/raftmq-0/version", "$SYS/brokers/raftmq-0/sysdescr",]
    );
    assert_eq!(names(SysSettings::default(), |message| message.local), ["$SYS/brokers"]);
    let local = names(settings(), |message| message.local);
    assert!(local[1..].iter().all(|topic| topic.starts_with("$SYS/broker/")));
    assert_eq!(local.len(), 1 + 25 + 27);
}

#[test]
fn counts_of_workers_add_up() {
    let one = snapshot();
    let mut both = one.clone();
    both.counters.merge(&one.counters);
    both.packets_received.merge(&one.packets_received);
    assert_eq!(both.counters.bytes_sent, 4000);
    assert_eq!(both.packets_received.of(PacketType::Connect), 18);
    assert_eq!(both.packets_received.total(), 138);
    both.counters.merge(&SysCounters { bytes_sent: u64::MAX, ..SysCounters::default() });
    assert_eq!(both.counters.bytes_sent, u64::MAX);
}

proptest! {
    /// Whatever a node is called.
    #[test]
    fn topics_are_valid(node in "([a-z/+#%.]|\\PC){1,20}") {
        let mut tree = SysTree::new(settings(), &node, "v", "d");
        for message in poll(&mut tree, 0, &snapshot()) {
            prop_assert!(validate_topic(&message.message.topic).is_ok());
            let message = message.message.to_message(Origin { node: 1, sequence: 1 }, 0);
            prop_assert!(message.is_ok());
        }
    }
}
