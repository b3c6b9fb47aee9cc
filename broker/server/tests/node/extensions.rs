//! QoS 2, delayed publish, exclusive subscriptions, rewrite, auto-subscribe, overlapping subscriptions, enhanced authentication.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use raftmq_mqtt::{QoS, ReasonCode, SubOptions};

use crate::client::{Client, Got, connect, publish};
use crate::process::Node;
use crate::words::{Hello, auth, message, pubcomp, publish_with, pubrec, pubrel, subscribe_with, unsubscribe};

#[test]
fn exactly_once_from_worker_to_worker() {
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let mut readers: Vec<Client> = (0..4).map(|n| Client::connect(node.mqtt, &format!("r{n}"))).collect();
    readers.iter_mut().for_each(|reader| reader.subscribe("t", QoS::ExactlyOnce));
    for number in 1..=20u16 {
        let packet = publish_with("t", &number.to_le_bytes(), QoS::ExactlyOnce, false, number);
        // Twice, as after a lost answer.
        publisher.send(&[packet.clone(), packet].concat());
        for _ in 0..2 {
            assert!(matches!(publisher.receive(), Got::Other(text) if text.starts_with("PubRec")));
        }
        publisher.send(&pubrel(number));
        assert!(matches!(publisher.receive(), Got::Other(text) if text.starts_with("PubComp")));
    }
    for reader in &mut readers {
        let mut ids = Vec::new();
        for number in 1..=20u16 {
            let Got::Publish { payload, qos: QoS::ExactlyOnce, packet_id: Some(id), .. } = reader.receive() else {
                panic!("PUBLISH expected");
            };
            assert_eq!(payload, number.to_le_bytes());
            ids.push(id);
        }
        // Not before: PUBREL would come among the messages that are still on their way from worker to worker.
        reader.send(&ids.into_iter().flat_map(pubrec).collect::<Vec<u8>>());
        for id in 1..=20u16 {
            assert!(matches!(reader.receive(), Got::Other(text) if text.starts_with("PubRel")));
            reader.send(&pubcomp(NonZeroU16::new(id).unwrap()));
        }
        reader.ping();
    }
    assert_eq!(node.metric("raftmq_messages_sent_total{qos=\"2\"}"), 80);
}

#[test]
fn delayed_messages_come_later_and_in_their_order() {
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let mut reader = Client::connect(node.mqtt, "reader");
    reader.subscribe("d/#", QoS::AtLeastOnce);
    let sent = Instant::now();
    for (topic, payload) in [("$delayed/2/d/1", b"2"), ("$delay/1/d/1", b"1"), ("d/1", b"0")] {
        publisher.send(&publish(topic, payload, Some(1)));
        assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    }
    for (payload, after) in [(b"0", 0), (b"1", 1), (b"2", 2)] {
        assert_eq!(message(&mut reader), ("d/1".into(), payload.to_vec(), false));
        assert!(sent.elapsed() >= Duration::from_secs(after));
    }
    for (topic, reason) in
        [("$delayed/x/d", ReasonCode::TopicNameInvalid), ("$delayed/5", ReasonCode::TopicNameInvalid)]
    {
        publisher.send(&publish(topic, b"", Some(1)));
        assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason });
    }
    assert_eq!(node.metric("raftmq_delayed_changes_total{change=\"published\"}"), 2);
}

#[test]
fn an_exclusive_subscription_is_one_clients() {
    let node = Node::start();
    let mut first = Client::connect(node.mqtt, "first");
    first.subscribe("$exclusive/t/1", QoS::AtLeastOnce);
    first.subscribe("t/1", QoS::AtMostOnce);
    for number in 0..4 {
        let mut second = Client::connect(node.mqtt, &format!("s{number}"));
        second.send(&crate::client::subscribe(1, "$exclusive/t/1", QoS::AtLeastOnce));
        assert_eq!(second.receive(), Got::SubAck(vec![ReasonCode::QuotaExceeded]));
        second.subscribe("t/1", QoS::AtLeastOnce);
    }
    let mut publisher = Client::connect(node.mqtt, "publisher");
    publisher.send(&publish("t/1", b"x", Some(1)));
    assert_eq!(message(&mut first).1, b"x");
    first.send(&unsubscribe(9, "$exclusive/t/1"));
    assert!(matches!(first.receive(), Got::Other(_)));
    publisher.send(&publish("t/1", b"y", Some(2)));
    assert_eq!(message(&mut first).1, b"y", "the plain one is there");
    let mut second = Client::connect(node.mqtt, "second");
    second.subscribe("$exclusive/t/1", QoS::AtLeastOnce);
    assert_eq!(node.metric("raftmq_exclusive_subscriptions"), 1);
    drop(second);
    node.wait_metric("raftmq_exclusive_subscriptions", 0);
}

#[test]
fn topics_and_filters_are_rewritten() {
    let rules = "{rewrite: [{source: 'x/#', regex: '^x/(.+)$', destination: 'y/$1'}, \
                 {source: 'own/#', regex: '^own/(.+)$', destination: 'clients/${clientid}/$1'}]}";
    let node = Node::start_with(rules, "", None);
    let mut reader = Client::connect(node.mqtt, "reader");
    reader.subscribe("x/+", QoS::AtLeastOnce);
    reader.subscribe("own/a", QoS::AtLeastOnce);
    let mut publisher = Client::connect(node.mqtt, "publisher");
    for (topic, comes) in [("x/1", "y/1"), ("y/2", "y/2"), ("clients/reader/a", "clients/reader/a")] {
        publisher.send(&publish(topic, b"m", Some(1)));
        assert_eq!(message(&mut reader).0, comes);
        assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    }
    reader.send(&unsubscribe(3, "x/+"));
    assert!(matches!(reader.receive(), Got::Other(_)));
    publisher.send(&publish("x/1", b"m", Some(1)));
    assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::NoMatchingSubscribers });
    drop(reader);
    node.wait_metric("raftmq_subscriptions", 0);
}

/// Two filters of a client that a rule makes one: what it still has goes on.
#[test]
fn a_filter_ends_with_the_last_one_that_stands_for_it() {
    let node = Node::start_with("{rewrite: [{source: 'x/#', regex: '^x/(.+)$', destination: 'y/$1'}]}", "", None);
    let mut reader = Client::connect(node.mqtt, "reader");
    let mut publisher = Client::connect(node.mqtt, "publisher");
    for (first, last) in [("x/1", "y/1"), ("y/1", "x/1")] {
        reader.subscribe("x/1", QoS::AtLeastOnce);
        reader.subscribe("y/1", QoS::AtLeastOnce);
        reader.send(&unsubscribe(3, first));
        assert!(matches!(reader.receive(), Got::Other(_)));
        publisher.send(&publish("y/1", b"m", Some(1)));
        assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success }, "{first} ended");
        assert_eq!(message(&mut reader).0, "y/1");
        reader.send(&unsubscribe(3, last));
        assert!(matches!(reader.receive(), Got::Other(_)));
        publisher.send(&publish("y/1", b"m", Some(1)));
        assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::NoMatchingSubscribers });
    }
    node.wait_metric("raftmq_subscriptions", 0);
    drop((reader, publisher, node));
    // A filter that is written like another one's, and stands for a third.
    let rules = "{rewrite: [{source: 'y/#', regex: '^y/(.+)$', destination: 'z/$1'}, \
                 {source: 'x/#', regex: '^x/(.+)$', destination: 'y/$1'}]}";
    let node = Node::start_with(rules, "", None);
    let mut reader = Client::connect(node.mqtt, "reader");
    reader.subscribe("x/1", QoS::AtLeastOnce);
    reader.subscribe("y/1", QoS::AtLeastOnce);
    reader.send(&unsubscribe(3, "x/1"));
    assert!(matches!(reader.receive(), Got::Other(_)));
    node.wait_metric("raftmq_subscriptions", 1);
}

/// And with the options of one that the client still has.
#[test]
fn what_stays_of_two_filters_that_are_one_has_its_own_options() {
    let node = Node::start_with("{rewrite: [{source: 'x/#', regex: '^x/(.+)$', destination: 'y/$1'}]}", "", None);
    let mut reader = Client::connect(node.mqtt, "reader");
    let mut publisher = Client::connect(node.mqtt, "publisher");
    reader.subscribe("y/1", QoS::AtLeastOnce);
    reader.subscribe("x/1", QoS::AtMostOnce);
    reader.send(&unsubscribe(3, "x/1"));
    assert!(matches!(reader.receive(), Got::Other(_)));
    publisher.send(&publish("y/1", b"m", Some(1)));
    let got = reader.receive();
    assert!(matches!(got, Got::Publish { qos: QoS::AtLeastOnce, .. }), "{got:?}");
}

/// What a rule makes of a filter depends on the user name, which a session does not keep.
#[test]
fn a_filter_that_stands_for_another_one_now_stands_for_no_other() {
    for filter in ["a/z", "$exclusive/a/z", "$share/g/a/z"] {
        for names in [[None, Some("u")], [Some("u"), None], [Some("u"), Some("v")]] {
            let rules = "{rewrite: [{source: 'a/#', regex: '^a/(.+)$', destination: 'b/${username}/$1'}]}";
            let node = Node::start_with(rules, "", None);
            for username in names {
                let mut client = Client::open(node.mqtt);
                client.send(&Hello { id: "c", username, expiry_s: 60, ..Hello::default() }.packet());
                assert!(matches!(client.receive(), Got::ConnAck { .. }));
                client.send(&crate::client::subscribe(1, filter, QoS::AtLeastOnce));
                // Without a user name the rule has nothing to put there.
                let got = client.receive();
                assert!(matches!(&got, Got::SubAck(codes) if codes[0] == ReasonCode::GrantedQoS1), "{got:?}");
                assert_eq!(node.metric("raftmq_subscriptions"), 1, "{filter} {names:?}");
                if username == names[1] {
                    client.send(&unsubscribe(3, filter));
                    assert!(matches!(client.receive(), Got::Other(_)));
                }
            }
            assert_eq!(node.metric("raftmq_subscriptions"), 0, "{filter} {names:?}");
            assert_eq!(node.metric("raftmq_exclusive_subscriptions"), 0, "{filter} {names:?}");
            let mut publisher = Client::connect(node.mqtt, "publisher");
            for topic in ["a/z", "b/u/z", "b/v/z"] {
                publisher.send(&publish(topic, b"m", Some(1)));
                let nobody = Got::PubAck { packet_id: 1, reason: ReasonCode::NoMatchingSubscribers };
                assert_eq!(publisher.receive(), nobody, "{topic} {filter} {names:?}");
            }
        }
    }
}

#[test]
fn subscriptions_that_nobody_asked_for() {
    let node = Node::start_with("{autoSubscribe: [{topic: 'inbox/${clientid}', qos: 1}, {topic: 'u/%u'}]}", "", None);
    let mut publisher = Client::connect(node.mqtt, "publisher");
    publisher.send(&publish_with("inbox/c", b"kept", QoS::AtLeastOnce, true, 1));
    assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::NoMatchingSubscribers });
    let mut client = Client::connect(node.mqtt, "c");
    assert_eq!(message(&mut client), ("inbox/c".into(), b"kept".to_vec(), true));
    publisher.send(&publish("inbox/c", b"live", Some(1)));
    assert_eq!(message(&mut client), ("inbox/c".into(), b"live".to_vec(), false));
    assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    client.send(&unsubscribe(3, "inbox/c"));
    assert!(matches!(client.receive(), Got::Other(_)));
    publisher.send(&publish("inbox/c", b"x", Some(1)));
    assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::NoMatchingSubscribers });
}

#[test]
fn overlapping_subscriptions_by_setting() {
    for (setting, copies) in [("merge", 1), ("each", 2)] {
        let node = Node::start_with(&format!("{{overlapping: {setting}}}"), "", None);
        let mut client = Client::connect(node.mqtt, "c");
        client.subscribe("a/+", QoS::AtMostOnce);
        client.send(&subscribe_with(2, "a/b", SubOptions { qos: QoS::AtLeastOnce, ..SubOptions::default() }));
        assert!(matches!(client.receive(), Got::SubAck(_)));
        client.send(&publish("a/b", b"x", None));
        for _ in 0..copies {
            assert_eq!(message(&mut client).1, b"x");
        }
        client.ping();
    }
}

/// [MQTT-4.12.0-1], [MQTT-4.12.0-2], [MQTT-4.12.0-4]
#[test]
fn enhanced_authentication_by_the_test_method() {
    let node = Node::start_with("{authentication: {testMethod: true}}", "", None);
    let hello = |method| Hello { id: "c", clean_start: true, method: Some(method), ..Hello::default() }.packet();
    let refused = |client: &mut Client, reason| {
        assert_eq!(client.receive(), Got::ConnAck { present: false, reason });
        assert_eq!(client.receive(), Got::Closed);
    };
    let mut client = Client::open(node.mqtt);
    client.send(&hello("other"));
    refused(&mut client, ReasonCode::BadAuthenticationMethod);
    for right in [false, true] {
        let mut client = Client::open(node.mqtt);
        client.send(&hello("test"));
        let challenge = match client.receive() {
            Got::Auth(challenge) => challenge,
            other => panic!("AUTH expected: {other:?}"),
        };
        client.send(&auth("test", if right { &challenge } else { b"wrong" }));
        if right {
            assert_eq!(client.receive(), Got::ConnAck { present: false, reason: ReasonCode::Success });
            client.ping();
        } else {
            refused(&mut client, ReasonCode::NotAuthorized);
        }
    }
    // Without the setting there is none.
    let node = Node::start();
    let mut client = Client::open(node.mqtt);
    client.send(&hello("test"));
    refused(&mut client, ReasonCode::BadAuthenticationMethod);
    assert!(!Client::connect_with(node.mqtt, &connect("c", true, 0, 0)).1);
}
