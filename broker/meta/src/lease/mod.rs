//! The serving lease and the watermark.
//!
//! What is kept: *a node that serves has applied every entry of routes that some watermark covered when a SUBACK
//! relied on it.* Why it holds, over delays, skewed clocks and deposed leaders:
//!
//! 1. The leader's watermark is the lowest applied index of its *holders*: all who might hold a lease. A node is
//!    left out only after its lease is over by the leader's clock (1.1 L) and a ReadIndex round that began after that succeeded:
//!    had another leader been elected before, which might have prolonged the lease, the round would have failed.
//! 2. A leader that was deposed therefore leaves nobody out any more; who held a lease when it was deposed counts for
//!    its watermark for ever. It may grant no further lease either: a grant needs a round begun after the request.
//! 3. A node listens to the highest term that it knows, to grants and watermarks alike, and uses a watermark only while it holds a lease.
//!    So 1.1 L after an election, or when every member has asked the new leader, nobody relies on an older leader's
//!    watermark: the leader is *settled*.
//! 4. Before that it grants only to nodes that held a lease of an older leader when they asked, knowing the new term: these the older
//!    leaders count. Afterwards it grants to others too, once they have applied what routes had committed when it was settled and
//!    what its own watermark covers.
//!
//! And *a node that serves a client was not held to be fenced since the client connected.* Others who ask whether it is fenced, so that the client may
//! be served elsewhere, are told so after it was left out (1.) and an entry that says so was committed, by a leader that still was one then; each such entry has a number. A grant
//! tells the number of the last one. A node whose lease was over parts from its clients before it uses a grant with a higher number than that of the lease before.
//!
//! All times are nanoseconds of a clock that goes on in suspend (CLOCK_BOOTTIME), each side its own.

use serde::{Deserialize, Serialize};
use thiserror::Error;

mod node;
mod table;

pub use node::{Lease, Phase};
pub use table::{Answer, Fence, LeaseTable, MemberLease, RoundId};

/// Nanoseconds of CLOCK_BOOTTIME of the machine at hand.
pub type Nanos = u64;

/// How long leases last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseParams {
    /// L: how long a node serves after it sent the request that was granted.
    pub length: Nanos,
    /// D: how long after that moment it closes its clients. At least L.
    pub close: Nanos,
}

impl LeaseParams {
    /// 1.1 L: how long the leader counts a lease from its grant. The tenth is for clocks that differ in speed.
    pub fn counted(&self) -> Nanos {
        self.length.saturating_add(self.length / 10)
    }

    /// 1.1 D: how long after a grant the leader declares the node down.
    pub fn down_after(&self) -> Nanos {
        self.close.saturating_add(self.close / 10)
    }
}

impl Default for LeaseParams {
    fn default() -> Self {
        Self { length: 2_000_000_000, close: 5_000_000_000 }
    }
}

/// What a node asks the meta leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Its Raft id.
    pub node: u64,
    /// Its boot: another boot of the node holds no lease.
    pub boot: u64,
    /// Number of the request within the boot.
    pub seq: u64,
    /// The term of the meta leader that the node believes in.
    pub term: u64,
    /// Whether it held a lease when it sent this.
    pub holding: bool,
    /// How far it has applied routes.
    pub applied: u64,
    /// It stopped serving for good in this boot and takes no lease any more.
    pub release: bool,
}

/// A lease, counted by the node from when it sent the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Whose request is answered.
    pub node: u64,
    /// Of which boot.
    pub boot: u64,
    /// Which request.
    pub seq: u64,
    /// The term of the leader.
    pub term: u64,
    /// Its watermark.
    pub watermark: Option<u64>,
    /// How often others relied on it that the node is fenced. Between nodes it stands beside the rest, which is as it was before there was that.
    #[serde(skip)]
    pub fences: u64,
}

/// Why no lease is granted now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Denial {
    /// The node believes in another leader: it shall take over this term and ask again.
    #[error("the meta leader's term is {term}")]
    WrongTerm {
        /// The term of the leader that answers.
        term: u64,
    },
    /// Leadership could not be confirmed.
    #[error("leadership of the meta group could not be confirmed")]
    NotConfirmed,
    /// Older leases may be in force somewhere.
    #[error("a new meta leader waits for older leases to end")]
    NotSettled,
    /// The leader does not know yet how far routes is committed.
    #[error("the commit index of routes is not known yet")]
    RoutesUnknown,
    /// The node has to apply more of routes first.
    #[error("routes is applied to {applied} of {needed}")]
    Behind {
        /// What the node has.
        applied: u64,
        /// What it needs.
        needed: u64,
    },
    /// The node's routes are being removed because it was gone for long.
    #[error("the node is being declared down; its routes are removed first")]
    GoingDown,
    /// Not a member, or one that leaves.
    #[error("node {node} takes no part")]
    NotActive {
        /// The node.
        node: u64,
    },
    /// A later boot of the node has asked.
    #[error("boot {boot} is over")]
    StaleBoot {
        /// What was asked with.
        boot: u64,
    },
    /// The node gave its lease back in this boot, or asked again.
    #[error("withdrawn by the node itself")]
    Withdrawn,
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
