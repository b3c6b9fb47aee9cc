//! Brings one `MqttCluster` a step closer to what it should be, whenever something of it changes.
//!
//! `dereference → validate → build → apply → update_status`, each a submodule:
//!
//! 1. [`mod@dereference`] reads the cluster's resources and asks its brokers how they are.
//! 2. [`mod@validate`] turns the resource into a [`ValidatedCluster`], or into a condition.
//! 3. [`mod@plan`] decides what is done next, [`crate::certificates`] what is issued, [`crate::build`] what resources should be. Pure but
//!    for the keys.
//! 4. [`mod@apply`] writes what differs, then does what was planned: the birth, a leave, a pod's replacement.
//! 5. [`mod@update_status`] writes what is known, where that differs.
//!
//! Every step can be interrupted: the next reconciliation starts again from what is.

pub mod apply;
pub mod dereference;
pub mod plan;
pub mod pods;
pub mod update_status;
pub mod validate;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject};
use kube::core::DeserializeGuard;
use kube::discovery::ApiResource;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use raftmq_crds::condition_types::BOOTSTRAPPED;
use raftmq_crds::{MqttCluster, MqttClusterStatus};
use thiserror::Error;

use crate::brokers::{Broker, Brokers};
use crate::build::{self, CA, Inputs, Object, OwnedKind, ValidatedCluster, secret};
use crate::certificates::{CertificateError, Certificates, Subject, certificates};
use crate::fingerprint::fingerprint;
use crate::metrics::Metrics;
use apply::{Applied, Apply, ApplyError};
use dereference::{DereferenceError, Observed, dereference};
use plan::{Bootstrap, Plan, Roll, Situation, rollout, scale};
use update_status::{Report, StatusError};

pub use watch::run;

/// Annotation of an MqttCluster: the nodes that the permission to form the cluster was given to.
pub const INITIAL_MEMBERS: &str = "raftmq.io/initial-members";

/// While something shows in the brokers only, which no watch tells of.
const LOOK: Duration = Duration::from_secs(2);
/// For what changes in the brokers without a change in Kubernetes: the leader, members, versions.
const STEADY: Duration = Duration::from_secs(30);
/// Longest pause between tries of what failed.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// What all reconciliations share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The brokers.
    pub brokers: Arc<dyn Brokers>,
    /// Image of clusters that name none.
    pub default_image: String,
    /// Counts and times.
    pub metrics: Arc<Metrics>,
    recorder: Recorder,
    applied: Applied,
    /// Tries that failed in a row, by namespace and name.
    failures: Mutex<HashMap<(String, String), u32>>,
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
    /// The API server did not say what the status is.
    #[error("cannot read the status: {0}")]
    ReadStatus(Box<kube::Error>),
}

impl ReconcileError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Dereference(_) | Self::ReadStatus(_) => "CannotRead",
            Self::Certificates(_) => "CertificatesUnusable",
            Self::Apply(ApplyError::Taken { .. }) => "NameTaken",
            Self::Apply(_) => "CannotApply",
            Self::Status(_) => "CannotWriteStatus",
        }
    }
}

impl Context {
    /// With nothing remembered. `instance` names this process in events.
    #[must_use]
    pub fn new(client: Client, brokers: Arc<dyn Brokers>, default_image: String, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: crate::FIELD_MANAGER.into(), instance };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            brokers,
            default_image,
            metrics: Arc::default(),
            applied: Applied::default(),
            failures: Mutex::default(),
        }
    }

    /// An event is news for people; that it cannot be written is no reason to stop.
    async fn event(&self, cluster: &impl Resource<DynamicType = ()>, type_: EventType, reason: &str, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            // The API server takes so many bytes.
            note: Some(note.chars().take(250).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &cluster.object_ref(&())).await {
            tracing::warn!(%error, reason, "cannot write an event");
        }
    }

    /// Forgets a cluster that is gone.
    fn forget(&self, namespace: &str, name: &str) {
        self.applied.forget(namespace, name);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// One reconciliation.
///
/// # Errors
/// [`ReconcileError`], which the condition `Degraded` says as well, where the API server lets it.
pub async fn reconcile(
    object: Arc<DeserializeGuard<MqttCluster>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let started = Instant::now();
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let result = match &object.0 {
        Ok(cluster) => known(cluster, &context).await,
        Err(unreadable) => unknown(object.as_ref(), &unreadable.error, &context).await,
    };
    context.metrics.reconciled(started.elapsed(), result.is_ok());
    if result.is_ok() {
        context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
    result
}

/// When to try again: later after each failure in a row.
pub fn error_policy(
    object: Arc<DeserializeGuard<MqttCluster>>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Action {
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
    let found = api.get_opt(&name).await.map_err(|error| ReconcileError::ReadStatus(Box::new(error)))?;
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
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let after = update_status::invalid(message, object.meta().generation, before, Timestamp::now());
    if update_status::update(&context.client, &namespace, &name, before, &after).await? {
        tracing::warn!(message, "the resource is invalid and left alone");
        context.event(object, EventType::Warning, update_status::INVALID, message.to_owned()).await;
    }
    Ok(Action::await_change())
}

async fn known(cluster: &MqttCluster, context: &Context) -> Result<Action, ReconcileError> {
    if cluster.metadata.deletion_timestamp.is_some() {
        // Kubernetes deletes what the cluster owns; there is nothing to do that could block it.
        return Ok(Action::await_change());
    }
    let before = cluster.status.clone().unwrap_or_default();
    let valid = match validate::validate(cluster, &context.default_image) {
        Ok(valid) => valid,
        Err(error) => return leave_alone(cluster, &error.to_string(), &before, context).await,
    };
    match step(cluster, &valid, &before, context).await {
        Ok(action) => Ok(action),
        Err(error) => {
            let said = (error.reason(), error.to_string());
            let after = update_status::failed((said.0, &said.1), valid.generation, &before, Timestamp::now());
            match update_status::update(&context.client, &valid.namespace, &valid.name, &before, &after).await {
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
    context: &Context,
) -> Result<Action, ReconcileError> {
    let now = Timestamp::now();
    let observed = dereference(&context.client, context.brokers.as_ref(), &valid.namespace, &valid.name).await?;
    let left_claims = observed.left_claims();
    let plan = Plan::new(&Situation {
        cluster: valid,
        set: observed.set_facts(),
        pods: &observed.pods,
        left_claims: &left_claims,
        view: &observed.view,
        bootstrapped: before.conditions.iter().any(|c| c.type_ == BOOTSTRAPPED && c.status == "True"),
        intent: intent(cluster),
    });
    let subject = Subject::new(&valid.name, &valid.namespace, &valid.spec.discovery.cluster_domain);
    let issued = certificates(&subject, observed.secrets.existing(), now)?;
    let inputs = Inputs {
        replicas: plan.scale.replicas,
        certificates: fingerprint(&format!("{}{}", issued.nodes.authority, issued.nodes.cert)),
        claim_size: observed.claim_size(),
    };
    let built = build::build(valid, &inputs);

    let apply = Apply { client: &context.client, applied: &context.applied, cluster: valid, observed: &observed };
    if let Some(ca) = &issued.new_ca {
        apply.create(&secret(valid, CA, ca)).await?;
    }
    apply.objects(&secrets(valid, &issued)).await?;
    // Marked before their pods go: once those are gone, nobody knows that these nodes left.
    apply.claims(&plan).await?;
    apply.objects(&built).await?;
    apply.grow_claims().await?;
    apply.prune(&built, plan.roll == Roll::Done).await?;
    let refused = act(cluster, &apply, &plan, context).await?;

    let report =
        Report { cluster: valid, observed: &observed, plan: &plan, refused: &refused, ca_ends: issued.ca_ends };
    let after = update_status::status(&report, before, now);
    update_status::update(&context.client, &valid.namespace, &valid.name, before, &after).await?;
    announce(cluster, before, &after, context).await;
    Ok(Action::requeue(if plan.needs_look() || !refused.is_empty() { LOOK } else { STEADY }))
}

fn intent(cluster: &MqttCluster) -> Option<Vec<String>> {
    let names = cluster.annotations().get(INITIAL_MEMBERS)?;
    Some(names.split(',').map(str::to_owned).collect())
}

/// Those issued now. One that serves is left as it is.
fn secrets(valid: &ValidatedCluster, issued: &Certificates) -> Vec<Object> {
    let all = [("nodes", &issued.nodes, issued.new_nodes), ("control", &issued.control, issued.new_control)];
    let new = all.into_iter().filter(|(_, _, new)| *new);
    new.map(|(suffix, pem, _)| Object::new(OwnedKind::Secret, &secret(valid, suffix, pem))).collect()
}

/// Does what was planned. What the brokers do not allow comes back as reasons.
async fn act(
    cluster: &MqttCluster,
    apply: &Apply<'_>,
    plan: &Plan,
    context: &Context,
) -> Result<Vec<String>, ReconcileError> {
    let mut refused = Vec::new();
    let observed = apply.observed;
    match &plan.bootstrap {
        Bootstrap::Intend(members) => {
            apply.annotate(INITIAL_MEMBERS, &members.join(","), cluster.resource_version()).await?;
        }
        Bootstrap::Call(members) => {
            if let Err(reason) = bootstrap(observed, members, context).await {
                refused.push(reason);
            } else {
                let note = format!("the cluster was formed by {}", members.join(", "));
                context.event(cluster, EventType::Normal, "ClusterFormed", note).await;
            }
        }
        Bootstrap::Done | Bootstrap::Wait(_) | Bootstrap::Lost(_) => {}
    }
    if let Some(node) = &plan.scale.leave {
        match leave(observed, node, context).await {
            Ok(()) => {
                context.event(cluster, EventType::Normal, "NodeLeaves", format!("{node} leaves the cluster")).await
            }
            Err(reason) => refused.push(reason),
        }
    }
    if let Roll::Replace { pod, ask, why, .. } = &plan.roll {
        let allowed = match ask {
            true => restart(observed, pod, context).await,
            false => Ok(()),
        };
        match allowed {
            Ok(()) => {
                apply.replace_pod(&plan.roll).await?;
                context.event(cluster, EventType::Normal, "PodReplaced", format!("{pod} is replaced: {why}")).await;
            }
            Err(reason) => refused.push(reason),
        }
    }
    Ok(refused)
}

async fn bootstrap(observed: &Observed, members: &[String], context: &Context) -> Result<(), String> {
    let first = members.first().and_then(|first| observed.brokers.iter().find(|broker| broker.name == *first));
    let (Some(access), Some(first)) = (&observed.access, first) else {
        return Err("the first member cannot be asked".into());
    };
    context.brokers.bootstrap(access, first, members).await.map_err(|error| format!("cannot form the cluster: {error}"))
}

/// The brokers, the node itself last: what is about it is better asked of others.
fn others(observed: &Observed, node: &str) -> Vec<Broker> {
    let (own, mut others): (Vec<_>, Vec<_>) = observed.brokers.iter().cloned().partition(|broker| broker.name == node);
    others.extend(own);
    others
}

async fn leave(observed: &Observed, node: &str, context: &Context) -> Result<(), String> {
    let Some(access) = &observed.access else {
        return Err("no broker can be asked".into());
    };
    let asked = others(observed, node);
    let loss = context.brokers.loss(access, &asked, node).await;
    let loss = loss.map_err(|error| format!("nobody says what would be lost without {node}: {error}"))?;
    scale::may_leave(&loss, observed.view.members.as_deref().unwrap_or_default(), node)?;
    context.brokers.leave(access, &asked, node).await.map_err(|error| format!("{node} cannot leave: {error}"))
}

async fn restart(observed: &Observed, pod: &str, context: &Context) -> Result<(), String> {
    let Some(access) = &observed.access else {
        return Err("no broker can be asked".into());
    };
    // One that is no member takes nothing away, and brokers do not answer for it.
    if observed.view.members.as_ref().is_some_and(|members| members.iter().all(|member| member.name != pod)) {
        return Ok(());
    }
    let loss = context.brokers.loss(access, &others(observed, pod), pod).await;
    let loss = loss.map_err(|error| format!("nobody says what would be lost without {pod}: {error}"))?;
    rollout::may_restart(&loss, pod)
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
