//! The zone of this node, which meta's table has beside the members: told at a start, where it is another one than before.

use std::sync::Arc;
use std::time::Duration;

use raftmq_meta::{MetaCommand, MetaResponse, MetaState, SHARDS_LEVEL};
use tracing::{debug, info};

use crate::member::propose;
use crate::node::{CALL, Node, Running};

/// Between two tries of what was not taken.
const AGAIN: Duration = Duration::from_secs(5);

/// Tells it once. Nothing waits for it for long: a cluster works without.
pub(crate) async fn tell(node: &Node, running: &Running) {
    let Some(command) = untold(&node.meta_state(), running.id, &node.config.zone) else { return };
    match tokio::time::timeout(CALL, propose(&running.meta, &command)).await {
        Ok(Ok(MetaResponse::Done)) => info!(zone = node.config.zone, "the cluster knows the node's zone"),
        Ok(Ok(other)) => debug!(?other, "telling the zone"),
        Ok(Err(error)) => debug!(error, "telling the zone"),
        Err(_) => debug!("telling the zone: no answer"),
    }
}

/// Tells it as soon as all members know zones, and again should the cluster have another one.
pub(crate) async fn keep_told(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    // A directory that was copied, or is stale, tells nothing.
    if running.booted.subscribe().wait_for(|booted| *booted).await.is_err() {
        return;
    }
    let mut state = node.meta.subscribe();
    loop {
        let now = Arc::clone(&state.borrow_and_update());
        let pause = match untold(&now, running.id, &node.config.zone) {
            Some(_) => {
                tell(&node, running).await;
                AGAIN
            }
            None => Duration::MAX,
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What the cluster has to be told. Members of an older version would not apply it.
fn untold(state: &MetaState, id: u64, zone: &str) -> Option<MetaCommand> {
    let taken = state.feature_level >= SHARDS_LEVEL && state.members.contains_key(&id);
    (taken && state.shards.zone(id) != zone).then(|| MetaCommand::Zone { id, zone: zone.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use raftmq_meta::{InitialMember, NodeAddresses};

    use super::*;

    #[test]
    fn a_zone_is_told_where_it_is_another_one_and_all_members_know_zones() {
        let mut state = MetaState::default();
        let addresses = NodeAddresses { link: "a:1".into(), control: String::new() };
        let member = InitialMember {
            id: 1,
            name: "a".into(),
            incarnation: 1,
            boot: 1,
            nonce: 1,
            addresses,
            version: String::new(),
            feature_level: SHARDS_LEVEL,
        };
        state.apply(MetaCommand::Init { cluster_id: 1, name: "c".into(), members: vec![member] });
        assert_eq!(untold(&state, 1, "x"), None, "below the level");
        state.apply(MetaCommand::FeatureLevel { level: SHARDS_LEVEL });
        assert_eq!(untold(&state, 1, ""), None);
        assert_eq!(untold(&state, 2, "x"), None, "no member");
        let command = untold(&state, 1, "x").unwrap();
        assert_eq!(state.apply(command), MetaResponse::Done);
        assert_eq!(state.shards.zone(1), "x");
        assert_eq!(untold(&state, 1, "x"), None);
        // Moved, or without a zone from now on.
        assert!(untold(&state, 1, "y").is_some());
        state.apply(untold(&state, 1, "").unwrap());
        assert_eq!(state.shards.zone(1), "");
    }
}
