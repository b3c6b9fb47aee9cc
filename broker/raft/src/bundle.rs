//! Heartbeats of all groups to one node, in one frame.
//!
//! A node with a hundred groups would send a thousand small calls a second to say that nothing happens. So all groups send their heartbeats
//! at the same moments ([`crate::tasks::beat`]), and a heartbeat waits a little for those of other groups. Only heartbeats do: what has entries, a vote, or a commit to tell goes at once. And only those that nobody waits
//! for: while a group's read asks for a round of heartbeats, its own go at once, and take along what waits.
//!
//! The other node answers for all of them when all are done, or after a moment for those that are; a group that was late goes alone for a
//! while, so that it neither holds up the others nor is held to their time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use raftmq_storage::GroupId;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::NodeId;
use crate::frame::{self, BundleAnswer, Kind};
use crate::network::{CallError, Sender};
use crate::options::RaftOptions;
use crate::transport::Class;
use crate::types::Types;

/// The most heartbeats in one frame, some 80 bytes each; with so many it goes at once.
const MAX: usize = 512;
/// Nothing waits longer for others, whatever the options say.
const MAX_WINDOW: Duration = Duration::from_millis(25);

type Answer = Result<AppendEntriesResponse<Types>, CallError>;

/// What waits to be sent, by the node that it goes to.
pub(crate) struct Bundles {
    window: Duration,
    /// From when the moments are counted at which all groups of the node send their heartbeats.
    pub(crate) origin: Instant,
    waiting: Mutex<HashMap<NodeId, Waiting>>,
}

/// The heartbeats that go to a node with the next frame; a task waits for its time.
#[derive(Default)]
struct Waiting {
    items: Vec<Item>,
    /// Woken when it is to go now.
    now: Arc<Notify>,
}

struct Item {
    group: GroupId,
    request: Bytes,
    answer: oneshot::Sender<Answer>,
}

impl Bundles {
    pub(crate) fn new(options: &RaftOptions) -> Self {
        Self { window: window(options), origin: Instant::now(), waiting: Mutex::default() }
    }

    /// Whether heartbeats are bundled at all.
    pub(crate) fn is_on(&self) -> bool {
        !self.window.is_zero()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits now.
    pub(crate) fn hurry(&self) {
        for waiting in self.lock().values() {
            waiting.now.notify_one();
        }
    }
}

/// How long a heartbeat waits for others.
pub(crate) fn window(options: &RaftOptions) -> Duration {
    options.bundle_window.min(patience(options))
}

/// How long the slowest of a bundle is waited for: with the window it is far less than what a heartbeat may take, which is the interval.
pub(crate) fn patience(options: &RaftOptions) -> Duration {
    MAX_WINDOW.min(options.heartbeat / 4)
}

/// Sends a heartbeat with others, and waits for its answer.
pub(crate) async fn heartbeat(
    sender: &Arc<Sender>,
    group: GroupId,
    to: NodeId,
    request: &AppendEntriesRequest<Types>,
) -> Answer {
    let (answer, answered) = oneshot::channel();
    let item = Item { group, request: frame::heartbeat(request), answer };
    {
        let mut all = sender.bundles.lock();
        let waiting = all.entry(to).or_insert_with(|| {
            let waiting = Waiting::default();
            tokio::spawn(send(sender.clone(), to, waiting.now.clone()));
            waiting
        });
        waiting.items.push(item);
        if waiting.items.len() >= MAX {
            waiting.now.notify_one();
        }
    }
    answered.await.unwrap_or(Err(CallError::Late { to }))
}

async fn send(sender: Arc<Sender>, to: NodeId, now: Arc<Notify>) {
    // The end of the time and the call are the same: it goes.
    let _ = tokio::time::timeout(sender.bundles.window, now.notified()).await;
    let waiting = sender.bundles.lock().remove(&to).unwrap_or_default();
    // Nobody waits any more for those whose time is over.
    let mut items: Vec<Item> = waiting.items.into_iter().filter(|item| !item.answer.is_closed()).collect();
    while !items.is_empty() {
        let rest = items.split_off(items.len().min(MAX));
        let answers = call(&sender, to, &items).await;
        for (at, item) in items.into_iter().enumerate() {
            let answer = match &answers {
                Ok(answers) => match answers.get(at) {
                    Some(BundleAnswer::Done(response)) => Ok(response.clone()),
                    Some(BundleAnswer::Refused(refusal, reason)) => {
                        Err(CallError::Refused { to, refusal: *refusal, reason: reason.clone() })
                    }
                    Some(BundleAnswer::Late) | None => Err(CallError::Late { to }),
                },
                Err(error) => Err(error.clone()),
            };
            // Who does not wait any more needs no answer.
            let _ = item.answer.send(answer);
        }
        items = rest;
    }
}

async fn call(sender: &Sender, to: NodeId, items: &[Item]) -> Result<Vec<BundleAnswer>, CallError> {
    let header = sender.header(Kind::Bundle, GroupId::new(0, 0), to);
    let size = items.iter().map(|item| item.request.len() + 8).sum();
    let frame = frame::call(&header, size, |out| {
        frame::put_bundle(out, items.iter().map(|item| (item.group, &item.request[..])));
    });
    let body = sender.call(to, frame, Class::Heartbeat, sender.options.heartbeat).await?;
    Ok(frame::get_bundle_answers(body)?)
}

/// Counts those who wait for a round of a group's heartbeats.
#[derive(Clone, Default)]
pub(crate) struct Urgent(Arc<AtomicU32>);

impl Urgent {
    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    /// Until the guard is dropped.
    pub(crate) fn begin(&self) -> UrgentGuard {
        self.0.fetch_add(1, Ordering::SeqCst);
        UrgentGuard(self.clone())
    }
}

pub(crate) struct UrgentGuard(Urgent);

impl Drop for UrgentGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
