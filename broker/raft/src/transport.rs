//! How frames reach other nodes.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::NodeId;

/// What a frame is for, so that a transport can keep small urgent frames from waiting behind large ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Heartbeats, votes and the hand-over of leadership: small, and late means an election.
    Heartbeat,
    /// Log entries and forwarded proposals.
    Log,
    /// Chunks of snapshots: large and in no hurry.
    Snapshot,
}

/// Sends a frame to a node and waits for the answer.
///
/// A transport may lose, delay and repeat calls; it must not change frames. The receiving node gives the frame to
/// [`crate::Groups::handle`] and returns what that returns.
pub trait Transport: Send + Sync + 'static {
    /// Calls node `to`. Must resolve within `deadline` or a little later.
    fn call(
        &self,
        to: NodeId,
        frame: Bytes,
        class: Class,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// Whether node `to` knows frames with the heartbeats of several groups, which came after the first version: to be told from what the nodes
    /// said when they connected. Asked for each heartbeat, so it must be quick.
    fn takes_bundles(&self, _to: NodeId) -> bool {
        false
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// No connection, or no address known: trying again at once is of no use.
    #[error("node {to} is unreachable: {reason}")]
    Unreachable {
        /// The node that was called.
        to: NodeId,
        /// What was found.
        reason: String,
    },
    /// No answer within the deadline. The call may have been carried out.
    #[error("node {to} did not answer in time")]
    Timeout {
        /// The node that was called.
        to: NodeId,
    },
    /// The connection broke or a queue was full. The call may have been carried out.
    #[error("the call to node {to} failed: {reason}")]
    Failed {
        /// The node that was called.
        to: NodeId,
        /// What was found.
        reason: String,
    },
}
