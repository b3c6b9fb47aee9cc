//! The handle that the server holds.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use raftmq_meta::{MetaState, Phase};
use raftmq_routing::SharedRoutes;
use tokio::sync::watch;

use crate::barrier::BarrierError;
use crate::config::ClusterConfig;
use crate::control::Control;
use crate::error::{Fatal, StartError};
use crate::lease::LeaseState;
use crate::node::Node;
use crate::shards::Shards;
use crate::status::{ClusterCounters, ClusterStatus, Stage};

/// Nothing comes for so long: nothing was on its way.
const QUIET: Duration = Duration::from_millis(50);
/// Where something comes all the time.
const MOST_LOOKS: u32 = 10;

/// Gets the frames that other nodes forward: the Raft id of the sender and the frame. Called on a task of the links, in
/// the sender's order; must not block, and while it runs, the sender's queue fills.
pub type ForwardHandler = Arc<dyn Fn(Forwarded) + Send + Sync>;

/// A frame of [`Cluster::forward`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarded {
    /// The node of this Raft id sent it here.
    From(u64, Bytes),
    /// One of this node's, for groups (`$share/…`) that another node was chosen for, came back: that node has died, or left. What it
    /// carries for plain subscribers is not for others.
    Back {
        /// The frame.
        frame: Bytes,
        /// The node may have handled it before.
        handled: bool,
    },
}

/// One node's part in the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) node: Arc<Node>,
}

impl Cluster {
    /// Opens the data directory, counts the boot, listens for peers and starts to look for the cluster. `routes` is the
    /// node's route table: the cluster writes other nodes' routes and the worker masks into it.
    ///
    /// Must be called within a multi-threaded tokio runtime, on which everything then runs.
    ///
    /// # Errors
    /// The directory, the log, the store or the address cannot be used.
    pub async fn start(
        config: ClusterConfig,
        routes: SharedRoutes,
        on_forward: ForwardHandler,
    ) -> Result<Self, StartError> {
        Ok(Self { node: Node::start(config, routes, on_forward).await? })
    }

    /// Whether this node may serve, for workers.
    pub fn lease(&self) -> Arc<LeaseState> {
        Arc::clone(&self.node.lease)
    }

    /// What this node may do: when it is not `Serving`, stop reading, acknowledging and delivering; when it is `Closed`, close all
    /// clients. Begins as `Closed`.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.node.phase.subscribe()
    }

    /// How far the node has come.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.node.stage.subscribe()
    }

    /// What the meta group agreed on, as far as this node has applied it.
    pub fn meta(&self) -> watch::Receiver<Arc<MetaState>> {
        self.node.meta.subscribe()
    }

    /// All that is known now.
    pub fn status(&self) -> ClusterStatus {
        self.node.status()
    }

    /// Counts since the start.
    pub fn counters(&self) -> &ClusterCounters {
        &self.node.counters
    }

    /// The links, for their metrics.
    pub fn links(&self) -> raftmq_links::Links {
        self.node.net.links()
    }

    /// The write-ahead log, for its metrics.
    pub fn wal(&self) -> raftmq_storage::Wal {
        self.node.wal.clone()
    }

    /// Resolves when the process must end.
    pub async fn failed(&self) -> Fatal {
        self.node.failed().await
    }

    /// A worker has its first subscriber of each of these filters. They are in the route table when this returns; the future
    /// resolves when a publish to any serving node is matched against them: then, and only then, send the SUBACK.
    ///
    /// The call itself does not wait for anything. The future may be polled anywhere and has its own deadline.
    pub fn subscribe<F: AsRef<str>>(
        &self,
        worker: u8,
        filters: &[F],
    ) -> impl Future<Output = Result<(), BarrierError>> + Send + use<F> + 'static {
        let pending = self.node.routes.subscribe(worker, filters);
        let lease = Arc::clone(&self.node.lease);
        let node = Arc::clone(&self.node);
        let wait =
            Arc::clone(&self.node.barriers).wait(pending, node.config.barrier_deadline, move || lease.is_serving());
        async move {
            let result = wait.await;
            let counters = &node.counters;
            ClusterCounters::add(if result.is_ok() { &counters.barriers } else { &counters.barriers_failed });
            result
        }
    }

    /// A worker has no subscriber of these filters any more: once for each filter of a [`Self::subscribe`].
    pub fn unsubscribe<F: AsRef<str>>(&self, worker: u8, filters: &[F]) {
        self.node.routes.unsubscribe(worker, filters);
    }

    /// The node is about to end, and its workers have left all groups: waits until no other node chooses this one for a group any more, and
    /// nothing that was on its way has come for a moment. False: not in time.
    pub async fn withdraw_groups(&self, within: Duration) -> bool {
        let withdrawn = async {
            if !self.node.routes.withdraw_groups().await {
                return;
            }
            // What was chosen before is on the links. Frames for other subscribers go on coming.
            let came = || self.node.counters.forwards_in.load(Ordering::Relaxed);
            let mut before = came();
            for _ in 0..MOST_LOOKS {
                tokio::time::sleep(QUIET).await;
                let now = came();
                if std::mem::replace(&mut before, now) == now {
                    return;
                }
            }
        };
        tokio::time::timeout(within, withdrawn).await.is_ok()
    }

    /// Hands one frame to each of the nodes, in order with earlier ones, kept until acknowledged while the node's process
    /// lives. Returns how many took it; the others are counted as dropped.
    pub fn forward(&self, nodes: &[u64], frame: &Bytes) -> usize {
        self.node.forward(nodes, frame)
    }

    /// Whether any other node cannot be reached now. Cheap.
    pub fn any_unreachable(&self) -> bool {
        self.node.net.any_unreachable()
    }

    /// Whether a node is held to be down, or frames for it wait because the connection to it broke.
    pub fn is_unreachable(&self, node: u64) -> bool {
        self.node.net.is_unreachable(node)
    }

    /// Whether there may be publishes on their way from a member that is held to be up, and from which nothing is heard: they come when the connection goes on, or
    /// when it is made again, if both live.
    pub fn any_silent(&self) -> bool {
        let silent = self.node.net.links().silent();
        let meta = self.node.meta.borrow();
        !silent.is_empty() && meta.members.values().any(|m| m.is_active() && m.up && silent.contains(&m.incarnation))
    }

    /// The operations of the control API.
    pub fn control(&self) -> Control {
        Control { node: Arc::clone(&self.node) }
    }

    /// Stops serving, gives back the lease, hands leadership on, stops the groups, closes links and log. The server closes its
    /// clients before. Takes a few seconds at most.
    pub async fn shutdown(&self) {
        self.node.shutdown().await;
    }

    /// The shards, which keep sessions and messages.
    #[must_use]
    pub fn shards(&self) -> Shards {
        Shards::new(Arc::clone(&self.node))
    }

    /// The shards, where they keep the clients' sessions.
    #[must_use]
    pub fn shards_of_clients(&self) -> Option<Shards> {
        self.node.config.shards.is_some().then(|| self.shards())
    }

    /// For tests: cuts this node off from all others, in both directions, or reconnects it.
    #[doc(hidden)]
    pub fn isolate(&self, cut: bool) {
        self.node.net.isolate(cut);
    }

    /// For tests: stops this node as if its process had been killed; nothing is flushed or told to anybody.
    #[doc(hidden)]
    pub async fn kill(&self) {
        self.node.kill().await;
    }
}
