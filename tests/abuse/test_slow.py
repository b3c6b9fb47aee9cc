"""Clients that keep a connection without using it: byte by byte, or gone without a word."""

import ctypes
import select
import socket
import struct
import time

import packets
from broker import CONNECT_TIMEOUT, Counted
from good import served
from harness import wait_until
from peer import UPGRADE, Peer, frame, raw_socket

SLOW = 1000
# Between two bytes of one connection.
STEP = 0.25
# The wheel of the deadlines turns in steps, and a loaded machine is late.
LATE = 2.5


def client_hello():
    """The first bytes of a TLS handshake that OpenSSL makes."""
    import ssl

    outgoing = ssl.MemoryBIO()
    handshake = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        handshake.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("no handshake")


class Trickle:
    """One connection that sends its bytes one at a time."""

    def __init__(self, connection, data):
        self.socket, self.data, self.sent, self.since, self.closed = connection, data, 0, time.monotonic(), None

    def step(self):
        try:
            self.socket.send(self.data[self.sent:self.sent + 1])
            self.sent += 1
        except OSError:
            # Reset: seen when it is read.
            pass


def trickle(all_of_them, until):
    """Sends a byte a step on each, and notes when each was closed; until all are, or the time is over."""
    poll = select.epoll()
    by_file = {one.socket.fileno(): one for one in all_of_them}
    for file in by_file:
        poll.register(file, select.EPOLLIN | select.EPOLLRDHUP)
    due = time.monotonic()
    while by_file and time.monotonic() < until:
        if time.monotonic() >= due:
            due += STEP
            for one in by_file.values():
                one.step()
        for file, _ in poll.poll(max(due - time.monotonic(), 0)):
            one = by_file[file]
            try:
                gone = not one.socket.recv(4096)
            except OSError:
                gone = True
            if gone:
                one.closed = time.monotonic()
                poll.unregister(file)
                del by_file[file]
    poll.close()


def test_a_connect_that_comes_byte_by_byte_ends_at_its_time_limit(broker):
    with served(broker, f"{SLOW} slow connections"):
        counted = Counted(broker)
        # Of each what a good client sends, longer than the time allows for at this pace.
        hello, connect = client_hello(), packets.connect("slow-" + "x" * 200)
        kinds = [("tcp", connect), ("tls", hello), ("ws", UPGRADE), ("wss", hello)]
        slow = [
            Trickle(raw_socket(broker, transport, number), data)
            for number in range(SLOW // 5) for transport, data in kinds
        ]
        # Those that are through the upgrade and only then are slow.
        for number in range(SLOW // 5):
            peer = Peer(broker, "ws", number).upgraded()
            slow.append(Trickle(peer.socket, frame(connect)))
        broker.wait_metric(SLOW + 2, "connections")
        trickle(slow, time.monotonic() + CONNECT_TIMEOUT + LATE)
        open_ones = [one for one in slow if one.closed is None]
        assert not open_ones, f"{len(open_ones)} connections are still open after {CONNECT_TIMEOUT + LATE:.1f} s"
        ages = sorted(one.closed - one.since for one in slow)
        assert ages[0] > CONNECT_TIMEOUT - 0.5, f"closed after {ages[0]:.1f} s: they had {CONNECT_TIMEOUT} s"
        assert all(one.sent < len(one.data) for one in slow), "they were not slow enough"
        counted.wait(SLOW, "connections_refused_total", reason="timeout")
        assert counted("connections_refused_total") == SLOW
        for one in slow:
            one.socket.close()
        broker.wait_metric(2, "connections")
    print(f"  {SLOW} slow connections closed after {ages[0]:.2f} to {ages[-1]:.2f} s")


def test_a_packet_that_comes_byte_by_byte_is_no_sign_of_life(broker):
    keep_alive = 2
    with served(broker, "slow PUBLISHes"):
        counted = Counted(broker)
        data = packets.publish("slow", b"x" * 500)
        slow = []
        for number in range(200):
            peer = Peer(broker, "tcp", number).connect(f"slow-{number}", keep_alive=keep_alive)
            slow.append(Trickle(peer.socket, data))
        begun = time.monotonic()
        # A machine that stands still for some seconds is waited for; that is seen in the time of most.
        trickle(slow, begun + 1.5 * keep_alive + 4 * LATE)
        assert all(one.closed for one in slow), f"{sum(not one.closed for one in slow)} are still open"
        usual = sorted(one.closed - begun for one in slow)[len(slow) // 2]
        assert usual < 1.5 * keep_alive + LATE, f"half of them were open for {usual:.1f} s"
        counted.wait(200, "clients_disconnected_total", reason="keep_alive")
        for one in slow:
            one.socket.close()


class Filter(ctypes.Structure):
    """struct sock_fprog of linux/filter.h"""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def vanish(connection):
    """As if the client's machine had lost its power: what comes to the socket is dropped before TCP sees it, so that nothing is
    acknowledged or reset, and nothing is sent any more. Needs no privilege, unlike a network namespace."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = Filter(1, ctypes.addressof(drop_all))
    SO_ATTACH_FILTER = 26
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(program))


def test_who_vanishes_without_a_word_is_gone_after_one_and_a_half_keep_alives(broker):
    keep_alive, count = 2, 300
    files = broker.files()
    with served(broker, f"{count} clients that vanish"):
        counted = Counted(broker)
        watcher = Peer(broker).connect("watcher", keep_alive=0)
        watcher.send(packets.subscribe("wills/#"))
        assert watcher.receive()[0] == 0x90
        transports = ("tcp", "tls", "ws", "wss")
        gone = [Peer(broker, transports[number % 4], number) for number in range(count)]
        heard = {}
        for number, peer in enumerate(gone):
            will = (f"wills/{number}", b"gone")
            peer.connect(f"half-open-{number}", level=4 + number % 2, keep_alive=keep_alive, will=will)
            vanish(peer.socket)
            heard[f"wills/{number}"] = time.monotonic()
        # The filter holds: a message for it is never acknowledged, and the socket stays as it is.
        ages = []
        for _ in range(count):
            first, body = watcher.receive()
            assert first & 0xF0 == 0x30
            size = int.from_bytes(body[:2])
            ages.append(time.monotonic() - heard.pop(body[2:2 + size].decode()))
            watcher.send(packets.packet(0x40, body[2 + size:4 + size]))
        assert not heard, f"no will of {sorted(heard)[:3]}…"
        assert min(ages) > 1.5 * keep_alive - 0.5, f"a will after {min(ages):.1f} s: too early"
        assert max(ages) < 1.5 * keep_alive + LATE, f"a will after {max(ages):.1f} s: too late"
        counted.wait(count, "clients_disconnected_total", reason="keep_alive")
        assert counted("wills_published_total") == count
        watcher.disconnect()
        # The last packet waits for a reader that is not there; the connection ends all the same.
        broker.wait_metric(2, "connections", 15)
    wait_until("no file is left", lambda: broker.files() <= files, 15)
    for peer in gone:
        peer.socket.close()
    print(f"  {count} clients vanished: wills after {min(ages):.2f} to {max(ages):.2f} s (keep-alive {keep_alive} s)")
