//! What a shard has for other shards and for the live subscribers of all nodes: messages with QoS 2, wills, delayed messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use raftmq_mqtt::Message;
use raftmq_routing::Targets;
use raftmq_shard::{
    Answer, Bounds, Command, HandedOn, How, Keep, Keeper, Kept, LIVE, MOST_HANDED_OFF, NoteToSend, Op, OpAnswer,
    OutboxMessage, ShardMachine, StoreError, slot,
};
use tracing::warn;

use crate::node::RETRY;

use super::lead::Term;
use super::machine::KeysStore;
use super::turns::{LONG, Turns};
use super::{propose, shard_id};

/// How many messages are handed off, or told where they go, at once.
const AT_ONCE: usize = MOST_HANDED_OFF;
/// Until the state is looked for again, while it is written.
const AWAY: Duration = Duration::from_millis(5);
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
            let ops = waiting.iter().map(|entry| {
                let keeper = self.keeper(&entry.message).map(Box::new);
                // One that is retained goes to others when it is.
                let destinations = if keeper.is_none() { self.destinations(&entry.message) } else { Vec::new() };
                Op::Route { entry: entry.number, destinations, keeper }
            });
            match self.propose(&Command::Lead { ops: ops.collect() }).await {
                Some(Answer::Batch(_)) => {}
                _ => return false,
            }
        }
    }

    /// The shard that retains a will or a delayed message, if it is to be retained: whatever is there.
    fn keeper(&self, message: &Message) -> Option<Keeper> {
        let keeper = self.node.meta_state().shards.slots().shard(slot(0, message.topic()));
        let bounds = Bounds { messages: u64::MAX, bytes: u64::MAX };
        let keep = Keep { how: How::Retain { bounds }, tell: false };
        keeper.filter(|_| message.retain()).map(|shard| Keeper { shard: shard.into(), keep })
    }

    /// The shards that have subscribers of a message, and whether there are live ones.
    fn destinations(&self, message: &Message) -> Vec<u32> {
        let mut targets = Targets::default();
        self.node.shared_routes.lookup(message.topic(), &mut targets);
        let mut destinations: Vec<u32> = targets.shards().iter().map(|shard| u32::from(*shard)).collect();
        if targets.workers().next().is_some() || !targets.nodes.is_empty() || targets.shared.is_some() {
            destinations.push(LIVE);
        }
        destinations
    }

    /// Reads the state as soon as it is there. `None`: the store cannot be read.
    async fn read<T>(&self, mut read: impl FnMut(&mut ShardMachine<KeysStore>) -> Result<T, StoreError>) -> Option<T> {
        loop {
            match self.machine.with(&mut read) {
                Some(Ok(found)) => return Some(found),
                Some(Err(error)) => {
                    warn!(shard = self.id.number, %error, "what waits for other shards cannot be read");
                    return None;
                }
                // What changed is being written.
                None => tokio::time::sleep(AWAY).await,
            }
        }
    }

    /// Hands off what waits for other shards and for live subscribers, and tells shards what there is to say about shared groups: to each of them in order, and to
    /// some at once ([`Turns`]).
    pub(super) async fn hand_off(&self) {
        let mut running = FuturesUnordered::new();
        let mut turns = Turns::new();
        loop {
            let waiting = self.read(|machine| {
                let messages = machine.destinations()?.into_iter().map(|(to, after)| ((What::Messages, to), after));
                let notes = machine.note_destinations()?.into_iter().map(|(to, after)| ((What::Notes, to), after));
                Ok(messages.chain(notes).collect::<BTreeMap<_, _>>())
            });
            let waiting = waiting.await;
            let unread = waiting.is_none();
            let waiting = waiting.unwrap_or_default();
            for to in turns.begin(Instant::now(), waiting.keys().copied()) {
                let after = waiting.get(&to).copied().unwrap_or_default();
                running.push(async move {
                    let taken = match to {
                        (What::Messages, LIVE) => self.hand_to_live(after).await,
                        (What::Messages, shard) => self.hand_to_shard(shard, after).await,
                        (What::Notes, shard) => self.tell_shard(shard, after).await,
                    };
                    if !taken {
                        tokio::time::sleep(RETRY).await;
                    }
                    (to, taken)
                });
            }
            tokio::select! {
                Some((to, taken)) = running.next() => turns.end(to, taken),
                () = self.machine.outbox_filled() => {}
                () = tokio::time::sleep(LONG), if turns.any() => {}
                () = tokio::time::sleep(RETRY), if unread => {}
            }
        }
    }

    /// One batch of notes. Whether it was taken.
    async fn tell_shard(&self, destination: u32, after: u64) -> bool {
        let notes = self.read(|machine| machine.notes(destination, after, AT_ONCE));
        let Some(notes) = notes.await else { return false };
        let Some(last) = notes.last().map(|note| note.number) else { return true };
        let source = u32::from(self.id.number);
        let ops = notes.into_iter().map(|NoteToSend { number, note, message }| {
            let note = Box::new(note);
            Op::Note { source, number, note, message }
        });
        let answers = self.give(destination, ops.collect()).await;
        let taken = |answer: &OpAnswer| matches!(answer, OpAnswer::Done | OpAnswer::Duplicate);
        if !self.all(destination, answers.as_deref(), taken) {
            return false;
        }
        if self.propose(&Command::Lead { ops: vec![Op::Noted { destination, up_to: last }] }).await.is_none() {
            return false;
        }
        true
    }

    /// One batch of messages. Whether it was taken.
    async fn hand_to_shard(&self, destination: u32, after: u64) -> bool {
        let waiting = self.read(|machine| machine.outbox(destination, after, AT_ONCE));
        let Some(waiting) = waiting.await else { return false };
        let Some(last) = waiting.last().map(|message| message.number) else { return true };
        // Without a lease it could not be said where they go then.
        if waiting.iter().any(|waiting| waiting.keep.is_some()) && !self.node.lease.is_serving() {
            return false;
        }
        let source = u32::from(self.id.number);
        let hand_off = |OutboxMessage { number, namespace, message, lifetime_ms, keep, .. }| Op::HandOff {
            source,
            number,
            namespace,
            message,
            lifetime_ms,
            keep,
        };
        let ops = waiting.iter().cloned().map(hand_off);
        let answers = self.give(destination, ops.collect()).await;
        let taken =
            |answer: &OpAnswer| matches!(answer, OpAnswer::Published { .. } | OpAnswer::Duplicate | OpAnswer::Kept(_));
        if !self.all(destination, answers.as_deref(), taken) {
            return false;
        }
        let Some(kept) = self.handed_on(destination, &waiting, &answers.unwrap_or_default()) else { return false };
        if self.propose(&Command::Lead { ops: vec![Op::HandedOff { destination, up_to: last, kept }] }).await.is_none()
        {
            return false;
        }
        true
    }

    /// What became of messages that a shard keeps, and where they go now that it has them: whoever subscribes later finds them there. `None`: this node may not know who
    /// has subscribed.
    fn handed_on(&self, keeper: u32, waiting: &[OutboxMessage], answers: &[OpAnswer]) -> Option<Vec<HandedOn>> {
        let mut all = Vec::new();
        for (waiting, answer) in waiting.iter().zip(answers) {
            let Some(keep) = waiting.keep else { continue };
            let kept = match answer {
                OpAnswer::Kept(kept) => *kept,
                _ => Kept::Done { change: 0 },
            };
            let goes_on = !matches!(keep.how, How::Delay { .. }) && kept != Kept::NoRoom;
            // A node that serves has every route that somebody was told of.
            if goes_on && !self.node.lease.is_serving() {
                return None;
            }
            let mut destinations = if goes_on { self.destinations(&waiting.message) } else { Vec::new() };
            destinations.retain(|to| *to != keeper && (*to != LIVE || waiting.live));
            all.push(HandedOn { number: waiting.number, kept, destinations });
        }
        Some(all)
    }

    /// Gives operations to another shard, or to this one; its answers.
    async fn give(&self, destination: u32, ops: Vec<Op>) -> Option<Vec<OpAnswer>> {
        // No shard has a greater number.
        let shard = shard_id(&self.node.meta_state(), u16::try_from(destination).ok()?)?;
        let command = Command::Lead { ops }.encode();
        match propose::propose(self.node, self.running, shard, command.into(), PROPOSAL).await? {
            Answer::Batch(answers) => Some(answers),
            _ => None,
        }
    }

    /// Whether a shard has taken all that was given to it.
    fn all(&self, destination: u32, answers: Option<&[OpAnswer]>, taken: fn(&OpAnswer) -> bool) -> bool {
        let refused = answers.and_then(|answers| answers.iter().find(|answer| !taken(answer)));
        if let Some(refused) = refused {
            warn!(shard = self.id.number, destination, ?refused, "a shard does not take what this one has for it");
        }
        answers.is_some() && refused.is_none()
    }

    /// At most once: it is noted before it is sent, and what a leader before has noted is left out.
    async fn hand_to_live(&self, after: u64) -> bool {
        let waiting = self.read(|machine| machine.outbox(LIVE, after, AT_ONCE));
        let Some(waiting) = waiting.await else { return false };
        let Some(last) = waiting.last().map(|message| message.number) else { return true };
        if self.node.live_ends.load(Ordering::Acquire) {
            // Nobody would send it from here: it is for the leader that comes next.
            return false;
        }
        let op = Op::HandedOff { destination: LIVE, up_to: last, kept: Vec::new() };
        let before = match self.propose(&Command::Lead { ops: vec![op] }).await {
            Some(Answer::Batch(answers)) => match answers[..] {
                [OpAnswer::HandedOff { before }] => before,
                _ => return false,
            },
            _ => return false,
        };
        if let Some(handler) = self.node.on_live.get() {
            for waiting in waiting.into_iter().filter(|waiting| waiting.number > before) {
                handler(waiting.namespace, waiting.message, waiting.lifetime_ms);
            }
        }
        true
    }
}

/// What goes to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Messages,
    Notes,
}
