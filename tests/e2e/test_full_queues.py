"""What no queue of a cluster with shards takes: MQTT 5 is told, MQTT 3 cannot be, and nobody is disconnected for it."""

import threading
import time

import paho.mqtt.client as paho
import pytest
from harness import LocalCluster, metric_sum, wait_until
from test_durable import Client, numbers


@pytest.fixture(scope="module")
def cluster():
    config = {
        "shards": {"count": 4},
        "mqtt": {"maxQueuedMessages": 10, "queueFull": "dropNewest", "delayed": {"maxMessages": 8}, "retained": {"maxMessages": 8}},
    }
    with LocalCluster(config=config) as cluster:
        yield cluster.start()


class Publisher:
    """Publishes one message after the other, and gives the reason code of each answer."""

    def __init__(self, node, version):
        self.answers, self.came, self.ended = {}, threading.Condition(), False
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=version)
        self.paho.on_publish = self.answered
        self.paho.on_disconnect = self.disconnected
        self.paho.connect("127.0.0.1", node.mqtt)
        self.paho.loop_start()
        wait_until("CONNACK", self.paho.is_connected, 10)

    def answered(self, _client, _userdata, mid, code, _properties):
        with self.came:
            self.answers[mid] = str(code)
            self.came.notify_all()

    def disconnected(self, *_):
        self.ended = True

    def publish(self, topic, payload, retain=False):
        mid = self.paho.publish(topic, payload, 1, retain).mid
        with self.came:
            assert self.came.wait_for(lambda: mid in self.answers, 20), "no PUBACK"
        return self.answers[mid]

    def close(self):
        assert not self.ended
        self.paho.disconnect()
        self.paho.loop_stop()


def away(node, name, topic_filter):
    subscriber = Client(node, name, expiry=600)
    subscriber.connected()
    subscriber.subscribe(topic_filter, 1)
    subscriber.close()


def test_a_message_that_no_queue_took(cluster):
    a, b, c = cluster.nodes
    away(a, "full", "full/#")
    new, old = Publisher(b, paho.MQTTv5), Publisher(c, paho.MQTTv311)
    # It is told when nobody is known to be there: of who has left nodes know a moment later.
    taken = 0
    while new.publish("full/1", str(taken)) != "Quota exceeded":
        taken += 1
        assert taken < 600, "half a minute"
        time.sleep(0.05)
    assert new.publish("full/1", "more") == "Quota exceeded"
    assert old.publish("full/1", "more") == "Success"
    # It is in one of two queues, or somebody is there.
    away(b, "room", "full/2")
    assert new.publish("full/2", "some") == "Success"
    live = Client(c, "live")
    live.connected()
    live.subscribe("full/3", 1)
    assert new.publish("full/3", "seen") == "Success"
    live.wait("it", lambda: live.received)
    dropped = lambda: sum(metric_sum(node.metrics(), "raftmq_shard_messages_dropped_total") for node in cluster.nodes)  # noqa: E731
    kept = taken + 5 - int(dropped())
    # With what was granted to the connection that it had.
    assert 10 <= kept <= 266
    full = Client(c, "full", expiry=600)
    assert full.connected()
    assert full.payloads(kept) == numbers(0, kept)
    for client in (new, old, live, full):
        client.close()


def test_a_delayed_message_for_which_there_is_no_room(cluster):
    a, b, _ = cluster.nodes
    new, old = Publisher(a, paho.MQTTv5), Publisher(b, paho.MQTTv311)
    # Two for each shard.
    answers = [new.publish("$delayed/600/later", number) for number in numbers(0, 3)]
    assert answers == ["Success", "Success", "Quota exceeded"]
    assert old.publish("$delayed/600/later", "4") == "Success"
    assert metric_sum(a.metrics(), "raftmq_messages_refused_total", reason="quota") == 1
    new.close()
    old.close()


def test_a_retained_message_for_which_there_is_no_room(cluster):
    """MQTT 5 is told, and nobody gets it; by MQTT 3 it is delivered, and not retained."""
    a, b, c = cluster.nodes
    reader = Client(c, "retained-reader")
    reader.connected()
    reader.subscribe("room/#", 1)
    new, old = Publisher(a, paho.MQTTv5), Publisher(b, paho.MQTTv311)
    # Two for each shard.
    answers = [new.publish(f"room/{number}", "new", retain=True) for number in range(40)]
    assert set(answers) == {"Success", "Quota exceeded"} and answers.count("Success") <= 8
    kept = sorted(f"room/{number}" for number, answer in enumerate(answers) if answer == "Success")
    reader.wait("what is kept", lambda: len(reader.received) == len(kept))
    assert [old.publish(f"room/{number}", "old", retain=True) for number in range(40)] == ["Success"] * 40
    reader.wait("all of them", lambda: len(reader.received) == len(kept) + 40)
    # Who comes now gets what had room: what the other one replaced.
    later = Client(b, "retained-later")
    later.connected()
    later.subscribe("room/#", 1)
    later.wait("what is retained", lambda: len(later.received) >= len(kept))
    time.sleep(0.3)
    assert sorted(message.topic for message in later.received if message.payload == b"old") == kept
    assert len(later.received) == len(kept)
    for client in (new, old, reader, later):
        client.close()
