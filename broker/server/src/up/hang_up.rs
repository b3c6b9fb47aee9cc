//! SIGHUP to `up`: its brokers are to read their settings again. But where the terminal is gone it ends, as programs do that know
//! nothing of the signal.

use std::fs::File;
use std::io;

use futures::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a SIGHUP means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HangUp {
    /// Someone sent it.
    Reload,
    /// The terminal that `up` was started on is closed.
    TerminalGone,
}

/// Keeps SIGHUP from ending the process.
pub(crate) struct HangUps {
    signal: Signal,
    /// It was started on a terminal, and not so that it outlives it (`nohup`).
    ends_with_terminal: bool,
}

impl HangUps {
    pub(crate) fn listen() -> io::Result<Self> {
        // Before the signal is listened to, which changes the answer.
        let ends_with_terminal = has_terminal() && !is_ignored();
        Ok(Self { signal: signal(SignalKind::hangup())?, ends_with_terminal })
    }

    /// What came since the last call.
    pub(crate) fn came(&mut self) -> Option<HangUp> {
        self.signal.recv().now_or_never()??;
        Some(if self.ends_with_terminal && !has_terminal() { HangUp::TerminalGone } else { HangUp::Reload })
    }
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether this process was started with SIGHUP ignored.
fn is_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hang_up(&status))
}

/// Of `/proc/PID/status`: bit 0 of the mask of ignored signals is signal 1.
fn ignores_hang_up(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals() {
        for (status, ignored) in [
            ("Name:\traftmq\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n", false),
            ("SigIgn:\t0000000000001001\n", true),
            ("SigIgn:\twhat\n", false),
            ("", false),
        ] {
            assert_eq!(ignores_hang_up(status), ignored, "{status:?}");
        }
    }
}
