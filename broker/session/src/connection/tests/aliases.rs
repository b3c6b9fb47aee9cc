//! Topic aliases of the client, and towards it.

use super::*;

/// [MQTT-3.3.2-7], [MQTT-3.3.2-9], [MQTT-3.3.2-12]
#[test]
fn of_the_client() {
    let limits = SessionLimits { max_topic_aliases: 2, max_topic_alias_bytes: 10, ..SessionLimits::default() };
    let mut peer = Peer::open(V5, limits, &PropertiesBuf::new(), None);
    let (one, two) = (properties(&[Property::TopicAlias(1)]), properties(&[Property::TopicAlias(2)]));
    let mut give = |topic: &str, alias: &PropertiesBuf| {
        peer.give(Packet::Publish(Publish { properties: alias.as_properties(), ..publish(topic, QoS::AtMostOnce, 0) }));
        match peer.actions.pop() {
            Some(Action::Publish { message, .. }) => {
                assert_eq!(message.properties().topic_alias(), None);
                Ok(message.topic().to_owned())
            }
            Some(Action::Close { reason }) => Err(reason),
            other => panic!("{other:?}"),
        }
    };
    let script = [
        ("second", &two, "second"),
        ("one", &one, "one"),
        ("", &two, "second"),
        ("", &one, "one"),
        // Another topic, then the same one again: what is not used any more does not count.
        ("x", &two, "x"),
        ("123456", &one, "123456"),
        ("", &one, "123456"),
        ("123456", &one, "123456"),
    ];
    for (topic, alias, expected) in script {
        assert_eq!(give(topic, alias).as_deref(), Ok(expected));
    }
    assert_eq!(give("1234567890", &two), Err(CloseReason::Fault(ReasonCode::QuotaExceeded)));
}

/// [MQTT-3.3.2-7]
#[test]
fn of_the_client_end_with_the_connection() {
    let alias = properties(&[Property::TopicAlias(1)]);
    let publish = |topic| Publish { properties: alias.as_properties(), ..publish(topic, QoS::AtMostOnce, 0) };
    let mut peer = Peer::simple(V5);
    peer.give(Packet::Publish(publish("a")));
    let mut peer = peer.reconnect();
    peer.out.clear();
    peer.give(Packet::Publish(publish("")));
    assert_eq!(peer.told(), Some(ReasonCode::ProtocolError));
}

/// Delivers a message and says how its topic was sent.
fn topic_sent(peer: &mut Peer, topic: &str, qos: QoS) -> (String, Option<u16>) {
    let publish = Publish { topic, payload: b"m", ..publish(topic, qos, 1) };
    let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "publisher", 0, None).unwrap();
    assert_eq!(peer.deliver(&message, &at(qos)), Delivery::Sent(qos));
    last_topic(peer)
}

fn last_topic(peer: &mut Peer) -> (String, Option<u16>) {
    let mut found = None;
    each_packet(&std::mem::take(&mut peer.out), V5, |packet| {
        if let Packet::Publish(publish) = packet {
            found = Some((publish.topic.to_owned(), publish.properties.topic_alias()));
        }
    });
    found.unwrap()
}

fn sent(topic: &str, alias: Option<u16>) -> (String, Option<u16>) {
    (topic.to_owned(), alias)
}

/// [MQTT-3.1.2-26], [MQTT-3.1.2-27], [MQTT-3.3.2-11]
#[test]
fn towards_the_client() {
    let limits = || SessionLimits { max_topic_aliases_out: 2, ..SessionLimits::default() };
    for (asked, most) in [(None, 0), (Some(0), 0), (Some(1), 1), (Some(9), 2)] {
        let list = asked.map(Property::TopicAliasMaximum);
        let mut peer = Peer::open(V5, limits(), &properties(list.as_slice()), None);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for (topic, number) in [("topic/1", 1), ("topic/2", 2), ("topic/3", 3)] {
                let known = qos != QoS::AtMostOnce;
                if qos == QoS::AtLeastOnce {
                    // The second time it is introduced.
                    assert_eq!(topic_sent(&mut peer, topic, qos), sent(topic, (number <= most).then_some(number)));
                }
                let expected = if known && number <= most { sent("", Some(number)) } else { sent(topic, None) };
                assert_eq!(topic_sent(&mut peer, topic, qos), expected, "{asked:?}");
            }
        }
    }
    // Those of MQTT 3 have none.
    let mut peer = Peer::simple(V4);
    for _ in 0..3 {
        topic_sent_v4(&mut peer);
    }
}

fn topic_sent_v4(peer: &mut Peer) {
    peer.deliver(&message("m", QoS::AtMostOnce), &at(QoS::AtMostOnce));
    assert_eq!(peer.trace(), ["PUBLISH q0 m"]);
}

/// The bytes are shared by all who get the same; who has an alias gets its own beginning. What is sent again on another connection
/// has the whole topic.
#[test]
fn with_shared_forms_and_over_reconnects() {
    let asked = properties(&[Property::TopicAliasMaximum(5), Property::SessionExpiryInterval(60)]);
    let mut peer = Peer::open(V5, SessionLimits::default(), &asked, None);
    let mut plain = Peer::simple(V5);
    for round in 0..3 {
        let text = properties(&[Property::UserProperty(("k", "v"))]);
        let publish = Publish { properties: text.as_properties(), ..publish("some/topic", QoS::AtLeastOnce, 1) };
        let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "p", 0, Some(2_000_000_000_000)).unwrap();
        let mut forms = Forms::new(message, peer.now);
        for peer in [&mut plain, &mut peer] {
            let matched = Matched { sub_ids: smallvec::smallvec![7, 300], ..at(QoS::AtLeastOnce) };
            assert_eq!(
                peer.connection.deliver(&mut forms, peer.now, &matched, &mut peer.out),
                Delivery::Sent(QoS::AtLeastOnce)
            );
        }
        let check = |peer: &mut Peer, topic: &str, alias| {
            each_packet(&std::mem::take(&mut peer.out), V5, |packet| {
                let Packet::Publish(publish) = packet else { panic!() };
                assert_eq!((publish.topic, publish.properties.topic_alias()), (topic, alias));
                assert_eq!(publish.properties.user_properties().collect::<Vec<_>>(), [("k", "v")]);
                assert_eq!(publish.properties.subscription_identifiers().collect::<Vec<_>>(), [7, 300]);
                assert_eq!(publish.payload, b"payload");
            });
        };
        check(&mut plain, "some/topic", None);
        let (topic, alias) = [("some/topic", None), ("some/topic", Some(1)), ("", Some(1))][round];
        check(&mut peer, topic, alias);
    }
    let mut next = peer.reconnect();
    let again: Vec<_> = next.sent().into_iter().filter(|sent| sent.contains("some/topic")).collect();
    assert_eq!(again.len(), 3, "{:?}", next.sent());
    next.out.clear();
}

/// [MQTT-3.1.2-24]: the alias may make a packet small enough, or too large.
#[test]
fn and_the_maximum_packet_size() {
    let topic = "x".repeat(100);
    let publish = Publish { topic: &topic, payload: b"", ..publish(&topic, QoS::AtMostOnce, 0) };
    let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "p", 0, None).unwrap();
    let whole = raftmq_mqtt::PublishForm::new(&message, V5, QoS::AtMostOnce, false, &[], 0).unwrap().encoded_len();
    for (most, expected) in [(whole, [(100, None), (100, None)]), (whole + 3, [(100, None), (100, Some(1))])] {
        let asked =
            properties(&[Property::TopicAliasMaximum(5), Property::MaximumPacketSize(u32::try_from(most).unwrap())]);
        let mut peer = Peer::open(V5, SessionLimits::default(), &asked, None);
        for expected in expected {
            assert_eq!(peer.deliver(&message, &at(QoS::AtMostOnce)), Delivery::Sent(QoS::AtMostOnce));
            assert!(peer.out.len() <= most);
            let (topic, alias) = last_topic(&mut peer);
            assert_eq!((topic.len(), alias), expected);
        }
    }
}
