//! How the nodes of a cluster find each other: static, DNS, Kubernetes.
//!
//! [`Discovery`] runs one [`Strategy`] as a task and publishes the latest [`PeerSet`] on a
//! [`watch`] channel. The set is a *hint* about whom to ask, never a statement about who is a
//! member: that is kept in the meta group. Hence
//!
//! - a failed look-up keeps the last good set, is counted, and is tried again with a growing delay;
//! - "no such name" is an answer (an empty set), not a failure: the first node of a cluster asks
//!   before any record exists;
//! - the set may contain the node that asks. Who connects finds out from the other's hello.
//!
//! [`Resolver`] is what a node's links use to turn `host:port` into socket addresses. It is the same
//! pure-Rust resolver that the DNS strategy uses, because a static binary in an empty image has no
//! working `getaddrinfo`.

mod address;
mod config;
mod dns;
mod kubernetes;
mod peers;
mod resolver;
mod settings;

pub use address::{AddressError, HostPort};
pub use peers::{Failure, Peer, PeerSet};
pub use resolver::{ResolveError, Resolver};
pub use settings::{DiscoverySettings, DnsRecords, DnsSettings, KubernetesSettings, SettingsError, Strategy};

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use peers::Publisher;

/// Most peers that a set holds; more are cut off with a warning. A cluster has tens of nodes: a longer
/// list is a wrong name or somebody else's zone.
pub const MAX_PEERS: usize = 1000;

/// A running search for peers. Dropping it ends the search.
#[derive(Debug)]
pub struct Discovery {
    peers: watch::Receiver<Arc<PeerSet>>,
    refresh: Arc<Notify>,
    task: Option<JoinHandle<()>>,
}

impl Discovery {
    /// Starts the search that the broker's configuration asks for. See [`Discovery::start`].
    ///
    /// # Errors
    ///
    /// As [`Discovery::start`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn from_config(config: &raftmq_config::Discovery) -> Result<Self, SettingsError> {
        Self::start(DiscoverySettings::try_from(config)?)
    }

    /// Checks the settings and starts the search on the current tokio runtime.
    ///
    /// Returns at once; the first result arrives on [`Discovery::peers`]. With
    /// [`Strategy::Static`] it is there already.
    ///
    /// # Errors
    ///
    /// A setting that can never work, such as a peer without a port. What may heal by itself (no name server, no
    /// Kubernetes API) is no error here: it is retried and shows in [`PeerSet::last_failure`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(settings: DiscoverySettings) -> Result<Self, SettingsError> {
        settings.check()?;
        let (publisher, peers) = Publisher::new();
        let refresh = Arc::new(Notify::new());
        let task = match settings.strategy {
            Strategy::Static { peers } => {
                let peers = peers.iter().map(|address| Peer { address: address.trim().to_owned(), node: None });
                publisher.succeeded(peers.collect());
                // The sender lives as long as the search, so that a receiver's `changed()` waits
                // instead of failing.
                tokio::spawn(async move { publisher.closed().await })
            }
            Strategy::Dns(dns) => tokio::spawn(dns::run(dns, settings.refresh, publisher, Arc::clone(&refresh))),
            Strategy::Kubernetes(kubernetes) => {
                tokio::spawn(kubernetes::run(kubernetes, publisher, Arc::clone(&refresh)))
            }
        };
        Ok(Self { peers, refresh, task: Some(task) })
    }

    /// The latest set, and a notification when its peers change or its search starts or stops failing.
    /// (A refresh that finds the same is visible in the set but wakes nobody.)
    #[must_use]
    pub fn peers(&self) -> watch::Receiver<Arc<PeerSet>> {
        self.peers.clone()
    }

    /// Looks again now instead of at the next interval, for a node that could reach none of the peers it knows.
    /// Has no effect on a Kubernetes watch that runs (it is up to date) or on static peers.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
