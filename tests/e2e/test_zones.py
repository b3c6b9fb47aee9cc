"""Zones of nodes: the replicas of a shard are in different ones, and a node that starts elsewhere is counted there."""

import pytest
from harness import LocalCluster, metric_sum, wait_until
from test_durable import Client

SHARDS = 8


def replicas(node):
    samples = node.metrics()
    return sum(metric_sum(samples, "raftmq_shard_replicas", role=role) for role in ("leader", "follower"))


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(replicas=4, config={"shards": {"count": SHARDS, "replication": 3}}) as cluster:
        yield cluster.start()


def start_in(cluster, zones):
    """Starts the nodes again, one after the other, each in its zone."""
    for node, zone in zip(cluster.nodes, zones):
        node.kill()
        cluster.environment["RAFTMQ__NODE__ZONE"] = zone
        node.start()
        cluster.wait_ready()
    wait_until("the zones are known", lambda: [m["zone"] for _, m in sorted(cluster.members().items())] == [zone or None for zone in zones])


def test_replicas_go_where_a_zone_has_none(cluster):
    assert [member["zone"] for member in cluster.members().values()] == [None] * 4
    client = Client(cluster.nodes[0], "keeper", expiry=3600)
    client.connected()
    client.subscribe("kept/#", 1)
    client.close()
    writer = Client(cluster.nodes[1], "writer")
    writer.connected()
    writer.publish("kept/1", ["before"])
    writer.close()
    start_in(cluster, ["north", "north", "east", "west"])
    # Two share a zone: each shard has a replica on one of them, and on each of the other two.
    wanted = [SHARDS / 2, SHARDS / 2, SHARDS, SHARDS]
    wait_until("the replicas are spread over zones", lambda: [replicas(node) for node in cluster.nodes] == wanted, 60)
    table = cluster.ctl("members", as_json=False).splitlines()
    assert "ZONE" in table[0].split() and table[1].split()[6] == "north", table
    # What was kept has moved along.
    again = Client(cluster.nodes[1], "keeper", expiry=3600)
    assert again.connected()
    again.publish("kept/2", ["after"])
    assert again.payloads(2) == ["before", "after"]
    again.close()


def test_a_node_that_does_not_know_its_zone_serves_as_any_other(cluster):
    start_in(cluster, ["north", "", "east", "west"])
    wait_until("four zones, one of them unknown", lambda: sorted(replicas(node) for node in cluster.nodes) == [6, 6, 6, 6], 60)
    client = Client(cluster.nodes[1], "nowhere")
    client.connected()
    client.close()
