//! Serves a router on a listener, with or without mutual TLS: bounded in connections, in time and in what a slow client
//! can hold.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use raftmq_links::pki::CertIdentity;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// The pause after a failed accept (no more file descriptors, say).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long requests may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(5);
/// Most header fields of a request, and their bytes.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, and for a connection that is kept alive to send the next one.
    pub header: Duration,
    /// For a connection in all; then it may finish its request and is closed.
    pub lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(15),
            lifetime: Duration::from_secs(600),
        }
    }
}

/// Mutual TLS: the configuration must demand a client's certificate (`raftmq_links::pki::server_config`).
#[derive(Clone)]
pub struct Tls {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// Nodes of this cluster may call, besides control clients.
    pub cluster: Option<String>,
}

/// Who calls, by the certificate that rustls has checked: an extension of each request. It is missing where the
/// certificate is for something else, and without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(pub Arc<str>);

/// A running server. Dropping it cuts all its connections.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Serves on the current runtime.
    ///
    /// # Errors
    ///
    /// The listener has no local address.
    pub fn start(listener: TcpListener, tls: Option<Tls>, router: Router, limits: Limits) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, tls, router, limits, stopped));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more, lets requests finish for 5 s, cuts the rest.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        let _ = (&mut self.task).await;
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let limits = Arc::new(limits);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, listener.accept().await)
            } => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            (place, Ok((socket, from))) => {
                let (tls, router) = (tls.clone(), router.clone());
                let (limits, stopped) = (Arc::clone(&limits), stopped.clone());
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = serve(socket, tls, router, &limits, stopped).await {
                        debug!(%from, error, "an HTTP connection failed");
                    }
                });
            }
            (_, Err(error)) => {
                warn!(%error, "accepting an HTTP connection failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

async fn serve(
    socket: TcpStream,
    tls: Option<Tls>,
    router: Router,
    limits: &Limits,
    stopped: watch::Receiver<bool>,
) -> Result<(), String> {
    let _ = socket.set_nodelay(true);
    let Some(tls) = tls else {
        return converse(socket, None, router, limits, stopped).await;
    };
    let handshake = TlsAcceptor::from(tls.config).accept(socket);
    let stream = tokio::time::timeout(limits.handshake, handshake)
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| format!("the TLS handshake failed: {error}"))?;
    let certificates = stream.get_ref().1.peer_certificates();
    let caller = certificates
        .and_then(|chain| CertIdentity::from_der(chain.first()?).ok())
        .and_then(|identity| caller(&identity, tls.cluster.as_deref()));
    converse(stream, caller, router, limits, stopped).await
}

/// A control client, or a node of the cluster; nobody else.
fn caller(identity: &CertIdentity, cluster: Option<&str>) -> Option<Caller> {
    if let Some(client) = &identity.control {
        return Some(Caller(format!("client {client}").into()));
    }
    let mut nodes = identity.nodes.iter();
    let (node, _) = nodes.find(|(_, of)| Some(of.as_str()) == cluster)?;
    Some(Caller(format!("node {node}").into()))
}

async fn converse<S>(
    stream: S,
    caller: Option<Caller>,
    router: Router,
    limits: &Limits,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        if let Some(caller) = &caller {
            request.extensions_mut().insert(caller.clone());
        }
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.wait_for(|stopped| *stopped) => None,
        () = tokio::time::sleep(limits.lifetime) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, connection).await.map_err(|_| "it did not end in time".to_owned())?
        }
    };
    ended.map_err(|error| error.to_string())
}
