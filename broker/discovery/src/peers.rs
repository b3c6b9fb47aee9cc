//! The published result of a search.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::MAX_PEERS;

/// Somebody who may be a node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// `host:port` of the node's links, to be resolved at each dial.
    pub address: String,
    /// The node's name where the source knows it (Kubernetes: the pod's host name).
    pub node: Option<String>,
}

/// The last failed look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When it failed, for people.
    pub at: SystemTime,
    /// What failed and why.
    pub message: String,
}

/// What the latest successful look-up found, and how the search is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerSet {
    /// Sorted by address, no address twice, at most [`MAX_PEERS`]. Kept from the last success while look-ups fail.
    pub peers: Vec<Peer>,
    /// When `peers` was last found or confirmed; `None` before the first success.
    pub refreshed_at: Option<SystemTime>,
    /// Successful look-ups since the start.
    pub refreshes: u64,
    /// Failed look-ups since the start.
    pub failures: u64,
    /// Failed look-ups since the last success: 0 means that `peers` is current.
    pub failing: u64,
    /// The last failure, also when look-ups succeeded since.
    pub last_failure: Option<Failure>,
}

impl PeerSet {
    /// The addresses of the peers.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.peers.iter().map(|peer| peer.address.as_str())
    }
}

/// The writing end.
pub(crate) struct Publisher {
    sender: watch::Sender<Arc<PeerSet>>,
}

impl Publisher {
    pub(crate) fn new() -> (Self, watch::Receiver<Arc<PeerSet>>) {
        let (sender, receiver) = watch::channel(Arc::new(PeerSet::default()));
        (Self { sender }, receiver)
    }

    /// Waits until nobody listens any more.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    pub(crate) fn succeeded(&self, mut found: Vec<Peer>) {
        found.sort();
        found.dedup_by(|later, earlier| {
            // `None` sorts first: keep the address, take over the name.
            let same = later.address == earlier.address;
            if same && earlier.node.is_none() {
                earlier.node = later.node.take();
            }
            same
        });
        if found.len() > MAX_PEERS {
            warn!(found = found.len(), kept = MAX_PEERS, "discovery found more peers than any cluster has");
            found.truncate(MAX_PEERS);
        }
        self.sender.send_if_modified(|current| {
            let first = current.refreshed_at.is_none();
            let changed = first || current.peers != found;
            let healed = current.failing > 0;
            if changed || healed {
                info!(
                    peers = ?found.iter().map(|peer| peer.address.as_str()).collect::<Vec<_>>(),
                    "discovery found peers"
                );
            }
            let next = Arc::make_mut(current);
            if changed {
                next.peers = found;
            }
            next.refreshed_at = Some(SystemTime::now());
            next.refreshes += 1;
            next.failing = 0;
            changed || healed
        });
    }

    pub(crate) fn failed(&self, message: String) {
        self.sender.send_if_modified(|current| {
            let next = Arc::make_mut(current);
            let news = next.failing == 0 || next.last_failure.as_ref().is_none_or(|last| last.message != message);
            if news {
                warn!(error = %message, kept = next.peers.len(), "discovery failed, the peers found before are kept");
            }
            next.failures += 1;
            next.failing += 1;
            next.last_failure = Some(Failure { at: SystemTime::now(), message });
            news
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn peer(address: &str, node: Option<&str>) -> Peer {
        Peer { address: address.to_owned(), node: node.map(str::to_owned) }
    }

    #[test]
    fn a_set_is_sorted_and_has_no_address_twice() {
        let (publisher, receiver) = Publisher::new();
        publisher.succeeded(vec![peer("b:1", None), peer("a:1", None), peer("b:1", Some("b"))]);
        assert_eq!(receiver.borrow().peers, [peer("a:1", None), peer("b:1", Some("b"))]);
    }

    #[test]
    fn a_failure_keeps_the_peers_and_only_news_wakes() {
        let (publisher, mut receiver) = Publisher::new();
        publisher.succeeded(vec![peer("a:1", None)]);
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();

        publisher.succeeded(vec![peer("a:1", None)]);
        assert!(!receiver.has_changed().unwrap());
        assert_eq!(receiver.borrow().refreshes, 2);

        publisher.failed("no answer".to_owned());
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();
        publisher.failed("no answer".to_owned());
        assert!(!receiver.has_changed().unwrap());
        {
            let set = receiver.borrow();
            assert_eq!(set.peers, [peer("a:1", None)]);
            assert_eq!((set.failures, set.failing), (2, 2));
            assert_eq!(set.last_failure.as_ref().unwrap().message, "no answer");
        }

        publisher.succeeded(vec![peer("a:1", None)]);
        assert!(receiver.has_changed().unwrap(), "that it works again is news");
        let set = receiver.borrow();
        assert_eq!((set.failures, set.failing), (2, 0));
        assert!(set.last_failure.is_some());
    }

    #[test]
    fn a_set_is_bounded() {
        let (publisher, receiver) = Publisher::new();
        publisher.succeeded((0..MAX_PEERS + 5).map(|n| peer(&format!("n{n}:1"), None)).collect());
        assert_eq!(receiver.borrow().peers.len(), MAX_PEERS);
    }
}
