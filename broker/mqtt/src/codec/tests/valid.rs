//! Packets byte by byte.

use std::num::NonZeroU16;

use smallvec::smallvec;

use super::{decode_all, packet};
use crate::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, Properties, PropertiesBuf, Property, Publish, QoS,
    ReasonCode, RetainHandling, SubAck, SubOptions, Subscribe, Subscription, UnsubAck, Unsubscribe, Version, Will,
    connect_version, encode,
};

pub(super) const NONE: Properties<'static> = Properties::EMPTY;

pub(super) fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    assert_eq!(encode(packet, version, &mut out), Ok(out.len()), "{packet:?}");
    out
}

pub(super) fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: "c",
        will: None,
        username: None,
        password: None,
        properties: NONE,
    }
}

/// [MQTT-2.2.1-2], [MQTT-2.2.2-1], [MQTT-3.1.2-9], [MQTT-3.1.2-17], [MQTT-3.1.2-19], [MQTT-3.1.3-1], [MQTT-3.1.3-3], [MQTT-3.3.2-1],
/// [MQTT311-2.3.1-5], [MQTT311-3.1.2-9], [MQTT311-3.1.2-19], [MQTT311-3.1.2-21], [MQTT311-3.1.3-1], [MQTT311-3.1.3-3], [MQTT311-3.3.2-1]
#[test]
fn bytes_both_ways() {
    let full = |version| {
        let will = Will { qos: QoS::AtLeastOnce, retain: true, topic: "w", payload: b"x", properties: NONE };
        let mut connect = connect(version);
        connect.will = Some(will);
        connect.username = Some("u");
        connect.password = Some(b"p");
        Packet::Connect(Box::new(connect))
    };
    let rest = b"\x00\x01c\x00\x01w\x00\x01x\x00\x01u\x00\x01p";
    let ack = |reason| Ack { packet_id: id(0x0102), reason, properties: NONE };
    let publish = |qos, packet_id| {
        Packet::Publish(Publish {
            dup: false,
            qos,
            retain: true,
            topic: "a/b",
            packet_id,
            properties: NONE,
            payload: b"hi",
        })
    };
    let options = SubOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let subscribe = |options| {
        let subscriptions = vec![Subscription { filter: "a/+", options }];
        Packet::Subscribe(Subscribe { packet_id: id(9), properties: NONE, subscriptions })
    };
    let only_qos = SubOptions { qos: QoS::ExactlyOnce, ..SubOptions::default() };
    let (v3, v4, v5) = (Version::V3_1, Version::V3_1_1, Version::V5);
    let cases = [
        (v3, packet(0x10, &[b"\x00\x06MQIsdp\x03\xEE\x00\x3C", rest]), full(v3)),
        (v4, packet(0x10, &[b"\x00\x04MQTT\x04\xEE\x00\x3C", rest]), full(v4)),
        (
            v5,
            packet(0x10, &[b"\x00\x04MQTT\x05\xEE\x00\x3C\x00\x00\x01c\x00\x00\x01w\x00\x01x\x00\x01u\x00\x01p"]),
            full(v5),
        ),
        (
            v4,
            vec![0x20, 2, 1, 0],
            Packet::ConnAck(ConnAck { session_present: true, reason: ReasonCode::Success, properties: NONE }),
        ),
        (
            v4,
            vec![0x20, 2, 0, 4],
            Packet::ConnAck(ConnAck {
                session_present: false,
                reason: ReasonCode::BadUserNameOrPassword,
                properties: NONE,
            }),
        ),
        (
            v5,
            vec![0x20, 3, 0, 0x86, 0],
            Packet::ConnAck(ConnAck {
                session_present: false,
                reason: ReasonCode::BadUserNameOrPassword,
                properties: NONE,
            }),
        ),
        (v4, b"\x31\x07\x00\x03a/bhi".to_vec(), publish(QoS::AtMostOnce, None)),
        (v3, b"\x33\x09\x00\x03a/b\x12\x34hi".to_vec(), publish(QoS::AtLeastOnce, Some(id(0x1234)))),
        (v5, b"\x35\x0A\x00\x03a/b\x12\x34\x00hi".to_vec(), publish(QoS::ExactlyOnce, Some(id(0x1234)))),
        (v4, vec![0x40, 2, 1, 2], Packet::PubAck(ack(ReasonCode::Success))),
        (v5, vec![0x40, 2, 1, 2], Packet::PubAck(ack(ReasonCode::Success))),
        (v5, vec![0x40, 3, 1, 2, 0x10], Packet::PubAck(ack(ReasonCode::NoMatchingSubscribers))),
        (v5, vec![0x50, 3, 1, 2, 0x97], Packet::PubRec(ack(ReasonCode::QuotaExceeded))),
        (v5, vec![0x62, 3, 1, 2, 0x92], Packet::PubRel(ack(ReasonCode::PacketIdentifierNotFound))),
        (v3, vec![0x62, 2, 1, 2], Packet::PubRel(ack(ReasonCode::Success))),
        (v5, vec![0x70, 2, 1, 2], Packet::PubComp(ack(ReasonCode::Success))),
        (v4, b"\x82\x08\x00\x09\x00\x03a/+\x02".to_vec(), subscribe(only_qos)),
        (v5, b"\x82\x09\x00\x09\x00\x00\x03a/+\x2E".to_vec(), subscribe(options)),
        (
            v4,
            vec![0x90, 5, 0, 9, 0, 2, 0x80],
            Packet::SubAck(SubAck {
                packet_id: id(9),
                properties: NONE,
                reasons: smallvec![ReasonCode::GRANTED_QOS_0, ReasonCode::GrantedQoS2, ReasonCode::UnspecifiedError],
            }),
        ),
        (
            v5,
            vec![0x90, 5, 0, 9, 0, 1, 0x8F],
            Packet::SubAck(SubAck {
                packet_id: id(9),
                properties: NONE,
                reasons: smallvec![ReasonCode::GrantedQoS1, ReasonCode::TopicFilterInvalid],
            }),
        ),
        (
            v4,
            b"\xA2\x07\x00\x09\x00\x03a/+".to_vec(),
            Packet::Unsubscribe(Unsubscribe { packet_id: id(9), properties: NONE, filters: vec!["a/+"] }),
        ),
        (
            v4,
            vec![0xB0, 2, 0, 9],
            Packet::UnsubAck(UnsubAck { packet_id: id(9), properties: NONE, reasons: smallvec![] }),
        ),
        (
            v5,
            vec![0xB0, 4, 0, 9, 0, 0x11],
            Packet::UnsubAck(UnsubAck {
                packet_id: id(9),
                properties: NONE,
                reasons: smallvec![ReasonCode::NoSubscriptionExisted],
            }),
        ),
        (v3, vec![0xC0, 0], Packet::PingReq),
        (v5, vec![0xD0, 0], Packet::PingResp),
        (
            v4,
            vec![0xE0, 0],
            Packet::Disconnect(Disconnect { reason: ReasonCode::NORMAL_DISCONNECTION, properties: NONE }),
        ),
        (
            v5,
            vec![0xE0, 1, 0x8E],
            Packet::Disconnect(Disconnect { reason: ReasonCode::SessionTakenOver, properties: NONE }),
        ),
        (v5, vec![0xF0, 0], Packet::Auth(Auth { reason: ReasonCode::Success, properties: NONE })),
    ];
    for (version, bytes, packet) in cases {
        let known = (packet.packet_type() != PacketType::Connect).then_some(version);
        assert_eq!(decode_all(&bytes, known).as_ref(), Ok(&packet), "{version}");
        assert_eq!(encoded(&packet, version), bytes, "{version} {packet:?}");
    }
}

#[test]
fn longer_forms_are_accepted() {
    let ack = Ack::success(id(1));
    for bytes in [&[0x40, 2, 0, 1][..], &[0x40, 3, 0, 1, 0], &[0x40, 4, 0, 1, 0, 0]] {
        assert_eq!(decode_all(bytes, Some(Version::V5)), Ok(Packet::PubAck(ack)));
    }
    let disconnect = Disconnect { reason: ReasonCode::NORMAL_DISCONNECTION, properties: NONE };
    for bytes in [&[0xE0, 0][..], &[0xE0, 1, 0], &[0xE0, 2, 0, 0]] {
        assert_eq!(decode_all(bytes, Some(Version::V5)), Ok(Packet::Disconnect(disconnect)));
    }
    // Only MQTT 5 asks for the shortest remaining length.
    assert_eq!(decode_all(&[0xC0, 0x80, 0x80, 0x00], Some(Version::V3_1_1)), Ok(Packet::PingReq));
}

#[test]
fn what_mqtt_3_1_does_not_use_is_ignored() {
    let v3 = Some(Version::V3_1);
    // DUP on a repeated PUBREL and SUBSCRIBE, and on QoS 0.
    assert_eq!(decode_all(&[0x6A, 2, 0, 1], v3), Ok(Packet::PubRel(Ack::success(id(1)))));
    let subscribe = decode_all(b"\x8A\x06\x00\x01\x00\x01a\xFD", v3).unwrap();
    let Packet::Subscribe(subscribe) = subscribe else { panic!("{subscribe:?}") };
    assert_eq!(subscribe.subscriptions[0].options, SubOptions { qos: QoS::AtLeastOnce, ..SubOptions::default() });
    let publish = decode_all(b"\x38\x03\x00\x01a", v3).unwrap();
    assert!(matches!(publish, Packet::Publish(Publish { dup: false, qos: QoS::AtMostOnce, .. })));
    // The reserved byte of CONNACK, the reserved bit of CONNECT, will bits without a will.
    assert!(matches!(decode_all(&[0x20, 2, 0xFF, 0], v3), Ok(Packet::ConnAck(ConnAck { session_present: false, .. }))));
    let mut expected = connect(Version::V3_1);
    assert_eq!(
        decode_all(b"\x10\x0F\x00\x06MQIsdp\x03\x3B\x00\x3C\x00\x01c", None),
        Ok(Packet::Connect(Box::new(expected.clone())))
    );
    // Flags for names that are not there.
    assert_eq!(
        decode_all(b"\x10\x0F\x00\x06MQIsdp\x03\xC2\x00\x3C\x00\x01c", None),
        Ok(Packet::Connect(Box::new(expected.clone())))
    );
    expected.username = Some("");
    assert_eq!(
        decode_all(b"\x10\x11\x00\x06MQIsdp\x03\xC2\x00\x3C\x00\x01c\x00\x00", None),
        Ok(Packet::Connect(Box::new(expected)))
    );
}

#[test]
fn properties_of_connect_and_will() {
    let mut own = PropertiesBuf::new();
    own.push(Property::SessionExpiryInterval(0x0102_0304)).unwrap();
    own.push(Property::ReceiveMaximum(10)).unwrap();
    own.push(Property::UserProperty(("a", "1"))).unwrap();
    own.push(Property::UserProperty(("a", "2"))).unwrap();
    let mut will = PropertiesBuf::new();
    will.push(Property::WillDelayInterval(5)).unwrap();
    will.push(Property::ContentType("t")).unwrap();
    let mut connect = connect(Version::V5);
    connect.properties = own.as_properties();
    connect.will =
        Some(Will { qos: QoS::AtMostOnce, retain: false, topic: "w", payload: b"", properties: will.as_properties() });
    // MQTT 5 allows a password alone.
    connect.password = Some(b"secret");
    let packet = Packet::Connect(Box::new(connect));
    let bytes = encoded(&packet, Version::V5);
    let decoded = decode_all(&bytes, None).unwrap();
    assert_eq!(decoded, packet);
    let Packet::Connect(decoded) = &decoded else { panic!("{decoded:?}") };
    assert_eq!(decoded.properties.session_expiry_interval(), Some(0x0102_0304));
    assert_eq!(decoded.properties.receive_maximum(), Some(10));
    assert_eq!(decoded.properties.topic_alias_maximum(), None);
    assert!(decoded.properties.user_properties().eq([("a", "1"), ("a", "2")]));
    assert_eq!(decoded.will.unwrap().properties.will_delay_interval(), Some(5));
    assert!(!format!("{decoded:?}").contains("secret"));
    // Nothing of it is sent in an older version.
    let mut older = (**decoded).clone();
    older.version = Version::V3_1_1;
    older.password = None;
    let bytes = encoded(&Packet::Connect(Box::new(older)), Version::V5);
    assert_eq!(bytes, packet_of_311());
}

fn packet_of_311() -> Vec<u8> {
    packet(0x10, &[b"\x00\x04MQTT\x04\x06\x00\x3C\x00\x01c\x00\x01w\x00\x00"])
}

/// [MQTT-3.2.2-1], [MQTT311-3.9.3-2]
#[test]
fn what_a_version_cannot_express_is_left_out() {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::ReasonString("why")).unwrap();
    let properties = properties.as_properties();
    let refused = ConnAck { session_present: false, reason: ReasonCode::ServerBusy, properties };
    assert_eq!(encoded(&Packet::ConnAck(refused), Version::V3_1_1), [0x20, 2, 0, 3]);
    let resumed = ConnAck { session_present: true, reason: ReasonCode::Success, properties };
    assert_eq!(encoded(&Packet::ConnAck(resumed), Version::V3_1), [0x20, 2, 0, 0]);
    let ack = Ack { packet_id: id(1), reason: ReasonCode::NoMatchingSubscribers, properties };
    assert_eq!(encoded(&Packet::PubAck(ack), Version::V3_1_1), [0x40, 2, 0, 1]);
    let ack = SubAck { packet_id: id(1), properties, reasons: smallvec![ReasonCode::NotAuthorized] };
    assert_eq!(encoded(&Packet::SubAck(ack), Version::V3_1_1), [0x90, 3, 0, 1, 0x80]);
    let ack = UnsubAck { packet_id: id(1), properties, reasons: smallvec![ReasonCode::Success] };
    assert_eq!(encoded(&Packet::UnsubAck(ack), Version::V3_1_1), [0xB0, 2, 0, 1]);
    let disconnect = Disconnect { reason: ReasonCode::SessionTakenOver, properties };
    assert_eq!(encoded(&Packet::Disconnect(disconnect), Version::V3_1_1), [0xE0, 0]);
}

#[test]
fn remaining_length_of_every_size() {
    for (length, header) in [(127, 2), (128, 3), (16_383, 3), (16_384, 4), (2_097_151, 4), (2_097_152, 5)] {
        let payload = vec![b'x'; length - 3];
        let publish = Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "a",
            packet_id: None,
            properties: NONE,
            payload: &payload,
        });
        let bytes = encoded(&publish, Version::V3_1_1);
        assert_eq!(bytes.len(), header + length);
        assert_eq!(decode_all(&bytes, Some(Version::V3_1_1)), Ok(publish));
    }
}

#[test]
fn the_version_of_a_broken_connect_is_known() {
    for version in Version::ALL {
        let bytes = encoded(&Packet::Connect(Box::new(connect(version))), version);
        assert_eq!(connect_version(&bytes), Some(version));
        let enough = 2 + 2 + version.protocol_name().len() + 1;
        assert_eq!(connect_version(&bytes[..enough]), Some(version));
        assert_eq!(connect_version(&bytes[..enough - 1]), None);
    }
    assert_eq!(connect_version(&[0xC0, 0]), None);
    assert_eq!(connect_version(&packet(0x10, &[b"\x00\x04MQTT\x06"])), None);
}

/// [MQTT-1.5.4-3], [MQTT311-1.5.3-3]
#[test]
fn a_byte_order_mark_is_a_character() {
    let bytes = packet(0x30, &[b"\x00\x04\xEF\xBB\xBFa"]);
    let decoded = decode_all(&bytes, Some(Version::V3_1_1)).unwrap();
    let Packet::Publish(publish) = &decoded else { panic!("{decoded:?}") };
    assert_eq!(publish.topic, "\u{FEFF}a");
    assert_eq!(encoded(&decoded, Version::V3_1_1), bytes);
}
