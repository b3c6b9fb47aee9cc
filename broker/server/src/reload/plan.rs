//! What of changed settings a running node can take, as a pure function.

use std::collections::{BTreeMap, BTreeSet};

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
    for (path, counts) in forbidden(running, &applied, wanted) {
        if !counts {
            changed.remove(&path);
        }
        needs_restart.insert(path);
    }
    Plan { applied, changed: changed.into_iter().collect(), needs_restart: needs_restart.into_iter().collect() }
}

/// What a zone may set, a running node takes, but for what its buffers and links were made for.
fn take_mqtt(mqtt: &mut Mqtt, wanted: &Mqtt) {
    let max_packet_size = mqtt.max_packet_size;
    mqtt.take_zone_settings(wanted);
    mqtt.max_packet_size = max_packet_size;
    mqtt.rewrite.clone_from(&wanted.rewrite);
    mqtt.auto_subscribe.clone_from(&wanted.auto_subscribe);
}

fn take_listener(listener: &mut Listener, wanted: &Listener) {
    listener.max_connections = wanted.max_connections;
    listener.max_packet_size = wanted.max_packet_size;
    listener.connect_timeout = wanted.connect_timeout;
    listener.rates.clone_from(&wanted.rates);
    listener.zone.clone_from(&wanted.zone);
}

/// What listeners and zones get only after the node's own settings have changed, which needs a new start; and whether something of it
/// changes now.
fn forbidden(running: &Config, applied: &Config, wanted: &Config) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    for (index, listener) in wanted.listeners.iter().enumerate() {
        let of = |config: &Config| {
            let own = config.listeners.iter().find(|own| own.name == listener.name)?;
            Some(config.settings_of(own).mqtt)
        };
        let (Some(before), Some(now), Some(then)) = (of(running), of(applied), of(wanted)) else { continue };
        let zone = listener.zone.as_ref().and_then(|name| wanted.zones.get_key_value(name));
        let mut compare = |path: String, value: &dyn Fn(&Mqtt) -> u64| {
            if value(&now) != value(&then) {
                *found.entry(path).or_default() |= value(&before) != value(&now);
            }
        };
        if listener.max_packet_size.is_some() {
            compare(format!("listeners[{index}].maxPacketSize"), &|mqtt| mqtt.max_packet_size.bytes());
        } else if let Some((name, _)) = zone.filter(|(_, zone)| zone.max_packet_size.is_some()) {
            compare(format!("zones.{name}.maxPacketSize"), &|mqtt| mqtt.max_packet_size.bytes());
        }
        if let Some((name, _)) = zone.filter(|(_, zone)| zone.retain.is_some()) {
            compare(format!("zones.{name}.retain"), &|mqtt| mqtt.retained.enabled.into());
        }
        if let Some((name, _)) = zone.filter(|(_, zone)| zone.shared_subscriptions.is_some()) {
            compare(format!("zones.{name}.sharedSubscriptions"), &|mqtt| mqtt.shared_subscription.enabled.into());
        }
    }
    found
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

    /// Zones and listeners have at most what the node has, and that may need a new start.
    #[test]
    fn what_the_node_still_forbids_is_not_said_to_count() {
        let running = config(
            "
mqtt: {maxPacketSize: 64KiB, retained: {enabled: false}, sharedSubscription: {enabled: false}}
zones:
  z: {maxPacketSize: 4KiB}
listeners:
- {name: a, bind: ':1883', zone: z}
- {name: b, bind: ':1884', zone: z, maxPacketSize: 8KiB}
",
        );
        let wanted = config(
            "
mqtt: {maxPacketSize: 1MiB, retained: {enabled: true}, sharedSubscription: {enabled: true}}
zones:
  z: {maxPacketSize: 512KiB, retain: true, sharedSubscriptions: true}
listeners:
- {name: a, bind: ':1883', zone: z}
- {name: b, bind: ':1884', zone: z, maxPacketSize: 128KiB}
",
        );
        let restart = [
            "listeners[1].maxPacketSize",
            "mqtt.maxPacketSize",
            "mqtt.retained.enabled",
            "mqtt.sharedSubscription.enabled",
            "zones.z.maxPacketSize",
            "zones.z.retain",
            "zones.z.sharedSubscriptions",
        ];
        let first = plan(&running, &wanted, &[None, None]);
        assert_eq!(first.needs_restart, restart);
        // The packets have grown to what the node takes.
        assert_eq!(first.changed, ["listeners[1].maxPacketSize", "zones.z.maxPacketSize"]);
        let again = plan(&first.applied, &wanted, &[None, None]);
        assert_eq!((again.changed, again.needs_restart), (Vec::new(), first.needs_restart));
    }
}
