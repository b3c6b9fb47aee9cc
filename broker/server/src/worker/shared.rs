//! What the workers of a node share. Nothing here is locked for a message but the queues between workers.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use raftmq_cluster::{BarrierError, Cluster, LeaseState, Shards};
use raftmq_meta::MemberStatus;
use raftmq_routing::{GroupNode, LocalRoutes, LocalRoutesOptions, SharedRoutes};
use raftmq_session::{Now, SessionLimits};
use tokio::sync::watch;

use super::inbox::Inbox;
use super::registry::ClientRegistry;
use super::renew::Live;
use super::shards::FromShards;
use crate::bans::{Bans, FlapWatch};
use crate::features::Features;
use crate::healing::Healings;
use crate::metrics::Metrics;
use crate::overload::Overload;
use crate::shard_numbers::ShardDrops;

/// The parts of the node that every worker sees.
pub(crate) struct NodeShared {
    /// Who holds which client's session.
    pub(crate) registry: ClientRegistry,
    /// One for each worker.
    pub(crate) inboxes: Arc<Vec<Inbox>>,
    /// Filters → workers and nodes.
    pub(crate) routes: SharedRoutes,
    /// Announces routes, forwards messages.
    pub(crate) router: Router,
    /// Whether the node may serve.
    pub(crate) lease: Arc<LeaseState>,
    /// What a client may use.
    pub(crate) limits: Arc<SessionLimits>,
    /// The node's Raft id, once it has one: the origin of its messages.
    pub(crate) raft_id: AtomicU64,
    /// Connections are to be closed and none to be taken: the node shuts down.
    pub(crate) closing: AtomicBool,
    /// Workers none of whose members is chosen for a group any more, and that have handed over what they chose before: the node ends.
    pub(crate) leaving: AtomicUsize,
    /// Other nodes may still choose this one for groups, while it ends: its clients are not closed yet.
    pub(crate) chosen: AtomicBool,
    /// Messages of other nodes that a worker's full queue did not take.
    pub(crate) forwards_lost: Arc<AtomicU64>,
    /// The node's clocks.
    pub(crate) clock: Clock,
    /// The node's name.
    pub(crate) name: String,
    /// What may change while the node runs; workers are told of each change.
    pub(crate) live: watch::Sender<Arc<Live>>,
    /// What it does besides publish and subscribe.
    pub(crate) features: Features,
    /// Who may not connect.
    pub(crate) bans: Arc<Bans>,
    /// Counts CONNECT packets, where that is switched on.
    pub(crate) flapping: Option<FlapWatch>,
    /// What is refused while there is too much to do.
    pub(crate) overload: Arc<Overload>,
    /// The numbers of all workers.
    pub(crate) metrics: Arc<Metrics>,
    /// The replicated state of sessions and messages, in a cluster that has it.
    pub(crate) shards: Option<Shards>,
    /// What the shards have for each worker; empty without shards.
    pub(crate) from_shards: Vec<FromShards>,
    /// What queues in shards did not take.
    pub(crate) shard_drops: ShardDrops,
    /// What was fenced, and is served again.
    pub(crate) healings: Healings,
}

/// Milliseconds by two clocks: one that only grows, and the wall's.
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Now, by both.
    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { ms: self.ms(), unix_ms: millis(unix) }
    }

    /// Now, by the one that only grows.
    pub(crate) fn ms(&self) -> u64 {
        millis(self.start.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How a subscription reaches the node's own workers and the other nodes.
pub(crate) enum Router {
    /// No other nodes: no consensus in the way of anything.
    Standalone(Box<Mutex<LocalRoutes>>),
    /// A member of a cluster.
    Cluster(Cluster),
    /// For tests: subscriptions wait for what they are given here.
    #[cfg(test)]
    Barrier(Box<Mutex<LocalRoutes>>, Box<dyn Fn() -> Reached + Send + Sync>),
}

/// What a subscription waits for, if it has to wait.
type Reached = Option<BoxFuture<'static, Result<(), BarrierError>>>;

impl Router {
    pub(crate) fn standalone(routes: SharedRoutes) -> Self {
        Self::Standalone(Box::new(Mutex::new(own_routes(routes))))
    }

    /// Subscriptions wait until it is true.
    #[cfg(test)]
    pub(crate) fn with_barrier(routes: SharedRoutes, reached: tokio::sync::watch::Receiver<bool>) -> Self {
        Self::with_barriers(routes, move || {
            let mut reached = reached.clone();
            Some(async move { reached.wait_for(|reached| *reached).await.map_or(Ok(()), |_| Ok(())) }.boxed())
        })
    }

    #[cfg(test)]
    pub(crate) fn with_barriers(routes: SharedRoutes, next: impl Fn() -> Reached + Send + Sync + 'static) -> Self {
        Self::Barrier(Box::new(Mutex::new(own_routes(routes))), Box::new(next))
    }

    /// The worker has one subscriber more of each filter. `None`: nothing has to be waited for. Else the SUBACK
    /// must wait for the future.
    pub(crate) fn subscribe(&self, worker: u8, filters: &[Arc<str>]) -> Reached {
        match self {
            Self::Standalone(routes) => {
                // Alone there is nothing to be waited for.
                add(routes, worker, filters);
                None
            }
            Self::Cluster(cluster) => Some(cluster.subscribe(worker, filters).boxed()),
            #[cfg(test)]
            Self::Barrier(routes, next) => {
                add(routes, worker, filters);
                next()
            }
        }
    }

    /// The worker has one subscriber less of each filter.
    pub(crate) fn unsubscribe(&self, worker: u8, filters: &[Arc<str>]) {
        match self {
            Self::Standalone(routes) => remove(routes, worker, filters),
            Self::Cluster(cluster) => cluster.unsubscribe(worker, filters),
            #[cfg(test)]
            Self::Barrier(routes, _) => remove(routes, worker, filters),
        }
    }

    /// The names of the nodes that serve; `None` for a standalone one.
    pub(crate) fn serving_nodes(&self) -> Option<Vec<String>> {
        let Self::Cluster(cluster) = self else {
            return None;
        };
        let status = cluster.status();
        let serving = status.meta.members.values().filter(|member| member.status == MemberStatus::Active && member.up);
        Some(serving.map(|member| member.name.clone()).collect())
    }

    /// The nodes of a group that can be reached; `None`: all.
    pub(crate) fn reachable(&self, nodes: &[GroupNode]) -> Option<Vec<GroupNode>> {
        let Self::Cluster(cluster) = self else {
            return None;
        };
        // Asked for every message of a group: in a cluster where all is well that is one comparison.
        if !cluster.any_unreachable() {
            return None;
        }
        let reachable: Vec<_> = nodes.iter().copied().filter(|place| !cluster.is_unreachable(place.node)).collect();
        (reachable.len() < nodes.len()).then_some(reachable)
    }

    /// Whether messages from a node that is up may be on their way for longer than usual.
    pub(crate) fn any_silent(&self) -> bool {
        matches!(self, Self::Cluster(cluster) if cluster.any_silent())
    }

    /// One frame for each node; returns how many took it.
    pub(crate) fn forward(&self, nodes: &[u64], frame: &Bytes) -> usize {
        match self {
            Self::Cluster(cluster) => cluster.forward(nodes, frame),
            _ => 0,
        }
    }
}

fn own_routes(routes: SharedRoutes) -> LocalRoutes {
    LocalRoutes::new(routes, LocalRoutesOptions { standalone: true, ..LocalRoutesOptions::default() })
}

fn add(routes: &Mutex<LocalRoutes>, worker: u8, filters: &[Arc<str>]) {
    let mut routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
    for filter in filters {
        let _ = routes.worker_added(filter, worker);
    }
}

fn remove(routes: &Mutex<LocalRoutes>, worker: u8, filters: &[Arc<str>]) {
    let mut routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
    for filter in filters {
        routes.worker_removed(0, filter, worker);
    }
}

impl NodeShared {
    /// Whether no worker has or gets a message of a group for a member of this node any more that it does not find in its inbox.
    pub(crate) fn all_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) >= self.inboxes.len()
    }

    /// Whether the node goes on without a lease, with what needs no quorum.
    pub(crate) fn is_local(&self) -> bool {
        self.lease.is_local() && !self.closing.load(Ordering::Acquire)
    }

    /// Whether messages are handed to clients, those of wills among them, also while the node ends.
    pub(crate) fn delivers(&self) -> bool {
        self.lease.is_serving() || self.lease.is_local()
    }

    /// Whether the node takes clients and their messages now.
    pub(crate) fn is_serving(&self) -> bool {
        self.lease.is_serving() && !self.closing.load(Ordering::Acquire)
    }
}
