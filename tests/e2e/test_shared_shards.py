"""Groups of durable sessions in a cluster with shards: one queue a group, each message to one member, and again where that does not acknowledge it."""

import time

import pytest
from harness import LocalCluster, metric_sum
from test_durable import Client


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(config={"shards": {"count": 4}}) as cluster:
        yield cluster.start()


def connect(node, name, expiry=600, clean=None):
    client = Client(node, name, expiry, clean)
    client.name, client.present = name, client.connected()
    return client


def payloads(*clients):
    return sorted(message.payload.decode() for client in clients for message in client.received)


def named(prefix, count):
    return sorted(f"{prefix}-{number}" for number in range(count))


def wait_for(expected, *clients):
    """All of them have come, each once, and nothing else."""
    deadline = time.monotonic() + 30
    while len(payloads(*clients)) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert payloads(*clients) == expected, (len(payloads(*clients)), len(expected))


def forget(*clients):
    for client in clients:
        client.received.clear()


def test_each_message_goes_to_one_member_and_waits_where_there_is_none(cluster):
    a, b, c = cluster.nodes
    publisher = connect(c, "jobs", expiry=0)
    one, two = connect(a, "one"), connect(b, "two")
    for member in (one, two):
        member.subscribe("$share/crew/jobs/+", 1)
    publisher.publish("jobs/x", named("both", 200))
    wait_for(named("both", 200), one, two)
    assert min(len(one.received), len(two.received)) > 40, (len(one.received), len(two.received))
    # One is away: the other one gets all.
    one.close()
    forget(one, two)
    publisher.publish("jobs/x", named("two", 50))
    wait_for(named("two", 50), two)
    # Both are: it waits for whoever comes first, on whatever node.
    two.close()
    forget(two)
    publisher.publish("jobs/x", named("later", 50))
    one = connect(c, "one")
    assert one.present
    wait_for(named("later", 50), one)
    # Who has unsubscribed gets nothing, though it is there.
    two = connect(a, "two")
    assert two.present
    two.unsubscribe("$share/crew/jobs/+")
    forget(one)
    publisher.publish("jobs/x", named("one", 50))
    wait_for(named("one", 50), one)
    assert not two.received
    one.unsubscribe("$share/crew/jobs/+")
    for client in (one, two, publisher):
        client.close()


def test_after_suback_every_node_knows_the_group(cluster):
    """The first member of a new group: what is published afterwards, anywhere, is in its queue."""
    publishers = [connect(node, f"first-publisher-{node.name}", expiry=0) for node in cluster.nodes]
    for turn in range(10):
        member = connect(cluster.nodes[turn % 3], f"first-{turn}")
        member.subscribe(f"$share/first/turn/{turn}", 1)
        for publisher in publishers:
            publisher.publish(f"turn/{turn}", [publisher.name])
        wait_for(sorted(publisher.name for publisher in publishers), member)
        member.unsubscribe(f"$share/first/turn/{turn}")
        member.close()
    for publisher in publishers:
        publisher.close()


def test_the_only_member_begins_anew(cluster):
    """Its old queue ends with the last member, and the new one begins: SUBACK says that the new one has what is published from now on."""
    publishers = [connect(node, f"anew-publisher-{node.name}", expiry=0) for node in cluster.nodes]
    shared = "$share/anew/anew"

    def gets_all(member):
        forget(member)
        for publisher in publishers:
            publisher.publish("anew", [publisher.name])
        wait_for(sorted(publisher.name for publisher in publishers), member)

    for turn in range(12):
        node = cluster.nodes[turn % 3]
        member = connect(node, "anew", clean=True)
        assert not member.present
        member.subscribe(shared, 1)
        gets_all(member)
        # Without waiting for UNSUBACK.
        member.paho.unsubscribe(shared)
        member.subscribe(shared, 1)
        gets_all(member)
        member.close()
    for publisher in publishers:
        publisher.close()


def both_get(topic, *members, publisher):
    """Waits until all members take part, as far as that can be seen."""
    deadline, published = time.monotonic() + 20, 0
    forget(*members)
    while not all(member.received for member in members) and time.monotonic() < deadline:
        publisher.publish(topic, ["probe"] * len(members))
        published += len(members)
        time.sleep(0.2)
    assert all(member.received for member in members), [len(member.received) for member in members]
    wait_for(["probe"] * published, *members)
    forget(*members)


def test_members_of_clean_sessions_take_part_in_the_queue(cluster):
    a, b, c = cluster.nodes
    shared = "$share/mixed/m"
    publisher = connect(b, "mixed-publisher", expiry=0)
    clean, exact, durable = connect(a, "clean", expiry=0), connect(b, "exact", expiry=0), connect(c, "durable")
    clean.subscribe(shared, 1)
    exact.subscribe(shared, 2)
    publisher.publish("m", named("clean", 20))
    wait_for(named("clean", 20), clean, exact)
    # The group gets a queue: all three are members of it, each message goes to one of them.
    durable.subscribe(shared, 2)
    both_get("m", clean, exact, durable, publisher=publisher)
    for qos in (1, 2):
        publisher.publish("m", named(f"all-{qos}", 210), qos)
        wait_for(named(f"all-{qos}", 210), clean, exact, durable)
        assert min(len(member.received) for member in (clean, exact, durable)) > 30
        assert {message.qos for message in exact.received} == {qos}
        forget(clean, exact, durable)
    # The durable one is away: nothing waits for it as long as others are there.
    durable.close()
    publisher.publish("m", named("two", 50))
    wait_for(named("two", 50), clean, exact)
    # One has unsubscribed, and subscribes again; the other one leaves without having acknowledged.
    exact.unsubscribe(shared)
    forget(clean, exact)
    clean.paho.manual_ack_set(True)
    publisher.publish("m", named("left", 20), 1)
    clean.wait("what it does not acknowledge", lambda: len(clean.received) == 20)
    assert not exact.received
    exact.subscribe(shared, 2)
    clean.close()
    wait_for(named("left", 20), exact)
    # Nobody is there: it waits for whoever comes, of whatever session.
    exact.close()
    forget(exact)
    publisher.publish("m", named("kept", 40))
    late = connect(a, "late-clean", expiry=0)
    late.subscribe(shared, 1)
    wait_for(named("kept", 40), late)
    # The last member of a durable session leaves, and the group with the last one of all; the next one needs no queue.
    durable = connect(b, "durable")
    durable.unsubscribe(shared)
    forget(late)
    publisher.publish("m", named("rest", 20))
    wait_for(named("rest", 20), late)
    late.unsubscribe(shared)
    late.subscribe(shared, 1)
    forget(late)
    publisher.publish("m", named("again", 20))
    wait_for(named("again", 20), late)
    for client in (late, durable, publisher):
        client.close()


@pytest.mark.parametrize("expiry", [600, 0])
def test_what_a_dead_node_had_goes_to_others(expiry):
    """What its member had not acknowledged comes to another one; nothing is lost, and only what was under way comes twice."""
    with LocalCluster(config={"shards": {"count": 4}}) as cluster:
        cluster.start()
        a, b, c = cluster.nodes
        publisher = connect(a, "publisher", expiry=0)
        stays, dies = connect(c, "stays"), connect(b, "dies", expiry)
        for member in (stays, dies):
            member.subscribe("$share/crew/d", 1)
        publisher.publish("d", named("before", 100))
        dies.wait("its part", lambda: len(dies.received) > 10)
        b.kill()
        publisher.publish("d", named("after", 100))
        expected = set(named("before", 100) + named("after", 100))
        stays.wait("the rest", lambda: set(payloads(stays, dies)) == expected, 40)
        twice = len(payloads(stays, dies)) - len(expected)
        print(f"{len(dies.received)} on the node that died, {twice} of them twice")
        assert len(payloads(stays)) == len(set(payloads(stays))) and twice <= 32
        for client in (stays, publisher):
            client.close()


def acknowledge(client):
    def take(paho, _, message):
        client.note_in(client.received.append, message)
        paho.ack(message.mid, message.qos)

    return take


def test_what_a_member_does_not_acknowledge_in_time_goes_to_others():
    """A member is connected and acknowledges nothing; another one has room for a single message. A third one gets all in the end, and both take part again once they acknowledge."""
    config = {"shards": {"count": 4}, "mqtt": {"sharedSubscription": {"acknowledgeTimeout": "3s"}}}
    with LocalCluster(config=config) as cluster:
        cluster.start()
        a, b, c = cluster.nodes
        works, hangs = connect(a, "works"), connect(b, "hangs")
        narrow = Client(c, "narrow", 600, receive_maximum=1)
        narrow.connected()
        for client in (hangs, narrow):
            client.paho.manual_ack_set(True)
        for client in (works, hangs, narrow):
            client.subscribe("$share/slow/slow", 1)
        publisher = connect(c, "slow-publisher", expiry=0)
        publisher.publish("slow", named("first", 120))
        works.wait("what others do not acknowledge", lambda: set(payloads(works)) == set(named("first", 120)), 30)
        assert len(hangs.received) > 10 and len(narrow.received) >= 1
        # From now on they get one at a time, each three seconds another one, and others get that as well.
        forget(works)
        before = len(hangs.received), len(narrow.received)
        publisher.publish("slow", named("second", 60))
        works.wait("nearly all at once", lambda: len(works.received) >= 58, 10)
        works.wait("the others", lambda: set(payloads(works)) == set(named("second", 60)), 20)
        assert len(hangs.received) <= before[0] + 8 and len(narrow.received) == before[1] == 1, (before, payloads(hangs), payloads(narrow))
        redispatched = sum(metric_sum(node.metrics(), "raftmq_shared_redispatches_total") for node in cluster.nodes)
        assert redispatched >= 20, redispatched
        # They begin to acknowledge: `narrow` what it has had since the beginning.
        had = [(client, [message.mid for message in client.received]) for client in (hangs, narrow)]
        forget(works, hangs, narrow)
        for client, mids in had:
            client.paho.on_message = acknowledge(client)
            for mid in mids:
                client.paho.ack(mid, 1)
        deadline = time.monotonic() + 30
        while not (len(hangs.received) > 20 and len(narrow.received) > 20) and time.monotonic() < deadline:
            publisher.publish("slow", ["x"] * 10)
        assert len(hangs.received) > 20 and len(narrow.received) > 20, (len(works.received), len(hangs.received), len(narrow.received))
        for client in (works, hangs, narrow, publisher):
            client.close()
