//! The client's side of MQTT over WebSocket (RFC 6455): the request to upgrade, then frames.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest answer to the request that is taken.
const MAX_ANSWER: usize = 8 << 10;

/// What ends a WebSocket connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WsError {
    /// Another status than 101.
    #[error("WebSocket: the server answered {0} to the upgrade; is the path right?")]
    Status(u16),
    /// No HTTP.
    #[error("WebSocket: what answers is not HTTP; is this a WebSocket port?")]
    NotHttp,
    /// A header of the answer is missing or wrong.
    #[error("WebSocket: the answer to the upgrade has no valid {0}")]
    Header(&'static str),
    /// A frame that is not binary, masked, or uses what was not agreed.
    #[error("WebSocket: a malformed frame")]
    Frame,
    /// The server closed it.
    #[error("WebSocket: closed by the server")]
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Ws {
    state: State,
    /// A generator of masks: they only have to differ (section 10.3 is about browsers).
    mask: u64,
}

#[derive(Debug)]
enum State {
    /// The answer is not complete.
    Upgrading {
        accept: String,
        partial: Vec<u8>,
    },
    Open(Decoder),
}

#[derive(Debug, Default)]
struct Decoder {
    header: [u8; 10],
    have: usize,
    left: u64,
    kind: Kind,
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Between two frames.
    #[default]
    None,
    Data,
    Close,
    Ping,
    Pong,
}

impl Ws {
    /// At the start; the request is appended to `out`. `random` makes key and masks.
    pub(crate) fn new(host: &str, path: &str, random: u64, out: &mut Vec<u8>) -> Self {
        let mut seed = random | 1;
        let mut key = [0; 16];
        key[..8].copy_from_slice(&next(&mut seed).to_le_bytes());
        key[8..].copy_from_slice(&next(&mut seed).to_le_bytes());
        let key = STANDARD.encode(key);
        out.extend_from_slice(
            format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
            )
            .as_bytes(),
        );
        Self { state: State::Upgrading { accept: accept_of(&key), partial: Vec::new() }, mask: seed }
    }

    /// Whether frames may be sent.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// `bytes` from `start` on came; what they carry of MQTT stays of them. Answers for the server are appended to `out`.
    pub(crate) fn receive(&mut self, bytes: &mut Vec<u8>, start: usize, out: &mut Vec<u8>) -> Result<(), WsError> {
        let mut from = start;
        if let State::Upgrading { accept, partial } = &mut self.state {
            let known = partial.len();
            partial.extend_from_slice(&bytes[start..]);
            let Some(length) = check_answer(partial, accept)? else {
                bytes.truncate(start);
                return if partial.len() > MAX_ANSWER { Err(WsError::NotHttp) } else { Ok(()) };
            };
            from += length - known;
            self.state = State::Open(Decoder::default());
        }
        let State::Open(decoder) = &mut self.state else { return Ok(()) };
        let mut to = start;
        while from < bytes.len() {
            if decoder.kind == Kind::None && !decoder.read_header(bytes, &mut from)? {
                break;
            }
            let here = usize::try_from(decoder.left).unwrap_or(usize::MAX).min(bytes.len() - from);
            if decoder.kind == Kind::Data {
                bytes.copy_within(from..from + here, to);
                to += here;
            } else {
                decoder.control.extend_from_slice(&bytes[from..from + here]);
            }
            from += here;
            decoder.left -= here as u64;
            if decoder.left == 0 {
                match std::mem::take(&mut decoder.kind) {
                    Kind::Ping => {
                        let payload = std::mem::take(&mut decoder.control);
                        frame(0x8A, &payload, &mut self.mask, out);
                    }
                    Kind::Close => {
                        bytes.truncate(to);
                        return Err(WsError::Closed);
                    }
                    Kind::Data | Kind::Pong | Kind::None => {}
                }
            }
        }
        bytes.truncate(to);
        Ok(())
    }

    /// Appends one binary frame with these bytes.
    pub(crate) fn send(&mut self, mqtt: &[u8], out: &mut Vec<u8>) {
        frame(0x82, mqtt, &mut self.mask, out);
    }

    /// Appends a close frame (1000, normal).
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
        frame(0x88, &1000_u16.to_be_bytes(), &mut self.mask, out);
    }
}

impl Decoder {
    /// Whether the header of a frame is complete.
    fn read_header(&mut self, bytes: &[u8], from: &mut usize) -> Result<bool, WsError> {
        while *from < bytes.len() {
            self.header[self.have] = bytes[*from];
            self.have += 1;
            *from += 1;
            if self.have < 2 {
                continue;
            }
            let (first, second) = (self.header[0], self.header[1]);
            let extended = match second & 0x7F {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            if self.have < 2 + extended {
                continue;
            }
            // Reserved bits, and the mask that only clients have (section 5.1).
            if first & 0x70 != 0 || second & 0x80 != 0 {
                return Err(WsError::Frame);
            }
            self.left = match extended {
                0 => u64::from(second),
                _ => self.header[2..2 + extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            };
            self.kind = match first & 0x0F {
                0 | 2 => Kind::Data,
                8 => Kind::Close,
                9 => Kind::Ping,
                10 => Kind::Pong,
                _ => return Err(WsError::Frame),
            };
            if self.kind != Kind::Data && self.left > 125 {
                return Err(WsError::Frame);
            }
            self.have = 0;
            self.control.clear();
            return Ok(true);
        }
        Ok(false)
    }
}

/// The length of the answer when it is complete and takes the upgrade.
fn check_answer(bytes: &[u8], accept: &str) -> Result<Option<usize>, WsError> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(WsError::NotHttp),
    };
    match answer.code {
        Some(101) => {}
        code => return Err(WsError::Status(code.unwrap_or(0))),
    }
    let value = |name: &str| {
        let header = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value)
    };
    if value("Sec-WebSocket-Accept") != Some(accept.as_bytes()) {
        return Err(WsError::Header("Sec-WebSocket-Accept"));
    }
    // [MQTT-6.0.0-4]
    if value("Sec-WebSocket-Protocol") != Some(b"mqtt") {
        return Err(WsError::Header("Sec-WebSocket-Protocol"));
    }
    Ok(Some(length))
}

fn accept_of(key: &str) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(GUID);
    STANDARD.encode(digest.finish())
}

fn frame(first: u8, payload: &[u8], seed: &mut u64, out: &mut Vec<u8>) {
    out.reserve(payload.len() + 14);
    out.push(first);
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let [a, b, c, d, ..] = next(seed).to_le_bytes();
    let mask = [a, b, c, d];
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = out[start..].chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// xorshift64.
const fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn open() -> Ws {
        let mut out = Vec::new();
        let mut ws = Ws::new("host:1", "/mqtt", 77, &mut out);
        let request = String::from_utf8(out).unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
             sec-websocket-protocol: mqtt\r\n\r\n",
            accept_of(key)
        );
        let (mut bytes, mut out) = (answer.into_bytes(), Vec::new());
        bytes.extend_from_slice(&[0x82, 2, 0x20, 0x00]);
        // However it is split; a frame behind the answer counts.
        let mut mqtt = Vec::new();
        for byte in bytes {
            let mut piece = vec![0xEE, byte];
            ws.receive(&mut piece, 1, &mut out).unwrap();
            assert_eq!(piece[0], 0xEE);
            mqtt.extend_from_slice(&piece[1..]);
        }
        assert!(ws.is_open() && out.is_empty());
        assert_eq!(mqtt, [0x20, 0x00]);
        ws
    }

    #[test]
    fn the_accept_of_the_rfc() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_however_they_are_split() {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for length in [0_usize, 1, 125, 126, 300, 70_000] {
            stream.push(0x82);
            match length {
                0..126 => stream.push(length as u8),
                126..0x1_0000 => stream.extend([126, (length >> 8) as u8, length as u8]),
                _ => stream.extend([127, 0, 0, 0, 0, 0, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
            }
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            stream.extend_from_slice(&payload);
            expected.extend_from_slice(&payload);
            stream.extend([0x89, 3, b'a', b'b', b'c', 0x8A, 0]);
        }
        for step in [1, 2, 3, 7, 1_000, stream.len()] {
            let (mut ws, mut out, mut mqtt) = (open(), Vec::new(), Vec::new());
            for piece in stream.chunks(step) {
                let mut piece = piece.to_vec();
                ws.receive(&mut piece, 0, &mut out).unwrap();
                mqtt.extend_from_slice(&piece);
            }
            assert!(mqtt == expected, "in pieces of {step}");
            // A pong for each ping, masked.
            assert_eq!(out.len(), 6 * (2 + 4 + 3));
            for pong in out.chunks(9) {
                assert_eq!(pong[..2], [0x8A, 0x83]);
                let payload: Vec<u8> = (0..3).map(|n| pong[6 + n] ^ pong[2 + n]).collect();
                assert_eq!(payload, b"abc");
            }
        }
    }

    #[test]
    fn what_is_sent_is_masked() {
        for length in [0_usize, 3, 8, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut out = Vec::new();
            open().send(&payload, &mut out);
            let header = match length {
                0..126 => 2,
                126..0x1_0000 => 4,
                _ => 10,
            };
            assert_eq!(out[0], 0x82);
            assert_eq!(out[1] & 0x80, 0x80);
            let mask = out[header..header + 4].to_vec();
            assert_ne!(mask, [0; 4]);
            let plain: Vec<u8> = out[header + 4..].iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
            assert!(plain == payload, "{length}");
        }
    }

    #[test]
    fn an_answer_that_is_none() {
        let try_answer = |answer: &str| {
            let mut ws = Ws::new("host", "/", 3, &mut Vec::new());
            ws.receive(&mut answer.as_bytes().to_vec(), 0, &mut Vec::new()).unwrap_err()
        };
        assert_eq!(try_answer("HTTP/1.1 404 Not Found\r\n\r\n"), WsError::Status(404));
        assert_eq!(try_answer("\u{20}\u{2}\u{0}\u{0}"), WsError::NotHttp);
        assert_eq!(
            try_answer("HTTP/1.1 101 X\r\nSec-WebSocket-Accept: wrong\r\n\r\n"),
            WsError::Header("Sec-WebSocket-Accept")
        );
        for frame in [&[0x82, 0x81, 0, 0, 0, 0, 0][..], &[0x81, 1, b'a'], &[0xC2, 1, 0], &[0x89, 126, 0, 200]] {
            assert_eq!(open().receive(&mut frame.to_vec(), 0, &mut Vec::new()), Err(WsError::Frame));
        }
        assert_eq!(open().receive(&mut vec![0x88, 0], 0, &mut Vec::new()), Err(WsError::Closed));
    }
}
