#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::command::{InitialMember, MetaCommand, MetaResponse, NodeAddresses, Refusal};
use crate::machine::MetaMachine;
use crate::{BANS_LEVEL, SHARDS_LEVEL};

pub(super) fn set(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

pub(super) fn init(members: u64, feature_level: u32) -> MetaCommand {
    let members = (1..=members)
        .map(|id| InitialMember {
            id,
            name: format!("n{id}"),
            incarnation: u128::from(id),
            boot: 1,
            nonce: 1,
            addresses: NodeAddresses { link: format!("n{id}:9883"), control: String::new() },
            version: "0".into(),
            feature_level,
        })
        .collect();
    MetaCommand::Init { cluster_id: 9, name: "c".into(), members }
}

fn run(machine: &mut MetaMachine, command: &MetaCommand) -> MetaResponse {
    let index = machine.applied() + 1;
    MetaResponse::decode(&machine.apply(index, &command.encode())).unwrap()
}

fn done(machine: &mut MetaMachine, command: &MetaCommand) {
    assert_eq!(run(machine, command), MetaResponse::Done, "{command:?}");
}

/// The refusal, which changes nothing.
fn refused(machine: &mut MetaMachine, command: &MetaCommand) -> Refusal {
    let before = machine.state().clone();
    let refusal = run(machine, command).into_result().expect_err(&format!("{command:?} was not refused"));
    assert_eq!(*machine.state(), before, "{command:?} was refused and changed something");
    refusal
}

fn machine(members: u64) -> MetaMachine {
    let mut m = MetaMachine::new();
    done(&mut m, &init(members, SHARDS_LEVEL));
    done(&mut m, &MetaCommand::FeatureLevel { level: SHARDS_LEVEL });
    m
}

fn create(count: u16, replication: u8) -> MetaCommand {
    MetaCommand::CreateShards { count, replication }
}

fn placed(epoch: u64, moves: &[(u16, &[u64])]) -> MetaCommand {
    MetaCommand::PlaceShards { epoch, moves: moves.iter().map(|(shard, ids)| (*shard, set(ids))).collect() }
}

fn form(shard: u16, generation: u32, voters: &[u64]) -> MetaCommand {
    MetaCommand::FormShard { shard, generation, voters: set(voters) }
}

fn replicas(shard: u16, generation: u32, index: u64, voters: &[u64], learners: &[u64]) -> MetaCommand {
    MetaCommand::ShardReplicas { shard, generation, index, voters: set(voters), learners: set(learners) }
}

fn zone(id: u64, zone: &str) -> MetaCommand {
    MetaCommand::Zone { id, zone: zone.into() }
}

fn invalid(refusal: Refusal, part: &str) {
    assert!(matches!(&refusal, Refusal::Invalid(why) if why.contains(part)), "{refusal}, not {part}");
}

#[test]
fn groups_have_numbers_of_their_own() {
    assert_eq!((group_of(0), group_of(1023)), (16, 1039));
    assert_eq!([15, 16, 1039, 1040, u32::MAX].map(shard_of), [None, Some(0), Some(1023), None, None]);
}

#[test]
fn shards_wait_until_all_members_know_them() {
    let mut m = MetaMachine::new();
    done(&mut m, &init(3, SHARDS_LEVEL));
    let all = [
        create(16, 3),
        placed(0, &[(0, &[1])]),
        form(0, 1, &[1]),
        MetaCommand::ShardFormed { shard: 0, generation: 1 },
        replicas(0, 1, 1, &[1], &[]),
        MetaCommand::MoveSlots { epoch: 2, runs: vec![SlotRun { first: 0, shard: 0 }] },
        zone(1, "a"),
        MetaCommand::RenewShard { shard: 0, generation: 1 },
    ];
    for level in [1, BANS_LEVEL] {
        done(&mut m, &MetaCommand::FeatureLevel { level });
        for command in &all {
            assert_eq!(refused(&mut m, command), Refusal::FeatureOff { needed: SHARDS_LEVEL, level }, "{command:?}");
        }
    }
    done(&mut m, &MetaCommand::FeatureLevel { level: SHARDS_LEVEL });
    // Without shards a snapshot is one that the version before can read.
    assert_eq!(m.snapshot()[0], 1);
    done(&mut m, &zone(1, "a"));
    assert_eq!(m.snapshot()[0], 3);
}

#[test]
fn created_once() {
    let mut m = machine(3);
    for command in [placed(0, &[(0, &[1])]), form(0, 1, &[1]), MetaCommand::RenewShard { shard: 0, generation: 1 }] {
        assert_eq!(refused(&mut m, &command), Refusal::NoShards);
    }
    let moved = MetaCommand::MoveSlots { epoch: 1, runs: vec![SlotRun { first: 0, shard: 0 }] };
    assert_eq!(refused(&mut m, &moved), Refusal::NoShards);
    invalid(refused(&mut m, &create(0, 3)), "0 shards");
    invalid(refused(&mut m, &create(1025, 3)), "1025 shards");
    invalid(refused(&mut m, &create(16, 0)), "replication 0");
    invalid(refused(&mut m, &create(16, 6)), "replication 6");
    done(&mut m, &create(12, 3));
    let there = m.state().clone();
    done(&mut m, &create(12, 3));
    assert_eq!(*m.state(), there);
    let exist = Refusal::ShardsExist { count: 12, replication: 3 };
    assert_eq!(refused(&mut m, &create(12, 1)), exist);
    assert_eq!(refused(&mut m, &create(16, 3)), exist);
    let shards = &m.state().shards;
    assert_eq!((shards.count(), shards.replication(), shards.placed(), shards.slots().epoch()), (12, 3, 0, 1));
    assert!(shards.iter().all(|(_, s)| s.generation() == 1 && s.wanted().is_empty() && !s.is_formed()));
    assert_eq!(shards.slots().shard(SLOTS - 1), Some(11));
    for (count, replication) in [(1, 1), (1024, 5)] {
        done(&mut machine(1), &create(count, replication));
    }
}

#[test]
fn a_plan_for_an_older_placement_is_refused() {
    let mut m = machine(4);
    done(&mut m, &create(2, 3));
    done(&mut m, &placed(0, &[(0, &[1, 2, 3]), (1, &[2, 3, 4])]));
    assert_eq!(refused(&mut m, &placed(0, &[(0, &[1, 2, 4])])), Refusal::Epoch { epoch: 0, current: 1 });
    assert_eq!(refused(&mut m, &placed(2, &[(0, &[1, 2, 4])])), Refusal::Epoch { epoch: 2, current: 1 });
    let at = |moves| placed(1, moves);
    invalid(refused(&mut m, &at(&[])), "placement of 0");
    invalid(refused(&mut m, &at(&[(0, &[1]), (1, &[1]), (0, &[1])])), "placement of 3");
    invalid(refused(&mut m, &at(&[(0, &[1]), (0, &[2])])), "shard 0 is placed twice");
    invalid(refused(&mut m, &at(&[(1, &[])])), "shard 1: 0 replicas");
    invalid(refused(&mut m, &at(&[(0, &[1, 2, 3, 4])])), "shard 0: 4 replicas of 3");
    assert_eq!(refused(&mut m, &at(&[(0, &[1]), (2, &[1])])), Refusal::NoSuchShard { shard: 2 });
    assert_eq!(refused(&mut m, &at(&[(0, &[1]), (1, &[5])])), Refusal::NotMember { id: 5 });
    done(&mut m, &MetaCommand::Leave { id: 4 });
    assert_eq!(refused(&mut m, &at(&[(0, &[4])])), Refusal::NotMember { id: 4 });
    assert_eq!(*m.state().shards.get(1).unwrap().wanted(), set(&[2, 3, 4]));
    done(&mut m, &at(&[(1, &[1, 2, 3])]));
    assert_eq!((m.state().shards.placed(), m.state().shards.get(0).unwrap().wanted()), (2, &set(&[1, 2, 3])));
    // Asked late, it must not throw away what has become of them.
    let there = m.state().clone();
    done(&mut m, &create(2, 3));
    assert_eq!(*m.state(), there);
}

#[test]
fn only_the_first_who_forms_a_shard_counts() {
    let mut m = machine(5);
    done(&mut m, &create(2, 3));
    invalid(refused(&mut m, &form(0, 1, &[1])), "is formed by 0 of {}");
    invalid(refused(&mut m, &form(0, 1, &[])), "is formed by 0 of {}");
    done(&mut m, &placed(0, &[(0, &[1, 2, 3]), (1, &[1, 2])]));
    invalid(refused(&mut m, &MetaCommand::ShardFormed { shard: 0, generation: 1 }), "nobody was named");
    invalid(refused(&mut m, &form(0, 1, &[1, 2])), "is formed by 3");
    invalid(refused(&mut m, &form(0, 1, &[1, 2, 4])), "is formed by 3");
    invalid(refused(&mut m, &form(1, 1, &[1, 2])), "is formed by 1");
    let wrong = Refusal::Generation { shard: 0, generation: 2, current: 1 };
    assert_eq!(refused(&mut m, &form(0, 2, &[1, 2, 3])), wrong);
    assert_eq!(refused(&mut m, &form(2, 1, &[1, 2, 3])), Refusal::NoSuchShard { shard: 2 });
    let mut leaves = m.clone();
    done(&mut leaves, &MetaCommand::Leave { id: 2 });
    assert_eq!(refused(&mut leaves, &form(0, 1, &[1, 2, 3])), Refusal::NotMember { id: 2 });

    done(&mut m, &form(0, 1, &[1, 2, 3]));
    // The placement changes; who forms the shard does not any more.
    done(&mut m, &placed(1, &[(0, &[3, 4, 5])]));
    assert_eq!(refused(&mut m, &form(0, 1, &[3, 4, 5])), Refusal::ShardForms { shard: 0 });
    done(&mut m, &form(0, 1, &[1, 2, 3]));
    invalid(refused(&mut m, &replicas(0, 1, 1, &[1, 2, 3], &[])), "has not been formed");
    done(&mut m, &MetaCommand::ShardFormed { shard: 0, generation: 1 });
    let formed = m.state().clone();
    done(&mut m, &MetaCommand::ShardFormed { shard: 0, generation: 1 });
    done(&mut m, &form(0, 1, &[1, 2, 3]));
    assert_eq!(*m.state(), formed);
    let shard = m.state().shards.get(0).unwrap();
    assert_eq!((shard.initial(), shard.is_formed(), shard.reported()), (&set(&[1, 2, 3]), true, None));
    assert!([1, 2, 3, 4, 5].iter().all(|id| m.state().shards.holds(*id)));
    assert!(!machine(3).state().shards.holds(1));
}

fn formed() -> MetaMachine {
    let mut m = machine(4);
    done(&mut m, &create(1, 3));
    done(&mut m, &placed(0, &[(0, &[1, 2, 3])]));
    done(&mut m, &form(0, 1, &[1, 2, 3]));
    done(&mut m, &MetaCommand::ShardFormed { shard: 0, generation: 1 });
    m
}

#[test]
fn an_older_report_changes_nothing() {
    let mut m = formed();
    done(&mut m, &replicas(0, 1, 0, &[1, 2, 3], &[]));
    done(&mut m, &replicas(0, 1, 7, &[1, 2, 3], &[4]));
    for index in [0, 6, 7] {
        let before = m.state().clone();
        done(&mut m, &replicas(0, 1, index, &[1], &[]));
        assert_eq!(*m.state(), before);
    }
    assert!(m.state().shards.holds(4));
    done(&mut m, &replicas(0, 1, 8, &[1, 2, 3], &[]));
    assert!(!m.state().shards.holds(4));
    invalid(refused(&mut m, &replicas(0, 1, 9, &[], &[1])), "0 voters and 1 learners");
    invalid(refused(&mut m, &replicas(0, 1, 9, &[1, 2], &[2])), "2 voters and 1 learners");
    let many: Vec<u64> = (1..65).collect();
    invalid(refused(&mut m, &replicas(0, 1, 9, &many, &[65])), "64 voters and 1 learners");
    let wrong = Refusal::Generation { shard: 0, generation: 2, current: 1 };
    assert_eq!(refused(&mut m, &replicas(0, 2, 9, &[1], &[])), wrong);
}

#[test]
fn a_shard_that_is_renewed_begins_anew() {
    let mut m = formed();
    done(&mut m, &replicas(0, 1, 7, &[1, 2, 3], &[4]));
    let renew = |generation| MetaCommand::RenewShard { shard: 0, generation };
    let refusal = Refusal::Generation { shard: 0, generation: 0, current: 1 };
    assert_eq!(refused(&mut m, &renew(0)), refusal);
    done(&mut m, &renew(1));
    let renewed = m.state().clone();
    done(&mut m, &renew(1));
    assert_eq!(*m.state(), renewed);
    let shard = renewed.shards.get(0).unwrap();
    assert_eq!((shard.generation(), shard.renewed(), shard.is_formed()), (2, 1, false));
    assert_eq!((shard.initial(), shard.reported(), shard.wanted()), (&set(&[]), None, &set(&[1, 2, 3])));
    // What is late of the generation before.
    let old = Refusal::Generation { shard: 0, generation: 1, current: 2 };
    for command in [
        form(0, 1, &[1, 2, 3]),
        MetaCommand::ShardFormed { shard: 0, generation: 1 },
        replicas(0, 1, 99, &[1, 2, 3], &[]),
    ] {
        assert_eq!(refused(&mut m, &command), old);
    }
    done(&mut m, &form(0, 2, &[1, 2, 3]));
    // Asked late, it must not throw away what was begun since.
    assert_eq!(refused(&mut m, &renew(1)), old);
}

#[test]
fn slots_move_one_epoch_at_a_time() {
    let mut m = machine(1);
    done(&mut m, &create(2, 1));
    let run_at = |first, shard| SlotRun { first, shard };
    let moved = |epoch, runs| MetaCommand::MoveSlots { epoch, runs };
    let runs = vec![run_at(0, 0), run_at(1000, 1), run_at(4095, 0)];
    for epoch in [0, 1, 3] {
        let refusal = Refusal::Epoch { epoch, current: 1 };
        assert_eq!(refused(&mut m, &moved(epoch, runs.clone())), refusal);
    }
    invalid(refused(&mut m, &moved(2, vec![run_at(0, 2)])), "of shard 2");
    done(&mut m, &moved(2, runs.clone()));
    assert_eq!((m.state().shards.slots().epoch(), m.state().shards.slots().runs()), (2, &runs[..]));
    assert_eq!([999, 1000, 4094, 4095].map(|slot| m.state().shards.slots().shard(slot).unwrap()), [0, 1, 1, 0]);
}

#[test]
fn zones_are_those_of_members() {
    let mut m = machine(3);
    assert_eq!(refused(&mut m, &zone(4, "a")), Refusal::NotMember { id: 4 });
    invalid(refused(&mut m, &zone(1, &"z".repeat(64))), "64 bytes");
    invalid(refused(&mut m, &zone(1, "a\nb")), "3 bytes");
    done(&mut m, &zone(1, &"z".repeat(63)));
    done(&mut m, &zone(1, "eu-1"));
    done(&mut m, &zone(2, "eu-2"));
    done(&mut m, &zone(3, ""));
    assert_eq!([1, 2, 3].map(|id| m.state().shards.zone(id)), ["eu-1", "eu-2", ""]);
    done(&mut m, &zone(1, ""));
    assert_eq!(m.state().shards.zone(1), "");
    // Of a member that has gone nothing is left.
    done(&mut m, &MetaCommand::Leave { id: 2 });
    done(&mut m, &MetaCommand::Removed { id: 2 });
    assert!(m.state().shards.is_empty());
}

#[test]
fn a_removed_member_stays_wanted_until_the_next_plan() {
    let mut m = formed();
    done(&mut m, &MetaCommand::Leave { id: 2 });
    done(&mut m, &MetaCommand::Removed { id: 2 });
    assert_eq!(*m.state().shards.get(0).unwrap().wanted(), set(&[1, 2, 3]));
}

/// The state is copied after each entry of meta's log, and there may be a thousand shards.
#[test]
fn a_copy_shares_the_shards_that_did_not_change() {
    let mut m = machine(3);
    done(&mut m, &create(3, 3));
    let before = m.state().clone();
    assert!(Arc::ptr_eq(&before.shards, &m.state().clone().shards));
    done(&mut m, &placed(0, &[(1, &[1, 2, 3])]));
    let shared = |shard: usize| Arc::ptr_eq(&before.shards.shards[shard], &m.state().shards.shards[shard]);
    assert_eq!([0, 1, 2].map(shared), [true, false, true]);
}

pub(super) fn any_command() -> impl Strategy<Value = MetaCommand> {
    let ids = || proptest::collection::btree_set(1u64..6, 0..4);
    let (shard, generation) = (|| 0u16..4, || 1u32..4);
    prop_oneof![
        1 => (1u16..4, 1u8..4).prop_map(|(count, replication)| create(count, replication)),
        4 => (0u64..6, proptest::collection::vec((shard(), ids()), 0..3))
            .prop_map(|(epoch, moves)| MetaCommand::PlaceShards { epoch, moves }),
        4 => (shard(), generation(), ids())
            .prop_map(|(shard, generation, voters)| MetaCommand::FormShard { shard, generation, voters }),
        2 => (shard(), generation())
            .prop_map(|(shard, generation)| MetaCommand::ShardFormed { shard, generation }),
        2 => (shard(), generation(), 0u64..9, ids(), ids()).prop_map(|(shard, generation, index, voters, learners)| {
            MetaCommand::ShardReplicas { shard, generation, index, voters, learners }
        }),
        1 => (1u64..4, 1u16..4096, shard(), shard()).prop_map(|(epoch, at, a, b)| MetaCommand::MoveSlots {
            epoch,
            runs: vec![SlotRun { first: 0, shard: a }, SlotRun { first: at, shard: b }],
        }),
        1 => (1u64..6, "[a-c]{0,2}").prop_map(|(id, zone)| MetaCommand::Zone { id, zone }),
        1 => (shard(), generation()).prop_map(|(shard, generation)| MetaCommand::RenewShard { shard, generation }),
        1 => (4u64..6).prop_map(|id| MetaCommand::Leave { id }),
        1 => (4u64..6).prop_map(|id| MetaCommand::Removed { id }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Replicas agree, whether they began with a snapshot or not; who forms a generation never changes; a refusal changes nothing.
    #[test]
    fn deterministic(commands in proptest::collection::vec(any_command(), 1..120), cut in 0usize..120) {
        let mut a = machine(5);
        let mut b = a.clone();
        let mut formers = std::collections::BTreeMap::new();
        for (i, command) in commands.iter().enumerate() {
            if i == cut {
                let snapshot = a.snapshot();
                b = MetaMachine::new();
                b.restore(&snapshot).unwrap();
                let mut damaged = snapshot.clone();
                let at = damaged.len() - 1;
                damaged[at] ^= 1;
                prop_assert!(MetaMachine::new().restore(&damaged).is_err());
                prop_assert!(MetaMachine::new().restore(&snapshot[..at]).is_err());
            }
            let (before, hash) = (a.state().clone(), a.hash());
            let answer = run(&mut a, command);
            prop_assert_eq!(&answer, &run(&mut b, command));
            prop_assert_eq!(a.state(), b.state());
            if matches!(answer, MetaResponse::Refused(_)) {
                prop_assert_eq!(&before, a.state());
            } else if before != *a.state() {
                prop_assert_ne!(hash, a.hash(), "the hash does not cover {:?}", command);
            }
            for (shard, s) in a.state().shards.iter() {
                if !s.initial().is_empty() {
                    let first = formers.entry((shard, s.generation())).or_insert_with(|| s.initial().clone());
                    prop_assert_eq!(&*first, s.initial());
                }
                prop_assert!(!s.is_formed() || !s.initial().is_empty());
                prop_assert_eq!(s.generation(), s.renewed() + 1);
            }
        }
        prop_assert_eq!(a.snapshot(), b.snapshot());
    }
}
