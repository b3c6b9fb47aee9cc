//! Whose something is that is there under a name of a cluster's.

use serde_json::{Value as Json, json};

use super::apply::ApplyError;
use super::dereference::Observed;
use crate::build::{OwnedKind, ValidatedCluster, labels};

/// Whether the cluster with this uid may write it.
///
/// # Errors
/// [`ApplyError::Taken`]: somebody else made it.
pub fn check(kind: OwnedKind, name: &str, live: &Json, uid: &str) -> Result<(), ApplyError> {
    let taken = |owner: String| ApplyError::Taken { kind: kind.api_resource().kind, name: name.to_owned(), owner };
    let controllers = live["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    match controllers.into_iter().find(|owner| owner["controller"] == json!(true)) {
        Some(owner) if owner["uid"] == json!(uid) => Ok(()),
        Some(owner) => {
            let text = |field: &str| owner[field].as_str().unwrap_or("?").to_owned();
            Err(taken(format!("belongs to the {} {} (uid {})", text("kind"), text("name"), text("uid"))))
        }
        None if live["metadata"]["labels"][labels::MANAGED_BY] == json!(labels::MANAGED_BY_VALUE) => Ok(()),
        // People put them back from a backup.
        None if kind == OwnedKind::Secret => Ok(()),
        None => Err(taken("was not made by the operator".into())),
    }
}

/// Whether what decisions rest on, the StatefulSet and the certificates, is the cluster's own: those of one of its name that was
/// deleted are there until Kubernetes has taken them away, one after the other.
///
/// # Errors
/// [`ApplyError::Taken`].
pub fn check_observed(observed: &Observed, cluster: &ValidatedCluster) -> Result<(), ApplyError> {
    let uid = &cluster.owner.uid;
    if let Some(set) = observed.objects.get(&(OwnedKind::StatefulSet, cluster.name.clone())) {
        check(OwnedKind::StatefulSet, &cluster.name, set, uid)?;
    }
    let secrets = &observed.secrets;
    for (suffix, secret) in [("ca", &secrets.ca), ("nodes", &secrets.nodes), ("control", &secrets.control)] {
        if let Some(secret) = secret {
            let metadata = json!({"metadata": secret.metadata});
            check(OwnedKind::Secret, &format!("{}-{suffix}", cluster.name), &metadata, uid)?;
        }
    }
    Ok(())
}
