"""A cluster of real broker processes for the tests, started by the command that users start it with.

A `LocalCluster` runs `raftmq up` on free ports in a temporary directory. A test kills, pauses and restarts single
brokers by process id; everything it started ends with it, also when it fails.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import paho.mqtt.client as paho

REPO = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("RAFTMQ_BIN") or str(
    pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "release" / "raftmq"
)
LONG = bool(os.environ.get("RAFTMQ_E2E_LONG"))


def wait_until(what, condition, deadline=30.0, interval=0.05):
    """Waits until condition() is true (its value is returned); fails with `what` and the last value or error."""
    end = time.monotonic() + deadline
    last = None
    while True:
        try:
            last = condition()
            if last:
                return last
        except Exception as error:  # noqa: BLE001: shown when the deadline passes
            last = error
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what} (last: {last!r})")
        time.sleep(interval)


def http(url, context=None, method="GET", body=None, timeout=5):
    """Status and text of an HTTP call; an answer of 4xx or 5xx is an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(port):
    """All samples of a node: {'name{labels}': value}."""
    _, text = http(f"http://127.0.0.1:{port}/metrics")
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


def metric_sum(samples, name, **labels):
    """The sum of a metric's samples that carry the labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value
        for sample, value in samples.items()
        if sample.partition("{")[0] == name and all(label in sample for label in wanted)
    )


def free_ports(count):
    """Ports below those that the system gives to outgoing connections: one that is free now stays free."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return sorted(ports)


class Client:
    """A paho client that keeps what it was told."""

    def __init__(self, port, version=paho.MQTTv311, client_id="", clean=True, host="127.0.0.1"):
        self.version = version
        arguments = {"client_id": client_id, "protocol": version}
        if version != paho.MQTTv5:
            arguments["clean_session"] = clean
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, **arguments)
        self.messages = []
        self.connected = None
        self.disconnected = None
        self.granted = {}
        self.unsubscribed = {}
        self.published = set()
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = lambda _c, _u, m: self.messages.append((m.topic, m.payload.decode(), m.qos))
        self.paho.on_subscribe = lambda _c, _u, mid, codes, _p: self.granted.__setitem__(mid, codes)
        self.paho.on_unsubscribe = lambda _c, _u, mid, codes, _p: self.unsubscribed.__setitem__(mid, codes)
        self.paho.on_publish = lambda _c, _u, mid, _code, _p: self.published.add(mid)
        options = {"clean_start": clean} if version == paho.MQTTv5 else {}
        self.paho.connect(host, port, keepalive=30, **options)
        self.paho.loop_start()
        wait_until("CONNACK", lambda: self.connected is not None, 15)

    def _on_connect(self, _client, _userdata, flags, code, _properties):
        self.connected = (flags, code)

    def _on_disconnect(self, _client, _userdata, _flags, code, _properties):
        self.disconnected = code

    def subscribe(self, *filters, qos=1):
        result, mid = self.paho.subscribe([(topic_filter, qos) for topic_filter in filters])
        assert result == paho.MQTT_ERR_SUCCESS
        return wait_until("SUBACK", lambda: self.granted.get(mid), 15, 0.005)

    def unsubscribe(self, *filters):
        result, mid = self.paho.unsubscribe(list(filters))
        assert result == paho.MQTT_ERR_SUCCESS
        wait_until("UNSUBACK", lambda: mid in self.unsubscribed, 15, 0.005)

    def publish(self, topic, payload, qos=1, deadline=15):
        info = self.paho.publish(topic, payload, qos=qos)
        info.wait_for_publish(deadline)
        assert info.is_published(), f"no PUBACK for {topic} within {deadline} s"

    def received(self, topic, payload=None):
        return [m for m in self.messages if m[0] == topic and (payload is None or m[1] == payload)]

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self.close()


class Node:
    """One broker of a cluster."""

    def __init__(self, cluster, name, ports):
        self.cluster, self.name = cluster, name
        self.mqtt, self.http_port, self.metrics_port, self.links = (
            ports["listeners"][0], ports["http"], ports["metrics"], ports["links"],
        )
        self.directory = cluster.data / "nodes" / name
        self.process = None

    @property
    def pid(self):
        if self.process is not None:
            return self.process.pid
        return int((self.directory / "pid").read_text())

    def running(self):
        try:
            stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
        except (OSError, ValueError):
            return False
        if stat.rpartition(")")[2].split()[0] not in "ZX":
            return True
        # Its main thread has ended. As long as another one has not, the process still listens on its ports.
        try:
            return len(os.listdir(f"/proc/{self.pid}/task")) > 1
        except OSError:
            return False

    def kill(self):
        """kill -9, and waits until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        wait_until(f"{self.name} is gone", lambda: not self.running(), 10)

    def pause(self):
        """SIGSTOP, and waits until no thread runs any more: the signal itself does not wait for that."""
        os.kill(self.pid, signal.SIGSTOP)

        def stopped():
            for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
                if (task / "stat").read_text().rpartition(")")[2].split()[0] != "T":
                    return False
            return True

        wait_until("all threads are stopped", stopped, 10, 0.001)

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    def start(self):
        """Starts the broker again, by the configuration that `up` wrote."""
        log = open(self.directory / "log", "ab")
        self.process = subprocess.Popen(
            [BINARY, "node", "--config", str(self.directory / "config.yaml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.cluster.environment,
        )
        log.close()

    def log(self):
        return (self.directory / "log").read_text(errors="replace")

    def ready(self):
        try:
            return http(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=2)[0] == 200
        except OSError:
            return False

    def state(self):
        """Whether it runs, and what it says about being ready: for reports."""
        if self.process is not None and self.process.poll() is not None:
            return f"ended with {self.process.returncode}"
        try:
            return "running, /readyz: {}".format(http(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=2))
        except OSError as error:
            return f"running, /readyz: {error}"

    def metrics(self):
        return metrics(self.metrics_port)

    def control(self, path, method="GET", body=None):
        context = ssl.create_default_context(cafile=str(self.cluster.pki / "ca.pem"))
        context.check_hostname = False
        context.load_cert_chain(self.cluster.pki / "client.pem", self.cluster.pki / "client.key")
        status, text = http(
            f"https://127.0.0.1:{self.http_port}/control/v1/{path}", context, method, body, timeout=20
        )
        return status, json.loads(text) if text else None


class LocalCluster:
    """`raftmq up` on free ports in a directory of its own."""

    def __init__(self, replicas=3, arguments=(), config=None):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="raftmq-e2e-"))
        self.data = self.root / "data"
        self.pki = self.data / "pki"
        self.environment = dict(os.environ)
        self.arguments = list(arguments)
        self.config = config or {}
        self.up = None
        self.nodes = []
        self.write(replicas)

    def write(self, replicas):
        spec = {"replicas": replicas, "config": self.config} if self.config else {"replicas": replicas}
        resource = {
            "apiVersion": "raftmq.io/v1alpha1", "kind": "MqttCluster", "metadata": {"name": "test"}, "spec": spec,
        }
        (self.root / "cluster.yaml").write_text(json.dumps(resource))

    def start(self, ready=True):
        output = open(self.root / "up.log", "ab")
        self.up = subprocess.Popen(
            [BINARY, "up", str(self.root / "cluster.yaml"), "--data", str(self.data), "--free-ports", "--no-restart",
             *self.arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment,
        )
        output.close()
        wait_until("up has started its nodes", self._read_nodes, 30)
        if ready:
            self.wait_ready()
        return self

    def _read_nodes(self):
        assert self.up.poll() is None, f"up ended: {self.output()}"
        nodes = json.loads((self.data / "up.json").read_text())["nodes"]
        self.nodes = [Node(self, name, ports) for name, ports in sorted(nodes.items())]
        return self.nodes and all((node.directory / "pid").exists() for node in self.nodes)

    def wait_ready(self, deadline=60, nodes=None):
        for node in nodes or self.nodes:
            try:
                wait_until(f"{node.name} is ready", node.ready, deadline)
            except AssertionError as error:
                # The one that is waited for first: it says most, and a long report is cut.
                said = [f"--- {each.name}, {each.state()}\n" + "\n".join(each.log().splitlines()[-25:])
                        for each in sorted(self.nodes, key=lambda each: each is not node)]
                raise AssertionError("\n".join([str(error), *said])) from None

    def output(self):
        return (self.root / "up.log").read_text(errors="replace")

    def ctl(self, *arguments, check=True, as_json=True):
        command = [BINARY, "ctl", "--data", str(self.data)]
        if as_json:
            command += ["--output", "json"]
        done = subprocess.run(command + list(arguments), capture_output=True, text=True, timeout=60)
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stderr}"
            return json.loads(done.stdout) if as_json else done.stdout
        return done

    def members(self):
        return {member["name"]: member for member in self.ctl("members")["members"]}

    def node(self, name):
        return next(node for node in self.nodes if node.name == name)

    def leader(self, group="meta"):
        """The node that leads the group."""
        def find():
            for node in self.nodes:
                samples = node.metrics() if node.running() else {}
                if metric_sum(samples, "raftmq_raft_is_leader", group=group) == 1:
                    return node
            return None
        return wait_until(f"a leader of {group}", find, 15)

    def interrupt(self):
        """Ctrl-C, as at a terminal."""
        self.up.send_signal(signal.SIGINT)
        return self.up.wait(timeout=40)

    def stop(self):
        for node in self.nodes:
            with contextlib.suppress(Exception):
                os.kill(node.pid, signal.SIGCONT)
        if self.up is not None and self.up.poll() is None:
            self.up.send_signal(signal.SIGINT)
            try:
                self.up.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.up.kill()
                self.up.wait()
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
                node.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _traceback):
        self.stop()
        if error is not None:
            keep = os.environ.get("RAFTMQ_E2E_KEEP")
            print(f"\n--- up\n{self.output()[-4000:]}")
            for node in self.nodes:
                with contextlib.suppress(OSError):
                    print(f"\n--- {node.name}\n{node.log()[-6000:]}")
            if keep:
                print(f"kept: {self.root}")
                return
        shutil.rmtree(self.root, ignore_errors=True)
