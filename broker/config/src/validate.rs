//! Checks that a type or a range cannot make: names, addresses, combinations.

use crate::{
    BindAddr, ByteSize, ClientAuth, Cluster, Config, Discovery, DiscoveryStrategy, HumanDuration, Listener,
    ListenerTls, Mqtt, Overload, Zone,
};

/// Whether a text is a label of RFC 1123: 1 to 63 lower-case letters, digits and hyphens, no hyphen at an end.
#[must_use]
pub fn is_rfc1123_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether a text is `host:port`: a name, an IPv4 address or an IPv6 address in brackets, and a port other than 0.
#[must_use]
pub fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_ok = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            (1..=253).contains(&host.len())
                && host
                    .trim_end_matches('.')
                    .split('.')
                    .all(|label| is_rfc1123_label(&label.to_ascii_lowercase().replace('_', "a")))
        }
    };
    host_ok && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

const LABEL: &str = "lower-case letters, digits and hyphens, at most 63, no hyphen at an end";

/// What is wrong: (path, message), in the order of the settings.
pub(crate) fn violations(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut wrong = |path: &str, message: String| found.push((path.to_owned(), message));
    if !is_rfc1123_label(&config.node.name) {
        wrong("node.name", format!("{:?} is not a node's name: {LABEL}", config.node.name));
    }
    if let Some(message) = wrong_zone(&config.node.zone) {
        wrong("node.zone", message);
    }
    if let Some(cluster) = &config.cluster {
        check_cluster(cluster, &mut wrong);
        let needed = config.mqtt.max_packet_size.bytes() + FRAME_OVERHEAD;
        if cluster.links.max_frame_bytes.bytes() < needed {
            let message = format!(
                "{} cannot hold a packet of mqtt.maxPacketSize ({}) and 64KiB around it",
                cluster.links.max_frame_bytes, config.mqtt.max_packet_size
            );
            wrong("cluster.links.maxFrameBytes", message);
        }
        if config.http.tls.is_none() {
            let message =
                "missing: the control API, which a cluster is bootstrapped by, is served under mutual TLS only";
            wrong("http.tls", message.into());
        }
    }
    check_listeners(config, &mut wrong);
    check_addresses(config, &mut wrong);
    check_mqtt(&config.mqtt, &mut wrong);
    check_zones(config, &mut wrong);
    check_overload(&config.overload, &mut wrong);
    if let Some(message) = wrong_modules(&config.log.modules) {
        wrong("log.modules", message);
    }
    found
}

/// The longest zone of a node, in bytes: that of a label's value in Kubernetes.
const MAX_NODE_ZONE: usize = 63;

fn wrong_zone(zone: &str) -> Option<String> {
    let wrong = zone.len() > MAX_NODE_ZONE || zone.chars().any(char::is_control);
    wrong.then(|| format!("{zone:?} is not a zone: text of at most {MAX_NODE_ZONE} bytes without control characters"))
}

fn check_mqtt(mqtt: &Mqtt, wrong: &mut impl FnMut(&str, String)) {
    for (path, duration) in [
        ("mqtt.sessionExpiryMin", mqtt.session_expiry_min),
        ("mqtt.sessionExpiryMax", mqtt.session_expiry_max),
        ("mqtt.messageExpiryMax", mqtt.message_expiry_max),
        ("mqtt.minKeepAlive", mqtt.min_keep_alive),
        ("mqtt.maxKeepAlive", mqtt.max_keep_alive),
        ("mqtt.delayed.maxDelay", mqtt.delayed.max_delay),
    ] {
        whole_seconds(path, Some(duration), wrong);
    }
    if let Some(message) = wrong_keep_alive(mqtt) {
        wrong("mqtt.minKeepAlive", message);
    }
    if let Some(message) = wrong_session_expiry(mqtt) {
        wrong("mqtt.sessionExpiryMin", message);
    }
}

fn check_overload(overload: &Overload, wrong: &mut impl FnMut(&str, String)) {
    let Overload { memory_refuse: memory, memory_shed, loop_delay_refuse: delay, loop_delay_shed, .. } = overload;
    if *memory_shed > 0 && memory > memory_shed {
        wrong(
            "overload.memoryRefuse",
            format!("{memory} is more than memoryShed ({memory_shed}): connections are refused first"),
        );
    }
    if loop_delay_shed.as_millis() > 0 && delay > loop_delay_shed {
        wrong(
            "overload.loopDelayRefuse",
            format!("{delay} is more than loopDelayShed ({loop_delay_shed}): connections are refused first"),
        );
    }
}

fn check_zones(config: &Config, wrong: &mut impl FnMut(&str, String)) {
    for (name, zone) in &config.zones {
        if !is_rfc1123_label(name) {
            wrong(&format!("zones.{name}"), format!("{name:?} is not a zone's name: {LABEL}"));
        }
        check_zone(zone, &config.mqtt, &mut |field, message| wrong(&format!("zones.{name}.{field}"), message));
    }
}

fn check_zone(zone: &Zone, mqtt: &Mqtt, wrong: &mut impl FnMut(&str, String)) {
    if let Some(message) = zone.max_packet_size.and_then(|size| too_large(size, mqtt.max_packet_size)) {
        wrong("maxPacketSize", message);
    }
    for (field, duration) in [
        ("sessionExpiryMin", zone.session_expiry_min),
        ("sessionExpiryMax", zone.session_expiry_max),
        ("messageExpiryMax", zone.message_expiry_max),
        ("minKeepAlive", zone.min_keep_alive),
        ("maxKeepAlive", zone.max_keep_alive),
    ] {
        whole_seconds(field, duration, wrong);
    }
    if (zone.min_keep_alive.is_some() || zone.max_keep_alive.is_some())
        && let Some(message) = wrong_keep_alive(&zone.over(mqtt))
    {
        wrong(if zone.min_keep_alive.is_some() { "minKeepAlive" } else { "maxKeepAlive" }, message);
    }
    if (zone.session_expiry_min.is_some() || zone.session_expiry_max.is_some())
        && let Some(message) = wrong_session_expiry(&zone.over(mqtt))
    {
        wrong(if zone.session_expiry_min.is_some() { "sessionExpiryMin" } else { "sessionExpiryMax" }, message);
    }
    for (field, own, node, of_node) in [
        ("retain", zone.retain, mqtt.retained.enabled, "mqtt.retained.enabled"),
        (
            "sharedSubscriptions",
            zone.shared_subscriptions,
            mqtt.shared_subscription.enabled,
            "mqtt.sharedSubscription.enabled",
        ),
    ] {
        if own == Some(true) && !node {
            wrong(field, format!("is true, and {of_node} is false: a zone can only take away what the node has"));
        }
    }
    if let Some(message) = zone.mount_point.as_deref().and_then(wrong_mount_point) {
        wrong("mountPoint", message);
    }
}

fn whole_seconds(path: &str, duration: Option<HumanDuration>, wrong: &mut impl FnMut(&str, String)) {
    if let Some(duration) = duration.filter(|duration| duration.as_millis() % 1000 != 0) {
        wrong(path, format!("{duration} is not a whole number of seconds, which is what MQTT counts in"));
    }
}

fn wrong_keep_alive(mqtt: &Mqtt) -> Option<String> {
    let (min, max) = (mqtt.min_keep_alive, mqtt.max_keep_alive);
    (max.as_millis() > 0 && min > max).then(|| format!("minKeepAlive ({min}) is more than maxKeepAlive ({max})"))
}

fn wrong_session_expiry(mqtt: &Mqtt) -> Option<String> {
    let (min, max) = (mqtt.session_expiry_min, mqtt.session_expiry_max);
    (min > max).then(|| format!("sessionExpiryMin ({min}) is more than sessionExpiryMax ({max})"))
}

fn too_large(size: ByteSize, of_node: ByteSize) -> Option<String> {
    (size > of_node).then(|| format!("{size} is more than mqtt.maxPacketSize ({of_node}), which is for all"))
}

fn wrong_mount_point(mount_point: &str) -> Option<String> {
    // Without / at the end, `plant-1` would be in front of `plant-12` too.
    let wrong = mount_point.contains(['+', '#', '\0']) || mount_point.starts_with('$') || !mount_point.ends_with('/');
    let why = "cannot begin topics: no +, no #, no $ in front, and / at the end, as plant-1/";
    wrong.then(|| format!("{mount_point:?} {why}"))
}

/// What is wrong with levels of modules, as they are written in [`crate::Log::modules`].
fn wrong_modules(text: &str) -> Option<String> {
    let part_is_wrong = |part: &str| {
        let Some((module, level)) = part.split_once('=') else {
            return Some(format!("{part:?} is not module=level"));
        };
        let (module, level) = (module.trim(), level.trim());
        let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
        if module.is_empty() || !module.bytes().all(in_names) {
            return Some(format!("{part:?} has no module's name before ="));
        }
        let known = ["off", "error", "warn", "info", "debug", "trace"];
        let fits = known.iter().any(|known| known.eq_ignore_ascii_case(level));
        (!fits).then(|| format!("{part:?}: {level:?} is not a level"))
    };
    let wrong = (!text.is_empty()).then(|| text.split(',').map(str::trim).find_map(part_is_wrong)).flatten()?;
    Some(format!(
        "{wrong}; allowed is module=level, separated by commas, as raftmq::http=debug,quinn=warn; levels are off, error, warn, info, debug, trace"
    ))
}

/// What a frame on a link may add to an MQTT packet: envelope, addresses, batch header.
const FRAME_OVERHEAD: u64 = 64 << 10;

fn check_cluster(cluster: &Cluster, wrong: &mut impl FnMut(&str, String)) {
    if !is_rfc1123_label(&cluster.name) {
        wrong("cluster.name", format!("{:?} is not a cluster's name: {LABEL}", cluster.name));
    }
    check_discovery(&cluster.discovery, wrong);
    let links = &cluster.links;
    if links.listen.port() == 0 {
        wrong("cluster.links.listen", "needs a certain port, not 0: peers come back to it".into());
    }
    match &links.advertise {
        Some(address) if !is_host_port(address) => {
            wrong("cluster.links.advertise", format!("{address:?} is not HOST:PORT, as raftmq-0.raftmq:9883"));
        }
        None if links.listen.get().ip().is_unspecified() => {
            let message = format!("missing: {} is not an address that peers can reach; give HOST:PORT", links.listen);
            wrong("cluster.links.advertise", message);
        }
        _ => {}
    }
    if links.queue_bytes < links.max_frame_bytes {
        let message = format!("{} is less than maxFrameBytes ({})", links.queue_bytes, links.max_frame_bytes);
        wrong("cluster.links.queueBytes", message);
    }
    let raft = &cluster.raft;
    let (heartbeat, min, max) = (raft.heartbeat_interval, raft.election_timeout_min, raft.election_timeout_max);
    if min.get() < heartbeat.get() * 3 {
        let message = format!("{min} is less than three times heartbeatInterval ({heartbeat})");
        wrong("cluster.raft.electionTimeoutMin", message);
    }
    if max <= min {
        wrong("cluster.raft.electionTimeoutMax", format!("{max} is not more than electionTimeoutMin ({min})"));
    }
}

fn check_discovery(discovery: &Discovery, wrong: &mut impl FnMut(&str, String)) {
    match discovery.strategy {
        DiscoveryStrategy::Dns if discovery.dns.is_none() => {
            wrong("cluster.discovery.dns", "missing: the strategy dns needs its name".into());
        }
        DiscoveryStrategy::K8s if discovery.k8s.is_none() => {
            wrong("cluster.discovery.k8s", "missing: the strategy k8s needs its service".into());
        }
        _ => {}
    }
    for (index, peer) in discovery.static_.peers.iter().enumerate() {
        if !is_host_port(peer) {
            let path = format!("cluster.discovery.static.peers[{index}]");
            wrong(&path, format!("{peer:?} is not HOST:PORT, as 10.0.0.2:9883"));
        }
    }
    let namespace = discovery.k8s.as_ref().and_then(|k8s| k8s.namespace.as_ref());
    if let Some(namespace) = namespace.filter(|n| !is_rfc1123_label(n)) {
        wrong("cluster.discovery.k8s.namespace", format!("{namespace:?} is not a namespace: {LABEL}"));
    }
}

fn check_listeners(config: &Config, wrong: &mut impl FnMut(&str, String)) {
    if config.listeners.is_empty() {
        wrong("listeners", "is empty; a broker needs at least one".into());
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let at = |field: &str| format!("listeners[{index}].{field}");
        if !is_rfc1123_label(&listener.name) {
            wrong(&at("name"), format!("{:?} is not a listener's name: {LABEL}", listener.name));
        }
        if let Some(first) = config.listeners[..index].iter().position(|l| l.name == listener.name) {
            wrong(&at("name"), format!("{:?} is already the name of listeners[{first}]", listener.name));
        }
        if let Some(zone) = listener.zone.as_ref().filter(|zone| !config.zones.contains_key(*zone)) {
            let known: Vec<_> = config.zones.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            wrong(&at("zone"), format!("{zone:?} is not one of the zones ({known})"));
        }
        check_listener(listener, config.mqtt.max_packet_size, &mut |field, message| wrong(&at(field), message));
    }
}

fn check_listener(listener: &Listener, max_packet_size: ByteSize, wrong: &mut impl FnMut(&str, String)) {
    let type_ = listener.type_.as_str();
    if let Some(message) = listener.max_packet_size.and_then(|size| too_large(size, max_packet_size)) {
        wrong("maxPacketSize", message);
    }
    if let Some(message) = listener.mount_point.as_deref().and_then(wrong_mount_point) {
        wrong("mountPoint", message);
    }
    if listener.type_.uses_udp() && !listener.proxy_protocol.is_none() {
        wrong("proxyProtocol", "is not for listeners of type quic: the header is one of TCP".into());
    }
    if let Some(websocket) = &listener.websocket {
        let path = &websocket.path;
        if !listener.type_.uses_websocket() {
            wrong("websocket", format!("is for listeners of type ws and wss, and this one is {type_}"));
        } else if !path.starts_with('/') || path.bytes().any(|byte| !byte.is_ascii_graphic() || b"?#".contains(&byte)) {
            wrong("websocket.path", format!("{path:?} is not a path, as /mqtt"));
        }
    }
    match &listener.tls {
        None if listener.type_.uses_tls() => {
            wrong("tls", format!("missing: a listener of type {type_} needs its certFile and keyFile"));
        }
        Some(_) if !listener.type_.uses_tls() => {
            wrong("tls", format!("is for listeners of type tls, wss and quic, and this one is {type_}"));
        }
        Some(tls) => check_tls(tls, wrong),
        None => {}
    }
}

fn check_tls(tls: &ListenerTls, wrong: &mut impl FnMut(&str, String)) {
    let asked = tls.client_auth != ClientAuth::None;
    if asked && tls.ca_file.is_none() {
        wrong("tls.caFile", "missing: clients are asked for certificates, and this says who issues them".into());
    }
    for (field, file) in [("tls.caFile", &tls.ca_file), ("tls.crlFile", &tls.crl_file)] {
        if !asked && file.is_some() {
            wrong(field, "checks nobody: clientAuth is none; set it to optional or required".into());
        }
    }
    for (index, certificate) in tls.certificates.iter().enumerate() {
        for (at, name) in certificate.server_names.iter().enumerate() {
            if !is_server_name(name) {
                let path = format!("tls.certificates[{index}].serverNames[{at}]");
                wrong(&path, format!("{name:?} is not a server name, as mqtt.example.org or *.example.org"));
            }
        }
    }
}

fn is_server_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name).to_ascii_lowercase();
    name.len() <= 253 && name.split('.').all(|label| is_rfc1123_label(&label.replace('_', "a")))
}

/// Two sockets on one address and port: the later one is named.
fn check_addresses(config: &Config, wrong: &mut impl FnMut(&str, String)) {
    struct Taken {
        path: String,
        bind: BindAddr,
        udp: bool,
        listener: bool,
    }
    let other = |path: &str, bind| Taken { path: path.to_owned(), bind, udp: false, listener: false };
    let listeners = config.listeners.iter().enumerate().map(|(index, listener)| Taken {
        path: format!("listeners[{index}].bind"),
        bind: listener.bind,
        udp: listener.type_.uses_udp(),
        listener: true,
    });
    let all = listeners
        .chain([other("http.bind", config.http.bind), other("metrics.bind", config.metrics.bind)])
        .chain(config.cluster.iter().map(|cluster| other("cluster.links.listen", cluster.links.listen)));
    let mut taken: Vec<Taken> = Vec::new();
    for socket in all {
        let clashes = |earlier: &&Taken| {
            // Listeners of MQTT share a port over IPv4 and IPv6.
            let families = earlier.bind.get().is_ipv4() != socket.bind.get().is_ipv4();
            earlier.udp == socket.udp
                && earlier.bind.clashes(socket.bind)
                && !(families && earlier.listener && socket.listener)
        };
        if let Some(earlier) = taken.iter().find(clashes) {
            wrong(&socket.path, format!("{} clashes with {} ({})", socket.bind, earlier.path, earlier.bind));
        }
        taken.push(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_modules() {
        for text in ["", "quinn=warn", "a::b=off, c = DEBUG"] {
            assert_eq!(wrong_modules(text), None, "{text}");
        }
        for (text, why) in [
            ("foo=loud", "\"foo=loud\": \"loud\" is not a level"),
            ("debug", "\"debug\" is not module=level"),
            ("a=info,", "\"\" is not module=level"),
            ("a=info,=info", "\"=info\" has no module's name before ="),
            ("[a]=info", "\"[a]=info\" has no module's name before ="),
            ("a=", "\"a=\": \"\" is not a level"),
        ] {
            let found = wrong_modules(text).unwrap_or_default();
            assert!(found.starts_with(&format!("{why}; allowed is ")), "{text}: {found}");
        }
    }

    #[test]
    fn server_names() {
        for name in ["a", "mqtt.example.org", "*.example.org", "MQTT.example.org", "_a.b"] {
            assert!(is_server_name(name), "{name}");
        }
        for name in ["", "*", "*.*.org", "a..b", "a b", "10.0.0.1:8883", "a.*.org", "mqtts://a"] {
            assert!(!is_server_name(name), "{name}");
        }
    }
}
