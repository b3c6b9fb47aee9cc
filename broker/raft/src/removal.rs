//! Removing a replica, so that a crash at any moment leaves all of it or nothing that counts.
//!
//! First a *tombstone* is written: a file `<group>.removed` beside the snapshots. From then on the replica is gone, and whatever finds an
//! unfinished tombstone removes the rest: the log with the votes, the state, the snapshots, in any order and as often as it takes.
//!
//! The tombstone stays, with what the replica had promised: its vote, and the last entry that it had. A node that comes back to a group with
//! an empty log would otherwise be free to vote for somebody whose log is older than what it had acknowledged: an election that a majority
//! must not allow. With it, the node votes as if it had kept its log. It is some 60 bytes for each group that a node ever had.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::{BufMut, Bytes};
use raftmq_storage::{AtomicFile, GroupId, StateStore, Wal, WalError};

use crate::codec::{CodecError, FORMAT, Reader, encode, load, put_log_id, put_option, put_vote, stored};
use crate::log::{log_ids, to_io};
use crate::snapshot;
use crate::state::from_store;
use crate::types::{LogId, Vote};

/// What a replica that was removed had promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) vote: Option<Vote>,
    /// The last entry that it ever had: who has less gets no vote.
    pub(crate) last: Option<LogId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tombstone {
    promise: Promise,
    /// Nothing else is left of the replica.
    done: bool,
}

/// Where replicas are.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) wal: Wal,
    pub(crate) store: StateStore,
    pub(crate) directory: PathBuf,
}

impl Disk {
    /// The groups that have anything here. Removes what is left of those that were being removed. Blocks.
    pub(crate) fn known(&self) -> io::Result<Vec<GroupId>> {
        let mut known: BTreeSet<GroupId> = self.wal.groups().into_iter().collect();
        known.extend(self.store.groups().map_err(from_store)?);
        let mut removed = Vec::new();
        for name in names(&self.directory)? {
            known.extend(snapshot::group_of(&name));
            removed.extend(name.strip_suffix(SUFFIX).and_then(parse_group));
        }
        for group in removed {
            if self.finish(group)? {
                known.remove(&group);
            }
        }
        Ok(known.into_iter().collect())
    }

    /// Completes a removal that was begun; says whether there was one. Blocks.
    pub(crate) fn finish(&self, group: GroupId) -> io::Result<bool> {
        match self.read(group)? {
            Some(Tombstone { promise, done: false }) => self.remove_rest(group, promise, &mut |_| {}).map(|()| true),
            Some(Tombstone { done: true, .. }) | None => Ok(false),
        }
    }

    /// What was promised by a replica that was removed here; its vote is in the log again then. Blocks.
    pub(crate) fn promise(&self, group: GroupId) -> io::Result<Promise> {
        let Some(Tombstone { promise, .. }) = self.read(group)? else {
            return Ok(Promise::default());
        };
        let state = self.wal.group_state(group).map_err(to_io)?;
        if let (None, Some(vote)) = (state.vote, &promise.vote) {
            wait(|done| self.wal.save_vote(group, stored(vote, put_vote), done))?;
        }
        Ok(promise)
    }

    /// Whether there is anything of a group, but a tombstone.
    fn has(&self, group: GroupId) -> io::Result<bool> {
        Ok(self.wal.groups().contains(&group)
            || self.store.groups().map_err(from_store)?.contains(&group)
            || names(&self.directory)?.iter().any(|name| snapshot::is_of(name, group)))
    }

    /// Removes a replica that does not run. `after` is told of each step. Blocks.
    pub(crate) fn remove(&self, group: GroupId, after: &mut dyn FnMut(&'static str)) -> io::Result<()> {
        if !self.has(group)? {
            return self.finish(group).map(drop);
        }
        let before = self.read(group)?.map(|tombstone| tombstone.promise).unwrap_or_default();
        let state = self.wal.group_state(group).map_err(to_io)?;
        let vote = state.vote.clone().map(|bytes| load("vote", bytes, Reader::vote)).transpose()?;
        let last = log_ids(state)?.last;
        let vote = if vote > before.vote { vote } else { before.vote };
        let promise = Promise { vote, last: last.max(before.last) };
        self.write(group, Tombstone { promise, done: false })?;
        after("tombstone");
        self.remove_rest(group, promise, after)
    }

    fn remove_rest(&self, group: GroupId, promise: Promise, after: &mut dyn FnMut(&'static str)) -> io::Result<()> {
        self.wal.drop_group(group).map_err(to_io)?;
        wait(|done| self.wal.barrier(done))?;
        after("log");
        if self.store.groups().map_err(from_store)?.contains(&group) {
            self.store.drop_group(group).map_err(from_store)?;
        }
        after("state");
        let mut removed = false;
        for name in names(&self.directory)?.iter().filter(|name| snapshot::is_of(name, group)) {
            fs::remove_file(self.directory.join(name))?;
            removed = true;
        }
        if removed {
            File::open(&self.directory)?.sync_all()?;
        }
        after("snapshots");
        self.write(group, Tombstone { promise, done: true })?;
        after("done");
        Ok(())
    }

    fn file(&self, group: GroupId) -> AtomicFile {
        AtomicFile::new(self.directory.join(format!("{group}{SUFFIX}")))
    }

    fn read(&self, group: GroupId) -> io::Result<Option<Tombstone>> {
        let Some(bytes) = self.file(group).read()? else {
            return Ok(None);
        };
        Ok(Some(decode(bytes.into())?))
    }

    fn write(&self, group: GroupId, tombstone: Tombstone) -> io::Result<()> {
        raftmq_storage::make_dir(&self.directory)?;
        self.file(group).write(&tombstone.encode())
    }
}

const SUFFIX: &str = ".removed";

impl Tombstone {
    fn encode(&self) -> Bytes {
        encode(|out| {
            out.put_u8(FORMAT);
            out.put_u8(self.done.into());
            put_option(out, self.promise.vote.as_ref(), put_vote);
            put_option(out, self.promise.last.as_ref(), put_log_id);
        })
    }
}

fn decode(bytes: Bytes) -> Result<Tombstone, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.format("removed")?;
    let done = reader.bool("removed")?;
    let promise =
        Promise { vote: reader.option("vote", Reader::vote)?, last: reader.option("last log id", Reader::log_id)? };
    reader.end()?;
    Ok(Tombstone { promise, done })
}

/// The names of the files in the directory, if there is one.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Reads what [`GroupId`] shows itself as.
pub(crate) fn parse_group(text: &str) -> Option<GroupId> {
    let (number, generation) = text.split_once('.')?;
    let group = GroupId::new(number.parse().ok()?, generation.parse().ok()?);
    (group.to_string() == text).then_some(group)
}

/// Hands something to the log and waits until it is on the disk.
fn wait(hand_in: impl FnOnce(raftmq_storage::wal::Callback) -> Result<(), WalError>) -> io::Result<()> {
    let (done, result) = mpsc::channel();
    hand_in(Box::new(move |result| drop(done.send(result)))).map_err(to_io)?;
    result.recv().map_err(io::Error::other)?.map_err(to_io)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use openraft::vote::{RaftLeaderId, RaftVote};
    use raftmq_storage::{LogEntry, StoreBatch, StoreOptions, WalOptions};

    use super::*;
    use crate::codec::encode_entry;
    use crate::snapshot::SnapshotDir;
    use crate::types::{Entry, LeaderId, SnapshotMeta};

    const GONE: GroupId = GroupId::new(1, 0);
    const STAYS: GroupId = GroupId::new(11, 0);

    fn open(dir: &Path) -> Disk {
        let options =
            WalOptions { segment_bytes: 1 << 20, ballast_bytes: 0, min_free_bytes: 0, ..WalOptions::default() };
        let (wal, _) = Wal::open(dir.join("wal"), options).unwrap();
        let store = StateStore::open(dir.join("state"), StoreOptions::default()).unwrap();
        Disk { wal, store, directory: dir.join("snapshots") }
    }

    fn vote(term: u64) -> Vote {
        Vote::from_leader_id(LeaderId::new(term, 2), false)
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, 2), index)
    }

    fn append(disk: &Disk, group: GroupId, term: u64, index: u64) {
        let entry = Entry { log_id: id(term, index), payload: openraft::EntryPayload::Blank };
        let entries = vec![LogEntry { index, data: encode_entry(&entry) }];
        wait(|done| disk.wal.try_append(group, entries, done)).unwrap();
    }

    /// A replica that has something everywhere.
    fn fill(disk: &Disk, group: GroupId) {
        wait(|done| disk.wal.save_vote(group, stored(&vote(7), put_vote), done)).unwrap();
        append(disk, group, 5, 0);
        append(disk, group, 6, 1);
        let mut batch = StoreBatch::default();
        batch.put("key", "value");
        disk.store.group(group).unwrap().apply(batch, "marker".into()).unwrap();
        let snapshots = SnapshotDir::open(&disk.directory, group).unwrap();
        snapshots.write(SnapshotMeta::default(), b"snapshot").unwrap();
        fs::write(disk.directory.join(format!("{group}.part-3")), b"half").unwrap();
    }

    fn files(disk: &Disk, group: GroupId) -> usize {
        names(&disk.directory).unwrap().iter().filter(|name| snapshot::is_of(name, group)).count()
    }

    fn is_whole(disk: &Disk, group: GroupId) -> bool {
        let state = disk.wal.group_state(group).unwrap();
        let value = disk.store.group(group).unwrap().get(b"key").unwrap();
        (state.last, state.vote.is_some(), value.is_some(), files(disk, group)) == (Some(1), true, true, 2)
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to)
            } else {
                drop(fs::copy(entry.path(), to))
            }
        }
    }

    #[test]
    fn a_crash_leaves_all_of_a_replica_or_nothing_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("whole");
        let disk = open(&from);
        fill(&disk, GONE);
        fill(&disk, STAYS);
        let mut steps = vec!["before"];
        copy(&from, &dir.path().join("before"));
        disk.remove(GONE, &mut |step| {
            copy(&from, &dir.path().join(step));
            steps.push(step);
        })
        .unwrap();
        assert_eq!(steps, ["before", "tombstone", "log", "state", "snapshots", "done"]);
        for step in steps {
            // The first one to look completes it, whether that is known() or a start.
            for by_start in [false, true] {
                let at = dir.path().join(format!("{step} {by_start}"));
                copy(&dir.path().join(step), &at);
                let disk = open(&at);
                if step == "before" {
                    assert_eq!(disk.known().unwrap(), [GONE, STAYS]);
                    assert!(is_whole(&disk, GONE) && !disk.finish(GONE).unwrap());
                    continue;
                }
                if by_start {
                    assert_eq!(disk.finish(GONE).unwrap(), step != "done", "{step}");
                } else {
                    assert_eq!(disk.known().unwrap(), [STAYS], "{step}");
                }
                assert!(!disk.has(GONE).unwrap(), "{step}");
                assert!(is_whole(&disk, STAYS), "{step}");
                drop(disk);
                let disk = open(&at);
                assert_eq!(disk.known().unwrap(), [STAYS], "{step}");
                assert!(!disk.has(GONE).unwrap(), "{step}");
                assert_eq!(
                    disk.promise(GONE).unwrap(),
                    Promise { vote: Some(vote(7)), last: Some(id(6, 1)) },
                    "{step}"
                );
            }
        }
    }

    #[test]
    fn what_was_promised_is_kept_over_several_removals() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(dir.path());
        disk.remove(GONE, &mut |step| panic!("nothing is there for {step}")).unwrap();
        assert_eq!(disk.promise(GONE).unwrap(), Promise::default());
        fill(&disk, GONE);
        disk.remove(GONE, &mut |_| {}).unwrap();
        // It comes back, and goes before it has what it had.
        let promise = disk.promise(GONE).unwrap();
        assert_eq!(disk.known().unwrap(), [GONE], "its vote is in the log again");
        append(&disk, GONE, 4, 0);
        disk.remove(GONE, &mut |_| {}).unwrap();
        assert_eq!(disk.promise(GONE).unwrap(), promise);
        // With more, it is more.
        append(&disk, GONE, 8, 0);
        wait(|done| disk.wal.save_vote(GONE, stored(&vote(9), put_vote), done)).unwrap();
        disk.remove(GONE, &mut |_| {}).unwrap();
        assert_eq!(disk.promise(GONE).unwrap(), Promise { vote: Some(vote(9)), last: Some(id(8, 0)) });
        // A vote of its own is not replaced.
        assert_eq!(disk.promise(GONE).unwrap().vote, Some(vote(9)));
        drop(disk);
        let damaged = dir.path().join("snapshots").join("1.0.removed");
        let mut bytes = fs::read(&damaged).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&damaged, bytes).unwrap();
        let disk = open(dir.path());
        assert!(disk.known().is_err() && disk.finish(GONE).is_err() && disk.promise(GONE).is_err());
    }

    #[test]
    fn only_names_of_groups_are_taken_for_them() {
        for (name, group) in [
            ("1.0", Some(GONE)),
            ("11.0", Some(STAYS)),
            ("4294967295.7", Some(GroupId::new(u32::MAX, 7))),
            ("01.0", None),
            ("+1.0", None),
            ("1", None),
            ("1.", None),
            ("1.0.0", None),
            ("4294967296.0", None),
        ] {
            assert_eq!(parse_group(name), group, "{name}");
        }
        assert_eq!(snapshot::group_of("1.0.snapshot"), Some(GONE));
        assert_eq!(snapshot::group_of("1.0.part-3"), None);
        assert!(snapshot::is_of("1.0.part-3", GONE) && !snapshot::is_of("11.0.part-3", GONE));
    }
}
