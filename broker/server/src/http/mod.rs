//! The node's HTTP servers.
//!
//! - [`health`]: `/healthz`, `/readyz` and `/metrics` on the metrics port, without TLS, for probes and Prometheus.
//! - [`control`]: `/control/v1/…` on the HTTP port, under mutual TLS, for `raftmq ctl`, `raftmq up` and the operator. Its types
//!   are in [`api`], its errors in [`error`], its counterpart in [`client`].
//! - [`serve`] runs either: limits, timeouts, TLS.

pub mod control;
pub mod health;
pub mod serve;

pub use raftmq_control_api::{api, client, error};

#[cfg(test)]
mod tests;
