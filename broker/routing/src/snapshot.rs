//! The bytes of a [`RoutesMachine`]'s snapshot.
//!
//! A format byte, then in postcard's encoding: the state hash; the number of nodes and, for each in the order of ids, its id, its stream, its
//! filters without wildcards as sorted hashes (each as difference to the one before), its filters with wildcards, sorted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    machine::{NodeStream, RestoreError, RoutesMachine, key_hash},
    shared::{NewTables, RouteKey},
};

const FORMAT: u8 = 1;

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
    let mut bytes = vec![FORMAT];
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
    bytes
}

pub(crate) fn read(machine: &mut RoutesMachine, bytes: &[u8]) -> Result<(), RestoreError> {
    let damaged = |reason| RestoreError::Damaged { reason };
    let mut rest = match bytes.split_first() {
        Some((&FORMAT, rest)) => rest,
        Some((&found, _)) if found > FORMAT => return Err(RestoreError::UnknownFormat { found }),
        _ => return Err(damaged("it does not begin with a format")),
    };
    let hash: u64 = take(&mut rest)?;
    let count: u64 = take(&mut rest)?;
    let mut nodes = BTreeMap::new();
    let mut tables = NewTables::new();
    for _ in 0..count {
        let (id, written, routes): (u64, NodeStream, Routes) = take(&mut rest)?;
        if nodes.last_key_value().is_some_and(|(&last, _)| last >= id) {
            return Err(damaged("the nodes are out of order"));
        }
        // Counted again, so that the hash below covers the routes themselves.
        let mut stream = NodeStream { routes: 0, sum: 0, ..written.clone() };
        let mut before = 0_u64;
        let exact = routes.exact.into_iter().map(|difference| {
            before = before.wrapping_add(difference);
            RouteKey::Exact(before)
        });
        for key in exact.chain(routes.wild.into_iter().map(|filter| RouteKey::Wild(filter.into()))) {
            if !tables.add(&key, id) {
                return Err(damaged("a route is there twice"));
            }
            stream.routes += 1;
            stream.sum = stream.sum.wrapping_add(key_hash(&key));
        }
        if stream != written {
            return Err(damaged("a node has other routes than were counted"));
        }
        nodes.insert(id, stream);
    }
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
