//! Routes of shards: filter → shards that keep durable sessions with a subscription to it.
//!
//! Whoever leads a shard announces what the shard's log says: the first subscription with a filter, the last one. Each change has a number
//! of the shard's own, one after the other, the same on all of its replicas. So it does not matter who proposes a change, how often, and
//! together with which others: what was applied is passed over, and what would leave a gap is refused.

use serde::{Deserialize, Serialize};

use super::{RoutesMachine, RoutesResponse, key_hash};
use crate::{key::RouteKey, table::Receiver};

/// The number of a shard's first change.
const FIRST: u64 = 1;

/// A change of a shard's routes.
///
/// Two filters may have one key: of two tenants, with the same hash, or one of them a group's. So what is added is counted, and routed until
/// it was removed as often. Whoever numbers the changes says one for the first subscription with a filter and one for the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardChange {
    /// The shard has its first subscription with a filter ([`RouteKey::of_shard`]).
    Add(RouteKey),
    /// The shard has no subscription with a filter any more.
    Remove(RouteKey),
}

/// What is known of a shard's routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardRoutes {
    /// The generation of its changes.
    pub generation: u64,
    /// The number of the change expected next.
    pub next: u64,
    /// How many routes it has.
    pub routes: u64,
}

/// What is known of one shard; its routes are in the table. Kept for good, so that what is late of its past changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardStream {
    pub(crate) generation: u64,
    pub(crate) next: u64,
    /// The number of the shard's routes, however often each was added.
    pub(crate) routes: u64,
    /// Sum of the hashes of what was added and not removed, each as often: part of the state hash, in no order.
    pub(crate) sum: u64,
}

impl ShardStream {
    pub(crate) fn new(generation: u64, next: u64) -> Self {
        Self { generation, next, routes: 0, sum: 0 }
    }
}

impl RoutesMachine {
    /// What is known of a shard's routes, for who leads it: where to go on.
    #[must_use]
    pub fn shard_routes(&self, shard: u16) -> Option<ShardRoutes> {
        let &ShardStream { generation, next, routes, .. } = self.shards.get(&shard)?;
        Some(ShardRoutes { generation, next, routes })
    }

    pub(super) fn change_shard(
        &mut self,
        shard: u16,
        generation: u64,
        first: u64,
        changes: &[ShardChange],
    ) -> RoutesResponse {
        let (known, next) = self.shards.get(&shard).map_or((generation, FIRST), |known| (known.generation, known.next));
        if known != generation {
            return RoutesResponse::OtherGeneration { known };
        }
        if first > next {
            return RoutesResponse::Gap { expected: next };
        }
        let applied = usize::try_from(next - first).unwrap_or(usize::MAX);
        let new = changes.get(applied..).unwrap_or_default();
        let mut stream = self.shards.remove(&shard).unwrap_or_else(|| ShardStream::new(generation, FIRST));
        for change in new {
            match change {
                ShardChange::Add(key) => self.add_for(shard, key, &mut stream),
                ShardChange::Remove(key) => self.remove_for(shard, key, &mut stream),
            }
        }
        stream.next = stream.next.saturating_add(new.len() as u64);
        let next = stream.next;
        self.shards.insert(shard, stream);
        if !new.is_empty() {
            self.routes.changed();
        }
        RoutesResponse::Ok { next }
    }

    pub(super) fn reset_shard(&mut self, shard: u16, generation: u64, next: u64) -> RoutesResponse {
        if let Some(known) = self.shards.get(&shard) {
            if known.generation == generation {
                return RoutesResponse::Ok { next: known.next };
            }
            if known.generation > generation {
                return RoutesResponse::OtherGeneration { known: known.generation };
            }
            if known.routes > 0 {
                self.repeated.retain(|(of, _), _| *of != shard);
                self.routes.remove_shard(shard);
                self.routes.changed();
            }
        }
        self.shards.insert(shard, ShardStream::new(generation, next));
        RoutesResponse::Ok { next }
    }

    /// What is no key of a shard is nothing, on each replica.
    fn add_for(&mut self, shard: u16, key: &RouteKey, stream: &mut ShardStream) {
        if key.is_shared() {
            return;
        }
        stream.sum = stream.sum.wrapping_add(key_hash(key));
        if self.routes.add(key, Receiver::Shard(shard)) {
            stream.routes += 1;
        } else {
            *self.repeated.entry((shard, key.clone())).or_default() += 1;
        }
    }

    fn remove_for(&mut self, shard: u16, key: &RouteKey, stream: &mut ShardStream) {
        let of = (shard, key.clone());
        if let Some(more) = self.repeated.get_mut(&of) {
            *more -= 1;
            if *more == 0 {
                self.repeated.remove(&of);
            }
        } else if self.routes.remove(key, Receiver::Shard(shard)) {
            stream.routes -= 1;
        } else {
            return;
        }
        stream.sum = stream.sum.wrapping_sub(key_hash(key));
    }
}

#[cfg(test)]
mod tests;
