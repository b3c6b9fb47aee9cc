//! What a node says of itself and of its clients under `$SYS`.

use raftmq_mqtt::{QoS, ReasonCode};
use serde_json::Value;

use crate::client::{Client, Got, disconnect, publish};
use crate::process::Node;
use crate::words::{Hello, message, publish_with, unsubscribe};

#[test]
fn clients_come_subscribe_and_go() {
    let node = Node::start();
    let mut watcher = Client::connect(node.mqtt, "watcher");
    watcher.subscribe("$SYS/brokers/+/clients/#", QoS::AtLeastOnce);
    let mut event = |kind: &str| -> Value {
        loop {
            let (topic, payload, _) = message(&mut watcher);
            let value: Value = serde_json::from_slice(&payload).unwrap();
            // Its own subscription is told, too.
            if value["clientid"] != "watcher" {
                assert_eq!(topic, format!("$SYS/brokers/test/clients/{}/{kind}", "c%2F1"));
                assert_eq!(value["clientid"], "c/1");
                return value;
            }
        }
    };
    let hello = Hello { id: "c/1", clean_start: true, username: Some("u"), ..Hello::default() }.packet();
    let mut client = Client::connect_with(node.mqtt, &hello).0;
    let connected = event("connected");
    assert_eq!(
        (&connected["username"], &connected["proto_ver"], &connected["clean_start"]),
        (&"u".into(), &5.into(), &true.into())
    );
    assert_eq!(connected["sockport"], node.mqtt.port());
    client.subscribe("a/+", QoS::AtLeastOnce);
    let subscribed = event("subscribed");
    assert_eq!((&subscribed["topic"], &subscribed["subopts"]["qos"]), (&"a/+".into(), &1.into()));
    client.send(&unsubscribe(2, "a/+"));
    assert!(matches!(client.receive(), Got::Other(_)));
    assert_eq!(event("unsubscribed")["topic"], "a/+");
    client.send(&disconnect());
    client.last_words();
    assert_eq!(event("disconnected")["reason"], "normal");
    let mut client = Client::connect_with(node.mqtt, &hello).0;
    event("connected");
    let other = Client::connect_with(node.mqtt, &hello).0;
    client.last_words();
    assert_eq!(event("disconnected")["reason"], "discarded");
    event("connected");
    drop(other);
    assert_eq!(event("disconnected")["reason"], "tcp_closed");
}

/// Not what the node publishes itself, nor subscriptions that end with their session.
#[test]
fn the_numbers_are_those_of_clients() {
    let node = Node::start_with("{sys: {interval: 1s}}", "", None);
    let mut watcher = Client::connect(node.mqtt, "watcher");
    watcher.subscribe("$SYS/brokers/test/metrics/#", QoS::AtMostOnce);
    let mut publisher = Client::connect(node.mqtt, "publisher");
    for (retain, count) in [(true, 2), (false, 3)] {
        for _ in 0..count {
            publisher.send(&publish_with("r", b"x", QoS::AtLeastOnce, retain, 1));
            assert!(matches!(publisher.receive(), Got::PubAck { .. }));
        }
    }
    for number in 0..3 {
        let mut client = Client::connect(node.mqtt, &format!("c{number}"));
        client.subscribe("a", QoS::AtMostOnce);
        client.subscribe("b", QoS::AtMostOnce);
        if number == 0 {
            client.send(&unsubscribe(2, "a"));
            assert!(matches!(client.receive(), Got::Other(_)));
        }
    }
    let names = [
        "messages/publish",
        "messages/dropped/no_subscribers",
        "messages/retained",
        "client/unsubscribe",
        "packets/unsubscribe/received",
    ];
    let mut values = std::collections::HashMap::new();
    let mut rounds = 0;
    // The first ones are of the start; of those to come the first may be too early.
    while rounds < 3 {
        let (topic, payload, retained) = message(&mut watcher);
        let name = topic.strip_prefix("$SYS/brokers/test/metrics/").unwrap().to_owned();
        rounds += usize::from(!retained && name == "bytes/received");
        values.insert(name, String::from_utf8(payload).unwrap());
    }
    assert_eq!(names.map(|name| &*values[name]), ["5", "5", "2", "1", "1"]);
    assert_eq!(node.metric("raftmq_messages_unmatched_total"), 5);
    assert_eq!(node.metric("raftmq_subscriptions_removed_total"), 6);
}

#[test]
fn events_can_be_off() {
    let node = Node::start_with("{events: {connected: false, subscribed: false}}", "", None);
    let mut watcher = Client::connect(node.mqtt, "watcher");
    watcher.subscribe("$SYS/brokers/test/clients/#", QoS::AtLeastOnce);
    let mut client = Client::connect(node.mqtt, "c");
    client.subscribe("a", QoS::AtMostOnce);
    drop(client);
    assert_eq!(message(&mut watcher).0, "$SYS/brokers/test/clients/c/disconnected");
}

#[test]
fn the_sys_tree_is_published_and_retained() {
    let node = Node::start_with("{sys: {interval: 1s, mosquitto: true}}", "", None);
    for (filter, expected) in [
        ("$SYS/brokers", Some("test")),
        ("$SYS/brokers/test/version", Some(env!("CARGO_PKG_VERSION"))),
        ("$SYS/brokers/test/uptime", None),
        ("$SYS/brokers/test/stats/live_connections/count", None),
        ("$SYS/broker/clients/connected", None),
    ] {
        // A client each: what is published meanwhile for another subscription may come before the SUBACK.
        let mut client = Client::connect(node.mqtt, filter);
        client.subscribe(filter, QoS::AtMostOnce);
        let (topic, payload, _) = message(&mut client);
        assert_eq!(topic, filter);
        if let Some(expected) = expected {
            assert_eq!(payload, expected.as_bytes());
        }
    }
    // It is counted on.
    let mut other = Client::connect(node.mqtt, "other");
    other.subscribe("$SYS/brokers/test/metrics/packets/connect/received", QoS::AtMostOnce);
    while message(&mut other).1 != b"6" {}
}

#[test]
fn clients_do_not_publish_there() {
    let node = Node::start();
    let mut client = Client::connect(node.mqtt, "c");
    client.subscribe("$SYS/x", QoS::AtMostOnce);
    for topic in ["$SYS/x", "$delayed/1/$SYS/x"] {
        client.send(&publish(topic, b"x", Some(1)));
        assert_eq!(client.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::NotAuthorized });
    }
    client.send(&publish("$SYS/x", b"x", None));
    client.ping();
    assert_eq!(node.metric("raftmq_messages_refused_total{reason=\"not_authorized\"}"), 3);
}
