//! The entries of the meta group's log and the answers to them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bans::{Ban, BanTarget};
use crate::shards::SlotRun;

/// Version of the encoding of commands: the first byte of each.
const COMMAND_VERSION: u8 = 1;
/// Version of the encoding of answers.
const RESPONSE_VERSION: u8 = 1;

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct NodeAddresses {
    /// Node-to-node links, `host:port`.
    pub link: String,
    /// Control API, `host:port`; empty when it is not served.
    pub control: String,
}

/// One member of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialMember {
    /// Its Raft id: its place, from 1, among the names in order.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The random number of its data directory.
    pub incarnation: u128,
    /// Its boot when it agreed.
    pub boot: u64,
    /// Random number of that boot.
    pub nonce: u64,
    /// Where it is reached.
    pub addresses: NodeAddresses,
    /// The version of its binary.
    pub version: String,
    /// The highest feature level it knows.
    pub feature_level: u32,
}

/// An entry of the meta group's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// The first entry: the cluster exists from here on. Again with the same cluster id it changes nothing.
    Init {
        /// Random identity of the cluster.
        cluster_id: u128,
        /// Its name.
        name: String,
        /// Who it begins with.
        members: Vec<InitialMember>,
    },
    /// A data directory becomes a member and is given a Raft id.
    Join {
        /// Node name.
        name: String,
        /// Random number of the data directory.
        incarnation: u128,
        /// Count of its starts.
        boot: u64,
        /// Random number of this start: tells a repeated request from a copied directory.
        nonce: u64,
        /// Where it is reached.
        addresses: NodeAddresses,
        /// Version of its binary.
        version: String,
        /// The highest feature level it knows.
        feature_level: u32,
    },
    /// A member was started.
    Boot {
        /// Its Raft id.
        id: u64,
        /// Its incarnation, which must be the member's.
        incarnation: u128,
        /// Count of its starts, more than any before.
        boot: u64,
        /// Random number of this start.
        nonce: u64,
        /// Where it is reached now.
        addresses: NodeAddresses,
        /// Version of its binary.
        version: String,
        /// The highest feature level it knows.
        feature_level: u32,
    },
    /// A member shall leave: it is taken out of the groups.
    Leave {
        /// Its Raft id.
        id: u64,
    },
    /// No group holds the member any more and its lease is over.
    Removed {
        /// Its Raft id.
        id: u64,
    },
    /// The member's lease ended more than 1.1 D ago.
    NodeDown {
        /// Its Raft id.
        id: u64,
        /// The term of the meta leader that counted its lease.
        epoch: u64,
    },
    /// The member holds a lease again.
    NodeUp {
        /// Its Raft id.
        id: u64,
        /// The term of the meta leader that granted it.
        epoch: u64,
    },
    /// Switches features on. Never goes back.
    FeatureLevel {
        /// The new level.
        level: u32,
    },
    /// Clients may not connect any more. From [`crate::BANS_LEVEL`] on.
    Ban {
        /// Who, why and until when.
        bans: Vec<Ban>,
    },
    /// They may again.
    Unban {
        /// Whose ban ends.
        target: BanTarget,
    },
    /// The bans that end at this time or before are over, by the leader's clock.
    BansOver {
        /// Milliseconds since the Unix epoch.
        now_ms: u64,
    },
    /// There are shards from here on. Again with the same numbers it changes nothing. This and what follows from
    /// [`crate::SHARDS_LEVEL`] on.
    CreateShards {
        /// How many, 1 to [`crate::shards::MAX_SHARDS`].
        count: u16,
        /// How many replicas each has where there are so many members, 1 to [`crate::shards::MAX_REPLICATION`].
        replication: u8,
    },
    /// Where the replicas of some shards shall be.
    PlaceShards {
        /// The placement that this one was made for ([`crate::shards::ShardTable::placed`]): a plan of a deposed leader comes too late.
        epoch: u64,
        /// The replicas of these shards; active members.
        moves: Vec<(u16, BTreeSet<u64>)>,
    },
    /// These voters form the group, and nobody else: the first such entry of a generation counts. Before anybody initialises it.
    FormShard {
        /// The shard.
        shard: u16,
        /// Its generation.
        generation: u32,
        /// As many of the wanted replicas as vote.
        voters: BTreeSet<u64>,
    },
    /// The group exists: it had a leader.
    ShardFormed {
        /// The shard.
        shard: u16,
        /// Its generation.
        generation: u32,
    },
    /// Where the replicas are. One that is older than what is known changes nothing.
    ShardReplicas {
        /// The shard.
        shard: u16,
        /// Its generation.
        generation: u32,
        /// Index of the committed membership in the group's log.
        index: u64,
        /// Who votes.
        voters: BTreeSet<u64>,
        /// Who follows without a vote.
        learners: BTreeSet<u64>,
    },
    /// Slots belong to other shards.
    MoveSlots {
        /// The epoch of the new map: one more than that of the present one.
        epoch: u64,
        /// All of the new map, in the order of slots.
        runs: Vec<SlotRun>,
    },
    /// Where a member runs: what may fail as a whole.
    Zone {
        /// Its Raft id.
        id: u64,
        /// The zone, at most [`crate::shards::MAX_ZONE`] bytes; empty: not known.
        zone: String,
    },
    /// The shard's group has lost its quorum for good and begins anew, without what it held.
    RenewShard {
        /// The shard.
        shard: u16,
        /// The generation that is given up.
        generation: u32,
    },
    /// Others rely on it that the member serves nobody: clients of it are about to be served elsewhere. When it has a lease again it is told, and parts from the
    /// clients that it had. From [`crate::FENCES_LEVEL`] on.
    Fenced {
        /// Its Raft id.
        id: u64,
    },
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Refusal {
    /// The group has no cluster yet.
    #[error("the cluster has not been initialised")]
    NotInitialised,
    /// Another cluster was initialised here.
    #[error("the group already holds cluster {cluster_id:032x}")]
    AlreadyInitialised {
        /// That cluster.
        cluster_id: u128,
    },
    /// A start with this boot number, or a later one, is known: the directory was copied back or is used twice.
    #[error("boot {boot} of the data directory is stale: boot {recorded} was seen")]
    Stale {
        /// What was asked.
        boot: u64,
        /// What is recorded.
        recorded: u64,
    },
    /// No such member, or another incarnation has that id.
    #[error("node {id} is not a member")]
    NotMember {
        /// The Raft id asked for.
        id: u64,
    },
    /// Another data directory took over the name.
    #[error("node {id} was replaced by another data directory of the same name")]
    Replaced {
        /// The id that was replaced.
        id: u64,
    },
    /// The data directory belonged to a member that left for good.
    #[error("this data directory was node {id}, which left the cluster; start with an empty directory")]
    Left {
        /// The id it had.
        id: u64,
    },
    /// A text or a number in the command cannot be.
    #[error("invalid command: {0}")]
    Invalid(String),
    /// A member does not know the feature level.
    #[error("node {id} knows feature level {known} only")]
    FeatureUnknown {
        /// That member.
        id: u64,
        /// What it knows.
        known: u32,
    },
    /// The binary that joins does not know features that are switched on.
    #[error("the cluster uses feature level {needed}, this binary knows {known}")]
    TooOld {
        /// What is switched on.
        needed: u32,
        /// What the node knows.
        known: u32,
    },
    /// There is no room for another member.
    #[error("the cluster is full")]
    Full,
    /// The feature is not switched on.
    #[error("this needs feature level {needed}, the cluster is at {level}")]
    FeatureOff {
        /// What the command needs.
        needed: u32,
        /// What is switched on.
        level: u32,
    },
    /// There is no room for another ban.
    #[error("the list of bans is full")]
    BansFull,
    /// Nobody is banned by that.
    #[error("there is no such ban")]
    NoSuchBan,
    /// There are shards already, and their number stays.
    #[error("the cluster has {count} shards with replication {replication}")]
    ShardsExist {
        /// How many.
        count: u16,
        /// Their replicas.
        replication: u8,
    },
    /// The shards have not been created.
    #[error("there are no shards yet")]
    NoShards,
    /// There is no shard of that number.
    #[error("there is no shard {shard}")]
    NoSuchShard {
        /// The number.
        shard: u16,
    },
    /// The shard's group has another generation.
    #[error("shard {shard} is in generation {current}, not {generation}")]
    Generation {
        /// The shard.
        shard: u16,
        /// What was asked.
        generation: u32,
        /// What is.
        current: u32,
    },
    /// Made for another epoch of the placement or of the slots.
    #[error("epoch {epoch} does not follow from the present epoch {current}")]
    Epoch {
        /// What was asked.
        epoch: u64,
        /// What is.
        current: u64,
    },
    /// Other voters form the shard's group.
    #[error("shard {shard} is formed by others")]
    ShardForms {
        /// The shard.
        shard: u16,
    },
}

/// The answer of the state machine to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaResponse {
    /// Done, or already so.
    Done,
    /// The member's Raft id.
    Joined {
        /// It.
        id: u64,
        /// The cluster's identity.
        cluster_id: u128,
    },
    /// Nothing changed, and why.
    Refused(Refusal),
    /// Done, but for bans for which there was no room.
    BansLeftOut {
        /// How many.
        count: u32,
    },
    /// Noted that others rely on it.
    Fenced {
        /// The number of it: how often they have.
        count: u64,
    },
}

/// Bytes that are no command or answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// Nothing there.
    #[error("empty")]
    Empty,
    /// A version of another binary.
    #[error("format version {0} is not known")]
    Version(u8),
    /// Not the encoding of that version.
    #[error("malformed: {0}")]
    Malformed(String),
}

impl MetaCommand {
    /// Encodes the command for the log.
    pub fn encode(&self) -> Vec<u8> {
        encode(COMMAND_VERSION, self)
    }

    /// Reads an entry of the log.
    ///
    /// # Errors
    /// When the bytes are of another version or malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        decode(COMMAND_VERSION, bytes)
    }
}

impl MetaResponse {
    /// Encodes the answer.
    pub fn encode(&self) -> Vec<u8> {
        encode(RESPONSE_VERSION, self)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// When the bytes are of another version or malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        decode(RESPONSE_VERSION, bytes)
    }

    /// The answer as a result.
    ///
    /// # Errors
    /// The refusal, if it is one.
    pub fn into_result(self) -> Result<Self, Refusal> {
        match self {
            Self::Refused(refusal) => Err(refusal),
            other => Ok(other),
        }
    }
}

pub(crate) fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![version])
        .expect("a vector takes any number of bytes and the types have a fixed shape")
}

pub(crate) fn decode<T: for<'a> Deserialize<'a>>(version: u8, bytes: &[u8]) -> Result<T, CommandError> {
    let (&first, rest) = bytes.split_first().ok_or(CommandError::Empty)?;
    if first != version {
        return Err(CommandError::Version(first));
    }
    let (value, rest) = postcard::take_from_bytes(rest).map_err(|e| CommandError::Malformed(e.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(CommandError::Malformed(format!("{} bytes too many", rest.len()))) }
}
