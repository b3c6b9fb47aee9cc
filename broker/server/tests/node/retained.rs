//! Retained messages, from one worker to the other.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use raftmq_mqtt::{QoS, ReasonCode, RetainHandling, SubOptions};

use crate::client::{Client, Got, connect, subscribe};
use crate::process::Node;
use crate::words::{message, publish_with, subscribe_with};

fn keep(client: &mut Client, topic: &str, payload: &[u8]) -> ReasonCode {
    client.send(&publish_with(topic, payload, QoS::AtLeastOnce, true, 7));
    match client.receive() {
        Got::PubAck { packet_id: 7, reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn kept_replaced_cleared_and_sent_behind_the_suback() {
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    for payload in [&b"old"[..], b"new"] {
        assert_eq!(keep(&mut publisher, "r/1", payload), ReasonCode::NoMatchingSubscribers);
    }
    // Clients on both workers see the same.
    for number in 0..8 {
        let mut client = Client::connect(node.mqtt, &format!("c{number}"));
        client.subscribe("r/#", QoS::AtLeastOnce);
        assert_eq!(message(&mut client), ("r/1".into(), b"new".to_vec(), true));
        client.ping();
    }
    let mut client = Client::connect(node.mqtt, "live");
    client.subscribe("r/1", QoS::AtLeastOnce);
    assert_eq!(message(&mut client), ("r/1".into(), b"new".to_vec(), true));
    assert_eq!(keep(&mut publisher, "r/1", b""), ReasonCode::Success);
    assert_eq!(message(&mut client), ("r/1".into(), b"".to_vec(), false), "to a subscription that was there");
    client.subscribe("r/1", QoS::AtLeastOnce);
    client.ping();
}

#[test]
fn retain_handling_and_shared_subscriptions() {
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    keep(&mut publisher, "r", b"x");
    let mut client = Client::connect(node.mqtt, "c");
    let mut ask = |filter: &str, retain_handling, comes: bool| {
        client.send(&subscribe_with(3, filter, SubOptions { retain_handling, ..SubOptions::default() }));
        assert_eq!(client.receive(), Got::SubAck(vec![ReasonCode::Success]));
        if comes {
            assert_eq!(message(&mut client), ("r".into(), b"x".to_vec(), true));
        }
        client.ping();
    };
    ask("r", RetainHandling::DoNotSend, false);
    ask("r", RetainHandling::SendIfNew, false);
    ask("r", RetainHandling::SendAtSubscribe, true);
    ask("+", RetainHandling::SendIfNew, true);
    ask("$share/g/r", RetainHandling::SendAtSubscribe, false);
    ask("$queue/r", RetainHandling::SendAtSubscribe, false);
    ask("$exclusive/r", RetainHandling::SendAtSubscribe, true);
}

#[test]
fn many_are_sent_as_fast_as_the_client_takes_them() {
    const TOPICS: usize = 5_000;
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    for number in 0..TOPICS {
        keep(&mut publisher, &format!("many/{number}"), b"x");
    }
    for (id, qos) in [("q1", QoS::AtLeastOnce), ("q0", QoS::AtMostOnce)] {
        let mut client = Client::connect(node.mqtt, id);
        client.subscribe("many/+", qos);
        let topics: BTreeSet<String> = (0..TOPICS).map(|_| message(&mut client).0).collect();
        assert_eq!(topics.len(), TOPICS, "{id}: each once");
        client.ping();
    }
    assert_eq!(node.metric("raftmq_messages_dropped_total{reason=\"session_queue_full\"}"), 0);
}

/// Messages of QoS 0 that are more than its outlet holds wait for a client that reads slowly: none is dropped.
#[test]
fn large_ones_wait_for_the_client() {
    const TOPICS: usize = 120;
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let payload = vec![0; 200_000];
    for number in 0..TOPICS {
        keep(&mut publisher, &format!("large/{number}"), &payload);
    }
    let mut client = Client::connect(node.mqtt, "reader");
    client.subscribe("large/+", QoS::AtMostOnce);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let topics: BTreeSet<String> = (0..TOPICS).map(|_| message(&mut client).0).collect();
    assert_eq!(topics.len(), TOPICS);
    assert_eq!(node.metric("raftmq_messages_dropped_total{reason=\"slow_consumer\"}"), 0);
}

/// What waits for a client goes on when it reads, when it is gone and when it is back; nobody looks at it in between.
#[test]
fn what_waits_for_a_client_goes_on_with_it() {
    const LARGE: usize = 6_000;
    const SMALL: usize = 800;
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let large = vec![0; 2_000];
    for number in 0..LARGE {
        keep(&mut publisher, &format!("large/{number}"), &large);
    }
    for number in 0..SMALL {
        keep(&mut publisher, &format!("small/{number}"), b"x");
    }
    // More than the sockets hold, and no acknowledgement that would say that it reads.
    let mut reader = Client::connect(node.mqtt, "reader");
    reader.subscribe("large/+", QoS::AtMostOnce);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let topics: BTreeSet<String> = (0..LARGE).map(|_| message(&mut reader).0).collect();
    assert_eq!(topics.len(), LARGE);
    // More than its session may have at a time.
    let (mut client, _) = Client::connect_with(node.mqtt, &connect("c", true, 0, 60));
    client.subscribe("small/+", QoS::AtLeastOnce);
    std::thread::sleep(std::time::Duration::from_millis(300));
    drop(client);
    let (mut client, present) = Client::connect_with(node.mqtt, &connect("c", false, 0, 60));
    assert!(present);
    let mut topics = BTreeSet::new();
    while topics.len() < SMALL {
        topics.insert(message(&mut client).0);
    }
}

#[test]
fn nothing_older_overtakes() {
    const ROUNDS: u32 = 300;
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let subscribers: Vec<Client> = (0..4).map(|n| Client::connect(node.mqtt, &format!("s{n}"))).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                keep(&mut publisher, "state", &round.to_le_bytes());
            }
        });
        for mut client in subscribers {
            scope.spawn(move || {
                let (mut newest, mut live) = (0, 0);
                let mut asked = 0;
                while newest < ROUNDS {
                    if asked < 50 {
                        client.send(&subscribe(1, "state", QoS::AtMostOnce));
                        asked += 1;
                    }
                    match client.receive() {
                        Got::SubAck(_) => {}
                        Got::Publish { payload, retain, .. } => {
                            let round = u32::from_le_bytes(payload.try_into().unwrap());
                            if retain {
                                assert!(round >= newest, "retained {round} after {newest}");
                            } else {
                                // What was read may be ahead of what is still on its way here, which then comes, in its order.
                                assert!(round > live, "{round} after {live}");
                                live = round;
                            }
                            newest = newest.max(round);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
}

#[test]
fn what_is_over_the_limits_is_refused() {
    let node = Node::start_with("{retained: {maxMessages: 2, maxPayloadSize: 10B}, sys: {enabled: false}}", "", None);
    let mut publisher = Client::connect(node.mqtt, "publisher");
    assert_eq!(keep(&mut publisher, "a", b"1"), ReasonCode::NoMatchingSubscribers);
    assert_eq!(keep(&mut publisher, "b", b"12345678901"), ReasonCode::QuotaExceeded);
    assert_eq!(keep(&mut publisher, "b", b"1"), ReasonCode::NoMatchingSubscribers);
    assert_eq!(keep(&mut publisher, "c", b"1"), ReasonCode::QuotaExceeded);
    assert_eq!(keep(&mut publisher, "a", b"2"), ReasonCode::NoMatchingSubscribers, "a topic that has one");
    assert_eq!(node.metric("raftmq_retained_messages"), 2);
    assert_eq!(node.metric("raftmq_messages_refused_total{reason=\"quota\"}"), 2);
}

/// [MQTT-3.3.1-5]: what a subscription begins with is not older than what it gets afterwards, nor newer than what follows.
#[test]
fn nobody_gets_an_older_message_after_a_newer_one() {
    const SUBSCRIBERS: usize = 400;
    let node = Node::start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // On both workers, each with a topic of its own.
        for number in 0..4 {
            let (node, stop) = (&node, &stop);
            scope.spawn(move || {
                let mut publisher = Client::connect(node.mqtt, &format!("p{number}"));
                let mut value = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    // Many in one write.
                    let mut packets = Vec::new();
                    for _ in 0..20 {
                        value += 1;
                        let payload = value.to_be_bytes();
                        packets.extend(publish_with(&format!("v/{number}"), &payload, QoS::AtMostOnce, true, 0));
                    }
                    publisher.send(&packets);
                    publisher.ping();
                }
            });
        }
        let check = std::panic::catch_unwind(|| {
            for at in 0..SUBSCRIBERS {
                let mut client = Client::connect(node.mqtt, &format!("s{at}"));
                client.subscribe("v/+", QoS::AtMostOnce);
                let mut last: HashMap<String, u64> = HashMap::new();
                for _ in 0..100 {
                    let (topic, payload, retained) = message(&mut client);
                    let value = u64::from_be_bytes(payload.try_into().unwrap());
                    let before = last.insert(topic.clone(), value).unwrap_or(0);
                    assert!(value >= before, "subscriber {at}: {topic}: {value} (retained: {retained}) after {before}");
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = check {
            std::panic::resume_unwind(panic);
        }
    });
}
