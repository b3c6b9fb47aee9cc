//! Random work against a simple model, with restarts, kills and power failures.
//!
//! The log is one order of records: whatever a crash leaves must be the state after some record, not before the last acknowledged one.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{sim::SimDisk, *};

#[derive(Debug, Clone)]
enum Step {
    Append { group: u8, count: u8, size: u16 },
    Truncate { group: u8, back: u8 },
    Purge { group: u8, ahead: u8 },
    Vote { group: u8 },
    Drop { group: u8 },
    Wait,
    Restart,
    Kill,
    PowerFailure { seed: u64, bias: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..4u8;
    prop_oneof![
        12 => (group.clone(), 1..6u8, prop_oneof![4 => 0..300u16, 1 => 300..9000u16])
            .prop_map(|(group, count, size)| Step::Append { group, count, size }),
        3 => (group.clone(), 0..6u8).prop_map(|(group, back)| Step::Truncate { group, back }),
        6 => (group.clone(), 0..12u8).prop_map(|(group, ahead)| Step::Purge { group, ahead }),
        3 => group.clone().prop_map(|group| Step::Vote { group }),
        1 => group.prop_map(|group| Step::Drop { group }),
        4 => Just(Step::Wait),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        2 => (any::<u64>(), 0..=255u8).prop_map(|(seed, bias)| Step::PowerFailure { seed, bias }),
    ]
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    entries: BTreeMap<u64, Bytes>,
    vote: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
}

type Model = BTreeMap<GroupId, Group>;

struct Run {
    disk: SimDisk,
    wal: Wal,
    /// The states since the last one that is known to be on the disk, which is the first.
    states: VecDeque<Model>,
    counter: u64,
}

impl Run {
    fn state(&self) -> Model {
        self.states.back().unwrap().clone()
    }

    fn record(&mut self, group: GroupId, change: impl FnOnce(&mut Group)) {
        let mut state = self.state();
        change(state.entry(group).or_default());
        self.states.push_back(state);
    }

    fn step(&mut self, step: &Step) {
        self.counter += 1;
        let name = |group: &u8| GroupId::new(u32::from(*group) + 1, 0);
        let ignore = || -> Callback { Box::new(|_| {}) };
        match step {
            Step::Append { group, count, size } => {
                let group = name(group);
                let known = self.state().remove(&group).unwrap_or_default();
                let last = known.entries.last_key_value().map(|(index, _)| *index);
                let next = last.or(known.purged.map(|(index, _)| index)).map_or(1, |index| index + 1);
                let data = Bytes::from(format!("{:-<width$}", self.counter, width = usize::from(*size)));
                let entries: Vec<_> =
                    (next..next + u64::from(*count)).map(|index| entry(index, data.clone())).collect();
                self.wal.try_append(group, entries.clone(), ignore()).unwrap();
                for entry in entries {
                    self.record(group, |group| drop(group.entries.insert(entry.index, entry.data)));
                }
            }
            Step::Truncate { group, back } => {
                let group = name(group);
                let Some(known) = self.state().remove(&group) else {
                    return;
                };
                let last = known.entries.last_key_value().map_or(0, |(index, _)| *index);
                let from = last.saturating_sub(u64::from(*back));
                self.wal.truncate_from(group, from).unwrap();
                self.record(group, |group| drop(group.entries.split_off(&from)));
            }
            Step::Purge { group, ahead } => {
                let group = name(group);
                let known = self.state().remove(&group).unwrap_or_default();
                let first = known.entries.first_key_value().map(|(index, _)| *index);
                let to = first.or(known.purged.map(|(index, _)| index)).unwrap_or(0) + u64::from(*ahead);
                let marker = Bytes::from(self.counter.to_string());
                self.wal.purge_to(group, to, marker.clone()).unwrap();
                self.record(group, |group| {
                    group.entries = group.entries.split_off(&(to + 1));
                    group.purged = Some((to, marker));
                });
            }
            Step::Vote { group } => {
                let vote = Bytes::from(self.counter.to_string());
                self.wal.save_vote(name(group), vote.clone(), ignore()).unwrap();
                self.record(name(group), |group| group.vote = Some(vote));
            }
            Step::Drop { group } => {
                self.wal.drop_group(name(group)).unwrap();
                let mut state = self.state();
                state.remove(&name(group));
                self.states.push_back(state);
            }
            Step::Wait => {
                self.wal.sync_now().unwrap();
                self.acknowledged();
                self.check();
            }
            Step::Restart => {
                self.wal.close().unwrap();
                self.acknowledged();
                let disk = self.disk.clone();
                assert!(self.reopen(disk).clean);
            }
            Step::Kill => {
                let disk = self.disk.copy();
                self.reopen(disk);
            }
            Step::PowerFailure { seed, bias } => {
                let mut random = *seed | 1;
                let disk = self.disk.crash(|| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((random >> 33) & 0xff) as u8 <= *bias
                });
                self.reopen(disk);
            }
        }
    }

    fn acknowledged(&mut self) {
        let keep = self.states.len() - 1;
        self.states.drain(..keep);
    }

    fn reopen(&mut self, disk: SimDisk) -> RecoveryReport {
        let (wal, report) = Wal::on(&disk, small()).unwrap_or_else(|error| panic!("a crash is no damage: {error}"));
        self.wal = wal;
        self.disk = disk;
        let found = read(&self.wal);
        let at = self.states.iter().rposition(|state| without_empty(state) == found);
        assert!(at.is_some(), "found {found:?}, acknowledged {:?}", self.states.front());
        self.states = VecDeque::from([self.states[at.unwrap()].clone()]);
        report
    }

    fn check(&self) {
        self.wal.check_usages();
        assert_eq!(read(&self.wal), without_empty(&self.state()));
    }
}

fn without_empty(model: &Model) -> Model {
    model.iter().filter(|(_, group)| **group != Group::default()).map(|(id, group)| (*id, group.clone())).collect()
}

fn read(wal: &Wal) -> Model {
    let groups = wal.groups().into_iter().map(|id| {
        let state = wal.group_state(id).unwrap();
        let entries: BTreeMap<_, _> = wal.all(id).into_iter().map(|entry| (entry.index, entry.data)).collect();
        assert_eq!(state.last, entries.last_key_value().map(|(index, _)| *index));
        assert_eq!(state.last_data.as_ref(), entries.last_key_value().map(|(_, data)| data));
        assert_eq!(wal.live_bytes(id), entries.values().map(|data| data.len() as u64).sum::<u64>());
        (id, Group { entries, vote: state.vote, purged: state.purged })
    });
    without_empty(&groups.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_loses_nothing_acknowledged_and_invents_nothing(steps in proptest::collection::vec(step(), 1..120)) {
        let disk = SimDisk::default();
        let (wal, _) = Wal::on(&disk, small()).unwrap();
        let mut run = Run { disk, wal, states: VecDeque::from([Model::new()]), counter: 0 };
        for step in &steps {
            run.step(step);
        }
        run.step(&Step::Wait);
        run.step(&Step::Restart);
    }
}
