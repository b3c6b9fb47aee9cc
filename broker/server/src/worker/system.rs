//! What a node says about itself under `$SYS` (docs/sys-topics.md), published by its first worker; and what else goes by the clock.

use raftmq_features::sys::{SysMessage, SysSnapshot, SysTime, SysTree};

use super::publish::Reach;
use super::{ClientState, Worker};

/// How often present values are looked at for the highest ones, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// How often the messages in sessions are counted, where somebody wants to know.
const STORED_MS: u64 = 10_000;
/// Retained messages that are removed in one tick because they have expired.
const EXPIRED_A_TICK: usize = 4_096;

/// The `$SYS` tree of the node.
pub(super) struct System {
    tree: SysTree,
    next_look_ms: u64,
    due: Vec<SysMessage>,
}

impl System {
    pub(super) fn new(worker: &Worker) -> Self {
        let node = &worker.node;
        let tree = SysTree::new(node.features.sys.clone(), &node.name, crate::VERSION, "RaftMQ");
        Self { tree, next_look_ms: 0, due: Vec::new() }
    }
}

impl Worker {
    /// At each tick: what is due by time for the whole node is the first worker's, the rest each one's own.
    pub(super) fn on_tick(&mut self, now_ms: u64) {
        self.counters.wills_waiting(self.wills.len() as u64);
        if self.node.features.sys.mosquitto && now_ms >= self.next_stored_ms {
            self.next_stored_ms = now_ms + STORED_MS;
            self.count_stored();
        }
        let clients = &mut self.clients;
        let caught_up = |client| {
            let durable = clients.get_mut(client).and_then(|entry| entry.owner.as_ref()?.durable.as_ref());
            durable.is_none_or(|durable| durable.has_caught_up())
        };
        self.given.forget(now_ms, caught_up, |lookup| self.shard_replays.has(lookup));
        self.retry_operations();
        self.end_late_commits();
        if self.node.is_serving() {
            self.in_shards();
            self.claim_again();
            self.say_acks();
            self.return_late(now_ms);
            self.look_for_queues(now_ms);
        } else if !self.node.is_local() {
            return;
        }
        self.publish_due_wills(now_ms);
        if self.id == 0 {
            self.publish_due();
            self.expire_retained();
            self.publish_system(now_ms);
            while let Some(event) = self.node.healings.next_event() {
                self.publish_own(&event, Reach::Cluster);
            }
        }
    }

    fn expire_retained(&mut self) {
        let now = self.node.clock.now();
        let due = self.node.features.retained().next_expiry().is_some_and(|at| at <= now.unix_ms);
        if due {
            self.node.features.retained_mut().expire(now.unix_ms, EXPIRED_A_TICK);
        }
    }

    fn publish_system(&mut self, now_ms: u64) {
        let Some(mut system) = self.system.take() else {
            return;
        };
        if now_ms >= system.next_look_ms {
            system.next_look_ms = now_ms + LOOK_MS;
            if let Some(next) = system.tree.next_due_ms() {
                let snapshot = self.snapshot(now_ms >= next);
                if now_ms >= next {
                    let time = SysTime { uptime_ms: now_ms, unix_ms: self.node.clock.now().unix_ms };
                    system.tree.poll(time, &snapshot, &mut system.due);
                    for SysMessage { message, local } in system.due.drain(..) {
                        self.publish_own(&message, if local { Reach::Node } else { Reach::Cluster });
                    }
                } else {
                    system.tree.observe(&snapshot.gauges);
                }
            }
        }
        self.system = Some(system);
    }

    /// Everything the tree is made of; the names of nodes only `with_nodes`.
    fn snapshot(&self, with_nodes: bool) -> SysSnapshot {
        let node = &self.node;
        let features = &node.features;
        let mut snapshot = node.metrics.sys();
        let retained = features.retained().counters();
        let (delayed, _, delays) = features.delayed.counts();
        let routes = node.routes.counts();
        snapshot.gauges.sessions = node.registry.len() as u64;
        snapshot.gauges.topics = (routes.exact + routes.wild + routes.shared) as u64;
        snapshot.gauges.shared_subscriptions = features.groups.counts().1 as u64;
        snapshot.gauges.retained = retained.messages as u64;
        snapshot.gauges.delayed = delayed as u64;
        snapshot.gauges.stored_messages += retained.messages as u64;
        snapshot.gauges.stored_bytes += retained.bytes as u64;
        snapshot.counters.delayed = delays.accepted;
        snapshot.counters.dropped_expired = delays.expired;
        if with_nodes {
            snapshot.nodes = node.router.serving_nodes().unwrap_or_else(|| vec![node.name.clone()]);
        }
        snapshot
    }

    fn count_stored(&mut self) {
        let mut stored = 0;
        for key in self.clients.keys() {
            let messages = match self.clients.get_mut(key).map(|client| &client.state) {
                Some(ClientState::Offline { state, .. }) => state.messages(),
                Some(ClientState::Online(conn)) => {
                    let conn = *conn;
                    self.conns.get_mut(conn).map_or((0, 0), |conn| conn.session.session().messages())
                }
                None => (0, 0),
            };
            stored += (messages.0 + messages.1) as u64;
        }
        self.counters.stored(stored);
    }
}
