//! A durable session's state but for its subscriptions and the entries of its queue, which are records of their own.

use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    Kept, Name,
    bits::Bits,
    codec::{CodecError, Put, Reader},
    command::{QueueLimits, limits, put_limits},
    effect::Dropped,
    keep,
};

/// How many sequence numbers may be in use at once: far below the number of packet identifiers, so that each is used once.
pub(crate) const WINDOW: u64 = 4_096;

/// What the names of groups begin with among those of clients.
pub(crate) const GROUP: char = '\0';

/// A durable session.
///
/// Sequence numbers are, from below: done (below `floor`), granted (up to `granted`: in use, or done as `done` says), done
/// again (dropped, below `front`), waiting (from `front` to below `next`, with gaps where something expired).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) client: Name,
    /// Whether the client is connected.
    pub(crate) connected: bool,
    pub(crate) limits: QueueLimits,
    pub(crate) subscriptions: u32,
    /// The next sequence number; the first is 1.
    pub(crate) next: u64,
    /// Up to here may have been sent. It may be above what there is.
    pub(crate) granted: u64,
    /// All below are done. At most `granted` + 1.
    pub(crate) floor: u64,
    /// The first above `granted` that waits, if it is below `next`; all between them are done.
    pub(crate) front: u64,
    /// Done, from `floor` to `granted`.
    pub(crate) done: Bits,
    /// Past PUBREC, from `floor` to `granted`.
    pub(crate) received: Bits,
    /// Up to here may have been sent to an earlier connection: DUP.
    pub(crate) dup_to: u64,
    /// Messages in the queue, and their bytes; of which some wait.
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
    pub(crate) waiting: u32,
    pub(crate) waiting_bytes: u64,
    /// Messages in the queue that have an expiry.
    pub(crate) expiring: u32,
    /// Messages in the block of the last sequence number: none, and there is no such block.
    pub(crate) in_tail: u8,
    /// Dropped, by reason.
    pub(crate) dropped: [u64; 3],
    /// Packet identifiers of QoS 2 messages from the client that it has not released, in order.
    pub(crate) inbound: SmallVec<[u16; 4]>,
    /// Those of them that a shard has to keep before PUBREC, in the order in which they came: the number of the message, and what became of it.
    pub(crate) staged: Vec<(u16, u64, Option<Kept>)>,
    /// Shared groups that it is a member of, and messages of theirs in its queue.
    pub(crate) memberships: u32,
    pub(crate) held: u32,
}

impl Session {
    pub(crate) fn new(client: Name, limits: QueueLimits) -> Self {
        Self {
            client,
            connected: true,
            limits,
            subscriptions: 0,
            next: 1,
            granted: 0,
            floor: 1,
            front: 1,
            done: Bits::default(),
            received: Bits::default(),
            dup_to: 0,
            messages: 0,
            bytes: 0,
            waiting: 0,
            waiting_bytes: 0,
            expiring: 0,
            in_tail: 0,
            dropped: [0; 3],
            inbound: SmallVec::new(),
            staged: Vec::new(),
            memberships: 0,
            held: 0,
        }
    }

    /// Whether this is the queue of a shared group: no client identifier begins as its name does (`[MQTT-1.5.4-2]`).
    pub(crate) fn is_group(&self) -> bool {
        self.client.id.starts_with(GROUP)
    }

    /// The last sequence number in use.
    pub(crate) fn last_in_use(&self) -> u64 {
        self.granted.min(self.next - 1)
    }

    /// A connection ended: nothing above what there is was sent on it.
    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.granted = self.last_in_use();
        self.front = self.front.min(self.next);
    }

    /// A connection began: what is in use may have been sent before.
    pub(crate) fn resumed(&mut self, limits: QueueLimits) {
        self.disconnected();
        self.connected = true;
        self.limits = limits;
        self.dup_to = self.granted;
    }

    /// The packet identifiers of the client's that any connection answers by itself.
    pub(crate) fn answerable(&self) -> Vec<u16> {
        let staged: BTreeSet<u16> = self.staged.iter().map(|(id, ..)| *id).collect();
        self.inbound.iter().copied().filter(|id| !staged.contains(id)).collect()
    }

    /// Whether PUBREC waits for what becomes of the message in another shard.
    pub(crate) fn is_staged(&self, packet_id: u16) -> bool {
        self.staged.iter().any(|(id, ..)| *id == packet_id)
    }

    /// A packet identifier of the client's is free again. Whether it was in use.
    pub(crate) fn release(&mut self, packet_id: u16) -> bool {
        self.staged.retain(|(id, ..)| *id != packet_id);
        let at = self.inbound.binary_search(&packet_id);
        at.is_ok_and(|at| self.inbound.remove(at) == packet_id)
    }

    /// Moves the floor above what is done.
    pub(crate) fn move_floor(&mut self) {
        while self.floor <= self.granted && self.done.contains(self.floor) {
            self.floor += 1;
        }
        self.done.forget_below(self.floor);
        self.received.forget_below(self.floor);
    }

    pub(crate) fn count_dropped(&mut self, reason: Dropped) {
        self.dropped[reason as usize] += 1;
    }

    pub(crate) fn heap(&self) -> usize {
        let inbound = if self.inbound.spilled() { self.inbound.capacity() * 2 } else { 0 };
        let staged = self.staged.capacity() * size_of::<(u16, u64, Option<Kept>)>();
        self.client.id.len() + 16 + self.done.heap() + self.received.heap() + inbound + staged
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.client.namespace.into());
        out.slice(self.client.id.as_bytes());
        out.flag(self.connected);
        put_limits(out, &self.limits);
        let numbers = [self.next, self.granted, self.floor, self.front, self.dup_to, self.bytes, self.waiting_bytes];
        numbers.into_iter().for_each(|number| out.number(number));
        let counts = [self.subscriptions, self.messages, self.waiting, self.expiring, self.in_tail.into()];
        counts.into_iter().for_each(|number| out.number(number.into()));
        self.done.encode(out);
        self.received.encode(out);
        self.dropped.into_iter().for_each(|number| out.number(number));
        out.count(self.inbound.len());
        self.inbound.iter().for_each(|id| out.number((*id).into()));
        out.count(self.staged.len());
        for (packet_id, message, kept) in &self.staged {
            out.number((*packet_id).into());
            out.number(*message);
            keep::put_option(out, kept.as_ref());
        }
        out.number(self.memberships.into());
        out.number(self.held.into());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let namespace = reader.small("namespace")?;
        let client = Name { namespace, id: Arc::from(reader.text("client identifier")?) };
        let connected = reader.flag("connected")?;
        let mut session = Self { connected, ..Self::new(client, limits(reader)?) };
        for number in [
            &mut session.next,
            &mut session.granted,
            &mut session.floor,
            &mut session.front,
            &mut session.dup_to,
            &mut session.bytes,
            &mut session.waiting_bytes,
        ] {
            *number = reader.number("number of a session")?;
        }
        if session.next == 0 {
            return Err(CodecError::Invalid("next sequence number"));
        }
        for count in [&mut session.subscriptions, &mut session.messages, &mut session.waiting, &mut session.expiring] {
            *count = reader.small("count of a session")?;
        }
        session.in_tail = reader.small("count of a session")?;
        session.done = Bits::decode(reader)?;
        session.received = Bits::decode(reader)?;
        for number in &mut session.dropped {
            *number = reader.number("dropped messages")?;
        }
        session.inbound =
            reader.list("packet identifiers", 1 << 16, |reader| reader.small("packet identifier"))?.into();
        session.staged = reader.list("messages to be kept", 1 << 16, |reader| {
            Ok((reader.small("packet identifier")?, reader.number("message")?, keep::option(reader)?))
        })?;
        session.memberships = reader.small("memberships")?;
        session.held = reader.small("messages of groups")?;
        Ok(session)
    }
}
