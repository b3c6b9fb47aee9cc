//! Zones: named sets of limits that listeners select.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, Config, HumanDuration, Listener, Mqtt, QueueFull, SlowQos0, SlowQos1};

/// A named set of limits. What it does not say is as under `mqtt`; what a listener says itself counts before its zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Zone {
    /// As `mqtt.maxPacketSize`, and at most that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "1KiB", "x-raftmq-max" = "256MiB"))]
    pub max_packet_size: Option<ByteSize>,
    /// As `mqtt.receiveMaximum`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub receive_maximum: Option<u16>,
    /// As `mqtt.maxInflight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_inflight: Option<u16>,
    /// As `mqtt.maxQueuedMessages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub max_queued_messages: Option<u32>,
    /// As `mqtt.maxQueuedBytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub max_queued_bytes: Option<ByteSize>,
    /// As `mqtt.queueFull`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_full: Option<QueueFull>,
    /// As `mqtt.maxOutboundBytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "16KiB", "x-raftmq-max" = "1GiB"))]
    pub max_outbound_bytes: Option<ByteSize>,
    /// As `mqtt.slowConsumerQos0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_consumer_qos0: Option<SlowQos0>,
    /// As `mqtt.slowConsumerQos1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_consumer_qos1: Option<SlowQos1>,
    /// As `mqtt.queueQos0Offline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_qos0_offline: Option<bool>,
    /// As `mqtt.sessionExpiryMin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "3650d"))]
    pub session_expiry_min: Option<HumanDuration>,
    /// As `mqtt.sessionExpiryMax`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "3650d"))]
    pub session_expiry_max: Option<HumanDuration>,
    /// As `mqtt.messageExpiryMax`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "3650d"))]
    pub message_expiry_max: Option<HumanDuration>,
    /// As `mqtt.connectTimeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "100ms", "x-raftmq-max" = "10m"))]
    pub connect_timeout: Option<HumanDuration>,
    /// As `mqtt.minKeepAlive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "65535s"))]
    pub min_keep_alive: Option<HumanDuration>,
    /// As `mqtt.maxKeepAlive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "65535s"))]
    pub max_keep_alive: Option<HumanDuration>,
    /// As `mqtt.maxClientIdLength`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 23, max = 65535))]
    pub max_client_id_length: Option<u16>,
    /// As `mqtt.maxTopicLevels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32768))]
    pub max_topic_levels: Option<u16>,
    /// As `mqtt.maxTopicLength`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_topic_length: Option<u16>,
    /// As `mqtt.maxSubscriptions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_subscriptions: Option<u32>,
    /// As `mqtt.maxUserProperties`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub max_user_properties: Option<u16>,
    /// As `mqtt.messageRate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub message_rate: Option<u32>,
    /// As `mqtt.messageBurst`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub message_burst: Option<u32>,
    /// As `mqtt.byteRate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub byte_rate: Option<ByteSize>,
    /// As `mqtt.byteBurst`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "16GiB"))]
    pub byte_burst: Option<ByteSize>,
    /// As `mqtt.maxQos`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub max_qos: Option<u8>,
    /// Whether its clients may have messages retained: `false` where `mqtt.retained.enabled` is `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// Whether its clients may have shared subscriptions: `false` where `mqtt.sharedSubscription.enabled` is `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_subscriptions: Option<bool>,
    /// As `mqtt.wildcardSubscriptions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wildcard_subscriptions: Option<bool>,
    /// As `mqtt.subscriptionIdentifiers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_identifiers: Option<bool>,
    /// As `mqtt.maxTopicAliases`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub max_topic_aliases: Option<u16>,
    /// As `mqtt.maxTopicAliasesOut`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub max_topic_aliases_out: Option<u16>,
    /// As `mqtt.checkPayloadFormat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_payload_format: Option<bool>,
    /// As `mqtt.responseInformation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65535))]
    pub response_information: Option<String>,
    /// As `listeners[].mountPoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub mount_point: Option<String>,
}

/// The settings of `mqtt` that a zone may set, by the names that they have in both: the one list of them.
macro_rules! each_setting {
    ($take:ident) => {
        $take!(
            max_packet_size,
            receive_maximum,
            max_inflight,
            max_queued_messages,
            max_queued_bytes,
            queue_full,
            max_outbound_bytes,
            slow_consumer_qos0,
            slow_consumer_qos1,
            queue_qos0_offline,
            session_expiry_min,
            session_expiry_max,
            message_expiry_max,
            connect_timeout,
            min_keep_alive,
            max_keep_alive,
            max_client_id_length,
            max_topic_levels,
            max_topic_length,
            max_subscriptions,
            max_user_properties,
            message_rate,
            message_burst,
            byte_rate,
            byte_burst,
            max_qos,
            wildcard_subscriptions,
            subscription_identifiers,
            max_topic_aliases,
            max_topic_aliases_out,
            check_payload_format,
            response_information
        )
    };
}

impl Zone {
    /// The settings of `mqtt` with those of the zone in their places.
    #[must_use]
    pub fn over(&self, mqtt: &Mqtt) -> Mqtt {
        let mut all = mqtt.clone();
        macro_rules! take {
            ($($setting:ident),*) => { $(if let Some(own) = &self.$setting { all.$setting = own.clone(); })* };
        }
        each_setting!(take);
        // A zone can take these away, not give what the node does not have.
        all.retained.enabled &= self.retain.unwrap_or(true);
        all.shared_subscription.enabled &= self.shared_subscriptions.unwrap_or(true);
        all
    }
}

impl Mqtt {
    /// Takes all settings that a zone may set from others, but what a zone can only take away.
    pub fn take_zone_settings(&mut self, from: &Self) {
        macro_rules! take {
            ($($setting:ident),*) => { $(self.$setting = from.$setting.clone();)* };
        }
        each_setting!(take);
    }
}

/// What counts for the clients of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Settings of `mqtt`, with those of the listener's zone and its own in their places.
    pub mqtt: Mqtt,
    /// What is put before every topic, if anything is.
    pub mount_point: Option<String>,
}

impl Config {
    /// What counts for the clients of a listener: its own settings, then those of its zone, then those of `mqtt`.
    #[must_use]
    pub fn settings_of(&self, listener: &Listener) -> ListenerSettings {
        let zone = listener.zone.as_ref().and_then(|name| self.zones.get(name));
        let mut mqtt = zone.map_or_else(|| self.mqtt.clone(), |zone| zone.over(&self.mqtt));
        if let Some(own) = listener.max_packet_size {
            mqtt.max_packet_size = own;
        }
        mqtt.max_packet_size = mqtt.max_packet_size.min(self.mqtt.max_packet_size);
        if let Some(own) = listener.connect_timeout {
            mqtt.connect_timeout = own;
        }
        let mount_point = listener.mount_point.clone().or_else(|| zone?.mount_point.clone());
        ListenerSettings { mqtt, mount_point }
    }
}
