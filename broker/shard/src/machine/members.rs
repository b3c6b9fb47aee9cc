//! The side of a member of durable shared groups: its session has the subscription, and what it was given is in its queue until it is done
//! with it or somebody else shall have it.

use raftmq_mqtt::topic::TopicFilter;
use raftmq_mqtt::{Message, QoS};

use super::ShardMachine;
use super::groups::ROOM;
use super::queue::Offer;
use crate::answer::{OpAnswer, Subscribed};
use crate::command::{QueueLimits, SeqRange, Subscription};
use crate::effect::{Dropped, Effect};
use crate::key::{self, Key};
use crate::record::{BLOCK, Block, Client, Held, Membership, OPTIONS_RETAIN, Session};
use crate::store::{Store, StoreError};
use crate::{Name, Note};

/// The most shared groups of a session.
pub(crate) const MAX_GROUPS: u32 = 16;
/// With so many messages of groups a session joins no more of them: it may have some of groups that it has left.
const MAX_HELD: u32 = MAX_GROUPS * ROOM;

impl<S: Store> ShardMachine<S> {
    /// SUBSCRIBE to a shared filter. A member with QoS 0 has nothing that would be kept: it is served as those of clean sessions.
    pub(super) fn join(&mut self, id: u64, subscription: &Subscription, shard: u32) -> Result<OpAnswer, StoreError> {
        let filter = &*subscription.filter;
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        let shared = TopicFilter::parse(filter).is_ok_and(|filter| filter.group().is_some());
        let membership = key::membership(id, filter);
        let known = self.cache.has::<Membership>(&membership)?;
        let outcome = if !shared || subscription.qos == QoS::AtMostOnce {
            Subscribed::Invalid
        } else if !known
            && (session.held >= MAX_HELD || session.memberships >= MAX_GROUPS.min(session.limits.max_subscriptions))
        {
            Subscribed::TooMany
        } else {
            let retain = if subscription.retain_as_published { OPTIONS_RETAIN } else { 0 };
            let flags = subscription.qos as u8 | retain;
            self.cache.put(&membership, Membership { shard, flags, identifier: subscription.identifier });
            let note = if known {
                // It was said with one of those before.
                self.notes_for(shard)?
            } else {
                session.memberships += 1;
                let group = Name::new(session.client.namespace, filter);
                let (member, limits) = (session.client.clone(), session.limits);
                self.tell_plain(shard, Note::Join { group, member, session: id, limits })?
            };
            Subscribed::Joined { note }
        };
        self.cache.put(&key, session);
        Ok(OpAnswer::Subscribed(vec![outcome]))
    }

    /// A connected client without a session here gets one for what groups give it. It ends with the connection, as the client's own does.
    pub(super) fn begin_clean(&mut self, name: Key, client: Name, limits: QueueLimits) -> Result<u64, StoreError> {
        // No other session has the number.
        self.meta.last_epoch += 1;
        let id = self.meta.last_epoch;
        self.meta.sessions += 1;
        self.cache.put(&key::session(id), Session::new(client, limits));
        let mut open = self.open_client(name)?;
        open.client.session = Some(id);
        open.client.expiry_s = 0;
        self.close_client(open);
        Ok(id)
    }

    /// UNSUBSCRIBE of a shared filter. What may have been sent stays with the client, which is still there. The number of the note that says it to the group's shard; `None`: it
    /// was no member.
    pub(super) fn leave(&mut self, id: u64, session: &mut Session, filter: &str) -> Result<Option<u64>, StoreError> {
        let key = key::membership(id, filter);
        let Some(membership) = self.cache.take::<Membership>(&key)? else { return Ok(None) };
        self.cache.remove(&key);
        session.memberships -= 1;
        let group = Name::new(session.client.namespace, filter);
        let note = self.tell_plain(membership.shard, Note::Leave { group, session: id })?;
        let granted = session.granted;
        self.give_back(id, session, false, |held, seq, _| &*held.filter == filter && seq > granted)?;
        Ok(Some(note))
    }

    /// The member's connection went, or its session. What it has not acknowledged goes to others; but what was begun with QoS 2 stays
    /// with it (`[MQTT-4.8.2-4]`), or ends with it (`[MQTT-4.8.2-5]`).
    pub(super) fn away(&mut self, id: u64, session: &mut Session, ends: bool) -> Result<(), StoreError> {
        if session.memberships > 0 {
            for (filter, membership) in self.memberships(id)? {
                let group = Name::new(session.client.namespace, &filter);
                let note = if ends {
                    self.cache.remove_known(&key::membership(id, &filter));
                    Note::Leave { group, session: id }
                } else {
                    Note::Here { group, session: id, connected: false }
                };
                self.tell_plain(membership.shard, note)?;
            }
        }
        if session.held == 0 {
            return Ok(());
        }
        // Numbers may be granted without having been used: what is there and granted may have been sent.
        let granted = session.granted;
        self.give_back(id, session, false, |_, seq, qos| qos < 2 || seq > granted)?;
        if ends {
            for (seq, held) in self.all_held(id)? {
                self.tell_plain(held.shard, Note::Done { number: held.group, session: id, seq: held.seq })?;
                self.cache.remove_known(&key::held(id, seq));
            }
            session.held = 0;
        }
        Ok(())
    }

    /// The member is connected again.
    pub(super) fn here(&mut self, id: u64, session: &Session) -> Result<(), StoreError> {
        if session.memberships == 0 {
            return Ok(());
        }
        for (filter, membership) in self.memberships(id)? {
            let group = Name::new(session.client.namespace, &filter);
            self.tell_plain(membership.shard, Note::Here { group, session: id, connected: true })?;
        }
        Ok(())
    }

    /// A message that a group gives to a session here.
    pub(super) fn take_given(
        &mut self,
        source: u32,
        (group, number, seq): (&Name, u64, u64),
        member: &Name,
        id: u64,
        message: Message,
        lifetime: Option<u64>,
    ) -> Result<(), StoreError> {
        let back = Note::Back { number, session: id, seq };
        let name = key::client(&key::client_name(member.namespace, &member.id));
        let current = self.cache.get::<Client>(&name)?.is_some_and(|client| client.session == Some(id));
        let membership = self.cache.get::<Membership>(&key::membership(id, &group.id))?.cloned();
        let (true, Some(membership)) = (current, membership) else {
            return self.tell_plain(source, back).map(drop);
        };
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else {
            return self.tell_plain(source, back).map(drop);
        };
        if !session.connected {
            self.cache.put_unchanged(&key, session);
            return self.tell_plain(source, back).map(drop);
        }
        let expires_at = lifetime.map(|lifetime| self.meta.now_ms.saturating_add(lifetime));
        if lifetime == Some(0) {
            self.dropped(&mut session, Dropped::Expired);
            self.cache.put(&key, session);
            return self.tell_plain(source, Note::Done { number, session: id, seq }).map(drop);
        }
        // The group has room for so few at once that the bounds of the queue need not be asked: they are for what nobody limits.
        let offer = Offer {
            message: self.next_message(),
            expires_at,
            bytes: u32::try_from(message.wire_len()).unwrap_or(u32::MAX),
            qos: (membership.flags & 3).min(message.qos() as u8).max(1),
            retain: membership.flags & OPTIONS_RETAIN != 0 && message.retain(),
            replayed: false,
            given: true,
            identifiers: (membership.identifier > 0).then_some(membership.identifier).into_iter().collect(),
        };
        self.keep_message(group.namespace, message, 1);
        let own = self.append(id, &mut session, offer)?;
        session.held += 1;
        let held = Held { shard: source, group: number, seq, filter: (*group.id).into() };
        self.cache.put(&key::held(id, own), held);
        self.effects.push(Effect::Deliver { client: session.client.clone() });
        self.cache.put(&key, session);
        Ok(())
    }

    /// A message left the queue of a session that has some of groups.
    pub(super) fn held_done(&mut self, id: u64, session: &mut Session, seq: u64) -> Result<(), StoreError> {
        let key = key::held(id, seq);
        if let Some(held) = self.cache.take::<Held>(&key)? {
            self.cache.remove(&key);
            session.held -= 1;
            self.tell_plain(held.shard, Note::Done { number: held.group, session: id, seq: held.seq })?;
        }
        Ok(())
    }

    /// The client has not acknowledged some messages in time: those of groups are to go to others, too, but for what may have been sent with QoS 2. What was certainly not sent goes to
    /// others alone.
    pub(super) fn give_back_late(&mut self, id: u64, seqs: &[SeqRange]) -> Result<OpAnswer, StoreError> {
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        let granted = session.granted;
        let late = |seq: u64| seqs.iter().any(|range| range.first <= seq && seq <= range.last);
        let mut count = 0;
        for (seq, held) in self.all_held(id)? {
            let block = self.cache.get::<Block>(&key::block(id, seq / BLOCK))?;
            let qos = block.and_then(|block| block.get(seq)).map(|entry| entry.qos);
            if late(seq) && seq <= granted && qos == Some(1) {
                self.tell_plain(held.shard, Note::Late { number: held.group, session: id, kept: true, seq: held.seq })?;
                count += 1;
            }
        }
        let before = session.held;
        self.give_back(id, &mut session, true, |_, seq, _| late(seq) && seq > granted)?;
        count += before - session.held;
        self.cache.put(&key, session);
        Ok(OpAnswer::Acked { count })
    }

    /// Takes messages of groups out of a queue, since they are `late` or for another reason, for which `which` says so, by whose they are, their number and QoS.
    fn give_back(
        &mut self,
        id: u64,
        session: &mut Session,
        late: bool,
        which: impl Fn(&Held, u64, u8) -> bool,
    ) -> Result<(), StoreError> {
        for (seq, held) in self.all_held(id)? {
            let block = self.cache.get::<Block>(&key::block(id, seq / BLOCK))?;
            let Some(qos) = block.and_then(|block| block.get(seq)).map(|entry| entry.qos) else { continue };
            if !which(&held, seq, qos) {
                continue;
            }
            self.cache.remove_known(&key::held(id, seq));
            session.held -= 1;
            let (number, group_seq) = (held.group, held.seq);
            let back = if late {
                Note::Late { number, session: id, kept: false, seq: group_seq }
            } else {
                Note::Back { number, session: id, seq: group_seq }
            };
            self.tell_plain(held.shard, back)?;
            self.remove_entries(id, session, seq, seq)?;
            if seq <= session.granted {
                session.done.insert(seq);
            }
        }
        session.move_floor();
        self.move_front(id, session)
    }

    fn memberships(&mut self, id: u64) -> Result<Vec<(String, Membership)>, StoreError> {
        let (from, to) = (key::membership(id, ""), key::membership(id + 1, ""));
        let found = self.cache.scan::<Membership>(&from, &to, MAX_GROUPS as usize)?;
        let named = |(key, membership): (key::Key, _)| Some((key::read_membership(&key)?.to_owned(), membership));
        Ok(found.into_iter().filter_map(named).collect())
    }

    fn all_held(&mut self, id: u64) -> Result<Vec<(u64, Held)>, StoreError> {
        let found = self.cache.scan::<Held>(&key::held(id, 0), &key::held(id + 1, 0), usize::MAX)?;
        Ok(found.into_iter().map(|(key, held)| (key::last_number(&key).unwrap_or_default(), held)).collect())
    }
}
