//! The codec: packets from bytes and to bytes.

mod body;
mod connect;
mod cursor;
mod decode;
mod encode;
mod packets;
pub(crate) mod write;

pub(crate) use cursor::Cursor;
pub use decode::{Decoded, Limits, connect_version, decode};
pub use encode::encode;

/// The largest value of a variable byte integer, hence of the remaining length (MQTT 5, 1.5.5).
pub(crate) const MAX_VAR_INT: u32 = 268_435_455;
/// The most bytes of a variable byte integer.
pub(crate) const MAX_VAR_INT_BYTES: usize = 4;

#[cfg(test)]
mod tests;
