//! The control API's client, for `raftmq ctl`, `raftmq up` and the operator.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use raftmq_discovery::{HostPort, ResolveError, Resolver};
use raftmq_links::pki::CertIdentity;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::api::{
    Ban, BanRequest, Bans, BootstrapRequest, Bootstrapped, Groups, JoinInfo, Leaders, LeaveRequest, Left, LogLevel,
    Loss, Members, NodeStatus, Reloaded, TransferRequest, Transferred, UnbanRequest, Unbanned, path,
};
use crate::error::{ApiError, ErrorBody};

/// The largest answer that is read.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Whom a client means. The address says where, the certificate who.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port` of the control API.
    pub address: String,
    /// Cluster that the server's certificate must name; `None` for any of the CA.
    pub cluster: Option<String>,
    /// Node that the server's certificate must name; `None` for any of the cluster.
    pub node: Option<String>,
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address is wrong or has no socket address.
    #[error("{0}")]
    Resolve(#[from] ResolveError),
    /// Nobody listens there, or the network is in the way.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// No TLS connection: a certificate of either side was not accepted, say.
    #[error("no TLS connection with {address}: {error}")]
    Tls {
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The server is another one than meant.
    #[error("the server at {address} is not {expected}: its certificate names {found}")]
    WrongServer {
        /// The address.
        address: String,
        /// Who was meant.
        expected: String,
        /// Who it is.
        found: String,
    },
    /// The connection broke, or what came was not HTTP. A server that refuses a certificate shows up here too.
    #[error("{address} broke the call off: {reason}")]
    Broken {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// No answer in time; what was asked may still happen.
    #[error("no answer from {address} within {} ms", .after.as_millis())]
    Timeout {
        /// The address.
        address: String,
        /// The time given.
        after: Duration,
    },
    /// The server answered with an error.
    #[error("{address} answered {}: {error}", .status.as_u16())]
    Api {
        /// The address.
        address: String,
        /// The status.
        status: StatusCode,
        /// The error.
        error: ApiError,
    },
    /// The answer is not what it should be.
    #[error("{address} answered {} with something else than the control API does: {reason}", .status.as_u16())]
    Answer {
        /// The address.
        address: String,
        /// The status.
        status: StatusCode,
        /// What is wrong.
        reason: String,
    },
}

/// Calls one node. Each call makes a connection of its own: calls are rare, and a node may have changed.
#[derive(Clone)]
pub struct ControlClient {
    target: Target,
    tls: Arc<ClientConfig>,
    resolver: Resolver,
    deadline: Duration,
}

impl std::fmt::Debug for ControlClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlClient").field("target", &self.target).finish_non_exhaustive()
    }
}

impl ControlClient {
    /// `tls` carries the client's certificate and the CA (`raftmq_links::pki::client_config`, which leaves it to this
    /// client to check whom the server's certificate names). `deadline` bounds each call as a whole.
    #[must_use]
    pub fn new(target: Target, tls: Arc<ClientConfig>, deadline: Duration) -> Self {
        Self { target, tls, resolver: Resolver::system(), deadline }
    }

    /// Whom it calls.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How the node is doing.
    ///
    /// # Errors
    ///
    /// As all calls: [`ClientError`].
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.get(path::STATUS).await
    }

    /// The members.
    pub async fn members(&self) -> Result<Members, ClientError> {
        self.get(path::MEMBERS).await
    }

    /// Who leads.
    pub async fn leaders(&self) -> Result<Leaders, ClientError> {
        self.get(path::LEADER).await
    }

    /// The groups as the node sees them.
    pub async fn groups(&self) -> Result<Groups, ClientError> {
        self.get(path::GROUPS).await
    }

    /// How far the node is on its way into a cluster.
    pub async fn join_info(&self) -> Result<JoinInfo, ClientError> {
        self.get(path::JOIN).await
    }

    /// Gives the permission to form a cluster.
    pub async fn bootstrap(&self, request: &BootstrapRequest) -> Result<Bootstrapped, ClientError> {
        self.send(Method::POST, path::BOOTSTRAP, request).await
    }

    /// Makes a member leave for good.
    pub async fn leave(&self, request: &LeaveRequest) -> Result<Left, ClientError> {
        self.send(Method::POST, path::LEAVE, request).await
    }

    /// Makes another member lead a group.
    pub async fn transfer(&self, request: &TransferRequest) -> Result<Transferred, ClientError> {
        self.send(Method::POST, path::TRANSFER, request).await
    }

    /// What would be lost if a node (name or Raft id) stopped.
    pub async fn loss(&self, node: &str) -> Result<Loss, ClientError> {
        self.get(&format!("{}?node={}", path::LOSS, percent_encode(node))).await
    }

    /// Lets the node read its settings again.
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.send(Method::POST, path::RELOAD, &()).await
    }

    /// All bans.
    pub async fn bans(&self) -> Result<Bans, ClientError> {
        self.get(path::BANS).await
    }

    /// Bans clients.
    pub async fn ban(&self, request: &BanRequest) -> Result<Ban, ClientError> {
        self.send(Method::POST, path::BANS, request).await
    }

    /// Ends a ban.
    pub async fn unban(&self, request: &UnbanRequest) -> Result<Unbanned, ClientError> {
        self.send(Method::DELETE, path::BANS, request).await
    }

    /// The filter of the node's log.
    pub async fn log(&self) -> Result<LogLevel, ClientError> {
        self.get(path::LOG).await
    }

    /// Changes the filter of the node's log.
    pub async fn set_log(&self, level: &LogLevel) -> Result<LogLevel, ClientError> {
        self.send(Method::PUT, path::LOG, level).await
    }

    async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, ClientError> {
        self.call(Method::GET, path, Body::empty()).await
    }

    async fn send<T: Serialize, R: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        request: &T,
    ) -> Result<R, ClientError> {
        let json = serde_json::to_vec(request).expect("the API's types have no maps with odd keys");
        self.call(method, path, Body::from(json)).await
    }

    async fn call<R: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<R, ClientError> {
        let call = self.exchange(method, path, body);
        match tokio::time::timeout(self.deadline, call).await {
            Ok(answer) => self.read(answer?),
            Err(_) => Err(ClientError::Timeout { address: self.target.address.clone(), after: self.deadline }),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Body) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let stream = self.connect().await?;
        let broken = |error: &dyn std::error::Error| ClientError::Broken {
            address: self.target.address.clone(),
            reason: with_causes(error),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.target.address)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(body)
            .map_err(|error| broken(&error))?;
        let call = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = to_bytes(Body::new(response.into_body()), MAX_ANSWER).await.map_err(|error| broken(&error))?;
            Ok((status, body.to_vec()))
        };
        // The connection is driven beside the call and ends with it. Where it fails first, it knows the cause better.
        tokio::select! {
            answer = call => answer,
            Err(error) = connection => Err(broken(&error)),
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let address = &self.target.address;
        let sockets = self.resolver.resolve(address).await?;
        let socket = TcpStream::connect(sockets.as_slice())
            .await
            .map_err(|error| ClientError::Connect { address: address.clone(), error })?;
        let host = address.parse::<HostPort>().map_err(ResolveError::from)?.host;
        let tls_error = |error| ClientError::Tls { address: address.clone(), error };
        let name = ServerName::try_from(host)
            .map_err(|error| tls_error(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, socket).await.map_err(tls_error)?;
        self.check_server(&stream)?;
        Ok(stream)
    }

    fn check_server(&self, stream: &TlsStream<TcpStream>) -> Result<(), ClientError> {
        let certificates = stream.get_ref().1.peer_certificates();
        let identity = certificates.and_then(|chain| CertIdentity::from_der(chain.first()?).ok()).unwrap_or_default();
        let Target { cluster, node, .. } = &self.target;
        let meant = identity.nodes.iter().any(|(found, of)| {
            cluster.as_ref().is_none_or(|cluster| cluster == of)
                && node.as_ref().is_none_or(|node| node == found || found == "*")
        });
        if meant {
            return Ok(());
        }
        let any = "any".to_owned();
        let found: Vec<String> =
            identity.nodes.iter().map(|(node, cluster)| format!("node {node} of cluster {cluster}")).collect();
        Err(ClientError::WrongServer {
            address: self.target.address.clone(),
            expected: format!("node {} of cluster {}", node.as_ref().unwrap_or(&any), cluster.as_ref().unwrap_or(&any)),
            found: if found.is_empty() { "no node".to_owned() } else { found.join(", ") },
        })
    }

    fn read<R: DeserializeOwned>(&self, (status, body): (StatusCode, Vec<u8>)) -> Result<R, ClientError> {
        let address = self.target.address.clone();
        let odd = |reason: String| ClientError::Answer { address: address.clone(), status, reason };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| odd(error.to_string()));
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(ClientError::Api { address, status, error: body.error }),
            Err(_) => {
                let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                Err(odd(format!("{text:?}")))
            }
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// RFC 3986: everything but unreserved characters.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
