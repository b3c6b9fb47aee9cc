//! Exclusive subscriptions: `$exclusive/{filter}`, one subscriber at a time.
//!
//! As in EMQX
//! - a second client's SUBSCRIBE of the same filter is answered with Quota exceeded (0x97), until the first
//!   one's subscription has ended; with Topic Filter invalid (0x8F) where exclusive subscriptions are off;
//! - other clients may subscribe to `{filter}` without the prefix;
//! - filters are compared as they are written: one with wildcards may be exclusive, and does not exclude another one that
//!   matches the same topics.
//!
//! Decided here: the client that holds the subscription may subscribe again (to change its options); `{filter}` may not be a
//! shared subscription or an exclusive one again; exclusive subscriptions are on by default; they are kept while the
//! session lives, connected or not. The table is a node's: clients on two nodes do not exclude each other yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use ahash::RandomState;
use raftmq_mqtt::ReasonCode;
use raftmq_mqtt::topic::{TopicError, validate_filter};
use smallvec::SmallVec;
use thiserror::Error;

use crate::filter::split_prefix;

const PREFIX: &str = "$exclusive/";

/// Settings of exclusive subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExclusiveSettings {
    /// Whether there are any.
    pub enabled: bool,
    /// How many there may be on a node.
    pub max_subscriptions: usize,
}

impl Default for ExclusiveSettings {
    fn default() -> Self {
        Self { enabled: true, max_subscriptions: 1_000_000 }
    }
}

/// Why an exclusive subscription is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExclusiveError {
    /// They are off.
    #[error("exclusive subscriptions are off")]
    Disabled,
    /// What comes after `$exclusive/` is no filter.
    #[error("the exclusive filter {0}")]
    Filter(TopicError),
    /// What comes after `$exclusive/` is shared, or exclusive again.
    #[error("an exclusive subscription cannot be shared or exclusive twice")]
    Prefix,
    /// Another client has it.
    #[error("another client has this exclusive subscription")]
    Taken,
    /// The table is full.
    #[error("there are too many exclusive subscriptions")]
    Full,
}

impl ExclusiveError {
    /// What to answer in SUBACK: 0x97 where somebody else's subscription or the number of them is the reason, 0x8F otherwise.
    #[must_use]
    pub const fn reason_code(self) -> ReasonCode {
        match self {
            Self::Taken | Self::Full => ReasonCode::QuotaExceeded,
            Self::Disabled | Self::Filter(_) | Self::Prefix => ReasonCode::TopicFilterInvalid,
        }
    }
}

/// The filter of an exclusive subscription, which is what topics are matched against; `None` if `filter` is none.
///
/// A shared subscription of an exclusive filter (`$share/group/$exclusive/…`) is an error, too.
#[must_use]
pub fn parse<'a>(filter: &'a str, settings: &ExclusiveSettings) -> Option<Result<&'a str, ExclusiveError>> {
    let (outer, rest) = split_prefix(filter);
    if outer != PREFIX {
        // `$exclusive/` has no filter: not to be taken for a topic of that name.
        let refused = filter == PREFIX || (!outer.is_empty() && rest.starts_with(PREFIX));
        return refused.then_some(Err(match filter {
            PREFIX => ExclusiveError::Filter(TopicError::Empty),
            _ => ExclusiveError::Prefix,
        }));
    }
    if !settings.enabled {
        return Some(Err(ExclusiveError::Disabled));
    }
    if ["$share/", "$queue/", PREFIX].iter().any(|prefix| rest.starts_with(prefix)) {
        return Some(Err(ExclusiveError::Prefix));
    }
    Some(validate_filter(rest).map(|()| rest).map_err(ExclusiveError::Filter))
}

/// Who has which exclusive subscription.
#[derive(Debug)]
pub struct ExclusiveTable {
    holders: HashMap<Arc<str>, Arc<str>, RandomState>,
    by_client: HashMap<Arc<str>, SmallVec<[Arc<str>; 1]>, RandomState>,
    max_subscriptions: usize,
}

impl ExclusiveTable {
    /// An empty table.
    #[must_use]
    pub fn new(settings: &ExclusiveSettings) -> Self {
        Self {
            holders: HashMap::default(),
            by_client: HashMap::default(),
            max_subscriptions: settings.max_subscriptions,
        }
    }

    /// Gives a filter (without `$exclusive/`) to a client. `Ok(false)`: the client had it already.
    ///
    /// # Errors
    /// [`ExclusiveError::Taken`], or [`ExclusiveError::Full`]: a new subscription is refused when there are too many.
    pub fn claim(&mut self, filter: &str, client: &str) -> Result<bool, ExclusiveError> {
        if let Some(holder) = self.holders.get(filter) {
            return if **holder == *client { Ok(false) } else { Err(ExclusiveError::Taken) };
        }
        if self.holders.len() >= self.max_subscriptions {
            return Err(ExclusiveError::Full);
        }
        let filter: Arc<str> = Arc::from(filter);
        // The client's identifier is shared by all of its filters.
        let client = match self.by_client.get_key_value(client) {
            Some((client, _)) => client.clone(),
            None => Arc::from(client),
        };
        self.by_client.entry(client.clone()).or_default().push(filter.clone());
        self.holders.insert(filter, client);
        Ok(true)
    }

    /// The client's subscription of a filter (without `$exclusive/`) has ended. Whether it had it.
    pub fn release(&mut self, filter: &str, client: &str) -> bool {
        if self.holder(filter) != Some(client) {
            return false;
        }
        self.holders.remove(filter);
        if let Some((client, _)) = self.by_client.get_key_value(client)
            && let Entry::Occupied(mut entry) = self.by_client.entry(client.clone())
        {
            entry.get_mut().retain(|held| **held != *filter);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        true
    }

    /// The client's session has ended. How many subscriptions it had.
    pub fn release_client(&mut self, client: &str) -> usize {
        let filters = self.by_client.remove(client).unwrap_or_default();
        for filter in &filters {
            self.holders.remove(filter);
        }
        filters.len()
    }

    /// Who has the exclusive subscription of a filter.
    #[must_use]
    pub fn holder(&self, filter: &str) -> Option<&str> {
        self.holders.get(filter).map(|client| &**client)
    }

    /// How many exclusive subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn filters() {
        let settings = ExclusiveSettings::default();
        for (filter, parsed) in [
            ("t/1", None),
            ("$exclusive", None),
            ("$exclusivex/t", None),
            ("x/$exclusive/t", None),
            ("$share/g/t", None),
            ("$exclusive/t/1", Some(Ok("t/1"))),
            ("$exclusive/t/+/#", Some(Ok("t/+/#"))),
            ("$exclusive//", Some(Ok("/"))),
            ("$exclusive/$SYS/#", Some(Ok("$SYS/#"))),
            ("$exclusive/", Some(Err(ExclusiveError::Filter(TopicError::Empty)))),
            ("$exclusive/a/#/b", Some(Err(ExclusiveError::Filter(TopicError::MultiLevel)))),
            ("$exclusive/$share/g/t", Some(Err(ExclusiveError::Prefix))),
            ("$exclusive/$queue/t", Some(Err(ExclusiveError::Prefix))),
            ("$exclusive/$exclusive/t", Some(Err(ExclusiveError::Prefix))),
            ("$share/g/$exclusive/t", Some(Err(ExclusiveError::Prefix))),
            ("$queue/$exclusive/t", Some(Err(ExclusiveError::Prefix))),
        ] {
            assert_eq!(parse(filter, &settings), parsed, "{filter}");
        }
        let off = ExclusiveSettings { enabled: false, ..settings };
        assert_eq!(parse("$exclusive/t", &off), Some(Err(ExclusiveError::Disabled)));
        assert_eq!(parse("t", &off), None);
    }

    #[test]
    fn reason_codes() {
        for (error, code) in [
            (ExclusiveError::Disabled, 0x8F),
            (ExclusiveError::Prefix, 0x8F),
            (ExclusiveError::Filter(TopicError::Empty), 0x8F),
            (ExclusiveError::Taken, 0x97),
            (ExclusiveError::Full, 0x97),
        ] {
            assert_eq!(u8::from(error.reason_code()), code);
        }
    }

    #[test]
    fn one_at_a_time() {
        let mut table = ExclusiveTable::new(&ExclusiveSettings::default());
        assert_eq!(table.claim("t/1", "a"), Ok(true));
        assert_eq!(table.claim("t/1", "a"), Ok(false));
        assert_eq!(table.claim("t/1", "b"), Err(ExclusiveError::Taken));
        // Another filter, though it matches the same topics.
        assert_eq!(table.claim("t/+", "b"), Ok(true));
        assert!(!table.release("t/1", "b"), "not its own");
        assert_eq!(table.holder("t/1"), Some("a"));
        assert!(table.release("t/1", "a"));
        assert!(!table.release("t/1", "a"));
        assert_eq!(table.claim("t/1", "b"), Ok(true));
        assert_eq!(table.release_client("b"), 2);
        assert_eq!(table.release_client("b"), 0);
        assert!(table.is_empty() && table.by_client.is_empty());
    }

    #[test]
    fn bounded() {
        let settings = ExclusiveSettings { max_subscriptions: 1, ..ExclusiveSettings::default() };
        let mut table = ExclusiveTable::new(&settings);
        assert_eq!(table.claim("t/1", "a"), Ok(true));
        assert_eq!(table.claim("t/2", "a"), Err(ExclusiveError::Full));
        assert_eq!(table.claim("t/1", "a"), Ok(false));
        assert!(table.release("t/1", "a"));
        assert_eq!(table.claim("t/2", "a"), Ok(true));
    }

    proptest! {
        /// Against a map; both indexes agree.
        #[test]
        fn like_a_map(steps in prop::collection::vec((0_u8..4, 0_u8..4, 0_u8..3), 0..80)) {
            let mut table = ExclusiveTable::new(&ExclusiveSettings::default());
            let mut model: BTreeMap<u8, u8> = BTreeMap::new();
            for (step, filter, client) in steps {
                let (name, id) = (filter.to_string(), client.to_string());
                match step {
                    0 | 1 => {
                        let expected = match model.get(&filter) {
                            None => Ok(true),
                            Some(holder) if *holder == client => Ok(false),
                            Some(_) => Err(ExclusiveError::Taken),
                        };
                        prop_assert_eq!(table.claim(&name, &id), expected);
                        model.entry(filter).or_insert(client);
                    }
                    2 => {
                        let had = model.get(&filter) == Some(&client);
                        prop_assert_eq!(table.release(&name, &id), had);
                        if had {
                            model.remove(&filter);
                        }
                    }
                    _ => {
                        let before = model.len();
                        model.retain(|_, holder| *holder != client);
                        prop_assert_eq!(table.release_client(&id), before - model.len());
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.by_client.values().map(SmallVec::len).sum::<usize>(), model.len());
            }
        }
    }
}
