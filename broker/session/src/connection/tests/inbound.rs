//! PUBLISH with QoS 2 from the client: received, acknowledged, released.

use super::*;

/// PUBLISH, PUBREC once the server is done, PUBREL, PUBCOMP. [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-4.3.3-8], [MQTT-4.3.3-11],
/// [MQTT-4.3.3-12], [MQTT311-2.3.1-6], [MQTT311-4.3.3-2]
#[test]
fn one_message() {
    for version in Version::ALL {
        let mut peer = Peer::simple(version);
        for _ in 0..2 {
            peer.publish("t", QoS::ExactlyOnce, 7);
            let tokens = peer.tokens();
            assert_eq!((tokens.len(), peer.trace().len(), peer.connection.session().unreleased()), (1, 0, 1));
            peer.published(tokens[0], ReasonCode::Success);
            assert_eq!(peer.trace(), ["PUBREC 7"]);
            peer.pubrel(7);
            assert_eq!((peer.trace(), peer.connection.session().unreleased()), (vec!["PUBCOMP 7".to_owned()], 0));
        }
        // Released twice.
        peer.pubrel(7);
        assert_eq!(peer.trace(), [if version.is_v5() { "PUBCOMP 7 0x92" } else { "PUBCOMP 7" }]);
        assert_eq!(peer.closed(), None);
    }
}

/// [MQTT-4.3.3-10], [MQTT311-4.3.3-2]
#[test]
fn a_repeated_message_is_handed_on_once() {
    for version in [V4, V5] {
        let mut peer = Peer::simple(version);
        let again = Publish { dup: true, ..publish("t", QoS::ExactlyOnce, 7) };
        peer.publish("t", QoS::ExactlyOnce, 7);
        let tokens = peer.tokens();
        // Before the server is done: it waits with the first.
        peer.give(Packet::Publish(again));
        assert!(peer.actions.is_empty() && peer.out.is_empty());
        peer.published(tokens[0], ReasonCode::Success);
        assert_eq!(peer.trace(), ["PUBREC 7", "PUBREC 7"]);
        // After it.
        peer.give(Packet::Publish(again));
        assert_eq!((peer.trace(), peer.handed_on().len()), (vec!["PUBREC 7".to_owned()], 0));
        // On another connection, even without DUP.
        let mut peer = peer.reconnect();
        peer.out.clear();
        peer.publish("t", QoS::ExactlyOnce, 7);
        assert_eq!((peer.trace(), peer.handed_on().len()), (vec!["PUBREC 7".to_owned()], 0));
        peer.pubrel(7);
        assert_eq!(peer.trace(), ["PUBCOMP 7"]);
        peer.publish("t", QoS::ExactlyOnce, 7);
        assert_eq!(peer.handed_on().len(), 1);
    }
}

/// The server answers when the session has another connection, or none. [MQTT-4.3.3-8]
#[test]
fn the_answer_outlives_the_connection() {
    let again = Publish { dup: true, ..publish("t", QoS::ExactlyOnce, 7) };
    // While the client is away.
    let mut peer = Peer::simple(V5);
    peer.publish("t", QoS::ExactlyOnce, 7);
    let token = peer.tokens()[0];
    let mut session = peer.lose();
    session.on_published(token, ReasonCode::Success);
    let mut peer = Peer::connecting(V5, SessionLimits::default());
    peer.opened(OpenResult::Accepted { session: Some(session) });
    peer.give(Packet::Publish(again));
    assert_eq!((peer.trace(), peer.handed_on().len()), (vec!["CONNACK present".to_owned(), "PUBREC 7".to_owned()], 0));
    // When it is back, and has sent it again; with another of QoS 1 behind it.
    for (reason, expected) in
        [(ReasonCode::Success, ["PUBREC 7", "PUBACK 8"]), (ReasonCode::QuotaExceeded, ["PUBREC 7 0x97", "PUBACK 8"])]
    {
        let mut peer = Peer::simple(V5);
        peer.publish("t", QoS::ExactlyOnce, 7);
        let token = peer.tokens()[0];
        let mut peer = peer.reconnect();
        peer.out.clear();
        peer.give(Packet::Publish(again));
        peer.publish("t", QoS::AtLeastOnce, 8);
        let other = peer.tokens();
        peer.published(other[0], ReasonCode::Success);
        assert!(peer.out.is_empty(), "in order");
        peer.published(token, reason);
        assert_eq!(peer.trace(), expected);
        assert_eq!(peer.connection.session().unreleased(), usize::from(!reason.is_error()));
    }
    // Refused while it was away: the next is a new message.
    let mut peer = Peer::simple(V5);
    peer.publish("t", QoS::ExactlyOnce, 7);
    let token = peer.tokens()[0];
    let mut session = peer.lose();
    session.on_published(token, ReasonCode::QuotaExceeded);
    let mut peer = Peer::connecting(V5, SessionLimits::default());
    peer.opened(OpenResult::Accepted { session: Some(session) });
    peer.give(Packet::Publish(again));
    assert_eq!(peer.handed_on().len(), 1);
    // An answer for the connection before, QoS 1: it is nobody's.
    let mut peer = Peer::simple(V5);
    peer.publish("t", QoS::AtLeastOnce, 7);
    let token = peer.tokens()[0];
    let mut peer = peer.reconnect();
    peer.out.clear();
    peer.origins.next = 100;
    peer.publish("t", QoS::AtLeastOnce, 8);
    peer.published(token, ReasonCode::Success);
    assert!(peer.out.is_empty());
}

/// [MQTT-3.5.2-1], [MQTT-4.3.3-9], [MQTT311-3.3.5-2]
#[test]
fn an_error_ends_the_exchange() {
    let mut peer = Peer::simple(V5);
    for _ in 0..2 {
        peer.publish("t", QoS::ExactlyOnce, 7);
        let tokens = peer.tokens();
        assert_eq!(tokens.len(), 1, "a new message");
        peer.published(tokens[0], ReasonCode::NotAuthorized);
        assert_eq!((peer.trace(), peer.connection.session().unreleased()), (vec!["PUBREC 7 0x87".to_owned()], 0));
    }
    // Not an error: nobody wanted it.
    peer.publish("t", QoS::ExactlyOnce, 7);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::NoMatchingSubscribers);
    assert_eq!((peer.trace(), peer.connection.session().unreleased()), (vec!["PUBREC 7 0x10".to_owned()], 1));
    // What is no reason of PUBREC is none.
    peer.publish("t", QoS::ExactlyOnce, 8);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::ServerBusy);
    assert_eq!(peer.trace(), ["PUBREC 8 0x80"]);
    // An MQTT 3 client is closed, and may send it again.
    let mut peer = Peer::simple(V4);
    peer.publish("t", QoS::ExactlyOnce, 7);
    let tokens = peer.tokens();
    peer.published(tokens[0], ReasonCode::QuotaExceeded);
    assert_eq!((peer.out.len(), peer.closed()), (0, Some(CloseReason::Fault(ReasonCode::QuotaExceeded))));
    assert_eq!(peer.end().unreleased(), 0);
}

/// [MQTT-4.6.0-2], [MQTT-4.6.0-3]: those of the client are the server's too.
#[test]
fn answers_keep_the_order() {
    let mut peer = Peer::simple(V5);
    let all = [(QoS::ExactlyOnce, 1), (QoS::AtLeastOnce, 2), (QoS::ExactlyOnce, 3), (QoS::AtLeastOnce, 4)];
    for (qos, id) in all {
        peer.publish("t", qos, id);
    }
    let tokens = peer.tokens();
    for at in [2, 3, 1] {
        peer.published(tokens[at], ReasonCode::Success);
        assert!(peer.out.is_empty());
    }
    peer.published(tokens[0], ReasonCode::Success);
    assert_eq!(peer.trace(), ["PUBREC 1", "PUBACK 2", "PUBREC 3", "PUBACK 4"]);
}

#[test]
fn a_release_before_its_turn() {
    for done in [false, true] {
        let mut peer = Peer::simple(V5);
        peer.publish("t", QoS::AtLeastOnce, 1);
        peer.publish("t", QoS::ExactlyOnce, 2);
        let tokens = peer.tokens();
        if done {
            // PUBREC waits behind the PUBACK.
            peer.published(tokens[1], ReasonCode::Success);
        }
        peer.pubrel(2);
        assert_eq!(peer.told(), Some(ReasonCode::ProtocolError));
    }
}

/// MQTT 5, 2.2.1 and 3.4.2.1
#[test]
fn an_identifier_that_is_in_use() {
    let mut peer = Peer::simple(V5);
    peer.publish("t", QoS::ExactlyOnce, 1);
    peer.publish("t", QoS::AtLeastOnce, 2);
    let tokens = peer.tokens();
    peer.publish("t", QoS::AtLeastOnce, 1);
    peer.publish("t", QoS::ExactlyOnce, 2);
    assert!(peer.handed_on().is_empty());
    tokens.iter().for_each(|token| peer.published(*token, ReasonCode::Success));
    assert_eq!(peer.trace(), ["PUBREC 1", "PUBACK 2", "PUBACK 1 0x91", "PUBREC 2 0x91"]);
}

/// It counts until PUBCOMP. [MQTT-3.3.4-7], [MQTT-4.9.0-2]
#[test]
fn the_receive_maximum() {
    let limits = SessionLimits { receive_maximum: 2, ..SessionLimits::default() };
    let mut peer = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None);
    peer.publish("t", QoS::ExactlyOnce, 1);
    peer.publish("t", QoS::ExactlyOnce, 2);
    for token in peer.tokens() {
        peer.published(token, ReasonCode::Success);
    }
    // One of those again is not one more.
    peer.publish("t", QoS::ExactlyOnce, 2);
    peer.pubrel(1);
    peer.publish("t", QoS::AtLeastOnce, 3);
    assert_eq!(peer.closed(), None);
    peer.out.clear();
    peer.publish("t", QoS::ExactlyOnce, 4);
    assert_eq!(peer.told(), Some(ReasonCode::ReceiveMaximumExceeded));

    // A new connection has all of it again.
    let mut peer = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None);
    peer.publish("t", QoS::ExactlyOnce, 1);
    peer.publish("t", QoS::ExactlyOnce, 2);
    let mut peer = peer.reconnect();
    peer.publish("t", QoS::ExactlyOnce, 3);
    // Repeated, it counts.
    peer.publish("t", QoS::ExactlyOnce, 1);
    assert_eq!(peer.closed(), None);
    peer.out.clear();
    peer.publish("t", QoS::ExactlyOnce, 2);
    assert_eq!(peer.told(), Some(ReasonCode::ReceiveMaximumExceeded));

    // What the server is not done with is not repeated without end.
    let mut peer = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None);
    for _ in 0..4 {
        peer.publish("t", QoS::ExactlyOnce, 1);
    }
    assert_eq!(peer.closed(), None);
    peer.publish("t", QoS::ExactlyOnce, 1);
    assert_eq!(peer.told(), Some(ReasonCode::ReceiveMaximumExceeded));

    // An MQTT 3 client is not read while the server has too many in hand, and read to release those that it was told of.
    let mut peer = Peer::open(V4, limits, &PropertiesBuf::new(), None);
    for id in 1..=6 {
        assert!(peer.connection.can_read());
        peer.publish("t", QoS::ExactlyOnce, id);
        if id % 2 == 0 {
            assert!(!peer.connection.can_read());
            for token in peer.tokens() {
                peer.published(token, ReasonCode::Success);
            }
        }
    }
    assert_eq!((peer.connection.session().unreleased(), peer.closed()), (6, None));
}

#[test]
fn every_identifier_may_be_unreleased() {
    let mut peer = Peer::simple(V4);
    for id in (1..=u16::MAX).rev() {
        peer.publish("t", QoS::ExactlyOnce, id);
        let token = peer.tokens()[0];
        peer.published(token, ReasonCode::Success);
    }
    assert_eq!(peer.connection.session().unreleased(), usize::from(u16::MAX));
    for id in 1..=u16::MAX {
        peer.pubrel(id);
    }
    assert_eq!(peer.connection.session().unreleased(), 0);
    // The memory goes with the next connection.
    assert!(peer.reconnect().connection.state.received().is_none());
}

/// [MQTT-4.3.3-13]
#[test]
fn an_expired_message_is_released() {
    let own = properties(&[Property::MessageExpiryInterval(1)]);
    let mut peer = Peer::simple(V5);
    peer.give(Packet::Publish(Publish { properties: own.as_properties(), ..publish("t", QoS::ExactlyOnce, 1) }));
    let tokens = peer.tokens();
    peer.now.unix_ms += 10_000;
    peer.published(tokens[0], ReasonCode::Success);
    peer.pubrel(1);
    assert_eq!(peer.trace(), ["PUBREC 1", "PUBCOMP 1"]);
}
