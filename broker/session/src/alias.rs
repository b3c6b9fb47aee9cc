//! Topic aliases of an MQTT 5 client's PUBLISH packets (MQTT 5, 3.3.2.3.4).

use raftmq_mqtt::{Publish, ReasonCode};

use crate::SessionLimits;

/// The topics behind the aliases of one connection, with which they end `[MQTT-3.3.2-7]`.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    /// By alias, from 1 on; empty where there is none.
    topics: Vec<Box<str>>,
    bytes: usize,
}

impl Aliases {
    /// Takes note of the alias of a PUBLISH that has one, and says why it may not have it. Afterwards
    /// [`Aliases::topic`] knows its topic. Every alias up to the maximum is taken `[MQTT-3.3.2-12]`.
    pub(crate) fn note(&mut self, alias: u16, publish: &Publish<'_>, limits: &SessionLimits) -> Result<(), ReasonCode> {
        // [MQTT-3.3.2-8]
        if alias == 0 || alias > limits.max_topic_aliases {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let at = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            let known = self.topics.get(at).is_some_and(|topic| !topic.is_empty());
            return if known { Ok(()) } else { Err(ReasonCode::ProtocolError) };
        }
        let old = self.topics.get(at).map_or("", |topic| topic);
        if old == publish.topic {
            return Ok(());
        }
        let bytes = self.bytes - old.len() + publish.topic.len();
        if bytes > limits.max_topic_alias_bytes {
            return Err(ReasonCode::QuotaExceeded);
        }
        self.bytes = bytes;
        if self.topics.len() <= at {
            self.topics.resize(at + 1, Box::default());
        }
        self.topics[at] = publish.topic.into();
        Ok(())
    }

    /// The topic of an alias that was noted.
    pub(crate) fn topic(&self, alias: u16) -> &str {
        usize::from(alias).checked_sub(1).and_then(|at| self.topics.get(at)).map_or("", |topic| topic)
    }
}
