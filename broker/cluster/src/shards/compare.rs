//! Whether the replicas of a shard have the same state.
//!
//! The leader has a bounded part of the records hashed by all replicas at one place of the log ([`Command::Digest`]), now and then and only when something was
//! applied since; each replica keeps its rolling hash of these places. Then the leader asks the others for theirs. Replicas that differ are an error in the program: it
//! is logged and counted, and somebody has to look; which one is right is not for the program to say.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use raftmq_shard::{Answer, Command};
use serde::{Deserialize, Serialize};
use tracing::{debug, error};

use crate::node::{CALL, Node};
use crate::status::ClusterCounters;
use crate::wire::{Request, Response};

use super::lead::Term;
use super::{Replica, ShardId};

/// Between two comparisons of a shard.
const EVERY: Duration = Duration::from_secs(60);
/// The others are asked that much later: they apply a little behind the leader.
const LATER: Duration = Duration::from_secs(2);
/// Records hashed at once.
const RECORDS: u32 = 1_024;
/// Places kept by a replica.
const KEPT: usize = 8;

/// The rolling hash of a replica at a place of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) index: u64,
    pub(crate) hash: u64,
}

/// The latest marks of a replica.
#[derive(Default)]
pub(crate) struct Marks(Mutex<VecDeque<Mark>>);

impl Marks {
    /// A replica was hashed.
    pub(super) fn add(&self, mark: Mark) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() == KEPT {
            marks.pop_front();
        }
        marks.push_back(mark);
    }

    pub(super) fn all(&self) -> Vec<Mark> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// The marks of a replica of this node.
pub(crate) fn marks(node: &Node, shard: u16, generation: u32) -> Vec<Mark> {
    let replica = node.running().and_then(|running| running.shards.replica(ShardId { number: shard, generation }));
    replica.map(|replica: Replica| replica.machine.marks().all()).unwrap_or_default()
}

/// What comes of a comparison.
#[derive(Debug, PartialEq, Eq)]
enum Compared {
    /// They were not hashed at the same places.
    Nothing,
    Same,
    /// The first place at which they differ.
    Different(u64),
}

fn judge(own: &[Mark], other: &[Mark]) -> Compared {
    let mut result = Compared::Nothing;
    for mark in own {
        match other.iter().find(|one| one.index == mark.index) {
            Some(one) if one.hash != mark.hash => return Compared::Different(mark.index),
            Some(_) => result = Compared::Same,
            None => {}
        }
    }
    result
}

impl Term<'_> {
    /// Compares for as long as this node leads the shard.
    pub(super) async fn compare(&self) {
        let mut from = Vec::new();
        let mut compared = 0;
        // Said once for a place: it stays among the marks for a while.
        let mut said = HashSet::new();
        loop {
            tokio::time::sleep(self.node.config.compare_every.unwrap_or(EVERY)).await;
            let applied = self.machine.with(|machine| machine.applied()).unwrap_or(compared);
            if applied <= compared {
                continue;
            }
            let digest = Command::Digest { from: std::mem::take(&mut from), limit: RECORDS };
            match self.propose(&digest).await {
                Some(Answer::Digest { next, .. }) => from = next.unwrap_or_default(),
                other => {
                    debug!(shard = self.id.number, ?other, "hashing the state");
                    continue;
                }
            }
            compared = self.machine.with(|machine| machine.applied()).unwrap_or(applied);
            tokio::time::sleep(LATER).await;
            self.ask_others(&mut said).await;
        }
    }

    async fn ask_others(&self, said: &mut HashSet<(u64, u64)>) {
        let members: Vec<u64> = {
            let status = self.group.status();
            let status = status.borrow();
            status.voters.iter().chain(&status.learners).copied().filter(|id| *id != self.running.id).collect()
        };
        let own = self.machine.marks().all();
        said.retain(|(_, index)| own.iter().any(|mark| mark.index == *index));
        let request = Request::ShardMarks { shard: self.id.number, generation: self.id.generation };
        for member in members {
            match self.node.net.call_node(member, &request, CALL).await {
                Ok(Response::ShardMarks(marks)) => match judge(&own, &marks) {
                    Compared::Nothing => {}
                    Compared::Same => ClusterCounters::add(&self.node.counters.replicas_same),
                    Compared::Different(index) => {
                        if said.insert((member, index)) {
                            ClusterCounters::add(&self.node.counters.replicas_differ);
                            error!(
                                shard = self.id.number,
                                node = member,
                                index,
                                "the replica of this shard on that node has another state than the leader's: report this, with the data directories of both"
                            );
                        }
                    }
                },
                Ok(other) => debug!(?other, "an answer to something else"),
                Err(error) => debug!(node = member, %error, "asking for the hashes of a shard"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_at_the_same_place() {
        let mark = |index, hash| Mark { index, hash };
        let own = [mark(1, 10), mark(5, 50), mark(9, 90)];
        assert_eq!(judge(&own, &[]), Compared::Nothing);
        assert_eq!(judge(&own, &[mark(2, 20)]), Compared::Nothing);
        assert_eq!(judge(&own, &[mark(2, 20), mark(5, 50)]), Compared::Same);
        assert_eq!(judge(&own, &[mark(5, 50), mark(9, 91)]), Compared::Different(9));
    }

    #[test]
    fn the_latest_are_kept() {
        let marks = Marks::default();
        (0..20).for_each(|index| marks.add(Mark { index, hash: index }));
        assert_eq!(marks.all().iter().map(|mark| mark.index).collect::<Vec<_>>(), (12..20).collect::<Vec<_>>());
    }
}
