//! What the tests share.
#![allow(dead_code, unused_imports)]

pub(crate) mod dns_server;

use std::sync::Arc;
use std::time::Duration;

use raftmq_discovery::PeerSet;
use tokio::sync::watch;

/// Waits until the set fulfils the condition, 20 s at most.
pub(crate) async fn wait_for(
    peers: &mut watch::Receiver<Arc<PeerSet>>,
    what: &str,
    condition: impl FnMut(&Arc<PeerSet>) -> bool,
) -> Arc<PeerSet> {
    let waited =
        tokio::time::timeout(Duration::from_secs(20), async { Arc::clone(&peers.wait_for(condition).await.unwrap()) })
            .await;
    match waited {
        Ok(set) => set,
        Err(_) => panic!("never came: {what}; last seen: {:?}", peers.borrow()),
    }
}

pub(crate) fn addresses(set: &PeerSet) -> Vec<&str> {
    set.addresses().collect()
}
