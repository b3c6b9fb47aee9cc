//! What subscriptions and the listener make of messages.

use crate::DropReason;

use super::*;

fn retained_message(publisher: &str, topic: &str) -> Message {
    let publish = Publish { payload: b"m", retain: true, ..publish(topic, QoS::AtLeastOnce, 1) };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, publisher, 0, None).unwrap()
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local() {
    let matched = Matched { no_local: true, ..at(QoS::AtLeastOnce) };
    for (publisher, expected) in [
        ("client", Delivery::Skipped),
        ("other", Delivery::Sent(QoS::AtLeastOnce)),
        ("", Delivery::Sent(QoS::AtLeastOnce)),
    ] {
        let mut peer = Peer::simple(V5);
        assert_eq!(peer.deliver(&retained_message(publisher, "t"), &matched), expected);
        let mut session = peer.lose();
        let limits = SessionLimits::default();
        let offline =
            session.deliver_offline(Now::default(), &limits, "client", &retained_message(publisher, "t"), &matched);
        assert_eq!(offline == Delivery::Skipped, expected == Delivery::Skipped);
    }
}

/// [MQTT-3.3.1-12], [MQTT-3.3.1-13], [MQTT311-3.3.1-8], [MQTT311-3.3.1-9]
#[test]
fn the_retain_flag() {
    for (published, retain_as_published, retained, expected) in [
        (true, false, false, false),
        (true, true, false, true),
        (false, true, false, false),
        (true, false, true, true),
        (false, false, true, true),
    ] {
        for (version, congested) in [(V4, false), (V5, false), (V4, true), (V5, true)] {
            let mut peer = Peer::simple(version);
            let publish = Publish { retain: published, ..publish("t", QoS::AtMostOnce, 0) };
            let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "p", 0, None).unwrap();
            if congested {
                peer.connection.set_congested();
            }
            peer.deliver(&message, &Matched { retain_as_published, retained, ..Matched::default() });
            peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
            let sent = peer.sent();
            assert!(sent[0].contains(&format!("retain: {expected}")), "{sent:?}");
        }
    }
}

/// [MQTT-3.3.4-3], [MQTT-3.3.4-4], [MQTT-3.3.4-5]
#[test]
fn all_subscription_identifiers() {
    for ids in [&[][..], &[5], &[5, 268_435_455], &[1, 2, 3, 4, 5, 6, 7]] {
        for congested in [false, true] {
            let matched = Matched { sub_ids: ids.into(), ..at(QoS::AtLeastOnce) };
            let mut peer = Peer::simple(V5);
            if congested {
                peer.connection.set_congested();
            }
            peer.deliver(&message("m", QoS::AtLeastOnce), &matched);
            peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
            // Sent again it is the same.
            let mut next = peer.reconnect();
            each_packet(&std::mem::take(&mut next.out), V5, |packet| {
                if let Packet::Publish(publish) = packet {
                    assert_eq!(publish.properties.subscription_identifiers().collect::<Vec<_>>(), ids);
                }
            });
        }
    }
}

/// [MQTT-3.3.4-2], [MQTT-3.3.4-4], [MQTT311-3.3.5-1]
#[test]
fn overlapping_subscriptions() {
    let info = |qos, no_local, retain_as_published, sub_id| crate::SubscriptionInfo {
        options: SubOptions { qos, no_local, retain_as_published, ..SubOptions::default() },
        sub_id,
    };
    let mut all = Matched::by(&info(QoS::AtMostOnce, true, false, 5));
    assert_eq!((all.qos, all.no_local, &all.sub_ids[..]), (QoS::AtMostOnce, true, &[5][..]));
    all.merge(&info(QoS::ExactlyOnce, false, true, 0));
    all.merge(&info(QoS::AtLeastOnce, true, false, 7));
    all.merge(&info(QoS::AtLeastOnce, true, false, 5));
    assert_eq!((all.qos, all.no_local, all.retain_as_published), (QoS::ExactlyOnce, false, true));
    assert_eq!(&all.sub_ids[..], [5, 7]);
}

#[test]
fn qos_0_for_a_client_that_is_away() {
    for (keep, expected) in [(false, Delivery::Dropped(DropReason::Offline)), (true, Delivery::Queued)] {
        let limits = SessionLimits { queue_qos0_offline: keep, ..SessionLimits::default() };
        let peer = Peer::open(V4, limits.clone(), &PropertiesBuf::new(), None);
        let mut session = peer.lose();
        let zero = message("zero", QoS::AtMostOnce);
        assert_eq!(session.deliver_offline(Now::default(), &limits, "client", &zero, &at(QoS::AtLeastOnce)), expected);
        let mut next = Peer::connecting(V4, limits);
        next.opened(OpenResult::Accepted { session: Some(session) });
        assert_eq!(next.deliveries().len(), usize::from(keep));
    }
}

fn mounted() -> SessionLimits {
    SessionLimits { mount_point: Some("m/".into()), ..SessionLimits::default() }
}

#[test]
fn a_mount_point() {
    let alias = properties(&[Property::TopicAlias(1)]);
    let mut peer = Peer::open(V5, mounted(), &properties(&[Property::TopicAliasMaximum(5)]), None);
    // Into the server: topics, aliases, filters.
    let own = Publish { properties: alias.as_properties(), ..publish("a/b", QoS::AtMostOnce, 0) };
    for packet in [own, Publish { topic: "", ..own }] {
        peer.give(Packet::Publish(packet));
        let Some(Action::Publish { message, .. }) = peer.actions.pop() else { panic!() };
        assert_eq!(message.topic(), "m/a/b");
    }
    let options = SubOptions::default();
    let subscriptions = ["a/#", "$share/g/a", "$exclusive/x"].map(|filter| Subscription { filter, options });
    peer.give(Packet::Subscribe(Subscribe {
        packet_id: id_of(1),
        properties: Properties::EMPTY,
        subscriptions: subscriptions.to_vec(),
    }));
    let Some(Action::Subscribe { items, .. }) = peer.actions.pop() else { panic!() };
    let asked: Vec<_> = items.iter().map(|item| &*item.filter).collect();
    assert_eq!(asked, ["m/a/#", "$share/g/m/a", "$exclusive/m/x"]);
    peer.give(Packet::Unsubscribe(Unsubscribe {
        packet_id: id_of(2),
        properties: Properties::EMPTY,
        filters: vec!["$share/g/a", "m/a/#"],
    }));
    let Some(Action::Unsubscribe { filters, .. }) = peer.actions.pop() else { panic!() };
    assert_eq!(filters, [Arc::from("$share/g/m/a")]);
    // Out of it again, sent at once and from the queue, beside somebody who sees the whole topic.
    let mut plain = Peer::simple(V5);
    let mut forms = Forms::new(retained_message("p", "m/a/topic"), peer.now);
    for congested in [false, false, true] {
        for (peer, topic) in [(&mut peer, "a/topic"), (&mut plain, "m/a/topic")] {
            if congested {
                peer.connection.set_congested();
            }
            peer.connection.deliver(&mut forms, peer.now, &Matched::default(), &mut peer.out);
            peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
            let sent = peer.sent().pop().unwrap();
            assert!(sent.contains(&format!("topic: {topic:?}")) || sent.contains("TopicAlias(1)"), "{sent}");
            peer.out.clear();
        }
    }
    // The will.
    let will = raftmq_mqtt::Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "w",
        payload: b"",
        properties: Properties::EMPTY,
    };
    let mut peer = Peer::new(mounted());
    peer.give(Packet::Connect(Box::new(Connect { will: Some(will), ..connect(V5) })));
    let Some(Action::Open(request)) = peer.actions.pop() else { panic!() };
    assert_eq!(&*request.will.unwrap().topic, "m/w");
    // A topic that is too long with it.
    let long = "x".repeat(65_535);
    let mut peer = Peer::open(V5, mounted(), &PropertiesBuf::new(), None);
    peer.publish(&long, QoS::AtMostOnce, 0);
    assert_eq!(peer.told(), Some(ReasonCode::TopicNameInvalid));
}

/// [MQTT-4.7.2-1], [MQTT311-4.7.2-1]: for the client the topic begins with `$`, which the server's index does not see.
#[test]
fn hidden_topics_behind_a_mount_point() {
    for (filter, expected) in [("#", Delivery::Skipped), ("$x/#", Delivery::Sent(QoS::AtMostOnce))] {
        let mut peer = Peer::open(V5, mounted(), &PropertiesBuf::new(), None);
        peer.give(Packet::Subscribe(Subscribe {
            packet_id: id_of(1),
            properties: Properties::EMPTY,
            subscriptions: vec![Subscription { filter, options: SubOptions::default() }],
        }));
        assert_eq!(peer.deliver(&retained_message("p", "m/$x/y"), &Matched::default()), expected, "{filter}");
    }
}

/// [MQTT-3.3.1-3], [MQTT311-3.3.1-3]
#[test]
fn dup_is_of_the_hop() {
    for version in [V4, V5] {
        let mut peer = Peer::simple(version);
        peer.give(Packet::Publish(Publish { dup: true, ..publish("t", QoS::AtLeastOnce, 1) }));
        let Some(Action::Publish { message, .. }) = peer.actions.pop() else { panic!() };
        peer.deliver(&message, &at(QoS::AtLeastOnce));
        assert_eq!(peer.trace(), ["PUBLISH 1 q1 payload"]);
    }
}

/// Nothing that could be left out, or that nobody asked for, is sent. [MQTT-3.1.2-29], [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.5.2-2],
/// [MQTT-3.5.2-3], [MQTT-3.6.2-2], [MQTT-3.6.2-3], [MQTT-3.7.2-2], [MQTT-3.7.2-3], [MQTT-3.9.2-1], [MQTT-3.9.2-2], [MQTT-3.11.2-1],
/// [MQTT-3.11.2-2], [MQTT-3.14.2-4]
#[test]
fn answers_have_no_texts() {
    let own = properties(&[Property::RequestProblemInformation(0)]);
    let mut peer = Peer::open(V5, SessionLimits::default(), &own, None);
    for (qos, id) in [(QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        peer.publish("t", qos, id);
    }
    for token in peer.tokens() {
        peer.published(token, ReasonCode::QuotaExceeded);
    }
    peer.pubrec(3);
    peer.pubrel(4);
    peer.give(Packet::Subscribe(Subscribe {
        packet_id: id_of(5),
        properties: Properties::EMPTY,
        subscriptions: vec![Subscription { filter: "$queue/", options: SubOptions::default() }],
    }));
    peer.give(Packet::Unsubscribe(Unsubscribe {
        packet_id: id_of(6),
        properties: Properties::EMPTY,
        filters: vec!["a"],
    }));
    peer.give(Packet::PingResp);
    let expected: [&[u8]; 7] = [
        &[0x40, 3, 0, 1, 0x97],
        &[0x50, 3, 0, 2, 0x97],
        &[0x62, 3, 0, 3, 0x92],
        &[0x70, 3, 0, 4, 0x92],
        &[0x90, 4, 0, 5, 0, 0x8F],
        &[0xB0, 4, 0, 6, 0, 0x11],
        &[0xE0, 1, 0x82],
    ];
    assert_eq!(peer.out, expected.concat());
}
