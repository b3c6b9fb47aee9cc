//! What the subscriptions of one client make of a message.

use std::sync::Arc;

use raftmq_mqtt::{Message, QoS};
use smallvec::SmallVec;

use crate::SubscriptionInfo;

/// A message's match with a client's subscriptions: of one of them, or of all that overlap, put together by
/// [`Matched::merge`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matched {
    /// The highest QoS that was granted to them.
    pub qos: QoS,
    /// None of them wants what the client published itself.
    pub no_local: bool,
    /// One of them wants the RETAIN flag as it was published.
    pub retain_as_published: bool,
    /// A retained message that is sent because of a new subscription: the RETAIN flag is set.
    pub retained: bool,
    /// Their subscription identifiers, each above 0, in any order.
    pub sub_ids: SmallVec<[u32; 1]>,
    /// The full filter (`$share/group/filter`) of the shared subscription through which it comes. Messages above QoS 0 that the
    /// session does not get to send or to see acknowledged come back by [`crate::SessionState::take_shared`].
    pub share: Option<Arc<str>>,
}

impl Matched {
    /// By one subscription, not shared. A server that sends a copy for each of them sends its own identifier `[MQTT-3.3.4-5]`.
    #[must_use]
    pub fn by(info: &SubscriptionInfo) -> Self {
        let mut sub_ids = SmallVec::new();
        if info.sub_id != 0 {
            sub_ids.push(info.sub_id);
        }
        Self {
            qos: info.options.qos,
            no_local: info.options.no_local,
            retain_as_published: info.options.retain_as_published,
            retained: false,
            sub_ids,
            share: None,
        }
    }

    /// Another subscription of the client matches too: the message is sent once, with the highest QoS
    /// `[MQTT-3.3.4-2]` `[MQTT311-3.3.5-1]` and all identifiers `[MQTT-3.3.4-3]` `[MQTT-3.3.4-4]`.
    pub fn merge(&mut self, info: &SubscriptionInfo) {
        self.qos = self.qos.max(info.options.qos);
        self.no_local &= info.options.no_local;
        self.retain_as_published |= info.options.retain_as_published;
        if info.sub_id != 0 && !self.sub_ids.contains(&info.sub_id) {
            self.sub_ids.push(info.sub_id);
        }
    }

    /// The lower of the QoS of the message and of the subscriptions `[MQTT-3.8.4-8]` `[MQTT311-3.8.4-6]`, also for shared ones
    /// `[MQTT-4.8.2-3]`.
    pub(crate) fn qos_of(&self, message: &Message) -> QoS {
        message.qos().min(self.qos)
    }

    /// The RETAIN flag to send: set for a retained message that a new subscription brings `[MQTT311-3.3.1-8]`, otherwise as it was
    /// published where that is wanted `[MQTT-3.3.1-13]`, and 0 where it is not `[MQTT-3.3.1-12]` `[MQTT311-3.3.1-9]`.
    pub(crate) fn retain_of(&self, message: &Message) -> bool {
        self.retained || (self.retain_as_published && message.retain())
    }

    /// Whether the client itself published the message and does not want that back `[MQTT-3.8.3-3]`.
    pub(crate) fn skips(&self, message: &Message, client_id: &str) -> bool {
        self.no_local && message.publisher() == client_id
    }
}
