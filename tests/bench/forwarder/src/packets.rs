//! The few packets that the forwarder knows, without any check but of lengths.

/// What came from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Connect {
        v5: bool,
    },
    /// With an identifier it is of QoS 1.
    Publish {
        topic: &'a [u8],
        payload: &'a [u8],
        id: Option<u16>,
    },
    Subscribe {
        id: u16,
        filters: Vec<(&'a [u8], u8)>,
    },
    Ack,
    Ping,
    Disconnect,
}

/// The first packet and its size; `None` where its end is missing.
///
/// # Errors
/// It is none that is known here.
pub(crate) fn next(bytes: &[u8], v5: bool) -> Result<Option<(Packet<'_>, usize)>, ()> {
    let Some((begin, length)) = header(bytes)? else { return Ok(None) };
    let Some(body) = bytes.get(begin..begin + length) else { return Ok(None) };
    let packet = match bytes[0] >> 4 {
        1 => Packet::Connect { v5: *body.get(6).ok_or(())? == 5 },
        3 => publish(bytes[0], body, v5)?,
        4 => Packet::Ack,
        8 => subscribe(body, v5)?,
        12 => Packet::Ping,
        14 => Packet::Disconnect,
        _ => return Err(()),
    };
    Ok(Some((packet, begin + length)))
}

/// Where the body begins, and how long it is.
fn header(bytes: &[u8]) -> Result<Option<(usize, usize)>, ()> {
    let mut length = 0;
    for (n, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Ok(Some((n + 2, length)));
        }
    }
    if bytes.len() > 4 { Err(()) } else { Ok(None) }
}

fn publish(first: u8, body: &[u8], v5: bool) -> Result<Packet<'_>, ()> {
    let (topic, rest) = text(body)?;
    let (id, rest) = match first >> 1 & 3 {
        0 => (None, rest),
        1 => {
            let (id, rest) = rest.split_first_chunk().ok_or(())?;
            (Some(u16::from_be_bytes(*id)), rest)
        }
        _ => return Err(()),
    };
    Ok(Packet::Publish { topic, payload: without_properties(rest, v5)?, id })
}

fn subscribe(body: &[u8], v5: bool) -> Result<Packet<'_>, ()> {
    let (id, rest) = body.split_first_chunk().ok_or(())?;
    let mut rest = without_properties(rest, v5)?;
    let mut filters = Vec::new();
    while !rest.is_empty() {
        let (filter, after) = text(rest)?;
        let (options, after) = after.split_first().ok_or(())?;
        filters.push((filter, options & 3));
        rest = after;
    }
    Ok(Packet::Subscribe { id: u16::from_be_bytes(*id), filters })
}

fn text(bytes: &[u8]) -> Result<(&[u8], &[u8]), ()> {
    let (length, rest) = bytes.split_first_chunk().ok_or(())?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(())
}

/// Properties of less than 128 bytes are skipped.
fn without_properties(bytes: &[u8], v5: bool) -> Result<&[u8], ()> {
    if !v5 {
        return Ok(bytes);
    }
    let (length, rest) = bytes.split_first().ok_or(())?;
    rest.get(usize::from(*length)..).filter(|_| *length < 128).ok_or(())
}

/// Appends a PUBLISH; with an identifier it is of QoS 1.
pub(crate) fn write_publish(out: &mut Vec<u8>, topic: &[u8], payload: &[u8], v5: bool, id: Option<u16>) {
    let mut length = 2 + topic.len() + 2 * usize::from(id.is_some()) + usize::from(v5) + payload.len();
    out.push(if id.is_some() { 0x32 } else { 0x30 });
    loop {
        let more = length > 0x7f;
        out.push((length & 0x7f) as u8 | u8::from(more) << 7);
        length >>= 7;
        if !more {
            break;
        }
    }
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend_from_slice(topic);
    if let Some(id) = id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    if v5 {
        out.push(0);
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for (v5, id, size) in [(false, None, 0), (true, None, 64), (false, Some(7), 200), (true, Some(1), 20_000)] {
            let payload = vec![9; size];
            let mut bytes = Vec::new();
            write_publish(&mut bytes, b"a/b", &payload, v5, id);
            let whole = bytes.len();
            assert_eq!(next(&bytes[..whole - 1], v5), Ok(None));
            bytes.extend_from_slice(&[0xc0, 0]);
            let publish = Packet::Publish { topic: b"a/b", payload: &payload, id };
            assert_eq!(next(&bytes, v5), Ok(Some((publish, whole))));
            assert_eq!(next(&bytes[whole..], v5), Ok(Some((Packet::Ping, 2))));
        }
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_no_packet() {
        assert_eq!(next(&[], false), Ok(None));
        assert_eq!(next(&[0x30, 0xff, 0xff, 0xff, 0xff], false), Err(()));
        assert_eq!(next(&[0x30, 2, 0, 9], false), Err(()), "a topic longer than its packet");
        assert_eq!(next(&[0x34, 5, 0, 1, b'a', 0, 1], false), Err(()), "QoS 2");
        assert_eq!(next(&[0x82, 1, 0], false), Err(()));
    }
}
