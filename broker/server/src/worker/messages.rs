//! Messages and subscriptions between clients, workers and nodes.

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use raftmq_cluster::BarrierError;
use raftmq_mqtt::{Message, QoS, ReasonCode};
use raftmq_session::{Action, Delivery, Forms, Matched, PublishToken, SubscribeItem, SubscriptionInfo};

use super::connection::{count_as, drop_reason};
use super::inbox::Item;
use super::wheel::Key;
use super::{ClientState, Worker};
use crate::metrics::DropReason;

/// A SUBACK that waits for its barrier.
pub(super) struct Barrier {
    pub(super) key: Key,
    pub(super) packet_id: NonZeroU16,
    /// How many filters wait.
    pub(super) filters: usize,
    pub(super) reached: BoxFuture<'static, Result<(), BarrierError>>,
}

impl Worker {
    /// Routes a client's message.
    pub(super) fn publish(
        &mut self,
        key: Key,
        message: &Message,
        token: Option<PublishToken>,
        actions: &mut Vec<Action>,
    ) {
        let mut targets = std::mem::take(&mut self.targets);
        targets.clone_from(self.cache.lookup(message.topic()));
        let matched = !targets.is_empty();
        let mut stalled = false;
        for worker in targets.workers() {
            if worker == self.id {
                self.deliver(message);
            } else if let Some(outgoing) = self.outgoing.get_mut(usize::from(worker)) {
                if outgoing.is_empty() {
                    self.flush.notify_one();
                }
                outgoing.push(Item::Publish(message.clone()));
                stalled |= outgoing.is_long();
            }
        }
        if !targets.nodes.is_empty() {
            self.forward(message, &targets.nodes);
        }
        self.targets = targets;
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if stalled && !conn.stalled {
            conn.stalled = true;
            self.stalled.push(key);
        }
        if let Some(token) = token {
            let reason = if matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers };
            let out = conn.outlet.buffer(&mut self.spares);
            conn.session.on_published(token, reason, out, actions);
        }
    }

    /// One frame for each node, whatever its number of subscribers.
    fn forward(&mut self, message: &Message, nodes: &[u64]) {
        let mut frame = Vec::with_capacity(message.wire_len());
        message.to_wire(&mut frame);
        let taken = self.node.router.forward(nodes, &Bytes::from(frame));
        let lost = nodes.len().saturating_sub(taken);
        if lost > 0 {
            self.counters.dropped(DropReason::LinkQueueFull, lost as u64);
        }
    }

    /// Gives a message to the subscribers of this worker.
    pub(super) fn deliver(&mut self, message: &Message) {
        let mut matched = std::mem::take(&mut self.matched);
        self.index.matches(message.topic(), |client, info| matched.push((client, *info)));
        if !matched.is_empty() {
            let now = self.node.clock.now();
            let mut forms = Forms::new(message.clone(), now);
            for_each_client(&mut matched, |client, matched| self.deliver_to(client, matched, &mut forms, now));
            matched.clear();
        }
        self.matched = matched;
    }

    fn deliver_to(&mut self, client: u32, matched: &Matched, forms: &mut Forms, now: raftmq_session::Now) {
        let Some((_, client)) = self.clients.at_mut(client) else {
            return;
        };
        let (delivery, written) = match &mut client.state {
            ClientState::Offline { state, .. } => {
                (state.deliver_offline(now, &self.node.limits, &client.id, forms.message(), matched), None)
            }
            ClientState::Online(key) => {
                let key = *key;
                let Some(conn) = self.conns.get_mut(key) else {
                    return;
                };
                let full = conn.outlet.len() > self.node.max_outbound;
                if full {
                    conn.session.set_congested();
                    if matched.qos.min(forms.message().qos()) == QoS::AtMostOnce {
                        // QoS 0 to a slow reader is dropped, not kept.
                        return self.counters.dropped(DropReason::SlowConsumer, 1);
                    }
                }
                let out = conn.outlet.buffer(&mut self.spares);
                let before = out.len();
                let delivery = conn.session.deliver(forms, now, matched, out);
                let written = out.len() - before;
                if written == 0 {
                    // A client that gets nothing keeps no buffer.
                    conn.outlet.release(&mut self.spares);
                }
                (delivery, Some((key, written)))
            }
        };
        match (delivery, written) {
            (Delivery::Sent(qos), Some((key, bytes))) => {
                self.counters.messages_out(count_as(qos), 1, bytes);
                self.mark_dirty(key);
            }
            (Delivery::Dropped(reason), _) => self.counters.dropped(drop_reason(reason), 1),
            (Delivery::Sent(_) | Delivery::Queued | Delivery::Skipped, _) => {}
        }
    }

    /// Makes the subscriptions of a SUBSCRIBE; the SUBACK may have to wait.
    pub(super) fn subscribe(
        &mut self,
        key: Key,
        packet_id: NonZeroU16,
        items: &[SubscribeItem],
        actions: &mut Vec<Action>,
    ) {
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) else {
            return;
        };
        let mut filters = Vec::with_capacity(items.len());
        let mut again = Vec::new();
        for item in items {
            let info = SubscriptionInfo { options: item.options, sub_id: item.sub_id };
            if self.index.insert(&item.filter, client.slot, info).replaced.is_some() {
                again.push(Arc::clone(&item.filter));
            }
            filters.push(Arc::clone(&item.filter));
        }
        self.counters.subscribed((filters.len() - again.len()) as u64);
        let barrier = self.node.router.subscribe(self.id, &filters);
        if !again.is_empty() {
            // A route is counted once a subscription. Who subscribes again still waits for the same barrier.
            self.node.router.unsubscribe(self.id, &again);
        }
        match barrier {
            Some(reached) => {
                self.barriers.push_back(Barrier { key, packet_id, filters: filters.len(), reached });
                self.barrier_ready.notify_one();
            }
            None => self.subscribed(key, packet_id, &[], actions),
        }
    }

    fn subscribed(
        &mut self,
        key: Key,
        packet_id: NonZeroU16,
        refused: &[(usize, ReasonCode)],
        actions: &mut Vec<Action>,
    ) {
        if let Some(conn) = self.conns.get_mut(key) {
            let out = conn.outlet.buffer(&mut self.spares);
            conn.session.on_subscribed(packet_id, refused, out, actions);
        }
    }

    /// A barrier was reached, or not in time.
    pub(super) fn barrier_done(
        &mut self,
        key: Key,
        packet_id: NonZeroU16,
        filters: usize,
        result: Result<(), BarrierError>,
    ) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let refused: Vec<(usize, ReasonCode)> = match result {
            Ok(()) => Vec::new(),
            // What did not reach every serving node in time is not promised: the client is told, and nothing is left behind.
            Err(error) => {
                tracing::warn!(client = %conn.session.client_id(), %error, "a SUBSCRIBE is refused");
                (0..filters).map(|at| (at, ReasonCode::UnspecifiedError)).collect()
            }
        };
        let client = conn.client;
        let before: Vec<Arc<str>> = if refused.is_empty() { Vec::new() } else { filters_of(&conn.session) };
        let mut actions = std::mem::take(&mut self.actions);
        self.subscribed(key, packet_id, &refused, &mut actions);
        if let (Some(client), false) = (client, refused.is_empty())
            && let Some(conn) = self.conns.get_mut(key)
        {
            let left = filters_of(&conn.session);
            let gone: Vec<Arc<str>> = before.into_iter().filter(|filter| !left.contains(filter)).collect();
            self.remove_from_index(client, &gone);
        }
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
    }

    /// Ends subscriptions.
    pub(super) fn unsubscribe(
        &mut self,
        key: Key,
        packet_id: NonZeroU16,
        filters: &[Arc<str>],
        actions: &mut Vec<Action>,
    ) {
        if let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) {
            self.remove_from_index(client, filters);
        }
        if let Some(conn) = self.conns.get_mut(key) {
            let out = conn.outlet.buffer(&mut self.spares);
            conn.session.on_unsubscribed(packet_id, out, actions);
        }
    }

    /// An item for another worker.
    pub(super) fn hand_over(&mut self, worker: u16, item: Item) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(worker)) {
            outgoing.push(item);
            self.flush.notify_one();
        }
    }

    /// Hands what waits to the other workers. False when one of them has no room: try again soon.
    pub(super) fn flush_outgoing(&mut self) -> bool {
        let mut all = true;
        for (inbox, outgoing) in self.node.inboxes.iter().zip(&mut self.outgoing) {
            if !outgoing.is_empty() {
                inbox.push(outgoing);
                all &= outgoing.is_empty();
            }
        }
        if all {
            for key in std::mem::take(&mut self.stalled) {
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.stalled = false;
                }
                self.wake(key);
            }
        }
        all
    }
}

fn filters_of(connection: &raftmq_session::Connection) -> Vec<Arc<str>> {
    connection.session().subscriptions().iter().map(|entry| Arc::clone(&entry.filter)).collect()
}

/// A client that matches by several filters gets the message once, with the highest QoS of them and all their identifiers.
fn for_each_client(matched: &mut [(u32, SubscriptionInfo)], mut each: impl FnMut(u32, &Matched)) {
    matched.sort_unstable_by_key(|(client, _)| *client);
    for same in matched.chunk_by(|one, other| one.0 == other.0) {
        if let [(client, first), others @ ..] = same {
            let mut all = Matched::by(first);
            others.iter().for_each(|(_, info)| all.merge(info));
            each(*client, &all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_mqtt::SubOptions;

    fn info(qos: QoS, sub_id: u32) -> SubscriptionInfo {
        SubscriptionInfo { options: SubOptions { qos, ..SubOptions::default() }, sub_id }
    }

    /// [MQTT-3.3.4-2], [MQTT-3.3.4-4], [MQTT311-3.3.5-1]
    #[test]
    fn overlapping_subscriptions_become_one_with_the_highest_qos() {
        let mut matched = vec![
            (7, info(QoS::AtMostOnce, 0)),
            (3, info(QoS::AtLeastOnce, 5)),
            (7, info(QoS::ExactlyOnce, 0)),
            (3, info(QoS::AtMostOnce, 6)),
        ];
        let mut found = Vec::new();
        for_each_client(&mut matched, |client, all| {
            let mut ids = all.sub_ids.to_vec();
            ids.sort_unstable();
            found.push((client, all.qos, ids));
        });
        assert_eq!(found, [(3, QoS::AtLeastOnce, vec![5, 6]), (7, QoS::ExactlyOnce, vec![])]);
    }
}
