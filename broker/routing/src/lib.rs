//! The subscription index of a worker and the route table of a node, without I/O.
//!
//! Matching goes in two steps. A node's [`SharedRoutes`] says which of its workers and which other nodes have subscribers of
//! a topic, and which shards have durable sessions that want it; each worker's own [`SubscriptionIndex`] says which ones they are. What nodes must know of each other is kept by
//! [`RoutesMachine`], the state machine of the `routes` Raft group; [`LocalRoutes`] decides what a node proposes to it.
//!
//! [`RoutesMachine`] writes the committed routes directly into the [`SharedRoutes`] it was made with, and
//! [`LocalRoutes`] the node's own workers: there is one copy of ten million routes on a node and nobody has to carry changes from
//! one to the other. Routes of different filters are independent of each other, so a reader may see one of
//! two changed filters before the other; what counts is that the applied index is reported after the change.

mod cache;
mod forward;
mod group_table;
mod groups;
mod hash;
mod index;
mod key;
mod local;
mod machine;
mod retained;
mod set;
mod shared;
mod shrink;
mod snapshot;
mod stream;
mod subscribers;
mod table;
mod trie;

pub use cache::TopicCache;
pub use forward::{
    ForwardError, ForwardFrame, Forwards, MAX_GROUPS, SharedForward, frame_has_groups, frame_without_groups,
};
pub use groups::{Ask, Choice, Chosen, GroupStrategy, Joined, MemberId, NodeGroups, Tried, TriedNode};
pub use hash::{ROUTE_HASH_VERSION, route_hash};
pub use index::{Inserted, Removed, SubscriptionIndex};
pub use key::{FilterKind, RouteKey, group_key, members_of_rank};
pub use local::{LocalRoutes, LocalRoutesOptions, Need, Progress, Ticket};
pub use machine::{RestoreError, RoutesCommand, RoutesMachine, RoutesResponse, ShardChange, ShardRoutes};
pub use retained::{
    Lookup, RETAINED_OVERHEAD, RetainOutcome, RetainedCounters, RetainedCursor, RetainedLimits, RetainedStore,
};
pub use set::{GroupNode, SharedTarget, Targets};
pub use shared::{RouteCounts, SharedRoutes};
pub use shrink::shrink;
pub use stream::{BatchToSend, Outcome};
pub use table::RouteTable;
