//! The RaftMQ broker.
