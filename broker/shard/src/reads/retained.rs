//! Retained messages for a new subscription [MQTT5 3.8.4], in the order of their topics' levels.
//!
//! A filter's literal beginning is one range of keys. Within it, a topic that does not match says how far the next one that can is:
//! the rest of a level is skipped by one seek.

use raftmq_mqtt::Message;
use raftmq_mqtt::topic::{filter_matches, levels};

use crate::key::{self, Key};
use crate::machine::ShardMachine;
use crate::record::{Retained, Stored};
use crate::store::{Store, StoreError};

/// How many records are read at once.
const PAGE: usize = 64;

/// Where a lookup goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedCursor(Vec<u8>);

impl RetainedCursor {
    /// Its bytes, for another node.
    #[must_use]
    pub fn to_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The cursor of these bytes. Those of no cursor make a lookup that begins somewhere else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// A retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedMessage {
    /// The message.
    pub message: Message,
    /// The number of the change that made it the retained one ([`crate::OpAnswer::Retained`]): later changes have higher numbers.
    pub number: u64,
    /// What is left of its expiry interval, in milliseconds.
    pub lifetime_ms: Option<u64>,
}

/// What bounds a part of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// At most so many messages.
    pub messages: usize,
    /// The message with which they have so many bytes is the last one.
    pub bytes: usize,
    /// At most so many records are looked at.
    pub steps: usize,
}

/// A part of what a lookup finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetainedPage {
    /// Messages, in the order of their topics' levels.
    pub messages: Vec<RetainedMessage>,
    /// Where to go on; `None`: these were the last.
    pub next: Option<RetainedCursor>,
    /// The number of the last change when this was read ([`crate::OpAnswer::Retained`]): all changes up to here are in it, later ones are not.
    pub last: u64,
}

impl<S: Store> ShardMachine<S> {
    /// The number of the last change of a retained message.
    #[must_use]
    pub fn last_retained(&self) -> u64 {
        self.meta.last_retained
    }

    /// The retained message of a topic.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn retained(&mut self, namespace: u32, topic: &str) -> Result<Option<RetainedMessage>, StoreError> {
        let key = key::retained(&key::topic_name(namespace, topic));
        let Some(retained) = self.cache.get::<Retained>(&key)?.cloned() else { return Ok(None) };
        self.retained_message(&retained)
    }

    /// The retained messages of topics that match a filter, from a cursor on, within limits. A page has at least one record looked at,
    /// so that a lookup always gets on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn retained_matching(
        &mut self,
        namespace: u32,
        filter: &str,
        cursor: Option<&RetainedCursor>,
        limits: PageLimits,
    ) -> Result<RetainedPage, StoreError> {
        let (first, end) = literal_range(namespace, filter);
        let mut from = cursor.map_or(first.clone(), |cursor| Key::from_slice(&cursor.0).max(first));
        let mut page = RetainedPage { last: self.meta.last_retained, ..RetainedPage::default() };
        let (mut left, mut bytes) = (limits.steps.max(1), 0);
        loop {
            let records = self.cache.scan::<Retained>(&from, &end, PAGE.min(left))?;
            let (is_last, count) = (records.len() < PAGE.min(left), records.len());
            let mut seek = None;
            for (key, retained) in records {
                if seek.as_ref().is_some_and(|seek| key < *seek) {
                    continue;
                }
                let Some((_, topic)) = key::read_topic_name(&key[1..]) else { continue };
                left -= 1;
                from = key::after(&key);
                if filter_matches(filter, &topic) {
                    let found = self.retained_message(&retained)?;
                    bytes += found.as_ref().map_or(0, |found| found.message.wire_len());
                    page.messages.extend(found);
                    if page.messages.len() >= limits.messages || bytes >= limits.bytes {
                        page.next = Some(RetainedCursor(from.to_vec()));
                        return Ok(page);
                    }
                } else if let Some(next) = next_candidate(namespace, filter, &topic) {
                    seek = Some(next);
                }
            }
            if let Some(seek) = seek {
                from = from.max(seek);
            } else if is_last {
                return Ok(page);
            }
            // All that was read lay below where to seek, or the end was reached.
            if count == 0 {
                return Ok(page);
            }
            if left == 0 {
                page.next = Some(RetainedCursor(from.to_vec()));
                return Ok(page);
            }
        }
    }

    fn retained_message(&mut self, retained: &Retained) -> Result<Option<RetainedMessage>, StoreError> {
        let now = self.meta.now_ms;
        // `[MQTT-3.3.2-5]`: its timer may be late.
        if retained.expires_at.is_some_and(|at| at <= now) {
            return Ok(None);
        }
        let stored = self.cache.get::<Stored>(&key::message(retained.message))?;
        let message = stored.map(|stored| RetainedMessage {
            message: stored.message.clone(),
            number: retained.number,
            lifetime_ms: retained.expires_at.map(|at| at - now),
        });
        self.cache.trim();
        Ok(message)
    }
}

/// The keys of the topics that begin with the levels before a filter's first wildcard.
fn literal_range(namespace: u32, filter: &str) -> (Key, Key) {
    let literal: Vec<&str> = levels(filter).take_while(|level| *level != "+" && *level != "#").collect();
    if literal.is_empty() {
        let end = namespace
            .checked_add(1)
            .map_or_else(|| key::table_end(key::table::RETAINED), |next| key::retained(&key::topic_name(next, "")));
        return (key::retained(&key::topic_name(namespace, "")), end);
    }
    let first = key::retained(&key::topic_name(namespace, &literal.join("/")));
    let end = after_subtree(first.clone());
    (first, end)
}

/// Above a topic and all that is below it.
fn after_subtree(mut topic: Key) -> Key {
    topic.push(1);
    topic
}

/// For a topic that a filter does not match: the lowest key after it that may match. `None`: the next one may.
fn next_candidate(namespace: u32, filter: &str, topic: &str) -> Option<Key> {
    let mut end = 0;
    let mut wanted = levels(filter);
    for (at, level) in levels(topic).enumerate() {
        let before = &topic[..end];
        end += level.len() + usize::from(at > 0);
        let through = |topic: &str| key::retained(&key::topic_name(namespace, topic));
        match wanted.next() {
            // Longer than the filter: so is all that is beside it.
            None => return Some(after_subtree(through(before))),
            Some("#") => return None,
            Some("+") => {}
            Some(wanted) if wanted == level => {}
            Some(wanted) if level < wanted => {
                let next = if at == 0 { wanted.to_owned() } else { format!("{before}/{wanted}") };
                return Some(through(&next));
            }
            Some(_) if at == 0 => return None,
            Some(_) => return Some(after_subtree(through(before))),
        }
    }
    None
}
