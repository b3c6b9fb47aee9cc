"""A million topics, retained messages and filters: what is remembered of them is bounded, or answered with a reason."""

import contextlib
import struct
import threading

import packets
import pytest
from broker import Counted
from good import served
from harness import wait_until
from peer import Peer

MILLION = 1_000_000
RETAINED = 100_000
SUBSCRIPTIONS = 100_000
QUOTA_EXCEEDED = 0x97
# What may be left of the memory for a million filters when all are gone, as a share.
LEFT = 0.25


def test_a_million_topics(broker):
    """Every topic is new: what the broker remembers of topics is a cache of some size, whoever has subscribed."""
    with served(broker, "a million topics"):
        counted = Counted(broker)
        reader = Peer(broker, "tcp", 1, timeout=60).connect("reader", keep_alive=0)
        reader.send(packets.subscribe("topics/#", qos=0))
        assert reader.receive()[0] == 0x90
        received, end = 0, threading.Event()

        def read():
            nonlocal received
            with contextlib.suppress(OSError):
                while not end.is_set():
                    reader.receive()
                    received += 1

        threading.Thread(target=read, daemon=True).start()
        publisher = Peer(broker, timeout=60).connect("publisher", keep_alive=0)
        memory = []
        for start in range(0, MILLION, 10_000):
            # As `packets.publish`, quicker: topics of 20 bytes, QoS 0, no payload.
            publisher.send(b"".join(b"\x30\x16\0\x14topics/%013d" % at for at in range(start, start + 10_000)))
            if (start + 10_000) % 250_000 == 0:
                publisher.send(packets.PINGREQ)
                assert publisher.receive()[0] == 0xD0
                memory.append(broker.rss())
        counted.wait(MILLION, "messages_received_total", qos="0")
        lost = lambda: counted("messages_dropped_total")  # noqa: E731
        wait_until("each topic was delivered or counted", lambda: received + lost() == MILLION, 60)
        # The caches are full after the first quarter; the next three leave nothing.
        assert memory[-1] < memory[0] + 12, f"memory grows with the topics: {memory} MiB"
        end.set()
        reader.reset()
        publisher.disconnect()
    print(f"  a million topics: memory {[round(at, 1) for at in memory]} MiB, {received} delivered, {int(lost())} dropped")


@pytest.mark.parametrize("broker", [{"retained": {"maxMessages": RETAINED}, "sys": {"enabled": False}}], indirect=True)
def test_retained_topics_up_to_the_limit(broker):
    over = 20_000
    with served(broker, f"{RETAINED + over} retained topics"):
        counted, before = Counted(broker), broker.rss()
        peer = Peer(broker, timeout=60).connect("retains", level=5, keep_alive=0)

        def publish(payload, numbers):
            answers = []
            for start in range(0, len(numbers), 1000):
                part = numbers[start:start + 1000]
                peer.send(b"".join(
                    packets.publish(f"keep/{at}", payload, level=5, qos=1, identifier=at % 1000 + 1, retain=True)
                    for at in part
                ))
                for at in part:
                    first, body = peer.receive()
                    assert first == 0x40 and struct.unpack(">H", body[:2])[0] == at % 1000 + 1
                    answers.append(body[2] if len(body) > 2 else 0)
            return answers

        answers = publish(b"x" * 50, range(RETAINED + over))
        full = broker.rss()
        assert not any(answer & 0x80 for answer in answers[:RETAINED])
        assert answers[RETAINED:] == [QUOTA_EXCEEDED] * over
        assert broker.metric("retained_messages") == RETAINED
        assert counted("retained_changes_total", change="refused") == over
        assert counted("messages_refused_total", reason="quota") == over
        assert full < before + 64, f"{RETAINED} retained messages of 50 bytes: {full - before:.0f} MiB"
        # A topic that is there may change, and one that is cleared makes room.
        assert publish(b"new", [0])[0] & 0x80 == 0
        publish(b"", [1])
        assert publish(b"y", [RETAINED])[0] & 0x80 == 0
        publish(b"", range(RETAINED + over))
        assert broker.metric("retained_messages") == 0
        peer.disconnect()
    print(f"  {RETAINED} retained: memory {before:.0f} to {full:.0f} MiB, {broker.rss():.0f} MiB when all were cleared")


@pytest.mark.parametrize("broker", [{"maxSubscriptions": SUBSCRIPTIONS}], indirect=True)
def test_a_million_filters_by_clients_up_to_their_limit(broker):
    clients, a_packet = MILLION // SUBSCRIPTIONS, 1000
    with served(broker, "a million filters"):
        counted, before = Counted(broker), broker.rss()
        peers = [Peer(broker, number=number, timeout=120).connect(f"filters-{number}", level=5, keep_alive=0)
                 for number in range(clients)]

        def subscribe(number, filters):
            peers[number].send(packets.subscribe(*filters, level=5, qos=0))
            first, body = peers[number].receive()
            assert first == 0x90
            return list(body[3:])

        for start in range(0, SUBSCRIPTIONS, a_packet):
            for number in range(clients):
                # Every tenth with a wildcard.
                filters = [f"f/{number}/{at}" + ("/+" if at % 10 == 0 else "") for at in range(start, start + a_packet)]
                assert subscribe(number, filters) == [0] * a_packet
        full = broker.rss()
        assert counted("subscriptions") == MILLION
        # One more is one too many, also in the middle of others; one that is there may change.
        for number in range(clients):
            assert subscribe(number, ["one/more", f"f/{number}/1", "another"]) == [QUOTA_EXCEEDED, 0, QUOTA_EXCEEDED]
        assert broker.metric("subscriptions") == MILLION + 1
        assert full < before + 640, f"a million filters: {full - before:.0f} MiB"
        # They are in use: a message finds one of them among all.
        publisher = Peer(broker).connect("publisher")
        publisher.send(packets.publish("f/3/4567", b"found") + packets.publish("f/7/100/level", b"found"))
        assert peers[3].receive()[1].startswith(b"\0\x08f/3/4567")
        assert peers[7].receive()[1].startswith(b"\0\x0df/7/100/level")
        publisher.disconnect()
        for peer in peers:
            peer.reset()
        broker.wait_metric(1, "subscriptions", 60)
        broker.rss_below(before + LEFT * (full - before))
    print(f"  a million filters: memory {before:.0f} to {full:.0f} MiB, {broker.rss():.0f} MiB when all were gone")
