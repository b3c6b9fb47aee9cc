//! What shards say to each other about durable shared groups [MQTT5 4.8.2].
//!
//! The shard of a group has its queue and says who gets what ([`Note::Give`]); the shard of a member's session alone says what became of it:
//! each message that is given is answered once, by [`Note::Done`] or [`Note::Back`]. Between two shards notes are numbered, and come in order.

use crate::Name;
use crate::codec::{CodecError, Put, Reader};
use crate::command::{QueueLimits, limits, name, put_limits, put_name};
use crate::record::GROUP;
use crate::slot::slot;

/// The slot of a group: its shard is the one that has it. `filter` is the whole one, `$share/group/filter`.
#[must_use]
pub fn group_slot(namespace: u32, filter: &str) -> u16 {
    slot(namespace, &group_name(filter))
}

/// The name of a group among those that shards have ([`crate::slot`]), by its whole filter.
#[must_use]
pub fn group_name(filter: &str) -> String {
    format!("{GROUP}{filter}")
}

/// What stands among the routes of the shard of a group for its having a queue there: whoever finds it by this as a topic leaves what that queue takes to the shard. No
/// client's filter is like it.
#[must_use]
pub fn group_mark(filter: &str) -> String {
    let mut mark = String::with_capacity(filter.len() + 8);
    // No filter with a wildcard in the first level matches it [MQTT-4.7.2-1].
    mark.push_str("$\0");
    for letter in filter.chars() {
        match letter {
            '+' => mark.push_str("\0p"),
            '#' => mark.push_str("\0h"),
            letter => mark.push(letter),
        }
    }
    mark
}

/// Something that a shard says to one of another, or to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A session subscribed.
    Join {
        /// The group: its namespace and the whole filter.
        group: Name,
        /// The member.
        member: Name,
        /// Its session.
        session: u64,
        /// Bounds of the group's queue if it is new.
        limits: QueueLimits,
    },
    /// A session unsubscribed, or ended.
    Leave {
        /// The group.
        group: Name,
        /// The session.
        session: u64,
    },
    /// A member's connection came or went.
    Here {
        /// The group.
        group: Name,
        /// The session.
        session: u64,
        /// Whether it is connected now.
        connected: bool,
    },
    /// A message for a member.
    Give {
        /// The group.
        group: Name,
        /// The number of the group.
        number: u64,
        /// The message's number in the group's queue.
        seq: u64,
        /// The member.
        member: Name,
        /// Its session.
        session: u64,
    },
    /// A member is done with a message: acknowledged, or received with QoS 2.
    Done {
        /// The number of the group.
        number: u64,
        /// The member's session.
        session: u64,
        /// The message's number in the group's queue.
        seq: u64,
    },
    /// A member will not be done with a message: another one shall have it.
    Back {
        /// The number of the group.
        number: u64,
        /// The member's session.
        session: u64,
        /// The message's number in the group's queue.
        seq: u64,
    },
    /// A member has not acknowledged a message in time: another one, if there is any, shall have it.
    Late {
        /// The number of the group.
        number: u64,
        /// The member's session.
        session: u64,
        /// Whether the member has it still; otherwise it was not sent, and is for others in any case.
        kept: bool,
        /// The message's number in the group's queue.
        seq: u64,
    },
}

impl Note {
    /// About how many bytes it has.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Join { group, member, .. } | Self::Give { group, member, .. } => {
                group.id.len() + member.id.len() + 32
            }
            Self::Leave { group, .. } | Self::Here { group, .. } => group.id.len() + 16,
            Self::Done { .. } | Self::Back { .. } | Self::Late { .. } => 24,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Join { group, member, session, limits } => {
                out.push(1);
                put_name(out, group);
                put_name(out, member);
                out.number(*session);
                put_limits(out, limits);
            }
            Self::Leave { group, session } => {
                out.push(2);
                put_name(out, group);
                out.number(*session);
            }
            Self::Here { group, session, connected } => {
                out.push(3);
                put_name(out, group);
                out.number(*session);
                out.flag(*connected);
            }
            Self::Give { group, number, seq, member, session } => {
                out.push(4);
                put_name(out, group);
                out.number(*number);
                out.number(*seq);
                put_name(out, member);
                out.number(*session);
            }
            Self::Done { number, session, seq } => {
                out.push(5);
                out.number(*number);
                out.number(*session);
                out.number(*seq);
            }
            Self::Back { number, session, seq } => {
                out.push(6);
                out.number(*number);
                out.number(*session);
                out.number(*seq);
            }
            Self::Late { number, session, kept, seq } => {
                out.push(7);
                out.number(*number);
                out.number(*session);
                out.flag(*kept);
                out.number(*seq);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match reader.byte("note")? {
            1 => Self::Join {
                group: name(reader)?,
                member: name(reader)?,
                session: reader.number("session")?,
                limits: limits(reader)?,
            },
            2 => Self::Leave { group: name(reader)?, session: reader.number("session")? },
            3 => Self::Here {
                group: name(reader)?,
                session: reader.number("session")?,
                connected: reader.flag("connected")?,
            },
            4 => Self::Give {
                group: name(reader)?,
                number: reader.number("group")?,
                seq: reader.number("sequence number")?,
                member: name(reader)?,
                session: reader.number("session")?,
            },
            5 => {
                let (number, session) = (reader.number("group")?, reader.number("session")?);
                Self::Done { number, session, seq: reader.number("sequence number")? }
            }
            6 => {
                let (number, session) = (reader.number("group")?, reader.number("session")?);
                Self::Back { number, session, seq: reader.number("sequence number")? }
            }
            7 => {
                let (number, session) = (reader.number("group")?, reader.number("session")?);
                let kept = reader.flag("kept")?;
                Self::Late { number, session, kept, seq: reader.number("sequence number")? }
            }
            _ => return Err(CodecError::Invalid("note")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_mqtt::topic::filter_matches;

    #[test]
    fn a_mark_is_of_one_group_and_no_filter_of_a_client_is_like_it() {
        let marks: Vec<_> = ["$share/g/a/+", "$share/g/a/#", "$share/g/a/p", "$share/g/ap"].map(group_mark).into();
        for (at, mark) in marks.iter().enumerate() {
            assert!(!mark.contains(['+', '#']) && !marks[..at].contains(mark));
            // As a topic: of what clients subscribe to.
            for filter in ["#", "+/#", "+/share/g/a/+", "$share/g/a/+"] {
                assert!(!filter_matches(filter, mark), "{filter}");
            }
        }
    }
}
