//! The packets. Everything borrows from the buffer that was decoded or from what the sender of the packet owns.

use std::fmt;
use std::num::NonZeroU16;

use smallvec::SmallVec;

use crate::{Properties, QoS, ReasonCode, Version};

/// The type of a packet (MQTT 5, 2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // The names are the specification's.
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    /// MQTT 5 only.
    Auth = 15,
}

impl PacketType {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::ConnAck,
        Self::Publish,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::Subscribe,
        Self::SubAck,
        Self::Unsubscribe,
        Self::UnsubAck,
        Self::PingReq,
        Self::PingResp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The type of its number; `None` for 0, which is reserved, and above 15.
    pub fn from_u8(number: u8) -> Option<Self> {
        usize::from(number).checked_sub(1).and_then(|index| Self::ALL.get(index).copied())
    }

    /// The name as the specification writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The first packet of a client. Boxed: it is large, and there is one a connection.
    Connect(Box<Connect<'a>>),
    /// The answer to CONNECT.
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// The answer to a PUBLISH with QoS 1.
    PubAck(Ack<'a>),
    /// The first answer to a PUBLISH with QoS 2.
    PubRec(Ack<'a>),
    /// The answer to PUBREC.
    PubRel(Ack<'a>),
    /// The answer to PUBREL.
    PubComp(Ack<'a>),
    /// Asks for subscriptions.
    Subscribe(Subscribe<'a>),
    /// The answer to SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// Asks to end subscriptions.
    Unsubscribe(Unsubscribe<'a>),
    /// The answer to UNSUBSCRIBE.
    UnsubAck(UnsubAck<'a>),
    /// A client's sign of life.
    PingReq,
    /// The answer to PINGREQ.
    PingResp,
    /// The last packet of a connection.
    Disconnect(Disconnect<'a>),
    /// Extended authentication; MQTT 5 only.
    Auth(Auth<'a>),
}

impl Packet<'_> {
    /// The type of the packet.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

/// CONNECT (MQTT 5, 3.1).
#[derive(Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the client speaks.
    pub version: Version,
    /// Clean Start in MQTT 5, Clean Session before.
    pub clean_start: bool,
    /// Seconds; 0 means no keep-alive.
    pub keep_alive: u16,
    /// Empty where the server shall assign one; whether it may be is the session's decision.
    pub client_id: &'a str,
    /// Published when the connection ends without DISCONNECT.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Secret: never logged, left out of the `Debug` form.
    pub password: Option<&'a [u8]>,
    /// Empty before MQTT 5.
    pub properties: Properties<'a>,
}

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("password", &self.password.map(|_| "…"))
            .field("properties", &self.properties)
            .finish()
    }
}

/// The will in a CONNECT (MQTT 5, 3.1.2.5 and 3.1.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// Quality of service to publish with.
    pub qos: QoS,
    /// Whether it is published as a retained message.
    pub retain: bool,
    /// A valid topic name.
    pub topic: &'a str,
    /// The message.
    pub payload: &'a [u8],
    /// Empty before MQTT 5. The will delay is among them ([`Properties::will_delay_interval`]).
    pub properties: Properties<'a>,
}

impl<'a> Will<'a> {
    /// The will as the PUBLISH it becomes, to build a [`Message`](crate::Message) from, which leaves the will's
    /// own property (its delay) out.
    pub fn to_publish(&self) -> Publish<'a> {
        Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic,
            packet_id: None,
            properties: self.properties,
            payload: self.payload,
        }
    }
}

/// CONNACK (MQTT 5, 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether the server has a session of the client. Not sent to MQTT 3.1 clients.
    pub session_present: bool,
    /// Before MQTT 5, sent as the return code that comes nearest ([`ReasonCode::connect_return_code`]).
    pub reason: ReasonCode,
    /// Not sent before MQTT 5.
    pub properties: Properties<'a>,
}

/// PUBLISH (MQTT 5, 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// A repeated delivery; never with QoS 0.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// From a client: keep it. To a client: it was kept, or the subscription asks for the flag as published.
    pub retain: bool,
    /// A valid topic name; empty only in MQTT 5 together with a topic alias.
    pub topic: &'a str,
    /// `Some` exactly when the quality of service is above 0.
    pub packet_id: Option<NonZeroU16>,
    /// Empty before MQTT 5.
    pub properties: Properties<'a>,
    /// The message.
    pub payload: &'a [u8],
}

impl Publish<'_> {
    /// When the message expires by its message expiry interval, if it arrived at `received_at_ms`.
    pub fn expires_at_ms(&self, received_at_ms: u64) -> Option<u64> {
        let seconds = self.properties.message_expiry_interval()?;
        Some(received_at_ms.saturating_add(u64::from(seconds) * 1000))
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (MQTT 5, 3.4 to 3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The identifier of the PUBLISH.
    pub packet_id: NonZeroU16,
    /// Not sent before MQTT 5.
    pub reason: ReasonCode,
    /// Not sent before MQTT 5.
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// Success, without properties.
    pub const fn success(packet_id: NonZeroU16) -> Self {
        Self { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }
    }
}

/// SUBSCRIBE (MQTT 5, 3.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// To be repeated in SUBACK.
    pub packet_id: NonZeroU16,
    /// Empty before MQTT 5. The subscription identifier is here ([`Properties::subscription_identifier`]).
    pub properties: Properties<'a>,
    /// At least one.
    pub subscriptions: Vec<Subscription<'a>>,
}

/// One topic filter of a SUBSCRIBE with its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// A valid topic filter, `$share/group/` included ([`TopicFilter`](crate::topic::TopicFilter) takes it apart).
    pub filter: &'a str,
    /// Options; all but the quality of service at their default before MQTT 5.
    pub options: SubOptions,
}

/// Subscription options (MQTT 5, 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubOptions {
    /// The highest quality of service to deliver with.
    pub qos: QoS,
    /// Do not deliver what this client published itself.
    pub no_local: bool,
    /// Keep the retain flag as the publisher set it.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

impl SubOptions {
    /// The options byte of SUBSCRIBE.
    pub const fn to_byte(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }

    /// The options of a byte of SUBSCRIBE; `None` if a reserved bit or value is used (`[MQTT-3.8.3-5]`).
    pub fn from_byte(byte: u8) -> Option<Self> {
        if byte & 0b1100_0000 != 0 {
            return None;
        }
        let retain_handling = match byte >> 4 {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        };
        Some(Self {
            qos: QoS::from_u8(byte & 0b11)?,
            no_local: byte & 0b100 != 0,
            retain_as_published: byte & 0b1000 != 0,
            retain_handling,
        })
    }
}

/// When retained messages are sent for a subscription (MQTT 5, 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    SendAtSubscribe = 0,
    /// Only if the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// SUBACK (MQTT 5, 3.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// That of the SUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// Not sent before MQTT 5.
    pub properties: Properties<'a>,
    /// One a topic filter, in the order of the SUBSCRIBE. Before MQTT 5 every error is sent as 0x80.
    pub reasons: SmallVec<[ReasonCode; 8]>,
}

/// UNSUBSCRIBE (MQTT 5, 3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// To be repeated in UNSUBACK.
    pub packet_id: NonZeroU16,
    /// Empty before MQTT 5.
    pub properties: Properties<'a>,
    /// At least one valid topic filter.
    pub filters: Vec<&'a str>,
}

/// UNSUBACK (MQTT 5, 3.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// That of the UNSUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// Not sent before MQTT 5.
    pub properties: Properties<'a>,
    /// One a topic filter, in the order of the UNSUBSCRIBE; not sent before MQTT 5.
    pub reasons: SmallVec<[ReasonCode; 8]>,
}

/// DISCONNECT (MQTT 5, 3.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// [`ReasonCode::NORMAL_DISCONNECTION`] before MQTT 5.
    pub reason: ReasonCode,
    /// Empty before MQTT 5.
    pub properties: Properties<'a>,
}

/// AUTH (MQTT 5, 3.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, continue or re-authenticate.
    pub reason: ReasonCode,
    /// With an authentication method, unless the packet says success and nothing else.
    pub properties: Properties<'a>,
}
