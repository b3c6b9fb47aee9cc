#![allow(clippy::unwrap_used)]

use super::sim::World;
use super::*;
use crate::command::{InitialMember, MetaCommand, NodeAddresses};
use crate::state::MetaState;

/// Simulated minutes. Four hundred find every rule that is left out; these find most, and quicker.
const RUNS: u64 = 120;
const PARAMS: LeaseParams = LeaseParams { length: 2000, close: 5000 };

fn state(n: u64) -> MetaState {
    let mut state = MetaState::default();
    let members = (1..=n)
        .map(|id| InitialMember {
            id,
            name: format!("n{id}"),
            incarnation: u128::from(id),
            boot: 1,
            nonce: 1,
            addresses: NodeAddresses { link: "x:1".into(), control: String::new() },
            version: String::new(),
            feature_level: 1,
        })
        .collect();
    state.apply(MetaCommand::Init { cluster_id: 1, name: "t".into(), members });
    state
}

/// One request, its round and the answer, all at `now`.
fn ask(table: &mut LeaseTable, lease: &mut Lease, now: Nanos, applied: u64) -> Result<Grant, Denial> {
    lease.on_term(table.term());
    let request = lease.request(now, applied);
    let ticket = table.on_request(now, request)?;
    let round = table.begin_round(now).unwrap();
    let answers = table.end_round(now, round, true);
    let answer = answers.into_iter().find(|a| a.ticket == ticket).unwrap();
    if let Ok(grant) = &answer.result {
        lease.on_grant(grant);
    }
    answer.result
}

#[test]
fn schedules() {
    let (mut subacks, mut grants, mut fences, mut lapses) = (0, 0, 0, 0);
    for seed in 1..=RUNS {
        let mut world = World::new(seed);
        if let Err(error) = world.run() {
            panic!("seed {seed}: {error}");
        }
        subacks += world.subacks;
        grants += world.grants;
        fences += world.fences;
        lapses += world.lapses;
    }
    // The promise is empty where nobody is ever served.
    assert!(subacks > RUNS * 20, "{subacks} subscriptions acknowledged");
    assert!(grants > RUNS * 50, "{grants} leases granted");
    assert!(fences > RUNS * 20, "{fences} times others relied on a node's being fenced");
    assert!(lapses > RUNS / 4, "{lapses} times a node parted from its clients because of that");
}

#[test]
fn counted_from_the_sending() {
    let mut lease = Lease::new(PARAMS, 1, 1);
    assert_eq!(lease.phase(0), Phase::Closed);
    let first = lease.request(1000, 0);
    let second = lease.request(1500, 0);
    let grant = |r: &LeaseRequest, term| Grant { node: 1, boot: 1, seq: r.seq, term, watermark: None, fences: 0 };
    assert!(lease.on_grant(&grant(&second, 3)));
    // The earlier one comes late and shortens nothing.
    assert!(!lease.on_grant(&grant(&first, 3)));
    assert_eq!((lease.deadline(), lease.close_at()), (3500, 6500));
    let phases = [(3499, Phase::Serving), (3500, Phase::Fenced), (6499, Phase::Fenced), (6500, Phase::Closed)];
    for (at, phase) in phases {
        assert_eq!(lease.phase(at), phase, "at {at}");
    }
    // A leader of the past, another boot, a request never sent.
    let third = lease.request(4000, 0);
    assert!(!lease.on_grant(&grant(&third, 2)));
    assert!(!lease.on_grant(&Grant { boot: 2, ..grant(&third, 3) }));
    assert!(!lease.on_grant(&Grant { seq: 99, ..grant(&third, 3) }));
    assert_eq!(lease.phase(4000), Phase::Fenced);
    // A watermark counts while serving, and from the leader of now.
    for (now, term, accepted) in [(3499, 3, true), (3499, 2, false), (3499, 4, false), (3500, 3, false)] {
        assert_eq!(lease.accepts_watermark(now, term), accepted, "{now} {term}");
    }
    lease.release();
    assert!(!lease.on_grant(&grant(&third, 3)));
    assert_eq!(lease.phase(4000), Phase::Closed);
}

#[test]
fn a_new_leader_waits_for_older_leases() {
    let mut table = LeaseTable::new(PARAMS, 4, 10_000, &state(3));
    let mut one = Lease::new(PARAMS, 1, 1);
    assert_eq!(ask(&mut table, &mut one, 10_100, 5), Err(Denial::NotSettled));
    assert!(!table.begin_routes_read(10_100));
    // Silent members count as if they served.
    assert_eq!(table.watermark(), None);
    assert_eq!(table.next_event(10_100), Some(12_200));
    assert_eq!(ask(&mut table, &mut one, 12_200, 5), Err(Denial::RoutesUnknown));
    assert!(table.begin_routes_read(12_200));
    table.end_routes_read(Some(7));
    assert_eq!(ask(&mut table, &mut one, 12_201, 5), Err(Denial::Behind { applied: 5, needed: 7 }));
    assert!(ask(&mut table, &mut one, 12_300, 7).is_ok());
    assert_eq!(one.phase(12_300), Phase::Serving);
}

#[test]
fn all_asked_is_settled() {
    let mut table = LeaseTable::new(PARAMS, 4, 10_000, &state(3));
    let mut leases: Vec<Lease> = (1..=3).map(|id| Lease::new(PARAMS, id, 1)).collect();
    for lease in &mut leases {
        let _ = ask(&mut table, lease, 10_001, 0);
    }
    assert!(table.begin_routes_read(10_002));
    table.end_routes_read(Some(0));
    for lease in &mut leases {
        assert!(ask(&mut table, lease, 10_003, 0).is_ok());
    }
    assert_eq!(table.watermark(), Some(0));
}

#[test]
fn a_holder_is_prolonged_by_a_new_leader_at_once() {
    let mut table = LeaseTable::new(PARAMS, 1, 0, &state(1));
    let mut one = Lease::new(PARAMS, 1, 1);
    let _ = ask(&mut table, &mut one, 10, 0);
    assert!(table.begin_routes_read(10));
    table.end_routes_read(Some(0));
    assert!(ask(&mut table, &mut one, 20, 0).is_ok());
    let mut next = LeaseTable::new(PARAMS, 2, 1000, &state(1));
    assert!(ask(&mut next, &mut one, 1100, 0).is_ok());
}

#[test]
fn left_out_only_after_a_confirmed_round() {
    let mut table = LeaseTable::new(PARAMS, 1, 0, &state(2));
    let mut leases: Vec<Lease> = (1..=2).map(|id| Lease::new(PARAMS, id, 1)).collect();
    for lease in &mut leases {
        let _ = ask(&mut table, lease, 1, 3);
    }
    assert!(table.begin_routes_read(1));
    table.end_routes_read(Some(3));
    for lease in &mut leases {
        assert!(ask(&mut table, lease, 2, 3).is_ok());
    }
    assert!(table.on_applied(1, 1, 3) || table.watermark() == Some(3));
    table.on_applied(1, 1, 9);
    assert_eq!(table.watermark(), Some(3));
    let late = 2 + PARAMS.counted() + 1;
    leases[0].on_term(1);
    // A round that fails leaves nobody out.
    let round = table.begin_round(late).unwrap();
    assert!(table.end_round(late, round, false).is_empty());
    assert!(table.is_holder(2));
    assert_eq!(table.begin_down(late + PARAMS.down_after()), Vec::<u64>::new());
    let round = table.begin_round(late).unwrap();
    table.end_round(late, round, true);
    assert!(!table.is_holder(2) && !table.is_holder(1));
    // It comes back behind the watermark of the other, which was prolonged.
    assert!(ask(&mut table, &mut leases[0], late + 1, 9).is_ok());
    table.on_applied(1, 1, 9);
    assert_eq!(table.watermark(), Some(9));
    assert_eq!(ask(&mut table, &mut leases[1], late + 2, 8), Err(Denial::Behind { applied: 8, needed: 9 }));
    assert!(ask(&mut table, &mut leases[1], late + 3, 9).is_ok());
}

#[test]
fn a_new_boot_holds_nothing() {
    let mut table = LeaseTable::new(PARAMS, 1, 0, &state(1));
    let mut old = Lease::new(PARAMS, 1, 1);
    let _ = ask(&mut table, &mut old, 1, 9);
    assert!(table.begin_routes_read(1));
    table.end_routes_read(Some(9));
    assert!(ask(&mut table, &mut old, 2, 9).is_ok());
    let mut new = Lease::new(PARAMS, 1, 2);
    assert_eq!(ask(&mut table, &mut new, 3, 4), Err(Denial::Behind { applied: 4, needed: 9 }));
    assert!(!table.is_holder(1));
    assert_eq!(ask(&mut table, &mut old, 4, 9), Err(Denial::StaleBoot { boot: 1 }));
}

#[test]
fn down_and_released() {
    let mut meta = state(2);
    for m in meta.members.values_mut() {
        m.up = true;
    }
    let mut table = LeaseTable::new(PARAMS, 1, 0, &meta);
    let mut one = Lease::new(PARAMS, 1, 1);
    let _ = ask(&mut table, &mut one, 1, 0);
    // Node 1 stops cleanly: it is declared down at once, the silent one when 1.1 D is over.
    one.release();
    let release = one.request(2, 0);
    assert_eq!(table.on_request(2, release), Err(Denial::Withdrawn));
    assert_eq!(table.begin_down(2), vec![1]);
    assert_eq!(table.begin_down(3), Vec::<u64>::new());
    table.end_down(3, 1, true, None);
    let over = PARAMS.counted() + 1;
    let round = table.begin_round(over).unwrap();
    table.end_round(over, round, true);
    assert_eq!(table.begin_down(over), Vec::<u64>::new());
    assert_eq!(table.next_event(over), Some(PARAMS.down_after()));
    assert_eq!(table.begin_down(PARAMS.down_after()), vec![2]);
    let mut two = Lease::new(PARAMS, 2, 1);
    assert!(table.begin_routes_read(over));
    table.end_routes_read(Some(0));
    let now = PARAMS.down_after() + 1;
    assert_eq!(ask(&mut table, &mut two, now, 0), Err(Denial::GoingDown));
    // Sent before it had applied that its stream was closed, and late.
    table.end_down(now, 2, true, Some(7));
    let late = Err(Denial::Behind { applied: 6, needed: 7 });
    assert!(!table.on_applied(2, 1, 7));
    assert_eq!(ask(&mut table, &mut two, now, 6), late);
    assert!(ask(&mut table, &mut two, now, 7).is_ok());
    assert_eq!(table.to_bring_up(), vec![2]);
    table.brought_up(2);
    assert_eq!(table.to_bring_up(), Vec::<u64>::new());
}

#[test]
fn who_leaves_counts_until_its_lease_is_over() {
    let meta = state(2);
    let mut table = LeaseTable::new(PARAMS, 1, 0, &meta);
    let mut without = meta.clone();
    without.members.remove(&2);
    table.set_members(10, &without);
    assert!(table.is_holder(2));
    let stranger = LeaseRequest { node: 2, boot: 1, seq: 1, term: 1, holding: true, applied: 0, release: false };
    assert_eq!(table.on_request(11, stranger), Err(Denial::NotActive { node: 2 }));
    let over = PARAMS.counted() + 1;
    let round = table.begin_round(over).unwrap();
    table.end_round(over, round, true);
    assert_eq!(table.members().map(|m| m.0).collect::<Vec<_>>(), vec![1]);
}

/// A short time without a lease costs nothing, unless others relied on it; and that costs it once.
#[test]
fn clients_are_parted_from_where_others_relied_on_it() {
    let mut lease = Lease::new(PARAMS, 1, 1);
    let grant = |lease: &mut Lease, at, fences| {
        let seq = lease.request(at, 0).seq;
        let grant = Grant { node: 1, boot: 1, seq, term: 1, watermark: None, fences };
        let lapses = lease.lapses(at, &grant);
        if !lapses {
            lease.on_grant(&grant);
        }
        (lapses, lease.phase(at))
    };
    // Of an earlier boot.
    assert_eq!(grant(&mut lease, 1_000, 3), (false, Phase::Serving));
    // While it served nobody could.
    assert_eq!(grant(&mut lease, 2_000, 4), (false, Phase::Serving));
    // Fenced for a moment.
    assert_eq!(grant(&mut lease, 4_500, 4), (false, Phase::Serving));
    assert_eq!(grant(&mut lease, 7_000, 5), (true, Phase::Closed));
    assert_eq!(grant(&mut lease, 7_100, 5), (false, Phase::Serving));
    assert_eq!(grant(&mut lease, 9_500, 5), (false, Phase::Serving));
}
