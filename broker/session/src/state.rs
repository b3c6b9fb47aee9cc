//! The session: what outlives a connection.

use std::sync::Arc;

use raftmq_mqtt::{Message, SubOptions};

use crate::{
    Delivery, DropReason, Now, SessionLimits,
    outbound::{OutMessage, Outbound},
};

/// A subscription of a session, without its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscriptionInfo {
    /// Its options, with the granted QoS.
    pub options: SubOptions,
    /// The subscription identifier; 0 for none.
    pub sub_id: u32,
}

/// A subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionEntry {
    /// The filter.
    pub filter: Arc<str>,
    /// Its options.
    pub info: SubscriptionInfo,
}

/// The session of a client: its subscriptions, the messages in flight to it and those that wait [MQTT5 4.1].
///
/// The server keeps it while the client is not connected, and gives it back by [`crate::OpenResult::Accepted`].
#[derive(Debug, Default)]
pub struct SessionState {
    /// Sorted by filter: small, and nothing is allocated without subscriptions.
    subscriptions: Vec<SubscriptionEntry>,
    pub(crate) outbound: Outbound,
    pub(crate) expiry_s: u32,
}

impl SessionState {
    /// The subscriptions, ordered by filter.
    #[must_use]
    pub fn subscriptions(&self) -> &[SubscriptionEntry] {
        &self.subscriptions
    }

    /// Seconds that the session is to be kept from the end of its connection: 0 not at all, `u32::MAX` for ever.
    #[must_use]
    pub fn expiry_s(&self) -> u32 {
        self.expiry_s
    }

    /// Messages in flight and messages waiting.
    #[must_use]
    pub fn messages(&self) -> (usize, usize) {
        (self.outbound.in_flight(), self.outbound.queued())
    }

    /// Keeps a message for a client that is not connected. QoS 0 is dropped; so is what the limits do not allow: the
    /// newest goes, what is there stays.
    pub fn deliver_offline(
        &mut self,
        now: Now,
        limits: &SessionLimits,
        client_id: &str,
        message: &Message,
        info: SubscriptionInfo,
    ) -> Delivery {
        if info.options.no_local && message.publisher() == client_id {
            return Delivery::Skipped;
        }
        if message.is_expired(now.unix_ms) {
            return Delivery::Dropped(DropReason::Expired);
        }
        let out = OutMessage::new(message, info);
        if out.is_qos0() {
            return Delivery::Dropped(DropReason::Offline);
        }
        self.outbound.enqueue(limits, out)
    }

    /// Adds or replaces; says whether it is new.
    pub(crate) fn subscribe(&mut self, filter: &Arc<str>, info: SubscriptionInfo) -> bool {
        match self.position(filter) {
            Ok(at) => {
                self.subscriptions[at].info = info;
                false
            }
            Err(at) => {
                self.subscriptions.insert(at, SubscriptionEntry { filter: filter.clone(), info });
                true
            }
        }
    }

    pub(crate) fn is_subscribed(&self, filter: &str) -> bool {
        self.position(filter).is_ok()
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) -> Option<Arc<str>> {
        let at = self.position(filter).ok()?;
        let removed = self.subscriptions.remove(at);
        Some(removed.filter)
    }

    fn position(&self, filter: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|entry| (*entry.filter).cmp(filter))
    }
}
