//! What the process itself sees: who it is, what it may use, what the clock says.

use std::path::Path;

use raftmq_config::{Config, ConfigError};
use raftmq_storage::WalOptions;
use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getgid, getgroups, getrlimit, getuid};
use x509_parser::time::ASN1Time;

use super::report::{Report, size};
use super::{names, tls};
use crate::check::{Files, check};

/// A broker holds a file for each client; with fewer than these it serves next to nobody.
const FEW_FILES: u64 = 1024;
/// 2026-01-01: no version is older, an earlier clock is wrong.
const EARLIEST: i64 = 1_767_225_600;

/// Looks at everything; the data directory is that of the settings, where a file of them is given.
pub(super) fn look(config: Option<&Path>) -> Report {
    let mut report = Report::default();
    report.fine("version", format!("raftmq {}", crate::VERSION));
    user(&mut report);
    names::look(&mut report);
    let roots = tls::Roots::of_system();
    report.add("root certificates", !roots.certificates.is_empty(), roots.to_string());
    open_files(&mut report);
    if let Some(path) = config {
        settings(path, &mut report);
    }
    cgroup(&mut report);
    clock(ASN1Time::now(), &mut report);
    report
}

fn user(report: &mut Report) {
    let groups: Vec<String> = getgroups().unwrap_or_default().iter().map(|group| group.as_raw().to_string()).collect();
    let more = if groups.is_empty() { String::new() } else { format!(", further groups {}", groups.join(" ")) };
    report.fine("user", format!("{}, group {}{more}", getuid().as_raw(), getgid().as_raw()));
}

fn open_files(report: &mut Report) {
    let limit = getrlimit(Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let (soft, hard) = (shown(limit.current), shown(limit.maximum));
    // A broker raises its own limit to the hard one.
    let enough = limit.maximum.is_none_or(|hard| hard >= FEW_FILES);
    report.add("open files", enough, format!("{soft}, which a broker raises to {hard}"));
}

fn settings(path: &Path, report: &mut Report) {
    match Config::load_with_origins(Some(path), std::env::vars(), &[]) {
        Ok((config, origins)) => {
            match check(&config, &origins, Files::Read) {
                Ok(()) => report.fine("settings", format!("{}: node {}", path.display(), config.node.name)),
                Err(error) => report.problem("settings", in_one_line(&error)),
            }
            if config.cluster.is_some() {
                data_directory(&config.node.data_dir, WalOptions::default().min_free_bytes, report);
            } else {
                report.fine("data directory", "not used: a broker alone keeps nothing on disk");
            }
        }
        Err(error) => report.problem("settings", in_one_line(&error)),
    }
}

/// A setting that is wrong is a line of its own in the error.
fn in_one_line(error: &ConfigError) -> String {
    error.to_string().trim_end().replace('\n', "; ")
}

/// With less room than `needed` a node takes no more entries.
fn data_directory(path: &Path, needed: u64, report: &mut Report) {
    // A node makes the directory at its first start: until then the folder counts in which it would be.
    let folder = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let shown = if folder == path { path.display().to_string() } else { format!("{}, not there yet", path.display()) };
    let mut problem = |reason: String| report.problem("data directory", format!("{shown}: {reason}"));
    if !folder.is_dir() {
        return problem(format!("{} is no directory", folder.display()));
    }
    if let Err(error) = access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        return problem(format!("{} cannot be written: {error}", folder.display()));
    }
    match statvfs(folder) {
        Ok(space) => {
            let (free, all) = (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize);
            let found = format!("{} of {} free", size(free), size(all));
            if free < needed {
                return problem(format!("{found}: with less than {} a node takes nothing more", size(needed)));
            }
            report.fine("data directory", format!("{shown}: writable, {found}"));
        }
        Err(error) => problem(format!("its free space cannot be read: {error}")),
    }
}

fn cgroup(report: &mut Report) {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    // In a container the own group is the root of what is mounted.
    let read = |file: &str| {
        let places = [root.join(path).join(file), root.join(file)];
        places.iter().find_map(|place| std::fs::read_to_string(place).ok())
    };
    report.fine("memory limit", read("memory.max").map_or_else(unknown, |text| memory(&text)));
    report.fine("CPU limit", read("cpu.max").map_or_else(unknown, |text| cpu(&text)));
}

fn unknown() -> String {
    "not to be read here (no cgroup v2)".to_owned()
}

/// `memory.max`: bytes, or `max`.
fn memory(text: &str) -> String {
    text.trim().parse().map_or_else(|_| "none".to_owned(), size)
}

/// `cpu.max`: microseconds of a period, or `max`, then the period.
fn cpu(text: &str) -> String {
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0.0 => format!("{:.2} cores", quota / period),
        _ => "none".to_owned(),
    }
}

fn clock(now: ASN1Time, report: &mut Report) {
    report.add("clock", now.timestamp() >= EARLIEST, tls::utc(now));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_data_directory_has_to_be_writable_and_have_room() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, needed, said) in [
            (dir.path(), 1, "writable"),
            (dir.path(), u64::MAX, "a node takes nothing more"),
            (&dir.path().join("a/b"), 1, "a/b, not there yet: writable"),
            (&file, 1, "is no directory"),
            // Nobody writes here, not even root.
            (Path::new("/proc/self/nothing"), 1, "/proc/self cannot be written"),
        ] {
            let mut report = Report::default();
            data_directory(path, needed, &mut report);
            assert!(report.to_string().contains(said), "{report}");
            assert_eq!(report.is_ok(), said.ends_with("writable"), "{report}");
        }
    }

    #[test]
    fn limits_of_a_control_group() {
        assert_eq!((memory("1073741824\n"), memory("max\n")), ("1.0 GiB".into(), "none".into()));
        assert_eq!((cpu("150000 100000\n"), cpu("max 100000\n")), ("1.50 cores".into(), "none".into()));
    }

    #[test]
    fn a_clock_before_the_first_version_is_wrong() {
        for (seconds, right, shown) in [(0, false, "1970-01-01T00:00:00Z"), (EARLIEST, true, "2026-01-01T00:00:00Z")] {
            let mut report = Report::default();
            clock(ASN1Time::from_timestamp(seconds).unwrap(), &mut report);
            assert_eq!(report.is_ok(), right);
            assert!(report.to_string().contains(shown), "{report}");
        }
    }
}
