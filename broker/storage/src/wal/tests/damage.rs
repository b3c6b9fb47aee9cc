//! Every region of a log is damaged: what had been synced is either all there, or its loss is reported.

use super::{
    super::{
        disk::Disk,
        format::{BLOCK_HEADER, BlockHeader, SEGMENT_HEADER, segment_name},
    },
    sim::SimDisk,
    *,
};

const ENTRIES: u64 = 18;

/// A log of three segments and what it holds: one entry a block, some blocks of two pages.
struct Log {
    disk: SimDisk,
    blocks: Vec<Block>,
}

struct Block {
    segment: u32,
    offset: usize,
    body: usize,
}

fn data(index: u64) -> Bytes {
    vec![index as u8; if index.is_multiple_of(3) { 5000 } else { 40 }].into()
}

fn build() -> Log {
    let disk = SimDisk::default();
    let (wal, _) = Wal::on(&disk, small()).unwrap();
    for index in 1..=ENTRIES {
        wal.append_now(G1, vec![entry(index, data(index))]).unwrap();
    }
    wal.close().unwrap();
    let mut blocks = Vec::new();
    for segment in 1..=4 {
        if !disk.names().contains(&segment_name(segment)) {
            continue;
        }
        let content = disk.content(&segment_name(segment));
        let mut offset = 4096;
        while let Some(Ok(header)) = content.get(offset..).map(BlockHeader::decode) {
            blocks.push(Block { segment, offset, body: header.body_len as usize });
            offset = header.end() as usize;
        }
    }
    assert_eq!(blocks.len() as u64, ENTRIES, "a block for each entry");
    assert_eq!(blocks.last().unwrap().segment, 4);
    Log { disk, blocks }
}

/// What came of opening a damaged log.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    /// So many entries are left, and it was reported that something was cut.
    Cut(u64),
    Damaged,
}

fn open(disk: &SimDisk) -> Outcome {
    let (wal, report) = match Wal::on(disk, small()) {
        Ok(opened) => opened,
        Err(WalError::Damaged { .. }) => return Outcome::Damaged,
        Err(error) => panic!("{error}"),
    };
    let found = wal.all(G1);
    for (entry, index) in found.iter().zip(1..) {
        assert_eq!((entry.index, &entry.data), (index, &data(index)), "what is there is what was written");
    }
    if found.len() as u64 == ENTRIES {
        return Outcome::Whole;
    }
    assert!(report.torn_bytes > 0 && report.torn_reason.is_some(), "{report:?}");
    // The log can be used on, and stays as it is now.
    let next = found.len() as u64 + 1;
    wal.append_now(G1, vec![entry(next, "after the cut")]).unwrap();
    drop(wal);
    let (wal, report) = Wal::on(disk, small()).unwrap();
    assert!(report.torn_bytes == 0 && wal.all(G1).len() as u64 == next);
    Outcome::Cut(next - 1)
}

impl Log {
    fn damaged(&self, segment: u32, mark: bool, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
        let disk = self.disk.copy();
        disk.change(&segment_name(segment), change);
        if !mark {
            disk.remove("mark").unwrap();
        }
        disk
    }
}

#[test]
fn every_byte_of_every_block_header_and_bytes_of_every_body() {
    let log = build();
    for (at, block) in log.blocks.iter().enumerate() {
        let last = at + 1 == log.blocks.len();
        let body = (BLOCK_HEADER..BLOCK_HEADER + block.body).step_by(if block.body > 1000 { 501 } else { 7 });
        let ends = [BLOCK_HEADER + block.body - 1];
        for byte in (0..BLOCK_HEADER).chain(body).chain(ends) {
            for mark in [true, false] {
                let disk = log.damaged(block.segment, mark, |content| content[block.offset + byte] ^= 0x41);
                // Nothing proves that the last block was synced when the mark is gone too.
                let expected = if last && !mark { Outcome::Cut(ENTRIES - 1) } else { Outcome::Damaged };
                assert_eq!(open(&disk), expected, "block {at}, byte {byte}, mark {mark}");
            }
        }
        let padding = (BLOCK_HEADER + block.body).next_multiple_of(4096) - 1;
        let disk = log.damaged(block.segment, true, |content| content[block.offset + padding] ^= 0x41);
        assert_eq!(open(&disk), Outcome::Whole, "padding of block {at}");
    }
}

#[test]
fn every_byte_of_every_segment_header() {
    let log = build();
    for segment in 1..=4 {
        for byte in 0..SEGMENT_HEADER {
            let disk = log.damaged(segment, byte % 2 == 0, |content| content[byte] ^= 0x41);
            assert_eq!(open(&disk), Outcome::Damaged, "segment {segment}, byte {byte}");
        }
        let disk = log.damaged(segment, true, |content| content[SEGMENT_HEADER + 1] ^= 0x41);
        assert_eq!(open(&disk), Outcome::Whole);
    }
}

#[test]
fn the_mark_only_adds_to_what_the_blocks_prove() {
    let log = build();
    for byte in 0..8192 {
        let disk = log.disk.copy();
        disk.change("mark", |content| content[byte] ^= 0x41);
        if byte % 4096 < 80 || byte % 512 == 0 {
            assert_eq!(open(&disk), Outcome::Whole, "byte {byte}");
        }
    }
    let disk = log.disk.copy();
    disk.change("mark", Vec::clear);
    assert_eq!(open(&disk), Outcome::Whole);
}

#[test]
fn zeroed_pages_and_zeroed_ends() {
    let log = build();
    for (at, block) in log.blocks.iter().enumerate() {
        let last = at + 1 == log.blocks.len();
        let end = block.offset + (BLOCK_HEADER + block.body).next_multiple_of(4096);
        for mark in [true, false] {
            let expected = if last && !mark { Outcome::Cut(ENTRIES - 1) } else { Outcome::Damaged };
            let disk = log.damaged(block.segment, mark, |content| content[block.offset + 50..end].fill(0));
            assert_eq!(open(&disk), expected, "all but the first bytes of block {at} zeroed");
            let disk = log.damaged(block.segment, mark, |content| content[block.offset..].fill(0));
            let rest_of_log = log.blocks[at..].iter().all(|later| later.segment == block.segment);
            match Wal::on(&disk, small()) {
                Err(WalError::Damaged { .. }) => {}
                // Everything from here to the end of the log is gone without a trace, as if it had never been.
                Ok((wal, _)) if rest_of_log && !mark => assert_eq!(wal.all(G1).len(), at),
                other => panic!("zeroed from block {at} on, mark {mark}: {:?}", other.map(|(_, report)| report)),
            }
        }
    }
}

#[test]
fn cut_files() {
    let log = build();
    for (at, block) in log.blocks.iter().enumerate() {
        for len in [0, 10, 4096, block.offset, block.offset + 50, block.offset + BLOCK_HEADER + block.body - 1] {
            let disk = log.damaged(block.segment, true, |content| content.truncate(len));
            assert_eq!(open(&disk), Outcome::Damaged, "segment of block {at} cut to {len}");
        }
    }
    let last = log.blocks.last().unwrap();
    let disk = log.damaged(4, true, |content| content.truncate(last.offset + BLOCK_HEADER + last.body));
    assert_eq!(open(&disk), Outcome::Whole, "only what was reserved is missing");
    assert_eq!(disk.content(&segment_name(4)).len() as u64, small().segment_bytes, "and it is reserved again");
}

#[test]
fn missing_swapped_and_foreign_segments() {
    let log = build();
    for segment in 1..=4 {
        let disk = log.disk.copy();
        disk.remove(&segment_name(segment)).unwrap();
        assert_eq!(open(&disk), Outcome::Damaged, "segment {segment} is missing");
        for other in (1..=4).filter(|other| *other != segment) {
            let disk = log.disk.copy();
            let (first, second) = (disk.content(&segment_name(segment)), disk.content(&segment_name(other)));
            disk.change(&segment_name(segment), |content| *content = second);
            disk.change(&segment_name(other), |content| *content = first);
            assert_eq!(open(&disk), Outcome::Damaged, "segments {segment} and {other} are swapped");
        }
        let disk = log.disk.copy();
        let foreign = build().disk.content(&segment_name(segment));
        disk.change(&segment_name(segment), |content| *content = foreign);
        assert_eq!(open(&disk), Outcome::Damaged, "segment {segment} is of another log");
    }
    let disk = log.disk.copy();
    (1..=4).for_each(|segment| disk.remove(&segment_name(segment)).unwrap());
    assert_eq!(open(&disk), Outcome::Damaged, "only the mark is left");
}

#[test]
fn an_older_copy_of_a_segment() {
    let disk = SimDisk::default();
    let (wal, _) = Wal::on(&disk, small()).unwrap();
    wal.append_now(G1, vec![entry(1, data(1))]).unwrap();
    let older = disk.content(&segment_name(1));
    for index in 2..=ENTRIES {
        wal.append_now(G1, vec![entry(index, data(index))]).unwrap();
    }
    drop(wal);
    disk.change(&segment_name(1), |content| *content = older);
    assert_eq!(open(&disk), Outcome::Damaged);
}

#[test]
fn a_segment_that_is_not_needed_may_be_there_or_not() {
    let disk = SimDisk::default();
    let (wal, _) = Wal::on(&disk, small()).unwrap();
    for index in 1..=ENTRIES {
        wal.append_now(G1, vec![entry(index, data(index))]).unwrap();
    }
    let old = disk.copy();
    wal.purge_to(G1, ENTRIES - 1, "m".into()).unwrap();
    wal.sync_now().unwrap();
    eventually("old segments go", || wal.metrics().segments == 1);
    drop(wal);
    // Removals need not have reached the disk, or in another order.
    for keep in [&[1][..], &[2], &[3], &[1, 3], &[1, 2, 3]] {
        let disk = disk.copy();
        for segment in keep {
            disk.create(&segment_name(*segment)).unwrap();
            disk.change(&segment_name(*segment), |content| *content = old.content(&segment_name(*segment)));
        }
        let (wal, _) = Wal::on(&disk, small()).unwrap_or_else(|error| panic!("{keep:?}: {error}"));
        assert_eq!(wal.all(G1), [entry(ENTRIES, data(ENTRIES))], "{keep:?}");
        wal.append_now(G1, vec![entry(ENTRIES + 1, "more")]).unwrap();
        wal.sync_now().unwrap();
        // The one in use may have been full.
        eventually("leftovers go", || !keep.iter().any(|segment| disk.names().contains(&segment_name(*segment))));
    }
}

#[test]
fn a_block_of_an_earlier_write_is_not_met_again() {
    // Two blocks are written and not synced; the first is torn, the second is whole.
    let log = build();
    let (torn, whole) = (&log.blocks[ENTRIES as usize - 2], &log.blocks[ENTRIES as usize - 1]);
    assert_eq!(torn.segment, whole.segment);
    let disk = log.damaged(whole.segment, false, |content| {
        // As if both were of one batch: the second does not know that the first was synced.
        let header = &mut content[whole.offset..whole.offset + BLOCK_HEADER];
        let mut changed = BlockHeader::decode(header).unwrap();
        changed.synced -= 1;
        header.copy_from_slice(&changed.encode());
        content[torn.offset + BLOCK_HEADER + 3] ^= 1;
    });
    assert_eq!(open(&disk), Outcome::Cut(ENTRIES - 2));
    // The block appended meanwhile takes the torn one's page; behind it there is nothing.
    let content = disk.content(&segment_name(whole.segment));
    assert_eq!(torn.offset + 4096, whole.offset);
    assert!(BlockHeader::decode(&content[torn.offset..]).is_ok());
    assert!(content[whole.offset..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_block_of_another_history_of_the_same_log() {
    let disk = SimDisk::default();
    let (wal, _) = Wal::on(&disk, small()).unwrap();
    wal.append_now(G1, vec![entry(1, "both")]).unwrap();
    let other = disk.copy();
    let (other_wal, _) = Wal::on(&other, small()).unwrap();
    for (wal, name) in [(&wal, "this"), (&other_wal, "that")] {
        wal.append_now(G1, vec![entry(2, name)]).unwrap();
        wal.append_now(G1, vec![entry(3, name)]).unwrap();
    }
    wal.close().unwrap();
    let (third, name) = (4096 * 3..4096 * 4, segment_name(1));
    let foreign = other.content(&name)[third.clone()].to_vec();
    assert!(BlockHeader::decode(&foreign).is_ok_and(|header| header.block == 3 && header.offset == 4096 * 3));
    disk.change(&name, |content| content[third].copy_from_slice(&foreign));
    assert!(matches!(Wal::on(&disk, small()), Err(WalError::Damaged { .. })));
}
