#![allow(clippy::unwrap_used)]
use super::*;
use crate::command::NodeAddresses;
use crate::shards::tests::set;

struct Case {
    wanted: BTreeSet<u64>,
    members: BTreeMap<u64, Member>,
    preferred: BTreeSet<u64>,
    led: BTreeMap<u64, u32>,
    report: ShardReport,
}

/// Six members, all up; the group has these voters, of whom the first leads, and learners; all have caught up.
fn case(wanted: &[u64], voters: &[u64], learners: &[u64]) -> Case {
    let member = |id| Member {
        id,
        name: format!("n{id}"),
        incarnation: u128::from(id),
        boot: 1,
        nonce: 1,
        addresses: NodeAddresses::default(),
        version: String::new(),
        feature_level: 3,
        status: MemberStatus::Active,
        up: true,
        epoch: 1,
    };
    let all: BTreeSet<u64> = voters.iter().chain(learners).copied().collect();
    Case {
        wanted: set(wanted),
        members: (1..=6).map(|id| (id, member(id))).collect(),
        preferred: set(&[1, 2, 3, 4, 5]),
        led: BTreeMap::new(),
        report: ShardReport {
            shard: 0,
            generation: 1,
            leader: voters[0],
            term: 1,
            index: 9,
            settled: true,
            voters: set(voters),
            learners: set(learners),
            reachable: all.clone(),
            caught_up: all,
        },
    }
}

impl Case {
    fn around(&self) -> Around<'_> {
        Around { wanted: &self.wanted, members: &self.members, preferred: &self.preferred, led: &self.led }
    }

    fn next(&self) -> Option<Step> {
        next(&self.report, &self.around())
    }

    fn progress(&self) -> Progress {
        progress(&self.report, &self.around())
    }

    fn lacking(&self) -> usize {
        lacking(&self.report, &self.around())
    }

    /// It neither answers nor is held to be alive.
    fn down(mut self, id: u64) -> Self {
        self.report.reachable.remove(&id);
        self.members.get_mut(&id).unwrap().up = false;
        self
    }

    /// Of which meta has not heard yet.
    fn unreachable(mut self, id: u64) -> Self {
        self.report.reachable.remove(&id);
        self
    }

    fn behind(mut self, id: u64) -> Self {
        self.report.caught_up.remove(&id);
        self
    }

    fn status(mut self, id: u64, status: MemberStatus) -> Self {
        self.members.get_mut(&id).unwrap().status = status;
        self
    }

    fn leader(mut self, id: u64) -> Self {
        self.report.leader = id;
        self
    }

    fn preferred(mut self, ids: &[u64]) -> Self {
        self.preferred = set(ids);
        self
    }
}

#[test]
fn steps() {
    use MemberStatus::{Leaving, Replaced};
    use Step::{AddLearner, ChangeVoters, RemoveNode, TransferLeader};
    let change = |ids: &[u64]| Some(ChangeVoters(set(ids)));
    let swap = || case(&[1, 2, 4], &[1, 2, 3], &[4]);
    let mut unsettled = swap();
    unsettled.report.settled = false;
    let mut busier = case(&[2, 3, 4], &[1, 2, 3], &[4]);
    busier.led = BTreeMap::from([(2, 3), (3, 1)]);
    let mut forgotten = case(&[1, 2, 4], &[1, 2, 3], &[4]).behind(4);
    forgotten.members.remove(&3);
    let table: Vec<(&str, Case, Option<Step>)> = vec![
        ("in order", case(&[1, 2, 3], &[1, 2, 3], &[]), None),
        ("replicas come first", case(&[1, 2, 4], &[1, 2, 3], &[]), Some(AddLearner(4))),
        ("all of them", case(&[4, 5, 6], &[1, 2, 3], &[4]), Some(AddLearner(5))),
        ("those that are up", case(&[4, 5, 6], &[1, 2, 3], &[4]).down(5), Some(AddLearner(6))),
        ("and stay", case(&[1, 2, 4], &[1, 2, 3], &[]).status(4, Leaving), None),
        ("one for another", swap(), change(&[1, 2, 4])),
        ("not before it has caught up", swap().behind(4), None),
        ("nor when it does not answer", swap().down(4), None),
        ("nor when it was replaced", swap().status(4, Replaced), None),
        ("nor when it is to leave", swap().status(4, Leaving), None),
        ("not while another change is under way", unsettled, None),
        ("what is no longer wanted goes last", case(&[1, 2, 4], &[1, 2, 4], &[3]), Some(RemoveNode(3))),
        ("also when it is down", case(&[1, 2, 4], &[1, 2, 4], &[3]).down(3), Some(RemoveNode(3))),
        ("a replica that is down is replaced", swap().down(3), change(&[1, 2, 4])),
        ("but not taken out before that", swap().down(3).behind(4), None),
        ("a leader that is to go hands on first", swap().leader(3), Some(TransferLeader(1))),
        ("to a voter that has caught up", swap().leader(3).behind(1), Some(TransferLeader(2))),
        ("that answers", swap().leader(3).down(1), Some(TransferLeader(2))),
        ("or goes with its vote", swap().leader(3).behind(1).behind(2), change(&[1, 2, 4])),
        ("to the one that leads least", busier, Some(TransferLeader(3))),
        ("a leader without a vote hands on", case(&[1, 2, 3], &[1, 2, 3], &[4]).leader(4), Some(TransferLeader(1))),
        ("three from one in one change", case(&[1, 2, 3], &[1], &[2, 3]), change(&[1, 2, 3])),
        ("never two for growth", case(&[1, 2, 3], &[1], &[2, 3]).behind(3), None),
        ("who leaves makes the third", case(&[1, 2, 3], &[6], &[1, 2, 3]).behind(3), change(&[1, 2, 6])),
        ("one after the other", case(&[4, 5, 6], &[1, 2, 3], &[4, 5, 6]).behind(5).behind(6), change(&[1, 2, 4])),
        ("all at once", case(&[4, 5, 6], &[1, 2, 3], &[4, 5, 6]), change(&[4, 5, 6])),
        ("one from three", case(&[2], &[1, 2, 3], &[]), Some(TransferLeader(2))),
        ("the one", case(&[2], &[1, 2, 3], &[]).leader(2), change(&[2])),
        ("five from three", case(&[1, 2, 3, 4, 5], &[1, 2, 3], &[4, 5]), change(&[1, 2, 3, 4, 5])),
        ("not four", case(&[1, 2, 3, 4, 5], &[1, 2, 3], &[4, 5]).behind(5), None),
        ("a replaced voter does not wait", swap().status(3, Replaced).behind(4).down(3), change(&[1, 2])),
        ("nor one that is forgotten", forgotten, change(&[1, 2])),
        ("then its successor votes", case(&[1, 2, 4], &[1, 2], &[4]).status(3, Replaced), change(&[1, 2, 4])),
        ("with the last who answers it does", swap().status(3, Replaced).down(2).behind(4).leader(1), None),
        ("a leaving voter waits", swap().status(3, Leaving).behind(4), None),
        ("of two one votes", case(&[1, 2], &[1], &[2]), None),
        ("the one of meta", case(&[1, 2], &[1], &[2]).preferred(&[2]), change(&[2])),
        ("unless it is down", case(&[1, 2], &[1], &[2]).preferred(&[2]).down(2), None),
        ("of two, from three", case(&[1, 2], &[1, 2, 3], &[]).preferred(&[2]).leader(2), change(&[2])),
        ("of four three vote", case(&[1, 2, 3, 4], &[2, 3, 4], &[1]), None),
        ("another when one is down", case(&[1, 2, 3, 4], &[2, 3, 4], &[1]).down(4), change(&[1, 2, 3])),
        ("without a quorum nothing", case(&[1, 2, 4], &[1, 2, 3], &[]).down(2).down(3), None),
        ("nor when none would be left", case(&[2, 4], &[1, 2, 3], &[4]).preferred(&[2]).unreachable(2), None),
    ];
    for (name, case, step) in table {
        assert_eq!(case.next(), step, "{name}");
    }
}

#[test]
fn what_was_begun_shows() {
    let table = [
        ("in order", case(&[1, 2, 3], &[1, 2, 3], &[]), Progress::Still),
        ("not begun", case(&[1, 2, 4], &[1, 2, 3], &[]), Progress::Still),
        ("one comes", case(&[1, 2, 4], &[1, 2, 3], &[4]), Progress::Begun),
        ("but does not answer", case(&[1, 2, 4], &[1, 2, 3], &[4]).down(4), Progress::Stalled),
        ("one goes", case(&[1, 2, 4], &[1, 2, 4], &[3]), Progress::Begun),
        ("though it does not answer", case(&[1, 2, 4], &[1, 2, 4], &[3]).down(3), Progress::Begun),
        ("of two one votes", case(&[1, 2], &[1], &[2]), Progress::Still),
        ("of two one comes", case(&[1, 2], &[1], &[2]).behind(2), Progress::Begun),
        ("or is down", case(&[1, 2], &[1], &[2]).behind(2).down(2), Progress::Stalled),
        ("two come", case(&[1, 2], &[3], &[1]), Progress::Begun),
        ("one of two answers", case(&[1, 4, 5], &[1, 2, 3], &[4, 5]).down(4), Progress::Begun),
    ];
    for (name, case, progress) in table {
        assert_eq!(case.progress(), progress, "{name}");
    }
}

#[test]
fn what_lacks_voters_is_repaired() {
    use MemberStatus::Leaving;
    let table = [
        (case(&[1, 2, 3], &[1, 2, 3], &[]), 0),
        (case(&[1, 2, 4], &[1, 2, 3], &[]), 0),
        (case(&[1, 2, 4], &[1, 2, 3], &[]).down(3), 1),
        (case(&[1, 2, 4], &[1, 2, 3], &[]).status(3, Leaving), 1),
        (case(&[1, 2, 3], &[1], &[2, 3]), 2),
        (case(&[1, 2], &[1], &[2]), 0),
    ];
    for (number, (case, lacking)) in table.into_iter().enumerate() {
        assert_eq!(case.lacking(), lacking, "{number}");
    }
}
