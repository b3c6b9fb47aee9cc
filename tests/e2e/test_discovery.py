"""Each way of finding peers forms a cluster by itself: static, DNS with A records, DNS with SRV records.

Kubernetes' EndpointSlices are tried on a real API server by the lab's tests.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from harness import BINARY, Client, free_ports, http, wait_until


@contextlib.contextmanager
def name_server(directory, records):
    """A real name server (BIND) for the zone nodes.test on the loopback address."""
    program = shutil.which("named") or "/usr/sbin/named"
    assert pathlib.Path(program).exists(), "named is missing: apt install bind9"
    directory.mkdir()
    zone = "$TTL 1\n@ IN SOA ns.nodes.test. admin.nodes.test. 1 60 60 60 1\n@ IN NS ns.nodes.test.\nns IN A 127.0.0.1\n"
    (directory / "zone").write_text(zone + records)
    (port,) = free_ports(1)
    (directory / "named.conf").write_text(
        f'options {{ directory "{directory}"; pid-file "{directory}/pid"; session-keyfile "{directory}/key"; '
        f"listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; }};\n"
        f'controls {{ }};\nzone "nodes.test" {{ type primary; file "{directory}/zone"; }};\n'
    )
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [program, "-g", "-c", str(directory / "named.conf")], stdout=log, stderr=log
        )
    try:
        wait_until("named answers", lambda: b"running" in (directory / "log").read_bytes(), 15)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=15)


class Manual:
    """Three `raftmq node` processes with settings of the test's own: no `up` in the way."""

    def __init__(self, directory):
        self.directory = directory
        self.pki = directory / "pki"
        self.names = ["a", "b", "c"]
        self.processes = []
        subprocess.run(
            [BINARY, "certs", "--cluster", "hand", "--out", str(self.pki), *self.names],
            check=True, capture_output=True, timeout=30,
        )
        self.mqtt, self.http, self.metrics = free_ports(3), free_ports(3), free_ports(3)

    def start(self, discovery, links):
        for number, name in enumerate(self.names):
            home = self.directory / name
            home.mkdir()
            tls = {
                "caFile": str(self.pki / "ca.pem"),
                "certFile": str(self.pki / f"{name}.pem"),
                "keyFile": str(self.pki / f"{name}.key"),
            }
            (home / "node.yaml").write_text(json.dumps({
                "node": {"name": name, "dataDir": str(home / "data")},
                "cluster": {
                    "name": "hand",
                    "discovery": {**discovery, "refreshInterval": "500ms"},
                    "links": {"listen": links[number], "advertise": links[number], "tls": tls},
                },
                "listeners": [{"name": "mqtt", "bind": f"127.0.0.1:{self.mqtt[number]}"}],
                "http": {"bind": f"127.0.0.1:{self.http[number]}", "tls": tls},
                "metrics": {"bind": f"127.0.0.1:{self.metrics[number]}"},
            }))
            with open(home / "log", "wb") as log:
                self.processes.append(subprocess.Popen(
                    [BINARY, "node", "--config", str(home / "node.yaml")], stdout=log, stderr=log,
                    stdin=subprocess.DEVNULL,
                ))

    def ctl(self, *arguments):
        return subprocess.run(
            [BINARY, "ctl", "--endpoint", f"https://127.0.0.1:{self.http[0]}", "--ca", str(self.pki / "ca.pem"),
             "--cert", str(self.pki / "client.pem"), "--key", str(self.pki / "client.key"), *arguments],
            capture_output=True, text=True, timeout=60,
        )

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def logs(self):
        return "\n".join(f"--- {n}\n{(self.directory / n / 'log').read_text()[-3000:]}" for n in self.names)


@pytest.fixture
def manual(tmp_path):
    nodes = Manual(tmp_path)
    try:
        yield nodes
    except BaseException:
        print(nodes.logs())
        raise
    finally:
        nodes.stop()


def forms_a_cluster(manual):
    # Right after the start, and what is documented behind it right after it: it waits until the nodes are there, and then until they serve.
    done = manual.ctl("bootstrap", *manual.names)
    assert done.returncode == 0, done.stderr
    assert "is formed" in done.stdout and "serve" in done.stdout, done.stdout
    for port in manual.metrics:
        assert http(f"http://127.0.0.1:{port}/readyz")[0] == 200
    members = manual.ctl("members").stdout
    assert all(f" {name} " in members for name in manual.names), members
    with Client(manual.mqtt[0]) as subscriber, Client(manual.mqtt[2]) as publisher:
        subscriber.subscribe("found/each/other")
        publisher.publish("found/each/other", "x")
        wait_until("the message", lambda: subscriber.messages, 10)
    again = manual.ctl("bootstrap", *manual.names)
    assert again.returncode == 0 and "exists already" in again.stdout, again.stdout + again.stderr


def test_static_peers(manual):
    links = [f"127.0.0.1:{port}" for port in free_ports(3)]
    manual.start({"strategy": "static", "static": {"peers": links}}, links)
    forms_a_cluster(manual)


def test_a_bootstrap_says_what_is_missing(manual):
    links = [f"127.0.0.1:{port}" for port in free_ports(3)]
    manual.start({"strategy": "static", "static": {"peers": links}}, links)
    # Nobody has such a name.
    once = manual.ctl("bootstrap", "--no-wait", "nobody", *manual.names)
    assert once.returncode == 1, once.stdout
    begin = time.monotonic()
    missing = manual.ctl("bootstrap", "--timeout", "3s", "nobody", *manual.names)
    assert missing.returncode == 1 and "nobody" in missing.stderr and "within 3s" in missing.stderr, missing.stderr
    assert 2.5 < time.monotonic() - begin < 25
    # One that stops answers nobody: the cluster is formed all the same, and it is named.
    wait_until("all are found", lambda: manual.ctl("bootstrap", "--no-wait", *manual.names).returncode == 0, 20, 0.5)
    last = manual.processes[2]
    last.send_signal(signal.SIGSTOP)
    try:
        silent = manual.ctl("bootstrap", "--timeout", "4s", *manual.names)
    finally:
        last.send_signal(signal.SIGCONT)
    assert silent.returncode == 1 and "exists already" in silent.stdout, silent.stdout + silent.stderr
    assert f"{manual.names[2]}: " in silent.stderr.splitlines()[-1], silent.stderr


def test_dns_with_a_records(manual, tmp_path):
    (port,) = free_ports(1)
    links = [f"127.0.0.{number}:{port}" for number in (1, 2, 3)]
    records = "".join(f"peers IN A 127.0.0.{number}\n" for number in (1, 2, 3))
    with name_server(tmp_path / "dns", records) as server:
        dns = {"name": "peers.nodes.test", "recordType": "A", "port": port, "servers": [f"127.0.0.1:{server}"]}
        manual.start({"strategy": "dns", "dns": dns}, links)
        forms_a_cluster(manual)


def test_dns_with_srv_records(manual, tmp_path):
    ports = free_ports(3)
    links = [f"127.0.0.1:{port}" for port in ports]
    records = "here IN A 127.0.0.1\n" + "".join(
        f"_links._tcp.peers IN SRV 0 0 {port} here.nodes.test.\n" for port in ports
    )
    with name_server(tmp_path / "dns", records) as server:
        dns = {"name": "_links._tcp.peers.nodes.test", "recordType": "SRV", "servers": [f"127.0.0.1:{server}"]}
        manual.start({"strategy": "dns", "dns": dns}, links)
        forms_a_cluster(manual)
