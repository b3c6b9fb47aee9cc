//! What the meta group agrees on, and the two decisions that hang on it: who serves and who votes. Without I/O.
//!
//! * [`MetaMachine`] is the state machine of the meta group: cluster identity, members, feature level, bans.
//! * [`shards`] is the table of the shards in it, and what makes the shards be where they shall.
//! * [`plan`] says the next step of a group's membership, [`would_lose`] what a stop of one node costs.
//! * [`Lease`] is a node's side of the serving lease, [`LeaseTable`] the meta leader's. Between them they
//!   keep the promise that a publish at any serving node sees every subscription that was acknowledged
//!   before; how is told at the top of `src/lease/mod.rs`.
//!
//! Time, randomness and the network are arguments: the same code runs in a broker and in a test that
//! delays messages, skews clocks and deposes leaders.
//!
//! Differences to `ARCHITECTURE.md`, all finer, none weaker:
//! * A node that still holds an unexpired lease of the leader before is granted one by the new leader at once, without the
//!   check of its routes, which it needed for the lease it holds; so a change of leader stops nobody.
//! * A new leader is *settled* after 1.1 L, or earlier when every member has asked it: from then on nobody
//!   listens to an older leader. Only a settled leader grants to a node that holds nothing.

mod bans;
mod command;
mod lease;
mod loss;
mod machine;
mod plan;
pub mod shards;
mod state;

pub use bans::{
    AddressRange, Ban, BanIndex, BanKind, BanList, BanOrigin, BanRefusal, BanTarget, MAX_BAN_BYTES, MAX_BAN_TEXT,
    MAX_BAN_VALUE, MAX_BANS, MAX_BATCH, RangeError, Seen,
};
pub use command::{CommandError, InitialMember, MetaCommand, MetaResponse, NodeAddresses, Refusal};
pub use lease::{
    Answer, Denial, Fence, Grant, Lease, LeaseParams, LeaseRequest, LeaseTable, MemberLease, Nanos, Phase, RoundId,
};
pub use loss::{GroupLoss, LossReport, would_lose};
pub use machine::{MetaMachine, RestoreError};
pub use plan::{GroupMembership, Step, plan, voters_for};
pub use state::{ClusterInfo, Member, MemberStatus, MetaState};

/// The newest feature level that this binary knows. A feature, or a change of what apply does, is switched on by an
/// entry of the log when all members know it, so that replicas never differ.
pub const FEATURE_LEVEL: u32 = FENCES_LEVEL;

/// The feature level from which on there are bans.
pub const BANS_LEVEL: u32 = 2;

/// The feature level from which on there are shards.
pub const SHARDS_LEVEL: u32 = 3;

/// From this level on a node knows forwarded publishes that say which of its lives they are meant for.
pub const LIVES_LEVEL: u32 = 4;

/// From this level on a node tells others, which have no replica of a shard that it has one of, what is new there, and reads it for them.
pub const FOLLOW_LEVEL: u32 = 5;

/// From this level on others may rely on it that a node is fenced ([`MetaCommand::Fenced`]).
pub const FENCES_LEVEL: u32 = 6;

/// Longest name of a node or a cluster, in bytes: it must fit a DNS label, because certificates carry it as one.
pub const MAX_NAME: usize = 63;

/// Largest number of members, so that a member set always fits one frame and one entry.
pub const MAX_MEMBERS: usize = 64;
