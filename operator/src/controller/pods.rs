//! What counts of a pod.

use k8s_openapi::api::core::v1::{ContainerState, Pod};

use crate::build::ordinal;

/// What counts of a broker's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name, which is the node's.
    pub name: String,
    /// Its place in the StatefulSet.
    pub ordinal: i32,
    /// Which pod of this name.
    pub uid: String,
    /// The revision of the template that it was made from.
    pub revision: String,
    /// Where it is, once it has an address.
    pub ip: Option<String>,
    /// Whether clients may be sent there.
    pub ready: bool,
    /// Since when they may not, in seconds of Unix time, where that is known.
    pub unready_since: Option<i64>,
    /// Whether the broker's process runs.
    pub running: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Why it cannot start, where it is known: a word for programs, a sentence for people.
    pub trouble: Option<(String, String)>,
}

/// Reasons of a waiting container that do not pass by waiting.
const TROUBLES: [&str; 8] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

impl PodFacts {
    /// Of a pod of this cluster; `None` where its name is none of its StatefulSet's.
    #[must_use]
    pub fn of(cluster: &str, pod: &Pod) -> Option<Self> {
        let name = pod.metadata.name.clone()?;
        let status = pod.status.as_ref();
        let condition = |type_: &str| status?.conditions.as_ref()?.iter().find(|c| c.type_ == type_);
        let state = || -> Option<&ContainerState> {
            status?.container_statuses.as_ref()?.iter().find(|c| c.name == "broker")?.state.as_ref()
        };
        let labels = pod.metadata.labels.as_ref();
        Some(Self {
            ordinal: ordinal(cluster, &name)?,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            revision: labels.and_then(|l| l.get("controller-revision-hash")).cloned().unwrap_or_default(),
            ip: status.and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()),
            ready: condition("Ready").is_some_and(|c| c.status == "True"),
            unready_since: condition("Ready")
                .filter(|c| c.status != "True")
                .and_then(|c| c.last_transition_time.as_ref())
                .map(|time| time.0.as_second()),
            running: state().is_some_and(|s| s.running.is_some()),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            trouble: trouble(pod, state()),
            name,
        })
    }

    /// Where the control API is.
    #[must_use]
    pub fn control_address(&self) -> Option<String> {
        let ip = self.ip.as_ref()?;
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        Some(format!("{host}:{}", crate::build::CONTROL_PORT))
    }
}

fn trouble(pod: &Pod, state: Option<&ContainerState>) -> Option<(String, String)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(waiting) = state.and_then(|s| s.waiting.as_ref()) {
        let reason = waiting.reason.clone().unwrap_or_default();
        if TROUBLES.contains(&reason.as_str()) {
            let why = waiting.message.as_deref().unwrap_or("no message");
            return Some((reason.clone(), format!("pod {name} cannot start: {reason}: {why}")));
        }
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    let why = scheduled.message.as_deref().unwrap_or("no message");
    Some(("Unschedulable".into(), format!("pod {name} cannot be scheduled: {why}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn facts(yaml: &str) -> Option<PodFacts> {
        PodFacts::of("demo", &serde_saphyr::from_str::<Pod>(yaml).unwrap())
    }

    #[test]
    fn a_ready_pod() {
        let facts = facts(
            "
metadata: { name: demo-1, uid: u1, labels: { controller-revision-hash: demo-abc } }
status:
  podIP: 10.0.0.7
  conditions: [{ type: Ready, status: 'True' }, { type: PodScheduled, status: 'True' }]
  containerStatuses:
    - { name: broker, image: i, imageID: i, ready: true, restartCount: 0, state: { running: {} } }
",
        )
        .unwrap();
        assert_eq!(facts.control_address().unwrap(), "10.0.0.7:18083");
        assert_eq!((facts.ordinal, facts.uid.as_str(), facts.revision.as_str()), (1, "u1", "demo-abc"));
        assert!(facts.ready && facts.running && !facts.terminating && facts.trouble.is_none());
    }

    #[test]
    fn a_pod_that_is_not_ready_says_since_when() {
        let status = |status: &str| {
            let condition =
                format!("{{ type: Ready, status: '{status}', lastTransitionTime: '1970-01-01T00:01:40Z' }}");
            facts(&format!("metadata: {{ name: demo-0 }}\nstatus: {{ conditions: [{condition}] }}"))
                .unwrap()
                .unready_since
        };
        assert_eq!((status("False"), status("True")), (Some(100), None));
    }

    #[test]
    fn pods_that_cannot_start_say_why() {
        let waiting = |reason: &str| {
            facts(&format!(
                "
metadata: {{ name: demo-0 }}
status:
  containerStatuses:
    - {{ name: broker, image: i, imageID: '', ready: false, restartCount: 0, state: {{ waiting: {{ reason: {reason}, message: no such image }} }} }}
"
            ))
            .unwrap()
            .trouble
        };
        let (reason, message) = waiting("ErrImagePull").unwrap();
        assert_eq!(
            (reason.as_str(), message.as_str()),
            ("ErrImagePull", "pod demo-0 cannot start: ErrImagePull: no such image")
        );
        assert_eq!(waiting("ContainerCreating"), None);
        let pending = facts(
            "
metadata: { name: demo-0 }
status:
  conditions: [{ type: PodScheduled, status: 'False', reason: Unschedulable, message: '0/3 nodes are available' }]
",
        );
        assert_eq!(pending.unwrap().trouble.unwrap().0, "Unschedulable");
    }

    #[test]
    fn pods_of_other_names_are_not_ours() {
        for name in ["demo-x", "demo-01", "other-0", "demo", "demo-"] {
            assert_eq!(facts(&format!("metadata: {{ name: {name} }}")), None, "{name}");
        }
        let v6 = PodFacts { ip: Some("fd00::7".into()), ..PodFacts::default() };
        assert_eq!(v6.control_address().unwrap(), "[fd00::7]:18083");
    }
}
