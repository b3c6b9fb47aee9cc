//! Who this node is: its data directory, and what is written there before anything else is done.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use raftmq_meta::{InitialMember, MetaState};
use raftmq_planted::{Bug, planted};
use raftmq_storage::{AtomicFile, DirLock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::info;

use crate::error::StartError;

/// Version of the files' content.
const FORMAT: u8 = 1;
/// Incarnations whose boots are remembered; the lowest boots are forgotten first, there is never a need for so many.
const MAX_SEEN: usize = 4096;

/// How long a start waits for the process that has the directory. A pod that is deleted by force is replaced while its broker still stops: the
/// next one would end at once, and be started later each time.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// Identity of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) node: String,
    /// Random number made with the directory.
    pub(crate) incarnation: u128,
    /// Which cluster it is part of, and under which Raft id.
    pub(crate) member: Option<Membership>,
    /// What was agreed at a bootstrap. Kept by the one that initialises until the cluster exists.
    pub(crate) agreed: Option<Plan>,
}

/// The place of this directory in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) cluster_id: u128,
    pub(crate) raft_id: u64,
}

/// A cluster to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) cluster_id: u128,
    /// In the order of their names and ids.
    pub(crate) members: Vec<InitialMember>,
}

impl Plan {
    pub(crate) fn id_of(&self, incarnation: u128) -> Option<u64> {
        self.members.iter().find(|m| m.incarnation == incarnation).map(|m| m.id)
    }

    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.members.iter().map(|m| m.name.as_str()).collect()
    }
}

/// Whom to ask at the next start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownMembers {
    /// Raft id and address of the links.
    pub(crate) members: BTreeMap<u64, String>,
    /// Voters of the meta group.
    pub(crate) voters: BTreeSet<u64>,
}

impl KnownMembers {
    pub(crate) fn of_plan(plan: &Plan) -> Self {
        let voters = raftmq_meta::voters_for(plan.members.len());
        Self {
            members: plan.members.iter().map(|m| (m.id, m.addresses.link.clone())).collect(),
            voters: plan.members.iter().take(voters).map(|m| m.id).collect(),
        }
    }

    pub(crate) fn of_state(state: &MetaState, voters: &BTreeSet<u64>) -> Self {
        Self {
            members: state.members.values().map(|m| (m.id, m.addresses.link.clone())).collect(),
            voters: voters.clone(),
        }
    }
}

/// What a peer says to a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BootVerdict {
    Fresh,
    Stale { recorded: u64 },
}

/// The data directory, held by this process.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: DirLock,
    identity_file: AtomicFile,
    members_file: AtomicFile,
    seen_file: AtomicFile,
    identity: Mutex<Identity>,
    members: Mutex<KnownMembers>,
    seen: Mutex<BTreeMap<u128, (u64, u64)>>,
    /// The count of this start.
    pub(crate) boot: u64,
    /// Random number of this start.
    pub(crate) nonce: u64,
    pub(crate) incarnation: u128,
}

impl DataDir {
    /// Locks the directory, as soon as the process before this one has ended; reads or makes the identity, and counts this start. Blocks.
    pub(crate) fn open(path: &Path, cluster: &str, node: &str) -> Result<Self, StartError> {
        Self::open_within(path, cluster, node, PREDECESSOR)
    }

    fn open_within(path: &Path, cluster: &str, node: &str, patience: Duration) -> Result<Self, StartError> {
        let failed = |context| move |source| StartError::Directory { path: path.to_path_buf(), context, source };
        std::fs::create_dir_all(path).map_err(failed("making it"))?;
        let told = || info!(path = %path.display(), "another process has the data directory: waiting for its end");
        let lock = DirLock::acquire_within(path, patience, told).map_err(failed("locking it"))?;
        // The boot first: from here on no other start of this directory, or of a copy, has this number and this nonce.
        let boot_file = AtomicFile::new(path.join("boot"));
        let before: Option<u64> = read(&boot_file).map_err(failed("reading the boot counter"))?;
        let boot = before.unwrap_or_else(first_boot) + 1;
        write(&boot_file, &boot).map_err(failed("counting the boot"))?;

        let identity_file = AtomicFile::new(path.join("identity"));
        let found: Option<Identity> = read(&identity_file).map_err(failed("reading the identity"))?;
        let identity = match found {
            Some(identity) => {
                if identity.cluster != cluster || identity.node != node {
                    return Err(StartError::Identity {
                        path: path.to_path_buf(),
                        reason: format!(
                            "it belongs to node {} of cluster {}, this is {node} of {cluster}",
                            identity.node, identity.cluster
                        ),
                    });
                }
                identity
            }
            None => {
                let made = Identity {
                    cluster: cluster.to_owned(),
                    node: node.to_owned(),
                    incarnation: new_incarnation(node),
                    member: None,
                    agreed: None,
                };
                // A log without an identity is half a directory: nobody knows whose votes these are.
                if path.join("wal").exists() {
                    return Err(StartError::Identity {
                        path: path.to_path_buf(),
                        reason: "there is a log but no identity; empty the directory to join as a new member".into(),
                    });
                }
                write(&identity_file, &made).map_err(failed("writing the identity"))?;
                made
            }
        };
        let seen_file = AtomicFile::new(path.join("seen-boots"));
        let seen = read(&seen_file).map_err(failed("reading the boots seen"))?.unwrap_or_default();
        let members_file = AtomicFile::new(path.join("members"));
        let members = read(&members_file).map_err(failed("reading the members"))?.unwrap_or_default();
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
            identity_file,
            members_file,
            seen_file,
            boot,
            nonce: rand::random(),
            incarnation: identity.incarnation,
            identity: Mutex::new(identity),
            members: Mutex::new(members),
            seen: Mutex::new(seen),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the identity; it is on the disk when this returns. Blocks for a sync.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Identity)) -> io::Result<Identity> {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = identity.clone();
        change(&mut changed);
        if changed != *identity {
            write(&self.identity_file, &changed)?;
            *identity = changed.clone();
        }
        Ok(changed)
    }

    pub(crate) fn known_members(&self) -> KnownMembers {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers whom to ask at the next start. Blocks for a sync if it changed.
    pub(crate) fn remember_members(&self, new: KnownMembers) -> io::Result<()> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if *members != new {
            write(&self.members_file, &new)?;
            *members = new;
        }
        Ok(())
    }

    /// Judges a peer's boot. What is answered is on the disk before: blocks for a sync.
    pub(crate) fn judge_boot(&self, incarnation: u128, boot: u64, nonce: u64) -> io::Result<BootVerdict> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(&incarnation) {
            Some(&(recorded, by)) if boot == recorded && nonce == by => {
                return Ok(BootVerdict::Fresh);
            }
            Some(&(recorded, _)) if boot <= recorded => return Ok(BootVerdict::Stale { recorded }),
            _ => {}
        }
        let mut new = seen.clone();
        new.insert(incarnation, (boot, nonce));
        while new.len() > MAX_SEEN {
            let lowest = new.iter().min_by_key(|(_, (boot, _))| *boot).map(|(i, _)| *i);
            lowest.and_then(|i| new.remove(&i));
        }
        write(&self.seen_file, &new)?;
        *seen = new;
        Ok(BootVerdict::Fresh)
    }
}

/// How often a directory without a count was started.
fn first_boot() -> u64 {
    if !planted(Bug::ReuseId) {
        return 0;
    }
    // More than whatever was on the disk that is gone.
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// The name of a directory that has none yet: no other one ever has it.
fn new_incarnation(node: &str) -> u128 {
    if planted(Bug::ReuseId) {
        return node.bytes().fold(1, |name, byte| (name << 8) | u128::from(byte));
    }
    rand::random::<u128>().max(1)
}

fn read<T: DeserializeOwned>(file: &AtomicFile) -> io::Result<Option<T>> {
    let invalid =
        |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", file.path().display()));
    let Some(bytes) = file.read()? else {
        return Ok(None);
    };
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map(Some).map_err(|e| invalid(e.to_string())),
        Some((other, _)) => Err(invalid(format!("format {other} is not known to this version"))),
        None => Err(invalid("empty".into())),
    }
}

fn write<T: Serialize>(file: &AtomicFile, value: &T) -> io::Result<()> {
    let bytes = postcard::to_extend(value, vec![FORMAT]).map_err(io::Error::other)?;
    file.write(&bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn boots_are_counted_and_one_process_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), "c", "n").unwrap();
        assert_eq!(first.boot, 1);
        let second = DataDir::open_within(dir.path(), "c", "n", Duration::ZERO);
        assert!(matches!(second, Err(StartError::Directory { context: "locking it", .. })));
        let (incarnation, nonce) = (first.incarnation, first.nonce);
        first.update(|i| i.member = Some(Membership { cluster_id: 3, raft_id: 4 })).unwrap();
        drop(first);
        let again = DataDir::open(dir.path(), "c", "n").unwrap();
        assert_eq!((again.boot, again.incarnation), (2, incarnation));
        assert_ne!(again.nonce, nonce);
        assert_eq!(again.identity().member, Some(Membership { cluster_id: 3, raft_id: 4 }));
        drop(again);
        assert!(matches!(DataDir::open(dir.path(), "c", "other"), Err(StartError::Identity { .. })));
        assert!(matches!(DataDir::open(dir.path(), "d", "n"), Err(StartError::Identity { .. })));
    }

    #[test]
    fn a_start_waits_for_the_process_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), "c", "n").unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(first);
        });
        assert_eq!(DataDir::open(dir.path(), "c", "n").unwrap().boot, 2);
        holder.join().unwrap();
    }

    #[test]
    fn half_a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("wal")).unwrap();
        assert!(matches!(DataDir::open(dir.path(), "c", "n"), Err(StartError::Identity { .. })));
        let damaged = tempfile::tempdir().unwrap();
        drop(DataDir::open(damaged.path(), "c", "n").unwrap());
        std::fs::write(damaged.path().join("identity"), b"what").unwrap();
        assert!(matches!(DataDir::open(damaged.path(), "c", "n"), Err(StartError::Directory { .. })));
    }

    #[test]
    fn boots_of_others_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), "c", "n").unwrap();
        assert_eq!(data.judge_boot(7, 3, 1).unwrap(), BootVerdict::Fresh);
        assert_eq!(data.judge_boot(7, 3, 1).unwrap(), BootVerdict::Fresh);
        drop(data);
        let data = DataDir::open(dir.path(), "c", "n").unwrap();
        assert_eq!(data.judge_boot(7, 3, 2).unwrap(), BootVerdict::Stale { recorded: 3 });
        assert_eq!(data.judge_boot(7, 2, 1).unwrap(), BootVerdict::Stale { recorded: 3 });
        assert_eq!(data.judge_boot(7, 4, 2).unwrap(), BootVerdict::Fresh);
        assert_eq!(data.judge_boot(8, 1, 1).unwrap(), BootVerdict::Fresh);
    }
}
