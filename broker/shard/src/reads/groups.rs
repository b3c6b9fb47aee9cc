//! Durable shared groups, and notes about them that are on their way.

use raftmq_mqtt::{Message, QoS};

use crate::command::Subscription;
use crate::keep::Room;
use crate::key;
use crate::machine::{MAX_GROUPS, ShardMachine};
use crate::record::{Client, Group, Letter, Membership, Named, OPTIONS_RETAIN, Peer, RouteKey, Session, Stored};
use crate::store::{Store, StoreError};
use crate::{Name, Note};

/// What is known of a durable shared group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its number.
    pub number: u64,
    /// The change of the shard's routes that a publish must have seen to reach it.
    pub route: u64,
    /// Its members, in the order of shards and sessions.
    pub members: Vec<GroupMember>,
    /// Messages in its queue, those that members have included.
    pub messages: u32,
    /// Those of them that were never given to a member.
    pub waiting: u32,
    /// Those that came back from a member and wait for another one.
    pub back: u32,
    /// Messages dropped: expired, not taken, oldest.
    pub dropped: [u64; 3],
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Who.
    pub client: Name,
    /// The shard of its session.
    pub shard: u32,
    /// Its session.
    pub session: u64,
    /// Whether it is connected.
    pub connected: bool,
    /// It unsubscribed, or its session ended, and it has not answered for all that it was given.
    pub left: bool,
    /// It did not acknowledge something in time, and nothing since.
    pub slow: bool,
    /// Messages that it was given and has not answered for.
    pub in_flight: u32,
}

/// A note for another shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteToSend {
    /// Its number for the destination.
    pub number: u64,
    /// The note.
    pub note: Note,
    /// The message that is given, and what is left of its expiry interval in milliseconds.
    pub message: Option<(Message, Option<u64>)>,
}

impl<S: Store> ShardMachine<S> {
    /// The shared subscriptions of a durable session whose messages come from queues in shards.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn shared_subscriptions(&mut self, client: &Name) -> Result<Vec<Subscription>, StoreError> {
        let name = key::client_name(client.namespace, &client.id);
        let Some(id) = self.cache.get::<Client>(&key::client(&name))?.and_then(|client| client.session) else {
            return Ok(Vec::new());
        };
        let (from, to) = (key::membership(id, ""), key::membership(id + 1, ""));
        let found = self.cache.scan::<Membership>(&from, &to, MAX_GROUPS as usize)?;
        self.cache.trim();
        let subscription = |(key, membership): &(key::Key, Membership)| {
            Some(Subscription {
                filter: key::read_membership(key)?.into(),
                qos: QoS::from_u8(membership.flags & 3)?,
                no_local: false,
                retain_as_published: membership.flags & OPTIONS_RETAIN != 0,
                identifier: membership.identifier,
            })
        };
        Ok(found.iter().filter_map(subscription).collect())
    }

    /// A group, by its namespace and whole filter.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn group(&mut self, group: &Name) -> Result<Option<GroupInfo>, StoreError> {
        let name = key::group_name(group.namespace, &group.id);
        let Some(number) = self.cache.get::<Named>(&name)?.map(|known| known.group) else { return Ok(None) };
        let Some(record) = self.cache.get::<Group>(&key::group(number))?.cloned() else { return Ok(None) };
        let Some(queue) = self.cache.get::<Session>(&key::session(number))? else { return Ok(None) };
        let (messages, waiting, dropped) = (queue.messages, queue.waiting, queue.dropped);
        let mark = key::route_key(group.namespace, &crate::group_mark(&group.id));
        let route = self.cache.get::<RouteKey>(&mark)?.map_or(0, |route| route.added);
        let member = |member: crate::record::Member| GroupMember {
            client: member.client,
            shard: member.at.0,
            session: member.at.1,
            connected: member.connected,
            left: member.left,
            slow: member.slow > 0,
            in_flight: member.in_flight,
        };
        let back = record.back.len() as u32;
        let members = record.members.into_iter().map(member).collect();
        Ok(Some(GroupInfo { number, route, members, messages, waiting, back, dropped }))
    }

    /// Notes for a shard after a number, in their order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn notes(&mut self, destination: u32, after: u64, limit: usize) -> Result<Vec<NoteToSend>, StoreError> {
        let from = key::note(destination, after.saturating_add(1));
        let to = key::after(&key::note(destination, u64::MAX));
        let (mut notes, mut room) = (Vec::new(), Room::default());
        for (key, letter) in self.cache.scan::<Letter>(&from, &to, limit)? {
            let number = key::last_number(&key).unwrap_or_default();
            let now = self.meta.now_ms;
            let stored = match letter.message {
                Some(message) => self.cache.get::<Stored>(&key::message(message))?,
                None => None,
            };
            let lifetime = letter.expires_at.map(|at| at.saturating_sub(now));
            let message = stored.map(|stored| (stored.message.clone(), lifetime));
            if !room.takes(message.as_ref().map_or(0, |(message, _)| message.wire_len())) {
                break;
            }
            notes.push(NoteToSend { number, note: letter.note, message });
        }
        Ok(notes)
    }

    /// The shards for which there are notes, each with the number up to which they have them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn note_destinations(&self) -> Result<Vec<(u32, u64)>, StoreError> {
        let (from, to) = (key::note_peer(0), key::table_end(key::table::NOTE_PEER));
        let peers = self.cache.scan::<Peer>(&from, &to, usize::MAX)?;
        let waiting = peers.into_iter().filter(|(_, peer)| peer.sent > peer.handed_off);
        Ok(waiting.filter_map(|(key, peer)| Some((key::last_small(&key)?, peer.handed_off))).collect())
    }

    /// The number of the last note that came from a shard.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn last_note(&mut self, source: u32) -> Result<u64, StoreError> {
        Ok(self.cache.get::<Peer>(&key::note_peer(source))?.map_or(0, |peer| peer.received))
    }
}
