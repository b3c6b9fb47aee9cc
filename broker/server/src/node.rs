//! `raftmq node`: one broker process, from its settings to its end.
//!
//! `settings → log → cluster → listeners → workers → HTTP → wait → stop`. Clients are on the workers' threads; Raft,
//! discovery and HTTP on a runtime of their own, so that neither starves the other.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use raftmq_cluster::{
    Cluster, ClusterConfig, ConfigError as ClusterConfigError, Fatal, LeaseState, Phase, Shards, Stage,
};
use raftmq_config::{Config, Listener, TlsFiles};
use raftmq_links::pki::{PkiError, SecretPem, TlsMaterial, server_config};
use raftmq_planted::Bug;
use raftmq_routing::SharedRoutes;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::bans::{self, Bans, FlapWatch};
use crate::check::{Files, check};
use crate::features::{Features, session_limits};
use crate::healing::{self, Healings};
use crate::http::health::{Readiness, ReadinessSource};
use crate::http::{control, health, serve};
use crate::incoming::Incoming;
use crate::listener_tls::{self, CertificateError, ListenerCertificates};
use crate::memory::memory;
use crate::metrics::Metrics;
use crate::ops::NodeOps;
use crate::overload::{self, Overload};
use crate::reload::{Reloader, Source};
use crate::shard_numbers::ShardDrops;
use crate::telemetry::{self, LogControl, TelemetryError};
use crate::worker::{
    self, ClientRegistry, Clock, FromShards, Inbox, ListenError, ListenerState, Live, NodeShared, Opened, QuicServer,
    Router, Starting, WorkerHandle,
};

/// Time for the workers to close their clients at the end; they take less.
const WORKERS_END: Duration = Duration::from_secs(8);

/// Time for the other nodes to learn that this one takes nothing for groups any more.
const WITHDRAWAL: Duration = Duration::from_millis(2_500);

/// How a node is started.
pub(crate) struct NodeOptions {
    /// The settings' file.
    pub(crate) config: Option<PathBuf>,
    /// Settings from flags.
    pub(crate) overrides: Vec<(String, String)>,
    /// Only check the settings, with or without the files that they name.
    pub(crate) check: Option<Files>,
    /// End with standard input.
    pub(crate) exit_with_stdin: bool,
}

/// Why a node does not start, or ended.
#[derive(Debug, thiserror::Error)]
enum NodeError {
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Cluster(#[from] ClusterConfigError),
    #[error(transparent)]
    Start(#[from] raftmq_cluster::StartError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("listener {listener}: {source}")]
    Certificates { listener: String, source: CertificateError },
    #[error("{what}: cannot listen on {address}: {source}")]
    Http { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("http.tls: {0}")]
    Pki(#[from] PkiError),
    #[error("cannot start {what}: {source}")]
    Thread { what: &'static str, source: io::Error },
    #[error("{}: no bug is called {name}", raftmq_planted::VARIABLE)]
    Plant { name: String },
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Runs a node until it is told to stop. Wrong settings end with exit code 2.
pub(crate) fn run(options: &NodeOptions) -> ExitCode {
    let loaded = Config::load_with_origins(options.config.as_deref(), std::env::vars(), &options.overrides);
    let files = options.check.unwrap_or(Files::Read);
    let checked = loaded.and_then(|(config, origins)| check(&config, &origins, files).map(|()| config));
    let config = match checked {
        Ok(config) => config,
        Err(error) => {
            eprintln!("raftmq: {error}");
            return ExitCode::from(2);
        }
    };
    let features = match Features::new(&config) {
        Ok(features) => features,
        Err(error) => {
            eprintln!("raftmq: {error}");
            return ExitCode::from(2);
        }
    };
    if options.check.is_some() {
        print!("{}", config.to_yaml());
        return ExitCode::SUCCESS;
    }
    let source = Source { file: options.config.clone(), overrides: options.overrides.clone() };
    match start(&config, source, features, options.exit_with_stdin) {
        Ok(()) => ExitCode::SUCCESS,
        // The part in the cluster has said it in the log.
        Err(NodeError::Fatal(_)) if tracing::enabled!(target: "raftmq_cluster", tracing::Level::ERROR) => {
            ExitCode::FAILURE
        }
        Err(error) => {
            // For people at a terminal and for whoever reads the log.
            eprintln!("raftmq: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: &Config, source: Source, features: Features, exit_with_stdin: bool) -> Result<(), NodeError> {
    let log = telemetry::init(config.log.format, &config.log.filter())?;
    plant()?;
    raise_open_files();
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|source| NodeError::Thread { what: "the control runtime", source })?;
    let result = control.block_on(Node::run(config, source, features, log, exit_with_stdin));
    control.shutdown_timeout(Duration::from_secs(2));
    result
}

/// A build with planted bugs says so, and takes the one that the environment chooses.
fn plant() -> Result<(), NodeError> {
    if !raftmq_planted::POSSIBLE {
        return Ok(());
    }
    let name = std::env::var(raftmq_planted::VARIABLE).unwrap_or_default();
    let bug = Bug::named(&name);
    if bug.is_none() && !name.is_empty() {
        return Err(NodeError::Plant { name });
    }
    tracing::warn!(bug = name, "this build has bugs that lose messages, for tests of tests: not for use");
    bug.into_iter().for_each(raftmq_planted::choose);
    Ok(())
}

/// A running node.
struct Node {
    shared: Arc<NodeShared>,
    cluster: Option<Cluster>,
    workers: Vec<WorkerHandle>,
    quic: Option<QuicServer>,
    closing: watch::Sender<bool>,
}

impl Node {
    async fn run(
        config: &Config,
        source: Source,
        features: Features,
        log: LogControl,
        exit_with_stdin: bool,
    ) -> Result<(), NodeError> {
        let started = Instant::now();
        let workers = worker_count(config);
        // Listeners first: a port in use is known before the node becomes a member.
        let mut listeners = listen(config, workers)?;
        let metrics_socket = bind("metrics", config.metrics.bind.get()).await?;
        let http_socket = bind("HTTP", config.http.bind.get()).await?;

        let metrics = Metrics::new();
        metrics.add_runtime("control", tokio::runtime::Handle::current().metrics());
        let routes = SharedRoutes::new();
        let inboxes: Arc<Vec<Inbox>> = Arc::new((0..workers).map(|_| Inbox::new()).collect());
        let forwards_lost = Arc::new(AtomicU64::new(0));
        let overload = Arc::new(Overload::new(&config.overload));
        let cluster = match &config.cluster {
            Some(_) => {
                let mut settings = ClusterConfig::from_settings(config, crate::VERSION)?;
                if let Ok(bound) = http_socket.local_addr() {
                    settings.control = control_address(bound, &settings.advertise);
                }
                let shedding = Some((Arc::clone(&overload), Arc::clone(&metrics)));
                let receive = Incoming::new(routes.clone(), Arc::clone(&inboxes), Arc::clone(&forwards_lost), shedding);
                Some(
                    Cluster::start(settings, routes.clone(), Arc::new(move |forwarded| receive.take(forwarded)))
                        .await?,
                )
            }
            None => None,
        };

        let states: Vec<ListenerState> = listeners.iter().map(|(_, state)| state.clone()).collect();
        let bans = match &cluster {
            Some(cluster) => Bans::of_cluster(cluster.clone()),
            None => Bans::of_node(&config.node.data_dir)
                .map_err(|source| NodeError::File { path: config.node.data_dir.join("bans.json"), source })?,
        };
        let flapping = FlapWatch::new(&config.flapping).map(|(flapping, over)| {
            let ban_time = config.flapping.ban_time.get();
            tokio::spawn(bans::propose(Arc::clone(&bans), config.node.name.clone(), ban_time, over));
            flapping
        });
        let shards = cluster.as_ref().and_then(Cluster::shards_of_clients);
        let shared = Arc::new(NodeShared {
            registry: ClientRegistry::new(),
            inboxes,
            routes: routes.clone(),
            router: cluster.clone().map_or_else(|| Router::standalone(routes.clone()), Router::Cluster),
            lease: cluster.as_ref().map_or_else(|| Arc::new(LeaseState::always()), Cluster::lease),
            limits: Arc::new(session_limits(&config.mqtt)),
            raft_id: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            leaving: AtomicUsize::new(0),
            chosen: AtomicBool::new(false),
            forwards_lost,
            clock: Clock::new(),
            name: config.node.name.clone(),
            live: watch::Sender::new(Arc::new(Live::new(&features, &states))),
            features,
            bans: Arc::clone(&bans),
            flapping,
            overload: Arc::clone(&overload),
            metrics: Arc::clone(&metrics),
            from_shards: shards.iter().flat_map(|_| (0..workers).map(|_| FromShards::default())).collect(),
            shards: shards.clone(),
            shard_drops: ShardDrops::default(),
            healings: Healings::default(),
        });
        if let Some(shards) = &shards {
            worker::listen_to_shards(&shared, shards);
        }
        let (closing, closing_seen) = watch::channel(false);
        // A standalone node serves from the start, and nobody changes that.
        let phase = cluster.as_ref().map_or_else(|| watch::channel(Phase::Serving).1, Cluster::phase);
        let mut handles = Vec::new();
        shared.lease.set_closers(workers);
        for id in 0..workers {
            let own = listeners.iter_mut().map(|(opened, state)| (opened.tcp.pop(), state.clone())).collect();
            let id = u8::try_from(id).expect("at most 64 workers");
            let handle =
                worker::start(id, Arc::clone(&shared), metrics.worker(), own, phase.clone(), closing_seen.clone())
                    .map_err(|source| NodeError::Thread { what: "a worker", source })?;
            handles.push(handle);
        }
        tokio::spawn(overload::watch(Arc::clone(&shared)));
        if let Some(cluster) = &cluster {
            tokio::spawn(healing::watch(Arc::clone(&shared), cluster.clone(), phase.clone()));
        }
        tokio::spawn(listener_tls::watch(states.iter().filter_map(|state| state.tls.clone()).collect()));
        let quic = (0u16..)
            .zip(listeners)
            .filter_map(|(number, (opened, state))| opened.udp.map(|socket| Starting { number, socket, state }));
        let quic = QuicServer::start(quic.collect(), &shared)
            .map_err(|source| NodeError::Thread { what: "the listeners of QUIC", source })?;
        let node = Self { shared, cluster, workers: handles, quic, closing };
        let readiness = node.readiness();
        let shared = Arc::clone(&node.shared);
        let reloader = Arc::new(Reloader::new(source, config.clone(), shared, states.clone(), log.clone()));
        crate::sources::add(&metrics, &node.shared, node.cluster.as_ref(), states, Arc::clone(&readiness));

        let probes = health::router(Arc::clone(&metrics), Arc::clone(&readiness));
        let _metrics_server = serve::HttpServer::start(metrics_socket, None, probes, serve::Limits::default())
            .map_err(|source| NodeError::Http { what: "metrics", address: config.metrics.bind.get(), source })?;
        // Without TLS nobody is known here: every call is refused, with the setting that is missing.
        let tls = match &config.http.tls {
            Some(files) => Some(serve::Tls {
                config: Arc::new(server_config(&read_tls(files)?, &[b"http/1.1"])?),
                cluster: config.cluster.as_ref().map(|cluster| cluster.name.clone()),
            }),
            None => None,
        };
        let clients = Arc::clone(&node.shared);
        let ops = NodeOps {
            node: config.node.name.clone(),
            cluster: node.cluster.clone(),
            readiness,
            bans,
            overload,
            clients: Arc::new(move || (clients.metrics.sys().gauges.clients_connected, memory(&clients))),
            reloader: Arc::clone(&reloader),
            started,
        };
        let api = control::router(Arc::new(ops), log);
        let _control_server = serve::HttpServer::start(http_socket, tls, api, serve::Limits::default())
            .map_err(|source| NodeError::Http { what: "HTTP", address: config.http.bind.get(), source })?;
        tracing::info!(node = config.node.name, version = crate::VERSION, workers, "started");

        let on_hang_up = tokio::spawn(reload_on_hang_up(reloader));
        let ended = node.wait(exit_with_stdin).await;
        on_hang_up.abort();
        node.stop().await;
        ended
    }

    /// Until somebody or something ends the node.
    async fn wait(&self, exit_with_stdin: bool) -> Result<(), NodeError> {
        let fatal = async {
            match &self.cluster {
                Some(cluster) => cluster.failed().await,
                None => std::future::pending().await,
            }
        };
        let id_known = async {
            if let Some(cluster) = &self.cluster {
                let mut stage = cluster.stage();
                loop {
                    // The stage at the start counts too: a member that comes back may never change it.
                    let now = stage.borrow_and_update().clone();
                    tracing::info!(stage = now.name(), "cluster");
                    if let Some(id) = cluster.status().raft_id {
                        self.shared.raft_id.store(id, Ordering::Relaxed);
                    }
                    if stage.changed().await.is_err() {
                        break;
                    }
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            fatal = fatal => Err(fatal.into()),
            () = id_known => Ok(()),
            signal = crate::up::stop_signal() => {
                match signal {
                    Ok(()) => tracing::info!("stopping: a signal"),
                    Err(error) => tracing::error!(%error, "cannot wait for signals"),
                }
                Ok(())
            }
            () = stdin_closed(), if exit_with_stdin => {
                tracing::info!("stopping: the process that started this one is gone");
                Ok(())
            }
        }
    }

    /// Clients are told and closed, then the node leaves its part in the groups to others.
    async fn stop(self) {
        if let Some(shards) = &self.shared.shards {
            shards.end_live();
        }
        // They close all their clients on their way out, and look at no phase any more.
        self.shared.lease.set_closers(0);
        self.shared.chosen.store(self.cluster.is_some(), Ordering::Release);
        self.shared.closing.store(true, Ordering::Release);
        self.closing.send_replace(true);
        if let Some(cluster) = &self.cluster {
            self.withdraw(cluster).await;
        }
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            // All are waited for, whatever became of the first.
            workers.into_iter().map(WorkerHandle::join).filter(|ended| !ended).count() == 0
        });
        match tokio::time::timeout(WORKERS_END, joined).await {
            Ok(Ok(true)) => {}
            Ok(_) => tracing::error!("a worker ended by a panic"),
            Err(_) => tracing::error!("a worker does not end"),
        }
        if let Some(quic) = self.quic {
            quic.stop().await;
        }
        if let Some(cluster) = &self.cluster {
            cluster.shutdown().await;
        }
        tracing::info!("stopped");
    }

    /// While the workers are there, which send it on, other nodes learn that this one takes nothing for groups any more.
    async fn withdraw(&self, cluster: &Cluster) {
        let withdrawn = async {
            while !self.shared.all_leaving() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cluster.withdraw_groups(WITHDRAWAL).await
        };
        if !tokio::time::timeout(WITHDRAWAL, withdrawn).await.unwrap_or(false) {
            tracing::warn!(
                "not all nodes know yet that this one ends: messages of groups on their way to it may be lost"
            );
        }
        self.shared.chosen.store(false, Ordering::Release);
    }

    fn readiness(&self) -> Arc<dyn ReadinessSource> {
        let cluster = self.cluster.clone();
        let shared = Arc::clone(&self.shared);
        Arc::new(move || {
            if shared.closing.load(Ordering::Acquire) {
                return Readiness { listeners: Err("the node is shutting down".into()), ..Readiness::ready() };
            }
            let Some(cluster) = &cluster else {
                return Readiness::ready();
            };
            let status = cluster.status();
            let why = |text: &str| {
                Err(if status.detail.is_empty() { text.to_owned() } else { format!("{text}: {}", status.detail) })
            };
            let no_lease = if shared.is_local() {
                "it holds no serving lease, and serves on its side alone what needs no quorum"
            } else {
                "it holds no serving lease"
            };
            Readiness {
                member: match status.stage {
                    Stage::Member => Ok(()),
                    Stage::WaitingForCluster => why("there is no cluster yet"),
                    Stage::AskingPermission => why("it asks its peers whether its data directory is the latest"),
                    Stage::Joining => why("it is joining"),
                    Stage::Leaving | Stage::Left => why("it leaves the cluster"),
                    Stage::Failed => why("it failed"),
                },
                // A lease is granted only to a node that has caught up.
                caught_up: if status.watermark.is_none() && status.phase != Phase::Serving {
                    why("it has not caught up with the cluster")
                } else {
                    shards_ready(&cluster.shards()).or_else(|text| why(&text))
                },
                lease: if status.phase == Phase::Serving { Ok(()) } else { why(no_lease) },
                listeners: Ok(()),
            }
        })
    }
}

/// A new cluster's shards take a moment to be formed: until then no client can connect.
fn shards_ready(shards: &Shards) -> Result<(), String> {
    if !shards.in_use() {
        return Ok(());
    }
    match shards.unformed() {
        Some(0) => Ok(()),
        Some(left) => Err(format!("{left} of {} shards are not formed yet", shards.count())),
        None => Err("the shards of the cluster are not created yet".into()),
    }
}

/// Opens the sockets of all listeners and reads their certificates.
fn listen(config: &Config, workers: usize) -> Result<Vec<(Opened, ListenerState)>, NodeError> {
    let open = |settings: &Listener| {
        let name = &settings.name;
        let certificates = settings.tls.as_ref().map(|tls| ListenerCertificates::load(name, tls));
        let certificates =
            certificates.transpose().map_err(|source| NodeError::Certificates { listener: name.clone(), source })?;
        let opened = worker::open_listener(settings, &config.listeners, workers)?;
        let mut state = ListenerState::new(settings, config, certificates);
        if let Some(address) = opened.address() {
            state.port = address.port();
            let (transport, mount_point) = (state.transport.as_str(), state.limits.mount_point.as_deref());
            tracing::info!(listener = name, %address, transport, mount_point, "listening for MQTT");
        }
        Ok((opened, state))
    };
    config.listeners.iter().map(open).collect()
}

/// SIGHUP: the settings are read again.
async fn reload_on_hang_up(reloader: Arc<Reloader>) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hang_up = match signal(SignalKind::hangup()) {
        Ok(hang_up) => hang_up,
        Err(error) => return tracing::error!(%error, "cannot wait for SIGHUP"),
    };
    while hang_up.recv().await.is_some() {
        let reloader = Arc::clone(&reloader);
        // It says itself what came of it.
        let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
    }
}

fn worker_count(config: &Config) -> usize {
    let wanted = usize::from(config.workers);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (if wanted == 0 { cores } else { wanted }).clamp(1, 64)
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|source| NodeError::Http { what, address, source })
}

/// Where others reach the control API: on all addresses, that is where they reach the links.
fn control_address(bound: SocketAddr, links: &str) -> String {
    match links.rsplit_once(':') {
        Some((host, _)) if bound.ip().is_unspecified() => format!("{host}:{}", bound.port()),
        _ => bound.to_string(),
    }
}

fn read_tls(files: &TlsFiles) -> Result<TlsMaterial, NodeError> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).map_err(|source| NodeError::File { path: path.clone(), source });
    Ok(TlsMaterial {
        ca_pem: read(&files.ca_file)?,
        cert_pem: read(&files.cert_file)?,
        key_pem: SecretPem::new(read(&files.key_file)?),
    })
}

/// Every connection is an open file: take what the hard limit gives.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Resolves when standard input is closed. On a thread of its own: a read of a pipe cannot be given up.
async fn stdin_closed() {
    let (closed, seen) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
        // The receiver is gone when the node ended in another way.
        let _ = closed.send(());
    });
    let _ = seen.await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_control_api_is_advertised_where_it_can_be_reached() {
        let at = |bound: &str, links: &str| control_address(bound.parse().unwrap(), links);
        assert_eq!(at("0.0.0.0:18083", "b-0.b-links.mq.svc:9883"), "b-0.b-links.mq.svc:18083");
        assert_eq!(at("[::]:18083", "[fd00::7]:9883"), "[fd00::7]:18083");
        assert_eq!(at("10.0.0.7:18083", "10.0.0.7:9883"), "10.0.0.7:18083");
    }
}
