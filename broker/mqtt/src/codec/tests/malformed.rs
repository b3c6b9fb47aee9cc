//! Packets that must be refused, with the reason.

use super::{decode_all, packet};
use crate::topic::TopicError;
use crate::{
    DecodeError, FieldError, Limits, PacketType, PropertyError, PropertyId, PropertyPlace,
    ReasonCode, Version, decode,
};

use DecodeError::{Field, Flags, Property, Reserved, Rule, TopicFilter, TopicName};

const V3: Option<Version> = Some(Version::V3_1);
const V4: Option<Version> = Some(Version::V3_1_1);
const V5: Option<Version> = Some(Version::V5);
const MQTT: &[u8] = b"\x00\x04MQTT";

type Case = (&'static str, Option<Version>, Vec<u8>, DecodeError);

fn check(cases: Vec<Case>) {
    for (name, version, bytes, expected) in cases {
        assert_eq!(decode_all(&bytes, version), Err(expected), "{name}");
        assert!(expected.reason_code().is_error(), "{name}");
        assert!(!expected.to_string().is_empty());
    }
}

const fn field(packet: PacketType, field: &'static str, error: FieldError) -> DecodeError {
    Field {
        packet,
        field,
        error,
    }
}

const fn property(packet: PacketType, error: PropertyError) -> DecodeError {
    Property { packet, error }
}

#[test]
fn fixed_header() {
    use PacketType::*;
    let flags = |packet, flags| Flags { packet, flags };
    let mut cases = vec![
        (
            "type 0",
            V5,
            vec![0x00, 0],
            DecodeError::PacketType { number: 0 },
        ),
        (
            "type 0 first",
            None,
            vec![0x00, 0],
            DecodeError::PacketType { number: 0 },
        ),
        (
            "AUTH in 3.1.1",
            V4,
            vec![0xF0, 0],
            DecodeError::PacketType { number: 15 },
        ),
        (
            "AUTH in 3.1",
            V3,
            vec![0xF0, 0],
            DecodeError::PacketType { number: 15 },
        ),
        (
            "a fifth length byte",
            V5,
            vec![0xC0, 0x80, 0x80, 0x80, 0x80, 0x01],
            DecodeError::RemainingLength,
        ),
        (
            "a fifth length byte, 3.1.1",
            V4,
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            DecodeError::RemainingLength,
        ),
        (
            "length 0 in two bytes",
            V5,
            vec![0xC0, 0x80, 0x00],
            DecodeError::RemainingLength,
        ),
        (
            "PINGREQ with a body",
            V4,
            vec![0xC0, 1, 0],
            DecodeError::TrailingBytes {
                packet: PingReq,
                count: 1,
            },
        ),
        (
            "PINGREQ first",
            None,
            vec![0xC0, 0],
            DecodeError::ConnectExpected { packet: PingReq },
        ),
        (
            "PUBLISH with QoS 3",
            V4,
            vec![0x36, 0],
            flags(Publish, 0b0110),
        ),
        (
            "PUBLISH with QoS 3, 3.1",
            V3,
            vec![0x36, 0],
            flags(Publish, 0b0110),
        ),
        (
            "PUBLISH with DUP and QoS 0",
            V5,
            vec![0x38, 0],
            flags(Publish, 0b1000),
        ),
        (
            "CONNECT with flags",
            None,
            packet(0x11, &[MQTT, &[4, 2, 0, 0, 0, 0]]),
            flags(Connect, 1),
        ),
    ];
    let plain = [
        ConnAck, PubAck, PubRec, PubComp, SubAck, UnsubAck, PingReq, PingResp, Disconnect,
    ];
    for (packet, expected) in plain.map(|packet| (packet, 0)).into_iter().chain([
        (PubRel, 0b0010),
        (Subscribe, 0b0010),
        (Unsubscribe, 0b0010),
    ]) {
        for bits in (0..16).filter(|bits| *bits != expected) {
            for version in [V4, V5] {
                cases.push((
                    "reserved flags",
                    version,
                    vec![(packet as u8) << 4 | bits, 2, 0, 1],
                    flags(packet, bits),
                ));
            }
        }
    }
    check(cases);
    assert_eq!(
        DecodeError::ConnectExpected { packet: PingReq }.reason_code(),
        ReasonCode::ProtocolError
    );
}

#[test]
fn connect() {
    use PacketType::Connect;
    let rule = |rule| Rule {
        packet: Connect,
        rule,
    };
    let connect =
        |level: u8, flags: u8, rest: &[u8]| packet(0x10, &[MQTT, &[level, flags, 0, 60], rest]);
    let reserved = |field, value| Reserved {
        packet: Connect,
        field,
        value,
    };
    check(vec![
        (
            "empty",
            None,
            packet(0x10, &[]),
            field(Connect, "protocol name", FieldError::Truncated),
        ),
        (
            "another protocol",
            None,
            packet(0x10, &[b"\x00\x04HTTP\x04"]),
            DecodeError::ProtocolName,
        ),
        (
            "lower case",
            None,
            packet(0x10, &[b"\x00\x04mqtt\x04"]),
            DecodeError::ProtocolName,
        ),
        (
            "level 6",
            None,
            connect(6, 2, &[0, 0]),
            DecodeError::ProtocolLevel { level: 6 },
        ),
        (
            "a bridge's level",
            None,
            connect(0x84, 2, &[0, 0]),
            DecodeError::ProtocolLevel { level: 0x84 },
        ),
        (
            "MQTT, level 3",
            None,
            connect(3, 2, &[0, 0]),
            DecodeError::ProtocolLevel { level: 3 },
        ),
        (
            "MQIsdp, level 4",
            None,
            packet(0x10, &[b"\x00\x06MQIsdp\x04\x02\x00\x00\x00\x00"]),
            DecodeError::ProtocolLevel { level: 4 },
        ),
        (
            "no flags",
            None,
            packet(0x10, &[MQTT, &[4]]),
            field(Connect, "connect flags", FieldError::Truncated),
        ),
        (
            "half a keep alive",
            None,
            packet(0x10, &[MQTT, &[4, 2, 0]]),
            field(Connect, "keep alive", FieldError::Truncated),
        ),
        (
            "reserved flag",
            None,
            connect(4, 0b11, &[0, 0]),
            reserved("connect flags", 0b11),
        ),
        (
            "reserved flag, 5",
            None,
            connect(5, 0b11, &[0, 0, 0]),
            reserved("connect flags", 0b11),
        ),
        (
            "password without user",
            None,
            connect(4, 0x42, &[0, 0, 0, 0]),
            rule("a password without a user name"),
        ),
        (
            "will QoS without will",
            None,
            connect(4, 0x0A, &[0, 0]),
            rule("will flags without a will"),
        ),
        (
            "will retain without will",
            None,
            connect(5, 0x22, &[0, 0, 0]),
            rule("will flags without a will"),
        ),
        (
            "will QoS 3",
            None,
            connect(4, 0x1E, &[0, 0, 0, 1, b'a', 0, 0]),
            reserved("will QoS", 0x1E),
        ),
        (
            "no client id",
            None,
            connect(4, 2, &[]),
            field(Connect, "client identifier", FieldError::Truncated),
        ),
        (
            "client id cut",
            None,
            connect(4, 2, &[0, 3, b'a']),
            field(Connect, "client identifier", FieldError::Truncated),
        ),
        (
            "surrogate",
            None,
            connect(4, 2, &[0, 3, 0xED, 0xA0, 0x80]),
            field(Connect, "client identifier", FieldError::Utf8),
        ),
        (
            "overlong",
            None,
            connect(4, 2, &[0, 2, 0xC0, 0x80]),
            field(Connect, "client identifier", FieldError::Utf8),
        ),
        (
            "U+0000",
            None,
            connect(4, 2, &[0, 2, b'a', 0]),
            field(Connect, "client identifier", FieldError::Nul),
        ),
        (
            "no will",
            None,
            connect(4, 6, &[0, 0]),
            field(Connect, "will topic", FieldError::Truncated),
        ),
        (
            "empty will topic",
            None,
            connect(4, 6, &[0, 0, 0, 0, 0, 0]),
            TopicName {
                packet: Connect,
                error: TopicError::Empty,
            },
        ),
        (
            "wildcard in the will topic",
            None,
            connect(4, 6, &[0, 0, 0, 1, b'#', 0, 0]),
            TopicName {
                packet: Connect,
                error: TopicError::Wildcard,
            },
        ),
        (
            "no user name",
            None,
            connect(4, 0x82, &[0, 0]),
            field(Connect, "user name", FieldError::Truncated),
        ),
        (
            "no password",
            None,
            connect(4, 0xC2, &[0, 0, 0, 0]),
            field(Connect, "password", FieldError::Truncated),
        ),
        (
            "trailing",
            None,
            connect(4, 2, &[0, 0, 9, 9]),
            DecodeError::TrailingBytes {
                packet: Connect,
                count: 2,
            },
        ),
        (
            "no properties",
            None,
            connect(5, 2, &[]),
            field(Connect, "property length", FieldError::Truncated),
        ),
        (
            "properties cut",
            None,
            connect(5, 2, &[9, 0x21]),
            field(Connect, "properties", FieldError::Truncated),
        ),
        (
            "length of 5 bytes",
            None,
            packet(0x10, &[MQTT, &[5, 2, 0, 0, 0x80, 0x80, 0x80, 0x80, 1]]),
            field(Connect, "property length", FieldError::VarInt),
        ),
        (
            "MQTT 5, fixed header too long",
            None,
            [&[0x10, 0x8D, 0x00][..], MQTT, &[5, 2, 0, 0, 0, 0, 0]].concat(),
            DecodeError::RemainingLength,
        ),
        (
            "authentication data alone",
            None,
            connect(5, 2, &[4, 0x16, 0, 1, 1, 0, 0]),
            property(
                Connect,
                PropertyError::Missing {
                    property: PropertyId::AuthenticationMethod,
                },
            ),
        ),
        (
            // Not 0x94, which CONNACK cannot carry.
            "topic alias 0",
            None,
            connect(5, 2, &[3, 0x23, 0, 0, 0, 0]),
            property(
                Connect,
                PropertyError::NotAllowed {
                    property: PropertyId::TopicAlias,
                    place: PropertyPlace::Packet(Connect),
                },
            ),
        ),
        (
            "a property that is not a will's",
            None,
            connect(5, 6, &[0, 0, 0, 3, 0x23, 0, 1, 0, 1, b'a', 0, 0]),
            property(
                Connect,
                PropertyError::NotAllowed {
                    property: PropertyId::TopicAlias,
                    place: PropertyPlace::Will,
                },
            ),
        ),
    ]);
    assert_eq!(
        DecodeError::ProtocolLevel { level: 6 }.reason_code(),
        ReasonCode::UnsupportedProtocolVersion
    );
}

#[test]
fn publish() {
    use PacketType::Publish;
    let name = |error| TopicName {
        packet: Publish,
        error,
    };
    let v5 =
        |properties: &[u8]| packet(0x30, &[b"\x00\x01a", &[properties.len() as u8], properties]);
    let value = |property| PropertyError::Value { property };
    check(vec![
        (
            "no topic",
            V4,
            packet(0x30, &[]),
            field(Publish, "topic name", FieldError::Truncated),
        ),
        (
            "topic cut",
            V4,
            packet(0x30, &[b"\x00\x09a"]),
            field(Publish, "topic name", FieldError::Truncated),
        ),
        (
            "empty topic",
            V4,
            packet(0x30, &[b"\x00\x00"]),
            name(TopicError::Empty),
        ),
        (
            "topic with #",
            V4,
            packet(0x30, &[b"\x00\x03a/#"]),
            name(TopicError::Wildcard),
        ),
        (
            "topic with +",
            V5,
            packet(0x30, &[b"\x00\x01+\x00"]),
            name(TopicError::Wildcard),
        ),
        (
            "topic with NUL",
            V4,
            packet(0x30, &[b"\x00\x01\x00"]),
            field(Publish, "topic name", FieldError::Nul),
        ),
        (
            "topic not UTF-8",
            V3,
            packet(0x30, &[b"\x00\x01\xFF"]),
            field(Publish, "topic name", FieldError::Utf8),
        ),
        (
            "no identifier",
            V4,
            packet(0x32, &[b"\x00\x01a"]),
            field(Publish, "packet identifier", FieldError::Truncated),
        ),
        (
            "identifier 0",
            V4,
            packet(0x32, &[b"\x00\x01a\x00\x00"]),
            DecodeError::ZeroPacketId { packet: Publish },
        ),
        (
            "identifier 0, QoS 2",
            V5,
            packet(0x34, &[b"\x00\x01a\x00\x00\x00"]),
            DecodeError::ZeroPacketId { packet: Publish },
        ),
        (
            "no properties",
            V5,
            packet(0x30, &[b"\x00\x01a"]),
            field(Publish, "property length", FieldError::Truncated),
        ),
        (
            "neither topic nor alias",
            V5,
            packet(0x30, &[b"\x00\x00\x00"]),
            Rule {
                packet: Publish,
                rule: "no topic name and no topic alias",
            },
        ),
        (
            "alias 0",
            V5,
            v5(&[0x23, 0, 0]),
            property(Publish, value(PropertyId::TopicAlias)),
        ),
        (
            "format 2",
            V5,
            v5(&[0x01, 2]),
            property(Publish, value(PropertyId::PayloadFormatIndicator)),
        ),
        (
            "identifier 0 of a subscription",
            V5,
            v5(&[0x0B, 0]),
            property(Publish, value(PropertyId::SubscriptionIdentifier)),
        ),
        (
            "wildcard in the response topic",
            V5,
            v5(b"\x08\x00\x01#"),
            property(Publish, value(PropertyId::ResponseTopic)),
        ),
        (
            "expiry twice",
            V5,
            v5(&[2, 0, 0, 0, 1, 2, 0, 0, 0, 1]),
            property(
                Publish,
                PropertyError::Duplicate {
                    property: PropertyId::MessageExpiryInterval,
                },
            ),
        ),
        (
            "a property of CONNECT",
            V5,
            v5(&[0x21, 0, 1]),
            property(
                Publish,
                PropertyError::NotAllowed {
                    property: PropertyId::ReceiveMaximum,
                    place: PropertyPlace::Packet(Publish),
                },
            ),
        ),
        (
            "unknown property",
            V5,
            v5(&[0x7F]),
            property(Publish, PropertyError::Unknown { id: 0x7F }),
        ),
        (
            "property identifier too long",
            V5,
            v5(&[0x81, 0x00, 1]),
            property(
                Publish,
                PropertyError::Identifier {
                    error: FieldError::VarInt,
                },
            ),
        ),
        (
            "property cut",
            V5,
            v5(&[0x02, 0, 0]),
            property(
                Publish,
                PropertyError::Field {
                    property: PropertyId::MessageExpiryInterval,
                    error: FieldError::Truncated,
                },
            ),
        ),
        (
            "user property with NUL",
            V5,
            v5(&[0x26, 0, 1, 0, 0, 0]),
            property(
                Publish,
                PropertyError::Field {
                    property: PropertyId::UserProperty,
                    error: FieldError::Nul,
                },
            ),
        ),
    ]);
    assert_eq!(
        property(Publish, value(PropertyId::TopicAlias)).reason_code(),
        ReasonCode::TopicAliasInvalid
    );
    assert_eq!(
        name(TopicError::Wildcard).reason_code(),
        ReasonCode::TopicNameInvalid
    );
}

#[test]
fn subscribe_and_unsubscribe() {
    use PacketType::{Subscribe, Unsubscribe};
    let options = |value| Reserved {
        packet: Subscribe,
        field: "subscription options",
        value,
    };
    let filter = |packet, error| TopicFilter { packet, error };
    let none = |packet| Rule {
        packet,
        rule: "no topic filter",
    };
    let v5 = |rest: &[u8]| packet(0x82, &[&[0, 1, 0], rest]);
    let v4 = |rest: &[u8]| packet(0x82, &[&[0, 1], rest]);
    check(vec![
        (
            "identifier 0",
            V4,
            packet(0x82, &[b"\x00\x00\x00\x01a\x00"]),
            DecodeError::ZeroPacketId { packet: Subscribe },
        ),
        ("no filter", V4, v4(&[]), none(Subscribe)),
        ("no filter, 5", V5, v5(&[]), none(Subscribe)),
        ("no filter, 3.1", V3, v4(&[]), none(Subscribe)),
        (
            "no options",
            V4,
            v4(b"\x00\x01a"),
            field(Subscribe, "subscription options", FieldError::Truncated),
        ),
        ("QoS 3", V4, v4(b"\x00\x01a\x03"), options(3)),
        ("QoS 3, 3.1", V3, v4(b"\x00\x01a\x03"), options(3)),
        (
            "options of MQTT 5 in 3.1.1",
            V4,
            v4(b"\x00\x01a\x04"),
            options(4),
        ),
        ("reserved bits", V5, v5(b"\x00\x01a\x40"), options(0x40)),
        ("retain handling 3", V5, v5(b"\x00\x01a\x30"), options(0x30)),
        (
            "empty filter",
            V4,
            v4(b"\x00\x00\x00"),
            filter(Subscribe, TopicError::Empty),
        ),
        (
            "a#",
            V4,
            v4(b"\x00\x02a#\x00"),
            filter(Subscribe, TopicError::MultiLevel),
        ),
        (
            "#/a",
            V5,
            v5(b"\x00\x03#/a\x00"),
            filter(Subscribe, TopicError::MultiLevel),
        ),
        (
            "a+",
            V5,
            v5(b"\x00\x02a+\x00"),
            filter(Subscribe, TopicError::SingleLevel),
        ),
        (
            "$share/g",
            V5,
            v5(b"\x00\x08$share/g\x00"),
            filter(Subscribe, TopicError::ShareFilter),
        ),
        (
            "no local, shared",
            V5,
            v5(b"\x00\x0A$share/g/a\x04"),
            Rule {
                packet: Subscribe,
                rule: "no local on a shared subscription",
            },
        ),
        (
            "two subscription identifiers",
            V5,
            packet(0x82, &[b"\x00\x01\x04\x0B\x01\x0B\x02\x00\x01a\x00"]),
            property(
                Subscribe,
                PropertyError::Duplicate {
                    property: PropertyId::SubscriptionIdentifier,
                },
            ),
        ),
        (
            "the second filter is wrong",
            V4,
            v4(b"\x00\x01a\x00\x00\x02#a\x00"),
            filter(Subscribe, TopicError::MultiLevel),
        ),
        (
            "no filter to unsubscribe",
            V4,
            packet(0xA2, &[&[0, 1]]),
            none(Unsubscribe),
        ),
        (
            "no filter to unsubscribe, 5",
            V5,
            packet(0xA2, &[&[0, 1, 0]]),
            none(Unsubscribe),
        ),
        (
            "unsubscribe #a",
            V4,
            packet(0xA2, &[b"\x00\x01\x00\x02#a"]),
            filter(Unsubscribe, TopicError::MultiLevel),
        ),
        (
            "unsubscribe identifier 0",
            V4,
            packet(0xA2, &[b"\x00\x00\x00\x01a"]),
            DecodeError::ZeroPacketId {
                packet: Unsubscribe,
            },
        ),
    ]);
    assert_eq!(
        filter(Subscribe, TopicError::Empty).reason_code(),
        ReasonCode::TopicFilterInvalid
    );
}

#[test]
fn answers() {
    use PacketType::*;
    let code = |packet, code| DecodeError::ReasonCode { packet, code };
    let trailing = |packet| DecodeError::TrailingBytes { packet, count: 1 };
    check(vec![
        (
            "CONNACK flags",
            V4,
            vec![0x20, 2, 2, 0],
            Reserved {
                packet: ConnAck,
                field: "connect acknowledge flags",
                value: 2,
            },
        ),
        ("CONNACK code 6", V4, vec![0x20, 2, 0, 6], code(ConnAck, 6)),
        (
            "CONNACK code of SUBACK",
            V5,
            vec![0x20, 3, 0, 1, 0],
            code(ConnAck, 1),
        ),
        (
            "session present with an error",
            V4,
            vec![0x20, 2, 1, 5],
            Rule {
                packet: ConnAck,
                rule: "session present with an error",
            },
        ),
        (
            "CONNACK without properties",
            V5,
            vec![0x20, 2, 0, 0],
            field(ConnAck, "property length", FieldError::Truncated),
        ),
        (
            "PUBACK identifier 0",
            V4,
            vec![0x40, 2, 0, 0],
            DecodeError::ZeroPacketId { packet: PubAck },
        ),
        (
            "PUBACK cut",
            V4,
            vec![0x40, 1, 0],
            field(PubAck, "packet identifier", FieldError::Truncated),
        ),
        (
            "PUBACK with a reason in 3.1.1",
            V4,
            vec![0x40, 3, 0, 1, 0],
            trailing(PubAck),
        ),
        (
            "PUBACK with a code of PUBREL",
            V5,
            vec![0x40, 3, 0, 1, 0x92],
            code(PubAck, 0x92),
        ),
        (
            "PUBREL with an unknown code",
            V5,
            vec![0x62, 3, 0, 1, 0xFF],
            code(PubRel, 0xFF),
        ),
        (
            "PUBCOMP with a code of PUBACK",
            V5,
            vec![0x70, 3, 0, 1, 0x10],
            code(PubComp, 0x10),
        ),
        (
            "PUBREC trailing",
            V5,
            vec![0x50, 5, 0, 1, 0, 0, 0],
            trailing(PubRec),
        ),
        ("SUBACK code 3", V4, vec![0x90, 3, 0, 1, 3], code(SubAck, 3)),
        (
            "SUBACK 0x87 in 3.1.1",
            V4,
            vec![0x90, 3, 0, 1, 0x87],
            code(SubAck, 0x87),
        ),
        (
            "SUBACK without codes",
            V5,
            vec![0x90, 3, 0, 1, 0],
            Rule {
                packet: SubAck,
                rule: "no reason code",
            },
        ),
        (
            "UNSUBACK with codes in 3.1.1",
            V4,
            vec![0xB0, 3, 0, 1, 0],
            trailing(UnsubAck),
        ),
        (
            "UNSUBACK granted QoS 1",
            V5,
            vec![0xB0, 4, 0, 1, 0, 1],
            code(UnsubAck, 1),
        ),
        (
            "DISCONNECT with a reason in 3.1.1",
            V4,
            vec![0xE0, 1, 0],
            trailing(Disconnect),
        ),
        (
            "DISCONNECT with a code of CONNACK",
            V5,
            vec![0xE0, 1, 0x86],
            code(Disconnect, 0x86),
        ),
        (
            "AUTH without properties",
            V5,
            vec![0xF0, 1, 0x18],
            field(Auth, "property length", FieldError::Truncated),
        ),
        (
            "AUTH without a method",
            V5,
            vec![0xF0, 2, 0x18, 0],
            property(
                Auth,
                PropertyError::Missing {
                    property: PropertyId::AuthenticationMethod,
                },
            ),
        ),
    ]);
}

#[test]
fn limits_are_checked_before_the_packet_is_there() {
    let limits = Limits {
        max_packet_size: 100,
        max_topic_levels: 3,
    };
    let error = DecodeError::PacketTooLarge {
        size: 101,
        limit: 100,
    };
    assert_eq!(decode(&[0x30, 99], V4, &limits), Err(error));
    assert_eq!(error.reason_code(), ReasonCode::PacketTooLarge);
    assert_eq!(
        decode(&[0x30, 98], V4, &limits),
        Ok(crate::Decoded::Incomplete { need: 100 })
    );
    let size = 5 + 268_435_455;
    assert_eq!(
        decode(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F], None, &limits),
        Err(DecodeError::PacketTooLarge { size, limit: 100 })
    );
    assert_eq!(
        decode(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F], None, &Limits::PROTOCOL),
        Ok(crate::Decoded::Incomplete { need: size })
    );

    assert!(decode(&packet(0x30, &[b"\x00\x05a/b/c"]), V4, &limits).is_ok());
    let error = TopicError::TooManyLevels { limit: 3 };
    assert_eq!(
        decode(&packet(0x30, &[b"\x00\x03///"]), V4, &limits),
        Err(TopicName {
            packet: PacketType::Publish,
            error
        })
    );
    assert_eq!(
        decode(
            &packet(0x82, &[b"\x00\x01\x00\x07a/b/c/#\x00"]),
            V4,
            &limits
        ),
        Err(TopicFilter {
            packet: PacketType::Subscribe,
            error
        })
    );
}
