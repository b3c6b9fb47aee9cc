#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::shards::table::Shard;
use crate::shards::tests::set;

fn member(id: u64, zone: &str) -> Candidate {
    Candidate { id, zone: zone.into(), active: true, up: true, down_for_ms: 0 }
}

fn members(count: u64) -> Vec<Candidate> {
    (1..=count).map(|id| member(id, "")).collect()
}

fn down(mut members: Vec<Candidate>, id: u64, down_for_ms: u64) -> Vec<Candidate> {
    for m in members.iter_mut().filter(|m| m.id == id) {
        (m.up, m.down_for_ms) = (false, down_for_ms);
    }
    members
}

fn without(mut members: Vec<Candidate>, id: u64) -> Vec<Candidate> {
    members.iter_mut().filter(|m| m.id == id).for_each(|m| m.active = false);
    members
}

fn of(replication: u8, wanted: &[BTreeSet<u64>]) -> ShardTable {
    let shard = |wanted: &BTreeSet<u64>| Arc::new(Shard { wanted: wanted.clone(), ..Shard::new() });
    ShardTable { replication, shards: wanted.iter().map(shard).collect(), ..ShardTable::default() }
}

fn empty(shards: usize, replication: u8) -> ShardTable {
    of(replication, &vec![BTreeSet::new(); shards])
}

fn after(table: &ShardTable, moves: Vec<(u16, BTreeSet<u64>)>) -> ShardTable {
    let mut table = table.clone();
    for (shard, wanted) in moves {
        Arc::make_mut(&mut table.shards[usize::from(shard)]).wanted = wanted;
    }
    table
}

fn placed(members: &[Candidate], table: &ShardTable) -> ShardTable {
    let placed = after(table, place(members, table));
    assert_eq!(place(members, &placed), vec![], "the same again moves something: {placed:?}");
    placed
}

fn loads(members: &[Candidate], table: &ShardTable) -> BTreeMap<u64, usize> {
    let count = |id| table.iter().filter(|(_, shard)| shard.wanted().contains(&id)).count();
    members.iter().map(|m| (m.id, count(m.id))).collect()
}

fn even(members: &[Candidate], table: &ShardTable) -> bool {
    let loads = loads(members, table);
    loads.values().max().unwrap() <= &(loads.values().min().unwrap() + 1)
}

/// What moved: (from the old places, to the new ones), by member.
fn moved(old: &ShardTable, new: &ShardTable) -> (BTreeMap<u64, usize>, BTreeMap<u64, usize>) {
    let (mut from, mut to) = (BTreeMap::new(), BTreeMap::new());
    for ((_, old), (_, new)) in old.iter().zip(new.iter()) {
        old.wanted().difference(new.wanted()).for_each(|id| *from.entry(*id).or_default() += 1);
        new.wanted().difference(old.wanted()).for_each(|id| *to.entry(*id).or_default() += 1);
    }
    (from, to)
}

fn wanted(table: &ShardTable, shard: u16) -> BTreeSet<u64> {
    table.get(shard).unwrap().wanted().clone()
}

#[test]
fn replicas_are_as_many_as_fit() {
    for (count, replication, replicas) in
        [(1, 3, 1), (2, 3, 2), (3, 3, 3), (4, 3, 3), (7, 5, 5), (4, 5, 4), (3, 1, 1), (5, 2, 2)]
    {
        let table = placed(&members(count), &empty(16, replication));
        assert!(table.iter().all(|(_, shard)| shard.wanted().len() == replicas), "{count} members: {table:?}");
        assert!(even(&members(count), &table), "{count} members: {table:?}");
    }
    assert_eq!(place(&[], &empty(16, 3)), vec![]);
    // With nobody left the shards stay where they are.
    assert_eq!(place(&without(members(1), 1), &of(1, &[set(&[1])])), vec![]);
    assert_eq!(place(&members(3), &ShardTable::default()), vec![]);
}

#[test]
fn what_leaves_is_emptied_and_what_is_down_is_waited_for() {
    let start = placed(&members(4), &empty(16, 3));
    assert_eq!(place(&down(members(4), 2, 0), &start), vec![]);
    assert_eq!(place(&down(members(4), 2, DOWN_GRACE_MS - 1), &start), vec![]);
    for gone in [without(members(4), 2), down(members(4), 2, DOWN_GRACE_MS)] {
        let table = placed(&gone, &start);
        let (from, to) = moved(&start, &table);
        assert_eq!(from, BTreeMap::from([(2, 12)]));
        assert_eq!(to, BTreeMap::from([(1, 4), (3, 4), (4, 4)]));
        // It returns, or a new one comes in its place.
        let (from, to) = moved(&table, &placed(&members(4), &table));
        assert_eq!((from, to), (BTreeMap::from([(1, 4), (3, 4), (4, 4)]), BTreeMap::from([(2, 12)])));
    }
    // A member that was removed without anybody having taken its replicas from it.
    let table = placed(&[member(1, ""), member(3, ""), member(4, "")], &start);
    assert!(table.iter().all(|(_, shard)| *shard.wanted() == set(&[1, 3, 4])));
}

#[test]
fn with_too_few_members_what_is_down_is_still_waited_for() {
    let start = placed(&members(3), &empty(4, 3));
    assert_eq!(place(&down(members(3), 2, DOWN_GRACE_MS * 9), &start), vec![]);
    // Of four two are down for long: the others have everything.
    let four = placed(&members(4), &empty(16, 3));
    let two = down(down(members(4), 1, DOWN_GRACE_MS), 3, DOWN_GRACE_MS);
    let table = placed(&two, &four);
    for (number, shard) in table.iter() {
        assert!(shard.wanted().len() == 3 && shard.wanted().is_superset(&set(&[2, 4])), "{shard:?}");
        let kept = shard.wanted().difference(&set(&[2, 4])).all(|id| wanted(&four, number).contains(id));
        assert!(kept, "a replica moved to a member that is down: {shard:?}");
    }
    // New shards where a member is down for long: with it, it makes three votes all the same.
    let new = placed(&down(members(3), 2, DOWN_GRACE_MS), &empty(4, 3));
    assert!(new.iter().all(|(_, shard)| *shard.wanted() == set(&[1, 2, 3])));
}

#[test]
fn what_is_down_gets_nothing_and_gives_nothing_for_evenness() {
    let start = placed(&members(4), &empty(16, 3));
    let six = down(down(members(6), 1, 1), 6, 1);
    let table = placed(&six, &start);
    let (from, to) = moved(&start, &table);
    assert!(!from.contains_key(&1), "{from:?}");
    assert!(to.len() == 1 && to.contains_key(&5), "{to:?}");
    assert_eq!(loads(&six, &table)[&1], 12);
    // A replacement goes to one that is up, though the zone of the other one would be better.
    let zones = [member(1, "a"), member(2, "b"), member(4, "c"), member(5, "a")];
    let old = [set(&[1, 2, 3])];
    let unlucky = placed(&down(zones.to_vec(), 4, 1), &of(3, &old));
    assert_eq!(wanted(&unlucky, 0), set(&[1, 2, 5]));
    assert_eq!(wanted(&placed(&zones, &unlucky), 0), set(&[1, 2, 4]));
}

#[test]
fn zones_come_before_evenness() {
    let zones = [member(1, "a"), member(2, "a"), member(3, "a"), member(4, "b"), member(5, "c")];
    let table = placed(&zones, &empty(15, 3));
    assert_eq!(loads(&zones, &table), BTreeMap::from([(1, 5), (2, 5), (3, 5), (4, 15), (5, 15)]));
    // Two zones: neither has all three.
    let two = [member(1, "a"), member(2, "a"), member(3, "a"), member(4, "b"), member(5, "b"), member(6, "b")];
    let table = placed(&two, &empty(16, 3));
    for (_, shard) in table.iter() {
        let in_a = shard.wanted().intersection(&set(&[1, 2, 3])).count();
        assert!((1..=2).contains(&in_a), "{shard:?}");
    }
    assert!(even(&two, &table), "{:?}", loads(&two, &table));
    // Zones become known: only as much moves as must.
    let start = of(3, &[set(&[1, 2, 3]), set(&[1, 2, 4])]);
    let known = [member(1, "a"), member(2, "a"), member(3, "b"), member(4, "c")];
    let table = placed(&known, &start);
    let (from, _) = moved(&start, &table);
    assert_eq!(from.values().sum::<usize>(), 2);
    assert!(table.iter().all(|(_, s)| s.wanted().is_superset(&set(&[3, 4]))), "{table:?}");
}

#[test]
fn what_was_on_one_member_is_spread_over_all() {
    let start = placed(&members(9), &empty(128, 3));
    let table = placed(&without(members(9), 5), &start);
    let (_, to) = moved(&start, &table);
    assert!(to.len() == 8 && to.values().all(|count| (3..=9).contains(count)), "{to:?}");
}

#[test]
fn a_thousand_shards_on_many_members() {
    let many: Vec<Candidate> = (1..=64).map(|id| member(id * 7, ["a", "b", "c"][id as usize % 3])).collect();
    let table = placed(&many[..63], &empty(1024, 3));
    assert!(even(&many[..63], &table), "{:?}", loads(&many[..63], &table));
    let more = placed(&many, &table);
    // One in 22 of its zone, which has a replica of everything.
    let (_, to) = moved(&table, &more);
    assert_eq!(to, BTreeMap::from([(448, 46)]));
}

/// All ways to place the shards, by brute force: (sum of the squares of loads, moves) of the best.
fn best(members: &[Candidate], table: &ShardTable) -> (usize, usize) {
    let ids: Vec<u64> = members.iter().map(|m| m.id).collect();
    let replicas = usize::from(table.replication).min(ids.len());
    let zone = |id: u64| members.iter().find(|m| m.id == id).unwrap().zone.clone();
    let widest = |set: &BTreeSet<u64>| {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        set.iter().for_each(|id| *count.entry(zone(*id)).or_default() += 1);
        count.into_values().max().unwrap()
    };
    let subsets: Vec<BTreeSet<u64>> = (0u32..1 << ids.len())
        .filter(|mask| mask.count_ones() as usize == replicas)
        .map(|mask| ids.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, id)| *id).collect())
        .collect();
    let least = subsets.iter().map(widest).min().unwrap();
    let subsets: Vec<&BTreeSet<u64>> = subsets.iter().filter(|set| widest(set) == least).collect();
    let shards = table.shards.len();
    let mut best = (usize::MAX, usize::MAX);
    for number in 0..subsets.len().pow(shards as u32) {
        let (mut rest, mut moves, mut load) = (number, 0, BTreeMap::<u64, usize>::new());
        for shard in &table.shards {
            let chosen = subsets[rest % subsets.len()];
            rest /= subsets.len();
            moves += chosen.difference(&shard.wanted).count();
            chosen.iter().for_each(|id| *load.entry(*id).or_default() += 1);
        }
        best = best.min((load.values().map(|load| load * load).sum(), moves));
    }
    best
}

/// The table takes no placement with more replicas.
fn cut(wanted: &[BTreeSet<u64>], replication: u8) -> Vec<BTreeSet<u64>> {
    wanted.iter().map(|ids| ids.iter().copied().take(usize::from(replication)).collect()).collect()
}

/// A replica that has just been given away is given to another one at no cost; one that was there before is not.
#[test]
fn what_moves_anyhow_moves_first() {
    let zones = [member(1, "d"), member(2, "d"), member(3, "c"), member(4, "a"), member(5, "b")];
    let start = of(3, &[set(&[3]), set(&[])]);
    let table = placed(&zones, &start);
    assert!(wanted(&table, 0).contains(&3), "{table:?}");
    assert_eq!(moved(&start, &table).1.values().sum::<usize>(), best(&zones, &start).1);
}

fn any_zone() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// As even as can be, with as few moves as can be.
    #[test]
    fn nothing_is_better(
        zones in proptest::collection::vec(any_zone(), 1..6),
        replication in 1u8..4,
        old in proptest::collection::vec(proptest::collection::btree_set(1u64..8, 0..4), 1..4),
    ) {
        let members: Vec<Candidate> = (1..).zip(&zones).map(|(id, zone)| member(id, zone)).collect();
        let table = of(replication, &cut(&old, replication));
        let new = placed(&members, &table);
        let (squares, moves) = best(&members, &table);
        let (_, to) = moved(&table, &new);
        prop_assert_eq!(loads(&members, &new).values().map(|load| load * load).sum::<usize>(), squares);
        prop_assert_eq!(to.values().sum::<usize>(), moves, "{:?}", new);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The rules, from any placement to any members.
    #[test]
    fn rules(
        given in proptest::collection::vec((any_zone(), 0u8..8, 0u8..8), 1..10),
        replication in 1u8..6,
        old in proptest::collection::vec(proptest::collection::btree_set(1u64..14, 0..6), 1..40),
        seed in any::<u64>(),
    ) {
        let members: Vec<Candidate> = (1..)
            .zip(&given)
            .map(|(id, (zone, active, down))| Candidate {
                active: *active != 0,
                up: *down > 1,
                down_for_ms: if *down == 1 { DOWN_GRACE_MS } else { 5 },
                ..member(id, zone)
            })
            .collect();
        let before = of(replication, &cut(&old, replication));
        let new = after(&before, place(&members, &before));
        // Again nothing, and whatever the order of the members.
        prop_assert_eq!(place(&members, &new), vec![]);
        let mut shuffled = members.clone();
        shuffled.sort_by_key(|m| mix(m.id as usize, seed));
        prop_assert_eq!(place(&shuffled, &before), place(&members, &before));

        let active: Vec<&Candidate> = members.iter().filter(|m| m.active).collect();
        let usable: Vec<&&Candidate> = active.iter().filter(|m| m.up || m.down_for_ms < DOWN_GRACE_MS).collect();
        let usable_ids: BTreeSet<u64> = usable.iter().map(|m| m.id).collect();
        let replicas = active.len().min(usize::from(replication));
        if replicas == 0 {
            prop_assert_eq!(new, before);
            return Ok(());
        }
        for ((_, old), (_, shard)) in before.iter().zip(new.iter()) {
            prop_assert_eq!(shard.wanted().len(), replicas);
            prop_assert!(shard.wanted().iter().all(|id| active.iter().any(|m| m.id == *id)));
            let waited = shard.wanted().difference(&usable_ids).count();
            prop_assert_eq!(waited, replicas.saturating_sub(usable.len()));
            // Who is down gets something only where there is nobody else.
            let got = shard.wanted().difference(old.wanted()).filter(|id| members[**id as usize - 1].up).count();
            let all_up = active.iter().filter(|m| m.up).all(|m| shard.wanted().contains(&m.id));
            let got_down = shard.wanted().difference(old.wanted()).count() - got;
            prop_assert!(got_down == 0 || all_up, "{old:?} {shard:?}");
        }
        if active.iter().all(|m| m.up) {
            // Zones: no shard has more of its replicas in one than it must.
            let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
            active.iter().for_each(|m| *sizes.entry(&m.zone).or_default() += 1);
            let most = (1..).find(|most| sizes.values().map(|size| size.min(most)).sum::<usize>() >= replicas).unwrap();
            for (_, shard) in new.iter() {
                for zone in sizes.keys() {
                    let there = active.iter().filter(|m| m.zone == *zone && shard.wanted().contains(&m.id)).count();
                    prop_assert!(there <= most, "{there} in {zone}, {most} must be: {shard:?}");
                }
            }
            // Members of one zone are even among each other always; all are, where zones are no matter.
            for zone in sizes.keys() {
                let zone: Vec<Candidate> = active.iter().filter(|m| m.zone == *zone).map(|m| (*m).clone()).collect();
                prop_assert!(even(&zone, &new), "{:?}", loads(&members, &new));
            }
            if most == replicas || sizes.len() == active.len() {
                let all: Vec<Candidate> = active.iter().map(|m| (*m).clone()).collect();
                prop_assert!(even(&all, &new), "{:?}", loads(&members, &new));
            }
        }
    }

    /// A member that comes takes from the others what is its share and nothing else moves; one that goes gives what it had.
    #[test]
    fn coming_and_going(count in 1u64..12, replication in 1u8..6, shards in 1usize..80, gone in 0u64..12) {
        let start = placed(&members(count), &empty(shards, replication));
        let more = members(count + 1);
        let table = placed(&more, &start);
        let (_, to) = moved(&start, &table);
        let replicas = shards * usize::from(replication).min(more.len());
        if count >= u64::from(replication) {
            prop_assert!(to.keys().all(|id| *id == count + 1), "{to:?}");
        }
        prop_assert!(to.values().sum::<usize>() <= replicas.div_ceil(more.len()), "{to:?}");

        let gone = gone % (count + 1) + 1;
        let less = placed(&without(more.clone(), gone), &table);
        let (from, to) = moved(&table, &less);
        let had = loads(&more, &table)[&gone];
        prop_assert_eq!(from.get(&gone).copied().unwrap_or(0), had);
        // What it had cannot always go where there is room: then others move one on, a few.
        let others = from.iter().filter(|(id, _)| **id != gone).map(|(_, count)| count).sum::<usize>();
        prop_assert!(others <= 2, "{others} besides {had}: {from:?} {to:?}");
    }
}
