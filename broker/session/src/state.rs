//! The session: what outlives a connection.

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{Message, ReasonCode, SubOptions};

use crate::{
    Delivery, DropReason, Matched, Now, PublishToken, SessionLimits, SubscribeItem,
    filter::{is_of_group, mount_length, shows_hidden},
    message::OutMessage,
    outbound::Outbound,
    received::{Known, Received},
    unsettled::Unsettled,
};

/// A subscription of a session, without its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscriptionInfo {
    /// Its options, with the granted QoS.
    pub options: SubOptions,
    /// The subscription identifier; 0 for none.
    pub sub_id: u32,
}

/// A subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionEntry {
    /// The full filter: [`crate::SubscribeItem::filter`].
    pub filter: Arc<str>,
    /// Its options.
    pub info: SubscriptionInfo,
}

/// The session of a client: its subscriptions, the messages in flight to it and those that wait, and the identifiers of its
/// messages with QoS 2 that it has not released (MQTT 5, 4.1). Its will is the server's to keep.
///
/// The server keeps it while the client is not connected, and gives it back by [`crate::OpenResult::Accepted`].
#[derive(Debug, Default)]
pub struct SessionState {
    /// Sorted by filter: small, and nothing is allocated without subscriptions.
    subscriptions: Vec<SubscriptionEntry>,
    pub(crate) outbound: Outbound,
    /// Most clients publish nothing with QoS 2.
    received: Option<Box<Received>>,
    /// Nothing is allocated while nothing waits.
    pub(crate) unsettled: Option<Box<Unsettled>>,
    pub(crate) expiry_s: u32,
    /// Messages with QoS 0 dropped at the end of a connection and not counted by the server yet.
    dropped_qos0: u32,
}

impl SessionState {
    /// A session with subscriptions that were made on another node. Of several with the same filter the last counts.
    #[must_use]
    pub fn with_subscriptions(subscriptions: impl IntoIterator<Item = SubscriptionEntry>) -> Self {
        let by_filter: BTreeMap<_, _> = subscriptions.into_iter().map(|entry| (entry.filter, entry.info)).collect();
        let subscriptions = by_filter.into_iter().map(|(filter, info)| SubscriptionEntry { filter, info }).collect();
        Self { subscriptions, ..Self::default() }
    }

    /// The subscriptions, ordered by filter.
    #[must_use]
    pub fn subscriptions(&self) -> &[SubscriptionEntry] {
        &self.subscriptions
    }

    /// What the session has by a full filter.
    #[must_use]
    pub fn subscription(&self, filter: &str) -> Option<SubscriptionInfo> {
        self.position(filter).ok().map(|at| self.subscriptions[at].info)
    }

    /// Seconds that the session is to be kept from the end of its connection: 0 not at all, `u32::MAX` for ever
    /// `[MQTT-3.1.2-23]` `[MQTT-4.1.0-2]`.
    #[must_use]
    pub fn expiry_s(&self) -> u32 {
        self.expiry_s
    }

    /// Messages in flight and messages waiting.
    #[must_use]
    pub fn messages(&self) -> (usize, usize) {
        (self.outbound.in_flight(), self.outbound.queued())
    }

    /// Messages with QoS 2 that the client has published and not released.
    #[must_use]
    pub fn unreleased(&self) -> usize {
        self.received.as_ref().map_or(0, |received| received.len())
    }

    /// Keeps a message for a client that is not connected `[MQTT311-3.1.2-5]`. QoS 0 is dropped unless the limits want it kept; so is
    /// what they do not allow: the newest goes, what is there stays.
    pub fn deliver_offline(
        &mut self,
        now: Now,
        limits: &SessionLimits,
        client_id: &str,
        message: &Message,
        matched: &Matched,
    ) -> Delivery {
        if let Some(refused) = self.refuses(now, limits, client_id, message, matched) {
            return refused;
        }
        let out = OutMessage::new(message, matched);
        if out.is_qos0() && !limits.queue_qos0_offline {
            return Delivery::Dropped(DropReason::Offline);
        }
        self.outbound.enqueue(limits, now, out)
    }

    pub(crate) fn drop_qos0(&mut self) {
        self.dropped_qos0 = self.dropped_qos0.saturating_add(self.outbound.drop_qos0());
    }

    /// How many messages with QoS 0 were dropped because the connection ended ([`DropReason::Offline`]), since this was asked last.
    pub fn take_dropped_qos0(&mut self) -> u32 {
        std::mem::take(&mut self.dropped_qos0)
    }

    /// Why a message does not go to the client, if it does not.
    pub(crate) fn refuses(
        &self,
        now: Now,
        limits: &SessionLimits,
        client_id: &str,
        message: &Message,
        matched: &Matched,
    ) -> Option<Delivery> {
        if matched.skips(message, client_id) {
            return Some(Delivery::Skipped);
        }
        if message.is_expired(now.unix_ms) {
            // [MQTT-3.3.2-5]
            return Some(Delivery::Dropped(DropReason::Expired));
        }
        self.hides(limits, message).then_some(Delivery::Skipped)
    }

    /// Whether a message has no topic behind the client's mount point, or one that its wildcards do not mean there.
    pub(crate) fn hides(&self, limits: &SessionLimits, message: &Message) -> bool {
        let Some(mount) = limits.mount_point.as_deref().filter(|mount| !mount.is_empty()) else {
            return false;
        };
        let own = mount_length(Some(mount), message.topic_bytes());
        if own == 0 {
            // `m/#` matches `m` too, which is nobody's behind the mount point `m/`.
            return true;
        }
        message.topic_bytes()[own] == b'$'
            && !self.subscriptions.iter().any(|entry| shows_hidden(&entry.filter, mount, message.topic()))
    }

    /// The server is done with a PUBLISH of this session whose connection has ended; as [`crate::Connection::on_published`].
    pub fn on_published(&mut self, token: PublishToken, reason: ReasonCode) {
        self.complete(token, reason);
    }

    /// What others of shared subscriptions must get because the session ends: messages above QoS 0 that were not sent, or sent
    /// with QoS 1 and not acknowledged, each with the full filter of its subscription, in their order. Everything else that is in
    /// flight or waits is forgotten.
    pub fn take_shared(&mut self) -> Vec<(Arc<str>, Message)> {
        self.outbound.take_shared()
    }

    /// Messages of shared subscriptions that the session has no more, as [`crate::Connection::take_unsubscribed`].
    pub fn take_unsubscribed(&mut self) -> Vec<(Arc<str>, Message)> {
        let subscriptions = &self.subscriptions;
        let keep = |group: &str| subscriptions.iter().any(|entry| is_of_group(&entry.filter, group));
        self.outbound.take_unshared(keep)
    }

    /// The session's queue is in a shard from now on, and this is what the shard says of identifiers that the client has not released. What the
    /// session had of its own above QoS 0 is forgotten.
    pub(crate) fn follow_shard(&mut self, received: &[NonZeroU16]) {
        self.outbound.keep_qos0();
        self.received = (!received.is_empty()).then(|| Box::new(Received::of_shard(received)));
    }

    /// A new connection takes the session up.
    pub(crate) fn restart(&mut self) {
        self.outbound.restart();
        // A client that published with QoS 2 once takes no memory for it for ever.
        self.received.take_if(|received| received.is_empty());
        if let Some(received) = &mut self.received {
            received.restart();
        }
    }

    pub(crate) fn received(&self) -> Option<&Received> {
        self.received.as_deref()
    }

    pub(crate) fn received_mut(&mut self) -> &mut Received {
        self.received.get_or_insert_default()
    }

    /// What is known of an identifier of a QoS 2 message.
    pub(crate) fn known(&self, id: NonZeroU16) -> Known {
        self.received.as_ref().map_or(Known::No, |received| received.state(id))
    }

    /// The identifier of a message with QoS 2 that the server is done with; `None` if the token is not of one.
    pub(crate) fn complete(&mut self, token: PublishToken, reason: ReasonCode) -> Option<NonZeroU16> {
        self.received.as_mut()?.complete(token, reason)
    }

    pub(crate) fn release(&mut self, id: NonZeroU16) {
        if let Some(received) = &mut self.received {
            received.release(id);
        }
    }

    /// Adds, or replaces `[MQTT-3.8.4-3]` `[MQTT311-3.8.4-3]`, until the server says yes or no to it; gives what was there. The filter is an
    /// allocation of this request alone.
    pub(crate) fn subscribe(&mut self, filter: &Arc<str>, info: SubscriptionInfo) -> Option<SubscriptionInfo> {
        let replaced = match self.position(filter) {
            Ok(at) => Some(std::mem::replace(&mut self.subscriptions[at].info, info)),
            Err(at) => {
                self.subscriptions.insert(at, SubscriptionEntry { filter: filter.clone(), info });
                None
            }
        };
        self.unsettled.get_or_insert_default().add(filter, replaced);
        replaced
    }

    /// The server is done with subscriptions that were asked for in this session, as it says by [`crate::Connection::on_subscribed`] to a
    /// client that waits for the answer: for those whose connection has ended, and for what nobody has asked for. Said twice it
    /// changes nothing.
    pub fn settle(&mut self, items: &[SubscribeItem], refused: &[(usize, ReasonCode)]) {
        for (at, _) in refused.iter().rev() {
            if let Some(item) = items.get(*at) {
                self.refuse(&item.filter);
            }
        }
        for item in items.iter().rev() {
            self.grant(&item.filter);
        }
    }

    /// The server has made a subscription of [`SessionState::subscribe`].
    pub(crate) fn grant(&mut self, filter: &Arc<str>) {
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.grant(filter);
        }
        self.unsettled.take_if(|unsettled| unsettled.is_empty());
    }

    /// Takes [`SessionState::subscribe`] back: the session has again what it had before, unless the subscription was ended since, or
    /// replaced by one that was granted or still waits.
    pub(crate) fn refuse(&mut self, filter: &Arc<str>) {
        let again = self.unsettled.as_mut().and_then(|unsettled| unsettled.refuse(filter));
        self.unsettled.take_if(|unsettled| unsettled.is_empty());
        if let (Some(again), Ok(at)) = (again, self.position(filter)) {
            match again {
                Some(info) => self.subscriptions[at].info = info,
                None => {
                    self.subscriptions.remove(at);
                }
            }
        }
    }

    pub(crate) fn is_subscribed(&self, filter: &str) -> bool {
        self.position(filter).is_ok()
    }

    /// Compared byte by byte `[MQTT-3.10.4-1]` `[MQTT311-3.10.4-1]`. What is in flight by it goes on `[MQTT-3.10.4-3]`
    /// `[MQTT311-3.10.4-3]`.
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> Option<Arc<str>> {
        let at = self.position(filter).ok()?;
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.end(filter);
        }
        self.unsettled.take_if(|unsettled| unsettled.is_empty());
        let removed = self.subscriptions.remove(at);
        Some(removed.filter)
    }

    fn position(&self, filter: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|entry| (*entry.filter).cmp(filter))
    }
}
