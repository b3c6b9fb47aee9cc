//! Delayed publish: `$delayed/{seconds}/{topic}`, alias `$delay/{seconds}/{topic}`.
//!
//! A message to such a topic is published to `{topic}` later. As in EMQX
//! - `{seconds}` is a number of seconds up to the longest delay (4,294,967 by default, some 49 days), or, above that, the
//!   moment itself in seconds since the Unix epoch, which must be within the longest delay of now. A moment that has passed
//!   is now. (A number that is neither, such as ten million, is an error: nobody who meant four months wants the message
//!   at once.)
//! - `{topic}` may begin with `$`.
//!
//! Decided here
//! - The later message has the real topic and everything else of the message that the client sent, the retain flag
//!   included: it is kept when it is published, not before.
//! - The delay does not lengthen its life. Message expiry counts from its receipt by the server (MQTT 5, 3.3.2.3.3: the
//!   interval passes while the server holds the message), so a message that expires before it is due, or right then, is
//!   dropped when it comes in.
//! - `{topic}` may not be a delayed topic again.
//! - With a mount point, `$delayed/…` is looked for behind it, and the real topic is under the mount point.
//! - Whether the client may publish is asked for the real topic, when the message comes in, by whoever calls this.

mod queue;

use std::borrow::Cow;

use raftmq_mqtt::ReasonCode;
use raftmq_mqtt::topic::{TopicError, validate_topic};
use thiserror::Error;

pub use queue::{DelayCounts, DelayQueue, Pushed};

/// Settings of delayed publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayedSettings {
    /// Whether there is delayed publish. Without it such topics are like any other.
    pub enabled: bool,
    /// The longest delay, in seconds.
    pub max_delay_s: u32,
    /// How many messages may wait.
    pub max_messages: usize,
    /// How many bytes waiting messages may take, with what the queue needs for each.
    pub max_bytes: usize,
}

impl Default for DelayedSettings {
    fn default() -> Self {
        Self { enabled: true, max_delay_s: 4_294_967, max_messages: 1_000_000, max_bytes: 256 << 20 }
    }
}

/// Why a delayed topic is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DelayedError {
    /// Not digits, or far too many.
    #[error("the delay is not a number of seconds")]
    NotANumber,
    /// Neither a delay nor a moment that is allowed.
    #[error("the delay is longer than {max_delay_s} s, and no Unix time at most that far from now")]
    TooLong {
        /// The longest delay.
        max_delay_s: u32,
    },
    /// Nothing after the delay.
    #[error("there is no topic after the delay")]
    MissingTopic,
    /// A delayed topic in a delayed topic.
    #[error("the topic after the delay is delayed again")]
    Nested,
    /// What comes after the delay is no topic name.
    #[error("the topic after the delay {0}")]
    Topic(TopicError),
}

impl DelayedError {
    /// What to answer to the PUBLISH: Topic Name invalid, 0x90.
    #[must_use]
    pub const fn reason_code(self) -> ReasonCode {
        ReasonCode::TopicNameInvalid
    }
}

/// A delayed topic, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delayed<'a> {
    /// The topic to publish to.
    pub topic: Cow<'a, str>,
    /// When, in milliseconds since the Unix epoch.
    pub due_ms: u64,
}

/// Takes a topic apart if it is a delayed one; `None` for any other topic, and where delayed publish is off.
///
/// `mount_point` is what `topic` begins with because of its listener, or empty. `now_ms` is Unix time in milliseconds.
#[must_use]
pub fn parse<'a>(
    topic: &'a str,
    mount_point: &str,
    now_ms: u64,
    settings: &DelayedSettings,
) -> Option<Result<Delayed<'a>, DelayedError>> {
    let own = topic.strip_prefix(mount_point)?;
    let rest = after_prefix(own).filter(|_| settings.enabled)?;
    Some(parse_rest(rest, now_ms, settings.max_delay_s).map(|(topic, due_ms)| {
        let topic =
            if mount_point.is_empty() { Cow::Borrowed(topic) } else { Cow::Owned([mount_point, topic].concat()) };
        Delayed { topic, due_ms }
    }))
}

fn after_prefix(topic: &str) -> Option<&str> {
    topic.strip_prefix("$delayed/").or_else(|| topic.strip_prefix("$delay/"))
}

fn parse_rest(rest: &str, now_ms: u64, max_delay_s: u32) -> Result<(&str, u64), DelayedError> {
    let (delay, topic) = rest.split_once('/').unwrap_or((rest, ""));
    let due_ms = due(delay, now_ms, u64::from(max_delay_s))
        .map_err(|error| error.unwrap_or(DelayedError::TooLong { max_delay_s }))?;
    match validate_topic(topic) {
        Ok(()) if after_prefix(topic).is_some() => Err(DelayedError::Nested),
        Ok(()) => Ok((topic, due_ms)),
        Err(TopicError::Empty) => Err(DelayedError::MissingTopic),
        Err(error) => Err(DelayedError::Topic(error)),
    }
}

/// `Err(None)`: too long.
fn due(delay: &str, now_ms: u64, max_delay_s: u64) -> Result<u64, Option<DelayedError>> {
    // `parse` takes a sign, too.
    if delay.is_empty() || !delay.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Some(DelayedError::NotANumber));
    }
    let seconds: u64 = delay.parse().map_err(|_| None)?;
    if seconds <= max_delay_s {
        return Ok(now_ms.saturating_add(seconds * 1000));
    }
    let moment_ms = seconds.checked_mul(1000).ok_or(None)?;
    if moment_ms.abs_diff(now_ms) > max_delay_s * 1000 { Err(None) } else { Ok(moment_ms.max(now_ms)) }
}

#[cfg(test)]
mod tests;
