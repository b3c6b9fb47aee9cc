//! One watch: what it delivers goes into a store, and says which clusters are to be looked at.

use std::fmt::Debug;
use std::future::ready;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use raftmq_crds::MqttCluster;
use serde::de::DeserializeOwned;

use crate::build::labels;
use crate::metrics::Metrics;

/// A cluster by namespace and name.
pub(super) type ClusterRef = ObjectRef<DeserializeGuard<MqttCluster>>;

/// What a watch did to its store.
pub(super) struct Seen {
    /// The kind that is watched.
    pub what: Arc<str>,
    /// Whether the store holds everything now, be it for the first time or again after the watch had broken off.
    pub complete: bool,
    /// The clusters that it is about.
    pub clusters: Vec<ClusterRef>,
}

/// Follows a watch of this kind for ever; where it breaks off it begins again, later after each failure in a row. Comes back with
/// the kind.
pub(super) fn follow<K>(
    what: &str,
    (api, config): (Api<K>, watcher::Config),
    mut writer: Writer<K>,
    metrics: &Arc<Metrics>,
    clusters: impl Fn(&K) -> Vec<ClusterRef> + Send + 'static,
) -> (Arc<str>, BoxStream<'static, Seen>)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let (kind, metrics): (Arc<str>, _) = (what.into(), Arc::clone(metrics));
    let what = Arc::clone(&kind);
    let mut seen = move |event: watcher::Result<watcher::Event<K>>| match event {
        Ok(event) => Some(take(&what, event, &mut writer, &clusters)),
        Err(error) => {
            metrics.watch_failed();
            tracing::warn!(%what, %error, "a watch failed; it is tried again");
            None
        }
    };
    (kind, watcher(api, config).default_backoff().filter_map(move |event| ready(seen(event))).boxed())
}

fn take<K>(
    what: &Arc<str>,
    event: watcher::Event<K>,
    writer: &mut Writer<K>,
    clusters: impl Fn(&K) -> Vec<ClusterRef>,
) -> Seen
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    // Half of most objects, and of no use here.
    let event = event.modify(|object| object.managed_fields_mut().clear());
    let all = |writer: &Writer<K>| -> Vec<ClusterRef> {
        writer.as_reader().state().iter().flat_map(|object| clusters(object)).collect()
    };
    let complete = matches!(event, watcher::Event::InitDone);
    let mut touched = match &event {
        watcher::Event::Apply(object) | watcher::Event::Delete(object) => clusters(object),
        // These show in the store only once it is complete.
        watcher::Event::Init | watcher::Event::InitApply(_) => Vec::new(),
        // Also those of what is there no longer.
        watcher::Event::InitDone => all(writer),
    };
    writer.apply_watcher_event(&event);
    if complete {
        touched.extend(all(writer));
    }
    Seen { what: Arc::clone(what), complete, clusters: touched }
}

/// The clusters that a resource belongs to: by its labels, or by its owner where somebody took those away.
pub(super) fn clusters_of(resource: &impl ResourceExt) -> Vec<ClusterRef> {
    let namespace = resource.namespace();
    let named = resource.labels().get(labels::INSTANCE).map(|name| ObjectRef::new(name));
    let named = named.zip(namespace.as_deref()).map(|(cluster, namespace)| cluster.within(namespace));
    let owners = resource.owner_references().iter();
    let owner = owners.filter_map(|owner| ObjectRef::from_owner_ref(namespace.as_deref(), owner, ())).next();
    let owner = owner.filter(|owner| named.as_ref() != Some(owner));
    named.into_iter().chain(owner).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use kube::runtime::watcher::Event;

    fn service(name: &str, cluster: &str) -> Service {
        let labels = format!("labels: {{ {}: {cluster} }}, managedFields: [{{ manager: x }}]", labels::INSTANCE);
        serde_saphyr::from_str(&format!("metadata: {{ name: {name}, namespace: mq, {labels} }}")).unwrap()
    }

    fn names(clusters: &[ClusterRef]) -> Vec<&str> {
        clusters.iter().map(|cluster| cluster.name.as_str()).collect()
    }

    #[test]
    fn clusters_are_looked_at_when_the_store_shows_what_changed() {
        let mut writer = Writer::<Service>::default();
        let store = writer.as_reader();
        let mut take = |event| super::take(&"Service".into(), event, &mut writer, clusters_of);
        let mut list = |listed: Vec<Service>| {
            assert!(names(&take(Event::Init).clusters).is_empty());
            for service in listed {
                assert!(names(&take(Event::InitApply(service)).clusters).is_empty(), "the store does not show it yet");
            }
            let done = take(Event::InitDone);
            assert!(done.complete);
            names(&done.clusters).join(" ")
        };
        assert_eq!(list(vec![service("a", "one")]), "one");
        assert_eq!(store.state()[0].managed_fields().len(), 0);
        // One that vanished while nobody watched is its cluster's business too.
        assert_eq!(list(vec![service("b", "two")]), "one two");
        for event in [Event::Apply(service("b", "two")), Event::Delete(service("b", "two"))] {
            let seen = take(event);
            assert_eq!((names(&seen.clusters), seen.complete), (vec!["two"], false));
        }
        assert!(store.is_empty());
    }

    #[test]
    fn what_lost_its_labels_is_still_its_owners() {
        let owner = "{ apiVersion: raftmq.io/v1alpha1, kind: MqttCluster, name: demo, uid: u, controller: true }";
        let clusters = |labels: &str| {
            let yaml = format!("metadata: {{ name: x, namespace: mq, labels: {labels}, ownerReferences: [{owner}] }}");
            let clusters = clusters_of(&serde_saphyr::from_str::<Service>(&yaml).unwrap());
            assert!(clusters.iter().all(|cluster| cluster.namespace.as_deref() == Some("mq")));
            clusters.into_iter().map(|cluster| cluster.name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(clusters("{}"), "demo");
        assert_eq!(clusters(&format!("{{ {}: demo }}", labels::INSTANCE)), "demo");
        assert_eq!(clusters(&format!("{{ {}: other }}", labels::INSTANCE)), "other demo");
    }
}
