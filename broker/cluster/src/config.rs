//! What a node's part in the cluster needs to know.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use raftmq_config::{Config, DiscoveryStrategy};
use raftmq_discovery::{DiscoverySettings, Resolver};
use raftmq_links::pki::{SecretPem, TlsMaterial};
use raftmq_links::{LinkConfig, LinkOptions};
use raftmq_meta::{BANS_LEVEL, FEATURE_LEVEL, LeaseParams};
use raftmq_raft::RaftOptions;
use raftmq_routing::LocalRoutesOptions;
use raftmq_storage::{StoreOptions, WalOptions};
use thiserror::Error;

/// What a node's part in the cluster needs to know.
#[derive(Clone)]
pub struct ClusterConfig {
    /// The cluster's name; certificates carry it.
    pub cluster: String,
    /// The node's name in it.
    pub node: String,
    /// What fails together with it, for the placement of shards; empty where it is not known. At most [`raftmq_meta::shards::MAX_ZONE`] bytes.
    pub zone: String,
    /// Everything that the node keeps.
    pub data_dir: PathBuf,
    /// `host:port` under which peers reach this node's links.
    pub advertise: String,
    /// `host:port` of the node's control API, for people and tools; empty when there is none.
    pub control: String,
    /// Version of the binary, shown to people.
    pub version: String,
    /// Where links listen, certificates, bounds.
    pub links: LinkConfig,
    /// How peers are found.
    pub discovery: DiscoverySettings,
    /// Times and bounds of the groups.
    pub raft: RaftOptions,
    /// The serving lease: L and D.
    pub lease: LeaseParams,
    /// The write-ahead log.
    pub wal: WalOptions,
    /// The state store.
    pub store: StoreOptions,
    /// How route changes are proposed.
    pub routes: LocalRoutesOptions,
    /// How long a SUBACK may wait for the barrier.
    pub barrier_deadline: Duration,
    /// The shards of a cluster that has none yet; `None`: it gets none, as if the node were of a version without.
    pub shards: Option<ShardOptions>,
    /// Without a lease the node goes on serving what needs no quorum ([`crate::LeaseState::is_local`]).
    pub serve_local: bool,
    /// Between two comparisons of a shard's replicas; `None`: a minute.
    pub compare_every: Option<Duration>,
}

/// How many shards a cluster gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardOptions {
    /// How many.
    pub count: u16,
    /// The replicas of each, where there are so many members.
    pub replication: u8,
}

/// Why settings do not make a cluster's node.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The settings are those of a standalone node.
    #[error("the settings name no cluster")]
    Standalone,
    /// A certificate's file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The search for peers.
    #[error(transparent)]
    Discovery(#[from] raftmq_discovery::SettingsError),
}

impl ClusterConfig {
    /// The newest feature level that the node knows.
    pub(crate) fn feature_level(&self) -> u32 {
        if self.shards.is_some() { FEATURE_LEVEL } else { BANS_LEVEL }
    }

    /// The node that these settings describe. Reads the certificates; `version` is that of the binary; `control` is left
    /// empty, since its port may be known only once it is open.
    ///
    /// # Errors
    /// No cluster in the settings, or files that cannot be read. May block for the files.
    pub fn from_settings(config: &Config, version: &str) -> Result<Self, ConfigError> {
        let cluster = config.cluster.as_ref().ok_or(ConfigError::Standalone)?;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.clone(), source })
        };
        let links = &cluster.links;
        let tls = TlsMaterial {
            ca_pem: read(&links.tls.ca_file)?,
            cert_pem: read(&links.tls.cert_file)?,
            key_pem: SecretPem::new(read(&links.tls.key_file)?),
        };
        let discovery = DiscoverySettings::try_from(&cluster.discovery)?;
        let options = LinkOptions {
            max_frame_bytes: links.max_frame_bytes.as_usize(),
            send_queue_bytes: links.queue_bytes.as_usize(),
            connect_timeout: links.connect_timeout.into(),
            ..LinkOptions::default()
        };
        let raft = RaftOptions {
            heartbeat: cluster.raft.heartbeat_interval.into(),
            election_min: cluster.raft.election_timeout_min.into(),
            election_max: cluster.raft.election_timeout_max.into(),
            snapshot_bytes: cluster.raft.snapshot_bytes.bytes(),
            ..RaftOptions::default()
        };
        let wal = WalOptions {
            segment_bytes: config.storage.wal_segment_bytes.bytes(),
            ballast_bytes: config.storage.ballast_bytes.bytes(),
            ..WalOptions::default()
        };
        let store = StoreOptions { cache_bytes: config.storage.cache_bytes.bytes(), ..StoreOptions::default() };
        let resolver = Arc::new(PeerResolver::new(&cluster.discovery));
        Ok(Self {
            cluster: cluster.name.clone(),
            node: config.node.name.clone(),
            zone: config.node.zone.clone(),
            data_dir: config.node.data_dir.clone(),
            advertise: links.advertised(),
            control: String::new(),
            version: version.to_owned(),
            links: LinkConfig { listen: links.listen.get(), tls, options, resolver },
            discovery,
            raft,
            lease: LeaseParams::default(),
            wal,
            store,
            routes: LocalRoutesOptions::default(),
            barrier_deadline: Duration::from_secs(10),
            shards: (cluster.shards.count > 0)
                .then_some(ShardOptions { count: cluster.shards.count, replication: cluster.shards.replication }),
            serve_local: !cluster.on_quorum_loss.is_fence(),
            compare_every: None,
        })
    }
}

/// The links resolve names by the resolvers of the discovery, which work without the C library's: what the discovery's own
/// name servers named, they must be asked for; the system's come second.
struct PeerResolver {
    named: Option<Resolver>,
    system: Resolver,
}

impl PeerResolver {
    fn new(discovery: &raftmq_config::Discovery) -> Self {
        let dns = discovery.dns.as_ref().filter(|_| discovery.strategy == DiscoveryStrategy::Dns);
        let servers = dns.map(|dns| dns.servers.as_slice()).filter(|servers| !servers.is_empty());
        Self { named: servers.map(Resolver::with_servers), system: Resolver::system() }
    }
}

impl raftmq_links::Resolver for PeerResolver {
    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            if let Some(named) = &self.named
                && let Ok(found) = named.resolve(address).await
            {
                return Ok(found);
            }
            self.system.resolve(address).await.map_err(io::Error::other)
        })
    }
}
