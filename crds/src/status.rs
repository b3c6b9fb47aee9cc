//! What is known of a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is known of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MqttClusterStatus {
    /// The generation of the resource that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Available: clients are served. Progressing: a change is under way. Degraded: something needs attention.
    /// Bootstrapped: the cluster was formed once. Warning: it runs, but not as it should be run.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Nodes that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Nodes that serve clients.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the pods, as text, for whoever scales the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The members of the cluster.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// Name of the node that leads the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Where clients connect, as `tcp://name:port`.
    #[serde(default)]
    pub endpoints: Vec<String>,
}

/// One member of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name of the node.
    pub name: String,
    /// Its Raft id. A wiped node comes back with another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft_id: Option<i64>,
    /// `leader`, `voter`, `learner` or `down`.
    #[serde(default)]
    pub role: String,
    /// Version of its broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Types of conditions in the status.
pub mod condition_types {
    /// Clients are served.
    pub const AVAILABLE: &str = "Available";
    /// A change is under way.
    pub const PROGRESSING: &str = "Progressing";
    /// Something needs attention.
    pub const DEGRADED: &str = "Degraded";
    /// The cluster was formed once.
    pub const BOOTSTRAPPED: &str = "Bootstrapped";
    /// The cluster runs, but not as it should be run.
    pub const WARNING: &str = "Warning";
}
