//! Messages with QoS 2 that a shard keeps before anybody gets them: to be retained, or for later.
//!
//! The publisher's shard hands such a message to that one first, and then, with the number that it got there, to the shards that have subscribers of it now: so each of them has
//! it once, whoever dies between, and whoever subscribes later finds it. What became of it waits beside the packet identifier until the publisher's node asks for it
//! ([`crate::Op::Outcomes`]), and answers PUBLISH with it.

use crate::codec::{CodecError, Put, Reader};
use crate::command::Bounds;

/// How many messages for another shard a leader hands off before it notes that they are there, and what became of them.
pub const MOST_HANDED_OFF: usize = 64;

/// And about how many bytes of messages, where they are more than one: far less than a proposal may have.
const MOST_BYTES: usize = 512 << 10;

/// The room of one proposal of hand-offs.
#[derive(Debug, Default)]
pub(crate) struct Room {
    bytes: Option<usize>,
}

impl Room {
    /// Whether one more fits. The first one always does.
    pub(crate) fn takes(&mut self, bytes: usize) -> bool {
        let all = self.bytes.map_or(bytes, |taken| taken + bytes);
        let fits = self.bytes.is_none() || all <= MOST_BYTES;
        self.bytes = Some(all);
        fits
    }
}

/// What a shard does with a message of its topics that it gets from another one's outbox before others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// What.
    pub how: How,
    /// Whether the publisher can be told that there is no room: then the message goes nowhere. Else it is published, if it was to be, without being kept.
    pub tell: bool,
}

/// What is done with a message that a shard has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// As by [`crate::Op::Retain`].
    Retain {
        /// How much the shard may retain.
        bounds: Bounds,
    },
    /// As by [`crate::Op::Delay`].
    Delay {
        /// When it is published, in milliseconds from now on.
        delay_ms: u64,
        /// How much may wait in the shard.
        bounds: Bounds,
    },
    /// It is too long to be retained: there is no room for it.
    TooLong,
}

/// The shard that has to keep a message before it goes further: that of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeper {
    /// Its number.
    pub shard: u32,
    /// What it does with the message.
    pub keep: Keep,
}

/// What became of it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is there.
    Done {
        /// The number of the change to what the shard retains; 0 if it was none.
        change: u64,
    },
    /// There was no room for it: it went nowhere, and its publisher is to be told.
    NoRoom,
    /// There was no room for it: it was published without being kept.
    Unkept,
}

impl Keep {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.flag(self.tell);
        let bounds = match &self.how {
            How::Retain { bounds } => {
                out.push(1);
                bounds
            }
            How::Delay { delay_ms, bounds } => {
                out.push(2);
                out.number(*delay_ms);
                bounds
            }
            How::TooLong => return out.push(3),
        };
        out.number(bounds.messages);
        out.number(bounds.bytes);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        fn bounds(reader: &mut Reader<'_>) -> Result<Bounds, CodecError> {
            Ok(Bounds { messages: reader.number("messages")?, bytes: reader.number("bytes")? })
        }
        let tell = reader.flag("tell")?;
        let how = match reader.byte("kind of keeping")? {
            1 => How::Retain { bounds: bounds(reader)? },
            2 => How::Delay { delay_ms: reader.number("delay")?, bounds: bounds(reader)? },
            3 => How::TooLong,
            _ => return Err(CodecError::Invalid("kind of keeping")),
        };
        Ok(Self { how, tell })
    }

    /// What is left to be done after so many milliseconds on the way.
    pub(crate) fn after(self, elapsed_ms: u64) -> Self {
        match self.how {
            How::Delay { delay_ms, bounds } => {
                Self { how: How::Delay { delay_ms: delay_ms.saturating_sub(elapsed_ms), bounds }, ..self }
            }
            How::Retain { .. } | How::TooLong => self,
        }
    }
}

impl Keeper {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.shard.into());
        self.keep.encode(out);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { shard: reader.small("shard")?, keep: Keep::decode(reader)? })
    }
}

impl Kept {
    /// The number of the change; 0 if it was none.
    #[must_use]
    pub const fn change(self) -> u64 {
        match self {
            Self::Done { change } => change,
            Self::NoRoom | Self::Unkept => 0,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done { change } => {
                out.push(1);
                out.number(*change);
            }
            Self::NoRoom => out.push(2),
            Self::Unkept => out.push(3),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        option(reader)?.ok_or(CodecError::Invalid("outcome"))
    }
}

/// An outcome that may not be there yet.
pub(crate) fn put_option(out: &mut Vec<u8>, kept: Option<&Kept>) {
    match kept {
        Some(kept) => kept.encode(out),
        None => out.push(0),
    }
}

/// As [`put_option`] has it.
pub(crate) fn option(reader: &mut Reader<'_>) -> Result<Option<Kept>, CodecError> {
    Ok(match reader.byte("outcome")? {
        0 => None,
        1 => Some(Kept::Done { change: reader.number("change")? }),
        2 => Some(Kept::NoRoom),
        3 => Some(Kept::Unkept),
        _ => return Err(CodecError::Invalid("outcome")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_proposal_has_what_fits_and_one_message_at_least() {
        let of = |sizes: &[usize]| {
            let mut room = Room::default();
            sizes.iter().take_while(|size| room.takes(**size)).count()
        };
        assert_eq!((of(&[]), of(&[1 << 30]), of(&[1 << 30, 0])), (0, 1, 1));
        assert_eq!(of(&[MOST_BYTES / 2, MOST_BYTES / 2, 1]), 2);
    }
}
