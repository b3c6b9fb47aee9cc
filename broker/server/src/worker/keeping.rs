//! Messages with QoS 2 of durable sessions that a shard has to keep before anybody gets them: with RETAIN, or to be published after a delay.
//!
//! They go by the outbox of their publisher's shard to that of their topic, and then by the same outbox to the shards of their subscribers, so that each of these has
//! them once, whichever node dies. Meanwhile this worker waits with PUBREC: a subscription made after it finds what is retained. What became of a message
//! waits in the publisher's shard until it is asked for: when its replica here says that there is something, or after a while. Live subscribers get the message then.

use std::num::NonZeroU16;
use std::time::Duration;

use raftmq_features::{delayed, with_topic};
use raftmq_mqtt::{Message, ReasonCode};
use raftmq_session::PublishToken;
use raftmq_shard::{Bounds, How, Keep, Keeper, Kept, Op, OpAnswer};
use tokio::time::sleep;

use super::Worker;
use super::publish::{Reach, Routed, is_reserved};
use super::retained::Publisher;
use super::shards::{NAMESPACE, Outcome, Waiting};
use super::wheel::Key;
use crate::metrics::PublishRefusal;

/// Where the publisher's shard has no replica on this node nobody says that it has an answer: it is asked after so many milliseconds, and again after twice as many each time.
const ASK_MS: u64 = 15;
/// At most so many; and after so many where it has one, which may come just before it is waited for.
const ASK_AGAIN_MS: u64 = 1_000;

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
    /// What live subscribers get, if it is the first time that it comes.
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
    /// It has an answer to more since.
    again: bool,
    /// It will be asked in a while; the next time after so many milliseconds.
    waits: bool,
    wait_ms: u64,
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
        if is_reserved(message.topic()) || (delay_ms.is_none() && message.retain() && !self.node.features.retain) {
            return Course::Other;
        }
        let how = match delay_ms {
            Some(delay_ms) => self.delayed_bounds().map(|bounds| How::Delay { delay_ms, bounds }),
            None if !message.retain() => return Course::Kept(message, None),
            None => Some(self.retained_bounds(&message).map_or(How::TooLong, |bounds| How::Retain { bounds })),
        };
        let shard = self.desk.as_ref().and_then(|desk| desk.shards.shard_of(NAMESPACE, message.topic()));
        let tell = self.conns.get_mut(key).is_some_and(|conn| conn.session.version().is_some_and(|v| v.is_v5()));
        match (how, shard) {
            (Some(how), Some(shard)) => {
                Course::Kept(message, Some(Keeper { shard: shard.into(), keep: Keep { how, tell } }))
            }
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

    /// A message has gone to its publisher's shard, or is there: it is waited for. What is published without RETAIN to `topic` (a hash) goes behind it.
    pub(super) fn keep_first(
        &mut self,
        key: Key,
        id: NonZeroU16,
        token: PublishToken,
        message: Option<Message>,
        topic: u64,
    ) {
        let watched = self.watch_commit(key, Some(token));
        let publisher = Publisher { key, token: Some(token), watched, topic };
        if let Some(conn) = self.conns.get_mut(key) {
            let retaining = conn.retaining.get_or_insert_default();
            retaining.topics.push(topic);
            retaining.of_shard.keeping.push(Keeping { id, publisher, message, staged: false });
        }
        self.stall_for_shards(key);
    }

    /// The publisher's shard has answered a message.
    pub(super) fn staged(&mut self, key: Key, id: NonZeroU16, shard: u16, outcome: &Outcome) {
        let Some(of_shard) = self.of_shard(key) else { return };
        let Some(at) = of_shard.keeping.iter().position(|keeping| keeping.id == id) else { return };
        match outcome {
            Ok(OpAnswer::Staged { fresh }) => {
                of_shard.keeping[at].staged = true;
                if *fresh {
                    return self.ask_later(key, shard);
                }
                // It may be kept since long, and be older than what live subscribers have got; or this is another message under its identifier.
                of_shard.keeping[at].message = None;
                if let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client) {
                    self.ask_outcomes(client);
                }
            }
            // What became of it was told to an earlier connection of the client.
            Ok(OpAnswer::Duplicate) => {
                let keeping = of_shard.keeping.remove(at);
                self.end_keeping(Keeping { message: None, ..keeping }, Kept::Done { change: 0 });
            }
            _ => self.close_for_answer(key, outcome),
        }
    }

    fn of_shard(&mut self, key: Key) -> Option<&mut OfShard> {
        Some(&mut self.conns.get_mut(key)?.retaining.as_mut()?.of_shard)
    }

    /// Asks a client's shard after a while what became of its messages.
    fn ask_later(&mut self, key: Key, shard: u16) {
        let is_told = self.desk.as_ref().is_some_and(|desk| desk.shards.reads_here(shard));
        let Some(of_shard) = self.of_shard(key) else { return };
        if std::mem::replace(&mut of_shard.waits, true) {
            return;
        }
        let wait_ms = if is_told { ASK_AGAIN_MS } else { of_shard.wait_ms.clamp(ASK_MS, ASK_AGAIN_MS) };
        of_shard.wait_ms = wait_ms * 2;
        let wait = Duration::from_millis(wait_ms);
        self.do_later(Box::new(move |worker| {
            Box::pin(async move {
                sleep(wait).await;
                let mut worker = worker.borrow_mut();
                let client = worker.conns.get_mut(key).and_then(|conn| conn.client);
                if let Some(of_shard) = worker.of_shard(key) {
                    of_shard.waits = false;
                }
                if let Some(client) = client {
                    worker.ask_outcomes(client);
                }
            })
        }));
    }

    /// Asks a client's shard what became of its messages.
    pub(super) fn ask_outcomes(&mut self, client: Key) {
        let Some(key) = self.connection_of(client) else { return };
        let Some(of_shard) = self.of_shard(key) else { return };
        if of_shard.asking {
            of_shard.again = true;
            return;
        }
        // What it does not have yet it is not asked for: that is answered by itself.
        let asked: Vec<Keeping> = of_shard.keeping.extract_if(.., |keeping| keeping.staged).collect();
        if asked.is_empty() {
            return;
        }
        of_shard.asking = true;
        let Some((client, epoch, shard)) = self.owner_of(key) else { return self.close_for_shard(key) };
        let packet_ids = asked.iter().map(|keeping| keeping.id.get()).collect();
        let waiting = Waiting::Outcomes(Box::new((key, shard, asked)));
        self.push_to_shard(shard, Op::Outcomes { client, epoch, packet_ids }, waiting);
    }

    /// The publisher's shard says what became of messages. It says so once: live subscribers get them whether the publisher is there or not.
    pub(super) fn outcomes(&mut self, key: Key, shard: u16, mut asked: Vec<Keeping>, outcome: &Outcome) {
        let Ok(OpAnswer::Outcomes(outcomes)) = outcome else {
            return self.close_for_answer(key, outcome);
        };
        // In the order in which they came.
        let mut known = Vec::new();
        for (id, kept) in outcomes {
            if let Some(at) = asked.iter().position(|keeping| keeping.id.get() == *id) {
                known.push((asked.remove(at), *kept));
            }
        }
        let mut again = false;
        if let Some(of_shard) = self.of_shard(key) {
            of_shard.asking = false;
            again = std::mem::take(&mut of_shard.again);
            of_shard.keeping.splice(..0, asked);
            if !known.is_empty() {
                of_shard.wait_ms = 0;
            }
        }
        for (keeping, kept) in known {
            self.end_keeping(keeping, kept);
        }
        if self.of_shard(key).is_some_and(|of_shard| of_shard.keeping.iter().any(|keeping| keeping.staged)) {
            match self.conns.get_mut(key).and_then(|conn| conn.client) {
                Some(client) if again => self.ask_outcomes(client),
                _ => self.ask_later(key, shard),
            }
        }
    }

    /// A message was kept, or not: live subscribers get it, and its publisher is answered.
    fn end_keeping(&mut self, keeping: Keeping, kept: Kept) {
        let Keeping { publisher, message, .. } = keeping;
        if matches!(kept, Kept::NoRoom | Kept::Unkept) {
            self.counters.publish_refused(PublishRefusal::Quota);
        }
        let mut routed = Routed::done();
        if let Some(message) = message.filter(|_| kept != Kept::NoRoom) {
            let message = match kept.change() {
                0 => message,
                change => message.with_change(change),
            };
            if matches!(kept, Kept::Done { .. }) {
                self.counters.retained();
            }
            let (now, sent) = (self.node.clock.now(), self.sent);
            routed.stalled = self.route(&message, Reach::Live, now).stalled;
            if self.sent != sent
                && let Some(conn) = self.conns.get_mut(publisher.key)
            {
                conn.sent = self.sent;
            }
        }
        let result = if kept == Kept::NoRoom { Err(ReasonCode::QuotaExceeded) } else { Ok(routed) };
        let waits = publisher.watched.end();
        let token = publisher.token.filter(|_| waits);
        self.end_retaining(&publisher, token, Some(result));
    }
}
