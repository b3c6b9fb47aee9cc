//! The subscriptions of durable sessions: those to plain filters are in the session's shard, and those to groups make it a member in the group's.
//!
//! SUBACK waits until the shards have them and every serving node knows the routes, UNSUBACK until the shards have ended them.

use std::sync::Arc;

use raftmq_cluster::{BarrierError, LaneError, Shards};
use raftmq_mqtt::{QoS, ReasonCode};
use raftmq_planted::{Bug, planted};
use raftmq_routing::FilterKind;
use raftmq_session::{SubscribeItem, SubscriptionInfo};
use raftmq_shard::{Op, OpAnswer, Subscribed, Subscription, Unsubscribed, group_name};
use tokio::sync::oneshot;

use super::Worker;
use super::shards::{NAMESPACE, Outcome, name};
use super::subscribe::{NotReached, Reached};
use super::wheel::Key;

impl Worker {
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
        let Some(owner) = entry.owner.as_mut() else { return Vec::new() };
        let (epoch, shard) = (owner.epoch, owner.shard);
        let Some(durable) = owner.durable.as_mut() else { return Vec::new() };
        durable.in_groups |= filters.iter().any(|(_, filter)| is_group(filter));
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

pub(super) fn subscription(filter: Arc<str>, info: &SubscriptionInfo) -> Subscription {
    Subscription {
        filter,
        qos: info.options.qos,
        no_local: info.options.no_local,
        retain_as_published: info.options.retain_as_published,
        identifier: info.sub_id,
    }
}

/// Whether a filter is of a group that may have a queue in a shard.
pub(super) fn is_group(filter: &str) -> bool {
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
pub(super) struct Join {
    pub(super) at: usize,
    pub(super) group: raftmq_shard::Name,
    pub(super) asked: oneshot::Receiver<Outcome>,
}

impl ShardBarrier {
    /// Of subscriptions to groups alone.
    pub(super) fn of_groups(shards: Shards, member: raftmq_shard::Name, joins: Vec<Join>) -> Self {
        Self { shards, asked: None, places: Vec::new(), joins, member }
    }

    /// Waits until the shards have the subscriptions and every serving node knows that. Those that are refused, by their places.
    pub(super) async fn reached(self) -> Reached {
        let Self { shards, asked, places, joins, member } = self;
        let plain = async {
            let mut refused = Vec::new();
            let Some((shard, asked)) = asked else { return Ok::<_, NotReached>(refused) };
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
                    return Ok::<_, NotReached>(refusal(&outcome).err().map(|reason| (at, reason)));
                };
                let joined = shards.joined(&group, member, note).await?;
                Ok((!joined).then_some((at, ReasonCode::QuotaExceeded)))
            }
        });
        let (plain, joined) = tokio::join!(plain, futures::future::join_all(joins));
        if joined.iter().any(|joined| matches!(joined, Err(NotReached::Stale))) {
            return Err(NotReached::Stale);
        }
        let mut refused: Vec<(usize, ReasonCode)> = plain?;
        for joined in joined {
            refused.extend(joined?);
        }
        Ok(refused)
    }
}

async fn subscribed(asked: oneshot::Receiver<Outcome>) -> Result<Vec<Subscribed>, NotReached> {
    match asked.await {
        Ok(Ok(OpAnswer::Subscribed(outcomes))) => Ok(outcomes),
        Ok(Ok(OpAnswer::Stale)) => Err(NotReached::Stale),
        Ok(Err(LaneError::Over) | Ok(_)) | Err(_) => Err(BarrierError::NotServing.into()),
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
