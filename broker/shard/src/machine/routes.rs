//! The routes of the shard: which filters its sessions have, numbered changes for the cluster's routes group.
//!
//! The changes are in the state until they are announced for certain, so that whoever leads goes on where the leader before stopped. A change
//! that is announced twice has the same number, by which the routes group knows it.

use super::ShardMachine;
use crate::answer::OpAnswer;
use crate::effect::Effect;
use crate::key;
use crate::record::{Route, RouteKey};
use crate::store::{Store, StoreError};

/// How many changes are looked up at once.
const PAGE: usize = 256;

impl<S: Store> ShardMachine<S> {
    /// A subscription came: the number of the change that a publish must have seen to be matched with it.
    pub(super) fn add_route(&mut self, namespace: u32, filter: &str) -> Result<u64, StoreError> {
        let key = key::route_key(namespace, filter);
        let route = match self.cache.take::<RouteKey>(&key)? {
            Some(known) => RouteKey { subscriptions: known.subscriptions + 1, ..known },
            None => RouteKey { subscriptions: 1, added: self.change_route(namespace, filter, true) },
        };
        let added = route.added;
        self.cache.put(&key, route);
        Ok(added)
    }

    /// The same for a subscription that is there.
    pub(super) fn route_of(&mut self, namespace: u32, filter: &str) -> Result<u64, StoreError> {
        let known = self.cache.get::<RouteKey>(&key::route_key(namespace, filter))?;
        Ok(known.map_or(0, |known| known.added))
    }

    /// A subscription went.
    pub(super) fn remove_route(&mut self, namespace: u32, filter: &str) -> Result<(), StoreError> {
        let key = key::route_key(namespace, filter);
        let Some(mut known) = self.cache.take::<RouteKey>(&key)? else { return Ok(()) };
        known.subscriptions -= 1;
        if known.subscriptions > 0 {
            self.cache.put(&key, known);
        } else {
            self.cache.remove(&key);
            self.change_route(namespace, filter, false);
        }
        Ok(())
    }

    fn change_route(&mut self, namespace: u32, filter: &str, added: bool) -> u64 {
        self.meta.last_route += 1;
        let number = self.meta.last_route;
        self.cache.put(&key::route(number), Route { namespace, filter: filter.into(), added });
        self.effects.push(Effect::Route { number });
        number
    }

    /// The routes group has the changes up to this one.
    pub(super) fn announced(&mut self, up_to: u64) -> Result<OpAnswer, StoreError> {
        let up_to = up_to.min(self.meta.last_route);
        let from = self.meta.announced + 1;
        // A bounded step: the leader says it again until all are gone.
        let last = up_to.min(self.meta.announced + PAGE as u64);
        for number in from..=last {
            let key = key::route(number);
            if self.cache.has::<Route>(&key)? {
                self.cache.remove(&key);
            }
        }
        self.meta.announced = self.meta.announced.max(last);
        Ok(OpAnswer::Announced { up_to: self.meta.announced })
    }
}
