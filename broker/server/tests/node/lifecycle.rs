//! Connections that come and go, time out, are too many; and the end of the node.

use std::time::{Duration, Instant};

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, connect, subscribe};
use crate::process::Node;

#[test]
fn what_connections_took_is_given_back() {
    let node = Node::start();
    let mut memory = Vec::new();
    for round in 0..5 {
        let clients: Vec<Client> = (0..1_000)
            .map(|number| {
                let mut client = Client::open(node.mqtt);
                let id = format!("churn-{round}-{number}");
                client.send(&[connect(&id, true, 60, 0), subscribe(1, &id, QoS::AtLeastOnce)].concat());
                client
            })
            .collect();
        for mut client in clients {
            assert!(matches!(client.receive(), Got::ConnAck { reason: ReasonCode::Success, .. }));
            assert!(matches!(client.receive(), Got::SubAck(_)));
        }
        for name in ["raftmq_connections", "raftmq_clients", "raftmq_subscriptions"] {
            node.wait_metric(name, 0);
        }
        memory.push(node.memory());
    }
    // The first round may grow the process, the others find its memory again.
    assert!(memory[4] < memory[0] + (8 << 20), "{memory:?}");
    assert_eq!(node.metric("raftmq_connections_opened_total"), 5_000);
}

#[test]
fn silence_ends_a_connection_after_its_keep_alive_and_a_half() {
    let node = Node::start();
    let mut silent = Client::connect_with(node.mqtt, &connect("silent", true, 1, 0)).0;
    let mut alive = Client::connect_with(node.mqtt, &connect("alive", true, 1, 0)).0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1_300) {
        alive.ping();
        assert_eq!(alive.receive_within(Duration::from_millis(200)), Got::Nothing);
    }
    assert_eq!(silent.receive_within(Duration::from_secs(5)), Got::Disconnect(ReasonCode::KeepAliveTimeout));
    assert!(start.elapsed() >= Duration::from_millis(1_400), "{:?}", start.elapsed());
    alive.ping();
    node.wait_metric("raftmq_clients_disconnected_total{reason=\"keep_alive\"}", 1);
    assert_eq!(node.metric("raftmq_protocol_errors_total"), 0, "silence breaks no protocol");
}

#[test]
fn a_process_that_slept_blames_no_client() {
    let node = Node::start();
    let mut clients: Vec<Client> =
        (0..20).map(|number| Client::connect_with(node.mqtt, &connect(&format!("c{number}"), true, 1, 0)).0).collect();
    node.signal("-STOP");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        for client in &mut clients {
            client.send(&crate::client::PINGREQ);
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    node.signal("-CONT");
    for client in &mut clients {
        assert_eq!(client.receive(), Got::PingResp);
    }
}

#[test]
fn without_connect_a_connection_is_closed() {
    let node = Node::start_with("{connectTimeout: 1s}", "", None);
    let mut silent = Client::open(node.mqtt);
    let mut slow = Client::open(node.mqtt);
    let packet = connect("slow", true, 0, 0);
    slow.send(&packet[..packet.len() - 1]);
    assert_eq!(silent.receive_within(Duration::from_secs(8)), Got::Closed);
    assert_eq!(slow.receive_within(Duration::from_secs(8)), Got::Closed);
    node.wait_metric("raftmq_connections", 0);
    assert_eq!(node.metric("raftmq_connections_refused_total{reason=\"timeout\"}"), 2);
}

#[test]
fn a_listener_keeps_no_more_connections_than_it_may() {
    let node = Node::start_with("", ", maxConnections: 10", None);
    // Connections that go from one worker to the other stay counted as one: of six identifiers some meet the other worker.
    for _ in 0..8 {
        for id in ["a", "b", "c", "d", "e", "f"] {
            drop(Client::connect_with(node.mqtt, &connect(id, false, 0, 60)));
        }
        node.wait_metric("raftmq_connections", 0);
    }
    for _ in 0..2 {
        let kept: Vec<Client> = (0..10).map(|number| Client::connect(node.mqtt, &format!("c{number}"))).collect();
        let refused = node.metric("raftmq_connections_refused_total{reason=\"limit\"}");
        let mut one_more = Client::open(node.mqtt);
        assert_eq!(one_more.receive(), Got::Closed);
        assert_eq!(node.metric("raftmq_connections_refused_total{reason=\"limit\"}"), refused + 1);
        drop(kept);
        node.wait_metric("raftmq_connections", 0);
    }
}

#[test]
fn without_free_files_connections_wait_and_then_go_on() {
    let node = Node::start_with("", "", Some(64));
    let kept: Vec<Client> = (0..5).map(|number| Client::connect(node.mqtt, &format!("kept-{number}"))).collect();
    let waiting: Vec<Client> = (0..120).map(|_| Client::open(node.mqtt)).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !node.log().contains("cannot accept") {
        assert!(Instant::now() < deadline, "{}", node.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    for mut client in kept {
        client.ping();
    }
    drop(waiting);
    Client::connect(node.mqtt, "after").ping();
}

#[test]
fn a_node_that_stops_tells_its_clients() {
    let mut node = Node::start();
    let mut clients: Vec<Client> = (0..20).map(|number| Client::connect(node.mqtt, &format!("c{number}"))).collect();
    let _silent = Client::open(node.mqtt);
    node.signal("-TERM");
    for client in &mut clients {
        assert_eq!(client.last_words(), Got::Disconnect(ReasonCode::ServerShuttingDown));
    }
    assert!(node.ended().success());
}
