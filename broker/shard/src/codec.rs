//! Bytes of commands, answers and records.
//!
//! Numbers are of variable length (7 bits a byte, the lowest first), lists and texts have their length before them, options a byte.

use raftmq_mqtt::{Message, MessageError};
use thiserror::Error;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// They end too early.
    #[error("ends within {0}")]
    Short(&'static str),
    /// A value that cannot be.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// A list is longer than what is accepted.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// Bytes after the end.
    #[error("{0} bytes too many at the end")]
    Trailing(usize),
    /// Written by a newer program.
    #[error("format {0} is not known")]
    Format(u8),
    /// A message in it.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Writes values behind some bytes.
pub(crate) trait Put {
    /// A number.
    fn number(&mut self, value: u64);
    /// A truth.
    fn flag(&mut self, value: bool);
    /// Bytes with their length.
    fn slice(&mut self, bytes: &[u8]);
    /// A number that may be missing.
    fn option(&mut self, value: Option<u64>);
    /// The length of a list.
    fn count(&mut self, count: usize);
    /// A message, whose own header has its length.
    fn message(&mut self, message: &Message);
}

impl Put for Vec<u8> {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn flag(&mut self, value: bool) {
        self.push(value.into());
    }

    fn slice(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.extend_from_slice(bytes);
    }

    fn option(&mut self, value: Option<u64>) {
        self.flag(value.is_some());
        if let Some(value) = value {
            self.number(value);
        }
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn message(&mut self, message: &Message) {
        message.to_wire(self);
    }
}

/// Takes values off the front of some bytes.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, CodecError> {
        let (&first, rest) = self.rest.split_first().ok_or(CodecError::Short(what))?;
        self.rest = rest;
        Ok(first)
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, CodecError> {
        match self.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Invalid(what)),
        }
    }

    pub(crate) fn number(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            if shift == 63 && byte > 1 {
                return Err(CodecError::Invalid(what));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CodecError::Invalid(what))
    }

    /// A number of a smaller type.
    pub(crate) fn small<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, CodecError> {
        T::try_from(self.number(what)?).map_err(|_| CodecError::Invalid(what))
    }

    pub(crate) fn option(&mut self, what: &'static str) -> Result<Option<u64>, CodecError> {
        if self.flag(what)? { self.number(what).map(Some) } else { Ok(None) }
    }

    /// The length of a list, at most `limit`.
    pub(crate) fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, CodecError> {
        let count: usize = self.small(what)?;
        if count > limit { Err(CodecError::TooMany(what)) } else { Ok(count) }
    }

    pub(crate) fn list<T>(
        &mut self,
        what: &'static str,
        limit: usize,
        mut one: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.count(what, limit)?;
        // What is not there takes no memory: an element has a byte at least.
        let mut list = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            list.push(one(self)?);
        }
        Ok(list)
    }

    pub(crate) fn slice(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], CodecError> {
        let count = self.count(what, limit)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// A text of at most 65,535 bytes.
    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.slice(what, usize::from(u16::MAX))?).map_err(|_| CodecError::Invalid(what))
    }

    pub(crate) fn message(&mut self) -> Result<Message, CodecError> {
        let (message, rest) = Message::split_wire(self.rest)?;
        self.rest = rest;
        Ok(message)
    }

    /// What has not been read.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            bytes.number(value);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.number("n"), Ok(value));
            assert_eq!(reader.end(), Ok(()));
            assert_eq!(Reader::new(&bytes[..bytes.len() - 1]).number("n"), Err(CodecError::Short("n")));
        }
        assert_eq!(Reader::new(&[0xff; 11]).number("n"), Err(CodecError::Invalid("n")));
    }
}
