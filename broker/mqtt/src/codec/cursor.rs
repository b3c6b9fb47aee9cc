//! Reads the data types of the protocol (MQTT 5, 1.5) from the front of a slice.

use super::MAX_VAR_INT_BYTES;
use crate::FieldError;

/// What is left to read.
#[derive(Clone)]
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], FieldError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FieldError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FieldError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FieldError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, FieldError> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn two(&mut self) -> Result<u16, FieldError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn four(&mut self) -> Result<u32, FieldError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer in its shortest form (`[MQTT-1.5.5-1]`).
    pub(crate) fn var_int(&mut self) -> Result<u32, FieldError> {
        let mut value = 0;
        for index in 0..MAX_VAR_INT_BYTES {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                // A last byte of zero adds nothing: a shorter form exists.
                return if byte == 0 && index > 0 { Err(FieldError::VarInt) } else { Ok(value) };
            }
        }
        Err(FieldError::VarInt)
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], FieldError> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 string (`[MQTT-1.5.4-1]`, `[MQTT-1.5.4-2]`, `[MQTT311-1.5.3-1]`, `[MQTT311-1.5.3-2]`). A byte order mark is a
    /// character like any other (`[MQTT-1.5.4-3]`, `[MQTT311-1.5.3-3]`).
    pub(crate) fn text(&mut self) -> Result<&'a str, FieldError> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| FieldError::Utf8)?;
        // Without a branch for each byte.
        let has_nul = text.bytes().fold(false, |found, byte| found | (byte == 0));
        if has_nul { Err(FieldError::Nul) } else { Ok(text) }
    }

    /// `[MQTT-1.5.7-1]`
    pub(crate) fn pair(&mut self) -> Result<(&'a str, &'a str), FieldError> {
        Ok((self.text()?, self.text()?))
    }
}
