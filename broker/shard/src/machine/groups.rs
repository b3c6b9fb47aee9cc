//! The side of a durable shared group [MQTT5 4.8.2]: its queue, which is that of a session that nobody connects to, and which member gets what.
//!
//! Messages are matched and queued as for any session, so a publisher waits for the group as for those. A message is in use from its being given
//! until the member's shard says that it is done; what comes back is given again, the oldest first, before anything else.

use std::sync::Arc;

use raftmq_mqtt::topic::TopicFilter;

use super::ShardMachine;
use crate::answer::OpAnswer;
use crate::command::{QueueLimits, SeqRange};
use crate::effect::Dropped;
use crate::key::{self, timer};
use crate::record::{
    BLOCK, Block, Entry, GROUP, Group, Letter, Member, Named, OPTIONS_RETAIN, Options, Session, Timer,
};
use crate::store::{Store, StoreError};
use crate::{Name, Note, group_mark};

/// How many messages a member is given that it is not done with.
pub(crate) const ROOM: u32 = 32;
/// The most members of a group.
pub(crate) const MAX_MEMBERS: usize = 4_096;
/// How many messages a step gives or drops.
pub(crate) const DISPATCH_STEP: usize = 128;

impl<S: Store> ShardMachine<S> {
    /// A session joins; the group begins with the first one.
    pub(super) fn member_joins(
        &mut self,
        group: &Name,
        client: Name,
        at: (u32, u64),
        limits: QueueLimits,
    ) -> Result<(), StoreError> {
        let name = key::group_name(group.namespace, &group.id);
        let id = match self.cache.get::<Named>(&name)? {
            Some(known) => known.group,
            None => match self.begin_group(group, limits)? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        let key = key::group(id);
        let mut record = self.cache.take::<Group>(&key)?.unwrap_or_default();
        match record.place(at) {
            Ok(place) => {
                let member = &mut record.members[place];
                (member.left, member.slow, member.connected) = (false, 0, true);
                record.has_no_more(at);
            }
            Err(place) if record.members.len() < MAX_MEMBERS => {
                record.has_no_more(at);
                record
                    .members
                    .insert(place, Member { at, client, connected: true, left: false, slow: 0, in_flight: 0 });
            }
            Err(_) => {}
        }
        self.cache.put(&key, record);
        self.dispatch(id)
    }

    /// A session is a member no more. With the last one the group ends, and what waits for nobody.
    pub(super) fn member_leaves(&mut self, group: &Name, at: (u32, u64)) -> Result<(), StoreError> {
        let name = key::group_name(group.namespace, &group.id);
        let Some(Named { group: id }) = self.cache.get::<Named>(&name)?.cloned() else { return Ok(()) };
        let key = key::group(id);
        let Some(mut record) = self.cache.take::<Group>(&key)? else { return Ok(()) };
        if let Ok(place) = record.place(at) {
            if record.members[place].in_flight > 0 {
                record.members[place].left = true;
            } else {
                record.members.remove(place);
            }
        }
        record.has_no_more(at);
        let over = record.members.iter().all(|member| member.left);
        self.cache.put(&key, record);
        if over {
            self.cache.remove(&key);
            self.cache.remove(&name);
            self.remove_route(group.namespace, &group_mark(&group.id))?;
            let session = key::session(id);
            if let Some(queue) = self.cache.take::<Session>(&session)? {
                self.end_queue(id, &queue);
            }
        }
        Ok(())
    }

    /// A member's connection came or went.
    pub(super) fn member_is(&mut self, group: &Name, at: (u32, u64), connected: bool) -> Result<(), StoreError> {
        let name = key::group_name(group.namespace, &group.id);
        let Some(Named { group: id }) = self.cache.get::<Named>(&name)?.cloned() else { return Ok(()) };
        let key = key::group(id);
        let Some(mut record) = self.cache.take::<Group>(&key)? else { return Ok(()) };
        if let Ok(place) = record.place(at) {
            let member = &mut record.members[place];
            (member.connected, member.slow) = (connected, 0);
            record.has_no_more(at);
        }
        self.cache.put(&key, record);
        self.dispatch(id)
    }

    /// A member is done with a message.
    pub(super) fn given_done(&mut self, at: (u32, u64), id: u64, seq: u64) -> Result<(), StoreError> {
        if self.answered(at, id, seq, Answered::Done)? {
            self.acknowledge(id, &[SeqRange { first: seq, last: seq }])?;
            self.dispatch(id)?;
        }
        Ok(())
    }

    /// Another member shall have a message.
    pub(super) fn given_back(&mut self, at: (u32, u64), id: u64, seq: u64) -> Result<(), StoreError> {
        if self.answered(at, id, seq, Answered::Back)? {
            self.dispatch(id)?;
        }
        Ok(())
    }

    /// A member has not acknowledged a message in time. Where it has it still, another one gets it, too, if there is any that is not slow as well.
    pub(super) fn given_late(&mut self, at: (u32, u64), id: u64, seq: u64, kept: bool) -> Result<(), StoreError> {
        if self.answered(at, id, seq, if kept { Answered::Late } else { Answered::Unsent })? {
            self.dispatch(id)?;
        }
        Ok(())
    }

    /// A member answered for a message. Whether that makes a difference to the group: if it was the one that had it, or is done with what nobody has.
    fn answered(&mut self, at: (u32, u64), id: u64, seq: u64, what: Answered) -> Result<bool, StoreError> {
        let key = key::group(id);
        let Some(mut record) = self.cache.take::<Group>(&key)? else { return Ok(false) };
        let had = record.given.get(&seq) == Some(&at);
        // Late, but nobody else has it yet.
        let late_done = what == Answered::Done && record.back.get(&seq) == Some(&Some(at));
        let others = || record.members.iter().any(|other| other.at != at && other.is_there() && other.slow == 0);
        if had && what == Answered::Late && !others() {
            self.cache.put_unchanged(&key, record);
            return Ok(false);
        }
        if had {
            record.given.remove(&seq);
            match what {
                Answered::Done => {}
                Answered::Back | Answered::Unsent => drop(record.back.insert(seq, None)),
                Answered::Late => drop(record.back.insert(seq, Some(at))),
            }
        } else if late_done {
            record.back.remove(&seq);
        }
        let mut quick = false;
        if let Ok(place) = record.place(at) {
            let member = &mut record.members[place];
            member.in_flight -= u32::from(had);
            match what {
                Answered::Done => quick = std::mem::take(&mut member.slow) > 0,
                Answered::Back => {}
                Answered::Late => member.slow += u32::from(had),
                // It has nothing of it that it could acknowledge: one message at a time it gets in any case.
                Answered::Unsent if had => member.slow = member.slow.max(1),
                Answered::Unsent => {}
            }
            if member.left && member.in_flight == 0 {
                record.members.remove(place);
            }
        }
        self.cache.put(&key, record);
        if quick && !had && !late_done {
            // Others have done that; but it may be given something again.
            self.dispatch(id)?;
        }
        Ok(had || late_done)
    }

    fn begin_group(&mut self, group: &Name, limits: QueueLimits) -> Result<Option<u64>, StoreError> {
        let Ok(parsed) = TopicFilter::parse(&group.id) else { return Ok(None) };
        let plain = parsed.filter();
        // A number as a session's: no other will have it.
        self.meta.last_epoch += 1;
        let id = self.meta.last_epoch;
        let client = Name { namespace: group.namespace, id: Arc::from(format!("{GROUP}{}", group.id)) };
        let queue = Session { connected: false, subscriptions: 1, ..Session::new(client, limits) };
        self.cache.put(&key::session(id), queue);
        self.cache.put(&key::group_name(group.namespace, &group.id), Named { group: id });
        // The members' options count where they take it.
        let options = Options { flags: 2 | OPTIONS_RETAIN, identifier: 0 };
        self.cache.put(&key::subscription(id, plain), options);
        self.index.insert(group.namespace, id, true, plain, options);
        self.meta.subscriptions += 1;
        self.add_route(group.namespace, plain)?;
        // Behind the queue's route: who knows this one knows that.
        self.add_route(group.namespace, &group_mark(&group.id))?;
        Ok(Some(id))
    }

    /// Gives messages to members with room, in turn, until there are no more of one of them.
    pub(super) fn dispatch(&mut self, id: u64) -> Result<(), StoreError> {
        let key = key::group(id);
        let Some(client) = self.cache.get::<Session>(&key::session(id))?.map(|queue| queue.client.clone()) else {
            return Ok(());
        };
        let group = Name::new(client.namespace, client.id.trim_start_matches(GROUP));
        let Some(mut record) = self.cache.take::<Group>(&key)? else { return Ok(()) };
        for step in 0.. {
            if step == DISPATCH_STEP && next_member(&record, None).is_some() {
                // The rest with the next tick.
                let timer = key::timer(self.meta.now_ms, timer::GROUP, &id.to_be_bytes());
                if !self.cache.has::<Timer>(&timer)? {
                    self.cache.put(&timer, Timer { message: 0 });
                }
                break;
            }
            let returned = record.back.iter().take(DISPATCH_STEP);
            let mut returned = returned.map(|(seq, has)| (*seq, Returned { has: *has }));
            let returned = returned.find_map(|(seq, of)| Some((next_member(&record, Some(of))?, seq)));
            let (place, seq) = match returned {
                Some(returned) => returned,
                None => {
                    let Some(place) = next_member(&record, None) else { break };
                    let Some(seq) = self.next_to_give(id)? else { break };
                    (place, seq)
                }
            };
            record.back.remove(&seq);
            let Some(entry) = self.entry(id, seq)? else { continue };
            if entry.expires_at.is_some_and(|at| at <= self.meta.now_ms) {
                self.acknowledge(id, &[SeqRange { first: seq, last: seq }])?;
                let session = key::session(id);
                if let Some(mut queue) = self.cache.take::<Session>(&session)? {
                    self.dropped(&mut queue, Dropped::Expired);
                    self.cache.put(&session, queue);
                }
                continue;
            }
            let member = &mut record.members[place];
            member.in_flight += 1;
            let (at, member) = (member.at, member.client.clone());
            record.turn = at;
            record.given.insert(seq, at);
            self.change_references(entry.message, |references| references + 1)?;
            let note = Note::Give { group: group.clone(), number: id, seq, member, session: at.1 };
            self.tell(at.0, Letter { note, message: Some(entry.message), expires_at: entry.expires_at })?;
        }
        self.cache.put(&key, record);
        Ok(())
    }

    /// Grants the next message that waits; `None`: there is none, or the oldest in use is too far below it.
    fn next_to_give(&mut self, id: u64) -> Result<Option<u64>, StoreError> {
        let session = self.cache.get::<Session>(&key::session(id))?;
        let Some(front) = session.filter(|session| session.waiting > 0).map(|session| session.front) else {
            return Ok(None);
        };
        Ok(matches!(self.grant(id, front)?, OpAnswer::Granted { .. }).then_some(front))
    }

    fn entry(&mut self, id: u64, seq: u64) -> Result<Option<Entry>, StoreError> {
        let block = self.cache.get::<Block>(&key::block(id, seq / BLOCK))?;
        Ok(block.and_then(|block| block.get(seq)).cloned())
    }
}

/// What became of a message that a member was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    /// It is done with it.
    Done,
    /// Another one shall have it.
    Back,
    /// It did not acknowledge in time, and has it still.
    Late,
    /// It takes nothing, and was not sent it.
    Unsent,
}

/// A message that is to be given again.
#[derive(Clone, Copy)]
struct Returned {
    /// Who has it still.
    has: Option<(u32, u64)>,
}

/// The member after the one that was given the last message, of those that are connected and have room. One that is slow is given one message at a time, until it has left so many
/// unacknowledged; what came back it is given only if there is none that is not slow, and never what it has still.
fn next_member(group: &Group, returned: Option<Returned>) -> Option<usize> {
    let has = returned.and_then(|returned| returned.has);
    let may = |member: &Member| member.is_there() && Some(member.at) != has;
    let quick = returned.is_some() && group.members.iter().any(|member| may(member) && member.slow == 0);
    let room = |slow: u32| match slow {
        0 => ROOM,
        1..ROOM if !quick => 1,
        _ => 0,
    };
    let free = |member: &Member| may(member) && member.in_flight < room(member.slow);
    let after = group.members.partition_point(|member| member.at <= group.turn);
    let places = (after..group.members.len()).chain(0..after);
    places.into_iter().find(|place| free(&group.members[*place]))
}
