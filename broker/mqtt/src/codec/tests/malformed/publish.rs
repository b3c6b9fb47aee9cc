//! PUBLISH.

use super::super::packet;
use super::{V3, V4, V5, check, field, property};
use crate::topic::TopicError;
use crate::{DecodeError, FieldError, PacketType, PropertyError, PropertyId, PropertyPlace, ReasonCode};

use DecodeError::{Rule, TopicName};

/// [MQTT-1.5.7-1], [MQTT-2.2.1-2], [MQTT-3.3.2-1], [MQTT-3.3.2-2], [MQTT-3.3.2-8], [MQTT-3.3.2-13], [MQTT-3.3.2-14], [MQTT-3.3.2-19],
/// [MQTT-4.7.0-1], [MQTT311-2.3.1-1], [MQTT311-3.3.2-1], [MQTT311-3.3.2-2]
#[test]
fn publish() {
    use PacketType::Publish;
    let name = |error| TopicName { packet: Publish, error };
    let v5 = |properties: &[u8]| packet(0x30, &[b"\x00\x01a", &[properties.len() as u8], properties]);
    let value = |property| PropertyError::Value { property };
    check(vec![
        ("no topic", V4, packet(0x30, &[]), field(Publish, "topic name", FieldError::Truncated)),
        ("topic cut", V4, packet(0x30, &[b"\x00\x09a"]), field(Publish, "topic name", FieldError::Truncated)),
        ("empty topic", V4, packet(0x30, &[b"\x00\x00"]), name(TopicError::Empty)),
        ("topic with #", V4, packet(0x30, &[b"\x00\x03a/#"]), name(TopicError::Wildcard)),
        ("topic with +", V5, packet(0x30, &[b"\x00\x01+\x00"]), name(TopicError::Wildcard)),
        ("topic with NUL", V4, packet(0x30, &[b"\x00\x01\x00"]), field(Publish, "topic name", FieldError::Nul)),
        ("topic not UTF-8", V3, packet(0x30, &[b"\x00\x01\xFF"]), field(Publish, "topic name", FieldError::Utf8)),
        (
            "no identifier",
            V4,
            packet(0x32, &[b"\x00\x01a"]),
            field(Publish, "packet identifier", FieldError::Truncated),
        ),
        ("identifier 0", V4, packet(0x32, &[b"\x00\x01a\x00\x00"]), DecodeError::ZeroPacketId { packet: Publish }),
        (
            "identifier 0, QoS 2",
            V5,
            packet(0x34, &[b"\x00\x01a\x00\x00\x00"]),
            DecodeError::ZeroPacketId { packet: Publish },
        ),
        ("no properties", V5, packet(0x30, &[b"\x00\x01a"]), field(Publish, "property length", FieldError::Truncated)),
        (
            "neither topic nor alias",
            V5,
            packet(0x30, &[b"\x00\x00\x00"]),
            Rule { packet: Publish, rule: "no topic name and no topic alias" },
        ),
        ("alias 0", V5, v5(&[0x23, 0, 0]), property(Publish, value(PropertyId::TopicAlias))),
        ("format 2", V5, v5(&[0x01, 2]), property(Publish, value(PropertyId::PayloadFormatIndicator))),
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
            "response topic not UTF-8",
            V5,
            v5(b"\x08\x00\x01\xFF"),
            property(Publish, PropertyError::Field { property: PropertyId::ResponseTopic, error: FieldError::Utf8 }),
        ),
        (
            "content type not UTF-8",
            V5,
            v5(b"\x03\x00\x01\xFF"),
            property(Publish, PropertyError::Field { property: PropertyId::ContentType, error: FieldError::Utf8 }),
        ),
        (
            "name of a user property not UTF-8",
            V5,
            v5(&[0x26, 0, 1, 0xFF, 0, 0]),
            property(Publish, PropertyError::Field { property: PropertyId::UserProperty, error: FieldError::Utf8 }),
        ),
        (
            "expiry twice",
            V5,
            v5(&[2, 0, 0, 0, 1, 2, 0, 0, 0, 1]),
            property(Publish, PropertyError::Duplicate { property: PropertyId::MessageExpiryInterval }),
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
        ("unknown property", V5, v5(&[0x7F]), property(Publish, PropertyError::Unknown { id: 0x7F })),
        (
            "property identifier too long",
            V5,
            v5(&[0x81, 0x00, 1]),
            property(Publish, PropertyError::Identifier { error: FieldError::VarInt }),
        ),
        (
            "property cut",
            V5,
            v5(&[0x02, 0, 0]),
            property(
                Publish,
                PropertyError::Field { property: PropertyId::MessageExpiryInterval, error: FieldError::Truncated },
            ),
        ),
        (
            "user property with NUL",
            V5,
            v5(&[0x26, 0, 1, 0, 0, 0]),
            property(Publish, PropertyError::Field { property: PropertyId::UserProperty, error: FieldError::Nul }),
        ),
    ]);
    assert_eq!(property(Publish, value(PropertyId::TopicAlias)).reason_code(), ReasonCode::TopicAliasInvalid);
    assert_eq!(name(TopicError::Wildcard).reason_code(), ReasonCode::TopicNameInvalid);
}
