//! A node that was cut off, or hung, and serves again says what that was for its clients.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raftmq_cluster::{Cluster, Phase, boottime};
use raftmq_features::ServerMessage;
use raftmq_mqtt::QoS;
use serde::Serialize;
use tokio::sync::watch;

use crate::metrics::{Encoder, catalog as c};
use crate::worker::NodeShared;

/// Events that wait for being published: the latest, should the node lose its lease again and again before.
const WAITING: usize = 16;

/// What was fenced since the start.
#[derive(Debug, Default)]
pub(crate) struct Healings {
    fenced_ms: AtomicU64,
    clients: AtomicU64,
    closed: AtomicU64,
    /// Without a lease, and serving all the same: since when, in nanoseconds of CLOCK_BOOTTIME, or 0, and how long before.
    local_since: AtomicU64,
    local_ms: AtomicU64,
    events: Mutex<VecDeque<ServerMessage>>,
}

impl Healings {
    /// The next event to be published, by who may publish.
    pub(crate) fn next_event(&self) -> Option<ServerMessage> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Adds the metrics.
    pub(crate) fn report(&self, local: bool, out: &mut Encoder) {
        let now = match self.local_since.load(Ordering::Relaxed) {
            0 => 0,
            since => boottime().saturating_sub(since) / 1_000_000,
        };
        let local_for = Duration::from_millis(self.local_ms.load(Ordering::Relaxed) + now);
        out.gauge(&c::SERVING_LOCAL, &[], u64::from(local));
        out.counter_f64(&c::SERVING_LOCAL_SECONDS, &[], local_for.as_secs_f64());
        let seconds = Duration::from_millis(self.fenced_ms.load(Ordering::Relaxed)).as_secs_f64();
        out.counter_f64(&c::FENCED_SECONDS, &[], seconds);
        out.counter(&c::FENCED_CLIENTS, &[], self.clients.load(Ordering::Relaxed));
    }

    /// Notes clients that were closed because the node had no lease for so long.
    pub(crate) fn closed(&self, clients: u64) {
        self.closed.fetch_add(clients, Ordering::Relaxed);
    }

    fn note(&self, node: &str, fenced: Fenced, unix_ms: u64) {
        let fenced_ms = boottime().saturating_sub(fenced.since) / 1_000_000;
        // A worker may have closed its clients before they were counted here.
        let clients = fenced.clients.max(self.closed.swap(0, Ordering::Relaxed));
        self.fenced_ms.fetch_add(fenced_ms, Ordering::Relaxed);
        self.clients.fetch_add(clients, Ordering::Relaxed);
        if fenced.local {
            self.local_since.store(0, Ordering::Relaxed);
            self.local_ms.fetch_add(fenced_ms, Ordering::Relaxed);
        }
        let meanwhile = if fenced.local {
            "clean sessions were served on this side alone meanwhile, and nothing else was"
        } else {
            "nothing was read, acknowledged or delivered meanwhile"
        };
        tracing::info!(fenced_ms, clients, clients_closed = fenced.closed, "serving again: {meanwhile}");
        let Fenced { closed: clients_closed, local: served_local, .. } = fenced;
        let event = Event { node, fenced_ms, clients, clients_closed, served_local, ts: unix_ms };
        self.tell(node, "healed", &event);
    }

    /// The node goes on without a lease.
    fn note_local(&self, node: &str, since: u64, clients: u64, unix_ms: u64) {
        self.local_since.store(since.max(1), Ordering::Relaxed);
        self.tell(node, "serving_local", &LocalEvent { node, clients, ts: unix_ms });
    }

    fn tell(&self, node: &str, what: &str, event: &impl Serialize) {
        let Ok(payload) = serde_json::to_vec(event) else { return };
        let topic = format!("$SYS/brokers/{}/{what}", raftmq_features::topic_level(node));
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == WAITING {
            events.pop_front();
        }
        events.push_back(ServerMessage { topic, payload, qos: QoS::AtLeastOnce, retain: false });
    }
}

/// The payload of the event.
#[derive(Serialize)]
struct Event<'a> {
    node: &'a str,
    fenced_ms: u64,
    clients: u64,
    clients_closed: bool,
    served_local: bool,
    ts: u64,
}

/// The payload of the one that says that a node serves alone.
#[derive(Serialize)]
struct LocalEvent<'a> {
    node: &'a str,
    clients: u64,
    ts: u64,
}

/// A lease has ended, and there is no other one yet.
#[derive(Debug, Clone, Copy)]
struct Fenced {
    /// When the lease ended, in nanoseconds of CLOCK_BOOTTIME: earlier than anybody noticed it on a node that hung.
    since: u64,
    /// Connected at that time.
    clients: u64,
    /// They were closed; where the node went on, those that need a quorum.
    closed: bool,
    /// The node went on with those that do not.
    local: bool,
}

/// Follows the phase of the node for as long as it lives.
pub(crate) async fn watch(node: Arc<NodeShared>, cluster: Cluster, mut phase: watch::Receiver<Phase>) {
    let mut fenced: Option<Fenced> = None;
    let mut served = false;
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Serving => {
                served = true;
                if let Some(fenced) = fenced.take() {
                    node.healings.note(&node.name, fenced, node.clock.now().unix_ms);
                }
            }
            // Before the first lease nobody was connected.
            Phase::Fenced | Phase::Closed if served => {
                let known = fenced.get_or_insert_with(|| {
                    let since = cluster.counters().fenced_since.load(Ordering::Relaxed);
                    let (clients, local) = (node.metrics.sys().gauges.clients_connected, node.lease.goes_on());
                    if local {
                        node.healings.note_local(&node.name, since, clients, node.clock.now().unix_ms);
                    }
                    Fenced { since, clients, closed: false, local }
                });
                known.closed |= now == Phase::Closed;
            }
            Phase::Fenced | Phase::Closed => {}
        }
        if phase.changed().await.is_err() {
            return;
        }
    }
}
