"""A real Prometheus scrapes all nodes and answers a query."""

import json
import shutil
import subprocess
import urllib.parse

from harness import Client, free_ports, http, wait_until


def test_prometheus_scrapes_all_nodes(shared_cluster, tmp_path):
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: apt install prometheus"
    with Client(shared_cluster.nodes[0].mqtt) as client:
        client.subscribe("seen/by/prometheus")
        client.publish("seen/by/prometheus", "x")
        targets = [f"127.0.0.1:{node.metrics_port}" for node in shared_cluster.nodes]
        (tmp_path / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "raftmq", "static_configs": [{"targets": targets}]}],
        }))
        (port,) = free_ports(1)
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen(
                [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb",
                 f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log,
            )
        try:
            def query(expression):
                address = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}"
                return json.loads(http(address)[1])["data"]["result"]

            wait_until("three targets", lambda: [r["value"][1] for r in query('sum(up{job="raftmq"})')] == ["3"], 40)
            wait_until("a leader", lambda: [
                r["value"][1] for r in query('sum(raftmq_raft_is_leader{group="meta"})')] == ["1"], 20)
            members = query("raftmq_members")
            assert {r["metric"]["instance"] for r in members} == set(targets)
            received = query("sum(raftmq_messages_received_total)")
            assert float(received[0]["value"][1]) >= 1
        finally:
            process.terminate()
            process.wait(timeout=20)
    # promtool finds nothing to complain about in what the nodes export.
    promtool = shutil.which("promtool")
    if promtool:
        _, text = http(f"http://{targets[0]}/metrics")
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr
