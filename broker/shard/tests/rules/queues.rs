//! Queues of sessions: what is sent, granted, acknowledged and dropped, and what subscriptions bring into them.

use raftmq_mqtt::QoS;
use raftmq_shard::{
    Claim, DropPolicy, Dropped, Effect, LIVE, Op, OpAnswer, QueueLimits, Sent, Subscribed, WillEnd, packet_id,
};

use crate::common::{LIMITS, NODE, OTHER, Table, claim, message, message_of, name, seqs, subscription};
use crate::drop_answer;

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
        keeper: None,
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
    table.op(NODE, Op::HandedOff { destination: 4, up_to: 1, kept: vec![] });
    assert_eq!(table.replica.machine.numbers().messages, 2);
    table.op(NODE, Op::HandedOff { destination: LIVE, up_to: 1, kept: vec![] });
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
        keep: None,
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
