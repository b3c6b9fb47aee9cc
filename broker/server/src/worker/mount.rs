//! The mount point of a listener, where the server needs topics and filters as its clients write them.

use std::borrow::Cow;

use raftmq_features::split_prefix;

/// A filter of a session as the client wrote it.
pub(super) fn client_filter<'a>(mount: Option<&str>, full: &'a str) -> Cow<'a, str> {
    let Some(mount) = mount.filter(|mount| !mount.is_empty()) else {
        return Cow::Borrowed(full);
    };
    let (prefix, filter) = split_prefix(full);
    let own = filter.strip_prefix(mount).unwrap_or(filter);
    if prefix.is_empty() { Cow::Borrowed(own) } else { Cow::Owned([prefix, own].concat()) }
}

/// A filter that a client could have written as the session has it.
pub(super) fn mounted_filter(mount: Option<&str>, own: String) -> String {
    let Some(mount) = mount.filter(|mount| !mount.is_empty()) else {
        return own;
    };
    let (prefix, filter) = split_prefix(&own);
    [prefix, mount, filter].concat()
}

/// A topic of a session's message as the client wrote it: of a delayed one the mount point is behind the delay.
pub(super) fn client_topic<'a>(mount: Option<&str>, topic: &'a str) -> Cow<'a, str> {
    let Some(mount) = mount.filter(|mount| !mount.is_empty()) else {
        return Cow::Borrowed(topic);
    };
    let (delay, rest) = split_delay(topic);
    let own = rest.strip_prefix(mount).unwrap_or(rest);
    if delay.is_empty() { Cow::Borrowed(own) } else { Cow::Owned([delay, own].concat()) }
}

/// A topic that a client could have written as the session has it.
pub(super) fn mounted_topic(mount: Option<&str>, own: String) -> String {
    let Some(mount) = mount.filter(|mount| !mount.is_empty()) else {
        return own;
    };
    let (delay, rest) = split_delay(&own);
    [delay, mount, rest].concat()
}

/// `$delayed/seconds/` and what comes behind it.
fn split_delay(topic: &str) -> (&str, &str) {
    let prefix = ["$delayed/", "$delay/"].into_iter().find(|prefix| topic.starts_with(prefix));
    let end = prefix.and_then(|prefix| Some(prefix.len() + topic[prefix.len()..].find('/')? + 1));
    topic.split_at(end.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (own, full) in [
            ("a/+", "m/a/+"),
            ("$share/g/a", "$share/g/m/a"),
            ("$queue/a", "$queue/m/a"),
            ("$exclusive/a", "$exclusive/m/a"),
            ("$SYS/#", "m/$SYS/#"),
        ] {
            assert_eq!(mounted_filter(Some("m/"), own.into()), full);
            assert_eq!(client_filter(Some("m/"), full), own);
            assert_eq!(mounted_filter(None, own.into()), own);
            assert_eq!(client_filter(None, own), own);
        }
        for (own, full) in [("a", "m/a"), ("$delayed/5/a", "$delayed/5/m/a"), ("$delay/5/a/b", "$delay/5/m/a/b")] {
            assert_eq!(mounted_topic(Some("m/"), own.into()), full);
            assert_eq!(client_topic(Some("m/"), full), own);
            assert_eq!(client_topic(None, own), own);
        }
    }
}
