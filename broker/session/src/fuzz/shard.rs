//! The shard of a durable session and the node that serves its client, as far as the session machine is concerned: what is proposed is
//! committed later, in order, or lost with the connection.

use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroU16,
};

use raftmq_mqtt::QoS;

use super::message;
use crate::{Action, Connection, Granted, GrantedDelivery, Now, PublishToken, Settlement};

/// Identifiers come round soon.
const IDS: u64 = 13;
/// Sequence numbers that are granted at once, at least.
const GRANT: u64 = 3;

/// A message of the queue, until it is acknowledged and all before it.
struct Entry {
    number: u32,
    qos: QoS,
    received: bool,
    done: bool,
}

/// What is proposed.
enum Op {
    Ack(u64),
    Rec(u64),
    Grant(u64),
    Receive {
        id: u16,
        number: u32,
        token: PublishToken,
    },
    /// Whether the identifier was known, when it is committed.
    Release {
        id: u16,
        known: bool,
    },
}

pub(super) struct Shard {
    entries: VecDeque<Entry>,
    /// The sequence number of the first entry.
    floor: u64,
    granted: u64,
    /// Up to here a message may have been sent to an earlier connection.
    dup_to: u64,
    /// Identifiers of the client's messages.
    inbound: BTreeSet<u16>,
    log: VecDeque<Op>,
    /// The next sequence number to be sent on this connection.
    cursor: u64,
    asked: bool,
    /// The client's messages, each when it was committed.
    pub(super) published: Vec<u32>,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            floor: 1,
            granted: 0,
            dup_to: 0,
            inbound: BTreeSet::new(),
            log: VecDeque::new(),
            cursor: 1,
            asked: false,
            published: Vec::new(),
        }
    }

    /// A new connection: a part of what the old one has proposed was committed, the rest is of an epoch that is over. Gives the identifiers of
    /// the client that are known.
    pub(super) fn claim(&mut self, committed: usize) -> Vec<NonZeroU16> {
        for _ in 0..committed % (self.log.len() + 1) {
            self.apply();
        }
        self.log.clear();
        (self.cursor, self.dup_to, self.asked) = (self.floor, self.granted, false);
        self.inbound.iter().filter_map(|id| NonZeroU16::new(*id)).collect()
    }

    /// A message for the session; whether its queue takes it.
    pub(super) fn offer(&mut self, number: u32, qos: QoS, most: usize) -> bool {
        let takes = self.entries.len() < most;
        if takes {
            self.entries.push_back(Entry { number, qos, received: false, done: false });
        }
        takes
    }

    /// Takes what the connection asks of the shard; gives other actions back.
    pub(super) fn propose(&mut self, action: Action) -> Option<Action> {
        self.log.push_back(match action {
            Action::Received { packet_id, message, token } => {
                let number = u32::from_be_bytes(message.payload().try_into().expect("four bytes"));
                Op::Receive { id: packet_id.get(), number, token }
            }
            Action::Released { packet_id } => Op::Release { id: packet_id.get(), known: false },
            Action::Settled { packet_id, what } => {
                let seq = (self.floor..self.cursor).find(|seq| id_of(*seq) == packet_id && !self.entry(*seq).done);
                let seq = seq.expect("what is settled was sent on this connection");
                let entry = self.entry(seq);
                match what {
                    Settlement::Acked => assert!(entry.qos == QoS::AtLeastOnce),
                    Settlement::Received => assert!(entry.qos == QoS::ExactlyOnce && !entry.received),
                    Settlement::Completed => assert!(entry.received),
                    Settlement::Refused => panic!("the client refuses nothing"),
                }
                if what == Settlement::Received { Op::Rec(seq) } else { Op::Ack(seq) }
            }
            other => return Some(other),
        });
        None
    }

    /// Commits what was proposed first, and tells the connection.
    pub(super) fn commit(&mut self, connection: &mut Connection, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        match self.apply() {
            Some(Op::Rec(seq)) => connection.on_granted_release(id_of(seq), out, actions),
            Some(Op::Receive { token, .. }) => {
                connection.on_published(token, raftmq_mqtt::ReasonCode::Success, out, actions);
            }
            Some(Op::Release { id, known }) => {
                connection.on_released(NonZeroU16::new(id).expect("above 0"), known, out, actions);
            }
            Some(Op::Grant(_)) => self.asked = false,
            Some(Op::Ack(_)) | None => {}
        }
    }

    fn apply(&mut self) -> Option<Op> {
        let mut op = self.log.pop_front()?;
        match &mut op {
            &mut Op::Ack(seq) => {
                self.entry_mut(seq).done = true;
                while self.entries.front().is_some_and(|entry| entry.done) {
                    self.entries.pop_front();
                    self.floor += 1;
                }
            }
            &mut Op::Rec(seq) => self.entry_mut(seq).received = true,
            &mut Op::Grant(up_to) => self.granted = self.granted.max(up_to),
            &mut Op::Receive { id, number, .. } => {
                if self.inbound.insert(id) {
                    self.published.push(number);
                }
            }
            // PUBCOMP may have been lost with a connection.
            Op::Release { id, known } => *known = self.inbound.remove(id),
        }
        Some(op)
    }

    /// Sends what is granted, as far as the connection takes it, and asks for more.
    pub(super) fn send(
        &mut self,
        topics: &[&str],
        now: Now,
        connection: &mut Connection,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let last = self.floor + self.entries.len() as u64 - 1;
        while self.cursor <= last.min(self.granted) {
            let Entry { number, qos, received, done } = *self.entry(self.cursor);
            let packet_id = id_of(self.cursor);
            if received && !done {
                connection.on_granted_release(packet_id, out, actions);
            } else if !done {
                let credits = connection.credits();
                let message = message(topics[number as usize % topics.len()], qos, &number.to_be_bytes(), None);
                let (identifiers, lifetime_ms) = (&[][..], None);
                let dup = self.cursor <= self.dup_to;
                let granted =
                    Granted { packet_id, message: &message, qos, retain: false, dup, identifiers, lifetime_ms };
                let delivery = connection.on_granted(now, &granted, out);
                if credits == 0 {
                    assert_eq!(delivery, GrantedDelivery::NoCredit);
                    break;
                }
                assert_eq!((delivery, connection.credits()), (GrantedDelivery::Sent, credits - 1));
                // The worker gives it again by mistake.
                let again = connection.on_granted(now, &granted, out);
                assert_eq!(again, GrantedDelivery::UnderWay);
            }
            self.cursor += 1;
        }
        // An identifier is of one message in use.
        let up_to = (self.cursor + GRANT).min(self.floor + IDS - 1);
        if self.cursor <= last && self.cursor > self.granted && up_to > self.granted && !self.asked {
            self.asked = true;
            self.log.push_back(Op::Grant(up_to));
        }
    }

    /// PUBREL is sent for what is received on the disks of a quorum, and for nothing else.
    pub(super) fn may_release(&self, id: NonZeroU16) -> bool {
        self.entries.iter().zip(self.floor..).any(|(entry, seq)| id_of(seq) == id && entry.received)
    }

    /// PUBREC as long as the identifier is there, PUBCOMP when it is not.
    pub(super) fn has(&self, id: NonZeroU16) -> bool {
        self.inbound.contains(&id.get())
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.entries.is_empty() && self.log.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_at_rest() && self.inbound.is_empty()
    }

    fn entry(&self, seq: u64) -> &Entry {
        &self.entries[(seq - self.floor) as usize]
    }

    fn entry_mut(&mut self, seq: u64) -> &mut Entry {
        &mut self.entries[(seq - self.floor) as usize]
    }
}

fn id_of(seq: u64) -> NonZeroU16 {
    NonZeroU16::new((seq % IDS) as u16 + 1).expect("above 0")
}
