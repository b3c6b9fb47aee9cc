//! One replica of one group.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use raftmq_storage::GroupId;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::NodeId;
use crate::bundle::Urgent;
use crate::error::{ProposeError, ReadError, WaitError};
use crate::frame::Proposed;
use crate::network::Sender;
use crate::reads::Reads;
use crate::snapshot::SnapshotDir;
use crate::status::{GroupStatus, Role};
use crate::tasks::{beat, follow_metrics, make_snapshots};
use crate::types::{Command, LogId, Raft};

/// How long to wait before a leader that did not answer is asked again, unless the leader changes before.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a shutdown waits for the last task to let go of the log and the store.
const LET_GO: Duration = Duration::from_secs(5);

/// One replica of one group: a handle that is cheap to clone.
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: GroupId,
    pub(crate) raft: Raft,
    pub(crate) snapshots: Arc<SnapshotDir>,
    pub(crate) sender: Arc<Sender>,
    reads: Arc<Reads>,
    pub(crate) status: watch::Receiver<GroupStatus>,
    /// Who has less in the log gets no vote: an earlier replica of this node had that much.
    pub(crate) floor: Option<LogId>,
    /// Its machine keeps changes in memory.
    cached: bool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Closes when the log and the machine are dropped.
    alive: tokio::sync::Mutex<mpsc::Receiver<()>>,
    /// One permit a kilobyte of commands that wait for their commit.
    in_flight: Semaphore,
    /// A hand-over is under way.
    handing_over: AtomicBool,
    /// See [`Group::set_stamp`].
    stamp: Mutex<Option<Stamp>>,
}

/// Makes of a command that is proposed on a replica what goes into the log.
pub type Stamp = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A command that was committed and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its index in the log.
    pub index: u64,
    /// What the machine answered.
    pub response: Bytes,
    /// It was proposed before without an answer, and may have been applied then, too ([`Group::propose_anywhere`]).
    pub repeated: bool,
}

/// What a replica was started with.
pub(crate) struct Started {
    pub(crate) id: GroupId,
    pub(crate) snapshots: Arc<SnapshotDir>,
    /// Woken when a snapshot is due.
    pub(crate) snapshot_due: Arc<Notify>,
    /// See [`Inner::floor`].
    pub(crate) floor: Option<LogId>,
    /// Its machine keeps changes in memory.
    pub(crate) cached: bool,
    /// Tells the group's clients that somebody waits for heartbeats.
    pub(crate) urgent: Urgent,
    /// Closes when the log and the machine are dropped.
    pub(crate) alive: mpsc::Receiver<()>,
}

impl Group {
    pub(crate) fn new(raft: Raft, sender: Arc<Sender>, started: Started) -> Self {
        let Started { id, snapshots, snapshot_due, floor, cached, urgent, alive } = started;
        let (status_sender, status) = watch::channel(GroupStatus::new(id, sender.node));
        let mut tasks = vec![
            tokio::spawn(follow_metrics(id, raft.clone(), status_sender)),
            tokio::spawn(make_snapshots(
                id,
                raft.clone(),
                sender.wal.clone(),
                snapshot_due,
                sender.options.snapshot_bytes,
            )),
        ];
        if sender.bundles.is_on() {
            let (origin, interval) = (sender.bundles.origin, sender.options.heartbeat);
            tasks.push(tokio::spawn(beat(raft.clone(), status.clone(), origin, interval)));
        }
        let in_flight = Semaphore::new(permits(sender.options.max_in_flight) as usize);
        let inner = Inner {
            id,
            raft,
            snapshots,
            in_flight,
            reads: Arc::new(Reads::new(urgent, sender.clone())),
            sender,
            status,
            floor,
            cached,
            tasks: Mutex::new(tasks),
            alive: tokio::sync::Mutex::new(alive),
            handing_over: AtomicBool::new(false),
            stamp: Mutex::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Proposes on the leader and waits until the command is committed and applied here.
    ///
    /// There is no deadline: an entry that has no quorum waits until it has one, or until another node leads. The future
    /// may be dropped; the command may be applied all the same. A leader that has not heard of a quorum for an
    /// election's time takes no commands ([`ProposeError::NotLeader`] without a leader): wait and ask again.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] may mean that the entry was written but its fate is not known here.
    pub async fn propose(&self, command: Bytes) -> Result<Applied, ProposeError> {
        let limit = self.inner.sender.options.max_command;
        if command.len() > limit {
            return Err(ProposeError::TooLarge { len: command.len(), limit });
        }
        if !self.inner.sender.wal.accepting() {
            self.hand_over();
            return Err(ProposeError::DiskFull);
        }
        let permits = permits(command.len());
        let _permit = self.inner.in_flight.acquire_many(permits).await.map_err(|_| ProposeError::Shutdown)?;
        let stamp = self.inner.stamp.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let command = match stamp {
            Some(stamp) => stamp(&command).into(),
            None => command,
        };
        match self.inner.raft.client_write(Command(command)).await {
            Ok(done) => Ok(Applied { index: done.log_id.index, response: done.data.0, repeated: false }),
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward),
            )) => Err(ProposeError::NotLeader { leader: forward.leader_id.filter(|id| *id != self.inner.sender.node) }),
            Err(RaftError::APIError(other)) => Err(ProposeError::Failed(other.to_string())),
            Err(RaftError::Fatal(Fatal::Stopped)) => Err(ProposeError::Shutdown),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Failed(fatal.to_string())),
        }
    }

    /// What is proposed on this replica, whoever proposed it, goes through this before it goes into the log: a leader adds what only it knows, such
    /// as its time. What it adds is not counted for the limits of a command.
    pub fn set_stamp(&self, stamp: Option<Stamp>) {
        *self.inner.stamp.lock().unwrap_or_else(PoisonError::into_inner) = stamp;
    }

    /// Proposes through the leader, wherever it is, and waits for one within the deadline.
    ///
    /// An answer that is lost on its way makes it propose again: **the command may be applied twice**, and [`Applied::repeated`] says so.
    /// [`Applied::index`] is applied on the leader; use [`Group::wait_applied`] before reading here.
    ///
    /// # Errors
    /// Never [`ProposeError::NotLeader`]; [`ProposeError::Timeout`] if no leader answered in time.
    pub async fn propose_anywhere(&self, command: Bytes, deadline: Duration) -> Result<Applied, ProposeError> {
        let end = Instant::now() + deadline;
        match timeout_at(end, self.propose_until(&command, end)).await {
            Ok(result) => result,
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    async fn propose_until(&self, command: &Bytes, end: Instant) -> Result<Applied, ProposeError> {
        let mut status = self.status();
        // A hint of a node that does not lead any more; used once, before this node's own view is asked again.
        let mut hint = None;
        let mut repeated = false;
        loop {
            let (term, leader) = {
                let status = status.borrow_and_update();
                match status.role {
                    Role::Stopped => {
                        return Err(status.failure.clone().map_or(ProposeError::Shutdown, ProposeError::Failed));
                    }
                    _ => (status.term, hint.take().or(status.leader)),
                }
            };
            let result = match leader {
                None => Err(ProposeError::NotLeader { leader: None }),
                Some(leader) if leader == self.inner.sender.node => self.propose(command.clone()).await,
                Some(leader) => tokio::select! {
                    result = self.propose_at(leader, command, end) => result,
                    () = self.succeeded(leader, term) => Err(ProposeError::NotLeader { leader: None }),
                },
            };
            match result {
                Err(ProposeError::NotLeader { leader: other }) if other != leader => hint = other,
                Err(ProposeError::NotLeader { .. } | ProposeError::Timeout | ProposeError::DiskFull) => {}
                result => return result.map(|applied| Applied { repeated, ..applied }),
            }
            repeated |= leader.is_some();
            if hint.is_none() {
                // Either the status changes, or the same leader is asked again.
                let _ = timeout(ASK_AGAIN, status.changed()).await;
            }
        }
    }

    async fn propose_at(&self, leader: NodeId, command: &Bytes, end: Instant) -> Result<Applied, ProposeError> {
        let left = end.saturating_duration_since(Instant::now());
        match self.inner.sender.propose(self.inner.id, leader, command, left).await {
            Ok(Proposed::Applied { index, response }) => Ok(Applied { index, response, repeated: false }),
            Ok(Proposed::NotLeader(leader)) => Err(ProposeError::NotLeader { leader }),
            Ok(Proposed::TooLarge { limit }) => {
                Err(ProposeError::TooLarge { len: command.len(), limit: usize::try_from(limit).unwrap_or(usize::MAX) })
            }
            Ok(Proposed::DiskFull) => Err(ProposeError::DiskFull),
            Ok(Proposed::Timeout) => Err(ProposeError::Timeout),
            Ok(Proposed::Failed(reason)) => {
                tracing::debug!(group = %self.inner.id, leader, reason, "the leader cannot take a proposal");
                Err(ProposeError::NotLeader { leader: None })
            }
            Err(error) => {
                tracing::debug!(group = %self.inner.id, leader, %error, "a proposal was not answered");
                Err(ProposeError::NotLeader { leader: None })
            }
        }
    }

    /// Carries out a proposal that another node forwarded.
    pub(crate) async fn propose_for(&self, command: Bytes, deadline: Duration) -> Proposed {
        match timeout(deadline, self.propose(command)).await {
            Ok(Ok(applied)) => Proposed::Applied { index: applied.index, response: applied.response },
            Ok(Err(ProposeError::NotLeader { leader })) => Proposed::NotLeader(leader),
            Ok(Err(ProposeError::TooLarge { limit, .. })) => Proposed::TooLarge { limit: limit as u64 },
            Ok(Err(ProposeError::DiskFull)) => Proposed::DiskFull,
            Ok(Err(ProposeError::Timeout)) | Err(_) => Proposed::Timeout,
            Ok(Err(error @ (ProposeError::Shutdown | ProposeError::Failed(_)))) => Proposed::Failed(error.to_string()),
        }
    }

    /// A leader without room on its disk, or without a vote, lets the voter lead that is most up to date.
    pub(crate) fn hand_over(&self) {
        if self.inner.handing_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let group = self.clone();
        tokio::spawn(async move {
            let to = {
                let status = group.inner.status.borrow();
                let voters = status.followers.iter().filter(|(id, _)| status.voters.contains(id));
                voters.max_by_key(|(_, f)| (f.matched, f.acked)).map(|(id, _)| *id)
            };
            if let Some(to) = to {
                tracing::info!(group = %group.inner.id, to, "hands the leadership on");
                if let Err(error) = group.transfer_leader(to).await {
                    tracing::warn!(group = %group.inner.id, to, %error, "the leadership was not handed on");
                }
            }
            group.inner.handing_over.store(false, Ordering::Relaxed);
        });
    }

    /// Resolves when this node knows of another leader than that one, in a later term than that: a call to who died, or hangs, is not waited for any more. Never, when
    /// the group stops.
    pub async fn succeeded(&self, leader: NodeId, term: u64) {
        let mut status = self.status();
        let other = status.wait_for(|status| status.term > term && status.leader.is_some_and(|now| now != leader));
        if other.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A linearizable read (ReadIndex, no lease): what is applied up to the returned index, see [`Group::wait_applied`],
    /// holds everything that was acknowledged before this call. Only the leader can tell. Concurrent callers
    /// share a round, and every caller's round begins after its call.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] if no quorum answered within [`crate::RaftOptions::read_deadline`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let inner = &self.inner;
        inner.reads.read(&inner.raft, inner.sender.options.read_deadline).await
    }

    /// Waits until `index` is applied on this node.
    ///
    /// # Errors
    /// The deadline passed, or the group stopped.
    pub async fn wait_applied(&self, index: u64, deadline: Duration) -> Result<(), WaitError> {
        self.wait(deadline, |status| status.applied >= Some(index)).await.map(drop)
    }

    /// Waits until the status is as wanted and returns it.
    ///
    /// # Errors
    /// The deadline passed, or the group stopped.
    pub async fn wait(
        &self,
        deadline: Duration,
        mut wanted: impl FnMut(&GroupStatus) -> bool,
    ) -> Result<GroupStatus, WaitError> {
        let mut status = self.status();
        let done = |status: &GroupStatus| wanted(status) || status.role == Role::Stopped;
        let found = timeout(deadline, status.wait_for(done)).await.map_err(|_| WaitError::Timeout)?;
        let found = found.map_err(|_| WaitError::Shutdown)?.clone();
        if found.role == Role::Stopped { Err(WaitError::Shutdown) } else { Ok(found) }
    }

    /// What this replica knows. Watchers are woken by every change except that of the times of acknowledgements.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.clone()
    }

    /// Makes a snapshot now and waits until one covers what is applied at this moment. The log is purged after it.
    ///
    /// # Errors
    /// The deadline passed, or the group stopped.
    pub async fn snapshot_now(&self, deadline: Duration) -> Result<(), WaitError> {
        let applied = self.inner.status.borrow().applied;
        if applied.is_none() {
            return Ok(());
        }
        let end = Instant::now() + deadline;
        loop {
            // One that was being made already may not cover enough: then once more.
            self.inner.raft.trigger().snapshot().await.map_err(|_| WaitError::Shutdown)?;
            let before = self.inner.status.borrow().snapshot;
            let left = end.saturating_duration_since(Instant::now());
            let done = self.wait(left, |s| s.snapshot >= applied || s.snapshot != before).await?;
            if done.snapshot >= applied {
                return Ok(());
            }
        }
    }

    /// Whether there is a log, a vote or a state: [`Group::initialize`] was made somewhere and this node took part.
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(true)
    }

    /// Writes what the machine keeps in memory, so that the next start has less to apply again. No harm if it cannot.
    async fn flush(&self) {
        let flush = self.inner.raft.with_state_machine(|machine| Box::pin(machine.flush()));
        match timeout(LET_GO, flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(group = %self.inner.id, %error, "the state was not flushed"),
            // It has stopped by itself.
            Ok(Err(_)) => {}
            Err(_) => tracing::warn!(group = %self.inner.id, "the state is not flushed in time"),
        }
    }

    /// Stops this replica and waits until it has let go of the log and the store.
    pub async fn shutdown(&self) {
        self.let_go().await;
    }

    /// As [`Group::shutdown`]; says whether nobody uses the log and the store any more.
    pub(crate) async fn let_go(&self) -> bool {
        self.inner.in_flight.close();
        if self.inner.cached {
            self.flush().await;
        }
        match timeout(LET_GO, self.inner.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(group = %self.inner.id, %error, "the group did not stop cleanly");
            }
            // It may be waiting for a disk.
            Err(_) => tracing::warn!(group = %self.inner.id, "the group does not stop"),
        }
        let tasks = std::mem::take(&mut *self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // They end by themselves when consensus has ended.
            let abort = task.abort_handle();
            if timeout(LET_GO, task).await.is_err() {
                abort.abort();
            }
        }
        let mut alive = self.inner.alive.lock().await;
        let gone = timeout(LET_GO, alive.recv()).await.is_ok();
        if !gone {
            tracing::warn!(group = %self.inner.id, "a task of the group still uses its log or its state");
        }
        gone
    }
}

/// Kilobytes, and one for the entry itself.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 4).saturating_add(1)
}
