//! Prefixes of topic names and filters: the listener's mount point, and the ones that a broker gives a meaning to.

use std::{borrow::Cow, sync::Arc};

use raftmq_mqtt::topic::{self, TopicError, TopicFilter};

const SHARE: &str = "$share/";
const QUEUE: &str = "$queue/";
const EXCLUSIVE: &str = "$exclusive/";
/// `$delayed/seconds/topic`: what comes behind the seconds is the topic.
const DELAYED: [&str; 2] = ["$delayed/", "$delay/"];

/// A client's topic filter, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientFilter<'a> {
    /// `$share/group/`, `$queue/`, `$exclusive/` or nothing.
    prefix: &'a str,
    /// What topics are matched against.
    filter: &'a str,
}

impl<'a> ClientFilter<'a> {
    /// Checks a filter. A share name must be there and have no wildcards, a filter must come behind it `[MQTT-4.8.2-1]`
    /// `[MQTT-4.8.2-2]`; `$queue/` and `$exclusive/` need one too; and one such prefix is enough.
    pub(crate) fn parse(full: &'a str) -> Result<Self, TopicError> {
        let parsed = TopicFilter::parse(full)?;
        let filter = match parsed.group() {
            Some(_) => parsed.filter(),
            None => [QUEUE, EXCLUSIVE].iter().find_map(|prefix| full.strip_prefix(prefix)).unwrap_or(full),
        };
        let prefix = &full[..full.len() - filter.len()];
        if filter.is_empty() || (!prefix.is_empty() && has_prefix(filter)) {
            return Err(TopicError::ShareFilter);
        }
        Ok(Self { prefix, filter })
    }

    /// Whether its messages are shared among subscribers.
    pub(crate) fn is_shared(self) -> bool {
        self.prefix.starts_with(SHARE) || self.prefix == QUEUE
    }

    /// What topics are matched against.
    pub(crate) fn filter(self) -> &'a str {
        self.filter
    }

    pub(crate) fn has_wildcard(self) -> bool {
        topic::has_wildcard(self.filter)
    }

    /// The filter of the session: with the mount point behind the prefix. Nothing else is changed `[MQTT-4.7.3-4]`
    /// `[MQTT311-4.7.3-4]`.
    pub(crate) fn mounted(self, mount: Option<&str>) -> Arc<str> {
        match (self.prefix, mount.unwrap_or("")) {
            ("", "") => self.filter.into(),
            (prefix, mount) => [prefix, mount, self.filter].concat().into(),
        }
    }
}

fn has_prefix(filter: &str) -> bool {
    [SHARE, QUEUE, EXCLUSIVE].iter().any(|prefix| filter.starts_with(prefix))
}

/// A client's topic name with the mount point; that of a delayed message goes behind its seconds.
pub(crate) fn mounted_topic<'a>(mount: Option<&str>, topic: &'a str) -> Cow<'a, str> {
    let Some(mount) = mount.filter(|mount| !mount.is_empty()) else {
        return Cow::Borrowed(topic);
    };
    let delayed = DELAYED.iter().find(|prefix| topic.starts_with(**prefix)).and_then(|prefix| {
        let seconds = topic[prefix.len()..].find('/')?;
        Some(topic.split_at(prefix.len() + seconds + 1))
    });
    let (prefix, rest) = delayed.unwrap_or(("", topic));
    Cow::Owned([prefix, mount, rest].concat())
}

/// How many bytes of a topic name are the mount point of the client that it goes to.
pub(crate) fn mount_length(mount: Option<&str>, topic: &[u8]) -> usize {
    match mount {
        Some(mount) if topic.len() > mount.len() && topic.starts_with(mount.as_bytes()) => mount.len(),
        _ => 0,
    }
}

/// Whether a subscription of the session, as the client wrote it, may bring a topic that begins with `$` for the client: wildcards
/// at the beginning of a filter do not `[MQTT-4.7.2-1]` `[MQTT311-4.7.2-1]`, and behind a mount point the index cannot see that.
pub(crate) fn shows_hidden(full: &str, mount: &str, topic: &str) -> bool {
    ClientFilter::parse(full).is_ok_and(|parsed| {
        let own = parsed.filter.strip_prefix(mount).unwrap_or(parsed.filter);
        !own.starts_with(['+', '#']) && topic::filter_matches(parsed.filter, topic)
    })
}

/// Whether a group's filter is this one of a session: `$queue/filter` is the group `$share/$queue/filter`.
pub(crate) fn is_of_group(own: &str, group: &str) -> bool {
    own == group
        || matches!(
            (own.strip_prefix(QUEUE), group.strip_prefix("$share/$queue/")),
            (Some(own), Some(group)) if own == group
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_filters() {
        // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
        let table: [(&str, Option<(&str, bool)>); 14] = [
            ("a/+", Some(("m/a/+", false))),
            ("#", Some(("m/#", false))),
            ("$share/g/a/#", Some(("$share/g/m/a/#", true))),
            ("$share/g//", Some(("$share/g/m//", true))),
            ("$queue/a", Some(("$queue/m/a", true))),
            ("$exclusive/a", Some(("$exclusive/m/a", false))),
            ("$SYS/#", Some(("m/$SYS/#", false))),
            ("$queue", Some(("m/$queue", false))),
            ("$queue/", None),
            ("$exclusive/", None),
            ("$share/g", None),
            ("$share/g/$queue/a", None),
            ("$queue/$exclusive/a", None),
            ("$share//a", None),
        ];
        for (filter, expected) in table {
            let parsed = ClientFilter::parse(filter).ok();
            assert_eq!(
                parsed.map(|parsed| (parsed.mounted(Some("m/")).to_string(), parsed.is_shared())),
                expected.map(|(full, shared)| (full.to_owned(), shared)),
                "{filter}"
            );
            // [MQTT-4.7.3-4], [MQTT311-4.7.3-4]: without a mount point nothing is changed.
            assert!(parsed.is_none_or(|parsed| &*parsed.mounted(None) == filter));
        }
    }

    #[test]
    fn mounted_topics() {
        for (topic, expected) in [
            ("a", "m/a"),
            ("$SYS/a", "m/$SYS/a"),
            ("$delayed/5/a/b", "$delayed/5/m/a/b"),
            ("$delay/5/a", "$delay/5/m/a"),
            ("$delayed/a", "m/$delayed/a"),
        ] {
            assert_eq!(mounted_topic(Some("m/"), topic), expected);
            assert_eq!(mounted_topic(None, topic), topic);
        }
        assert_eq!(mount_length(Some("m/"), b"m/a"), 2);
        assert_eq!(mount_length(Some("m/"), b"m/"), 0, "something must be left");
        assert_eq!(mount_length(Some("m/"), b"n/a"), 0);
        assert_eq!(mount_length(None, b"m/a"), 0);
    }

    #[test]
    fn hidden_topics() {
        // [MQTT-4.7.2-1], [MQTT311-4.7.2-1]
        for (filter, expected) in
            [("m/#", false), ("m/+/a", false), ("m/$x/#", true), ("$share/g/m/$x/a", true), ("m/$y/#", false)]
        {
            assert_eq!(shows_hidden(filter, "m/", "m/$x/a"), expected, "{filter}");
        }
    }

    #[test]
    fn groups_by_both_names() {
        for (own, group, expected) in [
            ("$share/g/a", "$share/g/a", true),
            ("$queue/a", "$share/$queue/a", true),
            ("$queue/a", "$queue/a", true),
            ("$share/h/a", "$share/g/a", false),
            ("$queue/b", "$share/$queue/a", false),
        ] {
            assert_eq!(is_of_group(own, group), expected, "{own} {group}");
        }
    }
}
