//! Notes about shared groups on their way to other shards, and from them: as hand-offs, each is numbered for its destination, which takes each
//! number once, and in order.

use raftmq_mqtt::Message;

use super::ShardMachine;
use crate::Note;
use crate::answer::OpAnswer;
use crate::effect::Effect;
use crate::key;
use crate::record::{Letter, Peer};
use crate::store::{Store, StoreError};

/// How many notes go in a step.
const PAGE: usize = 256;

impl<S: Store> ShardMachine<S> {
    /// A note for a shard, which may be this one. Its number.
    pub(super) fn tell(&mut self, destination: u32, letter: Letter) -> Result<u64, StoreError> {
        let key = key::note_peer(destination);
        let mut peer = self.cache.take::<Peer>(&key)?.unwrap_or_default();
        peer.sent += 1;
        let number = peer.sent;
        self.cache.put(&key::note(destination, number), letter);
        self.cache.put(&key, peer);
        self.effects.push(Effect::Note { destination });
        Ok(number)
    }

    /// The number of the last note for a shard.
    pub(super) fn notes_for(&mut self, destination: u32) -> Result<u64, StoreError> {
        Ok(self.cache.get::<Peer>(&key::note_peer(destination))?.map_or(0, |peer| peer.sent))
    }

    pub(super) fn tell_plain(&mut self, destination: u32, note: Note) -> Result<u64, StoreError> {
        self.tell(destination, Letter { note, message: None, expires_at: None })
    }

    /// A note from a shard: each number once, and in order.
    pub(super) fn note(
        &mut self,
        source: u32,
        number: u64,
        note: Note,
        message: Option<(Message, Option<u64>)>,
    ) -> Result<OpAnswer, StoreError> {
        let key = key::note_peer(source);
        let mut peer = self.cache.get::<Peer>(&key)?.cloned().unwrap_or_default();
        if number <= peer.received {
            return Ok(OpAnswer::Duplicate);
        }
        if number > peer.received + 1 {
            return Ok(OpAnswer::Gap { expected: peer.received + 1 });
        }
        peer.received = number;
        self.cache.put(&key, peer);
        match note {
            Note::Join { group, member, session, limits } => {
                self.member_joins(&group, member, (source, session), limits)?;
            }
            Note::Leave { group, session } => self.member_leaves(&group, (source, session))?,
            Note::Here { group, session, connected } => self.member_is(&group, (source, session), connected)?,
            Note::Give { group, number, seq, member, session } => match message {
                Some((message, lifetime)) => {
                    self.take_given(source, (&group, number, seq), &member, session, message, lifetime)?;
                }
                // No shard says that.
                None => drop(self.tell_plain(source, Note::Back { number, session, seq })?),
            },
            Note::Done { number, session, seq } => self.given_done((source, session), number, seq)?,
            Note::Back { number, session, seq } => self.given_back((source, session), number, seq)?,
            Note::Late { number, session, kept, seq } => self.given_late((source, session), number, seq, kept)?,
        }
        Ok(OpAnswer::Done)
    }

    /// A shard has committed the notes up to `up_to`. A bounded step: the leader says it again until all are gone.
    pub(super) fn noted(&mut self, destination: u32, up_to: u64) -> Result<OpAnswer, StoreError> {
        let key = key::note_peer(destination);
        let mut peer = self.cache.get::<Peer>(&key)?.cloned().unwrap_or_default();
        let last = up_to.min(peer.sent).min(peer.handed_off + PAGE as u64);
        for number in peer.handed_off + 1..=last {
            let key = key::note(destination, number);
            let Some(letter) = self.cache.take::<Letter>(&key)? else { continue };
            self.cache.remove(&key);
            if let Some(message) = letter.message {
                self.release_message(message)?;
            }
        }
        if last > peer.handed_off {
            peer.handed_off = last;
            self.cache.put(&key, peer);
        }
        Ok(OpAnswer::Done)
    }
}
