//! The RaftMQ broker: the modules of the binary `raftmq`.
//!
//! [`cli`] is what the process does by its arguments: `up` (a local cluster of processes), `node` (one broker), `ctl`
//! (the control API's client), `certs`, `doctor`, `bench` (a crate of its own). A broker is a node with its workers; [`http`], [`metrics`] and
//! [`telemetry`] are how people and programs look at it.

mod authn;
mod bans;
mod certs;
mod check;
pub mod cli;
mod ctl;
mod doctor;
mod features;
mod files;
mod healing;
pub mod http;
mod incoming;
mod listener_tls;
mod memory;
pub mod metrics;
mod node;
mod ops;
mod overload;
mod reload;
mod shard_numbers;
mod sources;
pub mod telemetry;
mod up;
mod worker;

/// The version that people and tools are told; a build with planted bugs says so.
pub(crate) const VERSION: &str = if raftmq_planted::POSSIBLE {
    concat!(env!("CARGO_PKG_VERSION"), "+planted-bugs")
} else {
    env!("CARGO_PKG_VERSION")
};
