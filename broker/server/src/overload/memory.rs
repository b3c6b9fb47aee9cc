//! How much memory the process has, and how much it may have.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// From here on a limit of version 1 is none: it says the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 62;

/// Resident memory of this process, read from a file that stays open.
pub(crate) struct Resident {
    statm: File,
    page: u64,
}

impl Resident {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { statm: File::open("/proc/self/statm")?, page: rustix::param::page_size() as u64 })
    }

    /// In bytes, with what the allocator has and has not given back yet.
    pub(crate) fn read(&self) -> io::Result<u64> {
        let mut text = [0; 128];
        let length = self.statm.read_at(&mut text, 0)?;
        let pages = resident_pages(&text[..length]).ok_or(io::ErrorKind::InvalidData)?;
        Ok(pages.saturating_mul(self.page))
    }
}

/// proc(5), `/proc/pid/statm`: the second field.
fn resident_pages(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The memory limit of the process's control group or of one above it, whichever is smallest; `None` where there is none.
pub(crate) fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&groups, Path::new("/sys/fs/cgroup"))
}

/// cgroups(7): lines of `hierarchy:controllers:path`, of which version 2 has `0::path`. In a container the path may be the host's, of which
/// only the last part, or nothing, is mounted: what is not there is passed over.
fn limit_of(groups: &str, mounted: &Path) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (root, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (mounted.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        Some((root, path.to_owned(), file))
    });
    files.filter_map(|(root, path, file)| smallest(&root, &path, file)).min()
}

fn smallest(root: &Path, path: &str, file: &str) -> Option<u64> {
    // `..` begins the path of a group outside of what the process sees.
    let mut group: PathBuf =
        Path::new(path).components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    let mut smallest = None;
    loop {
        let limit = fs::read_to_string(root.join(&group).join(file)).ok().and_then(|text| limit(&text));
        smallest = smallest.into_iter().chain(limit).min();
        if !group.pop() {
            return smallest;
        }
    }
}

fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_process_has_memory() {
        let resident = Resident::open().unwrap();
        let before = resident.read().unwrap();
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident.read().unwrap();
        assert!(before > 100_000 && after > before + (60 << 20), "{before} {after} {}", held.len());
        assert_eq!(resident_pages(b"100 20 3 4 5 6 7\n"), Some(20));
        for wrong in [&b""[..], b"100", b"100 x", b"\xFF \xFF"] {
            assert_eq!(resident_pages(wrong), None);
        }
    }

    fn found(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        limit_of(groups, directory.path())
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let two = "0::/a/b\n";
        let one = "12:cpu,cpuacct:/a\n5:memory:/a/b\n1:name=systemd:/x\n0::/\n";
        let unlimited = "9223372036854771712\n";
        for (groups, files, expected) in [
            (two, &[("a/b/memory.max", "1000\n"), ("a/memory.max", "max\n")][..], Some(1_000)),
            (two, &[("a/b/memory.max", "1000\n"), ("a/memory.max", "500\n")], Some(500)),
            (two, &[("a/b/memory.max", "max\n")], None),
            // In a container with the host's path only the root is mounted, or has one of its own.
            (two, &[("memory.max", "700\n")], Some(700)),
            ("0::/\n", &[("memory.max", "700\n")], Some(700)),
            ("0::/../../c\n", &[("c/memory.max", "300\n")], Some(300)),
            ("0::/\n", &[], None),
            (
                one,
                &[("memory/a/b/memory.limit_in_bytes", "2000\n"), ("memory/memory.limit_in_bytes", unlimited)],
                Some(2_000),
            ),
            (one, &[("memory/a/b/memory.limit_in_bytes", unlimited)], None),
            (one, &[("memory/memory.limit_in_bytes", "3000\n")], Some(3_000)),
            ("", &[("memory.max", "700\n")], None),
            ("nonsense\n0:x\n", &[("memory.max", "700\n")], None),
            (two, &[("a/b/memory.max", "what\n")], None),
        ] {
            assert_eq!(found(groups, files), expected, "{groups} {files:?}");
        }
    }
}
