//! MQTT 5 properties (MQTT 5, 2.2.2): raw bytes that were checked once, and typed access that reads them when asked.

use std::fmt;

use smallvec::SmallVec;

use crate::codec::{Cursor, write};
use crate::topic::validate_topic;
use crate::{FieldError, PacketType, PropertyError};

/// Where properties stand: the place decides which of them are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PropertyPlace {
    /// The properties of a packet.
    Packet(PacketType),
    /// The will properties in a CONNECT.
    Will,
}

impl PropertyPlace {
    const fn bit(self) -> u16 {
        match self {
            Self::Will => WILL,
            Self::Packet(packet) => 1 << packet as u16,
        }
    }
}

impl fmt::Display for PropertyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(packet) => packet.fmt(f),
            Self::Will => f.write_str("the will of CONNECT"),
        }
    }
}

// Packet types begin at 1: bit 0 is free for the will.
const WILL: u16 = 1;
const CONNECT: u16 = 1 << PacketType::Connect as u16;
const CONNACK: u16 = 1 << PacketType::ConnAck as u16;
const PUBLISH: u16 = 1 << PacketType::Publish as u16;
const ACKS: u16 = 1 << PacketType::PubAck as u16
    | 1 << PacketType::PubRec as u16
    | 1 << PacketType::PubRel as u16
    | 1 << PacketType::PubComp as u16
    | 1 << PacketType::SubAck as u16
    | 1 << PacketType::UnsubAck as u16;
const SUBSCRIBE: u16 = 1 << PacketType::Subscribe as u16;
const UNSUBSCRIBE: u16 = 1 << PacketType::Unsubscribe as u16;
const DISCONNECT: u16 = 1 << PacketType::Disconnect as u16;
const AUTH: u16 = 1 << PacketType::Auth as u16;

macro_rules! properties {
    ($life:lifetime; $($(#[$doc:meta])* $id:literal $name:ident($ty:ty) $codec:ident $getter:ident in $places:expr;)+) => {
        /// The identifier of a property (MQTT 5, table 2-4).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $($(#[$doc])* $name = $id,)+
        }

        impl PropertyId {
            /// All properties, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The property of its number.
            pub const fn from_u32(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)+
                    _ => None,
                }
            }

            const fn places(self) -> u16 {
                match self {
                    $(Self::$name => $places,)+
                }
            }
        }

        /// A property with its value.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub enum Property<$life> {
            $($(#[$doc])* $name($ty),)+
        }

        impl<$life> Property<$life> {
            /// Its identifier.
            pub const fn id(&self) -> PropertyId {
                match self {
                    $(Self::$name(_) => PropertyId::$name,)+
                }
            }

            fn read_value(id: PropertyId, cursor: &mut Cursor<$life>) -> Result<Self, FieldError> {
                Ok(match id {
                    $(PropertyId::$name => Self::$name(cursor.$codec()?),)+
                })
            }

            fn write_value(&self, out: &mut PropertyBytes) -> Result<(), FieldError> {
                match *self {
                    $(Self::$name(value) => write::$codec(out, value),)+
                }
            }
        }

        impl fmt::Debug for Property<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // A secret.
                if let Self::AuthenticationData(_) = self {
                    return f.write_str("AuthenticationData(…)");
                }
                match self {
                    $(Self::$name(value) => f.debug_tuple(stringify!($name)).field(value).finish(),)+
                }
            }
        }

        impl<$life> Properties<$life> {
            $(
                $(#[$doc])*
                ///
                /// The first one, if it is there.
                pub fn $getter(self) -> Option<$ty> {
                    self.iter().find_map(|property| match property {
                        Property::$name(value) => Some(value),
                        _ => None,
                    })
                }
            )+
        }
    };
}

properties! { 'a;
    /// Whether the payload is UTF-8 (1) or not specified (0).
    0x01 PayloadFormatIndicator(u8) byte payload_format_indicator in PUBLISH | WILL;
    /// How long the message may wait, in seconds.
    0x02 MessageExpiryInterval(u32) four message_expiry_interval in PUBLISH | WILL;
    /// What the payload is, by the application's convention.
    0x03 ContentType(&'a str) text content_type in PUBLISH | WILL;
    /// The topic name for an answer.
    0x08 ResponseTopic(&'a str) text response_topic in PUBLISH | WILL;
    /// What relates an answer to its request.
    0x09 CorrelationData(&'a [u8]) binary correlation_data in PUBLISH | WILL;
    /// The identifier of a subscription, 1 to 268,435,455. May be repeated in PUBLISH.
    0x0B SubscriptionIdentifier(u32) var_int subscription_identifier in PUBLISH | SUBSCRIBE;
    /// How long the session is kept after the connection, in seconds; 0xFFFFFFFF means for ever.
    0x11 SessionExpiryInterval(u32) four session_expiry_interval in CONNECT | CONNACK | DISCONNECT;
    /// The client identifier that the server chose.
    0x12 AssignedClientIdentifier(&'a str) text assigned_client_identifier in CONNACK;
    /// The keep-alive to use instead of the client's, in seconds.
    0x13 ServerKeepAlive(u16) two server_keep_alive in CONNACK;
    /// The name of an extended authentication method.
    0x15 AuthenticationMethod(&'a str) text authentication_method in CONNECT | CONNACK | AUTH;
    /// Data of that method. Secret: left out of the `Debug` form.
    0x16 AuthenticationData(&'a [u8]) binary authentication_data in CONNECT | CONNACK | AUTH;
    /// Whether reason strings and user properties may be sent on failures (1, the default) or not (0).
    0x17 RequestProblemInformation(u8) byte request_problem_information in CONNECT;
    /// How long the server waits before it publishes the will, in seconds.
    0x18 WillDelayInterval(u32) four will_delay_interval in WILL;
    /// Whether the client asks for response information.
    0x19 RequestResponseInformation(u8) byte request_response_information in CONNECT;
    /// The basis for response topics.
    0x1A ResponseInformation(&'a str) text response_information in CONNACK;
    /// Another server to use.
    0x1C ServerReference(&'a str) text server_reference in CONNACK | DISCONNECT;
    /// A reason for people to read.
    0x1F ReasonString(&'a str) text reason_string in CONNACK | ACKS | DISCONNECT | AUTH;
    /// How many PUBLISH packets above QoS 0 may be in flight, 1 to 65,535.
    0x21 ReceiveMaximum(u16) two receive_maximum in CONNECT | CONNACK;
    /// The highest topic alias that is accepted; 0 for none.
    0x22 TopicAliasMaximum(u16) two topic_alias_maximum in CONNECT | CONNACK;
    /// A number that stands for the topic, above 0.
    0x23 TopicAlias(u16) two topic_alias in PUBLISH;
    /// The highest quality of service of the server if not 2: 0 or 1.
    0x24 MaximumQoS(u8) byte maximum_qos in CONNACK;
    /// Whether the server keeps retained messages.
    0x25 RetainAvailable(u8) byte retain_available in CONNACK;
    /// A name and a value of the application. May be repeated; the order counts.
    0x26 UserProperty((&'a str, &'a str)) pair user_property
        in CONNECT | CONNACK | PUBLISH | WILL | ACKS | SUBSCRIBE | UNSUBSCRIBE | DISCONNECT | AUTH;
    /// The largest packet that is accepted, in bytes, above 0.
    0x27 MaximumPacketSize(u32) four maximum_packet_size in CONNECT | CONNACK;
    /// Whether the server accepts wildcards in subscriptions.
    0x28 WildcardSubscriptionAvailable(u8) byte wildcard_subscription_available in CONNACK;
    /// Whether the server accepts subscription identifiers.
    0x29 SubscriptionIdentifierAvailable(u8) byte subscription_identifier_available in CONNACK;
    /// Whether the server accepts shared subscriptions.
    0x2A SharedSubscriptionAvailable(u8) byte shared_subscription_available in CONNACK;
}

impl PropertyId {
    /// Whether it may stand there.
    pub const fn allowed_in(self, place: PropertyPlace) -> bool {
        self.places() & place.bit() != 0
    }

    /// Whether it may stand there more than once.
    pub fn repeatable_in(self, place: PropertyPlace) -> bool {
        match self {
            Self::UserProperty => true,
            Self::SubscriptionIdentifier => place == PropertyPlace::Packet(PacketType::Publish),
            _ => false,
        }
    }
}

impl<'a> Property<'a> {
    fn read_id(cursor: &mut Cursor<'a>) -> Result<PropertyId, PropertyError> {
        let id = cursor.var_int().map_err(|error| PropertyError::Identifier { error })?;
        PropertyId::from_u32(id).ok_or(PropertyError::Unknown { id })
    }

    fn check_value(&self) -> Result<(), PropertyError> {
        let valid = match *self {
            Self::PayloadFormatIndicator(value)
            | Self::RequestProblemInformation(value)
            | Self::RequestResponseInformation(value)
            | Self::MaximumQoS(value)
            | Self::RetainAvailable(value)
            | Self::WildcardSubscriptionAvailable(value)
            | Self::SubscriptionIdentifierAvailable(value)
            | Self::SharedSubscriptionAvailable(value) => value <= 1,
            Self::ReceiveMaximum(value) | Self::TopicAlias(value) => value != 0,
            Self::SubscriptionIdentifier(value) | Self::MaximumPacketSize(value) => value != 0,
            // [MQTT-3.3.2-14]; it is UTF-8 [MQTT-3.3.2-13] as the content type [MQTT-3.3.2-19], by its type.
            Self::ResponseTopic(topic) => validate_topic(topic).is_ok(),
            _ => true,
        };
        if valid { Ok(()) } else { Err(PropertyError::Value { property: self.id() }) }
    }
}

/// Checked properties, without the length before them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Self = Self(&[]);

    /// Checks raw properties: types, values, and that each may stand there and stands there once unless it may be
    /// repeated.
    pub fn parse(raw: &'a [u8], place: PropertyPlace) -> Result<Self, PropertyError> {
        let mut cursor = Cursor::new(raw);
        let mut seen = 0_u64;
        while !cursor.is_empty() {
            let property = Property::read_id(&mut cursor)?;
            if !property.allowed_in(place) {
                return Err(PropertyError::NotAllowed { property, place });
            }
            let bit = 1 << property as u8;
            if seen & bit != 0 && !property.repeatable_in(place) {
                return Err(PropertyError::Duplicate { property });
            }
            seen |= bit;
            // Last, so that no error speaks of a property that has no place here.
            Property::read_value(property, &mut cursor)
                .map_err(|error| PropertyError::Field { property, error })?
                .check_value()?;
        }
        let has = |property: PropertyId| seen & 1 << property as u8 != 0;
        if has(PropertyId::AuthenticationData) && !has(PropertyId::AuthenticationMethod) {
            return Err(PropertyError::Missing { property: PropertyId::AuthenticationMethod });
        }
        Ok(Self(raw))
    }

    /// The raw bytes.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Bytes that were checked when they were stored.
    pub(crate) const fn trusted(raw: &'a [u8]) -> Self {
        Self(raw)
    }

    /// The properties, each with its raw bytes.
    pub(crate) fn segments(self) -> impl Iterator<Item = (Property<'a>, &'a [u8])> {
        let raw = self.0;
        let mut iter = self.iter();
        std::iter::from_fn(move || {
            let start = raw.len() - iter.0.len();
            let property = iter.next()?;
            Some((property, &raw[start..raw.len() - iter.0.len()]))
        })
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The properties in their order, read as the iterator goes.
    pub const fn iter(self) -> PropertyIter<'a> {
        PropertyIter(Cursor::new(self.0))
    }

    /// The user properties in their order.
    pub fn user_properties(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(pair) => Some(pair),
            _ => None,
        })
    }

    /// The subscription identifiers of a PUBLISH in their order.
    pub fn subscription_identifiers(self) -> impl Iterator<Item = u32> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for Properties<'a> {
    type Item = Property<'a>;
    type IntoIter = PropertyIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Reads properties one by one.
#[derive(Clone)]
pub struct PropertyIter<'a>(Cursor<'a>);

impl<'a> Iterator for PropertyIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        if self.0.is_empty() {
            return None;
        }
        // Checked when the `Properties` were made: an error cannot be met here.
        let id = Property::read_id(&mut self.0).ok()?;
        Property::read_value(id, &mut self.0).ok()
    }
}

type PropertyBytes = SmallVec<[u8; 64]>;

/// Properties being built. Which of them may stand in a packet is checked when the packet is encoded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PropertiesBuf(PropertyBytes);

impl PropertiesBuf {
    /// No properties.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a property at the end. On an error nothing is added.
    pub fn push(&mut self, property: Property<'_>) -> Result<(), PropertyError> {
        property.check_value()?;
        let start = self.0.len();
        self.0.push(property.id() as u8);
        property.write_value(&mut self.0).map_err(|error| {
            self.0.truncate(start);
            PropertyError::Field { property: property.id(), error }
        })
    }

    /// The properties, for a packet.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties(&self.0)
    }
}

impl fmt::Debug for PropertiesBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_properties().fmt(f)
    }
}

impl From<Properties<'_>> for PropertiesBuf {
    fn from(properties: Properties<'_>) -> Self {
        Self(SmallVec::from_slice(properties.0))
    }
}

#[cfg(test)]
mod tests;
