//! A node that reaches no quorum and goes on all the same (`cluster.onQuorumLoss: serveLocal`): sessions that end with their connection are served among
//! the clients that this node reaches. Durable ones wait, and are closed with the time as on every node without a lease.
//!
//! Nobody of those who are served has a place in the cluster's registry any more once the node has been declared down, and who connects meanwhile gets none. When
//! there is a lease again each of them is claimed as at a CONNECT. Whoever has connected elsewhere stays there: what a quorum knows of a client counts more than
//! what this node alone does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use raftmq_cluster::Shards;
use raftmq_features::wills::ConnectionEnd;
use raftmq_mqtt::ReasonCode;
use raftmq_session::OpenRequest;
use raftmq_shard::{Claim, Op, OpAnswer, WillEnd};
use tokio::time::{sleep, timeout};

use super::claims::{Asked, CLAIM, Failed, Owner, close_older, take_back};
use super::shards::{Waiting, name};
use super::wheel::Key;
use super::{ClientState, NodeShared, Worker};

/// Clients of a worker that are claimed at once.
const AT_ONCE: usize = 64;
/// Between two tries of those for whom there was no answer.
const AGAIN: Duration = Duration::from_millis(250);
/// Between two looks at whether the node serves alone.
const LOOK: Duration = Duration::from_millis(50);

/// A claim of a connected client.
struct Asking {
    shards: Shards,
    shard: u16,
    claim: Claim,
    /// See [`super::shards::ShardDesk::partings`].
    partings: u64,
}

/// What a claim of a connected client came to.
enum Again {
    /// It has its place.
    Here { epoch: u64, shard: u16 },
    /// The client is connected elsewhere, or has a session there.
    Elsewhere,
    /// There was no answer in time.
    Unknown,
}

impl Worker {
    /// Whether a connection is one of a durable session, which nothing is done for without a quorum.
    pub(super) fn needs_quorum(&mut self, key: Key) -> bool {
        let client = self.conns.get_mut(key).and_then(|conn| conn.client);
        client.is_some_and(|client| self.has_durable(client))
    }

    /// Whether a client may connect while there is no quorum: with a session that ends with the connection, and not in the place of one that does not.
    pub(super) fn may_enter_alone(&mut self, request: &OpenRequest) -> bool {
        let known = self.by_id.get(&request.client_id).copied();
        request.session_expiry_s == 0 && !known.is_some_and(|client| self.has_durable(client))
    }

    /// A client has connected again without a claim: the place in the registry is that of the connection before, which has ended.
    pub(super) fn give_up_place(&mut self, client: Key) {
        if let Some(entry) = self.clients.get_mut(client)
            && let Some(owner) = entry.owner.take()
        {
            let (client, epoch) = (name(&entry.id), owner.epoch);
            let op = Op::Disconnect { client, epoch, expiry_s: None, will: WillEnd::Keep };
            self.push_to_shard(owner.shard, op, Waiting::Nobody);
        }
    }

    /// The lease has been over for long: clients of durable sessions are closed, and whoever stays has lost its place in the registry.
    pub(super) fn part_from_quorum(&mut self) {
        if let Some(desk) = &mut self.desk {
            desk.partings += 1;
            desk.parted = HashMap::default();
        }
        let mut closed = 0;
        for key in self.conns.keys() {
            if !self.needs_quorum(key) {
                continue;
            }
            if self.conns.get_mut(key).is_none_or(|conn| conn.closing.is_some()) {
                continue;
            }
            closed += 1;
            // What was not written before the lease was over is not written at all.
            self.close_instead(key, ReasonCode::UseAnotherServer);
        }
        self.node.healings.closed(closed);
        for client in self.clients.keys() {
            if let Some(entry) = self.clients.get_mut(client)
                && let Some(owner) = entry.owner.take_if(|owner| owner.durable.is_none())
            {
                self.unclaimed = true;
                if let Some(desk) = &mut self.desk {
                    desk.parted.insert(Arc::clone(&entry.id), owner.epoch);
                }
                if owner.guest.is_some() {
                    self.no_guest(client);
                }
            }
        }
    }

    /// There is a lease: who was served without one is claimed.
    pub(super) fn claim_again(&mut self) {
        if self.claiming_again || !self.unclaimed || !self.knows_shards() {
            return;
        }
        self.unclaimed = false;
        self.claiming_again = true;
        let mut waiting = Vec::new();
        for client in self.clients.keys() {
            if self.is_local_client(client) {
                waiting.push(client);
            }
        }
        self.do_later(Box::new(move |worker| {
            Box::pin(async move {
                // One that waits for its shard keeps nobody from the others.
                let claims = waiting.into_iter().map(|client| claim_again(&worker, client));
                futures::stream::iter(claims).buffer_unordered(AT_ONCE).collect::<()>().await;
                sleep(AGAIN).await;
                // One at a time: a client that is claimed twice would be taken from itself.
                worker.borrow_mut().claiming_again = false;
            })
        }));
    }

    /// Whether a client is connected without a place in the registry.
    fn is_local_client(&mut self, client: Key) -> bool {
        let entry = self.clients.get_mut(client);
        entry.is_some_and(|entry| entry.owner.is_none() && matches!(entry.state, ClientState::Online(_)))
    }

    /// The client has connected again before it was claimed: the older connection ends as any that is taken over.
    pub(super) fn end_local(&mut self, id: &Arc<str>) {
        if let Some(client) = self.by_id.get(id).copied()
            && self.is_local_client(client)
        {
            self.will_of_ended(client, ConnectionEnd::TakenOver { resumes: false }, 0);
            self.take_over(client);
        }
    }

    /// What is asked of the shard of a client that is connected here; `None`: it is no more, or it has its place.
    fn claim_of(&mut self, client: Key) -> Option<Asking> {
        if !self.is_local_client(client) {
            return None;
        }
        let entry = self.clients.get_mut(client)?;
        let (id, listener, will) = (Arc::clone(&entry.id), entry.listener, entry.will.take());
        let for_shard = will.as_ref().and_then(|will| self.will_for_shard(&id, will));
        if let Some(entry) = self.clients.get_mut(client) {
            entry.will = will;
        }
        let limits = self.queue_limits(listener);
        let desk = self.desk.as_mut()?;
        if desk.claiming.contains_key(&id) {
            // A later connection of the client is: what becomes of this one follows from that.
            self.unclaimed = true;
            return None;
        }
        let client = name(&id);
        let shard = desk.shards.shard_of(client.namespace, &client.id)?;
        *desk.claiming.entry(id).or_default() += 1;
        // Who has connected, or has a session, elsewhere stays there.
        let claim =
            Claim { client, clean_start: false, expiry_s: 0, will: for_shard, limits, durable: false, yields: true };
        Some(Asking { shards: desk.shards.clone(), shard, claim, partings: desk.partings })
    }

    /// What follows from a claim's answer.
    fn claimed_again(&mut self, client: Key, id: &Arc<str>, again: &Again, partings: u64) {
        let alone = self.claim_over(id);
        let epoch = if let Again::Here { epoch, .. } = again { Some(*epoch) } else { None };
        let superseded = epoch.is_some_and(|epoch| {
            self.desk.as_mut().is_some_and(|desk| desk.superseded.remove(&(Arc::clone(id), epoch)))
        });
        // The node has parted again meanwhile: that place may be another's by now.
        let over = self.desk.as_ref().is_some_and(|desk| desk.partings != partings);
        if alone && let Some(desk) = &mut self.desk {
            desk.superseded.retain(|(other, _)| other != id);
        }
        let still = self.is_local_client(client);
        match again {
            Again::Here { epoch, shard } if still && !superseded && !over && self.node.is_serving() => {
                if let Some(entry) = self.clients.get_mut(client) {
                    entry.owner = Some(Box::new(Owner {
                        epoch: *epoch,
                        shard: *shard,
                        durable: None,
                        guest: None,
                        guest_reads: false,
                    }));
                    // The shard has it.
                    entry.will = None;
                }
                // The place before was that of the same connection: nothing is sent because of its end.
                if let Some(epoch) = self.desk.as_mut().and_then(|desk| desk.parted.remove(id)) {
                    let op = Op::Disconnect { client: name(id), epoch, expiry_s: None, will: WillEnd::Drop };
                    self.push_to_shard(*shard, op, Waiting::Nobody);
                }
            }
            Again::Here { epoch, shard } => {
                let op = Op::Disconnect { client: name(id), epoch: *epoch, expiry_s: None, will: WillEnd::Drop };
                self.push_to_shard(*shard, op, Waiting::Nobody);
                if superseded {
                    self.end_local(id);
                } else {
                    self.unclaimed |= still;
                }
            }
            Again::Elsewhere => self.end_local(id),
            // It is tried again as long as there is a lease; else when there is one again.
            Again::Unknown => self.unclaimed |= still,
        }
        if alone && !self.by_id.contains_key(id) {
            self.release(id);
        }
    }
}

/// Resolves when the node serves without a lease: what waits for other nodes need not wait for them any more.
pub(super) async fn until_alone(node: &NodeShared) {
    if !node.lease.goes_on() {
        return std::future::pending().await;
    }
    while !node.is_local() {
        sleep(LOOK).await;
    }
}

async fn claim_again(worker: &Rc<RefCell<Worker>>, client: Key) {
    let Some(Asking { shards, shard, claim, partings }) = worker.borrow_mut().claim_of(client) else { return };
    let id = Arc::clone(&claim.client.id);
    let mut asked = None;
    let again = timeout(CLAIM, claimed(worker, &shards, shard, claim, &mut asked)).await.unwrap_or(Again::Unknown);
    let mut worker = worker.borrow_mut();
    worker.claimed_again(client, &id, &again, partings);
    if !matches!(again, Again::Here { .. })
        && let Some(asked) = asked
    {
        // It may be granted yet, when the client is gone, or was and is another's by now. The others do not wait for that.
        worker.do_later(Box::new(move |worker| Box::pin(async move { take_back(&worker, asked).await })));
    }
}

async fn claimed(
    worker: &Rc<RefCell<Worker>>,
    shards: &Shards,
    shard: u16,
    claim: Claim,
    pending: &mut Option<Asked>,
) -> Again {
    let client = claim.client.clone();
    let asked = match &mut worker.borrow_mut().desk {
        Some(desk) => {
            let (token, answer) = desk.ask_revocably(shard, Op::Claim(Box::new(claim)));
            let (shards, client) = (shards.clone(), client.clone());
            pending.insert(Asked { shards, shard, client, token, answer, granted: None })
        }
        None => return Again::Unknown,
    };
    let (epoch, older) = match (&mut asked.answer).await {
        Ok(Ok(OpAnswer::Claimed { epoch, older, .. })) => (epoch, older),
        other => {
            *pending = None;
            return if matches!(other, Ok(Ok(OpAnswer::Stale))) { Again::Elsewhere } else { Again::Unknown };
        }
    };
    let (_, older) = asked.granted.insert((epoch, older));
    match close_older(worker, shards, shard, &client, epoch, older).await {
        Ok(()) => Again::Here { epoch, shard },
        Err(Failed::Gone) => Again::Elsewhere,
        Err(Failed::Refused(_)) => Again::Unknown,
    }
}
