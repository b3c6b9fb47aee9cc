//! From an `MqttCluster` to the settings of one of its nodes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use raftmq_config::{
    BindAddr, ByteSize, Cluster, Config, ConfigError, Discovery, DiscoveryStrategy, DnsDiscovery, DnsRecordType, Http,
    K8sDiscovery, Links, Listener, Metrics, Node, StaticDiscovery, TlsFiles,
};

use crate::{ClusterDiscoveryStrategy, LocalPorts, MqttCluster};

/// Where one node runs: everything of its settings that the `MqttCluster` does not say.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePlacement {
    /// Name of the node.
    pub name: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Address that it binds.
    pub ip: IpAddr,
    /// One port for each listener of the spec, in its order.
    pub listener_ports: Vec<u16>,
    /// Port of HTTP.
    pub http_port: u16,
    /// Port of metrics and health.
    pub metrics_port: u16,
    /// Port of node links.
    pub links_port: u16,
    /// `host:port` of its links for the others.
    pub advertise: String,
    /// How it finds the others.
    pub discovery: Discovery,
    /// Certificates of links and HTTP.
    pub tls: TlsFiles,
    /// Where the Secrets of listeners are, each a folder of its name.
    pub secrets_dir: PathBuf,
}

/// Why a spec cannot be turned into settings.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    /// The resource has no name.
    #[error("metadata.name: missing; the cluster needs a name")]
    NoName,
    /// The placement has not one port for each listener.
    #[error("the placement of {node} has {given} listener ports, the spec {wanted} listeners")]
    ListenerPorts {
        /// The node.
        node: String,
        /// Ports in the placement.
        given: usize,
        /// Listeners of the spec.
        wanted: usize,
    },
    /// A port has not been picked yet.
    #[error("node {ordinal} has no {socket} port yet; pick a free one first")]
    PortNotPicked {
        /// Which node.
        ordinal: usize,
        /// Which socket.
        socket: &'static str,
    },
    /// The settings are wrong. Paths are those of the `MqttCluster` where it has the setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl NodePlacement {
    /// Where a pod has the Secrets of its listeners, each a folder of its name.
    pub const POD_SECRETS: &'static str = "/etc/raftmq/secrets";

    /// The headless Service that the pods of a cluster are found by.
    #[must_use]
    pub fn links_service(cluster: &str) -> String {
        format!("{cluster}-links")
    }

    /// The name of a node: that of its pod.
    #[must_use]
    pub fn node_name(cluster: &str, ordinal: usize) -> String {
        format!("{cluster}-{ordinal}")
    }

    /// A process of `raftmq up` on loopback. Its files are under `dir/NODE`: `data/`, and `pki/ca.pem`, `pki/node.pem`
    /// and `pki/node.key`; what a listener's Secrets hold is expected in `dir/secrets/SECRET`. `ports` are those of all nodes, in order, without a `None`.
    ///
    /// # Errors
    /// [`TranslateError::NoName`], [`TranslateError::PortNotPicked`].
    pub fn local(
        cluster: &MqttCluster,
        ordinal: usize,
        ports: &[LocalPorts],
        dir: &Path,
    ) -> Result<Self, TranslateError> {
        let name = Self::node_name(name_of(cluster)?, ordinal);
        let missing = |ordinal, socket| TranslateError::PortNotPicked { ordinal, socket };
        let own = ports.get(ordinal).ok_or_else(|| missing(ordinal, "any"))?;
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let links = |(ordinal, node): (usize, &LocalPorts)| {
            node.links.map(|port| SocketAddr::new(ip, port).to_string()).ok_or_else(|| missing(ordinal, "links"))
        };
        let pki = dir.join(&name).join("pki");
        Ok(Self {
            data_dir: dir.join(&name).join("data"),
            name,
            ip,
            listener_ports: own
                .listeners
                .iter()
                .map(|port| port.ok_or_else(|| missing(ordinal, "listener")))
                .collect::<Result<_, _>>()?,
            http_port: own.http.ok_or_else(|| missing(ordinal, "HTTP"))?,
            metrics_port: own.metrics.ok_or_else(|| missing(ordinal, "metrics"))?,
            links_port: own.links.ok_or_else(|| missing(ordinal, "links"))?,
            advertise: links((ordinal, own))?,
            discovery: Discovery {
                strategy: DiscoveryStrategy::Static,
                static_: StaticDiscovery { peers: ports.iter().enumerate().map(links).collect::<Result<_, _>>()? },
                ..Discovery::default()
            },
            tls: TlsFiles {
                ca_file: pki.join("ca.pem"),
                cert_file: pki.join("node.pem"),
                key_file: pki.join("node.key"),
            },
            secrets_dir: dir.join("secrets"),
        })
    }

    /// A pod of the cluster's StatefulSet in `namespace`: data in /var/lib/raftmq, certificates of a mounted Secret in
    /// /etc/raftmq/pki (`ca.crt`, `tls.crt`, `tls.key`), found by the headless Service [`NodePlacement::links_service`].
    ///
    /// # Errors
    /// [`TranslateError::NoName`].
    pub fn pod(cluster: &MqttCluster, ordinal: usize, namespace: &str) -> Result<Self, TranslateError> {
        let cluster_name = name_of(cluster)?;
        let spec = &cluster.spec;
        let name = Self::node_name(cluster_name, ordinal);
        let service = Self::links_service(cluster_name);
        let domain = &spec.discovery.cluster_domain;
        let port = Links::DEFAULT_PORT;
        let mut discovery = Discovery::default();
        match spec.discovery.strategy {
            ClusterDiscoveryStrategy::K8s => {
                discovery.strategy = DiscoveryStrategy::K8s;
                discovery.k8s = Some(K8sDiscovery {
                    namespace: Some(namespace.to_owned()),
                    service: service.clone(),
                    port_name: "links".into(),
                    cluster_domain: domain.clone(),
                });
            }
            ClusterDiscoveryStrategy::Dns => {
                discovery.strategy = DiscoveryStrategy::Dns;
                discovery.dns = Some(DnsDiscovery {
                    name: format!("_links._tcp.{service}.{namespace}.svc.{domain}"),
                    record_type: DnsRecordType::Srv,
                    port,
                    servers: Vec::new(),
                });
            }
        }
        let pki = Path::new("/etc/raftmq/pki");
        Ok(Self {
            advertise: format!("{name}.{service}.{namespace}.svc.{domain}:{port}"),
            name,
            data_dir: "/var/lib/raftmq".into(),
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            listener_ports: spec.listeners.iter().map(|l| l.port).collect(),
            http_port: 18083,
            metrics_port: spec.metrics.port,
            links_port: port,
            discovery,
            tls: TlsFiles {
                ca_file: pki.join("ca.crt"),
                cert_file: pki.join("tls.crt"),
                key_file: pki.join("tls.key"),
            },
            secrets_dir: Self::POD_SECRETS.into(),
        })
    }
}

fn name_of(cluster: &MqttCluster) -> Result<&str, TranslateError> {
    cluster.metadata.name.as_deref().ok_or(TranslateError::NoName)
}

/// The settings of one node of a cluster, checked.
///
/// # Errors
/// [`TranslateError`]: no name, ports that do not fit the listeners, or settings that the broker refuses.
pub fn broker_config(cluster: &MqttCluster, placement: &NodePlacement) -> Result<Config, TranslateError> {
    let config = unchecked_config(cluster, placement)?;
    config.validate().map_err(|error| match error {
        ConfigError::Invalid(mut problems) => {
            for problem in &mut problems {
                problem.path = resource_path(&problem.path);
            }
            ConfigError::Invalid(problems)
        }
        other => other,
    })?;
    Ok(config)
}

fn unchecked_config(cluster: &MqttCluster, placement: &NodePlacement) -> Result<Config, TranslateError> {
    let spec = &cluster.spec;
    if placement.listener_ports.len() != spec.listeners.len() {
        return Err(TranslateError::ListenerPorts {
            node: placement.name.clone(),
            given: placement.listener_ports.len(),
            wanted: spec.listeners.len(),
        });
    }
    let settings = spec.config.clone().unwrap_or_default();
    let mqtt = settings.mqtt.unwrap_or_default();
    let bind = |port| BindAddr::new(SocketAddr::new(placement.ip, port));
    let mut links = Links {
        listen: bind(placement.links_port),
        advertise: Some(placement.advertise.clone()),
        ..Links::new(placement.tls.clone())
    };
    // Whatever a client may send must cross to the other nodes as well.
    let frame = ByteSize::from_bytes(mqtt.max_packet_size.bytes().saturating_add(1 << 20));
    links.max_frame_bytes = links.max_frame_bytes.max(frame);
    links.queue_bytes = links.queue_bytes.max(links.max_frame_bytes);
    Ok(Config {
        node: Node { name: placement.name.clone(), data_dir: placement.data_dir.clone(), ..Node::default() },
        cluster: Some(Cluster {
            name: name_of(cluster)?.to_owned(),
            discovery: placement.discovery.clone(),
            links,
            raft: settings.raft.unwrap_or_default(),
            shards: settings.shards.unwrap_or_default(),
            on_quorum_loss: settings.on_quorum_loss.unwrap_or_default(),
        }),
        listeners: spec
            .listeners
            .iter()
            .zip(&placement.listener_ports)
            .map(|(listener, port)| Listener {
                name: listener.name.clone(),
                type_: listener.type_,
                bind: bind(*port),
                max_connections: listener.max_connections,
                zone: listener.zone.clone(),
                max_packet_size: listener.max_packet_size,
                connect_timeout: listener.connect_timeout,
                rates: listener.rates.clone(),
                mount_point: listener.mount_point.clone(),
                proxy_protocol: listener.proxy_protocol,
                websocket: listener.websocket.clone(),
                tls: listener.tls.as_ref().map(|tls| tls.files(&placement.secrets_dir)),
            })
            .collect(),
        workers: settings.workers.unwrap_or_default(),
        http: Http { bind: bind(placement.http_port), tls: Some(placement.tls.clone()) },
        metrics: Metrics { bind: bind(placement.metrics_port) },
        mqtt,
        zones: settings.zones,
        flapping: settings.flapping.unwrap_or_default(),
        overload: settings.overload.unwrap_or_default(),
        storage: settings.storage.unwrap_or_default(),
        log: settings.log.unwrap_or_default(),
    })
}

/// Where an `MqttCluster` has the setting that the broker knows under this path.
fn resource_path(path: &str) -> String {
    const SECTIONS: [(&str, &str); 12] = [
        ("cluster.name", "metadata.name"),
        ("flapping.", "spec.config.flapping."),
        ("overload.", "spec.config.overload."),
        ("node.name", "metadata.name"),
        ("cluster.raft.", "spec.config.raft."),
        ("mqtt.", "spec.config.mqtt."),
        ("zones.", "spec.config.zones."),
        ("storage.", "spec.config.storage."),
        ("log.", "spec.config.log."),
        ("workers", "spec.config.workers"),
        ("metrics.bind", "spec.metrics.port"),
        ("listeners", "spec.listeners"),
    ];
    let path = match path.strip_suffix(".bind") {
        Some(listener) if path.starts_with("listeners[") => format!("{listener}.port"),
        _ => path.to_owned(),
    };
    SECTIONS
        .iter()
        .find_map(|(broker, resource)| Some(format!("{resource}{}", path.strip_prefix(broker)?)))
        .unwrap_or(path)
}
