//! From what a user wrote to what can be built.

use std::collections::BTreeMap;

use kube::{Resource, ResourceExt};
use raftmq_config::Problem;
use raftmq_crds::{MqttCluster, NodePlacement, ParseError, broker_config};
use serde_json::Value as Json;
use thiserror::Error;

use crate::build::ValidatedCluster;

/// Why a resource cannot be built. It is left alone until it changes.
#[derive(Debug, Error)]
pub enum ValidateError {
    /// Rules of the definition do not hold: an API server without them stored it, or another version of the definition did.
    #[error("{}", .0.join("; "))]
    Rules(Vec<String>),
    /// It is no `MqttCluster`.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// The API server left something out that it always fills in.
    #[error("it has no {0}")]
    Missing(&'static str),
}

/// Checks the resource with the rules of the definition and of the brokers' settings, and translates it.
///
/// # Errors
/// [`ValidateError`] with everything that is wrong.
pub fn validate(cluster: &MqttCluster, default_image: &str) -> Result<ValidatedCluster, ValidateError> {
    check_rules(cluster)?;
    let owner = cluster.controller_owner_ref(&()).ok_or(ValidateError::Missing("uid"))?;
    let name = cluster.metadata.name.clone().ok_or(ValidateError::Missing("name"))?;
    let namespace = cluster.namespace().ok_or(ValidateError::Missing("namespace"))?;
    Ok(ValidatedCluster {
        config_yaml: config_yaml(cluster, &namespace)?,
        name,
        namespace,
        generation: cluster.metadata.generation,
        owner,
        image: cluster.spec.image.clone().unwrap_or_else(|| default_image.to_owned()),
        spec: cluster.spec.clone(),
    })
}

/// The same checks as for a file: a resource as JSON is a YAML document.
fn check_rules(cluster: &MqttCluster) -> Result<(), ValidateError> {
    let text = serde_json::to_string(cluster).map_err(|error| ValidateError::Unreadable(error.to_string()))?;
    match MqttCluster::from_yaml(&text, "resource") {
        Ok(_) => Ok(()),
        Err(ParseError::Invalid(problems)) => Err(ValidateError::Rules(problems.iter().map(plain).collect())),
        Err(other) => Err(ValidateError::Unreadable(other.to_string())),
    }
}

/// Without the line, which means nothing here.
fn plain(problem: &Problem) -> String {
    match problem.path.as_str() {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    }
}

/// The settings of every pod. What differs, its name and its address, comes from its environment: see the pod's builder.
fn config_yaml(cluster: &MqttCluster, namespace: &str) -> Result<String, ValidateError> {
    let wrong = |error: &dyn std::fmt::Display| ValidateError::Rules(vec![error.to_string()]);
    let placement = NodePlacement::pod(cluster, 0, namespace).map_err(|error| wrong(&error))?;
    let config = broker_config(cluster, &placement).map_err(|error| wrong(&error))?;
    let mut json = serde_json::to_value(&config).map_err(|error| wrong(&error))?;
    for (section, own) in [("/node", "name"), ("/cluster/links", "advertise")] {
        if let Some(map) = json.pointer_mut(section).and_then(Json::as_object_mut) {
            map.remove(own);
        }
    }
    // Sorted: the same settings are the same text whatever order the build's JSON maps have.
    json.sort_all_objects();
    let sorted: BTreeMap<String, Json> = serde_json::from_value(json).map_err(|error| wrong(&error))?;
    let yaml = serde_saphyr::to_string(&sorted).map_err(|error| wrong(&error))?;
    Ok(format!("# Written by the operator; change the MqttCluster instead.\n{yaml}"))
}
