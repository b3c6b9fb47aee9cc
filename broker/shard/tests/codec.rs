//! Bytes of commands and answers: they come back as they were, and no others do harm.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use proptest::prelude::*;
use raftmq_mqtt::{Message, QoS};
use raftmq_shard::{
    Answer, Batch, Bounds, Claim, Command, DropPolicy, HandedOn, How, Keep, Keeper, Kept, Name, NodeBoot, Note, Older,
    Op, OpAnswer, QueueLimits, QueueMessage, SeqRange, ShardMachine, SlotSet, Subscribed, Subscription, Unsubscribed,
    Will, WillEnd,
};

use common::{MemoryStore, message_of};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-c/+#$é]{1,12}"]
}

fn names() -> impl Strategy<Value = Name> {
    (0_u32..3, text()).prop_map(|(namespace, id)| Name::new(namespace, &id))
}

fn messages() -> impl Strategy<Value = Message> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    let expiry = prop::option::of(0_u64..100_000);
    ("[a-c/é]{1,12}", text(), 0_u8..3, any::<bool>(), payload, expiry).prop_map(
        |(topic, publisher, qos, retain, payload, expiry)| {
            message_of(&topic, &publisher, QoS::from_u8(qos).unwrap(), retain, &payload, expiry)
        },
    )
}

fn node() -> impl Strategy<Value = NodeBoot> {
    (any::<u64>(), any::<u64>()).prop_map(|(node, boot)| NodeBoot { node, boot })
}

fn seqs() -> impl Strategy<Value = Vec<SeqRange>> {
    prop::collection::vec((any::<u64>(), any::<u64>()).prop_map(|(first, last)| SeqRange { first, last }), 0..4)
}

fn destinations() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 0..4)
}

fn notes() -> impl Strategy<Value = Note> {
    prop_oneof![
        (names(), names(), any::<u64>(), limits()).prop_map(|(group, member, session, limits)| Note::Join {
            group,
            member,
            session,
            limits
        }),
        (names(), any::<u64>()).prop_map(|(group, session)| Note::Leave { group, session }),
        (names(), any::<u64>(), any::<bool>()).prop_map(|(group, session, connected)| Note::Here {
            group,
            session,
            connected
        }),
        (names(), any::<u64>(), any::<u64>(), names(), any::<u64>())
            .prop_map(|(group, number, seq, member, session)| Note::Give { group, number, seq, member, session }),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(number, session, seq)| Note::Done {
            number,
            session,
            seq
        }),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(number, session, seq)| Note::Back {
            number,
            session,
            seq
        }),
        (any::<u64>(), any::<u64>(), any::<bool>(), any::<u64>()).prop_map(|(number, session, kept, seq)| Note::Late {
            number,
            session,
            kept,
            seq
        }),
    ]
}

fn limits() -> impl Strategy<Value = QueueLimits> {
    (any::<u32>(), any::<u64>(), any::<bool>(), any::<u32>()).prop_map(
        |(max_messages, max_bytes, oldest, max_subscriptions)| QueueLimits {
            max_messages,
            max_bytes,
            drop: if oldest { DropPolicy::Oldest } else { DropPolicy::Newest },
            max_subscriptions,
        },
    )
}

fn claims() -> impl Strategy<Value = Claim> {
    let will = prop::option::of((messages(), any::<u32>()).prop_map(|(message, delay_s)| Will { message, delay_s }));
    let limits = limits();
    (names(), any::<bool>(), any::<u32>(), will, limits, any::<bool>(), any::<bool>()).prop_map(
        |(client, clean_start, expiry_s, will, limits, durable, yields)| Claim {
            client,
            clean_start,
            expiry_s,
            will,
            limits,
            durable,
            yields,
        },
    )
}

fn subscriptions() -> impl Strategy<Value = Subscription> {
    (text(), 0_u8..3, any::<bool>(), any::<bool>(), any::<u32>()).prop_map(
        |(filter, qos, no_local, retain_as_published, identifier)| Subscription {
            filter: filter.into(),
            qos: QoS::from_u8(qos).unwrap(),
            no_local,
            retain_as_published,
            identifier,
        },
    )
}

fn ops() -> impl Strategy<Value = Op> {
    let client = || (names(), any::<u64>());
    let will = prop_oneof![Just(WillEnd::Keep), Just(WillEnd::Drop), Just(WillEnd::Publish)];
    prop_oneof![
        Just(Op::Skip),
        claims().prop_map(|claim| Op::Claim(Box::new(claim))),
        client().prop_map(|(client, epoch)| Op::Closed { client, epoch }),
        (client(), prop::option::of(any::<u32>()), will).prop_map(|((client, epoch), expiry_s, will)| Op::Disconnect {
            client,
            epoch,
            expiry_s,
            will
        }),
        (client(), prop::collection::vec(subscriptions(), 0..4)).prop_map(|((client, epoch), filters)| Op::Subscribe {
            client,
            epoch,
            filters
        }),
        (client(), prop::collection::vec(text().prop_map(Arc::<str>::from), 0..4))
            .prop_map(|((client, epoch), filters)| Op::Unsubscribe { client, epoch, filters }),
        (client(), seqs()).prop_map(|((client, epoch), seqs)| Op::Ack { client, epoch, seqs }),
        (client(), seqs()).prop_map(|((client, epoch), seqs)| Op::Rec { client, epoch, seqs }),
        (client(), any::<u64>()).prop_map(|((client, epoch), up_to)| Op::Grant { client, epoch, up_to }),
        (client(), any::<u16>(), messages(), destinations(), prop::option::of(keepers())).prop_map(
            |((client, epoch), packet_id, message, destinations, keeper)| Op::Receive2 {
                client,
                epoch,
                packet_id,
                message,
                destinations,
                keeper: keeper.map(Box::new)
            }
        ),
        (client(), prop::collection::vec(any::<u16>(), 0..4)).prop_map(|((client, epoch), packet_ids)| Op::Outcomes {
            client,
            epoch,
            packet_ids
        }),
        (client(), any::<u16>()).prop_map(|((client, epoch), packet_id)| Op::Release { client, epoch, packet_id }),
        (any::<u32>(), messages()).prop_map(|(namespace, message)| Op::Publish { namespace, message }),
        (
            names(),
            any::<u64>(),
            any::<u64>(),
            prop::collection::vec((messages(), 1..3_u8, any::<u32>(), any::<Option<u64>>()), 0..4)
        )
            .prop_map(|(client, epoch, after, messages)| {
                let queued = |(message, qos, identifier, lifetime_ms)| QueueMessage {
                    message,
                    qos: QoS::from_u8(qos).unwrap(),
                    identifier,
                    lifetime_ms,
                };
                Op::Queue { client, epoch, after, messages: messages.into_iter().map(queued).collect() }
            }),
        (any::<u32>(), messages(), any::<u64>(), any::<u64>()).prop_map(|(namespace, message, messages, bytes)| {
            Op::Retain { namespace, message, bounds: Bounds { messages, bytes } }
        }),
        (any::<u32>(), messages(), any::<u64>(), any::<u64>()).prop_map(|(namespace, message, delay_ms, bytes)| {
            Op::Delay { bounds: Bounds { messages: delay_ms, bytes }, namespace, message, delay_ms }
        }),
        (any::<u64>(), destinations(), prop::option::of(keepers()))
            .prop_map(|(entry, destinations, keeper)| Op::Route { entry, destinations, keeper: keeper.map(Box::new) }),
        (
            any::<u32>(),
            any::<u64>(),
            any::<u32>(),
            messages(),
            prop::option::of(any::<u64>()),
            prop::option::of(keeps())
        )
            .prop_map(|(source, number, namespace, message, lifetime_ms, keep)| Op::HandOff {
                source,
                number,
                namespace,
                message,
                lifetime_ms,
                keep
            }),
        (any::<u32>(), any::<u64>(), prop::collection::vec(handed_on(), 0..4))
            .prop_map(|(destination, up_to, kept)| Op::HandedOff { destination, up_to, kept }),
        any::<u64>().prop_map(|up_to| Op::Announced { up_to }),
        (client(), subscriptions(), any::<u32>()).prop_map(|((client, epoch), subscription, shard)| Op::Join {
            client,
            epoch,
            subscription,
            shard
        }),
        (any::<u32>(), any::<u64>(), notes(), prop::option::of((messages(), prop::option::of(any::<u64>()))))
            .prop_map(|(source, number, note, message)| Op::Note { source, number, note: Box::new(note), message }),
        (any::<u32>(), any::<u64>()).prop_map(|(destination, up_to)| Op::Noted { destination, up_to }),
        client().prop_map(|(client, epoch)| Op::Older { client, epoch }),
        (client(), seqs()).prop_map(|((client, epoch), seqs)| Op::Return { client, epoch, seqs }),
        (client(), subscriptions(), any::<u32>(), limits()).prop_map(
            |((client, epoch), subscription, shard, limits)| Op::JoinClean {
                client,
                epoch,
                subscription,
                shard,
                limits
            }
        ),
    ]
}

fn keeps() -> impl Strategy<Value = Keep> {
    let bounds = || (any::<u64>(), any::<u64>()).prop_map(|(messages, bytes)| Bounds { messages, bytes });
    let how = prop_oneof![
        bounds().prop_map(|bounds| How::Retain { bounds }),
        (any::<u64>(), bounds()).prop_map(|(delay_ms, bounds)| How::Delay { delay_ms, bounds }),
        Just(How::TooLong),
    ];
    (how, any::<bool>()).prop_map(|(how, tell)| Keep { how, tell })
}

fn keepers() -> impl Strategy<Value = Keeper> {
    (any::<u32>(), keeps()).prop_map(|(shard, keep)| Keeper { shard, keep })
}

fn kept() -> impl Strategy<Value = Kept> {
    prop_oneof![any::<u64>().prop_map(|change| Kept::Done { change }), Just(Kept::NoRoom), Just(Kept::Unkept)]
}

fn handed_on() -> impl Strategy<Value = HandedOn> {
    (any::<u64>(), kept(), destinations()).prop_map(|(number, kept, destinations)| HandedOn {
        number,
        kept,
        destinations,
    })
}

fn commands() -> impl Strategy<Value = Command> {
    let slots = prop::collection::vec(0_u16..4_096, 0..50).prop_map(|list| {
        let mut slots = SlotSet::EMPTY;
        list.into_iter().for_each(|slot| slots.insert(slot));
        slots
    });
    let batch = (node(), any::<u16>(), any::<u64>(), any::<u64>(), prop::collection::vec(ops(), 0..12));
    prop_oneof![
        (node(), any::<u16>()).prop_map(|(node, lane)| Command::Open { node, lane }),
        batch.prop_map(|(node, lane, first, map_epoch, ops)| Command::Batch(Batch {
            node,
            lane,
            first,
            map_epoch,
            ops
        })),
        node().prop_map(|node| Command::NodeDown { node }),
        any::<u64>().prop_map(|wall_ms| Command::Tick { wall_ms }),
        any::<u64>().prop_map(|to_ms| Command::Jump { to_ms }),
        any::<u32>().prop_map(|level| Command::Level { level }),
        (any::<u64>(), slots).prop_map(|(epoch, slots)| Command::Place { epoch, slots }),
        (prop::collection::vec(any::<u8>(), 0..30), any::<u32>())
            .prop_map(|(from, limit)| Command::Digest { from, limit }),
        prop::collection::vec(ops(), 0..12).prop_map(|ops| Command::Lead { ops }),
    ]
}

fn op_answers() -> impl Strategy<Value = OpAnswer> {
    let older = (node(), any::<u64>()).prop_map(|(node, epoch)| Older { node, epoch });
    let subscribed = prop_oneof![
        any::<u64>().prop_map(|route| Subscribed::New { route }),
        any::<u64>().prop_map(|route| Subscribed::Replaced { route }),
        any::<u64>().prop_map(|note| Subscribed::Joined { note }),
        Just(Subscribed::TooMany),
        Just(Subscribed::Invalid),
    ];
    let unsubscribed = prop_oneof![
        Just(Unsubscribed::Removed),
        Just(Unsubscribed::Missing),
        any::<u64>().prop_map(|note| Unsubscribed::Left { note })
    ];
    prop_oneof![
        Just(OpAnswer::Done),
        Just(OpAnswer::Stale),
        Just(OpAnswer::NoSession),
        any::<u64>().prop_map(|epoch| OpAnswer::WrongShard { epoch }),
        (any::<u64>(), any::<bool>(), prop::collection::vec(older, 0..4))
            .prop_map(|(epoch, session_present, older)| OpAnswer::Claimed { epoch, session_present, older }),
        Just(OpAnswer::Busy),
        any::<bool>().prop_map(|fresh| OpAnswer::Staged { fresh }),
        kept().prop_map(OpAnswer::Kept),
        any::<u64>().prop_map(|before| OpAnswer::HandedOff { before }),
        prop::collection::vec((any::<u16>(), kept()), 0..4).prop_map(OpAnswer::Outcomes),
        prop::collection::vec(subscribed, 0..5).prop_map(OpAnswer::Subscribed),
        prop::collection::vec(unsubscribed, 0..5).prop_map(OpAnswer::Unsubscribed),
        any::<u32>().prop_map(|count| OpAnswer::Acked { count }),
        any::<u64>().prop_map(|up_to| OpAnswer::Granted { up_to }),
        any::<u64>().prop_map(|limit| OpAnswer::TooFar { limit }),
        Just(OpAnswer::Received),
        Just(OpAnswer::Duplicate),
        any::<bool>().prop_map(|known| OpAnswer::Released { known }),
        (any::<u32>(), any::<u32>()).prop_map(|(matched, dropped)| OpAnswer::Published { matched, dropped }),
        (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(number, matched, dropped)| OpAnswer::Retained {
            number,
            matched,
            dropped
        }),
        Just(OpAnswer::NoRoom),
        any::<u32>().prop_map(|taken| OpAnswer::Queued { taken }),
        any::<u64>().prop_map(|expected| OpAnswer::Gap { expected }),
        Just(OpAnswer::UnknownEntry),
        Just(OpAnswer::Forgotten),
    ]
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Done),
        any::<u64>().prop_map(|next| Answer::Opened { next }),
        prop::option::of(any::<u64>()).prop_map(|boot| Answer::Closed { boot }),
        any::<u64>().prop_map(|expected| Answer::Gap { expected }),
        (any::<u64>(), any::<u64>()).prop_map(|(epoch, next)| Answer::WrongShard { epoch, next }),
        prop::collection::vec(op_answers(), 0..9).prop_map(Answer::Batch),
        (any::<u64>(), prop::option::of(prop::collection::vec(any::<u8>(), 0..30)))
            .prop_map(|(hash, next)| Answer::Digest { hash, next }),
        Just(Answer::Malformed),
        any::<u32>().prop_map(|what| Answer::Unknown { what }),
    ]
}

proptest! {
    #[test]
    fn commands_come_back(command in commands()) {
        let bytes = command.encode();
        prop_assert_eq!(Command::decode(&bytes), Ok(command));
        for end in 0..bytes.len() {
            prop_assert!(Command::decode(&bytes[..end]).is_err(), "cut at {}", end);
        }
    }

    #[test]
    fn answers_come_back(answer in answers()) {
        let bytes = answer.encode();
        prop_assert_eq!(Answer::decode(&bytes), Ok(answer));
        for end in 0..bytes.len() {
            prop_assert!(Answer::decode(&bytes[..end]).is_err(), "cut at {}", end);
        }
    }

    /// Commands whose numbers make no sense, and bytes that are none, are applied by two replicas to the same end, without a panic.
    #[test]
    fn whatever_the_log_has_is_applied(
        entries in prop::collection::vec(
            (commands(), prop::option::of((any::<prop::sample::Index>(), any::<u8>()))), 1..20,
        ),
    ) {
        let mut plain = ShardMachine::load(MemoryStore::default(), 1 << 20).unwrap();
        let mut flushed = common::Replica::new(MemoryStore::default(), 0);
        let place = Command::Place { epoch: 1, slots: SlotSet::ALL };
        // Batches get to a stream that is open, so that their operations are applied.
        let mut log = vec![place.encode(), Command::Open { node: common::NODE, lane: 0 }.encode()];
        let mut first = 0;
        for (mut command, damage) in entries {
            if let Command::Batch(batch) = &mut command {
                (batch.node, batch.lane, batch.first, batch.map_epoch) = (common::NODE, 0, first, 1);
                first += batch.ops.len() as u64;
            }
            let is_place = matches!(command, Command::Place { .. });
            let mut bytes = command.encode();
            if let Some((at, with)) = damage {
                let at = at.index(bytes.len());
                bytes[at] ^= with;
            }
            if !is_place {
                log.push(bytes);
            }
        }
        for (index, entry) in (1..).zip(&log) {
            let answer = plain.apply(index, entry, &mut Vec::new()).unwrap();
            prop_assert_eq!(flushed.apply(index, entry).0, answer);
            flushed.flush();
        }
        prop_assert_eq!(plain.numbers(), flushed.machine.numbers());
    }
}
