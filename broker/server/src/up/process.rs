//! One broker process under `raftmq up`.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
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

/// A running broker. It ends with `up`, even when `up` is killed: the broker watches the pipe that this holds.
pub(crate) struct Process {
    child: Child,
    _tie: Option<ChildStdin>,
}

impl Process {
    /// Starts the broker in a process group of its own, so that a Ctrl-C at the terminal reaches `up` only and the
    /// brokers are stopped in order.
    pub(crate) fn start(launch: &Launch) -> io::Result<Self> {
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

    /// Asks it to stop (SIGTERM) and kills it after `patience`. True when it went by itself.
    pub(crate) async fn stop(mut self, patience: Duration) -> bool {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // An error means that it is gone.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(patience, self.child.wait()).await.is_ok() {
            return true;
        }
        let _ = self.child.kill().await;
        false
    }
}
