//! The control API's operations, carried out by this node's part in the cluster.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use raftmq_cluster::{Cluster, ControlError, GroupStatus, MemberRole as Part, Stage};
use raftmq_links::PeerStatus;
use raftmq_raft::Role;

use crate::bans::Bans as NodeBans;
use crate::http::api::{
    Ban, BanRequest, Bans, BootstrapRequest, Bootstrapped, ClusterIdentity, Follower, Group, GroupLeader, GroupLoss,
    Groups, JoinInfo, JoinPeer, JoinPhase, Leaders, LeaveRequest, Left, Loss, LossQuery, Member, MemberRole,
    MemberState, Members, Memory, NodeStatus, RelayedPeer, Reloaded, TransferRequest, Transferred, UnbanRequest,
    Unbanned,
};
use crate::http::control::{Answer, ControlOps};
use crate::http::error::{ApiError, Reason};
use crate::http::health::ReadinessSource;
use crate::overload::Overload;
use crate::reload::{ReloadError, Reloader};

mod ban_api;

/// What a node is asked by `raftmq ctl`, `raftmq up` and the operator.
pub(crate) struct NodeOps {
    /// The node's name.
    pub(crate) node: String,
    /// `None` for a standalone node.
    pub(crate) cluster: Option<Cluster>,
    /// The same conditions as `/readyz`.
    pub(crate) readiness: Arc<dyn ReadinessSource>,
    /// Who may not connect.
    pub(crate) bans: Arc<NodeBans>,
    /// What is refused for want of memory or time.
    pub(crate) overload: Arc<Overload>,
    /// How many clients are connected, and what the node keeps for them.
    pub(crate) clients: Arc<dyn Fn() -> (u64, Memory) + Send + Sync>,
    /// Reads the settings again.
    pub(crate) reloader: Arc<Reloader>,
    /// When the process started.
    pub(crate) started: Instant,
}

impl NodeOps {
    fn cluster(&self) -> Result<&Cluster, ApiError> {
        self.cluster.as_ref().ok_or_else(|| {
            ApiError::new(Reason::Conflict, "this is a standalone node: its configuration has no section cluster")
        })
    }

    fn identity(cluster: &Cluster) -> Option<ClusterIdentity> {
        let status = cluster.status();
        status.cluster_id.map(|id| ClusterIdentity { id: format!("{id:032x}"), name: status.cluster })
    }

    fn groups_now(cluster: &Cluster) -> Vec<Group> {
        cluster.status().groups.into_iter().map(|(name, status)| group(name, &status)).collect()
    }
}

impl ControlOps for NodeOps {
    fn status(&self) -> Answer<'_, NodeStatus> {
        let failing = self.readiness.readiness().failing();
        let status = self.cluster.as_ref().map(Cluster::status);
        let (clients, memory) = (self.clients)();
        let answer = NodeStatus {
            node: self.node.clone(),
            version: crate::VERSION.to_owned(),
            raft_id: status.as_ref().and_then(|status| status.raft_id),
            incarnation: status.as_ref().map(|status| format!("{:032x}", status.incarnation)),
            boot: status.as_ref().map(|status| status.boot),
            cluster: self.cluster.as_ref().and_then(Self::identity),
            uptime_seconds: self.started.elapsed().as_secs(),
            clients,
            memory: Some(memory),
            overload: Some(self.overload.answer()),
            relayed: status.iter().flat_map(|status| &status.peers).filter_map(relayed).collect(),
            lease_remaining_ms: status
                .as_ref()
                .filter(|status| !status.lease_left.is_zero())
                .map(|status| u64::try_from(status.lease_left.as_millis()).unwrap_or(u64::MAX)),
            ready: failing.is_empty(),
            failing,
        };
        async move { Ok(answer) }.boxed()
    }

    fn reload(&self) -> Answer<'_, Reloaded> {
        let reloader = Arc::clone(&self.reloader);
        async move {
            // It reads files.
            let done = tokio::task::spawn_blocking(move || reloader.reload()).await;
            let done = done.map_err(|error| ApiError::new(Reason::Internal, error.to_string()))?;
            done.map_err(|error| refused_settings(&error))
        }
        .boxed()
    }

    fn members(&self) -> Answer<'_, Members> {
        async move {
            let cluster = self.cluster()?;
            let groups = Self::groups_now(cluster);
            let members = cluster.control().members();
            Ok(Members {
                cluster: Self::identity(cluster),
                members: members
                    .into_iter()
                    .map(|member| Member {
                        id: member.id,
                        incarnation: member.incarnation,
                        boot: member.boot,
                        version: member.version,
                        links_address: member.link_address,
                        control_address: Some(member.control_address).filter(|address| !address.is_empty()),
                        zone: Some(member.zone).filter(|zone| !zone.is_empty()),
                        state: match member.status.as_str() {
                            "leaving" => MemberState::Leaving,
                            "replaced" => MemberState::Replaced,
                            _ => MemberState::Active,
                        },
                        up: member.up,
                        role: match member.role {
                            Part::Leader => MemberRole::Leader,
                            Part::Voter => MemberRole::Voter,
                            Part::Learner => MemberRole::Learner,
                            Part::None => MemberRole::Changing,
                        },
                        leads: groups
                            .iter()
                            .filter(|group| group.leader == Some(member.id))
                            .map(|group| group.name.clone())
                            .collect(),
                        name: member.name,
                    })
                    .collect(),
            })
        }
        .boxed()
    }

    fn leaders(&self) -> Answer<'_, Leaders> {
        async move {
            let groups = self.cluster()?.control().groups();
            Ok(Leaders {
                groups: groups
                    .into_iter()
                    .map(|group| GroupLeader {
                        group: group.name,
                        term: group.term,
                        leader: group.leader,
                        name: group.leader_name,
                    })
                    .collect(),
            })
        }
        .boxed()
    }

    fn groups(&self) -> Answer<'_, Groups> {
        async move {
            let cluster = self.cluster()?;
            let shards = cluster.shards().replicas();
            let shards = shards.into_iter().map(|replica| group(&replica.name(), &replica.group));
            Ok(Groups { groups: Self::groups_now(cluster).into_iter().chain(shards).collect() })
        }
        .boxed()
    }

    fn join_info(&self) -> Answer<'_, JoinInfo> {
        async move {
            let Some(cluster) = &self.cluster else {
                return Ok(JoinInfo {
                    phase: JoinPhase::Standalone,
                    message: "a standalone node needs no cluster".into(),
                    cluster: None,
                    raft_id: None,
                    peers: Vec::new(),
                });
            };
            let status = cluster.status();
            Ok(JoinInfo {
                phase: join_phase(&status.stage, &status.peers),
                message: status.detail,
                cluster: Self::identity(cluster),
                raft_id: status.raft_id,
                peers: status
                    .peers
                    .into_iter()
                    .map(|peer| JoinPeer {
                        connected: peer.is_connected(),
                        name: peer.hello.map(|hello| hello.node),
                        error: peer.last_error,
                        address: peer.address,
                    })
                    .collect(),
            })
        }
        .boxed()
    }

    fn bootstrap(&self, request: BootstrapRequest) -> Answer<'_, Bootstrapped> {
        async move {
            let cluster = self.cluster()?;
            let own = cluster.status().cluster;
            if request.cluster.is_some_and(|cluster| cluster != own) {
                return Err(ApiError::invalid("cluster", format!("this node belongs to the cluster {own:?}")));
            }
            let existed = cluster.status().cluster_id.is_some();
            let id = cluster.control().bootstrap(request.members).await.map_err(api_error)?;
            Ok(Bootstrapped { cluster: ClusterIdentity { id: format!("{id:032x}"), name: own }, created: !existed })
        }
        .boxed()
    }

    fn leave(&self, request: LeaveRequest) -> Answer<'_, Left> {
        async move {
            let control = self.cluster()?.control();
            let member = control.members().into_iter().find(|member| is_named(member.id, &member.name, &request.node));
            control.leave(&request.node).await.map_err(api_error)?;
            let id = member.as_ref().map_or(0, |member| member.id);
            let done = !control.members().iter().any(|member| member.id == id);
            Ok(Left { id, name: member.map_or(request.node, |member| member.name), done })
        }
        .boxed()
    }

    fn transfer(&self, request: TransferRequest) -> Answer<'_, Transferred> {
        async move {
            let control = self.cluster()?.control();
            control.transfer(&request.group, Some(&request.to)).await.map_err(api_error)?;
            let group = control.groups().into_iter().find(|group| group.name == request.group);
            Ok(Transferred {
                leader: group.as_ref().and_then(|group| group.leader).unwrap_or(0),
                term: group.map_or(0, |group| group.term),
                group: request.group,
            })
        }
        .boxed()
    }

    fn bans(&self) -> Answer<'_, Bans> {
        let bans = self.bans.list().iter().map(ban_api::shown).collect();
        async move { Ok(Bans { bans }) }.boxed()
    }

    fn ban(&self, request: BanRequest, by: String) -> Answer<'_, Ban> {
        async move {
            let ban = ban_api::read(request, by, crate::bans::unix_ms())?;
            let answer = ban_api::shown(&ban);
            self.bans.add(vec![ban]).await.map_err(api_error)?;
            Ok(answer)
        }
        .boxed()
    }

    fn unban(&self, request: UnbanRequest) -> Answer<'_, Unbanned> {
        async move {
            let target = ban_api::target(request.kind, &request.value)?;
            let value = target.value();
            self.bans.remove(target).await.map_err(api_error)?;
            Ok(Unbanned { kind: request.kind, value })
        }
        .boxed()
    }

    fn loss(&self, query: LossQuery) -> Answer<'_, Loss> {
        async move {
            let report = self.cluster()?.control().loss(&query.node).await.map_err(api_error)?;
            Ok(Loss {
                node: report.member.then_some(report.node),
                nothing: report.nothing,
                reasons: report.reasons,
                groups: report
                    .groups
                    .into_iter()
                    .map(|group| GroupLoss {
                        group: group.group,
                        votes: group.votes,
                        live_after: group.live_after as u64,
                        quorum: group.quorum as u64,
                        has_quorum: group.has_quorum,
                        loses_quorum: group.loses_quorum,
                    })
                    .collect(),
            })
        }
        .boxed()
    }
}

/// How far the node is on its way into a cluster.
fn join_phase(stage: &Stage, peers: &[PeerStatus]) -> JoinPhase {
    match stage {
        // Who knows no other node has none to reach: a cluster of one is formed like any other.
        Stage::WaitingForCluster if peers.is_empty() || peers.iter().any(PeerStatus::is_connected) => {
            JoinPhase::WaitingForBootstrap
        }
        Stage::WaitingForCluster => JoinPhase::Searching,
        Stage::AskingPermission | Stage::Joining => JoinPhase::Joining,
        Stage::Member | Stage::Leaving => JoinPhase::Member,
        Stage::Left => JoinPhase::Left,
        Stage::Failed => JoinPhase::Refused,
    }
}

/// How a peer is reached, where it is not straight.
fn relayed(peer: &PeerStatus) -> Option<RelayedPeer> {
    let node = peer.hello.as_ref().map_or(&peer.address, |hello| &hello.node);
    peer.via.as_ref().map(|by| RelayedPeer { node: node.clone(), by: by.clone() })
}

fn is_named(id: u64, name: &str, asked: &str) -> bool {
    name == asked || asked.parse() == Ok(id)
}

fn refused_settings(error: &ReloadError) -> ApiError {
    let reason = if matches!(error, ReloadError::NoFile) { Reason::Conflict } else { Reason::Invalid };
    let mut answer = ApiError::new(reason, error.to_string());
    if let ReloadError::Config(error) = error {
        answer.field = error.problems().first().map(|problem| problem.path.clone()).filter(|path| !path.is_empty());
    }
    answer
}

fn group(name: &str, status: &GroupStatus) -> Group {
    let leads = status.role == Role::Leader;
    Group {
        name: name.to_owned(),
        number: status.group.number,
        generation: status.group.generation,
        term: status.term,
        leader: status.leader,
        role: match status.role {
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
            Role::Stopped => "stopped",
        }
        .to_owned(),
        // Only the leader hears a quorum; it steps down in a second or two when it does not.
        has_quorum: leads.then(|| {
            status.voters.len() == 1
                || status.quorum_acked.is_some_and(|acked| acked.elapsed() < std::time::Duration::from_secs(2))
        }),
        last_log: status.last_log,
        committed: status.committed,
        applied: status.applied,
        snapshot: status.snapshot,
        purged: status.purged,
        voters: status.voters.iter().copied().collect(),
        learners: status.learners.iter().copied().collect(),
        followers: status
            .followers
            .iter()
            .map(|(id, follower)| Follower {
                id: *id,
                matched: follower.matched,
                acked_ms_ago: follower
                    .acked
                    .map(|acked| u64::try_from(acked.elapsed().as_millis()).unwrap_or(u64::MAX)),
            })
            .collect(),
        failure: status.failure.clone(),
    }
}

fn api_error(error: ControlError) -> ApiError {
    let (reason, message) = match error {
        ControlError::Invalid(message) => (Reason::Invalid, message),
        ControlError::Conflict(message) => (Reason::Conflict, message),
        ControlError::NotFound(message) => (Reason::NotFound, message),
        ControlError::Unavailable(message) => (Reason::Unavailable, message),
    };
    ApiError::new(reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_waits_for_its_birth_once_it_reaches_the_others_if_there_are_any() {
        let peer = |connected| PeerStatus {
            address: "b:9883".into(),
            hello: None,
            connected: [connected, false, false, false],
            via: None,
            rtt: None,
            queue_bytes: 0,
            last_error: None,
            refused: false,
        };
        let phase = |peers: &[PeerStatus]| join_phase(&Stage::WaitingForCluster, peers);
        assert_eq!(phase(&[peer(false), peer(true)]), JoinPhase::WaitingForBootstrap);
        assert_eq!(phase(&[peer(false)]), JoinPhase::Searching);
        assert_eq!(phase(&[]), JoinPhase::WaitingForBootstrap);
        assert_eq!(join_phase(&Stage::Member, &[]), JoinPhase::Member);
    }
}
