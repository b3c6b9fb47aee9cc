//! One node's part in the cluster: identity, bootstrap, join, leases, route streams and the subscribe barrier.
//!
//! [`Cluster::start`] opens the data directory, listens for peers and begins to look for the cluster; it returns as soon as
//! peers can be answered, long before the node is a member. From then on:
//!
//! * [`Cluster::lease`] says whether the node may serve: one clock read and one atomic load, for workers.
//!   [`Cluster::phase`] tells the rest of the server when it changes.
//! * [`Cluster::subscribe`] is the barrier of a SUBACK, [`Cluster::unsubscribe`] its opposite.
//! * [`Cluster::shards`] is the way to the replicated state of sessions and messages.
//! * [`Cluster::forward`] sends one frame to each of some nodes; what they send arrives at the
//!   [`ForwardHandler`] given at the start.
//! * [`Cluster::control`] carries out what the control API offers; [`Cluster::status`] is for health, metrics and people.
//! * [`Cluster::failed`] resolves when the process must end: what it says is for the log and the exit code.
//!
//! All of it runs on the tokio runtime that `start` was called on. The calls that workers make (`lease`, `subscribe`,
//! `unsubscribe`, `forward`) never wait for I/O and may be made from any thread.
//!
//! # A directory
//! | File | What |
//! |---|---|
//! | `lock` | held by the process |
//! | `boot` | count of the starts, synced before anything else is done |
//! | `identity` | cluster, name, incarnation, Raft id, and what was agreed at a bootstrap |
//! | `seen-boots` | the highest boot seen of every incarnation |
//! | `members` | who was a member and who voted when it was last looked at: whom to ask at the next start |
//! | `wal/`, `state/`, `snapshots/` | log, state store, snapshots of the groups |

mod bans;
mod barrier;
mod bootstrap;
mod clock;
mod cluster;
mod config;
mod control;
mod driver;
mod error;
mod fate;
mod fence;
mod handler;
mod identity;
mod join;
mod leader;
mod lease;
mod lives;
mod machine;
mod member;
mod net;
mod node;
mod permission;
mod routes;
mod shards;
mod status;
mod wire;
mod zone;

pub use barrier::BarrierError;
pub use clock::boottime;
pub use cluster::{Cluster, ForwardHandler, Forwarded};
pub use config::{ClusterConfig, ConfigError, ShardOptions};
pub use control::{Control, ControlError, GroupInfo, MemberInfo, MemberRole};
pub use error::{Fatal, StartError};
pub use lease::LeaseState;
pub use raftmq_meta::{GroupLoss, LeaseParams, LossReport, Phase};
pub use raftmq_raft::GroupStatus;
pub use shards::{
    AnswerSink, Kick, KickHandler, LaneError, LiveHandler, Port, PushError, RemoteQueue, Session, ShardListener,
    ShardReadError, ShardStatus, Shards,
};
pub use status::{ClusterCounters, ClusterStatus, Stage};

/// The meta group.
pub const META: raftmq_raft::GroupId = raftmq_raft::GroupId::new(1, 0);
/// The routes group.
pub const ROUTES: raftmq_raft::GroupId = raftmq_raft::GroupId::new(2, 0);
