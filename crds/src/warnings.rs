//! What is allowed and still not wise.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::status::condition_types::WARNING;
use crate::{BrokerSettings, MqttClusterSpec};

/// One thing that is allowed and still not wise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// For programs, in CamelCase.
    pub reason: &'static str,
    /// For people: what it means and what to do.
    pub message: String,
}

/// What is allowed and still not wise in a spec.
#[must_use]
pub fn warnings(spec: &MqttClusterSpec) -> Vec<Warning> {
    let mut found = Vec::new();
    if spec.replicas == 2 {
        found.push(Warning {
            reason: "TwoNodes",
            message:
                "two nodes have one voter between them: the cluster stops serving while that node is down, and what is \
                      replicated is lost with its disk; set replicas to 3"
                    .into(),
        });
    }
    let config = raftmq_config::Storage::default();
    let storage = spec.config.as_ref().and_then(|c: &BrokerSettings| c.storage.as_ref()).unwrap_or(&config);
    let needed = 4 * storage.wal_segment_bytes.bytes() + storage.ballast_bytes.bytes();
    if let Some(bytes) = spec.storage.bytes().filter(|bytes| *bytes < needed) {
        found.push(Warning {
            reason: "SmallVolume",
            message: format!(
                "storage.size {} ({bytes} bytes) is less than four log segments and the ballast ({needed} bytes); set a larger \
                 size or a smaller config.storage.walSegmentBytes",
                spec.storage.size
            ),
        });
    }
    found
}

/// The condition `Warning` of a spec: true with the reasons, or false.
#[must_use]
pub fn warning_condition(spec: &MqttClusterSpec, generation: Option<i64>, now: Time) -> Condition {
    let found = warnings(spec);
    Condition {
        type_: WARNING.into(),
        status: if found.is_empty() { "False" } else { "True" }.into(),
        reason: found.first().map_or("AsRecommended", |w| w.reason).into(),
        message: found.iter().map(|w| w.message.as_str()).collect::<Vec<_>>().join("; "),
        observed_generation: generation,
        last_transition_time: now,
    }
}
