//! All groups of a node.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftLogStorage;
use raftmq_storage::{GroupId, StateStore, Wal};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::NodeId;
use crate::bundle::{Bundles, Urgent};
use crate::cached::{Cached, DirtyLimit, Make};
use crate::calls::Counters;
use crate::error::{RemoveError, StartError};
use crate::group::{Group, Started};
use crate::incoming::Incoming;
use crate::log::{LogStore, blocking};
use crate::machine::{CachedMachine, MachineError, Persistence, StateKeys, StateMachine};
use crate::network::{Network, Sender};
use crate::options::{OptionsError, RaftOptions};
use crate::removal::Disk;
use crate::snapshot::SnapshotDir;
use crate::state::{MachineStore, OpenError, Trigger, open_memory, open_stored};
use crate::transport::Transport;
use crate::types::Raft;

/// All groups of a node, and what they share. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) sender: Arc<Sender>,
    disk: Disk,
    /// Held while tombstones are looked at: what one began to remove is not what another one has just made.
    tombstones: tokio::sync::Mutex<()>,
    /// By number: one generation of a group runs at a time. `None` while one is being started.
    running: Mutex<HashMap<u32, Option<Group>>>,
    /// How many of them have a machine that keeps changes in memory.
    cached: Arc<AtomicUsize>,
    pub(crate) incoming: Incoming,
    pub(crate) counters: Counters,
}

/// What ran in the place of a group that is to be removed.
enum TakenOut {
    Nothing,
    Replica(Group),
    /// Something that is being started or removed.
    Busy,
    /// Another generation, which stays, and keeps this one from being started.
    Other,
}

/// A machine that is to be started, and how it is kept.
enum Kept {
    Whole(Persistence, Box<dyn StateMachine>),
    Cached(Make),
}

impl Groups {
    /// What all groups of node `node` in cluster `cluster` share. `directory` holds the snapshots' files; it is made if it is
    /// not there.
    ///
    /// # Errors
    /// The options contradict each other.
    pub fn new(
        node: NodeId,
        cluster: u128,
        directory: impl Into<PathBuf>,
        wal: Wal,
        store: StateStore,
        transport: Arc<dyn Transport>,
        options: RaftOptions,
    ) -> Result<Self, OptionsError> {
        options.config(String::new())?;
        let transfers = Semaphore::new(options.snapshot_transfers);
        let incoming = Incoming::new(options.snapshot_transfers, options.max_snapshot, options.chunk_deadline * 3);
        let disk = Disk { wal: wal.clone(), store, directory: directory.into() };
        let bundles = Bundles::new(&options);
        let sender = Arc::new(Sender { node, cluster, transport, options, wal, transfers, bundles });
        let inner = Inner {
            sender,
            disk,
            tombstones: tokio::sync::Mutex::default(),
            running: Mutex::default(),
            cached: Arc::default(),
            incoming,
            counters: Counters::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u32, Option<Group>>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts this node's replica of a group: its machine is brought to what was known to be committed at the last stop.
    /// Must be called within a tokio runtime, on which the group then runs.
    ///
    /// # Errors
    /// See [`StartError`]. An entry, vote or snapshot that cannot be read is an error, never an empty group.
    pub async fn start(
        &self,
        id: GroupId,
        persistence: Persistence,
        machine: impl StateMachine,
    ) -> Result<Group, StartError> {
        self.start_as(id, Kept::Whole(persistence, Box::new(machine))).await
    }

    /// As [`Groups::start`], for a machine that keeps changes in memory. `make` makes it of the keys that were flushed, beside the runtime's
    /// threads: now, and each time that a snapshot was installed, after the old one was dropped.
    ///
    /// What waits in memory is flushed when it passes [`RaftOptions::dirty_bytes`], for a snapshot, and by [`Group::shutdown`].
    ///
    /// # Errors
    /// As [`Groups::start`].
    pub async fn start_cached<M: CachedMachine>(
        &self,
        id: GroupId,
        mut make: impl FnMut(StateKeys) -> Result<M, MachineError> + Send + 'static,
    ) -> Result<Group, StartError> {
        let make: Make = Box::new(move |keys| Ok(Box::new(make(keys)?)));
        self.start_as(id, Kept::Cached(make)).await
    }

    async fn start_as(&self, id: GroupId, kept: Kept) -> Result<Group, StartError> {
        {
            let mut running = self.running();
            if running.contains_key(&id.number) {
                return Err(StartError::Running(id));
            }
            running.insert(id.number, None);
        }
        let started = self.start_group(id, kept).await;
        let mut running = self.running();
        match &started {
            Ok(group) => running.insert(id.number, Some(group.clone())),
            Err(_) => running.remove(&id.number),
        };
        started
    }

    async fn start_group(&self, id: GroupId, kept: Kept) -> Result<Group, StartError> {
        let inner = &self.inner;
        let options = &inner.sender.options;
        let storage = |context: &'static str| move |source| StartError::Storage { group: id, context, source };
        let config = options.config(format!("raftmq-{id}"))?;
        let (alive, alive_receiver) = mpsc::channel(1);

        let floor = {
            let _held = inner.tombstones.lock().await;
            let disk = inner.disk.clone();
            let promise = blocking(move || {
                disk.finish(id)?;
                disk.promise(id)
            });
            promise.await.map_err(storage("what an earlier replica left cannot be removed"))?.last
        };

        let (wal, append_bytes, log_alive) = (inner.sender.wal.clone(), options.max_append_bytes, alive.clone());
        let (mut log, backlog) = blocking(move || {
            let state = wal.group_state(id).map_err(crate::log::to_io)?;
            let entries = state.first.zip(state.last).map_or(0, |(first, last)| last - first + 1);
            let backlog = (entries, wal.live_bytes(id));
            Ok((LogStore::open(wal, id, append_bytes, log_alive)?, backlog))
        })
        .await
        .map_err(storage("the log cannot be opened"))?;

        let due = Arc::new(Notify::new());
        let trigger = Trigger { entries: options.snapshot_entries, bytes: options.snapshot_bytes, due: due.clone() };
        let disk = inner.disk.clone();
        let limit = (options.dirty_bytes, options.dirty_bytes_node, inner.cached.clone());
        let (machine_log, machine_alive, cached) = (log.clone(), alive, matches!(kept, Kept::Cached(_)));
        let opened = blocking(move || {
            let snapshots = SnapshotDir::open(&disk.directory, id)?;
            let store = || disk.store.group(id).map_err(io::Error::other);
            let (opened, since) = match kept {
                Kept::Whole(Persistence::Memory, machine) => (open_memory(machine, &snapshots), (0, 0)),
                Kept::Whole(Persistence::Stored, machine) => (open_stored(machine, store()?), backlog),
                Kept::Cached(make) => {
                    let limit = DirtyLimit::new(limit.0, limit.1, limit.2);
                    (Cached::open(store()?, make, limit, machine_alive.clone()), backlog)
                }
            };
            Ok(opened.map(|(machine, applied)| {
                let snapshots_dir = snapshots.clone();
                let machine =
                    MachineStore::new(machine, applied, machine_log, snapshots_dir, trigger, since, machine_alive);
                (snapshots, machine)
            }))
        });
        let (snapshots, mut machine) = match opened.await.map_err(storage("the state cannot be opened"))? {
            Ok(opened) => opened,
            Err(OpenError::Storage(e)) => return Err(storage("the state cannot be read")(e)),
            Err(OpenError::Machine(source)) => {
                return Err(StartError::Machine { group: id, source });
            }
        };

        let purged = log.ids().map_err(storage("the log cannot be read"))?.purged;
        let (applied, purged) = (machine.last_applied().map(|id| id.index), purged.map(|id| id.index));
        if let Some(purged) = purged.filter(|purged| applied < Some(*purged)) {
            return Err(StartError::Gap { group: id, applied, purged });
        }
        if cached {
            let committed = log.read_committed().await.map_err(storage("the log cannot be read"))?;
            machine.catch_up(committed).await.map_err(storage("the log cannot be applied again"))?;
        }

        let (sender, urgent) = (inner.sender.clone(), Urgent::default());
        let network = Network { sender, group: id, snapshots: snapshots.clone(), urgent: urgent.clone() };
        let raft = Raft::new(inner.sender.node, config, network, log, machine)
            .await
            .map_err(|fatal| StartError::Failed { group: id, reason: fatal.to_string() })?;
        let started = Started { id, snapshots, snapshot_due: due, floor, cached, urgent, alive: alive_receiver };
        Ok(Group::new(raft, inner.sender.clone(), started))
    }

    /// The replica of the group with this number, if it runs here.
    pub fn group(&self, number: u32) -> Option<Group> {
        self.running().get(&number).cloned().flatten()
    }

    /// Stops one group; it may be started again.
    pub async fn stop(&self, number: u32) {
        let group = self.group(number);
        if let Some(group) = group {
            group.shutdown().await;
            self.inner.incoming.forget(group.id());
            self.running().remove(&number);
        }
    }

    /// Stops this node's replica of a group, if it runs, and removes its log with the votes, its state and its snapshots: for a replica that the
    /// group does not count as a member any more. A crash in the middle leaves all of it, or what [`Groups::known`] and [`Groups::start`]
    /// remove. Fine if there is none.
    ///
    /// Should the node come back to the group, it votes as if it had kept its log: a few bytes stay for that.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, id: GroupId) -> Result<(), RemoveError> {
        let groups = self.clone();
        // On a task of its own: half done is not a state to be left in by a caller who gives up.
        let removed = tokio::spawn(async move { groups.remove_group(id).await }).await;
        removed.unwrap_or_else(|e| Err(RemoveError::Storage { group: id, source: io::Error::other(e) }))
    }

    async fn remove_group(&self, id: GroupId) -> Result<(), RemoveError> {
        let group = match self.take_out(id) {
            TakenOut::Nothing => None,
            TakenOut::Replica(group) => Some(group),
            TakenOut::Busy => return Err(RemoveError::Busy(id)),
            TakenOut::Other => return self.remove_from_disk(id).await,
        };
        if let Some(group) = group {
            if !group.let_go().await {
                self.running().insert(id.number, Some(group));
                return Err(RemoveError::InUse(id));
            }
            self.inner.incoming.forget(id);
        }
        let removed = self.remove_from_disk(id).await;
        self.running().remove(&id.number);
        removed
    }

    /// Takes the group's place among those that run, so that it cannot be started.
    fn take_out(&self, id: GroupId) -> TakenOut {
        let mut running = self.running();
        match running.get(&id.number).cloned() {
            Some(None) => TakenOut::Busy,
            Some(Some(group)) if group.id() != id => TakenOut::Other,
            Some(Some(group)) => {
                running.insert(id.number, None);
                TakenOut::Replica(group)
            }
            None => {
                running.insert(id.number, None);
                TakenOut::Nothing
            }
        }
    }

    async fn remove_from_disk(&self, id: GroupId) -> Result<(), RemoveError> {
        let _held = self.inner.tombstones.lock().await;
        let disk = self.inner.disk.clone();
        blocking(move || disk.remove(id, &mut |_| {}))
            .await
            .map_err(|source| RemoveError::Storage { group: id, source })
    }

    /// The groups of which this node has a log, a vote, a state or a snapshot: those that it should run, if it is still a member. Completes
    /// removals that a crash interrupted.
    ///
    /// # Errors
    /// The disk cannot be read, or what was to be removed cannot be.
    pub async fn known(&self) -> io::Result<Vec<GroupId>> {
        let _held = self.inner.tombstones.lock().await;
        let disk = self.inner.disk.clone();
        blocking(move || disk.known()).await
    }

    /// Stops all groups and waits until they have let go of the log and the store.
    pub async fn shutdown(&self) {
        let numbers: Vec<u32> = self.running().keys().copied().collect();
        futures::future::join_all(numbers.into_iter().map(|number| self.stop(number))).await;
    }
}
