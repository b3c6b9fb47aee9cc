"""A real Prometheus finds the pods and answers a query with all of them.

By the Kubernetes API, as most people have it; the lab builds a Prometheus for this, since Debian's package was made without
that kind of discovery. And Debian's by the names of the headless Service.
"""

import json
import shutil
import socket
import subprocess
import urllib.parse

import pytest

from kube import IN_LAB, METRICS, http, kubectl, pods_are_reachable, program, run, wait_until


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def by_the_api(cluster, tmp_path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(kubectl("config", "view", "--raw", "--minify", "--flatten").stdout)
    # The usual rules for the annotations prometheus.io/*, as Prometheus' own example has them.
    return {
        "kubernetes_sd_configs": [{
            "role": "pod", "kubeconfig_file": str(kubeconfig), "namespaces": {"names": [cluster.namespace]},
        }],
        "relabel_configs": [
            {"source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_scrape"], "action": "keep", "regex": "true"},
            {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "action": "keep", "regex": "metrics"},
            {"source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_path"], "target_label": "__metrics_path__"},
            {"source_labels": ["__meta_kubernetes_pod_ip"], "target_label": "address"},
        ],
    }


def by_dns(cluster, _tmp_path):
    name = f"{cluster.name}-links.{cluster.namespace}.svc.cluster.local"
    return {
        "dns_sd_configs": [{"names": [name], "type": "A", "port": METRICS, "refresh_interval": "2s"}],
        "relabel_configs": [{"source_labels": ["__address__"], "regex": "(.*):.*", "target_label": "address"}],
    }


@pytest.mark.parametrize("discovery", [by_the_api, by_dns], ids=["kubernetes", "debian-dns"])
def test_prometheus_scrapes_all_pods(cluster, tmp_path, discovery):
    if not IN_LAB and not pods_are_reachable(cluster.pod(0)["status"]["podIP"]):
        pytest.skip("needs a network from which pods are reached: run it inside the cluster's network")
    prometheus = program("prometheus") if discovery is by_the_api else shutil.which("prometheus")
    assert prometheus, "prometheus is missing: apt install prometheus"
    if not IN_LAB:
        if discovery is by_dns:
            pytest.skip("needs the lab (tests/lab): the cluster's DNS on this machine")
        if "kubernetes_sd_configs" not in run("sh", "-c", 'strings -n 8 "$1" | grep -m1 kubernetes_sd_configs', "sh", prometheus, check=False).stdout:
            pytest.skip(f"{prometheus} was built without discovery by the Kubernetes API, as Debian's is: use the project's own release")
    (tmp_path / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "pods", **discovery(cluster, tmp_path)}],
    }))
    port = free_port()
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [prometheus, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log,
        )
    try:
        pods = {pod["status"]["podIP"]: name for name, pod in cluster.pods().items()}

        def query(expression):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            address = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}"
            answer = json.loads(http(address)[1])["data"]["result"]
            return {pods.get(r["metric"].get("address")): r["value"][1] for r in answer}
        wait_until("all pods are up", lambda: query('up{job="pods"}') == dict.fromkeys(pods.values(), "1"), 60, 0.5)
        wait_until("each knows the members", lambda: set(query("raftmq_members")) == set(pods.values()), 20, 0.5)
        wait_until("who leads", lambda: set(query('raftmq_raft_is_leader{group="meta"} == 1')) == {cluster.leader()}, 20, 0.5)
    finally:
        process.terminate()
        process.wait(timeout=20)
