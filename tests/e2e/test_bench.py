"""`raftmq bench` against a real node: what it says is what happened, over every transport, with every QoS.

A broker that loses, repeats and swaps messages shows that the counts of what went wrong are right, too.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import paho.mqtt.client as paho
import pytest

from harness import BINARY, Client, free_ports, http, metrics, metric_sum, wait_until

SCHEMES = ("mqtt", "mqtts", "ws", "wss")


class Broker:
    """A node with a listener of each kind, and a certificate of its own authority."""

    def __init__(self, directory):
        names = [*SCHEMES, "mutual", "http", "metrics"]
        self.ports = dict(zip(names, free_ports(len(names))))
        self.directory = directory
        done = subprocess.run([BINARY, "certs", "--cluster", "bench", "--out", "pki", "n"], cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.pki = directory / "pki"
        tls = {"certFile": str(self.pki / "n.pem"), "keyFile": str(self.pki / "n.key")}
        listeners = [
            {"name": name, "type": kind, "bind": f"127.0.0.1:{self.ports[name]}"}
            for name, kind in (("mqtt", "tcp"), ("mqtts", "tls"), ("ws", "ws"), ("wss", "wss"), ("mutual", "tls"))
        ]
        for listener in listeners:
            if listener["type"] in ("tls", "wss"):
                listener["tls"] = dict(tls)
        listeners[-1]["tls"].update(caFile=str(self.pki / "ca.pem"), clientAuth="required")
        config = {
            "node": {"name": "n"},
            "listeners": listeners,
            # Less than the windows of the tests: clients of MQTT 5 have to keep to it.
            "mqtt": {"receiveMaximum": 10},
            "http": {"bind": f"127.0.0.1:{self.ports['http']}"},
            "metrics": {"bind": f"127.0.0.1:{self.ports['metrics']}"},
        }
        (directory / "node.yaml").write_text(json.dumps(config))
        self.process = None

    def start(self):
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen([BINARY, "node", "--config", "node.yaml"], cwd=self.directory, stdout=log, stderr=log)
        wait_until("the node is ready", lambda: http(f"http://127.0.0.1:{self.ports['metrics']}/readyz")[0] == 200, 30)
        return self

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def url(self, scheme="mqtt"):
        return f"{scheme}://127.0.0.1:{self.ports[scheme]}"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    broker = Broker(tmp_path_factory.mktemp("bench"))
    try:
        yield broker.start()
    finally:
        broker.kill()


@pytest.fixture
def own_broker(tmp_path):
    broker = Broker(tmp_path)
    try:
        yield broker.start()
    finally:
        broker.kill()


def start(*arguments, environment=None):
    return subprocess.Popen(
        [BINARY, "bench", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, **(environment or {})},
    )


def finish(process, timeout=60):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, out, err


def bench(*arguments, status=0, environment=None):
    """The JSON report."""
    code, out, err = finish(start(*arguments, "--json", environment=environment))
    assert code == status, f"exit status {code}\n{out}\n{err}"
    report = json.loads(out)
    assert report["ok"] == (status == 0)
    return report


def flags(broker, scheme):
    url = ["--url", broker.url(scheme)]
    return url + (["--ca", str(broker.pki / "ca.pem")] if scheme in ("mqtts", "wss") else [])


def subscriptions(broker):
    return metric_sum(metrics(broker.ports["metrics"]), "raftmq_subscriptions")


def check_counts(report, copies):
    messages = report["messages"]
    assert messages["sent"] > 0
    assert messages["delivered"] == messages["expected"] == messages["sent"] * copies
    for nothing in ("lost", "duplicates", "out_of_order", "repeated", "foreign"):
        assert messages[nothing] == 0, messages
    if report["settings"]["qos"] > 0:
        assert messages["acknowledged"] == messages["sent"]
        assert messages["refused"] == messages["unacknowledged"] == 0
        assert report["latency_us"]["acknowledge"]["count"] > 0
    latency = report["latency_us"]["end_to_end"]
    assert 0 < latency["count"] <= messages["delivered"]
    assert latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p999"] <= latency["max"]
    assert report["errors"] == []


@pytest.mark.parametrize("qos", (0, 1, 2))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("work, copies", [
    (("pair", "-c", 10), 1),
    (("fanin", "--publishers", 10, "--subscribers", 2), 2),
    (("fanout", "--subscribers", 10), 10),
], ids=("pair", "fanin", "fanout"))
def test_everything_is_delivered(broker, work, copies, scheme, qos):
    version = 4 if scheme in ("mqtts", "ws") else 5
    report = bench(*work, "--qos", qos, "--duration", "1s", "--window", 20, "--mqtt-version", version, *flags(broker, scheme))
    check_counts(report, copies)
    assert report["ended"] == "duration" and report["settings"]["command"] == work[0]
    assert report["settings"]["mqtt_version"] == version
    assert report["connections"]["connected"] == report["connections"]["wanted"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("qos", (0, 1, 2))
def test_pub_and_sub(broker, scheme, qos):
    """What one process publishes, another one gets."""
    topic = f"test/{scheme}/{qos}"
    wait_until("former ones are gone", lambda: subscriptions(broker) == 0, 15)
    subscribers = start("sub", "-c", 3, "--topic", f"{topic}/#", "--qos", qos, "-n", 3 * 500, "--stamps", "--json", *flags(broker, scheme))
    try:
        wait_until("the subscriptions", lambda: subscriptions(broker) == 3, 15)
        published = bench("pub", "-c", 5, "--topic", f"{topic}/%i", "--qos", qos, "-n", 500, "--rate", 1000, *flags(broker, scheme))
        code, out, err = finish(subscribers)
    finally:
        subscribers.kill()
        subscribers.wait()
    assert code == 0, out + err
    got = json.loads(out)
    assert published["messages"]["sent"] == 500
    assert published["ended"] == got["ended"] == "messages"
    assert published["messages"]["acknowledged"] == (None if qos == 0 else 500)
    assert got["messages"]["delivered"] == got["messages"]["expected"] == 1500
    assert got["messages"]["duplicates"] == got["messages"]["out_of_order"] == got["messages"]["lost"] == 0
    assert got["latency_us"]["end_to_end"]["count"] == 1500


@pytest.mark.parametrize("scheme", SCHEMES)
def test_connections_stay(broker, scheme):
    """They are there for the time of --hold, with their subscriptions, and the broker agrees."""
    process = start("conn", "-c", 150, "--subscriptions", 70, "--hold", "3s", "--json", "--watch-pid", broker.process.pid,
                    *flags(broker, scheme))
    try:
        wait_until("150 connections", lambda: metric_sum(metrics(broker.ports["metrics"]), "raftmq_connections") == 150, 20)
    finally:
        code, out, err = finish(process)
    assert code == 0, out + err
    report = json.loads(out)
    assert report["connections"]["connected"] == report["connections"]["wanted"] == 150
    assert report["connections"]["per_second"] > 0 and report["latency_us"]["connect"]["count"] == 150
    assert report["seconds"]["measured"] == pytest.approx(3, abs=0.5)
    watched, = report["watched"]
    assert watched["pid"] == broker.process.pid
    # Which one is larger is not said: the broker gives memory of earlier tests back meanwhile.
    assert watched["resident_bytes_connected"] > 0 and watched["resident_bytes_before"] > 0
    assert watched["cpu_seconds_connecting"] > 0
    wait_until("they are gone", lambda: metric_sum(metrics(broker.ports["metrics"]), "raftmq_connections") == 0, 10)


def test_connections_begin_at_their_rate(broker):
    report = bench("conn", "-c", 200, "--connect-rate", 100, "--url", broker.url())
    assert 1.9 < report["seconds"]["connect"] < 4


@pytest.mark.parametrize("qos", (0, 1, 2))
def test_the_rate_is_kept(broker, qos):
    report = bench("pair", "-c", 20, "--qos", qos, "--rate", 1000, "--warmup", "500ms", "--duration", "2s", "--url", broker.url())
    check_counts(report, 1)
    assert report["measured"]["sent"] == pytest.approx(2000, rel=0.1)
    assert report["messages"]["sent"] == pytest.approx(2500, rel=0.1)
    # What is measured is without the warm-up.
    assert report["latency_us"]["end_to_end"]["count"] == pytest.approx(2000, rel=0.1)


def test_so_many_messages_and_no_more(broker):
    report = bench("pair", "-c", 7, "--qos", 1, "-n", 1003, "--threads", 2, "--url", broker.url())
    check_counts(report, 1)
    assert report["messages"]["sent"] == 1003 and report["ended"] == "messages"


@pytest.mark.parametrize("size", (1, 16, 200, 300000))
def test_payloads_of_every_size(broker, size):
    report = bench("pair", "-c", 2, "--qos", 2, "-n", 20, "--payload-size", size, "--url", broker.url())
    assert report["messages"]["delivered"] == 20 and report["messages"]["lost"] == 0
    assert (report["latency_us"]["end_to_end"] is None) == (size < 16)


def test_threads_share_publishers_and_subscribers(broker):
    for qos in (0, 2):
        report = bench("fanout", "--publishers", 2, "--subscribers", 21, "--threads", 3, "--qos", qos, "-n", 500, "--url", broker.url())
        check_counts(report, 21)


def test_shared_subscriptions(broker):
    report = bench("fanin", "--publishers", 5, "--subscribers", 3, "--filter", "$share/g/raftmq-bench/%r/+", "--qos", 1, "-n", 500,
                   "--url", broker.url())
    assert report["messages"]["delivered"] == report["messages"]["expected"] == 500


def test_a_client_certificate(broker):
    url = ["--url", f"mqtts://127.0.0.1:{broker.ports['mutual']}", "--ca", broker.pki / "ca.pem"]
    certificate = ["--cert", broker.pki / "client.pem", "--key", broker.pki / "client.key"]
    check_counts(bench("pair", "-c", 2, "-n", 10, *url, *certificate), 1)
    report = bench("pair", "-c", 2, "-n", 10, *url, status=1)
    assert report["ended"] == "not_connected" and "TLS" in report["errors"][0]["reason"]


@pytest.mark.parametrize("scheme", ("mqtts", "wss"))
def test_a_certificate_that_is_not_trusted(broker, scheme):
    report = bench("pair", "-n", 10, "--url", broker.url(scheme), status=1)
    assert "unknown authority" in report["errors"][0]["reason"]
    check_counts(bench("pair", "-n", 10, "--url", broker.url(scheme), "--insecure"), 1)


def test_quiet_connections_are_kept_alive(broker):
    """Without PINGREQ the broker closes them after one and a half seconds."""
    report = bench("conn", "-c", 5, "--keep-alive", "1s", "--hold", "4s", "--url", broker.url())
    assert report["connections"]["lost"] == 0


def test_a_session_that_is_kept(broker):
    keep = ("--client-id", "kept-", "--session-expiry", "1m", "--url", broker.url())
    bench("conn", "-c", 1, *keep)
    with Client(broker.ports["mqtt"], version=paho.MQTTv5, client_id="kept-s0", clean=False) as client:
        assert client.connected[0].session_present
    bench("conn", "-c", 1, *keep, "--clean-start", "true")
    bench("conn", "-c", 1, "--client-id", "kept-", "--clean-start", "false", "--url", broker.url())
    with Client(broker.ports["mqtt"], version=paho.MQTTv5, client_id="kept-s0", clean=False) as client:
        assert not client.connected[0].session_present


def test_a_server_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        report = bench("conn", "-c", 3, "--timeout", "1s", "--url", url, status=1)
    assert report["errors"] == [{"reason": "no answer within 1 s: CONNACK", "count": 3}]


def test_source_addresses(broker):
    report = bench("conn", "-c", 20, "--bind", "127.0.0.2,127.0.0.3", "--url", broker.url())
    assert report["connections"]["connected"] == 20
    report = bench("conn", "-c", 2, "--bind", "192.0.2.1", "--url", broker.url(), status=1)
    assert "192.0.2.1" in report["errors"][0]["reason"]


def test_several_urls_are_used_in_turn(broker):
    report = bench("conn", "-c", 10, "--url", broker.url(), "--url", "mqtt://127.0.0.1:1", status=1)
    assert report["connections"]["connected"] == 5
    assert report["errors"] == [{"reason": "refused: nothing listens on that port", "count": 5}]


@pytest.mark.parametrize("work, publishers, subscribers", [
    (("pair", "-c", 10), 10, 10), (("fanin", "--publishers", 6, "--subscribers", 2), 6, 2), (("fanout", "--publishers", 1, "--subscribers", 7), 1, 7),
], ids=("pair", "fanin", "fanout"))
def test_subscribers_may_be_elsewhere(broker, own_broker, work, publishers, subscribers):
    """Two nodes that know nothing of each other: what is published at the one comes to nobody at the other."""
    elsewhere = ("--subscribe-url", own_broker.url())
    unmatched = metric_sum(metrics(broker.ports["metrics"]), "raftmq_messages_unmatched_total")
    process = start(*work, "--rate", 100, "--duration", "60s", "--timeout", "1s", "--json", "--url", broker.url(), *elsewhere)
    try:
        connections = lambda node: metric_sum(metrics(node.ports["metrics"]), "raftmq_connections")  # noqa: E731
        wait_until("everybody is there", lambda: connections(broker) == publishers and connections(own_broker) == subscribers, 15)
        assert subscriptions(own_broker) == subscribers
        wait_until("messages that nobody wanted", lambda: metric_sum(metrics(broker.ports["metrics"]), "raftmq_messages_unmatched_total") > unmatched)
        process.send_signal(signal.SIGINT)
        code, out, err = finish(process)
    finally:
        process.kill()
        process.wait()
    assert code == 1, err
    report = json.loads(out)
    assert report["settings"]["urls"] == [broker.url()] and report["settings"]["subscribe_urls"] == [own_broker.url()]
    assert report["messages"]["sent"] > 0 and report["messages"]["delivered"] == 0

    # Over another transport, of one and the same node.
    report = bench(*work, "-n", 100, "--url", broker.url("ws"), "--subscribe-url", broker.url("mqtts"), "--ca", broker.pki / "ca.pem")
    check_counts(report, report["messages"]["expected"] // 100)


@pytest.mark.parametrize("arguments, words", [
    (("pub", "--subscribe-url", "mqtt://127.0.0.1"), ["--subscribe-url"]),
    (("pair", "--subscribe-url", "127.0.0.1"), ["--subscribe-url", "SCHEME://HOST"]),
    (("pair", "--subscribe-url", "mqtt://no-such-host.invalid"), ["no-such-host.invalid", "not found"]),
    (("pair", "--url", "mqtt://no-such-host.invalid"), ["no-such-host.invalid", "not found"]),
    (("pair", "--url", "http://127.0.0.1"), ["mqtt, mqtts, ws, wss"]),
    (("pair", "-c", "2", "--topic", "x"), ["%i"]),
    (("fanin", "--payload-size", "8"), ["--payload-size"]),
    (("pub", "--password-file", "/absent"), ["/absent"]),
    (("pub", "--qos", "3"), ["0, 1 or 2"]),
    (("conn", "-c", "4000000000"), ["open files", "ulimit"]),
])
def test_what_is_wrong_is_said(arguments, words):
    code, out, err = finish(start(*arguments))
    assert code == 2 and out == "", out
    for word in words:
        assert word in err, err


def test_connections_that_fail_are_named(broker):
    refused = bench("pair", "--url", "mqtt://127.0.0.1:1", status=1)
    assert refused["ended"] == "not_connected" and "nothing listens" in refused["errors"][0]["reason"]
    path = bench("pair", "--url", broker.url("ws") + "/wrong", status=1)
    assert "404" in path["errors"][0]["reason"]
    scheme = bench("pair", "--url", f"mqtt://127.0.0.1:{broker.ports['mqtts']}", "--timeout", "2s", status=1)
    assert scheme["errors"]


@pytest.mark.parametrize("qos", (0, 1, 2))
def test_a_broker_that_dies(own_broker, qos):
    process = start("pair", "-c", 10, "--qos", qos, "--rate", 2000, "--duration", "60s", "--json", "--progress", "--url", own_broker.url())
    try:
        line = process.stderr.readline()
        while "delivered" not in line:
            assert line, "it ended"
            line = process.stderr.readline()
        own_broker.kill()
        begin = time.monotonic()
        code, out, _ = finish(process, 20)
    finally:
        process.kill()
        process.wait()
    assert code == 1 and time.monotonic() - begin < 5
    report = json.loads(out)
    assert not report["ok"] and report["ended"] == "connections_lost"
    assert report["connections"]["lost"] == 20 == sum(error["count"] for error in report["errors"])
    assert report["messages"]["delivered"] > 0


def test_a_broker_that_stands_still_makes_latency_not_silence(own_broker):
    """Messages that were due meanwhile count from when they were due."""
    process = start("pair", "-c", 10, "--rate", 200, "--duration", "3s", "--window", 2, "--json", "--url", own_broker.url())
    try:
        wait_until("connections", lambda: metric_sum(metrics(own_broker.ports["metrics"]), "raftmq_connections") == 20, 10)
        time.sleep(0.5)
        os.kill(own_broker.process.pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(own_broker.process.pid, signal.SIGCONT)
        code, out, err = finish(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(own_broker.process.pid, signal.SIGCONT)
        process.kill()
        process.wait()
    assert code == 0, out + err
    latency = json.loads(out)["latency_us"]["end_to_end"]
    # For a third of the time it stood still: some 140 of 600 messages were due more than 0.3 s before it went on. With a window of 2,
    # sending only what fits would have given two slow ones a publisher.
    assert latency["count"] > 500 and latency["max"] > 900_000
    assert latency["p90"] > 300_000


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_an_interrupt_ends_it_with_a_report(broker, number):
    process = start("pair", "--rate", 100, "--duration", "0s", "--progress", "--json", "--url", broker.url())
    try:
        while "delivered" not in (line := process.stderr.readline()):
            assert line, "it ended"
        process.send_signal(number)
        code, out, err = finish(process, 10)
    finally:
        process.kill()
        process.wait()
    assert code == 0, err
    report = json.loads(out)
    assert report["ended"] == "interrupted"
    check_counts(report, 1)


def test_a_password_comes_from_environment_or_file_and_is_not_shown(tmp_path):
    """What goes over the wire, seen by a server that refuses it."""
    (tmp_path / "password").write_text("from-file\nmore")
    for arguments, environment, password in [
        (["--password-file", tmp_path / "password"], {}, b"from-file"),
        ([], {"RAFTMQ_BENCH_PASSWORD": "from-env"}, b"from-env"),
    ]:
        with Tampering(refuse=True) as server:
            process = start("pub", "-c", 1, "--username", "me", "--url", f"mqtt://127.0.0.1:{server.port}", *arguments, environment=environment)
            code, out, err = finish(process)
        assert code == 1 and password in server.connects[0] and b"me" in server.connects[0]
        assert password.decode() not in out + err
        assert "BadUserNameOrPassword (0x86)" in out


@pytest.mark.parametrize("drop, twice, swap, expected", [
    ((), (), (), {"lost": 0}),
    ((5, 17), (), (), {"lost": 2}),
    ((), (7, 8, 30), (), {"duplicates": 3}),
    ((), (), (11,), {"out_of_order": 1}),
    ((199,), (), (), {"lost": 1}),
    ((3,), (6,), (9,), {"lost": 1, "duplicates": 1, "out_of_order": 1}),
])
def test_what_a_bad_broker_does_is_counted(drop, twice, swap, expected):
    with Tampering(drop, twice, swap) as server:
        report = bench("pair", "-c", 1, "-n", 200, "--rate", 1000, "--mqtt-version", 4, "--timeout", "1s",
                       "--url", f"mqtt://127.0.0.1:{server.port}", status=1 if any((drop, twice, swap)) else 0)
    messages = report["messages"]
    assert messages["sent"] == 200
    for name in ("lost", "duplicates", "out_of_order"):
        assert messages[name] == expected.get(name, 0), messages
    assert messages["delivered"] == 200 - expected.get("lost", 0)


def test_the_table_and_help_are_for_people(broker):
    code, out, err = finish(start("pair", "-c", 2, "--qos", 1, "-n", 10, "--progress", "false", "--url", broker.url()))
    assert code == 0 and err == ""
    for word in ("delivered 10 of 10", "end to end", "p99.9", "result        ok"):
        assert word in out, out
    for command in ("pub", "sub", "conn", "pair", "fanin", "fanout"):
        code, out, _ = finish(start(command, "--help"))
        assert code == 0 and "--connect-rate" in out


def test_other_clients_get_what_pub_publishes(broker):
    topics = []
    with Client(broker.ports["mqtt"]) as client:
        client.paho.on_message = lambda _client, _userdata, message: topics.append((message.topic, len(message.payload)))
        client.subscribe("mine/+")
        bench("pub", "-c", 2, "-n", 4, "--payload-size", 33, "--topic", "mine/%i", "--url", broker.url())
        wait_until("the messages", lambda: sorted(topics) == [("mine/0", 33)] * 2 + [("mine/1", 33)] * 2, 5)


class Tampering:
    """A broker of MQTT 3.1.1 and QoS 0 for one publisher and one subscriber, which loses, repeats and swaps messages by their number."""

    def __init__(self, drop=(), twice=(), swap=(), refuse=False):
        self.drop, self.twice, self.swap, self.refuse = drop, twice, swap, refuse
        self.connects = []
        self.subscriber = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets = []
        self.threads = []

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self.threads:
            thread.join(5)

    def _start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.sockets.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection):
        with contextlib.suppress(OSError, EOFError):
            stream = connection.makefile("rb")
            number, held = 0, b""
            while True:
                packet, kind, body = self._packet(stream)
                if kind == 1:
                    self.connects.append(packet)
                    # The level is behind the protocol's name.
                    level = body[6]
                    if self.refuse:
                        connection.sendall(b"\x20\x03\x00\x86\x00" if level == 5 else b"\x20\x02\x00\x05")
                        return
                    connection.sendall(b"\x20\x02\x00\x00")
                elif kind == 8:
                    connection.sendall(b"\x90\x03" + body[:2] + b"\x00")
                    self.subscriber = connection
                elif kind == 3:
                    if number in self.swap:
                        held = packet
                    elif number not in self.drop:
                        self.subscriber.sendall(packet * (2 if number in self.twice else 1) + held)
                        held = b""
                    number += 1

    @staticmethod
    def _packet(stream):
        def read(count):
            data = stream.read(count)
            if len(data) < count:
                raise EOFError
            return data

        head = read(1)
        length, shift = 0, 0
        while True:
            byte = read(1)
            head += byte
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
        body = read(length)
        return head + body, head[0] >> 4, body
