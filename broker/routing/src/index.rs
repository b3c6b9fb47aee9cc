//! Which subscribers of one worker want a topic.

use std::collections::HashMap;

use ahash::RandomState;

use crate::{shrink::shrink, subscribers::Subscribers, trie::Trie};

/// What [`SubscriptionIndex::insert`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Inserted<O> {
    /// The filter had no subscriber in this index before: the worker's route must be added.
    pub new_filter: bool,
    /// The options that this subscriber had on the filter, if the subscription was replaced.
    pub replaced: Option<O>,
}

/// What [`SubscriptionIndex::remove`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed<O> {
    /// The filter has no subscriber in this index any more: the worker's route must be removed.
    pub last_of_filter: bool,
    /// The options that the subscription had.
    pub options: O,
}

/// One worker's topic filters and their subscribers, which are numbered by the worker (slots).
///
/// `O` is what the worker wants to know of a subscription when it delivers; up to 8 bytes of it cost nothing extra.
/// Filters must have been validated. A subscriber of several filters that match a topic is reported once for each.
pub struct SubscriptionIndex<O> {
    exact: HashMap<Box<str>, Subscribers<O>, RandomState>,
    wild: Trie<Subscribers<O>>,
}

impl<O> Default for SubscriptionIndex<O> {
    fn default() -> Self {
        Self { exact: HashMap::default(), wild: Trie::new() }
    }
}

impl<O> SubscriptionIndex<O> {
    /// An index without subscriptions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscription, or replaces the options of the one that this subscriber has on the filter.
    pub fn insert(&mut self, filter: &str, subscriber: u32, options: O) -> Inserted<O> {
        let known = if is_wild(filter) { self.wild.get_mut(filter) } else { self.exact.get_mut(filter) };
        if let Some(subscribers) = known {
            return Inserted { new_filter: false, replaced: subscribers.insert(subscriber, options) };
        }
        let first = Subscribers::One(subscriber, options);
        if is_wild(filter) {
            self.wild.get_or_insert_with(filter, || first);
        } else {
            self.exact.insert(filter.into(), first);
        }
        Inserted { new_filter: true, replaced: None }
    }

    /// Removes a subscription; `None` if the subscriber has none on the filter.
    pub fn remove(&mut self, filter: &str, subscriber: u32) -> Option<Removed<O>> {
        let wild = is_wild(filter);
        let subscribers = if wild { self.wild.get_mut(filter) } else { self.exact.get_mut(filter) }?;
        if !subscribers.is_only(subscriber) {
            return subscribers.remove(subscriber).map(|options| Removed { last_of_filter: false, options });
        }
        let last = if wild { self.wild.remove(filter) } else { self.exact.remove(filter) };
        shrink(&mut self.exact);
        match last {
            Some(Subscribers::One(_, options)) => Some(Removed { last_of_filter: true, options }),
            _ => unreachable!("the filter was found above with this one subscriber"),
        }
    }

    /// Calls `found` with every subscription that matches a topic name [MQTT5 4.7], and with no other one
    /// `[MQTT-3.3.2-3]` `[MQTT311-3.3.2-3]`, in no order.
    pub fn matches(&self, topic: &str, mut found: impl FnMut(u32, &O)) {
        if let Some(subscribers) = self.exact.get(topic) {
            subscribers.for_each(&mut found);
        }
        self.wild.matches(topic, |subscribers| subscribers.for_each(&mut found));
    }

    /// The number of distinct filters.
    #[must_use]
    pub fn filters(&self) -> usize {
        self.exact.len() + self.wild.len()
    }

    /// About the bytes that the filters take, without the lists of filters with several subscribers. Walks the index: for
    /// metrics read now and then.
    #[must_use]
    pub fn memory(&self) -> usize {
        let texts: usize = self.exact.keys().map(|filter| filter.len()).sum();
        texts + self.exact.capacity() * size_of::<(Box<str>, Subscribers<O>)>() + self.wild.memory()
    }

    /// Calls `each` with every filter, in no order.
    pub fn for_each_filter(&self, mut each: impl FnMut(&str)) {
        self.exact.keys().for_each(|filter| each(filter));
        self.wild.for_each(|filter, _| each(filter));
    }
}

/// Whether a (valid) filter has a wildcard.
pub(crate) fn is_wild(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// [MQTT5 4.7] read literally, as reference.
    pub(crate) fn naive_matches(filter: &str, topic: &str) -> bool {
        if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
            return false;
        }
        let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
        loop {
            match (filter.next(), topic.next()) {
                (Some("#"), _) => return true,
                (Some("+"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }

    #[test]
    fn specification_examples() {
        // [MQTT5 4.7.1.2, 4.7.1.3, 4.7.2]
        let table = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true),
            ("#", "/", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/a", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ];
        for (filter, topic, expected) in table {
            let mut index = SubscriptionIndex::new();
            index.insert(filter, 1, ());
            let mut found = false;
            index.matches(topic, |_, ()| found = true);
            assert_eq!(found, expected, "{filter} {topic}");
            assert_eq!(naive_matches(filter, topic), expected, "reference: {filter} {topic}");
        }
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just(""), Just("a"), Just("b"), Just("+"), Just("$x")];
        (prop::collection::vec(level, 1..5), 0..4).prop_map(|(mut levels, all)| {
            if all == 0 {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just(""), Just("a"), Just("b"), Just("$x")], 1..6)
            .prop_map(|levels| levels.join("/"))
    }

    proptest! {
        /// All that match and nothing else [MQTT-3.3.2-3] [MQTT311-3.3.2-3].
        #[test]
        fn equals_a_list_of_filters(
            steps in prop::collection::vec((filter(), 0_u32..4, any::<Option<u8>>()), 1..120),
            topics in prop::collection::vec(topic(), 1..20),
        ) {
            let mut index = SubscriptionIndex::new();
            let mut model: BTreeMap<(String, u32), u8> = BTreeMap::new();
            for (filter, slot, value) in steps {
                let others = model.keys().filter(|(f, s)| *f == filter && *s != slot).count();
                match value {
                    Some(value) => {
                        let replaced = model.insert((filter.clone(), slot), value);
                        let expected = Inserted { new_filter: others == 0 && replaced.is_none(), replaced };
                        prop_assert_eq!(index.insert(&filter, slot, value), expected);
                    }
                    None => {
                        let expected = model.remove(&(filter.clone(), slot))
                            .map(|options| Removed { last_of_filter: others == 0, options });
                        prop_assert_eq!(index.remove(&filter, slot), expected);
                    }
                }
            }
            for topic in topics {
                let mut found = Vec::new();
                index.matches(&topic, |slot, value| found.push((slot, *value)));
                found.sort_unstable();
                let mut expected: Vec<_> = model.iter()
                    .filter(|((filter, _), _)| naive_matches(filter, &topic))
                    .map(|((_, slot), value)| (*slot, *value)).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected, "{}", topic);
            }
        }
    }
}
