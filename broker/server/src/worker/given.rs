//! What new subscriptions of this worker's clients got as retained, and what is left out of what comes live for that.
//!
//! Before SUBACK each shard says the number of its last change, the *floor*: what was changed up to there comes as what is retained, and not live, however late it
//! arrives; what is changed later was published when every node knew the subscription, and comes live. So nobody gets an older one after a newer one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use raftmq_mqtt::Message;
use raftmq_mqtt::topic::filter_matches;
use raftmq_session::{SubscribeItem, SubscriptionInfo};

use super::wheel::Key;

/// Messages that are kept back for a subscription before its SUBACK; with more the others come at once.
const HELD: usize = 64;
/// How often it is looked at what is older than that.
const FORGET_MS: u64 = 10_000;

/// What a new subscription gets as retained.
#[derive(Debug)]
pub(super) struct Progress {
    /// Before SUBACK: what came live meanwhile. Of it that which is not newer than the floors comes as what is retained.
    pub(super) held: Option<Vec<Message>>,
    pub(super) first: u16,
    /// Of the shards that may retain something for it, from that one on: what was changed up to here does not come live.
    pub(super) floors: Vec<Option<u64>>,
}

impl Progress {
    pub(super) fn new(shards: Range<u16>) -> Self {
        Self { held: Some(Vec::new()), first: shards.start, floors: vec![None; shards.len()] }
    }

    pub(super) fn floor(&mut self, shard: u16) -> Option<&mut Option<u64>> {
        self.floors.get_mut(usize::from(shard.checked_sub(self.first)?))
    }

    /// Keeps a message back until SUBACK, if that is still to come and there is room.
    pub(super) fn hold(&mut self, message: &Message) -> bool {
        match &mut self.held {
            Some(held) if held.len() < HELD => {
                held.push(message.clone());
                true
            }
            _ => false,
        }
    }

    /// Whether a change comes as what is retained, or a later one of its topic does.
    pub(super) fn covers(&self, shard: u16, number: u64) -> bool {
        let place = shard.checked_sub(self.first).map(usize::from);
        place.and_then(|place| *self.floors.get(place)?).is_some_and(|floor| number <= floor)
    }
}

/// What a subscription of a clean session got as retained.
pub(super) struct Given {
    pub(super) client: Key,
    pub(super) own: Arc<str>,
    pub(super) filter: Arc<str>,
    pub(super) progress: Rc<RefCell<Progress>>,
    pub(super) until: u64,
}

/// All of them, by the slots of their clients.
#[derive(Default)]
pub(super) struct GivenAll {
    of: HashMap<u32, Vec<Given>, ahash::RandomState>,
    forget_at: u64,
}

impl GivenAll {
    pub(super) fn add(&mut self, given: Given) {
        let of_slot = self.of.entry(given.client.slot).or_default();
        of_slot.retain(|known| known.client == given.client && known.own != given.own);
        of_slot.push(given);
    }

    /// Takes out the clients who got this change of a topic, or a later one, as retained by every subscription that it matches, or who may get it so. One that had another
    /// subscription before gets it: for that it is new. Who was taken out.
    pub(super) fn leave_out(
        &self,
        message: &Message,
        shard: u16,
        number: u64,
        matched: &mut Vec<(u32, SubscriptionInfo)>,
    ) -> Vec<u32> {
        let mut over = Vec::new();
        if !matched.iter().any(|(slot, _)| self.of.contains_key(slot)) {
            return over;
        }
        let topic = message.topic();
        matched.sort_unstable_by_key(|(slot, _)| *slot);
        for of_client in matched.chunk_by(|one, other| one.0 == other.0) {
            let Some((slot, given)) = of_client.first().and_then(|(slot, _)| Some((*slot, self.of.get(slot)?))) else {
                continue;
            };
            let (mut count, mut waits) = (0, None);
            for given in given.iter().filter(|given| filter_matches(&given.filter, topic)) {
                let progress = given.progress.borrow();
                if progress.held.is_some() {
                    waits = Some(given);
                    count += 1;
                } else {
                    count += usize::from(progress.covers(shard, number));
                }
            }
            let out = count >= of_client.len() && waits.is_none_or(|given| given.progress.borrow_mut().hold(message));
            if out {
                over.push(slot);
            }
        }
        if !over.is_empty() {
            matched.retain(|(slot, _)| over.binary_search(slot).is_err());
        }
        over
    }

    /// SUBACK was sent, or is not: what has not begun by now does not.
    pub(super) fn answered(&mut self, client: Key, filters: &[SubscribeItem]) {
        if let Some(given) = self.of.get_mut(&client.slot) {
            given.retain(|given| {
                given.progress.borrow().held.is_none() || !filters.iter().any(|item| *item.filter == *given.own)
            });
        }
    }

    /// A client has ended: another one may get its slot.
    pub(super) fn end(&mut self, client: Key) {
        self.of.remove(&client.slot);
    }

    /// Forgets what is long ago.
    pub(super) fn forget(&mut self, now: u64) {
        if now < self.forget_at {
            return;
        }
        self.forget_at = now + FORGET_MS;
        self.of.retain(|_, given| {
            given.retain(|given| given.until > now);
            !given.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_mqtt::QoS;

    fn key(slot: u32, of: &mut super::super::slab::Slab<()>) -> Key {
        loop {
            let key = of.insert(());
            if key.slot == slot {
                return key;
            }
        }
    }

    fn matched(slots: &[u32]) -> Vec<(u32, SubscriptionInfo)> {
        slots.iter().map(|slot| (*slot, SubscriptionInfo::default())).collect()
    }

    fn through<const N: usize>(floors: [Option<u64>; N]) -> Progress {
        Progress { held: None, first: 0, floors: floors.to_vec() }
    }

    fn message(topic: &str) -> Message {
        let publish = raftmq_mqtt::Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic,
            packet_id: None,
            properties: raftmq_mqtt::Properties::default(),
            payload: b"x",
        };
        Message::new(&publish, raftmq_mqtt::Origin { node: 1, sequence: 1 }, "p", 0, None).expect("valid")
    }

    /// Before SUBACK it is not known what comes as retained: that is kept back, as far as there is room, unless another subscription brings it.
    #[test]
    fn what_comes_before_suback_is_held() {
        let mut keys = super::super::slab::Slab::new();
        let one = keys.insert(());
        let mut all = GivenAll::default();
        let progress = Rc::new(RefCell::new(Progress::new(0..1)));
        all.add(Given { client: one, own: "a".into(), filter: "a".into(), progress: Rc::clone(&progress), until: 9 });
        let count = |slots: &[u32]| {
            let mut matched = matched(slots);
            all.leave_out(&message("a"), 0, 5, &mut matched);
            matched.len()
        };
        assert_eq!((count(&[one.slot, 7]), count(&[one.slot, one.slot])), (1, 2));
        (1..HELD).for_each(|_| assert_eq!(count(&[one.slot]), 0));
        assert_eq!(count(&[one.slot]), 1);
        assert_eq!(progress.borrow().held.as_ref().map(Vec::len), Some(HELD));
    }

    #[test]
    fn what_is_older_than_what_was_given_is_left_out() {
        let mut keys = super::super::slab::Slab::new();
        let (one, two) = (key(0, &mut keys), key(1, &mut keys));
        let mut all = GivenAll::default();
        let mut given = |client, filter: &str, progress: Progress, until| {
            let progress = Rc::new(RefCell::new(progress));
            all.add(Given { client, own: filter.into(), filter: filter.into(), progress, until });
        };
        given(one, "a/+", through([Some(7), None]), 50);
        given(one, "b", through([Some(9), None]), 50);
        given(two, "a/#", through([Some(5), Some(5)]), 99);
        let left = |topic, shard, number, slots: &[u32]| {
            let mut matched = matched(slots);
            all.leave_out(&message(topic), shard, number, &mut matched);
            matched.into_iter().map(|(slot, _)| slot).collect::<Vec<_>>()
        };
        assert_eq!(left("a/x", 0, 7, &[3, 1, 0]), [1, 3]);
        assert_eq!(left("a/x", 0, 8, &[3, 1, 0]), [0, 1, 3]);
        assert_eq!(left("a/x", 0, 5, &[3, 1, 0]), [3]);
        // By another subscription of the client it is new, and of the other shard nothing is known.
        assert_eq!(left("a/x", 0, 5, &[0, 0, 1]), [0, 0]);
        assert_eq!(left("a/x", 1, 5, &[0, 1]), [0]);
        // By another filter something else was given.
        assert_eq!(left("c", 0, 1, &[0, 1]), [0, 1]);
        all.forget(60);
        let mut of_one = matched(&[0, 1]);
        all.leave_out(&message("a/x"), 0, 5, &mut of_one);
        assert_eq!(of_one.len(), 1);
    }

    /// Who subscribes again by the same filter has the later floor; who came after it into its slot has none of it.
    #[test]
    fn subscribed_again() {
        let mut keys = super::super::slab::Slab::new();
        let first = keys.insert(());
        let mut all = GivenAll::default();
        let given = |client, floor| Given {
            client,
            own: "a".into(),
            filter: "a".into(),
            progress: Rc::new(RefCell::new(through([Some(floor)]))),
            until: 50,
        };
        all.add(given(first, 3));
        all.add(given(first, 8));
        let mut one = matched(&[first.slot]);
        all.leave_out(&message("a"), 0, 8, &mut one);
        assert!(one.is_empty() && all.of[&first.slot].len() == 1);
        keys.remove(first);
        all.end(first);
        let second = keys.insert(());
        assert_eq!(second.slot, first.slot);
        all.add(given(second, 1));
        let mut one = matched(&[first.slot]);
        all.leave_out(&message("a"), 0, 8, &mut one);
        assert_eq!(one.len(), 1);
    }
}
