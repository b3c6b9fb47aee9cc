//! Opening the log: what was there, the thread that writes, and its end.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::DirLock;

use super::{
    RecoveryReport, Wal, WalError, WalOptions,
    appender::Appender,
    disk::Disk,
    format::{PAGE, SegmentHeader},
    index::{self, Usages},
    mark::{Mark, MarkFile},
    pace::Pace,
    recovery::{self, Recovered, Tail, damaged, io_error},
    segment,
    shared::Shared,
    writer::Writer,
};

/// Ends the writer with the last clone of the log.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Wal {
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        lock: Option<DirLock>,
        options: WalOptions,
    ) -> Result<(Self, RecoveryReport), WalError> {
        options.check()?;
        let recovered = match recovery::recover(&*disk)? {
            Some(recovered) => recovered,
            None => create(&*disk, &options)?,
        };
        let Recovered { log_id, life, groups, files, tail, first_segment, mark, report } = recovered;
        let mut usages = Usages::default();
        for (segment, file) in &files {
            usages.add_segment(*segment, file.len().map_err(io_error("looking at a segment"))?);
        }
        index::count(&groups, &mut usages);
        let file = files.get(&tail.segment).cloned();
        let file = file.ok_or_else(|| damaged(u64::from(tail.segment), 0, "the last segment was not opened"))?;
        let ballast =
            segment::Ballast::open(&*disk, options.ballast_bytes).map_err(io_error("looking at the ballast"))?;
        let mark = MarkFile::open(&*disk, mark).map_err(io_error("opening the mark"))?;
        let shared = Arc::new(Shared::new(options, groups, usages, files));
        let first_segment = u32::try_from(first_segment).unwrap_or(tail.segment);
        let end = Appender::new(Arc::clone(&shared), disk, log_id, life, file, tail, first_segment, ballast);
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            lock,
            end,
            mark,
            pace: Pace::default(),
            space_seen: Instant::now(),
            again: false,
        };
        writer.begin()?;
        let thread = thread::Builder::new()
            .name("raftmq-wal".to_owned())
            .spawn(move || writer.run())
            .map_err(io_error("starting the log's thread"))?;
        Ok((Self { handle: Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) }) }, report))
    }
}

impl Handle {
    /// Writes what waits and ends the thread. Blocks.
    pub(crate) fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A callback may hold the last clone: the writer cannot wait for itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            // That it panicked was told to everyone by its guard.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes a log that has nothing in it.
fn create(disk: &dyn Disk, options: &WalOptions) -> Result<Recovered, WalError> {
    let log_id = random_id().map_err(io_error("making a random name for the log"))?;
    let header =
        SegmentHeader { log_id, segment: 1, capacity: options.segment_bytes, first_block: 1, life: 1, previous: 0 };
    let file = segment::create(disk, 1, &header).map_err(io_error("making the first segment"))?;
    let tail = Tail { segment: 1, offset: PAGE, capacity: header.capacity, next_block: 1, previous: 0 };
    Ok(Recovered {
        log_id,
        life: 1,
        groups: HashMap::new(),
        files: BTreeMap::from([(1, file)]),
        tail,
        first_segment: 1,
        mark: Mark { log_id, life: 1, ..Mark::default() },
        report: RecoveryReport { clean: true, ..RecoveryReport::default() },
    })
}

fn random_id() -> io::Result<u128> {
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}
