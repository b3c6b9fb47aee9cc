//! Watches: when a cluster is looked at.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::select_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, controller, watcher};
use kube::{Client, Resource, ResourceExt};
use raftmq_crds::MqttCluster;
use tokio::sync::watch;

use super::{Context, error_policy, reconcile};
use crate::build::labels;

/// Changes that come together are looked at once.
const DEBOUNCE: std::time::Duration = std::time::Duration::from_millis(200);
/// Clusters that are looked at at the same time.
const CONCURRENCY: u16 = 16;

/// Looks after the clusters of these namespaces, or of all where none is named, until `stop` is true. What has begun is
/// finished first.
pub async fn run(context: Arc<Context>, namespaces: &[String], stop: watch::Receiver<bool>) {
    let client = &context.client;
    let streams: Vec<_> = match namespaces {
        [] => vec![controller(client, None, &context, stop)],
        some => some.iter().map(|namespace| controller(client, Some(namespace), &context, stop.clone())).collect(),
    };
    let mut results = pin!(select_all(streams));
    while let Some(result) = results.next().await {
        match result {
            Ok((object, action)) => tracing::debug!(%object, ?action, "reconciled"),
            // One of its own resources outlived the cluster, for a moment.
            Err(controller::Error::ObjectNotFound(object)) => {
                context.forget(object.namespace.as_deref().unwrap_or_default(), &object.name);
            }
            // Said with its reason by the policy.
            Err(controller::Error::ReconcilerFailed(..)) => {}
            Err(error) => {
                context.metrics.watch_failed();
                tracing::warn!(%error, "a watch failed; it is tried again");
            }
        }
    }
}

type Reconciled = Result<
    (ObjectRef<DeserializeGuard<MqttCluster>>, controller::Action),
    controller::Error<super::ReconcileError, watcher::Error>,
>;

fn controller(
    client: &Client,
    namespace: Option<&String>,
    context: &Arc<Context>,
    mut stop: watch::Receiver<bool>,
) -> futures::stream::BoxStream<'static, Reconciled> {
    let clusters = api::<DeserializeGuard<MqttCluster>>(client, namespace);
    let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE));
    let brokers = watcher::Config::default().labels(&format!(
        "{}={},{}={}",
        labels::NAME,
        labels::NAME_VALUE,
        labels::COMPONENT,
        labels::COMPONENT_VALUE
    ));
    let config = controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY);
    Controller::new(clusters, watcher::Config::default())
        .with_config(config)
        .owns(api::<StatefulSet>(client, namespace), ours.clone())
        .owns(api::<Service>(client, namespace), ours.clone())
        .owns(api::<ConfigMap>(client, namespace), ours.clone())
        .owns(api::<Secret>(client, namespace), ours.clone())
        .owns(api::<PodDisruptionBudget>(client, namespace), ours.clone())
        .owns(api::<ServiceAccount>(client, namespace), ours.clone())
        .owns(api::<Role>(client, namespace), ours.clone())
        .owns(api::<RoleBinding>(client, namespace), ours)
        // These belong to the StatefulSet, or to nobody.
        .watches(api::<Pod>(client, namespace), brokers.clone(), |pod| instance(&pod))
        .watches(api::<PersistentVolumeClaim>(client, namespace), brokers, |claim| instance(&claim))
        .graceful_shutdown_on(async move {
            // An error: whoever could ask to stop is gone.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .run(reconcile, error_policy, Arc::clone(context))
        .boxed()
}

fn api<K>(client: &Client, namespace: Option<&String>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + serde::de::DeserializeOwned,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The cluster that a resource's labels name.
fn instance(resource: &impl ResourceExt) -> Option<ObjectRef<DeserializeGuard<MqttCluster>>> {
    let name = resource.labels().get(labels::INSTANCE)?;
    Some(ObjectRef::new(name).within(&resource.namespace()?))
}
