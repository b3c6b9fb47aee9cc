//! Messages with QoS 2 that a shard keeps before anybody gets them: to be retained, or for later.
//!
//! The publisher's shard hands such a message to that one first, and with the outcome to the shards of its subscribers: so each of them has it once, whoever dies between. The
//! outcome waits beside the packet identifier until the publisher's node asks for it ([`crate::Op::Outcomes`]), and answers PUBLISH with it.

use crate::codec::{CodecError, Put, Reader};
use crate::command::Bounds;

/// How many messages for another shard a leader hands off before it notes that they are there, and what became of them.
pub const MOST_HANDED_OFF: usize = 64;

/// What a shard does with a message that it gets from another one's outbox before subscribers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// As [`crate::Op::Retain`].
    Retain {
        /// How much the shard may retain.
        bounds: Bounds,
    },
    /// As [`crate::Op::Delay`].
    Delay {
        /// When it is published, in milliseconds from now on.
        delay_ms: u64,
        /// How much may wait in the shard.
        bounds: Bounds,
    },
}

/// The shard that has to keep a message before it goes further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeper {
    /// The shard: that of the topic.
    pub shard: u32,
    /// What it does with the message.
    pub keep: Keep,
    /// Whether the publisher can be told that there is no room, and the message goes nowhere then. Else it goes to subscribers without being kept.
    pub tell: bool,
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
    /// There was no room for it: it went to subscribers without being kept.
    Unkept,
}

impl Keep {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let bounds = match self {
            Self::Retain { bounds } => {
                out.push(1);
                bounds
            }
            Self::Delay { delay_ms, bounds } => {
                out.push(2);
                out.number(*delay_ms);
                bounds
            }
        };
        out.number(bounds.messages);
        out.number(bounds.bytes);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let kind = reader.byte("kind of keeping")?;
        let delay_ms = if kind == 2 { reader.number("delay")? } else { 0 };
        let bounds = Bounds { messages: reader.number("messages")?, bytes: reader.number("bytes")? };
        match kind {
            1 => Ok(Self::Retain { bounds }),
            2 => Ok(Self::Delay { delay_ms, bounds }),
            _ => Err(CodecError::Invalid("kind of keeping")),
        }
    }

    /// What is left to be done after so many milliseconds on the way.
    pub(crate) fn after(self, elapsed_ms: u64) -> Self {
        match self {
            Self::Delay { delay_ms, bounds } => Self::Delay { delay_ms: delay_ms.saturating_sub(elapsed_ms), bounds },
            Self::Retain { .. } => self,
        }
    }
}

impl Keeper {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.shard.into());
        self.keep.encode(out);
        out.flag(self.tell);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { shard: reader.small("shard")?, keep: Keep::decode(reader)?, tell: reader.flag("tell")? })
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
