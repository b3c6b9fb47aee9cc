//! CONNECT (MQTT 5, 3.1), both ways.

use super::body::Body;
use super::encode::Writer;
use crate::{Connect, DecodeError, EncodeError, PropertyPlace, QoS, Version, Will};

const RESERVED: u8 = 1;
const CLEAN_START: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_QOS: u8 = 3;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USER_NAME: u8 = 1 << 7;

const PASSWORD_ALONE: &str = "a password without a user name";

/// The fields of the payload, present as the flags say, in their order (`[MQTT-3.1.3-1]`, `[MQTT311-3.1.3-1]`).
pub(super) fn decode_connect<'a>(body: &mut Body<'a, '_>) -> Result<Connect<'a>, DecodeError> {
    let version = protocol(body)?;
    body.version = version;
    let field = "connect flags";
    let flags = body.byte(field)?;
    // [MQTT-3.1.2-3], [MQTT311-3.1.2-3]; MQTT 3.1 does not use the bit.
    if flags & RESERVED != 0 && version != Version::V3_1 {
        return Err(DecodeError::Reserved { packet: body.packet, field, value: flags });
    }
    // [MQTT311-3.1.2-22]; MQTT 5 allows it.
    if flags & PASSWORD != 0 && flags & USER_NAME == 0 && !version.is_v5() {
        return Err(body.rule(PASSWORD_ALONE));
    }
    let keep_alive = body.two("keep alive")?;
    let properties = body.properties(PropertyPlace::Packet(body.packet))?;
    // [MQTT-3.1.3-3], [MQTT-3.1.3-4], [MQTT311-3.1.3-3], [MQTT311-3.1.3-4]
    let client_id = body.text("client identifier")?;
    let will = will(body, flags)?;
    // In MQTT 3.1 the remaining length counts for more than the flags: names that are not there are no error (3.1).
    let present =
        |body: &Body<'_, '_>, flag| flags & flag != 0 && (version != Version::V3_1 || !body.cursor.is_empty());
    // [MQTT-3.1.2-16], [MQTT-3.1.2-17], [MQTT-3.1.3-12], [MQTT311-3.1.2-18], [MQTT311-3.1.2-19], [MQTT311-3.1.3-11]
    let username = if present(body, USER_NAME) { Some(body.text("user name")?) } else { None };
    // [MQTT-3.1.2-18], [MQTT-3.1.2-19], [MQTT311-3.1.2-20], [MQTT311-3.1.2-21]
    let password = if present(body, PASSWORD) { Some(body.binary("password")?) } else { None };
    Ok(Connect {
        version,
        clean_start: flags & CLEAN_START != 0,
        keep_alive,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

/// `[MQTT-3.1.2-1]`, `[MQTT-3.1.2-2]`, `[MQTT311-3.1.2-1]`, `[MQTT311-3.1.2-2]`.
fn protocol(body: &mut Body<'_, '_>) -> Result<Version, DecodeError> {
    let name = body.binary("protocol name")?;
    if !Version::ALL.iter().any(|version| version.protocol_name().as_bytes() == name) {
        return Err(DecodeError::ProtocolName);
    }
    let level = body.byte("protocol level")?;
    Version::ALL
        .into_iter()
        .find(|version| version.protocol_name().as_bytes() == name && version.level() == level)
        .ok_or(DecodeError::ProtocolLevel { level })
}

fn will<'a>(body: &mut Body<'a, '_>, flags: u8) -> Result<Option<Will<'a>>, DecodeError> {
    let qos_bits = flags >> WILL_QOS & 0b11;
    if flags & WILL == 0 {
        // [MQTT-3.1.2-11], [MQTT-3.1.2-13], [MQTT311-3.1.2-11], [MQTT311-3.1.2-13], [MQTT311-3.1.2-15]; MQTT 3.1 does not look at these bits without a will.
        if (qos_bits != 0 || flags & WILL_RETAIN != 0) && body.version != Version::V3_1 {
            return Err(body.rule("will flags without a will"));
        }
        return Ok(None);
    }
    // [MQTT-3.1.2-12], [MQTT311-3.1.2-14]
    let qos =
        QoS::from_u8(qos_bits).ok_or(DecodeError::Reserved { packet: body.packet, field: "will QoS", value: flags })?;
    // [MQTT-3.1.2-9], [MQTT311-3.1.2-9]
    Ok(Some(Will {
        qos,
        retain: flags & WILL_RETAIN != 0,
        properties: body.properties(PropertyPlace::Will)?,
        topic: body.topic_name("will topic")?,
        payload: body.binary("will payload")?,
    }))
}

pub(super) fn encode_connect(connect: &Connect<'_>, out: &mut Writer<'_>) -> Result<(), EncodeError> {
    let version = connect.version;
    out.text("protocol name", version.protocol_name())?;
    out.byte(version.level());
    let mut flags = 0;
    let mut set = |condition: bool, flag: u8| flags |= if condition { flag } else { 0 };
    set(connect.clean_start, CLEAN_START);
    set(connect.username.is_some(), USER_NAME);
    set(connect.password.is_some(), PASSWORD);
    if let Some(will) = &connect.will {
        set(true, WILL | (will.qos as u8) << WILL_QOS);
        set(will.retain, WILL_RETAIN);
    }
    if connect.password.is_some() && connect.username.is_none() && !version.is_v5() {
        return Err(out.rule(PASSWORD_ALONE));
    }
    out.byte(flags);
    out.two(connect.keep_alive);
    out.properties(connect.properties, PropertyPlace::Packet(out.packet))?;
    out.text("client identifier", connect.client_id)?;
    if let Some(will) = &connect.will {
        out.properties(will.properties, PropertyPlace::Will)?;
        out.topic_name(will.topic)?;
        out.binary("will payload", will.payload)?;
    }
    if let Some(username) = connect.username {
        out.text("user name", username)?;
    }
    if let Some(password) = connect.password {
        out.binary("password", password)?;
    }
    Ok(())
}
