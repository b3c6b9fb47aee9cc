//! Which shard a name belongs to.
//!
//! Client identifiers, topic names and names of groups are hashed into [`SLOTS`] slots, and a [`SlotMap`] says which shard has a
//! slot, so that shards can be split later without hashing anything again. The hash is FNV-1a, 64 bits, over the namespace (four
//! bytes, little endian) and the bytes of the name, then the finaliser of MurmurHash3; the slot is the highest 12 bits. Part of
//! the replicated format: it is never changed.

/// The number of slots.
pub const SLOTS: u16 = 4_096;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The slot of a name.
#[must_use]
pub fn slot(namespace: u32, name: &str) -> u16 {
    let hash = fnv(fnv(FNV_OFFSET, &namespace.to_le_bytes()), name.as_bytes());
    (finish(hash) >> 52) as u16
}

/// Goes on with a hash of bytes.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// Spreads a hash over all its bits.
pub(crate) fn finish(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// A set of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSet([u64; 64]);

impl SlotSet {
    /// None.
    pub const EMPTY: Self = Self([0; 64]);
    /// All.
    pub const ALL: Self = Self([u64::MAX; 64]);

    /// Whether a slot is in it.
    #[must_use]
    pub fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot / 64)).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Adds a slot, if there is one of that number.
    pub fn insert(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word |= 1 << (slot % 64);
        }
    }

    pub(crate) fn words(&self) -> &[u64; 64] {
        &self.0
    }

    pub(crate) fn from_words(words: [u64; 64]) -> Self {
        Self(words)
    }
}

/// Which shard has which slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMap {
    /// Grows with each change. Batches carry the epoch of the map that they were made with.
    pub epoch: u64,
    shards: Vec<u16>,
}

impl SlotMap {
    /// The slots in as many runs of the same length (within one) as there are shards, which are numbered from 0.
    #[must_use]
    pub fn even(epoch: u64, shards: u16) -> Self {
        let shards = u32::from(shards.clamp(1, SLOTS));
        let shard = |slot: u32| (slot * shards / u32::from(SLOTS)) as u16;
        Self { epoch, shards: (0..u32::from(SLOTS)).map(shard).collect() }
    }

    /// The shard of a name.
    #[must_use]
    pub fn shard(&self, namespace: u32, name: &str) -> u16 {
        self.shards[usize::from(slot(namespace, name))]
    }

    /// The slots of a shard.
    #[must_use]
    pub fn slots(&self, shard: u16) -> SlotSet {
        let mut set = SlotSet::EMPTY;
        (0..SLOTS).filter(|slot| self.shards[usize::from(*slot)] == shard).for_each(|slot| set.insert(slot));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_stable_across_builds() {
        // Part of the replicated format.
        let known = [(0, ""), (0, "a"), (1, "a"), (0, "sensors/room-1/temperature")].map(|(ns, name)| slot(ns, name));
        assert_eq!(known, [1235, 155, 3383, 4059]);
    }

    #[test]
    fn names_spread_over_the_slots() {
        let mut count = vec![0_u32; usize::from(SLOTS)];
        (0..409_600).for_each(|n| count[usize::from(slot(0, &format!("device-{n}")))] += 1);
        assert!(count.iter().all(|n| (50..160).contains(n)), "{:?}", (count.iter().min(), count.iter().max()));
    }

    #[test]
    fn each_slot_has_one_shard_and_shards_are_even() {
        for shards in [1, 3, 16, 128] {
            let map = SlotMap::even(1, shards);
            let sizes: Vec<usize> = (0..shards)
                .map(|shard| map.slots(shard))
                .map(|slots| (0..SLOTS).filter(|slot| slots.contains(*slot)).count())
                .collect();
            assert_eq!(sizes.iter().sum::<usize>(), usize::from(SLOTS));
            assert!(sizes.iter().max() <= sizes.iter().min().map(|least| least + 1).as_ref(), "{sizes:?}");
        }
    }
}
