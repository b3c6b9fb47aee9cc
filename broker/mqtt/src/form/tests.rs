#![allow(clippy::unwrap_used)]

use super::*;
use crate::{Origin, Properties, Publish};

fn message(properties: Properties<'_>, expires_at_ms: Option<u64>) -> Message {
    let publish = Publish {
        dup: false,
        qos: QoS::ExactlyOnce,
        retain: true,
        topic: "t",
        packet_id: None,
        properties,
        payload: b"xy",
    };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, "", 1_000, expires_at_ms).unwrap()
}

fn written(form: &PublishForm, packet_id: Option<u16>, dup: bool) -> Vec<u8> {
    let mut out = Vec::new();
    form.write(&mut out, packet_id.and_then(NonZeroU16::new), dup);
    assert_eq!(out.len(), form.encoded_len());
    let mut gathered = Vec::new();
    form.write_head(&mut gathered, packet_id.and_then(NonZeroU16::new), dup);
    gathered.extend_from_slice(form.payload());
    assert_eq!(gathered, out);
    out
}

/// [MQTT-2.2.1-2], [MQTT-3.3.1-2], [MQTT-3.3.2-6], [MQTT-4.3.1-1], [MQTT311-2.3.1-5], [MQTT311-3.3.1-2], [MQTT311-4.3.1-1]
#[test]
fn bytes_of_every_version() {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::UserProperty(("a", "b"))).unwrap();
    let message = message(properties.as_properties(), Some(11_000));
    let form =
        |version, qos, retain, ids: &[u32]| PublishForm::new(&message, version, qos, retain, ids, 3_500).unwrap();

    let old = form(Version::V3_1_1, QoS::AtMostOnce, false, &[1]);
    assert_eq!(written(&old, None, false), b"\x30\x05\x00\x01txy");
    // Neither an identifier nor DUP with QoS 0.
    assert_eq!(written(&old, Some(1), true), b"\x30\x05\x00\x01txy");
    assert_eq!(old.qos(), QoS::AtMostOnce);

    let old = form(Version::V3_1, QoS::AtLeastOnce, true, &[]);
    assert_eq!(written(&old, Some(0x0102), false), b"\x33\x07\x00\x01t\x01\x02xy");
    // The same form for another subscriber.
    assert_eq!(written(&old, Some(0x0304), true), b"\x3B\x07\x00\x01t\x03\x04xy");

    let new = form(Version::V5, QoS::ExactlyOnce, false, &[1, 300]);
    let expected = [
        &b"\x34\x19\x00\x01t\x01\x02\x11"[..],
        b"\x02\x00\x00\x00\x08\x0B\x01\x0B\xAC\x02",
        b"\x26\x00\x01a\x00\x01bxy",
    ]
    .concat();
    assert_eq!(written(&new, Some(0x0102), false), expected);
    assert_eq!((new.qos(), new.message()), (QoS::ExactlyOnce, &message));

    let bare = form(Version::V5, QoS::AtMostOnce, false, &[]);
    assert_eq!(written(&bare, None, false), b"\x30\x12\x00\x01t\x0C\x02\x00\x00\x00\x08\x26\x00\x01a\x00\x01bxy");
}

/// [MQTT-2.2.2-1]
#[test]
fn a_message_without_properties() {
    let message = message(Properties::EMPTY, None);
    let form = PublishForm::new(&message, Version::V5, QoS::AtMostOnce, false, &[], 0).unwrap();
    assert_eq!(written(&form, None, false), b"\x30\x06\x00\x01t\x00xy");
}

#[test]
fn a_subscription_identifier_must_be_valid() {
    let message = message(Properties::EMPTY, None);
    for id in [0, 268_435_456] {
        assert!(matches!(
            PublishForm::new(&message, Version::V5, QoS::AtMostOnce, false, &[id], 0),
            Err(EncodeError::Property { .. })
        ));
    }
}

/// [MQTT-3.3.2-8]
#[test]
fn topic_aliases() {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::UserProperty(("a", "b"))).unwrap();
    let message = message(properties.as_properties(), None);
    let alias = |introduce| Alias { number: NonZeroU16::new(0x0102).unwrap(), introduce };
    for (qos, first, id) in [(QoS::AtMostOnce, 0x30, &b""[..]), (QoS::ExactlyOnce, 0x34, b"\x00\x07")] {
        let form = PublishForm::new(&message, Version::V5, qos, false, &[1], 0).unwrap();
        for (introduce, topic) in [(true, &b"\x00\x01t"[..]), (false, b"\x00\x00")] {
            let rest = [topic, id, b"\x0C\x23\x01\x02\x0B\x01\x26\x00\x01a\x00\x01bxy"].concat();
            let mut out = Vec::new();
            assert!(form.write_with_alias(&mut out, NonZeroU16::new(7), false, alias(introduce)));
            assert_eq!(out, [&[first, rest.len() as u8][..], &rest].concat());
            assert_eq!(form.len_with_alias(alias(introduce)), Some(out.len()));
            let again = first | if qos == QoS::AtMostOnce { 0 } else { 0x08 };
            out.clear();
            assert!(form.write_with_alias(&mut out, NonZeroU16::new(7), true, alias(introduce)));
            assert_eq!(out[0], again);
        }
    }
    // None before MQTT 5, and none in a packet of the greatest size.
    let old = PublishForm::new(&message, Version::V3_1_1, QoS::AtMostOnce, false, &[], 0).unwrap();
    let mut out = Vec::new();
    assert_eq!(old.len_with_alias(alias(true)), None);
    assert!(!old.write_with_alias(&mut out, None, false, alias(true)) && out.is_empty());
}

#[test]
fn without_a_prefix() {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "m/t",
        packet_id: None,
        properties: Properties::EMPTY,
        payload: b"xy",
    };
    let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "", 0, None).unwrap();
    let form =
        |skipped| PublishForm::without_prefix(&message, skipped, Version::V3_1_1, QoS::AtMostOnce, false, &[], 0);
    assert_eq!(written(&form(2).unwrap(), None, false), b"\x30\x05\x00\x01txy");
    assert_eq!(form(2).unwrap().topic(), b"t");
    for skipped in [3, 4] {
        assert!(matches!(form(skipped), Err(EncodeError::Topic { error: TopicError::Empty, .. })));
    }
}
