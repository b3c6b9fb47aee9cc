//! What a shard has for other shards and for the live subscribers of all nodes: messages with QoS 2, wills, delayed messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raftmq_mqtt::Message;
use raftmq_routing::Targets;
use raftmq_shard::{Answer, Command, Kept, LIVE, MOST_HANDED_OFF, NoteToSend, Op, OpAnswer, OutboxMessage, slot};
use tracing::warn;

use super::lead::Term;
use super::{propose, shard_id};

/// How many messages are handed off, or told where they go, at once.
const AT_ONCE: usize = MOST_HANDED_OFF;
/// For one proposal to another shard.
const PROPOSAL: Duration = Duration::from_secs(3);

/// Publishes to the live subscribers of all nodes what a shard has decided: the tenant, the message, and what is left of its expiry in milliseconds. Must not block.
pub type LiveHandler = Arc<dyn Fn(u32, Message, Option<u64>) + Send + Sync>;

impl Term<'_> {
    /// Says where wills and delayed messages go. Whether all were told.
    pub(super) async fn route(&self) -> bool {
        loop {
            let Some(Ok(waiting)) = self.machine.with(|machine| machine.unrouted(0, AT_ONCE)) else { return false };
            if waiting.is_empty() {
                return true;
            }
            // A node that serves has every route that somebody was told of.
            if !self.node.lease.is_serving() {
                return false;
            }
            let ops = waiting
                .iter()
                .map(|entry| Op::Route { entry: entry.number, destinations: self.destinations(&entry.message) });
            match self.propose(&Command::Lead { ops: ops.collect() }).await {
                Some(Answer::Batch(_)) => {}
                _ => return false,
            }
        }
    }

    /// The shards that want a message, the one that keeps it, and whether live subscribers want it.
    fn destinations(&self, message: &Message) -> Vec<u32> {
        let mut targets = Targets::default();
        self.node.shared_routes.lookup(message.topic(), &mut targets);
        let mut destinations: Vec<u32> = targets.shards().iter().map(|shard| u32::from(*shard)).collect();
        if message.retain()
            && let Some(keeper) = self.node.meta_state().shards.slots().shard(slot(0, message.topic()))
        {
            destinations.push(keeper.into());
        }
        if targets.workers().next().is_some() || !targets.nodes.is_empty() || targets.shared.is_some() {
            destinations.push(LIVE);
        }
        destinations.sort_unstable();
        destinations.dedup();
        destinations
    }

    /// Hands off what waits for other shards and for live subscribers. Whether all was taken.
    pub(super) async fn hand_off(&self) -> bool {
        let Some(Ok(destinations)) = self.machine.with(|machine| machine.destinations()) else { return false };
        let mut all = true;
        for (destination, handed_off) in destinations {
            all &= if destination == LIVE {
                self.hand_to_live(handed_off).await
            } else {
                self.hand_to_shard(destination, handed_off).await
            };
        }
        all & self.tell().await
    }

    /// Tells shards, of which this may be one, what there is to say about shared groups. Whether all was taken.
    async fn tell(&self) -> bool {
        let Some(Ok(destinations)) = self.machine.with(|machine| machine.note_destinations()) else { return false };
        let mut all = true;
        for (destination, noted) in destinations {
            all &= self.tell_shard(destination, noted).await;
        }
        all
    }

    async fn tell_shard(&self, destination: u32, mut after: u64) -> bool {
        loop {
            let Some(Ok(notes)) = self.machine.with(|machine| machine.notes(destination, after, AT_ONCE)) else {
                return false;
            };
            let Some(last) = notes.last().map(|note| note.number) else { return true };
            let source = u32::from(self.id.number);
            let ops = notes.into_iter().map(|NoteToSend { number, note, message }| {
                let note = Box::new(note);
                Op::Note { source, number, note, message }
            });
            let taken = |answers: &[OpAnswer]| {
                let all = answers.iter().all(|answer| matches!(answer, OpAnswer::Done | OpAnswer::Duplicate));
                all.then_some(Op::Noted { destination, up_to: last })
            };
            if !self.give(destination, ops.collect(), taken).await {
                return false;
            }
            after = last;
        }
    }

    async fn hand_to_shard(&self, destination: u32, mut after: u64) -> bool {
        loop {
            let Some(Ok(waiting)) = self.machine.with(|machine| machine.outbox(destination, after, AT_ONCE)) else {
                return false;
            };
            let Some(last) = waiting.last().map(|message| message.number) else { return true };
            let source = u32::from(self.id.number);
            let keeps: Vec<(u64, bool)> =
                waiting.iter().map(|message| (message.number, message.keep.is_some())).collect();
            let ops = waiting.into_iter().map(|OutboxMessage { number, namespace, message, lifetime_ms, keep }| {
                Op::HandOff { source, number, namespace, message, lifetime_ms, keep }
            });
            let taken = |answers: &[OpAnswer]| {
                let kept =
                    |(&(number, keeps), answer)| outcome(answer, keeps).map(|kept| kept.map(|kept| (number, kept)));
                let outcomes: Option<Vec<_>> = keeps.iter().zip(answers).map(kept).collect();
                let kept = outcomes?.into_iter().flatten().collect();
                Some(Op::HandedOff { destination, up_to: last, kept })
            };
            if !self.give(destination, ops.collect(), taken).await {
                return false;
            }
            after = last;
        }
    }

    /// Gives operations to another shard, or to this one, and notes here what `taken` makes of its answers; that is nothing if it has not taken all of them. Whether both were done.
    async fn give(&self, destination: u32, ops: Vec<Op>, taken: impl FnOnce(&[OpAnswer]) -> Option<Op>) -> bool {
        // No shard has a greater number.
        let Ok(number) = u16::try_from(destination) else { return true };
        let Some(shard) = shard_id(&self.node.meta_state(), number) else { return false };
        let command = Command::Lead { ops }.encode();
        let answer = propose::propose(self.node, self.running, shard, command.into(), PROPOSAL).await;
        let Some(Answer::Batch(answers)) = answer else { return false };
        let Some(noted) = taken(&answers) else {
            let answer = answers.last();
            warn!(shard = self.id.number, destination, ?answer, "a shard does not take what this one has for it");
            return false;
        };
        self.propose(&Command::Lead { ops: vec![noted] }).await.is_some()
    }

    /// At most once: it is noted before it is sent.
    async fn hand_to_live(&self, mut after: u64) -> bool {
        loop {
            let Some(Ok(waiting)) = self.machine.with(|machine| machine.outbox(LIVE, after, AT_ONCE)) else {
                return false;
            };
            let Some(last) = waiting.last().map(|message| message.number) else { return true };
            if self.node.live_ends.load(Ordering::Acquire) {
                // Nobody would send it from here: it is for the leader that comes next.
                return false;
            }
            let op = Op::HandedOff { destination: LIVE, up_to: last, kept: Vec::new() };
            if self.propose(&Command::Lead { ops: vec![op] }).await.is_none() {
                return false;
            }
            if let Some(handler) = self.node.on_live.get() {
                for OutboxMessage { namespace, message, lifetime_ms, .. } in waiting {
                    handler(namespace, message, lifetime_ms);
                }
            }
            after = last;
        }
    }
}

/// What an answer to [`Op::HandOff`] says of a message: `None` if it was not taken, `Some(None)` if there is nothing to say.
#[expect(clippy::option_option, reason = "two questions, and both are asked")]
fn outcome(answer: &OpAnswer, keeps: bool) -> Option<Option<Kept>> {
    let kept = match answer {
        OpAnswer::Published { .. } | OpAnswer::Duplicate => Kept::Done { change: 0 },
        OpAnswer::Retained { number, .. } if keeps => Kept::Done { change: *number },
        OpAnswer::Done if keeps => Kept::Done { change: 0 },
        OpAnswer::NoRoom if keeps => Kept::NoRoom,
        _ => return None,
    };
    Some(keeps.then_some(kept))
}
