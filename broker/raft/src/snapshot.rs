//! Snapshots as files: the durable ones of machines in memory, and those that are on their way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use raftmq_storage::GroupId;
use raftmq_storage::store::View;
use tokio::sync::mpsc;

use crate::codec::{Reader, load, put_snapshot_meta, stored};
use crate::removal::parse_group;
use crate::types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"RMQSNAP1";
/// Magic, length of the metadata, checksum of the metadata.
const FIXED: usize = 16;
/// Far above the metadata of any group.
const MAX_META: u32 = 1 << 20;

/// What openraft carries around as a snapshot.
pub(crate) enum SnapshotData {
    /// Bytes in a file.
    File(SnapshotFile),
    /// A state in the store at one moment; it becomes a file when it is sent.
    View(StateView),
}

/// A state in the store at one moment.
pub(crate) struct StateView {
    pub(crate) view: Box<View>,
    /// A shutdown waits until nobody uses the store any more.
    pub(crate) _alive: mpsc::Sender<()>,
}

/// Bytes in a file that stays open: replacing or removing the file does not disturb a transfer.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    file: File,
    start: u64,
    len: u64,
    /// Removes the file in the end.
    _temporary: Option<Temporary>,
}

impl SnapshotFile {
    pub(crate) fn temporary(file: File, len: u64, path: Temporary) -> Self {
        Self { file, start: 0, len, _temporary: Some(path) }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The `len` bytes at `offset`.
    pub(crate) fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = BytesMut::zeroed(len);
        self.file.read_exact_at(&mut bytes, self.start + offset)?;
        Ok(bytes.freeze())
    }

    pub(crate) fn read_all(&self) -> io::Result<Bytes> {
        self.read_at(0, usize::try_from(self.len).map_err(io::Error::other)?)
    }
}

/// A file's name that is removed with it.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

const CURRENT: &str = ".snapshot";

fn current_name(group: GroupId) -> String {
    format!("{group}{CURRENT}")
}

fn part_prefix(group: GroupId) -> String {
    format!("{group}.part-")
}

/// The group whose snapshot the file of this name is, if it is one.
pub(crate) fn group_of(name: &str) -> Option<GroupId> {
    name.strip_suffix(CURRENT).and_then(parse_group)
}

/// Whether the file of this name is a snapshot of the group, or one on its way.
pub(crate) fn is_of(name: &str, group: GroupId) -> bool {
    name == current_name(group) || name.starts_with(&part_prefix(group))
}

/// Where one group's snapshots are.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    group: GroupId,
    /// Held while the current snapshot is read or replaced.
    lock: Mutex<()>,
    count: AtomicU64,
}

impl SnapshotDir {
    /// Makes the directory and removes what an earlier run left unfinished.
    pub(crate) fn open(dir: &Path, group: GroupId) -> io::Result<Arc<Self>> {
        fs::create_dir_all(dir)?;
        let prefix = part_prefix(group);
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Arc::new(Self { dir: dir.to_owned(), group, lock: Mutex::new(()), count: AtomicU64::new(0) }))
    }

    fn path(&self) -> PathBuf {
        self.dir.join(current_name(self.group))
    }

    /// A new file for something on its way.
    pub(crate) fn create(&self) -> io::Result<(File, Temporary)> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}{number}", part_prefix(self.group)));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok((file, Temporary(path)))
    }

    /// The last snapshot that was written.
    pub(crate) fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotFile)>> {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_current()
    }

    fn read_current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotFile)>> {
        let mut file = match File::open(self.path()) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut fixed = [0; FIXED];
        file.read_exact(&mut fixed)?;
        let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        if !fixed.starts_with(MAGIC) || word(8) > MAX_META {
            return Err(self.damaged("it does not begin like a snapshot"));
        }
        let mut meta = vec![0; word(8) as usize];
        file.read_exact(&mut meta)?;
        if crc32c::crc32c(&meta) != word(12) {
            return Err(self.damaged("the checksum of its metadata does not fit"));
        }
        let start = (FIXED + meta.len()) as u64;
        let len = file.metadata()?.len().checked_sub(start + 4).ok_or_else(|| self.damaged("it is cut off"))?;
        let meta = load("snapshot", Bytes::from(meta), Reader::snapshot_meta)?;
        Ok(Some((meta, SnapshotFile { file, start, len, _temporary: None })))
    }

    fn damaged(&self, reason: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", self.path().display()))
    }

    /// All bytes of the current snapshot, checked.
    pub(crate) fn load(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let Some((meta, file)) = self.current()? else {
            return Ok(None);
        };
        let data = file.read_all()?;
        let mut sum = [0; 4];
        file.file.read_exact_at(&mut sum, file.start + file.len)?;
        if crc32c::crc32c(&data) != u32::from_le_bytes(sum) {
            return Err(self.damaged("its checksum does not fit"));
        }
        Ok(Some((meta, data)))
    }

    /// Makes this the current snapshot, durably, unless there is a newer one. Returns the current one's metadata.
    pub(crate) fn write(&self, meta: SnapshotMeta, data: &[u8]) -> io::Result<SnapshotMeta> {
        let (file, path) = self.create()?;
        let head = stored(&meta, put_snapshot_meta);
        let mut out = BufWriter::new(file);
        out.write_all(MAGIC)?;
        out.write_all(&u32::try_from(head.len()).map_err(io::Error::other)?.to_le_bytes())?;
        out.write_all(&crc32c::crc32c(&head).to_le_bytes())?;
        out.write_all(&head)?;
        out.write_all(data)?;
        out.write_all(&crc32c::crc32c(data).to_le_bytes())?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;

        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((current, _)) = self.read_current()?
            && current.last_log_id > meta.last_log_id
        {
            return Ok(current);
        }
        // The name that is removed in the end is then gone, or another file's that has it by now: no harm, a number is
        // used once a run.
        fs::rename(&path.0, self.path())?;
        File::open(&self.dir)?.sync_all()?;
        Ok(meta)
    }

    /// Writes a stored state into a file, pair by pair.
    pub(crate) fn export(&self, view: &StateView) -> io::Result<SnapshotFile> {
        let (file, path) = self.create()?;
        let mut out = BufWriter::new(file);
        let mut len = 0;
        for pair in view.view.pairs(None) {
            let (key, value) = pair.map_err(io::Error::other)?;
            for part in [key, value] {
                out.write_all(&u32::try_from(part.len()).map_err(io::Error::other)?.to_le_bytes())?;
                out.write_all(&part)?;
                len += 4 + part.len() as u64;
            }
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(SnapshotFile::temporary(file, len, path))
    }
}

/// The pairs that [`SnapshotDir::export`] wrote.
pub(crate) struct Pairs<'a> {
    file: &'a SnapshotFile,
    at: u64,
}

impl<'a> Pairs<'a> {
    pub(crate) fn new(file: &'a SnapshotFile) -> Self {
        Self { file, at: 0 }
    }

    fn part(&mut self) -> io::Result<Bytes> {
        let cut = || io::Error::new(io::ErrorKind::InvalidData, "a pair of the snapshot is cut off");
        let left = self.file.len - self.at;
        if left < 4 {
            return Err(cut());
        }
        let len = self.file.read_at(self.at, 4)?;
        let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
        if u64::from(len) > left - 4 {
            return Err(cut());
        }
        let part = self.file.read_at(self.at + 4, len as usize)?;
        self.at += 4 + u64::from(len);
        Ok(part)
    }
}

impl Iterator for Pairs<'_> {
    type Item = io::Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.file.len {
            return None;
        }
        let pair = self.part().and_then(|key| Ok((key, self.part()?)));
        if pair.is_err() {
            self.at = self.file.len;
        }
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::types::{LeaderId, LogId};

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta { last_log_id: Some(LogId::new(LeaderId::new(1, 1), index)), ..SnapshotMeta::default() }
    }

    #[test]
    fn the_newest_snapshot_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = SnapshotDir::open(dir.path(), GroupId::new(1, 0)).unwrap();
        assert!(snapshots.load().unwrap().is_none());
        snapshots.write(meta(5), b"five").unwrap();
        assert_eq!(snapshots.write(meta(3), b"three").unwrap(), meta(5));
        assert_eq!(snapshots.load().unwrap().unwrap(), (meta(5), Bytes::from_static(b"five")));
        snapshots.write(meta(9), b"").unwrap();
        assert_eq!(snapshots.load().unwrap().unwrap(), (meta(9), Bytes::new()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = SnapshotDir::open(dir.path(), GroupId::new(1, 0)).unwrap();
        snapshots.write(meta(5), b"five").unwrap();
        let good = fs::read(snapshots.path()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(snapshots.path(), &bad).unwrap();
            assert!(snapshots.load().is_err(), "byte {at}");
            fs::write(snapshots.path(), &good[..at]).unwrap();
            assert!(snapshots.load().is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_open_snapshot_outlives_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = SnapshotDir::open(dir.path(), GroupId::new(1, 0)).unwrap();
        snapshots.write(meta(5), b"five").unwrap();
        let (_, old) = snapshots.current().unwrap().unwrap();
        snapshots.write(meta(6), b"six").unwrap();
        assert_eq!(old.read_all().unwrap(), Bytes::from_static(b"five"));
        assert_eq!(old.read_at(1, 2).unwrap(), Bytes::from_static(b"iv"));
    }
}
