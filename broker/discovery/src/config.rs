//! From the broker's configuration to the settings of a search.

use std::time::Duration;

use raftmq_config::{DiscoveryStrategy, DnsRecordType};

use crate::settings::{DiscoverySettings, DnsRecords, DnsSettings, KubernetesSettings, SettingsError, Strategy};

/// How long one look-up of the DNS strategy may take: what resolv.conf(5) gives a single question.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);

impl TryFrom<&raftmq_config::Discovery> for DiscoverySettings {
    type Error = SettingsError;

    fn try_from(config: &raftmq_config::Discovery) -> Result<Self, SettingsError> {
        let missing = |strategy| SettingsError::Missing { strategy };
        let strategy = match config.strategy {
            DiscoveryStrategy::Static => Strategy::Static { peers: config.static_.peers.clone() },
            DiscoveryStrategy::Dns => {
                let dns = config.dns.as_ref().ok_or_else(|| missing("dns"))?;
                Strategy::Dns(DnsSettings {
                    name: dns.name.clone(),
                    records: match dns.record_type {
                        DnsRecordType::A => DnsRecords::Address { port: dns.port },
                        DnsRecordType::Srv => DnsRecords::Srv,
                    },
                    servers: dns.servers.clone(),
                    timeout: DNS_TIMEOUT,
                })
            }
            DiscoveryStrategy::K8s => {
                let k8s = config.k8s.as_ref().ok_or_else(|| missing("k8s"))?;
                Strategy::Kubernetes(KubernetesSettings {
                    service: k8s.service.clone(),
                    port_name: k8s.port_name.clone(),
                    namespace: k8s.namespace.clone(),
                    cluster_domain: Some(k8s.cluster_domain.clone()),
                    kubeconfig: None,
                })
            }
        };
        Ok(Self { strategy, refresh: config.refresh_interval.get() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn from_json(text: &str) -> Result<DiscoverySettings, SettingsError> {
        let config: raftmq_config::Discovery = serde_json::from_str(text).unwrap();
        DiscoverySettings::try_from(&config)
    }

    #[test]
    fn each_strategy_takes_its_settings() {
        let settings = from_json("{}").unwrap();
        assert_eq!(settings.strategy, Strategy::Static { peers: Vec::new() });

        let text = r#"{"strategy": "dns", "refreshInterval": "7s",
            "dns": {"name": "_links._tcp.nodes.example", "recordType": "SRV", "servers": ["127.0.0.1:53"]}}"#;
        let settings = from_json(text).unwrap();
        assert_eq!(settings.refresh, Duration::from_secs(7));
        let Strategy::Dns(dns) = settings.strategy else {
            panic!("not dns");
        };
        assert_eq!((dns.records, dns.servers.len()), (DnsRecords::Srv, 1));

        let text = r#"{"strategy": "k8s", "k8s": {"service": "raftmq-nodes"}}"#;
        let settings = from_json(text).unwrap();
        settings.check().unwrap();
        let Strategy::Kubernetes(k8s) = settings.strategy else {
            panic!("not k8s");
        };
        assert_eq!(k8s.service, "raftmq-nodes");
    }

    #[test]
    fn a_strategy_without_its_settings_is_refused() {
        let error = from_json(r#"{"strategy": "dns"}"#).unwrap_err();
        assert_eq!(error.to_string(), "discovery.strategy is dns, but discovery.dns is missing");
    }
}
