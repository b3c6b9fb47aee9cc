//! Rates of clients and listeners: who sends more is read more slowly, and nothing else happens to it.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use raftmq_mqtt::QoS;

use crate::client::{Client, Got, PATIENCE, PINGREQ, Stream, connect, disconnect, publish};
use crate::packets::cpu_ticks;
use crate::pki::Ca;
use crate::process::Node;
use crate::quic::Quic;
use crate::websocket;
use crate::words::{Hello, publish_with, pubrel};

/// A listener without limits, and one with these settings of a zone, or of its own.
fn node(zone: &str, listener: &str) -> Node {
    Node::with_listeners(
        &format!(
            "- {{name: free, bind: '@0'}}\n- {{name: limited, bind: '@1', zone: z {listener}}}\nzones:\n  z: {{{zone}}}"
        ),
        &[],
    )
}

fn watcher(node: &Node) -> Client {
    let mut client = Client::connect(node.addresses[0], "watcher");
    client.subscribe("#", QoS::AtMostOnce);
    client
}

/// So many messages, numbered, in one piece.
fn messages(topic: &str, numbers: std::ops::Range<u16>, qos: QoS) -> Vec<u8> {
    numbers.flat_map(|number| publish_with(topic, &number.to_be_bytes(), qos, false, number + 1)).collect()
}

fn numbers(client: &mut Client, count: usize) -> Vec<u16> {
    client.messages(count).iter().map(|payload| u16::from_be_bytes([payload[0], payload[1]])).collect()
}

fn throttled(limit: &str, scope: &str) -> String {
    format!("raftmq_throttled_total{{limit=\"{limit}\",scope=\"{scope}\"}}")
}

/// `least` to the millisecond, since no clock is slower than the node's; the rest is for a busy machine.
fn took(since: Instant, least: Duration) {
    let took = since.elapsed();
    assert!(took >= least.saturating_sub(Duration::from_millis(2)), "{took:?}, not {least:?}");
    assert!(took < least + Duration::from_secs(10), "{took:?}, not {least:?}");
}

#[test]
fn messages_of_each_qos_arrive_in_order_and_are_acknowledged_at_the_clients_rate() {
    let node = node("messageRate: 100, messageBurst: 20", "");
    let mut watcher = watcher(&node);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut client = Client::connect(node.addresses[1], "abuser");
        let begun = Instant::now();
        client.send(&messages("t", 0..120, qos));
        assert_eq!(numbers(&mut watcher, 120), (0..120).collect::<Vec<_>>(), "{qos:?}");
        took(begun, Duration::from_secs(1));
        for id in 1..=120 {
            match (qos, client_answer(&mut client, qos)) {
                (QoS::AtMostOnce, None) => {}
                (QoS::AtLeastOnce, Some(Got::PubAck { packet_id, .. })) => assert_eq!(packet_id, id),
                (QoS::ExactlyOnce, Some(Got::Other(text))) => {
                    assert!(text.starts_with("PubRec") && text.contains(&format!(" {id}")), "{text}");
                    client.send(&pubrel(id));
                }
                (_, other) => panic!("{other:?}"),
            }
        }
        if qos == QoS::ExactlyOnce {
            for _ in 0..120 {
                assert!(matches!(client.receive(), Got::Other(text) if text.starts_with("PubComp")));
            }
        }
        client.ping();
    }
    assert!(node.metric(&throttled("messages", "client")) >= 3);
    assert_eq!(node.metric("raftmq_messages_received_total{qos=\"0\"}"), 120);
    assert_eq!(node.metric("raftmq_throttled_connections"), 0);
    assert!(node.metric("raftmq_throttled_seconds_total{limit=\"messages\",scope=\"client\"}") >= 2);
    let said = node.log().lines().filter(|line| line.contains("read more slowly")).count();
    assert_eq!(said, 3, "once for each connection");
}

fn client_answer(client: &mut Client, qos: QoS) -> Option<Got> {
    (qos != QoS::AtMostOnce).then(|| client.receive())
}

#[test]
fn bytes_come_at_the_clients_rate_whatever_the_packets_size() {
    let node = node("byteRate: 64KiB, byteBurst: 16KiB", "");
    let mut watcher = watcher(&node);
    for size in [100_usize, 70_000] {
        let mut client = Client::connect(node.addresses[1], "abuser");
        // 112 KiB: a second and a half after the burst.
        let packet = publish("t", &vec![7; size], None);
        let count = (112 * 1024) / packet.len() + 1;
        let (begun, before) = (Instant::now(), cpu_ticks(&node));
        client.send(&packet.repeat(count));
        client.send(&PINGREQ);
        let got = watcher.messages(count);
        assert!(got.iter().all(|payload| payload.len() == size));
        assert_eq!(client.receive(), Got::PingResp);
        let ticks = cpu_ticks(&node) - before;
        assert!(ticks < 70, "{ticks} hundredths of a second: it does not wait, it turns");
        // What was read the last time may be more than there was.
        let bytes = (packet.len() * count).saturating_sub(16 * 1024 + 2 * 1024) as u64;
        took(begun, Duration::from_millis(bytes * 1_000 / (64 * 1024)));
    }
    assert!(node.metric(&throttled("bytes", "client")) >= 2);
    assert_eq!(node.metric(&throttled("messages", "client")), 0);
}

/// One sends much and three send a little: together they are at the rate, and each comes to its turn.
#[test]
fn clients_of_a_listener_share_its_rate_in_turns() {
    let node = node("", ", rates: {messages: 100, messageBurst: 10}");
    let mut watcher = watcher(&node);
    let mut abuser = Client::connect(node.addresses[1], "abuser");
    let mut others: Vec<_> = (0..3).map(|at| Client::connect(node.addresses[1], &format!("other-{at}"))).collect();
    let begun = Instant::now();
    abuser.send(&messages("abuser", 0..400, QoS::AtMostOnce));
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        for other in &mut others {
            let sent = Instant::now();
            other.send(&publish("other", &[round], Some(1)));
            assert!(matches!(other.receive(), Got::PubAck { packet_id: 1, .. }));
            slowest = slowest.max(sent.elapsed());
        }
    }
    println!("the slowest PUBACK beside the one that sends too much: {slowest:?}");
    // Four seconds of messages were before it.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let mut order = Vec::new();
    for _ in 0..415 {
        match watcher.receive() {
            Got::Publish { topic, payload, .. } if topic == "abuser" => order.push(payload),
            Got::Publish { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    took(begun, Duration::from_millis(4_050));
    assert!(order.iter().map(|payload| u16::from_be_bytes([payload[0], payload[1]])).eq(0..400));
    assert!(node.metric(&throttled("messages", "listener")) > 0);
    assert_eq!(node.metric(&throttled("messages", "client")), 0);
    abuser.ping();
}

#[test]
fn bytes_of_a_listener_are_shared_too() {
    let node = node("", ", rates: {bytes: 64KiB, byteBurst: 16KiB}");
    let mut watcher = watcher(&node);
    let packet = publish("t", &[7; 1_000], None);
    let mut clients: Vec<_> = (0..4).map(|at| Client::connect(node.addresses[1], &format!("c-{at}"))).collect();
    let begun = Instant::now();
    for client in &mut clients {
        client.send(&packet.repeat(40));
    }
    watcher.messages(160);
    let bytes = packet.len() as u64 * 160 - 16 * 1024 - 4 * 2 * 1024;
    took(begun, Duration::from_millis(bytes * 1_000 / (64 * 1024)));
    assert!(node.metric(&throttled("bytes", "listener")) > 0);
    clients.iter_mut().for_each(Client::ping);
}

#[test]
fn connections_above_the_rate_wait_and_none_is_refused() {
    let node = node("", ", rates: {connections: 20, connectionBurst: 5}");
    let address = node.addresses[1];
    let begun = Instant::now();
    let clients: Vec<_> = (0..45)
        .map(|at| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address, &format!("c-{at}"));
                client.ping();
                client
            })
        })
        .collect();
    let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    took(begun, Duration::from_secs(2));
    assert_eq!(clients.len(), 45);
    assert!(node.metric(&throttled("connections", "listener")) > 0);
    assert!(node.metric("raftmq_throttled_seconds_total{limit=\"connections\",scope=\"listener\"}") > 0);
    // Those of another listener do not.
    Client::connect(node.addresses[0], "free").ping();
}

/// What it has sent is four seconds' worth, and the PINGREQ is the last of it.
#[test]
fn a_client_that_is_not_read_is_not_silent() {
    let node = node("messageRate: 10, messageBurst: 5", "");
    let mut watcher = watcher(&node);
    let mut client = Client::open(node.addresses[1]);
    client.start(&connect("alive", true, 1, 0));
    let begun = Instant::now();
    client.send(&[messages("t", 0..45, QoS::AtMostOnce), PINGREQ.to_vec()].concat());
    assert_eq!(client.receive(), Got::PingResp);
    took(begun, Duration::from_secs(4));
    assert_eq!(numbers(&mut watcher, 45), (0..45).collect::<Vec<_>>());
    // From then on silence counts again.
    assert!(matches!(client.last_words(), Got::Disconnect(_)));
    took(begun, Duration::from_millis(5_500));
    node.wait_metric("raftmq_clients_disconnected_total{reason=\"keep_alive\"}", 1);
}

/// Their listener takes two messages a second, and the turn of each comes every three seconds.
#[test]
fn who_waits_in_line_is_not_silent() {
    let node = node("", ", rates: {messages: 2, messageBurst: 1}");
    let begun = Instant::now();
    let mut clients: Vec<_> = (0..6)
        .map(|at| {
            let mut client = Client::open(node.addresses[1]);
            client.start(&connect(&format!("c-{at}"), true, 1, 0));
            client.send(&[messages("t", 0..2, QoS::AtMostOnce), PINGREQ.to_vec()].concat());
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.receive(), Got::PingResp);
    }
    took(begun, Duration::from_millis(5_500));
    // Those that were through first have said nothing since, and are gone.
    assert_eq!(node.metric("raftmq_messages_received_total{qos=\"0\"}"), 12);
}

/// Acknowledgements and answers go on: a client at its limit that sends no message is not late.
#[test]
fn who_has_used_its_messages_may_do_all_else() {
    let node = node("messageRate: 1, messageBurst: 2", "");
    let mut client = Client::connect(node.addresses[1], "client");
    client.send(&messages("nobody", 0..2, QoS::AtLeastOnce));
    assert!(matches!((client.receive(), client.receive()), (Got::PubAck { .. }, Got::PubAck { .. })));
    let begun = Instant::now();
    client.subscribe("t", QoS::AtLeastOnce);
    let mut free = Client::connect(node.addresses[0], "free");
    // More than may be in flight: acknowledgements are read.
    for number in 0..300_u16 {
        free.send(&publish("t", &number.to_be_bytes(), Some(1)));
        assert!(matches!(free.receive(), Got::PubAck { .. }));
    }
    assert_eq!(client.messages(300).len(), 300);
    client.ping();
    assert_eq!(node.metric(&throttled("messages", "client")), 0, "after {:?}", begun.elapsed());
    // And while it waits it is written to.
    client.send(&messages("nobody", 0..5, QoS::AtMostOnce));
    while node.metric("raftmq_throttled_connections") == 0 {
        assert!(begun.elapsed() < PATIENCE, "it does not wait");
    }
    let waits = Instant::now();
    free.send(&publish("t", b"written", None));
    assert_eq!(client.messages(1), [b"written"]);
    assert!(waits.elapsed() < Duration::from_secs(2), "{:?}", waits.elapsed());
}

#[test]
fn another_rate_counts_for_open_connections_at_once() {
    let node = node("messageRate: 2, messageBurst: 1", ", rates: {messages: 1000}");
    let mut watcher = watcher(&node);
    let mut client = Client::connect(node.addresses[1], "client");
    client.send(&messages("t", 0..201, QoS::AtMostOnce));
    assert_eq!(numbers(&mut watcher, 1), [0]);
    // What was used is used: there is no burst now.
    node.edit("messageRate: 2, messageBurst: 1", "messageRate: 200, messageBurst: 100");
    let begun = Instant::now();
    let said = node.reload(0);
    assert!(said.contains("zones.z.messageRate") && said.contains("needs_restart=\"\""), "{said}");
    assert_eq!(numbers(&mut watcher, 200), (1..201).collect::<Vec<_>>());
    took(begun, Duration::from_millis(950));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}: it is the former rate", begun.elapsed());
    // A limit that comes, of the listener.
    node.edit("messageRate: 200, messageBurst: 100", "messageRate: 0");
    node.edit("messages: 1000", "messages: 50, messageBurst: 1");
    let said = node.reload(1);
    assert!(said.contains("listeners[1].rates.messages") && said.contains("needs_restart=\"\""), "{said}");
    let limited = || node.metric(&throttled("messages", "listener")) > 0;
    let begun = Instant::now();
    let mut sent = 0;
    while !limited() {
        client.send(&messages("t", 0..10, QoS::AtMostOnce));
        sent += 10;
        assert!(begun.elapsed() < PATIENCE, "no limit has come");
    }
    // And goes, while a connection waits for it.
    client.send(&messages("t", 0..1_000, QoS::AtMostOnce));
    node.edit("messages: 50, messageBurst: 1", "messages: 0");
    node.reload(2);
    let begun = Instant::now();
    watcher.messages(sent + 1_000);
    took(begun, Duration::ZERO);
    client.ping();
    assert_eq!(node.metric("raftmq_throttled_connections"), 0);
}

/// What a client sent before it went counts, its DISCONNECT too; the acknowledgements that nobody takes do not keep it from that.
#[test]
fn who_goes_has_said_all_that_it_has_sent() {
    let node = node("messageRate: 50, messageBurst: 5", "");
    let mut watcher = watcher(&node);
    for (qos, clean) in [(QoS::AtMostOnce, true), (QoS::AtLeastOnce, true), (QoS::AtLeastOnce, false)] {
        let mut client = Client::open(node.addresses[1]);
        client.start(
            &Hello { id: "gone", clean_start: true, will: Some(("will", b"\0\x09", false, 0)), ..Hello::default() }
                .packet(),
        );
        let end = if clean { disconnect() } else { Vec::new() };
        client.send(&[messages("t", 0..55, qos), end].concat());
        let begun = Instant::now();
        drop(client);
        assert_eq!(numbers(&mut watcher, 55), (0..55).collect::<Vec<_>>(), "{qos:?}");
        took(begun, Duration::from_millis(900));
        if !clean {
            assert_eq!(numbers(&mut watcher, 1), [9], "its will");
        }
        node.wait_metric("raftmq_clients", 1);
    }
    watcher.ping();
    assert_eq!(node.metric("raftmq_wills_published_total"), 1);
}

/// The next connection of a client finds nothing of the former one unread, and has what that one has used to pay for.
#[test]
fn who_comes_back_loses_nothing_and_gains_nothing() {
    let node = node("messageRate: 50, messageBurst: 5", "");
    let mut watcher = watcher(&node);
    let begun = Instant::now();
    for round in 0..4 {
        let mut client = Client::open(node.addresses[1]);
        client.start(
            &Hello { id: "same", clean_start: true, will: Some(("will", b"\0\x09", false, 0)), ..Hello::default() }
                .packet(),
        );
        client.send(&[messages("t", round * 25..(round + 1) * 25, QoS::AtMostOnce), disconnect()].concat());
        std::mem::forget(client);
    }
    let mut last = Client::connect(node.addresses[1], "same");
    last.send(&publish("t", &100_u16.to_be_bytes(), None));
    assert_eq!(numbers(&mut watcher, 101), (0..=100).collect::<Vec<_>>());
    took(begun, Duration::from_millis(1_900));
    assert_eq!(node.metric("raftmq_wills_published_total"), 0);
}

fn at_its_rate<S: Stream>(node: &Node, watcher: &mut Client, mut client: Client<S>, name: &str) {
    let begun = Instant::now();
    client.send(&messages(name, 0..105, QoS::AtLeastOnce));
    assert_eq!(numbers(watcher, 105), (0..105).collect::<Vec<_>>(), "{name}");
    took(begun, Duration::from_millis(1_000));
    for id in 1..=105 {
        assert!(matches!(client.receive(), Got::PubAck { packet_id, .. } if packet_id == id), "{name}");
    }
    client.ping();
    // A single packet that is more than the burst, in many reads.
    let before = node.metric(&throttled("bytes", "client"));
    let begun = Instant::now();
    client.send(&publish(name, &[7; 300_000], None));
    client.send(&PINGREQ);
    assert_eq!(watcher.messages(1)[0].len(), 300_000, "{name}");
    assert_eq!(client.receive(), Got::PingResp);
    took(begun, Duration::from_millis(700));
    assert!(node.metric(&throttled("bytes", "client")) > before, "{name}");
    // It says that it goes while what is before that waits.
    client.send(&[messages(name, 0..30, QoS::AtMostOnce), disconnect()].concat());
    assert_eq!(numbers(watcher, 30), (0..30).collect::<Vec<_>>(), "{name}");
    node.wait_metric("raftmq_clients_disconnected_total{reason=\"disconnect\"}", 1);
}

/// Each kind of listener, with its own node.
#[test]
fn every_transport_is_held_back() {
    let ca = Ca::new();
    let (cert, key) = ca.issue("localhost", 1);
    let files = [("crt", cert.as_str()), ("key", key.as_str())];
    let node = |kind: &str| {
        let tls = if kind == "ws" { "" } else { ", tls: {certFile: '@dir/crt', keyFile: '@dir/key'}" };
        let listeners = format!(
            "- {{name: free, bind: '@0'}}\n- {{name: limited, type: {kind}, bind: '@1', zone: z {tls}}}\nzones:\n  \
             z: {{messageRate: 100, messageBurst: 5, byteRate: 256KiB, byteBurst: 64KiB}}"
        );
        Node::with_listeners(&listeners, &files)
    };
    let open = |kind: &str, address: SocketAddr| -> Box<dyn Stream> {
        match kind {
            "tls" => Box::new(ca.open(address)),
            "ws" => Box::new(websocket::open(TcpStream::connect(address).unwrap())),
            "wss" => Box::new(websocket::open(ca.open(address))),
            _ => Box::new(Quic::open(address, &ca, None, "mqtt").unwrap()),
        }
    };
    // They wait most of the time: at once.
    std::thread::scope(|threads| {
        for kind in ["tls", "ws", "wss", "quic"] {
            let (node, open) = (&node, &open);
            threads.spawn(move || {
                let node = node(kind);
                let mut watcher = watcher(&node);
                let mut client = Client::over(open(kind, node.addresses[1]));
                client.start(&connect(kind, true, 0, 0));
                at_its_rate(&node, &mut watcher, client, kind);
            });
        }
    });
}

/// Handshakes wait in the endpoint.
#[test]
fn connections_of_quic_wait_too() {
    let ca = Ca::new();
    let (cert, key) = ca.issue("localhost", 1);
    let node = Node::with_listeners(
        "- {name: quic, type: quic, bind: '@0', tls: {certFile: '@dir/crt', keyFile: '@dir/key'}, rates: {connections: 4, connectionBurst: 1}}",
        &[("crt", cert.as_str()), ("key", key.as_str())],
    );
    let begun = Instant::now();
    let mut clients = Vec::new();
    for at in 0..5 {
        let mut client = Client::over(Quic::open(node.mqtt, &ca, None, "mqtt").unwrap());
        client.start(&connect(&format!("c-{at}"), true, 0, 0));
        clients.push(client);
    }
    took(begun, Duration::from_secs(1));
    clients.iter_mut().for_each(Client::ping);
    assert!(node.metric(&throttled("connections", "listener")) > 0);
}
