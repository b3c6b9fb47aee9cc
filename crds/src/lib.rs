//! The API types of raftmq.io and their translation into broker configuration.
