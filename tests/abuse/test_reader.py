"""A subscriber that never reads, while others publish to it as fast as they can."""

import threading
import time

import packets
import pytest
from broker import Counted
from good import served
from harness import wait_until
from peer import Peer

TRANSPORTS = ("tcp", "tls", "ws", "wss")
PAYLOAD = 1000
# What may wait for a client, as it is set here: encoded for its socket, and in its session.
OUTBOUND, QUEUED, INFLIGHT = 1 << 20, 1000, 128
LIMITS = {"maxOutboundBytes": "1MiB", "maxQueuedMessages": QUEUED, "maxInflight": INFLIGHT}
# More than the kernel keeps of a connection, both ends together.
KERNEL = 8 << 20


def flood(broker, qos, messages):
    """Publishes as fast as the broker takes it; QoS 1 in a window that is kept full."""
    peer = Peer(broker, "tcp", timeout=60).connect("flood", keep_alive=0)
    window = 500
    for start in range(0, messages, window):
        peer.send(b"".join(
            packets.publish("flood/t", bytes(PAYLOAD), qos=qos, identifier=at % 60_000 + 1)
            for at in range(start, start + window)
        ))
        if qos and start:
            acknowledged(peer, window)
    if qos:
        acknowledged(peer, window)
    # All of it was read when this is answered.
    peer.send(packets.PINGREQ)
    assert peer.receive()[0] == 0xD0
    peer.disconnect()


def acknowledged(peer, count):
    for _ in range(count):
        assert peer.receive()[0] == 0x40


class Highest(threading.Thread):
    """The most memory that the broker has while this runs."""

    def __init__(self, broker):
        super().__init__()
        self.broker, self.mib, self.done = broker, broker.rss(), threading.Event()

    def run(self):
        while not self.done.wait(0.02):
            self.mib = max(self.mib, self.broker.rss())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()


@pytest.mark.parametrize("broker", [LIMITS], indirect=True)
@pytest.mark.parametrize("qos, messages", [(0, 30_000), (1, 10_000)])
def test_who_never_reads_costs_what_is_set_and_no_more(broker, qos, messages):
    with served(broker, f"readers that never read, QoS {qos}"):
        counted = Counted(broker)
        readers = []
        # Several of each transport, so that there are some on each worker.
        for number in range(12):
            peer = Peer(broker, TRANSPORTS[number % 4], number, receive_buffer=4096)
            peer.connect(f"deaf-{number}", keep_alive=0)
            peer.send(packets.subscribe("flood/#", qos=qos))
            assert peer.receive()[0] == 0x90
            readers.append(peer)
        before, begin = broker.rss(), time.monotonic()
        with Highest(broker) as highest:
            flood(broker, qos, messages)
        took = time.monotonic() - begin
        if qos:
            # What waits in a session is shared by all, and exactly as much as may; that of the sockets is less than in flight.
            reason = "session_queue_full"
            least = len(readers) * (messages - QUEUED - INFLIGHT)
            most = len(readers) * (messages - QUEUED)
            allowed = (len(readers) * INFLIGHT + QUEUED + INFLIGHT) * PAYLOAD * 2 / 2**20 + 16
        else:
            reason = "slow_consumer"
            least = len(readers) * (messages - (KERNEL + OUTBOUND) // PAYLOAD)
            most = len(readers) * (messages - OUTBOUND // PAYLOAD // 2)
            # A buffer that grows has twice its size; and the queue between two workers has room for 64 MiB of messages on their way.
            allowed = len(readers) * 2 * OUTBOUND / 2**20 + 64 + 16
        wait_until("drops", lambda: counted("messages_dropped_total", reason=reason) >= least, 10)
        dropped = int(counted("messages_dropped_total", reason=reason))
        assert dropped <= most, f"{dropped} dropped of {messages * len(readers)}: at most {most}"
        grown = highest.mib - before
        assert grown < allowed, f"{grown:.0f} MiB for {len(readers)} readers that do not read, not {allowed:.0f}"
        for peer in readers:
            peer.reset()
        broker.wait_metric(2, "connections")
    print(
        f"  QoS {qos}: {messages} messages in {took:.1f} s to {len(readers)} readers ({len(readers) * messages * PAYLOAD >> 20} MiB), "
        f"memory {before:.0f} MiB, at most {highest.mib:.0f} MiB, {dropped} dropped ({reason})"
    )


@pytest.mark.parametrize("broker", [{"maxOutboundBytes": "64KiB"}], indirect=True)
def test_who_asks_and_never_reads_the_answers_is_not_read(broker):
    """PINGREQ without end: the answers that wait are bounded, because the client is not read any more."""
    with served(broker, "PINGREQs without end"):
        counted, before = Counted(broker), broker.rss()
        peers = [Peer(broker, transport, receive_buffer=4096).connect(f"asks-{transport}") for transport in broker.ports]
        sent = 0
        for peer in peers:
            peer.socket.settimeout(1)
            try:
                for _ in range(400):
                    peer.send(packets.PINGREQ * 50_000)
                    sent += 100_000
                raise AssertionError("40 MB of questions were read")
            except TimeoutError:
                pass
        assert broker.rss() < before + 32
        for peer in peers:
            peer.reset()
        counted.wait(len(peers), "clients_disconnected_total", reason="closed")
    print(f"  PINGREQs without end: {sent >> 20} MiB taken of {len(peers)} connections, memory {before:.0f} to {broker.rss():.0f} MiB")
