//! Connections of durable sessions: what the shard has granted, what it commits, and what waits for it.
//!
//! Flows are lists of steps, each with what is sent and what the server is asked at it.

use std::fmt::Write as _;

use super::*;
use crate::{DropReason, Granted, GrantedDelivery, SubscriptionEntry, SubscriptionInfo};

/// A step of a flow.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The shard has granted a message: identifier, payload, QoS, whether it may have been sent before.
    Grant(u16, &'static str, u8, bool),
    /// It has committed PUBREC of one.
    Release(u16),
    /// It has committed the client's oldest message that waits, or it has refused it.
    Committed,
    Refused,
    /// It has committed PUBREL, and whether it knew the identifier.
    Released(u16, bool),
    /// The client sends PUBLISH.
    Publish(u16, u8),
    /// As [`Step::Publish`], repeated.
    Repeat(u16, u8),
    /// The client sends an acknowledgement.
    Ack(&'static str, u16),
    /// The client refuses a message: PUBACK or PUBREC with 0x97. Only in MQTT 5.
    Nack(&'static str, u16),
}

use Step::{Ack as A, Committed, Grant, Nack, Publish as P, Refused, Release, Released, Repeat};

/// A peer of a durable session that remembers what the server owes.
struct Line {
    peer: Peer,
    tokens: Vec<PublishToken>,
}

impl Line {
    fn new(version: Version) -> Self {
        Self::with(version, SessionLimits { max_in_flight: 3, ..SessionLimits::default() }, true, &[])
    }

    fn with(version: Version, limits: SessionLimits, session_present: bool, received: &[u16]) -> Self {
        let mut peer = Peer::connecting(version, limits);
        let received = received.iter().map(|id| id_of(*id)).collect();
        peer.opened(OpenResult::Durable { session_present, session: None, received });
        peer.out.clear();
        Self { peer, tokens: Vec::new() }
    }

    /// What is sent at a step, and then what the server is asked, or what becomes of a granted message that was not sent.
    fn run(&mut self, step: Step) -> Vec<String> {
        let peer = &mut self.peer;
        let (mut kept, answered) = (None, |tokens: &mut Vec<PublishToken>| tokens.remove(0));
        match step {
            Grant(id, payload, qos, dup) => {
                let message = message(payload, QoS::ExactlyOnce);
                let granted = granted(id, &message, QoS::from_u8(qos).unwrap());
                let delivery = peer.granted(&Granted { dup, ..granted });
                kept = (delivery != GrantedDelivery::Sent).then_some(delivery);
            }
            Release(id) => peer.connection.on_granted_release(id_of(id), &mut peer.out, &mut peer.actions),
            Committed => peer.published(answered(&mut self.tokens), ReasonCode::Success),
            Refused => peer.published(answered(&mut self.tokens), ReasonCode::QuotaExceeded),
            Released(id, known) => {
                peer.connection.on_released(id_of(id), known, &mut peer.out, &mut peer.actions);
            }
            P(id, qos) => peer.publish("t", QoS::from_u8(qos).unwrap(), id),
            Repeat(id, qos) => {
                let again = publish("t", QoS::from_u8(qos).unwrap(), id);
                peer.give(Packet::Publish(Publish { dup: true, ..again }));
            }
            A(name, id) => peer.give(acknowledgement(name, Ack::success(id_of(id)))),
            Nack(name, id) => {
                let ack = Ack { reason: ReasonCode::QuotaExceeded, ..Ack::success(id_of(id)) };
                peer.give(acknowledgement(name, ack));
            }
        }
        let mut lines = peer.trace();
        lines.extend(kept.map(|delivery| format!("{delivery:?}")));
        for action in peer.actions.drain(..) {
            let mut line = String::new();
            match action {
                Action::Publish { token, .. } => {
                    self.tokens.extend(token);
                    line.push_str("publish");
                }
                Action::Received { packet_id, token, message } => {
                    assert_eq!(message.qos(), QoS::ExactlyOnce);
                    self.tokens.push(token);
                    write!(line, "received {packet_id}").unwrap();
                }
                Action::Released { packet_id } => write!(line, "released {packet_id}").unwrap(),
                Action::Settled { packet_id, what } => write!(line, "settled {packet_id} {what:?}").unwrap(),
                Action::Close { .. } => line.push_str("close"),
                Action::LimitMet(_) => continue,
                other => panic!("{other:?}"),
            }
            lines.push(line);
        }
        lines
    }

    fn runs(&mut self, name: &str, rows: &[(Step, &[&str])]) {
        let version = self.peer.connection.version;
        for (step, expected) in rows {
            let expected: Vec<_> = expected.iter().map(|line| told(version, line)).collect();
            assert_eq!(self.run(*step), expected, "{name}, {version}: {step:?}");
        }
    }
}

impl Peer {
    fn granted(&mut self, granted: &Granted<'_>) -> GrantedDelivery {
        self.connection.on_granted(self.now, granted, &mut self.out)
    }

    fn flights(&self) -> usize {
        self.connection.durable.as_ref().unwrap().flights.counted()
    }
}

fn acknowledgement(name: &str, ack: Ack<'static>) -> Packet<'static> {
    match name {
        "PUBACK" => Packet::PubAck(ack),
        "PUBREC" => Packet::PubRec(ack),
        "PUBREL" => Packet::PubRel(ack),
        "PUBCOMP" => Packet::PubComp(ack),
        other => panic!("{other}"),
    }
}

fn granted(id: u16, message: &Message, qos: QoS) -> Granted<'_> {
    Granted { packet_id: id_of(id), message, qos, retain: false, dup: false, identifiers: &[], lifetime_ms: None }
}

/// MQTT 3 clients are not told reasons.
fn told(version: Version, line: &str) -> String {
    if version.is_v5() { line.to_owned() } else { line.trim_end_matches(" 0x92").to_owned() }
}

type Rows = &'static [(Step, &'static [&'static str])];

/// [MQTT-4.3.2-1] to [MQTT-4.3.2-3], [MQTT-4.3.3-1] to [MQTT-4.3.3-6], [MQTT-4.4.0-1], [MQTT-4.4.0-2], [MQTT-3.3.1-1], [MQTT311-3.3.1-1],
/// [MQTT311-4.3.2-1], [MQTT311-4.3.3-1], [MQTT311-4.4.0-1]
const TO_THE_CLIENT: &[(&str, Rows)] = &[
    (
        "QoS 1",
        &[
            (Grant(7, "m", 1, false), &["PUBLISH 7 q1 m"]),
            (A("PUBACK", 7), &["settled 7 Acked"]),
            // Late.
            (A("PUBACK", 7), &[]),
            (A("PUBCOMP", 7), &[]),
            // The identifier comes round again.
            (Grant(7, "n", 1, false), &["PUBLISH 7 q1 n"]),
        ],
    ),
    ("QoS 1, refused", &[(Grant(1, "m", 1, false), &["PUBLISH 1 q1 m"]), (Nack("PUBACK", 1), &["settled 1 Refused"])]),
    (
        "QoS 2",
        &[
            (Grant(65_535, "m", 2, false), &["PUBLISH 65535 q2 m"]),
            (A("PUBREC", 65_535), &["settled 65535 Received"]),
            // Before it is committed; and the shard is not told twice.
            (A("PUBREC", 65_535), &[]),
            (Release(65_535), &["PUBREL 65535"]),
            (Release(65_535), &[]),
            // The client did not get the PUBREL.
            (A("PUBREC", 65_535), &["PUBREL 65535"]),
            (A("PUBCOMP", 65_535), &["settled 65535 Completed"]),
            (A("PUBCOMP", 65_535), &[]),
            (Grant(65_535, "n", 2, false), &["PUBLISH 65535 q2 n"]),
        ],
    ),
    (
        "QoS 2, refused",
        &[
            (Grant(1, "m", 2, false), &["PUBLISH 1 q2 m"]),
            (Nack("PUBREC", 1), &["settled 1 Refused"]),
            (Grant(2, "m", 2, false), &["PUBLISH 2 q2 m"]),
            (A("PUBREC", 2), &["settled 2 Received"]),
            (Nack("PUBREC", 2), &["settled 2 Refused"]),
            (Grant(3, "m", 2, false), &["PUBLISH 3 q2 m"]),
            (Release(3), &["PUBREL 3"]),
            (Nack("PUBREC", 3), &["settled 3 Refused"]),
        ],
    ),
    (
        "of an earlier connection",
        &[
            (Grant(1, "a", 1, true), &["PUBLISH 1 q1 dup a"]),
            (Release(2), &["PUBREL 2"]),
            (Grant(3, "c", 2, true), &["PUBLISH 3 q2 dup c"]),
            (Grant(4, "d", 1, false), &["PUBLISH 4 q1 d"]),
            // What is there of two leaders.
            (Grant(1, "a", 1, true), &["UnderWay"]),
            (Grant(2, "b", 2, true), &["UnderWay"]),
            (Release(2), &[]),
            (A("PUBCOMP", 2), &["settled 2 Completed"]),
            (A("PUBACK", 1), &["settled 1 Acked"]),
            (A("PUBREC", 3), &["settled 3 Received"]),
            (Release(3), &["PUBREL 3"]),
        ],
    ),
    // What has an identifier has no QoS 0.
    ("QoS 0", &[(Grant(1, "m", 0, false), &["PUBLISH 1 q1 m"]), (A("PUBACK", 1), &["settled 1 Acked"])]),
    // Said by mistake: PUBREL is nothing for a message with QoS 1.
    ("released, with QoS 1", &[(Grant(1, "m", 1, false), &["PUBLISH 1 q1 m"]), (Release(1), &[])]),
    (
        "unknown identifiers",
        &[
            (A("PUBACK", 9), &[]),
            (A("PUBCOMP", 9), &[]),
            // The exchange is of a session that is gone.
            (A("PUBREC", 9), &["PUBREL 9 0x92"]),
        ],
    ),
];

#[test]
fn to_the_client() {
    for version in Version::ALL {
        for (name, rows) in TO_THE_CLIENT {
            if version.is_v5() || !rows.iter().any(|row| matches!(row.0, Nack(..))) {
                let mut line = Line::new(version);
                line.runs(name, rows);
                assert_eq!(line.peer.closed(), None, "{name}");
            }
        }
    }
}

/// The wrong acknowledgement for where the exchange is. [MQTT-4.13.1-1]
#[test]
fn wrong_acknowledgements() {
    let table: &[(&[Step], Step)] = &[
        (&[Grant(1, "m", 1, false)], A("PUBREC", 1)),
        (&[Grant(1, "m", 1, false)], Nack("PUBREC", 1)),
        (&[Grant(1, "m", 1, false)], A("PUBCOMP", 1)),
        (&[Grant(1, "m", 2, false)], A("PUBACK", 1)),
        (&[Grant(1, "m", 2, false)], A("PUBCOMP", 1)),
        (&[Grant(1, "m", 2, false), A("PUBREC", 1)], A("PUBACK", 1)),
        // PUBREL was not sent.
        (&[Grant(1, "m", 2, false), A("PUBREC", 1)], A("PUBCOMP", 1)),
        (&[Grant(1, "m", 2, false), A("PUBREC", 1), Release(1)], A("PUBACK", 1)),
        (&[Release(1)], A("PUBACK", 1)),
    ];
    for version in [V4, V5] {
        for (steps, wrong) in table {
            if !version.is_v5() && matches!(wrong, Nack(..)) {
                continue;
            }
            let mut line = Line::new(version);
            for step in *steps {
                line.run(*step);
            }
            let expected: &[&str] = if version.is_v5() { &["DISCONNECT 0x82", "close"] } else { &["close"] };
            assert_eq!(line.run(*wrong), expected, "{steps:?} {wrong:?}");
            // Nothing follows.
            for step in [Grant(5, "m", 1, false), Release(5), Released(5, true)] {
                let lines = line.run(step);
                assert!(lines.is_empty() || lines == ["NoCredit"], "{lines:?}");
            }
        }
    }
}

/// [MQTT-3.3.4-9], [MQTT-3.3.4-10], [MQTT-4.9.0-1], [MQTT-4.9.0-2], [MQTT-4.9.0-3]
#[test]
fn credits() {
    let mut line = Line::new(V5);
    let rows: &[(Step, &[&str], usize)] = &[
        // PUBREL is not held back, and what was not sent here does not count.
        (Release(9), &["PUBREL 9"], 3),
        (Grant(10, "a", 1, true), &["PUBLISH 10 q1 dup a"], 2),
        (Grant(11, "b", 2, false), &["PUBLISH 11 q2 b"], 1),
        (Grant(12, "c", 2, false), &["PUBLISH 12 q2 c"], 0),
        (Grant(13, "d", 1, false), &["NoCredit"], 0),
        (Grant(12, "c", 2, false), &["UnderWay"], 0),
        (Release(8), &["PUBREL 8"], 0),
        (A("PUBCOMP", 9), &["settled 9 Completed"], 0),
        // It counts until PUBCOMP.
        (A("PUBREC", 11), &["settled 11 Received"], 0),
        (Release(11), &["PUBREL 11"], 0),
        (A("PUBCOMP", 11), &["settled 11 Completed"], 1),
        (A("PUBACK", 10), &["settled 10 Acked"], 2),
        (Nack("PUBREC", 12), &["settled 12 Refused"], 3),
        (Grant(13, "d", 1, false), &["PUBLISH 13 q1 d"], 2),
    ];
    assert_eq!(line.peer.connection.credits(), 3);
    for (step, expected, credits) in rows {
        assert_eq!(line.run(*step), *expected, "{step:?}");
        assert_eq!((line.peer.connection.credits(), line.peer.flights()), (*credits, 3 - credits), "{step:?}");
    }

    // The client's own.
    let narrow = properties(&[Property::ReceiveMaximum(1)]);
    let mut peer = Peer::new(SessionLimits::default());
    peer.give(Packet::Connect(Box::new(Connect { properties: narrow.as_properties(), ..connect(V5) })));
    assert_eq!(peer.connection.credits(), 0, "before CONNACK");
    peer.opened(OpenResult::Durable { session_present: false, session: None, received: Vec::new() });
    assert_eq!(peer.connection.credits(), 1);
    peer.connection.close(CloseReason::Lost, &mut peer.out);
    assert_eq!(peer.connection.credits(), 0, "after the end");

    // A connection of the other kind.
    let mut peer = Peer::simple(V5);
    assert_eq!((peer.connection.credits(), peer.connection.is_durable()), (0, false));
    let m = message("m", QoS::AtLeastOnce);
    assert_eq!(peer.granted(&granted(1, &m, QoS::AtLeastOnce)), GrantedDelivery::NoCredit);
    peer.connection.on_granted_release(id_of(1), &mut peer.out, &mut peer.actions);
    peer.connection.on_released(id_of(1), true, &mut peer.out, &mut peer.actions);
    assert!(peer.out.is_empty() && peer.actions.is_empty());
}

#[test]
fn a_socket_that_takes_no_more() {
    let mut line = Line::new(V5);
    line.peer.connection.set_congested();
    assert_eq!(line.peer.connection.credits(), 0);
    assert_eq!(line.run(Grant(1, "m", 1, false)), ["NoCredit"]);
    // Acknowledgements are not held back.
    assert_eq!(line.run(Release(2)), ["PUBREL 2"]);
    let peer = &mut line.peer;
    peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
    assert_eq!(line.run(Grant(1, "m", 1, false)), ["PUBLISH 1 q1 m"]);
}

/// QoS 0 goes as on any connection; nothing else does.
#[test]
fn what_does_not_come_from_the_shard() {
    let (q0, q1, q2) = (QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce);
    let shared = |qos| Matched { share: Some("$share/g/t".into()), ..at(qos) };
    for version in Version::ALL {
        let mut line = Line::new(version);
        let peer = &mut line.peer;
        for (published, matched, expected) in [
            (q0, at(q2), Delivery::Sent(q0)),
            (q2, at(q0), Delivery::Sent(q0)),
            (q1, at(q1), Delivery::Skipped),
            (q2, at(q1), Delivery::Skipped),
            (q0, shared(q1), Delivery::Sent(q0)),
            // Another one of the group gets it.
            (q1, shared(q1), Delivery::Dropped(DropReason::QueueFull)),
        ] {
            assert_eq!(peer.deliver(&message("m", published), &matched), expected, "{published:?} {matched:?}");
            let sent: &[&str] = if matches!(expected, Delivery::Sent(_)) { &["PUBLISH q0 m"] } else { &[] };
            assert_eq!(peer.trace(), sent);
        }
        // Also when it waits for the socket, and when the connection is over.
        peer.connection.set_congested();
        assert_eq!(peer.deliver(&message("m", q0), &at(q1)), Delivery::Queued);
        assert_eq!(peer.deliver(&message("m", q1), &at(q1)), Delivery::Skipped);
        assert_eq!(peer.connection.session().messages(), (0, 1));
        peer.connection.close(CloseReason::Lost, &mut peer.out);
        assert_eq!(peer.deliver(&message("m", q0), &at(q1)), Delivery::Dropped(DropReason::Offline));
        assert_eq!(peer.deliver(&message("m", q1), &at(q1)), Delivery::Skipped);
    }
}

/// [MQTT-3.1.2-24], [MQTT-3.1.2-25]
#[test]
fn what_is_too_large() {
    let small = properties(&[Property::MaximumPacketSize(64)]);
    let mut peer = Peer::new(SessionLimits::default());
    peer.give(Packet::Connect(Box::new(Connect { properties: small.as_properties(), ..connect(V5) })));
    peer.opened(OpenResult::Durable { session_present: false, session: None, received: Vec::new() });
    peer.out.clear();
    let (large, fits) = (message(&"x".repeat(60), QoS::AtLeastOnce), message("s", QoS::AtLeastOnce));
    assert_eq!(peer.granted(&granted(1, &large, QoS::AtLeastOnce)), GrantedDelivery::TooLarge);
    assert_eq!((peer.out.len(), peer.flights()), (0, 0));
    assert_eq!(peer.granted(&granted(2, &fits, QoS::AtLeastOnce)), GrantedDelivery::Sent);
    assert_eq!(peer.trace(), ["PUBLISH 2 q1 s"]);
}

/// [MQTT-3.3.2-6], [MQTT-3.3.4-3], [MQTT-4.3.3-7]
#[test]
fn what_goes_with_a_message() {
    let mut line = Line::new(V5);
    let peer = &mut line.peer;
    let expiring = |at_ms| {
        let publish = Publish { payload: b"m", ..publish("t", QoS::AtLeastOnce, 1) };
        Message::new(&publish, Origin { node: 1, sequence: 1 }, "p", 0, at_ms).unwrap()
    };
    let soon = Some(peer.now.unix_ms + 1_000);
    for (at_ms, lifetime_ms, expected) in [
        (None, None, "properties: {}"),
        (None, Some(9_000), "properties: {}"),
        (soon, None, "MessageExpiryInterval(1)"),
        // The clock of the message's node was another one.
        (soon, Some(8_001), "MessageExpiryInterval(9)"),
        (Some(8_000), Some(8_000), "MessageExpiryInterval(8)"),
        // It is over, and it is sent.
        (soon, Some(0), "MessageExpiryInterval(0)"),
        (Some(1), None, "MessageExpiryInterval(0)"),
    ] {
        let message = expiring(at_ms);
        let granted = Granted { lifetime_ms, ..granted(1, &message, QoS::AtLeastOnce) };
        assert_eq!(peer.granted(&granted), GrantedDelivery::Sent);
        let sent = peer.sent();
        let found = sent[0].contains(expected) || (expected == "properties: {}" && !sent[0].contains("Expiry"));
        assert!(found, "{expected}: {sent:?}");
        peer.puback(1);
        peer.out.clear();
    }
    let message = message("m", QoS::AtLeastOnce);
    let all = Granted { retain: true, dup: true, identifiers: &[3, 9], ..granted(5, &message, QoS::ExactlyOnce) };
    assert_eq!(peer.granted(&all), GrantedDelivery::Sent);
    let sent = peer.sent();
    for part in ["retain: true", "dup: true", "ExactlyOnce", "SubscriptionIdentifier(3)", "SubscriptionIdentifier(9)"] {
        assert!(sent[0].contains(part), "{part}: {sent:?}");
    }
}

/// Topics behind the mount point, and topic aliases, are as on any connection.
#[test]
fn topics() {
    let limits = SessionLimits { mount_point: Some("m/".into()), ..SessionLimits::default() };
    let shows = SubscriptionEntry { filter: "m/$x/#".into(), info: SubscriptionInfo::default() };
    let mut peer = Peer::new(limits);
    let aliases = properties(&[Property::TopicAliasMaximum(1)]);
    let connect = Connect { clean_start: false, properties: aliases.as_properties(), ..connect(V5) };
    peer.give(Packet::Connect(Box::new(connect)));
    let session = Some(Box::new(SessionState::with_subscriptions([shows])));
    peer.opened(OpenResult::Durable { session_present: true, session, received: Vec::new() });
    peer.out.clear();
    let on = |topic: &str| {
        let publish = Publish { topic, ..publish("t", QoS::AtLeastOnce, 1) };
        Message::new(&publish, Origin { node: 1, sequence: 1 }, "p", 0, None).unwrap()
    };
    for (id, topic, expected) in [
        (1, "m/long/a", Some("topic: \"long/a\"")),
        (2, "m/long/a", Some("TopicAlias(1)")),
        (3, "m/long/a", Some("topic: \"\"")),
        (4, "m", None),
        (5, "m/", None),
        (6, "m/$y/a", None),
        (7, "m/$x/a", Some("topic: \"$x/a\"")),
    ] {
        let message = on(topic);
        let delivery = peer.granted(&granted(id, &message, QoS::AtLeastOnce));
        match expected {
            Some(part) => {
                assert_eq!(delivery, GrantedDelivery::Sent, "{topic}");
                let sent = peer.sent();
                assert!(sent[0].contains(part), "{part}: {sent:?}");
            }
            None => assert_eq!((delivery, peer.out.len()), (GrantedDelivery::Skipped, 0), "{topic}"),
        }
        peer.out.clear();
    }
    assert_eq!(peer.flights(), 4);
}

/// [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-4.3.3-8] to [MQTT-4.3.3-12], [MQTT-4.6.0-2], [MQTT-4.6.0-3], [MQTT311-4.3.3-2]
const FROM_THE_CLIENT: &[(&str, Rows)] = &[
    (
        "QoS 2",
        &[
            (P(7, 2), &["received 7"]),
            // Before it is committed: it waits with the first, and is not handed on.
            (Repeat(7, 2), &[]),
            (Committed, &["PUBREC 7", "PUBREC 7"]),
            (Repeat(7, 2), &["PUBREC 7"]),
            (P(7, 2), &["PUBREC 7"]),
            (A("PUBREL", 7), &["released 7"]),
            (A("PUBREL", 7), &[]),
            // The identifier is not free before PUBCOMP.
            (Repeat(7, 2), &["PUBREC 7"]),
            (Released(7, true), &["PUBCOMP 7"]),
            (Released(7, true), &[]),
            (P(7, 2), &["received 7"]),
        ],
    ),
    (
        "QoS 1",
        &[
            (P(7, 1), &["publish"]),
            (Repeat(7, 1), &["publish"]),
            (Committed, &["PUBACK 7"]),
            (Committed, &["PUBACK 7"]),
        ],
    ),
    ("QoS 0", &[(P(0, 0), &["publish"])]),
    (
        "released and not known",
        &[(A("PUBREL", 9), &["released 9"]), (Released(8, true), &[]), (Released(9, false), &["PUBCOMP 9 0x92"])],
    ),
    (
        "several releases",
        &[
            (P(1, 2), &["received 1"]),
            (P(2, 2), &["received 2"]),
            (Committed, &["PUBREC 1"]),
            (Committed, &["PUBREC 2"]),
            (A("PUBREL", 1), &["released 1"]),
            (A("PUBREL", 2), &["released 2"]),
            (Released(2, true), &["PUBCOMP 2"]),
            (Released(1, true), &["PUBCOMP 1"]),
        ],
    ),
];

#[test]
fn from_the_client() {
    for version in Version::ALL {
        for (name, rows) in FROM_THE_CLIENT {
            let mut line = Line::new(version);
            line.runs(name, rows);
            assert_eq!(line.peer.closed(), None, "{name}");
        }
    }
}

#[test]
fn a_message_that_the_shard_refuses() {
    let mut line = Line::new(V5);
    let rows: Rows = &[
        (P(7, 2), &["received 7"]),
        (Refused, &["PUBREC 7 0x97"]),
        // [MQTT-4.3.3-9]: it is a new message.
        (P(7, 2), &["received 7"]),
        (Committed, &["PUBREC 7"]),
    ];
    line.runs("refused", rows);
    let mut line = Line::new(V4);
    line.runs("refused", &[(P(7, 2), &["received 7"]), (Refused, &["close"])]);
}

/// [MQTT-4.6.0-2], [MQTT-4.6.0-3]: PUBACK and PUBREC have one order, that of the messages, whatever is committed first.
#[test]
fn answers_keep_the_order() {
    let mut line = Line::new(V5);
    for (id, qos) in [(1, 2), (2, 1), (3, 2), (4, 1)] {
        line.run(P(id, qos));
    }
    for at in [3, 2, 1] {
        let token = line.tokens[at];
        line.peer.published(token, ReasonCode::Success);
        assert!(line.peer.out.is_empty());
    }
    line.peer.published(line.tokens[0], ReasonCode::Success);
    assert_eq!(line.peer.trace(), ["PUBREC 1", "PUBACK 2", "PUBREC 3", "PUBACK 4"]);
}

/// A PUBREL before its PUBREC. [MQTT-4.13.1-1]
#[test]
fn a_release_before_its_turn() {
    let mut line = Line::new(V5);
    line.run(P(1, 2));
    assert_eq!(line.run(A("PUBREL", 1)), ["DISCONNECT 0x82", "close"]);
}

/// What the shard says of the identifiers counts, not what the connection before has left.
#[test]
fn a_session_that_is_resumed() {
    for version in Version::ALL {
        let mut line = Line::with(version, SessionLimits::default(), true, &[7, 5, 7]);
        assert_eq!(line.peer.connection.session().unreleased(), 2);
        let rows: Rows = &[
            (Repeat(7, 2), &["PUBREC 7"]),
            (A("PUBREL", 7), &["released 7"]),
            (Released(7, true), &["PUBCOMP 7"]),
            (A("PUBREL", 5), &["released 5"]),
            (Released(5, true), &["PUBCOMP 5"]),
            // The connection is lost with it.
            (P(8, 2), &["received 8"]),
        ];
        line.runs("resumed", rows);
        let Line { peer, tokens } = line;
        let (session, limits, late) = (peer.lose(), SessionLimits::default(), tokens[0]);
        assert_eq!(session.unreleased(), 1);
        let mut peer = Peer::connecting(version, limits);
        peer.opened(OpenResult::Durable { session_present: true, session: Some(session), received: Vec::new() });
        let present = if version == Version::V3_1 { "CONNACK" } else { "CONNACK present" };
        assert_eq!(peer.trace(), [present]);
        let mut line = Line { peer, tokens: Vec::new() };
        // Of the connection before: whether it was committed was said above.
        line.peer.published(late, ReasonCode::Success);
        line.runs("after that", &[(Repeat(8, 2), &["received 8"]), (Committed, &["PUBREC 8"])]);
    }
}

/// [MQTT-3.1.2-4], [MQTT-3.2.2-2], [MQTT-3.2.2-3], [MQTT311-3.1.2-6], [MQTT311-3.2.2-1]
#[test]
fn what_is_taken_up() {
    let entry = |filter: &str, sub_id| SubscriptionEntry {
        filter: filter.into(),
        info: SubscriptionInfo { sub_id, ..SubscriptionInfo::default() },
    };
    for (clean_start, session_present, taken) in
        [(false, true, true), (false, false, false), (true, true, false), (true, false, false)]
    {
        let mut peer = Peer::new(SessionLimits::default());
        peer.give(Packet::Connect(Box::new(Connect { clean_start, ..connect(V5) })));
        let session = SessionState::with_subscriptions([entry("b", 1), entry("a", 2), entry("b", 3)]);
        peer.opened(OpenResult::Durable {
            session_present,
            session: Some(Box::new(session)),
            received: vec![id_of(3)],
        });
        assert_eq!(peer.trace(), [if taken { "CONNACK present" } else { "CONNACK" }]);
        assert!(peer.connection.is_durable());
        let session = peer.connection.session();
        let expected = if taken { vec![entry("a", 2), entry("b", 3)] } else { vec![] };
        assert_eq!((session.subscriptions(), session.unreleased()), (&expected[..], usize::from(taken)));
    }
    // A session of which this node knows nothing.
    let line = Line::with(V5, SessionLimits::default(), true, &[3]);
    assert_eq!(line.peer.connection.session().unreleased(), 1);
}

/// What a session had of its own goes; QoS 0 that waited stays, where it is kept.
#[test]
fn a_session_that_becomes_one_of_a_shard() {
    let limits = SessionLimits { max_in_flight: 2, queue_qos0_offline: true, ..SessionLimits::default() };
    let mut peer = Peer::connecting(V5, limits.clone());
    peer.opened(OpenResult::Accepted { session: None });
    for payload in ["a", "b", "c"] {
        peer.deliver(&message(payload, QoS::ExactlyOnce), &at(QoS::ExactlyOnce));
    }
    peer.pubrec(1);
    peer.connection.set_congested();
    assert_eq!(peer.deliver(&message("zero", QoS::AtMostOnce), &at(QoS::AtMostOnce)), Delivery::Queued);
    peer.publish("t", QoS::ExactlyOnce, 4);
    let session = peer.lose();
    assert_eq!((session.messages(), session.unreleased()), ((2, 2), 1));
    let mut peer = Peer::connecting(V5, limits);
    peer.opened(OpenResult::Durable { session_present: true, session: Some(session), received: Vec::new() });
    assert_eq!(peer.trace(), ["CONNACK present", "PUBLISH q0 zero"]);
    assert_eq!((peer.connection.session().messages(), peer.connection.session().unreleased()), ((0, 0), 0));
    peer.puback(2);
    assert_eq!((peer.closed(), peer.connection.credits()), (None, 2));
}

/// It counts until PUBCOMP. [MQTT-3.3.4-7], [MQTT-4.9.0-2]
#[test]
fn the_receive_maximum() {
    let limits = SessionLimits { receive_maximum: 2, ..SessionLimits::default() };
    // Those of an earlier connection do not count before they are repeated.
    let mut line = Line::with(V5, limits.clone(), true, &[8, 9]);
    let rows: Rows = &[
        (P(1, 2), &["received 1"]),
        (P(2, 2), &["received 2"]),
        (Committed, &["PUBREC 1"]),
        (Committed, &["PUBREC 2"]),
        (A("PUBREL", 1), &["released 1"]),
    ];
    line.runs("full", rows);
    let mut full = Line::with(V5, limits.clone(), true, &[]);
    full.runs("full", rows);
    line.runs("room again", &[(Released(1, true), &["PUBCOMP 1"]), (P(3, 2), &["received 3"])]);
    // Before the release is committed.
    assert_eq!(full.run(P(3, 2)), ["DISCONNECT 0x93", "close"]);

    // PUBRELs that wait are bounded: the client is not read, and not blamed for its silence.
    for version in [V4, V5] {
        let mut line = Line::with(version, limits.clone(), true, &[]);
        for id in 1..=4 {
            assert!(line.peer.connection.can_read());
            line.run(A("PUBREL", id));
        }
        assert!(!line.peer.connection.can_read());
        let peer = &mut line.peer;
        peer.now.ms += 1_000_000;
        peer.connection.on_timer(peer.now, &mut peer.out, &mut peer.actions);
        assert_eq!(peer.closed(), None);
        line.run(Released(2, true));
        assert!(line.peer.connection.can_read());
    }
}
