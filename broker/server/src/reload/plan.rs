//! What of changed settings a running node can take, as a pure function.

use std::collections::BTreeSet;

use raftmq_config::{Config, Listener, Mqtt};
use serde_json::Value as Json;

/// What comes of new settings.
#[derive(Debug)]
pub(super) struct Plan {
    /// The node's settings afterwards: the running ones with what can change taken from the wanted ones.
    pub(super) applied: Config,
    /// Settings that change.
    pub(super) changed: Vec<String>,
    /// Settings that are wanted and need a new start.
    pub(super) needs_restart: Vec<String>,
}

/// Compares the settings that count with those that are wanted. `mounts` are the mount points of the running listeners: sessions were made
/// behind them, and so they stay.
///
/// What is not named here needs a new start: a setting that is added later is never said to count when it does not.
pub(super) fn plan(running: &Config, wanted: &Config, mounts: &[Option<&str>]) -> Plan {
    let mut applied = running.clone();
    applied.log.level = wanted.log.level;
    applied.log.modules.clone_from(&wanted.log.modules);
    take_mqtt(&mut applied.mqtt, &wanted.mqtt);
    applied.overload.clone_from(&wanted.overload);
    applied.zones.clone_from(&wanted.zones);
    for (name, zone) in &mut applied.zones {
        if let Some(before) = running.zones.get(name) {
            zone.mount_point.clone_from(&before.mount_point);
        }
    }
    for listener in &mut applied.listeners {
        if let Some(wanted) = wanted.listeners.iter().find(|wanted| wanted.name == listener.name) {
            take_listener(listener, wanted);
        } else if let Some((name, zone)) = listener.zone.as_ref().and_then(|name| running.zones.get_key_value(name)) {
            // It goes on until the node's end, with the limits that it has.
            applied.zones.entry(name.clone()).or_insert_with(|| zone.clone());
        }
    }
    let (before, after, all) = (json(running), json(&applied), json(wanted));
    let mut changed = BTreeSet::new();
    differences(&before, &after, "", &mut changed);
    let mut needs_restart = BTreeSet::new();
    differences(&after, &all, "", &mut needs_restart);
    for (index, listener) in wanted.listeners.iter().enumerate() {
        let number = running.listeners.iter().position(|running| running.name == listener.name);
        let mount = number.and_then(|number| mounts.get(number));
        if mount.is_some_and(|mount| *mount != wanted.settings_of(listener).mount_point.as_deref()) {
            needs_restart.insert(format!("listeners[{index}].mountPoint"));
        }
    }
    Plan { applied, changed: changed.into_iter().collect(), needs_restart: needs_restart.into_iter().collect() }
}

fn take_mqtt(mqtt: &mut Mqtt, wanted: &Mqtt) {
    macro_rules! take {
        ($($setting:ident),* $(,)?) => { $(mqtt.$setting = wanted.$setting.clone();)* };
    }
    take!(
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
        max_qos,
        wildcard_subscriptions,
        subscription_identifiers,
        max_topic_aliases,
        max_topic_aliases_out,
        check_payload_format,
        response_information,
        rewrite,
        auto_subscribe,
    );
}

fn take_listener(listener: &mut Listener, wanted: &Listener) {
    listener.max_connections = wanted.max_connections;
    listener.max_packet_size = wanted.max_packet_size;
    listener.connect_timeout = wanted.connect_timeout;
    listener.zone.clone_from(&wanted.zone);
}

fn json(config: &Config) -> Json {
    serde_json::to_value(config).expect("settings are plain maps, lists and text")
}

/// The paths of what two documents do not have in common.
fn differences(a: &Json, b: &Json, path: &str, found: &mut BTreeSet<String>) {
    match (a, b) {
        (Json::Object(a), Json::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(a.get(key).unwrap_or(&Json::Null), b.get(key).unwrap_or(&Json::Null), &path, found);
            }
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{path}[{index}]"), found);
            }
        }
        (a, b) if a != b => {
            found.insert(path.to_owned());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_sources(text, "test.yaml", std::iter::empty(), &[]).unwrap()
    }

    const RUNNING: &str = "
zones:
  slow: {maxQos: 1, mountPoint: slow/}
listeners:
- {name: a, bind: ':1883', zone: slow}
- {name: b, bind: ':1884'}
";

    fn planned(wanted: &str) -> Plan {
        plan(&config(RUNNING), &config(wanted), &[Some("slow/"), None])
    }

    #[test]
    fn nothing_new_changes_nothing() {
        let plan = planned(RUNNING);
        assert_eq!((plan.changed.len(), plan.needs_restart.len()), (0, 0));
        assert_eq!(plan.applied, config(RUNNING));
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let plan = planned(
            "
overload: {memoryLimit: 1GiB, loopDelayRefuse: 2s}
mqtt: {maxTopicLevels: 5, maxPacketSize: 2MiB, retained: {enabled: false}}
zones:
  slow: {maxQos: 0, mountPoint: slow/}
  fast: {maxInflight: 10}
listeners:
- {name: a, bind: ':1883', zone: slow, maxConnections: 7}
- {name: b, bind: ':1885', zone: fast}
workers: 3
log: {level: debug, format: json}
",
        );
        let changed = ["listeners[0].maxConnections", "listeners[1].zone", "log.level", "mqtt.maxTopicLevels"];
        let more = ["overload.loopDelayRefuse", "overload.memoryLimit", "zones.fast", "zones.slow.maxQos"];
        assert_eq!(plan.changed, [&changed[..], &more].concat());
        let restart = ["listeners[1].bind", "log.format", "mqtt.maxPacketSize", "mqtt.retained.enabled", "workers"];
        assert_eq!(plan.needs_restart, restart);
        let own = plan.applied.settings_of(&plan.applied.listeners[1]);
        assert_eq!((own.mqtt.max_inflight, own.mqtt.max_topic_levels), (10, 5));
        assert!(own.mqtt.retained.enabled, "it is until the node's end");
    }

    #[test]
    fn mount_points_stay() {
        // By the zone's, by another zone, by none.
        for (zones, listener) in [
            ("slow: {maxQos: 1, mountPoint: else/}", "zone: slow"),
            ("slow: {maxQos: 1, mountPoint: slow/}\n  other: {mountPoint: other/}", "zone: other"),
            ("slow: {maxQos: 1, mountPoint: slow/}", "maxConnections: 1"),
        ] {
            let text = format!(
                "zones:\n  {zones}\nlisteners:\n- {{name: a, bind: ':1883', {listener}}}\n- {{name: b, bind: ':1884'}}\n"
            );
            let plan = planned(&text);
            let found = plan.needs_restart.contains(&"listeners[0].mountPoint".to_owned());
            assert!(found, "{text}: {:?}", plan.needs_restart);
        }
    }

    #[test]
    fn a_listener_that_is_not_wanted_any_more_keeps_its_zone() {
        let plan = planned("listeners:\n- {name: b, bind: ':1884'}\n");
        assert_eq!(plan.needs_restart, ["listeners", "zones"]);
        assert_eq!(plan.applied, config(RUNNING));
    }
}
