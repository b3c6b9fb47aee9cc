//! Zones: each limit met on a listener that has it, beside one that has not.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use raftmq_mqtt::{
    Connect, Decoded, Limits, Packet, Properties, PropertiesBuf, Property, Publish, QoS, ReasonCode, SubOptions,
    Subscribe, Subscription, Version, Will, decode,
};

use crate::client::{Client, Got, connect, disconnect, publish, subscribe};
use crate::process::Node;
use crate::words::{bytes, publish_with, subscribe_with};

const LISTENERS: &str = "- {name: free, bind: '@0'}
- {name: tight, bind: '@1', zone: tight}
- {name: mounted, bind: '@2', zone: mounted}
zones:
  tight:
    maxQos: 1
    retain: false
    sharedSubscriptions: false
    wildcardSubscriptions: false
    subscriptionIdentifiers: false
    receiveMaximum: 2
    maxPacketSize: 4KiB
    maxTopicAliases: 3
    sessionExpiryMin: 30s
    sessionExpiryMax: 60s
    messageExpiryMax: 100s
    minKeepAlive: 10s
    maxKeepAlive: 20s
    maxTopicLevels: 3
    maxTopicLength: 40
    maxSubscriptions: 2
    maxUserProperties: 1
    maxClientIdLength: 23
  mounted: {mountPoint: zone/, maxQueuedMessages: 3, queueFull: dropOldest}";

/// The properties of CONNACK, for a CONNECT that asks for these.
fn told<R>(address: SocketAddr, keep_alive: u16, expiry_s: u32, look: impl FnOnce(Properties<'_>) -> R) -> R {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(crate::client::PATIENCE)).unwrap();
    socket.write_all(&connect("asks", true, keep_alive, expiry_s)).unwrap();
    let mut got = vec![0; 4096];
    let mut length = 0;
    loop {
        let count = socket.read(&mut got[length..]).unwrap();
        assert!(count > 0, "closed");
        length += count;
        match decode(&got[..length], Some(Version::V5), &Limits::default()).unwrap() {
            Decoded::Packet { packet: Packet::ConnAck(ack), .. } => {
                assert_eq!(ack.reason, ReasonCode::Success);
                return look(ack.properties);
            }
            Decoded::Packet { packet, .. } => panic!("{packet:?}"),
            Decoded::Incomplete { .. } => {}
        }
    }
}

#[test]
fn connack_tells_what_the_zone_has() {
    let node = Node::with_listeners(LISTENERS, &[]);
    for (asked, given) in [(5, Some(10)), (15, None), (30, Some(20)), (0, Some(20))] {
        told(node.addresses[1], asked, 600, |told| {
            assert_eq!(told.server_keep_alive(), given, "{asked}");
            assert_eq!(told.maximum_qos(), Some(1));
            assert_eq!(told.retain_available(), Some(0));
            assert_eq!(told.shared_subscription_available(), Some(0));
            assert_eq!(told.wildcard_subscription_available(), Some(0));
            assert_eq!(told.subscription_identifier_available(), Some(0));
            assert_eq!((told.receive_maximum(), told.maximum_packet_size()), (Some(2), Some(4_096)));
            assert_eq!((told.topic_alias_maximum(), told.session_expiry_interval()), (Some(3), Some(60)));
        });
    }
    for (asked, given) in [(0, None), (10, Some(30)), (40, None)] {
        told(node.addresses[1], 15, asked, |told| assert_eq!(told.session_expiry_interval(), given, "{asked}"));
    }
    told(node.addresses[0], 5, 600, |told| {
        assert_eq!((told.server_keep_alive(), told.session_expiry_interval(), told.maximum_qos()), (None, None, None));
        assert_eq!((told.retain_available(), told.wildcard_subscription_available()), (None, None));
        assert_eq!((told.shared_subscription_available(), told.subscription_identifier_available()), (None, None));
        assert_eq!((told.receive_maximum(), told.maximum_packet_size()), (Some(1_024), Some(1 << 20)));
    });
}

fn with_user_properties(count: usize) -> PropertiesBuf {
    let mut properties = PropertiesBuf::new();
    for _ in 0..count {
        properties.push(Property::UserProperty(("k", "v"))).unwrap();
    }
    properties
}

fn user_publish(count: usize, packet_id: Option<u16>) -> Vec<u8> {
    bytes(&Packet::Publish(Publish {
        dup: false,
        qos: if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        retain: false,
        topic: "t",
        packet_id: packet_id.and_then(NonZeroU16::new),
        properties: with_user_properties(count).as_properties(),
        payload: b"x",
    }))
}

fn user_subscribe(count: usize, filter: &str, id: Option<u32>) -> Vec<u8> {
    let mut properties = with_user_properties(count);
    if let Some(id) = id {
        properties.push(Property::SubscriptionIdentifier(id)).unwrap();
    }
    bytes(&Packet::Subscribe(Subscribe {
        packet_id: NonZeroU16::new(1).unwrap(),
        properties: properties.as_properties(),
        subscriptions: vec![Subscription { filter, options: SubOptions::default() }],
    }))
}

fn hello(id: &str, will: Option<(&str, QoS, bool)>, user_properties: usize, of_will: usize) -> Vec<u8> {
    let (properties, of_will) = (with_user_properties(user_properties), with_user_properties(of_will));
    bytes(&Packet::Connect(Box::new(Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: id,
        will: will.map(|(topic, qos, retain)| Will {
            topic,
            payload: b"will",
            qos,
            retain,
            properties: of_will.as_properties(),
        }),
        username: None,
        password: None,
        properties: properties.as_properties(),
    })))
}

/// What ends the connection, with the reason, on the listener of the zone; on the other one it does not.
#[test]
fn what_the_zone_has_not_ends_the_connection_that_was_told() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let table: [(&str, Vec<u8>, ReasonCode); 8] = [
        ("qos", publish_with("t", b"x", QoS::ExactlyOnce, false, 1), ReasonCode::QoSNotSupported),
        ("retain", publish_with("t", b"x", QoS::AtMostOnce, true, 0), ReasonCode::RetainNotSupported),
        ("wildcard", subscribe(1, "a/+", QoS::AtMostOnce), ReasonCode::WildcardSubscriptionsNotSupported),
        ("shared", subscribe(1, "$share/g/a", QoS::AtMostOnce), ReasonCode::SharedSubscriptionsNotSupported),
        ("subscription_identifier", user_subscribe(0, "a", Some(1)), ReasonCode::SubscriptionIdentifiersNotSupported),
        ("packet_size", publish("t", &[0; 5_000], None), ReasonCode::PacketTooLarge),
        // QoS 0 has no other answer.
        ("topic", publish("a/b/c/d", b"x", None), ReasonCode::TopicNameInvalid),
        ("user_properties", user_publish(2, None), ReasonCode::QuotaExceeded),
    ];
    let mut bystander = Client::connect(node.addresses[1], "bystander");
    for (limit, packet, reason) in table {
        let mut client = Client::connect(node.addresses[1], "abuser");
        client.send(&packet);
        assert_eq!(client.last_words(), Got::Disconnect(reason), "{limit}");
        node.wait_metric(&format!("raftmq_limits_met_total{{limit=\"{limit}\"}}"), 1);
        let mut free = Client::connect(node.addresses[0], "free");
        free.send(&packet);
        free.send(&crate::client::PINGREQ);
        while free.receive() != Got::PingResp {}
        bystander.ping();
    }
}

#[test]
fn what_has_an_answer_gets_its_reason_in_it() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut client = Client::connect(node.addresses[1], "client");
    let refused = |packet_id, reason| Got::PubAck { packet_id, reason };
    for topic in ["a/b/c/d", &"x".repeat(41)] {
        client.send(&publish(topic, b"x", Some(1)));
        assert_eq!(client.receive(), refused(1, ReasonCode::TopicNameInvalid), "{topic}");
        client.send(&subscribe(1, topic, QoS::AtMostOnce));
        assert_eq!(client.receive(), Got::SubAck(vec![ReasonCode::TopicFilterInvalid]), "{topic}");
    }
    for topic in ["a/b/c", &"x".repeat(40)] {
        client.send(&publish(topic, b"x", Some(1)));
        assert_eq!(client.receive(), refused(1, ReasonCode::NoMatchingSubscribers), "{topic}");
    }
    client.send(&user_publish(2, Some(2)));
    assert_eq!(client.receive(), refused(2, ReasonCode::QuotaExceeded));
    client.send(&user_publish(1, Some(2)));
    assert_eq!(client.receive(), refused(2, ReasonCode::NoMatchingSubscribers));
    client.send(&user_subscribe(2, "t", None));
    assert_eq!(client.receive(), Got::SubAck(vec![ReasonCode::QuotaExceeded]));
    // What is granted is not above the zone's.
    for filter in ["a", "b"] {
        client.send(&subscribe_with(1, filter, SubOptions { qos: QoS::ExactlyOnce, ..SubOptions::default() }));
        assert_eq!(client.receive(), Got::SubAck(vec![ReasonCode::GrantedQoS1]), "{filter}");
    }
    client.send(&subscribe(1, "c", QoS::AtMostOnce));
    assert_eq!(client.receive(), Got::SubAck(vec![ReasonCode::QuotaExceeded]));
    // One that it has already can be changed.
    client.subscribe("a", QoS::AtMostOnce);
    node.wait_metric("raftmq_limits_met_total{limit=\"topic\"}", 4);
    node.wait_metric("raftmq_limits_met_total{limit=\"user_properties\"}", 2);
    node.wait_metric("raftmq_limits_met_total{limit=\"subscriptions\"}", 1);
    client.ping();
}

#[test]
fn connect_is_refused_for_what_is_in_it() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let will = |topic| Some((topic, QoS::AtMostOnce, false));
    let long = "x".repeat(24);
    for (limit, packet, reason) in [
        ("client_id", hello(&long, None, 0, 0), ReasonCode::ClientIdentifierNotValid),
        ("topic", hello("c", will("a/b/c/d"), 0, 0), ReasonCode::TopicNameInvalid),
        ("user_properties", hello("c", None, 2, 0), ReasonCode::QuotaExceeded),
        ("user_properties", hello("c", will("a"), 1, 2), ReasonCode::QuotaExceeded),
        ("qos", hello("c", Some(("a", QoS::ExactlyOnce, false)), 0, 0), ReasonCode::QoSNotSupported),
        ("retain", hello("c", Some(("a", QoS::AtMostOnce, true)), 0, 0), ReasonCode::RetainNotSupported),
    ] {
        let name = format!("raftmq_limits_met_total{{limit=\"{limit}\"}}");
        let before = node.metric(&name);
        let mut client = Client::open(node.addresses[1]);
        client.send(&packet);
        assert_eq!(client.receive(), Got::ConnAck { present: false, reason }, "{limit}");
        node.wait_metric(&name, before + 1);
        let mut free = Client::open(node.addresses[0]);
        free.start(&packet);
    }
    let mut fits = Client::open(node.addresses[1]);
    fits.start(&hello(&long[1..], will("a/b/c"), 1, 1));
}

#[test]
fn a_message_lives_no_longer_than_the_zone_of_its_publisher_says() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut subscriber = Client::connect(node.addresses[0], "subscriber");
    subscriber.subscribe("t", QoS::AtMostOnce);
    let expiring = |seconds: Option<u32>| {
        let mut properties = PropertiesBuf::new();
        if let Some(seconds) = seconds {
            properties.push(Property::MessageExpiryInterval(seconds)).unwrap();
        }
        bytes(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "t",
            packet_id: None,
            properties: properties.as_properties(),
            payload: b"x",
        }))
    };
    for (from, asked, given) in [
        (1, None, Some(100)),
        (1, Some(1_000), Some(100)),
        (1, Some(50), Some(50)),
        (0, Some(1_000), Some(1_000)),
        (0, None, None),
    ] {
        let mut publisher = Client::connect(node.addresses[from], "publisher");
        publisher.send(&expiring(asked));
        let got = subscriber.receive_raw();
        let Decoded::Packet { packet: Packet::Publish(got), .. } =
            decode(&got, Some(Version::V5), &Limits::default()).unwrap()
        else {
            panic!()
        };
        assert_eq!(got.properties.message_expiry_interval(), given, "{asked:?}");
    }
}

#[test]
fn the_oldest_make_room_where_the_zone_wants_it() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let (mut sleeper, _) = Client::connect_with(node.addresses[2], &connect("sleeper", true, 0, 600));
    sleeper.subscribe("t", QoS::AtLeastOnce);
    sleeper.send(&disconnect());
    node.wait_metric("raftmq_clients", 0);
    // The mount point is the zone's, too.
    let mut publisher = Client::connect(node.addresses[0], "publisher");
    for number in 0..10u8 {
        publisher.send(&publish("zone/t", &[number], Some(1)));
        assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    }
    // The worker that has the session gets them a moment after their publisher is answered.
    node.wait_metric("raftmq_messages_dropped_total{reason=\"session_queue_full\"}", 7);
    let (mut sleeper, present) = Client::connect_with(node.addresses[2], &connect("sleeper", false, 0, 600));
    assert!(present);
    assert_eq!(sleeper.messages(3), [[7], [8], [9]]);
    assert_eq!(sleeper.receive_within(Duration::from_millis(200)), Got::Nothing);
}
