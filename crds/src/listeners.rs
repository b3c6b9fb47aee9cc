//! Where MQTT clients connect, and the Services in front of it.

use std::collections::BTreeMap;
use std::path::Path;

use kube::KubeSchema;
use raftmq_config::{
    ByteSize, ClientAuth, HumanDuration, ListenerRates, ListenerType, ProxyProtocol, ServerCertificate, TlsVersion,
    Websocket,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One port where MQTT clients connect, on every node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(self.type in ['tls', 'wss', 'quic']) || has(self.tls)")
        .message("a listener of type tls, wss or quic needs tls.secretName, the name of a Secret with tls.crt and tls.key"),
    validation = Rule::new("self.type in ['tls', 'wss', 'quic'] || !has(self.tls)")
        .message("tls is for listeners of type tls, wss and quic; change the type or remove tls"),
    validation = Rule::new("self.type in ['ws', 'wss'] || !has(self.websocket)")
        .message("websocket is for listeners of type ws and wss; change the type or remove websocket"),
    validation = Rule::new("self.type != 'quic' || !has(self.proxyProtocol) || self.proxyProtocol == 'none'")
        .message("proxyProtocol is not for listeners of type quic; remove it")
)]
pub struct ListenerSpec {
    /// Name of the listener, unique in the cluster: lower-case letters, digits and hyphens, at most 15.
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What carries MQTT.
    #[serde(rename = "type", default)]
    pub type_: ListenerType,
    /// Port, the same on every node and on the Service; of UDP for `quic`, else of TCP. In Kubernetes those below 1024 work as well.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Connections that one node keeps on this listener. Absent: no limit but the process's open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: Option<u32>,
    /// Name of the zone, of those under `config.zones`, whose limits count for this listener's clients. Absent: those of `config.mqtt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Largest packet accepted on this listener, at most `config.mqtt.maxPacketSize`. Absent: that of the zone, or `config.mqtt.maxPacketSize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "1KiB", "x-raftmq-max" = "256MiB"))]
    pub max_packet_size: Option<ByteSize>,
    /// Time from the opening of a connection until its CONNECT must have arrived, all handshakes before it included. Absent:
    /// `config.mqtt.connectTimeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "100ms", "x-raftmq-max" = "10m"))]
    pub connect_timeout: Option<HumanDuration>,
    /// What all clients of this listener on one node may do together a second. Absent: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<ListenerRates>,
    /// What is put before every topic of this listener's clients, and taken off again on delivery, as `plant-1/`. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub mount_point: Option<String>,
    /// The header with the client's address that a load balancer in front of this listener puts before everything else. A
    /// connection without it is closed. Not for `quic`.
    #[serde(default, skip_serializing_if = "ProxyProtocol::is_none")]
    pub proxy_protocol: ProxyProtocol,
    /// Of WebSocket. For the types `ws` and `wss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<Websocket>,
    /// Certificates. Needed by the types `tls`, `wss` and `quic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// The Service in front of this listener.
    #[serde(default)]
    pub service: ServiceSpec,
}

impl Default for ListenerSpec {
    fn default() -> Self {
        Self {
            name: "mqtt".into(),
            type_: ListenerType::Tcp,
            port: 1883,
            max_connections: None,
            zone: None,
            max_packet_size: None,
            connect_timeout: None,
            rates: None,
            mount_point: None,
            proxy_protocol: ProxyProtocol::None,
            websocket: None,
            tls: None,
            service: ServiceSpec::default(),
        }
    }
}

/// Certificates of a listener, in Secrets of the cluster's namespace. When a Secret changes, new connections see the new
/// certificate within some two minutes; open connections go on, and no pod is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.clientAuth != 'none' || (!has(self.caSecretName) && !has(self.crlSecretName))")
        .message("tls.caSecretName and tls.crlSecretName check nobody: set tls.clientAuth to optional or required")
)]
pub struct ListenerTls {
    /// Name of the Secret (kubernetes.io/tls) with `tls.crt` and `tls.key`: the certificate for clients that ask for no server
    /// name, or for one that no other certificate is for.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Further certificates, by the server name that clients ask for (SNI).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub certificates: Vec<ServerCertificateRef>,
    /// Whether clients show a certificate. `optional`: they may; one that is shown must be valid.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// Name of the Secret with `ca.crt`, the authorities that issue the clients' certificates. Absent: the one of `secretName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret_name: Option<String>,
    /// Name of the Secret with `ca.crl`, the revocation lists of all of those authorities in PEM. Absent: nothing is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub crl_secret_name: Option<String>,
    /// Oldest version of TLS. QUIC always has 1.3.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// A certificate for certain server names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerCertificateRef {
    /// Names that it is for, as `mqtt.example.org` or `*.example.org`. Empty: the DNS names in the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub server_names: Vec<String>,
    /// Name of the Secret (kubernetes.io/tls) with `tls.crt` and `tls.key`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

impl ListenerTls {
    /// The names of all Secrets that it needs; some may be there twice.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let others = self.certificates.iter().map(|certificate| certificate.secret_name.as_str());
        let clients = [&self.ca_secret_name, &self.crl_secret_name].into_iter().flatten().map(String::as_str);
        std::iter::once(self.secret_name.as_str()).chain(others).chain(clients)
    }

    /// As a node has it, with each Secret in a folder of its name in `secrets`.
    pub(crate) fn files(&self, secrets: &Path) -> raftmq_config::ListenerTls {
        let pair = |secret: &str| (secrets.join(secret).join("tls.crt"), secrets.join(secret).join("tls.key"));
        let (cert_file, key_file) = pair(&self.secret_name);
        let certificate = |one: &ServerCertificateRef| {
            let (cert_file, key_file) = pair(&one.secret_name);
            ServerCertificate { server_names: one.server_names.clone(), cert_file, key_file }
        };
        let authorities = self.ca_secret_name.as_ref().unwrap_or(&self.secret_name);
        raftmq_config::ListenerTls {
            cert_file,
            key_file,
            certificates: self.certificates.iter().map(certificate).collect(),
            client_auth: self.client_auth,
            ca_file: (self.client_auth != ClientAuth::None).then(|| secrets.join(authorities).join("ca.crt")),
            crl_file: self.crl_secret_name.as_ref().map(|secret| secrets.join(secret).join("ca.crl")),
            min_version: self.min_version,
        }
    }
}

/// The Service in front of a listener. Listeners with the same options share one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'")
        .message("service.nodePort needs service.type NodePort or LoadBalancer; change the type or remove nodePort"),
    validation = Rule::new("self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || (has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass))")
        .message("service.loadBalancerClass: it cannot be changed while the type is LoadBalancer; restore the former class, or change the type in between")
)]
pub struct ServiceSpec {
    /// How the Service is reached.
    #[serde(rename = "type", default)]
    pub type_: ServiceType,
    /// Annotations of the Service, as load balancers want them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Port on the nodes of Kubernetes. Absent: Kubernetes chooses one where the type has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// Which load balancer serves a Service of type LoadBalancer. Absent: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// On a port of every node.
    NodePort,
    /// Through a load balancer.
    LoadBalancer,
}
