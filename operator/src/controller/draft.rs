//! What is, what should be and what is done next, before anything of it is done.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use raftmq_crds::condition_types::BOOTSTRAPPED;
use raftmq_crds::{MqttCluster, MqttClusterStatus};

use super::apply::Apply;
use super::dereference::{Observed, dereference};
use super::owners;
use super::plan::{Plan, Situation};
use super::source::Source;
use super::{Context, INITIAL_MEMBERS, INITIAL_MEMBERS_OF, ReconcileError};
use crate::brokers::Brokers;
use crate::build::{self, Inputs, Object, ValidatedCluster};
use crate::certificates::{Certificates, Subject, certificates};
use crate::fingerprint::fingerprint;

/// What a reconciliation is about.
pub struct Asked<'a> {
    /// The resource.
    pub cluster: &'a MqttCluster,
    /// What it says.
    pub valid: &'a ValidatedCluster,
    /// Its status so far.
    pub before: &'a MqttClusterStatus,
    /// When.
    pub now: Timestamp,
}

/// What is, what should be and what is done next.
pub struct Draft {
    /// What is.
    pub observed: Observed,
    /// What is done next.
    pub plan: Plan,
    /// The certificates that should be.
    pub issued: Certificates,
    /// The other resources that should be.
    pub built: Vec<Object>,
}

impl Draft {
    /// From what a source says, and the brokers.
    ///
    /// # Errors
    /// [`ReconcileError::Dereference`], [`ReconcileError::Certificates`]; [`ReconcileError::Apply`] where a name is taken.
    pub async fn new(asked: &Asked<'_>, source: Source<'_>, brokers: &dyn Brokers) -> Result<Self, ReconcileError> {
        let Asked { valid, before, .. } = asked;
        let observed = dereference(source, brokers, &valid.namespace, &valid.name).await?;
        owners::check_observed(&observed, valid)?;
        let claims = observed.claim_facts(asked.cluster.metadata.creation_timestamp.as_ref());
        let plan = Plan::new(&Situation {
            cluster: valid,
            set: observed.set_facts(),
            pods: &observed.pods,
            claims: &claims,
            view: &observed.view,
            bootstrapped: before.conditions.iter().any(|c| c.type_ == BOOTSTRAPPED && c.status == "True"),
            intent: intent(asked.cluster),
        });
        let subject = Subject::new(&valid.name, &valid.namespace, &valid.spec.discovery.cluster_domain);
        let issued = certificates(&subject, observed.secrets.existing(), asked.now)?;
        let inputs = Inputs {
            replicas: plan.scale.replicas,
            certificates: fingerprint(&format!("{}{}", issued.nodes.authority, issued.nodes.cert)),
            claim_size: observed.claim_size(),
        };
        let built = build::build(valid, &inputs);
        Ok(Self { observed, plan, issued, built })
    }

    /// Whether there are new certificates.
    #[must_use]
    pub fn issues(&self) -> bool {
        self.issued.new_ca.is_some() || self.issued.new_nodes || self.issued.new_control
    }

    pub(super) fn apply<'a>(&'a self, asked: &'a Asked<'_>, context: &'a Context) -> Apply<'a> {
        Apply { client: &context.client, applied: &context.applied, cluster: asked.valid, observed: &self.observed }
    }
}

fn intent(cluster: &MqttCluster) -> Option<Vec<String>> {
    let of_this = cluster.annotations().get(INITIAL_MEMBERS_OF) == cluster.metadata.uid.as_ref();
    let names = cluster.annotations().get(INITIAL_MEMBERS).filter(|_| of_this)?;
    Some(names.split(',').map(str::to_owned).collect())
}
