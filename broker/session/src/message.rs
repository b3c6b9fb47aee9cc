//! A message for a client, with what its subscriptions make of it.

use std::{num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{Message, PublishForm, QoS, Version};
use smallvec::SmallVec;

use crate::{
    Matched, Now,
    alias_out::OutAliases,
    filter::mount_length,
    forms::{self, FormTerms},
};

/// A message that waits or is in flight.
#[derive(Debug, Clone)]
pub(crate) struct OutMessage {
    message: Message,
    /// What few messages have.
    extra: Option<Box<Extra>>,
    /// The subscription identifier if there is one; 0 for none, or where `extra` has them.
    sub_id: u32,
    qos: QoS,
    retain: bool,
}

#[derive(Debug, Clone, Default)]
struct Extra {
    /// Several subscription identifiers.
    sub_ids: SmallVec<[u32; 4]>,
    /// The shared subscription through which it came.
    share: Option<Arc<str>>,
}

impl OutMessage {
    pub(crate) fn new(message: &Message, matched: &Matched) -> Self {
        let qos = matched.qos_of(message);
        let retain = matched.retain_of(message);
        let share = matched.share.as_ref().filter(|_| qos != QoS::AtMostOnce);
        let (sub_id, several) = match matched.sub_ids[..] {
            [] => (0, false),
            [id] => (id, false),
            _ => (0, true),
        };
        let extra = (several || share.is_some()).then(|| {
            let sub_ids = if several { SmallVec::from_slice(&matched.sub_ids) } else { SmallVec::new() };
            Box::new(Extra { sub_ids, share: share.cloned() })
        });
        Self { message: message.clone(), extra, sub_id, qos, retain }
    }

    #[cfg(test)]
    pub(crate) fn payload(&self) -> &[u8] {
        self.message.payload()
    }

    pub(crate) fn qos(&self) -> QoS {
        self.qos
    }

    pub(crate) fn is_qos0(&self) -> bool {
        self.qos == QoS::AtMostOnce
    }

    pub(crate) fn is_expired(&self, now: Now) -> bool {
        self.message.is_expired(now.unix_ms)
    }

    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        self.message.expires_at_ms()
    }

    /// What it counts in a queue, in bytes.
    pub(crate) fn cost(&self) -> usize {
        self.message.wire_len() + size_of::<Self>()
    }

    /// The shared subscription through which it came.
    pub(crate) fn share(&self) -> Option<&Arc<str>> {
        self.extra.as_ref()?.share.as_ref()
    }

    /// For the others of its group, if it has one.
    pub(crate) fn into_shared(self) -> Option<(Arc<str>, Message)> {
        Some((self.extra?.share?, self.message))
    }

    fn sub_ids(&self) -> &[u32] {
        match &self.extra {
            Some(extra) if !extra.sub_ids.is_empty() => &extra.sub_ids,
            _ if self.sub_id == 0 => &[],
            _ => std::slice::from_ref(&self.sub_id),
        }
    }

    /// Writes it; `false` if it is larger than the client takes, or no packet can carry it.
    pub(crate) fn write(&self, line: &mut Line<'_>, id: Option<NonZeroU16>, dup: bool) -> bool {
        let skipped = mount_length(line.mount, self.message.topic_bytes());
        let terms = FormTerms {
            version: line.terms.version,
            qos: self.qos,
            retain: self.retain,
            skipped,
            sub_ids: self.sub_ids(),
        };
        let form = forms::encode(&self.message, terms, line.now);
        form.is_ok_and(|form| write_form(&form, line.terms, line.aliases.as_deref_mut(), line.out, dup, || id))
    }
}

/// The receiving client's terms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) version: Version,
    /// The most messages above QoS 0 in flight. It is not above the client's receive maximum `[MQTT-4.9.0-1]`.
    pub(crate) window: u16,
    /// The largest packet in bytes.
    pub(crate) max_packet_size: usize,
}

/// The way to a client.
pub(crate) struct Line<'a> {
    pub(crate) terms: Terms,
    pub(crate) now: Now,
    pub(crate) mount: Option<&'a str>,
    pub(crate) aliases: Option<&'a mut OutAliases>,
    pub(crate) out: &'a mut Vec<u8>,
}

/// Writes a form, with a topic alias if the client takes aliases and the topic has one or gets one now. `false` if the packet would
/// be larger than the client takes `[MQTT-3.1.2-24]`: then nothing is done, as if it had been delivered `[MQTT-3.1.2-25]`. The packet
/// identifier is asked for only when the packet is written.
pub(crate) fn write_form(
    form: &PublishForm,
    terms: Terms,
    aliases: Option<&mut OutAliases>,
    out: &mut Vec<u8>,
    dup: bool,
    id: impl FnOnce() -> Option<NonZeroU16>,
) -> bool {
    if let Some(aliases) = aliases
        && let Some(alias) = aliases.find(form.topic())
        && form.len_with_alias(alias).is_some_and(|length| length <= terms.max_packet_size)
    {
        if alias.introduce {
            aliases.introduce(form.topic());
        }
        return form.write_with_alias(out, id(), dup, alias);
    }
    if form.encoded_len() > terms.max_packet_size {
        return false;
    }
    form.write(out, id(), dup);
    true
}
