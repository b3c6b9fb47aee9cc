//! SUBSCRIBE and UNSUBSCRIBE [MQTT5 3.8 to 3.11].

use std::{num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{
    Packet, PacketType, Properties, QoS, ReasonCode, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe,
    topic::TopicFilter,
};
use smallvec::SmallVec;

use crate::{Action, Connection, SubscribeItem, SubscriptionInfo};

type Reasons = SmallVec<[ReasonCode; 8]>;

/// An answer that waits for the server.
#[derive(Debug)]
pub(crate) struct Pending {
    packet_id: NonZeroU16,
    reasons: Reasons,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// What the server was asked for: the place in the packet, the filter, whether it was new.
    Subscribe(Vec<(usize, Arc<str>, bool)>),
    Unsubscribe,
}

impl Connection {
    pub(crate) fn on_subscribe(&mut self, subscribe: &Subscribe<'_>, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        let packet_id = subscribe.packet_id;
        let sub_id = subscribe.properties.subscription_identifier().unwrap_or(0);
        let refused = self.refuse_request(packet_id, subscribe.subscriptions.len());
        let mut reasons = Reasons::new();
        let mut items = Vec::new();
        let mut asked = Vec::new();
        for (at, subscription) in subscribe.subscriptions.iter().enumerate() {
            let reason = match refused.map_or_else(|| self.check_subscription(subscription), Err) {
                Ok(qos) => {
                    let filter: Arc<str> = subscription.filter.into();
                    let options = raftmq_mqtt::SubOptions { qos, ..subscription.options };
                    let new = self.state.subscribe(&filter, SubscriptionInfo { options, sub_id });
                    asked.push((at, filter.clone(), new));
                    items.push(SubscribeItem { filter, options, sub_id, new });
                    ReasonCode::granted(qos)
                }
                Err(reason) => reason,
            };
            reasons.push(reason);
        }
        if items.is_empty() {
            return self.send_suback(packet_id, reasons, out, actions);
        }
        self.pending.push(Pending { packet_id, reasons, kind: Kind::Subscribe(asked) });
        actions.push(Action::Subscribe { packet_id, items });
    }

    /// The QoS to grant, or why not.
    fn check_subscription(&self, subscription: &Subscription<'_>) -> Result<QoS, ReasonCode> {
        let filter = TopicFilter::parse(subscription.filter).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        if filter.group().is_some() {
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        let full = self.state.subscriptions().len() >= self.limits.max_subscriptions;
        if full && !self.state.is_subscribed(subscription.filter) {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(subscription.options.qos.min(QoS::AtLeastOnce))
    }

    /// The server has made the subscriptions of [`Action::Subscribe`] and the barrier is passed: SUBACK. `refused` are
    /// places in the action's list with the reasons why not; such a subscription is taken out of the session if it was new.
    pub fn on_subscribed(
        &mut self,
        packet_id: NonZeroU16,
        refused: &[(usize, ReasonCode)],
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let Some(mut pending) = self.take_pending(packet_id, true) else {
            return;
        };
        if let Kind::Subscribe(asked) = &pending.kind {
            for &(item, reason) in refused {
                let Some((at, filter, new)) = asked.get(item) else {
                    continue;
                };
                let known = reason.is_error() && reason.allowed_in(PacketType::SubAck);
                pending.reasons[*at] = if known { reason } else { ReasonCode::UnspecifiedError };
                if *new {
                    self.state.unsubscribe(filter);
                }
            }
        }
        self.send_suback(packet_id, pending.reasons, out, actions);
    }

    pub(crate) fn on_unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe<'_>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let packet_id = unsubscribe.packet_id;
        let refused = self.refuse_request(packet_id, unsubscribe.filters.len());
        let mut filters = Vec::new();
        let mut reasons = Reasons::new();
        for filter in &unsubscribe.filters {
            reasons.push(match refused {
                // UNSUBACK knows no exceeded quota.
                Some(ReasonCode::QuotaExceeded) => ReasonCode::ImplementationSpecificError,
                Some(reason) => reason,
                None => match self.state.unsubscribe(filter) {
                    Some(filter) => {
                        filters.push(filter);
                        ReasonCode::Success
                    }
                    None => ReasonCode::NoSubscriptionExisted,
                },
            });
        }
        if refused.is_some() && !self.version.is_v5() {
            // An MQTT 3 UNSUBACK can only say yes.
            return self.fault(ReasonCode::QuotaExceeded, out, actions);
        }
        if filters.is_empty() {
            return self.send_unsuback(packet_id, reasons, out, actions);
        }
        self.pending.push(Pending { packet_id, reasons, kind: Kind::Unsubscribe });
        actions.push(Action::Unsubscribe { packet_id, filters });
    }

    /// The server has ended the subscriptions of [`Action::Unsubscribe`]: UNSUBACK.
    pub fn on_unsubscribed(&mut self, packet_id: NonZeroU16, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if let Some(pending) = self.take_pending(packet_id, false) {
            self.send_unsuback(packet_id, pending.reasons, out, actions);
        }
    }

    /// Why a SUBSCRIBE or UNSUBSCRIBE is refused as a whole, if it is.
    fn refuse_request(&self, packet_id: NonZeroU16, filters: usize) -> Option<ReasonCode> {
        if self.pending.iter().any(|pending| pending.packet_id == packet_id) {
            return Some(ReasonCode::PacketIdentifierInUse);
        }
        let waiting: usize = self.pending.iter().map(|pending| pending.reasons.len()).sum();
        (waiting + filters > self.limits.max_pending_filters).then_some(ReasonCode::QuotaExceeded)
    }

    fn take_pending(&mut self, packet_id: NonZeroU16, subscribe: bool) -> Option<Pending> {
        let at = self.pending.iter().position(|pending| {
            pending.packet_id == packet_id && matches!(pending.kind, Kind::Subscribe(_)) == subscribe
        })?;
        let pending = self.pending.remove(at);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        Some(pending)
    }

    fn send_suback(&mut self, packet_id: NonZeroU16, reasons: Reasons, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        self.send(&Packet::SubAck(SubAck { packet_id, properties: Properties::EMPTY, reasons }), out, actions);
    }

    fn send_unsuback(&mut self, packet_id: NonZeroU16, reasons: Reasons, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        self.send(&Packet::UnsubAck(UnsubAck { packet_id, properties: Properties::EMPTY, reasons }), out, actions);
    }
}
