//! What the rest of the server may know of the node's part in the cluster.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use raftmq_links::PeerStatus;
use raftmq_meta::{MetaState, Phase};
use raftmq_raft::{GroupStatus, RpcCounters};
use std::sync::Arc;

/// How far the node has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// An empty node looks for an existing cluster, or waits for the call that lets it form one.
    WaitingForCluster,
    /// It asks its peers whether they have seen a later start of its directory.
    AskingPermission,
    /// It asks to become a member.
    Joining,
    /// Its groups run.
    Member,
    /// It is being taken out of the cluster.
    Leaving,
    /// It left: the process may end.
    Left,
    /// [`crate::Cluster::failed`] says why.
    Failed,
}

impl Stage {
    /// The name in metrics and the control API.
    pub const fn name(&self) -> &'static str {
        match self {
            Stage::WaitingForCluster => "waiting",
            Stage::AskingPermission => "asking",
            Stage::Joining => "joining",
            Stage::Member => "member",
            Stage::Leaving => "leaving",
            Stage::Left => "left",
            Stage::Failed => "failed",
        }
    }
}

/// What this node knows at a moment.
#[derive(Debug, Clone)]
pub struct ClusterStatus {
    /// How far the node has come.
    pub stage: Stage,
    /// What it waits for or failed of late, for people; empty when all is well.
    pub detail: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's identity, once the node is part of it.
    pub cluster_id: Option<u128>,
    /// The node's name.
    pub node: String,
    /// Its Raft id.
    pub raft_id: Option<u64>,
    /// The random number of its data directory.
    pub incarnation: u128,
    /// The count of its starts.
    pub boot: u64,
    /// What it may do.
    pub phase: Phase,
    /// How long the lease lasts from now.
    pub lease_left: Duration,
    /// The highest index of routes known to be applied by every serving node.
    pub watermark: Option<u64>,
    /// What the meta group has decided, as far as this node knows; without a cluster before it is a member.
    pub meta: Arc<MetaState>,
    /// The groups by name.
    pub groups: Vec<(&'static str, GroupStatus)>,
    /// The peers that this node dials.
    pub peers: Vec<PeerStatus>,
    /// Refused and handled Raft frames.
    pub rpc: RpcCounters,
    /// The routes that this node has proposed or will.
    pub own_routes: usize,
}

impl ClusterStatus {
    /// Member, caught up and serving. (A lease is granted only to a node that has caught up.)
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Member && self.phase == Phase::Serving
    }
}

/// Counts since the start, read with [`Ordering::Relaxed`].
#[derive(Debug, Default)]
pub struct ClusterCounters {
    /// Publishes handed to links, one for each node that gets one.
    pub forwards_out: AtomicU64,
    /// Publishes received from other nodes.
    pub forwards_in: AtomicU64,
    /// Of those, the ones that were meant for an earlier life of this node: they are for nobody, unless for groups.
    pub forwards_past: AtomicU64,
    /// Publishes that were not handed over: the queue was full or the node has no known address.
    pub forwards_dropped: AtomicU64,
    /// Leases granted to this node.
    pub leases_granted: AtomicU64,
    /// Leases denied to this node, or not answered.
    pub leases_denied: AtomicU64,
    /// How often this node stopped serving because its lease ended.
    pub fenced: AtomicU64,
    /// When the last of those leases ended, in nanoseconds of CLOCK_BOOTTIME. A node that hung, or was paused, notices it later.
    pub fenced_since: AtomicU64,
    /// Batches of routes proposed, repeats included.
    pub route_batches: AtomicU64,
    /// Streams of routes opened.
    pub route_streams: AtomicU64,
    /// Subscriptions whose barrier was reached.
    pub barriers: AtomicU64,
    /// Subscriptions whose barrier was not reached in time.
    pub barriers_failed: AtomicU64,
    /// Replicas of shards found to have the same state as this node's, which led them.
    pub replicas_same: AtomicU64,
    /// Those found to have another one.
    pub replicas_differ: AtomicU64,
    /// Changes of group memberships that this node drove.
    pub membership_steps: AtomicU64,
}

impl ClusterCounters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
