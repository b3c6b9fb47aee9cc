#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = v2::SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend(value);
    bytes
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xDC, 0x04, 0x07, 0x5B];

fn ipv6() -> Vec<u8> {
    let mut bytes = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    bytes.extend("2001:db8::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    bytes.extend([0xDC, 0x04, 0x07, 0x5B]);
    bytes
}

fn from(text: &str) -> Header {
    Header { source: Some(text.parse().unwrap()), ..Header::default() }
}

fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = crc32c::crc32c(&bytes);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Headers that are taken, and what they say.
fn good() -> Vec<(Vec<u8>, Header)> {
    let ssl = |flags: u8, verify: u32| {
        let mut value = vec![flags];
        value.extend(verify.to_be_bytes());
        value.extend(tlv(0x21, b"TLSv1.3"));
        value.extend(tlv(0x22, b"pump-7"));
        [&IPV4[..], &tlv(0x02, b"mqtt.example.org"), &tlv(0x20, &value)].concat()
    };
    let named = |common_name: Option<&str>| Header {
        server_name: Some("mqtt.example.org".into()),
        common_name: common_name.map(Into::into),
        ..from("192.0.2.1:56324")
    };
    let longest =
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), 107);
    let checked = v2(0x21, 0x11, &[&IPV4[..], &tlv(0x03, &[0; 4]), &tlv(0x04, b"noop")].concat());
    vec![
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 1883\r\n".to_vec(), from("192.0.2.1:56324")),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 1883\r\n".to_vec(), from("[2001:db8::1]:56324")),
        (b"PROXY UNKNOWN\r\n".to_vec(), Header::default()),
        (longest.into(), Header::default()),
        (v2(0x21, 0x11, &IPV4), from("192.0.2.1:56324")),
        (v2(0x21, 0x21, &ipv6()), from("[2001:db8::1]:56324")),
        (v2(0x21, 0x31, &[b'/'; 216]), Header::default()),
        (v2(0x21, 0x00, &tlv(0x04, b"")), Header::default()),
        (v2(0x20, 0x00, b""), Header::default()),
        (v2(0x20, 0x11, &IPV4), Header::default()),
        (v2(0x21, 0x11, &ssl(0x07, 0)), named(Some("pump-7"))),
        // Shown and not verified, or none shown at all: its name says nothing.
        (v2(0x21, 0x11, &ssl(0x07, 1)), named(None)),
        (v2(0x21, 0x11, &ssl(0x01, 0)), named(None)),
        (with_checksum(checked, 16 + 12 + 3), from("192.0.2.1:56324")),
        (v2(0x21, 0x11, &[&IPV4[..], &tlv(0x04, &[0; 4_000])].concat()), from("192.0.2.1:56324")),
    ]
}

#[test]
fn headers_say_who_connects() {
    for (bytes, expected) in good() {
        let mut more = bytes.clone();
        more.extend(b"\x10MQTT");
        assert_eq!(parse(&more, Versions::Any), Ok(Parsed::Header(expected, bytes.len())), "{bytes:?}");
    }
}

#[test]
fn headers_may_be_split_anywhere() {
    for (bytes, expected) in good() {
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end], Versions::Any), Ok(Parsed::Incomplete), "{end} of {bytes:?}");
        }
        let mut decoder = ProxyDecoder::new(Versions::Any);
        let (last, first) = bytes.split_last().unwrap();
        for byte in first {
            assert_eq!(decoder.receive(&[*byte]), Ok(None));
        }
        assert_eq!(decoder.receive(&[*last, b'x']), Ok(Some((expected, 1))));
    }
}

#[test]
fn only_the_versions_asked_for_are_taken() {
    for (bytes, _) in good() {
        let (own, other) =
            if bytes.starts_with(b"PROXY") { (Versions::V1, Versions::V2) } else { (Versions::V2, Versions::V1) };
        assert!(parse(&bytes, own).is_ok());
        assert_eq!(parse(&bytes, other), Err(ProxyError::OtherVersion));
    }
}

#[test]
fn nothing_is_the_beginning_of_every_version() {
    for versions in [Versions::V1, Versions::V2, Versions::Any] {
        assert_eq!(ProxyDecoder::new(versions).receive(b""), Ok(None), "{versions:?}");
    }
}

#[test]
fn what_is_no_header_is_refused_as_soon_as_that_is_known() {
    let line = |text: &str| (text.as_bytes().to_vec(), ProxyError::Line);
    let binary = |bytes: Vec<u8>| (bytes, ProxyError::Binary);
    let mut broken = v2(0x21, 0x11, &[&IPV4[..], &tlv(0x03, &[0; 4])].concat());
    broken = with_checksum(broken, 16 + 12 + 3);
    broken[17] ^= 1;
    let mut long = v2(0x21, 0x11, &IPV4);
    long[14..16].copy_from_slice(&4_097_u16.to_be_bytes());
    let cases = [
        (b"\x10\x0c\0\x04MQTT".to_vec(), ProxyError::NoHeader),
        (b"GET / HTTP/1.1\r\n".to_vec(), ProxyError::NoHeader),
        (b"PROXX".to_vec(), ProxyError::NoHeader),
        (b"\r\n\r\n\0\r\nQUIX".to_vec(), ProxyError::NoHeader),
        line("PROXY TCP4 192.0.2.1 198.51.100.1 56324 1883\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.1 56324 1883 1\r\n"),
        line("PROXY TCP4 192.0.2.1  198.51.100.1 56324 1883\r\n"),
        line("PROXY TCP4 2001:db8::1 2001:db8::2 56324 1883\r\n"),
        line("PROXY TCP6 192.0.2.1 198.51.100.1 56324 1883\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.1 +5632 1883\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.1 05632 1883\r\n"),
        line("PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n"),
        line("PROXY UDP4 192.0.2.1 198.51.100.1 56324 1883\r\n"),
        line("PROXY \r\n"),
        (b"PROXY TCP4 \xFF\r\n".to_vec(), ProxyError::Line),
        ([&b"PROXY UNKNOWN"[..], &[b' '; 94]].concat(), ProxyError::Line),
        binary(v2(0x11, 0x11, &IPV4)),
        binary(v2(0x22, 0x11, &IPV4)),
        binary(v2(0x21, 0x41, &IPV4)),
        binary(v2(0x21, 0x13, &IPV4)),
        binary(v2(0x21, 0x11, &IPV4[..11])),
        binary(v2(0x21, 0x21, &IPV4)),
        binary(v2(0x21, 0x11, &[&IPV4[..], &[0x02, 0, 9, b'x']].concat())),
        binary(v2(0x21, 0x11, &[&IPV4[..], &[0x02]].concat())),
        binary(v2(0x21, 0x11, &[&IPV4[..], &tlv(0x20, &[7, 0, 0, 0])].concat())),
        binary(v2(0x21, 0x11, &[&IPV4[..], &tlv(0x03, &[0; 3])].concat())),
        (broken, ProxyError::Checksum),
        (long[..16].to_vec(), ProxyError::TooLong),
    ];
    for (bytes, error) in cases {
        assert_eq!(parse(&bytes, Versions::Any), Err(error), "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn anything_is_taken_or_refused_and_nothing_is_kept_without_bound(
        start in prop::sample::select(vec![&b""[..], v1::SIGNATURE, v2::SIGNATURE, b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"]),
        rest in prop::collection::vec(any::<u8>(), 0..6_000),
        size in 1_usize..700,
    ) {
        let mut decoder = ProxyDecoder::new(Versions::Any);
        for chunk in [start, &rest].concat().chunks(size) {
            if !matches!(decoder.receive(chunk), Ok(None)) {
                break;
            }
            prop_assert!(decoder.partial.len() <= LONGEST_V2 + v2::FIXED);
        }
    }
}
