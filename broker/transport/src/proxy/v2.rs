//! Version 2: a signature of 12 bytes, version and command, family and protocol, a length, addresses, then type-length-values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Header, LONGEST_V2, Parsed, ProxyError};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to the addresses.
pub(super) const FIXED: usize = 16;

const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
const SSL_CN: u8 = 0x22;
/// `PP2_CLIENT_CERT_CONN` or `PP2_CLIENT_CERT_SESS`: the client showed a certificate.
const CLIENT_CERT: u8 = 0x02 | 0x04;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    // What is wrong is said at the byte that is wrong, not when the rest has come.
    let local = match bytes.get(12) {
        None => return Ok(Parsed::Incomplete),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(ProxyError::Binary),
    };
    let Some(fixed) = bytes.get(..FIXED) else {
        return Ok(Parsed::Incomplete);
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > LONGEST_V2 {
        return Err(ProxyError::TooLong);
    }
    let whole = FIXED + length;
    let Some(rest) = bytes.get(FIXED..whole) else {
        return Ok(Parsed::Incomplete);
    };
    if local {
        // A health check of the balancer: the addresses are to be ignored, the length is not.
        return Ok(Parsed::Header(Header::default(), whole));
    }
    let (source, size) = addresses(fixed[13], rest)?;
    let mut header = Header { source, ..Header::default() };
    if let Some(size) = size {
        for tlv in Tlvs(&rest[size..]) {
            let (kind, value) = tlv?;
            match kind {
                CRC32C => check(&bytes[..whole], value)?,
                AUTHORITY => header.server_name = text(value),
                SSL => header.common_name = common_name(value)?,
                _ => {}
            }
        }
    }
    Ok(Parsed::Header(header, whole))
}

/// The source, and how many bytes the addresses take; `None` where it is not known where they end.
fn addresses(family: u8, rest: &[u8]) -> Result<(Option<SocketAddr>, Option<usize>), ProxyError> {
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let needs = |size: usize| if rest.len() < size { Err(ProxyError::Binary) } else { Ok(Some(size)) };
    Ok(match family {
        // Over TCP, and over UDP for a balancer that ends QUIC.
        0x11 | 0x12 => {
            let size = needs(12)?;
            let octets: [u8; 4] = rest[..4].try_into().map_err(|_| ProxyError::Binary)?;
            (Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), port(8))), size)
        }
        0x21 | 0x22 => {
            let size = needs(36)?;
            let octets: [u8; 16] = rest[..16].try_into().map_err(|_| ProxyError::Binary)?;
            (Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)), port(32))), size)
        }
        // Unix sockets have no address that means anything here.
        0x31 | 0x32 => (None, needs(216)?),
        0x00 => (None, Some(0)),
        // Unspecified in part: to be accepted, and ignored with all that follows.
        family if family >> 4 <= 3 && family & 0x0F <= 2 => (None, None),
        _ => return Err(ProxyError::Binary),
    })
}

/// Type, length of two bytes, value.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u8, &'a [u8]), ProxyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = (|| {
            let length = usize::from(u16::from_be_bytes([*self.0.get(1)?, *self.0.get(2)?]));
            Some(((self.0[0], self.0.get(3..3 + length)?), &self.0[3 + length..]))
        })();
        Some(match taken {
            Some((tlv, rest)) => {
                self.0 = rest;
                Ok(tlv)
            }
            None => {
                self.0 = &[];
                Err(ProxyError::Binary)
            }
        })
    }
}

/// CRC-32C of the whole header with the checksum's own bytes as zeros.
fn check(header: &[u8], value: &[u8]) -> Result<(), ProxyError> {
    let expected: [u8; 4] = value.try_into().map_err(|_| ProxyError::Binary)?;
    // The value lies within the header.
    let at = value.as_ptr() as usize - header.as_ptr() as usize;
    let sum = crc32c::crc32c(&header[..at]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    let sum = crc32c::crc32c_append(sum, &header[at + 4..]);
    if sum == u32::from_be_bytes(expected) { Ok(()) } else { Err(ProxyError::Checksum) }
}

/// One byte of flags, four of the result of the verification (0: good), then values of their own.
fn common_name(value: &[u8]) -> Result<Option<Box<str>>, ProxyError> {
    let Some((head, rest)) = value.split_at_checked(5) else {
        return Err(ProxyError::Binary);
    };
    let verified = head[0] & CLIENT_CERT != 0 && head[1..] == [0; 4];
    let mut found = None;
    for tlv in Tlvs(rest) {
        if let (SSL_CN, name) = tlv? {
            found = text(name);
        }
    }
    Ok(found.filter(|_| verified))
}

fn text(value: &[u8]) -> Option<Box<str>> {
    std::str::from_utf8(value).ok().filter(|text| !text.is_empty()).map(Into::into)
}
