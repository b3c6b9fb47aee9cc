# The one list of recipes: README, CONTRIBUTING and CI call these.
# `just` comes from `cargo install just` or `pip install rust-just`.

default:
    @just --list

# Three brokers on this machine from the sample MqttCluster
up *ARGS:
    cargo run --release -- up {{ARGS}}

# What CI runs; a part by name: `just test unit`
test *PARTS:
    tests/run {{PARTS}}

# Formatting, clippy, doc links, licences and duplicates of crates, spelling
lint:
    tests/run lint

fmt:
    cargo fmt --all

# The generated files: CRD YAML, configuration reference
generate:
    cargo run --quiet -p raftmq-crds --example crd > crds/yaml/mqttclusters.raftmq.io.yaml
    cargo run --quiet -p raftmq-config --example reference > docs/configuration.md

# Fuzz the codec, seconds a target
fuzz SECONDS="300":
    FUZZ_SECONDS={{SECONDS}} tests/run fuzz
