//! The node's own lease: asked for, published to the workers, and the phase that follows from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use raftmq_meta::{Grant, Nanos, Phase};
use tracing::{debug, info, warn};

use crate::clock::{boottime, until};
use crate::node::{Node, Running};
use crate::status::ClusterCounters;
use crate::wire::{LeaseError, Request, Response};

/// Until when this node may serve, for workers: one clock read and one atomic load.
///
/// To be asked after reading a socket and before matching, acknowledging and delivering.
#[derive(Debug, Default)]
pub struct LeaseState {
    deadline: AtomicU64,
    /// Without a lease the node serves those who need none: it has had one, and has not given it back.
    local: AtomicBool,
    /// Those who close clients when the node has been without a lease for long, and those of them who have that to do.
    closers: AtomicUsize,
    closing: AtomicUsize,
}

impl LeaseState {
    /// The lease of a standalone node, which needs none.
    pub fn always() -> Self {
        Self { deadline: AtomicU64::new(u64::MAX), ..Self::default() }
    }

    /// Whether the node may serve now.
    #[inline]
    pub fn is_serving(&self) -> bool {
        boottime() < self.deadline.load(Ordering::Acquire)
    }

    /// Until when, in nanoseconds of CLOCK_BOOTTIME; 0 when it may not.
    pub fn deadline(&self) -> Nanos {
        self.deadline.load(Ordering::Acquire)
    }

    /// Whether the lease is over and the node goes on with what needs no quorum (`cluster.onQuorumLoss: serveLocal`).
    pub fn is_local(&self) -> bool {
        self.goes_on() && !self.is_serving()
    }

    /// Whether the node goes on when its lease is over.
    pub fn goes_on(&self) -> bool {
        self.local.load(Ordering::Acquire)
    }

    /// From here on it does, or not any more. For the same as [`Self::set`].
    pub fn set_goes_on(&self, goes_on: bool) {
        self.local.store(goes_on, Ordering::Release);
    }

    /// The node serves nobody any more.
    pub(crate) fn end(&self) {
        self.set_goes_on(false);
        self.set(0);
    }

    /// How many they are, before the node serves, who close clients in [`Phase::Closed`] and say so by [`Self::has_closed`]: without that there is no further lease.
    pub fn set_closers(&self, count: usize) {
        self.closers.store(count, Ordering::Release);
    }

    /// One of them has closed its clients.
    pub fn has_closed(&self) {
        // Told of a phase that was none of a lease that is over.
        let _ = self.closing.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
    }

    fn begin_closing(&self) {
        self.closing.store(self.closers.load(Ordering::Acquire), Ordering::Release);
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire) > 0
    }

    /// Changes it: only the node's part in the cluster does, and tests of what is done under a lease.
    pub fn set(&self, deadline: Nanos) {
        self.deadline.store(deadline, Ordering::Release);
    }
}

/// Asks the meta leader for the lease, again and again.
pub(crate) async fn renew(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut booted = running.booted.subscribe();
    if booted.wait_for(|b| *b).await.is_err() {
        return;
    }
    let mut status = running.meta.status();
    let length = Duration::from_nanos(node.config.lease.length);
    loop {
        let (term, leader) = {
            let status = status.borrow_and_update();
            (status.term, status.leader)
        };
        if running.own_lease().is_released() {
            return;
        }
        let mut at_once = false;
        // Read before it is asked whether the stream of routes is open: what is told must not be newer than what was looked at.
        let applied = applied(running);
        if let Some(leader) = leader
            && may_ask(&node, running)
        {
            running.own_lease().on_term(term);
            // A leader that hangs is not waited for once another one is known.
            let mut meta = running.meta.status();
            at_once = tokio::select! {
                again = ask(&node, running, leader, applied, length / 4) => again,
                _ = meta.wait_for(|s| s.leader.is_some_and(|now| now != leader)) => true,
            };
        }
        if at_once {
            continue;
        }
        let pause = if node.lease.is_serving() { length / 4 } else { (length / 20).max(Duration::from_millis(10)) };
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        // A new leader is asked at once; the status changes for many other reasons too.
        loop {
            tokio::select! {
                () = &mut pause => break,
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = status.borrow_and_update();
                    if now.leader.is_some() && (now.term, now.leader) != (term, leader) {
                        break;
                    }
                }
            }
        }
    }
}

/// Whether the node's routes are in order, so that a lease may be asked for.
///
/// A stream of routes that was opened, or used under a lease, more than D ago may be on its way out (the meta leader closes streams
/// of nodes that hold no lease for 1.1 D): who has no lease opens another one first.
fn may_ask(node: &Node, running: &Running) -> bool {
    let now = boottime();
    let held_until = {
        let lease = running.own_lease();
        if lease.phase(now) == Phase::Serving {
            return true;
        }
        lease.close_at()
    };
    // Also a node that slept through all of D closes its clients before it serves again: their routes are gone, or will be.
    update_phase(node, running);
    let usable = now < held_until.max(node.routes.opened_at().saturating_add(node.config.lease.close));
    if !usable && node.routes.is_ready() {
        node.routes.invalidate();
    }
    // As this replica has it, which is how far the request will say it has applied: see `LeaseTable::end_down`.
    let open = running.own_stream.borrow().is_some_and(|open| node.routes.is_current(node.data.boot, open));
    usable && !node.lease.is_closing() && open && node.routes.is_ready()
}

/// One request. Says whether to repeat it at once.
async fn ask(node: &Node, running: &Running, leader: u64, applied: u64, deadline: Duration) -> bool {
    let request = running.own_lease().request(boottime(), applied);
    let answer = if leader == running.id {
        match tokio::time::timeout(deadline, running.desk.request(request)).await {
            Ok(answer) => answer,
            Err(_) => return false,
        }
    } else {
        match node.net.call_node(leader, &Request::Lease(request), deadline).await {
            Ok(Response::Lease(answer)) => answer,
            Ok(Response::LeaseSince(grant, fences)) => Ok(Grant { fences, ..grant }),
            Ok(_) => return false,
            Err(error) => {
                debug!("asking node {leader} for a lease: {error}");
                ClusterCounters::add(&node.counters.leases_denied);
                return false;
            }
        }
    };
    match answer {
        Ok(grant) => {
            ClusterCounters::add(&node.counters.leases_granted);
            // A first lease that took so long that the leader may close the stream of routes meanwhile is not used.
            if !may_ask(node, running) {
                return false;
            }
            let lapses = running.own_lease().lapses(boottime(), &grant);
            if lapses {
                info!(
                    "clients of this node were taken elsewhere while it had no lease: it parts from those that it has left"
                );
                update_phase(node, running);
                return true;
            }
            let term = {
                let mut lease = running.own_lease();
                lease.on_grant(&grant);
                // Under the lock: who gives the lease back, or fails, is not overtaken.
                if node.has_failed() || lease.is_released() {
                    node.lease.end();
                } else {
                    node.lease.set(lease.deadline());
                    node.lease.set_goes_on(node.config.serve_local);
                    node.served_stream.store(node.routes.stream(), Ordering::Relaxed);
                }
                lease.term()
            };
            update_phase(node, running);
            node.lease_changed.notify_one();
            if let Some(index) = grant.watermark
                && grant.term == term
            {
                on_watermark(node, running, grant.term, index);
            }
            false
        }
        Err(error) => {
            debug!("no lease from node {leader}: {error}");
            ClusterCounters::add(&node.counters.leases_denied);
            match error {
                LeaseError::Denied(denial) => running.own_lease().on_denial(&denial),
                LeaseError::NotLeader => false,
            }
        }
    }
}

/// How far this node's route table follows routes.
fn applied(running: &Running) -> u64 {
    running.routes.status().borrow().applied.unwrap_or(0)
}

/// A meta leader's watermark.
pub(crate) fn on_watermark(node: &Node, running: &Running, term: u64, index: u64) {
    // Compared under the lock, so that a term learnt at the same time is not overtaken.
    let lease = running.own_lease();
    if lease.accepts_watermark(boottime(), term) {
        node.barriers.raise(index);
    }
}

fn update_phase(node: &Node, running: &Running) -> Nanos {
    // Held until it is told: an older phase does not come after a newer one.
    let lease = running.own_lease();
    let now = boottime();
    let phase = lease.phase(now);
    // One that was given back has no end: it ends now.
    let ended = Some(lease.deadline()).filter(|deadline| *deadline > 0).unwrap_or(now);
    let next = match phase {
        Phase::Serving => lease.deadline(),
        Phase::Fenced => lease.close_at(),
        Phase::Closed => 0,
    };
    if node.has_failed() {
        return 0;
    }
    node.phase.send_if_modified(|known| {
        let changes = *known != phase;
        if changes {
            if *known == Phase::Serving {
                // From serving to closed where the node hung for long.
                ClusterCounters::add(&node.counters.fenced);
                node.counters.fenced_since.store(ended, Ordering::Relaxed);
            }
            if phase == Phase::Closed {
                node.lease.begin_closing();
            }
            match phase {
                Phase::Serving => info!("serving"),
                Phase::Fenced if node.lease.goes_on() => {
                    warn!("the lease is over: only what needs no quorum is served, among the clients that this node reaches");
                }
                Phase::Fenced => warn!("the lease is over: reading, acknowledging and delivering stop"),
                Phase::Closed if node.lease.goes_on() => warn!("no lease for long: clients of durable sessions are closed"),
                Phase::Closed => warn!("no lease for long: clients are closed"),
            }
        }
        *known = phase;
        changes
    });
    next
}

/// Tells the server when the phase changes.
pub(crate) async fn watch_phase(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    loop {
        let next = update_phase(&node, running);
        if next == 0 {
            node.lease_changed.notified().await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(until(next)) => {}
                () = node.lease_changed.notified() => {}
            }
        }
    }
}

/// Gives the lease back: this node serves no more in this boot.
pub(crate) async fn release(node: &Node, running: &Running) {
    {
        let mut lease = running.own_lease();
        lease.release();
        node.lease.end();
    }
    update_phase(node, running);
    node.lease_changed.notify_one();
    // A worker that asked a moment ago finishes the message in its hands.
    tokio::time::sleep(Duration::from_nanos(node.config.lease.length / 20)).await;
    // Twice where the first answer is that the leader has another term.
    for _ in 0..2 {
        let leader = running.meta.status().borrow().leader;
        let Some(leader) = leader else { return };
        if !ask(node, running, leader, applied(running), Duration::from_millis(500)).await {
            return;
        }
    }
}

/// Tells the meta leader how far this node has applied routes, whenever that changes.
pub(crate) async fn report_applied(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut routes = running.routes.status();
    let mut meta = running.meta.status();
    let mut reported = None;
    loop {
        let applied = routes.borrow_and_update().applied.unwrap_or(0);
        let leader = {
            let meta = meta.borrow_and_update();
            meta.leader.map(|leader| (leader, meta.term))
        };
        if let Some((leader, term)) = leader
            && reported != Some((leader, term, applied))
        {
            let mut changed = running.meta.status();
            let told = tokio::select! {
                told = report(&node, running, leader, term, applied) => told,
                _ = changed.wait_for(|s| s.leader.is_some_and(|now| now != leader)) => continue,
            };
            if told {
                reported = Some((leader, term, applied));
                continue;
            }
            if routes.has_changed().is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        tokio::select! {
            changed = routes.changed() => if changed.is_err() { return },
            changed = meta.changed() => if changed.is_err() { return },
        }
    }
}

async fn report(node: &Node, running: &Running, leader: u64, term: u64, applied: u64) -> bool {
    let boot = node.data.boot;
    let answer = if leader == running.id {
        running.desk.applied(running.id, boot, term, applied)
    } else {
        let request = Request::Applied { node: running.id, boot, term, applied };
        match node.net.call_node(leader, &request, Duration::from_millis(500)).await {
            Ok(Response::Applied { term, watermark }) => (term, watermark),
            _ => return false,
        }
    };
    if let (term, Some(index)) = answer {
        on_watermark(node, running, term, index);
    }
    answer.0 == term
}
