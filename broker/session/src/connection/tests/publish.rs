use super::*;

#[test]
fn acknowledgements_keep_the_order() {
    for version in [Version::V3_1, V4, V5] {
        let mut peer = Peer::simple(version);
        for id in [10, 20, 30] {
            peer.publish("a/b", QoS::AtLeastOnce, id);
        }
        peer.publish("a/b", QoS::AtMostOnce, 0);
        let tokens = peer.tokens();
        assert_eq!(tokens.len(), 3);
        peer.published(tokens[2], ReasonCode::Success);
        peer.published(tokens[1], ReasonCode::Success);
        assert!(peer.out.is_empty());
        peer.published(tokens[0], ReasonCode::Success);
        assert_eq!(peer.out, [0x40, 2, 0, 10, 0x40, 2, 0, 20, 0x40, 2, 0, 30]);
        // Twice, and late.
        peer.published(tokens[1], ReasonCode::Success);
        assert_eq!(peer.out.len(), 12);
    }
}

#[test]
fn the_message() {
    let mut peer = Peer::simple(V5);
    let expiring = properties(&[Property::MessageExpiryInterval(3), Property::ContentType("x")]);
    peer.give(Packet::Publish(Publish { properties: expiring.as_properties(), ..publish("a/b", QoS::AtLeastOnce, 1) }));
    let Some(Action::Publish { message, token: Some(_) }) = peer.actions.pop() else { panic!() };
    assert_eq!((message.topic(), message.payload(), message.publisher()), ("a/b", &b"payload"[..], "client"));
    assert_eq!(message.origin(), Origin { node: 1, sequence: 1 });
    assert_eq!(message.expires_at_ms(), Some(peer.now.unix_ms + 3_000));
    assert_eq!(peer.origins.next, 2);
}

#[test]
fn what_is_not_offered() {
    let alias = properties(&[Property::TopicAlias(33)]);
    let unknown_alias = properties(&[Property::TopicAlias(1)]);
    let sub_id = properties(&[Property::SubscriptionIdentifier(1)]);
    let plain = publish("t", QoS::AtMostOnce, 0);
    let table = [
        (publish("t", QoS::ExactlyOnce, 1), ReasonCode::QoSNotSupported),
        (Publish { retain: true, ..plain }, ReasonCode::RetainNotSupported),
        (Publish { properties: alias.as_properties(), ..plain }, ReasonCode::TopicAliasInvalid),
        (Publish { topic: "", properties: unknown_alias.as_properties(), ..plain }, ReasonCode::ProtocolError),
        (Publish { properties: sub_id.as_properties(), ..plain }, ReasonCode::ProtocolError),
        (Publish { topic: "", ..plain }, ReasonCode::ProtocolError),
    ];
    for (packet, reason) in table {
        let mut peer = Peer::simple(V5);
        peer.give(Packet::Publish(packet));
        assert_eq!(peer.closed(), Some(CloseReason::Fault(reason)));
        assert_eq!(peer.told(), Some(reason));
        assert_eq!(peer.actions.len(), 1);
    }
    let mut peer = Peer::simple(V4);
    peer.give(Packet::Publish(Publish { retain: true, ..plain }));
    let Some(Action::Publish { message, .. }) = peer.actions.pop() else { panic!() };
    assert!(!message.retain());
    peer.publish("t", QoS::ExactlyOnce, 1);
    assert!(peer.closed().is_some() && peer.out.is_empty());
}

#[test]
fn the_receive_maximum() {
    let limits = SessionLimits { receive_maximum: 2, ..SessionLimits::default() };
    let mut peer = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None);
    for id in 1..=2 {
        peer.publish("t", QoS::AtLeastOnce, id);
    }
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::NoMatchingSubscribers);
    assert_eq!(peer.out, [0x40, 3, 0, 1, 0x10]);
    peer.publish("t", QoS::AtLeastOnce, 3);
    peer.publish("t", QoS::AtMostOnce, 0);
    assert_eq!(peer.closed(), None);
    peer.publish("t", QoS::AtLeastOnce, 4);
    assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::ReceiveMaximumExceeded)));

    // An older client is not read until there is room.
    let mut peer = Peer::open(V4, limits, &PropertiesBuf::new(), None);
    for id in 1..=2 {
        assert!(peer.connection.can_read());
        peer.publish("t", QoS::AtLeastOnce, id);
    }
    assert!(!peer.connection.can_read());
    peer.now.ms += 1_000_000;
    peer.connection.on_timer(peer.now, &mut peer.out, &mut peer.actions);
    assert_eq!(peer.closed(), None);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::Success);
    assert!(peer.connection.can_read());
}

#[test]
fn an_error_to_a_publisher() {
    let mut peer = Peer::simple(V5);
    peer.publish("t", QoS::AtLeastOnce, 1);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::QuotaExceeded);
    assert_eq!((peer.out.as_slice(), peer.closed()), (&[0x40, 3, 0, 1, 0x97][..], None));
    let mut peer = Peer::simple(V4);
    peer.publish("t", QoS::AtLeastOnce, 1);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::QuotaExceeded);
    assert_eq!((peer.out.len(), peer.closed()), (0, Some(CloseReason::Fault(ReasonCode::QuotaExceeded))));
}

#[test]
fn topic_aliases() {
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
