use proptest::prelude::*;
use raftmq_mqtt::{Origin, Properties, Publish};

use super::*;
use crate::Matched;

const LIMIT: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Qos0,
    Plain,
    Shared,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Come(Kind),
    Sent,
    DropQos0,
    Unshare,
}

fn out_message(number: usize, kind: Kind) -> OutMessage {
    let qos = if kind == Kind::Qos0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    let payload = number.to_string();
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: "t",
        packet_id: NonZeroU16::new(u16::from(qos != QoS::AtMostOnce)),
        properties: Properties::EMPTY,
        payload: payload.as_bytes(),
    };
    let message = Message::new(&publish, Origin { node: 1, sequence: 1 }, "publisher", 0, None).expect("fits");
    let share = (kind == Kind::Shared).then(|| "$share/g/t".into());
    OutMessage::new(&message, &Matched { qos, share, ..Matched::default() })
}

/// What is dropped, by looking at all: the first that may go for the newer one.
fn model_come(queue: &mut Vec<(usize, Kind)>, newer: (usize, Kind)) {
    if queue.len() == LIMIT {
        let goes = |older: Kind| match newer.1 {
            Kind::Qos0 => older == Kind::Qos0,
            Kind::Plain => older != Kind::Shared,
            Kind::Shared => false,
        };
        match queue.iter().position(|(_, kind)| goes(*kind)) {
            Some(at) => queue.remove(at),
            None => return,
        };
    }
    queue.push(newer);
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(Kind::Qos0), Just(Kind::Plain), Just(Kind::Shared)];
    prop_oneof![12 => kind.prop_map(Step::Come), 3 => Just(Step::Sent), 1 => Just(Step::DropQos0), 1 => Just(Step::Unshare)]
}

proptest! {
    /// What is remembered of the front of the queue is true, whatever came and went.
    #[test]
    fn who_makes_room_is_who_looking_at_all_finds(steps in prop::collection::vec(step(), 1..120)) {
        let limits = SessionLimits { max_queued_messages: LIMIT, drop_oldest: true, ..SessionLimits::default() };
        let mut outbound = Outbound::default();
        let mut model: Vec<(usize, Kind)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Come(kind) => {
                    outbound.enqueue(&limits, Now { ms: 0, unix_ms: 0 }, out_message(number, kind));
                    model_come(&mut model, (number, kind));
                }
                Step::Sent => {
                    outbound.dequeue();
                    model.drain(..model.len().min(1));
                }
                Step::DropQos0 => {
                    outbound.drop_qos0();
                    model.retain(|(_, kind)| *kind != Kind::Qos0);
                }
                Step::Unshare => {
                    outbound.take_unshared(|_| false);
                    model.retain(|(_, kind)| *kind != Kind::Shared);
                }
            }
            let expected: Vec<OutMessage> = model.iter().map(|(number, kind)| out_message(*number, *kind)).collect();
            let payloads = |messages: &mut dyn Iterator<Item = &OutMessage>| -> Vec<Vec<u8>> {
                messages.map(|message| message.payload().to_vec()).collect()
            };
            prop_assert_eq!(payloads(&mut outbound.queue.iter()), payloads(&mut expected.iter()));
            prop_assert_eq!(outbound.queue_bytes, expected.iter().map(OutMessage::cost).sum::<usize>());
        }
    }
}

/// `[MQTT-2.2.1-4]`: an identifier is in flight once and found, whatever is acknowledged when. Against a plain list, over many rounds through all
/// identifiers, while some stay for long.
#[test]
fn identifiers_in_flight() {
    for seed in 1..=8_u64 {
        let mut random = seed;
        let mut below = |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % bound
        };
        let message = out_message(0, Kind::Plain);
        let mut outbound = Outbound::default();
        // With the step before which it is not acknowledged.
        let mut flight: Vec<(NonZeroU16, usize)> = Vec::new();
        for step in 0..500_000 {
            let ready = |at: &usize| flight[*at].1 <= step;
            let found = if below(8) == 0 { (0..flight.len()).rev().find(ready) } else { (0..flight.len()).find(ready) };
            if let Some(at) = found
                && (flight.len() >= 24 || below(2) == 0)
            {
                let (id, _) = flight.remove(at);
                assert_eq!(outbound.puback(id), Progress::Done, "{id}, seed {seed}");
            } else {
                let id = outbound.launch(message.clone());
                assert!(!flight.iter().any(|(known, _)| *known == id), "{id} is in flight, seed {seed}");
                let stays = if below(10_000) == 0 { below(400_000) } else { 0 };
                flight.push((id, step + stays));
            }
            assert_eq!(outbound.in_flight(), flight.len());
        }
    }
}

/// The first one goes when those left are in order, but the next identifier is not behind them.
#[test]
fn identifiers_when_the_oldest_is_done_at_last() {
    let message = out_message(0, Kind::Plain);
    let mut outbound = Outbound::default();
    let mut pass = |until: u16, held: &[u16]| loop {
        let id = outbound.launch(message.clone());
        if !held.contains(&id.get()) {
            assert_eq!(outbound.puback(id), Progress::Done, "{id}");
        }
        if id.get() == until {
            break;
        }
    };
    pass(65_535, &[5, 100]);
    pass(300, &[6]);
    assert_eq!(outbound.puback(NonZeroU16::new(5).expect("not 0")), Progress::Done);
    assert_eq!(outbound.in_flight(), 2);
    for _ in 0..200_000 {
        let id = outbound.launch(message.clone());
        assert!(![6, 100].contains(&id.get()), "{id} is in flight");
        assert_eq!(outbound.puback(id), Progress::Done, "{id}");
    }
}
