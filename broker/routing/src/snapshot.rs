//! The bytes of a [`RoutesMachine`]'s snapshot.
//!
//! A format byte, then in postcard's encoding: the state hash; the number of nodes and, for each in the order of ids, its id, its stream, its
//! filters without wildcards as sorted hashes (each as difference to the one before), its filters with wildcards, sorted. In format 2, then
//! for each node in the same order: its groups, sorted by key, each with its ranks as a mask. In format 3, then: the number of shards and, for
//! each in the order of their numbers, its number, its stream, its filters as those of a node, and what was added more than once, sorted, with how often
//! more. A state without shards is written in format 2, one without groups either in format 1.

use std::{collections::BTreeMap, mem, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    group_table::Ranks,
    key::RouteKey,
    machine::{NodeStream, RestoreError, RoutesMachine, ShardStream, key_hash},
    shared::NewTables,
    table::Receiver,
};

const FORMAT: u8 = 3;
const FORMAT_GROUPS: u8 = 2;
const FORMAT_PLAIN: u8 = 1;

type Groups = Vec<(Arc<str>, Ranks)>;

#[derive(Default, Serialize, Deserialize)]
struct Routes {
    exact: Vec<u64>,
    wild: Vec<Box<str>>,
}

impl Routes {
    /// In the order and form in which they are written.
    fn packed(mut self) -> Self {
        self.exact.sort_unstable();
        self.wild.sort_unstable();
        let mut before = 0;
        for hash in &mut self.exact {
            *hash -= mem::replace(&mut before, *hash);
        }
        self
    }

    fn unpack(self) -> impl Iterator<Item = RouteKey> {
        let mut before = 0_u64;
        let exact = self.exact.into_iter().map(move |difference| {
            before = before.wrapping_add(difference);
            RouteKey::Exact(before)
        });
        exact.chain(self.wild.into_iter().map(|filter| RouteKey::Wild(filter.into())))
    }
}

/// Routes of a shard that were added more than once, and how often more.
type Repeated = Vec<(RouteKey, u64)>;

pub(crate) fn write(machine: &RoutesMachine) -> Vec<u8> {
    let mut routes: BTreeMap<u64, Routes> = machine.nodes.keys().map(|&id| (id, Routes::default())).collect();
    let mut of_shards: BTreeMap<u16, Routes> = machine.shards.keys().map(|&shard| (shard, Routes::default())).collect();
    machine.routes.for_each_table(|table| {
        table.for_each_exact(|hash, found| {
            for id in found.nodes() {
                routes.entry(id).or_default().exact.push(hash);
            }
            for &shard in found.shards {
                of_shards.entry(shard).or_default().exact.push(hash);
            }
        });
        table.for_each_wild(|filter, found| {
            for id in found.nodes() {
                routes.entry(id).or_default().wild.push(filter.into());
            }
            for &shard in found.shards {
                of_shards.entry(shard).or_default().wild.push(filter.into());
            }
        });
    });
    let mut groups: BTreeMap<u64, Groups> = BTreeMap::new();
    machine.routes.for_each_group(|key, _, nodes| {
        for &(id, ranks) in nodes {
            groups.entry(id).or_default().push((Arc::clone(key), ranks));
        }
    });
    let format = match (of_shards.is_empty(), groups.is_empty()) {
        (false, _) => FORMAT,
        (true, false) => FORMAT_GROUPS,
        (true, true) => FORMAT_PLAIN,
    };
    let mut bytes = vec![format];
    put(&mut bytes, &machine.state_hash());
    put(&mut bytes, &(routes.len() as u64));
    for ((id, routes), stream) in routes.into_iter().zip(machine.nodes.values()) {
        put(&mut bytes, &(id, stream, routes.packed()));
    }
    if format >= FORMAT_GROUPS {
        for id in machine.nodes.keys() {
            let mut groups = groups.remove(id).unwrap_or_default();
            groups.sort_unstable();
            put(&mut bytes, &groups);
        }
    }
    if format == FORMAT {
        write_shards(machine, of_shards, &mut bytes);
    }
    bytes
}

fn write_shards(machine: &RoutesMachine, routes: BTreeMap<u16, Routes>, bytes: &mut Vec<u8>) {
    let mut repeated: BTreeMap<u16, Repeated> = BTreeMap::new();
    for ((shard, key), &more) in &machine.repeated {
        repeated.entry(*shard).or_default().push((key.clone(), more));
    }
    put(bytes, &(routes.len() as u64));
    for ((shard, routes), stream) in routes.into_iter().zip(machine.shards.values()) {
        put(bytes, &(shard, stream, routes.packed(), repeated.remove(&shard).unwrap_or_default()));
    }
}

pub(crate) fn read(machine: &mut RoutesMachine, bytes: &[u8]) -> Result<(), RestoreError> {
    let damaged = |reason| RestoreError::Damaged { reason };
    let (format, mut rest) = match bytes.split_first() {
        Some((&format @ FORMAT_PLAIN..=FORMAT, rest)) => (format, rest),
        Some((&found, _)) if found > FORMAT => return Err(RestoreError::UnknownFormat { found }),
        _ => return Err(damaged("it does not begin with a format")),
    };
    let hash: u64 = take(&mut rest)?;
    let count: u64 = take(&mut rest)?;
    let mut tables = NewTables::new();
    // What was written of a node, and what is counted again so that the hash below covers the routes themselves.
    let mut nodes: BTreeMap<u64, (NodeStream, NodeStream)> = BTreeMap::new();
    let mut add = |id: u64, stream: &mut NodeStream, key: RouteKey| {
        if !tables.add(&key, Receiver::Node(id)) {
            return Err(damaged("a route is there twice, or is none"));
        }
        stream.routes += 1;
        stream.sum = stream.sum.wrapping_add(key_hash(&key));
        Ok(())
    };
    for _ in 0..count {
        let (id, written, routes): (u64, NodeStream, Routes) = take(&mut rest)?;
        if nodes.last_key_value().is_some_and(|(&last, _)| last >= id) {
            return Err(damaged("the nodes are out of order"));
        }
        let mut counted = NodeStream { routes: 0, sum: 0, ..written.clone() };
        for key in routes.unpack() {
            add(id, &mut counted, key)?;
        }
        nodes.insert(id, (written, counted));
    }
    if format >= FORMAT_GROUPS {
        for (&id, (_, counted)) in &mut nodes {
            let groups: Groups = take(&mut rest)?;
            for (group, ranks) in groups {
                for rank in (0..Ranks::BITS as u8).filter(|rank| ranks >> rank & 1 == 1) {
                    add(id, counted, RouteKey::Shared { group: Arc::clone(&group), rank })?;
                }
            }
        }
    }
    if nodes.values().any(|(written, counted)| written != counted) {
        return Err(damaged("a node has other routes than were counted"));
    }
    let nodes = nodes.into_iter().map(|(id, (_, counted))| (id, counted)).collect();
    let shards = if format == FORMAT { read_shards(&mut rest, &mut tables)? } else { Shards::default() };
    if !rest.is_empty() {
        return Err(damaged("there are bytes after its end"));
    }
    let before = (mem::replace(&mut machine.nodes, nodes), mem::replace(&mut machine.shards, shards.streams));
    if machine.state_hash() != hash {
        (machine.nodes, machine.shards) = before;
        return Err(damaged("the hash of its state is another one"));
    }
    machine.repeated = shards.repeated;
    machine.routes.replace_committed(tables);
    Ok(())
}

#[derive(Default)]
struct Shards {
    streams: BTreeMap<u16, ShardStream>,
    repeated: BTreeMap<(u16, RouteKey), u64>,
}

fn read_shards(rest: &mut &[u8], tables: &mut NewTables) -> Result<Shards, RestoreError> {
    let damaged = |reason| RestoreError::Damaged { reason };
    let mut shards = Shards::default();
    let count: u64 = take(rest)?;
    for _ in 0..count {
        let (shard, written, routes, repeated): (u16, ShardStream, Routes, Repeated) = take(rest)?;
        if shards.streams.last_key_value().is_some_and(|(&last, _)| last >= shard) {
            return Err(damaged("the shards are out of order"));
        }
        let mut counted = ShardStream::new(written.generation, written.next);
        for key in routes.unpack() {
            if !tables.add(&key, Receiver::Shard(shard)) {
                return Err(damaged("a route of a shard is there twice"));
            }
            counted.routes += 1;
            counted.sum = counted.sum.wrapping_add(key_hash(&key));
        }
        for (key, more) in repeated {
            counted.sum = counted.sum.wrapping_add(key_hash(&key).wrapping_mul(more));
            // What is added once more is there.
            let known = !key.is_shared() && !tables.add(&key, Receiver::Shard(shard));
            if !known || more == 0 || shards.repeated.insert((shard, key), more).is_some() {
                return Err(damaged("what was added to a shard more than once is not there"));
            }
        }
        if counted != written {
            return Err(damaged("a shard has other routes than were counted"));
        }
        shards.streams.insert(shard, counted);
    }
    Ok(shards)
}

fn put(bytes: &mut Vec<u8>, value: &impl Serialize) {
    *bytes =
        postcard::to_extend(value, std::mem::take(bytes)).expect("these types always serialize, a Vec always has room");
}

fn take<T: DeserializeOwned>(rest: &mut &[u8]) -> Result<T, RestoreError> {
    let (value, after) =
        postcard::take_from_bytes(rest).map_err(|_| RestoreError::Damaged { reason: "it cannot be decoded" })?;
    *rest = after;
    Ok(value)
}
