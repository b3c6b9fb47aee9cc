"""Between two nodes the connection of forwarded messages stands still for seconds, and goes on: nobody gets an older message after a newer one, and nothing is missing."""

import contextlib
import os
import re
import subprocess
import time

import pytest
from harness import LocalCluster, wait_until
from test_retained_shards import connect

TABLE = "raftmq_test_held_links"
TOPICS = 20


def nft(rules):
    return subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, timeout=30)


@pytest.fixture
def cluster(monkeypatch):
    if os.geteuid() or nft(f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n").returncode:
        pytest.skip("needs root and nft: packets of one connection on loopback are dropped")
    monkeypatch.setenv("RAFTMQ__CLUSTER__SHARDS__COUNT", "4")
    with LocalCluster() as cluster:
        yield cluster.start()


def sent(a, c):
    """Bytes that one node has sent to another, by the ports of its connections."""
    text = subprocess.run(
        ["ss", "-tinpHO", "state", "established", f"dport = :{c.links}"], text=True, capture_output=True, check=True, timeout=30
    ).stdout
    found = {}
    for line in text.splitlines():
        port, count = re.search(r":(\d+)\s+\S+:\d+\s", line), re.search(r"bytes_sent:(\d+)", line)
        if f"pid={a.pid}," in line and port:
            found[int(port[1])] = int(count[1]) if count else 0
    return found


def connection_of_messages(a, c):
    """The port of the connection by which a node forwards."""
    writer, reader = connect(a, "finds-w"), connect(c, "finds-r")
    reader.subscribe("finds", 0)
    writer.paho.publish("finds", "first", 0)
    reader.wait("the first", lambda: reader.received)
    before = sent(a, c)
    for _ in range(50):
        writer.paho.publish("finds", b"x" * 20_000, 0)
    reader.wait("all", lambda: len(reader.received) >= 51)
    after = sent(a, c)
    writer.close()
    reader.close()
    more = {port: count - before.get(port, 0) for port, count in after.items()}
    port = max(more, key=more.get)
    assert more[port] > 1_000_000 > 2 * sum(count for other, count in more.items() if other != port), more
    return port


@contextlib.contextmanager
def held(a, c, port, others):
    """What a node forwards to another is lost on its way, as long as that takes; with new connections, if `others`."""
    new = f"  tcp dport {c.links} tcp flags & (syn | ack) == syn drop\n" if others else ""
    made = nft(
        f"table inet {TABLE} {{\n chain out {{ type filter hook output priority 0;\n"
        f"  tcp sport {port} tcp dport {c.links} drop\n{new} }}\n}}\n"
    )
    assert made.returncode == 0, made.stderr
    try:
        yield
    finally:
        nft(f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n")


# The same connection goes on after four seconds, since no other one can be made; or the nodes make another one when nothing is answered.
@pytest.mark.parametrize(("seconds", "others"), [(4, True), (12, False), (12, True)])
def test_what_changes_meanwhile_comes_in_order(cluster, seconds, others):
    a, _, c = cluster.nodes
    writer = connect(a, "writer")
    names = [f"clock/{number}" for number in range(TOPICS)]
    for name in names:
        writer.retain(name, "0")
    port = connection_of_messages(a, c)
    readers = [connect(c, f"reader-{number}") for number in range(4)]
    number, sent_before = 0, {}

    def write(until):
        nonlocal number
        while time.monotonic() < until:
            number += 1
            writer.paho.publish(names[number % TOPICS], str(number), 1, retain=True)
            time.sleep(0.002)

    with held(a, c, port, others):
        begun = time.monotonic()
        write(begun + 0.2)
        for reader in readers:
            # Asked for while something changes.
            _, mid = reader.paho.subscribe("clock/+", 1)
            while not any(event[1] == mid for event in reader.of("suback")):
                write(time.monotonic() + 0.002)
            sent_before[reader] = number
        write(time.monotonic() + 0.3)
        writer.wait("the PUBACKs", lambda: len(writer.published) >= number + TOPICS)
        time.sleep(max(0, begun + seconds - time.monotonic()))

    def complete(reader):
        last = {message.topic: int(message.payload) for message in reader.received}
        return all(last.get(names[each % TOPICS]) == each for each in range(number - TOPICS + 1, number + 1))

    displaced = 0
    for reader in readers:
        reader.wait("the last of each topic", lambda reader=reader: complete(reader), 40)
        time.sleep(0.5)
        for name in names:
            of_topic = [(message.retain, int(message.payload)) for message in reader.received if message.topic == name]
            numbers = [each for _, each in of_topic]
            assert numbers == sorted(set(numbers)), (name, of_topic)
            due = [each for each in range(sent_before[reader] + 1, number + 1) if names[each % TOPICS] == name]
            assert set(due) <= set(numbers), (name, due, of_topic)
            displaced += not of_topic[0][0]
        reader.close()
    writer.close()
    print(f"{displaced} of {TOPICS * len(readers)} topics changed between SUBACK and the lookup; {number} messages")
    assert displaced, "the lookups were too fast for this test"
    wait_until("no node is silent", lambda: all(node.ready() for node in cluster.nodes), 20)
