"""Retained messages of a cluster that keeps them in shards: acknowledged on one node, there on every other one, whoever dies."""

import struct
import threading
import time

import pytest
from harness import LocalCluster, wait_until
from test_durable import Client
from wire import Wire, text


class Retaining(Client):
    def retain(self, topic, payload, qos=1):
        info = self.paho.publish(topic, payload, qos, retain=True)
        if qos:
            self.wait("PUBACK", lambda: info.mid in self.published)

    def got(self, retained=True):
        return {message.topic: message.payload.decode() for message in self.received if message.retain == retained}


@pytest.fixture
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAFTMQ__CLUSTER__SHARDS__COUNT", "4")
        with LocalCluster() as cluster:
            yield cluster.start()


def connect(node, name, expiry=0):
    client = Retaining(node, name, expiry)
    client.connected()
    return client


def read(node, name, topic_filter, expected, expiry=0, qos=1):
    """What a new subscription is given."""
    client = connect(node, name, expiry)
    client.subscribe(topic_filter, qos)
    client.wait(f"{expected} retained messages", lambda: len(client.received) >= expected, 30)
    time.sleep(0.3)
    assert len(client.received) == expected, [message.topic for message in client.received][:5]
    found = client.got()
    client.close()
    return found


def test_every_node_has_what_was_acknowledged_on_another(cluster):
    a, b, c = cluster.nodes
    writer = connect(a, "writer")
    topics = [f"plant/{number % 7}/{number}" for number in range(1_500)]
    for topic in topics[:50]:
        writer.retain(topic, "old")
    for topic in topics[:-1]:
        writer.paho.publish(topic, "new", 1, retain=True)
    writer.retain(topics[-1], "new")
    writer.retain("other/topic", "x")
    # At once, on another node: each topic once.
    assert read(b, "r1", "plant/+/+", len(topics)) == dict.fromkeys(topics, "new")
    assert read(c, "r2", topics[3], 1) == {topics[3]: "new"}
    # What is removed is gone everywhere.
    writer.retain(topics[3], "")
    assert read(b, "r3", "plant/3/+", sum(topic.startswith("plant/3/") for topic in topics) - 1).get(topics[3]) is None
    # A durable session has them by its queue.
    assert len(read(c, "d1", "plant/5/#", sum(topic.startswith("plant/5/") for topic in topics), expiry=600)) > 100
    writer.close()
    # The node that they were published on dies; then all do.
    a.kill()
    assert len(read(b, "r4", "plant/#", len(topics) - 1)) == len(topics) - 1
    for node in (b, c):
        node.kill()
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready()
    assert read(a, "r5", "plant/#", len(topics) - 1)[topics[10]] == "new"


@pytest.mark.parametrize("under_way", [1, 15])
def test_nobody_gets_an_older_one_after_a_newer_one(cluster, under_way):
    """Subscribers come and go while a topic changes, of clean and of durable sessions, by its name and by a wildcard: the first that comes was acknowledged before SUBSCRIBE or
    is newer, and then come newer ones, of what was published after SUBACK all. The writer waits for each PUBACK, or has some messages under way."""
    writer = connect(cluster.nodes[0], "writer")
    published, acknowledged, over, wrong, looks = [0], [0], threading.Event(), [], [0]

    def write():
        sent = []
        for number in range(1, 100_000):
            if over.is_set():
                return
            published[0] = number
            sent.append(writer.paho.publish("clock", str(number), 1, retain=True).mid)
            while len(sent) - acknowledged[0] >= under_way:
                mid = sent[acknowledged[0]]
                writer.wait("PUBACK", lambda mid=mid: mid in writer.published)
                writer.published.discard(mid)
                acknowledged[0] += 1

    def look(node, name, expiry):
        for turn in range(12):
            client = connect(node, f"{name}-{turn}", expiry)
            before = acknowledged[0]
            client.subscribe("clock" if turn % 2 else "clock/#", 1)
            after = published[0]
            client.wait("something", lambda: len(client.received) > 0)
            time.sleep(0.3)
            got = [(message.retain, int(message.payload)) for message in client.received]
            client.close()
            looks[0] += 1
            numbers = [number for _, number in got]
            promised = [number for number in numbers if number > after]
            in_order = numbers[0] >= before and all(one < other for one, other in zip(numbers, numbers[1:]))
            once = sum(retain for retain, _ in got) <= 1
            # A clean session gets nothing before its SUBACK, and so what is retained first.
            if not expiry:
                in_order = in_order and not any(retain for retain, _ in got[1:])
            if not in_order or not once or promised != list(range(after + 1, after + 1 + len(promised))):
                wrong.append((name, turn, before, after, got))

    writing = threading.Thread(target=write)
    writing.start()
    wait_until("something was written", lambda: acknowledged[0] > 3, 20)
    kinds = [(node, f"{kind}-{node.name}", expiry) for node in cluster.nodes for kind, expiry in (("clean", 0), ("durable", 600))]
    looking = [threading.Thread(target=look, args=kind) for kind in kinds]
    [thread.start() for thread in looking]
    [thread.join() for thread in looking]
    over.set()
    writing.join()
    writer.close()
    print(f"{looks[0]} subscriptions while {acknowledged[0]} messages were written")
    assert looks[0] == 72 and not wrong, (len(wrong), wrong[:3])


def test_a_lookup_leaves_room_in_a_queue():
    """More is retained than the queue of a durable session has room for: what is published while it is looked up comes all the same, and in the end everything has."""
    with LocalCluster(config={"shards": {"count": 4}, "mqtt": {"maxQueuedMessages": 600}}) as cluster:
        cluster.start()
        look_up(*cluster.nodes[:2])


def look_up(a, b):
    writer = connect(a, "writer")
    count = 3_000
    for number in range(count):
        writer.paho.publish(f"many/{number}", "x" * 10, 1, retain=True)
    writer.wait("PUBACKs", lambda: len(writer.published) >= count, 60)
    client = connect(b, "looks", expiry=600)
    client.subscribe("many/#", 1)
    live = [f"live-{number}" for number in range(250)]
    for payload in live:
        writer.paho.publish("many/live", payload, 1)
    client.wait("everything", lambda: len(client.received) >= count + len(live), 60)
    time.sleep(0.3)
    assert len(client.got()) == count and len(client.received) == count + len(live)
    assert [message.payload.decode() for message in client.received if not message.retain] == live
    client.close()
    writer.close()


def test_messages_of_one_publisher_stay_in_order(cluster):
    a, b, _ = cluster.nodes
    reader = connect(b, "reader")
    reader.subscribe("mixed", 1)
    writer = connect(a, "writer")
    for number in range(300):
        writer.paho.publish("mixed", str(number), 1, retain=number % 3 == 0)
    reader.wait("all", lambda: len(reader.received) >= 300, 40)
    assert [int(message.payload) for message in reader.received] == list(range(300))
    reader.close()
    writer.close()


def test_delayed_messages_survive_a_restart_of_everything(cluster):
    a, b, _ = cluster.nodes
    durable = connect(b, "durable", expiry=600)
    durable.subscribe("later/#", 1)
    durable.close()
    writer = connect(a, "writer")
    begun = time.monotonic()
    for number in range(20):
        writer.retain(f"$delayed/20/later/{number}", str(number))
    writer.close()
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready()
    durable = connect(b, "durable", expiry=600)
    durable.wait("all of them", lambda: len(durable.received) >= 20, 60)
    assert time.monotonic() - begun > 19
    time.sleep(1)
    assert sorted(int(message.payload) for message in durable.received) == list(range(20))
    durable.close()
    # They were published with RETAIN.
    assert len(read(a, "reader", "later/+", 20)) == 20


class Twice(Wire):
    """A publisher with a durable session and QoS 2, that goes on with it on another node when one dies."""

    def __init__(self, node, name, under_way=()):
        super().__init__(node.mqtt, name, clean=False)
        # By identifier, in order: the topic, the payload, RETAIN, and whether PUBREC has come.
        self.under_way = {}
        for identifier, (topic, payload, retain, received) in dict(under_way).items():
            self.under_way[identifier] = [topic, payload, retain, received]
            if received:
                self._send(0x62, struct.pack(">H", identifier))
            else:
                self.send(identifier, topic, payload, retain, dup=True)

    def send(self, identifier, topic, payload, retain, dup=False):
        self.under_way.setdefault(identifier, [topic, payload, retain, False])
        self._send(0x34 | (8 if dup else 0) | int(retain), text(topic) + struct.pack(">H", identifier) + payload.encode())

    def answer(self):
        """Takes one answer."""
        first, body = self._read()
        identifier = struct.unpack(">H", body[:2])[0]
        if first >> 4 == 5:
            self.under_way[identifier][3] = True
            self._send(0x62, body[:2])
        else:
            assert first >> 4 == 7, f"unexpected packet {first:#x}"
            del self.under_way[identifier]


@pytest.mark.parametrize("kind", ["retained", "delayed"])
def test_qos_2_is_once_when_its_publishers_node_dies(cluster, kind):
    """Messages that their topic's shard keeps before others get them: a node dies while some are under way, and its publisher sends them again elsewhere."""
    a, b, c = cluster.nodes
    reader = connect(c, "reader", expiry=600)
    reader.subscribe("once/#", 2)
    # The third message of a topic is not retained, and keeps its place.
    retains = (lambda number: number // 5 % 3 < 2) if kind == "retained" else (lambda number: False)
    before = "$delayed/2/" if kind == "delayed" else ""
    rounds, count = 4, 60
    writer, sent, sent_at = Twice(a, "writer"), 0, []
    for dying, living in [(a, b), (b, a)] * (rounds // 2):
        for at in range(count):
            identifier = sent % 1_000 + 1
            sent_at.append(time.monotonic())
            writer.send(identifier, f"{before}once/{sent % 5}", str(sent), retains(sent))
            sent += 1
            if at >= 20 and writer.under_way:
                writer.answer()
        dying.kill()
        while True:
            try:
                while writer.under_way:
                    writer.answer()
                break
            except OSError:
                writer = Twice(living, "writer", writer.under_way)
        dying.start()
        cluster.wait_ready()
    # Behind all that is on its way to these topics, whatever comes twice included.
    for topic in range(5):
        writer.send(1_001 + topic, f"{before}once/{topic}", "end", False)
    while writer.under_way:
        writer.answer()
    ends = lambda: sum(message.payload == b"end" for message in list(reader.received))  # noqa: E731
    reader.wait("all, and the ends", lambda: len(reader.received) >= sent + 5 and ends() == 5, 60)
    numbered = [message for message in reader.received if message.payload != b"end"]
    found = [message.payload.decode() for message in numbered]
    twice = {number for number in found if found.count(number) > 1}
    assert not twice and sorted(map(int, found)) == list(range(sent)), f"twice: {sorted(twice)}"
    if kind == "delayed":
        early = [message.payload for message in numbered if message.timestamp - sent_at[int(message.payload)] < 1.99]
        assert not early, early[:5]
    if kind == "retained":
        for topic in range(5):
            of_topic = [int(number) for number in found if int(number) % 5 == topic]
            assert of_topic == sorted(of_topic), of_topic
        last = {f"once/{topic}": str(max(n for n in range(sent) if n % 5 == topic and retains(n))) for topic in range(5)}
        assert read(a, "late", "once/+", 5) == last
    writer.close()
    reader.close()


def test_a_client_that_forgot_what_it_sent_goes_on(cluster):
    """It comes back with its session, and not with its messages: another message under an identifier that is in use counts as the one before, as MQTT says, whatever kind it is of."""
    a, b, _ = cluster.nodes
    for turn in range(6):
        first = Twice(a, "forgets")
        for identifier in range(1, 20):
            first.send(identifier, f"forgotten/{turn}/{identifier}", "x", retain=True)
        first.socket.close()
        second = Twice((a, b)[turn % 2], "forgets")
        for identifier in range(1, 20):
            second.send(identifier, f"other/{turn}/{identifier}", "x", retain=turn % 3 == 0)
        while second.under_way:
            second.answer()
        second.close()
