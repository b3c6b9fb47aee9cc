//! The 64-bit hash by which nodes name filters without wildcards.

/// The version of [`route_hash`]. The hash of a filter is part of the replicated state: another function needs another
/// version, switched on for the whole cluster at once.
pub const ROUTE_HASH_VERSION: u8 = 1;

// Odd constants without structure (fractional digits of π), fixed for good by `ROUTE_HASH_VERSION`.
const K0: u64 = 0x243F_6A88_85A3_08D3;
const K1: u64 = 0x1319_8A2E_0370_7345;
const K2: u64 = 0xA409_3822_299F_31D1;

/// The hash of a filter without wildcards, the same on every node, build and platform.
///
/// Folded 64×64→128 bit multiplication over 8-byte words, as in the wyhash family. It is no secret and resists
/// nobody who wants a collision; a collision costs a needless forward and, as [`crate::LocalRoutes`] counts by hash, nothing else.
#[must_use]
pub fn route_hash(filter: &str) -> u64 {
    let bytes = filter.as_bytes();
    let mut state = K0 ^ (bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("chunks_exact gives 8 bytes"));
        state = fold(state ^ word, K1);
    }
    let mut last = [0; 8];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    fold(fold(state ^ u64::from_le_bytes(last), K1) ^ K0, K2)
}

/// Mixes two words; used for the rolling state hash too.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    fold(fold(a ^ K0, K1) ^ b, K2)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    // The xor of `a` keeps the function from losing everything when the product is 0.
    (product as u64) ^ ((product >> 64) as u64) ^ a.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn is_stable_across_builds() {
        // Part of the replicated format: a change here is a change of ROUTE_HASH_VERSION.
        let known: Vec<u64> =
            ["", "a", "a/b", "sensors/room-1/temperature", "12345678"].into_iter().map(route_hash).collect();
        assert_eq!(known, STABLE);
    }

    const STABLE: [u64; 5] =
        [8350885771308030377, 16989824559267192339, 3238068417583486741, 15284897779249468831, 12239141013830222673];

    #[test]
    fn similar_filters_do_not_collide() {
        let mut seen = HashSet::new();
        for i in 0..200_000 {
            assert!(seen.insert(route_hash(&format!("devices/{i}/state"))));
            assert!(seen.insert(route_hash(&format!("d{i}"))));
        }
        // Low bits alone must spread as well: they choose the shard and the slot.
        let mut low = [0_u32; 16];
        for hash in seen {
            low[(hash >> 60) as usize] += 1;
        }
        assert!(low.iter().all(|n| (20_000..30_000).contains(n)), "{low:?}");
    }
}
