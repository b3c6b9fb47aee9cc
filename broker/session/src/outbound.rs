//! Messages to a client: in flight within its window, or waiting.

use std::{collections::VecDeque, num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{Ack, Message, Packet, QoS};

use crate::{
    Flushed, Now, SessionLimits,
    connection::put,
    message::{Line, OutMessage},
};

/// The most messages in flight, those of earlier connections included: an identifier is always free, and found soon.
const MAX_FLIGHT: usize = 4_096;

/// What became of a message for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is in the write buffer.
    Sent(QoS),
    /// It waits for its turn.
    Queued,
    /// It waits for its turn, and so many that had waited longest are lost to make room for it.
    Displaced(u32),
    /// The subscription does not want it: no local, or a topic with `$` that its wildcards do not mean. Or it comes from the session's shard, by
    /// [`crate::Connection::on_granted`]: all above QoS 0 on a connection of a durable session, but what is shared.
    Skipped,
    /// It is lost to this client.
    Dropped(DropReason),
}

/// Why a message is lost to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue has as many messages or bytes as it may.
    QueueFull,
    /// It is larger than the client's maximum packet size `[MQTT-3.1.2-25]`.
    TooLarge,
    /// It has expired `[MQTT-3.3.2-5]`.
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

/// A packet of the client that goes on with a message in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The message is done with.
    Done,
    /// PUBREL is to be sent.
    Release,
    /// No message in flight has the identifier.
    Unknown,
    /// It is not what answers that message now.
    Wrong,
}

/// A message that was sent and not acknowledged to the end.
#[derive(Debug)]
struct Flight {
    id: NonZeroU16,
    /// The PUBLISH or PUBREL was sent on this connection.
    here: bool,
    /// Its PUBLISH was sent on this connection: it counts for the client's receive maximum.
    counted: bool,
    /// What to send again until PUBACK or PUBREC has come `[MQTT-4.3.3-3]` `[MQTT311-4.3.2-1]`; `None` once PUBREC has come: the
    /// PUBREL `[MQTT-4.3.3-6]` `[MQTT311-4.3.3-1]`.
    message: Option<OutMessage>,
}

/// Messages above QoS 0 in flight, and messages waiting.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// In the order of their first sending, which is also that of resending `[MQTT-4.6.0-1]` `[MQTT311-4.6.0-1]`.
    flight: VecDeque<Flight>,
    /// In the order of their arrival `[MQTT-4.6.0-5]` `[MQTT-4.6.0-6]` `[MQTT311-4.6.0-5]` `[MQTT311-4.6.0-6]`.
    queue: VecDeque<OutMessage>,
    queue_bytes: usize,
    /// No message of the queue expires before this Unix time in milliseconds; 0 if none of them does at all.
    first_expiry_ms: u64,
    /// Messages that expired in the queue and made room for others: the next [`Flushed`] has them.
    expired: u32,
    /// Messages with QoS 0 in the queue: while there are any, a new one must not overtake them.
    queued_qos0: u32,
    /// At least so many at the front of the queue are not dropped for a newer one above QoS 0, and for one with QoS 0: those are not
    /// looked at again.
    kept: [u16; 2],
    /// Everything in flight before this place was sent on this connection.
    resumed: u16,
    /// PUBRELs that are still to be sent on this connection.
    unsent_releases: u16,
    /// How many in flight are `counted`.
    counted: u16,
    last_id: u16,
    /// One of the identifiers in flight was there still when all others had been used since: they do not go up from the first to
    /// `last_id` any more.
    lapped: bool,
}

impl Outbound {
    pub(crate) fn in_flight(&self) -> usize {
        self.flight.len()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn counted(&self) -> usize {
        usize::from(self.counted)
    }

    /// A new connection: everything in flight is to be sent again `[MQTT-4.4.0-1]` `[MQTT311-4.4.0-1]`, also what is shared
    /// `[MQTT-4.8.2-4]`, and the window is open.
    pub(crate) fn restart(&mut self) {
        (self.resumed, self.counted, self.unsent_releases) = (0, 0, 0);
        for flight in &mut self.flight {
            (flight.here, flight.counted) = (false, false);
            self.unsent_releases += u16::from(flight.message.is_none());
        }
    }

    /// Whether a QoS 0 message may be written right away.
    pub(crate) fn may_send_qos0(&self) -> bool {
        self.queued_qos0 == 0
    }

    /// Whether a message above QoS 0 may be written right away.
    pub(crate) fn may_send(&self, window: u16) -> bool {
        usize::from(self.resumed) == self.flight.len()
            && self.queue.len() == self.queued_qos0 as usize
            && self.has_room(window)
    }

    /// How many more may be in flight.
    pub(crate) fn room(&self, window: u16) -> usize {
        usize::from(window.saturating_sub(self.counted)).min(MAX_FLIGHT.saturating_sub(self.flight.len()))
    }

    /// Whether one more may be in flight `[MQTT-3.3.4-9]` `[MQTT-4.9.0-2]`.
    fn has_room(&self, window: u16) -> bool {
        self.counted < window && self.flight.len() < MAX_FLIGHT
    }

    /// Adds a message to the queue. It is lost, or others are, if the limits are reached. What has expired there takes no room from it
    /// `[MQTT-3.3.2-5]`.
    pub(crate) fn enqueue(&mut self, limits: &SessionLimits, now: Now, message: OutMessage) -> Delivery {
        let cost = message.cost();
        let full = |outbound: &Self| {
            outbound.queue.len() >= limits.max_queued_messages
                || outbound.queue_bytes.saturating_add(cost) > limits.max_queued_bytes
        };
        let mut displaced = 0;
        if full(self) {
            self.drop_expired(now);
            if limits.drop_oldest && full(self) {
                displaced = self.drop_oldest(limits, &message);
            }
            if full(self) {
                return Delivery::Dropped(DropReason::QueueFull);
            }
        }
        self.queue_bytes += cost;
        if let Some(at) = message.expires_at_ms() {
            self.first_expiry_ms = if self.first_expiry_ms == 0 { at } else { self.first_expiry_ms.min(at) };
        }
        self.queued_qos0 += u32::from(message.is_qos0());
        self.queue.push_back(message);
        if displaced == 0 { Delivery::Queued } else { Delivery::Displaced(displaced) }
    }

    /// Makes room for a message by dropping those that wait longest: one with QoS 0 only such, since the publishers of the others know that
    /// they are kept. One that comes through a shared subscription drops none, and is not dropped: where there is no room for it another
    /// member of its group gets it. Nothing is dropped if that would not be enough. Says how many were.
    fn drop_oldest(&mut self, limits: &SessionLimits, newer: &OutMessage) -> u32 {
        let cost = newer.cost();
        if newer.share().is_some() || limits.max_queued_messages == 0 || cost > limits.max_queued_bytes {
            return 0;
        }
        let qos0 = newer.is_qos0();
        if qos0 && self.queued_qos0 == 0 {
            return 0;
        }
        let stays = |older: &OutMessage| if qos0 { !older.is_qos0() } else { older.share().is_some() };
        let mut first = usize::from(self.kept[usize::from(qos0)]);
        while self.queue.get(first).is_some_and(stays) {
            first += 1;
        }
        self.kept[usize::from(qos0)] = u16::try_from(first).unwrap_or(u16::MAX);
        let (mut messages, mut bytes) = (self.queue.len(), self.queue_bytes);
        let fits = |messages, bytes: usize| {
            messages < limits.max_queued_messages && bytes.saturating_add(cost) <= limits.max_queued_bytes
        };
        let mut end = first;
        while end < self.queue.len() && !fits(messages, bytes) {
            if !stays(&self.queue[end]) {
                (messages, bytes) = (messages - 1, bytes - self.queue[end].cost());
            }
            end += 1;
        }
        if !fits(messages, bytes) {
            return 0;
        }
        // Mostly the first one is enough, and the others do not move.
        let (mut at, mut count) = (first, 0);
        for _ in first..end {
            if stays(&self.queue[at]) {
                at += 1;
            } else if let Some(dropped) = self.queue.remove(at) {
                self.queue_bytes -= dropped.cost();
                self.queued_qos0 -= u32::from(dropped.is_qos0());
                self.kept.iter_mut().for_each(|kept| *kept -= u16::from(at < usize::from(*kept)));
                count += 1;
            }
        }
        count
    }

    /// Drops what has expired in the queue. Looks at nothing while nothing can have.
    fn drop_expired(&mut self, now: Now) {
        if self.first_expiry_ms == 0 || self.first_expiry_ms > now.unix_ms {
            return;
        }
        let dropped = self.drop_queued(|message| message.is_expired(now));
        self.expired = self.expired.saturating_add(dropped);
        self.first_expiry_ms = self.queue.iter().filter_map(OutMessage::expires_at_ms).min().unwrap_or(0);
    }

    /// Drops the messages with QoS 0 of the queue; says how many.
    pub(crate) fn drop_qos0(&mut self) -> u32 {
        if self.queued_qos0 == 0 { 0 } else { self.drop_queued(OutMessage::is_qos0) }
    }

    /// Forgets all messages above QoS 0.
    pub(crate) fn keep_qos0(&mut self) {
        (self.flight, self.lapped) = (VecDeque::new(), false);
        self.drop_queued(|message| !message.is_qos0());
    }

    fn drop_queued(&mut self, is_dropped: impl Fn(&OutMessage) -> bool) -> u32 {
        let before = self.queue.len();
        self.queue.retain(|message| !is_dropped(message));
        self.kept = [0; 2];
        self.queue_bytes = self.queue.iter().map(OutMessage::cost).sum();
        self.queued_qos0 = self.queue.iter().map(|message| u32::from(message.is_qos0())).sum();
        self.tidy_queue();
        u32::try_from(before - self.queue.len()).unwrap_or(u32::MAX)
    }

    /// Puts a message above QoS 0 in flight as sent now, and gives its packet identifier. Everything else in flight was sent.
    pub(crate) fn launch(&mut self, message: OutMessage) -> NonZeroU16 {
        let id = self.free_id();
        self.flight.push_back(Flight { id, here: true, counted: true, message: Some(message) });
        self.counted += 1;
        self.resumed += 1;
        id
    }

    /// Takes a PUBACK, which ends a message with QoS 1 `[MQTT-4.3.2-3]`, also with an error `[MQTT-4.4.0-2]`.
    pub(crate) fn puback(&mut self, id: NonZeroU16) -> Progress {
        let Some(at) = self.position(id) else {
            return Progress::Unknown;
        };
        match &self.flight[at].message {
            Some(message) if message.qos() == QoS::AtLeastOnce => {
                self.end(at);
                Progress::Done
            }
            _ => Progress::Wrong,
        }
    }

    /// Takes a PUBREC. An error ends the message `[MQTT-4.4.0-2]`, which nobody else gets instead `[MQTT-4.8.2-6]`; otherwise
    /// PUBREL is due, whether it was sent before or not `[MQTT-4.3.3-4]`.
    pub(crate) fn pubrec(&mut self, id: NonZeroU16, error: bool) -> Progress {
        let Some(at) = self.position(id) else {
            return Progress::Unknown;
        };
        let flight = &mut self.flight[at];
        match &flight.message {
            Some(message) if message.qos() != QoS::ExactlyOnce => return Progress::Wrong,
            _ if error => {
                self.end(at);
                return Progress::Done;
            }
            Some(_) => flight.message = None,
            None => self.unsent_releases -= u16::from(!flight.here),
        }
        flight.here = true;
        Progress::Release
    }

    /// Takes a PUBCOMP, which ends a message with QoS 2 `[MQTT-4.3.3-5]`.
    pub(crate) fn pubcomp(&mut self, id: NonZeroU16) -> Progress {
        let Some(at) = self.position(id) else {
            return Progress::Unknown;
        };
        if self.flight[at].message.is_some() {
            return Progress::Wrong;
        }
        self.end(at);
        Progress::Done
    }

    fn end(&mut self, at: usize) {
        let Some(flight) = self.flight.remove(at) else {
            return;
        };
        self.counted -= u16::from(flight.counted);
        self.unsent_releases -= u16::from(flight.message.is_none() && !flight.here);
        self.resumed -= u16::from(at < usize::from(self.resumed));
        if self.lapped && at == 0 {
            // The next identifier comes after the last one that was used: that one closes the order.
            let (first, last) = (self.first_id(), (!self.flight.is_empty()).then_some(self.last_id));
            let ids = self.flight.iter().map(|flight| flight.id.get()).chain(last);
            self.lapped = !ids.is_sorted_by_key(|id| id.wrapping_sub(first));
        }
        if self.flight.is_empty() && self.flight.capacity() > 64 {
            self.flight = VecDeque::new();
        }
    }

    /// Sends again what an earlier connection left, then what waits, as far as the window goes. Says whether it did, or
    /// stopped because it wrote `bytes` or more.
    pub(crate) fn pump(&mut self, line: &mut Line<'_>, bytes: usize) -> (Flushed, bool) {
        let mut flushed = Flushed { expired: std::mem::take(&mut self.expired), ..Flushed::default() };
        let full = line.out.len().saturating_add(bytes);
        let complete = self.resume(line, full, &mut flushed) && self.drain(line, full, &mut flushed);
        (flushed, complete)
    }

    /// PUBLISH with DUP `[MQTT-3.3.1-1]` `[MQTT311-3.3.1-1]` and PUBREL in their order; a PUBREL is not held back by the window
    /// `[MQTT-3.3.4-10]`. A message that was sent once does not expire any more `[MQTT-4.3.3-7]`.
    fn resume(&mut self, line: &mut Line<'_>, full: usize, flushed: &mut Flushed) -> bool {
        while let Some(flight) = self.flight.get_mut(usize::from(self.resumed)) {
            if line.out.len() >= full {
                return false;
            }
            match &flight.message {
                _ if flight.here => {}
                None => {
                    release(flight, line);
                    self.unsent_releases -= 1;
                }
                Some(message) if self.counted < line.terms.window => {
                    if !message.write(line, Some(flight.id), true) {
                        flushed.too_large += 1;
                        self.end(usize::from(self.resumed));
                        continue;
                    }
                    flushed.count(message.qos());
                    (flight.here, flight.counted) = (true, true);
                    self.counted += 1;
                }
                Some(_) => break,
            }
            self.resumed += 1;
        }
        if self.unsent_releases > 0 {
            for flight in self.flight.range_mut(usize::from(self.resumed)..) {
                if flight.message.is_none() && !flight.here {
                    release(flight, line);
                }
            }
            self.unsent_releases = 0;
        }
        true
    }

    /// The queue in its order, up to the first message that the window stops.
    fn drain(&mut self, line: &mut Line<'_>, full: usize, flushed: &mut Flushed) -> bool {
        while usize::from(self.resumed) == self.flight.len()
            && let Some(next) = self.queue.front()
            && (next.is_qos0() || self.has_room(line.terms.window))
        {
            if line.out.len() >= full {
                return false;
            }
            let message = self.dequeue().expect("there is a front");
            if message.is_expired(line.now) {
                // [MQTT-3.3.2-5]
                flushed.expired += 1;
                continue;
            }
            let id = if message.is_qos0() { None } else { Some(self.free_id()) };
            if !message.write(line, id, false) {
                flushed.too_large += 1;
                continue;
            }
            flushed.count(message.qos());
            if let Some(id) = id {
                self.flight.push_back(Flight { id, here: true, counted: true, message: Some(message) });
                self.counted += 1;
                self.resumed += 1;
            }
        }
        true
    }

    /// Takes out of the queue what came through shared subscriptions that `keep` does not know any more.
    pub(crate) fn take_unshared(&mut self, keep: impl Fn(&str) -> bool) -> Vec<(Arc<str>, Message)> {
        let gone = |message: &OutMessage| message.share().is_some_and(|share| !keep(share));
        if !self.queue.iter().any(gone) {
            return Vec::new();
        }
        let (taken, kept): (Vec<_>, VecDeque<_>) = {
            let mut kept = VecDeque::with_capacity(self.queue.len());
            let mut taken = Vec::new();
            for message in self.queue.drain(..) {
                if gone(&message) { taken.push(message) } else { kept.push_back(message) }
            }
            (taken, kept)
        };
        self.queue = kept;
        self.kept = [0; 2];
        self.queue_bytes -= taken.iter().map(OutMessage::cost).sum::<usize>();
        taken.into_iter().filter_map(OutMessage::into_shared).collect()
    }

    /// Ends everything, and gives what others of a shared subscription must get instead: what was not sent, and what was sent
    /// with QoS 1. A message with QoS 2 that was sent goes to nobody else `[MQTT-4.8.2-5]`.
    pub(crate) fn take_shared(&mut self) -> Vec<(Arc<str>, Message)> {
        let all = std::mem::take(self);
        let sent = all.flight.into_iter().filter_map(|flight| flight.message);
        let sent = sent.filter(|message| message.qos() == QoS::AtLeastOnce);
        sent.chain(all.queue).filter_map(OutMessage::into_shared).collect()
    }

    fn dequeue(&mut self) -> Option<OutMessage> {
        let message = self.queue.pop_front()?;
        self.kept = self.kept.map(|kept| kept.saturating_sub(1));
        self.queue_bytes -= message.cost();
        self.queued_qos0 -= u32::from(message.is_qos0());
        self.tidy_queue();
        Some(message)
    }

    fn tidy_queue(&mut self) {
        if self.queue.is_empty() {
            self.first_expiry_ms = 0;
            if self.queue.capacity() > 64 {
                self.queue = VecDeque::new();
            }
        }
    }

    /// The next identifier that is not in flight `[MQTT-2.2.1-4]` `[MQTT311-2.3.1-4]` `[MQTT-4.3.2-1]` `[MQTT-4.3.3-1]`. There is
    /// one: far fewer than 65,535 are in flight.
    fn free_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let Some(id) = NonZeroU16::new(self.last_id) else { continue };
            if !self.lapped && id.get() != self.first_id() {
                return id;
            }
            // The first one is met: those after it are where they were left.
            self.lapped = true;
            if !self.flight.iter().any(|flight| flight.id == id) {
                return id;
            }
        }
    }

    /// Of the messages in flight; 0 if there are none.
    fn first_id(&self) -> u16 {
        self.flight.front().map_or(0, |flight| flight.id.get())
    }

    fn position(&self, id: NonZeroU16) -> Option<usize> {
        if self.lapped {
            return self.flight.iter().position(|flight| flight.id == id);
        }
        let first = self.first_id();
        let distance = |id: NonZeroU16| id.get().wrapping_sub(first);
        // Mostly none in between is gone, and so it is that far from the first one.
        let guess = usize::from(distance(id));
        if self.flight.get(guess).is_some_and(|flight| flight.id == id) {
            return Some(guess);
        }
        self.flight.binary_search_by_key(&distance(id), |flight| distance(flight.id)).ok()
    }
}

fn release(flight: &mut Flight, line: &mut Line<'_>) {
    // Four bytes: a client that takes no packet of this size got no CONNACK either.
    put(&Packet::PubRel(Ack::success(flight.id)), line.terms.version, u32::MAX, line.out);
    flight.here = true;
}

impl Flushed {
    fn count(&mut self, qos: QoS) {
        match qos {
            QoS::AtMostOnce => self.sent_qos0 += 1,
            QoS::AtLeastOnce => self.sent_qos1 += 1,
            QoS::ExactlyOnce => self.sent_qos2 += 1,
        }
    }
}

#[cfg(test)]
mod tests;
