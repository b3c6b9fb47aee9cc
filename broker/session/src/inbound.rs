//! The acknowledgements owed to a client, in the order of its PUBLISH packets [MQTT-4.6.0-2].

use std::{collections::VecDeque, num::NonZeroU16};

use raftmq_mqtt::ReasonCode;

use crate::PublishToken;

/// PUBLISH packets with QoS 1 that are not acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// By order of arrival; the reason is there when the server is done with it.
    owed: VecDeque<(NonZeroU16, Option<ReasonCode>)>,
    /// The token of the first one.
    first: u64,
}

impl Inbound {
    pub(crate) fn len(&self) -> usize {
        self.owed.len()
    }

    pub(crate) fn begin(&mut self, packet_id: NonZeroU16) -> PublishToken {
        self.owed.push_back((packet_id, None));
        PublishToken(self.first + self.owed.len() as u64 - 1)
    }

    /// Notes that the server is done with a PUBLISH. What cannot be (an unknown token, a second time) is ignored.
    pub(crate) fn complete(&mut self, token: PublishToken, reason: ReasonCode) {
        let position = token.0.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some((_, done @ None)) = position.and_then(|at| self.owed.get_mut(at)) {
            *done = Some(reason);
        }
    }

    /// The next acknowledgement to send, if its turn has come.
    pub(crate) fn next(&mut self) -> Option<(NonZeroU16, ReasonCode)> {
        let &(packet_id, Some(reason)) = self.owed.front()? else {
            return None;
        };
        self.owed.pop_front();
        self.first += 1;
        // A burst does not stay in memory.
        if self.owed.is_empty() && self.owed.capacity() > 64 {
            self.owed = VecDeque::new();
        }
        Some((packet_id, reason))
    }
}
