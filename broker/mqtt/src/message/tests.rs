#![allow(clippy::unwrap_used)]

use super::*;
use crate::{PropertiesBuf, PropertyId};

const ORIGIN: Origin = Origin { node: 7, sequence: u64::MAX };

fn publish<'a>(properties: Properties<'a>) -> Publish<'a> {
    Publish {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        topic: "a/€",
        packet_id: None,
        properties,
        payload: b"payload",
    }
}

fn sample() -> Message {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::UserProperty(("k", "1"))).unwrap();
    properties.push(Property::ContentType("t")).unwrap();
    Message::new(&publish(properties.as_properties()), ORIGIN, "client", 1_000, Some(61_000)).unwrap()
}

fn wire(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.to_wire(&mut out);
    out
}

#[test]
fn says_what_it_was_made_of() {
    let message = sample();
    assert_eq!((message.topic(), message.publisher(), message.payload()), ("a/€", "client", &b"payload"[..]));
    assert_eq!((message.qos(), message.retain(), message.origin()), (QoS::ExactlyOnce, true, ORIGIN));
    assert_eq!((message.received_at_ms(), message.expires_at_ms()), (1_000, Some(61_000)));
    assert!(
        message.properties().iter().eq([Property::UserProperty(("k", "1")), Property::ContentType("t")]),
        "in the publisher's order"
    );
    assert!(!format!("{message:?}").contains("112"), "the payload is not shown");
}

#[test]
fn a_clone_shares_the_bytes() {
    let message = sample();
    assert_eq!(message.clone().payload().as_ptr(), message.payload().as_ptr());
}

/// [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-18], [MQTT-3.3.2-20]
#[test]
fn properties_of_one_hop_are_left_out() {
    let mut properties = PropertiesBuf::new();
    for property in [
        Property::MessageExpiryInterval(5),
        Property::UserProperty(("a", "1")),
        Property::TopicAlias(3),
        Property::UserProperty(("b", "2")),
        Property::SubscriptionIdentifier(9),
        Property::CorrelationData(b"c"),
        Property::PayloadFormatIndicator(1),
        Property::ContentType("t"),
        Property::ResponseTopic("r"),
        // Of a will.
        Property::WillDelayInterval(4),
    ] {
        properties.push(property).unwrap();
    }
    let message = Message::new(&publish(properties.as_properties()), ORIGIN, "", 0, None).unwrap();
    let kept = [
        Property::UserProperty(("a", "1")),
        Property::UserProperty(("b", "2")),
        Property::CorrelationData(b"c"),
        Property::PayloadFormatIndicator(1),
        Property::ContentType("t"),
        Property::ResponseTopic("r"),
    ];
    assert!(message.properties().iter().eq(kept));
}

#[test]
fn a_topic_alias_must_be_resolved() {
    let mut publish = publish(Properties::EMPTY);
    publish.topic = "";
    let error = Message::new(&publish, ORIGIN, "", 0, None).unwrap_err();
    assert_eq!(error, MessageError::Topic(TopicError::Empty));
    let publisher = "x".repeat(65_536);
    publish.topic = "a";
    let error = Message::new(&publish, ORIGIN, &publisher, 0, None).unwrap_err();
    assert_eq!(error, MessageError::TooLong { field: "publisher" });
}

#[test]
fn expiry() {
    let message = sample();
    for (now_ms, expired, seconds) in [
        (0, false, 61),
        (1_000, false, 60),
        (1_001, false, 60),
        (2_000, false, 59),
        (60_001, false, 1),
        (60_999, false, 1),
        (61_000, true, 0),
        (u64::MAX, true, 0),
    ] {
        assert_eq!(message.is_expired(now_ms), expired, "{now_ms}");
        assert_eq!(message.remaining_seconds(now_ms), Some(seconds), "{now_ms}");
    }
    let for_ever = Message::new(&publish(Properties::EMPTY), ORIGIN, "", 0, None).unwrap();
    assert!(!for_ever.is_expired(u64::MAX));
    assert_eq!(for_ever.remaining_seconds(0), None);
    let mut properties = PropertiesBuf::new();
    properties.push(Property::MessageExpiryInterval(u32::MAX)).unwrap();
    assert_eq!(publish(properties.as_properties()).expires_at_ms(5), Some(4_294_967_295_005));
    assert_eq!(publish(Properties::EMPTY).expires_at_ms(5), None);
}

/// Format 1 as other nodes read and write it: this must not change.
#[test]
fn format_1() {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::PayloadFormatIndicator(1)).unwrap();
    let mut publish = publish(properties.as_properties());
    publish.topic = "t";
    publish.payload = b"xyz";
    let message = Message::new(&publish, Origin { node: 1, sequence: 2 }, "id", 3, Some(4)).unwrap();
    let mut expected = vec![1, 0b1110, 2, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0];
    for number in 1..=4_u8 {
        expected.extend_from_slice(&[number, 0, 0, 0, 0, 0, 0, 0]);
    }
    expected.extend_from_slice(b"tid\x01\x01xyz");
    assert_eq!(wire(&message), expected);
    assert_eq!(message.wire_len(), expected.len());
    assert_eq!(Message::from_wire(&expected).unwrap(), message);
}

#[test]
fn the_number_of_a_change_goes_with_it() {
    let message = sample();
    assert_eq!(message.change(), None);
    let changed = message.with_change(7).with_change(u64::MAX - 1);
    assert_eq!(changed.wire_len(), message.wire_len() + 8);
    let read = Message::from_wire(&wire(&changed)).unwrap();
    assert_eq!((read.change(), read.payload(), read.topic()), (Some(u64::MAX - 1), message.payload(), message.topic()));
    assert_eq!(read.properties().iter().count(), message.properties().iter().count());
    let bytes = wire(&changed);
    let needed = bytes.len();
    let cut = Message::from_wire(&bytes[..needed - 1]);
    assert_eq!(cut, Err(MessageError::Truncated { needed, found: needed - 1 }));
}

#[test]
fn several_in_one_frame() {
    let first = sample();
    let second = Message::new(&publish(Properties::EMPTY), ORIGIN, "", 0, None).unwrap();
    let frame = [wire(&first), wire(&second)].concat();
    let (read, rest) = Message::split_wire(&frame).unwrap();
    assert_eq!(read, first);
    assert_eq!(Message::split_wire(rest).unwrap(), (second, &[][..]));
    let count = rest.len();
    assert_eq!(Message::from_wire(&frame), Err(MessageError::TrailingBytes { count }));
}

#[test]
fn every_prefix_is_truncated() {
    let bytes = wire(&sample());
    for end in 0..bytes.len() {
        let needed = if end < HEADER { HEADER } else { bytes.len() };
        assert_eq!(Message::from_wire(&bytes[..end]), Err(MessageError::Truncated { needed, found: end }));
    }
}

#[test]
fn damaged_bytes_are_refused() {
    let sample = wire(&sample());
    let topic_at = HEADER;
    let publisher_at = topic_at + "a/€".len();
    let properties_at = publisher_at + "client".len();
    let place = PropertyPlace::Packet(PacketType::Publish);
    for (at, value, expected) in [
        (0, 2, MessageError::Format { format: 2 }),
        (1, 0b0011, MessageError::Header { field: "flags" }),
        (1, 0b10_0000, MessageError::Header { field: "flags" }),
        (1, 0b0001, MessageError::Header { field: "expiry" }),
        (6, 1, MessageError::Header { field: "reserved bytes" }),
        (topic_at, b'#', MessageError::Topic(TopicError::Wildcard)),
        (topic_at, 0, MessageError::Topic(TopicError::Nul)),
        (topic_at, 0xFF, MessageError::Utf8 { field: "topic" }),
        (publisher_at, 0xFF, MessageError::Utf8 { field: "publisher" }),
        (properties_at, 0x7E, PropertyError::Unknown { id: 0x7E }.into()),
        (properties_at, 0x11, PropertyError::NotAllowed { property: PropertyId::SessionExpiryInterval, place }.into()),
    ] {
        let mut bytes = sample.clone();
        bytes[at] = value;
        assert_eq!(Message::from_wire(&bytes), Err(expected), "{at}");
    }
    // A property that a message does not keep.
    let message = Message::new(&publish(Properties::EMPTY), ORIGIN, "", 0, None).unwrap();
    let mut bytes = wire(&message);
    bytes[8] = 3;
    bytes.splice(HEADER + "a/€".len()..HEADER + "a/€".len(), [0x23, 0, 1]);
    let error = PropertyError::NotAllowed { property: PropertyId::TopicAlias, place }.into();
    assert_eq!(Message::from_wire(&bytes), Err(error));
    // Lengths that claim more than there can be.
    let mut bytes = sample;
    bytes[8..16].fill(0xFF);
    assert!(matches!(Message::from_wire(&bytes), Err(MessageError::Truncated { .. })));
}
