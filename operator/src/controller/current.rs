//! Whether what was decided still counts. Asked of the API server before anything is written, and again right before somebody is stopped: asking the
//! brokers takes its time.

use kube::api::Api;
use kube::{Resource, ResourceExt};
use raftmq_crds::MqttCluster;

use super::{Context, ReconcileError};

/// Whether the MqttCluster still says what the draft was made from, its watch lags as all others do, and whether this operator is
/// still the one that acts.
pub(super) async fn is_current(cluster: &MqttCluster, context: &Context) -> Result<bool, ReconcileError> {
    let lease = async {
        let Some(claim) = &context.claim else { return Ok(true) };
        claim.is_held().await.map_err(|error| ReconcileError::ReadLease(Box::new(error)))
    };
    let (same, held) = futures::try_join!(is_same(cluster, context), lease)?;
    if !held {
        tracing::warn!("another operator acts; nothing is done");
    }
    Ok(same && held)
}

async fn is_same(cluster: &MqttCluster, context: &Context) -> Result<bool, ReconcileError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<MqttCluster> = Api::namespaced(context.client.clone(), &namespace);
    let live = api.get_metadata_opt(&cluster.name_any()).await;
    let live = live.map_err(|error| ReconcileError::ReadCluster(Box::new(error)))?;
    Ok(live.is_some_and(|live| {
        let (live, known) = (live.meta(), cluster.meta());
        live.uid == known.uid && live.generation == known.generation && live.deletion_timestamp.is_none()
    }))
}
