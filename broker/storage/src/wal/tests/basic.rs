//! What the log promises when nothing goes wrong.

use std::sync::atomic::AtomicU64;

use super::*;

#[test]
fn what_was_handed_in_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, report) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!(report, RecoveryReport { clean: true, ..RecoveryReport::default() });
    assert_eq!(wal.group_state(G1).unwrap(), GroupState::default());
    wal.append_now(G1, vec![entry(1, "one"), entry(2, "two"), entry(3, "")]).unwrap();
    wal.append_now(G2, vec![entry(100, "hundred")]).unwrap();
    wal.vote_now(G1, "first vote").unwrap();
    wal.vote_now(G1, "second vote").unwrap();
    wal.save_committed(G1, "two is committed".into()).unwrap();
    let expected = GroupState {
        first: Some(1),
        last: Some(3),
        last_data: Some("".into()),
        vote: Some("second vote".into()),
        committed: Some("two is committed".into()),
        purged: None,
    };
    assert_eq!(wal.group_state(G1).unwrap(), expected);
    wal.close().unwrap();
    assert!(matches!(wal.sync_now(), Err(WalError::Closed)));
    drop(wal);

    let (wal, report) = Wal::open(dir.path(), small()).unwrap();
    assert!(report.clean && report.torn_bytes == 0 && report.groups == [G1, G2], "{report:?}");
    assert_eq!(wal.group_state(G1).unwrap(), expected);
    assert_eq!(wal.all(G1), [entry(1, "one"), entry(2, "two"), entry(3, "")]);
    assert_eq!(wal.read(G1, 2..=2).unwrap(), [entry(2, "two")]);
    assert_eq!(wal.read_limited(G1, 1..=3, 1).unwrap(), [entry(1, "one")], "at least one");
    assert_eq!(wal.read_limited(G1, 1..=3, 6).unwrap().len(), 3);
    assert_eq!(wal.read(G1, 4..=9).unwrap(), []);
    assert_eq!(wal.all(G2), [entry(100, "hundred")]);
}

#[test]
fn entries_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let refused = |entries| matches!(wal.append_now(G1, entries), Err(WalError::NotContiguous { .. }));
    wal.append_now(G1, vec![entry(5, "a"), entry(6, "b")]).unwrap();
    assert!(
        refused(vec![entry(6, "c")]) && refused(vec![entry(8, "c")]) && refused(vec![entry(7, "c"), entry(9, "d")])
    );
    assert_eq!(wal.all(G1).len(), 2, "nothing of a refused append stays");
    wal.truncate_from(G1, 6).unwrap();
    wal.append_now(G1, vec![entry(6, "other b"), entry(7, "c")]).unwrap();
    wal.purge_to(G1, 20, "marker".into()).unwrap();
    wal.purge_to(G1, 19, "older".into()).unwrap();
    assert!(refused(vec![entry(20, "x")]));
    wal.append_now(G1, vec![entry(21, "x")]).unwrap();
    let state = wal.group_state(G1).unwrap();
    assert_eq!((state.first, state.last, state.purged), (Some(21), Some(21), Some((20, "marker".into()))));
    assert!(matches!(
        wal.append_now(G1, vec![entry(22, vec![0; 8 * 4096])]),
        Err(WalError::TooLarge { limit: 28_558, .. })
    ));
    wal.append_now(G1, vec![entry(22, vec![7; 28_558])]).unwrap();
    drop(wal);
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!(wal.all(G1), [entry(21, "x"), entry(22, vec![7; 28_558])]);
    wal.drop_group(G1).unwrap();
    assert_eq!(wal.group_state(G1).unwrap(), GroupState::default());
    drop(wal);
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!((wal.groups(), wal.metrics().segments), (vec![], 2), "the dropped group is not there again");
}

#[test]
fn what_is_not_written_yet_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions { cache_bytes: 0, ..small() }).unwrap();
    let mut results = Vec::new();
    for index in 0..200 {
        let (done, result) = done();
        wal.try_append(G1, vec![entry(index, index.to_string())], done).unwrap();
        results.push(result);
        assert_eq!(wal.read(G1, index..=index).unwrap(), [entry(index, index.to_string())]);
        if index % 7 == 0 {
            wal.truncate_from(G1, index).unwrap();
            let (done, result) = super::done();
            wal.try_append(G1, vec![entry(index, "again")], done).unwrap();
            results.push(result);
        }
    }
    for result in results {
        result.recv_timeout(DEADLINE).unwrap().unwrap();
    }
    wal.sync_now().unwrap();
    let expected: Vec<_> = (0..200)
        .map(|index| entry(index, if index % 7 == 0 { "again".to_owned() } else { index.to_string() }))
        .collect();
    assert_eq!(wal.all(G1), expected);
    drop(wal);
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!(wal.all(G1), expected);
    assert!(!wal.is_cached(G1, 0..=10) && wal.is_cached(G1, 500..=600));
}

#[test]
fn many_waiting_callers_share_a_sync() {
    const CALLERS: u64 = 32;
    const EACH: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions { segment_bytes: 1 << 20, ..small() }).unwrap();
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (wal, acknowledged) = (&wal, &acknowledged);
            scope.spawn(move || {
                for index in 1..=EACH {
                    wal.append_now(GroupId::new(caller as u32, 0), vec![entry(index, "some data")]).unwrap();
                    acknowledged.fetch_add(1, Relaxed);
                }
            });
        }
    });
    let metrics = wal.metrics();
    assert_eq!(acknowledged.into_inner(), CALLERS * EACH);
    assert_eq!(metrics.entries, CALLERS * EACH);
    assert!(metrics.fsyncs * 4 < CALLERS * EACH, "{} syncs for {} appends", metrics.fsyncs, CALLERS * EACH);
    assert_eq!(metrics.fsync_buckets.iter().sum::<u64>(), metrics.fsyncs);
    assert_eq!((metrics.queued_records, metrics.queued_bytes), (0, 0));
}

#[test]
fn old_segments_go_and_few_old_records_do_not_hold_them() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let quiet = GroupId::new(9, 1);
    wal.append_now(quiet, vec![entry(1, "old"), entry(2, "and quiet")]).unwrap();
    wal.vote_now(quiet, "an old vote").unwrap();
    wal.purge_to(G2, 7, "an old purge".into()).unwrap();
    for index in 1..400 {
        wal.append_now(G1, vec![entry(index, vec![index as u8; 1500])]).unwrap();
        wal.purge_to(G1, index.saturating_sub(5), "m".into()).unwrap();
    }
    eventually("few segments are left", || wal.metrics().segments <= small().max_segments + 1);
    assert!(wal.metrics().copied >= 2);
    let check = |wal: &Wal| {
        assert_eq!(wal.all(quiet), [entry(1, "old"), entry(2, "and quiet")]);
        assert_eq!(wal.group_state(quiet).unwrap().vote.unwrap(), "an old vote");
        assert_eq!(wal.group_state(G2).unwrap().purged.unwrap().1, "an old purge");
        assert_eq!(wal.all(G1).len(), 5);
    };
    check(&wal);
    drop(wal);
    let files = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|file| file.as_ref().unwrap().file_name().to_str().is_some_and(|name| name.ends_with(".wal")));
    assert!(files.count() as u64 <= small().max_segments + 1);
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    check(&wal);
}

#[test]
fn a_log_that_is_mostly_alive_is_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    for index in 1..200 {
        wal.append_now(G1, vec![entry(index, vec![1; 3900])]).unwrap();
    }
    assert_eq!(wal.metrics().copied, 0);
    assert!(wal.live_bytes(G1) == 199 * 3900 && wal.metrics().segments > 20);
    wal.purge_to(G1, 198, "m".into()).unwrap();
    eventually("the rest goes", || wal.metrics().segments <= 2);
}

#[test]
fn the_queue_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let options = WalOptions { queue_bytes: 64 << 10, segment_bytes: 1 << 20, ..small() };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    // The writer's thread is held up within a callback.
    let (hold, held) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let callback = move |_| {
        entered.send(()).unwrap();
        let _ = held.recv_timeout(DEADLINE);
    };
    wal.barrier(Box::new(callback)).unwrap();
    inside.recv_timeout(DEADLINE).unwrap();
    let mut taken = 0;
    let refused = loop {
        let (done, _) = done();
        match wal.try_append(G1, vec![entry(taken + 1, vec![0; 1000])], done) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, WalError::QueueFull) && (32..=64).contains(&taken), "{refused} after {taken}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (callback, result) = done();
        let waiting = wal.append(G1, vec![entry(taken + 1, "the next one")], callback);
        let mut waiting = std::pin::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err(), "it waits for room");
        drop(hold);
        tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap();
        result.recv_timeout(DEADLINE).unwrap().unwrap();
    });
}

#[test]
fn the_log_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert!(matches!(Wal::open(dir.path(), small()), Err(WalError::Locked(_))));
    // The last clone may go within a callback.
    let last = wal.clone();
    wal.barrier(Box::new(move |_| drop(last))).unwrap();
    drop(wal);
    eventually("the lock is free", || Wal::open(dir.path(), small()).is_ok());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for options in [
        WalOptions { segment_bytes: 5000, ..small() },
        WalOptions { segment_bytes: 4096, ..small() },
        WalOptions { queue_bytes: 0, ..small() },
        WalOptions { max_segments: 1, ..small() },
    ] {
        assert!(matches!(Wal::open(dir.path(), options), Err(WalError::Options(_))));
    }
}
