//! The subscribers of one filter: one in most cases, a hundred thousand in some.

use std::collections::HashMap;

use ahash::RandomState;

/// A sorted list is searched and moved quickly up to here; above, a map takes over.
const FEW: usize = 64;

/// Subscriber slots with their options. 16 bytes for options of at most 8.
// The boxes keep the common case, one subscriber, small.
#[allow(clippy::box_collection)]
pub(crate) enum Subscribers<O> {
    One(u32, O),
    Few(Box<Vec<(u32, O)>>),
    Many(Box<HashMap<u32, O, RandomState>>),
}

impl<O> Subscribers<O> {
    /// Adds a subscriber or replaces its options, which are then returned.
    pub(crate) fn insert(&mut self, subscriber: u32, options: O) -> Option<O> {
        match self {
            Self::One(slot, old) if *slot == subscriber => Some(std::mem::replace(old, options)),
            Self::One(..) => {
                let mut list = Vec::with_capacity(2);
                list.push((subscriber, options));
                let Self::One(slot, old) = std::mem::replace(self, Self::Few(Box::default())) else {
                    unreachable!("matched above")
                };
                list.insert(usize::from(slot > subscriber), (slot, old));
                *self = Self::Few(Box::new(list));
                None
            }
            Self::Few(list) => match list.binary_search_by_key(&subscriber, |(slot, _)| *slot) {
                Ok(at) => Some(std::mem::replace(&mut list[at].1, options)),
                Err(at) if list.len() < FEW => {
                    list.insert(at, (subscriber, options));
                    None
                }
                Err(_) => {
                    let mut map: HashMap<u32, O, RandomState> = list.drain(..).collect();
                    map.insert(subscriber, options);
                    *self = Self::Many(Box::new(map));
                    None
                }
            },
            Self::Many(map) => map.insert(subscriber, options),
        }
    }

    /// Removes a subscriber. [`Subscribers::is_empty`] must be asked before: the last one cannot be removed, only the whole.
    pub(crate) fn remove(&mut self, subscriber: u32) -> Option<O> {
        match self {
            Self::One(..) => None,
            Self::Few(list) => {
                let at = list.binary_search_by_key(&subscriber, |(slot, _)| *slot).ok()?;
                let (_, options) = list.remove(at);
                if list.len() == 1 {
                    let (slot, last) = list.pop().expect("one is left");
                    *self = Self::One(slot, last);
                }
                Some(options)
            }
            Self::Many(map) => {
                let options = map.remove(&subscriber)?;
                // Well below the border, so that churn around it does not convert each time.
                if map.len() <= FEW / 2 {
                    let mut list: Vec<_> = map.drain().collect();
                    list.sort_unstable_by_key(|(slot, _)| *slot);
                    *self = Self::Few(Box::new(list));
                }
                Some(options)
            }
        }
    }

    /// Whether this subscriber is the only one.
    pub(crate) fn is_only(&self, subscriber: u32) -> bool {
        matches!(self, Self::One(slot, _) if *slot == subscriber)
    }

    pub(crate) fn for_each(&self, mut each: impl FnMut(u32, &O)) {
        match self {
            Self::One(slot, options) => each(*slot, options),
            Self::Few(list) => list.iter().for_each(|(slot, options)| each(*slot, options)),
            Self::Many(map) => map.iter().for_each(|(slot, options)| each(*slot, options)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_subscriber_is_small() {
        assert_eq!(size_of::<Option<Subscribers<[u8; 8]>>>(), 16);
    }

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((0_u32..150, any::<Option<u8>>()), 1..600)) {
            let mut subscribers = Subscribers::One(7, 0);
            let mut model = HashMap::from([(7, 0)]);
            for (slot, value) in steps {
                match value {
                    Some(value) => prop_assert_eq!(subscribers.insert(slot, value), model.insert(slot, value)),
                    None if model.len() == 1 => prop_assert_eq!(subscribers.is_only(slot), model.contains_key(&slot)),
                    None => prop_assert_eq!(subscribers.remove(slot), model.remove(&slot)),
                }
                let mut all = HashMap::new();
                subscribers.for_each(|slot, value| { all.insert(slot, *value); });
                prop_assert_eq!(&all, &model);
            }
        }
    }
}
