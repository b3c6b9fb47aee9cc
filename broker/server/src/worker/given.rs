//! What new subscriptions of this worker's clients got as retained, and what is left out of what comes live for that.
//!
//! Before SUBACK each shard says the number of its last change, the *floor*: what was changed up to there comes as what is retained, and not live, however late it
//! arrives; what is changed later was published when every node knew the subscription, and comes live. So nobody gets an older one after a newer one. What does
//! not come live is read after a while, and noted by its topic: what is older and comes after all is left out, too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use raftmq_mqtt::Message;
use raftmq_mqtt::topic::filter_matches;
use raftmq_session::SubscriptionInfo;

use super::wheel::Key;

/// Messages that are kept back for a subscription before its SUBACK. Of more the topics are noted: what is retained of those is read later.
const HELD: usize = 64;
/// The most topics that are noted.
pub(super) const NOTED: usize = 4_096;
/// How often it is looked at what is older than that.
const FORGET_MS: u64 = 10_000;

/// What a new subscription gets as retained.
#[derive(Debug)]
pub(super) struct Progress {
    /// Before SUBACK: what came live meanwhile. Of it that which is not newer than the floors comes as what is retained.
    pub(super) held: Option<Vec<Message>>,
    /// Topics for which there was no room among those, with the numbers of their last changes.
    pub(super) missed: Topics,
    pub(super) first: u16,
    /// Of the shards that may retain something for it, from that one on: what was changed up to here does not come live.
    pub(super) floors: Vec<Option<u64>>,
    /// Topics of which something later came as retained, since it did not come live, with the numbers of those changes.
    late: Topics,
}

/// Changes by topics.
pub(super) type Topics = HashMap<Box<str>, u64, ahash::RandomState>;

impl Progress {
    pub(super) fn new(shards: Range<u16>) -> Self {
        Self {
            held: Some(Vec::new()),
            missed: Topics::default(),
            first: shards.start,
            floors: vec![None; shards.len()],
            late: Topics::default(),
        }
    }

    /// What was changed up to here, in a shard, does not come live; `None`: that is not known.
    pub(super) fn floor(&self, shard: u16) -> Option<u64> {
        *self.floors.get(usize::from(shard.checked_sub(self.first)?))?
    }

    /// Keeps a message back until SUBACK. Without room for it the client does not get it: nothing that is published before its SUBACK is promised to it.
    fn hold(&mut self, message: &Message) {
        let Some(held) = &mut self.held else { return };
        if held.len() < HELD {
            held.push(message.clone());
        } else if let Some(number) = message.change() {
            note(&mut self.missed, message.topic(), number);
        }
    }

    /// Whether a message that is not to be retained goes behind one that is kept back: its topic has such a one.
    fn holds(&self, topic: &str) -> bool {
        self.held.as_ref().is_some_and(|held| held.iter().any(|held| held.topic() == topic))
    }

    /// Something later than the floor came as retained.
    pub(super) fn gave_late(&mut self, topic: &str, number: u64) {
        note(&mut self.late, topic, number);
    }

    /// Whether a change comes as what is retained, or a later one of its topic does, which was retained when SUBACK was sent.
    pub(super) fn covers(&self, shard: u16, number: u64) -> bool {
        self.floor(shard).is_some_and(|floor| number <= floor)
    }

    /// The same, or a later one of its topic came as retained since.
    fn covers_or_late(&self, shard: u16, topic: &str, number: u64) -> bool {
        self.covers(shard, number) || self.late.get(topic).is_some_and(|given| number <= *given)
    }
}

/// Notes the last change of a topic, as far as there is room.
fn note(topics: &mut Topics, topic: &str, number: u64) {
    if let Some(known) = topics.get_mut(topic) {
        *known = number.max(*known);
    } else if topics.len() < NOTED {
        topics.insert(topic.into(), number);
    }
}

/// What a new subscription got as retained.
pub(super) struct Given {
    /// The number of its lookup.
    pub(super) number: u64,
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

    /// Takes out the clients who got this message's change of its topic, in a shard, or a later one, as retained by every subscription that it matches, or who may get it so. One that had
    /// another subscription before gets it: for that it is new. A message without a change goes behind what is kept back of its topic. Who was taken out.
    pub(super) fn leave_out(
        &self,
        message: &Message,
        change: Option<(u16, u64)>,
        matched: &mut Vec<(u32, SubscriptionInfo)>,
    ) -> Vec<u32> {
        let mut over = Vec::new();
        let waits = |given: &Given| given.progress.borrow().held.is_some();
        let concerns = |of_client: &Vec<Given>| change.is_some() || of_client.iter().any(waits);
        if !matched.iter().any(|(slot, _)| self.of.get(slot).is_some_and(concerns)) {
            return over;
        }
        matched.sort_unstable_by_key(|(slot, _)| *slot);
        for of_client in matched.chunk_by(|one, other| one.0 == other.0) {
            let Some((slot, _)) = of_client.first() else { continue };
            let (count, waits) = self.count(*slot, message.topic(), change, Progress::covers_or_late);
            if count < of_client.len() {
                continue;
            }
            match waits {
                Some(given) => given.progress.borrow_mut().hold(message),
                None if change.is_none() => continue,
                None => {}
            }
            over.push(*slot);
        }
        if !over.is_empty() {
            matched.retain(|(slot, _)| over.binary_search(slot).is_err());
        }
        over
    }

    /// Of how many subscriptions of a client a message is left out, and one of them whose SUBACK is still to come.
    fn count(
        &self,
        slot: u32,
        topic: &str,
        change: Option<(u16, u64)>,
        covers: impl Fn(&Progress, u16, &str, u64) -> bool,
    ) -> (usize, Option<&Given>) {
        let (mut count, mut waits) = (0, None);
        for given in self.of.get(&slot).into_iter().flatten() {
            let progress = given.progress.borrow();
            if (change.is_none() && progress.held.is_none()) || !filter_matches(&given.filter, topic) {
                continue;
            }
            if progress.held.is_none() {
                count += usize::from(change.is_some_and(|(shard, number)| covers(&progress, shard, topic, number)));
            } else if change.is_some() || progress.holds(topic) {
                waits = Some(given);
                count += 1;
            }
        }
        (count, waits)
    }

    /// Whether the queue of a client has a change of a topic that comes, or came, as retained by all of so many subscriptions that it matches. What came so later than SUBACK does not
    /// count: nothing that was published since is left out of a queue.
    pub(super) fn covers(
        &self,
        slot: u32,
        topic: &str,
        shard: u16,
        number: u64,
        matched: impl FnOnce() -> usize,
    ) -> bool {
        if !self.of.contains_key(&slot) {
            return false;
        }
        let (count, waits) =
            self.count(slot, topic, Some((shard, number)), |progress, shard, _, number| progress.covers(shard, number));
        count > 0 && waits.is_none() && (1..=count).contains(&matched())
    }

    /// Whether anything may be kept back, or left out.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// SUBACK was sent, or is not: of these lookups what has not begun by now does not.
    pub(super) fn answered(&mut self, client: Key, lookups: &[u64]) {
        if let Some(given) = self.of.get_mut(&client.slot) {
            given.retain(|given| given.progress.borrow().held.is_none() || !lookups.contains(&given.number));
        }
    }

    /// A client has unsubscribed.
    pub(super) fn remove(&mut self, client: Key, filters: &[Arc<str>]) {
        if let Some(given) = self.of.get_mut(&client.slot) {
            given.retain(|given| given.client != client || !filters.contains(&given.own));
        }
    }

    /// A client has ended: another one may get its slot.
    pub(super) fn end(&mut self, client: Key) {
        self.of.remove(&client.slot);
    }

    /// What a lookup gives is remembered for longer.
    pub(super) fn keep(&mut self, client: Key, number: u64, until: u64) {
        let of_client = self.of.get_mut(&client.slot).into_iter().flatten();
        for given in of_client.filter(|given| given.client == client && given.number == number) {
            given.until = given.until.max(until);
        }
    }

    /// Forgets what is long ago, of lookups that have ended and clients whose queues have nothing from then.
    pub(super) fn forget(&mut self, now: u64, mut caught_up: impl FnMut(Key) -> bool, goes_on: impl Fn(u64) -> bool) {
        if now < self.forget_at {
            return;
        }
        self.forget_at = now + FORGET_MS;
        self.of.retain(|_, given| {
            given.retain(|given| given.until > now || goes_on(given.number) || !caught_up(given.client));
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
        Progress { held: None, floors: floors.to_vec(), ..Progress::new(0..0) }
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
        all.add(Given {
            number: 1,
            client: one,
            own: "a".into(),
            filter: "#".into(),
            progress: Rc::clone(&progress),
            until: 9,
        });
        let all = RefCell::new(all);
        let count_of = |message: &Message, change: Option<(u16, u64)>, slots: &[u32]| {
            let mut matched = matched(slots);
            all.borrow().leave_out(message, change, &mut matched);
            matched.len()
        };
        let changed = message("a").with_change(5);
        let count = |slots: &[u32]| count_of(&changed, Some((0, 5)), slots);
        // What is not retained passes, until something of its topic is kept back.
        assert_eq!(count_of(&message("a"), None, &[one.slot]), 1);
        assert_eq!((count(&[one.slot, 7]), count(&[one.slot, one.slot])), (1, 2));
        assert_eq!(count_of(&message("a"), None, &[one.slot]), 0);
        assert_eq!(count_of(&message("b"), None, &[one.slot]), 1);
        (2..HELD).for_each(|_| assert_eq!(count(&[one.slot]), 0));
        // There is no room for more: nobody gets it, and its topic is noted.
        assert!(progress.borrow().missed.is_empty());
        assert_eq!(count(&[one.slot]), 0);
        assert_eq!(count_of(&message("a"), None, &[one.slot]), 0);
        assert_eq!(progress.borrow().held.as_ref().map(Vec::len), Some(HELD));
        let later = message("a").with_change(8);
        assert_eq!(count_of(&later, Some((0, 8)), &[one.slot]), 0);
        assert!(progress.borrow().missed.iter().eq([(&Box::from("a"), &8)]));
        assert!(!all.borrow().covers(one.slot, "a", 0, 5, || 1), "a queue does not keep it back");
        let of_other = [2];
        all.borrow_mut().answered(one, &of_other);
        assert_eq!(count(&[one.slot]), 0);
        all.borrow_mut().answered(one, &[1]);
        assert_eq!(count(&[one.slot]), 1);
    }

    #[test]
    fn what_is_older_than_what_was_given_is_left_out() {
        let mut keys = super::super::slab::Slab::new();
        let (one, two) = (key(0, &mut keys), key(1, &mut keys));
        let mut all = GivenAll::default();
        let mut given = |client, filter: &str, progress: Progress, until| {
            let progress = Rc::new(RefCell::new(progress));
            all.add(Given { number: 0, client, own: filter.into(), filter: filter.into(), progress, until });
        };
        given(one, "a/+", through([Some(7), None]), 50);
        given(one, "b", through([Some(9), None]), 50);
        given(two, "a/#", through([Some(5), Some(5)]), 99);
        let left = |topic, shard, number, slots: &[u32]| {
            let mut matched = matched(slots);
            all.leave_out(&message(topic), Some((shard, number)), &mut matched);
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
        // For a queue the same, by how many subscriptions it has matched.
        assert!(
            all.covers(0, "a/x", 0, 7, || 1) && !all.covers(0, "a/x", 0, 7, || 2) && !all.covers(0, "a/x", 0, 8, || 1)
        );
        assert!(!all.covers(0, "a/x", 0, 7, || 0) && !all.covers(3, "a/x", 0, 1, || 0));
        // What came late as retained counts by its topic, and for what comes live only.
        let of_two =
            all.of.get(&1).and_then(|given| given.first()).map(|given| Rc::clone(&given.progress)).expect("given");
        of_two.borrow_mut().gave_late("a/x", 20);
        of_two.borrow_mut().gave_late("a/x", 12);
        assert_eq!((left("a/x", 1, 20, &[1]), left("a/x", 1, 21, &[1])), (vec![], vec![1]));
        assert_eq!((left("a/y", 1, 20, &[1]), all.covers(1, "a/x", 1, 20, || 1)), (vec![1], false));
        all.remove(one, &["b".into()]);
        assert!(all.covers(0, "a/x", 0, 7, || 1) && !all.covers(0, "b", 0, 9, || 1));
        // What is not retained has no such number.
        let mut plain = matched(&[0, 1]);
        assert!(all.leave_out(&message("a/x"), None, &mut plain).is_empty());
        all.keep(one, 7, 99);
        all.forget(60, |_| true, |_| false);
        let mut of_one = matched(&[0, 1]);
        all.leave_out(&message("a/x"), Some((0, 5)), &mut of_one);
        assert_eq!(of_one.len(), 1);
    }

    /// Who subscribes again by the same filter has the later floor; who came after it into its slot has none of it.
    #[test]
    fn subscribed_again() {
        let mut keys = super::super::slab::Slab::new();
        let first = keys.insert(());
        let mut all = GivenAll::default();
        let given = |client, floor| Given {
            number: 0,
            client,
            own: "a".into(),
            filter: "a".into(),
            progress: Rc::new(RefCell::new(through([Some(floor)]))),
            until: 50,
        };
        all.add(given(first, 3));
        all.add(given(first, 8));
        let mut one = matched(&[first.slot]);
        all.leave_out(&message("a"), Some((0, 8)), &mut one);
        assert!(one.is_empty() && all.of[&first.slot].len() == 1);
        keys.remove(first);
        all.end(first);
        let second = keys.insert(());
        assert_eq!(second.slot, first.slot);
        all.add(given(second, 1));
        let mut one = matched(&[first.slot]);
        all.leave_out(&message("a"), Some((0, 8)), &mut one);
        assert_eq!(one.len(), 1);
    }
}
