//! Who should lead which shard: the work of a shard is its leader's.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::{Move, Moves};

/// A shard, who leads it and who could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    /// The shard.
    pub shard: u16,
    /// Who leads it.
    pub leader: u64,
    /// Who else could: voters that answer and have caught up.
    pub could: BTreeSet<u64>,
}

/// The preferred leader of each shard: those who could lead some have the same number within one, as far as it can be, and as few shards
/// as possible are led by another one than now. When it is so already it is the present leader.
#[must_use]
pub fn leaders(shards: &[Led]) -> BTreeMap<u16, u64> {
    let ids: BTreeSet<u64> = shards.iter().flat_map(|led| led.could.iter().copied().chain([led.leader])).collect();
    let ids: Vec<u64> = ids.into_iter().collect();
    let at = |id: u64| ids.binary_search(&id).unwrap_or(0);
    let mut leads: Vec<usize> = shards.iter().map(|led| at(led.leader)).collect();
    let mut load = vec![0_u32; ids.len()];
    leads.iter().for_each(|leader| load[*leader] += 1);
    loop {
        let mut moves = Moves::between(ids.len());
        for (thing, (led, leader)) in shards.iter().zip(&leads).enumerate() {
            let cost = u32::from(ids[*leader] == led.leader);
            for to in led.could.iter().map(|id| at(*id)).filter(|to| to != leader) {
                moves.add(*leader, to, Move { cost, thing });
            }
        }
        let Some(chain) = moves.next(&load) else {
            break;
        };
        for (from, to, thing) in chain {
            leads[thing] = to;
            load[from] -= 1;
            load[to] += 1;
        }
    }
    shards.iter().zip(leads).map(|(led, leader)| (led.shard, ids[leader])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn led(shard: u16, leader: u64, could: &[u64]) -> Led {
        Led { shard, leader, could: could.iter().copied().collect() }
    }

    #[test]
    fn as_few_change_as_can() {
        assert_eq!(leaders(&[]), BTreeMap::new());
        let shards: Vec<Led> = (0..6).map(|shard| led(shard, 1, &[1, 2, 3])).collect();
        let found: Vec<u64> = leaders(&shards).into_values().collect();
        assert_eq!(found, [2, 3, 2, 3, 1, 1]);
        // 2 cannot take from 1 but by 3.
        let shards = [led(0, 1, &[1, 3]), led(1, 1, &[1, 3]), led(2, 3, &[3, 2]), led(7, 1, &[])];
        assert_eq!(leaders(&shards), BTreeMap::from([(0, 3), (1, 1), (2, 2), (7, 1)]));
    }

    proptest! {
        #[test]
        fn leaders_are_even(
            given in proptest::collection::vec((proptest::collection::btree_set(1u64..7, 1..4), 0usize..4), 1..40),
            all in any::<bool>(),
        ) {
            let shards: Vec<Led> = (0..)
                .zip(&given)
                .map(|(shard, (could, leader))| {
                    let could = if all { (1..7).collect() } else { could.clone() };
                    let leader = could.iter().copied().cycle().nth(*leader).unwrap_or(1);
                    Led { shard, leader, could }
                })
                .collect();
            let found = leaders(&shards);
            prop_assert_eq!(found.len(), shards.len());
            let mut load: BTreeMap<u64, usize> = BTreeMap::new();
            for led in &shards {
                prop_assert!(led.could.contains(&found[&led.shard]));
                led.could.iter().for_each(|id| { load.entry(*id).or_default(); });
            }
            found.values().for_each(|id| *load.entry(*id).or_default() += 1);
            // Nobody could give one of its shards to somebody with two fewer.
            for led in &shards {
                let has = load[&found[&led.shard]];
                prop_assert!(led.could.iter().all(|id| load[id] + 2 > has), "{led:?}: {load:?}");
            }
            if all {
                prop_assert!(load.values().max() <= load.values().min().map(|least| least + 1).as_ref(), "{load:?}");
            }
            let again: Vec<Led> = shards.iter().map(|led| Led { leader: found[&led.shard], ..led.clone() }).collect();
            prop_assert_eq!(leaders(&again), found);
        }
    }
}
