//! What the watches delivered: a copy in memory of all that belongs to clusters, as large as what is watched.
//!
//! What the operator makes is kept as the API server said it, not as types: a type would drop the fields that it does not know,
//! and what came of an apply would never be equal to what is kept.

use std::fmt::Debug;
use std::hash::Hash;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::DynamicObject;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, ObjectRef, Store};
use kube::{Resource, ResourceExt};

use super::dereference::Secrets;
use super::source::Found;
use crate::build::{OwnedKind, labels};

/// What the watches of a namespace, or of all, delivered.
#[derive(Clone)]
pub struct Stores {
    objects: Vec<(OwnedKind, Store<DynamicObject>)>,
    secrets: Store<Secret>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
}

/// Where the watches put what they deliver.
pub struct Writers {
    /// What the operator makes; without Secrets.
    pub objects: Vec<(OwnedKind, Writer<DynamicObject>)>,
    /// What the operator makes of Secrets.
    pub secrets: Writer<Secret>,
    /// Pods of brokers.
    pub pods: Writer<Pod>,
    /// Volume claims of brokers.
    pub claims: Writer<PersistentVolumeClaim>,
}

impl Stores {
    /// Empty ones, and their other side.
    #[must_use]
    pub fn new() -> (Self, Writers) {
        let kinds = OwnedKind::ALL.into_iter().filter(|kind| *kind != OwnedKind::Secret);
        let writers = Writers {
            objects: kinds.map(|kind| (kind, Writer::new(kind.api_resource()))).collect(),
            secrets: Writer::default(),
            pods: Writer::default(),
            claims: Writer::default(),
        };
        let stores = Self {
            objects: writers.objects.iter().map(|(kind, writer)| (*kind, writer.as_reader())).collect(),
            secrets: writers.secrets.as_reader(),
            pods: writers.pods.as_reader(),
            claims: writers.claims.as_reader(),
        };
        (stores, writers)
    }

    /// What belongs to a cluster.
    #[must_use]
    pub fn read(&self, namespace: &str, name: &str) -> Found {
        let of_kind = |(kind, store): &(OwnedKind, Store<DynamicObject>)| {
            let kind = *kind;
            of(store, namespace, name).into_iter().map(move |object| (kind, object))
        };
        let secret = |suffix: &str| {
            let secret = self.secrets.get(&ObjectRef::new(&format!("{name}-{suffix}")).within(namespace))?;
            Some(Secret::clone(&secret))
        };
        Found {
            objects: self.objects.iter().flat_map(of_kind).collect(),
            secrets: Secrets { ca: secret("ca"), nodes: secret("nodes"), control: secret("control") },
            pods: of(&self.pods, namespace, name),
            claims: of(&self.claims, namespace, name),
        }
    }
}

fn of<K>(store: &Store<K>, namespace: &str, name: &str) -> Vec<std::sync::Arc<K>>
where
    K: Resource + Lookup<DynamicType = <K as Resource>::DynamicType> + Clone + Debug + 'static,
    <K as Resource>::DynamicType: Eq + Hash + Clone,
{
    store.state_filter(|object| {
        object.meta().namespace.as_deref() == Some(namespace)
            && object.labels().get(labels::INSTANCE).is_some_and(|instance| instance == name)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use kube::runtime::watcher::Event;

    fn named<K: serde::de::DeserializeOwned>(namespace: &str, name: &str, cluster: &str) -> Event<K> {
        let labels = format!("{}: {cluster}", labels::INSTANCE);
        let yaml = format!("metadata: {{ name: {name}, namespace: {namespace}, labels: {{ {labels} }} }}");
        Event::Apply(serde_saphyr::from_str(&yaml).unwrap())
    }

    #[test]
    fn clusters_get_what_is_theirs() {
        let (stores, mut writers) = Stores::new();
        for (namespace, cluster) in [("mq", "demo"), ("mq", "other"), ("elsewhere", "demo")] {
            for (_, writer) in &mut writers.objects {
                writer.apply_watcher_event(&named(namespace, cluster, cluster));
            }
            writers.secrets.apply_watcher_event(&named(namespace, &format!("{cluster}-ca"), cluster));
            writers.pods.apply_watcher_event(&named(namespace, &format!("{cluster}-0"), cluster));
            writers.claims.apply_watcher_event(&named(namespace, &format!("data-{cluster}-0"), cluster));
        }
        let found = stores.read("mq", "demo");
        assert_eq!((found.objects.len(), found.pods.len(), found.claims.len()), (OwnedKind::ALL.len() - 1, 1, 1));
        let mut metadata: Vec<_> = found.objects.iter().map(|(_, object)| object.meta()).collect();
        metadata.extend([found.pods[0].meta(), found.claims[0].meta()]);
        for found in metadata {
            assert_eq!(found.namespace.as_deref(), Some("mq"));
            assert!(found.name.as_ref().unwrap().contains("demo"), "{found:?}");
        }
        let ca = found.secrets.ca.unwrap().metadata;
        assert_eq!((ca.namespace.as_deref(), ca.name.as_deref()), (Some("mq"), Some("demo-ca")));
        assert!(found.secrets.nodes.is_none());
    }
}
