//! What a client may use.

/// Limits of connections and sessions; one value shared by all of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLimits {
    /// Milliseconds from the connection to a complete CONNECT.
    pub connect_timeout_ms: u64,
    /// The longest keep-alive in seconds that an MQTT 5 client may have; 0 for any, also none. Older clients cannot be told of one.
    pub max_keep_alive_s: u16,
    /// The longest client identifier in bytes.
    pub max_client_id_bytes: usize,
    /// The longest time in seconds that a session outlives its connection; `u32::MAX` for ever. Sessions of MQTT 3 clients
    /// with clean session 0 have this.
    pub max_session_expiry_s: u32,
    /// PUBLISH packets with QoS 1 that a client may have unacknowledged (Receive Maximum). At least 1.
    pub receive_maximum: u16,
    /// The largest packet taken, in bytes; as the codec is told. It is announced to MQTT 5 clients.
    pub max_packet_size: u32,
    /// Messages with QoS 1 in flight to a client, at most its own receive maximum. 1 to 4,096.
    pub max_in_flight: u16,
    /// Messages that wait for a client, connected or not.
    pub max_queued_messages: usize,
    /// Bytes of messages that wait for a client.
    pub max_queued_bytes: usize,
    /// The highest topic alias taken from an MQTT 5 client; 0 for none.
    pub max_topic_aliases: u16,
    /// Bytes of all topics behind aliases.
    pub max_topic_alias_bytes: usize,
    /// Subscriptions of a session.
    pub max_subscriptions: usize,
    /// Topic filters of SUBSCRIBE and UNSUBSCRIBE packets that wait for the server; what is above is refused at once.
    pub max_pending_filters: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 10_000,
            max_keep_alive_s: 0,
            max_client_id_bytes: 1_024,
            max_session_expiry_s: 7 * 24 * 3_600,
            receive_maximum: 1_024,
            max_packet_size: 1_048_576,
            max_in_flight: 128,
            max_queued_messages: 1_000,
            max_queued_bytes: 16 * 1_048_576,
            max_topic_aliases: 32,
            max_topic_alias_bytes: 16 * 1_024,
            max_subscriptions: 10_000,
            max_pending_filters: 10_000,
        }
    }
}
