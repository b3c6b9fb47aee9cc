//! Connections and sessions: who has a client, how long a session is kept, and what a node may still do.

use raftmq_mqtt::QoS;
use raftmq_shard::{Answer, Batch, Claim, Command, Effect, NodeBoot, Op, OpAnswer, SlotSet, WillEnd};

use crate::common::{NODE, OTHER, Table, claim, message, name};
use crate::{disconnect, will};

/// Promise: one serving connection of a client. CONNACK waits for all that may still be open.
#[test]
fn a_claim_waits_for_every_older_connection() {
    let mut table = Table::new();
    assert_eq!(table.claim(NODE, claim("c")), (1, false, 0));
    assert_eq!(table.claim(OTHER, claim("c")), (2, true, 1));
    assert_eq!(table.claim(NODE, claim("c")), (3, true, 2));
    // Nobody else can say that it is closed.
    table.op(OTHER, Op::Closed { client: name("c"), epoch: 1 });
    assert_eq!(table.replica.machine.client(&name("c")).unwrap().unwrap().older.len(), 2);
    table.op(NODE, Op::Closed { client: name("c"), epoch: 1 });
    assert!(table.effects.is_empty());
    table.op(OTHER, Op::Closed { client: name("c"), epoch: 2 });
    assert_eq!(table.effects, [Effect::WaitOver { client: name("c"), epoch: 3 }]);
    // The older ones cannot do anything.
    assert_eq!(table.op(OTHER, disconnect("c", 2, WillEnd::Keep)), OpAnswer::Stale);
    assert_eq!(table.grant("c", 1, 5), OpAnswer::Stale);
    assert_eq!(table.op(OTHER, Op::Grant { client: name("c"), epoch: 3, up_to: 1 }), OpAnswer::Stale, "another node");
    assert_eq!(table.grant("c", 3, 5), OpAnswer::Granted { up_to: 5 });
}

#[test]
fn a_wait_outlives_the_connection_that_waited() {
    let mut table = Table::new();
    let clean = Claim { durable: false, expiry_s: 0, ..claim("c") };
    table.claim(NODE, clean.clone());
    let (epoch, ..) = table.claim(OTHER, clean.clone());
    table.op(OTHER, disconnect("c", epoch, WillEnd::Keep));
    // The connection at the first node may still be open.
    assert_eq!(table.claim(OTHER, clean.clone()).2, 1);
    table.apply(&Command::NodeDown { node: NODE });
    table.tick(1);
    assert_eq!(table.effects, [Effect::WaitOver { client: name("c"), epoch: 3 }]);
    assert_eq!(table.replica.machine.numbers().clients, 1);
}

#[test]
fn too_many_older_connections_are_refused_without_effect() {
    let mut table = Table::new();
    for older in 0..9 {
        assert_eq!(table.claim(NODE, claim("c")).2, older);
    }
    assert_eq!(table.op(NODE, Op::Claim(Box::new(claim("c")))), OpAnswer::Busy);
    assert_eq!(table.replica.machine.client(&name("c")).unwrap().unwrap().epoch, 9);
    table.op(NODE, Op::Closed { client: name("c"), epoch: 4 });
    assert_eq!(table.claim(NODE, claim("c")).2, 8);
}

/// A claim that yields takes nothing from a session, or from a connection at another node.
#[test]
fn a_claim_that_yields() {
    let mut table = Table::new();
    let yields = |id: &str| Op::Claim(Box::new(Claim { durable: false, expiry_s: 0, yields: true, ..claim(id) }));
    let (epoch, ..) = table.claim(OTHER, claim("durable"));
    table.subscribe(OTHER, "durable", epoch, "t", QoS::AtLeastOnce);
    assert_eq!(table.op(NODE, yields("durable")), OpAnswer::Stale);
    // Nor when nobody is connected, and nothing was changed by it.
    table.op(OTHER, Op::Disconnect { client: name("durable"), epoch, expiry_s: None, will: WillEnd::Drop });
    assert_eq!(table.op(NODE, yields("durable")), OpAnswer::Stale);
    table.publish(message("t", "x"));
    let (_, present, older) = table.claim(OTHER, claim("durable"));
    assert_eq!((present, older, table.replica.machine.numbers().queued), (true, 0, 1));
    let clean = Claim { durable: false, expiry_s: 0, ..claim("clean") };
    let (epoch, ..) = table.claim(OTHER, clean);
    assert_eq!(table.op(NODE, yields("clean")), OpAnswer::Stale);
    table.op(OTHER, Op::Disconnect { client: name("clean"), epoch, expiry_s: None, will: WillEnd::Drop });
    assert!(matches!(table.op(NODE, yields("clean")), OpAnswer::Claimed { session_present: false, .. }));
    // It is this node's own.
    assert!(matches!(table.op(NODE, yields("clean")), OpAnswer::Claimed { session_present: false, .. }));
}

/// Epochs are not used again, also when nothing is known of a client any more.
#[test]
fn epochs_are_new_each_time() {
    let mut table = Table::new();
    let clean = Claim { durable: false, expiry_s: 0, ..claim("c") };
    let (first, ..) = table.claim(NODE, clean.clone());
    table.op(NODE, disconnect("c", first, WillEnd::Keep));
    assert_eq!(table.replica.machine.numbers().clients, 0);
    let (second, ..) = table.claim(NODE, clean);
    assert!(second > first);
}

/// [MQTT5 3.1.2.11.2]: what is kept for whom and how long.
#[test]
fn sessions_end_when_they_expire() {
    for (expiry_s, changed, lives_ms) in [(2, None, 2_000), (3_600, Some(1), 1_000), (5, Some(0), 0)] {
        let mut table = Table::new();
        let (epoch, ..) = table.claim(NODE, Claim { expiry_s, ..claim("c") });
        table.subscribe(NODE, "c", epoch, "a/#", QoS::AtLeastOnce);
        table.publish(message("a/b", "1"));
        let end = Op::Disconnect { client: name("c"), epoch, expiry_s: changed, will: WillEnd::Keep };
        table.op(NODE, end);
        if lives_ms > 0 {
            table.tick(lives_ms - 1);
            assert_eq!(table.replica.machine.numbers().sessions, 1);
            table.tick(1);
        }
        assert!(table.replica.machine.client(&name("c")).unwrap().is_none());
        table.tick(3);
        let numbers = table.replica.machine.numbers();
        assert_eq!((numbers.sessions, numbers.subscriptions, numbers.messages, numbers.queued), (0, 0, 0, 0));
        assert!(!table.claim(NODE, claim("c")).1);
    }
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, Claim { expiry_s: u32::MAX, ..claim("c") });
    table.op(NODE, disconnect("c", epoch, WillEnd::Keep));
    table.apply(&Command::Jump { to_ms: 1 << 50 });
    table.tick(1);
    assert!(table.claim(NODE, claim("c")).1);
}

/// A node that is down has its clients' wills and expiries begin when it was declared so, however long the work takes.
#[test]
fn the_clients_of_a_node_that_is_down() {
    let mut table = Table::new();
    for n in 0..1_000 {
        table.claim(NODE, Claim { will: will(&format!("w/{n}"), 0), expiry_s: 10, ..claim(&format!("c{n}")) });
    }
    table.claim(OTHER, Claim { will: will("other", 0), ..claim("other") });
    assert_eq!(table.apply(&Command::NodeDown { node: NODE }), Answer::Done);
    assert_eq!(table.apply(&Command::Open { node: NODE, lane: 0 }), Answer::Closed { boot: Some(1) });
    // Whatever has been done of it: each one is seen as not connected, and can be claimed without waiting.
    for n in [0, 500, 999] {
        let id = name(&format!("c{n}"));
        assert_eq!(table.replica.machine.client(&id).unwrap().unwrap().owner, None);
        let taken = table.op(OTHER, Op::Claim(Box::new(Claim { client: id, ..claim("") })));
        assert!(matches!(taken, OpAnswer::Claimed { session_present: true, older, .. } if older.is_empty()));
    }
    // In steps, and none of them is large.
    let mut decided = table.decided().len();
    while decided < 1_000 {
        table.tick(1_000);
        let now = table.replica.machine.unrouted(0, 2_000).unwrap().len();
        assert!(now > decided && now <= decided + 200, "{decided} → {now}");
        decided = now;
    }
    // The sessions end 10 s after the node went down, not after the step that came to them.
    let now = table.replica.machine.numbers().now_ms;
    assert!(now > 5_000, "the last step came {now} ms later");
    table.tick(10_000 - now.min(10_000));
    while table.replica.machine.numbers().sessions > 4 {
        table.tick(0);
        assert_eq!(table.replica.machine.numbers().now_ms, now.max(10_000));
    }
    assert!(!table.decided().contains(&"other".to_owned()));
}

/// Boots: an older one can do nothing, and what is said of an older one does not concern a newer one.
#[test]
fn streams_of_boots() {
    let mut table = Table::new();
    let boot = |boot| NodeBoot { node: 7, boot };
    table.claim(boot(2), claim("c"));
    assert_eq!(table.apply(&Command::Open { node: boot(1), lane: 0 }), Answer::Closed { boot: Some(2) });
    table.apply(&Command::NodeDown { node: boot(1) });
    table.tick(1);
    assert_eq!(table.op(boot(2), Op::Skip), OpAnswer::Done);
    assert_eq!(table.replica.machine.client(&name("c")).unwrap().unwrap().owner, Some(boot(2)));
    // A newer boot closes the older one's streams; its clients are the older one's until that is down.
    let known = |table: &mut Table| table.replica.machine.nodes().unwrap()[0];
    assert_eq!(known(&mut table).earlier(), None, "the one before was declared down");
    assert_eq!(table.apply(&Command::Open { node: boot(3), lane: 0 }), Answer::Opened { next: 0 });
    assert_eq!(table.effects, [Effect::Boot { node: 7 }]);
    assert_eq!(known(&mut table).earlier(), Some(boot(2)));
    assert_eq!(table.op(boot(3), Op::Skip), OpAnswer::Done);
    let batch = Batch { node: boot(2), lane: 0, first: 2, map_epoch: 1, ops: vec![Op::Skip] };
    assert_eq!(table.apply(&Command::Batch(batch)), Answer::Closed { boot: Some(3) });
    assert_eq!(table.replica.machine.client(&name("c")).unwrap().unwrap().owner, Some(boot(2)));
    table.apply(&Command::NodeDown { node: boot(2) });
    table.tick(1);
    assert_eq!(table.replica.machine.client(&name("c")).unwrap().unwrap().owner, None);
    assert!(known(&mut table).earlier().is_none() && known(&mut table).is_open());
    assert_eq!(table.op(boot(3), Op::Skip), OpAnswer::Done);
}

/// Answers are kept for a while, and go with their stream, in the store too.
#[test]
fn nothing_is_kept_of_a_stream_that_is_closed() {
    let mut table = Table::new();
    // Streams and records of answers in the store.
    let kept = |table: &mut Table| {
        table.replica.flush();
        let entries = table.replica.store.entries();
        [3, 4].map(|number| entries.keys().filter(|key| key[0] == number).count())
    };
    let boot = |boot| NodeBoot { node: 7, boot };
    let skips = |boot, first, count| {
        Command::Batch(Batch { node: boot, lane: 0, first, map_epoch: 1, ops: vec![Op::Skip; count] })
    };
    for open in 1..=2 {
        assert_eq!(table.apply(&Command::Open { node: boot(open), lane: 0 }), Answer::Opened { next: 0 });
        assert_eq!(kept(&mut table), [1, 0], "nothing of an older boot");
        table.apply(&skips(boot(open), 0, 100));
        assert_eq!(kept(&mut table), [1, 2]);
        table.apply(&skips(boot(open), 100, 9_900));
        assert_eq!(kept(&mut table), [1, 65], "4,096 answers and those of the last record, 64 each");
    }
    table.apply(&Command::NodeDown { node: boot(2) });
    assert_eq!(kept(&mut table), [0, 0]);
}

/// A repeat, whole or cut differently, gets the answers that there were and has no effect.
#[test]
fn operations_are_applied_once() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
    let batch = |first, count| {
        let ops = (0..count).map(|_| Op::Publish { namespace: 0, message: message("a", "x") }).collect();
        Command::Batch(Batch { node: NODE, lane: 0, first, map_epoch: 1, ops })
    };
    let published = OpAnswer::Published { matched: 1, dropped: 0 };
    assert_eq!(table.apply(&batch(3, 1)), Answer::Gap { expected: 2 });
    assert_eq!(table.apply(&batch(2, 3)), Answer::Batch(vec![published.clone(); 3]));
    assert_eq!(table.apply(&batch(2, 3)), Answer::Batch(vec![published.clone(); 3]));
    assert_eq!(table.replica.machine.numbers().queued, 3);
    // The claim's answer, not that of a publish; and two that are new.
    let Answer::Batch(answers) = table.apply(&batch(0, 7)) else { panic!("no answers") };
    assert!(matches!(answers[0], OpAnswer::Claimed { .. }), "{answers:?}");
    assert_eq!(answers[2..], vec![published; 5]);
    assert_eq!(table.replica.machine.numbers().queued, 5);
    // Of what is long ago only that it was.
    table.apply(&batch(7, 5_000));
    let Answer::Batch(answers) = table.apply(&batch(0, 1_000)) else { panic!("no answers") };
    assert_eq!(answers[0], OpAnswer::Forgotten);
    assert_ne!(answers[999], OpAnswer::Forgotten);
    assert_eq!(table.replica.machine.numbers().queued, 5_005);
    assert_eq!(table.apply(&Command::Open { node: NODE, lane: 0 }), Answer::Opened { next: 5_007 });
}

#[test]
fn what_is_another_shards() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    let mut slots = SlotSet::EMPTY;
    (0..4_096).filter(|slot| *slot != raftmq_shard::slot(0, "c")).for_each(|slot| slots.insert(slot));
    table.apply(&Command::Place { epoch: 2, slots });
    // A map that is not the shard's: nothing is done, and the number is not used up.
    let batch = |map_epoch| {
        let ops = vec![Op::Grant { client: name("c"), epoch, up_to: 1 }];
        Command::Batch(Batch { node: NODE, lane: 0, first: 1, map_epoch, ops })
    };
    assert_eq!(table.apply(&batch(1)), Answer::WrongShard { epoch: 2, next: 1 });
    assert_eq!(table.apply(&batch(3)), Answer::WrongShard { epoch: 2, next: 1 });
    assert_eq!(table.apply(&batch(2)), Answer::Batch(vec![OpAnswer::WrongShard { epoch: 2 }]));
    // An older map changes nothing.
    table.apply(&Command::Place { epoch: 1, slots: SlotSet::ALL });
    assert_eq!(table.apply(&batch(2)), Answer::Batch(vec![OpAnswer::WrongShard { epoch: 2 }]));
}
