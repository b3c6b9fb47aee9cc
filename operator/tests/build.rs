//! Each builder against a file of the YAML that it should give. `RAFTMQ_UPDATE=1 cargo test -p raftmq-operator --test build`
//! writes the files; the change is reviewed as text.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use raftmq_config::Config;
use raftmq_crds::{MqttCluster, NodePlacement, broker_config};
use raftmq_operator::build::{
    self, Inputs, Object, OwnedKind, Pem, ValidatedCluster, client_services, config_map, disruption_budget, endpoints,
    links_service, ordinal, role, role_binding, secret, service_account, stateful_set,
};
use raftmq_operator::controller::validate::validate;
use serde::Serialize;

const SMALL: &str = "
apiVersion: raftmq.io/v1alpha1
kind: MqttCluster
metadata: { name: demo, namespace: mq, uid: 7a5b, generation: 4 }
spec: {}
";

const LARGE: &str = "
apiVersion: raftmq.io/v1alpha1
kind: MqttCluster
metadata: { name: prod, namespace: mq, uid: 7a5b }
spec:
  image: registry.example.org/raftmq:1.2.3
  replicas: 5
  storage: { size: 50Gi, storageClassName: fast, retention: Delete }
  resources:
    requests: { cpu: 500m, memory: 256Mi }
    limits: { memory: 1Gi }
  listeners:
    - { name: mqtt, port: 1883 }
    - { name: outside, port: 1884, service: { type: LoadBalancer, loadBalancerClass: lb, annotations: { a.example.org/b: c } } }
    - { name: metrics, port: 1885 }
    - { name: fixed, port: 1886, service: { type: NodePort, nodePort: 31886 } }
    - { name: links, port: 1887, service: { type: NodePort } }
    - name: mqtts
      port: 8883
      type: tls
      tls: { secretName: server.cert, clientAuth: required, caSecretName: devices, crlSecretName: devices }
    - { name: quic, port: 14567, type: quic, tls: { secretName: server.cert } }
    - { name: wss, port: 8084, type: wss, tls: { secretName: other, certificates: [{ secretName: server.cert }] } }
  metrics: { port: 9200 }
  discovery: { strategy: dns, clusterDomain: k8s.example.org }
  podTemplate:
    labels: { team: blue }
    annotations: { note: hello }
    nodeSelector: { disk: ssd }
    tolerations: [{ key: dedicated, operator: Exists }]
    affinity: { nodeAffinity: {} }
    topologySpreadConstraints: [{ maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule }]
    priorityClassName: important
    imagePullSecrets: [{ name: registry }]
    env: [{ name: TZ, value: UTC }]
  config:
    workers: 2
    log: { level: warn, format: json }
";

fn parsed(yaml: &str) -> MqttCluster {
    MqttCluster::from_yaml(yaml, "test").unwrap()
}

fn valid(yaml: &str) -> ValidatedCluster {
    validate(&parsed(yaml), "ghcr.io/raftmq/raftmq:test").unwrap()
}

fn inputs() -> Inputs {
    Inputs { replicas: 3, certificates: "c0ffee".into(), claim_size: None }
}

/// Compares with `tests/expected/NAME.yaml`.
fn expect<T: Serialize>(name: &str, objects: &[T]) {
    let documents: Vec<String> = objects
        .iter()
        .map(|object| {
            let mut json = serde_json::to_value(object).unwrap();
            json.sort_all_objects();
            serde_saphyr::to_string(&json).unwrap()
        })
        .collect();
    let text = documents.join("---\n");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/expected/{name}.yaml"));
    if std::env::var_os("RAFTMQ_UPDATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert!(expected == text, "{name}: expected\n{expected}\nfound\n{text}");
}

#[test]
fn stateful_sets() {
    expect("stateful_set", &[stateful_set(&valid(SMALL), &inputs())]);
    expect("stateful_set_large", &[stateful_set(&valid(LARGE), &inputs())]);
}

#[test]
fn low_ports_are_allowed_in_the_pods_network() {
    let sysctls = |yaml: &str| {
        let set = serde_json::to_value(stateful_set(&valid(yaml), &inputs())).unwrap();
        set.pointer("/spec/template/spec/securityContext/sysctls").cloned()
    };
    assert_eq!(sysctls(SMALL), None);
    let low = |ports: &str| sysctls(&SMALL.replace("spec: {}", &format!("spec:\n{ports}")));
    let start =
        |port: &str| Some(serde_json::json!([{ "name": "net.ipv4.ip_unprivileged_port_start", "value": port }]));
    assert_eq!(
        low("  listeners: [{name: mqtt, port: 1883}, {name: ws, type: ws, port: 80}, {name: x, port: 443}]\n"),
        start("80")
    );
    assert_eq!(low("  metrics: {port: 1023}\n"), start("1023"));
    assert_eq!(low("  metrics: {port: 1024}\n"), None);
}

#[test]
fn services() {
    expect("links_service", &[links_service(&valid(SMALL))]);
    expect("client_services", &client_services(&valid(SMALL)));
    expect("client_services_large", &client_services(&valid(LARGE)));
}

#[test]
fn access_and_settings() {
    expect("service_account", &[service_account(&valid(SMALL))]);
    expect("role", &[role(&valid(SMALL))]);
    expect("role_binding", &[role_binding(&valid(SMALL))]);
    expect("disruption_budget", &[disruption_budget(&valid(SMALL))]);
    expect("config_map", &[config_map(&valid(SMALL))]);
    expect("config_map_large", &[config_map(&valid(LARGE))]);
}

#[test]
fn secrets() {
    let key = raftmq_links::pki::SecretPem::new("KEY");
    let pem = Pem { authority: "CA".into(), cert: "CERT".into(), key };
    expect("secret", &[secret(&valid(SMALL), "nodes", &pem)]);
}

#[test]
fn all_in_their_order() {
    let kinds = |yaml| -> Vec<(OwnedKind, String)> {
        let built = build::build(&valid(yaml), &inputs());
        built.into_iter().map(|Object { kind, name, .. }| (kind, name)).collect()
    };
    let small = kinds(SMALL);
    let config = small[3].1.clone();
    assert!(config.starts_with("demo-config-"), "{config}");
    let expected = [
        (OwnedKind::ServiceAccount, "demo"),
        (OwnedKind::Role, "demo-discovery"),
        (OwnedKind::RoleBinding, "demo-discovery"),
        (OwnedKind::ConfigMap, &config),
        (OwnedKind::Service, "demo-links"),
        (OwnedKind::Service, "demo"),
        (OwnedKind::PodDisruptionBudget, "demo"),
        (OwnedKind::StatefulSet, "demo"),
    ];
    assert_eq!(small, expected.map(|(kind, name)| (kind, name.to_owned())));
    // Discovery by DNS needs no Role.
    assert!(!kinds(LARGE).iter().any(|(kind, _)| matches!(kind, OwnedKind::Role | OwnedKind::RoleBinding)));
}

#[test]
fn everything_has_owner_labels_and_a_name_that_kubernetes_takes() {
    let mut longest = parsed(LARGE);
    longest.metadata.name = Some("a".repeat(40));
    longest.spec.listeners[1].name = "b".repeat(15);
    let longest = validate(&longest, "image").unwrap();
    for cluster in [valid(SMALL), valid(LARGE), longest] {
        for object in build::build(&cluster, &inputs()) {
            let metadata = &object.json["metadata"];
            assert_eq!(metadata["ownerReferences"][0]["uid"], "7a5b", "{object:?}");
            assert_eq!(metadata["ownerReferences"][0]["controller"], true);
            assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "raftmq-operator");
            assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], cluster.name.as_str());
            assert_eq!(metadata["namespace"], "mq");
            assert!(object.json["apiVersion"].is_string() && object.json["kind"].is_string());
            // A Service's name is a label of DNS; pods of a StatefulSet carry its name and a hash in a label.
            let longest = match object.kind {
                OwnedKind::Service => 63,
                OwnedKind::StatefulSet => 52,
                _ => 253,
            };
            assert!(object.name.len() <= longest, "{}", object.name);
        }
    }
}

#[test]
fn endpoints_are_the_services_of_the_listeners() {
    assert_eq!(endpoints(&valid(SMALL)), ["tcp://demo.mq.svc:1883"]);
    let expected = [
        "tcp://prod.mq.svc:1883",
        "tcp://prod-outside-svc.mq.svc:1884",
        "tcp://prod.mq.svc:1885",
        "tcp://prod-fixed-svc.mq.svc:1886",
        "tcp://prod-fixed-svc.mq.svc:1887",
        "tls://prod.mq.svc:8883",
        "quic://prod.mq.svc:14567",
        "wss://prod.mq.svc:8084",
    ];
    assert_eq!(endpoints(&valid(LARGE)), expected);
}

/// What a broker makes of the file and of its pod's environment is what the translation says for this node.
#[test]
fn settings_with_the_environment_of_a_pod_are_those_of_its_node() {
    for yaml in [SMALL, LARGE] {
        let (cluster, valid) = (parsed(yaml), valid(yaml));
        let set = serde_json::to_value(stateful_set(&valid, &inputs())).unwrap();
        let environment = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        // From Kubernetes 1.35 on a pod has the label of its node; before, and on a node without, it is empty.
        for (node, zone) in [(0, "eu-1a"), (1, "1"), (2, "")] {
            let name = valid.node(node);
            let value = |env: &serde_json::Value| match env["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => name.clone(),
                Some("metadata.labels['topology.kubernetes.io/zone']") => zone.to_owned(),
                _ => env["value"].as_str().unwrap().replace("$(RAFTMQ__NODE__NAME)", &name),
            };
            let env = environment.iter().map(|env| (env["name"].as_str().unwrap().to_owned(), value(env)));
            let config = Config::from_sources(&valid.config_yaml, "raftmq.yaml", env, &[]).unwrap();
            let placement = NodePlacement::pod(&cluster, usize::try_from(node).unwrap(), "mq").unwrap();
            let mut expected = broker_config(&cluster, &placement).unwrap();
            expected.node.zone = zone.to_owned();
            assert_eq!(config, expected);
        }
        assert!(Config::from_sources(&valid.config_yaml, "raftmq.yaml", std::iter::empty(), &[]).is_err());
    }
}

#[test]
fn other_settings_are_another_config_map_and_another_template() {
    let mut changed = parsed(SMALL);
    changed.spec.metrics.port = 9101;
    let changed = validate(&changed, "image").unwrap();
    let (before, after) = (config_map(&valid(SMALL)), config_map(&changed));
    assert_ne!(before.metadata.name, after.metadata.name);
    let replicas = Inputs { replicas: 5, ..inputs() };
    let template = |cluster: &ValidatedCluster, inputs: &Inputs| stateful_set(cluster, inputs).spec.unwrap().template;
    assert_eq!(template(&valid(SMALL), &inputs()), template(&valid(SMALL), &replicas));
    let renewed = Inputs { certificates: "other".into(), ..inputs() };
    assert_ne!(template(&valid(SMALL), &inputs()), template(&valid(SMALL), &renewed));
}

#[test]
fn the_claim_template_keeps_its_size() {
    let inputs = Inputs { claim_size: Some("8Gi".into()), ..inputs() };
    let set = serde_json::to_value(stateful_set(&valid(LARGE), &inputs)).unwrap();
    let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(claim["resources"]["requests"]["storage"], "8Gi");
}

#[test]
fn names_of_nodes_have_ordinals() {
    for (node, expected) in [
        ("demo-0", Some(0)),
        ("demo-12", Some(12)),
        ("demo-01", None),
        ("demo", None),
        ("demo-x", None),
        ("demo-a-0", None),
    ] {
        assert_eq!(ordinal("demo", node), expected, "{node}");
    }
}

#[test]
fn what_is_invalid_says_everything_that_is_wrong() {
    let mut cluster = parsed(SMALL);
    cluster.spec.metrics.port = 18083;
    cluster.spec.listeners[0].port = 9883;
    let error = validate(&cluster, "image").unwrap_err().to_string();
    assert_eq!(
        error,
        "spec.listeners[0].port: 9883 is taken: 18083 is HTTP and 9883 is node links; use another port; \
         spec.metrics.port: 18083 is taken: 18083 is HTTP and 9883 is node links; use another port"
    );
    let mut cluster = parsed(SMALL);
    cluster.metadata.uid = None;
    assert!(validate(&cluster, "image").unwrap_err().to_string().contains("no uid"));
}

#[test]
fn the_samples_can_be_built() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples");
    let mut seen = 0;
    for sample in std::fs::read_dir(samples).unwrap() {
        let path = sample.unwrap().path();
        let mut cluster = MqttCluster::from_yaml(&std::fs::read_to_string(&path).unwrap(), "sample").unwrap();
        cluster.metadata.namespace = Some("mq".into());
        cluster.metadata.uid = Some("u".into());
        let built = build::build(&validate(&cluster, "image").unwrap(), &inputs());
        assert!(built.len() >= 6, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 4);
}
