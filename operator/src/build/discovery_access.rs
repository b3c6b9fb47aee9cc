//! What discovery by the Kubernetes API needs: reading EndpointSlices of the namespace.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::ValidatedCluster;

/// Reads EndpointSlices. Their names are made by Kubernetes, so that the rule cannot name them.
#[must_use]
pub fn role(cluster: &ValidatedCluster) -> Role {
    Role {
        metadata: cluster.meta(&name(cluster)),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec!["discovery.k8s.io".into()]),
            resources: Some(vec!["endpointslices".into()]),
            verbs: ["get", "list", "watch"].map(String::from).to_vec(),
            ..PolicyRule::default()
        }]),
    }
}

/// Gives the [`role`] to the pods' account.
#[must_use]
pub fn role_binding(cluster: &ValidatedCluster) -> RoleBinding {
    RoleBinding {
        metadata: cluster.meta(&name(cluster)),
        role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: "Role".into(), name: name(cluster) },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: cluster.name.clone(),
            namespace: Some(cluster.namespace.clone()),
            ..Subject::default()
        }]),
    }
}

fn name(cluster: &ValidatedCluster) -> String {
    format!("{}-discovery", cluster.name)
}
