//! Parts of queues, read at a replica for a node that has none.

use raftmq_mqtt::{Message, QoS};
use raftmq_shard::{Deliveries, Delivery, Name, Sent, ShardMachine, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::node::{CALL, Running};

use super::read::{bounded, when_there_blocking};
use super::{ShardId, ShardReadError};

/// Parts that are asked for at once.
pub(super) const AT_ONCE: usize = 256;
/// About the bytes of an answer: a message that is larger goes alone.
const BYTES: usize = 1 << 20;
/// Of one part, whatever is asked.
const MOST: usize = 1_024;

/// A node asks for parts of queues.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PartsRequest {
    pub(crate) shard: u16,
    pub(crate) generation: u32,
    /// The state read is to have applied this.
    pub(crate) at_least: u64,
    pub(crate) asked: Vec<Asked>,
}

/// A part of one queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) namespace: u32,
    pub(crate) id: String,
    pub(crate) after: u64,
    pub(crate) max: u64,
    pub(crate) bytes: u64,
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Parts {
    /// The last entry applied.
    pub(crate) index: u64,
    /// The first ones of those that were asked for; there was no room for the rest.
    pub(crate) parts: Vec<Part>,
}

/// A part of a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    sent: Vec<Packet>,
    granted: u64,
    last: u64,
    waits: bool,
    /// There may be more that is granted.
    more: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Packet {
    seq: u64,
    /// `None`: PUBREL.
    publish: Option<PublishPacket>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PublishPacket {
    message: Vec<u8>,
    qos: u8,
    retain: bool,
    apart: bool,
    dup: bool,
    identifiers: Vec<u32>,
    lifetime_ms: Option<u64>,
}

impl Part {
    /// Of what was read with these bounds, what fits into an answer with so many bytes already. `None`: not one packet does.
    fn of(read: Deliveries, max: usize, max_bytes: usize, filled: &mut usize) -> Option<Self> {
        let Deliveries { sent, granted, last, waits } = read;
        let (count, mut bytes) = (sent.len(), 0);
        let mut fits = Vec::with_capacity(count);
        for Delivery { seq, sent } in sent {
            let size = match &sent {
                Sent::Publish { message, .. } => message.wire_len() + 32,
                Sent::Release => 16,
            };
            if *filled > 0 && *filled + size > BYTES {
                break;
            }
            *filled += size;
            bytes += size;
            fits.push(Packet { seq, publish: PublishPacket::of(sent) });
        }
        if fits.is_empty() && count > 0 {
            return None;
        }
        let more = fits.len() < count || count >= max || bytes >= max_bytes;
        Some(Self { sent: fits, granted, last, waits, more })
    }

    /// The packets, and whether there may be more.
    pub(super) fn read(self) -> Result<(Deliveries, bool), String> {
        let delivery = |Packet { seq, publish }| {
            let sent = publish.map_or(Ok(Sent::Release), PublishPacket::read)?;
            Ok(Delivery { seq, sent })
        };
        let sent = self.sent.into_iter().map(delivery).collect::<Result<_, String>>()?;
        Ok((Deliveries { sent, granted: self.granted, last: self.last, waits: self.waits }, self.more))
    }
}

impl PublishPacket {
    fn of(sent: Sent) -> Option<Self> {
        let Sent::Publish { message, qos, retain, apart, dup, identifiers, lifetime_ms } = sent else { return None };
        let mut bytes = Vec::with_capacity(message.wire_len());
        message.to_wire(&mut bytes);
        Some(Self { message: bytes, qos: qos as u8, retain, apart, dup, identifiers, lifetime_ms })
    }

    fn read(self) -> Result<Sent, String> {
        let message = Message::from_wire(&self.message).map_err(|error| error.to_string())?;
        let qos = QoS::from_u8(self.qos).ok_or("no QoS")?;
        let Self { retain, apart, dup, identifiers, lifetime_ms, .. } = self;
        Ok(Sent::Publish { message, qos, retain, apart, dup, identifiers, lifetime_ms })
    }
}

/// Reads for another node.
pub(crate) async fn parts_for(running: &Running, request: PartsRequest) -> Result<Parts, ShardReadError> {
    let PartsRequest { shard, generation, at_least, asked } = request;
    let replica = running.shards.replica(ShardId { number: shard, generation }).ok_or(ShardReadError::Unavailable)?;
    replica.group.wait_applied(at_least, CALL / 2).await.map_err(|_| ShardReadError::Unavailable)?;
    let parts = when_there_blocking(&replica.machine, move |machine| read(machine, &asked)).await;
    let parts = parts.ok_or(ShardReadError::Unavailable)?;
    let parts = parts.map_err(|error| ShardReadError::Store(error.to_string()))?;
    // The last ones may be entries of the group itself, of which the machine knows nothing.
    Ok(Parts { index: parts.index.max(at_least), ..parts })
}

fn read<S: Store>(machine: &mut ShardMachine<S>, asked: &[Asked]) -> Result<Parts, StoreError> {
    let mut parts = Vec::with_capacity(asked.len().min(AT_ONCE));
    let mut filled = 0;
    for one in asked.iter().take(AT_ONCE) {
        let (max, max_bytes) = (bounded(one.max, MOST), bounded(one.bytes, BYTES));
        let read = machine.deliveries(&Name::new(one.namespace, &one.id), one.after, max, max_bytes)?;
        match Part::of(read.unwrap_or_default(), max, max_bytes, &mut filled) {
            Some(part) => parts.push(part),
            None => break,
        }
    }
    Ok(Parts { index: machine.applied(), parts })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_mqtt::{Origin, Properties, Publish};
    use std::num::NonZeroU16;

    fn delivery(seq: u64, size: usize) -> Delivery {
        let publish = Publish {
            dup: false,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: "a/b",
            packet_id: NonZeroU16::new(1),
            properties: Properties::EMPTY,
            payload: &vec![7; size],
        };
        let message = Message::new(&publish, Origin { node: 1, sequence: seq }, "publisher", 1_000, None).unwrap();
        let (qos, identifiers) = (QoS::AtLeastOnce, vec![3, 4]);
        let sent =
            Sent::Publish { message, qos, retain: true, apart: true, dup: true, identifiers, lifetime_ms: Some(5) };
        Delivery { seq, sent }
    }

    fn queue(sent: Vec<Delivery>) -> Deliveries {
        Deliveries { sent, granted: 9, last: 12, waits: true }
    }

    #[test]
    fn a_part_is_what_was_read() {
        let sent = vec![delivery(4, 10), Delivery { seq: 5, sent: Sent::Release }, delivery(8, 0)];
        let read = || queue(sent.clone());
        let part = |max, bytes| Part::of(read(), max, bytes, &mut 0).unwrap();
        let through = |part: Part| {
            let bytes = crate::wire::encode(&part);
            crate::wire::decode::<Part>(&bytes).unwrap().read().unwrap()
        };
        assert_eq!(through(part(64, 1 << 18)), (read(), false));
        assert_eq!(through(part(3, 1 << 18)), (read(), true));
        assert_eq!(through(part(64, 1)), (read(), true));
        let nothing = Part::of(queue(Vec::new()), 64, 1, &mut 0).unwrap();
        assert_eq!(through(nothing), (queue(Vec::new()), false));
    }

    /// An answer fits into a frame, whose bound is that of a message and some room; and whoever asks gets on.
    #[test]
    fn an_answer_is_bounded() {
        let part = |sizes: &[usize], filled: &mut usize| {
            let sent = sizes.iter().enumerate().map(|(seq, size)| delivery(seq as u64, *size)).collect();
            Part::of(queue(sent), 64, usize::MAX, filled).map(|part| (part.sent.len(), part.more))
        };
        assert_eq!(part(&[BYTES * 3, 1], &mut 0), Some((1, true)));
        assert_eq!(part(&[1, BYTES * 3], &mut 0), Some((1, true)));
        assert_eq!(part(&[1, 1], &mut 0), Some((2, false)));
        assert_eq!(part(&[BYTES * 3], &mut 1), None);
        let mut filled = 0;
        assert_eq!(part(&[BYTES / 2], &mut filled), Some((1, false)));
        assert_eq!(part(&[1, BYTES / 2], &mut filled), Some((1, true)));
        // One without packets always fits.
        assert_eq!(part(&[], &mut (BYTES * 2)), Some((0, false)));
    }
}
