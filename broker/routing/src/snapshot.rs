//! The bytes of a [`RoutesMachine`]'s snapshot.
//!
//! A format byte, then in postcard's encoding: the state hash; the number of nodes and, for each in the order of ids, its id, its stream, its
//! filters without wildcards as sorted hashes (each as difference to the one before), its filters with wildcards, sorted. In format 2, then
//! for each node in the same order: its groups, sorted by key, each with its ranks as a mask. A state without groups is written in format 1.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    group_table::Ranks,
    key::RouteKey,
    machine::{NodeStream, RestoreError, RoutesMachine, key_hash},
    shared::NewTables,
};

const FORMAT: u8 = 2;
const FORMAT_PLAIN: u8 = 1;

type Groups = Vec<(Arc<str>, Ranks)>;

#[derive(Default, Serialize, Deserialize)]
struct Routes {
    exact: Vec<u64>,
    wild: Vec<Box<str>>,
}

pub(crate) fn write(machine: &RoutesMachine) -> Vec<u8> {
    let mut routes: BTreeMap<u64, Routes> = machine.nodes.keys().map(|&id| (id, Routes::default())).collect();
    machine.routes.for_each_table(|table| {
        table.for_each_exact(|hash, _, nodes| {
            for id in nodes {
                routes.entry(id).or_default().exact.push(hash);
            }
        });
        table.for_each_wild(|filter, _, nodes| {
            for id in nodes {
                routes.entry(id).or_default().wild.push(filter.into());
            }
        });
    });
    let mut groups: BTreeMap<u64, Groups> = BTreeMap::new();
    machine.routes.for_each_group(|key, _, nodes| {
        for &(id, ranks) in nodes {
            groups.entry(id).or_default().push((Arc::clone(key), ranks));
        }
    });
    let mut bytes = vec![if groups.is_empty() { FORMAT_PLAIN } else { FORMAT }];
    put(&mut bytes, &machine.state_hash());
    put(&mut bytes, &(routes.len() as u64));
    for ((id, mut routes), stream) in routes.into_iter().zip(machine.nodes.values()) {
        routes.exact.sort_unstable();
        routes.wild.sort_unstable();
        let mut before = 0;
        for hash in &mut routes.exact {
            *hash -= std::mem::replace(&mut before, *hash);
        }
        put(&mut bytes, &(id, stream, routes));
    }
    if !groups.is_empty() {
        for id in machine.nodes.keys() {
            let mut groups = groups.remove(id).unwrap_or_default();
            groups.sort_unstable();
            put(&mut bytes, &groups);
        }
    }
    bytes
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
        if !tables.add(&key, id) {
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
        let mut before = 0_u64;
        let exact = routes.exact.into_iter().map(|difference| {
            before = before.wrapping_add(difference);
            RouteKey::Exact(before)
        });
        for key in exact.chain(routes.wild.into_iter().map(|filter| RouteKey::Wild(filter.into()))) {
            add(id, &mut counted, key)?;
        }
        nodes.insert(id, (written, counted));
    }
    if format == FORMAT {
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
    if !rest.is_empty() {
        return Err(damaged("there are bytes after its end"));
    }
    let before = std::mem::replace(&mut machine.nodes, nodes);
    if machine.state_hash() != hash {
        machine.nodes = before;
        return Err(damaged("the hash of its state is another one"));
    }
    machine.routes.replace_nodes(tables);
    Ok(())
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
