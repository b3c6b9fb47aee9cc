//! The cluster is formed once.
//!
//! When all nodes answer that they wait for it, the intent is noted with the names of the initial members (an annotation of the
//! MqttCluster), and only then the brokers are told, with these names, again and again until it is done. Whatever dies in
//! between, the same members are told the same; the brokers answer a repeated call with the cluster that exists.
//! A cluster that was formed once is never formed again: nodes that have all lost their data are an error to look at.

use super::Situation;

/// What to do about the cluster's birth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// There is a cluster.
    Done,
    /// Something is missing first; for people.
    Wait(String),
    /// Note that these members will be told.
    Intend(Vec<String>),
    /// Tell the first of these members.
    Call(Vec<String>),
    /// There was a cluster, and every node says that it knows none; for people.
    Lost(String),
}

/// The decision.
#[must_use]
pub fn next(situation: &Situation<'_>) -> Bootstrap {
    let view = situation.view;
    if view.has_cluster() {
        return Bootstrap::Done;
    }
    let wanted = || (0..situation.cluster.replicas()).map(|ordinal| situation.cluster.node(ordinal));
    let waiting = wanted().all(|node| view.waits_for_bootstrap(&node));
    if situation.bootstrapped {
        return match waiting {
            true => Bootstrap::Lost(
                "the cluster was formed before, and none of its nodes has any data: restore the volumes, or delete the \
                 MqttCluster and create it again for an empty cluster"
                    .into(),
            ),
            false => Bootstrap::Done,
        };
    }
    if let Some(members) = &situation.intent {
        return match members.iter().find(|node| !view.waits_for_bootstrap(node)) {
            None => Bootstrap::Call(members.clone()),
            // The others may know a cluster by now: the call is as good as a question.
            Some(_) if members.first().is_some_and(|first| matches!(view.nodes.get(first), Some(Ok(_)))) => {
                Bootstrap::Call(members.clone())
            }
            Some(node) => Bootstrap::Wait(said(situation, node)),
        };
    }
    match wanted().find(|node| !view.waits_for_bootstrap(node)) {
        None => Bootstrap::Intend(wanted().collect()),
        Some(node) => Bootstrap::Wait(said(situation, &node)),
    }
}

fn said(situation: &Situation<'_>, node: &str) -> String {
    match situation.view.nodes.get(node) {
        None => format!("{node} has not started yet"),
        Some(Err(error)) => format!("{node} does not answer: {error}"),
        Some(Ok(view)) => format!("{node} is not waiting for a cluster: {:?}", view.phase),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Case, view};
    use super::*;
    use raftmq_control_api::api::JoinPhase;

    fn names(count: i32) -> Vec<String> {
        (0..count).map(|ordinal| format!("demo-{ordinal}")).collect()
    }

    fn newborn() -> Case {
        Case { bootstrapped: false, view: view(3, JoinPhase::WaitingForBootstrap), ..Case::running(3) }
    }

    #[test]
    fn intent_first_then_the_call_with_the_same_members() {
        let mut case = newborn();
        assert_eq!(case.plan().bootstrap, Bootstrap::Intend(names(3)));
        case.intent = Some(names(3));
        assert_eq!(case.plan().bootstrap, Bootstrap::Call(names(3)));
        // Whatever is wanted by now.
        case.cluster.spec.replicas = 5;
        assert_eq!(case.plan().bootstrap, Bootstrap::Call(names(3)));
    }

    #[test]
    fn all_nodes_must_wait_for_it() {
        let mut case = newborn();
        case.view.nodes.remove("demo-2");
        assert_eq!(case.plan().bootstrap, Bootstrap::Wait("demo-2 has not started yet".into()));
        case.view.nodes.insert("demo-2".into(), Err("no".into()));
        assert_eq!(case.plan().bootstrap, Bootstrap::Wait("demo-2 does not answer: no".into()));
        case.view = view(3, JoinPhase::Searching);
        assert!(matches!(case.plan().bootstrap, Bootstrap::Wait(_)));
    }

    #[test]
    fn a_cluster_that_the_brokers_know_is_enough() {
        let mut case = newborn();
        case.view = view(3, JoinPhase::Member);
        assert_eq!(case.plan().bootstrap, Bootstrap::Done);
        case.view.members = None;
        assert_eq!(case.plan().bootstrap, Bootstrap::Done);
    }

    #[test]
    fn a_lost_cluster_is_not_formed_again() {
        let mut case = newborn();
        case.bootstrapped = true;
        assert!(matches!(case.plan().bootstrap, Bootstrap::Lost(_)));
        // One that does not answer may have the data.
        case.view.nodes.insert("demo-1".into(), Err("no".into()));
        assert_eq!(case.plan().bootstrap, Bootstrap::Done);
    }
}
