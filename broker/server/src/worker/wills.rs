//! The wills of this worker's clients (MQTT 5, 3.1.2.5): kept with the client, published when its connection has ended and the delay has
//! passed.

use std::sync::Arc;

use raftmq_features::wills::{ConnectionEnd, WillFate};
use raftmq_mqtt::ReasonCode;
use raftmq_session::{CloseReason, OwnedWill};

use super::Worker;
use super::publish::{is_reserved, next_origin};
use super::wheel::Key;

/// A will that waits for its delay.
pub(super) struct WaitingWill {
    client: Arc<str>,
    will: Box<OwnedWill>,
}

/// Bytes of a will besides its topic, payload and properties.
const OVERHEAD: usize = 128;

impl Worker {
    /// Looks at the will of a CONNECT as at a PUBLISH of the client: may it, and under which topic?
    pub(super) fn check_will(&mut self, key: Key, will: &mut OwnedWill) -> Result<(), ReasonCode> {
        if self.rules.rewriter.publishes()
            && let Some(topic) = self.rewritten_topic(key, &will.topic)?
        {
            will.topic = topic.into();
        }
        if is_reserved(&will.topic) { Err(ReasonCode::NotAuthorized) } else { Ok(()) }
    }

    /// The connection of a client has ended. What becomes of its will `[MQTT-3.1.2-8]`, `[MQTT-3.1.2-10]`, `[MQTT-3.14.4-3]`,
    /// `[MQTT311-3.1.2-8]`, `[MQTT311-3.1.2-10]`, `[MQTT311-3.14.4-3]`.
    pub(super) fn will_of_ended(&mut self, client: Key, end: ConnectionEnd, session_expiry_s: u32) {
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        let Some(will) = entry.will.take() else {
            return;
        };
        let id = Arc::clone(&entry.id);
        let seconds = match WillFate::of(end, will.delay_s(), session_expiry_s) {
            WillFate::Discard => return,
            // Without a lease nothing is published: it waits for the next one.
            WillFate::Publish if !self.node.delivers() => 0,
            WillFate::Publish => return self.publish_will(&WaitingWill { client: id, will }),
            WillFate::Wait { seconds } => seconds,
        };
        let bytes = OVERHEAD + will.topic.len() + will.payload.len() + will.properties.as_properties().as_bytes().len();
        let due_ms = self.node.clock.ms().saturating_add(u64::from(seconds) * 1000);
        let early = self.wills.schedule(&id, WaitingWill { client: Arc::clone(&id), will }, bytes, due_ms);
        for will in early {
            self.publish_will(&will);
        }
    }

    /// The client has come back to its session: a will that waits is not sent `[MQTT-3.1.3-9]`.
    pub(super) fn cancel_will(&mut self, client: &str) {
        self.wills.cancel(client);
    }

    /// The session has ended: a will that waits is sent now `[MQTT-3.1.2-8]`.
    pub(super) fn will_of_session(&mut self, client: &str) {
        if let Some(will) = self.wills.session_ended(client) {
            self.publish_will(&will);
        }
    }

    /// Publishes the wills whose delay has passed.
    pub(super) fn publish_due_wills(&mut self, now_ms: u64) {
        while let Some(will) = self.wills.pop_due(now_ms) {
            self.publish_will(&will);
        }
    }

    fn publish_will(&mut self, waiting: &WaitingWill) {
        let now = self.node.clock.now();
        match waiting.will.message(next_origin(&mut self.origins), &waiting.client, now) {
            Ok(message) => {
                self.counters.will_published();
                // Nobody is there who could be told why not.
                let _ = self.accept(message, false);
            }
            Err(error) => tracing::warn!(client = %waiting.client, %error, "a will cannot be published"),
        }
    }
}

/// How the end of a connection counts for its will.
pub(super) fn connection_end(reason: CloseReason) -> ConnectionEnd {
    if reason.publishes_will() { ConnectionEnd::Lost } else { ConnectionEnd::Normal }
}
