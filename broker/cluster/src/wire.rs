//! What nodes say to each other besides Raft frames. Every message begins with a format version.

use std::collections::BTreeSet;

use bytes::Bytes;
use raftmq_meta::{Denial, Grant, LeaseRequest, LossReport, MetaResponse, NodeAddresses};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::control::ControlError;
use crate::identity::{BootVerdict, KnownMembers, Plan};
use crate::shards::{
    Change, Follow, Followed, InGroup, Mark, News, NewsRequest, Parts, PartsRequest, Report, RetainedAnswer,
    RetainedRequest, SessionPart, SessionRequest, ShardReadError,
};

const FORMAT: u8 = 1;

/// Kinds of requests.
pub(crate) mod kind {
    /// A frame of a Raft group.
    pub(crate) const RAFT: u16 = 1;
    /// A [`super::Request`].
    pub(crate) const CALL: u16 = 2;
    /// One way: a forwarded publish.
    pub(crate) const FORWARD: u16 = 16;
    /// One way: a forwarded publish that says which life of the node it is meant for, see [`crate::lives`].
    pub(crate) const FORWARD_TO_LIFE: u16 = 17;
}

/// What one node asks another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Who are you, and do you know a cluster?
    Probe,
    /// May this boot take part?
    Boot { incarnation: u128, boot: u64, nonce: u64, cluster_id: u128 },
    /// Note on your disk that you will be a member of this cluster and no other.
    Agree(Plan),
    /// All have agreed: take part.
    Begin { cluster_id: u128 },
    /// To the node with the lowest name: form the cluster.
    Bootstrap { members: Vec<String> },
    /// To any member: make me one.
    Join {
        name: String,
        incarnation: u128,
        boot: u64,
        nonce: u64,
        addresses: NodeAddresses,
        version: String,
        feature_level: u32,
    },
    /// To the meta leader.
    Lease(LeaseRequest),
    /// To the meta leader: how far the node has applied routes.
    Applied { node: u64, boot: u64, term: u64, applied: u64 },
    /// From the meta leader: how far all serving nodes have.
    Watermark { term: u64, index: u64 },
    /// To the leader of a group: a linearizable read of its commit index.
    ReadIndex { group: u32 },
    /// What has become of this data directory?
    Fate { incarnation: u128 },
    /// To the leader of a group: hand it on.
    Transfer { group: u32, to: Option<u64> },
    /// To the meta leader: what if that node stopped?
    Loss { node: u64 },
    /// To a node with a replica of a shard: propose this there.
    Shard { shard: u16, generation: u32, command: Vec<u8> },
    /// To the meta leader: the shards that the node leads.
    Shards(Report),
    /// From the meta leader, to a node that is to have a replica: begin the group.
    InitialiseShard { shard: u16, generation: u32, voters: BTreeSet<u64> },
    /// From the meta leader, to the leader of a shard.
    ChangeShard(Change),
    /// To the node that has a connection of a client who has connected elsewhere: close it.
    Kick { boot: u64, namespace: u32, id: String, epoch: u64 },
    /// To the leader of a shard: a linearizable read of its commit index.
    ReadShardIndex { shard: u16, generation: u32 },
    /// To a node with a replica of a shard.
    Retained(RetainedRequest),
    /// To a node with a replica of a shard: whether a client is a member of a group, and what came from the shard of its session.
    InGroup { shard: u16, generation: u32, namespace: u32, group: String, member: String, source: u16 },
    /// To a node with a replica of a shard: its hashes.
    ShardMarks { shard: u16, generation: u32 },
    /// To a node with a replica of a shard, from one that has none and serves its clients. This and those below from level 5 on.
    Follow(Follow),
    /// To a node at which shards are followed: what is new there; waits for a while until there is something.
    News(NewsRequest),
    /// To a node with a replica of a shard: parts of queues.
    Parts(PartsRequest),
    /// To a node with a replica of a shard: a session that is resumed.
    Session(SessionRequest),
    /// To the meta leader: whether a boot of a node serves none of its clients any more. From level 6 on.
    Fenced { node: u64, boot: u64 },
    /// How many connections between other nodes the node passes on.
    Relays,
}

/// The answers, in the order of the requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Response {
    Probe(Probe),
    /// None when the node belongs to another cluster. The answering node, what it says, and the voters that it knows.
    Boot(Option<(u64, BootVerdict, Fate, BTreeSet<u64>)>),
    Agree(Result<(), String>),
    Begin(Result<(), String>),
    Bootstrap(Result<u128, ControlError>),
    /// The state machine's answer, with members to remember; or why there is none now.
    Join(Result<(MetaResponse, KnownMembers), String>),
    Lease(Result<Grant, LeaseError>),
    Applied {
        term: u64,
        watermark: Option<u64>,
    },
    Watermark,
    ReadIndex(Option<u64>),
    Fate(Fate),
    Transfer(Result<(), ControlError>),
    Loss(Result<LossReport, ControlError>),
    /// The state machine's answer.
    Shard(Result<Vec<u8>, ShardError>),
    Shards,
    InitialiseShard,
    /// Whether it was begun.
    ChangeShard(bool),
    /// Whether it is closed.
    Kick(bool),
    Retained(Result<RetainedAnswer, ShardReadError>),
    InGroup(Option<InGroup>),
    ShardMarks(Vec<Mark>),
    /// None: it is not followed, or the replica is behind.
    Follow(Option<Followed>),
    /// None: there is no such session.
    News(Option<Vec<News>>),
    Parts(Result<Parts, ShardReadError>),
    /// None: there is no replica, or it is behind.
    Session(Option<SessionPart>),
    /// Whether others may rely on it.
    Fenced(bool),
    /// A lease, and how often others relied on the node's being fenced: where that is not never.
    LeaseSince(Grant, u64),
    Relays(u64),
}

/// Why a shard's replica has no answer.
#[derive(Debug, Clone, Serialize, Deserialize, Error)]
pub(crate) enum ShardError {
    #[error("the node has no replica of the shard")]
    NoReplica,
    #[error("the shard did not take it: {0}")]
    NotTaken(String),
}

/// Why there is no lease.
#[derive(Debug, Clone, Serialize, Deserialize, Error)]
pub(crate) enum LeaseError {
    #[error(transparent)]
    Denied(Denial),
    #[error("the node does not lead the meta group")]
    NotLeader,
}

/// What a node says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) name: String,
    pub(crate) incarnation: u128,
    pub(crate) boot: u64,
    pub(crate) nonce: u64,
    pub(crate) addresses: NodeAddresses,
    pub(crate) version: String,
    pub(crate) feature_level: u32,
    /// The cluster that its directory is part of.
    pub(crate) member_of: Option<u128>,
    /// Whether its groups run and a cluster exists in them.
    pub(crate) running: bool,
    /// Addresses of other members that it knows.
    pub(crate) peers: Vec<String>,
}

/// What has become of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fate {
    /// The node that answers does not know.
    Unknown,
    Active,
    Leaving,
    Replaced {
        id: u64,
    },
    Left {
        id: u64,
    },
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    postcard::to_extend(message, vec![FORMAT])
        .expect("a vector takes any number of bytes and the types have a fixed shape")
        .into()
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|e| format!("malformed message: {e}")),
        Some((other, _)) => Err(format!("message format {other} is not known")),
        None => Err("empty message".to_owned()),
    }
}
