//! PROXY headers: of any bytes, and those that a balancer makes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Source;
use crate::proxy::{Header, Parsed, ProxyDecoder, ProxyError, Versions, parse};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Above this size not each prefix is read: the work grows with the square.
const PREFIX_LIMIT: usize = 300;

/// Any bytes as the beginning of a connection; or as what is told in a header, which then says that.
pub(super) fn any_header(data: &[u8]) {
    let mut source = Source::new(data);
    let _ = match source.below(5) {
        0 => check(&mut source, |source| source.rest().to_vec()),
        1 => check(&mut source, |source| [b"PROXY ", source.rest()].concat()),
        2 => check(&mut source, |source| [SIGNATURE, &[0x21], source.rest()].concat()),
        3 => line(&mut source),
        _ => binary(&mut source),
    };
}

/// What all bytes have in common: the same result however they are split, at the earliest byte, and for ever.
fn check(source: &mut Source<'_>, bytes: impl FnOnce(&mut Source<'_>) -> Vec<u8>) -> Result<Parsed, ProxyError> {
    let versions = source.choose(&[Versions::Any, Versions::V1, Versions::V2]);
    let size = source.below(64) + 1;
    let bytes = bytes(source);
    let whole = parse(&bytes, versions);
    let mut decoder = ProxyDecoder::new(versions);
    let mut known = 0;
    let mut split = Ok(Parsed::Incomplete);
    for piece in bytes.chunks(size) {
        match decoder.receive(piece) {
            Ok(None) => known += piece.len(),
            Ok(Some((header, length))) => {
                assert!(length <= piece.len() && length > 0);
                split = Ok(Parsed::Header(header, known + length));
                break;
            }
            Err(error) => {
                split = Err(error);
                break;
            }
        }
    }
    match (&split, &whole) {
        (Err(_), Err(_)) => {}
        _ => assert_eq!(split, whole),
    }
    if let Ok(Parsed::Header(_, length)) = &whole {
        assert!(*length <= bytes.len());
    }
    let mut decided = false;
    for end in 0..bytes.len().min(PREFIX_LIMIT) {
        match parse(&bytes[..end], versions) {
            Ok(Parsed::Incomplete) => assert!(!decided, "taken back at {end}"),
            Ok(header) => {
                assert_eq!(Ok(&header), whole.as_ref(), "{end}");
                decided = true;
            }
            // The rest may make another error of it.
            Err(error) => {
                assert!(whole.is_err(), "{error} at {end}, but {whole:?}");
                decided = true;
            }
        }
    }
    whole
}

/// A line of version 1 with these addresses.
fn line(source: &mut Source<'_>) -> Result<Parsed, ProxyError> {
    let (from, to): (SocketAddr, SocketAddr) = addresses(source);
    let kind = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = format!("PROXY {kind} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
    let mut bytes = line.clone().into_bytes();
    bytes.extend(source.take(9));
    let header = Header { source: Some(from), ..Header::default() };
    assert_eq!(parse(&bytes, Versions::Any), Ok(Parsed::Header(header, line.len())));
    let (at, change) = (source.below(line.len()), source.byte());
    check(source, |_| {
        bytes[at] = bytes[at].wrapping_add(change);
        bytes
    })
}

fn addresses(source: &mut Source<'_>) -> (SocketAddr, SocketAddr) {
    let v4 = source.below(2) == 0;
    let mut one = || -> SocketAddr {
        let port = u16::from_be_bytes(source.array());
        if v4 {
            (Ipv4Addr::from(source.array::<4>()), port).into()
        } else {
            (Ipv6Addr::from(source.array::<16>()), port).into()
        }
    };
    (one(), one())
}

/// A header of version 2 with these addresses and values.
fn binary(source: &mut Source<'_>) -> Result<Parsed, ProxyError> {
    let (from, to) = addresses(source);
    let mut rest = Vec::new();
    for address in [from, to] {
        match address {
            SocketAddr::V4(address) => rest.extend(address.ip().octets()),
            SocketAddr::V6(address) => rest.extend(address.ip().octets()),
        }
    }
    rest.extend(from.port().to_be_bytes());
    rest.extend(to.port().to_be_bytes());
    let mut header = Header { source: Some(from), ..Header::default() };
    let mut checksum = None;
    for _ in 0..source.below(6) {
        match source.below(4) {
            0 => {
                let name = value(source);
                header.server_name = text(name);
                tlv(&mut rest, 0x02, name);
            }
            1 => {
                let flags = source.byte();
                let verify: [u8; 4] = if source.below(2) == 0 { [0; 4] } else { source.array() };
                let name = value(source);
                let mut ssl = vec![flags];
                ssl.extend(verify);
                tlv(&mut ssl, 0x21, value(source));
                tlv(&mut ssl, 0x22, name);
                header.common_name = text(name).filter(|_| flags & 6 != 0 && verify == [0; 4]);
                tlv(&mut rest, 0x20, &ssl);
            }
            2 if checksum.is_none() => {
                checksum = Some(rest.len() + 3);
                tlv(&mut rest, 0x03, &[0; 4]);
            }
            _ => tlv(&mut rest, 0x80 | source.byte(), value(source)),
        }
    }
    let family = if from.is_ipv4() { 0x11 } else { 0x21 };
    let length = u16::try_from(rest.len()).expect("a few short values").to_be_bytes();
    let mut bytes = [SIGNATURE, &[0x21, family], &length, &rest].concat();
    if let Some(at) = checksum {
        let sum = crc32c::crc32c(&bytes).to_be_bytes();
        bytes[16 + at..16 + at + 4].copy_from_slice(&sum);
    }
    let length = bytes.len();
    bytes.extend(source.take(9));
    assert_eq!(parse(&bytes, Versions::Any), Ok(Parsed::Header(header, length)));
    let (at, change) = (source.below(length.min(256)), source.byte());
    let damaged = check(source, |_| {
        bytes[at] = bytes[at].wrapping_add(change);
        bytes
    });
    let addresses = 16..if from.is_ipv4() { 28 } else { 52 };
    if checksum.is_some() && change != 0 && addresses.contains(&at) {
        assert!(!matches!(damaged, Ok(Parsed::Header(..))), "an address that the checksum does not cover: {damaged:?}");
    }
    damaged
}

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend(u16::try_from(value.len()).expect("a short value").to_be_bytes());
    out.extend(value);
}

fn value<'a>(source: &mut Source<'a>) -> &'a [u8] {
    let length = source.below(40);
    source.take(length)
}

fn text(value: &[u8]) -> Option<Box<str>> {
    std::str::from_utf8(value).ok().filter(|text| !text.is_empty()).map(Into::into)
}
