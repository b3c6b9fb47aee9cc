//! A small machine that keeps changes in memory, and nodes that run it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raftmq_raft::{
    CachedMachine, Group, GroupStatus, Groups, MachineError, NodeId, RaftOptions, StartError, StateKeys,
};
use raftmq_storage::{StateStore, Wal};
use tempfile::TempDir;

use super::{GROUP, Net, SOON, eventually, open};

/// The key that counts the commands and folds all answers.
const SUM: &[u8] = b"#";

/// What tests see of a machine, and tell it.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    seen: Mutex<Seen>,
    fail_apply: AtomicBool,
    fail_flush: AtomicBool,
    alive: AtomicUsize,
    on_flush: Mutex<Option<Hook>>,
    on_flushed: Mutex<Option<Hook>>,
}

type Hook = Box<dyn FnMut() + Send>;

#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// Commands applied by the machines made so far; those that were applied again count again.
    pub(crate) applied: usize,
    /// Commands in the state, and the sum of all answers.
    pub(crate) sum: (u64, u64),
    /// Index in the last call of the hook.
    pub(crate) index: Option<u64>,
    pub(crate) flushes: usize,
    pub(crate) max_dirty: usize,
    pub(crate) made: usize,
    /// The most machines that were there at a time.
    pub(crate) max_alive: usize,
    /// Calls after an error.
    pub(crate) after_error: usize,
}

impl Watch {
    pub(crate) fn seen(&self) -> Seen {
        self.inner.seen.lock().unwrap().clone()
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.inner.seen.lock().unwrap());
    }

    /// The next commands cannot be applied.
    pub(crate) fn fail_apply(&self, fail: bool) {
        self.inner.fail_apply.store(fail, Ordering::SeqCst);
    }

    /// The next flushes fail.
    pub(crate) fn fail_flush(&self, fail: bool) {
        self.inner.fail_flush.store(fail, Ordering::SeqCst);
    }

    /// Called when a flush has been handed out and not been written.
    pub(crate) fn on_flush(&self, hook: impl FnMut() + Send + 'static) {
        *self.inner.on_flush.lock().unwrap() = Some(Box::new(hook));
    }

    /// Called when a flush has been written and not been synced.
    pub(crate) fn on_flushed(&self, hook: impl FnMut() + Send + 'static) {
        *self.inner.on_flushed.lock().unwrap() = Some(Box::new(hook));
    }

    pub(crate) fn make(&self, keys: StateKeys) -> Result<Toy, MachineError> {
        let alive = self.inner.alive.fetch_add(1, Ordering::SeqCst) + 1;
        let mut toy = Toy { keys, dirty: BTreeMap::new(), bytes: 0, failed: false, watch: self.clone() };
        let sum = toy.sum()?;
        self.note(|seen| {
            seen.made += 1;
            seen.max_alive = seen.max_alive.max(alive);
            seen.sum = sum;
        });
        Ok(toy)
    }
}

/// Commands are `key=value`; the answer is the value before, and the sum of all answers until now.
pub(crate) struct Toy {
    keys: StateKeys,
    dirty: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    failed: bool,
    watch: Watch,
}

impl Toy {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
        match self.dirty.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.keys.get(key)?.map(Vec::from)),
        }
    }

    fn set(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        let len = value.as_ref().map_or(0, Vec::len) + key.len();
        let old = self.dirty.insert(key.to_vec(), value);
        let old = old.map_or(0, |old| old.map_or(0, |old| old.len()) + key.len());
        self.bytes = self.bytes + len - old;
    }

    fn sum(&mut self) -> Result<(u64, u64), MachineError> {
        let sum = self.get(SUM)?.unwrap_or_else(|| vec![0; 16]);
        let (count, sum) = sum.split_first_chunk::<8>().ok_or_else(|| MachineError::new("no sum"))?;
        let sum = sum.try_into().map_err(|_| MachineError::new("no sum"))?;
        Ok((u64::from_be_bytes(*count), u64::from_be_bytes(sum)))
    }

    fn call(&mut self) {
        if self.failed {
            self.watch.note(|seen| seen.after_error += 1);
        }
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.watch.inner.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl CachedMachine for Toy {
    fn apply(&mut self, _index: u64, command: &Bytes) -> Result<Bytes, MachineError> {
        self.call();
        if self.watch.inner.fail_apply.load(Ordering::SeqCst) {
            self.failed = true;
            return Err(MachineError::new("told to fail"));
        }
        let at = command.iter().position(|byte| *byte == b'=').unwrap_or(command.len());
        let (key, value) = (&command[..at], command.get(at + 1..).unwrap_or_default());
        let before = self.get(key)?.unwrap_or_default();
        self.set(key, (!value.is_empty()).then(|| value.to_vec()));
        let (count, sum) = self.sum()?;
        let sum = before.iter().fold(sum.rotate_left(5) ^ 0x9e37, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut bytes = (count + 1).to_be_bytes().to_vec();
        bytes.extend_from_slice(&sum.to_be_bytes());
        self.set(SUM, Some(bytes));
        let dirty = self.bytes;
        self.watch.note(|seen| {
            seen.applied += 1;
            seen.sum = (count + 1, sum);
            seen.max_dirty = seen.max_dirty.max(dirty);
        });
        let mut answer = sum.to_be_bytes().to_vec();
        answer.extend_from_slice(&before);
        Ok(answer.into())
    }

    fn dirty_bytes(&self) -> usize {
        self.bytes
    }

    fn flush(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) -> Result<(), MachineError> {
        self.call();
        if self.watch.inner.fail_flush.load(Ordering::SeqCst) {
            self.failed = true;
            return Err(MachineError::new("told not to flush"));
        }
        for (key, value) in &self.dirty {
            put(key, value.as_deref());
        }
        if let Some(hook) = &mut *self.watch.inner.on_flush.lock().unwrap() {
            hook();
        }
        Ok(())
    }

    fn flushed(&mut self) {
        for (key, value) in std::mem::take(&mut self.dirty) {
            assert_eq!(self.keys.get(&key).unwrap().map(Vec::from), value, "it is in the store");
        }
        self.bytes = 0;
        self.watch.note(|seen| seen.flushes += 1);
        if let Some(hook) = &mut *self.watch.inner.on_flushed.lock().unwrap() {
            hook();
        }
    }

    fn applied(&mut self, index: u64) {
        self.call();
        self.watch.note(|seen| seen.index = Some(index));
    }
}

/// A node with one group of that machine.
pub(crate) struct ToyNode {
    pub(crate) groups: Groups,
    pub(crate) group: Group,
    pub(crate) watch: Watch,
    pub(crate) wal: Wal,
    pub(crate) store: StateStore,
}

impl ToyNode {
    /// Starts what is in `path`.
    pub(crate) async fn try_start(
        net: &Net,
        path: &Path,
        id: NodeId,
        options: RaftOptions,
        watch: Watch,
    ) -> Result<Self, StartError> {
        let (groups, wal, store) = open(net, path, id, options, false).await;
        let making = watch.clone();
        let group = groups.start_cached(GROUP, move |keys| making.make(keys)).await?;
        Ok(Self { groups, group, watch, wal, store })
    }

    pub(crate) fn status(&self) -> GroupStatus {
        self.group.status().borrow().clone()
    }

    pub(crate) async fn stop(self) {
        self.groups.shutdown().await;
        self.wal.close().unwrap();
    }
}

/// Nodes with one group of that machine.
pub(crate) struct Toys {
    pub(crate) net: Net,
    pub(crate) nodes: BTreeMap<NodeId, ToyNode>,
    pub(crate) options: RaftOptions,
    pub(crate) dir: TempDir,
}

impl Toys {
    pub(crate) async fn of(count: u64, options: RaftOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut toys = Self { net: Net::default(), nodes: BTreeMap::new(), options, dir };
        for id in 1..=count {
            toys.start(id).await;
        }
        toys.nodes[&1].group.initialize((1..=count).collect()).await.unwrap();
        toys.leader().await;
        toys
    }

    pub(crate) fn path(&self, id: NodeId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    pub(crate) async fn start(&mut self, id: NodeId) {
        let (path, options) = (self.path(id), self.options.clone());
        let node = ToyNode::try_start(&self.net, &path, id, options, Watch::default()).await.unwrap();
        self.nodes.insert(id, node);
    }

    pub(crate) async fn stop(&mut self, id: NodeId) {
        self.net.leave(id);
        self.nodes.remove(&id).unwrap().stop().await;
    }

    pub(crate) async fn leader(&self) -> NodeId {
        let mut found = 0;
        let leads = |status: &GroupStatus| status.is_leader() && status.membership_settled;
        eventually("a leader", || {
            found = self.nodes.iter().find(|(_, node)| leads(&node.status())).map_or(0, |(id, _)| *id);
            found != 0
        })
        .await;
        found
    }

    /// Sets `count` of `keys` keys; the values have about `len` bytes.
    pub(crate) async fn write(&self, from: NodeId, count: usize, keys: usize, len: usize) {
        for number in 0..count {
            let command = format!("k{}={number}{}", number % keys, "v".repeat(len));
            self.nodes[&from].group.propose_anywhere(command.into(), SOON).await.unwrap();
        }
    }

    /// Waits until all nodes have the same state, of so many commands, and returns the sum.
    pub(crate) async fn same(&self, count: u64) -> u64 {
        eventually("the same number of commands everywhere", || {
            self.nodes.values().all(|node| node.watch.seen().sum.0 == count)
        })
        .await;
        let mut sums: Vec<u64> = self.nodes.values().map(|node| node.watch.seen().sum.1).collect();
        sums.dedup();
        assert_eq!(sums.len(), 1, "the same state everywhere");
        sums[0]
    }
}

/// Copies a directory of a running node, as its files are at this moment: what is left when the process is killed now.
pub(crate) fn image(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().map(Result::unwrap).collect();
    // What is written last is copied first: it must not tell of what the copies of the others do not have.
    entries.sort_by_key(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name == "wal", !name.contains("mark"), name)
    });
    for entry in entries {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            image(&entry.path(), &to);
        } else if let Ok(file) = File::open(entry.path()) {
            copy(file, &to);
        }
    }
}

/// Most of the files is reserved room: only what is not zero is written.
fn copy(mut from: File, to: &Path) {
    let mut out = File::create(to).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let len = from.read(&mut buffer).unwrap();
        if len == 0 {
            break;
        }
        if buffer[..len].iter().any(|byte| *byte != 0) {
            out.seek(SeekFrom::Start(at)).unwrap();
            out.write_all(&buffer[..len]).unwrap();
        }
        at += len as u64;
    }
    out.set_len(at).unwrap();
}
