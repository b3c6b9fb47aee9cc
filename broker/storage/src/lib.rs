//! The write-ahead log and the state store of a node.
