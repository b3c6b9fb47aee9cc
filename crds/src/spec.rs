//! `MqttCluster`, the resource, and its spec.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ListenerSpec, MqttClusterStatus, PodTemplate, StorageSpec};

/// What a user wants of one broker cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "raftmq.io",
    version = "v1alpha1",
    kind = "MqttCluster",
    plural = "mqttclusters",
    singular = "mqttcluster",
    shortname = "mqc",
    category = "raftmq",
    namespaced,
    status = "MqttClusterStatus",
    derive = "PartialEq",
    doc = "A cluster of MQTT brokers that replicates its routes, sessions and messages by Raft.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas", description = "Nodes wanted"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "Nodes that serve clients"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "Node that leads the cluster"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Available\")].status",
        description = "Whether clients are served"
    ),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", description = "Image of the brokers", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name: use at most 40 characters; the names of pods, Services and volumes are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: use lower-case letters, digits and hyphens, beginning with a letter; dots are not possible in the names of Services")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.metrics) || !has(self.listeners) || self.listeners.all(l, l.port != self.metrics.port)")
        .message("a listener has the port of spec.metrics.port; give one of them another port"),
)]
pub struct MqttClusterSpec {
    /// Image of the brokers. Absent: the one that was released with the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Number of nodes. 1, 3 or 5 of them vote, the largest that fits. Two nodes stand no
    /// more failures than one does: use 3 or more.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1))]
    #[x_kube(validation = Rule::new("self >= 1").message("replicas: use at least 1; to remove the cluster delete the MqttCluster"))]
    pub replicas: u16,

    /// The volume of each node.
    #[serde(default)]
    pub storage: StorageSpec,

    /// Processor and memory of each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Where MQTT clients connect.
    #[serde(default = "default_listeners")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(l, self.exists_one(m, m.name == l.name))")
            .message("listeners: two have the same name; rename one"),
        validation = Rule::new("self.all(l, self.exists_one(m, m.port == l.port))")
            .message("listeners: two have the same port; give each a port of its own"),
        validation = Rule::new("self.all(l, !(l.port in [18083, 9883]))")
            .message("listeners: ports 18083 (HTTP) and 9883 (node links) are taken; use another one")
    )]
    pub listeners: Vec<ListenerSpec>,

    /// Metrics and health.
    #[serde(default)]
    pub metrics: MetricsSpec,

    /// How the nodes find each other in Kubernetes.
    #[serde(default)]
    pub discovery: ClusterDiscovery,

    /// Scheduling, labels and environment of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,

    /// Settings of the brokers, the same on every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BrokerSettings>,
}

impl Default for MqttClusterSpec {
    fn default() -> Self {
        Self {
            image: None,
            replicas: default_replicas(),
            storage: StorageSpec::default(),
            resources: None,
            listeners: default_listeners(),
            metrics: MetricsSpec::default(),
            discovery: ClusterDiscovery::default(),
            pod_template: None,
            config: None,
        }
    }
}

fn default_replicas() -> u16 {
    3
}

fn default_listeners() -> Vec<ListenerSpec> {
    vec![ListenerSpec::default()]
}

/// Metrics and health of the nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsSpec {
    /// Port of `/metrics`, `/healthz` and `/readyz`. They are always on: the pods' probes use them.
    #[serde(default = "default_metrics_port")]
    #[schemars(range(min = 1, max = 65535))]
    #[x_kube(validation = Rule::new("!(self in [18083, 9883])")
        .message("metrics.port: ports 18083 (HTTP) and 9883 (node links) are taken; use another one"))]
    pub port: u16,
}

impl Default for MetricsSpec {
    fn default() -> Self {
        Self { port: default_metrics_port() }
    }
}

fn default_metrics_port() -> u16 {
    9100
}

/// How the nodes find each other in Kubernetes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDiscovery {
    /// `k8s` reads the EndpointSlices of the headless Service, `dns` its SRV records.
    #[serde(default)]
    pub strategy: ClusterDiscoveryStrategy,
    /// Domain of the Kubernetes cluster.
    #[serde(default = "default_cluster_domain")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster_domain: String,
}

impl Default for ClusterDiscovery {
    fn default() -> Self {
        Self { strategy: ClusterDiscoveryStrategy::default(), cluster_domain: default_cluster_domain() }
    }
}

fn default_cluster_domain() -> String {
    "cluster.local".into()
}

/// A way to find the other nodes in Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ClusterDiscoveryStrategy {
    /// EndpointSlices.
    #[default]
    K8s,
    /// SRV records.
    Dns,
}

/// Settings of the brokers that a user may choose; the operator sets the others. Each section is that of the broker's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerSettings {
    /// Worker threads, each with connections of its own. 0 or absent: one for each core that the broker may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 64))]
    pub workers: Option<u16>,
    /// Limits of the MQTT protocol, for each client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<raftmq_config::Mqtt>,
    /// Named sets of limits, by name (lower-case letters, digits and hyphens). A listener selects one by its `zone`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, raftmq_config::Zone>,
    /// Clients that connect too often are banned for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flapping: Option<raftmq_config::Flapping>,
    /// What is refused, and then shed, when a node has too much to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overload: Option<raftmq_config::Overload>,
    /// Timing and snapshots of the Raft groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft: Option<raftmq_config::Raft>,
    /// Sessions are kept in shards, each on several nodes, rather than in the memory of a node. A cluster that has shards keeps them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<raftmq_config::Shards>,
    /// What a node does that reaches no quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_quorum_loss: Option<raftmq_config::OnQuorumLoss>,
    /// Sizes of the log and of the state store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<raftmq_config::Storage>,
    /// What the nodes log, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<raftmq_config::Log>,
}
