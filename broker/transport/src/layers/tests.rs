#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};

use rustls::ClientConnection;

use super::*;
use crate::Transport;
use crate::tls::tests::{Ca, client, material};

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
const PROXY: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 8084\r\n";
/// A binary frame with `MQTT`, its mask all zeros.
const FRAME: &[u8] = b"\x82\x84\0\0\0\0MQTT";
const CLOSE: &[u8] = b"\x88\x80\0\0\0\0";

fn ws() -> Option<Arc<WsSettings>> {
    Some(Arc::new(WsSettings { path: "/mqtt".into() }))
}

fn peer() -> PeerInfo {
    PeerInfo::new("10.0.0.1:5".parse().unwrap(), Transport::Wss)
}

struct Lab {
    layers: Layers,
    peer: PeerInfo,
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl Lab {
    fn new(layers: Option<Layers>) -> Self {
        Self { layers: layers.unwrap(), peer: peer(), plain: Vec::new(), out: Vec::new() }
    }

    fn feed(&mut self, bytes: &[u8], size: usize) -> Result<Received, LayerError> {
        let mut last = Received::Open;
        for chunk in bytes.chunks(size) {
            last = self.layers.receive(chunk, &mut self.plain, &mut self.out, &mut self.peer)?;
        }
        Ok(last)
    }

    /// Both ways until nothing moves; the client reads what it can.
    fn run(&mut self, client: &mut ClientConnection, size: usize) -> Result<Received, LayerError> {
        let mut last = Received::Open;
        loop {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            if sent.is_empty() {
                return Ok(last);
            }
            let result = self.feed(&sent, size);
            let answers = std::mem::take(&mut self.out);
            let mut answers = &answers[..];
            while !answers.is_empty() {
                client.read_tls(&mut answers).unwrap();
                let _ = client.process_new_packets();
            }
            last = result?;
        }
    }
}

/// What has come.
fn read(client: &mut ClientConnection) -> Vec<u8> {
    let mut answer = vec![0; 1_000];
    let count = client.reader().read(&mut answer).unwrap();
    answer.truncate(count);
    answer
}

#[test]
fn without_layers_there_is_nothing() {
    assert!(Layers::new(None, None, None).unwrap().is_none());
}

#[test]
fn a_proxy_header_leaves_nothing_behind() {
    for size in [1, 10, 1_000] {
        let mut lab = Lab::new(Layers::new(Some(Versions::Any), None, None).unwrap());
        assert!(!lab.layers.is_open());
        lab.feed(&[PROXY, b"MQTT"].concat(), size).unwrap();
        assert!(lab.layers.is_open() && lab.layers.is_nothing());
        assert_eq!(lab.plain, b"MQTT");
        assert_eq!(lab.peer.address, "192.0.2.1:56324".parse().unwrap());
        assert!(lab.peer.tls.is_none() && lab.out.is_empty());
    }
    let mut lab = Lab::new(Layers::new(Some(Versions::V2), None, None).unwrap());
    assert!(matches!(lab.feed(PROXY, 50), Err(LayerError::Proxy(ProxyError::OtherVersion))));
}

#[test]
fn all_layers_on_each_other_however_the_bytes_are_split() {
    let ca = Ca::new("ca");
    let config = material(&ca).build().unwrap().tcp;
    for size in [1, 7, 100, 1 << 20] {
        let mut lab = Lab::new(Layers::new(Some(Versions::V1), Some(Arc::clone(&config)), ws()).unwrap());
        let mut client = client(&ca, "localhost", None, false);
        lab.feed(PROXY, size).unwrap();
        client.writer().write_all(REQUEST).unwrap();
        lab.run(&mut client, size).unwrap();
        assert!(lab.layers.is_open());
        let answer = read(&mut client);
        assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"), "{}", answer.escape_ascii());
        client.writer().write_all(&[FRAME, b"\x89\x81\0\0\0\0p", FRAME].concat()).unwrap();
        lab.run(&mut client, size).unwrap();
        assert_eq!(lab.plain, b"MQTTMQTT");
        lab.layers.send(b"answer", &mut lab.out).unwrap();
        // Nothing to be carried: what is in `out` reaches the client.
        client.writer().write_all(b"").unwrap();
        let out = std::mem::take(&mut lab.out);
        client.read_tls(&mut &out[..]).unwrap();
        client.process_new_packets().unwrap();
        let mut got = vec![0; 11];
        client.reader().read_exact(&mut got).unwrap();
        assert_eq!(got, b"\x8A\x01p\x82\x06answer");
        assert_eq!(lab.peer.address, "192.0.2.1:56324".parse().unwrap());
        assert_eq!(lab.peer.tls.as_ref().unwrap().server_name.as_deref(), Some("localhost"));
        // The last words count, and the close is answered.
        client.writer().write_all(&[FRAME, CLOSE].concat()).unwrap();
        assert_eq!(lab.run(&mut client, 1 << 20).unwrap(), Received::Closed);
        assert_eq!(lab.plain, b"MQTTMQTTMQTT");
        assert!(!lab.layers.is_open());
        let mut got = vec![0; 4];
        client.reader().read_exact(&mut got).unwrap();
        assert_eq!(got, b"\x88\x02\x03\xE8");
        lab.layers.close(&mut lab.out);
        let out = std::mem::take(&mut lab.out);
        client.read_tls(&mut &out[..]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
        lab.layers.close(&mut lab.out);
        assert!(lab.out.is_empty(), "once");
    }
}

#[test]
fn what_is_wrong_is_told_through_the_layers_below() {
    let ca = Ca::new("ca");
    let config = material(&ca).build().unwrap().tcp;
    let mut lab = Lab::new(Layers::new(None, Some(config), ws()).unwrap());
    let mut client = client(&ca, "localhost", None, false);
    client.writer().write_all(&[REQUEST, FRAME, b"\x81\x84\0\0\0\0text"].concat()).unwrap();
    let error = lab.run(&mut client, 1 << 20).unwrap_err();
    assert!(matches!(error, LayerError::Ws(WsError::Frame(_))), "{error}");
    assert_eq!(lab.plain, b"MQTT", "what came before it counts");
    let answer = read(&mut client);
    assert!(answer.ends_with(b"\x88\x02\x03\xEB"), "{}", answer.escape_ascii());
}

#[test]
fn plain_bytes_where_tls_is_expected_are_refused() {
    let config = material(&Ca::new("ca")).build().unwrap().tcp;
    let mut lab = Lab::new(Layers::new(None, Some(config), None).unwrap());
    let error = lab.feed(b"\x10\x0c\0\x04MQTT\x05\x02\0\0\0\0\0", 100).unwrap_err();
    assert!(matches!(error, LayerError::Tls(_)), "{error}");
    assert!(lab.plain.is_empty() && lab.peer.tls.is_none());
}

#[test]
fn a_websocket_without_tls() {
    let mut lab = Lab::new(Layers::new(None, None, ws()).unwrap());
    lab.feed(&[REQUEST, FRAME].concat(), 9).unwrap();
    lab.out.clear();
    lab.layers.send(b"answer", &mut lab.out).unwrap();
    lab.layers.close(&mut lab.out);
    assert_eq!(lab.out, b"\x82\x06answer\x88\x02\x03\xE8");
    assert_eq!(lab.plain, b"MQTT");
}
