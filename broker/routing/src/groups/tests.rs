#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const GROUP: &str = "$share/g/t";

pub(super) fn ask(strategy: GroupStrategy) -> Ask<'static> {
    Ask { strategy, own: 1, client: "c", topic: "t", random: 0, forwarded: false, tried: &[], excluded: &[] }
}

fn id(worker: u8, client: u64) -> MemberId {
    MemberId { worker, client }
}

fn nodes(members: &[(u64, u32)]) -> Vec<GroupNode> {
    members.iter().map(|&(node, members)| GroupNode { node, members }).collect()
}

fn member(groups: &NodeGroups<u32>, ask: &Ask<'_>) -> Option<MemberId> {
    match groups.choose(&GROUP.into(), &[], ask, |_, in_flight| *in_flight) {
        Choice::Member(chosen) => Some(chosen.member),
        Choice::Node { .. } => panic!("there is no other node"),
        Choice::Nobody => None,
    }
}

/// Members (worker, client) with their messages in flight.
fn groups(members: &[(u8, u64, u32)]) -> NodeGroups<u32> {
    let groups = NodeGroups::new();
    for &(worker, client, in_flight) in members {
        groups.join(GROUP, id(worker, client), true, in_flight).unwrap();
    }
    groups
}

#[test]
fn round_robin_is_exact_over_workers_and_changes() {
    let groups = groups(&[(0, 1, 0), (1, 1, 0), (2, 9, 0)]);
    let ask = ask(GroupStrategy::RoundRobin);
    let next = || member(&groups, &ask).map(|m| (m.worker, m.client));
    assert_eq!([next(), next(), next(), next()], [Some((0, 1)), Some((1, 1)), Some((2, 9)), Some((0, 1))]);
    groups.leave(GROUP, id(0, 1));
    groups.join(GROUP, id(1, 5), true, 0);
    assert_eq!([next(), next(), next(), next()], [Some((1, 1)), Some((1, 5)), Some((2, 9)), Some((1, 1))]);
    let excluded = Ask { excluded: &[id(1, 5), id(2, 9)], ..ask };
    assert_eq!(member(&groups, &excluded), Some(id(1, 1)));
    let all = Ask { excluded: &[id(1, 5), id(2, 9), id(1, 1)], ..ask };
    assert_eq!(member(&groups, &all), None);
}

#[test]
fn sticky_stays_until_the_member_leaves() {
    let groups = groups(&[(0, 1, 0), (0, 2, 0), (0, 3, 0)]);
    let sticky = |random| Ask { random, ..ask(GroupStrategy::Sticky) };
    let first = member(&groups, &sticky(u64::MAX)).unwrap();
    assert_eq!(first, id(0, 3));
    for random in [0, 7, u64::MAX / 2] {
        assert_eq!(member(&groups, &sticky(random)), Some(first));
    }
    // A message that it refuses does not change the choice.
    assert_eq!(member(&groups, &Ask { excluded: &[first], ..sticky(0) }), Some(id(0, 1)));
    assert_eq!(member(&groups, &sticky(0)), Some(first));
    groups.leave(GROUP, first);
    let second = member(&groups, &sticky(u64::MAX)).unwrap();
    assert_eq!(second, id(0, 2));
    groups.join(GROUP, first, true, 0);
    assert_eq!(member(&groups, &sticky(u64::MAX)), Some(second));
    groups.set_online(GROUP, second, false);
    assert_eq!(member(&groups, &sticky(0)), Some(id(0, 1)));
}

#[test]
fn hashes_are_steady_and_spread() {
    for strategy in [GroupStrategy::HashClient, GroupStrategy::HashTopic] {
        let groups = groups(&[(0, 1, 0), (0, 2, 0), (1, 1, 0), (1, 2, 0)]);
        let choose = |text: &str| match strategy {
            GroupStrategy::HashClient => member(&groups, &Ask { client: text, ..ask(strategy) }),
            _ => member(&groups, &Ask { topic: text, ..ask(strategy) }),
        };
        let before: Vec<_> = (0..400).map(|i| choose(&format!("x{i}")).unwrap()).collect();
        for (worker, client) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
            let count = before.iter().filter(|&&m| m == id(worker, client)).count();
            assert!((60..=140).contains(&count), "{count}");
        }
        groups.leave(GROUP, id(1, 1));
        for (i, before) in before.into_iter().enumerate() {
            let now = choose(&format!("x{i}")).unwrap();
            assert!(now == before || before == id(1, 1), "only what the one that left had moves");
        }
    }
}

#[test]
fn random_reaches_all() {
    let groups = groups(&[(0, 1, 0), (0, 2, 0), (1, 1, 0)]);
    let mut counts: BTreeMap<MemberId, u32> = BTreeMap::new();
    for i in 0..300_u64 {
        let random = crate::hash::mix(i, 5);
        *counts.entry(member(&groups, &Ask { random, ..ask(GroupStrategy::Random) }).unwrap()).or_default() += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|&n| n > 60), "{counts:?}");
}

#[test]
fn least_in_flight_in_turns_among_equals() {
    let groups = groups(&[(0, 1, 3), (0, 2, 1), (0, 3, 1), (0, 4, 2)]);
    let ask = ask(GroupStrategy::LeastInFlight);
    let order: Vec<_> = (0..4).map(|_| member(&groups, &ask).unwrap().client).collect();
    assert_eq!(order, [2, 3, 2, 3]);
    groups.join(GROUP, id(0, 2), true, 9);
    groups.join(GROUP, id(0, 3), true, 9);
    assert_eq!(member(&groups, &ask), Some(id(0, 4)));
}

#[test]
fn an_offline_member_comes_after_all_online_ones() {
    let groups = groups(&[(0, 1, 0), (0, 2, 0)]);
    groups.set_online(GROUP, id(0, 1), false);
    let group: Arc<str> = GROUP.into();
    let online = |ask: &Ask<'_>, nodes: &[GroupNode]| match groups.choose(&group, nodes, ask, |_, _| 0) {
        Choice::Member(chosen) => (chosen.member.client, chosen.online),
        other => panic!("{other:?}"),
    };
    let ask = ask(GroupStrategy::RoundRobin);
    assert_eq!([online(&ask, &[]), online(&ask, &[])], [(2, true), (2, true)]);
    let refused = Ask { excluded: &[id(0, 2)], ..ask };
    assert_eq!(online(&refused, &[]), (1, false));
    // Another node may have an online one.
    let others = nodes(&[(7, 1)]);
    let own = TriedNode { node: 1, offline: true };
    let choice = groups.choose(&group, &others, &refused, |_, _| 0);
    assert_eq!(choice, Choice::Node { node: 7, tried: SmallVec::from_slice(&[own]) });
    // It had none either, and says so.
    let seven = TriedNode { node: 7, offline: true };
    let back = Ask { forwarded: true, tried: &[own, seven], ..refused };
    assert_eq!(online(&back, &others), (1, false));
    // Nor has this one any more.
    let back = Ask { excluded: &[id(0, 1), id(0, 2)], ..back };
    let choice = groups.choose(&group, &others, &back, |_, _| 0);
    let gone = TriedNode { node: 1, offline: false };
    assert_eq!(choice, Choice::Node { node: 7, tried: SmallVec::from_slice(&[gone, seven]) });
    let gone = TriedNode { node: 7, offline: false };
    let back = Ask { tried: &[own, gone], ..back };
    assert_eq!(groups.choose(&group, &others, &back, |_, _| 0), Choice::Nobody);
}

#[test]
fn local_first_and_forwarded_stay_here() {
    let groups = groups(&[(0, 1, 0)]);
    let group: Arc<str> = GROUP.into();
    let others = nodes(&[(7, 100), (8, 100)]);
    let is_here = |ask: &Ask<'_>| matches!(groups.choose(&group, &others, ask, |_, _| 0), Choice::Member(_));
    for i in 0..50 {
        assert!(is_here(&Ask { random: i, ..ask(GroupStrategy::LocalFirst) }));
        assert!(is_here(&Ask { forwarded: true, random: i, ..ask(GroupStrategy::RoundRobin) }));
    }
    assert!(!is_here(&ask(GroupStrategy::RoundRobin)));
    groups.leave(GROUP, id(0, 1));
    let places: Vec<_> = (0..4)
        .map(|_| match groups.choose(&group, &others, &ask(GroupStrategy::LocalFirst), |_, _| 0) {
            Choice::Node { node, .. } => node,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(places, [7, 8, 7, 8]);
}

#[test]
fn sticky_between_nodes() {
    let (groups, group): (NodeGroups<u32>, Arc<str>) = (NodeGroups::new(), GROUP.into());
    let node = |nodes: &[GroupNode], tried: &[TriedNode]| match groups.choose(
        &group,
        nodes,
        &Ask { tried, ..ask(GroupStrategy::Sticky) },
        |_, _| 0,
    ) {
        Choice::Node { node, .. } => node,
        other => panic!("{other:?}"),
    };
    let all = nodes(&[(5, 1), (6, 1), (7, 1)]);
    let first = node(&all, &[]);
    let more = nodes(&[(2, 1000), (5, 1), (6, 1), (7, 1)]);
    for _ in 0..10 {
        assert_eq!(node(&more, &[]), first);
    }
    assert_ne!(node(&all, &[TriedNode { node: first, offline: false }]), first);
    assert_eq!(node(&more, &[]), first);
    let left: Vec<_> = more.iter().filter(|place| place.node != first).copied().collect();
    let second = node(&left, &[]);
    assert_eq!(node(&more, &[]), second);
}

#[test]
fn queue_is_the_group_of_that_name() {
    let groups: NodeGroups<&str> = NodeGroups::new();
    let joined = |replaced, members| Some(Joined { replaced, members });
    assert_eq!(groups.join("$queue/t", id(0, 1), true, "q"), joined(None, 1));
    assert_eq!(groups.join("$share/$queue/t", id(0, 1), true, "s"), joined(None, 2));
    assert_eq!(groups.join("$share/$queue/t", id(0, 1), true, "r"), joined(Some("s"), 2));
    assert_eq!(groups.join("t", id(0, 1), true, "x"), None);
    assert_eq!(groups.counts(), (1, 2));
    let group = group_key("$queue/t").unwrap();
    let mut filters: Vec<_> = (0..2)
        .map(|_| match groups.choose(&group, &[], &ask(GroupStrategy::RoundRobin), |_, _| 0) {
            Choice::Member(chosen) => (chosen.filter.to_string(), chosen.options),
            other => panic!("{other:?}"),
        })
        .collect();
    filters.sort();
    assert_eq!(filters, [("$queue/t".to_owned(), "q"), ("$share/$queue/t".to_owned(), "r")]);
    assert_eq!(groups.leave("$queue/t", id(0, 1)), Some("q"));
    assert_eq!(groups.leave("$queue/t", id(0, 1)), None);
    assert_eq!(groups.leave("$share/$queue/t", id(0, 1)), Some("r"));
    assert_eq!(groups.counts(), (0, 0));
}

#[test]
fn groups_without_members_are_forgotten() {
    let groups: NodeGroups<u32> = NodeGroups::new();
    groups.join("$share/g/0", id(0, 1), true, 0);
    let others = nodes(&[(7, 1), (8, 1)]);
    for i in 0..100_000 {
        groups.choose(&format!("$share/g/{i}").into(), &others, &ask(GroupStrategy::RoundRobin), |_, _| 0);
    }
    let kept: usize = groups.0.shards.iter().map(|shard| shard.lock().unwrap().groups.len()).sum();
    assert!(kept <= SHARDS * (FOREIGN + 1), "{kept}");
    assert_eq!(groups.counts(), (1, 1));
}

proptest! {
    /// Whatever the strategy: a member is chosen whenever one is left, an online one before an offline one, never an excluded one; and a
    /// group is a map from members to options.
    #[test]
    fn is_a_map_of_members(
        steps in prop::collection::vec((0_u8..3, 0_u64..3, any::<bool>(), 0_u8..3, any::<u64>()), 1..80),
        strategy in prop::sample::select(vec![
            GroupStrategy::RoundRobin, GroupStrategy::Random, GroupStrategy::Sticky, GroupStrategy::HashClient, GroupStrategy::HashTopic,
            GroupStrategy::LocalFirst, GroupStrategy::LeastInFlight,
        ]),
    ) {
        let groups: NodeGroups<u32> = NodeGroups::new();
        let mut model: BTreeMap<MemberId, (bool, u32)> = BTreeMap::new();
        for (i, (worker, client, online, step, random)) in steps.into_iter().enumerate() {
            let (member, options) = (id(worker, client), i as u32);
            match step {
                0 => {
                    let replaced = model.insert(member, (online, options)).map(|(_, options)| options);
                    let joined = groups.join(GROUP, member, online, options);
                    prop_assert_eq!(joined, Some(Joined { replaced, members: model.len() }));
                }
                1 => {
                    let left = model.remove(&member).map(|(_, options)| options);
                    prop_assert_eq!(groups.leave(GROUP, member), left);
                }
                _ => {
                    if let Some(known) = model.get_mut(&member) {
                        known.0 = online;
                    }
                    prop_assert_eq!(groups.set_online(GROUP, member, online), model.contains_key(&member));
                }
            }
            let mut excluded = Vec::new();
            loop {
                let left: Vec<_> = model.iter().filter(|(member, _)| !excluded.contains(*member)).collect();
                let best = left.iter().map(|(_, (online, _))| *online).max();
                match groups.choose(&GROUP.into(), &[], &Ask { random, excluded: &excluded, ..ask(strategy) }, |_, o| *o) {
                    Choice::Member(chosen) => {
                        let (_, known) = left.iter().find(|(member, _)| **member == chosen.member).expect("a member");
                        prop_assert_eq!(**known, (chosen.online, chosen.options));
                        prop_assert_eq!(Some(chosen.online), best);
                        excluded.push(chosen.member);
                    }
                    Choice::Nobody => {
                        prop_assert_eq!(best, None);
                        break;
                    }
                    Choice::Node { .. } => prop_assert!(false, "there is no other node"),
                }
            }
            prop_assert_eq!(groups.counts(), (usize::from(!model.is_empty()), model.len()));
        }
    }
}
