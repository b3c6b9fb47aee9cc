//! Writes the data types of the protocol (MQTT 5, 1.5). The counterparts of [`Cursor`](super::Cursor)'s functions;
//! those that cannot fail return a result too, so that properties treat all alike.

use smallvec::{Array, SmallVec};

use super::MAX_VAR_INT;
use crate::FieldError;

/// What is written to.
pub(crate) trait Out {
    fn put(&mut self, bytes: &[u8]);
}

impl Out for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl<A: Array<Item = u8>> Out for SmallVec<A> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

pub(crate) fn byte(out: &mut impl Out, value: u8) -> Result<(), FieldError> {
    out.put(&[value]);
    Ok(())
}

pub(crate) fn two(out: &mut impl Out, value: u16) -> Result<(), FieldError> {
    out.put(&value.to_be_bytes());
    Ok(())
}

pub(crate) fn four(out: &mut impl Out, value: u32) -> Result<(), FieldError> {
    out.put(&value.to_be_bytes());
    Ok(())
}

pub(crate) fn var_int(out: &mut impl Out, value: u32) -> Result<(), FieldError> {
    if value > MAX_VAR_INT {
        return Err(FieldError::VarInt);
    }
    let mut rest = value;
    loop {
        let low = (rest & 0x7F) as u8;
        rest >>= 7;
        if rest == 0 {
            out.put(&[low]);
            return Ok(());
        }
        out.put(&[low | 0x80]);
    }
}

pub(crate) fn binary(out: &mut impl Out, value: &[u8]) -> Result<(), FieldError> {
    let length = u16::try_from(value.len()).map_err(|_| FieldError::TooLong)?;
    out.put(&length.to_be_bytes());
    out.put(value);
    Ok(())
}

pub(crate) fn text(out: &mut impl Out, value: &str) -> Result<(), FieldError> {
    if value.contains('\0') {
        return Err(FieldError::Nul);
    }
    binary(out, value.as_bytes())
}

pub(crate) fn pair(out: &mut impl Out, (name, value): (&str, &str)) -> Result<(), FieldError> {
    text(out, name)?;
    text(out, value)
}
