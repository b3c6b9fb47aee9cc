//! The API types of raftmq.io and their translation into broker configuration.
//!
//! [`MqttCluster`] is what a user writes. [`MqttCluster::from_yaml`] reads it from a file and names what is wrong by
//! setting and line; in Kubernetes the generated definition ([`definition`]) does the same with its schema and CEL rules.
//! [`broker_config`] turns one into the settings of one node: the same function for the processes of `raftmq up` and for
//! pods, which differ in their [`NodePlacement`] only. Nothing here touches a socket, a clock or a disk.

// The expansion of KubeSchema holds copies of the public types inside functions.
#![allow(unreachable_pub)]

mod check;
mod definition;
mod listeners;
mod parse;
mod pod;
mod ports;
mod spec;
mod status;
mod storage;
mod translate;
mod warnings;

pub use definition::{definition, definition_yaml};
pub use listeners::{ListenerSpec, ListenerTls, ServerCertificateRef, ServiceSpec, ServiceType};
pub use parse::ParseError;
pub use pod::PodTemplate;
pub use ports::{FIXED_NODES, LocalPorts, PortClash, PortPlan};
pub use spec::{BrokerSettings, ClusterDiscovery, ClusterDiscoveryStrategy, MetricsSpec, MqttCluster, MqttClusterSpec};
pub use status::{MemberStatus, MqttClusterStatus, condition_types};
pub use storage::{Retention, StorageSpec};
pub use translate::{NodePlacement, TranslateError, broker_config};
pub use warnings::{Warning, warning_condition, warnings};

/// API group of the resources.
pub const GROUP: &str = "raftmq.io";
/// Version of the resources.
pub const VERSION: &str = "v1alpha1";
