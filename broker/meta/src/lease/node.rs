//! A node's side of the lease.

use std::collections::VecDeque;

use raftmq_planted::{Bug, planted};

use super::{Denial, Grant, LeaseParams, LeaseRequest, Nanos};

/// Requests whose sending time is remembered; older ones could prolong nothing.
const REMEMBERED: usize = 32;

/// What the node may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Read, match, acknowledge, deliver.
    Serving,
    /// The lease is over: stop all of that, keep the connections; it may be renewed soon.
    Fenced,
    /// D is over, or no lease was held yet: no client may be connected.
    Closed,
}

/// What a node knows of its own lease.
#[derive(Debug)]
pub struct Lease {
    params: LeaseParams,
    node: u64,
    boot: u64,
    term: u64,
    seq: u64,
    sent: VecDeque<(u64, Nanos)>,
    /// When the request was sent that was granted last.
    held_from: Option<Nanos>,
    /// How often others had relied on this node's being fenced when that was granted.
    fences: u64,
    released: bool,
}

impl Lease {
    /// The lease of a node that was just started: none.
    pub fn new(params: LeaseParams, node: u64, boot: u64) -> Self {
        Self {
            params,
            node,
            boot,
            term: 0,
            seq: 0,
            sent: VecDeque::with_capacity(REMEMBERED),
            held_from: None,
            fences: 0,
            released: false,
        }
    }

    /// A request to send right now. `applied` is how far the node's route table follows routes.
    pub fn request(&mut self, now: Nanos, applied: u64) -> LeaseRequest {
        self.seq += 1;
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.seq, now));
        LeaseRequest {
            node: self.node,
            boot: self.boot,
            seq: self.seq,
            term: self.term,
            holding: self.phase(now) == Phase::Serving,
            applied,
            release: self.released,
        }
    }

    /// A meta leader of `term` was heard of. The lease held stays; older leaders are not listened to any more.
    /// Says whether the term is new.
    pub fn on_term(&mut self, term: u64) -> bool {
        let newer = term > self.term;
        self.term = self.term.max(term);
        newer
    }

    /// A lease was granted. Says whether it prolongs the one held.
    pub fn on_grant(&mut self, grant: &Grant) -> bool {
        if self.released || grant.node != self.node || grant.boot != self.boot || grant.term < self.term {
            return false;
        }
        self.term = grant.term;
        let Some(&(_, sent)) = self.sent.iter().find(|(seq, _)| *seq == grant.seq) else {
            return false;
        };
        let longer = self.held_from.is_none_or(|from| sent > from);
        if longer {
            self.held_from = Some(sent);
        }
        self.fences = self.fences.max(grant.fences);
        longer
    }

    /// Whether clients of this node may have been taken elsewhere since its lease was over at `now`. Then that lease counts as if D were over, too: the
    /// clients are closed, and another lease is asked for. To be asked before [`Self::on_grant`], and with the same time.
    pub fn lapses(&mut self, now: Nanos, grant: &Grant) -> bool {
        let lapses = self.held_from.is_some() && self.phase(now) != Phase::Serving && grant.fences > self.fences;
        if lapses {
            self.held_from = None;
        }
        lapses
    }

    /// A lease was denied. Says whether to ask again at once.
    pub fn on_denial(&mut self, denial: &Denial) -> bool {
        match denial {
            Denial::WrongTerm { term } => self.on_term(*term),
            _ => false,
        }
    }

    /// Whether a watermark of that leader may be relied on now.
    pub fn accepts_watermark(&self, now: Nanos, term: u64) -> bool {
        term == self.term && self.phase(now) == Phase::Serving
    }

    /// Gives the lease back: from this call on the node must not serve, and it takes no other lease in this boot.
    pub fn release(&mut self) {
        self.released = true;
        self.held_from = None;
    }

    /// Whether it was given back: the node serves no more in this boot.
    pub fn is_released(&self) -> bool {
        self.released
    }

    /// Until when the node may serve; 0 when it may not.
    pub fn deadline(&self) -> Nanos {
        let length = if planted(Bug::ServePastLease) { Nanos::MAX } else { self.params.length };
        self.held_from.map_or(0, |from| from.saturating_add(length))
    }

    /// When clients must be closed; 0 when none may be connected.
    pub fn close_at(&self) -> Nanos {
        self.held_from.map_or(0, |from| from.saturating_add(self.params.close))
    }

    /// The highest term known.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// What the node may do at `now`.
    pub fn phase(&self, now: Nanos) -> Phase {
        if now < self.deadline() {
            Phase::Serving
        } else if now < self.close_at() {
            Phase::Fenced
        } else {
            Phase::Closed
        }
    }
}
