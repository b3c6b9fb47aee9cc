//! Retained messages of the topics of this shard [MQTT5 3.3.1.3].

use raftmq_mqtt::Message;

use super::ShardMachine;
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
        // `[MQTT-3.3.1-5]`: it replaces the one that there was.
        self.clear_retained(&name, None)?;
        // `[MQTT-3.3.1-6]`, `[MQTT-3.3.1-7]`: an empty one is not kept.
        if message.payload().is_empty() {
            return Ok(0);
        }
        if let Some(due) = expires_at {
            self.cache.put(&key::timer(due, timer::RETAINED, &name), Timer { message: 0 });
        }
        self.cache.put(&key::retained(&name), Retained { message: number, expires_at });
        self.meta.retained += 1;
        Ok(1)
    }

    /// Removes what is retained of a topic; with a time, only if it expires then.
    pub(super) fn clear_retained(&mut self, name: &[u8], at: Option<u64>) -> Result<(), StoreError> {
        let key = key::retained(name);
        let Some(Retained { message, expires_at }) = self.cache.get::<Retained>(&key)?.cloned() else { return Ok(()) };
        if at.is_some() && at != expires_at {
            return Ok(());
        }
        self.cache.remove(&key);
        if let Some(due) = expires_at {
            self.cache.remove_known(&key::timer(due, timer::RETAINED, name));
        }
        self.meta.retained -= 1;
        self.release_message(message)
    }
}
