//! Durable sessions of a cluster: their queue is in their shard, and this worker has what is under way to a connected client.
//!
//! Messages above QoS 0 come from the shard's state as this node's replica has it, in the order of their numbers and under the identifiers that follow from these; numbers
//! are granted ahead of their use. What the client answers goes to the shard: PUBACK and PUBCOMP in batches, since a message whose acknowledgement is lost comes again;
//! PUBREC at once, since PUBREL waits for it.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;

use raftmq_cluster::{BarrierError, LaneError, RemoteQueue, Shards};
use raftmq_mqtt::{Message, QoS, ReasonCode};
use raftmq_planted::{Bug, planted};
use raftmq_routing::{FilterKind, SubscriptionIndex};
use raftmq_session::{
    Action, CloseReason, Granted, GrantedDelivery, PublishToken, Settlement, SubscribeItem, SubscriptionInfo,
};
use raftmq_shard::{
    Bounds, Op, OpAnswer, Sent, SeqRange, Subscribed, Subscription, Unsubscribed, group_name, packet_id,
};
use tokio::sync::oneshot;

use super::connection::count_as;
use super::messages::EXCLUSIVE;
use super::publish::Reach;
use super::shards::{NAMESPACE, Outcome, Waiting, name};
use super::wheel::Key;
use super::{ClientState, Worker};
use crate::metrics::PublishRefusal;

/// Numbers that are granted ahead of the last one that is in use.
const AHEAD: u64 = 256;
/// Messages read at once, and about their bytes.
const PORTION: usize = 64;
const PORTION_BYTES: usize = 256 << 10;
/// Acknowledgements that are handed over without waiting for the next tick.
const ACKS: usize = 64;
/// A publisher whose message is not committed within that time is disconnected: it sends the message again elsewhere.
const COMMIT_MS: u64 = 10_000;

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
    /// Where its queue is read while its shard has no replica here.
    remote: RemoteQueue,
}

impl Durable {
    /// The last number that was given to the connection.
    pub(super) fn given(&self) -> u64 {
        self.after
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

    fn ack(&mut self, seq: u64) {
        match self.acks.last_mut() {
            Some(range) if range.last + 1 == seq => range.last = seq,
            _ => self.acks.push(SeqRange { first: seq, last: seq }),
        }
    }
}

/// The packet identifier of a number: the same on every connection.
fn identifier(seq: u64, epoch: u64) -> Option<NonZeroU16> {
    let seq = if planted(Bug::ResendOtherId) { seq + epoch } else { seq };
    NonZeroU16::new(packet_id(seq))
}

/// A message on its way into shards.
#[derive(Default)]
pub(super) struct Publishing {
    /// Whose it is, and what is to be answered.
    publisher: RefCell<Option<(Key, Option<PublishToken>, ReasonCode)>>,
    /// Shards that have not answered.
    left: Cell<u32>,
    failed: Cell<bool>,
    /// A shard had no room for it.
    refused: Cell<bool>,
    /// It goes to others, too, than durable sessions.
    live: Cell<bool>,
    /// Durable sessions that it was for, and those of them whose queue did not take it.
    matched: Cell<u32>,
    dropped: Cell<u32>,
}

impl Publishing {
    /// It goes to others, too.
    pub(super) fn goes_live(&self) {
        self.live.set(true);
    }

    /// Nobody has it, and some would have had it.
    fn nobody_took_it(&self) -> bool {
        !self.live.get() && self.matched.get() > 0 && self.dropped.get() == self.matched.get()
    }

    /// It was answered in another way. Whether its publisher still waited.
    pub(super) fn end(&self) -> bool {
        self.left.set(0);
        self.publisher.borrow_mut().take().is_some()
    }
}

impl Worker {
    /// The shards that want a message get it; `None` if there are none.
    pub(super) fn publish_to_shards(
        &mut self,
        message: &Message,
        shards: &[u16],
        except: Option<u16>,
    ) -> Option<Rc<Publishing>> {
        let count = shards.iter().filter(|shard| except != Some(**shard)).count();
        if count == 0 || message.qos() == QoS::AtMostOnce || self.desk.is_none() {
            return None;
        }
        let publishing = Rc::new(Publishing::default());
        publishing.left.set(u32::try_from(count).unwrap_or(u32::MAX));
        for shard in shards.iter().filter(|shard| except != Some(**shard)) {
            let op = Op::Publish { namespace: NAMESPACE, message: message.clone() };
            self.push_to_shard(*shard, op, Waiting::Published(Rc::clone(&publishing)));
        }
        Some(publishing)
    }

    /// The publisher waits for the shards.
    pub(super) fn wait_for_shards(
        &mut self,
        key: Key,
        publishing: &Rc<Publishing>,
        token: PublishToken,
        reason: ReasonCode,
    ) {
        *publishing.publisher.borrow_mut() = Some((key, Some(token), reason));
        if publishing.left.get() == 0 || planted(Bug::AckBeforeCommit) {
            return self.committed(publishing);
        }
        self.committing.push_back((self.node.clock.ms() + COMMIT_MS, Rc::clone(publishing)));
        self.stall_for_shards(key);
    }

    /// A publisher is not read while too much for the shards has no room.
    pub(super) fn stall_for_shards(&mut self, key: Key) {
        if self.desk.as_ref().is_some_and(|desk| desk.is_long())
            && let Some(conn) = self.conns.get_mut(key)
            && !conn.stalled
        {
            conn.stalled = true;
            self.shard_stalled.push(key);
        }
    }

    pub(super) fn published_to_shard(&mut self, publishing: &Rc<Publishing>, outcome: &Outcome) {
        match outcome {
            Ok(OpAnswer::Published { matched, dropped }) => {
                publishing.matched.set(publishing.matched.get().saturating_add(*matched));
                publishing.dropped.set(publishing.dropped.get().saturating_add(*dropped));
            }
            Ok(OpAnswer::Done) => {}
            Ok(OpAnswer::NoRoom) => publishing.refused.set(true),
            _ => publishing.failed.set(true),
        }
        let left = publishing.left.get().saturating_sub(1);
        publishing.left.set(left);
        if left == 0 && publishing.publisher.borrow().is_some() {
            self.committed(publishing);
        }
    }

    /// All shards have answered.
    fn committed(&mut self, publishing: &Publishing) {
        let Some((key, token, reason)) = publishing.publisher.borrow_mut().take() else {
            return;
        };
        if publishing.failed.get() {
            return self.close(key, CloseReason::Server(ReasonCode::ServerUnavailable));
        }
        if publishing.refused.get() {
            self.counters.publish_refused(PublishRefusal::Quota);
        }
        let refused = publishing.refused.get() || publishing.nobody_took_it();
        // MQTT 3 cannot be told: it would have to be disconnected, and would send it again.
        let told =
            self.conns.get_mut(key).is_some_and(|conn| conn.session.version().is_some_and(|version| version.is_v5()));
        let reason = if refused && told { ReasonCode::QuotaExceeded } else { reason };
        if let Some(token) = token {
            self.acknowledge_publish(key, token, reason);
        }
    }

    /// Hands a message to the shard that publishes it after a delay. `None`: there are no shards, it is this node's to keep.
    pub(super) fn delay_in_shard(&mut self, message: &Message, delay_ms: u64) -> Option<Rc<Publishing>> {
        if !self.in_shards() {
            return None;
        }
        let settings = &self.node.features.delayed.settings;
        let desk = self.desk.as_ref()?;
        let count = u64::from(desk.shards.count()).max(1);
        let shard = desk.shards.shard_of(NAMESPACE, message.topic())?;
        let bounds = Bounds {
            messages: (settings.max_messages as u64).div_ceil(count),
            bytes: (settings.max_bytes as u64).div_ceil(count),
        };
        let publishing = Rc::new(Publishing::default());
        publishing.left.set(1);
        let op = Op::Delay { namespace: NAMESPACE, message: message.clone(), delay_ms, bounds };
        self.push_to_shard(shard, op, Waiting::Published(Rc::clone(&publishing)));
        Some(publishing)
    }

    fn acknowledge_publish(&mut self, key: Key, token: PublishToken, reason: ReasonCode) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.on_published(token, reason, out, &mut actions);
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
        // It may have been held back until this was answered.
        self.wake(key);
    }

    /// As [`Worker::wait_for_shards`], for something that is answered in another way, or not at all: its publisher is disconnected if that takes too long.
    pub(super) fn watch_commit(&mut self, key: Key, token: Option<PublishToken>) -> Rc<Publishing> {
        let watched = Rc::new(Publishing::default());
        *watched.publisher.borrow_mut() = Some((key, token, ReasonCode::Success));
        watched.left.set(1);
        self.committing.push_back((self.node.clock.ms() + COMMIT_MS, Rc::clone(&watched)));
        watched
    }

    /// Publishers whose messages are not committed in time are disconnected.
    pub(super) fn end_late_commits(&mut self) {
        let now = self.node.clock.ms();
        while self.committing.front().is_some_and(|(due, publishing)| *due <= now || publishing.left.get() == 0) {
            let Some((_, publishing)) = self.committing.pop_front() else { break };
            let publisher = publishing.publisher.borrow_mut().take();
            if let Some((key, ..)) = publisher {
                tracing::debug!("a message was not committed in time, its publisher is disconnected");
                self.close(key, CloseReason::Server(ReasonCode::ServerUnavailable));
            }
        }
    }

    /// A message with QoS 2 of a client with a durable session: the shard has its identifier before PUBREC is sent.
    pub(super) fn receive_durable(
        &mut self,
        key: Key,
        id: NonZeroU16,
        message: Message,
        token: PublishToken,
        actions: &mut Vec<Action>,
    ) {
        let special =
            message.topic_bytes().first() == Some(&b'$') || message.retain() || self.rules.rewriter.publishes();
        let Some((client, epoch, shard)) = self.owner_of(key).filter(|_| !special) else {
            return self.publish(key, message, Some(token), actions);
        };
        if self.behind_retained(key, &message, Some(token), Some(id)) {
            return;
        }
        let mut destinations: Vec<u32> =
            self.cache.lookup(message.topic()).shards().iter().copied().map(u32::from).collect();
        destinations.dedup();
        let op = Op::Receive2 { client, epoch, packet_id: id.get(), message: message.clone(), destinations };
        self.push_to_shard(shard, op, Waiting::Received(Box::new((key, token, message))));
    }

    /// The shard has the identifier of a message with QoS 2. Live subscribers get it now, in the order of the answers; once, since a repeated one is a duplicate.
    pub(super) fn received_durable(&mut self, key: Key, token: PublishToken, message: &Message, outcome: &Outcome) {
        match outcome {
            Ok(OpAnswer::Received) => {
                let now = self.node.clock.now();
                self.route(message, Reach::Live, now);
                self.acknowledge_publish(key, token, ReasonCode::Success);
            }
            Ok(OpAnswer::Duplicate) => self.acknowledge_publish(key, token, ReasonCode::Success),
            _ => self.close(key, CloseReason::Server(ReasonCode::ServerUnavailable)),
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
            return self.close(key, CloseReason::Server(ReasonCode::ServerUnavailable));
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
    fn owner_of(&mut self, key: Key) -> Option<(raftmq_shard::Name, u64, u16)> {
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
        match what {
            Settlement::Received => {
                let seqs = vec![SeqRange { first: seq, last: seq }];
                let op = Op::Rec { client: client_name, epoch, seqs };
                self.push_to_shard(shard, op, Waiting::Recorded(key, id));
            }
            Settlement::Acked | Settlement::Completed | Settlement::Refused => {
                let first = durable.acks.is_empty();
                durable.ack(seq);
                if durable.acks.len() >= ACKS {
                    self.flush_acks(client);
                } else if first && let Some(desk) = &mut self.desk {
                    desk.unsaid.push(client);
                }
            }
        }
        self.deliver_granted(client);
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
        let Some(durable) = owner.durable.as_mut().filter(|durable| !durable.acks.is_empty()) else {
            return;
        };
        let seqs = std::mem::take(&mut durable.acks);
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
            return self.close(key, CloseReason::Server(ReasonCode::ServerUnavailable));
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
        let Some(durable) = owner.durable.as_mut() else {
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
                let (epoch, shard) = (owner.epoch, owner.shard);
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
        let (epoch, shard) = (owner.epoch, owner.shard);
        let (Some(durable), Some(desk)) = (owner.durable.as_mut(), self.desk.as_mut()) else {
            return;
        };
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.closing.is_none()) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let mut last = durable.after;
        while !durable.blocked {
            let max = conn.session.credits().clamp(1, PORTION);
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
                break;
            }
            for delivery in part.sent {
                let Some(id) = identifier(delivery.seq, epoch) else { continue };
                let out = conn.outlet.buffer(&mut self.spares);
                match delivery.sent {
                    Sent::Release => conn.session.on_granted_release(id, out, &mut actions),
                    Sent::Publish { message, qos, retain, apart, dup, identifiers, lifetime_ms } => {
                        if message.retain() && !apart {
                            let matched = || matching(&self.index, client.slot, message.topic());
                            if let Some(number) = message.change()
                                && let Some(of_topic) = desk.shards.shard_of(NAMESPACE, message.topic())
                                && self.given.covers(client.slot, message.topic(), of_topic, number, matched)
                            {
                                if durable.acks.is_empty() {
                                    desk.unsaid.push(client);
                                }
                                durable.ack(delivery.seq);
                                durable.after = delivery.seq;
                                continue;
                            }
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
                        match conn.session.on_granted(now, &granted, out) {
                            GrantedDelivery::Sent => {
                                let written = out.len() - before;
                                self.counters.messages_out(count_as(qos), 1, written);
                                if conn.outlet.is_counted(written) {
                                    self.counters.packet_out(raftmq_mqtt::PacketType::Publish);
                                }
                            }
                            GrantedDelivery::NoCredit => {
                                durable.blocked = true;
                                break;
                            }
                            GrantedDelivery::UnderWay => {}
                            GrantedDelivery::TooLarge | GrantedDelivery::Skipped => {
                                if durable.acks.is_empty() {
                                    desk.unsaid.push(client);
                                }
                                durable.ack(delivery.seq);
                            }
                        }
                    }
                }
                durable.after = delivery.seq;
            }
        }
        let wants = durable.granted < last.max(durable.after) + AHEAD / 2 && !durable.granting;
        let grant = wants.then(|| {
            durable.granting = true;
            last.max(durable.after) + AHEAD
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
        let durable = self.clients.get_mut(client).and_then(|entry| entry.owner.as_mut()?.durable.as_mut());
        if durable.is_some_and(|durable| std::mem::replace(&mut durable.blocked, false)) {
            self.deliver_granted(client);
        }
    }

    /// Publishes to the live subscribers of all nodes what a shard has decided.
    pub(super) fn publish_live(&mut self, message: &Message) {
        let now = self.node.clock.now();
        self.route(message, Reach::Live, now);
    }

    /// The subscriptions of a durable session go to its shard, too: what becomes of those is to be waited for. `None`: it has no durable session.
    pub(super) fn subscribe_in_shard(
        &mut self,
        client: Key,
        items: &[SubscribeItem],
        filters: &[(usize, Arc<str>)],
    ) -> Option<ShardBarrier> {
        let mut places = Vec::new();
        let mut subscriptions = Vec::new();
        for (at, filter) in filters {
            let Some(item) = items.get(*at) else { continue };
            if is_plain(filter) {
                places.push(*at);
                subscriptions.push((Arc::clone(filter), item.info()));
            }
        }
        let joins = self.join_in_shard(client, items, filters);
        let asked = self.put_in_shard(client, subscriptions);
        if asked.is_none() && joins.is_empty() {
            return None;
        }
        let member = name(&self.clients.get_mut(client)?.id);
        let shards = self.desk.as_ref()?.shards.clone();
        Some(ShardBarrier { shards, asked, places, joins, member })
    }

    /// A durable session becomes a member of groups whose queues are in shards: with QoS 1 and 2. What is published with QoS 0, and what it subscribes to with that,
    /// goes by members who are connected, as for all others.
    fn join_in_shard(&mut self, client: Key, items: &[SubscribeItem], filters: &[(usize, Arc<str>)]) -> Vec<Join> {
        let Some(entry) = self.clients.get_mut(client) else { return Vec::new() };
        let Some(owner) = entry.owner.as_ref().filter(|owner| owner.durable.is_some()) else { return Vec::new() };
        let (epoch, shard) = (owner.epoch, owner.shard);
        let client = name(&entry.id);
        let Some(desk) = self.desk.as_mut() else { return Vec::new() };
        let mut joins = Vec::new();
        for (at, filter) in filters {
            let Some(item) = items.get(*at).filter(|_| is_group(filter)) else { continue };
            if item.options.qos == QoS::AtMostOnce {
                // It may have been a member until now. Nobody waits for it: it comes before whatever the client does next.
                let op = Op::Unsubscribe { client: client.clone(), epoch, filters: vec![Arc::clone(filter)] };
                drop(desk.ask(shard, op));
                continue;
            }
            let Some(of_group) = desk.shards.shard_of(NAMESPACE, &group_name(filter)) else { continue };
            let op = Op::Join {
                client: client.clone(),
                epoch,
                subscription: subscription(Arc::clone(filter), &item.info()),
                shard: of_group.into(),
            };
            joins.push(Join { at: *at, group: name(filter), asked: desk.ask(shard, op) });
        }
        joins
    }

    /// A durable session has these subscriptions, by the filters that messages find them by. `None`: there are none, or it has no durable session.
    pub(super) fn put_in_shard(
        &mut self,
        client: Key,
        mut subscriptions: Vec<(Arc<str>, SubscriptionInfo)>,
    ) -> Option<(u16, oneshot::Receiver<Outcome>)> {
        let entry = self.clients.get_mut(client)?;
        let owner = entry.owner.as_ref()?;
        owner.durable.as_ref()?;
        let (epoch, shard) = (owner.epoch, owner.shard);
        let client = name(&entry.id);
        subscriptions.retain(|(filter, _)| is_plain(filter));
        let desk = self.desk.as_mut().filter(|_| !subscriptions.is_empty())?;
        let filters = subscriptions.into_iter().map(|(filter, info)| subscription(filter, &info));
        Some((shard, desk.ask(shard, Op::Subscribe { client, epoch, filters: filters.collect() })))
    }

    /// A durable session ends subscriptions: the client is answered when the shard has committed it.
    pub(super) fn unsubscribe_in_shard(
        &mut self,
        client: Key,
        filters: Vec<Arc<str>>,
    ) -> Option<oneshot::Receiver<Outcome>> {
        let entry = self.clients.get_mut(client)?;
        let owner = entry.owner.as_ref()?;
        owner.durable.as_ref()?;
        let (epoch, shard) = (owner.epoch, owner.shard);
        let client = name(&entry.id);
        Some(self.desk.as_mut()?.ask(shard, Op::Unsubscribe { client, epoch, filters }))
    }
}

/// How many subscriptions of a client match a topic.
fn matching(index: &SubscriptionIndex<SubscriptionInfo>, slot: u32, topic: &str) -> usize {
    let mut count = 0;
    index.matches(topic, |of, _| count += usize::from(of & !EXCLUSIVE == slot));
    count
}

fn subscription(filter: Arc<str>, info: &SubscriptionInfo) -> Subscription {
    Subscription {
        filter,
        qos: info.options.qos,
        no_local: info.options.no_local,
        retain_as_published: info.options.retain_as_published,
        identifier: info.sub_id,
    }
}

impl Worker {
    /// A durable session is no member any more of some groups that it has unsubscribed from: waits until their shards know that, and every node where that was the last one.
    pub(super) fn left_groups(
        &mut self,
        client: Key,
        filters: &[Arc<str>],
        outcomes: &[Unsubscribed],
    ) -> impl Future<Output = ()> + use<> {
        let noted = |(filter, outcome): (&Arc<str>, &Unsubscribed)| {
            if let Unsubscribed::Left { note } = *outcome { Some((name(filter), note)) } else { None }
        };
        let groups: Vec<_> = filters.iter().zip(outcomes).filter_map(noted).collect();
        let member = self.clients.get_mut(client).map(|entry| name(&entry.id));
        let shards = self.desk.as_ref().map(|desk| desk.shards.clone());
        async move {
            let (Some(member), Some(shards)) = (member, shards) else { return };
            let left = groups.iter().map(|(group, note)| shards.left(group, &member, *note));
            // What is published until it is known waits in a queue that ends. Nobody promised it to a group without members.
            for result in futures::future::join_all(left).await {
                if let Err(error) = result {
                    tracing::debug!(%error, "a group's shard does not say that a member has left");
                }
            }
        }
    }
}

/// Whether a filter is of a group that may have a queue in a shard.
fn is_group(filter: &str) -> bool {
    matches!(FilterKind::of(filter), FilterKind::Shared { queue: false, .. })
}

/// Whether a filter is of one session alone.
fn is_plain(filter: &str) -> bool {
    matches!(FilterKind::of(filter), FilterKind::Plain(plain) if *plain == *filter)
}

/// A SUBSCRIBE on its way into a shard.
pub(super) struct ShardBarrier {
    shards: Shards,
    /// The session's shard, where it was asked for the subscriptions at these places.
    asked: Option<(u16, oneshot::Receiver<Outcome>)>,
    places: Vec<usize>,
    joins: Vec<Join>,
    member: raftmq_shard::Name,
}

/// A subscription to a group.
struct Join {
    at: usize,
    group: raftmq_shard::Name,
    asked: oneshot::Receiver<Outcome>,
}

impl ShardBarrier {
    /// Waits until the shards have the subscriptions and every serving node knows that. Those that are refused, by their places.
    pub(super) async fn reached(self) -> Result<Vec<(usize, ReasonCode)>, BarrierError> {
        let Self { shards, asked, places, joins, member } = self;
        let plain = async {
            let mut refused = Vec::new();
            let Some((shard, asked)) = asked else { return Ok(refused) };
            let mut route = 0;
            for (at, outcome) in places.into_iter().zip(subscribed(asked).await?) {
                match refusal(&outcome) {
                    Ok(of) => route = route.max(of),
                    Err(reason) => refused.push((at, reason)),
                }
            }
            if route > 0 && !planted(Bug::SkipBarrier) {
                shards.announced(shard, route).await?;
            }
            Ok(refused)
        };
        let joins = joins.into_iter().map(|Join { at, group, asked }| {
            let (shards, member) = (&shards, &member);
            async move {
                let outcome = subscribed(asked).await?.into_iter().next().ok_or(BarrierError::NotServing)?;
                let Subscribed::Joined { note } = outcome else {
                    return Ok(refusal(&outcome).err().map(|reason| (at, reason)));
                };
                let joined = shards.joined(&group, member, note).await?;
                Ok((!joined).then_some((at, ReasonCode::QuotaExceeded)))
            }
        });
        let (plain, joined) = tokio::join!(plain, futures::future::join_all(joins));
        let mut refused: Vec<(usize, ReasonCode)> = plain?;
        for joined in joined {
            refused.extend(joined?);
        }
        Ok(refused)
    }
}

async fn subscribed(asked: oneshot::Receiver<Outcome>) -> Result<Vec<Subscribed>, BarrierError> {
    match asked.await {
        Ok(Ok(OpAnswer::Subscribed(outcomes))) => Ok(outcomes),
        Ok(Err(LaneError::Over) | Ok(_)) | Err(_) => Err(BarrierError::NotServing),
    }
}

/// The route by which a subscription gets messages, or why there is none.
fn refusal(outcome: &Subscribed) -> Result<u64, ReasonCode> {
    match outcome {
        Subscribed::New { route } | Subscribed::Replaced { route } => Ok(*route),
        Subscribed::Joined { .. } => Ok(0),
        Subscribed::TooMany => Err(ReasonCode::QuotaExceeded),
        Subscribed::Invalid => Err(ReasonCode::TopicFilterInvalid),
    }
}
