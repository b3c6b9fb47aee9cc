//! Comparing replicas: a walk through all records in the order of their keys, each step of which is an entry of the log, so that all
//! replicas hash the same records at the same state.

use super::ShardMachine;
use crate::answer::Answer;
use crate::key;
use crate::slot::{finish, fnv};
use crate::store::{Store, StoreError};

/// The most records of a step.
const MAX_STEP: u32 = 65_536;

impl<S: Store> ShardMachine<S> {
    pub(super) fn digest(&mut self, from: &[u8], limit: u32) -> Result<Answer, StoreError> {
        // What there is once is not in the cache, and in the store as it was: it has its own place at the beginning.
        let mut hash = if from.is_empty() { fnv(0, &self.meta.encode()) } else { 0 };
        let first = key::table_end(key::table::META);
        let records = self.cache.scan_bytes(from.max(&first[..]), limit.clamp(1, MAX_STEP) as usize)?;
        for (key, bytes) in &records {
            hash = finish(fnv(fnv(hash, key), bytes));
        }
        Ok(Answer::Digest { hash, next: records.last().map(|(last, _)| key::after(last).to_vec()) })
    }
}
