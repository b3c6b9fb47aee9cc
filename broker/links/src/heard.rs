//! When something was last heard from each peer by the connection of its one-way frames. No I/O.
//!
//! The side that sends pings, so where nothing is heard for longer than that takes, frames may be on their way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ahash::AHashMap;

use crate::shared::lock;

/// Peers that are remembered, by their data directories. Of more the one that was silent for longest is forgotten.
const MAX_PEERS: usize = 4096;

/// All peers that have ever sent one-way frames.
#[derive(Debug)]
pub(crate) struct Heard {
    since: Instant,
    peers: Mutex<AHashMap<u128, Arc<AtomicU64>>>,
}

/// Of one connection.
#[derive(Debug)]
pub(crate) struct Ear {
    since: Instant,
    /// Milliseconds.
    at: Arc<AtomicU64>,
}

impl Ear {
    /// Something was heard.
    pub(crate) fn heard(&self) {
        self.at.store(millis(self.since.elapsed()), Ordering::Relaxed);
    }
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), peers: Mutex::default() }
    }

    /// A peer has opened a connection for its one-way frames.
    pub(crate) fn open(&self, incarnation: u128) -> Ear {
        let mut peers = lock(&self.peers);
        if peers.len() >= MAX_PEERS && !peers.contains_key(&incarnation) {
            let oldest = peers.iter().min_by_key(|(_, at)| at.load(Ordering::Relaxed)).map(|(peer, _)| *peer);
            oldest.into_iter().for_each(|oldest| drop(peers.remove(&oldest)));
        }
        let ear = Ear { since: self.since, at: Arc::clone(peers.entry(incarnation).or_default()) };
        ear.heard();
        ear
    }

    /// The peers that were heard once, and not within this time.
    pub(crate) fn silent(&self, within: Duration) -> Vec<u128> {
        let limit = self.since.elapsed().saturating_sub(within);
        let peers = lock(&self.peers);
        let silent = peers.iter().filter(|(_, at)| at.load(Ordering::Relaxed) < millis(limit));
        silent.map(|(peer, _)| *peer).collect()
    }
}

fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_heard_once_and_is_silent() {
        let heard = Heard { since: Instant::now() - Duration::from_secs(10), peers: Mutex::default() };
        assert!(heard.silent(Duration::ZERO).is_empty());
        let (one, two) = (heard.open(1), heard.open(2));
        assert!(heard.silent(Duration::from_secs(5)).is_empty());
        one.at.store(1_000, Ordering::Relaxed);
        assert_eq!(heard.silent(Duration::from_secs(5)), [1]);
        assert!(heard.silent(Duration::from_secs(60)).is_empty());
        one.heard();
        two.at.store(0, Ordering::Relaxed);
        assert_eq!(heard.silent(Duration::from_secs(5)), [2]);
        // By another connection.
        drop(two);
        let _again = heard.open(2);
        assert!(heard.silent(Duration::from_secs(5)).is_empty());
    }

    #[test]
    fn bounded() {
        let heard = Heard { since: Instant::now() - Duration::from_secs(10), peers: Mutex::default() };
        for peer in 0..MAX_PEERS as u128 {
            heard.open(peer).at.store(5, Ordering::Relaxed);
        }
        heard.open(7).at.store(1, Ordering::Relaxed);
        let _new = heard.open(u128::MAX);
        let peers = lock(&heard.peers);
        assert!(peers.len() == MAX_PEERS && !peers.contains_key(&7) && peers.contains_key(&u128::MAX));
    }
}
