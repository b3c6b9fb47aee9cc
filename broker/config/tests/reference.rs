//! The reference of all settings is current and complete.
#![allow(clippy::unwrap_used)]

#[test]
fn the_reference_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == raftmq_config::reference_markdown(),
        "docs/configuration.md is not current: cargo run -p raftmq-config --example reference > docs/configuration.md"
    );
}

#[test]
fn every_setting_has_a_description() {
    fn walk(path: &str, schema: &serde_json::Value, missing: &mut Vec<String>) {
        for (name, setting) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if setting.get("description").is_none() {
                missing.push(path.clone());
            }
            walk(&path, setting, missing);
            walk(&path, &setting["items"], missing);
            walk(&path, &setting["anyOf"][0], missing);
        }
    }
    let mut missing = Vec::new();
    walk("", &raftmq_config::schema::schema_of::<raftmq_config::Config>(), &mut missing);
    assert!(missing.is_empty(), "{missing:?}");
}
