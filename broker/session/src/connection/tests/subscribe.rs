use super::*;

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
    [("b/+", QoS::ExactlyOnce), ("$share/g/a", QoS::AtLeastOnce), ("a", QoS::AtMostOnce), ("c/#", QoS::AtLeastOnce)];

#[test]
fn suback_comes_when_the_server_says_so() {
    for (version, expected) in
        [(V4, &[0x90, 6, 0, 7, 1, 0x80, 0, 0x80][..]), (V5, &[0x90, 7, 0, 7, 0, 1, 0x9E, 0, 0x87])]
    {
        let mut peer = Peer::simple(version);
        subscribe(&mut peer, 7, &MIXED);
        let Some(Action::Subscribe { packet_id, items }) = peer.actions.pop() else { panic!() };
        let asked: Vec<_> = items.iter().map(|item| (&*item.filter, item.options.qos, item.new)).collect();
        assert_eq!(
            asked,
            [("b/+", QoS::AtLeastOnce, true), ("a", QoS::AtMostOnce, true), ("c/#", QoS::AtLeastOnce, true)]
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

#[test]
fn nothing_to_ask_for() {
    let mut peer = Peer::simple(V5);
    subscribe(&mut peer, 1, &[("$share/g/x", QoS::AtMostOnce)]);
    unsubscribe(&mut peer, 2, &["x", "y"]);
    assert_eq!(peer.out, [0x90, 4, 0, 1, 0, 0x9E, 0xB0, 5, 0, 2, 0, 0x11, 0x11]);
    assert!(peer.actions.is_empty());
}

#[test]
fn a_repeated_subscription_is_replaced() {
    let mut peer = Peer::simple(V4);
    subscribe(&mut peer, 1, &[("a", QoS::AtMostOnce), ("a", QoS::AtLeastOnce)]);
    let Some(Action::Subscribe { items, .. }) = peer.actions.pop() else { panic!() };
    assert_eq!(items.iter().map(|item| item.new).collect::<Vec<_>>(), [true, false]);
    assert_eq!(peer.connection.session().subscriptions()[0].info.options.qos, QoS::AtLeastOnce);
}

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
