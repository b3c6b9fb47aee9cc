//! The PROXY protocol, in front of each kind of listener.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use raftmq_mqtt::QoS;

use crate::client::{Client, Got, connect, publish};
use crate::pki::Ca;
use crate::process::Node;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 1883\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x07\xC6\x33\x64\x01\xDC\x04\x07\x5B";

/// A connection of a balancer, the header sent in pieces of this size.
fn behind(address: SocketAddr, header: &[u8], piece: usize) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    for chunk in header.chunks(piece) {
        // Who is refused may be gone before all is sent.
        let _ = socket.write_all(chunk);
    }
    socket
}

#[test]
fn headers_of_both_versions_are_taken_as_the_listener_says() {
    let node = Node::with_listeners(
        "- {name: one, bind: '@0', proxyProtocol: v1}\n- {name: two, bind: '@1', proxyProtocol: v2}\n\
         - {name: any, bind: '@2', proxyProtocol: any}\n- {name: none, bind: '@3'}",
        &[],
    );
    let mut refused = 0;
    for (at, header, taken) in [
        (0, V1, true),
        (0, V2, false),
        (1, V1, false),
        (1, V2, true),
        (2, V1, true),
        (2, V2, true),
        (2, b"", false),
        (2, b"PROXY TCP4 nonsense\r\n", false),
        (3, b"", true),
    ] {
        for piece in [1, 5, 100] {
            let mut client = Client::over(behind(node.addresses[at], header, piece));
            let packet = [connect("c", true, 0, 0), crate::client::subscribe(1, "t", QoS::AtMostOnce)].concat();
            // Whoever is refused may be gone before all is sent.
            let sent = client.socket.write_all(&packet);
            if taken {
                sent.unwrap();
                assert!(matches!(client.receive(), Got::ConnAck { .. }), "{at} {}", header.escape_ascii());
                assert!(matches!(client.receive(), Got::SubAck(_)));
                client.send(&publish("t", b"m", None));
                assert_eq!(client.messages(1), [b"m"]);
            } else {
                assert_eq!(client.receive(), Got::Closed, "{at} {}", header.escape_ascii());
                refused += 1;
            }
        }
    }
    node.wait_metric("raftmq_connections", 0);
    assert_eq!(node.metric("raftmq_connections_refused_total{reason=\"proxy_header\"}"), refused);
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for() {
    let node = Node::with_listeners("- {name: any, bind: '@0', proxyProtocol: any, connectTimeout: 1s}", &[]);
    for header in [&b""[..], &V1[..20], &V2[..20], V1] {
        let mut client = Client::over(behind(node.mqtt, header, 100));
        assert_eq!(client.receive_within(Duration::from_secs(8)), Got::Closed);
    }
    node.wait_metric("raftmq_connections_refused_total{reason=\"timeout\"}", 4);
}

#[test]
fn the_header_comes_before_tls_and_the_clients_address_is_kept() {
    let ca = Ca::new();
    let (cert, key) = ca.issue("localhost", 1);
    let tls = "proxyProtocol: any, tls: {certFile: '@dir/crt', keyFile: '@dir/key'}";
    let listeners = format!(
        "- {{name: mqtts, type: tls, bind: '@0', {tls}}}\n- {{name: wss, type: wss, bind: '@1', {tls}}}\n\
         - {{name: ws, type: ws, bind: '@2', proxyProtocol: v1}}"
    );
    let node = Node::with_listeners(&listeners, &[("crt", &cert), ("key", &key)]);
    for (number, header) in [V1, V2].into_iter().enumerate() {
        let mut stream = ca.open(node.mqtt);
        stream.sock.write_all(header).unwrap();
        let mut client = Client::over(stream);
        client.start(&connect(&format!("c{number}"), true, 0, 0));
        client.ping();
    }
    // What is wrong is reported with the address that the balancer says.
    let mut stream = ca.open(node.addresses[1]);
    stream.sock.write_all(V2).unwrap();
    stream.write_all(b"POST /mqtt HTTP/1.1\r\n\r\n").unwrap();
    node.wait_metric("raftmq_connections_refused_total{reason=\"websocket_upgrade\"}", 1);
    let mut socket = behind(node.addresses[2], V1, 100);
    socket.write_all(b"\x10\x0c\0\x04MQTT").unwrap();
    node.wait_metric("raftmq_connections_refused_total{reason=\"websocket_upgrade\"}", 2);
    let log = node.log();
    let ends: Vec<&str> = log.lines().filter(|line| line.contains("connection ended by the broker")).collect();
    assert!(ends.len() == 2 && ends.iter().all(|line| line.contains("192.0.2.7:56324")), "{log}");
}
