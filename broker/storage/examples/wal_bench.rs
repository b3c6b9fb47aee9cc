//! Measures the log on a real disk: appends a second, and syncs for 1,000 entries, by the number of callers.
//!
//! `cargo run --release -p raftmq-storage --example wal_bench -- [DIRECTORY] [SECONDS] [BYTES]`

use std::{
    env,
    error::Error,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use raftmq_storage::{GroupId, LogEntry, Wal, WalOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| ".".to_owned());
    let seconds: f64 = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(256), |text| text.parse())?;
    println!("{bytes} bytes an entry, {seconds} s a line");
    println!("linger  callers  appends/s  syncs/1000  mean sync  mean wait   p99 wait");
    for linger in [0, 2] {
        for callers in [1, 4, 16, 64, 256] {
            let dir = tempfile::tempdir_in(&dir)?;
            let options = WalOptions { max_linger: Duration::from_millis(linger), ..WalOptions::default() };
            let (wal, _) = Wal::open(dir.path(), options)?;
            let started = Instant::now();
            let mut waits = run(&wal, callers, Duration::from_secs_f64(seconds), bytes);
            let took = started.elapsed().as_secs_f64();
            let metrics = wal.metrics();
            let entries = metrics.entries.max(1) as f64;
            waits.sort_unstable();
            println!(
                "{linger:>4} ms {callers:>8} {:>10.0} {:>11.1} {:>7.3} ms {:>7.3} ms {:>7.3} ms",
                entries / took,
                1000.0 * metrics.fsyncs as f64 / entries,
                1000.0 * metrics.fsync_time.as_secs_f64() / metrics.fsyncs.max(1) as f64,
                waits.iter().sum::<u64>() as f64 / waits.len().max(1) as f64 / 1e6,
                waits.get(waits.len() * 99 / 100).copied().unwrap_or(0) as f64 / 1e6,
            );
            wal.close()?;
        }
    }
    Ok(())
}

/// Every caller appends to its own group and waits for the sync before the next one. Returns the waits in nanoseconds.
fn run(wal: &Wal, callers: u32, time: Duration, bytes: usize) -> Vec<u64> {
    let (stop, failed) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut waits = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|caller| {
                let (stop, failed) = (&stop, &failed);
                scope.spawn(move || {
                    let group = GroupId::new(caller, 0);
                    let mut waits = Vec::new();
                    let (sender, synced) = mpsc::channel();
                    for index in 1.. {
                        if stop.load(Relaxed) {
                            break;
                        }
                        let started = Instant::now();
                        let sender = sender.clone();
                        let done = Box::new(move |result: Result<(), _>| {
                            let _ = sender.send(result.is_ok());
                        });
                        let entry = LogEntry { index, data: vec![0x5a; bytes].into() };
                        if wal.try_append(group, vec![entry], done).is_err() || synced.recv() != Ok(true) {
                            failed.fetch_add(1, Relaxed);
                            break;
                        }
                        waits.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
                        if index % 1000 == 0 && wal.purge_to(group, index - 500, "marker".into()).is_err() {
                            break;
                        }
                    }
                    waits
                })
            })
            .collect();
        thread::sleep(time);
        stop.store(true, Relaxed);
        for thread in threads {
            waits.extend(thread.join().unwrap_or_default());
        }
    });
    if failed.load(Relaxed) > 0 {
        eprintln!("{} callers failed", failed.load(Relaxed));
    }
    waits
}
