//! What was planned is done: the birth, a leave, a pod's replacement. The last two stop a broker, which the others must allow.

use kube::ResourceExt;
use kube::runtime::events::EventType;
use raftmq_crds::MqttCluster;
use serde_json::json;

use super::apply::Apply;
use super::current::is_current;
use super::dereference::Observed;
use super::plan::{Bootstrap, Plan, Roll, rollout, scale};
use super::{Context, INITIAL_MEMBERS, INITIAL_MEMBERS_OF, ReconcileError};
use crate::brokers::Broker;
use crate::certificates::replace_all;

/// Does what was planned. What the brokers do not allow comes back as reasons; nothing comes back where the plan no longer counts.
pub(super) async fn act(
    cluster: &MqttCluster,
    apply: &Apply<'_>,
    plan: &Plan,
    context: &Context,
) -> Result<Option<Vec<String>>, ReconcileError> {
    let mut refused = Vec::new();
    let observed = apply.observed;
    match &plan.bootstrap {
        Bootstrap::Intend(members) => {
            let noted = json!({INITIAL_MEMBERS: members.join(","), INITIAL_MEMBERS_OF: cluster.metadata.uid});
            apply.annotate(&noted, cluster.resource_version()).await?;
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
    for (pod, uid) in &plan.scale.release {
        if !is_current(cluster, context).await? {
            return Ok(None);
        }
        let why = "its node left the cluster, and comes back with a new volume";
        apply.replace_pod(pod, uid, why).await?;
        context.event(cluster, EventType::Normal, "VolumeReplaced", format!("{pod} is replaced: {why}")).await;
    }
    let (stop, reasons) = next_stop(observed, plan, context).await;
    refused.extend(reasons);
    // The brokers were asked meanwhile, which takes seconds where one of them is dead.
    if stop.is_some() && !is_current(cluster, context).await? {
        return Ok(None);
    }
    match stop {
        Some(Stop::Leave(node)) => match leave(observed, node, context).await {
            Ok(()) => {
                context.event(cluster, EventType::Normal, "NodeLeaves", format!("{node} leaves the cluster")).await
            }
            Err(reason) => refused.push(reason),
        },
        Some(Stop::Replace { pod, uid, why }) => {
            apply.replace_pod(pod, uid, why).await?;
            context.event(cluster, EventType::Normal, "PodReplaced", format!("{pod} is replaced: {why}")).await;
        }
        None => {}
    }
    Ok(Some(refused))
}

/// The one broker that is stopped now.
pub(super) enum Stop<'a> {
    /// This member leaves for good.
    Leave(&'a str),
    /// This pod is replaced.
    Replace {
        /// Its name.
        pod: &'a str,
        /// Which pod of this name.
        uid: &'a str,
        /// Why; for people.
        why: &'a str,
    },
}

/// What of the plan may be stopped now, and why the rest of it may not.
///
/// A pod that stops nothing goes first; then the node that is to leave; and where that is refused, the pod that the roll-out
/// replaces next: the reason may be one that the present template heals.
pub(super) async fn next_stop<'a>(
    observed: &Observed,
    plan: &'a Plan,
    context: &Context,
) -> (Option<Stop<'a>>, Vec<String>) {
    let replace = match &plan.roll {
        Roll::Replace { pod, uid, ask, why } => Some((Stop::Replace { pod, uid, why }, pod, *ask)),
        Roll::Done | Roll::Wait(_) => None,
    };
    let mut refused = Vec::new();
    if let Some((stop, _, false)) = replace {
        return (Some(stop), refused);
    }
    if let Some(node) = &plan.scale.leave {
        match may_leave(observed, node, context).await {
            Ok(()) => return (Some(Stop::Leave(node)), refused),
            Err(reason) => refused.push(reason),
        }
    }
    if let Some((stop, pod, true)) = replace {
        match may_restart(observed, pod, context).await {
            Ok(()) => return (Some(stop), refused),
            Err(reason) => refused.push(reason),
        }
    }
    (None, refused)
}

async fn bootstrap(observed: &Observed, members: &[String], context: &Context) -> Result<(), String> {
    let first = members.first().and_then(|first| observed.brokers.iter().find(|broker| broker.name == *first));
    let (Some(access), Some(first)) = (&observed.access, first) else {
        return Err("the first member cannot be asked".into());
    };
    context.brokers.bootstrap(access, first, members).await.map_err(|error| format!("cannot form the cluster: {error}"))
}

/// The brokers, those first that answered a moment ago: the others may be dead, whatever Kubernetes says of them. The node itself last: what is
/// about it is better asked of others.
fn others(observed: &Observed, node: &str) -> Vec<Broker> {
    let mut others = observed.brokers.clone();
    others.sort_by_key(|broker| {
        let answer = observed.view.nodes.get(&broker.name).and_then(|answer| answer.as_ref().ok());
        (broker.name == node, answer.is_none(), answer.is_none_or(|answer| !answer.status.ready))
    });
    others
}

async fn may_leave(observed: &Observed, node: &str, context: &Context) -> Result<(), String> {
    let Some(access) = &observed.access else {
        return Err("no broker can be asked".into());
    };
    let loss = context.brokers.loss(access, &others(observed, node), node).await;
    let loss = loss.map_err(|error| format!("nobody says what would be lost without {node}: {error}"))?;
    scale::may_leave(&loss, observed.view.certain_members().unwrap_or_default(), node)
}

async fn leave(observed: &Observed, node: &str, context: &Context) -> Result<(), String> {
    let Some(access) = &observed.access else {
        return Err("no broker can be asked".into());
    };
    let left = context.brokers.leave(access, &others(observed, node), node).await;
    left.map_err(|error| format!("{node} cannot leave: {error}"))
}

async fn may_restart(observed: &Observed, pod: &str, context: &Context) -> Result<(), String> {
    let Some(access) = &observed.access else {
        return Err("no broker can be asked".into());
    };
    // One that is no member takes nothing away, and brokers do not answer for it.
    if observed.view.certain_members().is_some_and(|members| members.iter().all(|member| member.name != pod)) {
        return Ok(());
    }
    let loss = context.brokers.loss(access, &others(observed, pod), pod).await;
    let loss = loss.map_err(|error| {
        let refused = format!("nobody says what would be lost without {pod}: {error}");
        match foreign_certificates(observed) {
            true => format!(
                "{refused}; no broker's certificate is of the present authority: {}",
                replace_all(&access.cluster)
            ),
            false => refused,
        }
    })?;
    rollout::may_restart(&loss, pod)
}

/// Whether no broker answers and some have certificates of another authority than the operator's, or take its own for one.
fn foreign_certificates(observed: &Observed) -> bool {
    const SIGNS: [&str; 4] = ["invalid peer certificate", "BadSignature", "UnknownCA", "DecryptError"];
    let foreign = |error: &String| SIGNS.iter().any(|sign| error.contains(sign));
    let mut silent = observed.view.nodes.values().map(|answer| answer.as_ref().err());
    silent.clone().all(|error| error.is_some()) && silent.any(|error| error.is_some_and(foreign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::plan::tests::view;
    use raftmq_control_api::api::JoinPhase;

    #[test]
    fn brokers_of_a_former_authority_are_known_by_their_errors() {
        let mut observed = Observed { view: view(3, JoinPhase::Member), ..Observed::default() };
        assert!(!foreign_certificates(&observed));
        for error in ["connection refused", "invalid peer certificate: BadSignature"] {
            observed.view.nodes.insert("demo-0".into(), Err(error.into()));
            assert!(!foreign_certificates(&observed), "others answer");
        }
        observed.view.nodes.retain(|_, answer| answer.is_err());
        assert!(foreign_certificates(&observed));
        observed.view.nodes.insert("demo-0".into(), Err("connection refused".into()));
        assert!(!foreign_certificates(&observed));
        assert!(!foreign_certificates(&Observed::default()));
    }

    #[test]
    fn who_answered_is_asked_first_and_who_it_is_about_last() {
        let broker = |ordinal: i32| Broker { name: format!("demo-{ordinal}"), address: String::new() };
        let mut observed = Observed { brokers: (0..5).map(broker).collect(), ..Observed::default() };
        observed.view = view(5, JoinPhase::Member);
        observed.view.nodes.insert("demo-0".into(), Err("no answer".into()));
        if let Some(Ok(node)) = observed.view.nodes.get_mut("demo-1") {
            node.status.ready = false;
        }
        let order: Vec<String> = others(&observed, "demo-2").into_iter().map(|broker| broker.name).collect();
        assert_eq!(order, ["demo-3", "demo-4", "demo-1", "demo-0", "demo-2"]);
    }
}
