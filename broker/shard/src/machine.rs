//! The state machine of a shard: commands in, answers and effects out.

mod digest;
mod ends;
mod groups;
mod maintain;
mod members;
mod messages;
mod notes;
mod ops;
mod outbox;
mod publish;
mod queue;
mod registry;
mod retained;
mod routes;
mod stream;
mod subscribe;
mod timers;

use raftmq_planted::{Bug, planted};

use crate::answer::Answer;
use crate::cache::Cache;
use crate::codec::CodecError;
use crate::command::{Command, stamp};
use crate::effect::Effect;
use crate::index::Index;
use crate::key;
use crate::record::{META_FORMAT, Meta};
use crate::slot::{finish, fnv};
use crate::store::{Store, StoreError};

pub(crate) use members::MAX_GROUPS;
pub(crate) use queue::{in_use, waits};

/// The highest level that this program knows.
pub const KNOWN_LEVEL: u32 = 1;
/// The most by which one entry moves the time, in milliseconds: a clock that jumps does little harm. What is left comes with the next entries.
pub const MAX_STEP_MS: u64 = 60_000;
/// The latest time that a jump leads to: far enough from the end of numbers that no interval reaches that.
const MAX_TIME_MS: u64 = 1 << 62;

/// The replicated state of a shard.
///
/// It is a function of the commands applied: neither of when it was flushed, nor of what is in memory, nor of restarts.
pub struct ShardMachine<S> {
    pub(crate) cache: Cache<S>,
    pub(crate) meta: Meta,
    pub(crate) index: Index,
    effects: Vec<Effect>,
    /// The store failed within a command: what is in memory is not whole.
    poisoned: bool,
    /// Filled and emptied by each publish.
    matched: Vec<(u64, crate::record::Options)>,
}

impl<S: Store> ShardMachine<S> {
    /// The state that is in a store: a new shard's if that is empty. Entries of the log after [`ShardMachine::applied`] are to be
    /// applied then. `cache_bytes` bounds what is kept in memory of records that are in the store as they are.
    ///
    /// # Errors
    /// The store cannot be read, or has what this program does not know.
    pub fn load(store: S, cache_bytes: usize) -> Result<Self, StoreError> {
        let meta = match store.get(&key::meta())? {
            None => Meta::new(),
            Some(bytes) => {
                let damaged = |reason| StoreError::Damaged { key: key::meta().to_vec(), reason };
                match bytes.split_first() {
                    Some((&META_FORMAT, rest)) => Meta::decode(rest).map_err(damaged)?,
                    Some((&found, _)) => return Err(StoreError::Format { found, known: META_FORMAT }),
                    None => return Err(damaged(CodecError::Short("format"))),
                }
            }
        };
        let mut machine = Self {
            cache: Cache::new(store, cache_bytes),
            meta,
            index: Index::default(),
            effects: Vec::new(),
            poisoned: false,
            matched: Vec::new(),
        };
        machine.load_subscriptions()?;
        Ok(machine)
    }

    /// Applies the log's entry at `index`, appends what the leader may want to do, and gives the encoded [`Answer`]. Bytes that are no
    /// command are answered too: every replica does the same.
    ///
    /// # Errors
    /// The store cannot be read. The state in memory is not whole then, and nothing more can be done with it: the process must end.
    pub fn apply(&mut self, index: u64, command: &[u8], effects: &mut Vec<Effect>) -> Result<Vec<u8>, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        std::mem::swap(&mut self.effects, effects);
        let command = stamp(command).map(|(stamp, command)| {
            stamp.into_iter().for_each(|(term, ms)| self.move_time(term, ms));
            command
        });
        let answer = match command.and_then(Command::decode) {
            Ok(command) => self.forget_planted(index, &command).and_then(|()| self.command(command)),
            Err(CodecError::Format(format)) => Ok(Answer::Unknown { what: format.into() }),
            Err(_) => Ok(Answer::Malformed),
        };
        std::mem::swap(&mut self.effects, effects);
        self.poisoned = answer.is_err();
        let answer = answer?.encode();
        self.meta.applied = index;
        let rolling = fnv(self.meta.rolling, &index.to_le_bytes());
        self.meta.rolling = finish(answer.chunks(8).fold(rolling, fold));
        self.cache.trim();
        Ok(answer)
    }

    /// What planted bugs forget before the entry at `index` is applied.
    fn forget_planted(&mut self, index: u64, command: &Command) -> Result<(), StoreError> {
        let again = planted(Bug::ApplyTwice) && index <= self.meta.applied;
        match command {
            Command::Batch(batch) if again || planted(Bug::ForgetStream) => self.forget_applied(batch),
            _ => Ok(()),
        }
    }

    /// Hands out the changes since the last flush: each key with its value, or without if it is to be removed. They must be written
    /// to the store at once, all or nothing, before anything else is asked of the machine; if that fails, the process must end.
    ///
    /// # Errors
    /// An earlier command could not be applied.
    pub fn flush(&mut self, changes: &mut impl FnMut(&[u8], Option<&[u8]>)) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        changes(&key::meta(), Some(&self.meta.encode()));
        self.cache.flush(changes);
        Ok(())
    }

    /// The index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.meta.applied
    }

    /// About the bytes of memory that wait for being flushed.
    #[must_use]
    pub fn dirty_bytes(&self) -> usize {
        self.cache.dirty_bytes()
    }

    /// About the bytes of memory of records that are in the store as they are.
    #[must_use]
    pub fn clean_bytes(&self) -> usize {
        self.cache.clean_bytes()
    }

    /// The store, to write there what [`ShardMachine::flush`] handed out.
    #[must_use]
    pub fn store(&self) -> &S {
        self.cache.store()
    }

    /// A hash over the indexes and answers of all entries applied: replicas with the same log have the same.
    #[must_use]
    pub fn rolling_hash(&self) -> u64 {
        self.meta.rolling
    }

    fn command(&mut self, command: Command) -> Result<Answer, StoreError> {
        match command {
            Command::Open { node, lane } => self.open(node, lane),
            Command::Batch(batch) => {
                let answer = self.batch(batch)?;
                self.maintain()?;
                Ok(answer)
            }
            Command::NodeDown { node } => self.node_down(node),
            Command::Tick { wall_ms } => {
                self.meta.wall_ms = self.meta.wall_ms.max(wall_ms);
                self.maintain()?;
                self.fire_timers()?;
                Ok(Answer::Done)
            }
            Command::Jump { to_ms } => {
                self.meta.now_ms = self.meta.now_ms.max(to_ms.min(MAX_TIME_MS));
                Ok(Answer::Done)
            }
            Command::Level { level } if level > KNOWN_LEVEL => Ok(Answer::Unknown { what: level }),
            Command::Level { level } => {
                self.meta.level = self.meta.level.max(level);
                Ok(Answer::Done)
            }
            Command::Place { epoch, slots } => {
                if epoch > self.meta.map_epoch {
                    self.meta.map_epoch = epoch;
                    self.meta.slots = slots;
                }
                Ok(Answer::Done)
            }
            Command::Digest { from, limit } => self.digest(&from, limit),
            Command::Lead { ops } => {
                let mut answers = Vec::with_capacity(ops.len());
                for op in ops {
                    answers.push(self.lead(op)?);
                }
                self.maintain()?;
                Ok(Answer::Batch(answers))
            }
        }
    }

    /// The leader of a term says what its clock says.
    fn move_time(&mut self, term: u64, ms: u64) {
        let meta = &mut self.meta;
        if term > meta.clock_term {
            // It began to lead after everything that is committed of the terms before.
            (meta.clock_term, meta.clock_ms) = (term, 0);
        }
        if term == meta.clock_term && ms > meta.clock_ms {
            let step = (ms - meta.clock_ms).min(MAX_STEP_MS);
            meta.clock_ms += step;
            meta.now_ms = meta.now_ms.saturating_add(step).min(MAX_TIME_MS);
        }
    }
}

fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    finish(hash ^ u64::from_le_bytes(word)).wrapping_add(bytes.len() as u64)
}
