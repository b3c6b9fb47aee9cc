//! Makes what is what should be: server-side apply of what was built, then what was planned.
//!
//! What has not changed is not written. The API server fills in and normalises, so that a resource is never equal to what was
//! sent; instead it is remembered what was sent last and what came of it. When both are the same as now, there
//! is nothing to do; whatever else somebody changed in between, the resource is applied again. After a start of the
//! operator nothing is remembered: one apply each, which changes nothing on the server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Resource;
use kube::{Client, ResourceExt};
use raftmq_crds::StorageSpec;
use serde_json::{Value as Json, json};
use thiserror::Error;

use super::dereference::{LEFT, Observed};
use super::owners;
use super::plan::{Plan, Roll};
use crate::FIELD_MANAGER;
use crate::api::plain;
use crate::build::{Object, OwnedKind, ValidatedCluster};
use crate::fingerprint;

/// Why not all is as it should be.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The name is taken by something else.
    #[error("{kind} {name} is there and {owner}: rename the MqttCluster, or delete it")]
    Taken {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// The API server refused, or did not answer.
    #[error("cannot {verb} {kind} {name}: {}", plain(source))]
    Api {
        /// What was tried.
        verb: &'static str,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

fn failed(verb: &'static str, kind: &str, name: &str) -> impl FnOnce(kube::Error) -> ApplyError {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    move |source| ApplyError::Api { verb, kind, name, source: Box::new(source) }
}

/// What was sent last of each resource, and what came of it: fingerprints by namespace, cluster, kind and name.
#[derive(Debug, Default)]
pub struct Applied(Mutex<HashMap<Place, (String, String)>>);

type Place = (String, String, OwnedKind, String);

impl Applied {
    fn is_so(&self, place: &Place, desired: &str, live: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(place).is_some_and(|(sent, came)| sent == desired && came == live)
    }

    fn remember(&self, place: Place, desired: String, live: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(place, (desired, live));
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(ns, name, _, _), _| ns != namespace || name != cluster);
    }
}

/// Writes what should be, for one cluster.
pub struct Apply<'a> {
    /// The API server.
    pub client: &'a Client,
    /// What was written before.
    pub applied: &'a Applied,
    /// The cluster.
    pub cluster: &'a ValidatedCluster,
    /// What is.
    pub observed: &'a Observed,
}

impl Apply<'_> {
    /// Creates a Secret that must never be overwritten.
    ///
    /// # Errors
    /// [`ApplyError`]: also if one has been there all the time, unseen.
    pub async fn create(&self, secret: &Secret) -> Result<(), ApplyError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        api.create(&params, secret).await.map(drop).map_err(failed("create", "Secret", &secret.name_any()))
    }

    /// Applies the resources in their order. Whether that gave the StatefulSet another spec, so that what is known of its pods
    /// is about the former one.
    ///
    /// # Errors
    /// [`ApplyError`] of the first that could not be applied.
    pub async fn objects(&self, objects: &[Object]) -> Result<bool, ApplyError> {
        let mut other_pods = false;
        for object in objects {
            let changed = self.object(object).await?;
            other_pods |= changed && object.kind == OwnedKind::StatefulSet;
        }
        Ok(other_pods)
    }

    /// Whether nothing would be written for this plan: neither these resources, nor claims, nor deletions of what is no longer needed.
    #[must_use]
    pub fn is_quiet(&self, built: &[Object], plan: &Plan) -> bool {
        built.iter().all(|object| self.is_applied(object))
            && self.claims_to_mark(plan).next().is_none()
            && self.claims_to_delete(plan).next().is_none()
            && plan.scale.release.is_empty()
            && self.claims_to_grow().next().is_none()
            && self.surplus(built, plan.roll == Roll::Done).next().is_none()
    }

    fn is_applied(&self, object: &Object) -> bool {
        let live = self.observed.objects.get(&(object.kind, object.name.clone()));
        let desired = fingerprint::of_object(&object.json);
        live.is_some_and(|live| self.applied.is_so(&self.place(object), &desired, &fingerprint::of_object(live)))
    }

    fn place(&self, object: &Object) -> Place {
        (self.cluster.namespace.clone(), self.cluster.name.clone(), object.kind, object.name.clone())
    }

    /// Whether its spec is another one now.
    async fn object(&self, object: &Object) -> Result<bool, ApplyError> {
        let resource = object.kind.api_resource();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.cluster.namespace, &resource);
        if self.is_applied(object) {
            return Ok(false);
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patched = api.patch(&object.name, &params, &Patch::Apply(&object.json)).await;
        let live = patched.map_err(failed("apply", &resource.kind, &object.name))?;
        tracing::info!(kind = resource.kind, name = object.name, "applied");
        let live = serde_json::to_value(&live).unwrap_or_default();
        let desired = fingerprint::of_object(&object.json);
        self.applied.remember(self.place(object), desired, fingerprint::of_object(&live));
        let before = self.observed.objects.get(&(object.kind, object.name.clone()));
        Ok(before.is_none_or(|before| before["metadata"]["generation"] != live["metadata"]["generation"]))
    }

    /// What somebody else made under a name of ours is not taken over; and before anything else is written or deleted.
    ///
    /// # Errors
    /// [`ApplyError::Taken`], or the API server does not say.
    pub async fn check_owners(&self, objects: &[Object]) -> Result<(), ApplyError> {
        for object in objects {
            if let Some(live) = self.observed.objects.get(&(object.kind, object.name.clone())) {
                owners::check(object.kind, &object.name, live, &self.cluster.owner.uid)?;
                continue;
            }
            // Not ours, or not there.
            let resource = object.kind.api_resource();
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.cluster.namespace, &resource);
            let found = api.get_opt(&object.name).await.map_err(failed("read", &resource.kind, &object.name))?;
            if let Some(found) = found {
                let found = serde_json::to_value(&found).unwrap_or_default();
                owners::check(object.kind, &object.name, &found, &self.cluster.owner.uid)?;
            }
        }
        Ok(())
    }

    /// Deletes what is ours and no longer built: Services of former listeners, and once `settled`, when no pod needs them any more,
    /// discovery's Role after a change to DNS, and former settings.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn prune(&self, built: &[Object], settled: bool) -> Result<(), ApplyError> {
        for (kind, name) in self.surplus(built, settled) {
            let resource = kind.api_resource();
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.cluster.namespace, &resource);
            gone(api.delete(name, &DeleteParams::default()).await.map(drop)).map_err(failed(
                "delete",
                &resource.kind,
                name,
            ))?;
            tracing::info!(kind = resource.kind, name, "deleted: it is no longer needed");
        }
        Ok(())
    }

    fn surplus<'s>(&'s self, built: &'s [Object], settled: bool) -> impl Iterator<Item = &'s (OwnedKind, String)> {
        let of_a_former_spec = move |((kind, name), live): &(&'s (OwnedKind, String), &Json)| {
            let wanted = built.iter().any(|object| object.kind == *kind && object.name == *name);
            let owners = live["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            let ours = owners.into_iter().any(|owner| owner["uid"] == json!(self.cluster.owner.uid));
            let used = match kind {
                OwnedKind::ConfigMap => !settled || self.observed.used_config_maps.contains(name),
                // Pods of the former template read by it who the others are.
                OwnedKind::Role | OwnedKind::RoleBinding => !settled,
                _ => false,
            };
            !wanted && ours && !used && kind.is_pruned()
        };
        self.observed.objects.iter().filter(of_a_former_spec).map(|(place, _)| place)
    }

    /// Asks for larger volumes where the spec does. The first error, when all were asked for: the storage class may not allow it.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn grow_claims(&self) -> Result<(), ApplyError> {
        let mut result = Ok(());
        for claim in self.claims_to_grow() {
            let patch = json!({"spec": {"resources": {"requests": {"storage": self.cluster.spec.storage.size}}}});
            result = result.and(self.patch_claim(claim, patch).await);
        }
        result
    }

    fn claims_to_grow(&self) -> impl Iterator<Item = &Arc<PersistentVolumeClaim>> {
        let wanted = &self.cluster.spec.storage;
        let is_small = |claim: &&Arc<PersistentVolumeClaim>| {
            let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
            let size = requests.and_then(|r| r.get("storage")).map(|quantity| quantity.0.clone());
            let now = size.and_then(|size| StorageSpec { size, ..wanted.clone() }.bytes());
            now.is_some_and(|now| wanted.bytes().is_some_and(|bytes| bytes > now))
        };
        // One whose node left is not used any more.
        let kept = |claim: &&Arc<PersistentVolumeClaim>| {
            !claim.annotations().contains_key(LEFT) && claim.metadata.deletion_timestamp.is_none()
        };
        self.observed.claims.values().filter(kept).filter(is_small)
    }

    /// Marks the claims of nodes that left, and deletes those that are in the way of new nodes.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn claims(&self, plan: &Plan) -> Result<(), ApplyError> {
        for claim in self.claims_to_mark(plan) {
            self.patch_claim(claim, json!({"metadata": {"annotations": {LEFT: "true"}}})).await?;
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.cluster.namespace);
        for claim in self.claims_to_delete(plan) {
            let name = claim.name_any();
            let only_this = Preconditions { uid: claim.uid(), ..Preconditions::default() };
            let params = DeleteParams::default().preconditions(only_this);
            gone(api.delete(&name, &params).await.map(drop)).map_err(failed(
                "delete",
                "PersistentVolumeClaim",
                &name,
            ))?;
            tracing::info!(name, "deleted: its node left the cluster, and another one takes its place");
        }
        Ok(())
    }

    fn claims_to_mark(&self, plan: &Plan) -> impl Iterator<Item = &Arc<PersistentVolumeClaim>> {
        let unmarked = |claim: &&Arc<PersistentVolumeClaim>| !claim.annotations().contains_key(LEFT);
        plan.scale.mark.iter().filter_map(|at| self.observed.claims.get(at)).filter(unmarked)
    }

    fn claims_to_delete(&self, plan: &Plan) -> impl Iterator<Item = &Arc<PersistentVolumeClaim>> {
        let stays = |claim: &&Arc<PersistentVolumeClaim>| claim.metadata.deletion_timestamp.is_none();
        plan.scale.replace_claims.iter().filter_map(|at| self.observed.claims.get(at)).filter(stays)
    }

    async fn patch_claim(&self, claim: &PersistentVolumeClaim, patch: Json) -> Result<(), ApplyError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let name = claim.name_any();
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patched = api.patch(&name, &params, &Patch::Merge(&patch)).await;
        patched.map(drop).map_err(failed("change", "PersistentVolumeClaim", &name))
    }

    /// Deletes this pod, and no later one of its name; its StatefulSet makes another.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn replace_pod(&self, pod: &str, uid: &str, why: &str) -> Result<(), ApplyError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let only_this = Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() };
        gone(api.delete(pod, &DeleteParams::default().preconditions(only_this)).await.map(drop))
            .map_err(failed("delete", "Pod", pod))?;
        tracing::info!(pod, why, "replaced");
        Ok(())
    }

    /// Writes annotations of the MqttCluster, unless it has changed since this version of it: then that is looked at first.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn annotate(&self, annotations: &Json, version: Option<String>) -> Result<(), ApplyError> {
        let resource = kube::discovery::ApiResource::erase::<raftmq_crds::MqttCluster>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.cluster.namespace, &resource);
        let patch = json!({"metadata": {"annotations": annotations, "resourceVersion": version}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patched = api.patch(&self.cluster.name, &params, &Patch::Merge(&patch)).await;
        gone(patched.map(drop)).map_err(failed("change", &raftmq_crds::MqttCluster::kind(&()), &self.cluster.name))
    }
}

/// What is not there, or is another one by now, is deleted.
fn gone(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other,
    }
}
