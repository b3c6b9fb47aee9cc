//! A message for the durable sessions of the shard. Matching happens here, so that SUBSCRIBE, UNSUBSCRIBE and PUBLISH have the order
//! of the log.

use raftmq_mqtt::{Message, QoS};
use smallvec::SmallVec;

use super::ShardMachine;
use super::queue::Offer;
use crate::answer::OpAnswer;
use crate::effect::Effect;
use crate::key;
use crate::record::{OPTIONS_NO_LOCAL, OPTIONS_RETAIN, Options, Session};
use crate::store::{Store, StoreError};

impl<S: Store> ShardMachine<S> {
    /// Publishes a message that lives for so long, in milliseconds; `retain`: and retains it, if it says so and its topic is of this shard.
    pub(super) fn publish(
        &mut self,
        namespace: u32,
        message: Message,
        lifetime: Option<u64>,
        retain: bool,
    ) -> Result<OpAnswer, StoreError> {
        let expires_at = lifetime.map(|lifetime| self.meta.now_ms.saturating_add(lifetime));
        let number = self.next_message();
        let mut references = 0;
        let (mut matched, mut dropped) = (0, 0);
        let mut groups = SmallVec::<[u64; 4]>::new();
        if message.qos() > QoS::AtMostOnce {
            let mut found = std::mem::take(&mut self.matched);
            found.clear();
            self.index.matches(namespace, message.topic(), &mut found);
            for subscriptions in found.chunk_by(|(a, _), (b, _)| a == b) {
                let session = subscriptions[0].0;
                match self.publish_to(session, subscriptions, namespace, &message, number, expires_at, &mut groups)? {
                    None => {}
                    Some(taken) => {
                        matched += 1;
                        references += u32::from(taken);
                        dropped += u32::from(!taken);
                    }
                }
            }
            self.matched = found;
        }
        if retain {
            references += self.retain(namespace, &message, number, expires_at)?;
        }
        self.keep_message(namespace, message, references);
        for group in groups {
            self.dispatch(group)?;
        }
        Ok(OpAnswer::Published { matched, dropped })
    }

    #[expect(clippy::too_many_arguments, reason = "what a message is, once for all sessions")]
    /// Offers a message to one session: `None` if it is not for that one, else whether its queue took it.
    fn publish_to(
        &mut self,
        id: u64,
        subscriptions: &[(u64, Options)],
        namespace: u32,
        message: &Message,
        number: u64,
        expires_at: Option<u64>,
        groups: &mut SmallVec<[u64; 4]>,
    ) -> Result<Option<bool>, StoreError> {
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(None) };
        // `[MQTT-3.8.3-3]`; the namespace is the session's, by the index.
        let own = message.publisher() == &*session.client.id && session.client.namespace == namespace;
        let wanted = subscriptions.iter().map(|(_, options)| options);
        let wanted = wanted.filter(|options| !own || options.flags & OPTIONS_NO_LOCAL == 0);
        // One message for all subscriptions, with the highest QoS (`[MQTT-3.3.4-2]`) and all their identifiers
        // (`[MQTT-3.3.4-3]`, `[MQTT-3.3.4-4]`); RETAIN as it was published if one of them wants that (`[MQTT-3.3.1-13]`).
        let (mut qos, mut retain, mut identifiers) = (0, false, SmallVec::new());
        for options in wanted {
            qos = qos.max((options.flags & 3).min(message.qos() as u8));
            retain |= options.flags & OPTIONS_RETAIN != 0 && message.retain();
            if options.identifier > 0 {
                identifiers.push(options.identifier);
            }
        }
        if qos == 0 {
            self.cache.put_unchanged(&key, session);
            return Ok(None);
        }
        let bytes = u32::try_from(message.wire_len()).unwrap_or(u32::MAX);
        let taken = self.enqueue(
            id,
            &mut session,
            Offer { message: number, expires_at, bytes, qos, retain, replayed: false, given: false, identifiers },
        )?;
        if taken && session.is_group() {
            groups.push(id);
        } else if taken && session.connected {
            self.effects.push(Effect::Deliver { client: session.client.clone() });
        }
        self.cache.put(&key, session);
        Ok(Some(taken))
    }
}
