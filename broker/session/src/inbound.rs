//! The acknowledgements owed to a client, in the order of its PUBLISH packets `[MQTT-4.6.0-2]` `[MQTT-4.6.0-3]`.

use std::{collections::VecDeque, num::NonZeroU16};

use raftmq_mqtt::{QoS, ReasonCode};

use crate::PublishToken;

/// PUBLISH packets above QoS 0 of this connection that are not answered by PUBACK or PUBREC yet.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// By order of arrival.
    owed: VecDeque<Owed>,
    /// How many of them have QoS 1.
    qos1: usize,
}

/// An answer that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owed {
    /// The one of the server's that it waits for; `None` for a repeated PUBLISH, which waits with the first.
    pub(crate) token: Option<PublishToken>,
    pub(crate) packet_id: NonZeroU16,
    pub(crate) qos: QoS,
    /// There when the server is done with it.
    pub(crate) reason: Option<ReasonCode>,
}

impl Inbound {
    pub(crate) fn len(&self) -> usize {
        self.owed.len()
    }

    /// How many PUBLISH packets with QoS 1 wait for their answer.
    pub(crate) fn qos1(&self) -> usize {
        self.qos1
    }

    /// Whether a PUBLISH with this QoS and identifier waits for its answer.
    pub(crate) fn owes(&self, qos: QoS, packet_id: NonZeroU16) -> bool {
        self.owed.iter().any(|owed| owed.qos == qos && owed.packet_id == packet_id)
    }

    pub(crate) fn push(&mut self, owed: Owed) {
        self.qos1 += usize::from(owed.qos == QoS::AtLeastOnce);
        self.owed.push_back(owed);
    }

    /// Notes that the server is done with a PUBLISH with QoS 1. What cannot be (an unknown token, a second time) is ignored.
    pub(crate) fn complete(&mut self, token: PublishToken, reason: ReasonCode) {
        // Mostly the first one.
        if let Some(owed) = self.owed.iter_mut().find(|owed| owed.token == Some(token)) {
            owed.reason.get_or_insert(reason);
        }
    }

    /// Notes that the server is done with a PUBLISH with QoS 2, however often the client has sent it.
    pub(crate) fn complete_qos2(&mut self, packet_id: NonZeroU16, reason: ReasonCode) {
        for owed in &mut self.owed {
            if owed.qos == QoS::ExactlyOnce && owed.packet_id == packet_id {
                owed.reason.get_or_insert(reason);
            }
        }
    }

    /// The next answer to send, if its turn has come. A PUBACK is forgotten with it: its identifier is a new message's
    /// `[MQTT-4.3.2-5]`.
    pub(crate) fn next(&mut self) -> Option<(NonZeroU16, QoS, ReasonCode)> {
        let &Owed { packet_id, qos, reason: Some(reason), .. } = self.owed.front()? else {
            return None;
        };
        self.owed.pop_front();
        self.qos1 -= usize::from(qos == QoS::AtLeastOnce);
        // A burst does not stay in memory.
        if self.owed.is_empty() && self.owed.capacity() > 64 {
            self.owed = VecDeque::new();
        }
        Some((packet_id, qos, reason))
    }
}
