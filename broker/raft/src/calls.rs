//! What other nodes ask of the groups.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteResponse};
use openraft::vote::RaftLeaderId;
use raftmq_storage::GroupId;
use tokio::time::{Instant, timeout_at};

use crate::NodeId;
use crate::bundle;
use crate::codec::{CodecError, Reader};
use crate::frame::{self, BundleAnswer, Header, Kind, Refusal};
use crate::group::Group;
use crate::groups::Groups;
use crate::types::Types;

/// Counts of incoming frames since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RpcCounters {
    /// Frames that were carried out.
    pub handled: u64,
    /// Frames of another cluster.
    pub refused_cluster: u64,
    /// Frames for another node.
    pub refused_addressee: u64,
    /// Frames for a group that does not run here.
    pub refused_group: u64,
    /// Frames of another generation of a group.
    pub refused_generation: u64,
    /// Frames that make no sense.
    pub malformed: u64,
    /// Frames that this node could not carry out: full disk, too many snapshots, a stopped group.
    pub failed: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    handled: AtomicU64,
    cluster: AtomicU64,
    addressee: AtomicU64,
    group: AtomicU64,
    generation: AtomicU64,
    malformed: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    fn refused(&self, refusal: Refusal, reason: &str) {
        let counter = match refusal {
            Refusal::Malformed => &self.malformed,
            Refusal::Cluster => &self.cluster,
            Refusal::Addressee => &self.addressee,
            Refusal::Group => &self.group,
            Refusal::Generation => &self.generation,
            Refusal::Busy | Refusal::Stopped | Refusal::Snapshot => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(target: "raftmq::rpc", ?refusal, reason, "a frame was refused");
    }
}

type Refused = (Refusal, String);

impl Groups {
    /// Counts of incoming frames.
    pub fn counters(&self) -> RpcCounters {
        let counters = &self.inner.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RpcCounters {
            handled: get(&counters.handled),
            refused_cluster: get(&counters.cluster),
            refused_addressee: get(&counters.addressee),
            refused_group: get(&counters.group),
            refused_generation: get(&counters.generation),
            malformed: get(&counters.malformed),
            failed: get(&counters.failed),
        }
    }

    /// Carries out a frame of another node and gives the answer for it. Whatever is in the frame, there is an answer.
    pub async fn handle(&self, frame: Bytes) -> Bytes {
        let counters = &self.inner.counters;
        match self.carry_out(frame).await {
            Ok(answer) => {
                counters.handled.fetch_add(1, Ordering::Relaxed);
                answer
            }
            Err((refusal, reason)) => {
                counters.refused(refusal, &reason);
                frame::refuse(refusal, &reason)
            }
        }
    }

    async fn carry_out(&self, frame: Bytes) -> Result<Bytes, Refused> {
        let (header, body) = frame::parse_call(frame).map_err(malformed)?;
        self.check(&header)?;
        let group = || self.running_group(header.group);
        match header.kind {
            Kind::Vote | Kind::PreVote => vote(&group()?, &header, body).await,
            Kind::Append => {
                let request = frame::get_append_request(body).map_err(malformed)?;
                let response = self.append(&group()?, header.from, request).await?;
                Ok(frame::answer(|out| frame::put_append_response(out, &response)))
            }
            Kind::Bundle => self.bundle(&header, body).await,
            Kind::Snapshot => {
                let chunk = frame::get_chunk(body).map_err(malformed)?;
                let inner = group()?.inner;
                let response =
                    self.inner.incoming.chunk(inner.id, &inner.raft, &inner.snapshots, header.from, chunk).await?;
                Ok(frame::answer(|out| frame::put_chunk_response(out, response.as_ref())))
            }
            Kind::Transfer => {
                let request = frame::get_transfer_request(body).map_err(malformed)?;
                let response = group()?.inner.raft.handle_transfer_leader(request).await.map_err(stopped)?;
                Ok(frame::answer(|out| frame::put_transfer_response(out, &response)))
            }
            Kind::Propose => {
                let (deadline, command) = frame::get_propose(body).map_err(malformed)?;
                let proposed = group()?.propose_for(command, deadline).await;
                Ok(frame::answer(|out| frame::put_proposed(out, &proposed)))
            }
        }
    }

    /// Whether the frame is for this node, and of this cluster.
    fn check(&self, header: &Header) -> Result<(), Refused> {
        let sender = &self.inner.sender;
        if header.cluster != sender.cluster {
            return Err((Refusal::Cluster, format!("this is cluster {:032x}", sender.cluster)));
        }
        if header.to != sender.node {
            return Err((Refusal::Addressee, format!("this is node {}", sender.node)));
        }
        if header.from == sender.node {
            return Err((Refusal::Malformed, "a frame of this node itself".into()));
        }
        Ok(())
    }

    fn running_group(&self, id: GroupId) -> Result<Group, Refused> {
        let Some(group) = self.group(id.number) else {
            return Err((Refusal::Group, format!("group {} does not run here", id.number)));
        };
        if group.id() != id {
            return Err((Refusal::Generation, format!("this is group {}", group.id())));
        }
        Ok(group)
    }

    async fn append(
        &self,
        group: &Group,
        from: NodeId,
        request: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<Types>, Refused> {
        if !request.vote.is_committed() || *request.vote.leader_id().node_id() != from {
            return Err((Refusal::Malformed, "entries come from the leader of their vote".into()));
        }
        if !request.entries.is_empty() && !self.inner.sender.wal.accepting() {
            return Err((Refusal::Busy, "the disk is nearly full".into()));
        }
        group.inner.raft.append_entries(request).await.map_err(stopped)
    }

    /// Heartbeats of several groups: each is answered by itself, and the slow ones are not waited for.
    async fn bundle(&self, header: &Header, body: Reader) -> Result<Bytes, Refused> {
        let heartbeats = frame::get_bundle(body).map_err(malformed)?;
        let end = Instant::now() + bundle::patience(&self.inner.sender.options);
        let answers = heartbeats.into_iter().map(|(id, request)| async move {
            let answer = async { self.append(&self.running_group(id)?, header.from, request).await };
            match timeout_at(end, answer).await {
                Ok(Ok(response)) => BundleAnswer::Done(response),
                Ok(Err((refusal, reason))) => {
                    self.inner.counters.refused(refusal, &reason);
                    BundleAnswer::Refused(refusal, reason)
                }
                Err(_) => BundleAnswer::Late,
            }
        });
        let answers = join_all(answers).await;
        Ok(frame::answer(|out| frame::put_bundle_answers(out, &answers)))
    }
}

async fn vote(group: &Group, header: &Header, body: Reader) -> Result<Bytes, Refused> {
    let Header { kind, from, to, .. } = *header;
    let request = frame::get_vote_request(body).map_err(malformed)?;
    if *request.vote.leader_id().node_id() != from {
        return Err((Refusal::Malformed, "a node asks for its own votes only".into()));
    }
    let term = request.vote.leader_id().term();
    tracing::debug!(target: "raftmq::rpc", group = %group.id(), from, to, term, ?kind, "is asked for a vote");
    let floor = group.inner.floor;
    if request.last_log_id < floor {
        let ours = group.inner.raft.metrics().borrow_watched().vote;
        tracing::debug!(target: "raftmq::rpc", group = %group.id(), from, to, term, ?kind, "has less than was promised");
        let response = VoteResponse::new(ours, floor, false);
        return Ok(frame::answer(|out| frame::put_vote_response(out, &response)));
    }
    let response = match kind {
        Kind::PreVote => group.inner.raft.pre_vote(request).await,
        _ => group.inner.raft.vote(request).await,
    }
    .map_err(stopped)?;
    tracing::debug!(
        target: "raftmq::rpc", group = %group.id(), from, to, term, ?kind, granted = response.vote_granted,
        "answers about a vote"
    );
    Ok(frame::answer(|out| frame::put_vote_response(out, &response)))
}

fn malformed(error: CodecError) -> Refused {
    (Refusal::Malformed, error.to_string())
}

fn stopped(error: impl std::error::Error) -> Refused {
    (Refusal::Stopped, error.to_string())
}
