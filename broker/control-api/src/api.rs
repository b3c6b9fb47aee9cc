//! The control API's requests and answers, `/control/v1`, as JSON with camelCase names.
//!
//! Raft ids, terms and indexes are numbers; cluster ids and incarnations are 32 hexadecimal digits. A field may be
//! added to an answer at any time, so readers ignore those they do not know; a request with an unknown field is
//! refused.

use serde::{Deserialize, Serialize};

/// Paths of the API.
pub mod path {
    /// GET: [`super::NodeStatus`].
    pub const STATUS: &str = "/control/v1/status";
    /// GET: [`super::Members`].
    pub const MEMBERS: &str = "/control/v1/members";
    /// GET: [`super::Leaders`].
    pub const LEADER: &str = "/control/v1/leader";
    /// GET: [`super::Groups`].
    pub const GROUPS: &str = "/control/v1/groups";
    /// POST [`super::BootstrapRequest`]: [`super::Bootstrapped`].
    pub const BOOTSTRAP: &str = "/control/v1/bootstrap";
    /// GET: [`super::JoinInfo`].
    pub const JOIN: &str = "/control/v1/join";
    /// POST [`super::LeaveRequest`]: [`super::Left`].
    pub const LEAVE: &str = "/control/v1/leave";
    /// POST [`super::TransferRequest`]: [`super::Transferred`].
    pub const TRANSFER: &str = "/control/v1/transfer";
    /// GET with [`super::LossQuery`]: [`super::Loss`].
    pub const LOSS: &str = "/control/v1/loss";
    /// GET, PUT [`super::LogLevel`]: [`super::LogLevel`].
    pub const LOG: &str = "/control/v1/log";
    /// POST: [`super::Reloaded`].
    pub const RELOAD: &str = "/control/v1/reload";
    /// GET: [`super::Bans`]. POST [`super::BanRequest`]: [`super::Ban`]. DELETE [`super::UnbanRequest`]: [`super::Unbanned`].
    pub const BANS: &str = "/control/v1/bans";
}

/// A cluster's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterIdentity {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// How the node that answers is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// Version of its binary.
    pub version: String,
    /// Its Raft id, once it is a member.
    pub raft_id: Option<u64>,
    /// Its data directory's identity, 32 hexadecimal digits; `None` for a standalone node.
    pub incarnation: Option<String>,
    /// How often this data directory was started.
    pub boot: Option<u64>,
    /// Its cluster, once it belongs to one.
    pub cluster: Option<ClusterIdentity>,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// Clients connected to it.
    pub clients: u64,
    /// What it keeps in its memory alone; `None` from a version that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// What it refuses because it has too much to do; `None` from a version that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overload: Option<Overload>,
    /// Nodes that it does not reach but by way of another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relayed: Vec<RelayedPeer>,
    /// What is left of its serving lease; `None` without one (or standalone).
    pub lease_remaining_ms: Option<u64>,
    /// Whether it is ready, as `/readyz` says.
    pub ready: bool,
    /// What keeps it from being ready.
    pub failing: Vec<FailingCondition>,
}

/// A node that another one does not reach by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayedPeer {
    /// Its name, or its address where that is not known.
    pub node: String,
    /// The name of the node that passes on what the two say to each other.
    pub by: String,
}

/// What a node refuses because it has too much to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overload {
    /// `normal`; `refuse`: no new connection is taken; `shed`: nor messages with QoS 0.
    pub level: String,
    /// What has passed its mark: `memory`, `loopDelay`.
    pub reasons: Vec<String>,
    /// Resident memory of the process.
    pub memory_bytes: u64,
    /// What it may have, if there is a limit.
    pub memory_limit_bytes: Option<u64>,
    /// How late the latest of the workers' loops is.
    pub loop_delay_ms: u64,
}

/// What a node keeps in its memory alone: it ends with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Sessions, of clients that are connected and of others.
    pub sessions: u64,
    /// Messages in these sessions that were not acknowledged yet, some seconds ago; `None` where they are not counted, which is
    /// where `mqtt.sys.mosquitto` is off.
    pub queued_messages: Option<u64>,
    /// Retained messages of clients.
    pub retained_messages: u64,
    /// Messages that wait for their time.
    pub delayed_messages: u64,
    /// Wills that wait for their delay.
    pub waiting_wills: u64,
}

impl Memory {
    /// Whether nothing would end with the process.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { sessions, queued_messages: _, retained_messages, delayed_messages, waiting_wills } = *self;
        // Without a session nothing is queued.
        [sessions, retained_messages, delayed_messages, waiting_wills].iter().all(|count| *count == 0)
    }
}

/// A condition of `/readyz` that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingCondition {
    /// member, caught_up, lease or listeners.
    pub condition: String,
    /// Why it does not hold.
    pub reason: String,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyBody {
    /// Whether all conditions hold.
    pub ready: bool,
    /// Those that do not.
    pub failing: Vec<FailingCondition>,
}

/// The members of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// The cluster.
    pub cluster: Option<ClusterIdentity>,
    /// By Raft id.
    pub members: Vec<Member>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Raft id.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Its data directory's identity, 32 hexadecimal digits.
    pub incarnation: String,
    /// How often that directory was started.
    pub boot: u64,
    /// Version of its binary.
    pub version: String,
    /// Where peers reach it, `host:port`.
    pub links_address: String,
    /// Where its control API is, `host:port`, if it told.
    pub control_address: Option<String>,
    /// What fails together with it, if it told; none from versions that do not say it.
    #[serde(default)]
    pub zone: Option<String>,
    /// Whether it stays.
    pub state: MemberState,
    /// Whether it is held to be alive.
    pub up: bool,
    /// Its role in the groups.
    pub role: MemberRole,
    /// Groups that it leads, by name.
    pub leads: Vec<String>,
}

/// Whether a member stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MemberState {
    /// It takes part.
    Active,
    /// It was asked to leave.
    Leaving,
    /// Another data directory took its name.
    Replaced,
}

/// A member's role in the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MemberRole {
    /// Votes and leads the meta group.
    Leader,
    /// Votes in every group.
    Voter,
    /// Gets the logs without a vote.
    Learner,
    /// On its way from one to the other.
    Changing,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaders {
    /// One for each group.
    pub groups: Vec<GroupLeader>,
}

/// Who leads a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupLeader {
    /// The group's name.
    pub group: String,
    /// Its current term.
    pub term: u64,
    /// Raft id of the leader; `None` while there is none that this node knows.
    pub leader: Option<u64>,
    /// The leader's name.
    pub name: Option<String>,
}

/// The Raft groups as the answering node sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Groups {
    /// By number.
    pub groups: Vec<Group>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// Its generation.
    pub generation: u32,
    /// Its current term.
    pub term: u64,
    /// Raft id of its leader.
    pub leader: Option<u64>,
    /// This node's role: leader, follower, candidate, learner, stopped.
    pub role: String,
    /// Whether the leader has heard a quorum lately; `None` where this node cannot know.
    pub has_quorum: Option<bool>,
    /// Index of the last entry here.
    pub last_log: Option<u64>,
    /// Committed up to here.
    pub committed: Option<u64>,
    /// Applied here up to here.
    pub applied: Option<u64>,
    /// Covered by the last snapshot.
    pub snapshot: Option<u64>,
    /// Purged up to here.
    pub purged: Option<u64>,
    /// Raft ids of the voters.
    pub voters: Vec<u64>,
    /// Raft ids of the learners.
    pub learners: Vec<u64>,
    /// On the leader: the other members.
    pub followers: Vec<Follower>,
    /// Why the replica here stopped.
    pub failure: Option<String>,
}

/// What a leader knows of another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Follower {
    /// Its Raft id.
    pub id: u64,
    /// Its log is known to be the same up to here.
    pub matched: Option<u64>,
    /// Milliseconds since the leader sent what it answered last.
    pub acked_ms_ago: Option<u64>,
}

/// The one permission to form a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootstrapRequest {
    /// The cluster's name, as in every node's configuration. Absent: the one in the asked node's; a caller that knows
    /// the name gives it, so that a call to a wrong address is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Names of all initial members, the node asked among them. They find each other by discovery.
    pub members: Vec<String>,
}

/// A cluster exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrapped {
    /// Which.
    pub cluster: ClusterIdentity,
    /// Whether this call made it; false if it was there, which is as good.
    pub created: bool,
}

/// How far a node is on its way into a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinInfo {
    /// Where it is.
    pub phase: JoinPhase,
    /// What it waits for, for people.
    pub message: String,
    /// The cluster that it found.
    pub cluster: Option<ClusterIdentity>,
    /// Its Raft id there.
    pub raft_id: Option<u64>,
    /// Whom it asks.
    pub peers: Vec<JoinPeer>,
}

/// Where a node is on its way into a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JoinPhase {
    /// It needs no cluster.
    Standalone,
    /// It looks for peers that know a cluster.
    Searching,
    /// There is no cluster, and nobody has given the permission to form one.
    WaitingForBootstrap,
    /// It is being taken in, or waits for its boot's permission.
    Joining,
    /// It is a member.
    Member,
    /// It was told to leave, and has.
    Left,
    /// It must not take part: [`JoinInfo::message`] says why.
    Refused,
}

/// A peer that a joining node asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinPeer {
    /// `host:port`.
    pub address: String,
    /// Its name, once it answered.
    pub name: Option<String>,
    /// Whether it is connected.
    pub connected: bool,
    /// Why not.
    pub error: Option<String>,
}

/// A member shall leave for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaveRequest {
    /// Its name, or its Raft id in digits where no member has such a name.
    pub node: String,
}

/// The member's leave is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// Its Raft id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Whether it is out of every group already; otherwise that goes on.
    pub done: bool,
}

/// Another member shall lead a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransferRequest {
    /// The group's name.
    pub group: String,
    /// The new leader's name, or its Raft id in digits where no member has such a name.
    pub to: String,
}

/// Another member leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transferred {
    /// The group's name.
    pub group: String,
    /// Raft id of its leader now.
    pub leader: u64,
    /// The term of that leader.
    pub term: u64,
}

/// Whose stop is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LossQuery {
    /// Its name, or its Raft id in digits where no member has such a name.
    pub node: String,
}

/// What the cluster would lose if the node stopped now: quorums. What the node keeps in its memory alone is not in it; the node
/// itself says that, in [`NodeStatus::memory`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// Its Raft id, if it is a member.
    pub node: Option<u64>,
    /// Whether every group has its quorum and keeps it.
    pub nothing: bool,
    /// What would be lost of it, as sentences.
    pub reasons: Vec<String>,
    /// Each group after the stop.
    pub groups: Vec<GroupLoss>,
}

/// A group after the stop of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupLoss {
    /// The group's name.
    pub group: String,
    /// Whether the node votes in it.
    pub votes: bool,
    /// Voters alive after the stop.
    pub live_after: u64,
    /// Voters that a decision needs.
    pub quorum: u64,
    /// Whether the group has its quorum now.
    pub has_quorum: bool,
    /// Whether the stop takes it away.
    pub loses_quorum: bool,
}

/// What came of reading the settings again. Settings are named by their paths, as `zones.slow.maxQos`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// Those that changed.
    pub changed: Vec<String>,
    /// Those that are other than the running ones, and need a new start of the node.
    pub needs_restart: Vec<String>,
}

/// The filter of the node's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogLevel {
    /// A level, or levels of modules: `info,raftmq_raft=debug`.
    pub filter: String,
}

/// By what a ban knows its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BanKind {
    /// The client identifier.
    ClientId,
    /// The user name.
    Username,
    /// The address that the client comes from: an IP address, or a range in CIDR form.
    Address,
}

/// Clients that may not connect, to any node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ban {
    /// What `value` is.
    pub kind: BanKind,
    /// Client identifier, user name, address or range of addresses.
    pub value: String,
    /// Why, for people.
    pub reason: String,
    /// Who said so: `client NAME` or `node NAME`, of the certificate; a node that found a client flapping.
    pub by: String,
    /// Whether a node found the client flapping.
    pub flapping: bool,
    /// When it was made, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When it ends; absent: when it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// All bans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bans {
    /// By kind, then value.
    pub bans: Vec<Ban>,
}

/// Clients shall not connect any more, and those that are there shall go. Replaces the ban of the same kind and value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BanRequest {
    /// What `value` is.
    pub kind: BanKind,
    /// Client identifier, user name, address or range of addresses.
    pub value: String,
    /// Why, for people; at most 256 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For so long, by the asked node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// Until then, in milliseconds since the Unix epoch; not together with `forMs`. Neither: until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// A ban shall end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnbanRequest {
    /// What `value` is.
    pub kind: BanKind,
    /// As in the list.
    pub value: String,
}

/// The ban has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unbanned {
    /// What `value` is.
    pub kind: BanKind,
    /// Whose it was.
    pub value: String,
}
