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
    /// What is waited for; for people.
    pub waiting: Option<String>,
}

impl Scale {
    /// Whether the number is what it should be.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.leave.is_none() && self.mark.is_empty() && self.replace_claims.is_empty() && self.waiting.is_none()
    }
}

/// The decision.
#[must_use]
pub fn next(situation: &Situation<'_>, bootstrap: &Bootstrap) -> Scale {
    let wanted = situation.cluster.replicas();
    let Some(set) = &situation.set else {
        // Pods whose StatefulSet was deleted from over them must leave in order as well.
        let existing = situation.pods.iter().map(|pod| pod.ordinal + 1).max().unwrap_or(0);
        return Scale { replicas: wanted.max(existing), ..Scale::default() };
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
            Scale { replicas: wanted, ..Scale::default() }
        }
        _ => Scale {
            replicas: set.replicas,
            waiting: Some("the cluster is being formed; nodes leave it after that".into()),
            ..Scale::default()
        },
    }
}

fn out(situation: &Situation<'_>, current: i32, wanted: i32) -> Scale {
    let left = situation.left_claims.iter().copied().filter(|ordinal| (current..wanted).contains(ordinal));
    let (replace_claims, kept): (Vec<i32>, Vec<i32>) = left.partition(|ordinal| may_replace(situation, *ordinal));
    let replicas = replace_claims.iter().chain(&kept).min().copied().unwrap_or(wanted);
    let waiting = kept.first().map(|ordinal| {
        let node = situation.cluster.node(*ordinal);
        format!("the volume of {node} is kept until a broker that serves says that {node} is no member")
    });
    Scale { replicas, replace_claims, waiting, ..Scale::default() }
}

/// Whether the marked claim of this ordinal may be deleted with its data. A member's never is, whatever the mark says.
fn may_replace(situation: &Situation<'_>, ordinal: i32) -> bool {
    if !situation.exists() {
        return true;
    }
    let node = situation.cluster.node(ordinal);
    let is_it = |member: &Member| member.name == node && member.state != MemberState::Replaced;
    situation.view.certain_members().is_some_and(|members| !members.iter().any(is_it))
}

fn inward(situation: &Situation<'_>, current: i32, wanted: i32) -> Scale {
    let steady = Scale { replicas: current, ..Scale::default() };
    let Some(members) = situation.view.certain_members() else {
        return match current == wanted {
            true => steady,
            false => Scale { waiting: Some("no broker that serves says who the members are".into()), ..steady },
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
    Scale {
        replicas,
        leave: surplus.filter(|(_, m)| m.state == MemberState::Active).map(|(_, m)| m.name.clone()),
        mark: (replicas..current).collect(),
        replace_claims: Vec::new(),
        waiting: surplus
            .filter(|(_, member)| member.state == MemberState::Leaving)
            .map(|(_, member)| format!("{} is leaving the cluster", member.name)),
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
    use super::super::tests::{Case, member, view};
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
        case.left_claims = vec![3, 4];
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
        case.left_claims = vec![4, 7];
        assert_eq!(scale(&case), Scale { replicas: 4, replace_claims: vec![4], ..Scale::default() });
        case.left_claims = vec![3, 4];
        assert_eq!(scale(&case), Scale { replicas: 3, replace_claims: vec![3, 4], ..Scale::default() });
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
