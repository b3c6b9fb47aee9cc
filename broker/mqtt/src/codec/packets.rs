//! The packets after CONNECT from bytes.

use smallvec::SmallVec;

use super::body::Body;
use crate::topic::TopicFilter;
use crate::{
    Ack, Auth, ConnAck, DecodeError, Disconnect, Properties, PropertyError, PropertyId, Publish, QoS, ReasonCode,
    SubAck, SubOptions, Subscribe, Subscription, UnsubAck, Unsubscribe, Version,
};

pub(super) fn conn_ack<'a>(body: &mut Body<'a, '_>) -> Result<ConnAck<'a>, DecodeError> {
    let field = "connect acknowledge flags";
    let flags = body.byte(field)?;
    // [MQTT-3.2.2-1]; MQTT 3.1 does not use the byte.
    if flags > 1 && body.version != Version::V3_1 {
        return Err(DecodeError::Reserved { packet: body.packet, field, value: flags });
    }
    let session_present = flags == 1 && body.version != Version::V3_1;
    let code = body.byte("reason code")?;
    let reason = if body.version.is_v5() {
        body.reason(code)?
    } else {
        ReasonCode::from_connect_return_code(code).ok_or(DecodeError::ReasonCode { packet: body.packet, code })?
    };
    // [MQTT-3.2.2-6], [MQTT311-3.2.2-4]
    if session_present && reason.is_error() {
        return Err(body.rule("session present with an error"));
    }
    Ok(ConnAck { session_present, reason, properties: body.own_properties()? })
}

pub(super) fn publish<'a>(body: &mut Body<'a, '_>, flags: u8) -> Result<Publish<'a>, DecodeError> {
    // [MQTT-3.3.1-4], [MQTT311-3.3.1-4]
    let qos = QoS::from_u8(flags >> 1 & 0b11).ok_or(DecodeError::Flags { packet: body.packet, flags })?;
    let mut dup = flags & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        // [MQTT-3.3.1-2], [MQTT311-3.3.1-2]; without meaning in MQTT 3.1.
        if body.version != Version::V3_1 {
            return Err(DecodeError::Flags { packet: body.packet, flags });
        }
        dup = false;
    }
    // The topic name may be empty where an alias stands for it: looked at once the properties are known.
    let no_topic = body.version.is_v5() && body.cursor.clone().two() == Ok(0);
    let topic = if no_topic { body.text("topic name")? } else { body.topic_name("topic name")? };
    // [MQTT-2.2.1-2], [MQTT311-2.3.1-5]
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(body.packet_id()?) };
    let properties = body.own_properties()?;
    if no_topic && properties.topic_alias().is_none() {
        // 3.3.2.1
        return Err(body.rule("no topic name and no topic alias"));
    }
    let payload = body.cursor.rest();
    Ok(Publish { dup, qos, retain: flags & 1 != 0, topic, packet_id, properties, payload })
}

pub(super) fn ack<'a>(body: &mut Body<'a, '_>) -> Result<Ack<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let (reason, properties) = short_form(body)?;
    Ok(Ack { packet_id, reason, properties })
}

/// The reason code and properties at the end of a packet that may leave them out (3.4.2.1, 3.14.2.1).
fn short_form<'a>(body: &mut Body<'a, '_>) -> Result<(ReasonCode, Properties<'a>), DecodeError> {
    if !body.version.is_v5() || body.cursor.is_empty() {
        return Ok((ReasonCode::Success, Properties::EMPTY));
    }
    let code = body.byte("reason code")?;
    let reason = body.reason(code)?;
    let properties = if body.cursor.is_empty() { Properties::EMPTY } else { body.own_properties()? };
    Ok((reason, properties))
}

pub(super) fn subscribe<'a>(body: &mut Body<'a, '_>) -> Result<Subscribe<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.own_properties()?;
    let mut subscriptions = Vec::new();
    while !body.cursor.is_empty() {
        let filter = body.topic_filter()?;
        let options = subscription_options(body)?;
        if options.no_local && TopicFilter::parse(filter).is_ok_and(|filter| filter.group().is_some()) {
            // [MQTT-3.8.3-4]
            return Err(body.rule("no local on a shared subscription"));
        }
        subscriptions.push(Subscription { filter, options });
    }
    if subscriptions.is_empty() {
        // [MQTT-3.8.3-2], [MQTT311-3.8.3-3]
        return Err(body.rule("no topic filter"));
    }
    Ok(Subscribe { packet_id, properties, subscriptions })
}

/// Reserved bits make the packet malformed `[MQTT-3.8.3-5]` `[MQTT311-3.8.3-4]`; in MQTT 5, the values that its fields may not have are
/// protocol errors (3.8.3.1).
fn subscription_options(body: &mut Body<'_, '_>) -> Result<SubOptions, DecodeError> {
    let field = "subscription options";
    let value = body.byte(field)?;
    let reserved = DecodeError::Reserved { packet: body.packet, field, value };
    let meaningful = match body.version {
        // The upper bits have no meaning yet in MQTT 3.1.
        Version::V3_1 => value & 0b11,
        Version::V3_1_1 if value > 0b11 => return Err(reserved),
        Version::V3_1_1 => value,
        Version::V5 if value & 0b1100_0000 != 0 => return Err(reserved),
        Version::V5 if value & 0b11 == 0b11 => return Err(body.rule("a maximum QoS of 3")),
        Version::V5 if value >> 4 == 0b11 => return Err(body.rule("retain handling 3")),
        Version::V5 => value,
    };
    SubOptions::from_byte(meaningful).ok_or(reserved)
}

pub(super) fn sub_ack<'a>(body: &mut Body<'a, '_>) -> Result<SubAck<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.own_properties()?;
    let reasons = reasons(body)?;
    if !body.version.is_v5() {
        // [MQTT311-3.9.3-2]: 0x80 is the only failure.
        if let Some(reason) = reasons.iter().find(|reason| **reason as u8 > 0x80) {
            return Err(DecodeError::ReasonCode { packet: body.packet, code: *reason as u8 });
        }
    }
    Ok(SubAck { packet_id, properties, reasons })
}

pub(super) fn unsubscribe<'a>(body: &mut Body<'a, '_>) -> Result<Unsubscribe<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.own_properties()?;
    let mut filters = Vec::new();
    while !body.cursor.is_empty() {
        filters.push(body.topic_filter()?);
    }
    if filters.is_empty() {
        // [MQTT-3.10.3-2], [MQTT311-3.10.3-2]
        return Err(body.rule("no topic filter"));
    }
    Ok(Unsubscribe { packet_id, properties, filters })
}

pub(super) fn unsub_ack<'a>(body: &mut Body<'a, '_>) -> Result<UnsubAck<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.own_properties()?;
    let reasons = if body.version.is_v5() { reasons(body)? } else { SmallVec::new() };
    Ok(UnsubAck { packet_id, properties, reasons })
}

fn reasons(body: &mut Body<'_, '_>) -> Result<SmallVec<[ReasonCode; 8]>, DecodeError> {
    let reasons: SmallVec<_> = body.cursor.rest().iter().map(|code| body.reason(*code)).collect::<Result<_, _>>()?;
    if reasons.is_empty() {
        return Err(body.rule("no reason code"));
    }
    Ok(reasons)
}

pub(super) fn disconnect<'a>(body: &mut Body<'a, '_>) -> Result<Disconnect<'a>, DecodeError> {
    let (reason, properties) = short_form(body)?;
    Ok(Disconnect { reason, properties })
}

pub(super) fn auth<'a>(body: &mut Body<'a, '_>) -> Result<Auth<'a>, DecodeError> {
    if body.cursor.is_empty() {
        return Ok(Auth { reason: ReasonCode::Success, properties: Properties::EMPTY });
    }
    let code = body.byte("reason code")?;
    // [MQTT-3.15.2-1]
    let auth = Auth { reason: body.reason(code)?, properties: body.own_properties()? };
    check_auth(&auth).map_err(|error| DecodeError::Property { packet: body.packet, error })?;
    Ok(auth)
}

/// 3.15.2.2.2: a method is needed, unless the packet says success and nothing else (3.15.2.1).
pub(super) fn check_auth(auth: &Auth<'_>) -> Result<(), PropertyError> {
    let bare = auth.reason == ReasonCode::Success && auth.properties.is_empty();
    if bare || auth.properties.authentication_method().is_some() {
        Ok(())
    } else {
        Err(PropertyError::Missing { property: PropertyId::AuthenticationMethod })
    }
}
