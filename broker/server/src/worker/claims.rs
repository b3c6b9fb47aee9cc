//! Who is connected where, in a cluster: a CONNECT is a claim in the client's shard, and CONNACK waits for it, and until every older connection of the client is closed [MQTT-3.1.4-3],
//! on whichever node it is, or that node is fenced.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use raftmq_cluster::{Kick, Shards};
use raftmq_mqtt::ReasonCode;
use raftmq_session::{
    CloseReason, Connection, OpenRequest, OpenResult, OwnedWill, SessionState, SubscriptionEntry, SubscriptionInfo,
};
use raftmq_shard::{Claim, DropPolicy, Name, Older, Op, OpAnswer, QueueLimits, Subscription, Will, WillEnd};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::durable::Durable;
use super::publish::next_origin;
use super::shard_subscribe::is_group;
use super::shards::{Outcome, Waiting, name};
use super::wheel::Key;
use super::wills::connection_end;
use super::{ClientState, Worker, limits_of};
use raftmq_features::events::DisconnectReason;

/// A CONNECT is answered within that time, with a refusal where it must be.
pub(super) const CLAIM: Duration = Duration::from_secs(8);
/// Between two looks at whether older connections are closed.
const AGAIN: Duration = Duration::from_millis(100);
/// Between two questions to the shard whether it still knows of older connections: each is an entry of its log.
const OLDER: Duration = Duration::from_secs(1);
/// Between two looks at whether the connection that waits for a claim is still there.
const GONE: Duration = Duration::from_millis(500);

/// A connection's place in the registry.
pub(super) struct Owner {
    /// The epoch of the connection.
    pub(super) epoch: u64,
    /// The client's shard.
    pub(super) shard: u16,
    /// Its session, where that outlives the connection.
    pub(super) durable: Option<Box<Durable>>,
    /// What shared groups give to it, where its session does not.
    pub(super) guest: Option<Box<Durable>>,
    /// The state that is read has come to this connection: what an earlier one was given is not there any more.
    pub(super) guest_reads: bool,
}

impl Owner {
    /// What the shard has for the client.
    pub(super) fn queue(&mut self) -> Option<&mut Durable> {
        self.durable.as_deref_mut().or(self.guest.as_deref_mut())
    }
}

/// What a claim came to.
struct Claimed {
    epoch: u64,
    shard: u16,
    session_present: bool,
    durable: Option<Resumed>,
}

/// A durable session as its shard has it.
#[derive(Default)]
struct Resumed {
    subscriptions: Vec<SubscriptionEntry>,
    received: Vec<std::num::NonZeroU16>,
}

/// Why there is no connection.
pub(super) enum Failed {
    /// Said to the client.
    Refused(ReasonCode),
    /// The connection was taken over before it was there, or is gone.
    Gone,
}

impl Worker {
    /// Asks the client's shard; the answer to CONNECT follows. The node's own registry has the client on this worker already.
    pub(super) fn begin_claim(&mut self, key: Key, request: Box<OpenRequest>, will: Option<Box<OwnedWill>>) {
        let mut partings = 0;
        if let Some(desk) = &mut self.desk {
            *desk.claiming.entry(Arc::clone(&request.client_id)).or_default() += 1;
            partings = desk.partings;
        }
        self.do_later(Box::new(move |worker| Box::pin(claim(worker, key, request, will, partings))));
    }

    /// What a session may keep whose client came in by a listener.
    pub(super) fn queue_limits(&self, listener: u16) -> QueueLimits {
        let limits = limits_of(&self.node, &self.listeners, listener);
        QueueLimits {
            max_messages: u32::try_from(limits.max_queued_messages).unwrap_or(u32::MAX),
            max_bytes: limits.max_queued_bytes as u64,
            drop: if limits.drop_oldest { DropPolicy::Oldest } else { DropPolicy::Newest },
            max_subscriptions: u32::try_from(limits.max_subscriptions).unwrap_or(u32::MAX),
        }
    }

    /// A will as the shard keeps it.
    pub(super) fn will_for_shard(&mut self, client: &Arc<str>, will: &OwnedWill) -> Option<Will> {
        let now = self.node.clock.now();
        let message = will.message(next_origin(&mut self.origins), client, now).ok()?;
        Some(Will { message, delay_s: will.delay_s() })
    }

    fn make_claim(&mut self, key: Key, request: &OpenRequest, will: Option<&OwnedWill>) -> Option<Claim> {
        let listener = self.conns.get_mut(key)?.listener;
        let limits = self.queue_limits(listener);
        let will = will.and_then(|will| self.will_for_shard(&request.client_id, will));
        Some(Claim {
            client: name(&request.client_id),
            clean_start: request.clean_start,
            expiry_s: request.session_expiry_s,
            will,
            limits,
            durable: request.session_expiry_s > 0,
            yields: false,
        })
    }

    /// An older connection of a client is to be closed, since it has a newer one. Nothing is sent to it from here on but that it was taken over.
    pub(super) fn kicked(&mut self, kick: Kick) {
        let Kick { client, epoch, closed } = kick;
        let id = Arc::clone(&client.id);
        let key = self.by_id.get(&id).copied();
        let here = key.filter(|key| {
            let owner = self.clients.get_mut(*key).and_then(|client| client.owner.as_ref());
            owner.is_some_and(|owner| owner.epoch == epoch)
        });
        let shard = self.desk.as_ref().and_then(|desk| desk.shards.shard_of(client.namespace, &id));
        match here {
            Some(key) => {
                let op = if self.said_disconnect(key) {
                    Op::Disconnect { client, epoch, expiry_s: None, will: WillEnd::Drop }
                } else {
                    Op::Closed { client, epoch }
                };
                self.take_over(key);
                if let Some(shard) = shard {
                    self.push_to_shard(shard, op, Waiting::Nobody);
                }
            }
            // One that was here has ended: how, is on its way to the shard, and nothing may overtake it.
            None => {
                if let Some(desk) = &mut self.desk
                    && desk.claiming.contains_key(&id)
                {
                    // Its answer may be on its way.
                    desk.superseded.insert((id, epoch));
                }
            }
        }
        // Who asked may have given up.
        let _ = closed.send(());
    }

    /// Whether a client has ended its connection by DISCONNECT, which may wait behind what is not read or written yet.
    fn said_disconnect(&mut self, client: Key) -> bool {
        let Some(ClientState::Online(key)) = self.clients.get_mut(client).map(|entry| &entry.state) else {
            return false;
        };
        let key = *key;
        self.read_unlimited(key);
        self.read_last(key);
        let ended = self.conns.get_mut(key).filter(|conn| conn.closing.is_some()).and_then(|conn| conn.reason);
        ended.is_some_and(|reason| !reason.publishes_will())
    }

    /// The connection of a client ends because of a newer one elsewhere.
    pub(super) fn take_over(&mut self, client: Key) {
        if let Some(state) = self.part(client, ReasonCode::SessionTakenOver, DisconnectReason::TakenOver) {
            self.leave(client, *state);
        }
    }

    /// Closes the connection of a client, and takes the session from it: what stays only writes the last packet.
    fn part(&mut self, client: Key, reason: ReasonCode, said: DisconnectReason) -> Option<Box<SessionState>> {
        let ClientState::Online(key) = self.clients.get_mut(client)?.state else {
            return None;
        };
        let now = self.node.clock.now();
        self.announce_disconnected(key, said);
        self.close_instead(key, reason);
        let conn = self.conns.get_mut(key)?;
        conn.client = None;
        self.counters.client_disconnected(CloseReason::Server(reason).into());
        let mut rest = Connection::new(Arc::clone(&self.node.limits), now, [0; 16]);
        rest.close(CloseReason::Lost, &mut Vec::new());
        let (_, state) = std::mem::replace(&mut conn.session, rest).into_state()?;
        Some(state)
    }

    /// All members know shards from now on: who has no place in the registry connects again, and gets one. What only this node had of a
    /// session ends with it.
    pub(super) fn end_unclaimed(&mut self) {
        let mut ended = 0_usize;
        for client in self.clients.keys() {
            let Some(entry) = self.clients.get_mut(client).filter(|entry| entry.owner.is_none()) else {
                continue;
            };
            ended += 1;
            let state = match &mut entry.state {
                ClientState::Offline { state, .. } => Some(std::mem::take(state)),
                ClientState::Online(_) => {
                    let reason = ReasonCode::ServerShuttingDown;
                    self.will_of_ended(client, connection_end(CloseReason::Server(reason)), 0);
                    self.part(client, reason, DisconnectReason::Code(reason))
                }
            };
            if let Some(state) = state {
                self.forget(client, *state);
            }
        }
        if ended > 0 {
            tracing::info!(
                worker = self.id,
                sessions = ended,
                "sessions are in shards from now on: those of this node alone end"
            );
        }
    }

    /// The client's connection has ended, and its session with it or not: what this worker had of it goes.
    fn leave(&mut self, client: Key, state: SessionState) {
        if let Some(entry) = self.clients.get_mut(client) {
            // What was not said of its acknowledgements is said by who resumes it: the messages come again.
            entry.will = None;
        }
        self.forget(client, state);
    }

    /// A connection with a place in the registry has ended: the shard is told. False: it has none.
    pub(super) fn disowned(&mut self, client: Key, reason: CloseReason, state: SessionState) -> Option<SessionState> {
        self.flush_acks(client);
        let Some(entry) = self.clients.get_mut(client) else {
            return Some(state);
        };
        let Some(owner) = entry.owner.take() else {
            return Some(state);
        };
        let will = if reason.publishes_will() { WillEnd::Keep } else { WillEnd::Drop };
        let op = Op::Disconnect { client: name(&entry.id), epoch: owner.epoch, expiry_s: Some(state.expiry_s()), will };
        self.push_to_shard(owner.shard, op, Waiting::Nobody);
        self.leave(client, state);
        None
    }

    /// The claim's answer, and what follows from it.
    fn finish_claim(
        &mut self,
        key: Key,
        mut request: Box<OpenRequest>,
        will: Option<Box<OwnedWill>>,
        result: Result<Claimed, Failed>,
        partings: u64,
    ) {
        let mut actions = std::mem::take(&mut self.actions);
        let id = Arc::clone(&request.client_id);
        let may_come = |claimed: &Claimed| self.may_admit(key, &id, claimed.epoch, partings);
        let admitted = result.as_ref().is_ok_and(may_come);
        if admitted {
            // While the claim keeps the client's place on this worker.
            self.end_local(&id);
        }
        let alone = self.claim_over(&id);
        match result {
            Ok(claimed) if admitted => {
                let Claimed { epoch, shard, session_present, durable } = claimed;
                // The will is in the shard.
                drop(will);
                let durable_here = durable.is_some();
                let is_member = |known: &SubscriptionEntry| is_group(&known.filter);
                let in_groups = durable.as_ref().is_some_and(|known| known.subscriptions.iter().any(is_member));
                let result = match durable {
                    None => OpenResult::Accepted { session: None },
                    Some(Resumed { subscriptions, received }) => OpenResult::Durable {
                        session_present,
                        session: Some(Box::new(SessionState::with_subscriptions(subscriptions))),
                        received,
                    },
                };
                let owner = Owner {
                    epoch,
                    shard,
                    durable: durable_here.then(|| Box::new(Durable::new(in_groups))),
                    guest: None,
                    guest_reads: false,
                };
                request.clean_start &= !session_present;
                self.admit_claimed(key, &request, owner, result, &mut actions);
            }
            Ok(claimed) => {
                let will = WillEnd::Drop;
                let op = Op::Disconnect { client: name(&id), epoch: claimed.epoch, expiry_s: None, will };
                self.push_to_shard(claimed.shard, op, Waiting::Nobody);
                self.give_up_claim(&id, alone);
                self.close(key, CloseReason::Server(ReasonCode::SessionTakenOver));
            }
            Err(failed) => {
                self.give_up_claim(&id, alone);
                match failed {
                    Failed::Refused(reason) => self.answer(key, OpenResult::Refused(reason), &mut actions),
                    Failed::Gone => self.close(key, CloseReason::Server(ReasonCode::SessionTakenOver)),
                }
            }
        }
        if alone && let Some(desk) = &mut self.desk {
            // Also of a claim that was given up: nobody asks for it any more.
            desk.superseded.retain(|(other, _)| *other != id);
        }
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
        self.wake(key);
        self.watch(key);
    }

    /// One claim fewer is on its way. Whether it was the last of the client.
    pub(super) fn claim_over(&mut self, id: &Arc<str>) -> bool {
        let Some(desk) = &mut self.desk else {
            return true;
        };
        let Some(count) = desk.claiming.get_mut(id) else {
            return true;
        };
        *count -= 1;
        let last = *count == 0;
        if last {
            desk.claiming.remove(id);
        }
        last
    }

    /// Whether the connection is still there, and still the client's newest as far as this node knows.
    fn may_admit(&mut self, key: Key, id: &Arc<str>, epoch: u64, partings: u64) -> bool {
        let superseded = self.is_superseded(id, epoch, partings);
        self.is_waiting(key) && !superseded && self.node.is_serving()
    }

    /// Whether what was claimed when the node had parted from a quorum so often may have been taken elsewhere.
    fn is_superseded(&mut self, id: &Arc<str>, epoch: u64, partings: u64) -> bool {
        let Some(desk) = &mut self.desk else { return false };
        desk.superseded.remove(&(Arc::clone(id), epoch)) || desk.partings != partings
    }

    /// Whether a connection is still there.
    fn is_waiting(&mut self, key: Key) -> bool {
        self.conns.get_mut(key).is_some_and(|conn| conn.closing.is_none() && conn.reason.is_none())
    }

    fn give_up_claim(&mut self, id: &Arc<str>, alone: bool) {
        if alone && !self.by_id.contains_key(id) {
            self.release(id);
        }
    }
}

/// A claim that was asked for, until its connection is there.
pub(super) struct Asked {
    pub(super) shards: Shards,
    pub(super) shard: u16,
    pub(super) client: Name,
    pub(super) token: u64,
    pub(super) answer: oneshot::Receiver<Outcome>,
    /// What the shard has granted, and the older connections that are not closed yet.
    pub(super) granted: Option<(u64, Vec<Older>)>,
}

/// From a CONNECT to its answer.
async fn claim(
    worker: Rc<RefCell<Worker>>,
    key: Key,
    request: Box<OpenRequest>,
    will: Option<Box<OwnedWill>>,
    partings: u64,
) {
    let end = Instant::now() + CLAIM;
    let unavailable = Failed::Refused(ReasonCode::ServerUnavailable);
    let mut asked = None;
    let result = match timeout_at(end, claimed(&worker, key, &request, will.as_deref(), &mut asked)).await {
        Ok(result) => result,
        Err(_) => Err(unavailable),
    };
    let failed = result.is_err();
    worker.borrow_mut().finish_claim(key, request, will, result, partings);
    if failed && let Some(asked) = asked {
        take_back(&worker, asked).await;
    }
}

async fn claimed(
    worker: &Rc<RefCell<Worker>>,
    key: Key,
    request: &OpenRequest,
    will: Option<&OwnedWill>,
    pending: &mut Option<Asked>,
) -> Result<Claimed, Failed> {
    let unavailable = || Failed::Refused(ReasonCode::ServerUnavailable);
    let client = name(&request.client_id);
    // A new cluster gets its shards a moment after it can serve.
    while worker.borrow().desk.as_ref().is_some_and(|desk| desk.shards.count() == 0) {
        sleep(AGAIN).await;
    }
    let asked = {
        let mut worker = worker.borrow_mut();
        let claim = worker.make_claim(key, request, will).ok_or(Failed::Gone)?;
        let desk = worker.desk.as_mut().ok_or_else(unavailable)?;
        let shard = desk.shards.shard_of(client.namespace, &client.id).ok_or_else(unavailable)?;
        let (token, answer) = desk.ask_revocably(shard, Op::Claim(Box::new(claim)));
        pending.insert(Asked { shards: desk.shards.clone(), shard, client, token, answer, granted: None })
    };
    let answer = loop {
        tokio::select! {
            answer = &mut asked.answer => break answer,
            // It has no connection to come back to: its client is about to connect elsewhere, and is not to be taken from there.
            () = sleep(GONE) => if !worker.borrow_mut().is_waiting(key) { return Err(Failed::Gone) },
        }
    };
    let (epoch, session_present, older) = match answer {
        Ok(Ok(OpAnswer::Claimed { epoch, session_present, older })) => (epoch, session_present, older),
        other => {
            *pending = None;
            return Err(match other {
                Ok(Ok(OpAnswer::Busy)) => Failed::Refused(ReasonCode::ServerBusy),
                _ => unavailable(),
            });
        }
    };
    let (_, older) = asked.granted.insert((epoch, older));
    let (shards, shard, client) = (&asked.shards, asked.shard, &asked.client);
    close_older(worker, shards, shard, client, epoch, older).await?;
    // One that was to outlive its connection goes on, `[MQTT-3.1.2-5]`, also on a connection that it ends with.
    let durable = if request.session_expiry_s > 0 || session_present {
        // Also a new one: the replica that is read may still have the one before.
        Some(resume(shards, client, epoch, session_present).await)
    } else {
        None
    };
    Ok(Claimed { epoch, shard, session_present, durable })
}

/// A claim whose connection did not come to be. If the shard has granted it, or will yet, it has taken the client from where it was, which is carried through; then the
/// client is nowhere. Else it would be held for connected here for as long as this node lives.
pub(super) async fn take_back(worker: &Rc<RefCell<Worker>>, asked: Asked) {
    let Asked { shards, shard, client, token, answer, granted } = asked;
    let (epoch, mut older) = match granted {
        Some(granted) => granted,
        None => {
            if let Some(desk) = &mut worker.borrow_mut().desk {
                desk.withdraw(shard, token);
            }
            match answer.await {
                Ok(Ok(OpAnswer::Claimed { epoch, older, .. })) => (epoch, older),
                _ => return,
            }
        }
    };
    // Somebody else who has claimed it meanwhile carries it through. The will is that of a connection which was never there.
    let _ = close_older(worker, &shards, shard, &client, epoch, &mut older).await;
    let op = Op::Disconnect { client, epoch, expiry_s: None, will: WillEnd::Drop };
    worker.borrow_mut().push_to_shard(shard, op, Waiting::Nobody);
}

/// Waits until every older connection is closed, or its node fenced or declared down.
pub(super) async fn close_older(
    worker: &Rc<RefCell<Worker>>,
    shards: &Shards,
    shard: u16,
    client: &Name,
    epoch: u64,
    older: &mut Vec<Older>,
) -> Result<(), Failed> {
    let mut ask_at = Instant::now();
    loop {
        let kicks = older.iter().map(|one| async move { (*one, shards.kick(one, client).await) });
        let closed = futures::future::join_all(kicks).await;
        *older = closed.into_iter().filter(|(_, closed)| !closed).map(|(one, _)| one).collect();
        if older.is_empty() {
            return Ok(());
        }
        sleep(AGAIN).await;
        if Instant::now() < ask_at {
            continue;
        }
        ask_at = Instant::now() + OLDER;
        let asked = {
            let mut worker = worker.borrow_mut();
            let desk = worker.desk.as_mut().ok_or(Failed::Gone)?;
            desk.ask(shard, Op::Older { client: client.clone(), epoch })
        };
        match asked.await {
            Ok(Ok(OpAnswer::Claimed { older: left, .. })) => older.retain(|one| left.contains(one)),
            // Somebody has claimed it meanwhile.
            Ok(Ok(OpAnswer::Stale)) => return Err(Failed::Gone),
            _ => return Err(Failed::Refused(ReasonCode::ServerUnavailable)),
        }
        if older.is_empty() {
            return Ok(());
        }
    }
}

/// What the shard has of a session that is resumed, as of some moment after the claim.
async fn resume(shards: &Shards, client: &Name, epoch: u64, session_present: bool) -> Resumed {
    let session = shards.session(client, epoch, !session_present).await;
    if !session_present {
        return Resumed::default();
    }
    Resumed {
        subscriptions: session.subscriptions.into_iter().map(entry).collect(),
        received: session.received.into_iter().filter_map(std::num::NonZeroU16::new).collect(),
    }
}

fn entry(subscription: Subscription) -> SubscriptionEntry {
    let options = raftmq_mqtt::SubOptions {
        qos: subscription.qos,
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        ..raftmq_mqtt::SubOptions::default()
    };
    let info = SubscriptionInfo { options, sub_id: subscription.identifier };
    SubscriptionEntry { filter: subscription.filter, info }
}
