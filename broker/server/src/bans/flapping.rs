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
/// Most client identifiers in a line of the log, and most characters of each.
const SHOWN: usize = 8;
const SHOWN_CHARS: usize = 40;

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
            Ok(left_out) => {
                let left_out = count.min(left_out as u64);
                bans.counters.flapping_banned.fetch_add(count - left_out, Relaxed);
                bans.counters.flapping_failed.fetch_add(left_out, Relaxed);
                tracing::warn!(
                    clients = shown(&clients),
                    left_out,
                    seconds = ban_time.as_secs(),
                    "flapping clients are banned"
                );
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

/// For the log, where it takes no more than a few hundred bytes.
fn shown(clients: &[Arc<str>]) -> String {
    let clipped = |client: &Arc<str>| {
        let text: String = client.chars().take(SHOWN_CHARS).collect();
        let rest = if text.len() < client.len() { "…" } else { "" };
        format!("{text:?}{rest}")
    };
    let mut text = clients.iter().take(SHOWN).map(clipped).collect::<Vec<_>>().join(", ");
    if clients.len() > SHOWN {
        text += &format!(" and {} more", clients.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use raftmq_meta::MAX_BANS;

    use super::*;

    #[test]
    fn a_line_of_the_log_is_short_whatever_clients_call_themselves() {
        let client = |text: &str| Arc::<str>::from(text);
        assert_eq!(shown(&[client("a"), client("ü\n")]), r#""a", "ü\n""#);
        let long = client(&"ü".repeat(30_000));
        let line = shown(&vec![long; MAX_BATCH]);
        assert!(line.ends_with(&format!("\"{}\"… and {} more", "ü".repeat(SHOWN_CHARS), MAX_BATCH - SHOWN)), "{line}");
        assert!(line.len() < 1000, "{}", line.len());
    }

    #[tokio::test]
    async fn who_had_no_room_is_not_counted_as_banned() {
        let bans = Bans::none();
        let of = |id: String| Ban {
            target: BanTarget::ClientId(id),
            reason: String::new(),
            by: String::new(),
            origin: BanOrigin::Flapping,
            since_ms: 0,
            until_ms: None,
        };
        let before: Vec<Ban> = (1..MAX_BANS / 2).map(|n| of(n.to_string())).collect();
        for batch in before.chunks(MAX_BATCH) {
            bans.add(batch.to_vec()).await.unwrap();
        }
        let (over, waiting) = channel(WAITING);
        for client in ["a", "b", "c"] {
            over.try_send(client.into()).unwrap();
        }
        drop(over);
        propose(Arc::clone(&bans), "n".into(), Duration::from_secs(60), waiting).await;
        assert_eq!(bans.list().len(), MAX_BANS / 2);
        let counters = &bans.counters;
        assert_eq!((counters.flapping_banned.load(Relaxed), counters.flapping_failed.load(Relaxed)), (1, 2));
    }
}
