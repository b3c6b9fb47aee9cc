//! A node that is short of memory, on each kind of listener.

use std::io::Read;
use std::net::Ipv4Addr;
use std::time::Instant;

use quinn::ConnectionError;
use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, PATIENCE, Stream, connect, publish};
use crate::transports::{KINDS, Transports, has_tls, tcp};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const REFUSED: &str = "raftmq_connections_refused_total{reason=\"overload\"}";

/// Marks of memory so low that it is at this level, or above none.
fn at_level(transports: &Transports, from: &mut &'static str, to: &'static str, level: u64) {
    transports.node.edit(from, to);
    *from = to;
    transports.node.signal("-HUP");
    transports.node.wait_metric("raftmq_overload_level", level);
}

/// What CONNECT is answered with, where all before it went well.
fn answered(mut client: Client<Box<dyn Stream>>, id: &str) -> Got {
    client.send(&connect(id, true, 0, 0));
    client.receive()
}

#[test]
fn who_comes_is_refused_on_each_transport_and_before_its_handshake_when_that_is_too_much() {
    let transports = Transports::start();
    let node = &transports.node;
    let open = |kind: &str| Client::over(transports.open(kind, HERE).unwrap());
    let mut there = KINDS.map(|kind| {
        let mut client = open(kind);
        client.start(&connect(kind, true, 0, 0));
        client.subscribe(kind, QoS::AtLeastOnce);
        client
    });
    let refused = || Got::ConnAck { present: false, reason: ReasonCode::QuotaExceeded };
    let mut count = 0;
    let mut settings = "overload: {";
    at_level(&transports, &mut settings, "overload: {memoryLimit: 1MiB, memoryShed: 0, recovery: 0s, ", 1);
    for kind in KINDS {
        assert_eq!(answered(open(kind), "new"), refused(), "{kind}");
        count += 1;
        node.wait_metric(REFUSED, count);
    }
    at_level(&transports, &mut settings, "overload: {memoryLimit: 1MiB, recovery: 0s, ", 2);
    for kind in KINDS {
        let begun = Instant::now();
        if kind == "quic" {
            // The endpoint's own word, not an end of MQTT's.
            let error = transports.quic(HERE).err().unwrap();
            let ConnectionError::ConnectionClosed(close) = &error else { panic!("{error:?}") };
            assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED);
        } else if has_tls(kind) {
            // Nothing of the handshake was sent: it is closed all the same.
            let mut got = Vec::new();
            let mut socket = tcp(HERE, transports.address(kind));
            let ended = socket.read_to_end(&mut got);
            assert!(ended.is_ok_and(|count| count == 0), "{kind}: {got:?}");
        } else {
            assert_eq!(answered(open(kind), "new"), refused(), "{kind}");
        }
        assert!(begun.elapsed() < PATIENCE / 4, "{kind}: it was waited for, until {:?}", begun.elapsed());
        count += 1;
        node.wait_metric(REFUSED, count);
    }
    // Those that are there stay, and what they say with QoS 1 counts.
    for (kind, client) in KINDS.iter().zip(&mut there) {
        client.send(&publish(kind, b"m", Some(1)));
        let got = [client.receive(), client.receive()];
        assert!(got.iter().any(|got| matches!(got, Got::PubAck { .. })), "{kind}: {got:?}");
        assert!(got.iter().any(|got| matches!(got, Got::Publish { .. })), "{kind}: {got:?}");
    }
    for reason in ["tls_handshake", "websocket_upgrade", "protocol", "timeout", "limit"] {
        assert_eq!(node.metric(&format!("raftmq_connections_refused_total{{reason=\"{reason}\"}}")), 0, "{reason}");
    }
    at_level(&transports, &mut settings, "overload: {memoryRefuse: 0, memoryShed: 0, recovery: 0s, ", 0);
    for kind in KINDS {
        assert_eq!(answered(open(kind), "new"), Got::ConnAck { present: false, reason: ReasonCode::Success }, "{kind}");
    }
}
