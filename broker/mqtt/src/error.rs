//! What can be wrong with a packet.

use thiserror::Error;

use crate::topic::TopicError;
use crate::{PacketType, PropertyId, PropertyPlace, ReasonCode, Version};

/// What is wrong with one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FieldError {
    /// It is longer than the rest of the packet.
    #[error("runs past the end of the packet")]
    Truncated,
    /// A variable byte integer of more than four bytes, or with more bytes than its value needs (`[MQTT-1.5.5-1]`).
    #[error("is not a valid variable byte integer")]
    VarInt,
    /// Not UTF-8; surrogates are not either (`[MQTT-1.5.4-1]`).
    #[error("is not valid UTF-8")]
    Utf8,
    /// U+0000 in a string (`[MQTT-1.5.4-2]`).
    #[error("contains U+0000")]
    Nul,
    /// More than 65,535 bytes, which the length field cannot express.
    #[error("is longer than 65535 bytes")]
    TooLong,
}

/// What is wrong with MQTT 5 properties (MQTT 5, 2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PropertyError {
    /// No property has this identifier.
    #[error("unknown property 0x{id:02X}")]
    Unknown {
        /// The identifier.
        id: u32,
    },
    /// The packet may not carry the property.
    #[error("{property:?} is not allowed in {place}")]
    NotAllowed {
        /// The property.
        property: PropertyId,
        /// Where it was found.
        place: PropertyPlace,
    },
    /// The property may appear once only.
    #[error("{property:?} appears more than once")]
    Duplicate {
        /// The property.
        property: PropertyId,
    },
    /// The property's value is outside of what it may be.
    #[error("{property:?} has a value that is not allowed")]
    Value {
        /// The property.
        property: PropertyId,
    },
    /// The property needs another one, or the packet does.
    #[error("{property:?} is missing")]
    Missing {
        /// The absent property.
        property: PropertyId,
    },
    /// The property's value cannot be read.
    #[error("{property:?} {error}")]
    Field {
        /// The property.
        property: PropertyId,
        /// What is wrong.
        error: FieldError,
    },
    /// A property identifier cannot be read.
    #[error("property identifier {error}")]
    Identifier {
        /// What is wrong.
        error: FieldError,
    },
}

impl PropertyError {
    /// The reason code to answer with.
    pub const fn reason_code(&self) -> ReasonCode {
        match self {
            // 2.2.2.2: an identifier that is not valid for the packet's type makes the packet malformed.
            Self::Unknown { .. } | Self::NotAllowed { .. } | Self::Field { .. } | Self::Identifier { .. } => {
                ReasonCode::MalformedPacket
            }
            Self::Value { property: PropertyId::TopicAlias } => ReasonCode::TopicAliasInvalid,
            Self::Duplicate { .. } | Self::Value { .. } | Self::Missing { .. } => ReasonCode::ProtocolError,
        }
    }
}

/// Why bytes are not a packet. The connection must be closed (MQTT 5, 4.13), after a CONNACK or DISCONNECT with
/// [`reason_code`](Self::reason_code) where the version has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The remaining length has a fifth byte or more bytes than it needs (`[MQTT-1.5.5-1]`).
    #[error("the remaining length is not a valid variable byte integer")]
    RemainingLength,
    /// The packet is larger than [`Limits::max_packet_size`](crate::Limits::max_packet_size). Known as soon as
    /// the fixed header is there.
    #[error("packet of {size} bytes is larger than the limit of {limit} bytes")]
    PacketTooLarge {
        /// The size of the whole packet in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Packet type 0, or AUTH before MQTT 5.
    #[error("packet type {number} does not exist in this version")]
    PacketType {
        /// The number in the fixed header.
        number: u8,
    },
    /// Reserved flags of the fixed header are not as they must be (`[MQTT-2.1.3-1]`).
    #[error("{packet} with reserved flags 0b{flags:04b}")]
    Flags {
        /// The packet.
        packet: PacketType,
        /// The lower half of the first byte.
        flags: u8,
    },
    /// The first packet is not CONNECT (`[MQTT-3.1.0-1]`).
    #[error("the first packet is {packet}, not CONNECT")]
    ConnectExpected {
        /// What it is.
        packet: PacketType,
    },
    /// The protocol name in CONNECT is neither `MQTT` nor `MQIsdp` (`[MQTT-3.1.2-1]`).
    #[error("unknown protocol name")]
    ProtocolName,
    /// No version of that protocol name has this level (`[MQTT-3.1.2-2]`).
    #[error("protocol level {level} is not supported")]
    ProtocolLevel {
        /// The level in CONNECT.
        level: u8,
    },
    /// A field cannot be read.
    #[error("{packet}: {field} {error}")]
    Field {
        /// The packet.
        packet: PacketType,
        /// The field, in words of the specification.
        field: &'static str,
        /// What is wrong.
        error: FieldError,
    },
    /// The packet goes on after its last field.
    #[error("{packet}: {count} bytes too many")]
    TrailingBytes {
        /// The packet.
        packet: PacketType,
        /// How many.
        count: usize,
    },
    /// A bit or value that is reserved is used.
    #[error("{packet}: {field} has the reserved value 0x{value:02X}")]
    Reserved {
        /// The packet.
        packet: PacketType,
        /// The field, in words of the specification.
        field: &'static str,
        /// The byte that holds it.
        value: u8,
    },
    /// A combination that the specification forbids.
    #[error("{packet}: {rule}")]
    Rule {
        /// The packet.
        packet: PacketType,
        /// The rule that was broken.
        rule: &'static str,
    },
    /// The packet identifier is 0 (`[MQTT-2.2.1-2]` and following).
    #[error("{packet} with packet identifier 0")]
    ZeroPacketId {
        /// The packet.
        packet: PacketType,
    },
    /// The reason code does not exist, or the packet may not carry it.
    #[error("{packet} with reason code 0x{code:02X}")]
    ReasonCode {
        /// The packet.
        packet: PacketType,
        /// The code.
        code: u8,
    },
    /// The properties are not valid.
    #[error("{packet}: {error}")]
    Property {
        /// The packet.
        packet: PacketType,
        /// What is wrong.
        error: PropertyError,
    },
    /// The topic name is not valid (MQTT 5, 4.7).
    #[error("{packet}: topic name {error}")]
    TopicName {
        /// The packet.
        packet: PacketType,
        /// What is wrong.
        error: TopicError,
    },
    /// The topic filter is not valid (MQTT 5, 4.7 and 4.8.2).
    #[error("{packet}: topic filter {error}")]
    TopicFilter {
        /// The packet.
        packet: PacketType,
        /// What is wrong.
        error: TopicError,
    },
}

impl DecodeError {
    /// The reason code to answer with in CONNACK or DISCONNECT (MQTT 5, 4.13).
    pub const fn reason_code(&self) -> ReasonCode {
        match self {
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::ConnectExpected { .. } | Self::Rule { .. } => ReasonCode::ProtocolError,
            Self::ProtocolName | Self::ProtocolLevel { .. } => ReasonCode::UnsupportedProtocolVersion,
            Self::Property { error, .. } => error.reason_code(),
            Self::TopicName { .. } => ReasonCode::TopicNameInvalid,
            // 0x8F may not stand in CONNACK; a CONNECT has no filters.
            Self::TopicFilter { .. } => ReasonCode::TopicFilterInvalid,
            Self::RemainingLength
            | Self::PacketType { .. }
            | Self::Flags { .. }
            | Self::Field { .. }
            | Self::TrailingBytes { .. }
            | Self::Reserved { .. }
            | Self::ZeroPacketId { .. }
            | Self::ReasonCode { .. } => ReasonCode::MalformedPacket,
        }
    }
}

/// Why a packet cannot be encoded. Nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The packet does not exist in this version.
    #[error("{packet} does not exist in MQTT {version}")]
    NotInVersion {
        /// The packet.
        packet: PacketType,
        /// The version.
        version: Version,
    },
    /// The remaining length would be above 268,435,455.
    #[error("{packet} with a remaining length of {length} bytes is larger than the protocol allows")]
    PacketTooLarge {
        /// The packet.
        packet: PacketType,
        /// The remaining length in bytes.
        length: usize,
    },
    /// A field cannot be written.
    #[error("{packet}: {field} {error}")]
    Field {
        /// The packet.
        packet: PacketType,
        /// The field, in words of the specification.
        field: &'static str,
        /// What is wrong.
        error: FieldError,
    },
    /// A combination that the specification forbids.
    #[error("{packet}: {rule}")]
    Rule {
        /// The packet.
        packet: PacketType,
        /// The rule that would be broken.
        rule: &'static str,
    },
    /// The packet may not carry the reason code.
    #[error("{packet} cannot carry {reason}")]
    ReasonCode {
        /// The packet.
        packet: PacketType,
        /// The reason code.
        reason: ReasonCode,
    },
    /// The properties are not valid in this packet.
    #[error("{packet}: {error}")]
    Property {
        /// The packet.
        packet: PacketType,
        /// What is wrong.
        error: PropertyError,
    },
    /// A topic name or filter is not valid.
    #[error("{packet}: topic {error}")]
    Topic {
        /// The packet.
        packet: PacketType,
        /// What is wrong.
        error: TopicError,
    },
}
