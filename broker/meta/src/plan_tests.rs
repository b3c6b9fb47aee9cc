#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::command::{InitialMember, MetaCommand, NodeAddresses};
use crate::loss::would_lose;

fn set(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

fn state(active: u64) -> MetaState {
    let mut state = MetaState::default();
    let members = (1..=active)
        .map(|id| InitialMember {
            id,
            name: format!("n{id}"),
            incarnation: u128::from(id),
            boot: 1,
            nonce: 1,
            addresses: NodeAddresses { link: format!("n{id}:9883"), control: String::new() },
            version: "0".into(),
            feature_level: 1,
        })
        .collect();
    state.apply(MetaCommand::Init { cluster_id: 9, name: "c".into(), members });
    for m in state.members.values_mut() {
        m.up = true;
    }
    state
}

fn group(voters: &[u64], learners: &[u64]) -> GroupMembership {
    let all: BTreeSet<u64> = voters.iter().chain(learners).copied().collect();
    GroupMembership {
        leader: voters[0],
        voters: set(voters),
        learners: set(learners),
        reachable: all.clone(),
        caught_up: all,
        preferred: BTreeSet::new(),
    }
}

#[test]
fn another_group_has_the_voters_of_meta() {
    // Two nodes have one voter: it must be the same one in every group, whoever led when the third left.
    let mut routes = group(&[2], &[1]);
    assert_eq!(plan(&state(2), &routes), None, "without a preference the leader stays");
    routes.preferred = set(&[1]);
    assert_eq!(plan(&state(2), &routes), Some(Step::ChangeVoters(set(&[1]))));
    assert_eq!(plan(&state(2), &GroupMembership { preferred: set(&[1]), ..group(&[1], &[2]) }), None);

    let mut four = group(&[2, 3, 4], &[1]);
    four.preferred = set(&[1, 2, 3]);
    assert_eq!(plan(&state(4), &four), Some(Step::ChangeVoters(set(&[1, 2, 3]))));
    // A preferred one that is down is not waited for.
    four.reachable.remove(&1);
    let mut down = state(4);
    down.members.get_mut(&1).unwrap().up = false;
    assert_eq!(plan(&down, &four), None);
}

#[test]
fn voters_are_1_3_or_5() {
    let table = [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (64, 5)];
    for (members, voters) in table {
        assert_eq!(voters_for(members), voters, "{members} members");
    }
}

#[test]
fn steps() {
    let mut leaving3 = state(3);
    leaving3.members.get_mut(&3).unwrap().status = MemberStatus::Leaving;
    let mut leaving1 = state(3);
    leaving1.members.get_mut(&1).unwrap().status = MemberStatus::Leaving;
    let mut replaced = state(4);
    replaced.members.get_mut(&3).unwrap().status = MemberStatus::Replaced;
    let mut behind = group(&[1, 2, 3], &[4]);
    behind.caught_up.remove(&4);
    let mut replaced_gone = behind.clone();
    replaced_gone.reachable.remove(&3);
    let mut down = state(4);
    down.members.get_mut(&2).unwrap().up = false;
    let mut down_group = group(&[1, 2, 3], &[4]);
    down_group.reachable.remove(&2);
    let mut leave_of_four = state(4);
    leave_of_four.members.get_mut(&2).unwrap().status = MemberStatus::Leaving;
    let mut one_of_two = group(&[1], &[2, 3]);
    one_of_two.caught_up.remove(&3);
    let mut minority = group(&[1, 2, 3], &[4]);
    minority.reachable = set(&[1]);

    let mut voteless = group(&[1, 2, 3], &[4]);
    voteless.leader = 4;

    let table: Vec<(&str, MetaState, GroupMembership, Option<Step>)> = vec![
        ("in order", state(3), group(&[1, 2, 3], &[]), None),
        ("a fourth follows", state(4), group(&[1, 2, 3], &[]), Some(Step::AddLearner(4))),
        ("a fourth has no vote", state(4), group(&[1, 2, 3], &[4]), None),
        ("a fifth makes five", state(5), group(&[1, 2, 3], &[4, 5]), Some(Step::ChangeVoters(set(&[1, 2, 3, 4, 5])))),
        ("one to three in one change", state(3), group(&[1], &[2, 3]), Some(Step::ChangeVoters(set(&[1, 2, 3])))),
        ("never two for growth", state(3), one_of_two, None),
        ("three to one", leaving3.clone(), group(&[1, 2, 3], &[]), Some(Step::ChangeVoters(set(&[1])))),
        ("and out", leaving3, group(&[1], &[2, 3]), Some(Step::RemoveNode(3))),
        ("a leader that leaves hands on", leaving1, group(&[1, 2, 3], &[]), Some(Step::TransferLeader(2))),
        (
            "a leaving voter is swapped",
            leave_of_four.clone(),
            group(&[1, 2, 3], &[4]),
            Some(Step::ChangeVoters(set(&[1, 3, 4]))),
        ),
        ("a leaving voter waits for its successor", leave_of_four, behind.clone(), None),
        ("a replaced voter does not wait", replaced.clone(), replaced_gone, Some(Step::ChangeVoters(set(&[1, 2])))),
        ("then its successor votes", replaced, group(&[1, 2], &[3, 4]), Some(Step::ChangeVoters(set(&[1, 2, 4])))),
        ("a voter that is down is swapped", down, down_group, Some(Step::ChangeVoters(set(&[1, 3, 4])))),
        ("nothing without a quorum", state(5), minority, Some(Step::AddLearner(5))),
        ("a leader without a vote hands on", state(4), voteless, Some(Step::TransferLeader(1))),
        ("strangers go", state(3), group(&[1, 2, 3], &[9]), Some(Step::RemoveNode(9))),
    ];
    for (name, state, group, step) in table {
        assert_eq!(plan(&state, &group), step, "{name}");
    }
}

#[test]
fn loss() {
    let s = state(3);
    let groups = vec![("meta".to_owned(), group(&[1, 2, 3], &[]))];
    let mut relay = would_lose(&s, &groups, &set(&[1, 2, 3]), 1);
    relay.relays(0);
    assert!(relay.nothing);
    relay.relays(8);
    assert!(!relay.nothing && relay.reasons[0].contains("8 connections"), "{relay:?}");
    assert!(would_lose(&s, &groups, &set(&[1, 2, 3]), 1).nothing);
    let two = would_lose(&s, &groups, &set(&[1, 2]), 1);
    assert!(!two.nothing && two.groups[0].loses_quorum);
    // The one that is dead already costs nothing.
    assert!(would_lose(&s, &groups, &set(&[1, 2]), 3).nothing);
    let none = would_lose(&s, &groups, &set(&[1]), 3);
    assert!(!none.nothing && !none.groups[0].has_quorum);
    let alone = vec![("meta".to_owned(), group(&[1], &[]))];
    let last = would_lose(&state(1), &alone, &set(&[1]), 1);
    assert_eq!(last.reasons.len(), 2);
}

proptest! {
    /// From any state the plan ends, every change keeps a live quorum, and where all live members are caught
    /// up it ends with the right number of voters.
    #[test]
    fn plan_converges(
        members in 1u64..9,
        statuses in proptest::collection::vec(0u8..5, 9),
        alive in proptest::collection::vec(any::<bool>(), 9),
        voter_count in 1usize..6,
    ) {
        let mut s = state(members);
        for (m, status) in s.members.values_mut().zip(&statuses) {
            m.status = match status { 0 => MemberStatus::Leaving, 1 => MemberStatus::Replaced, _ => MemberStatus::Active };
        }
        let ids: Vec<u64> = s.members.keys().copied().collect();
        let voters: BTreeSet<u64> = ids.iter().copied().take(voter_count).collect();
        let live: BTreeSet<u64> = ids.iter().copied().filter(|id| alive[(*id - 1) as usize]).collect();
        for m in s.members.values_mut() { m.up = live.contains(&m.id); }
        prop_assume!(voters.intersection(&live).count() > voters.len() / 2);
        let leader = *voters.intersection(&live).next().unwrap();
        let mut g = GroupMembership {
            preferred: BTreeSet::new(),
            leader,
            learners: ids.iter().copied().filter(|id| !voters.contains(id)).collect(),
            voters,
            reachable: live.clone(),
            caught_up: live.clone(),
        };
        let mut ended = false;
        for _ in 0..40 {
            match plan(&s, &g) {
                None => { ended = true; break }
                Some(Step::AddLearner(id)) => { g.learners.insert(id); }
                Some(Step::TransferLeader(id)) => {
                    prop_assert!(g.voters.contains(&id) && live.contains(&id));
                    g.leader = id;
                }
                Some(Step::ChangeVoters(new)) => {
                    prop_assert!(new.intersection(&live).count() > new.len() / 2, "{new:?} live {live:?}");
                    prop_assert!(!new.iter().any(|id| s.members[id].status == MemberStatus::Replaced));
                    for id in g.voters.difference(&new) { g.learners.insert(*id); }
                    for id in &new { g.learners.remove(id); }
                    g.voters = new;
                    if !g.voters.contains(&g.leader) {
                        g.leader = *g.voters.intersection(&live).next().unwrap();
                    }
                }
                Some(Step::RemoveNode(id)) => {
                    prop_assert!(!s.members[&id].is_active());
                    prop_assert!(g.learners.remove(&id));
                }
            }
        }
        prop_assert!(ended, "the plan goes round in circles");
        let active: BTreeSet<u64> = s.active().map(|m| m.id).collect();
        if !active.is_empty() && active.is_subset(&live) {
            prop_assert_eq!(g.voters.len(), voters_for(active.len()));
            prop_assert!(g.voters.is_subset(&active));
            prop_assert_eq!(g.voters.len() + g.learners.len(), active.len());
        }
    }
}
