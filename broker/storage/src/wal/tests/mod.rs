//! Tests of the log as a whole.
#![allow(clippy::unwrap_used)]

mod basic;
mod damage;
mod faults;
mod model;
mod sim;

use std::{
    collections::BTreeMap,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{format::PAGE, *};

/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(30);
pub(super) const G1: GroupId = GroupId::new(1, 0);
pub(super) const G2: GroupId = GroupId::new(2, 0);

/// Small segments, so that little data makes many; no demands on the disk's free space.
pub(super) fn small() -> WalOptions {
    WalOptions {
        segment_bytes: 8 * PAGE,
        max_segments: 4,
        ballast_bytes: 0,
        min_free_bytes: 0,
        cache_bytes: 4096,
        ..WalOptions::default()
    }
}

/// A callback, and where its result arrives.
pub(super) fn done() -> (Callback, mpsc::Receiver<Result<(), WalError>>) {
    let (sender, receiver) = mpsc::channel();
    let done = move |result| {
        let _ = sender.send(result);
    };
    (Box::new(done), receiver)
}

pub(super) fn entry(index: u64, data: impl Into<Bytes>) -> LogEntry {
    LogEntry { index, data: data.into() }
}

impl Wal {
    /// Appends and waits until it is on the disk.
    fn append_now(&self, group: GroupId, entries: Vec<LogEntry>) -> Result<(), WalError> {
        let (done, result) = done();
        self.try_append(group, entries, done)?;
        result.recv_timeout(DEADLINE).unwrap()
    }

    fn vote_now(&self, group: GroupId, vote: &'static str) -> Result<(), WalError> {
        let (done, result) = done();
        self.save_vote(group, vote.into(), done)?;
        result.recv_timeout(DEADLINE).unwrap()
    }

    fn sync_now(&self) -> Result<(), WalError> {
        let (done, result) = done();
        self.barrier(done)?;
        result.recv_timeout(DEADLINE).unwrap()
    }

    /// What is counted by segment is what the index says; to be asked when nothing waits.
    fn check_usages(&self) {
        let state = self.shared().lock();
        let mut counted = index::Usages::default();
        index::count(&state.groups, &mut counted);
        assert_eq!(state.usages.counts(), counted.counts());
    }

    fn all(&self, group: GroupId) -> Vec<LogEntry> {
        self.read(group, 0..=u64::MAX).unwrap()
    }
}

/// Waits for a condition, with a deadline.
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "not within the deadline: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
