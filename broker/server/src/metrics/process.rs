//! The process's own numbers, from `/proc/self`.

use std::fs;

use super::catalog as c;
use super::{Encoder, MetricsSource};

/// Memory, processor time, open files, build.
#[derive(Debug)]
pub struct ProcessSource;

/// What `/proc/self/stat` tells, in units of the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl MetricsSource for ProcessSource {
    fn collect(&self, out: &mut Encoder) {
        out.gauge(&c::BUILD_INFO, &[crate::VERSION, std::env::consts::ARCH], 1);
        // Where there is no /proc, the rest is left out rather than told wrong.
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse) {
            let page = rustix::param::page_size() as u64;
            out.counter_f64(&c::PROCESS_CPU, &["user"], stat.user_ticks as f64 / ticks);
            out.counter_f64(&c::PROCESS_CPU, &["system"], stat.system_ticks as f64 / ticks);
            out.gauge(&c::PROCESS_RESIDENT, &[], stat.resident_pages.saturating_mul(page));
            out.gauge(&c::PROCESS_VIRTUAL, &[], stat.virtual_bytes);
            out.gauge(&c::PROCESS_THREADS, &[], stat.threads);
            if let Some(boot) = boot_time() {
                let start = boot as f64 + stat.start_ticks as f64 / ticks;
                out.gauge_f64(&c::PROCESS_START, &[], start);
            }
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // The directory itself is open while it is read.
            out.gauge(&c::PROCESS_OPEN_FDS, &[], (files.count() as u64).saturating_sub(1));
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        if let Some(most) = limit.current {
            out.gauge(&c::PROCESS_MAX_FDS, &[], most);
        }
    }
}

/// proc(5), `/proc/pid/stat`. The name of the process is in parentheses and may hold anything.
fn parse(stat: &str) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first field after the name is number 3 in the manual.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        user_ticks: field(14)?,
        system_ticks: field(15)?,
        threads: field(20)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// Seconds since 1970 of the kernel's start.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_process_is_called() {
        let line = "4242 (a) S (b) R 1 2 3 4 5 6 7 8 9 10 111 222 13 14 15 16 17 18 1919 2020 21 22 23";
        assert_eq!(
            parse(line),
            Some(Stat {
                user_ticks: 111,
                system_ticks: 222,
                threads: 17,
                start_ticks: 1919,
                virtual_bytes: 2020,
                resident_pages: 21,
            })
        );
        for broken in ["", "1 (a", "1 (a) R 1 2", "1 (a) R x y"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(parse(&stat).unwrap().resident_pages > 0);
        let mut out = Encoder::default();
        ProcessSource.collect(&mut out);
        let text = out.finish();
        assert!(text.contains("\nraftmq_process_resident_memory_bytes "), "{text}");
        assert!(text.contains("\nraftmq_process_open_fds "), "{text}");
    }
}
