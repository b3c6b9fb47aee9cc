//! Packets of the hot path, written and read without allocating; all others go through `raftmq-mqtt`.

use std::num::NonZeroU16;

use raftmq_mqtt::{EncodeError, Packet, PacketType, Properties, Publish, QoS, Version, encode};

use crate::stamp::{self, Stamp};

/// The longest packet that is taken. What a run sends is far shorter; a server that sends more is not one to measure.
pub(crate) const MAX_PACKET: usize = 64 << 20;

/// Everything of a publisher's PUBLISH that does not change from message to message.
#[derive(Debug)]
pub(crate) struct PublishForm {
    /// Fixed header and topic name.
    head: Box<[u8]>,
    with_id: bool,
    /// MQTT 5 has a length of properties, 0.
    with_properties: bool,
}

impl PublishForm {
    /// For a topic name and a payload of this length.
    ///
    /// # Errors
    /// The topic is none, or the packet would be too long.
    pub(crate) fn new(topic: &str, qos: QoS, version: Version, payload: &[u8]) -> Result<Self, EncodeError> {
        let packet = Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic,
            packet_id: (qos != QoS::AtMostOnce).then_some(NonZeroU16::MIN),
            properties: Properties::EMPTY,
            payload,
        });
        let mut bytes = Vec::new();
        encode(&packet, version, &mut bytes)?;
        let with_id = qos != QoS::AtMostOnce;
        let with_properties = version.is_v5();
        bytes.truncate(bytes.len() - payload.len() - usize::from(with_properties) - 2 * usize::from(with_id));
        Ok(Self { head: bytes.into(), with_id, with_properties })
    }

    /// Appends one message: the payload is the stamp, where there is one, and then `rest`.
    pub(crate) fn write(&self, id: Option<NonZeroU16>, stamp: Option<Stamp>, rest: &[u8], out: &mut Vec<u8>) {
        out.reserve(self.head.len() + 3 + stamp::LENGTH + rest.len());
        out.extend_from_slice(&self.head);
        if let (true, Some(id)) = (self.with_id, id) {
            out.extend_from_slice(&id.get().to_be_bytes());
        }
        if self.with_properties {
            out.push(0);
        }
        if let Some(stamp) = stamp {
            out.extend_from_slice(&stamp.to_bytes());
        }
        out.extend_from_slice(rest);
    }
}

/// Appends an acknowledgement of success, which is the same four bytes in every version.
pub(crate) fn write_ack(packet: PacketType, id: NonZeroU16, out: &mut Vec<u8>) {
    let flags = if packet == PacketType::PubRel { 2 } else { 0 };
    let [high, low] = id.get().to_be_bytes();
    out.extend_from_slice(&[(packet as u8) << 4 | flags, 2, high, low]);
}

/// A packet whose bytes are all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Type and flags.
    pub(crate) first: u8,
    /// Variable header and payload.
    pub(crate) body: &'a [u8],
    /// Its whole length.
    pub(crate) length: usize,
}

/// What is wrong with what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// More than four bytes of length.
    #[error("a packet has a malformed length")]
    Length,
    /// Longer than [`MAX_PACKET`].
    #[error("a packet is longer than 64 MiB")]
    TooLong,
    /// A PUBLISH or acknowledgement that ends too early, or has QoS 3.
    #[error("a packet is malformed")]
    Malformed,
}

/// The packet at the front. `Err(need)` inside: so many bytes have to be there first, as far as is known.
pub(crate) fn frame(bytes: &[u8]) -> Result<Result<Frame<'_>, usize>, WireError> {
    let mut remaining = 0;
    for n in 0..4 {
        let Some(&byte) = bytes.get(1 + n) else { return Ok(Err(2 + n)) };
        remaining |= usize::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            let start = 2 + n;
            let length = start + remaining;
            if length > MAX_PACKET {
                return Err(WireError::TooLong);
            }
            return Ok(match bytes.get(start..length) {
                Some(body) => Ok(Frame { first: bytes[0], body, length }),
                None => Err(length),
            });
        }
    }
    Err(WireError::Length)
}

impl<'a> Frame<'a> {
    /// The type of the packet; `None` for 0.
    pub(crate) fn packet(&self) -> Option<PacketType> {
        PacketType::from_u8(self.first >> 4)
    }

    /// Of a PUBLISH: quality of service, identifier and payload. The topic is not looked at: who sent a message is in its stamp.
    pub(crate) fn publish(&self, version: Version) -> Result<(QoS, Option<NonZeroU16>, &'a [u8]), WireError> {
        let qos = QoS::from_u8(self.first >> 1 & 3).ok_or(WireError::Malformed)?;
        let (topic, rest) = two(self.body).ok_or(WireError::Malformed)?;
        let mut rest = rest.get(usize::from(topic)..).ok_or(WireError::Malformed)?;
        let mut id = None;
        if qos != QoS::AtMostOnce {
            let (value, after) = two(rest).ok_or(WireError::Malformed)?;
            id = Some(NonZeroU16::new(value).ok_or(WireError::Malformed)?);
            rest = after;
        }
        if version.is_v5() {
            let mut length = 0;
            let mut n = 0;
            loop {
                let (&byte, after) = rest.split_first().ok_or(WireError::Malformed)?;
                rest = after;
                length |= usize::from(byte & 0x7F) << (7 * n);
                n += 1;
                if byte & 0x80 == 0 {
                    break;
                }
                if n == 4 {
                    return Err(WireError::Malformed);
                }
            }
            rest = rest.get(length..).ok_or(WireError::Malformed)?;
        }
        Ok((qos, id, rest))
    }

    /// The identifier of an acknowledgement that says nothing but success, or that there are no subscribers (0x10); `None` for any
    /// other packet.
    pub(crate) fn plain_ack(&self) -> Option<NonZeroU16> {
        let ([high, low] | [high, low, 0x00 | 0x10]) = self.body else { return None };
        NonZeroU16::new(u16::from_be_bytes([*high, *low]))
    }
}

fn two(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (value, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*value), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use raftmq_mqtt::{Ack, Decoded, Limits, PropertiesBuf, Property, decode};

    use super::*;

    const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

    /// What is written is what the codec reads, and what is read what the codec writes.
    #[test]
    fn publish_is_that_of_the_codec() {
        for version in [Version::V3_1_1, Version::V5] {
            for qos in ALL_QOS {
                for payload_length in [0, 15, 16, 17, 100, 127, 128, 20_000] {
                    let stamp = Stamp { sender: 1, sequence: 2, due: 3 };
                    let with_stamp = payload_length >= stamp::LENGTH;
                    let mut payload = vec![7; payload_length];
                    let form = PublishForm::new("a/b", qos, version, &payload).unwrap();
                    let id = NonZeroU16::new(0x0102);
                    let mut out = vec![9];
                    let rest = &payload[if with_stamp { stamp::LENGTH } else { 0 }..];
                    form.write(id, with_stamp.then_some(stamp), rest, &mut out);
                    if with_stamp {
                        payload[..stamp::LENGTH].copy_from_slice(&stamp.to_bytes());
                    }
                    let decoded = decode(&out[1..], Some(version), &Limits::default()).unwrap();
                    let Decoded::Packet { packet: Packet::Publish(publish), consumed } = decoded else {
                        panic!("{decoded:?}");
                    };
                    assert_eq!((consumed, publish.topic, publish.qos), (out.len() - 1, "a/b", qos));
                    assert_eq!(publish.payload, payload);
                    let id = id.filter(|_| qos != QoS::AtMostOnce);
                    assert_eq!(publish.packet_id, id);
                    let read = frame(&out[1..]).unwrap().unwrap();
                    assert_eq!((read.packet(), read.length), (Some(PacketType::Publish), out.len() - 1));
                    assert_eq!(read.publish(version), Ok((qos, id, &payload[..])));
                    // A byte too few is asked for.
                    assert!(matches!(frame(&out[1..out.len() - 1]), Ok(Err(need)) if need < out.len()));
                }
            }
        }
    }

    #[test]
    fn properties_are_passed_over() {
        let mut properties = PropertiesBuf::new();
        properties.push(Property::UserProperty((&"a".repeat(100), &"b".repeat(100)))).unwrap();
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "t",
            packet_id: NonZeroU16::new(5),
            properties: properties.as_properties(),
            payload: b"payload",
        };
        let mut out = Vec::new();
        encode(&Packet::Publish(publish), Version::V5, &mut out).unwrap();
        let read = frame(&out).unwrap().unwrap().publish(Version::V5).unwrap();
        assert_eq!(read, (QoS::AtLeastOnce, NonZeroU16::new(5), &b"payload"[..]));
    }

    #[test]
    fn acknowledgements_are_those_of_the_codec() {
        let id = NonZeroU16::new(0xABCD).unwrap();
        for version in [Version::V3_1_1, Version::V5] {
            for (packet_type, packet) in [
                (PacketType::PubAck, Packet::PubAck(Ack::success(id))),
                (PacketType::PubRec, Packet::PubRec(Ack::success(id))),
                (PacketType::PubRel, Packet::PubRel(Ack::success(id))),
                (PacketType::PubComp, Packet::PubComp(Ack::success(id))),
            ] {
                let (mut mine, mut its) = (Vec::new(), Vec::new());
                write_ack(packet_type, id, &mut mine);
                encode(&packet, version, &mut its).unwrap();
                assert_eq!(mine, its);
                let read = frame(&its).unwrap().unwrap();
                assert_eq!((read.packet(), read.plain_ack()), (Some(packet_type), Some(id)));
            }
        }
    }

    #[test]
    fn acknowledgements_with_a_reason() {
        let id = NonZeroU16::new(7).unwrap();
        for (reason, plain) in
            [(raftmq_mqtt::ReasonCode::NoMatchingSubscribers, Some(id)), (raftmq_mqtt::ReasonCode::NotAuthorized, None)]
        {
            let ack = Ack { packet_id: id, reason, properties: Properties::EMPTY };
            let mut bytes = Vec::new();
            encode(&Packet::PubAck(ack), Version::V5, &mut bytes).unwrap();
            assert_eq!(frame(&bytes).unwrap().unwrap().plain_ack(), plain);
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]), Err(WireError::Length));
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]), Err(WireError::TooLong));
        assert_eq!(frame(&[]), Ok(Err(2)));
        let bad = |bytes: &[u8], version| frame(bytes).unwrap().unwrap().publish(version).unwrap_err();
        for bytes in
            [&[0x36, 2, 0, 0][..], &[0x30, 0], &[0x30, 3, 0, 5, b'a'], &[0x32, 3, 0, 1, b'a'], &[0x32, 4, 0, 0, 0, 0]]
        {
            assert_eq!(bad(bytes, Version::V3_1_1), WireError::Malformed);
        }
        for bytes in [&[0x30, 2, 0, 0][..], &[0x30, 3, 0, 0, 1], &[0x30, 6, 0, 0, 0x80, 0x80, 0x80, 0x80]] {
            assert_eq!(bad(bytes, Version::V5), WireError::Malformed);
        }
    }
}
