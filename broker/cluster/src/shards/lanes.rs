//! The lanes of this node's workers: operations in, answers out, whoever leads the shards.
//!
//! A lane belongs to a *life* of the node: its boot and the stream of routes under which it serves. When that stream is closed the node was declared
//! down, its lanes are over with whatever was not answered, and the next life begins with new ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use raftmq_shard::{Answer, Lane, LaneOptions, NodeBoot, Op, OpAnswer, Proposal, Ticket, Verdict};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tracing::{debug, warn};

use crate::node::{Node, RETRY};

use super::{ShardId, propose};

/// For one proposal, changes of leader included; then it is made again.
const PROPOSAL: Duration = Duration::from_secs(3);
/// The bits of a life that count the streams of a boot.
const STREAM_BITS: u32 = 24;

/// Gets the answers to a worker's operations, some at a time, on another thread: each token with its outcome.
pub type AnswerSink = Arc<dyn Fn(&mut dyn Iterator<Item = (u64, Result<OpAnswer, LaneError>)>) + Send + Sync>;

/// Why an operation has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LaneError {
    /// The node was declared down, or stops: it may have been done or not, and the client's connection is not valid any more.
    #[error("this life of the node is over")]
    Over,
}

/// Why an operation was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PushError {
    /// Too much waits for this shard: again when something was answered.
    #[error("too much waits for this shard")]
    Full,
    /// The node does not serve, or the shard is not known here.
    #[error("this node does not serve")]
    NotServing,
}

/// The life of a node in the eyes of shards.
pub(crate) fn life(node: u64, boot: u64, stream: u64) -> NodeBoot {
    NodeBoot { node, boot: (boot << STREAM_BITS) | stream.min((1 << STREAM_BITS) - 1) }
}

/// The boot of the node in a life of it.
pub(crate) fn boot_of(life: NodeBoot) -> u64 {
    life.boot >> STREAM_BITS
}

/// One worker's lane to one shard.
struct Cell {
    worker: u16,
    shard: u16,
    lane: Mutex<Lane<u64>>,
    wake: Notify,
    sink: AnswerSink,
}

impl Cell {
    fn lane(&self) -> MutexGuard<'_, Lane<u64>> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut left = self.lane().close().into_iter().map(|token| (token, Err(LaneError::Over)));
        (self.sink)(&mut left);
        self.wake.notify_one();
    }
}

/// All lanes of this node.
pub(crate) struct Lanes {
    node: Mutex<Weak<Node>>,
    cells: RwLock<HashMap<(u16, u16), Arc<Cell>>>,
    life: watch::Sender<Option<NodeBoot>>,
    /// Operations that were answered, for metrics.
    pub(crate) answered: AtomicU64,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self {
            node: Mutex::new(Weak::new()),
            cells: RwLock::default(),
            life: watch::Sender::new(None),
            answered: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_node(&self, node: &Arc<Node>) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(node);
    }

    /// The life of the node; `None` while there is none.
    pub(crate) fn life(&self) -> watch::Receiver<Option<NodeBoot>> {
        self.life.subscribe()
    }

    /// The node begins another life, or ends: what was not answered is over.
    pub(crate) fn begin(&self, life: Option<NodeBoot>) {
        if *self.life.borrow() == life {
            return;
        }
        let cells = {
            let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
            // Within the lock, so that nobody makes a lane of the life before any more.
            self.life.send_replace(life);
            std::mem::take(&mut *cells)
        };
        cells.values().for_each(|cell| cell.close());
    }

    fn push(&self, port: &Port, shard: u16, op: Op, token: u64) -> Result<(), (Op, PushError)> {
        let key = (port.worker, shard);
        let known = self.cells.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let cell = match known {
            Some(cell) => cell,
            None => match self.make(port, shard) {
                Ok(cell) => cell,
                Err(error) => return Err((op, error)),
            },
        };
        let pushed = {
            let mut lane = cell.lane();
            lane.push(op, token)
                .map_err(|(op, _)| (op, if lane.is_over() { PushError::NotServing } else { PushError::Full }))
        };
        cell.wake.notify_one();
        pushed
    }

    fn make(&self, port: &Port, shard: u16) -> Result<Arc<Cell>, PushError> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).upgrade().ok_or(PushError::NotServing)?;
        if super::shard_id(&node.meta_state(), shard).is_none() {
            return Err(PushError::NotServing);
        }
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let life = self.life.borrow().ok_or(PushError::NotServing)?;
        let cell = cells.entry((port.worker, shard)).or_insert_with(|| {
            let lane = Mutex::new(Lane::new(life, port.worker, LaneOptions::default()));
            let sink = Arc::clone(&port.sink);
            let cell = Arc::new(Cell { worker: port.worker, shard, lane, wake: Notify::new(), sink });
            node.spawn(run(Arc::clone(&node), Arc::clone(&cell)));
            cell
        });
        Ok(Arc::clone(cell))
    }
}

/// A worker's way to the shards.
#[derive(Clone)]
pub struct Port {
    lanes: Arc<Lanes>,
    worker: u16,
    sink: AnswerSink,
}

impl Port {
    pub(crate) fn new(lanes: Arc<Lanes>, worker: u16, sink: AnswerSink) -> Self {
        Self { lanes, worker, sink }
    }

    /// Hands an operation over; its answer comes to the sink with the token. Operations of a worker for a shard are applied in their order.
    ///
    /// # Errors
    /// The operation, which was not taken and changes nothing, and why.
    pub fn push(&self, shard: u16, op: Op, token: u64) -> Result<(), (Op, PushError)> {
        self.lanes.push(self, shard, op, token)
    }

    /// This operation is not wanted any more, but what became of it is: its answer says whether it was done, or that it never will be ([`OpAnswer::Done`]).
    pub fn withdraw(&self, shard: u16, token: u64) {
        let cells = self.lanes.cells.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(&(self.worker, shard)) {
            cell.lane().withdraw(|known| *known == token);
        }
    }
}

type Flight = BoxFuture<'static, (Ticket, Option<Answer>)>;

/// Proposes what is in a lane until it is over.
async fn run(node: Arc<Node>, cell: Arc<Cell>) {
    let mut flying: FuturesUnordered<Flight> = FuturesUnordered::new();
    let mut state = node.meta.subscribe();
    loop {
        let (shard, map_epoch) = {
            let state = state.borrow_and_update();
            (super::shard_id(&state, cell.shard), super::map_epoch(&state))
        };
        if let Some(shard) = shard {
            while let Some(Proposal { command, ticket }) = {
                let mut lane = cell.lane();
                lane.next(map_epoch)
            } {
                flying.push(Box::pin(fly(Arc::clone(&node), shard, command.encode(), ticket)));
            }
        }
        if cell.lane().is_over() {
            return;
        }
        tokio::select! {
            Some((ticket, answer)) = flying.next(), if !flying.is_empty() => {
                let mut answers = Vec::new();
                let verdict = match answer {
                    Some(answer) => cell.lane().on_answer(ticket, answer, |token, answer| answers.push((token, Ok(answer)))),
                    None => {
                        cell.lane().on_failure(ticket);
                        Verdict::Behind
                    }
                };
                if !answers.is_empty() {
                    node.lanes().answered.fetch_add(answers.len() as u64, Ordering::Relaxed);
                    (cell.sink)(&mut answers.into_iter());
                }
                match verdict {
                    Verdict::Goes => {}
                    Verdict::Behind => tokio::time::sleep(RETRY / 4).await,
                    Verdict::WrongShard { epoch, next } => other_map(&node, &cell, epoch, next).await,
                    Verdict::Over => cell.close(),
                    Verdict::Unknown => {
                        warn!(shard = cell.shard, "the shard does not understand this node's operations");
                        tokio::time::sleep(RETRY * 5).await;
                        cell.lane().on_failure(ticket);
                    }
                }
            }
            () = cell.wake.notified() => {}
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

async fn fly(node: Arc<Node>, shard: ShardId, command: Vec<u8>, ticket: Ticket) -> (Ticket, Option<Answer>) {
    let Some(running) = node.running() else { return (ticket, None) };
    (ticket, propose::propose(&node, running, shard, command.into(), PROPOSAL).await)
}

/// The shard has a newer map of slots than the operations were made with. What was not applied goes in again, behind the answers that are on their way, once
/// this node knows the map: it belongs to the same shard as long as slots do not move.
async fn other_map(node: &Node, cell: &Cell, epoch: u64, next: u64) {
    let mut state = node.meta.subscribe();
    let known = state.wait_for(|state| super::map_epoch(state) >= epoch);
    if tokio::time::timeout(PROPOSAL, known).await.is_err() {
        debug!(shard = cell.shard, epoch, "the map of slots that the shard has is not known here yet");
        return;
    }
    let mut lane = cell.lane();
    for (op, token) in lane.take_from(next) {
        if lane.push(op, token).is_err() {
            debug!(shard = cell.shard, worker = cell.worker, "an operation that was to be proposed again does not fit");
        }
    }
}
