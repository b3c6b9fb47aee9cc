//! Messages, each kept once for all that refer to it.

use raftmq_mqtt::Message;

use super::ShardMachine;
use crate::key;
use crate::record::Stored;
use crate::store::{Store, StoreError};

impl<S: Store> ShardMachine<S> {
    /// The number of the next message. It is used up by [`ShardMachine::keep_message`].
    pub(super) fn next_message(&self) -> u64 {
        self.meta.last_message + 1
    }

    /// Keeps a message under [`ShardMachine::next_message`], if anything refers to it.
    pub(super) fn keep_message(&mut self, namespace: u32, message: Message, references: u32) {
        if references > 0 {
            self.meta.last_message += 1;
            self.meta.messages += 1;
            self.cache.put(&key::message(self.meta.last_message), Stored { namespace, message, references });
        }
    }

    /// A reference to a message is gone, and with the last one the message.
    pub(super) fn release_message(&mut self, number: u64) -> Result<(), StoreError> {
        self.change_references(number, |references| references - 1)
    }

    /// References to a message are replaced by others.
    pub(super) fn change_references(&mut self, number: u64, change: impl FnOnce(u32) -> u32) -> Result<(), StoreError> {
        let key = key::message(number);
        if let Some(mut stored) = self.cache.take::<Stored>(&key)? {
            stored.references = change(stored.references);
            if stored.references == 0 {
                self.meta.messages -= 1;
                self.cache.remove(&key);
            } else {
                self.cache.put(&key, stored);
            }
        }
        Ok(())
    }
}
