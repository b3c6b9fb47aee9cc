//! Who may not connect, on this node: the list that the meta group (or a standalone node's file) holds, for the workers.
//!
//! `meta state → changes → an index, made once for all workers → each worker closes whom it has and refuses who comes`.
//! A worker looks a client up at its CONNECT and its address when the connection comes; no message is looked up.

mod flapping;
mod local;
mod numbers;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use raftmq_cluster::{Cluster, ControlError};
use raftmq_meta::{Ban, BanIndex, BanList, BanTarget};
use tokio::sync::watch;

pub(crate) use flapping::{FlapWatch, propose};
use local::LocalBans;
pub(crate) use numbers::{BanCounters, report};

/// Changes that come within this time are one for the workers.
const COLLECT: Duration = Duration::from_millis(50);
/// Refusals that are logged in a second; the others are counted only.
const LOGGED_A_SECOND: u64 = 10;

/// What the workers hold clients against.
#[derive(Default)]
pub(crate) struct InForce {
    /// Counts the changes.
    pub(crate) number: u64,
    /// All bans.
    pub(crate) all: BanIndex,
    /// Those that the change before this number did not have: for connections that are open.
    pub(crate) fresh: BanIndex,
}

/// The node's bans.
pub(crate) struct Bans {
    source: Source,
    in_force: watch::Sender<Arc<InForce>>,
    /// What became of clients by them.
    pub(crate) counters: BanCounters,
    logged: AtomicU64,
}

enum Source {
    Cluster(Cluster),
    Local(LocalBans),
}

impl Bans {
    /// Those of the cluster that the node is a member of.
    pub(crate) fn of_cluster(cluster: Cluster) -> Arc<Self> {
        let meta = cluster.meta();
        let bans = Self::new(Source::Cluster(cluster));
        let lists = meta.clone();
        bans.follow(meta, move || lists.borrow().bans.clone());
        bans
    }

    /// Those of a standalone node, which keeps them in a file of its data directory.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(crate) fn of_node(data_dir: &Path) -> std::io::Result<Arc<Self>> {
        let local = LocalBans::open(data_dir)?;
        let list = local.subscribe();
        let bans = Self::new(Source::Local(local));
        let lists = list.clone();
        bans.follow(list, move || (*lists.borrow()).clone());
        local::end_those_over(&bans);
        Ok(bans)
    }

    #[cfg(test)]
    pub(crate) fn none() -> Arc<Self> {
        Self::new(Source::Local(LocalBans::in_memory()))
    }

    /// Has the workers hold clients against these from now on.
    #[cfg(test)]
    pub(crate) fn in_force(&self, bans: Vec<Ban>) {
        self.publish(&bans.into_iter().collect(), &BanList::default());
    }

    fn new(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            in_force: watch::Sender::default(),
            counters: BanCounters::default(),
            logged: AtomicU64::new(0),
        })
    }

    /// Keeps what the workers have as it is in the list.
    fn follow<T: Send + Sync + 'static>(
        self: &Arc<Self>,
        mut changes: watch::Receiver<T>,
        list: impl Fn() -> BanList + Send + 'static,
    ) {
        let mut known = list();
        self.publish(&known, &BanList::default());
        let bans = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let Some(bans) = bans.upgrade() else {
                    return;
                };
                let now = list();
                if now != known {
                    bans.publish(&now, &known);
                    known = now;
                    tokio::time::sleep(COLLECT).await;
                    continue;
                }
                drop(bans);
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn publish(&self, now: &BanList, before: &BanList) {
        if now.is_empty() && before.is_empty() {
            return;
        }
        let number = self.in_force.borrow().number + 1;
        let fresh = now.iter().filter(|ban| before.get(&ban.target).is_none());
        let fresh = BanIndex::new(fresh);
        self.in_force.send_replace(Arc::new(InForce { number, all: BanIndex::new(now.iter()), fresh }));
    }

    /// What the workers hold clients against, and its changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<InForce>> {
        self.in_force.subscribe()
    }

    /// All bans.
    pub(crate) fn list(&self) -> BanList {
        match &self.source {
            Source::Cluster(cluster) => cluster.meta().borrow().bans.clone(),
            Source::Local(local) => local.list(),
        }
    }

    /// Bans clients, on all nodes. Says for how many there was no room; an error if that is all of them.
    pub(crate) async fn add(&self, bans: Vec<Ban>) -> Result<usize, ControlError> {
        match &self.source {
            Source::Cluster(cluster) => cluster.control().ban(bans).await,
            Source::Local(local) => local.change(|list| local::added(list, bans)).await,
        }
    }

    /// Ends a ban, on all nodes.
    pub(crate) async fn remove(&self, target: BanTarget) -> Result<(), ControlError> {
        match &self.source {
            Source::Cluster(cluster) => cluster.control().unban(target).await,
            Source::Local(local) => local.change(|list| local::removed(list, &target)).await,
        }
    }

    /// Whether one more refusal may be logged: a banned client that does not give up must not fill the log.
    pub(crate) fn may_log(&self) -> bool {
        let second = unix_ms() / 1000;
        let fits = |word: u64| match (word >> 8 == second & (u64::MAX >> 8), word & 0xff) {
            (false, _) => Some(second << 8 | 1),
            (true, count) if count < LOGGED_A_SECOND => Some(word + 1),
            (true, _) => None,
        };
        self.logged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

/// The wall clock.
pub(crate) fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}
