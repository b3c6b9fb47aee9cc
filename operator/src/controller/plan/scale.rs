//! How many nodes: out at once, in one after the other, each leaving the cluster before its pod goes.

use raftmq_control_api::api::{Loss, Member, MemberState};

use super::{Bootstrap, Situation};
use crate::build::ordinal;

/// What to do about the number of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// Pods that the StatefulSet is to have now.
    pub replicas: i32,
    /// A member that is to leave the cluster now, if that may be.
    pub leave: Option<String>,
    /// Ordinals whose node has left: their volume claims are marked before their pods go.
    pub mark: Vec<i32>,
    /// Ordinals that get nodes again and whose claims still hold the data of one that left, which can never be a member again.
    pub replace_claims: Vec<i32>,
    /// Pods of such nodes, which still hold the claims: name and uid.
    pub release: Vec<(String, String)>,
    /// What is waited for; for people.
    pub waiting: Option<String>,
}

impl Scale {
    /// Whether the number is what it should be.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let renews = !self.replace_claims.is_empty() || !self.release.is_empty();
        self.leave.is_none() && self.mark.is_empty() && !renews && self.waiting.is_none()
    }
}

/// The decision.
#[must_use]
pub fn next(situation: &Situation<'_>, bootstrap: &Bootstrap) -> Scale {
    let mut scale = number(situation, bootstrap);
    renew(situation, &mut scale);
    scale
}

fn number(situation: &Situation<'_>, bootstrap: &Bootstrap) -> Scale {
    let wanted = situation.cluster.replicas();
    let Some(set) = &situation.set else {
        let behind = left_behind(situation);
        return out(situation, behind, wanted.max(behind));
    };
    if wanted > set.replicas {
        return out(situation, set.replicas, wanted);
    }
    if situation.exists() {
        return inward(situation, set.replicas, wanted);
    }
    if wanted == set.replicas {
        return Scale { replicas: wanted, ..Scale::default() };
    }
    match bootstrap {
        // Nobody was told of the members yet: there is nothing to leave.
        Bootstrap::Wait(_) | Bootstrap::Intend(_) if situation.intent.is_none() => {
            let unknown =
                situation.claims.iter().filter(|claim| claim.ordinal >= wanted && claim.former && !claim.left);
            let mut unknown = unknown.map(|claim| situation.cluster.node(claim.ordinal));
            match unknown.find(|node| !situation.view.knows_no_cluster(node)) {
                None => Scale { replicas: wanted, ..Scale::default() },
                Some(node) => Scale {
                    replicas: set.replicas,
                    waiting: Some(format!(
                        "{node} has a volume from before this MqttCluster, and may be a member; delete its claim if that is not so"
                    )),
                    ..Scale::default()
                },
            }
        }
        _ => Scale {
            replicas: set.replicas,
            waiting: Some("the cluster is being formed; nodes leave it after that".into()),
            ..Scale::default()
        },
    }
}

fn out(situation: &Situation<'_>, current: i32, wanted: i32) -> Scale {
    let left = left_claims(situation).filter(|ordinal| (current..wanted).contains(ordinal));
    let (replace_claims, stay): (Vec<i32>, Vec<i32>) = left.partition(|ordinal| may_replace(situation, *ordinal));
    let replicas = replace_claims.iter().chain(&stay).min().copied().unwrap_or(wanted);
    let waiting = stay.first().map(|ordinal| kept(&situation.cluster.node(*ordinal)));
    Scale { replicas, replace_claims, waiting, ..Scale::default() }
}

/// How many places there were by what a StatefulSet that is gone left behind: its pods, and the volumes of a cluster that was deleted. Their
/// nodes may be members, which must leave in order.
fn left_behind(situation: &Situation<'_>) -> i32 {
    let pods = situation.pods.iter().map(|pod| pod.ordinal);
    let claims = situation.claims.iter().filter(|claim| !claim.left).map(|claim| claim.ordinal);
    pods.chain(claims).max().map_or(0, |highest| highest + 1)
}

fn left_claims(situation: &Situation<'_>) -> impl Iterator<Item = i32> {
    situation.claims.iter().filter(|claim| claim.left).map(|claim| claim.ordinal)
}

/// Nodes that left and are wanted again where their pods are still there, or come back at once: a scale-in that was taken back, or one that was told to leave by
/// hand. They can only come back with new volumes.
fn renew(situation: &Situation<'_>, scale: &mut Scale) {
    let current = situation.set.as_ref().map_or_else(|| left_behind(situation), |set| set.replicas);
    let places = 0..situation.cluster.replicas().min(current);
    for claim in situation.claims.iter().filter(|claim| places.contains(&claim.ordinal)) {
        let node = situation.cluster.node(claim.ordinal);
        let member = situation.view.certain_members().and_then(|members| members.iter().find(|m| is_it(m, &node)));
        if !claim.left {
            if may_replace(situation, claim.ordinal) && situation.view.has_left(&node) {
                scale.mark.push(claim.ordinal);
            }
        } else if may_replace(situation, claim.ordinal) {
            scale.replace_claims.push(claim.ordinal);
            let pods = situation.pods.iter().filter(|pod| pod.ordinal == claim.ordinal && !pod.terminating);
            scale.release.extend(pods.map(|pod| (pod.name.clone(), pod.uid.clone())));
        } else if member.is_none() {
            scale.waiting.get_or_insert_with(|| kept(&node));
        }
        if member.is_some_and(|member| member.state == MemberState::Leaving) {
            scale.waiting.get_or_insert_with(|| format!("{node} is leaving the cluster"));
        }
    }
}

fn unknown_members(situation: &Situation<'_>) -> String {
    let unknown = "no broker that serves says who the members are";
    match situation.bootstrapped || situation.claims.iter().all(|claim| !claim.former) {
        true => unknown.to_owned(),
        false => format!("{unknown}; volumes from before this MqttCluster that are not needed any more can be deleted"),
    }
}

fn kept(node: &str) -> String {
    format!("the volume of {node} is kept until a broker that serves says that {node} is no member")
}

fn is_it(member: &Member, node: &str) -> bool {
    member.name == node && member.state != MemberState::Replaced
}

/// Whether the marked claim of this ordinal may be deleted with its data. A member's never is, whatever the mark says.
fn may_replace(situation: &Situation<'_>, ordinal: i32) -> bool {
    if !situation.exists() {
        return true;
    }
    let node = situation.cluster.node(ordinal);
    situation.view.certain_members().is_some_and(|members| !members.iter().any(|member| is_it(member, &node)))
}

fn inward(situation: &Situation<'_>, current: i32, wanted: i32) -> Scale {
    let steady = Scale { replicas: current, ..Scale::default() };
    let Some(members) = situation.view.certain_members() else {
        return match current == wanted {
            true => steady,
            false => Scale { waiting: Some(unknown_members(situation)), ..steady },
        };
    };
    // A member without a place, also one whose pod is gone already: the operator may have been interrupted.
    let surplus = members
        .iter()
        .filter_map(|member| Some((ordinal(&situation.cluster.name, &member.name)?, member)))
        .filter(|(ordinal, member)| *ordinal >= wanted && member.state != MemberState::Replaced)
        .max_by_key(|(ordinal, _)| *ordinal);
    let highest = surplus.map(|(ordinal, _)| ordinal);
    // Above the highest that is still a member, pods go at once.
    let replicas = highest.map_or(wanted, |highest| (highest + 1).min(current)).max(wanted);
    // Their pods may be gone already.
    let gone = situation.claims.iter().filter(|claim| claim.ordinal >= replicas && !claim.left);
    let gone = gone.filter(|claim| may_replace(situation, claim.ordinal));
    Scale {
        replicas,
        leave: surplus.filter(|(_, m)| m.state == MemberState::Active).map(|(_, m)| m.name.clone()),
        mark: gone.map(|claim| claim.ordinal).collect(),
        waiting: surplus
            .filter(|(_, member)| member.state == MemberState::Leaving)
            .map(|(_, member)| format!("{} is leaving the cluster", member.name)),
        ..Scale::default()
    }
}

/// Whether a member may leave, else why not.
///
/// It may when nothing would be lost if it just stopped. It may as well when that would take a quorum only because few vote, and
/// all others are up: leaving moves its vote first, which two voters of three, or a single one, could not stand by a stop.
///
/// # Errors
/// The reasons, for people.
pub fn may_leave(loss: &Loss, members: &[Member], node: &str) -> Result<(), String> {
    if loss.nothing {
        return Ok(());
    }
    let down = members.iter().find(|m| m.name != node && m.state == MemberState::Active && !m.up);
    let remaining = members.iter().any(|m| m.name != node && m.state == MemberState::Active && m.up);
    if loss.groups.iter().all(|group| group.has_quorum) && down.is_none() && remaining {
        return Ok(());
    }
    let mut reasons = loss.reasons.clone();
    reasons.extend(down.map(|m| format!("{} is down", m.name)));
    Err(format!("{node} cannot leave now: {}", reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::super::SetFacts;
    use super::super::tests::{Case, claims, member, view};
    use super::*;
    use raftmq_control_api::api::{GroupLoss, JoinPhase};

    fn scale(case: &Case) -> Scale {
        case.plan().scale
    }

    #[test]
    fn out_at_once() {
        let mut case = Case::running(3);
        case.cluster.spec.replicas = 5;
        assert_eq!(scale(&case), Scale { replicas: 5, ..Scale::default() });
        case.set = None;
        case.pods.clear();
        assert_eq!(scale(&case).replicas, 5);
    }

    #[test]
    fn a_set_that_was_deleted_comes_back_with_the_pods_that_it_left() {
        let mut case = Case::running(5);
        case.cluster.spec.replicas = 3;
        case.set = None;
        assert_eq!(scale(&case).replicas, 5);
    }

    #[test]
    fn volumes_of_a_cluster_that_was_deleted_are_those_of_its_members() {
        // Five nodes were; three are wanted.
        let mut case = Case::running(3);
        (case.set, case.bootstrapped, case.view) = (None, false, Default::default());
        case.pods.clear();
        case.claims = claims(5);
        case.claims.iter_mut().for_each(|claim| claim.former = true);
        assert_eq!(scale(&case), Scale { replicas: 5, ..Scale::default() });
        case.set = Some(SetFacts { replicas: 5, revision: None });
        let starting = scale(&case);
        assert_eq!(starting.replicas, 5, "nobody has answered yet");
        assert!(starting.waiting.is_some_and(|why| why.contains("demo-3 has a volume from before")));
        case.view = view(5, JoinPhase::Member);
        assert_eq!(scale(&case).leave.as_deref(), Some("demo-4"));
        // They are empty, or their claims are of now.
        case.view = view(5, JoinPhase::WaitingForBootstrap);
        assert_eq!(scale(&case), Scale { replicas: 3, ..Scale::default() });
        case.view = Default::default();
        case.claims = claims(5);
        assert_eq!(scale(&case), Scale { replicas: 3, ..Scale::default() });
    }

    #[test]
    fn a_new_set_takes_no_volumes_of_nodes_that_left() {
        let mut case = Case::running(5);
        (case.set, case.bootstrapped, case.view) = (None, false, Default::default());
        case.pods.clear();
        case.left(&[3, 4]);
        assert_eq!(scale(&case), Scale { replicas: 3, replace_claims: vec![3, 4], ..Scale::default() });
        case.left(&[1]);
        case.claims.retain(|claim| claim.ordinal < 3);
        assert_eq!(scale(&case), Scale { replicas: 5, replace_claims: vec![1], ..Scale::default() });
        // The cluster exists, and nobody says who its members are yet.
        case.bootstrapped = true;
        let waits = scale(&case);
        assert!(waits.replace_claims.is_empty() && waits.waiting.is_some());
    }

    #[test]
    fn volumes_are_marked_when_their_pods_are_gone_already() {
        let mut case = Case::running(3);
        case.claims = claims(5);
        case.view.members = Some((0..4).map(member).collect());
        let expected = Scale { replicas: 3, leave: Some("demo-3".into()), mark: vec![4], ..Scale::default() };
        assert_eq!(scale(&case), expected);
        case.left(&[4]);
        case.view.members = Some((0..3).map(member).collect());
        assert_eq!(scale(&case), Scale { replicas: 3, mark: vec![3], ..Scale::default() });
        case.view.certain = false;
        assert!(scale(&case).is_quiet());
    }

    #[test]
    fn in_one_after_the_other() {
        let mut case = Case::running(5);
        case.cluster.spec.replicas = 3;
        let first = Scale { replicas: 5, leave: Some("demo-4".into()), ..Scale::default() };
        assert_eq!(scale(&case), first);
        let members = case.view.members.as_mut().into_iter().flatten();
        members.last().into_iter().for_each(|m| m.state = MemberState::Leaving);
        let leaving = scale(&case);
        assert_eq!((leaving.replicas, leaving.leave.clone()), (5, None));
        assert_eq!(leaving.waiting.as_deref(), Some("demo-4 is leaving the cluster"));
        case.view.members = Some((0..4).map(member).collect());
        let next = Scale { replicas: 4, leave: Some("demo-3".into()), mark: vec![4], ..Scale::default() };
        assert_eq!(scale(&case), next);
        case.view.members = Some((0..3).map(member).collect());
        assert_eq!(scale(&case), Scale { replicas: 3, mark: vec![3, 4], ..Scale::default() });
    }

    #[test]
    fn a_member_whose_pod_went_too_early_leaves_as_well() {
        let mut case = Case::running(3);
        case.view.members = Some((0..4).map(member).collect());
        assert_eq!(scale(&case), Scale { replicas: 3, leave: Some("demo-3".into()), ..Scale::default() });
    }

    #[test]
    fn nothing_is_removed_on_a_guess() {
        let mut case = Case::running(5);
        case.cluster.spec.replicas = 3;
        case.view.members = None;
        let waiting = scale(&case);
        assert_eq!((waiting.replicas, waiting.leave.clone()), (5, None));
        assert!(waiting.waiting.is_some());
        // All have just started, or are cut off: their lists are old, or empty.
        for members in [Vec::new(), (0..3).map(member).collect()] {
            case.view.members = Some(members);
            case.view.certain = false;
            assert_eq!(scale(&case), waiting);
        }
    }

    #[test]
    fn the_volume_of_a_member_is_kept_whatever_its_mark_says() {
        let mut case = Case::running(3);
        case.cluster.spec.replicas = 5;
        case.left(&[3, 4]);
        case.view.members = Some((0..4).map(member).collect());
        let kept = scale(&case);
        assert_eq!((kept.replicas, kept.replace_claims.as_slice()), (3, [4].as_slice()));
        assert!(kept.waiting.is_some_and(|why| why.contains("demo-3")));
        case.view.certain = false;
        let kept = scale(&case);
        assert_eq!((kept.replicas, kept.replace_claims.len()), (3, 0));
        assert!(kept.waiting.is_some());
    }

    #[test]
    fn before_the_cluster_is_formed_there_is_nothing_to_leave() {
        let mut case = Case::running(5);
        case.bootstrapped = false;
        case.view = view(4, JoinPhase::WaitingForBootstrap);
        case.cluster.spec.replicas = 3;
        assert_eq!(scale(&case), Scale { replicas: 3, ..Scale::default() });
        case.intent = Some((0..5).map(|o| format!("demo-{o}")).collect());
        assert_eq!(scale(&case).replicas, 5);
        assert!(scale(&case).waiting.is_some());
    }

    #[test]
    fn volumes_of_nodes_that_left_are_replaced_before_their_pods_come() {
        let mut case = Case::running(3);
        case.cluster.spec.replicas = 5;
        case.left(&[4, 7]);
        assert_eq!(scale(&case), Scale { replicas: 4, replace_claims: vec![4], ..Scale::default() });
        case.left(&[3, 4]);
        assert_eq!(scale(&case), Scale { replicas: 3, replace_claims: vec![3, 4], ..Scale::default() });
    }

    #[test]
    fn a_node_that_left_and_is_wanted_again_gets_a_new_volume() {
        // 5 → 3 was taken back when the leave of demo-4 was committed.
        let mut case = Case::running(5);
        if let Some(member) = case.view.members.iter_mut().flatten().last() {
            member.state = MemberState::Leaving;
        }
        let leaving = Some("demo-4 is leaving the cluster".to_owned());
        assert_eq!(scale(&case), Scale { replicas: 5, waiting: leaving, ..Scale::default() });
        case.view.members = Some((0..4).map(member).collect());
        assert!(scale(&case).is_quiet(), "a new one, which has not joined yet");
        if let Some(Ok(node)) = case.view.nodes.get_mut("demo-4") {
            node.phase = JoinPhase::Left;
        }
        assert_eq!(scale(&case), Scale { replicas: 5, mark: vec![4], ..Scale::default() });
        case.view.certain = false;
        assert!(scale(&case).is_quiet(), "on an old list nothing is marked");
        case.view.certain = true;
        case.left(&[4]);
        let release = vec![("demo-4".to_owned(), "uid-4".to_owned())];
        let renewed = Scale { replicas: 5, replace_claims: vec![4], release, ..Scale::default() };
        assert_eq!(scale(&case), renewed);
        // It is stopping, and its volume goes with it.
        case.pods[4].terminating = true;
        assert_eq!(scale(&case), Scale { release: Vec::new(), ..renewed.clone() });
        case.pods[4].terminating = false;
        // Nothing is deleted on an old list, nor what a member has.
        case.view.certain = false;
        let waits = scale(&case);
        assert!(waits.replace_claims.is_empty() && waits.release.is_empty() && waits.waiting.is_some());
        case.view.certain = true;
        case.view.members = Some((0..5).map(member).collect());
        assert_eq!(scale(&case), Scale { replicas: 5, ..Scale::default() });
    }

    #[test]
    fn who_may_leave() {
        let loss = |nothing, has_quorum| Loss {
            node: Some(3),
            nothing,
            reasons: vec!["meta loses its quorum".into()],
            groups: vec![GroupLoss {
                group: "meta".into(),
                votes: true,
                live_after: 0,
                quorum: 1,
                has_quorum,
                loses_quorum: true,
            }],
        };
        let mut members: Vec<Member> = (0..2).map(member).collect();
        assert_eq!(may_leave(&loss(true, true), &members, "demo-1"), Ok(()));
        // Two nodes, one voter, and it is the one that leaves: its vote moves first.
        assert_eq!(may_leave(&loss(false, true), &members, "demo-1"), Ok(()));
        assert!(may_leave(&loss(false, false), &members, "demo-1").is_err());
        members[0].up = false;
        let refused = may_leave(&loss(false, true), &members, "demo-1").expect_err("another one is down");
        assert_eq!(refused, "demo-1 cannot leave now: meta loses its quorum; demo-0 is down");
        assert!(may_leave(&loss(false, true), &members[1..], "demo-1").is_err());
    }
}
