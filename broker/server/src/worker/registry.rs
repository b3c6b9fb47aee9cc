//! Which worker of this node holds the session of a client.
//!
//! A connection that comes in on another worker moves there, socket and all, so that a session is only
//! ever touched by one thread. Asked at CONNECT and at the end of a session, never for a message.
//!
//! A client that authenticates itself, which is said on one connection, has no session yet: its identifier is reserved, so that the
//! session that it will have, or another connection of that identifier gets in the meantime, is there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// Client identifier → worker, for one node.
pub(crate) struct ClientRegistry {
    hasher: ahash::RandomState,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    homes: HashMap<Arc<str>, Home, ahash::RandomState>,
    /// How many have no session.
    reserved: usize,
}

#[derive(Clone, Copy)]
struct Home {
    worker: u16,
    session: bool,
}

impl ClientRegistry {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: ahash::RandomState::new() }
    }

    /// The worker that holds the client's session; `worker` itself when nobody did until now.
    pub(crate) fn claim(&self, client: &Arc<str>, worker: u16) -> u16 {
        let shard = &mut *self.shard(client);
        let home = shard.homes.entry(client.clone()).or_insert(Home { worker, session: true });
        if home.worker == worker && !std::mem::replace(&mut home.session, true) {
            shard.reserved -= 1;
        }
        home.worker
    }

    /// The worker where the client's session is or will be; `worker` itself when that was nowhere until now.
    pub(crate) fn reserve(&self, client: &Arc<str>, worker: u16) -> u16 {
        let shard = &mut *self.shard(client);
        match shard.homes.entry(client.clone()) {
            Entry::Occupied(entry) => entry.get().worker,
            Entry::Vacant(entry) => {
                shard.reserved += 1;
                entry.insert(Home { worker, session: false }).worker
            }
        }
    }

    /// The session has ended, and its identifier is still reserved. Does nothing when another worker holds it.
    pub(crate) fn keep_reserved(&self, client: &str, worker: u16) {
        let shard = &mut *self.shard(client);
        if let Some(home) = shard.homes.get_mut(client).filter(|home| home.worker == worker)
            && std::mem::replace(&mut home.session, false)
        {
            shard.reserved += 1;
        }
    }

    /// The worker that holds the client's session or will.
    pub(crate) fn holder(&self, client: &str) -> Option<u16> {
        self.shard(client).homes.get(client).map(|home| home.worker)
    }

    /// The session has ended, or there will be none. Does nothing when another worker holds it.
    pub(crate) fn release(&self, client: &Arc<str>, worker: u16) {
        let shard = &mut *self.shard(client);
        if let Entry::Occupied(entry) = shard.homes.entry(client.clone())
            && entry.get().worker == worker
        {
            shard.reserved -= usize::from(!entry.remove().session);
            let homes = &mut shard.homes;
            if homes.capacity() > 1024 && homes.len() * 4 < homes.capacity() {
                homes.shrink_to_fit();
            }
        }
    }

    /// Sessions on this node.
    pub(crate) fn len(&self) -> usize {
        let sessions = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            shard.homes.len() - shard.reserved
        };
        self.shards.iter().map(sessions).sum()
    }

    fn shard(&self, client: &str) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(client) as usize % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_claim_holds_until_its_own_release() {
        let registry = ClientRegistry::new();
        let client: Arc<str> = Arc::from("c");
        assert_eq!(registry.holder("c"), None);
        assert_eq!(registry.claim(&client, 3), 3);
        assert_eq!(registry.holder("c"), Some(3));
        assert_eq!(registry.claim(&client, 1), 3);
        registry.release(&client, 1);
        assert_eq!(registry.claim(&client, 1), 3, "only the holder releases");
        registry.release(&client, 3);
        assert_eq!(registry.claim(&client, 1), 1);
        assert_eq!(registry.len(), 1);
    }

    #[test]
    fn what_is_reserved_is_held_and_is_no_session() {
        let registry = ClientRegistry::new();
        let client: Arc<str> = Arc::from("c");
        assert_eq!(registry.reserve(&client, 2), 2);
        assert_eq!(registry.reserve(&client, 2), 2);
        assert_eq!((registry.reserve(&client, 1), registry.claim(&client, 1)), (2, 2));
        assert_eq!(registry.len(), 0);
        assert_eq!(registry.claim(&client, 2), 2);
        assert_eq!(registry.reserve(&client, 2), 2);
        assert_eq!(registry.len(), 1);
        registry.keep_reserved("c", 1);
        assert_eq!(registry.len(), 1);
        registry.keep_reserved("c", 2);
        assert_eq!((registry.len(), registry.holder("c")), (0, Some(2)));
        registry.release(&client, 2);
        assert_eq!((registry.len(), registry.holder("c")), (0, None));
        assert_eq!(registry.claim(&client, 1), 1);
        assert_eq!(registry.len(), 1);
    }
}
