//! Checks that a type or a range cannot make: names, addresses, combinations.

use crate::{BindAddr, Cluster, Config, Discovery, DiscoveryStrategy};

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
    for (path, duration) in [
        ("mqtt.sessionExpiryMax", config.mqtt.session_expiry_max),
        ("mqtt.maxKeepAlive", config.mqtt.max_keep_alive),
        ("mqtt.delayed.maxDelay", config.mqtt.delayed.max_delay),
    ] {
        if duration.as_millis() % 1000 != 0 {
            wrong(path, format!("{duration} is not a whole number of seconds, which is what MQTT counts in"));
        }
    }
    found
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
        if !listener.type_.is_available() {
            let message = format!("{:?} is not available yet: this version has tcp", listener.type_.as_str());
            wrong(&at("type"), message);
        }
    }
}

/// Two sockets on one address and port: the later one is named.
fn check_addresses(config: &Config, wrong: &mut impl FnMut(&str, String)) {
    let mut taken: Vec<(String, BindAddr)> = Vec::new();
    let listeners = config.listeners.iter().enumerate();
    let all = listeners
        .map(|(index, l)| (format!("listeners[{index}].bind"), l.bind))
        .chain([("http.bind".into(), config.http.bind), ("metrics.bind".into(), config.metrics.bind)])
        .chain(config.cluster.iter().map(|c| ("cluster.links.listen".into(), c.links.listen)));
    for (path, bind) in all {
        if let Some((other, at)) = taken.iter().find(|(_, at)| at.clashes(bind)) {
            wrong(&path, format!("{bind} clashes with {other} ({at})"));
        }
        taken.push((path, bind));
    }
}
