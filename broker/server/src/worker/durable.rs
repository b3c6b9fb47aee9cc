//! Durable sessions of a cluster: their queue is in their shard, and this worker has what is under way to a connected client.
//!
//! Messages above QoS 0 come from the shard's state as this node's replica has it, in the order of their numbers and under the identifiers that follow from these; numbers
//! are granted ahead of their use. What the client answers goes to the shard: PUBACK and PUBCOMP in batches, since a message whose acknowledgement is lost comes again;
//! PUBREC at once, since PUBREL waits for it. So do the identifiers of messages that it sends with QoS 2, before PUBREC.

use std::num::NonZeroU16;

use raftmq_cluster::{RemoteQueue, Shards};
use raftmq_mqtt::{Message, QoS, ReasonCode};
use raftmq_planted::{Bug, planted};
use raftmq_routing::SubscriptionIndex;
use raftmq_session::{
    Action, Connection, Forms, Granted, GrantedDelivery, Matched, Now, PublishToken, Settlement, SubscriptionInfo,
    TicketDelivery,
};
use raftmq_shard::{How, Op, OpAnswer, Sent, SeqRange, packet_id};

use super::connection::count_as;
use super::given::GivenAll;
use super::keeping::Course;
use super::late::{Overdue, Unacknowledged};
use super::messages::EXCLUSIVE;
use super::publish::Reach;
use super::retained::topic_hash;
use super::shards::{NAMESPACE, Outcome, Waiting, name};
use super::wheel::Key;
use super::{ClientState, Worker};

/// Numbers that are granted ahead of the last one that is in use.
const AHEAD: u64 = 256;
/// Messages read at once, and about their bytes.
const PORTION: usize = 64;
const PORTION_BYTES: usize = 256 << 10;
/// Acknowledgements that are handed over without waiting for the next tick.
const ACKS: usize = 64;

/// A connected client's durable session.
#[derive(Default)]
pub(super) struct Durable {
    /// The last number that was given to the connection, or needs not to be.
    after: u64,
    /// The last number that the queue was seen to have.
    last: u64,
    /// Numbers up to here are granted, as the shard said.
    granted: u64,
    /// A grant was asked for.
    granting: bool,
    /// The connection takes nothing now.
    blocked: bool,
    /// Numbers that are done with, and that the shard does not know of.
    acks: Vec<SeqRange>,
    /// What may be late.
    pub(super) unacknowledged: Unacknowledged,
    /// Whether it may have something of shared groups.
    pub(super) in_groups: bool,
    /// Where its queue is read while its shard has no replica here.
    remote: RemoteQueue,
}

impl Durable {
    /// Of a new connection.
    pub(super) fn new(in_groups: bool) -> Self {
        Self { in_groups, ..Self::default() }
    }

    /// The last number that was given to the connection.
    pub(super) fn given(&self) -> u64 {
        self.after
    }

    /// What others of shared groups are to have, since the client has not acknowledged it within so many milliseconds.
    pub(super) fn late(&mut self, now_ms: u64, within_ms: u64) -> Overdue {
        self.unacknowledged.late(now_ms, within_ms, self.after)
    }

    /// The queue was seen to have nothing that was not given.
    pub(super) fn has_caught_up(&self) -> bool {
        !self.blocked && self.after >= self.last
    }

    /// The number behind an identifier that is under way.
    fn seq(&self, id: NonZeroU16, epoch: u64) -> u64 {
        let last = identifier(self.after, epoch).map_or(0, |last| u64::from(last.get()));
        let back = (last + 65_535 - u64::from(id.get())) % 65_535;
        self.after.saturating_sub(back)
    }

    /// A number is done with. Whether it is the first one that the shard is to be told of.
    fn ack(&mut self, seq: u64) -> bool {
        let first = self.acks.is_empty();
        match self.acks.last_mut() {
            Some(range) if range.last + 1 == seq => range.last = seq,
            _ => self.acks.push(SeqRange { first: seq, last: seq }),
        }
        first
    }
}

/// A message with QoS 2 on its way to the shard of its publisher.
pub(super) struct Receiving {
    key: Key,
    id: NonZeroU16,
    token: PublishToken,
    message: Message,
    shard: u16,
}

/// The packet identifier of a number: the same on every connection.
fn identifier(seq: u64, epoch: u64) -> Option<NonZeroU16> {
    let seq = if planted(Bug::ResendOtherId) { seq + epoch } else { seq };
    NonZeroU16::new(packet_id(seq))
}

impl Worker {
    /// A message with QoS 2 of a client with a durable session: the shard has its identifier before PUBREC is sent.
    pub(super) fn receive_durable(
        &mut self,
        key: Key,
        id: NonZeroU16,
        message: Message,
        token: PublishToken,
        actions: &mut Vec<Action>,
    ) {
        let owner = self.owner_of(key).map(|owner| (owner, self.course(key, &message)));
        let ((client, epoch, shard), goes, keeper) = match owner {
            Some((owner, Course::Plain)) => (owner, None, None),
            Some((owner, Course::Kept(goes, keeper))) => (owner, Some(goes), keeper),
            Some((_, Course::Other)) | None => return self.publish(key, message, Some(token), actions),
        };
        let is_delayed = keeper.is_some_and(|keeper| matches!(keeper.keep.how, How::Delay { .. }));
        // As it came: it is looked at again from the beginning.
        if !is_delayed && self.behind_retained(key, &message, Some(token), Some(id)) {
            return;
        }
        let topic = if keeper.is_none() || is_delayed { 0 } else { topic_hash(&message) };
        let goes = goes.unwrap_or(message);
        let op = |destinations| Op::Receive2 {
            client,
            epoch,
            packet_id: id.get(),
            message: goes.clone(),
            destinations,
            keeper: keeper.map(Box::new),
        };
        if keeper.is_some() {
            let op = op(Vec::new());
            self.keep_first(key, id, token, Some(goes).filter(|_| !is_delayed), topic);
            return self.push_to_shard(shard, op, Waiting::Staged(key, id, shard));
        }
        let destinations = self.cache.lookup(goes.topic()).shards().iter().copied().map(u32::from).collect();
        let op = op(destinations);
        self.push_to_shard(shard, op, Waiting::Received(Box::new(Receiving { key, id, token, message: goes, shard })));
    }

    /// The shard has the identifier of a message with QoS 2. Live subscribers get it now, in the order of the answers; once, since a repeated one is a duplicate.
    pub(super) fn received_durable(&mut self, received: &Receiving, outcome: &Outcome) {
        let Receiving { key, id, token, message, shard } = received;
        let (key, id, token) = (*key, *id, *token);
        match outcome {
            Ok(OpAnswer::Received) => {
                let now = self.node.clock.now();
                self.route(message, Reach::Live, now);
                self.acknowledge_publish(key, token, ReasonCode::Success);
            }
            Ok(OpAnswer::Duplicate) => self.acknowledge_publish(key, token, ReasonCode::Success),
            // Another message of the client's under the same identifier, which it does not know of any more: this one counts as that.
            Ok(OpAnswer::Staged { .. }) => {
                self.keep_first(key, id, token, None, 0);
                self.staged(key, id, *shard, outcome);
            }
            _ => self.close_for_answer(key, outcome),
        }
    }

    /// PUBREL on a connection of a durable session.
    pub(super) fn release_durable(&mut self, key: Key, id: NonZeroU16) {
        match self.owner_of(key) {
            Some((client, epoch, shard)) => {
                let op = Op::Release { client, epoch, packet_id: id.get() };
                if planted(Bug::ReleaseBeforeCommit) {
                    self.push_to_shard(shard, op, Waiting::Nobody);
                    return self.released(key, id, &Ok(OpAnswer::Released { known: true }));
                }
                self.push_to_shard(shard, op, Waiting::Released(key, id));
            }
            None => self.released(key, id, &Ok(OpAnswer::Released { known: false })),
        }
    }

    pub(super) fn released(&mut self, key: Key, id: NonZeroU16, outcome: &Outcome) {
        let Ok(OpAnswer::Released { known }) = outcome else {
            return self.close_for_answer(key, outcome);
        };
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.on_released(id, *known, out, &mut actions);
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
        self.wake(key);
    }

    /// The client, epoch and shard of a connection with a place in the registry.
    pub(super) fn owner_of(&mut self, key: Key) -> Option<(raftmq_shard::Name, u64, u16)> {
        let client = self.conns.get_mut(key)?.client?;
        let entry = self.clients.get_mut(client)?;
        let owner = entry.owner.as_ref()?;
        Some((name(&entry.id), owner.epoch, owner.shard))
    }

    /// A client has answered a message of its queue.
    pub(super) fn settled(&mut self, key: Key, id: NonZeroU16, what: Settlement) {
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) else {
            return;
        };
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        let client_name = name(&entry.id);
        let Some(owner) = entry.owner.as_mut() else {
            return;
        };
        let (epoch, shard) = (owner.epoch, owner.shard);
        let Some(durable) = owner.durable.as_mut() else {
            return;
        };
        let seq = durable.seq(id, epoch);
        durable.blocked = false;
        durable.unacknowledged.settled(seq, self.read_at.ms);
        match what {
            Settlement::Received => {
                let seqs = vec![SeqRange { first: seq, last: seq }];
                let op = Op::Rec { client: client_name, epoch, seqs };
                self.push_to_shard(shard, op, Waiting::Recorded(key, id));
            }
            Settlement::Acked | Settlement::Completed | Settlement::Refused => self.done_with(client, seq),
        }
        self.deliver_granted(client);
    }

    /// A client of a clean session has answered what a group gave to it.
    pub(super) fn guest_answered(&mut self, key: Key, seq: u64) {
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) else {
            return;
        };
        let guest = self.clients.get_mut(client).and_then(|entry| entry.owner.as_mut()?.guest.as_mut());
        let Some(guest) = guest else {
            return;
        };
        guest.unacknowledged.settled(seq, self.read_at.ms);
        self.done_with(client, seq);
    }

    /// The client of a connection may take more by now: whatever it has answered, and not only what a group gave to it.
    pub(super) fn resume_guest(&mut self, client: Key) {
        let owner = self.clients.get_mut(client).and_then(|entry| entry.owner.as_mut());
        if let Some(guest) = owner.and_then(|owner| owner.guest.as_mut()) {
            guest.blocked = false;
            self.deliver_granted(client);
        }
    }

    /// A client needs a message of its queue no more.
    fn done_with(&mut self, client: Key, seq: u64) {
        let queue = self.clients.get_mut(client).and_then(|entry| entry.owner.as_mut()?.queue());
        let Some(queue) = queue else {
            return;
        };
        let first = queue.ack(seq);
        if queue.acks.len() >= ACKS {
            self.flush_acks(client);
        } else if first && let Some(desk) = &mut self.desk {
            desk.unsaid.push(client);
        }
    }

    /// Tells the shard what a client has acknowledged.
    pub(super) fn flush_acks(&mut self, client: Key) {
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        let client_name = name(&entry.id);
        let Some(owner) = entry.owner.as_mut() else {
            return;
        };
        let (epoch, shard) = (owner.epoch, owner.shard);
        let Some(queue) = owner.queue().filter(|queue| !queue.acks.is_empty()) else {
            return;
        };
        let seqs = std::mem::take(&mut queue.acks);
        self.push_to_shard(shard, Op::Ack { client: client_name, epoch, seqs }, Waiting::Nobody);
    }

    /// At each tick: acknowledgements that wait, and who could not be looked at.
    pub(super) fn say_acks(&mut self) {
        let unsaid = self.desk.as_mut().map(|desk| std::mem::take(&mut desk.unsaid)).unwrap_or_default();
        for client in unsaid {
            self.flush_acks(client);
            self.deliver_granted(client);
        }
    }

    /// The shard has a PUBREC of a client: PUBREL is sent.
    pub(super) fn recorded(&mut self, key: Key, id: NonZeroU16, outcome: &Outcome) {
        if !matches!(outcome, Ok(OpAnswer::Acked { .. })) {
            return self.close_for_answer(key, outcome);
        }
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.on_granted_release(id, out, &mut actions);
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
    }

    pub(super) fn granted(&mut self, client: Key, outcome: &Outcome) {
        let Some(owner) = self.clients.get_mut(client).and_then(|client| client.owner.as_mut()) else {
            return;
        };
        let (epoch, shard) = (owner.epoch, owner.shard);
        let Some(durable) = owner.queue() else {
            return;
        };
        durable.granting = false;
        match outcome {
            Ok(OpAnswer::Granted { up_to }) => {
                durable.granted = durable.granted.max(*up_to);
                self.deliver_granted(client);
            }
            // More waits than may be under way at once: as much as may be.
            Ok(OpAnswer::TooFar { limit }) if *limit > durable.granted => {
                durable.granting = true;
                self.grant(client, shard, epoch, *limit);
            }
            // Nothing more may be: asked again when something was acknowledged.
            _ => {}
        }
    }

    fn grant(&mut self, client: Key, shard: u16, epoch: u64, up_to: u64) {
        if let Some(entry) = self.clients.get_mut(client) {
            let op = Op::Grant { client: name(&entry.id), epoch, up_to };
            self.push_to_shard(shard, op, Waiting::Granted(client));
        }
    }

    /// Sends a connected client what its queue has for it, as far as it takes it.
    pub(super) fn deliver_granted(&mut self, client: Key) {
        if !self.is_serving() {
            // All are looked at when it does again.
            return;
        }
        let now = self.node.clock.now();
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        let client_name = name(&entry.id);
        let ClientState::Online(key) = entry.state else {
            return;
        };
        let Some(owner) = entry.owner.as_mut() else {
            return;
        };
        let (epoch, shard, guest) = (owner.epoch, owner.shard, owner.durable.is_none());
        if guest && !owner.guest_reads {
            return;
        }
        let (Some(durable), Some(desk)) = (owner.queue(), self.desk.as_mut()) else {
            return;
        };
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.closing.is_none()) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let mut last = durable.after;
        // Numbers up to here are granted, and all of them were given that there are.
        let mut exhausted = None;
        let watched = self.node.features.acknowledge_within_ms.is_some();
        while !durable.blocked {
            let room = if guest { conn.session.ticket_room() } else { conn.session.credits() };
            let max = room.clamp(1, PORTION);
            let part =
                match desk.shards.deliveries(&client_name, &mut durable.remote, durable.after, max, PORTION_BYTES) {
                    Some(Ok(Some(part))) => part,
                    Some(Ok(None)) => break,
                    Some(Err(error)) => {
                        tracing::warn!(client = %entry.id, %error, "a queue cannot be read");
                        break;
                    }
                    // The state is being written: at the next tick.
                    None => {
                        desk.unsaid.push(client);
                        break;
                    }
                };
            last = last.max(part.last);
            durable.granted = durable.granted.max(part.granted);
            durable.last = durable.last.max(part.last);
            if part.sent.is_empty() {
                exhausted = Some(part.granted);
                break;
            }
            for delivery in part.sent {
                let Some(id) = identifier(delivery.seq, epoch) else { continue };
                let out = conn.outlet.buffer(&mut self.spares);
                match delivery.sent {
                    Sent::Release => conn.session.on_granted_release(id, out, &mut actions),
                    Sent::Publish { message, qos, retain, apart, dup, identifiers, lifetime_ms } => {
                        let live = message.retain() && !apart;
                        let left_out = live && is_given(&self.given, &self.index, &desk.shards, client.slot, &message);
                        if live && !left_out {
                            self.shard_replays.note_queued(&message, client);
                        }
                        let granted = Granted {
                            packet_id: id,
                            message: &message,
                            qos,
                            retain,
                            dup,
                            identifiers: &identifiers,
                            lifetime_ms,
                        };
                        let before = out.len();
                        let given = if left_out {
                            GrantedDelivery::Skipped
                        } else if guest {
                            give_to_guest(&mut conn.session, now, &granted, delivery.seq, out)
                        } else {
                            conn.session.on_granted(now, &granted, out)
                        };
                        match given {
                            GrantedDelivery::Sent => {
                                let written = out.len() - before;
                                self.counters.messages_out(count_as(qos), 1, written);
                                if conn.outlet.is_counted(written) {
                                    self.counters.packet_out(raftmq_mqtt::PacketType::Publish);
                                }
                                if watched && apart && durable.in_groups && qos == QoS::AtLeastOnce {
                                    durable.unacknowledged.sent(delivery.seq, now.ms);
                                    desk.late.watch(client);
                                }
                            }
                            GrantedDelivery::NoCredit => {
                                durable.blocked = true;
                                if watched {
                                    durable.unacknowledged.blocked(now.ms);
                                    desk.late.watch(client);
                                }
                                break;
                            }
                            GrantedDelivery::UnderWay => {}
                            GrantedDelivery::TooLarge | GrantedDelivery::Skipped => {
                                if durable.ack(delivery.seq) {
                                    desk.unsaid.push(client);
                                }
                            }
                        }
                    }
                }
                durable.after = delivery.seq;
            }
        }
        // To a guest no more is granted than can be sent at once, and nothing before all that was granted was seen: what is granted with QoS 2 is lost to the group if the connection ends.
        let (up_to, wants) = if guest {
            let seen = exhausted.filter(|seen| *seen >= durable.granted);
            let room = conn.session.ticket_room();
            if watched && room == 0 && seen.is_some_and(|seen| seen < durable.last) {
                durable.unacknowledged.blocked(now.ms);
                desk.late.watch(client);
            }
            let up_to = durable.last.min(durable.after.max(durable.granted) + room as u64);
            (up_to, seen.is_some() && durable.granted < up_to)
        } else {
            let up_to = last.max(durable.after) + AHEAD;
            (up_to, durable.granted + AHEAD / 2 < up_to)
        };
        let wants = wants && !durable.granting;
        let grant = wants.then(|| {
            durable.granting = true;
            up_to
        });
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
        if let Some(up_to) = grant {
            self.grant(client, shard, epoch, up_to);
        }
    }

    /// All clients may have something new: after a snapshot, and where nobody looked for a while.
    pub(super) fn deliver_to_all(&mut self) {
        for client in self.clients.keys() {
            self.deliver_granted(client);
        }
    }

    /// The client of a connection may take more again.
    pub(super) fn unblock(&mut self, key: Key) {
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) else {
            return;
        };
        self.resume_guest(client);
        let durable = self.clients.get_mut(client).and_then(|entry| entry.owner.as_mut()?.durable.as_mut());
        if durable.is_some_and(|durable| std::mem::replace(&mut durable.blocked, false)) {
            self.deliver_granted(client);
        }
    }
}

/// Sends a client of a clean session what a group gave to it.
fn give_to_guest(
    session: &mut Connection,
    now: Now,
    granted: &Granted<'_>,
    seq: u64,
    out: &mut Vec<u8>,
) -> GrantedDelivery {
    // It matches as it is to be sent: what its subscription says was applied by its shard.
    let matched = Matched {
        qos: granted.qos,
        retain_as_published: granted.retain,
        sub_ids: granted.identifiers.into(),
        ..Matched::default()
    };
    let mut forms = Forms::new(granted.message.clone(), now);
    match session.deliver_ticket(&mut forms, &matched, seq, out) {
        TicketDelivery::Sent(_) => GrantedDelivery::Sent,
        TicketDelivery::NoCredit => GrantedDelivery::NoCredit,
        TicketDelivery::Skipped => GrantedDelivery::Skipped,
    }
}

/// Whether a change of what is retained comes, or came, to a client as what is retained: it, or a later one of its topic.
fn is_given(
    given: &GivenAll,
    index: &SubscriptionIndex<SubscriptionInfo>,
    shards: &Shards,
    slot: u32,
    message: &Message,
) -> bool {
    let Some(number) = message.change().filter(|_| !given.is_empty()) else { return false };
    let topic = message.topic();
    shards
        .shard_of(NAMESPACE, topic)
        .is_some_and(|shard| given.covers(slot, topic, shard, number, || matching(index, slot, topic)))
}

/// How many subscriptions of a client match a topic.
fn matching(index: &SubscriptionIndex<SubscriptionInfo>, slot: u32, topic: &str) -> usize {
    let mut count = 0;
    index.matches(topic, |of, _| count += usize::from(of & !EXCLUSIVE == slot));
    count
}
