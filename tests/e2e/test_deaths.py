"""Brokers die at once and come back: same members, same data, messages cross again."""

import json
import time

from harness import Client, metric_sum, wait_until


def identities(cluster):
    return {name: (member["id"], member["incarnation"]) for name, member in cluster.members().items()}


def messages_cross(cluster, tag):
    """A message from each node reaches a subscriber on each other."""
    for target in cluster.nodes:
        with Client(target.mqtt) as subscriber:
            subscriber.subscribe(f"{tag}/#")
            for source in cluster.nodes:
                with Client(source.mqtt) as publisher:
                    publisher.publish(f"{tag}/{source.name}/{target.name}", "hello")
            wait_until(f"messages on {target.name}", lambda: len(subscriber.messages) == len(cluster.nodes), 10)


def test_the_meta_leader_dies(cluster):
    before = identities(cluster)
    leader = cluster.leader("meta")
    others = [node for node in cluster.nodes if node is not leader]
    with Client(others[0].mqtt) as subscriber:
        subscriber.subscribe("old/subscription")
        leader.kill()
        started = time.monotonic()
        with Client(others[1].mqtt) as publisher:
            # An older subscription serves on; a new one waits until the dead node is known to be fenced.
            publisher.publish("old/subscription", "one")
            wait_until("the survivors serve", lambda: subscriber.received("old/subscription"), 10)
            subscriber.subscribe("new/subscription")
            print(f"SUBACK {time.monotonic() - started:.1f} s after the leader's death")
            publisher.publish("new/subscription", "two")
            wait_until("the new subscription", lambda: subscriber.received("new/subscription"), 10)
    assert cluster.leader("meta") is not leader
    leader.start()
    cluster.wait_ready(30)
    assert identities(cluster) == before
    messages_cross(cluster, "again")


def test_a_follower_dies(cluster):
    before = identities(cluster)
    leader = cluster.leader("meta")
    follower = next(node for node in cluster.nodes if node is not leader)
    other = next(node for node in cluster.nodes if node not in (leader, follower))
    with Client(leader.mqtt) as subscriber:
        subscriber.subscribe("steady")
        follower.kill()
        with Client(other.mqtt) as publisher:
            publisher.publish("steady", "one", deadline=10)
            wait_until("the others serve on", lambda: subscriber.received("steady"), 5)
    follower.start()
    cluster.wait_ready(30)
    assert identities(cluster) == before
    messages_cross(cluster, "again")


def test_all_die_at_once(cluster):
    before = identities(cluster)
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready(45)
    assert identities(cluster) == before
    messages_cross(cluster, "again")
    # Nobody joined and nobody was replaced: the cluster is the one that was made once.
    statuses = {node.control("status")[1]["cluster"]["id"] for node in cluster.nodes}
    assert len(statuses) == 1


def test_a_paused_node_serves_nothing_and_heals_by_itself(cluster):
    leader = cluster.leader("meta")
    paused = next(node for node in cluster.nodes if node is not leader)
    with Client(paused.mqtt, client_id="on-paused") as client, Client(leader.mqtt, client_id="watcher") as watcher:
        client.subscribe("paused/topic")
        watcher.subscribe("$SYS/brokers/+/healed")
        paused.pause()
        try:
            # Longer than the 5 s after which a node without a lease closes its clients.
            time.sleep(8)
        finally:
            paused.resume()
        wait_until("its clients were closed", lambda: client.disconnected is not None, 5)
        started = time.monotonic()
        wait_until("it serves again", paused.ready, 10)
        print(f"served again {time.monotonic() - started:.1f} s after the pause")
        wait_until("the client is back", client.paho.is_connected, 10)
        # It says what was fenced and for how long: as an event, in its metrics and in its log.
        topic = f"$SYS/brokers/{paused.name}/healed"
        wait_until("the event", lambda: watcher.received(topic), 10)
        event = json.loads(next(payload for to, payload, *_ in watcher.messages if to == topic))
        assert event["node"] == paused.name and event["clients"] >= 1 and event["clients_closed"] is True, event
        # A lease is 2 s, and it noticed the end of the last one only afterwards.
        assert 5_000 <= event["fenced_ms"] < 30_000, event
        samples = paused.metrics()
        assert abs(metric_sum(samples, "raftmq_fenced_seconds_total") - event["fenced_ms"] / 1000) < 0.01
        assert metric_sum(samples, "raftmq_fenced_clients_total") == event["clients"]
        assert "serving again" in paused.log()
    messages_cross(cluster, "after")
