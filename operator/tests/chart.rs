//! What of the chart must fit the code.
#![allow(clippy::unwrap_used)]

use std::path::Path;

fn chart(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/raftmq-operator").join(file);
    std::fs::read_to_string(path).unwrap()
}

/// A link in the source, a file in the package.
#[test]
fn the_chart_has_the_definition_and_finds_where_its_annotation_goes() {
    let generated = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/yaml/mqttclusters.raftmq.io.yaml");
    let definition = chart("files/mqttclusters.raftmq.io.yaml");
    assert!(definition == std::fs::read_to_string(generated).unwrap());
    assert!(definition.contains("\nmetadata:\n  name: mqttclusters.raftmq.io\n"));
}

#[test]
fn the_chart_is_of_this_version() {
    let text = chart("Chart.yaml");
    assert!(text.contains(&format!("\nappVersion: \"{}\"\n", env!("CARGO_PKG_VERSION"))), "{text}");
}
