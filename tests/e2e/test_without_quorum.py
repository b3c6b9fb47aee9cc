"""One of three nodes is left: what it says of itself."""

import time

import paho.mqtt.client as paho
import pytest
from harness import Client, LocalCluster, metric_sum, wait_until
from wire import Wire


@pytest.fixture
def cluster():
    with LocalCluster(config={"shards": {"count": 4}}) as cluster:
        yield cluster.start()


def test_the_last_node_says_that_nothing_is_safe_and_that_nobody_leads(cluster):
    last = cluster.leader()
    assert metric_sum(last.metrics(), "raftmq_raft_leader", group="meta") > 0
    for node in cluster.nodes:
        if node is not last:
            node.kill()
    wait_until("it has no lease", lambda: metric_sum(last.metrics(), "raftmq_lease_held") == 0, 15)
    samples = last.metrics()
    # It may go on to lead by its own lights: nobody follows.
    for name in ("raftmq_raft_leader", "raftmq_raft_is_leader"):
        assert any(sample.startswith(name) for sample in samples) and metric_sum(samples, name) == 0, samples
    done = cluster.ctl("loss", last.name, check=False, as_json=False)
    assert done.returncode != 0 and "nothing would be lost" not in done.stdout, done.stdout
    assert "quorum" in done.stderr, done.stderr
    for node in cluster.nodes:
        if node is not last:
            node.start()
    cluster.wait_ready()
    assert "nothing would be lost" in cluster.ctl("loss", last.name, as_json=False)


def test_a_shard_without_a_quorum_holds_up_only_its_own():
    """Five nodes with three replicas of each shard: two die that have two of some shard's."""
    with LocalCluster(replicas=5, config={"shards": {"count": 10}}) as cluster:
        cluster.start()
        names = {member["id"]: name for name, member in cluster.members().items()}
        leader = cluster.leader()
        left = next(number for number, name in names.items() if name == leader.name)
        shards = [group["voters"] for group in cluster.ctl("groups")["groups"] if group["name"].startswith("shard")]
        lost = sorted(set(shards[0]) - {left})[:2]
        topics = [f"held/{number}" for number in range(40)]
        for topic in topics:
            subscriber = Wire(leader.mqtt, topic.replace("/", "-"), clean=False)
            subscriber.subscribe(topic)
            subscriber.close()
        publishers = [Client(leader.mqtt, paho.MQTTv5, f"publisher-{number}") for number in range(len(topics))]
        for number in lost:
            cluster.node(names[number]).kill()
        begun = time.monotonic()
        for publisher, topic in zip(publishers, topics, strict=True):
            publisher.paho.publish(topic, b"kept", qos=1)
        # Some find their shard, once it has a leader again.
        wait_until("most are acknowledged", lambda: sum(bool(each.published) for each in publishers) > len(topics) / 2, 8)
        others = [each for each in publishers if not each.published]
        wait_until("the others are disconnected", lambda: all(each.disconnected or each.published for each in others), 20)
        took = time.monotonic() - begun
        held = [each for each in others if not each.published]
        codes = {each.disconnected.value for each in held}
        print(f"{len(held)} of {len(topics)} after {took:.1f} s")
        assert held and codes == {0x89} and took > 8, (len(held), codes, took)
        for each in publishers:
            each.close()
