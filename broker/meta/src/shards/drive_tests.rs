#![allow(clippy::unwrap_used)]
use super::*;
use crate::SHARDS_LEVEL;
use crate::command::MetaResponse;
use crate::shards::tests::{init, set};

struct World {
    state: MetaState,
    driver: ShardDriver,
    now: u64,
}

/// So many members, all up, and shards, of which nothing is placed.
fn world(members: u64, shards: u16) -> World {
    let mut world = World { state: MetaState::default(), driver: ShardDriver::new(1000), now: 1000 };
    world.apply(init(members, SHARDS_LEVEL));
    world.apply(MetaCommand::FeatureLevel { level: SHARDS_LEVEL });
    world.apply(MetaCommand::CreateShards { count: shards, replication: 3 });
    (1..=members).for_each(|id| world.up(id, true));
    world
}

/// The shards are formed where they shall be at first, each led by the first of its voters.
fn formed(members: u64, at: &[&[u64]]) -> World {
    let mut world = world(members, at.len() as u16);
    let moves = (0..).zip(at).map(|(shard, ids)| (shard, set(ids))).collect();
    world.apply(MetaCommand::PlaceShards { epoch: 0, moves });
    for (shard, ids) in (0..).zip(at) {
        world.apply(MetaCommand::FormShard { shard, generation: 1, voters: set(ids) });
        world.apply(MetaCommand::ShardFormed { shard, generation: 1 });
        let (voters, learners) = (set(ids), set(&[]));
        world.apply(MetaCommand::ShardReplicas { shard, generation: 1, index: 0, voters, learners });
    }
    world.now += SETTLED_AFTER_MS;
    world
}

fn report(shard: u16, voters: &[u64], learners: &[u64]) -> ShardReport {
    let all: BTreeSet<u64> = voters.iter().chain(learners).copied().collect();
    ShardReport {
        shard,
        generation: 1,
        leader: voters[0],
        term: 1,
        index: 0,
        settled: true,
        voters: set(voters),
        learners: set(learners),
        reachable: all.clone(),
        caught_up: all,
    }
}

impl World {
    fn apply(&mut self, command: MetaCommand) {
        assert_eq!(self.state.apply(command.clone()), MetaResponse::Done, "{command:?}");
    }

    fn up(&mut self, id: u64, up: bool) {
        self.apply(if up { MetaCommand::NodeUp { id, epoch: 1 } } else { MetaCommand::NodeDown { id, epoch: 1 } });
    }

    /// The shards shall be there from now on, whatever the driver would like; it thinks that it is its own placement.
    fn place(&mut self, moves: &[(u16, &[u64])]) {
        let epoch = self.state.shards.placed();
        let moves = moves.iter().map(|(shard, ids)| (*shard, set(ids))).collect();
        self.apply(MetaCommand::PlaceShards { epoch, moves });
        self.driver.look(self.now, &self.state);
        self.driver.placed = Some((epoch + 1, self.driver.candidates(self.now, &self.state)));
    }

    fn report(&mut self, report: ShardReport) {
        self.driver.report(self.now, report);
    }

    fn steps(&mut self) -> Vec<ShardStep> {
        let voters = self.state.active().map(|m| m.id).take(3).collect();
        self.driver.steps(self.now, &self.state, &voters)
    }

    /// The changes of membership, as shard and step.
    fn changes(&mut self) -> Vec<(u16, Step)> {
        let change = |step| match step {
            ShardStep::Change { shard, step, .. } => Some((shard, step)),
            _ => None,
        };
        self.steps().into_iter().filter_map(change).collect()
    }
}

fn proposed(command: MetaCommand) -> ShardStep {
    ShardStep::Propose(command)
}

#[test]
fn a_shard_comes_to_be() {
    let mut w = world(3, 1);
    assert_eq!(ShardDriver::new(0).steps(0, &MetaState::default(), &set(&[])), []);
    let place = MetaCommand::PlaceShards { epoch: 0, moves: vec![(0, set(&[1, 2, 3]))] };
    assert_eq!(w.steps(), [proposed(place.clone())]);
    // It is under way; or it was lost.
    assert_eq!(w.steps(), []);
    w.now += AGAIN_MS;
    assert_eq!(w.steps(), [proposed(place.clone())]);
    w.apply(place);
    let form = MetaCommand::FormShard { shard: 0, generation: 1, voters: set(&[1, 2, 3]) };
    assert_eq!(w.steps(), [proposed(form.clone())]);
    w.apply(form);
    let by = |node| ShardStep::Initialise { node, shard: 0, generation: 1, voters: set(&[1, 2, 3]) };
    assert_eq!(w.steps(), [by(1)]);
    assert_eq!(w.steps(), []);
    // Whoever is up does it, with the same voters.
    w.up(1, false);
    w.now += AGAIN_MS;
    assert_eq!(w.steps(), [by(2)]);
    // A report of another generation is none.
    w.report(ShardReport { generation: 2, ..report(0, &[3, 1, 2], &[]) });
    assert_eq!(w.steps(), []);
    w.report(report(0, &[3, 1, 2], &[]));
    let done = MetaCommand::ShardFormed { shard: 0, generation: 1 };
    assert_eq!(w.steps(), [proposed(done.clone())]);
    w.apply(done);
    let (voters, learners) = (set(&[1, 2, 3]), set(&[]));
    let there = MetaCommand::ShardReplicas { shard: 0, generation: 1, index: 0, voters, learners };
    assert_eq!(w.steps(), [proposed(there.clone())]);
    w.apply(there);
    assert_eq!(w.steps(), []);
    // One that is under way is not told.
    w.report(ShardReport { index: 2, settled: false, ..report(0, &[3, 1, 2], &[]) });
    assert_eq!(w.steps(), []);
}

#[test]
fn nobody_forms_a_shard_without_a_quorum() {
    let mut w = world(3, 1);
    w.place(&[(0, &[1, 2, 3])]);
    (1..3).for_each(|id| w.up(id, false));
    assert_eq!(w.steps(), []);
    w.up(2, true);
    assert_eq!(w.steps().len(), 1);
    // Of two the one votes that votes in meta, if it is up.
    let mut w = world(2, 1);
    w.place(&[(0, &[1, 2])]);
    let form = |id| proposed(MetaCommand::FormShard { shard: 0, generation: 1, voters: set(&[id]) });
    assert_eq!(w.driver.steps(w.now, &w.state, &set(&[2])), [form(2)]);
    w.now += AGAIN_MS;
    w.up(2, false);
    assert_eq!(w.driver.steps(w.now, &w.state, &set(&[2])), [form(1)]);
    // Nor with one that leaves: the plan comes first.
    let mut w = world(3, 1);
    w.place(&[(0, &[1, 2, 3])]);
    w.apply(MetaCommand::Leave { id: 3 });
    let steps = w.steps();
    assert!(matches!(&steps[..], [ShardStep::Propose(MetaCommand::PlaceShards { .. })]), "{steps:?}");
}

#[test]
fn a_thousand_shards_are_formed_in_turns() {
    let mut w = world(5, 1024);
    let ShardStep::Propose(place) = w.steps().remove(0) else { panic!() };
    w.apply(place);
    for turn in 1..=16 {
        let steps = w.steps();
        assert_eq!(steps.len(), MAX_ASKED);
        for step in steps {
            let ShardStep::Propose(form @ MetaCommand::FormShard { .. }) = step else { panic!("{step:?} in {turn}") };
            w.state.apply(form);
        }
        let formed = w.state.shards.iter().filter(|(_, s)| !s.initial().is_empty()).count();
        assert_eq!(formed, turn * MAX_ASKED);
        // What is initialised does not come to be.
    }
    // Which keeps nobody from its turn.
    let mut asked = BTreeSet::new();
    for _ in 0..16 {
        w.now += AGAIN_MS;
        let steps = w.steps();
        assert_eq!(steps.len(), MAX_ASKED);
        asked.extend(steps.into_iter().map(|step| match step {
            ShardStep::Initialise { shard, .. } => shard,
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(asked.len(), 1024);
}

#[test]
fn a_new_driver_waits_until_the_steps_of_the_one_before_are_void() {
    let mut w = formed(4, &[&[1, 2, 3]]);
    w.now = 1000 + SETTLED_AFTER_MS - 1;
    w.place(&[(0, &[1, 2, 4])]);
    w.report(report(0, &[1, 2, 3], &[]));
    assert_eq!(w.changes(), []);
    w.now += 1;
    assert_eq!(w.changes(), [(0, Step::AddLearner(4))]);
    const { assert!(SETTLED_AFTER_MS > STEP_VALID_MS && STEP_LOST_MS > STEP_VALID_MS) };
}

#[test]
fn one_step_of_a_shard_at_a_time() {
    let mut w = formed(4, &[&[1, 2, 3]]);
    w.place(&[(0, &[1, 2, 4])]);
    let with = |index, voters: &[u64], learners: &[u64]| ShardReport { index, ..report(0, voters, learners) };
    w.report(with(3, &[1, 2, 3], &[]));
    let step = ShardStep::Change { node: 1, shard: 0, generation: 1, term: 1, index: 3, step: Step::AddLearner(4) };
    assert!(w.steps().contains(&step));
    // What was reported before it was done.
    w.now += 1000;
    w.report(with(3, &[1, 2, 3], &[]));
    assert_eq!(w.changes(), []);
    w.report(ShardReport { settled: false, ..with(4, &[1, 2, 3], &[4]) });
    assert_eq!(w.changes(), []);
    // Done; and what comes late is older.
    w.report(with(4, &[1, 2, 3], &[4]));
    w.report(ShardReport { settled: false, ..with(4, &[1, 2, 3], &[4]) });
    w.report(with(3, &[1, 2, 3], &[]));
    assert_eq!(w.changes(), [(0, Step::ChangeVoters(set(&[1, 2, 4])))]);
    // It was lost, which shows when it cannot be carried out any more.
    for after in [1, STEP_LOST_MS - 2] {
        w.now += after;
        w.report(with(4, &[1, 2, 3], &[4]));
        assert_eq!(w.changes(), [], "{after}");
    }
    w.now += 1;
    assert_eq!(w.changes(), [], "no report since");
    w.report(with(4, &[1, 2, 3], &[4]));
    assert_eq!(w.changes(), [(0, Step::ChangeVoters(set(&[1, 2, 4])))]);
    // The leader says that it does not do it: at once again. What it says of an older step is late.
    w.driver.refused(0, 3);
    assert_eq!(w.changes(), []);
    w.driver.refused(0, 4);
    assert_eq!(w.changes(), [(0, Step::ChangeVoters(set(&[1, 2, 4])))]);
    // Another leader has it in its log, or it is void.
    w.report(ShardReport { term: 2, leader: 2, ..with(4, &[1, 2, 3], &[4]) });
    w.report(with(9, &[1, 2, 3], &[]));
    let step = Step::ChangeVoters(set(&[1, 2, 4]));
    let step = ShardStep::Change { node: 2, shard: 0, generation: 1, term: 2, index: 4, step };
    assert_eq!(w.steps(), [step]);
}

#[test]
fn an_old_report_is_no_ground_for_a_step() {
    let mut w = formed(4, &[&[1, 2, 3]]);
    w.place(&[(0, &[1, 2, 4])]);
    w.report(report(0, &[1, 2, 3], &[]));
    w.now += REPORT_FRESH_MS;
    assert_eq!(w.changes(), []);
    w.report(report(0, &[1, 2, 3], &[]));
    w.now += REPORT_FRESH_MS - 1;
    assert_eq!(w.changes(), [(0, Step::AddLearner(4))]);
    // What cannot be is not a report.
    for bad in [
        ShardReport { shard: MAX_SHARDS, ..report(0, &[1], &[]) },
        ShardReport { voters: set(&[]), ..report(0, &[1], &[]) },
    ] {
        w.report(ShardReport { term: 9, ..bad });
    }
    let many = (0..65).collect();
    w.report(ShardReport { term: 9, learners: many, ..report(0, &[1], &[]) });
    assert_eq!((w.driver.reports.len(), w.driver.reports[&0].1.term), (1, 1));
}

const SIX: [&[u64]; 6] = [&[1, 2, 3]; 6];

#[test]
fn at_most_two_shards_change_on_a_node() {
    let mut w = formed(9, &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[4, 5, 6], &[4, 5, 6], &[4, 5, 6], &[7, 8, 9]]);
    w.place(&[(0, &[1, 2, 7]), (1, &[1, 2, 7]), (2, &[1, 2, 7]), (3, &[4, 5, 7]), (4, &[4, 5, 8]), (5, &[4, 5, 9])]);
    for shard in 0..7 {
        let at: &[u64] = [&[1, 2, 3], &[4, 5, 6], &[7, 8, 9]][usize::from(shard) / 3];
        w.report(report(shard, at, &[]));
    }
    // 7 gets two; shard 3 cannot begin because of it, 4 and 5 can.
    let add = |shard, id| (shard, Step::AddLearner(id));
    assert_eq!(w.changes(), [add(0, 7), add(1, 7), add(4, 8), add(5, 9)]);
    // As long as the new replica has not caught up, and until what is no longer wanted has gone.
    let mut r = ShardReport { index: 1, ..report(0, &[1, 2, 3], &[7]) };
    r.caught_up.remove(&7);
    w.report(r);
    assert_eq!(w.changes(), []);
    w.report(ShardReport { index: 2, ..report(0, &[1, 2, 3], &[7]) });
    assert_eq!(w.changes(), [(0, Step::ChangeVoters(set(&[1, 2, 7])))]);
    w.report(ShardReport { index: 4, ..report(0, &[1, 2, 7], &[3]) });
    assert_eq!(w.changes(), [(0, Step::RemoveNode(3))]);
    w.report(ShardReport { index: 5, ..report(0, &[1, 2, 7], &[]) });
    assert_eq!(w.changes(), [add(2, 7)]);
}

#[test]
fn repair_goes_before_the_rest() {
    let mut w = formed(6, &SIX);
    w.place(&[(0, &[1, 2, 4]), (1, &[1, 2, 4]), (2, &[1, 2, 4]), (3, &[1, 5, 6])]);
    (0..6).for_each(|shard| w.report(report(shard, &[1, 2, 3], &[])));
    let lost = |mut report: ShardReport, ids: &[u64]| {
        report.reachable.retain(|id| !ids.contains(id));
        report
    };
    w.report(ShardReport { term: 2, ..lost(report(2, &[1, 2, 3], &[]), &[3]) });
    w.report(ShardReport { term: 2, ..lost(report(3, &[1, 2, 3], &[]), &[3]) });
    assert_eq!(w.changes(), [(2, Step::AddLearner(4)), (3, Step::AddLearner(5))]);
    // While a repair waits nothing else begins, even where there would be room.
    let mut w = formed(9, &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[4, 5, 6]]);
    w.place(&[(0, &[1, 2, 7]), (1, &[1, 2, 7]), (2, &[1, 2, 7]), (3, &[4, 5, 8])]);
    (0..3).for_each(|shard| w.report(lost(report(shard, &[1, 2, 3], &[]), &[3])));
    w.report(report(3, &[4, 5, 6], &[]));
    assert_eq!(w.changes(), [(0, Step::AddLearner(7)), (1, Step::AddLearner(7))]);
    // A repair that cannot begin is not waited for.
    let mut w = formed(6, &SIX);
    w.place(&[(0, &[1, 2, 4]), (1, &[1, 2, 5])]);
    w.up(4, false);
    (0..6).for_each(|shard| w.report(report(shard, &[1, 2, 3], &[])));
    w.report(ShardReport { term: 2, ..lost(report(0, &[1, 2, 3], &[]), &[3]) });
    w.driver.placed = Some((2, w.driver.candidates(w.now, &w.state)));
    assert_eq!(w.changes(), [(1, Step::AddLearner(5))]);
}

#[test]
fn what_waits_for_a_node_that_is_down_keeps_nobody_else_from_changing() {
    let mut w = formed(6, &SIX);
    w.place(&[(0, &[1, 2, 4]), (1, &[1, 2, 4]), (2, &[1, 2, 5])]);
    (2..6).for_each(|shard| w.report(report(shard, &[1, 2, 3], &[])));
    let mut both = [0, 1].map(|shard| report(shard, &[1, 2, 3], &[4]));
    both.iter_mut().for_each(|report| {
        report.caught_up.remove(&4);
    });
    both.iter().for_each(|report| w.report(report.clone()));
    assert_eq!(w.changes(), []);
    both.iter_mut().for_each(|report| {
        report.reachable.remove(&4);
    });
    both.iter().for_each(|report| w.report(report.clone()));
    assert_eq!(w.changes(), [(2, Step::AddLearner(5))]);
}

#[test]
fn a_shard_that_is_silent_counts_as_changing_for_a_time() {
    let mut w = formed(6, &SIX);
    w.place(&[(0, &[1, 2, 4]), (1, &[1, 2, 4]), (2, &[1, 2, 4])]);
    (0..6).for_each(|shard| w.report(report(shard, &[1, 2, 3], &[])));
    assert_eq!(w.changes().len(), 2);
    let began = w.now;
    while w.now < began + SILENT_MS {
        (2..6).for_each(|shard| w.report(report(shard, &[1, 2, 3], &[])));
        assert_eq!(w.changes(), [], "after {}", w.now - began);
        w.now += 1000;
    }
    (2..6).for_each(|shard| w.report(report(shard, &[1, 2, 3], &[])));
    assert_eq!(w.changes(), [(2, Step::AddLearner(4))]);
}

#[test]
fn what_is_down_is_waited_for_as_long_as_the_grace() {
    let mut w = formed(4, &[&[1, 2, 3]]);
    assert_eq!(w.steps(), []);
    w.up(3, false);
    let down = w.now;
    while w.now < down + DOWN_GRACE_MS {
        assert_eq!(w.steps(), [], "after {}", w.now - down);
        w.now += 10_000;
    }
    let moves = vec![(0, set(&[1, 2, 4]))];
    assert_eq!(w.steps(), [proposed(MetaCommand::PlaceShards { epoch: 1, moves: moves.clone() })]);
    // It was up in between: from the beginning.
    let mut w = formed(4, &[&[1, 2, 3]]);
    for up in [false, true, false] {
        w.up(3, up);
        assert_eq!(w.steps(), []);
        w.now += DOWN_GRACE_MS / 2;
    }
    assert_eq!(w.steps(), []);
    // A member that was replaced has no grace; but the one that takes its place is waited for, so that it gets what the other one had.
    let MetaCommand::Init { mut members, .. } = init(3, SHARDS_LEVEL) else { panic!() };
    let m = members.remove(2);
    let join = MetaCommand::Join {
        name: m.name,
        incarnation: 77,
        boot: 1,
        nonce: 1,
        addresses: m.addresses,
        version: m.version,
        feature_level: SHARDS_LEVEL,
    };
    let mut w = formed(4, &[&[1, 2, 3], &[1, 2, 3], &[2, 3, 4], &[1, 3, 4]]);
    assert!(matches!(w.state.apply(join), MetaResponse::Joined { id: 5, .. }));
    assert_eq!(w.steps(), []);
    w.now += HOLD_MS - 1;
    assert_eq!(w.steps(), []);
    w.up(5, true);
    let steps = w.steps();
    let [ShardStep::Propose(MetaCommand::PlaceShards { moves, .. })] = &steps[..] else { panic!("{steps:?}") };
    assert!(moves.len() == 4 && moves.iter().filter(|(_, to)| to.contains(&5)).count() == 3, "{moves:?}");
}

#[test]
fn leaders_move_one_at_a_time_when_all_is_quiet() {
    let mut w = formed(3, &SIX);
    let all = |w: &mut World, leads: &[u64]| {
        for (shard, leader) in (0..).zip(leads) {
            w.report(ShardReport { leader: *leader, term: w.now, ..report(shard, &[1, 2, 3], &[]) });
        }
    };
    let mut moved = Vec::new();
    let mut leads = vec![1; 6];
    let began = w.now;
    for _ in 0..60 {
        all(&mut w, &leads);
        let steps = w.changes();
        assert!(steps.len() <= 1, "{steps:?}");
        for (shard, step) in steps {
            let Step::TransferLeader(to) = step else { panic!("{step:?}") };
            moved.push((w.now - began, shard, to));
            // The first one does not happen.
            if moved.len() > 1 {
                leads[usize::from(shard)] = to;
            }
        }
        w.now += 1000;
    }
    let shards: Vec<u16> = moved.iter().map(|(_, shard, _)| *shard).collect();
    assert_eq!(shards, [1, 2, 3, 0, 1], "{moved:?}");
    assert!(moved.windows(2).all(|pair| pair[1].0 >= pair[0].0 + QUIET_MS), "{moved:?}");
    leads.sort_unstable();
    assert_eq!(leads, [1, 1, 2, 2, 3, 3]);

    // Not while something changes, nor while a shard says nothing.
    let mut w = formed(4, &SIX);
    w.place(&[(0, &[1, 2, 4])]);
    for _ in 0..30 {
        let mut changing = ShardReport { term: w.now, ..report(0, &[1, 2, 3], &[4]) };
        changing.caught_up.remove(&4);
        (1..6).for_each(|shard| w.report(ShardReport { term: w.now, ..report(shard, &[1, 2, 3], &[]) }));
        w.report(changing);
        assert_eq!(w.changes(), []);
        w.now += 1000;
    }
    w.place(&[(0, &[1, 2, 3])]);
    w.report(ShardReport { term: w.now, ..report(0, &[1, 2, 3], &[]) });
    let quiet = w.now;
    while w.now < quiet + QUIET_MS - 1000 {
        (0..6).for_each(|shard| w.report(ShardReport { term: w.now, ..report(shard, &[1, 2, 3], &[]) }));
        assert_eq!(w.changes(), []);
        w.now += 1000;
    }
    assert_eq!(w.changes().len(), 1);
    let mut w = formed(3, &SIX);
    for _ in 0..30 {
        (1..6).for_each(|shard| w.report(report(shard, &[1, 2, 3], &[])));
        assert_eq!(w.changes(), []);
        w.now += 1000;
    }
}
