//! `MqttCluster` files, good and bad.
#![allow(clippy::unwrap_used)]

use raftmq_crds::{MqttCluster, MqttClusterSpec, ParseError, Retention, ServiceType, warnings};

fn messages(yaml: &str) -> Vec<String> {
    match MqttCluster::from_yaml(yaml, "c.yaml") {
        Ok(cluster) => panic!("accepted {cluster:?}"),
        Err(ParseError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
    }
}

/// A resource named `a` whose spec is the given lines; they begin at line 5.
fn with_spec(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: raftmq.io/v1alpha1\nkind: MqttCluster\nmetadata: {{ name: a }}\nspec:\n{spec}")
}

#[test]
fn the_least_resource_has_the_defaults() {
    let cluster = MqttCluster::from_yaml(
        "apiVersion: raftmq.io/v1alpha1\nkind: MqttCluster\nmetadata: {name: a}\nspec: {}\n",
        "c.yaml",
    )
    .unwrap();
    assert_eq!(cluster.spec, MqttClusterSpec::default());
    assert_eq!(cluster.spec.replicas, 3);
    assert_eq!(cluster.spec.storage.size, "8Gi");
    assert_eq!(cluster.spec.storage.retention, Retention::Retain);
    assert_eq!(cluster.spec.listeners[0].port, 1883);
    assert_eq!(cluster.spec.listeners[0].service.type_, ServiceType::ClusterIp);
}

/// Whether a comment is a setting and not a sentence: `name:` or an item of a list.
fn is_setting(comment: &str) -> bool {
    let comment = comment.trim_start();
    comment.starts_with("- ")
        || comment
            .split_once(':')
            .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic()))
}

#[test]
fn the_sample_is_a_good_resource() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples/mqttcluster.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let cluster = MqttCluster::from_yaml(&text, "mqttcluster.yaml").unwrap();
    assert_eq!(cluster.metadata.name.as_deref(), Some("raftmq"));
    assert_eq!(cluster.spec.replicas, 3);
    assert!(warnings(&cluster.spec).is_empty());
    // What is commented out is right as well: each line without its mark.
    let commented: String = text
        .lines()
        .map(|line| match line.split_once("# ") {
            Some((indent, rest)) if !indent.is_empty() && indent.trim().is_empty() && is_setting(rest) => {
                format!("{indent}{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let cluster = MqttCluster::from_yaml(&commented, "mqttcluster.yaml").unwrap_or_else(|e| panic!("{e}\n{commented}"));
    let config = cluster.spec.config.unwrap();
    assert_eq!(config.mqtt.unwrap(), raftmq_config::Mqtt::default(), "the sample shows the defaults");
    assert_eq!(config.storage.unwrap(), raftmq_config::Storage::default());
    assert_eq!(config.raft.unwrap(), raftmq_config::Raft::default());
    assert!(cluster.spec.resources.is_some());
    assert_eq!(cluster.spec.pod_template.unwrap().env[0].name, "TZ");
}

#[test]
fn other_documents_are_left_out() {
    let yaml = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: mqtt }}\n---\n# nothing\n---\n{}",
        with_spec("replicas: 5")
    );
    assert_eq!(MqttCluster::from_yaml(&yaml, "c.yaml").unwrap().spec.replicas, 5);
    let two = format!("{}---\n{}", with_spec("{}"), with_spec("{}"));
    assert_eq!(MqttCluster::all_from_yaml(&two, "c.yaml").unwrap().len(), 2);
    assert_eq!(messages(&two), ["c.yaml: holds 2 MqttClusters (a, a); leave one in the file"]);
    assert!(
        messages("apiVersion: v1\nkind: Pod\n")[0]
            .contains("holds no MqttCluster; it needs a document with apiVersion: raftmq.io/v1alpha1")
    );
    assert!(messages("")[0].contains("holds no MqttCluster"));
}

#[test]
fn what_kubectl_prints_can_be_read_back() {
    let yaml = "\
apiVersion: raftmq.io/v1alpha1
kind: MqttCluster
metadata:
  name: a
  namespace: mqtt
  generation: 2
  creationTimestamp: 2026-01-01T00:00:00Z
  labels: { app.kubernetes.io/part-of: plant }
spec:
  resources: { requests: { cpu: 1, memory: 256Mi } }
  podTemplate:
    tolerations: [{ key: k, operator: Exists, tolerationSeconds: 5 }]
    nodeSelector: { kubernetes.io/arch: amd64 }
    affinity:
      podAntiAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector: { matchLabels: { app.kubernetes.io/instance: a } }
status:
  replicas: 3
  leader: a-0
  conditions:
  - { type: Available, status: 'True', reason: Serving, message: '', lastTransitionTime: '2026-01-01T00:00:00Z' }
";
    let cluster = MqttCluster::from_yaml(yaml, "c.yaml").unwrap();
    assert_eq!(cluster.status.unwrap().leader.as_deref(), Some("a-0"));
    let resources = cluster.spec.resources.unwrap();
    assert_eq!(resources.requests.unwrap()["memory"].0, "256Mi");
}

#[test]
fn bad_resources_are_named_by_setting_and_line() {
    let long = "a".repeat(41);
    let cases: Vec<(String, &str)> = vec![
        (
            with_spec("replica: 3"),
            "c.yaml:5:3: spec.replica: unknown setting; did you mean \"replicas\"? (known here: config, discovery,",
        ),
        (with_spec("replicas: 0"), "c.yaml:5:13: spec.replicas: 0 is out of range: 1 to 65535"),
        (
            with_spec("replicas: three"),
            "c.yaml:5:13: spec.replicas: expected a whole number, 1 to 65535, found \"three\"",
        ),
        (with_spec("storage:\n  size: 8 GB"), "c.yaml:6:11: spec.storage.size: \"8 GB\" is not a size, as 8Gi"),
        (
            with_spec("storage:\n  retention: Keep"),
            "c.yaml:6:16: spec.storage.retention: \"Keep\" is not one of Retain, Delete",
        ),
        (with_spec("listeners: []"), "c.yaml:5:3: spec.listeners: is empty"),
        (with_spec("listeners:\n- name: a"), "c.yaml:6:5: spec.listeners[0].port: missing: it has no default"),
        (
            with_spec("listeners:\n- { name: a, port: 1 }\n- { name: a, port: 2 }"),
            "c.yaml:7:13: spec.listeners[1].name: \"a\" is already the name of spec.listeners[0]; rename one",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 1 }\n- { name: b, port: 1 }"),
            "c.yaml:7:22: spec.listeners[1].port: 1 is already the port of spec.listeners[0]",
        ),
        (with_spec("listeners:\n- { name: a, port: 18083 }"), "spec.listeners[0].port: 18083 is taken"),
        (
            with_spec("listeners:\n- { name: a, port: 9100 }"),
            "spec.listeners[0].port: 9100 is the port of spec.metrics.port",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 1, type: sctp }"),
            "spec.listeners[0].type: \"sctp\" is not one of tcp, tls, ws, wss, quic",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 8883, type: tls }"),
            "spec.listeners[0].tls: missing: a listener of type tls, wss or quic needs tls.secretName",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 1, tls: { secretName: b } }"),
            "spec.listeners[0].tls: is for listeners of type tls, wss and quic",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 8883, type: tls, tls: { secretName: b, crlSecretName: c } }"),
            "spec.listeners[0].tls.clientAuth: none: caSecretName and crlSecretName check nobody",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 8883, type: quic, proxyProtocol: v1, tls: { secretName: b } }"),
            "spec.listeners[0].proxyProtocol: is not for listeners of type quic",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 8083, websocket: { path: /x } }"),
            "c.yaml:6:28: spec.listeners[0].websocket: is for listeners of type ws and wss",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 8083, type: ws, websocket: { path: x } }"),
            "spec.listeners[0].websocket.path: \"x\" is not a path",
        ),
        (
            with_spec("listeners:\n- { name: UPPER, port: 1 }"),
            "spec.listeners[0].name: \"UPPER\" is not a listener's name",
        ),
        (
            with_spec("listeners:\n- { name: a, port: 1, service: { nodePort: 30000 } }"),
            "spec.listeners[0].service.nodePort: needs service.type NodePort",
        ),
        (with_spec("metrics: { port: 9883 }"), "spec.metrics.port: 9883 is taken"),
        (
            with_spec("config:\n  mqtt:\n    maxInflights: 1"),
            "c.yaml:7:7: spec.config.mqtt.maxInflights: unknown setting; did you mean \"maxInflight\"?",
        ),
        (
            with_spec("config:\n  mqtt: { connectTimeout: 5 }"),
            "spec.config.mqtt.connectTimeout: expected a duration with its unit",
        ),
        (
            with_spec("config:\n  mqtt: { maxPacketSize: 1GiB }"),
            "spec.config.mqtt.maxPacketSize: 1GiB is out of range: 1KiB to 256MiB",
        ),
        (
            with_spec("config:\n  raft: { electionTimeoutMin: 200ms }"),
            "c.yaml:6:33: spec.config.raft.electionTimeoutMin: 200ms is less than three times",
        ),
        (with_spec("config: { cluster: {} }"), "spec.config.cluster: unknown setting"),
        (
            with_spec("podTemplate:\n  env:\n  - { name: RAFTMQ__WORKERS, value: '1' }"),
            "c.yaml:7:15: spec.podTemplate.env[0].name: RAFTMQ__WORKERS is a setting of the broker; write it in spec.config",
        ),
        (
            with_spec("podTemplate:\n  env:\n  - { name: RAFTMQ_CTL_CA, value: x }"),
            "spec.podTemplate.env[0].name: RAFTMQ_CTL_CA is set by the operator",
        ),
        (
            with_spec("podTemplate:\n  env:\n  - { name: A, value: x }\n  - { name: B }\n  - { name: A }"),
            "spec.podTemplate.env[2].name: A is already the name of spec.podTemplate.env[0]; remove one",
        ),
        (
            with_spec("podTemplate:\n  labels: { app.kubernetes.io/name: x }"),
            "c.yaml:6:39: spec.podTemplate.labels.app.kubernetes.io/name: selects the pods",
        ),
        (
            with_spec("podTemplate:\n  tolerations: [{ effects: NoSchedule }]"),
            "spec.podTemplate.tolerations[0].effects: unknown setting; did you mean \"effect\"?",
        ),
        (with_spec("discovery: { strategy: static }"), "spec.discovery.strategy: \"static\" is not one of k8s, dns"),
        (
            with_spec("{}").replace("v1alpha1", "v1"),
            "c.yaml:1:13: apiVersion: \"raftmq.io/v1\" is not known; write raftmq.io/v1alpha1",
        ),
        (
            with_spec("{}").replace("MqttCluster", "MQTTCluster"),
            "c.yaml:2:7: kind: a resource of raftmq.io has apiVersion",
        ),
        (
            with_spec("{}").replace("apiVersion", "apiversion"),
            "c.yaml:1:1: apiVersion: missing; write raftmq.io/v1alpha1",
        ),
        (
            with_spec("{}").replace("name: a", "name: a.b"),
            "c.yaml:3:19: metadata.name: \"a.b\": use lower-case letters, digits and hyphens",
        ),
        (with_spec("{}").replace("name: a", "name: 1a"), "metadata.name: \"1a\": use lower-case letters"),
        (with_spec("{}").replace("name: a", &format!("name: {long}")), "has more than 40 characters"),
        (with_spec("{}").replace("name: a", ""), "metadata.name: missing"),
        ("apiVersion: raftmq.io/v1alpha1\nkind: MqttCluster\nmetadata: { name: a }\n".into(), "spec: missing"),
        (with_spec("replicas: 3\n replicas: 4"), "c.yaml:"),
        (with_spec("replicas: 3\nreplicas: 4"), "c.yaml:6:3: "),
        ("- 1\n".into(), "expected a resource with apiVersion and kind, found a list"),
    ];
    let mut failed = Vec::new();
    for (yaml, expected) in cases {
        let messages = messages(&yaml);
        if !messages.iter().any(|m| m.contains(expected)) {
            failed.push(format!("{yaml}\nexpected {expected:?}\ngot {messages:#?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn amounts_of_resources_are_quantities() {
    let with = |quantity: &str| with_spec(&format!("resources:\n  limits: {{ memory: {quantity:?} }}"));
    for good in ["1", "500m", "1.5Gi", "1e3", "2E", "1Ei", "12E-3", ".5", "1."] {
        assert!(MqttCluster::from_yaml(&with(good), "c.yaml").is_ok(), "{good}");
    }
    for bad in ["1G1", "Gi", "1 Gi", "1gb", "1.2.3", "-1", "1e", "."] {
        let found = messages(&with(bad)).join("; ");
        let expected = format!("spec.resources.limits.memory: {bad:?} is not a quantity, as 500m or 1Gi");
        assert!(found.contains(&expected), "{bad}: {found}");
    }
}
