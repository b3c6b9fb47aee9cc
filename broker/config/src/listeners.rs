//! Where MQTT clients connect.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BindAddr, ByteSize, HumanDuration};

/// One address where MQTT clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Name of the listener in metrics and logs, unique on the node: lower-case letters, digits and hyphens, at most 15.
    #[schemars(length(min = 1, max = 15))]
    pub name: String,
    /// What carries MQTT.
    #[serde(rename = "type", default)]
    pub type_: ListenerType,
    /// Address and port; `quic` uses UDP, the others TCP. `:1883` is port 1883 on all IPv4 addresses, `[::]:1883` on all
    /// addresses (on all IPv6 addresses where another listener has the port on IPv4). Port 0: a free port.
    pub bind: BindAddr,
    /// Connections that this listener keeps at a time; further ones are closed at once. Absent: no limit but the process's open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: Option<u32>,
    /// Name of the zone, of those under `zones`, whose limits count for this listener's clients. Absent: those of `mqtt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Largest packet accepted on this listener, at most `mqtt.maxPacketSize`. Absent: that of the zone, or `mqtt.maxPacketSize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "1KiB", "x-raftmq-max" = "256MiB"))]
    pub max_packet_size: Option<ByteSize>,
    /// Time from the opening of a connection until its CONNECT must have arrived, all handshakes before it included. Absent:
    /// that of the zone, or `mqtt.connectTimeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "100ms", "x-raftmq-max" = "10m"))]
    pub connect_timeout: Option<HumanDuration>,
    /// What all clients of this listener on this node may do together a second. Absent: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<ListenerRates>,
    /// What is put before every topic of this listener's clients, and taken off again on delivery, as `plant-1/`. Absent:
    /// that of the zone, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub mount_point: Option<String>,
    /// The header with the client's address that a load balancer in front of this listener puts before everything else. A
    /// connection without it is closed, and so only balancers may reach the listener. Not for `quic`.
    #[serde(default, skip_serializing_if = "ProxyProtocol::is_none")]
    pub proxy_protocol: ProxyProtocol,
    /// Of WebSocket. For the types `ws` and `wss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<Websocket>,
    /// Certificates. Needed by the types `tls`, `wss` and `quic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

impl Listener {
    /// A listener with every other setting at its default.
    #[must_use]
    pub fn new(name: &str, type_: ListenerType, bind: BindAddr) -> Self {
        Self {
            name: name.into(),
            type_,
            bind,
            max_connections: None,
            zone: None,
            max_packet_size: None,
            connect_timeout: None,
            rates: None,
            mount_point: None,
            proxy_protocol: ProxyProtocol::None,
            websocket: None,
            tls: None,
        }
    }

    /// Those of a node without settings: MQTT over TCP on 1883 `[MQTT-4.2.0-1]` `[MQTT311-7.1.1-1]`, and WebSocket on 8083.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::default(),
            Self { websocket: Some(Websocket::default()), ..Self::new("ws", ListenerType::Ws, BindAddr::any(8083)) },
        ]
    }

    /// Whether a socket for all IPv6 addresses takes IPv4 as well: where no other listener has the port there.
    #[must_use]
    pub fn takes_ipv4(&self, all: &[Self]) -> bool {
        let own = self.bind.get();
        let also = |other: &Self| {
            other.type_.uses_udp() == self.type_.uses_udp()
                && other.bind.get().is_ipv4()
                && other.bind.port() == own.port()
        };
        own.is_ipv4() || (own.ip().is_unspecified() && (own.port() == 0 || !all.iter().any(also)))
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self::new("mqtt", ListenerType::Tcp, BindAddr::any(1883))
    }
}

/// What the clients of a listener may do together, on one node. Nothing is refused for it: connections wait to be accepted, and
/// clients are read more slowly, each in its turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListenerRates {
    /// Connections accepted a second. 0: any number.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub connections: u32,
    /// Connections accepted at once after a pause. 0: those of one second.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub connection_burst: u32,
    /// PUBLISH packets a second. 0: any number.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub messages: u32,
    /// PUBLISH packets at once after a pause. 0: those of one second.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub message_burst: u32,
    /// Bytes of packets a second. `0B`: any number.
    #[serde(skip_serializing_if = "ByteSize::is_zero")]
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub bytes: ByteSize,
    /// Bytes of packets at once after a pause. `0B`: those of one second.
    #[serde(skip_serializing_if = "ByteSize::is_zero")]
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub byte_burst: ByteSize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What carries MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ListenerType {
    /// Plain TCP.
    #[default]
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket under TLS.
    Wss,
    /// QUIC, one stream a connection.
    Quic,
}

impl ListenerType {
    /// The name in YAML.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }

    /// Whether connections of this type need a certificate.
    #[must_use]
    pub fn uses_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss | Self::Quic)
    }

    /// Whether connections of this type begin with an HTTP request.
    #[must_use]
    pub fn uses_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// Whether its socket is one of UDP.
    #[must_use]
    pub fn uses_udp(self) -> bool {
        matches!(self, Self::Quic)
    }
}

/// Which versions of the PROXY protocol a listener takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ProxyProtocol {
    /// Connections begin without a header.
    #[default]
    None,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
    /// Version 1 or 2.
    Any,
}

impl ProxyProtocol {
    /// Whether connections begin without a header.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Of WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Websocket {
    /// Path of the request; requests for another one are answered with 404.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
}

impl Default for Websocket {
    fn default() -> Self {
        Self { path: "/mqtt".into() }
    }
}

/// Certificates of a listener, in PEM files. They are read again within seconds of a change, and at SIGHUP: new connections see the
/// new ones, open connections go on. Files that cannot be used are reported in the log, and the former ones stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// The certificate for clients that ask for no server name, or for one that no other certificate is for; its intermediate
    /// certificates follow it.
    #[schemars(length(min = 1))]
    pub cert_file: PathBuf,
    /// The private key of the certificate.
    #[schemars(length(min = 1))]
    pub key_file: PathBuf,
    /// Further certificates, by the server name that clients ask for (SNI).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<ServerCertificate>,
    /// Whether clients show a certificate. `optional`: they may; one that is shown must be valid.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// Certificates of the authorities that issue those of the clients. Needed by `clientAuth` `optional` and `required`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub ca_file: Option<PathBuf>,
    /// Revocation lists (CRL) of the clients' authorities, one for each, intermediate authorities included: a certificate whose
    /// authority has no list is refused. Checked at the handshake; open connections stay. Absent: nothing is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub crl_file: Option<PathBuf>,
    /// Oldest version of TLS. QUIC always has 1.3.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// A certificate for certain server names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerCertificate {
    /// Names that it is for, as `mqtt.example.org` or `*.example.org`. Empty: the DNS names in the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_names: Vec<String>,
    /// The certificate, followed by its intermediate certificates.
    #[schemars(length(min = 1))]
    pub cert_file: PathBuf,
    /// The private key of the certificate.
    #[schemars(length(min = 1))]
    pub key_file: PathBuf,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// They may show one; one that is shown must be valid.
    Optional,
    /// They must show a valid one.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TlsVersion {
    /// 1.2.
    #[default]
    #[serde(rename = "tlsv1.2")]
    Tls12,
    /// 1.3.
    #[serde(rename = "tlsv1.3")]
    Tls13,
}
