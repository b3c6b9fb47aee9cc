//! Packets with more in them than those of [`crate::client`].

use std::num::NonZeroU16;

use raftmq_mqtt::{
    Ack, Auth, Connect, Packet, Properties, PropertiesBuf, Property, Publish, QoS, ReasonCode, SubOptions, Subscribe,
    Subscription, Unsubscribe, Version, Will, encode,
};

use crate::client::{Client, Got};

pub(crate) fn bytes(packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, Version::V5, &mut out).unwrap();
    out
}

/// What a CONNECT says besides the usual.
#[derive(Default)]
pub(crate) struct Hello<'a> {
    pub(crate) id: &'a str,
    pub(crate) clean_start: bool,
    pub(crate) expiry_s: u32,
    pub(crate) username: Option<&'a str>,
    /// Topic, payload, retain, delay.
    pub(crate) will: Option<(&'a str, &'a [u8], bool, u32)>,
    pub(crate) method: Option<&'a str>,
}

impl Hello<'_> {
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut properties = PropertiesBuf::new();
        properties.push(Property::SessionExpiryInterval(self.expiry_s)).unwrap();
        if let Some(method) = self.method {
            properties.push(Property::AuthenticationMethod(method)).unwrap();
        }
        let mut will_properties = PropertiesBuf::new();
        if let Some((_, _, _, delay)) = self.will {
            will_properties.push(Property::WillDelayInterval(delay)).unwrap();
        }
        let will = self.will.map(|(topic, payload, retain, _)| Will {
            topic,
            payload,
            qos: QoS::AtLeastOnce,
            retain,
            properties: will_properties.as_properties(),
        });
        bytes(&Packet::Connect(Box::new(Connect {
            version: Version::V5,
            clean_start: self.clean_start,
            keep_alive: 0,
            client_id: self.id,
            will,
            username: self.username,
            password: None,
            properties: properties.as_properties(),
        })))
    }
}

pub(crate) fn publish_with(topic: &str, payload: &[u8], qos: QoS, retain: bool, packet_id: u16) -> Vec<u8> {
    bytes(&Packet::Publish(Publish {
        dup: false,
        qos,
        retain,
        topic,
        packet_id: NonZeroU16::new(packet_id).filter(|_| qos != QoS::AtMostOnce),
        properties: Properties::EMPTY,
        payload,
    }))
}

pub(crate) fn subscribe_with(packet_id: u16, filter: &str, options: SubOptions) -> Vec<u8> {
    bytes(&Packet::Subscribe(Subscribe {
        packet_id: NonZeroU16::new(packet_id).unwrap(),
        properties: Properties::EMPTY,
        subscriptions: vec![Subscription { filter, options }],
    }))
}

pub(crate) fn unsubscribe(packet_id: u16, filter: &str) -> Vec<u8> {
    bytes(&Packet::Unsubscribe(Unsubscribe {
        packet_id: NonZeroU16::new(packet_id).unwrap(),
        properties: Properties::EMPTY,
        filters: vec![filter],
    }))
}

pub(crate) fn pubrec(packet_id: NonZeroU16) -> Vec<u8> {
    bytes(&Packet::PubRec(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }))
}

pub(crate) fn pubrel(packet_id: u16) -> Vec<u8> {
    let packet_id = NonZeroU16::new(packet_id).unwrap();
    bytes(&Packet::PubRel(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }))
}

pub(crate) fn pubcomp(packet_id: NonZeroU16) -> Vec<u8> {
    bytes(&Packet::PubComp(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }))
}

pub(crate) fn auth(method: &str, data: &[u8]) -> Vec<u8> {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::AuthenticationMethod(method)).unwrap();
    properties.push(Property::AuthenticationData(data)).unwrap();
    let reason = ReasonCode::ContinueAuthentication;
    bytes(&Packet::Auth(Auth { reason, properties: properties.as_properties() }))
}

/// A message: topic, payload, RETAIN. Acknowledged where it asks for it with QoS 1.
pub(crate) fn message(client: &mut Client) -> (String, Vec<u8>, bool) {
    match client.receive() {
        Got::Publish { topic, payload, retain, packet_id, .. } => {
            if let Some(id) = packet_id {
                client.send(&crate::client::puback(id));
            }
            (topic, payload, retain)
        }
        other => panic!("PUBLISH expected: {other:?}"),
    }
}
