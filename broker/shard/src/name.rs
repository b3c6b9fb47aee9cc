//! Names of clients and nodes.

use std::sync::Arc;

/// A client of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The tenant; 0 while there is one only.
    pub namespace: u32,
    /// The client identifier.
    pub id: Arc<str>,
}

impl Name {
    /// A name.
    #[must_use]
    pub fn new(namespace: u32, id: &str) -> Self {
        Self { namespace, id: id.into() }
    }
}

/// A start of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeBoot {
    /// Its Raft id.
    pub node: u64,
    /// The count of its starts.
    pub boot: u64,
}
