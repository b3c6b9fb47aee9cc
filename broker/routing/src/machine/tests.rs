#![allow(clippy::unwrap_used)]
use super::*;
use crate::Targets;
use proptest::prelude::*;

fn batch(seq: u64, add: &[&str], remove: &[&str]) -> RoutesCommand {
    let keys = |filters: &[&str]| filters.iter().map(|filter| RouteKey::of(filter)).collect();
    RoutesCommand::Batch { node: 1, boot: 1, stream: 1, seq, add: keys(add), remove: keys(remove) }
}

fn open(node: u64, incarnation: u128, boot: u64, stream: u64) -> RoutesCommand {
    RoutesCommand::Open { node, incarnation, boot, stream }
}

fn nodes_of(machine: &RoutesMachine, topic: &str) -> Vec<u64> {
    let mut targets = Targets::default();
    machine.routes.lookup(topic, &mut targets);
    targets.nodes.to_vec()
}

#[test]
fn a_stream() {
    use RoutesResponse::{Closed, Gap, Ok, WrongIncarnation};
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    let script = [
        (batch(1, &["a"], &[]), Closed { last: None }, vec![]),
        (open(1, 5, 1, 1), Ok { next: 1 }, vec![]),
        (batch(1, &["a", "b/+"], &[]), Ok { next: 2 }, vec![1]),
        (batch(1, &["never"], &["a"]), Ok { next: 2 }, vec![1]),
        (batch(3, &[], &["a"]), Gap { expected: 2 }, vec![1]),
        (open(1, 5, 1, 1), Ok { next: 2 }, vec![1]),
        (open(1, 6, 2, 1), WrongIncarnation, vec![1]),
        (open(1, 5, 1, 0), Closed { last: Some((1, 1)) }, vec![1]),
        (RoutesCommand::NodeDown { node: 1, through: Some((1, 0)) }, Ok { next: 0 }, vec![1]),
        (batch(2, &[], &["a"]), Ok { next: 3 }, vec![]),
        (batch(3, &["a"], &["a"]), Ok { next: 4 }, vec![1]),
        (open(1, 5, 1, 2), Ok { next: 1 }, vec![]),
        (batch(4, &["a"], &[]), Closed { last: Some((1, 2)) }, vec![]),
        (RoutesCommand::NodeDown { node: 1, through: None }, Ok { next: 0 }, vec![]),
        (open(1, 5, 1, 2), Closed { last: Some((1, 2)) }, vec![]),
        (open(1, 5, 2, 1), Ok { next: 1 }, vec![]),
    ];
    for (command, expected, nodes) in script {
        let answer = machine.apply(0, &command.encode());
        assert_eq!(RoutesResponse::decode(&answer), expected, "{command:?}");
        assert_eq!(nodes_of(&machine, "a"), nodes, "{command:?}");
    }
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    let before = machine.state_hash();
    for bytes in [&[][..], &[0, 1, 2], &[1], &[1, 9], &[1, 2, 5, 0, 0, 0], &[2, 9], &[3, 9]] {
        assert_eq!(RoutesResponse::decode(&machine.apply(0, bytes)), RoutesResponse::Malformed, "{bytes:?}");
    }
    assert_eq!(RoutesResponse::decode(&machine.apply(0, &[4])), RoutesResponse::UnknownFormat { format: 4 });
    assert_eq!(machine.state_hash(), before);
}

#[test]
fn the_encoding_is_stable() {
    // Part of the log's format: a change here is a change of FORMAT.
    let encoded = batch(3, &["a/+"], &[]).encode();
    assert_eq!(encoded, [1, 1, 1, 1, 1, 3, 1, 1, 3, b'a', b'/', b'+', 0]);
    let encoded = batch(3, &["$share/g/a"], &[]).encode();
    assert_eq!(encoded[..9], [2, 1, 1, 1, 1, 3, 1, 2, 10]);
    assert_eq!(encoded[9..], *b"$share/g/a\0\0");
}

#[test]
fn groups_are_of_format_2() {
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    machine.apply_command(open(1, 5, 1, 1));
    machine.apply_command(batch(1, &["a", "b/+"], &[]));
    assert_eq!(machine.snapshot()[0], 1, "who knows no groups can read it");
    // A group in format 1 was malformed when there was no format 2.
    let mut early = batch(2, &["$share/g/a"], &[]).encode();
    early[0] = 1;
    assert_eq!(RoutesResponse::decode(&machine.apply(0, &early)), RoutesResponse::Malformed);
    // Format 2 without groups is a command like any other.
    let mut late = batch(2, &["c"], &[]).encode();
    late[0] = 2;
    assert_eq!(RoutesResponse::decode(&machine.apply(0, &late)), RoutesResponse::Ok { next: 3 });
    let before = machine.state_hash();
    assert_eq!(
        RoutesResponse::decode(&machine.apply(0, &batch(3, &["$share/g/a"], &[]).encode())),
        RoutesResponse::Ok { next: 4 }
    );
    assert_ne!(machine.state_hash(), before);
    assert_eq!((machine.snapshot()[0], machine.routes_of(1)), (2, 4));
    machine.apply_command(batch(4, &[], &["$queue/a", "$share/g/a"]));
    assert_eq!((machine.snapshot()[0], machine.routes_of(1)), (1, 3));
}

#[test]
fn a_snapshot_of_format_1_is_read() {
    // As it was written before there was a format 2.
    let old = [
        1, 149, 150, 249, 241, 161, 175, 139, 162, 241, 1, 1, 1, 5, 1, 1, 2, 1, 2, 245, 217, 241, 155, 193, 182, 143,
        148, 1, 1, 147, 188, 208, 154, 187, 237, 254, 227, 235, 1, 1, 3, 98, 47, 43,
    ];
    let mut machine = RoutesMachine::new(SharedRoutes::new());
    machine.restore(&old).unwrap();
    assert_eq!((nodes_of(&machine, "a"), nodes_of(&machine, "b/x")), (vec![1], vec![1]));
    assert_eq!((machine.open_stream(1), machine.state_hash()), (Some((1, 1)), 17_385_070_464_073_616_149));
    assert_eq!(machine.snapshot(), old);
}

pub(crate) fn commands() -> impl Strategy<Value = Vec<RoutesCommand>> {
    let group = ("[gh]/[ab]", 0_u8..24);
    let key = prop_oneof![
        (0_u64..6).prop_map(RouteKey::Exact),
        "[ab+]/[ab#]".prop_map(|f| RouteKey::Wild(f.into())),
        group.prop_map(|(group, rank)| RouteKey::Shared { group: format!("$share/{group}").into(), rank }),
    ];
    let keys = prop::collection::vec(key.clone(), 0..4);
    let change = prop_oneof![key.clone().prop_map(ShardChange::Add), key.prop_map(ShardChange::Remove)];
    let changes = prop::collection::vec(change, 0..6);
    let command = prop_oneof![
        1 => (1_u64..4, 1_u64..3, 1_u64..3).prop_map(|(node, boot, stream)| open(node, u128::from(node), boot, stream)),
        6 => (1_u64..4, 1_u64..3, 1_u64..3, 1_u64..5, keys.clone(), keys)
            .prop_map(|(node, boot, stream, seq, add, remove)| RoutesCommand::Batch { node, boot, stream, seq, add, remove }),
        1 => (1_u64..4, any::<Option<(u8, u8)>>()).prop_map(|(node, through)| {
            RoutesCommand::NodeDown { node, through: through.map(|(boot, stream)| (u64::from(boot % 3), u64::from(stream % 3))) }
        }),
        3 => (1_u16..4, 1_u64..3, 1_u64..9, changes)
            .prop_map(|(shard, generation, first, changes)| RoutesCommand::Shard { shard, generation, first, changes }),
        1 => (1_u16..4, 1_u64..3, 1_u64..9)
            .prop_map(|(shard, generation, next)| RoutesCommand::ShardReset { shard, generation, next }),
    ];
    prop::collection::vec(command, 0..60)
}

proptest! {
    #[test]
    fn a_snapshot_in_the_middle_changes_nothing(commands in commands(), at in 0_usize..60) {
        let mut whole = RoutesMachine::new(SharedRoutes::new());
        let mut restored = RoutesMachine::new(SharedRoutes::new());
        for (index, command) in commands.iter().enumerate() {
            if index == at {
                let bytes = whole.snapshot();
                // Over a state that is not empty: a restore replaces.
                restored.apply_command(open(9, 9, 9, 9));
                restored.apply_command(RoutesCommand::Batch { node: 9, boot: 9, stream: 9, seq: 1, add: vec![RouteKey::Exact(1)], remove: vec![] });
                restored.restore(&bytes).unwrap();
                prop_assert_eq!(restored.snapshot(), bytes);
            }
            let bytes = command.encode();
            prop_assert_eq!(&RoutesCommand::decode(&bytes).unwrap(), command);
            let answer = whole.apply(index as u64, &bytes);
            if index >= at {
                prop_assert_eq!(restored.apply(index as u64, &bytes), answer);
                prop_assert_eq!(restored.state_hash(), whole.state_hash());
            }
        }
        if at < commands.len() {
            prop_assert_eq!(restored.snapshot(), whole.snapshot());
            prop_assert_eq!(restored.routes.counts(), whole.routes.counts());
        }
    }

    #[test]
    fn repeats_and_gaps_give_the_same_state(batches in prop::collection::vec(any::<(bool, u8)>(), 1..20), order in prop::collection::vec(0_usize..20, 0..60)) {
        let commands: Vec<_> = batches.iter().enumerate().map(|(i, &(add, key))| {
            let keys = vec![RouteKey::Exact(u64::from(key % 4))];
            let (add, remove) = if add { (keys, vec![]) } else { (vec![], keys) };
            RoutesCommand::Batch { node: 1, boot: 1, stream: 1, seq: i as u64 + 1, add, remove }
        }).collect();
        let mut once = RoutesMachine::new(SharedRoutes::new());
        let mut often = RoutesMachine::new(SharedRoutes::new());
        once.apply_command(open(1, 1, 1, 1));
        often.apply_command(open(1, 1, 1, 1));
        for command in &commands {
            once.apply_command(command.clone());
        }
        // Any order at first, then all from the first on: what go-back-N amounts to.
        for command in order.into_iter().filter_map(|i| commands.get(i)).chain(&commands) {
            often.apply_command(command.clone());
        }
        prop_assert_eq!(once.snapshot(), often.snapshot());
        prop_assert_eq!(once.state_hash(), often.state_hash());
    }

    #[test]
    fn damaged_snapshots_are_errors(commands in commands(), at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let mut machine = RoutesMachine::new(SharedRoutes::new());
        for command in commands {
            machine.apply_command(command);
        }
        let mut bytes = machine.snapshot();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        let mut other = RoutesMachine::new(SharedRoutes::new());
        let before = other.snapshot();
        prop_assert!(other.restore(&bytes).is_err());
        prop_assert_eq!(other.snapshot(), before);
    }
}
