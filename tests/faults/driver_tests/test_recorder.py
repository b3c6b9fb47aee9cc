"""A tap writes down exactly what passes, and the checker reads it."""

import json
import struct

import pytest

from checker.history import History
from driver import packets
from driver.paho_client import TappedSocket
from driver.recorder import Recorder, Tap


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(tmp_path / "history.jsonl", seed=1, settle=1)
    yield made
    made.close()


def events(recorder):
    recorder.close()
    with open(recorder._file.name, encoding="utf-8") as file:
        return [{key: value for key, value in json.loads(line).items() if key != "t"} for line in file][1:]


def tapped(recorder, level=5):
    tap = Tap(recorder, "n1", 3600, {})
    tap.sent(packets.connect("me", level, False, 10, 3600, ("w", next(recorder.messages), 1, True, 3)))
    tap.received(packets.packet(0x20, b"\x01\x00" + (b"\x03\x22\x00\x20" if level == 5 else b"")))
    return tap


@pytest.mark.parametrize("level", [4, 5])
def test_a_connection(recorder, level):
    tap = tapped(recorder, level)
    tap.sent(packets.disconnect(level))
    tap.closed("broker")
    # Nothing is written down after the end.
    tap.received(packets.packet(0xD0, b""))
    assert events(recorder) == [
        {"e": "connect", "c": 1, "id": "me", "node": "n1", "v": level, "clean": False, "expiry": 3600, "ka": 10,
         "will": {"m": 1, "topic": "w", "q": 1, "retain": True, "delay": 3 if level == 5 else 0}},
        {"e": "connack", "c": 1, "code": 0, "present": True},
        {"e": "disconnect", "c": 1, "code": 0},
        {"e": "closed", "c": 1, "by": "broker"},
    ]


@pytest.mark.parametrize("level", [4, 5])
def test_operations_and_deliveries(recorder, level):
    tap = tapped(recorder, level)
    properties = b"\0" if level == 5 else b""
    tap.sent(packets.subscribe(1, [("a/+", 2), ("b", 0)], level))
    tap.received(packets.packet(0x90, struct.pack(">H", 1) + properties + b"\x02\x80"))
    tap.sent(packets.publish("a/b", packets.payload(7), level, 2, 5, retain=True))
    tap.received(packets.acknowledge(packets.PUBREC, 5))
    tap.sent(packets.acknowledge(packets.PUBREL, 5))
    tap.received(packets.acknowledge(packets.PUBCOMP, 5) + packets.publish("a/b", packets.payload(7), level, 1, 9, dup=True))
    tap.sent(packets.acknowledge(packets.PUBACK, 9))
    tap.sent(packets.unsubscribe(2, ["b"], level) + packets.PING)
    tap.received(packets.packet(0xB0, struct.pack(">H", 2) + (b"\0\x11" if level == 5 else b"")) + packets.packet(0xD0, b""))
    assert events(recorder)[2:] == [
        {"e": "sub", "c": 1, "pid": 1, "f": [["a/+", 2, 0], ["b", 0, 0]]},
        {"e": "suback", "c": 1, "pid": 1, "codes": [2, 0x80]},
        {"e": "pub", "c": 1, "q": 2, "pid": 5, "topic": "a/b", "m": 7, "retain": True},
        {"e": "pubrec", "c": 1, "pid": 5, "code": 0},
        {"e": "pubrel", "c": 1, "pid": 5, "m": 7},
        {"e": "pubcomp", "c": 1, "pid": 5, "code": 0},
        {"e": "recv", "c": 1, "q": 1, "pid": 9, "topic": "a/b", "dup": True, "m": 7},
        {"e": "ack", "c": 1, "pid": 9, "k": "puback"},
        {"e": "unsub", "c": 1, "pid": 2, "f": ["b"]},
        {"e": "ping", "c": 1},
        {"e": "unsuback", "c": 1, "pid": 2, "codes": [0x11] if level == 5 else []},
        {"e": "pong", "c": 1},
    ]
    assert History([recorder._file.name]).acknowledged == 4


def test_bytes_in_pieces_are_the_same_packets(recorder):
    tap = tapped(recorder)
    data = packets.publish("a", packets.payload(7), 5, 1, 5)
    for at in range(len(data)):
        tap.sent(data[at:at + 1])
    answer = packets.packet(0x40, struct.pack(">HB", 5, 0x10))
    assert tap.received(answer[:3]) == []
    assert len(tap.received(answer[3:])) == 1
    assert [event["e"] for event in events(recorder)[2:]] == ["pub", "puback"]


def test_a_payload_that_is_not_whole_is_no_message(recorder):
    tap = tapped(recorder)
    for data in (b"7 00000000", b"7", b"x", packets.payload(7) + b" "):
        tap.received(packets.publish("a", data, 5, 0, 0))
    tap.received(packets.publish("a", b"", 5, 0, 0))
    assert [event.get("m", "none") for event in events(recorder)[2:]] == [None] * 4 + ["none"]


def test_a_deletion_that_is_sent_again_is_the_same_one(recorder):
    tap = tapped(recorder)
    tap.sent(packets.publish("a", b"", 5, 1, 5, retain=True))
    tap.sent(packets.publish("a", b"", 5, 1, 5, retain=True, dup=True))
    first, second = events(recorder)[2:]
    assert first["m"] == second["m"] and first["empty"] and second["dup"]


def test_a_large_packet(recorder):
    tap = tapped(recorder)
    tap.received(packets.publish("a", packets.payload(7) + b"x" * 20000, 5, 0, 0))
    assert events(recorder)[-1]["e"] == "recv"


class Half:
    """A socket that takes half of what it is given."""

    def __init__(self):
        self.taken = b""

    def send(self, data):
        size = max(1, len(data) // 2)
        self.taken += bytes(data[:size])
        return size


def test_what_a_socket_takes_in_pieces_is_written_down_once(recorder):
    tap = tapped(recorder)
    sock = Half()
    wrapped = TappedSocket(sock, tap)
    data = b"".join(packets.publish("a", packets.payload(number), 5, 1, number) for number in (5, 6))
    sent = 0
    while sent < len(data):
        sent += wrapped.send(data[sent:])
    assert sock.taken == data
    assert [event["m"] for event in events(recorder)[2:]] == [5, 6]
