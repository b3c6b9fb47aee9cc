//! What a node does besides publish and subscribe, made from its settings: shared by all its workers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use raftmq_config::extensions::{Overlapping, RewriteAction as Action, SharedStrategy};
use raftmq_config::{Config, Mqtt, QueueFull, SlowQos0, SlowQos1};
use raftmq_features::auto_subscribe::{AutoSubscribe, AutoSubscribeError, AutoSubscription};
use raftmq_features::delayed::{DelayCounts, DelayQueue, DelayedSettings, Pushed};
use raftmq_features::events::{EventSettings, Events};
use raftmq_features::exclusive::{ExclusiveSettings, ExclusiveTable};
use raftmq_features::rewrite::{RewriteAction, RewriteRule, RewriteRuleError, Rewriter};
use raftmq_features::sys::SysSettings;
use raftmq_features::wills::WillSettings;
use raftmq_mqtt::{Message, QoS, RetainHandling, SubOptions};
use raftmq_routing::{GroupStrategy, NodeGroups, RetainedLimits, RetainedStore};
use raftmq_session::{Rate, SessionLimits, SubscriptionInfo};

use crate::authn::{Methods, TestMethod};

/// What is wrong with the settings of a feature.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeatureError {
    #[error("{path}: {0}", path = path(REWRITE, &.0.place()))]
    Rewrite(#[from] RewriteRuleError),
    #[error("{path}: {0}", path = path(AUTO_SUBSCRIBE, &.0.place()))]
    AutoSubscribe(#[from] AutoSubscribeError),
}

const REWRITE: &str = "mqtt.rewrite";
const AUTO_SUBSCRIBE: &str = "mqtt.autoSubscribe";

fn path(list: &str, place: &str) -> String {
    format!("{list}{place}")
}

/// Everything that is wrong with the settings of features: (path, message).
pub(crate) fn violations(mqtt: &Mqtt) -> Vec<(String, String)> {
    let rules = Rewriter::check(&rewrite_rules(mqtt));
    let subscriptions = AutoSubscribe::check(&auto_subscriptions(mqtt));
    let rules = rules.iter().map(|error| (path(REWRITE, &error.place()), error.to_string()));
    let subscriptions = subscriptions.iter().map(|error| (path(AUTO_SUBSCRIBE, &error.place()), error.to_string()));
    rules.chain(subscriptions).collect()
}

/// A member of a group that shares its messages.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Its subscription.
    pub(crate) info: SubscriptionInfo,
    /// About how many messages its session has not got rid of.
    pub(crate) load: Arc<AtomicU32>,
}

/// Rules for topics, which a node may be given anew while it runs.
pub(crate) struct Rules {
    /// Rules for topics and filters.
    pub(crate) rewriter: Rewriter,
    /// Subscriptions that clients get without asking.
    pub(crate) auto_subscribe: AutoSubscribe,
}

impl Rules {
    /// As the settings want them.
    pub(crate) fn new(mqtt: &Mqtt) -> Result<Self, FeatureError> {
        Ok(Self {
            rewriter: Rewriter::compile(&rewrite_rules(mqtt))?,
            auto_subscribe: AutoSubscribe::compile(&auto_subscriptions(mqtt))?,
        })
    }
}

/// The features of a node.
pub(crate) struct Features {
    /// Rules at the node's start; a worker has those that count now.
    pub(crate) rules: Arc<Rules>,
    /// Messages that wait for their time.
    pub(crate) delayed: Delayed,
    /// Whether messages are retained at all.
    pub(crate) retain: bool,
    retained: RwLock<RetainedStore>,
    /// Who may have an exclusive subscription.
    pub(crate) exclusive_settings: ExclusiveSettings,
    exclusive: Mutex<ExclusiveTable>,
    /// The members of groups that share their messages.
    pub(crate) groups: NodeGroups<Member>,
    /// How a member is chosen.
    pub(crate) strategy: GroupStrategy,
    /// How long a member of a durable group may take to acknowledge, in milliseconds; `None`: for ever.
    pub(crate) acknowledge_within_ms: Option<u64>,
    /// Whether overlapping subscriptions bring one copy.
    pub(crate) merge: bool,
    /// Makes events of clients.
    pub(crate) events: Events,
    /// Which of them are made.
    pub(crate) event_settings: EventSettings,
    /// `$SYS/brokers/{node}/clients/`
    pub(crate) event_prefix: String,
    /// What the node says about itself.
    pub(crate) sys: SysSettings,
    /// How many wills may wait.
    pub(crate) wills: WillSettings,
    /// Methods of enhanced authentication.
    pub(crate) methods: Methods,
}

impl Features {
    /// As the settings want them.
    pub(crate) fn new(config: &Config) -> Result<Self, FeatureError> {
        let mqtt = &config.mqtt;
        let node = config.node.name.as_str();
        let event_settings = EventSettings {
            connected: mqtt.events.connected,
            disconnected: mqtt.events.disconnected,
            subscribed: mqtt.events.subscribed,
            unsubscribed: mqtt.events.unsubscribed,
            qos: qos(mqtt.events.qos),
        };
        let exclusive_settings = ExclusiveSettings {
            enabled: mqtt.exclusive.enabled,
            max_subscriptions: mqtt.exclusive.max_subscriptions as usize,
        };
        let methods = if mqtt.authentication.test_method {
            tracing::warn!("the authentication method `test` is on: whoever connects with it is let in");
            Methods::default().with(TestMethod)
        } else {
            Methods::default()
        };
        Ok(Self {
            rules: Arc::new(Rules::new(mqtt)?),
            delayed: Delayed::new(DelayedSettings {
                enabled: mqtt.delayed.enabled,
                max_delay_s: u32::try_from(mqtt.delayed.max_delay.as_secs()).unwrap_or(u32::MAX),
                max_messages: mqtt.delayed.max_messages as usize,
                max_bytes: mqtt.delayed.max_bytes.as_usize(),
            }),
            retain: mqtt.retained.enabled,
            retained: RwLock::new(RetainedStore::new(RetainedLimits {
                messages: mqtt.retained.max_messages as usize,
                bytes: mqtt.retained.max_bytes.as_usize(),
                payload: mqtt.retained.max_payload_size.as_usize(),
            })),
            exclusive: Mutex::new(ExclusiveTable::new(&exclusive_settings)),
            exclusive_settings,
            groups: NodeGroups::new(),
            strategy: strategy(mqtt.shared_subscription.strategy),
            acknowledge_within_ms: Some(mqtt.shared_subscription.acknowledge_timeout.as_millis()).filter(|ms| *ms > 0),
            merge: mqtt.overlapping == Overlapping::Merge,
            events: Events::new(event_settings.clone(), node),
            event_settings,
            event_prefix: format!("$SYS/brokers/{}/clients/", raftmq_features::topic_level(node)),
            sys: SysSettings {
                enabled: mqtt.sys.enabled,
                interval_ms: mqtt.sys.interval.as_millis(),
                heartbeat_ms: mqtt.sys.heartbeat_interval.as_millis(),
                mosquitto: mqtt.sys.mosquitto,
                mosquitto_interval_ms: mqtt.sys.mosquitto_interval.as_millis(),
                retain: mqtt.sys.retain && mqtt.retained.enabled,
                qos: QoS::AtMostOnce,
            },
            wills: WillSettings {
                max_wills: mqtt.will.max_waiting as usize,
                max_bytes: mqtt.will.max_bytes.as_usize(),
            },
            methods,
        })
    }

    /// The retained messages, to read.
    pub(crate) fn retained(&self) -> RwLockReadGuard<'_, RetainedStore> {
        self.retained.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The retained messages, to change.
    pub(crate) fn retained_mut(&self) -> RwLockWriteGuard<'_, RetainedStore> {
        self.retained.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has which exclusive subscription.
    pub(crate) fn exclusive(&self) -> MutexGuard<'_, ExclusiveTable> {
        self.exclusive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages that wait for their time: one queue for the node, which is not locked to see that nothing is due.
pub(crate) struct Delayed {
    pub(crate) settings: DelayedSettings,
    queue: Mutex<DelayQueue>,
    /// When the next one is due.
    next_due_ms: AtomicU64,
}

impl Delayed {
    fn new(settings: DelayedSettings) -> Self {
        Self { queue: Mutex::new(DelayQueue::new(&settings)), settings, next_due_ms: AtomicU64::new(u64::MAX) }
    }

    /// Keeps a message until its time.
    pub(crate) fn push(&self, now_ms: u64, due_ms: u64, message: Message) -> Pushed {
        let mut queue = self.lock();
        let pushed = queue.push(now_ms, due_ms, message);
        self.note(&queue);
        pushed
    }

    /// Takes up to `limit` messages whose time has come.
    pub(crate) fn take_due(&self, now_ms: u64, limit: usize, into: &mut Vec<Message>) {
        if self.next_due_ms.load(Ordering::Relaxed) > now_ms {
            return;
        }
        let mut queue = self.lock();
        into.extend(std::iter::from_fn(|| queue.pop_due(now_ms)).take(limit));
        self.note(&queue);
    }

    /// How many wait, how many bytes they take, and what has happened.
    pub(crate) fn counts(&self) -> (usize, usize, DelayCounts) {
        let queue = self.lock();
        (queue.len(), queue.bytes(), queue.counts())
    }

    fn note(&self, queue: &DelayQueue) {
        self.next_due_ms.store(queue.next_due_ms().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, DelayQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What clients may use. A mount point is its listener's.
pub(crate) fn session_limits(mqtt: &Mqtt) -> SessionLimits {
    SessionLimits {
        connect_timeout_ms: mqtt.connect_timeout.as_millis(),
        min_keep_alive_s: u16::try_from(mqtt.min_keep_alive.as_secs()).unwrap_or(u16::MAX),
        max_keep_alive_s: u16::try_from(mqtt.max_keep_alive.as_secs()).unwrap_or(u16::MAX),
        max_client_id_bytes: usize::from(mqtt.max_client_id_length),
        min_session_expiry_s: u32::try_from(mqtt.session_expiry_min.as_secs()).unwrap_or(u32::MAX),
        max_session_expiry_s: u32::try_from(mqtt.session_expiry_max.as_secs()).unwrap_or(u32::MAX),
        max_message_expiry_s: u32::try_from(mqtt.message_expiry_max.as_secs()).unwrap_or(u32::MAX),
        receive_maximum: mqtt.receive_maximum,
        max_packet_size: u32::try_from(mqtt.max_packet_size.bytes()).unwrap_or(u32::MAX),
        max_in_flight: mqtt.max_inflight,
        max_queued_messages: mqtt.max_queued_messages as usize,
        max_queued_bytes: mqtt.max_queued_bytes.as_usize(),
        drop_oldest: mqtt.queue_full == QueueFull::DropOldest,
        max_outbound_bytes: mqtt.max_outbound_bytes.as_usize(),
        slow_qos0_disconnects: mqtt.slow_consumer_qos0 == SlowQos0::Disconnect,
        slow_qos1_disconnects: mqtt.slow_consumer_qos1 == SlowQos1::Disconnect,
        max_topic_aliases: mqtt.max_topic_aliases,
        max_topic_aliases_out: mqtt.max_topic_aliases_out,
        max_topic_levels: usize::from(mqtt.max_topic_levels),
        max_topic_bytes: usize::from(mqtt.max_topic_length),
        max_user_properties: usize::from(mqtt.max_user_properties),
        message_rate: Rate::new(mqtt.message_rate.into(), mqtt.message_burst.into()),
        byte_rate: Rate::new(mqtt.byte_rate.bytes(), mqtt.byte_burst.bytes()),
        max_subscriptions: mqtt.max_subscriptions as usize,
        queue_qos0_offline: mqtt.queue_qos0_offline,
        check_payload_format: mqtt.check_payload_format,
        max_qos: qos(mqtt.max_qos),
        retain_available: mqtt.retained.enabled,
        wildcard_available: mqtt.wildcard_subscriptions,
        shared_available: mqtt.shared_subscription.enabled,
        sub_ids_available: mqtt.subscription_identifiers,
        response_information: (!mqtt.response_information.is_empty())
            .then(|| mqtt.response_information.as_str().into()),
        ..SessionLimits::default()
    }
}

fn rewrite_rules(mqtt: &Mqtt) -> Vec<RewriteRule> {
    mqtt.rewrite
        .iter()
        .map(|rule| RewriteRule {
            action: match rule.action {
                Action::Publish => RewriteAction::Publish,
                Action::Subscribe => RewriteAction::Subscribe,
                Action::All => RewriteAction::All,
            },
            source: rule.source.clone(),
            regex: rule.regex.clone(),
            destination: rule.destination.clone(),
        })
        .collect()
}

fn auto_subscriptions(mqtt: &Mqtt) -> Vec<AutoSubscription> {
    mqtt.auto_subscribe
        .iter()
        .map(|subscription| AutoSubscription {
            topic: subscription.topic.clone(),
            options: SubOptions {
                qos: qos(subscription.qos),
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                retain_handling: match subscription.retain_handling {
                    0 => RetainHandling::default(),
                    1 => RetainHandling::SendIfNew,
                    _ => RetainHandling::DoNotSend,
                },
            },
        })
        .collect()
}

const fn strategy(setting: SharedStrategy) -> GroupStrategy {
    match setting {
        SharedStrategy::RoundRobin => GroupStrategy::RoundRobin,
        SharedStrategy::Random => GroupStrategy::Random,
        SharedStrategy::Sticky => GroupStrategy::Sticky,
        SharedStrategy::HashClient => GroupStrategy::HashClient,
        SharedStrategy::HashTopic => GroupStrategy::HashTopic,
        SharedStrategy::Local => GroupStrategy::LocalFirst,
        SharedStrategy::LeastInflight => GroupStrategy::LeastInFlight,
    }
}

/// The settings' checks leave nothing else.
fn qos(number: u8) -> QoS {
    QoS::from_u8(number).unwrap_or(QoS::ExactlyOnce)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_config::extensions::{AutoSubscription as AutoSetting, RewriteRule as RuleSetting};

    #[test]
    fn everything_is_there_by_default() {
        let limits = session_limits(&Mqtt::default());
        assert!(limits.retain_available && limits.wildcard_available && limits.shared_available);
        assert!(limits.sub_ids_available && limits.max_qos == QoS::ExactlyOnce && !limits.queue_qos0_offline);
        assert_eq!(limits.response_information, None);
        let features = Features::new(&Config::default()).unwrap();
        assert!(features.merge && !features.rules.rewriter.publishes() && features.methods.find("test").is_none());
        assert_eq!(features.delayed.settings, DelayedSettings::default());
        assert_eq!(features.sys, SysSettings::default());
        assert_eq!(features.event_prefix, "$SYS/brokers/raftmq-0/clients/");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut config = Config::default();
        let rule =
            RuleSetting { action: Action::All, source: "a/#".into(), regex: "(".into(), destination: "b".into() };
        config.mqtt.rewrite = vec![rule];
        let error = Features::new(&config).err().unwrap().to_string();
        assert!(error.starts_with("mqtt.rewrite[0].regex: "), "{error}");
        config.mqtt.rewrite.clear();
        config.mqtt.auto_subscribe = vec![AutoSetting {
            topic: "a/${x}".into(),
            qos: 0,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
        }];
        let error = Features::new(&config).err().unwrap().to_string();
        assert!(error.starts_with("mqtt.autoSubscribe[0].topic: "), "{error}");
    }
}
