//! A trie over the levels of topic filters, made to be small: a million filters of two own levels take about 110 bytes each.

use ahash::RandomState;
use smallvec::SmallVec;

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
/// Nodes are kept in chunks of this many, so that growing never copies and never has twice the memory.
const CHUNK: usize = 1024;
/// The offset that stands for "the topic has no more levels".
const END: usize = usize::MAX;

/// Filter → `V`, and topic → all `V` whose filter matches [MQTT5 4.7].
///
/// Filters are expected to be valid; an invalid one (a `#` before the end) is kept as it is and matches as if the
/// `#` were the end.
pub(crate) struct Trie<V> {
    chunks: Vec<Vec<Node<V>>>,
    free: Vec<u32>,
    /// Edges to children other than `+` and `#`: one open-addressed table of node ids for the whole trie.
    edges: EdgeTable,
    hasher: RandomState,
    len: usize,
}

struct Node<V> {
    level: LevelText,
    parent: u32,
    plus: u32,
    hash: u32,
    /// The number of children in the edge table.
    literals: u32,
    value: Option<V>,
}

impl<V> Trie<V> {
    pub(crate) fn new() -> Self {
        let mut trie = Self {
            chunks: Vec::new(),
            free: Vec::new(),
            edges: EdgeTable::default(),
            hasher: RandomState::new(),
            len: 0,
        };
        trie.allocate(LevelText::new(""), NONE);
        trie
    }

    /// The number of filters.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the trie takes, without what values own on the heap.
    pub(crate) fn memory(&self) -> usize {
        let nodes = self.chunks.len() * CHUNK * size_of::<Node<V>>();
        let texts: usize = self.chunks.iter().flatten().map(|node| node.level.heap()).sum();
        nodes + texts + self.edges.slots.len() * size_of::<u32>() + self.free.capacity() * size_of::<u32>()
    }

    /// Calls `found` for each filter that matches `topic`. A wildcard at the first level does not match a topic that
    /// begins with `$` [MQTT-4.7.2-1].
    pub(crate) fn matches(&self, topic: &str, mut found: impl FnMut(&V)) {
        // An own stack: a topic may have 32,768 levels.
        let mut todo: SmallVec<[(u32, usize); 24]> = SmallVec::new();
        todo.push((ROOT, 0));
        let system = topic.starts_with('$');
        while let Some((id, offset)) = todo.pop() {
            let node = self.node(id);
            let wildcards = !(system && id == ROOT);
            if wildcards && node.hash != NONE {
                // `a/#` matches `a` too, so this is asked before the end of the topic is.
                self.node(node.hash).value.iter().for_each(&mut found);
            }
            if offset == END {
                node.value.iter().for_each(&mut found);
                continue;
            }
            let (level, next) = split(topic, offset);
            if wildcards && node.plus != NONE {
                todo.push((node.plus, next));
            }
            if node.literals > 0
                && let Some(child) = self.literal(id, level)
            {
                todo.push((child, next));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn get(&self, filter: &str) -> Option<&V> {
        self.node(self.find(filter)?).value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        let id = self.find(filter)?;
        self.node_mut(id).value.as_mut()
    }

    /// The value of a filter, made by `make` if the filter is new.
    pub(crate) fn get_or_insert_with(&mut self, filter: &str, make: impl FnOnce() -> V) -> &mut V {
        let mut id = ROOT;
        for level in filter.split('/') {
            id = match self.child(id, level) {
                Some(child) => child,
                None => self.add_child(id, level),
            };
        }
        if self.node(id).value.is_none() {
            self.len += 1;
        }
        self.node_mut(id).value.get_or_insert_with(make)
    }

    pub(crate) fn remove(&mut self, filter: &str) -> Option<V> {
        let id = self.find(filter)?;
        let value = self.node_mut(id).value.take()?;
        self.len -= 1;
        self.prune(id);
        self.start_anew_if_empty();
        Some(value)
    }

    /// Keeps the filters for which `keep` says so.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        let mut gone = Vec::new();
        for (chunk_number, chunk) in self.chunks.iter_mut().enumerate() {
            for (position, node) in chunk.iter_mut().enumerate() {
                if node.value.as_mut().is_some_and(|value| !keep(value)) {
                    node.value = None;
                    gone.push((chunk_number * CHUNK + position) as u32);
                }
            }
        }
        self.len -= gone.len();
        for id in gone {
            self.prune(id);
        }
        self.start_anew_if_empty();
    }

    /// Nodes stay where they are, so the room of those that went is given back when all have gone.
    fn start_anew_if_empty(&mut self) {
        if self.len == 0 && self.chunks.len() > 1 {
            *self = Self::new();
        }
    }

    /// Calls `each` with every filter, in no order.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&str, &V)) {
        let mut path: Vec<&str> = Vec::new();
        let mut text = String::new();
        for node in self.chunks.iter().flatten() {
            let Some(value) = &node.value else { continue };
            path.clear();
            path.push(node.level.as_str());
            let mut parent = node.parent;
            while parent != ROOT {
                path.push(self.node(parent).level.as_str());
                parent = self.node(parent).parent;
            }
            text.clear();
            for (i, level) in path.iter().rev().enumerate() {
                if i > 0 {
                    text.push('/');
                }
                text.push_str(level);
            }
            each(&text, value);
        }
    }

    fn find(&self, filter: &str) -> Option<u32> {
        filter.split('/').try_fold(ROOT, |id, level| self.child(id, level))
    }

    fn child(&self, parent: u32, level: &str) -> Option<u32> {
        let node = self.node(parent);
        match level {
            "+" => Some(node.plus).filter(|&id| id != NONE),
            "#" => Some(node.hash).filter(|&id| id != NONE),
            _ => self.literal(parent, level),
        }
    }

    fn literal(&self, parent: u32, level: &str) -> Option<u32> {
        self.edges.find(edge_hash(&self.hasher, parent, level), |id| {
            let node = self.node(id);
            node.parent == parent && node.level.as_str() == level
        })
    }

    fn add_child(&mut self, parent: u32, level: &str) -> u32 {
        let child = self.allocate(LevelText::new(level), parent);
        match level {
            "+" => self.node_mut(parent).plus = child,
            "#" => self.node_mut(parent).hash = child,
            _ => {
                self.node_mut(parent).literals += 1;
                let (chunks, hasher) = (&self.chunks, &self.hasher);
                self.edges.insert(child, |id| hash_of(chunks, hasher, id));
            }
        }
        child
    }

    /// Removes the node and its ancestors as far as nothing needs them.
    fn prune(&mut self, mut id: u32) {
        // A node without parent is the root, or was freed with one of its descendants (`retain`).
        while self.node(id).parent != NONE {
            let node = self.node(id);
            if node.value.is_some() || node.literals > 0 || node.plus != NONE || node.hash != NONE {
                return;
            }
            let parent = node.parent;
            if self.node(parent).plus == id {
                self.node_mut(parent).plus = NONE;
            } else if self.node(parent).hash == id {
                self.node_mut(parent).hash = NONE;
            } else {
                self.node_mut(parent).literals -= 1;
                let (chunks, hasher) = (&self.chunks, &self.hasher);
                self.edges.remove(id, |id| hash_of(chunks, hasher, id));
            }
            let freed = self.node_mut(id);
            freed.level = LevelText::new("");
            freed.parent = NONE;
            self.free.push(id);
            id = parent;
        }
    }

    fn allocate(&mut self, level: LevelText, parent: u32) -> u32 {
        let node = Node { level, parent, plus: NONE, hash: NONE, literals: 0, value: None };
        if let Some(id) = self.free.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk_number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[chunk_number];
        chunk.push(node);
        u32::try_from(chunk_number * CHUNK + chunk.len() - 1)
            .expect("a node takes 40 bytes: 2^32 of them fit no machine's index")
    }

    fn node(&self, id: u32) -> &Node<V> {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }

    fn node_mut(&mut self, id: u32) -> &mut Node<V> {
        &mut self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }
}

/// The level at `offset` and the offset of the next one.
fn split(topic: &str, offset: usize) -> (&str, usize) {
    let rest = &topic[offset..];
    match rest.bytes().position(|byte| byte == b'/') {
        Some(length) => (&rest[..length], offset + length + 1),
        None => (rest, END),
    }
}

fn edge_hash(hasher: &RandomState, parent: u32, level: &str) -> u64 {
    hasher.hash_one((parent, level))
}

fn hash_of<V>(chunks: &[Vec<Node<V>>], hasher: &RandomState, id: u32) -> u64 {
    let node = &chunks[id as usize / CHUNK][id as usize % CHUNK];
    edge_hash(hasher, node.parent, node.level.as_str())
}

/// The text of one level: 16 bytes, most levels need nothing else.
enum LevelText {
    Inline {
        length: u8,
        bytes: [u8; 14],
    },
    // A thin pointer: a `Box<str>` would make every node 8 bytes larger.
    #[allow(clippy::box_collection)]
    Heap(Box<Box<str>>),
}

impl LevelText {
    fn new(text: &str) -> Self {
        let mut bytes = [0; 14];
        match bytes.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text.as_bytes());
                Self::Inline { length: text.len() as u8, bytes }
            }
            None => Self::Heap(Box::new(text.into())),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Inline { length, bytes } => {
                std::str::from_utf8(&bytes[..usize::from(*length)]).expect("copied whole from a str")
            }
            Self::Heap(text) => text,
        }
    }

    fn heap(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(text) => text.len() + size_of::<Box<str>>(),
        }
    }
}

/// Node ids by the hash of (parent, level); linear probing, no tombstones: removal moves the following ones back.
#[derive(Default)]
struct EdgeTable {
    slots: Vec<u32>,
    len: usize,
}

impl EdgeTable {
    fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.slots[slot] {
                NONE => return None,
                id if is(id) => return Some(id),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn insert(&mut self, id: u32, hash_of: impl Fn(u32) -> u64) {
        // At most 3/4 full, so that a search ends soon.
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            let larger = vec![NONE; (self.slots.len() * 2).max(16)];
            for id in std::mem::replace(&mut self.slots, larger) {
                if id != NONE {
                    self.place(id, hash_of(id));
                }
            }
        }
        self.place(id, hash_of(id));
        self.len += 1;
    }

    fn place(&mut self, id: u32, hash: u64) {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        while self.slots[slot] != NONE {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = id;
    }

    fn remove(&mut self, id: u32, hash_of: impl Fn(u32) -> u64) {
        let mask = self.slots.len() - 1;
        let mut hole = hash_of(id) as usize & mask;
        while self.slots[hole] != id {
            hole = (hole + 1) & mask;
        }
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let moved = self.slots[next];
            if moved == NONE {
                break;
            }
            // An entry may fill the hole if its own place is not between the hole and where it is.
            let home = hash_of(moved) as usize & mask;
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.slots[hole] = moved;
                hole = next;
            }
        }
        self.slots[hole] = NONE;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_million_filters_stay_small_and_quick() {
        let count = 200_000_u32;
        let mut trie: Trie<[u32; 4]> = Trie::new();
        for i in 0..count {
            trie.get_or_insert_with(&format!("devices/d{i}/+/state"), || [i; 4]);
        }
        let each = trie.memory() / count as usize;
        assert!(each <= 150 + 48, "{each} bytes a filter with three own levels");
        let mut trie: Trie<[u32; 4]> = Trie::new();
        for i in 0..count {
            trie.get_or_insert_with(&format!("devices/d{i}/#"), || [i; 4]);
        }
        let each = trie.memory() / count as usize;
        assert!(each <= 150, "{each} bytes a filter");
        let mut found = 0;
        trie.matches("devices/d7777/a/b", |v| {
            assert_eq!(v[0], 7777);
            found += 1;
        });
        assert_eq!(found, 1);
    }

    #[test]
    fn very_deep_topics_do_not_overflow_the_stack() {
        let deep = "+/".repeat(32_000) + "#";
        let mut trie = Trie::new();
        trie.get_or_insert_with(&deep, || 1);
        let mut found = 0;
        trie.matches(&("a/".repeat(32_000) + "b"), |_| found += 1);
        assert_eq!(found, 1);
        trie.remove(&deep);
        assert_eq!(trie.free.len() + 1, trie.chunks.iter().map(Vec::len).sum::<usize>());
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("a".into()),
            Just("b".into()),
            Just("+".into()),
            Just(String::new()),
            Just("a level of more than 14 bytes".into())
        ]
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(level(), 1..5), any::<bool>()).prop_map(|(mut levels, all)| {
            if all {
                levels.push("#".into());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((filter(), any::<Option<u8>>()), 1..200)) {
            let mut trie = Trie::new();
            let mut model = HashMap::new();
            for (filter, value) in steps {
                match value {
                    Some(value) => {
                        *trie.get_or_insert_with(&filter, || 0) = value;
                        model.insert(filter.clone(), value);
                    }
                    None => prop_assert_eq!(trie.remove(&filter), model.remove(&filter)),
                }
                prop_assert_eq!(trie.len(), model.len());
                prop_assert_eq!(trie.get(&filter), model.get(&filter));
            }
            let mut all = HashMap::new();
            trie.for_each(|filter, value| { all.insert(filter.to_owned(), *value); });
            prop_assert_eq!(&all, &model);
            trie.retain(|value| *value % 2 == 0);
            model.retain(|_, value| *value % 2 == 0);
            all.clear();
            trie.for_each(|filter, value| { all.insert(filter.to_owned(), *value); });
            prop_assert_eq!(&all, &model);
            trie.retain(|_| false);
            prop_assert_eq!(trie.edges.len, 0);
            prop_assert_eq!(trie.free.len() + 1, trie.chunks.iter().map(Vec::len).sum::<usize>());
        }
    }
}
