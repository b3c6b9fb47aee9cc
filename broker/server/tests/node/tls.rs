//! TLS: versions, client certificates, revocation, server names, and handshakes that come to nothing.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use raftmq_mqtt::QoS;

use crate::client::{Client, Got, connect, disconnect, publish};
use crate::pki::{Ca, Pair, serial, tls};
use crate::process::Node;

/// `extra` are more settings of `tls`.
fn node(ca: &Ca, listener: &str, extra: &str, files: &[(&str, &str)]) -> Node {
    let (cert, key) = ca.issue("localhost", 7);
    let items = format!(
        "- {{name: mqtts, type: tls, bind: '@0', tls: {{certFile: '@dir/crt', keyFile: '@dir/key' {extra}}} {listener}}}\n\
         - {{name: mqtt, bind: '@1'}}"
    );
    Node::with_listeners(&items, &[&[("crt", cert.as_str()), ("key", key.as_str())], files].concat())
}

#[test]
fn messages_cross_tls_of_both_versions_and_packets_of_any_size() {
    let ca = Ca::new();
    let node = node(&ca, "", "", &[]);
    let mut plain = Client::connect(node.addresses[1], "plain");
    plain.subscribe("up", QoS::AtLeastOnce);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = Client::over(tls(node.mqtt, "localhost", ca.client(None, &[version])));
        client.start(&connect("tls", true, 0, 0));
        assert_eq!(client.socket.conn.protocol_version(), Some(version.version));
        client.subscribe("down", QoS::AtLeastOnce);
        for size in [0, 1, 100, 16_384, 70_000, 900_000] {
            let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
            client.send(&publish("up", &payload, Some(1)));
            assert!(matches!(client.receive(), Got::PubAck { packet_id: 1, .. }));
            assert!(plain.messages(1)[0] == payload);
            plain.send(&publish("down", &payload, Some(2)));
            assert!(client.messages(1)[0] == payload);
            assert!(matches!(plain.receive(), Got::PubAck { packet_id: 2, .. }));
        }
        client.send(&disconnect());
        assert_eq!(client.receive(), Got::Closed);
    }
    node.wait_metric("raftmq_listener_connections{listener=\"mqtts\",transport=\"tls\"}", 0);
    assert_eq!(node.metric("raftmq_listener_connections{listener=\"mqtt\",transport=\"tcp\"}"), 1);
}

#[test]
fn a_connection_moves_to_the_worker_of_its_session() {
    let ca = Ca::new();
    let node = node(&ca, "", "", &[]);
    // Of six identifiers some meet the other worker.
    for round in 0..6 {
        for id in ["a", "b", "c", "d", "e", "f"] {
            let mut client = Client::over(ca.open(node.mqtt));
            assert_eq!(client.start(&connect(id, false, 0, 600)), round > 0, "{id}");
            client.ping();
            client.subscribe(id, QoS::AtMostOnce);
            client.send(&publish(id, b"to myself", Some(1)));
            let got = [client.receive(), client.receive()];
            assert!(got.iter().any(|got| matches!(got, Got::Publish { .. })), "{got:?}");
            client.send(&disconnect());
            assert_eq!(client.receive(), Got::Closed);
        }
    }
    node.wait_metric("raftmq_connections", 0);
}

#[test]
fn clients_show_certificates_as_they_must() {
    let (servers, clients, strangers) = (Ca::new(), Ca::new(), Ca::new());
    let (good, revoked, foreign) = (clients.issue("pump-7", 5), clients.issue("pump-8", 66), strangers.issue("x", 5));
    let list = clients.revoke(66);
    for (auth, none_is_accepted) in [("optional", true), ("required", false)] {
        let extra = format!(", clientAuth: {auth}, caFile: '@dir/ca', crlFile: '@dir/crl'");
        let node = node(&servers, "", &extra, &[("ca", &clients.pem), ("crl", &list)]);
        let cases: [(Option<&Pair>, bool); 4] =
            [(None, none_is_accepted), (Some(&good), true), (Some(&revoked), false), (Some(&foreign), false)];
        let mut refused = 0;
        for (own, accepted) in cases {
            for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
                let mut client = Client::over(tls(node.mqtt, "localhost", servers.client(own, &[version])));
                if accepted {
                    client.start(&connect("c", true, 0, 0));
                    continue;
                }
                // Of 1.3 the client is through with its handshake before the server has looked.
                let sent = client.socket.write_all(&connect("c", true, 0, 0)).and_then(|()| client.socket.flush());
                let error = sent.err().or_else(|| client.socket.read(&mut [0]).err()).unwrap();
                assert_eq!(error.kind(), ErrorKind::InvalidData, "an alert says why: {error}");
                refused += 1;
            }
        }
        node.wait_metric("raftmq_connections_refused_total{reason=\"tls_handshake\"}", refused);
    }
}

#[test]
fn certificates_go_by_server_name() {
    let ca = Ca::new();
    let (one, two) = (ca.issue("one.example.org", 11), ca.issue("two.test", 12));
    let extra = ", certificates: [{certFile: '@dir/1', keyFile: '@dir/1k'}, \
                 {certFile: '@dir/2', keyFile: '@dir/2k', serverNames: ['*.two.test', two.test]}]";
    let node = node(&ca, "", extra, &[("1", &one.0), ("1k", &one.1), ("2", &two.0), ("2k", &two.1)]);
    for (name, expected) in [("localhost", 7), ("one.example.org", 11), ("two.test", 12)] {
        let mut client = Client::over(tls(node.mqtt, name, ca.client(None, rustls::ALL_VERSIONS)));
        client.start(&connect("c", true, 0, 0));
        assert_eq!(serial(&client.socket.conn), expected, "{name}");
    }
}

#[test]
fn handshakes_that_come_to_nothing_end_and_cost_nobody_else() {
    let ca = Ca::new();
    let node = node(&ca, ", connectTimeout: 1s", "", &[]);
    let mut bystander = ca.connect(node.mqtt, "bystander");
    let mut hello = Vec::new();
    let mut half = ca.open(node.mqtt);
    half.conn.write_tls(&mut hello).unwrap();
    let mut slow: Vec<Client> = (0..4).map(|_| Client::open(node.mqtt)).collect();
    slow[0].send(&hello[..3]);
    slow[1].send(&hello[..hello.len() - 1]);
    slow[2].send(&hello);
    // The handshake is done, and no CONNECT comes.
    let mut silent = Client::over(ca.open(node.mqtt));
    silent.send(&[]);
    while silent.socket.conn.is_handshaking() {
        silent.socket.conn.complete_io(&mut silent.socket.sock).unwrap();
    }
    for mut client in slow {
        let mut rest = Vec::new();
        client.socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        client.socket.read_to_end(&mut rest).unwrap();
    }
    assert_eq!(silent.receive_within(Duration::from_secs(8)), Got::Closed);
    node.wait_metric("raftmq_connections_refused_total{reason=\"timeout\"}", 6);
    for bytes in
        [&b"\x10\x0c\0\x04MQTT\x05\x02\0\0\0\0\0"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 500], &[0x16, 3, 1, 0xFF, 0xFF]]
    {
        let mut client = Client::open(node.mqtt);
        client.send(bytes);
        let mut rest = Vec::new();
        client.socket.read_to_end(&mut rest).unwrap();
    }
    for at in [5, 6, 9, 11, 43, 80] {
        let mut wrong = hello.clone();
        wrong[at] ^= 0x55;
        let mut client = Client::open(node.mqtt);
        client.send(&wrong);
        let mut rest = Vec::new();
        client.socket.read_to_end(&mut rest).unwrap();
    }
    bystander.ping();
    drop((silent, half));
    node.wait_metric("raftmq_connections", 1);
}

#[test]
fn an_idle_connection_owns_no_buffers() {
    const EACH: usize = 400;
    let ca = Ca::new();
    let node = node(&ca, "", "", &[]);
    let mut clients = Vec::new();
    let mut memory = Vec::new();
    for count in [EACH, 2 * EACH, 3 * EACH] {
        while clients.len() < count {
            let mut client = ca.connect(node.mqtt, &format!("idle-{}", clients.len()));
            client.subscribe("nothing", QoS::AtMostOnce);
            clients.push(client);
        }
        memory.push(node.memory());
    }
    let grown = memory[2].saturating_sub(memory[0]) / (2 * EACH as u64);
    assert!(grown < 20 * 1024, "{grown} bytes a connection: {memory:?}");
    println!("{grown} bytes a connection");
}
