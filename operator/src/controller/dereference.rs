//! What is: the cluster's resources as a [`Source`] has them, and what its brokers say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use raftmq_links::pki::{SecretPem, TlsMaterial, client_config};
use serde_json::Value as Json;
use thiserror::Error;

use super::plan::{ClaimFacts, SetFacts};
use super::pods::{PodFacts, UNSCHEDULABLE};
use super::source::{Found, Source};
use crate::api::plain;
use crate::brokers::{Access, Broker, Brokers, ClusterView};
use crate::build::{AUTHORITY, CERT, DATA, KEY, OwnedKind, ordinal};
use crate::certificates::Existing;

/// Annotation of a volume claim whose node left the cluster for good.
pub const LEFT: &str = "raftmq.io/left";

/// Why it is not known what is.
#[derive(Debug, Error)]
pub enum DereferenceError {
    /// The API server did not say.
    #[error("cannot read {what}: {}", plain(source))]
    Read {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The StatefulSet is not one.
    #[error("cannot understand the StatefulSet: {0}")]
    StatefulSet(serde_json::Error),
}

/// What is.
#[derive(Default)]
pub struct Observed {
    /// What the operator made, by kind and name; without Secrets.
    pub objects: BTreeMap<(OwnedKind, String), Json>,
    /// The StatefulSet among them.
    pub set: Option<StatefulSet>,
    /// The Secrets with certificates.
    pub secrets: Secrets,
    /// The brokers' pods, by ordinal.
    pub pods: Vec<PodFacts>,
    /// ConfigMaps that pods refer to.
    pub used_config_maps: BTreeSet<String>,
    /// The brokers' volume claims by ordinal.
    pub claims: BTreeMap<i32, Arc<PersistentVolumeClaim>>,
    /// How the brokers are asked, once there are certificates.
    pub access: Option<Access>,
    /// Those that can be asked, the ready ones first.
    pub brokers: Vec<Broker>,
    /// What they say.
    pub view: ClusterView,
}

/// The Secrets with certificates.
#[derive(Default)]
pub struct Secrets {
    /// `CLUSTER-ca`.
    pub ca: Option<Secret>,
    /// `CLUSTER-nodes`.
    pub nodes: Option<Secret>,
    /// `CLUSTER-control`.
    pub control: Option<Secret>,
}

impl Secrets {
    /// For [`crate::certificates::certificates`].
    #[must_use]
    pub fn existing(&self) -> Existing<'_> {
        Existing { ca: self.ca.as_ref(), nodes: self.nodes.as_ref(), control: self.control.as_ref() }
    }
}

/// Reads everything, and asks the brokers. Nothing is written.
///
/// # Errors
/// [`DereferenceError`]. A broker that does not answer is none.
pub async fn dereference(
    source: Source<'_>,
    brokers: &dyn Brokers,
    namespace: &str,
    name: &str,
) -> Result<Observed, DereferenceError> {
    let mut observed = observed(name, source.read(namespace, name).await?)?;
    if let Some(access) = &observed.access {
        observed.view = brokers.observe(access, &observed.brokers).await;
    }
    Ok(observed)
}

fn observed(name: &str, found: Found) -> Result<Observed, DereferenceError> {
    let mut observed = Observed { secrets: found.secrets, ..Observed::default() };
    for (kind, object) in found.objects {
        let json = serde_json::to_value(&*object).map_err(DereferenceError::StatefulSet)?;
        observed.objects.insert((kind, object.name_any()), json);
    }
    if let Some(json) = observed.objects.get(&(OwnedKind::StatefulSet, name.to_owned())) {
        observed.set = Some(serde_json::from_value(json.clone()).map_err(DereferenceError::StatefulSet)?);
    }
    let set_uid = observed.set.as_ref().and_then(|set| set.metadata.uid.clone());
    for pod in found.pods {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let used = volumes.filter_map(|volume| Some(volume.config_map.as_ref()?.name.clone()));
        observed.used_config_maps.extend(used);
        // Of a StatefulSet that was deleted: Kubernetes takes them away, and what they say is about another cluster.
        let mut owners = pod.owner_references().iter().filter(|owner| owner.controller == Some(true));
        let foreign = owners.any(|owner| Some(&owner.uid) != set_uid.as_ref());
        let facts = PodFacts::of(name, &pod);
        observed.pods.extend(facts.map(|facts| PodFacts { terminating: facts.terminating || foreign, ..facts }));
    }
    observed.pods.sort_by_key(|pod| pod.ordinal);
    for claim in found.claims {
        let full = claim.name_any();
        if let Some(at) = full.strip_prefix(DATA).and_then(|n| n.strip_prefix('-')).and_then(|n| ordinal(name, n)) {
            observed.claims.insert(at, claim);
        }
    }
    for pod in &mut observed.pods {
        let claim = observed.claims.get(&pod.ordinal);
        if let Some(((reason, message), claim)) = pod.trouble.as_mut().zip(claim)
            && reason == UNSCHEDULABLE
        {
            message.extend(unbound(message, claim));
        }
    }
    observed.access = observed.secrets.control.as_ref().and_then(|secret| access(name, secret));
    observed.brokers = askable(&observed.pods);
    Ok(observed)
}

/// What a pod waits for whose volume is not there, in the scheduler's words: it names neither the claim nor its class.
fn unbound(said: &str, claim: &PersistentVolumeClaim) -> Option<String> {
    let said = said.to_lowercase();
    let of_volume = ["persistentvolumeclaim", "storageclass", "volume"].iter().any(|word| said.contains(word));
    let pending = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).filter(|name| !name.is_empty());
    let class = match class {
        Some(class) => format!("its storage class {class} may be missing, or give none"),
        None => "it names no storage class, and there may be no default one".to_owned(),
    };
    (of_volume && pending).then(|| format!(" (the claim {} has no volume: {class})", claim.name_any()))
}

/// With a certificate that serves; else there is none, and a new one is issued.
fn access(cluster: &str, secret: &Secret) -> Option<Access> {
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    let material = TlsMaterial { ca_pem: text(AUTHORITY)?, cert_pem: text(CERT)?, key_pem: SecretPem::new(text(KEY)?) };
    let tls = client_config(&material, &[]).ok()?;
    Some(Access { cluster: cluster.to_owned(), tls: Arc::new(tls) })
}

/// Those whose process runs, the ready ones first.
fn askable(pods: &[PodFacts]) -> Vec<Broker> {
    let mut pods: Vec<&PodFacts> = pods.iter().filter(|pod| pod.running && !pod.terminating).collect();
    pods.sort_by_key(|pod| (!pod.ready, pod.ordinal));
    let broker = |pod: &&PodFacts| Some(Broker { name: pod.name.clone(), address: pod.control_address()? });
    pods.iter().filter_map(broker).collect()
}

impl Observed {
    /// What counts of the StatefulSet.
    #[must_use]
    pub fn set_facts(&self) -> Option<SetFacts> {
        let set = self.set.as_ref()?;
        let status = set.status.as_ref();
        let seen = status.and_then(|s| s.observed_generation) == set.metadata.generation;
        Some(SetFacts {
            replicas: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            revision: status.and_then(|s| s.update_revision.clone()).filter(|_| seen),
        })
    }

    /// The size in the StatefulSet's volume claim template.
    #[must_use]
    pub fn claim_size(&self) -> Option<String> {
        let claim = self.set.as_ref()?.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?;
        Some(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.clone())
    }

    /// What counts of the volume claims of a cluster that was created then, by ordinal. One that is going away and is not marked
    /// makes room by itself.
    #[must_use]
    pub fn claim_facts(&self, created: Option<&Time>) -> Vec<ClaimFacts> {
        let facts = |(ordinal, claim): (&i32, &Arc<PersistentVolumeClaim>)| {
            let left = claim.annotations().contains_key(LEFT);
            let age = claim.metadata.creation_timestamp.as_ref().zip(created);
            let former = age.is_some_and(|(claim, cluster)| claim.0 < cluster.0);
            let counts = left || claim.metadata.deletion_timestamp.is_none();
            counts.then_some(ClaimFacts { ordinal: *ordinal, left, former })
        };
        self.claims.iter().filter_map(facts).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_volume_that_is_not_there_is_named_with_its_class() {
        let claim = |spec: &str, phase: &str| -> PersistentVolumeClaim {
            let yaml = format!("metadata: {{ name: data-demo-0 }}\nspec: {{ {spec} }}\nstatus: {{ phase: {phase} }}");
            serde_saphyr::from_str(&yaml).unwrap()
        };
        let said = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims";
        let fast = claim("storageClassName: fast", "Pending");
        let expected = " (the claim data-demo-0 has no volume: its storage class fast may be missing, or give none)";
        assert_eq!(unbound(said, &fast).as_deref(), Some(expected));
        assert!(unbound(said, &claim("", "Pending")).unwrap().contains("no storage class"));
        assert_eq!(unbound("0/3 nodes are available: 3 Insufficient cpu", &fast), None);
        assert_eq!(unbound(said, &claim("storageClassName: fast", "Bound")), None);
    }
}
