"""Bans and flapping detection: on three nodes, for who comes and for who is there."""

import contextlib
import json
import os
import socket
import struct
import subprocess
import threading
import time

import paho.mqtt.client as paho
import pytest
from harness import BINARY, Client, LocalCluster, free_ports, http, metric_sum, wait_until
from wire import packet, text


class Raw:
    """A client of MQTT 5 or 3.1.1 that keeps the bytes that it gets."""

    def __init__(self, port, client_id, username=None, version=5, keep_alive=60, will=None, before=b""):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        flags = 2 | (0x80 if username else 0) | (4 if will else 0)
        properties = b"\0" if version == 5 else b""
        body = text("MQTT") + bytes([version, flags]) + struct.pack(">H", keep_alive) + properties + text(client_id)
        if will:
            body += properties + text(will[0]) + text(will[1])
        if username:
            body += text(username)
        with contextlib.suppress(OSError):
            self.socket.sendall(before + packet(0x10, body))

    def read(self, length=1024):
        try:
            return self.socket.recv(length)
        except ConnectionResetError:
            return b""

    def connack(self):
        """The reason code; none if there was no CONNACK."""
        data = self.read()
        return data[3] if data else None

    def end(self):
        """What came until the broker closed the connection, and when."""
        data = b""
        while True:
            more = self.read()
            if not more:
                return data, time.monotonic()
            data += more

    def close(self):
        self.socket.close()


def connect_code(port, client_id, **options):
    client = Raw(port, client_id, **options)
    try:
        return client.connack()
    finally:
        client.close()


def ended_within(client, begun, limit=1.0):
    data, end = client.end()
    assert end - begun < limit, f"closed after {end - begun:.3f} s"
    return data, end - begun


@pytest.fixture(scope="module")
def three():
    with LocalCluster(3) as cluster:
        yield cluster.start()


@pytest.fixture
def bans(three):
    """The cluster without bans."""
    yield three
    for ban in three.ctl("bans", "list")["bans"]:
        three.ctl("bans", "delete", ban["kind"], ban["value"])
    for node in three.nodes:
        wait_until("no bans", lambda: metric_sum(node.metrics(), "raftmq_bans") == 0, 5)


def add(cluster, *arguments):
    """The time right before the call, and its answer."""
    begun = time.monotonic()
    return begun, cluster.ctl("bans", "add", *arguments)


def add_by(node, **ban):
    begun = time.monotonic()
    status, answer = node.control("bans", "POST", ban)
    assert status == 200, answer
    return begun


@pytest.mark.parametrize("kind, value", [
    ("clientid", "bad"), ("username", "mallory"), ("address", "127.0.0.1"), ("address", "127.0.0.0/8"),
])
def test_a_ban_on_one_node_closes_the_connection_on_another_within_a_second(bans, kind, value):
    a, c = bans.nodes[0], bans.nodes[2]
    by_address = kind == "address"
    with contextlib.ExitStack() as stack:
        others = Raw(a.mqtt, "good", username="alice")
        stack.callback(others.close)
        assert others.connack() == 0
        five = Raw(c.mqtt, "bad", username="mallory")
        stack.callback(five.close)
        assert five.connack() == 0
        begun = add_by(a, kind=kind, value=value, reason="test")
        data, took = ended_within(five, begun)
        # DISCONNECT with Administrative action, nothing else.
        assert data[0] == 0xE0 and data[2] == 0x98, data
        print(f"{kind} {value}: closed after {took * 1000:.0f} ms")
        for node in bans.nodes:
            wait_until("the ban", lambda: metric_sum(node.metrics(), "raftmq_bans", kind=kind) == 1, 1)
            code = connect_code(node.mqtt, "bad", username="mallory")
            old = connect_code(node.mqtt, "bad", username="mallory", version=4)
            # Of an address nothing is read: there is no CONNACK.
            assert (code, old) == ((None, None) if by_address else (0x8A, 5)), node.name
            assert metric_sum(node.metrics(), "raftmq_bans_refused_total", kind=kind) >= 2
            assert metric_sum(node.metrics(), "raftmq_connections_refused_total", reason="banned") >= 2
        assert metric_sum(c.metrics(), "raftmq_bans_closed_total", kind=kind) >= 1
        assert "banned" in c.log() and "reason=\"test\"" in c.log() or "\"reason\":\"test\"" in c.log()
        if by_address:
            others.end()
        else:
            # The other client is served as before.
            others.socket.sendall(b"\xc0\0")
            assert others.read() == b"\xd0\0"
            assert connect_code(c.mqtt, "good", username="alice") == 0


def test_the_will_of_a_banned_client_is_published_and_who_says_goodbye_has_none(bans):
    a, c = bans.nodes[0], bans.nodes[2]
    with Client(a.mqtt, client_id="watcher") as watcher:
        watcher.subscribe("will/#")
        client = Raw(c.mqtt, "bad", will=("will/bad", "gone"))
        assert client.connack() == 0
        add_by(a, kind="clientid", value="bad")
        client.end()
        wait_until("the will", lambda: watcher.received("will/bad", "gone"), 5)


def test_a_ban_ends_by_itself_on_all_nodes(bans):
    a, c = bans.nodes[0], bans.nodes[2]
    begun, answer = add(bans, "clientid", "short", "--for", "2s", "--reason", "for a moment")
    assert answer["untilMs"] - answer["sinceMs"] == 2000 and answer["by"].startswith("client "), answer
    # Another node has it a moment later.
    wait_until("the ban", lambda: connect_code(c.mqtt, "short") == 0x8A, 1)
    wait_until("it may connect", lambda: connect_code(c.mqtt, "short") == 0, 6, 0.1)
    assert 1.8 < time.monotonic() - begun < 4.5
    for node in bans.nodes:
        wait_until("everywhere", lambda: connect_code(node.mqtt, "short") == 0, 1)
    assert bans.ctl("bans", "list")["bans"] == []
    assert "nobody is banned" in bans.ctl("bans", "list", as_json=False)
    assert a.control("bans")[1] == {"bans": []}


def test_deleted_bans_are_over_and_wrong_ones_are_named(bans):
    c = bans.nodes[2]
    add(bans, "address", "127.0.0.0/8")
    # The node that was asked may be another: this one has it a moment later.
    wait_until("the ban", lambda: connect_code(c.mqtt, "x") is None, 1)
    bans.ctl("bans", "delete", "address", "127.0.0.0/8")
    wait_until("it may connect", lambda: connect_code(c.mqtt, "x") == 0, 1)
    for arguments, code, words in [
        (("delete", "clientid", "nobody"), 1, "there is no such ban"),
        (("add", "address", "10.0.0.1/8"), 1, "10.0.0.0/8"),
        (("add", "address", "example.com"), 1, "neither an IP address"),
        (("add", "clientid", ""), 1, "1 to 65535 bytes"),
        (("add", "clientid", "c", "--reason", "x" * 257), 1, "256 bytes"),
        (("add", "clientid", "c", "--until", "2001-01-01T00:00:00Z"), 1, "in the past"),
        (("add", "clientid", "c", "--until", "tomorrow"), 2, "2027-01-01T00:00:00Z"),
        (("add", "clientid", "c", "--for", "1m", "--until", "2027-01-01T00:00:00Z"), 2, "cannot be used with"),
        (("add", "clientids", "c"), 2, "clientid, username, address"),
    ]:
        done = bans.ctl("bans", *arguments, check=False)
        assert done.returncode == code and words in done.stderr, (arguments, done)
    assert bans.ctl("bans", "list")["bans"] == []
    status, error = c.control("bans", "POST", {"kind": "clientid", "value": "c", "forMs": 0})
    assert status == 400 and "forMs" in json.dumps(error)


def test_bans_survive_a_restart_of_all_nodes_and_hold_on_one_that_joins_later():
    with LocalCluster(3) as cluster:
        cluster.start()
        add(cluster, "clientid", "bad", "--reason", "kept")
        add(cluster, "username", "mallory")
        add(cluster, "address", "10.0.0.0/8")
        before = cluster.ctl("bans", "list")
        assert len(before["bans"]) == 3
        for node in cluster.nodes:
            node.kill()
        cluster.interrupt()
        cluster.write(4)
        cluster.start()
        assert cluster.ctl("bans", "list") == before
        for node in cluster.nodes:
            wait_until("the bans", lambda: metric_sum(node.metrics(), "raftmq_bans") == 3, 2)
            assert connect_code(node.mqtt, "bad") == 0x8A
            assert connect_code(node.mqtt, "x", username="mallory") == 0x8A
            assert connect_code(node.mqtt, "x", username="alice") == 0


def flap(port, client_id, stop, outcomes):
    while not stop.is_set():
        with contextlib.suppress(OSError):
            outcomes.append(connect_code(port, client_id))
        time.sleep(0.02)


def test_a_flapping_client_is_banned_and_the_one_beside_it_is_served():
    settings = {"flapping": {"enable": True, "maxCount": 10, "window": "10s", "banTime": "3s"}}
    with LocalCluster(3, config=settings) as cluster:
        cluster.start()
        a, c = cluster.nodes[0], cluster.nodes[2]
        stop, outcomes, delays = threading.Event(), [], []
        with Client(a.mqtt, client_id="good") as good:
            good.subscribe("good")
            thread = threading.Thread(target=flap, args=(a.mqtt, "flapper", stop, outcomes))
            thread.start()
            try:
                wait_until("it is banned", lambda: 0x8A in outcomes, 10, 0.01)
                served = outcomes.index(0x8A)
                # The tenth brings the ban, which is committed a moment later.
                assert 10 <= served < 40, outcomes
                ban, = cluster.ctl("bans", "list")["bans"]
                assert ban["reason"] == "flapping" and ban["flapping"] and ban["by"] == f"node {a.name}", ban
                assert ban["untilMs"] - ban["sinceMs"] == 3000
                # On all nodes.
                assert connect_code(c.mqtt, "flapper") == 0x8A
                for number in range(50):
                    begun = time.monotonic()
                    good.publish("good", str(number))
                    wait_until("delivery", lambda: good.received("good", str(number)), 5, 0.002)
                    delays.append(time.monotonic() - begun)
            finally:
                stop.set()
                thread.join()
            assert good.disconnected is None
            wait_until("the ban ends", lambda: connect_code(c.mqtt, "flapper") == 0, 8, 0.1)
        delays.sort()
        print(f"the client beside it: p50 {delays[25] * 1000:.1f} ms, longest {delays[-1] * 1000:.1f} ms")
        samples = a.metrics()
        assert metric_sum(samples, "raftmq_flapping_clients_total", result="banned") >= 1
        assert metric_sum(samples, "raftmq_bans_refused_total", kind="clientid") >= 1
        # A client that stays, whatever it sends, is not counted.
        assert not any(ban["value"] == "good" for ban in cluster.ctl("bans", "list")["bans"])


def test_many_flapping_clients_do_not_flood_the_log():
    settings = {"flapping": {"enable": True, "maxCount": 2, "window": "10s", "banTime": "1m"}}
    with LocalCluster(3, config=settings) as cluster:
        cluster.start()
        node = cluster.nodes[0]
        begun = time.monotonic()
        entries = cluster.ctl("groups")["groups"][0]["lastLog"]
        for number in range(300):
            for _ in range(2):
                connect_code(node.mqtt, f"flapper-{number}")
        wait_until("all are banned", lambda: metric_sum(node.metrics(), "raftmq_bans") == 300, 20)
        added = cluster.ctl("groups")["groups"][0]["lastLog"] - entries
        took = time.monotonic() - begun
        # At most one entry in 250 ms, and some of the cluster's own.
        assert added <= took * 4 + 10, f"{added} entries in {took:.1f} s"


def test_an_address_behind_a_balancer_is_the_one_that_the_balancer_says():
    settings = [{"name": "default", "type": "tcp", "port": 1883, "proxyProtocol": "v1"}]
    with LocalCluster(1) as cluster:
        resource = json.loads((cluster.root / "cluster.yaml").read_text())
        resource["spec"]["listeners"] = settings
        (cluster.root / "cluster.yaml").write_text(json.dumps(resource))
        cluster.start()
        port = cluster.nodes[0].mqtt
        bad = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 1883\r\n"
        good = b"PROXY TCP4 192.0.2.8 192.0.2.1 5000 1883\r\n"
        there = Raw(port, "there", before=bad)
        assert there.connack() == 0
        begun, _ = add(cluster, "address", "192.0.2.7")
        ended_within(there, begun)
        assert connect_code(port, "x", before=bad) is None
        assert connect_code(port, "x", before=good) == 0
        add(cluster, "address", "127.0.0.1")
        assert connect_code(port, "x", before=good) == 0, "the balancer's own address is not the client's"


def test_a_standalone_node_keeps_its_bans(tmp_path):
    ports = dict(zip(["mqtt", "http", "metrics"], free_ports(3)))
    with LocalCluster(1) as cluster:
        # For its certificates.
        cluster.start()
        pki = cluster.pki
        node_files = cluster.nodes[0].directory / "pki"
        files = sorted(path.name for path in node_files.glob("*")) if node_files.exists() else []
        listed = sorted(path.name for path in pki.glob("*"))
        name = cluster.nodes[0].name
        certificate, key = (pki / f"{name}.pem"), (pki / f"{name}.key")
        assert certificate.exists() and key.exists(), (listed, files)
        config = {
            "node": {"name": name, "dataDir": str(tmp_path / "data")},
            "listeners": [{"name": "default", "type": "tcp", "bind": f"127.0.0.1:{ports['mqtt']}"}],
            "http": {
                "bind": f"127.0.0.1:{ports['http']}",
                "tls": {"caFile": str(pki / "ca.pem"), "certFile": str(certificate), "keyFile": str(key)},
            },
            "metrics": {"bind": f"127.0.0.1:{ports['metrics']}"},
        }
        (tmp_path / "node.yaml").write_text(json.dumps(config))

        def ctl(*arguments):
            command = [
                BINARY, "ctl", "--endpoint", f"https://127.0.0.1:{ports['http']}", "--ca", pki / "ca.pem",
                "--cert", pki / "client.pem", "--key", pki / "client.key", "-o", "json", "bans", *arguments,
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        @contextlib.contextmanager
        def running():
            with open(tmp_path / "log", "ab") as log:
                node = subprocess.Popen(
                    [BINARY, "node", "--config", tmp_path / "node.yaml"], stdout=log, stderr=log, env=dict(os.environ)
                )
            try:
                wait_until("ready", lambda: http(f"http://127.0.0.1:{ports['metrics']}/readyz")[0] == 200, 15)
                yield
            finally:
                node.kill()
                node.wait()

        with running():
            client = Raw(ports["mqtt"], "bad")
            assert client.connack() == 0
            begun = time.monotonic()
            ctl("add", "clientid", "bad", "--reason", "kept")
            ctl("add", "username", "short", "--for", "1s")
            ended_within(client, begun)
            assert connect_code(ports["mqtt"], "bad") == 0x8A
            wait_until("it ended", lambda: connect_code(ports["mqtt"], "x", username="short") == 0, 5)
        with running():
            assert connect_code(ports["mqtt"], "bad") == 0x8A
            assert [ban["reason"] for ban in ctl("list")["bans"]] == ["kept"]
            ctl("delete", "clientid", "bad")
            wait_until("it may connect", lambda: connect_code(ports["mqtt"], "bad") == 0, 1)


def test_paho_sees_why(bans):
    a = bans.nodes[0]
    client = Client(a.mqtt, paho.MQTTv5, "told")
    with client:
        add(bans, "clientid", "told")
        wait_until("it is told", lambda: client.disconnected is not None, 2)
        assert client.disconnected.value == 0x98, client.disconnected
