//! SUBSCRIBE and UNSUBSCRIBE.

use super::super::packet;
use super::{V3, V4, V5, check, field, property};
use crate::topic::TopicError;
use crate::{DecodeError, FieldError, PacketType, PropertyError, PropertyId, ReasonCode};

use DecodeError::{Reserved, Rule, TopicFilter};

/// [MQTT-3.8.3-1], [MQTT-3.8.3-2], [MQTT-3.8.3-4], [MQTT-3.8.3-5], [MQTT-3.10.3-1], [MQTT-3.10.3-2], [MQTT311-2.3.1-1], [MQTT311-3.8.3-1],
/// [MQTT311-3.8.3-3], [MQTT311-3.8.3-4], [MQTT311-3.10.3-1], [MQTT311-3.10.3-2]
#[test]
fn subscribe_and_unsubscribe() {
    use PacketType::{Subscribe, Unsubscribe};
    let options = |value| Reserved { packet: Subscribe, field: "subscription options", value };
    let filter = |packet, error| TopicFilter { packet, error };
    let none = |packet| Rule { packet, rule: "no topic filter" };
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
        ("no options", V4, v4(b"\x00\x01a"), field(Subscribe, "subscription options", FieldError::Truncated)),
        ("QoS 3", V4, v4(b"\x00\x01a\x03"), options(3)),
        ("QoS 3, 3.1", V3, v4(b"\x00\x01a\x03"), options(3)),
        ("options of MQTT 5 in 3.1.1", V4, v4(b"\x00\x01a\x04"), options(4)),
        ("reserved bits", V5, v5(b"\x00\x01a\x40"), options(0x40)),
        ("reserved bits and QoS 3", V5, v5(b"\x00\x01a\x83"), options(0x83)),
        ("QoS 3, 5", V5, v5(b"\x00\x01a\x03"), Rule { packet: Subscribe, rule: "a maximum QoS of 3" }),
        ("retain handling 3", V5, v5(b"\x00\x01a\x30"), Rule { packet: Subscribe, rule: "retain handling 3" }),
        ("not UTF-8", V4, v4(b"\x00\x01\xFF\x00"), field(Subscribe, "topic filter", FieldError::Utf8)),
        (
            "unsubscribe what is not UTF-8",
            V5,
            packet(0xA2, &[b"\x00\x01\x00\x00\x01\xFF"]),
            field(Unsubscribe, "topic filter", FieldError::Utf8),
        ),
        ("empty filter", V4, v4(b"\x00\x00\x00"), filter(Subscribe, TopicError::Empty)),
        ("a#", V4, v4(b"\x00\x02a#\x00"), filter(Subscribe, TopicError::MultiLevel)),
        ("#/a", V5, v5(b"\x00\x03#/a\x00"), filter(Subscribe, TopicError::MultiLevel)),
        ("a+", V5, v5(b"\x00\x02a+\x00"), filter(Subscribe, TopicError::SingleLevel)),
        ("$share/g", V5, v5(b"\x00\x08$share/g\x00"), filter(Subscribe, TopicError::ShareFilter)),
        (
            "no local, shared",
            V5,
            v5(b"\x00\x0A$share/g/a\x04"),
            Rule { packet: Subscribe, rule: "no local on a shared subscription" },
        ),
        (
            "two subscription identifiers",
            V5,
            packet(0x82, &[b"\x00\x01\x04\x0B\x01\x0B\x02\x00\x01a\x00"]),
            property(Subscribe, PropertyError::Duplicate { property: PropertyId::SubscriptionIdentifier }),
        ),
        (
            "the second filter is wrong",
            V4,
            v4(b"\x00\x01a\x00\x00\x02#a\x00"),
            filter(Subscribe, TopicError::MultiLevel),
        ),
        ("no filter to unsubscribe", V4, packet(0xA2, &[&[0, 1]]), none(Unsubscribe)),
        ("no filter to unsubscribe, 5", V5, packet(0xA2, &[&[0, 1, 0]]), none(Unsubscribe)),
        ("unsubscribe #a", V4, packet(0xA2, &[b"\x00\x01\x00\x02#a"]), filter(Unsubscribe, TopicError::MultiLevel)),
        (
            "unsubscribe identifier 0",
            V4,
            packet(0xA2, &[b"\x00\x00\x00\x01a"]),
            DecodeError::ZeroPacketId { packet: Unsubscribe },
        ),
    ]);
    assert_eq!(filter(Subscribe, TopicError::Empty).reason_code(), ReasonCode::TopicFilterInvalid);
}
