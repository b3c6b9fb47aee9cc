//! From `MqttCluster` to the settings of its nodes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use raftmq_config::{Config, DiscoveryStrategy};
use raftmq_crds::{
    LocalPorts, MqttCluster, MqttClusterSpec, NodePlacement, PortPlan, StorageSpec, TranslateError, broker_config,
    warning_condition, warnings,
};

fn cluster(spec: &str) -> MqttCluster {
    let yaml =
        format!("apiVersion: raftmq.io/v1alpha1\nkind: MqttCluster\nmetadata: {{ name: plant }}\nspec: {spec}\n");
    MqttCluster::from_yaml(&yaml, "c.yaml").unwrap()
}

fn ports(cluster: &MqttCluster) -> Vec<LocalPorts> {
    PortPlan::of(&cluster.spec).nodes(cluster.spec.replicas.into()).unwrap()
}

#[test]
fn a_local_node_of_three() {
    let cluster = cluster("{ config: { workers: 2, log: { level: debug }, mqtt: { maxInflight: 7 } } }");
    let placement = NodePlacement::local(&cluster, 1, &ports(&cluster), Path::new(".raftmq")).unwrap();
    let yaml = broker_config(&cluster, &placement).unwrap().to_yaml();
    let expected = "\
node:
  name: plant-1
  dataDir: .raftmq/plant-1/data
cluster:
  name: plant
  discovery:
    strategy: static
    static:
      peers:
      - 127.0.0.1:9883
      - 127.0.0.1:9983
      - 127.0.0.1:10083
    refreshInterval: 5s
  links:
    listen: 127.0.0.1:9983
    advertise: 127.0.0.1:9983
    tls:
      caFile: .raftmq/plant-1/pki/ca.pem
      certFile: .raftmq/plant-1/pki/node.pem
      keyFile: .raftmq/plant-1/pki/node.key
    queueBytes: 16MiB
    maxFrameBytes: 16MiB
    connectTimeout: 3s
  raft:
    heartbeatInterval: 100ms
    electionTimeoutMin: 400ms
    electionTimeoutMax: 600ms
    snapshotBytes: 16MiB
  shards:
    count: 16
    replication: 3
listeners:
- name: mqtt
  type: tcp
  bind: 127.0.0.1:2883
workers: 2
http:
  bind: 127.0.0.1:28083
  tls:
    caFile: .raftmq/plant-1/pki/ca.pem
    certFile: .raftmq/plant-1/pki/node.pem
    keyFile: .raftmq/plant-1/pki/node.key
metrics:
  bind: 127.0.0.1:9200
mqtt:
  maxPacketSize: 1MiB
  receiveMaximum: 1024
  maxInflight: 7
  maxQueuedMessages: 1000
  maxQueuedBytes: 16MiB
  queueFull: dropNewest
  maxOutboundBytes: 1MiB
  slowConsumerQos0: drop
  slowConsumerQos1: queue
  sessionExpiryMin: 0s
  sessionExpiryMax: 7d
  messageExpiryMax: 0s
  connectTimeout: 10s
  minKeepAlive: 0s
  maxKeepAlive: 0s
  maxClientIdLength: 1024
  maxTopicLevels: 128
  maxTopicLength: 65535
  maxSubscriptions: 10000
  maxUserProperties: 1000
  messageRate: 0
  messageBurst: 0
  byteRate: 0B
  byteBurst: 0B
  maxQos: 2
  wildcardSubscriptions: true
  subscriptionIdentifiers: true
  maxTopicAliases: 32
  maxTopicAliasesOut: 32
  queueQos0Offline: false
  checkPayloadFormat: false
  responseInformation:\x20
  overlapping: merge
  retained:
    enabled: true
    maxMessages: 1000000
    maxBytes: 1GiB
    maxPayloadSize: 1MiB
  sharedSubscription:
    enabled: true
    strategy: roundRobin
    acknowledgeTimeout: 30s
  delayed:
    enabled: true
    maxDelay: 49d17h2m47s
    maxMessages: 1000000
    maxBytes: 256MiB
  will:
    maxWaiting: 1000000
    maxBytes: 256MiB
  exclusive:
    enabled: true
    maxSubscriptions: 1000000
  rewrite: []
  autoSubscribe: []
  events:
    connected: true
    disconnected: true
    subscribed: true
    unsubscribed: true
    qos: 1
  sys:
    enabled: true
    interval: 1m
    heartbeatInterval: 30s
    mosquitto: false
    mosquittoInterval: 10s
    retain: true
  authentication:
    testMethod: false
flapping:
  enable: false
  maxCount: 15
  window: 1m
  banTime: 5m
overload:
  memoryLimit: 0B
  memoryRefuse: 80
  memoryShed: 90
  loopDelayRefuse: 1s
  loopDelayShed: 5s
  recovery: 5s
storage:
  walSegmentBytes: 64MiB
  ballastBytes: 16MiB
  cacheBytes: 32MiB
log:
  level: debug
  modules:\x20
  format: text
";
    assert_eq!(yaml.replace("'", "").replace('"', ""), expected, "{yaml}");
    // The file that `up` writes is read back as the same settings.
    let read = Config::from_sources(&yaml, "node.yaml", std::iter::empty(), &[]).unwrap();
    assert_eq!(read, broker_config(&cluster, &placement).unwrap());
}

#[test]
fn a_pod_differs_in_its_place_only() {
    let cluster = cluster("{ metrics: { port: 9400 } }");
    let local = NodePlacement::local(&cluster, 0, &ports(&cluster), Path::new("/d")).unwrap();
    let local = broker_config(&cluster, &local).unwrap();
    let pod = NodePlacement::pod(&cluster, 2, "mqtt").unwrap();
    let config = broker_config(&cluster, &pod).unwrap();
    assert_eq!(config.node.name, "plant-2");
    assert_eq!(config.node.data_dir, Path::new("/var/lib/raftmq"));
    assert_eq!(config.metrics.bind.to_string(), "0.0.0.0:9400");
    assert_eq!(config.listeners[0].bind.to_string(), "0.0.0.0:1883");
    let links = config.cluster.as_ref().unwrap();
    assert_eq!(links.links.advertised(), "plant-2.plant-links.mqtt.svc.cluster.local:9883");
    assert_eq!(links.discovery.strategy, DiscoveryStrategy::K8s);
    assert_eq!(links.discovery.k8s.as_ref().unwrap().service, "plant-links");
    assert_eq!(links.links.tls.key_file, Path::new("/etc/raftmq/pki/tls.key"));
    assert_eq!((config.mqtt, config.storage, config.log), (local.mqtt, local.storage, local.log));
}

#[test]
fn dns_discovery_asks_for_the_service_records() {
    let cluster = cluster("{ discovery: { strategy: dns, clusterDomain: k.example } }");
    let config = broker_config(&cluster, &NodePlacement::pod(&cluster, 0, "ns").unwrap()).unwrap();
    let links = config.cluster.unwrap();
    assert_eq!(links.discovery.dns.unwrap().name, "_links._tcp.plant-links.ns.svc.k.example");
    assert_eq!(links.links.advertise.as_deref(), Some("plant-0.plant-links.ns.svc.k.example:9883"));
}

#[test]
fn links_hold_the_largest_packet() {
    let cluster = cluster("{ config: { mqtt: { maxPacketSize: 256MiB } } }");
    let config = broker_config(&cluster, &NodePlacement::pod(&cluster, 0, "ns").unwrap()).unwrap();
    let links = config.cluster.unwrap().links;
    assert!(links.max_frame_bytes > config.mqtt.max_packet_size);
    assert!(links.queue_bytes >= links.max_frame_bytes);
}

#[test]
fn ports_of_local_nodes() {
    let spec = MqttClusterSpec::default();
    let mut nodes = PortPlan::of(&spec).nodes(7).unwrap();
    let fixed: Vec<_> = nodes.iter().map(|n| (n.listeners[0], n.http, n.metrics, n.links)).collect();
    let some = |mqtt, http, metrics, links| (Some(mqtt), Some(http), Some(metrics), Some(links));
    assert_eq!(
        fixed,
        [
            some(1883, 18083, 9100, 9883),
            some(2883, 28083, 9200, 9983),
            some(3883, 38083, 9300, 10083),
            some(4883, 48083, 9400, 10183),
            some(5883, 58083, 9500, 10283),
            (None, None, None, None),
            (None, None, None, None),
        ]
    );
    let cluster = cluster("{ replicas: 7 }");
    let error = NodePlacement::local(&cluster, 6, &nodes, Path::new("/d")).unwrap_err();
    assert!(matches!(error, TranslateError::PortNotPicked { ordinal: 6, .. }), "{error}");
    let mut next = 40_000;
    for node in &mut nodes {
        node.fill(|| {
            next += 1;
            Ok::<_, ()>(next)
        })
        .unwrap();
    }
    let placement = NodePlacement::local(&cluster, 6, &nodes, Path::new("/d")).unwrap();
    let config = broker_config(&cluster, &placement).unwrap();
    assert_eq!(config.cluster.unwrap().discovery.static_.peers.len(), 7);
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:40005");
}

#[test]
fn ports_that_clash_are_named() {
    let cluster = cluster("{ listeners: [{ name: a, port: 1883 }, { name: b, port: 2883 }] }");
    let error = PortPlan::of(&cluster.spec).nodes(2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 2883 is wanted by node 0 listener 1 and by node 1 listener 0; give one of them another port"
    );
    // What would meet the links of some node is a free port, but for what the spec itself says.
    let cluster = self::cluster("{ listeners: [{ name: a, port: 8883 }, { name: b, port: 8083 }] }");
    let nodes = PortPlan::of(&cluster.spec).nodes(3).unwrap();
    let listeners: Vec<_> = nodes.iter().map(|node| node.listeners.clone()).collect();
    assert_eq!(listeners, [[Some(8883), Some(8083)], [None, Some(9083)], [Some(10_883), None]]);
    let cluster = self::cluster("{ listeners: [{ name: a, port: 9983 }] }");
    assert!(PortPlan::of(&cluster.spec).nodes(2).unwrap_err().to_string().starts_with("port 9983 is wanted by node 0"));
    // Beyond 65535 there is no fixed port.
    let plan = PortPlan { http: 60_000, ..PortPlan::of(&cluster.spec) };
    assert_eq!(plan.nodes(1).unwrap()[0].http, Some(60_000));
    let plan = PortPlan { listeners: vec![64_000, 0], ..plan };
    let nodes = plan.nodes(3).unwrap();
    assert_eq!((nodes[1].http, &nodes[1].listeners), (None, &vec![Some(65_000), None]));
    assert_eq!(nodes[2].listeners, [None, None]);
}

#[test]
fn a_placement_must_fit_the_spec() {
    let cluster = cluster("{}");
    let mut placement = NodePlacement::pod(&cluster, 0, "ns").unwrap();
    placement.listener_ports.clear();
    let error = broker_config(&cluster, &placement).unwrap_err();
    assert!(error.to_string().contains("0 listener ports, the spec 1 listeners"), "{error}");
    let nameless = MqttCluster { metadata: Default::default(), ..cluster.clone() };
    assert!(matches!(NodePlacement::pod(&nameless, 0, "ns"), Err(TranslateError::NoName)));
    // What the broker refuses is told by the name that the resource has for it.
    let mut bad = cluster.clone();
    bad.spec.listeners[0].max_packet_size = Some(raftmq_config::ByteSize::mib(2));
    let error = broker_config(&bad, &NodePlacement::pod(&bad, 0, "ns").unwrap()).unwrap_err();
    assert!(error.to_string().contains("spec.listeners[0].maxPacketSize: 2MiB is more than"), "{error}");
}

#[test]
fn listeners_have_what_the_spec_says_and_their_secrets_as_files() {
    let cluster = cluster(
        "
  listeners:
  - { name: mqtt, port: 1883, proxyProtocol: v2, mountPoint: a/, maxPacketSize: 64KiB, connectTimeout: 3s, maxConnections: 9, rates: { connections: 50, bytes: 1MiB } }
  - { name: ws, port: 8083, type: ws, websocket: { path: /other } }
  - { name: quic, port: 14567, type: quic, tls: { secretName: one, clientAuth: optional } }
  - name: mqtts
    port: 8883
    type: tls
    tls:
      secretName: one
      certificates: [{ secretName: two, serverNames: [two.example.org] }]
      clientAuth: required
      caSecretName: clients
      crlSecretName: revoked
      minVersion: tlsv1.3
",
    );
    let config = broker_config(&cluster, &NodePlacement::pod(&cluster, 0, "ns").unwrap()).unwrap();
    let yaml = serde_json::to_value(&config.listeners).unwrap();
    let file = |name: &str| format!("/etc/raftmq/secrets/{name}");
    assert_eq!(
        yaml,
        serde_json::json!([
            { "name": "mqtt", "type": "tcp", "bind": "0.0.0.0:1883", "proxyProtocol": "v2", "mountPoint": "a/",
              "maxPacketSize": "64KiB", "connectTimeout": "3s", "maxConnections": 9,
              "rates": { "connections": 50, "bytes": "1MiB" } },
            { "name": "ws", "type": "ws", "bind": "0.0.0.0:8083", "websocket": { "path": "/other" } },
            { "name": "quic", "type": "quic", "bind": "0.0.0.0:14567", "tls": {
                "certFile": file("one/tls.crt"), "keyFile": file("one/tls.key"), "clientAuth": "optional",
                "caFile": file("one/ca.crt"), "minVersion": "tlsv1.2" } },
            { "name": "mqtts", "type": "tls", "bind": "0.0.0.0:8883", "tls": {
                "certFile": file("one/tls.crt"), "keyFile": file("one/tls.key"), "clientAuth": "required",
                "caFile": file("clients/ca.crt"), "crlFile": file("revoked/ca.crl"), "minVersion": "tlsv1.3",
                "certificates": [{ "serverNames": ["two.example.org"], "certFile": file("two/tls.crt"),
                                   "keyFile": file("two/tls.key") }] } },
        ])
    );
    let tls = cluster.spec.listeners[3].tls.as_ref().unwrap();
    assert_eq!(tls.secrets().collect::<Vec<_>>(), ["one", "two", "clients", "revoked"]);
    let ports = PortPlan::of(&cluster.spec).nodes(1).unwrap();
    let local = NodePlacement::local(&cluster, 0, &ports, Path::new("/d")).unwrap();
    let config = broker_config(&cluster, &local).unwrap();
    assert_eq!(config.listeners[3].tls.as_ref().unwrap().cert_file, Path::new("/d/secrets/one/tls.crt"));
}

#[test]
fn two_nodes_are_warned_of() {
    let now = || Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    for (spec, reasons) in [
        ("{ replicas: 1 }", &[][..]),
        ("{ replicas: 2 }", &["TwoNodes"]),
        ("{ replicas: 3 }", &[]),
        ("{ replicas: 4 }", &[]),
        ("{ storage: { size: 100Mi } }", &["SmallVolume"]),
        ("{ storage: { size: 100Mi }, config: { storage: { walSegmentBytes: 8MiB } } }", &[]),
    ] {
        let spec = cluster(spec).spec;
        let found: Vec<_> = warnings(&spec).iter().map(|w| w.reason).collect();
        assert_eq!(found, reasons);
        let condition = warning_condition(&spec, Some(4), now());
        assert_eq!(condition.status, if reasons.is_empty() { "False" } else { "True" });
        assert_eq!(condition.observed_generation, Some(4));
        assert!(!condition.reason.is_empty());
    }
}

#[test]
fn sizes_of_volumes() {
    for (size, bytes) in [
        ("8Gi", Some(8 << 30)),
        ("1.5Ki", Some(1536)),
        ("10G", Some(10_000_000_000)),
        ("500", Some(500)),
        ("1k", Some(1000)),
        ("", None),
        ("Gi", None),
        ("-1Gi", None),
        ("1e3", None),
        ("1.Gi", None),
        ("8 Gi", None),
        ("inf", None),
    ] {
        let storage = StorageSpec { size: size.into(), ..StorageSpec::default() };
        assert_eq!(storage.bytes(), bytes, "{size:?}");
    }
}
