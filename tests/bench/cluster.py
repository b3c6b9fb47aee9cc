"""A cluster of three RaftMQ nodes on this machine, started as users do, by `raftmq up`: links of mutual TLS over the loopback interface, a log on the disk.

Its queues and windows are those of the single brokers.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import urllib.request

import brokers

NODES = 3


def resource():
    settings = {
        "workers": 1,
        "mqtt": {"maxInflight": brokers.INFLIGHT, "maxQueuedMessages": brokers.QUEUED},
        "log": {"level": "error"},
    }
    spec = {"replicas": NODES, "config": settings}
    document = {"apiVersion": "raftmq.io/v1alpha1", "kind": "MqttCluster", "metadata": {"name": "bench"}, "spec": spec}
    return json.dumps(document, indent=2) + "\n"  # JSON is YAML


class Node:
    def __init__(self, directory, name, ports):
        self.name = name
        self.mqtt, self.metrics = ports["listeners"][0], ports["metrics"]
        self.pid = int((directory / "nodes" / name / "pid").read_text())

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/readyz", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def link(self):
        """Frames and bytes of messages that it has sent to other nodes so far."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise brokers.Failed(f"{self.name} does not say its metrics: {error}") from None
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("raftmq_link_"))
        try:
            return {
                "frames": int(samples['raftmq_link_frames_sent_total{class="data"}']),
                "bytes": int(samples['raftmq_link_sent_bytes_total{class="data"}']),
            }
        except KeyError as error:
            raise brokers.Failed(f"{self.name} has no metric {error}") from None


@contextlib.contextmanager
def running(cpus):
    """The nodes of a cluster that serves; the last one leads it, so that the first two are alike. They are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="raftmq-bench-") as directory:
        directory = pathlib.Path(directory)
        (directory / "cluster.yaml").write_text(resource())
        log = directory / "log"
        arguments = [brokers.RAFTMQ, "up", "cluster.yaml", "--data", "data", "--free-ports", "--no-restart"]
        with open(log, "wb") as output:
            # Nodes are on its processors, and end with it, whatever ends it.
            up = subprocess.Popen(brokers.on(cpus, arguments), cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            nodes = wait_for(up, directory, log)
            yield nodes
            gone = [node.name for node in nodes if not child_of(up, node.pid)]
            if gone or up.poll() is not None:
                raise brokers.Failed(f"{', '.join(gone) or 'raftmq up'} ended: {brokers.tail(log)}")
        finally:
            stop(up, directory / "data")


def wait_for(up, directory, log):
    deadline = time.monotonic() + 60
    nodes = []
    while True:
        if up.poll() is not None:
            raise brokers.Failed(f"raftmq up does not start (status {up.returncode}): {brokers.tail(log)}")
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((directory / "data" / "up.json").read_text())["nodes"]
            nodes = [Node(directory / "data", name, ports) for name, ports in sorted(known.items())]
        if len(nodes) == NODES and all(node.ready() for node in nodes) and (leader := leader_of(directory)):
            return sorted(nodes, key=lambda node: node.name == leader)
        if time.monotonic() > deadline:
            raise brokers.Failed(f"the cluster does not serve within 60 s: {brokers.tail(log)}")
        time.sleep(0.05)


def leader_of(directory):
    command = [brokers.RAFTMQ, "ctl", "--data", "data", "-o", "json", "members"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    members = json.loads(done.stdout)["members"] if done.returncode == 0 else []
    return next((member["name"] for member in members if member["role"] == "leader"), None)


def stop(up, data):
    """Nothing is to be saved. `up` takes notice of each that ended, and then ends: so what they took counts as taken by children of this process."""
    if up.poll() is None:
        pids = []
        for file in data.glob("nodes/*/pid"):
            with contextlib.suppress(OSError, ValueError):
                pids.append(int(file.read_text()))
        for pid in pids:
            if child_of(up, pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait(lambda: not any(child_of(up, pid, zombies=True) for pid in pids), 3)
        up.send_signal(signal.SIGINT)
        try:
            up.wait(timeout=5)
        except subprocess.TimeoutExpired:
            # Its brokers end with it.
            up.kill()
            up.wait()


def child_of(up, pid, zombies=False):
    """Whether it is a broker of this `up`, and lives; a number alone may be another's by now."""
    try:
        state, parent = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return False
    return int(parent) == up.pid and (zombies or state not in "ZX")


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
