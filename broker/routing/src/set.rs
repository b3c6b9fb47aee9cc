//! Where messages of a filter must go, kept in 4 bytes a filter.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use smallvec::SmallVec;

/// Where a message must go. Made once and reused: a lookup clears it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Targets {
    /// This node's workers with matching subscribers: bit *n* is worker *n*. Members of groups are not counted.
    pub workers: u64,
    /// Raft ids of the other nodes with matching subscribers, each once, in order. Members of groups are not counted.
    pub nodes: SmallVec<[u64; 4]>,
    /// The groups whose filter matches, each of which must get the message once. `None` if there are none, which costs nothing; a
    /// clone costs a count.
    pub shared: Option<Arc<[SharedTarget]>>,
    /// The shards with matching subscriptions of durable sessions, each once, in order. `None` if there are none, which costs nothing; a
    /// clone costs a count.
    pub shards: Option<Arc<[u16]>>,
}

/// A group that must get a message once (MQTT 5, 4.8.2): from [`crate::NodeGroups`] if the member is on this node, else by one of the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedTarget {
    /// The group's [`crate::group_key`].
    pub key: Arc<str>,
    /// This node's workers with members: bit *n* is worker *n*.
    pub workers: u64,
    /// The other nodes with members, each once, in order of their ids.
    pub nodes: SmallVec<[GroupNode; 4]>,
}

/// A node with members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupNode {
    /// Its Raft id.
    pub node: u64,
    /// About how many members it has: exact up to 8, then at most a third less, at most 1,024.
    pub members: u32,
}

impl Targets {
    /// Whether nobody wants the message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers == 0 && self.nodes.is_empty() && self.shared.is_none() && self.shards.is_none()
    }

    /// Whether anybody wants the message who is no durable session in a shard.
    #[must_use]
    pub fn goes_live(&self) -> bool {
        self.workers != 0 || !self.nodes.is_empty() || self.shared.is_some()
    }

    /// The groups whose filter matches.
    #[must_use]
    pub fn shared(&self) -> &[SharedTarget] {
        self.shared.as_deref().unwrap_or_default()
    }

    /// The shards with matching subscriptions of durable sessions, each once, in order.
    #[must_use]
    pub fn shards(&self) -> &[u16] {
        self.shards.as_deref().unwrap_or_default()
    }

    /// The group of a key ([`crate::group_key`]), if its filter matches and it has members.
    #[must_use]
    pub fn group(&self, key: &str) -> Option<&SharedTarget> {
        self.shared().iter().find(|target| &*target.key == key)
    }

    /// The workers of the mask in ascending order.
    pub fn workers(&self) -> impl Iterator<Item = u8> + use<> {
        let mut left = self.workers;
        std::iter::from_fn(move || {
            let worker = left.trailing_zeros();
            (left != 0).then(|| {
                left &= left - 1;
                worker as u8
            })
        })
    }
}

/// A set of workers, nodes and shards; nodes as indexes of a table, shards by their numbers, both sorted.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RouteSet {
    pub(crate) workers: u64,
    pub(crate) nodes: Sorted,
    pub(crate) shards: Sorted,
}

/// Numbers in ascending order, each once.
pub(crate) type Sorted = SmallVec<[u16; 8]>;

impl RouteSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.workers == 0 && self.nodes.is_empty() && self.shards.is_empty()
    }
}

/// Adds a number; says whether it was not there before.
pub(crate) fn insert(sorted: &mut Sorted, number: u16) -> bool {
    match sorted.binary_search(&number) {
        Ok(_) => false,
        Err(at) => {
            sorted.insert(at, number);
            true
        }
    }
}

/// Removes a number; says whether it was there.
pub(crate) fn remove(sorted: &mut Sorted, number: u16) -> bool {
    match sorted.binary_search(&number) {
        Ok(at) => {
            sorted.remove(at);
            true
        }
        Err(_) => false,
    }
}

/// Names a set: one node, one worker, one shard, or a set kept once by the [`SetStore`] for all filters that have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SetRef(u32);

/// What is below is the index of a node.
const SHARD: u32 = 0x2000_0000;
const WORKER: u32 = 0x4000_0000;
const STORED: u32 = 0x8000_0000;

/// The sets of more than one member, each once, with the number of filters that have it.
#[derive(Default)]
pub(crate) struct SetStore {
    sets: Vec<(RouteSet, u32)>,
    ids: HashMap<RouteSet, u32, RandomState>,
    free: Vec<u32>,
}

impl SetStore {
    /// Calls with the members of a set: its workers as a mask, the indexes of its nodes, its shards.
    pub(crate) fn with<T>(&self, set: SetRef, members: impl FnOnce(u64, &[u16], &[u16]) -> T) -> T {
        if set.0 < SHARD {
            members(0, &[set.0 as u16], &[])
        } else if set.0 & STORED != 0 {
            let (set, _) = &self.sets[(set.0 & !STORED) as usize];
            members(set.workers, &set.nodes, &set.shards)
        } else if set.0 & WORKER != 0 {
            members(1 << (set.0 & !WORKER), &[], &[])
        } else {
            members(0, &[], &[set.0 as u16])
        }
    }

    /// Takes a set back for change: its name is not valid any more.
    pub(crate) fn take(&mut self, set: SetRef) -> RouteSet {
        let content = self.with(set, |workers, nodes, shards| RouteSet {
            workers,
            nodes: SmallVec::from_slice(nodes),
            shards: SmallVec::from_slice(shards),
        });
        if set.0 & STORED != 0 {
            let id = set.0 & !STORED;
            let slot = &mut self.sets[id as usize];
            slot.1 -= 1;
            if slot.1 == 0 {
                self.ids.remove(&std::mem::take(&mut slot.0));
                self.free.push(id);
            }
        }
        content
    }

    /// The name of a set; `None` for the empty one.
    pub(crate) fn put(&mut self, set: RouteSet) -> Option<SetRef> {
        if set.is_empty() {
            return None;
        }
        match (set.workers, &set.nodes[..], &set.shards[..]) {
            (0, [node], []) => return Some(SetRef(u32::from(*node))),
            (0, [], [shard]) => return Some(SetRef(SHARD | u32::from(*shard))),
            (workers, [], []) if workers.is_power_of_two() => return Some(SetRef(WORKER | workers.trailing_zeros())),
            _ => {}
        }
        if let Some(&id) = self.ids.get(&set) {
            self.sets[id as usize].1 += 1;
            return Some(SetRef(STORED | id));
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.sets[id as usize] = (set.clone(), 1);
                id
            }
            None => {
                self.sets.push((set.clone(), 1));
                u32::try_from(self.sets.len() - 1)
                    .ok()
                    .filter(|id| id & STORED == 0)
                    .expect("2^31 sets of 64 bytes and more fit no memory")
            }
        };
        self.ids.insert(set, id);
        Some(SetRef(STORED | id))
    }

    #[cfg(test)]
    pub(crate) fn stored(&self) -> usize {
        self.ids.len()
    }
}
