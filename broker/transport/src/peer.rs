//! Who is at the other end of a connection.

use std::net::{IpAddr, SocketAddr};

use crate::tls::TlsPeer;

/// What carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TCP.
    Ws,
    /// WebSocket over TLS over TCP.
    Wss,
    /// A stream of a QUIC connection.
    Quic,
}

impl Transport {
    /// The name in metrics, logs and events: that of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }
}

/// What is known of a client before MQTT: kept with its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its address: behind a balancer that speaks the PROXY protocol, the one that the balancer says.
    pub address: SocketAddr,
    /// What carries its connection.
    pub transport: Transport,
    /// What TLS says, its own or the balancer's; a connection without TLS has nothing here.
    pub tls: Option<Box<TlsPeer>>,
}

impl PeerInfo {
    /// At the start of a connection.
    #[must_use]
    pub fn new(address: SocketAddr, transport: Transport) -> Self {
        Self { address: canonical(address), transport, tls: None }
    }
}

/// A socket for both kinds of addresses shows IPv4 as IPv6.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => SocketAddr::new(ip.to_canonical(), address.port()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_those_that_people_know() {
        for (socket, shown) in [
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
            ("192.0.2.1:5", "192.0.2.1:5"),
        ] {
            let peer = PeerInfo::new(socket.parse().unwrap(), Transport::Tcp);
            assert_eq!(peer.address.to_string(), shown);
        }
    }
}
