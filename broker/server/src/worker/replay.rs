//! Retained messages for new subscriptions (MQTT 5, 3.3.1.3): in portions, between what else the worker has to do, and no faster than
//! the client takes them.
//!
//! A portion is read and delivered in one turn of the worker. A message is kept and handed over to the workers under one lock, under which
//! this worker takes what was handed over and reads what is retained. The one is delivered, then the other: what a client gets of a topic
//! is never older than what it has got.

use std::sync::Arc;

use raftmq_mqtt::{Message, RetainHandling};
use raftmq_routing::{FilterKind, Lookup, RetainedCursor};
use raftmq_session::{Forms, Matched, SubscribeItem, SubscriptionInfo};

use super::subscribe::has_filter;
use super::wheel::Key;
use super::{ClientState, Worker};

/// The most topics looked at in a turn for one subscription.
const PORTION: usize = 256;

/// A subscription on its way through the retained messages.
pub(super) struct Replay {
    client: Key,
    /// The filter in the session.
    own: Arc<str>,
    /// What topics are matched against.
    filter: Arc<str>,
    matched: Matched,
    cursor: RetainedCursor,
}

/// What became of a portion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Portion {
    /// There is more.
    More,
    /// The client does not take more for now.
    Wait,
    Done,
}

impl Worker {
    /// Begins to send what is retained, if the subscription wants it: not a shared one `[MQTT-3.8.4-4]`, `[MQTT-3.3.1-9]`,
    /// `[MQTT-3.3.1-10]`, `[MQTT-3.3.1-11]`, `[MQTT311-3.3.1-6]`.
    pub(super) fn replay_retained(&mut self, key: Key, item: &SubscribeItem) {
        let wanted = match item.options.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => item.is_new(),
            RetainHandling::DoNotSend => false,
        };
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client).filter(|_| wanted) else {
            return;
        };
        let effective = self.effective_filter(client, &item.filter);
        let FilterKind::Plain(filter) = FilterKind::of(&effective) else {
            return;
        };
        if self.node.features.retained().is_empty() {
            return;
        }
        let info = SubscriptionInfo { options: item.options, sub_id: item.sub_id };
        let mut replay = Replay {
            client,
            own: Arc::clone(&item.filter),
            filter: filter.into(),
            matched: Matched { retained: true, ..Matched::by(&info) },
            cursor: RetainedCursor::default(),
        };
        // Who subscribes again begins again.
        self.replays.retain(|other| other.client != client || other.own != replay.own);
        if self.replay_portion(&mut replay) != Portion::Done {
            self.replays.push_back(replay);
            self.replay_ready.notify_one();
        }
    }

    /// A turn for every subscription that is not done. True: there is more to do at once.
    pub(super) fn replay_turn(&mut self) -> bool {
        let mut more = false;
        for _ in 0..self.replays.len() {
            let Some(mut replay) = self.replays.pop_front() else {
                break;
            };
            let portion = self.replay_portion(&mut replay);
            more |= portion == Portion::More;
            if portion != Portion::Done {
                self.replays.push_back(replay);
            }
        }
        more
    }

    /// Something has changed that a subscription may have waited for.
    pub(super) fn resume_replays(&self) {
        if !self.replays.is_empty() {
            self.replay_ready.notify_one();
        }
    }

    fn replay_portion(&mut self, replay: &mut Replay) -> Portion {
        if !self.node.is_serving() {
            return Portion::Wait;
        }
        let Some(limit) = self.room_for(replay) else {
            return Portion::Done;
        };
        if limit == 0 {
            return Portion::Wait;
        }
        let now = self.node.clock.now();
        let mut found: Vec<Message> = std::mem::take(&mut self.due_messages);
        let lookup = {
            let node = Arc::clone(&self.node);
            let retained = node.features.retained();
            // Retained before what is read here.
            self.take_arrived();
            retained.matches(&replay.filter, &mut replay.cursor, limit, now.unix_ms, |message| {
                found.push(message.clone());
            })
        };
        self.deliver_arrived();
        for message in found.drain(..) {
            let mut forms = Forms::new(message, now);
            if let Some(reason) = self.deliver_to(replay.client.slot, &replay.matched, &mut forms, now) {
                self.counters.dropped(reason, 1);
            }
        }
        self.due_messages = found;
        if lookup == Lookup::Done { Portion::Done } else { Portion::More }
    }

    /// How many messages the client takes now; `None` if it does not want them any more.
    fn room_for(&mut self, replay: &Replay) -> Option<usize> {
        let client = self.clients.get_mut(replay.client)?;
        let most = self.node.limits.max_queued_messages;
        match &client.state {
            // Nobody reads: the session keeps what it has room for.
            ClientState::Offline { state, .. } => has_filter(state, &replay.own).then_some(PORTION),
            ClientState::Online(key) => {
                let conn = self.conns.get_mut(*key)?;
                let session = conn.session.session();
                if !has_filter(session, &replay.own) {
                    return None;
                }
                let (_, queued) = session.messages();
                if conn.session.is_congested() || conn.outlet.len() > self.node.max_outbound / 2 {
                    return Some(0);
                }
                if queued == 0 {
                    return Some((most / 2).clamp(1, PORTION));
                }
                Some((most / 2).saturating_sub(queued).min(PORTION))
            }
        }
    }
}
