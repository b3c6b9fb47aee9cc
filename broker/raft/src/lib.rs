//! Raft groups over openraft, generic over a state machine and a transport.
//!
//! A node has one [`Groups`], which owns what its groups share: the write-ahead log, the state store, the
//! [`Transport`] and the limits. [`Groups::start`] starts one replica of one group and gives a [`Group`] back,
//! the handle that everybody else uses. Frames of other nodes enter by [`Groups::handle`].
//!
//! No type of openraft is part of this crate's interface, and none of its layouts is on disk or on the wire:
//! both use the encodings of this crate, which carry a format version.
//!
//! What a caller must know:
//! - An index is `Option<u64>` in [`GroupStatus`], because the log begins at index 0 (the entry that
//!   [`Group::initialize`] writes).
//! - [`Group::propose`] works on the leader only and has no deadline of its own. [`Group::propose_anywhere`] forwards to
//!   the leader and waits for one within its deadline. After a lost answer it proposes again, so
//!   **a command may be applied twice**: commands carry a stream and a sequence number for the machine to know them by.
//! - A node that is no member of a group (no one has added it yet) still starts it: it takes part
//!   once a leader reaches it.

mod bundle;
mod cached;
mod calls;
mod codec;
mod error;
mod frame;
mod group;
mod groups;
mod incoming;
mod log;
mod machine;
mod members;
mod network;
mod options;
mod reads;
mod removal;
mod snapshot;
mod state;
mod status;
mod tasks;
mod transport;
mod types;

#[cfg(test)]
mod suite;

pub use calls::RpcCounters;
pub use error::{MembershipError, ProposeError, ReadError, RemoveError, StartError, WaitError};
pub use group::{Applied, Group, Stamp};
pub use groups::Groups;
pub use machine::{CachedMachine, MachineError, Persistence, StateBatch, StateKeys, StateMachine, StateRead};
pub use options::{OptionsError, RaftOptions};
pub use raftmq_storage::GroupId;
pub use status::{FollowerStatus, GroupStatus, Role};
pub use transport::{Class, Transport, TransportError};

/// A member of a group: the Raft id that the meta group allocated, never used again.
pub type NodeId = u64;
