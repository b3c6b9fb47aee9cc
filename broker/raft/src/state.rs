//! openraft's state machine on a [`StateMachine`] and the place where its state lives.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftLogReader, RaftSnapshotBuilder};
use raftmq_storage::{GroupStore, StoreBatch, StoreError};
use tokio::sync::{Notify, mpsc};

use crate::cached::Cached;
use crate::codec::{Reader, load, put_snapshot_meta, stored};
use crate::log::{LogStore, blocking};
use crate::machine::{MachineError, StateBatch, StateMachine, StateRead, own};
use crate::snapshot::{Pairs, SnapshotData, SnapshotDir, SnapshotFile, StateView};
use crate::types::{Entry, LogId, Response, Snapshot, SnapshotMeta, StoredMembership, Types};

/// The key of a stored machine's snapshot. The machine's own keys come after it.
const WHOLE: &[u8] = &[0];

/// How many entries are applied before what they changed is written and answered.
const APPLY_ENTRIES: usize = 128;

/// A machine and where its state lives.
pub(crate) enum Machine {
    Memory(Box<dyn StateMachine>),
    Stored(Box<dyn StateMachine>, GroupStore),
    Cached(Cached),
}

impl Machine {
    fn apply(&mut self, index: u64, command: &Bytes, out: &mut StateBatch) -> io::Result<Bytes> {
        match self {
            Machine::Memory(machine) | Machine::Stored(machine, _) => Ok(machine.apply(index, command, out).into()),
            Machine::Cached(cached) => cached.apply(index, command),
        }
    }

    fn applied(&mut self, index: u64) {
        match self {
            Machine::Memory(machine) | Machine::Stored(machine, _) => machine.applied(index),
            Machine::Cached(cached) => cached.applied(index),
        }
    }

    /// Whether what waits in memory has to be written.
    fn is_full(&self) -> bool {
        matches!(self, Machine::Cached(cached) if cached.is_full())
    }
}

/// When to make a snapshot.
pub(crate) struct Trigger {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Woken when one of the limits is reached.
    pub(crate) due: Arc<Notify>,
}

/// One group's state machine.
pub(crate) struct MachineStore {
    /// Only ever used by one task; the lock makes the machine shareable in the eyes of the compiler.
    machine: Mutex<Machine>,
    log: LogStore,
    snapshots: Arc<SnapshotDir>,
    applied: SnapshotMeta,
    trigger: Trigger,
    entries_since: u64,
    bytes_since: u64,
    alive: mpsc::Sender<()>,
}

/// What went wrong while a machine was opened.
pub(crate) enum OpenError {
    Storage(io::Error),
    Machine(MachineError),
}

impl From<io::Error> for OpenError {
    fn from(e: io::Error) -> Self {
        OpenError::Storage(e)
    }
}

impl From<MachineError> for OpenError {
    fn from(e: MachineError) -> Self {
        OpenError::Machine(e)
    }
}

/// What the state in the store covers, after a sync: it counts as the snapshot from here on, so it must be on the disk. Blocks.
pub(crate) fn synced(store: &GroupStore) -> io::Result<SnapshotMeta> {
    match store.sync().map_err(from_store)? {
        Some(marker) => Ok(load("applied", marker, Reader::snapshot_meta)?),
        None => Ok(SnapshotMeta::default()),
    }
}

/// Brings a machine in memory to its last snapshot. Blocks.
pub(crate) fn open_memory(
    mut machine: Box<dyn StateMachine>,
    snapshots: &SnapshotDir,
) -> Result<(Machine, SnapshotMeta), OpenError> {
    let mut applied = SnapshotMeta::default();
    if let Some((meta, data)) = snapshots.load()? {
        machine.restore(&data)?;
        applied = meta;
    }
    Ok((Machine::Memory(machine), applied))
}

/// Brings a stored machine to what was written last. Blocks.
pub(crate) fn open_stored(
    mut machine: Box<dyn StateMachine>,
    store: GroupStore,
) -> Result<(Machine, SnapshotMeta), OpenError> {
    let applied = synced(&store)?;
    if applied.last_log_id.is_some() {
        let whole = store.get(WHOLE).map_err(from_store)?.unwrap_or_default();
        machine.restore(&whole)?;
        machine.load(&Keys(&store))?;
    }
    Ok((Machine::Stored(machine, store), applied))
}

/// What some entries did, until it is written and answered.
#[derive(Default)]
struct Step {
    entries: usize,
    changes: StateBatch,
    answers: Vec<(ApplyResponder<Types>, Response)>,
}

impl MachineStore {
    /// `since` is what was applied since the last snapshot, entries and bytes, as far as it will not be applied again.
    pub(crate) fn new(
        mut machine: Machine,
        applied: SnapshotMeta,
        log: LogStore,
        snapshots: Arc<SnapshotDir>,
        trigger: Trigger,
        since: (u64, u64),
        alive: mpsc::Sender<()>,
    ) -> Self {
        if let Some(id) = &applied.last_log_id {
            machine.applied(id.index);
        }
        let store = Self {
            machine: Mutex::new(machine),
            log,
            snapshots,
            applied,
            trigger,
            entries_since: since.0,
            bytes_since: since.1,
            alive,
        };
        store.check_trigger();
        store
    }

    /// What has been applied.
    pub(crate) fn last_applied(&self) -> Option<LogId> {
        self.applied.last_log_id
    }

    fn machine(&mut self) -> &mut Machine {
        self.machine.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_trigger(&self) {
        if self.entries_since >= self.trigger.entries || self.bytes_since >= self.trigger.bytes {
            self.trigger.due.notify_one();
        }
    }

    /// Applies what the log has up to `committed`, in bounded parts; openraft would read many entries of any size at once.
    pub(crate) async fn catch_up(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let next = self.last_applied().map_or(0, |id| id.index.saturating_add(1));
        let Some(last) = committed.map(|id| id.index).filter(|last| *last >= next) else {
            return Ok(());
        };
        tracing::info!(next, last, "applies the log again");
        let since = (self.entries_since, self.bytes_since);
        let mut log = self.log.clone();
        let entries = log.entries_stream(next..=last).await.map(|entry| Ok((entry?, None)));
        self.apply(Box::pin(entries)).await?;
        // They are in the log, which was counted before.
        (self.entries_since, self.bytes_since) = since;
        if self.last_applied().map(|id| id.index) == Some(last) {
            Ok(())
        } else {
            let reason = format!("the log ends before its committed index {last}");
            Err(io::Error::new(io::ErrorKind::InvalidData, reason))
        }
    }

    fn step(&mut self, step: &mut Step, entry: Entry, responder: Option<ApplyResponder<Types>>) -> io::Result<()> {
        let id = entry.log_id();
        let mut response = Response::default();
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(command) => {
                self.bytes_since = self.bytes_since.saturating_add(command.0.len() as u64);
                response = Response(self.machine().apply(id.index, &command.0, &mut step.changes)?);
            }
            EntryPayload::Membership(membership) => {
                self.applied.last_membership = StoredMembership::new(Some(id), membership);
            }
        }
        self.entries_since = self.entries_since.saturating_add(1);
        self.applied.last_log_id = Some(id);
        step.entries += 1;
        if let Some(responder) = responder {
            step.answers.push((responder, response));
        }
        Ok(())
    }

    /// Writes what some entries changed, and answers.
    async fn finish(&mut self, step: Step) -> io::Result<()> {
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Machine::Stored(machine, store) = machine {
            let mut changes = StoreBatch::default();
            for (key, value) in step.changes.changes {
                match value {
                    Some(value) => changes.put(own(&key), value),
                    None => changes.delete(own(&key)),
                }
            }
            changes.put(WHOLE, machine.snapshot());
            store.apply(changes, stored(&self.applied, put_snapshot_meta)).map_err(from_store)?;
        }
        if let Some(id) = self.last_applied() {
            self.machine().applied(id.index);
        }
        for (responder, response) in step.answers {
            responder.send(response);
        }
        self.check_trigger();
        if self.machine().is_full() { self.flush().await } else { Ok(()) }
    }

    /// Writes what a cached machine keeps in memory. Nothing for others.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        match machine {
            Machine::Cached(cached) => cached.flush(&self.applied, &self.log).await,
            Machine::Memory(_) | Machine::Stored(..) => Ok(()),
        }
    }
}

impl RaftStateMachine<Types> for MachineStore {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied.last_log_id, self.applied.last_membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut step = Step::default();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.step(&mut step, entry, responder)?;
            if step.entries >= APPLY_ENTRIES || self.machine().is_full() {
                self.finish(std::mem::take(&mut step)).await?;
                // Applying a long backlog must not keep the runtime's thread from everybody else.
                tokio::task::yield_now().await;
            }
        }
        if step.entries == 0 { Ok(()) } else { self.finish(step).await }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.entries_since = 0;
        self.bytes_since = 0;
        if let Err(error) = self.flush().await {
            return Builder::Failed(Some(error));
        }
        let (dir, meta, alive) = (self.snapshots.clone(), self.applied.clone(), self.alive.clone());
        match self.machine() {
            Machine::Memory(machine) => Builder::Memory { dir, meta, data: machine.snapshot() },
            Machine::Stored(_, store) => Builder::Stored { store: store.clone(), alive },
            Machine::Cached(cached) => Builder::Stored { store: cached.store.clone(), alive },
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let dir = self.snapshots.clone();
        let file = match snapshot {
            SnapshotData::File(file) => file,
            SnapshotData::View(view) => {
                let dir = dir.clone();
                blocking(move || dir.export(&view)).await?
            }
        };
        let log = self.log.clone();
        match self.machine() {
            Machine::Memory(machine) => {
                let data = blocking(move || file.read_all()).await?;
                machine.restore(&data).map_err(io::Error::other)?;
                let meta = meta.clone();
                blocking(move || dir.write(meta, &data)).await?;
            }
            Machine::Stored(machine, store) => {
                let marker = stored(meta, put_snapshot_meta);
                let installing = store.clone();
                let whole = blocking(move || install_pairs(&installing, &file, marker)).await?;
                machine.restore(&whole).map_err(io::Error::other)?;
                machine.load(&Keys(store)).map_err(io::Error::other)?;
            }
            Machine::Cached(cached) => cached.install(file, meta, &log).await?,
        }
        self.applied = meta.clone();
        self.entries_since = 0;
        self.bytes_since = 0;
        if let Some(id) = &meta.last_log_id {
            self.machine().applied(id.index);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let (dir, alive) = (self.snapshots.clone(), self.alive.clone());
        let store = match self.machine() {
            Machine::Memory(_) => {
                let current = blocking(move || dir.current()).await?;
                return Ok(current.map(|(meta, file)| Snapshot { meta, snapshot: SnapshotData::File(file) }));
            }
            Machine::Stored(_, store) => store.clone(),
            Machine::Cached(cached) => cached.store.clone(),
        };
        let snapshot = stored_snapshot(store, alive).await?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

/// Puts a received state in the place of the old one and returns the machine's own snapshot out of it.
pub(crate) fn install_pairs(store: &GroupStore, file: &SnapshotFile, marker: Bytes) -> io::Result<Bytes> {
    let mut whole = Bytes::new();
    let mut staged = store.stage().map_err(from_store)?;
    for pair in Pairs::new(file) {
        let (key, value) = pair?;
        staged.put(&key, &value).map_err(from_store)?;
        if key == WHOLE {
            whole = value;
        }
    }
    staged.install(marker).map_err(from_store)?;
    Ok(whole)
}

/// Makes a snapshot of what was applied when it was asked for.
pub(crate) enum Builder {
    Memory {
        dir: Arc<SnapshotDir>,
        meta: SnapshotMeta,
        data: Vec<u8>,
    },
    Stored {
        store: GroupStore,
        alive: mpsc::Sender<()>,
    },
    /// What was applied could not be written.
    Failed(Option<io::Error>),
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        match self {
            Builder::Memory { dir, meta, data } => {
                let (dir, meta, data) = (dir.clone(), meta.clone(), std::mem::take(data));
                let (meta, file) = blocking(move || {
                    dir.write(meta, &data)?;
                    dir.current()?.ok_or_else(|| io::Error::other("the snapshot that was just written is gone"))
                })
                .await?;
                Ok(Snapshot { meta, snapshot: SnapshotData::File(file) })
            }
            Builder::Stored { store, alive } => stored_snapshot(store.clone(), alive.clone()).await,
            Builder::Failed(error) => {
                Err(error.take().unwrap_or_else(|| io::Error::other("the state was not written")))
            }
        }
    }
}

/// The state of this moment, durable: what it covers may be purged from the log.
async fn stored_snapshot(store: GroupStore, alive: mpsc::Sender<()>) -> io::Result<Snapshot> {
    let view = blocking(move || {
        let view = store.view().map_err(from_store)?;
        store.sync().map_err(from_store)?;
        Ok(view)
    })
    .await?;
    let meta = match view.applied() {
        Some(marker) => load("applied", marker, Reader::snapshot_meta)?,
        None => SnapshotMeta::default(),
    };
    let view = StateView { view: Box::new(view), _alive: alive };
    Ok(Snapshot { meta, snapshot: SnapshotData::View(view) })
}

/// A stored machine's own keys.
struct Keys<'a>(&'a GroupStore);

impl StateRead for Keys<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MachineError> {
        self.0.get(&own(key)).map_err(|e| MachineError::new(e.to_string()))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        self.0
            .scan(&own(prefix))
            .map(|pair| pair.map(|(key, value)| (key.slice(1..), value)).map_err(|e| MachineError::new(e.to_string())))
            .collect()
    }
}

pub(crate) fn from_store(error: StoreError) -> io::Error {
    io::Error::other(error)
}
