//! Clock, limits and what processes take.

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// The monotonic clock, in nanoseconds.
pub(crate) fn now() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Processor time of this process, in nanoseconds.
pub(crate) fn own_cpu() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec.cast_unsigned() * SECOND + time.tv_nsec.cast_unsigned()
}

/// Raises the limit of open files as far as it goes.
///
/// # Errors
/// It does not go as far as `needed`.
pub(crate) fn raise_open_files(needed: u64) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_none_or(|maximum| maximum >= needed) {
        limit.current = Some(needed);
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return Ok(());
        }
    } else {
        // Whoever may, raises the hard limit too.
        let raised = rustix::process::Rlimit { current: Some(needed), maximum: Some(needed) };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return Ok(());
        }
    }
    Err(format!(
        "so many connections need {needed} open files, the limit is {}: raise it (ulimit -Hn {needed}, or LimitNOFILE= of a service) or use fewer",
        limit.maximum.unwrap_or_default()
    ))
}

/// What a process has taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Seconds, of all its threads, in user and kernel; to a hundredth.
    pub(crate) cpu: f64,
    /// Resident memory in bytes.
    pub(crate) resident: u64,
}

/// Of a process of this machine; `None` when it is not there.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = rustix::param::clock_ticks_per_second();
    parse_stat(&stat, ticks, rustix::param::page_size() as u64)
}

fn parse_stat(stat: &str, ticks: u64, page: u64) -> Option<Usage> {
    // The name of the program may hold anything, parentheses and spaces too.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
    let cpu = (number(14)? + number(15)?) as f64 / ticks as f64;
    Some(Usage { cpu, resident: number(24)? * page })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_kernels_line_of_a_process() {
        let line =
            "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 100 1000000 77 18446744073709551615 1 1";
        assert_eq!(parse_stat(line, 100, 4_096), Some(Usage { cpu: 2.0, resident: 77 * 4_096 }));
        assert_eq!(parse_stat("42 (x) S 1", 100, 4_096), None);
        let own = usage(std::process::id()).unwrap();
        assert!(own.resident > 100_000);
        assert!(now() > 0 && own_cpu() > 0);
    }
}
