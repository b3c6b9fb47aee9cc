//! Work that is too much for one command, done in bounded steps by the commands that follow.

use super::ShardMachine;
use crate::key::{self, OWNED_NAME};
use crate::record::{Block, EndedQueue, EndedSubscriptions, Options, Owned};
use crate::store::{Store, StoreError};

/// How many clients of a node that is down are disconnected in a step.
pub(crate) const SWEEP_STEP: usize = 64;
/// How many subscriptions of ended sessions are removed in a step, a session counting as one more.
pub(crate) const SUBSCRIPTION_STEP: usize = 64;
/// How many blocks of ended sessions are removed in a step.
pub(crate) const BLOCK_STEP: u64 = 16;

impl<S: Store> ShardMachine<S> {
    pub(super) fn maintain(&mut self) -> Result<(), StoreError> {
        self.sweep()?;
        self.remove_subscriptions()?;
        self.remove_queues()
    }

    /// Goes on with disconnecting the clients of nodes that are down.
    fn sweep(&mut self) -> Result<(), StoreError> {
        let Some(sweep) = self.meta.sweeps.first() else { return Ok(()) };
        let from = key::owned_from(sweep.node.node, 0);
        let to = key::after_boot(sweep.node.node, sweep.node.boot);
        let owned = self.cache.scan::<Owned>(&from, &to, SWEEP_STEP)?;
        for (key, _) in &owned {
            let mut open = self.open_client(key[OWNED_NAME..].into())?;
            self.settle(&mut open)?;
            self.close_client(open);
        }
        if owned.len() < SWEEP_STEP {
            self.meta.sweeps.remove(0);
        }
        Ok(())
    }

    fn remove_subscriptions(&mut self) -> Result<(), StoreError> {
        let mut left = SUBSCRIPTION_STEP;
        while left > 0 && self.meta.ended_subscriptions > 0 {
            let (from, to) = (key::ended_subscriptions(0), key::table_end(key::table::ENDED_SUBSCRIPTIONS));
            let Some((ended, EndedSubscriptions { namespace })) = self.cache.scan(&from, &to, 1)?.pop() else { break };
            let session = key::last_number(&ended).unwrap_or_default();
            let (from, to) = (key::subscription(session, ""), key::subscription(session + 1, ""));
            let found = self.cache.scan::<Options>(&from, &to, left)?;
            for (key, _) in &found {
                if let Some((_, filter)) = key::read_subscription(key) {
                    self.remove_subscription(namespace, session, filter)?;
                }
            }
            if found.len() < left {
                self.cache.remove_known(&ended);
                self.meta.ended_subscriptions -= 1;
                left -= 1;
            }
            left -= found.len();
        }
        Ok(())
    }

    fn remove_queues(&mut self) -> Result<(), StoreError> {
        let mut left = BLOCK_STEP;
        while left > 0 && self.meta.ended_queues > 0 {
            let (from, to) = (key::ended_queue(0), key::table_end(key::table::ENDED_QUEUE));
            let Some((ended, mut queue)) = self.cache.scan::<EndedQueue>(&from, &to, 1)?.pop() else { break };
            let session = key::last_number(&ended).unwrap_or_default();
            for (first, last) in &mut queue.ranges {
                while first <= last && left > 0 {
                    let key = key::block(session, *first);
                    if let Some(block) = self.cache.take::<Block>(&key)? {
                        self.cache.remove(&key);
                        for entry in block.entries() {
                            self.release_message(entry.message)?;
                        }
                    }
                    *first += 1;
                    left -= 1;
                }
            }
            if queue.ranges.iter().all(|(first, last)| first > last) {
                self.cache.remove_known(&ended);
                self.meta.ended_queues -= 1;
            } else {
                self.cache.put_known(&ended, queue);
            }
        }
        Ok(())
    }

    /// Removes a subscription of a session, which is there.
    pub(super) fn remove_subscription(&mut self, namespace: u32, session: u64, filter: &str) -> Result<(), StoreError> {
        self.cache.remove_known(&key::subscription(session, filter));
        self.meta.subscriptions -= 1;
        self.index.remove(namespace, session, filter);
        self.remove_route(namespace, filter)
    }
}
