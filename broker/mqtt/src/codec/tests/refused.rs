//! What is not encoded.

use smallvec::smallvec;

use super::valid::{NONE, connect, id};
use crate::topic::TopicError;
use crate::{
    Ack, Auth, EncodeError, FieldError, Packet, PacketType, PropertiesBuf, Property, PropertyError, PropertyId,
    PropertyPlace, Publish, QoS, ReasonCode, SubAck, SubOptions, Subscribe, Subscription, Unsubscribe, Version, encode,
};

fn error(packet: &Packet<'_>, version: Version) -> EncodeError {
    let mut out = vec![7; 3];
    let error = encode(packet, version, &mut out).unwrap_err();
    assert_eq!(out, [7; 3], "nothing is appended");
    error
}

#[test]
fn what_must_not_be_sent_is_refused() {
    use PacketType as Type;
    let rule = |packet, rule| EncodeError::Rule { packet, rule };
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "a",
        packet_id: None,
        properties: NONE,
        payload: b"",
    };
    let id_rule = rule(Type::Publish, "a packet identifier stands with QoS above 0, and only there");
    let mut twice = PropertiesBuf::new();
    twice.push(Property::ReasonString("a")).unwrap();
    twice.push(Property::ReasonString("b")).unwrap();
    let mut alias = PropertiesBuf::new();
    alias.push(Property::TopicAlias(1)).unwrap();
    let subscription =
        Subscription { filter: "$share/g/a", options: SubOptions { no_local: true, ..SubOptions::default() } };
    let mut alone = connect(Version::V3_1_1);
    alone.password = Some(b"p");
    let mut long = connect(Version::V5);
    let long_id = "x".repeat(65_536);
    long.client_id = &long_id;
    let cases = [
        (
            Packet::Auth(Auth { reason: ReasonCode::Success, properties: NONE }),
            Version::V3_1_1,
            EncodeError::NotInVersion { packet: Type::Auth, version: Version::V3_1_1 },
        ),
        (
            Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, properties: NONE }),
            Version::V5,
            EncodeError::Property {
                packet: Type::Auth,
                error: PropertyError::Missing { property: PropertyId::AuthenticationMethod },
            },
        ),
        (Packet::Publish(Publish { dup: true, ..publish }), Version::V5, rule(Type::Publish, "DUP with QoS 0")),
        (Packet::Publish(Publish { packet_id: Some(id(1)), ..publish }), Version::V5, id_rule),
        (Packet::Publish(Publish { qos: QoS::AtLeastOnce, ..publish }), Version::V5, id_rule),
        (
            Packet::Publish(Publish { topic: "", ..publish }),
            Version::V5,
            EncodeError::Topic { packet: Type::Publish, error: TopicError::Empty },
        ),
        (
            Packet::Publish(Publish { topic: "", properties: alias.as_properties(), ..publish }),
            Version::V3_1_1,
            EncodeError::Topic { packet: Type::Publish, error: TopicError::Empty },
        ),
        (
            Packet::PubAck(Ack { packet_id: id(1), reason: ReasonCode::KeepAliveTimeout, properties: NONE }),
            Version::V5,
            EncodeError::ReasonCode { packet: Type::PubAck, reason: ReasonCode::KeepAliveTimeout },
        ),
        (
            Packet::PubAck(Ack { packet_id: id(1), reason: ReasonCode::Success, properties: twice.as_properties() }),
            Version::V5,
            EncodeError::Property {
                packet: Type::PubAck,
                error: PropertyError::Duplicate { property: PropertyId::ReasonString },
            },
        ),
        (
            Packet::PubAck(Ack { packet_id: id(1), reason: ReasonCode::Success, properties: alias.as_properties() }),
            Version::V5,
            EncodeError::Property {
                packet: Type::PubAck,
                error: PropertyError::NotAllowed {
                    property: PropertyId::TopicAlias,
                    place: PropertyPlace::Packet(Type::PubAck),
                },
            },
        ),
        (
            Packet::Subscribe(Subscribe { packet_id: id(1), properties: NONE, subscriptions: vec![subscription] }),
            Version::V5,
            rule(Type::Subscribe, "no local on a shared subscription"),
        ),
        (
            Packet::Unsubscribe(Unsubscribe { packet_id: id(1), properties: NONE, filters: vec![] }),
            Version::V5,
            rule(Type::Unsubscribe, "no topic filter"),
        ),
        (
            Packet::SubAck(SubAck { packet_id: id(1), properties: NONE, reasons: smallvec![] }),
            Version::V3_1_1,
            rule(Type::SubAck, "no reason code"),
        ),
        (Packet::Connect(Box::new(alone)), Version::V5, rule(Type::Connect, "a password without a user name")),
        (
            Packet::Connect(Box::new(long)),
            Version::V5,
            EncodeError::Field { packet: Type::Connect, field: "client identifier", error: FieldError::TooLong },
        ),
    ];
    for (packet, version, expected) in cases {
        assert_eq!(error(&packet, version), expected);
    }
}
