//! The worker's thread and its tasks.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use std::time::Duration;

use raftmq_cluster::Phase;
use raftmq_features::wills::{PendingWills, WillSettings};
use raftmq_mqtt::ReasonCode;
use raftmq_routing::{SubscriptionIndex, Targets, TopicCache};
use raftmq_session::Origins;
use raftmq_transport::PeerInfo;
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;

use super::connection::Rest;
use super::inbox::{Adopted, Item, Outgoing};
use super::listener::ListenerState;
use super::outlet::{Outlet, Spares};
use super::rates::{self, Throttled};
use super::replay::Replays;
use super::shards::ShardDesk;
use super::slab::Slab;
use super::socket::{Loose, Socket};
use super::system::System;
use super::task::ConnectionTask;
use super::wheel::Wheel;
use super::{CACHED_TOPICS, NodeShared, READ_BUFFER, Worker};
use crate::bans::InForce;
use crate::metrics::{RefuseReason, WorkerCounters};

/// Workers' threads are named so, with their number.
const THREAD: &str = "worker-";
/// Pause after an accept failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause before another worker's full queue is tried again.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(1);
/// Pause before the lease is looked at again.
const FENCED_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are held against new bans before others have their turn.
const ENFORCED_A_TURN: usize = 1024;
/// Time for all workers to know that the node ends.
const AGREEMENT: Duration = Duration::from_secs(3);
/// Time for the clients to read their last packets when the node shuts down.
const DRAIN: Duration = Duration::from_secs(3);

/// A running worker.
pub(crate) struct WorkerHandle {
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Waits until the thread has ended; it does when the node closes.
    pub(crate) fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

/// Starts a worker with its sockets of every listener.
pub(crate) fn start(
    id: u8,
    node: Arc<NodeShared>,
    counters: WorkerCounters,
    listeners: Vec<(Option<StdListener>, ListenerState)>,
    phase: watch::Receiver<Phase>,
    closing: watch::Receiver<bool>,
) -> io::Result<WorkerHandle> {
    end_on_panic();
    let thread = std::thread::Builder::new().name(format!("{THREAD}{id}")).spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = match builder.enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(worker = id, %error, "cannot start the worker's event loop");
                std::process::exit(1);
            }
        };
        node.metrics.add_runtime("workers", runtime.metrics());
        runtime.block_on(run(id, node, counters, listeners, phase, closing));
    })?;
    Ok(WorkerHandle { thread })
}

/// A panic of a worker ends the process. The event loop would catch it and drop the one task, and the node would go on
/// without a word while nobody writes, or nobody accepts, or with a state in which the rest of the task is missing. What
/// started the process starts it again; in a cluster the other nodes serve in the meantime.
fn end_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            report(panic);
            if std::thread::current().name().is_some_and(|name| name.starts_with(THREAD)) {
                std::process::abort();
            }
        }));
    });
}

type Shared = Rc<RefCell<Worker>>;

async fn run(
    id: u8,
    node: Arc<NodeShared>,
    counters: WorkerCounters,
    listeners: Vec<(Option<StdListener>, ListenerState)>,
    mut phase: watch::Receiver<Phase>,
    mut closing: watch::Receiver<bool>,
) {
    let (sockets, states): (Vec<_>, Vec<_>) = listeners.into_iter().unzip();
    let workers = node.inboxes.len();
    // Before the settings are used: what comes later is seen.
    let mut live = node.live.subscribe();
    let rules = Arc::clone(&live.borrow().rules);
    let mut bans = node.bans.subscribe();
    let worker: Shared = Rc::new(RefCell::new(Worker {
        id,
        origins: Origins { node: 0, next: first_sequence(id) },
        counters,
        conns: Slab::new(),
        clients: Slab::new(),
        by_id: HashMap::default(),
        authenticating: HashMap::default(),
        index: SubscriptionIndex::new(),
        cache: TopicCache::new(node.routes.clone(), CACHED_TOPICS),
        wheel: Wheel::new(node.clock.ms()),
        expiries: Wheel::new(node.clock.ms()),
        due: Vec::new(),
        read_at: node.clock.now(),
        read_buffer: vec![0; READ_BUFFER],
        lingering: 0,
        plain: Vec::new(),
        spares: Spares::default(),
        actions: Vec::new(),
        matched: Vec::new(),
        targets: Targets::default(),
        dirty: Vec::new(),
        outgoing: (0..workers).map(|_| Outgoing::default()).collect(),
        sent: 0,
        handed_over: 0,
        stalled: Vec::new(),
        throttled: Throttled::new(states.len()),
        unserved: false,
        flush: Rc::new(Notify::new()),
        bans: Arc::clone(&bans.borrow_and_update()),
        listeners: Rc::new(states),
        rules,
        barriers: VecDeque::new(),
        barrier_ready: Rc::new(Notify::new()),
        replays: Replays::default(),
        replay_ready: Rc::new(Notify::new()),
        unclaimed: false,
        claiming_again: false,
        wills: PendingWills::new(wills_of_a_worker(&node.features.wills, workers)),
        due_messages: Vec::new(),
        arrived: VecDeque::new(),
        system: None,
        next_stored_ms: 0,
        desk: node.shards.clone().map(|shards| Box::new(ShardDesk::new(&node, shards, id))),
        later: VecDeque::new(),
        later_ready: Rc::new(Notify::new()),
        shard_stalled: Vec::new(),
        shard_replays: super::shard_replay::ShardReplays::default(),
        given: super::given::GivenAll::default(),
        committing: VecDeque::new(),
        node,
    }));
    if id == 0 {
        let system = System::new(&worker.borrow());
        worker.borrow_mut().system = Some(Box::new(system));
    }
    let mut accepting = Vec::new();
    for (number, socket) in (0u16..).zip(sockets) {
        if let Some(socket) = socket {
            accepting.push(spawn_local(accept(Rc::clone(&worker), number, socket)));
        }
    }
    spawn_local(flush(Rc::clone(&worker)));
    spawn_local(receive(Rc::clone(&worker), phase.clone()));
    spawn_local(barriers(Rc::clone(&worker)));
    spawn_local(replay(Rc::clone(&worker)));
    spawn_local(time(Rc::clone(&worker)));
    spawn_local(enforce(Rc::clone(&worker), bans));
    spawn_local(throttled(Rc::clone(&worker)));
    spawn_local(later(Rc::clone(&worker)));
    loop {
        tokio::select! {
            // A standalone node has nobody who would change it: then only the other branch is left.
            Ok(()) = phase.changed() => {
                let now = *phase.borrow_and_update();
                let mut worker = worker.borrow_mut();
                if now == Phase::Closed {
                    if worker.node.lease.goes_on() {
                        worker.part_from_quorum();
                    } else {
                        let open = worker.clients_open();
                        worker.node.healings.closed(open);
                        worker.close_all(ReasonCode::UseAnotherServer, false);
                    }
                    worker.node.lease.has_closed();
                }
                worker.wake_all();
            }
            Ok(()) = live.changed() => {
                let now = Arc::clone(&live.borrow_and_update());
                worker.borrow_mut().renew(&now);
            }
            _ = closing.wait_for(|closing| *closing) => break,
        }
    }
    for task in accepting {
        task.abort();
    }
    worker.borrow_mut().begin_end();
    let node = Arc::clone(&worker.borrow().node);
    // What a connection that closes has for a group goes to nobody of this node: a worker that has not got here yet would still be
    // chosen, and might be gone before it gets it. Nor do other nodes find anybody here. One that never gets here does not hold up the
    // others.
    let agreed = async {
        while !node.all_leaving() || node.chosen.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(AGREEMENT, agreed).await;
    worker.borrow_mut().close_all(ReasonCode::ServerShuttingDown, node.delivers());
    let drained = async {
        while worker.borrow().connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    let mut worker = worker.borrow_mut();
    if worker.node.delivers() {
        // What another worker chose one of its members for before that one was known to leave.
        worker.catch_up();
    }
    // Who did not read to the end is gone like the others: its session is kept or ends, and its will counts.
    worker.end_all();
    if worker.node.delivers() {
        // The node's sessions end with it [MQTT-3.1.2-8], and what was for others of a group goes to them.
        worker.publish_due_wills(u64::MAX);
        worker.leave_shared();
        worker.hand_over_all();
    }
}

/// Closes who is banned while connected, a part of the connections at a time.
async fn enforce(worker: Shared, mut bans: watch::Receiver<Arc<InForce>>) {
    while bans.changed().await.is_ok() {
        let now = Arc::clone(&bans.borrow_and_update());
        let keys = worker.borrow_mut().bans_changed(now);
        for part in keys.chunks(ENFORCED_A_TURN) {
            {
                let mut worker = worker.borrow_mut();
                part.iter().for_each(|key| worker.enforce(*key));
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Lets connections that wait because of a rate go on when they may.
async fn throttled(worker: Shared) {
    let begun = Rc::clone(&worker.borrow().throttled.begun);
    loop {
        if !worker.borrow_mut().look_at_throttled() {
            begun.notified().await;
        }
        tokio::time::sleep(rates::PERIOD).await;
    }
}

/// Each worker keeps the wills of its own clients.
fn wills_of_a_worker(all: &WillSettings, workers: usize) -> WillSettings {
    let share = |most: usize| most.div_ceil(workers.max(1));
    WillSettings { max_wills: share(all.max_wills), max_bytes: share(all.max_bytes) }
}

/// Numbers for messages that neither another worker nor an earlier run gives: the time of the start, and the worker.
fn first_sequence(id: u8) -> u64 {
    let unix = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Milliseconds leave room for 2^16 messages each, over all of a worker's run; the worker's number is above them.
    (u64::from(id) << 58) | ((u64::try_from(unix.as_millis()).unwrap_or(0) << 16) & ((1 << 58) - 1))
}

async fn accept(worker: Shared, number: u16, socket: StdListener) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot listen");
            std::process::exit(1);
        }
    };
    let mut exhausted = false;
    loop {
        match listener.accept().await {
            Ok((socket, address)) => {
                exhausted = false;
                if worker.borrow().refuses(number, address) {
                    worker.borrow().refused(number, address, RefuseReason::Banned);
                    continue;
                }
                let states = Rc::clone(&worker.borrow().listeners);
                let node = Arc::clone(&worker.borrow().node);
                states[usize::from(number)].wait_to_accept(&node.clock).await;
                // A handshake is the most expensive of what would be refused in the end.
                if states[usize::from(number)].tls.is_some() && worker.borrow().node.overload.sheds() {
                    worker.borrow().refused(number, address, RefuseReason::Overload);
                    continue;
                }
                if !states[usize::from(number)].opened() {
                    worker.borrow().refused(number, address, RefuseReason::Limit);
                    continue;
                }
                worker.borrow().counters.connection_opened();
                // Small packets must not wait for each other. An error means that the client is gone already.
                let _ = socket.set_nodelay(true);
                let state = &states[usize::from(number)];
                let layered = match state.layers() {
                    Ok(layers) => Outlet::new(layers).into_layered(),
                    Err(error) => {
                        tracing::error!(listener = state.name, %error, "a connection cannot be served");
                        worker.borrow().gone(number);
                        continue;
                    }
                };
                let peer = Box::new(PeerInfo::new(address, state.transport));
                let rest = Rest { listener: number, peer, layered, bytes: Vec::new(), ended: false };
                take_in(&worker, Socket::Tcp(socket), rest);
            }
            Err(error) if super::listener::is_exhaustion(&error) => {
                // Said once for a time of want, not at every try.
                if !exhausted {
                    let name = worker.borrow().listeners[usize::from(number)].name.clone();
                    tracing::warn!(listener = name, %error, "cannot accept connections; raise the limit of open files");
                }
                exhausted = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The client gave up before it was accepted.
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
}

fn take_in(worker: &Shared, socket: Socket, rest: Rest) {
    let socket = Rc::new(socket);
    let key = worker.borrow_mut().add(Rc::clone(&socket), rest);
    spawn_local(ConnectionTask::new(Rc::clone(worker), key, socket));
}

/// A connection, counted already, that comes from another thread.
fn settle(worker: &Shared, socket: Loose, rest: Rest) {
    match Socket::settle(socket) {
        Ok(socket) => take_in(worker, socket, rest),
        Err(error) => {
            tracing::warn!(%error, "a connection was lost between two workers");
            worker.borrow().gone(rest.listener);
        }
    }
}

/// Writes to the clients and hands over to the other workers, after the turn in which there was something.
async fn flush(worker: Shared) {
    let ready = Rc::clone(&worker.borrow().flush);
    loop {
        ready.notified().await;
        loop {
            let all = {
                let mut worker = worker.borrow_mut();
                // First handed over, then acknowledged: who subscribes after the acknowledgement finds nothing older on its way. Who
                // published what is still here is not written to.
                let all = worker.flush_outgoing();
                worker.flush_all();
                all
            };
            if all {
                break;
            }
            tokio::time::sleep(HAND_OVER_PAUSE).await;
        }
    }
}

/// Takes what other threads hand over. A node that may not serve delivers nothing: it waits, and its publishers with it.
async fn receive(worker: Shared, mut phase: watch::Receiver<Phase>) {
    let (node, id) = {
        let worker = worker.borrow();
        (Arc::clone(&worker.node), usize::from(worker.id))
    };
    loop {
        node.inboxes[id].ready().await;
        may_deliver(&node, &mut phase).await;
        worker.borrow_mut().take_from_shards();
        worker.borrow_mut().take_arrived();
        let mut budget = 0;
        let mut now = node.clock.now();
        loop {
            let Some(item) = worker.borrow_mut().arrived.pop_front() else {
                break;
            };
            match item {
                Item::Publish(message) => worker.borrow_mut().deliver(&message, now),
                Item::Shared(shared) => worker.borrow_mut().receive_shared(*shared),
                Item::Adopt(adopted) => {
                    let Adopted { socket, rest } = *adopted;
                    settle(&worker, socket, rest);
                }
                Item::Accept(accepted) => {
                    let Adopted { socket, rest } = *accepted;
                    worker.borrow().counters.connection_opened();
                    if node.closing.load(Ordering::Acquire) {
                        worker.borrow().gone(rest.listener);
                    } else {
                        settle(&worker, socket, rest);
                    }
                }
                Item::Refused(reason) => worker.borrow().count_refused(reason),
                #[cfg(test)]
                Item::Panic => panic!("as the test wants it"),
                #[cfg(test)]
                Item::Hold(until) => drop(until.recv()),
            }
            budget += 1;
            if budget % 256 == 0 {
                // What was delivered is written, and the connections have their turn.
                tokio::task::yield_now().await;
                may_deliver(&node, &mut phase).await;
                now = node.clock.now();
            }
        }
    }
}

/// Waits while the node holds no lease, until it has one again or has closed its clients: then what waits is for sessions.
async fn may_deliver(node: &NodeShared, phase: &mut watch::Receiver<Phase>) {
    while !node.delivers() && *phase.borrow() != Phase::Closed {
        // The phase tells of most changes at once; a lease may come back without one.
        if let Ok(Err(_)) = tokio::time::timeout(FENCED_PAUSE, phase.changed()).await {
            // Nobody tells of it any more: the node is about to end.
            tokio::time::sleep(FENCED_PAUSE).await;
        }
    }
}

/// What waits for something: a task each.
async fn later(worker: Shared) {
    let ready = Rc::clone(&worker.borrow().later_ready);
    loop {
        ready.notified().await;
        let waiting = std::mem::take(&mut worker.borrow_mut().later);
        for later in waiting {
            spawn_local(later(Rc::clone(&worker)));
        }
    }
}

/// Lets SUBACKs wait for their barriers.
async fn barriers(worker: Shared) {
    let ready = Rc::clone(&worker.borrow().barrier_ready);
    loop {
        ready.notified().await;
        let waiting = std::mem::take(&mut worker.borrow_mut().barriers);
        for barrier in waiting {
            let worker = Rc::clone(&worker);
            spawn_local(async move {
                let (result, floors) = barrier.reached.await;
                worker.borrow_mut().barrier_done(barrier.key, barrier.request, result, floors);
            });
        }
    }
}

/// Gives subscriptions that are not through the retained messages their turns, between those of all others.
async fn replay(worker: Shared) {
    let ready = Rc::clone(&worker.borrow().replay_ready);
    loop {
        ready.notified().await;
        while worker.borrow_mut().replay_turn() {
            tokio::task::yield_now().await;
        }
    }
}

/// Time: deadlines of connections and sessions, and the sign of life.
async fn time(worker: Shared) {
    let mut ticks = tokio::time::interval(Wheel::period());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = ticks.tick().await;
        let mut worker = worker.borrow_mut();
        worker.counters.beat(due.elapsed());
        worker.serve_again();
        worker.origins.node = worker.node.raft_id.load(Ordering::Relaxed);
        let now = worker.node.clock.ms();
        let mut due = std::mem::take(&mut worker.due);
        worker.wheel.advance(now, &mut due);
        for key in due.drain(..) {
            worker.on_deadline(key);
        }
        worker.expiries.advance(now, &mut due);
        for client in due.drain(..) {
            worker.on_expiry(client);
        }
        worker.due = due;
        worker.on_tick(now);
    }
}
