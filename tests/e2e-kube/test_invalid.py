"""Bad MqttClusters: refused by the API server with a message that says what to do, or left alone with a condition."""

import json

import pytest

from kube import MqttCluster, apply, get, kubectl, namespace, wait_until

LISTENER = {"name": "mqtt", "port": 1883}

REFUSED = {
    "no node at all": ({"replicas": 0}, "replicas: use at least 1; to remove the cluster delete the MqttCluster"),
    "a number that is text": ({"replicas": "three"}, 'spec.replicas: Invalid value: "string"'),
    "an unknown field": ({"replica": 3}, 'unknown field "spec.replica"'),
    "two listeners of one name": (
        {"listeners": [LISTENER, {"name": "mqtt", "port": 1884}]}, "listeners: two have the same name; rename one"),
    "two listeners on one port": (
        {"listeners": [LISTENER, {"name": "other", "port": 1883}]},
        "listeners: two have the same port; give each a port of its own"),
    "a port that the broker needs": (
        {"listeners": [{"name": "mqtt", "port": 9883}]}, "listeners: ports 18083 (HTTP) and 9883 (node links) are taken"),
    "a listener on the port of the metrics": (
        {"listeners": [{"name": "mqtt", "port": 9100}]}, "a listener has the port of spec.metrics.port"),
    "a node port without a NodePort": (
        {"listeners": [{**LISTENER, "service": {"type": "ClusterIP", "nodePort": 30883}}]}, "nodePort"),
    "a size that is none": ({"storage": {"size": "8 gigabytes"}}, "spec.storage.size"),
    "a discovery that is not there": ({"discovery": {"strategy": "gossip"}}, 'Unsupported value: "gossip"'),
    "settings past the spec": (
        {"podTemplate": {"env": [{"name": "RAFTMQ__LOG__LEVEL", "value": "debug"}]}},
        "podTemplate.env: RAFTMQ__ variables are settings of the broker; write them in spec.config"),
    "what the operator sets in the pod": (
        {"podTemplate": {"env": [{"name": "RAFTMQ_CTL_CA", "value": "/ca.crt"}]}},
        "podTemplate.env: RAFTMQ_CTL_ variables are set by the operator"),
    "two variables of one name": (
        {"podTemplate": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}}, "Duplicate value"),
    "labels that are the operator's": (
        {"podTemplate": {"labels": {"app.kubernetes.io/name": "mine"}}}, "podTemplate.labels: app.kubernetes.io/name"),
    "an unknown setting of the brokers": ({"config": {"mqtt": {"maxPacketsize": "1MiB"}}}, "spec.config.mqtt.maxPacketsize"),
    "a setting out of its range": ({"config": {"mqtt": {"receiveMaximum": 0}}}, "spec.config.mqtt.receiveMaximum"),
}


@pytest.fixture(scope="module")
def where(operator):
    with namespace() as name:
        yield name


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(where, kind):
    spec, message = REFUSED[kind]
    done = apply(MqttCluster(where, "bad", **spec).resource(), check=False)
    assert done.returncode != 0
    assert message in done.stderr, done.stderr
    assert get("mqttclusters", "bad", where) is None


@pytest.mark.parametrize("name, message", [
    ("a" * 41, "metadata.name: use at most 40 characters"),
    ("with.dots", "metadata.name: use lower-case letters, digits and hyphens"),
])
def test_refused_names(where, name, message):
    done = apply(MqttCluster(where, name).resource(), check=False)
    assert done.returncode != 0 and message in done.stderr, done.stderr


def test_refused_changes(where):
    cluster = MqttCluster(where, "paused", replicas=1, storage={"size": "64Mi", "storageClassName": "none"})
    cluster.apply()
    balanced = {**LISTENER, "service": {"type": "LoadBalancer", "loadBalancerClass": "example.com/one"}}
    with_class = {**cluster.spec, "listeners": [balanced]}
    apply({**cluster.resource(), "spec": with_class})
    for other in ({"loadBalancerClass": "example.com/two"}, {}):
        listener = {**LISTENER, "service": {"type": "LoadBalancer", **other}}
        done = apply({**cluster.resource(), "spec": {**with_class, "listeners": [listener]}}, check=False)
        assert done.returncode != 0 and "service.loadBalancerClass: it cannot be changed" in done.stderr, done.stderr
    apply(cluster.resource())
    for storage, message in (
        ({"size": "32Mi", "storageClassName": "none"}, "storage.size: a volume cannot shrink"),
        ({"size": "64Mi", "storageClassName": "other"}, "storage.storageClassName: it cannot be changed"),
    ):
        done = apply({**cluster.resource(), "spec": {**cluster.spec, "storage": storage}}, check=False)
        assert done.returncode != 0 and message in done.stderr, done.stderr
    kubectl("delete", "mqc", "paused", "-n", where)


def test_what_only_the_operator_can_tell_gets_a_condition_and_is_left_alone(where):
    """Each value is fine, together they are not, and the definition has no rule for it."""
    bad = {"raft": {"electionTimeoutMin": "2s", "electionTimeoutMax": "1s"}}
    cluster = MqttCluster(where, "strange", replicas=1, storage={"size": "1Gi"}, config=bad).apply()
    wait_until("Degraded", lambda: cluster.condition("Degraded")[0] == "True", 30, 0.2)
    status, reason, message = cluster.condition("Degraded")
    assert reason == "Invalid" and "electionTimeoutM" in message, message
    assert get("statefulsets", "strange", where) is None
    reasons = kubectl("events", "-n", where, "--for", "mqttcluster/strange", "-o", "json").stdout
    assert "Invalid" in [e["reason"] for e in json.loads(reasons)["items"]]
    cluster.apply(config={})
    cluster.wait_settled(1)
    # A cluster that runs is left as it is too.
    uid = cluster.pod("strange-0")["metadata"]["uid"]
    cluster.apply(config=bad)
    wait_until("Degraded", lambda: cluster.condition("Degraded")[1] == "Invalid", 30, 0.2)
    assert cluster.condition("Degraded")[2].startswith("the MqttCluster is left as it is until it changes")
    assert cluster.pod("strange-0")["metadata"]["uid"] == uid
    kubectl("delete", "mqc", "strange", "-n", where)
