//! openraft's state machine on a [`StateMachine`] and the place where its state lives.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use raftmq_storage::{GroupStore, StoreBatch, StoreError};
use tokio::sync::{Notify, mpsc};

use crate::codec::{Reader, load, put_snapshot_meta, stored};
use crate::log::blocking;
use crate::machine::{MachineError, StateBatch, StateMachine, StateRead};
use crate::snapshot::{Pairs, SnapshotData, SnapshotDir, SnapshotFile, StateView};
use crate::types::{LogId, Response, Snapshot, SnapshotMeta, StoredMembership, Types};

/// The key of a stored machine's snapshot. The machine's own keys come after it.
const WHOLE: &[u8] = &[0];
const OWN: u8 = 1;

/// How many entries are applied before what they changed is written and answered.
const APPLY_ENTRIES: usize = 128;

/// Where a machine's state lives.
#[derive(Clone)]
pub(crate) enum Place {
    Memory(Arc<SnapshotDir>),
    Stored(GroupStore, Arc<SnapshotDir>),
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
    machine: Mutex<Box<dyn StateMachine>>,
    place: Place,
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

impl MachineStore {
    /// Brings the machine to its last durable state. Blocks.
    ///
    /// `backlog` is what the log holds at this moment, entries and bytes: it counts towards the next snapshot of a stored
    /// machine, whose entries are not applied again.
    pub(crate) fn open(
        mut machine: Box<dyn StateMachine>,
        place: Place,
        trigger: Trigger,
        backlog: (u64, u64),
        alive: mpsc::Sender<()>,
    ) -> Result<Self, OpenError> {
        let mut applied = SnapshotMeta::default();
        let mut since = (0, 0);
        match &place {
            Place::Memory(dir) => {
                if let Some((meta, data)) = dir.load()? {
                    machine.restore(&data).map_err(OpenError::Machine)?;
                    applied = meta;
                }
            }
            Place::Stored(store, _) => {
                // What is there counts as the snapshot from here on, so it must be on the disk.
                if let Some(marker) = store.sync().map_err(from_store)? {
                    applied = load("applied", marker, Reader::snapshot_meta).map_err(io::Error::from)?;
                    let whole = store.get(WHOLE).map_err(from_store)?.unwrap_or_default();
                    machine.restore(&whole).map_err(OpenError::Machine)?;
                    machine.load(&Keys(store)).map_err(OpenError::Machine)?;
                }
                since = backlog;
            }
        }
        if let Some(id) = &applied.last_log_id {
            machine.applied(id.index);
        }
        let store = Self {
            machine: Mutex::new(machine),
            place,
            applied,
            trigger,
            entries_since: since.0,
            bytes_since: since.1,
            alive,
        };
        store.check_trigger();
        Ok(store)
    }

    fn machine(&mut self) -> &mut dyn StateMachine {
        self.machine.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }

    fn check_trigger(&self) {
        if self.entries_since >= self.trigger.entries || self.bytes_since >= self.trigger.bytes {
            self.trigger.due.notify_one();
        }
    }

    /// Applies some entries, writes what they changed, and answers.
    fn apply_some(&mut self, entries: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let mut batch = StateBatch::default();
        let mut answers: Vec<(ApplyResponder<Types>, Response)> = Vec::new();
        for (entry, responder) in entries {
            let id = entry.log_id();
            let mut response = Response::default();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    self.bytes_since = self.bytes_since.saturating_add(command.0.len() as u64);
                    response = Response(self.machine().apply(id.index, &command.0, &mut batch).into());
                }
                EntryPayload::Membership(membership) => {
                    self.applied.last_membership = StoredMembership::new(Some(id), membership);
                }
            }
            self.entries_since = self.entries_since.saturating_add(1);
            self.applied.last_log_id = Some(id);
            if let Some(responder) = responder {
                answers.push((responder, response));
            }
        }
        if let Place::Stored(store, _) = &self.place {
            let store = store.clone();
            let mut changes = StoreBatch::default();
            for (key, value) in batch.changes {
                match value {
                    Some(value) => changes.put(own(&key), value),
                    None => changes.delete(own(&key)),
                }
            }
            let whole = self.machine().snapshot();
            changes.put(WHOLE, whole);
            store.apply(changes, stored(&self.applied, put_snapshot_meta)).map_err(from_store)?;
        }
        if let Some(id) = self.applied.last_log_id {
            self.machine().applied(id.index);
        }
        for (responder, response) in answers {
            responder.send(response);
        }
        self.check_trigger();
        Ok(())
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
        let mut some = Vec::new();
        while let Some(entry) = entries.next().await {
            some.push(entry?);
            if some.len() >= APPLY_ENTRIES {
                self.apply_some(std::mem::take(&mut some))?;
                // Applying a long backlog must not keep the runtime's thread from everybody else.
                tokio::task::yield_now().await;
            }
        }
        if some.is_empty() { Ok(()) } else { self.apply_some(some) }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.entries_since = 0;
        self.bytes_since = 0;
        match self.place.clone() {
            Place::Memory(dir) => {
                let data = self.machine().snapshot();
                Builder::Memory { dir, meta: self.applied.clone(), data }
            }
            Place::Stored(store, _) => Builder::Stored { store, alive: self.alive.clone() },
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let place = self.place.clone();
        let (Place::Memory(dir) | Place::Stored(_, dir)) = &place;
        let dir = dir.clone();
        let file = match snapshot {
            SnapshotData::File(file) => file,
            SnapshotData::View(view) => blocking(move || dir.export(&view)).await?,
        };
        match place {
            Place::Memory(dir) => {
                let data = blocking(move || file.read_all()).await?;
                self.machine().restore(&data).map_err(io::Error::other)?;
                let meta = meta.clone();
                blocking(move || dir.write(meta, &data)).await?;
            }
            Place::Stored(store, _) => {
                let marker = stored(meta, put_snapshot_meta);
                let installing = store.clone();
                let whole = blocking(move || install_pairs(&installing, &file, marker)).await?;
                self.machine().restore(&whole).map_err(io::Error::other)?;
                self.machine().load(&Keys(&store)).map_err(io::Error::other)?;
            }
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
        match self.place.clone() {
            Place::Memory(dir) => {
                let current = blocking(move || dir.current()).await?;
                Ok(current.map(|(meta, file)| Snapshot { meta, snapshot: SnapshotData::File(file) }))
            }
            Place::Stored(store, _) => {
                let snapshot = stored_snapshot(store, self.alive.clone()).await?;
                Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
            }
        }
    }
}

/// Puts a received state in the place of the old one and returns the machine's own snapshot out of it.
fn install_pairs(store: &GroupStore, file: &SnapshotFile, marker: Bytes) -> io::Result<Bytes> {
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
    Memory { dir: Arc<SnapshotDir>, meta: SnapshotMeta, data: Vec<u8> },
    Stored { store: GroupStore, alive: mpsc::Sender<()> },
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

fn own(key: &[u8]) -> Vec<u8> {
    let mut own = Vec::with_capacity(1 + key.len());
    own.push(OWN);
    own.extend_from_slice(key);
    own
}

fn from_store(error: StoreError) -> io::Error {
    io::Error::other(error)
}
