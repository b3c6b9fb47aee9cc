//! A node behind the control API that answers from a script.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::http::api::*;
use crate::http::control::{Answer, ControlOps};
use crate::http::error::{ApiError, Reason};
use crate::http::health::Readiness;

/// A node that answers from a script and remembers what it was asked.
#[derive(Default)]
pub(super) struct Fake {
    asked: Mutex<Vec<String>>,
    pub(super) hang: AtomicBool,
}

impl Fake {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

pub(super) fn identity() -> ClusterIdentity {
    ClusterIdentity { id: "0f".repeat(16), name: "demo".to_owned() }
}

impl ControlOps for Fake {
    fn bans(&self) -> Answer<'_, Bans> {
        Box::pin(async { Ok(Bans { bans: Vec::new() }) })
    }

    fn ban(&self, request: BanRequest, by: String) -> Answer<'_, Ban> {
        self.note(format!("ban {:?} {} by {by}", request.kind, request.value));
        let BanRequest { kind, value, reason, until_ms, .. } = request;
        Box::pin(async move { Ok(Ban { kind, value, reason, by, flapping: false, since_ms: 1, until_ms }) })
    }

    fn unban(&self, request: UnbanRequest) -> Answer<'_, Unbanned> {
        self.note(format!("unban {:?} {}", request.kind, request.value));
        Box::pin(async move { Ok(Unbanned { kind: request.kind, value: request.value }) })
    }

    fn status(&self) -> Answer<'_, NodeStatus> {
        Box::pin(async {
            if self.hang.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(NodeStatus {
                node: "raftmq-0".to_owned(),
                version: "0.1.0".to_owned(),
                raft_id: Some(7),
                incarnation: Some("ab".repeat(16)),
                boot: Some(3),
                cluster: Some(identity()),
                uptime_seconds: 12,
                clients: 5,
                memory: None,
                relayed: Vec::new(),
                overload: None,
                lease_remaining_ms: Some(1500),
                ready: false,
                failing: Readiness::default().failing(),
            })
        })
    }

    fn members(&self) -> Answer<'_, Members> {
        Box::pin(async {
            let member = Member {
                id: 7,
                name: "raftmq-0".to_owned(),
                incarnation: "ab".repeat(16),
                boot: 3,
                version: "0.1.0".to_owned(),
                links_address: "127.0.0.1:9883".to_owned(),
                control_address: None,
                zone: None,
                state: MemberState::Active,
                up: true,
                role: MemberRole::Voter,
                leads: vec!["meta".to_owned()],
            };
            Ok(Members { cluster: Some(identity()), members: vec![member] })
        })
    }

    fn leaders(&self) -> Answer<'_, Leaders> {
        Box::pin(async {
            Ok(Leaders { groups: vec![GroupLeader { group: "meta".to_owned(), term: 4, leader: None, name: None }] })
        })
    }

    fn groups(&self) -> Answer<'_, Groups> {
        Box::pin(async { Err(ApiError::new(Reason::Unavailable, "no member yet")) })
    }

    fn join_info(&self) -> Answer<'_, JoinInfo> {
        Box::pin(async {
            Ok(JoinInfo {
                phase: JoinPhase::WaitingForBootstrap,
                message: "nobody gave the permission".to_owned(),
                cluster: None,
                raft_id: None,
                peers: Vec::new(),
            })
        })
    }

    fn bootstrap(&self, request: BootstrapRequest) -> Answer<'_, Bootstrapped> {
        self.note(format!(
            "bootstrap {} of {}",
            request.cluster.as_deref().unwrap_or("any"),
            request.members.join("+")
        ));
        Box::pin(async { Ok(Bootstrapped { cluster: identity(), created: true }) })
    }

    fn leave(&self, request: LeaveRequest) -> Answer<'_, Left> {
        self.note(format!("leave {}", request.node));
        Box::pin(async move {
            if request.node == "raftmq-9" {
                return Err(ApiError::new(Reason::NotFound, "no such member"));
            }
            Err(ApiError::new(Reason::NoQuorum, "meta has no quorum"))
        })
    }

    fn transfer(&self, request: TransferRequest) -> Answer<'_, Transferred> {
        self.note(format!("transfer {} to {}", request.group, request.to));
        Box::pin(async { Err(ApiError::not_leader("meta", Some("raftmq-2".to_owned()))) })
    }

    fn reload(&self) -> Answer<'_, Reloaded> {
        self.note("reload".to_owned());
        Box::pin(async { Err(ApiError::invalid("zones.a.maxQos", "b.yaml:3:5: zones.a.maxQos: 7 is out of range")) })
    }

    fn loss(&self, query: LossQuery) -> Answer<'_, Loss> {
        self.note(format!("loss {}", query.node));
        Box::pin(async {
            Ok(Loss {
                node: Some(1),
                nothing: false,
                reasons: vec!["group meta loses its quorum".to_owned()],
                groups: Vec::new(),
            })
        })
    }
}
