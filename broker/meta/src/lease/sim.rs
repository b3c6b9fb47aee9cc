//! A cluster in miniature: messages are delayed, lost and reordered, clocks differ in speed and offset, nodes die and
//! return, leaders are deposed without noticing. After every event the promise of the lease is checked.

#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::command::{InitialMember, MetaCommand, NodeAddresses};
use crate::state::MetaState;

const NODES: u64 = 4;
/// Simulated milliseconds of one run.
const RUN: u64 = 60_000;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    /// Mostly quick, sometimes very late.
    fn delay(&mut self) -> u64 {
        match self.below(20) {
            0 => self.below(4000),
            1..4 => self.below(400),
            _ => self.below(20),
        }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Renew { node: usize },
    Apply { node: usize },
    Report { node: usize },
    Subscribe { node: usize },
    Ask { node: usize },
    Kill { node: usize },
    Restart { node: usize },
    Elect,
    Weather,
    LeaderTick { term: u64 },
    Deliver(usize),
}

enum Message {
    Request {
        term: u64,
        request: LeaseRequest,
    },
    Answer {
        node: usize,
        boot: u64,
        result: Result<Grant, Denial>,
    },
    RoundEnd {
        term: u64,
        id: RoundId,
        began: u64,
    },
    RoutesRead {
        term: u64,
        committed: u64,
    },
    Applied {
        term: u64,
        node: usize,
        boot: u64,
        applied: u64,
    },
    Watermark {
        node: usize,
        boot: u64,
        term: u64,
        index: u64,
    },
    /// Whether a node is fenced, asked at some time.
    Ask {
        term: u64,
        node: usize,
        boot: u64,
        asked: u64,
    },
    FenceCommit {
        term: u64,
        node: usize,
        asked: u64,
    },
    FenceNote {
        term: u64,
        node: usize,
        asked: u64,
        count: u64,
    },
    FenceRound {
        term: u64,
        node: usize,
        boot: u64,
        asked: u64,
        began: u64,
    },
}

struct Node {
    lease: Lease,
    boot: u64,
    alive: bool,
    applied: u64,
    watermark: u64,
    pending: Vec<u64>,
    rate: u64,
    offset: u64,
    /// Messages between the two sides of a partition are mostly lost.
    side: bool,
    /// It gets nothing of routes for now.
    stalled: bool,
    /// When it parted last from all clients that it had.
    parted: u64,
    /// When it was asked last whether it is fenced, of those times that the answer was yes.
    relied: u64,
}

struct Leader {
    term: u64,
    host: usize,
    table: LeaseTable,
    tickets: Vec<(u64, usize, u64)>,
    elected: u64,
    pushed: Option<u64>,
}

pub(super) struct World {
    rng: Rng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    messages: Vec<Option<Message>>,
    order: u64,
    nodes: Vec<Node>,
    leaders: Vec<Leader>,
    /// When each term began, by term.
    elections: Vec<u64>,
    committed: u64,
    /// The highest entry that a SUBACK relied on.
    acknowledged: u64,
    state: MetaState,
    pub(super) subacks: u64,
    pub(super) grants: u64,
    pub(super) fences: u64,
    /// How often a node parted from clients because others relied on its being fenced.
    pub(super) lapses: u64,
}

fn params() -> LeaseParams {
    LeaseParams { length: 2000, close: 5000 }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut state = MetaState::default();
        let members = (1..=NODES)
            .map(|id| InitialMember {
                id,
                name: format!("n{id}"),
                incarnation: u128::from(id),
                boot: 1,
                nonce: 1,
                addresses: NodeAddresses { link: "x:1".into(), control: String::new() },
                version: String::new(),
                feature_level: crate::FENCES_LEVEL,
            })
            .collect();
        state.apply(MetaCommand::Init { cluster_id: 1, name: "sim".into(), members });
        state.apply(MetaCommand::FeatureLevel { level: crate::FENCES_LEVEL });
        let nodes = (1..=NODES)
            .map(|id| Node {
                lease: Lease::new(params(), id, 1),
                boot: 1,
                alive: true,
                applied: 0,
                watermark: 0,
                pending: Vec::new(),
                rate: 960 + rng.below(81),
                offset: rng.below(1_000_000),
                side: false,
                stalled: false,
                parted: 0,
                relied: 0,
            })
            .collect();
        let mut world = Self {
            rng,
            now: 0,
            queue: BinaryHeap::new(),
            messages: Vec::new(),
            order: 0,
            nodes,
            leaders: Vec::new(),
            elections: vec![0],
            committed: 0,
            acknowledged: 0,
            state,
            subacks: 0,
            grants: 0,
            fences: 0,
            lapses: 0,
        };
        world.at(0, Event::Elect);
        world.at(3000, Event::Weather);
        for node in 0..NODES as usize {
            for event in [Event::Renew { node }, Event::Apply { node }, Event::Report { node }] {
                world.at(0, event);
            }
            world.at(0, Event::Subscribe { node });
            world.at(0, Event::Ask { node });
        }
        world
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            if at > RUN {
                break;
            }
            self.now = at;
            self.handle(event);
            self.check()?;
        }
        Ok(())
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((self.now + delay, self.order, event)));
    }

    fn apart(&self, node: usize, term: u64) -> bool {
        let leader = self.leaders.iter().find(|l| l.term == term);
        leader.is_none_or(|l| self.nodes[l.host].side != self.nodes[node].side)
    }

    fn send(&mut self, message: Message) {
        let apart = match &message {
            Message::Request { term, request } => self.apart(request.node as usize - 1, *term),
            Message::Applied { term, node, .. } | Message::Watermark { term, node, .. } => self.apart(*node, *term),
            Message::Answer { node, result: Ok(grant), .. } => self.apart(*node, grant.term),
            _ => false,
        };
        let loss = if apart { 97 } else { 5 };
        if self.rng.chance(loss) {
            return;
        }
        let delay = self.rng.delay();
        self.send_in(delay, message);
    }

    fn send_in(&mut self, delay: u64, message: Message) {
        self.messages.push(Some(message));
        let index = self.messages.len() - 1;
        self.at(delay, Event::Deliver(index));
    }

    fn clock(&self, node: usize) -> Nanos {
        let n = &self.nodes[node];
        n.offset + self.now * n.rate / 1000
    }

    fn leader(&mut self, term: u64) -> Option<usize> {
        let now = self.now;
        let elections = &self.elections;
        // A deposed leader lives on for a while without knowing it.
        let over = |l: &Leader| elections.get(l.term as usize + 1).is_some_and(|next| now > next + 6000);
        self.leaders.iter().position(|l| l.term == term && !over(l))
    }

    fn check(&self) -> Result<(), String> {
        for (i, node) in self.nodes.iter().enumerate() {
            let serving = node.alive && node.lease.phase(self.clock(i)) == Phase::Serving;
            if serving && node.applied < self.acknowledged {
                return Err(format!(
                    "at {}: node {} serves with routes at {}, acknowledged is {}",
                    self.now,
                    i + 1,
                    node.applied,
                    self.acknowledged
                ));
            }
            if serving && node.relied > node.parted {
                return Err(format!(
                    "at {}: node {} serves clients of before {}, when others relied on its being fenced",
                    self.now,
                    i + 1,
                    node.relied
                ));
            }
            // An older leader's table may say anything: it decides nothing with it any more.
            let newest = self.leaders.last().filter(|l| l.term as usize + 1 == self.elections.len());
            if serving
                && let Some(l) = newest
                && !l.table.is_holder(i as u64 + 1)
            {
                return Err(format!("at {}: node {} is held for fenced and serves", self.now, i + 1));
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Renew { node } => {
                if self.nodes[node].alive {
                    let now = self.clock(node);
                    let applied = self.nodes[node].applied;
                    let request = self.nodes[node].lease.request(now, applied);
                    let newest = self.elections.len() as u64 - 1;
                    let term = if self.rng.chance(70) { newest } else { request.term };
                    self.send(Message::Request { term, request });
                }
                let next = 300 + self.rng.below(300);
                self.at(next, Event::Renew { node });
            }
            Event::Apply { node } => {
                let behind = self.committed - self.nodes[node].applied;
                if self.nodes[node].alive && !self.nodes[node].stalled && behind > 0 {
                    let step = 1 + self.rng.below(behind);
                    self.nodes[node].applied += step;
                }
                let next = self.rng.delay() + 1;
                self.at(next, Event::Apply { node });
            }
            Event::Report { node } => {
                let n = &self.nodes[node];
                if n.alive {
                    let term = n.lease.term();
                    let (boot, applied) = (n.boot, n.applied);
                    self.send(Message::Applied { term, node, boot, applied });
                }
                let next = 1 + self.rng.below(60);
                self.at(next, Event::Report { node });
            }
            Event::Subscribe { node } => {
                let now = self.clock(node);
                let n = &mut self.nodes[node];
                if n.alive && n.lease.phase(now) == Phase::Serving {
                    self.committed += 1;
                    n.pending.push(self.committed);
                }
                let next = 20 + self.rng.below(300);
                self.at(next, Event::Subscribe { node });
            }
            Event::Ask { node } => {
                let boot = self.nodes[node].boot;
                let known = self.leaders.len() as u64;
                if known > 0 {
                    let at = if self.rng.chance(70) { known - 1 } else { self.rng.below(known) };
                    let term = self.leaders[at as usize].term;
                    self.send(Message::Ask { term, node, boot, asked: self.now });
                }
                let next = 20 + self.rng.below(600);
                self.at(next, Event::Ask { node });
            }
            Event::Kill { node } => {
                if !std::mem::take(&mut self.nodes[node].alive) {
                    return;
                }
                self.leaders.retain(|l| l.host != node);
                let next = if self.rng.chance(50) { self.rng.below(800) } else { self.rng.below(6000) };
                self.at(next, Event::Restart { node });
            }
            Event::Restart { node } => {
                let keep = self.rng.below(self.nodes[node].applied + 1);
                let parted = self.now;
                let n = &mut self.nodes[node];
                n.parted = parted;
                n.boot += 1;
                n.alive = true;
                n.stalled |= keep.is_multiple_of(2);
                n.applied = keep;
                n.watermark = 0;
                n.pending.clear();
                n.lease = Lease::new(params(), node as u64 + 1, n.boot);
            }
            Event::Weather => {
                let calm = self.rng.chance(40);
                for node in 0..self.nodes.len() {
                    self.nodes[node].side = !calm && self.rng.chance(50);
                    self.nodes[node].stalled = !calm && self.rng.chance(30);
                }
                let node = self.rng.below(NODES) as usize;
                if self.nodes[node].alive && self.rng.chance(40) {
                    let delay = self.rng.below(300);
                    self.at(delay, Event::Kill { node });
                }
                let next = 300 + self.rng.below(4000);
                self.at(next, Event::Weather);
            }
            Event::Elect => {
                let term = self.elections.len() as u64;
                self.elections.push(self.now);
                let alive: Vec<usize> = (0..self.nodes.len()).filter(|n| self.nodes[*n].alive).collect();
                if !alive.is_empty() {
                    let host = alive[self.rng.below(alive.len() as u64) as usize];
                    let table = LeaseTable::new(params(), term, self.clock(host), &self.state);
                    self.leaders.push(Leader {
                        term,
                        host,
                        table,
                        tickets: Vec::new(),
                        elected: self.now,
                        pushed: None,
                    });
                    self.at(0, Event::LeaderTick { term });
                }
                let next = if self.rng.chance(30) { self.rng.below(1500) } else { self.rng.below(12_000) };
                self.at(next, Event::Elect);
            }
            Event::LeaderTick { term } => {
                if let Some(i) = self.leader(term) {
                    self.drive(i);
                    let next = 1 + self.rng.below(30);
                    self.at(next, Event::LeaderTick { term });
                }
            }
            Event::Deliver(index) => {
                if let Some(message) = self.messages[index].take() {
                    self.deliver(message);
                }
            }
        }
    }

    fn rely(&mut self, node: usize, asked: u64) {
        self.nodes[node].relied = self.nodes[node].relied.max(asked);
        self.fences += 1;
    }

    fn drive(&mut self, i: usize) {
        let now = self.clock(self.leaders[i].host);
        let term = self.leaders[i].term;
        if let Some(id) = self.leaders[i].table.begin_round(now) {
            let delay = self.rng.delay();
            let began = self.now;
            self.send_in(delay, Message::RoundEnd { term, id, began });
        }
        if self.leaders[i].table.begin_routes_read(now) {
            let delay = self.rng.delay();
            let committed = self.committed;
            self.send_in(delay, Message::RoutesRead { term, committed });
        }
        let watermark = self.leaders[i].table.watermark();
        if watermark > self.leaders[i].pushed || self.rng.chance(10) {
            self.leaders[i].pushed = watermark;
            for node in 0..self.nodes.len() {
                let boot = self.nodes[node].boot;
                if let Some(index) = watermark {
                    self.send(Message::Watermark { node, boot, term, index });
                }
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Request { term, request } => {
                let Some(i) = self.leader(term) else { return };
                let now = self.clock(self.leaders[i].host);
                let (node, boot) = (request.node as usize - 1, request.boot);
                match self.leaders[i].table.on_request(now, request) {
                    Ok(ticket) => self.leaders[i].tickets.push((ticket, node, boot)),
                    Err(denial) => self.send(Message::Answer { node, boot, result: Err(denial) }),
                }
                self.drive(i);
            }
            Message::Answer { node, boot, result } => {
                let (now, parted) = (self.clock(node), self.now);
                let n = &mut self.nodes[node];
                if !n.alive || n.boot != boot {
                    return;
                }
                match result {
                    Ok(grant) if n.lease.lapses(now, &grant) => {
                        n.parted = parted;
                        self.lapses += 1;
                    }
                    Ok(grant) => {
                        if n.lease.phase(now) == Phase::Closed {
                            n.parted = parted;
                        }
                        n.lease.on_grant(&grant);
                    }
                    Err(denial) => {
                        if n.lease.on_denial(&denial) {
                            n.watermark = 0;
                            self.at(0, Event::Renew { node });
                        }
                    }
                }
            }
            Message::RoundEnd { term, id, began } => {
                let Some(i) = self.leader(term) else { return };
                let elected = self.leaders[i].elected;
                assert!(elected <= began);
                let deposed = self.elections.get(term as usize + 1).is_some_and(|next| *next <= began);
                let confirmed = !deposed && !self.rng.chance(5);
                let now = self.clock(self.leaders[i].host);
                for answer in self.leaders[i].table.end_round(now, id, confirmed) {
                    let at = self.leaders[i].tickets.iter().position(|t| t.0 == answer.ticket).unwrap();
                    let (_, node, boot) = self.leaders[i].tickets.swap_remove(at);
                    self.grants += u64::from(answer.result.is_ok());
                    self.send(Message::Answer { node, boot, result: answer.result });
                }
            }
            Message::RoutesRead { term, committed } => {
                if let Some(i) = self.leader(term) {
                    let read = (!self.rng.chance(20)).then_some(committed);
                    self.leaders[i].table.end_routes_read(read);
                }
            }
            Message::Applied { term, node, boot, applied } => {
                if let Some(i) = self.leader(term) {
                    self.leaders[i].table.on_applied(node as u64 + 1, boot, applied);
                    self.drive(i);
                }
            }
            Message::Ask { term, node, boot, asked } => {
                let Some(i) = self.leader(term) else { return };
                let (delay, began) = (self.rng.delay(), self.now);
                match self.leaders[i].table.fence(node as u64 + 1, boot) {
                    Fence::Open => {}
                    Fence::Over => self.send_in(delay, Message::FenceCommit { term, node, asked }),
                    Fence::Noted => self.send_in(delay, Message::FenceRound { term, node, boot, asked, began }),
                }
            }
            Message::FenceCommit { term, node, asked } => {
                let deposed = self.elections.len() as u64 > term + 1;
                if deposed && self.rng.chance(50) {
                    return;
                }
                // Of a leader that was deposed the next one commits it, and it is told nothing.
                let response = self.state.apply(MetaCommand::Fenced { id: node as u64 + 1 });
                let crate::MetaResponse::Fenced { count } = response else { unreachable!("{response:?}") };
                if !deposed {
                    let delay = self.rng.delay();
                    self.send_in(delay, Message::FenceNote { term, node, asked, count });
                }
            }
            Message::FenceNote { term, node, asked, count } => {
                if let Some(i) = self.leader(term)
                    && self.leaders[i].table.note_fence(node as u64 + 1, count)
                {
                    self.rely(node, asked);
                }
            }
            Message::FenceRound { term, node, boot, asked, began } => {
                let deposed = self.elections.get(term as usize + 1).is_some_and(|next| *next <= began);
                if let Some(i) = self.leader(term)
                    && !deposed
                    && self.leaders[i].table.fence(node as u64 + 1, boot) == Fence::Noted
                {
                    self.rely(node, asked);
                }
            }
            Message::Watermark { node, boot, term, index } => {
                let now = self.clock(node);
                let n = &mut self.nodes[node];
                if n.alive && n.boot == boot && n.lease.accepts_watermark(now, term) {
                    n.watermark = n.watermark.max(index);
                    let reached = n.watermark;
                    let before = n.pending.len();
                    let highest = n.pending.iter().copied().filter(|p| *p <= reached).max();
                    n.pending.retain(|p| *p > reached);
                    self.subacks += (before - n.pending.len()) as u64;
                    self.acknowledged = self.acknowledged.max(highest.unwrap_or(0));
                }
            }
        }
    }
}
