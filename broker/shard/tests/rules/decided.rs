//! Wills and delayed messages: when they are published, and where they go.

use raftmq_shard::{Answer, Bounds, Claim, Command, HandedOn, How, Keep, Keeper, Kept, LIVE, Op, OpAnswer, WillEnd};

use crate::common::{NODE, OTHER, Replica, Table, claim, message, name};
use crate::{disconnect, will};

fn delay(topic: &str, delay_ms: u64, messages: u64) -> Op {
    Op::Delay { namespace: 0, message: message(topic, "x"), delay_ms, bounds: Bounds { messages, bytes: 9_999 } }
}

/// [MQTT5 3.1.2.5, 3.1.3.2.2, 3.14.4]: what becomes of a will, and when.
#[test]
fn wills_when_a_connection_ends() {
    // Delay, expiry, end → milliseconds until it is published, if it is.
    let table = [
        (0, 3_600, WillEnd::Keep, Some(0)),
        (5, 3_600, WillEnd::Keep, Some(5_000)),
        (5, 3_600, WillEnd::Publish, Some(0)),
        (5, 3_600, WillEnd::Drop, None),
        (0, 3_600, WillEnd::Drop, None),
        // The end of the session comes before that of the delay.
        (5, 2, WillEnd::Keep, Some(2_000)),
        (5, 0, WillEnd::Keep, Some(0)),
        (5, u32::MAX, WillEnd::Keep, Some(5_000)),
    ];
    for (delay_s, expiry_s, end, published) in table {
        let case = format!("delay {delay_s}, expiry {expiry_s}, {end:?}");
        let mut table = Table::new();
        let (epoch, ..) = table.claim(NODE, Claim { will: will("w", delay_s), expiry_s, ..claim("c") });
        table.op(NODE, disconnect("c", epoch, end));
        let Some(published) = published else {
            table.tick(10_000);
            assert!(table.decided().is_empty(), "{case}");
            continue;
        };
        if published > 0 {
            assert!(table.decided().is_empty(), "{case}");
            table.tick(published - 1);
            assert!(table.decided().is_empty(), "{case}: early");
            table.tick(1);
        }
        assert_eq!(table.decided(), ["w"], "{case}");
        table.tick(10_000);
        assert_eq!(table.decided(), ["w"], "{case}: twice");
    }
}

/// [MQTT5 3.1.3.2.2, 3.1.4-3]: a takeover, and a return before and after the delay.
#[test]
fn wills_when_a_client_comes_back() {
    // Delay, durable, clean start, connected → published.
    let table = [
        (0, true, false, true, true),
        (5, true, false, true, false),
        (5, true, true, true, true),
        (5, false, false, true, true),
        (5, true, false, false, false),
        (5, true, true, false, true),
    ];
    for (delay_s, durable, clean_start, connected, published) in table {
        let mut table = Table::new();
        let expiry_s = if durable { 3_600 } else { 0 };
        let first = Claim { will: will("w", delay_s), durable, expiry_s, ..claim("c") };
        let (epoch, ..) = table.claim(NODE, first);
        if !connected {
            table.op(NODE, disconnect("c", epoch, WillEnd::Keep));
        }
        table.claim(OTHER, Claim { clean_start, ..claim("c") });
        table.op(NODE, Op::Closed { client: name("c"), epoch });
        table.tick(10_000);
        let case = format!("{delay_s} {durable} {clean_start} {connected}");
        assert_eq!(table.decided().len(), usize::from(published), "{case}");
    }
}

/// Its node may have a DISCONNECT on its way, of a client that is connected elsewhere by now.
#[test]
fn a_will_waits_for_how_an_older_connection_ended() {
    for (end, published) in [("closed", 1), ("disconnect", 0), ("lost", 1), ("down", 1)] {
        let mut table = Table::new();
        let (epoch, ..) = table.claim(NODE, Claim { will: will("w", 0), ..claim("c") });
        table.claim(OTHER, Claim { will: will("later", 0), ..claim("c") });
        table.tick(10_000);
        // Nobody else can say it.
        assert_eq!(table.op(OTHER, disconnect("c", epoch, WillEnd::Keep)), OpAnswer::Stale);
        assert!(table.decided().is_empty(), "{end}");
        table.replica.flush();
        table.replica = Replica::new(table.replica.store.snapshot(), 1 << 20);
        match end {
            "closed" => assert_eq!(table.op(NODE, Op::Closed { client: name("c"), epoch }), OpAnswer::Done),
            "disconnect" => assert_eq!(table.op(NODE, disconnect("c", epoch, WillEnd::Drop)), OpAnswer::Stale),
            "lost" => assert_eq!(table.op(NODE, disconnect("c", epoch, WillEnd::Keep)), OpAnswer::Stale),
            _ => assert_eq!(table.apply(&Command::NodeDown { node: NODE }), Answer::Done),
        }
        table.tick(10_000);
        assert_eq!(table.decided(), vec!["w"; published], "{end}");
        assert!(table.replica.machine.client(&name("c")).unwrap().unwrap().older.is_empty(), "{end}");
        if end != "down" {
            table.op(NODE, Op::Closed { client: name("c"), epoch });
            assert_eq!(table.decided().len(), published, "{end}, twice");
        }
    }
}

/// A will goes where the leader of that time says, once.
#[test]
fn wills_are_routed_once() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, Claim { will: will("w", 0), ..claim("c") });
    table.op(NODE, disconnect("c", epoch, WillEnd::Keep));
    let route = |destinations| Op::Route { entry: 1, destinations, keeper: None };
    assert_eq!(table.op(OTHER, route(vec![2, 3])), OpAnswer::Done);
    assert_eq!(table.op(OTHER, route(vec![5])), OpAnswer::UnknownEntry);
    assert!(table.replica.machine.outbox(5, 0, 9).unwrap().is_empty());
    assert_eq!(table.replica.machine.outbox(2, 0, 9).unwrap()[0].message.topic(), "w");
    table.op(NODE, Op::HandedOff { destination: 2, up_to: 1, kept: vec![] });
    table.op(NODE, Op::HandedOff { destination: 3, up_to: 9, kept: vec![] });
    assert_eq!(table.replica.machine.numbers().messages, 0);
    // One that nobody wants.
    let (epoch, ..) = table.claim(NODE, Claim { will: will("w", 0), ..claim("c") });
    table.op(NODE, disconnect("c", epoch, WillEnd::Keep));
    assert_eq!(table.op(OTHER, Op::Route { entry: 2, destinations: vec![], keeper: None }), OpAnswer::Done);
    assert_eq!(table.replica.machine.numbers().messages, 0);
}

#[test]
fn delayed_messages_wait_for_their_time() {
    let mut table = Table::new();
    for (topic, delay_ms) in [("late", 3_000), ("soon", 1_000)] {
        table.op(NODE, delay(topic, delay_ms, 9));
    }
    table.tick(999);
    assert!(table.decided().is_empty());
    table.tick(1);
    assert_eq!(table.decided(), ["soon"]);
    table.tick(2_000);
    assert_eq!(table.decided(), ["soon", "late"]);
}

/// What waits for its time is bounded, and makes room when that has come.
#[test]
fn delayed_messages_are_bounded() {
    let mut table = Table::new();
    assert_eq!(table.op(NODE, delay("a", 1_000, 2)), OpAnswer::Done);
    assert_eq!(table.op(NODE, delay("b", 2_000, 2)), OpAnswer::Done);
    assert_eq!(table.op(NODE, delay("c", 2_000, 2)), OpAnswer::NoRoom);
    table.tick(1_000);
    assert_eq!((table.decided(), table.replica.machine.numbers().delayed), (vec!["a".to_owned()], 1));
    assert_eq!(table.op(NODE, delay("c", 2_000, 2)), OpAnswer::Done);
}

/// One that is retained goes to its shard first, and then to whoever has subscribed by then, once.
#[test]
fn a_will_that_is_retained_goes_to_its_shard_first() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, Claim { will: will("w", 0), ..claim("c") });
    table.op(NODE, disconnect("c", epoch, WillEnd::Keep));
    let keep = Keep { how: How::Retain { bounds: Bounds { messages: 9, bytes: 999 } }, tell: false };
    let keeper = Some(Box::new(Keeper { shard: 3, keep }));
    table.op(OTHER, Op::Route { entry: 1, destinations: vec![4], keeper });
    let waiting = table.replica.machine.outbox(3, 0, 9).unwrap();
    assert_eq!((waiting[0].keep, waiting[0].live), (Some(keep), true));
    assert!(table.replica.machine.outbox(4, 0, 9).unwrap().is_empty());
    let handed_off = || {
        let kept = Kept::Done { change: 5 };
        let kept = vec![HandedOn { number: 1, kept, destinations: vec![4, LIVE] }];
        Op::HandedOff { destination: 3, up_to: 1, kept }
    };
    assert_eq!(table.op(OTHER, handed_off()), OpAnswer::HandedOff { before: 0 });
    // Who says it again learns that it was said.
    assert_eq!(table.op(NODE, handed_off()), OpAnswer::HandedOff { before: 1 });
    for destination in [4, LIVE] {
        let outbox = table.replica.machine.outbox(destination, 0, 9).unwrap();
        assert_eq!(outbox.iter().map(|entry| entry.message.change()).collect::<Vec<_>>(), [Some(5)]);
    }
}
