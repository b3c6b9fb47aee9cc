//! Sessions: one connection each, on whichever worker it comes in, kept and ended.

use std::sync::Barrier;
use std::time::Duration;

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, connect, disconnect, publish, subscribe};
use crate::process::Node;

#[test]
fn of_many_connections_with_one_identifier_one_survives() {
    let node = Node::start();
    for expiry_s in [0, 600] {
        let start = Barrier::new(50);
        let survivors: usize = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..50)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let mut client = Client::open(node.mqtt);
                        let hello = [connect("one", false, 0, expiry_s), subscribe(1, "t/#", QoS::AtLeastOnce)];
                        client.send(&hello.concat());
                        loop {
                            match client.receive_within(Duration::from_secs(3)) {
                                Got::ConnAck { reason: ReasonCode::Success, .. } | Got::SubAck(_) => {}
                                Got::Disconnect(reason) => assert_eq!(reason, ReasonCode::SessionTakenOver),
                                Got::Closed => return (0, None),
                                Got::Nothing => return (1, Some(client)),
                                other => panic!("{other:?}"),
                            }
                        }
                    })
                })
                .collect();
            let ends: Vec<_> = tries.into_iter().map(|one| one.join().unwrap()).collect();
            assert_eq!(node.metric("raftmq_connections"), 1);
            assert_eq!(node.metric("raftmq_clients"), 1);
            assert_eq!(node.metric("raftmq_subscriptions"), 1);
            ends.into_iter().map(|(survived, _client)| survived).sum()
        });
        assert_eq!(survivors, 1);
        node.wait_metric("raftmq_connections", 0);
        node.wait_metric("raftmq_clients", 0);
    }
    // A clean start ends the session that was kept.
    let mut client = Client::connect_with(node.mqtt, &connect("one", true, 0, 0)).0;
    client.send(&disconnect());
    client.last_words();
    node.wait_metric("raftmq_connections", 0);
    node.wait_metric("raftmq_clients", 0);
    node.wait_metric("raftmq_subscriptions", 0);
    // Sockets accepted: one that went from worker to worker is one.
    assert_eq!(node.metric("raftmq_connections_opened_total"), 101);
}

#[test]
fn a_session_is_resumed_on_whichever_worker_the_client_comes_back() {
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let packet = connect("kept", false, 0, 600);
    let (mut client, present) = Client::connect_with(node.mqtt, &packet);
    assert!(!present);
    client.subscribe("news", QoS::AtLeastOnce);
    // The kernel spreads connections over both workers: after so many the client was on either.
    for round in 0u16..16 {
        client.send(&disconnect());
        client.last_words();
        node.wait_metric("raftmq_clients", 1);
        for number in 0..5u8 {
            publisher.send(&publish("news", &[round as u8, number], Some(1)));
            assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
        }
        let resumed = Client::connect_with(node.mqtt, &packet);
        assert!(resumed.1, "round {round}");
        client = resumed.0;
        let expected: Vec<Vec<u8>> = (0..5).map(|number| vec![round as u8, number]).collect();
        assert_eq!(client.messages(5), expected);
    }
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let node = Node::start();
    let mut client = Client::connect_with(node.mqtt, &connect("short", true, 0, 1)).0;
    client.subscribe("a", QoS::AtLeastOnce);
    drop(client);
    node.wait_metric("raftmq_subscriptions", 0);
    assert!(!Client::connect_with(node.mqtt, &connect("short", false, 0, 0)).1);
}
