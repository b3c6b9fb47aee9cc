//! Groups that share their messages → workers and nodes with members.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    key::{RANK_COUNT, filter_of_group, members_of_rank},
    set::{GroupNode, SharedTarget},
    table::Receiver,
    trie::Trie,
};

/// The ranks of one node in one group: bit *n* is rank *n*.
pub(crate) type Ranks = u32;

/// The groups of a node's route table, by what topics are matched against.
pub(crate) struct GroupTable {
    filters: Trie<Vec<GroupRoute>>,
    groups: usize,
}

struct GroupRoute {
    key: Arc<str>,
    workers: u64,
    /// Raft ids, sorted, with their ranks.
    nodes: SmallVec<[(u64, Ranks); 2]>,
}

impl GroupRoute {
    fn is_empty(&self) -> bool {
        self.workers == 0 && self.nodes.is_empty()
    }
}

impl Default for GroupTable {
    fn default() -> Self {
        Self { filters: Trie::new(), groups: 0 }
    }
}

impl GroupTable {
    /// Adds a receiver to a group; says whether it was not there before. What is no group or no rank is nothing, on each replica.
    pub(crate) fn add(&mut self, key: &Arc<str>, rank: u8, receiver: Receiver) -> bool {
        let Some(filter) = filter_of_group(key).filter(|_| usize::from(rank) < RANK_COUNT) else {
            return false;
        };
        if matches!(receiver, Receiver::Shard(_)) {
            // What a shard keeps for a group it gets by the group's filter ([`crate::RouteKey::of_shard`]).
            return false;
        }
        let routes = self.filters.get_or_insert_with(filter, Vec::new);
        let at = routes.iter().position(|route| route.key == *key).unwrap_or_else(|| {
            self.groups += 1;
            routes.push(GroupRoute { key: Arc::clone(key), workers: 0, nodes: SmallVec::new() });
            routes.len() - 1
        });
        let route = &mut routes[at];
        match receiver {
            Receiver::Worker(worker) => {
                let before = route.workers;
                route.workers |= 1 << worker;
                before != route.workers
            }
            Receiver::Node(id) => {
                let at = route.nodes.binary_search_by_key(&id, |(id, _)| *id).unwrap_or_else(|at| {
                    route.nodes.insert(at, (id, 0));
                    at
                });
                let ranks = &mut route.nodes[at].1;
                let before = *ranks;
                *ranks |= 1 << rank;
                before != *ranks
            }
            Receiver::Shard(_) => false,
        }
    }

    /// Removes a receiver from a group; says whether it was there.
    pub(crate) fn remove(&mut self, key: &str, rank: u8, receiver: Receiver) -> bool {
        let Some(filter) = filter_of_group(key).filter(|_| usize::from(rank) < RANK_COUNT) else {
            return false;
        };
        let Some(routes) = self.filters.get_mut(filter) else {
            return false;
        };
        let Some(at) = routes.iter().position(|route| &*route.key == key) else {
            return false;
        };
        let route = &mut routes[at];
        let removed = match receiver {
            Receiver::Worker(worker) => {
                let before = route.workers;
                route.workers &= !(1 << worker);
                before != route.workers
            }
            Receiver::Node(id) => match route.nodes.binary_search_by_key(&id, |(id, _)| *id) {
                Err(_) => false,
                Ok(at) => {
                    let ranks = &mut route.nodes[at].1;
                    let before = *ranks;
                    *ranks &= !(1 << rank);
                    let removed = before != *ranks;
                    if *ranks == 0 {
                        route.nodes.remove(at);
                    }
                    removed
                }
            },
            Receiver::Shard(_) => false,
        };
        if route.is_empty() {
            routes.swap_remove(at);
            self.groups -= 1;
            if routes.is_empty() {
                self.filters.remove(filter);
            }
        }
        removed
    }

    /// Removes a node from all groups.
    pub(crate) fn remove_node(&mut self, id: u64) {
        let groups = &mut self.groups;
        self.filters.retain(|routes| {
            routes.retain_mut(|route| {
                route.nodes.retain(|(node, _)| *node != id);
                *groups -= usize::from(route.is_empty());
                !route.is_empty()
            });
            !routes.is_empty()
        });
    }

    /// The groups that want a topic's messages, in no order, without the node `own` among their nodes.
    pub(crate) fn matches(&self, topic: &str, own: u64, found: &mut Vec<SharedTarget>) {
        self.filters.matches(topic, |routes| {
            for route in routes {
                let nodes: SmallVec<[GroupNode; 4]> = route
                    .nodes
                    .iter()
                    // Without rank 0 the node has no member: its other ranks are on their way.
                    .filter(|(id, ranks)| *id != own && ranks & 1 != 0)
                    .map(|&(node, ranks)| GroupNode { node, members: members_of_rank(ranks.ilog2() as u8) })
                    .collect();
                if route.workers != 0 || !nodes.is_empty() {
                    found.push(SharedTarget { key: Arc::clone(&route.key), workers: route.workers, nodes });
                }
            }
        });
    }

    /// Calls with each group, its workers and its nodes with their ranks.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<str>, u64, &[(u64, Ranks)])) {
        self.filters.for_each(|_, routes| {
            for route in routes {
                each(&route.key, route.workers, &route.nodes);
            }
        });
    }

    /// The number of groups.
    pub(crate) fn len(&self) -> usize {
        self.groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key, workers, nodes with their members.
    type Found = (String, u64, Vec<(u64, u32)>);

    fn matches(table: &GroupTable, topic: &str) -> Vec<Found> {
        let mut found = Vec::new();
        table.matches(topic, 1, &mut found);
        let mut found: Vec<_> = found
            .into_iter()
            .map(|t| (t.key.to_string(), t.workers, t.nodes.iter().map(|n| (n.node, n.members)).collect()))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn groups_come_and_go() {
        let mut table = GroupTable::default();
        let (g, h, all): (Arc<str>, Arc<str>, Arc<str>) =
            ("$share/g/a/+".into(), "$share/h/a/+".into(), "$share/g/#".into());
        assert!(table.add(&g, 0, Receiver::Node(1)));
        assert!(matches(&table, "a/b").is_empty(), "the node itself is left out");
        assert!(table.add(&g, 0, Receiver::Node(7)));
        assert!(table.add(&g, 1, Receiver::Node(7)) && !table.add(&g, 1, Receiver::Node(7)));
        assert!(table.add(&g, 5, Receiver::Node(8)), "kept, though it says nothing without rank 0");
        assert!(table.add(&h, 0, Receiver::Worker(3)));
        assert!(table.add(&all, 0, Receiver::Worker(2)));
        let expected = [
            ("$share/g/#".to_owned(), 4, vec![]),
            ("$share/g/a/+".to_owned(), 0, vec![(7, 2)]),
            ("$share/h/a/+".to_owned(), 8, vec![]),
        ];
        assert_eq!(matches(&table, "a/b"), expected);
        // [MQTT-4.7.2-1] for what follows the share name.
        assert!(matches(&table, "$SYS/b").is_empty());
        assert_eq!(table.len(), 3);
        assert!(table.remove(&g, 1, Receiver::Node(7)) && !table.remove(&g, 1, Receiver::Node(7)));
        assert_eq!(matches(&table, "a/b")[1].2, [(7, 1)]);
        table.remove_node(7);
        table.remove_node(8);
        assert!(table.remove(&h, 0, Receiver::Worker(3)) && !table.remove(&h, 0, Receiver::Worker(3)));
        assert_eq!((matches(&table, "a/b").len(), table.len()), (1, 2));
        assert!(table.remove(&g, 0, Receiver::Node(1)) && table.remove(&all, 0, Receiver::Worker(2)));
        assert_eq!((table.len(), table.filters.len()), (0, 0));
    }

    #[test]
    fn what_is_no_group_is_nothing() {
        let mut table = GroupTable::default();
        for key in ["a", "$share/g", "$queue/a"] {
            assert!(!table.add(&key.into(), 0, Receiver::Node(1)) && !table.remove(key, 0, Receiver::Node(1)));
        }
        let last = RANK_COUNT as u8;
        assert!(!table.add(&"$share/g/a".into(), last, Receiver::Node(1)));
        assert_eq!((table.len(), table.filters.len()), (0, 0));
    }
}
