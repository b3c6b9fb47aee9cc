//! What a publisher has in flight with QoS 1 and 2: packet identifiers and how far each has come.

use std::num::NonZeroU16;

/// How far a message with a packet identifier has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Free,
    /// PUBLISH was sent.
    Published,
    /// PUBREC came, PUBREL was sent.
    Released,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    step: Step,
    /// When the message was due, in nanoseconds.
    due: u64,
}

/// Identifier `n` is slot `n - 1`.
#[derive(Debug)]
pub(crate) struct Flight {
    slots: Vec<Slot>,
    free: Vec<NonZeroU16>,
}

impl Flight {
    /// With so many identifiers.
    pub(crate) fn new(window: u16) -> Self {
        let free = (1..=window).rev().filter_map(NonZeroU16::new).collect();
        Self { slots: vec![Slot { step: Step::Free, due: 0 }; usize::from(window)], free }
    }

    /// Uses no more than so many from now on (the server's Receive Maximum, MQTT 5, 3.3.4). Before the first one is taken.
    pub(crate) fn limit(&mut self, window: u16) {
        if usize::from(window) < self.slots.len() {
            *self = Self::new(window);
        }
    }

    /// An identifier for a message; `None` when all are in use.
    pub(crate) fn publish(&mut self, due: u64) -> Option<NonZeroU16> {
        let id = self.free.pop()?;
        self.slots[usize::from(id.get() - 1)] = Slot { step: Step::Published, due };
        Some(id)
    }

    /// Whether one can be taken.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// PUBACK, or a PUBREC with an error: when the message was due. `None`: nobody waits for it.
    pub(crate) fn acknowledged(&mut self, id: NonZeroU16) -> Option<u64> {
        self.end(id, Step::Published)
    }

    /// PUBREC: whether PUBREL is to be sent.
    pub(crate) fn received(&mut self, id: NonZeroU16) -> bool {
        match self.slots.get_mut(usize::from(id.get() - 1)) {
            Some(slot) if slot.step != Step::Free => {
                slot.step = Step::Released;
                true
            }
            _ => false,
        }
    }

    /// PUBCOMP: when the message was due.
    pub(crate) fn completed(&mut self, id: NonZeroU16) -> Option<u64> {
        self.end(id, Step::Released)
    }

    fn end(&mut self, id: NonZeroU16, step: Step) -> Option<u64> {
        let slot = self.slots.get_mut(usize::from(id.get() - 1)).filter(|slot| slot.step == step)?;
        slot.step = Step::Free;
        self.free.push(id);
        Some(slot.due)
    }
}

/// Which identifiers of a sender with QoS 2 are between PUBLISH and PUBREL (`[MQTT-4.3.3-10]`): a message that comes again under one
/// of them is not a new one.
#[derive(Debug, Default)]
pub(crate) struct Unreleased(Vec<u64>);

impl Unreleased {
    /// A PUBLISH: whether it is a new message.
    pub(crate) fn publish(&mut self, id: NonZeroU16) -> bool {
        // 8 KiB, of a subscriber that gets messages with QoS 2.
        if self.0.is_empty() {
            self.0.resize(1 << 10, 0);
        }
        let (word, bit) = (usize::from(id.get() >> 6), 1 << (id.get() & 63));
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// A PUBREL.
    pub(crate) fn release(&mut self, id: NonZeroU16) {
        if let Some(word) = self.0.get_mut(usize::from(id.get() >> 6)) {
            *word &= !(1 << (id.get() & 63));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn identifiers_are_free_again_when_acknowledged() {
        let mut flight = Flight::new(2);
        let (a, b) = (flight.publish(10).unwrap(), flight.publish(11).unwrap());
        assert_eq!((a.get(), b.get(), flight.publish(12), flight.has_room()), (1, 2, None, false));
        assert_eq!(flight.acknowledged(b), Some(11));
        assert_eq!(flight.acknowledged(b), None);
        assert_eq!(flight.publish(13), Some(b));
        // Exactly once: PUBCOMP counts after PUBREC only.
        assert_eq!(flight.completed(a), None);
        assert!(flight.received(a) && flight.received(a));
        assert_eq!(flight.acknowledged(a), None);
        assert_eq!(flight.completed(a), Some(10));
        assert!(!flight.received(a));
        assert!(!flight.received(NonZeroU16::MAX));
        flight.limit(7);
        assert!(flight.has_room(), "a limit above its own changes nothing");
        flight.limit(1);
        assert!(flight.publish(1).is_some() && !flight.has_room());
    }

    #[test]
    fn a_message_under_an_unreleased_identifier_is_the_same() {
        let mut unreleased = Unreleased::default();
        unreleased.release(NonZeroU16::MIN);
        for id in [1, 63, 64, u16::MAX].map(|id| NonZeroU16::new(id).unwrap()) {
            assert!(unreleased.publish(id));
            assert!(!unreleased.publish(id));
            unreleased.release(id);
            assert!(unreleased.publish(id));
        }
    }
}
