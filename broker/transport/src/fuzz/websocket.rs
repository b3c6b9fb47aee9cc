//! A WebSocket client that does anything: its request, then its frames. They are read a second time by the letter of RFC 6455,
//! all at once, and must come to the same, however the stream is split.

use std::sync::Arc;

use super::Source;
use crate::ws::{CloseCode, FrameError, Ws, WsError, WsSettings};

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
const GREETING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// Lines of requests; a good one has one of each of the first seven, and any of the last.
const FIELDS: [&[&str]; 8] = [
    &[
        "GET /mqtt HTTP/1.1",
        "GET /mqtt?a=b HTTP/1.1",
        "POST /mqtt HTTP/1.1",
        "GET /other HTTP/1.1",
        "GET /mqtt HTTP/1.0",
    ],
    &["Host: b", "HOST:", "X: y"],
    &["Upgrade: websocket", "upgrade: h2c, WebSocket", "Upgrade: h2c"],
    &["Connection: Upgrade", "Connection: keep-alive,upgrade", "Connection: close"],
    &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: AAAA", "Sec-WebSocket-Key: ?"],
    &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", "X-Version: 13"],
    &["Sec-WebSocket-Protocol: mqtt", "Sec-WebSocket-Protocol: x, mqtt", "Sec-WebSocket-Protocol: MQTT"],
    &[
        "Origin: http://b",
        "Cookie: a=b",
        "Sec-WebSocket-Protocol: y",
        "Sec-WebSocket-Key: AAAA",
        "Sec-WebSocket-Version: 8",
    ],
];
/// How many of each of [`FIELDS`] are good.
const GOOD: [usize; 8] = [2, 2, 2, 2, 1, 1, 2, 3];

/// Any bytes as what a client sends.
pub(super) fn any_client(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => {
            both(&mut source, |source| [b"GET /mqtt HTTP/1.1\r\n", source.rest()].concat());
        }
        1 => request(&mut source),
        _ => frames(&mut source),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    mqtt: Vec<u8>,
    out: Vec<u8>,
    end: Option<Result<(), WsError>>,
}

fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Got {
    let mut ws = Ws::new(Arc::new(WsSettings { path: "/mqtt".into() }));
    let mut got = Got::default();
    for piece in pieces {
        // What is before is somebody else's.
        let mut bytes = [b"before", piece].concat();
        let result = ws.receive(&mut bytes, b"before".len(), &mut got.out);
        assert!(bytes.starts_with(b"before"));
        got.mqtt.extend(&bytes[b"before".len()..]);
        match result {
            Ok(false) => {}
            Ok(true) => got.end = Some(Ok(())),
            Err(error) => got.end = Some(Err(error)),
        }
        if got.end.is_some() {
            assert!(!ws.is_open());
            break;
        }
    }
    // The end is said once.
    let sent = got.out.len();
    let was_open = ws.is_open();
    ws.close(CloseCode::Normal, &mut got.out);
    assert_eq!(was_open, got.out.len() > sent);
    ws.close(CloseCode::Away, &mut got.out);
    assert_eq!(got.out.len(), sent + if was_open { 4 } else { 0 });
    got.out.truncate(sent);
    got
}

/// The same, in pieces and at once.
fn both(source: &mut Source<'_>, bytes: impl FnOnce(&mut Source<'_>) -> Vec<u8>) -> Got {
    let size = source.below(64) + 1;
    let bytes = bytes(source);
    let whole = feed([&bytes[..]].into_iter());
    assert_eq!(whole, feed(bytes.chunks(size)));
    whole
}

fn request(source: &mut Source<'_>) {
    let mut text = String::new();
    let mut good = true;
    for (lines, usable) in FIELDS.iter().zip(GOOD) {
        // Mostly good ones, or hardly any request would be.
        let at = source.byte();
        let at = if at < 200 { usize::from(at) % usable } else { usize::from(at) % lines.len() };
        good &= at < usable;
        text += lines[at];
        text += "\r\n";
    }
    text += "\r\n";
    let ping = b"\x89\x81\0\0\0\0p";
    let got = both(source, |_| [text.as_bytes(), ping].concat());
    if good {
        assert!(got.out.starts_with(b"HTTP/1.1 101 ") && got.out.ends_with(b"\r\n\r\n\x8A\x01p"), "{text}");
        assert_eq!(got.end, None);
    } else {
        assert!(matches!(got.end, Some(Err(WsError::Upgrade(_)))), "{text}");
        assert!(got.out.starts_with(b"HTTP/1.1 4") || got.out.starts_with(b"HTTP/1.1 505 "));
    }
    assert!(got.mqtt.is_empty());
}

fn frames(source: &mut Source<'_>) {
    let size = source.below(64) + 1;
    let mut wire = Vec::new();
    while !source.is_empty() {
        frame(source, &mut wire);
    }
    let expected = by_the_letter(&wire);
    let wire = [REQUEST, &wire].concat();
    for size in [size, wire.len()] {
        let got = feed(wire.chunks(size));
        let out = got.out.strip_prefix(GREETING).expect("the upgrade");
        assert_eq!((&got.mqtt, out, &got.end), (&expected.mqtt, &expected.out[..], &expected.end));
    }
}

/// Mostly a good frame; with one thing wrong, or of any bytes.
fn frame(source: &mut Source<'_>, wire: &mut Vec<u8>) {
    let choice = source.byte();
    let mut first = source.choose(&[0x82, 0x82, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88]);
    let long = choice & 0x0F == 0x0F;
    let payload: Vec<u8> = if long {
        vec![source.byte(); usize::from(u16::from_be_bytes(source.array())) * 2]
    } else {
        let length = source.below(132);
        source.take(length).to_vec()
    };
    let mask: [u8; 4] = source.array();
    if choice >> 4 == 0x0E {
        first ^= source.byte();
    }
    let masked = if choice >> 4 == 0x0D { 0 } else { 0x80 };
    let written = match payload.len() {
        // One longer than it has to be.
        0..126 if choice >> 4 == 0x0C => vec![126 | masked, 0, payload.len() as u8],
        length @ 0..126 => vec![length as u8 | masked],
        length @ 126..0x1_0000 if choice >> 4 != 0x0C => vec![126 | masked, (length >> 8) as u8, length as u8],
        length => [&[127 | masked][..], &(length as u64).to_be_bytes()].concat(),
    };
    wire.push(first);
    wire.extend(written);
    if masked != 0 {
        wire.extend(mask);
    }
    wire.extend(
        payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| if masked == 0 { *byte } else { byte ^ mask }),
    );
    if choice >> 4 == 0x0F {
        wire.extend(source.rest());
    }
}

/// RFC 6455, section 5, over a whole stream.
fn by_the_letter(mut wire: &[u8]) -> Got {
    let mut got = Got::default();
    let mut within = false;
    let end = loop {
        match one(&mut wire, &mut within, &mut got) {
            Ok(true) => {}
            Ok(false) => return got,
            Err(end) => break end,
        }
    };
    got.out.extend(match end {
        Ok(()) => [0x88, 2, 0x03, 0xE8],
        Err(FrameError::Text) => [0x88, 2, 0x03, 0xEB],
        Err(FrameError::NotUtf8) => [0x88, 2, 0x03, 0xEF],
        Err(_) => [0x88, 2, 0x03, 0xEA],
    });
    got.end = Some(end.map_err(WsError::from));
    got
}

/// One frame; whether it was whole. `Err`: the end, by a close frame or by what is wrong.
fn one(wire: &mut &[u8], within: &mut bool, got: &mut Got) -> Result<bool, Result<(), FrameError>> {
    let Some(first) = wire.first().copied() else {
        return Ok(false);
    };
    if first & 0x70 != 0 {
        return Err(Err(FrameError::ReservedBit));
    }
    let (whole, kind) = (first & 0x80 != 0, first & 0x0F);
    let control = kind >= 8;
    match kind {
        1 if !*within => return Err(Err(FrameError::Text)),
        1 | 2 if *within => return Err(Err(FrameError::Fragment)),
        0 if !*within => return Err(Err(FrameError::Fragment)),
        8..=10 if !whole => return Err(Err(FrameError::Control)),
        0..=2 | 8..=10 => {}
        _ => return Err(Err(FrameError::UnknownType)),
    }
    let Some(second) = wire.get(1).copied() else {
        return Ok(false);
    };
    if second & 0x80 == 0 {
        return Err(Err(FrameError::NotMasked));
    }
    if control && second & 0x7F > 125 {
        return Err(Err(FrameError::Control));
    }
    let size = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(digits) = wire.get(2..2 + size) else {
        return Ok(false);
    };
    let length = match size {
        0 => u64::from(second & 0x7F),
        _ => digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)),
    };
    if (size == 2 && length < 126) || (size == 8 && (length < 65_536 || length >> 63 != 0)) {
        return Err(Err(FrameError::Length));
    }
    let Some(mask) = wire.get(2 + size..6 + size) else {
        return Ok(false);
    };
    let rest = &wire[6 + size..];
    let have = rest.len().min(usize::try_from(length).unwrap_or(usize::MAX));
    let payload: Vec<u8> = rest[..have].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    *wire = &rest[have..];
    let complete = have as u64 == length;
    match kind {
        0 | 2 => {
            got.mqtt.extend(payload);
            *within = !whole;
        }
        9 if complete => {
            got.out.extend([0x8A, have as u8]);
            got.out.extend(payload);
        }
        8 if complete => return Err(close(&payload)),
        _ => {}
    }
    Ok(complete)
}

fn close(payload: &[u8]) -> Result<(), FrameError> {
    match payload {
        [] => Ok(()),
        [_] => Err(FrameError::Code),
        [high, low, reason @ ..] => {
            let code = u16::from(*high) << 8 | u16::from(*low);
            // Section 7.4: the ones that are defined to be sent, registered later, or free for use.
            let sent = (1000..=1003).contains(&code) || (1007..=1014).contains(&code) || (3000..5000).contains(&code);
            if !sent {
                Err(FrameError::Code)
            } else {
                std::str::from_utf8(reason).map(drop).map_err(|_| FrameError::NotUtf8)
            }
        }
    }
}
