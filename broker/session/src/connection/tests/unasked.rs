//! Subscriptions that the server makes without a SUBSCRIBE.

use super::*;
use crate::SubscribeItem;

fn options(qos: QoS) -> SubOptions {
    SubOptions { qos, ..SubOptions::default() }
}

fn has(peer: &Peer) -> Vec<(String, QoS, u32)> {
    let entries = peer.connection.session().subscriptions().iter();
    entries.map(|entry| (entry.filter.to_string(), entry.info.options.qos, entry.info.sub_id)).collect()
}

fn refuse(peer: &mut Peer, item: &SubscribeItem) {
    peer.connection.settle(std::slice::from_ref(item), &[(0, ReasonCode::UnspecifiedError)]);
}

fn mounted(mount: Option<&str>) -> Peer {
    let limits = SessionLimits {
        mount_point: mount.map(Into::into),
        max_qos: QoS::AtLeastOnce,
        max_subscriptions: 2,
        wildcard_available: false,
        ..SessionLimits::default()
    };
    Peer::open(V5, limits, &PropertiesBuf::new(), None)
}

#[test]
fn they_are_subscriptions_like_others() {
    for (mount, full) in [(None, "$share/g/a"), (Some("m/"), "$share/g/m/a")] {
        let mut peer = mounted(mount);
        let asked = SubOptions { retain_as_published: true, ..options(QoS::ExactlyOnce) };
        let item = peer.connection.subscribe_unasked("$share/g/a", asked).unwrap();
        // With the QoS that there is.
        let granted = SubOptions { qos: QoS::AtLeastOnce, ..asked };
        assert_eq!((&*item.filter, item.options, item.sub_id, item.is_new()), (full, granted, 0, true));
        assert_eq!(has(&peer), [(full.to_owned(), QoS::AtLeastOnce, 0)]);
        let again = peer.connection.subscribe_unasked("$share/g/a", options(QoS::AtMostOnce)).unwrap();
        assert_eq!((again.is_new(), again.replaced), (false, Some(item.info())));
        assert_eq!(has(&peer), [(full.to_owned(), QoS::AtMostOnce, 0)]);
        // Nobody asked, so that nobody is answered; and the client may end it.
        assert!(peer.out.is_empty() && peer.actions.is_empty());
        let filters = vec!["$share/g/a"];
        peer.give(Packet::Unsubscribe(Unsubscribe { packet_id: id_of(1), properties: Properties::EMPTY, filters }));
        let Some(Action::Unsubscribe { filters, .. }) = peer.actions.pop() else { panic!() };
        assert_eq!((&*filters[0], has(&peer)), (full, vec![]));
    }
}

#[test]
fn what_a_client_may_not_have_they_do_not_give() {
    let mut peer = mounted(None);
    for (filter, expected) in [
        ("a/#/b", Err(ReasonCode::TopicFilterInvalid)),
        ("", Err(ReasonCode::TopicFilterInvalid)),
        ("$share/g/", Err(ReasonCode::TopicFilterInvalid)),
        ("a/+", Err(ReasonCode::WildcardSubscriptionsNotSupported)),
        ("a", Ok(true)),
        ("b", Ok(true)),
        ("c", Err(ReasonCode::QuotaExceeded)),
        ("a", Ok(false)),
    ] {
        let made = peer.connection.subscribe_unasked(filter, options(QoS::AtMostOnce));
        assert_eq!(made.map(|item| item.is_new()), expected, "{filter}");
    }
    assert_eq!(has(&peer).len(), 2);
    assert!(peer.out.is_empty() && peer.closed().is_none());
}

/// What the server cannot make leaves the session as it was.
#[test]
fn withdrawn() {
    let mut peer = mounted(Some("m/"));
    let new = peer.connection.subscribe_unasked("a", options(QoS::AtLeastOnce)).unwrap();
    refuse(&mut peer, &new);
    assert!(has(&peer).is_empty());
    // The client's own, with an identifier.
    let properties = properties(&[Property::SubscriptionIdentifier(9)]);
    peer.give(Packet::Subscribe(Subscribe {
        packet_id: id_of(1),
        properties: properties.as_properties(),
        subscriptions: vec![Subscription { filter: "a", options: options(QoS::AtLeastOnce) }],
    }));
    let own = has(&peer);
    let over = peer.connection.subscribe_unasked("a", options(QoS::AtMostOnce)).unwrap();
    assert_eq!(has(&peer), [("m/a".to_owned(), QoS::AtMostOnce, 0)]);
    refuse(&mut peer, &over);
    assert_eq!(has(&peer), own);
    // Changed meanwhile: the later one stays.
    let first = peer.connection.subscribe_unasked("a", options(QoS::AtMostOnce)).unwrap();
    peer.connection.subscribe_unasked("a", options(QoS::AtLeastOnce)).unwrap();
    refuse(&mut peer, &first);
    assert_eq!(has(&peer), [("m/a".to_owned(), QoS::AtLeastOnce, 0)]);
}
