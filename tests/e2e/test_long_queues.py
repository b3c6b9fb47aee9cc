"""Queues of durable sessions that are longer than what may be under way to a client at once."""

import pytest
from harness import LocalCluster
from test_durable import Client, numbers


@pytest.fixture(scope="module")
def cluster():
    config = {"shards": {"count": 4}, "mqtt": {"maxQueuedMessages": 20_000, "maxQueuedBytes": "64MiB"}}
    with LocalCluster(config=config) as cluster:
        yield cluster.start()


def test_more_messages_than_may_be_under_way_are_delivered_when_the_client_returns(cluster):
    subscriber = Client(cluster.nodes[0], "away", expiry=3600)
    subscriber.connected()
    subscriber.subscribe("long/#", 1)
    subscriber.close()
    publisher = Client(cluster.nodes[1], "publisher")
    publisher.connected()
    for begin in range(0, 9_000, 1_000):
        publisher.publish("long/1", numbers(begin, begin + 1_000))
    publisher.close()
    subscriber = Client(cluster.nodes[2], "away", expiry=3600)
    assert subscriber.connected()
    assert subscriber.payloads(9_000) == numbers(0, 9_000)
    subscriber.close()
