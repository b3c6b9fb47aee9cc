//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5, 3.8 to 3.11).

mod unasked;

use std::{num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{
    Message, Packet, PacketType, Properties, QoS, ReasonCode, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe,
    Version,
};
use smallvec::SmallVec;

use crate::{Action, Connection, Limit, SubscribeItem, SubscriptionInfo, filter::ClientFilter, limits::Refusal};

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
    Subscribe(Vec<Asked>),
    Unsubscribe,
}

/// What the server was asked for.
#[derive(Debug)]
struct Asked {
    /// The place in the packet.
    at: usize,
    filter: Arc<str>,
}

impl Connection {
    /// Several filters are handled as one SUBSCRIBE after another `[MQTT-3.8.4-5]` `[MQTT311-3.8.4-4]`.
    pub(crate) fn on_subscribe(&mut self, subscribe: &Subscribe<'_>, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if let Err(refusal) = self.check_subscribe(subscribe) {
            let reason = refusal.noted(actions);
            return self.fault(reason, out, actions);
        }
        let packet_id = subscribe.packet_id;
        let sub_id = subscribe.properties.subscription_identifier().unwrap_or(0);
        let refused = self.refuse_request(packet_id, subscribe.subscriptions.len(), subscribe.properties);
        let mut reasons = Reasons::new();
        let mut items = Vec::new();
        let mut asked = Vec::new();
        for (at, subscription) in subscribe.subscriptions.iter().enumerate() {
            let reason = match refused.map_or_else(|| self.check_subscription(subscription), Err) {
                Ok((filter, qos)) => {
                    let options = raftmq_mqtt::SubOptions { qos, ..subscription.options };
                    let info = SubscriptionInfo { options, sub_id };
                    let replaced = self.state.subscribe(&filter, info);
                    asked.push(Asked { at, filter: filter.clone() });
                    items.push(SubscribeItem { filter, options, sub_id, replaced });
                    ReasonCode::granted(qos)
                }
                Err(refusal) => self.failure(refusal.noted(actions), subscription.options.qos),
            };
            reasons.push(reason);
        }
        if items.is_empty() {
            return self.send_suback(packet_id, reasons, out, actions);
        }
        self.pending.push(Pending { packet_id, reasons, kind: Kind::Subscribe(asked) });
        actions.push(Action::Subscribe { packet_id, items });
    }

    /// What ends the connection of an MQTT 5 client: CONNACK has told it what there is not (MQTT 5, 3.2.2.3.11 to 3.2.2.3.13), and no local
    /// with a shared subscription is a protocol error `[MQTT-3.8.3-4]`.
    fn check_subscribe(&self, subscribe: &Subscribe<'_>) -> Result<(), Refusal> {
        if !self.version.is_v5() {
            return Ok(());
        }
        let limits = &self.limits;
        if !limits.sub_ids_available && subscribe.properties.subscription_identifier().is_some() {
            return Err(Limit::SubscriptionIdentifier.into());
        }
        for subscription in &subscribe.subscriptions {
            let Ok(filter) = ClientFilter::parse(subscription.filter) else {
                continue;
            };
            if filter.is_shared() && !limits.shared_available {
                return Err(Limit::Shared.into());
            }
            if filter.has_wildcard() && !limits.wildcard_available {
                return Err(Limit::Wildcard.into());
            }
            if filter.is_shared() && subscription.options.no_local {
                return Err(ReasonCode::ProtocolError.into());
            }
        }
        Ok(())
    }

    /// The filter of the session and the QoS to grant, or why not.
    fn check_subscription(&self, subscription: &Subscription<'_>) -> Result<(Arc<str>, QoS), Refusal> {
        let limits = &self.limits;
        let filter = ClientFilter::parse(subscription.filter).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        if filter.is_shared() && !limits.shared_available {
            return Err(Limit::Shared.into());
        }
        if filter.has_wildcard() && !limits.wildcard_available {
            // [MQTT311-3.8.3-2]
            return Err(Limit::Wildcard.into());
        }
        if !limits.takes_topic(filter.filter()) {
            return Err(Refusal { reason: ReasonCode::TopicFilterInvalid, limit: Some(Limit::Topic) });
        }
        let filter = filter.mounted(limits.mount_point.as_deref());
        let full = self.state.subscriptions().len() >= limits.max_subscriptions;
        if full && !self.state.is_subscribed(&filter) {
            return Err(Limit::Subscriptions.into());
        }
        // [MQTT-3.2.2-10]
        Ok((filter, subscription.options.qos.min(limits.max_qos)))
    }

    /// An error in SUBACK. An MQTT 3.1 client cannot be told (MQTT 3.1, SUBSCRIBE: "it must therefore make a positive
    /// acknowledgement").
    fn failure(&self, reason: ReasonCode, asked: QoS) -> ReasonCode {
        match self.version {
            Version::V3_1 => ReasonCode::granted(asked.min(self.limits.max_qos)),
            _ if reason.is_error() && reason.allowed_in(PacketType::SubAck) => reason,
            _ => ReasonCode::UnspecifiedError,
        }
    }

    /// The server has made the subscriptions of [`Action::Subscribe`] and the barrier is passed: SUBACK `[MQTT-3.8.4-1]`
    /// `[MQTT311-3.8.4-1]` with the identifier of the SUBSCRIBE `[MQTT-3.8.4-2]` `[MQTT-2.2.1-6]` `[MQTT311-3.8.4-2]`
    /// `[MQTT311-2.3.1-7]`. `refused` are
    /// places in the action's list with the reasons why not: the session then has what it had before by such a filter, or nothing if it was
    /// new; what was granted later, or still waits, stays.
    ///
    /// Nothing is done for a connection that does not wait for it, such as one that is closed: [`crate::SessionState::settle`] is for
    /// its session.
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
            for (item, reason) in refused {
                let Some(asked) = asked.get(*item) else {
                    continue;
                };
                let granted = match pending.reasons[asked.at] {
                    ReasonCode::GrantedQoS1 => QoS::AtLeastOnce,
                    ReasonCode::GrantedQoS2 => QoS::ExactlyOnce,
                    _ => QoS::AtMostOnce,
                };
                pending.reasons[asked.at] = self.failure(*reason, granted);
                self.state.refuse(&asked.filter);
            }
            for asked in asked.iter().rev() {
                self.state.grant(&asked.filter);
            }
        }
        self.send_suback(packet_id, pending.reasons, out, actions);
    }

    /// [`crate::SessionState::settle`] for the session of this connection.
    pub fn settle(&mut self, items: &[SubscribeItem], refused: &[(usize, ReasonCode)]) {
        self.state.settle(items, refused);
    }

    /// Messages of shared subscriptions that the client has ended, which waited and were not sent: the others of the group get them.
    pub fn take_unsubscribed(&mut self) -> Vec<(Arc<str>, Message)> {
        self.state.take_unsubscribed()
    }

    /// Several filters are handled as one UNSUBSCRIBE after another `[MQTT-3.10.4-6]` `[MQTT311-3.10.4-6]`.
    pub(crate) fn on_unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe<'_>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let packet_id = unsubscribe.packet_id;
        let refused = self.refuse_request(packet_id, unsubscribe.filters.len(), unsubscribe.properties);
        let refused = refused.map(|refusal| refusal.noted(actions));
        let mut filters = Vec::new();
        let mut reasons = Reasons::new();
        for filter in &unsubscribe.filters {
            reasons.push(match refused {
                // UNSUBACK knows no exceeded quota.
                Some(ReasonCode::QuotaExceeded) => ReasonCode::ImplementationSpecificError,
                Some(reason) => reason,
                None => match self.unsubscribe(filter) {
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

    fn unsubscribe(&mut self, filter: &str) -> Option<Arc<str>> {
        match self.limits.mount_point.as_deref() {
            None => self.state.unsubscribe(filter),
            mount => self.state.unsubscribe(&ClientFilter::parse(filter).ok()?.mounted(mount)),
        }
    }

    /// Why a SUBSCRIBE or UNSUBSCRIBE is refused as a whole, if it is.
    fn refuse_request(&self, packet_id: NonZeroU16, filters: usize, properties: Properties<'_>) -> Option<Refusal> {
        if self.pending.iter().any(|pending| pending.packet_id == packet_id) {
            return Some(ReasonCode::PacketIdentifierInUse.into());
        }
        if !self.limits.takes_properties(properties) {
            return Some(Limit::UserProperties.into());
        }
        let waiting: usize = self.pending.iter().map(|pending| pending.reasons.len()).sum();
        (waiting + filters > self.limits.max_pending_filters).then(|| ReasonCode::QuotaExceeded.into())
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

    /// One reason for each filter `[MQTT-3.8.4-6]` `[MQTT-3.8.4-7]` `[MQTT311-3.8.4-5]` in their order `[MQTT-3.9.3-1]`
    /// `[MQTT311-3.9.3-1]`, of those for SUBACK `[MQTT-3.9.3-2]`; no reason string, no user property `[MQTT-3.9.2-1]` `[MQTT-3.9.2-2]`.
    fn send_suback(&mut self, packet_id: NonZeroU16, reasons: Reasons, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        self.send(&Packet::SubAck(SubAck { packet_id, properties: Properties::EMPTY, reasons }), out, actions);
    }

    /// Also if nothing was subscribed `[MQTT-3.10.4-4]` `[MQTT-3.10.4-5]` `[MQTT311-3.10.4-4]` `[MQTT311-3.10.4-5]`: one reason for each
    /// filter `[MQTT-3.11.3-2]` in their order `[MQTT-3.11.3-1]`; no reason string, no user property `[MQTT-3.11.2-1]` `[MQTT-3.11.2-2]`.
    fn send_unsuback(&mut self, packet_id: NonZeroU16, reasons: Reasons, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        self.send(&Packet::UnsubAck(UnsubAck { packet_id, properties: Properties::EMPTY, reasons }), out, actions);
    }
}
