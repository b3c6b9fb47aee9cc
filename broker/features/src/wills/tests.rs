#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NEVER: u32 = u32::MAX;

/// `[MQTT-3.1.2-8]`, `[MQTT-3.1.2-10]`, `[MQTT-3.1.3-9]`, `[MQTT-3.14.4-3]`; with delay 0 and session expiry 0 or for
/// ever what `[MQTT311-3.1.2-8]` and `[MQTT311-3.14.4-3]` say.
#[test]
fn fates() {
    use ConnectionEnd::{Lost, Normal, SessionEnds, TakenOver};
    let resumed = TakenOver { resumes: true };
    let clean = TakenOver { resumes: false };
    for (end, delay, session_expiry, fate) in [
        (Normal, 0, 0, WillFate::Discard),
        (Normal, 60, 3600, WillFate::Discard),
        (Lost, 0, 0, WillFate::Publish),
        (Lost, 0, NEVER, WillFate::Publish),
        // The session ends with the connection.
        (Lost, 60, 0, WillFate::Publish),
        // The delay, or the end of the session, whichever is first.
        (Lost, 60, 3600, WillFate::Wait { seconds: 60 }),
        (Lost, 3600, 60, WillFate::Wait { seconds: 60 }),
        (Lost, 60, NEVER, WillFate::Wait { seconds: 60 }),
        (Lost, NEVER, NEVER, WillFate::Wait { seconds: NEVER }),
        (resumed, 60, 3600, WillFate::Discard),
        (resumed, 0, 3600, WillFate::Publish),
        (resumed, 60, 0, WillFate::Publish),
        (clean, 60, 3600, WillFate::Publish),
        (clean, 0, 0, WillFate::Publish),
        (SessionEnds, 60, 3600, WillFate::Publish),
    ] {
        assert_eq!(WillFate::of(end, delay, session_expiry), fate, "{end:?} {delay} {session_expiry}");
    }
}

fn id(client: &str) -> Arc<str> {
    Arc::from(client)
}

fn wills() -> PendingWills<&'static str> {
    PendingWills::new(WillSettings::default())
}

fn pop_all<W>(wills: &mut PendingWills<W>, now_ms: u64) -> Vec<W> {
    std::iter::from_fn(|| wills.pop_due(now_ms)).collect()
}

#[test]
fn published_when_due_in_order() {
    let mut wills = wills();
    for (client, will, due_ms) in [("a", "A", 30), ("b", "B", 10), ("c", "C", 20), ("d", "D", 20)] {
        assert!(wills.schedule(&id(client), will, 100, due_ms).is_empty());
    }
    assert_eq!(wills.next_due_ms(), Some(10));
    assert!(pop_all(&mut wills, 9).is_empty());
    assert_eq!(pop_all(&mut wills, 20), ["B", "C", "D"]);
    assert_eq!(pop_all(&mut wills, 30), ["A"]);
    assert_eq!((wills.len(), wills.bytes(), wills.next_due_ms()), (0, 0, None));
}

/// `[MQTT-3.1.3-9]`
#[test]
fn not_published_when_the_client_is_back() {
    let mut wills = wills();
    assert!(wills.schedule(&id("a"), "A", 1, 10).is_empty());
    assert!(wills.cancel("a"));
    assert!(!wills.cancel("a"));
    assert!(pop_all(&mut wills, 100).is_empty());
    // Lost again: only the will of the last connection counts, at its own time.
    assert!(wills.schedule(&id("a"), "first", 1, 10).is_empty());
    assert!(wills.schedule(&id("a"), "second", 1, 50).is_empty());
    assert!(pop_all(&mut wills, 49).is_empty());
    assert_eq!(pop_all(&mut wills, 50), ["second"]);
}

/// `[MQTT-3.1.2-8]`: "or the session ends".
#[test]
fn published_when_the_session_ends() {
    let mut wills = wills();
    assert!(wills.schedule(&id("a"), "A", 1, 1000).is_empty());
    assert_eq!(wills.session_ended("a"), Some("A"));
    assert_eq!(wills.session_ended("a"), None);
    assert!(pop_all(&mut wills, u64::MAX).is_empty());
}

#[test]
fn when_full_the_first_ones_go_early() {
    let mut wills = PendingWills::new(WillSettings { max_wills: 2, ..WillSettings::default() });
    assert!(wills.schedule(&id("a"), "A", 1, 30).is_empty());
    assert!(wills.schedule(&id("b"), "B", 1, 20).is_empty());
    assert_eq!(wills.schedule(&id("c"), "C", 1, 40), ["B"]);
    assert_eq!(wills.schedule(&id("d"), "D", 1, 10), ["D"]);
    // The same client again needs no more room.
    assert!(wills.schedule(&id("a"), "A2", 1, 30).is_empty());
    assert_eq!(pop_all(&mut wills, u64::MAX), ["A2", "C"]);

    let mut wills = PendingWills::new(WillSettings { max_bytes: 2 * (OVERHEAD + 101), ..WillSettings::default() });
    assert!(wills.schedule(&id("a"), "A", 100, 1).is_empty());
    assert!(wills.schedule(&id("b"), "B", 100, 2).is_empty());
    assert_eq!(wills.schedule(&id("c"), "C", 101, 3), ["A", "B"]);
    assert_eq!(wills.schedule(&id("d"), "D", usize::MAX, 0), ["D"]);
    assert_eq!(wills.schedule(&id("e"), "E", 400, 0), ["E"]);
    assert_eq!((wills.len(), wills.bytes()), (1, OVERHEAD + 102));
    assert_eq!(pop_all(&mut wills, 3), ["C"]);
    assert_eq!((wills.len(), wills.bytes()), (0, 0));
}

#[test]
fn clients_that_come_and_go_leave_nothing() {
    let mut wills = wills();
    for round in 0..100_000_u64 {
        assert!(wills.schedule(&id(&format!("c{}", round % 10)), "w", 1, round + 1_000_000).is_empty());
        wills.cancel(&format!("c{}", (round + 5) % 10));
        assert!(wills.order.len() <= 2 * wills.len() + 64);
    }
}

proptest! {
    /// Against a map.
    #[test]
    fn like_a_map(steps in prop::collection::vec((0_u8..4, 0_usize..6, 0_u64..20), 0..200)) {
        let mut wills = PendingWills::new(WillSettings { max_wills: 4, ..WillSettings::default() });
        let mut model: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
        for (number, (step, client, time)) in steps.into_iter().enumerate() {
            let name = client.to_string();
            match step {
                0 | 1 => {
                    let early = wills.schedule(&id(&name), number, 1, time);
                    model.insert(client, (time, number));
                    let mut expected = Vec::new();
                    if model.len() > 4 {
                        let first = *model.iter().min_by_key(|(_, will)| **will).unwrap().0;
                        expected.extend(model.remove(&first).map(|(_, number)| number));
                    }
                    prop_assert_eq!(early, expected);
                }
                2 => prop_assert_eq!(wills.session_ended(&name), model.remove(&client).map(|(_, number)| number)),
                _ => {
                    let mut expected: Vec<_> = model.values().copied().filter(|(due, _)| *due <= time).collect();
                    expected.sort_unstable();
                    model.retain(|_, (due, _)| *due > time);
                    let expected: Vec<usize> = expected.into_iter().map(|(_, number)| number).collect();
                    prop_assert_eq!(pop_all(&mut wills, time), expected);
                }
            }
            prop_assert_eq!(wills.len(), model.len());
            prop_assert!(model.values().all(|(due, _)| wills.next_due_ms().is_some_and(|next| next <= *due)));
        }
    }
}
