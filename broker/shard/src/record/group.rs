//! Records of durable shared groups, on both sides: that of the group, and that of a member's session.

use std::collections::BTreeMap;

use crate::codec::{CodecError, Put, Reader};
use crate::command::{name, put_name};
use crate::{Name, Note};

/// A group's members and who has what. Its queue is a session's, under the same number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// In the order of their sessions' numbers.
    pub(crate) members: Vec<Member>,
    /// The session that was given the last message.
    pub(crate) turn: (u32, u64),
    /// What is to be given again before anything else; and whom it is not to be given to, since that one has it still.
    pub(crate) back: BTreeMap<u64, Option<(u32, u64)>>,
    /// Who was given what, and has not answered.
    pub(crate) given: BTreeMap<u64, (u32, u64)>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The shard of its session, and the session: numbers of sessions are a shard's own.
    pub(crate) at: (u32, u64),
    pub(crate) client: Name,
    pub(crate) connected: bool,
    /// It is none any more, but has not answered for all that it was given.
    pub(crate) left: bool,
    /// How many messages it did not acknowledge in time, since it acknowledged one last.
    pub(crate) slow: u32,
    pub(crate) in_flight: u32,
}

impl Member {
    /// Whether it may be given something.
    pub(crate) const fn is_there(&self) -> bool {
        self.connected && !self.left
    }
}

impl Group {
    pub(crate) fn place(&self, at: (u32, u64)) -> Result<usize, usize> {
        self.members.binary_search_by_key(&at, |member| member.at)
    }

    /// A member has nothing any more of what others are to have, too.
    pub(crate) fn has_no_more(&mut self, at: (u32, u64)) {
        self.back.values_mut().filter(|has| **has == Some(at)).for_each(|has| *has = None);
    }

    pub(crate) fn heap(&self) -> usize {
        let members: usize = self.members.iter().map(|member| size_of::<Member>() + member.client.id.len()).sum();
        members + self.back.len() * 32 + self.given.len() * 32
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.count(self.members.len());
        for member in &self.members {
            put_at(out, member.at);
            put_name(out, &member.client);
            out.flag(member.connected);
            out.flag(member.left);
            out.number(member.slow.into());
            out.number(member.in_flight.into());
        }
        put_at(out, self.turn);
        out.count(self.back.len());
        for (seq, has) in &self.back {
            out.number(*seq);
            out.flag(has.is_some());
            has.iter().for_each(|has| put_at(out, *has));
        }
        out.count(self.given.len());
        for (seq, at) in &self.given {
            out.number(*seq);
            put_at(out, *at);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let members = reader.list("members", 1 << 20, |reader| {
            Ok(Member {
                at: at(reader)?,
                client: name(reader)?,
                connected: reader.flag("connected")?,
                left: reader.flag("left")?,
                slow: reader.small("late messages")?,
                in_flight: reader.small("messages in flight")?,
            })
        })?;
        let turn = at(reader)?;
        let back = reader.list("messages that came back", 1 << 20, |reader| {
            let seq = reader.number("sequence number")?;
            Ok((seq, if reader.flag("has it still")? { Some(at(reader)?) } else { None }))
        })?;
        let given =
            reader.list("messages given", 1 << 20, |reader| Ok((reader.number("sequence number")?, at(reader)?)))?;
        Ok(Self { members, turn, back: back.into_iter().collect(), given: given.into_iter().collect() })
    }
}

fn put_at(out: &mut Vec<u8>, (shard, session): (u32, u64)) {
    out.number(shard.into());
    out.number(session);
}

fn at(reader: &mut Reader<'_>) -> Result<(u32, u64), CodecError> {
    Ok((reader.small("shard")?, reader.number("session")?))
}

/// The number of the group with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) group: u64,
}

impl Named {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.group);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { group: reader.number("group")? })
    }
}

/// A session's subscription to a shared filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The group's shard.
    pub(crate) shard: u32,
    /// As those of a subscription's options.
    pub(crate) flags: u8,
    pub(crate) identifier: u32,
}

impl Membership {
    pub(crate) fn heap(&self) -> usize {
        0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.shard.into());
        out.push(self.flags);
        out.number(self.identifier.into());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            shard: reader.small("shard")?,
            flags: reader.byte("options")?,
            identifier: reader.small("subscription identifier")?,
        })
    }
}

/// Whose a message in a session's queue is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// The group's shard, its number there, and the message's number in its queue.
    pub(crate) shard: u32,
    pub(crate) group: u64,
    pub(crate) seq: u64,
    /// The whole filter.
    pub(crate) filter: Box<str>,
}

impl Held {
    pub(crate) fn heap(&self) -> usize {
        self.filter.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.shard.into());
        out.number(self.group);
        out.number(self.seq);
        out.slice(self.filter.as_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            shard: reader.small("shard")?,
            group: reader.number("group")?,
            seq: reader.number("sequence number")?,
            filter: reader.text("filter")?.into(),
        })
    }
}

/// A note on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) note: Note,
    /// The message that is given, to which this is a reference, and when it expires.
    pub(crate) message: Option<u64>,
    pub(crate) expires_at: Option<u64>,
}

impl Letter {
    pub(crate) fn heap(&self) -> usize {
        self.note.size()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.note.encode(out);
        out.option(self.message);
        out.option(self.expires_at);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            note: Note::decode(reader)?,
            message: reader.option("message")?,
            expires_at: reader.option("expiry")?,
        })
    }
}
