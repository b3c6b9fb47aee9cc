//! Settings from a file, the environment and flags, and what their errors say.
#![allow(clippy::unwrap_used)]

use raftmq_config::{
    BindAddr, ByteSize, ClientAuth, Config, DiscoveryStrategy, HumanDuration, ListenerType, LogFormat, LogLevel,
    Origin, ProxyProtocol, TlsVersion,
};

fn load(yaml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let own =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    Config::from_sources(yaml, "node.yaml", own(env).into_iter(), &own(flags))
        .map_err(|error| error.problems().iter().map(ToString::to_string).collect())
}

const CLUSTER: &str = "\
node: { name: raftmq-1, dataDir: /data }
http: { tls: { caFile: /pki/ca.pem, certFile: /pki/node.pem, keyFile: /pki/node.key } }
cluster:
  name: plant
  discovery:
    strategy: static
    static: { peers: ['127.0.0.1:9883', 'raftmq-2.local:9983'] }
  links:
    listen: 127.0.0.1:9983
    tls: { caFile: /pki/ca.pem, certFile: /pki/node.pem, keyFile: /pki/node.key }
";

/// MQTT over TCP is there without a word [MQTT-4.2.0-1] [MQTT311-7.1.1-1].
#[test]
fn nothing_is_a_standalone_node() {
    let config = load("", &[], &[]).unwrap();
    assert_eq!(config, Config::default());
    assert!(config.cluster.is_none());
    let listeners: Vec<_> = config.listeners.iter().map(|l| (l.name.as_str(), l.type_, l.bind.port())).collect();
    assert_eq!(listeners, [("mqtt", ListenerType::Tcp, 1883), ("ws", ListenerType::Ws, 8083)]);
    assert_eq!(config.listeners[1].websocket.as_ref().unwrap().path, "/mqtt");
    assert_eq!(config.http.bind.port(), 18083);
    assert_eq!(config.metrics.bind.port(), 9100);
    config.validate().unwrap();
    assert_eq!(load("# only a comment\n", &[], &[]).unwrap(), config);
    // A section whose lines are all commented out is a section that is not there.
    assert_eq!(load("mqtt:\n#  maxInflight: 1\ncluster:\n", &[], &[]).unwrap(), config);
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.yaml");
    let error = Config::load(Some(&path), std::iter::empty(), &[]).unwrap_err();
    assert!(error.to_string().contains("absent.yaml"), "{error}");
    std::fs::write(&path, "workers: 3\n").unwrap();
    assert_eq!(Config::load(Some(&path), std::iter::empty(), &[]).unwrap().workers, 3);
    std::fs::write(&path, "workers: x\n").unwrap();
    let error = Config::load(Some(&path), std::iter::empty(), &[]).unwrap_err();
    assert!(error.to_string().contains("absent.yaml:1:10: workers:"), "{error}");
}

#[test]
fn later_sources_win() {
    let yaml = "workers: 1\nmqtt: { maxInflight: 10, receiveMaximum: 11 }\nlog: { level: warn }\n";
    let config = load(
        yaml,
        &[
            ("RAFTMQ__MQTT__MAX_INFLIGHT", "20"),
            ("RAFTMQ__mqtt__receivemaximum", "21"),
            ("RAFTMQ__LOG__LEVEL", "debug"),
            ("RAFTMQ_OTHER", "is somebody else's"),
            ("PATH", "/bin"),
        ],
        &[("log.level", "trace"), ("log.format", "json"), ("listeners[0].bind", ":2883")],
    )
    .unwrap();
    assert_eq!(config.workers, 1);
    assert_eq!((config.mqtt.max_inflight, config.mqtt.receive_maximum), (20, 21));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Trace, LogFormat::Json));
    // The default list is what the index means.
    assert_eq!(config.listeners[0].name, "mqtt");
    assert_eq!(config.listeners[0].bind, BindAddr::any(2883));
}

#[test]
fn lists_come_by_index_as_yaml_as_json_and_with_commas() {
    let peers = ["10.0.0.1:9883".to_owned(), "10.0.0.2:9883".to_owned()];
    for text in
        ["10.0.0.1:9883, 10.0.0.2:9883", "['10.0.0.1:9883', '10.0.0.2:9883']", "- 10.0.0.1:9883\n- 10.0.0.2:9883"]
    {
        let config = load(CLUSTER, &[("RAFTMQ__CLUSTER__DISCOVERY__STATIC__PEERS", text)], &[]).unwrap();
        assert_eq!(config.cluster.unwrap().discovery.static_.peers, peers, "{text}");
    }
    let config = load(
        CLUSTER,
        &[
            ("RAFTMQ__CLUSTER__DISCOVERY__STATIC__PEERS__1", "b:2"),
            ("RAFTMQ__CLUSTER__DISCOVERY__STATIC__PEERS", r#"["a:1"]"#),
            ("RAFTMQ__CLUSTER__DISCOVERY__STATIC__PEERS__2", "c:3"),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(config.cluster.unwrap().discovery.static_.peers, ["a:1", "b:2", "c:3"]);
    let config =
        load("", &[("RAFTMQ__LISTENERS", r#"[{"name":"a","bind":":1"},{"name":"b","bind":":2"}]"#)], &[]).unwrap();
    assert_eq!(config.listeners[1].bind, BindAddr::any(2));
}

#[test]
fn a_cluster_can_come_from_the_environment_alone() {
    let tls = "{caFile: /ca, certFile: /crt, keyFile: /key}";
    let config = load(
        "",
        &[
            ("RAFTMQ__CLUSTER__NAME", "plant"),
            ("RAFTMQ__CLUSTER__LINKS__TLS", tls),
            ("RAFTMQ__CLUSTER__LINKS__ADVERTISE", "raftmq-0.raftmq:9883"),
            ("RAFTMQ__HTTP__TLS", tls),
            ("RAFTMQ__CLUSTER__DISCOVERY__STRATEGY", "dns"),
            ("RAFTMQ__CLUSTER__DISCOVERY__DNS__NAME", "raftmq.default.svc.cluster.local"),
            ("RAFTMQ__CLUSTER__DISCOVERY__DNS__SERVERS", "127.0.0.1:53"),
        ],
        &[],
    )
    .unwrap();
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.discovery.strategy, DiscoveryStrategy::Dns);
    assert_eq!(cluster.discovery.dns.unwrap().servers, ["127.0.0.1:53".parse().unwrap()]);
    assert_eq!(cluster.links.advertised(), "raftmq-0.raftmq:9883");
}

#[test]
fn yaml_survives_a_round_trip() {
    let mut config = load(CLUSTER, &[], &[]).unwrap();
    assert_eq!(load(&config.to_yaml(), &[], &[]).unwrap(), config);
    config.listeners[0].max_connections = Some(5);
    config.mqtt.session_expiry_max = HumanDuration::from_secs(90_061);
    config.storage.cache_bytes = ByteSize::kib(1025);
    config.validate().unwrap();
    assert_eq!(load(&config.to_yaml(), &[], &[]).unwrap(), config);
    assert_eq!(load(&Config::default().to_yaml(), &[], &[]).unwrap(), Config::default());
}

/// (settings, environment, flags, what one of the messages must hold)
type Wrong<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a str);

#[test]
fn wrong_settings_are_named_with_their_place_and_what_is_allowed() {
    let cases: &[Wrong<'_>] = &[
        // Unknown names.
        (
            "workers: 1\nmqtt:\n  maxPacketsSize: 1MiB\n",
            &[],
            &[],
            "node.yaml:3:3: mqtt.maxPacketsSize: unknown setting; did you mean \"maxPacketSize\"? (known here: authentication,",
        ),
        ("wrokers: 1\n", &[], &[], "node.yaml:1:1: wrokers: unknown setting; did you mean \"workers\"?"),
        (
            "completely: 1\n",
            &[],
            &[],
            "node.yaml:1:1: completely: unknown setting (known here: cluster, flapping, http, listeners",
        ),
        (
            "listeners:\n- name: a\n  bind: ':1'\n  ssl: {}\n",
            &[],
            &[],
            "node.yaml:4:3: listeners[0].ssl: unknown setting",
        ),
        (
            "",
            &[("RAFTMQ__MQTT__MAX_PACKET", "1")],
            &[],
            "environment variable RAFTMQ__MQTT__MAX_PACKET: mqtt.MAX_PACKET: unknown setting; did you mean \"maxPacketSize\"?",
        ),
        ("", &[("RAFTMQ__", "1")], &[], "environment variable RAFTMQ__: unknown setting"),
        (
            "",
            &[("RAFTMQ__WORKERS__X", "1")],
            &[],
            "environment variable RAFTMQ__WORKERS__X: workers: has no settings inside",
        ),
        ("", &[], &[("log.levle", "info")], "flag log.levle: unknown setting; did you mean \"level\"?"),
        // Types.
        ("workers: many\n", &[], &[], "node.yaml:1:10: workers: expected a whole number, 0 to 64, found \"many\""),
        ("workers: [1]\n", &[], &[], "workers: expected a whole number, 0 to 64, found a list"),
        ("workers: 1.5\n", &[], &[], "node.yaml:1:10: workers: 1.5 is not a whole number"),
        ("node:\n  name: 12\n", &[], &[], "node.yaml:2:9: node.name: expected text, found 12 (put it in quotes)"),
        ("mqtt: 5\n", &[], &[], "node.yaml:1:7: mqtt: expected a map, found 5"),
        ("listeners: {}\n", &[], &[], "listeners: expected a list, found a map"),
        (
            "",
            &[("RAFTMQ__WORKERS", "two")],
            &[],
            "environment variable RAFTMQ__WORKERS: workers: expected a whole number, 0 to 64",
        ),
        ("", &[("RAFTMQ__MQTT", "[")], &[], "environment variable RAFTMQ__MQTT: mqtt: "),
        // Values with a unit.
        (
            "mqtt: { connectTimeout: 10 }\n",
            &[],
            &[],
            "node.yaml:1:25: mqtt.connectTimeout: expected a duration with its unit (ms, s, m, h, d), as 500ms, 2s or 1h30m, found 10",
        ),
        ("mqtt: { connectTimeout: 10sec }\n", &[], &[], "\"10sec\" is not a duration with its unit"),
        ("mqtt: { maxPacketSize: 1MB }\n", &[], &[], "\"1MB\" is not a size with its unit (B, KiB, MiB, GiB, TiB)"),
        ("http: { bind: localhost:80 }\n", &[], &[], "\"localhost:80\" is not an address to bind, as 0.0.0.0:1883"),
        ("metrics: { bind: ':70000' }\n", &[], &[], "\":70000\" is not an address to bind"),
        // Ranges and enumerations.
        ("workers: 65\n", &[], &[], "node.yaml:1:10: workers: 65 is out of range: 0 to 64"),
        ("workers: -1\n", &[], &[], "node.yaml:1:10: workers: -1 is out of range: 0 to 64"),
        ("mqtt: { receiveMaximum: 0 }\n", &[], &[], "mqtt.receiveMaximum: 0 is out of range: 1 to 65535"),
        ("mqtt: { connectTimeout: 1ms }\n", &[], &[], "mqtt.connectTimeout: 1ms is out of range: 100ms to 10m"),
        (
            "storage: { walSegmentBytes: 2GiB }\n",
            &[],
            &[],
            "storage.walSegmentBytes: 2GiB is out of range: 1MiB to 1GiB",
        ),
        (
            "log: { level: loud }\n",
            &[],
            &[],
            "node.yaml:1:15: log.level: \"loud\" is not one of error, warn, info, debug, trace",
        ),
        ("", &[], &[("log.format", "xml")], "flag log.format: \"xml\" is not one of text, json"),
        // Names and combinations.
        (
            "node: { name: Raft_MQ }\n",
            &[],
            &[],
            "node.yaml:1:15: node.name: \"Raft_MQ\" is not a node's name: lower-case letters",
        ),
        (
            "node: { zone: \"a\\nb\" }\n",
            &[],
            &[],
            "node.yaml:1:15: node.zone: \"a\\nb\" is not a zone: text of at most 63 bytes without control characters",
        ),
        ("listeners: []\n", &[], &[], "node.yaml:1:1: listeners: is empty; a broker needs at least one"),
        (
            "listeners:\n- { name: a, bind: ':1883' }\n- { name: a, bind: ':1884' }\n",
            &[],
            &[],
            "node.yaml:3:11: listeners[1].name: \"a\" is already the name of listeners[0]",
        ),
        (
            "listeners:\n- { name: a, bind: ':1883' }\n- { name: b, bind: '127.0.0.1:1883' }\n",
            &[],
            &[],
            "node.yaml:3:20: listeners[1].bind: 127.0.0.1:1883 clashes with listeners[0].bind (0.0.0.0:1883)",
        ),
        ("metrics: { bind: ':18083' }\n", &[], &[], "metrics.bind: 0.0.0.0:18083 clashes with http.bind"),
        (
            "listeners:\n- name: a\n  type: wss\n  bind: ':8084'\n",
            &[],
            &[],
            "node.yaml:2:3: listeners[0].tls: missing: a listener of type wss needs its certFile and keyFile",
        ),
        (
            "listeners:\n- name: a\n  bind: ':8084'\n  tls: {certFile: /c, keyFile: /k}\n",
            &[],
            &[],
            "node.yaml:4:3: listeners[0].tls: is for listeners of type tls, wss and quic, and this one is tcp",
        ),
        (
            "listeners:\n- name: a\n  type: quic\n  bind: ':8084'\n  tls:\n    certFile: /c\n",
            &[],
            &[],
            "node.yaml:5:3: listeners[0].tls.keyFile: missing: it has no default",
        ),
        (
            "listeners:\n- name: a\n  type: tls\n  bind: ':1'\n  tls:\n    certFile: /c\n    keyFile: /k\n    clientAuth: required\n",
            &[],
            &[],
            "node.yaml:5:3: listeners[0].tls.caFile: missing: clients are asked for certificates",
        ),
        (
            "listeners:\n- name: a\n  type: tls\n  bind: ':1'\n  tls:\n    certFile: /c\n    keyFile: /k\n    crlFile: /l\n",
            &[],
            &[],
            "node.yaml:8:14: listeners[0].tls.crlFile: checks nobody: clientAuth is none",
        ),
        (
            "listeners:\n- name: a\n  type: tls\n  bind: ':1'\n  tls:\n    certFile: /c\n    keyFile: /k\n    minVersion: 1.2\n",
            &[],
            &[],
            "node.yaml:8:17: listeners[0].tls.minVersion: expected one of tlsv1.2, tlsv1.3, found 1.2",
        ),
        (
            "listeners:\n- name: a\n  type: tls\n  bind: ':1'\n  tls:\n    certFile: /c\n    keyFile: /k\n    certificates:\n\
             \x20   - {certFile: /c, keyFile: /k, serverNames: [a.test, '*']}\n",
            &[],
            &[],
            "listeners[0].tls.certificates[0].serverNames[1]: \"*\" is not a server name",
        ),
        (
            "listeners:\n- { name: a, bind: ':1', websocket: { path: /x } }\n",
            &[],
            &[],
            "listeners[0].websocket: is for listeners of type ws and wss, and this one is tcp",
        ),
        (
            "listeners:\n- { name: a, bind: ':1', type: ws, websocket: { path: mqtt } }\n",
            &[],
            &[],
            "listeners[0].websocket.path: \"mqtt\" is not a path, as /mqtt",
        ),
        (
            "listeners:\n- { name: a, bind: ':1', type: quic, proxyProtocol: v2, tls: { certFile: /c, keyFile: /k } }\n",
            &[],
            &[],
            "listeners[0].proxyProtocol: is not for listeners of type quic",
        ),
        (
            "listeners:\n- { name: a, bind: ':1', proxyProtocol: v3 }\n",
            &[],
            &[],
            "listeners[0].proxyProtocol: \"v3\" is not one of none, v1, v2, any",
        ),
        (
            "listeners:\n- { name: a, bind: ':1', mountPoint: 'a/#/' }\n",
            &[],
            &[],
            "listeners[0].mountPoint: \"a/#/\" cannot begin topics",
        ),
        (
            "listeners:\n- { name: a, bind: ':1', mountPoint: plant-1 }\n",
            &[],
            &[],
            "listeners[0].mountPoint: \"plant-1\" cannot begin topics: no +, no #, no $ in front, and / at the end, as plant-1/",
        ),
        (
            "listeners:\n- { name: a, bind: ':1', maxPacketSize: 2MiB }\n",
            &[],
            &[],
            "listeners[0].maxPacketSize: 2MiB is more than mqtt.maxPacketSize (1MiB)",
        ),
        (
            "listeners:\n- { name: a, bind: ':1', connectTimeout: 1ms }\n",
            &[],
            &[],
            "listeners[0].connectTimeout: 1ms is out of range: 100ms to 10m",
        ),
        (
            "listeners:\n- { name: a, bind: '[::]:18083' }\n",
            &[],
            &[],
            "http.bind: 0.0.0.0:18083 clashes with listeners[0].bind ([::]:18083)",
        ),
        ("mqtt: { maxKeepAlive: 1500ms }\n", &[], &[], "mqtt.maxKeepAlive: 1s500ms is not a whole number of seconds"),
        // Clusters.
        ("cluster:\n  name: a\n", &[], &[], "node.yaml:1:1: cluster.links: missing: it has no default"),
        (
            "cluster:\n  name: a\n  links:\n    listen: ':9883'\n",
            &[],
            &[],
            "node.yaml:3:3: cluster.links.tls: missing: it has no default",
        ),
        (
            CLUSTER,
            &[("RAFTMQ__CLUSTER__LINKS__LISTEN", ":9883")],
            &[],
            "cluster.links.advertise: missing: 0.0.0.0:9883 is not an address that peers can reach",
        ),
        (
            CLUSTER,
            &[("RAFTMQ__CLUSTER__LINKS__ADVERTISE", "nowhere")],
            &[],
            "environment variable RAFTMQ__CLUSTER__LINKS__ADVERTISE: cluster.links.advertise: \"nowhere\" is not HOST:PORT",
        ),
        (
            CLUSTER,
            &[("RAFTMQ__CLUSTER__DISCOVERY__STRATEGY", "dns")],
            &[],
            "cluster.discovery.dns: missing: the strategy dns needs its name",
        ),
        (
            CLUSTER,
            &[("RAFTMQ__CLUSTER__DISCOVERY__STRATEGY", "k8s")],
            &[],
            "cluster.discovery.k8s: missing: the strategy k8s needs its service",
        ),
        (
            CLUSTER,
            &[("RAFTMQ__CLUSTER__DISCOVERY__STATIC__PEERS__1", "x")],
            &[],
            "environment variable RAFTMQ__CLUSTER__DISCOVERY__STATIC__PEERS__1: cluster.discovery.static.peers[1]: \"x\" is not HOST:PORT",
        ),
        (
            CLUSTER,
            &[("RAFTMQ__CLUSTER__DISCOVERY__STATIC__PEERS__7", "x:1")],
            &[],
            "the list has 2 items; the next index is 2",
        ),
        (
            CLUSTER,
            &[],
            &[("cluster.raft.electionTimeoutMin", "200ms")],
            "200ms is less than three times heartbeatInterval (100ms)",
        ),
        (
            CLUSTER,
            &[],
            &[("cluster.raft.electionTimeoutMax", "400ms")],
            "400ms is not more than electionTimeoutMin (400ms)",
        ),
        (
            CLUSTER,
            &[],
            &[("mqtt.maxPacketSize", "16MiB")],
            "cluster.links.maxFrameBytes: 16MiB cannot hold a packet of mqtt.maxPacketSize (16MiB)",
        ),
        (
            CLUSTER,
            &[],
            &[("http.bind", ":9983")],
            "cluster.links.listen: 127.0.0.1:9983 clashes with http.bind (0.0.0.0:9983)",
        ),
        // What is not YAML, or not one document of it.
        ("workers: 1\n  node: x: y\n", &[], &[], "node.yaml:2:"),
        ("workers: 1\nworkers: 2\n", &[], &[], "node.yaml:2:1: "),
        ("workers: 1\n---\nworkers: 2\n", &[], &[], "a second YAML document"),
        ("- a\n", &[], &[], "node.yaml:1:1: expected a map, found a list"),
    ];
    let mut failed = Vec::new();
    for (yaml, env, flags, expected) in cases {
        match load(yaml, env, flags) {
            Err(messages) if messages.iter().any(|m| m.contains(expected)) => {}
            other => failed.push(format!("{yaml:?} {env:?} {flags:?}\nexpected {expected:?}\ngot {other:#?}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn a_cluster_needs_the_control_api() {
    let yaml = CLUSTER.lines().filter(|l| !l.starts_with("http")).collect::<Vec<_>>().join("\n");
    let messages = load(&yaml, &[], &[]).unwrap_err();
    assert!(messages[0].contains("http.tls: missing"), "{messages:?}");
}

#[test]
fn all_problems_are_told_at_once() {
    let messages = load("workers: x\nlog: { level: y }\nfoo: 1\n", &[("RAFTMQ__BAR", "1")], &[]).unwrap_err();
    assert_eq!(messages.len(), 4, "{messages:#?}");
}

#[test]
fn settings_made_by_a_program_are_checked_too() {
    let mut config = Config { workers: 65, ..Config::default() };
    let error = config.validate().unwrap_err();
    assert_eq!(error.problems()[0].path, "workers");
    assert_eq!(error.problems()[0].origin, Origin::Default);
    config.workers = 1;
    config.listeners[0].type_ = ListenerType::Tls;
    assert!(config.validate().unwrap_err().to_string().contains("listeners[0].tls"));
}

#[test]
fn listeners_of_every_type_side_by_side() {
    let yaml = "
listeners:
- { name: a, bind: ':1883' }
- { name: b, bind: '[::]:1883', proxyProtocol: any, mountPoint: plant-1/, maxPacketSize: 64KiB, connectTimeout: 3s }
- { name: c, bind: '127.0.0.1:8883', type: tls, tls: { certFile: /c, keyFile: /k, minVersion: tlsv1.3 } }
- { name: d, bind: '127.0.0.1:8883', type: quic, tls: { certFile: /c, keyFile: /k } }
- { name: e, bind: '[::]:8083', type: ws }
- name: f
  bind: ':8084'
  type: wss
  maxConnections: 7
  websocket: { path: /other }
  tls:
    certFile: /c
    keyFile: /k
    clientAuth: required
    caFile: /ca
    crlFile: /crl
    certificates:
    - { serverNames: [mqtt.example.org, '*.example.org'], certFile: /c2, keyFile: /k2 }
    - { certFile: /c3, keyFile: /k3 }
";
    let config = load(
        yaml,
        &[("RAFTMQ__LISTENERS__2__TLS__CLIENT_AUTH", "optional"), ("RAFTMQ__LISTENERS__2__TLS__CA_FILE", "/ca")],
        &[],
    )
    .unwrap();
    assert_eq!(load(&config.to_yaml(), &[], &[]).unwrap(), config);
    let all = &config.listeners;
    let dual: Vec<_> = all.iter().map(|listener| listener.takes_ipv4(all)).collect();
    assert_eq!(dual, [true, false, true, true, true, true], "the port of b is that of a on IPv4");
    assert_eq!(all[1].proxy_protocol, ProxyProtocol::Any);
    assert_eq!(all[2].tls.as_ref().unwrap().client_auth, ClientAuth::Optional);
    assert_eq!(all[2].tls.as_ref().unwrap().min_version, TlsVersion::Tls13);
    assert_eq!(all[5].tls.as_ref().unwrap().certificates[0].server_names, ["mqtt.example.org", "*.example.org"]);
}
