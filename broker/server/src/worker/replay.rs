//! Retained messages for new subscriptions (MQTT 5, 3.3.1.3): in portions, between what else the worker has to do, and no faster than
//! the client takes them.
//!
//! A portion is read and delivered in one turn of the worker. A message is kept and handed over to the workers under one lock, under which
//! this worker takes what was handed over and reads what is retained. The one is delivered, then the other: what a client gets of a topic
//! is never older than what it has got.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use raftmq_mqtt::{Message, RetainHandling};
use raftmq_routing::{FilterKind, Lookup, RetainedCursor};
use raftmq_session::{Forms, Matched, SubscribeItem, SubscriptionInfo};

use super::publish::is_reserved;
use super::shard_replay::{Floors, Lookups};
use super::subscribe::has_filter;
use super::wheel::Key;
use super::{ClientState, Worker};

/// The most topics looked at in a turn for one subscription.
const PORTION: usize = 256;

/// A subscription on its way through the retained messages.
pub(super) struct Replay {
    pub(super) client: Key,
    /// The filter in the session.
    pub(super) own: Arc<str>,
    /// What topics are matched against.
    pub(super) filter: Arc<str>,
    pub(super) matched: Matched,
    cursor: RetainedCursor,
}

/// The subscriptions that are not through, by client. One whose client takes nothing for now costs nothing until something changes for
/// that client: there may be very many of them. They are bounded by the subscriptions.
#[derive(Default)]
pub(super) struct Replays {
    clients: HashMap<Key, OfClient, ahash::RandomState>,
    /// The clients whose turn it is.
    ready: VecDeque<Key>,
}

struct OfClient {
    replays: Vec<Replay>,
    /// In `ready`.
    ready: bool,
}

impl Replays {
    fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    fn add(&mut self, replay: Replay) {
        let client = replay.client;
        self.clients.entry(client).or_insert(OfClient { replays: Vec::new(), ready: false }).replays.push(replay);
        self.wake(client);
    }

    /// Who subscribes again begins again.
    fn remove(&mut self, client: Key, own: &str) {
        if let Some(of_client) = self.clients.get_mut(&client) {
            of_client.replays.retain(|replay| *replay.own != *own);
        }
    }

    /// Gives a client a turn. True: it had none to come.
    fn wake(&mut self, client: Key) -> bool {
        let Some(of_client) = self.clients.get_mut(&client).filter(|of_client| !of_client.ready) else {
            return false;
        };
        of_client.ready = true;
        self.ready.push_back(client);
        true
    }

    fn wake_all(&mut self) {
        for (client, of_client) in &mut self.clients {
            if !std::mem::replace(&mut of_client.ready, true) {
                self.ready.push_back(*client);
            }
        }
    }

    /// Who is next, and what is to be put back.
    fn next(&mut self) -> Option<(Key, Vec<Replay>)> {
        while let Some(client) = self.ready.pop_front() {
            if let Some(of_client) = self.clients.get_mut(&client) {
                of_client.ready = false;
                return Some((client, std::mem::take(&mut of_client.replays)));
            }
        }
        None
    }

    fn put_back(&mut self, client: Key, replays: Vec<Replay>, again: bool) {
        if replays.is_empty() {
            self.clients.remove(&client);
        } else if let Some(of_client) = self.clients.get_mut(&client) {
            of_client.replays = replays;
            if again {
                self.wake(client);
            }
        }
    }
}

/// What a client takes in a turn.
pub(super) struct Room {
    pub(super) messages: usize,
    /// In its outlet: what is beyond it is dropped with QoS 0.
    pub(super) bytes: usize,
    /// Its outlet is empty.
    pub(super) empty: bool,
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

/// Whether a subscription wants what is retained.
pub(super) fn wants_retained(item: &SubscribeItem) -> bool {
    match item.options.retain_handling {
        RetainHandling::SendAtSubscribe => true,
        RetainHandling::SendIfNew => item.is_new(),
        RetainHandling::DoNotSend => false,
    }
}

impl Worker {
    /// Begins to send what is retained, if the subscription wants it: not a shared one `[MQTT-3.8.4-4]`, `[MQTT-3.3.1-9]`,
    /// `[MQTT-3.3.1-10]`, `[MQTT-3.3.1-11]`, `[MQTT311-3.3.1-6]`.
    pub(super) fn replay_retained(&mut self, key: Key, item: &SubscribeItem, lookups: &Lookups, floors: &Floors) {
        let wanted = wants_retained(item);
        let Some(client) = self.conns.get_mut(key).and_then(|conn| conn.client).filter(|_| wanted) else {
            return;
        };
        let effective = self.effective_filter(client, &item.filter);
        let FilterKind::Plain(filter) = FilterKind::of(&effective) else {
            return;
        };
        let in_shards = !is_reserved(filter) && self.in_shards();
        if !in_shards && self.node.features.retained().is_empty() {
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
        if in_shards {
            // Without one, all shards came into use since it subscribed: it had nothing to look up, and its session ends.
            if let Some((_, lookup)) = lookups.iter().find(|(own, _)| *own == item.filter) {
                self.replay_from_shards(client, &item.filter, &info, *lookup, floors);
            }
            return;
        }
        self.replays.remove(client, &replay.own);
        if self.replay_portion(&mut replay) != Portion::Done {
            self.replays.add(replay);
            self.replay_ready.notify_one();
        }
    }

    /// A turn for the subscriptions of every client whose turn it is. True: there is more to do at once.
    pub(super) fn replay_turn(&mut self) -> bool {
        let mut more = false;
        for _ in 0..self.replays.ready.len() {
            let Some((client, mut replays)) = self.replays.next() else {
                break;
            };
            let mut again = false;
            replays.retain_mut(|replay| {
                let portion = self.replay_portion(replay);
                again |= portion == Portion::More;
                portion != Portion::Done
            });
            self.replays.put_back(client, replays, again);
            more |= again;
        }
        more
    }

    /// Something has changed for a client that its subscriptions may have waited for: it has acknowledged, or read; it has come or gone.
    pub(super) fn resume_replays(&mut self, client: Option<Key>) {
        if !self.replays.is_empty() && client.is_some_and(|client| self.replays.wake(client)) {
            self.replay_ready.notify_one();
        }
    }

    /// The node serves again, or does not any more.
    pub(super) fn resume_all_replays(&mut self) {
        self.replays.wake_all();
        self.replay_ready.notify_one();
    }

    fn replay_portion(&mut self, replay: &mut Replay) -> Portion {
        if !self.is_serving() && !self.node.is_local() {
            return Portion::Wait;
        }
        let Some(Room { messages: limit, bytes, empty }) = self.room_for(replay.client, &replay.own) else {
            return Portion::Done;
        };
        if limit == 0 {
            return Portion::Wait;
        }
        let (mut left, mut full) = (bytes, false);
        let now = self.node.clock.now();
        let mut found: Vec<Message> = std::mem::take(&mut self.due_messages);
        let lookup = {
            let node = Arc::clone(&self.node);
            let retained = node.features.retained();
            // Retained before what is read here.
            self.take_arrived();
            retained.matches(&replay.filter, &mut replay.cursor, limit, now.unix_ms, |message| {
                // One goes to a client that has nothing to read, whatever its size.
                full = message.wire_len() > left && !(empty && found.is_empty());
                if !full {
                    left = left.saturating_sub(message.wire_len());
                    found.push(message.clone());
                }
                !full
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
        match lookup {
            Lookup::Done => Portion::Done,
            // It has its turn when it has read.
            Lookup::More if full => Portion::Wait,
            Lookup::More => Portion::More,
        }
    }

    /// What the client takes now; `None` if it does not want them any more.
    pub(super) fn room_for(&mut self, client: Key, own: &str) -> Option<Room> {
        let client = self.clients.get_mut(client)?;
        match &client.state {
            // Nobody reads: the session keeps what it has room for.
            ClientState::Offline { state, .. } => {
                has_filter(state, own).then_some(Room { messages: PORTION, bytes: usize::MAX, empty: false })
            }
            ClientState::Online(key) => {
                let conn = self.conns.get_mut(*key)?;
                let most = conn.session.limits().max_queued_messages;
                let session = conn.session.session();
                if !has_filter(session, own) {
                    return None;
                }
                let (_, queued) = session.messages();
                let bytes = (conn.session.limits().max_outbound_bytes / 2).saturating_sub(conn.outlet.len());
                let messages = if conn.session.is_congested() || bytes == 0 {
                    0
                } else if queued == 0 {
                    (most / 2).clamp(1, PORTION)
                } else {
                    (most / 2).saturating_sub(queued).min(PORTION)
                };
                Some(Room { messages, bytes, empty: conn.outlet.is_empty() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_mqtt::SubOptions;

    fn key(slot: u32) -> Key {
        Key { slot, generation: 0 }
    }

    fn replay(client: Key, own: &str) -> Replay {
        let matched = Matched::by(&SubscriptionInfo { options: SubOptions::default(), sub_id: 0 });
        Replay { client, own: own.into(), filter: own.into(), matched, cursor: RetainedCursor::default() }
    }

    fn turns(replays: &mut Replays) -> Vec<(u32, usize)> {
        let mut turns = Vec::new();
        while let Some((client, of_client)) = replays.next() {
            turns.push((client.slot, of_client.len()));
            replays.put_back(client, of_client, false);
        }
        turns
    }

    #[test]
    fn only_who_is_woken_has_a_turn() {
        let mut replays = Replays::default();
        for client in 0..1_000 {
            replays.add(replay(key(client), "a"));
            replays.add(replay(key(client), "b"));
        }
        assert_eq!(turns(&mut replays), (0..1_000).map(|client| (client, 2)).collect::<Vec<_>>());
        assert!(turns(&mut replays).is_empty(), "all wait");
        assert!(replays.wake(key(7)) && !replays.wake(key(7)) && !replays.wake(key(1_000)));
        replays.remove(key(7), "a");
        assert_eq!(turns(&mut replays), [(7, 1)]);
        // One that is through is not known any more.
        assert!(replays.wake(key(8)));
        assert!(replays.next().is_some());
        replays.put_back(key(8), Vec::new(), false);
        assert!(!replays.wake(key(8)));
        replays.wake_all();
        assert_eq!(turns(&mut replays).len(), 999);
    }

    #[test]
    fn who_is_woken_during_its_turn_has_another_one() {
        let mut replays = Replays::default();
        replays.add(replay(key(1), "a"));
        let (client, of_client) = replays.next().expect("its turn");
        assert!(replays.wake(client));
        replays.put_back(client, of_client, true);
        assert_eq!(turns(&mut replays), [(1, 1)]);
    }
}
