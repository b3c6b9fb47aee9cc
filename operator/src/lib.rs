//! Turns `MqttCluster` resources into running broker clusters on Kubernetes.
//!
//! [`controller`] has the pipeline of one reconciliation, [`build`] the Kubernetes resources (pure), [`controller::plan`]
//! the decisions (pure), [`brokers`] the calls of the brokers' control API, [`certificates`] the cluster's own authority.
//! The binary is [`options`] and [`run`].

pub mod api;
pub mod brokers;
pub mod build;
pub mod certificates;
pub mod controller;
pub mod fingerprint;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod options;
pub mod probe;
pub mod progress;
pub mod run;

/// Who writes fields in server-side apply, and what reports events.
pub const FIELD_MANAGER: &str = "raftmq-operator";
