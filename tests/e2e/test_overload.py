"""A node with little memory, and one client that fills its queues beside others that do nothing wrong."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import BINARY, Client, free_ports, http, metrics, wait_until

# What the process may have beyond what it has when nobody is connected.
ROOM = 100 << 20
PAYLOAD = bytes(20_000)
REFUSED = 'raftmq_connections_refused_total{reason="overload"}'
SHED = 'raftmq_messages_dropped_total{reason="overload"}'
LEVEL = "raftmq_overload_level"


class Node:
    """A standalone node whose control API can be called."""

    def __init__(self, directory, overload):
        self.directory = directory
        self.mqtt, self.http, self.metrics = free_ports(3)
        self.file = directory / "node.yaml"
        pki = directory / "pki"
        subprocess.run([BINARY, "certs", "--cluster", "alone", "--out", str(pki), "a"], check=True, capture_output=True)
        self.pki = pki
        self.settings = {
            "node": {"name": "a", "dataDir": str(directory / "data")},
            "listeners": [{"name": "mqtt", "bind": f"127.0.0.1:{self.mqtt}"}],
            "workers": 2,
            # The queues are what is to fill the memory.
            "mqtt": {"maxQueuedMessages": 1_000_000, "maxQueuedBytes": "1GiB", "sys": {"mosquitto": False}},
            "overload": overload,
            "http": {"bind": f"127.0.0.1:{self.http}", "tls": {
                "caFile": str(pki / "ca.pem"), "certFile": str(pki / "a.pem"), "keyFile": str(pki / "a.key")}},
            "metrics": {"bind": f"127.0.0.1:{self.metrics}"},
        }
        self.write()
        with open(directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                [BINARY, "node", "--config", str(self.file)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def write(self):
        new = self.directory / "new"
        new.write_text(json.dumps(self.settings, indent=1))
        os.replace(new, self.file)

    def reload(self, setting):
        before = self.log().count("settings read again")
        self.process.send_signal(signal.SIGHUP)
        wait_until("the settings", lambda: self.log().count("settings read again") > before, 10)
        said = [line for line in self.log().splitlines() if "settings read again" in line][-1]
        assert setting in said.partition("needs_restart")[0], said

    def status(self):
        done = subprocess.run(
            [BINARY, "ctl", "--endpoint", f"https://127.0.0.1:{self.http}", "--ca", str(self.pki / "ca.pem"),
             "--cert", str(self.pki / "client.pem"), "--key", str(self.pki / "client.key"), "status"],
            capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log(self):
        return (self.directory / "log").read_text(errors="replace")

    def number(self, name):
        return metrics(self.metrics).get(name, 0)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def node(tmp_path):
    # A first one says how much memory a node of this build has that does nothing.
    idle = Node(tmp_path, {})
    try:
        wait_until("ready", lambda: http(f"http://127.0.0.1:{idle.metrics}/readyz")[0] == 200, 30)
        resident = wait_until("a measurement", lambda: idle.number("raftmq_overload_memory_bytes"), 10)
    finally:
        idle.stop()
    limit = int(resident) + ROOM
    node = Node(tmp_path, {
        "memoryLimit": f"{limit}B", "memoryRefuse": 60, "memoryShed": 80, "recovery": "500ms",
        # This test is about memory: a machine that is busy otherwise is none of its business.
        "loopDelayRefuse": "0s", "loopDelayShed": "0s",
    })
    node.limit = limit
    try:
        wait_until("ready", lambda: http(f"http://127.0.0.1:{node.metrics}/readyz")[0] == 200, 30)
        yield node
    finally:
        node.stop()


class Raw:
    """MQTT 5 by hand: a client that reads when it is told to, or never."""

    def __init__(self, port, client_id, expiry=0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        name = client_id.encode()
        properties = b"\x11" + expiry.to_bytes(4, "big") if expiry else b""
        body = b"\x00\x04MQTT\x05\x02\x00\x00" + bytes([len(properties)]) + properties
        body += len(name).to_bytes(2, "big") + name
        self.socket.sendall(b"\x10" + bytes([len(body)]) + body)

    def receive(self):
        """Type and body of a packet; `None` at the end."""
        head = self.exactly(1)
        if not head:
            return None
        length, shift = 0, 0
        while True:
            (digit,) = self.exactly(1)
            length |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                return head[0], self.exactly(length)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                return b""
            data += more
        return data

    def subscribe(self, topic, qos):
        name = topic.encode()
        body = b"\x00\x01\x00" + len(name).to_bytes(2, "big") + name + bytes([qos])
        self.socket.sendall(b"\x82" + bytes([len(body)]) + body)
        assert self.receive()[0] == 0x90

    def disconnect(self, expiry=0):
        self.socket.sendall(b"\xe0\x07\x00\x05\x11" + expiry.to_bytes(4, "big"))
        self.socket.close()


def connack(port, client_id):
    """Reason and reason string of CONNACK."""
    with contextlib.closing(Raw(port, client_id).socket) as raw:
        peer = Raw.__new__(Raw)
        peer.socket = raw
        kind, body = peer.receive()
        assert kind == 0x20, kind
        at = body.find(b"\x1f", 2)
        length = int.from_bytes(body[at + 1:at + 3], "big") if at > 0 else 0
        return body[1], body[at + 3:at + 3 + length].decode(errors="replace") if length else ""


class Good(threading.Thread):
    """Publishes with QoS 1 to itself, one message after the other, and measures how long each takes."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.client = Client(port, client_id="good")
        self.client.subscribe("good/1", qos=1)
        self.took, self.lost, self.done = [], 0, threading.Event()

    def run(self):
        number = 0
        while not self.done.wait(0.02):
            begin, payload = time.monotonic(), str(number)
            self.client.publish("good/1", payload, qos=1)
            try:
                wait_until("its own message", lambda: self.client.received("good/1", payload), 15, 0.002)
            except AssertionError:
                self.lost += 1
            self.took.append(time.monotonic() - begin)
            number += 1

    def stop(self):
        self.done.set()
        self.join()
        self.client.paho.disconnect()
        self.client.paho.loop_stop()
        worst = sorted(self.took)
        return f"{len(worst)} messages, half in {worst[len(worst) // 2] * 1e3:.1f} ms, 99 % in {worst[len(worst) * 99 // 100] * 1e3:.1f} ms, all in {worst[-1] * 1e3:.1f} ms"


def publish(topic, qos, count):
    name = topic.encode()
    packets = []
    for number in range(count):
        body = len(name).to_bytes(2, "big") + name + ((number + 1).to_bytes(2, "big") if qos else b"") + b"\x00" + PAYLOAD
        length, digits = len(body), bytearray()
        while True:
            digits.append(length % 128 | (0x80 if length > 127 else 0))
            length //= 128
            if not length:
                break
        packets.append(bytes([0x30 | qos << 1]) + bytes(digits) + body)
    return b"".join(packets)


def test_connections_are_refused_then_qos_0_is_shed_then_all_is_well_again(node):
    # Connected before: there is no other way in later.
    watcher = Client(node.mqtt, client_id="watcher")
    watcher.subscribe("zero", qos=0)
    abuser = Raw(node.mqtt, "abuser", expiry=3600)
    assert abuser.receive()[0] == 0x20
    abuser.subscribe("fill", qos=1)
    filler = Raw(node.mqtt, "filler")
    assert filler.receive()[0] == 0x20
    good = Good(node.mqtt)
    good.start()

    def fill(level):
        begin, sent = time.monotonic(), 0
        while node.number(LEVEL) < level:
            assert time.monotonic() - begin < 120, f"the memory is not full after {sent} messages: {metrics(node.metrics)}"
            # What waits for the abuser, who reads nothing.
            filler.socket.sendall(publish("fill", 1, 10))
            for _ in range(10):
                assert filler.receive()[0] == 0x40
            sent += 10
            # 20 MB a second at most: the memory is measured four times a second, and no level is to be left out.
            time.sleep(0.01)
        return sent

    fill(1)
    assert node.number(LEVEL) == 1, "no level is left out"
    reason, why = connack(node.mqtt, "new")
    assert reason == 0x97 and "memory" in why, (reason, why)
    old = Client(node.mqtt, client_id="old")
    assert old.connected[1].value != 0
    old.paho.loop_stop()
    assert node.number(REFUSED) >= 2
    watcher.paho.publish("zero", "refuses only", qos=0)
    wait_until("QoS 0", lambda: watcher.received("zero", "refuses only"), 10)
    assert node.number(SHED) == 0
    fill(2)
    watcher.paho.publish("zero", "shed", qos=0)
    wait_until("shed", lambda: node.number(SHED) == 1, 10)
    watcher.publish("zero", "QoS 1", qos=1)
    wait_until("what was sent with QoS 1", lambda: watcher.received("zero", "QoS 1"), 10)
    assert not watcher.received("zero", "shed")
    assert connack(node.mqtt, "new")[0] == 0x97
    status = node.status()
    assert "overload" in status and "shed (memory" in status, status
    assert http(f"http://127.0.0.1:{node.metrics}/readyz")[0] == 200, "what is overloaded is ready"
    for expected in ("refuses connections", "sheds QoS 0"):
        assert any("overload" in line and expected in line for line in node.log().splitlines()), node.log()

    # The session ends, and what waited in it.
    abuser.disconnect(expiry=0)
    wait_until("the level", lambda: node.number(LEVEL) == 0, 90, 0.2)
    assert connack(node.mqtt, "new")[0] == 0
    watcher.paho.publish("zero", "again", qos=0)
    wait_until("QoS 0 again", lambda: watcher.received("zero", "again"), 10)
    assert "overload is over" in node.log()
    assert "overload" not in node.status()
    said = good.stop()
    assert good.lost == 0 and len(good.took) > 20
    print(f"  beside it: {said}")
    watcher.paho.disconnect()
    watcher.paho.loop_stop()
    filler.socket.close()


def test_the_marks_change_while_the_node_runs(node):
    node.settings["overload"]["memoryLimit"] = "10MiB"
    node.write()
    node.reload("overload.memoryLimit")
    wait_until("refused", lambda: connack(node.mqtt, "new")[0] == 0x97, 10)
    node.settings["overload"]["memoryLimit"] = f"{node.limit}B"
    node.write()
    node.reload("overload.memoryLimit")
    wait_until("taken again", lambda: connack(node.mqtt, "new")[0] == 0, 10)
