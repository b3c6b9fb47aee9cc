"""`raftmq up` as its user meets it."""

import os
import pty
import signal
import socket
import subprocess
import time
import types

import pytest

from harness import BINARY, REPO, Client, LocalCluster, http, metric_sum, wait_until


def test_ctrl_c_stops_cleanly_and_the_next_up_resumes(cluster):
    members = cluster.members()
    assert cluster.interrupt() == 0
    assert not any(node.running() for node in cluster.nodes)
    cluster.start()
    again = cluster.members()
    assert {n: m["id"] for n, m in again.items()} == {n: m["id"] for n, m in members.items()}
    with Client(cluster.nodes[0].mqtt) as subscriber, Client(cluster.nodes[1].mqtt) as publisher:
        subscriber.subscribe("resumed")
        publisher.publish("resumed", "x")
        wait_until("messages cross", lambda: subscriber.messages, 10)


def test_up_killed_takes_its_brokers_with_it_and_can_start_again(cluster):
    cluster.up.kill()
    cluster.up.wait()
    wait_until("the brokers end", lambda: not any(node.running() for node in cluster.nodes), 15)
    cluster.start()


def test_a_hang_up_goes_on_to_the_brokers(cluster):
    before = [node.pid for node in cluster.nodes]
    cluster.up.send_signal(signal.SIGHUP)
    for node in cluster.nodes:
        wait_until(f"{node.name} read its settings", lambda node=node: "settings read again" in node.log(), 15)
    assert cluster.up.poll() is None
    assert [node.pid for node in cluster.nodes if node.running()] == before


@pytest.mark.parametrize("survives", [False, True])
def test_up_ends_with_its_terminal_unless_it_was_told_not_to(survives):
    with LocalCluster(1) as cluster:
        command = [BINARY, "up", str(cluster.root / "cluster.yaml"), "--data", str(cluster.data), "--free-ports"]
        # As `nohup` does.
        ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN if survives else signal.SIG_DFL)
        pid, terminal = pty.fork()
        if pid == 0:
            with open(cluster.root / "up.log", "ab") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            os.execv(command[0], command)
        signal.signal(signal.SIGHUP, ignored)
        try:
            # It is no child that `subprocess` knows.
            cluster.up = types.SimpleNamespace(poll=lambda: None)
            wait_until("nodes", lambda: (cluster.data / "up.json").exists() and cluster._read_nodes(), 30)
            cluster.wait_ready()
            os.close(terminal)
            node = cluster.nodes[0]
            if survives:
                wait_until("the broker read its settings", lambda: "settings read again" in node.log(), 15)
                assert os.waitpid(pid, os.WNOHANG) == (0, 0) and node.running()
            else:
                wait_until("up and its broker ended", lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, 20)
                pid = None
                assert not node.running()
                assert "stopping" in cluster.output()
        finally:
            cluster.up = None
            if pid:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


def test_up_prints_addresses_and_health_changes(cluster):
    for node in cluster.nodes:
        for port in (node.mqtt, node.http_port, node.metrics_port):
            assert f"127.0.0.1:{port}" in cluster.output()
    victim = cluster.nodes[2]
    victim.kill()
    wait_until("the death is shown", lambda: "test-2  stopped" in cluster.output(), 10)


def test_up_restarts_a_broker_that_died():
    with LocalCluster() as cluster:
        command = [BINARY, "up", str(cluster.root / "cluster.yaml"), "--data", str(cluster.data), "--free-ports"]
        with open(cluster.root / "up.log", "ab") as output:
            cluster.up = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_until("nodes", cluster._read_nodes, 30)
        cluster.wait_ready()
        victim = cluster.nodes[1]
        old = victim.pid
        os.kill(old, signal.SIGKILL)
        wait_until("a new process", lambda: victim.pid != old and victim.ready(), 30)


def test_a_second_up_on_the_same_data_is_refused(cluster):
    done = subprocess.run(
        [BINARY, "up", str(cluster.root / "cluster.yaml"), "--data", str(cluster.data), "--free-ports"],
        capture_output=True, text=True, timeout=30,
    )
    assert done.returncode != 0 and "another" in done.stderr


def test_a_port_in_use_is_an_error_that_names_it(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [BINARY, "up", str(REPO / "deploy/samples/mqttcluster.yaml"), "--data", str(tmp_path / "d"),
             "--free-ports", "--mqtt-ports", f"{port},0,0"],
            capture_output=True, text=True, timeout=30,
        )
    assert done.returncode != 0 and str(port) in done.stderr and "--mqtt-ports" in done.stderr, done.stderr


@pytest.mark.parametrize("text, words", [
    ("kind: MqttCluster\n", ["apiVersion"]),
    ("apiVersion: raftmq.io/v1alpha1\nkind: MqttCluster\nmetadata: {name: x}\nspec:\n  replica: 3\n", ["replica", "bad.yaml:5:"]),
    ("apiVersion: raftmq.io/v1alpha1\nkind: MqttCluster\nmetadata: {name: x}\nspec:\n  replicas: 0\n", ["replicas", "1"]),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", ["MqttCluster"]),
])
def test_a_bad_resource_is_named(tmp_path, text, words):
    (tmp_path / "bad.yaml").write_text(text)
    done = subprocess.run(
        [BINARY, "up", "bad.yaml", "--data", "d"], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0 and "bad.yaml" in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert not (tmp_path / "d").exists()


def test_one_and_two_nodes():
    for replicas in (1, 2):
        with LocalCluster(replicas) as cluster:
            cluster.start()
            with Client(cluster.nodes[0].mqtt) as subscriber, Client(cluster.nodes[-1].mqtt) as publisher:
                subscriber.subscribe("few")
                publisher.publish("few", "x")
                wait_until("the message", lambda: subscriber.messages, 10)
            if replicas == 2:
                assert "two" in cluster.output().lower()


def test_the_log_level_changes_while_running(cluster):
    node = cluster.nodes[0]
    assert "DEBUG" not in node.log()
    cluster.ctl("log", "debug", "--node", node.name, as_json=False)
    with Client(node.mqtt):
        pass
    wait_until("debug lines", lambda: "DEBUG" in node.log(), 10)


def test_control_needs_a_certificate(cluster):
    node = cluster.nodes[0]
    import ssl
    context = ssl.create_default_context(cafile=str(cluster.pki / "ca.pem"))
    context.check_hostname = False
    with pytest.raises(Exception):
        http(f"https://127.0.0.1:{node.http_port}/control/v1/members", context)
    status, members = node.control("members")
    assert status == 200 and len(members["members"]) == 3


def test_ctl_prints_tables(cluster):
    text = cluster.ctl("members", "--node", "test-1", as_json=False)
    for node in cluster.nodes:
        assert node.name in text
    assert "leader" in text
    text = cluster.ctl("groups", as_json=False)
    assert "meta" in text and "routes" in text and "shard 15" in text


def test_idle_brokers_write_nothing(cluster):
    def fsyncs():
        return sum(metric_sum(node.metrics(), "raftmq_wal_fsync_seconds_count") for node in cluster.nodes)

    assert fsyncs() > 0

    def quiet():
        # Counted over two seconds without clients: leases and heartbeats must not reach the disk.
        before = fsyncs()
        time.sleep(2)
        return fsyncs() == before
    wait_until("a window without fsync", quiet, 30)
