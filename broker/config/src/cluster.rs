//! Settings of a node's part in a cluster.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BindAddr, ByteSize, HumanDuration, TlsFiles};

/// The cluster that a node is a member of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Name of the cluster: lower-case letters, digits and hyphens (an RFC 1123 label). Nodes of another cluster are refused.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// How the node finds its peers.
    #[serde(default)]
    pub discovery: Discovery,
    /// Connections between the nodes.
    pub links: Links,
    /// Timing and snapshots of the Raft groups.
    #[serde(default)]
    pub raft: Raft,
    /// Sessions are kept in shards, each on several nodes, rather than in the memory of the node that their client was connected to. For all nodes; a
    /// cluster that has shards keeps them.
    #[serde(default)]
    pub shards: Shards,
    /// What a node does whose serving lease is over, because it reaches no quorum. For all nodes.
    #[serde(default, skip_serializing_if = "OnQuorumLoss::is_fence")]
    pub on_quorum_loss: OnQuorumLoss,
}

/// What a node does that reaches no quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum OnQuorumLoss {
    /// It stops to read, acknowledge and deliver, and closes its clients.
    #[default]
    Fence,
    /// It goes on serving sessions that need no quorum, among the clients that it reaches: docs/guarantees.md says what is not promised then.
    ServeLocal,
}

impl OnQuorumLoss {
    /// Whether it is the default.
    #[must_use]
    pub fn is_fence(&self) -> bool {
        *self == Self::Fence
    }
}

/// How a node finds its peers. Members known from the last run are peers as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Discovery {
    /// Which way is used; the settings of the others are ignored.
    pub strategy: DiscoveryStrategy,
    /// Peers that are written down.
    #[serde(rename = "static")]
    pub static_: StaticDiscovery,
    /// Peers from a name server. Needed by the strategy `dns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsDiscovery>,
    /// Peers from the EndpointSlices of a headless Service. Needed by the strategy `k8s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s: Option<K8sDiscovery>,
    /// Time between two looks for peers.
    #[schemars(extend("x-raftmq-min" = "100ms", "x-raftmq-max" = "1h"))]
    pub refresh_interval: HumanDuration,
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            strategy: DiscoveryStrategy::default(),
            static_: StaticDiscovery::default(),
            dns: None,
            k8s: None,
            refresh_interval: HumanDuration::from_secs(5),
        }
    }
}

/// A way to find peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum DiscoveryStrategy {
    /// Addresses that are written down.
    #[default]
    Static,
    /// A or SRV records.
    Dns,
    /// EndpointSlices of a headless Service.
    K8s,
}

/// Peers that are written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StaticDiscovery {
    /// Link addresses of the peers, `host:port`. The node's own address may be among them.
    pub peers: Vec<String>,
}

/// Peers from a name server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsDiscovery {
    /// The name to resolve; for SRV the whole name, as `_links._tcp.raftmq.default.svc.cluster.local`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which records are asked for. `A` asks for AAAA as well and adds `port`; `SRV` brings the ports.
    #[serde(default)]
    pub record_type: DnsRecordType,
    /// Link port of the peers, for `A`.
    #[serde(default = "default_link_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Name servers to ask, `ip:port`. Empty: those of the system (`/etc/resolv.conf`).
    #[serde(default)]
    pub servers: Vec<SocketAddr>,
}

fn default_link_port() -> u16 {
    Links::DEFAULT_PORT
}

/// A type of DNS record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum DnsRecordType {
    /// Addresses (A and AAAA).
    #[default]
    A,
    /// Names with ports.
    #[serde(rename = "SRV")]
    Srv,
}

/// Peers from the EndpointSlices of a headless Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct K8sDiscovery {
    /// Namespace of the Service. Absent: the pod's own, from its service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the headless Service.
    #[schemars(length(min = 1, max = 63))]
    pub service: String,
    /// Name of the Service's port for links.
    #[serde(default = "default_port_name")]
    pub port_name: String,
    /// Ending of the peers' names, `POD.SERVICE.NAMESPACE.svc.DOMAIN`: the domain of the Kubernetes cluster.
    #[serde(default = "default_cluster_domain")]
    pub cluster_domain: String,
}

fn default_port_name() -> String {
    "links".into()
}

fn default_cluster_domain() -> String {
    "cluster.local".into()
}

/// Connections between the nodes, always under mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Links {
    /// Address and port that the node listens on for its peers.
    #[serde(default = "default_links_listen")]
    pub listen: BindAddr,
    /// `host:port` under which the peers reach this node. Absent: `listen`, which then must be one certain address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Certificate of the node (it names cluster and node) and the cluster's authority.
    pub tls: TlsFiles,
    /// Bytes that may wait for one peer. Frames beyond that are dropped and counted.
    #[serde(default = "default_queue_bytes")]
    #[schemars(extend("x-raftmq-min" = "64KiB", "x-raftmq-max" = "4GiB"))]
    pub queue_bytes: ByteSize,
    /// Largest frame accepted from a peer. It must hold a packet of `mqtt.maxPacketSize`.
    #[serde(default = "default_max_frame_bytes")]
    #[schemars(extend("x-raftmq-min" = "64KiB", "x-raftmq-max" = "512MiB"))]
    pub max_frame_bytes: ByteSize,
    /// Time for a connection to a peer to be made, TLS and handshake included.
    #[serde(default = "default_link_connect_timeout")]
    #[schemars(extend("x-raftmq-min" = "100ms", "x-raftmq-max" = "1m"))]
    pub connect_timeout: HumanDuration,
}

impl Links {
    /// The port that links use where nothing else is said.
    pub const DEFAULT_PORT: u16 = 9883;

    /// Links with these certificates and every other setting at its default.
    #[must_use]
    pub fn new(tls: TlsFiles) -> Self {
        Self {
            listen: default_links_listen(),
            advertise: None,
            tls,
            queue_bytes: default_queue_bytes(),
            max_frame_bytes: default_max_frame_bytes(),
            connect_timeout: default_link_connect_timeout(),
        }
    }

    /// `host:port` under which peers reach this node.
    #[must_use]
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }
}

fn default_links_listen() -> BindAddr {
    BindAddr::any(Links::DEFAULT_PORT)
}

fn default_queue_bytes() -> ByteSize {
    ByteSize::mib(16)
}

fn default_max_frame_bytes() -> ByteSize {
    ByteSize::mib(16)
}

fn default_link_connect_timeout() -> HumanDuration {
    HumanDuration::from_secs(3)
}

/// Timing and snapshots of the Raft groups. The same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Raft {
    /// Time between two heartbeats of a leader.
    #[schemars(extend("x-raftmq-min" = "10ms", "x-raftmq-max" = "5s"))]
    pub heartbeat_interval: HumanDuration,
    /// Shortest time without a heartbeat after which a follower asks for votes. At least three heartbeats.
    #[schemars(extend("x-raftmq-min" = "30ms", "x-raftmq-max" = "30s"))]
    pub election_timeout_min: HumanDuration,
    /// Longest such time; each follower draws its own between the two.
    #[schemars(extend("x-raftmq-min" = "40ms", "x-raftmq-max" = "1m"))]
    pub election_timeout_max: HumanDuration,
    /// Log written since the last snapshot of a group that triggers the next one.
    #[schemars(extend("x-raftmq-min" = "64KiB", "x-raftmq-max" = "16GiB"))]
    pub snapshot_bytes: ByteSize,
}

impl Default for Raft {
    fn default() -> Self {
        Self {
            heartbeat_interval: HumanDuration::from_millis(100),
            election_timeout_min: HumanDuration::from_millis(400),
            election_timeout_max: HumanDuration::from_millis(600),
            snapshot_bytes: ByteSize::mib(16),
        }
    }
}

/// The Raft groups that keep sessions. Read when a cluster gets them: it keeps what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Shards {
    /// How many there are. More of them spread over more nodes and leaders; each costs memory and messages between nodes. 0: none, and a session is lost
    /// with the node that its client was connected to.
    #[schemars(range(min = 0, max = 1024))]
    pub count: u16,
    /// On how many nodes each of them is, where there are so many. What is acknowledged is on the disks of more than half of these.
    #[schemars(range(min = 1, max = 5))]
    pub replication: u8,
}

impl Default for Shards {
    fn default() -> Self {
        Self { count: 16, replication: 3 }
    }
}
