//! The routes of a node, shared by its workers.

use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::{
    group_table::{GroupTable, Ranks},
    hash::route_hash,
    key::RouteKey,
    set::{Sorted, Targets},
    table::{Receiver, RouteTable},
};

/// How many routes there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteCounts {
    /// Filters without wildcards.
    pub exact: usize,
    /// Filters with wildcards.
    pub wild: usize,
    /// Groups that share their messages.
    pub shared: usize,
}

/// The filters without wildcards are spread over this many tables, each behind its own lock, so that growing one or
/// removing a dead node's ten million routes never stops all workers at once.
const SHARDS: usize = 16;

/// The route table of a node: filter → own workers, other nodes, shards. Cheap to clone, all clones are the same table.
#[derive(Clone, Default)]
pub struct SharedRoutes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    exact: [RwLock<RouteTable>; SHARDS],
    wild: RwLock<RouteTable>,
    shared: RwLock<GroupTable>,
    /// The number of groups in `shared`: lookups pass its lock by while there are none.
    groups: AtomicUsize,
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
        targets.shared = None;
        targets.shards = None;
        let mut shards = Sorted::new();
        let own = self.0.own.load(Ordering::Relaxed);
        let hash = route_hash(topic);
        read(&self.0.exact[shard_of(hash)]).collect_exact(hash, own, targets, &mut shards);
        read(&self.0.wild).collect_wild(topic, own, targets, &mut shards);
        if targets.nodes.len() > 1 {
            targets.nodes.sort_unstable();
            targets.nodes.dedup();
        }
        if !shards.is_empty() {
            shards.sort_unstable();
            shards.dedup();
            targets.shards = Some(shards[..].into());
        }
        if self.0.groups.load(Ordering::Acquire) > 0 {
            let mut found = Vec::new();
            read(&self.0.shared).matches(topic, own, &mut found);
            targets.shared = (!found.is_empty()).then(|| found.into());
        }
    }

    /// The number of filters with a route, for metrics.
    #[must_use]
    pub fn counts(&self) -> RouteCounts {
        RouteCounts {
            exact: self.0.exact.iter().map(|shard| read(shard).exact_len()).sum(),
            wild: read(&self.0.wild).wild_len(),
            shared: self.0.groups.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn add(&self, key: &RouteKey, receiver: Receiver) -> bool {
        match key {
            RouteKey::Exact(hash) => write(&self.0.exact[shard_of(*hash)]).add(key, receiver),
            RouteKey::Wild(_) => write(&self.0.wild).add(key, receiver),
            RouteKey::Shared { group, rank } => self.change_groups(|groups| groups.add(group, *rank, receiver)),
        }
    }

    pub(crate) fn remove(&self, key: &RouteKey, receiver: Receiver) -> bool {
        match key {
            RouteKey::Exact(hash) => write(&self.0.exact[shard_of(*hash)]).remove(key, receiver),
            RouteKey::Wild(_) => write(&self.0.wild).remove(key, receiver),
            RouteKey::Shared { group, rank } => self.change_groups(|groups| groups.remove(group, *rank, receiver)),
        }
    }

    pub(crate) fn remove_node(&self, id: u64) {
        for table in self.tables() {
            write(table).remove_node(id);
        }
        self.change_groups(|groups| groups.remove_node(id));
    }

    pub(crate) fn remove_shard(&self, shard: u16) {
        for table in self.tables() {
            write(table).remove_shard(shard);
        }
    }

    fn change_groups<T>(&self, change: impl FnOnce(&mut GroupTable) -> T) -> T {
        let mut groups = write(&self.0.shared);
        let changed = change(&mut groups);
        self.0.groups.store(groups.len(), Ordering::Release);
        changed
    }

    /// Makes earlier changes visible to caches. To be called after changes and before anybody is told of them.
    pub(crate) fn changed(&self) {
        self.0.epoch.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn for_each_table(&self, mut each: impl FnMut(&RouteTable)) {
        self.tables().for_each(|table| each(&read(table)));
    }

    pub(crate) fn for_each_group(&self, each: impl FnMut(&Arc<str>, u64, &[(u64, Ranks)])) {
        read(&self.0.shared).for_each(each);
    }

    /// Replaces the routes of all nodes and shards, keeps those of the workers. A lookup finds the old or the new routes of a filter, never none.
    pub(crate) fn replace_committed(&self, new: NewTables) {
        for (table, mut new) in self.tables().zip(new.plain) {
            let mut table = write(table);
            let mut workers = Vec::new();
            table.for_each_exact(|hash, found| workers.push((RouteKey::Exact(hash), found.workers)));
            table.for_each_wild(|filter, found| workers.push((RouteKey::Wild(filter.into()), found.workers)));
            for (key, mask) in workers {
                for worker in workers_of(mask) {
                    new.add(&key, Receiver::Worker(worker));
                }
            }
            *table = new;
        }
        let mut new = new.shared;
        self.change_groups(|groups| {
            groups.for_each(|key, mask, _| {
                for worker in workers_of(mask) {
                    new.add(key, 0, Receiver::Worker(worker));
                }
            });
            *groups = new;
        });
        self.changed();
    }

    fn tables(&self) -> impl Iterator<Item = &RwLock<RouteTable>> {
        self.0.exact.iter().chain([&self.0.wild])
    }
}

/// Tables made aside for [`SharedRoutes::replace_committed`].
pub(crate) struct NewTables {
    plain: Vec<RouteTable>,
    shared: GroupTable,
}

impl NewTables {
    pub(crate) fn new() -> Self {
        Self { plain: (0..=SHARDS).map(|_| RouteTable::default()).collect(), shared: GroupTable::default() }
    }

    pub(crate) fn add(&mut self, key: &RouteKey, receiver: Receiver) -> bool {
        match key {
            RouteKey::Exact(hash) => self.plain[shard_of(*hash)].add(key, receiver),
            RouteKey::Wild(_) => self.plain[SHARDS].add(key, receiver),
            RouteKey::Shared { group, rank } => self.shared.add(group, *rank, receiver),
        }
    }
}

fn workers_of(mask: u64) -> impl Iterator<Item = u8> {
    Targets { workers: mask, ..Targets::default() }.workers()
}

fn shard_of(hash: u64) -> usize {
    (hash >> 60) as usize % SHARDS
}

// A panic under the lock leaves a table that is whole enough to route by; stopping all workers would be worse.
fn read<T>(table: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    table.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(table: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
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
        assert_eq!(routes.counts(), RouteCounts { exact: 2, wild: 2, shared: 0 });
    }

    #[test]
    fn shards_are_beside_nodes_and_workers() {
        let routes = SharedRoutes::new();
        // A shard's number is no node's: the own node is left out, the shard of that number is not.
        routes.set_own_node(1);
        for (filter, receiver) in [
            ("a/b", Receiver::Shard(1)),
            ("a/b", Receiver::Shard(u16::MAX)),
            ("a/b", Receiver::Node(1)),
            ("a/+", Receiver::Shard(1)),
            ("a/+", Receiver::Node(4)),
            ("#", Receiver::Shard(0)),
            ("a/c", Receiver::Shard(5)),
        ] {
            assert!(routes.add(&RouteKey::of(filter), receiver), "{filter}");
            assert!(!routes.add(&RouteKey::of(filter), receiver), "{filter}");
        }
        let mut targets = Targets::default();
        routes.lookup("a/b", &mut targets);
        assert_eq!((targets.workers, targets.nodes.as_slice()), (0, [4].as_slice()));
        assert_eq!(targets.shards(), [0, 1, u16::MAX]);
        routes.lookup("b", &mut targets);
        assert_eq!((targets.is_empty(), targets.shards()), (false, [0].as_slice()));
        routes.lookup("$SYS/x", &mut targets);
        assert_eq!(targets, Targets::default());
        assert_eq!(routes.counts(), RouteCounts { exact: 2, wild: 2, shared: 0 });
        routes.remove_shard(1);
        routes.lookup("a/b", &mut targets);
        assert_eq!((targets.nodes.as_slice(), targets.shards()), ([4].as_slice(), [0, u16::MAX].as_slice()));
        assert!(!routes.remove(&RouteKey::of("a/b"), Receiver::Shard(1)));
        for (filter, shard) in [("a/b", u16::MAX), ("#", 0), ("a/c", 5)] {
            assert!(routes.remove(&RouteKey::of(filter), Receiver::Shard(shard)), "{filter}");
        }
        routes.remove_node(4);
        routes.remove_node(1);
        assert_eq!(routes.counts(), RouteCounts::default());
    }

    #[test]
    fn groups_are_beside_the_others() {
        let routes = SharedRoutes::new();
        routes.set_own_node(1);
        let mut targets = Targets::default();
        routes.lookup("a/b", &mut targets);
        assert_eq!(targets, Targets::default());
        for (filter, receiver) in [
            ("a/b", Receiver::Node(9)),
            ("$share/g/a/b", Receiver::Node(1)),
            ("$share/g/a/b", Receiver::Node(4)),
            ("$share/g/a/b", Receiver::Worker(2)),
            ("$queue/a/#", Receiver::Node(4)),
        ] {
            assert!(routes.add(&RouteKey::of(filter), receiver));
        }
        routes.lookup("a/b", &mut targets);
        assert_eq!((targets.workers, targets.nodes.as_slice()), (0, [9].as_slice()));
        let mut shared: Vec<_> =
            targets.shared().iter().map(|t| (&*t.key, t.workers, t.nodes.iter().map(|n| n.node).collect())).collect();
        shared.sort();
        assert_eq!(shared, [("$share/$queue/a/#", 0, vec![4]), ("$share/g/a/b", 4, vec![4])]);
        assert_eq!(routes.counts(), RouteCounts { exact: 1, wild: 0, shared: 2 });
        routes.remove_node(4);
        routes.remove(&RouteKey::of("$share/g/a/b"), Receiver::Worker(2));
        routes.lookup("a/b", &mut targets);
        assert_eq!((targets.shared(), routes.counts().shared), ([].as_slice(), 1));
    }

    #[test]
    fn replacing_what_is_committed_keeps_the_workers() {
        let routes = SharedRoutes::new();
        routes.add(&RouteKey::of("$share/g/x"), Receiver::Worker(5));
        routes.add(&RouteKey::of("$share/g/x"), Receiver::Node(7));
        for filter in ["x", "y/+"] {
            routes.add(&RouteKey::of(filter), Receiver::Worker(2));
            routes.add(&RouteKey::of(filter), Receiver::Node(7));
            routes.add(&RouteKey::of(filter), Receiver::Shard(7));
        }
        let mut new = NewTables::new();
        new.add(&RouteKey::of("x"), Receiver::Node(8));
        new.add(&RouteKey::of("x"), Receiver::Shard(9));
        new.add(&RouteKey::of("$share/g/x"), Receiver::Node(9));
        routes.replace_committed(new);
        let mut targets = Targets::default();
        routes.lookup("x", &mut targets);
        assert_eq!((targets.workers, targets.nodes.as_slice(), targets.shards()), (4, [8].as_slice(), [9].as_slice()));
        let group = &targets.shared()[0];
        assert_eq!((group.workers, group.nodes.len(), group.nodes[0].node), (32, 1, 9));
        routes.lookup("y/1", &mut targets);
        assert_eq!((targets.workers, targets.nodes.as_slice(), targets.shards()), (4, [].as_slice(), [].as_slice()));
    }
}
