//! Certificates change while connections are open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use raftmq_mqtt::QoS;

use crate::client::{Client, Got, PATIENCE, connect, publish};
use crate::pki::{Ca, serial, tls};
use crate::process::Node;

const LISTENER: &str = "- {name: mqtts, type: tls, bind: '@0', tls: {certFile: '@dir/crt', keyFile: '@dir/key'}}";

fn shown(ca: &Ca, node: &Node) -> u64 {
    serial(&ca.connect(node.mqtt, "looks").socket.conn)
}

fn wait_shown(ca: &Ca, node: &Node, wanted: u64) {
    let deadline = Instant::now() + PATIENCE;
    while shown(ca, node) != wanted {
        assert!(Instant::now() < deadline, "{wanted} is not shown");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn reloads(node: &Node, result: &str) -> u64 {
    node.metric(&format!("raftmq_listener_certificate_reloads_total{{listener=\"mqtts\",result=\"{result}\"}}"))
}

#[test]
fn open_connections_carry_messages_throughout_and_new_ones_see_the_new_serial() {
    let ca = Ca::new();
    let (first, second) = (ca.issue("localhost", 1), ca.issue("localhost", 2));
    let node = Node::with_listeners(LISTENER, &[("crt", &first.0), ("key", &first.1)]);
    let mut subscriber = ca.connect(node.mqtt, "subscriber");
    subscriber.subscribe("t", QoS::AtLeastOnce);
    let mut publisher = ca.connect(node.mqtt, "publisher");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut sent = 0_u32;
            while !over.load(Ordering::Relaxed) {
                publisher.send(&publish("t", &sent.to_le_bytes(), Some(1)));
                assert!(matches!(publisher.receive(), Got::PubAck { packet_id: 1, .. }));
                assert_eq!(subscriber.messages(1), [sent.to_le_bytes()]);
                sent += 1;
            }
            sent
        });
        assert_eq!(shown(&ca, &node), 1);
        // The key is written a moment after the certificate: until then the former pair stays.
        node.write("crt", &second.0);
        node.signal("-HUP");
        let deadline = Instant::now() + PATIENCE;
        while reloads(&node, "error") == 0 {
            assert!(Instant::now() < deadline, "{}", node.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(shown(&ca, &node), 1);
        node.write("key", &second.1);
        wait_shown(&ca, &node, 2);
        node.write("crt", "no certificate");
        node.signal("-HUP");
        while reloads(&node, "error") == 1 {
            assert!(Instant::now() < deadline, "{}", node.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(shown(&ca, &node), 2);
        over.store(true, Ordering::Relaxed);
        assert!(traffic.join().unwrap() > 0);
    });
    assert_eq!(serial(&publisher.socket.conn), 1, "its connection is the one of the beginning");
    publisher.ping();
    assert_eq!((reloads(&node, "ok"), reloads(&node, "error")), (1, 2));
    let log = node.log();
    assert!(log.contains("the former ones stay") && log.contains("crt"), "{log}");
}

#[test]
fn what_is_revoked_later_is_refused_from_then_on() {
    let (servers, clients) = (Ca::new(), Ca::new());
    let (cert, key) = servers.issue("localhost", 1);
    let listener = "- {name: mqtts, type: tls, bind: '@0', tls: {certFile: '@dir/crt', keyFile: '@dir/key', clientAuth: required, \
                    caFile: '@dir/ca', crlFile: '@dir/crl'}}";
    let nobody = clients.revoke(99);
    let node = Node::with_listeners(listener, &[("crt", &cert), ("key", &key), ("ca", &clients.pem), ("crl", &nobody)]);
    let own = clients.issue("pump-7", 5);
    // One configuration of a client, which would resume its session if it could.
    let config = servers.client(Some(&own), rustls::ALL_VERSIONS);
    let mut open = Client::over(tls(node.mqtt, "localhost", config.clone()));
    open.start(&connect("open", true, 0, 0));
    node.write("crl", &clients.revoke(5));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut next = Client::over(tls(node.mqtt, "localhost", config.clone()));
        let result = std::io::Write::write_all(&mut next.socket, &connect("next", true, 0, 0));
        if result.is_err() || std::io::Read::read(&mut next.socket, &mut [0]).is_err() {
            break;
        }
        assert!(Instant::now() < deadline, "not refused");
        std::thread::sleep(Duration::from_millis(50));
    }
    open.ping();
}
