//! Messages on their way to other shards, and from them: each is numbered for its destination, so that whoever leads repeats the same
//! one, and the destination takes each number once.

use raftmq_mqtt::Message;

use super::ShardMachine;
use crate::answer::OpAnswer;
use crate::command::{Bounds, Will};
use crate::effect::Effect;
use crate::key::{self, timer};
use crate::record::{Outgoing, Peer, Session, Timer, lifetime};
use crate::store::{Store, StoreError};

/// How many entries are looked up at once.
const PAGE: usize = 256;

impl<S: Store> ShardMachine<S> {
    /// A QoS 2 message from a client [MQTT5 4.3.3]: its identifier is remembered, and it is in the outbox, before PUBREC is sent.
    pub(super) fn receive_inbound(
        &mut self,
        namespace: u32,
        session: u64,
        packet_id: u16,
        message: Message,
        destinations: Vec<u32>,
    ) -> Result<OpAnswer, StoreError> {
        let key = key::session(session);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        // `[MQTT-4.3.3-10]`: until PUBREL it is the same message.
        let Err(at) = session.inbound.binary_search(&packet_id) else {
            self.cache.put_unchanged(&key, session);
            return Ok(OpAnswer::Duplicate);
        };
        session.inbound.insert(at, packet_id);
        self.cache.put(&key, session);
        let expires_at = lifetime(&message).map(|lifetime| self.meta.now_ms.saturating_add(lifetime));
        let number = self.next_message();
        let references = self.send(destinations, &Outgoing { message: number, expires_at })?;
        self.keep_message(namespace, message, references);
        Ok(OpAnswer::Received)
    }

    /// PUBREL of such a message.
    pub(super) fn release_inbound(&mut self, session: u64, packet_id: u16) -> Result<OpAnswer, StoreError> {
        let key = key::session(session);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        let at = session.inbound.binary_search(&packet_id);
        if let Ok(at) = at {
            session.inbound.remove(at);
        }
        self.cache.put(&key, session);
        Ok(OpAnswer::Released { known: at.is_ok() })
    }

    /// A will is decided: it waits for the leader's saying where it goes.
    pub(super) fn publish_will(&mut self, namespace: u32, will: Will) -> Result<(), StoreError> {
        let message = self.next_message();
        let expires_at = lifetime(&will.message).map(|lifetime| self.meta.now_ms.saturating_add(lifetime));
        self.keep_message(namespace, will.message, 1);
        self.add_unrouted(message, expires_at);
        Ok(())
    }

    /// A message that is published later.
    pub(super) fn delay(
        &mut self,
        namespace: u32,
        message: Message,
        delay_ms: u64,
        bounds: Bounds,
    ) -> Result<OpAnswer, StoreError> {
        let bytes = message.wire_len() as u64;
        if self.meta.delayed >= bounds.messages || self.meta.delayed_bytes.saturating_add(bytes) > bounds.bytes {
            return Ok(OpAnswer::NoRoom);
        }
        self.meta.delayed += 1;
        self.meta.delayed_bytes += bytes;
        let number = self.next_message();
        self.keep_message(namespace, message, 1);
        let due = self.meta.now_ms.saturating_add(delay_ms);
        let key = key::timer(due, timer::DELAYED, &number.to_be_bytes());
        self.cache.put(&key, Timer { message: number });
        Ok(OpAnswer::Done)
    }

    pub(super) fn add_unrouted(&mut self, message: u64, expires_at: Option<u64>) {
        self.meta.last_entry += 1;
        let entry = self.meta.last_entry;
        self.cache.put(&key::unrouted(entry), Outgoing { message, expires_at });
        self.effects.push(Effect::Unrouted { entry });
    }

    /// The leader says where a message goes. Once: a later leader finds it in the outbox.
    pub(super) fn route(&mut self, entry: u64, destinations: Vec<u32>) -> Result<OpAnswer, StoreError> {
        let key = key::unrouted(entry);
        let Some(outgoing) = self.cache.get::<Outgoing>(&key)?.cloned() else { return Ok(OpAnswer::UnknownEntry) };
        self.cache.remove(&key);
        let references = self.send(destinations, &outgoing)?;
        self.change_references(outgoing.message, |before| before - 1 + references)?;
        Ok(OpAnswer::Done)
    }

    /// Puts a message into the outbox for each of some destinations; how many they are.
    fn send(&mut self, mut destinations: Vec<u32>, outgoing: &Outgoing) -> Result<u32, StoreError> {
        destinations.sort_unstable();
        destinations.dedup();
        for destination in &destinations {
            let key = key::peer(*destination);
            let mut peer = self.cache.take::<Peer>(&key)?.unwrap_or_default();
            peer.sent += 1;
            self.cache.put(&key::outbox(*destination, peer.sent), outgoing.clone());
            self.cache.put(&key, peer);
            self.effects.push(Effect::Outbox { destination: *destination });
        }
        Ok(destinations.len() as u32)
    }

    /// A message from another shard: each number once, and in order.
    pub(super) fn hand_off(
        &mut self,
        source: u32,
        number: u64,
        namespace: u32,
        message: Message,
        lifetime_ms: Option<u64>,
    ) -> Result<OpAnswer, StoreError> {
        let key = key::peer(source);
        let mut peer = self.cache.get::<Peer>(&key)?.cloned().unwrap_or_default();
        if number <= peer.received {
            return Ok(OpAnswer::Duplicate);
        }
        if number > peer.received + 1 {
            return Ok(OpAnswer::Gap { expected: peer.received + 1 });
        }
        peer.received = number;
        self.cache.put(&key, peer);
        self.publish(namespace, message, lifetime_ms, true)
    }

    /// A destination has committed what is numbered up to `up_to`.
    pub(super) fn handed_off(&mut self, destination: u32, up_to: u64) -> Result<OpAnswer, StoreError> {
        let key = key::peer(destination);
        let mut peer = self.cache.get::<Peer>(&key)?.cloned().unwrap_or_default();
        let up_to = up_to.min(peer.sent);
        if up_to <= peer.handed_off {
            return Ok(OpAnswer::Done);
        }
        let (mut from, to) = (key::outbox(destination, peer.handed_off), key::outbox(destination, up_to + 1));
        loop {
            let page = self.cache.scan::<Outgoing>(&from, &to, PAGE)?;
            for (key, outgoing) in &page {
                self.cache.remove_known(key);
                self.release_message(outgoing.message)?;
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = key::after(last),
                _ => break,
            }
        }
        peer.handed_off = up_to;
        self.cache.put(&key, peer);
        Ok(OpAnswer::Done)
    }
}
