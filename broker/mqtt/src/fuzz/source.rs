//! Valid packets out of any bytes: what a fuzzer or a property test changes is the input, and what it shrinks too.

use std::num::NonZeroU16;

use crate::topic::{TopicFilter, validate_filter, validate_topic};
use crate::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, PropertiesBuf, Property, PropertyId, PropertyPlace,
    Publish, QoS, ReasonCode, RetainHandling, SubAck, SubOptions, Subscribe, Subscription, UnsubAck, Unsubscribe,
    Version, Will,
};

/// Some packet identifier.
pub const NONZERO: u16 = 0x1234;

const TOPICS: [&str; 4] = ["a", "/", "sensors/€/1", "$SYS/x"];
const FILTERS: [&str; 6] = ["#", "+", "a/+/#", "$share/g/a/#", "/", "$SYS/+"];

/// Takes values from the front of bytes; zeros and empty strings once they are used up.
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// A source of these bytes.
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// A number of two bytes.
    pub fn two(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number of four bytes.
    pub fn four(&mut self) -> u32 {
        u32::from(self.two()) << 16 | u32::from(self.two())
    }

    /// A truth value.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// Up to 255 bytes.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.take(length.into())
    }

    /// A string that the protocol allows.
    pub fn text(&mut self) -> &'a str {
        // Short ones, so that one input has room for several.
        let length = self.below(24);
        let bytes = self.take(length);
        let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        valid.split('\0').next().unwrap_or("")
    }

    /// A quality of service.
    pub fn qos(&mut self) -> QoS {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.below(3)]
    }

    fn packet_id(&mut self) -> NonZeroU16 {
        NonZeroU16::new(self.two()).unwrap_or(NonZeroU16::MIN)
    }

    fn topic(&mut self) -> &'a str {
        let text = self.text();
        if validate_topic(text).is_ok() { text } else { TOPICS[self.below(TOPICS.len())] }
    }

    fn filter(&mut self) -> &'a str {
        let text = self.text();
        if validate_filter(text).is_ok() { text } else { FILTERS[self.below(FILTERS.len())] }
    }

    fn reason(&mut self, packet: PacketType, version: Version) -> ReasonCode {
        let choice: Vec<ReasonCode> = ReasonCode::ALL
            .iter()
            .copied()
            .filter(|reason| reason.allowed_in(packet))
            .filter(|reason| match packet {
                _ if version.is_v5() => true,
                PacketType::ConnAck => {
                    ReasonCode::from_connect_return_code(reason.connect_return_code()) == Some(*reason)
                }
                PacketType::SubAck => *reason as u8 <= 0x80,
                _ => *reason == ReasonCode::Success,
            })
            .collect();
        choice[self.below(choice.len())]
    }

    fn reasons(&mut self, packet: PacketType, version: Version) -> smallvec::SmallVec<[ReasonCode; 8]> {
        (0..=self.below(12)).map(|_| self.reason(packet, version)).collect()
    }

    fn property(&mut self, id: PropertyId) -> Property<'a> {
        match id {
            PropertyId::PayloadFormatIndicator => Property::PayloadFormatIndicator(self.flag().into()),
            PropertyId::MessageExpiryInterval => Property::MessageExpiryInterval(self.four()),
            PropertyId::ContentType => Property::ContentType(self.text()),
            PropertyId::ResponseTopic => Property::ResponseTopic(self.topic()),
            PropertyId::CorrelationData => Property::CorrelationData(self.bytes()),
            PropertyId::SubscriptionIdentifier => {
                // All four lengths of the integer.
                Property::SubscriptionIdentifier((self.four() >> (4 + self.byte() % 28)).max(1))
            }
            PropertyId::SessionExpiryInterval => Property::SessionExpiryInterval(self.four()),
            PropertyId::AssignedClientIdentifier => Property::AssignedClientIdentifier(self.text()),
            PropertyId::ServerKeepAlive => Property::ServerKeepAlive(self.two()),
            PropertyId::AuthenticationMethod => Property::AuthenticationMethod(self.text()),
            PropertyId::AuthenticationData => Property::AuthenticationData(self.bytes()),
            PropertyId::RequestProblemInformation => Property::RequestProblemInformation(self.flag().into()),
            PropertyId::WillDelayInterval => Property::WillDelayInterval(self.four()),
            PropertyId::RequestResponseInformation => Property::RequestResponseInformation(self.flag().into()),
            PropertyId::ResponseInformation => Property::ResponseInformation(self.text()),
            PropertyId::ServerReference => Property::ServerReference(self.text()),
            PropertyId::ReasonString => Property::ReasonString(self.text()),
            PropertyId::ReceiveMaximum => Property::ReceiveMaximum(self.two().max(1)),
            PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(self.two()),
            PropertyId::TopicAlias => Property::TopicAlias(self.two().max(1)),
            PropertyId::MaximumQoS => Property::MaximumQoS(self.flag().into()),
            PropertyId::RetainAvailable => Property::RetainAvailable(self.flag().into()),
            PropertyId::UserProperty => Property::UserProperty((self.text(), self.text())),
            PropertyId::MaximumPacketSize => Property::MaximumPacketSize(self.four().max(1)),
            PropertyId::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(self.flag().into()),
            PropertyId::SubscriptionIdentifierAvailable => {
                Property::SubscriptionIdentifierAvailable(self.flag().into())
            }
            PropertyId::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(self.flag().into()),
        }
    }

    /// Properties that may stand in a place.
    pub fn properties(&mut self, place: PropertyPlace, version: Version) -> PropertiesBuf {
        let mut properties = PropertiesBuf::new();
        if !version.is_v5() {
            return properties;
        }
        let allowed: Vec<PropertyId> = PropertyId::ALL.iter().copied().filter(|id| id.allowed_in(place)).collect();
        let mut seen = Vec::new();
        let mut add = |source: &mut Self, id: PropertyId| {
            if id.repeatable_in(place) || !seen.contains(&id) {
                seen.push(id);
                properties.push(source.property(id)).expect("only valid values are made");
            }
        };
        for _ in 0..self.below(8) {
            if allowed.is_empty() {
                break;
            }
            let id = allowed[self.below(allowed.len())];
            add(self, id);
            if id == PropertyId::AuthenticationData {
                add(self, PropertyId::AuthenticationMethod);
            }
        }
        properties
    }
}

/// Makes a packet of a type and hands it to `use_packet`. AUTH becomes DISCONNECT before MQTT 5.
pub fn with_packet(
    source: &mut Source<'_>,
    packet_type: PacketType,
    version: Version,
    use_packet: impl FnOnce(&Packet<'_>),
) {
    let packet_type =
        if packet_type == PacketType::Auth && !version.is_v5() { PacketType::Disconnect } else { packet_type };
    let mut owned = source.properties(PropertyPlace::Packet(packet_type), version);
    if packet_type == PacketType::Auth && owned.as_properties().authentication_method().is_none() {
        owned.push(Property::AuthenticationMethod("method")).expect("a valid value");
    }
    let properties = owned.as_properties();
    let packet = match packet_type {
        PacketType::Connect => return with_connect(source, version, &owned, use_packet),
        PacketType::ConnAck => {
            let reason = source.reason(packet_type, version);
            let session_present = source.flag() && !reason.is_error() && version != Version::V3_1;
            Packet::ConnAck(ConnAck { session_present, reason, properties })
        }
        PacketType::Publish => {
            let qos = source.qos();
            let anonymous = properties.topic_alias().is_some() && source.flag();
            Packet::Publish(Publish {
                dup: qos != QoS::AtMostOnce && source.flag(),
                qos,
                retain: source.flag(),
                topic: if anonymous { "" } else { source.topic() },
                packet_id: (qos != QoS::AtMostOnce).then(|| source.packet_id()),
                properties,
                payload: source.bytes(),
            })
        }
        PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp => {
            let ack = Ack { packet_id: source.packet_id(), reason: source.reason(packet_type, version), properties };
            match packet_type {
                PacketType::PubAck => Packet::PubAck(ack),
                PacketType::PubRec => Packet::PubRec(ack),
                PacketType::PubRel => Packet::PubRel(ack),
                _ => Packet::PubComp(ack),
            }
        }
        PacketType::Subscribe => Packet::Subscribe(Subscribe {
            packet_id: source.packet_id(),
            properties,
            subscriptions: (0..=source.below(5)).map(|_| subscription(source, version)).collect(),
        }),
        PacketType::SubAck => Packet::SubAck(SubAck {
            packet_id: source.packet_id(),
            properties,
            reasons: source.reasons(packet_type, version),
        }),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
            packet_id: source.packet_id(),
            properties,
            filters: (0..=source.below(5)).map(|_| source.filter()).collect(),
        }),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck {
            packet_id: source.packet_id(),
            properties,
            reasons: if version.is_v5() { source.reasons(packet_type, version) } else { Default::default() },
        }),
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => {
            Packet::Disconnect(Disconnect { reason: source.reason(packet_type, version), properties })
        }
        PacketType::Auth => Packet::Auth(Auth { reason: source.reason(packet_type, version), properties }),
    };
    use_packet(&packet);
}

fn with_connect(
    source: &mut Source<'_>,
    version: Version,
    properties: &PropertiesBuf,
    use_packet: impl FnOnce(&Packet<'_>),
) {
    let will_properties = source.properties(PropertyPlace::Will, version);
    let will = source.flag().then(|| Will {
        qos: source.qos(),
        retain: source.flag(),
        topic: source.topic(),
        payload: source.bytes(),
        properties: will_properties.as_properties(),
    });
    let username = source.flag().then(|| source.text());
    let password = (source.flag() && (username.is_some() || version.is_v5())).then(|| source.bytes());
    use_packet(&Packet::Connect(Box::new(Connect {
        version,
        clean_start: source.flag(),
        keep_alive: source.two(),
        client_id: source.text(),
        will,
        username,
        password,
        properties: properties.as_properties(),
    })));
}

fn subscription<'a>(source: &mut Source<'a>, version: Version) -> Subscription<'a> {
    let filter = source.filter();
    let qos = source.qos();
    if !version.is_v5() {
        return Subscription { filter, options: SubOptions { qos, ..SubOptions::default() } };
    }
    let shared = TopicFilter::parse(filter).is_ok_and(|filter| filter.group().is_some());
    let retain_handling =
        [RetainHandling::SendAtSubscribe, RetainHandling::SendIfNew, RetainHandling::DoNotSend][source.below(3)];
    let options =
        SubOptions { qos, no_local: source.flag() && !shared, retain_as_published: source.flag(), retain_handling };
    Subscription { filter, options }
}
