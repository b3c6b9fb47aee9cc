//! What openraft is configured with. No type from here leaves the crate.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_adv;

use crate::NodeId;
use crate::snapshot::SnapshotData;
use crate::state::MachineStore;

openraft::declare_raft_types!(
    /// Ids are 64 bits without an address: the transport knows where a node is.
    pub(crate) Types:
        D = Command,
        R = Response,
        NodeId = NodeId,
        Node = (),
);

pub(crate) type Raft = openraft::Raft<Types, MachineStore>;
/// Term and node: two candidates of one term do not block each other, the one with the higher id wins.
pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, NodeId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Command, NodeId, ()>;
pub(crate) type Entry = openraft::Entry<LeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<NodeId, ()>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, NodeId, ()>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, NodeId, ()>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, NodeId, (), SnapshotData>;

/// An entry's payload. Shown by its length: commands carry what clients said.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the machine answered to a command; empty for entries of Raft itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Response(pub(crate) Bytes);

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
