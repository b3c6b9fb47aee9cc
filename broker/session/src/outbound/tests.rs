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
