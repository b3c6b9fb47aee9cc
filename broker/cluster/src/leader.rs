//! The meta leader's part in the leases: who holds one, how far all of them have come, who is down.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftmq_meta::{
    Denial, Fence, Grant, GroupMembership, LeaseRequest, LeaseTable, LossReport, MemberStatus, MetaCommand,
    MetaResponse, MetaState, Nanos, RoundId, would_lose,
};
use raftmq_routing::{RoutesCommand, RoutesResponse};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::clock::{boottime, until};
use crate::control::ControlError;
use crate::member::propose;
use crate::node::{GROUPS, Node, RETRY, Running};
use crate::wire::{LeaseError, Request};
use crate::{META, ROUTES, driver, shards};

/// Where requests for leases arrive. Empty while another node leads.
#[derive(Default)]
pub(crate) struct Desk {
    active: Mutex<Option<Active>>,
    wake: Notify,
}

struct Active {
    table: LeaseTable,
    waiting: HashMap<u64, oneshot::Sender<Result<Grant, Denial>>>,
    watermark: watch::Sender<Option<u64>>,
}

impl Active {
    fn publish(&self) {
        let watermark = self.table.watermark();
        self.watermark.send_if_modified(|known| std::mem::replace(known, watermark) != watermark);
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Option<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node asks for a lease.
    pub(crate) async fn request(&self, request: LeaseRequest) -> Result<Grant, LeaseError> {
        let receiver = {
            let mut active = self.lock();
            let active = active.as_mut().ok_or(LeaseError::NotLeader)?;
            let answer = active.table.on_request(boottime(), request);
            active.publish();
            self.wake.notify_one();
            let ticket = answer.map_err(LeaseError::Denied)?;
            let (sender, receiver) = oneshot::channel();
            active.waiting.insert(ticket, sender);
            receiver
        };
        // Dropped when the desk is closed, or when the node asked again.
        receiver.await.map_err(|_| LeaseError::NotLeader)?.map_err(LeaseError::Denied)
    }

    /// A node says how far it has applied routes. Answers with the term of the table (0: none) and the watermark.
    pub(crate) fn applied(&self, node: u64, boot: u64, term: u64, applied: u64) -> (u64, Option<u64>) {
        let mut active = self.lock();
        let Some(active) = active.as_mut().filter(|a| a.table.term() == term) else {
            return (0, None);
        };
        if active.table.on_applied(node, boot, applied) {
            active.publish();
        }
        (term, active.table.watermark())
    }

    /// Whether that node might be serving; `None` while another node leads.
    pub(crate) fn is_holder(&self, node: u64) -> Option<bool> {
        self.lock().as_ref().map(|a| a.table.is_holder(node))
    }

    /// What others may rely on of a node, and the term of the table that says so; `None` while another node leads.
    pub(crate) fn fence(&self, node: u64, boot: u64) -> Option<(u64, Fence)> {
        self.lock().as_ref().map(|a| (a.table.term(), a.table.fence(node, boot)))
    }

    /// As [`LeaseTable::note_fence`].
    pub(crate) fn note_fence(&self, term: u64, node: u64, count: u64) -> bool {
        self.with(term, |table| table.note_fence(node, count)) == Some(true)
    }

    fn with<T>(&self, term: u64, work: impl FnOnce(&mut LeaseTable) -> T) -> Option<T> {
        let mut active = self.lock();
        let active = active.as_mut().filter(|a| a.table.term() == term)?;
        let result = work(&mut active.table);
        active.publish();
        Some(result)
    }

    fn end_round(&self, term: u64, id: RoundId, confirmed: bool) {
        let mut active = self.lock();
        let Some(active) = active.as_mut().filter(|a| a.table.term() == term) else {
            return;
        };
        for answer in active.table.end_round(boottime(), id, confirmed) {
            if let Some(sender) = active.waiting.remove(&answer.ticket) {
                // Who gave up waiting is gone.
                let _ = sender.send(answer.result);
            }
        }
        active.waiting.retain(|_, sender| !sender.is_closed());
        active.publish();
    }
}

/// While this node leads the meta group: keeps the table.
pub(crate) async fn lead(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut status = running.meta.status();
    loop {
        let term = match status.wait_for(|s| s.is_leader()).await {
            Ok(status) => status.term,
            Err(_) => return,
        };
        // The table must know every member of the terms before.
        let known = match running.meta.read_index().await {
            Ok(index) => running.meta.wait_applied(index, RETRY * 5).await.is_ok(),
            Err(_) => false,
        };
        let still = leads(running, term);
        let formed = node.meta_state().cluster.is_some();
        if !known || !still || !formed {
            // The first entry may be long in coming: the one that proposes it may be down.
            tokio::time::sleep(if formed { RETRY / 10 } else { RETRY / 2 }).await;
            continue;
        }
        info!(term, "leading the meta group");
        let table = LeaseTable::new(node.config.lease, term, boottime(), &node.meta_state());
        let watermark = watch::Sender::new(None);
        *running.desk.lock() = Some(Active { table, waiting: HashMap::new(), watermark });
        Presidency::new(Arc::clone(&node), term).preside().await;
        *running.desk.lock() = None;
        info!(term, "not leading the meta group any more");
    }
}

/// Proposes something that only the leader of that term may say; `None`: it may not have been one any more when it was committed. A later one may commit it all the same, and
/// the member it is about may have got a lease of that one before.
pub(crate) async fn propose_as(running: &Running, term: u64, command: &MetaCommand) -> Option<MetaResponse> {
    let proposed = running.meta.propose(command.encode().into());
    let applied = tokio::time::timeout(RETRY * 15, proposed).await.ok()?.ok()?;
    (running.meta.read_index().await.is_ok() && leads(running, term)).then_some(())?;
    MetaResponse::decode(&applied.response).ok()
}

pub(crate) fn leads(running: &Running, term: u64) -> bool {
    let status = running.meta.status();
    let status = status.borrow();
    status.is_leader() && status.term == term
}

/// What happens for one term of leadership.
struct Presidency {
    node: Arc<Node>,
    term: u64,
    jobs: JoinSet<()>,
    /// Members whose watermark is pushed.
    pushed_to: BTreeMap<u64, tokio::task::AbortHandle>,
    /// The open stream of each member, and since when it has been seen.
    streams: BTreeMap<u64, ((u64, u64), Nanos)>,
    /// Members that are being marked up, or removed.
    busy: Arc<Mutex<BTreeSet<u64>>>,
}

impl Presidency {
    fn new(node: Arc<Node>, term: u64) -> Self {
        Self {
            node,
            term,
            jobs: JoinSet::new(),
            pushed_to: BTreeMap::new(),
            streams: BTreeMap::new(),
            busy: Arc::default(),
        }
    }

    async fn preside(mut self) {
        let node = Arc::clone(&self.node);
        let Some(running) = node.running() else {
            return;
        };
        let mut status = running.meta.status();
        let mut state = node.meta.subscribe();
        let mut known: Option<Arc<MetaState>> = None;
        let look = Duration::from_nanos(node.config.lease.length / 4);
        loop {
            let members = Arc::clone(&state.borrow_and_update());
            if !known.as_ref().is_some_and(|k| Arc::ptr_eq(k, &members)) {
                running.desk.with(self.term, |table| table.set_members(boottime(), &members));
                known = Some(members);
            }
            self.start_jobs(running);
            let next = running.desk.with(self.term, |table| table.next_event(boottime())).flatten();
            let pause = next.map_or(look, |at| until(at).clamp(Duration::from_millis(5), look));
            tokio::select! {
                () = running.desk.wake.notified() => {}
                changed = state.changed() => if changed.is_err() { return },
                changed = status.wait_for(|s| !s.is_leader() || s.term != self.term) => {
                    debug!(stopped = changed.is_err(), "leadership ended");
                    return;
                }
                Some(_) = self.jobs.join_next(), if !self.jobs.is_empty() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn start_jobs(&mut self, running: &Running) {
        let (desk, term, now) = (&running.desk, self.term, boottime());
        let state = self.node.meta_state();
        self.watch_streams(running, now);
        if let Some(id) = desk.with(term, |t| t.begin_round(now)).flatten() {
            self.jobs.spawn(round(Arc::clone(&self.node), term, id));
        }
        if desk.with(term, |t| t.begin_routes_read(now)) == Some(true) {
            self.jobs.spawn(read_routes(Arc::clone(&self.node), term));
        }
        for id in desk.with(term, |t| t.begin_down(now)).unwrap_or_default() {
            let stream = self.dead_stream(running, id, now);
            self.jobs.spawn(down(Arc::clone(&self.node), term, id, stream));
        }
        // Routes that outlived their node, because a leader died between the two entries.
        for member in state.members.values().filter(|m| !m.up) {
            let Some(stream) = self.dead_stream(running, member.id, now) else {
                continue;
            };
            if desk.with(term, |t| t.begin_down_again(now, member.id)) == Some(true) {
                self.jobs.spawn(down(Arc::clone(&self.node), term, member.id, Some(stream)));
            }
        }
        for id in desk.with(term, |t| t.to_bring_up()).unwrap_or_default() {
            if self.begin(id) {
                self.jobs.spawn(up(Arc::clone(&self.node), term, id, Arc::clone(&self.busy)));
            }
        }
        for member in state.members.values().filter(|m| !m.is_active()) {
            // Its replicas of shards come to others first. The disk of one that was replaced is gone: nothing of it is waited for.
            let empty = member.status == MemberStatus::Replaced || !state.shards.holds(member.id);
            if empty && desk.is_holder(member.id) == Some(false) && self.begin(member.id) {
                self.jobs.spawn(remove(Arc::clone(&self.node), term, member.id, Arc::clone(&self.busy)));
            }
        }
        for id in state.members.keys() {
            if !self.pushed_to.contains_key(id) {
                let watermark = desk.lock().as_ref().map(|a| a.watermark.subscribe());
                if let Some(watermark) = watermark {
                    let task = self.jobs.spawn(push(Arc::clone(&self.node), *id, term, watermark));
                    self.pushed_to.insert(*id, task);
                }
            }
        }
        self.pushed_to.retain(|id, task| {
            let stays = state.members.contains_key(id);
            if !stays {
                task.abort();
            }
            stays
        });
    }

    fn begin(&self, id: u64) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }

    fn watch_streams(&mut self, running: &Running, now: Nanos) {
        let state = self.node.meta_state();
        for id in state.members.keys() {
            match running.machine.open_stream(*id) {
                None => {
                    self.streams.remove(id);
                }
                Some(stream) => {
                    let known = self.streams.entry(*id).or_insert((stream, now));
                    if known.0 != stream {
                        *known = (stream, now);
                    }
                }
            }
        }
        self.streams.retain(|id, _| state.members.contains_key(id));
    }

    /// The open stream of a node that can never be used under a lease again: the node gave its lease back, or would open another
    /// one before it asks, because this one is older than D (see `lease::may_ask`).
    fn dead_stream(&self, running: &Running, id: u64, now: Nanos) -> Option<(u64, u64)> {
        let &(stream, since) = self.streams.get(&id)?;
        let released = running.desk.with(self.term, |t| t.is_released(id, stream.0))?;
        let old = now >= since.saturating_add(self.node.config.lease.down_after());
        (released || old).then_some(stream)
    }
}

/// A ReadIndex round for all requests that wait for one.
async fn round(node: Arc<Node>, term: u64, id: RoundId) {
    let Some(running) = node.running() else {
        return;
    };
    let read = running.meta.read_index().await;
    // The round may have been won in a later term of this same node.
    let confirmed = read.is_ok() && leads(running, term);
    if !confirmed {
        tokio::time::sleep(RETRY / 10).await;
    }
    running.desk.end_round(term, id, confirmed);
    running.desk.wake.notify_one();
}

async fn read_routes(node: Arc<Node>, term: u64) {
    let Some(running) = node.running() else {
        return;
    };
    let committed = driver::read_index(&node, running, ROUTES.number).await;
    if committed.is_none() {
        tokio::time::sleep(RETRY / 4).await;
    }
    running.desk.with(term, |t| t.end_routes_read(committed));
    running.desk.wake.notify_one();
}

/// Declares a node down, then removes its routes. The first entry proves that no later leader has granted it a lease meanwhile.
async fn down(node: Arc<Node>, term: u64, id: u64, stream: Option<(u64, u64)>) {
    let Some(running) = node.running() else {
        return;
    };
    info!(node = id, "declared down");
    let declared = propose_as(running, term, &MetaCommand::NodeDown { id, epoch: term }).await;
    let mut done = declared == Some(MetaResponse::Done);
    let mut closed = None;
    if let Some(stream) = stream
        && done
    {
        closed = close_stream(running, id, stream).await;
        done = closed.is_some();
    }
    running.desk.with(term, |t| t.end_down(boottime(), id, done, closed));
    running.desk.wake.notify_one();
}

/// The index at which it was closed; this replica has it as well then, so that the stream is not seen open again.
async fn close_stream(running: &Running, id: u64, stream: (u64, u64)) -> Option<u64> {
    let command = RoutesCommand::NodeDown { node: id, through: Some(stream) };
    let applied = running.routes.propose_anywhere(command.encode().into(), RETRY * 15).await.ok()?;
    matches!(RoutesResponse::decode(&applied.response), RoutesResponse::Ok { .. }).then_some(())?;
    running.routes.wait_applied(applied.index, RETRY * 5).await.ok()?;
    Some(applied.index)
}

async fn up(node: Arc<Node>, term: u64, id: u64, busy: Arc<Mutex<BTreeSet<u64>>>) {
    let Some(running) = node.running() else {
        return;
    };
    let done = propose(&running.meta, &MetaCommand::NodeUp { id, epoch: term }).await;
    if matches!(done, Ok(MetaResponse::Done)) {
        running.desk.with(term, |t| t.brought_up(id));
    } else {
        tokio::time::sleep(RETRY).await;
    }
    busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
}

/// Removes a member that no group holds any more and that cannot be serving.
async fn remove(node: Arc<Node>, term: u64, id: u64, busy: Arc<Mutex<BTreeSet<u64>>>) {
    let Some(running) = node.running() else {
        return;
    };
    let gone = is_out_of_groups(&node, running, id).await;
    if gone && running.desk.is_holder(id) == Some(false) && leads(running, term) {
        let closed = match running.machine.open_stream(id) {
            // It holds no lease and will never get one: whichever stream it opened is of no use.
            Some(stream) => close_stream(running, id, stream).await.is_some(),
            None => true,
        };
        if closed && matches!(propose(&running.meta, &MetaCommand::Removed { id }).await, Ok(MetaResponse::Done)) {
            info!(node = id, "removed from the cluster");
        }
    }
    // Between two tries; when it was done, the members change meanwhile.
    tokio::time::sleep(RETRY).await;
    busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    running.desk.wake.notify_one();
}

async fn is_out_of_groups(node: &Node, running: &Running, id: u64) -> bool {
    for (_, number) in GROUPS {
        let Some(group) = running.group(number) else {
            return false;
        };
        let Some(index) = driver::read_index(node, running, number).await else {
            return false;
        };
        if group.wait_applied(index, RETRY * 5).await.is_err() {
            return false;
        }
        let status = group.status();
        let status = status.borrow();
        if !status.membership_settled || status.is_member(id) {
            return false;
        }
    }
    true
}

/// Pushes the watermark to one member whenever it rises.
async fn push(node: Arc<Node>, id: u64, term: u64, mut watermark: watch::Receiver<Option<u64>>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut pause = RETRY / 10;
    loop {
        let Ok(Some(index)) = watermark.wait_for(Option::is_some).await.map(|w| *w) else {
            return;
        };
        if id == running.id {
            crate::lease::on_watermark(&node, running, term, index);
        } else {
            let request = Request::Watermark { term, index };
            if node.net.call_node(id, &request, RETRY * 3).await.is_err() {
                tokio::time::sleep(pause).await;
                // A member that stays away is asked less often; when it is back, its lease brings it the watermark.
                pause = (pause * 2).min(RETRY * 3);
                continue;
            }
            pause = RETRY / 10;
        }
        if watermark.wait_for(|w| *w > Some(index)).await.is_err() {
            return;
        }
    }
}

/// What would be lost if a node stopped, by what the meta leader knows.
pub(crate) fn loss(node: &Node, running: &Running, id: u64) -> Result<LossReport, ControlError> {
    let live: Option<BTreeSet<u64>> = {
        let active = running.desk.lock();
        active.as_ref().map(|a| a.table.members().filter(|(_, m)| m.holder).map(|(id, _)| id).collect())
    };
    let live = live.ok_or_else(|| ControlError::Unavailable("this node does not lead the meta group".into()))?;
    let groups = GROUPS.iter().filter_map(|(name, number)| {
        let status = running.group(*number)?.status().borrow().clone();
        Some(((*name).to_owned(), driver::membership(&status, &node.config.raft)))
    });
    let state = node.meta_state();
    // Of the shards those where it counts; where their replicas are is what their leaders said last.
    let shards = state.shards.iter().filter_map(|(number, shard)| {
        let reported = shard.reported()?;
        let voters = reported.voters.clone();
        let votes = voters.contains(&id);
        votes.then(|| (shards::group_name(number), GroupMembership { voters, ..GroupMembership::default() }))
    });
    let groups: Vec<_> = groups.chain(shards).collect();
    debug_assert_eq!(META.number, 1);
    Ok(would_lose(&state, &groups, &live, id))
}
