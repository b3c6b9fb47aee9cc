//! The Kubernetes resources of a cluster: one builder a file, pure. Each takes the [`ValidatedCluster`] and gives what the
//! resource should be; nothing here knows a client, a clock or what exists already.

mod client_services;
mod config_map;
mod discovery_access;
mod disruption_budget;
mod links_service;
mod object;
mod pod;
mod secrets;
mod service_account;
mod stateful_set;

pub use client_services::{client_services, endpoints};
pub use config_map::{config_map, config_map_name};
pub use discovery_access::{role, role_binding};
pub use disruption_budget::disruption_budget;
pub use links_service::links_service;
pub use object::{Object, OwnedKind};
pub use pod::{CONTROL_PORT, TEMPLATE_CERTIFICATES};
pub use secrets::{AUTHORITY, CA, CERT, KEY, Pem, secret};
pub use service_account::service_account;
pub use stateful_set::{DATA, stateful_set};

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use raftmq_crds::{ClusterDiscoveryStrategy, MqttClusterSpec, NodePlacement};

/// An `MqttCluster` that can be built: its schema, rules and settings hold.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedCluster {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its generation.
    pub generation: Option<i64>,
    /// Owner of all that is built.
    pub owner: OwnerReference,
    /// What the user wants.
    pub spec: MqttClusterSpec,
    /// Image of the brokers.
    pub image: String,
    /// The brokers' settings, the same for every pod.
    pub config_yaml: String,
}

/// What a build depends on besides the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Pods of the StatefulSet.
    pub replicas: i32,
    /// Names the nodes' certificate: another one restarts the pods, which read it at their start.
    pub certificates: String,
    /// Size of the StatefulSet's volume claims where it exists: the template cannot be changed.
    pub claim_size: Option<String>,
}

/// All resources but Secrets, in the order in which they are applied: what pods need comes before them.
#[must_use]
pub fn build(cluster: &ValidatedCluster, inputs: &Inputs) -> Vec<Object> {
    let mut objects = vec![Object::new(OwnedKind::ServiceAccount, &service_account(cluster))];
    if cluster.reads_endpoint_slices() {
        objects.push(Object::new(OwnedKind::Role, &role(cluster)));
        objects.push(Object::new(OwnedKind::RoleBinding, &role_binding(cluster)));
    }
    objects.push(Object::new(OwnedKind::ConfigMap, &config_map(cluster)));
    objects.push(Object::new(OwnedKind::Service, &links_service(cluster)));
    objects.extend(client_services(cluster).iter().map(|service| Object::new(OwnedKind::Service, service)));
    objects.push(Object::new(OwnedKind::PodDisruptionBudget, &disruption_budget(cluster)));
    objects.push(Object::new(OwnedKind::StatefulSet, &stateful_set(cluster, inputs)));
    objects
}

/// Labels of the recommended set.
pub mod labels {
    /// What it is: [`NAME_VALUE`].
    pub const NAME: &str = "app.kubernetes.io/name";
    /// Which cluster.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// Which part: [`COMPONENT_VALUE`].
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    /// Who takes care of it: [`MANAGED_BY_VALUE`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// Value of [`NAME`].
    pub const NAME_VALUE: &str = "raftmq";
    /// Value of [`COMPONENT`].
    pub const COMPONENT_VALUE: &str = "broker";
    /// Value of [`MANAGED_BY`].
    pub const MANAGED_BY_VALUE: &str = "raftmq-operator";
}

impl ValidatedCluster {
    /// Labels that select the pods. They never change: a StatefulSet's selector cannot.
    #[must_use]
    pub fn selector_labels(&self) -> BTreeMap<String, String> {
        selector_labels(&self.name)
    }

    /// Labels of everything that is built.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector_labels();
        labels.insert(labels::MANAGED_BY.into(), labels::MANAGED_BY_VALUE.into());
        labels
    }

    /// The pods' selector.
    #[must_use]
    pub fn selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(self.selector_labels()), ..LabelSelector::default() }
    }

    /// Name of a node and its pod.
    #[must_use]
    pub fn node(&self, ordinal: i32) -> String {
        NodePlacement::node_name(&self.name, usize::try_from(ordinal).unwrap_or_default())
    }

    /// Nodes wanted.
    #[must_use]
    pub fn replicas(&self) -> i32 {
        i32::from(self.spec.replicas)
    }

    /// Whether the pods read the Kubernetes API to find each other.
    #[must_use]
    pub fn reads_endpoint_slices(&self) -> bool {
        self.spec.discovery.strategy == ClusterDiscoveryStrategy::K8s
    }

    fn meta(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels()),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }
}

/// Labels that select the pods of a cluster.
#[must_use]
pub fn selector_labels(cluster: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::NAME.to_owned(), labels::NAME_VALUE.to_owned()),
        (labels::INSTANCE.to_owned(), cluster.to_owned()),
        (labels::COMPONENT.to_owned(), labels::COMPONENT_VALUE.to_owned()),
    ])
}

/// The pods' selector as text, for lists and for whoever scales the cluster.
#[must_use]
pub fn selector_text(cluster: &str) -> String {
    let labels: Vec<String> = selector_labels(cluster).iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(",")
}

/// The ordinal of a node or pod of this cluster.
#[must_use]
pub fn ordinal(cluster: &str, node: &str) -> Option<i32> {
    let digits = node.strip_prefix(cluster)?.strip_prefix('-')?;
    let plain = digits == "0" || !digits.starts_with('0');
    (plain && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}
