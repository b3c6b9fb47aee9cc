//! The RaftMQ broker.

pub mod http;
pub mod metrics;
pub mod telemetry;
