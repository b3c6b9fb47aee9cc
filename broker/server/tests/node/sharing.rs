//! Shared subscriptions over the workers of a node.

use std::time::Duration;

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, publish};
use crate::process::Node;
use crate::words::{Hello, message, unsubscribe};

fn send(publisher: &mut Client, topic: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        publisher.send(&publish(topic, &number.to_le_bytes(), Some(1)));
        assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    }
}

#[test]
fn each_message_goes_to_one_member_in_turn() {
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let mut members: Vec<Client> = (0..6).map(|n| Client::connect(node.mqtt, &format!("m{n}"))).collect();
    for (number, member) in members.iter_mut().enumerate() {
        // The same group by its two names.
        member.subscribe(if number % 2 == 0 { "$queue/jobs/#" } else { "$share/$queue/jobs/#" }, QoS::AtLeastOnce);
    }
    let mut all = Client::connect(node.mqtt, "all");
    all.subscribe("jobs/+", QoS::AtLeastOnce);
    send(&mut publisher, "jobs/1", 0..60);
    let mut got = Vec::new();
    for member in &mut members {
        for _ in 0..10 {
            got.push(u32::from_le_bytes(message(member).1.try_into().unwrap()));
        }
        member.ping();
    }
    got.sort_unstable();
    assert_eq!(got, (0..60).collect::<Vec<_>>());
    let plain: Vec<_> = (0..60).map(|_| u32::from_le_bytes(message(&mut all).1.try_into().unwrap())).collect();
    assert_eq!(plain, got, "who is in no group gets all");
    assert_eq!(node.metric("raftmq_shared_members"), 6);
    assert_eq!(node.metric("raftmq_shared_groups"), 1);
}

/// [MQTT-4.8.2-4], [MQTT-4.8.2-5]
#[test]
fn what_a_member_leaves_goes_to_another() {
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let mut first = Client::connect(node.mqtt, "first");
    first.subscribe("$share/g/t", QoS::AtLeastOnce);
    send(&mut publisher, "t", 0..20);
    for _ in 0..20 {
        assert!(matches!(first.receive(), Got::Publish { .. }));
    }
    // Nothing was acknowledged.
    let mut second = Client::connect(node.mqtt, "second");
    second.subscribe("$share/g/t", QoS::AtLeastOnce);
    drop(first);
    let mut got: Vec<_> = (0..20).map(|_| u32::from_le_bytes(message(&mut second).1.try_into().unwrap())).collect();
    got.sort_unstable();
    assert_eq!(got, (0..20).collect::<Vec<_>>());
    second.send(&unsubscribe(5, "$share/g/t"));
    assert!(matches!(second.receive(), Got::Other(_)));
    publisher.send(&publish("t", b"x", Some(2)));
    assert_eq!(publisher.receive(), Got::PubAck { packet_id: 2, reason: ReasonCode::NoMatchingSubscribers });
    assert!(node.metric("raftmq_shared_redispatches_total") >= 20);
}

#[test]
fn members_that_are_away_get_only_what_nobody_else_takes() {
    let node = Node::start();
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let kept = Hello { id: "away", expiry_s: 600, ..Hello::default() }.packet();
    let mut away = Client::connect_with(node.mqtt, &kept).0;
    away.subscribe("$share/g/t", QoS::AtLeastOnce);
    drop(away);
    node.wait_metric("raftmq_clients", 1);
    let mut here = Client::connect(node.mqtt, "here");
    here.subscribe("$share/g/t", QoS::AtLeastOnce);
    send(&mut publisher, "t", 0..4);
    (0..4).for_each(|_| drop(message(&mut here)));
    drop(here);
    node.wait_metric("raftmq_clients", 1);
    send(&mut publisher, "t", 4..6);
    let (mut away, present) = Client::connect_with(node.mqtt, &kept);
    assert!(present);
    assert_eq!(message(&mut away).1, 4u32.to_le_bytes());
    assert_eq!(message(&mut away).1, 5u32.to_le_bytes());
    assert_eq!(away.receive_within(Duration::from_millis(200)), Got::Nothing);
}

#[test]
fn strategies() {
    for (strategy, topics, expected) in [("sticky", 4, 1), ("hashClient", 4, 1), ("hashTopic", 64, 4), ("random", 1, 4)]
    {
        let node = Node::start_with(&format!("{{sharedSubscription: {{strategy: {strategy}}}}}"), "", None);
        let mut publisher = Client::connect(node.mqtt, "publisher");
        let mut members: Vec<Client> = (0..4).map(|n| Client::connect(node.mqtt, &format!("m{n}"))).collect();
        members.iter_mut().for_each(|member| member.subscribe("$share/g/t/#", QoS::AtMostOnce));
        for number in 0..64u32 {
            send(&mut publisher, &format!("t/{}", number % topics), number..number + 1);
        }
        let mut busy = 0;
        let mut all = 0;
        for member in &mut members {
            let mut own = 0;
            while let Got::Publish { .. } = member.receive_within(Duration::from_millis(300)) {
                own += 1;
            }
            all += own;
            busy += usize::from(own > 0);
        }
        assert_eq!((all, busy), (64, expected), "{strategy}");
    }
}

#[test]
fn the_least_busy_member_gets_the_message() {
    let node = Node::start_with("{sharedSubscription: {strategy: leastInflight}}", "", None);
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let mut slow = Client::connect(node.mqtt, "slow");
    slow.subscribe("$share/g/t", QoS::AtLeastOnce);
    send(&mut publisher, "t", 0..10);
    let mut quick = Client::connect(node.mqtt, "quick");
    quick.subscribe("$share/g/t", QoS::AtLeastOnce);
    for number in 10..20 {
        send(&mut publisher, "t", number..number + 1);
        assert_eq!(message(&mut quick).1, number.to_le_bytes());
        quick.ping();
    }
}
