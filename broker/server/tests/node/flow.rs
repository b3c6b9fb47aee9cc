//! Order, slow readers, and clients that flood themselves.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, PATIENCE, PINGREQ, publish};
use crate::process::Node;

#[test]
fn a_publishers_messages_stay_in_order_on_every_worker() {
    const MESSAGES: u32 = 100_000;
    let node = Node::start_with("{maxOutboundBytes: 64MiB}", "", None);
    // More than one subscriber, so that both workers have one.
    let mut subscribers: Vec<Client> =
        (0..6).map(|number| Client::connect(node.mqtt, &format!("reader-{number}"))).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("n", QoS::AtMostOnce);
    }
    let mut publisher = Client::connect(node.mqtt, "publisher");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut batch = Vec::new();
            for number in 0..MESSAGES {
                batch.extend(publish("n", &number.to_le_bytes(), None));
                if batch.len() > 60_000 {
                    publisher.send(&batch);
                    batch.clear();
                }
            }
            publisher.send(&batch);
            publisher.ping();
        });
        for mut subscriber in subscribers {
            scope.spawn(move || {
                for expected in 0..MESSAGES {
                    match subscriber.receive() {
                        Got::Publish { payload, .. } => assert_eq!(payload, expected.to_le_bytes()),
                        other => panic!("{other:?} instead of message {expected}"),
                    }
                }
            });
        }
    });
}

#[test]
fn a_slow_reader_costs_bounded_memory_and_stops_nobody() {
    let node = Node::start();
    let mut slow: Vec<Client> = (0..4).map(|number| Client::connect(node.mqtt, &format!("slow-{number}"))).collect();
    slow[0].subscribe("t", QoS::AtMostOnce);
    slow[1].subscribe("t", QoS::AtMostOnce);
    slow[2].subscribe("t", QoS::AtLeastOnce);
    slow[3].subscribe("t", QoS::AtLeastOnce);
    let mut fast = Client::connect(node.mqtt, "fast");
    fast.subscribe("t", QoS::AtLeastOnce);
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let before = node.memory();
    let payload = vec![7; 50_000];
    for round in 0..60u16 {
        let batch: Vec<u8> = (0..20).flat_map(|number| publish("t", &payload, Some(round * 20 + number + 1))).collect();
        publisher.send(&batch);
        for _ in 0..20 {
            assert!(matches!(publisher.receive(), Got::PubAck { .. }));
        }
        assert_eq!(fast.messages(20).len(), 20);
    }
    // 60 MB went through. A slow reader may hold 1 MiB encoded and 16 MiB queued; the messages are shared.
    let grown = node.memory().saturating_sub(before);
    assert!(grown < 100 << 20, "{} MiB", grown >> 20);
    let dropped = |reason: &str| node.metric(&format!("raftmq_messages_dropped_total{{reason=\"{reason}\"}}"));
    assert!(dropped("slow_consumer") > 500, "{}", dropped("slow_consumer"));
    assert!(dropped("session_queue_full") > 500, "{}", dropped("session_queue_full"));
    // What was kept arrives when they read.
    for client in &mut slow[2..] {
        assert_eq!(client.messages(300).len(), 300);
    }
    for client in &mut slow {
        client.send(&PINGREQ);
        while client.receive() != Got::PingResp {}
    }
}

#[test]
fn a_client_that_floods_itself_harms_nobody() {
    let node = Node::start();
    let mut bystander = Client::connect(node.mqtt, "bystander");
    let mut flooder = Client::connect(node.mqtt, "flooder");
    flooder.subscribe("me", QoS::AtMostOnce);
    let before = node.memory();
    let batch: Vec<u8> = (0..500).flat_map(|_| publish("me", &[1; 1_000], None)).collect();
    // It reads nothing of what it gets, and is never stopped.
    flooder.socket.set_write_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..100 {
        flooder.send(&batch);
    }
    bystander.ping();
    let grown = node.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{} MiB", grown >> 20);
    assert!(node.metric("raftmq_messages_dropped_total{reason=\"slow_consumer\"}") > 0);
    flooder.send(&PINGREQ);
    while flooder.receive() != Got::PingResp {}
}

#[test]
fn a_client_that_asks_without_reading_the_answers_is_not_read_any_more() {
    let node = Node::start_with("{maxOutboundBytes: 16KiB, maxPacketSize: 64KiB}", "", None);
    let mut client = Client::connect(node.mqtt, "asker");
    let before = node.memory();
    client.socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let batch: Vec<u8> = std::iter::repeat_n(PINGREQ, 32_000).flatten().collect();
    let mut sent = 0;
    // A write may end in the middle of a packet: the next one goes on there.
    let stopped = (0..1_000).any(|_| match client.socket.write(&batch[sent % 2..]) {
        Ok(count) => {
            sent += count;
            false
        }
        Err(_) => true,
    });
    assert!(stopped, "{sent} bytes were taken");
    let grown = node.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{} MiB", grown >> 20);
    // It goes on when the client reads: nothing is lost.
    client.socket.set_write_timeout(None).unwrap();
    client.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answers = vec![0; sent / 2 * 2];
    client.socket.read_exact(&mut answers).unwrap();
    assert!(answers.chunks(2).all(|packet| packet == [0xD0, 0]));
    if sent % 2 == 1 {
        client.send(&PINGREQ[1..]);
        assert_eq!(client.receive(), Got::PingResp);
    }
    client.ping();
}

#[test]
fn both_workers_publish_to_each_other_at_full_speed() {
    let node = Node::start();
    let stop = AtomicBool::new(false);
    let deadline = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (node, stop) = (&node, &stop);
            scope.spawn(move || {
                let mut client = Client::connect(node.mqtt, &format!("c{number}"));
                client.subscribe("all", QoS::AtLeastOnce);
                let mut packet_id = 0u16;
                let (mut acks, mut got) = (0, 0u32);
                while !stop.load(Ordering::Relaxed) || acks < usize::from(packet_id) {
                    if Instant::now() > deadline || packet_id == u16::MAX {
                        stop.store(true, Ordering::Relaxed);
                    }
                    if !stop.load(Ordering::Relaxed) && usize::from(packet_id) - acks < 100 {
                        packet_id += 1;
                        client.send(&publish("all", b"x", Some(packet_id)));
                        continue;
                    }
                    match client.receive() {
                        Got::PubAck { reason, .. } => {
                            assert_eq!(reason, ReasonCode::Success);
                            acks += 1;
                        }
                        Got::Publish { packet_id: Some(id), .. } => {
                            got += 1;
                            client.send(&crate::client::puback(id));
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert!(got > 0);
            });
        }
    });
    node.wait_metric("raftmq_connections", 0);
}
