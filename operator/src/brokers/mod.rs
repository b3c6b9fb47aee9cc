//! What the brokers of a cluster say, and what they are asked to do.

mod http;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use raftmq_control_api::api::{JoinPhase, Loss, Member, MemberState, NodeStatus};
use rustls::ClientConfig;
use thiserror::Error;

pub use http::HttpBrokers;

/// One broker that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its name.
    pub name: String,
    /// `host:port` of its control API.
    pub address: String,
}

/// How the brokers of one cluster are asked.
#[derive(Clone)]
pub struct Access {
    /// Name of the cluster; certificates of another one are refused.
    pub cluster: String,
    /// The operator's certificate and the cluster's authority.
    pub tls: Arc<ClientConfig>,
}

/// What one broker says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// How it is doing.
    pub status: NodeStatus,
    /// How far it is on its way into a cluster.
    pub phase: JoinPhase,
}

/// What the brokers say together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// Each one that was asked, by name: its answer, or why there is none.
    pub nodes: BTreeMap<String, Result<NodeView, String>>,
    /// The members, in the eyes of one that is a member; `None` where nobody could say.
    pub members: Option<Vec<Member>>,
    /// Whether that one is ready: it holds a lease, and its list is of now. Nothing is stopped or given up on an older one.
    pub certain: bool,
    /// Name of the leader of the meta group.
    pub leader: Option<String>,
}

/// Why the brokers did not do what they were asked.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct BrokerError(pub String);

/// The brokers of all clusters.
pub trait Brokers: Send + Sync {
    /// Asks all of them how they are; never takes longer than a few seconds.
    fn observe<'a>(&'a self, access: &'a Access, brokers: &'a [Broker]) -> BoxFuture<'a, ClusterView>;

    /// Gives the permission to form a cluster of these members, to the first broker. Calling it again is harmless.
    fn bootstrap<'a>(
        &'a self,
        access: &'a Access,
        broker: &'a Broker,
        members: &'a [String],
    ) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// What would be lost if the node stopped now: the answer of the first that can give one.
    fn loss<'a>(
        &'a self,
        access: &'a Access,
        brokers: &'a [Broker],
        node: &'a str,
    ) -> BoxFuture<'a, Result<Loss, BrokerError>>;

    /// Makes a member leave for good, through the first that can.
    fn leave<'a>(
        &'a self,
        access: &'a Access,
        brokers: &'a [Broker],
        node: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>>;
}

impl ClusterView {
    /// Whether some broker belongs to a cluster.
    #[must_use]
    pub fn has_cluster(&self) -> bool {
        self.members.is_some() || self.answers().any(|(_, node)| node.status.cluster.is_some())
    }

    /// The members, in the eyes of one that is ready.
    #[must_use]
    pub fn certain_members(&self) -> Option<&[Member]> {
        self.members.as_deref().filter(|_| self.certain)
    }

    /// Whether a member is on its way out.
    #[must_use]
    pub fn someone_leaves(&self) -> bool {
        self.members.iter().flatten().any(|member| member.state == MemberState::Leaving)
    }

    /// Those that answered.
    pub fn answers(&self) -> impl Iterator<Item = (&String, &NodeView)> {
        self.nodes.iter().filter_map(|(name, node)| Some((name, node.as_ref().ok()?)))
    }

    /// Whether the broker answered that it belongs to no cluster.
    #[must_use]
    pub fn knows_no_cluster(&self, node: &str) -> bool {
        let alone = |view: &NodeView| {
            view.status.cluster.is_none() && matches!(view.phase, JoinPhase::Searching | JoinPhase::WaitingForBootstrap)
        };
        matches!(self.nodes.get(node), Some(Ok(view)) if alone(view))
    }

    /// Whether the broker answered that it was told to leave, and has.
    #[must_use]
    pub fn has_left(&self, node: &str) -> bool {
        matches!(self.nodes.get(node), Some(Ok(view)) if view.phase == JoinPhase::Left)
    }

    /// Whether the broker answered and waits for the permission to form a cluster.
    #[must_use]
    pub fn waits_for_bootstrap(&self, node: &str) -> bool {
        matches!(self.nodes.get(node), Some(Ok(view)) if view.phase == JoinPhase::WaitingForBootstrap)
    }
}
