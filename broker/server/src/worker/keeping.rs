//! Messages with QoS 2 of durable sessions that a shard has to keep before anybody gets them: with RETAIN, or to be published after a delay.
//!
//! They go by the outbox of their publisher's shard to that of their topic, and from there on by the outbox to the shards of their subscribers, so that each of these has
//! them once, whichever node dies. Meanwhile this worker waits with PUBREC: a subscription made after it finds what is retained. When something has
//! changed the publisher's shard says so as for a queue, and is asked what became of its messages.

use std::num::NonZeroU16;

use raftmq_features::{delayed, with_topic};
use raftmq_mqtt::{Message, ReasonCode};
use raftmq_session::PublishToken;
use raftmq_shard::{Bounds, Keep, Keeper, Kept, Op, OpAnswer};

use super::Worker;
use super::publish::{Reach, Routed, is_reserved};
use super::retained::{Publisher, topic_hash};
use super::shards::{NAMESPACE, Outcome, Waiting};
use super::wheel::Key;
use crate::metrics::PublishRefusal;

/// A shard that says nothing is asked so often: what it said may have come before its answer to the message, or not at all.
const ASK_MS: u64 = 250;

/// Where a message with QoS 2 goes.
pub(super) enum Course {
    /// Into the outbox of its publisher's shard, as it is.
    Plain,
    /// There, as rewritten, and to a shard that has to keep it first.
    Kept(Message, Option<Keeper>),
    /// As that of a session that is not durable: it is refused, or not for shards.
    Other,
}

/// A message on its way to the shard that has to keep it.
pub(super) struct Keeping {
    id: NonZeroU16,
    publisher: Publisher,
    /// What live subscribers get of it.
    message: Option<Message>,
    /// The publisher's shard has it.
    staged: bool,
}

/// What a connection has of them.
#[derive(Default)]
pub(super) struct OfShard {
    keeping: Vec<Keeping>,
    /// The shard was asked, and has not answered.
    asking: bool,
    /// Something changed meanwhile.
    again: bool,
    /// It is among those that are asked again.
    watched: bool,
}

impl Worker {
    /// What is to be done with a message with QoS 2 of a durable session.
    pub(super) fn course(&mut self, key: Key, message: &Message) -> Course {
        let special = message.topic_bytes().first() == Some(&b'$') || message.retain();
        if !special && !self.rules.rewriter.publishes() {
            return Course::Plain;
        }
        let message = match self.rewritten_message(key, message) {
            Ok(Some(new)) => new,
            Ok(None) => message.clone(),
            Err(_) => return Course::Other,
        };
        let now = self.node.clock.now();
        let (message, delay_ms) =
            match delayed::parse(message.topic(), "", now.unix_ms, &self.node.features.delayed.settings) {
                None => (message, None),
                Some(Ok(parsed)) => match with_topic(&message, &parsed.topic) {
                    Ok(later) => (later, Some(parsed.due_ms.saturating_sub(now.unix_ms))),
                    Err(_) => return Course::Other,
                },
                Some(Err(_)) => return Course::Other,
            };
        if is_reserved(message.topic()) {
            return Course::Other;
        }
        let keep = match delay_ms {
            Some(delay_ms) => self.delayed_bounds().map(|bounds| Keep::Delay { delay_ms, bounds }),
            None if !message.retain() => return Course::Kept(message, None),
            None => self.retained_bounds(&message).map(|bounds| Keep::Retain { bounds }),
        };
        let shard = self.desk.as_ref().and_then(|desk| desk.shards.shard_of(NAMESPACE, message.topic()));
        let tell = self.conns.get_mut(key).is_some_and(|conn| conn.session.version().is_some_and(|v| v.is_v5()));
        match (keep, shard) {
            (Some(keep), Some(shard)) => Course::Kept(message, Some(Keeper { shard: shard.into(), keep, tell })),
            _ => Course::Other,
        }
    }

    /// How many messages a shard keeps for later, at most: each has its part of what the cluster may.
    pub(super) fn delayed_bounds(&self) -> Option<Bounds> {
        let settings = &self.node.features.delayed.settings;
        let count = u64::from(self.desk.as_ref()?.shards.count()).max(1);
        Some(Bounds {
            messages: (settings.max_messages as u64).div_ceil(count),
            bytes: (settings.max_bytes as u64).div_ceil(count),
        })
    }

    /// A message has gone to its publisher's shard: it is waited for, and what is published to its topic without RETAIN goes behind it.
    pub(super) fn keep_first(&mut self, key: Key, id: NonZeroU16, token: PublishToken, message: Message, keep: Keep) {
        let watched = self.watch_commit(key, Some(token));
        let topic = topic_hash(&message);
        let publisher = Publisher { key, token: Some(token), watched, topic };
        let message = matches!(keep, Keep::Retain { .. }).then_some(message);
        if let Some(conn) = self.conns.get_mut(key) {
            let retaining = conn.retaining.get_or_insert_default();
            retaining.topics.push(topic);
            retaining.of_shard.keeping.push(Keeping { id, publisher, message, staged: false });
        }
        self.stall_for_shards(key);
    }

    /// The publisher's shard has answered a message.
    pub(super) fn staged(&mut self, key: Key, id: NonZeroU16, outcome: &Outcome) {
        let Some(of_shard) = self.of_shard(key) else { return };
        match outcome {
            Ok(OpAnswer::Staged { fresh }) => {
                if let Some(keeping) = of_shard.keeping.iter_mut().find(|keeping| keeping.id == id) {
                    keeping.staged = true;
                    if !fresh {
                        // Live subscribers have got it by its first connection, or not.
                        keeping.message = None;
                    }
                }
                self.watch_outcomes(key, self.node.clock.ms());
            }
            // Its outcome was told to an earlier connection of the client.
            Ok(OpAnswer::Duplicate) => {
                if let Some(at) = of_shard.keeping.iter().position(|keeping| keeping.id == id) {
                    let keeping = of_shard.keeping.remove(at);
                    self.end_keeping(Keeping { message: None, ..keeping }, Kept::Done { change: 0 });
                }
            }
            _ => self.close_for_shard(key),
        }
    }

    fn of_shard(&mut self, key: Key) -> Option<&mut OfShard> {
        Some(&mut self.conns.get_mut(key)?.retaining.as_mut()?.of_shard)
    }

    /// Something has changed for a client: its shard may have something to say of its messages.
    pub(super) fn ask_outcomes(&mut self, client: Key) {
        let Some(key) = self.connection_of(client) else { return };
        let Some(of_shard) = self.of_shard(key) else { return };
        if !of_shard.keeping.iter().any(|keeping| keeping.staged) {
            return;
        }
        if std::mem::replace(&mut of_shard.asking, true) {
            of_shard.again = true;
            return;
        }
        match self.owner_of(key) {
            Some((client, epoch, shard)) => {
                self.push_to_shard(shard, Op::Outcomes { client, epoch }, Waiting::Outcomes(key));
            }
            None => self.close_for_shard(key),
        }
    }

    /// At each tick: clients whose shard has said nothing for a while.
    pub(super) fn ask_again(&mut self, now_ms: u64) {
        while let Some(desk) = &mut self.desk
            && let Some((_, client)) = desk.keeping.pop_front_if(|(due, _)| *due <= now_ms)
        {
            self.ask_outcomes(client);
            let Some(key) = self.connection_of(client) else { continue };
            if let Some(of_shard) = self.of_shard(key) {
                of_shard.watched = false;
                self.watch_outcomes(key, now_ms);
            }
        }
    }

    /// A client's shard is asked after a while, if it has said nothing of all its messages until then.
    fn watch_outcomes(&mut self, key: Key, now_ms: u64) {
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) else { return };
        let Some(of_shard) = self.of_shard(key) else { return };
        let waits = of_shard.keeping.iter().any(|keeping| keeping.staged);
        if waits
            && !std::mem::replace(&mut of_shard.watched, true)
            && let Some(desk) = &mut self.desk
        {
            desk.keeping.push_back((now_ms + ASK_MS, client));
        }
    }

    /// The publisher's shard says what became of its messages.
    pub(super) fn outcomes(&mut self, key: Key, outcome: &Outcome) {
        let Ok(OpAnswer::Outcomes(outcomes)) = outcome else {
            return self.close_for_shard(key);
        };
        let mut again = false;
        if let Some(of_shard) = self.of_shard(key) {
            of_shard.asking = false;
            again = std::mem::take(&mut of_shard.again);
        }
        for (id, kept) in outcomes {
            let Some(of_shard) = self.of_shard(key) else { return };
            if let Some(at) = of_shard.keeping.iter().position(|keeping| keeping.id.get() == *id) {
                let keeping = of_shard.keeping.remove(at);
                self.end_keeping(keeping, *kept);
            }
        }
        if again && let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) {
            self.ask_outcomes(client);
        }
    }

    /// A message was kept, or not: live subscribers get it, and its publisher is answered.
    fn end_keeping(&mut self, keeping: Keeping, kept: Kept) {
        let Keeping { publisher, message, .. } = keeping;
        let result = match kept {
            Kept::Done { .. } => Ok(Routed::done()),
            Kept::NoRoom => Err(ReasonCode::QuotaExceeded),
            Kept::Unkept => {
                self.counters.publish_refused(PublishRefusal::Quota);
                Ok(Routed::done())
            }
        };
        match message {
            Some(message) if result.is_ok() => {
                let message = match kept.change() {
                    0 => message,
                    change => message.with_change(change),
                };
                if kept != Kept::Unkept {
                    self.counters.retained();
                }
                let (now, sent) = (self.node.clock.now(), self.sent);
                self.route(&message, Reach::Live, now);
                if self.sent != sent
                    && let Some(conn) = self.conns.get_mut(publisher.key)
                {
                    conn.sent = self.sent;
                }
            }
            _ => {}
        }
        if result.is_err() {
            self.counters.publish_refused(PublishRefusal::Quota);
        }
        let waits = publisher.watched.end();
        let token = publisher.token.filter(|_| waits);
        self.end_retaining(&publisher, token, Some(result));
    }
}
