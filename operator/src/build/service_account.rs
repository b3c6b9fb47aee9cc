//! Whom the pods run as.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::ValidatedCluster;

/// An account of the cluster's own, so that a Role for it is for nobody else. Its token is mounted by the pod where it is needed.
#[must_use]
pub fn service_account(cluster: &ValidatedCluster) -> ServiceAccount {
    ServiceAccount {
        metadata: cluster.meta(&cluster.name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
