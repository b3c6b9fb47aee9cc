"""A node that does not answer: its clients are served elsewhere as soon as it is certainly fenced, and never at both places."""

import time

import pytest
from harness import Client, LocalCluster, wait_until
from wire import Wire, text

FENCED = "its clients may be served elsewhere"
PARTED = "it parts from those that it has left"


@pytest.fixture
def cluster():
    # A node that hangs twice in a row is held to be overloaded, and accepts nobody for a while.
    never = {"loopDelayRefuse": "0s", "loopDelayShed": "0s"}
    with LocalCluster(config={"shards": {"count": 4}, "overload": never}) as cluster:
        yield cluster.start()


def said(cluster, what):
    return sum(node.log().count(what) for node in cluster.nodes)


def follower(cluster):
    """A node that does not lead the meta group: after the death of the one that does, there is an election first."""
    leader = cluster.leader()
    return next(node for node in cluster.nodes if node is not leader)


def test_a_client_of_a_dead_node_comes_back_before_that_is_declared_down(cluster):
    for turn in range(2):
        dead = follower(cluster)
        other = next(node for node in cluster.nodes if node is not dead)
        client = Wire(dead.mqtt, "back", clean=False)
        client.subscribe("back/#")
        declared, fenced = said(cluster, "declared down"), said(cluster, FENCED)
        dead.kill()
        publisher = Wire(other.mqtt, "publisher")
        publisher.publish("back/1", b"%d" % turn)
        publisher.close()
        begun = time.monotonic()
        back = Wire(other.mqtt, "back", clean=False)
        print(f"served elsewhere after {time.monotonic() - begun:.2f} s")
        assert said(cluster, "declared down") == declared
        assert said(cluster, FENCED) == fenced + 1
        assert back.session_present
        assert back.message() == ("back/1", b"%d" % turn)
        back.close()
        dead.start()
        cluster.wait_ready()


def test_a_node_that_goes_on_serves_none_of_those_who_were_taken_from_it(cluster):
    """It hangs for longer than its lease and shorter than it takes to be declared down."""
    before_down = 0
    for turn in range(3):
        hung = follower(cluster)
        first, second = [node for node in cluster.nodes if node is not hung]
        topic = f"turn-{turn}"
        with Client(first.mqtt) as observer:
            observer.subscribe(f"{topic}/#")
            old = Wire(hung.mqtt, "one", clean=False)
            old.subscribe("mine/#")
            beside = Wire(hung.mqtt, "beside")
            declared, parted = said(cluster, "declared down"), said(cluster, PARTED)
            hung.pause()
            try:
                new = Wire(second.mqtt, "one", clean=False)
                assert new.session_present
                # What waits on the node when it goes on.
                old.publish(f"{topic}/stale", b"0", qos=0)
                old._send(0x32, text(f"{topic}/stale") + b"\0\7" + b"1")
                beside.publish(f"{topic}/stale", b"2", qos=0)
                new.publish("mine/1", b"for one")
            finally:
                hung.resume()
            cluster.wait_ready()
            # Nothing was sent to them, and nothing is taken from them.
            for gone in (old, beside):
                with pytest.raises(ConnectionError):
                    gone.message()
            assert new.message() == ("mine/1", b"for one")
            new.publish(f"{topic}/fresh", b"3")
            observer_has = lambda: observer.received(f"{topic}/fresh")  # noqa: E731
            wait_until("what is published elsewhere comes", observer_has, 10)
            assert not observer.received(f"{topic}/stale")
            # Whoever comes back is served there again.
            again = Wire(hung.mqtt, "beside")
            again.publish(f"{topic}/fresh", b"4")
            wait_until("and there again", lambda: len(observer_has()) == 2, 10)
            for client in (new, again):
                client.close()
        if said(cluster, "declared down") == declared:
            before_down += 1
            assert said(cluster, PARTED) == parted + 1
    assert before_down, "the machine is too slow for what is tested here"
