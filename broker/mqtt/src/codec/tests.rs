//! What the codec accepts and writes, byte by byte, and what it refuses.
#![allow(clippy::unwrap_used)]

mod malformed;
mod refused;
mod valid;

use crate::{DecodeError, Decoded, Limits, Packet, Version, decode};

/// Decodes one packet that is the whole of `bytes`.
fn decode_all(bytes: &[u8], version: Option<Version>) -> Result<Packet<'_>, DecodeError> {
    match decode(bytes, version, &Limits::PROTOCOL)? {
        Decoded::Packet { packet, consumed } => {
            assert_eq!(consumed, bytes.len());
            Ok(packet)
        }
        Decoded::Incomplete { need } => panic!("{need} bytes needed, {} are there: {bytes:02X?}", bytes.len()),
    }
}

/// A packet with its fixed header, from the first byte and what comes after the remaining length.
fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = vec![first];
    super::write::var_int(&mut bytes, body.len() as u32).unwrap();
    bytes.extend(body);
    bytes
}
