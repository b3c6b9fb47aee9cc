//! A resource on its way to the API server.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::discovery::ApiResource;
use serde::Serialize;
use serde_json::Value as Json;

/// Kinds that the operator makes for a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnedKind {
    /// Whom the pods run as.
    ServiceAccount,
    /// What they may read.
    Role,
    /// Who may.
    RoleBinding,
    /// Certificates.
    Secret,
    /// Settings.
    ConfigMap,
    /// Addresses.
    Service,
    /// How many pods may be evicted at once.
    PodDisruptionBudget,
    /// The pods.
    StatefulSet,
}

impl OwnedKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::Secret,
        Self::ConfigMap,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::StatefulSet,
    ];

    /// Where the API server has it.
    #[must_use]
    pub fn api_resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::Role => ApiResource::erase::<Role>(&()),
            Self::RoleBinding => ApiResource::erase::<RoleBinding>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        }
    }

    /// Whether one that is no longer built is deleted. Keys are never deleted by a comparison.
    #[must_use]
    pub fn is_pruned(self) -> bool {
        !matches!(self, Self::Secret | Self::StatefulSet)
    }
}

/// A resource as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: OwnedKind,
    /// Its name.
    pub name: String,
    /// All of it, as it is sent.
    pub json: Json,
}

impl Object {
    /// From a typed resource with a name.
    pub fn new<T: Serialize>(kind: OwnedKind, object: &T) -> Self {
        let json = serde_json::to_value(object).expect("Kubernetes' types are plain maps, lists and text");
        let name = json["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Self { kind, name, json }
    }
}
