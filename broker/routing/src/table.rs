//! Filter → workers and nodes.

use std::collections::HashMap;

use ahash::RandomState;

use crate::{
    key::RouteKey,
    set::{RouteSet, SetRef, SetStore, Targets},
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
    /// Adds where a topic's messages must go to `targets`, whose nodes may then be there twice and out of order. `hash` is
    /// [`crate::route_hash`] of the topic, `own` the Raft id to leave out.
    pub(crate) fn collect_exact(&self, hash: u64, own: u64, targets: &mut Targets) {
        if let Some(&set) = self.exact.get(&HashKey::new(hash)) {
            self.collect(set, own, targets);
        }
    }

    /// As [`RouteTable::collect_exact`], for the filters with wildcards.
    pub(crate) fn collect_wild(&self, topic: &str, own: u64, targets: &mut Targets) {
        self.wild.matches(topic, |&set| self.collect(set, own, targets));
    }

    fn collect(&self, set: SetRef, own: u64, targets: &mut Targets) {
        self.sets.with(set, |workers, nodes| {
            targets.workers |= workers;
            targets.nodes.extend(nodes.iter().map(|&index| self.nodes.id(index)).filter(|&id| id != own));
        });
    }

    /// Adds a receiver to a filter; says whether it was not there before.
    pub(crate) fn add(&mut self, key: &RouteKey, receiver: Receiver) -> bool {
        let index = match receiver {
            Receiver::Worker(_) => 0,
            Receiver::Node(id) => self.nodes.index_or_insert(id),
        };
        let added = self.change(key, |set| match receiver {
            Receiver::Worker(worker) => {
                let before = set.workers;
                set.workers |= 1 << worker;
                set.workers != before
            }
            Receiver::Node(_) => set.add_node(index),
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
                let removed = self.change(key, |set| set.remove_node(index));
                self.nodes.count(index, -i64::from(removed));
                removed
            }
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
        let sets = &mut self.sets;
        let mut keep = |set: &mut SetRef| {
            if !sets.with(*set, |_, nodes| nodes.contains(&index)) {
                return true;
            }
            let mut content = sets.take(*set);
            content.remove_node(index);
            sets.put(content).inspect(|changed| *set = *changed).is_some()
        };
        self.exact.retain(|_, set| keep(set));
        self.wild.retain(&mut keep);
        self.nodes.free(index);
        // A large node may have left.
        shrink(&mut self.exact);
    }

    /// Calls with each filter without wildcards, as hash, and its members.
    pub(crate) fn for_each_exact(&self, mut each: impl FnMut(u64, u64, &mut dyn Iterator<Item = u64>)) {
        for (key, &set) in &self.exact {
            self.sets.with(set, |workers, nodes| {
                each(key.get(), workers, &mut nodes.iter().map(|&index| self.nodes.id(index)))
            });
        }
    }

    /// Calls with each filter with wildcards and its members.
    pub(crate) fn for_each_wild(&self, mut each: impl FnMut(&str, u64, &mut dyn Iterator<Item = u64>)) {
        self.wild.for_each(|filter, &set| {
            self.sets.with(set, |workers, nodes| {
                each(filter, workers, &mut nodes.iter().map(|&index| self.nodes.id(index)))
            });
        });
    }

    pub(crate) fn exact_len(&self) -> usize {
        self.exact.len()
    }

    pub(crate) fn wild_len(&self) -> usize {
        self.wild.len()
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
    fn sets_and_node_numbers_are_given_back() {
        let mut table = RouteTable::default();
        for i in 0..100_u64 {
            table.add(&RouteKey::Exact(i), Receiver::Node(7));
            table.add(&RouteKey::Exact(i), Receiver::Node(8));
            table.add(&RouteKey::Exact(i), Receiver::Worker(63));
        }
        table.add(&RouteKey::of("a/+"), Receiver::Node(8));
        assert_eq!(table.sets.stored(), 1);
        table.remove_node(8);
        assert_eq!((table.exact_len(), table.wild_len(), table.nodes.indexes.len()), (100, 0, 1));
        for i in 0..100 {
            assert!(table.remove(&RouteKey::Exact(i), Receiver::Node(7)));
            assert!(!table.remove(&RouteKey::Exact(i), Receiver::Node(7)));
            assert!(table.remove(&RouteKey::Exact(i), Receiver::Worker(63)));
        }
        assert_eq!((table.exact_len(), table.sets.stored(), table.nodes.indexes.len()), (0, 0, 0));
        assert_eq!(table.nodes.free.len(), table.nodes.entries.len());
    }
}
