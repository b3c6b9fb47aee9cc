//! Topic rewrite: rules that change the topics of PUBLISH and the filters of SUBSCRIBE and UNSUBSCRIBE.
//!
//! As in EMQX
//! - A rule has an action (publish, subscribe or all), a source filter, a regular expression and a destination.
//! - Of the rules whose source filter matches, **the last one in the list** counts, and no other: if its regular expression
//!   finds nothing, the topic stays as it is. (EMQX's text says "in order, the first"; its code and its example read
//!   the list from the end.)
//! - A source filter matches a filter as if that were a topic: `x/#` matches the filter `x/+/y`, `x/1` does not match `x/+`.
//! - In the destination `$1`, `$2`, … stand for what the groups found, `${clientid}` and `${username}` for the client (the
//!   short forms `%c` and `%u` of earlier versions, too); `${host}`, `%h` and `${port}` are additions.
//! - Of a shared subscription only the filter is rewritten, not `$share/group/` or `$queue/`. Same for `$exclusive/`.
//! - A topic may be rewritten to `$delayed/{seconds}/…`. Rules see what the client sent: a delayed message is not rewritten
//!   again when its time comes.
//!
//! Decided here
//! - `$12` is group 12; a group or placeholder that does not exist is an error of the rule, not text.
//! - A rule that needs the user name of a client without one changes nothing.
//! - What comes out must be valid: if it is not, or if an identifier would bring in a wildcard, the client's request is
//!   refused instead of doing something else than the rules say.
//! - Regular expressions are those of the `regex` crate: linear time, no back-references and no look-around. They may match
//!   anywhere in the topic unless they say `^` and `$`.
//! - Topics are given without the mount point of the listener.

use raftmq_mqtt::ReasonCode;
use raftmq_mqtt::topic::{TopicError, filter_matches, validate_filter, validate_topic};
use regex::{Captures, Regex, RegexBuilder};
use thiserror::Error;

use crate::filter::split_prefix;
use crate::template::{ClientVars, FillError, Template, TemplateError};

/// The most rules: each message is compared with all of them.
pub const MAX_RULES: usize = 256;

/// The most memory for one compiled regular expression, in bytes.
const REGEX_SIZE: usize = 1 << 20;

/// What a rule applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewriteAction {
    /// The topics of PUBLISH.
    Publish,
    /// The filters of SUBSCRIBE and UNSUBSCRIBE.
    Subscribe,
    /// Both.
    All,
}

impl RewriteAction {
    const fn publishes(self) -> bool {
        matches!(self, Self::Publish | Self::All)
    }

    const fn subscribes(self) -> bool {
        matches!(self, Self::Subscribe | Self::All)
    }
}

/// A rule as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewriteRule {
    /// What it applies to.
    pub action: RewriteAction,
    /// Which topics it applies to.
    pub source: String,
    /// What takes the topic apart.
    pub regex: String,
    /// What it becomes.
    pub destination: String,
}

/// What is wrong with the rules; [`place`](Self::place) says where. Rules are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RewriteRuleError {
    /// More than [`MAX_RULES`].
    #[error("{count} rules are more than {MAX_RULES}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// The source is no filter.
    #[error("the filter {error}")]
    Source {
        /// The rule.
        rule: usize,
        /// What is wrong.
        error: TopicError,
    },
    /// The source has a prefix, which is not part of what it is compared with.
    #[error("'{prefix}' is not part of what is rewritten")]
    SourcePrefix {
        /// The rule.
        rule: usize,
        /// The prefix.
        prefix: String,
    },
    /// The regular expression is none, or is too large.
    #[error("{error}")]
    Regex {
        /// The rule.
        rule: usize,
        /// What is wrong, with the place.
        error: String,
    },
    /// A placeholder of the destination is wrong.
    #[error("{error}")]
    Destination {
        /// The rule.
        rule: usize,
        /// What is wrong, with the place.
        error: TemplateError,
    },
    /// Whatever the topic, the destination is no topic (or filter, for subscriptions).
    #[error("the topic {error}")]
    DestinationTopic {
        /// The rule.
        rule: usize,
        /// What is wrong.
        error: TopicError,
    },
    /// The destination would make a subscription a shared or exclusive one.
    #[error("'{prefix}' is not part of what is rewritten")]
    DestinationPrefix {
        /// The rule.
        rule: usize,
        /// The prefix.
        prefix: String,
    },
}

impl RewriteRuleError {
    /// The setting within the list of rules: `[0].source`, or nothing where it is the list itself.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::TooMany { .. } => String::new(),
            Self::Source { rule, .. } | Self::SourcePrefix { rule, .. } => format!("[{rule}].source"),
            Self::Regex { rule, .. } => format!("[{rule}].regex"),
            Self::Destination { rule, .. }
            | Self::DestinationTopic { rule, .. }
            | Self::DestinationPrefix { rule, .. } => format!("[{rule}].destination"),
        }
    }
}

/// Why a client's topic cannot be rewritten though a rule says so. Rules are counted from 0, as in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RewriteError {
    /// A placeholder cannot be filled.
    #[error("mqtt.rewrite[{rule}] {error}")]
    Fill {
        /// The rule.
        rule: usize,
        /// What is wrong.
        error: FillError,
    },
    /// What comes out is not valid.
    #[error("mqtt.rewrite[{rule}]: the topic {error}")]
    Topic {
        /// The rule.
        rule: usize,
        /// What is wrong.
        error: TopicError,
    },
    /// What comes out would be a shared or exclusive subscription.
    #[error("mqtt.rewrite[{rule}] makes a shared or exclusive subscription")]
    Prefix {
        /// The rule.
        rule: usize,
    },
}

impl RewriteError {
    /// The answer to a PUBLISH: Topic Name invalid, 0x90.
    pub const PUBLISH: ReasonCode = ReasonCode::TopicNameInvalid;
    /// The answer in SUBACK and UNSUBACK: Topic Filter invalid, 0x8F.
    pub const SUBSCRIBE: ReasonCode = ReasonCode::TopicFilterInvalid;
}

/// Compiled rules.
#[derive(Debug, Clone, Default)]
pub struct Rewriter {
    rules: Vec<Compiled>,
    publishes: bool,
    subscribes: bool,
}

#[derive(Debug, Clone)]
struct Compiled {
    action: RewriteAction,
    source: Box<str>,
    regex: Regex,
    destination: Template,
}

impl Rewriter {
    /// Compiles the rules, in the order of the configuration.
    ///
    /// # Errors
    /// The first rule that is wrong, and where.
    pub fn compile(rules: &[RewriteRule]) -> Result<Self, RewriteRuleError> {
        if rules.len() > MAX_RULES {
            return Err(RewriteRuleError::TooMany { count: rules.len() });
        }
        let compiled = rules.iter().enumerate().map(|(number, rule)| Compiled::new(number, rule));
        Ok(Self {
            rules: compiled.collect::<Result<_, _>>()?,
            publishes: rules.iter().any(|rule| rule.action.publishes()),
            subscribes: rules.iter().any(|rule| rule.action.subscribes()),
        })
    }

    /// Everything that is wrong with the rules, at most one thing a rule.
    #[must_use]
    pub fn check(rules: &[RewriteRule]) -> Vec<RewriteRuleError> {
        if rules.len() > MAX_RULES {
            return vec![RewriteRuleError::TooMany { count: rules.len() }];
        }
        rules.iter().enumerate().filter_map(|(number, rule)| Compiled::new(number, rule).err()).collect()
    }

    /// Whether any rule applies to PUBLISH: if not, [`topic`](Self::topic) need not be called.
    #[must_use]
    pub const fn publishes(&self) -> bool {
        self.publishes
    }

    /// Whether any rule applies to SUBSCRIBE and UNSUBSCRIBE.
    #[must_use]
    pub const fn subscribes(&self) -> bool {
        self.subscribes
    }

    /// The new topic of a PUBLISH; `None` if it stays as it is.
    ///
    /// # Errors
    /// A rule applies and what it makes is no topic name. Refuse the PUBLISH with [`RewriteError::PUBLISH`].
    pub fn topic(&self, topic: &str, client: &ClientVars<'_>) -> Result<Option<String>, RewriteError> {
        if !self.publishes {
            return Ok(None);
        }
        let Some((rule, new)) = self.apply(RewriteAction::publishes, topic, client)? else {
            return Ok(None);
        };
        validate_topic(&new).map_err(|error| RewriteError::Topic { rule, error })?;
        Ok(Some(new))
    }

    /// The new filter of a SUBSCRIBE or UNSUBSCRIBE, prefix included; `None` if it stays as it is.
    ///
    /// # Errors
    /// A rule applies and what it makes is no filter. Refuse it with [`RewriteError::SUBSCRIBE`].
    pub fn filter(&self, filter: &str, client: &ClientVars<'_>) -> Result<Option<String>, RewriteError> {
        if !self.subscribes {
            return Ok(None);
        }
        let (prefix, own) = split_prefix(filter);
        let Some((rule, new)) = self.apply(RewriteAction::subscribes, own, client)? else {
            return Ok(None);
        };
        if !split_prefix(&new).0.is_empty() {
            return Err(RewriteError::Prefix { rule });
        }
        let new = if prefix.is_empty() { new } else { [prefix, &new].concat() };
        validate_filter(&new).map_err(|error| RewriteError::Topic { rule, error })?;
        Ok(Some(new))
    }

    /// The number of the rule that counts and what it makes.
    fn apply(
        &self,
        applies: impl Fn(RewriteAction) -> bool,
        topic: &str,
        client: &ClientVars<'_>,
    ) -> Result<Option<(usize, String)>, RewriteError> {
        let last = self
            .rules
            .iter()
            .enumerate()
            .rfind(|(_, rule)| applies(rule.action) && filter_matches(&rule.source, topic));
        let Some((index, rule)) = last else {
            return Ok(None);
        };
        let Some(captures) = rule.regex.captures(topic) else {
            return Ok(None);
        };
        match rule.destination.fill(client, |number| group(&captures, number)) {
            Ok(new) if new == topic => Ok(None),
            Ok(new) => Ok(Some((index, new))),
            Err(FillError::NoUsername) => Ok(None),
            Err(error) => Err(RewriteError::Fill { rule: index, error }),
        }
    }
}

/// A group that took no part in the match found nothing.
fn group<'t>(captures: &Captures<'t>, number: usize) -> &'t str {
    captures.get(number).map_or("", |found| found.as_str())
}

impl Compiled {
    fn new(number: usize, rule: &RewriteRule) -> Result<Self, RewriteRuleError> {
        validate_filter(&rule.source).map_err(|error| RewriteRuleError::Source { rule: number, error })?;
        let (prefix, _) = split_prefix(&rule.source);
        if !prefix.is_empty() {
            return Err(RewriteRuleError::SourcePrefix { rule: number, prefix: prefix.to_owned() });
        }
        let regex = RegexBuilder::new(&rule.regex)
            .size_limit(REGEX_SIZE)
            .dfa_size_limit(REGEX_SIZE)
            .build()
            .map_err(|error| RewriteRuleError::Regex { rule: number, error: error.to_string() })?;
        let destination = Template::parse(&rule.destination, Some(regex.captures_len() - 1))
            .map_err(|error| RewriteRuleError::Destination { rule: number, error })?;
        let example = destination.example();
        let checked = if rule.action.publishes() { validate_topic(&example) } else { validate_filter(&example) };
        checked.map_err(|error| RewriteRuleError::DestinationTopic { rule: number, error })?;
        let (prefix, _) = split_prefix(&example);
        if rule.action.subscribes() && !prefix.is_empty() {
            return Err(RewriteRuleError::DestinationPrefix { rule: number, prefix: prefix.to_owned() });
        }
        Ok(Self { action: rule.action, source: rule.source.as_str().into(), regex, destination })
    }
}

#[cfg(test)]
mod tests;
