//! What the leader of a shard does besides being its leader: time, the map of slots, routes, nodes that are down.
//!
//! Everything here may be done twice, by leaders of two terms at once: what the entries change they change once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use raftmq_raft::Group;
use raftmq_routing::{RouteKey, RoutesCommand, RoutesResponse, ShardChange};
use raftmq_shard::{Answer, Command, KnownNode, MAX_STEP_MS, NodeBoot, Op, OpAnswer, stamped};
use tracing::{debug, info, warn};

use crate::ROUTES;
use crate::driver;
use crate::node::{CALL, Node, RETRY, Running};

use super::lanes::life;
use super::machine::{SharedShard, Work};
use super::{Replica, ShardId};

/// For one proposal of a leader to its own group, or to routes.
const PROPOSAL: Duration = Duration::from_secs(2);
/// How many changes of routes are announced at once.
const ROUTES_AT_ONCE: usize = 512;
/// How often it is looked for the next time at which something is due, while entries come.
const LOOK: Duration = Duration::from_millis(100);
/// Time that passed is committed so often while something waits for a time: who leads next begins there.
const LONGEST: Duration = Duration::from_millis(MAX_STEP_MS);

/// Leads whenever this replica is the leader.
pub(crate) async fn run(node: Arc<Node>, replica: Replica) {
    let Some(running) = node.running() else {
        return;
    };
    let mut status = replica.group.status();
    loop {
        let term = match status.wait_for(|s| s.is_leader()).await {
            Ok(status) => status.term,
            Err(_) => return,
        };
        let since = Instant::now();
        // The time of this term begins here, when nothing was proposed with it yet.
        replica.group.set_stamp(Some(Arc::new(move |command: &[u8]| {
            let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            stamped(term, ms, command)
        })));
        debug!(shard = replica.id.number, term, "leading a shard");
        let mut ended = replica.group.status();
        let term_of = Term { node: &node, running, id: replica.id, group: &replica.group, machine: &replica.machine };
        tokio::select! {
            () = term_of.lead() => {}
            () = term_of.hand_off() => {}
            () = term_of.compare() => {}
            _ = ended.wait_for(|s| !s.is_leader() || s.term != term) => {}
        }
        replica.group.set_stamp(None);
        if replica.group.status().has_changed().is_err() {
            return;
        }
    }
}

/// One term of leadership.
pub(super) struct Term<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) running: &'a Running,
    pub(super) id: ShardId,
    pub(super) group: &'a Group,
    pub(super) machine: &'a SharedShard,
}

impl Term<'_> {
    async fn lead(&self) {
        let mut routes = self.running.routes.status();
        let mut meta = self.node.meta.subscribe();
        // Whoever led before may have left all of it.
        let mut work = Work::ALL;
        let mut ticked = Instant::now();
        loop {
            work |= self.machine.take_work() & Work::ALL;
            self.place().await;
            if work & Work::Routes as u8 != 0 && self.announce().await {
                work &= !(Work::Routes as u8);
            }
            if work & Work::Unrouted as u8 != 0 && self.route().await {
                work &= !(Work::Unrouted as u8);
            }
            if work & Work::Nodes as u8 != 0 && self.close_dead().await {
                work &= !(Work::Nodes as u8);
            }
            self.machine.take_moved();
            let due = self.due(ticked);
            if due.is_some_and(|due| due.is_zero()) {
                let wall_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let wall_ms = wall_ms.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
                ticked = Instant::now();
                if self.propose(&Command::Tick { wall_ms }).await.is_none() {
                    tokio::time::sleep(RETRY / 4).await;
                }
                continue;
            }
            let pause = if work != 0 { RETRY } else { due.unwrap_or(Duration::MAX) };
            tokio::select! {
                () = self.machine.woken() => {}
                changed = routes.changed() => {
                    if changed.is_err() { return }
                    work |= Work::Nodes as u8;
                }
                changed = meta.changed() => if changed.is_err() { return },
                () = pause_for(pause) => {}
                () = self.moved() => {}
            }
        }
    }

    /// Something was applied, after which something else may be due earlier.
    async fn moved(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.machine.take_moved() {
                return;
            }
        }
    }

    /// How long until a tick has something to do.
    fn due(&self, ticked: Instant) -> Option<Duration> {
        let next = self.machine.with(|machine| {
            let now = machine.numbers().now_ms;
            Some(machine.next_tick().ok()??.saturating_sub(now))
        })??;
        let passed = ticked.elapsed();
        if next == 0 {
            return Some(Duration::ZERO);
        }
        Some(Duration::from_millis(next).min(LONGEST).saturating_sub(passed))
    }

    pub(super) async fn propose(&self, command: &Command) -> Option<Answer> {
        let proposed = tokio::time::timeout(PROPOSAL, self.group.propose(command.encode().into())).await.ok()?;
        match proposed {
            Ok(applied) => Answer::decode(&applied.response).ok(),
            Err(error) => {
                debug!(shard = self.id.number, %error, "a leader's proposal");
                None
            }
        }
    }

    /// The shard gets the map of slots that meta has.
    async fn place(&self) {
        let state = self.node.meta_state();
        let epoch = super::map_epoch(&state);
        let known = self.machine.with(|machine| machine.map_epoch());
        if known.is_some_and(|known| known < epoch) {
            let slots = super::slots_of(&state, self.id.number);
            self.propose(&Command::Place { epoch, slots }).await;
        }
    }

    /// Announces what the routes group does not have. Says whether it has all.
    async fn announce(&self) -> bool {
        loop {
            let Some((last, announced)) = self.machine.with(|machine| machine.route_numbers()) else { return false };
            if last == announced {
                return true;
            }
            let Some(Ok(changes)) = self.machine.with(|machine| machine.routes(announced, ROUTES_AT_ONCE)) else {
                return false;
            };
            let Some(first) = changes.first().map(|change| change.number) else { return false };
            let up_to = first + changes.len() as u64 - 1;
            let changes = changes.into_iter().map(|change| {
                let key = RouteKey::of_shard(&change.filter);
                if change.added { ShardChange::Add(key) } else { ShardChange::Remove(key) }
            });
            let command = RoutesCommand::Shard {
                shard: self.id.number,
                generation: self.id.generation.into(),
                first,
                changes: changes.collect(),
            };
            match self.running.routes.propose_anywhere(command.encode().into(), PROPOSAL).await {
                Ok(applied) => match RoutesResponse::decode(&applied.response) {
                    RoutesResponse::Ok { .. } => {}
                    other => {
                        warn!(shard = self.id.number, ?other, "the routes group does not take the shard's routes");
                        return false;
                    }
                },
                Err(error) => {
                    debug!(shard = self.id.number, %error, "announcing routes");
                    return false;
                }
            }
            match self.propose(&Command::Lead { ops: vec![Op::Announced { up_to }] }).await {
                Some(Answer::Batch(answers)) if matches!(answers[..], [OpAnswer::Announced { .. }]) => {}
                _ => return false,
            }
        }
    }

    /// Closes the streams of lives that the routes group has closed. Says whether all are looked at.
    async fn close_dead(&self) -> bool {
        let Some(Ok(nodes)) = self.machine.with(|machine| machine.nodes()) else { return false };
        // Before anybody could say so, a later life may have opened its streams here.
        for node in nodes.iter().filter_map(KnownNode::earlier) {
            debug!(shard = self.id.number, node = node.node, boot = node.boot, "earlier lives of a node are over");
            if self.propose(&Command::NodeDown { node }).await != Some(Answer::Done) {
                return false;
            }
        }
        let suspects = || -> Vec<NodeBoot> {
            let is_alive = |at: NodeBoot| {
                let open = self.running.machine.open_stream(at.node);
                open.is_some_and(|(boot, stream)| life(at.node, boot, stream).boot <= at.boot)
            };
            nodes.iter().filter(|known| known.is_open()).map(|known| known.node).filter(|at| !is_alive(*at)).collect()
        };
        if suspects().is_empty() {
            return true;
        }
        // A life whose stream this replica of routes has not seen opened yet is none that was closed: the stream was committed before it came here.
        let Some(index) = driver::read_index(self.node, self.running, ROUTES.number).await else { return false };
        if self.running.routes.wait_applied(index, CALL).await.is_err() {
            return false;
        }
        for node in suspects() {
            info!(shard = self.id.number, node = node.node, "the clients of a node that is down are disconnected");
            if self.propose(&Command::NodeDown { node }).await != Some(Answer::Done) {
                return false;
            }
        }
        true
    }
}

async fn pause_for(pause: Duration) {
    if pause == Duration::MAX {
        std::future::pending().await
    } else {
        tokio::time::sleep(pause).await;
    }
}
