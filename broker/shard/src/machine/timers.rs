//! What happens at a time: late, when there is much of it or nobody leads, and never early.

use super::ShardMachine;
use crate::key::{self, timer};
use crate::record::{Stored, Timer, lifetime};
use crate::store::{Store, StoreError};

/// How many timers fire in a tick.
pub(crate) const TIMER_STEP: usize = 64;

impl<S: Store> ShardMachine<S> {
    pub(super) fn fire_timers(&mut self) -> Result<(), StoreError> {
        let now = self.meta.now_ms;
        let due = self.cache.scan::<Timer>(&key::timers_from(0), &key::timers_from(now + 1), TIMER_STEP)?;
        for (key, Timer { message }) in due {
            // One that went because of another one before it is not there any more.
            let (true, Some((due, kind, about))) = (self.cache.has::<Timer>(&key)?, key::read_timer(&key)) else {
                continue;
            };
            match kind {
                timer::WILL => self.will_due(about)?,
                timer::SESSION_END => self.session_due(about)?,
                timer::DELAYED => {
                    self.cache.remove(&key);
                    self.delayed_due(message)?;
                }
                timer::GROUP => {
                    self.cache.remove(&key);
                    if let Some(group) = key::last_number(about) {
                        self.dispatch(group)?;
                    }
                }
                timer::RETAINED => self.clear_retained(about, Some(due))?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The delay of a will is over [MQTT5 3.1.3.2.2].
    fn will_due(&mut self, name: &[u8]) -> Result<(), StoreError> {
        let mut open = self.open_client(name.into())?;
        open.client.will_at = None;
        if let Some(will) = open.client.will.take() {
            let (namespace, _) = key::read_client_name(name).unwrap_or_default();
            self.publish_will(namespace, will)?;
        }
        self.close_client(open);
        Ok(())
    }

    /// The expiry interval of a session is over [MQTT5 3.1.2.11.2], `[MQTT-4.1.0-2]`.
    fn session_due(&mut self, name: &[u8]) -> Result<(), StoreError> {
        let mut open = self.open_client(name.into())?;
        self.end_session(&mut open)?;
        self.close_client(open);
        Ok(())
    }

    /// The time of a delayed message has come. Its expiry begins now, as if it had just been published.
    fn delayed_due(&mut self, message: u64) -> Result<(), StoreError> {
        let stored = self.cache.get::<Stored>(&key::message(message))?;
        let bytes = stored.map_or(0, |stored| stored.message.wire_len() as u64);
        let lifetime = stored.and_then(|stored| lifetime(&stored.message));
        let expires_at = lifetime.map(|lifetime| self.meta.now_ms.saturating_add(lifetime));
        self.meta.delayed -= 1;
        self.meta.delayed_bytes -= bytes;
        self.add_unrouted(message, expires_at);
        Ok(())
    }
}
