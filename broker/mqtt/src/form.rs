//! A message encoded for one kind of subscriber, once.

use std::num::NonZeroU16;

use smallvec::SmallVec;

use crate::codec::{MAX_VAR_INT, write};
use crate::{EncodeError, Message, PacketType, PropertiesBuf, Property, QoS, Version};

type Head = SmallVec<[u8; 64]>;

const DUP: u8 = 1 << 3;

/// The PUBLISH of a message for subscribers with the same version, quality of service, retain flag and subscription
/// identifiers: all but the packet identifier and the DUP flag, which [`write`](Self::write) sets. The payload
/// stays in the message.
///
/// Topic aliases are not used.
#[derive(Debug, Clone)]
pub struct PublishForm {
    message: Message,
    /// Everything before the payload, with zeros for the packet identifier.
    head: Head,
    /// Where the packet identifier is in `head`; `None` with QoS 0.
    id_at: Option<usize>,
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
        let packet = PacketType::Publish;
        let topic = message.topic_bytes();
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
        head.extend_from_slice(&property_length);
        head.extend_from_slice(added);
        head.extend_from_slice(kept);
        Ok(Self { message: message.clone(), head, id_at })
    }

    /// The message.
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// The quality of service that it is sent with.
    pub fn qos(&self) -> QoS {
        QoS::from_u8(self.head[0] >> 1 & 0b11).expect("written by `new`")
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
    /// (`[MQTT-2.2.1-2]`, `[MQTT-3.3.1-2]`).
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
