//! The root of the settings and the small sections: node, HTTP, metrics, storage, log.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BindAddr, ByteSize, Cluster, Flapping, Listener, Mqtt, Overload, Zone};

/// The settings of one broker node.
///
/// The default is a standalone node: MQTT on 1883 and over WebSocket on 8083, HTTP on 18083, metrics on 9100.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Who this node is and where it keeps its data.
    pub node: Node,
    /// The cluster this node is a member of. Absent: a standalone node, no consensus in the way of anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// Where MQTT clients connect.
    pub listeners: Vec<Listener>,
    /// Worker threads, each with connections of its own. 0: one for each core that the process may use.
    #[schemars(range(min = 0, max = 64))]
    pub workers: u16,
    /// HTTP API and control API.
    pub http: Http,
    /// Metrics and health.
    pub metrics: Metrics,
    /// Limits of the MQTT protocol, for each client.
    pub mqtt: Mqtt,
    /// Named sets of limits, by name (lower-case letters, digits and hyphens). A listener selects one by its `zone`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, Zone>,
    /// Clients that connect too often are banned for a while.
    pub flapping: Flapping,
    /// What is refused, and then shed, when the node has too much to do.
    pub overload: Overload,
    /// Sizes of the log and of the state store.
    pub storage: Storage,
    /// What the node logs, and how.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: Node::default(),
            cluster: None,
            listeners: Listener::defaults(),
            workers: 0,
            http: Http::default(),
            metrics: Metrics::default(),
            mqtt: Mqtt::default(),
            zones: BTreeMap::new(),
            flapping: Flapping::default(),
            overload: Overload::default(),
            storage: Storage::default(),
            log: Log::default(),
        }
    }
}

/// Who this node is and where it keeps its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Node {
    /// Name of the node, unique in its cluster: lower-case letters, digits and hyphens (an RFC 1123 label).
    /// In Kubernetes it is the name of the pod.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Directory of everything that the node keeps: identity, log, state. One process at a time.
    #[schemars(length(min = 1))]
    pub data_dir: PathBuf,
    /// What fails together with this node, an availability zone, a rack or a building: a cluster spreads the replicas of its shards over zones. Empty: not
    /// known; nodes of which it is not known are in one zone. It is told at each start, and has nothing to do with the limits under `zones`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub zone: String,
}

impl Default for Node {
    fn default() -> Self {
        Self { name: "raftmq-0".into(), data_dir: "./raftmq-data".into(), zone: String::new() }
    }
}

/// The PEM files of one TLS endpoint. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates of the authorities whose certificates are accepted from the other side.
    #[schemars(length(min = 1))]
    pub ca_file: PathBuf,
    /// The node's certificate, followed by its intermediate certificates.
    #[schemars(length(min = 1))]
    pub cert_file: PathBuf,
    /// The private key of the certificate.
    #[schemars(length(min = 1))]
    pub key_file: PathBuf,
}

/// HTTP API and control API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Http {
    /// Address and port of the HTTP server.
    pub bind: BindAddr,
    /// Mutual TLS of the HTTP server. Without it every call of `/control/v1` is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

impl Default for Http {
    fn default() -> Self {
        Self { bind: BindAddr::any(18083), tls: None }
    }
}

/// Metrics and health: `/metrics`, `/healthz`, `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    /// Address and port of `/metrics`, `/healthz` and `/readyz`.
    pub bind: BindAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { bind: BindAddr::any(9100) }
    }
}

/// Sizes of the log and of the state store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Storage {
    /// Size of one preallocated segment of the write-ahead log.
    #[schemars(extend("x-raftmq-min" = "1MiB", "x-raftmq-max" = "1GiB"))]
    pub wal_segment_bytes: ByteSize,
    /// Space kept in reserve, so that votes and purges can be written when the disk is full.
    #[schemars(extend("x-raftmq-min" = "1MiB", "x-raftmq-max" = "1GiB"))]
    pub ballast_bytes: ByteSize,
    /// Memory that the state store may use for its cache.
    #[schemars(extend("x-raftmq-min" = "1MiB", "x-raftmq-max" = "64GiB"))]
    pub cache_bytes: ByteSize,
}

impl Default for Storage {
    fn default() -> Self {
        Self { wal_segment_bytes: ByteSize::mib(64), ballast_bytes: ByteSize::mib(16), cache_bytes: ByteSize::mib(32) }
    }
}

/// What the node logs, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// The least important level that is logged. It can be changed while the node runs.
    pub level: LogLevel,
    /// Levels of single modules, `module=level` separated by commas; `off` is a level here too. Empty: none of their own. With `level`
    /// `debug`, `rustls=warn,quinn=warn,quinn_proto=warn,quinn_udp=warn` keeps the libraries of TLS and QUIC quiet, which tell each handshake
    /// and packet there.
    #[schemars(length(max = 1000))]
    pub modules: String,
    /// One line of text, or one JSON object, for each event.
    pub format: LogFormat,
}

impl Log {
    /// Level and modules as one filter: `info,raftmq::http=debug`.
    #[must_use]
    pub fn filter(&self) -> String {
        if self.modules.is_empty() {
            self.level.as_str().to_owned()
        } else {
            format!("{},{}", self.level.as_str(), self.modules)
        }
    }
}

/// Importance of a log event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The level's name as tracing's filters write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}
