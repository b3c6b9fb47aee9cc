//! Which worker of this node holds the session of a client.
//!
//! A connection that comes in on another worker moves there, socket and all, so that a session is only
//! ever touched by one thread. Asked at CONNECT and at the end of a session, never for a message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// Client identifier → worker, for one node.
pub(crate) struct ClientRegistry {
    hasher: ahash::RandomState,
    shards: Vec<Mutex<HashMap<Arc<str>, u16, ahash::RandomState>>>,
}

impl ClientRegistry {
    pub(crate) fn new() -> Self {
        let hasher = ahash::RandomState::new();
        Self { shards: (0..SHARDS).map(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))).collect(), hasher }
    }

    /// The worker that holds the client's session; `worker` itself when nobody did until now.
    pub(crate) fn claim(&self, client: &Arc<str>, worker: u16) -> u16 {
        *self.shard(client).entry(client.clone()).or_insert(worker)
    }

    /// The worker that holds the client's session, if any does.
    pub(crate) fn holder(&self, client: &str) -> Option<u16> {
        self.shard(client).get(client).copied()
    }

    /// The session has ended. Does nothing when another worker holds it.
    pub(crate) fn release(&self, client: &Arc<str>, worker: u16) {
        let mut shard = self.shard(client);
        if let Entry::Occupied(entry) = shard.entry(client.clone())
            && *entry.get() == worker
        {
            entry.remove();
            if shard.capacity() > 1024 && shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
        }
    }

    /// Sessions on this node.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, client: &str) -> MutexGuard<'_, HashMap<Arc<str>, u16, ahash::RandomState>> {
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
}
