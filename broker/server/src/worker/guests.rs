//! Members of durable shared groups whose sessions end with their connection (MQTT 5, 4.8.2).
//!
//! A group whose members are all of clean sessions needs no queue: its messages go to whoever is there. Where one member's session is durable, the group has a queue in a shard
//! ([`raftmq_shard::group_mark`] is among the routes then), and each member of a clean session joins as well, as a *guest*: its shard has a queue for what the group gives it, until it
//! unsubscribes or its connection ends. From there it is sent as far as the client takes it at once; what the connection leaves unanswered goes back to the group.
//!
//! A queue may come after the members: so those without one are looked at now and then.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use raftmq_mqtt::{QoS, ReasonCode};
use raftmq_routing::Targets;
use raftmq_session::{SubscribeItem, SubscriptionInfo};
use raftmq_shard::{Op, OpAnswer, Subscribed, group_mark, group_name};
use tokio::time::timeout;

use super::clients::shared_filters;
use super::shard_subscribe::{Join, ShardBarrier, is_group, subscription};
use super::shards::{NAMESPACE, name};
use super::sharing::is_shared;
use super::subscribe::{NotReached, Reached, session_in};
use super::wheel::Key;
use super::{ClientState, Worker};

/// Between two looks at all groups, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// Before it is looked whether a client is still there that waits for its shard to be read.
const READ: Duration = Duration::from_secs(5);

/// The members of clean sessions of a worker that get their messages as long as their group has no queue.
#[derive(Default)]
pub(super) struct Unqueued {
    by_group: HashMap<Arc<str>, HashSet<Key, ahash::RandomState>, ahash::RandomState>,
    /// Those of the groups that have new ones.
    fresh: HashSet<Arc<str>, ahash::RandomState>,
    look_at: u64,
}

impl Unqueued {
    fn add(&mut self, group: &Arc<str>, client: Key) {
        self.by_group.entry(Arc::clone(group)).or_default().insert(client);
        self.fresh.insert(Arc::clone(group));
    }

    fn remove(&mut self, group: &str, client: Key) {
        if let Some(members) = self.by_group.get_mut(group) {
            members.remove(&client);
            if members.is_empty() {
                self.by_group.remove(group);
                self.fresh.remove(group);
            }
        }
    }

    /// The groups to be looked at now.
    fn due(&mut self, now_ms: u64) -> Vec<Arc<str>> {
        let fresh = std::mem::take(&mut self.fresh);
        if now_ms < self.look_at {
            return fresh.into_iter().collect();
        }
        self.look_at = now_ms + LOOK_MS;
        self.by_group.keys().cloned().collect()
    }
}

/// A client of a clean session on its way into the queues of groups.
pub(super) struct Joining {
    epoch: u64,
    groups: Vec<(usize, Arc<str>)>,
    barrier: ShardBarrier,
}

impl Joining {
    /// The groups, by the places of their subscriptions.
    pub(super) fn groups(&self) -> Vec<(usize, Arc<str>)> {
        self.groups.clone()
    }

    /// Waits until the shards have it, and every serving node knows that the groups have queues. Those that are refused, by their places.
    pub(super) async fn reached(self, worker: &Rc<RefCell<Worker>>, client: Key) -> Reached {
        let Self { epoch, groups, barrier } = self;
        let refused = match barrier.reached().await {
            Ok(refused) => refused,
            Err(error @ NotReached::Stale) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a subscription to a group that has a queue is refused");
                groups.iter().map(|(at, _)| (*at, ReasonCode::UnspecifiedError)).collect()
            }
        };
        if refused.len() < groups.len() {
            worker.borrow_mut().read_as_guest(client, epoch);
        }
        Ok(refused)
    }
}

impl Worker {
    /// A client has a subscription to a group. One that it had before by the same filter is not left: with the last member the queue would go.
    pub(super) fn joined_group(&mut self, client: Key, filter: &Arc<str>, info: SubscriptionInfo) {
        if !is_group(filter) || self.has_durable(client) {
            return;
        }
        if info.options.qos == QoS::AtMostOnce {
            self.left_group(client, filter);
        } else if let Some(desk) = &mut self.desk {
            desk.unqueued.add(filter, client);
        }
    }

    /// What becomes of subscriptions to groups that were refused, and that the client may have as it had them before.
    pub(super) fn refused_groups(&mut self, client: Key, groups: &[Arc<str>]) {
        for group in groups {
            match self.stands_for(client, group) {
                Some(info) => self.joined_group(client, group, info),
                None => self.left_group(client, group),
            }
        }
    }

    /// A client has no place in the registry for a while: it joins again once it has.
    pub(super) fn no_guest(&mut self, client: Key) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        if let ClientState::Online(key) = entry.state
            && let Some(conn) = self.conns.get_mut(key)
        {
            conn.session.forget_tickets();
        }
        let Some(entry) = self.clients.get_mut(client) else { return };
        let Some(session) = session_in(&entry.state, &mut self.conns) else { return };
        for filter in shared_filters(session) {
            let group = self.effective_filter(client, &filter);
            if let Some(info) = self.stands_for(client, &group) {
                self.joined_group(client, &group, info);
            }
        }
    }

    /// A client has a subscription to a group no more, or another one by the same filter.
    pub(super) fn left_group(&mut self, client: Key, filter: &Arc<str>) {
        if let Some(desk) = &mut self.desk {
            desk.unqueued.remove(filter, client);
        }
        let Some(entry) = self.clients.get_mut(client) else { return };
        let Some(owner) = entry.owner.as_ref().filter(|owner| owner.guest.is_some() && is_group(filter)) else {
            return;
        };
        let (epoch, shard, client) = (owner.epoch, owner.shard, name(&entry.id));
        if let Some(desk) = &mut self.desk {
            // Nobody waits for it: it comes before whatever the client does next.
            drop(desk.ask(shard, Op::Unsubscribe { client, epoch, filters: vec![Arc::clone(filter)] }));
        }
    }

    /// Whether a group has a queue in a shard, as far as this node knows.
    fn has_queue(&self, group: &str) -> bool {
        let mut targets = Targets::default();
        self.node.routes.lookup(&group_mark(group), &mut targets);
        !targets.shards().is_empty()
    }

    /// Has a client of a clean session join the queues of the groups that it subscribes to, but for what is refused: SUBACK waits for that. `None`: there are none.
    pub(super) fn join_queues(
        &mut self,
        client: Key,
        items: &[SubscribeItem],
        refused: &[(usize, ReasonCode)],
    ) -> Option<Joining> {
        let mut joins = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let over = item.options.qos == QoS::AtMostOnce || refused.iter().any(|(refused, _)| *refused == at);
            if over || !is_shared(&item.filter) {
                continue;
            }
            let group = self.effective_filter(client, &item.filter);
            if is_group(&group) && !self.has_durable(client) && self.has_queue(&group) {
                joins.extend(self.ask_to_join(client, &group, &item.info(), at));
            }
        }
        let entry = self.clients.get_mut(client).filter(|_| !joins.is_empty())?;
        let (epoch, member) = (entry.owner.as_ref()?.epoch, name(&entry.id));
        let desk = self.desk.as_mut()?;
        for join in &joins {
            desk.unqueued.remove(&join.group.id, client);
        }
        let groups = joins.iter().map(|join| (join.at, Arc::clone(&join.group.id))).collect();
        Some(Joining { epoch, groups, barrier: ShardBarrier::of_groups(desk.shards.clone(), member, joins) })
    }

    fn ask_to_join(&mut self, client: Key, group: &Arc<str>, info: &SubscriptionInfo, at: usize) -> Option<Join> {
        let entry = self.clients.get_mut(client)?;
        let owner = entry.owner.as_mut()?;
        // From now on: what is asked for may have to be taken back.
        owner.guest.get_or_insert_default().in_groups = true;
        let (id, epoch, shard, listener) = (name(&entry.id), owner.epoch, owner.shard, entry.listener);
        let limits = self.queue_limits(listener);
        let desk = self.desk.as_mut()?;
        let of_group = desk.shards.shard_of(NAMESPACE, &group_name(group))?.into();
        let subscription = subscription(Arc::clone(group), info);
        let op = Op::JoinClean { client: id, epoch, subscription, shard: of_group, limits };
        Some(Join { at, group: name(group), asked: desk.ask(shard, op) })
    }

    /// At each tick: members of groups that have a queue by now join there.
    pub(super) fn look_for_queues(&mut self, now_ms: u64) {
        let Some(desk) = &mut self.desk else { return };
        for group in desk.unqueued.due(now_ms) {
            let has_queue = self.has_queue(&group);
            let Some(desk) = &mut self.desk else { return };
            let Some(members) = desk.unqueued.by_group.get_mut(&group) else { continue };
            let clients = &mut self.clients;
            members.retain(|client| clients.get_mut(*client).is_some());
            let mut members = if has_queue { std::mem::take(members) } else { HashSet::default() };
            // Who has no place in the registry yet is looked at again.
            members.retain(|client| !self.join_late(*client, &group));
            let Some(desk) = &mut self.desk else { return };
            if let Some(of_group) = desk.unqueued.by_group.get_mut(&group) {
                of_group.extend(members);
                if of_group.is_empty() {
                    desk.unqueued.by_group.remove(&group);
                }
            }
        }
    }

    /// False: not yet.
    fn join_late(&mut self, client: Key, group: &Arc<str>) -> bool {
        let Some(info) = self.stands_for(client, group) else { return true };
        let Some(entry) = self.clients.get_mut(client) else { return true };
        let Some(epoch) = entry.owner.as_ref().map(|owner| owner.epoch) else { return false };
        let Some(join) = self.ask_to_join(client, group, &info, 0) else { return true };
        self.do_later(Box::new(move |worker| {
            Box::pin(async move {
                let answer = join.asked.await;
                let mut worker = worker.borrow_mut();
                match answer {
                    Ok(Ok(OpAnswer::Subscribed(of))) if matches!(of[..], [Subscribed::Joined { .. }]) => {
                        worker.read_as_guest(client, epoch);
                    }
                    Ok(Ok(OpAnswer::Subscribed(_))) => {
                        let group = &*join.group.id;
                        tracing::debug!(group, "a member of too many groups gets nothing by this one's queue");
                    }
                    // Its node does not serve now, or it is connected elsewhere.
                    _ => worker.refused_groups(client, &[join.group.id]),
                }
            })
        }));
        true
    }

    /// The shard has a queue for a client: it is read as soon as the state that is read has come to this connection.
    fn read_as_guest(&mut self, client: Key, epoch: u64) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        let Some(owner) = entry.owner.as_ref().filter(|owner| owner.epoch == epoch) else { return };
        let (id, reads) = (name(&entry.id), owner.guest_reads);
        let Some(shards) = self.desk.as_ref().map(|desk| desk.shards.clone()) else { return };
        if reads {
            return self.deliver_granted(client);
        }
        self.do_later(Box::new(move |worker| {
            Box::pin(async move {
                loop {
                    let read = timeout(READ, shards.session(&id, epoch, true)).await.is_ok();
                    let mut worker = worker.borrow_mut();
                    let owner = worker.clients.get_mut(client).and_then(|entry| entry.owner.as_mut());
                    let Some(owner) = owner.filter(|owner| owner.epoch == epoch) else { return };
                    if read {
                        owner.guest_reads = true;
                        return worker.deliver_granted(client);
                    }
                }
            })
        }));
    }
}
