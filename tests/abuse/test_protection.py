"""What protects a node from clients of MQTT's own kind: flapping ones are banned, what is beyond a limit is refused. Others do not wait."""

import contextlib
import itertools
import struct
import threading
import time

import packets
import pytest
from broker import Counted
from good import served
from peer import Peer
from wire import packet, text

BANNED = 0x8A
TOPIC_NAME_INVALID, TOPIC_FILTER_INVALID, QUOTA_EXCEEDED = 0x90, 0x8F, 0x97
LIMITS = {"maxTopicLevels": 4, "maxTopicLength": 64, "maxSubscriptions": 3, "maxUserProperties": 2}
SECONDS = 4


def crowd(work, threads=4):
    """Runs `work(number)` in threads, over and over for some seconds; says how often, and fails with what one of them failed with."""
    end, counts, errors = time.monotonic() + SECONDS, [0] * threads, []

    def loop(number):
        try:
            while time.monotonic() < end and not errors:
                work(number)
                counts[number] += 1
        except Exception as error:  # noqa: BLE001: shown below
            errors.append(error)

    running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts)


@pytest.mark.parametrize("broker", [{"flapping": {"enable": True, "maxCount": 10, "window": "1m", "banTime": "1m"}}], indirect=True)
def test_flapping_clients(broker):
    """Each of 20 identifiers in turn on all transports, as fast as it goes: ten CONNECT packets of each are taken, and few more."""
    transports, numbers = ("tcp", "ws", "tcp", "wss"), itertools.count()
    taken = dict.fromkeys(range(20), 0)
    lock = threading.Lock()

    def connect(thread):
        with lock:
            number = next(numbers)
        with contextlib.closing(Peer(broker, transports[thread], number).upgraded()) as peer:
            peer.send(packets.connect(f"flapping-{number % 20}", level=5))
            first, body = peer.receive()
            assert first == 0x20 and body[1] in (0, BANNED), body
            if body[1] == 0:
                with lock:
                    taken[number % 20] += 1
                peer.send(packets.DISCONNECT)

    with served(broker, f"flapping clients for {SECONDS} s"):
        counted = Counted(broker)
        tried = crowd(connect)
        # One that goes on while its ban is on its way is found again.
        assert counted("flapping_clients_total") >= 20
        broker.wait_metric(20, "bans")
        counted.wait(tried - sum(taken.values()), "bans_refused_total")
    print(f"  {tried} connects of 20 clients, {sum(taken.values())} taken")
    assert tried > 400, "too few to say anything"
    # A ban is looked at four times a second.
    assert all(10 <= count < 10 + tried / 20 / 2 for count in taken.values()), taken


@pytest.mark.parametrize("broker", [LIMITS], indirect=True)
def test_clients_that_want_more_than_they_may(broker):
    """Topics too deep and too long, too many subscriptions and user properties: each is answered, and the client stays."""
    peers = [Peer(broker, ("tcp", "ws", "tls", "wss")[number], number).connect(f"greedy-{number}", level=5) for number in range(4)]
    properties = b"".join(bytes([0x26]) + text("k") + text("v") for _ in range(3))

    def publish(topic, properties=b""):
        return packet(0x32, text(topic) + struct.pack(">H", 7) + bytes([len(properties)]) + properties)

    def ask(number):
        peer = peers[number]
        for sent, answer, reason in (
            (publish("a/b/c/d/e"), 0x40, TOPIC_NAME_INVALID),
            (publish("a" * 65), 0x40, TOPIC_NAME_INVALID),
            (publish("a", properties), 0x40, QUOTA_EXCEEDED),
            (packets.subscribe("a/b/c/d/#", level=5), 0x90, TOPIC_FILTER_INVALID),
            (packets.subscribe("s/1", "s/2", "s/3", "s/4", level=5), 0x90, QUOTA_EXCEEDED),
        ):
            peer.send(sent)
            first, body = peer.receive()
            reasons = body[2] if answer == 0x40 else body[-1]
            assert (first, reasons) == (answer, reason), (sent, first, body)

    with served(broker, f"clients that want more than they may for {SECONDS} s"):
        counted = Counted(broker)
        times = crowd(ask)
        for limit, each in (("topic", 3), ("user_properties", 1), ("subscriptions", 1)):
            counted.wait(each * times, "limits_met_total", limit=limit)
        assert broker.metric("subscriptions") == 4 * 3 + 1
    for peer in peers:
        peer.disconnect()
