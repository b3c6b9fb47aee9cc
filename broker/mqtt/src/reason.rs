//! Reason codes (MQTT 5, 2.4).

use std::fmt;

use crate::PacketType;

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal [$($packet:ident)+],)+) => {
        /// A reason code of MQTT 5, by the name of the specification.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $($(#[$doc])* $name = $code,)+
        }

        impl ReasonCode {
            /// All reason codes, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The reason code of its number.
            pub const fn from_u8(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The packets that may carry it.
            pub const fn packets(self) -> &'static [PacketType] {
                match self {
                    $(Self::$name => &[$(PacketType::$packet,)+],)+
                }
            }

            const fn variant_name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reason_codes! {
    /// Success; normal disconnection; granted QoS 0.
    Success = 0x00 [ConnAck PubAck PubRec PubRel PubComp SubAck UnsubAck Disconnect Auth],
    /// Granted QoS 1.
    GrantedQoS1 = 0x01 [SubAck],
    /// Granted QoS 2.
    GrantedQoS2 = 0x02 [SubAck],
    /// Disconnect with will message.
    DisconnectWithWill = 0x04 [Disconnect],
    /// No matching subscribers.
    NoMatchingSubscribers = 0x10 [PubAck PubRec],
    /// No subscription existed.
    NoSubscriptionExisted = 0x11 [UnsubAck],
    /// Continue authentication.
    ContinueAuthentication = 0x18 [Auth],
    /// Re-authenticate.
    ReAuthenticate = 0x19 [Auth],
    /// Unspecified error.
    UnspecifiedError = 0x80 [ConnAck PubAck PubRec SubAck UnsubAck Disconnect],
    /// Malformed packet.
    MalformedPacket = 0x81 [ConnAck Disconnect],
    /// Protocol error.
    ProtocolError = 0x82 [ConnAck Disconnect],
    /// Implementation specific error.
    ImplementationSpecificError = 0x83 [ConnAck PubAck PubRec SubAck UnsubAck Disconnect],
    /// Unsupported protocol version.
    UnsupportedProtocolVersion = 0x84 [ConnAck],
    /// Client identifier not valid.
    ClientIdentifierNotValid = 0x85 [ConnAck],
    /// Bad user name or password.
    BadUserNameOrPassword = 0x86 [ConnAck],
    /// Not authorized.
    NotAuthorized = 0x87 [ConnAck PubAck PubRec SubAck UnsubAck Disconnect],
    /// Server unavailable.
    ServerUnavailable = 0x88 [ConnAck],
    /// Server busy.
    ServerBusy = 0x89 [ConnAck Disconnect],
    /// Banned.
    Banned = 0x8A [ConnAck],
    /// Server shutting down.
    ServerShuttingDown = 0x8B [Disconnect],
    /// Bad authentication method.
    BadAuthenticationMethod = 0x8C [ConnAck Disconnect],
    /// Keep alive timeout.
    KeepAliveTimeout = 0x8D [Disconnect],
    /// Session taken over.
    SessionTakenOver = 0x8E [Disconnect],
    /// Topic filter invalid.
    TopicFilterInvalid = 0x8F [SubAck UnsubAck Disconnect],
    /// Topic name invalid.
    TopicNameInvalid = 0x90 [ConnAck PubAck PubRec Disconnect],
    /// Packet identifier in use.
    PacketIdentifierInUse = 0x91 [PubAck PubRec SubAck UnsubAck],
    /// Packet identifier not found.
    PacketIdentifierNotFound = 0x92 [PubRel PubComp],
    /// Receive maximum exceeded.
    ReceiveMaximumExceeded = 0x93 [Disconnect],
    /// Topic alias invalid.
    TopicAliasInvalid = 0x94 [Disconnect],
    /// Packet too large.
    PacketTooLarge = 0x95 [ConnAck Disconnect],
    /// Message rate too high.
    MessageRateTooHigh = 0x96 [Disconnect],
    /// Quota exceeded.
    QuotaExceeded = 0x97 [ConnAck PubAck PubRec SubAck Disconnect],
    /// Administrative action.
    AdministrativeAction = 0x98 [Disconnect],
    /// Payload format invalid.
    PayloadFormatInvalid = 0x99 [ConnAck PubAck PubRec Disconnect],
    /// Retain not supported.
    RetainNotSupported = 0x9A [ConnAck Disconnect],
    /// QoS not supported.
    QoSNotSupported = 0x9B [ConnAck Disconnect],
    /// Use another server.
    UseAnotherServer = 0x9C [ConnAck Disconnect],
    /// Server moved.
    ServerMoved = 0x9D [ConnAck Disconnect],
    /// Shared subscriptions not supported.
    SharedSubscriptionsNotSupported = 0x9E [SubAck Disconnect],
    /// Connection rate exceeded.
    ConnectionRateExceeded = 0x9F [ConnAck Disconnect],
    /// Maximum connect time.
    MaximumConnectTime = 0xA0 [Disconnect],
    /// Subscription identifiers not supported.
    SubscriptionIdentifiersNotSupported = 0xA1 [SubAck Disconnect],
    /// Wildcard subscriptions not supported.
    WildcardSubscriptionsNotSupported = 0xA2 [SubAck Disconnect],
}

impl ReasonCode {
    /// 0x00 in DISCONNECT.
    pub const NORMAL_DISCONNECTION: Self = Self::Success;
    /// 0x00 in SUBACK.
    pub const GRANTED_QOS_0: Self = Self::Success;

    /// The SUBACK code that grants a quality of service.
    pub const fn granted(qos: crate::QoS) -> Self {
        match qos {
            crate::QoS::AtMostOnce => Self::GRANTED_QOS_0,
            crate::QoS::AtLeastOnce => Self::GrantedQoS1,
            crate::QoS::ExactlyOnce => Self::GrantedQoS2,
        }
    }

    /// Whether it reports a failure (0x80 and above).
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Whether a packet of this type may carry it.
    pub fn allowed_in(self, packet: PacketType) -> bool {
        self.packets().contains(&packet)
    }

    /// The CONNACK return code of MQTT 3.1 and 3.1.1 that comes nearest (3.1.1, table 3.1).
    pub const fn connect_return_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => 5,
            _ => 3,
        }
    }

    /// The reason code of a CONNACK return code of MQTT 3.1 and 3.1.1; `None` for reserved ones (above 5).
    pub const fn from_connect_return_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }
}

impl From<ReasonCode> for u8 {
    fn from(reason: ReasonCode) -> Self {
        reason as u8
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.variant_name(), *self as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 2-6 of the specification.
    #[test]
    fn numbers_are_the_specifications() {
        let known = [0x00, 0x01, 0x02, 0x04, 0x10, 0x11, 0x18, 0x19].into_iter().chain(0x80..=0xA2);
        let all: Vec<u8> = ReasonCode::ALL.iter().map(|reason| *reason as u8).collect();
        assert!(known.eq(all.iter().copied()));
        for code in 0..=255 {
            assert_eq!(ReasonCode::from_u8(code).map(u8::from), all.contains(&code).then_some(code));
        }
    }

    /// The counts of the tables in 3.2.2.2, 3.4.2.1 and following.
    #[test]
    fn each_packet_has_its_codes() {
        for (packet, expected) in [
            (PacketType::Connect, 0),
            (PacketType::ConnAck, 22),
            (PacketType::PubAck, 9),
            (PacketType::PubRec, 9),
            (PacketType::PubRel, 2),
            (PacketType::PubComp, 2),
            (PacketType::SubAck, 12),
            (PacketType::UnsubAck, 7),
            (PacketType::Disconnect, 30),
            (PacketType::Auth, 3),
        ] {
            let count = ReasonCode::ALL.iter().filter(|reason| reason.allowed_in(packet)).count();
            assert_eq!(count, expected, "{packet}");
        }
    }

    #[test]
    fn return_codes_of_older_versions() {
        for code in 0..=5 {
            assert_eq!(ReasonCode::from_connect_return_code(code).map(ReasonCode::connect_return_code), Some(code));
        }
        assert_eq!(ReasonCode::from_connect_return_code(6), None);
        for reason in ReasonCode::ALL.iter().filter(|reason| reason.is_error()) {
            assert!((1..=5).contains(&reason.connect_return_code()));
        }
        assert_eq!(ReasonCode::Banned.to_string(), "Banned (0x8A)");
    }
}
