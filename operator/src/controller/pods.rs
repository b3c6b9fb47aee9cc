//! What counts of a pod.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

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
    /// Since when it runs, or where it does not, the pod is there, in seconds of Unix time, where that is known.
    pub since: Option<i64>,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Why it cannot start, or does not stay up, where it is known: a word for programs, a sentence for people.
    pub trouble: Option<(String, String)>,
}

/// Reasons of a waiting container that do not pass by waiting.
const TROUBLES: [&str; 7] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// The reason of a pod that no node takes.
pub(super) const UNSCHEDULABLE: &str = "Unschedulable";
/// The reason of a pod whose broker ends again and again.
const CRASHES: &str = "CrashLoopBackOff";

/// A broker that lost its readiness so many seconds after its start has had it: the kubelet writes the end of the one before a little late.
const LATE: i64 = 3;

impl PodFacts {
    /// Of a pod of this cluster; `None` where its name is none of its StatefulSet's.
    #[must_use]
    pub fn of(cluster: &str, pod: &Pod) -> Option<Self> {
        let name = pod.metadata.name.clone()?;
        let status = pod.status.as_ref();
        let condition = |type_: &str| status?.conditions.as_ref()?.iter().find(|c| c.type_ == type_);
        let broker = || status?.container_statuses.as_ref()?.iter().find(|c| c.name == "broker");
        let running = broker().and_then(|b| b.state.as_ref()?.running.as_ref());
        let started = running.and_then(|running| running.started_at.as_ref());
        let since = if running.is_some() { started } else { pod.metadata.creation_timestamp.as_ref() };
        let since = since.map(|time| time.0.as_second());
        let labels = pod.metadata.labels.as_ref();
        let ready = condition("Ready").is_some_and(|c| c.status == "True");
        let unready_since = condition("Ready")
            .filter(|c| c.status != "True")
            .and_then(|c| c.last_transition_time.as_ref())
            .map(|time| time.0.as_second());
        let was_ready = running.is_some() && unready_since.zip(since).is_some_and(|(lost, start)| lost > start + LATE);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        // One that is told to stop ends because of that.
        let crash = broker().filter(|_| !ready && !was_ready && !terminating).and_then(|broker| crash(&name, broker));
        Some(Self {
            ordinal: ordinal(cluster, &name)?,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            revision: labels.and_then(|l| l.get("controller-revision-hash")).cloned().unwrap_or_default(),
            ip: status.and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()),
            ready,
            unready_since,
            running: running.is_some(),
            since,
            terminating,
            trouble: crash.or_else(|| trouble(pod, broker().and_then(|b| b.state.as_ref()))),
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

/// How the broker ended the last time. The same sentence while it is down, waits to be started and runs again, until it is ready.
fn crash(pod: &str, broker: &ContainerStatus) -> Option<(String, String)> {
    let ended = |state: &Option<ContainerState>| state.as_ref()?.terminated.clone();
    let waits = || broker.state.as_ref()?.waiting.as_ref()?.reason.clone();
    // What keeps it from starting now counts more.
    if waits().is_some_and(|reason| TROUBLES.contains(&reason.as_str())) {
        return None;
    }
    let Some(last) = ended(&broker.state).or_else(|| ended(&broker.last_state)) else {
        let looping = waits().is_some_and(|reason| reason == CRASHES);
        return looping
            .then(|| (CRASHES.into(), format!("pod {pod} crashes or cannot start: its broker ends again and again")));
    };
    let reason = last.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or("Error");
    let mut message = format!("pod {pod} crashes or cannot start: {reason}, exit code {}", last.exit_code);
    let words = last.message.as_deref().and_then(|text| text.lines().rev().find(|line| !line.trim().is_empty()));
    if let Some(line) = words {
        message = format!("{message}: {}", line.trim().chars().take(500).collect::<String>());
    }
    Some((CRASHES.into(), message))
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
    Some((UNSCHEDULABLE.into(), format!("pod {name} cannot be scheduled: {why}")))
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
    fn a_pod_that_crashes_says_the_same_while_it_tries_again() {
        let trouble = |unready: u32, state: &str, last: &str| {
            let condition =
                format!("{{ type: Ready, status: 'False', lastTransitionTime: '1970-01-01T00:00:{unready:02}Z' }}");
            let broker = format!(
                "name: broker, image: i, imageID: i, ready: false, restartCount: 1, state: {{ {state} }}, lastState: {{ {last} }}"
            );
            let status = format!("{{ conditions: [{condition}], containerStatuses: [{{ {broker} }}] }}");
            facts(&format!("metadata: {{ name: demo-1 }}\nstatus: {status}")).unwrap().trouble
        };
        let ended = r#"terminated: { exitCode: 1, reason: Error, message: "first\nno such key: x\n" }"#;
        let started = "running: { startedAt: '1970-01-01T00:00:20Z' }";
        let expected = Some((
            "CrashLoopBackOff".to_owned(),
            "pod demo-1 crashes or cannot start: Error, exit code 1: no such key: x".to_owned(),
        ));
        assert_eq!(trouble(10, ended, ""), expected);
        assert_eq!(trouble(10, "waiting: { reason: CrashLoopBackOff, message: back-off 10s }", ended), expected);
        assert_eq!(trouble(10, started, ended), expected);
        assert_eq!(trouble(30, started, ended), None, "it was ready since");
        assert_eq!(trouble(10, started, ""), None, "it starts for the first time");
        let killed = trouble(10, started, "terminated: { exitCode: 137, reason: OOMKilled }").unwrap().1;
        assert_eq!(killed, "pod demo-1 crashes or cannot start: OOMKilled, exit code 137");
        let stopping = "metadata: { name: demo-1, deletionTimestamp: '1970-01-01T00:00:40Z' }
status: { containerStatuses: [{ name: broker, image: i, imageID: i, ready: false, restartCount: 0, \
            state: { terminated: { exitCode: 0, reason: Completed } } }] }";
        assert_eq!(facts(stopping).unwrap().trouble, None, "it was told to stop");
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
