//! Acknowledgements, DISCONNECT and AUTH.

use super::{V4, V5, check, field, property};
use crate::{DecodeError, FieldError, PacketType, PropertyError, PropertyId};

use DecodeError::{Reserved, Rule};

/// [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-3.14.2-1], [MQTT-3.15.2-1]: whoever sends them.
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
            Reserved { packet: ConnAck, field: "connect acknowledge flags", value: 2 },
        ),
        ("CONNACK code 6", V4, vec![0x20, 2, 0, 6], code(ConnAck, 6)),
        ("CONNACK code of SUBACK", V5, vec![0x20, 3, 0, 1, 0], code(ConnAck, 1)),
        (
            "session present with an error",
            V4,
            vec![0x20, 2, 1, 5],
            Rule { packet: ConnAck, rule: "session present with an error" },
        ),
        (
            "CONNACK without properties",
            V5,
            vec![0x20, 2, 0, 0],
            field(ConnAck, "property length", FieldError::Truncated),
        ),
        ("PUBACK identifier 0", V4, vec![0x40, 2, 0, 0], DecodeError::ZeroPacketId { packet: PubAck }),
        ("PUBACK cut", V4, vec![0x40, 1, 0], field(PubAck, "packet identifier", FieldError::Truncated)),
        ("PUBACK with a reason in 3.1.1", V4, vec![0x40, 3, 0, 1, 0], trailing(PubAck)),
        ("PUBACK with a code of PUBREL", V5, vec![0x40, 3, 0, 1, 0x92], code(PubAck, 0x92)),
        ("PUBREL with an unknown code", V5, vec![0x62, 3, 0, 1, 0xFF], code(PubRel, 0xFF)),
        ("PUBCOMP with a code of PUBACK", V5, vec![0x70, 3, 0, 1, 0x10], code(PubComp, 0x10)),
        ("PUBREC trailing", V5, vec![0x50, 5, 0, 1, 0, 0, 0], trailing(PubRec)),
        ("SUBACK code 3", V4, vec![0x90, 3, 0, 1, 3], code(SubAck, 3)),
        ("SUBACK 0x87 in 3.1.1", V4, vec![0x90, 3, 0, 1, 0x87], code(SubAck, 0x87)),
        ("SUBACK without codes", V5, vec![0x90, 3, 0, 1, 0], Rule { packet: SubAck, rule: "no reason code" }),
        ("UNSUBACK with codes in 3.1.1", V4, vec![0xB0, 3, 0, 1, 0], trailing(UnsubAck)),
        ("UNSUBACK granted QoS 1", V5, vec![0xB0, 4, 0, 1, 0, 1], code(UnsubAck, 1)),
        ("DISCONNECT with a reason in 3.1.1", V4, vec![0xE0, 1, 0], trailing(Disconnect)),
        ("DISCONNECT with a code of CONNACK", V5, vec![0xE0, 1, 0x86], code(Disconnect, 0x86)),
        ("AUTH without properties", V5, vec![0xF0, 1, 0x18], field(Auth, "property length", FieldError::Truncated)),
        ("AUTH with a code of CONNACK", V5, vec![0xF0, 6, 0x87, 4, 0x15, 0, 1, b'M'], code(Auth, 0x87)),
        (
            "AUTH without a method",
            V5,
            vec![0xF0, 2, 0x18, 0],
            property(Auth, PropertyError::Missing { property: PropertyId::AuthenticationMethod }),
        ),
    ]);
}
