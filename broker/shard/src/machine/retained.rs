//! Retained messages of the topics of this shard [MQTT5 3.3.1.3].

use raftmq_mqtt::Message;

use super::ShardMachine;
use crate::answer::OpAnswer;
use crate::command::Bounds;
use crate::key::{self, timer};
use crate::record::{Retained, Timer};
use crate::slot::slot;
use crate::store::{Store, StoreError};

impl<S: Store> ShardMachine<S> {
    /// Retains a message that says so if its topic is of this shard; how many references that makes.
    pub(super) fn retain(
        &mut self,
        namespace: u32,
        message: &Message,
        number: u64,
        expires_at: Option<u64>,
    ) -> Result<u32, StoreError> {
        if !message.retain() || !self.meta.slots.contains(slot(namespace, message.topic())) {
            return Ok(0);
        }
        let name = key::topic_name(namespace, message.topic());
        self.meta.last_retained += 1;
        // `[MQTT-3.3.1-5]`: it replaces the one that there was.
        self.clear_retained(&name, None)?;
        // `[MQTT-3.3.1-6]`, `[MQTT-3.3.1-7]`: an empty one is not kept.
        if message.payload().is_empty() {
            return Ok(0);
        }
        if let Some(due) = expires_at {
            self.cache.put(&key::timer(due, timer::RETAINED, &name), Timer { message: 0 });
        }
        let bytes = message.wire_len() as u64;
        let retained = Retained { message: number, number: self.meta.last_retained, bytes, expires_at };
        self.cache.put(&key::retained(&name), retained);
        self.meta.retained += 1;
        self.meta.retained_bytes += bytes;
        Ok(1)
    }

    /// [`crate::Op::Retain`], of a message that lives for so long, in milliseconds.
    pub(super) fn publish_retained(
        &mut self,
        namespace: u32,
        message: Message,
        lifetime: Option<u64>,
        bounds: Bounds,
    ) -> Result<OpAnswer, StoreError> {
        if !self.meta.slots.contains(slot(namespace, message.topic())) {
            return Ok(OpAnswer::WrongShard { epoch: self.meta.map_epoch });
        }
        let name = key::topic_name(namespace, message.topic());
        let more = self.meta.retained >= bounds.messages
            || self.meta.retained_bytes.saturating_add(message.wire_len() as u64) > bounds.bytes;
        if more && !message.payload().is_empty() && self.cache.get::<Retained>(&key::retained(&name))?.is_none() {
            return Ok(OpAnswer::NoRoom);
        }
        // Whoever gets it can tell whether it is newer than what it got.
        let message = message.with_change(self.meta.last_retained + 1);
        Ok(match self.publish(namespace, message, lifetime, true)? {
            OpAnswer::Published { matched, dropped } => {
                OpAnswer::Retained { number: self.meta.last_retained, matched, dropped }
            }
            other => other,
        })
    }

    /// Removes what is retained of a topic; with a time, only if it expires then.
    pub(super) fn clear_retained(&mut self, name: &[u8], at: Option<u64>) -> Result<(), StoreError> {
        let key = key::retained(name);
        let Some(Retained { message, bytes, expires_at, .. }) = self.cache.get::<Retained>(&key)?.cloned() else {
            return Ok(());
        };
        if at.is_some() && at != expires_at {
            return Ok(());
        }
        self.cache.remove(&key);
        if let Some(due) = expires_at {
            self.cache.remove_known(&key::timer(due, timer::RETAINED, name));
        }
        self.meta.retained -= 1;
        self.meta.retained_bytes -= bytes;
        self.release_message(message)
    }
}
