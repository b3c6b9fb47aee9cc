//! Wills: published when a connection ends otherwise than by a goodbye, after their delay, once.

use std::time::{Duration, Instant};

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, disconnect};
use crate::process::Node;
use crate::words::{Hello, message};

/// [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3]
#[test]
fn of_a_dead_client_and_of_one_that_says_goodbye() {
    let node = Node::start();
    let mut watcher = Client::connect(node.mqtt, "watcher");
    watcher.subscribe("will/#", QoS::AtLeastOnce);
    let hello = |id, topic| Hello { id, clean_start: true, will: Some((topic, b"gone", true, 0)), ..Hello::default() };
    let mut polite = Client::connect_with(node.mqtt, &hello("polite", "will/polite").packet()).0;
    polite.send(&disconnect());
    polite.last_words();
    drop(Client::connect_with(node.mqtt, &hello("dead", "will/dead").packet()));
    assert_eq!(message(&mut watcher), ("will/dead".into(), b"gone".to_vec(), false));
    // It was to be retained.
    let mut late = Client::connect(node.mqtt, "late");
    late.subscribe("will/#", QoS::AtMostOnce);
    assert_eq!(message(&mut late), ("will/dead".into(), b"gone".to_vec(), true));
    watcher.ping();
    assert_eq!(node.metric("raftmq_wills_published_total"), 1);
}

/// [MQTT-3.1.3-9]
#[test]
fn with_a_delay() {
    let node = Node::start();
    let mut watcher = Client::connect(node.mqtt, "watcher");
    watcher.subscribe("w", QoS::AtLeastOnce);
    let hello = |delay, clean_start| {
        Hello { id: "c", clean_start, expiry_s: 600, will: Some(("w", b"w", false, delay)), ..Hello::default() }
            .packet()
    };
    // Back in time, twice: nothing. (The delay is so long that only an error would bring it here.)
    for _ in 0..2 {
        drop(Client::connect_with(node.mqtt, &hello(300, false)));
        node.wait_metric("raftmq_wills_waiting", 1);
    }
    let back = Client::connect_with(node.mqtt, &hello(1, false)).0;
    node.wait_metric("raftmq_wills_waiting", 0);
    watcher.ping();
    let left = Instant::now();
    drop(back);
    assert_eq!(message(&mut watcher).1, b"w");
    assert!(left.elapsed() >= Duration::from_secs(1));
    // A clean start ends the session, and the will is sent.
    drop(Client::connect_with(node.mqtt, &hello(300, false)));
    node.wait_metric("raftmq_wills_waiting", 1);
    let _clean = Client::connect_with(node.mqtt, &hello(300, true));
    assert_eq!(message(&mut watcher).1, b"w");
}

#[test]
fn at_a_takeover_and_at_the_end_of_the_node() {
    let mut node = Node::start();
    let mut watcher = Client::connect(node.mqtt, "watcher");
    watcher.subscribe("w", QoS::AtLeastOnce);
    let hello = |will: &'static [u8]| Hello {
        id: "c",
        clean_start: true,
        will: Some(("w", will, false, 0)),
        ..Hello::default()
    };
    let _first = Client::connect_with(node.mqtt, &hello(b"first").packet());
    let _second = Client::connect_with(node.mqtt, &hello(b"second").packet());
    assert_eq!(message(&mut watcher).1, b"first");
    node.signal("-TERM");
    assert!(node.ended().success());
}

#[test]
fn not_to_topics_of_the_server() {
    let node = Node::start();
    let mut client = Client::open(node.mqtt);
    client.send(&Hello { id: "c", will: Some(("$SYS/x", b"", false, 0)), ..Hello::default() }.packet());
    assert_eq!(client.receive(), Got::ConnAck { present: false, reason: ReasonCode::NotAuthorized });
    assert_eq!(client.receive(), Got::Closed);
}
