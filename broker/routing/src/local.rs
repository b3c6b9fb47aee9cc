//! What a node proposes to the routes group: its first and last subscriber of a filter.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ahash::RandomState;
use smallvec::SmallVec;

use crate::{
    key::{RouteKey, rank_reached},
    machine::{RoutesCommand, RoutesResponse},
    shared::SharedRoutes,
    shrink::{shrink, shrink_queue},
    stream::{BatchToSend, Outcome, Stream},
    table::Receiver,
};

/// How a node proposes. Times in milliseconds.
#[derive(Debug, Clone)]
pub struct LocalRoutesOptions {
    /// How long a filter without subscribers stays a route, so that churn costs no proposals.
    pub linger_ms: u64,
    /// The most routes in a batch.
    pub batch_routes: usize,
    /// About the most bytes in a batch; one longer filter still makes one.
    pub batch_bytes: usize,
    /// The most batches proposed and not answered.
    pub window: usize,
    /// There is no routes group (a standalone node): nothing is proposed, nothing is waited for.
    pub standalone: bool,
}

impl Default for LocalRoutesOptions {
    fn default() -> Self {
        Self {
            linger_ms: 5_000,
            batch_routes: 2_048,
            batch_bytes: 256 * 1024,
            // One: what comes meanwhile makes the next batch, and batches side by side overtake each other on their way to the leader.
            window: 1,
            standalone: false,
        }
    }
}

/// Names the commit of a filter's route. Several subscribers may wait for the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a new subscription has to wait for before its SUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: a standalone node.
    Nothing,
    /// The filter's route was committed at this index of the routes group: the watermark must have reached it.
    Barrier(u64),
    /// The route is yet to be committed: [`Progress`] will name this ticket.
    Pending(Ticket),
}

/// What became of tickets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The route was committed, at this index of the routes group or before.
    pub committed: Vec<(Ticket, u64)>,
    /// The last subscriber left before the route was proposed: who waits needs not any more.
    pub cancelled: Vec<Ticket>,
}

/// Counts the subscribers of this node's workers and proposes what the other nodes must know.
///
/// It counts by [`RouteKey`], not by filter: two filters with the same hash are one route, and the route stays while one of them has a
/// subscriber. It also writes the workers into the node's own [`SharedRoutes`].
///
/// Of a group that shares its messages it proposes about how many members the node has, too: a route for each rank reached.
///
/// The owner, after each call: propose what [`LocalRoutes::next_batch`] gives until it gives nothing, and come back at
/// [`LocalRoutes::next_wakeup`].
pub struct LocalRoutes {
    shared: SharedRoutes,
    options: LocalRoutesOptions,
    entries: HashMap<RouteKey, Entry, RandomState>,
    /// Keys to be added; one whose entry is not `Queued` any more is passed over.
    queue: VecDeque<RouteKey>,
    /// Keys to be removed by time; one whose entry does not linger until then is passed over.
    lingering: VecDeque<(u64, RouteKey)>,
    stream: Stream,
    tickets: u64,
    /// The highest index at which a batch was applied.
    applied: u64,
}

/// In the place of a worker where the node itself holds a route: a rank above 0.
const NODE: u8 = u8::MAX;

/// What a release did.
#[derive(Default)]
struct Released {
    found: bool,
    last_of_worker: bool,
    cancelled: Option<Ticket>,
}

struct Entry {
    /// The number of filters with subscribers by worker; of a group: of its members.
    workers: SmallVec<[(u8, u32); 2]>,
    state: EntryState,
}

impl Entry {
    fn members(&self) -> u32 {
        self.workers.iter().map(|(_, members)| members).sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryState {
    /// To be added by a batch that is not made yet.
    Queued(Ticket),
    /// Added by a batch that is not answered yet.
    Adding(Ticket),
    /// Committed.
    Live { index: u64 },
    /// Committed, without subscribers, to be removed at `due`.
    Lingering { index: u64, due: u64 },
    /// Removed by a batch that is not answered yet.
    Removing,
}

impl LocalRoutes {
    /// A node without subscribers, which writes its workers into `shared`.
    #[must_use]
    pub fn new(shared: SharedRoutes, options: LocalRoutesOptions) -> Self {
        Self {
            shared,
            options,
            entries: HashMap::default(),
            queue: VecDeque::new(),
            lingering: VecDeque::new(),
            stream: Stream::default(),
            tickets: 0,
            applied: 0,
        }
    }

    /// A worker (0 to 63) has its first subscriber of a filter; of a group's filter: one member more.
    pub fn worker_added(&mut self, filter: &str, worker: u8) -> Need {
        let key = RouteKey::of(filter);
        self.shared.add(&key, Receiver::Worker(worker));
        self.shared.changed();
        if let Some(rank) = self.rank_key(&key, 1) {
            // Nobody waits for it: that the node has members is rank 0.
            self.hold(&rank, NODE);
        }
        self.hold(&key, worker)
    }

    /// A worker has no subscriber of a filter any more; of a group's filter: one member less. Gives the ticket that will not be committed
    /// because of it.
    pub fn worker_removed(&mut self, now: u64, filter: &str, worker: u8) -> Option<Ticket> {
        let key = RouteKey::of(filter);
        let rank = self.rank_key(&key, 0);
        let released = self.release(now, &key, worker);
        if let (Some(rank), true) = (rank, released.found) {
            self.release(now, &rank, NODE);
        }
        if released.last_of_worker {
            self.shared.remove(&key, Receiver::Worker(worker));
            self.shared.changed();
        }
        released.cancelled
    }

    /// The rank above 0 that a group has with its members and `more`.
    fn rank_key(&self, key: &RouteKey, more: u32) -> Option<RouteKey> {
        let RouteKey::Shared { group, .. } = key else {
            return None;
        };
        if self.options.standalone {
            return None;
        }
        let members = self.entries.get(key).map_or(0, Entry::members);
        let rank = rank_reached(members + more).filter(|&rank| rank > 0)?;
        Some(RouteKey::Shared { group: Arc::clone(group), rank })
    }

    fn hold(&mut self, key: &RouteKey, worker: u8) -> Need {
        let entry = self.entries.entry(key.clone()).or_insert_with_key(|key| {
            self.tickets += 1;
            if !self.options.standalone {
                self.queue.push_back(key.clone());
            }
            Entry { workers: SmallVec::new(), state: EntryState::Queued(Ticket(self.tickets)) }
        });
        match entry.workers.iter_mut().find(|(number, _)| *number == worker) {
            Some((_, filters)) => *filters += 1,
            None => entry.workers.push((worker, 1)),
        }
        if self.options.standalone {
            return Need::Nothing;
        }
        match entry.state {
            EntryState::Queued(ticket) | EntryState::Adding(ticket) => Need::Pending(ticket),
            EntryState::Live { index } => Need::Barrier(index),
            EntryState::Lingering { index, .. } => {
                entry.state = EntryState::Live { index };
                Need::Barrier(index)
            }
            EntryState::Removing => {
                self.tickets += 1;
                entry.state = EntryState::Queued(Ticket(self.tickets));
                self.queue.push_back(key.clone());
                Need::Pending(Ticket(self.tickets))
            }
        }
    }

    fn release(&mut self, now: u64, key: &RouteKey, worker: u8) -> Released {
        let mut released = Released::default();
        let Some(entry) = self.entries.get_mut(key) else {
            return released;
        };
        let Some(at) = entry.workers.iter().position(|(number, _)| *number == worker) else {
            return released;
        };
        released.found = true;
        entry.workers[at].1 -= 1;
        if entry.workers[at].1 > 0 {
            return released;
        }
        released.last_of_worker = true;
        entry.workers.swap_remove(at);
        if !entry.workers.is_empty() {
            return released;
        }
        match entry.state {
            EntryState::Queued(ticket) => {
                self.entries.remove(key);
                shrink(&mut self.entries);
                self.tidy_queue();
                released.cancelled = Some(ticket);
            }
            EntryState::Live { index } => self.linger(now, key.clone(), index),
            EntryState::Adding(_) | EntryState::Lingering { .. } | EntryState::Removing => {}
        }
        released
    }

    /// Begins a new stream: all filters with subscribers are to be added again. Propose the command, then call
    /// [`LocalRoutes::on_opened`]. (boot, stream) must be later than any before.
    pub fn reopen(
        &mut self,
        node: u64,
        incarnation: u128,
        boot: u64,
        stream: u64,
        progress: &mut Progress,
    ) -> RoutesCommand {
        self.start_over(progress);
        self.stream.reopen(node, incarnation, boot, stream)
    }

    /// The node was declared down or lost its place: its routes are gone. Nothing is proposed until [`LocalRoutes::reopen`].
    pub fn close(&mut self, progress: &mut Progress) {
        self.start_over(progress);
        self.stream.close();
    }

    /// The number of the stream that is opening or open.
    #[must_use]
    pub fn current_stream(&self) -> Option<u64> {
        self.stream.current()
    }

    /// The answer to [`LocalRoutes::reopen`]'s command. (A failed proposal is repeated by its owner.)
    pub fn on_opened(&mut self, stream: u64, response: &RoutesResponse) -> Outcome {
        self.stream.on_opened(stream, response)
    }

    /// The next batch to be proposed now, if any.
    pub fn next_batch(&mut self, now: u64) -> Option<BatchToSend> {
        if let Some(batch) = self.stream.send() {
            return Some(batch);
        }
        if self.stream.has_room(self.options.window) {
            let (mut routes, mut bytes) = (0, 0);
            let options = &self.options;
            let mut fits = |key: &RouteKey| {
                routes += 1;
                bytes += key.size();
                routes == 1 || (routes <= options.batch_routes && bytes <= options.batch_bytes)
            };
            let mut add = Vec::new();
            while let Some(key) = self.queue.pop_front() {
                let Some(entry) = self.entries.get_mut(&key) else {
                    continue;
                };
                let EntryState::Queued(ticket) = entry.state else {
                    continue;
                };
                if !fits(&key) {
                    self.queue.push_front(key);
                    break;
                }
                entry.state = EntryState::Adding(ticket);
                add.push(key);
            }
            let mut remove = Vec::new();
            while let Some((due, key)) = self.lingering.pop_front_if(|(due, _)| *due <= now) {
                let Some(entry) = self.entries.get_mut(&key) else {
                    continue;
                };
                if !matches!(entry.state, EntryState::Lingering { due: until, .. } if until == due) {
                    continue;
                }
                if !fits(&key) {
                    self.lingering.push_front((due, key));
                    break;
                }
                entry.state = EntryState::Removing;
                remove.push(key);
            }
            if !add.is_empty() || !remove.is_empty() {
                self.stream.push(add, remove);
                shrink_queue(&mut self.queue);
                shrink_queue(&mut self.lingering);
            }
        }
        self.stream.send()
    }

    /// The answer to a batch: the index at which it was applied and the response; `None` if the proposal failed or nobody knows.
    pub fn on_result(
        &mut self,
        now: u64,
        stream: u64,
        seq: u64,
        result: Option<(u64, &RoutesResponse)>,
        progress: &mut Progress,
    ) -> Outcome {
        let index = result.map_or(0, |(index, _)| index);
        self.applied = self.applied.max(index);
        let mut batches = Vec::new();
        let outcome =
            self.stream.on_result(stream, seq, result.map(|(_, response)| response), |batch| batches.push(batch));
        for batch in batches {
            for key in batch.remove {
                if self.entries.get(&key).is_some_and(|entry| entry.state == EntryState::Removing) {
                    self.entries.remove(&key);
                }
            }
            shrink(&mut self.entries);
            for key in batch.add {
                let Some(entry) = self.entries.get_mut(&key) else {
                    continue;
                };
                let EntryState::Adding(ticket) = entry.state else {
                    continue;
                };
                progress.committed.push((ticket, index));
                entry.state = EntryState::Live { index };
                if entry.workers.is_empty() {
                    self.linger(now, key, index);
                }
            }
        }
        if outcome != Outcome::Continue {
            self.start_over(progress);
        }
        outcome
    }

    /// The node is about to end: groups without members here linger no longer. Gives the index of the routes group at which the last of
    /// them was gone; `None`: some are not gone yet, call it again.
    pub fn hurry_groups(&mut self, now: u64) -> Option<u64> {
        let mut left = false;
        let mut due_now = Vec::new();
        for (key, entry) in &mut self.entries {
            if !matches!(key, RouteKey::Shared { .. }) || !entry.workers.is_empty() {
                continue;
            }
            left = true;
            if let EntryState::Lingering { due, .. } = &mut entry.state
                && *due > now
            {
                *due = now;
                due_now.push((now, key.clone()));
            }
        }
        // Their later times are passed over.
        due_now.into_iter().for_each(|due| self.lingering.push_front(due));
        (!left).then_some(self.applied)
    }

    /// When [`LocalRoutes::next_batch`] may have something that it has not now.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        if self.stream.has_room(self.options.window) { self.lingering.front().map(|(due, _)| *due) } else { None }
    }

    /// The number of routes that this node has or wants.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the node has no routes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn linger(&mut self, now: u64, key: RouteKey, index: u64) {
        if self.options.standalone {
            self.entries.remove(&key);
            shrink(&mut self.entries);
            return;
        }
        let due = now + self.options.linger_ms;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.state = EntryState::Lingering { index, due };
        }
        // Filters that come and go faster than they linger leave what is passed over: not more of it than of routes.
        if self.lingering.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.lingering.retain(|(due, key)| {
                entries.get(key).is_some_and(
                    |entry| matches!(entry.state, EntryState::Lingering { due: until, .. } if until == *due),
                )
            });
        }
        self.lingering.push_back((due, key));
    }

    fn tidy_queue(&mut self) {
        if self.queue.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.queue.retain(|key| entries.get(key).is_some_and(|entry| matches!(entry.state, EntryState::Queued(_))));
        }
    }

    /// Nothing is committed any more, everything with subscribers is to be added.
    fn start_over(&mut self, progress: &mut Progress) {
        self.queue.clear();
        self.lingering.clear();
        if self.options.standalone {
            return;
        }
        let (queue, tickets) = (&mut self.queue, &mut self.tickets);
        self.entries.retain(|key, entry| {
            let ticket = match entry.state {
                EntryState::Queued(ticket) | EntryState::Adding(ticket) => Some(ticket),
                EntryState::Live { .. } | EntryState::Lingering { .. } | EntryState::Removing => None,
            };
            if entry.workers.is_empty() {
                progress.cancelled.extend(ticket);
                return false;
            }
            let ticket = ticket.unwrap_or_else(|| {
                *tickets += 1;
                Ticket(*tickets)
            });
            entry.state = EntryState::Queued(ticket);
            queue.push_back(key.clone());
            true
        });
    }
}

#[cfg(test)]
mod tests;
