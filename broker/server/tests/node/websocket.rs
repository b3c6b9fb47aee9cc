//! WebSocket and WebSocket over TLS, with a client of another hand.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use raftmq_mqtt::{QoS, ReasonCode};
use tungstenite::handshake::client::Response;
use tungstenite::http::StatusCode;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use crate::client::{Client, Got, Stream, connect, disconnect, publish, subscribe};
use crate::pki::Ca;
use crate::process::Node;

/// The bytes of binary messages as a stream.
pub(crate) struct Ws<S> {
    pub(crate) socket: WebSocket<S>,
    got: Vec<u8>,
}

impl<S: Stream> Ws<S> {
    pub(crate) fn over(stream: S, protocol: &str, path: &str) -> Result<(Self, Response), Error> {
        let request = tungstenite::ClientRequestBuilder::new(format!("ws://localhost{path}").parse().unwrap())
            .with_sub_protocol(protocol);
        match tungstenite::client(request, stream) {
            Ok((socket, response)) => Ok((Self { socket, got: Vec::new() }, response)),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
            Err(tungstenite::HandshakeError::Interrupted(_)) => panic!("no answer in time"),
        }
    }
}

impl<S: Stream> Read for Ws<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.got.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.got = bytes.to_vec(),
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::Protocol(_)) => return Ok(0),
                Ok(_) => {}
                Err(Error::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let count = buffer.len().min(self.got.len());
        buffer[..count].copy_from_slice(&self.got[..count]);
        self.got.drain(..count);
        Ok(count)
    }
}

impl<S: Stream> Write for Ws<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::binary(bytes.to_vec())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(io::Error::other)
    }
}

impl<S: Stream> Stream for Ws<S> {
    fn give_up_after(&mut self, time: Duration) {
        self.socket.get_mut().give_up_after(time);
    }
}

pub(crate) fn open<S: Stream>(stream: S) -> Ws<S> {
    let (ws, response) = Ws::over(stream, "mqtt", "/mqtt").unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    ws
}

fn connected(address: SocketAddr) -> Client<Ws<TcpStream>> {
    Client::over(open(TcpStream::connect(address).unwrap()))
}

fn start(address: SocketAddr, id: &str) -> Client<Ws<TcpStream>> {
    let mut client = connected(address);
    client.start(&connect(id, true, 0, 0));
    client
}

const LISTENERS: &str = "- {name: ws, type: ws, bind: '@0'}\n- {name: mqtt, bind: '@1'}";

#[test]
fn messages_cross_websocket_whatever_the_frames() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut plain = Client::connect(node.addresses[1], "plain");
    plain.subscribe("up", QoS::AtLeastOnce);
    let mut client = start(node.mqtt, "ws");
    client.subscribe("down", QoS::AtLeastOnce);
    for size in [0, 1, 125, 126, 70_000, 900_000] {
        let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let packet = publish("up", &payload, Some(1));
        // One frame, frames of any size, frames of a byte.
        for piece in [packet.len(), 1_000, 1] {
            if packet.len() / piece > 2_000 {
                continue;
            }
            packet.chunks(piece).for_each(|chunk| client.send(chunk));
            assert!(matches!(client.receive(), Got::PubAck { packet_id: 1, .. }));
            assert!(plain.messages(1)[0] == payload);
        }
        plain.send(&publish("down", &payload, Some(2)));
        assert!(client.messages(1)[0] == payload);
        assert!(matches!(plain.receive(), Got::PubAck { packet_id: 2, .. }));
    }
    // Several packets in one frame [MQTT-6.0.0-2].
    let several = [publish("up", b"1", None), publish("up", b"2", None), crate::client::PINGREQ.to_vec()].concat();
    client.send(&several);
    assert_eq!(client.receive(), Got::PingResp);
    assert_eq!(plain.messages(2), [b"1", b"2"]);
}

#[test]
fn pings_are_answered_and_the_end_is_said_in_both_protocols() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut client = start(node.mqtt, "c");
    client.socket.socket.send(Message::Ping(b"are you there".to_vec().into())).unwrap();
    assert_eq!(client.socket.socket.read().unwrap(), Message::Pong(b"are you there".to_vec().into()));
    client.send(&disconnect());
    let Message::Close(Some(close)) = client.socket.socket.read().unwrap() else { panic!("a close frame expected") };
    assert_eq!(close.code, CloseCode::Normal);
    // The client closes: it is answered.
    let mut client = start(node.mqtt, "c");
    client.socket.socket.close(None).unwrap();
    assert!(matches!(client.socket.socket.read().unwrap(), Message::Close(_)));
    assert!(matches!(client.socket.socket.read(), Err(Error::ConnectionClosed)));
    // The server closes.
    let mut client = start(node.mqtt, "c");
    let _other = start(node.mqtt, "c");
    assert_eq!(client.receive(), Got::Disconnect(ReasonCode::SessionTakenOver));
    assert!(matches!(client.socket.socket.read().unwrap(), Message::Close(_)));
}

#[test]
fn what_was_sent_before_the_close_counts() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut reader = Client::connect(node.addresses[1], "reader");
    reader.subscribe("t", QoS::AtLeastOnce);
    for round in 0..5_u8 {
        // All in one go: upgrade aside, everything is there before the server reads.
        let mut client = connected(node.mqtt);
        let all = [connect("c", true, 0, 0), publish("t", &[round], Some(1)), disconnect()].concat();
        client.send(&all);
        client.socket.socket.close(None).unwrap();
        assert_eq!(reader.messages(1), [[round]]);
    }
    node.wait_metric("raftmq_connections", 1);
}

#[test]
fn text_and_wrong_frames_are_refused_with_the_reason() {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut bystander = start(node.mqtt, "bystander");
    let mut client = start(node.mqtt, "text");
    client.socket.socket.send(Message::text("hello")).unwrap();
    let Message::Close(Some(close)) = client.socket.socket.read().unwrap() else { panic!("a close frame expected") };
    assert_eq!(close.code, CloseCode::Unsupported);
    for (bytes, code) in [(&b"\x82\x03abc"[..], 1002_u16), (b"\xF2\x80\0\0\0\0", 1002), (b"\x80\x80\0\0\0\0", 1002)] {
        let mut client = start(node.mqtt, "wrong");
        client.socket.socket.get_mut().write_all(bytes).unwrap();
        let Message::Close(Some(close)) = client.socket.socket.read().unwrap() else {
            panic!("a close frame expected")
        };
        assert_eq!(u16::from(close.code), code);
    }
    node.wait_metric("raftmq_protocol_errors_total", 4);
    node.wait_metric("raftmq_clients_disconnected_total{reason=\"transport\"}", 4);
    bystander.ping();
}

#[test]
fn requests_for_something_else_are_answered_in_http() {
    let node = Node::with_listeners(
        "- {name: ws, type: ws, bind: '@0', connectTimeout: 1s}\n- {name: other, type: ws, bind: '@1', websocket: {path: /x}}",
        &[],
    );
    let status =
        |address, protocol: &str, path: &str| match Ws::over(TcpStream::connect(address).unwrap(), protocol, path) {
            Ok((_, response)) => response.status(),
            Err(Error::Http(response)) => response.status(),
            Err(error) => panic!("{error}"),
        };
    for (address, protocol, path, expected) in [
        (node.mqtt, "mqtt", "/mqtt", StatusCode::SWITCHING_PROTOCOLS),
        (node.mqtt, "mqttv3.1", "/mqtt?x=1", StatusCode::SWITCHING_PROTOCOLS),
        (node.addresses[1], "mqtt", "/x", StatusCode::SWITCHING_PROTOCOLS),
        (node.mqtt, "mqtt", "/", StatusCode::NOT_FOUND),
        (node.addresses[1], "mqtt", "/mqtt", StatusCode::NOT_FOUND),
        (node.mqtt, "soap", "/mqtt", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(status(address, protocol, path), expected, "{protocol} {path}");
    }
    // MQTT without WebSocket, a request without end, one that never comes.
    let mut mqtt = Client::open(node.mqtt);
    mqtt.send(&connect("c", true, 0, 0));
    assert_eq!(mqtt.receive(), Got::Closed);
    let mut long = Client::open(node.mqtt);
    long.send(&[&b"GET /mqtt HTTP/1.1\r\nCookie: "[..], &[b'x'; 20_000]].concat());
    let mut answer = String::new();
    long.socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    node.wait_metric("raftmq_connections_refused_total{reason=\"websocket_upgrade\"}", 5);
    let mut slow = Client::open(node.mqtt);
    slow.send(b"GET /mqtt HTTP/1.1\r\n");
    assert_eq!(slow.receive_within(Duration::from_secs(8)), Got::Closed);
    node.wait_metric("raftmq_connections", 0);
}

#[test]
fn websocket_over_tls() {
    let ca = Ca::new();
    let (cert, key) = ca.issue("localhost", 1);
    let listener = "- {name: wss, type: wss, bind: '@0', tls: {certFile: '@dir/crt', keyFile: '@dir/key'}}";
    let node = Node::with_listeners(listener, &[("crt", &cert), ("key", &key)]);
    let start = |packet: &[u8]| {
        let (ws, _) = Ws::over(ca.open(node.mqtt), "mqtt", "/mqtt").unwrap();
        let mut client = Client::over(ws);
        let present = client.start(packet);
        (client, present)
    };
    let (mut subscriber, _) = start(&connect("subscriber", true, 0, 0));
    subscriber.subscribe("t", QoS::AtLeastOnce);
    for round in 0..6_u8 {
        for id in ["a", "b", "c", "d"] {
            let (mut client, present) = start(&connect(id, false, 0, 600));
            assert_eq!(present, round > 0);
            client.send(&[publish("t", &vec![round; 100_000], Some(1)), subscribe(2, id, QoS::AtLeastOnce)].concat());
            assert!(subscriber.messages(1)[0] == vec![round; 100_000]);
            client.send(&disconnect());
            assert_eq!(client.last_words_of_two(), 2);
        }
    }
    node.wait_metric("raftmq_listener_connections{listener=\"wss\",transport=\"wss\"}", 1);
    assert!(Ws::over(TcpStream::connect(node.mqtt).unwrap(), "mqtt", "/mqtt").is_err());
    node.wait_metric("raftmq_connections_refused_total{reason=\"tls_handshake\"}", 1);
}

impl<S: Stream> Client<S> {
    /// PUBACK and SUBACK in any order, then the end: how many packets came.
    fn last_words_of_two(&mut self) -> usize {
        let mut count = 0;
        loop {
            match self.receive() {
                Got::Closed => return count,
                Got::PubAck { .. } | Got::SubAck(_) => count += 1,
                other => panic!("{other:?}"),
            }
        }
    }
}
