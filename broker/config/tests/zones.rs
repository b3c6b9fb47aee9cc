//! Zones: what a listener's clients get of them, and what is wrong with them.
#![allow(clippy::unwrap_used)]

use raftmq_config::{ByteSize, Config, HumanDuration, QueueFull};

fn load(yaml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let own =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    Config::from_sources(yaml, "node.yaml", own(env).into_iter(), &own(flags))
        .map_err(|error| error.problems().iter().map(ToString::to_string).collect())
}

#[test]
fn the_listener_counts_before_its_zone_and_the_zone_before_the_node() {
    let config = load(
        "
mqtt: {maxInflight: 7, maxQos: 2, maxPacketSize: 64KiB}
zones:
  small: {maxQos: 1, maxPacketSize: 32KiB, connectTimeout: 1s, mountPoint: small/, retain: false, queueFull: dropOldest}
listeners:
- {name: a, bind: ':1'}
- {name: b, bind: ':2', zone: small}
- {name: c, bind: ':3', zone: small, maxPacketSize: 16KiB, connectTimeout: 2s, mountPoint: c/}
",
        &[],
        &[],
    )
    .unwrap();
    let of = |at: usize| config.settings_of(&config.listeners[at]);
    let none = of(0);
    assert_eq!((&none.mqtt, none.mount_point), (&config.mqtt, None));
    let zone = of(1);
    assert_eq!((zone.mqtt.max_qos, zone.mqtt.max_inflight, zone.mqtt.retained.enabled), (1, 7, false));
    assert_eq!((zone.mqtt.max_packet_size, zone.mount_point.as_deref()), (ByteSize::kib(32), Some("small/")));
    assert_eq!(zone.mqtt.queue_full, QueueFull::DropOldest);
    let own = of(2);
    assert_eq!((own.mqtt.max_packet_size, own.mount_point.as_deref()), (ByteSize::kib(16), Some("c/")));
    assert_eq!((own.mqtt.connect_timeout, own.mqtt.max_qos), (HumanDuration::from_secs(2), 1));
    // What is written is read back.
    assert_eq!(load(&config.to_yaml(), &[], &[]).unwrap(), config);
}

#[test]
fn zones_may_come_from_the_environment_and_flags() {
    let zone = [("RAFTMQ__ZONES__MY_ZONE__MAX_QOS", "0"), ("RAFTMQ__LISTENERS__0__ZONE", "my-zone")];
    let config = load("", &zone, &[("zones.my-zone.maxInflight", "3")]).unwrap();
    let own = config.settings_of(&config.listeners[0]);
    assert_eq!((own.mqtt.max_qos, own.mqtt.max_inflight), (0, 3));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (yaml, expected) in [
        ("zones:\n  a: {maxQoS: 1}", "node.yaml:2:7: zones.a.maxQoS: unknown setting; did you mean \"maxQos\"?"),
        ("zones:\n  a: {maxFoo: 1}", "node.yaml:2:7: zones.a.maxFoo: unknown setting (known here: "),
        ("zones:\n  a: {maxQso: 1}", "node.yaml:2:7: zones.a.maxQso: unknown setting; did you mean \"maxQos\"?"),
        ("zones:\n  a: {maxQos: 3}", "node.yaml:2:15: zones.a.maxQos: 3 is out of range: 0 to 2"),
        ("zones:\n  A_b: {}", "node.yaml:2:3: zones.A_b: \"A_b\" is not a zone's name"),
        (
            "zones:\n  a: {maxPacketSize: 2MiB}",
            "node.yaml:2:22: zones.a.maxPacketSize: 2MiB is more than mqtt.maxPacketSize",
        ),
        ("zones:\n  a: {sessionExpiryMax: 1500ms}", "node.yaml:2:25: zones.a.sessionExpiryMax: 1s500ms is not a whole"),
        (
            "mqtt: {maxKeepAlive: 5s}\nzones:\n  a: {minKeepAlive: 6s}",
            "node.yaml:3:21: zones.a.minKeepAlive: minKeepAlive (6s)",
        ),
        (
            "mqtt: {retained: {enabled: false}}\nzones:\n  a: {retain: true}",
            "node.yaml:3:15: zones.a.retain: is true, and",
        ),
        (
            "zones:\n  a: {sessionExpiryMin: 8d}",
            "node.yaml:2:25: zones.a.sessionExpiryMin: sessionExpiryMin (8d) is more than sessionExpiryMax (7d)",
        ),
        (
            "mqtt: {sessionExpiryMin: 2h}\nzones:\n  a: {sessionExpiryMax: 1h}",
            "node.yaml:3:25: zones.a.sessionExpiryMax: sessionExpiryMin (2h) is more than sessionExpiryMax (1h)",
        ),
        ("overload: {memoryRefuse: 95}", "node.yaml:1:26: overload.memoryRefuse: 95 is more than memoryShed (90)"),
        ("overload: {memoryShed: 101}", "node.yaml:1:24: overload.memoryShed: 101 is out of range: 0 to 100"),
        (
            "overload: {loopDelayRefuse: 6s}",
            "node.yaml:1:29: overload.loopDelayRefuse: 6s is more than loopDelayShed (5s)",
        ),
        ("mqtt: {sessionExpiryMin: 8d}", "node.yaml:1:26: mqtt.sessionExpiryMin: sessionExpiryMin (8d) is more"),
        ("zones:\n  a: {slowConsumerQos0: queue}", "node.yaml:2:25: zones.a.slowConsumerQos0: "),
        ("zones:\n  a: {mountPoint: b}", "node.yaml:2:19: zones.a.mountPoint: \"b\" cannot begin topics"),
        (
            "zones: {a: {}}\nlisteners:\n- {name: l, bind: ':1', zone: b}",
            "node.yaml:3:31: listeners[0].zone: \"b\" is not one of the zones (a)",
        ),
        (
            "listeners:\n- {name: l, bind: ':1', zone: b}",
            "node.yaml:2:31: listeners[0].zone: \"b\" is not one of the zones (there are none)",
        ),
        (
            "mqtt: {minKeepAlive: 9s, maxKeepAlive: 5s}",
            "node.yaml:1:22: mqtt.minKeepAlive: minKeepAlive (9s) is more than",
        ),
    ] {
        let problems = load(yaml, &[], &[]).unwrap_err();
        assert_eq!(problems.len(), 1, "{yaml}: {problems:?}");
        assert!(problems[0].starts_with(expected), "{}\nis not\n{expected}", problems[0]);
    }
}
