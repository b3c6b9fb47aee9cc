"""Packets that are too large, empty, or none at all: each takes its own connection down and no other, and is counted."""

import contextlib
import random

import packets
import pytest
from broker import Counted
from good import served
from peer import UPGRADE, Peer, raw_socket

MAX_PACKET = 1024 * 1024
TRANSPORTS = ("tcp", "tls", "ws", "wss")


def remaining_length(value, digits):
    """A remaining length of so many bytes, also of more than it needs or may have."""
    return bytes([(value >> 7 * at) & 0x7F | (0x80 if at < digits - 1 else 0) for at in range(digits)])


def closed_with(peer, level):
    """The reason that the broker closes with: of its DISCONNECT to a client of MQTT 5; one of 3.1.1 is told nothing."""
    rest = peer.until_closed()
    if level != 5:
        assert rest == [], f"an MQTT 3 client was told {rest}"
        return None
    assert len(rest) == 1 and rest[0][0] == 0xE0, rest
    return rest[0][1][0]


def test_a_packet_beyond_the_limit_is_refused_at_its_header(broker):
    each = 100
    with served(broker, "packets that are too large"):
        counted, before = Counted(broker), broker.rss()
        peers = []
        for size, reason in ((remaining_length(MAX_PACKET, 3), 0x95), (b"\xff\xff\xff\x7f", 0x95)):
            for number in range(each):
                level = 4 + number % 2
                peer = Peer(broker, TRANSPORTS[number % 4], number).connect(f"huge-{size.hex()}-{number}", level=level)
                peers.append((peer, level, reason))
                # Nothing but the header, and a little of what it announces: an answer must not wait for the rest.
                peer.send(b"\x30" + size + b"\0\5topic")
        for peer, level, reason in peers:
            assert closed_with(peer, level) == (reason if level == 5 else None)
        counted.wait(len(peers), "clients_disconnected_total", reason="packet_too_large")
        # Of five bytes, the highest bit of the fourth set: none at all.
        for number in range(each):
            level = 4 + number % 2
            peer = Peer(broker, TRANSPORTS[number % 4], number).connect(f"five-{number}", level=level)
            peer.send(b"\x30" + remaining_length(1, 5))
            assert closed_with(peer, level) == (0x81 if level == 5 else None)
        counted.wait(each, "clients_disconnected_total", reason="malformed_packet")
        # Before CONNECT as well, where nobody is known yet.
        for number in range(each):
            peer = Peer(broker, TRANSPORTS[number % 4], number).upgraded()
            peer.send(b"\x10" + (b"\xff\xff\xff\x7f" if number % 2 else remaining_length(1, 5)))
            # Nothing can be answered to what names no version.
            assert peer.until_closed() == []
        counted.wait(each, "connections_refused_total", reason="protocol")
        assert broker.rss() < before + 32


def test_what_a_header_announces_is_not_allocated(broker):
    """A thousand clients say that they send the largest packet there may be, and send a little of it."""
    with served(broker, "large packets that do not come"):
        before, peers = broker.rss(), []
        for number in range(1000):
            peer = Peer(broker, "tcp", number).connect(f"promise-{number}")
            peer.send(b"\x30" + remaining_length(MAX_PACKET - 4, 3) + b"\0\5topic" + bytes(1000))
            peers.append(peer)
        # A client that asks and is answered was read after them.
        Peer(broker).connect("after").disconnect()
        grown = broker.rss() - before
        assert grown < 64, f"{grown:.0f} MiB for a thousand promises of 1 MiB"
        for peer in peers:
            peer.reset()
        broker.wait_metric(2, "connections")


@pytest.mark.parametrize("level", [4, 5])
def test_an_empty_packet_of_each_type(broker, level):
    # What an empty packet of a type is: None: answered or ignored, else the reason of the DISCONNECT in MQTT 5.
    MALFORMED, PROTOCOL = 0x81, 0x82
    flags = {6: 2, 8: 2, 10: 2}
    with served(broker, f"empty packets of level {level}"):
        counted, ended = Counted(broker), 0
        for kind in range(16):
            first = kind << 4 | flags.get(kind, 0)
            # As the first packet.
            peer = Peer(broker, TRANSPORTS[kind % 4], kind).upgraded()
            peer.send(bytes([first, 0]))
            assert peer.until_closed() == [], f"type {kind} as the first packet"
            # Of a client that is connected.
            peer = Peer(broker, TRANSPORTS[kind % 4], kind).connect(f"empty-{kind}", level=level)
            peer.send(bytes([first, 0]))
            if kind == 12:
                assert peer.receive() == (0xD0, b"")
                peer.disconnect()
            elif kind == 14:
                assert peer.until_closed() == []
            else:
                ended += 1
                reason = closed_with(peer, level)
                assert reason in ((MALFORMED, PROTOCOL) if level == 5 else (None,)), f"type {kind}: {reason:#x}"
        counted.wait(16, "connections_refused_total", reason="protocol")
        counted.wait(2, "clients_disconnected_total", reason="disconnect")
        malformed = counted("clients_disconnected_total", reason="malformed_packet")
        assert malformed + counted("clients_disconnected_total", reason="protocol_error") == ended == 14


def test_noise_ends_its_own_connection_and_is_counted(broker):
    random_bytes = random.Random(5).randbytes
    first, later = 800, 800
    with served(broker, f"{first + later} connections of noise"):
        counted = Counted(broker)
        # Before CONNECT: below TLS, in place of the upgrade, in the frames, as packets.
        peers = []
        for number in range(first):
            transport = TRANSPORTS[number % 4]
            noise = random_bytes(1 + number % 300)
            if number < first // 2:
                peer = Peer.__new__(Peer)
                peer.__dict__.update(socket=raw_socket(broker, transport, number), websocket=False)
                peer.socket.sendall(noise)
            else:
                peer = Peer(broker, transport, number).upgraded()
                # Past the framing for one half.
                (peer.send if number % 8 < 4 else peer.socket.sendall)(noise)
            peers.append(peer)
        for peer in peers:
            drain(peer)
        counted.wait(first, "connections_refused_total")
        reasons = {
            reason: int(counted("connections_refused_total", reason=reason))
            for reason in ("protocol", "tls_handshake", "websocket_upgrade", "timeout")
        }
        # What looks like the beginning of something ends at its time limit, all else at once.
        assert sum(reasons.values()) == first and all(reasons.values()), reasons
        assert reasons["timeout"] < first // 4, reasons
        # After CONNECT.
        peers = []
        for number in range(later):
            peer = Peer(broker, TRANSPORTS[number % 4], number)
            peer.connect(f"noise-{number}", level=4 + number // 4 % 2, keep_alive=2)
            peer.socket.sendall(random_bytes(1 + number % 300))
            peers.append(peer)
        for peer in peers:
            drain(peer)
        counted.wait(later, "clients_disconnected_total")
        ends = {
            reason: int(counted("clients_disconnected_total", reason=reason))
            for reason in ("malformed_packet", "packet_too_large", "protocol_error", "transport", "keep_alive", "closed", "disconnect")
        }
        assert sum(ends.values()) == later, ends
        assert ends["keep_alive"] < later // 4, ends
        broker.wait_metric(2, "connections")
    print(f"  noise before CONNECT: {reasons}; after it: {ends}")


def drain(peer):
    """Until the broker has closed, in any way."""
    try:
        while peer.socket.recv(65536):
            pass
    except ConnectionError:
        pass
    except OSError as error:
        # TLS may end with an alert; a timeout means that it was not closed.
        assert not isinstance(error, TimeoutError), "the broker did not close it"
    finally:
        peer.socket.close()


def test_an_upgrade_without_end(broker):
    """Headers that go on and on are not collected."""
    with served(broker, "endless upgrades"):
        counted, before = Counted(broker), broker.rss()
        endless = UPGRADE[:-2] + b"X-More: " + b"x" * 100 + b"\r\n"
        for number in range(100):
            connection = raw_socket(broker, "ws", number)
            connection.sendall(endless)
            connection.sendall((b"X-More: " + b"x" * 1000 + b"\r\n") * 30)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while data := connection.recv(4096):
                    answer += data
            assert answer.startswith(b"HTTP/1.1 431 "), answer
            connection.close()
        counted.wait(100, "connections_refused_total", reason="websocket_upgrade")
        assert broker.rss() < before + 16
