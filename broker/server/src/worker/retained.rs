//! Retained messages of a cluster with shards: each topic's is in the shard of the topic.
//!
//! A message with RETAIN goes to that shard first, and to its subscribers, and to the shards of durable sessions, when it is committed there: nobody gets a message that
//! a later lookup might not find. What its publisher sends to the same topic without RETAIN goes behind it.
//!
//! What subscribers get of that: [`super::shard_replay`].

use std::cell::RefCell;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::LazyLock;

use raftmq_mqtt::{Message, QoS, ReasonCode};
use raftmq_session::PublishToken;
use raftmq_shard::{Bounds, Op, OpAnswer};

use super::Worker;
use super::commits::Publishing;
use super::keeping::OfShard;
use super::publish::{Reach, Routed};
use super::shards::{NAMESPACE, Outcome, Waiting};
use super::wheel::Key;
use crate::metrics::PublishRefusal;

/// Messages to be retained that a connection has under way; with so many it is not read.
const UNDER_WAY: usize = 64;

/// A message on its way into the shard that retains it.
pub(super) struct Retaining {
    message: Message,
    shard: u16,
    /// Its publisher can be told that it is refused.
    tell: bool,
    /// Its publisher, and by when it must be answered.
    publisher: RefCell<Option<Publisher>>,
}

pub(super) struct Publisher {
    pub(super) key: Key,
    pub(super) token: Option<PublishToken>,
    pub(super) watched: Rc<Publishing>,
    pub(super) topic: u64,
}

/// What a connection has under way to shards that retain it.
#[derive(Default)]
pub(super) struct OfPublisher {
    /// The topics, as hashes, each as often as it is under way.
    pub(super) topics: Vec<u64>,
    /// A message that goes behind one of them.
    behind: Option<Behind>,
    /// Those that go by the shard of its session.
    pub(super) of_shard: OfShard,
}

struct Behind {
    message: Message,
    token: Option<PublishToken>,
    /// The packet identifier of one with QoS 2, of a durable session.
    id: Option<NonZeroU16>,
}

impl OfPublisher {
    /// It can take no more.
    pub(super) fn is_full(&self) -> bool {
        self.behind.is_some() || self.topics.len() >= UNDER_WAY
    }
}

/// By what it is told whether two messages are of one topic. Two topics with the same one wait for each other for nothing.
pub(super) fn topic_hash(message: &Message) -> u64 {
    static STATE: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);
    STATE.hash_one(message.topic_bytes())
}

impl Worker {
    /// Hands a message to the shard that retains it. `None`: there are no shards, it is this node's to retain.
    pub(super) fn retain_in_shard(&mut self, message: &Message, tell: bool) -> Option<Rc<Retaining>> {
        if !self.in_shards() {
            return None;
        }
        let shard = self.desk.as_ref()?.shards.shard_of(NAMESPACE, message.topic())?;
        let bounds = self.retained_bounds(message);
        let retaining = Rc::new(Retaining { message: message.clone(), shard, tell, publisher: RefCell::default() });
        // One that is too long is refused as one for which there is no room.
        let known = match bounds {
            None => Some(Ok(OpAnswer::NoRoom)),
            Some(bounds) => {
                let op = Op::Retain { namespace: NAMESPACE, message: message.clone(), bounds };
                let waiting = Waiting::Retained(Rc::clone(&retaining));
                self.desk.as_mut().and_then(|desk| desk.push(shard, op, waiting)).map(|(_, outcome)| outcome)
            }
        };
        if let Some(outcome) = known {
            // In a turn of its own: its publisher is about to wait for it.
            let retaining = Rc::clone(&retaining);
            self.do_later(Box::new(move |worker| {
                Box::pin(async move { worker.borrow_mut().retained_by_shard(&retaining, &outcome) })
            }));
        }
        Some(retaining)
    }

    /// How much a shard may retain: each has its part of what the cluster may. `None`: not this message, it is too long, or nothing is retained.
    pub(super) fn retained_bounds(&self, message: &Message) -> Option<Bounds> {
        let count = u64::from(self.desk.as_ref()?.shards.count()).max(1);
        let limits = self.node.features.retained().limits();
        let fits = self.node.features.retain && message.payload().len() <= limits.payload;
        fits.then(|| Bounds {
            messages: (limits.messages as u64).div_ceil(count),
            bytes: (limits.bytes as u64).div_ceil(count),
        })
    }

    /// The publisher of a message that is to be retained waits for its shard. It is read on: what it publishes to other topics, or to be retained, need not wait.
    pub(super) fn wait_for_retained(
        &mut self,
        key: Key,
        retaining: &Retaining,
        token: Option<PublishToken>,
        topic: u64,
    ) {
        let watched = self.watch_commit(key, token);
        *retaining.publisher.borrow_mut() = Some(Publisher { key, token, watched, topic });
        if let Some(conn) = self.conns.get_mut(key) {
            conn.retaining.get_or_insert_default().topics.push(topic);
        }
        self.stall_for_shards(key);
    }

    /// A message that must not overtake one of its topic: it is published behind that; with an identifier, by way of the shard of its publisher's session. False: there is no such one.
    pub(super) fn behind_retained(
        &mut self,
        key: Key,
        message: &Message,
        token: Option<PublishToken>,
        id: Option<NonZeroU16>,
    ) -> bool {
        let Some(retaining) = self.conns.get_mut(key).and_then(|conn| conn.retaining.as_mut()) else {
            return false;
        };
        let behind = !message.retain() && retaining.topics.contains(&topic_hash(message));
        if behind {
            retaining.behind = Some(Behind { message: message.clone(), token, id });
        }
        behind
    }

    /// The shard has answered.
    pub(super) fn retained_by_shard(&mut self, retaining: &Retaining, outcome: &Outcome) {
        let (now, sent) = (self.node.clock.now(), self.sent);
        let message = &retaining.message;
        let result = match outcome {
            Ok(OpAnswer::Retained { number, .. }) => {
                self.counters.retained();
                Some(Ok(self.route(&message.with_change(*number), Reach::Beside(retaining.shard), now)))
            }
            Ok(OpAnswer::NoRoom) => {
                self.counters.publish_refused(PublishRefusal::Quota);
                Some(if retaining.tell && message.qos() > QoS::AtMostOnce {
                    Err(ReasonCode::QuotaExceeded)
                } else {
                    Ok(self.route(message, Reach::Cluster, now))
                })
            }
            _ => None,
        };
        let publisher = retaining.publisher.borrow_mut().take();
        if let Some(publisher) = publisher {
            let waits = publisher.watched.end();
            if self.sent != sent
                && let Some(conn) = self.conns.get_mut(publisher.key)
            {
                conn.sent = self.sent;
            }
            self.end_retaining(&publisher, publisher.token.filter(|_| waits), result);
        }
    }

    /// The publisher of a message that was to be retained is answered, and what went behind it goes on.
    pub(super) fn end_retaining(
        &mut self,
        publisher: &Publisher,
        token: Option<PublishToken>,
        result: Option<Result<Routed, ReasonCode>>,
    ) {
        let Publisher { key, topic, .. } = *publisher;
        let mut behind = None;
        if let Some(retaining) = self.conns.get_mut(key).and_then(|conn| conn.retaining.as_mut()) {
            if let Some(at) = retaining.topics.iter().position(|known| *known == topic) {
                retaining.topics.remove(at);
            }
            let free = |message: &Message| !retaining.topics.contains(&topic_hash(message));
            behind = retaining.behind.take_if(|behind| free(&behind.message));
        }
        match result {
            None => self.close_for_shard(key),
            Some(result) => {
                let mut actions = std::mem::take(&mut self.actions);
                self.end_publish(key, token, result, topic, &mut actions);
                match behind {
                    None => {}
                    // A connection without a place in the registry is about to end: its client sends the message again.
                    Some(Behind { id: Some(_), .. }) if self.owner_of(key).is_none() => {}
                    Some(Behind { message, token: Some(token), id: Some(id) }) => {
                        self.receive_durable(key, id, message, token, &mut actions);
                    }
                    Some(Behind { message, token, .. }) => self.publish(key, message, token, &mut actions),
                }
                self.act(key, &[], &mut actions);
                self.actions = actions;
                self.mark_dirty(key);
            }
        }
        self.wake(key);
    }
}
