//! The rules, one table or story each.

#![allow(clippy::unwrap_used)]

mod common;

use raftmq_mqtt::QoS;
use raftmq_shard::{
    Answer, Batch, Bounds, Claim, Command, DropPolicy, Dropped, Effect, LIVE, NodeBoot, Op, OpAnswer, PageLimits,
    QueueLimits, QueueMessage, Sent, SeqRange, ShardMachine, SlotSet, StoreError, Subscribed, Will, WillEnd, packet_id,
};

use common::{LIMITS, MemoryStore, NODE, OTHER, Table, claim, message, message_of, name, seqs, subscription};

fn will(topic: &str, delay_s: u32) -> Option<Will> {
    Some(Will { message: message(topic, "gone"), delay_s })
}

fn disconnect(id: &str, epoch: u64, will: WillEnd) -> Op {
    Op::Disconnect { client: name(id), epoch, expiry_s: None, will }
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
        table.tick(10_000);
        let case = format!("{delay_s} {durable} {clean_start} {connected}");
        assert_eq!(table.decided().len(), usize::from(published), "{case}");
    }
}

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

/// Packet identifiers follow from sequence numbers, and one is in use once.
#[test]
fn packet_identifiers() {
    assert_eq!([packet_id(1), packet_id(65_534), packet_id(65_535), packet_id(65_536)], [2, 65_535, 1, 2]);
    assert!((1..200_000).all(|seq| packet_id(seq) > 0));
}

/// What is granted may be in use; the window ends 4,095 above the oldest that is not acknowledged.
#[test]
fn grants() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
    (0..5_000).for_each(|_| drop(table.publish(message("a", "x"))));
    assert!(table.sent("c").is_empty());
    assert_eq!(table.grant("c", epoch, 4_097), OpAnswer::TooFar { limit: 4_096 });
    assert_eq!(table.grant("c", epoch, 4_096), OpAnswer::Granted { up_to: 4_096 });
    assert_eq!(table.grant("c", epoch, 7), OpAnswer::Granted { up_to: 4_096 });
    assert_eq!(table.sent("c"), (1..=4_096).collect::<Vec<u64>>());
    // Acknowledged out of order: the oldest counts.
    let ack = |first, last| Op::Ack { client: name("c"), epoch, seqs: seqs(first, last) };
    assert_eq!(table.op(NODE, ack(2, 4_000)), OpAnswer::Acked { count: 3_999 });
    assert_eq!(table.grant("c", epoch, 4_097), OpAnswer::TooFar { limit: 4_096 });
    assert_eq!(table.op(NODE, ack(0, 3)), OpAnswer::Acked { count: 1 });
    assert_eq!(table.op(NODE, ack(4_097, 5_000)), OpAnswer::Acked { count: 0 }, "not granted");
    assert_eq!(table.grant("c", epoch, 6_000), OpAnswer::Granted { up_to: 6_000 });
    // One that comes is sent at once; but not to the next connection before it is granted there.
    table.op(NODE, ack(1, 5_000));
    table.publish(message("a", "y"));
    assert_eq!(table.sent("c"), [5_001]);
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.publish(message("a", "z"));
    assert_eq!(table.sent("c"), [5_001]);
    assert_eq!(table.grant("c", epoch, 5_002), OpAnswer::Granted { up_to: 5_002 });
    let sent = table.replica.machine.deliveries(&name("c"), 0, 9, 9_999).unwrap().unwrap();
    let dup = sent.sent.iter().map(|delivery| matches!(delivery.sent, Sent::Publish { dup: true, .. }));
    assert_eq!(dup.collect::<Vec<bool>>(), [true, false]);
}

/// [MQTT5 4.3.3]: after PUBREC it is PUBREL that is sent again, under the same identifier, and the message is gone.
#[test]
fn qos_2_outbound() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.subscribe(NODE, "c", epoch, "a", QoS::ExactlyOnce);
    let two = message_of("a", "p", QoS::ExactlyOnce, false, b"2", None);
    table.publish(two);
    table.publish(message("a", "1"));
    table.grant("c", epoch, 2);
    let rec = |last| Op::Rec { client: name("c"), epoch, seqs: seqs(1, last) };
    // Only that of QoS 2.
    assert_eq!(table.op(NODE, rec(2)), OpAnswer::Acked { count: 1 });
    assert_eq!(table.op(NODE, rec(2)), OpAnswer::Acked { count: 0 });
    assert_eq!(table.replica.machine.numbers().messages, 1);
    let sent = table.replica.machine.deliveries(&name("c"), 0, 9, 9_999).unwrap().unwrap().sent;
    assert_eq!((sent[0].seq, &sent[0].sent, sent[0].packet_id()), (1, &Sent::Release, 2));
    assert!(matches!(sent[1].sent, Sent::Publish { qos: QoS::AtLeastOnce, .. }));
    table.op(NODE, Op::Ack { client: name("c"), epoch, seqs: seqs(1, 1) });
    assert_eq!(table.sent("c"), [2]);
}

/// [MQTT5 4.3.3]: an identifier is one message until it is released, over takeovers too.
#[test]
fn qos_2_inbound() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    let receive = |epoch, destinations| Op::Receive2 {
        client: name("c"),
        epoch,
        packet_id: 9,
        message: message_of("a", "c", QoS::ExactlyOnce, false, b"2", None),
        destinations,
    };
    assert_eq!(table.op(NODE, receive(epoch, vec![4, LIVE, 4])), OpAnswer::Received);
    assert_eq!(table.effects, [Effect::Outbox { destination: 4 }, Effect::Outbox { destination: LIVE }]);
    assert_eq!(table.op(NODE, receive(epoch, vec![4])), OpAnswer::Duplicate);
    let (epoch, ..) = table.claim(OTHER, claim("c"));
    assert_eq!(table.op(OTHER, receive(epoch, vec![4])), OpAnswer::Duplicate);
    assert_eq!(
        table.op(OTHER, Op::Release { client: name("c"), epoch, packet_id: 9 }),
        OpAnswer::Released { known: true }
    );
    assert_eq!(
        table.op(OTHER, Op::Release { client: name("c"), epoch, packet_id: 9 }),
        OpAnswer::Released { known: false }
    );
    assert_eq!(table.op(OTHER, receive(epoch, vec![4])), OpAnswer::Received);
    let numbers: Vec<u64> =
        table.replica.machine.outbox(4, 0, 9).unwrap().into_iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [1, 2]);
    // The first is kept for the live ones until they have it, too.
    table.op(NODE, Op::HandedOff { destination: 4, up_to: 1 });
    assert_eq!(table.replica.machine.numbers().messages, 2);
    table.op(NODE, Op::HandedOff { destination: LIVE, up_to: 1 });
    assert_eq!(table.replica.machine.numbers().messages, 1);
    assert_eq!(table.replica.machine.outbox(4, 0, 9).unwrap()[0].number, 2);
}

#[test]
fn hand_offs_are_taken_once_and_in_order() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
    let hand_off = |source, number, lifetime_ms| Op::HandOff {
        source,
        number,
        namespace: 0,
        message: message("a", "x"),
        lifetime_ms,
    };
    let published = OpAnswer::Published { matched: 1, dropped: 0 };
    assert_eq!(table.op(NODE, hand_off(3, 2, None)), OpAnswer::Gap { expected: 1 });
    assert_eq!(table.op(NODE, hand_off(3, 1, None)), published);
    assert_eq!(table.op(OTHER, hand_off(3, 1, None)), OpAnswer::Duplicate);
    assert_eq!(table.op(OTHER, hand_off(4, 1, None)), published);
    // One whose time is over is taken, and for nobody.
    assert_eq!(table.op(NODE, hand_off(3, 2, Some(0))), OpAnswer::Published { matched: 1, dropped: 1 });
    assert_eq!(table.op(NODE, hand_off(3, 3, Some(500))), published);
    table.tick(200);
    table.grant("c", epoch, 9);
    let sent = table.replica.machine.deliveries(&name("c"), 0, 9, 9_999).unwrap().unwrap().sent;
    assert_eq!(sent.len(), 3);
    assert!(matches!(sent[2].sent, Sent::Publish { lifetime_ms: Some(300), .. }));
}

/// A will goes where the leader of that time says, once.
#[test]
fn wills_are_routed_once() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, Claim { will: will("w", 0), ..claim("c") });
    table.op(NODE, disconnect("c", epoch, WillEnd::Keep));
    let route = |destinations| Op::Route { entry: 1, destinations };
    assert_eq!(table.op(OTHER, route(vec![2, 3])), OpAnswer::Done);
    assert_eq!(table.op(OTHER, route(vec![5])), OpAnswer::UnknownEntry);
    assert!(table.replica.machine.outbox(5, 0, 9).unwrap().is_empty());
    assert_eq!(table.replica.machine.outbox(2, 0, 9).unwrap()[0].message.topic(), "w");
    table.op(NODE, Op::HandedOff { destination: 2, up_to: 1 });
    table.op(NODE, Op::HandedOff { destination: 3, up_to: 9 });
    assert_eq!(table.replica.machine.numbers().messages, 0);
    // One that nobody wants.
    let (epoch, ..) = table.claim(NODE, Claim { will: will("w", 0), ..claim("c") });
    table.op(NODE, disconnect("c", epoch, WillEnd::Keep));
    assert_eq!(table.op(OTHER, Op::Route { entry: 2, destinations: vec![] }), OpAnswer::Done);
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

/// Who is full drops as it says, and what is granted stays.
#[test]
fn full_queues() {
    let limits = |drop| QueueLimits { max_messages: 3, drop, ..LIMITS };
    for (drop, kept, reason) in
        [(DropPolicy::Newest, [1, 2, 3], Dropped::Full), (DropPolicy::Oldest, [1, 4, 5], Dropped::Oldest)]
    {
        let mut table = Table::new();
        let (epoch, ..) = table.claim(NODE, Claim { limits: limits(drop), ..claim("c") });
        table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
        table.grant("c", epoch, 1);
        (0..3).for_each(|n| drop_answer(&table.publish(message("a", &n.to_string())), 0));
        for n in 3..5 {
            drop_answer(&table.publish(message("a", &n.to_string())), u32::from(drop == DropPolicy::Newest));
            assert!(table.effects.contains(&Effect::Dropped { reason, count: 1 }));
        }
        table.grant("c", epoch, 10);
        assert_eq!(table.sent("c"), kept);
        assert_eq!(table.replica.machine.numbers().dropped(reason), 2);
        assert_eq!(table.replica.machine.numbers().messages, 3);
        // All are granted now: nothing can go.
        drop_answer(&table.publish(message("a", "x")), 1);
        assert_eq!(table.sent("c"), kept);
    }
    // A message that is too large for the queue takes nobody's place.
    let mut table = Table::new();
    let limits = QueueLimits { max_bytes: 200, drop: DropPolicy::Oldest, ..LIMITS };
    let (epoch, ..) = table.claim(NODE, Claim { limits, ..claim("c") });
    table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
    table.publish(message("a", "x"));
    drop_answer(&table.publish(message("a", &"x".repeat(200))), 1);
    assert_eq!(table.replica.machine.numbers().queued, 1);
}

fn drop_answer(answer: &OpAnswer, dropped: u32) {
    assert_eq!(*answer, OpAnswer::Published { matched: 1, dropped });
}

/// [MQTT5 3.3.2.3.3]: what has expired is not delivered, unless it may have been before; it makes room first.
#[test]
fn expired_messages() {
    let short = |expiry_ms| message_of("a", "p", QoS::AtLeastOnce, false, b"x", expiry_ms);
    let mut table = Table::new();
    let limits = QueueLimits { max_messages: 3, ..LIMITS };
    let (epoch, ..) = table.claim(NODE, Claim { limits, ..claim("c") });
    table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
    table.grant("c", epoch, 1);
    [Some(1_000), None, Some(1_000)].into_iter().for_each(|expiry| drop_answer(&table.publish(short(expiry)), 0));
    table.tick(999);
    drop_answer(&table.publish(short(None)), 1);
    table.tick(1);
    drop_answer(&table.publish(short(None)), 0);
    table.grant("c", epoch, 9);
    assert_eq!(table.sent("c"), [1, 2, 4]);
    assert_eq!(table.replica.machine.numbers().dropped, [1, 1, 0]);
    // What expires while it waits is left out by the grant.
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.subscribe(NODE, "c", epoch, "a", QoS::AtLeastOnce);
    [Some(1_000), None].into_iter().for_each(|expiry| drop_answer(&table.publish(short(expiry)), 0));
    table.tick(1_000);
    table.grant("c", epoch, 9);
    assert_eq!(table.sent("c"), [2]);
    assert_eq!(table.replica.machine.numbers().messages, 1);
}

/// [MQTT5 3.3.4, 3.8.3.1]: one message for all matching subscriptions.
#[test]
fn what_subscriptions_say() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    let mut filters = vec![subscription("a/b", QoS::AtLeastOnce), subscription("a/#", QoS::ExactlyOnce)];
    filters[0].identifier = 7;
    filters[1].identifier = 3;
    filters[1].retain_as_published = true;
    filters.push(subscription("+/b", QoS::AtMostOnce));
    let outcome = table.op(NODE, Op::Subscribe { client: name("c"), epoch, filters });
    assert_eq!(outcome, OpAnswer::Subscribed((1..=3).map(|route| Subscribed::New { route }).collect()));
    table.publish(message_of("a/b", "p", QoS::ExactlyOnce, true, b"x", None));
    table.publish(message_of("a/b", "p", QoS::AtMostOnce, false, b"x", None));
    table.publish(message_of("b/b", "p", QoS::ExactlyOnce, false, b"x", None));
    table.grant("c", epoch, 9);
    let sent = table.replica.machine.deliveries(&name("c"), 0, 9, 9_999).unwrap().unwrap().sent;
    let [delivery] = &sent[..] else { panic!("{sent:?}") };
    let Sent::Publish { qos, retain, identifiers, .. } = &delivery.sent else { panic!("{sent:?}") };
    assert_eq!((*qos, *retain, &identifiers[..]), (QoS::ExactlyOnce, true, &[3, 7][..]));
    // No Local concerns the client's own messages, in its own namespace.
    let mut no_local = subscription("n", QoS::AtLeastOnce);
    no_local.no_local = true;
    table.op(NODE, Op::Subscribe { client: name("c"), epoch, filters: vec![no_local] });
    let own = message_of("n", "c", QoS::AtLeastOnce, false, b"x", None);
    assert_eq!(table.publish(own.clone()), OpAnswer::Published { matched: 0, dropped: 0 });
    drop_answer(&table.publish(message("n", "x")), 0);
    // Namespaces do not see each other.
    let elsewhere = Op::Publish { namespace: 1, message: message("n", "x") };
    assert_eq!(table.op(NODE, elsewhere), OpAnswer::Published { matched: 0, dropped: 0 });
}

#[test]
fn an_ended_session_goes_in_steps_and_matches_nothing() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    let filters = (0..500).map(|n| subscription(&format!("a/{n}/#"), QoS::AtLeastOnce));
    table.op(NODE, Op::Subscribe { client: name("c"), epoch, filters: filters.collect() });
    (0..5_000).for_each(|n| drop_answer(&table.publish(message(&format!("a/{}", n % 500), "x")), 0));
    let end = Op::Disconnect { client: name("c"), epoch, expiry_s: Some(0), will: WillEnd::Keep };
    table.op(NODE, end);
    let left = table.replica.machine.numbers();
    assert!(left.subscriptions > 400 && left.messages > 2_000, "{left:?}");
    assert_eq!((left.queued, left.sessions), (0, 0));
    assert_eq!(table.publish(message("a/499", "x")), OpAnswer::Published { matched: 0, dropped: 0 });
    // A filter whose subscription has not been removed yet has its route; when it goes, it is said.
    let (epoch, ..) = table.claim(NODE, claim("c"));
    let answer = table.subscribe(NODE, "c", epoch, "a/99/#", QoS::AtLeastOnce);
    assert_eq!(answer, OpAnswer::Subscribed(vec![Subscribed::New { route: 100 }]));
    let mut removed = 0;
    for _ in 0..20 {
        table.tick(1);
        removed += table.effects.iter().filter(|effect| matches!(effect, Effect::Route { .. })).count();
    }
    // Four commands before removed 64 each.
    assert!(removed > 200, "{removed}");
    let left = table.replica.machine.numbers();
    assert_eq!((left.subscriptions, left.filters, left.messages), (1, 1, 0));
    drop_answer(&table.publish(message("a/99", "x")), 0);
}

#[test]
fn subscriptions_are_bounded() {
    let mut table = Table::new();
    let limits = QueueLimits { max_subscriptions: 2, ..LIMITS };
    let (epoch, ..) = table.claim(NODE, Claim { limits, ..claim("c") });
    let filters = ["a", "b", "c", "a", "a/#/b", "$share/g/a"].map(|filter| subscription(filter, QoS::AtLeastOnce));
    let expected = [
        Subscribed::New { route: 1 },
        Subscribed::New { route: 2 },
        Subscribed::TooMany,
        Subscribed::Replaced { route: 1 },
        Subscribed::Invalid,
        Subscribed::Invalid,
    ];
    let subscribe = Op::Subscribe { client: name("c"), epoch, filters: filters.into() };
    assert_eq!(table.op(NODE, subscribe), OpAnswer::Subscribed(expected.into()));
}

fn page_of(messages: usize, steps: usize) -> PageLimits {
    PageLimits { messages, bytes: usize::MAX, steps }
}

/// [MQTT5 3.3.1.3]
#[test]
fn retained_messages() {
    let mut table = Table::new();
    let retain = |topic: &str, payload: &str, expiry_ms| {
        message_of(topic, "p", QoS::AtMostOnce, true, payload.as_bytes(), expiry_ms)
    };
    for topic in ["a/b/1", "a/c/2", "a/b/2", "$sys/b/2", "a b/b/2", "b"] {
        table.publish(retain(topic, "x", None));
    }
    table.publish(retain("a/b/1", "new", None));
    table.publish(retain("b", "", None));
    table.publish(retain("a/short", "x", Some(1_500)));
    let topics = |table: &mut Table, filter: &str| {
        let page = table.replica.machine.retained_matching(0, filter, None, page_of(99, 999)).unwrap();
        page.messages.into_iter().map(|kept| kept.message.topic().to_owned()).collect::<Vec<String>>()
    };
    assert_eq!(topics(&mut table, "#"), ["a/b/1", "a/b/2", "a/c/2", "a/short", "a b/b/2"]);
    assert_eq!(topics(&mut table, "+/b/2"), ["a/b/2", "a b/b/2"]);
    assert_eq!(topics(&mut table, "a/+/2"), ["a/b/2", "a/c/2"]);
    assert_eq!(topics(&mut table, "$sys/#"), ["$sys/b/2"]);
    assert!(topics(&mut table, "b").is_empty());
    assert_eq!(table.replica.machine.retained(0, "a/b/1").unwrap().unwrap().message.payload(), b"new");
    assert_eq!(table.replica.machine.retained(0, "a/short").unwrap().unwrap().lifetime_ms, Some(1_500));
    table.tick(1_499);
    assert!(table.replica.machine.retained(0, "a/short").unwrap().is_some());
    table.tick(1);
    assert!(table.replica.machine.retained(0, "a/short").unwrap().is_none());
    assert_eq!((table.replica.machine.numbers().retained, table.replica.machine.numbers().messages), (5, 5));
}

/// A lookup looks at few records more than it finds: it seeks over what is between.
#[test]
fn retained_lookups_seek() {
    let mut table = Table::new();
    for site in 0..20 {
        for device in 0..200 {
            table.publish(message_of(&format!("s/{site}/{device}"), "p", QoS::AtMostOnce, true, b"x", None));
        }
    }
    let page = table.replica.machine.retained_matching(0, "s/+/77", None, page_of(99, 200)).unwrap();
    assert_eq!((page.messages.len(), page.next), (20, None));
    let page = table.replica.machine.retained_matching(0, "s/3/#", None, page_of(9_999, 201)).unwrap();
    assert_eq!((page.messages.len(), page.next), (200, None));
}

/// A page ends with the message that fills it, whatever the size of that one; nothing is left out or found twice.
#[test]
fn retained_pages_are_bounded_by_bytes() {
    let mut table = Table::new();
    let retain = |topic: &str, bytes: usize| message_of(topic, "p", QoS::AtMostOnce, true, &b"x".repeat(bytes), None);
    for (topic, bytes) in [("a", 400), ("b", 400), ("c", 5_000), ("d", 400), ("e", 400)] {
        table.publish(retain(topic, bytes));
    }
    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let limits = PageLimits { messages: 99, bytes: 1_000, steps: 99 };
        let page = table.replica.machine.retained_matching(0, "#", cursor.as_ref(), limits).unwrap();
        pages.push(page.messages.iter().map(|kept| kept.message.topic().to_owned()).collect::<String>());
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, ["abc", "de"]);
}

/// Of two messages retained for a topic the later one has the higher number, also where the topic was cleared between them.
#[test]
fn retained_numbers_grow() {
    let mut table = Table::new();
    let mut last = 0;
    for payload in ["1", "2", "", "3", "", "", "4"] {
        table.publish(message_of("t", "p", QoS::AtMostOnce, true, payload.as_bytes(), None));
        table.publish(message_of("other", "p", QoS::AtMostOnce, true, b"x", None));
        if let Some(kept) = table.replica.machine.retained(0, "t").unwrap() {
            assert!(kept.number > last, "{} after {last}", kept.number);
            last = kept.number;
        }
    }
    assert!(last > 0);
}

/// Changes of retained messages are numbered; where there is no room for another topic nothing is published, while a replacement, and a removal, find it.
#[test]
fn retained_messages_are_bounded() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.subscribe(NODE, "c", epoch, "#", QoS::AtLeastOnce);
    let bounds = Bounds { messages: 2, bytes: 1_000 };
    let mut retain = |topic: &str, payload: &str, bounds| {
        let message = message_of(topic, "p", QoS::AtLeastOnce, true, payload.as_bytes(), None);
        table.op(NODE, Op::Retain { namespace: 0, message, bounds })
    };
    let kept = |number| OpAnswer::Retained { number, matched: 1, dropped: 0 };
    assert_eq!(retain("a", "1", bounds), kept(1));
    assert_eq!(retain("b", "1", bounds), kept(2));
    assert_eq!(retain("c", "1", bounds), OpAnswer::NoRoom);
    assert_eq!(retain("c", "", bounds), kept(3));
    assert_eq!(retain("a", &"2".repeat(2_000), bounds), kept(4));
    assert_eq!(retain("b", "", bounds), kept(5));
    // Too many bytes, though there is one topic only.
    assert_eq!(retain("b", "1", bounds), OpAnswer::NoRoom);
    assert_eq!(retain("b", "1", Bounds { bytes: 9_999, ..bounds }), kept(6));
    let machine = &mut table.replica.machine;
    assert_eq!(machine.retained(0, "a").unwrap().unwrap().number, 4);
    assert_eq!((machine.numbers().retained, machine.numbers().queued), (2, 6));
}

/// Messages for one queue are taken as far as there is room, and sent with RETAIN set; what other sessions have is not touched.
#[test]
fn messages_for_one_queue() {
    let mut table = Table::new();
    let limits = QueueLimits { max_messages: 5, ..LIMITS };
    let (epoch, ..) = table.claim(NODE, Claim { limits, ..claim("c") });
    let (other, ..) = table.claim(NODE, claim("other"));
    table.subscribe(NODE, "other", other, "#", QoS::AtLeastOnce);
    let queued = |payload: &str, lifetime_ms| QueueMessage {
        message: message("t", payload),
        qos: QoS::AtLeastOnce,
        identifier: 7,
        lifetime_ms,
    };
    let mut queue = |epoch, messages| table.op(NODE, Op::Queue { client: name("c"), epoch, after: 0, messages });
    assert_eq!(queue(epoch, vec![queued("1", None), queued("2", Some(5_000))]), OpAnswer::Queued { taken: 2 });
    assert_eq!(queue(epoch, vec![queued("3", None), queued("4", None)]), OpAnswer::Queued { taken: 1 });
    assert_eq!(queue(epoch, vec![queued("4", None)]), OpAnswer::Queued { taken: 0 });
    assert_eq!(queue(epoch + 1, vec![queued("5", None)]), OpAnswer::Stale);
    table.grant("c", epoch, 9);
    let sent = table.replica.machine.deliveries(&name("c"), 0, 99, 9_999).unwrap().unwrap().sent;
    let payloads: Vec<_> = sent
        .iter()
        .map(|delivery| match &delivery.sent {
            Sent::Publish { message, retain: true, identifiers, .. } if identifiers[..] == [7] => message.payload(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(payloads, [b"1", b"2", b"3"]);
    assert_eq!(table.replica.machine.numbers().queued, 3);
}

/// What was read of a topic before something newer came into the queue does not come behind that; what came before it was read counts for nothing.
#[test]
fn nothing_older_behind_something_newer() {
    let mut table = Table::new();
    let (epoch, ..) = table.claim(NODE, claim("c"));
    table.subscribe(NODE, "c", epoch, "#", QoS::AtLeastOnce);
    let bounds = Bounds { messages: 9, bytes: 9_999 };
    let of = |topic: &str, payload: &str| message_of(topic, "p", QoS::AtLeastOnce, true, payload.as_bytes(), None);
    let mut read = Vec::new();
    for (topic, payload) in [("a", "1"), ("b", "1"), ("a", "2"), ("a", "3")] {
        table.op(NODE, Op::Retain { namespace: 0, message: of(topic, payload), bounds });
        let message = table.replica.machine.retained(0, topic).unwrap().unwrap().message;
        read.push(QueueMessage { message, qos: QoS::AtLeastOnce, identifier: 0, lifetime_ms: None });
    }
    let mut queue = |after, which: &[usize]| {
        let messages: Vec<_> = which.iter().map(|at| read[*at].clone()).collect();
        let taken = u32::try_from(messages.len()).unwrap();
        let op = Op::Queue { client: name("c"), epoch, after, messages };
        assert_eq!(table.op(NODE, op), OpAnswer::Queued { taken });
        table.replica.machine.numbers().queued
    };
    // The newest is there as well, and so is what nothing newer came of.
    assert_eq!(queue(0, &[0, 1, 2]), 5);
    assert_eq!(queue(2, &[0]), 5);
    assert_eq!(queue(0, &[3]), 6);
    // Behind what came last before this: only what was queued as retained.
    assert_eq!(queue(6, &[2]), 7);
}

/// What is retained takes half of a queue, so that what is published finds room. One for which no such queue has room is dropped, and holds nothing up.
#[test]
fn what_is_retained_takes_half_of_a_queue() {
    let mut table = Table::new();
    let limits = QueueLimits { max_messages: 10, max_bytes: 2_000, ..LIMITS };
    let (epoch, ..) = table.claim(NODE, Claim { limits, ..claim("c") });
    table.subscribe(NODE, "c", epoch, "#", QoS::AtLeastOnce);
    let of = |bytes: usize| QueueMessage {
        message: message("t", &"x".repeat(bytes)),
        qos: QoS::AtLeastOnce,
        identifier: 0,
        lifetime_ms: None,
    };
    let queue = |table: &mut Table, sizes: &[usize]| {
        let messages = sizes.iter().map(|bytes| of(*bytes)).collect();
        match table.op(NODE, Op::Queue { client: name("c"), epoch, after: 0, messages }) {
            OpAnswer::Queued { taken } => taken,
            other => panic!("{other:?}"),
        }
    };
    // Larger than half, in an empty queue, and larger than all of it.
    assert_eq!(queue(&mut table, &[3_000, 1_500, 10]), 2);
    assert_eq!(table.replica.machine.numbers().queued, 1);
    table.grant("c", epoch, 9);
    let seqs = vec![SeqRange { first: 1, last: 1 }];
    table.op(NODE, Op::Ack { client: name("c"), epoch, seqs });
    assert_eq!(queue(&mut table, &[10; 9]), 5);
    assert_eq!(queue(&mut table, &[10]), 0);
    for _ in 0..5 {
        assert_eq!(table.publish(message("t", "live")), OpAnswer::Published { matched: 1, dropped: 0 });
    }
    assert_eq!(table.publish(message("t", "live")), OpAnswer::Published { matched: 1, dropped: 1 });
}

/// A message for the sessions of a shard is not retained by it: that has bounds, and its own operation.
#[test]
fn what_is_only_published_is_not_retained() {
    let mut table = Table::new();
    let message = message_of("t", "p", QoS::AtLeastOnce, true, b"x", None);
    table.op(NODE, Op::Publish { namespace: 0, message });
    assert_eq!((table.replica.machine.numbers().retained, table.replica.machine.last_retained()), (0, 0));
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

fn delay(topic: &str, delay_ms: u64, messages: u64) -> Op {
    Op::Delay { namespace: 0, message: message(topic, "x"), delay_ms, bounds: Bounds { messages, bytes: 9_999 } }
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
    let mut replica = common::Replica::new(store, 100_000);
    let mut index = 0;
    let mut apply = |replica: &mut common::Replica, command: &Command| {
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
