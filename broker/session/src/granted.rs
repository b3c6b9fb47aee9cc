//! Messages of a durable session whose queue is in a shard: what of it is under way on this connection.
//!
//! The shard has numbered them, and grants numbers before they are used, so that whoever sends a message again does so under the same
//! identifier. Of all that lasts, the connection keeps nothing: it knows what it has sent and what may come next for it, and says what
//! the client answers. What is not acknowledged when the connection ends, the shard gives to the next one.

use std::{collections::VecDeque, num::NonZeroU16};

use raftmq_mqtt::{Message, QoS};

/// A message to be sent under the identifier that belongs to its number.
#[derive(Debug, Clone, Copy)]
pub struct Granted<'a> {
    /// The packet identifier.
    pub packet_id: NonZeroU16,
    /// The message.
    pub message: &'a Message,
    /// The QoS, above 0.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// It may have been sent to an earlier connection `[MQTT-3.3.1-1]` `[MQTT311-3.3.1-1]`.
    pub dup: bool,
    /// The subscription identifiers `[MQTT-3.3.4-3]`.
    pub identifiers: &'a [u32],
    /// What is left of its expiry interval, in milliseconds; 0 if it is over: it is sent nevertheless, since the client may know of it
    /// `[MQTT-4.3.3-7]`. `None`: as the message itself says.
    pub lifetime_ms: Option<u64>,
}

/// What became of a granted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantedDelivery {
    /// It is in the write buffer.
    Sent,
    /// It is to be given again, before those that come after it, when [`crate::Connection::credits`] says so.
    NoCredit,
    /// The identifier is under way on this connection: nothing is sent twice `[MQTT-4.4.0-1]` `[MQTT311-4.4.0-1]`.
    UnderWay,
    /// It is larger than the client takes: the shard is to be told that it is done with, as if the client had acknowledged it
    /// `[MQTT-3.1.2-25]`.
    TooLarge,
    /// The client's subscriptions do not mean it: a topic with `$` behind the mount point. To be told to the shard likewise.
    Skipped,
}

/// What a client has answered to a granted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// PUBACK: the message is done with.
    Acked,
    /// PUBREC: the message is not needed any more, its identifier is. PUBREL is sent when the shard has committed that and
    /// [`crate::Connection::on_granted_release`] says so.
    Received,
    /// PUBCOMP: the identifier is free.
    Completed,
    /// PUBACK or PUBREC with an error: the message is done with `[MQTT-4.4.0-2]`.
    Refused,
}

/// What comes of a client's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The shard is to be told.
    Settled(Settlement),
    /// The shard was told, and has not committed it.
    Waits,
    /// PUBREL was sent, and is sent again.
    Release,
    /// Nothing that is under way has the identifier.
    Unknown,
    /// It is not what answers that message now.
    Wrong,
}

/// Where the exchange of an identifier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// PUBLISH with QoS 1 was sent.
    Sent1,
    /// PUBLISH with QoS 2 was sent.
    Sent2,
    /// PUBREC has come, and the shard was told.
    Received,
    /// PUBREL was sent.
    Released,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    id: NonZeroU16,
    state: State,
    /// Its PUBLISH was sent on this connection: it counts for the client's receive maximum.
    counted: bool,
}

/// What is under way on this connection: up to its window of messages, and identifiers past PUBREC of earlier connections, of which the shard
/// has 4,096 at most.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    /// In the order of sending. Mostly the first one is answered next.
    flights: VecDeque<Flight>,
    counted: u16,
}

impl Flights {
    /// How many messages more fit the window `[MQTT-3.3.4-9]` `[MQTT-4.9.0-2]`.
    pub(crate) fn room(&self, window: u16) -> u16 {
        window.saturating_sub(self.counted)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn counted(&self) -> usize {
        self.counted.into()
    }

    pub(crate) fn has(&self, id: NonZeroU16) -> bool {
        self.position(id).is_some()
    }

    /// A PUBLISH with an identifier that is not under way was sent.
    pub(crate) fn sent(&mut self, id: NonZeroU16, qos: QoS) {
        let state = if qos == QoS::ExactlyOnce { State::Sent2 } else { State::Sent1 };
        self.flights.push_back(Flight { id, state, counted: true });
        self.counted += 1;
    }

    /// The shard has committed PUBREC, on this connection or an earlier one; whether PUBREL is to be sent now. It does not count for the
    /// receive maximum if the message was not sent on this connection.
    pub(crate) fn release(&mut self, id: NonZeroU16) -> bool {
        let Some(at) = self.position(id) else {
            self.flights.push_back(Flight { id, state: State::Released, counted: false });
            return true;
        };
        let state = &mut self.flights[at].state;
        let due = matches!(state, State::Sent2 | State::Received);
        if due {
            *state = State::Released;
        }
        due
    }

    /// PUBACK ends a message with QoS 1 `[MQTT-4.3.2-3]`, also with an error `[MQTT-4.4.0-2]`.
    pub(crate) fn puback(&mut self, id: NonZeroU16, error: bool) -> Answer {
        let Some(at) = self.position(id) else { return Answer::Unknown };
        match self.flights[at].state {
            State::Sent1 => self.end(at, if error { Settlement::Refused } else { Settlement::Acked }),
            State::Sent2 | State::Received | State::Released => Answer::Wrong,
        }
    }

    /// PUBREC. An error ends the message `[MQTT-4.4.0-2]`; otherwise PUBREL is due once that is committed `[MQTT-4.3.3-4]`.
    pub(crate) fn pubrec(&mut self, id: NonZeroU16, error: bool) -> Answer {
        let Some(at) = self.position(id) else { return Answer::Unknown };
        match self.flights[at].state {
            State::Sent1 => Answer::Wrong,
            _ if error => self.end(at, Settlement::Refused),
            State::Sent2 => {
                self.flights[at].state = State::Received;
                Answer::Settled(Settlement::Received)
            }
            State::Received => Answer::Waits,
            State::Released => Answer::Release,
        }
    }

    /// PUBCOMP ends a message with QoS 2 `[MQTT-4.3.3-5]`.
    pub(crate) fn pubcomp(&mut self, id: NonZeroU16) -> Answer {
        let Some(at) = self.position(id) else { return Answer::Unknown };
        match self.flights[at].state {
            State::Released => self.end(at, Settlement::Completed),
            State::Sent1 | State::Sent2 | State::Received => Answer::Wrong,
        }
    }

    fn end(&mut self, at: usize, how: Settlement) -> Answer {
        if let Some(flight) = self.flights.remove(at) {
            self.counted -= u16::from(flight.counted);
        }
        // A burst does not stay in memory.
        if self.flights.is_empty() && self.flights.capacity() > 64 {
            self.flights = VecDeque::new();
        }
        Answer::Settled(how)
    }

    /// At most some 8,000 of 4 bytes are looked at.
    fn position(&self, id: NonZeroU16) -> Option<usize> {
        self.flights.iter().position(|flight| flight.id == id)
    }
}
