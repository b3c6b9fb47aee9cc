//! The forms of one message, each encoded once for all subscribers that get it so.

use raftmq_mqtt::{EncodeError, Message, PublishForm, QoS, Version};
use smallvec::SmallVec;

use crate::Now;

/// More are made for one subscriber and thrown away: with many different subscription identifiers the search would cost more than encoding.
const KEPT: usize = 16;

/// A message on its way to the subscribers of a worker.
#[derive(Debug)]
pub struct Forms {
    message: Message,
    now: Now,
    made: SmallVec<[(Key, PublishForm); 2]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    v5: bool,
    qos: QoS,
    retain: bool,
    /// Bytes of the topic that are the subscriber's mount point.
    skipped: usize,
    sub_ids: SmallVec<[u32; 1]>,
}

/// How a subscriber gets a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FormTerms<'a> {
    pub(crate) version: Version,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) skipped: usize,
    pub(crate) sub_ids: &'a [u32],
}

impl Forms {
    /// A message of which nothing is encoded yet.
    #[must_use]
    pub fn new(message: Message, now: Now) -> Self {
        Self { message, now, made: SmallVec::new() }
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Calls with the form for a subscriber. An error means that no packet can carry it.
    pub(crate) fn with<T>(
        &mut self,
        terms: FormTerms<'_>,
        use_it: impl FnOnce(&PublishForm) -> T,
    ) -> Result<T, EncodeError> {
        // 3.1 and 3.1.1 look the same and have no identifiers.
        let v5 = terms.version.is_v5();
        let sub_ids = if v5 { terms.sub_ids } else { &[] };
        let same = |key: &Key| {
            key.v5 == v5
                && key.qos == terms.qos
                && key.retain == terms.retain
                && key.skipped == terms.skipped
                && key.sub_ids[..] == *sub_ids
        };
        if let Some((_, form)) = self.made.iter().find(|(key, _)| same(key)) {
            return Ok(use_it(form));
        }
        let form = encode(&self.message, FormTerms { sub_ids, ..terms }, self.now)?;
        let result = use_it(&form);
        if self.made.len() < KEPT {
            let key = Key {
                v5,
                qos: terms.qos,
                retain: terms.retain,
                skipped: terms.skipped,
                sub_ids: SmallVec::from_slice(sub_ids),
            };
            self.made.push((key, form));
        }
        Ok(result)
    }
}

/// Encodes a message for one subscriber. What its publisher said of it goes with it unchanged.
pub(crate) fn encode(message: &Message, terms: FormTerms<'_>, now: Now) -> Result<PublishForm, EncodeError> {
    let FormTerms { version, qos, retain, skipped, sub_ids } = terms;
    PublishForm::without_prefix(message, skipped, version, qos, retain, sub_ids, now.unix_ms)
}
