//! A node with a listener of each kind, and clients that come to any of them, from an address of their own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::client::{PATIENCE, Stream};
use crate::pki::{Ca, tls_over};
use crate::process::Node;
use crate::quic::Quic;
use crate::websocket::Ws;

/// Kinds of listeners, in the order of their addresses.
pub(crate) const KINDS: [&str; 5] = ["tcp", "tls", "ws", "wss", "quic"];

pub(crate) struct Transports {
    ca: Ca,
    pub(crate) node: Node,
}

impl Transports {
    /// With the control API.
    pub(crate) fn start() -> Self {
        let ca = Ca::new();
        let (cert, key) = ca.issue("localhost", 1);
        let items = KINDS.iter().enumerate().map(|(at, kind)| {
            let tls = if has_tls(kind) { ", tls: {certFile: '@dir/crt', keyFile: '@dir/key'}" } else { "" };
            format!("- {{name: {kind}, type: {kind}, bind: '@{at}' {tls}}}\n")
        });
        let node = Node::with_control(&items.collect::<String>(), &[("crt", &cert), ("key", &key)]);
        Self { ca, node }
    }

    pub(crate) fn address(&self, kind: &str) -> SocketAddr {
        self.node.addresses[KINDS.iter().position(|known| *known == kind).unwrap()]
    }

    /// All that comes before CONNECT. An error: the node has closed the connection in it.
    pub(crate) fn open(&self, kind: &str, from: Ipv4Addr) -> io::Result<Box<dyn Stream>> {
        let address = self.address(kind);
        if kind == "quic" {
            return Ok(Box::new(self.quic(from)?));
        }
        let socket = tcp(from, address);
        if !has_tls(kind) {
            return if kind == "ws" { websocket(socket) } else { Ok(Box::new(socket)) };
        }
        let mut tls = tls_over(socket, "localhost", self.ca.client(None, rustls::ALL_VERSIONS));
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        if kind == "wss" { websocket(tls) } else { Ok(Box::new(tls)) }
    }

    pub(crate) fn quic(&self, from: Ipv4Addr) -> Result<Quic, quinn::ConnectionError> {
        Quic::open_from(from, self.address("quic"), &self.ca, None, "mqtt")
    }
}

pub(crate) fn has_tls(kind: &str) -> bool {
    matches!(kind, "tls" | "wss" | "quic")
}

/// A connection of TCP, and nothing sent.
pub(crate) fn tcp(from: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

fn websocket<S: Stream + 'static>(stream: S) -> io::Result<Box<dyn Stream>> {
    match Ws::over(stream, "mqtt", "/mqtt") {
        Ok((socket, _)) => Ok(Box::new(socket)),
        Err(tungstenite::Error::Io(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}
