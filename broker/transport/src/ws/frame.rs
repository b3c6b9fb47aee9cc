//! Frames (RFC 6455, section 5).

/// Longest payload of a control frame (section 5.5).
const CONTROL: usize = 125;

/// Why a connection is closed (RFC 6455, section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// All is done.
    Normal,
    /// The server goes away.
    Away,
    /// The frames are wrong.
    Protocol,
    /// Text, where only binary frames are taken.
    Unsupported,
    /// A text that is not UTF-8.
    NotUtf8,
}

impl CloseCode {
    const fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::Away => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::NotUtf8 => 1007,
        }
    }
}

/// What is wrong with a client's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A text frame [MQTT-6.0.0-1] [MQTT311-6.0.0-1].
    #[error("a text frame: MQTT is sent in binary frames")]
    Text,
    /// Every frame of a client is masked (section 5.1).
    #[error("a frame is not masked")]
    NotMasked,
    /// A reserved bit is set, and no extension was agreed (section 5.2).
    #[error("a frame has a reserved bit set")]
    ReservedBit,
    /// A type of frame that nobody knows (section 5.2).
    #[error("a frame has an unknown type")]
    UnknownType,
    /// A continuation of nothing, or a new message within another one (section 5.4).
    #[error("a frame does not continue what came before")]
    Fragment,
    /// A control frame that is split or too long (section 5.5).
    #[error("a control frame is split or too long")]
    Control,
    /// A length that is not written the shortest way, or above 2^63 (section 5.2).
    #[error("a frame has a malformed length")]
    Length,
    /// A close frame with half a code, or a code that may not be sent (section 7.4).
    #[error("a close frame has a code that may not be sent")]
    Code,
    /// A close frame whose reason is not UTF-8 (section 5.5.1).
    #[error("a close frame has a reason that is not UTF-8")]
    NotUtf8,
}

impl FrameError {
    /// The code that says it to the client.
    #[must_use]
    pub const fn code(self) -> CloseCode {
        match self {
            Self::Text => CloseCode::Unsupported,
            Self::NotUtf8 => CloseCode::NotUtf8,
            _ => CloseCode::Protocol,
        }
    }
}

/// What a step of the decoder found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to be answered.
    More,
    /// A ping with the payload in [`Decoder::control`].
    Ping,
    /// The client closes; the code for the answer.
    Close(CloseCode),
}

/// Reads frames however they are split.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Of a header that is not complete.
    header: [u8; 14],
    have: u8,
    /// Of the frame whose payload is being read.
    mask: [u8; 4],
    left: u64,
    kind: Kind,
    /// A binary message goes on in a continuation frame.
    fragmented: bool,
    control: [u8; CONTROL],
    control_have: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Between two frames.
    None,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            header: [0; 14],
            have: 0,
            mask: [0; 4],
            left: 0,
            kind: Kind::None,
            fragmented: false,
            control: [0; CONTROL],
            control_have: 0,
        }
    }
}

impl Decoder {
    /// The payload of the last control frame.
    pub(super) fn control(&self) -> &[u8] {
        &self.control[..usize::from(self.control_have)]
    }

    /// Goes on by a header or a piece of payload. Reads `bytes` at `from`, which is before the end; what they carry of a
    /// message is moved to `to`, which never overtakes: the payloads of frames become one stream, wherever packets begin in it
    /// `[MQTT-6.0.0-2]` `[MQTT311-6.0.0-2]`.
    pub(super) fn step(&mut self, bytes: &mut [u8], from: &mut usize, to: &mut usize) -> Result<Step, FrameError> {
        if self.kind == Kind::None {
            return self.header(bytes, from);
        }
        let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - *from);
        let end = *from + here;
        unmask(&mut bytes[*from..end], &mut self.mask);
        if self.kind == Kind::Binary {
            bytes.copy_within(*from..end, *to);
            *to += here;
        } else {
            let have = usize::from(self.control_have);
            // A control frame's length was checked with its header.
            self.control[have..have + here].copy_from_slice(&bytes[*from..end]);
            self.control_have += u8::try_from(here).unwrap_or(u8::MAX);
        }
        *from = end;
        self.left -= here as u64;
        if self.left == 0 { self.finished() } else { Ok(Step::More) }
    }

    fn header(&mut self, bytes: &[u8], from: &mut usize) -> Result<Step, FrameError> {
        while *from < bytes.len() {
            let have = usize::from(self.have);
            self.header[have] = bytes[*from];
            *from += 1;
            self.have += 1;
            let have = have + 1;
            if have == 1 {
                self.check_first()?;
            }
            if have < 2 {
                continue;
            }
            if have == 2 {
                self.check_second()?;
            }
            let (extended, length) = match self.header[1] & 0x7F {
                126 if have >= 4 => (2, u64::from(u16::from_be_bytes([self.header[2], self.header[3]]))),
                126 => continue,
                127 if have >= 10 => {
                    let mut length = [0; 8];
                    length.copy_from_slice(&self.header[2..10]);
                    (8, u64::from_be_bytes(length))
                }
                127 => continue,
                short => (0, u64::from(short)),
            };
            if (extended == 2 && length < 126) || (extended == 8 && !(1 << 16..1 << 63).contains(&length)) {
                return Err(FrameError::Length);
            }
            if have == 2 + extended + 4 {
                self.mask.copy_from_slice(&self.header[2 + extended..have]);
                self.left = length;
                self.have = 0;
                self.begin();
                return if length == 0 { self.finished() } else { Ok(Step::More) };
            }
        }
        Ok(Step::More)
    }

    fn check_first(&self) -> Result<(), FrameError> {
        let first = self.header[0];
        let whole = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBit);
        }
        match first & 0x0F {
            0 if !self.fragmented => Err(FrameError::Fragment),
            // A message that begins within another one; of a text message this is the least that is wrong.
            1 if !self.fragmented => Err(FrameError::Text),
            1 | 2 if self.fragmented => Err(FrameError::Fragment),
            8..=10 if !whole => Err(FrameError::Control),
            0 | 2 | 8..=10 => Ok(()),
            _ => Err(FrameError::UnknownType),
        }
    }

    fn check_second(&self) -> Result<(), FrameError> {
        if self.header[1] & 0x80 == 0 {
            return Err(FrameError::NotMasked);
        }
        let is_control = self.header[0] & 0x08 != 0;
        if is_control && usize::from(self.header[1] & 0x7F) > CONTROL { Err(FrameError::Control) } else { Ok(()) }
    }

    fn begin(&mut self) {
        self.kind = match self.header[0] & 0x0F {
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => Kind::Binary,
        };
        if self.kind == Kind::Binary {
            self.fragmented = self.header[0] & 0x80 == 0;
        } else {
            self.control_have = 0;
        }
    }

    /// A frame is complete.
    fn finished(&mut self) -> Result<Step, FrameError> {
        match std::mem::replace(&mut self.kind, Kind::None) {
            Kind::Ping => Ok(Step::Ping),
            Kind::Close => check_close(self.control()).map(|()| Step::Close(CloseCode::Normal)),
            // A pong that nobody asked for is a sign of life (section 5.5.3).
            Kind::Binary | Kind::Pong | Kind::None => Ok(Step::More),
        }
    }
}

fn check_close(payload: &[u8]) -> Result<(), FrameError> {
    let (code, reason) = match payload {
        [] => return Ok(()),
        [_] => return Err(FrameError::Code),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(FrameError::Code),
    }
    std::str::from_utf8(reason).map(drop).map_err(|_| FrameError::NotUtf8)
}

/// Takes the mask off (section 5.3) and turns it to where the next piece begins.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(bytes.len() % 4);
}

/// The header of one whole binary frame of the server: not masked (section 5.1).
pub(super) fn frame_header(length: usize, out: &mut Vec<u8>) {
    header(0x82, length, out);
}

pub(super) fn pong_frame(payload: &[u8], out: &mut Vec<u8>) {
    header(0x8A, payload.len(), out);
    out.extend_from_slice(payload);
}

pub(super) fn close_frame(code: CloseCode, out: &mut Vec<u8>) {
    header(0x88, 2, out);
    out.extend_from_slice(&code.number().to_be_bytes());
}

fn header(first: u8, length: usize, out: &mut Vec<u8>) {
    out.push(first);
    match length {
        0..126 => out.push(length as u8),
        126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}
