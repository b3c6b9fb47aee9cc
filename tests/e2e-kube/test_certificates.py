"""Certificates are renewed before they end, and people may use the control API's."""

import base64
import json
import ssl
import subprocess

from kube import CONTROL, get, kubectl, stopwatch, wait_until


def openssl(*arguments, stdin=None):
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def served(cluster, pod):
    """Serial and end of the certificate that a broker shows."""
    pem = ssl.get_server_certificate(cluster.reach(pod, CONTROL), timeout=5)
    return dict(line.split("=", 1) for line in openssl("x509", "-noout", "-serial", "-enddate", stdin=pem).splitlines())


def test_the_nodes_certificate_is_of_the_clusters_own_authority(cluster, tmp_path):
    ca, nodes = cluster.secret("ca"), cluster.secret("nodes")
    (tmp_path / "ca").write_text(ca["tls.crt"])
    openssl("verify", "-CAfile", str(tmp_path / "ca"), stdin=nodes["tls.crt"])
    # The key of the authority is in no pod.
    for pod in cluster.pods().values():
        assert "raftmq-ca" not in json.dumps(pod["spec"])
    assert "ownerReferences" in get("secrets", "raftmq-ca", cluster.namespace)["metadata"]


def test_one_that_ends_soon_is_renewed_and_the_pods_follow_one_by_one(cluster, tmp_path):
    """The operator takes a third of a year for soon; here the Secret gets one of the same authority for ten days."""
    ca, nodes = cluster.secret("ca"), cluster.secret("nodes")
    for name, text in (("ca.crt", ca["tls.crt"]), ("ca.key", ca["tls.key"]), ("old.crt", nodes["tls.crt"])):
        (tmp_path / name).write_text(text)
    names = openssl("x509", "-noout", "-ext", "subjectAltName", "-in", str(tmp_path / "old.crt")).splitlines()[1].strip()
    (tmp_path / "ext").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n")
    subject = openssl("x509", "-noout", "-subject", "-nameopt", "compat", "-in", str(tmp_path / "old.crt")).strip().removeprefix("subject=")
    request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject.strip() or "/"]
    openssl(*request, "-keyout", str(tmp_path / "new.key"), "-out", str(tmp_path / "csr"))
    openssl(
        "x509", "-req", "-in", str(tmp_path / "csr"), "-CA", str(tmp_path / "ca.crt"), "-CAkey", str(tmp_path / "ca.key"),
        "-days", "10", "-extfile", str(tmp_path / "ext"), "-out", str(tmp_path / "new.crt"),
    )
    soon = (tmp_path / "new.crt").read_text()
    before = {pod: served(cluster, pod) for pod in range(3)}
    identities = {name: m["id"] for name, m in cluster.members().items()}
    data = {"tls.crt": soon, "tls.key": (tmp_path / "new.key").read_text()}
    data = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    seconds = stopwatch()
    kubectl("patch", "secret", "raftmq-nodes", "-n", cluster.namespace, "--type=merge", "-p", json.dumps({"data": data}))
    wait_until("another certificate in the Secret", lambda: cluster.secret("nodes")["tls.crt"] not in (soon, nodes["tls.crt"]), 30, 0.2)
    wait_until("the pods are replaced", lambda: cluster.settled(3) and all(
        served(cluster, pod)["serial"] != before[pod]["serial"] for pod in range(3)), 180, 0.5)
    print(f"renewed and rolled in {seconds():.1f} s")
    issued = cluster.secret("nodes")["tls.crt"]
    openssl("x509", "-noout", "-checkend", str(300 * 86400), stdin=issued)
    serial = openssl("x509", "-noout", "-serial", stdin=issued).strip().removeprefix("serial=")
    assert {served(cluster, pod)["serial"] for pod in range(3)} == {serial}
    assert {name: m["id"] for name, m in cluster.members().items()} == identities
    assert cluster.try_message(0, 2)
