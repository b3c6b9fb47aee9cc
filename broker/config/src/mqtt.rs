//! Limits of the MQTT protocol.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, HumanDuration};

/// Limits of the MQTT protocol, for each client. MQTT 5 clients are told them in CONNACK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mqtt {
    /// Largest packet accepted from a client, its fixed header included (Maximum Packet Size).
    #[schemars(extend("x-raftmq-min" = "1KiB", "x-raftmq-max" = "256MiB"))]
    pub max_packet_size: ByteSize,
    /// QoS 1 and 2 messages that a client may have sent without an acknowledgement (Receive Maximum of the server).
    #[schemars(range(min = 1, max = 65535))]
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages sent to a client without an acknowledgement; a smaller Receive Maximum of the client counts first.
    #[schemars(range(min = 1, max = 4096))]
    pub max_inflight: u16,
    /// QoS 1 and 2 messages that wait for one client, connected or not. Further ones are dropped and counted.
    #[schemars(range(min = 0, max = 10_000_000))]
    pub max_queued_messages: u32,
    /// Bytes of the messages that wait for one client. Further ones are dropped and counted.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub max_queued_bytes: ByteSize,
    /// Bytes encoded for a client's socket that may wait for it to read. QoS 0 messages beyond are dropped and counted.
    #[schemars(extend("x-raftmq-min" = "16KiB", "x-raftmq-max" = "1GiB"))]
    pub max_outbound_bytes: ByteSize,
    /// Longest Session Expiry Interval; a longer one is cut to it. It is also that of MQTT 3 sessions that are not clean.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "3650d"))]
    pub session_expiry_max: HumanDuration,
    /// Time from the opening of a connection until its CONNECT must have arrived.
    #[schemars(extend("x-raftmq-min" = "100ms", "x-raftmq-max" = "10m"))]
    pub connect_timeout: HumanDuration,
    /// Longest Keep Alive in whole seconds: an MQTT 5 client that asks for more, or for none, gets this one. `0s`: no limit.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "65535s"))]
    pub max_keep_alive: HumanDuration,
    /// Longest client identifier, in bytes.
    #[schemars(range(min = 23, max = 65535))]
    pub max_client_id_length: u16,
    /// Levels that a topic name or filter may have.
    #[schemars(range(min = 1, max = 32768))]
    pub max_topic_levels: u16,
    /// Subscriptions of one client.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_subscriptions: u32,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            max_packet_size: ByteSize::mib(1),
            receive_maximum: 1024,
            max_inflight: 128,
            max_queued_messages: 1_000,
            max_queued_bytes: ByteSize::mib(16),
            max_outbound_bytes: ByteSize::mib(1),
            session_expiry_max: HumanDuration::from_secs(7 * 24 * 3600),
            connect_timeout: HumanDuration::from_secs(10),
            max_keep_alive: HumanDuration::from_secs(0),
            max_client_id_length: 1024,
            max_topic_levels: 128,
            max_subscriptions: 10_000,
        }
    }
}
