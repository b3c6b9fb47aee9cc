//! Packets from bytes: the fixed header, and what may stand in it.

use super::body::Body;
use super::connect::decode_connect;
use super::{Cursor, MAX_VAR_INT, MAX_VAR_INT_BYTES, packets};
use crate::{DecodeError, Packet, PacketType, Version, topic};

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
    pub const PROTOCOL: Self =
        Self { max_packet_size: 1 + MAX_VAR_INT_BYTES + MAX_VAR_INT as usize, max_topic_levels: topic::MAX_LENGTH + 1 };
}

impl Default for Limits {
    /// Packets of 1 MiB, topics of 128 levels.
    fn default() -> Self {
        Self { max_packet_size: 1024 * 1024, max_topic_levels: 128 }
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
/// (`[MQTT-3.1.0-1]`, `[MQTT311-3.1.0-1]`). After an error the connection must be closed: the buffer's rest has no meaning.
pub fn decode<'a>(buf: &'a [u8], version: Option<Version>, limits: &Limits) -> Result<Decoded<'a>, DecodeError> {
    let Some(&first) = buf.first() else {
        return Ok(Decoded::Incomplete { need: 2 });
    };
    let (packet, flags) = packet_type(first, version)?;
    let Some(header) = remaining_length(buf)? else {
        return Ok(Decoded::Incomplete { need: buf.len() + 1 });
    };
    let size = header.bytes + header.remaining;
    if size > limits.max_packet_size {
        return Err(DecodeError::PacketTooLarge { size, limit: limits.max_packet_size });
    }
    let Some(bytes) = buf.get(header.bytes..size) else {
        return Ok(Decoded::Incomplete { need: size });
    };

    // CONNECT says its version itself.
    let mut body = Body::new(packet, version.unwrap_or(Version::V5), limits, bytes);
    let decoded = match packet {
        PacketType::Connect => {
            let connect = decode_connect(&mut body)?;
            check_flags(packet, flags, connect.version)?;
            body.version = connect.version;
            Packet::Connect(Box::new(connect))
        }
        PacketType::ConnAck => Packet::ConnAck(packets::conn_ack(&mut body)?),
        PacketType::Publish => Packet::Publish(packets::publish(&mut body, flags)?),
        PacketType::PubAck => Packet::PubAck(packets::ack(&mut body)?),
        PacketType::PubRec => Packet::PubRec(packets::ack(&mut body)?),
        PacketType::PubRel => Packet::PubRel(packets::ack(&mut body)?),
        PacketType::PubComp => Packet::PubComp(packets::ack(&mut body)?),
        PacketType::Subscribe => Packet::Subscribe(packets::subscribe(&mut body)?),
        PacketType::SubAck => Packet::SubAck(packets::sub_ack(&mut body)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(packets::unsubscribe(&mut body)?),
        PacketType::UnsubAck => Packet::UnsubAck(packets::unsub_ack(&mut body)?),
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => Packet::Disconnect(packets::disconnect(&mut body)?),
        PacketType::Auth => Packet::Auth(packets::auth(&mut body)?),
    };
    body.finish()?;
    // MQTT 3 does not ask for the shortest form.
    if !header.shortest && body.version.is_v5() {
        return Err(DecodeError::RemainingLength);
    }
    Ok(Decoded::Packet { packet: decoded, consumed: size })
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
    Version::ALL.into_iter().find(|version| version.protocol_name().as_bytes() == name && version.level() == level)
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

/// `[MQTT-2.1.3-1]`, `[MQTT311-2.2.2-1]`, `[MQTT311-2.2.2-2]`; for some packets said again: `[MQTT-3.6.1-1]`, `[MQTT-3.8.1-1]`,
/// `[MQTT-3.10.1-1]`, `[MQTT-3.14.1-1]`, `[MQTT-3.15.1-1]`, `[MQTT311-3.6.1-1]`, `[MQTT311-3.8.1-1]`, `[MQTT311-3.10.1-1]`,
/// `[MQTT311-3.14.1-1]`. MQTT 3.1 has no reserved flags: what a packet does not use is ignored.
fn check_flags(packet: PacketType, flags: u8, version: Version) -> Result<(), DecodeError> {
    let expected = match packet {
        PacketType::Publish => return Ok(()),
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0,
    };
    if flags == expected || version == Version::V3_1 { Ok(()) } else { Err(DecodeError::Flags { packet, flags }) }
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
            return Ok(Some(Header { bytes: 2 + index, remaining, shortest: byte != 0 || index == 0 }));
        }
    }
    Err(DecodeError::RemainingLength)
}
