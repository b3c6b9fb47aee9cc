//! Where MQTT clients connect, and the Services in front of it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use raftmq_config::ListenerType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One port where MQTT clients connect, on every node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(self.type in ['tls', 'wss']) || has(self.tls)")
        .message("a listener of type tls or wss needs tls.secretName, the name of a Secret with tls.crt and tls.key"),
    validation = Rule::new("self.type in ['tls', 'wss'] || !has(self.tls)")
        .message("tls is for listeners of type tls and wss; change the type or remove tls")
)]
pub struct ListenerSpec {
    /// Name of the listener, unique in the cluster: lower-case letters, digits and hyphens, at most 15.
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The protocol under MQTT. This version serves `tcp`.
    #[serde(rename = "type", default)]
    pub type_: ListenerType,
    /// Port, the same on every node and on the Service.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Connections that one node keeps on this listener. Absent: no limit but the process's open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: Option<u32>,
    /// Certificate of a `tls` or `wss` listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// The Service in front of this listener.
    #[serde(default)]
    pub service: ServiceSpec,
}

impl Default for ListenerSpec {
    fn default() -> Self {
        Self {
            name: "mqtt".into(),
            type_: ListenerType::Tcp,
            port: 1883,
            max_connections: None,
            tls: None,
            service: ServiceSpec::default(),
        }
    }
}

/// Certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Name of the Secret (kubernetes.io/tls) with `tls.crt` and `tls.key`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// The Service in front of a listener. Listeners with the same options share one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'")
        .message("service.nodePort needs service.type NodePort or LoadBalancer; change the type or remove nodePort"),
    validation = Rule::new("self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || (has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass))")
        .message("service.loadBalancerClass: it cannot be changed while the type is LoadBalancer; restore the former class, or change the type in between")
)]
pub struct ServiceSpec {
    /// How the Service is reached.
    #[serde(rename = "type", default)]
    pub type_: ServiceType,
    /// Annotations of the Service, as load balancers want them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Port on the nodes of Kubernetes. Absent: Kubernetes chooses one where the type has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// Which load balancer serves a Service of type LoadBalancer. Absent: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// On a port of every node.
    NodePort,
    /// Through a load balancer.
    LoadBalancer,
}
