//! What a client may use.

use std::sync::Arc;

use raftmq_mqtt::{Properties, QoS, ReasonCode, topic};

use crate::{Action, Rate};

/// Limits of connections and sessions; one value shared by all of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLimits {
    /// Milliseconds from the connection to a complete CONNECT.
    pub connect_timeout_ms: u64,
    /// The shortest keep-alive in seconds that an MQTT 5 client may have, but for none; 0 for any.
    pub min_keep_alive_s: u16,
    /// The longest keep-alive in seconds that an MQTT 5 client may have; 0 for any, also none. Older clients cannot be told of one.
    pub max_keep_alive_s: u16,
    /// The longest client identifier in bytes.
    pub max_client_id_bytes: usize,
    /// The longest client identifier in characters of an MQTT 3.1 client. That specification says 23.
    pub max_client_id_chars_v3_1: usize,
    /// The shortest time in seconds that a session outlives its connection, but for not at all.
    pub min_session_expiry_s: u32,
    /// The longest time in seconds that a session outlives its connection; `u32::MAX` for ever. Sessions of MQTT 3 clients
    /// with clean session 0 have this.
    pub max_session_expiry_s: u32,
    /// The longest time in seconds until a client's message expires; 0 for any, also none.
    pub max_message_expiry_s: u32,
    /// PUBLISH packets above QoS 0 that a client may have unacknowledged (Receive Maximum). At least 1. An MQTT 3 client, which
    /// knows no such limit, is not read while the server has so many of its messages in hand.
    pub receive_maximum: u16,
    /// The largest packet taken, in bytes; as the codec is told. It is announced to MQTT 5 clients.
    pub max_packet_size: u32,
    /// Messages above QoS 0 in flight to a client, at most its own receive maximum. 1 to 4,096.
    pub max_in_flight: u16,
    /// Messages that wait for a client, connected or not.
    pub max_queued_messages: usize,
    /// Bytes of messages that wait for a client.
    pub max_queued_bytes: usize,
    /// Whether a message for which there is no room takes that of the one that waits longest, instead of being lost itself.
    pub drop_oldest: bool,
    /// Bytes encoded for the client's socket from which on it is congested. The session does not look at it: its worker does.
    pub max_outbound_bytes: usize,
    /// Whether a client is disconnected when a message with QoS 0 is lost to it because it is congested. For the worker.
    pub slow_qos0_disconnects: bool,
    /// Whether a connected client is disconnected when a message is lost to it, or displaced, because its queue is full. For the worker.
    pub slow_qos1_disconnects: bool,
    /// The highest topic alias taken from an MQTT 5 client; 0 for none.
    pub max_topic_aliases: u16,
    /// Topic aliases used towards an MQTT 5 client, at most its own maximum; 0 for none.
    pub max_topic_aliases_out: u16,
    /// Bytes of all topics behind aliases, for each direction.
    pub max_topic_alias_bytes: usize,
    /// Levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// Bytes of a topic name or filter.
    pub max_topic_bytes: usize,
    /// User properties of one packet, those of a will counted on their own.
    pub max_user_properties: usize,
    /// PUBLISH packets that the client may send; `None` for any number. What keeps it to that is the worker: it reads no faster.
    pub message_rate: Option<Rate>,
    /// Bytes of packets that the client may send, likewise.
    pub byte_rate: Option<Rate>,
    /// Subscriptions of a session.
    pub max_subscriptions: usize,
    /// Topic filters of SUBSCRIBE and UNSUBSCRIBE packets that wait for the server; what is above is refused at once.
    pub max_pending_filters: usize,
    /// Whether messages with QoS 0 are kept for a client that is not connected, in the same queue as the others.
    pub queue_qos0_offline: bool,
    /// Whether a payload that says to be UTF-8 (payload format indicator) is checked.
    pub check_payload_format: bool,
    /// The highest QoS of a PUBLISH or will, and the highest that is granted.
    pub max_qos: QoS,
    /// Whether messages may be retained.
    pub retain_available: bool,
    /// Whether filters may have wildcards.
    pub wildcard_available: bool,
    /// Whether there are shared subscriptions (`$share/…` and `$queue/…`).
    pub shared_available: bool,
    /// Whether subscriptions may have identifiers.
    pub sub_ids_available: bool,
    /// What MQTT 5 clients that ask for it get as response information.
    pub response_information: Option<Arc<str>>,
    /// What is put before the topics of PUBLISH, will and filters of a listener's clients, and taken off again when messages are delivered.
    pub mount_point: Option<Arc<str>>,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 10_000,
            min_keep_alive_s: 0,
            max_keep_alive_s: 0,
            max_client_id_bytes: 1_024,
            max_client_id_chars_v3_1: 23,
            min_session_expiry_s: 0,
            max_session_expiry_s: 7 * 24 * 3_600,
            max_message_expiry_s: 0,
            receive_maximum: 1_024,
            max_packet_size: 1_048_576,
            max_in_flight: 128,
            max_queued_messages: 1_000,
            max_queued_bytes: 16 * 1_048_576,
            drop_oldest: false,
            max_outbound_bytes: 1_048_576,
            slow_qos0_disconnects: false,
            slow_qos1_disconnects: false,
            max_topic_aliases: 32,
            max_topic_aliases_out: 32,
            max_topic_alias_bytes: 16 * 1_024,
            max_topic_levels: 128,
            max_topic_bytes: 65_535,
            max_user_properties: 1_000,
            message_rate: None,
            byte_rate: None,
            max_subscriptions: 10_000,
            max_pending_filters: 10_000,
            queue_qos0_offline: false,
            check_payload_format: false,
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            wildcard_available: true,
            shared_available: true,
            sub_ids_available: true,
            response_information: None,
            mount_point: None,
        }
    }
}

impl SessionLimits {
    /// These limits for a connection that was told others: what CONNACK has said stays, and with it the mount point, behind which the
    /// session was made. The rest is as in `newer` from now on.
    #[must_use]
    pub fn renewed(&self, newer: &Self) -> Self {
        Self {
            max_message_expiry_s: newer.max_message_expiry_s,
            max_queued_messages: newer.max_queued_messages,
            max_queued_bytes: newer.max_queued_bytes,
            drop_oldest: newer.drop_oldest,
            max_outbound_bytes: newer.max_outbound_bytes,
            slow_qos0_disconnects: newer.slow_qos0_disconnects,
            slow_qos1_disconnects: newer.slow_qos1_disconnects,
            queue_qos0_offline: newer.queue_qos0_offline,
            max_topic_levels: newer.max_topic_levels,
            max_topic_bytes: newer.max_topic_bytes,
            max_user_properties: newer.max_user_properties,
            message_rate: newer.message_rate,
            byte_rate: newer.byte_rate,
            max_subscriptions: newer.max_subscriptions,
            max_pending_filters: newer.max_pending_filters,
            check_payload_format: newer.check_payload_format,
            ..self.clone()
        }
    }

    /// What the codec is to look at. Levels are not among it: how too many of them are answered depends on the packet.
    #[must_use]
    pub fn codec(&self) -> raftmq_mqtt::Limits {
        raftmq_mqtt::Limits { max_packet_size: self.max_packet_size as usize, ..raftmq_mqtt::Limits::PROTOCOL }
    }

    /// Whether a client's topic name or filter is within its limits.
    pub(crate) fn takes_topic(&self, topic: &str) -> bool {
        topic.len() <= self.max_topic_bytes && topic::validate_levels(topic, self.max_topic_levels).is_ok()
    }

    /// Whether a packet's user properties are within their limit.
    pub(crate) fn takes_properties(&self, properties: Properties<'_>) -> bool {
        properties.is_empty() || properties.user_properties().count() <= self.max_user_properties
    }

    /// How long a session outlives its connection, in seconds, for a client that asks for so long.
    pub(crate) fn session_expiry_s(&self, asked_s: u32) -> u32 {
        let shortest_s = if asked_s == 0 { 0 } else { self.min_session_expiry_s };
        asked_s.max(shortest_s).min(self.max_session_expiry_s)
    }

    /// When a message expires that would at `expires_ms`.
    pub(crate) fn expires_at_ms(&self, expires_ms: Option<u64>, now_unix_ms: u64) -> Option<u64> {
        latest_expiry(expires_ms, self.max_message_expiry_s, now_unix_ms)
    }
}

/// When a message expires that would at `expires_ms`, if it may live so many seconds; 0 for any number.
pub(crate) fn latest_expiry(expires_ms: Option<u64>, max_s: u32, now_unix_ms: u64) -> Option<u64> {
    if max_s == 0 {
        return expires_ms;
    }
    let latest = now_unix_ms.saturating_add(u64::from(max_s) * 1_000);
    Some(expires_ms.map_or(latest, |at| at.min(latest)))
}

/// A limit that a client has met; for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// The highest QoS (0x9B).
    Qos,
    /// Messages may not be retained (0x9A).
    Retain,
    /// Filters may have no wildcards (0xA2).
    Wildcard,
    /// There are no shared subscriptions (0x9E).
    Shared,
    /// Subscriptions may have no identifiers (0xA1).
    SubscriptionIdentifier,
    /// Levels or length of a topic name (0x90) or filter (0x8F).
    Topic,
    /// Subscriptions of a client (0x97).
    Subscriptions,
    /// User properties of a packet (0x97).
    UserProperties,
    /// Unacknowledged messages of a client (0x93).
    ReceiveMaximum,
    /// Size of a packet (0x95).
    PacketSize,
    /// Length of a client identifier (0x85).
    ClientId,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Qos,
        Self::Retain,
        Self::Wildcard,
        Self::Shared,
        Self::SubscriptionIdentifier,
        Self::Topic,
        Self::Subscriptions,
        Self::UserProperties,
        Self::ReceiveMaximum,
        Self::PacketSize,
        Self::ClientId,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qos => "qos",
            Self::Retain => "retain",
            Self::Wildcard => "wildcard",
            Self::Shared => "shared",
            Self::SubscriptionIdentifier => "subscription_identifier",
            Self::Topic => "topic",
            Self::Subscriptions => "subscriptions",
            Self::UserProperties => "user_properties",
            Self::ReceiveMaximum => "receive_maximum",
            Self::PacketSize => "packet_size",
            Self::ClientId => "client_id",
        }
    }
}

/// Why something is refused: the reason to tell, and the limit, if it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: ReasonCode,
    pub(crate) limit: Option<Limit>,
}

impl From<ReasonCode> for Refusal {
    fn from(reason: ReasonCode) -> Self {
        Self { reason, limit: None }
    }
}

impl From<Limit> for Refusal {
    /// A filter that is too long has a reason of its own.
    fn from(limit: Limit) -> Self {
        let reason = match limit {
            Limit::Qos => ReasonCode::QoSNotSupported,
            Limit::Retain => ReasonCode::RetainNotSupported,
            Limit::Wildcard => ReasonCode::WildcardSubscriptionsNotSupported,
            Limit::Shared => ReasonCode::SharedSubscriptionsNotSupported,
            Limit::SubscriptionIdentifier => ReasonCode::SubscriptionIdentifiersNotSupported,
            Limit::Topic => ReasonCode::TopicNameInvalid,
            Limit::Subscriptions | Limit::UserProperties => ReasonCode::QuotaExceeded,
            Limit::ReceiveMaximum => ReasonCode::ReceiveMaximumExceeded,
            Limit::PacketSize => ReasonCode::PacketTooLarge,
            Limit::ClientId => ReasonCode::ClientIdentifierNotValid,
        };
        Self { reason, limit: Some(limit) }
    }
}

impl Refusal {
    /// Notes the limit for the metrics, and gives the reason.
    pub(crate) fn noted(self, actions: &mut Vec<Action>) -> ReasonCode {
        actions.extend(self.limit.map(Action::LimitMet));
        self.reason
    }
}
