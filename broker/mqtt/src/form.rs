//! A message encoded for one kind of subscriber, once.

use std::num::NonZeroU16;

use smallvec::SmallVec;

use crate::codec::{MAX_VAR_INT, write};
use crate::topic::TopicError;
use crate::{EncodeError, Message, PacketType, PropertiesBuf, Property, PropertyId, QoS, Version};

type Head = SmallVec<[u8; 64]>;

const DUP: u8 = 1 << 3;
/// Identifier and value of the property Topic Alias.
const ALIAS_BYTES: usize = 3;

/// A topic alias in a PUBLISH (MQTT 5, 3.3.2.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// Never 0 (`[MQTT-3.3.2-8]`). That it is at most the receiver's Topic Alias Maximum is for the caller to see to.
    pub number: NonZeroU16,
    /// The receiver does not know it yet: the topic name goes with it.
    pub introduce: bool,
}

/// The PUBLISH of a message for subscribers with the same version, quality of service, retain flag and subscription
/// identifiers: all but the packet identifier and the DUP flag, which [`write`](Self::write) sets, and the topic alias, for
/// which [`write_with_alias`](Self::write_with_alias) rewrites the beginning. The payload stays in the message.
#[derive(Debug, Clone)]
pub struct PublishForm {
    message: Message,
    /// Everything before the payload, with zeros for the packet identifier.
    head: Head,
    /// Bytes of the message's topic that are left out at its front.
    skipped: usize,
    /// Where the packet identifier is in `head`; `None` with QoS 0.
    id_at: Option<usize>,
    /// Where the length of the properties is in `head`, and where they begin; the same before MQTT 5.
    properties_at: (usize, usize),
}

impl PublishForm {
    /// Encodes a message.
    ///
    /// `qos` is what the message is delivered with: the lower of the message's and the subscription's
    /// (`[MQTT-3.8.4-8]`). `retain` is the flag to send. `sub_ids` are the identifiers of the subscriptions that matched
    /// (`[MQTT-3.3.4-3]`); they and the other properties are left out before MQTT 5. `now_ms` is milliseconds
    /// since the Unix epoch: the message expiry interval is sent as the seconds that are left (`[MQTT-3.3.2-6]`). That
    /// the message has not expired is for the caller to check ([`Message::is_expired`]).
    pub fn new(
        message: &Message,
        version: Version,
        qos: QoS,
        retain: bool,
        sub_ids: &[u32],
        now_ms: u64,
    ) -> Result<Self, EncodeError> {
        Self::without_prefix(message, 0, version, qos, retain, sub_ids, now_ms)
    }

    /// As [`new`](Self::new), with a topic name without its first `skipped` bytes: what a listener puts before the topics of its
    /// clients is taken off again. They must end at a character, and something must be left of the topic.
    pub fn without_prefix(
        message: &Message,
        skipped: usize,
        version: Version,
        qos: QoS,
        retain: bool,
        sub_ids: &[u32],
        now_ms: u64,
    ) -> Result<Self, EncodeError> {
        let packet = PacketType::Publish;
        let topic = match message.topic_bytes().get(skipped..) {
            Some(topic) if !topic.is_empty() => topic,
            _ => return Err(EncodeError::Topic { packet, error: TopicError::Empty }),
        };
        let id_length = if qos == QoS::AtMostOnce { 0 } else { 2 };
        let (added, kept) = if version.is_v5() {
            (added_properties(message, sub_ids, now_ms)?, message.properties().as_bytes())
        } else {
            (PropertiesBuf::new(), &[][..])
        };
        let added = added.as_properties().as_bytes();
        let mut property_length = SmallVec::<[u8; 4]>::new();
        if version.is_v5() {
            put_length(&mut property_length, added.len() + kept.len())?;
        }
        let properties_length = property_length.len() + added.len() + kept.len();

        let mut head = Head::new();
        head.push((packet as u8) << 4 | (qos as u8) << 1 | u8::from(retain));
        put_length(&mut head, 2 + topic.len() + id_length + properties_length + message.payload().len())?;
        let field = |error| EncodeError::Field { packet, field: "topic name", error };
        write::binary(&mut head, topic).map_err(field)?;
        let id_at = (id_length > 0).then_some(head.len());
        head.resize(head.len() + id_length, 0);
        let length_at = head.len();
        head.extend_from_slice(&property_length);
        let properties_at = (length_at, head.len());
        head.extend_from_slice(added);
        head.extend_from_slice(kept);
        Ok(Self { message: message.clone(), head, skipped, id_at, properties_at })
    }

    /// The message.
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// The quality of service that it is sent with.
    pub fn qos(&self) -> QoS {
        QoS::from_u8(self.head[0] >> 1 & 0b11).expect("written by `new`")
    }

    /// The topic name as it is sent.
    pub fn topic(&self) -> &[u8] {
        &self.message.topic_bytes()[self.skipped..]
    }

    /// The size of the packet in bytes, to be compared with the receiver's maximum packet size (`[MQTT-3.1.2-24]`).
    pub fn encoded_len(&self) -> usize {
        self.head.len() + self.payload().len()
    }

    /// Appends the packet.
    ///
    /// # Panics
    ///
    /// If `packet_id` is `None` with a quality of service above 0. With QoS 0, `packet_id` and `dup` are ignored
    /// (`[MQTT-2.2.1-2]`, `[MQTT-3.3.1-2]`, `[MQTT-4.3.1-1]`, `[MQTT311-2.3.1-5]`, `[MQTT311-3.3.1-2]`, `[MQTT311-4.3.1-1]`).
    pub fn write(&self, out: &mut Vec<u8>, packet_id: Option<NonZeroU16>, dup: bool) {
        out.reserve(self.encoded_len());
        self.write_head(out, packet_id, dup);
        out.extend_from_slice(self.payload());
    }

    /// Appends everything before the payload, for writers that gather the payload from the message. Otherwise as
    /// [`write`](Self::write).
    pub fn write_head(&self, out: &mut Vec<u8>, packet_id: Option<NonZeroU16>, dup: bool) {
        let start = out.len();
        out.extend_from_slice(&self.head);
        if let Some(at) = self.id_at {
            let id = packet_id.expect("a quality of service above 0 needs a packet identifier");
            out[start + at..start + at + 2].copy_from_slice(&id.get().to_be_bytes());
            if dup {
                out[start] |= DUP;
            }
        }
    }

    /// The payload, which comes after the head.
    pub fn payload(&self) -> &[u8] {
        self.message.payload()
    }

    /// The size of the packet in bytes with a topic alias; `None` before MQTT 5, or if no packet can be that large.
    pub fn len_with_alias(&self, alias: Alias) -> Option<usize> {
        self.lengths_with_alias(alias).map(|lengths| lengths.total)
    }

    /// Appends the packet with a topic alias, and without the topic if the receiver knows the alias. Otherwise as
    /// [`write`](Self::write). Says whether it did: [`len_with_alias`](Self::len_with_alias) says why not.
    pub fn write_with_alias(&self, out: &mut Vec<u8>, packet_id: Option<NonZeroU16>, dup: bool, alias: Alias) -> bool {
        let Some(lengths) = self.lengths_with_alias(alias) else {
            return false;
        };
        out.reserve(lengths.total);
        let above_0 = self.id_at.is_some();
        out.push(self.head[0] | if dup && above_0 { DUP } else { 0 });
        out.extend_from_slice(&lengths.remaining);
        let topic = if alias.introduce { self.topic() } else { &[] };
        // A topic that is longer than its field can say has no form.
        out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        out.extend_from_slice(topic);
        if above_0 {
            let id = packet_id.expect("a quality of service above 0 needs a packet identifier");
            out.extend_from_slice(&id.get().to_be_bytes());
        }
        out.extend_from_slice(&lengths.properties);
        out.push(PropertyId::TopicAlias as u8);
        out.extend_from_slice(&alias.number.get().to_be_bytes());
        out.extend_from_slice(&self.head[self.properties_at.1..]);
        out.extend_from_slice(self.payload());
        true
    }

    fn lengths_with_alias(&self, alias: Alias) -> Option<Lengths> {
        let (length_at, properties_at) = self.properties_at;
        if length_at == properties_at {
            return None;
        }
        let properties = self.head.len() - properties_at + ALIAS_BYTES;
        let mut property_length = SmallVec::new();
        put_length(&mut property_length, properties).ok()?;
        let topic = if alias.introduce { self.topic().len() } else { 0 };
        let id = if self.id_at.is_some() { 2 } else { 0 };
        let remaining = 2 + topic + id + property_length.len() + properties + self.payload().len();
        let mut remaining_length = SmallVec::new();
        put_length(&mut remaining_length, remaining).ok()?;
        let total = 1 + remaining_length.len() + remaining;
        Some(Lengths { total, remaining: remaining_length, properties: property_length })
    }
}

/// Of a packet with a topic alias.
struct Lengths {
    total: usize,
    remaining: SmallVec<[u8; 4]>,
    properties: SmallVec<[u8; 4]>,
}

/// What stands before the properties that the message keeps.
fn added_properties(message: &Message, sub_ids: &[u32], now_ms: u64) -> Result<PropertiesBuf, EncodeError> {
    let mut added = PropertiesBuf::new();
    let mut push =
        |property| added.push(property).map_err(|error| EncodeError::Property { packet: PacketType::Publish, error });
    if let Some(seconds) = message.remaining_seconds(now_ms) {
        push(Property::MessageExpiryInterval(seconds))?;
    }
    for id in sub_ids {
        push(Property::SubscriptionIdentifier(*id))?;
    }
    Ok(added)
}

fn put_length(out: &mut impl write::Out, length: usize) -> Result<(), EncodeError> {
    u32::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_VAR_INT)
        .and_then(|length| write::var_int(out, length).ok())
        .ok_or(EncodeError::PacketTooLarge { packet: PacketType::Publish, length })
}

#[cfg(test)]
mod tests;
