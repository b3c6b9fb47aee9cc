"""Rates of clients and of listeners: an abusive client and a well-behaved one beside it, whose latency is printed."""

import contextlib
import json
import os
import signal
import ssl
import statistics
import subprocess
import threading
import time

import paho.mqtt.client as paho
import pytest

from harness import BINARY, Client, free_ports, http, metrics, wait_until

TRANSPORTS = ["tcp", "tls", "ws"]
# Of one client; the burst is that of a tenth of a second.
RATE, BURST = 100, 10


class Node:
    """A standalone node with a listener of each kind that has limits, and one that has none."""

    def __init__(self, directory, zone, rates=None):
        self.directory = directory
        self.file = directory / "node.yaml"
        self.pki = directory / "pki"
        self.free, self.http, self.metrics, *ports = free_ports(3 + len(TRANSPORTS))
        self.ports = dict(zip(TRANSPORTS, ports, strict=True))
        subprocess.run([BINARY, "certs", "--cluster", "alone", "--out", str(self.pki), "a"], check=True, capture_output=True)
        files = {"certFile": str(self.pki / "a.pem"), "keyFile": str(self.pki / "a.key")}
        limited = [
            {"name": kind, "type": kind, "bind": f"127.0.0.1:{port}", "zone": "z", **({"rates": rates} if rates else {}),
             **({"tls": files} if kind == "tls" else {})}
            for kind, port in self.ports.items()
        ]
        self.settings = {
            "workers": 2,
            "node": {"name": "a", "dataDir": str(directory / "data")},
            "listeners": [{"name": "free", "bind": f"127.0.0.1:{self.free}"}, *limited],
            "zones": {"z": zone},
            "log": {"level": "debug"},
            "http": {"bind": f"127.0.0.1:{self.http}", "tls": {**files, "caFile": str(self.pki / "ca.pem")}},
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

    def ctl(self, *arguments):
        return subprocess.run(
            [BINARY, "ctl", "--endpoint", f"https://127.0.0.1:{self.http}", "--ca", str(self.pki / "ca.pem"),
             "--cert", str(self.pki / "client.pem"), "--key", str(self.pki / "client.key"), *arguments],
            capture_output=True, text=True, timeout=60, check=True)

    def throttled(self, limit, scope):
        return metrics(self.metrics).get(f'raftmq_throttled_total{{limit="{limit}",scope="{scope}"}}', 0)

    def waiting(self):
        return metrics(self.metrics)["raftmq_throttled_connections"]

    def disconnected(self):
        """Clients that the node has disconnected, or that broke off."""
        samples = metrics(self.metrics).items()
        return {name: value for name, value in samples if name.startswith("raftmq_clients_disconnected_total") and value}


@contextlib.contextmanager
def running(directory, zone, rates=None):
    node = Node(directory, zone, rates)
    try:
        wait_until("ready", lambda: http(f"http://127.0.0.1:{node.metrics}/readyz")[0] == 200, 15)
        yield node
    finally:
        if node.process.poll() is None:
            node.process.kill()
        node.process.wait()


class Publisher:
    """A client of any transport, that counts what is acknowledged and notes how long that took."""

    def __init__(self, node, transport, client_id, keepalive=60):
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5,
            transport="websockets" if transport == "ws" else "tcp", reconnect_on_failure=False)
        if transport == "ws":
            self.paho.ws_set_options(path="/mqtt")
        if transport == "tls":
            self.paho.tls_set(ca_certs=str(node.pki / "ca.pem"), cert_reqs=ssl.CERT_REQUIRED)
            self.paho.tls_insecure_set(True)
        self.paho.max_inflight_messages_set(1000)
        self.paho.max_queued_messages_set(0)
        self.sent, self.took, self.disconnected = {}, [], []
        self.connected = threading.Event()
        self.paho.on_connect = lambda *_: self.connected.set()
        self.paho.on_disconnect = lambda _c, _u, _f, code, _p: self.disconnected.append(str(code))
        self.paho.on_publish = self._on_publish
        port = node.free if transport == "free" else node.ports[transport]
        self.paho.connect("127.0.0.1", port, keepalive=keepalive)
        self.paho.loop_start()
        assert self.connected.wait(15), "no CONNACK"

    def _on_publish(self, _client, _userdata, mid, _code, _properties):
        self.took.append(time.monotonic() - self.sent.get(mid, time.monotonic()))

    def publish(self, topic, payload, qos):
        begun = time.monotonic()
        info = self.paho.publish(topic, payload, qos=qos)
        self.sent[info.mid] = begun
        return info

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.paho.disconnect()
        self.paho.loop_stop()


def steady(publisher, topic, seconds):
    """Ten messages a second, each acknowledged before the next: seconds that each took."""
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        publisher.publish(topic, "steady", 1).wait_for_publish(15)
        took.append(time.monotonic() - begun)
        time.sleep(0.1)
    return took


def show(what, took):
    took = sorted(took)
    print(f"{what}: median {statistics.median(took) * 1000:.1f} ms, slowest {took[-1] * 1000:.1f} ms of {len(took)}")
    return took[-1]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_messages_of_a_client(tmp_path, transport):
    """Three seconds' worth at each QoS at once: all arrive, in order, at the rate; who is beside it does not notice."""
    with running(tmp_path, {"messageRate": RATE, "messageBurst": BURST}) as node, Client(node.free) as reader, \
            Publisher(node, transport, "good") as good:
        reader.subscribe("#", qos=0)
        alone = steady(good, "good", 1)
        for qos in (0, 1, 2):
            with Publisher(node, transport, f"bad-{qos}") as bad:
                begun, count = time.monotonic(), 3 * RATE + BURST
                infos = [bad.publish(f"bad/{qos}", str(number), qos) for number in range(count)]
                beside = steady(good, "good", 2)
                wait_until("all arrive", lambda qos=qos, count=count: len(reader.received(f"bad/{qos}")) >= count, 20)
                took = time.monotonic() - begun
                assert [int(payload) for _, payload, _ in reader.received(f"bad/{qos}")] == list(range(count))
                for info in infos:
                    info.wait_for_publish(15)
                assert not bad.disconnected, bad.disconnected
                print(f"\n{transport}, QoS {qos}: {count} messages in {took:.2f} s at {RATE} a second and a burst of {BURST}")
                slowest = show("PUBACK beside it", beside)
                assert 2.9 <= took < 12
                assert slowest < 2, "the well-behaved one waits"
        show("PUBACK alone", alone)
        assert not good.disconnected
        assert node.throttled("messages", "client") >= 3
        assert node.waiting() == 0
        assert "read more slowly" in (node.directory / "log").read_text()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_bytes_of_a_client(tmp_path, transport):
    with running(tmp_path, {"byteRate": "100KiB", "byteBurst": "20KiB"}) as node, Client(node.free) as reader, \
            Publisher(node, transport, "good") as good, Publisher(node, transport, "bad") as bad:
        reader.subscribe("bad", qos=0)
        begun = time.monotonic()
        # 300 KiB.
        for _ in range(30):
            bad.publish("bad", "x" * 10 * 1024, 1)
        beside = steady(good, "good", 2)
        wait_until("all arrive", lambda: len(reader.received("bad")) == 30, 20)
        took = time.monotonic() - begun
        print(f"\n{transport}: 300 KiB in {took:.2f} s at 100 KiB a second and a burst of 20 KiB")
        assert show("PUBACK beside it", beside) < 2
        assert 2.6 <= took < 12
        wait_until("all PUBACKs", lambda: len(bad.took) == 30, 15)
        assert not bad.disconnected and not good.disconnected
        assert node.throttled("bytes", "client") > 0


def test_clients_of_a_listener_share(tmp_path):
    """Two that send too much are at the rate together, with about a half each; the third one's few come in between."""
    with running(tmp_path, {}, {"messages": RATE, "messageBurst": BURST}) as node, Client(node.free) as reader, \
            Publisher(node, "tcp", "good") as good, Publisher(node, "tcp", "one") as one, Publisher(node, "tcp", "two") as two:
        reader.subscribe("bad/#", qos=0)
        begun = time.monotonic()
        for number in range(200):
            one.publish("bad/one", str(number), 1)
            two.publish("bad/two", str(number), 1)
        beside = steady(good, "good", 2)
        halves = len(reader.received("bad/one")), len(reader.received("bad/two"))
        wait_until("all arrive", lambda: len(reader.messages) == 400, 20)
        took = time.monotonic() - begun
        print(f"\n400 messages of two clients in {took:.2f} s at {RATE} a second together; after two seconds {halves}")
        slowest = show("PUBACK of a third one", beside)
        assert 3.85 <= took < 12
        assert slowest < 2
        assert min(halves) > 0.5 * max(halves)
        assert node.throttled("messages", "listener") > 0 and node.throttled("messages", "client") == 0
        assert not one.disconnected + two.disconnected + good.disconnected


def test_connections_wait(tmp_path):
    with running(tmp_path, {}, {"connections": 20, "connectionBurst": 5}) as node, contextlib.ExitStack() as stack:
        good = stack.enter_context(Publisher(node, "tcp", "good"))
        begun, all_of_them, failed = time.monotonic(), [], []

        def come(number):
            try:
                all_of_them.append(Publisher(node, "tcp", f"c-{number}"))
            except Exception as error:  # noqa: BLE001: shown below
                failed.append(error)

        threads = [threading.Thread(target=come, args=(number,)) for number in range(45)]
        for thread in threads:
            thread.start()
        beside = steady(good, "good", 1.5)
        for thread in threads:
            thread.join()
        took = time.monotonic() - begun
        for one in all_of_them:
            stack.enter_context(one)
        print(f"\n45 connections in {took:.2f} s at 20 a second and a burst of 5")
        assert show("PUBACK of who is connected", beside) < 2
        assert not failed and len(all_of_them) == 45
        assert 1.9 <= took < 12
        assert node.throttled("connections", "listener") > 0
        refused = [name for name, value in metrics(node.metrics).items() if "connections_refused" in name and value]
        assert not refused


def test_a_ping_that_waits_is_no_silence_and_a_reload_lets_it_through(tmp_path):
    """What it sent would take minutes; its keep-alive is one second. A reload changes the rate of its connection."""
    with running(tmp_path, {"messageRate": 5, "messageBurst": 1}) as node, Client(node.free) as reader:
        reader.subscribe("bad", qos=0)
        # paho ends a connection itself whose PINGRESP does not come, so its own keep-alive is longer than that of the zone.
        node.settings["zones"]["z"]["maxKeepAlive"] = "1s"
        node.write()
        os.kill(node.process.pid, signal.SIGHUP)
        wait_until("reload", lambda: "maxKeepAlive" in (node.directory / "log").read_text(), 10)
        with Publisher(node, "tcp", "bad", keepalive=30) as bad:
            # Server Keep Alive is what paho has from now on.
            bad.paho._keepalive = 30
            for number in range(1000):
                bad.publish("bad", str(number), 1)
            time.sleep(4)
            assert not bad.disconnected and not node.disconnected()
            assert node.waiting() == 1
            few = len(reader.messages)
            assert 10 <= few <= 40, few
            node.settings["zones"]["z"].update(messageRate=2000, messageBurst=0, maxKeepAlive="60s")
            node.write()
            node.ctl("reload")
            wait_until("all arrive", lambda: len(reader.messages) == 1000, 10)
            assert [int(payload) for _, payload, _ in reader.messages] == list(range(1000))
            wait_until("all PUBACKs", lambda: len(bad.took) == 1000, 15)


def test_a_client_that_waits_can_be_banned(tmp_path):
    """It is closed at once, whatever it still has to say."""
    with running(tmp_path, {"messageRate": 5, "messageBurst": 1}, {"messages": 1000}) as node, \
            Publisher(node, "tcp", "bad") as bad:
        for number in range(1000):
            bad.publish("bad", str(number), 0)
        wait_until("it waits", lambda: node.waiting() == 1, 10)
        node.ctl("bans", "add", "clientid", "bad", "--reason", "test")
        wait_until("it is closed", lambda: bad.disconnected, 5)
        wait_until("nobody waits", lambda: node.waiting() == 0, 10)
        assert metrics(node.metrics)['raftmq_messages_received_total{qos="0"}'] < 100
