//! Who is at the other end.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use thiserror::Error;

use crate::pki;

/// Protocol versions that this build speaks.
pub(crate) const PROTOCOL: RangeInclusive<u16> = 1..=1;

/// What a node says about itself at the start of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest protocol version spoken; filled in by [`Hello::new`].
    pub versions: (u16, u16),
    /// Name of the cluster: DNS labels.
    pub cluster: String,
    /// Name of the node: one DNS label.
    pub node: String,
    /// Random number of the data directory.
    pub incarnation: u128,
    /// Start counter of the data directory.
    pub boot: u64,
    /// Raft id, 0 when it has none yet.
    pub raft_id: u64,
    /// Highest feature level that the node's build can switch on.
    pub feature_level: u32,
}

impl Hello {
    /// A Hello of this build, without a Raft id.
    pub fn new(
        cluster: impl Into<String>,
        node: impl Into<String>,
        incarnation: u128,
        boot: u64,
    ) -> Self {
        Hello {
            versions: (*PROTOCOL.start(), *PROTOCOL.end()),
            cluster: cluster.into(),
            node: node.into(),
            incarnation,
            boot,
            raft_id: 0,
            feature_level: 0,
        }
    }

    /// Same process of the same node: what may not change over a connection.
    pub fn same_boot(&self, other: &Hello) -> bool {
        self.cluster == other.cluster
            && self.node == other.node
            && self.incarnation == other.incarnation
            && self.boot == other.boot
    }
}

/// Which side dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The peer dialled this node.
    Inbound,
    /// This node dialled the peer.
    Outbound,
}

/// A peer as seen on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHello {
    /// What it said; node and cluster agree with its certificate.
    pub hello: Hello,
    /// Which side dialled.
    pub direction: Direction,
    /// The socket at its end.
    pub remote: SocketAddr,
    /// The advertised address that was dialled; none for inbound connections.
    pub address: Option<String>,
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// No common protocol version.
    Version,
    /// Another cluster.
    Cluster,
    /// The certificate does not name the node.
    Certificate,
    /// The owner of the links said no.
    Handler,
    /// Too many connections.
    Busy,
    /// The Hello or the opening of the stream makes no sense.
    Protocol,
}

/// Why a peer is not talked to. The reason is told to the peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What it is about.
    pub code: RefusalCode,
    /// For people; up to 512 bytes are sent.
    pub reason: String,
}

impl Refusal {
    /// A refusal by the owner of the links.
    pub fn new(reason: impl Into<String>) -> Self {
        Refusal {
            code: RefusalCode::Handler,
            reason: reason.into(),
        }
    }
}

/// What is wrong with a Hello.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HelloError {
    /// A name that cannot be part of a DNS name.
    #[error(transparent)]
    Name(#[from] pki::NameError),
    /// [`Links::set_hello`](crate::Links::set_hello) was given another node, cluster, incarnation or boot.
    #[error("cluster, node, incarnation and boot cannot change while links run")]
    Changed,
    /// Fewer or other bytes than a Hello has.
    #[error("malformed hello: {0}")]
    Malformed(&'static str),
}
