#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use proptest::prelude::*;
use raftmq_mqtt::topic::TopicFilter;

use super::{
    super::{
        RoutesCommand, RoutesMachine,
        RoutesResponse::{self, Gap, Ok, OtherGeneration},
    },
    ShardChange, ShardRoutes,
};
use crate::{
    SharedRoutes, Targets,
    key::{FilterKind, RouteKey},
};

/// `+a` adds, `-a` removes.
fn changes(list: &[&str]) -> Vec<ShardChange> {
    list.iter()
        .map(|change| match change.split_at(1) {
            ("+", filter) => ShardChange::Add(RouteKey::of_shard(filter)),
            (_, filter) => ShardChange::Remove(RouteKey::of_shard(filter)),
        })
        .collect()
}

fn shard(generation: u64, first: u64, list: &[&str]) -> RoutesCommand {
    RoutesCommand::Shard { shard: 7, generation, first, changes: changes(list) }
}

fn reset(generation: u64, next: u64) -> RoutesCommand {
    RoutesCommand::ShardReset { shard: 7, generation, next }
}

fn shards_of(machine: &RoutesMachine, topic: &str) -> Vec<u16> {
    let mut targets = Targets::default();
    machine.routes.lookup(topic, &mut targets);
    targets.shards().to_vec()
}

#[test]
fn what_leaders_announce() {
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    let (none, known) = (&[][..], &[7][..]);
    let script = [
        (shard(3, 2, &["+a"]), Gap { expected: 1 }, none),
        // Its leader, and another one that goes on.
        (shard(3, 1, &["+a", "+b/+"]), Ok { next: 3 }, known),
        (shard(3, 3, &["-a"]), Ok { next: 4 }, none),
        // A leader of before, whose answers were lost, says it all again: only the last is new.
        (shard(3, 1, &["+a", "+b/+", "-a", "+a"]), Ok { next: 5 }, known),
        (shard(3, 2, &["+b/+", "-a"]), Ok { next: 5 }, known),
        (shard(3, 4, &["+a"]), Ok { next: 5 }, known),
        (shard(3, 6, &["-a"]), Gap { expected: 5 }, known),
        (shard(3, 5, &[]), Ok { next: 5 }, known),
        (shard(3, 9, &[]), Gap { expected: 5 }, known),
        // Another generation, without a word that it begins.
        (shard(2, 5, &["-a"]), OtherGeneration { known: 3 }, known),
        (shard(4, 5, &["-a"]), OtherGeneration { known: 3 }, known),
        (reset(2, 1), OtherGeneration { known: 3 }, known),
        (reset(3, 1), Ok { next: 5 }, known),
        (reset(4, 9), Ok { next: 9 }, none),
        (shard(3, 5, &["+a"]), OtherGeneration { known: 4 }, none),
        (shard(4, 8, &["+never", "+a"]), Ok { next: 10 }, known),
        (reset(4, 9), Ok { next: 10 }, known),
        (shard(4, 10, &["-a", "-a", "-nothing"]), Ok { next: 13 }, none),
        (shard(4, 13, &["+a"]), Ok { next: 14 }, known),
        (shard(4, u64::MAX, &["-a"]), Gap { expected: 14 }, known),
    ];
    for (command, expected, shards) in script {
        let answer = machine.apply(0, &command.encode());
        assert_eq!(RoutesResponse::decode(&answer), expected, "{command:?}");
        assert_eq!(shards_of(&machine, "a"), shards, "{command:?}");
    }
    assert_eq!(machine.shard_routes(7), Some(ShardRoutes { generation: 4, next: 14, routes: 1 }));
    assert_eq!(machine.shard_routes(8), None);
}

/// Of two tenants, of a group and none, or with the same hash.
#[test]
fn two_filters_of_one_key() {
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    let seen = |machine: &RoutesMachine| (shards_of(machine, "a/b").len(), machine.shard_routes(7).unwrap().routes);
    machine.apply_command(shard(1, 1, &["+a/+", "+$share/g/a/+", "+a/+", "+a/b", "+$queue/a/b"]));
    assert_eq!(seen(&machine), (1, 2));
    let full = machine.state_hash();
    machine.apply_command(shard(1, 6, &["-a/+", "-a/b"]));
    assert_eq!(seen(&machine), (1, 2));
    assert_ne!(machine.state_hash(), full, "how often is part of the state");
    let mut restored = RoutesMachine::new(SharedRoutes::new());
    restored.restore(&machine.snapshot()).unwrap();
    for machine in [&mut machine, &mut restored] {
        machine.apply_command(shard(1, 8, &["-$share/g/a/+", "-$queue/a/b"]));
        assert_eq!(seen(machine), (1, 1), "a tenant is left");
        machine.apply_command(shard(1, 10, &["-a/+"]));
        assert_eq!((seen(machine), machine.repeated.len()), ((0, 0), 0));
        machine.apply_command(shard(1, 11, &["+a/b", "+a/b", "+$share/g/a/b"]));
        // Nothing is left of how often it was added before.
        machine.apply_command(reset(2, 1));
        machine.apply_command(shard(2, 1, &["+a/b", "-a/b"]));
        assert_eq!((seen(machine), machine.repeated.len()), ((0, 0), 0));
    }
}

#[test]
fn a_key_of_a_group_is_nothing() {
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    let group = RouteKey::of("$share/g/a");
    let both = vec![ShardChange::Add(group.clone()), ShardChange::Remove(group)];
    let command = RoutesCommand::Shard { shard: 7, generation: 1, first: 1, changes: both };
    assert_eq!(machine.apply_command(command), Ok { next: 3 });
    assert_eq!((machine.shards[&7].sum, machine.repeated.len(), machine.routes.counts().shared), (0, 0, 0));
}

#[test]
fn shards_are_of_format_3() {
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    assert_eq!(machine.snapshot()[0], 1);
    for mut early in [shard(1, 1, &["+a"]).encode(), reset(1, 1).encode()] {
        assert_eq!(early[0], 3);
        for format in [1, 2] {
            early[0] = format;
            assert_eq!(RoutesResponse::decode(&machine.apply(0, &early)), RoutesResponse::Malformed);
        }
    }
    assert_eq!(machine.state_hash(), RoutesMachine::new(SharedRoutes::new()).state_hash());
    machine.apply(0, &shard(1, 1, &["+a", "-a"]).encode());
    // What is expected next is part of the state.
    assert_eq!(machine.snapshot()[0], 3);
}

#[test]
fn the_encoding_is_stable() {
    // Part of the log's format: a change here is a change of FORMAT.
    let encoded = shard(300, 5, &["+b/+", "-b/+"]).encode();
    assert_eq!(encoded, [3, 3, 7, 172, 2, 5, 2, 0, 1, 3, b'b', b'/', b'+', 1, 1, 3, b'b', b'/', b'+']);
    assert_eq!(reset(2, 300).encode(), [3, 4, 7, 2, 172, 2]);
    assert_eq!(OtherGeneration { known: 2 }.encode(), [1, 6, 2]);
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    machine.apply_command(shard(2, 1, &["+b/+", "+b/+"]));
    // The hash of the state, no node, one shard and the sum of its hashes, a filter, which was added once more.
    let known = [
        3, 221, 213, 202, 213, 172, 222, 213, 145, 180, 1, 0, 1, 7, 2, 3, 1, 216, 177, 200, 147, 182, 236, 183, 180,
        84, 0, 1, 3, 98, 47, 43, 1, 1, 3, 98, 47, 43, 1,
    ];
    assert_eq!(machine.snapshot(), known);
}

const FILTERS: [&str; 7] = ["a", "a/b", "a/+", "#", "$share/g/a/b", "$queue/a/+", "$exclusive/a"];
const TOPICS: [&str; 5] = ["a", "a/b", "a/c", "b", "$x"];

/// A shard by the book: how often each filter is there.
#[derive(Debug, Clone, Default)]
struct Model {
    generation: u64,
    next: u64,
    filters: BTreeMap<String, u32>,
}

#[derive(Debug, Clone)]
enum Step {
    /// Changes from a number on that is so far from the one expected.
    Change {
        shard: u16,
        generation: u64,
        off: i64,
        changes: Vec<(bool, usize)>,
    },
    Reset {
        shard: u16,
        generation: u64,
        next: u64,
    },
    Node {
        add: bool,
        filter: usize,
    },
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec((any::<bool>(), 0..FILTERS.len()), 0..6);
    prop_oneof![
        12 => (0_u16..3, 1_u64..3, -4_i64..2, changes)
            .prop_map(|(shard, generation, off, changes)| Step::Change { shard, generation, off, changes }),
        1 => (0_u16..3, 1_u64..4, 1_u64..4).prop_map(|(shard, generation, next)| Step::Reset { shard, generation, next }),
        2 => (any::<bool>(), 0..FILTERS.len()).prop_map(|(add, filter)| Step::Node { add, filter }),
        1 => Just(Step::Snapshot),
    ]
}

/// The filter that topics are matched against.
fn plain(filter: &str) -> String {
    match FilterKind::of(filter) {
        FilterKind::Plain(filter) | FilterKind::Shared { filter, .. } => filter.to_owned(),
    }
}

fn model_change(
    models: &mut BTreeMap<u16, Model>,
    shard: u16,
    generation: u64,
    first: u64,
    changes: &[(bool, usize)],
) -> RoutesResponse {
    if !models.contains_key(&shard) && first > 1 {
        return Gap { expected: 1 };
    }
    let model = models.entry(shard).or_insert(Model { generation, next: 1, ..Model::default() });
    if model.generation != generation {
        return OtherGeneration { known: model.generation };
    }
    if first > model.next {
        return Gap { expected: model.next };
    }
    for (number, (add, filter)) in (first..).zip(changes) {
        if number != model.next {
            continue;
        }
        model.next += 1;
        let filter = plain(FILTERS[*filter]);
        let count = model.filters.entry(filter).or_default();
        *count = if *add { *count + 1 } else { count.saturating_sub(1) };
    }
    Ok { next: model.next }
}

fn model_reset(models: &mut BTreeMap<u16, Model>, shard: u16, generation: u64, next: u64) -> RoutesResponse {
    match models.get(&shard) {
        Some(known) if known.generation > generation => OtherGeneration { known: known.generation },
        Some(known) if known.generation == generation => Ok { next: known.next },
        _ => {
            models.insert(shard, Model { generation, next, ..Model::default() });
            Ok { next }
        }
    }
}

proptest! {
    #[test]
    fn as_a_naive_model_has_it(steps in prop::collection::vec(step(), 0..60)) {
        let mut machine = RoutesMachine::new(SharedRoutes::new());
        machine.apply_command(RoutesCommand::Open { node: 1, incarnation: 1, boot: 1, stream: 1 });
        let (mut models, mut node, mut seq) = (BTreeMap::new(), BTreeMap::<String, bool>::new(), 0);
        let mut before = (machine.routes.epoch(), vec![Targets::default(); TOPICS.len()]);
        for step in steps {
            match step {
                Step::Change { shard, generation, off, changes } => {
                    let next = models.get(&shard).map_or(1, |model: &Model| model.next);
                    let first = next.saturating_add_signed(off);
                    let expected = model_change(&mut models, shard, generation, first, &changes);
                    let change = |(add, filter): (bool, usize)| {
                        let key = RouteKey::of_shard(FILTERS[filter]);
                        if add { ShardChange::Add(key) } else { ShardChange::Remove(key) }
                    };
                    let changes = changes.into_iter().map(change).collect();
                    let command = RoutesCommand::Shard { shard, generation, first, changes };
                    prop_assert_eq!(RoutesResponse::decode(&machine.apply(0, &command.encode())), expected);
                }
                Step::Reset { shard, generation, next } => {
                    let expected = model_reset(&mut models, shard, generation, next);
                    prop_assert_eq!(machine.apply_command(RoutesCommand::ShardReset { shard, generation, next }), expected);
                }
                Step::Node { add, filter } => {
                    seq += 1;
                    let keys = vec![RouteKey::of_shard(FILTERS[filter])];
                    node.insert(plain(FILTERS[filter]), add);
                    let (add, remove) = if add { (keys, vec![]) } else { (vec![], keys) };
                    machine.apply_command(RoutesCommand::Batch { node: 1, boot: 1, stream: 1, seq, add, remove });
                }
                Step::Snapshot => {
                    let bytes = machine.snapshot();
                    let mut restored = RoutesMachine::new(machine.routes.clone());
                    // Over what is there: a restore replaces.
                    restored.routes.add(&RouteKey::of("b"), crate::table::Receiver::Shard(9));
                    restored.restore(&bytes).unwrap();
                    prop_assert_eq!(restored.snapshot(), bytes);
                    prop_assert_eq!(restored.state_hash(), machine.state_hash());
                    machine = restored;
                }
            }
            let wanted = |filters: &BTreeMap<String, u32>, topic: &str| {
                filters.iter().any(|(filter, count)| *count > 0 && TopicFilter::parse(filter).unwrap().matches(topic))
            };
            let node_filters: BTreeMap<String, u32> = node.iter().map(|(f, there)| (f.clone(), u32::from(*there))).collect();
            let mut found = Vec::new();
            for topic in TOPICS {
                let mut targets = Targets::default();
                machine.routes.lookup(topic, &mut targets);
                let shards: Vec<u16> = models.iter().filter(|(_, m)| wanted(&m.filters, topic)).map(|(s, _)| *s).collect();
                prop_assert_eq!(targets.shards(), shards);
                prop_assert_eq!(targets.shards.is_none(), targets.shards().is_empty());
                prop_assert_eq!(targets.nodes.len() == 1, wanted(&node_filters, topic), "{}", topic);
                found.push(targets);
            }
            let now = (machine.routes.epoch(), found);
            prop_assert!(now.1 == before.1 || now.0 > before.0, "caches know of a change");
            before = now;
            for (shard, model) in &models {
                let routes = model.filters.values().filter(|count| **count > 0).count() as u64;
                let known = ShardRoutes { generation: model.generation, next: model.next, routes };
                prop_assert_eq!(machine.shard_routes(*shard), Some(known));
            }
        }
        for shard in 0..3 {
            machine.apply_command(RoutesCommand::ShardReset { shard, generation: 9, next: 1 });
        }
        prop_assert_eq!(machine.repeated.len(), 0);
        machine.apply_command(RoutesCommand::NodeDown { node: 1, through: None });
        prop_assert_eq!(machine.routes.counts(), crate::RouteCounts::default());
    }

    /// Several leaders, each of which has a part of the log and proposes it as often as it wants.
    #[test]
    fn repeats_overlaps_and_gaps_give_the_same_state(
        log in prop::collection::vec((any::<bool>(), 0..FILTERS.len()), 1..30),
        proposals in prop::collection::vec((0_usize..30, 0_usize..8), 0..60),
    ) {
        let log: Vec<ShardChange> = log.into_iter().map(|(add, filter)| {
            let key = RouteKey::of_shard(FILTERS[filter]);
            if add { ShardChange::Add(key) } else { ShardChange::Remove(key) }
        }).collect();
        let command = |first: usize, count: usize| {
            let changes = log.iter().skip(first).take(count).cloned().collect();
            RoutesCommand::Shard { shard: 1, generation: 1, first: first as u64 + 1, changes }
        };
        let mut once = RoutesMachine::new(SharedRoutes::new());
        let mut often = RoutesMachine::new(SharedRoutes::new());
        for at in 0..log.len() {
            once.apply_command(command(at, 1));
        }
        let mut next = 1;
        for (first, count) in proposals {
            match often.apply_command(command(first.min(log.len()), count)) {
                Ok { next: now } => {
                    prop_assert!(now >= next);
                    next = now;
                }
                answer => prop_assert_eq!(answer, Gap { expected: next }),
            }
        }
        // Whoever leads at last goes on where the machine is.
        often.apply_command(command(next as usize - 1, log.len()));
        prop_assert_eq!(once.snapshot(), often.snapshot());
        prop_assert_eq!(once.state_hash(), often.state_hash());
    }
}
