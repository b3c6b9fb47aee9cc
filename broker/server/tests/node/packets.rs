//! Packets in pieces, many at once, too large, and wrong ones.

use std::time::Instant;

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, PINGREQ, connect, publish, subscribe};
use crate::process::Node;

#[test]
fn packets_may_come_byte_by_byte_or_all_at_once() {
    let node = Node::start();
    let all = [
        connect("pieces", true, 0, 0),
        subscribe(7, "a/+", QoS::AtLeastOnce),
        publish("a/b", b"hello", Some(9)),
        PINGREQ.to_vec(),
    ]
    .concat();
    for piece in [1, 2, 3, 7, all.len()] {
        let mut client = Client::open(node.mqtt);
        for bytes in all.chunks(piece) {
            client.send(bytes);
        }
        assert_eq!(client.receive(), Got::ConnAck { present: false, reason: ReasonCode::Success }, "{piece}");
        assert_eq!(client.receive(), Got::SubAck(vec![ReasonCode::granted(QoS::AtLeastOnce)]));
        assert!(matches!(client.receive(), Got::Publish { payload, .. } if payload == b"hello"));
        assert_eq!(client.receive(), Got::PubAck { packet_id: 9, reason: ReasonCode::Success });
        assert_eq!(client.receive(), Got::PingResp);
    }
}

#[test]
fn a_large_packet_in_small_pieces_costs_its_size() {
    let node = Node::start_with("{maxPacketSize: 64MiB, maxOutboundBytes: 256MiB}", "", None);
    let mut client = Client::connect(node.mqtt, "large");
    client.subscribe("large", QoS::AtMostOnce);
    let payload = b"0123456789abcdef!".repeat(3_700_000);
    let packet = publish("large", &payload, None);
    let before = cpu_ticks(&node);
    let start = Instant::now();
    for bytes in packet.chunks(4096) {
        client.send(bytes);
    }
    assert!(matches!(client.receive(), Got::Publish { payload: got, .. } if got == payload));
    // Copied anew at each read it is some 60 GB. Ticks are 10 ms.
    let spent = cpu_ticks(&node) - before;
    assert!(spent < 200, "{spent} ticks of the processor, {:?}", start.elapsed());
}

pub(crate) fn cpu_ticks(node: &Node) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn what_is_wrong_closes_its_own_connection_only() {
    let node = Node::start();
    let mut bystander = Client::connect(node.mqtt, "bystander");
    bystander.subscribe("#", QoS::AtLeastOnce);
    // Behind what is wrong there is more, that nobody reads: the reason arrives all the same.
    let more = publish("more", &vec![0; 200_000], None);
    let wrong: [(&str, Vec<u8>, ReasonCode); 5] = [
        ("too large", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], ReasonCode::PacketTooLarge),
        ("reserved type", vec![0x00, 0x00], ReasonCode::MalformedPacket),
        ("a topic that is not UTF-8", vec![0x30, 4, 0, 1, 0xFF, 0], ReasonCode::MalformedPacket),
        ("a length without end", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], ReasonCode::MalformedPacket),
        ("a second CONNECT", connect("again", true, 0, 0), ReasonCode::ProtocolError),
    ];
    for (name, bytes, reason) in wrong {
        let mut client = Client::connect(node.mqtt, "wrong");
        client.send(&[bytes, more.clone()].concat());
        assert_eq!(client.last_words(), Got::Disconnect(reason), "{name}");
    }
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[0x10, 0xFF, 0xFF, 0xFF, 0x7F]] {
        let mut client = Client::open(node.mqtt);
        client.send(first);
        client.last_words();
    }
    bystander.ping();
    node.wait_metric("raftmq_connections", 1);
    assert_eq!(node.metric("raftmq_protocol_errors_total"), 5);
}
