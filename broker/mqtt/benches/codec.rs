//! Reading and writing packets: `cargo bench -p raftmq-mqtt`.

use std::hint::black_box;
use std::num::NonZeroU16;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use raftmq_mqtt::{
    Ack, Decoded, Limits, Message, Origin, Packet, PropertiesBuf, Property, Publish, PublishForm, QoS, Version, decode,
    encode,
};

const TOPIC: &str = "plant/7/line/3/temperature";

fn publish(qos: QoS, properties: &PropertiesBuf) -> Packet<'_> {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: TOPIC,
        packet_id: (qos != QoS::AtMostOnce).then_some(NonZeroU16::MIN),
        properties: properties.as_properties(),
        payload: &[7; 64],
    })
}

fn bytes(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, version, &mut out).expect("a packet of every version");
    out
}

fn read(c: &mut Criterion) {
    let none = PropertiesBuf::new();
    let mut some = PropertiesBuf::new();
    for property in [
        Property::ContentType("application/json"),
        Property::MessageExpiryInterval(60),
        Property::UserProperty(("site", "north")),
    ] {
        some.push(property).expect("short");
    }
    let ack = Packet::PubAck(Ack::success(NonZeroU16::MIN));
    let mut group = c.benchmark_group("decode");
    for (name, packet, version) in [
        ("PUBLISH QoS 0, 3.1.1", publish(QoS::AtMostOnce, &none), Version::V3_1_1),
        ("PUBLISH QoS 1, 5", publish(QoS::AtLeastOnce, &none), Version::V5),
        ("PUBLISH QoS 1, 5, three properties", publish(QoS::AtLeastOnce, &some), Version::V5),
        ("PUBACK, 5", ack, Version::V5),
    ] {
        let buffer = bytes(&packet, version).repeat(100);
        group.throughput(Throughput::Elements(100));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut rest = black_box(&buffer[..]);
                while let Ok(Decoded::Packet { packet, consumed }) = decode(rest, Some(version), &Limits::PROTOCOL) {
                    black_box(&packet);
                    rest = &rest[consumed..];
                }
                assert!(rest.is_empty());
            });
        });
    }
    group.finish();
}

fn write(c: &mut Criterion) {
    let none = PropertiesBuf::new();
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::with_capacity(4096);
    for (name, packet) in [
        ("PUBLISH QoS 1, 5", publish(QoS::AtLeastOnce, &none)),
        ("PUBACK, 5", Packet::PubAck(Ack::success(NonZeroU16::MIN))),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                encode(black_box(&packet), Version::V5, &mut out).expect("as above");
                black_box(&out);
            });
        });
    }
    // What a worker does: the envelope is made once a message, the form once for all subscribers of a kind, its bytes written a subscriber.
    let Packet::Publish(packet) = publish(QoS::AtMostOnce, &none) else { unreachable!() };
    let envelope = || {
        let origin = Origin { node: 1, sequence: 1 };
        Message::new(black_box(&packet), origin, "publisher", 1_700_000_000_000, None).expect("short")
    };
    group.bench_function("envelope", |b| b.iter(envelope));
    let message = envelope();
    group.bench_function("form", |b| {
        b.iter(|| PublishForm::new(black_box(&message), Version::V5, QoS::AtMostOnce, false, &[], 1_700_000_000_000));
    });
    group.throughput(Throughput::Elements(1000));
    let form = PublishForm::new(&message, Version::V5, QoS::AtLeastOnce, false, &[], 1_700_000_000_000).expect("short");
    group.bench_function("form, written for 1,000 subscribers", |b| {
        b.iter(|| {
            for id in 1..=1000 {
                out.clear();
                form.write(&mut out, NonZeroU16::new(id), false);
                black_box(&out);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, read, write);
criterion_main!(benches);
