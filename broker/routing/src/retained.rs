//! The retained messages of a node (MQTT 5, 3.3.1.3).
//!
//! One ordered set of the messages themselves, by the levels of their topics: some 30 bytes a topic beside the message, and no topic is
//! kept twice. A lookup by a filter goes from match to match in this order and passes over whole subtrees that cannot match. Where it is
//! is a place in the order, not a reference: it can be stopped after any number of steps and resumed after any changes.

mod order;
mod scan;

use std::{collections::BTreeSet, ops::Bound};

use raftmq_mqtt::Message;

use order::{ByExpiry, ByTopic, Place};
use scan::Step;

/// How much is retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetainedLimits {
    /// The most messages.
    pub messages: usize,
    /// The most bytes of messages, [`RETAINED_OVERHEAD`] for each included. Replacements may exceed it.
    pub bytes: usize,
    /// The longest payload, in bytes.
    pub payload: usize,
}

impl Default for RetainedLimits {
    fn default() -> Self {
        Self { messages: 1_000_000, bytes: 1 << 30, payload: 1 << 20 }
    }
}

/// What a retained message takes beside its own length ([`Message::wire_len`]): its place in the set, what the allocator adds.
pub const RETAINED_OVERHEAD: usize = 64;

/// What [`RetainedStore::set`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainOutcome {
    /// The topic had none and has this message now.
    Stored,
    /// The topic has this message in the place of another one.
    Replaced,
    /// The payload is empty: the topic has none now, and had one.
    Cleared,
    /// The payload is empty, and the topic had none.
    NothingToClear,
    /// It was not published with RETAIN: nothing was changed.
    NotRetained,
    /// It has expired already: the topic has none now.
    Expired,
    /// The payload is longer than allowed: nothing was changed.
    PayloadTooLarge,
    /// There are as many messages as allowed and none of this topic: nothing was changed.
    TooManyMessages,
    /// There are as many bytes as allowed and no message of this topic: nothing was changed.
    TooManyBytes,
}

impl RetainOutcome {
    /// Whether the message should have been kept and was not.
    #[must_use]
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::PayloadTooLarge | Self::TooManyMessages | Self::TooManyBytes)
    }
}

/// What has happened since the start, and what is there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RetainedCounters {
    /// Messages that are there; expired ones until they are removed.
    pub messages: usize,
    /// Their bytes, [`RETAINED_OVERHEAD`] for each included.
    pub bytes: usize,
    /// Messages stored or replaced.
    pub stored: u64,
    /// Messages removed by an empty payload.
    pub cleared: u64,
    /// Messages removed because they had expired.
    pub expired: u64,
    /// Messages refused for a limit.
    pub refused: u64,
}

/// Where a lookup is. Only for lookups by the filter that it began with.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RetainedCursor {
    /// `None` at the beginning.
    place: Option<Vec<u8>>,
    /// What is at the place was looked at.
    passed: bool,
}

/// What a call of [`RetainedStore::matches`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// All was looked at.
    Done,
    /// The limit was reached: call again with the cursor.
    More,
}

/// The retained messages of a node, of no session: none of them goes with its publisher's `[MQTT311-3.1.2-7]`. Times are milliseconds since
/// the Unix epoch.
#[derive(Default)]
pub struct RetainedStore {
    limits: RetainedLimits,
    topics: BTreeSet<ByTopic>,
    /// The messages of `topics` that expire.
    expiries: BTreeSet<ByExpiry>,
    counters: RetainedCounters,
}

/// Expired messages removed to make room for a new one.
const MADE_ROOM: usize = 16;

impl RetainedStore {
    /// Without messages.
    #[must_use]
    pub fn new(limits: RetainedLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// What it may keep.
    #[must_use]
    pub fn limits(&self) -> RetainedLimits {
        self.limits
    }

    /// Other limits from now on. What exceeds them stays.
    pub fn set_limits(&mut self, limits: RetainedLimits) {
        self.limits = limits;
    }

    /// Keeps a message that was published with RETAIN, of whatever QoS, in the place of the one of its topic
    /// ([MQTT-3.3.1-5], [MQTT311-3.3.1-5], [MQTT311-3.3.1-7]). An empty payload removes it and is not kept itself ([MQTT-3.3.1-6],
    /// [MQTT-3.3.1-7]; [MQTT311-3.3.1-10], [MQTT311-3.3.1-11]). A message without RETAIN changes nothing ([MQTT-3.3.1-8],
    /// [MQTT311-3.3.1-12]).
    pub fn set(&mut self, message: &Message, now: u64) -> RetainOutcome {
        if !message.retain() {
            return RetainOutcome::NotRetained;
        }
        if message.payload().is_empty() {
            let existed = self.remove(message.topic_bytes());
            self.counters.cleared += u64::from(existed);
            return if existed { RetainOutcome::Cleared } else { RetainOutcome::NothingToClear };
        }
        let outcome = self.fits(message, now);
        if outcome.is_refused() {
            self.counters.refused += 1;
            return outcome;
        }
        self.remove(message.topic_bytes());
        if outcome == RetainOutcome::Expired {
            self.counters.expired += 1;
            return outcome;
        }
        self.counters.stored += 1;
        self.counters.bytes += size_of_message(message);
        if let Some(at) = message.expires_at_ms() {
            self.expiries.insert(ByExpiry(at, ByTopic(message.clone())));
        }
        self.topics.insert(ByTopic(message.clone()));
        self.counters.messages = self.topics.len();
        outcome
    }

    fn fits(&mut self, message: &Message, now: u64) -> RetainOutcome {
        if message.payload().len() > self.limits.payload {
            return RetainOutcome::PayloadTooLarge;
        }
        if message.is_expired(now) {
            return RetainOutcome::Expired;
        }
        // A topic that has one always gets its newest [MQTT-3.3.1-5].
        if self.find(message.topic_bytes()).is_some() {
            return RetainOutcome::Replaced;
        }
        let full = |store: &Self| {
            if store.topics.len() >= store.limits.messages {
                RetainOutcome::TooManyMessages
            } else if store.counters.bytes.saturating_add(size_of_message(message)) > store.limits.bytes {
                RetainOutcome::TooManyBytes
            } else {
                RetainOutcome::Stored
            }
        };
        match full(self) {
            RetainOutcome::Stored => RetainOutcome::Stored,
            _ => {
                self.expire(now, MADE_ROOM);
                full(self)
            }
        }
    }

    /// The message of a topic, unless it has expired [MQTT-3.3.2-5].
    #[must_use]
    pub fn get(&self, topic: &str, now: u64) -> Option<&Message> {
        self.find(topic.as_bytes()).filter(|message| !message.is_expired(now))
    }

    /// Calls `found` with messages whose topics match a filter (without `$share/…` and other prefixes of it), in the order of topics by
    /// levels, and moves the cursor past them. Expired ones are not given [MQTT-3.3.2-5]; the limit is of topics looked at, matching or not,
    /// each of which takes a few microseconds. Where `found` does not take one (`false`), the lookup stops in front of it, and the next one
    /// begins with it.
    ///
    /// Every message that stays for as long as the lookup takes is given exactly once; one that comes, goes or is replaced between two calls
    /// may be given, at most once in each state.
    pub fn matches(
        &self,
        filter: &str,
        cursor: &mut RetainedCursor,
        limit: usize,
        now: u64,
        mut found: impl FnMut(&Message) -> bool,
    ) -> Lookup {
        if !crate::index::is_wild(filter) {
            if !cursor.passed {
                if self.get(filter, now).is_some_and(|message| !found(message)) {
                    return Lookup::More;
                }
                cursor.passed = true;
            }
            return Lookup::Done;
        }
        let mut place = cursor.place.take().unwrap_or_else(|| {
            let mut place = Vec::new();
            scan::start(filter, &mut place);
            place
        });
        let mut left = limit.max(1);
        let mut seek = Vec::new();
        'seek: loop {
            let from: &dyn Place = &place.as_slice();
            let from = if cursor.passed { Bound::Excluded(from) } else { Bound::Included(from) };
            let mut after = self.topics.range::<dyn Place + '_, _>((from, Bound::Unbounded)).peekable();
            while let Some(ByTopic(message)) = after.next() {
                left -= 1;
                match scan::step(filter, message.topic(), &mut seek) {
                    Step::Match if message.is_expired(now) => {}
                    Step::Match if found(message) => {}
                    Step::Match => {
                        place.clear();
                        place.extend_from_slice(message.topic_bytes());
                        cursor.passed = false;
                        break 'seek;
                    }
                    Step::Next => {}
                    Step::End => return Lookup::Done,
                    Step::Seek => {
                        std::mem::swap(&mut place, &mut seek);
                        cursor.passed = false;
                        if left == 0 {
                            break 'seek;
                        }
                        continue 'seek;
                    }
                }
                if left == 0 {
                    if after.peek().is_none() {
                        return Lookup::Done;
                    }
                    place.clear();
                    place.extend_from_slice(message.topic_bytes());
                    cursor.passed = true;
                    break 'seek;
                }
            }
            return Lookup::Done;
        }
        cursor.place = Some(place);
        Lookup::More
    }

    /// Removes at most `limit` messages that have expired; gives how many. To be called again soon if that is the limit.
    pub fn expire(&mut self, now: u64, limit: usize) -> usize {
        let mut removed = 0;
        while removed < limit
            && let Some(ByExpiry(at, message)) = self.expiries.first()
            && *at <= now
        {
            let message = message.0.clone();
            self.remove(message.topic_bytes());
            removed += 1;
        }
        self.counters.expired += removed as u64;
        removed
    }

    /// When the next message expires.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|ByExpiry(at, _)| *at)
    }

    /// Removes the message of a topic, as an empty payload does; says whether there was one.
    pub fn clear(&mut self, topic: &str) -> bool {
        let existed = self.remove(topic.as_bytes());
        self.counters.cleared += u64::from(existed);
        existed
    }

    /// What is there and what has happened.
    #[must_use]
    pub fn counters(&self) -> RetainedCounters {
        self.counters
    }

    /// The number of messages; expired ones until they are removed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there are no messages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    fn find(&self, topic: &[u8]) -> Option<&Message> {
        let topic: &dyn Place = &topic;
        self.topics.get(topic).map(|ByTopic(message)| message)
    }

    fn remove(&mut self, topic: &[u8]) -> bool {
        let topic: &dyn Place = &topic;
        let Some(ByTopic(message)) = self.topics.take(topic) else {
            return false;
        };
        self.counters.messages = self.topics.len();
        self.counters.bytes -= size_of_message(&message);
        if let Some(at) = message.expires_at_ms() {
            self.expiries.remove(&ByExpiry(at, ByTopic(message)));
        }
        true
    }
}

fn size_of_message(message: &Message) -> usize {
    message.wire_len() + RETAINED_OVERHEAD
}

#[cfg(test)]
mod tests;
