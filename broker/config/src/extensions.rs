//! What a node does besides MQTT itself, and how far: docs/mqtt-extensions.md says what each of it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, HumanDuration};

/// Retained messages: in the shards of their topics, or, without shards, in the memory of the node that they were published on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retained {
    /// Whether messages may be retained. MQTT 5 clients are told (Retain Available).
    pub enabled: bool,
    /// Retained messages of the cluster, or, without shards, of a node. For a further topic a PUBLISH of an MQTT 5 client with QoS 1 or 2 is answered with Quota exceeded (0x97)
    /// and not delivered; one with QoS 0, or of an MQTT 3 client, which cannot be told, is delivered and not kept.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub max_messages: u32,
    /// Bytes of the retained messages of the cluster, or, without shards, of a node; beyond, as beyond `maxMessages`.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "1TiB"))]
    pub max_bytes: ByteSize,
    /// Largest payload that is retained; a larger one is answered as beyond `maxMessages`.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "256MiB"))]
    pub max_payload_size: ByteSize,
}

impl Default for Retained {
    fn default() -> Self {
        Self {
            enabled: true,
            max_messages: 1_000_000,
            max_bytes: ByteSize::mib(1024),
            max_payload_size: ByteSize::mib(1),
        }
    }
}

/// Shared subscriptions, `$share/{group}/{filter}` and `$queue/{filter}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SharedSubscription {
    /// Whether there are any. MQTT 5 clients are told (Shared Subscription Available).
    pub enabled: bool,
    /// Which member of a group gets a message.
    pub strategy: SharedStrategy,
    /// How long a member of a group with durable sessions, in a cluster with shards, may take to acknowledge a message of QoS 1, and to acknowledge nothing before it, until another member gets
    /// it, too. `0s`: as long as it is connected.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "30d"))]
    pub acknowledge_timeout: HumanDuration,
}

impl Default for SharedSubscription {
    fn default() -> Self {
        Self { enabled: true, strategy: SharedStrategy::default(), acknowledge_timeout: HumanDuration::from_secs(30) }
    }
}

/// Which member of a group gets a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum SharedStrategy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// The same as before, until it leaves.
    Sticky,
    /// The same for all messages of a publisher.
    HashClient,
    /// The same for all messages of a topic.
    HashTopic,
    /// In turn, on the publisher's node if there is one.
    Local,
    /// The one with the fewest messages that it has not acknowledged.
    LeastInflight,
}

/// Delayed publish, `$delayed/{seconds}/{topic}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Delayed {
    /// Whether there is delayed publish. Without it such topics are like any other.
    pub enabled: bool,
    /// Longest delay, in whole seconds.
    #[schemars(extend("x-raftmq-min" = "1s", "x-raftmq-max" = "4294967s"))]
    pub max_delay: HumanDuration,
    /// Messages that may wait in the cluster, or, without shards, on a node; a further PUBLISH is answered with Quota exceeded (0x97).
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub max_messages: u32,
    /// Bytes of the messages that may wait in the cluster, or, without shards, on a node.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "1TiB"))]
    pub max_bytes: ByteSize,
}

impl Default for Delayed {
    fn default() -> Self {
        Self {
            enabled: true,
            max_delay: HumanDuration::from_secs(4_294_967),
            max_messages: 1_000_000,
            max_bytes: ByteSize::mib(256),
        }
    }
}

/// Wills that wait for their delay. Without room the first ones are published early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Will {
    /// Wills that may wait on a node.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub max_waiting: u32,
    /// Bytes of the wills that may wait on a node.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "1TiB"))]
    pub max_bytes: ByteSize,
}

impl Default for Will {
    fn default() -> Self {
        Self { max_waiting: 1_000_000, max_bytes: ByteSize::mib(256) }
    }
}

/// Exclusive subscriptions, `$exclusive/{filter}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exclusive {
    /// Whether there are any; if not, they are refused with Topic Filter invalid (0x8F).
    pub enabled: bool,
    /// Exclusive subscriptions on a node.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub max_subscriptions: u32,
}

impl Default for Exclusive {
    fn default() -> Self {
        Self { enabled: true, max_subscriptions: 1_000_000 }
    }
}

/// A rule of topic rewrite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RewriteRule {
    /// What it applies to.
    #[serde(default)]
    pub action: RewriteAction,
    /// Filter of the topics that it applies to.
    #[schemars(length(min = 1, max = 65535))]
    pub source: String,
    /// Regular expression that takes the topic apart.
    #[schemars(length(min = 1, max = 65535))]
    pub regex: String,
    /// What the topic becomes: with `$1` and so on for the groups, and `${clientid}`, `${username}`, `${host}`, `${port}`.
    #[schemars(length(min = 1, max = 65535))]
    pub destination: String,
}

/// What a rule of topic rewrite applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RewriteAction {
    /// The topics of PUBLISH and of wills.
    Publish,
    /// The filters of SUBSCRIBE and UNSUBSCRIBE.
    Subscribe,
    /// Both.
    #[default]
    All,
}

/// A subscription that every client gets when it connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoSubscription {
    /// Its filter: with `${clientid}`, `${username}`, `${host}`, `${port}`.
    #[schemars(length(min = 1, max = 65535))]
    pub topic: String,
    /// Quality of service.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub qos: u8,
    /// Not what the client published itself (MQTT 5).
    #[serde(default)]
    pub no_local: bool,
    /// The RETAIN flag as it was published (MQTT 5).
    #[serde(default)]
    pub retain_as_published: bool,
    /// Retained messages: 0 at each connection, 1 for a new subscription, 2 never (MQTT 5).
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub retain_handling: u8,
}

/// Events of clients, as JSON under `$SYS/brokers/{node}/clients/{client identifier}/…` (docs/events.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Events {
    /// A client has connected.
    pub connected: bool,
    /// A client's connection has ended.
    pub disconnected: bool,
    /// A client has subscribed.
    pub subscribed: bool,
    /// A client has unsubscribed.
    pub unsubscribed: bool,
    /// Quality of service of the events.
    #[schemars(range(min = 0, max = 2))]
    pub qos: u8,
}

impl Default for Events {
    fn default() -> Self {
        Self { connected: true, disconnected: true, subscribed: true, unsubscribed: true, qos: 1 }
    }
}

/// What a node says about itself under `$SYS` (docs/sys-topics.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sys {
    /// The tree `$SYS/brokers/…`, which EMQX's users know.
    pub enabled: bool,
    /// How often version, nodes, statistics and metrics are published.
    #[schemars(extend("x-raftmq-min" = "1s", "x-raftmq-max" = "1d"))]
    pub interval: HumanDuration,
    /// How often uptime and time are published.
    #[schemars(extend("x-raftmq-min" = "1s", "x-raftmq-max" = "1d"))]
    pub heartbeat_interval: HumanDuration,
    /// The tree `$SYS/broker/…`, which Mosquitto's users know.
    pub mosquitto: bool,
    /// How often that is published.
    #[schemars(extend("x-raftmq-min" = "1s", "x-raftmq-max" = "1d"))]
    pub mosquitto_interval: HumanDuration,
    /// Whether all values are retained, so that a subscriber sees them at once.
    pub retain: bool,
}

impl Default for Sys {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: HumanDuration::from_secs(60),
            heartbeat_interval: HumanDuration::from_secs(30),
            mosquitto: false,
            mosquitto_interval: HumanDuration::from_secs(10),
            retain: true,
        }
    }
}

/// Enhanced authentication (MQTT 5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authentication {
    /// The method `test`, for tests of clients only: whoever sends the challenge back is authenticated.
    pub test_method: bool,
}

/// What a client gets whose subscriptions overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Overlapping {
    /// A message once, with the highest QoS and all subscription identifiers.
    #[default]
    Merge,
    /// A message for each subscription that matches.
    Each,
}
