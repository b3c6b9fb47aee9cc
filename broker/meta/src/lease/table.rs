//! The meta leader's side of the leases: one table for one term of leadership.

use std::collections::BTreeMap;

use super::{Denial, Grant, LeaseParams, LeaseRequest, Nanos};
use crate::state::MetaState;

/// Names a ReadIndex round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundId(u64);

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What [`LeaseTable::on_request`] returned.
    pub ticket: u64,
    /// The lease, or why there is none.
    pub result: Result<Grant, Denial>,
}

/// What others may rely on of a node that they do not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Nothing: it may be serving.
    Open,
    /// It serves nobody. If it did again, it would not know that others relied on that ([`crate::MetaCommand::Fenced`]).
    Over,
    /// It serves none of the clients that it had, until they connect again.
    Noted,
}

/// A member's lease as the leader counts it, for people and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberLease {
    /// Whether the member might be serving.
    pub holder: bool,
    /// How far it reported to have applied routes.
    pub applied: Option<u64>,
}

/// What the leader knows of one member.
#[derive(Debug)]
struct Entry {
    state: EntryState,
    boot: u64,
    applied: Option<u64>,
    /// When its lease is over by this leader's clock.
    counted_until: Nanos,
    /// When it is declared down unless it gets a lease.
    down_at: Nanos,
    /// Whether it was a member when this leader was elected, and has not asked since.
    awaited: bool,
    active: bool,
    member: bool,
    up: bool,
    going_down: bool,
    released: bool,
    /// Where its stream of routes was closed: it must know that before it gets a lease.
    closed_at: u64,
    /// How often others relied on it that it is fenced.
    fences: u64,
    /// They do, since its last lease.
    fenced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryState {
    /// It may hold a lease of an older leader.
    Assumed,
    /// It was granted one by this leader.
    Granted,
    /// It holds none.
    Nothing,
}

impl Entry {
    fn is_holder(&self) -> bool {
        self.state != EntryState::Nothing
    }
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    request: LeaseRequest,
}

/// Who holds a lease, for one term of one leader.
///
/// The caller carries messages and runs rounds: [`Self::begin_round`] when it says so, then a ReadIndex
/// round of the meta group, then [`Self::end_round`] with its outcome. When the leader is deposed the table is dropped.
#[derive(Debug)]
pub struct LeaseTable {
    params: LeaseParams,
    term: u64,
    settle_at: Nanos,
    settled: bool,
    entries: BTreeMap<u64, Entry>,
    waiting: Vec<Waiting>,
    in_round: Vec<Waiting>,
    round: Option<(RoundId, Nanos)>,
    next: u64,
    /// What routes had committed at a moment after this leader was settled.
    routes_floor: Option<u64>,
    reading_routes: bool,
    watermark: Option<u64>,
}

impl LeaseTable {
    /// The table of the leader of `term`. `state` must contain every entry of the terms before. All members are held to
    /// hold a lease until 1.1 L from now.
    pub fn new(params: LeaseParams, term: u64, now: Nanos, state: &MetaState) -> Self {
        let entries = state
            .members
            .values()
            .map(|m| {
                let entry = Entry {
                    state: EntryState::Assumed,
                    boot: 0,
                    applied: None,
                    counted_until: now.saturating_add(params.counted()),
                    down_at: now.saturating_add(params.down_after()),
                    awaited: true,
                    active: m.is_active(),
                    member: true,
                    up: m.up,
                    going_down: false,
                    released: false,
                    closed_at: 0,
                    fences: state.fences.get(&m.id).copied().unwrap_or(0),
                    fenced: false,
                };
                (m.id, entry)
            })
            .collect();
        Self {
            params,
            term,
            settle_at: now.saturating_add(params.counted()),
            settled: false,
            entries,
            waiting: Vec::new(),
            in_round: Vec::new(),
            round: None,
            next: 0,
            routes_floor: None,
            reading_routes: false,
            watermark: None,
        }
    }

    /// The term of the leader.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The lowest index of routes that every node that may be serving has applied. Never falls.
    pub fn watermark(&self) -> Option<u64> {
        self.watermark
    }

    /// Whether nobody relies on an older leader any more.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether the node might be serving.
    pub fn is_holder(&self, node: u64) -> bool {
        self.entries.get(&node).is_some_and(Entry::is_holder)
    }

    /// What others may rely on of a boot of a node. That this leader still is one has to be found out after this call.
    pub fn fence(&self, node: u64, boot: u64) -> Fence {
        match self.entries.get(&node) {
            Some(entry) if boot < entry.boot => Fence::Noted,
            Some(entry) if entry.is_holder() => Fence::Open,
            Some(entry) if entry.fenced => Fence::Noted,
            Some(_) => Fence::Over,
            // Whoever is no member any more is declared down.
            None => Fence::Open,
        }
    }

    /// It is committed that others rely on it that the node is fenced, `count` times by now. Says whether they may: had it got a lease meanwhile it would not know of that.
    pub fn note_fence(&mut self, node: u64, count: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&node) else {
            return false;
        };
        entry.fences = entry.fences.max(count);
        entry.fenced = !entry.is_holder();
        entry.fenced
    }

    /// Every member's lease.
    pub fn members(&self) -> impl Iterator<Item = (u64, MemberLease)> {
        self.entries.iter().map(|(id, e)| (*id, MemberLease { holder: e.is_holder(), applied: e.applied }))
    }

    /// Takes over who is a member. Who is new holds nothing; who is no member any more counts until its lease is over.
    pub fn set_members(&mut self, now: Nanos, state: &MetaState) {
        for entry in self.entries.values_mut() {
            entry.member = false;
            entry.active = false;
        }
        for m in state.members.values() {
            let down_at = now.saturating_add(self.params.down_after());
            let entry = self.entries.entry(m.id).or_insert(Entry {
                state: EntryState::Nothing,
                boot: 0,
                applied: None,
                counted_until: now,
                down_at,
                awaited: false,
                active: true,
                member: true,
                up: m.up,
                going_down: false,
                released: false,
                closed_at: 0,
                fences: 0,
                fenced: false,
            });
            entry.fences = entry.fences.max(state.fences.get(&m.id).copied().unwrap_or(0));
            entry.member = true;
            entry.active = m.is_active();
            entry.up = m.up;
        }
        self.sweep();
    }

    /// A node asks for a lease, or to have it prolonged. Returns the ticket that the answer will carry.
    ///
    /// # Errors
    /// The denial, when it needs no round.
    pub fn on_request(&mut self, now: Nanos, request: LeaseRequest) -> Result<u64, Denial> {
        if request.term != self.term {
            return Err(Denial::WrongTerm { term: self.term });
        }
        let entry =
            self.entries.get_mut(&request.node).filter(|e| e.member).ok_or(Denial::NotActive { node: request.node })?;
        if request.boot < entry.boot {
            return Err(Denial::StaleBoot { boot: request.boot });
        }
        if request.boot > entry.boot {
            // Its older boot is dead and holds nothing; of an older leader it holds something only if it says so.
            let dead = entry.boot != 0;
            entry.boot = request.boot;
            entry.applied = None;
            entry.released = false;
            if dead {
                entry.state = EntryState::Nothing;
            }
        }
        entry.awaited = false;
        entry.applied = Some(entry.applied.unwrap_or(0).max(request.applied));
        // It listens to nobody but this leader, which granted it nothing in this boot.
        if entry.state == EntryState::Assumed && !request.holding {
            entry.state = EntryState::Nothing;
        }
        if request.release {
            entry.state = EntryState::Nothing;
            entry.down_at = now;
            entry.released = true;
            self.waiting.retain(|w| w.request.node != request.node);
            self.in_round.retain(|w| w.request.node != request.node);
        }
        self.sweep();
        self.settle(now);
        if request.release {
            return Err(Denial::Withdrawn);
        }
        self.next += 1;
        self.waiting.retain(|w| w.request.node != request.node);
        self.waiting.push(Waiting { ticket: self.next, request });
        Ok(self.next)
    }

    /// A node reports how far it has applied routes. Says whether the watermark rose.
    pub fn on_applied(&mut self, node: u64, boot: u64, applied: u64) -> bool {
        if let Some(entry) = self.entries.get_mut(&node)
            && entry.boot == boot
            && boot != 0
        {
            entry.applied = Some(entry.applied.unwrap_or(0).max(applied));
        }
        self.sweep()
    }

    /// Begins a ReadIndex round if somebody waits for one and none is running. The caller begins the round
    /// after this call.
    pub fn begin_round(&mut self, now: Nanos) -> Option<RoundId> {
        if self.round.is_some() {
            return None;
        }
        let confirm = self.entries.values().any(|e| e.is_holder() && e.counted_until < now);
        if self.waiting.is_empty() && !confirm {
            return None;
        }
        self.in_round = std::mem::take(&mut self.waiting);
        self.next += 1;
        let id = RoundId(self.next);
        self.round = Some((id, now));
        Some(id)
    }

    /// A round ended. `confirmed` says that this leader was still the leader at some moment after it began. Returns
    /// the answers to the requests that waited for it; those that are missing were withdrawn.
    pub fn end_round(&mut self, now: Nanos, id: RoundId, confirmed: bool) -> Vec<Answer> {
        let Some((_, began)) = self.round.filter(|(running, _)| *running == id) else {
            return Vec::new();
        };
        self.round = None;
        let requests = std::mem::take(&mut self.in_round);
        if !confirmed {
            return requests
                .into_iter()
                .map(|w| Answer { ticket: w.ticket, result: Err(Denial::NotConfirmed) })
                .collect();
        }
        self.settle(now);
        // First those who asked, so that one who asked late is prolonged rather than left out.
        let answers =
            requests.into_iter().map(|w| Answer { ticket: w.ticket, result: self.decide(now, &w.request) }).collect();
        for entry in self.entries.values_mut() {
            if entry.is_holder() && entry.counted_until < began {
                entry.state = EntryState::Nothing;
            }
        }
        self.sweep();
        answers
    }

    fn decide(&mut self, now: Nanos, request: &LeaseRequest) -> Result<Grant, Denial> {
        let watermark = self.watermark;
        let entry =
            self.entries.get_mut(&request.node).filter(|e| e.active).ok_or(Denial::NotActive { node: request.node })?;
        if entry.boot != request.boot {
            return Err(Denial::StaleBoot { boot: request.boot });
        }
        if entry.going_down {
            return Err(Denial::GoingDown);
        }
        // A holder has counted for the watermark all along, and needs no look at its routes.
        if !entry.is_holder() {
            if !self.settled {
                return Err(Denial::NotSettled);
            }
            let floor = self.routes_floor.ok_or(Denial::RoutesUnknown)?;
            let needed = floor.max(watermark.unwrap_or(0));
            let applied = entry.applied.unwrap_or(0);
            if applied < needed {
                return Err(Denial::Behind { applied, needed });
            }
            // Not what it reported since: it asked because, as far as it had applied then, its stream was open.
            if request.applied < entry.closed_at {
                return Err(Denial::Behind { applied: request.applied, needed: entry.closed_at });
            }
        }
        entry.state = EntryState::Granted;
        entry.fenced = false;
        entry.counted_until = now.saturating_add(self.params.counted());
        entry.down_at = now.saturating_add(self.params.down_after());
        let (&LeaseRequest { node, boot, seq, .. }, fences) = (request, entry.fences);
        Ok(Grant { node, boot, seq, term: self.term, watermark, fences })
    }

    /// Whether the leader shall read the commit index of routes now; if so the caller begins a linearizable
    /// read after this call.
    pub fn begin_routes_read(&mut self, now: Nanos) -> bool {
        self.settle(now);
        let wanted = self.settled && self.routes_floor.is_none() && !self.reading_routes;
        if wanted {
            self.reading_routes = true;
        }
        wanted
    }

    /// The read ended, with what was committed at some moment after it began, or with nothing.
    pub fn end_routes_read(&mut self, committed: Option<u64>) {
        self.reading_routes = false;
        self.routes_floor = committed;
    }

    /// Members to be declared down. Each is named once until [`Self::end_down`] tells how it went, and gets no lease
    /// meanwhile.
    pub fn begin_down(&mut self, now: Nanos) -> Vec<u64> {
        let mut down = Vec::new();
        for (id, entry) in &mut self.entries {
            let over = entry.down_at <= now || !entry.active;
            let due = entry.member && entry.up && !entry.is_holder() && over;
            if due && !entry.going_down {
                entry.going_down = true;
                down.push(*id);
            }
        }
        down
    }

    /// As [`Self::begin_down`] for a member that is held to be down already, whose routes are still there. Says whether it may be done: not while
    /// it might hold a lease, or got one within 1.1 D.
    pub fn begin_down_again(&mut self, now: Nanos, node: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&node) else {
            return false;
        };
        let may = !entry.is_holder() && !entry.going_down && entry.down_at <= now;
        entry.going_down |= may;
        may
    }

    /// Whether the node gave its lease back in this boot or a later one: it never serves again in this boot.
    pub fn is_released(&self, node: u64, boot: u64) -> bool {
        self.entries.get(&node).is_some_and(|e| boot < e.boot || (boot == e.boot && e.released))
    }

    /// The member's routes are removed, or it could not be done now. `closed` is the index of routes at which its stream was closed, if one
    /// was: a request that the node sent before it had applied that, and that arrives only now, is denied.
    pub fn end_down(&mut self, now: Nanos, node: u64, done: bool, closed: Option<u64>) {
        if let Some(entry) = self.entries.get_mut(&node) {
            entry.going_down = false;
            entry.closed_at = entry.closed_at.max(closed.unwrap_or(0));
            if done {
                entry.up = false;
            } else {
                entry.down_at = now.saturating_add(self.params.length);
            }
        }
    }

    /// Members that hold a lease and are not yet held to be up.
    pub fn to_bring_up(&self) -> Vec<u64> {
        let fresh = |e: &Entry| e.state == EntryState::Granted && !e.up && e.member;
        self.entries.iter().filter(|(_, e)| fresh(e)).map(|(id, _)| *id).collect()
    }

    /// The member is held to be up.
    pub fn brought_up(&mut self, node: u64) {
        if let Some(entry) = self.entries.get_mut(&node) {
            entry.up = true;
        }
    }

    /// When to look again: for a round, a read of routes or members that are down. `None` when only a message changes anything.
    pub fn next_event(&self, now: Nanos) -> Option<Nanos> {
        let settle = (!self.settled).then_some(self.settle_at);
        let over = self.entries.values().filter(|e| e.is_holder()).map(|e| e.counted_until + 1);
        let down = self
            .entries
            .values()
            .filter(|e| !e.is_holder() && e.member && e.up && !e.going_down)
            .map(|e| if e.active { e.down_at } else { 0 });
        settle.into_iter().chain(over).chain(down).min().map(|at| at.max(now))
    }

    fn settle(&mut self, now: Nanos) {
        let all_asked = self.entries.values().all(|e| !e.awaited);
        if now >= self.settle_at || all_asked {
            self.settled = true;
        }
    }

    /// Forgets who is neither member nor holder, and raises the watermark. Says whether it rose.
    fn sweep(&mut self) -> bool {
        self.entries.retain(|_, e| e.member || e.is_holder());
        let mut lowest = None;
        for entry in self.entries.values().filter(|e| e.is_holder()) {
            let Some(applied) = entry.applied else {
                return false;
            };
            lowest = Some(lowest.map_or(applied, |l: u64| l.min(applied)));
        }
        let rises = lowest > self.watermark;
        if rises {
            self.watermark = lowest;
        }
        rises
    }
}
