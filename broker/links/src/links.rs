//! The handle.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::accept;
use crate::error::{LinkError, SendError, StartError};
use crate::handler::Handler;
use crate::hello::{Hello, HelloError};
use crate::metrics::{LinkMetrics, PeerStatus};
use crate::options::{Class, LinkConfig};
use crate::peer::Peer;
use crate::pki::{PkiError, TlsMaterial};
use crate::shared::{Shared, TlsConfigs, lock};

/// How much later than it is due a ping may come.
const PING_LATE: Duration = Duration::from_millis(500);

/// A node's links to all its peers. Cheap to clone; when the last clone is dropped, everything is closed.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

/// Owns the tasks: they hold `Shared`, not this.
struct Inner {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

impl Links {
    /// Listens, and accepts peers. Call within a tokio runtime: all tasks and handlers run there; the other calls work
    /// from any thread and runtime.
    pub async fn start(config: LinkConfig, hello: Hello, handler: Arc<dyn Handler>) -> Result<Links, StartError> {
        hello.check()?;
        let tls = TlsConfigs::new(&config.tls)?;
        let bind = |source| StartError::Bind { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let local_addr = listener.local_addr().map_err(bind)?;
        let shared = Arc::new(Shared::new(config.options.sane(), config.resolver, tls, hello, handler));
        let acceptor = tokio::spawn(accept::run(Arc::clone(&shared), listener));
        Ok(Links { inner: Arc::new(Inner { shared, local_addr, acceptor: Mutex::new(Some(acceptor)) }) })
    }

    /// The socket listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Asks a peer and waits for its answer. The first call for an address makes the peer known and dials it.
    ///
    /// Dropping the future gives the answer up; the peer may handle the request nevertheless.
    pub async fn request(
        &self,
        address: &str,
        kind: u16,
        payload: Bytes,
        class: Class,
        deadline: Duration,
    ) -> Result<Bytes, LinkError> {
        let peer = self.peer_at(address).ok_or(LinkError::Shutdown)?;
        peer.request(&self.inner.shared, kind, payload, class, deadline).await
    }

    /// Hands over a one-way frame: in order, kept until the peer acknowledged it. Never waits.
    pub fn send(&self, address: &str, kind: u16, payload: Bytes) -> Result<(), SendError> {
        let peer = self.peer_at(address).ok_or(SendError::Shutdown)?;
        peer.send(&self.inner.shared, kind, payload)
    }

    /// Says which boot lives at an address from now on (from a committed entry, say): connections to another one are
    /// cut and dialled again at once, so that frames for the new boot do not go into a connection that is dead but not yet
    /// found to be. Ignored for an address that was never used.
    pub fn expect(&self, address: &str, incarnation: u128, boot: u64) {
        if let Some(peer) = self.known(address) {
            peer.expect(incarnation, boot);
        }
    }

    /// Whether one-way frames to any peer wait for a connection that broke or could not be made. Cheap.
    pub fn any_lost(&self) -> bool {
        self.inner.shared.lost.load(Ordering::Relaxed) > 0
    }

    /// Whether one-way frames to this peer wait for a connection that broke or could not be made. False for one that was never used.
    pub fn is_lost(&self, address: &str) -> bool {
        self.any_lost() && self.known(address).is_some_and(|peer| peer.is_lost())
    }

    /// The data directories of peers whose one-way frames came once and from which nothing is heard now, by the connection of these: there may be some on
    /// their way. A connection that is idle is heard by its pings.
    pub fn silent(&self) -> Vec<u128> {
        let shared = &self.inner.shared;
        shared.heard.silent(shared.options.ping_interval + PING_LATE)
    }

    /// Shows each one-way frame to a peer that was not acknowledged, in order, with its kind and whether the peer may have handled it, and
    /// sends what `revise` gives in its place. `revise` is called under the lock of the peer's queue: it must be quick and not call back.
    pub fn revise(&self, address: &str, revise: impl FnMut(u16, &Bytes, bool) -> Option<Bytes>) {
        if let Some(peer) = self.known(address) {
            peer.revise(&self.inner.shared, revise);
        }
    }

    /// Ends all connections to a peer; what waits for it is dropped and counted. Unknown addresses are ignored.
    pub fn forget(&self, address: &str) {
        let shared = &self.inner.shared;
        let peer = {
            let mut peers = shared.peers.write().unwrap_or_else(PoisonError::into_inner);
            peers.remove(address)
        };
        if let Some(peer) = peer {
            let (_, undelivered) = peer.close(shared);
            for (kind, payload, handled) in undelivered {
                shared.handler.on_undelivered(kind, payload, handled);
            }
        }
    }

    /// Changes what this node says about itself (its Raft id after the join). Announced on open connections before
    /// anything that is queued after this call.
    pub fn set_hello(&self, hello: Hello) -> Result<(), HelloError> {
        hello.check()?;
        let mut changed = true;
        self.inner.shared.hello.send_modify(|current| {
            changed = current.same_boot(&hello) && current.versions == hello.versions;
            if changed {
                *current = Arc::new(hello);
            }
        });
        if changed { Ok(()) } else { Err(HelloError::Changed) }
    }

    /// The Hello in use.
    pub fn hello(&self) -> Arc<Hello> {
        Arc::clone(&self.inner.shared.hello.borrow())
    }

    /// New handshakes use this; open connections stay.
    pub fn set_tls(&self, tls: &TlsMaterial) -> Result<(), PkiError> {
        let configs = TlsConfigs::new(tls)?;
        let shared = &self.inner.shared;
        *shared.tls.write().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// All peers that this node dials, by address.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let peers = self.inner.shared.all_peers();
        let mut statuses: Vec<_> = peers.iter().map(|peer| peer.status()).collect();
        statuses.sort_by(|a, b| a.address.cmp(&b.address));
        statuses
    }

    /// One peer.
    pub fn peer(&self, address: &str) -> Option<PeerStatus> {
        Some(self.known(address)?.status())
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<LinkMetrics> {
        Arc::clone(&self.inner.shared.metrics)
    }

    /// Waits until every one-way frame was acknowledged; false when the deadline came first.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        loop {
            let peers = self.inner.shared.all_peers();
            if peers.iter().all(|peer| peer.is_drained()) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Closes the listener and all connections. Later calls fail with `Shutdown`.
    pub async fn shutdown(&self) {
        for task in self.inner.close() {
            // Aborted: what counts is that its sockets are closed now.
            let _ = task.await;
        }
    }

    fn known(&self, address: &str) -> Option<Arc<Peer>> {
        self.inner.shared.peer(address)
    }

    /// None after shutdown.
    fn peer_at(&self, address: &str) -> Option<Arc<Peer>> {
        if let Some(peer) = self.known(address) {
            return Some(peer);
        }
        let shared = &self.inner.shared;
        let mut peers = shared.peers.write().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock that closing takes: no peer is made after it.
        if shared.is_closed() {
            return None;
        }
        let peer = peers.entry(address.to_owned()).or_insert_with(|| Arc::new(Peer::new(address, shared)));
        Some(Arc::clone(peer))
    }
}

impl Inner {
    fn close(&self) -> Vec<JoinHandle<()>> {
        let shared = &self.shared;
        let peers = {
            let mut peers = shared.peers.write().unwrap_or_else(PoisonError::into_inner);
            shared.closed.store(true, Ordering::Release);
            std::mem::take(&mut *peers)
        };
        let mut tasks = Vec::new();
        for peer in peers.values() {
            tasks.extend(peer.close(shared).0);
        }
        if let Some(acceptor) = lock(&self.acceptor).take() {
            acceptor.abort();
            tasks.push(acceptor);
        }
        tasks
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
