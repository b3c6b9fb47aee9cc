//! Messages to the clients of this worker.

use std::collections::VecDeque;

use raftmq_mqtt::{Message, PacketType, QoS, ReasonCode};
use raftmq_session::{Delivery, DropReason as Lost, Forms, Matched, Now, SubscriptionInfo};

use super::connection::{count_as, drop_reason};
use super::inbox::Item;
use super::shards::NAMESPACE;
use super::wheel::Key;
use super::{ClientState, Worker, limits_of};
use crate::metrics::DropReason;

/// In the index, a client's exclusive subscription is one of another subscriber than its plain one of the same filter.
pub(super) const EXCLUSIVE: u32 = 1 << 31;

impl Worker {
    /// Gives a message to the subscribers of this worker: those with a filter that its topic name matches `[MQTT-3.3.2-3]`
    /// `[MQTT311-3.3.2-3]`.
    pub(super) fn deliver(&mut self, message: &Message, now: Now) {
        let mut matched = std::mem::take(&mut self.matched);
        self.index.matches(message.topic(), |client, info| matched.push((client & !EXCLUSIVE, *info)));
        self.leave_out_own(message, &mut matched);
        if message.retain() || !self.given.is_empty() {
            self.leave_out_given(message, &mut matched);
        }
        if !matched.is_empty() {
            let mut forms = Forms::new(message.clone(), now);
            for_each_client(&mut matched, self.node.features.merge, |client, matched| {
                if let Some(reason) = self.deliver_to(client, matched, &mut forms, now) {
                    self.counters.dropped(reason, 1);
                }
            });
            matched.clear();
        }
        self.matched = matched;
    }

    /// What a client published itself does not match its subscriptions with No Local `[MQTT-3.8.3-3]`: neither their QoS nor their identifiers
    /// count where another subscription brings the message.
    fn leave_out_own(&mut self, message: &Message, matched: &mut Vec<(u32, SubscriptionInfo)>) {
        if !matched.iter().any(|(_, info)| info.options.no_local) {
            return;
        }
        let Some(slot) = self.by_id.get(message.publisher()).map(|own| own.slot) else {
            return;
        };
        let before = matched.len();
        matched.retain(|(client, info)| *client != slot || !info.options.no_local);
        if matched.len() < before && !matched.iter().any(|(client, _)| *client == slot) {
            self.counters.not_local();
        }
    }

    /// Who got something newer of its topic as retained, or will get that, does not get it.
    fn leave_out_given(&mut self, message: &Message, matched: &mut Vec<(u32, SubscriptionInfo)>) {
        if self.given.is_empty() && self.shard_replays.is_empty() {
            return;
        }
        let change = self.change_of(message);
        let out = self.given.leave_out(message, change, matched);
        if message.retain() {
            self.shard_replays.note_live(message, |to| out.binary_search(&to.slot).is_err());
        }
    }

    /// The change of what a shard retains that a message is, with the shard.
    fn change_of(&self, message: &Message) -> Option<(u16, u64)> {
        let number = message.change()?;
        Some((self.desk.as_ref()?.shards.shard_of(NAMESPACE, message.topic())?, number))
    }

    /// Gives a message to a client; the reason if it is lost to it.
    pub(super) fn deliver_to(
        &mut self,
        slot: u32,
        matched: &Matched,
        forms: &mut Forms,
        now: Now,
    ) -> Option<DropReason> {
        let (_, client) = self.clients.at_mut(slot)?;
        if client.owner.as_ref().is_some_and(|owner| owner.durable.is_some())
            && matched.qos.min(forms.message().qos()) > QoS::AtMostOnce
        {
            // From its queue.
            return None;
        }
        let delivery = match &mut client.state {
            ClientState::Offline { state, .. } => {
                let limits = limits_of(&self.node, &self.listeners, client.listener);
                state.deliver_offline(now, limits, &client.id, forms.message(), matched)
            }
            ClientState::Online(key) => {
                let key = *key;
                let conn = self.conns.get_mut(key)?;
                let full = conn.outlet.len() > conn.session.limits().max_outbound_bytes;
                if full {
                    conn.session.set_congested();
                    if matched.qos.min(forms.message().qos()) == QoS::AtMostOnce {
                        // QoS 0 to a slow reader is dropped, not kept.
                        self.fell_behind(key, QoS::AtMostOnce);
                        return Some(DropReason::SlowConsumer);
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
                match delivery {
                    Delivery::Sent(qos) => {
                        self.counters.messages_out(count_as(qos), 1, written);
                        if conn.outlet.is_counted(written) {
                            self.counters.packet_out(PacketType::Publish);
                        }
                        self.mark_dirty(key);
                    }
                    Delivery::Dropped(Lost::QueueFull) | Delivery::Displaced(_) => {
                        self.fell_behind(key, matched.qos.min(forms.message().qos()));
                    }
                    Delivery::Dropped(_) | Delivery::Skipped | Delivery::Queued => {}
                }
                delivery
            }
        };
        match delivery {
            Delivery::Dropped(reason) => Some(drop_reason(reason)),
            Delivery::Skipped => {
                if matched.no_local {
                    self.counters.not_local();
                }
                None
            }
            Delivery::Displaced(count) => {
                self.counters.dropped(DropReason::SessionQueueFull, u64::from(count));
                None
            }
            Delivery::Sent(_) | Delivery::Queued => None,
        }
    }

    /// A connected client has lost a message with this QoS because it does not read, or acknowledge, what it has: it is disconnected
    /// where its limits want that.
    fn fell_behind(&mut self, key: Key, qos: QoS) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.closing.is_none()) else {
            return;
        };
        let limits = conn.session.limits();
        let disconnects = match qos {
            QoS::AtMostOnce => limits.slow_qos0_disconnects,
            QoS::AtLeastOnce | QoS::ExactlyOnce => limits.slow_qos1_disconnects,
        };
        if disconnects {
            tracing::debug!(client = %conn.session.client_id(), ?qos, "a client that does not keep up is disconnected");
            self.close_by_server(key, ReasonCode::QuotaExceeded);
        }
    }

    /// Takes what is in the inbox.
    pub(super) fn take_arrived(&mut self) {
        let inbox = &self.node.inboxes[usize::from(self.id)];
        if self.arrived.is_empty() {
            inbox.take(&mut self.arrived);
        } else {
            let mut later = VecDeque::new();
            inbox.take(&mut later);
            self.arrived.append(&mut later);
        }
    }

    /// Delivers what other workers have handed over until now. For a subscription that begins now: what was acknowledged to its
    /// publisher before must not reach it.
    pub(super) fn catch_up(&mut self) {
        self.take_arrived();
        self.deliver_arrived();
    }

    /// Delivers what was taken from the inbox.
    pub(super) fn deliver_arrived(&mut self) {
        if self.arrived.is_empty() {
            return;
        }
        let now = self.node.clock.now();
        let mut others = VecDeque::new();
        while let Some(item) = self.arrived.pop_front() {
            match item {
                Item::Publish(message) => self.deliver(&message, now),
                Item::Shared(shared) => self.receive_shared(*shared),
                other => others.push_back(other),
            }
        }
        // Connections have to wait for the task that makes theirs; it was woken for them.
        self.arrived = others;
    }

    /// An item for another worker.
    pub(super) fn hand_over(&mut self, worker: u16, item: Item) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(worker)) {
            outgoing.push(item);
            self.flush.notify_one();
        }
    }

    /// Hands all to the other workers, whatever room they have: the node ends.
    pub(super) fn hand_over_all(&mut self) {
        for (inbox, outgoing) in self.node.inboxes.iter().zip(&mut self.outgoing) {
            inbox.push_all(outgoing);
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
            self.handed_over = self.sent;
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

/// A client that matches by several filters gets the message once, with the highest QoS of them and all their identifiers; without
/// `merge` once for each.
fn for_each_client(matched: &mut [(u32, SubscriptionInfo)], merge: bool, mut each: impl FnMut(u32, &Matched)) {
    matched.sort_unstable_by_key(|(client, _)| *client);
    for same in matched.chunk_by(|one, other| merge && one.0 == other.0) {
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

    fn found(merge: bool) -> Vec<(u32, QoS, Vec<u32>)> {
        let mut matched = vec![
            (7, info(QoS::AtMostOnce, 0)),
            (3, info(QoS::AtLeastOnce, 5)),
            (7, info(QoS::ExactlyOnce, 0)),
            (3, info(QoS::AtMostOnce, 6)),
        ];
        let mut found = Vec::new();
        for_each_client(&mut matched, merge, |client, all| {
            let mut ids = all.sub_ids.to_vec();
            ids.sort_unstable();
            found.push((client, all.qos, ids));
        });
        found
    }

    /// [MQTT-3.3.4-2], [MQTT-3.3.4-4], [MQTT311-3.3.5-1]
    #[test]
    fn overlapping_subscriptions_become_one_with_the_highest_qos() {
        assert_eq!(found(true), [(3, QoS::AtLeastOnce, vec![5, 6]), (7, QoS::ExactlyOnce, vec![])]);
    }

    #[test]
    fn or_each_brings_its_own_copy() {
        let mut found = found(false);
        found.sort_unstable();
        let expected = [
            (3, QoS::AtMostOnce, vec![6]),
            (3, QoS::AtLeastOnce, vec![5]),
            (7, QoS::AtMostOnce, vec![]),
            (7, QoS::ExactlyOnce, vec![]),
        ];
        assert_eq!(found, expected);
    }
}
