//! The brokers' control API, `/control/v1`, for those who serve it and those who call it.
//!
//! [`api`] has its requests and answers, [`error`] its errors, [`client`] the calls. The server is in the broker
//! (`raftmq`); `raftmq ctl`, `raftmq up` and the operator are its callers.

pub mod api;
pub mod client;
pub mod error;
