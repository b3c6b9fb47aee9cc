//! Which durable sessions want a topic: in memory only, rebuilt from the records of subscriptions at a start.

use std::collections::{BTreeMap, HashMap};

use ahash::RandomState;
use raftmq_routing::SubscriptionIndex;

use crate::record::Options;

/// The subscriptions of a shard. Sessions are named by small numbers within, of which nothing outside knows.
#[derive(Default)]
pub(crate) struct Index {
    spaces: BTreeMap<u32, SubscriptionIndex<Options>>,
    places: Vec<Place>,
    free: Vec<u32>,
    place_of: HashMap<u64, u32, RandomState>,
}

#[derive(Clone, Copy)]
struct Place {
    session: u64,
    /// The number of its subscriptions here.
    subscriptions: u32,
    /// The session has not ended: one that has keeps its subscriptions until they are removed, step by step.
    alive: bool,
}

impl Index {
    /// Adds or replaces a subscription; whether nobody had one with this filter.
    pub(crate) fn insert(&mut self, namespace: u32, session: u64, alive: bool, filter: &str, options: Options) -> bool {
        let place = match self.place_of.get(&session) {
            Some(place) => *place,
            None => self.new_place(session, alive),
        };
        let inserted = self.spaces.entry(namespace).or_default().insert(filter, place, options);
        if inserted.replaced.is_none() {
            self.places[place as usize].subscriptions += 1;
        }
        inserted.new_filter
    }

    /// Removes a subscription; whether nobody has one with this filter any more.
    pub(crate) fn remove(&mut self, namespace: u32, session: u64, filter: &str) -> bool {
        let (Some(&place), Some(space)) = (self.place_of.get(&session), self.spaces.get_mut(&namespace)) else {
            return false;
        };
        let Some(removed) = space.remove(filter, place) else { return false };
        let left = &mut self.places[place as usize].subscriptions;
        *left -= 1;
        if *left == 0 {
            self.place_of.remove(&session);
            self.free.push(place);
        }
        removed.last_of_filter
    }

    /// A session ended: it is not found any more.
    pub(crate) fn end(&mut self, session: u64) {
        if let Some(place) = self.place_of.get(&session) {
            self.places[*place as usize].alive = false;
        }
    }

    /// The sessions that want a topic, in the order of their numbers, once for each subscription.
    pub(crate) fn matches(&self, namespace: u32, topic: &str, found: &mut Vec<(u64, Options)>) {
        if let Some(space) = self.spaces.get(&namespace) {
            space.matches(topic, |place, options| {
                let place = self.places[place as usize];
                if place.alive {
                    found.push((place.session, *options));
                }
            });
        }
        found.sort_unstable_by_key(|(session, options)| (*session, options.identifier, options.flags));
    }

    /// The number of distinct filters.
    pub(crate) fn filters(&self) -> usize {
        self.spaces.values().map(SubscriptionIndex::filters).sum()
    }

    fn new_place(&mut self, session: u64, alive: bool) -> u32 {
        let new = Place { session, subscriptions: 0, alive };
        let place = if let Some(place) = self.free.pop() {
            self.places[place as usize] = new;
            place
        } else {
            self.places.push(new);
            u32::try_from(self.places.len() - 1).expect("four billion sessions do not fit into memory")
        };
        self.place_of.insert(session, place);
        place
    }
}
