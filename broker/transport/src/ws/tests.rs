#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const GOOD: &str = "GET /mqtt HTTP/1.1\r\nHost: broker:8083\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

fn settings() -> Arc<WsSettings> {
    Arc::new(WsSettings { path: "/mqtt".into() })
}

/// A frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0xA1, 0x02, 0xF3, 0x44];
    let mut out = vec![first];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        middle @ 126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

#[derive(Debug, Default, PartialEq)]
struct Got {
    mqtt: Vec<u8>,
    out: Vec<u8>,
    end: Option<Result<(), WsError>>,
}

fn feed<'a>(ws: &mut Ws, chunks: impl Iterator<Item = &'a [u8]>) -> Got {
    let mut got = Got::default();
    for chunk in chunks {
        let start = got.mqtt.len();
        got.mqtt.extend_from_slice(chunk);
        match ws.receive(&mut got.mqtt, start, &mut got.out) {
            Ok(false) => {}
            Ok(true) => {
                got.end = Some(Ok(()));
                break;
            }
            Err(error) => {
                got.end = Some(Err(error));
                break;
            }
        }
    }
    got
}

fn open() -> Ws {
    let mut ws = Ws::new(settings());
    let got = feed(&mut ws, [GOOD.as_bytes()].into_iter());
    assert!(ws.is_open() && got.mqtt.is_empty() && got.end.is_none());
    ws
}

/// Frames after the upgrade, in one piece and byte by byte.
fn frames(bytes: &[u8]) -> Got {
    let got = feed(&mut open(), [bytes].into_iter());
    assert_eq!(got, feed(&mut open(), bytes.chunks(1)));
    got
}

#[test]
fn the_answer_is_that_of_the_specification() {
    let mut ws = Ws::new(settings());
    let got = feed(&mut ws, GOOD.as_bytes().chunks(1));
    assert_eq!(
        String::from_utf8(got.out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
}

/// [MQTT-6.0.0-3] [MQTT-6.0.0-4] [MQTT311-6.0.0-4]
#[test]
fn the_subprotocol_is_mqtt() {
    for (offered, chosen) in [
        ("mqtt", Some("mqtt")),
        ("mqttv3.1", Some("mqttv3.1")),
        ("mqttv3.1, mqtt", Some("mqtt")),
        ("soap,mqtt , wamp", Some("mqtt")),
        ("soap\r\nSec-WebSocket-Protocol: mqtt", Some("mqtt")),
        ("MQTT", None),
        ("soap", None),
        ("", None),
    ] {
        let request = GOOD.replace("Protocol: mqtt", &format!("Protocol: {offered}"));
        let got = feed(&mut Ws::new(settings()), [request.as_bytes()].into_iter());
        let answer = String::from_utf8(got.out).unwrap();
        match chosen {
            Some(chosen) => {
                assert!(answer.contains(&format!("Sec-WebSocket-Protocol: {chosen}\r\n")), "{offered}: {answer}");
            }
            None => assert_eq!(got.end, Some(Err(UpgradeError::Protocol.into())), "{offered}: {answer}"),
        }
    }
}

#[test]
fn requests_that_are_taken() {
    for (from, to) in [
        ("/mqtt ", "/mqtt?token=1 "),
        ("Upgrade: websocket", "upgrade: WebSocket"),
        ("keep-alive, Upgrade", "upgrade"),
        ("Host:", "Cookie: a=b\r\nOrigin: null\r\nSec-WebSocket-Extensions: permessage-deflate\r\nhost:"),
    ] {
        let request = GOOD.replace(from, to);
        assert_ne!(request, GOOD);
        let mut ws = Ws::new(settings());
        let got = feed(&mut ws, [request.as_bytes()].into_iter());
        assert!(ws.is_open(), "{to}");
        assert!(!String::from_utf8(got.out).unwrap().contains("Extensions"), "none is agreed");
    }
}

#[test]
fn requests_that_are_refused() {
    let long = format!("Host: {}", "x".repeat(17_000));
    let many = format!("{}Host:", "A: b\r\n".repeat(70));
    for (from, to, error, status) in [
        ("GET", "POST", UpgradeError::Method, "405"),
        ("HTTP/1.1", "HTTP/1.0", UpgradeError::Version, "505"),
        ("/mqtt ", "/ ", UpgradeError::Path, "404"),
        ("/mqtt ", "/mqtt/x ", UpgradeError::Path, "404"),
        ("Upgrade: websocket", "Upgrade: h2c", UpgradeError::NotWebSocket, "400"),
        ("keep-alive, Upgrade", "keep-alive", UpgradeError::NotWebSocket, "400"),
        ("Version: 13", "Version: 8", UpgradeError::WebSocketVersion, "426"),
        ("Host:", "Guest:", UpgradeError::Field, "400"),
        ("Host:", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nHost:", UpgradeError::Field, "400"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", UpgradeError::Field, "400"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "?", UpgradeError::Field, "400"),
        ("Host: broker:8083", long.as_str(), UpgradeError::TooLong, "431"),
        ("Host:", many.as_str(), UpgradeError::TooLong, "431"),
    ] {
        let request = GOOD.replace(from, to);
        let mut ws = Ws::new(settings());
        let got = feed(&mut ws, request.as_bytes().chunks(1_000));
        assert_eq!(got.end, Some(Err(error.into())), "{to}");
        let answer = String::from_utf8(got.out).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains("Connection: close"), "{answer}");
        assert!(got.mqtt.is_empty() && !ws.is_open());
    }
    for bytes in [&b"\x10\x0c\0\x04MQTT"[..], b"\x16\x03\x01\0", b"GET /mqtt HTTP/1.1\r\nHost\x01: x"] {
        let got = feed(&mut Ws::new(settings()), [bytes].into_iter());
        assert_eq!(got.end, Some(Err(UpgradeError::NotHttp.into())));
        assert!(got.out.is_empty(), "HTTP is not answered to what is none");
    }
}

/// [MQTT-6.0.0-2] [MQTT311-6.0.0-2]: frames and packets have nothing to do with each other.
#[test]
fn frames_are_one_stream() {
    let (short, long, longest) = (vec![1_u8; 3], vec![2_u8; 300], vec![3_u8; 70_000]);
    let all = [
        frame(0x82, &short),
        frame(0x82, b""),
        frame(0x02, &long),
        frame(0x89, b"in between"),
        frame(0x00, b"go on"),
        frame(0x80, b"end"),
        frame(0x8A, b"a pong for nothing"),
        frame(0x82, &longest),
    ]
    .concat();
    let got = frames(&all);
    assert!(got.mqtt == [&short[..], &long, b"go on", b"end", &longest].concat());
    assert_eq!(got.out, [&[0x8A, 10][..], b"in between"].concat());
    assert_eq!(got.end, None);
}

#[test]
fn what_comes_behind_the_request_are_frames() {
    let all = [GOOD.as_bytes(), &frame(0x82, b"first")].concat();
    for size in 1..all.len() {
        let got = feed(&mut Ws::new(settings()), all.chunks(size));
        assert_eq!(got.mqtt, b"first", "{size}");
    }
}

#[test]
fn a_close_frame_is_answered_and_what_came_before_counts() {
    let answer = [0x88, 2, 0x03, 0xE8];
    for payload in [&b""[..], b"\x03\xE8", b"\x03\xE9going", b"\x0B\xB8"] {
        let got = frames(&[frame(0x82, b"last"), frame(0x88, payload), frame(0x82, b"ignored")].concat());
        assert_eq!(got.mqtt, b"last");
        assert_eq!(got.out, answer);
        assert_eq!(got.end, Some(Ok(())));
    }
    let mut ws = open();
    let mut out = Vec::new();
    ws.close(CloseCode::Away, &mut out);
    ws.close(CloseCode::Away, &mut out);
    assert_eq!(out, [0x88, 2, 0x03, 0xE9]);
    // The answer to it is not answered again.
    assert_eq!(feed(&mut ws, [&frame(0x88, b"\x03\xE9")[..]].into_iter()).out, b"");
}

/// [MQTT-6.0.0-1] [MQTT311-6.0.0-1] and what RFC 6455 demands of frames.
#[test]
fn wrong_frames_end_the_connection_with_the_reason() {
    let length = |first: u8, bytes: &[u8]| [&[0x82, first][..], bytes].concat();
    let unmasked = {
        let mut out = Vec::new();
        frame_header(3, &mut out);
        [&out[..], b"abc"].concat()
    };
    for (bytes, error, code) in [
        (frame(0x81, b"text"), FrameError::Text, 1003_u16),
        (frame(0x01, b"text"), FrameError::Text, 1003),
        (unmasked, FrameError::NotMasked, 1002),
        (frame(0xC2, b""), FrameError::ReservedBit, 1002),
        (frame(0x92, b""), FrameError::ReservedBit, 1002),
        (frame(0x83, b""), FrameError::UnknownType, 1002),
        (frame(0x8F, b""), FrameError::UnknownType, 1002),
        (frame(0x80, b""), FrameError::Fragment, 1002),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), FrameError::Fragment, 1002),
        ([frame(0x02, b""), frame(0x81, b"b")].concat(), FrameError::Fragment, 1002),
        (frame(0x09, b""), FrameError::Control, 1002),
        (frame(0x89, &[0; 126]), FrameError::Control, 1002),
        (length(0xFE, &[0, 125]), FrameError::Length, 1002),
        (length(0xFF, &[0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), FrameError::Length, 1002),
        (length(0xFF, &[0x80, 0, 0, 0, 0, 0, 0, 0]), FrameError::Length, 1002),
        (frame(0x88, b"\x03"), FrameError::Code, 1002),
        (frame(0x88, b"\x03\xED"), FrameError::Code, 1002),
        (frame(0x88, b"\xFF\xFF"), FrameError::Code, 1002),
        (frame(0x88, b"\x03\xE8\xFF"), FrameError::NotUtf8, 1007),
    ] {
        let got = frames(&[frame(0x82, b""), bytes].concat());
        assert_eq!(got.end, Some(Err(error.into())));
        let [high, low] = code.to_be_bytes();
        assert_eq!(got.out, [0x88, 2, high, low], "{error}");
    }
}

#[test]
fn frames_of_the_server_are_whole_and_not_masked() {
    for (length, header) in [
        (0_usize, vec![0x82, 0]),
        (125, vec![0x82, 125]),
        (126, vec![0x82, 126, 0, 126]),
        (0xFFFF, vec![0x82, 126, 0xFF, 0xFF]),
        (0x1_0000, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut out = Vec::new();
        open().frame(length, &mut out);
        assert_eq!(out, header);
    }
}

/// What another implementation writes is read, and what is written here, it reads.
#[test]
fn another_implementation_agrees() {
    use tungstenite::protocol::{Message, Role, WebSocket};

    let mut client = WebSocket::from_raw_socket(std::io::Cursor::new(Vec::new()), Role::Client, None);
    client.send(Message::binary(vec![5; 70_000])).unwrap();
    client.send(Message::Ping(vec![6; 125].into())).unwrap();
    let sent = client.into_inner().into_inner();
    let mut ws = open();
    let mut got = feed(&mut ws, sent.chunks(999));
    assert!(got.mqtt == vec![5; 70_000]);
    ws.frame(80_000, &mut got.out);
    got.out.extend(vec![7; 80_000]);
    ws.close(CloseCode::Normal, &mut got.out);
    let mut client = WebSocket::from_raw_socket(std::io::Cursor::new(got.out), Role::Client, None);
    assert_eq!(client.read().unwrap(), Message::Pong(vec![6; 125].into()));
    assert_eq!(client.read().unwrap(), Message::binary(vec![7; 80_000]));
    assert!(matches!(client.read().unwrap(), Message::Close(Some(_))));
}

proptest! {
    #[test]
    fn frames_carry_the_same_however_they_are_split(
        messages in prop::collection::vec((0_usize..400, 1_usize..4, any::<bool>()), 1..10),
        sizes in prop::collection::vec(1_usize..200, 1..10),
    ) {
        let (mut wire, mut expected, mut pongs) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (length, pieces, ping)) in messages.iter().enumerate() {
            let payload = vec![at as u8; *length];
            expected.extend(&payload);
            let size = length / pieces + 1;
            let chunks: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(size).collect() };
            for (index, chunk) in chunks.iter().enumerate() {
                let first = if index == 0 { 2 } else { 0 } | if index + 1 == chunks.len() { 0x80 } else { 0 };
                wire.extend(frame(first, chunk));
                if *ping {
                    wire.extend(frame(0x89, b"p"));
                    pongs.extend([0x8A, 1, b'p']);
                }
            }
        }
        let mut chunks = Vec::new();
        let mut rest = &wire[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, tail) = rest.split_at(rest.len().min(*size));
            chunks.push(chunk);
            rest = tail;
        }
        let got = feed(&mut open(), chunks.into_iter());
        prop_assert_eq!(got, Got { mqtt: expected, out: pongs, end: None });
    }

    #[test]
    fn anything_is_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..500), size in 1_usize..100) {
        let whole = feed(&mut open(), [&bytes[..]].into_iter());
        let split = feed(&mut open(), bytes.chunks(size));
        prop_assert_eq!(whole, split);
        feed(&mut Ws::new(settings()), bytes.chunks(size));
        feed(&mut Ws::new(settings()), [b"GET /mqtt HTTP/1.1\r\n", &bytes[..]].into_iter());
    }
}
