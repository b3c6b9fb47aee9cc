//! Listeners of QUIC: one bidirectional stream of a connection is one connection of MQTT.
//!
//! An endpoint has one socket, because the packets of a connection that migrates come from another address and would reach another
//! socket of a group. It lives on a runtime of its own, which does the cryptography of all its connections; so neither
//! the workers' threads nor Raft's wait for it. A worker polls the stream's two halves itself: nothing is copied in
//! between, and QUIC's own flow control is the limit of what waits. A stream moves between workers as it is.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use raftmq_transport::tls::{TlsConfigs, TlsPeer, subject_of};
use raftmq_transport::{PeerInfo, Transport};
use rustls::pki_types::CertificateDer;
use tokio::runtime::{Handle, Runtime};

use super::connection::Rest;
use super::inbox::{Adopted, Item};
use super::listener::ListenerState;
use super::shared::NodeShared;
use super::socket::Loose;
use crate::metrics::RefuseReason;

/// Bytes of a client that wait for the worker, and bytes for it that wait for its acknowledgement.
const WINDOW: u32 = 256 * 1024;
/// A client is asked for a sign of life so often, which also keeps its way through address translation open …
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// … and is gone after so long without one.
const IDLE: Duration = Duration::from_secs(90);
/// From so many handshakes at a time on a client must first show that it has the address that it says.
const MANY_HANDSHAKES: usize = 512;
/// Time for a client to acknowledge the last bytes of its stream.
const LINGER: Duration = Duration::from_secs(3);
/// Time for all of them when the node ends.
const END: Duration = Duration::from_secs(2);

/// A stream, polled by a worker.
pub(crate) struct QuicStream {
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
    connection: Connection,
    runtime: Handle,
}

impl QuicStream {
    /// Where the client is now.
    pub(super) fn address(&self) -> SocketAddr {
        self.connection.remote_address()
    }
}

impl Drop for QuicStream {
    /// The connection goes when the client has all that was written.
    fn drop(&mut self) {
        // Errors: it is closed already.
        let _ = self.send.finish();
        let _ = self.receive.stop(VarInt::from_u32(0));
        let stopped = self.send.stopped();
        let connection = self.connection.clone();
        self.runtime.spawn(async move {
            let _ = tokio::time::timeout(LINGER, stopped).await;
            connection.close(VarInt::from_u32(0), b"");
        });
    }
}

/// A listener of QUIC that is to be served.
pub(crate) struct Starting {
    /// Its number among the listeners.
    pub(crate) number: u16,
    pub(crate) socket: UdpSocket,
    pub(crate) state: ListenerState,
}

/// The endpoints of a node, and their runtime.
pub(crate) struct QuicServer {
    runtime: Runtime,
    endpoints: Vec<Endpoint>,
}

impl QuicServer {
    /// Serves the listeners. `None` where there are none.
    pub(crate) fn start(listeners: Vec<Starting>, node: &Arc<NodeShared>) -> io::Result<Option<Self>> {
        if listeners.is_empty() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(node.inboxes.len().min(4))
            .thread_name("quic")
            .enable_all()
            .build()?;
        node.metrics.add_runtime("quic", runtime.metrics());
        let mut endpoints = Vec::new();
        for Starting { number, socket, state } in listeners {
            let configs = Configs::new(&state)?;
            let endpoint = {
                let _in = runtime.enter();
                let server = (*configs.quinn).clone();
                Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(quinn::TokioRuntime))?
            };
            let accepting =
                Accepting { number, state: Arc::new(state), node: Arc::clone(node), handshakes: Arc::default() };
            runtime.spawn(accepting.run(endpoint.clone(), configs));
            endpoints.push(endpoint);
        }
        Ok(Some(Self { runtime, endpoints }))
    }

    /// Ends it, when the workers have closed their streams.
    pub(crate) async fn stop(self) {
        let idle = async {
            for endpoint in &self.endpoints {
                endpoint.wait_idle().await;
            }
        };
        let _ = tokio::time::timeout(END, idle).await;
        for endpoint in &self.endpoints {
            endpoint.close(VarInt::from_u32(0), b"");
        }
        self.runtime.shutdown_background();
    }
}

/// What new connections are made with, made again when the certificates change.
struct Configs {
    made_of: Arc<TlsConfigs>,
    quinn: Arc<quinn::ServerConfig>,
}

impl Configs {
    fn new(state: &ListenerState) -> io::Result<Self> {
        let tls = state.tls.as_ref().ok_or_else(|| io::Error::other("a listener of QUIC without certificates"))?;
        let made_of = tls.current();
        let crypto = QuicServerConfig::try_from(Arc::clone(&made_of.quic)).map_err(io::Error::other)?;
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .stream_receive_window(VarInt::from_u32(WINDOW))
            .receive_window(VarInt::from_u32(WINDOW))
            .send_window(u64::from(WINDOW))
            .keep_alive_interval(Some(KEEP_ALIVE))
            .max_idle_timeout(Some(IDLE.try_into().map_err(io::Error::other)?));
        let mut quinn = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        quinn
            .transport_config(Arc::new(transport))
            .max_incoming(4_096)
            .incoming_buffer_size(64 * 1024)
            .incoming_buffer_size_total(16 * 1024 * 1024);
        Ok(Self { made_of, quinn: Arc::new(quinn) })
    }

    fn current(&mut self, state: &ListenerState) -> Arc<quinn::ServerConfig> {
        let changed = state.tls.as_ref().is_some_and(|tls| !Arc::ptr_eq(&tls.current(), &self.made_of));
        if changed {
            match Self::new(state) {
                Ok(new) => *self = new,
                Err(error) => tracing::error!(listener = state.name, %error, "the former certificates stay"),
            }
        }
        Arc::clone(&self.quinn)
    }
}

/// One listener.
#[derive(Clone)]
struct Accepting {
    number: u16,
    state: Arc<ListenerState>,
    node: Arc<NodeShared>,
    handshakes: Arc<AtomicUsize>,
}

impl Accepting {
    async fn run(self, endpoint: Endpoint, mut configs: Configs) {
        let mut next = 0;
        while let Some(incoming) = endpoint.accept().await {
            next = (next + 1) % self.node.inboxes.len();
            let address = incoming.remote_address();
            if self.handshakes.load(Ordering::Relaxed) >= MANY_HANDSHAKES && incoming.may_retry() {
                // It comes again with a proof. An error: it has one.
                let _ = incoming.retry();
            } else if self.node.closing.load(Ordering::Acquire) {
                incoming.refuse();
            } else if self.is_banned(address) {
                incoming.refuse();
                self.refused(next, address, RefuseReason::Banned);
            } else if self.node.overload.sheds() {
                incoming.refuse();
                self.refused(next, address, RefuseReason::Overload);
            } else if let Some(place) = self.place().await {
                let config = configs.current(&self.state);
                tokio::spawn(self.clone().handshake(incoming, config, place, next));
            } else {
                incoming.refuse();
                self.refused(next, address, RefuseReason::Limit);
            }
        }
    }

    /// A place for one more connection, if there is one, when one more may come.
    async fn place(&self) -> Option<Place> {
        self.state.wait_to_accept(&self.node.clock).await;
        Place::take(&self.state)
    }

    fn is_banned(&self, address: SocketAddr) -> bool {
        let bans = &self.node.bans;
        let in_force = Arc::clone(&bans.subscribe().borrow());
        let ban = in_force.all.find_address(address.ip());
        ban.inspect(|ban| super::banned::note_refused(bans, ban, address, "")).is_some()
    }

    fn refused(&self, worker: usize, address: SocketAddr, reason: RefuseReason) {
        tracing::debug!(listener = self.state.name, %address, reason = reason.name(), "connection refused");
        // A full queue: it is not counted.
        self.node.inboxes[worker].push_one(Item::Refused(reason));
    }

    /// Up to the first bytes of the stream, within the time that CONNECT has.
    async fn handshake(self, incoming: Incoming, config: Arc<quinn::ServerConfig>, place: Place, worker: usize) {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        let address = incoming.remote_address();
        let mut connected = None;
        let first = async {
            let connection = incoming.accept_with(config)?.await?;
            connected = Some(connection.clone());
            connection.accept_bi().await
        };
        let limits = self.node.live.borrow().limits.get(usize::from(self.number)).cloned();
        let limits = limits.as_ref().unwrap_or(&self.state.limits);
        let time = Duration::from_millis(limits.connect_timeout_ms);
        let result = tokio::time::timeout(time, first).await;
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
        let (send, receive) = match (result, &connected) {
            (Ok(Ok(stream)), _) => stream,
            (Ok(Err(error)), connection) => {
                let reason = if connection.is_none() { RefuseReason::TlsHandshake } else { RefuseReason::Protocol };
                tracing::debug!(listener = self.state.name, %address, %error, "a QUIC connection without a stream");
                return self.refused(worker, address, reason);
            }
            (Err(_), connection) => {
                if let Some(connection) = connection {
                    connection.close(VarInt::from_u32(0), b"");
                }
                return self.refused(worker, address, RefuseReason::Timeout);
            }
        };
        let Some(connection) = connected else {
            return;
        };
        let mut peer = PeerInfo::new(connection.remote_address(), Transport::Quic);
        peer.tls = Some(Box::new(tls_peer(&connection)));
        let stream = QuicStream { send, receive, connection, runtime: Handle::current() };
        let rest = Rest { listener: self.number, peer: Box::new(peer), layered: None, bytes: Vec::new(), ended: false };
        let socket = Loose::Quic(Box::new(RefCell::new(stream)));
        if self.node.inboxes[worker].push_one(Item::Accept(Box::new(Adopted { socket, rest }))) {
            place.keep();
        } else {
            tracing::warn!(listener = self.state.name, worker, "the worker's queue is full: a connection is refused");
        }
    }
}

fn tls_peer(connection: &Connection) -> TlsPeer {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let (common_name, subject) = chain.as_ref().and_then(|chain| chain.first()).map(subject_of).unwrap_or_default();
    TlsPeer { server_name: data.and_then(|data| data.server_name).map(Into::into), common_name, subject }
}

/// A connection counted at its listener, until it is kept by a worker.
struct Place(Option<Arc<ListenerState>>);

impl Place {
    fn take(state: &Arc<ListenerState>) -> Option<Self> {
        state.opened().then(|| Self(Some(Arc::clone(state))))
    }

    /// The worker counts it from now on.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            state.closed();
        }
    }
}
