//! The node's own routes: counted for its workers, proposed on its stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use raftmq_meta::Nanos;
use raftmq_raft::{Applied, ProposeError, Role};
use raftmq_routing::{BatchToSend, LocalRoutes, LocalRoutesOptions, Outcome, Progress, RoutesResponse, SharedRoutes};
use tokio::sync::{Notify, watch};
use tracing::{debug, info};

use crate::barrier::{Barriers, Pending};
use crate::clock::boottime;
use crate::error::Fatal;
use crate::node::{Node, RETRY, Running};
use crate::shards::life;
use crate::status::ClusterCounters;

/// Between two looks at whether routes are withdrawn.
const WITHDRAWAL: Duration = Duration::from_millis(5);
/// For one proposal, changes of leader included.
const PROPOSAL: Duration = Duration::from_secs(3);

/// The node's routes and who waits for them.
pub(crate) struct RoutesOwner {
    local: Mutex<LocalRoutes>,
    barriers: Arc<Barriers>,
    wake: Notify,
    invalid: Notify,
    ready: watch::Sender<bool>,
    opened_at: AtomicU64,
    /// The number of the stream that was asked for last.
    stream: AtomicU64,
}

impl RoutesOwner {
    pub(crate) fn new(shared: SharedRoutes, options: LocalRoutesOptions, barriers: Arc<Barriers>) -> Self {
        Self {
            local: Mutex::new(LocalRoutes::new(shared, options)),
            barriers,
            wake: Notify::new(),
            invalid: Notify::new(),
            ready: watch::Sender::new(false),
            opened_at: AtomicU64::new(0),
            stream: AtomicU64::new(0),
        }
    }

    fn local(&self) -> MutexGuard<'_, LocalRoutes> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.local().len()
    }

    /// Under one lock, so that no commit falls between the proposal and the waiting.
    pub(crate) fn subscribe<F: AsRef<str>>(&self, worker: u8, filters: &[F]) -> Pending {
        let pending = {
            let mut local = self.local();
            self.barriers.enlist(filters.iter().map(|f| local.worker_added(f.as_ref(), worker)))
        };
        self.wake.notify_one();
        pending
    }

    pub(crate) fn unsubscribe<F: AsRef<str>>(&self, worker: u8, filters: &[F]) {
        let now = millis();
        {
            let mut local = self.local();
            for filter in filters {
                if let Some(ticket) = local.worker_removed(now, filter.as_ref(), worker) {
                    self.barriers.cancel(ticket);
                }
            }
        }
        self.wake.notify_one();
    }

    /// See [`LocalRoutes::hurry_groups`].
    fn hurry_groups(&self) -> Option<u64> {
        let gone = self.local().hurry_groups(millis());
        self.wake.notify_one();
        gone
    }

    /// Waits until every node that may be serving knows that this one has no members of groups any more. False: it had none.
    pub(crate) async fn withdraw_groups(&self) -> bool {
        if self.hurry_groups().is_some() {
            return false;
        }
        let index = loop {
            let begun = Instant::now();
            if let Some(index) = self.hurry_groups() {
                break index;
            }
            // It looks at all routes, under the lock of who unsubscribes.
            tokio::time::sleep(WITHDRAWAL.max(begun.elapsed() * 10)).await;
        };
        self.barriers.covered(index).await;
        true
    }

    /// Whether a stream is open and everything that was to be announced when it was opened is committed.
    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Whether that (boot, stream) is the one that batches are proposed on.
    pub(crate) fn is_current(&self, boot: u64, (open_boot, open): (u64, u64)) -> bool {
        open_boot == boot && self.local().current_stream() == Some(open)
    }

    /// When the open stream was first asked for; 0 without one.
    pub(crate) fn opened_at(&self) -> Nanos {
        self.opened_at.load(Ordering::Relaxed)
    }

    /// The number of the stream that was asked for last, in this boot: those before it are over, and so are their clients.
    pub(crate) fn stream(&self) -> u64 {
        self.stream.load(Ordering::Relaxed)
    }

    /// The stream is too old to be used under a new lease: another one is opened.
    pub(crate) fn invalidate(&self) {
        self.ready.send_replace(false);
        self.invalid.notify_one();
    }

    fn work<T>(&self, work: impl FnOnce(&mut LocalRoutes, &mut Progress) -> T) -> T {
        let mut progress = Progress::default();
        let result = work(&mut self.local(), &mut progress);
        self.barriers.progress(progress);
        result
    }
}

fn millis() -> u64 {
    boottime() / 1_000_000
}

/// Opens streams and proposes batches for as long as the node lives.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut stream = 0;
    loop {
        // A node that serves no more announces nothing: its stream was closed because it leaves.
        if running.own_lease().is_released() {
            return;
        }
        stream += 1;
        node.routes.ready.send_replace(false);
        match open(&node, running, stream).await {
            Opened::At(index) => {
                ClusterCounters::add(&node.counters.route_streams);
                debug!(stream, index, "stream of routes opened");
                node.lanes().begin(Some(life(running.id, node.data.boot, stream)));
                let outcome = propose(&node, running, stream, index).await;
                node.lanes().begin(None);
                match outcome {
                    Outcome::Refused => return refused(&node),
                    Outcome::Continue | Outcome::Reopen => {
                        info!(stream, "the stream of routes is closed, opening another one")
                    }
                }
            }
            Opened::After(last) => stream = stream.max(last),
            Opened::Refused => return refused(&node),
            Opened::Stopped => return,
        }
    }
}

fn refused(node: &Node) {
    node.fail(Fatal::Refused(
        "the routes group does not take this node's routes: another incarnation has its id, or the versions differ"
            .into(),
    ));
}

enum Opened {
    At(u64),
    /// A later stream of this boot is known.
    After(u64),
    Refused,
    /// The group was stopped.
    Stopped,
}

async fn open(node: &Node, running: &Running, stream: u64) -> Opened {
    let command = node.routes.work(|local, progress| {
        node.barriers.start_over();
        local.reopen(running.id, node.data.incarnation, node.data.boot, stream, progress).encode()
    });
    node.routes.stream.store(stream, Ordering::Relaxed);
    // Before the first proposal, though it may take more of them: the one whose answer was lost may have opened the stream, and its age
    // is what the meta leader goes by.
    let since = boottime();
    node.routes.opened_at.store(since, Ordering::Relaxed);
    loop {
        match running.routes.propose_anywhere(command.clone().into(), PROPOSAL).await {
            Ok(Applied { index, response, .. }) => {
                let response = RoutesResponse::decode(&response);
                return match node.routes.work(|local, _| local.on_opened(stream, &response)) {
                    Outcome::Continue => Opened::At(index),
                    Outcome::Refused => Opened::Refused,
                    Outcome::Reopen => match response {
                        RoutesResponse::Closed { last: Some((boot, last)) } if boot == node.data.boot => {
                            Opened::After(last)
                        }
                        // A later boot of this directory is at work.
                        _ => Opened::Refused,
                    },
                };
            }
            Err(error) => {
                debug!("opening a stream of routes: {error}");
                if matches!(error, ProposeError::Shutdown) {
                    return Opened::Stopped;
                }
                tokio::time::sleep(RETRY / 4).await;
                // It would be too old to be used soon.
                if boottime() >= since.saturating_add(node.config.lease.close / 2) {
                    return Opened::After(stream);
                }
            }
        }
    }
}

type Answer = (BatchToSend, Option<(u64, RoutesResponse)>);

/// Proposes batches on the open stream until it is closed.
async fn propose(node: &Node, running: &Running, stream: u64, opened: u64) -> Outcome {
    let mut own = running.own_stream.clone();
    let mut flying: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
    loop {
        while let Some(batch) = node.routes.local().next_batch(millis()) {
            ClusterCounters::add(&node.counters.route_batches);
            let group = running.routes.clone();
            flying.push(Box::pin(async move {
                let applied = group.propose_anywhere(batch.command.encode().into(), PROPOSAL).await;
                let result = applied.ok().map(|a| (a.index, RoutesResponse::decode(&a.response)));
                (batch, result)
            }));
        }
        if flying.is_empty() {
            node.routes.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
        let wakeup = node.routes.local().next_wakeup();
        let pause = wakeup.map_or(Duration::from_secs(1), |at| Duration::from_millis(at.saturating_sub(millis())));
        tokio::select! {
            Some((batch, result)) = flying.next(), if !flying.is_empty() => {
                let outcome = node.routes.work(|local, progress| {
                    let result = result.as_ref().map(|(index, response)| (*index, response));
                    let outcome = local.on_result(millis(), batch.stream, batch.seq, result, progress);
                    if outcome != Outcome::Continue {
                        node.barriers.start_over();
                    }
                    outcome
                });
                if outcome != Outcome::Continue {
                    return outcome;
                }
                if result.is_none() {
                    if running.routes.status().borrow().role == Role::Stopped {
                        return Outcome::Reopen;
                    }
                    tokio::time::sleep(RETRY / 4).await;
                }
            }
            () = node.routes.wake.notified() => {}
            () = node.routes.invalid.notified() => return Outcome::Reopen,
            _ = own.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        // Closed by somebody else: seen once this replica has come past the opening.
        let past = running.routes.status().borrow().applied >= Some(opened);
        if past && *own.borrow_and_update() != Some((node.data.boot, stream)) {
            return Outcome::Reopen;
        }
    }
}
