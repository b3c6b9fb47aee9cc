use super::*;
use crate::SubscribeItem;

/// With subscription identifier 9.
fn subscribe(peer: &mut Peer, id: u16, filters: &[(&str, QoS)]) {
    let subscriptions = filters
        .iter()
        .map(|&(filter, qos)| Subscription { filter, options: SubOptions { qos, ..SubOptions::default() } })
        .collect();
    let properties = match peer.connection.version {
        V5 => properties(&[Property::SubscriptionIdentifier(9)]),
        _ => PropertiesBuf::new(),
    };
    peer.give(Packet::Subscribe(Subscribe {
        packet_id: id_of(id),
        properties: properties.as_properties(),
        subscriptions,
    }));
}

fn unsubscribe(peer: &mut Peer, id: u16, filters: &[&str]) {
    peer.give(Packet::Unsubscribe(Unsubscribe {
        packet_id: id_of(id),
        properties: Properties::EMPTY,
        filters: filters.to_vec(),
    }));
}

fn filters(peer: &Peer) -> Vec<&str> {
    peer.connection.session().subscriptions().iter().map(|entry| &*entry.filter).collect()
}

fn subscribed(peer: &mut Peer, id: u16, refused: &[(usize, ReasonCode)]) {
    peer.connection.on_subscribed(id_of(id), refused, &mut peer.out, &mut peer.actions);
}

const MIXED: [(&str, QoS); 4] =
    [("b/+", QoS::ExactlyOnce), ("$queue/", QoS::AtLeastOnce), ("a", QoS::AtMostOnce), ("c/#", QoS::AtLeastOnce)];

/// [MQTT-2.2.1-6], [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-5], [MQTT-3.8.4-6], [MQTT-3.8.4-7], [MQTT-3.9.3-1], [MQTT-3.9.3-2],
/// [MQTT311-2.3.1-7], [MQTT311-3.8.4-1], [MQTT311-3.8.4-2], [MQTT311-3.8.4-4], [MQTT311-3.8.4-5], [MQTT311-3.9.3-1], [MQTT311-3.9.3-2]
#[test]
fn suback_comes_when_the_server_says_so() {
    for (version, expected) in [
        // MQTT 3.1 knows no failure: what was asked for, or would have been granted.
        (Version::V3_1, &[0x90, 6, 0, 7, 2, 1, 0, 1][..]),
        (V4, &[0x90, 6, 0, 7, 2, 0x80, 0, 0x80]),
        (V5, &[0x90, 7, 0, 7, 0, 2, 0x8F, 0, 0x87]),
    ] {
        let mut peer = Peer::simple(version);
        subscribe(&mut peer, 7, &MIXED);
        let Some(Action::Subscribe { packet_id, items }) = peer.actions.pop() else { panic!() };
        let asked: Vec<_> = items.iter().map(|item| (&*item.filter, item.options.qos, item.is_new())).collect();
        assert_eq!(
            asked,
            [("b/+", QoS::ExactlyOnce, true), ("a", QoS::AtMostOnce, true), ("c/#", QoS::AtLeastOnce, true)]
        );
        assert_eq!(items[0].sub_id, if version.is_v5() { 9 } else { 0 });
        // Other packets go on meanwhile.
        assert!(peer.out.is_empty());
        peer.give(Packet::PingReq);
        assert_eq!(peer.sent(), ["PingResp"]);
        peer.out.clear();
        assert_eq!(filters(&peer), ["a", "b/+", "c/#"]);
        subscribed(&mut peer, packet_id.get(), &[(2, ReasonCode::NotAuthorized)]);
        assert_eq!(peer.out, expected);
        assert_eq!(filters(&peer), ["a", "b/+"]);
        // Twice.
        subscribed(&mut peer, 7, &[]);
        assert_eq!(peer.out, expected);
    }
}

/// [MQTT-3.10.4-5], [MQTT-3.11.3-1], [MQTT-3.11.3-2], [MQTT-4.8.2-2]
#[test]
fn nothing_to_ask_for() {
    let mut peer = Peer::simple(V5);
    subscribe(&mut peer, 1, &[("$exclusive/", QoS::AtMostOnce), ("$share/g/$queue/a", QoS::AtMostOnce)]);
    unsubscribe(&mut peer, 2, &["x", "y"]);
    assert_eq!(peer.out, [0x90, 5, 0, 1, 0, 0x8F, 0x8F, 0xB0, 5, 0, 2, 0, 0x11, 0x11]);
    assert!(peer.actions.is_empty());
}

/// CONNACK has told it: MQTT 5, 3.2.2.3.11 to 3.2.2.3.13. [MQTT-3.2.2-10], [MQTT311-3.8.3-2]
#[test]
fn what_is_not_offered() {
    let all = SessionLimits::default;
    let q = QoS::ExactlyOnce;
    let table = [
        (SessionLimits { shared_available: false, ..all() }, "$share/g/a", ReasonCode::SharedSubscriptionsNotSupported),
        (SessionLimits { shared_available: false, ..all() }, "$queue/a", ReasonCode::SharedSubscriptionsNotSupported),
        (SessionLimits { wildcard_available: false, ..all() }, "a/+", ReasonCode::WildcardSubscriptionsNotSupported),
        (
            SessionLimits { wildcard_available: false, ..all() },
            "$share/g/a/#",
            ReasonCode::WildcardSubscriptionsNotSupported,
        ),
        (SessionLimits { sub_ids_available: false, ..all() }, "a", ReasonCode::SubscriptionIdentifiersNotSupported),
    ];
    for (limits, filter, reason) in table {
        let mut peer = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None);
        subscribe(&mut peer, 1, &[("b", q), (filter, q)]);
        assert_eq!((peer.closed(), peer.told()), (Some(CloseReason::Fault(reason)), Some(reason)));
        assert!(peer.connection.session().subscriptions().is_empty());
        if limits.sub_ids_available {
            // Before MQTT 5 nobody can know, so that it is said for each filter.
            let mut peer = Peer::open(V4, limits, &PropertiesBuf::new(), None);
            subscribe(&mut peer, 1, &[(filter, q)]);
            assert_eq!((&peer.out[..], peer.closed()), (&[0x90, 3, 0, 1, 0x80][..], None));
        }
    }
    for version in [V4, V5] {
        let limits = SessionLimits { max_qos: QoS::AtMostOnce, ..all() };
        let mut peer = Peer::open(version, limits, &PropertiesBuf::new(), None);
        subscribe(&mut peer, 1, &[("a", q)]);
        let Some(Action::Subscribe { items, .. }) = peer.actions.pop() else { panic!() };
        assert_eq!(items[0].options.qos, QoS::AtMostOnce);
    }
}

/// [MQTT-3.8.3-4]; the codec finds it with `$share`.
#[test]
fn no_local_with_a_shared_subscription() {
    for (filter, fault) in [("$share/g/a", true), ("$queue/a", true), ("$exclusive/a", false), ("a", false)] {
        let mut peer = Peer::simple(V5);
        let options = SubOptions { no_local: true, ..SubOptions::default() };
        peer.give(Packet::Subscribe(Subscribe {
            packet_id: id_of(1),
            properties: Properties::EMPTY,
            subscriptions: vec![Subscription { filter, options }],
        }));
        let expected = fault.then_some(CloseReason::Fault(ReasonCode::ProtocolError));
        assert_eq!(peer.closed(), expected, "{filter}");
    }
}

/// [MQTT-3.8.4-3], [MQTT311-3.8.4-3]
#[test]
fn a_repeated_subscription_is_replaced() {
    let mut peer = Peer::simple(V4);
    subscribe(&mut peer, 1, &[("a", QoS::AtMostOnce), ("a", QoS::AtLeastOnce)]);
    let Some(Action::Subscribe { items, .. }) = peer.actions.pop() else { panic!() };
    assert_eq!(items.iter().map(|item| item.is_new()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(peer.connection.session().subscriptions()[0].info.options.qos, QoS::AtLeastOnce);
}

/// [MQTT-3.10.4-1], [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6], [MQTT-3.11.3-1], [MQTT311-3.10.4-1], [MQTT311-3.10.4-4],
/// [MQTT311-3.10.4-5], [MQTT311-3.10.4-6]
#[test]
fn unsubscribe_waits_for_the_server_too() {
    for (version, expected) in [(V4, &[0xB0, 2, 0, 3][..]), (V5, &[0xB0, 5, 0, 3, 0, 0, 0x11])] {
        let mut peer = Peer::simple(version);
        subscribe(&mut peer, 1, &[("a", QoS::AtMostOnce)]);
        subscribed(&mut peer, 1, &[]);
        peer.out.clear();
        peer.actions.clear();
        unsubscribe(&mut peer, 3, &["a", "b"]);
        let Some(Action::Unsubscribe { packet_id, filters: gone }) = peer.actions.pop() else { panic!() };
        assert_eq!(gone, [Arc::from("a")]);
        assert!(peer.out.is_empty() && filters(&peer).is_empty());
        // The wrong kind of answer.
        subscribed(&mut peer, 3, &[]);
        assert!(peer.out.is_empty());
        peer.connection.on_unsubscribed(packet_id, &mut peer.out, &mut peer.actions);
        assert_eq!(peer.out, expected);
    }
}

#[test]
fn limits() {
    let limits = SessionLimits { max_subscriptions: 2, max_pending_filters: 3, ..SessionLimits::default() };
    let mut peer = Peer::open(V5, limits, &PropertiesBuf::new(), None);
    let q = QoS::AtMostOnce;
    subscribe(&mut peer, 1, &[("a", q), ("b", q), ("c", q)]);
    subscribe(&mut peer, 2, &[("a", q)]);
    assert_eq!(peer.out, [0x90, 4, 0, 2, 0, 0x97], "too many wait");
    peer.out.clear();
    subscribe(&mut peer, 1, &[("a", q)]);
    assert_eq!(peer.out, [0x90, 4, 0, 1, 0, 0x91], "identifier in use");
    peer.out.clear();
    subscribed(&mut peer, 1, &[]);
    assert_eq!(peer.out, [0x90, 6, 0, 1, 0, 0, 0, 0x97], "too many subscriptions");
    assert_eq!(filters(&peer), ["a", "b"]);
    peer.actions.clear();
    subscribe(&mut peer, 2, &[("b", QoS::AtLeastOnce)]);
    assert!(matches!(peer.actions.as_slice(), [Action::Subscribe { .. }]), "what is there may be replaced");
}

fn qos_of(peer: &Peer, filter: &str) -> Option<QoS> {
    let all = peer.connection.session().subscriptions();
    all.iter().find(|entry| &*entry.filter == filter).map(|entry| entry.info.options.qos)
}

/// What SUBACK refuses leaves the subscription as it was [MQTT-3.8.4-3].
#[test]
fn a_refused_subscription_changes_nothing() {
    let (q0, q1, q2) = (QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce);
    let no = ReasonCode::QuotaExceeded;
    let with = |filters: &[(&str, QoS)]| {
        let mut peer = Peer::simple(V5);
        subscribe(&mut peer, 1, &[("a", q0)]);
        subscribed(&mut peer, 1, &[]);
        subscribe(&mut peer, 2, filters);
        peer
    };
    let mut peer = with(&[("b", q1), ("a", q2)]);
    subscribed(&mut peer, 2, &[(1, no)]);
    assert_eq!((qos_of(&peer, "a"), qos_of(&peer, "b")), (Some(q0), Some(q1)));
    // Twice in a packet, in whatever order the server names them.
    for refused in [[(0, no), (1, no)], [(1, no), (0, no)]] {
        let mut peer = with(&[("a", q1), ("a", q2)]);
        subscribed(&mut peer, 2, &refused);
        assert_eq!(qos_of(&peer, "a"), Some(q0));
        let mut peer = with(&[("b", q1), ("b", q2)]);
        subscribed(&mut peer, 2, &refused);
        assert_eq!(qos_of(&peer, "b"), None);
    }
    // Ended meanwhile: it does not come back.
    let mut peer = with(&[("a", q1)]);
    unsubscribe(&mut peer, 3, &["a"]);
    subscribed(&mut peer, 2, &[(0, no)]);
    assert_eq!(qos_of(&peer, "a"), None);
}

/// Two SUBSCRIBE packets of one filter wait, and the first is refused: the second one's answer is true all the same.
#[test]
fn a_refused_subscription_takes_no_later_one_with_it() {
    let (q0, q1) = (QoS::AtMostOnce, QoS::AtLeastOnce);
    for (old, first_refused, second_refused, expected) in [
        (None, true, false, Some(q1)),
        (None, true, true, None),
        (None, false, true, Some(q1)),
        (Some(q0), true, false, Some(q1)),
        (Some(q0), true, true, Some(q0)),
    ] {
        for order in [[2, 3], [3, 2]] {
            let mut peer = Peer::simple(V5);
            if let Some(qos) = old {
                subscribe(&mut peer, 1, &[("a", qos)]);
                subscribed(&mut peer, 1, &[]);
            }
            subscribe(&mut peer, 2, &[("a", q1)]);
            subscribe(&mut peer, 3, &[("a", q1)]);
            for id in order {
                let refused = if id == 2 { first_refused } else { second_refused };
                let reasons: &[_] = if refused { &[(0, ReasonCode::UnspecifiedError)] } else { &[] };
                subscribed(&mut peer, id, reasons);
            }
            assert_eq!(qos_of(&peer, "a"), expected, "{old:?} {first_refused} {second_refused} {order:?}");
        }
    }
}

fn items(peer: &mut Peer, id: u16, qos: QoS) -> Vec<SubscribeItem> {
    subscribe(peer, id, &[("a", qos)]);
    let Some(Action::Subscribe { items, .. }) = peer.actions.pop() else { panic!() };
    items
}

/// The connection ends while the server is about it: the answer is the session's.
#[test]
fn a_session_without_its_connection_is_told() {
    let (q0, q1) = (QoS::AtMostOnce, QoS::AtLeastOnce);
    let no = [(0, ReasonCode::UnspecifiedError)];
    let has = |state: &SessionState| state.subscription("a").map(|info| info.options.qos);
    for (old, refused, expected) in [
        (None, [false, false], Some(q1)),
        (None, [false, true], Some(q1)),
        (None, [true, false], Some(q1)),
        (None, [true, true], None),
        (Some(q0), [true, false], Some(q1)),
        (Some(q0), [true, true], Some(q0)),
    ] {
        for order in [[0, 1], [1, 0]] {
            let mut peer = Peer::simple(V5);
            if let Some(qos) = old {
                subscribe(&mut peer, 1, &[("a", qos)]);
                subscribed(&mut peer, 1, &[]);
                peer.actions.clear();
            }
            let asked = [items(&mut peer, 2, q1), items(&mut peer, 3, q1)];
            peer.connection.close(CloseReason::Lost, &mut peer.out);
            // It is not answered, nor is its session changed.
            subscribed(&mut peer, 2, &no);
            let (_, mut state) = peer.connection.into_state().unwrap();
            assert_eq!(has(&state), Some(q1));
            for at in order {
                let refused: &[_] = if refused[at] { &no } else { &[] };
                state.settle(&asked[at], refused);
                // Said twice.
                state.settle(&asked[at], refused);
            }
            assert_eq!(has(&state), expected, "{old:?} {refused:?} {order:?}");
            // Settled: nothing is taken back later.
            for asked in asked {
                state.settle(&asked, &no);
            }
            assert_eq!(has(&state), expected, "{old:?} {refused:?} {order:?}");
        }
    }
}

/// What was asked for in a session that has ended is not of the next one.
#[test]
fn another_session_is_not_told() {
    let mut first = Peer::simple(V5);
    let asked = items(&mut first, 1, QoS::AtMostOnce);
    let mut second = Peer::simple(V5);
    let own = items(&mut second, 1, QoS::AtMostOnce);
    second.connection.settle(&asked, &[(0, ReasonCode::UnspecifiedError)]);
    assert_eq!(filters(&second), ["a"]);
    second.connection.settle(&own, &[(0, ReasonCode::UnspecifiedError)]);
    assert!(filters(&second).is_empty());
}

/// Ended and asked for again, while the first request waits.
#[test]
fn an_ended_subscription_is_not_settled() {
    let mut peer = Peer::simple(V5);
    let first = items(&mut peer, 1, QoS::AtMostOnce);
    unsubscribe(&mut peer, 2, &["a"]);
    peer.actions.clear();
    let second = items(&mut peer, 3, QoS::AtMostOnce);
    peer.connection.settle(&first, &[(0, ReasonCode::UnspecifiedError)]);
    assert_eq!(filters(&peer), ["a"]);
    peer.connection.settle(&second, &[(0, ReasonCode::UnspecifiedError)]);
    assert!(filters(&peer).is_empty());
}
