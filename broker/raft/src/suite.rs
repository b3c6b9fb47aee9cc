//! openraft's own suite for log stores and state machines, on the real log and store.
#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftLogReader, StorageError};
use raftmq_storage::{GroupId, StateStore, StoreOptions, Wal, WalOptions};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};

use crate::cached::{Cached, DirtyLimit, Make};
use crate::log::LogStore;
use crate::machine::{CachedMachine, MachineError, Persistence, StateBatch, StateKeys, StateMachine};
use crate::snapshot::SnapshotDir;
use crate::state::{MachineStore, Trigger, open_memory, open_stored};
use crate::types::{Command, Entry, LeaderId, LogId, Types};

/// Counts the commands.
struct Count(u64);

impl StateMachine for Count {
    fn apply(&mut self, index: u64, _command: &[u8], out: &mut StateBatch) -> Vec<u8> {
        self.0 += 1;
        out.put(index.to_be_bytes(), self.0.to_be_bytes().to_vec());
        self.0.to_be_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        let bytes = snapshot.try_into().map_err(|_| MachineError::new("not 8 bytes"))?;
        self.0 = u64::from_be_bytes(bytes);
        Ok(())
    }
}

/// The same, kept in memory between flushes.
struct CachedCount {
    keys: StateKeys,
    count: Option<u64>,
}

impl CachedMachine for CachedCount {
    fn apply(&mut self, _index: u64, _command: &Bytes) -> Result<Bytes, MachineError> {
        let before = match self.count {
            Some(count) => count,
            None => self.keys.get(b"count")?.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap())),
        };
        self.count = Some(before + 1);
        Ok(Bytes::copy_from_slice(&(before + 1).to_be_bytes()))
    }

    fn dirty_bytes(&self) -> usize {
        self.count.map_or(0, |_| 8)
    }

    fn flush(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) -> Result<(), MachineError> {
        if let Some(count) = self.count.take() {
            put(b"count", Some(&count.to_be_bytes()));
        }
        Ok(())
    }
}

enum Builder {
    Whole(Persistence),
    /// With so many bytes that may wait.
    Cached(usize),
}

impl StoreBuilder<Types, LogStore, MachineStore, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, MachineStore), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let group = GroupId::new(1, 0);
        let options =
            WalOptions { segment_bytes: 1 << 20, ballast_bytes: 0, min_free_bytes: 0, ..WalOptions::default() };
        let (wal, _) = Wal::open(dir.path().join("wal"), options).unwrap();
        let (alive, _) = mpsc::channel(1);
        let log = LogStore::open(wal, group, 1 << 20, alive.clone()).unwrap();
        let snapshots = SnapshotDir::open(&dir.path().join("snapshots"), group).unwrap();
        let machine = Box::new(Count(0));
        let store = || {
            let store = StateStore::open(dir.path().join("state"), StoreOptions::default()).unwrap();
            store.group(group).unwrap()
        };
        let opened = match self {
            Builder::Whole(Persistence::Memory) => open_memory(machine, &snapshots),
            Builder::Whole(Persistence::Stored) => open_stored(machine, store()),
            Builder::Cached(limit) => {
                let limit = DirtyLimit::new(*limit, usize::MAX, Arc::default());
                let make: Make = Box::new(|keys| Ok(Box::new(CachedCount { keys, count: None })));
                Cached::open(store(), make, limit, alive.clone())
            }
        };
        let Ok((machine, applied)) = opened else {
            panic!("the machine cannot be opened");
        };
        let trigger = Trigger { entries: u64::MAX, bytes: u64::MAX, due: Arc::new(Notify::new()) };
        let machine = MachineStore::new(machine, applied, log.clone(), snapshots, trigger, (0, 0), alive);
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_with_a_machine_in_memory() {
    Suite::test_all(Builder::Whole(Persistence::Memory)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_with_a_stored_machine() {
    Suite::test_all(Builder::Whole(Persistence::Stored)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_with_a_machine_that_keeps_changes_in_memory() {
    for limit in [1, usize::MAX] {
        Suite::test_all(Builder::Cached(limit)).await.unwrap();
    }
}

/// A log, a machine that may keep everything, and what they are made of.
async fn cached() -> (TempDir, LogStore, MachineStore) {
    Builder::Cached(usize::MAX).build().await.unwrap()
}

fn entries(indexes: Range<u64>) -> Vec<Entry> {
    let command = |index| Entry {
        log_id: LogId::new(LeaderId::new(1, 1), index),
        payload: EntryPayload::Normal(Command(Bytes::from_static(b"count"))),
    };
    indexes.map(command).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_gone_is_not_passed_over() {
    let (_dir, mut log, mut machine) = cached().await;
    log.append(entries(0..10), IOFlushed::noop()).await.unwrap();
    log.purge(entries(5..6)[0].log_id).await.unwrap();
    let read: Vec<_> = log.entries_stream(6..10).await.collect().await;
    assert!(read.len() == 4 && read.iter().all(Result::is_ok));
    let read: Vec<_> = log.entries_stream(5..10).await.collect().await;
    assert!(matches!(&read[..], [Err(error)] if error.to_string().contains("entry 5 is not in the log")), "{read:?}");
    let error = machine.catch_up(Some(entries(9..10)[0].log_id)).await.unwrap_err();
    assert!(error.to_string().contains("entry 0 is not in the log"), "{error}");
    let (_dir, mut log, mut machine) = cached().await;
    log.append(entries(0..3), IOFlushed::noop()).await.unwrap();
    assert!(machine.catch_up(Some(entries(3..4)[0].log_id)).await.is_err(), "it ends before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_not_written_before_the_log_that_made_it() {
    let (dir, log, mut machine) = cached().await;
    let stored = || {
        let (dir, state) = (tempfile::tempdir().unwrap(), dir.path().join("state"));
        let copied = std::process::Command::new("cp").arg("-r").arg(state).arg(dir.path()).status().unwrap();
        assert!(copied.success());
        let store = StateStore::open(dir.path().join("state"), StoreOptions::default()).unwrap();
        store.group(GroupId::new(1, 0)).unwrap().applied().unwrap().is_some()
    };
    // The log's thread is held up.
    let (hold, held) = std::sync::mpsc::channel::<()>();
    log.hold(held);
    machine.apply(stream::iter(entries(0..3).into_iter().map(|entry| Ok((entry, None))))).await.unwrap();
    {
        let mut flush = std::pin::pin!(machine.flush());
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut flush).await.is_err());
        assert!(!stored());
        drop(hold);
        flush.await.unwrap();
    }
    assert!(stored());
}

#[test]
fn what_all_groups_may_keep_is_shared() {
    let groups = Arc::default();
    let first = DirtyLimit::new(1000, 2400, Arc::clone(&groups));
    assert_eq!(first.bytes(), 1000);
    let others: Vec<_> = (0..3).map(|_| DirtyLimit::new(1000, 2400, Arc::clone(&groups))).collect();
    assert_eq!(first.bytes(), 600);
    drop(others);
    assert_eq!(first.bytes(), 1000);
}
