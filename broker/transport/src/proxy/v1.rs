//! Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 1883\r\n`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Header, Parsed, ProxyError};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// With the end of the line, "a 108-byte buffer is always enough to store all the line and a trailing zero".
const LONGEST: usize = 107;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let window = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() >= LONGEST { Err(ProxyError::Line) } else { Ok(Parsed::Incomplete) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(ProxyError::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Line)?;
    let source = source(line).ok_or(ProxyError::Line)?;
    Ok(Parsed::Header(Header { source, ..Header::default() }, end + 1))
}

/// The client's address; `Some(None)` where the balancer does not know it.
fn source(line: &str) -> Option<Option<SocketAddr>> {
    let mut fields = line.split(' ').skip(1);
    let ip = match fields.next()? {
        // Whatever follows is to be ignored.
        "UNKNOWN" => return Some(None),
        "TCP4" => both::<Ipv4Addr>(&mut fields)?.into(),
        "TCP6" => IpAddr::from(both::<Ipv6Addr>(&mut fields)?),
        _ => return None,
    };
    let port = port(fields.next()?)?;
    port_of_destination(fields.next()?)?;
    fields.next().is_none().then_some(Some(SocketAddr::new(ip, port)))
}

/// Source and destination; the source is what is wanted.
fn both<'a, T: FromStr>(fields: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    let source = fields.next()?.parse().ok()?;
    let _destination: T = fields.next()?.parse().ok()?;
    Some(source)
}

fn port_of_destination(text: &str) -> Option<()> {
    port(text).map(drop)
}

/// Decimal digits without leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}
