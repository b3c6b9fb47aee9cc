//! What a client may use.

use std::sync::Arc;

use raftmq_mqtt::QoS;

/// Limits of connections and sessions; one value shared by all of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLimits {
    /// Milliseconds from the connection to a complete CONNECT.
    pub connect_timeout_ms: u64,
    /// The longest keep-alive in seconds that an MQTT 5 client may have; 0 for any, also none. Older clients cannot be told of one.
    pub max_keep_alive_s: u16,
    /// The longest client identifier in bytes.
    pub max_client_id_bytes: usize,
    /// The longest client identifier in characters of an MQTT 3.1 client. That specification says 23.
    pub max_client_id_chars_v3_1: usize,
    /// The longest time in seconds that a session outlives its connection; `u32::MAX` for ever. Sessions of MQTT 3 clients
    /// with clean session 0 have this.
    pub max_session_expiry_s: u32,
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
    /// The highest topic alias taken from an MQTT 5 client; 0 for none.
    pub max_topic_aliases: u16,
    /// Topic aliases used towards an MQTT 5 client, at most its own maximum; 0 for none.
    pub max_topic_aliases_out: u16,
    /// Bytes of all topics behind aliases, for each direction.
    pub max_topic_alias_bytes: usize,
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
            max_keep_alive_s: 0,
            max_client_id_bytes: 1_024,
            max_client_id_chars_v3_1: 23,
            max_session_expiry_s: 7 * 24 * 3_600,
            receive_maximum: 1_024,
            max_packet_size: 1_048_576,
            max_in_flight: 128,
            max_queued_messages: 1_000,
            max_queued_bytes: 16 * 1_048_576,
            max_topic_aliases: 32,
            max_topic_aliases_out: 32,
            max_topic_alias_bytes: 16 * 1_024,
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
