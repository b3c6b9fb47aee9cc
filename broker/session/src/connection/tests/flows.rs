//! The client or the server dies at each step of each QoS flow, in both directions.
//!
//! A flow is a list of steps. After each of them, and before the first, the connection is lost; the client comes back and finds
//! its session, or the server has lost it too, or the client does not want it any more. What the server sends then is in the table, and
//! that the flow can be carried to its end from there.

use super::*;

/// A step of a flow.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The server has a message of this QoS for the client, and a subscription with QoS 2.
    Deliver(&'static str, u8),
    /// The client sends PUBLISH.
    Publish(u16, u8),
    /// As [`Step::Publish`], repeated.
    Repeat(u16, u8),
    /// The server is done with the oldest message that it has.
    Done,
    /// The client sends an acknowledgement.
    Ack(&'static str, u16),
    /// The client refuses a message: PUBACK or PUBREC with 0x97. Only in MQTT 5.
    Nack(&'static str, u16),
}

use Step::{Ack as A, Deliver, Done, Nack, Publish as P, Repeat};

/// A peer that remembers what the server owes.
struct Line {
    peer: Peer,
    tokens: Vec<PublishToken>,
}

impl Line {
    fn new(version: Version) -> Self {
        let limits = SessionLimits { max_in_flight: 3, ..SessionLimits::default() };
        let mut peer = Peer::connecting(version, limits);
        peer.opened(OpenResult::Accepted { session: None });
        peer.out.clear();
        Self { peer, tokens: Vec::new() }
    }

    /// What the server sends at a step.
    fn run(&mut self, step: Step) -> Vec<String> {
        let peer = &mut self.peer;
        let ack = |name, ack: Ack<'static>| match name {
            "PUBACK" => Packet::PubAck(ack),
            "PUBREC" => Packet::PubRec(ack),
            "PUBREL" => Packet::PubRel(ack),
            "PUBCOMP" => Packet::PubComp(ack),
            other => panic!("{other}"),
        };
        match step {
            Deliver(payload, qos) => {
                peer.deliver(&message(payload, QoS::from_u8(qos).unwrap()), &at(QoS::ExactlyOnce));
            }
            P(id, qos) => peer.publish("t", QoS::from_u8(qos).unwrap(), id),
            Repeat(id, qos) => {
                let again = publish("t", QoS::from_u8(qos).unwrap(), id);
                peer.give(Packet::Publish(Publish { dup: true, ..again }));
            }
            Done => {
                let token = self.tokens.remove(0);
                peer.published(token, ReasonCode::Success);
            }
            A(name, id) => peer.give(ack(name, Ack::success(id_of(id)))),
            Nack(name, id) => {
                peer.give(ack(name, Ack { reason: ReasonCode::QuotaExceeded, ..Ack::success(id_of(id)) }));
            }
        }
        self.tokens.extend(peer.tokens());
        peer.trace()
    }

    /// The client comes back to its session. The answers of the server to what came before do not come any more.
    fn resume(self) -> Self {
        Self { peer: self.peer.reconnect(), tokens: Vec::new() }
    }

    /// The client comes back, and there is no session: the server has died, or a clean start was asked for.
    fn renew(self, clean_start: bool) -> Self {
        let (version, limits) = (self.peer.connection.version, (*self.peer.connection.limits).clone());
        let session = self.peer.lose();
        let mut peer = Peer::connecting(version, limits.clone());
        if clean_start {
            peer = Peer::new(limits);
            peer.give(Packet::Connect(Box::new(connect(version))));
            peer.actions.clear();
        }
        // Even a server that forgets to throw it away.
        peer.opened(OpenResult::Accepted { session: clean_start.then_some(session) });
        Self { peer, tokens: Vec::new() }
    }
}

/// The first packet of the server to a client that has a session; MQTT 3.1 does not say so.
fn present(version: Version) -> &'static str {
    if version == Version::V3_1 { "CONNACK" } else { "CONNACK present" }
}

/// A step, what the server sends at it, and what it sends to the client that comes back afterwards.
type Row = (Step, &'static [&'static str], &'static [&'static str]);

/// [MQTT-4.3.2-1] to [MQTT-4.3.2-3], [MQTT-4.3.3-1] to [MQTT-4.3.3-6], [MQTT-4.4.0-1], [MQTT-4.4.0-2], [MQTT-3.3.1-1], [MQTT311-3.3.1-1],
/// [MQTT311-4.3.2-1], [MQTT311-4.3.3-1], [MQTT311-4.4.0-1], [MQTT311-4.6.0-1], [MQTT-4.3.3-2], [MQTT-4.3.3-3], [MQTT-4.3.3-4],
/// [MQTT-4.3.3-5], [MQTT-4.3.2-2]
const TO_THE_CLIENT: &[(&str, &[Row])] = &[
    ("QoS 0", &[(Deliver("m", 0), &["PUBLISH q0 m"], &[])]),
    (
        "QoS 1",
        &[
            (Deliver("m", 1), &["PUBLISH 1 q1 m"], &["PUBLISH 1 q1 dup m"]),
            (A("PUBACK", 1), &[], &[]),
            // Twice: it is late.
            (A("PUBACK", 1), &[], &[]),
        ],
    ),
    (
        "QoS 1, refused",
        &[(Deliver("m", 1), &["PUBLISH 1 q1 m"], &["PUBLISH 1 q1 dup m"]), (Nack("PUBACK", 1), &[], &[])],
    ),
    (
        "QoS 2",
        &[
            (Deliver("m", 2), &["PUBLISH 1 q2 m"], &["PUBLISH 1 q2 dup m"]),
            (A("PUBREC", 1), &["PUBREL 1"], &["PUBREL 1"]),
            // The client did not get the PUBREL.
            (A("PUBREC", 1), &["PUBREL 1"], &["PUBREL 1"]),
            (A("PUBCOMP", 1), &[], &[]),
            (A("PUBCOMP", 1), &[], &[]),
        ],
    ),
    (
        "QoS 2, refused",
        &[(Deliver("m", 2), &["PUBLISH 1 q2 m"], &["PUBLISH 1 q2 dup m"]), (Nack("PUBREC", 1), &[], &[])],
    ),
    (
        "several, with more waiting than the window takes",
        &[
            (Deliver("a", 2), &["PUBLISH 1 q2 a"], &["PUBLISH 1 q2 dup a"]),
            (Deliver("b", 1), &["PUBLISH 2 q1 b"], &["PUBLISH 1 q2 dup a", "PUBLISH 2 q1 dup b"]),
            (Deliver("c", 2), &["PUBLISH 3 q2 c"], &["PUBLISH 1 q2 dup a", "PUBLISH 2 q1 dup b", "PUBLISH 3 q2 dup c"]),
            (Deliver("d", 1), &[], &["PUBLISH 1 q2 dup a", "PUBLISH 2 q1 dup b", "PUBLISH 3 q2 dup c"]),
            // It counts until PUBCOMP; on the next connection, whose window is new, a PUBREL does not.
            (
                A("PUBREC", 1),
                &["PUBREL 1"],
                &["PUBREL 1", "PUBLISH 2 q1 dup b", "PUBLISH 3 q2 dup c", "PUBLISH 4 q1 d"],
            ),
            (A("PUBACK", 2), &["PUBLISH 4 q1 d"], &["PUBREL 1", "PUBLISH 3 q2 dup c", "PUBLISH 4 q1 dup d"]),
            (A("PUBREC", 3), &["PUBREL 3"], &["PUBREL 1", "PUBREL 3", "PUBLISH 4 q1 dup d"]),
            (A("PUBCOMP", 1), &[], &["PUBREL 3", "PUBLISH 4 q1 dup d"]),
            (A("PUBACK", 4), &[], &["PUBREL 3"]),
            (A("PUBCOMP", 3), &[], &[]),
        ],
    ),
];

#[test]
fn to_the_client() {
    for version in Version::ALL {
        for &(name, rows) in TO_THE_CLIENT {
            if !version.is_v5() && rows.iter().any(|row| matches!(row.0, Nack(..))) {
                continue;
            }
            for deaths in 0..=rows.len() {
                let start = || {
                    let mut line = Line::new(version);
                    for &(step, sent, _) in &rows[..deaths] {
                        assert_eq!(line.run(step), sent, "{name}, {version}: {step:?}");
                    }
                    line
                };
                let expected = deaths.checked_sub(1).map_or(&[][..], |last| rows[last].2);
                let present = [&[present(version)][..], expected].concat();
                let mut line = start().resume();
                assert_eq!(line.peer.trace(), present, "{name}, {version}, after {deaths} steps");
                // It dies again before the client has answered.
                let mut line = line.resume();
                let again: Vec<_> = line.peer.trace().into_iter().collect();
                let again_expected: Vec<_> = present.iter().map(|sent| with_dup(sent)).collect();
                assert_eq!(again, again_expected, "{name}, {version}, after {deaths} steps, twice");
                finish(&mut line.peer, again);
                assert_eq!(line.peer.connection.session().messages(), (0, 0), "{name}, {version}");

                for clean_start in [false, true] {
                    let mut line = start().renew(clean_start);
                    assert_eq!(line.peer.trace(), ["CONNACK"], "{name}, {version}, after {deaths} steps");
                    assert_eq!(line.run(Deliver("new", 2)), ["PUBLISH 1 q2 new"]);
                }
            }
        }
    }
}

/// As it is sent again.
fn with_dup(sent: &str) -> String {
    if sent.starts_with("PUBLISH") && !sent.contains("dup") {
        let at = sent.rfind(' ').unwrap();
        format!("{} dup{}", &sent[..at], &sent[at..])
    } else {
        sent.to_owned()
    }
}

/// The client answers everything, and what comes after that.
fn finish(peer: &mut Peer, mut sent: Vec<String>) {
    while !sent.is_empty() {
        for line in &sent {
            let mut words = line.split(' ');
            let (kind, id) = (words.next().unwrap(), words.next().and_then(|id| id.parse().ok()));
            match (kind, id, words.next()) {
                ("PUBLISH", Some(id), Some("q1")) => peer.puback(id),
                ("PUBLISH", Some(id), Some("q2")) => peer.pubrec(id),
                ("PUBREL", Some(id), _) => peer.pubcomp(id),
                _ => {}
            }
        }
        sent = peer.trace();
    }
    assert_eq!(peer.closed(), None);
}

/// Here the third column is what the client that comes back sends, and what the server answers to it; whether that hands the message on
/// again is the fourth: never with QoS 2.
type PublishRow = (Step, &'static [&'static str], &'static [(Step, &'static [&'static str])], usize);

/// [MQTT-4.3.2-4], [MQTT-4.3.2-5], [MQTT-4.3.3-8], [MQTT-4.3.3-10], [MQTT-4.3.3-11], [MQTT-4.3.3-12], [MQTT311-4.3.2-2], [MQTT311-4.3.3-2]
const FROM_THE_CLIENT: &[(&str, &[PublishRow])] = &[
    (
        "QoS 1",
        &[
            // Handed on again: at least once.
            (P(1, 1), &[], &[(Repeat(1, 1), &[]), (Done, &["PUBACK 1"])], 1),
            (Done, &["PUBACK 1"], &[(Repeat(1, 1), &[]), (Done, &["PUBACK 1"])], 1),
        ],
    ),
    (
        "QoS 2",
        &[
            (Done, &["PUBREC 1"], &[(Repeat(1, 2), &["PUBREC 1"]), (A("PUBREL", 1), &["PUBCOMP 1"])], 0),
            (Repeat(1, 2), &["PUBREC 1"], &[(Repeat(1, 2), &["PUBREC 1"]), (A("PUBREL", 1), &["PUBCOMP 1"])], 0),
            // PUBREC has come, PUBREL was not sent or lost.
            (Repeat(1, 2), &["PUBREC 1"], &[(A("PUBREL", 1), &["PUBCOMP 1"])], 0),
            // PUBCOMP was lost.
            (A("PUBREL", 1), &["PUBCOMP 1"], &[(A("PUBREL", 1), &["PUBCOMP 1 unknown"])], 0),
        ],
    ),
];

#[test]
fn from_the_client() {
    for version in Version::ALL {
        let told = |expected: &'static str| match (expected, version) {
            ("PUBCOMP 1 unknown", V5) => "PUBCOMP 1 0x92",
            ("PUBCOMP 1 unknown", _) => "PUBCOMP 1",
            (expected, _) => expected,
        };
        for &(name, rows) in FROM_THE_CLIENT {
            for deaths in 1..=rows.len() {
                let mut line = Line::new(version);
                if name == "QoS 2" {
                    assert!(line.run(P(1, 2)).is_empty());
                }
                for &(step, sent, ..) in &rows[..deaths] {
                    assert_eq!(line.run(step), sent, "{name}, {version}: {step:?}");
                }
                let mut line = line.resume();
                assert_eq!(line.peer.trace(), [present(version)]);
                let (_, _, steps, again) = rows[deaths - 1];
                let before = line.peer.origins.next;
                for &(step, answers) in steps {
                    let expected: Vec<_> = answers.iter().map(|answer| told(answer)).collect();
                    assert_eq!(line.run(step), expected, "{name}, {version}, after {deaths}: {step:?}");
                }
                assert_eq!(line.peer.origins.next - before, again as u64, "{name}, {version}, after {deaths}");
                assert_eq!(line.peer.connection.session().unreleased(), 0);
            }
        }
        // The session is gone: what the client sends again is new, what it releases is unknown.
        for clean_start in [false, true] {
            let mut line = Line::new(version);
            line.run(P(1, 2));
            line.run(Done);
            let mut line = line.renew(clean_start);
            assert_eq!(line.peer.trace(), ["CONNACK"]);
            assert_eq!(line.run(A("PUBREL", 1)), [told("PUBCOMP 1 unknown")]);
            line.run(P(1, 2));
            assert_eq!(line.run(Done), ["PUBREC 1"]);
        }
    }
}

/// [MQTT-4.4.0-1]: while the connection lasts nothing is sent twice.
#[test]
fn nothing_is_sent_again_before_the_next_connection() {
    for version in Version::ALL {
        let mut line = Line::new(version);
        line.run(Deliver("a", 1));
        line.run(Deliver("b", 2));
        let peer = &mut line.peer;
        peer.now.ms += 50_000;
        peer.connection.on_timer(peer.now, &mut peer.out, &mut peer.actions);
        peer.connection.set_congested();
        peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
        peer.give(Packet::PingReq);
        assert_eq!(peer.trace(), ["PINGRESP"]);
    }
}

/// The wrong acknowledgement for where the exchange is. [MQTT-4.13.1-1]
#[test]
fn wrong_acknowledgements() {
    let table: &[(&[Step], Step)] = &[
        (&[Deliver("m", 1)], A("PUBREC", 1)),
        (&[Deliver("m", 1)], Nack("PUBREC", 1)),
        (&[Deliver("m", 1)], A("PUBCOMP", 1)),
        (&[Deliver("m", 2)], A("PUBACK", 1)),
        (&[Deliver("m", 2)], A("PUBCOMP", 1)),
        (&[Deliver("m", 2), A("PUBREC", 1)], A("PUBACK", 1)),
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
            let expected: &[&str] = if version.is_v5() { &["DISCONNECT 0x82"] } else { &[] };
            assert_eq!(line.run(*wrong), expected, "{wrong:?}");
            assert!(line.peer.connection.is_closed());
        }
    }
}

/// [MQTT-3.3.4-10], [MQTT-4.9.0-3]: PUBREL does not wait for room in the window.
#[test]
fn releases_pass_the_window() {
    let limits = SessionLimits { max_in_flight: 3, ..SessionLimits::default() };
    let mut peer = Peer::open(V5, limits, &properties(&[Property::SessionExpiryInterval(60)]), None);
    for (payload, qos) in [("a", QoS::AtLeastOnce), ("b", QoS::AtLeastOnce), ("c", QoS::ExactlyOnce)] {
        peer.deliver(&message(payload, qos), &at(qos));
    }
    peer.pubrec(3);
    let session = peer.lose();
    let narrow = SessionLimits { max_in_flight: 1, ..SessionLimits::default() };
    let mut peer = Peer::connecting(V5, narrow);
    peer.opened(OpenResult::Accepted { session: Some(session) });
    assert_eq!(peer.trace(), ["CONNACK present", "PUBLISH 1 q1 dup a", "PUBREL 3"]);
    peer.pubcomp(3);
    assert!(peer.out.is_empty(), "it did not count");
    peer.puback(1);
    assert_eq!(peer.trace(), ["PUBLISH 2 q1 dup b"]);
    // An answer that comes before the packet is sent again.
    let mut peer = peer.reconnect();
    peer.out.clear();
    peer.puback(2);
    assert_eq!(peer.connection.session().messages(), (0, 0));
}

/// [MQTT-4.3.3-7], [MQTT-3.3.2-5], [MQTT-4.3.3-13]
#[test]
fn a_message_that_was_sent_does_not_expire() {
    let limits = SessionLimits { max_in_flight: 1, ..SessionLimits::default() };
    let mut peer = Peer::open(V5, limits, &PropertiesBuf::new(), None);
    let until = peer.now.unix_ms + 1_000;
    for payload in ["sent", "waits"] {
        let publish = Publish { payload: payload.as_bytes(), ..publish("t", QoS::ExactlyOnce, 1) };
        let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "p", 0, Some(until)).unwrap();
        peer.deliver(&message, &at(QoS::ExactlyOnce));
    }
    peer.now.unix_ms += 5_000;
    let mut peer = peer.reconnect();
    assert_eq!(peer.trace(), ["CONNACK present", "PUBLISH 1 q2 dup sent"]);
    peer.pubrec(1);
    peer.pubcomp(1);
    assert_eq!(peer.trace(), ["PUBREL 1"]);
    assert_eq!(peer.connection.session().messages(), (0, 0));
}
