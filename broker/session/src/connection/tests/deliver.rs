use crate::{DropReason, Flushed};

use super::*;

fn window(version: Version, window: u16) -> Peer {
    let limits = SessionLimits { max_in_flight: window, max_queued_messages: 3, ..SessionLimits::default() };
    Peer::open(version, limits, &PropertiesBuf::new(), None)
}

fn triple(payload: &str, id: u16, dup: bool) -> (String, u16, bool) {
    (payload.to_owned(), id, dup)
}

/// [MQTT-3.8.4-8], [MQTT-4.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2], [MQTT-4.8.2-3], [MQTT311-3.8.4-6], [MQTT311-4.3.1-1]
#[test]
fn the_lower_qos_counts() {
    let (q0, q1, q2) = (QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce);
    for version in Version::ALL {
        for (published, subscribed, expected, sent) in [
            (q0, q2, q0, "PUBLISH q0 m"),
            (q1, q0, q0, "PUBLISH q0 m"),
            (q1, q2, q1, "PUBLISH 1 q1 m"),
            (q2, q1, q1, "PUBLISH 1 q1 m"),
            (q2, q2, q2, "PUBLISH 1 q2 m"),
        ] {
            let mut peer = Peer::simple(version);
            let shared = Matched { share: Some("$share/g/t".into()), ..at(subscribed) };
            assert_eq!(peer.deliver(&message("m", published), &shared), Delivery::Sent(expected));
            assert_eq!(peer.trace(), [sent]);
        }
    }
}

/// [MQTT-4.5.0-1], [MQTT311-4.5.0-1], [MQTT-3.3.4-9], [MQTT-3.3.4-10], [MQTT-4.3.2-1], [MQTT-4.3.2-3], [MQTT-4.9.0-2], [MQTT-4.9.0-3], [MQTT311-4.3.2-1]
#[test]
fn window_queue_and_drops() {
    let mut peer = window(V5, 2);
    let results: Vec<_> =
        (0..6).map(|i| peer.deliver(&message(&i.to_string(), QoS::AtLeastOnce), &at(QoS::AtLeastOnce))).collect();
    let (sent, queued) = (Delivery::Sent(QoS::AtLeastOnce), Delivery::Queued);
    assert_eq!(results, [sent, sent, queued, queued, queued, Delivery::Dropped(DropReason::QueueFull)]);
    assert_eq!(peer.deliveries(), [triple("0", 1, false), triple("1", 2, false)]);
    // QoS 0 has no window.
    assert_eq!(peer.deliver(&message("zero", QoS::AtMostOnce), &at(QoS::AtLeastOnce)), Delivery::Sent(QoS::AtMostOnce));
    assert_eq!(peer.deliveries(), [triple("zero", 0, false)]);
    // Out of order, unknown, twice.
    for id in [2, 9, 2] {
        peer.puback(id);
    }
    assert_eq!(peer.deliveries(), [triple("2", 3, false)]);
    peer.puback(1);
    peer.puback(3);
    assert_eq!(peer.deliveries(), [triple("3", 4, false), triple("4", 5, false)]);
    assert_eq!(peer.closed(), None);
    assert_eq!(peer.connection.session().messages(), (2, 0));
}

/// [MQTT-3.3.4-9], [MQTT-4.9.0-1]
#[test]
fn the_clients_receive_maximum() {
    let mut peer = Peer::open(V5, SessionLimits::default(), &properties(&[Property::ReceiveMaximum(1)]), None);
    assert_eq!(peer.deliver(&message("a", QoS::AtLeastOnce), &at(QoS::AtLeastOnce)), Delivery::Sent(QoS::AtLeastOnce));
    assert_eq!(peer.deliver(&message("b", QoS::AtLeastOnce), &at(QoS::AtLeastOnce)), Delivery::Queued);
}

/// [MQTT-3.1.2-24], [MQTT-3.1.2-25]
#[test]
fn the_clients_packet_size() {
    let small = properties(&[Property::MaximumPacketSize(64)]);
    let mut peer = Peer::open(V5, SessionLimits::default(), &small, None);
    let large = message(&"x".repeat(60), QoS::AtLeastOnce);
    assert_eq!(peer.deliver(&large, &at(QoS::AtLeastOnce)), Delivery::Dropped(DropReason::TooLarge));
    peer.connection.set_congested();
    assert_eq!(peer.deliver(&large, &at(QoS::AtLeastOnce)), Delivery::Queued);
    assert_eq!(peer.deliver(&message("s", QoS::AtLeastOnce), &at(QoS::AtLeastOnce)), Delivery::Queued);
    peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
    assert_eq!(peer.deliveries().iter().map(|sent| &*sent.0).collect::<Vec<_>>(), ["s"]);
    let Some(Action::Flushed(flushed)) = peer.actions.pop() else { panic!() };
    assert_eq!(flushed, Flushed { sent_qos1: 1, too_large: 1, ..Flushed::default() });
}

/// [MQTT-3.3.2-5], [MQTT-3.3.2-6]
#[test]
fn expired_messages_are_not_sent() {
    let mut peer = window(V5, 1);
    let expiring = |payload: &str, at_ms| {
        let publish = Publish { payload: payload.as_bytes(), ..publish("t", QoS::AtLeastOnce, 1) };
        Message::new(&publish, Origin { node: 1, sequence: 1 }, "p", 0, Some(at_ms)).unwrap()
    };
    let start = peer.now.unix_ms;
    assert_eq!(peer.deliver(&expiring("old", start), &at(QoS::AtLeastOnce)), Delivery::Dropped(DropReason::Expired));
    peer.deliver(&expiring("a", start + 1_000), &at(QoS::AtLeastOnce));
    peer.deliver(&expiring("b", start + 1_000), &at(QoS::AtLeastOnce));
    peer.deliver(&expiring("c", start + 9_000), &at(QoS::AtLeastOnce));
    peer.deliveries();
    peer.now.unix_ms += 2_000;
    peer.puback(1);
    assert!(peer.sent()[0].contains("MessageExpiryInterval(7)"), "{:?}", peer.sent());
    assert_eq!(peer.deliveries(), [triple("c", 2, false)]);
}

#[test]
fn a_slow_reader() {
    let mut peer = window(V4, 10);
    peer.connection.set_congested();
    for (payload, qos) in [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce), ("c", QoS::AtMostOnce)] {
        assert_eq!(peer.deliver(&message(payload, qos), &at(QoS::AtLeastOnce)), Delivery::Queued);
    }
    assert_eq!(
        peer.deliver(&message("d", QoS::AtMostOnce), &at(QoS::AtMostOnce)),
        Delivery::Dropped(DropReason::QueueFull)
    );
    assert!(peer.out.is_empty());
    peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
    assert_eq!(peer.deliveries(), [triple("a", 0, false), triple("b", 1, false), triple("c", 0, false)]);
    assert!(!peer.connection.is_congested());
}

#[test]
fn a_long_queue_goes_out_in_parts() {
    let limits = SessionLimits { max_in_flight: 1_000, ..SessionLimits::default() };
    let mut peer = Peer::open(V4, limits, &PropertiesBuf::new(), None);
    peer.connection.set_congested();
    for _ in 0..10 {
        peer.deliver(&message(&"x".repeat(100_000), QoS::AtLeastOnce), &at(QoS::AtLeastOnce));
    }
    let mut parts = Vec::new();
    while peer.connection.is_congested() {
        peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
        parts.push(peer.deliveries().len());
    }
    assert_eq!(parts, [3, 3, 3, 1]);
}

/// [MQTT-3.3.1-1], [MQTT-4.4.0-1], [MQTT311-3.1.2-5], [MQTT311-4.6.0-1]
#[test]
fn a_smaller_window_after_the_return() {
    let mut peer = window(V4, 3);
    for payload in ["a", "b", "c", "d"] {
        peer.deliver(&message(payload, QoS::AtLeastOnce), &at(QoS::AtLeastOnce));
    }
    peer.connection.close(CloseReason::Lost, &mut Vec::new());
    let mut session = peer.end();
    let now = Now::default();
    let limits = SessionLimits { max_queued_messages: 2, ..SessionLimits::default() };
    let mut offline =
        |payload, qos| session.deliver_offline(now, &limits, "client", &message(payload, qos), &at(QoS::AtLeastOnce));
    assert_eq!(offline("e", QoS::AtLeastOnce), Delivery::Queued);
    assert_eq!(offline("f", QoS::AtLeastOnce), Delivery::Dropped(DropReason::QueueFull));
    assert_eq!(offline("z", QoS::AtMostOnce), Delivery::Dropped(DropReason::Offline));

    let mut next = Peer::new(SessionLimits { max_in_flight: 1, ..SessionLimits::default() });
    next.give(Packet::Connect(Box::new(Connect { clean_start: false, ..connect(V4) })));
    next.opened(OpenResult::Accepted { session: Some(session) });
    assert_eq!(next.deliver(&message("g", QoS::AtLeastOnce), &at(QoS::AtLeastOnce)), Delivery::Queued);
    let mut all = Vec::new();
    loop {
        let sent = next.deliveries();
        let [(payload, id, dup)] = sent.as_slice() else {
            break;
        };
        all.push(format!("{payload}{id}{}", if *dup { "d" } else { "" }));
        let id = *id;
        next.puback(id);
    }
    assert_eq!(all, ["a1d", "b2d", "c3d", "d4", "e5", "g6"]);
}

/// [MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT311-2.3.1-4]
#[test]
fn identifiers_in_flight_are_not_used_again() {
    let mut peer = window(V4, 2);
    peer.deliver(&message("stuck", QoS::AtLeastOnce), &at(QoS::AtLeastOnce));
    for _ in 0..70_000 {
        peer.deliver(&message("m", QoS::AtLeastOnce), &at(QoS::AtLeastOnce));
        let (_, id, _) = peer.deliveries().pop().unwrap();
        assert!(id > 1);
        peer.puback(id);
    }
}

/// [MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT311-2.3.1-4]: whatever is acknowledged when, also long after all other identifiers came round.
#[test]
fn each_identifier_in_flight_is_there_once_and_found() {
    for stays in [1, 5_000, 90_000] {
        let mut peer = window(V4, 40);
        let mut flight: Vec<(u16, u32)> = Vec::new();
        let mut random = 1_u64;
        for round in 0..200_000_u32 {
            if flight.len() == 40 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Mostly the first one; one of 4,096 stays until it is old.
                let any = if random >> 61 == 0 { (random >> 33) as usize % 40 } else { 0 };
                let old = |&(id, since): &(u16, u32)| id % 4_096 != 0 || since.wrapping_add(stays) < round;
                let at = (any..40).chain(0..any).find(|at| old(&flight[*at])).unwrap();
                let (id, _) = flight.remove(at);
                peer.puback(id);
                assert_eq!(peer.connection.session().messages().0, 39, "{id} was in flight");
            }
            peer.deliver(&message("m", QoS::AtLeastOnce), &at(QoS::AtLeastOnce));
            let (_, id, _) = peer.deliveries().pop().unwrap();
            assert!(!flight.iter().any(|(known, _)| *known == id), "{id} is in flight");
            flight.push((id, round));
        }
        assert_eq!(peer.closed(), None);
    }
}

#[test]
fn the_queue_is_bounded_by_bytes() {
    let limits = SessionLimits { max_queued_bytes: 2_500, ..SessionLimits::default() };
    let mut peer = Peer::open(V4, limits, &PropertiesBuf::new(), None);
    let large = message(&"x".repeat(900), QoS::AtMostOnce);
    for _ in 0..3 {
        peer.connection.set_congested();
        let results: Vec<_> = (0..4).map(|_| peer.deliver(&large, &at(QoS::AtMostOnce))).collect();
        let queued = Delivery::Queued;
        assert_eq!(
            results,
            [queued, queued, Delivery::Dropped(DropReason::QueueFull), Delivery::Dropped(DropReason::QueueFull)]
        );
        peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
        assert_eq!(peer.deliveries().len(), 2);
    }
}

/// [MQTT-3.3.2-5]: a session that was away for long is not closed to new messages by those that have expired.
#[test]
fn what_has_expired_takes_no_room_in_the_queue() {
    let expiring = |payload: &str, qos, at_ms| {
        let publish = Publish { payload: payload.as_bytes(), ..publish("t", qos, 0) };
        Message::new(&publish, Origin { node: 1, sequence: 1 }, "p", 0, Some(at_ms)).unwrap()
    };
    let (q0, q1) = (QoS::AtMostOnce, QoS::AtLeastOnce);
    for by_bytes in [false, true] {
        let mut limits = SessionLimits { max_queued_messages: 4, queue_qos0_offline: true, ..SessionLimits::default() };
        if by_bytes {
            let cost = crate::message::OutMessage::new(&message("1", q1), &at(q1)).cost();
            (limits.max_queued_messages, limits.max_queued_bytes) = (100, 4 * cost);
        }
        let mut session = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None).lose();
        let mut give =
            |ms, message: &Message| session.deliver_offline(Now { ms, unix_ms: ms }, &limits, "c", message, &at(q1));
        let full = Delivery::Dropped(DropReason::QueueFull);
        assert_eq!(give(0, &expiring("1", q1, 10)), Delivery::Queued);
        assert_eq!(give(0, &expiring("2", q0, 20)), Delivery::Queued);
        assert_eq!(give(0, &message("3", q1)), Delivery::Queued);
        assert_eq!(give(0, &expiring("4", q1, 30)), Delivery::Queued);
        assert_eq!(give(9, &message("x", q1)), full);
        // The first two have expired.
        assert_eq!(give(20, &message("5", q1)), Delivery::Queued, "by bytes: {by_bytes}");
        assert_eq!(give(20, &message("6", q1)), Delivery::Queued);
        assert_eq!(give(29, &message("x", q1)), full);
        assert_eq!(give(30, &message("7", q1)), Delivery::Queued);
        assert_eq!(give(1_000, &message("x", q1)), full);
        let mut peer = Peer::connecting(V5, limits);
        peer.opened(OpenResult::Accepted { session: Some(session) });
        let said: u32 = peer
            .actions
            .iter()
            .map(|action| if let Action::Flushed(flushed) = action { flushed.expired } else { 0 })
            .sum();
        assert_eq!(said, 3, "they are counted");
        let sent: Vec<String> = peer.deliveries().into_iter().map(|(payload, _, _)| payload).collect();
        assert_eq!(sent, ["3", "5", "6", "7"]);
    }
}

/// Only where it is set; those of shared subscriptions stay, and drop nobody; and nothing goes for a message that does not fit all the same.
#[test]
fn the_oldest_make_room() {
    let q1 = QoS::AtLeastOnce;
    let shared = Matched { share: Some("$share/g/t".into()), ..at(q1) };
    for by_bytes in [false, true] {
        let mut limits = SessionLimits { max_queued_messages: 3, drop_oldest: true, ..SessionLimits::default() };
        if by_bytes {
            let cost = crate::message::OutMessage::new(&message("1", q1), &at(q1)).cost();
            (limits.max_queued_messages, limits.max_queued_bytes) = (100, 3 * cost);
        }
        let mut session = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None).lose();
        let now = Now { ms: 0, unix_ms: 0 };
        let mut give = |payload: &str, matched: &Matched| {
            session.deliver_offline(now, &limits, "c", &message(payload, q1), matched)
        };
        assert_eq!(give("1", &shared), Delivery::Queued);
        assert_eq!((give("2", &at(q1)), give("3", &at(q1))), (Delivery::Queued, Delivery::Queued));
        assert_eq!(give("4", &at(q1)), Delivery::Displaced(1), "by bytes: {by_bytes}");
        assert_eq!(give("5", &shared), Delivery::Dropped(DropReason::QueueFull));
        if by_bytes {
            // One that takes the room of two, and one that never fits.
            assert_eq!(give(&"x".repeat(100_000), &at(q1)), Delivery::Dropped(DropReason::QueueFull));
            let cost = |text: &str| crate::message::OutMessage::new(&message(text, q1), &at(q1)).cost();
            let two = "y".repeat(cost("1"));
            assert_eq!(cost(&two), 2 * cost("1") - 1, "the test's own");
            assert_eq!(give(&two, &at(q1)), Delivery::Displaced(2));
        }
        let mut peer = Peer::connecting(V5, limits);
        peer.opened(OpenResult::Accepted { session: Some(session) });
        let sent: Vec<String> = peer.deliveries().into_iter().map(|(payload, _, _)| payload).collect();
        if by_bytes {
            assert_eq!((sent.len(), sent[0].as_str()), (2, "1"));
        } else {
            assert_eq!(sent, ["1", "3", "4"]);
        }
    }
}

/// What was acknowledged to its publisher is not lost for what nobody waits for.
#[test]
fn qos_0_makes_room_for_qos_0_alone() {
    let (q0, q1) = (QoS::AtMostOnce, QoS::AtLeastOnce);
    let limits = SessionLimits {
        max_queued_messages: 3,
        drop_oldest: true,
        queue_qos0_offline: true,
        ..SessionLimits::default()
    };
    let mut session = Peer::open(V5, limits.clone(), &PropertiesBuf::new(), None).lose();
    let mut give = |payload: &str, qos| {
        session.deliver_offline(Now { ms: 0, unix_ms: 0 }, &limits, "c", &message(payload, qos), &at(qos))
    };
    for (payload, qos) in [("a", q1), ("b", q0), ("c", q1)] {
        assert_eq!(give(payload, qos), Delivery::Queued);
    }
    assert_eq!(give("d", q0), Delivery::Displaced(1), "b");
    assert_eq!(give("e", q1), Delivery::Displaced(1), "a");
    assert_eq!(give("f", q1), Delivery::Displaced(1), "c");
    assert_eq!(give("g", q1), Delivery::Displaced(1), "d");
    assert_eq!(give("h", q0), Delivery::Dropped(DropReason::QueueFull));
    let mut peer = Peer::connecting(V5, limits);
    peer.opened(OpenResult::Accepted { session: Some(session) });
    let sent: Vec<String> = peer.deliveries().into_iter().map(|(payload, _, _)| payload).collect();
    assert_eq!(sent, ["e", "f", "g"]);
}

/// QoS 0 for a client that is away is a setting, whether it comes before or after the connection's end.
#[test]
fn what_waits_with_qos_0_ends_with_the_connection() {
    let (q0, q1) = (QoS::AtMostOnce, QoS::AtLeastOnce);
    for kept in [false, true] {
        let limits = SessionLimits { queue_qos0_offline: kept, ..SessionLimits::default() };
        let mut peer = Peer::connecting(V5, limits.clone());
        peer.opened(OpenResult::Accepted { session: None });
        peer.connection.set_congested();
        for (payload, qos) in [("a", q0), ("b", q1), ("c", q0), ("d", q1)] {
            assert_eq!(peer.deliver(&message(payload, qos), &at(q1)), Delivery::Queued);
        }
        let mut session = peer.lose();
        let (waiting, dropped) = if kept { (4, 0) } else { (2, 2) };
        assert_eq!((session.messages(), session.take_dropped_qos0()), ((0, waiting), dropped));
        assert_eq!(session.take_dropped_qos0(), 0);
        let mut peer = Peer::connecting(V5, limits);
        peer.opened(OpenResult::Accepted { session: Some(session) });
        let sent: Vec<String> = peer.deliveries().into_iter().map(|(payload, _, _)| payload).collect();
        assert_eq!(sent.concat(), if kept { "abcd" } else { "bd" });
        // Nothing of what is gone holds up what comes now.
        assert_eq!(peer.deliver(&message("e", q0), &at(q1)), Delivery::Sent(q0));
        assert_eq!(peer.deliver(&message("f", q1), &at(q1)), Delivery::Sent(q1));
    }
}
