"""Sessions that are kept in shards: one connection a client, and what was acknowledged is there on every node."""

import threading
import time

import paho.mqtt.client as paho
import pytest
from harness import LocalCluster, metric_sum, wait_until
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


class Client:
    """An MQTT 5 client that notes what happens to it."""

    def __init__(self, node, client_id, expiry=0, clean=None, receive_maximum=None, returns=True):
        """`returns`: when its connection ends it connects again, after a second."""
        self.received, self.events, self.published = [], [], set()
        self.changed = threading.Condition()
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, reconnect_on_failure=returns)
        self.paho.on_connect = lambda _c, _u, flags, code, _p: self.note("connect", str(code), flags.session_present)
        self.paho.on_disconnect = lambda _c, _u, _f, code, _p: self.note("disconnect", str(code))
        self.paho.on_subscribe = lambda _c, _u, mid, codes, _p: self.note("suback", mid, [str(code) for code in codes])
        self.paho.on_unsubscribe = lambda _c, _u, mid, _codes, _p: self.note("unsuback", mid)
        self.paho.on_publish = lambda _c, _u, mid, _code, _p: self.note_in(self.published.add, mid)
        self.paho.on_message = lambda _c, _u, message: self.note_in(self.received.append, message)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry
        if receive_maximum:
            properties.ReceiveMaximum = receive_maximum
        self.paho.connect("127.0.0.1", node.mqtt, clean_start=not expiry if clean is None else clean, properties=properties)
        self.paho.loop_start()

    def note(self, *event):
        self.note_in(self.events.append, event)

    def note_in(self, add, what):
        with self.changed:
            add(what)
            self.changed.notify_all()

    def wait(self, what, condition, deadline=20):
        with self.changed:
            if not self.changed.wait_for(condition, deadline):
                payloads = [message.payload for message in self.received[-3:]]
                raise AssertionError(f"not within {deadline} s: {what}; {self.events[-5:]}, {len(self.received)}: {payloads}")

    def of(self, kind):
        return [event for event in self.events if event[0] == kind]

    def connected(self):
        """Whether there was a session; fails when it was refused."""
        self.wait("CONNACK", lambda: self.of("connect"))
        _, code, present = self.of("connect")[-1]
        assert code == "Success", code
        return present

    def subscribe(self, topic_filter, qos):
        _, mid = self.paho.subscribe(topic_filter, qos)
        self.wait("SUBACK", lambda: any(event[1] == mid for event in self.of("suback")))
        assert [event[2] for event in self.of("suback") if event[1] == mid] == [[f"Granted QoS {qos}"]]

    def unsubscribe(self, topic_filter):
        _, mid = self.paho.unsubscribe(topic_filter)
        self.wait("UNSUBACK", lambda: any(event[1] == mid for event in self.of("unsuback")))

    def publish(self, topic, payloads, qos=1, acknowledged=True):
        mids = [self.paho.publish(topic, payload, qos).mid for payload in payloads]
        if acknowledged:
            self.wait("the acknowledgements", lambda: self.published.issuperset(mids), 40)

    def payloads(self, count):
        self.wait(f"{count} messages", lambda: len(self.received) >= count, 40)
        return [message.payload.decode() for message in self.received]

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()


@pytest.fixture(scope="module")
def cluster():
    # Ready when its shards are formed: whoever connects then is served.
    with LocalCluster(config={"shards": {"count": 4}}) as cluster:
        yield cluster.start()


def numbers(begin, end):
    return [str(number) for number in range(begin, end)]


def over_all(cluster, name, **labels):
    """The sum of a metric over the nodes: of shards each says what it leads."""
    return sum(metric_sum(node.metrics(), name, **labels) for node in cluster.nodes)


def test_the_shards_are_formed_and_counted(cluster):
    assert [metric_sum(node.metrics(), "raftmq_shards", state="formed") for node in cluster.nodes] == [4, 4, 4]
    wait_until("each has a leader", lambda: over_all(cluster, "raftmq_shard_replicas", role="leader") == 4, 10)
    assert over_all(cluster, "raftmq_shard_replicas", role="follower") == 8
    before = over_all(cluster, "raftmq_shard_sessions"), over_all(cluster, "raftmq_shard_queued_messages")
    client = Client(cluster.nodes[0], "counted", expiry=600)
    assert not client.connected()
    client.subscribe("counted/#", 1)
    client.close()
    publisher = Client(cluster.nodes[1], "counting")
    publisher.connected()
    publisher.publish("counted/1", numbers(0, 30))
    publisher.close()
    counted = lambda: (over_all(cluster, "raftmq_shard_sessions"), over_all(cluster, "raftmq_shard_queued_messages"))  # noqa: E731
    wait_until("one session, 30 messages", lambda: counted() == (before[0] + 1, before[1] + 30), 10)
    # Nothing of a session is on one node alone; what a node's stop would take is the quorum of nothing.
    name = cluster.nodes[2].name
    loss = cluster.ctl("loss", name)
    assert loss["nothing"] and loss["memory"]["sessions"] == 0, loss
    assert {group["group"] for group in loss["groups"]} >= {f"shard {number}" for number in range(4)}, loss


def test_a_client_has_one_connection_in_the_cluster(cluster):
    first = Client(cluster.nodes[0], "one", returns=False)
    first.connected()
    begun = time.monotonic()
    second = Client(cluster.nodes[1], "one", returns=False)
    assert not second.connected()
    first.wait("the older connection's end", lambda: first.of("disconnect"))
    assert first.of("disconnect")[0][1] == "Session taken over"
    print(f"taken over in {time.monotonic() - begun:.3f} s")
    # Back and forth between the others, without a pause.
    ends = [second]
    for turn in range(10):
        ends.append(Client(cluster.nodes[turn % 3], "one", returns=False))
        ends[-1].connected()
    for older in ends[:-1]:
        older.wait("an older connection's end", lambda older=older: older.of("disconnect"))
    assert not ends[-1].of("disconnect")
    first.paho.loop_stop()
    for end in ends:
        end.close()


def test_who_is_taken_over_while_something_is_kept_for_it_is_told_so(cluster):
    """What it sends meets a shard that knows of its newer connection, before its own node does."""
    older = Client(cluster.nodes[0], "busy", expiry=600, returns=False)
    assert not older.connected()
    older.subscribe("busy", 2)
    told, ends = [], [older]
    for turn in range(60):
        older.publish("busy", numbers(0, 60), 2, acknowledged=False)
        older.paho.subscribe([(f"busy/{turn}/{number}", 1) for number in range(5)])
        newer = Client(cluster.nodes[(turn + 1) % 3], "busy", expiry=600, returns=False)
        assert newer.connected()
        older.wait("the older connection's end", lambda older=older: older.of("disconnect"))
        told.append(older.of("disconnect")[0][1])
        ends.append(newer)
        older = newer
    for end in ends:
        end.close()
    # A SUBSCRIBE that comes too late has no answer, which might be taken for the last word.
    subacks = {code for end in ends for event in end.of("suback") for code in event[2]}
    assert subacks <= {"Granted QoS 1", "Granted QoS 2"}, subacks
    assert told == ["Session taken over"] * len(told), (told.count("Session taken over"), len(told), set(told))


def test_a_connection_is_taken_over_on_its_own_node(cluster):
    """What the client gets, and a later takeover, find the newer connection."""
    one, two, _ = cluster.nodes
    publisher = Client(two, "again-publisher")
    publisher.connected()
    older = Client(one, "again", expiry=600)
    assert not older.connected()
    older.subscribe("again", 1)
    ends = [older]
    for turn in range(6):
        newer = Client(one, "again", expiry=600)
        assert newer.connected()
        older.wait("the older connection's end", lambda older=older: older.of("disconnect"))
        publisher.publish("again", [str(turn)])
        # What came before may come again: its acknowledgement was not kept yet.
        came = lambda newer=newer, turn=turn: str(turn).encode() in {message.payload for message in newer.received}  # noqa: E731
        newer.wait("the message", came)
        ends.append(newer)
        older = newer
    ends.append(Client(two, "again", expiry=600))
    assert ends[-1].connected()
    older.wait("the last connection's end on the first node", lambda: older.of("disconnect"))
    assert older.of("disconnect")[0][1] == "Session taken over"
    for end in [*ends, publisher]:
        end.close()


def test_a_session_is_resumed_on_another_node_with_what_it_missed(cluster):
    one, two, three = cluster.nodes
    publisher = Client(one, "publisher")
    publisher.connected()
    subscriber = Client(two, "durable", expiry=3600)
    assert not subscriber.connected()
    subscriber.subscribe("missed/#", 1)
    subscriber.subscribe("twice/#", 2)
    publisher.publish("missed/1", numbers(0, 100))
    assert subscriber.payloads(100) == numbers(0, 100)
    subscriber.close()
    publisher.publish("missed/1", numbers(100, 400))
    publisher.publish("twice/1", ["exactly"], qos=2)
    subscriber = Client(three, "durable", expiry=3600)
    assert subscriber.connected()
    assert subscriber.payloads(301) == [*numbers(100, 400), "exactly"]
    assert subscriber.received[-1].qos == 2
    # Nothing after UNSUBACK, and nothing of the session after its end.
    subscriber.unsubscribe("missed/#")
    publisher.publish("missed/1", ["late"])
    publisher.publish("twice/1", ["last"], qos=2)
    assert subscriber.payloads(302)[-1] == "last"
    subscriber.close()
    fresh = Client(one, "durable")
    assert not fresh.connected()
    fresh.close()
    again = Client(two, "durable", expiry=3600)
    assert not again.connected()
    again.close()
    publisher.close()


def test_a_session_is_resumed_on_a_connection_that_it_ends_with(cluster):
    """MQTT 5: without Clean Start it goes on, and its expiry interval of 0 counts when this connection ends."""
    one, two, three = cluster.nodes
    publisher = Client(one, "publisher")
    publisher.connected()
    subscriber = Client(two, "ends", expiry=3600)
    subscriber.connected()
    subscriber.subscribe("ends", 2)
    subscriber.close()
    publisher.publish("ends", numbers(0, 50), qos=2)
    subscriber = Client(three, "ends", expiry=0, clean=False)
    assert subscriber.connected()
    assert subscriber.payloads(50) == numbers(0, 50)
    publisher.publish("ends", numbers(50, 60))
    assert subscriber.payloads(60) == numbers(0, 60)
    subscriber.close()
    again = Client(one, "ends", expiry=3600)
    assert not again.connected()
    again.close()
    publisher.close()


def test_nothing_acknowledged_is_lost_when_a_node_dies(cluster):
    one, two, three = cluster.nodes
    publisher = Client(one, "publisher-2")
    publisher.connected()
    subscriber = Client(three, "survivor", expiry=3600)
    subscriber.connected()
    subscriber.subscribe("death/#", 1)
    publisher.publish("death/1", numbers(0, 50))
    three.kill()
    begun = time.monotonic()
    publisher.publish("death/1", numbers(50, 150))
    print(f"100 messages acknowledged {time.monotonic() - begun:.2f} s after a node's death")
    resumed = Client(two, "survivor", expiry=3600)
    assert resumed.connected()
    print(f"resumed elsewhere {time.monotonic() - begun:.2f} s after it")
    resumed.wait("all messages", lambda: len({m.payload for m in subscriber.received + resumed.received}) == 150, 40)
    found = {message.payload.decode() for message in subscriber.received + resumed.received}
    assert found == set(numbers(0, 150))
    # In order, but for what was not acknowledged to the node that died.
    assert resumed.payloads(1) == sorted(resumed.payloads(1), key=int)
    resumed.close()
    publisher.close()
    three.start()
    cluster.wait_ready()
