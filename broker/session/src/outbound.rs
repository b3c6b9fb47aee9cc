//! Messages to a client: in flight within its window, or waiting.

use std::{collections::VecDeque, num::NonZeroU16};

use raftmq_mqtt::{Message, QoS, Version};

use crate::{Flushed, Now, SessionLimits, forms, state::SubscriptionInfo};

/// What became of a message for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is in the write buffer.
    Sent(QoS),
    /// It waits for its turn.
    Queued,
    /// The subscription does not want it: no local.
    Skipped,
    /// It is lost to this client.
    Dropped(DropReason),
}

/// Why a message is lost to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue has as many messages or bytes as it may.
    QueueFull,
    /// It is larger than the client's maximum packet size [MQTT-3.1.2-25].
    TooLarge,
    /// It has expired.
    Expired,
    /// QoS 0, and the client is not connected.
    Offline,
}

impl DropReason {
    /// A stable name for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::Expired => "expired",
            Self::Offline => "offline",
        }
    }
}

/// A message with what a subscription makes of it.
#[derive(Debug, Clone)]
pub(crate) struct OutMessage {
    message: Message,
    sub_id: u32,
    qos: QoS,
    retain: bool,
}

impl OutMessage {
    /// With the lower QoS of the two [MQTT-3.8.4-8]. QoS 2 is not granted, so what is above 1 goes as 1.
    pub(crate) fn new(message: &Message, info: SubscriptionInfo) -> Self {
        Self {
            message: message.clone(),
            sub_id: info.sub_id,
            qos: effective_qos(message, info),
            retain: effective_retain(message, info),
        }
    }

    pub(crate) fn is_qos0(&self) -> bool {
        self.qos == QoS::AtMostOnce
    }

    fn cost(&self) -> usize {
        self.message.wire_len() + size_of::<Self>()
    }
}

pub(crate) fn effective_qos(message: &Message, info: SubscriptionInfo) -> QoS {
    message.qos().min(info.options.qos).min(QoS::AtLeastOnce)
}

pub(crate) fn effective_retain(message: &Message, info: SubscriptionInfo) -> bool {
    // [MQTT-3.3.1-12, 3.3.1-13]
    info.options.retain_as_published && message.retain()
}

/// The receiving client's terms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) version: Version,
    /// The most messages with QoS 1 in flight.
    pub(crate) window: usize,
    /// The largest packet in bytes.
    pub(crate) max_packet_size: usize,
}

/// Messages with QoS 1 in flight, and messages waiting.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// In the order of their first sending, which is also that of resending [MQTT-4.6.0-1].
    flight: VecDeque<(NonZeroU16, OutMessage)>,
    /// How many of them, from the front, were sent on this connection. The others are from an earlier one.
    sent: usize,
    queue: VecDeque<OutMessage>,
    queue_bytes: usize,
    /// Messages with QoS 0 in the queue: while there are any, a new one must not overtake them.
    queued_qos0: usize,
    last_id: u16,
}

impl Outbound {
    pub(crate) fn in_flight(&self) -> usize {
        self.flight.len()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    #[cfg(test)]
    pub(crate) fn sent_now(&self) -> usize {
        self.sent
    }

    /// A new connection: everything in flight is to be sent again.
    pub(crate) fn restart(&mut self) {
        self.sent = 0;
    }

    /// Whether a QoS 0 message may be written right away.
    pub(crate) fn may_send_qos0(&self) -> bool {
        self.queued_qos0 == 0
    }

    /// Whether a QoS 1 message may be written right away.
    pub(crate) fn may_send_qos1(&self, terms: Terms) -> bool {
        self.sent == self.flight.len() && self.queue.len() == self.queued_qos0 && self.sent < terms.window
    }

    /// Adds a message to the queue, or drops it if the limits are reached.
    pub(crate) fn enqueue(&mut self, limits: &SessionLimits, message: OutMessage) -> Delivery {
        let cost = message.cost();
        if self.queue.len() >= limits.max_queued_messages || self.queue_bytes + cost > limits.max_queued_bytes {
            return Delivery::Dropped(DropReason::QueueFull);
        }
        self.queue_bytes += cost;
        self.queued_qos0 += usize::from(message.is_qos0());
        self.queue.push_back(message);
        Delivery::Queued
    }

    /// Puts a QoS 1 message in flight as sent now, and gives its packet identifier.
    pub(crate) fn launch(&mut self, message: OutMessage) -> NonZeroU16 {
        let id = self.free_id();
        self.flight.push_back((id, message));
        self.sent += 1;
        id
    }

    /// Takes a PUBACK; says whether the identifier was in flight.
    pub(crate) fn acknowledge(&mut self, id: NonZeroU16) -> bool {
        let Some(at) = self.position(id) else {
            return false;
        };
        self.flight.remove(at);
        if at < self.sent {
            self.sent -= 1;
        }
        if self.flight.is_empty() && self.flight.capacity() > 64 {
            self.flight = VecDeque::new();
        }
        true
    }

    pub(crate) fn is_in_flight(&self, id: NonZeroU16) -> bool {
        self.position(id).is_some()
    }

    /// Sends again what an earlier connection left, then what waits, as far as the window goes. Says whether it did, or
    /// stopped because it wrote `bytes` or more.
    pub(crate) fn pump(&mut self, terms: Terms, now: Now, bytes: usize, out: &mut Vec<u8>) -> (Flushed, bool) {
        let mut flushed = Flushed::default();
        let full = out.len().saturating_add(bytes);
        while self.sent < self.flight.len().min(terms.window) {
            if out.len() >= full {
                return (flushed, false);
            }
            let (id, message) = &self.flight[self.sent];
            if write(message, terms, now, out, Some(*id), true) {
                self.sent += 1;
                flushed.sent_qos1 += 1;
            } else {
                self.flight.remove(self.sent);
                flushed.too_large += 1;
            }
        }
        // Older QoS 1 first; then the queue in its order, up to the first that the window stops.
        while self.sent == self.flight.len()
            && let Some(next) = self.queue.front()
            && (next.is_qos0() || self.sent < terms.window)
        {
            if out.len() >= full {
                return (flushed, false);
            }
            let message = self.dequeue().expect("there is a front");
            if message.message.is_expired(now.unix_ms) {
                flushed.expired += 1;
            } else if message.is_qos0() {
                if write(&message, terms, now, out, None, false) {
                    flushed.sent_qos0 += 1;
                } else {
                    flushed.too_large += 1;
                }
            } else {
                let id = self.free_id();
                if write(&message, terms, now, out, Some(id), false) {
                    self.flight.push_back((id, message));
                    self.sent += 1;
                    flushed.sent_qos1 += 1;
                } else {
                    flushed.too_large += 1;
                }
            }
        }
        (flushed, true)
    }

    fn dequeue(&mut self) -> Option<OutMessage> {
        let message = self.queue.pop_front()?;
        self.queue_bytes -= message.cost();
        self.queued_qos0 -= usize::from(message.is_qos0());
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        Some(message)
    }

    /// The next identifier that is not in flight [MQTT-2.2.1-3]. There is one: the window is far smaller than 65,535.
    fn free_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.last_id)
                && !self.is_in_flight(id)
            {
                return id;
            }
        }
    }

    fn position(&self, id: NonZeroU16) -> Option<usize> {
        // Mostly the first one.
        self.flight.iter().position(|(other, _)| *other == id)
    }
}

/// Writes a message; `false` if it is larger than the client takes, or no packet can carry it.
fn write(message: &OutMessage, terms: Terms, now: Now, out: &mut Vec<u8>, id: Option<NonZeroU16>, dup: bool) -> bool {
    let form = forms::encode(&message.message, terms.version, message.qos, message.retain, message.sub_id, now);
    match form {
        Ok(form) if form.encoded_len() <= terms.max_packet_size => {
            form.write(out, id, dup);
            true
        }
        _ => false,
    }
}
