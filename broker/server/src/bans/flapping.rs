//! Clients that connect too often are banned for a while, after EMQX's flapping detection.
//!
//! Workers count CONNECT packets and put who is over into a bounded queue; one task proposes bans for them, many in one entry of
//! the log and few entries a second, so that flapping clients cannot flood it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raftmq_config::Flapping;
use raftmq_features::flapping::FlapCounter;
use raftmq_meta::{Ban, BanOrigin, BanTarget, MAX_BATCH};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Bans, unix_ms};

/// Clients that wait for their bans; more are found again when they come again.
const WAITING: usize = 1024;
/// Pause after each proposal.
const PAUSE: Duration = Duration::from_millis(250);

/// The node's count of CONNECT packets, for all workers.
pub(crate) struct FlapWatch {
    counter: Mutex<FlapCounter>,
    over: Sender<Arc<str>>,
}

impl FlapWatch {
    /// `None` where it is switched off. The other end is for [`propose`].
    pub(crate) fn new(settings: &Flapping) -> Option<(Self, Receiver<Arc<str>>)> {
        if !settings.enable {
            return None;
        }
        let (over, waiting) = channel(WAITING);
        let counter = FlapCounter::new(settings.max_count, settings.window.as_millis());
        Some((Self { counter: Mutex::new(counter), over }, waiting))
    }

    /// A client has sent CONNECT.
    pub(crate) fn connected(&self, client: &Arc<str>, now_ms: u64) {
        let over = self.counter.lock().unwrap_or_else(PoisonError::into_inner).count(client, now_ms);
        if over {
            // A full queue: it is counted again.
            let _ = self.over.try_send(Arc::clone(client));
        }
    }
}

/// Bans who is over, for as long as the node runs.
pub(crate) async fn propose(bans: Arc<Bans>, node: String, ban_time: Duration, mut over: Receiver<Arc<str>>) {
    let mut clients: Vec<Arc<str>> = Vec::new();
    while over.recv_many(&mut clients, MAX_BATCH).await > 0 {
        clients.sort_unstable();
        clients.dedup();
        let since_ms = unix_ms();
        let until_ms = since_ms.saturating_add(u64::try_from(ban_time.as_millis()).unwrap_or(u64::MAX));
        let found = clients.iter().map(|client| Ban {
            target: BanTarget::ClientId(client.to_string()),
            reason: "flapping".into(),
            by: format!("node {node}"),
            origin: BanOrigin::Flapping,
            since_ms,
            until_ms: Some(until_ms),
        });
        let count = clients.len() as u64;
        match bans.add(found.collect()).await {
            Ok(()) => {
                bans.counters.flapping_banned.fetch_add(count, Relaxed);
                tracing::warn!(clients = ?clients, seconds = ban_time.as_secs(), "flapping clients are banned");
            }
            Err(error) => {
                bans.counters.flapping_failed.fetch_add(count, Relaxed);
                tracing::warn!(%error, clients = count, "flapping clients could not be banned");
            }
        }
        clients.clear();
        tokio::time::sleep(PAUSE).await;
    }
}
