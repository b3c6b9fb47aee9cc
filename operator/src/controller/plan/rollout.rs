//! Pods of a former template are replaced one at a time.
//!
//! A pod that cannot even start is replaced first, without asking: nothing runs in it, and the present template may be the way
//! out. Any other is replaced only while all of the present template are ready, from the highest ordinal down, the leader last,
//! and only when the brokers say that nothing would be lost. Where no pod is ready nobody could say, and no client is served: the
//! present template may be what heals it, and the data is on the volumes.

use raftmq_control_api::api::Loss;

use super::{Bootstrap, Situation};
use crate::controller::pods::PodFacts;

/// What to do about pods of a former template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roll {
    /// All pods are of the present template, and ready.
    Done,
    /// Something is missing first; for people.
    Wait(String),
    /// Replace this pod.
    Replace {
        /// Its name.
        pod: String,
        /// Which pod of this name.
        uid: String,
        /// Whether the brokers are asked first what would be lost.
        ask: bool,
        /// Why this one; for people.
        why: String,
    },
}

impl Roll {
    /// Which pods are of a former template is not known before the StatefulSet's controller has seen the present one.
    #[must_use]
    pub fn unseen() -> Self {
        Self::Wait("the StatefulSet's controller has not seen the present template yet".into())
    }
}

/// The decision.
#[must_use]
pub fn next(situation: &Situation<'_>, bootstrap: &Bootstrap) -> Roll {
    let Some(set) = &situation.set else {
        return Roll::Wait("the pods are not there yet".into());
    };
    let Some(revision) = &set.revision else {
        return Roll::unseen();
    };
    if let Some(pod) = situation.pods.iter().find(|pod| pod.terminating) {
        return Roll::Wait(format!("{} is stopping", pod.name));
    }
    let (present, former): (Vec<&PodFacts>, Vec<&PodFacts>) =
        situation.pods.iter().partition(|pod| pod.revision == *revision);
    let replace = |pod: &PodFacts, ask: bool, why: &str| Roll::Replace {
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        ask,
        why: why.to_owned(),
    };
    if let Some(pod) = former.iter().find(|pod| !pod.running && !pod.ready) {
        return replace(pod, false, "it does not run, and its template is a former one");
    }
    let formed = matches!(bootstrap, Bootstrap::Done);
    if let Some(pod) = former.iter().find(|pod| !pod.ready) {
        let ask = formed && situation.pods.iter().any(|pod| pod.ready);
        return replace(pod, ask, "it is not ready, and its template is a former one");
    }
    if let Some(pod) = present.iter().find(|pod| !pod.ready) {
        return Roll::Wait(
            pod.trouble.as_ref().map_or_else(|| format!("{} is not ready yet", pod.name), |t| t.1.clone()),
        );
    }
    let missing = (0..set.replicas).find(|ordinal| !situation.pods.iter().any(|pod| pod.ordinal == *ordinal));
    if let Some(ordinal) = missing {
        return Roll::Wait(format!("{} is not there yet", situation.cluster.node(ordinal)));
    }
    let leads = |pod: &PodFacts| situation.view.leader.as_ref() == Some(&pod.name);
    match former.iter().max_by_key(|pod| (!leads(pod), pod.ordinal)) {
        Some(pod) => replace(pod, formed, "its template is a former one"),
        None => Roll::Done,
    }
}

/// Whether a pod may be replaced, else why not.
///
/// It may when nothing would be lost. Where a group has a single voter, and this is it, nothing would be gained by waiting:
/// it comes back with its data.
///
/// # Errors
/// The reasons, for people.
pub fn may_restart(loss: &Loss, pod: &str) -> Result<(), String> {
    let alone = loss.groups.iter().all(|g| g.has_quorum && (!g.loses_quorum || g.quorum == 1));
    // Not a member (any more): there is nothing that it could take away.
    if loss.nothing || loss.node.is_none() || alone {
        return Ok(());
    }
    Err(format!("{pod} is not replaced now: {}", loss.reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Case, pods};
    use super::*;
    use raftmq_control_api::api::GroupLoss;

    fn roll(case: &Case) -> Roll {
        case.plan().roll
    }

    fn replaced(roll: &Roll) -> (&str, bool) {
        match roll {
            Roll::Replace { pod, ask, .. } => (pod, *ask),
            other => panic!("{other:?}"),
        }
    }

    fn rolling() -> Case {
        Case { pods: pods(3, "old"), ..Case::running(3) }
    }

    #[test]
    fn from_the_highest_down_and_the_leader_last() {
        let mut case = rolling();
        case.view.leader = Some("demo-2".into());
        let mut order = Vec::new();
        for _ in 0..3 {
            let next = roll(&case);
            let (name, ask) = replaced(&next);
            assert!(ask);
            order.push(name.to_owned());
            case.pods.iter_mut().filter(|pod| pod.name == name).for_each(|pod| pod.revision = "new".into());
        }
        assert_eq!(order, ["demo-1", "demo-0", "demo-2"]);
        assert_eq!(roll(&case), Roll::Done);
    }

    #[test]
    fn one_at_a_time() {
        let mut case = rolling();
        case.pods[2].terminating = true;
        assert_eq!(roll(&case), Roll::Wait("demo-2 is stopping".into()));
        case.pods.remove(2);
        assert_eq!(roll(&case), Roll::Wait("demo-2 is not there yet".into()));
        case.pods = rolling().pods;
        case.pods[2] = PodFacts { ready: false, revision: "new".into(), ..case.pods[2].clone() };
        assert_eq!(roll(&case), Roll::Wait("demo-2 is not ready yet".into()));
    }

    #[test]
    fn a_broken_template_stops_at_the_first_pod_and_the_former_one_heals_it() {
        let mut case = rolling();
        case.pods[2] = PodFacts {
            ready: false,
            running: false,
            revision: "new".into(),
            trouble: Some(("ErrImagePull".into(), "pod demo-2 cannot start".into())),
            ..case.pods[2].clone()
        };
        assert_eq!(roll(&case), Roll::Wait("pod demo-2 cannot start".into()));
        // The former spec again: its revision is that of the pods that were not touched.
        case.set = Some(super::super::SetFacts { replicas: 3, revision: Some("old".into()) });
        assert_eq!(replaced(&roll(&case)), ("demo-2", false));
    }

    #[test]
    fn a_pod_that_runs_and_is_not_ready_may_still_vote() {
        let mut case = rolling();
        case.pods[0].ready = false;
        assert_eq!(replaced(&roll(&case)), ("demo-0", true));
        // Where none is ready nobody can answer, and waiting heals nothing.
        case.pods.iter_mut().for_each(|pod| pod.ready = false);
        assert_eq!(replaced(&roll(&case)), ("demo-0", false));
        case.pods[1].ready = true;
        // Before the cluster there is nobody to ask, and nothing to lose.
        case.bootstrapped = false;
        case.view = Default::default();
        assert_eq!(replaced(&roll(&case)), ("demo-0", false));
    }

    #[test]
    fn a_template_that_was_not_seen_yet_rolls_nothing() {
        let mut case = rolling();
        case.set = Some(super::super::SetFacts { replicas: 3, revision: None });
        assert!(matches!(roll(&case), Roll::Wait(_)));
    }

    #[test]
    fn what_may_be_restarted() {
        let loss = |quorum, live_after, has_quorum, loses_quorum| Loss {
            node: Some(1),
            nothing: false,
            reasons: vec!["meta loses its quorum".into()],
            groups: vec![GroupLoss { group: "meta".into(), votes: true, live_after, quorum, has_quorum, loses_quorum }],
        };
        assert_eq!(may_restart(&Loss { nothing: true, ..loss(2, 2, true, false) }, "demo-1"), Ok(()));
        assert_eq!(may_restart(&loss(1, 0, true, true), "demo-1"), Ok(()), "a single voter");
        let refused = may_restart(&loss(2, 1, true, true), "demo-1").expect_err("two of three are needed");
        assert_eq!(refused, "demo-1 is not replaced now: meta loses its quorum");
        assert!(may_restart(&loss(2, 1, false, false), "demo-1").is_err(), "no quorum now");
        assert_eq!(may_restart(&Loss { node: None, ..loss(2, 1, false, false) }, "demo-1"), Ok(()), "no member");
    }
}
