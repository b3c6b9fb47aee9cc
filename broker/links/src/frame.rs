//! The frame: what connections carry after TLS.
//!
//! | Bytes | Field |
//! |---|---|
//! | 4 | length of the payload, little-endian as all numbers |
//! | 1 | version of this header |
//! | 1 | type ([`FrameType`]) |
//! | 2 | kind: the caller's number of a request or one-way frame; the class in a Hello, or what else the connection is for; 0 or 1 in Open and its Ack |
//! | 1 | flags, by type |
//! | 8 | id: of the request, of the ping, sequence number of a one-way frame, last sequence of an acknowledgement |
//! | … | payload |

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

pub(crate) const HEADER_BYTES: usize = 17;
pub(crate) const HEADER_VERSION: u8 = 1;
/// Largest payload before a peer has said who it is.
pub(crate) const MAX_HANDSHAKE_BYTES: usize = 4096;

/// Flag of an answer: the payload is the text of the handler's error.
pub(crate) const FLAG_ERROR: u8 = 1;
/// Flag of an answer: not handled, too many of its class wait.
pub(crate) const FLAG_BUSY: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameType {
    /// First frame each way, the accepting side's before the dialling side's; later whenever it changed.
    Hello = 1,
    /// The accepting side takes the connection.
    Accepted = 2,
    /// Either side does not; payload: code, text.
    Refused = 3,
    /// Payload: deadline in milliseconds (4 bytes), then the caller's.
    Request = 4,
    Answer = 5,
    /// A one-way frame.
    Send = 6,
    Ack = 7,
    Ping = 8,
    Pong = 9,
    /// Start of a one-way stream: id is its epoch, kind 1 says that frames of it were written before. The Ack that answers
    /// it has kind 1 when the receiver does not know of them any more.
    Open = 10,
    /// Asks for a connection to another peer; payload: its address. See [`crate::relay`].
    Relay = 11,
}

impl FrameType {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameType::*;
        [Hello, Accepted, Refused, Request, Answer, Send, Ack, Ping, Pong, Open, Relay]
            .into_iter()
            .find(|t| *t as u8 == byte)
    }

    /// Whether it is the callers' traffic, for the counters.
    pub(crate) fn is_traffic(self) -> bool {
        matches!(self, FrameType::Request | FrameType::Answer | FrameType::Send)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) frame_type: FrameType,
    pub(crate) kind: u16,
    pub(crate) flags: u8,
    pub(crate) id: u64,
    pub(crate) payload: Bytes,
}

impl Frame {
    pub(crate) fn new(frame_type: FrameType, id: u64) -> Self {
        Frame { frame_type, kind: 0, flags: 0, id, payload: Bytes::new() }
    }

    pub(crate) fn with_payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    pub(crate) fn with_kind(mut self, kind: u16) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        encode_header(out, self.frame_type, self.kind, self.flags, self.id, self.payload.len());
        out.extend_from_slice(&self.payload);
    }
}

/// A peer that sends this does not speak the protocol: the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    #[error("a frame of {size} bytes, allowed are {max}")]
    TooLarge { size: usize, max: usize },
    #[error("frame header version {0}, known is {HEADER_VERSION}")]
    Version(u8),
    #[error("unknown frame type {0}")]
    Type(u8),
    #[error("unknown flags {flags:#x} on a frame of type {frame_type}")]
    Flags { flags: u8, frame_type: u8 },
}

/// `payload_len` was checked against the maximum frame, which is far below 4 GiB.
pub(crate) fn encode_header(
    out: &mut Vec<u8>,
    frame_type: FrameType,
    kind: u16,
    flags: u8,
    id: u64,
    payload_len: usize,
) {
    let len = u32::try_from(payload_len).expect("payloads are bounded by max_frame_bytes");
    out.extend_from_slice(&len.to_le_bytes());
    out.push(HEADER_VERSION);
    out.push(frame_type as u8);
    out.extend_from_slice(&kind.to_le_bytes());
    out.push(flags);
    out.extend_from_slice(&id.to_le_bytes());
}

pub(crate) enum Decoded {
    Frame(Frame),
    /// So many bytes are needed in the buffer in all.
    Incomplete(usize),
}

/// Takes one frame off the front of `buf`. The header is judged as soon as it is there, the payload is not waited for.
pub(crate) fn decode(buf: &mut BytesMut, max_payload: usize) -> Result<Decoded, FrameError> {
    let Some(mut header) = buf.get(..HEADER_BYTES) else {
        return Ok(Decoded::Incomplete(HEADER_BYTES));
    };
    let size = header.get_u32_le() as usize;
    let version = header.get_u8();
    if version != HEADER_VERSION {
        return Err(FrameError::Version(version));
    }
    let type_byte = header.get_u8();
    let frame_type = FrameType::from_byte(type_byte).ok_or(FrameError::Type(type_byte))?;
    let kind = header.get_u16_le();
    let flags = header.get_u8();
    let known_flags = match frame_type {
        FrameType::Answer => FLAG_ERROR | FLAG_BUSY,
        _ => 0,
    };
    if flags & !known_flags != 0 {
        return Err(FrameError::Flags { flags, frame_type: type_byte });
    }
    let id = header.get_u64_le();
    if size > max_payload {
        return Err(FrameError::TooLarge { size, max: max_payload });
    }
    if buf.len() < HEADER_BYTES + size {
        return Ok(Decoded::Incomplete(HEADER_BYTES + size));
    }
    buf.advance(HEADER_BYTES);
    Ok(Decoded::Frame(Frame { frame_type, kind, flags, id, payload: buf.split_to(size).freeze() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        (1u8..=11, any::<u16>(), 0u8..=3, any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(t, kind, flags, id, payload)| {
                let frame_type = FrameType::from_byte(t).unwrap();
                Frame {
                    frame_type,
                    kind,
                    flags: if frame_type == FrameType::Answer { flags } else { 0 },
                    id,
                    payload: payload.into(),
                }
            },
        )
    }

    fn drain(buf: &mut BytesMut, max: usize) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        while let Decoded::Frame(frame) = decode(buf, max)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(frames in prop::collection::vec(any_frame(), 0..20), cut in 1usize..200) {
            let mut wire = Vec::new();
            for frame in &frames {
                frame.encode(&mut wire);
            }
            let mut buf = BytesMut::new();
            let mut got = Vec::new();
            for piece in wire.chunks(cut) {
                buf.extend_from_slice(piece);
                got.extend(drain(&mut buf, 300).unwrap());
            }
            prop_assert_eq!(got, frames);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn incomplete_names_the_length(frame in any_frame(), at in 0usize..1000) {
            let mut wire = Vec::new();
            frame.encode(&mut wire);
            let at = at % wire.len();
            match decode(&mut BytesMut::from(&wire[..at]), 300).unwrap() {
                Decoded::Incomplete(need) => {
                    prop_assert_eq!(need, if at < HEADER_BYTES { HEADER_BYTES } else { wire.len() });
                }
                Decoded::Frame(_) => prop_assert!(false, "a frame from part of its bytes"),
            }
        }

        #[test]
        fn any_bytes_are_an_error_or_frames(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = drain(&mut BytesMut::from(&bytes[..]), 100);
        }

        #[test]
        fn likely_bytes_are_an_error_or_frames(len in 0u32..64, version in 0u8..3, t in 0u8..12, flags in 0u8..5, rest in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.extend([version, t, 0, 0, flags]);
            bytes.extend(rest);
            if let Ok(frames) = drain(&mut BytesMut::from(&bytes[..]), 50) {
                for frame in frames {
                    prop_assert!(frame.payload.len() <= 50);
                }
            }
        }
    }

    #[test]
    fn a_claimed_size_is_refused_from_the_header_alone() {
        let mut wire = Vec::new();
        encode_header(&mut wire, FrameType::Send, 0, 0, 0, 101);
        let error = decode(&mut BytesMut::from(&wire[..]), 100).err();
        assert_eq!(error, Some(FrameError::TooLarge { size: 101, max: 100 }));
    }
}
