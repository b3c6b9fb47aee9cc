"""More nodes than replicas: a durable session is served on every node, whether that has a replica of its shard or not."""

import time

import pytest
from harness import LocalCluster, wait_until
from test_durable import Client, numbers

SHARDS = 4


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(replicas=5, config={"shards": {"count": SHARDS, "replication": 3}}) as cluster:
        yield cluster.start()


def test_every_client_is_served_on_every_node(cluster):
    publisher = Client(cluster.nodes[0], "walks-publisher")
    publisher.connected()
    # So many that each shard has some, and none has a replica on all nodes.
    clients = [f"walks-{n}" for n in range(12)]
    there = {}
    for name in clients:
        there[name] = Client(cluster.nodes[-1], name, expiry=3600)
        assert not there[name].connected()
        there[name].subscribe(f"to/{name}", 1)
        there[name].subscribe("all/#", 2)
    for turn, node in enumerate(cluster.nodes):
        for name in clients:
            # In the queue before it connects, half of it while another node has it.
            publisher.publish(f"to/{name}", [f"{turn} missed"], qos=1)
            publisher.publish("all/x", [f"{turn} {name}"], qos=2)
            begun = time.monotonic()
            newer = Client(node, name, expiry=3600)
            assert newer.connected(), f"{name} on {node.name}"
            assert time.monotonic() - begun < 5
            there.pop(name).paho.loop_stop()
            there[name] = newer
            publisher.publish(f"to/{name}", numbers(0, 20), qos=1)
            came = lambda newer=newer: [m.payload.decode() for m in newer.received if m.topic.startswith("to/")][-20:] == numbers(0, 20)  # noqa: E731
            newer.wait("what is published while it is connected", came)
    for name in clients:
        publisher.publish(f"to/{name}", ["the end"], qos=1)
        ended = lambda name=name: there[name].received[-1:] and there[name].received[-1].payload == b"the end"  # noqa: E731
        there[name].wait("the end", ended)
        there[name].close()
    publisher.close()


def test_a_session_is_resumed_with_its_queue_and_qos_2_both_ways(cluster):
    one, two, *others = cluster.nodes
    publisher = Client(one, "resume-publisher")
    publisher.connected()
    expected = []
    for turn, node in enumerate([*others, two, one, *others]):
        for name in [f"resumed-{n}" for n in range(4)]:
            subscriber = Client(node, name, expiry=3600)
            assert subscriber.connected() == (turn > 0)
            if turn == 0:
                subscriber.subscribe(f"once/{name}", 2)
            else:
                assert subscriber.payloads(150) == expected
                assert all(message.qos == 2 for message in subscriber.received)
            # The other way: what it publishes with QoS 2 goes by its own shard.
            subscriber.publish(f"once/{name}", ["own"], qos=2)
            subscriber.wait("its own", lambda s=subscriber: s.received and s.received[-1].payload == b"own")
            subscriber.close()
        expected = numbers(turn * 1000, turn * 1000 + 150)
        for name in [f"resumed-{n}" for n in range(4)]:
            publisher.publish(f"once/{name}", expected, qos=2)
    publisher.close()


def test_retained_messages_and_groups_come_on_every_node(cluster):
    publisher = Client(cluster.nodes[1], "kept-publisher")
    publisher.connected()
    topics = [f"kept/{n}" for n in range(40)]
    for topic in topics:
        mid = publisher.paho.publish(topic, topic, 1, retain=True).mid
        publisher.wait("the acknowledgement", lambda mid=mid: mid in publisher.published)
    members = []
    for at, node in enumerate(cluster.nodes):
        for n in range(2):
            # On each node one of a durable session, and one of a clean one.
            member = Client(node, f"kept-{at}-{n}", expiry=600 if n == 0 else 0)
            assert not member.connected()
            member.subscribe("kept/#", 1)
            assert sorted(member.payloads(len(topics))) == sorted(topics)
            member.subscribe("$share/all/jobs/#", 1)
            members.append(member)
    publisher.publish("jobs/1", numbers(0, 300))
    jobs = lambda member: [m.payload.decode() for m in member.received if m.topic == "jobs/1"]  # noqa: E731
    wait_until("each job is done by somebody", lambda: sum(len(jobs(m)) for m in members) >= 300, 40)
    assert sorted(sum((jobs(member) for member in members), [])) == sorted(numbers(0, 300))
    assert all(jobs(member) for member in members)
    for member in members:
        member.close()
    publisher.close()


def test_nothing_is_lost_when_nodes_die_that_have_the_replicas(cluster):
    """Subscribers of all shards on a node which for some of these has none, while each other node dies in turn."""
    here, *others = cluster.nodes
    publisher = Client(here, "killed-publisher")
    publisher.connected()
    subscribers = [Client(here, f"killed-{n}", expiry=3600) for n in range(12)]
    for subscriber in subscribers:
        assert not subscriber.connected()
        subscriber.subscribe("killed/#", 1)
    count = 0
    for victim in others:
        for part in range(3):
            publisher.publish("killed/x", numbers(count, count + 40))
            count += 40
            if part == 0:
                victim.kill()
        for subscriber in subscribers:
            assert subscriber.payloads(count) == numbers(0, count)
            assert len(subscriber.of("connect")) == 1, subscriber.events
        victim.start()
        cluster.wait_ready()
    for subscriber in subscribers:
        subscriber.close()
    publisher.close()
