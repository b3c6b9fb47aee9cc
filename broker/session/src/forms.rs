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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    v5: bool,
    qos: QoS,
    retain: bool,
    sub_id: u32,
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
        version: Version,
        qos: QoS,
        retain: bool,
        sub_id: u32,
        use_it: impl FnOnce(&PublishForm) -> T,
    ) -> Result<T, EncodeError> {
        // 3.1 and 3.1.1 look the same and have no identifiers.
        let v5 = version.is_v5();
        let key = Key { v5, qos, retain, sub_id: if v5 { sub_id } else { 0 } };
        if let Some((_, form)) = self.made.iter().find(|(made, _)| *made == key) {
            return Ok(use_it(form));
        }
        let form = encode(&self.message, version, qos, retain, key.sub_id, self.now)?;
        let result = use_it(&form);
        if self.made.len() < KEPT {
            self.made.push((key, form));
        }
        Ok(result)
    }
}

/// Encodes a message for one subscriber; `sub_id` 0 is none.
pub(crate) fn encode(
    message: &Message,
    version: Version,
    qos: QoS,
    retain: bool,
    sub_id: u32,
    now: Now,
) -> Result<PublishForm, EncodeError> {
    let sub_ids = [sub_id];
    let sub_ids = if sub_id == 0 { &[][..] } else { &sub_ids };
    PublishForm::new(message, version, qos, retain, sub_ids, now.unix_ms)
}
