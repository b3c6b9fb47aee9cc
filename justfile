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

# A Kubernetes on this machine with the images of this source; `tests/lab/lab down` ends it
lab:
    deploy/images target/images
    tests/lab/lab up
    tests/lab/lab load-image target/images/raftmq.tar
    tests/lab/lab load-image target/images/raftmq-operator.tar

# The tests on Kubernetes; ARGS go to pytest
kube *ARGS:
    RAFTMQ_KUBE_ARGS="{{ARGS}}" tests/run kube

# The same on Kubernetes 1.34 and 1.37, each built from source first
versions:
    tests/run versions

# Real MQTT clients against a broker of this source; ARGS go to pytest
compat *ARGS:
    RAFTMQ_COMPAT_ARGS="{{ARGS}}" tests/run compat

# Which normative statements of MQTT are implemented and proved, and which are missing
coverage *ARGS:
    tests/conformance/coverage {{ARGS}}

# Places of the code at random that cite a statement, to be broken by hand; ARGS such as -n 20 --seed 1
mutants *ARGS:
    tests/conformance/mutants {{ARGS}}

# Fuzz the codec, the session machine and the layers below them, seconds a target; FUZZ_TARGETS and FUZZ_MERGE: tests/run
fuzz SECONDS="300":
    FUZZ_SECONDS={{SECONDS}} tests/run fuzz

# Breaks a cluster of the release build under real clients, and judges what they saw; ARGS for tests/faults/run (as root)
faults *ARGS:
    cargo build --release -p raftmq
    tests/faults/run {{ARGS}}

# The same where the brokers are pods of an MqttCluster, in a lab of its own (as root): some five minutes; ARGS such as --seed 7 --count 20
faults-pods *ARGS:
    RAFTMQ_PODS_ARGS="{{ARGS}}" tests/run pods

# Whether the fault driver and its checker find ten bugs that are planted in the broker, and how soon (as root); ARGS for tests/faults/plants
plants *ARGS:
    cargo build --release -p raftmq
    cargo build --release -p raftmq --features planted --target-dir target/planted
    tests/faults/plants --plain target/release/raftmq --planted target/planted/release/raftmq {{ARGS}}

# RaftMQ beside other brokers (docs/benchmarks.md): under two hours; ARGS such as --works fixed --brokers raftmq,mosquitto
bench *ARGS:
    RAFTMQ_BENCH_ARGS="{{ARGS}}" tests/run bench

# A cluster that keeps what it acknowledges, beside others (docs/benchmarks-cluster.md): ARGS such as --works rates --brokers raftmq
durable *ARGS:
    RAFTMQ_BENCH_ARGS="{{ARGS}}" tests/run durable

# What clients see when something breaks, in seconds (docs/failures): some ten minutes, as root; ARGS such as --only dies,hangs --times 5
failures *ARGS:
    RAFTMQ_BENCH_ARGS="{{ARGS}}" tests/run failures

# Where the time of the benchmarks' works goes (perf; a binary with symbols): ARGS such as --works pairs-qos1
profile *ARGS:
    tests/bench/profile {{ARGS}}
