//! What is read, written and kept in memory, and what an entry that is no command comes to.

use raftmq_mqtt::QoS;
use raftmq_shard::{Answer, Batch, Claim, Command, Op, OpAnswer, ShardMachine, SlotSet, StoreError, WillEnd};

use crate::common::{MemoryStore, NODE, Replica, Table, claim, message, name, seqs, subscription};
use crate::{disconnect, drop_answer};

/// Nothing that was half done by a command that failed can be written.
#[test]
fn a_store_that_fails_ends_it() {
    let mut failed = 0;
    for works in 0..40 {
        let mut table = Table::new();
        let (epoch, ..) = table.claim(NODE, claim("c"));
        table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
        (0..300).for_each(|_| drop_answer(&table.publish(message("a", "x")), 0));
        table.grant("c", epoch, 300);
        table.replica.flush();
        let store = table.replica.store.snapshot();
        let mut machine = ShardMachine::load(store.clone(), 0).unwrap();
        store.fails_after.set(Some(works));
        let ops = vec![Op::Ack { client: name("c"), epoch, seqs: seqs(1, 290) }];
        let batch = Command::Batch(Batch { node: NODE, lane: 0, first: 303, map_epoch: 1, ops }).encode();
        let answer = machine.apply(table.index + 1, &batch, &mut Vec::new());
        if answer.is_ok() {
            continue;
        }
        failed += 1;
        store.fails_after.set(None);
        assert_eq!(machine.flush(&mut |_, _| panic!("flushed")), Err(StoreError::Poisoned));
        assert_eq!(machine.apply(table.index + 1, &batch, &mut Vec::new()), Err(StoreError::Poisoned));
    }
    assert!(failed > 10, "{failed}");
}

/// What is in memory is not looked for in the store: neither what a command is about, nor what ended sessions left, when there are none.
#[test]
fn what_is_in_memory_is_not_read() {
    let mut table = Table::new();
    let mut epoch = 0;
    // The first session ends, and what it had goes.
    for expiry_s in [0, 3_600] {
        (epoch, ..) = table.claim(NODE, Claim { expiry_s, ..claim("c") });
        table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
        table.publish(message("a", "x"));
        if expiry_s == 0 {
            table.op(NODE, disconnect("c", epoch, WillEnd::Keep));
        }
    }
    assert_eq!(table.replica.machine.numbers().messages, 1);
    table.replica.store.fails_after.set(Some(0));
    table.publish(message("a", "x"));
    assert_eq!(table.grant("c", epoch, 9), OpAnswer::Granted { up_to: 9 });
    assert_eq!(table.op(NODE, Op::Ack { client: name("c"), epoch, seqs: seqs(1, 2) }), OpAnswer::Acked { count: 2 });
    assert_eq!(table.replica.machine.numbers().messages, 0);
}

/// What came and went between two flushes is never written.
#[test]
fn what_came_and_went_is_not_written() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
    table.replica.flush();
    for seq in 1..=1_000 {
        table.publish(message("a", "x"));
        table.grant("c", epoch, seq);
        table.op(NODE, Op::Ack { client: name("c"), epoch, seqs: seqs(seq, seq) });
    }
    let mut written = Vec::new();
    table.replica.machine.flush(&mut |key, _| written.push(key[0])).unwrap();
    written.sort_unstable();
    written.dedup();
    // What there is once, the stream and its answers, the session.
    assert_eq!(written, [1, 3, 4, 7]);
}

/// Memory is bounded by what was not flushed and the bound of the cache, whatever there is.
#[test]
fn memory_is_bounded() {
    let store = MemoryStore::default();
    let mut replica = Replica::new(store, 100_000);
    let mut index = 0;
    let mut apply = |replica: &mut Replica, command: &Command| {
        index += 1;
        Answer::decode(&replica.apply(index, &command.encode()).0).unwrap()
    };
    apply(&mut replica, &Command::Place { epoch: 1, slots: SlotSet::ALL });
    apply(&mut replica, &Command::Open { node: NODE, lane: 0 });
    let mut first = 0;
    let mut batch = |ops: Vec<Op>| {
        let command = Command::Batch(Batch { node: NODE, lane: 0, first, map_epoch: 1, ops: ops.clone() });
        first += ops.len() as u64;
        command
    };
    let subscribe = Op::Subscribe { client: name("c"), epoch: 1, filters: vec![subscription("a", QoS::AtLeastOnce)] };
    apply(&mut replica, &batch(vec![Op::Claim(Box::new(claim("c"))), subscribe]));
    for _ in 0..200 {
        let ops = vec![Op::Publish { namespace: 0, message: message("a", &"x".repeat(100)) }; 100];
        apply(&mut replica, &batch(ops));
        if replica.machine.dirty_bytes() > 200_000 {
            replica.flush();
        }
        assert!(replica.machine.clean_bytes() <= 100_000);
    }
    assert!(replica.store.bytes() > 3_000_000);
    assert_eq!(replica.machine.numbers().queued, 20_000);
    // All of it comes, in order.
    let mut expected = 1;
    while expected <= 20_000 {
        apply(&mut replica, &batch(vec![Op::Grant { client: name("c"), epoch: 1, up_to: expected + 999 }]));
        let sent = replica.machine.deliveries(&name("c"), 0, 1_000, usize::MAX).unwrap().unwrap().sent;
        assert_eq!(sent.first().map(|delivery| delivery.seq), Some(expected));
        assert_eq!(sent.len(), 1_000);
        expected += 1_000;
        apply(&mut replica, &batch(vec![Op::Ack { client: name("c"), epoch: 1, seqs: seqs(1, expected - 1) }]));
        assert!(replica.machine.clean_bytes() <= 100_000);
        replica.flush();
    }
    assert_eq!(replica.machine.numbers().messages, 0);
    assert!(replica.store.len() < 100, "{}", replica.store.len());
}

#[test]
fn bytes_that_are_no_command_are_answered() {
    let mut table = Table::new();
    let mut effects = Vec::new();
    let mut answer = |bytes: &[u8]| {
        table.index += 1;
        Answer::decode(&table.replica.machine.apply(table.index, bytes, &mut effects).unwrap()).unwrap()
    };
    assert_eq!(answer(&[]), Answer::Malformed);
    assert_eq!(answer(&[1, 99]), Answer::Malformed);
    assert_eq!(answer(&[0, 1]), Answer::Malformed);
    assert_eq!(answer(&[2, 1]), Answer::Unknown { what: 2 });
    assert_eq!(answer(&Command::Level { level: 1_000 }.encode()), Answer::Unknown { what: 1_000 });
    let mut trailing = Command::Level { level: 1 }.encode();
    trailing.push(0);
    assert_eq!(answer(&trailing), Answer::Malformed);
    assert!(effects.is_empty());
}
