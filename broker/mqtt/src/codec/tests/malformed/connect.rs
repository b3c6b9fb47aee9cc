//! CONNECT.

use super::super::packet;
use super::{MQTT, check, field, property};
use crate::topic::TopicError;
use crate::{DecodeError, FieldError, PacketType, PropertyError, PropertyId, PropertyPlace, ReasonCode};

use DecodeError::{Reserved, Rule, TopicName};

/// [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-1.5.5-1], [MQTT-3.1.2-1], [MQTT-3.1.2-2], [MQTT-3.1.2-3], [MQTT-3.1.2-9], [MQTT-3.1.2-11],
/// [MQTT-3.1.2-12], [MQTT-3.1.2-13], [MQTT-3.1.2-16], [MQTT-3.1.2-17], [MQTT-3.1.2-18], [MQTT-3.1.2-19], [MQTT-3.1.3-3], [MQTT-3.1.3-4],
/// [MQTT-3.1.3-11], [MQTT-3.1.3-12], [MQTT311-1.5.3-1], [MQTT311-1.5.3-2], [MQTT311-3.1.2-1], [MQTT311-3.1.2-2], [MQTT311-3.1.2-3],
/// [MQTT311-3.1.2-9], [MQTT311-3.1.2-11], [MQTT311-3.1.2-13], [MQTT311-3.1.2-14], [MQTT311-3.1.2-15], [MQTT311-3.1.2-18],
/// [MQTT311-3.1.2-19], [MQTT311-3.1.2-20], [MQTT311-3.1.2-21], [MQTT311-3.1.2-22], [MQTT311-3.1.3-3], [MQTT311-3.1.3-4],
/// [MQTT311-3.1.3-10], [MQTT311-3.1.3-11]
#[test]
fn connect() {
    use PacketType::Connect;
    let rule = |rule| Rule { packet: Connect, rule };
    let connect = |level: u8, flags: u8, rest: &[u8]| packet(0x10, &[MQTT, &[level, flags, 0, 60], rest]);
    let reserved = |field, value| Reserved { packet: Connect, field, value };
    check(vec![
        ("empty", None, packet(0x10, &[]), field(Connect, "protocol name", FieldError::Truncated)),
        ("another protocol", None, packet(0x10, &[b"\x00\x04HTTP\x04"]), DecodeError::ProtocolName),
        ("lower case", None, packet(0x10, &[b"\x00\x04mqtt\x04"]), DecodeError::ProtocolName),
        ("level 6", None, connect(6, 2, &[0, 0]), DecodeError::ProtocolLevel { level: 6 }),
        ("a bridge's level", None, connect(0x84, 2, &[0, 0]), DecodeError::ProtocolLevel { level: 0x84 }),
        ("MQTT, level 3", None, connect(3, 2, &[0, 0]), DecodeError::ProtocolLevel { level: 3 }),
        (
            "MQIsdp, level 4",
            None,
            packet(0x10, &[b"\x00\x06MQIsdp\x04\x02\x00\x00\x00\x00"]),
            DecodeError::ProtocolLevel { level: 4 },
        ),
        ("no flags", None, packet(0x10, &[MQTT, &[4]]), field(Connect, "connect flags", FieldError::Truncated)),
        (
            "half a keep alive",
            None,
            packet(0x10, &[MQTT, &[4, 2, 0]]),
            field(Connect, "keep alive", FieldError::Truncated),
        ),
        ("reserved flag", None, connect(4, 0b11, &[0, 0]), reserved("connect flags", 0b11)),
        ("reserved flag, 5", None, connect(5, 0b11, &[0, 0, 0]), reserved("connect flags", 0b11)),
        ("password without user", None, connect(4, 0x42, &[0, 0, 0, 0]), rule("a password without a user name")),
        ("will QoS without will", None, connect(4, 0x0A, &[0, 0]), rule("will flags without a will")),
        ("will retain without will", None, connect(5, 0x22, &[0, 0, 0]), rule("will flags without a will")),
        ("will QoS 3", None, connect(4, 0x1E, &[0, 0, 0, 1, b'a', 0, 0]), reserved("will QoS", 0x1E)),
        ("no client id", None, connect(4, 2, &[]), field(Connect, "client identifier", FieldError::Truncated)),
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
        ("overlong", None, connect(4, 2, &[0, 2, 0xC0, 0x80]), field(Connect, "client identifier", FieldError::Utf8)),
        ("U+0000", None, connect(4, 2, &[0, 2, b'a', 0]), field(Connect, "client identifier", FieldError::Nul)),
        ("no will", None, connect(4, 6, &[0, 0]), field(Connect, "will topic", FieldError::Truncated)),
        (
            "empty will topic",
            None,
            connect(4, 6, &[0, 0, 0, 0, 0, 0]),
            TopicName { packet: Connect, error: TopicError::Empty },
        ),
        (
            "wildcard in the will topic",
            None,
            connect(4, 6, &[0, 0, 0, 1, b'#', 0, 0]),
            TopicName { packet: Connect, error: TopicError::Wildcard },
        ),
        ("will retain without will, 3.1.1", None, connect(4, 0x22, &[0, 0]), rule("will flags without a will")),
        ("will QoS without will, 5", None, connect(5, 0x0A, &[0, 0, 0]), rule("will flags without a will")),
        ("will QoS 3, 5", None, connect(5, 0x1E, &[0, 0, 0, 0, 0, 1, b'a', 0, 0]), reserved("will QoS", 0x1E)),
        (
            "no will payload",
            None,
            connect(4, 6, &[0, 0, 0, 1, b'w']),
            field(Connect, "will payload", FieldError::Truncated),
        ),
        (
            "a will without its flag",
            None,
            connect(5, 2, &[0, 0, 0, 0, 0, 1, b'w', 0, 0]),
            DecodeError::TrailingBytes { packet: Connect, count: 6 },
        ),
        (
            "will topic not UTF-8",
            None,
            connect(4, 6, &[0, 0, 0, 1, 0xFF, 0, 0]),
            field(Connect, "will topic", FieldError::Utf8),
        ),
        (
            "user name not UTF-8",
            None,
            connect(4, 0x82, &[0, 0, 0, 1, 0xFF]),
            field(Connect, "user name", FieldError::Utf8),
        ),
        (
            "a user name without its flag",
            None,
            connect(4, 2, &[0, 0, 0, 1, b'u']),
            DecodeError::TrailingBytes { packet: Connect, count: 3 },
        ),
        (
            "a password without its flag",
            None,
            connect(5, 0x82, &[0, 0, 0, 0, 0, 0, 1, b'p']),
            DecodeError::TrailingBytes { packet: Connect, count: 3 },
        ),
        ("no user name", None, connect(4, 0x82, &[0, 0]), field(Connect, "user name", FieldError::Truncated)),
        ("no password", None, connect(4, 0xC2, &[0, 0, 0, 0]), field(Connect, "password", FieldError::Truncated)),
        ("trailing", None, connect(4, 2, &[0, 0, 9, 9]), DecodeError::TrailingBytes { packet: Connect, count: 2 }),
        ("no properties", None, connect(5, 2, &[]), field(Connect, "property length", FieldError::Truncated)),
        ("properties cut", None, connect(5, 2, &[9, 0x21]), field(Connect, "properties", FieldError::Truncated)),
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
            property(Connect, PropertyError::Missing { property: PropertyId::AuthenticationMethod }),
        ),
        (
            // Not 0x94, which CONNACK cannot carry.
            "topic alias 0",
            None,
            connect(5, 2, &[3, 0x23, 0, 0, 0, 0]),
            property(
                Connect,
                PropertyError::NotAllowed { property: PropertyId::TopicAlias, place: PropertyPlace::Packet(Connect) },
            ),
        ),
        (
            "a property that is not a will's",
            None,
            connect(5, 6, &[0, 0, 0, 3, 0x23, 0, 1, 0, 1, b'a', 0, 0]),
            property(
                Connect,
                PropertyError::NotAllowed { property: PropertyId::TopicAlias, place: PropertyPlace::Will },
            ),
        ),
    ]);
    assert_eq!(DecodeError::ProtocolLevel { level: 6 }.reason_code(), ReasonCode::UnsupportedProtocolVersion);
}
