//! Listening sockets, and what is the same for all connections of a listener.
//!
//! Of TCP there is one socket for each worker on the same address, so that the kernel spreads connections. Of UDP there is one.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use raftmq_config::{Config, Listener, ProxyProtocol};
use raftmq_session::SessionLimits;
use raftmq_transport::proxy::Versions;
use raftmq_transport::tls::TlsError;
use raftmq_transport::ws::WsSettings;
use raftmq_transport::{Layers, Transport};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::Clock;
use super::meter::Meters;
use crate::features::session_limits;
use crate::listener_tls::ListenerCertificates;

/// Connections that may wait to be accepted, a worker. The kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// TCP keep-alive: after so long without anything from the client its system is asked for a sign of life …
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(120);
/// … and then so often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// … and after so many questions without an answer the connection is over.
const KEEP_ALIVE_PROBES: u32 = 4;

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("listener {name}: {address} is in use: stop what listens there, or set another bind address")]
    InUse { name: String, address: SocketAddr },
    #[error("listener {name}: cannot listen on {address}: {source}")]
    Io { name: String, address: SocketAddr, source: io::Error },
}

/// One worker's view of a listener.
#[derive(Clone)]
pub(crate) struct ListenerState {
    /// Its name in logs and metrics.
    pub(crate) name: String,
    /// The port that its clients connect to; 0 before it is opened.
    pub(crate) port: u16,
    /// What carries MQTT on it.
    pub(crate) transport: Transport,
    /// Connections that it keeps at a time, over all workers; 0 for any number.
    pub(crate) max_connections: Arc<AtomicU32>,
    /// How many it has.
    pub(crate) connections: Arc<AtomicU32>,
    /// What its clients may use.
    pub(crate) limits: Arc<SessionLimits>,
    /// What they may do together, over all workers.
    pub(crate) rates: Arc<Meters>,
    proxy: Option<Versions>,
    ws: Option<Arc<WsSettings>>,
    /// Its certificates, where it has TLS.
    pub(crate) tls: Option<Arc<ListenerCertificates>>,
}

impl ListenerState {
    /// From its settings and those of its node.
    pub(crate) fn new(settings: &Listener, node: &Config, tls: Option<Arc<ListenerCertificates>>) -> Self {
        Self {
            name: settings.name.clone(),
            port: 0,
            transport: transport(settings),
            max_connections: Arc::new(AtomicU32::new(settings.max_connections.unwrap_or(0))),
            connections: Arc::new(AtomicU32::new(0)),
            limits: Arc::new(limits_of(settings, node)),
            rates: Arc::new(Meters::new(settings.rates.as_ref())),
            proxy: match settings.proxy_protocol {
                ProxyProtocol::None => None,
                ProxyProtocol::V1 => Some(Versions::V1),
                ProxyProtocol::V2 => Some(Versions::V2),
                ProxyProtocol::Any => Some(Versions::Any),
            },
            ws: settings.type_.uses_websocket().then(|| {
                let path = settings.websocket.clone().unwrap_or_default().path;
                Arc::new(WsSettings { path })
            }),
            tls,
        }
    }

    /// One more connection, if there is room.
    pub(super) fn opened(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let most = self.max_connections.load(Ordering::Relaxed);
        let fits = most == 0 || before < most;
        if !fits {
            self.closed();
        }
        fits
    }

    /// Waits until one more connection may be accepted.
    pub(super) async fn wait_to_accept(&self, clock: &Clock) {
        self.rates.connection(&self.name, clock).await;
    }

    /// Whether its connections begin with a header that says where they come from.
    pub(super) const fn has_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    pub(super) fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// What a new connection over TCP has between its socket and MQTT.
    pub(super) fn layers(&self) -> Result<Option<Layers>, TlsError> {
        let tls = self.tls.as_ref().map(|tls| Arc::clone(&tls.current().tcp));
        Layers::new(self.proxy, tls, self.ws.clone())
    }
}

/// What the clients of a listener may use: as it says, its zone, or the node.
pub(crate) fn limits_of(settings: &Listener, node: &Config) -> SessionLimits {
    let own = node.settings_of(settings);
    SessionLimits { mount_point: own.mount_point.as_deref().map(Arc::from), ..session_limits(&own.mqtt) }
}

const fn transport(settings: &Listener) -> Transport {
    use raftmq_config::ListenerType as Type;
    match settings.type_ {
        Type::Tcp => Transport::Tcp,
        Type::Tls => Transport::Tls,
        Type::Ws => Transport::Ws,
        Type::Wss => Transport::Wss,
        Type::Quic => Transport::Quic,
    }
}

/// The sockets of a listener: of TCP one for each worker, of UDP one for all.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) tcp: Vec<StdListener>,
    pub(crate) udp: Option<UdpSocket>,
}

impl Opened {
    /// Where it listens.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &self.udp {
            Some(socket) => socket.local_addr().ok(),
            None => self.tcp.first()?.local_addr().ok(),
        }
    }
}

/// Opens the sockets of a listener, for so many workers. Port 0 means any free one, the same for all.
pub(crate) fn open(settings: &Listener, all: &[Listener], workers: usize) -> Result<Opened, ListenError> {
    let address = settings.bind.get();
    let kind = Kind { udp: settings.type_.uses_udp(), takes_ipv4: settings.takes_ipv4(all) };
    open_sockets(address, kind, workers).map_err(|source| {
        let name = settings.name.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { name, address },
            _ => ListenError::Io { name, address, source },
        }
    })
}

#[derive(Clone, Copy)]
struct Kind {
    udp: bool,
    /// Of a socket for all IPv6 addresses: those of IPv4 as well.
    takes_ipv4: bool,
}

fn open_sockets(address: SocketAddr, kind: Kind, workers: usize) -> io::Result<Opened> {
    if kind.udp {
        let socket = socket(address, kind)?;
        socket.bind(&address.into())?;
        return Ok(Opened { udp: Some(socket.into()), ..Opened::default() });
    }
    // With SO_REUSEPORT a second process of the same user would share the address without a word: the clients
    // would land on either. A bind without it finds such a listener.
    let probe = socket(address, kind)?;
    probe.bind(&address.into())?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let sockets = (0..workers).map(|_| {
        let socket = socket(address, kind)?;
        socket.set_reuse_port(true)?;
        // What is accepted has it, too.
        socket.set_tcp_keepalive(&keep_alive())?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(StdListener::from(socket))
    });
    Ok(Opened { tcp: sockets.collect::<io::Result<_>>()?, udp: None })
}

/// Of TCP: an ordered, lossless stream of bytes both ways `[MQTT-4.2.0-1]` `[MQTT311-7.1.1-1]`. Of UDP: what QUIC makes one of.
fn socket(address: SocketAddr, kind: Kind) -> io::Result<Socket> {
    let (type_, protocol) = if kind.udp { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    let socket = Socket::new(Domain::for_address(address), type_, Some(protocol))?;
    if !kind.udp {
        // After a restart old connections linger in TIME_WAIT on the port.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!kind.takes_ipv4)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// For clients without a keep-alive of MQTT that are gone without a word: four minutes of silence of the client's system end the
/// connection. Not TCP_USER_TIMEOUT, which also ends the connections of clients that are there and do not read for a while.
fn keep_alive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEP_ALIVE_IDLE).with_interval(KEEP_ALIVE_INTERVAL).with_retries(KEEP_ALIVE_PROBES)
}

/// Whether an accept error is about this node's resources: wait a little instead of spinning.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_config::ListenerType;

    fn listener(name: &str, type_: ListenerType, bind: &str) -> Listener {
        Listener::new(name, type_, bind.parse().unwrap())
    }

    fn opened(all: &[Listener], at: usize) -> Result<Opened, ListenError> {
        open(&all[at], all, 2)
    }

    #[test]
    fn a_client_that_is_gone_without_a_word_is_noticed() {
        let opened = opened(&[listener("default", ListenerType::Tcp, "127.0.0.1:0")], 0).unwrap();
        let _client = std::net::TcpStream::connect(opened.address().unwrap()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let accepted = loop {
            if let Some(Ok((socket, _))) = opened.tcp.iter().map(StdListener::accept).find(Result::is_ok) {
                break socket;
            }
            assert!(std::time::Instant::now() < deadline, "not accepted");
        };
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(120));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
    }

    #[test]
    fn workers_share_an_address_and_a_second_node_is_refused() {
        let first = opened(&[listener("default", ListenerType::Tcp, "127.0.0.1:0")], 0).unwrap();
        let address = first.tcp[0].local_addr().unwrap();
        assert_eq!(first.tcp[1].local_addr().unwrap(), address);
        let again = [listener("default", ListenerType::Tcp, &address.to_string())];
        let error = opened(&again, 0).err().unwrap();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()));
        // UDP has ports of its own.
        let quic = [listener("quic", ListenerType::Quic, &address.to_string())];
        let _udp = opened(&quic, 0).unwrap();
        assert!(matches!(opened(&quic, 0), Err(ListenError::InUse { .. })));
        drop(first);
        opened(&again, 0).unwrap();
    }

    #[test]
    fn all_ipv6_addresses_are_all_addresses_unless_ipv4_is_another_listeners() {
        let both = [listener("six", ListenerType::Tcp, "[::]:0")];
        let socket = opened(&both, 0).unwrap();
        let port = socket.address().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::net::TcpStream::connect(("::1", port)).unwrap();
        drop(socket);
        let apart = [
            listener("six", ListenerType::Tcp, &format!("[::]:{port}")),
            listener("four", ListenerType::Tcp, &format!("127.0.0.1:{port}")),
        ];
        let _six = opened(&apart, 0).unwrap();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        let _four = opened(&apart, 1).unwrap();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
