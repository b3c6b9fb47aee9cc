#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::bans::{Ban, BanOrigin, BanTarget, MAX_BANS, MAX_BATCH};
use crate::command::{InitialMember, NodeAddresses};
use crate::state::MemberStatus;

fn addresses(port: u16) -> NodeAddresses {
    NodeAddresses { link: format!("127.0.0.1:{port}"), control: String::new() }
}

fn init(cluster_id: u128, n: u64) -> MetaCommand {
    let members = (1..=n)
        .map(|id| InitialMember {
            id,
            name: format!("n{id}"),
            incarnation: u128::from(id) * 100,
            boot: 1,
            nonce: 7,
            addresses: addresses(9000),
            version: "0.1".into(),
            feature_level: 1,
        })
        .collect();
    MetaCommand::Init { cluster_id, name: "test".into(), members }
}

fn join(name: &str, incarnation: u128, boot: u64, nonce: u64) -> MetaCommand {
    MetaCommand::Join {
        name: name.into(),
        incarnation,
        boot,
        nonce,
        addresses: addresses(9001),
        version: "0.1".into(),
        feature_level: 1,
    }
}

fn boot(id: u64, incarnation: u128, boot: u64, nonce: u64) -> MetaCommand {
    MetaCommand::Boot {
        id,
        incarnation,
        boot,
        nonce,
        addresses: addresses(9002),
        version: "0.1".into(),
        feature_level: 1,
    }
}

fn run(machine: &mut MetaMachine, command: &MetaCommand) -> MetaResponse {
    let index = machine.applied() + 1;
    MetaResponse::decode(&machine.apply(index, &command.encode())).unwrap()
}

fn refused(response: MetaResponse) -> Refusal {
    response.into_result().unwrap_err()
}

#[test]
fn initialised_once() {
    let mut m = MetaMachine::new();
    assert_eq!(refused(run(&mut m, &join("n1", 1, 1, 1))), Refusal::NotInitialised);
    assert_eq!(run(&mut m, &init(5, 3)), MetaResponse::Done);
    let before = m.state().clone();
    assert_eq!(run(&mut m, &init(5, 3)), MetaResponse::Done);
    assert_eq!(refused(run(&mut m, &init(6, 3))), Refusal::AlreadyInitialised { cluster_id: 5 });
    assert_eq!(*m.state(), before);
    assert_eq!(m.state().next_id, 4);
}

#[test]
fn ids_are_never_used_again() {
    let mut m = MetaMachine::new();
    run(&mut m, &init(5, 3));
    let joined = |id| MetaResponse::Joined { id, cluster_id: 5 };
    assert_eq!(run(&mut m, &join("n4", 400, 1, 1)), joined(4));
    // The answer was lost: the same again.
    assert_eq!(run(&mut m, &join("n4", 400, 1, 1)), joined(4));
    // It died and asks again in its next boot.
    assert_eq!(run(&mut m, &join("n4", 400, 2, 9)), joined(4));
    assert_eq!(refused(run(&mut m, &join("n4", 400, 1, 1))), Refusal::Stale { boot: 1, recorded: 2 });
    // Its directory was wiped.
    assert_eq!(run(&mut m, &join("n4", 401, 1, 1)), joined(5));
    assert_eq!(m.state().members[&4].status, MemberStatus::Replaced);
    assert_eq!(m.state().by_name("n4").unwrap().id, 5);
    assert_eq!(refused(run(&mut m, &join("n4", 400, 3, 1))), Refusal::Replaced { id: 4 });
    assert_eq!(refused(run(&mut m, &boot(4, 400, 3, 1))), Refusal::Replaced { id: 4 });
    assert_eq!(run(&mut m, &MetaCommand::Removed { id: 4 }), MetaResponse::Done);
    assert_eq!(run(&mut m, &MetaCommand::Removed { id: 4 }), MetaResponse::Done);
    assert_eq!(refused(run(&mut m, &join("n4", 400, 4, 1))), Refusal::Left { id: 4 });
    assert_eq!(refused(run(&mut m, &boot(4, 400, 4, 1))), Refusal::Left { id: 4 });
    assert_eq!(run(&mut m, &join("n4", 402, 1, 1)), joined(6));
}

#[test]
fn boots_only_grow() {
    let mut m = MetaMachine::new();
    run(&mut m, &init(5, 2));
    assert_eq!(run(&mut m, &boot(1, 100, 2, 3)), MetaResponse::Done);
    assert_eq!(m.state().members[&1].addresses, addresses(9002));
    assert_eq!(run(&mut m, &boot(1, 100, 2, 3)), MetaResponse::Done);
    assert_eq!(refused(run(&mut m, &boot(1, 100, 2, 4))), Refusal::Stale { boot: 2, recorded: 2 });
    assert_eq!(refused(run(&mut m, &boot(1, 100, 1, 3))), Refusal::Stale { boot: 1, recorded: 2 });
    assert_eq!(refused(run(&mut m, &boot(1, 200, 9, 3))), Refusal::NotMember { id: 1 });
}

#[test]
fn leaving() {
    let mut m = MetaMachine::new();
    run(&mut m, &init(5, 3));
    assert!(matches!(refused(run(&mut m, &MetaCommand::Removed { id: 3 })), Refusal::Invalid(_)));
    assert_eq!(run(&mut m, &MetaCommand::Leave { id: 3 }), MetaResponse::Done);
    assert_eq!(m.state().active().count(), 2);
    assert_eq!(run(&mut m, &MetaCommand::Removed { id: 3 }), MetaResponse::Done);
    assert_eq!(refused(run(&mut m, &MetaCommand::Leave { id: 3 })), Refusal::NotMember { id: 3 });
}

#[test]
fn up_and_down_by_epoch() {
    let mut m = MetaMachine::new();
    run(&mut m, &init(5, 3));
    run(&mut m, &MetaCommand::NodeUp { id: 2, epoch: 4 });
    assert!(m.state().members[&2].up);
    assert!(matches!(refused(run(&mut m, &MetaCommand::NodeDown { id: 2, epoch: 3 })), Refusal::Invalid(_)));
    run(&mut m, &MetaCommand::NodeDown { id: 2, epoch: 4 });
    assert!(!m.state().members[&2].up);
}

#[test]
fn features_need_all_members() {
    let mut m = MetaMachine::new();
    run(&mut m, &init(5, 3));
    assert_eq!(
        refused(run(&mut m, &MetaCommand::FeatureLevel { level: 2 })),
        Refusal::FeatureUnknown { id: 1, known: 1 }
    );
    for id in 1..=3 {
        let MetaCommand::Boot { incarnation, nonce, addresses, version, .. } = boot(id, u128::from(id) * 100, 2, 1)
        else {
            unreachable!()
        };
        let command = MetaCommand::Boot { id, incarnation, boot: 2, nonce, addresses, version, feature_level: 2 };
        assert_eq!(run(&mut m, &command), MetaResponse::Done);
    }
    assert_eq!(run(&mut m, &MetaCommand::FeatureLevel { level: 2 }), MetaResponse::Done);
    assert_eq!(refused(run(&mut m, &join("old", 8, 1, 1))), Refusal::TooOld { needed: 2, known: 1 });
}

#[test]
fn damaged_bytes_are_refused() {
    let mut m = MetaMachine::new();
    run(&mut m, &init(5, 3));
    let state = m.state().clone();
    for bytes in [&b""[..], b"\xff\x00", b"\x01\xff\xff\xff"] {
        let answer = MetaResponse::decode(&m.apply(9, bytes)).unwrap();
        assert!(matches!(refused(answer), Refusal::Invalid(_)));
    }
    assert_eq!(*m.state(), state);
    let snapshot = m.snapshot();
    for at in 0..snapshot.len() {
        let mut bad = snapshot.clone();
        bad[at] ^= 1;
        let mut other = MetaMachine::new();
        let restored = other.restore(&bad);
        // A flip in the applied index alone leaves the state as it was written.
        assert!(restored.is_err() || other.state() == m.state(), "flip at {at}");
    }
    assert!(MetaMachine::new().restore(&snapshot[..snapshot.len() - 1]).is_err());
}

fn any_command() -> impl Strategy<Value = MetaCommand> {
    let name = prop_oneof![Just("n1"), Just("n2"), Just("n3"), Just("")];
    prop_oneof![
        (1u128..3, 1u64..4).prop_map(|(c, n)| init(c, n)),
        (name, 0u128..8, 0u64..4, 0u64..2).prop_map(|(n, i, b, o)| join(n, i * 100, b, o)),
        (0u64..6, 0u128..8, 0u64..4, 0u64..2).prop_map(|(id, i, b, o)| boot(id, i * 100, b, o)),
        (0u64..6).prop_map(|id| MetaCommand::Leave { id }),
        (0u64..6).prop_map(|id| MetaCommand::Removed { id }),
        (0u64..6, 0u64..3).prop_map(|(id, epoch)| MetaCommand::NodeDown { id, epoch }),
        (0u64..6, 0u64..3).prop_map(|(id, epoch)| MetaCommand::NodeUp { id, epoch }),
    ]
}

proptest! {
    /// Replicas agree, whether they applied everything or began with a snapshot, and ids stay unique for ever.
    #[test]
    fn deterministic(commands in proptest::collection::vec(any_command(), 1..60), cut in 0usize..60) {
        let mut a = MetaMachine::new();
        let mut b = MetaMachine::new();
        let mut owners = std::collections::BTreeMap::new();
        for (i, command) in commands.iter().enumerate() {
            let bytes = command.encode();
            if i == cut {
                let snapshot = a.snapshot();
                b = MetaMachine::new();
                b.restore(&snapshot).unwrap();
            }
            let index = i as u64 + 1;
            prop_assert_eq!(a.apply(index, &bytes), b.apply(index, &bytes));
            for m in a.state().members.values() {
                let owner = owners.entry(m.id).or_insert(m.incarnation);
                prop_assert_eq!(*owner, m.incarnation, "id {} used again", m.id);
            }
        }
        prop_assert_eq!(a.hash(), b.hash());
        prop_assert_eq!(a.snapshot(), b.snapshot());
    }
}

/// A machine whose members all know bans.
fn with_bans() -> MetaMachine {
    let mut m = MetaMachine::new();
    let MetaCommand::Init { cluster_id, name, mut members } = init(5, 3) else { unreachable!() };
    members.iter_mut().for_each(|member| member.feature_level = crate::BANS_LEVEL);
    run(&mut m, &MetaCommand::Init { cluster_id, name, members });
    m
}

fn ban(id: u8, until_ms: Option<u64>) -> MetaCommand {
    let ban = Ban {
        target: BanTarget::ClientId(id.to_string()),
        reason: String::new(),
        by: "test".into(),
        origin: if id.is_multiple_of(2) { BanOrigin::Operator } else { BanOrigin::Flapping },
        since_ms: 1,
        until_ms,
    };
    MetaCommand::Ban { bans: vec![ban] }
}

#[test]
fn bans_wait_until_all_members_know_them() {
    let mut m = with_bans();
    let old = m.snapshot();
    assert_eq!(refused(run(&mut m, &ban(1, None))), Refusal::FeatureOff { needed: 2, level: 1 });
    assert_eq!(run(&mut m, &MetaCommand::FeatureLevel { level: 2 }), MetaResponse::Done);
    // Without bans a snapshot is one that the version before can read.
    assert_eq!(m.snapshot()[0], old[0]);
    assert_eq!(run(&mut m, &ban(1, Some(9))), MetaResponse::Done);
    assert_eq!(run(&mut m, &ban(2, None)), MetaResponse::Done);
    let target = BanTarget::ClientId("2".into());
    let mut restored = MetaMachine::new();
    restored.restore(&m.snapshot()).unwrap();
    assert_eq!(restored.state(), m.state());
    run(&mut m, &MetaCommand::BansOver { now_ms: 9 });
    assert_eq!(m.state().bans.len(), 1);
    assert_ne!(m.hash(), restored.hash());
    assert_eq!(run(&mut m, &MetaCommand::Unban { target: target.clone() }), MetaResponse::Done);
    assert_eq!(refused(run(&mut m, &MetaCommand::Unban { target })), Refusal::NoSuchBan);
    let mut damaged = restored.snapshot();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(MetaMachine::new().restore(&damaged).is_err());
}

#[test]
fn who_proposes_bans_hears_how_many_had_no_room() {
    let mut m = with_bans();
    run(&mut m, &MetaCommand::FeatureLevel { level: 2 });
    let of = |number: usize| Ban {
        target: BanTarget::ClientId(number.to_string()),
        reason: String::new(),
        by: "test".into(),
        origin: BanOrigin::Operator,
        since_ms: 1,
        until_ms: None,
    };
    let batch = |from: usize, to: usize| MetaCommand::Ban { bans: (from..to).map(of).collect() };
    let last = MAX_BANS - 1;
    for from in (0..last).step_by(MAX_BATCH) {
        assert_eq!(run(&mut m, &batch(from, (from + MAX_BATCH).min(last))), MetaResponse::Done);
    }
    assert_eq!(run(&mut m, &batch(last, last + 3)), MetaResponse::BansLeftOut { count: 2 });
    assert_eq!(refused(run(&mut m, &batch(last + 1, last + 3))), Refusal::BansFull);
}

proptest! {
    /// Replicas have the same bans and the same room for more, whether they began with a snapshot or not.
    #[test]
    fn bans_are_deterministic(
        commands in proptest::collection::vec(
            prop_oneof![
                (any::<u8>(), proptest::option::of(0u64..100)).prop_map(|(id, until)| ban(id, until)),
                any::<u8>().prop_map(|id| MetaCommand::Unban { target: BanTarget::ClientId(id.to_string()) }),
                (0u64..100).prop_map(|now_ms| MetaCommand::BansOver { now_ms }),
            ],
            1..60,
        ),
        cut in 0usize..60,
    ) {
        let mut a = with_bans();
        run(&mut a, &MetaCommand::FeatureLevel { level: 2 });
        let mut b = a.clone();
        for (i, command) in commands.iter().enumerate() {
            if i == cut {
                let snapshot = a.snapshot();
                b = MetaMachine::new();
                b.restore(&snapshot).unwrap();
            }
            prop_assert_eq!(run(&mut a, command), run(&mut b, command));
            prop_assert_eq!(a.state(), b.state());
        }
        prop_assert_eq!(a.snapshot(), b.snapshot());
    }
}
