//! Packets from bytes.

use std::num::NonZeroU16;

use smallvec::SmallVec;

use super::connect::decode_connect;
use super::{Cursor, MAX_VAR_INT, MAX_VAR_INT_BYTES};
use crate::topic::{self, validate_filter, validate_topic};
use crate::{
    Ack, Auth, ConnAck, DecodeError, Disconnect, FieldError, Packet, PacketType, Properties,
    PropertyError, PropertyId, PropertyPlace, Publish, QoS, ReasonCode, SubAck, SubOptions,
    Subscribe, Subscription, UnsubAck, Unsubscribe, Version,
};

/// What a packet may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest packet in bytes, fixed header included. A larger one is refused as soon as its fixed header is
    /// there, so that a reader never buffers more than this.
    pub max_packet_size: usize,
    /// The most levels of a topic name or filter.
    pub max_topic_levels: usize,
}

impl Limits {
    /// What the protocol itself allows.
    pub const PROTOCOL: Self = Self {
        max_packet_size: 1 + MAX_VAR_INT_BYTES + MAX_VAR_INT as usize,
        max_topic_levels: topic::MAX_LENGTH + 1,
    };
}

impl Default for Limits {
    /// Packets of 1 MiB, topics of 128 levels.
    fn default() -> Self {
        Self {
            max_packet_size: 1024 * 1024,
            max_topic_levels: 128,
        }
    }
}

/// What was found at the front of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A packet that is not there completely, and is valid as far as can be told.
    Incomplete {
        /// How many bytes, counted from the start of the buffer, must be there before it makes sense to try again.
        /// It is the size of the packet once the fixed header is there.
        need: usize,
    },
    /// A packet.
    Packet {
        /// The packet.
        packet: Packet<'a>,
        /// How many bytes it took.
        consumed: usize,
    },
}

/// Decodes the packet at the front of `buf`.
///
/// `version` is that of the connection; `None` before CONNECT, and then nothing but CONNECT is accepted
/// (`[MQTT-3.1.0-1]`). After an error the connection must be closed: the buffer's rest has no meaning.
pub fn decode<'a>(
    buf: &'a [u8],
    version: Option<Version>,
    limits: &Limits,
) -> Result<Decoded<'a>, DecodeError> {
    let Some(&first) = buf.first() else {
        return Ok(Decoded::Incomplete { need: 2 });
    };
    let (packet, flags) = packet_type(first, version)?;
    let Some(header) = remaining_length(buf)? else {
        return Ok(Decoded::Incomplete {
            need: buf.len() + 1,
        });
    };
    let size = header.bytes + header.remaining;
    if size > limits.max_packet_size {
        return Err(DecodeError::PacketTooLarge {
            size,
            limit: limits.max_packet_size,
        });
    }
    let Some(bytes) = buf.get(header.bytes..size) else {
        return Ok(Decoded::Incomplete { need: size });
    };

    let mut body = Body {
        packet,
        // CONNECT says its version itself.
        version: version.unwrap_or(Version::V5),
        limits,
        cursor: Cursor::new(bytes),
    };
    let decoded = match packet {
        PacketType::Connect => {
            let connect = decode_connect(&mut body)?;
            check_flags(packet, flags, connect.version)?;
            body.version = connect.version;
            Packet::Connect(Box::new(connect))
        }
        PacketType::ConnAck => Packet::ConnAck(conn_ack(&mut body)?),
        PacketType::Publish => Packet::Publish(publish(&mut body, flags)?),
        PacketType::PubAck => Packet::PubAck(ack(&mut body)?),
        PacketType::PubRec => Packet::PubRec(ack(&mut body)?),
        PacketType::PubRel => Packet::PubRel(ack(&mut body)?),
        PacketType::PubComp => Packet::PubComp(ack(&mut body)?),
        PacketType::Subscribe => Packet::Subscribe(subscribe(&mut body)?),
        PacketType::SubAck => Packet::SubAck(sub_ack(&mut body)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(unsubscribe(&mut body)?),
        PacketType::UnsubAck => Packet::UnsubAck(unsub_ack(&mut body)?),
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => Packet::Disconnect(disconnect(&mut body)?),
        PacketType::Auth => Packet::Auth(auth(&mut body)?),
    };
    body.finish()?;
    // MQTT 3 does not ask for the shortest form.
    if !header.shortest && body.version.is_v5() {
        return Err(DecodeError::RemainingLength);
    }
    Ok(Decoded::Packet {
        packet: decoded,
        consumed: size,
    })
}

/// The version that a CONNECT at the front of `buf` asks for, if that much of it can be read: what to answer in when
/// the rest of it is not valid.
pub fn connect_version(buf: &[u8]) -> Option<Version> {
    if buf.first()? >> 4 != PacketType::Connect as u8 {
        return None;
    }
    let header = remaining_length(buf).ok()??;
    let mut cursor = Cursor::new(buf.get(header.bytes..)?);
    let name = cursor.binary().ok()?;
    let level = cursor.byte().ok()?;
    Version::ALL
        .into_iter()
        .find(|version| version.protocol_name().as_bytes() == name && version.level() == level)
}

fn packet_type(first: u8, version: Option<Version>) -> Result<(PacketType, u8), DecodeError> {
    let (number, flags) = (first >> 4, first & 0x0F);
    let packet = PacketType::from_u8(number).ok_or(DecodeError::PacketType { number })?;
    match version {
        None if packet != PacketType::Connect => {
            return Err(DecodeError::ConnectExpected { packet });
        }
        Some(version) if packet == PacketType::Auth && !version.is_v5() => {
            return Err(DecodeError::PacketType { number });
        }
        Some(version) if packet != PacketType::Connect => check_flags(packet, flags, version)?,
        _ => {}
    }
    Ok((packet, flags))
}

/// `[MQTT-2.1.3-1]`. MQTT 3.1 has no reserved flags: what a packet does not use is ignored.
fn check_flags(packet: PacketType, flags: u8, version: Version) -> Result<(), DecodeError> {
    let expected = match packet {
        PacketType::Publish => return Ok(()),
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0,
    };
    if flags == expected || version == Version::V3_1 {
        Ok(())
    } else {
        Err(DecodeError::Flags { packet, flags })
    }
}

struct Header {
    /// Of the fixed header.
    bytes: usize,
    remaining: usize,
    /// Whether the remaining length has no byte too many.
    shortest: bool,
}

/// `None` if the buffer ends within the fixed header.
fn remaining_length(buf: &[u8]) -> Result<Option<Header>, DecodeError> {
    let mut remaining = 0;
    for index in 0..MAX_VAR_INT_BYTES {
        let Some(&byte) = buf.get(1 + index) else {
            return Ok(None);
        };
        remaining |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(Header {
                bytes: 2 + index,
                remaining,
                shortest: byte != 0 || index == 0,
            }));
        }
    }
    Err(DecodeError::RemainingLength)
}

/// The variable header and payload of one packet.
pub(super) struct Body<'a, 'l> {
    pub(super) packet: PacketType,
    pub(super) version: Version,
    pub(super) limits: &'l Limits,
    pub(super) cursor: Cursor<'a>,
}

impl<'a> Body<'a, '_> {
    pub(super) fn field<T>(
        &self,
        field: &'static str,
        read: Result<T, FieldError>,
    ) -> Result<T, DecodeError> {
        read.map_err(|error| DecodeError::Field {
            packet: self.packet,
            field,
            error,
        })
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        let read = self.cursor.byte();
        self.field(field, read)
    }

    pub(super) fn two(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        let read = self.cursor.two();
        self.field(field, read)
    }

    pub(super) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let read = self.cursor.binary();
        self.field(field, read)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let read = self.cursor.text();
        self.field(field, read)
    }

    pub(super) fn topic_name(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let name = self.text(field)?;
        validate_topic(name)
            .and_then(|()| topic::validate_levels(name, self.limits.max_topic_levels))
            .map_err(|error| DecodeError::TopicName {
                packet: self.packet,
                error,
            })?;
        Ok(name)
    }

    fn topic_filter(&mut self) -> Result<&'a str, DecodeError> {
        let filter = self.text("topic filter")?;
        validate_filter(filter)
            .and_then(|()| topic::validate_levels(filter, self.limits.max_topic_levels))
            .map_err(|error| DecodeError::TopicFilter {
                packet: self.packet,
                error,
            })?;
        Ok(filter)
    }

    /// `[MQTT-2.2.1-3]` and following: never 0.
    fn packet_id(&mut self) -> Result<NonZeroU16, DecodeError> {
        let id = self.two("packet identifier")?;
        NonZeroU16::new(id).ok_or(DecodeError::ZeroPacketId {
            packet: self.packet,
        })
    }

    /// The properties of a version that has them.
    pub(super) fn properties(
        &mut self,
        place: PropertyPlace,
    ) -> Result<Properties<'a>, DecodeError> {
        if !self.version.is_v5() {
            return Ok(Properties::EMPTY);
        }
        let read = self.cursor.var_int();
        let length = self.field("property length", read)?;
        let read = self.cursor.take(length as usize);
        let raw = self.field("properties", read)?;
        Properties::parse(raw, place).map_err(|error| DecodeError::Property {
            packet: self.packet,
            error,
        })
    }

    fn own_properties(&mut self) -> Result<Properties<'a>, DecodeError> {
        self.properties(PropertyPlace::Packet(self.packet))
    }

    fn reason(&self, code: u8) -> Result<ReasonCode, DecodeError> {
        ReasonCode::from_u8(code)
            .filter(|reason| reason.allowed_in(self.packet))
            .ok_or(DecodeError::ReasonCode {
                packet: self.packet,
                code,
            })
    }

    pub(super) fn rule(&self, rule: &'static str) -> DecodeError {
        DecodeError::Rule {
            packet: self.packet,
            rule,
        }
    }

    fn finish(&self) -> Result<(), DecodeError> {
        match self.cursor.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes {
                packet: self.packet,
                count,
            }),
        }
    }
}

fn conn_ack<'a>(body: &mut Body<'a, '_>) -> Result<ConnAck<'a>, DecodeError> {
    let field = "connect acknowledge flags";
    let flags = body.byte(field)?;
    // [MQTT-3.2.2-1]; MQTT 3.1 does not use the byte.
    if flags > 1 && body.version != Version::V3_1 {
        return Err(DecodeError::Reserved {
            packet: body.packet,
            field,
            value: flags,
        });
    }
    let session_present = flags == 1 && body.version != Version::V3_1;
    let code = body.byte("reason code")?;
    let reason = if body.version.is_v5() {
        body.reason(code)?
    } else {
        ReasonCode::from_connect_return_code(code).ok_or(DecodeError::ReasonCode {
            packet: body.packet,
            code,
        })?
    };
    // [MQTT-3.2.2-6], [MQTT311-3.2.2-4]
    if session_present && reason.is_error() {
        return Err(body.rule("session present with an error"));
    }
    Ok(ConnAck {
        session_present,
        reason,
        properties: body.own_properties()?,
    })
}

fn publish<'a>(body: &mut Body<'a, '_>, flags: u8) -> Result<Publish<'a>, DecodeError> {
    // [MQTT-3.3.1-4]
    let qos = QoS::from_u8(flags >> 1 & 0b11).ok_or(DecodeError::Flags {
        packet: body.packet,
        flags,
    })?;
    let mut dup = flags & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        // [MQTT-3.3.1-2]; without meaning in MQTT 3.1.
        if body.version != Version::V3_1 {
            return Err(DecodeError::Flags {
                packet: body.packet,
                flags,
            });
        }
        dup = false;
    }
    // The topic name may be empty where an alias stands for it: looked at once the properties are known.
    let no_topic = body.version.is_v5() && body.cursor.clone().two() == Ok(0);
    let topic = if no_topic {
        body.text("topic name")?
    } else {
        body.topic_name("topic name")?
    };
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        Some(body.packet_id()?)
    };
    let properties = body.own_properties()?;
    if no_topic && properties.topic_alias().is_none() {
        // 3.3.2.1
        return Err(body.rule("no topic name and no topic alias"));
    }
    let payload = body.cursor.rest();
    Ok(Publish {
        dup,
        qos,
        retain: flags & 1 != 0,
        topic,
        packet_id,
        properties,
        payload,
    })
}

fn ack<'a>(body: &mut Body<'a, '_>) -> Result<Ack<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let (reason, properties) = short_form(body)?;
    Ok(Ack {
        packet_id,
        reason,
        properties,
    })
}

/// The reason code and properties at the end of a packet that may leave them out (3.4.2.1, 3.14.2.1).
fn short_form<'a>(body: &mut Body<'a, '_>) -> Result<(ReasonCode, Properties<'a>), DecodeError> {
    if !body.version.is_v5() || body.cursor.is_empty() {
        return Ok((ReasonCode::Success, Properties::EMPTY));
    }
    let code = body.byte("reason code")?;
    let reason = body.reason(code)?;
    let properties = if body.cursor.is_empty() {
        Properties::EMPTY
    } else {
        body.own_properties()?
    };
    Ok((reason, properties))
}

fn subscribe<'a>(body: &mut Body<'a, '_>) -> Result<Subscribe<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.own_properties()?;
    let mut subscriptions = Vec::new();
    while !body.cursor.is_empty() {
        let filter = body.topic_filter()?;
        let field = "subscription options";
        let byte = body.byte(field)?;
        let meaningful = match body.version {
            // The upper bits have no meaning yet in MQTT 3.1.
            Version::V3_1 => byte & 0b11,
            // [MQTT311-3.8.3-4]: only the quality of service.
            Version::V3_1_1 if byte > 0b11 => {
                return Err(DecodeError::Reserved {
                    packet: body.packet,
                    field,
                    value: byte,
                });
            }
            _ => byte,
        };
        let options = SubOptions::from_byte(meaningful).ok_or(DecodeError::Reserved {
            packet: body.packet,
            field,
            value: byte,
        })?;
        if options.no_local
            && topic::TopicFilter::parse(filter).is_ok_and(|filter| filter.group().is_some())
        {
            // [MQTT-3.8.3-4]
            return Err(body.rule("no local on a shared subscription"));
        }
        subscriptions.push(Subscription { filter, options });
    }
    if subscriptions.is_empty() {
        // [MQTT-3.8.3-2]
        return Err(body.rule("no topic filter"));
    }
    Ok(Subscribe {
        packet_id,
        properties,
        subscriptions,
    })
}

fn sub_ack<'a>(body: &mut Body<'a, '_>) -> Result<SubAck<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.own_properties()?;
    let reasons = reasons(body)?;
    if !body.version.is_v5() {
        // [MQTT311-3.9.3-2]: 0x80 is the only failure.
        if let Some(reason) = reasons.iter().find(|reason| **reason as u8 > 0x80) {
            return Err(DecodeError::ReasonCode {
                packet: body.packet,
                code: *reason as u8,
            });
        }
    }
    Ok(SubAck {
        packet_id,
        properties,
        reasons,
    })
}

fn unsubscribe<'a>(body: &mut Body<'a, '_>) -> Result<Unsubscribe<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.own_properties()?;
    let mut filters = Vec::new();
    while !body.cursor.is_empty() {
        filters.push(body.topic_filter()?);
    }
    if filters.is_empty() {
        // [MQTT-3.10.3-2]
        return Err(body.rule("no topic filter"));
    }
    Ok(Unsubscribe {
        packet_id,
        properties,
        filters,
    })
}

fn unsub_ack<'a>(body: &mut Body<'a, '_>) -> Result<UnsubAck<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = body.own_properties()?;
    let reasons = if body.version.is_v5() {
        reasons(body)?
    } else {
        SmallVec::new()
    };
    Ok(UnsubAck {
        packet_id,
        properties,
        reasons,
    })
}

fn reasons(body: &mut Body<'_, '_>) -> Result<SmallVec<[ReasonCode; 8]>, DecodeError> {
    let reasons: SmallVec<_> = body
        .cursor
        .rest()
        .iter()
        .map(|code| body.reason(*code))
        .collect::<Result<_, _>>()?;
    if reasons.is_empty() {
        return Err(body.rule("no reason code"));
    }
    Ok(reasons)
}

fn disconnect<'a>(body: &mut Body<'a, '_>) -> Result<Disconnect<'a>, DecodeError> {
    let (reason, properties) = short_form(body)?;
    Ok(Disconnect { reason, properties })
}

fn auth<'a>(body: &mut Body<'a, '_>) -> Result<Auth<'a>, DecodeError> {
    if body.cursor.is_empty() {
        return Ok(Auth {
            reason: ReasonCode::Success,
            properties: Properties::EMPTY,
        });
    }
    let code = body.byte("reason code")?;
    let auth = Auth {
        reason: body.reason(code)?,
        properties: body.own_properties()?,
    };
    check_auth(&auth).map_err(|error| DecodeError::Property {
        packet: body.packet,
        error,
    })?;
    Ok(auth)
}

/// 3.15.2.2.2: a method is needed, unless the packet says success and nothing else (3.15.2.1).
pub(super) fn check_auth(auth: &Auth<'_>) -> Result<(), PropertyError> {
    let bare = auth.reason == ReasonCode::Success && auth.properties.is_empty();
    if bare || auth.properties.authentication_method().is_some() {
        Ok(())
    } else {
        Err(PropertyError::Missing {
            property: PropertyId::AuthenticationMethod,
        })
    }
}
