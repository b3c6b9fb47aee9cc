//! Messages with QoS 2 that a shard has to keep before anybody gets them.

use raftmq_mqtt::QoS;
use raftmq_shard::{Bounds, Effect, HandedOn, How, Keep, Keeper, Kept, NodeBoot, Op, OpAnswer};

use crate::common::{NODE, OTHER, Table, claim, message_of, name};
use crate::disconnect;

const BOUNDS: Bounds = Bounds { messages: 9, bytes: 9_999 };
const DONE: Kept = Kept::Done { change: 7 };
const RETAIN: How = How::Retain { bounds: BOUNDS };

fn receive(epoch: u64, packet_id: u16, how: How) -> Op {
    Op::Receive2 {
        client: name("c"),
        epoch,
        packet_id,
        message: message_of("a", "c", QoS::ExactlyOnce, true, b"2", Some(60_000)),
        destinations: vec![],
        keeper: Some(Box::new(Keeper { shard: 3, keep: Keep { how, tell: true } })),
    }
}

fn retain(epoch: u64, packet_id: u16) -> Op {
    receive(epoch, packet_id, RETAIN)
}

fn handed_off(number: u64, kept: Kept) -> Op {
    let kept = vec![HandedOn { number, kept, destinations: vec![4, 5] }];
    Op::HandedOff { destination: 3, up_to: number, kept }
}

fn outcomes(table: &mut Table, node: NodeBoot, epoch: u64) -> Vec<(u16, Kept)> {
    // Of another message nothing is said.
    assert_eq!(
        table.op(node, Op::Outcomes { client: name("c"), epoch, packet_ids: vec![8, 10] }),
        OpAnswer::Outcomes(vec![])
    );
    match table.op(node, Op::Outcomes { client: name("c"), epoch, packet_ids: vec![9] }) {
        OpAnswer::Outcomes(outcomes) => outcomes,
        other => panic!("{other:?}"),
    }
}

/// Identifiers that a new connection answers by itself.
fn known(table: &mut Table) -> Vec<u16> {
    table.replica.machine.client(&name("c")).unwrap().unwrap().session.unwrap().inbound
}

fn to(table: &mut Table, destination: u32) -> Vec<(u64, Option<u64>)> {
    let outbox = table.replica.machine.outbox(destination, 0, 9).unwrap();
    outbox.iter().map(|entry| (entry.number, entry.message.change())).collect()
}

/// [MQTT5 3.3.1.3, 4.3.3]: what is retained is in its shard before PUBREC, and goes further from where it came with the number that it has got there.
#[test]
fn a_retained_message_goes_to_its_shard_first() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    assert_eq!(table.op(NODE, retain(epoch, 9)), OpAnswer::Staged { fresh: true });
    assert_eq!(table.effects, [Effect::Outbox { destination: 3 }]);
    assert_eq!((to(&mut table, 3), to(&mut table, 4)), (vec![(1, None)], vec![]));
    let keep = table.replica.machine.outbox(3, 0, 9).unwrap()[0].keep;
    assert_eq!(keep, Some(Keep { how: RETAIN, tell: true }));
    // Nobody knows yet what becomes of it, and no connection of the client answers it.
    assert_eq!(outcomes(&mut table, NODE, epoch), []);
    assert_eq!(known(&mut table), []);
    assert_eq!(table.op(NODE, retain(epoch, 9)), OpAnswer::Staged { fresh: false });

    assert_eq!(table.op(NODE, handed_off(1, DONE)), OpAnswer::HandedOff { before: 0 });
    assert!(table.effects.contains(&Effect::Outcome { client: name("c") }));
    assert_eq!(
        (to(&mut table, 3), to(&mut table, 4), to(&mut table, 5)),
        (vec![], vec![(1, Some(7))], vec![(1, Some(7))])
    );
    // A leader that does not know of it says it again.
    table.op(NODE, handed_off(1, DONE));
    assert_eq!(to(&mut table, 4).len(), 1);

    // The client comes back on another node, and sends it again.
    let (epoch, ..) = table.claim(OTHER, claim("c"));
    assert_eq!(table.op(OTHER, retain(epoch, 9)), OpAnswer::Staged { fresh: false });
    assert_eq!(outcomes(&mut table, OTHER, epoch), [(9, DONE)]);
    assert_eq!(outcomes(&mut table, OTHER, epoch), []);
    assert_eq!(known(&mut table), [9]);
    assert_eq!(table.op(OTHER, retain(epoch, 9)), OpAnswer::Duplicate);
    assert_eq!(
        table.op(OTHER, Op::Release { client: name("c"), epoch, packet_id: 9 }),
        OpAnswer::Released { known: true }
    );
    assert_eq!(table.replica.machine.numbers().messages, 1);
    for destination in [4, 5] {
        table.op(NODE, Op::HandedOff { destination, up_to: 1, kept: vec![] });
    }
    assert_eq!(table.replica.machine.numbers().messages, 0);
}

/// There is no room: who can be told is told, and the message goes nowhere; else it has gone to the subscribers that the shard has, and goes to others.
#[test]
fn refused() {
    for (kept, further) in [(Kept::NoRoom, 0), (Kept::Unkept, 1)] {
        let mut table = Table::new();
        let (epoch, ..) = table.claim(NODE, claim("c"));
        table.op(NODE, retain(epoch, 9));
        table.op(NODE, handed_off(1, kept));
        let sent = to(&mut table, 4);
        assert_eq!(sent, vec![(1, None); further], "{kept:?}");
        assert_eq!(outcomes(&mut table, NODE, epoch), [(9, kept)]);
        // `[MQTT-4.3.3-9]`: after an error the identifier is free.
        let again = table.op(NODE, retain(epoch, 9));
        assert_eq!(again, if kept == Kept::NoRoom { OpAnswer::Staged { fresh: true } } else { OpAnswer::Duplicate });
    }
}

/// In the shard that was to keep it.
#[test]
fn no_room() {
    for (tell, how, kept, published) in [
        (true, How::Retain { bounds: Bounds { messages: 0, ..BOUNDS } }, Kept::NoRoom, 0),
        (false, How::Retain { bounds: Bounds { messages: 0, ..BOUNDS } }, Kept::Unkept, 1),
        (true, How::TooLong, Kept::NoRoom, 0),
        (false, How::TooLong, Kept::Unkept, 1),
        (true, How::Delay { delay_ms: 9, bounds: Bounds { bytes: 1, ..BOUNDS } }, Kept::NoRoom, 0),
        (false, How::Delay { delay_ms: 9, bounds: Bounds { bytes: 1, ..BOUNDS } }, Kept::Unkept, 0),
    ] {
        let mut table = Table::new();
        let (epoch, ..) = table.claim(NODE, claim("c"));
        table.subscribe(NODE, "c", epoch, "a", QoS::ExactlyOnce);
        table.grant("c", epoch, 9);
        let hand_off = Op::HandOff {
            source: 3,
            number: 1,
            namespace: 0,
            message: message_of("a", "p", QoS::ExactlyOnce, true, b"2", None),
            lifetime_ms: None,
            keep: Some(Keep { how, tell }),
        };
        for _ in 0..2 {
            assert_eq!(table.op(NODE, hand_off.clone()), OpAnswer::Kept(kept), "{tell} {how:?}");
        }
        assert_eq!(table.sent("c").len(), published, "{tell} {how:?}");
        let numbers = table.replica.machine.numbers();
        assert_eq!((numbers.retained, numbers.delayed), (0, 0));
    }
}

/// What is released, or of a session that has ended, goes further, and nobody is told.
#[test]
fn nobody_waits_any_more() {
    for released in [true, false] {
        let mut table = Table::new();
        let (epoch, ..) = table.claim(NODE, claim("c"));
        table.op(NODE, retain(epoch, 9));
        if released {
            table.op(NODE, Op::Release { client: name("c"), epoch, packet_id: 9 });
            // The next one under the same identifier.
            assert_eq!(table.op(NODE, retain(epoch, 9)), OpAnswer::Staged { fresh: true });
        } else {
            table.op(NODE, disconnect("c", epoch, raftmq_shard::WillEnd::Drop));
            table.tick(4_000_000);
        }
        table.op(NODE, handed_off(1, DONE));
        assert_eq!(to(&mut table, 4), [(1, Some(7))]);
        if released {
            assert_eq!(outcomes(&mut table, NODE, epoch), [], "that of the one before");
            table.op(NODE, handed_off(2, Kept::NoRoom));
            assert_eq!(outcomes(&mut table, NODE, epoch), [(9, Kept::NoRoom)]);
        }
    }
}

/// The time on the way is part of the delay; the expiry interval begins with the publishing.
#[test]
fn delayed() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.op(NODE, receive(epoch, 9, How::Delay { delay_ms: 5_000, bounds: BOUNDS }));
    table.tick(2_000);
    let waiting = table.replica.machine.outbox(3, 0, 9).unwrap();
    assert_eq!(waiting[0].keep, Some(Keep { how: How::Delay { delay_ms: 3_000, bounds: BOUNDS }, tell: true }));
    assert_eq!(waiting[0].lifetime_ms, None);
    table.tick(9_000);
    let waiting = table.replica.machine.outbox(3, 0, 9).unwrap();
    assert_eq!(waiting[0].keep, Some(Keep { how: How::Delay { delay_ms: 0, bounds: BOUNDS }, tell: true }));
}

/// Whoever hands off again, since the one before did not say what became of it, gets the same answer.
#[test]
fn the_shard_that_keeps_answers_again() {
    let mut table = Table::new();
    let hand_off = |number, topic: &str, how| Op::HandOff {
        source: 3,
        number,
        namespace: 0,
        message: message_of(topic, "c", QoS::ExactlyOnce, true, b"2", None),
        lifetime_ms: None,
        keep: Some(Keep { how, tell: true }),
    };
    // Its number is that among all changes.
    let message = message_of("b", "c", QoS::AtLeastOnce, true, b"2", None);
    table.op(NODE, Op::Retain { namespace: 0, message, bounds: BOUNDS });
    let all = [
        ("a", RETAIN, Kept::Done { change: 2 }),
        ("a", How::Delay { delay_ms: 10, bounds: BOUNDS }, Kept::Done { change: 0 }),
        ("z", How::Retain { bounds: Bounds { messages: 2, ..BOUNDS } }, Kept::NoRoom),
    ];
    for node in [NODE, OTHER] {
        for (number, (topic, how, kept)) in (1..).zip(all) {
            assert_eq!(table.op(node, hand_off(number, topic, how)), OpAnswer::Kept(kept), "{number}");
        }
    }
    assert_eq!(table.replica.machine.numbers().delayed, 1);
    assert_eq!(table.replica.machine.numbers().retained, 2);
    // Long ago: nothing is known but that it was taken.
    for number in 4..4 + 64 {
        table.op(NODE, hand_off(number, "a", RETAIN));
    }
    assert_eq!(table.op(NODE, hand_off(3, "a", RETAIN)), OpAnswer::Duplicate);
    assert_eq!(table.op(NODE, hand_off(4, "a", RETAIN)), OpAnswer::Kept(Kept::Done { change: 3 }));
}
