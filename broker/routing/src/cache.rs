//! What a worker remembers of recent lookups.

use ahash::RandomState;

use crate::{set::Targets, shared::SharedRoutes};

/// Longer topics are looked up each time, so that the cache's size is bounded.
const LONGEST: usize = 256;

/// The targets of hot topics, for one worker. Each topic has one place, which the last one looked up takes: nothing is
/// searched, nothing is evicted in bulk, and a change of the routes costs one comparison.
pub struct TopicCache {
    routes: SharedRoutes,
    places: Vec<Place>,
    size: usize,
    hasher: RandomState,
    uncached: Targets,
    hits: u64,
    misses: u64,
}

struct Place {
    epoch: u64,
    topic: String,
    targets: Targets,
}

impl TopicCache {
    /// A cache with room for `topics` topics, rounded up to a power of two; at most some 390 bytes each and the lists of groups and shards, allocated at the first lookup.
    #[must_use]
    pub fn new(routes: SharedRoutes, topics: usize) -> Self {
        Self {
            routes,
            places: Vec::new(),
            size: topics.clamp(1, 1 << 20).next_power_of_two(),
            hasher: RandomState::new(),
            uncached: Targets::default(),
            hits: 0,
            misses: 0,
        }
    }

    /// Where messages of a topic must go, as [`SharedRoutes::lookup`] says.
    pub fn lookup(&mut self, topic: &str) -> &Targets {
        if topic.len() > LONGEST {
            return self.lookup_once(topic);
        }
        if self.places.is_empty() {
            // No topic name is empty, so that an unused place matches none.
            self.places.resize_with(self.size, || Place {
                epoch: 0,
                topic: String::new(),
                targets: Targets::default(),
            });
        }
        // Read before the lookup: a change in between makes the place old at once.
        let epoch = self.routes.epoch();
        let place = &mut self.places[self.hasher.hash_one(topic) as usize & (self.size - 1)];
        if place.epoch == epoch && place.topic == topic && !topic.is_empty() {
            self.hits += 1;
        } else {
            self.misses += 1;
            self.routes.lookup(topic, &mut place.targets);
            place.epoch = epoch;
            place.topic.clear();
            place.topic.push_str(topic);
        }
        &place.targets
    }

    /// As [`TopicCache::lookup`], of a topic that hardly comes again: it takes no other one's place.
    pub fn lookup_once(&mut self, topic: &str) -> &Targets {
        self.misses += 1;
        self.routes.lookup(topic, &mut self.uncached);
        &self.uncached
    }

    /// Lookups answered from the cache and lookups that were not.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key::RouteKey, table::Receiver};

    #[test]
    fn a_change_of_the_routes_is_seen() {
        let routes = SharedRoutes::new();
        let mut cache = TopicCache::new(routes.clone(), 2);
        assert!(cache.lookup("a").is_empty());
        assert!(cache.lookup("a").is_empty());
        routes.add(&RouteKey::of("a"), Receiver::Node(3));
        routes.changed();
        assert_eq!(cache.lookup("a").nodes.as_slice(), [3]);
        for i in 0..100 {
            assert!(cache.lookup(&format!("b{i}")).is_empty());
        }
        assert_eq!(cache.lookup("a").nodes.as_slice(), [3]);
        assert_eq!(cache.hits_and_misses().0, 1);
        for i in 0..100 {
            assert!(cache.lookup_once(&format!("c{i}")).is_empty());
        }
        assert_eq!(cache.lookup_once("a").nodes.as_slice(), [3]);
        assert_eq!(cache.lookup("a").nodes.as_slice(), [3]);
        assert_eq!(cache.hits_and_misses().0, 2, "what is looked up once leaves the others where they are");
        let long = "x".repeat(1000);
        assert!(cache.lookup(&long).is_empty());
    }
}
