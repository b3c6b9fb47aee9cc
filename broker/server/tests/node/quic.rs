//! QUIC, with quinn's client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use raftmq_mqtt::{QoS, ReasonCode};
use rustls::pki_types::CertificateDer;
use tokio::runtime::{Builder, Runtime};

use crate::client::{Client, Got, PATIENCE, Stream, connect, disconnect, publish};
use crate::pki::{Ca, Pair, serial_of};
use crate::process::Node;

/// Of all clients: it goes on with what a client has said last when that one is gone.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

/// One stream of one connection.
pub(crate) struct Quic {
    endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    patience: Duration,
}

impl Quic {
    pub(crate) fn open(
        address: SocketAddr,
        ca: &Ca,
        own: Option<&Pair>,
        protocol: &str,
    ) -> Result<Self, ConnectionError> {
        Self::open_from(Ipv4Addr::LOCALHOST, address, ca, own, protocol)
    }

    /// From this address of the machine.
    pub(crate) fn open_from(
        from: Ipv4Addr,
        address: SocketAddr,
        ca: &Ca,
        own: Option<&Pair>,
        protocol: &str,
    ) -> Result<Self, ConnectionError> {
        let mut tls = ca.client(own, &[&rustls::version::TLS13]);
        tls.alpn_protocols = vec![protocol.into()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let (endpoint, connection, (send, receive)) = RUNTIME.block_on(async {
            let mut endpoint = Endpoint::client((from, 0).into()).unwrap();
            endpoint.set_default_client_config(config);
            let connection = endpoint.connect(address, "localhost").unwrap().await?;
            let stream = connection.open_bi().await?;
            Ok::<_, ConnectionError>((endpoint, connection, stream))
        })?;
        Ok(Self { endpoint, connection, send, receive, patience: PATIENCE })
    }
}

impl Quic {
    /// The client's system has another address from now on.
    pub(crate) fn moves_to(&self, to: Ipv4Addr) {
        let _in = RUNTIME.enter();
        self.endpoint.rebind(UdpSocket::bind((to, 0)).unwrap()).unwrap();
    }
}

impl Drop for Quic {
    /// The server is told.
    fn drop(&mut self) {
        self.connection.close(0_u32.into(), b"");
    }
}

impl Read for Quic {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { receive, patience, .. } = self;
        match RUNTIME.block_on(async { tokio::time::timeout(*patience, receive.read(buffer)).await }) {
            Ok(Ok(count)) => Ok(count.unwrap_or(0)),
            Ok(Err(quinn::ReadError::ConnectionLost(ConnectionError::ApplicationClosed(_)))) => Ok(0),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Quic {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(RUNTIME.block_on(self.send.write(bytes))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Quic {
    fn give_up_after(&mut self, time: Duration) {
        self.patience = time;
    }
}

fn node(ca: &Ca, listener: &str, extra: &str, files: &[(&str, &str)]) -> Node {
    let (cert, key) = ca.issue("localhost", 1);
    let items = format!(
        "- {{name: quic, type: quic, bind: '@0', tls: {{certFile: '@dir/crt', keyFile: '@dir/key' {extra}}} {listener}}}\n\
         - {{name: mqtt, bind: '@0'}}"
    );
    Node::with_listeners(&items, &[&[("crt", cert.as_str()), ("key", key.as_str())], files].concat())
}

fn start(node: &Node, ca: &Ca, packet: &[u8]) -> (Client<Quic>, bool) {
    let mut client = Client::over(Quic::open(node.mqtt, ca, None, "mqtt").unwrap());
    let present = client.start(packet);
    (client, present)
}

#[test]
fn messages_cross_quic() {
    let ca = Ca::new();
    let node = node(&ca, "", "", &[]);
    // The same port of TCP is another listener's.
    let mut plain = Client::connect(node.mqtt, "plain");
    plain.subscribe("up", QoS::AtLeastOnce);
    let (mut client, _) = start(&node, &ca, &connect("quic", true, 0, 0));
    client.subscribe("down", QoS::AtLeastOnce);
    for size in [0, 1, 1_400, 70_000, 900_000] {
        let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
        client.send(&publish("up", &payload, Some(1)));
        assert!(matches!(client.receive(), Got::PubAck { packet_id: 1, .. }));
        assert!(plain.messages(1)[0] == payload);
        plain.send(&publish("down", &payload, Some(2)));
        assert!(client.messages(1)[0] == payload);
        assert!(matches!(plain.receive(), Got::PubAck { packet_id: 2, .. }));
    }
    assert_eq!(node.metric("raftmq_listener_connections{listener=\"quic\",transport=\"quic\"}"), 1);
    client.send(&disconnect());
    assert_eq!(client.receive(), Got::Closed);
    node.wait_metric("raftmq_listener_connections{listener=\"quic\",transport=\"quic\"}", 0);
    node.wait_metric("raftmq_connections", 1);
}

#[test]
fn a_stream_moves_to_the_worker_of_its_session_and_the_last_words_arrive() {
    let ca = Ca::new();
    let node = node(&ca, "", "", &[]);
    for round in 0..6 {
        for id in ["a", "b", "c", "d", "e"] {
            let (mut client, present) = start(&node, &ca, &connect(id, false, 0, 600));
            assert_eq!(present, round > 0, "{id}");
            client.ping();
            let (mut next, present) = start(&node, &ca, &connect(id, false, 0, 600));
            assert!(present);
            assert_eq!(client.last_words(), Got::Disconnect(ReasonCode::SessionTakenOver));
            next.ping();
            next.send(&disconnect());
            assert_eq!(next.receive(), Got::Closed);
        }
    }
    node.wait_metric("raftmq_connections", 0);
}

#[test]
fn a_slow_reader_is_sent_all_and_others_are_served() {
    let ca = Ca::new();
    let node = node(&ca, "", "", &[]);
    let (mut slow, _) = start(&node, &ca, &connect("slow", true, 0, 0));
    slow.subscribe("t", QoS::AtLeastOnce);
    let mut plain = Client::connect(node.mqtt, "plain");
    for number in 0..100_u32 {
        plain.send(&publish("t", &[&number.to_le_bytes()[..], &[0; 50_000]].concat(), Some(1)));
        assert!(matches!(plain.receive(), Got::PubAck { .. }));
    }
    let got = slow.messages(100);
    let numbers: Vec<u32> = got.iter().map(|payload| u32::from_le_bytes(payload[..4].try_into().unwrap())).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    plain.ping();
}

#[test]
fn handshakes_that_come_to_nothing_end() {
    let ca = Ca::new();
    let node = node(&ca, ", connectTimeout: 1s, maxConnections: 3", "", &[]);
    let (mut bystander, _) = start(&node, &ca, &connect("bystander", true, 0, 0));
    // Another protocol, another authority, no stream, a stream without CONNECT, not even QUIC.
    assert!(Quic::open(node.mqtt, &ca, None, "h3").is_err());
    assert!(Quic::open(node.mqtt, &Ca::new(), None, "mqtt").is_err());
    node.wait_metric("raftmq_connections_refused_total{reason=\"tls_handshake\"}", 2);
    let mut silent = Quic::open(node.mqtt, &ca, None, "mqtt").unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    node.wait_metric("raftmq_connections_refused_total{reason=\"timeout\"}", 1);
    let mut client = Client::over(Quic::open(node.mqtt, &ca, None, "mqtt").unwrap());
    client.send(b"\x10");
    assert_eq!(client.receive(), Got::Closed);
    node.wait_metric("raftmq_connections_refused_total{reason=\"timeout\"}", 2);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&[0; 1_200], node.mqtt).unwrap();
    socket.send_to(&[0xC0; 1_200], node.mqtt).unwrap();
    // No more than the listener may have.
    let kept: Vec<_> = ["a", "b"].map(|id| start(&node, &ca, &connect(id, true, 0, 0))).into();
    assert!(Quic::open(node.mqtt, &ca, None, "mqtt").is_err());
    node.wait_metric("raftmq_connections_refused_total{reason=\"limit\"}", 1);
    drop(kept);
    node.wait_metric("raftmq_connections", 1);
    bystander.ping();
}

#[test]
fn clients_show_certificates_and_new_ones_see_the_new_serial() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let own = clients.issue("pump-7", 5);
    let node = node(&ca, "", ", clientAuth: required, caFile: '@dir/ca'", &[("ca", &clients.pem)]);
    let open = |own| {
        let mut client = Client::over(Quic::open(node.mqtt, &ca, own, "mqtt").ok()?);
        // The client is through with its handshake before the server has looked.
        client.socket.write_all(&connect("c", true, 0, 0)).ok()?;
        matches!(client.receive_or_closed(), Got::ConnAck { .. }).then_some(client)
    };
    assert!(open(None).is_none());
    let mut client = open(Some(&own)).unwrap();
    let serial = |client: &Client<Quic>| {
        let chain = client.socket.connection.peer_identity().unwrap();
        serial_of(&chain.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0])
    };
    assert_eq!(serial(&client), 1);
    let new = ca.issue("localhost", 2);
    node.write("key", &new.1);
    node.write("crt", &new.0);
    node.signal("-HUP");
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        client.ping();
        let mut other = Client::over(Quic::open(node.mqtt, &ca, Some(&own), "mqtt").unwrap());
        other.start(&connect("other", true, 0, 0));
        if serial(&other) == 2 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the new serial is not seen");
        std::thread::sleep(Duration::from_millis(50));
    }
    client.ping();
}

impl Client<Quic> {
    /// As `receive`, where the connection may be refused by the server's alert.
    fn receive_or_closed(&mut self) -> Got {
        let mut buffer = [0; 64];
        self.socket.give_up_after(PATIENCE);
        match self.socket.read(&mut buffer) {
            Ok(count) if count > 0 && buffer[0] == 0x20 => Got::ConnAck { present: false, reason: ReasonCode::Success },
            _ => Got::Closed,
        }
    }
}

#[test]
fn a_node_that_stops_tells_its_clients() {
    let ca = Ca::new();
    let mut node = node(&ca, "", "", &[]);
    let mut clients: Vec<_> = (0..5).map(|n| start(&node, &ca, &connect(&format!("c{n}"), true, 0, 0)).0).collect();
    node.signal("-TERM");
    for client in &mut clients {
        assert_eq!(client.last_words(), Got::Disconnect(ReasonCode::ServerShuttingDown));
    }
    assert!(node.ended().success());
}
