//! What a connected client is to be sent.

use raftmq_mqtt::{Message, QoS};

use crate::Name;
use crate::key;
use crate::machine::{ShardMachine, in_use, waits};
use crate::record::{BLOCK, Block, Client, Session, Stored};
use crate::store::{Store, StoreError};

/// The packet identifier of a sequence number [MQTT5 2.2.1]: whoever sends the message again uses the same one.
#[must_use]
pub fn packet_id(seq: u64) -> u16 {
    (seq % 65_535) as u16 + 1
}

/// A part of what a client is to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// In the order in which they are sent.
    pub sent: Vec<Delivery>,
    /// Sequence numbers up to here are granted.
    pub granted: u64,
    /// The last sequence number given.
    pub last: u64,
    /// Whether messages above `granted` wait to be granted.
    pub waits: bool,
}

/// A packet to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The sequence number.
    pub seq: u64,
    /// The packet.
    pub sent: Sent,
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// PUBLISH [MQTT5 3.3].
    Publish {
        /// The message.
        message: Message,
        /// The QoS.
        qos: QoS,
        /// RETAIN.
        retain: bool,
        /// It comes not as it was published, by a subscription of this session alone: but as what is retained ([`crate::Op::Queue`]), or from a shared group.
        apart: bool,
        /// It may have been sent to an earlier connection (`[MQTT-3.3.1-1]`).
        dup: bool,
        /// The subscription identifiers (`[MQTT-3.3.4-3]`).
        identifiers: Vec<u32>,
        /// What is left of its expiry interval, in milliseconds; 0 if it is over: what was granted is sent nevertheless, since
        /// the client may know of it.
        lifetime_ms: Option<u64>,
    },
    /// PUBREL [MQTT5 3.6].
    Release,
}

impl Delivery {
    /// The packet identifier.
    #[must_use]
    pub fn packet_id(&self) -> u16 {
        packet_id(self.seq)
    }
}

impl<S: Store> ShardMachine<S> {
    /// What is granted and not acknowledged after a sequence number, in order (`[MQTT-4.4.0-1]`, `[MQTT-4.6.0-1]`): at most `max`
    /// packets, and no further one when their messages have `max_bytes`. `None`: no such session.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn deliveries(
        &mut self,
        client: &Name,
        after: u64,
        max: usize,
        max_bytes: usize,
    ) -> Result<Option<Deliveries>, StoreError> {
        let name = key::client_name(client.namespace, &client.id);
        let Some(id) = self.cache.get::<Client>(&key::client(&name))?.and_then(|client| client.session) else {
            return Ok(None);
        };
        let Some(session) = self.cache.get::<Session>(&key::session(id))?.cloned() else { return Ok(None) };
        let mut sent = Vec::new();
        let mut bytes = 0;
        for seq in session.floor.max(after.saturating_add(1))..=session.last_in_use() {
            if sent.len() >= max || bytes >= max_bytes {
                break;
            }
            if !in_use(&session, seq) {
                continue;
            }
            let packet = if session.received.contains(seq) {
                Sent::Release
            } else {
                let Some(packet) = self.publish_packet(id, seq, seq <= session.dup_to)? else { continue };
                packet
            };
            if let Sent::Publish { message, .. } = &packet {
                bytes += message.wire_len();
            }
            sent.push(Delivery { seq, sent: packet });
        }
        self.cache.trim();
        Ok(Some(Deliveries { sent, granted: session.granted, last: session.next - 1, waits: waits(&session) }))
    }

    fn publish_packet(&mut self, session: u64, seq: u64, dup: bool) -> Result<Option<Sent>, StoreError> {
        let block = self.cache.get::<Block>(&key::block(session, seq / BLOCK))?;
        let Some(entry) = block.and_then(|block| block.get(seq)).cloned() else { return Ok(None) };
        let Some(stored) = self.cache.get::<Stored>(&key::message(entry.message))? else { return Ok(None) };
        Ok(Some(Sent::Publish {
            message: stored.message.clone(),
            qos: QoS::from_u8(entry.qos).unwrap_or(QoS::AtLeastOnce),
            retain: entry.retain,
            apart: entry.replayed || entry.given,
            dup,
            identifiers: entry.identifiers.to_vec(),
            lifetime_ms: entry.expires_at.map(|at| at.saturating_sub(self.meta.now_ms)),
        }))
    }
}
