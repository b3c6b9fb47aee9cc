use super::*;

/// [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-4.3.2-4], [MQTT-4.3.2-5], [MQTT311-2.3.1-6], [MQTT311-3.3.4-1], [MQTT311-4.3.2-2]
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
        // The same identifier again is a new message, whatever DUP says.
        peer.give(Packet::Publish(Publish { dup: true, ..publish("a/b", QoS::AtLeastOnce, 10) }));
        assert_eq!(peer.handed_on(), ["payload"]);
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

/// [MQTT-3.2.2-11], [MQTT-3.2.2-14], [MQTT-3.3.2-8], [MQTT-3.3.4-6], [MQTT-4.13.1-1]
#[test]
fn what_is_not_offered() {
    let limits = SessionLimits { max_qos: QoS::AtLeastOnce, retain_available: false, ..SessionLimits::default() };
    let checking = SessionLimits { check_payload_format: true, ..SessionLimits::default() };
    let alias = properties(&[Property::TopicAlias(33)]);
    let unknown_alias = properties(&[Property::TopicAlias(1)]);
    let sub_id = properties(&[Property::SubscriptionIdentifier(1)]);
    let text = properties(&[Property::PayloadFormatIndicator(1)]);
    let plain = publish("t", QoS::AtMostOnce, 0);
    let table = [
        (&limits, publish("t", QoS::ExactlyOnce, 1), ReasonCode::QoSNotSupported),
        (&limits, Publish { retain: true, ..plain }, ReasonCode::RetainNotSupported),
        (&limits, Publish { properties: alias.as_properties(), ..plain }, ReasonCode::TopicAliasInvalid),
        (&limits, Publish { topic: "", properties: unknown_alias.as_properties(), ..plain }, ReasonCode::ProtocolError),
        (&limits, Publish { properties: sub_id.as_properties(), ..plain }, ReasonCode::ProtocolError),
        (&limits, Publish { topic: "", ..plain }, ReasonCode::ProtocolError),
        (
            &checking,
            Publish { payload: &[0xFF], properties: text.as_properties(), ..plain },
            ReasonCode::PayloadFormatInvalid,
        ),
    ];
    for (limits, packet, reason) in table {
        let mut peer = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None);
        peer.give(Packet::Publish(packet));
        assert_eq!(peer.closed(), Some(CloseReason::Fault(reason)));
        assert_eq!(peer.told(), Some(reason));
        // Besides it, a limit that was met is counted.
        assert!(peer.actions.len() <= 2 && !peer.actions.iter().any(|action| matches!(action, Action::Publish { .. })));
    }
    let mut peer = Peer::open(V4, limits, &PropertiesBuf::new(), None);
    peer.give(Packet::Publish(Publish { retain: true, ..plain }));
    let Some(Action::Publish { message, .. }) = peer.actions.pop() else { panic!() };
    assert!(!message.retain());
    peer.publish("t", QoS::ExactlyOnce, 1);
    assert!(peer.closed().is_some() && peer.out.is_empty());
    // Where there is all of it, the message is as it was published.
    for version in Version::ALL {
        let mut peer = Peer::simple(version);
        peer.give(Packet::Publish(Publish { retain: true, ..publish("t", QoS::ExactlyOnce, 1) }));
        let Some(Action::Publish { message, token: Some(_) }) = peer.actions.pop() else { panic!() };
        assert_eq!((message.retain(), message.qos()), (true, QoS::ExactlyOnce));
    }
}

#[test]
fn a_payload_that_says_to_be_text() {
    let text = properties(&[Property::PayloadFormatIndicator(1)]);
    let limits = SessionLimits { check_payload_format: true, ..SessionLimits::default() };
    for (check, qos, payload, expected) in [
        (true, QoS::AtLeastOnce, &[0xFF][..], "PUBACK 1 0x99"),
        (true, QoS::ExactlyOnce, &[0xFF], "PUBREC 1 0x99"),
        (true, QoS::AtLeastOnce, "€".as_bytes(), "PUBACK 1"),
        (false, QoS::AtLeastOnce, &[0xFF], "PUBACK 1"),
    ] {
        let limits = SessionLimits { check_payload_format: check, ..limits.clone() };
        let mut peer = Peer::open(V5, limits, &PropertiesBuf::new(), None);
        peer.give(Packet::Publish(Publish { payload, properties: text.as_properties(), ..publish("t", qos, 1) }));
        for token in peer.tokens() {
            peer.published(token, ReasonCode::Success);
        }
        assert_eq!(peer.trace(), [expected]);
        assert_eq!((peer.closed(), peer.connection.session().unreleased()), (None, 0));
    }
}

/// [MQTT-3.3.4-7], [MQTT-3.3.4-8], [MQTT-4.9.0-3]
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

/// [MQTT-3.4.2-1], [MQTT311-3.3.5-2], [MQTT311-4.8.0-2]
#[test]
fn an_error_to_a_publisher() {
    // MQTT 3.1 has a positive answer for who may not publish.
    let mut peer = Peer::simple(Version::V3_1);
    peer.publish("t", QoS::AtLeastOnce, 1);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::NotAuthorized);
    assert_eq!((peer.trace(), peer.closed()), (vec!["PUBACK 1".to_owned()], None));
    let mut peer = Peer::simple(V5);
    peer.publish("t", QoS::AtLeastOnce, 1);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::QuotaExceeded);
    assert_eq!((peer.out.as_slice(), peer.closed()), (&[0x40, 3, 0, 1, 0x97][..], None));
    peer.out.clear();
    // What is no reason of PUBACK is none.
    peer.publish("t", QoS::AtLeastOnce, 2);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::ServerBusy);
    assert_eq!(peer.trace(), ["PUBACK 2 0x80"]);
    let mut peer = Peer::simple(V4);
    peer.publish("t", QoS::AtLeastOnce, 1);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::QuotaExceeded);
    assert_eq!((peer.out.len(), peer.closed()), (0, Some(CloseReason::Fault(ReasonCode::QuotaExceeded))));
}
