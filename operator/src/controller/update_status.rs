//! The status: what is known of a cluster, as a pure function, and its way to the API server.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::discovery::ApiResource;
use raftmq_control_api::api::{Member, MemberRole, MemberState};
use raftmq_crds::condition_types::{AVAILABLE, BOOTSTRAPPED, DEGRADED, PROGRESSING};
use raftmq_crds::{MemberStatus, MqttCluster, MqttClusterStatus, warning_condition};
use serde_json::json;
use thiserror::Error;

use super::dereference::Observed;
use super::plan::{Bootstrap, Plan, Roll};
use super::pods::PodFacts;
use crate::FIELD_MANAGER;
use crate::api::plain;
use crate::build::{ValidatedCluster, endpoints, selector_text};
use crate::certificates::replace_all;

/// The status could not be written.
#[derive(Debug, Error)]
#[error("cannot write the status: {}", plain(.0))]
pub struct StatusError(#[source] pub Box<kube::Error>);

/// Reason of an invalid resource.
pub const INVALID: &str = "Invalid";
/// Reason where volumes are not as large as specified.
pub const NOT_GROWN: &str = "VolumesNotGrown";
/// An authority with less than this is announced: a new one needs planning.
const CA_WARNING: i64 = 400 * 24 * 3600;

/// A node that is not ready for so many seconds needs attention; before that it may be starting.
const PATIENCE: i64 = 60;
/// A node that is ready has caught up with the others so many seconds after its start, and they have heard of it.
const SETTLING: i64 = 30;

/// What a reconciliation came to.
pub struct Report<'a> {
    /// The cluster.
    pub cluster: &'a ValidatedCluster,
    /// What was.
    pub observed: &'a Observed,
    /// What was planned.
    pub plan: &'a Plan,
    /// What was planned and refused, with the reason.
    pub refused: &'a [String],
    /// What failed and is tried again: a reason and a message each.
    pub problems: &'a [(&'static str, String)],
    /// Since when pods that there should be are not there, by name.
    pub missing: &'a BTreeMap<String, Timestamp>,
    /// When the authority ends.
    pub ca_ends: Timestamp,
}

/// A condition before it has a time.
struct Said {
    type_: &'static str,
    holds: bool,
    reason: String,
    message: String,
}

fn said(type_: &'static str, holds: bool, reason: &str, message: impl Into<String>) -> Said {
    Said { type_, holds, reason: reason.to_owned(), message: message.into() }
}

/// The status after a reconciliation; `before` gives conditions their time.
#[must_use]
pub fn status(report: &Report<'_>, before: &MqttClusterStatus, now: Timestamp) -> MqttClusterStatus {
    let Report { cluster, observed, .. } = report;
    let ready = observed.pods.iter().filter(|pod| pod.ready).count();
    let conditions =
        [available(report, ready), progressing(report, now), degraded(report, now), bootstrapped(report, before)];
    let mut conditions: Vec<Condition> =
        conditions.into_iter().map(|said| condition(said, cluster.generation, before, now)).collect();
    let warning = warning_condition(&cluster.spec, cluster.generation, Time(now));
    conditions.push(keep_time(with_authority(warning, report, now), before));
    let members = match &observed.view.members {
        Some(members) => members.iter().filter(|m| m.state != MemberState::Replaced).map(member).collect(),
        None => before.members.clone(),
    };
    MqttClusterStatus {
        observed_generation: cluster.generation,
        conditions,
        replicas: count(observed.pods.len()),
        ready_replicas: count(ready),
        selector: Some(selector_text(&cluster.name)),
        members: by_name(members),
        leader: observed.view.leader.clone(),
        endpoints: endpoints(cluster),
    }
}

/// The status of a resource that cannot be built: what runs is left alone.
#[must_use]
pub fn invalid(
    message: &str,
    generation: Option<i64>,
    before: &MqttClusterStatus,
    now: Timestamp,
) -> MqttClusterStatus {
    let mut after = before.clone();
    after.observed_generation = generation;
    let message = format!("the MqttCluster is left as it is until it changes: {message}");
    set(&mut after, said(DEGRADED, true, INVALID, message), generation, before, now);
    set(&mut after, said(PROGRESSING, false, INVALID, ""), generation, before, now);
    after
}

/// The status after an error that is tried again.
#[must_use]
pub fn failed(
    (reason, message): (&str, &str),
    generation: Option<i64>,
    before: &MqttClusterStatus,
    now: Timestamp,
) -> MqttClusterStatus {
    let mut after = before.clone();
    set(&mut after, said(DEGRADED, true, reason, message), generation, before, now);
    after
}

fn set(
    status: &mut MqttClusterStatus,
    said: Said,
    generation: Option<i64>,
    before: &MqttClusterStatus,
    now: Timestamp,
) {
    let type_ = said.type_;
    let new = condition(said, generation, before, now);
    match status.conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(old) => *old = new,
        None => status.conditions.push(new),
    }
}

fn available(report: &Report<'_>, ready: usize) -> Said {
    // A ready node holds a lease, which needs the quorum of every group.
    match ready {
        0 => said(AVAILABLE, false, "NoNodeReady", "no node serves clients"),
        _ => {
            // Those that are too many serve until they have left.
            let nodes = report.observed.pods.len().max(usize::try_from(report.cluster.replicas()).unwrap_or(0));
            let message = format!("{ready} of {nodes} nodes serve clients");
            said(AVAILABLE, true, "NodesServe", message)
        }
    }
}

/// Whether the pod has just come, and nothing is wrong with it so far. What the brokers refuse and who is down passes by itself then.
fn is_starting(pod: &PodFacts, now: Timestamp) -> bool {
    let young = pod.since.is_some_and(|since| now.as_second() - since <= PATIENCE);
    young && pod.trouble.is_none() && !pod.terminating
}

/// Why the brokers do not allow what is planned, while that is no wonder: some of them are only starting.
fn awaited(report: &Report<'_>, now: Timestamp) -> Option<String> {
    let settles = |pod: &PodFacts| !pod.ready || pod.since.is_some_and(|since| now.as_second() - since <= SETTLING);
    let starting = report.observed.pods.iter().any(|pod| is_starting(pod, now) && settles(pod));
    (starting && !report.refused.is_empty()).then(|| report.refused.join("; "))
}

/// Whether a node is down because its pod is on its way: it stops, is not there for a moment, or has just started.
fn is_replaced(report: &Report<'_>, node: &str, now: Timestamp) -> bool {
    let recent = |since: i64| now.as_second() - since <= PATIENCE;
    match report.observed.pods.iter().find(|pod| pod.name == node) {
        // One on a machine that is off stops for ever.
        Some(pod) if pod.terminating => pod.unready_since.is_none_or(recent),
        Some(pod) => is_starting(pod, now),
        None => report.missing.get(node).is_some_and(|since| recent(since.as_second())),
    }
}

fn progressing(report: &Report<'_>, now: Timestamp) -> Said {
    let on = |reason, message: String| said(PROGRESSING, true, reason, message);
    let awaited = awaited(report, now);
    match &report.plan.bootstrap {
        Bootstrap::Wait(why) => return on("WaitingForNodes", why.clone()),
        Bootstrap::Intend(_) | Bootstrap::Call(_) => {
            let why = awaited.map(|why| format!(": {why}")).unwrap_or_default();
            return on("FormingCluster", format!("the cluster is being formed{why}"));
        }
        Bootstrap::Done | Bootstrap::Lost(_) => {}
    }
    if let Some(why) = awaited {
        return on("WaitingForPods", format!("a node is starting first; {why}"));
    }
    let scale = &report.plan.scale;
    if let Some(node) = &scale.leave {
        return on("NodeLeaves", format!("{node} leaves the cluster"));
    }
    if let Some(why) = &scale.waiting {
        return on("Scaling", why.clone());
    }
    if !scale.replace_claims.is_empty() {
        return on("Scaling", "volumes of nodes that left are replaced".into());
    }
    let missing = |member: &i32| {
        let name = report.cluster.node(*member);
        !report.observed.view.members.iter().flatten().any(|m| m.name == name && m.up)
    };
    match &report.plan.roll {
        Roll::Wait(why) => on("WaitingForPods", why.clone()),
        Roll::Replace { pod, why, .. } => on("ReplacingPods", format!("{pod} is replaced: {why}")),
        Roll::Done => match (0..report.cluster.replicas()).find(missing) {
            Some(ordinal) => on("NodeJoins", format!("{} is not a member yet", report.cluster.node(ordinal))),
            None => said(PROGRESSING, false, "AsSpecified", "the cluster is as specified"),
        },
    }
}

/// Everything that needs attention in one message; the first gives the reason.
fn degraded(report: &Report<'_>, now: Timestamp) -> Said {
    let mut problems: Vec<(String, String)> = Vec::new();
    let mut add = |reason: &str, message: String| problems.push((reason.to_owned(), message));
    if let Bootstrap::Lost(why) = &report.plan.bootstrap {
        add("DataLost", why.clone());
    }
    let pods = &report.observed.pods;
    if !report.refused.is_empty() && awaited(report, now).is_none() {
        add("Refused", report.refused.join("; "));
    }
    for (reason, message) in pods.iter().filter_map(|pod| pod.trouble.as_ref()) {
        add(reason, message.clone());
    }
    for (reason, message) in report.problems {
        add(reason, message.clone());
    }
    let says_itself = |node: &str| pods.iter().any(|pod| pod.name == node && pod.trouble.is_some());
    let down = |member: &&Member| {
        let excused = || says_itself(&member.name) || is_replaced(report, &member.name, now);
        !member.up && member.state == MemberState::Active && !excused()
    };
    let down: Vec<_> = report.observed.view.members.iter().flatten().filter(down).map(|m| m.name.as_str()).collect();
    if !down.is_empty() {
        add("NodesDown", format!("down: {}", down.join(", ")));
    }
    let long = |pod: &&PodFacts| pod.unready_since.is_some_and(|since| now.as_second() - since > PATIENCE);
    // Before the birth a node that waits for the others is as it should be.
    if matches!(report.plan.bootstrap, Bootstrap::Done) {
        for pod in pods.iter().filter(long).filter(|pod| pod.trouble.is_none()) {
            add("NodesNotReady", format!("not ready: {}{}", pod.name, own_words(report, &pod.name)));
        }
    }
    match problems.first() {
        Some((reason, _)) => {
            let messages: Vec<_> = problems.iter().map(|(_, message)| message.as_str()).collect();
            said(DEGRADED, true, reason, messages.join("; "))
        }
        None => said(DEGRADED, false, "AsExpected", ""),
    }
}

/// What a broker says about why it is not ready.
fn own_words(report: &Report<'_>, node: &str) -> String {
    match report.observed.view.nodes.get(node) {
        Some(Ok(view)) if !view.status.failing.is_empty() => {
            let reasons =
                view.status.failing.iter().map(|failing| format!("{}: {}", failing.condition, failing.reason));
            format!(" ({})", reasons.collect::<Vec<_>>().join("; "))
        }
        Some(Err(error)) => format!(" ({error})"),
        _ => String::new(),
    }
}

fn bootstrapped(report: &Report<'_>, before: &MqttClusterStatus) -> Said {
    let noted = before.conditions.iter().any(|c| c.type_ == BOOTSTRAPPED && c.status == "True");
    if noted || report.observed.view.has_cluster() {
        return said(BOOTSTRAPPED, true, "Formed", "the cluster was formed");
    }
    match &report.plan.bootstrap {
        Bootstrap::Call(members) => {
            said(BOOTSTRAPPED, false, "PermissionGiven", format!("to be formed by {}", members.join(", ")))
        }
        _ => said(BOOTSTRAPPED, false, "NotFormed", "the cluster was not formed yet"),
    }
}

fn with_authority(mut warning: Condition, report: &Report<'_>, now: Timestamp) -> Condition {
    if report.ca_ends.as_second() - now.as_second() < CA_WARNING {
        let message = format!(
            "the cluster's authority ends on {}: for a new one, which interrupts the cluster, delete the Secrets {name}-ca, \
             {name}-nodes and {name}-control, and once they are there again {replace}",
            report.ca_ends,
            replace = replace_all(&report.cluster.name),
            name = report.cluster.name
        );
        if warning.status != "True" {
            warning.reason = "AuthorityEnds".into();
            warning.message = message;
        } else {
            warning.message = format!("{}; {message}", warning.message);
        }
        warning.status = "True".into();
    }
    warning
}

fn condition(said: Said, generation: Option<i64>, before: &MqttClusterStatus, now: Timestamp) -> Condition {
    let condition = Condition {
        type_: said.type_.into(),
        status: if said.holds { "True" } else { "False" }.into(),
        reason: said.reason,
        // The API server takes so many characters.
        message: said.message.chars().take(32_768).collect(),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    keep_time(condition, before)
}

fn keep_time(mut condition: Condition, before: &MqttClusterStatus) -> Condition {
    let same = before.conditions.iter().find(|c| c.type_ == condition.type_ && c.status == condition.status);
    if let Some(same) = same {
        condition.last_transition_time = same.last_transition_time.clone();
    } else {
        // As it is stored: without fractions of a second.
        let whole = Timestamp::from_second(condition.last_transition_time.0.as_second());
        condition.last_transition_time = Time(whole.unwrap_or(condition.last_transition_time.0));
    }
    condition
}

fn member(member: &Member) -> MemberStatus {
    let role = match member.role {
        _ if !member.up => "down",
        MemberRole::Leader => "leader",
        MemberRole::Voter => "voter",
        MemberRole::Learner | MemberRole::Changing => "learner",
    };
    MemberStatus {
        name: member.name.clone(),
        raft_id: i64::try_from(member.id).ok(),
        role: role.into(),
        version: Some(member.version.clone()),
    }
}

/// One a name: the list is a map to the API server.
fn by_name(mut members: Vec<MemberStatus>) -> Vec<MemberStatus> {
    members.sort_by(|a, b| a.name.cmp(&b.name).then(b.raft_id.cmp(&a.raft_id)));
    members.dedup_by(|a, b| a.name == b.name);
    members
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Writes the status of this very object, where it differs from the one before.
///
/// # Errors
/// [`StatusError`].
pub async fn update(
    client: &Client,
    object: &ObjectMeta,
    before: &MqttClusterStatus,
    after: &MqttClusterStatus,
) -> Result<bool, StatusError> {
    if before == after {
        return Ok(false);
    }
    let (namespace, name) =
        (object.namespace.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default());
    let resource = ApiResource::erase::<MqttCluster>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        // Of its name there may be another one by now, of which nothing of this is true.
        "metadata": {"name": name, "uid": object.uid},
        "status": after,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(true),
        // Deleted in the meantime: nobody asks for its status.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(kube::Error::Api(status)) if matches!(status.code, 409 | 422) && is_gone(&api, object).await => Ok(false),
        Err(error) => Err(StatusError(Box::new(error))),
    }
}

/// Whether the object is there no longer, or is another one.
async fn is_gone(api: &Api<DynamicObject>, object: &ObjectMeta) -> bool {
    let live = api.get_metadata_opt(object.name.as_deref().unwrap_or_default()).await;
    live.is_ok_and(|live| live.is_none_or(|live| live.metadata.uid != object.uid))
}

#[cfg(test)]
mod tests;
