//! What a search needs to know.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::address::{AddressError, HostPort, check_host};

/// How to search and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverySettings {
    /// Where to search.
    pub strategy: Strategy,
    /// The longest time between two look-ups of the DNS strategy; a shorter time to live of the records shortens
    /// it (not below a second). At least 100 ms.
    pub refresh: Duration,
}

/// Where to search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// These addresses (`host:port`), for ever. Empty for a node that shall search nobody.
    Static {
        /// `host:port` each; a host name is resolved at each dial.
        peers: Vec<String>,
    },
    /// Records of one name.
    Dns(DnsSettings),
    /// The endpoints of a headless Service.
    Kubernetes(KubernetesSettings),
}

/// The DNS strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// The name. With the system's configuration a name without a final dot goes through its search domains.
    pub name: String,
    /// Which records of it.
    pub records: DnsRecords,
    /// Name servers to ask; empty for the system's (`/etc/resolv.conf`, `/etc/hosts`).
    pub servers: Vec<SocketAddr>,
    /// How long one look-up may take, with all its retries and search domains.
    pub timeout: Duration,
}

/// Which records name the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsRecords {
    /// A and AAAA: every address is a peer on `port`.
    Address {
        /// The port of the peers' links.
        port: u16,
    },
    /// SRV (RFC 2782): every target is a peer on its own port. Priority and weight have no meaning
    /// here, all targets are peers.
    Srv,
}

/// The Kubernetes strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// The headless Service whose EndpointSlices are watched.
    pub service: String,
    /// The name of its port of node links.
    pub port_name: String,
    /// The Service's namespace; `None` for the one this process runs in (or the context's).
    pub namespace: Option<String>,
    /// The domain of the Kubernetes cluster, such as `cluster.local`: a peer whose endpoint has a host name gets the address
    /// `HOST.SERVICE.NAMESPACE.svc.DOMAIN:port`, which is stable over restarts of its pod. `None`: the endpoint's IP
    /// address.
    pub cluster_domain: Option<String>,
    /// A kubeconfig file; `None` for `$KUBECONFIG`, `~/.kube/config` or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// A static peer is not `host:port`.
    #[error("static peer {index}: {source}")]
    Peer {
        /// Its place in the list, from 0.
        index: usize,
        /// What is wrong.
        source: AddressError,
    },
    /// The strategy chosen has no settings.
    #[error("discovery.strategy is {strategy}, but discovery.{strategy} is missing")]
    Missing {
        /// The strategy, as in the configuration.
        strategy: &'static str,
    },
    /// A field is out of its range.
    #[error("{field} is {value:?}: {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl DiscoverySettings {
    /// Checks what can be checked without a network.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn check(&self) -> Result<(), SettingsError> {
        match &self.strategy {
            Strategy::Static { peers } => {
                for (index, peer) in peers.iter().enumerate() {
                    peer.parse::<HostPort>().map_err(|source| SettingsError::Peer { index, source })?;
                }
            }
            Strategy::Dns(dns) => {
                check_host(&dns.name).map_err(|reason| field("dns name", &dns.name, reason))?;
                if dns.records == (DnsRecords::Address { port: 0 }) {
                    return Err(field("dns port", "0", "it must be from 1 to 65535"));
                }
                if dns.timeout < Duration::from_millis(100) {
                    let value = format!("{:?}", dns.timeout);
                    return Err(field("dns timeout", &value, "it must be at least 100 ms"));
                }
                if self.refresh < Duration::from_millis(100) {
                    let value = format!("{:?}", self.refresh);
                    return Err(field("refresh", &value, "it must be at least 100 ms"));
                }
            }
            Strategy::Kubernetes(kubernetes) => {
                check_label("service", &kubernetes.service)?;
                check_label("port name", &kubernetes.port_name)?;
                if let Some(namespace) = &kubernetes.namespace {
                    check_label("namespace", namespace)?;
                }
                if let Some(domain) = &kubernetes.cluster_domain {
                    check_host(domain).map_err(|reason| field("cluster domain", domain, reason))?;
                }
            }
        }
        Ok(())
    }
}

fn field(field: &'static str, value: &str, reason: &'static str) -> SettingsError {
    SettingsError::Field { field, value: value.chars().take(100).collect(), reason }
}

/// A DNS label of RFC 1123, what Kubernetes names these things by.
fn check_label(name: &'static str, value: &str) -> Result<(), SettingsError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if value.is_empty()
        || value.len() > 63
        || !value.bytes().all(allowed)
        || value.starts_with('-')
        || value.ends_with('-')
    {
        return Err(field(name, value, "it must be 1 to 63 lower-case letters, digits and '-', not '-' at an end"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(strategy: Strategy) -> Result<(), String> {
        let refresh = Duration::from_secs(10);
        DiscoverySettings { strategy, refresh }.check().map_err(|error| error.to_string())
    }

    fn dns() -> DnsSettings {
        DnsSettings {
            name: "raftmq.example".to_owned(),
            records: DnsRecords::Address { port: 9883 },
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let peers = vec!["a:1".to_owned(), "b".to_owned()];
        let error = check(Strategy::Static { peers }).unwrap_err();
        assert!(error.starts_with("static peer 1: \"b\""), "{error}");

        check(Strategy::Dns(dns())).unwrap();
        for (settings, named) in [
            (DnsSettings { name: "a b".to_owned(), ..dns() }, "dns name"),
            (DnsSettings { records: DnsRecords::Address { port: 0 }, ..dns() }, "dns port"),
            (DnsSettings { timeout: Duration::ZERO, ..dns() }, "dns timeout"),
        ] {
            let error = check(Strategy::Dns(settings)).unwrap_err();
            assert!(error.starts_with(named), "{error}");
        }

        let kubernetes = KubernetesSettings {
            service: "raftmq,other".to_owned(),
            port_name: "links".to_owned(),
            namespace: None,
            cluster_domain: None,
            kubeconfig: None,
        };
        let error = check(Strategy::Kubernetes(kubernetes)).unwrap_err();
        assert!(error.starts_with("service is \"raftmq,other\""), "{error}");
    }
}
