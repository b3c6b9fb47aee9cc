//! A disk in memory that forgets what was not synced, and fails when it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

use super::{
    super::disk::{Disk, DiskFile},
    *,
};

#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    next: u64,
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    /// What a crash leaves, less what of `pending` got there.
    durable_names: BTreeMap<String, u64>,
    pending: Vec<Op>,
    faults: Faults,
}

#[derive(Clone, Default)]
pub(crate) struct Faults {
    pub(crate) sync: bool,
    pub(crate) write: bool,
    pub(crate) sync_dir: bool,
    /// Bytes that can still be reserved.
    pub(crate) room: Option<u64>,
    pub(crate) free: Option<u64>,
    pub(crate) syncs: u64,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum Op {
    Name(String, u64),
    Rename(String, String),
    Remove(String),
}

fn apply(names: &mut BTreeMap<String, u64>, op: &Op) {
    match op {
        Op::Name(name, file) => drop(names.insert(name.clone(), *file)),
        Op::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Op::Remove(name) => drop(names.remove(name)),
    }
}

impl SimDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn faults<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        change(&mut self.lock().faults)
    }

    /// A copy in which everything is durable, as after the death of the process alone.
    pub(crate) fn copy(&self) -> Self {
        let mut state = self.lock().clone();
        state.faults = Faults::default();
        Self(Arc::new(Mutex::new(state)))
    }

    /// What a power failure leaves: all that was synced, and of the rest what `chance` picks, in sectors of 512 bytes.
    pub(crate) fn crash(&self, mut chance: impl FnMut() -> bool) -> Self {
        let state = self.lock().clone();
        let mut names = state.durable_names;
        let mut ordered = true;
        for op in &state.pending {
            // Removals may overtake each other; a rename does not overtake the creation.
            let happens = chance();
            if matches!(op, Op::Remove(_)) {
                if happens {
                    apply(&mut names, op);
                }
            } else {
                ordered &= happens;
                if ordered {
                    apply(&mut names, op);
                }
            }
        }
        let mut files = BTreeMap::new();
        for (id, content) in state.files {
            let mut kept = content.durable;
            if content.live.len() > kept.len() && chance() {
                kept.resize(content.live.len(), 0);
            }
            for sector in content.dirty {
                let (from, to) = (sector * 512, (sector * 512 + 512).min(content.live.len()).min(kept.len()));
                if from < to && chance() {
                    kept[from..to].copy_from_slice(&content.live[from..to]);
                }
            }
            files.insert(id, Content { live: kept.clone(), durable: kept, dirty: BTreeSet::new() });
        }
        let state = State {
            next: state.next,
            files,
            durable_names: names.clone(),
            names,
            pending: Vec::new(),
            faults: Faults::default(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.lock();
        state.files[&state.names[name]].live.clone()
    }

    /// Changes a file behind the log's back.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let id = state.names[name];
        change(&mut state.files.get_mut(&id).unwrap().live);
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let id = *self.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        state.files.insert(id, Content::default());
        state.names.insert(name.to_owned(), id);
        state.pending.push(Op::Name(name.to_owned(), id));
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let op = Op::Rename(from.to_owned(), to.to_owned());
        apply(&mut state.names, &op);
        state.pending.push(op);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        let id = state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        let bytes = state.files[&id].live.len() as u64;
        if let Some(room) = &mut state.faults.room {
            *room += bytes;
        }
        state.pending.push(Op::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.faults.sync_dir {
            return Err(io::Error::other("a directory's sync that fails"));
        }
        state.durable_names = state.names.clone();
        state.pending.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.lock().faults.free.unwrap_or(u64::MAX))
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut Content) -> T) -> T {
        work(self.disk.lock().files.get_mut(&self.id).unwrap())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|content| content.live.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|content| {
            let rest = content.live.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.disk.faults(|faults| faults.write) {
            return Err(io::Error::other("a write that fails"));
        }
        self.with(|content| {
            let (from, to) = (offset as usize, offset as usize + bytes.len());
            if content.live.len() < to {
                content.live.resize(to, 0);
            }
            content.live[from..to].copy_from_slice(bytes);
            content.dirty.extend(from / 512..to.div_ceil(512));
        });
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.disk.faults(|faults| match &mut faults.room {
            Some(room) if *room < bytes => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Some(room) => {
                *room -= bytes;
                Ok(())
            }
            None => Ok(()),
        })?;
        self.with(|content| content.live.resize(content.live.len().max(bytes as usize), 0));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.faults(|faults| {
            faults.syncs += 1;
            if faults.sync { Err(io::Error::other("a sync that fails")) } else { Ok(()) }
        })?;
        self.with(|content| {
            content.durable.clone_from(&content.live);
            content.dirty.clear();
        });
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Wal {
    pub(crate) fn on(disk: &SimDisk, options: WalOptions) -> Result<(Self, RecoveryReport), WalError> {
        Self::open_on(Arc::new(disk.clone()), None, options)
    }
}
