//! Messages on their way to other shards, and from them: each is numbered for its destination, so that whoever leads repeats the same
//! one, and the destination takes each number once.

use raftmq_mqtt::Message;

use super::ShardMachine;
use crate::answer::OpAnswer;
use crate::command::{Bounds, HandedOn, Will};
use crate::effect::Effect;
use crate::keep::{How, Keep, Keeper, Kept};
use crate::key::{self, timer};
use crate::record::{Outgoing, Peer, Session, Staged, Stored, Timer, lifetime};
use crate::store::{Store, StoreError};

/// How many entries are looked up at once.
const PAGE: usize = 256;

impl<S: Store> ShardMachine<S> {
    /// A QoS 2 message from a client [MQTT5 4.3.3]: its identifier is remembered, and it is in the outbox, before PUBREC is sent; for the shard that has to keep
    /// it first, if there is one.
    pub(super) fn receive_inbound(
        &mut self,
        namespace: u32,
        session: u64,
        packet_id: u16,
        message: Message,
        destinations: Vec<u32>,
        keeper: Option<Keeper>,
    ) -> Result<OpAnswer, StoreError> {
        let key = key::session(session);
        let Some(mut known) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        // `[MQTT-4.3.3-10]`: until PUBREL it is the same message.
        let Err(at) = known.inbound.binary_search(&packet_id) else {
            let staged = known.is_staged(packet_id);
            self.cache.put_unchanged(&key, known);
            return Ok(if staged { OpAnswer::Staged { fresh: false } } else { OpAnswer::Duplicate });
        };
        known.inbound.insert(at, packet_id);
        let number = self.next_message();
        if keeper.is_some() {
            known.staged.push((packet_id, number, None));
        }
        self.cache.put(&key, known);
        let (since, mut lifetime) = (self.meta.now_ms, lifetime(&message));
        let mut destinations = destinations;
        let staged = keeper.map(|keeper| {
            if matches!(keeper.keep.how, How::Delay { .. }) {
                // The expiry interval of a delayed message begins when it is published.
                lifetime = None;
            }
            destinations = vec![keeper.shard];
            Box::new(Staged { keeper, since, session })
        });
        let answer = if staged.is_some() { OpAnswer::Staged { fresh: true } } else { OpAnswer::Received };
        let expires_at = lifetime.map(|lifetime| since.saturating_add(lifetime));
        let references = self.send(destinations, &Outgoing { message: number, expires_at, staged })?;
        self.keep_message(namespace, message, references);
        Ok(answer)
    }

    /// What became of a client's messages that shards have to keep. Whoever asks answers the client: an identifier whose message was refused is free
    /// then [MQTT5 4.3.3].
    pub(super) fn outcomes(&mut self, session: u64, packet_ids: &[u16]) -> Result<OpAnswer, StoreError> {
        let key = key::session(session);
        let Some(mut known) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        let mut outcomes = Vec::new();
        known.staged.retain(|(packet_id, _, kept)| {
            if !packet_ids.contains(packet_id) {
                return true;
            }
            outcomes.extend(kept.map(|kept| (*packet_id, kept)));
            kept.is_none()
        });
        for (packet_id, _) in outcomes.iter().filter(|(_, kept)| *kept == Kept::NoRoom) {
            known.release(*packet_id);
        }
        if outcomes.is_empty() {
            self.cache.put_unchanged(&key, known);
        } else {
            self.cache.put(&key, known);
        }
        Ok(OpAnswer::Outcomes(outcomes))
    }

    /// PUBREL of such a message.
    pub(super) fn release_inbound(&mut self, session: u64, packet_id: u16) -> Result<OpAnswer, StoreError> {
        let key = key::session(session);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        let known = session.release(packet_id);
        self.cache.put(&key, session);
        Ok(OpAnswer::Released { known })
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
        self.cache.put(&key::unrouted(entry), Outgoing { message, expires_at, staged: None });
        self.effects.push(Effect::Unrouted { entry });
    }

    /// The leader says where a message goes. Once: a later leader finds it in the outbox.
    pub(super) fn route(
        &mut self,
        entry: u64,
        mut destinations: Vec<u32>,
        keeper: Option<Keeper>,
    ) -> Result<OpAnswer, StoreError> {
        let key = key::unrouted(entry);
        let Some(mut outgoing) = self.cache.get::<Outgoing>(&key)?.cloned() else { return Ok(OpAnswer::UnknownEntry) };
        self.cache.remove(&key);
        if let Some(keeper) = keeper {
            destinations = vec![keeper.shard];
            outgoing.staged = Some(Box::new(Staged { keeper, since: self.meta.now_ms, session: 0 }));
        }
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
        keep: Option<Keep>,
    ) -> Result<OpAnswer, StoreError> {
        let key = key::peer(source);
        let known = self.cache.take::<Peer>(&key)?;
        let is_known = known.is_some();
        let mut peer = known.unwrap_or_default();
        if number != peer.received + 1 {
            let answer = if number > peer.received {
                OpAnswer::Gap { expected: peer.received + 1 }
            } else {
                peer.outcome(number).map_or(OpAnswer::Duplicate, OpAnswer::Kept)
            };
            if is_known {
                self.cache.put_unchanged(&key, peer);
            }
            return Ok(answer);
        }
        let Some(Keep { how, tell }) = keep else {
            peer.received = number;
            self.cache.put(&key, peer);
            return self.publish(namespace, message, lifetime_ms, true);
        };
        let answer = match how {
            How::Retain { bounds } => self.publish_retained(namespace, message.clone(), lifetime_ms, bounds)?,
            How::Delay { delay_ms, bounds } => self.delay(namespace, message.clone(), delay_ms, bounds)?,
            How::TooLong => OpAnswer::NoRoom,
        };
        let kept = match answer {
            OpAnswer::WrongShard { .. } => {
                if is_known {
                    self.cache.put_unchanged(&key, peer);
                }
                return Ok(answer);
            }
            OpAnswer::Retained { number, .. } => Kept::Done { change: number },
            OpAnswer::NoRoom if tell => Kept::NoRoom,
            OpAnswer::NoRoom => {
                if !matches!(how, How::Delay { .. }) {
                    self.publish(namespace, message, lifetime_ms, false)?;
                }
                Kept::Unkept
            }
            _ => Kept::Done { change: 0 },
        };
        peer.received = number;
        peer.note(number, kept);
        self.cache.put(&key, peer);
        Ok(OpAnswer::Kept(kept))
    }

    /// A destination has committed what is numbered up to `up_to`, and says what became of what it keeps.
    pub(super) fn handed_off(
        &mut self,
        destination: u32,
        up_to: u64,
        outcomes: &[HandedOn],
    ) -> Result<OpAnswer, StoreError> {
        let key = key::peer(destination);
        let mut peer = self.cache.get::<Peer>(&key)?.cloned().unwrap_or_default();
        let (before, up_to) = (peer.handed_off, up_to.min(peer.sent));
        if up_to <= before {
            return Ok(OpAnswer::HandedOff { before });
        }
        let (mut from, to) = (key::outbox(destination, peer.handed_off), key::outbox(destination, up_to + 1));
        peer.handed_off = up_to;
        self.cache.put(&key, peer);
        loop {
            let page = self.cache.scan::<Outgoing>(&from, &to, PAGE)?;
            for (key, outgoing) in &page {
                self.cache.remove_known(key);
                if let Some(staged) = &outgoing.staged {
                    let number = key::last_number(key);
                    if let Some(handed) = outcomes.iter().find(|handed| Some(handed.number) == number) {
                        self.send_kept(outgoing, staged, handed)?;
                    }
                }
                self.release_message(outgoing.message)?;
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = key::after(last),
                _ => break,
            }
        }
        Ok(OpAnswer::HandedOff { before })
    }

    /// A shard has kept a message, or has no room for it: it goes further, and its publisher can be answered.
    fn send_kept(&mut self, outgoing: &Outgoing, staged: &Staged, handed: &HandedOn) -> Result<(), StoreError> {
        if handed.kept != Kept::NoRoom
            && !handed.destinations.is_empty()
            && let Some(stored) = self.cache.get::<Stored>(&key::message(outgoing.message))?
        {
            let (namespace, message) = (stored.namespace, stored.message.clone());
            let message = match handed.kept.change() {
                0 => message,
                change => message.with_change(change),
            };
            let number = self.next_message();
            let further = Outgoing { message: number, expires_at: outgoing.expires_at, staged: None };
            let references = self.send(handed.destinations.clone(), &further)?;
            self.keep_message(namespace, message, references);
        }
        let key = key::session(staged.session);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(()) };
        let waiting = session.staged.iter_mut().find(|(_, message, _)| *message == outgoing.message);
        if let Some((.., outcome)) = waiting {
            *outcome = Some(handed.kept);
            if session.connected {
                self.effects.push(Effect::Outcome { client: session.client.clone() });
            }
        }
        self.cache.put(&key, session);
        Ok(())
    }
}
