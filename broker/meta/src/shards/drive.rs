//! What the meta leader does so that the shards become what the table says, and the table what the members make possible.
//!
//! One driver in the cluster, at the meta leader: a new leader makes a new one, which knows what is under way from the reports of the shards'
//! leaders, and changes no membership before a time after which the steps of the driver before have been carried out or are void.

use std::collections::{BTreeMap, BTreeSet};

use super::leaders::{Led, leaders};
use super::place::{Candidate, DOWN_GRACE_MS, mix, place};
use super::report::ShardReport;
use super::step::{self, Around, Progress};
use super::table::{Shard, ShardTable};
use super::{MAX_SHARDS, ShardStep};
use crate::command::MetaCommand;
use crate::plan::{Step, voters_for};
use crate::state::MetaState;

/// For how long a step is valid: a shard's leader carries none out that is older. It counts from when it sent the report that the step answers,
/// or, where steps are not answers, the meta leader takes back what it could not deliver in that time.
pub const STEP_VALID_MS: u64 = 5_000;
/// A report that is older says nothing about what could be done now.
pub const REPORT_FRESH_MS: u64 = 5_000;
/// Most shards whose membership changes at once on one node that is alive.
pub const MAX_CHANGES: usize = 2;

/// When a report that does not show a step shows that it will not be carried out any more: a report may be under way for a time, too.
const STEP_LOST_MS: u64 = STEP_VALID_MS + 3_000;
/// When a new driver begins to change memberships.
const SETTLED_AFTER_MS: u64 = STEP_LOST_MS;
/// After so long without a report a shard is no longer counted as changing: it has no leader that could.
const SILENT_MS: u64 = 60_000;
/// When something is asked for again that did not come to be.
const AGAIN_MS: u64 = 2_000;
/// A member that was just started or lost: what becomes of it is waited for before replicas are placed.
const HOLD_MS: u64 = 10_000;
/// For how long nothing else may have been to do before leaders are moved, and how long after each.
const QUIET_MS: u64 = 5_000;
/// Most of what is proposed or initialised in one turn.
const MAX_ASKED: usize = 64;

/// The driver. Times are milliseconds of a clock that only goes forward.
#[derive(Debug, Default)]
pub struct ShardDriver {
    started: u64,
    /// Since when members have been seen down.
    down: BTreeMap<u64, u64>,
    /// The last report of each shard, and when it came.
    reports: BTreeMap<u16, (u64, ShardReport)>,
    /// Steps that may be under way.
    sent: BTreeMap<u16, Sent>,
    /// What was asked for, and when.
    asked: BTreeMap<(Ask, u16), u64>,
    /// The shard that is looked at first in the next turn.
    next: u16,
    /// For which placement and members nothing was to be placed.
    placed: Option<(u64, Vec<Candidate>)>,
    /// When there was something else to do last.
    busy: u64,
    /// When the last leader was moved, and of which shard.
    moved: (u64, u16),
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: u64,
    term: u64,
    index: u64,
    transfer: bool,
}

/// What may be asked for more than once. Bounded by the number of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Place,
    Form,
    Initialise,
    Formed,
    Replicas,
}

/// The shards that are changing, by the nodes that have a part in them.
#[derive(Default)]
struct Slots(BTreeMap<u64, usize>);

impl Slots {
    fn take(&mut self, nodes: &BTreeSet<u64>) {
        nodes.iter().for_each(|node| *self.0.entry(*node).or_default() += 1);
    }

    fn try_take(&mut self, nodes: &BTreeSet<u64>) -> bool {
        let room = nodes.iter().all(|node| self.0.get(node).is_none_or(|count| *count < MAX_CHANGES));
        if room {
            self.take(nodes);
        }
        room
    }
}

impl ShardDriver {
    /// The driver of a node that leads the meta group from now on.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { started: now_ms, busy: now_ms, moved: (now_ms, 0), ..Self::default() }
    }

    /// A report came; it was sent within the last three seconds. One that is older than what is known, or cannot be, is ignored.
    pub fn report(&mut self, now_ms: u64, report: ShardReport) {
        if report.shard >= MAX_SHARDS || !report.is_sound() {
            return;
        }
        let shard = report.shard;
        if self.reports.get(&shard).is_some_and(|(_, known)| known.age() > report.age()) {
            return;
        }
        let over = |sent: &Sent| {
            let done = report.index > sent.index && !sent.transfer;
            let lost = now_ms >= sent.at.saturating_add(STEP_LOST_MS);
            // What a deposed leader has begun its successor has in its log, or it will never be.
            report.settled && (report.term > sent.term || done || lost)
        };
        if self.sent.get(&shard).is_some_and(over) {
            self.sent.remove(&shard);
        }
        self.reports.insert(shard, (now_ms, report));
    }

    /// The shard's leader said that it does not carry out the step that it was sent for this membership.
    pub fn refused(&mut self, shard: u16, index: u64) {
        if self.sent.get(&shard).is_some_and(|sent| sent.index == index) {
            self.sent.remove(&shard);
        }
    }

    /// What to do now; to be called every second or so, and when the state or a report changes. `meta_voters` are the voters of the meta group.
    ///
    /// `state` is what meta had committed at some moment after the call of this function was decided on (by a ReadIndex round): so a leader that
    /// was deposed does nothing any more, and a member that was replaced meanwhile gets no replica.
    pub fn steps(&mut self, now_ms: u64, state: &MetaState, meta_voters: &BTreeSet<u64>) -> Vec<ShardStep> {
        self.look(now_ms, state);
        let table = &*state.shards;
        let mut steps = Vec::new();
        self.place(now_ms, state, &mut steps);
        // On from where the last turn ended: shards that cannot become what they shall do not keep the others from it.
        let from = self.next;
        let (before, after): (Vec<_>, Vec<_>) = table.iter().partition(|(number, _)| *number < from);
        for (number, shard) in after.into_iter().chain(before) {
            if steps.len() >= MAX_ASKED {
                self.next = number;
                break;
            }
            let asked = if shard.is_formed() {
                self.replicas(number, shard)
            } else {
                self.form(now_ms, number, shard, state, meta_voters)
            };
            if let Some((ask, step)) = asked
                && self.may_ask(now_ms, ask, number)
            {
                steps.push(step);
            }
        }
        let quiet = self.change(now_ms, state, meta_voters, &mut steps) && steps.is_empty();
        if !quiet {
            self.busy = now_ms;
        }
        self.move_leader(now_ms, table, &mut steps);
        steps
    }

    /// Forgets what is over.
    fn look(&mut self, now_ms: u64, state: &MetaState) {
        self.down.retain(|id, _| state.members.get(id).is_some_and(|m| !m.up));
        for member in state.members.values().filter(|m| !m.up) {
            self.down.entry(member.id).or_insert(now_ms);
        }
        self.asked.retain(|_, at| now_ms < at.saturating_add(AGAIN_MS));
        self.sent.retain(|_, sent| now_ms < sent.at.saturating_add(SILENT_MS));
        let generation = |shard: &u16| state.shards.get(*shard).map(Shard::generation);
        self.reports.retain(|shard, (at, report)| {
            now_ms < at.saturating_add(SILENT_MS) && generation(shard) == Some(report.generation)
        });
    }

    fn may_ask(&mut self, now_ms: u64, ask: Ask, shard: u16) -> bool {
        let may = !self.asked.contains_key(&(ask, shard));
        if may {
            self.asked.insert((ask, shard), now_ms);
        }
        may
    }

    fn fresh(&self, now_ms: u64, shard: u16) -> Option<&ShardReport> {
        let (at, report) = self.reports.get(&shard)?;
        (now_ms < at.saturating_add(REPORT_FRESH_MS)).then_some(report)
    }

    /// The members as the placement sees them; only whether the grace is over counts of how long they are down.
    fn candidates(&self, now_ms: u64, state: &MetaState) -> Vec<Candidate> {
        let over = |id: u64| self.down.get(&id).is_some_and(|since| now_ms - since >= DOWN_GRACE_MS);
        let candidate = |m: &crate::Member| Candidate {
            id: m.id,
            zone: state.shards.zone(m.id).to_owned(),
            active: m.is_active(),
            up: m.up,
            down_for_ms: if over(m.id) { DOWN_GRACE_MS } else { 0 },
        };
        state.members.values().map(candidate).collect()
    }

    fn place(&mut self, now_ms: u64, state: &MetaState, steps: &mut Vec<ShardStep>) {
        let just = |id: &u64| self.down.get(id).is_some_and(|since| now_ms < since.saturating_add(HOLD_MS));
        if state.shards.count() == 0 || state.active().any(|m| just(&m.id)) {
            return;
        }
        let members = self.candidates(now_ms, state);
        let epoch = state.shards.placed();
        let same = |(placed, before): &(u64, Vec<Candidate>)| (*placed, before) == (epoch, &members);
        if self.placed.as_ref().is_some_and(same) {
            return;
        }
        let moves = place(&members, &state.shards);
        if moves.is_empty() {
            self.placed = Some((epoch, members));
        } else if self.may_ask(now_ms, Ask::Place, 0) {
            steps.push(ShardStep::Propose(MetaCommand::PlaceShards { epoch, moves }));
        }
    }

    /// What makes a shard that was placed a group.
    fn form(
        &self,
        now_ms: u64,
        number: u16,
        shard: &Shard,
        state: &MetaState,
        meta_voters: &BTreeSet<u64>,
    ) -> Option<(Ask, ShardStep)> {
        let generation = shard.generation();
        let is_up = |id: &u64| state.members.get(id).is_some_and(|m| m.up);
        if self.fresh(now_ms, number).is_some() && !shard.initial().is_empty() {
            let command = MetaCommand::ShardFormed { shard: number, generation };
            return Some((Ask::Formed, ShardStep::Propose(command)));
        }
        if !shard.initial().is_empty() {
            // The same voters whoever is asked, and whoever was asked before: a group begun twice with the same voters is one.
            // Who begins a group leads it at first: each shard begins with another one.
            let first = usize::from(number) % shard.initial().len();
            let node = *shard.initial().iter().cycle().skip(first).take(shard.initial().len()).find(|id| is_up(id))?;
            let voters = shard.initial().clone();
            return Some((Ask::Initialise, ShardStep::Initialise { node, shard: number, generation, voters }));
        }
        let wanted = shard.wanted();
        if !wanted.iter().all(|id| state.members.get(id).is_some_and(|m| m.is_active())) {
            return None;
        }
        let mut order: Vec<u64> = wanted.iter().copied().collect();
        order.sort_by_key(|id| (!is_up(id), !meta_voters.contains(id), mix(usize::from(number), *id), *id));
        order.truncate(voters_for(wanted.len()));
        if order.iter().filter(|id| is_up(id)).count() <= order.len() / 2 {
            return None;
        }
        let command = MetaCommand::FormShard { shard: number, generation, voters: order.into_iter().collect() };
        Some((Ask::Form, ShardStep::Propose(command)))
    }

    /// What the table should know of a shard.
    fn replicas(&self, number: u16, shard: &Shard) -> Option<(Ask, ShardStep)> {
        let (_, report) = self.reports.get(&number)?;
        let known = shard.reported().is_some_and(|known| known.index >= report.index);
        if known || !report.settled {
            return None;
        }
        let command = MetaCommand::ShardReplicas {
            shard: number,
            generation: report.generation,
            index: report.index,
            voters: report.voters.clone(),
            learners: report.learners.clone(),
        };
        Some((Ask::Replicas, ShardStep::Propose(command)))
    }

    /// The changes of memberships. Says whether there is nothing to change and nothing changing.
    fn change(
        &mut self,
        now_ms: u64,
        state: &MetaState,
        meta_voters: &BTreeSet<u64>,
        steps: &mut Vec<ShardStep>,
    ) -> bool {
        if now_ms < self.started.saturating_add(SETTLED_AFTER_MS) {
            return false;
        }
        let led = self.led();
        let mut slots = Slots::default();
        let mut begun = Vec::new();
        let mut repair = Vec::new();
        let mut rebalance = Vec::new();
        let mut quiet = true;
        for (number, shard) in state.shards.iter().filter(|(_, shard)| shard.is_formed()) {
            let Some((_, report)) = self.reports.get(&number) else {
                if self.sent.contains_key(&number) {
                    slots.take(&nodes(shard.wanted().iter().copied().chain(shard.holders()), state));
                }
                quiet = false;
                continue;
            };
            let around = Around { wanted: shard.wanted(), members: &state.members, preferred: meta_voters, led: &led };
            let replicas = report.voters.iter().chain(&report.learners).chain(shard.wanted());
            let nodes = nodes(replicas.copied(), state);
            let transfers = self.sent.get(&number).is_some_and(|sent| sent.transfer);
            let is_fresh = self.fresh(now_ms, number).is_some();
            if self.sent.contains_key(&number) || !report.settled {
                slots.take(&nodes);
                quiet &= transfers && report.settled;
                continue;
            }
            let step = if is_fresh { step::next(report, &around) } else { None };
            let progress = step::progress(report, &around);
            quiet &= is_fresh && step.is_none() && progress != Progress::Begun;
            match (progress, step) {
                (Progress::Begun, step) => begun.push((number, nodes, step)),
                (_, Some(step)) => match step::lacking(report, &around) {
                    0 => rebalance.push((number, nodes, step)),
                    lacking => repair.push((lacking, number, nodes, step)),
                },
                _ => {}
            }
        }
        // What was begun is finished first, then repair, those who lack most before the others, and only when no repair waits the rest.
        repair.sort_by_key(|(lacking, number, ..)| (std::cmp::Reverse(*lacking), *number));
        let mut go = Vec::new();
        let mut parked = Vec::new();
        for (number, nodes, step) in begun {
            if slots.try_take(&nodes) {
                go.extend(step.map(|step| (number, step)));
            } else {
                parked.push(nodes);
            }
        }
        parked.iter().for_each(|nodes| slots.take(nodes));
        let mut waits = false;
        for (_, number, nodes, step) in repair {
            if slots.try_take(&nodes) {
                go.push((number, step));
            } else {
                waits = true;
            }
        }
        for (number, nodes, step) in rebalance {
            if !waits && slots.try_take(&nodes) {
                go.push((number, step));
            }
        }
        for (number, step) in go {
            steps.extend(self.send(now_ms, number, step));
        }
        quiet
    }

    fn send(&mut self, now_ms: u64, shard: u16, step: Step) -> Option<ShardStep> {
        let (_, report) = self.reports.get(&shard)?;
        let (generation, node, term, index) = (report.generation, report.leader, report.term, report.index);
        let transfer = matches!(step, Step::TransferLeader(_));
        self.sent.insert(shard, Sent { at: now_ms, term, index, transfer });
        Some(ShardStep::Change { node, shard, generation, term, index, step })
    }

    fn led(&self) -> BTreeMap<u64, u32> {
        let mut led = BTreeMap::new();
        self.reports.values().for_each(|(_, report)| *led.entry(report.leader).or_default() += 1);
        led
    }

    /// One shard at a time gets the leader that makes leading even, when there is nothing else to do.
    fn move_leader(&mut self, now_ms: u64, table: &ShardTable, steps: &mut Vec<ShardStep>) {
        let (at, last) = self.moved;
        let early = |since: u64| now_ms < since.saturating_add(QUIET_MS);
        if early(self.busy) || early(at) || !self.sent.is_empty() {
            return;
        }
        let led = |report: &ShardReport| Led {
            shard: report.shard,
            leader: report.leader,
            could: {
                let voters = report.voters.intersection(&report.reachable);
                voters.filter(|id| report.caught_up.contains(id)).copied().collect()
            },
        };
        let all: Vec<Led> = self.reports.values().map(|(_, report)| led(report)).collect();
        let preferred = leaders(&all);
        let mut wrong = all.iter().filter_map(|led| Some((led, *preferred.get(&led.shard)?)));
        let mut wrong = wrong.by_ref().filter(|(led, to)| led.leader != *to && table.get(led.shard).is_some());
        // In turn: a shard whose leader stays for whatever reason does not keep the others from moving.
        let mut first = None;
        let next = wrong.find(|(led, to)| {
            first.get_or_insert((led.shard, *to));
            led.shard > last
        });
        let Some((shard, to)) = next.map(|(led, to)| (led.shard, to)).or(first) else {
            return;
        };
        self.moved = (now_ms, shard);
        steps.extend(self.send(now_ms, shard, Step::TransferLeader(to)));
    }
}

/// Those nodes that are alive: what the others have no part in costs them nothing.
fn nodes(replicas: impl Iterator<Item = u64>, state: &MetaState) -> BTreeSet<u64> {
    replicas.filter(|id| state.members.get(id).is_some_and(|m| m.up)).collect()
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
