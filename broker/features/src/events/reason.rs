//! Why a connection ended, by the names that EMQX gives the reasons.

use raftmq_mqtt::ReasonCode;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectReason {
    /// DISCONNECT from the client with reason 0x00, or any DISCONNECT of MQTT 3.
    Normal,
    /// The client closed the connection without DISCONNECT, or the network did.
    ConnectionClosed,
    /// Nothing came for one and a half times the keep-alive.
    KeepAliveTimeout,
    /// Another connection of the client identifier continues the session.
    TakenOver,
    /// Another connection of the client identifier discarded the session.
    Discarded,
    /// Somebody who runs the node ended it.
    Kicked,
    /// A reason code in DISCONNECT, from either side.
    Code(ReasonCode),
    /// Anything else, on the server's side.
    Internal,
}

impl DisconnectReason {
    /// The name in the event. Reason codes that say the same as another reason have that one's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ConnectionClosed => "tcp_closed",
            Self::KeepAliveTimeout => "keepalive_timeout",
            Self::TakenOver => "takenover",
            Self::Discarded => "discarded",
            Self::Kicked => "kicked",
            Self::Code(code) => code_name(code),
            Self::Internal => "internal_error",
        }
    }
}

const fn code_name(code: ReasonCode) -> &'static str {
    match code {
        ReasonCode::Success => "normal",
        ReasonCode::GrantedQoS1 => "granted_qos1",
        ReasonCode::GrantedQoS2 => "granted_qos2",
        ReasonCode::DisconnectWithWill => "disconnect_with_will_message",
        ReasonCode::NoMatchingSubscribers => "no_matching_subscribers",
        ReasonCode::NoSubscriptionExisted => "no_subscription_existed",
        ReasonCode::ContinueAuthentication => "continue_authentication",
        ReasonCode::ReAuthenticate => "re_authenticate",
        ReasonCode::UnspecifiedError => "unspecified_error",
        ReasonCode::MalformedPacket => "malformed_packet",
        ReasonCode::ProtocolError => "protocol_error",
        ReasonCode::ImplementationSpecificError => "implementation_specific_error",
        ReasonCode::UnsupportedProtocolVersion => "unsupported_protocol_version",
        ReasonCode::ClientIdentifierNotValid => "client_identifier_not_valid",
        ReasonCode::BadUserNameOrPassword => "bad_username_or_password",
        ReasonCode::NotAuthorized => "not_authorized",
        ReasonCode::ServerUnavailable => "server_unavailable",
        ReasonCode::ServerBusy => "server_busy",
        ReasonCode::Banned => "banned",
        ReasonCode::ServerShuttingDown => "server_shutting_down",
        ReasonCode::BadAuthenticationMethod => "bad_authentication_method",
        ReasonCode::KeepAliveTimeout => "keepalive_timeout",
        ReasonCode::SessionTakenOver => "takenover",
        ReasonCode::TopicFilterInvalid => "topic_filter_invalid",
        ReasonCode::TopicNameInvalid => "topic_name_invalid",
        ReasonCode::PacketIdentifierInUse => "packet_identifier_inuse",
        ReasonCode::PacketIdentifierNotFound => "packet_identifier_not_found",
        ReasonCode::ReceiveMaximumExceeded => "receive_maximum_exceeded",
        ReasonCode::TopicAliasInvalid => "topic_alias_invalid",
        ReasonCode::PacketTooLarge => "packet_too_large",
        ReasonCode::MessageRateTooHigh => "message_rate_too_high",
        ReasonCode::QuotaExceeded => "quota_exceeded",
        ReasonCode::AdministrativeAction => "kicked",
        ReasonCode::PayloadFormatInvalid => "payload_format_invalid",
        ReasonCode::RetainNotSupported => "retain_not_supported",
        ReasonCode::QoSNotSupported => "qos_not_supported",
        ReasonCode::UseAnotherServer => "use_another_server",
        ReasonCode::ServerMoved => "server_moved",
        ReasonCode::SharedSubscriptionsNotSupported => "shared_subscriptions_not_supported",
        ReasonCode::ConnectionRateExceeded => "connection_rate_exceeded",
        ReasonCode::MaximumConnectTime => "maximum_connect_time",
        ReasonCode::SubscriptionIdentifiersNotSupported => "subscription_identifiers_not_supported",
        ReasonCode::WildcardSubscriptionsNotSupported => "wildcard_subscriptions_not_supported",
    }
}
