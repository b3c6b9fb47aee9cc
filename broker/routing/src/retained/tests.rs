#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use raftmq_mqtt::{Origin, Properties, Publish, QoS, topic::filter_matches};
use std::collections::BTreeMap;

fn publish(topic: &str, payload: &[u8], retain: bool, expires_at: Option<u64>) -> Message {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain,
        topic,
        packet_id: None,
        properties: Properties::default(),
        payload,
    };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, "c", 0, expires_at).unwrap()
}

fn retained(topic: &str, payload: &str) -> Message {
    publish(topic, payload.as_bytes(), true, None)
}

fn store(topics: &[&str]) -> RetainedStore {
    let mut store = RetainedStore::default();
    for topic in topics {
        assert_eq!(store.set(&retained(topic, topic), 0), RetainOutcome::Stored);
    }
    store
}

fn all(store: &RetainedStore, filter: &str, limit: usize) -> Vec<String> {
    let (mut cursor, mut found) = (RetainedCursor::default(), Vec::new());
    while store.matches(filter, &mut cursor, limit, 0, |message| {
        found.push(message.topic().to_owned());
        true
    }) == Lookup::More
    {
        assert!(limit < 1000);
    }
    found
}

/// What is not taken is the first of the next lookup, whatever comes before it.
#[test]
fn a_message_that_is_not_taken_comes_again() {
    let store = store(&["a/1", "a/2", "a/3/x", "b/1", "b/2", "c"]);
    for filter in ["#", "+/+", "a/#", "+/2", "c"] {
        let (mut cursor, mut found, mut refused) = (RetainedCursor::default(), Vec::new(), String::new());
        loop {
            let lookup = store.matches(filter, &mut cursor, 100, 0, |message| {
                if refused == message.topic() {
                    found.push(message.topic().to_owned());
                    return true;
                }
                assert!(found.last().is_none_or(|last| **last < *message.topic()));
                message.topic().clone_into(&mut refused);
                false
            });
            if lookup == Lookup::Done {
                break;
            }
        }
        assert_eq!(found, all(&store, filter, 100), "{filter}");
    }
}

#[test]
fn lookups() {
    let store = store(&["a", "a/b", "a/b/c", "a/c/c", "a0", "/", "/b", "b/b/c", "$SYS/a", "$SYS", "é/b", "a//c"]);
    let table: [(&str, &[&str]); 14] = [
        ("#", &["/", "/b", "a", "a//c", "a/b", "a/b/c", "a/c/c", "a0", "b/b/c", "é/b"]),
        ("+", &["a", "a0"]),
        ("+/+", &["/", "/b", "a/b", "é/b"]),
        ("a/#", &["a", "a//c", "a/b", "a/b/c", "a/c/c"]),
        ("a/+/c", &["a//c", "a/b/c", "a/c/c"]),
        ("+/b/#", &["/b", "a/b", "a/b/c", "b/b/c", "é/b"]),
        ("+/+/c", &["a//c", "a/b/c", "a/c/c", "b/b/c"]),
        ("a/b", &["a/b"]),
        ("/+", &["/", "/b"]),
        ("/#", &["/", "/b"]),
        // [MQTT-4.7.2-1]
        ("$SYS/#", &["$SYS", "$SYS/a"]),
        ("$SYS/+", &["$SYS/a"]),
        ("+/a", &[]),
        ("x/#", &[]),
    ];
    for (filter, expected) in table {
        for limit in [1, 2, 3, 1000] {
            assert_eq!(all(&store, filter, limit), expected, "{filter}");
        }
    }
}

#[test]
fn set_and_clear() {
    let mut store = RetainedStore::default();
    // [MQTT-3.3.1-8]: without RETAIN nothing is stored,
    assert_eq!(store.set(&publish("a", b"0", false, None), 0), RetainOutcome::NotRetained);
    assert!(store.is_empty());
    // [MQTT-3.3.1-5] [MQTT311-3.3.1-5] [MQTT311-3.3.1-7]: with it, whatever its QoS (0 here), the last one is.
    assert_eq!(store.set(&retained("a", "1"), 0), RetainOutcome::Stored);
    assert_eq!(store.set(&retained("a", "22"), 0), RetainOutcome::Replaced);
    assert_eq!(store.get("a", 0).unwrap().payload(), b"22");
    // [MQTT-3.3.1-8] [MQTT311-3.3.1-12]: nor is anything removed,
    assert_eq!(store.set(&publish("a", b"", false, None), 0), RetainOutcome::NotRetained);
    assert_eq!(store.set(&publish("a", b"3", false, None), 0), RetainOutcome::NotRetained);
    assert_eq!(store.get("a", 0).unwrap().payload(), b"22");
    // [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT311-3.3.1-10] [MQTT311-3.3.1-11]: but by an empty payload, which is not stored itself.
    assert_eq!(store.set(&retained("a", ""), 0), RetainOutcome::Cleared);
    assert_eq!(store.set(&retained("a", ""), 0), RetainOutcome::NothingToClear);
    assert!(store.is_empty() && store.get("a", 0).is_none());
    let counters = RetainedCounters { stored: 2, cleared: 1, ..RetainedCounters::default() };
    assert_eq!(store.counters(), counters);
}

#[test]
fn limits() {
    let size = size_of_message(&retained("t0", "1234"));
    let mut store = RetainedStore::new(RetainedLimits { messages: 3, bytes: 4 * size - 1, payload: 8 });
    for topic in ["t0", "t1"] {
        assert_eq!(store.set(&retained(topic, "1234"), 0), RetainOutcome::Stored);
    }
    assert_eq!(store.set(&retained("t2", "123456789"), 0), RetainOutcome::PayloadTooLarge);
    assert_eq!(store.set(&publish("t2", b"1", true, Some(100)), 0), RetainOutcome::Stored);
    assert_eq!(store.set(&retained("t3", "1"), 0), RetainOutcome::TooManyMessages);
    assert_eq!(store.set(&retained("t0", "1"), 0), RetainOutcome::Replaced);
    // What has expired makes room.
    assert_eq!(store.set(&retained("t3", "1"), 100), RetainOutcome::Stored);
    store.set_limits(RetainedLimits { messages: 9, bytes: 4 * size - 10, payload: 1_000 });
    assert_eq!(store.set(&retained("t4", "1"), 100), RetainOutcome::TooManyBytes);
    assert_eq!(store.set(&retained("t3", &"x".repeat(1_000)), 100), RetainOutcome::Replaced);
    assert_eq!(store.set(&retained("t0", &"x".repeat(1_001)), 100), RetainOutcome::PayloadTooLarge);
    assert_eq!(store.get("t0", 100).unwrap().payload(), b"1");
    assert_eq!(store.set(&retained("t3", ""), 100), RetainOutcome::Cleared);
    assert_eq!(store.set(&retained("t4", "1"), 100), RetainOutcome::Stored);
    let counters = store.counters();
    assert_eq!((counters.messages, counters.refused, counters.expired, counters.cleared), (3, 4, 1, 1));
    for topic in ["t0", "t1", "t4"] {
        assert!(store.clear(topic) && !store.clear(topic));
    }
    assert_eq!((store.counters().bytes, store.counters().messages), (0, 0));
}

#[test]
fn expiry() {
    // [MQTT-3.3.2-5] for what was not sent yet.
    let mut store = RetainedStore::default();
    for i in 0..10_u64 {
        store.set(&publish(&format!("t/{i}"), b"x", true, Some(100 + i)), 0);
    }
    store.set(&retained("t/1", "stays"), 0);
    store.set(&publish("t/2", b"x", true, Some(500)), 0);
    assert_eq!(store.next_expiry(), Some(100));
    let count = |store: &RetainedStore, now| {
        let mut found = 0;
        store.matches("t/#", &mut RetainedCursor::default(), 100, now, |_| {
            found += 1;
            true
        });
        found
    };
    assert_eq!((count(&store, 99), count(&store, 104)), (10, 7));
    assert!(store.get("t/4", 104).is_none() && store.get("t/5", 104).is_some());
    assert_eq!(store.expire(104, 2), 2);
    assert_eq!((store.expire(104, 2), store.len(), store.next_expiry()), (1, 7, Some(105)));
    assert_eq!(store.set(&publish("t/1", b"late", true, Some(100)), 104), RetainOutcome::Expired);
    assert!(store.get("t/1", 104).is_none());
    assert_eq!((store.expire(1_000, 100), store.len(), store.counters().bytes), (6, 0, 0));
    assert_eq!((store.next_expiry(), store.counters().expired), (None, 10));
}

#[test]
fn a_step_is_bounded_and_subtrees_are_passed_over() {
    let mut store = RetainedStore::default();
    for i in 0..200 {
        for j in 0..100 {
            store.set(&retained(&format!("devices/d{i}/{j}/state"), "1"), 0);
        }
    }
    let steps = |filter: &str| {
        let (mut cursor, mut steps, mut found) = (RetainedCursor::default(), 1, 0);
        while store.matches(filter, &mut cursor, 1, 0, |_| {
            found += 1;
            true
        }) == Lookup::More
        {
            steps += 1;
        }
        (steps, found)
    };
    assert_eq!(steps("#"), (20_000, 20_000));
    assert_eq!(steps("nothing/#"), (1, 0));
    let (looked_at, found) = steps("devices/+/42/state");
    assert!(found == 200 && looked_at <= 3 * 200 + 1, "{looked_at}");
    let (looked_at, found) = steps("+/d7/+/state");
    assert!(found == 100 && looked_at <= 103, "{looked_at}");
    let (looked_at, found) = steps("devices/+/x");
    assert!(found == 0 && looked_at <= 401, "{looked_at}");
}

#[test]
fn topics_of_any_depth() {
    let deep = "a/".repeat(30_000) + "b";
    let store = store(&[&deep, "a"]);
    assert_eq!(all(&store, "#", 1).len(), 2);
    assert_eq!(all(&store, &("+/".repeat(30_000) + "b"), 1), [deep]);
}

fn topic() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just(""), 1 => Just("$x"), 1 => Just("\u{1}"), 1 => Just("a0")];
    prop::collection::vec(level, 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![2 => Just("a"), 2 => Just("b"), 1 => Just(""), 1 => Just("$x"), 4 => Just("+")];
    (prop::collection::vec(level, 0..5), any::<bool>())
        .prop_map(|(mut levels, all)| {
            if all {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("not empty", |filter| !filter.is_empty())
}

type Changes = Vec<(String, Option<u8>, Option<u64>)>;

fn changes(count: std::ops::Range<usize>) -> impl Strategy<Value = Changes> {
    let expiry = prop::option::weighted(0.3, 0_u64..100);
    prop::collection::vec((topic(), any::<Option<u8>>(), expiry), count)
}

/// What is there by the specification, read literally.
#[derive(Default)]
struct Model(BTreeMap<String, (u8, Option<u64>)>);

impl Model {
    fn change(
        &mut self,
        store: &mut RetainedStore,
        now: u64,
        (topic, value, expiry): (String, Option<u8>, Option<u64>),
    ) {
        let payload = value.map(|value| vec![value]).unwrap_or_default();
        let outcome = store.set(&publish(&topic, &payload, true, expiry), now);
        assert!(!outcome.is_refused());
        match value {
            Some(value) => self.0.insert(topic, (value, expiry)),
            None => self.0.remove(&topic),
        };
    }

    fn matching(&self, filter: &str, now: u64) -> BTreeMap<String, u8> {
        let live = |expiry: &Option<u64>| expiry.is_none_or(|at| at > now);
        let matching = self.0.iter().filter(|(topic, (_, expiry))| filter_matches(filter, topic) && live(expiry));
        matching.map(|(topic, (value, _))| (topic.clone(), *value)).collect()
    }
}

proptest! {
    #[test]
    fn equals_a_list(
        before in changes(0..60),
        filters in prop::collection::vec(filter(), 1..12),
        now in 0_u64..100,
        limit in 1_usize..6,
        expire in any::<bool>(),
    ) {
        let (mut store, mut model) = (RetainedStore::default(), Model::default());
        for change in before {
            model.change(&mut store, 0, change);
        }
        if expire {
            store.expire(now, 1000);
            prop_assert!(store.next_expiry().is_none_or(|at| at > now));
        }
        for filter in filters {
            let (mut cursor, mut found) = (RetainedCursor::default(), Vec::new());
            while store.matches(&filter, &mut cursor, limit, now, |m| {
                found.push((m.topic().to_owned(), m.payload()[0]));
                true
            }) == Lookup::More {}
            let count = found.len();
            let found: BTreeMap<_, _> = found.into_iter().collect();
            prop_assert_eq!(count, found.len(), "given twice");
            prop_assert_eq!(found, model.matching(&filter, now), "{}", filter);
        }
        let bytes: usize = store.topics.iter().map(|ByTopic(message)| size_of_message(message)).sum();
        prop_assert_eq!((store.counters().bytes, store.counters().messages), (bytes, store.len()));
    }

    /// What stays as it is for the whole lookup is given once; what is not there at any time of it, never.
    #[test]
    fn a_lookup_survives_changes(
        before in changes(0..40),
        meanwhile in changes(0..40),
        filter in filter(),
        limit in 1_usize..4,
    ) {
        let (mut store, mut model) = (RetainedStore::default(), Model::default());
        for change in before {
            model.change(&mut store, 0, change);
        }
        let mut stays = model.matching(&filter, 0);
        let mut ever: Vec<_> = stays.clone().into_iter().collect();
        let (mut cursor, mut found) = (RetainedCursor::default(), Vec::new());
        let mut meanwhile = meanwhile.into_iter();
        while store.matches(&filter, &mut cursor, limit, 0, |m| {
                found.push((m.topic().to_owned(), m.payload()[0]));
                true
            }) == Lookup::More {
            for change in meanwhile.by_ref().take(3) {
                let topic = change.0.clone();
                model.change(&mut store, 0, change);
                let now = model.matching(&filter, 0);
                stays.retain(|kept, _| *kept != topic);
                ever.extend(now);
            }
        }
        for (topic, value) in stays {
            prop_assert_eq!(found.iter().filter(|(t, v)| *t == topic && *v == value).count(), 1, "{}", topic);
        }
        for given in &found {
            prop_assert!(ever.contains(given));
            prop_assert_eq!(found.iter().filter(|(topic, _)| *topic == given.0).count(), 1, "given twice");
        }
    }
}
