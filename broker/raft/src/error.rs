//! Errors of the calls on groups.

use raftmq_storage::GroupId;

use crate::NodeId;
use crate::machine::MachineError;
use crate::options::OptionsError;

/// Why a group was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The options contradict each other.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A replica of this group number runs already.
    #[error("group {0:?} runs already")]
    Running(GroupId),
    /// The log, the state store or the snapshot directory cannot be used.
    #[error("group {group:?}: {context}: {source}")]
    Storage {
        /// Which group.
        group: GroupId,
        /// What was being done.
        context: &'static str,
        /// What was found.
        source: std::io::Error,
    },
    /// Entries between the state and the log are gone: the state store lost what it had synced, or is not that of this log. This replica
    /// has to be removed and made anew.
    #[error("group {group:?}: entries are missing: the state ends at {applied:?}, the log begins after {purged}")]
    Gap {
        /// Which group.
        group: GroupId,
        /// Index of the last entry that the state covers.
        applied: Option<u64>,
        /// Index up to which the log was purged.
        purged: u64,
    },
    /// The machine cannot take its own state.
    #[error("group {group:?}: {source}")]
    Machine {
        /// Which group.
        group: GroupId,
        /// What was found.
        source: MachineError,
    },
    /// Consensus did not start.
    #[error("group {group:?}: {reason}")]
    Failed {
        /// Which group.
        group: GroupId,
        /// What was found.
        reason: String,
    },
}

/// Why a replica was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It is being started, or removed, at this moment.
    #[error("group {0:?} is being started or removed")]
    Busy(GroupId),
    /// It has stopped, but something still uses its log or its state, such as a reader of the machine's keys. Nothing was removed; ask again.
    #[error("the log or the state of group {0:?} is still in use")]
    InUse(GroupId),
    /// Something could not be removed, or the tombstone could not be written. If that was written, the rest goes at the next start.
    #[error("group {group:?} cannot be removed: {source}")]
    Storage {
        /// Which group.
        group: GroupId,
        /// What was found.
        source: std::io::Error,
    },
}

/// Why a proposal has no response.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead, or lost the leadership before the entry committed (the entry may still commit).
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// The leader, if it is known.
        leader: Option<NodeId>,
    },
    /// The command is larger than [`crate::RaftOptions::max_command`].
    #[error("a command of {len} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The disk of the leader is nearly full: it takes no commands, and hands the leadership on if it can.
    #[error("the leader's disk is nearly full")]
    DiskFull,
    /// No answer before the deadline; the command may still be applied.
    #[error("no answer before the deadline")]
    Timeout,
    /// The group was shut down.
    #[error("the group was shut down")]
    Shutdown,
    /// An error stopped the group.
    #[error("the group has failed: {0}")]
    Failed(String),
}

/// Why a linearizable read was not confirmed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// The leader, if it is known.
        leader: Option<NodeId>,
    },
    /// No quorum confirmed the leadership in time.
    #[error("no quorum answered in time")]
    NoQuorum,
    /// The group was shut down.
    #[error("the group was shut down")]
    Shutdown,
    /// An error stopped the group.
    #[error("the group has failed: {0}")]
    Failed(String),
}

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("not reached before the deadline")]
    Timeout,
    /// The group stopped.
    #[error("the group was shut down")]
    Shutdown,
}

/// Why a change of the members was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MembershipError {
    /// This node does not lead.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// The leader, if it is known.
        leader: Option<NodeId>,
    },
    /// Another change is not committed yet.
    #[error("another change of the members is on its way")]
    InProgress,
    /// Only learners become voters, and a group has at least one voter.
    #[error("not possible: {0}")]
    Impossible(String),
    /// The group has a log already.
    #[error("the group is initialised already")]
    Initialized,
    /// The change, or the hand-over, did not happen in time; it may still.
    #[error("not done before the deadline")]
    Timeout,
    /// The group was shut down.
    #[error("the group was shut down")]
    Shutdown,
    /// An error stopped the group.
    #[error("the group has failed: {0}")]
    Failed(String),
}
