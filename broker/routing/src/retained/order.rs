//! Topics in the order of their levels: a topic comes right before the topics below it, and a subtree is one stretch.

use std::borrow::Borrow;
use std::cmp::Ordering;

use raftmq_mqtt::Message;

/// Something with a place among topics. (A trait, so that a set of messages can be asked for the place of a text without
/// making a message.)
pub(super) trait Place {
    fn bytes(&self) -> &[u8];
}

/// A message by its topic.
pub(super) struct ByTopic(pub(super) Message);

impl Place for ByTopic {
    fn bytes(&self) -> &[u8] {
        self.0.topic_bytes()
    }
}

impl Place for &[u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Bytes by value, but `/` before all others: no topic has a byte 0 [MQTT-4.7.3-2].
pub(super) fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let level = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).position(|(a, b)| a != b) {
        Some(at) => level(a[at]).cmp(&level(b[at])),
        None => a.len().cmp(&b.len()),
    }
}

/// The least byte that may stand in a level: a text and this byte come right after the text's subtree.
pub(super) const AFTER: u8 = 1;

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for dyn Place + '_ {}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.bytes(), other.bytes())
    }
}

impl<'a> Borrow<dyn Place + 'a> for ByTopic {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

// As the borrowed form, or the set would not find what it holds.
impl PartialEq for ByTopic {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for ByTopic {}

impl PartialOrd for ByTopic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByTopic {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.bytes(), other.bytes())
    }
}

/// A message by the time when it expires.
pub(super) struct ByExpiry(pub(super) u64, pub(super) ByTopic);

impl PartialEq for ByExpiry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByExpiry {}

impl PartialOrd for ByExpiry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByExpiry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0).then_with(|| self.1.cmp(&other.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_the_order_of_the_lists_of_levels(a in "[a\u{1}/$é]{0,6}", b in "[a\u{1}/$é]{0,6}") {
            let levels = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(compare(a.as_bytes(), b.as_bytes()), levels(&a).cmp(&levels(&b)));
        }

        #[test]
        fn after_is_right_after_the_subtree(a in "[a\u{1}/b]{1,4}", b in "[a\u{1}/b]{1,6}") {
            let after = [a.as_bytes(), &[AFTER]].concat();
            let below = b == a || b.starts_with(&format!("{a}/"));
            let before = compare(b.as_bytes(), a.as_bytes()).is_lt();
            prop_assert_eq!(compare(b.as_bytes(), &after).is_lt(), below || before);
        }
    }
}
