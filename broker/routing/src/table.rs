//! Filter → workers, nodes and shards.

use std::collections::HashMap;

use ahash::RandomState;

use crate::{
    key::RouteKey,
    set::{self, RouteSet, SetRef, SetStore, Sorted, Targets},
    shrink::shrink,
    trie::Trie,
};

/// Who gets the messages of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// A worker of this node.
    Worker(u8),
    /// A node, by its Raft id.
    Node(u64),
    /// A shard.
    Shard(u16),
}

/// Two halves of a hash: aligned to 4 bytes, so that an entry of the map takes 12 bytes and not 16.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct HashKey([u32; 2]);

impl HashKey {
    fn new(hash: u64) -> Self {
        Self([hash as u32, (hash >> 32) as u32])
    }

    fn get(self) -> u64 {
        u64::from(self.0[0]) | u64::from(self.0[1]) << 32
    }
}

/// Filters and where their messages must go. [`crate::SharedRoutes`] is made of several.
///
/// A filter without wildcards takes 13 bytes at the map's fill, so 15 to 30, 22 at ten million.
pub struct RouteTable {
    exact: HashMap<HashKey, SetRef, RandomState>,
    wild: Trie<SetRef>,
    sets: SetStore,
    nodes: NodeTable,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self { exact: HashMap::default(), wild: Trie::new(), sets: SetStore::default(), nodes: NodeTable::default() }
    }
}

impl RouteTable {
    /// Adds where a topic's messages must go to `targets` and `shards`, whose nodes and shards may then be there twice and out of order. `hash` is
    /// [`crate::route_hash`] of the topic, `own` the Raft id to leave out.
    pub(crate) fn collect_exact(&self, hash: u64, own: u64, targets: &mut Targets, shards: &mut Sorted) {
        if let Some(&set) = self.exact.get(&HashKey::new(hash)) {
            self.collect(set, own, targets, shards);
        }
    }

    /// As [`RouteTable::collect_exact`], for the filters with wildcards.
    pub(crate) fn collect_wild(&self, topic: &str, own: u64, targets: &mut Targets, shards: &mut Sorted) {
        self.wild.matches(topic, |&set| self.collect(set, own, targets, shards));
    }

    fn collect(&self, set: SetRef, own: u64, targets: &mut Targets, shards: &mut Sorted) {
        self.sets.with(set, |workers, nodes, more| {
            targets.workers |= workers;
            targets.nodes.extend(nodes.iter().map(|&index| self.nodes.id(index)).filter(|&id| id != own));
            if !more.is_empty() {
                shards.extend_from_slice(more);
            }
        });
    }

    /// Adds a receiver to a filter; says whether it was not there before.
    pub(crate) fn add(&mut self, key: &RouteKey, receiver: Receiver) -> bool {
        let index = match receiver {
            Receiver::Worker(_) | Receiver::Shard(_) => 0,
            Receiver::Node(id) => self.nodes.index_or_insert(id),
        };
        let added = self.change(key, |set| match receiver {
            Receiver::Worker(worker) => {
                let before = set.workers;
                set.workers |= 1 << worker;
                set.workers != before
            }
            Receiver::Node(_) => set::insert(&mut set.nodes, index),
            Receiver::Shard(shard) => set::insert(&mut set.shards, shard),
        });
        if matches!(receiver, Receiver::Node(_)) {
            self.nodes.count(index, i64::from(added));
        }
        added
    }

    /// Removes a receiver from a filter; says whether it was there.
    pub(crate) fn remove(&mut self, key: &RouteKey, receiver: Receiver) -> bool {
        match receiver {
            Receiver::Worker(worker) => self.change(key, |set| {
                let before = set.workers;
                set.workers &= !(1 << worker);
                set.workers != before
            }),
            Receiver::Node(id) => {
                let Some(index) = self.nodes.index(id) else {
                    return false;
                };
                let removed = self.change(key, |set| set::remove(&mut set.nodes, index));
                self.nodes.count(index, -i64::from(removed));
                removed
            }
            Receiver::Shard(shard) => self.change(key, |set| set::remove(&mut set.shards, shard)),
        }
    }

    fn change(&mut self, key: &RouteKey, change: impl FnOnce(&mut RouteSet) -> bool) -> bool {
        let old = match key {
            RouteKey::Exact(hash) => self.exact.get(&HashKey::new(*hash)).copied(),
            RouteKey::Wild(filter) => self.wild.get_mut(filter).copied(),
            // Groups have a table of their own.
            RouteKey::Shared { .. } => return false,
        };
        let mut set = old.map(|set| self.sets.take(set)).unwrap_or_default();
        let changed = change(&mut set);
        // Put back even if unchanged: it was taken.
        match (key, self.sets.put(set)) {
            (RouteKey::Exact(hash), Some(set)) => {
                self.exact.insert(HashKey::new(*hash), set);
            }
            (RouteKey::Wild(filter), Some(set)) => *self.wild.get_or_insert_with(filter, || set) = set,
            (_, None) if old.is_none() => {}
            (RouteKey::Shared { .. }, _) => {}
            (RouteKey::Exact(hash), None) => {
                self.exact.remove(&HashKey::new(*hash));
                shrink(&mut self.exact);
            }
            (RouteKey::Wild(filter), None) => {
                self.wild.remove(filter);
            }
        }
        changed
    }

    /// Removes all routes of a node.
    pub(crate) fn remove_node(&mut self, id: u64) {
        let Some(index) = self.nodes.index(id) else {
            return;
        };
        self.remove_everywhere(|_, nodes, _| nodes.contains(&index), |set| set::remove(&mut set.nodes, index));
        self.nodes.free(index);
    }

    /// Removes all routes of a shard.
    pub(crate) fn remove_shard(&mut self, shard: u16) {
        self.remove_everywhere(|_, _, shards| shards.contains(&shard), |set| set::remove(&mut set.shards, shard));
    }

    /// Changes each set of which `is_concerned` says so.
    fn remove_everywhere(
        &mut self,
        is_concerned: impl Fn(u64, &[u16], &[u16]) -> bool,
        remove: impl Fn(&mut RouteSet) -> bool,
    ) {
        let sets = &mut self.sets;
        let mut keep = |set: &mut SetRef| {
            if !sets.with(*set, &is_concerned) {
                return true;
            }
            let mut content = sets.take(*set);
            remove(&mut content);
            sets.put(content).inspect(|changed| *set = *changed).is_some()
        };
        self.exact.retain(|_, set| keep(set));
        self.wild.retain(&mut keep);
        // A large one may have left.
        shrink(&mut self.exact);
    }

    /// Calls with each filter without wildcards, as hash, and its members.
    pub(crate) fn for_each_exact(&self, mut each: impl FnMut(u64, &Members<'_>)) {
        for (key, &set) in &self.exact {
            self.with_members(set, |members| each(key.get(), members));
        }
    }

    /// Calls with each filter with wildcards and its members.
    pub(crate) fn for_each_wild(&self, mut each: impl FnMut(&str, &Members<'_>)) {
        self.wild.for_each(|filter, &set| self.with_members(set, |members| each(filter, members)));
    }

    fn with_members(&self, set: SetRef, each: impl FnOnce(&Members<'_>)) {
        self.sets.with(set, |workers, nodes, shards| each(&Members { workers, nodes, shards, table: &self.nodes }));
    }

    pub(crate) fn exact_len(&self) -> usize {
        self.exact.len()
    }

    pub(crate) fn wild_len(&self) -> usize {
        self.wild.len()
    }
}

/// Who gets the messages of a filter.
pub(crate) struct Members<'a> {
    /// As a mask.
    pub(crate) workers: u64,
    nodes: &'a [u16],
    /// In order.
    pub(crate) shards: &'a [u16],
    table: &'a NodeTable,
}

impl Members<'_> {
    /// Raft ids.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = u64> {
        self.nodes.iter().map(|&index| self.table.id(index))
    }
}

/// Small numbers for Raft ids, so that a set of nodes is small. A number is free again when no route has it.
#[derive(Default)]
struct NodeTable {
    /// Raft id and number of routes by index.
    entries: Vec<(u64, u64)>,
    indexes: HashMap<u64, u16, RandomState>,
    free: Vec<u16>,
}

impl NodeTable {
    fn id(&self, index: u16) -> u64 {
        self.entries[usize::from(index)].0
    }

    fn index(&self, id: u64) -> Option<u16> {
        self.indexes.get(&id).copied()
    }

    fn index_or_insert(&mut self, id: u64) -> u16 {
        if let Some(index) = self.index(id) {
            return index;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, 0));
            u16::try_from(self.entries.len() - 1)
                .expect("a cluster has far fewer than 65,536 nodes with routes at a time")
        });
        self.entries[usize::from(index)] = (id, 0);
        self.indexes.insert(id, index);
        index
    }

    fn count(&mut self, index: u16, change: i64) {
        let routes = &mut self.entries[usize::from(index)].1;
        *routes = routes.saturating_add_signed(change);
        if *routes == 0 {
            self.free(index);
        }
    }

    fn free(&mut self, index: u16) {
        self.indexes.remove(&self.id(index));
        self.entries[usize::from(index)] = (0, 0);
        self.free.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_route_is_small() {
        assert_eq!(size_of::<(HashKey, SetRef)>(), 12);
    }

    #[test]
    fn one_receiver_takes_no_set() {
        let mut table = RouteTable::default();
        let receivers = [
            Receiver::Node(1),
            Receiver::Node(0),
            Receiver::Worker(0),
            Receiver::Worker(63),
            Receiver::Shard(0),
            Receiver::Shard(u16::MAX),
        ];
        for (hash, receiver) in receivers.into_iter().enumerate() {
            table.add(&RouteKey::Exact(hash as u64), receiver);
        }
        assert_eq!(table.sets.stored(), 0);
        let mut found = Vec::new();
        table.for_each_exact(|hash, members| {
            found.push((hash, members.workers, members.nodes().collect(), members.shards.to_vec()));
        });
        found.sort();
        let expected: [(u64, u64, Vec<u64>, Vec<u16>); 6] = [
            (0, 0, vec![1], vec![]),
            (1, 0, vec![0], vec![]),
            (2, 1, vec![], vec![]),
            (3, 1 << 63, vec![], vec![]),
            (4, 0, vec![], vec![0]),
            (5, 0, vec![], vec![u16::MAX]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn sets_and_node_numbers_are_given_back() {
        let mut table = RouteTable::default();
        for i in 0..100_u64 {
            table.add(&RouteKey::Exact(i), Receiver::Node(7));
            table.add(&RouteKey::Exact(i), Receiver::Node(8));
            table.add(&RouteKey::Exact(i), Receiver::Worker(63));
            table.add(&RouteKey::Exact(i), Receiver::Shard(u16::MAX));
        }
        table.add(&RouteKey::of("a/+"), Receiver::Node(8));
        table.add(&RouteKey::of("a/#"), Receiver::Shard(u16::MAX));
        assert_eq!(table.sets.stored(), 1);
        table.remove_node(8);
        assert_eq!((table.exact_len(), table.wild_len(), table.nodes.indexes.len()), (100, 1, 1));
        table.remove_shard(u16::MAX);
        assert_eq!((table.exact_len(), table.wild_len(), table.sets.stored()), (100, 0, 1));
        for i in 0..100 {
            assert!(table.remove(&RouteKey::Exact(i), Receiver::Node(7)));
            assert!(!table.remove(&RouteKey::Exact(i), Receiver::Node(7)));
            assert!(table.remove(&RouteKey::Exact(i), Receiver::Worker(63)));
        }
        assert_eq!((table.exact_len(), table.sets.stored(), table.nodes.indexes.len()), (0, 0, 0));
        assert_eq!(table.nodes.free.len(), table.nodes.entries.len());
    }
}
