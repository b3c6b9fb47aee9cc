"""Real clients on a real cluster."""

import paho.mqtt.client as paho
import pytest

from harness import Client, metric_sum, wait_until
from wire import Wire

VERSIONS = {"3.1": paho.MQTTv31, "3.1.1": paho.MQTTv311, "5": paho.MQTTv5}


@pytest.mark.parametrize("version", VERSIONS)
def test_paho_hears_what_is_published_on_every_other_node(shared_cluster, version):
    protocol = VERSIONS[version]
    first, *others = shared_cluster.nodes
    with Client(first.mqtt, protocol, client_id=f"sub-{version}") as subscriber:
        codes = subscriber.subscribe(f"plant{version}/+/temperature", f"city{version}/#", f"exact{version}/topic")
        assert len(codes) == 3 and all(code.value == 1 for code in codes)
        expected = []
        for number, node in enumerate(others):
            with Client(node.mqtt, protocol, client_id=f"pub-{version}-{number}") as publisher:
                for topic in (f"plant{version}/{number}/temperature", f"city{version}/a/b", f"exact{version}/topic"):
                    publisher.publish(topic, f"from {node.name}", qos=1)
                    expected.append((topic, f"from {node.name}"))
                publisher.publish(f"elsewhere{version}", "not wanted")
        wait_until("all messages", lambda: len(subscriber.messages) >= len(expected), 10)
        assert sorted(m[:2] for m in subscriber.messages) == sorted(expected)
        subscriber.messages.clear()

        subscriber.unsubscribe(f"city{version}/#")
        with Client(others[0].mqtt, protocol, client_id=f"again-{version}") as publisher:
            publisher.publish(f"city{version}/a/b", "late")
            publisher.publish(f"exact{version}/topic", "still")
        # The second message came the same way after the first: when it is here, the first would be.
        wait_until("the message still wanted", lambda: subscriber.received(f"exact{version}/topic", "still"), 10)
        assert not subscriber.received(f"city{version}/a/b")

        subscriber.paho.disconnect()
        wait_until("a clean disconnect", lambda: subscriber.disconnected is not None, 5)
        assert not subscriber.disconnected.is_failure


def test_takeover_on_a_node_closes_the_older_connection(shared_cluster):
    node = shared_cluster.nodes[0]
    with Client(node.mqtt, paho.MQTTv5, client_id="twice") as older:
        older.paho.reconnect_delay_set(60, 60)
        with Client(node.mqtt, paho.MQTTv5, client_id="twice") as newer:
            wait_until("the older one is told", lambda: older.disconnected is not None, 5)
            assert older.disconnected.value == 0x8E
            newer.subscribe("t/twice")
            newer.publish("t/twice", "x")
            wait_until("the newer one works", lambda: newer.received("t/twice"), 5)


def test_a_session_outlives_its_connection(shared_cluster):
    node = shared_cluster.nodes[1]
    wire = Wire(node.mqtt, "keeps", clean=False)
    wire.subscribe("t/keeps")
    wire.close()
    with Client(shared_cluster.nodes[2].mqtt) as publisher:
        for number in range(20):
            publisher.publish("t/keeps", str(number))
    back = Wire(node.mqtt, "keeps", clean=False)
    assert back.session_present
    assert [back.message()[1] for _ in range(20)] == [str(number).encode() for number in range(20)]
    back.close()
    clean = Wire(node.mqtt, "keeps", clean=True)
    assert not clean.session_present
    clean.close()


def test_a_thousand_subscribers_on_a_node_cost_one_frame_a_publish(shared_cluster):
    near, far = shared_cluster.nodes[0], shared_cluster.nodes[1]
    subscribers = [Wire(far.mqtt, f"many-{number}") for number in range(1000)]
    for number, subscriber in enumerate(subscribers):
        # Half of them by another filter: it is still one message for the node.
        subscriber.subscribe("fan/+" if number % 2 else "fan/out", qos=0)

    def frames():
        return metric_sum(near.metrics(), "raftmq_forwarded_messages_total")

    def sent():
        return metric_sum(near.metrics(), "raftmq_link_frames_sent_total", **{"class": "data"})

    before, sent_before = frames(), sent()
    publisher = Wire(near.mqtt, "many-pub")
    for number in range(100):
        publisher.publish("fan/out", b"%d" % number)
    for subscriber in subscribers:
        assert [subscriber.message()[1] for _ in range(100)] == [b"%d" % number for number in range(100)]
    assert frames() - before == 100
    assert sent() - sent_before == 100
    for wire in [publisher, *subscribers]:
        wire.close()


def test_who_says_disconnect_and_is_elsewhere_at_once_leaves_no_will(shared_cluster):
    """Whichever of the two the client's shard hears of first."""
    with Client(shared_cluster.nodes[0].mqtt) as observer:
        observer.subscribe("wills/#")
        for turn in range(150):
            at = shared_cluster.nodes[turn % 3]
            client = Wire(at.mqtt, f"moves-{turn % 5}", clean=turn % 2 == 0, will=(f"wills/{turn}", "was here"))
            if turn < 145:
                client.close()
        # The last five are taken over, and lost: these wills come.
        others = [Wire(shared_cluster.nodes[turn % 3].mqtt, f"moves-{turn % 5}", will=(f"wills/{turn}", "was here")) for turn in range(150, 155)]
        for client in others:
            client.socket.close()
        due = {f"wills/{turn}" for turn in range(145, 155)}
        wait_until("the wills of those who did not", lambda: {topic for topic, *_ in observer.messages} >= due, 15)
        assert {topic for topic, *_ in observer.messages} == due and len(observer.messages) == len(due)
