//! Rules for topic names and topic filters (MQTT 5, 4.7 and 4.8.2).

use thiserror::Error;

/// The most bytes that a topic name or filter may have (`[MQTT-4.7.3-3]`, `[MQTT311-4.7.3-3]`).
pub const MAX_LENGTH: usize = 65_535;

const SHARE: &str = "$share";

/// What is wrong with a topic name or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TopicError {
    /// It must have a character (`[MQTT-4.7.3-1]`, `[MQTT311-4.7.3-1]`).
    #[error("is empty")]
    Empty,
    /// It has more than [`MAX_LENGTH`] bytes (`[MQTT-4.7.3-3]`).
    #[error("is longer than 65535 bytes")]
    TooLong,
    /// It contains U+0000 (`[MQTT-4.7.3-2]`, `[MQTT311-4.7.3-2]`).
    #[error("contains U+0000")]
    Nul,
    /// A topic name contains `+` or `#` (`[MQTT-3.3.2-2]`, `[MQTT-4.7.0-1]`, `[MQTT311-4.7.1-1]`).
    #[error("contains a wildcard")]
    Wildcard,
    /// `#` is not alone in the last level (`[MQTT-4.7.1-1]`, `[MQTT311-4.7.1-2]`).
    #[error("has a '#' that is not alone in the last level")]
    MultiLevel,
    /// `+` is not alone in its level (`[MQTT-4.7.1-2]`, `[MQTT311-4.7.1-3]`).
    #[error("has a '+' that is not alone in its level")]
    SingleLevel,
    /// The share name of `$share/name/filter` is missing or contains a wildcard (`[MQTT-4.8.2-1]`, `[MQTT-4.8.2-2]`).
    #[error("has no valid share name")]
    ShareName,
    /// `$share/name` has no filter after it (`[MQTT-4.8.2-2]`).
    #[error("has a share name without a filter")]
    ShareFilter,
    /// It has more levels than this broker accepts.
    #[error("has more than {limit} levels")]
    TooManyLevels {
        /// The limit.
        limit: usize,
    },
}

/// Checks a topic name.
pub fn validate_topic(topic: &str) -> Result<(), TopicError> {
    validate_length(topic)?;
    // Mostly there is none, which is found without a branch for each byte.
    let is_bad = |byte: u8| (byte == 0) | (byte == b'+') | (byte == b'#');
    if topic.bytes().fold(false, |bad, byte| bad | is_bad(byte)) {
        let first = topic.bytes().find(|byte| is_bad(*byte));
        return Err(if first == Some(0) { TopicError::Nul } else { TopicError::Wildcard });
    }
    Ok(())
}

/// Checks a topic filter, `$share/name/filter` included.
pub fn validate_filter(filter: &str) -> Result<(), TopicError> {
    TopicFilter::parse(filter).map(|_| ())
}

/// Checks that a topic name or filter has at most `limit` levels.
pub fn validate_levels(topic: &str, limit: usize) -> Result<(), TopicError> {
    // A topic shorter than the limit cannot have more levels: most topics are not even looked at.
    if topic.len() >= limit && levels(topic).count() > limit {
        return Err(TopicError::TooManyLevels { limit });
    }
    Ok(())
}

/// The levels of a topic name or filter, first to last; levels may be empty.
pub fn levels(topic: &str) -> std::str::Split<'_, char> {
    topic.split('/')
}

/// Whether a filter has wildcards.
pub fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}

/// Whether a valid filter (without `$share/name/`) matches a valid topic name: the reference, level by level, that
/// indexes are tested against.
///
/// `#` also matches the level above it (4.7.1.2); wildcards in the first level do not match topics that begin with
/// `$` (`[MQTT-4.7.2-1]`, `[MQTT311-4.7.2-1]`). Nothing is normalised (`[MQTT-4.7.3-4]`, `[MQTT311-4.7.3-4]`).
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = levels(topic);
    for filter_level in levels(filter) {
        match (filter_level, topic_levels.next()) {
            ("#", _) => return true,
            (_, None) => return false,
            ("+", Some(_)) => {}
            (wanted, Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

/// A valid topic name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a topic name.
    pub fn parse(topic: &'a str) -> Result<Self, TopicError> {
        validate_topic(topic).map(|()| Self(topic))
    }

    /// The name.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, first to last.
    pub fn levels(self) -> std::str::Split<'a, char> {
        levels(self.0)
    }
}

/// A valid topic filter, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicFilter<'a> {
    full: &'a str,
    group: Option<&'a str>,
    filter: &'a str,
}

impl<'a> TopicFilter<'a> {
    /// Checks a topic filter. `$share/name/filter` is a shared subscription in every version of the protocol: topics
    /// that begin with `$` are the server's to give a meaning to.
    pub fn parse(full: &'a str) -> Result<Self, TopicError> {
        validate_length(full)?;
        let (group, filter) = split_share(full)?;
        validate_filter_levels(filter)?;
        Ok(Self { full, group, filter })
    }

    /// As the client wrote it.
    pub const fn as_str(self) -> &'a str {
        self.full
    }

    /// The share name of a shared subscription.
    pub const fn group(self) -> Option<&'a str> {
        self.group
    }

    /// What topics are matched against: without `$share/name/`.
    pub const fn filter(self) -> &'a str {
        self.filter
    }

    /// Whether [`filter`](Self::filter) has wildcards.
    pub fn has_wildcard(self) -> bool {
        has_wildcard(self.filter)
    }

    /// The levels of [`filter`](Self::filter), first to last.
    pub fn levels(self) -> std::str::Split<'a, char> {
        levels(self.filter)
    }

    /// Whether the filter matches a valid topic name.
    pub fn matches(self, topic: &str) -> bool {
        filter_matches(self.filter, topic)
    }
}

fn validate_length(topic: &str) -> Result<(), TopicError> {
    if topic.is_empty() {
        return Err(TopicError::Empty);
    }
    if topic.len() > MAX_LENGTH {
        return Err(TopicError::TooLong);
    }
    Ok(())
}

/// The share name and the filter after it; no share name for a filter that is not shared.
fn split_share(full: &str) -> Result<(Option<&str>, &str), TopicError> {
    let Some(rest) = full.strip_prefix(SHARE) else {
        return Ok((None, full));
    };
    if rest.is_empty() {
        return Err(TopicError::ShareName);
    }
    // `$sharex/…` is a topic like any other.
    let Some(rest) = rest.strip_prefix('/') else {
        return Ok((None, full));
    };
    let (name, filter) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty() || has_wildcard(name) {
        return Err(TopicError::ShareName);
    }
    if filter.is_empty() {
        return Err(TopicError::ShareFilter);
    }
    if name.contains('\0') {
        return Err(TopicError::Nul);
    }
    Ok((Some(name), filter))
}

fn validate_filter_levels(filter: &str) -> Result<(), TopicError> {
    if filter.contains('\0') {
        return Err(TopicError::Nul);
    }
    let mut rest = levels(filter).peekable();
    while let Some(level) = rest.next() {
        if level.contains('#') && (level != "#" || rest.peek().is_some()) {
            return Err(TopicError::MultiLevel);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::SingleLevel);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
