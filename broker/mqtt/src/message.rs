//! The envelope in which a published message travels: one layout for memory, links and disks.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;
use thiserror::Error;

use crate::topic::{TopicError, validate_topic};
use crate::{PacketType, Properties, Property, PropertyError, PropertyPlace, Publish, QoS};

/// The layout's version, its first byte.
///
/// Layout 1, little endian: version u8, flags u8 (bits 0-1 QoS, bit 2 retain, bit 3 expires), publisher length u16,
/// topic length u16, zero u16, properties length u32, payload length u32, origin node u64, origin sequence u64,
/// received at u64, expires at u64, then topic, publisher, properties, payload, and, if bit 4 of the flags is set, the number of the change of
/// its topic's retained message u64.
const FORMAT: u8 = 1;
const HEADER: usize = 48;
/// Larger messages are gathered in an allocation of their own.
const ON_THE_STACK: usize = 1024;

const QOS_BITS: u8 = 0b11;
const RETAIN: u8 = 1 << 2;
const EXPIRES: u8 = 1 << 3;
const CHANGE: u8 = 1 << 4;
/// Of the number of a change.
const CHANGE_LENGTH: usize = 8;

/// Names a message in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The Raft id of the node that accepted it.
    pub node: u64,
    /// A number that this node gives once.
    pub sequence: u64,
}

/// Why a message cannot be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Not this many bytes are there.
    #[error("message of {needed} bytes ends after {found} bytes")]
    Truncated {
        /// What the header says, or the size of the header.
        needed: usize,
        /// What is there.
        found: usize,
    },
    /// Bytes after the message.
    #[error("{count} bytes after the message")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// Another version of the layout.
    #[error("message format {format} is not known")]
    Format {
        /// The version.
        format: u8,
    },
    /// A flag or value in the header that this format does not have.
    #[error("message header has invalid {field}")]
    Header {
        /// The field.
        field: &'static str,
    },
    /// The topic name is not valid. It is empty if a topic alias was not resolved.
    #[error("topic name {0}")]
    Topic(TopicError),
    /// The topic or publisher is not UTF-8.
    #[error("{field} is not valid UTF-8")]
    Utf8 {
        /// The field.
        field: &'static str,
    },
    /// The properties are not valid in a message.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// A part is longer than its length field can say.
    #[error("{field} is too long")]
    TooLong {
        /// The field.
        field: &'static str,
    },
}

/// A published message: one allocation; a clone counts a reference.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Arc<[u8]>);

impl Message {
    /// Makes the envelope of a PUBLISH, whose topic alias (if any) must have been resolved.
    ///
    /// `publisher` is the client identifier, empty if no client published it. Times are milliseconds since the Unix
    /// epoch. `expires_at_ms` is usually [`Publish::expires_at_ms`], possibly capped. The properties that belong to one hop or
    /// are kept elsewhere (message expiry interval, topic alias, subscription identifiers, a will's delay) are
    /// left out; the others are kept as they are (`[MQTT-3.3.2-4]`, `[MQTT-3.3.2-15]`, `[MQTT-3.3.2-16]`, `[MQTT-3.3.2-17]`,
    /// `[MQTT-3.3.2-20]`), in their order (`[MQTT-3.3.2-18]`).
    pub fn new(
        publish: &Publish<'_>,
        origin: Origin,
        publisher: &str,
        received_at_ms: u64,
        expires_at_ms: Option<u64>,
    ) -> Result<Self, MessageError> {
        validate_topic(publish.topic).map_err(MessageError::Topic)?;
        let kept = KeptProperties::of(publish.properties);
        let length = |bytes: usize, field| u32::try_from(bytes).map_err(|_| MessageError::TooLong { field });
        let publisher_length =
            u16::try_from(publisher.len()).map_err(|_| MessageError::TooLong { field: "publisher" })?;
        let topic_length = u16::try_from(publish.topic.len()).map_err(|_| MessageError::TooLong { field: "topic" })?;
        let properties_length = length(kept.length, "properties")?;
        let payload_length = length(publish.payload.len(), "payload")?;
        let flags = publish.qos as u8
            | if publish.retain { RETAIN } else { 0 }
            | if expires_at_ms.is_some() { EXPIRES } else { 0 };

        let total = HEADER + publish.topic.len() + publisher.len() + kept.length + publish.payload.len();
        let mut header = [0; HEADER];
        header[0] = FORMAT;
        header[1] = flags;
        header[2..4].copy_from_slice(&publisher_length.to_le_bytes());
        header[4..6].copy_from_slice(&topic_length.to_le_bytes());
        header[8..12].copy_from_slice(&properties_length.to_le_bytes());
        header[12..16].copy_from_slice(&payload_length.to_le_bytes());
        for (at, number) in
            [origin.node, origin.sequence, received_at_ms, expires_at_ms.unwrap_or(0)].into_iter().enumerate()
        {
            header[16 + 8 * at..24 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        // Gathered where nothing is filled with zeros first, then copied into the one allocation.
        let mut bytes = SmallVec::<[u8; ON_THE_STACK]>::with_capacity(total);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(publish.topic.as_bytes());
        bytes.extend_from_slice(publisher.as_bytes());
        kept.segments().for_each(|segment| bytes.extend_from_slice(segment));
        bytes.extend_from_slice(publish.payload);
        debug_assert_eq!(bytes.len(), total);
        Ok(Self(Arc::from(&bytes[..])))
    }

    /// The topic name.
    pub fn topic(&self) -> &str {
        std::str::from_utf8(self.topic_bytes()).expect("checked when the message was made")
    }

    /// The topic name as bytes, where its being UTF-8 does not matter.
    pub fn topic_bytes(&self) -> &[u8] {
        &self.0[HEADER..HEADER + self.topic_length()]
    }

    /// The client identifier of the publisher; empty if no client published it.
    pub fn publisher(&self) -> &str {
        let start = HEADER + self.topic_length();
        std::str::from_utf8(&self.0[start..start + self.publisher_length()]).expect("checked when the message was made")
    }

    /// Payload format, content type, response topic, correlation data and user properties, as they were published.
    pub fn properties(&self) -> Properties<'_> {
        let start = HEADER + self.topic_length() + self.publisher_length();
        Properties::trusted(&self.0[start..start + self.properties_length()])
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        let start = HEADER + self.topic_length() + self.publisher_length() + self.properties_length();
        &self.0[start..start + u32_at(&self.0, 12)]
    }

    /// The number of the change that it was to what its topic's shard retains, if it carries that: of two changes the later one has the higher number.
    pub fn change(&self) -> Option<u64> {
        (self.0[1] & CHANGE != 0).then(|| self.number(self.0.len() - CHANGE_LENGTH))
    }

    /// The same message with the number of a change: a copy.
    #[must_use]
    pub fn with_change(&self, number: u64) -> Self {
        let end = self.0.len() - if self.change().is_some() { CHANGE_LENGTH } else { 0 };
        let mut bytes = SmallVec::<[u8; ON_THE_STACK]>::with_capacity(end + CHANGE_LENGTH);
        bytes.extend_from_slice(&self.0[..end]);
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes[1] |= CHANGE;
        Self(Arc::from(&bytes[..]))
    }

    /// The quality of service that it was published with.
    pub fn qos(&self) -> QoS {
        QoS::from_u8(self.0[1] & QOS_BITS).expect("checked when the message was made")
    }

    /// The retain flag that it was published with.
    pub fn retain(&self) -> bool {
        self.0[1] & RETAIN != 0
    }

    /// Its name in the cluster.
    pub fn origin(&self) -> Origin {
        Origin { node: self.number(16), sequence: self.number(24) }
    }

    /// When it was accepted, in milliseconds since the Unix epoch.
    pub fn received_at_ms(&self) -> u64 {
        self.number(32)
    }

    /// When it expires, in milliseconds since the Unix epoch.
    pub fn expires_at_ms(&self) -> Option<u64> {
        (self.0[1] & EXPIRES != 0).then(|| self.number(40))
    }

    /// Whether it must not be delivered any more (`[MQTT-3.3.2-5]`).
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms().is_some_and(|deadline| deadline <= now_ms)
    }

    /// The seconds that are left before it expires, rounded up: the message expiry interval to send
    /// (`[MQTT-3.3.2-6]`).
    pub fn remaining_seconds(&self, now_ms: u64) -> Option<u32> {
        let left = self.expires_at_ms()?.saturating_sub(now_ms).div_ceil(1000);
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// How many bytes [`to_wire`](Self::to_wire) appends; also the size of the allocation.
    pub fn wire_len(&self) -> usize {
        self.0.len()
    }

    /// Appends the message in the layout for links and disks.
    pub fn to_wire(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    /// Reads a message that is the whole of `bytes`, and checks all of it.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, MessageError> {
        match Self::split_wire(bytes)? {
            (message, []) => Ok(message),
            (_, rest) => Err(MessageError::TrailingBytes { count: rest.len() }),
        }
    }

    /// Reads the message at the front of `bytes`, checks all of it, and returns what comes after it.
    pub fn split_wire(bytes: &[u8]) -> Result<(Self, &[u8]), MessageError> {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Err(MessageError::Truncated { needed: HEADER, found: bytes.len() });
        };
        let lengths = Lengths::of(header)?;
        let Some((message, rest)) = bytes.split_at_checked(lengths.total()) else {
            return Err(MessageError::Truncated { needed: lengths.total(), found: bytes.len() });
        };
        lengths.check(message)?;
        Ok((Self(Arc::from(message)), rest))
    }

    fn publisher_length(&self) -> usize {
        u16_at(&self.0, 2)
    }

    fn topic_length(&self) -> usize {
        u16_at(&self.0, 4)
    }

    fn properties_length(&self) -> usize {
        u32_at(&self.0, 8)
    }

    fn number(&self, at: usize) -> u64 {
        u64::from_le_bytes(array_at(&self.0, at))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("origin", &self.origin())
            .field("publisher", &self.publisher())
            .field("topic", &self.topic())
            .field("qos", &self.qos())
            .field("retain", &self.retain())
            .field("received_at_ms", &self.received_at_ms())
            .field("expires_at_ms", &self.expires_at_ms())
            .field("properties", &self.properties())
            // Not the payload: it is the publisher's secret.
            .field("payload_bytes", &self.payload().len())
            .finish()
    }
}

/// The part of a PUBLISH's properties that a message keeps, as runs of the original bytes.
struct KeptProperties<'a> {
    properties: Properties<'a>,
    length: usize,
}

impl<'a> KeptProperties<'a> {
    fn of(properties: Properties<'a>) -> Self {
        let mut kept = Self { properties, length: 0 };
        kept.length = kept.segments().map(<[u8]>::len).sum();
        kept
    }

    fn segments(&self) -> impl Iterator<Item = &'a [u8]> {
        self.properties.segments().filter(|(property, _)| is_kept(property)).map(|(_, raw)| raw)
    }
}

const fn is_kept(property: &Property<'_>) -> bool {
    matches!(
        property,
        Property::PayloadFormatIndicator(_)
            | Property::ContentType(_)
            | Property::ResponseTopic(_)
            | Property::CorrelationData(_)
            | Property::UserProperty(_)
    )
}

/// The lengths in a header, before the rest is looked at.
struct Lengths {
    topic: usize,
    publisher: usize,
    properties: usize,
    payload: usize,
    change: usize,
}

impl Lengths {
    fn of(header: &[u8; HEADER]) -> Result<Self, MessageError> {
        if header[0] != FORMAT {
            return Err(MessageError::Format { format: header[0] });
        }
        if header[1] & !(QOS_BITS | RETAIN | EXPIRES | CHANGE) != 0 || QoS::from_u8(header[1] & QOS_BITS).is_none() {
            return Err(MessageError::Header { field: "flags" });
        }
        if u16_at(header, 6) != 0 {
            return Err(MessageError::Header { field: "reserved bytes" });
        }
        let expires_at = u64::from_le_bytes(array_at(header, 40));
        if header[1] & EXPIRES == 0 && expires_at != 0 {
            return Err(MessageError::Header { field: "expiry" });
        }
        Ok(Self {
            publisher: u16_at(header, 2),
            topic: u16_at(header, 4),
            properties: u32_at(header, 8),
            payload: u32_at(header, 12),
            change: if header[1] & CHANGE == 0 { 0 } else { CHANGE_LENGTH },
        })
    }

    fn total(&self) -> usize {
        // Two 16-bit and two 32-bit lengths: far below the range of a 64-bit usize, saturating on smaller ones.
        HEADER
            .saturating_add(self.topic)
            .saturating_add(self.publisher)
            .saturating_add(self.properties)
            .saturating_add(self.payload)
            .saturating_add(self.change)
    }

    fn check(&self, message: &[u8]) -> Result<(), MessageError> {
        let (topic, rest) = message[HEADER..].split_at(self.topic);
        let (publisher, rest) = rest.split_at(self.publisher);
        let (properties, _) = rest.split_at(self.properties);
        let topic = std::str::from_utf8(topic).map_err(|_| MessageError::Utf8 { field: "topic" })?;
        validate_topic(topic).map_err(MessageError::Topic)?;
        std::str::from_utf8(publisher).map_err(|_| MessageError::Utf8 { field: "publisher" })?;
        let place = PropertyPlace::Packet(PacketType::Publish);
        let properties = Properties::parse(properties, place)?;
        match properties.iter().find(|property| !is_kept(property)) {
            Some(property) => Err(PropertyError::NotAllowed { property: property.id(), place }.into()),
            None => Ok(()),
        }
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("within the header")
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(array_at(bytes, at)))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(array_at(bytes, at)) as usize
}

#[cfg(test)]
mod tests;
