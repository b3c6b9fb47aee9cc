"""What waits on a link for a broker that was killed is not for its next start (ARCHITECTURE.md, "Forwarded publishes")."""

import pytest
from harness import Client, LocalCluster, metric_sum, wait_until


@pytest.fixture
def cluster():
    # The feature level of clusters with shards has lives.
    with LocalCluster(config={"shards": {"count": 4}}) as cluster:
        yield cluster.start()


@pytest.mark.parametrize("qos", [0, 1])
def test_a_client_that_moved_and_came_back_gets_nothing_twice(cluster, qos):
    refuge = cluster.leader("meta")
    home, source = (node for node in cluster.nodes if node is not refuge)
    sent, got = [], []
    # Of other names at each place: CONNECT of the same one waits until the dead node is declared down, and nothing is sent to it then.

    def publish(node, count):
        with Client(node.mqtt) as publisher:
            for _ in range(count):
                sent.append(str(len(sent)))
                publisher.publish("moved/topic", sent[-1], qos=qos)

    def take(client, last):
        wait_until("the last message", lambda: client.received("moved/topic", last), 10)
        got.extend(payload for _, payload, _ in client.messages)

    with Client(home.mqtt, client_id="mover") as client:
        client.subscribe("moved/topic", qos=qos)
        publish(source, 20)
        take(client, sent[-1])
        home.kill()
    with Client(refuge.mqtt, client_id="mover-2") as client:
        client.subscribe("moved/topic", qos=qos)
        # The route to the dead one is there until it is declared down: these wait for it as well.
        publish(source, 50)
        take(client, sent[-1])
    # Held back until somebody is there who would take them.
    source.pause()
    try:
        home.start()
        cluster.wait_ready(60, [home, refuge])
        client = Client(home.mqtt, client_id="mover-3")
        client.subscribe("moved/topic", qos=qos)
    finally:
        source.resume()
    with client:
        wait_until("what waited was passed by", lambda: passed_by(home) >= 50, 20)
        cluster.wait_ready(30)
        publish(source, 20)
        take(client, sent[-1])
    assert got == sent


def passed_by(node):
    return metric_sum(node.metrics(), "raftmq_forwarded_messages_past_total")
