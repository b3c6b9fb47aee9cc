//! Watches: when a cluster is looked at, and what is known of it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, SelectAll, select_all};
use futures::{FutureExt, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DynamicObject};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, Resource};
use raftmq_crds::MqttCluster;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::follow::{ClusterRef, Seen, clusters_of, follow};
use super::stores::{Stores, Writers};
use super::{Context, ReconcileError, Scope, error_policy, reconcile};
use crate::api::WATCH_SECONDS;
use crate::build::labels;
use crate::metrics::Metrics;
use crate::progress::{BEAT, SILENCE};

/// Changes that come together are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Clusters that are looked at at the same time.
const CONCURRENCY: u16 = 16;
/// How often it is said which watches are waited for.
const REMINDER: Duration = Duration::from_secs(10);

/// Looks after the clusters of these namespaces, or of all where none is named, until `stop` is true. What has begun is
/// finished first.
pub async fn run(context: Arc<Context>, namespaces: &[String], stop: watch::Receiver<bool>) {
    let streams: Vec<_> = match namespaces {
        [] => vec![look_after(None, &context, stop)],
        some => some.iter().map(|namespace| look_after(Some(namespace), &context, stop.clone())).collect(),
    };
    let mut results = pin!(select_all(streams));
    let moves = context.progress.begin("the loop of the watches", SILENCE);
    let mut beat = tokio::time::interval(BEAT);
    loop {
        let next = tokio::select! {
            next = results.next() => next,
            _ = beat.tick() => {
                moves.beat();
                continue;
            }
        };
        let Some(result) = next else { return };
        match result {
            Ok((object, action)) => tracing::debug!(%object, ?action, "reconciled"),
            // One of its own resources outlived the cluster, for a moment.
            Err(controller::Error::ObjectNotFound(object)) => {
                context.forget(object.namespace.as_deref().unwrap_or_default(), &object.name);
            }
            // Said with its reason by the policy.
            Err(controller::Error::ReconcilerFailed(..)) => {}
            Err(error) => tracing::warn!(%error, "the queue of clusters failed"),
        }
    }
}

type Reconciled = Result<(ClusterRef, Action), controller::Error<ReconcileError, Infallible>>;

/// Follows all watches of a namespace, or of all; once all have delivered everything, what they say is acted upon.
fn look_after(
    namespace: Option<&String>,
    context: &Arc<Context>,
    mut stop: watch::Receiver<bool>,
) -> BoxStream<'static, Reconciled> {
    let mut watches = Watches::new(&context.watches, namespace, &context.metrics);
    let scope = Arc::new(Scope { context: Arc::clone(context), stores: watches.stores.clone() });
    let namespace = namespace.cloned();
    let start = async move {
        let metrics = Arc::clone(&scope.context.metrics);
        tokio::select! {
            () = watches.complete(namespace.as_deref(), &metrics) => {}
            // An error: whoever could ask to stop is gone.
            _ = stop.wait_for(|stop| *stop) => return stream::empty().boxed(),
        }
        let Watches { clusters, seen, .. } = watches;
        let all: Vec<ClusterRef> = clusters.state().iter().map(|cluster| ObjectRef::from_obj(&**cluster)).collect();
        let touched = seen.flat_map(|seen| stream::iter(seen.clusters));
        let queue = stream::iter(all).chain(touched).map(Ok::<_, Infallible>).take_until(async move {
            let _ = stop.wait_for(|stop| *stop).await;
        });
        let config = controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY);
        let reconcile = |cluster, scope| spawned(cluster, scope).boxed();
        applier(reconcile, error_policy, scope, clusters, queue, config).boxed()
    };
    start.flatten_stream().boxed()
}

/// A reconciliation beside the watches, so that they go on meanwhile; it ends when nobody waits for it any more.
async fn spawned(cluster: Arc<DeserializeGuard<MqttCluster>>, scope: Arc<Scope>) -> Result<Action, ReconcileError> {
    let mut task = JoinSet::new();
    task.spawn(tracing::Instrument::in_current_span(reconcile(cluster, scope)));
    match task.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Some(Err(_)) | None => std::future::pending().await,
    }
}

/// The watches of a namespace, or of all.
struct Watches {
    clusters: Store<DeserializeGuard<MqttCluster>>,
    stores: Stores,
    /// Nothing is delivered unless it is polled.
    seen: SelectAll<BoxStream<'static, Seen>>,
    /// Kinds of which not everything is there yet.
    waiting: BTreeSet<Arc<str>>,
}

impl Watches {
    fn new(client: &Client, namespace: Option<&String>, metrics: &Arc<Metrics>) -> Self {
        // One of which the other end is gone shows when it does not end.
        let all = watcher::Config::default().timeout(WATCH_SECONDS);
        let ours = all.clone().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE));
        let brokers = all.clone().labels(&format!(
            "{}={},{}={}",
            labels::NAME,
            labels::NAME_VALUE,
            labels::COMPONENT,
            labels::COMPONENT_VALUE
        ));
        let (stores, Writers { objects, secrets, pods, claims }) = Stores::new();
        let writer = Writer::default();
        let clusters = writer.as_reader();
        let own = |cluster: &DeserializeGuard<MqttCluster>| vec![ObjectRef::from_obj(cluster)];
        let source = (api(client, namespace), all);
        let mut seen = vec![follow("MqttCluster", source, writer, metrics, own)];
        for (kind, writer) in objects {
            let resource = kind.api_resource();
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            seen.push(follow(&resource.kind, (api, ours.clone()), writer, metrics, clusters_of));
        }
        seen.push(follow("Secret", (api(client, namespace), ours), secrets, metrics, clusters_of));
        // These belong to the StatefulSet, or to nobody.
        seen.push(follow("Pod", (api(client, namespace), brokers.clone()), pods, metrics, clusters_of));
        let source = (api(client, namespace), brokers);
        seen.push(follow("PersistentVolumeClaim", source, claims, metrics, clusters_of));
        let (waiting, seen): (BTreeSet<_>, Vec<_>) = seen.into_iter().unzip();
        Self { clusters, stores, seen: select_all(seen), waiting }
    }

    /// Returns when everything is there: before, what was not delivered yet would look as if it did not exist.
    async fn complete(&mut self, namespace: Option<&str>, metrics: &Metrics) {
        let count = self.waiting.len();
        metrics.add_waiting(count);
        let mut reminder = tokio::time::interval(REMINDER);
        reminder.reset();
        while !self.waiting.is_empty() {
            tokio::select! {
                seen = self.seen.next() => match seen {
                    Some(seen) if seen.complete && self.waiting.remove(&seen.what) => metrics.sub_waiting(1),
                    Some(_) => {}
                    // Watches do not end.
                    None => std::future::pending().await,
                },
                _ = reminder.tick() => {
                    let waiting: Vec<&str> = self.waiting.iter().map(|what| &**what).collect();
                    tracing::warn!(namespace, ?waiting, "nothing is done before the API server has listed all of these");
                }
            }
        }
        tracing::info!(namespace, "the watches have delivered everything");
    }
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
