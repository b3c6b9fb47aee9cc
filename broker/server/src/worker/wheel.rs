//! Deadlines of a worker's connections.
//!
//! A million keep-alives must cost next to nothing while their clients are alive, so a deadline that moves
//! later is not moved in the wheel: the entry stays where it is and is looked at again when it fires. Nor does one fire later than one turn
//! of the wheel from now: whoever has a later deadline files it again then, and what is there no more is forgotten. So an entry
//! takes 8 bytes, and nothing is left for long of a session that was to be kept for years and was discarded.
//! A tick is coarse, because MQTT's time-outs are seconds.

/// Milliseconds a tick: deadlines fire up to this much late, never early.
const TICK_MS: u64 = 128;
/// Ticks of one turn: about two minutes.
const SLOTS: usize = 1024;

/// Names one connection of a worker: a slot that is used again has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Index in the worker's slab.
    pub(crate) slot: u32,
    /// Generation of that slot.
    pub(crate) generation: u32,
}

/// A hashed timing wheel. Time is in milliseconds since any fixed moment.
pub(crate) struct Wheel {
    slots: Vec<Vec<Key>>,
    /// The next tick to be looked at.
    tick: u64,
}

impl Wheel {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), tick: now_ms / TICK_MS }
    }

    /// Adds an entry that fires at the first tick after `deadline_ms`, or after one turn if that is earlier: gives the time that it
    /// fires after.
    #[must_use]
    pub(crate) fn insert(&mut self, key: Key, deadline_ms: u64) -> u64 {
        let filed_ms = deadline_ms.min((self.tick + SLOTS as u64 - 2) * TICK_MS);
        let tick = (filed_ms / TICK_MS + 1).max(self.tick);
        self.slots[(tick as usize) % SLOTS].push(key);
        filed_ms
    }

    /// Moves every entry that is due at `now_ms` to `due`.
    pub(crate) fn advance(&mut self, now_ms: u64, due: &mut Vec<Key>) {
        let target = now_ms / TICK_MS;
        // After a long pause one full turn sees every slot.
        let first = self.tick.max(target.saturating_sub(SLOTS as u64 - 1));
        for tick in first..=target {
            // What is in a slot is for this tick: the next turn's is filed when this one is over.
            let slot = &mut self.slots[(tick as usize) % SLOTS];
            due.append(slot);
            if slot.capacity() > 64 {
                *slot = Vec::new();
            }
        }
        self.tick = self.tick.max(target + 1);
    }

    /// How often [`Wheel::advance`] wants to be called.
    pub(crate) const fn period() -> std::time::Duration {
        std::time::Duration::from_millis(TICK_MS)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(slot: u32) -> Key {
        Key { slot, generation: 0 }
    }

    #[test]
    fn fires_after_the_deadline_and_never_before() {
        for deadline in [0, 1, 127, 128, 129, 5_000, 130_815, 130_816, 131_072, 131_073, 900_000] {
            let mut wheel = Wheel::new(0);
            let mut filed = wheel.insert(key(1), deadline);
            let mut due = Vec::new();
            let mut now = 0;
            let mut looks = 0;
            while due.is_empty() {
                assert!(now <= deadline + 2 * TICK_MS, "{deadline} has not fired at {now}");
                now += 50;
                wheel.advance(now, &mut due);
                if !due.is_empty() && filed < deadline {
                    // As its owner does.
                    assert!(filed < now);
                    due.clear();
                    filed = wheel.insert(key(1), deadline);
                    looks += 1;
                }
            }
            assert!(looks <= deadline / 130_000, "{deadline} was looked at {looks} times");
            assert!(now > deadline, "{deadline} fired at {now}");
            assert_eq!(due, [key(1)]);
            wheel.advance(now + 10_000_000, &mut due);
            assert_eq!(due.len(), 1, "fires once");
        }
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let mut wheel = Wheel::new(0);
        for n in 0..5_000 {
            let _ = wheel.insert(key(n), u64::from(n) * 100);
        }
        let mut due = Vec::new();
        wheel.advance(10_000_000, &mut due);
        assert_eq!(due.len(), 5_000);
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_the_next_call() {
        let mut wheel = Wheel::new(1_000_000);
        assert_eq!(wheel.insert(key(1), 3), 3);
        let mut due = Vec::new();
        wheel.advance(1_000_200, &mut due);
        assert_eq!(due, [key(1)]);
    }

    /// Sessions that are to be kept for 136 years, and are discarded.
    #[test]
    fn nothing_is_left_of_what_is_gone() {
        let mut wheel = Wheel::new(0);
        let mut now = 0;
        let mut due = Vec::new();
        let mut most = 0;
        for n in 0..20_000 {
            let _ = wheel.insert(key(n), 4_294_967_295_000);
            now += 100;
            wheel.advance(now, &mut due);
            due.clear();
            most = most.max(wheel.slots.iter().map(Vec::len).sum::<usize>());
        }
        assert!(most < 1_400, "{most} are left");
    }
}
