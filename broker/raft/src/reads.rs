//! Linearizable reads: one round of ReadIndex serves everybody who asked before it began.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::LinearizerOption;
use openraft::error::{LinearizableReadError, RaftError};
use tokio::sync::oneshot;

use crate::bundle::Urgent;
use crate::error::ReadError;
use crate::network::Sender;
use crate::types::Raft;

type Waiting = oneshot::Sender<Result<u64, ReadError>>;

/// The rounds of one group.
pub(crate) struct Reads {
    state: Mutex<State>,
    urgent: Urgent,
    sender: Arc<Sender>,
}

#[derive(Default)]
struct State {
    /// A round is under way; who comes now takes part in the next one.
    running: bool,
    waiting: Vec<Waiting>,
}

impl Reads {
    pub(crate) fn new(urgent: Urgent, sender: Arc<Sender>) -> Self {
        Self { state: Mutex::default(), urgent, sender }
    }

    /// Waits for a round that began after this call.
    pub(crate) async fn read(self: &Arc<Self>, raft: &Raft, deadline: Duration) -> Result<u64, ReadError> {
        let (sender, receiver) = oneshot::channel();
        let start = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.waiting.push(sender);
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            let (reads, raft) = (self.clone(), raft.clone());
            tokio::spawn(async move { reads.rounds(&raft, deadline).await });
        }
        receiver.await.unwrap_or(Err(ReadError::Shutdown))
    }

    async fn rounds(&self, raft: &Raft, deadline: Duration) {
        loop {
            let waiting = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.waiting.is_empty() {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let result = {
                let _urgent = self.urgent.begin();
                // One of the group may be waiting to be sent already, and the next one for its answer.
                self.sender.bundles.hurry();
                round(raft, deadline).await
            };
            for sender in waiting {
                // Who does not wait any more needs no answer.
                let _ = sender.send(result.clone());
            }
        }
    }
}

/// Only what a quorum answered after this call counts: no lease.
async fn round(raft: &Raft, deadline: Duration) -> Result<u64, ReadError> {
    let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(deadline);
    // openraft keeps the deadline; the second one is for a consensus task that does not answer at all.
    match tokio::time::timeout(deadline * 2, raft.get_read_log_id(option)).await {
        Ok(Ok((read, _))) => Ok(read.index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            Err(ReadError::NotLeader { leader: forward.leader_id })
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => Err(ReadError::NoQuorum),
        Ok(Err(RaftError::Fatal(openraft::error::Fatal::Stopped))) => Err(ReadError::Shutdown),
        Ok(Err(RaftError::Fatal(fatal))) => Err(ReadError::Failed(fatal.to_string())),
    }
}
