//! Identifiers of the client's QoS 2 messages, part of the session (MQTT 5, 4.1 and 4.3.3).

use std::{collections::VecDeque, num::NonZeroU16};

use raftmq_mqtt::ReasonCode;

use crate::PublishToken;

/// What is known of an identifier that comes with PUBLISH or PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// No message has it: PUBLISH brings a new one.
    No,
    /// Its message was handed on, and the server is not done with it.
    Pending,
    /// The server is done with it. It is kept until PUBREL.
    Done,
}

/// Messages with QoS 2 that were received and not released by PUBREL. At most 65,535, as there are identifiers.
#[derive(Debug, Default)]
pub(crate) struct Received {
    ids: IdSet,
    /// Those of an earlier connection that this one has not repeated: they do not count for the receive maximum, which
    /// begins anew with each connection (MQTT 5, 4.9).
    old: IdSet,
    /// Those that the server is not done with.
    pending: VecDeque<(PublishToken, NonZeroU16)>,
}

impl Received {
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.0.len()
    }

    /// How many came on this connection.
    pub(crate) fn here(&self) -> usize {
        self.ids.0.len() - self.old.0.len()
    }

    /// Whether it came on this connection.
    pub(crate) fn is_here(&self, id: NonZeroU16) -> bool {
        self.ids.contains(id) && !self.old.contains(id)
    }

    pub(crate) fn state(&self, id: NonZeroU16) -> Known {
        match self.ids.contains(id) {
            false => Known::No,
            true if self.pending.iter().any(|(_, pending)| *pending == id) => Known::Pending,
            true => Known::Done,
        }
    }

    /// Those of a durable session, as its shard knows them: all of an earlier connection, and none of them pending.
    pub(crate) fn of_shard(ids: &[NonZeroU16]) -> Self {
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        Self { ids: IdSet(sorted.into()), ..Self::default() }
    }

    /// A new connection begins.
    pub(crate) fn restart(&mut self) {
        self.old = self.ids.clone();
    }

    /// A new message.
    pub(crate) fn begin(&mut self, id: NonZeroU16, token: PublishToken) {
        self.ids.insert(id);
        self.pending.push_back((token, id));
    }

    /// The client sends it again on this connection.
    pub(crate) fn repeat(&mut self, id: NonZeroU16) {
        self.old.remove(id);
    }

    /// The server is done with a message. After an error the identifier is free again `[MQTT-4.3.3-9]`. `None` if the token
    /// is not of a message with QoS 2, or of one that it was done with before.
    pub(crate) fn complete(&mut self, token: PublishToken, reason: ReasonCode) -> Option<NonZeroU16> {
        // Mostly the first one.
        let at = self.pending.iter().position(|(pending, _)| *pending == token)?;
        let (_, id) = self.pending.remove(at)?;
        if reason.is_error() {
            self.release(id);
        }
        if self.pending.is_empty() && self.pending.capacity() > 64 {
            self.pending = VecDeque::new();
        }
        Some(id)
    }

    /// PUBREL has come, and PUBCOMP goes out: the identifier is free again `[MQTT-4.3.3-12]`.
    pub(crate) fn release(&mut self, id: NonZeroU16) {
        self.ids.remove(id);
        self.old.remove(id);
    }
}

/// Identifiers, sorted. Clients count them up, so that they come at the end and leave at the front.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdSet(VecDeque<NonZeroU16>);

impl IdSet {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn contains(&self, id: NonZeroU16) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// Whether it was not there.
    pub(crate) fn insert(&mut self, id: NonZeroU16) -> bool {
        let found = self.0.binary_search(&id);
        if let Err(at) = found {
            self.0.insert(at, id);
        }
        found.is_err()
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, id: NonZeroU16) -> bool {
        let found = self.0.binary_search(&id);
        if let Ok(at) = found {
            self.0.remove(at);
            if self.0.is_empty() && self.0.capacity() > 64 {
                self.0 = VecDeque::new();
            }
        }
        found.is_ok()
    }
}
