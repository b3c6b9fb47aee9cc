"""In a pod there is nothing but the binary: names resolve, roots of certificates are found, people can look around."""

import json

from kube import kubectl

CONFIG = "/etc/raftmq/config/raftmq.yaml"


def inside(cluster, *arguments, check=True):
    return kubectl("exec", cluster.pod_name(0), "-n", cluster.namespace, "--", "/raftmq", *arguments, check=check)


def test_there_is_nothing_but_the_binary(cluster):
    for program in ("/bin/sh", "/usr/bin/env", "sh"):
        done = kubectl("exec", cluster.pod_name(0), "-n", cluster.namespace, "--", program, "true", check=False)
        assert done.returncode != 0 and "no such file" in done.stderr.lower() or "not found" in done.stderr.lower(), done.stderr
    assert inside(cluster, "--version").stdout.startswith("raftmq ")


def test_names_resolve(cluster):
    service = f"{cluster.name}-links"
    addresses = {pod["status"]["podIP"] for pod in cluster.pods().values()}
    # By the search domains, with the namespace, in full, with a final dot.
    for name in (service, f"{service}.{cluster.namespace}", f"{service}.{cluster.namespace}.svc.cluster.local",
                 f"{service}.{cluster.namespace}.svc.cluster.local."):
        said = inside(cluster, "doctor", "resolve", name).stdout
        assert all(address in said for address in addresses), (name, said)
    said = inside(cluster, "doctor", "resolve", f"{cluster.pod_name(1)}.{service}").stdout
    assert cluster.pod(1)["status"]["podIP"] in said
    said = inside(cluster, "doctor", "resolve", "--srv", f"_links._tcp.{service}").stdout
    for pod in cluster.pods():
        assert f"{pod}.{service}.{cluster.namespace}.svc.cluster.local:9883" in said, said
    done = inside(cluster, "doctor", "resolve", "nobody.is.here", check=False)
    assert done.returncode != 0 and "nobody.is.here" in done.stdout + done.stderr


def test_roots_of_certificates_are_found(cluster):
    findings = json.loads(inside(cluster, "doctor", "-o", "json").stdout)
    text = json.dumps(findings)
    assert findings["ok"] is True, text
    (roots,) = [f for f in findings["findings"] if "root" in json.dumps(f).lower() and "ca-certificates.crt" in json.dumps(f)]
    number = [int(word) for word in json.dumps(roots).replace('"', " ").replace(",", " ").split() if word.isdigit()]
    assert max(number) > 50, roots


def test_a_pod_can_be_looked_at(cluster):
    said = inside(cluster, "doctor", "--config", CONFIG).stdout
    assert "PROBLEM" not in said and "65532" in said and "cluster.local" in said, said
    service = f"{cluster.pod_name(1)}.{cluster.name}-links.{cluster.namespace}.svc:9883"
    said = inside(cluster, "doctor", "connect", service, "--tls", "--ca", "/etc/raftmq/pki/ca.crt", check=False)
    assert "TLS" in said.stdout, said.stdout + said.stderr
    # The cluster itself, without any flag; another node by its name.
    table = inside(cluster, "ctl", "members").stdout
    assert all(f"raftmq-{i}" in table for i in range(3)) and "0.0.0.0" not in table, table
    other = json.loads(inside(cluster, "ctl", "-o", "json", "status", "--node", cluster.pod_name(2)).stdout)
    assert other["node"] == cluster.pod_name(2)
