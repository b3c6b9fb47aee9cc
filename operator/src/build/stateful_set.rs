//! The pods.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use raftmq_crds::{NodePlacement, Retention};

use super::pod::pod_template;
use super::{Inputs, ValidatedCluster};

/// Name of the volume claim template.
pub const DATA: &str = "data";

/// One StatefulSet, started in parallel: brokers need a majority of each other to become ready, one after the other would
/// never do.
///
/// Its update strategy is `OnDelete`. The operator replaces pods itself, because only it can ask the brokers what would be lost,
/// and because a rolling update of the StatefulSet waits forever for a pod that can never become ready: with `OnDelete` the
/// operator replaces that one first, so that applying the former spec is enough to recover.
#[must_use]
pub fn stateful_set(cluster: &ValidatedCluster, inputs: &Inputs) -> StatefulSet {
    let retention = match cluster.spec.storage.retention {
        Retention::Retain => "Retain",
        Retention::Delete => "Delete",
    };
    StatefulSet {
        metadata: cluster.meta(&cluster.name),
        spec: Some(StatefulSetSpec {
            replicas: Some(inputs.replicas),
            service_name: Some(NodePlacement::links_service(&cluster.name)),
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(3),
            selector: cluster.selector(),
            template: pod_template(cluster, inputs),
            volume_claim_templates: Some(vec![claim(cluster, inputs)]),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(retention.into()),
                when_scaled: Some(retention.into()),
            }),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// No owner: whether claims outlive the cluster is the retention policy's business.
fn claim(cluster: &ValidatedCluster, inputs: &Inputs) -> PersistentVolumeClaim {
    let storage = &cluster.spec.storage;
    let size = inputs.claim_size.clone().unwrap_or_else(|| storage.size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.into()),
            labels: Some(cluster.selector_labels()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
