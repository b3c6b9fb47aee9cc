//! Clusters of nodes in one process: real links with certificates, real logs, loopback only.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftmq_cluster::{Cluster, ClusterConfig, Forwarded, LeaseParams, ShardOptions, Stage, StartError};
use raftmq_discovery::{DiscoverySettings, Strategy};
use raftmq_links::pki::{ClusterCa, TlsMaterial};
use raftmq_links::{LinkConfig, LinkOptions};
use raftmq_raft::{RaftOptions, Role};
use raftmq_routing::{LocalRoutesOptions, SharedRoutes, Targets};
use raftmq_storage::{StoreOptions, WalOptions};

pub const NAME: &str = "test";
/// L and D of the tests.
pub const LEASE: LeaseParams = LeaseParams { length: 1_000_000_000, close: 2_000_000_000 };

/// Everything that outlives a node's process: directories, certificates, addresses.
pub struct Lab {
    root: tempfile::TempDir,
    ca: ClusterCa,
    addresses: Mutex<Vec<(String, SocketAddr)>>,
    shards: Option<ShardOptions>,
    zones: Mutex<BTreeMap<String, String>>,
    lease: LeaseParams,
}

/// A node's process.
pub struct Process {
    pub name: String,
    pub cluster: Cluster,
    pub routes: SharedRoutes,
    pub received: Arc<Mutex<Vec<(u64, Bytes)>>>,
    /// Frames for groups that came back.
    pub returned: Arc<Mutex<Vec<(Bytes, bool)>>>,
}

impl Lab {
    pub fn new() -> Self {
        if std::env::var_os("RUST_LOG").is_some() {
            let _ = tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                .with_test_writer()
                .try_init();
        }
        Self {
            root: tempfile::tempdir().unwrap(),
            ca: ClusterCa::create(NAME).unwrap(),
            addresses: Mutex::default(),
            shards: None,
            zones: Mutex::default(),
            lease: LEASE,
        }
    }

    /// Clusters that get shards.
    pub fn with_shards(shards: ShardOptions) -> Self {
        // A change of leader on a busy machine must not end the life of a node whose operations are watched.
        Self { shards: Some(shards), lease: LeaseParams::default(), ..Self::new() }
    }

    /// The zone of a node from its next start on.
    pub fn set_zone(&self, name: &str, zone: &str) {
        self.zones.lock().unwrap().insert(name.into(), zone.into());
    }

    /// Clusters with other leases.
    pub fn with_lease(lease: LeaseParams) -> Self {
        Self { lease, ..Self::new() }
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The address of a node, the same at each of its starts.
    pub fn address(&self, name: &str) -> SocketAddr {
        let mut addresses = self.addresses.lock().unwrap();
        if let Some((_, address)) = addresses.iter().find(|(n, _)| n == name) {
            return *address;
        }
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        addresses.push((name.to_owned(), address));
        address
    }

    /// From now on every node has another address.
    pub fn move_all(&self) {
        self.addresses.lock().unwrap().clear();
    }

    pub fn config(&self, name: &str, peers: &[&str]) -> ClusterConfig {
        let issued = self.ca.issue_node(NAME, name, &[]).unwrap();
        let tls =
            TlsMaterial { ca_pem: self.ca.cert_pem().to_owned(), cert_pem: issued.cert_pem, key_pem: issued.key_pem };
        let address = self.address(name);
        let mut links = LinkConfig::new(address, tls);
        links.options = LinkOptions { backoff_max: Duration::from_millis(300), ..LinkOptions::default() };
        let peers = peers.iter().map(|p| self.address(p).to_string()).collect();
        ClusterConfig {
            cluster: NAME.to_owned(),
            node: name.to_owned(),
            zone: self.zones.lock().unwrap().get(name).cloned().unwrap_or_default(),
            data_dir: self.dir(name),
            advertise: address.to_string(),
            control: String::new(),
            version: "test".to_owned(),
            links,
            discovery: DiscoverySettings { strategy: Strategy::Static { peers }, refresh: Duration::from_secs(1) },
            // Half of the defaults, as L: a leader's successor must be there before leases end.
            raft: RaftOptions {
                heartbeat: Duration::from_millis(50),
                election_min: Duration::from_millis(200),
                election_max: Duration::from_millis(300),
                ..RaftOptions::default()
            },
            lease: self.lease,
            wal: WalOptions { segment_bytes: 1 << 20, ballast_bytes: 0, min_free_bytes: 0, ..WalOptions::default() },
            store: StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() },
            routes: LocalRoutesOptions { linger_ms: 50, ..LocalRoutesOptions::default() },
            barrier_deadline: Duration::from_secs(15),
            compare_every: Some(Duration::from_secs(1)),
            shards: self.shards,
            serve_local: false,
        }
    }

    /// Starts a node that knows the addresses of `peers`. What an earlier process of it holds may take a moment to be let go.
    pub async fn start(&self, name: &str, peers: &[&str]) -> Process {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            match self.try_start(name, peers).await {
                Ok(process) => return process,
                Err(error) if Instant::now() > deadline => panic!("{name}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub async fn try_start(&self, name: &str, peers: &[&str]) -> Result<Process, StartError> {
        let routes = SharedRoutes::new();
        let received: Arc<Mutex<Vec<(u64, Bytes)>>> = Arc::default();
        let sink = Arc::clone(&received);
        let returned: Arc<Mutex<Vec<(Bytes, bool)>>> = Arc::default();
        let back = Arc::clone(&returned);
        let handler = Arc::new(move |forwarded| match forwarded {
            Forwarded::From(from, frame) => sink.lock().unwrap().push((from, frame)),
            Forwarded::Back { frame, handled } => back.lock().unwrap().push((frame, handled)),
        });
        let cluster = Cluster::start(self.config(name, peers), routes.clone(), handler).await?;
        Ok(Process { name: name.to_owned(), cluster, routes, received, returned })
    }

    pub async fn start_all(&self, names: &[&str]) -> Vec<Process> {
        let mut all = Vec::new();
        for name in names {
            all.push(self.start(name, names).await);
        }
        all
    }

    /// Nodes that form a cluster and all serve.
    pub async fn form(&self, names: &[&str]) -> Vec<Process> {
        let all = self.start_all(names).await;
        bootstrap(&all[0], names).await;
        serving(&all).await;
        all
    }
}

impl Process {
    pub async fn kill(self) {
        self.cluster.kill().await;
    }

    pub fn id(&self) -> u64 {
        self.cluster.status().raft_id.unwrap_or(0)
    }

    pub fn is_serving(&self) -> bool {
        self.cluster.lease().is_serving()
    }

    /// The nodes that a message of this topic would be forwarded to.
    pub fn targets(&self, topic: &str) -> Vec<u64> {
        let mut targets = Targets::default();
        self.routes.lookup(topic, &mut targets);
        targets.nodes.iter().copied().collect()
    }

    /// The shards that have durable sessions which want this topic.
    pub fn shards(&self, topic: &str) -> Vec<u16> {
        let mut targets = Targets::default();
        self.routes.lookup(topic, &mut targets);
        targets.shards().to_vec()
    }

    pub fn voters(&self, group: usize) -> BTreeSet<u64> {
        self.cluster.status().groups.get(group).map(|(_, s)| s.voters.clone()).unwrap_or_default()
    }

    pub fn meta_leader(&self) -> Option<u64> {
        self.cluster.status().groups.first().and_then(|(_, s)| s.leader)
    }
}

pub async fn bootstrap(by: &Process, names: &[&str]) -> u128 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        match by.cluster.control().bootstrap(names).await {
            Ok(id) => return id,
            Err(error) if Instant::now() > deadline => panic!("bootstrap: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits for a condition; says what was the matter when it does not come.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 40 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn serving(all: &[Process]) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !all.iter().all(Process::is_serving) {
        assert!(Instant::now() < deadline, "not all serve: {}", describe(all));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A node that was asked to leave serves no more and is out.
pub async fn has_left(process: &Process) {
    let stopped = || process.cluster.status().groups.iter().all(|(_, group)| group.role == Role::Stopped);
    let deadline = Instant::now() + Duration::from_secs(40);
    // Nothing of it asks for votes any more, whatever its own log says.
    while process.is_serving() || *process.cluster.stage().borrow() != Stage::Left || !stopped() {
        assert!(Instant::now() < deadline, "it has not left: {}", describe(std::slice::from_ref(process)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn describe(all: &[Process]) -> String {
    let of = |p: &Process| {
        let s = p.cluster.status();
        let groups: Vec<_> = s.groups.iter().map(|(name, g)| format!("{name} {:?} {:?}", g.role, g.voters)).collect();
        format!("{} {:?} {:?} {:?} {} {groups:?}", p.name, s.stage, s.phase, s.raft_id, s.detail)
    };
    all.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// Members by name, as a node knows them.
pub fn members(process: &Process) -> Vec<(String, u64)> {
    process.cluster.control().members().into_iter().map(|m| (m.name, m.id)).collect()
}
