//! Why a node does not start, or must stop.

use std::path::PathBuf;

use thiserror::Error;

/// Why the node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("data directory {path}: {context}: {source}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// What was being done.
        context: &'static str,
        /// What was found.
        source: std::io::Error,
    },
    /// The directory belongs to another node or cluster, or to a newer version.
    #[error("data directory {path}: {reason}")]
    Identity {
        /// Where.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The write-ahead log.
    #[error(transparent)]
    Wal(#[from] raftmq_storage::WalError),
    /// The state store.
    #[error(transparent)]
    Store(#[from] raftmq_storage::StoreError),
    /// The links.
    #[error(transparent)]
    Links(#[from] raftmq_links::StartError),
    /// The search for peers.
    #[error(transparent)]
    Discovery(#[from] raftmq_discovery::SettingsError),
}

/// Why the process must end. Nothing of it heals by itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fatal {
    /// A peer has seen this boot, or a later one, of this data directory.
    #[error(
        "the data directory is stale: this would be its start number {boot}, but {witness} has seen start {recorded}. It was \
         copied back, or another process uses it. Give the node an empty directory: it returns as a new member"
    )]
    StaleDisk {
        /// This start.
        boot: u64,
        /// What the peer recorded.
        recorded: u64,
        /// Who.
        witness: String,
    },
    /// Another data directory of the same name took the member's place.
    #[error(
        "node {id} was replaced by another data directory of the same name; stop one of the two, or give this one an empty directory and another name"
    )]
    Replaced {
        /// The id this one had.
        id: u64,
    },
    /// The data directory belonged to a member that left.
    #[error(
        "this data directory was node {id}, which left the cluster. Give the node an empty directory to join again"
    )]
    Left {
        /// The id it had.
        id: u64,
    },
    /// The cluster does not take this node.
    #[error("the cluster refuses this node: {0}")]
    Refused(String),
    /// A disk does not do what it must.
    #[error("storage failed: {0}")]
    Storage(String),
    /// A replica stopped.
    #[error("group {group} stopped: {reason}")]
    Group {
        /// Its name.
        group: &'static str,
        /// Why.
        reason: String,
    },
}
