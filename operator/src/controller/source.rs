//! Where it is read what is: the API server itself, or what its watches delivered.
//!
//! The watches lag a little. They are enough to find that nothing is to be done; whoever does something reads live before.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};

use super::dereference::{DereferenceError, Secrets};
use super::stores::Stores;
use crate::build::{OwnedKind, labels, selector_text};

/// Where it is read what is.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// The API server: a dozen requests.
    Live(&'a Client),
    /// What the watches delivered: none.
    Cached(&'a Stores),
}

/// What was read of a cluster.
pub struct Found {
    /// What the operator made; without Secrets.
    pub objects: Vec<(OwnedKind, Arc<DynamicObject>)>,
    /// The Secrets with certificates.
    pub secrets: Secrets,
    /// Pods with the labels of its brokers.
    pub pods: Vec<Arc<Pod>>,
    /// Volume claims with the labels of its brokers.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
}

impl Source<'_> {
    /// Reads all that belongs to a cluster.
    ///
    /// # Errors
    /// [`DereferenceError::Read`]; never from what the watches delivered.
    pub async fn read(self, namespace: &str, name: &str) -> Result<Found, DereferenceError> {
        match self {
            Self::Live(client) => live(client, namespace, name).await,
            Self::Cached(stores) => Ok(stores.read(namespace, name)),
        }
    }
}

async fn live(client: &Client, namespace: &str, name: &str) -> Result<Found, DereferenceError> {
    let ours = ListParams::default().labels(&format!(
        "{}={},{}={name}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_VALUE,
        labels::INSTANCE
    ));
    let mut objects = Vec::new();
    for kind in OwnedKind::ALL.into_iter().filter(|kind| *kind != OwnedKind::Secret) {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.api_resource());
        let found = api.list(&ours).await.map_err(failed("the cluster's resources"))?;
        objects.extend(found.into_iter().map(|object| (kind, Arc::new(object))));
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret =
        async |suffix: &str| secrets.get_opt(&format!("{name}-{suffix}")).await.map_err(failed("certificates"));
    let secrets = Secrets { ca: secret("ca").await?, nodes: secret("nodes").await?, control: secret("control").await? };

    let brokers = ListParams::default().labels(&selector_text(name));
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list(&brokers).await.map_err(failed("pods"))?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claims = claims.list(&brokers).await.map_err(failed("volume claims"))?;
    let (pods, claims) = (pods.into_iter().map(Arc::new).collect(), claims.into_iter().map(Arc::new).collect());
    Ok(Found { objects, secrets, pods, claims })
}

fn failed(what: &'static str) -> impl Fn(kube::Error) -> DereferenceError {
    move |source| DereferenceError::Read { what, source: Box::new(source) }
}
