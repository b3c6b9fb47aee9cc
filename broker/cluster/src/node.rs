//! The node itself: what all parts share, and its way from an empty directory to a member.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftmq_discovery::Discovery;
use raftmq_links::{Hello, Links};
use raftmq_meta::{Lease, MetaState, NodeAddresses, Phase};
use raftmq_raft::{Group, Groups};
use raftmq_routing::SharedRoutes;
use raftmq_shard::NodeBoot;
use raftmq_storage::{StateStore, Wal};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info, warn};

use crate::barrier::Barriers;
use crate::cluster::ForwardHandler;
use crate::config::ClusterConfig;
use crate::error::{Fatal, StartError};
use crate::identity::DataDir;
use crate::leader::Desk;
use crate::lease::LeaseState;
use crate::machine::SharedMachine;
use crate::net::Net;
use crate::routes::RoutesOwner;
use crate::shards::{self, Lanes, Replicas};
use crate::status::{ClusterCounters, ClusterStatus, Stage};
use crate::{META, ROUTES, clock, handler, join, member, permission};

/// Between two tries of what failed.
pub(crate) const RETRY: Duration = Duration::from_millis(200);
/// For one call to a peer.
pub(crate) const CALL: Duration = Duration::from_secs(1);

/// Time for the other nodes to take something of the last messages of this one's clients when it ends. Who is gone takes nothing …
const LAST_FRAMES: Duration = Duration::from_secs(1);
/// … and who is slow may take so long in all.
const LAST_FRAMES_MOST: Duration = Duration::from_secs(5);

/// What all parts of the node share.
pub(crate) struct Node {
    pub(crate) config: ClusterConfig,
    pub(crate) data: Arc<DataDir>,
    pub(crate) net: Arc<Net>,
    pub(crate) wal: Wal,
    store: StateStore,
    pub(crate) discovery: Discovery,
    pub(crate) lease: Arc<LeaseState>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) stage: watch::Sender<Stage>,
    detail: Mutex<String>,
    pub(crate) meta: watch::Sender<Arc<MetaState>>,
    pub(crate) shared_routes: SharedRoutes,
    pub(crate) routes: RoutesOwner,
    pub(crate) barriers: Arc<Barriers>,
    pub(crate) counters: ClusterCounters,
    pub(crate) on_forward: ForwardHandler,
    lanes: Arc<Lanes>,
    pub(crate) shard_listener: shards::ListenerPlace,
    pub(crate) on_kick: OnceLock<shards::KickHandler>,
    /// The nodes that follow shards here without a replica.
    pub(crate) followers: Arc<shards::Followers>,
    pub(crate) on_live: OnceLock<shards::LiveHandler>,
    /// Those who publish to live subscribers are about to end.
    pub(crate) live_ends: AtomicBool,
    fatal: watch::Sender<Option<Fatal>>,
    running: OnceLock<Running>,
    /// A bootstrap wrote that this node is a member.
    pub(crate) begun: Notify,
    /// The number of the stream of routes under which it held a lease last.
    pub(crate) served_stream: AtomicU64,
    /// The lease was prolonged or given back.
    pub(crate) lease_changed: Notify,
    /// One bootstrap at a time.
    pub(crate) bootstrapping: tokio::sync::Mutex<()>,
    /// None once the node was stopped: nothing is started any more.
    tasks: Mutex<Option<JoinSet<()>>>,
    groups: OnceLock<Groups>,
}

/// What exists once the node is a member.
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) groups: Groups,
    pub(crate) meta: Group,
    pub(crate) routes: Group,
    pub(crate) machine: SharedMachine,
    /// The stream that routes holds open for this node.
    pub(crate) own_stream: watch::Receiver<Option<(u64, u64)>>,
    /// The meta leader's desk; empty while another node leads.
    pub(crate) desk: Desk,
    /// This node's lease.
    pub(crate) lease: Mutex<Lease>,
    /// The cluster knows this boot: it may ask for a lease.
    pub(crate) booted: watch::Sender<bool>,
    /// The replicas of shards that run here.
    pub(crate) shards: Replicas,
    /// How far shards are committed, for all who want to know at once.
    pub(crate) shard_rounds: shards::Rounds<Option<u64>>,
    /// Whether nodes are fenced, for all who want to know at once.
    pub(crate) fence_rounds: shards::Rounds<bool, NodeBoot>,
    /// Queues of clients of this node in shards that it has no replica of.
    pub(crate) remote: shards::Remote,
    /// Where nodes report the shards that they lead, while this node leads the meta group.
    pub(crate) shard_desk: shards::Desk,
}

impl Running {
    pub(crate) fn group(&self, number: u32) -> Option<&Group> {
        match number {
            n if n == META.number => Some(&self.meta),
            n if n == ROUTES.number => Some(&self.routes),
            _ => None,
        }
    }

    /// As [`Self::group`], or that of a shard that this node has a replica of.
    pub(crate) fn any_group(&self, number: u32) -> Option<Group> {
        self.group(number).cloned().or_else(|| self.shards.of_group(number).map(|replica| replica.group))
    }

    pub(crate) fn id_of(&self) -> u64 {
        self.id
    }

    pub(crate) fn own_lease(&self) -> std::sync::MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names of the groups, for people.
pub(crate) const GROUPS: [(&str, u32); 2] = [("meta", META.number), ("routes", ROUTES.number)];

impl Node {
    pub(crate) async fn start(
        config: ClusterConfig,
        shared_routes: SharedRoutes,
        on_forward: ForwardHandler,
    ) -> Result<Arc<Self>, StartError> {
        let opening = config.clone();
        let opened = tokio::task::spawn_blocking(move || open(&opening)).await;
        let (data, wal, store) = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        info!(boot = data.boot, incarnation = %format!("{:032x}", data.incarnation), "data directory opened");
        let discovery = Discovery::start(config.discovery.clone())?;
        let member = data.identity().member;
        let mut hello = Hello::new(&config.cluster, &config.node, data.incarnation, data.boot);
        hello.raft_id = member.map_or(0, |m| m.raft_id);
        hello.feature_level = config.feature_level();
        let barriers = Arc::new(Barriers::new());
        let node = Arc::new(Self {
            net: Net::new(),
            data: Arc::new(data),
            wal,
            store,
            discovery,
            lease: Arc::default(),
            phase: watch::Sender::new(Phase::Closed),
            stage: watch::Sender::new(Stage::WaitingForCluster),
            detail: Mutex::default(),
            meta: watch::Sender::default(),
            routes: RoutesOwner::new(shared_routes.clone(), config.routes.clone(), Arc::clone(&barriers)),
            shared_routes,
            barriers,
            counters: ClusterCounters::default(),
            on_forward,
            lanes: Arc::new(Lanes::new()),
            shard_listener: Arc::default(),
            on_kick: OnceLock::new(),
            followers: Arc::default(),
            on_live: OnceLock::new(),
            live_ends: AtomicBool::new(false),
            fatal: watch::Sender::new(None),
            running: OnceLock::new(),
            begun: Notify::new(),
            served_stream: AtomicU64::new(0),
            lease_changed: Notify::new(),
            bootstrapping: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(Some(JoinSet::new())),
            groups: OnceLock::new(),
            config,
        });
        node.net.set_addresses(node.data.known_members().members);
        let handler = handler::LinkHandler::new(&node);
        let links = Links::start(node.config.links.clone(), hello, Arc::new(handler)).await?;
        node.net.set_links(links);
        node.spawn(watch_wal(Arc::clone(&node)));
        node.spawn(live(Arc::clone(&node)));
        Ok(node)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_task(task);
    }

    /// As [`Node::spawn`], for what may have to be ended before the node is. `None`: the node was stopped.
    pub(crate) fn spawn_task(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = tasks.as_mut()?;
        // What has ended would stay: replicas and lanes come and go.
        while tasks.try_join_next().is_some() {}
        Some(tasks.spawn(task))
    }

    /// The lanes of this node's workers to the shards.
    pub(crate) fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    /// Says whether it was the first time.
    pub(crate) fn set_running(&self, running: Running) -> bool {
        self.running.set(running).is_ok()
    }

    pub(crate) fn set_groups(&self, groups: Groups) {
        // Set once: a node becomes a member once.
        let _ = self.groups.set(groups);
    }

    pub(crate) fn store(&self) -> StateStore {
        self.store.clone()
    }

    pub(crate) fn raft_id(&self) -> Option<u64> {
        self.data.identity().member.map(|m| m.raft_id)
    }

    pub(crate) fn meta_state(&self) -> Arc<MetaState> {
        Arc::clone(&self.meta.borrow())
    }

    pub(crate) fn addresses(&self) -> NodeAddresses {
        NodeAddresses { link: self.config.advertise.clone(), control: self.config.control.clone() }
    }

    /// Whom one could ask: found ones and those of the last run, without this node itself.
    pub(crate) fn candidates(&self) -> Vec<String> {
        let own_id = self.raft_id();
        let known = self.net.addresses();
        let known = known.iter().filter(|(id, _)| Some(**id) != own_id).map(|(_, address)| address.clone());
        let mut all: Vec<String> = known.chain(self.discovered()).filter(|a| *a != self.config.advertise).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What discovery found last, without this node itself.
    pub(crate) fn discovered(&self) -> Vec<String> {
        let found = self.discovery.peers();
        let found = found.borrow();
        found.addresses().filter(|a| *a != self.config.advertise).map(str::to_owned).collect()
    }

    /// Runs a change of the directory's files where blocking is allowed.
    pub(crate) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DataDir) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let data = Arc::clone(&self.data);
        match tokio::task::spawn_blocking(move || work(&data)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                // What is on the disk is unknown now, unless there was no room for the new file: then it is the old one.
                if error.kind() != std::io::ErrorKind::StorageFull {
                    self.fail(Fatal::Storage(error.to_string()));
                }
                Err(error.to_string())
            }
            Err(_) => Err("the node is shutting down".to_owned()),
        }
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.send_if_modified(|known| {
            let changes = *known != stage && *known != Stage::Failed;
            if changes {
                info!(stage = stage.name(), "stage");
                *known = stage;
            }
            changes
        });
    }

    /// Says what the node waits for.
    pub(crate) fn set_detail(&self, detail: impl Into<String>) {
        let detail = detail.into();
        let mut known = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != detail {
            if !detail.is_empty() {
                info!("{detail}");
            }
            *known = detail;
        }
    }

    /// The process must end. The first reason counts.
    pub(crate) fn fail(&self, fatal: Fatal) {
        self.lease.end();
        self.phase.send_replace(Phase::Closed);
        // The stage before the reason, for who wakes up by the reason and looks at the stage.
        if !self.has_failed() {
            error!("{fatal}");
            *self.detail.lock().unwrap_or_else(PoisonError::into_inner) = fatal.to_string();
            self.stage.send_replace(Stage::Failed);
        }
        self.fatal.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(fatal);
            first
        });
        // A lease that was granted at the same moment: who stores it looks for a failure under this lock.
        if let Some(running) = self.running() {
            let _lease = running.own_lease();
            self.lease.end();
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.fatal.borrow().is_some()
    }

    pub(crate) async fn failed(&self) -> Fatal {
        let mut fatal = self.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await.map(|f| f.clone()) {
            Ok(Some(fatal)) => fatal,
            _ => std::future::pending().await,
        }
    }

    pub(crate) fn forward(&self, nodes: &[u64], frame: &Bytes) -> usize {
        let mut taken = 0;
        for node in nodes {
            match self.net.send(*node, frame.clone()) {
                Ok(()) => {
                    taken += 1;
                    ClusterCounters::add(&self.counters.forwards_out);
                }
                Err(_) => ClusterCounters::add(&self.counters.forwards_dropped),
            }
        }
        taken
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        let identity = self.data.identity();
        let running = self.running();
        let groups = running.map(|r| {
            GROUPS.iter().filter_map(|(name, n)| Some((*name, r.group(*n)?.status().borrow().clone()))).collect()
        });
        ClusterStatus {
            stage: self.stage.borrow().clone(),
            detail: self.detail.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            cluster: identity.cluster,
            cluster_id: identity.member.map(|m| m.cluster_id),
            node: identity.node,
            raft_id: identity.member.map(|m| m.raft_id),
            incarnation: identity.incarnation,
            boot: self.data.boot,
            phase: self.phase_now(),
            lease_left: clock::until(self.lease.deadline()),
            watermark: self.barriers.watermark(),
            meta: self.meta_state(),
            groups: groups.unwrap_or_default(),
            peers: self.net.try_links().map(Links::peers).unwrap_or_default(),
            rpc: running.map(|r| r.groups.counters()).unwrap_or_default(),
            own_routes: self.routes.len(),
        }
    }

    /// By the clock: a node that hung is asked before it has told itself that its lease is over.
    fn phase_now(&self) -> Phase {
        match *self.phase.borrow() {
            Phase::Serving if !self.lease.is_serving() => Phase::Fenced,
            phase => phase,
        }
    }

    pub(crate) async fn shutdown(&self) {
        self.lease.end();
        self.phase.send_replace(Phase::Closed);
        // Wills among them, and what sessions had for groups.
        let last_frames = async {
            if let Some(links) = self.net.try_links() {
                drain(links).await;
            }
        };
        tokio::join!(self.hand_over_groups(), last_frames);
        self.lanes.begin(None);
        self.stop().await;
    }

    /// Gives back the lease and leads no group any more.
    async fn hand_over_groups(&self) {
        if let Some(running) = self.running() {
            crate::lease::release(self, running).await;
            let shards = running.shards.all();
            // All shards at once: there may be many.
            futures::future::join_all(shards.iter().map(|shard| hand_over(&shard.group))).await;
            for group in [&running.meta, &running.routes] {
                hand_over(group).await;
            }
        }
    }

    pub(crate) async fn kill(&self) {
        self.net.isolate(true);
        self.lease.end();
        self.lanes.begin(None);
        self.stop().await;
    }

    async fn stop(&self) {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
        if let Some(groups) = self.groups.get() {
            groups.shutdown().await;
        }
        if let Some(links) = self.net.try_links() {
            links.shutdown().await;
        }
        let wal = self.wal.clone();
        match tokio::task::spawn_blocking(move || wal.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("closing the log: {error}"),
            Err(_) => warn!("closing the log was interrupted"),
        }
    }
}

/// Waits until the other nodes have what was sent to them, while they take it.
async fn drain(links: &Links) {
    let waiting = || links.peers().iter().map(|peer| peer.queue_bytes as u64).sum::<u64>();
    let begun = Instant::now();
    let (mut least, mut moved) = (waiting(), begun);
    while !links.drain(RETRY).await {
        let now = waiting();
        if now < least {
            (least, moved) = (now, Instant::now());
        }
        if moved.elapsed() >= LAST_FRAMES || begun.elapsed() >= LAST_FRAMES_MOST {
            return;
        }
    }
}

fn open(config: &ClusterConfig) -> Result<(DataDir, Wal, StateStore), StartError> {
    let data = DataDir::open(&config.data_dir, &config.cluster, &config.node)?;
    let (wal, report) = Wal::open(config.data_dir.join("wal"), config.wal.clone())?;
    if report.torn_bytes > 0 {
        info!(
            bytes = report.torn_bytes,
            reason = report.torn_reason,
            "an unfinished write at the end of the log was cut"
        );
    }
    let store = StateStore::open(config.data_dir.join("state"), config.store.clone())?;
    Ok((data, wal, store))
}

async fn watch_wal(node: Arc<Node>) {
    // Looked at rather than awaited: `Wal::failed` is a future for one thread only. The groups stop by themselves at once.
    loop {
        if let Some(failure) = node.wal.failure() {
            return node.fail(Fatal::Storage(failure.to_string()));
        }
        // Open files outlive their directory: without this a node would go on voting with a log that nobody finds again.
        if node.config.data_dir.join("lock").try_exists().is_ok_and(|exists| !exists) {
            let reason = format!("the data directory {} is gone", node.config.data_dir.display());
            return node.fail(Fatal::Storage(reason));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// From whatever the directory holds to a member.
async fn live(node: Arc<Node>) {
    let membership = match node.data.identity().member {
        Some(membership) => {
            node.set_stage(Stage::AskingPermission);
            if let Err(fatal) = permission::ask(&node, membership).await {
                return node.fail(fatal);
            }
            membership
        }
        None => match join::find(&node).await {
            Ok(membership) => membership,
            Err(fatal) => return node.fail(fatal),
        },
    };
    if let Err(fatal) = member::become_member(&node, membership).await {
        node.fail(fatal);
    }
}

/// Lets another voter lead, if this node leads.
async fn hand_over(group: &Group) {
    let status = group.status().borrow().clone();
    if status.is_leader() {
        let best = status.followers.iter().filter(|(id, _)| status.voters.contains(id));
        if let Some((to, _)) = best.max_by_key(|(_, follower)| follower.matched) {
            // Without it the others elect one after their timeout.
            let _ = tokio::time::timeout(CALL, group.transfer_leader(*to)).await;
        }
    }
}
