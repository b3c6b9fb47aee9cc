//! What a shard retains, how it is looked up, and how it comes into a queue.

use raftmq_mqtt::QoS;
use raftmq_shard::{Bounds, Claim, Op, OpAnswer, PageLimits, QueueLimits, QueueMessage, Sent, SeqRange};

use crate::common::{LIMITS, NODE, Table, claim, message, message_of, name};

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
