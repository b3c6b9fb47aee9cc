//! A message for a thousand subscribers: `cargo bench -p raftmq-session`. Encoded once, written into each one's outlet.

use std::hint::black_box;
use std::num::NonZeroU16;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use raftmq_mqtt::{Ack, Connect, Message, Origin, Packet, Properties, Publish, QoS, Version};
use raftmq_session::{Connection, Delivery, Forms, Matched, Now, OpenResult, Origins, SessionLimits};

const SUBSCRIBERS: usize = 1_000;
const NOW: Now = Now { ms: 1_000, unix_ms: 1_700_000_000_000 };

fn connected(n: usize, version: Version) -> Connection {
    let mut connection = Connection::new(Arc::new(SessionLimits::default()), NOW, [7; 16]);
    let (mut out, mut actions, mut origins) = (Vec::new(), Vec::new(), Origins { node: 1, next: 1 });
    let client_id = format!("subscriber-{n}");
    let connect = Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: &client_id,
        will: None,
        username: None,
        password: None,
        properties: Properties::EMPTY,
    };
    connection.on_packet(NOW, &mut origins, Packet::Connect(Box::new(connect)), &mut out, &mut actions);
    connection.on_opened(NOW, OpenResult::Accepted { session: None }, &mut out, &mut actions);
    assert!(connection.is_open());
    connection
}

fn message(qos: QoS) -> Message {
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: "plant/7/line/3/temperature",
        packet_id: (qos != QoS::AtMostOnce).then_some(NonZeroU16::MIN),
        properties: Properties::EMPTY,
        payload: &[7; 64],
    };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, "publisher", NOW.unix_ms, None).expect("short")
}

fn deliver(c: &mut Criterion) {
    let mut group = c.benchmark_group("a message for 1,000 subscribers");
    group.throughput(Throughput::Elements(SUBSCRIBERS as u64));
    for (name, qos, mixed) in [
        ("QoS 0", QoS::AtMostOnce, false),
        ("QoS 0, 3.1.1 and 5", QoS::AtMostOnce, true),
        ("QoS 1, with its PUBACK", QoS::AtLeastOnce, false),
    ] {
        let version = |n: usize| if mixed && n.is_multiple_of(2) { Version::V3_1_1 } else { Version::V5 };
        let mut connections: Vec<Connection> = (0..SUBSCRIBERS).map(|n| connected(n, version(n))).collect();
        let message = message(qos);
        let matched = Matched { qos, ..Matched::default() };
        let (mut out, mut actions, mut origins) = (Vec::with_capacity(4096), Vec::new(), Origins { node: 1, next: 1 });
        // Each of them has had as many as the others.
        let mut id = 0_u16;
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || Forms::new(message.clone(), NOW),
                |forms| {
                    id = id.checked_add(1).unwrap_or(1);
                    for connection in &mut connections {
                        out.clear();
                        assert_eq!(connection.deliver(forms, NOW, &matched, &mut out), Delivery::Sent(qos));
                        black_box(&out);
                        if qos == QoS::AtLeastOnce {
                            let ack = Ack::success(NonZeroU16::new(id).expect("above"));
                            connection.on_packet(NOW, &mut origins, Packet::PubAck(ack), &mut out, &mut actions);
                            actions.clear();
                        }
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, deliver);
criterion_main!(benches);
