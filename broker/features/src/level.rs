//! Names of clients and nodes as one level of a topic.

use std::borrow::Cow;
use std::fmt::Write as _;

const fn must_be_escaped(c: char) -> bool {
    matches!(c, '/' | '+' | '#' | '%' | '\0')
}

/// A text as one level of a topic name: `/`, `+`, `#` and U+0000, which would make more levels or an invalid topic
/// (`[MQTT-4.7.1-1]`, `[MQTT-4.7.1-2]`, `[MQTT-4.7.3-2]`), and `%` are written as `%2F`, `%2B`, `%23`, `%00` and `%25`. Different
/// texts give different levels; percent-decoding gives the text back.
#[must_use]
pub fn topic_level(text: &str) -> Cow<'_, str> {
    if !text.contains(must_be_escaped) {
        return Cow::Borrowed(text);
    }
    let mut level = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if must_be_escaped(c) {
            // Writing to a String cannot fail.
            let _ = write!(level, "%{:02X}", c as u32);
        } else {
            level.push(c);
        }
    }
    Cow::Owned(level)
}

/// `{before}{level of text}{after}`, at most `limit` bytes long: the level is cut, at a whole character, where it does not fit.
pub(crate) fn topic_with_level(before: &str, text: &str, after: &str, limit: usize) -> String {
    let level = topic_level(text);
    let room = limit.saturating_sub(before.len() + after.len());
    let level = &level[..level.floor_char_boundary(room)];
    [before, level, after].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use raftmq_mqtt::topic::{MAX_LENGTH, validate_topic};

    use super::*;

    #[test]
    fn escapes() {
        for (text, level) in [
            ("", ""),
            ("sensor-7", "sensor-7"),
            ("plant/7", "plant%2F7"),
            ("a+b#", "a%2Bb%23"),
            ("100%", "100%25"),
            ("\0", "%00"),
            ("größe", "größe"),
        ] {
            assert_eq!(topic_level(text), level);
        }
    }

    fn decoded(level: &str) -> String {
        let mut parts = level.split('%');
        let mut text = parts.next().unwrap().to_owned();
        for part in parts {
            text.push(u8::from_str_radix(&part[..2], 16).unwrap() as char);
            text.push_str(&part[2..]);
        }
        text
    }

    proptest! {
        #[test]
        fn always_one_level_of_a_valid_topic(text in "([a/+#%\u{0}é$]|\\PC){0,40}") {
            let level = topic_level(&text);
            prop_assert!(!level.contains('/'));
            let topic = format!("x/{level}");
            prop_assert!(validate_topic(&topic).is_ok());
            prop_assert_eq!(decoded(&level), text);
        }

        #[test]
        fn long_texts_are_cut(text in "[aé+]{0,60}", limit in 4_usize..60) {
            let topic = topic_with_level("b/", &text, "/e", limit);
            prop_assert!(topic.len() <= limit);
            prop_assert!(validate_topic(&topic).is_ok());
            prop_assert!(topic.starts_with("b/") && topic.ends_with("/e"));
        }
    }

    #[test]
    fn the_longest_client_identifier() {
        let topic = topic_with_level("$SYS/brokers/n/clients/", &"/".repeat(MAX_LENGTH), "/connected", MAX_LENGTH);
        assert_eq!(topic.len(), MAX_LENGTH);
        assert_eq!(validate_topic(&topic), Ok(()));
    }
}
