//! Messages of shared subscriptions that go to somebody else of the group.

use super::*;

fn through(share: &str, qos: QoS) -> Matched {
    Matched { share: Some(share.into()), ..at(qos) }
}

fn payloads(taken: &[(Arc<str>, Message)]) -> Vec<String> {
    taken
        .iter()
        .map(|(share, message)| format!("{share} {}", std::str::from_utf8(message.payload()).unwrap()))
        .collect()
}

const G: &str = "$share/g/t";

/// [MQTT-4.8.2-5], [MQTT-4.8.2-6]
#[test]
fn when_the_session_ends() {
    let limits = SessionLimits { max_in_flight: 4, ..SessionLimits::default() };
    let mut peer = Peer::open(V5, limits, &PropertiesBuf::new(), None);
    let (q0, q1, q2) = (QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce);
    for (payload, qos, matched) in [
        ("acknowledged", q1, through(G, q2)),
        ("refused", q1, through(G, q2)),
        ("flight 1", q1, through(G, q2)),
        ("flight 2", q2, through(G, q2)),
    ] {
        peer.deliver(&message(payload, qos), &matched);
    }
    peer.puback(1);
    peer.give(Packet::PubAck(Ack { reason: ReasonCode::QuotaExceeded, ..Ack::success(id_of(2)) }));
    peer.connection.set_congested();
    for (payload, qos, matched) in [
        ("not shared", q1, at(q2)),
        ("waiting 1", q1, through(G, q2)),
        ("waiting 0", q0, through(G, q2)),
        ("waiting 2", q2, through("$share/h/t", q2)),
    ] {
        assert_eq!(peer.deliver(&message(payload, qos), &matched), Delivery::Queued);
    }
    let mut session = peer.lose();
    let taken = session.take_shared();
    assert_eq!(
        payloads(&taken),
        [format!("{G} flight 1"), format!("{G} waiting 1"), "$share/h/t waiting 2".to_owned()]
    );
    assert_eq!((session.messages(), session.take_shared().len()), ((0, 0), 0));
}

/// [MQTT-4.8.2-6]: what the client has refused goes to nobody else.
#[test]
fn what_was_refused_is_gone() {
    let mut peer = Peer::simple(V5);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        peer.deliver(&message("m", qos), &through(G, qos));
    }
    let refused = |id| Ack { reason: ReasonCode::ImplementationSpecificError, ..Ack::success(id_of(id)) };
    peer.give(Packet::PubAck(refused(1)));
    peer.give(Packet::PubRec(refused(2)));
    assert_eq!(peer.connection.session().messages(), (0, 0));
    assert!(peer.lose().take_shared().is_empty());
}

/// [MQTT-4.8.2-4]: while the session lasts, it is the client's.
#[test]
fn when_the_client_comes_back() {
    let mut peer = Peer::simple(V5);
    for (payload, qos) in [("a", QoS::AtLeastOnce), ("b", QoS::ExactlyOnce)] {
        peer.deliver(&message(payload, qos), &through(G, QoS::ExactlyOnce));
    }
    let mut peer = peer.reconnect();
    assert_eq!(peer.trace(), ["CONNACK present", "PUBLISH 1 q1 dup a", "PUBLISH 2 q2 dup b"]);
}

/// [MQTT-3.10.4-2], [MQTT-3.10.4-3], [MQTT311-3.10.4-2], [MQTT311-3.10.4-3]
#[test]
fn when_the_client_unsubscribes() {
    for (own, group) in [(G, G), ("$queue/t", "$share/$queue/t")] {
        let mut peer =
            Peer::open(V5, SessionLimits { max_in_flight: 1, ..SessionLimits::default() }, &PropertiesBuf::new(), None);
        let options = SubOptions::default();
        peer.give(Packet::Subscribe(Subscribe {
            packet_id: id_of(1),
            properties: Properties::EMPTY,
            subscriptions: [own, "$share/other/t", "t"].map(|filter| Subscription { filter, options }).to_vec(),
        }));
        let q1 = QoS::AtLeastOnce;
        for (payload, matched) in [
            ("sent", through(group, q1)),
            ("a", through(group, q1)),
            ("plain", at(q1)),
            ("other", through("$share/other/t", q1)),
            ("b", through(group, q1)),
        ] {
            peer.deliver(&message(payload, q1), &matched);
        }
        assert!(peer.connection.take_unsubscribed().is_empty());
        peer.give(Packet::Unsubscribe(Unsubscribe {
            packet_id: id_of(2),
            properties: Properties::EMPTY,
            filters: vec![own],
        }));
        assert_eq!(payloads(&peer.connection.take_unsubscribed()), [format!("{group} a"), format!("{group} b")]);
        peer.out.clear();
        // What was begun is completed, the rest goes on.
        assert_eq!(peer.connection.session().messages(), (1, 2));
        peer.puback(1);
        peer.puback(2);
        assert_eq!(peer.trace(), ["PUBLISH 2 q1 plain", "PUBLISH 3 q1 other"]);
    }
}
