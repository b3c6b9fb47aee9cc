//! The queue of a durable session.
//!
//! A sequence number is given when a message comes, and its packet identifier follows from it, so that whoever sends it again uses
//! the same one (`[MQTT-4.4.0-1]`). What is granted may have been sent and stays until it is acknowledged; what waits may
//! expire or be dropped.

use std::collections::BTreeMap;

use super::ShardMachine;
use crate::answer::OpAnswer;
use crate::command::{DropPolicy, QueueMessage, SeqRange};
use crate::effect::{Dropped, Effect};
use crate::key;
use crate::record::{BLOCK, Block, Entry, Session, Stored, WINDOW};
use crate::store::{Store, StoreError};

/// A message that a queue may take.
pub(super) type Offer = Entry;

/// Whether a sequence number is granted, of a message that was there, and not done.
pub(crate) fn in_use(session: &Session, seq: u64) -> bool {
    seq >= session.floor && seq <= session.last_in_use() && !session.done.contains(seq)
}

/// Whether there is a sequence number to be granted.
pub(crate) fn waits(session: &Session) -> bool {
    session.waiting > 0
}

impl<S: Store> ShardMachine<S> {
    /// Puts a message at the end of a queue; whether it was taken.
    pub(super) fn enqueue(&mut self, id: u64, session: &mut Session, offer: Offer) -> Result<bool, StoreError> {
        if offer.expires_at.is_some_and(|at| at <= self.meta.now_ms) {
            self.dropped(session, Dropped::Expired);
            return Ok(false);
        }
        if is_full(session, &offer) && session.expiring > 0 {
            self.drop_expired(id, session)?;
        }
        if is_full(session, &offer) && session.limits.drop == DropPolicy::Oldest && would_help(session, &offer) {
            while is_full(session, &offer) && session.waiting > 0 {
                self.remove_entries(id, session, session.front, session.front)?;
                self.dropped(session, Dropped::Oldest);
                self.move_front(id, session)?;
            }
        }
        if is_full(session, &offer) {
            self.dropped(session, Dropped::Full);
            return Ok(false);
        }
        self.append(id, session, offer)?;
        Ok(true)
    }

    /// Puts what is retained at the end of a queue, until that is half full. Left out is that of whose topic the queue has got something newer behind a number.
    pub(super) fn queue_up(
        &mut self,
        namespace: u32,
        id: u64,
        after: u64,
        messages: Vec<QueueMessage>,
    ) -> Result<OpAnswer, StoreError> {
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        let changes = self.changes_behind(id, &session, after)?;
        let (mut taken, mut queued) = (0, false);
        for QueueMessage { message, qos, identifier, lifetime_ms } in messages {
            let change = message.change().unwrap_or(0);
            if changes.get(message.topic()).is_some_and(|newer| *newer > change) {
                taken += 1;
                continue;
            }
            let offer = Offer {
                message: self.next_message(),
                expires_at: lifetime_ms.map(|left| self.meta.now_ms.saturating_add(left)),
                bytes: u32::try_from(message.wire_len()).unwrap_or(u32::MAX),
                qos: qos as u8,
                retain: true,
                replayed: true,
                given: false,
                identifiers: (identifier > 0).then_some(identifier).into_iter().collect(),
            };
            if is_half_full(&session, &offer) {
                break;
            }
            taken += 1;
            // One that no queue of these limits can have is dropped there, and counted.
            if self.enqueue(id, &mut session, offer)? {
                self.keep_message(namespace, message, 1);
                queued = true;
            }
        }
        if queued && session.connected {
            self.effects.push(Effect::Deliver { client: session.client.clone() });
        }
        self.cache.put(&key, session);
        Ok(OpAnswer::Queued { taken })
    }

    /// The changes that came into a queue behind a number, live or as what was retained, and are there: the highest number of each topic. A message without one (a will, a delayed message) counts as the newest.
    fn changes_behind(&mut self, id: u64, session: &Session, after: u64) -> Result<BTreeMap<String, u64>, StoreError> {
        let mut changes = BTreeMap::new();
        let mut seq = after.saturating_add(1).max(session.floor);
        while seq < session.next {
            if seq > session.granted {
                seq = seq.max(session.front);
            }
            let messages: Vec<u64> = match self.cache.get::<Block>(&key::block(id, seq / BLOCK))? {
                Some(block) => {
                    let own = block.from(seq).filter(|(_, entry)| !entry.given);
                    own.map(|(_, entry)| entry.message).collect()
                }
                None => Vec::new(),
            };
            for message in messages {
                let stored = self.cache.get::<Stored>(&key::message(message))?;
                if let Some(stored) = stored.filter(|stored| stored.message.retain()) {
                    let number = stored.message.change().unwrap_or(u64::MAX);
                    let known = changes.entry(stored.message.topic().to_owned()).or_insert(number);
                    *known = number.max(*known);
                }
            }
            seq = (seq / BLOCK + 1) * BLOCK;
        }
        Ok(changes)
    }

    /// Puts a message at the end of a queue that is known to have room; its sequence number.
    pub(super) fn append(&mut self, id: u64, session: &mut Session, offer: Offer) -> Result<u64, StoreError> {
        let seq = session.next;
        let key = key::block(id, seq / BLOCK);
        // A block begins without asking the store.
        let mut block = if seq.is_multiple_of(BLOCK) || session.in_tail == 0 {
            session.in_tail = 0;
            Block::default()
        } else {
            self.cache.take(&key)?.unwrap_or_default()
        };
        session.in_tail += 1;
        session.next += 1;
        session.messages += 1;
        session.bytes += u64::from(offer.bytes);
        session.expiring += u32::from(offer.expires_at.is_some());
        if seq > session.granted {
            session.waiting += 1;
            session.waiting_bytes += u64::from(offer.bytes);
        }
        self.meta.queued += 1;
        self.meta.queued_bytes += u64::from(offer.bytes);
        block.push(seq, offer);
        self.cache.put(&key, block);
        Ok(seq)
    }

    /// PUBACK, PUBCOMP, or PUBREC with an error [MQTT5 4.3].
    pub(super) fn acknowledge(&mut self, id: u64, seqs: &[SeqRange]) -> Result<OpAnswer, StoreError> {
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        let mut count = 0;
        for range in seqs {
            let (first, last) = (range.first.max(session.floor), range.last.min(session.last_in_use()));
            if first > last {
                continue;
            }
            self.remove_entries(id, &mut session, first, last)?;
            for seq in first..=last {
                if !session.done.contains(seq) {
                    session.done.insert(seq);
                    count += 1;
                }
            }
            session.move_floor();
        }
        self.cache.put(&key, session);
        Ok(OpAnswer::Acked { count })
    }

    /// PUBREC: the message is not needed any more, its packet identifier is [MQTT5 4.3.3].
    pub(super) fn receive(&mut self, id: u64, seqs: &[SeqRange]) -> Result<OpAnswer, StoreError> {
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        let mut count = 0;
        for range in seqs {
            let (first, last) = (range.first.max(session.floor), range.last.min(session.last_in_use()));
            for seq in first..=last {
                let block = self.cache.get::<Block>(&key::block(id, seq / BLOCK))?;
                if block.and_then(|block| block.get(seq)).is_some_and(|entry| entry.qos == 2) {
                    self.remove_entries(id, &mut session, seq, seq)?;
                    session.received.insert(seq);
                    count += 1;
                }
            }
        }
        self.cache.put(&key, session);
        Ok(OpAnswer::Acked { count })
    }

    /// Messages up to `up_to` may be sent from now on. Those that have expired are dropped by that.
    pub(super) fn grant(&mut self, id: u64, up_to: u64) -> Result<OpAnswer, StoreError> {
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(OpAnswer::NoSession) };
        if up_to <= session.granted {
            let up_to = session.granted;
            self.cache.put_unchanged(&key, session);
            return Ok(OpAnswer::Granted { up_to });
        }
        // The oldest that is, or will be, in use.
        let oldest = if session.floor <= session.granted { session.floor } else { session.front };
        let limit = oldest + WINDOW - 1;
        if up_to > limit {
            self.cache.put_unchanged(&key, session);
            return Ok(OpAnswer::TooFar { limit });
        }
        if session.floor > session.granted {
            session.floor = session.front.min(up_to + 1);
            // Before anything is noted of a window that may be far above.
            session.done.forget_below(session.floor);
            session.received.forget_below(session.floor);
        }
        let last = up_to.min(session.next - 1);
        // What was dropped before; then what is there, or was dropped in between.
        let gone = session.floor.max(session.granted + 1)..session.front.min(last + 1);
        gone.for_each(|seq| session.done.insert(seq));
        let waited = session.waiting;
        let mut seq = session.front.max(session.floor);
        while seq <= last {
            let end = last.min(seq / BLOCK * BLOCK + BLOCK - 1);
            self.grant_in_block(id, &mut session, seq, end)?;
            seq = end + 1;
        }
        if session.waiting < waited {
            self.effects.push(Effect::Deliver { client: session.client.clone() });
        }
        session.granted = up_to;
        session.front = session.front.max(up_to + 1);
        self.move_front(id, &mut session)?;
        session.move_floor();
        self.cache.put(&key, session);
        Ok(OpAnswer::Granted { up_to })
    }

    /// Grants the messages from `first` to `last`, which are in one block.
    fn grant_in_block(&mut self, id: u64, session: &mut Session, first: u64, last: u64) -> Result<(), StoreError> {
        let now = self.meta.now_ms;
        let block = self.cache.get::<Block>(&key::block(id, first / BLOCK))?;
        let (mut expired, mut bytes, mut count) = (Vec::new(), 0, 0);
        for seq in first..=last {
            match block.and_then(|block| block.get(seq)) {
                None => session.done.insert(seq),
                Some(entry) if entry.expires_at.is_some_and(|at| at <= now) => expired.push(seq),
                Some(entry) => {
                    count += 1;
                    bytes += u64::from(entry.bytes);
                }
            }
        }
        for seq in expired {
            self.remove_entries(id, session, seq, seq)?;
            self.dropped(session, Dropped::Expired);
            session.done.insert(seq);
        }
        session.waiting -= count;
        session.waiting_bytes -= bytes;
        Ok(())
    }

    /// Drops what has expired among those that wait longest: as many as a block has.
    fn drop_expired(&mut self, id: u64, session: &mut Session) -> Result<(), StoreError> {
        if session.front >= session.next {
            return Ok(());
        }
        let now = self.meta.now_ms;
        let Some(block) = self.cache.get::<Block>(&key::block(id, session.front / BLOCK))? else { return Ok(()) };
        let is_over = |entry: &Entry| entry.expires_at.is_some_and(|at| at <= now);
        let expired: Vec<u64> =
            block.from(session.front).filter(|(_, entry)| is_over(entry)).map(|(seq, _)| seq).collect();
        for seq in expired {
            self.remove_entries(id, session, seq, seq)?;
            self.dropped(session, Dropped::Expired);
        }
        self.move_front(id, session)
    }

    /// Moves the front to the next message that waits. Only the block that it is in may have lost all its messages.
    pub(super) fn move_front(&mut self, id: u64, session: &mut Session) -> Result<(), StoreError> {
        if session.waiting == 0 {
            session.front = session.next.max(session.granted + 1);
        }
        while session.front < session.next {
            let block = self.cache.get::<Block>(&key::block(id, session.front / BLOCK))?;
            if let Some(first) = block.and_then(|block| block.first_from(session.front)) {
                session.front = first;
                break;
            }
            session.front = (session.front / BLOCK + 1) * BLOCK;
        }
        session.front = session.front.min(session.next.max(session.granted + 1));
        Ok(())
    }

    /// Removes the messages from `first` to `last` that are there.
    pub(super) fn remove_entries(
        &mut self,
        id: u64,
        session: &mut Session,
        first: u64,
        last: u64,
    ) -> Result<(), StoreError> {
        let mut seq = first;
        while seq <= last {
            let number = seq / BLOCK;
            let end = last.min(number * BLOCK + BLOCK - 1);
            let key = key::block(id, number);
            if let Some(mut block) = self.cache.take::<Block>(&key)? {
                for seq in seq..=end {
                    if let Some(entry) = block.remove(seq) {
                        session.messages -= 1;
                        session.bytes -= u64::from(entry.bytes);
                        session.expiring -= u32::from(entry.expires_at.is_some());
                        if seq > session.granted {
                            session.waiting -= 1;
                            session.waiting_bytes -= u64::from(entry.bytes);
                        }
                        self.meta.queued -= 1;
                        self.meta.queued_bytes -= u64::from(entry.bytes);
                        self.release_message(entry.message)?;
                        if session.held > 0 {
                            self.held_done(id, session, seq)?;
                        }
                    }
                }
                if number == (session.next - 1) / BLOCK {
                    session.in_tail = block.len() as u8;
                }
                if block.is_empty() {
                    self.cache.remove(&key);
                } else {
                    self.cache.put(&key, block);
                }
            }
            seq = end + 1;
        }
        Ok(())
    }

    pub(super) fn dropped(&mut self, session: &mut Session, reason: Dropped) {
        session.count_dropped(reason);
        self.meta.dropped[reason as usize] += 1;
        self.effects.push(Effect::Dropped { reason, count: 1 });
    }
}

/// Whether a message would take more than half of the bounds of a queue, which may have one at least.
fn is_half_full(session: &Session, offer: &Offer) -> bool {
    let (messages, bytes) = (session.limits.max_messages.div_ceil(2), session.limits.max_bytes / 2);
    // One that is larger than half would wait for an empty queue: it comes as soon as there is room.
    let fits = if u64::from(offer.bytes) > bytes { session.limits.max_bytes } else { bytes };
    session.messages > 0 && (session.messages >= messages || session.bytes + u64::from(offer.bytes) > fits)
}

/// Whether a message is too much for the bounds of a queue.
fn is_full(session: &Session, offer: &Offer) -> bool {
    session.messages >= session.limits.max_messages || session.bytes + u64::from(offer.bytes) > session.limits.max_bytes
}

/// Whether there would be room for it if nothing waited.
fn would_help(session: &Session, offer: &Offer) -> bool {
    session.messages - session.waiting < session.limits.max_messages
        && session.bytes - session.waiting_bytes + u64::from(offer.bytes) <= session.limits.max_bytes
}
