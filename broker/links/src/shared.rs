//! What all connections of a node share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};
use rustls::{ClientConfig, ServerConfig};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::handler::Handler;
use crate::heard::Heard;
use crate::hello::Hello;
use crate::inbox::Inbox;
use crate::metrics::LinkMetrics;
use crate::options::LinkOptions;
use crate::peer::Peer;
use crate::pki::{PkiError, TlsMaterial, client_config, server_config};
use crate::resolver::Resolver;

/// Refusals that are remembered, so that each is logged once and then only now and then.
const MAX_REFUSED: usize = 256;
const LOG_AGAIN: Duration = Duration::from_secs(600);

#[derive(Clone)]
pub(crate) struct TlsConfigs {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl TlsConfigs {
    pub(crate) fn new(tls: &TlsMaterial) -> Result<Self, PkiError> {
        const ALPN: &[&[u8]] = &[b"raftmq-links"];
        let mut client = client_config(tls, ALPN)?;
        client.enable_sni = false;
        Ok(TlsConfigs { client: Arc::new(client), server: Arc::new(server_config(tls, ALPN)?) })
    }
}

/// Bounds the incoming requests of one class.
pub(crate) struct Gate {
    /// Handlers that run.
    pub(crate) running: Arc<Semaphore>,
    /// Bytes that wait or run.
    pub(crate) bytes: Arc<Semaphore>,
}

pub(crate) struct Shared {
    pub(crate) options: LinkOptions,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) hello: watch::Sender<Arc<Hello>>,
    pub(crate) tls: RwLock<TlsConfigs>,
    pub(crate) metrics: Arc<LinkMetrics>,
    pub(crate) peers: RwLock<AHashMap<String, Arc<Peer>>>,
    /// Peers for which one-way frames wait.
    pub(crate) lost: AtomicUsize,
    pub(crate) inbox: Mutex<Inbox>,
    /// When something was heard by the connections of one-way frames.
    pub(crate) heard: Heard,
    pub(crate) gates: [Gate; 4],
    pub(crate) closed: AtomicBool,
    pub(crate) runtime: Handle,
    refused: Mutex<AHashMap<(IpAddr, String), Instant>>,
    random: RandomState,
    drawn: AtomicU64,
}

/// A panic elsewhere is no reason to stop: what these locks guard is whole between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        options: LinkOptions,
        resolver: Arc<dyn Resolver>,
        tls: TlsConfigs,
        hello: Hello,
        handler: Arc<dyn Handler>,
    ) -> Self {
        let gate = || Gate {
            running: Arc::new(Semaphore::new(options.handlers_per_class.max(1))),
            bytes: Arc::new(Semaphore::new(options.handler_bytes_per_class.max(request_cost(options.max_frame_bytes)))),
        };
        Shared {
            gates: [gate(), gate(), gate(), gate()],
            options,
            resolver,
            handler,
            hello: watch::Sender::new(Arc::new(hello)),
            tls: RwLock::new(tls),
            metrics: Arc::default(),
            peers: RwLock::default(),
            lost: AtomicUsize::new(0),
            inbox: Mutex::default(),
            heard: Heard::new(),
            closed: AtomicBool::new(false),
            runtime: Handle::current(),
            refused: Mutex::default(),
            random: RandomState::new(),
            drawn: AtomicU64::new(0),
        }
    }

    pub(crate) fn tls(&self) -> TlsConfigs {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn all_peers(&self) -> Vec<Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().cloned().collect()
    }

    /// A peer that this node dials.
    pub(crate) fn peer(&self, address: &str) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Unpredictable enough for back-off and for epochs that differ; not for secrets.
    pub(crate) fn random(&self) -> u64 {
        self.random.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed))
    }

    /// A peer dialled this node: whoever waits before dialling it again need not, and a connection to an earlier boot of it is dead.
    pub(crate) fn peer_seen(&self, hello: &Hello) {
        for peer in self.all_peers() {
            peer.seen(hello);
        }
    }

    /// This node refused a connection from a peer.
    pub(crate) fn note_refused(&self, remote: IpAddr, reason: &str) {
        self.metrics.refused.fetch_add(1, Ordering::Relaxed);
        self.log_once(remote, reason, "refused a connection from a peer");
    }

    /// Peers dial again and again: what is the same as before is logged rarely. Several nodes may share an address.
    pub(crate) fn log_once(&self, remote: IpAddr, reason: &str, message: &'static str) {
        let mut refused = lock(&self.refused);
        let key = (remote, reason.to_owned());
        if refused.get(&key).is_some_and(|at| at.elapsed() < LOG_AGAIN) {
            return;
        }
        if refused.len() >= MAX_REFUSED {
            refused.clear();
        }
        refused.insert(key, Instant::now());
        drop(refused);
        warn!(%remote, reason, "{message}");
    }
}

/// What an incoming request counts against its class.
pub(crate) fn request_cost(payload: usize) -> usize {
    payload + 512
}
