//! Brings one `MqttCluster` a step closer to what it should be, whenever something of it changes.
//!
//! `dereference → validate → build → apply → update_status`, each a submodule:
//!
//! 1. [`mod@dereference`] reads the cluster's resources from a [`source`] and asks its brokers how they are.
//! 2. [`mod@validate`] turns the resource into a [`ValidatedCluster`], or into a condition.
//! 3. [`mod@plan`] decides what is done next, [`crate::certificates`] what is issued, [`crate::build`] what resources should be. Pure but
//!    for the keys.
//! 4. [`mod@apply`] writes what differs, then does what was planned: the birth, a leave, a pod's replacement.
//! 5. [`mod@update_status`] writes what is known, where that differs.
//!
//! Steps 1 and 3 are a [`mod@draft`]: the first one rests on what the watches delivered, which costs the API server nothing. Where
//! nothing is to be done that is all. Before anything is written, deleted or stopped there is a second draft, from what the API server says itself.
//!
//! Every step can be interrupted: the next reconciliation starts again from what is.

mod act;
pub mod apply;
mod current;
pub mod dereference;
pub mod draft;
mod follow;
pub mod owners;
pub mod plan;
pub mod pods;
pub mod source;
pub mod stores;
pub mod update_status;
pub mod validate;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::DeserializeGuard;
use kube::discovery::ApiResource;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Client, Resource, ResourceExt};
use raftmq_crds::{MqttCluster, MqttClusterStatus};
use thiserror::Error;

use crate::api::plain;
use crate::brokers::Brokers;
use crate::build::{CA, Object, OwnedKind, ValidatedCluster, secret};
use crate::certificates::{CertificateError, Certificates};
use crate::leader::Claim;
use crate::metrics::Metrics;
use crate::progress::Progress;
use act::{act, next_stop};
use apply::{Applied, ApplyError};
use current::is_current;
use dereference::{DereferenceError, Observed};
use draft::{Asked, Draft};
use plan::{Bootstrap, Plan, Roll};
use source::Source;
use stores::Stores;
use update_status::{Report, StatusError};

pub use watch::run;

/// Annotation of an MqttCluster: the nodes that the permission to form the cluster was given to.
pub const INITIAL_MEMBERS: &str = "raftmq.io/initial-members";
/// Annotation beside it: the uid of that very MqttCluster. A copy of it, from an export say, has given no permission.
pub const INITIAL_MEMBERS_OF: &str = "raftmq.io/initial-members-of";

const CERTIFICATES_UNUSABLE: &str = "CertificatesUnusable";

/// While something shows in the brokers only, which no watch tells of.
const LOOK: Duration = Duration::from_secs(2);
/// For what changes in the brokers without a change in Kubernetes: the leader, members, versions.
const STEADY: Duration = Duration::from_secs(30);
/// For a reconciliation. Each request of it has a deadline of its own: what takes longer hangs.
const LONGEST: Duration = Duration::from_secs(600);
/// Longest pause between tries of what failed.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// What all reconciliations share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The same, for watches.
    watches: Client,
    /// The Lease, where only its holder may act.
    claim: Option<Claim>,
    /// The brokers.
    pub brokers: Arc<dyn Brokers>,
    /// Image of clusters that name none.
    pub default_image: String,
    /// Counts and times.
    pub metrics: Arc<Metrics>,
    /// Whether it moves.
    pub progress: Arc<Progress>,
    /// Names this process in events.
    instance: String,
    applied: Applied,
    /// Tries that failed in a row, by namespace and name.
    failures: Mutex<HashMap<(String, String), u32>>,
    /// Since when pods that there should be are not there, by the cluster's namespace and name, and theirs.
    missing: Mutex<HashMap<(String, String), BTreeMap<String, Timestamp>>>,
}

/// What the reconciliations of one set of watches share: those of a namespace, or of all.
pub struct Scope {
    /// What all share.
    pub context: Arc<Context>,
    /// What the watches delivered.
    pub stores: Stores,
}

/// Why a reconciliation failed. It is tried again.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// What is could not be found out.
    #[error(transparent)]
    Dereference(#[from] DereferenceError),
    /// There are no certificates.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// Something could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The API server did not say what the MqttCluster is.
    #[error("cannot read the MqttCluster: {}", plain(.0))]
    ReadCluster(Box<kube::Error>),
    /// The API server did not say which operator acts.
    #[error("cannot read the Lease: {}", plain(.0))]
    ReadLease(Box<kube::Error>),
}

impl ReconcileError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Dereference(_) | Self::ReadCluster(_) | Self::ReadLease(_) => "CannotRead",
            Self::Certificates(_) => CERTIFICATES_UNUSABLE,
            Self::Apply(ApplyError::Taken { .. }) => "NameTaken",
            Self::Apply(_) => "CannotApply",
            Self::Status(_) => "CannotWriteStatus",
        }
    }
}

impl Context {
    /// With nothing remembered, one client for everything, and no Lease to hold. `instance` names this process in events.
    #[must_use]
    pub fn new(client: Client, brokers: Arc<dyn Brokers>, default_image: String, instance: Option<String>) -> Self {
        Self {
            instance: instance.unwrap_or_else(|| crate::FIELD_MANAGER.into()),
            watches: client.clone(),
            client,
            claim: None,
            brokers,
            default_image,
            metrics: Arc::default(),
            progress: Arc::default(),
            applied: Applied::default(),
            failures: Mutex::default(),
            missing: Mutex::default(),
        }
    }

    /// With a client of its own for watches, which are silent for longer than other answers take.
    #[must_use]
    pub fn with_watches(self, watches: Client) -> Self {
        Self { watches, ..self }
    }

    /// Acts only while this Lease is held.
    #[must_use]
    pub fn with_claim(self, claim: Option<Claim>) -> Self {
        Self { claim, ..self }
    }

    /// An event is news for people; that it cannot be written is no reason to stop. Each one is written for itself: kube's recorder
    /// counts up an earlier one of the same reason, whatever it was about.
    async fn event(&self, cluster: &impl Resource<DynamicType = ()>, type_: EventType, reason: &str, note: String) {
        let now = Timestamp::now();
        let regarding = cluster.object_ref(&());
        let namespace = regarding.namespace.clone().unwrap_or_default();
        let name = regarding.name.as_deref().unwrap_or(crate::FIELD_MANAGER);
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            type_: Some(format!("{type_:?}")),
            reason: Some(reason.to_owned()),
            // The API server takes so many bytes.
            note: Some(note.chars().take(250).collect()),
            action: Some("Reconcile".into()),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(crate::FIELD_MANAGER.into()),
            reporting_instance: Some(self.instance.clone()),
            regarding: Some(regarding),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(%error, reason, "cannot write an event");
        }
    }

    /// Since when pods are not there, with those that are not there now.
    fn missing(&self, cluster: &ValidatedCluster, observed: &Observed, now: Timestamp) -> BTreeMap<String, Timestamp> {
        let is_there = |name: &String| observed.pods.iter().any(|pod| pod.name == *name);
        let nodes = (0..cluster.replicas()).map(|ordinal| cluster.node(ordinal));
        let mut all = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let since = all.entry((cluster.namespace.clone(), cluster.name.clone())).or_default();
        let known = std::mem::take(since);
        let first = |node: String| (known.get(&node).copied().unwrap_or(now), node);
        *since = nodes.filter(|node| !is_there(node)).map(first).map(|(since, node)| (node, since)).collect();
        since.clone()
    }

    /// Forgets a cluster that is gone.
    fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.applied.forget(namespace, name);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

/// One reconciliation.
///
/// # Errors
/// [`ReconcileError`], which the condition `Degraded` says as well, where the API server lets it.
pub async fn reconcile(
    object: Arc<DeserializeGuard<MqttCluster>>,
    scope: Arc<Scope>,
) -> Result<Action, ReconcileError> {
    let context = &scope.context;
    let started = Instant::now();
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let _moves = context.progress.begin(format!("the reconciliation of {}/{}", key.0, key.1), LONGEST);
    let result = match &object.0 {
        Ok(cluster) => known(cluster, &scope).await,
        Err(unreadable) => unknown(object.as_ref(), &unreadable.error, context).await,
    };
    context.metrics.reconciled(started.elapsed(), result.is_ok());
    if result.is_ok() {
        context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
    result
}

/// When to try again: later after each failure in a row.
pub fn error_policy(object: Arc<DeserializeGuard<MqttCluster>>, error: &ReconcileError, scope: Arc<Scope>) -> Action {
    let context = &scope.context;
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let count = failures.entry(key).or_default();
    *count = count.saturating_add(1);
    let pause = backoff(*count);
    tracing::warn!(%error, tries = *count, again_in_seconds = pause.as_secs(), "reconciliation failed");
    Action::requeue(pause)
}

fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(MAX_BACKOFF)
}

/// An object that the types cannot hold: only its status is written, from what can be read of the one before.
async fn unknown(
    object: &DeserializeGuard<MqttCluster>,
    error: &str,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let resource = ApiResource::erase::<MqttCluster>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &resource);
    let found = api.get_opt(&name).await.map_err(|error| ReconcileError::ReadCluster(Box::new(error)))?;
    let Some(found) = found else {
        return Ok(Action::await_change());
    };
    let before = serde_json::from_value(found.data["status"].clone()).unwrap_or_default();
    let message = validate::ValidateError::Unreadable(error.to_owned()).to_string();
    leave_alone(object, &message, &before, context).await
}

async fn leave_alone(
    object: &impl Resource<DynamicType = ()>,
    message: &str,
    before: &MqttClusterStatus,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let after = update_status::invalid(message, object.meta().generation, before, Timestamp::now());
    if update_status::update(&context.client, object.meta(), before, &after).await? {
        tracing::warn!(message, "the resource is invalid and left alone");
        context.event(object, EventType::Warning, update_status::INVALID, message.to_owned()).await;
    }
    Ok(Action::await_change())
}

async fn known(cluster: &MqttCluster, scope: &Scope) -> Result<Action, ReconcileError> {
    let context = scope.context.as_ref();
    if cluster.metadata.deletion_timestamp.is_some() {
        // Kubernetes deletes what the cluster owns; there is nothing to do that could block it.
        return Ok(Action::await_change());
    }
    let before = cluster.status.clone().unwrap_or_default();
    let valid = match validate::validate(cluster, &context.default_image) {
        Ok(valid) => valid,
        Err(error) => return leave_alone(cluster, &error.to_string(), &before, context).await,
    };
    match step(cluster, &valid, &before, scope).await {
        Ok(action) => Ok(action),
        Err(error) => {
            let said = (error.reason(), error.to_string());
            let after = update_status::failed((said.0, &said.1), valid.generation, &before, Timestamp::now());
            match update_status::update(&context.client, &cluster.metadata, &before, &after).await {
                Ok(true) => context.event(cluster, EventType::Warning, said.0, said.1).await,
                Ok(false) => {}
                Err(status) => tracing::warn!(error = %status, "the failure cannot be written either"),
            }
            Err(error)
        }
    }
}

/// Steps 1 and 3 to 5 for a valid cluster.
async fn step(
    cluster: &MqttCluster,
    valid: &ValidatedCluster,
    before: &MqttClusterStatus,
    scope: &Scope,
) -> Result<Action, ReconcileError> {
    let now = Timestamp::now();
    let context = scope.context.as_ref();
    let asked = Asked { cluster, valid, before, now };
    let (draft, Came { refused, mut problems }) = match nothing_to_do(&asked, scope).await {
        Some((draft, refused)) => (draft, Came { refused, problems: Vec::new() }),
        None => {
            let mut draft = Draft::new(&asked, Source::Live(&context.client), context.brokers.as_ref()).await?;
            let Some((plan, came)) = write(&asked, &draft, context).await? else {
                // Its watch brings what it is by now.
                return Ok(Action::requeue(LOOK));
            };
            draft.plan = plan;
            (draft, came)
        }
    };
    let Draft { observed, plan, issued, .. } = &draft;
    problems.extend(issued.problem.iter().map(|error| (CERTIFICATES_UNUSABLE, error.to_string())));
    let missing = &context.missing(valid, observed, now);
    let (refused, problems, ca_ends) = (&refused[..], &problems[..], issued.ca_ends);
    let report = Report { cluster: valid, observed, plan, refused, problems, missing, ca_ends };
    let after = update_status::status(&report, before, now);
    if update_status::update(&context.client, &cluster.metadata, before, &after).await? {
        announce(cluster, before, &after, context).await;
    }
    Ok(Action::requeue(if plan.needs_look() || !refused.is_empty() { LOOK } else { STEADY }))
}

/// The draft from what the watches delivered, where it would do nothing, or only what the brokers do not allow: with their reasons.
async fn nothing_to_do(asked: &Asked<'_>, scope: &Scope) -> Option<(Draft, Vec<String>)> {
    let context = scope.context.as_ref();
    // What cannot be understood may be but old: the API server says.
    let draft = Draft::new(asked, Source::Cached(&scope.stores), context.brokers.as_ref()).await.ok()?;
    let births = matches!(draft.plan.bootstrap, Bootstrap::Intend(_) | Bootstrap::Call(_));
    // A Secret without our labels is not watched.
    let unsure = draft.issued.problem.is_some();
    if births || unsure || draft.issues() || !draft.apply(asked, context).is_quiet(&draft.built, &draft.plan) {
        return None;
    }
    let (stop, refused) = next_stop(&draft.observed, &draft.plan, context).await;
    let stops = stop.is_some();
    (!stops).then_some((draft, refused))
}

/// What came of a reconciliation besides what was done.
struct Came {
    /// What the brokers do not allow, with the reasons.
    refused: Vec<String>,
    /// What failed and holds nothing else up: a reason and a message of the condition. It is tried again.
    problems: Vec<(&'static str, String)>,
}

/// Makes what is what was drafted, and does what was planned. It comes back with what of the plan holds now, or with nothing where the
/// draft no longer counts: what is left of it is not done.
async fn write(asked: &Asked<'_>, draft: &Draft, context: &Context) -> Result<Option<(Plan, Came)>, ReconcileError> {
    if !is_current(asked.cluster, context).await? {
        return Ok(None);
    }
    let apply = draft.apply(asked, context);
    let mut plan = draft.plan.clone();
    apply.check_owners(&draft.built).await?;
    if let Some(ca) = &draft.issued.new_ca {
        apply.create(&secret(asked.valid, CA, ca)).await?;
    }
    apply.objects(&secrets(asked.valid, &draft.issued)).await?;
    // Marked before their pods go: once those are gone, nobody knows that these nodes left.
    apply.claims(&plan).await?;
    if apply.objects(&draft.built).await? {
        plan.roll = Roll::unseen();
    }
    apply.prune(&draft.built, plan.roll == Roll::Done).await?;
    let Some(refused) = act(asked.cluster, &apply, &plan, context).await? else {
        return Ok(None);
    };
    // Last: volumes that cannot grow are no reason to leave anything else undone.
    let grown = apply.grow_claims().await.map_err(|error| (update_status::NOT_GROWN, error.to_string()));
    Ok(Some((plan, Came { refused, problems: grown.err().into_iter().collect() })))
}

/// Those issued now. One that serves is left as it is.
fn secrets(valid: &ValidatedCluster, issued: &Certificates) -> Vec<Object> {
    let all = [("nodes", &issued.nodes, issued.new_nodes), ("control", &issued.control, issued.new_control)];
    let new = all.into_iter().filter(|(_, _, new)| *new);
    new.map(|(suffix, pem, _)| Object::new(OwnedKind::Secret, &secret(valid, suffix, pem))).collect()
}

/// Changes of conditions that people want to be told of.
async fn announce(cluster: &MqttCluster, before: &MqttClusterStatus, after: &MqttClusterStatus, context: &Context) {
    use raftmq_crds::condition_types::{AVAILABLE, DEGRADED, WARNING};
    for (type_, good) in [(AVAILABLE, "True"), (DEGRADED, "False"), (WARNING, "False")] {
        let of = |status: &MqttClusterStatus| status.conditions.iter().find(|c| c.type_ == type_).cloned();
        let (Some(new), old) = (of(after), of(before)) else {
            continue;
        };
        let same = old.as_ref().is_some_and(|old| old.status == new.status && old.reason == new.reason);
        // A new cluster is not available yet: that is no news.
        if same || (old.is_none() && (new.status == good || type_ == AVAILABLE)) {
            continue;
        }
        let type_of_event = if new.status == good { EventType::Normal } else { EventType::Warning };
        let note = if new.message.is_empty() { format!("{type_} is {}", new.status) } else { new.message };
        context.event(cluster, type_of_event, &new.reason, note).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_later_after_each_failure() {
        let seconds: Vec<u64> = (1..=9).map(|count| backoff(count).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(u32::MAX), MAX_BACKOFF);
    }
}
