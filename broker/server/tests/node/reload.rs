//! Settings that change while clients are connected.

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, publish, subscribe};
use crate::process::Node;
use crate::words::{publish_with, unsubscribe};

const LISTENERS: &str = "- {name: mqtt, bind: '@0', zone: a}
- {name: other, bind: '@1'}
zones:
  a: {maxQos: 2, maxTopicLevels: 4, maxSubscriptions: 2}";

#[test]
fn zones_change_for_new_connections_and_as_far_as_they_were_not_told_for_open_ones() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut old = Client::connect(node.mqtt, "old");
    old.subscribe("t", QoS::AtLeastOnce);
    let mut other = Client::connect(node.addresses[1], "other");
    node.edit(
        "{maxQos: 2, maxTopicLevels: 4, maxSubscriptions: 2}",
        "{maxQos: 1, maxTopicLevels: 2, maxSubscriptions: 1}",
    );
    let said = node.reload(0);
    for setting in ["zones.a.maxQos", "zones.a.maxTopicLevels", "zones.a.maxSubscriptions"] {
        assert!(said.contains(setting), "{said}");
    }
    assert!(said.contains("needs_restart=\"\""), "{said}");
    // CONNACK did not say Maximum QoS 1 to this one.
    old.send(&publish_with("t", b"two", QoS::ExactlyOnce, false, 7));
    let got = [old.receive(), old.receive()];
    assert!(got.iter().any(|got| matches!(got, Got::Other(text) if text.starts_with("PubRec"))), "{got:?}");
    // But what it was not told counts, within a moment: the worker takes it in its turn.
    wait_refused(&mut old, "a/b/c");
    old.send(&subscribe(9, "u", QoS::AtMostOnce));
    assert_eq!(old.receive(), Got::SubAck(vec![ReasonCode::QuotaExceeded]));
    let mut new = Client::connect(node.mqtt, "new");
    new.send(&publish_with("t", b"two", QoS::ExactlyOnce, false, 7));
    assert_eq!(new.last_words(), Got::Disconnect(ReasonCode::QoSNotSupported));
    other.send(&publish("a/b/c/d/e", b"", Some(1)));
    assert_eq!(other.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::NoMatchingSubscribers });
}

fn wait_refused(client: &mut Client, topic: &str) {
    let deadline = std::time::Instant::now() + crate::client::PATIENCE;
    loop {
        client.send(&publish(topic, b"", Some(1)));
        loop {
            match client.receive() {
                Got::PubAck { reason: ReasonCode::TopicNameInvalid, .. } => return,
                Got::PubAck { .. } => break,
                _ => {}
            }
        }
        assert!(std::time::Instant::now() < deadline, "it is not refused");
    }
}

#[test]
fn a_wrong_file_changes_nothing_and_is_named_with_its_place() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut client = Client::connect(node.mqtt, "client");
    // One is right and one is wrong: neither counts.
    node.edit("{maxQos: 2, maxTopicLevels: 4,", "{maxQos: 7, maxTopicLevels: 1,");
    let said = node.reload(0);
    assert!(said.contains("ERROR") && said.contains("nothing has changed"), "{said}");
    assert!(said.contains("node.yaml:7:") && said.contains("zones.a.maxQos: 7 is out of range: 0 to 2"), "{said}");
    // A rule that only the node understands.
    node.edit("{maxQos: 7,", "{maxQos: 1,");
    node.edit("mqtt: {}", "mqtt: {rewrite: [{source: a, regex: '(', destination: b}]}");
    let said = node.reload(1);
    assert!(said.contains("ERROR") && said.contains("mqtt.rewrite[0].regex"), "{said}");
    for client in [&mut client, &mut Client::connect(node.mqtt, "new")] {
        client.send(&publish("a/b/c/d", b"", Some(1)));
        assert_eq!(client.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::NoMatchingSubscribers });
    }
    // And when it is right again it counts.
    node.edit("mqtt: {rewrite: [{source: a, regex: '(', destination: b}]}", "mqtt: {}");
    let said = node.reload(2);
    assert!(said.contains("INFO") && said.contains("zones.a.maxTopicLevels"), "{said}");
    wait_refused(&mut client, "a/b/c/d");
}

#[test]
fn limits_of_connections_rules_and_log_change_and_what_cannot_is_named() {
    let node = Node::with_listeners("- {name: mqtt, bind: '@0', maxConnections: 1}\n- {name: all, bind: '@1'}", &[]);
    let mut first = Client::connect(node.mqtt, "first");
    assert_eq!(Client::open(node.mqtt).receive(), Got::Closed, "one is all it keeps");
    node.edit("maxConnections: 1", "maxConnections: 2, mountPoint: m/");
    let rules =
        "{rewrite: [{source: old/#, regex: '^old/(.*)$', destination: 'new/$1'}], autoSubscribe: [{topic: mine}]}";
    node.edit("mqtt: {}", &format!("mqtt: {rules}"));
    node.edit("workers: 2", "workers: 3");
    node.edit("level: debug", "level: warn");
    let said = node.reload(0);
    for setting in ["listeners[0].maxConnections", "log.level", "mqtt.autoSubscribe", "mqtt.rewrite"] {
        assert!(said.contains(setting), "{setting}: {said}");
    }
    let restart = said.split("needs_restart=").nth(1).unwrap();
    assert_eq!(restart.trim(), "\"listeners[0].mountPoint, workers\"", "{said}");
    let mut second = Client::connect(node.mqtt, "second");
    assert_eq!(Client::open(node.mqtt).receive(), Got::Closed, "two are all it keeps");
    first.subscribe("new/a", QoS::AtMostOnce);
    second.send(&publish("old/a", b"rewritten", None));
    assert_eq!(first.messages(1), [b"rewritten"]);
    first.send(&publish("mine", b"unasked", None));
    assert_eq!(second.messages(1), [b"unasked"]);
    let mark = node.log().len();
    Client::connect(node.addresses[1], "third").send(&[0xFF, 0xFF]);
    node.wait_metric("raftmq_protocol_errors_total", 1);
    assert!(!node.log()[mark..].contains("DEBUG"), "{}", &node.log()[mark..]);
}

/// A filter that is subscribed to again stands for what the rules make of it now, and for nothing else.
#[test]
fn a_rule_that_comes_or_goes_leaves_no_subscription_behind() {
    let rule = "{rewrite: [{source: a/#, regex: '^a/(.+)$', destination: 'b/$1'}]}";
    let (none, some) = ("mqtt: {}".to_owned(), format!("mqtt: {rule}"));
    for (before, after) in [(&some, &none), (&none, &some)] {
        let node = Node::with_listeners("- {name: mqtt, bind: '@0'}", &[]);
        let mut reloads = 0;
        if *before != none {
            node.edit(&none, before);
            node.reload(reloads);
            reloads += 1;
        }
        let mut client = Client::connect(node.mqtt, "c");
        client.subscribe("a/x", QoS::AtLeastOnce);
        node.edit(before, after);
        node.reload(reloads);
        // The worker takes the new rules in its turn.
        let deadline = std::time::Instant::now() + crate::client::PATIENCE;
        let mut renames = || {
            client.subscribe("a/probe", QoS::AtMostOnce);
            client.send(&publish("b/probe", b"", Some(1)));
            loop {
                if let Got::PubAck { reason, .. } = client.receive() {
                    return reason == ReasonCode::Success;
                }
            }
        };
        while renames() != (*after == some) {
            assert!(std::time::Instant::now() < deadline, "{after}");
        }
        client.send(&unsubscribe(3, "a/probe"));
        while !matches!(client.receive(), Got::Other(_)) {}
        assert_eq!(node.metric("raftmq_subscriptions"), 1, "{after}");
        client.subscribe("a/x", QoS::AtLeastOnce);
        assert_eq!(node.metric("raftmq_subscriptions"), 1, "{after}");
        client.send(&unsubscribe(3, "a/x"));
        assert!(matches!(client.receive(), Got::Other(_)));
        assert_eq!(node.metric("raftmq_subscriptions"), 0, "{after}");
    }
}
