"""`raftmq node` alone, and what it says about wrong settings."""

import os
import signal
import subprocess

import pytest

from harness import BINARY, Client, free_ports, http, wait_until


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
    assert done.returncode == 2 and "mqtt.maxInflight" in done.stderr
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
