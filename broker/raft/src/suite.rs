//! openraft's own suite for log stores and state machines, on the real log and store.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use raftmq_storage::{GroupId, StateStore, StoreOptions, Wal, WalOptions};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};

use crate::log::LogStore;
use crate::machine::{MachineError, Persistence, StateBatch, StateMachine};
use crate::snapshot::SnapshotDir;
use crate::state::{MachineStore, Place, Trigger};
use crate::types::Types;

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

struct Builder(Persistence);

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
        let place = match self.0 {
            Persistence::Memory => Place::Memory(snapshots),
            Persistence::Stored => {
                let store = StateStore::open(dir.path().join("state"), StoreOptions::default()).unwrap();
                Place::Stored(store.group(group).unwrap(), snapshots)
            }
        };
        let trigger = Trigger { entries: u64::MAX, bytes: u64::MAX, due: Arc::new(Notify::new()) };
        let Ok(machine) = MachineStore::open(Box::new(Count(0)), place, trigger, (0, 0), alive) else {
            panic!("the machine cannot be opened");
        };
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_with_a_machine_in_memory() {
    Suite::test_all(Builder(Persistence::Memory)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_with_a_stored_machine() {
    Suite::test_all(Builder(Persistence::Stored)).await.unwrap();
}
