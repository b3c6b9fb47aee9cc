//! The bans of a standalone node: a file in its data directory, since it has no meta group.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use raftmq_cluster::ControlError;
use raftmq_meta::{Ban, BanList, BanRefusal, BanTarget};
use tokio::sync::{Mutex, watch};

use super::{Bans, Source, unix_ms};

/// In the data directory.
const FILE: &str = "bans.json";
/// How often it is looked whether a ban is over.
const LOOK: Duration = Duration::from_millis(250);

pub(super) struct LocalBans {
    /// `None` in tests.
    file: Option<PathBuf>,
    list: Arc<watch::Sender<BanList>>,
    /// One change at a time: what is in force is what is on the disk.
    changing: Arc<Mutex<()>>,
}

impl LocalBans {
    pub(super) fn open(data_dir: &Path) -> io::Result<Self> {
        let file = data_dir.join(FILE);
        let list = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{error}; without this file nobody is banned"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BanList::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { file: Some(file), list: Arc::new(watch::Sender::new(list)), changing: Arc::default() })
    }

    #[cfg(test)]
    pub(super) fn in_memory() -> Self {
        Self { file: None, list: Arc::default(), changing: Arc::default() }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<BanList> {
        self.list.subscribe()
    }

    pub(super) fn list(&self) -> BanList {
        self.list.borrow().clone()
    }

    /// Changes the list on the disk first. What was begun is done to its end, and the next change waits for that, also where the future is
    /// dropped.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut BanList) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let one = Arc::clone(&self.changing).lock_owned().await;
        let mut list = self.list();
        let done = change(&mut list)?;
        let (file, in_force) = (self.file.clone(), Arc::clone(&self.list));
        let work = move || {
            let written = file.map_or(Ok(()), |file| {
                write(&file, &list).map_err(|error| ControlError::Unavailable(format!("{}: {error}", file.display())))
            });
            if written.is_ok() {
                in_force.send_replace(list);
            }
            drop(one);
            written.map(|()| done)
        };
        let shutting_down = |_| Err(ControlError::Unavailable("the node is shutting down".into()));
        tokio::task::spawn_blocking(work).await.unwrap_or_else(shutting_down)
    }
}

/// Whole or not at all.
fn write(file: &Path, list: &BanList) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(list).map_err(io::Error::other)?;
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let new = file.with_extension("new");
    let mut out = File::create(&new)?;
    out.write_all(&json)?;
    out.sync_all()?;
    std::fs::rename(&new, file)?;
    File::open(directory)?.sync_all()
}

/// Says for how many there was no room.
pub(super) fn added(list: &mut BanList, bans: Vec<Ban>) -> Result<usize, ControlError> {
    list.add(bans).map_err(|refusal| match refusal {
        BanRefusal::Invalid(what) => ControlError::Invalid(what),
        BanRefusal::Full => {
            ControlError::Conflict("the list of bans is full: end some, or ban a range of addresses".into())
        }
    })
}

pub(super) fn removed(list: &mut BanList, target: &BanTarget) -> Result<(), ControlError> {
    if list.remove(target) { Ok(()) } else { Err(ControlError::NotFound("there is no such ban".into())) }
}

/// Ends bans when they are over.
pub(super) fn end_those_over(bans: &Arc<Bans>) {
    let bans = Arc::downgrade(bans);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(bans) = bans.upgrade() else {
                return;
            };
            let Source::Local(local) = &bans.source else {
                return;
            };
            let now_ms = unix_ms();
            if local.list.borrow().is_over(now_ms) {
                let ended = local.change(|list| {
                    list.expire(now_ms);
                    Ok(())
                });
                if let Err(error) = ended.await {
                    tracing::warn!(%error, "bans that are over stay for now");
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_meta::BanOrigin;

    fn ban(target: &BanTarget) -> Ban {
        Ban {
            target: target.clone(),
            reason: "r".into(),
            by: "b".into(),
            origin: BanOrigin::Operator,
            since_ms: 1,
            until_ms: None,
        }
    }

    #[tokio::test]
    async fn bans_of_a_standalone_node_are_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("not/made/yet");
        let bans = LocalBans::open(&data).unwrap();
        let target = BanTarget::Address("fd00::/16".parse().unwrap());
        bans.change(|list| added(list, vec![ban(&target)])).await.unwrap();
        let again = LocalBans::open(&data).unwrap();
        assert_eq!(again.list(), bans.list());
        again.change(|list| removed(list, &target)).await.unwrap();
        assert!(again.change(|list| removed(list, &target)).await.is_err());
        assert!(LocalBans::open(&data).unwrap().list().is_empty());
        std::fs::write(data.join(FILE), b"[{").unwrap();
        assert!(LocalBans::open(&data).is_err());
    }

    /// A caller that hangs up drops the future, whatever has come of it.
    #[tokio::test]
    async fn a_change_that_nobody_waits_for_is_done_to_its_end_before_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let bans = LocalBans::open(directory.path()).unwrap();
        let target = |n: u32| BanTarget::ClientId(format!("{n}-{}", "x".repeat(40_000)));
        let is_kept = |targets: &[u32], there: bool| {
            let list = bans.list();
            for n in targets {
                assert_eq!(list.get(&target(*n)).is_some(), there, "{n} in force");
            }
            assert_eq!(LocalBans::open(directory.path()).unwrap().list(), list, "what is in force is on the disk");
        };
        let mut cut_offs = 0;
        for n in (0..20).step_by(2) {
            let cut_off = bans.change(|list| added(list, vec![ban(&target(n))]));
            // One may be done by then, where this thread has to wait for a processor.
            cut_offs += u32::from(tokio::time::timeout(Duration::ZERO, cut_off).await.is_err());
            bans.change(|list| added(list, vec![ban(&target(n + 1))])).await.unwrap();
            is_kept(&[n, n + 1], true);
        }
        assert!(cut_offs > 0);
        let cut_off = bans.change(|list| removed(list, &target(0)));
        let _ = tokio::time::timeout(Duration::ZERO, cut_off).await;
        bans.change(|list| removed(list, &target(1))).await.unwrap();
        is_kept(&[0, 1], false);
    }
}
