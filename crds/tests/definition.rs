//! The generated definition: current, structural, with its rules.
#![allow(clippy::unwrap_used)]

use raftmq_crds::{definition, definition_yaml};
use serde_json::Value as Json;

fn schema() -> Json {
    let definition = serde_json::to_value(definition()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every schema inside, with its path.
fn each(schema: &Json, path: &str, f: &mut impl FnMut(&str, &Json)) {
    f(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        each(property, &format!("{path}.{name}"), f);
    }
    if let Some(items) = schema.get("items") {
        each(items, &format!("{path}[]"), f);
    }
    if let Some(values) = schema.get("additionalProperties") {
        each(values, &format!("{path}.*"), f);
    }
}

#[test]
fn the_generated_file_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/yaml/mqttclusters.raftmq.io.yaml");
    assert!(
        std::fs::read_to_string(path).unwrap() == definition_yaml(),
        "crds/yaml is not current: cargo run -p raftmq-crds --example crd > crds/yaml/mqttclusters.raftmq.io.yaml"
    );
}

#[test]
fn names_columns_and_subresources() {
    let definition = definition();
    let spec = &definition.spec;
    assert_eq!(definition.metadata.name.as_deref(), Some("mqttclusters.raftmq.io"));
    assert_eq!((spec.group.as_str(), spec.scope.as_str()), ("raftmq.io", "Namespaced"));
    assert_eq!(spec.names.short_names.as_deref(), Some(&["mqc".to_owned()][..]));
    assert_eq!(spec.names.categories.as_deref(), Some(&["raftmq".to_owned()][..]));
    let version = &spec.versions[0];
    assert_eq!((version.name.as_str(), version.served, version.storage), ("v1alpha1", true, true));
    let columns: Vec<_> = version.additional_printer_columns.iter().flatten().map(|c| c.name.as_str()).collect();
    assert_eq!(columns, ["Replicas", "Ready", "Leader", "Available", "Image", "Age"]);
    let subresources = version.subresources.as_ref().unwrap();
    assert!(subresources.status.is_some());
    let scale = subresources.scale.as_ref().unwrap();
    assert_eq!(
        [&scale.spec_replicas_path, &scale.status_replicas_path, scale.label_selector_path.as_ref().unwrap()],
        [".spec.replicas", ".status.replicas", ".status.selector"]
    );
}

/// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
#[test]
fn the_schema_is_structural() {
    each(&schema(), "", &mut |path, schema| {
        let map = schema.as_object().unwrap_or_else(|| panic!("{path}: {schema}"));
        for keyword in
            ["$ref", "definitions", "$defs", "oneOf", "anyOf", "allOf", "not", "const", "nullable", "uniqueItems"]
        {
            assert!(!map.contains_key(keyword), "{path} has {keyword}: {schema}");
        }
        let open = map.get("x-kubernetes-int-or-string") == Some(&Json::Bool(true));
        assert!(map.get("type").is_some_and(Json::is_string) || open, "{path} has no single type: {schema}");
        let both = map.contains_key("properties") && map.contains_key("additionalProperties");
        assert!(!both, "{path} has both properties and additionalProperties");
        assert!(map.get("additionalProperties").is_none_or(Json::is_object), "{path}");
        assert!(map.get("type") != Some(&"array".into()) || map.contains_key("items"), "{path} has no items");
        if let Some(format) = map.get("format") {
            assert!(["int32", "int64", "date-time"].contains(&format.as_str().unwrap()), "{path}: {format}");
        }
        if let Some(keys) = map.get("x-kubernetes-list-map-keys") {
            for key in keys.as_array().unwrap() {
                let required = schema["items"]["required"].as_array().unwrap();
                assert!(required.contains(key), "{path}: a key of a list map must be required");
            }
        }
    });
    // An object over 1.5 MiB is refused; kubectl's annotation of what was applied holds 256 KiB.
    assert!(definition_yaml().len() < 200_000);
}

#[test]
fn own_settings_are_described() {
    let foreign = ["affinity", "env", "imagePullSecrets", "resources", "tolerations", "topologySpreadConstraints"];
    let mut missing = Vec::new();
    each(&schema(), "", &mut |path, schema| {
        let inside =
            foreign.iter().any(|f| path.split_once(&format!(".{f}")).is_some_and(|(_, rest)| !rest.is_empty()));
        if !inside
            && !path.ends_with("[]")
            && !path.ends_with(".*")
            && !path.is_empty()
            && schema.get("description").is_none()
        {
            missing.push(path.to_owned());
        }
    });
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn rules_are_there_and_say_what_to_do() {
    let mut rules = Vec::new();
    each(&schema(), "", &mut |path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.len() > 30, "{path}: {rule}");
            rules.push(format!("{path}: {}", rule["rule"].as_str().unwrap()));
        }
    });
    for expected in [
        ": self.metadata.name.size() <= 40",
        ": self.metadata.name.matches(",
        ".spec: !has(self.metrics)",
        ".spec.replicas: self >= 1",
        ".spec.listeners: self.all(l, self.exists_one(m, m.name == l.name))",
        ".spec.listeners: self.all(l, self.exists_one(m, m.port == l.port))",
        ".spec.listeners: self.all(l, !(l.port in",
        ".spec.listeners[]: !(self.type in ['tls', 'wss', 'quic']) || has(self.tls)",
        ".spec.listeners[]: self.type in ['ws', 'wss'] || !has(self.websocket)",
        ".spec.listeners[]: self.type != 'quic'",
        ".spec.listeners[].tls: self.clientAuth != 'none'",
        ".spec.listeners[].service: !has(self.nodePort)",
        ".spec.listeners[].service: self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer'",
        ".spec.metrics.port: ",
        ".spec.storage: !has(self.size) || !has(oldSelf.size) || quantity(self.size)",
        ".spec.storage: has(self.storageClassName) == has(oldSelf.storageClassName)",
        ".spec.podTemplate.env: self.all(e, !e.name.startsWith('RAFTMQ__'))",
        ".spec.podTemplate.env: self.all(e, !e.name.startsWith('RAFTMQ_CTL_'))",
        ".spec.podTemplate.labels: ",
    ] {
        assert!(rules.iter().any(|r| r.starts_with(expected)), "{expected} in {rules:#?}");
    }
}

/// The API server refuses two items of the same key, and compares an item with the one before it by its key: only so may a rule inside of it use `oldSelf`.
#[test]
fn lists_with_keys() {
    let mut keys = Vec::new();
    each(&schema(), "", &mut |path, schema| {
        if schema.get("x-kubernetes-list-map-keys") == Some(&serde_json::json!(["name"])) {
            assert_eq!(schema["x-kubernetes-list-type"], "map", "{path}");
            keys.push(path.to_owned());
        }
    });
    for expected in [".spec.listeners", ".spec.podTemplate.env"] {
        assert!(keys.iter().any(|path| path == expected), "{expected} in {keys:?}");
    }
}
