//! One broker process under `raftmq up`.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

/// What it takes to start a broker.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The `raftmq` binary.
    pub(crate) program: PathBuf,
    /// The broker's configuration file.
    pub(crate) config: PathBuf,
    /// Where its log goes, appended.
    pub(crate) log: PathBuf,
    /// Where its process id is noted, for people and tests.
    pub(crate) pid: PathBuf,
}

/// A log longer than this is put aside when its broker starts, in the place of the one put aside before.
const LONG_LOG: u64 = 64 * 1024 * 1024;

/// A running broker. It ends with `up`, even when `up` is killed: the broker watches the pipe that this holds.
pub(crate) struct Process {
    child: Child,
    _tie: Option<ChildStdin>,
}

impl Process {
    /// Starts the broker in a process group of its own, so that a Ctrl-C at the terminal reaches `up` only and the
    /// brokers are stopped in order.
    pub(crate) fn start(launch: &Launch) -> io::Result<Self> {
        set_aside_when_long(&launch.log)?;
        let log = File::options().create(true).append(true).open(&launch.log)?;
        let mut command = std::process::Command::new(&launch.program);
        command
            .arg("node")
            .arg("--config")
            .arg(&launch.config)
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let tie = child.stdin.take();
        if let Some(id) = child.id() {
            std::fs::write(&launch.pid, format!("{id}\n"))?;
        }
        Ok(Self { child, _tie: tie })
    }

    /// How it ended, if it did.
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Lets it read its settings again (SIGHUP).
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // An error means that it is gone.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to stop (SIGTERM) and kills it after `patience`. True when it went by itself.
    pub(crate) async fn stop(mut self, patience: Duration) -> bool {
        self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.child.wait()).await.is_ok() {
            return true;
        }
        let _ = self.child.kill().await;
        false
    }
}

fn set_aside_when_long(log: &Path) -> io::Result<()> {
    match std::fs::metadata(log) {
        Ok(metadata) if metadata.len() > LONG_LOG => std::fs::rename(log, log.with_extension("old")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        set_aside_when_long(&log).unwrap();
        std::fs::write(&log, "short").unwrap();
        set_aside_when_long(&log).unwrap();
        assert!(log.exists());
        File::options().write(true).open(&log).unwrap().set_len(LONG_LOG + 1).unwrap();
        set_aside_when_long(&log).unwrap();
        assert!(!log.exists() && dir.path().join("log.old").exists());
    }
}
