//! Packets to bytes.

use std::num::NonZeroU16;

use smallvec::SmallVec;

use super::connect::encode_connect;
use super::packets::check_auth;
use super::{MAX_VAR_INT, write};
use crate::topic::{TopicFilter, validate_topic};
use crate::{
    Ack, EncodeError, FieldError, Packet, PacketType, Properties, PropertyPlace, Publish, QoS, ReasonCode, SubOptions,
    Subscribe, Version,
};

/// Appends a packet to `out` and returns how many bytes it took. On an error `out` is as it was.
///
/// What `version` cannot express is left out: properties and reason codes before MQTT 5, session present in MQTT
/// 3.1, subscription options other than the quality of service before MQTT 5. A CONNECT is encoded in its own
/// version. The limit of the receiver's maximum packet size is the caller's (`[MQTT-3.1.2-24]`).
pub fn encode(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
    let start = out.len();
    let written = encode_at(packet, version, out, start);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn encode_at(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>, start: usize) -> Result<usize, EncodeError> {
    let packet_type = packet.packet_type();
    // One byte is enough for the remaining length of nearly all packets; room for more is made afterwards.
    out.extend_from_slice(&[(packet_type as u8) << 4 | flags(packet), 0]);
    let version = if let Packet::Connect(connect) = packet { connect.version } else { version };
    body(packet, &mut Writer { packet: packet_type, version, out })?;

    let length = out.len() - start - 2;
    let mut length_bytes = SmallVec::<[u8; 4]>::new();
    u32::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_VAR_INT)
        .and_then(|length| write::var_int(&mut length_bytes, length).ok())
        .ok_or(EncodeError::PacketTooLarge { packet: packet_type, length })?;
    if let [byte] = length_bytes[..] {
        out[start + 1] = byte;
    } else {
        out.splice(start + 1..start + 2, length_bytes);
    }
    Ok(out.len() - start)
}

fn flags(packet: &Packet<'_>) -> u8 {
    match packet {
        Packet::Publish(publish) => u8::from(publish.dup) << 3 | (publish.qos as u8) << 1 | u8::from(publish.retain),
        Packet::PubRel(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) => 0b0010,
        _ => 0,
    }
}

fn body(packet: &Packet<'_>, out: &mut Writer<'_>) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(connect) => encode_connect(connect, out),
        Packet::ConnAck(ack) => {
            if ack.session_present && ack.reason.is_error() {
                // [MQTT-3.2.2-6], [MQTT311-3.2.2-4]
                return Err(out.rule("session present with an error"));
            }
            // [MQTT-3.2.2-1]
            out.byte(u8::from(ack.session_present && out.version != Version::V3_1));
            out.check_reason(ack.reason)?;
            out.byte(if out.version.is_v5() { ack.reason as u8 } else { ack.reason.connect_return_code() });
            out.own_properties(ack.properties)
        }
        Packet::Publish(publish) => encode_publish(publish, out),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => encode_ack(ack, out),
        Packet::Subscribe(subscribe) => encode_subscribe(subscribe, out),
        Packet::SubAck(ack) => {
            out.packet_id(ack.packet_id);
            out.own_properties(ack.properties)?;
            out.reasons(&ack.reasons)
        }
        Packet::Unsubscribe(unsubscribe) => {
            out.packet_id(unsubscribe.packet_id);
            out.own_properties(unsubscribe.properties)?;
            if unsubscribe.filters.is_empty() {
                return Err(out.rule("no topic filter"));
            }
            unsubscribe.filters.iter().try_for_each(|filter| out.topic_filter(filter).map(|_| ()))
        }
        Packet::UnsubAck(ack) => {
            out.packet_id(ack.packet_id);
            out.own_properties(ack.properties)?;
            if out.version.is_v5() { out.reasons(&ack.reasons) } else { Ok(()) }
        }
        Packet::PingReq | Packet::PingResp => Ok(()),
        Packet::Disconnect(disconnect) => out.short_form(disconnect.reason, disconnect.properties),
        Packet::Auth(auth) => {
            if !out.version.is_v5() {
                return Err(EncodeError::NotInVersion { packet: out.packet, version: out.version });
            }
            check_auth(auth).map_err(|error| EncodeError::Property { packet: out.packet, error })?;
            if auth.reason == ReasonCode::Success && auth.properties.is_empty() {
                return Ok(());
            }
            out.check_reason(auth.reason)?;
            out.byte(auth.reason as u8);
            out.own_properties(auth.properties)
        }
    }
}

fn encode_publish(publish: &Publish<'_>, out: &mut Writer<'_>) -> Result<(), EncodeError> {
    if publish.dup && publish.qos == QoS::AtMostOnce {
        // [MQTT-3.3.1-2]
        return Err(out.rule("DUP with QoS 0"));
    }
    if out.version.is_v5() && publish.topic.is_empty() && publish.properties.topic_alias().is_some() {
        out.two(0);
    } else {
        out.topic_name(publish.topic)?;
    }
    match (publish.qos, publish.packet_id) {
        (QoS::AtMostOnce, None) => {}
        (QoS::AtLeastOnce | QoS::ExactlyOnce, Some(id)) => out.packet_id(id),
        // [MQTT-2.2.1-2], [MQTT-2.2.1-3]
        _ => return Err(out.rule("a packet identifier stands with QoS above 0, and only there")),
    }
    out.own_properties(publish.properties)?;
    out.out.extend_from_slice(publish.payload);
    Ok(())
}

fn encode_ack(ack: &Ack<'_>, out: &mut Writer<'_>) -> Result<(), EncodeError> {
    out.packet_id(ack.packet_id);
    out.short_form(ack.reason, ack.properties)
}

fn encode_subscribe(subscribe: &Subscribe<'_>, out: &mut Writer<'_>) -> Result<(), EncodeError> {
    out.packet_id(subscribe.packet_id);
    out.own_properties(subscribe.properties)?;
    if subscribe.subscriptions.is_empty() {
        return Err(out.rule("no topic filter"));
    }
    for subscription in &subscribe.subscriptions {
        let filter = out.topic_filter(subscription.filter)?;
        let mut options = subscription.options;
        if !out.version.is_v5() {
            options = SubOptions { qos: options.qos, ..SubOptions::default() };
        }
        if options.no_local && filter.group().is_some() {
            // [MQTT-3.8.3-4]
            return Err(out.rule("no local on a shared subscription"));
        }
        out.byte(options.to_byte());
    }
    Ok(())
}

/// Where the variable header and payload of one packet are written.
pub(super) struct Writer<'o> {
    pub(super) packet: PacketType,
    pub(super) version: Version,
    out: &'o mut Vec<u8>,
}

impl Writer<'_> {
    fn field(&self, field: &'static str, written: Result<(), FieldError>) -> Result<(), EncodeError> {
        written.map_err(|error| EncodeError::Field { packet: self.packet, field, error })
    }

    pub(super) fn byte(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(super) fn two(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    fn packet_id(&mut self, id: NonZeroU16) {
        self.two(id.get());
    }

    pub(super) fn text(&mut self, field: &'static str, value: &str) -> Result<(), EncodeError> {
        let written = write::text(self.out, value);
        self.field(field, written)
    }

    pub(super) fn binary(&mut self, field: &'static str, value: &[u8]) -> Result<(), EncodeError> {
        let written = write::binary(self.out, value);
        self.field(field, written)
    }

    pub(super) fn topic_name(&mut self, topic: &str) -> Result<(), EncodeError> {
        validate_topic(topic).map_err(|error| EncodeError::Topic { packet: self.packet, error })?;
        self.text("topic name", topic)
    }

    fn topic_filter<'f>(&mut self, filter: &'f str) -> Result<TopicFilter<'f>, EncodeError> {
        let parsed = TopicFilter::parse(filter).map_err(|error| EncodeError::Topic { packet: self.packet, error })?;
        self.text("topic filter", filter)?;
        Ok(parsed)
    }

    /// Left out before MQTT 5; there, none are a length of 0 `[MQTT-2.2.2-1]`.
    pub(super) fn properties(&mut self, properties: Properties<'_>, place: PropertyPlace) -> Result<(), EncodeError> {
        if !self.version.is_v5() {
            return Ok(());
        }
        let raw = properties.as_bytes();
        Properties::parse(raw, place).map_err(|error| EncodeError::Property { packet: self.packet, error })?;
        let length = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        let written = write::var_int(self.out, length);
        self.field("property length", written)?;
        self.out.extend_from_slice(raw);
        Ok(())
    }

    fn own_properties(&mut self, properties: Properties<'_>) -> Result<(), EncodeError> {
        self.properties(properties, PropertyPlace::Packet(self.packet))
    }

    fn check_reason(&self, reason: ReasonCode) -> Result<(), EncodeError> {
        if reason.allowed_in(self.packet) {
            Ok(())
        } else {
            Err(EncodeError::ReasonCode { packet: self.packet, reason })
        }
    }

    /// One a topic filter. Before MQTT 5 there is one failure, 0x80 (`[MQTT311-3.9.3-2]`).
    fn reasons(&mut self, reasons: &[ReasonCode]) -> Result<(), EncodeError> {
        if reasons.is_empty() {
            return Err(self.rule("no reason code"));
        }
        for &reason in reasons {
            self.check_reason(reason)?;
            let code = if reason.is_error() && !self.version.is_v5() { ReasonCode::UnspecifiedError } else { reason };
            self.byte(code as u8);
        }
        Ok(())
    }

    /// A reason code and properties at the end of a packet, in the shortest form (3.4.2.1, 3.14.2.1).
    fn short_form(&mut self, reason: ReasonCode, properties: Properties<'_>) -> Result<(), EncodeError> {
        if !self.version.is_v5() {
            return Ok(());
        }
        self.check_reason(reason)?;
        if reason != ReasonCode::Success || !properties.is_empty() {
            self.byte(reason as u8);
        }
        if properties.is_empty() { Ok(()) } else { self.own_properties(properties) }
    }

    pub(super) fn rule(&self, rule: &'static str) -> EncodeError {
        EncodeError::Rule { packet: self.packet, rule }
    }
}
