//! Packets that must be refused, with the reason.

mod answers;
mod connect;
mod publish;
mod subscribe;

use super::{decode_all, packet};
use crate::topic::TopicError;
use crate::{DecodeError, FieldError, Limits, PacketType, PropertyError, ReasonCode, Version, decode};

use DecodeError::{Field, Flags, Property, TopicFilter, TopicName};

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
    Field { packet, field, error }
}

const fn property(packet: PacketType, error: PropertyError) -> DecodeError {
    Property { packet, error }
}

/// [MQTT-1.5.5-1], [MQTT-2.1.3-1], [MQTT-3.1.0-1], [MQTT-3.3.1-2], [MQTT-3.3.1-4], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1],
/// [MQTT-3.14.1-1], [MQTT-3.15.1-1], [MQTT311-2.2.2-1], [MQTT311-2.2.2-2], [MQTT311-3.1.0-1], [MQTT311-3.3.1-2], [MQTT311-3.3.1-4],
/// [MQTT311-3.6.1-1], [MQTT311-3.8.1-1], [MQTT311-3.10.1-1], [MQTT311-3.14.1-1]
#[test]
fn fixed_header() {
    use PacketType::*;
    let flags = |packet, flags| Flags { packet, flags };
    let mut cases = vec![
        ("type 0", V5, vec![0x00, 0], DecodeError::PacketType { number: 0 }),
        ("type 0 first", None, vec![0x00, 0], DecodeError::PacketType { number: 0 }),
        ("AUTH in 3.1.1", V4, vec![0xF0, 0], DecodeError::PacketType { number: 15 }),
        ("AUTH in 3.1", V3, vec![0xF0, 0], DecodeError::PacketType { number: 15 }),
        ("a fifth length byte", V5, vec![0xC0, 0x80, 0x80, 0x80, 0x80, 0x01], DecodeError::RemainingLength),
        ("a fifth length byte, 3.1.1", V4, vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], DecodeError::RemainingLength),
        ("length 0 in two bytes", V5, vec![0xC0, 0x80, 0x00], DecodeError::RemainingLength),
        ("PINGREQ with a body", V4, vec![0xC0, 1, 0], DecodeError::TrailingBytes { packet: PingReq, count: 1 }),
        ("PINGREQ first", None, vec![0xC0, 0], DecodeError::ConnectExpected { packet: PingReq }),
        ("PUBLISH with QoS 3", V4, vec![0x36, 0], flags(Publish, 0b0110)),
        ("PUBLISH with QoS 3, 3.1", V3, vec![0x36, 0], flags(Publish, 0b0110)),
        ("PUBLISH with DUP and QoS 0", V5, vec![0x38, 0], flags(Publish, 0b1000)),
        ("PUBLISH with DUP and QoS 0, 3.1.1", V4, vec![0x38, 0], flags(Publish, 0b1000)),
        ("AUTH with flags", V5, vec![0xF1, 0], flags(Auth, 1)),
        ("CONNECT with flags", None, packet(0x11, &[MQTT, &[4, 2, 0, 0, 0, 0]]), flags(Connect, 1)),
    ];
    let plain = [ConnAck, PubAck, PubRec, PubComp, SubAck, UnsubAck, PingReq, PingResp, Disconnect];
    for (packet, expected) in plain.map(|packet| (packet, 0)).into_iter().chain([
        (PubRel, 0b0010),
        (Subscribe, 0b0010),
        (Unsubscribe, 0b0010),
    ]) {
        for bits in (0..16).filter(|bits| *bits != expected) {
            for version in [V4, V5] {
                cases.push(("reserved flags", version, vec![(packet as u8) << 4 | bits, 2, 0, 1], flags(packet, bits)));
            }
        }
    }
    check(cases);
    assert_eq!(DecodeError::ConnectExpected { packet: PingReq }.reason_code(), ReasonCode::ProtocolError);
    assert_eq!(flags(PubRel, 0).reason_code(), ReasonCode::MalformedPacket);
}

#[test]
fn limits_are_checked_before_the_packet_is_there() {
    let limits = Limits { max_packet_size: 100, max_topic_levels: 3 };
    let error = DecodeError::PacketTooLarge { size: 101, limit: 100 };
    assert_eq!(decode(&[0x30, 99], V4, &limits), Err(error));
    assert_eq!(error.reason_code(), ReasonCode::PacketTooLarge);
    assert_eq!(decode(&[0x30, 98], V4, &limits), Ok(crate::Decoded::Incomplete { need: 100 }));
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
        Err(TopicName { packet: PacketType::Publish, error })
    );
    assert_eq!(
        decode(&packet(0x82, &[b"\x00\x01\x00\x07a/b/c/#\x00"]), V4, &limits),
        Err(TopicFilter { packet: PacketType::Subscribe, error })
    );
}
