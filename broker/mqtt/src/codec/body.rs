//! Reads the fields of one packet and says which one is wrong.

use std::num::NonZeroU16;

use super::{Cursor, Limits};
use crate::topic::{self, validate_filter, validate_topic};
use crate::{DecodeError, FieldError, PacketType, Properties, PropertyPlace, ReasonCode, Version};

/// The variable header and payload of one packet.
pub(super) struct Body<'a, 'l> {
    pub(super) packet: PacketType,
    pub(super) version: Version,
    limits: &'l Limits,
    pub(super) cursor: Cursor<'a>,
}

impl<'a, 'l> Body<'a, 'l> {
    pub(super) const fn new(packet: PacketType, version: Version, limits: &'l Limits, bytes: &'a [u8]) -> Self {
        Self { packet, version, limits, cursor: Cursor::new(bytes) }
    }

    pub(super) fn field<T>(&self, field: &'static str, read: Result<T, FieldError>) -> Result<T, DecodeError> {
        read.map_err(|error| DecodeError::Field { packet: self.packet, field, error })
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

    /// A UTF-8 string (`[MQTT-3.3.2-1]`, `[MQTT311-3.3.2-1]`, `[MQTT-3.1.3-11]`, `[MQTT311-3.1.3-10]`) without wildcards
    /// (`[MQTT-3.3.2-2]`, `[MQTT311-3.3.2-2]`).
    pub(super) fn topic_name(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let name = self.text(field)?;
        validate_topic(name)
            .and_then(|()| topic::validate_levels(name, self.limits.max_topic_levels))
            .map_err(|error| DecodeError::TopicName { packet: self.packet, error })?;
        Ok(name)
    }

    /// A UTF-8 string (`[MQTT-3.8.3-1]`, `[MQTT-3.10.3-1]`, `[MQTT311-3.8.3-1]`, `[MQTT311-3.10.3-1]`) and a filter.
    pub(super) fn topic_filter(&mut self) -> Result<&'a str, DecodeError> {
        let filter = self.text("topic filter")?;
        validate_filter(filter)
            .and_then(|()| topic::validate_levels(filter, self.limits.max_topic_levels))
            .map_err(|error| DecodeError::TopicFilter { packet: self.packet, error })?;
        Ok(filter)
    }

    /// `[MQTT-2.2.1-3]` and following, `[MQTT311-2.3.1-1]`: never 0.
    pub(super) fn packet_id(&mut self) -> Result<NonZeroU16, DecodeError> {
        let id = self.two("packet identifier")?;
        NonZeroU16::new(id).ok_or(DecodeError::ZeroPacketId { packet: self.packet })
    }

    /// The properties of a version that has them. Where there are none, their length says so `[MQTT-2.2.2-1]`.
    pub(super) fn properties(&mut self, place: PropertyPlace) -> Result<Properties<'a>, DecodeError> {
        if !self.version.is_v5() {
            return Ok(Properties::EMPTY);
        }
        let read = self.cursor.var_int();
        let length = self.field("property length", read)?;
        let read = self.cursor.take(length as usize);
        let raw = self.field("properties", read)?;
        Properties::parse(raw, place).map_err(|error| DecodeError::Property { packet: self.packet, error })
    }

    pub(super) fn own_properties(&mut self) -> Result<Properties<'a>, DecodeError> {
        self.properties(PropertyPlace::Packet(self.packet))
    }

    pub(super) fn reason(&self, code: u8) -> Result<ReasonCode, DecodeError> {
        ReasonCode::from_u8(code)
            .filter(|reason| reason.allowed_in(self.packet))
            .ok_or(DecodeError::ReasonCode { packet: self.packet, code })
    }

    pub(super) fn rule(&self, rule: &'static str) -> DecodeError {
        DecodeError::Rule { packet: self.packet, rule }
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.cursor.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { packet: self.packet, count }),
        }
    }
}
