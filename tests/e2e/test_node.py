"""`raftmq node` alone, and what it says about wrong settings."""

import json
import os
import signal
import socket
import subprocess

import pytest

from harness import BINARY, Client, free_ports, http, metrics, wait_until


@pytest.fixture
def standalone(tmp_path):
    ports = dict(zip(("mqtt", "ws", "http", "metrics"), free_ports(4)))
    environment = {
        **os.environ,
        "RAFTMQ__LISTENERS__0__BIND": f"127.0.0.1:{ports['mqtt']}",
        "RAFTMQ__LISTENERS__1__BIND": f"127.0.0.1:{ports['ws']}",
        "RAFTMQ__HTTP__BIND": f"127.0.0.1:{ports['http']}",
        "RAFTMQ__METRICS__BIND": f"127.0.0.1:{ports['metrics']}",
    }
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([BINARY, "node"], cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_until("ready", lambda: http(f"http://127.0.0.1:{ports['metrics']}/readyz")[0] == 200, 15)
        yield ports, process, tmp_path
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_standalone_node_serves_without_consensus(standalone):
    ports, process, directory = standalone
    with Client(ports["mqtt"]) as client:
        client.subscribe("a/+")
        client.publish("a/b", "x")
        wait_until("the message", lambda: client.received("a/b"), 5)
    # WebSocket is there from the start; the path is a setting.
    status, text = http(f"http://127.0.0.1:{ports['ws']}/mqtt")
    assert status == 400 and "WebSocket" in text
    assert http(f"http://127.0.0.1:{ports['ws']}/")[0] == 404
    # The control API needs certificates, and says so.
    status, text = http(f"http://127.0.0.1:{ports['http']}/control/v1/status")
    assert status == 403 and "http.tls" in text
    # No consensus in the way of anything: nothing of it is on the disk, none of its ports are open.
    assert not list(directory.rglob("*wal*"))
    _, text = http(f"http://127.0.0.1:{ports['metrics']}/metrics")
    assert "raftmq_raft_term" not in text
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 0


def run(arguments, cwd, **environment):
    return subprocess.run(
        [BINARY, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=30
    )


def test_refused_connections_are_in_the_debug_log_and_health_checks_are_not(tmp_path):
    mqtt, http_port, metrics_port = free_ports(3)
    settings = {
        "listeners": [{"name": "door", "bind": f"127.0.0.1:{mqtt}", "maxConnections": 1, "connectTimeout": "1s"}],
        "http": {"bind": f"127.0.0.1:{http_port}"}, "metrics": {"bind": f"127.0.0.1:{metrics_port}"},
        "log": {"level": "debug"},
    }
    (tmp_path / "node.yaml").write_text(json.dumps(settings))
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([BINARY, "node", "--config", "node.yaml"], cwd=tmp_path, stdout=log, stderr=log)

    def count(reason):
        return metrics(metrics_port).get(f'raftmq_connections_refused_total{{reason="{reason}"}}', 0)

    def refused(reason, port):
        wait_until(f"{reason} is counted", lambda: count(reason) == 1, 10)
        said = lambda line: f"127.0.0.1:{port} " in line + " " and all(word in line for word in ("connection refused", reason, "door"))  # noqa: E731
        wait_until(f"{reason} is logged", lambda: any(map(said, (tmp_path / "log").read_text().splitlines())), 10)

    def opened():
        return metrics(metrics_port).get("raftmq_connections_opened_total", 0), metrics(metrics_port).get("raftmq_connections", 0)

    try:
        wait_until("ready", lambda: http(f"http://127.0.0.1:{metrics_port}/readyz")[0] == 200, 15)
        before, _ = opened()
        socket.create_connection(("127.0.0.1", mqtt)).close()
        wait_until("the health check came and went", lambda: opened() == (before + 1, 0), 10)
        with socket.create_connection(("127.0.0.1", mqtt)) as idle:
            wait_until("it is the one that there may be", lambda: opened() == (before + 2, 1), 10)
            with socket.create_connection(("127.0.0.1", mqtt)) as further:
                refused("limit", further.getsockname()[1])
            refused("timeout", idle.getsockname()[1])
        wait_until("room", lambda: opened()[1] == 0, 10)
        with socket.create_connection(("127.0.0.1", mqtt)) as wrong:
            wrong.sendall(b"\xc0\x00")
            refused("protocol", wrong.getsockname()[1])
        assert [count(reason) for reason in ("limit", "timeout", "protocol")] == [1, 1, 1]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text, words", [
    ("nodes:\n  name: x\n", ["nodes", "node.yaml:1:", "did you mean \"node\""]),
    ("node:\n  name: x\nmqtt:\n  maxInflight: many\n", ["maxInflight", "node.yaml:4:"]),
    ("mqtt:\n  receiveMaximum: 0\n", ["receiveMaximum", "node.yaml:2:", "1 to 65535"]),
    ("listeners:\n  - name: a\n    type: tpc\n    bind: 127.0.0.1:0\n", ["type", "node.yaml:3:", "tcp, tls, ws, wss, quic"]),
    ("node: [", ["node.yaml:1:"]),
])
def test_a_wrong_setting_in_the_file_is_named_with_its_line(tmp_path, text, words):
    (tmp_path / "node.yaml").write_text(text)
    done = run(["node", "--config", "node.yaml"], tmp_path)
    assert done.returncode == 2 and "node.yaml" in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_wrong_variable_or_flag_is_named(tmp_path):
    done = run(["node"], tmp_path, RAFTMQ__MQTT__MAXINFLIGHTS="3")
    assert done.returncode == 2 and "RAFTMQ__MQTT__MAXINFLIGHTS" in done.stderr
    done = run(["node", "--set", "mqtt.maxInflight=-1"], tmp_path)
    assert done.returncode == 2 and done.stderr.count("mqtt.maxInflight") == 1, done.stderr
    done = run(["node", "--config", "absent.yaml"], tmp_path)
    assert done.returncode == 2 and "absent.yaml" in done.stderr


def test_a_port_in_use_is_named(standalone, tmp_path):
    ports, _, _ = standalone
    done = run(["node"], tmp_path, RAFTMQ__LISTENERS__0__BIND=f"127.0.0.1:{ports['mqtt']}",
               RAFTMQ__LISTENERS__1__BIND="127.0.0.1:0", RAFTMQ__HTTP__BIND="127.0.0.1:0", RAFTMQ__METRICS__BIND="127.0.0.1:0")
    assert done.returncode != 0 and str(ports["mqtt"]) in done.stderr, done.stderr


def test_help_helps():
    for arguments in (["--help"], ["up", "--help"], ["node", "--help"], ["ctl", "--help"], ["ctl", "members", "--help"]):
        done = run(arguments, ".")
        assert done.returncode == 0 and len(done.stdout) > 200
