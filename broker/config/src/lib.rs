//! The typed settings of one broker node: their defaults, checks and sources.
//!
//! [`Config`] is the whole of it, one struct a section, with the YAML names in camelCase as in the
//! `MqttCluster` resource. [`Config::load`] reads a YAML file, then the environment
//! (`RAFTMQ__SECTION__FIELD`), then flags; the later source wins, setting by setting. An
//! unknown or wrong setting is a [`ConfigError`] that names the setting, where it was written and what is allowed.
//!
//! The JSON schema derived from the types is the one list of settings: names, types, ranges and descriptions are read from it
//! by the checks ([`schema`]), by the environment's names and by the generated reference ([`reference_markdown`]).
//! [`tree`] and [`schema`] are public because `raftmq-crds` reads `MqttCluster` files with them.

mod cluster;
mod error;
pub mod extensions;
mod flapping;
mod listeners;
mod load;
mod mqtt;
mod node;
mod overload;
mod reference;
pub mod schema;
pub mod tree;
mod validate;
pub mod values;
mod zones;

pub use cluster::{
    Cluster, Discovery, DiscoveryStrategy, DnsDiscovery, DnsRecordType, K8sDiscovery, Links, OnQuorumLoss, Raft,
    Shards, StaticDiscovery,
};
pub use error::{ConfigError, Origin, Problem};
pub use flapping::Flapping;
pub use listeners::{
    ClientAuth, Listener, ListenerRates, ListenerTls, ListenerType, ProxyProtocol, ServerCertificate, TlsVersion,
    Websocket,
};
pub use load::{Origins, from_document};
pub use mqtt::{Mqtt, QueueFull, SlowQos0, SlowQos1};
pub use node::{Config, Http, Log, LogFormat, LogLevel, Metrics, Node, Storage, TlsFiles};
pub use overload::Overload;
pub use reference::reference_markdown;
pub use validate::{is_host_port, is_rfc1123_label};
pub use values::{BindAddr, ByteSize, HumanDuration};
pub use zones::{ListenerSettings, Zone};
