//! The brokers' settings.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::ValidatedCluster;
use crate::fingerprint::fingerprint;

/// The file in it.
pub(super) const FILE: &str = "raftmq.yaml";

/// Named by its content and immutable: a pod that has not been replaced yet restarts with the settings that it had, and
/// applying the former spec brings the former settings back. Old ones are deleted when no pod refers to them.
#[must_use]
pub fn config_map(cluster: &ValidatedCluster) -> ConfigMap {
    ConfigMap {
        metadata: cluster.meta(&config_map_name(cluster)),
        data: Some(BTreeMap::from([(FILE.to_owned(), cluster.config_yaml.clone())])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The name of the ConfigMap with the cluster's present settings.
#[must_use]
pub fn config_map_name(cluster: &ValidatedCluster) -> String {
    format!("{}-config-{}", cluster.name, fingerprint(&cluster.config_yaml))
}
