//! A cluster in miniature for the driver: groups that change their membership as Raft does, nodes that come, go, crash and return, messages
//! that are late, lost or come twice, meta leaders that are deposed.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use super::drive::{MAX_CHANGES, STEP_VALID_MS, ShardDriver};
use super::leaders::{Led, leaders};
use super::place::{Candidate, place};
use super::tests::{init, set};
use super::{ShardReport, ShardStep};
use crate::command::{MetaCommand, MetaResponse, NodeAddresses};
use crate::plan::{Step, voters_for};
use crate::state::{Member, MemberStatus, MetaState};
use crate::{SHARDS_LEVEL, shards::Reported};

/// Simulated milliseconds between two looks at everything.
const TICK: u64 = 100;
/// How long a deposed leader does not notice it at most.
const UNNOTICED: u64 = 2_500;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    fn delay(&mut self, most: u64) -> u64 {
        if self.chance(100) { self.below(most) } else { self.below(200) }
    }

    fn pick(&mut self, from: &BTreeSet<u64>) -> Option<u64> {
        from.iter().nth(self.below(from.len().max(1) as u64) as usize).copied()
    }
}

enum Message {
    Propose(MetaCommand),
    Initialise { node: u64, shard: u16, generation: u32, voters: BTreeSet<u64> },
    Change { until: u64, node: u64, shard: u16, term: u64, index: u64, step: Step },
    Report(u64, ShardReport),
}

/// A node's process.
struct Node {
    running: bool,
    /// It never comes back.
    gone: bool,
    /// When it was started or stopped last.
    since: u64,
}

struct Group {
    generation: u32,
    initial: BTreeSet<u64>,
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    index: u64,
    term: u64,
    leader: Option<u64>,
    /// The voters before, while a change is under way.
    changing: Option<BTreeSet<u64>>,
    /// Milliseconds of work that each lacks to have caught up.
    lag: BTreeMap<u64, u64>,
    elect_at: u64,
    /// Since when it has a leader.
    led_since: u64,
}

impl Group {
    fn majority(of: &BTreeSet<u64>, up: &BTreeSet<u64>) -> bool {
        of.intersection(up).count() > of.len() / 2
    }

    fn quorum(&self, up: &BTreeSet<u64>) -> bool {
        Self::majority(&self.voters, up) && self.changing.as_ref().is_none_or(|old| Self::majority(old, up))
    }

    fn has(&self, id: u64) -> bool {
        self.voters.contains(&id)
            || self.learners.contains(&id)
            || self.changing.as_ref().is_some_and(|old| old.contains(&id))
    }

    fn caught_up(&self, id: u64) -> bool {
        self.lag.get(&id).is_none_or(|lag| *lag == 0)
    }
}

/// What a run did, to see that it did something.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) changes: u32,
    pub(super) transfers: u32,
    pub(super) swaps: u32,
    pub(super) members: u64,
    pub(super) drivers: u32,
    pub(super) most_at_once: usize,
}

pub(super) struct World {
    rng: Rng,
    now: u64,
    state: MetaState,
    nodes: BTreeMap<u64, Node>,
    groups: BTreeMap<u16, Group>,
    messages: Vec<(u64, Message)>,
    driver: ShardDriver,
    /// The driver before, what it knows and until when it goes on.
    deposed: Option<(ShardDriver, MetaState, u64)>,
    epoch: u64,
    pub(super) done: Done,
}

impl World {
    pub(super) fn new(seed: u64, members: u64, shards: u16, replication: u8) -> Self {
        let mut state = MetaState::default();
        let mut apply = |command| assert_eq!(state.apply(command), MetaResponse::Done);
        apply(init(members, SHARDS_LEVEL));
        apply(MetaCommand::FeatureLevel { level: SHARDS_LEVEL });
        apply(MetaCommand::CreateShards { count: shards, replication });
        for id in 1..=members {
            apply(MetaCommand::NodeUp { id, epoch: 1 });
        }
        Self {
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 1_000_000,
            state,
            nodes: (1..=members).map(|id| (id, Node { running: true, gone: false, since: 0 })).collect(),
            groups: BTreeMap::new(),
            messages: Vec::new(),
            driver: ShardDriver::new(1_000_000),
            deposed: None,
            epoch: 1,
            done: Done::default(),
        }
    }

    fn running(&self) -> BTreeSet<u64> {
        self.nodes.iter().filter(|(_, n)| n.running).map(|(id, _)| *id).collect()
    }

    fn send(&mut self, message: Message, most: u64) {
        let at = self.now + self.rng.delay(most);
        self.messages.push((at, message));
    }

    /// Goes on for so long. With `chaos` nodes crash, come and go, and messages are lost.
    pub(super) fn run(&mut self, milliseconds: u64, chaos: bool) {
        let end = self.now + milliseconds;
        while self.now < end {
            self.now += TICK;
            if chaos {
                self.chaos();
            }
            self.leases();
            let running = self.running();
            for shard in self.groups.keys().copied().collect::<Vec<_>>() {
                self.group(shard, &running);
            }
            self.reports(chaos);
            self.deliver(chaos);
            if self.now.is_multiple_of(500) {
                self.drive(chaos);
            }
        }
    }

    fn chaos(&mut self) {
        let running = self.running();
        let stopped: BTreeSet<u64> =
            self.nodes.iter().filter(|(_, n)| !n.running && !n.gone).map(|(id, _)| *id).collect();
        if self.rng.chance(3)
            && let Some(id) = self.rng.pick(&running)
        {
            self.set_running(id, false);
        }
        if self.rng.chance(if stopped.len() > 1 { 20 } else { 4 })
            && let Some(id) = self.rng.pick(&stopped)
        {
            self.set_running(id, true);
        }
        if self.rng.chance(1) && self.state.active().count() < 8 {
            self.join(None);
        }
        if self.rng.chance(1) && self.state.active().count() > 2 {
            let active = self.state.active().map(|m| m.id).collect();
            let id = self.rng.pick(&active).unwrap();
            self.state.apply(MetaCommand::Leave { id });
        }
        if self.rng.chance(1) {
            let all = self.nodes.iter().filter(|(_, n)| !n.gone).map(|(id, _)| *id).collect();
            let id = self.rng.pick(&all).unwrap();
            if self.can_be_lost(id) && self.state.members.get(&id).is_some_and(Member::is_active) {
                // Its disk is lost, and one with an empty disk takes its name.
                let name = self.state.members[&id].name.clone();
                self.set_running(id, false);
                self.nodes.get_mut(&id).unwrap().gone = true;
                self.join(Some(name));
            }
        }
        if self.rng.chance(2) {
            let members = self.state.members.keys().copied().collect();
            let id = self.rng.pick(&members).unwrap();
            let zone = ["a", "b", "c", ""][self.rng.below(4) as usize].into();
            self.state.apply(MetaCommand::Zone { id, zone });
        }
        if self.rng.chance(2) && self.deposed.is_none() {
            self.epoch += 1;
            self.done.drivers += 1;
            let old = std::mem::replace(&mut self.driver, ShardDriver::new(self.now));
            self.deposed = Some((old, self.state.clone(), self.now + self.rng.below(UNNOTICED)));
        }
    }

    /// Whether each group and each that is to be formed has a majority without the node, and those that are lost already.
    fn can_be_lost(&self, id: u64) -> bool {
        let stays = |(other, n): &(&u64, &Node)| **other != id && !n.gone;
        let left: BTreeSet<u64> = self.nodes.iter().filter(stays).map(|(id, _)| *id).collect();
        let formed = self.groups.values().all(|g| {
            let with_data = self.nodes.keys().filter(|id| left.contains(id) && g.caught_up(**id)).copied().collect();
            g.quorum(&with_data)
        });
        formed && self.state.shards.iter().all(|(_, s)| s.initial().is_empty() || Group::majority(s.initial(), &left))
    }

    fn set_running(&mut self, id: u64, running: bool) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.running != running {
            (node.running, node.since) = (running, self.now);
        }
    }

    fn join(&mut self, name: Option<String>) {
        let number = self.state.next_id;
        let command = MetaCommand::Join {
            name: name.unwrap_or_else(|| format!("n{number}")),
            incarnation: u128::from(number),
            boot: 1,
            nonce: 1,
            addresses: NodeAddresses { link: "x:1".into(), control: String::new() },
            version: String::new(),
            feature_level: SHARDS_LEVEL,
        };
        let MetaResponse::Joined { id, .. } = self.state.apply(command) else {
            return;
        };
        self.done.members = id;
        self.nodes.insert(id, Node { running: true, gone: false, since: self.now });
    }

    /// Who is up, by leases; and who has left.
    fn leases(&mut self) {
        for member in self.state.members.values().cloned().collect::<Vec<_>>() {
            let (id, epoch) = (member.id, self.epoch);
            let node = &self.nodes[&id];
            let for_ms = self.now - node.since;
            if node.running && !member.up && for_ms > 1_000 {
                self.state.apply(MetaCommand::NodeUp { id, epoch });
            }
            if !node.running && member.up && for_ms > 5_500 {
                self.state.apply(MetaCommand::NodeDown { id, epoch });
            }
            let held = self.state.shards.holds(id) || self.groups.values().any(|g| g.has(id));
            if !member.is_active() && !held {
                self.state.apply(MetaCommand::Removed { id });
                self.set_running(id, false);
                self.nodes.get_mut(&id).unwrap().gone = true;
            }
        }
    }

    fn group(&mut self, shard: u16, running: &BTreeSet<u64>) {
        let group = self.groups.get_mut(&shard).unwrap();
        for (id, lag) in &mut group.lag {
            *lag = match (running.contains(id), group.leader) {
                (true, Some(_)) => lag.saturating_sub(TICK),
                // What it misses takes a tenth of the time to send.
                (false, Some(_)) => *lag + TICK / 10,
                (_, None) => *lag,
            };
        }
        if group.leader.is_some_and(|id| !running.contains(&id)) {
            group.leader = None;
            group.elect_at = self.now + 500 + self.rng.below(1_000);
        }
        if !group.quorum(running) {
            return;
        }
        match group.leader {
            None if self.now >= group.elect_at => {
                // Whoever of a majority has most of the log has all that was committed.
                let least = group.voters.intersection(running).map(|id| group.lag[id]).min();
                let could =
                    group.voters.intersection(running).filter(|id| Some(group.lag[id]) == least).copied().collect();
                if let Some(leader) = self.rng.pick(&could) {
                    group.leader = Some(leader);
                    group.lag.insert(leader, 0);
                    group.led_since = self.now;
                    group.term += 1;
                }
            }
            Some(leader) if group.changing.is_some() && self.rng.chance(300) => {
                // The change is committed.
                group.changing = None;
                group.index += 1;
                let (voters, learners) = (group.voters.clone(), group.learners.clone());
                group.lag.retain(|id, _| voters.contains(id) || learners.contains(id));
                if !group.voters.contains(&leader) && self.rng.chance(900) {
                    group.leader = None;
                    group.elect_at = self.now + self.rng.below(500);
                }
            }
            _ => {}
        }
    }

    fn reports(&mut self, chaos: bool) {
        let running = self.running();
        for shard in self.groups.keys().copied().collect::<Vec<_>>() {
            let group = &self.groups[&shard];
            let due = (self.now / TICK + u64::from(shard)).is_multiple_of(10);
            let Some(leader) = group.leader.filter(|_| due) else {
                continue;
            };
            let all: BTreeSet<u64> = group.voters.union(&group.learners).copied().collect();
            let report = ShardReport {
                shard,
                generation: group.generation,
                leader,
                term: group.term,
                index: group.index,
                settled: group.changing.is_none(),
                voters: group.voters.clone(),
                learners: group.learners.clone(),
                reachable: all.intersection(&running).copied().collect(),
                caught_up: all.iter().filter(|id| group.caught_up(**id)).copied().collect(),
            };
            if !chaos || !self.rng.chance(100) {
                self.send(Message::Report(self.epoch, report.clone()), 2_800);
            }
            if chaos && self.rng.chance(50) {
                self.send(Message::Report(self.epoch, report), 2_800);
            }
        }
    }

    fn deliver(&mut self, chaos: bool) {
        let due = |(at, _): &mut (u64, Message)| *at <= self.now;
        let due: Vec<(u64, Message)> = self.messages.extract_if(.., due).collect();
        for (_, message) in due {
            if chaos && self.rng.chance(50) {
                continue;
            }
            match message {
                Message::Propose(command) => {
                    self.state.apply(command);
                }
                Message::Initialise { node, shard, generation, voters } => {
                    self.initialise(node, shard, generation, voters);
                }
                Message::Change { until, node, shard, term, index, step } => {
                    if self.now <= until {
                        self.execute(node, shard, term, index, step);
                    }
                }
                Message::Report(epoch, report) => {
                    if epoch == self.epoch {
                        self.driver.report(self.now, report);
                    }
                }
            }
        }
    }

    fn initialise(&mut self, node: u64, shard: u16, generation: u32, voters: BTreeSet<u64>) {
        assert_eq!(voters, *self.state.shards.get(shard).unwrap().initial(), "others form shard {shard}");
        assert!(voters.contains(&node));
        if let Some(group) = self.groups.get(&shard) {
            assert_eq!((&group.initial, group.generation), (&voters, generation), "shard {shard} is begun twice");
            return;
        }
        if !self.nodes[&node].running {
            return;
        }
        let group = Group {
            generation,
            initial: voters.clone(),
            lag: voters.iter().map(|id| (*id, 0)).collect(),
            voters,
            learners: BTreeSet::new(),
            index: 0,
            term: 1,
            leader: None,
            changing: None,
            elect_at: self.now + self.rng.below(1_000),
            led_since: 0,
        };
        self.groups.insert(shard, group);
    }

    fn execute(&mut self, node: u64, shard: u16, term: u64, index: u64, step: Step) {
        let running = self.running();
        let group = self.groups.get_mut(&shard).unwrap();
        let valid = (group.leader, group.term, group.index) == (Some(node), term, index) && group.changing.is_none();
        if !valid {
            return;
        }
        let old = group.voters.clone();
        match step {
            Step::AddLearner(id) => {
                assert!(!group.has(id), "shard {shard} has {id} already");
                group.learners.insert(id);
                group.lag.insert(id, 2_000 + self.rng.below(10_000));
            }
            Step::RemoveNode(id) => {
                assert!(group.learners.remove(&id), "shard {shard}: {id} is no learner");
            }
            Step::ChangeVoters(voters) => {
                self.done.swaps += 1;
                group.learners.extend(old.difference(&voters));
                group.learners.retain(|id| !voters.contains(id));
                group.voters = voters;
                group.index += 1;
            }
            Step::TransferLeader(to) => {
                assert!(group.voters.contains(&to), "shard {shard}: {to} does not vote");
                if running.contains(&to) && group.caught_up(to) {
                    self.done.transfers += 1;
                    group.leader = Some(to);
                    group.term += 1;
                }
                return;
            }
        }
        self.done.changes += 1;
        group.changing = Some(old);
        group.index += 1;
    }

    fn drive(&mut self, chaos: bool) {
        let meta_voters = self.state.active().map(|m| m.id).take(voters_for(self.state.active().count())).collect();
        let mut steps = self.driver.steps(self.now, &self.state, &meta_voters);
        let current = steps.len();
        if let Some((mut driver, state, until)) = self.deposed.take()
            && self.now < until
        {
            steps.extend(driver.steps(self.now, &state, &meta_voters));
            self.deposed = Some((driver, state, until));
        }
        assert!(steps.len() <= 400, "{} steps", steps.len());
        for (at, step) in steps.into_iter().enumerate() {
            let twice = chaos && self.rng.chance(50);
            for _ in 0..=usize::from(twice) {
                match step.clone() {
                    ShardStep::Propose(command) => self.send(Message::Propose(command), 3_000),
                    ShardStep::Initialise { node, shard, generation, voters } => {
                        self.send(Message::Initialise { node, shard, generation, voters }, 20_000);
                    }
                    ShardStep::Change { node, shard, term, index, step, .. } => {
                        self.check(shard, &step, at < current);
                        let until = self.now + STEP_VALID_MS;
                        self.send(Message::Change { until, node, shard, term, index, step }, 2 * STEP_VALID_MS);
                    }
                }
            }
        }
    }

    /// What holds of each step when it is sent, whatever the driver knew; a driver that is not the current one does not know who was replaced.
    fn check(&mut self, shard: u16, step: &Step, current: bool) {
        // What the driver cannot know yet.
        let recent = |n: &Node| self.now - n.since < 10_000;
        let up: BTreeSet<u64> = self.nodes.iter().filter(|(_, n)| n.running || recent(n)).map(|(id, _)| *id).collect();
        let group = &self.groups[&shard];
        if let Step::ChangeVoters(voters) = step {
            assert!(Group::majority(voters, &up), "shard {shard}: {step:?} has no quorum, up are {up:?}");
            assert!(Group::majority(&group.voters, &up), "shard {shard}: {step:?} out of no quorum");
            for id in voters.difference(&group.voters) {
                let lag = group.lag.get(id).copied().unwrap_or(0);
                assert!(lag < 1_000 || recent(&self.nodes[id]), "shard {shard}: {id} votes and lacks {lag} ms");
                let replaced = self.state.members.get(id).is_some_and(|m| m.status == MemberStatus::Replaced);
                assert!(!replaced || !current, "shard {shard}: {id} votes and was replaced");
            }
        }
        // At most so many shards change on a node that is alive: a step counts while it is on its way or carried out; for one that begins a change
        // those count, too, whose new replica has not caught up.
        if matches!(step, Step::TransferLeader(_)) {
            return;
        }
        let wanted = |shard: u16| self.state.shards.get(shard).unwrap().wanted();
        let sent = |of: u16, group: &Group| {
            let live = |(at, m): &(u64, Message)| {
                matches!(m, Message::Change { until, shard, term, index, step, .. }
                    if *shard == of && at <= until && (*term, *index) == (group.term, group.index)
                        && !matches!(step, Step::TransferLeader(_)))
            };
            self.messages.iter().any(live)
        };
        let led = |group: &Group| group.leader.is_some() && self.now - group.led_since > 10_000;
        let coming = |shard: u16, group: &Group| {
            let mut coming = group.learners.intersection(wanted(shard)).filter(|id| !group.caught_up(**id));
            led(group) && coming.any(|id| self.nodes[id].running && !recent(&self.nodes[id]))
        };
        let begins = group.learners.is_empty();
        for node in group.voters.union(&group.learners).chain(wanted(shard)).filter(|id| self.nodes[id].running) {
            if !self.state.members.get(node).is_some_and(|m| m.up) {
                continue;
            }
            let busy = |(other, g): &(&u16, &Group)| {
                **other != shard
                    && (g.has(*node) || wanted(**other).contains(node))
                    && (g.changing.is_some() && led(g) || sent(**other, g) || begins && coming(**other, g))
            };
            let others: Vec<u16> = self.groups.iter().filter(busy).map(|(shard, _)| *shard).collect();
            assert!(others.len() < MAX_CHANGES, "shard {shard} begins {step:?}, {others:?} change on {node}");
            self.done.most_at_once = self.done.most_at_once.max(others.len() + 1);
        }
    }

    /// Everybody who was not lost comes back; then all has to become as it shall be.
    pub(super) fn converges(&mut self, within: u64) {
        let returning: Vec<u64> = self.nodes.iter().filter(|(_, n)| !n.gone).map(|(id, _)| *id).collect();
        returning.into_iter().for_each(|id| self.set_running(id, true));
        let end = self.now + within;
        loop {
            self.run(5_000, false);
            match self.missing() {
                None => return,
                Some(what) => assert!(self.now < end, "after {within} ms: {what}"),
            }
        }
    }

    fn missing(&self) -> Option<String> {
        let candidate = |m: &Member| Candidate {
            id: m.id,
            zone: self.state.shards.zone(m.id).to_owned(),
            active: m.is_active(),
            up: m.up,
            down_for_ms: 0,
        };
        let members: Vec<Candidate> = self.state.members.values().map(candidate).collect();
        let moves = place(&members, &self.state.shards);
        if !moves.is_empty() {
            return Some(format!("to be placed: {moves:?}"));
        }
        if let Some(m) = self.state.members.values().find(|m| !m.is_active()) {
            return Some(format!("{} has not left", m.id));
        }
        for (number, shard) in self.state.shards.iter() {
            let Some(group) = self.groups.get(&number) else {
                return Some(format!("shard {number} was not begun"));
            };
            let all: BTreeSet<u64> = group.voters.union(&group.learners).copied().collect();
            let reported =
                Reported { index: group.index, voters: group.voters.clone(), learners: group.learners.clone() };
            let there = all == *shard.wanted() && group.voters.len() == voters_for(all.len());
            if !shard.is_formed() || !there || group.changing.is_some() || shard.reported() != Some(&reported) {
                return Some(format!("shard {number}: {shard:?}, {:?} and {:?}", group.voters, group.learners));
            }
        }
        let led = |(shard, group): (&u16, &Group)| Led {
            shard: *shard,
            leader: group.leader.unwrap_or(0),
            could: group.voters.clone(),
        };
        let all: Vec<Led> = self.groups.iter().map(led).collect();
        let preferred = leaders(&all);
        let wrong = all.iter().find(|led| preferred[&led.shard] != led.leader);
        wrong.map(|led| format!("shard {} is led by {}", led.shard, led.leader))
    }

    pub(super) fn replicas(&self) -> Vec<BTreeSet<u64>> {
        self.state.shards.iter().map(|(_, shard)| shard.wanted().clone()).collect()
    }
}

#[test]
fn shards_are_formed_in_quiet() {
    let mut world = World::new(1, 3, 16, 3);
    world.converges(120_000);
    assert!(world.replicas().iter().all(|ids| *ids == set(&[1, 2, 3])));
    assert_eq!(world.done.changes, 0);
}

/// `RAFTMQ_SIM_SEEDS` runs more than a few seeds.
#[test]
fn in_chaos_nothing_is_endangered_and_afterwards_all_is_as_it_shall_be() {
    let mut all = Done::default();
    let seeds = std::env::var("RAFTMQ_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    for seed in 1..=seeds {
        let replication = [3, 3, 3, 2, 5, 4, 1][seed as usize % 7];
        let mut world = World::new(seed, seed % 6 + 1, 12, replication);
        for _ in 0..3 {
            world.run(240_000, true);
            world.converges(900_000);
        }
        let done = &world.done;
        all.changes += done.changes;
        all.swaps += done.swaps;
        all.transfers += done.transfers;
        all.drivers += done.drivers;
        all.members += done.members;
        all.most_at_once = all.most_at_once.max(done.most_at_once);
    }
    println!("{seeds} seeds: {all:?}");
    let enough = all.changes > 100 && all.swaps > 50 && all.transfers > 50 && all.drivers > 20;
    assert!(enough && all.most_at_once == MAX_CHANGES, "{all:?}");
}
