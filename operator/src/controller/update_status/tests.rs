#![allow(clippy::unwrap_used)]
use super::*;
use crate::controller::plan::tests::Case;
use crate::controller::plan::{Scale, SetFacts};
use raftmq_control_api::api::{FailingCondition, JoinPhase};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The status of a case, after `before`, at this second.
fn status_of(case: &Case, refused: &[String], before: &MqttClusterStatus, second: i64) -> MqttClusterStatus {
    let observed = Observed { pods: case.pods.clone(), view: case.view.clone(), ..Observed::default() };
    let plan = case.plan();
    let ca_ends = at(10 * 365 * 86_400);
    let missing = BTreeMap::from([("demo-9".to_owned(), at(100))]);
    let (cluster, observed, plan, missing) = (&case.cluster, &observed, &plan, &missing);
    let report = Report { cluster, observed, plan, refused, problems: &[], missing, ca_ends };
    status(&report, before, at(second))
}

fn first(case: &Case) -> MqttClusterStatus {
    status_of(case, &[], &MqttClusterStatus::default(), 100)
}

/// `(status, reason, message)` of a condition.
fn condition_of(status: &MqttClusterStatus, type_: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == type_).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

fn expect(status: &MqttClusterStatus, expected: [(&str, &str, &str, &str); 4]) {
    for (type_, value, reason, message) in expected {
        let (found, why, text) = condition_of(status, type_);
        assert_eq!((found.as_str(), why.as_str(), text.as_str()), (value, reason, message), "{type_}");
    }
}

#[test]
fn a_cluster_as_it_should_be() {
    let status = first(&Case::running(3));
    expect(
        &status,
        [
            (AVAILABLE, "True", "NodesServe", "3 of 3 nodes serve clients"),
            (PROGRESSING, "False", "AsSpecified", "the cluster is as specified"),
            (DEGRADED, "False", "AsExpected", ""),
            (BOOTSTRAPPED, "True", "Formed", "the cluster was formed"),
        ],
    );
    assert_eq!(condition_of(&status, "Warning").0, "False");
    assert_eq!((status.replicas, status.ready_replicas, status.leader.as_deref()), (3, 3, Some("demo-0")));
    let roles: Vec<_> = status.members.iter().map(|m| (m.name.as_str(), m.role.as_str(), m.raft_id)).collect();
    assert_eq!(roles, [("demo-0", "leader", Some(1)), ("demo-1", "voter", Some(2)), ("demo-2", "voter", Some(3))]);
    assert_eq!(status.endpoints, ["tcp://demo.mq.svc:1883"]);
    let labels = ["component=broker", "instance=demo", "name=raftmq"].map(|l| format!("app.kubernetes.io/{l}"));
    assert_eq!(status.selector, Some(labels.join(",")));
}

#[test]
fn nodes_that_are_too_many_serve_until_they_left() {
    let mut case = Case::running(4);
    case.cluster.spec.replicas = 3;
    let message = |case: &Case| condition_of(&first(case), AVAILABLE).2;
    assert_eq!(message(&case), "4 of 4 nodes serve clients");
    case.pods[3].ready = false;
    assert_eq!(message(&case), "3 of 4 nodes serve clients");
    case.pods.truncate(2);
    assert_eq!(message(&case), "2 of 3 nodes serve clients");
}

#[test]
fn a_new_cluster() {
    let mut case = Case::running(3);
    case.bootstrapped = false;
    case.view = Default::default();
    case.pods.clear();
    case.set = None;
    expect(
        &first(&case),
        [
            (AVAILABLE, "False", "NoNodeReady", "no node serves clients"),
            (PROGRESSING, "True", "WaitingForNodes", "demo-0 has not started yet"),
            (DEGRADED, "False", "AsExpected", ""),
            (BOOTSTRAPPED, "False", "NotFormed", "the cluster was not formed yet"),
        ],
    );
    case.view = crate::controller::plan::tests::view(3, JoinPhase::WaitingForBootstrap);
    case.intent = Some(vec!["demo-0".into(), "demo-1".into(), "demo-2".into()]);
    let status = first(&case);
    let (value, reason, message) = condition_of(&status, BOOTSTRAPPED);
    assert_eq!((value.as_str(), reason.as_str()), ("False", "PermissionGiven"));
    assert_eq!(message, "to be formed by demo-0, demo-1, demo-2");
}

#[test]
fn what_needs_attention() {
    let mut broken = Case::running(3);
    broken.pods[2].ready = false;
    broken.pods[2].trouble = Some(("ErrImagePull".into(), "pod demo-2 cannot start: no image".into()));
    let status = first(&broken);
    let degraded = |status: &MqttClusterStatus| condition_of(status, DEGRADED);
    let tuple = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(degraded(&status), tuple("True", "ErrImagePull", "pod demo-2 cannot start: no image"));
    assert_eq!(condition_of(&status, PROGRESSING).2, "pod demo-2 cannot start: no image");
    assert_eq!(condition_of(&status, AVAILABLE).0, "True");

    let refused = ["demo-2 cannot leave now: demo-1 is down".to_owned()];
    let status = status_of(&Case::running(3), &refused, &MqttClusterStatus::default(), 1);
    assert_eq!(degraded(&status), tuple("True", "Refused", &refused[0]));

    let mut down = Case::running(3);
    down.view.members.as_mut().unwrap()[1].up = false;
    let status = first(&down);
    assert_eq!(degraded(&status), tuple("True", "NodesDown", "down: demo-1"));
    assert_eq!(status.members[1].role, "down");
    assert_eq!(condition_of(&status, PROGRESSING).1, "NodeJoins");

    let mut unready = Case::running(3);
    unready.pods[0].ready = false;
    unready.pods[0].unready_since = Some(60);
    assert_eq!(degraded(&first(&unready)).0, "False", "it may be starting");
    unready.pods[0].unready_since = Some(39);
    assert_eq!(degraded(&first(&unready)), tuple("True", "NodesNotReady", "not ready: demo-0"));
    if let Some(Ok(node)) = unready.view.nodes.get_mut("demo-0") {
        node.status.failing =
            vec![FailingCondition { condition: "lease".into(), reason: "no room on the disk".into() }];
    }
    let message = "not ready: demo-0 (lease: no room on the disk)";
    assert_eq!(degraded(&first(&unready)), tuple("True", "NodesNotReady", message));

    // What was asked for and refused comes first, with what is the matter after it.
    broken.view.members.as_mut().unwrap()[1].up = false;
    let status = status_of(&broken, &refused, &MqttClusterStatus::default(), 1);
    let message = "demo-2 cannot leave now: demo-1 is down; pod demo-2 cannot start: no image; down: demo-1";
    assert_eq!(degraded(&status), tuple("True", "Refused", message));

    let mut lost = Case::running(3);
    lost.view = crate::controller::plan::tests::view(3, JoinPhase::WaitingForBootstrap);
    assert_eq!(degraded(&first(&lost)).1, "DataLost");

    assert_eq!(condition_of(&first(&Case::running(2)), "Warning").1, "TwoNodes");
}

#[test]
fn a_node_whose_pod_is_on_its_way_is_no_trouble_for_a_minute() {
    let mut case = Case::running(3);
    case.view.members.as_mut().unwrap()[1].up = false;
    let none = MqttClusterStatus::default();
    let degraded = |case: &Case, second: i64| condition_of(&status_of(case, &[], &none, second), DEGRADED).1;
    // It stops, and was ready or is not since a moment.
    case.pods[1].terminating = true;
    assert_eq!(degraded(&case, 100), "AsExpected");
    case.pods[1] = PodFacts { ready: false, unready_since: Some(100), ..case.pods[1].clone() };
    assert_eq!((degraded(&case, 160).as_str(), degraded(&case, 161).as_str()), ("AsExpected", "NodesDown"));
    // It has just started.
    case.pods[1] = PodFacts { terminating: false, unready_since: None, since: Some(200), ..case.pods[1].clone() };
    assert_eq!((degraded(&case, 260).as_str(), degraded(&case, 261).as_str()), ("AsExpected", "NodesDown"));
    // What crashes starts as well, and says more than that it is down.
    case.pods[1].trouble = Some(("CrashLoopBackOff".into(), "pod demo-1 crashes: Error, exit code 1".into()));
    let status = status_of(&case, &[], &none, 210);
    assert_eq!(condition_of(&status, DEGRADED).2, "pod demo-1 crashes: Error, exit code 1");
    // It is not there.
    case.pods.remove(1);
    assert_eq!(degraded(&case, 100), "NodesDown");
    case.view.members.as_mut().unwrap()[1].name = "demo-9".into();
    assert_eq!((degraded(&case, 160).as_str(), degraded(&case, 161).as_str()), ("AsExpected", "NodesDown"));
}

#[test]
fn what_is_refused_while_a_node_starts_is_waited_for() {
    let mut case = Case::running(3);
    case.pods[1].since = Some(100);
    let refused = ["demo-2 is not replaced now: meta loses its quorum".to_owned()];
    let status = |case: &Case, second: i64| status_of(case, &refused, &MqttClusterStatus::default(), second);
    let early = status(&case, 130);
    assert_eq!(condition_of(&early, DEGRADED).0, "False");
    let message = "a node is starting first; demo-2 is not replaced now: meta loses its quorum";
    assert_eq!(condition_of(&early, PROGRESSING).2, message);
    assert_eq!(condition_of(&status(&case, 131), DEGRADED).1, "Refused");
    case.pods[1].ready = false;
    assert_eq!(condition_of(&status(&case, 160), DEGRADED).0, "False", "it takes longer");
    assert_eq!(condition_of(&status(&case, 161), DEGRADED).1, "Refused");
    case.pods[1].ready = true;
    // The birth as well.
    case.bootstrapped = false;
    case.view = crate::controller::plan::tests::view(3, JoinPhase::WaitingForBootstrap);
    case.intent = Some(vec!["demo-0".into()]);
    assert_eq!(condition_of(&status(&case, 130), DEGRADED).0, "False");
    assert_eq!(condition_of(&status(&case, 130), PROGRESSING).1, "FormingCluster");
    assert_eq!(condition_of(&status(&case, 131), DEGRADED).1, "Refused");
}

#[test]
fn changes_under_way() {
    let mut case = Case::running(5);
    case.cluster.spec.replicas = 3;
    assert_eq!(case.plan().scale, Scale { replicas: 5, leave: Some("demo-4".into()), ..Scale::default() });
    assert_eq!(condition_of(&first(&case), PROGRESSING).2, "demo-4 leaves the cluster");
    let mut case = Case::running(3);
    case.set = Some(SetFacts { replicas: 3, revision: Some("newer".into()) });
    let (_, reason, message) = condition_of(&first(&case), PROGRESSING);
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("ReplacingPods", "demo-2 is replaced: its template is a former one")
    );
}

#[test]
fn conditions_keep_their_time_while_they_say_the_same() {
    let case = Case::running(3);
    let before = first(&case);
    // Nothing changed: equal, so that nothing is written.
    assert_eq!(status_of(&case, &[], &before, 200), before);
    let mut down = Case::running(3);
    down.pods[1].ready = false;
    down.pods[1].unready_since = Some(100);
    let after = status_of(&down, &[], &before, 200);
    let time = |status: &MqttClusterStatus, type_: &str| {
        status.conditions.iter().find(|c| c.type_ == type_).unwrap().last_transition_time.0.as_second()
    };
    assert_eq!((time(&after, AVAILABLE), time(&after, DEGRADED)), (100, 200));
    // Later than now: what the API server gives back has no fractions.
    let text = serde_json::to_string(&after).unwrap();
    assert_eq!(serde_json::from_str::<MqttClusterStatus>(&text).unwrap(), after);
}

#[test]
fn members_are_kept_while_nobody_knows_them() {
    let before = first(&Case::running(3));
    let mut silent = Case::running(3);
    silent.view = Default::default();
    let after = status_of(&silent, &[], &before, 200);
    assert_eq!(after.members, before.members);
    assert_eq!(after.leader, None);
    assert_eq!(condition_of(&after, BOOTSTRAPPED).0, "True");
}

#[test]
fn one_member_a_name() {
    let mut case = Case::running(3);
    let mut replaced = case.view.members.as_ref().unwrap()[2].clone();
    replaced.id = 9;
    case.view.members.as_mut().unwrap()[2].state = MemberState::Replaced;
    case.view.members.as_mut().unwrap().push(replaced.clone());
    case.view.members.as_mut().unwrap().push(Member { id: 4, ..replaced });
    let ids: Vec<_> = first(&case).members.iter().map(|m| m.raft_id.unwrap()).collect();
    assert_eq!(ids, [1, 2, 9]);
}

#[test]
fn an_invalid_resource_keeps_what_is_known_and_a_failure_its_other_conditions() {
    let before = first(&Case::running(3));
    let after = invalid("spec.x: wrong", Some(7), &before, at(300));
    assert_eq!((after.observed_generation, after.members.len(), after.ready_replicas), (Some(7), 3, 3));
    let (value, reason, message) = condition_of(&after, DEGRADED);
    assert_eq!((value.as_str(), reason.as_str()), ("True", INVALID));
    assert_eq!(message, "the MqttCluster is left as it is until it changes: spec.x: wrong");
    assert_eq!(condition_of(&after, AVAILABLE).0, "True");
    assert_eq!(invalid("spec.x: wrong", Some(7), &after, at(400)), after);
    let failed_once = failed(("CannotApply", "no"), Some(1), &before, at(300));
    assert_eq!(condition_of(&failed_once, DEGRADED).1, "CannotApply");
    assert_eq!(failed(("CannotApply", "no"), Some(1), &failed_once, at(400)), failed_once);
}

#[test]
fn an_authority_that_ends_is_announced() {
    let case = Case::running(3);
    let observed = Observed { pods: case.pods.clone(), view: case.view.clone(), ..Observed::default() };
    let plan = case.plan();
    let ca_ends = at(399 * 86_400);
    let (cluster, observed, plan) = (&case.cluster, &observed, &plan);
    let missing = &BTreeMap::new();
    let report = Report { cluster, observed, plan, refused: &[], problems: &[], missing, ca_ends };
    let (value, reason, message) = condition_of(&status(&report, &MqttClusterStatus::default(), at(0)), "Warning");
    assert_eq!((value.as_str(), reason.as_str()), ("True", "AuthorityEnds"));
    assert!(message.contains("1971-02-04") && message.contains("demo-ca"), "{message}");
}
