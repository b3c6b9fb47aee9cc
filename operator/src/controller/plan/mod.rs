//! What to do next, as a pure function of what is: [`bootstrap`], [`scale`] and [`rollout`].
//!
//! At most one broker that runs is stopped at a time: a node that is to leave comes first, and only where the others refuse that, a pod of
//! a former template is replaced, if they allow it. The reason of the refusal may be a node that only the present template heals.

pub mod bootstrap;
pub mod rollout;
pub mod scale;

use crate::brokers::ClusterView;
use crate::build::ValidatedCluster;
use crate::controller::pods::PodFacts;

pub use bootstrap::Bootstrap;
pub use rollout::Roll;
pub use scale::Scale;

/// What is known, for the decisions.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// What the user wants.
    pub cluster: &'a ValidatedCluster,
    /// The StatefulSet, where it exists.
    pub set: Option<SetFacts>,
    /// Its pods, by ordinal.
    pub pods: &'a [PodFacts],
    /// Its volume claims, by ordinal.
    pub claims: &'a [ClaimFacts],
    /// What the brokers say.
    pub view: &'a ClusterView,
    /// Whether the cluster was formed, as noted before.
    pub bootstrapped: bool,
    /// To whom the permission to form it was given, as noted before.
    pub intent: Option<Vec<String>>,
}

/// What counts of a volume claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimFacts {
    /// Whose it is: a place in the StatefulSet.
    pub ordinal: i32,
    /// Whether it is marked: its node left the cluster for good.
    pub left: bool,
    /// Whether it is older than the MqttCluster: it may hold the data of an earlier one of this name.
    pub former: bool,
}

/// What counts of a StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetFacts {
    /// Pods that it is to have.
    pub replicas: i32,
    /// The revision of its present template; `None` while its controller has not seen the template.
    pub revision: Option<String>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// About the cluster's birth.
    pub bootstrap: Bootstrap,
    /// About the number of nodes.
    pub scale: Scale,
    /// About pods of a former template.
    pub roll: Roll,
}

impl Plan {
    /// The decisions.
    #[must_use]
    pub fn new(situation: &Situation<'_>) -> Self {
        let bootstrap = bootstrap::next(situation);
        let scale = scale::next(situation, &bootstrap);
        let roll = match rollout::next(situation, &bootstrap) {
            // Its vote is on the way to others.
            Roll::Replace { ask: true, .. } if situation.view.someone_leaves() => {
                Roll::Wait("a node is leaving the cluster first".into())
            }
            // Also while the number of nodes waits for something: the present template may be what it waits for.
            roll => roll,
        };
        Self { bootstrap, scale, roll }
    }

    /// Whether something is under way that shows in the brokers, which no watch tells of.
    #[must_use]
    pub fn needs_look(&self) -> bool {
        !matches!(self.bootstrap, Bootstrap::Done | Bootstrap::Lost(_))
            || !self.scale.is_quiet()
            || self.roll != Roll::Done
    }
}

impl Situation<'_> {
    /// Whether the cluster exists, as noted or as the brokers say.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.bootstrapped || self.view.has_cluster()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::brokers::NodeView;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use raftmq_control_api::api::{ClusterIdentity, JoinPhase, Member, MemberRole, MemberState, NodeStatus};

    pub(crate) fn cluster(replicas: u16) -> ValidatedCluster {
        ValidatedCluster {
            name: "demo".into(),
            namespace: "mq".into(),
            generation: Some(1),
            owner: OwnerReference::default(),
            spec: raftmq_crds::MqttClusterSpec { replicas, ..Default::default() },
            image: "image".into(),
            config_yaml: String::new(),
        }
    }

    pub(crate) fn pods(count: i32, revision: &str) -> Vec<PodFacts> {
        let pod = |ordinal| PodFacts {
            name: format!("demo-{ordinal}"),
            ordinal,
            uid: format!("uid-{ordinal}"),
            revision: revision.into(),
            ip: Some("10.0.0.1".into()),
            ready: true,
            running: true,
            ..PodFacts::default()
        };
        (0..count).map(pod).collect()
    }

    pub(crate) fn claims(count: i32) -> Vec<ClaimFacts> {
        (0..count).map(|ordinal| ClaimFacts { ordinal, ..ClaimFacts::default() }).collect()
    }

    pub(crate) fn member(ordinal: i32) -> Member {
        Member {
            id: 1 + ordinal.unsigned_abs() as u64,
            name: format!("demo-{ordinal}"),
            incarnation: String::new(),
            boot: 1,
            version: "0.1.0".into(),
            links_address: String::new(),
            control_address: None,
            zone: None,
            state: MemberState::Active,
            up: true,
            role: if ordinal == 0 { MemberRole::Leader } else { MemberRole::Voter },
            leads: Vec::new(),
        }
    }

    pub(crate) fn node(phase: JoinPhase) -> NodeView {
        let cluster = (phase == JoinPhase::Member).then(|| ClusterIdentity { id: "c".into(), name: "demo".into() });
        let status = NodeStatus {
            node: String::new(),
            version: "0.1.0".into(),
            raft_id: None,
            incarnation: None,
            boot: None,
            ready: cluster.is_some(),
            cluster,
            uptime_seconds: 1,
            clients: 0,
            memory: None,
            relayed: Vec::new(),
            overload: None,
            lease_remaining_ms: None,
            failing: Vec::new(),
        };
        NodeView { status, phase }
    }

    /// `count` brokers in this phase; members of a cluster where the phase is.
    pub(crate) fn view(count: i32, phase: JoinPhase) -> ClusterView {
        let is_member = phase == JoinPhase::Member;
        ClusterView {
            nodes: (0..count).map(|o| (format!("demo-{o}"), Ok(node(phase)))).collect(),
            members: is_member.then(|| (0..count).map(member).collect()),
            certain: is_member,
            leader: is_member.then(|| "demo-0".into()),
        }
    }

    pub(crate) struct Case {
        pub cluster: ValidatedCluster,
        pub set: Option<SetFacts>,
        pub pods: Vec<PodFacts>,
        pub claims: Vec<ClaimFacts>,
        pub view: ClusterView,
        pub bootstrapped: bool,
        pub intent: Option<Vec<String>>,
    }

    impl Case {
        /// A cluster of `count` nodes that runs as it should.
        pub(crate) fn running(count: u16) -> Self {
            let number = i32::from(count);
            Self {
                cluster: cluster(count),
                set: Some(SetFacts { replicas: number, revision: Some("new".into()) }),
                pods: pods(number, "new"),
                claims: claims(number),
                view: view(number, JoinPhase::Member),
                bootstrapped: true,
                intent: None,
            }
        }

        /// There are marked claims of these ordinals.
        pub(crate) fn left(&mut self, ordinals: &[i32]) {
            self.claims.retain(|claim| !ordinals.contains(&claim.ordinal));
            let left = |ordinal: &i32| ClaimFacts { ordinal: *ordinal, left: true, former: false };
            self.claims.extend(ordinals.iter().map(left));
            self.claims.sort_by_key(|claim| claim.ordinal);
        }

        pub(crate) fn situation(&self) -> Situation<'_> {
            Situation {
                cluster: &self.cluster,
                set: self.set.clone(),
                pods: &self.pods,
                claims: &self.claims,
                view: &self.view,
                bootstrapped: self.bootstrapped,
                intent: self.intent.clone(),
            }
        }

        pub(crate) fn plan(&self) -> Plan {
            Plan::new(&self.situation())
        }
    }

    #[test]
    fn a_cluster_as_it_should_be_needs_nothing() {
        for count in [1, 2, 3, 5, 7] {
            let plan = Case::running(count).plan();
            assert_eq!(plan.bootstrap, Bootstrap::Done);
            assert_eq!(plan.scale, Scale { replicas: i32::from(count), ..Scale::default() });
            assert_eq!(plan.roll, Roll::Done);
            assert!(!plan.needs_look());
        }
    }

    #[test]
    fn pods_that_run_are_not_replaced_while_a_node_leaves() {
        let mut case = Case::running(5);
        case.cluster.spec.replicas = 3;
        case.pods = pods(5, "old");
        let plan = case.plan();
        assert_eq!(plan.scale.leave.as_deref(), Some("demo-4"));
        // For the case that the leave is refused.
        assert!(matches!(plan.roll, Roll::Replace { ask: true, .. }));
        if let Some(member) = case.view.members.iter_mut().flatten().last() {
            member.state = MemberState::Leaving;
        }
        assert_eq!(case.plan().roll, Roll::Wait("a node is leaving the cluster first".into()));
    }

    #[test]
    fn a_pod_that_does_not_run_is_replaced_whatever_the_number_of_nodes_waits_for() {
        let mut broken = Case::running(3);
        broken.pods[1] = PodFacts { ready: false, running: false, revision: "bad".into(), ..broken.pods[1].clone() };
        broken.cluster.spec.replicas = 2;
        let healed = |case: &Case| match case.plan().roll {
            Roll::Replace { pod, ask: false, .. } => assert_eq!(pod, "demo-1"),
            other => panic!("{other:?}"),
        };
        healed(&broken);
        assert_eq!(broken.plan().scale.leave.as_deref(), Some("demo-2"));
        // No broker that serves answers.
        broken.view.certain = false;
        assert!(broken.plan().scale.waiting.is_some());
        healed(&broken);
        // The cluster is being formed.
        (broken.bootstrapped, broken.view) = (false, view(2, JoinPhase::WaitingForBootstrap));
        broken.intent = Some((0..3).map(|ordinal| format!("demo-{ordinal}")).collect());
        assert!(broken.plan().scale.waiting.is_some());
        healed(&broken);
    }
}
