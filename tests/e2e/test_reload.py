"""Settings that are read again while a node runs, by the control API and by a signal."""

import json
import os
import signal
import subprocess

import pytest

from harness import BINARY, Client, free_ports, http, metrics, wait_until


class Node:
    """A standalone node whose control API can be called."""

    def __init__(self, directory):
        self.directory = directory
        self.mqtt, self.http, self.metrics = free_ports(3)
        self.file = directory / "node.yaml"
        self.pki = directory / "pki"
        subprocess.run([BINARY, "certs", "--cluster", "alone", "--out", str(self.pki), "a"], check=True, capture_output=True)
        self.settings = {
            "node": {"name": "a", "dataDir": str(directory / "data")},
            "listeners": [{"name": "mqtt", "bind": f"127.0.0.1:{self.mqtt}", "zone": "z"}],
            "zones": {"z": {"maxTopicLevels": 4}},
            "http": {"bind": f"127.0.0.1:{self.http}", "tls": {
                "caFile": str(self.pki / "ca.pem"), "certFile": str(self.pki / "a.pem"), "keyFile": str(self.pki / "a.key")}},
            "metrics": {"bind": f"127.0.0.1:{self.metrics}"},
        }
        self.write()
        with open(directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                [BINARY, "node", "--config", str(self.file)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def write(self, text=None):
        new = self.directory / "new"
        new.write_text(json.dumps(self.settings, indent=1) if text is None else text)
        os.replace(new, self.file)

    def ctl(self, *arguments):
        return subprocess.run(
            [BINARY, "ctl", "--endpoint", f"https://127.0.0.1:{self.http}", "--ca", str(self.pki / "ca.pem"),
             "--cert", str(self.pki / "client.pem"), "--key", str(self.pki / "client.key"), *arguments],
            capture_output=True, text=True, timeout=60)

    def log(self):
        return (self.directory / "log").read_text(errors="replace")


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    try:
        wait_until("ready", lambda: http(f"http://127.0.0.1:{node.metrics}/readyz")[0] == 200, 15)
        yield node
    finally:
        if node.process.poll() is None:
            node.process.kill()
        node.process.wait()


def refused(node):
    return metrics(node.metrics).get('raftmq_limits_met_total{limit="topic"}', 0)


def test_ctl_says_what_changed_and_what_needs_a_restart(node):
    done = node.ctl("reload")
    assert done.returncode == 0 and "as they were" in done.stdout, done.stderr
    node.settings["zones"]["z"]["maxTopicLevels"] = 2
    node.settings["workers"] = 3
    node.write()
    done = node.ctl("-o", "json", "reload")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"changed": ["zones.z.maxTopicLevels"], "needsRestart": ["workers"]}
    with Client(node.mqtt) as client:
        client.publish("a/b", "fits", qos=1)
        client.paho.publish("a/b/c", "does not", qos=1)
        wait_until("the refusal", lambda: refused(node) == 1, 10)
    # What was not applied is said again.
    done = node.ctl("reload")
    assert done.stdout == "needs a restart: workers\n", done.stderr


def test_a_wrong_file_changes_nothing_by_either_way(node):
    node.settings["zones"]["z"]["maxTopicLevels"] = 1
    node.settings["zones"]["z"]["maxQos"] = 9
    node.write()
    done = node.ctl("reload")
    line = 1 + next(at for at, text in enumerate(node.file.read_text().splitlines()) if "maxQos" in text)
    assert done.returncode == 1, done.stdout
    assert f"node.yaml:{line}:" in done.stderr and "zones.z.maxQos: 9 is out of range: 0 to 2" in done.stderr, done.stderr
    assert done.stderr.count("zones.z.maxQos") == 1, done.stderr
    node.process.send_signal(signal.SIGHUP)
    wait_until("the signal's error", lambda: node.log().count("nothing has changed") == 2, 10)
    node.write("zones: [")
    done = node.ctl("reload")
    assert done.returncode == 1 and "node.yaml:1:" in done.stderr, done.stderr
    with Client(node.mqtt) as client:
        client.publish("a/b/c/d", "fits", qos=1)
    assert refused(node) == 0
    assert node.process.poll() is None
