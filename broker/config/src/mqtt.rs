//! Limits of the MQTT protocol.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::extensions::{
    Authentication, AutoSubscription, Delayed, Events, Exclusive, Overlapping, Retained, RewriteRule,
    SharedSubscription, Sys, Will,
};
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
    /// QoS 1 and 2 messages that wait for one client, connected or not. Beyond, `queueFull` says which are dropped.
    #[schemars(range(min = 0, max = 10_000_000))]
    pub max_queued_messages: u32,
    /// Bytes of the messages that wait for one client. Beyond, `queueFull` says which are dropped.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub max_queued_bytes: ByteSize,
    /// What is dropped, and counted, when a message comes for a client and there is no room for it.
    pub queue_full: QueueFull,
    /// Bytes encoded for a client's socket that may wait for it to read. Beyond, `slowConsumerQos0` says what becomes of QoS 0 messages;
    /// others wait in the queue.
    #[schemars(extend("x-raftmq-min" = "16KiB", "x-raftmq-max" = "1GiB"))]
    pub max_outbound_bytes: ByteSize,
    /// What happens when a QoS 0 message comes for a client that has `maxOutboundBytes` waiting.
    pub slow_consumer_qos0: SlowQos0,
    /// What happens when a QoS 1 or 2 message comes for a connected client whose queue (`maxQueuedMessages`, `maxQueuedBytes`) is full.
    pub slow_consumer_qos1: SlowQos1,
    /// Shortest Session Expiry Interval but for 0, with which a session ends with its connection: a shorter one is raised to it.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "3650d"))]
    pub session_expiry_min: HumanDuration,
    /// Longest Session Expiry Interval; a longer one is cut to it. It is also that of MQTT 3 sessions that are not clean.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "3650d"))]
    pub session_expiry_max: HumanDuration,
    /// Longest time in whole seconds that a message is kept for subscribers: a longer Message Expiry Interval, or none, becomes
    /// this one. `0s`: no limit.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "3650d"))]
    pub message_expiry_max: HumanDuration,
    /// Time from the opening of a connection until its CONNECT must have arrived.
    #[schemars(extend("x-raftmq-min" = "100ms", "x-raftmq-max" = "10m"))]
    pub connect_timeout: HumanDuration,
    /// Shortest Keep Alive in whole seconds: an MQTT 5 client that asks for less gets this one. `0s`: no limit.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "65535s"))]
    pub min_keep_alive: HumanDuration,
    /// Longest Keep Alive in whole seconds: an MQTT 5 client that asks for more, or for none, gets this one. `0s`: no limit.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "65535s"))]
    pub max_keep_alive: HumanDuration,
    /// Longest client identifier, in bytes.
    #[schemars(range(min = 23, max = 65535))]
    pub max_client_id_length: u16,
    /// Levels that a topic name or filter may have. More are refused with 0x90 (PUBLISH, will) or 0x8F (SUBSCRIBE).
    #[schemars(range(min = 1, max = 32768))]
    pub max_topic_levels: u16,
    /// Longest topic name or filter, in bytes; a longer one is refused as one with too many levels.
    #[schemars(range(min = 1, max = 65535))]
    pub max_topic_length: u16,
    /// Subscriptions of one client. A further one is refused with 0x97.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_subscriptions: u32,
    /// User properties of a CONNECT, its will, a PUBLISH, a SUBSCRIBE or an UNSUBSCRIBE. More are refused with 0x97.
    #[schemars(range(min = 0, max = 65535))]
    pub max_user_properties: u16,
    /// PUBLISH packets a second that one client may send. One that sends more is read more slowly. 0: any number.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub message_rate: u32,
    /// PUBLISH packets that a client may send at once after a pause. 0: those of one second.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub message_burst: u32,
    /// Bytes of packets a second that one client may send. One that sends more is read more slowly. `0B`: any number.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub byte_rate: ByteSize,
    /// Bytes of packets that a client may send at once after a pause. `0B`: those of one second.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub byte_burst: ByteSize,
    /// Highest QoS of a PUBLISH or will, and the highest that is granted (Maximum QoS).
    #[schemars(range(min = 0, max = 2))]
    pub max_qos: u8,
    /// Whether filters may have wildcards (Wildcard Subscription Available).
    pub wildcard_subscriptions: bool,
    /// Whether subscriptions may have identifiers (Subscription Identifier Available).
    pub subscription_identifiers: bool,
    /// Topic aliases that an MQTT 5 client may use (Topic Alias Maximum). 0: none.
    #[schemars(range(min = 0, max = 65535))]
    pub max_topic_aliases: u16,
    /// Topic aliases used towards an MQTT 5 client, at most as many as it takes. 0: none.
    #[schemars(range(min = 0, max = 65535))]
    pub max_topic_aliases_out: u16,
    /// Whether QoS 0 messages are kept for a client that is not connected, in the queue of the others.
    pub queue_qos0_offline: bool,
    /// Whether a payload that says to be UTF-8 (Payload Format Indicator 1) is checked. One that is
    /// not is refused with 0x99: in PUBACK or PUBREC; with QoS 0, which has no answer, in DISCONNECT; as a will in CONNACK.
    pub check_payload_format: bool,
    /// What MQTT 5 clients that ask for it get as Response Information. Empty: nothing.
    #[schemars(length(max = 65535))]
    pub response_information: String,
    /// What a client gets whose subscriptions overlap.
    pub overlapping: Overlapping,
    /// Retained messages.
    pub retained: Retained,
    /// Shared subscriptions, `$share/{group}/{filter}` and `$queue/{filter}`.
    pub shared_subscription: SharedSubscription,
    /// Delayed publish, `$delayed/{seconds}/{topic}`.
    pub delayed: Delayed,
    /// Wills that wait for their delay. Without room the first ones are published early.
    pub will: Will,
    /// Exclusive subscriptions, `$exclusive/{filter}`.
    pub exclusive: Exclusive,
    /// Rules of topic rewrite. Of those whose source matches, the last one counts.
    #[schemars(length(max = 256))]
    pub rewrite: Vec<RewriteRule>,
    /// Subscriptions that every client gets when it connects.
    #[schemars(length(max = 64))]
    pub auto_subscribe: Vec<AutoSubscription>,
    /// Events of clients, as JSON under `$SYS/brokers/{node}/clients/{client identifier}/…` (docs/events.md).
    pub events: Events,
    /// What a node says about itself under `$SYS` (docs/sys-topics.md).
    pub sys: Sys,
    /// Enhanced authentication (MQTT 5).
    pub authentication: Authentication,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            max_packet_size: ByteSize::mib(1),
            receive_maximum: 1024,
            max_inflight: 128,
            max_queued_messages: 1_000,
            max_queued_bytes: ByteSize::mib(16),
            queue_full: QueueFull::default(),
            max_outbound_bytes: ByteSize::mib(1),
            slow_consumer_qos0: SlowQos0::default(),
            slow_consumer_qos1: SlowQos1::default(),
            session_expiry_min: HumanDuration::from_secs(0),
            session_expiry_max: HumanDuration::from_secs(7 * 24 * 3600),
            message_expiry_max: HumanDuration::from_secs(0),
            connect_timeout: HumanDuration::from_secs(10),
            min_keep_alive: HumanDuration::from_secs(0),
            max_keep_alive: HumanDuration::from_secs(0),
            max_client_id_length: 1024,
            max_topic_levels: 128,
            max_topic_length: 65_535,
            max_subscriptions: 10_000,
            max_user_properties: 1_000,
            message_rate: 0,
            message_burst: 0,
            byte_rate: ByteSize::from_bytes(0),
            byte_burst: ByteSize::from_bytes(0),
            max_qos: 2,
            wildcard_subscriptions: true,
            subscription_identifiers: true,
            max_topic_aliases: 32,
            max_topic_aliases_out: 32,
            queue_qos0_offline: false,
            check_payload_format: false,
            response_information: String::new(),
            overlapping: Overlapping::default(),
            retained: Retained::default(),
            shared_subscription: SharedSubscription::default(),
            delayed: Delayed::default(),
            will: Will::default(),
            exclusive: Exclusive::default(),
            rewrite: Vec::new(),
            auto_subscribe: Vec::new(),
            events: Events::default(),
            sys: Sys::default(),
            authentication: Authentication::default(),
        }
    }
}

/// What is dropped when there is no room for one more message for a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum QueueFull {
    /// The message that comes.
    #[default]
    DropNewest,
    /// Those that wait longest, but for messages of shared subscriptions; for one with QoS 0, only those with QoS 0.
    DropOldest,
}

/// What a QoS 0 message comes to, for a client that does not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum SlowQos0 {
    /// It is dropped and counted.
    #[default]
    Drop,
    /// It is dropped and counted, and the client is disconnected with 0x97.
    Disconnect,
}

/// What happens to a connected client whose queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum SlowQos1 {
    /// It stays, and `queueFull` says which messages are dropped.
    #[default]
    Queue,
    /// The same, and it is disconnected with 0x97. Its session is kept as long as it asked for, with what waits.
    Disconnect,
}
