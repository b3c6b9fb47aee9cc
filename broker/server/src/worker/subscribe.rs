//! Subscriptions: into the index, the groups and the routes, behind the barrier, and out again.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use futures::future::BoxFuture;
use raftmq_cluster::BarrierError;
use raftmq_features::exclusive;
use raftmq_features::rewrite::RewriteError;
use raftmq_mqtt::ReasonCode;
use raftmq_routing::FilterKind;
use raftmq_session::{Action, SessionState, SubscribeItem, SubscriptionInfo};
use raftmq_shard::OpAnswer;

use super::clients::shared_filters;
use super::local::until_alone;
use super::messages::EXCLUSIVE;
use super::replay::wants_retained;
use super::shard_replay::{Floors, Lookups};
use super::sharing::{is_shared, member_id};
use super::slab::Slab;
use super::wheel::Key;
use super::{ClientState, Conn, Worker, limits_of, mount};
use crate::features::Member;

const EXCLUSIVE_PREFIX: &str = "$exclusive/";

/// Subscriptions that wait for their barrier.
pub(super) struct Barrier {
    pub(super) key: Key,
    pub(super) request: Request,
    pub(super) reached: BoxFuture<'static, (Reached, Floors)>,
}

/// What became of a barrier: subscriptions that are refused, by their places, and why; or why it is not known of any.
pub(super) type Reached = Result<Vec<(usize, ReasonCode)>, NotReached>;

/// Why a subscription is not effective on every node.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReached {
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// Its shard has the client connected elsewhere.
    #[error("the client is connected elsewhere")]
    Stale,
}

/// The subscriptions of a SUBSCRIBE, or those that a client gets without asking.
pub(super) struct Request {
    /// Whose they are, also when the connection has ended that they were asked for on. A session never leaves its worker.
    client: Key,
    /// `None`: nobody waits for an answer.
    packet_id: Option<NonZeroU16>,
    items: Vec<SubscribeItem>,
    /// Places in `items` and why not.
    refused: Vec<(usize, ReasonCode)>,
    /// Lookups of what the shards retain for them.
    lookups: Lookups,
}

impl Worker {
    /// Makes the subscriptions of a SUBSCRIBE; the SUBACK may have to wait.
    pub(super) fn subscribe(
        &mut self,
        key: Key,
        packet_id: Option<NonZeroU16>,
        items: Vec<SubscribeItem>,
        actions: &mut Vec<Action>,
    ) {
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) else {
            return;
        };
        self.catch_up();
        let mut filters = Vec::with_capacity(items.len());
        let mut again = Vec::new();
        let mut placed = Vec::new();
        let mut news = Vec::new();
        let mut refused = Vec::new();
        for (at, item) in items.iter().enumerate() {
            match self.add_subscription(key, client, item) {
                Ok((filter, new)) => {
                    if !new {
                        again.push(Arc::clone(&filter));
                    }
                    placed.push((at, Arc::clone(&filter)));
                    news.push(new);
                    filters.push(filter);
                }
                Err(reason) => refused.push((at, reason)),
            }
        }
        self.counters.subscribed((filters.len() - again.len()) as u64);
        self.counters.subscribe_refused(refused.len() as u64);
        let in_shard = self.subscribe_in_shard(client, &items, &placed);
        let alone = in_shard.is_none() && self.node.is_local();
        let mut request = Request { client, packet_id, items, refused, lookups: Lookups::new() };
        if filters.is_empty() {
            return self.subscribed(key, request, &Floors::default(), actions);
        }
        let barrier = self.node.router.subscribe(self.id, &filters);
        if !again.is_empty() {
            // A route is counted once a subscription. Who subscribes again still waits for the same barrier.
            self.node.router.unsubscribe(self.id, &again);
        }
        if alone {
            // In effect for whoever publishes here; the others learn of it when they can be reached.
            drop(barrier);
            return self.subscribed(key, request, &Floors::default(), actions);
        }
        let mut floors = None;
        if self.in_shards() {
            let wanted = placed.iter().zip(news).filter_map(|((at, filter), new)| {
                let item = request.items.get(*at).filter(|item| wants_retained(item))?;
                Some((&item.filter, filter, new))
            });
            (request.lookups, floors) = self.read_floors(client, &wanted.collect::<Vec<_>>());
        }
        let reached = match (barrier, in_shard) {
            (None, None) => return self.subscribed(key, request, &Floors::default(), actions),
            (None, Some(in_shard)) => in_shard.reached().boxed(),
            (Some(reached), None) => {
                let node = Arc::clone(&self.node);
                async move {
                    tokio::select! {
                        reached = reached => reached?,
                        () = until_alone(&node) => {}
                    }
                    Ok(Vec::new())
                }
                .boxed()
            }
            (Some(reached), Some(in_shard)) => async move {
                let (reached, refused) = futures::future::join(reached, in_shard.reached()).await;
                if !matches!(refused, Err(NotReached::Stale)) {
                    reached?;
                }
                refused
            }
            .boxed(),
        };
        let reached = async move {
            let result = reached.await;
            // Behind the barrier: what is changed later is published by nodes that know the subscription.
            let floors = match floors {
                Some(floors) if result.is_ok() => floors.await,
                _ => Floors::default(),
            };
            (result, floors)
        };
        self.barriers.push_back(Barrier { key, request, reached: reached.boxed() });
        self.barrier_ready.notify_one();
    }

    /// Puts a subscription where messages find it; gives the filter by which they do, and whether it is new there.
    fn add_subscription(
        &mut self,
        key: Key,
        client: Key,
        item: &SubscribeItem,
    ) -> Result<(Arc<str>, bool), ReasonCode> {
        let filter = self.renamed(key, &item.filter)?;
        let new = self.add_effective(client, &filter, item.info())?;
        self.note_name(client, &item.filter, &filter);
        Ok((filter, new))
    }

    /// Whether it is new there.
    pub(super) fn add_effective(
        &mut self,
        client: Key,
        filter: &Arc<str>,
        info: SubscriptionInfo,
    ) -> Result<bool, ReasonCode> {
        let online = self.is_online(client);
        let Some(entry) = self.clients.get_mut(client) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        let features = &self.node.features;
        let new = match FilterKind::of(filter) {
            FilterKind::Shared { .. } => {
                let load = Arc::clone(entry.load.get_or_insert_default());
                let joined = features.groups.join(filter, member_id(self.id, client), online, Member { info, load });
                joined.is_some_and(|joined| joined.replaced.is_none())
            }
            FilterKind::Plain(plain) => match exclusive::parse(filter, &features.exclusive_settings) {
                None => self.index.insert(plain, client.slot, info).replaced.is_none(),
                Some(parsed) => {
                    let claimed = parsed.and_then(|own| features.exclusive().claim(own, &entry.id));
                    claimed.map_err(|error| error.reason_code())?;
                    self.index.insert(plain, client.slot | EXCLUSIVE, info).replaced.is_none()
                }
            },
        };
        if new {
            entry.subscriptions += 1;
            if entry.subscriptions == 1 {
                self.counters.subscriber_added();
            }
        }
        self.joined_group(client, filter, info);
        Ok(new)
    }

    /// The filter that the rules make of a session's now.
    fn renamed(&mut self, key: Key, filter: &Arc<str>) -> Result<Arc<str>, ReasonCode> {
        if !self.rules.rewriter.subscribes() {
            return Ok(Arc::clone(filter));
        }
        let Some(conn) = self.conns.get_mut(key) else {
            return Ok(Arc::clone(filter));
        };
        let limits = limits_of(&self.node, &self.listeners, conn.listener);
        let mount = limits.mount_point.as_deref();
        let own = mount::client_filter(mount, filter);
        match self.rules.rewriter.filter(&own, &conn.vars()) {
            Ok(Some(new)) => Ok(mount::mounted_filter(mount, new).into()),
            Ok(None) => Ok(Arc::clone(filter)),
            Err(error) => {
                tracing::debug!(client = %conn.session.client_id(), %error, "a SUBSCRIBE is refused");
                Err(RewriteError::SUBSCRIBE)
            }
        }
    }

    /// Notes what a filter of a client's session stands for. What it stood for before goes: the rules, or the client's user name or address,
    /// may have changed since it subscribed first.
    fn note_name(&mut self, client: Key, filter: &Arc<str>, new: &Arc<str>) {
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        let old = if filter == new {
            entry.renamed.as_mut().and_then(|names| names.remove(filter))
        } else {
            let names = entry.renamed.get_or_insert_default();
            Some(names.insert(Arc::clone(filter), Arc::clone(new)).unwrap_or_else(|| Arc::clone(filter)))
        };
        if entry.renamed.as_ref().is_some_and(|names| names.is_empty()) {
            entry.renamed = None;
        }
        if let Some(old) = old.filter(|old| old != new) {
            self.release_effective(client, vec![old]);
        }
    }

    /// What a filter of a client's session stands for.
    pub(super) fn effective_filter(&mut self, client: Key, filter: &Arc<str>) -> Arc<str> {
        let names: Option<&HashMap<_, _, _>> = self.clients.get_mut(client).and_then(|entry| entry.renamed.as_deref());
        names.and_then(|names| names.get(filter)).unwrap_or(filter).clone()
    }

    /// The options of a client's subscription that stands for this filter; of several, of one with the highest QoS.
    pub(super) fn stands_for(&mut self, client: Key, filter: &str) -> Option<SubscriptionInfo> {
        let entry = self.clients.get_mut(client)?;
        let session = session_in(&entry.state, &mut self.conns)?;
        let Some(names) = &entry.renamed else {
            return session.subscription(filter);
        };
        let plain = session.subscription(filter).filter(|_| !names.contains_key(filter));
        let renamed = names.iter().filter(|(_, new)| ***new == *filter);
        renamed.filter_map(|(own, _)| session.subscription(own)).chain(plain).max_by_key(|info| info.options.qos)
    }

    /// The answer to a SUBSCRIBE, then the retained messages. Nobody gets them if the connection has ended, or another one has taken the
    /// session over; but the session is told.
    fn subscribed(&mut self, key: Key, request: Request, floors: &Floors, actions: &mut Vec<Action>) {
        let Request { client, packet_id, items, refused, lookups } = request;
        let before = self.infos(client, &items, &refused);
        let conn = self.conns.get_mut(key).filter(|conn| conn.client == Some(client));
        let answered = conn.is_some();
        if let (Some(conn), Some(packet_id)) = (conn, packet_id) {
            let out = conn.outlet.buffer(&mut self.spares);
            conn.session.on_subscribed(packet_id, &refused, out, actions);
        }
        self.settle(client, &items, &refused);
        self.take_back(client, before);
        if !answered {
            return self.suback_sent(client, &lookups);
        }
        self.mark_dirty(key);
        for (at, item) in items.iter().enumerate() {
            if !refused.iter().any(|(refused, _)| *refused == at) {
                self.announce_subscribed(key, item);
                self.replay_retained(key, item, &lookups, floors);
            }
        }
        self.suback_sent(client, &lookups);
    }

    /// Tells the session, wherever it is now, what became of its subscriptions.
    fn settle(&mut self, client: Key, items: &[SubscribeItem], refused: &[(usize, ReasonCode)]) {
        match self.clients.get_mut(client).map(|entry| &mut entry.state) {
            Some(ClientState::Offline { state, .. }) => state.settle(items, refused),
            Some(ClientState::Online(conn)) => {
                if let Some(conn) = self.conns.get_mut(*conn) {
                    conn.session.settle(items, refused);
                }
            }
            None => {}
        }
    }

    /// What the session has by the filters that are refused.
    fn infos(
        &mut self,
        client: Key,
        items: &[SubscribeItem],
        refused: &[(usize, ReasonCode)],
    ) -> Vec<(Arc<str>, SubscriptionInfo)> {
        let Some(session) = self.clients.get_mut(client).and_then(|entry| session_in(&entry.state, &mut self.conns))
        else {
            return Vec::new();
        };
        let refused = refused.iter().filter_map(|(at, _)| items.get(*at));
        let had = |item: &SubscribeItem| Some((Arc::clone(&item.filter), session.subscription(&item.filter)?));
        refused.filter_map(had).collect()
    }

    /// Refused subscriptions, and what the session had by them until then. Those that it has no more go; those that it has as it had them
    /// before, messages find with the options that they have there.
    fn take_back(&mut self, client: Key, before: Vec<(Arc<str>, SubscriptionInfo)>) {
        let Some(session) = self.clients.get_mut(client).and_then(|entry| session_in(&entry.state, &mut self.conns))
        else {
            return;
        };
        let mut gone = Vec::new();
        let mut again = Vec::new();
        for (filter, had) in before {
            match session.subscription(&filter) {
                None => gone.push(filter),
                Some(info) if info != had => again.push((filter, info)),
                Some(_) => {}
            }
        }
        self.take_back_in_shard(client, &gone, &again);
        self.remove_from_index(client, &gone);
        if gone.iter().any(|filter| is_shared(filter)) {
            self.redispatch_unsubscribed(client);
        }
        for (filter, info) in again {
            self.put_back(client, &filter, info);
        }
    }

    /// The shard of a durable session may have what was not answered in time.
    fn take_back_in_shard(&mut self, client: Key, gone: &[Arc<str>], again: &[(Arc<str>, SubscriptionInfo)]) {
        if !gone.is_empty() {
            let gone = gone.iter().map(|filter| self.effective_filter(client, filter)).collect();
            // Nobody waits for it: it comes behind the subscription that it takes back, and before whatever the client does next.
            drop(self.unsubscribe_in_shard(client, gone));
        }
        if !again.is_empty() {
            let again = again.iter().map(|(filter, info)| (self.effective_filter(client, filter), *info)).collect();
            drop(self.put_in_shard(client, again));
        }
    }

    fn put_back(&mut self, client: Key, filter: &Arc<str>, info: SubscriptionInfo) {
        if self.node.closing.load(Ordering::Acquire) {
            return;
        }
        let filter = self.effective_filter(client, filter);
        if self.add_effective(client, &filter, info) == Ok(true) {
            // It was not there: its route is needed, which nobody waits for.
            self.counters.subscribed(1);
            drop(self.node.router.subscribe(self.id, &[filter]));
        }
    }

    /// What waits in the session for shared subscriptions that it has no more goes to others of their groups.
    fn redispatch_unsubscribed(&mut self, client: Key) {
        let left = match self.clients.get_mut(client).map(|entry| &mut entry.state) {
            Some(ClientState::Offline { state, .. }) => state.take_unsubscribed(),
            Some(ClientState::Online(conn)) => match self.conns.get_mut(*conn) {
                Some(conn) => conn.session.take_unsubscribed(),
                None => return,
            },
            None => return,
        };
        self.redispatch_all(client, left);
    }

    /// A barrier was reached, or not in time.
    pub(super) fn barrier_done(&mut self, key: Key, mut request: Request, result: Reached, floors: Floors) {
        let client = request.client;
        if let Ok(refused) = &result
            && let Some(joining) = self.join_queues(client, &request.items, &[&request.refused[..], refused].concat())
        {
            request.refused.extend(refused);
            return self.do_later(Box::new(move |worker| {
                Box::pin(async move {
                    let groups = joining.groups();
                    let reached = joining.reached(&worker, client).await;
                    let of_refused = |(at, _): &&(usize, Arc<str>)| {
                        reached.as_ref().map_or(true, |refused| refused.iter().any(|(refused, _)| refused == at))
                    };
                    let again: Vec<_> = groups.iter().filter(of_refused).map(|(_, group)| Arc::clone(group)).collect();
                    let mut worker = worker.borrow_mut();
                    worker.answer_subscribe(key, request, reached, &floors);
                    worker.refused_groups(client, &again);
                })
            }));
        }
        self.answer_subscribe(key, request, result, &floors);
    }

    fn answer_subscribe(&mut self, key: Key, mut request: Request, result: Reached, floors: &Floors) {
        // What did not reach every serving node in time is not promised: the client is told, and nothing is left behind.
        let (error, stale) = match result {
            Ok(refused) => {
                request.refused.extend(refused);
                (None, false)
            }
            // There is no answer: the client would take it for the broker's last word on the filter.
            Err(error @ NotReached::Stale) => {
                request.packet_id = None;
                (Some(error), true)
            }
            Err(error) => (Some(error), false),
        };
        if let Some(error) = error {
            if let Some(entry) = self.clients.get_mut(request.client).filter(|_| !stale) {
                tracing::warn!(client = %entry.id, %error, "a SUBSCRIBE is refused");
            }
            for at in 0..request.items.len() {
                if !request.refused.iter().any(|(refused, _)| *refused == at) {
                    request.refused.push((at, ReasonCode::UnspecifiedError));
                }
            }
        }
        let mut actions = std::mem::take(&mut self.actions);
        self.subscribed(key, request, floors, &mut actions);
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
        if stale {
            self.close_stale(key);
        }
    }

    /// Ends subscriptions. From here on no message finds them, also none that other workers and nodes have sent already
    /// `[MQTT-3.10.4-2]` `[MQTT311-3.10.4-2]`; UNSUBACK comes behind what was found before.
    pub(super) fn unsubscribe(
        &mut self,
        key: Key,
        packet_id: NonZeroU16,
        filters: &[Arc<str>],
        actions: &mut Vec<Action>,
    ) {
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) else {
            return;
        };
        self.counters.unsubscribed_by_client(filters.len() as u64);
        let effective: Vec<Arc<str>> = filters.iter().map(|filter| self.effective_filter(client, filter)).collect();
        self.remove_from_index(client, filters);
        self.given.remove(client, filters);
        if let Some(asked) = self.unsubscribe_in_shard(client, effective.clone()) {
            let filters = filters.to_vec();
            return self.do_later(Box::new(move |worker| {
                Box::pin(async move {
                    let outcome = asked.await;
                    if let Ok(Ok(OpAnswer::Unsubscribed(outcomes))) = &outcome {
                        let left = worker.borrow_mut().left_groups(client, &effective, outcomes);
                        left.await;
                    }
                    let mut worker = worker.borrow_mut();
                    match &outcome {
                        Ok(Ok(OpAnswer::Unsubscribed(_))) => {}
                        Ok(answer) => return worker.close_for_answer(key, answer),
                        Err(_) => return worker.close_for_shard(key),
                    }
                    let mut actions = std::mem::take(&mut worker.actions);
                    worker.unsubscribed(key, client, packet_id, &filters, &mut actions);
                    worker.act(key, &[], &mut actions);
                    worker.actions = actions;
                    worker.mark_dirty(key);
                })
            }));
        }
        self.unsubscribed(key, client, packet_id, filters, actions);
    }

    /// UNSUBACK.
    fn unsubscribed(
        &mut self,
        key: Key,
        client: Key,
        packet_id: NonZeroU16,
        filters: &[Arc<str>],
        actions: &mut Vec<Action>,
    ) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.on_unsubscribed(packet_id, out, actions);
        if filters.iter().any(|filter| is_shared(filter)) {
            self.redispatch_unsubscribed(client);
        }
        for filter in filters {
            self.announce_unsubscribed(key, filter);
        }
    }

    /// Takes subscriptions of a client's session out of everything by which messages find them.
    pub(super) fn remove_from_index(&mut self, client: Key, filters: &[Arc<str>]) {
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        if let Some(names) = &mut entry.renamed {
            let effective: Vec<Arc<str>> =
                filters.iter().map(|filter| names.remove(filter).unwrap_or_else(|| Arc::clone(filter))).collect();
            if names.is_empty() {
                entry.renamed = None;
            }
            self.release_effective(client, effective);
        } else {
            self.remove_effective(client, filters);
        }
    }

    /// Filters for which one that is gone stood. A rule may have made one of several: it stays for the others, with their options.
    fn release_effective(&mut self, client: Key, mut effective: Vec<Arc<str>>) {
        effective.retain(|filter| match self.stands_for(client, filter) {
            Some(info) => {
                // It is there, and so it is new to nobody; a claim was made.
                let _ = self.add_effective(client, filter, info);
                false
            }
            None => true,
        });
        self.remove_effective(client, &effective);
    }

    /// A client is no member of groups any more; its session goes on having the subscriptions.
    pub(super) fn leave_groups(&mut self, client: Key) {
        let Some(session) = self.clients.get_mut(client).and_then(|entry| session_in(&entry.state, &mut self.conns))
        else {
            return;
        };
        let shared = shared_filters(session);
        let effective: Vec<_> = shared.iter().map(|filter| self.effective_filter(client, filter)).collect();
        self.remove_effective(client, &effective);
    }

    fn remove_effective(&mut self, client: Key, filters: &[Arc<str>]) {
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        let features = &self.node.features;
        let mut removed: Vec<Arc<str>> = Vec::with_capacity(filters.len());
        let mut groups = false;
        for filter in filters {
            let found = match FilterKind::of(filter) {
                FilterKind::Shared { .. } => features.groups.leave(filter, member_id(self.id, client)).is_some(),
                FilterKind::Plain(plain) if filter.starts_with(EXCLUSIVE_PREFIX) => {
                    features.exclusive().release(plain, &entry.id);
                    self.index.remove(plain, client.slot | EXCLUSIVE).is_some()
                }
                FilterKind::Plain(plain) => self.index.remove(plain, client.slot).is_some(),
            };
            if found {
                groups |= is_shared(filter);
                removed.push(Arc::clone(filter));
            }
        }
        if groups {
            removed.iter().for_each(|filter| self.left_group(client, filter));
        }
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        if !removed.is_empty() {
            let before = entry.subscriptions;
            entry.subscriptions = before.saturating_sub(u32::try_from(removed.len()).unwrap_or(u32::MAX));
            if before > 0 && entry.subscriptions == 0 {
                self.counters.subscriber_removed();
            }
            self.counters.unsubscribed(removed.len() as u64);
            self.node.router.unsubscribe(self.id, &removed);
        }
    }
}

/// The session of a client.
pub(super) fn session_in<'a>(state: &'a ClientState, conns: &'a mut Slab<Conn>) -> Option<&'a SessionState> {
    match state {
        ClientState::Offline { state, .. } => Some(state),
        ClientState::Online(conn) => conns.get_mut(*conn).map(|conn| conn.session.session()),
    }
}

/// Whether a session has a subscription of this filter.
pub(super) fn has_filter(session: &SessionState, filter: &str) -> bool {
    session.subscription(filter).is_some()
}
