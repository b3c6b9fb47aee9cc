"""Shared subscriptions, wills, events and `$SYS` over the nodes of a cluster."""

import collections
import json
import os
import signal
import threading
import time

import paho.mqtt.client as paho
from harness import Client, LocalCluster, metric_sum, wait_until
from wire import Wire


def _numbers(clients, topic):
    return collections.Counter(payload for client in clients for _, payload, _ in client.received(topic))


def test_shared_subscriptions_over_nodes_give_each_message_to_one_living_member():
    with LocalCluster() as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        members = {
            name: Client(node.mqtt, client_id=name)
            for name, node in [("m1", one), ("m2a", two), ("m2b", two), ("m3", three)]
        }
        for member in members.values():
            member.subscribe("$share/workers/jobs/#", qos=1)
        everything = Client(three.mqtt, client_id="all")
        everything.subscribe("jobs/#", qos=1)
        publishers = [Client(node.mqtt, client_id=f"p{at}") for at, node in enumerate(cluster.nodes)]
        for number in range(120):
            publishers[number % 3].publish("jobs/a", str(number))
        wanted = collections.Counter(str(number) for number in range(120))
        wait_until("every message is with a member", lambda: _numbers(members.values(), "jobs/a") == wanted)
        wait_until("and with who is in no group", lambda: _numbers([everything], "jobs/a") == wanted)
        counts = {name: len(member.received("jobs/a")) for name, member in members.items()}
        assert all(20 <= count <= 40 for count in counts.values()), f"in turn over all nodes: {counts}"

        # A member takes messages, acknowledges none and dies: the others get them, each once.
        before = _sent(two)
        lazy = Wire(two.mqtt, "lazy")
        lazy.subscribe("$share/lazy/tasks", qos=1)
        for number in range(10):
            publishers[0].publish("tasks", str(number))
        wait_until("the lazy member was sent all of them", lambda: _sent(two) >= before + 10)
        heir = Client(three.mqtt, client_id="heir")
        heir.subscribe("$share/lazy/tasks", qos=1)
        lazy.socket.close()
        tasks = collections.Counter(str(number) for number in range(10))
        wait_until("the heir has what was not acknowledged", lambda: _numbers([heir], "tasks") == tasks)

        # A node dies: what is published from now on goes to members that live, each message to one.
        three.kill()
        alive = [members[name] for name in ("m1", "m2a", "m2b")]
        seen = len(members["m3"].received("jobs/a"))

        for number in range(200, 500):
            publishers[number % 2].publish("jobs/b", str(number))
            # Until the others have agreed that it is dead, and after.
            time.sleep(0.03)
        wanted = collections.Counter(str(number) for number in range(200, 500))
        wait_until("every message is with a living member", lambda: _numbers(alive, "jobs/b") == wanted)
        assert len(members["m3"].received("jobs/a")) == seen


def _sent(node):
    return metric_sum(node.metrics(), "raftmq_shared_dispatches_total")


def test_wills_events_and_the_sys_tree_reach_all_nodes():
    with LocalCluster() as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        watcher = Client(three.mqtt, client_id="watcher")
        watcher.subscribe("will/#", "$SYS/brokers/+/clients/+/+", "$SYS/brokers/+/uptime", qos=1)

        def event(client, kind):
            topics = [message for message in watcher.messages if message[0].endswith(f"/clients/{client}/{kind}")]
            return [(topic.split("/")[2], json.loads(payload)) for topic, payload, _ in topics]

        dead = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="dead")
        dead.will_set("will/dead", "gone", qos=1)
        dead.connect("127.0.0.1", one.mqtt)
        dead.loop_start()
        wait_until("the event of its coming", lambda: event("dead", "connected"))
        node, told = event("dead", "connected")[0]
        assert told["clientid"] == "dead" and told["proto_ver"] == 4
        dead.subscribe("a/b", qos=1)
        wait_until("the event of its subscription", lambda: event("dead", "subscribed"))
        # It says nothing any more.
        dead.socket().close()
        wait_until("its will", lambda: watcher.received("will/dead", "gone"))
        wait_until("the event of its end", lambda: event("dead", "disconnected"))
        assert event("dead", "disconnected")[0][0] == node
        dead.loop_stop()
        dead.disconnect()

        # Each node says how long it has been there, and all hear it.
        def heard():
            return {topic.split("/")[2] for topic, _, _ in watcher.messages if topic.endswith("/uptime")}

        wait_until("uptimes of three nodes", lambda: len(heard()) == 3, 45)
        # What a node retains it retains itself.
        with Client(two.mqtt, client_id="late") as late:
            late.subscribe("$SYS/brokers/+/version")
            wait_until("the node's own version", lambda: late.messages)


def test_a_node_that_hangs_keeps_no_message_of_a_group():
    with LocalCluster() as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        members = [Client(two.mqtt, client_id="m2"), Client(three.mqtt, client_id="m3")]
        for member in members:
            member.subscribe("$share/workers/jobs", qos=1)
        publisher = Client(one.mqtt, client_id="p")
        wait_until("both get messages", lambda: publisher.publish("jobs", "x") is None and all(m.messages for m in members))
        three.pause()
        try:
            for number in range(200):
                publisher.publish("jobs", str(number))
                time.sleep(0.01)
            wanted = {str(number) for number in range(200)}
            # Those that were on their way to it when it stopped come back when it is declared dead.
            wait_until("the living member has all", lambda: wanted <= set(_numbers(members[:1], "jobs")), 30)
            again = {number: count for number, count in _numbers(members[:1], "jobs").items() if count > 1 and number != "x"}
            assert not again
        finally:
            os.kill(three.pid, signal.SIGCONT)


def test_a_node_that_stops_hands_over_what_its_clients_leave():
    count, wills = 800, 50
    with LocalCluster() as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        # On both of its workers; they acknowledge nothing.
        lazy = [Wire(one.mqtt, f"lazy{at}") for at in range(8)]
        for member in lazy:
            member.subscribe("$share/workers/tasks", qos=1)
        publisher = Wire(two.mqtt, "publisher")
        for number in range(count):
            publisher.publish("tasks", str(number).encode().ljust(8_000))
        wait_until("all are with members there", lambda: _sent(one) >= count)
        # Enough of them that their queues hold it all.
        heirs = [Client(three.mqtt, client_id=f"heir{at}") for at in range(4)]
        for heir in heirs:
            heir.subscribe("$share/workers/tasks", qos=1)
        watcher = Client(two.mqtt, client_id="watcher")
        watcher.subscribe("will/#", qos=1)
        mortal = []
        for at in range(wills):
            client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"mortal{at}")
            client.will_set(f"will/{at}", "w" * 60_000, qos=1)
            client.connect("127.0.0.1", one.mqtt)
            # So that it does not connect again when the node is back.
            client.on_disconnect = lambda client, *_: client.disconnect()
            client.loop_start()
            mortal.append(client)
        wait_until("they are there", lambda: all(client.is_connected() for client in mortal))
        os.kill(one.pid, signal.SIGTERM)
        wait_until("all wills", lambda: len({topic for topic, _, _ in watcher.messages}) == wills)
        wanted = collections.Counter(str(number) for number in range(count))
        got = lambda: collections.Counter(payload.strip() for payload in _numbers(heirs, "tasks").elements())
        wait_until("each message of the group once", lambda: got() == wanted)
        # Their threads end by themselves; to wait for each takes half a second.
        for client in mortal:
            client.disconnect()


class _Stream(threading.Thread):
    """Publishes to a topic at a steady rate, QoS 1, each number once, until it is stopped."""

    def __init__(self, port, topic, pause=0.002):
        super().__init__()
        self.publisher, self.topic, self.pause = Wire(port, "stream", timeout=30), topic, pause
        self.count, self.going = 0, True
        self.start()

    def run(self):
        while self.going:
            self.publisher.publish(self.topic, str(self.count).encode())
            self.count += 1
            time.sleep(self.pause)

    def stop(self):
        self.going = False
        self.join()
        return collections.Counter(str(number) for number in range(self.count))


def test_a_node_that_stops_loses_nothing_that_is_on_its_way_to_it():
    """Its members take a third of what is published on another node, until it stops."""
    with LocalCluster() as cluster:
        cluster.start()
        one, _two, three = cluster.nodes
        members = [Client(node.mqtt, client_id=f"steady{at}") for at, node in enumerate(cluster.nodes)]
        for member in members:
            member.subscribe("$share/steady/s", qos=1)
        stream = _Stream(one.mqtt, "s")
        try:
            wait_until("all have some", lambda: all(len(member.messages) > 50 for member in members))
            os.kill(three.pid, signal.SIGTERM)
            wait_until("it has ended", lambda: "raftmq::node: stopped" in three.log())
            ended = stream.count
            wait_until("more is published", lambda: stream.count > ended + 200)
        finally:
            wanted = stream.stop()
        wait_until("each message", lambda: set(wanted) <= set(_numbers(members, "s")))
        time.sleep(0.5)
        again = {number: count for number, count in _numbers(members, "s").items() if count > 1}
        # What its member had got and not acknowledged yet.
        assert len(again) <= 5, f"of {len(wanted)} came more than once: {again}"
        assert metric_sum(one.metrics(), "raftmq_messages_dropped_total") == 0


def test_a_node_that_was_frozen_gives_nothing_to_others_that_they_have():
    """While it hangs, what it does not take goes to others; when it goes on, it finds in its sockets what they have had."""
    with LocalCluster() as cluster:
        cluster.start()
        one, _two, three = cluster.nodes
        members = [Client(node.mqtt, client_id=f"frozen{at}") for at, node in enumerate(cluster.nodes)]
        for member in members:
            member.subscribe("$share/frozen/f", qos=1)
        stream = _Stream(one.mqtt, "f")
        try:
            wait_until("all have some", lambda: all(len(member.messages) > 50 for member in members))
            os.kill(three.pid, signal.SIGSTOP)
            try:
                wait_until("it is declared down", lambda: metric_sum(one.metrics(), "raftmq_members", state="down") == 1)
                down = stream.count
                wait_until("more is published", lambda: stream.count > down + 200)
            finally:
                os.kill(three.pid, signal.SIGCONT)
            wait_until("it serves again", three.ready)
        finally:
            wanted = stream.stop()
        wait_until("each message came", lambda: set(wanted) <= set(_numbers(members, "f")))
        time.sleep(1)
        again = {number: count for number, count in _numbers(members, "f").items() if count > 1}
        # What it had in its hands when it was frozen it may have acknowledged or not.
        assert len(again) <= 5, f"{len(again)} came again, of {len(wanted)}: {sorted(again, key=int)[:20]}"


def _shares(strategy, publish, members=((0, "m0"), (1, "m1"), (1, "m1b"), (2, "m2"))):
    """How many messages each member of a group gets, its members on all nodes; `publish(publishers)` gives their number."""
    with LocalCluster(config={"mqtt": {"sharedSubscription": {"strategy": strategy}}}) as cluster:
        cluster.start()
        clients = {name: Client(cluster.nodes[node].mqtt, client_id=name) for node, name in members}
        for client in clients.values():
            client.subscribe("$share/g/s/#", qos=1)
        publishers = [Client(node.mqtt, client_id=f"p{at}") for at, node in enumerate(cluster.nodes)]
        count = publish(publishers)
        wait_until("each message came once", lambda: sum(len(c.messages) for c in clients.values()) == count)
        return {name: collections.Counter(topic for topic, _, _ in c.messages) for name, c in clients.items()}


def test_the_local_strategy_stays_on_the_node_of_the_publisher():
    def publish(publishers):
        for number in range(60):
            publishers[number % 3].publish(f"s/{number % 3}", "x")
        return 60

    shares = _shares("local", publish)
    assert shares["m0"] == {"s/0": 20} and shares["m2"] == {"s/2": 20}
    assert shares["m1"] == shares["m1b"] == {"s/1": 10}


def test_hash_by_topic_is_the_same_from_every_node():
    def publish(publishers):
        for publisher in publishers:
            for topic in range(30):
                publisher.publish(f"s/{topic}", "x")
        return 90

    shares = _shares("hashTopic", publish)
    assert all(count == 3 for member in shares.values() for count in member.values()), shares
    assert sum(1 for member in shares.values() if member) > 1
