//! Records in memory, in front of the store.
//!
//! A record that was changed is *dirty* and stays until the next flush; what is *clean* may go, and the least recently used
//! (about: a record that was used since it came to the front of the line goes to its end, once) goes when there is more of it
//! than the bound. A record that came and went between two flushes is no trace.
//!
//! Nothing that is decided depends on what happens to be here.

use std::collections::{BTreeSet, HashMap, VecDeque};

use ahash::RandomState;
use bytes::Bytes;

use crate::key::{self, Key, table};
use crate::record::{self, Kind, Record};
use crate::store::{Store, StoreError};

/// Bytes of a place in the map and in the line.
const PLACE: usize = size_of::<(Key, Place)>() * 2;
/// The most records that are read from the store at once.
const SCAN_PAGE: usize = 256;

#[derive(Debug)]
struct Place {
    /// `None`: there is none; or it is taken out to be changed.
    record: Option<Record>,
    /// What is counted for it.
    bytes: u32,
    dirty: bool,
    /// Whether the store has the key.
    stored: bool,
    /// Used since it came to the front of the line.
    used: bool,
    /// Stands in the line of clean ones.
    queued: bool,
}

/// The cache of a shard.
pub(crate) struct Cache<S> {
    store: S,
    places: HashMap<Key, Place, RandomState>,
    /// The dirty keys of the tables that are read in order.
    order: BTreeSet<Key>,
    /// Clean places, and some that have become dirty since.
    line: VecDeque<Key>,
    dirty_bytes: usize,
    clean_bytes: usize,
    /// The bound of clean bytes.
    bound: usize,
}

impl<S: Store> Cache<S> {
    pub(crate) fn new(store: S, bound: usize) -> Self {
        Self {
            store,
            places: HashMap::default(),
            order: BTreeSet::new(),
            line: VecDeque::new(),
            dirty_bytes: 0,
            clean_bytes: 0,
            bound,
        }
    }

    pub(crate) fn store(&self) -> &S {
        &self.store
    }

    pub(crate) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    pub(crate) fn clean_bytes(&self) -> usize {
        self.clean_bytes
    }

    /// The record of a key.
    pub(crate) fn get<R: Kind>(&mut self, key: &Key) -> Result<Option<&R>, StoreError> {
        let place = self.place::<R>(key)?;
        place.used = true;
        Ok(place.record.as_ref().map(|record| R::of(record).expect("a table has records of one kind")))
    }

    /// Whether there is a record of that key.
    pub(crate) fn has<R: Kind>(&mut self, key: &Key) -> Result<bool, StoreError> {
        Ok(self.get::<R>(key)?.is_some())
    }

    /// Takes a record out to change it. It must be put back, or removed.
    pub(crate) fn take<R: Kind>(&mut self, key: &Key) -> Result<Option<R>, StoreError> {
        let place = self.place::<R>(key)?;
        place.used = true;
        Ok(place.record.take().map(|record| R::unwrap(record).expect("a table has records of one kind")))
    }

    /// Puts a record that was taken, or of which is known that there is none.
    pub(crate) fn put<R: Kind>(&mut self, key: &Key, record: R) {
        let record = record.wrap();
        let bytes = u32::try_from(PLACE + key.len() + record.heap()).unwrap_or(u32::MAX);
        if let Some(place) = self.places.get_mut(key) {
            if place.dirty {
                self.dirty_bytes -= place.bytes as usize;
            } else {
                self.clean_bytes -= place.bytes as usize;
                if table::is_ordered(key[0]) {
                    self.order.insert(key.clone());
                }
            }
            place.record = Some(record);
            place.bytes = bytes;
            place.dirty = true;
            place.used = true;
        } else {
            if table::is_ordered(key[0]) {
                self.order.insert(key.clone());
            }
            let place = Place { record: Some(record), bytes, dirty: true, stored: false, used: true, queued: false };
            self.places.insert(key.clone(), place);
        }
        self.dirty_bytes += bytes as usize;
    }

    /// Puts a record back that was taken and not changed.
    pub(crate) fn put_unchanged<R: Kind>(&mut self, key: &Key, record: R) {
        if let Some(place) = self.places.get_mut(key) {
            place.record = Some(record.wrap());
        }
    }

    /// Removes a record that was got or taken, or put since the last flush.
    pub(crate) fn remove(&mut self, key: &Key) {
        let Some(place) = self.places.get_mut(key) else {
            debug_assert!(false, "removed without having been looked at");
            return;
        };
        if place.dirty {
            self.dirty_bytes -= place.bytes as usize;
        } else {
            self.clean_bytes -= place.bytes as usize;
        }
        if !place.stored {
            // In the line it may still stand, as somebody who is not there.
            self.places.remove(key);
            if table::is_ordered(key[0]) {
                self.order.remove(key);
            }
            return;
        }
        if !place.dirty && table::is_ordered(key[0]) {
            self.order.insert(key.clone());
        }
        place.record = None;
        place.bytes = (PLACE + key.len()) as u32;
        place.dirty = true;
        self.dirty_bytes += place.bytes as usize;
    }

    /// Removes a record of which is known that it is there, in memory or not.
    pub(crate) fn remove_known(&mut self, key: &Key) {
        self.known(key);
        self.remove(key);
    }

    /// Replaces a record of which is known that it is there, in memory or not.
    pub(crate) fn put_known<R: Kind>(&mut self, key: &Key, record: R) {
        self.known(key);
        self.put(key, record);
    }

    /// The first `limit` records of an ordered table from a key on and below another one. They are not kept in memory.
    pub(crate) fn scan<R: Kind + Clone>(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, R)>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let dirty = self.order.range(Key::from_slice(from)..Key::from_slice(to));
        let changed = |record: &Record| R::of(record).expect("a table has records of one kind").clone();
        self.merge(from, to, limit, dirty, changed, |key, bytes| record::decode(key, bytes))
    }

    /// The bytes of the first `limit` records of any tables from a key on. Looks at all that is dirty: for comparing replicas.
    pub(crate) fn scan_bytes(&self, from: &[u8], limit: usize) -> Result<Vec<(Key, Bytes)>, StoreError> {
        let dirty = self.places.iter().filter(|(key, place)| place.dirty && key[..] >= *from);
        let mut dirty: Vec<&Key> = dirty.filter_map(|(key, place)| place.record.as_ref().map(|_| key)).collect();
        if dirty.len() > limit {
            dirty.select_nth_unstable(limit);
            dirty.truncate(limit);
        }
        dirty.sort_unstable();
        let changed = |record: &Record| Bytes::from(record.encode());
        self.merge(from, &[u8::MAX], limit, dirty.into_iter(), changed, |_, bytes| Ok(bytes.clone()))
    }

    /// What is dirty over what is in the store.
    fn merge<'a, T>(
        &'a self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        dirty: impl Iterator<Item = &'a Key>,
        changed: impl Fn(&Record) -> T,
        stored: impl Fn(&[u8], &Bytes) -> Result<T, StoreError>,
    ) -> Result<Vec<(Key, T)>, StoreError> {
        let mut found = Vec::new();
        let live = |key: &'a Key| Some((key, self.places.get(key)?.record.as_ref()?));
        let mut dirty = dirty.filter_map(live).map(|(key, record)| (key.clone(), changed(record))).peekable();
        let mut next = Key::from_slice(from);
        // Some stores do not take a range that ends before it begins.
        while found.len() < limit && next[..] < *to {
            let want = (limit - found.len()).min(SCAN_PAGE);
            let page = self.store.range(&next, to, want)?;
            let is_last = page.len() < want;
            if let Some((last, _)) = page.last() {
                next = key::after(last);
            }
            for (key, bytes) in page {
                while found.len() < limit
                    && let Some(record) = dirty.next_if(|(changed, _)| changed[..] < key[..])
                {
                    found.push(record);
                }
                let key = Key::from_slice(&key);
                if found.len() < limit && !self.places.get(&key).is_some_and(|place| place.dirty) {
                    let record = stored(&key, &bytes)?;
                    found.push((key, record));
                }
            }
            if is_last {
                let room = limit - found.len();
                found.extend(dirty.by_ref().take(room));
                break;
            }
        }
        Ok(found)
    }

    /// Hands out all that changed since the last flush. What was handed out is clean.
    pub(crate) fn flush(&mut self, changes: &mut impl FnMut(&[u8], Option<&[u8]>)) {
        let (clean_bytes, line) = (&mut self.clean_bytes, &mut self.line);
        self.places.retain(|key, place| {
            if !place.dirty {
                return true;
            }
            let Some(record) = &place.record else {
                changes(key, None);
                return false;
            };
            changes(key, Some(&record.encode()));
            place.dirty = false;
            place.stored = true;
            *clean_bytes += place.bytes as usize;
            if !place.queued {
                place.queued = true;
                line.push_back(key.clone());
            }
            true
        });
        self.order.clear();
        self.dirty_bytes = 0;
        self.trim();
    }

    /// Lets clean records go until they are within the bound.
    pub(crate) fn trim(&mut self) {
        while self.clean_bytes > self.bound
            && let Some(key) = self.line.pop_front()
        {
            let Some(place) = self.places.get_mut(&key) else { continue };
            if place.dirty {
                place.queued = false;
            } else if place.used {
                place.used = false;
                self.line.push_back(key);
            } else {
                self.clean_bytes -= place.bytes as usize;
                self.places.remove(&key);
            }
        }
        // Those that went before they came to the front, and came again: each stands there once afterwards, so that the line is not
        // gone through again for the same ones.
        if self.line.len() > 1_024 && self.line.len() / 2 > self.places.len() {
            let places = &mut self.places;
            self.line.retain(|key| places.get_mut(key).is_some_and(|place| std::mem::take(&mut place.queued)));
            for key in &self.line {
                if let Some(place) = places.get_mut(key) {
                    place.queued = true;
                }
            }
        }
        if self.places.capacity() > 1_024 && self.places.len() < self.places.capacity() / 8 {
            self.places.shrink_to(self.places.len() * 2);
            self.line.shrink_to(self.line.len() * 2);
        }
    }

    /// Makes a place for a record that is to be replaced: it is in the store, if it is not in memory.
    fn known(&mut self, key: &Key) {
        self.places.entry(key.clone()).or_insert(Place {
            record: None,
            bytes: 0,
            dirty: false,
            stored: true,
            used: false,
            queued: false,
        });
    }

    fn place<R: Kind>(&mut self, key: &Key) -> Result<&mut Place, StoreError> {
        // Looked up twice on a miss only; the borrow checker does not let go of what a function may return.
        if !self.places.contains_key(key) {
            let stored = self.store.get(key)?;
            let record = match &stored {
                Some(bytes) => Some(record::decode::<R>(key, bytes)?.wrap()),
                None => None,
            };
            let heap = record.as_ref().map_or(0, Record::heap);
            let bytes = u32::try_from(PLACE + key.len() + heap).unwrap_or(u32::MAX);
            let stored = stored.is_some();
            self.clean_bytes += bytes as usize;
            self.line.push_back(key.clone());
            let place = Place { record, bytes, dirty: false, stored, used: false, queued: true };
            self.places.insert(key.clone(), place);
        }
        Ok(self.places.get_mut(key).expect("inserted above"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::record::Stream;

    /// A store with nothing in it.
    struct Empty;

    impl Store for Empty {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
            Ok(None)
        }

        fn range(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
            Ok(Vec::new())
        }
    }

    fn remove(cache: &mut Cache<Empty>, key: &Key) {
        assert!(cache.take::<Stream>(key).unwrap().is_some());
        cache.remove(key);
    }

    /// The line is made shorter when it is much longer than what there is: that must help, or every command would go through it.
    #[test]
    fn what_goes_and_comes_again_stands_in_the_line_once() {
        let keys = |table: u16| (0..1_000).map(move |n| key::stream(n, table));
        let mut cache = Cache::new(Empty, usize::MAX);
        (1..6).flat_map(keys).for_each(|key| cache.put(&key, Stream { next: 0 }));
        for next in 0..5 {
            keys(0).for_each(|key| cache.put(&key, Stream { next }));
            cache.flush(&mut |_, _| {});
            keys(0).for_each(|key| remove(&mut cache, &key));
            cache.flush(&mut |_, _| {});
        }
        keys(0).for_each(|key| cache.put(&key, Stream { next: 5 }));
        cache.flush(&mut |_, _| {});
        (1..6).flat_map(keys).for_each(|key| remove(&mut cache, &key));
        cache.flush(&mut |_, _| {});
        assert_eq!((cache.places.len(), cache.line.len()), (1_000, 1_000));
        assert!(cache.places.values().all(|place| place.queued));
        // All of them go when they must, and are not counted any more.
        cache.bound = 0;
        cache.trim();
        assert_eq!((cache.places.len(), cache.line.len(), cache.clean_bytes()), (0, 0, 0));
    }
}
