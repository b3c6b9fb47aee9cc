//! Members of durable shared groups that do not acknowledge in time: others get what they have, too (MQTT 5, 4.8.2).
//!
//! A member may be connected and hang. What it was sent with QoS 1 is late when it was not acknowledged within `mqtt.sharedSubscription.acknowledgeTimeout`, and nothing before it within that
//! time either: who works through what it was sent is not late. The group's shard is told, again and again; if there are others it gives them the message, and the member one message at a time
//! until it acknowledges one. What a member that takes nothing for as long was certainly not sent goes back.

use std::collections::{HashSet, VecDeque};

use raftmq_shard::{Op, SeqRange};

use super::Worker;
use super::clients::shared_filters;
use super::shards::{Waiting, name};
use super::subscribe::session_in;
use super::wheel::Key;

/// Between two looks, in milliseconds, unless the timeout is shorter than a few of them.
const LOOK_MS: u64 = 1_000;
/// Numbers in an operation.
const PORTION: usize = 256;

/// What a connected client was sent and has not acknowledged, so far as it may be of a group.
#[derive(Default)]
pub(super) struct Unacknowledged {
    /// In the order of their numbers.
    sent: VecDeque<Message>,
    /// The last number that was acknowledged, and when.
    progress: (u64, u64),
    /// Since when it takes nothing.
    blocked_since: Option<u64>,
}

/// A message with QoS 1.
struct Message {
    seq: u64,
    /// When it was sent, or said to be late.
    since: u64,
    said: bool,
}

/// What is late.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    /// Numbers of messages that were sent.
    seqs: Vec<SeqRange>,
    /// How many of them are late for the first time.
    new: u64,
    /// It takes nothing: that, after this number, was not sent at all.
    unsent_after: Option<u64>,
}

impl Unacknowledged {
    /// A message was sent.
    pub(super) fn sent(&mut self, seq: u64, now_ms: u64) {
        self.sent.push_back(Message { seq, since: now_ms, said: false });
        self.blocked_since = None;
    }

    /// The client takes nothing now.
    pub(super) fn blocked(&mut self, now_ms: u64) {
        self.blocked_since.get_or_insert(now_ms);
    }

    /// The client has answered a message.
    pub(super) fn settled(&mut self, seq: u64, now_ms: u64) {
        self.blocked_since = None;
        self.progress = (seq, now_ms);
        if let Ok(at) = self.sent.binary_search_by_key(&seq, |message| message.seq) {
            self.sent.remove(at);
        }
    }

    fn is_over(&self) -> bool {
        self.sent.is_empty() && self.blocked_since.is_none()
    }

    /// What is late, where the last number that was given to the connection is this one.
    pub(super) fn late(&mut self, now_ms: u64, within_ms: u64, given: u64) -> Overdue {
        let over = |since: u64| since.saturating_add(within_ms) <= now_ms;
        let mut late = Overdue::default();
        for message in &mut self.sent {
            let worked_on = if self.progress.0 < message.seq { self.progress.1 } else { 0 };
            if !over(message.since.max(worked_on)) {
                continue;
            }
            let full = late.seqs.len() >= PORTION;
            match late.seqs.last_mut() {
                Some(range) if range.last + 1 == message.seq => range.last = message.seq,
                _ if full => break,
                _ => late.seqs.push(SeqRange { first: message.seq, last: message.seq }),
            }
            late.new += u64::from(!message.said);
            (message.since, message.said) = (now_ms, true);
        }
        if self.blocked_since.is_some_and(over) {
            self.blocked_since = Some(now_ms);
            late.unsent_after = Some(given);
        }
        late
    }
}

/// The clients of a worker that are to be looked at.
#[derive(Default)]
pub(super) struct Late {
    clients: HashSet<Key, ahash::RandomState>,
    look_at: u64,
}

impl Late {
    /// A client was sent something, or takes nothing.
    pub(super) fn watch(&mut self, client: Key) {
        self.clients.insert(client);
    }
}

impl Worker {
    /// At each tick: whoever does not acknowledge in time gives its messages of groups to others.
    pub(super) fn return_late(&mut self, now_ms: u64) {
        let Some(within) = self.node.features.acknowledge_within_ms else { return };
        let Some(desk) = self.desk.as_mut().filter(|desk| now_ms >= desk.late.look_at) else { return };
        desk.late.look_at = now_ms + LOOK_MS.min(within / 4 + 1);
        let clients: Vec<Key> = desk.late.clients.iter().copied().collect();
        for client in clients {
            if !self.return_late_of(client, now_ms, within)
                && let Some(desk) = &mut self.desk
            {
                desk.late.clients.remove(&client);
            }
        }
    }

    /// False: there is nothing of this client to be looked at any more.
    fn return_late_of(&mut self, client: Key, now_ms: u64, within: u64) -> bool {
        let Some(entry) = self.clients.get_mut(client) else { return false };
        let Some(owner) = entry.owner.as_mut() else { return false };
        let (epoch, shard) = (owner.epoch, owner.shard);
        let Some(durable) = owner.queue().filter(|durable| !durable.unacknowledged.is_over()) else {
            return false;
        };
        let Overdue { mut seqs, new, unsent_after } = durable.late(now_ms, within);
        let id = name(&entry.id);
        let Some(session) = session_in(&entry.state, &mut self.conns) else { return false };
        if let Some(after) = unsent_after.filter(|_| !shared_filters(session).is_empty()) {
            seqs.push(SeqRange { first: after + 1, last: u64::MAX });
        }
        if seqs.is_empty() {
            return true;
        }
        tracing::debug!(client = %id.id, ?seqs, "not acknowledged in time: others of its shared subscriptions get it");
        self.push_to_shard(shard, Op::Return { client: id, epoch, seqs }, Waiting::Nobody);
        (0..new).for_each(|_| self.counters.shared_redispatched());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(late: &Overdue) -> Vec<(u64, u64)> {
        late.seqs.iter().map(|range| (range.first, range.last)).collect()
    }

    #[test]
    fn what_is_late() {
        let mut of = Unacknowledged::default();
        for (seq, at) in [(3, 0), (4, 0), (6, 10), (7, 20), (8, 30)] {
            of.sent(seq, at);
        }
        of.settled(7, 21);
        of.settled(5, 22);
        assert_eq!(of.late(99, 100, 8), Overdue::default());
        // What comes after what was acknowledged last was worked on meanwhile.
        let late = of.late(110, 100, 8);
        assert_eq!((ranges(&late), late.new, late.unsent_after), (vec![(3, 4)], 2, None));
        let late = of.late(122, 100, 8);
        assert_eq!((ranges(&late), late.new), (vec![(6, 6)], 1));
        // Said again, and counted once.
        let late = of.late(222, 100, 8);
        assert_eq!((ranges(&late), late.new), (vec![(3, 4), (6, 6), (8, 8)], 1));
        [3, 4, 6, 8].into_iter().for_each(|seq| of.settled(seq, 230));
        assert!(of.is_over());
        of.blocked(250);
        of.blocked(349);
        assert_eq!(of.late(350, 100, 8).unsent_after, Some(8));
        assert_eq!((of.late(400, 100, 8).unsent_after, of.is_over()), (None, false));
        // It is said again while it takes nothing, and not once it does.
        assert_eq!(of.late(450, 100, 8).unsent_after, Some(8));
        of.settled(4, 451);
        assert_eq!(of.late(900, 100, 8), Overdue::default());
        of.blocked(900);
        of.sent(10, 901);
        assert_eq!((ranges(&of.late(1_001, 100, 10)), of.late(1_001, 100, 10)), (vec![(10, 10)], Overdue::default()));
        of = Unacknowledged::default();
        (0..2 * PORTION as u64).for_each(|number| of.sent(20 + 2 * number, 0));
        assert_eq!((of.late(9_999, 1, 0).seqs.len(), of.late(9_999, 1, 0).seqs.len()), (PORTION, PORTION));
    }
}
