//! One process a directory.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

/// Time between two looks whether a directory is free.
const AGAIN: Duration = Duration::from_millis(50);

/// Holds a directory for this process: an `flock` on its file `lock`, released when dropped or when the process dies.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock. The directory must exist.
    ///
    /// # Errors
    /// `WouldBlock` with the directory's name when another holder has it, else what the file system says.
    pub fn acquire(dir: &Path) -> io::Result<Self> {
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is in use by another process", dir.display()),
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lock as soon as its holder lets go of it, `told` once if there is one. Blocks, for at most `patience`.
    ///
    /// # Errors
    /// As [`DirLock::acquire`], where another one has it all the time.
    pub fn acquire_within(dir: &Path, patience: Duration, told: impl FnOnce()) -> io::Result<Self> {
        let end = Instant::now() + patience;
        let mut told = Some(told);
        loop {
            match Self::acquire(dir) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    if let Some(told) = told.take() {
                        told();
                    }
                    thread::sleep(AGAIN.min(end.saturating_duration_since(Instant::now())));
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        let refused = DirLock::acquire(dir.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn who_waits_gets_it_when_the_holder_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        let mut told = 0;
        let refused = DirLock::acquire_within(dir.path(), AGAIN * 3, || told += 1).unwrap_err();
        assert_eq!((refused.kind(), told), (io::ErrorKind::WouldBlock, 1));
        let holder = thread::spawn(move || {
            thread::sleep(AGAIN * 4);
            drop(first);
        });
        let second = DirLock::acquire_within(dir.path(), Duration::from_secs(30), || told += 1).unwrap();
        assert_eq!(told, 2);
        holder.join().unwrap();
        drop(second);
        DirLock::acquire_within(dir.path(), Duration::ZERO, || told += 1).unwrap();
        assert_eq!(told, 2);
    }
}
