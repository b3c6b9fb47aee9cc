//! A message on its way from whoever published it to the workers and nodes that have subscribers.
//!
//! `rewrite → $delayed/ → retained → routes`. A message without RETAIN on a topic that does not begin with `$`, on a node without
//! rules for topics, passes the first three by with one comparison.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use raftmq_features::delayed::{self, Pushed};
use raftmq_features::{ServerMessage, with_topic};
use raftmq_mqtt::{Message, QoS, ReasonCode};
use raftmq_routing::{Forwards, RetainOutcome, Targets};
use raftmq_session::{Action, Now, Origins, PublishToken};
use raftmq_shard::group_mark;

use super::Worker;
use super::commits::Publishing;
use super::inbox::Item;
use super::mount;
use super::retained::{Retaining, topic_hash};
use super::wheel::Key;
use crate::metrics::{DropReason, PublishRefusal};

/// Messages whose time has come that are published in one tick, so that it does not take long.
const DUE_A_TICK: usize = 4_096;

/// What became of a message.
pub(super) struct Routed {
    /// Somebody had subscribed to it.
    pub(super) matched: bool,
    /// The queue to another worker is long: its publisher has to wait.
    pub(super) stalled: bool,
    /// Shards have to commit it before it is acknowledged.
    pub(super) shards: Option<Rc<Publishing>>,
    /// It is on its way to the shard that retains it, and to nobody before it is there.
    pub(super) retaining: Option<Rc<Retaining>>,
}

impl Routed {
    /// Nothing more is to be done.
    pub(super) fn done() -> Self {
        Self { matched: true, stalled: false, shards: None, retaining: None }
    }
}

/// How far a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To all nodes, and to shards.
    Cluster,
    /// To live subscribers of all nodes: shards have it.
    Live,
    /// To all nodes, and to shards but this one, which has it.
    Beside(u16),
    /// To subscribers of this node only.
    Node,
}

impl Worker {
    /// Routes a client's message; one with QoS 0 only while the node has not too much to do.
    pub(super) fn publish(
        &mut self,
        key: Key,
        message: Message,
        token: Option<PublishToken>,
        actions: &mut Vec<Action>,
    ) {
        // Who gets no answer has sent it with QoS 0.
        if token.is_none() && self.node.overload.sheds() {
            return self.counters.dropped(DropReason::Overload, 1);
        }
        if self.knows_shards() && self.behind_retained(key, &message, token, None) {
            return;
        }
        let sent = self.sent;
        let topic = if message.retain() { topic_hash(&message) } else { 0 };
        let plain =
            message.topic_bytes().first() != Some(&b'$') && !message.retain() && !self.rules.rewriter.publishes();
        let result = if plain {
            Ok(self.route(&message, Reach::Cluster, self.read_at))
        } else {
            self.publish_other(key, message)
        };
        if self.sent != sent
            && let Some(conn) = self.conns.get_mut(key)
        {
            conn.sent = self.sent;
        }
        self.end_publish(key, token, result, topic, actions);
    }

    /// What is to be done for the publisher of a message that was routed, or was not; what stands for its topic, if it is to be retained.
    pub(super) fn end_publish(
        &mut self,
        key: Key,
        token: Option<PublishToken>,
        result: Result<Routed, ReasonCode>,
        topic: u64,
        actions: &mut Vec<Action>,
    ) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut shards = None;
        let reason = match result {
            Ok(Routed { retaining: Some(retaining), .. }) => {
                return self.wait_for_retained(key, &retaining, token, topic);
            }
            Ok(routed) => {
                shards = routed.shards;
                if routed.stalled && !conn.stalled {
                    conn.stalled = true;
                    self.stalled.push(key);
                }
                if routed.matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers }
            }
            Err(reason) => reason,
        };
        if let (Some(token), Some(publishing)) = (token, shards) {
            return self.wait_for_shards(key, &publishing, token, reason);
        }
        if let Some(token) = token {
            let out = conn.outlet.buffer(&mut self.spares);
            conn.session.on_published(token, reason, out, actions);
        }
    }

    /// A client's message that is not just to be routed.
    fn publish_other(&mut self, key: Key, message: Message) -> Result<Routed, ReasonCode> {
        let message = match self.rewritten_message(key, &message) {
            Ok(Some(new)) => new,
            Ok(None) => message,
            Err(reason) => {
                self.counters.publish_refused(PublishRefusal::Topic);
                return Err(reason);
            }
        };
        let v5 = self.conns.get_mut(key).is_some_and(|conn| conn.session.version().is_some_and(|v| v.is_v5()));
        self.accept(message, v5)
    }

    /// The message under the topic that the rules give it.
    pub(super) fn rewritten_message(&mut self, key: Key, message: &Message) -> Result<Option<Message>, ReasonCode> {
        if !self.rules.rewriter.publishes() {
            return Ok(None);
        }
        match self.rewritten_topic(key, message.topic())? {
            Some(topic) => with_topic(message, &topic).map(Some).map_err(|_| ReasonCode::TopicNameInvalid),
            None => Ok(None),
        }
    }

    /// The topic that the rules make of a client's topic, both with the mount point.
    pub(super) fn rewritten_topic(&mut self, key: Key, topic: &str) -> Result<Option<String>, ReasonCode> {
        let Some(conn) = self.conns.get_mut(key) else {
            return Ok(None);
        };
        let limits = super::limits_of(&self.node, &self.listeners, conn.listener);
        let mount = limits.mount_point.as_deref();
        let own = mount::client_topic(mount, topic);
        let new = self.rules.rewriter.topic(&own, &conn.vars()).map_err(|error| {
            tracing::debug!(client = %conn.session.client_id(), %error, "a PUBLISH is refused");
            raftmq_features::rewrite::RewriteError::PUBLISH
        })?;
        Ok(new.map(|new| mount::mounted_topic(mount, new)))
    }

    /// Takes a message that a client published, now or before a delay. `tell`: the publisher can be told why not; if it
    /// cannot, the message is dropped and counted, or delivered and not kept.
    pub(super) fn accept(&mut self, message: Message, tell: bool) -> Result<Routed, ReasonCode> {
        let now = self.node.clock.now();
        match delayed::parse(message.topic(), "", now.unix_ms, &self.node.features.delayed.settings) {
            None => {}
            Some(Ok(parsed)) if is_reserved(&parsed.topic) => return self.refuse(ReasonCode::NotAuthorized, true),
            Some(Ok(parsed)) => {
                let Ok(later) = with_topic(&message, &parsed.topic) else {
                    return self.refuse(ReasonCode::TopicNameInvalid, tell);
                };
                let delay_ms = parsed.due_ms.saturating_sub(now.unix_ms);
                if let Some(delaying) = self.delay_in_shard(&later, delay_ms) {
                    return Ok(Routed { shards: Some(delaying), ..Routed::done() });
                }
                return match self.node.features.delayed.push(now.unix_ms, parsed.due_ms, later) {
                    Pushed::Waits | Pushed::Expires => Ok(Routed::done()),
                    Pushed::Full => self.refuse(ReasonCode::QuotaExceeded, tell),
                };
            }
            Some(Err(error)) => return self.refuse(error.reason_code(), tell),
        }
        if is_reserved(message.topic()) {
            return self.refuse(ReasonCode::NotAuthorized, true);
        }
        self.publish_now(&message, now, tell, Reach::Cluster)
    }

    /// What a refused message comes to.
    fn refuse(&mut self, reason: ReasonCode, tell: bool) -> Result<Routed, ReasonCode> {
        self.counters.publish_refused(match reason {
            ReasonCode::NotAuthorized => PublishRefusal::NotAuthorized,
            ReasonCode::QuotaExceeded => PublishRefusal::Quota,
            _ => PublishRefusal::Topic,
        });
        if tell { Err(reason) } else { Ok(Routed::done()) }
    }

    /// Keeps the message if it is to be retained, and routes it.
    ///
    /// Under one lock with the handing over to the other workers, which take what is handed over and read what is retained under it: so
    /// each topic's messages reach each of them in the order in which they are retained, and nobody gets an older one after a newer.
    fn publish_now(&mut self, message: &Message, now: Now, tell: bool, reach: Reach) -> Result<Routed, ReasonCode> {
        let node = Arc::clone(&self.node);
        if !message.retain() || !node.features.retain {
            return Ok(self.route(message, reach, now));
        }
        if reach == Reach::Cluster
            && !is_reserved(message.topic())
            && let Some(retaining) = self.retain_in_shard(message, tell)
        {
            return Ok(Routed { retaining: Some(retaining), ..Routed::done() });
        }
        let mut retained = node.features.retained_mut();
        let outcome = retained.set(message, now.unix_ms);
        let own = is_reserved(message.topic());
        if matches!(outcome, RetainOutcome::Stored | RetainOutcome::Replaced) && !own {
            self.counters.retained();
        }
        if outcome.is_refused() && !own {
            self.counters.publish_refused(PublishRefusal::Quota);
            if tell && message.qos() > raftmq_mqtt::QoS::AtMostOnce {
                return Err(ReasonCode::QuotaExceeded);
            }
        }
        let routed = self.route(message, reach, now);
        for (inbox, outgoing) in node.inboxes.iter().zip(&mut self.outgoing) {
            inbox.push_all(outgoing);
        }
        Ok(routed)
    }

    /// Publishes what the server itself has to say.
    pub(super) fn publish_own(&mut self, message: &ServerMessage, reach: Reach) {
        let now = self.node.clock.now();
        match message.to_message(next_origin(&mut self.origins), now.unix_ms) {
            Ok(message) => {
                // Nobody waits for an answer.
                let _ = self.publish_now(&message, now, false, reach);
            }
            Err(error) => tracing::warn!(topic = message.topic, %error, "cannot publish"),
        }
    }

    /// Publishes the delayed messages whose time has come, as if they had just been received.
    pub(super) fn publish_due(&mut self) {
        let now = self.node.clock.now();
        let mut due = std::mem::take(&mut self.due_messages);
        self.node.features.delayed.take_due(now.unix_ms, DUE_A_TICK, &mut due);
        for message in due.drain(..) {
            let _ = self.publish_now(&message, now, false, Reach::Cluster);
        }
        self.due_messages = due;
    }

    /// Hands a message to everybody who has subscribers of it.
    pub(super) fn route(&mut self, message: &Message, reach: Reach, now: Now) -> Routed {
        let mut targets = std::mem::take(&mut self.targets);
        targets.clone_from(self.cache.lookup(message.topic()));
        if reach == Reach::Node {
            targets.nodes.clear();
        }
        let mut routed = Routed { matched: !targets.is_empty(), ..Routed::done() };
        if let Reach::Cluster | Reach::Beside(_) = reach
            && !targets.shards().is_empty()
        {
            let except = if let Reach::Beside(shard) = reach { Some(shard) } else { None };
            routed.shards = self.publish_to_shards(message, targets.shards(), except);
            if let Some(publishing) = &routed.shards
                && (except.is_some() || targets.goes_live())
            {
                publishing.goes_live();
            }
        }
        for worker in targets.workers() {
            if worker == self.id {
                self.deliver(message, now);
            } else {
                routed.stalled |= self.send_to(worker, Item::Publish(message.clone()));
            }
        }
        if targets.shared.is_some() {
            routed.stalled |= self.route_shared(message, &targets, reach);
        } else if !targets.nodes.is_empty() {
            self.forward(message, &targets.nodes);
        }
        if !is_reserved(message.topic()) {
            self.counters.routed(routed.matched);
        }
        self.targets = targets;
        routed
    }

    /// Hands a message to the groups that match, and to the other nodes.
    fn route_shared(&mut self, message: &Message, targets: &Targets, reach: Reach) -> bool {
        let mut forwards = Forwards::new();
        forwards.plain(&targets.nodes);
        let mut stalled = false;
        let to_shards = if message.qos() > QoS::AtMostOnce { targets.shards() } else { &[] };
        for group in targets.shared() {
            // Its queue takes it there, for members whose sessions are durable: in a shard that the message goes to.
            if !to_shards.is_empty()
                && self.cache.lookup(&group_mark(&group.key)).shards().iter().any(|shard| to_shards.contains(shard))
            {
                continue;
            }
            let nodes = if reach == Reach::Node { &[][..] } else { &group.nodes[..] };
            stalled |= self.share(message, &group.key, nodes, super::sharing::Attempt::default(), &mut forwards);
        }
        self.send_frames(message, forwards);
        stalled
    }

    /// An item for another worker of this node. True: too much waits for it.
    pub(super) fn send_to(&mut self, worker: u8, item: Item) -> bool {
        let Some(outgoing) = self.outgoing.get_mut(usize::from(worker)) else {
            return false;
        };
        if outgoing.is_empty() {
            self.flush.notify_one();
        }
        outgoing.push(item);
        self.sent += 1;
        outgoing.is_long()
    }

    /// One frame for each node, whatever its number of subscribers.
    fn forward(&mut self, message: &Message, nodes: &[u64]) {
        let mut frame = Vec::with_capacity(message.wire_len());
        message.to_wire(&mut frame);
        let taken = self.node.router.forward(nodes, &Bytes::from(frame));
        self.counters.forwarded(taken as u64);
        let lost = nodes.len().saturating_sub(taken);
        if lost > 0 {
            self.counters.dropped(DropReason::LinkQueueFull, lost as u64);
        }
    }
}

/// Topics that only the server publishes to.
pub(crate) fn is_reserved(topic: &str) -> bool {
    topic.strip_prefix("$SYS").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The name of a message that no client published.
pub(super) const fn next_origin(origins: &mut Origins) -> raftmq_mqtt::Origin {
    let origin = raftmq_mqtt::Origin { node: origins.node, sequence: origins.next };
    origins.next += 1;
    origin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_topics() {
        for (topic, expected) in [("$SYS", true), ("$SYS/a", true), ("$SYSTEM/a", false), ("a/$SYS/b", false)] {
            assert_eq!(is_reserved(topic), expected, "{topic}");
        }
    }
}
