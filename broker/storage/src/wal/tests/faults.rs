//! Disks that fail or fill up.

use super::{sim::SimDisk, *};

#[test]
fn a_failed_sync_or_write_ends_the_log_for_everyone() {
    for write in [false, true] {
        let disk = SimDisk::default();
        let (wal, _) = Wal::on(&disk, small()).unwrap();
        wal.append_now(G1, vec![entry(1, "safe")]).unwrap();
        disk.faults(|faults| if write { faults.write = true } else { faults.sync = true });
        let (callback, second) = done();
        wal.try_append(G2, vec![entry(1, "in doubt")], callback).unwrap();
        assert!(matches!(second.recv_timeout(DEADLINE).unwrap(), Err(WalError::Failed { .. })));
        // Healthy again, but what the disk has is unknown: nothing is retried.
        disk.faults(|faults| (faults.sync, faults.write) = (false, false));
        let syncs = disk.faults(|faults| faults.syncs);
        assert!(matches!(wal.append_now(G1, vec![entry(2, "late")]), Err(WalError::Failed { .. })));
        assert!(matches!(wal.vote_now(G1, "late"), Err(WalError::Failed { .. })));
        assert!(matches!(wal.read(G1, 0..=9), Err(WalError::Failed { .. })));
        assert!(!wal.accepting());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            assert!(matches!(tokio::time::timeout(DEADLINE, wal.failed()).await.unwrap(), WalError::Failed { .. }));
            let late = wal.append(G1, vec![entry(2, "late")], Box::new(|_| panic!("not taken, so never called")));
            assert!(matches!(late.await, Err(WalError::Failed { .. })));
        });
        assert!(matches!(wal.close(), Err(WalError::Failed { .. })));
        assert_eq!(disk.faults(|faults| faults.syncs), syncs, "no sync after the failed one");
        // What was acknowledged is there, whatever a power failure leaves of the rest.
        for keep in [false, true] {
            let (wal, _) = Wal::on(&disk.crash(|| keep), small()).unwrap();
            assert_eq!(wal.all(G1), [entry(1, "safe")]);
        }
    }
}

#[test]
fn a_new_segment_whose_name_was_not_synced_is_not_relied_on() {
    let disk = SimDisk::default();
    let (wal, _) = Wal::on(&disk, small()).unwrap();
    wal.append_now(G1, vec![entry(1, vec![1; 20_000])]).unwrap();
    // The process dies between the new segment's rename and the sync of the directory.
    disk.faults(|faults| faults.sync_dir = true);
    assert!(wal.append_now(G1, vec![entry(2, vec![2; 20_000])]).is_err());
    let disk = disk.copy();
    assert!(disk.names().contains(&"00000002.wal".to_owned()));
    let (wal, _) = Wal::on(&disk, small()).unwrap();
    wal.append_now(G1, vec![entry(2, "now")]).unwrap();
    // Then the power fails.
    let (wal, _) = Wal::on(&disk.crash(|| false), small()).unwrap();
    assert_eq!(wal.group_state(G1).unwrap().last_data.unwrap(), "now");
}

#[test]
fn a_callback_that_panics_fails_the_log_instead_of_hanging_it() {
    let (wal, _) = Wal::on(&SimDisk::default(), small()).unwrap();
    wal.barrier(Box::new(|_| panic!("this panic is part of the test"))).unwrap();
    eventually("the failure is told", || wal.failure().is_some());
    assert!(matches!(wal.sync_now(), Err(WalError::Failed { .. })));
}

#[test]
fn entries_are_refused_before_the_disk_is_full_and_votes_are_not() {
    let disk = SimDisk::default();
    disk.faults(|faults| faults.free = Some(1000));
    let options = WalOptions { min_free_bytes: 800, ..small() };
    let (wal, _) = Wal::on(&disk, options).unwrap();
    wal.append_now(G1, vec![entry(1, "fits")]).unwrap();
    disk.faults(|faults| faults.free = Some(700));
    eventually("it is noticed", || !wal.accepting());
    let refused = wal.append_now(G1, vec![entry(2, "too much")]);
    assert!(matches!(refused, Err(WalError::DiskFull { free: 700, needed: 800 })), "{refused:?}");
    wal.vote_now(G1, "still possible").unwrap();
    wal.purge_to(G1, 1, "still possible".into()).unwrap();
    wal.sync_now().unwrap();
    assert_eq!((wal.metrics().refused_disk_full, wal.metrics().disk_full), (1, true));
    disk.faults(|faults| faults.free = Some(1000));
    eventually("it goes on", || wal.accepting());
    wal.append_now(G1, vec![entry(2, "fits again")]).unwrap();
}

#[test]
fn a_log_that_is_refused_room_gives_up_what_it_can() {
    let disk = SimDisk::default();
    let segment = small().segment_bytes;
    let options = WalOptions { min_free_bytes: 3 * segment, max_segments: 100, ..small() };
    let (wal, _) = Wal::on(&disk, options.clone()).unwrap();
    wal.append_now(G2, vec![entry(1, "old"), entry(2, "and quiet")]).unwrap();
    wal.vote_now(G2, "an old vote").unwrap();
    for index in 1..200 {
        wal.append_now(G1, vec![entry(index, vec![1; 3900])]).unwrap();
        wal.purge_to(G1, index.saturating_sub(2), "m".into()).unwrap();
    }
    assert!(wal.metrics().segments > 20 && wal.metrics().copied == 0);
    // Nobody writes any more. Where there is no room for another segment, nothing is copied: that would take what votes need.
    disk.faults(|faults| faults.free = Some(segment));
    eventually("it takes nothing", || !wal.accepting());
    let since = Instant::now();
    eventually("two looks at the room", || since.elapsed() > Duration::from_millis(2_500));
    assert!(wal.metrics().segments > 20 && wal.metrics().copied == 0);
    disk.faults(|faults| faults.free = Some(2 * segment));
    eventually("few segments are left", || wal.metrics().segments <= 3);
    assert!(!wal.accepting() && wal.metrics().copied >= 2);
    let check = |wal: &Wal| {
        assert_eq!(wal.all(G2), [entry(1, "old"), entry(2, "and quiet")]);
        assert_eq!(wal.group_state(G2).unwrap().vote.unwrap(), "an old vote");
        assert_eq!(wal.all(G1).len(), 2);
    };
    check(&wal);
    // It writes nothing for its own sake from there on.
    let (fsyncs, since) = (wal.metrics().fsyncs, Instant::now());
    eventually("two looks at the room", || since.elapsed() > Duration::from_millis(2_500));
    assert!(wal.metrics().fsyncs <= fsyncs + 1);
    disk.faults(|faults| faults.free = None);
    eventually("it goes on", || wal.accepting());
    wal.append_now(G1, vec![entry(200, "fits again")]).unwrap();
    drop(wal);
    let (wal, _) = Wal::on(&disk, options).unwrap();
    assert_eq!(wal.all(G1).len(), 3);
    assert_eq!(wal.all(G2).len(), 2);
}

#[test]
fn a_full_disk_costs_the_ballast_before_it_costs_the_log() {
    let disk = SimDisk::default();
    let options = WalOptions { ballast_bytes: 8 * PAGE, ..small() };
    let (wal, _) = Wal::on(&disk, options.clone()).unwrap();
    assert!(disk.names().contains(&"ballast".to_owned()));
    disk.faults(|faults| (faults.room, faults.free) = (Some(0), Some(0)));
    for _ in 0..12 {
        wal.vote_now(G1, "a vote that must be kept").unwrap();
    }
    assert!(!disk.names().contains(&"ballast".to_owned()));
    assert!(wal.metrics().segments > 1 || wal.metrics().bytes_written > 8 * PAGE);
    drop(wal);
    let (wal, _) = Wal::on(&disk, options.clone()).unwrap();
    assert_eq!(wal.group_state(G1).unwrap().vote.unwrap(), "a vote that must be kept");
    disk.faults(|faults| (faults.room, faults.free) = (None, None));
    eventually("the ballast is there again", || disk.names().contains(&"ballast".to_owned()));
}
