//! Commands as bytes: a format, a kind, and the fields in their order.

use std::sync::Arc;

use raftmq_mqtt::QoS;

use crate::{Keep, Keeper, Kept, Note};

use super::{
    Batch, Bounds, Claim, Command, DropPolicy, HandedOn, Op, QueueLimits, QueueMessage, SeqRange, Subscription, Will,
    WillEnd,
};
use crate::{
    Name, NodeBoot,
    codec::{CodecError, Put, Reader},
    slot::SlotSet,
};

/// The format of commands. What is of a later one must not be applied: replicas that know it would differ.
const FORMAT: u8 = 1;

/// What an entry begins with that carries the leader's time before its command.
const STAMP: u8 = 0xff;

/// The most operations of a batch.
const MAX_OPS: usize = 65_536;
/// The most filters of an operation.
const MAX_FILTERS: usize = 4_096;
/// The most ranges of sequence numbers of an operation.
const MAX_RANGES: usize = 4_096;
/// The most destinations of a message.
const MAX_DESTINATIONS: usize = 4_096;
/// The longest key.
const MAX_KEY: usize = 1 << 17;

impl Command {
    /// The bytes of a log entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        match self {
            Self::Open { node, lane } => {
                out.push(1);
                put_node(&mut out, *node);
                out.number((*lane).into());
            }
            Self::Batch(batch) => {
                out.push(2);
                put_node(&mut out, batch.node);
                out.number(batch.lane.into());
                out.number(batch.first);
                out.number(batch.map_epoch);
                out.count(batch.ops.len());
                batch.ops.iter().for_each(|op| put_op(&mut out, op));
            }
            Self::NodeDown { node } => {
                out.push(3);
                put_node(&mut out, *node);
            }
            Self::Tick { wall_ms } => {
                out.push(4);
                out.number(*wall_ms);
            }
            Self::Jump { to_ms } => {
                out.push(5);
                out.number(*to_ms);
            }
            Self::Level { level } => {
                out.push(6);
                out.number((*level).into());
            }
            Self::Place { epoch, slots } => {
                out.push(7);
                out.number(*epoch);
                slots.words().iter().for_each(|word| out.number(*word));
            }
            Self::Digest { from, limit } => {
                out.push(8);
                out.slice(from);
                out.number((*limit).into());
            }
            Self::Lead { ops } => {
                out.push(9);
                out.count(ops.len());
                ops.iter().for_each(|op| put_op(&mut out, op));
            }
        }
        out
    }

    /// Reads a log entry. Whatever the bytes are, memory is taken for what is there only.
    ///
    /// # Errors
    /// They are no command that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        match reader.byte("format")? {
            FORMAT => {}
            format if format > FORMAT => return Err(CodecError::Format(format)),
            _ => return Err(CodecError::Invalid("format")),
        }
        let command = match reader.byte("command")? {
            1 => Self::Open { node: node(&mut reader)?, lane: reader.small("lane")? },
            2 => Self::Batch(Batch {
                node: node(&mut reader)?,
                lane: reader.small("lane")?,
                first: reader.number("first")?,
                map_epoch: reader.number("epoch of the map")?,
                ops: reader.list("operations", MAX_OPS, op)?,
            }),
            3 => Self::NodeDown { node: node(&mut reader)? },
            4 => Self::Tick { wall_ms: reader.number("wall clock")? },
            5 => Self::Jump { to_ms: reader.number("time")? },
            6 => Self::Level { level: reader.small("level")? },
            7 => {
                let epoch = reader.number("epoch of the map")?;
                let mut words = [0; 64];
                for word in &mut words {
                    *word = reader.number("slots")?;
                }
                Self::Place { epoch, slots: SlotSet::from_words(words) }
            }
            8 => Self::Digest { from: reader.slice("key", MAX_KEY)?.to_vec(), limit: reader.small("limit")? },
            9 => Self::Lead { ops: reader.list("operations", MAX_OPS, op)? },
            _ => return Err(CodecError::Invalid("command")),
        };
        reader.end()?;
        Ok(command)
    }
}

/// A log entry of a command, with the time of the leader that proposes it: its term, and the milliseconds on its monotonic clock since it began
/// to lead.
///
/// The time of the shard moves by what this clock moved since the last entry of the same term, at most [`crate::MAX_STEP_MS`] at once; a new
/// leader's begins at 0. So it is never ahead of the time that passed, whoever led.
#[must_use]
pub fn stamped(term: u64, ms: u64, command: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(command.len() + 20);
    out.push(STAMP);
    out.number(term);
    out.number(ms);
    out.extend_from_slice(command);
    out
}

/// The term of a leader, and its time.
type Stamp = (u64, u64);

/// The time of an entry, if it carries one, and the command.
pub(crate) fn stamp(entry: &[u8]) -> Result<(Option<Stamp>, &[u8]), CodecError> {
    if entry.first() != Some(&STAMP) {
        return Ok((None, entry));
    }
    let mut reader = Reader::new(&entry[1..]);
    let stamp = (reader.number("term")?, reader.number("time")?);
    Ok((Some(stamp), reader.rest()))
}

fn put_op(out: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Skip => out.push(0),
        Op::Claim(claim) => {
            out.push(1);
            put_claim(out, claim);
        }
        Op::Closed { client, epoch } => put_client(out, 2, client, *epoch),
        Op::Disconnect { client, epoch, expiry_s, will } => {
            put_client(out, 3, client, *epoch);
            out.option(expiry_s.map(u64::from));
            out.push(match will {
                WillEnd::Keep => 0,
                WillEnd::Drop => 1,
                WillEnd::Publish => 2,
            });
        }
        Op::Subscribe { client, epoch, filters } => {
            put_client(out, 4, client, *epoch);
            out.count(filters.len());
            filters.iter().for_each(|subscription| put_subscription(out, subscription));
        }
        Op::Unsubscribe { client, epoch, filters } => {
            put_client(out, 5, client, *epoch);
            out.count(filters.len());
            filters.iter().for_each(|filter| out.slice(filter.as_bytes()));
        }
        Op::Ack { client, epoch, seqs } => {
            put_client(out, 6, client, *epoch);
            put_seqs(out, seqs);
        }
        Op::Rec { client, epoch, seqs } => {
            put_client(out, 7, client, *epoch);
            put_seqs(out, seqs);
        }
        Op::Grant { client, epoch, up_to } => {
            put_client(out, 8, client, *epoch);
            out.number(*up_to);
        }
        Op::Receive2 { client, epoch, packet_id, message, destinations, keeper } => {
            put_client(out, 9, client, *epoch);
            out.number((*packet_id).into());
            out.message(message);
            put_destinations(out, destinations);
            put_keeper(out, keeper.as_deref());
        }
        Op::Outcomes { client, epoch, packet_ids } => {
            put_client(out, 39, client, *epoch);
            out.count(packet_ids.len());
            packet_ids.iter().for_each(|id| out.number((*id).into()));
        }
        Op::Release { client, epoch, packet_id } => {
            put_client(out, 10, client, *epoch);
            out.number((*packet_id).into());
        }
        Op::Publish { namespace, message } => {
            out.push(11);
            out.number((*namespace).into());
            out.message(message);
        }
        Op::Queue { client, epoch, after, messages } => {
            put_client(out, 36, client, *epoch);
            out.number(*after);
            out.count(messages.len());
            for queued in messages {
                out.message(&queued.message);
                out.number((queued.qos as u8).into());
                out.number(queued.identifier.into());
                out.option(queued.lifetime_ms);
            }
        }
        Op::Retain { namespace, message, bounds } => {
            out.push(35);
            out.number((*namespace).into());
            out.message(message);
            out.number(bounds.messages);
            out.number(bounds.bytes);
        }
        Op::Delay { namespace, message, delay_ms, bounds } => {
            out.push(12);
            out.number((*namespace).into());
            out.message(message);
            out.number(*delay_ms);
            out.number(bounds.messages);
            out.number(bounds.bytes);
        }
        Op::Route { entry, destinations, keeper } => {
            out.push(13);
            out.number(*entry);
            put_destinations(out, destinations);
            put_keeper(out, keeper.as_deref());
        }
        Op::HandOff { source, number, namespace, message, lifetime_ms, keep } => {
            out.push(14);
            out.number((*source).into());
            out.number(*number);
            out.number((*namespace).into());
            out.message(message);
            out.option(*lifetime_ms);
            out.flag(keep.is_some());
            if let Some(keep) = keep {
                keep.encode(out);
            }
        }
        Op::HandedOff { destination, up_to, kept } => {
            out.push(15);
            out.number((*destination).into());
            out.number(*up_to);
            out.count(kept.len());
            for handed in kept {
                out.number(handed.number);
                handed.kept.encode(out);
                put_destinations(out, &handed.destinations);
            }
        }
        Op::Announced { up_to } => {
            out.push(16);
            out.number(*up_to);
        }
        Op::Older { client, epoch } => put_client(out, 17, client, *epoch),
        Op::Join { client, epoch, subscription, shard } => {
            put_client(out, 32, client, *epoch);
            put_subscription(out, subscription);
            out.number((*shard).into());
        }
        Op::Note { source, number, note, message } => {
            out.push(33);
            out.number((*source).into());
            out.number(*number);
            note.encode(out);
            out.flag(message.is_some());
            if let Some((message, lifetime_ms)) = message {
                out.message(message);
                out.option(*lifetime_ms);
            }
        }
        Op::JoinClean { client, epoch, subscription, shard, limits } => {
            put_client(out, 38, client, *epoch);
            put_subscription(out, subscription);
            out.number((*shard).into());
            put_limits(out, limits);
        }
        Op::Return { client, epoch, seqs } => {
            put_client(out, 37, client, *epoch);
            put_seqs(out, seqs);
        }
        Op::Noted { destination, up_to } => {
            out.push(34);
            out.number((*destination).into());
            out.number(*up_to);
        }
    }
}

fn op(reader: &mut Reader<'_>) -> Result<Op, CodecError> {
    Ok(match reader.byte("operation")? {
        0 => Op::Skip,
        1 => Op::Claim(Box::new(claim(reader)?)),
        2 => Op::Closed { client: name(reader)?, epoch: epoch(reader)? },
        3 => Op::Disconnect {
            client: name(reader)?,
            epoch: epoch(reader)?,
            expiry_s: match reader.option("expiry")? {
                Some(expiry) => Some(u32::try_from(expiry).map_err(|_| CodecError::Invalid("expiry"))?),
                None => None,
            },
            will: match reader.byte("end of the will")? {
                0 => WillEnd::Keep,
                1 => WillEnd::Drop,
                2 => WillEnd::Publish,
                _ => return Err(CodecError::Invalid("end of the will")),
            },
        },
        4 => Op::Subscribe {
            client: name(reader)?,
            epoch: epoch(reader)?,
            filters: reader.list("filters", MAX_FILTERS, subscription)?,
        },
        5 => Op::Unsubscribe {
            client: name(reader)?,
            epoch: epoch(reader)?,
            filters: reader.list("filters", MAX_FILTERS, |reader| reader.text("filter").map(Arc::from))?,
        },
        6 => Op::Ack { client: name(reader)?, epoch: epoch(reader)?, seqs: seqs(reader)? },
        7 => Op::Rec { client: name(reader)?, epoch: epoch(reader)?, seqs: seqs(reader)? },
        8 => Op::Grant { client: name(reader)?, epoch: epoch(reader)?, up_to: reader.number("grant")? },
        9 => Op::Receive2 {
            client: name(reader)?,
            epoch: epoch(reader)?,
            packet_id: reader.small("packet identifier")?,
            message: reader.message()?,
            destinations: destinations(reader)?,
            keeper: keeper(reader)?,
        },
        10 => {
            Op::Release { client: name(reader)?, epoch: epoch(reader)?, packet_id: reader.small("packet identifier")? }
        }
        11 => Op::Publish { namespace: reader.small("namespace")?, message: reader.message()? },
        12 => Op::Delay {
            namespace: reader.small("namespace")?,
            message: reader.message()?,
            delay_ms: reader.number("delay")?,
            bounds: Bounds { messages: reader.number("messages")?, bytes: reader.number("bytes")? },
        },
        13 => {
            Op::Route { entry: reader.number("entry")?, destinations: destinations(reader)?, keeper: keeper(reader)? }
        }
        14 => Op::HandOff {
            source: reader.small("source")?,
            number: reader.number("number")?,
            namespace: reader.small("namespace")?,
            message: reader.message()?,
            lifetime_ms: reader.option("lifetime")?,
            keep: if reader.flag("keeping")? { Some(Keep::decode(reader)?) } else { None },
        },
        15 => Op::HandedOff {
            destination: reader.small("destination")?,
            up_to: reader.number("number")?,
            kept: reader.list("outcomes", MAX_DESTINATIONS, |reader| {
                let (number, kept) = (reader.number("number")?, Kept::decode(reader)?);
                Ok(HandedOn { number, kept, destinations: destinations(reader)? })
            })?,
        },
        16 => Op::Announced { up_to: reader.number("number")? },
        32 => Op::Join {
            client: name(reader)?,
            epoch: epoch(reader)?,
            subscription: subscription(reader)?,
            shard: reader.small("shard")?,
        },
        33 => Op::Note {
            source: reader.small("source")?,
            number: reader.number("number")?,
            note: Box::new(Note::decode(reader)?),
            message: if reader.flag("message")? { Some((reader.message()?, reader.option("lifetime")?)) } else { None },
        },
        35 => Op::Retain {
            namespace: reader.small("namespace")?,
            message: reader.message()?,
            bounds: Bounds { messages: reader.number("messages")?, bytes: reader.number("bytes")? },
        },
        36 => Op::Queue {
            client: name(reader)?,
            epoch: epoch(reader)?,
            after: reader.number("number")?,
            messages: reader.list("messages", MAX_FILTERS, |reader| {
                let message = reader.message()?;
                let qos = match reader.number("QoS")? {
                    1 => QoS::AtLeastOnce,
                    2 => QoS::ExactlyOnce,
                    _ => return Err(CodecError::Invalid("QoS")),
                };
                let (identifier, lifetime_ms) = (reader.small("identifier")?, reader.option("lifetime")?);
                Ok(QueueMessage { message, qos, identifier, lifetime_ms })
            })?,
        },
        38 => Op::JoinClean {
            client: name(reader)?,
            epoch: epoch(reader)?,
            subscription: subscription(reader)?,
            shard: reader.small("shard")?,
            limits: limits(reader)?,
        },
        39 => Op::Outcomes {
            client: name(reader)?,
            epoch: epoch(reader)?,
            packet_ids: reader.list("packet identifiers", 1 << 16, |reader| reader.small("packet identifier"))?,
        },
        37 => Op::Return { client: name(reader)?, epoch: epoch(reader)?, seqs: seqs(reader)? },
        34 => Op::Noted { destination: reader.small("destination")?, up_to: reader.number("number")? },
        17 => Op::Older { client: name(reader)?, epoch: epoch(reader)? },
        _ => return Err(CodecError::Invalid("operation")),
    })
}

fn put_claim(out: &mut Vec<u8>, claim: &Claim) {
    put_name(out, &claim.client);
    out.flag(claim.clean_start);
    out.number(claim.expiry_s.into());
    put_will(out, claim.will.as_ref());
    put_limits(out, &claim.limits);
    out.flag(claim.durable);
    out.flag(claim.yields);
}

fn claim(reader: &mut Reader<'_>) -> Result<Claim, CodecError> {
    Ok(Claim {
        client: name(reader)?,
        clean_start: reader.flag("clean start")?,
        expiry_s: reader.small("expiry")?,
        will: will(reader)?,
        limits: limits(reader)?,
        durable: reader.flag("durable")?,
        yields: reader.flag("yields")?,
    })
}

pub(crate) fn put_will(out: &mut Vec<u8>, will: Option<&Will>) {
    out.flag(will.is_some());
    if let Some(will) = will {
        out.message(&will.message);
        out.number(will.delay_s.into());
    }
}

pub(crate) fn will(reader: &mut Reader<'_>) -> Result<Option<Will>, CodecError> {
    if !reader.flag("will")? {
        return Ok(None);
    }
    Ok(Some(Will { message: reader.message()?, delay_s: reader.small("will delay")? }))
}

pub(crate) fn put_limits(out: &mut Vec<u8>, limits: &QueueLimits) {
    out.number(limits.max_messages.into());
    out.number(limits.max_bytes);
    out.flag(limits.drop == DropPolicy::Oldest);
    out.number(limits.max_subscriptions.into());
}

pub(crate) fn limits(reader: &mut Reader<'_>) -> Result<QueueLimits, CodecError> {
    Ok(QueueLimits {
        max_messages: reader.small("most messages")?,
        max_bytes: reader.number("most bytes")?,
        drop: if reader.flag("drop policy")? { DropPolicy::Oldest } else { DropPolicy::Newest },
        max_subscriptions: reader.small("most subscriptions")?,
    })
}

fn put_subscription(out: &mut Vec<u8>, subscription: &Subscription) {
    out.slice(subscription.filter.as_bytes());
    let flags = u8::from(subscription.no_local) << 2 | u8::from(subscription.retain_as_published) << 3;
    out.push(subscription.qos as u8 | flags);
    out.number(subscription.identifier.into());
}

fn subscription(reader: &mut Reader<'_>) -> Result<Subscription, CodecError> {
    let filter = reader.text("filter")?.into();
    let flags = reader.byte("options")?;
    let qos = QoS::from_u8(flags & 0b11).filter(|_| flags < 16).ok_or(CodecError::Invalid("options"))?;
    Ok(Subscription {
        filter,
        qos,
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        identifier: reader.small("subscription identifier")?,
    })
}

fn put_seqs(out: &mut Vec<u8>, seqs: &[SeqRange]) {
    out.count(seqs.len());
    for range in seqs {
        out.number(range.first);
        out.number(range.last);
    }
}

fn seqs(reader: &mut Reader<'_>) -> Result<Vec<SeqRange>, CodecError> {
    reader.list("ranges", MAX_RANGES, |reader| {
        Ok(SeqRange { first: reader.number("first")?, last: reader.number("last")? })
    })
}

fn put_destinations(out: &mut Vec<u8>, destinations: &[u32]) {
    out.count(destinations.len());
    destinations.iter().for_each(|destination| out.number((*destination).into()));
}

fn put_keeper(out: &mut Vec<u8>, keeper: Option<&Keeper>) {
    out.flag(keeper.is_some());
    if let Some(keeper) = keeper {
        keeper.encode(out);
    }
}

fn keeper(reader: &mut Reader<'_>) -> Result<Option<Box<Keeper>>, CodecError> {
    Ok(if reader.flag("keeper")? { Some(Box::new(Keeper::decode(reader)?)) } else { None })
}

fn destinations(reader: &mut Reader<'_>) -> Result<Vec<u32>, CodecError> {
    reader.list("destinations", MAX_DESTINATIONS, |reader| reader.small("destination"))
}

pub(crate) fn put_node(out: &mut Vec<u8>, node: NodeBoot) {
    out.number(node.node);
    out.number(node.boot);
}

pub(crate) fn node(reader: &mut Reader<'_>) -> Result<NodeBoot, CodecError> {
    Ok(NodeBoot { node: reader.number("node")?, boot: reader.number("boot")? })
}

fn put_client(out: &mut Vec<u8>, kind: u8, client: &Name, epoch: u64) {
    out.push(kind);
    put_name(out, client);
    out.number(epoch);
}

pub(crate) fn put_name(out: &mut Vec<u8>, name: &Name) {
    out.number(name.namespace.into());
    out.slice(name.id.as_bytes());
}

pub(crate) fn name(reader: &mut Reader<'_>) -> Result<Name, CodecError> {
    Ok(Name { namespace: reader.small("namespace")?, id: reader.text("client identifier")?.into() })
}

fn epoch(reader: &mut Reader<'_>) -> Result<u64, CodecError> {
    reader.number("epoch")
}
