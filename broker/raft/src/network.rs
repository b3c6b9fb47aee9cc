//! The sending side of the calls between nodes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use openraft::OptionalSend;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;
use raftmq_storage::{GroupId, Wal};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::NodeId;
use crate::bundle::{self, Bundles, Urgent};
use crate::codec::{CodecError, Reader};
use crate::frame::{self, Answer, Chunk, Header, Kind, Refusal};
use crate::log::blocking;
use crate::options::RaftOptions;
use crate::snapshot::{SnapshotData, SnapshotDir, SnapshotFile};
use crate::transport::{Class, Transport, TransportError};
use crate::types::{Snapshot, SnapshotMeta, Types, Vote};

/// How often one chunk of a snapshot is sent before the transfer is given up.
const CHUNK_TRIES: u32 = 3;

/// How many heartbeats go alone after one was late.
const ALONE: u32 = 20;

/// What all groups of a node send with.
pub(crate) struct Sender {
    pub(crate) node: NodeId,
    pub(crate) cluster: u128,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) options: RaftOptions,
    pub(crate) wal: Wal,
    /// One permit for each snapshot that may be on its way.
    pub(crate) transfers: Semaphore,
    /// Heartbeats that wait for others.
    pub(crate) bundles: Bundles,
}

/// Why a call brought nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("node {to} refused: {reason}")]
    Refused { to: NodeId, refusal: Refusal, reason: String },
    /// Others that were sent with it did not wait for it.
    #[error("node {to} was late with its answer")]
    Late { to: NodeId },
    #[error("the answer makes no sense: {0}")]
    Answer(#[from] CodecError),
}

impl Sender {
    pub(crate) fn header(&self, kind: Kind, group: GroupId, to: NodeId) -> Header {
        Header { kind, cluster: self.cluster, group, from: self.node, to }
    }

    pub(crate) async fn call(
        &self,
        to: NodeId,
        frame: Bytes,
        class: Class,
        deadline: Duration,
    ) -> Result<Reader, CallError> {
        let answer = self.transport.call(to, frame, class, deadline).await?;
        match frame::parse_answer(answer)? {
            Answer::Done(body) => Ok(body),
            Answer::Refused(refusal, reason) => {
                tracing::debug!(target: "raftmq::rpc", to, ?refusal, reason, "refused");
                Err(CallError::Refused { to, refusal, reason })
            }
        }
    }

    /// Gives a command to the node that is taken for the leader.
    pub(crate) async fn propose(
        &self,
        group: GroupId,
        to: NodeId,
        command: &Bytes,
        deadline: Duration,
    ) -> Result<frame::Proposed, CallError> {
        let header = self.header(Kind::Propose, group, to);
        let frame = frame::call(&header, 8 + command.len(), |out| frame::put_propose(out, deadline, command));
        let body = self.call(to, frame, Class::Log, deadline).await?;
        Ok(frame::get_proposed(body)?)
    }
}

/// Makes the clients of one group.
pub(crate) struct Network {
    pub(crate) sender: Arc<Sender>,
    pub(crate) group: GroupId,
    pub(crate) snapshots: Arc<SnapshotDir>,
    /// Somebody waits for the group's heartbeats.
    pub(crate) urgent: Urgent,
}

impl Network {
    fn client(&self, target: NodeId, class: Class) -> Client {
        let (sender, snapshots, urgent) = (self.sender.clone(), self.snapshots.clone(), self.urgent.clone());
        Client { sender, group: self.group, snapshots, target, class, urgent, alone_until: None }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &()) -> Client {
        self.client(target, Class::Log)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &()) -> Client {
        self.client(target, Class::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, _node: &()) -> Client {
        self.client(target, Class::Snapshot)
    }
}

/// Calls one node for one group.
pub(crate) struct Client {
    sender: Arc<Sender>,
    group: GroupId,
    snapshots: Arc<SnapshotDir>,
    target: NodeId,
    /// How append calls travel.
    class: Class,
    urgent: Urgent,
    /// The other node was late for those that heartbeats were sent with.
    alone_until: Option<Instant>,
}

impl Client {
    fn header(&self, kind: Kind) -> Header {
        self.sender.header(kind, self.group, self.target)
    }

    /// Whether heartbeats wait for those of other groups now.
    fn bundles(&self) -> bool {
        self.class == Class::Heartbeat
            && self.sender.bundles.is_on()
            && !self.urgent.is()
            && self.alone_until.is_none_or(|until| until <= Instant::now())
            && self.sender.transport.takes_bundles(self.target)
    }

    fn timeout(&self, action: openraft::network::RPCTypes, timeout: Duration) -> Timeout<Types> {
        Timeout { action, id: self.sender.node, target: self.target, timeout }
    }

    fn rpc_error(&self, error: CallError, action: openraft::network::RPCTypes, deadline: Duration) -> RPCError<Types> {
        match error {
            CallError::Transport(TransportError::Timeout { .. }) | CallError::Late { .. } => {
                RPCError::Timeout(self.timeout(action, deadline))
            }
            // Trying again at once is of no use: openraft waits before it does.
            CallError::Transport(TransportError::Unreachable { .. }) | CallError::Refused { .. } => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
            CallError::Transport(TransportError::Failed { .. }) | CallError::Answer(_) => {
                RPCError::Network(NetworkError::new(&error))
            }
        }
    }

    async fn ask_for_vote(
        &self,
        kind: Kind,
        request: VoteRequest<Types>,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        if !self.sender.wal.accepting() {
            // A leader has to write; this node could not.
            return Err(RPCError::Unreachable(Unreachable::from_string("this node's disk is nearly full")));
        }
        let deadline = option.soft_ttl();
        let term = request.vote.leader_id().term();
        tracing::debug!(target: "raftmq::rpc", group = %self.group, from = self.sender.node, to = self.target, term, ?kind, "asks for a vote");
        let frame = frame::call(&self.header(kind), 64, |out| frame::put_vote_request(out, &request));
        // Votes are asked for by clients of the log's class, but must not wait behind entries.
        let call = async {
            let body = self.sender.call(self.target, frame, Class::Heartbeat, deadline).await?;
            Ok(frame::get_vote_response(body)?)
        };
        call.await.map_err(|e| self.rpc_error(e, openraft::network::RPCTypes::Vote, deadline))
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let options = &self.sender.options;
        let give_up = |e: &CallError| StreamingError::Unreachable(Unreachable::new(e));
        if file.len() > options.max_snapshot {
            let reason = format!("a snapshot of {} bytes is over the limit of {}", file.len(), options.max_snapshot);
            return Err(StreamingError::Unreachable(Unreachable::from_string(reason)));
        }
        let (transfer, total) = (rand::random::<u64>(), file.len());
        let file = Arc::new(file);
        let mut offset = 0;
        loop {
            let len = options.snapshot_chunk.min(usize::try_from(total - offset).unwrap_or(usize::MAX));
            let reading = file.clone();
            let data = blocking(move || reading.read_at(offset, len)).await.map_err(|e| {
                StreamingError::Unreachable(Unreachable::from_string(format!("the snapshot cannot be read: {e}")))
            })?;
            let end = offset + data.len() as u64;
            let chunk = Chunk { vote, meta: meta.clone(), transfer, offset, total, data };
            let frame = frame::call(&self.header(Kind::Snapshot), 256 + chunk.data.len(), |out: &mut BytesMut| {
                frame::put_chunk(out, &chunk);
            });
            // The last one is answered when the snapshot is installed.
            let deadline = if end == total { options.install_deadline } else { options.chunk_deadline };
            let mut tries = 0;
            let body = loop {
                tries += 1;
                match self.sender.call(self.target, frame.clone(), Class::Snapshot, deadline).await {
                    Ok(body) => break body,
                    Err(CallError::Transport(TransportError::Timeout { .. } | TransportError::Failed { .. }))
                        if tries < CHUNK_TRIES => {}
                    Err(e) => return Err(give_up(&e)),
                }
            };
            if let Some(response) = frame::get_chunk_response(body).map_err(|e| give_up(&e.into()))? {
                return Ok(response);
            }
            if end == total {
                return Err(give_up(&CallError::Answer(CodecError::Invalid {
                    what: "chunk's answer",
                    reason: "no vote after the last chunk".into(),
                })));
            }
            offset = end;
        }
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        if self.bundles() && request.entries.is_empty() {
            let answer = bundle::heartbeat(&self.sender, self.group, self.target, &request).await;
            if matches!(answer, Err(CallError::Late { .. })) {
                self.alone_until = Some(Instant::now() + self.sender.options.heartbeat * ALONE);
            }
            let rpc = openraft::network::RPCTypes::AppendEntries;
            return answer.map_err(|e| self.rpc_error(e, rpc, self.sender.options.heartbeat));
        }
        let options = &self.sender.options;
        let (frame, sent) = frame::append_call(&self.header(Kind::Append), &request, options.max_append_bytes);
        // A heartbeat that is late is of no use; entries may wait for a disk.
        let deadline = match self.class {
            Class::Heartbeat => options.heartbeat,
            Class::Log | Class::Snapshot => options.append_deadline,
        };
        let call = async {
            let body = self.sender.call(self.target, frame, self.class, deadline).await?;
            Ok(frame::get_append_response(body)?)
        };
        let response =
            call.await.map_err(|e| self.rpc_error(e, openraft::network::RPCTypes::AppendEntries, deadline))?;
        Ok(match response {
            AppendEntriesResponse::Success if sent < request.entries.len() => {
                AppendEntriesResponse::PartialSuccess(request.entries.get(sent - 1).map(|e| e.log_id))
            }
            response => response,
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Kind::Vote, request, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Kind::PreVote, request, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let this = &*self;
        let send = async move {
            let _permit = this
                .sender
                .transfers
                .acquire()
                .await
                .map_err(|_| StreamingError::Closed(ReplicationClosed::new("the node stops")))?;
            let file = match snapshot.snapshot {
                SnapshotData::File(file) => file,
                SnapshotData::View(view) => {
                    let dir = this.snapshots.clone();
                    blocking(move || dir.export(&view)).await.map_err(|e| {
                        StreamingError::Unreachable(Unreachable::from_string(format!(
                            "the snapshot cannot be written: {e}"
                        )))
                    })?
                }
            };
            tracing::info!(group = %this.group, to = this.target, bytes = file.len(), "sends a snapshot");
            this.send_snapshot(vote, snapshot.meta, file).await
        };
        match select(Box::pin(send), Box::pin(cancel)).await {
            Either::Left((sent, _)) => sent,
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let deadline = option.soft_ttl();
        let frame = frame::call(&self.header(Kind::Transfer), 96, |out| frame::put_transfer_request(out, &request));
        let call = async {
            let body = self.sender.call(self.target, frame, Class::Heartbeat, deadline).await?;
            Ok(frame::get_transfer_response(body)?)
        };
        call.await.map_err(|e| self.rpc_error(e, openraft::network::RPCTypes::TransferLeader, deadline))
    }
}
