//! Members of durable shared groups that do not acknowledge in time: what they have of these goes to others (MQTT 5, 4.8.2).
//!
//! A member may be connected and hang. What it was sent with QoS 1 and has not acknowledged after `mqtt.sharedSubscription.acknowledgeTimeout` goes back to its group, and so does, while
//! it takes nothing for as long, what it was not sent. The shard gives it one message at a time from then on, until it acknowledges one.

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
    /// The numbers of messages with QoS 1, in their order, and when they were sent.
    sent: VecDeque<(u64, u64)>,
    /// Since when it takes nothing.
    blocked_since: Option<u64>,
}

impl Unacknowledged {
    /// A message was sent.
    pub(super) fn sent(&mut self, seq: u64, now_ms: u64) {
        self.sent.push_back((seq, now_ms));
        self.blocked_since = None;
    }

    /// The client takes nothing now.
    pub(super) fn blocked(&mut self, now_ms: u64) {
        self.blocked_since.get_or_insert(now_ms);
    }

    /// The client has answered a message.
    pub(super) fn settled(&mut self, seq: u64) {
        self.blocked_since = None;
        if let Ok(at) = self.sent.binary_search_by_key(&seq, |(seq, _)| *seq) {
            self.sent.remove(at);
        }
    }

    fn is_over(&self) -> bool {
        self.sent.is_empty() && self.blocked_since.is_none()
    }

    /// The numbers that were sent too long ago, and, where the client takes nothing for as long, all after the last one `given` to the connection. Each once.
    pub(super) fn late(&mut self, now_ms: u64, within_ms: u64, given: u64) -> Vec<SeqRange> {
        let over = |since: u64| since + within_ms <= now_ms;
        let mut late: Vec<SeqRange> = Vec::new();
        while let Some((seq, _)) = self.sent.pop_front_if(|(_, since)| over(*since)) {
            match late.last_mut() {
                Some(range) if range.last + 1 == seq => range.last = seq,
                _ => late.push(SeqRange { first: seq, last: seq }),
            }
            if late.len() >= PORTION {
                return late;
            }
        }
        if self.blocked_since.is_some_and(over) {
            self.blocked_since = Some(now_ms);
            late.push(SeqRange { first: given + 1, last: u64::MAX });
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
        let seqs = durable.late(now_ms, within);
        if seqs.is_empty() {
            return true;
        }
        let id = name(&entry.id);
        let Some(session) = session_in(&entry.state, &mut self.conns) else { return false };
        if shared_filters(session).is_empty() {
            return true;
        }
        tracing::debug!(client = %id.id, ?seqs, "not acknowledged in time: others of its shared subscriptions get it");
        self.push_to_shard(shard, Op::Return { client: id, epoch, seqs }, Waiting::Returned);
        true
    }

    /// The shard has given so many messages to others.
    pub(super) fn returned(&self, count: u32) {
        (0..count).for_each(|_| self.counters.shared_redispatched());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late() {
        let mut of = Unacknowledged::default();
        let ranges = |late: Vec<SeqRange>| late.into_iter().map(|range| (range.first, range.last)).collect::<Vec<_>>();
        for (seq, at) in [(3, 0), (4, 0), (6, 10), (7, 20), (8, 30)] {
            of.sent(seq, at);
        }
        of.settled(7);
        of.settled(5);
        assert_eq!(of.late(99, 100, 8), []);
        assert_eq!(ranges(of.late(110, 100, 8)), [(3, 4), (6, 6)]);
        // Once.
        assert_eq!(of.late(120, 100, 8), []);
        of.blocked(50);
        of.blocked(149);
        assert_eq!(ranges(of.late(150, 100, 8)), [(8, 8), (9, u64::MAX)]);
        assert_eq!(of.late(200, 100, 8), []);
        assert!(!of.is_over());
        // It is asked again while it takes nothing, and not once it does.
        assert_eq!(ranges(of.late(250, 100, 8)), [(9, u64::MAX)]);
        of.settled(4);
        assert_eq!(of.late(900, 100, 8), []);
        assert!(of.is_over());
        of.blocked(900);
        of.sent(10, 901);
        assert_eq!(ranges(of.late(1_001, 100, 10)), [(10, 10)]);
        (0..2 * PORTION as u64).for_each(|number| of.sent(20 + 2 * number, 0));
        assert_eq!((of.late(9_999, 1, 0).len(), of.late(9_999, 1, 0).len()), (PORTION, PORTION));
    }
}
