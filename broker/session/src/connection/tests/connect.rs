use raftmq_mqtt::{DecodeError, PacketType, Will};

use super::*;

fn will(qos: QoS, retain: bool) -> Option<Will<'static>> {
    Some(Will { qos, retain, topic: "w", payload: b"gone", properties: Properties::EMPTY })
}

/// The request of a CONNECT, or the bytes that refuse it.
fn try_connect(limits: SessionLimits, connect: Connect<'_>) -> Result<Box<OpenRequest>, Vec<u8>> {
    let mut peer = Peer::new(limits);
    peer.give(Packet::Connect(Box::new(connect)));
    match peer.actions.pop().unwrap() {
        Action::Open(request) => {
            assert!(peer.out.is_empty() && !peer.connection.can_read());
            Ok(request)
        }
        Action::Close { .. } => {
            // What comes behind it is not looked at.
            peer.actions.retain(|action| !matches!(action, Action::LimitMet(_)));
            let refused = peer.out.clone();
            assert!(!peer.connection.can_read());
            peer.give(Packet::PingReq);
            assert_eq!((&peer.out, peer.actions.len()), (&refused, 0));
            assert!(peer.connection.into_state().is_none());
            Err(refused)
        }
        other => panic!("{other:?}"),
    }
}

/// [MQTT-3.1.3-8], [MQTT-3.1.4-2], [MQTT-3.1.4-6], [MQTT311-3.1.4-5], [MQTT-3.2.2-19], [MQTT-3.2.2-20], [MQTT-3.2.2-6], [MQTT-3.2.2-7], [MQTT-3.2.2-8], [MQTT-3.2.2-12], [MQTT-3.2.2-13], [MQTT311-3.1.3-7],
/// [MQTT311-3.1.3-8], [MQTT311-3.1.3-9], [MQTT311-3.2.2-4], [MQTT311-3.2.2-5]
#[test]
fn what_is_refused() {
    let less = SessionLimits { max_qos: QoS::AtLeastOnce, retain_available: false, ..SessionLimits::default() };
    let checking = SessionLimits { check_payload_format: true, ..SessionLimits::default() };
    let all = SessionLimits::default();
    let long = "x".repeat(2_000);
    let text = properties(&[Property::PayloadFormatIndicator(1)]);
    let not_text =
        Some(Will { payload: &[0xFF], properties: text.as_properties(), ..will(QoS::AtMostOnce, false).unwrap() });
    let (v3, v4, v5) = (connect(Version::V3_1), connect(V4), connect(V5));
    let table: Vec<(&SessionLimits, Connect<'_>, &[u8])> = vec![
        (&all, Connect { client_id: "", ..v3.clone() }, &[0x20, 2, 0, 2]),
        (&all, Connect { client_id: "123456789012345678901234", ..v3.clone() }, &[0x20, 2, 0, 2]),
        (&all, Connect { client_id: "", clean_start: false, ..v4.clone() }, &[0x20, 2, 0, 2]),
        (&all, Connect { client_id: &long, ..v4.clone() }, &[0x20, 2, 0, 2]),
        (&all, Connect { client_id: &long, ..v5.clone() }, &[0x20, 3, 0, 0x85, 0]),
        (&less, Connect { will: will(QoS::ExactlyOnce, false), ..v5.clone() }, &[0x20, 3, 0, 0x9B, 0]),
        (&less, Connect { will: will(QoS::AtMostOnce, true), ..v5.clone() }, &[0x20, 3, 0, 0x9A, 0]),
        (&checking, Connect { will: not_text, ..v5.clone() }, &[0x20, 3, 0, 0x99, 0]),
    ];
    for (limits, connect, expected) in table {
        let refused = try_connect(limits.clone(), connect.clone()).unwrap_err();
        assert_eq!(refused, expected, "{connect:?}");
    }
    // What an MQTT 3 client cannot know is no reason.
    let request = try_connect(less, Connect { will: will(QoS::ExactlyOnce, true), ..v4 }).unwrap();
    let will = request.will.unwrap();
    assert_eq!((will.qos, will.retain), (QoS::AtLeastOnce, false));
}

/// [MQTT-3.1.3-5], [MQTT311-3.1.3-5]
#[test]
fn client_identifiers_that_must_be_taken() {
    for version in Version::ALL {
        for id in
            ["0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ", "äöüäöüäöüäöüäöüäöüäöüäö"]
        {
            let request = try_connect(SessionLimits::default(), Connect { client_id: id, ..connect(version) }).unwrap();
            assert_eq!((&*request.client_id, request.assigned), (id, false));
        }
    }
}

/// [MQTT-3.1.3-2], [MQTT311-3.1.2-12], [MQTT311-3.1.3-2], [MQTT-3.1.2-7], [MQTT-3.1.3-6], [MQTT-3.2.2-22], [MQTT311-3.1.2-4], [MQTT311-3.1.2-6], [MQTT311-3.1.3-6]
#[test]
fn what_is_asked_of_the_server() {
    let limits = SessionLimits { max_session_expiry_s: 100, max_keep_alive_s: 30, ..SessionLimits::default() };
    let password = Some(&b"secret-word"[..]);
    let with = Connect { username: Some("user"), password, will: will(QoS::ExactlyOnce, true), ..connect(V4) };
    let request = try_connect(limits.clone(), with).unwrap();
    assert_eq!((request.session_expiry_s, request.keep_alive_s, request.clean_start), (0, 60, true));
    assert_eq!(request.password.as_ref().unwrap().expose(), b"secret-word");
    let will = request.will.as_ref().unwrap();
    assert_eq!((&*will.topic, &*will.payload, will.qos, will.retain), ("w", &b"gone"[..], QoS::ExactlyOnce, true));
    assert_eq!(&*request.client_id, "client");
    let debug = format!("{request:?}");
    assert!(!debug.contains("secret") && !debug.contains("115, 101"), "{debug}");

    let request = try_connect(limits.clone(), Connect { clean_start: false, ..connect(V4) }).unwrap();
    assert_eq!(request.session_expiry_s, 100);
    assert!(request.will.is_none());
    let request = try_connect(limits.clone(), Connect { clean_start: false, ..connect(V5) }).unwrap();
    assert_eq!((request.session_expiry_s, request.keep_alive_s), (0, 30));
    let request = try_connect(limits, Connect { client_id: "", ..connect(V4) }).unwrap();
    assert_eq!((&*request.client_id, request.assigned), ("auto-07070707070707070707070707070707", true));
}

/// What is asked for, what comes of it, what CONNACK tells of it, and what DISCONNECT can still make of it.
#[test]
fn a_session_expiry_is_brought_within_its_bounds_but_for_none() {
    let limits = SessionLimits { min_session_expiry_s: 60, max_session_expiry_s: 100, ..SessionLimits::default() };
    for (asked, given, told) in [
        (None, 0, None),
        (Some(0), 0, None),
        (Some(1), 60, Some(60)),
        (Some(59), 60, Some(60)),
        (Some(60), 60, None),
        (Some(100), 100, None),
        (Some(101), 100, Some(100)),
        (Some(u32::MAX), 100, Some(100)),
    ] {
        let list = asked.map(Property::SessionExpiryInterval);
        let asked_for = properties(list.as_slice());
        let with = || Connect { properties: asked_for.as_properties(), ..connect(V5) };
        assert_eq!(try_connect(limits.clone(), with()).unwrap().session_expiry_s, given, "{asked:?}");
        connack(limits.clone(), with(), |properties| {
            assert_eq!(properties.session_expiry_interval(), told, "{asked:?}")
        });
    }
    for (clean_start, given) in [(true, 0), (false, 100)] {
        assert_eq!(
            try_connect(limits.clone(), Connect { clean_start, ..connect(V4) }).unwrap().session_expiry_s,
            given
        );
    }
    let expiring = properties(&[Property::SessionExpiryInterval(80)]);
    for (asked, given) in [(0, 0), (5, 60), (70, 70), (500, 100)] {
        let mut peer = Peer::open(V5, limits.clone(), &expiring, None);
        let changed = properties(&[Property::SessionExpiryInterval(asked)]);
        let (reason, properties) = (ReasonCode::Success, changed.as_properties());
        peer.give(Packet::Disconnect(Disconnect { reason, properties }));
        assert_eq!(peer.end().expiry_s(), given, "{asked}");
    }
}

/// The properties of a successful CONNACK, given to `check`.
fn connack(limits: SessionLimits, connect: Connect<'_>, check: impl FnOnce(Properties<'_>)) {
    let mut peer = Peer::new(limits);
    peer.give(Packet::Connect(Box::new(connect)));
    peer.opened(OpenResult::Accepted { session: None });
    let decoded = decode(&peer.out, Some(V5), &Limits::default()).unwrap();
    let Decoded::Packet { packet: Packet::ConnAck(ack), consumed } = decoded else { panic!() };
    assert_eq!((ack.session_present, ack.reason, consumed), (false, ReasonCode::Success, peer.out.len()));
    check(ack.properties);
    assert!(peer.connection.is_open() && peer.connection.can_read());
}

/// [MQTT-3.1.3-7], [MQTT-3.1.4-5], [MQTT-3.2.0-1], [MQTT-3.2.2-9], [MQTT-3.2.2-16], [MQTT-4.12.0-6]
#[test]
fn connack_says_what_there_is() {
    let limits = SessionLimits { max_session_expiry_s: 100, max_keep_alive_s: 30, ..SessionLimits::default() };
    let asked = properties(&[Property::SessionExpiryInterval(u32::MAX)]);
    let with = Connect { client_id: "", properties: asked.as_properties(), ..connect(V5) };
    connack(limits, with, |told| {
        assert_eq!(told.session_expiry_interval(), Some(100));
        assert_eq!(told.server_keep_alive(), Some(30));
        assert_eq!(told.assigned_client_identifier(), Some("auto-07070707070707070707070707070707"));
        assert_eq!((told.receive_maximum(), told.maximum_packet_size()), (Some(1_024), Some(1_048_576)));
        assert_eq!(told.topic_alias_maximum(), Some(32));
        // What is there is not said.
        assert_eq!(
            (told.maximum_qos(), told.retain_available(), told.shared_subscription_available()),
            (None, None, None)
        );
        assert_eq!((told.wildcard_subscription_available(), told.subscription_identifier_available()), (None, None));
        assert_eq!((told.response_information(), told.authentication_method()), (None, None));
    });
    let none = SessionLimits {
        max_qos: QoS::AtMostOnce,
        retain_available: false,
        wildcard_available: false,
        shared_available: false,
        sub_ids_available: false,
        max_topic_aliases: 0,
        ..SessionLimits::default()
    };
    connack(none, connect(V5), |told| {
        assert_eq!((told.maximum_qos(), told.retain_available()), (Some(0), Some(0)));
        assert_eq!(told.shared_subscription_available(), Some(0));
        assert_eq!(
            (told.wildcard_subscription_available(), told.subscription_identifier_available()),
            (Some(0), Some(0))
        );
        assert_eq!((told.topic_alias_maximum(), told.assigned_client_identifier()), (None, None));
        assert_eq!((told.session_expiry_interval(), told.server_keep_alive()), (None, None));
    });
}

/// [MQTT-3.1.2-28]
#[test]
fn response_information_is_for_those_who_ask() {
    let limits = SessionLimits { response_information: Some("answers/".into()), ..SessionLimits::default() };
    let asking = Property::RequestResponseInformation(1);
    for (asked, expected) in [
        (properties(&[]), None),
        (properties(&[Property::RequestResponseInformation(0)]), None),
        (properties(&[asking]), Some("answers/")),
        // Without it, CONNACK is small enough.
        (properties(&[asking, Property::MaximumPacketSize(20)]), None),
    ] {
        let with = Connect { properties: asked.as_properties(), ..connect(V5) };
        connack(limits.clone(), with, |told| assert_eq!(told.response_information(), expected, "{asked:?}"));
    }
}

/// [MQTT311-3.1.4-4], [MQTT311-3.2.2-2], [MQTT311-3.2.2-3]
#[test]
fn connack_of_older_versions() {
    for (version, session, expected) in
        [(Version::V3_1, true, [0x20, 2, 0, 0]), (V4, true, [0x20, 2, 1, 0]), (V4, false, [0x20, 2, 0, 0])]
    {
        let mut peer = Peer::new(SessionLimits::default());
        peer.give(Packet::Connect(Box::new(Connect { clean_start: false, ..connect(version) })));
        peer.opened(OpenResult::Accepted { session: session.then(Box::default) });
        assert_eq!(peer.out, expected, "{version}");
    }
}

/// [MQTT-3.1.4-4], [MQTT311-3.1.2-4], [MQTT311-3.1.2-6], [MQTT311-3.1.4-3], [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT-3.2.0-2], [MQTT-3.2.2-2], [MQTT-3.2.2-3], [MQTT311-3.2.2-1]
#[test]
fn session_present() {
    for (version, clean_start, known, present) in
        [(V4, true, true, false), (V5, true, true, false), (V5, false, true, true), (V5, false, false, false)]
    {
        let mut old = Peer::simple(version);
        old.deliver(&message("m", QoS::AtLeastOnce), &at(QoS::AtLeastOnce));
        let session = old.lose();
        let mut peer = Peer::new(SessionLimits::default());
        peer.give(Packet::Connect(Box::new(Connect { clean_start, ..connect(version) })));
        peer.opened(OpenResult::Accepted { session: known.then_some(session) });
        let expected: &[&str] = if present { &["CONNACK present", "PUBLISH 1 q1 dup m"] } else { &["CONNACK"] };
        assert_eq!(peer.trace(), expected, "{version} {clean_start} {known}");
        // A late second answer.
        peer.opened(OpenResult::Accepted { session: None });
        assert!(peer.out.is_empty());
    }
}

/// [MQTT-3.2.2-6], [MQTT-3.2.2-7], [MQTT-3.2.2-8], [MQTT311-3.2.2-4], [MQTT311-3.2.2-5], [MQTT311-3.2.2-6]
#[test]
fn the_server_refuses() {
    let table: [(Version, ReasonCode, &[u8]); 6] = [
        (V4, ReasonCode::BadUserNameOrPassword, &[0x20, 2, 0, 4]),
        (V4, ReasonCode::NotAuthorized, &[0x20, 2, 0, 5]),
        (V4, ReasonCode::ServerShuttingDown, &[0x20, 2, 0, 3]),
        (V4, ReasonCode::PayloadFormatInvalid, &[]),
        (V5, ReasonCode::NotAuthorized, &[0x20, 3, 0, 0x87, 0]),
        (V5, ReasonCode::SessionTakenOver, &[0x20, 3, 0, 0x88, 0]),
    ];
    for (version, reason, expected) in table {
        let mut peer = Peer::new(SessionLimits::default());
        peer.give(Packet::Connect(Box::new(connect(version))));
        peer.opened(OpenResult::Refused(reason));
        assert_eq!(peer.out, expected, "{reason}");
        assert_eq!(peer.closed(), Some(CloseReason::Refused(reason)));
        // A late second answer.
        peer.opened(OpenResult::Accepted { session: None });
        assert!(peer.connection.is_closed());
    }
}

/// [MQTT-3.2.2-19]
#[test]
fn the_server_refuses_with_words_for_who_takes_them() {
    let plain = |reason| Packet::ConnAck(ConnAck { session_present: false, reason, properties: Properties::EMPTY });
    let said = properties(&[Property::ReasonString("too much")]);
    let asks_not = properties(&[Property::RequestProblemInformation(0)]);
    let small = properties(&[Property::MaximumPacketSize(12)]);
    let large = properties(&[Property::MaximumPacketSize(16)]);
    let none = PropertiesBuf::new();
    for reason in [ReasonCode::ServerBusy, ReasonCode::QuotaExceeded] {
        for (version, asked, words) in
            [(V5, &none, true), (V5, &large, true), (V5, &small, false), (V5, &asks_not, false), (V4, &none, false)]
        {
            let mut peer = Peer::new(SessionLimits::default());
            peer.give(Packet::Connect(Box::new(Connect { properties: asked.as_properties(), ..connect(version) })));
            peer.opened(OpenResult::RefusedSaying(reason, "too much"));
            let mut expected = Vec::new();
            if version == V4 {
                expected.extend([0x20, 2, 0, 3]);
            } else if words {
                let packet = ConnAck { session_present: false, reason, properties: said.as_properties() };
                encode(&Packet::ConnAck(packet), version, &mut expected).unwrap();
            } else {
                encode(&plain(reason), version, &mut expected).unwrap();
            }
            assert_eq!(peer.out, expected, "{reason} {version:?} {asked:?}");
            assert_eq!(peer.closed(), Some(CloseReason::Refused(reason)));
        }
    }
}

/// A server without a quorum says so where the client can be told: [MQTT-3.2.2-20].
#[test]
fn a_connection_of_a_node_that_serves_alone_is_told_so() {
    for (version, most, told) in [(V5, None, true), (V5, Some(24), false), (V4, None, false)] {
        let mut peer = Peer::new(SessionLimits::default());
        let asked = properties(&most.map(|most| vec![Property::MaximumPacketSize(most)]).unwrap_or_default());
        peer.give(Packet::Connect(Box::new(Connect { properties: asked.as_properties(), ..connect(version) })));
        peer.opened(OpenResult::AcceptedLocal { session: None });
        let Decoded::Packet { packet: Packet::ConnAck(connack), .. } =
            decode(&peer.out, Some(version), &Limits::default()).unwrap()
        else {
            panic!("{:?}", peer.out);
        };
        assert_eq!(connack.reason, ReasonCode::Success);
        let found = connack.properties.iter().any(|property| property == Property::UserProperty(crate::SERVING_LOCAL));
        assert_eq!(found, told, "{version:?} {most:?}");
        assert!(peer.closed().is_none());
    }
}

/// [MQTT-3.1.0-1], [MQTT-3.1.2-1], [MQTT-3.1.2-2], [MQTT-3.1.4-1], [MQTT311-3.1.0-1], [MQTT311-3.1.2-1], [MQTT311-3.1.2-2], [MQTT311-3.1.4-1]
#[test]
fn what_is_no_connect() {
    let field = DecodeError::TrailingBytes { packet: PacketType::Connect, count: 1 };
    let table: [(DecodeError, Option<Version>, &[u8]); 6] = [
        (DecodeError::ProtocolLevel { level: 1 }, None, &[0x20, 2, 0, 1]),
        (DecodeError::ProtocolLevel { level: 6 }, None, &[0x20, 3, 0, 0x84, 0]),
        (DecodeError::ProtocolName, None, &[]),
        (DecodeError::ConnectExpected { packet: PacketType::PingReq }, None, &[]),
        (field, Some(V4), &[]),
        (field, Some(V5), &[0x20, 3, 0, 0x81, 0]),
    ];
    for (error, version, expected) in table {
        let mut peer = Peer::new(SessionLimits::default());
        peer.connection.on_decode_error(&error, version, &mut peer.out, &mut peer.actions);
        assert_eq!(peer.out, expected, "{error}");
        assert!(matches!(peer.closed(), Some(CloseReason::Refused(_))));
    }
    let mut peer = Peer::new(SessionLimits::default());
    peer.give(Packet::PingReq);
    assert_eq!((peer.out.len(), peer.closed()), (0, Some(CloseReason::Refused(ReasonCode::ProtocolError))));
}

/// [MQTT-3.1.2-22], [MQTT-3.12.4-1], [MQTT311-3.1.2-24], [MQTT311-3.12.4-1]
#[test]
fn time_passes() {
    let mut peer = Peer::new(SessionLimits::default());
    assert_eq!(peer.connection.next_deadline(), Some(11_000));
    peer.now.ms = 11_000;
    peer.connection.on_timer(peer.now, &mut peer.out, &mut peer.actions);
    assert_eq!(peer.closed(), Some(CloseReason::ConnectTimeout));
    assert!(peer.out.is_empty());

    for (version, expected) in [(V4, None), (V5, Some(ReasonCode::KeepAliveTimeout))] {
        let mut peer = Peer::simple(version);
        assert_eq!(peer.connection.next_deadline(), Some(91_000));
        peer.now.ms = 90_999;
        peer.connection.on_timer(peer.now, &mut peer.out, &mut peer.actions);
        peer.give(Packet::PingReq);
        assert_eq!(peer.sent(), ["PingResp"]);
        peer.out.clear();
        assert_eq!(peer.connection.next_deadline(), Some(180_999));
        peer.now.ms = 180_999;
        peer.connection.on_timer(peer.now, &mut peer.out, &mut peer.actions);
        assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::KeepAliveTimeout)));
        assert!(peer.closed().unwrap().publishes_will());
        assert_eq!(peer.told(), expected);
    }
}

/// [MQTT-3.1.0-2], [MQTT-3.14.2-1], [MQTT-3.14.4-1], [MQTT-3.14.4-2], [MQTT-4.13.2-1], [MQTT-4.12.0-7], [MQTT-4.13.1-1], [MQTT311-3.1.0-2], [MQTT311-4.8.0-1]
#[test]
fn packets_out_of_place() {
    let table: [Packet<'_>; 4] = [
        Packet::Connect(Box::new(connect(V5))),
        Packet::PingResp,
        Packet::ConnAck(raftmq_mqtt::ConnAck {
            session_present: false,
            reason: ReasonCode::Success,
            properties: Properties::EMPTY,
        }),
        Packet::Auth(raftmq_mqtt::Auth { reason: ReasonCode::ReAuthenticate, properties: Properties::EMPTY }),
    ];
    for packet in table {
        for (version, expected) in [(V4, None), (V5, Some(ReasonCode::ProtocolError))] {
            let mut peer = Peer::simple(version);
            peer.give(packet.clone());
            assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::ProtocolError)), "{packet:?}");
            assert_eq!(peer.told(), expected);
            // What comes after the end has no effect.
            peer.give(Packet::PingReq);
            assert_eq!(peer.told(), expected);
        }
    }
}

/// [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-4.3.3-11], [MQTT311-4.3.3-2]
#[test]
fn exchanges_that_nobody_knows_are_brought_to_an_end() {
    for (version, expected) in [
        (Version::V3_1, ["PUBCOMP 1", "PUBREL 1"]),
        (V4, ["PUBCOMP 1", "PUBREL 1"]),
        (V5, ["PUBCOMP 1 0x92", "PUBREL 1 0x92"]),
    ] {
        let mut peer = Peer::simple(version);
        peer.pubrel(1);
        peer.pubrec(1);
        peer.pubcomp(1);
        peer.puback(1);
        assert_eq!(peer.trace(), expected);
        assert_eq!(peer.closed(), None);
    }
    let mut peer = Peer::simple(V5);
    let refused = Ack { reason: ReasonCode::QuotaExceeded, ..Ack::success(id_of(1)) };
    peer.give(Packet::PubRec(refused));
    assert!(peer.out.is_empty(), "it ends there");
}

/// [MQTT-3.1.2-23], [MQTT-3.1.2-8], [MQTT-3.14.0-1], [MQTT-3.14.2-2], [MQTT-3.14.4-3], [MQTT-4.1.0-2], [MQTT-4.13.2-1], [MQTT311-3.1.2-8],
/// [MQTT311-3.14.4-3]
#[test]
fn the_ways_out() {
    let disconnect = |peer: &mut Peer, reason, expiry: Option<u32>| {
        let list = expiry.map(Property::SessionExpiryInterval);
        let properties = properties(list.as_slice());
        peer.give(Packet::Disconnect(Disconnect { reason, properties: properties.as_properties() }));
    };
    let expiring = properties(&[Property::SessionExpiryInterval(50)]);
    let open =
        || Peer::open(V5, SessionLimits { max_session_expiry_s: 100, ..SessionLimits::default() }, &expiring, None);

    // All the while it was kept. [MQTT-4.1.0-1], [MQTT311-4.1.0-1], [MQTT311-4.1.0-2]
    let mut peer = Peer::simple(V4);
    peer.deliver(&message("m", QoS::AtLeastOnce), &at(QoS::AtLeastOnce));
    disconnect(&mut peer, ReasonCode::Success, None);
    let (id, session) = peer.connection.into_state().unwrap();
    assert_eq!((&*id, session.messages()), ("client", (1, 0)));

    let mut peer = open();
    disconnect(&mut peer, ReasonCode::NORMAL_DISCONNECTION, None);
    assert!(!peer.closed().unwrap().publishes_will() && peer.out.is_empty());
    assert_eq!(peer.end().expiry_s(), 50);

    let mut peer = open();
    disconnect(&mut peer, ReasonCode::DisconnectWithWill, Some(1_000));
    assert!(peer.closed().unwrap().publishes_will());
    assert_eq!(peer.end().expiry_s(), 100);

    let mut peer = open();
    disconnect(&mut peer, ReasonCode::Success, Some(0));
    assert_eq!(peer.end().expiry_s(), 0);

    let mut peer = Peer::simple(V5);
    disconnect(&mut peer, ReasonCode::Success, Some(5));
    assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::ProtocolError)));
    assert_eq!(peer.end().expiry_s(), 0);

    // It asked for more than there is: that is no error later either.
    let mut peer =
        Peer::open(V5, SessionLimits { max_session_expiry_s: 0, ..SessionLimits::default() }, &expiring, None);
    disconnect(&mut peer, ReasonCode::Success, Some(5));
    assert_eq!((peer.closed(), peer.end().expiry_s()), (Some(CloseReason::Client(ReasonCode::Success)), 0));

    let mut peer = Peer::simple(V4);
    disconnect(&mut peer, ReasonCode::Success, None);
    assert!(!peer.closed().unwrap().publishes_will());

    for (version, expected) in [(V4, None), (V5, Some(ReasonCode::SessionTakenOver))] {
        let mut peer = Peer::simple(version);
        peer.connection.close(CloseReason::Server(ReasonCode::SessionTakenOver), &mut peer.out);
        assert_eq!(peer.told(), expected);
        assert!(peer.connection.is_closed() && peer.actions.is_empty());
    }
    let mut peer = Peer::new(SessionLimits::default());
    peer.give(Packet::Connect(Box::new(connect(V5))));
    peer.connection.close(CloseReason::Server(ReasonCode::ServerShuttingDown), &mut peer.out);
    assert_eq!(peer.out, [0x20, 3, 0, 0x88, 0]);
    assert!(peer.connection.into_state().is_none());
}

/// [MQTT-3.1.2-14], [MQTT-3.1.2-15], [MQTT-3.1.3-10], [MQTT311-3.1.2-16], [MQTT311-3.1.2-17]
#[test]
fn the_message_of_a_will() {
    let list = [
        Property::UserProperty(("a", "1")),
        Property::WillDelayInterval(30),
        Property::MessageExpiryInterval(60),
        Property::UserProperty(("a", "2")),
    ];
    let own = properties(&list);
    for retain in [false, true] {
        let with = Some(Will { properties: own.as_properties(), ..will(QoS::ExactlyOnce, retain).unwrap() });
        let request = try_connect(SessionLimits::default(), Connect { will: with, ..connect(V5) }).unwrap();
        let will = request.will.unwrap();
        assert_eq!(will.delay_s(), 30);
        let now = Now { ms: 0, unix_ms: 1_000 };
        let message = will.message(Origin { node: 1, sequence: 7 }, "client", now).unwrap();
        assert_eq!((message.topic(), message.payload(), message.qos()), ("w", &b"gone"[..], QoS::ExactlyOnce));
        assert_eq!((message.retain(), message.expires_at_ms()), (retain, Some(61_000)));
        assert_eq!(message.properties().user_properties().collect::<Vec<_>>(), [("a", "1"), ("a", "2")]);
    }
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Connection>() <= 336, "{}", size_of::<Connection>());
    assert!(size_of::<SessionState>() <= 152, "{}", size_of::<SessionState>());
    // What few clients use is not there before they use it.
    let idle = Peer::simple(V5).connection;
    assert!(idle.aliases.is_none() && idle.aliases_out.is_none() && idle.auth.is_none() && idle.durable.is_none());
    assert!(idle.state.received().is_none());
}

/// [MQTT-3.1.2-29], [MQTT-3.14.2-3]
#[test]
fn reasons_for_people() {
    let error = DecodeError::ZeroPacketId { packet: PacketType::Subscribe };
    let text = error.to_string();
    let quiet = properties(&[Property::RequestProblemInformation(0)]);
    let narrow = properties(&[Property::MaximumPacketSize(20)]);
    for (asked, said) in [(PropertiesBuf::new(), Some(&*text)), (quiet, None), (narrow, None)] {
        // A client that takes so little gets no CONNACK: this one grew tired afterwards.
        let mut peer = Peer::open(V5, SessionLimits::default(), &PropertiesBuf::new(), None);
        peer.connection.explain = asked.as_properties().request_problem_information() != Some(0);
        peer.connection.max_packet_size = asked.as_properties().maximum_packet_size().unwrap_or(u32::MAX);
        peer.connection.on_decode_error(&error, None, &mut peer.out, &mut peer.actions);
        assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::MalformedPacket)));
        let sent = decode(&peer.out, Some(V5), &Limits::default()).unwrap();
        let Decoded::Packet { packet: Packet::Disconnect(disconnect), .. } = sent else { panic!() };
        assert_eq!((disconnect.reason, disconnect.properties.reason_string()), (ReasonCode::MalformedPacket, said));
    }
}

/// [MQTT-3.1.2-24], [MQTT-3.14.0-1]
#[test]
fn a_client_that_takes_no_connack() {
    let mut peer = Peer::new(SessionLimits::default());
    let narrow = properties(&[Property::MaximumPacketSize(8)]);
    peer.give(Packet::Connect(Box::new(Connect { properties: narrow.as_properties(), ..connect(V5) })));
    peer.opened(OpenResult::Accepted { session: None });
    assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::PacketTooLarge)));
    assert!(peer.out.is_empty());
}
