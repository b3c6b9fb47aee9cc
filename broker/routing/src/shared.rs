//! The routes of a node, shared by its workers.

use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use crate::{
    hash::route_hash,
    index::is_wild,
    set::Targets,
    table::{Receiver, RouteTable},
};

/// What the routes group knows of a filter: the hash of one without wildcards, the text of one with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKey {
    /// [`crate::route_hash`] of a filter without wildcards.
    Exact(u64),
    /// A filter with wildcards.
    Wild(Arc<str>),
}

impl RouteKey {
    /// The key of a valid topic filter.
    #[must_use]
    pub fn of(filter: &str) -> Self {
        if is_wild(filter) { Self::Wild(filter.into()) } else { Self::Exact(route_hash(filter)) }
    }

    /// About the bytes that the key takes in a command.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Exact(_) => 11,
            Self::Wild(filter) => filter.len() + 4,
        }
    }
}

/// How many routes there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteCounts {
    /// Filters without wildcards.
    pub exact: usize,
    /// Filters with wildcards.
    pub wild: usize,
}

/// The filters without wildcards are spread over this many tables, each behind its own lock, so that growing one or
/// removing a dead node's ten million routes never stops all workers at once.
const SHARDS: usize = 16;

/// The route table of a node: filter → own workers and other nodes. Cheap to clone, all clones are the same table.
#[derive(Clone, Default)]
pub struct SharedRoutes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    exact: [RwLock<RouteTable>; SHARDS],
    wild: RwLock<RouteTable>,
    epoch: AtomicU64,
    own: AtomicU64,
}

impl SharedRoutes {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the Raft id of this node, which lookups leave out; 0 (the start value) is none.
    pub fn set_own_node(&self, id: u64) {
        self.0.own.store(id, Ordering::Relaxed);
        self.changed();
    }

    /// Grows with every change. What was looked up after the epoch was read may be used while it stays.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Where messages of a topic must go. `targets` is cleared first.
    pub fn lookup(&self, topic: &str, targets: &mut Targets) {
        targets.workers = 0;
        targets.nodes.clear();
        let own = self.0.own.load(Ordering::Relaxed);
        let hash = route_hash(topic);
        read(&self.0.exact[shard_of(hash)]).collect_exact(hash, own, targets);
        read(&self.0.wild).collect_wild(topic, own, targets);
        if targets.nodes.len() > 1 {
            targets.nodes.sort_unstable();
            targets.nodes.dedup();
        }
    }

    /// The number of filters with a route, for metrics.
    #[must_use]
    pub fn counts(&self) -> RouteCounts {
        RouteCounts {
            exact: self.0.exact.iter().map(|shard| read(shard).exact_len()).sum(),
            wild: read(&self.0.wild).wild_len(),
        }
    }

    pub(crate) fn add(&self, key: &RouteKey, receiver: Receiver) -> bool {
        write(self.table(key)).add(key, receiver)
    }

    pub(crate) fn remove(&self, key: &RouteKey, receiver: Receiver) -> bool {
        write(self.table(key)).remove(key, receiver)
    }

    pub(crate) fn remove_node(&self, id: u64) {
        for table in self.tables() {
            write(table).remove_node(id);
        }
    }

    /// Makes earlier changes visible to caches. To be called after changes and before anybody is told of them.
    pub(crate) fn changed(&self) {
        self.0.epoch.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn for_each_table(&self, mut each: impl FnMut(&RouteTable)) {
        self.tables().for_each(|table| each(&read(table)));
    }

    /// Replaces the routes of all nodes, keeps those of the workers. A lookup finds the old or the new routes of a filter, never none.
    pub(crate) fn replace_nodes(&self, new: NewTables) {
        for (table, mut new) in self.tables().zip(new.0) {
            let mut table = write(table);
            let mut workers = Vec::new();
            table.for_each_exact(|hash, mask, _| workers.push((RouteKey::Exact(hash), mask)));
            table.for_each_wild(|filter, mask, _| workers.push((RouteKey::Wild(filter.into()), mask)));
            for (key, workers) in workers {
                for worker in (Targets { workers, ..Targets::default() }).workers() {
                    new.add(&key, Receiver::Worker(worker));
                }
            }
            *table = new;
        }
        self.changed();
    }

    fn table(&self, key: &RouteKey) -> &RwLock<RouteTable> {
        match key {
            RouteKey::Exact(hash) => &self.0.exact[shard_of(*hash)],
            RouteKey::Wild(_) => &self.0.wild,
        }
    }

    fn tables(&self) -> impl Iterator<Item = &RwLock<RouteTable>> {
        self.0.exact.iter().chain([&self.0.wild])
    }
}

/// Tables made aside for [`SharedRoutes::replace_nodes`].
pub(crate) struct NewTables(Vec<RouteTable>);

impl NewTables {
    pub(crate) fn new() -> Self {
        Self((0..=SHARDS).map(|_| RouteTable::default()).collect())
    }

    pub(crate) fn add(&mut self, key: &RouteKey, node: u64) -> bool {
        let table = match key {
            RouteKey::Exact(hash) => shard_of(*hash),
            RouteKey::Wild(_) => SHARDS,
        };
        self.0[table].add(key, Receiver::Node(node))
    }
}

fn shard_of(hash: u64) -> usize {
    (hash >> 60) as usize % SHARDS
}

// A panic under the lock leaves a table that is whole enough to route by; stopping all workers would be worse.
fn read(table: &RwLock<RouteTable>) -> RwLockReadGuard<'_, RouteTable> {
    table.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(table: &RwLock<RouteTable>) -> RwLockWriteGuard<'_, RouteTable> {
    table.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup_joins_exact_and_wild_and_leaves_the_own_node_out() {
        let routes = SharedRoutes::new();
        routes.set_own_node(1);
        for (filter, receiver) in [
            ("a/b", Receiver::Node(9)),
            ("a/b", Receiver::Node(1)),
            ("a/b", Receiver::Worker(3)),
            ("a/+", Receiver::Node(9)),
            ("a/+", Receiver::Node(4)),
            ("#", Receiver::Worker(63)),
            ("a/c", Receiver::Node(5)),
        ] {
            assert!(routes.add(&RouteKey::of(filter), receiver));
        }
        let mut targets = Targets::default();
        routes.lookup("a/b", &mut targets);
        assert_eq!(targets.nodes.as_slice(), [4, 9]);
        assert_eq!(targets.workers().collect::<Vec<_>>(), [3, 63]);
        routes.lookup("$SYS/x", &mut targets);
        assert!(targets.is_empty());
        assert_eq!(routes.counts(), RouteCounts { exact: 2, wild: 2 });
    }

    #[test]
    fn replacing_the_nodes_keeps_the_workers() {
        let routes = SharedRoutes::new();
        for filter in ["x", "y/+"] {
            routes.add(&RouteKey::of(filter), Receiver::Worker(2));
            routes.add(&RouteKey::of(filter), Receiver::Node(7));
        }
        let mut new = NewTables::new();
        new.add(&RouteKey::of("x"), 8);
        routes.replace_nodes(new);
        let mut targets = Targets::default();
        routes.lookup("x", &mut targets);
        assert_eq!((targets.workers, targets.nodes.as_slice()), (4, [8].as_slice()));
        routes.lookup("y/1", &mut targets);
        assert_eq!((targets.workers, targets.nodes.as_slice()), (4, [].as_slice()));
    }
}
