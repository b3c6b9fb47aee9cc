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
