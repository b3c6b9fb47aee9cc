//! Prints the definition of `MqttCluster`: `cargo run -p raftmq-crds --example crd > crds/yaml/mqttclusters.raftmq.io.yaml`.

fn main() {
    print!("{}", raftmq_crds::definition_yaml());
}
