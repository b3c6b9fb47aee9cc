//! One replica of one group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raftmq_storage::GroupId;
use tokio::sync::watch;

use crate::error::{MembershipError, ProposeError, ReadError, WaitError};
use crate::status::GroupStatus;
use crate::NodeId;

/// One replica of one group: a handle that is cheap to clone.
#[derive(Clone)]
pub struct Group {
    inner: Arc<()>,
}

/// A command that was committed and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its index in the log.
    pub index: u64,
    /// What the machine answered.
    pub response: Bytes,
}

impl Group {
    /// Which group.
    pub fn id(&self) -> GroupId { unimplemented!() }
    /// Proposes on the leader and waits until the command is committed and applied here. No deadline of its own.
    pub async fn propose(&self, command: Bytes) -> Result<Applied, ProposeError> { unimplemented!() }
    /// Proposes through the leader, wherever it is; waits for a leader within the deadline. May apply the command twice.
    pub async fn propose_anywhere(&self, command: Bytes, deadline: Duration) -> Result<Applied, ProposeError> { unimplemented!() }
    /// A linearizable read (ReadIndex): the index to wait for with [`Group::wait_applied`]. The round began after the call.
    pub async fn read_index(&self) -> Result<u64, ReadError> { unimplemented!() }
    /// Waits until `index` is applied here.
    pub async fn wait_applied(&self, index: u64, deadline: Duration) -> Result<(), WaitError> { unimplemented!() }
    /// Waits until the status is as wanted.
    pub async fn wait(&self, deadline: Duration, wanted: impl FnMut(&GroupStatus) -> bool) -> Result<GroupStatus, WaitError> { unimplemented!() }
    /// What this replica knows.
    pub fn status(&self) -> watch::Receiver<GroupStatus> { unimplemented!() }
    /// Makes the group: once in its life, on one of its first voters.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), MembershipError> { unimplemented!() }
    /// Adds a learner. Does not wait until it has caught up: see `followers` of the status.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> { unimplemented!() }
    /// Replaces the voters; all of them must be members already. Those who are no voters any more stay as learners, or leave.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>, keep_removed: bool) -> Result<(), MembershipError> { unimplemented!() }
    /// Removes a member, voter or learner. Fine if it is none.
    pub async fn remove(&self, node: NodeId) -> Result<(), MembershipError> { unimplemented!() }
    /// Hands the leadership to another voter and waits until it leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MembershipError> { unimplemented!() }
    /// Makes a snapshot now and waits until it covers what is applied at this moment.
    pub async fn snapshot_now(&self, deadline: Duration) -> Result<(), WaitError> { unimplemented!() }
    /// Whether the group has a log or state (an [`Group::initialize`] was made or received).
    pub async fn is_initialized(&self) -> bool { unimplemented!() }
    /// Stops this replica.
    pub async fn shutdown(&self) { unimplemented!() }
}
