//! Messages of publishers on their way into shards: a publisher is answered when all shards that want its message have committed it.
//!
//! One whose message is not committed in time is disconnected, and sends it again elsewhere. What goes to a shard of a publisher's own session, with QoS 2: [`super::durable`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use raftmq_mqtt::{Message, QoS, ReasonCode};
use raftmq_planted::{Bug, planted};
use raftmq_session::PublishToken;
use raftmq_shard::{Op, OpAnswer};
use tokio::time::sleep;

use super::Worker;
use super::publish::Reach;
use super::shards::{NAMESPACE, Outcome, Waiting};
use super::wheel::Key;
use crate::metrics::PublishRefusal;

/// A publisher whose message is not committed within that time is disconnected: it sends the message again elsewhere.
const COMMIT_MS: u64 = 10_000;
/// A node that has the newer connection of a client says so in less than that, also where it has to find another way to this one. Less than its CONNECT waits.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(4);

/// A message on its way into shards.
#[derive(Default)]
pub(super) struct Publishing {
    /// Whose it is, and what is to be answered.
    publisher: RefCell<Option<(Key, Option<PublishToken>, ReasonCode)>>,
    /// Shards that have not answered.
    left: Cell<u32>,
    failed: Cell<bool>,
    /// A shard had no room for it.
    refused: Cell<bool>,
    /// It goes to others, too, than durable sessions.
    live: Cell<bool>,
    /// Durable sessions that it was for, and those of them whose queue did not take it.
    matched: Cell<u32>,
    dropped: Cell<u32>,
}

impl Publishing {
    /// It goes to others, too.
    pub(super) fn goes_live(&self) {
        self.live.set(true);
    }

    /// Nobody has it, and some would have had it.
    fn nobody_took_it(&self) -> bool {
        !self.live.get() && self.matched.get() > 0 && self.dropped.get() == self.matched.get()
    }

    /// It was answered in another way. Whether its publisher still waited.
    pub(super) fn end(&self) -> bool {
        self.left.set(0);
        self.publisher.borrow_mut().take().is_some()
    }
}

impl Worker {
    /// The shards that want a message get it; `None` if there are none.
    pub(super) fn publish_to_shards(
        &mut self,
        message: &Message,
        shards: &[u16],
        except: Option<u16>,
    ) -> Option<Rc<Publishing>> {
        let count = shards.iter().filter(|shard| except != Some(**shard)).count();
        if count == 0 || message.qos() == QoS::AtMostOnce || self.desk.is_none() {
            return None;
        }
        let publishing = Rc::new(Publishing::default());
        publishing.left.set(u32::try_from(count).unwrap_or(u32::MAX));
        for shard in shards.iter().filter(|shard| except != Some(**shard)) {
            let op = Op::Publish { namespace: NAMESPACE, message: message.clone() };
            self.push_to_shard(*shard, op, Waiting::Published(Rc::clone(&publishing)));
        }
        Some(publishing)
    }

    /// The publisher waits for the shards.
    pub(super) fn wait_for_shards(
        &mut self,
        key: Key,
        publishing: &Rc<Publishing>,
        token: PublishToken,
        reason: ReasonCode,
    ) {
        *publishing.publisher.borrow_mut() = Some((key, Some(token), reason));
        if publishing.left.get() == 0 || planted(Bug::AckBeforeCommit) {
            return self.committed(publishing);
        }
        self.committing.push_back((self.node.clock.ms() + COMMIT_MS, Rc::clone(publishing)));
        self.stall_for_shards(key);
    }

    /// A publisher is not read while too much for the shards has no room.
    pub(super) fn stall_for_shards(&mut self, key: Key) {
        if self.desk.as_ref().is_some_and(|desk| desk.is_long())
            && let Some(conn) = self.conns.get_mut(key)
            && !conn.stalled
        {
            conn.stalled = true;
            self.shard_stalled.push(key);
        }
    }

    /// A client is closed since a shard does not answer: what it sent was not taken, and it may send it again. Server unavailable would say so, but there is no DISCONNECT
    /// with that [MQTT5 3.14.2.1].
    pub(super) fn close_for_shard(&mut self, key: Key) {
        self.close_by_server(key, ReasonCode::ServerBusy);
    }

    /// The same for what a shard has answered. One that has the client connected elsewhere mostly knows of that before this node does: that it was taken over
    /// is what to tell the client then, who might come back and take itself over otherwise.
    pub(super) fn close_for_answer(&mut self, key: Key, outcome: &Outcome) {
        if matches!(outcome, Ok(OpAnswer::Stale)) {
            self.close_stale(key);
        } else {
            self.close_for_shard(key);
        }
    }

    /// The shard has the client connected elsewhere.
    pub(super) fn close_stale(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.session.version().is_some_and(|version| version.is_v5()) {
            // It cannot be told anything.
            return self.close_for_shard(key);
        }
        if std::mem::replace(&mut conn.stale, true) {
            return;
        }
        self.do_later(Box::new(move |worker| {
            Box::pin(async move {
                sleep(TAKEN_OVER_WITHIN).await;
                let mut worker = worker.borrow_mut();
                if worker.conns.get_mut(key).is_some_and(|conn| conn.closing.is_none()) {
                    worker.close_for_shard(key);
                }
            })
        }));
    }

    pub(super) fn published_to_shard(&mut self, publishing: &Rc<Publishing>, outcome: &Outcome) {
        match outcome {
            Ok(OpAnswer::Published { matched, dropped }) => {
                publishing.matched.set(publishing.matched.get().saturating_add(*matched));
                publishing.dropped.set(publishing.dropped.get().saturating_add(*dropped));
            }
            Ok(OpAnswer::Done) => {}
            Ok(OpAnswer::NoRoom) => publishing.refused.set(true),
            _ => publishing.failed.set(true),
        }
        let left = publishing.left.get().saturating_sub(1);
        publishing.left.set(left);
        if left == 0 && publishing.publisher.borrow().is_some() {
            self.committed(publishing);
        }
    }

    /// All shards have answered.
    fn committed(&mut self, publishing: &Publishing) {
        let Some((key, token, reason)) = publishing.publisher.borrow_mut().take() else {
            return;
        };
        if publishing.failed.get() {
            return self.close_for_shard(key);
        }
        if publishing.refused.get() {
            self.counters.publish_refused(PublishRefusal::Quota);
        }
        let refused = publishing.refused.get() || publishing.nobody_took_it();
        // MQTT 3 cannot be told: it would have to be disconnected, and would send it again.
        let told =
            self.conns.get_mut(key).is_some_and(|conn| conn.session.version().is_some_and(|version| version.is_v5()));
        let reason = if refused && told { ReasonCode::QuotaExceeded } else { reason };
        if let Some(token) = token {
            self.acknowledge_publish(key, token, reason);
        }
    }

    /// Hands a message to the shard that publishes it after a delay. `None`: there are no shards, it is this node's to keep.
    pub(super) fn delay_in_shard(&mut self, message: &Message, delay_ms: u64) -> Option<Rc<Publishing>> {
        if !self.in_shards() {
            return None;
        }
        let shard = self.desk.as_ref()?.shards.shard_of(NAMESPACE, message.topic())?;
        let bounds = self.delayed_bounds()?;
        let publishing = Rc::new(Publishing::default());
        publishing.left.set(1);
        let op = Op::Delay { namespace: NAMESPACE, message: message.clone(), delay_ms, bounds };
        self.push_to_shard(shard, op, Waiting::Published(Rc::clone(&publishing)));
        Some(publishing)
    }

    pub(super) fn acknowledge_publish(&mut self, key: Key, token: PublishToken, reason: ReasonCode) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.on_published(token, reason, out, &mut actions);
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
        // It may have been held back until this was answered.
        self.wake(key);
    }

    /// As [`Worker::wait_for_shards`], for something that is answered in another way, or not at all: its publisher is disconnected if that takes too long.
    pub(super) fn watch_commit(&mut self, key: Key, token: Option<PublishToken>) -> Rc<Publishing> {
        let watched = Rc::new(Publishing::default());
        *watched.publisher.borrow_mut() = Some((key, token, ReasonCode::Success));
        watched.left.set(1);
        self.committing.push_back((self.node.clock.ms() + COMMIT_MS, Rc::clone(&watched)));
        watched
    }

    /// Publishers whose messages are not committed in time are disconnected.
    pub(super) fn end_late_commits(&mut self) {
        let now = self.node.clock.ms();
        while self.committing.front().is_some_and(|(due, publishing)| *due <= now || publishing.left.get() == 0) {
            let Some((_, publishing)) = self.committing.pop_front() else { break };
            let publisher = publishing.publisher.borrow_mut().take();
            if let Some((key, ..)) = publisher {
                tracing::debug!("a message was not committed in time, its publisher is disconnected");
                self.close_for_shard(key);
            }
        }
    }

    /// Publishes to the live subscribers of all nodes what a shard has decided.
    pub(super) fn publish_live(&mut self, message: &Message) {
        let now = self.node.clock.now();
        self.route(message, Reach::Live, now);
    }
}
