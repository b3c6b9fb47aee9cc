//! Listeners side by side, and what each has of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, connect, publish};
use crate::process::Node;

#[test]
fn without_settings_there_are_1883_and_websocket_on_8083() {
    let output = Command::new(env!("CARGO_BIN_EXE_raftmq")).args(["node", "--check"]).output().unwrap();
    assert!(output.status.success());
    let yaml = String::from_utf8(output.stdout).unwrap().replace(['"', '\''], "");
    let listeners = "listeners:\n- name: mqtt\n  type: tcp\n  bind: 0.0.0.0:1883\n- name: ws\n  type: ws\n  bind: 0.0.0.0:8083\n  \
                     websocket:\n    path: /mqtt\n";
    assert!(yaml.contains(listeners), "{yaml}");
}

#[test]
fn several_listeners_over_ipv4_and_ipv6_are_one_broker() {
    // `[::]` is all addresses, those of IPv4 too.
    let listeners = "- {name: four, bind: '@0'}\n- {name: six, bind: '[::]:0'}\n- {name: seven, bind: '[::1]:0'}";
    let node = Node::with_listeners(listeners, &[]);
    let log = node.log();
    let port = |name: &str| -> u16 {
        let line = log.lines().find(|line| line.contains("listening") && line.contains(&format!("\"{name}\"")));
        let rest = line.unwrap_or_else(|| panic!("{name}: {log}")).split("address=").nth(1).unwrap();
        rest.split_whitespace().next().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
    };
    let (six, seven) = (port("six"), port("seven"));
    let addresses = [
        node.mqtt,
        format!("127.0.0.1:{six}").parse().unwrap(),
        format!("[::1]:{six}").parse().unwrap(),
        format!("[::1]:{seven}").parse().unwrap(),
    ];
    let mut clients: Vec<Client> =
        addresses.iter().map(|address| Client::connect(*address, &address.to_string())).collect();
    for client in &mut clients {
        client.subscribe("t", QoS::AtLeastOnce);
    }
    clients[0].send(&publish("t", b"to all", None));
    for client in &mut clients {
        assert_eq!(client.messages(1), [b"to all"]);
    }
}

#[test]
fn limits_are_each_listeners_own() {
    let node = Node::with_listeners(
        "- {name: wide, bind: '@0'}\n- {name: narrow, bind: '@1', maxPacketSize: 1KiB, connectTimeout: 500ms, maxConnections: 1}",
        &[],
    );
    let packet = publish("t", &[0; 2_000], None);
    let mut wide = Client::connect(node.addresses[0], "wide");
    wide.subscribe("t", QoS::AtMostOnce);
    wide.send(&packet);
    assert_eq!(wide.messages(1)[0].len(), 2_000);
    let mut narrow = Client::connect(node.addresses[1], "narrow");
    narrow.subscribe("t", QoS::AtMostOnce);
    // What a listener takes is not what its clients take.
    wide.send(&packet);
    assert_eq!(narrow.messages(1)[0].len(), 2_000);
    assert_eq!(Client::open(node.addresses[1]).receive(), Got::Closed, "one is all it keeps");
    narrow.send(&packet);
    assert_eq!(narrow.last_words(), Got::Disconnect(ReasonCode::PacketTooLarge));
    node.wait_metric("raftmq_listener_connections{listener=\"narrow\",transport=\"tcp\"}", 0);
    let start = Instant::now();
    assert_eq!(Client::open(node.addresses[1]).receive(), Got::Closed);
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
    Client::connect(node.addresses[0], "again").ping();
}

const MOUNTED: &str = "- {name: all, bind: '@0'}\n- {name: plant, bind: '@1', mountPoint: plant/}";

#[test]
fn behind_a_mount_point_there_is_nothing_else() {
    let node = Node::with_listeners(MOUNTED, &[]);
    let mut inside = Client::connect(node.addresses[1], "inside");
    inside.subscribe("#", QoS::AtLeastOnce);
    let mut outside = Client::connect(node.addresses[0], "outside");
    // `plant/#` matches the first two.
    for topic in ["plant", "plant/", "plant/a", "plan", "a"] {
        outside.send(&publish(topic, topic.as_bytes(), None));
    }
    outside.ping();
    assert_eq!(inside.messages(1), [b"plant/a"]);
    inside.ping();
}

/// A client identifier is all that it takes to come to a session.
#[test]
fn a_session_is_not_continued_behind_another_mount_point() {
    let node = Node::with_listeners(MOUNTED, &[]);
    let mut outside = Client::connect(node.addresses[0], "outside");
    for (from, to) in [(0, 1), (1, 0)] {
        let (mut first, _) = Client::connect_with(node.addresses[from], &connect("c", true, 0, 600));
        first.subscribe("plant/#", QoS::AtLeastOnce);
        first.subscribe("plan", QoS::AtLeastOnce);
        drop(first);
        node.wait_metric("raftmq_clients", 1);
        outside.send(&publish("plan", b"for the first", None));
        outside.send(&publish("plant/plan", b"for the first", None));
        outside.ping();
        let (mut second, present) = Client::connect_with(node.addresses[to], &connect("c", false, 0, 600));
        assert!(!present, "from listener {from} to {to}");
        second.ping();
        assert_eq!(node.metric("raftmq_subscriptions"), 0);
    }
    // Behind the same one it is.
    let (_, present) = Client::connect_with(node.addresses[0], &connect("c", false, 0, 600));
    assert!(present);
}
