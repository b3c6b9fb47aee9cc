//! Enhanced authentication (MQTT 5, 4.12).

use raftmq_mqtt::{Auth, PacketType};

use crate::{AuthKind, AuthStep, Secret};

use super::*;

const CONTINUE: ReasonCode = ReasonCode::ContinueAuthentication;
const AGAIN: ReasonCode = ReasonCode::ReAuthenticate;

/// After a CONNECT with a method and data.
fn connecting() -> Peer {
    let own = properties(&[Property::AuthenticationMethod("M"), Property::AuthenticationData(b"hello")]);
    let mut peer = Peer::new(SessionLimits::default());
    peer.give(Packet::Connect(Box::new(Connect { properties: own.as_properties(), ..connect(V5) })));
    peer
}

/// Connected after one exchange.
fn connected() -> Peer {
    let mut peer = connecting();
    peer.actions.clear();
    step(&mut peer, AuthStep::Success(Secret::new(b"welcome")));
    peer.actions.clear();
    peer.opened(OpenResult::Accepted { session: None });
    assert_eq!(peer.trace(), ["CONNACK"]);
    peer
}

fn step(peer: &mut Peer, step: AuthStep) {
    peer.connection.on_authenticated(peer.now, step, &mut peer.out, &mut peer.actions);
}

fn auth(peer: &mut Peer, reason: ReasonCode, method: &str, data: &[u8]) {
    let own = properties(&[Property::AuthenticationMethod(method), Property::AuthenticationData(data)]);
    peer.give(Packet::Auth(Auth { reason, properties: own.as_properties() }));
}

/// What the server was asked: the kind and the data; nothing else was.
fn asked(peer: &mut Peer) -> (AuthKind, Vec<u8>) {
    let actions = std::mem::take(&mut peer.actions);
    let [Action::Authenticate(request)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&*request.method, &*request.client_id), ("M", "client"));
    assert!(!format!("{request:?}").contains("104, 101"), "data are secret");
    (request.kind, request.data.expose().to_vec())
}

/// The one packet that was sent: its reason, method and data.
fn told(peer: &mut Peer) -> (PacketType, u8, Option<String>, Vec<u8>) {
    let mut found = Vec::new();
    each_packet(&std::mem::take(&mut peer.out), V5, |packet| {
        let (reason, properties) = match packet {
            Packet::Auth(auth) => (auth.reason, auth.properties),
            Packet::ConnAck(ack) => (ack.reason, ack.properties),
            Packet::Disconnect(disconnect) => (disconnect.reason, disconnect.properties),
            other => panic!("{other:?}"),
        };
        let data = properties.authentication_data().unwrap_or_default().to_vec();
        let method = properties.authentication_method().map(str::to_owned);
        found.push((packet.packet_type(), reason as u8, method, data));
    });
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn method() -> Option<String> {
    Some("M".to_owned())
}

/// [MQTT-3.1.2-30], [MQTT-3.1.4-6], [MQTT-3.2.0-1], [MQTT-3.15.2-1], [MQTT-4.12.0-2], [MQTT-4.12.0-3], [MQTT-4.12.0-5]
#[test]
fn at_connect() {
    let mut peer = connecting();
    assert_eq!(asked(&mut peer), (AuthKind::Connect, b"hello".to_vec()));
    assert!(!peer.connection.can_read() && peer.connection.next_deadline().is_none());
    // Nothing is opened before it is authenticated.
    peer.opened(OpenResult::Accepted { session: None });
    assert!(peer.out.is_empty());
    peer.now.ms += 5_000;
    step(&mut peer, AuthStep::Continue(Secret::new(b"who?")));
    assert_eq!(told(&mut peer), (PacketType::Auth, 0x18, method(), b"who?".to_vec()));
    assert!(peer.connection.can_read());
    assert_eq!(peer.connection.next_deadline(), Some(peer.now.ms + 10_000));
    auth(&mut peer, CONTINUE, "M", b"me");
    assert_eq!(asked(&mut peer), (AuthKind::Continue, b"me".to_vec()));
    // Twice is no answer.
    step(&mut peer, AuthStep::Success(Secret::new(b"welcome")));
    step(&mut peer, AuthStep::Refused(ReasonCode::NotAuthorized));
    let [Action::Open(request)] = &peer.actions[..] else { panic!("{:?}", peer.actions) };
    assert_eq!(request.auth_method, method().map(Into::into));
    peer.actions.clear();
    peer.opened(OpenResult::Accepted { session: None });
    assert_eq!(told(&mut peer), (PacketType::ConnAck, 0, method(), b"welcome".to_vec()));
}

/// [MQTT-4.12.0-1], [MQTT-4.12.0-4], [MQTT-4.13.2-1]
#[test]
fn refused_at_connect() {
    for (steps, reason) in [(0, ReasonCode::BadAuthenticationMethod), (1, ReasonCode::NotAuthorized)] {
        let mut peer = connecting();
        for _ in 0..steps {
            step(&mut peer, AuthStep::Continue(Secret::default()));
            assert_eq!(told(&mut peer), (PacketType::Auth, 0x18, method(), Vec::new()));
            auth(&mut peer, CONTINUE, "M", b"wrong");
        }
        peer.actions.clear();
        step(&mut peer, AuthStep::Refused(reason));
        assert_eq!(told(&mut peer), (PacketType::ConnAck, reason as u8, None, Vec::new()));
        assert_eq!(peer.closed(), Some(CloseReason::Refused(reason)));
        assert!(peer.connection.into_state().is_none());
    }
}

/// [MQTT-3.1.2-30], [MQTT-4.12.0-3], [MQTT-4.12.0-5]
#[test]
fn what_is_no_answer_at_connect() {
    let faults: [fn(&mut Peer); 4] = [
        |peer| auth(peer, CONTINUE, "N", b""),
        |peer| auth(peer, AGAIN, "M", b""),
        |peer| auth(peer, ReasonCode::Success, "M", b""),
        |peer| peer.give(Packet::PingReq),
    ];
    for fault in faults {
        let mut peer = connecting();
        step(&mut peer, AuthStep::Continue(Secret::default()));
        peer.out.clear();
        peer.actions.clear();
        fault(&mut peer);
        assert_eq!(told(&mut peer), (PacketType::ConnAck, 0x82, None, Vec::new()));
        assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::ProtocolError)));
    }
    let mut peer = connecting();
    step(&mut peer, AuthStep::Continue(Secret::default()));
    peer.out.clear();
    peer.actions.clear();
    peer.give(Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY }));
    assert_eq!((peer.out.len(), peer.closed()), (0, Some(CloseReason::Client(ReasonCode::Success))));

    let mut peer = connecting();
    step(&mut peer, AuthStep::Continue(Secret::default()));
    peer.actions.clear();
    peer.now.ms += 10_000;
    peer.connection.on_timer(peer.now, &mut peer.out, &mut peer.actions);
    assert_eq!(peer.closed(), Some(CloseReason::ConnectTimeout));
}

/// [MQTT-4.12.1-1]
#[test]
fn again() {
    let mut peer = connected();
    for steps in [0, 2] {
        auth(&mut peer, AGAIN, "M", b"hello");
        assert_eq!(asked(&mut peer), (AuthKind::Reauthenticate, b"hello".to_vec()));
        for _ in 0..steps {
            step(&mut peer, AuthStep::Continue(Secret::new(b"who?")));
            assert_eq!(told(&mut peer), (PacketType::Auth, 0x18, method(), b"who?".to_vec()));
            // The connection is used meanwhile.
            peer.give(Packet::PingReq);
            assert_eq!(peer.trace(), ["PINGRESP"]);
            auth(&mut peer, CONTINUE, "M", b"me");
            assert_eq!(asked(&mut peer), (AuthKind::Continue, b"me".to_vec()));
        }
        step(&mut peer, AuthStep::Success(Secret::new(b"still")));
        assert_eq!(told(&mut peer), (PacketType::Auth, 0, method(), b"still".to_vec()));
        assert_eq!(peer.closed(), None);
    }
}

/// [MQTT-4.12.1-2], [MQTT-4.12.1-1], [MQTT-4.12.0-7]
#[test]
fn not_again() {
    let mut peer = connected();
    auth(&mut peer, AGAIN, "M", b"hello");
    peer.actions.clear();
    step(&mut peer, AuthStep::Refused(ReasonCode::NotAuthorized));
    assert_eq!(told(&mut peer), (PacketType::Disconnect, 0x87, None, Vec::new()));
    assert_eq!(peer.closed(), Some(CloseReason::Server(ReasonCode::NotAuthorized)));

    type Case = (fn() -> Peer, fn(&mut Peer));
    let faults: [Case; 5] = [
        (connected, |peer| auth(peer, AGAIN, "N", b"")),
        (connected, |peer| auth(peer, CONTINUE, "M", b"")),
        (connected, |peer| {
            peer.give(Packet::Auth(Auth { reason: ReasonCode::Success, properties: Properties::EMPTY }))
        }),
        (connected, |peer| {
            auth(peer, AGAIN, "M", b"");
            peer.actions.clear();
            auth(peer, AGAIN, "M", b"");
        }),
        (|| Peer::simple(V5), |peer| auth(peer, AGAIN, "M", b"")),
    ];
    for (start, fault) in faults {
        let mut peer = start();
        fault(&mut peer);
        assert_eq!(told(&mut peer), (PacketType::Disconnect, 0x82, None, Vec::new()));
        assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::ProtocolError)));
    }
}

/// [MQTT-4.12.0-6]
#[test]
fn without_a_method_there_is_none() {
    let mut peer = Peer::simple(V5);
    step(&mut peer, AuthStep::Continue(Secret::new(b"who?")));
    step(&mut peer, AuthStep::Success(Secret::default()));
    assert!(peer.out.is_empty() && peer.actions.is_empty());
}

/// [MQTT-3.1.2-24], [MQTT-3.15.2-2], [MQTT-3.15.2-3]: there is nothing in AUTH that could be left out.
#[test]
fn a_client_that_takes_no_auth() {
    let own = properties(&[Property::AuthenticationMethod("M"), Property::MaximumPacketSize(50)]);
    let mut peer = Peer::new(SessionLimits::default());
    peer.give(Packet::Connect(Box::new(Connect { properties: own.as_properties(), ..connect(V5) })));
    peer.actions.clear();
    step(&mut peer, AuthStep::Continue(Secret::new(&[7; 60])));
    assert_eq!(told(&mut peer), (PacketType::ConnAck, 0x95, None, Vec::new()));
    assert_eq!(peer.closed(), Some(CloseReason::Fault(ReasonCode::PacketTooLarge)));
}
