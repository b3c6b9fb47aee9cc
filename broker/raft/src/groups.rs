//! All groups of a node.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use raftmq_storage::{GroupId, StateStore, Wal};

use crate::error::StartError;
use crate::group::Group;
use crate::machine::{Persistence, StateMachine};
use crate::options::{OptionsError, RaftOptions};
use crate::transport::Transport;
use crate::NodeId;

/// All groups of a node, and what they share. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    inner: Arc<()>,
}

/// Counts of incoming frames since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RpcCounters {
    /// Frames that were carried out.
    pub handled: u64,
    /// Frames of another cluster.
    pub refused_cluster: u64,
    /// Frames for another node.
    pub refused_addressee: u64,
    /// Frames for a group that does not run here.
    pub refused_group: u64,
    /// Frames of another generation of a group.
    pub refused_generation: u64,
    /// Frames that make no sense.
    pub malformed: u64,
}

impl Groups {
    /// `directory` holds the snapshots' files; it is made if it is not there.
    ///
    /// # Errors
    /// The options contradict each other.
    #[allow(clippy::too_many_arguments)]
    pub fn new(node: NodeId, cluster: u128, directory: PathBuf, wal: Wal, store: StateStore, transport: Arc<dyn Transport>, options: RaftOptions) -> Result<Groups, OptionsError> { unimplemented!() }
    /// Starts this node's replica of a group. Must be called within a tokio runtime, on which the group then runs.
    pub async fn start(&self, id: GroupId, persistence: Persistence, machine: impl StateMachine) -> Result<Group, StartError> { unimplemented!() }
    /// The replica of the group with this number that runs here.
    pub fn group(&self, number: u32) -> Option<Group> { unimplemented!() }
    /// Carries out a frame of another node and gives the answer for it. Whatever is in the frame, there is an answer.
    pub async fn handle(&self, frame: Bytes) -> Bytes { unimplemented!() }
    /// Counts of incoming frames.
    pub fn counters(&self) -> RpcCounters { unimplemented!() }
    /// Stops all groups.
    pub async fn shutdown(&self) { unimplemented!() }
}
